"""A run with --augment: p goes on after stops, growths and from snapshots, and is shown."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from dnnlib.data.dataset import open_dataset
from dnnlib.data.pictures import GAP
from tests.conftest import TINY
from tests.tools.data_helpers import read_jsonl, tagged_and_untagged
from tests.tools.training_runs import ONE_DEVICE, begin, stop_after
from training import state
from training.config import TrainingConfig
from training.gan import augmentation
from training.snapshots import read_header
from training.stylegan import StyleGan

pytestmark = pytest.mark.usefixtures("eagerly")

FINAL = "network-final.safetensors"
# With this target p rises by 0.32 at every update.
RISING = dict(augment="ada", ada_target=-1.0, ada_kimg=0.1)
PLAIN = dict(variant="rgb", resolution=4)  # one step to compile, and the fastest


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Make a data set at 8x8 with four classes."""
    return tagged_and_untagged(tmp_path_factory.mktemp("data"), 8, 12)[0]


def config_for(data, **changes):
    return TrainingConfig(**{**TINY, "data": str(data), "variant": "2d", "resolution": 8,
                             "initial_resolution": 8, **RISING, **changes})


@pytest.fixture(scope="module")
def whole_run(data, tmp_path_factory):
    """Return a finished run of all three stages."""
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    assert begin(config_for(data), run_dir).run() is True
    return run_dir


def probabilities(run_dir, kimg):
    """Return {critic: p} of the snapshot at a kimg."""
    return read_header(run_dir / f"network-snapshot-{kimg:010.3f}.safetensors")["augment_p"]


@pytest.mark.slow
def test_p_rises_every_four_minibatches_and_new_critics_inherit_it(whole_run):
    """The RGB stage has eight; in the other stages no critic has four."""
    approx = pytest.approx
    assert probabilities(whole_run, 0.016) == {"rgb": 0.0}
    assert probabilities(whole_run, 0.032) == {"rgb": approx(0.32)}
    assert probabilities(whole_run, 0.064) == {"rgb": approx(0.64)}
    assert probabilities(whole_run, 0.080) == {"rgb": approx(0.64), "joint": approx(0.64)}
    assert read_header(whole_run / FINAL)["augment_p"] == {
        "rgb": approx(0.64), "joint": approx(0.64)}


@pytest.mark.slow
def test_a_run_shows_its_augmentation(whole_run):
    ticks = [e for e in read_jsonl(whole_run / "stats.jsonl") if e["event"] == "tick"]
    assert ticks[2]["Augment/p/rgb"] == pytest.approx(0.32)
    assert {"Augment/p/joint", "Augment/r_t/joint", "Loss/signs/real/joint"} <= set(ticks[-1])
    page = (whole_run / "index.html").read_text()
    assert "probability p of each augmentation" in page and "r_t/joint" in page
    assert "augmented.png" in page
    shown, reals = (np.asarray(Image.open(whole_run / name))
                    for name in ("augmented.png", "reals-classes.png"))
    assert shown.shape == reals.shape == (8 * (96 + GAP) + GAP, 4 * (2 * 96 + GAP) + GAP, 3)
    assert 0.3 < (shown != reals).mean() < 0.9  # the grey between the pictures is the same


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [2, 6])
def test_stopped_between_two_updates_of_p_equals_undisturbed(data, tmp_path, stop_at):
    """After 2 minibatches p is 0, after 6 it is not; the state has the signs of two minibatches."""
    config = config_for(data, **PLAIN)
    digests = []
    for name in ("peaceful", "stopped"):
        training = begin(config, tmp_path / name)
        if name == "stopped":
            stop_after(training, stop_at)
            assert training.run() is False
            training = begin(config, tmp_path / name)
            values = training.method.augmentations["rgb"].get_arrays()
            assert values["minibatches"] == 2 and values["sign_sum"] != 0
            assert values["p"] == pytest.approx(0.32 * (stop_at > 4))
        assert training.run() is True
        digests.append(read_header(tmp_path / name / FINAL)["digests"])
    assert digests[0] == digests[1]


