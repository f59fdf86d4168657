"""Left and right in mirrored photos: every pixel that a critic sees."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import train
from dnnlib.data import channels, pictures
from dnnlib.data.dataset import open_dataset
from dnnlib.tflib.distribute import Draws
from dnnlib.util import UserError
from tests.conftest import TINY
from tests.tools.data_helpers import make_dataset, one_hot
from tests.tools.gan_steps import ONE_DEVICE
from training.config import TrainingConfig
from training.dataset import process_reals
from training.gan.init_from import enter_stage, new_state
from training.gan.schedule import make_stage
from training.run import directory, launch
from training.run.options import given_options, parse_training_options
from training.stylegan import StyleGan

EYES = ("l_eye", "r_eye", "nose")


def faces(num, side=16):
    """Return photos uint8 [N, H, W, 6]: left eye in columns 11-12, right eye in 2, and a nose."""
    labels = np.zeros((num, side, side), np.uint8)
    labels[:, 4:6, 11:13], labels[:, 4:6, 2], labels[:, 8:12, 7] = 1, 2, 3
    colours = np.random.default_rng(0).integers(0, 256, (num, side, side, 3), np.uint8)
    return np.concatenate([colours, one_hot(labels, 3)], axis=-1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    images = faces(40).transpose(0, 3, 1, 2)
    return make_dataset(tmp_path_factory.mktemp("data") / "faces", {"train": images}, EYES)


def columns(maps):
    """Return the columns [class][column, ...] that show each class, of float maps [H, W, C]."""
    return [np.flatnonzero((maps[..., i] > 0).any(axis=0)).tolist() for i in range(maps.shape[-1])]


def test_a_mirrored_left_eye_is_a_right_one():
    images = faces(2)
    flip = tf.constant([True, False])
    seen = process_reals(tf.constant(images), flip=flip, mirrored_order=[1, 0, 2]).numpy()
    plain = process_reals(tf.constant(images)).numpy()
    assert columns(seen[0, ..., 3:]) == [[13], [3, 4], [8]]
    assert columns(seen[1, ..., 3:]) == [[11, 12], [2], [7]]
    np.testing.assert_array_equal(seen[0], plain[0][:, ::-1][..., [0, 1, 2, 4, 3, 5]])
    np.testing.assert_array_equal(seen[1], plain[1])


def test_two_pairs_and_noise_that_stays_where_it_is(rng):
    """Noise stays with the map that the critic sees, not with the map it was swapped from."""
    images = tf.constant(rng.integers(0, 256, (3, 8, 8, 8), np.uint8))
    noise = tf.constant(rng.standard_normal((3, 8, 8, 5)), tf.float32)
    seen = process_reals(images, 0.25, tf.constant([True] * 3), noise, [4, 2, 1, 3, 0])
    swapped = tf.gather(images, [0, 1, 2, 7, 5, 4, 6, 3], axis=-1)
    np.testing.assert_array_equal(seen, process_reals(swapped[:, :, ::-1], 0.25, None, noise))


@pytest.fixture(scope="module")
def method(data):
    """Return a training of all three stages that has grown to its last one."""
    config = TrainingConfig(**{**TINY, "data": str(data), "variant": "2d", "map_noise": 0.0})
    state = new_state(config)
    for name in ("binary", "classes"):
        state = enter_stage(state, make_stage(config, 3, name), config)
    method = StyleGan(config, open_dataset(data), ONE_DEVICE)
    method.networks, method.optimizers = state.networks, state.optimizers
    return method


def test_the_critics_of_a_training(method):
    """The image critic sees no classes; the binary map covers both eyes and has no sides."""
    stage = make_stage(method.config, 3, "classes")
    for critic in stage.critics:
        turn = method._gan_step(critic, stage, None)
        images = faces(8)[..., :critic.channels]
        seen = turn._process_reals(tf.constant(images), Draws(3, 0, 8), 0.0).numpy()
        shown = [columns(image[..., 3:]) for image in seen]
        if critic.channels == 3:
            assert turn.mirrored_order is None
        else:
            assert turn.mirrored_order == [1, 0, 2]
            assert {str(s) for s in shown} == {"[[11, 12], [2], [7]]", "[[13], [3, 4], [8]]"}
    binary = make_stage(method.config, 3, "binary")
    assert [method._mirrored_order(binary, critic) for critic in binary.critics] == [None] * 2


def test_pictures_of_reals_are_as_stored(method, tmp_path):
    stage = make_stage(method.config, 3, "classes")
    method.draw(stage, tmp_path, "0")
    with Image.open(tmp_path / "reals-classes.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    for label, where in ((1, {11, 12}), (2, {2})):
        found = (pixels == channels.palette(3)[label]).all(axis=-1)
        # Photos are noise, so only a whole map (two rows) has this many pixels of the eye's colour.
        shown = np.flatnonzero(found.sum(axis=0) >= 8) - pictures.GAP
        factor = pictures.SMALLEST // 16  # a photo and its map are enlarged, followed by a gap
        assert {column % (32 * factor + pictures.GAP) // factor - 16 for column in shown} == where


def test_options_decide_what_is_swapped(method, monkeypatch):
    whole, stage = method.config, make_stage(method.config, 3, "classes")
    for changes, order in ((dict(mirror=False), None), (dict(mirror_pairs="none"), None),
                           (dict(mirror_pairs="r_eye:nose"), [0, 2, 1])):
        monkeypatch.setattr(method, "config", dataclasses.replace(whole, **changes))
        assert method._mirrored_order(stage, stage.critics[1]) == order


def dry_run(capsys, data, tmp_path, *options):
    """Return the output of --dry-run."""
    assert train.main([f"--data={data}", "--device=cpu", "--preset=demo-32", "--resolution=16",
                       "--metrics=none", f"--results={tmp_path}", "--dry-run", *options]) == 0
    return capsys.readouterr().out


def test_the_command_prints_what_it_swaps(data, tmp_path, capsys):
    assert "mirrored photos swap the classes l_eye:r_eye\n" in dry_run(capsys, data, tmp_path)
    assert "warning: l_eye, r_eye: named after a side" in dry_run(
        capsys, data, tmp_path, "--mirror-pairs=none")
    assert "_eye" not in dry_run(capsys, data, tmp_path, "--no-mirror")
    for options, message in (
            (["--no-mirror", "--mirror-pairs=l_eye:r_eye"], "--mirror-pairs: --no-mirror flips no"),
            (["--variant=rgb", "--mirror-pairs=none"], "--mirror-pairs: without effect"),
            (["--mirror-pairs=l_eye:nase"], "they are l_eye, r_eye, nose")):
        with pytest.raises(UserError, match=message):
            dry_run(capsys, data, tmp_path, *options)


@pytest.mark.parametrize("stored, option, pairs", [
    (dict(mirror=False, mirror_pairs="none"), "--mirror", None),
    (dict(mirror_pairs="l_eye:r_eye"), "--no-mirror", None),
    (dict(mirror_pairs="none"), "--mirror", "none")])
def test_a_run_that_starts_to_mirror_swaps(data, tmp_path, stored, option, pairs):
    """Stored pairs are used with the stored --mirror; None: the pairs that the names show."""
    config = TrainingConfig(**{**TINY, "data": str(data), "variant": "2d", **stored})
    run = directory.make_run(None, tmp_path, "2d-faces-16", config.to_json())
    options = parse_training_options([f"--run={run}", option, "--override"])
    assert launch.choose_config(options, given_options(options)).mirror_pairs == pairs


def test_runs_of_earlier_versions_go_on_unless_they_have_sides(data, tmp_path):
    """With sides they did not swap, so the user has to decide."""
    config = TrainingConfig(**{**TINY, "data": str(data), "mirror_pairs": "none"})
    record = {**config.to_json(), "init_from": None, "data_digest": "d"}
    old = {name: value for name, value in record.items() if name != "mirror_pairs"}
    run = directory.make_run(None, tmp_path, "2d-faces-16", old)
    assert directory.find_run(None, tmp_path, record) == run
    swapping = {**record, "mirror_pairs": "l_eye:r_eye"}
    for where in (None, run):
        with pytest.raises(UserError, match=r"mirror_pairs: none there, l_eye:r_eye now.*continue "
                           r"it, --run=.*00000-2d-faces-16 --override.*another --run to start"):
            directory.find_run(where, tmp_path, swapping)
    assert directory.find_run(run, tmp_path, swapping, override=True) == run
    assert directory.find_run(None, tmp_path, {**swapping, "seed": 5}) is None
    # A run of this version stores what it swaps: other pairs belong to another run.
    (run / "training_options.json").write_text(json.dumps(swapping))
    assert directory.find_run(None, tmp_path, record) is None
    assert directory.find_run(None, tmp_path, swapping) == run