@pytest.mark.parametrize("before, after, p", [
    ("none", "ada", 0.0), *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        ("ada", "fixed:0.5", 0.5), ("none", "fixed:0.5", 0.5), ("ada", "none", None),
        ("fixed:0.5", "ada", 0.5)))])
def test_another_augmentation_continues_from_any_state(data, tmp_path, before, after, p):
    """As with --override; a state without augmentation equals one of an older version."""
    def config(augment):
        rising = RISING if augment == "ada" else dict(ada_target=0.6, ada_kimg=500.0)
        return config_for(data, **PLAIN, **{**rising, "augment": augment})

    training = begin(config(before), tmp_path / "run")
    stop_after(training, 3)
    training.run()
    training = begin(config(after), tmp_path / "run")
    assert training.progress.step == 3
    found = {critic: float(one.values["p"].numpy())
             for critic, one in training.method.augmentations.items()}
    assert found == ({} if p is None else {"rgb": p})


@pytest.mark.slow
def test_a_state_of_an_older_version_has_no_buffers(data, tmp_path):
    training = begin(config_for(data, **PLAIN), tmp_path / "run")
    stop_after(training, 1)
    training.run()
    header, groups = state.load_newest_state(tmp_path / "run", training.log)
    assert set(groups) == {"G", "Gs", "D_rgb", "opt_G", "opt_D_rgb", "buf_augment_rgb"}
    del header["buffers"], groups["buf_augment_rgb"]
    restored = state.restored_state(header, groups, "state", state.new_optimizers)
    assert restored.buffers == {}
    training.method.resume(restored)
    assert training.method.augmentations["rgb"].get_arrays()["minibatches"] == 0


@pytest.mark.slow
def test_a_training_starts_with_the_snapshots_p(data, whole_run):
    origin = whole_run / "network-snapshot-000000.064.safetensors"
    for augment, p in (("ada", 0.64), ("fixed:0.25", 0.25), ("none", None)):
        rising = RISING if augment == "ada" else dict(ada_target=0.6, ada_kimg=500.0)
        config = config_for(data, **{**rising, "augment": augment})
        method = StyleGan(config, open_dataset(data), ONE_DEVICE, origin=origin)
        method.begin()
        critics = ["rgb"]
        for stage in ("binary", "classes"):
            found = {name: float(one.values["p"].numpy())
                     for name, one in method.augmentations.items()}
            assert found == ({} if p is None else dict.fromkeys(critics, pytest.approx(p)))
            method.enter(method.first_moment(stage))
            critics = ["rgb", "joint"]


@pytest.mark.slow
def test_nothing_is_shown_without_augmentation(data, tmp_path):
    config = dataclasses.replace(config_for(data, **PLAIN), augment="none", ada_target=0.6,
                                 ada_kimg=500.0)
    training = begin(config, tmp_path / "run")
    stop_after(training, 2)
    training.run()
    assert (tmp_path / "run" / "reals.png").is_file()
    assert not (tmp_path / "run" / "augmented.png").exists()
    page = (tmp_path / "run" / "index.html").read_text()
    assert "of each augmentation" not in page and "augmented.png" not in page
    (tick,) = [e for e in read_jsonl(tmp_path / "run" / "stats.jsonl") if e["event"] == "tick"]
    assert -1 <= tick["Loss/signs/real/rgb"] <= 1
    assert not [name for name in tick if name.startswith("Augment/")]


def test_timed_steps_have_a_typical_p(data):
    config = config_for(data)
    typical = augmentation.typical_augmentation
    assert float(typical(config).values["p"].numpy()) == 0.5
    fixed = dict(ada_target=0.6, ada_kimg=500.0)
    assert float(typical(config_for(data, **{**fixed, "augment": "fixed:0.25"}))
                 .values["p"].numpy()) == 0.25
    assert typical(config_for(data, **{**fixed, "augment": "none"})) is None
