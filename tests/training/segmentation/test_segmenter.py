"""Training segmentation networks: the loss, devices, resumes, what they learn, the command line."""

import json

import numpy as np
import pytest
import tensorflow as tf

import train
from dnnlib.data import channels
from dnnlib.tflib.distribute import Draws
from dnnlib.util import UserError
from metrics.evaluation import segmenter_evaluation
from tests.tools import labelled_pictures as tools
from tests.tools.labelled_pictures import begun, coloured_dataset, segmenter, tiny
from training.segmentation.labeller import Labeller
from training.segmentation.segmenter import NETWORK, balanced_weights
from training.segmentation.stream import Source, process_pictures

pytestmark = pytest.mark.usefixtures("eagerly")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return coloured_dataset(tmp_path_factory.mktemp("data") / "coloured")


@pytest.mark.parametrize("weights, mode", [("none", "eagerly"), ("balanced", "compiled")])
def test_the_loss_is_the_weighted_mean_over_labelled_pixels(data, request, weights, mode):
    """Against NumPy, from the network's own logits; padding added by a zoom is left out."""
    request.getfixturevalue(mode)
    method, progress = begun(tiny(data, class_weights=weights, zoom=1.5))
    stage = method.stage(progress)
    batch = method.next_batch(stage, progress)
    rgb, label_maps = process_pictures(batch, Draws(5, 0, 8), method.config, None)
    logits, _ = method.networks[NETWORK].train_call(rgb)
    logits, label_maps = logits.numpy().astype(np.float64), label_maps.numpy()
    counted = label_maps != channels.IGNORE
    assert 0 < counted.mean() < 1
    log_sums = np.log(np.exp(logits).sum(axis=-1))
    chosen = np.take_along_axis(logits, np.where(counted, label_maps, 0)[..., None], -1)[..., 0]
    table = np.ones(3) if weights == "none" else balanced_weights(method.sources, 3)
    pixel_weights = table[np.where(counted, label_maps, 0)] * counted
    expected = (pixel_weights * (log_sums - chosen)).sum() / pixel_weights.sum()
    report = method.step(batch, stage, 0)
    np.testing.assert_allclose(report["Loss/cross_entropy"], expected, rtol=1e-5)
    hits = (logits.argmax(-1) == label_maps) & counted
    np.testing.assert_allclose(report["Training/accuracy"], hits.sum() / counted.sum(), rtol=1e-6)


class Maps(list):
    """Label maps with a Source's interface."""

    def read(self, number):
        return None, self[number]


def test_weights_of_rare_classes():
    """Median frequency over frequency; a class's frequency is over the pictures that show it, with
    sources weighted as they are mixed. Ignored pixels are left out; no weight exceeds ten."""
    half, empty = np.uint8([[0, 0], [1, 1]]), np.zeros((2, 2), np.uint8)
    seldom = [Source(Maps([half, *[empty] * 9]), range(10), 8)]  # half of one picture in ten
    background = 38 / 40
    np.testing.assert_allclose(balanced_weights(seldom, 3),
                               [(background + 0.5) / 2 / background, (background + 0.5) / 1, 1])
    ignored = np.uint8([[255, 0], [1, 1]])  # two of three pixels
    mixed = [Source(Maps([half]), range(1), 6), Source(Maps([ignored] * 5), range(5), 2)]
    one = (6 * 2 + 2 * 2) / (6 * 4 + 2 * 3)
    np.testing.assert_allclose(balanced_weights(mixed, 2), [0.5 / (1 - one), 0.5 / one])
    dot = np.zeros((16, 16), np.uint8)
    dot[0, 0] = 1
    assert balanced_weights([Source(Maps([dot]), range(1), 8)], 2)[1] == 10


def test_a_labeller_labels_photos_of_its_own_size(data):
    labeller = object.__new__(Labeller)
    network = begun(tiny(data))[0].networks[NETWORK]
    labeller.resolution, labeller.minibatch, labeller._infer = 16, 4, network
    for function in (labeller.label_maps, labeller.probabilities):
        with pytest.raises(ValueError, match="for a network of 16"):
            function(np.zeros((1, 32, 32, 3), np.uint8))
    labeller._infer = lambda rgb: tf.nn.softmax(network(tf.cast(rgb, tf.float32) / 127.5 - 1))
    photos = np.zeros((5, 16, 16, 3), np.uint8)
    assert labeller.label_maps(photos).shape == (5, 16, 16)
    # A diverged network is reported, and not drawn as background.
    labeller.path = "S.safetensors"
    network.vars["logits/bias"].assign([np.nan] * 3)
    for function in (labeller.label_maps, labeller.probabilities):
        with pytest.raises(UserError, match=r"S\.safetensors: .* not finite, it has diverged: use"):
            function(photos)


@pytest.mark.slow
def test_it_learns_what_colours_mean(data, compiled, tmp_path):
    """A few seconds suffice for nearly every pixel; the best snapshot has the highest mIoU."""
    config = tiny(data, kimg=0.8, tick_kimg=0.2)
    validation = segmenter(config).sources[0].pictures
    training = tools.train(config, tmp_path / "run", evaluate=segmenter_evaluation(validation, 8))
    ticks = [json.loads(line) for line in (tmp_path / "run/stats.jsonl").read_text().splitlines()
             if '"tick"' in line]
    scores = [tick["Metrics/miou"] for tick in ticks if "Metrics/miou" in tick]
    assert scores[-1] > 0.9 and scores[-1] > scores[0]
    best = json.loads((tmp_path / "run/best.json").read_text())
    assert best["value"] == max(scores) and best["metric"] == "miou"
    assert (tmp_path / "run/fakes000000.000.png").is_file()
    # The run's labeller gives the same maps.
    labeller = Labeller.load(tmp_path / "run")
    assert labeller.classes == tools.CLASSES and labeller.resolution == 16
    rgb, truth = (np.stack(parts) for parts in zip(*map(validation.read, range(20))))
    maps = labeller.label_maps(rgb)
    assert (maps == truth).mean() > 0.95
    np.testing.assert_array_equal(labeller.probabilities(rgb).argmax(-1), maps)
    assert training.method.predict(rgb).dtype == np.uint8


def failure(*options):
    """Return the message of a command that fails."""
    with pytest.raises(UserError) as error:
        train.main(["--variant=segmenter", "--device=cpu", *options])
    return str(error.value)


def test_options_that_do_not_fit_are_refused(data, tmp_path):
    common = f"--data={data}", f"--results={tmp_path}", "--architecture=unet", "--preset=tiny"
    other = coloured_dataset(tmp_path / "other")
    content = json.loads((other / "dataset.json").read_text())
    (other / "dataset.json").write_text(json.dumps({**content, "classes": ["red", "blue"]}))
    assert "has the classes red, blue" in failure(*common, f"--data2={other}")
    assert "--mix: there is no --data2" in failure(*common, "--mix=0.2")
    assert "U-Net has none" in failure(*common, "--output-stride=8")
    assert "none of one source" in failure(*common, f"--data2={data}", "--mix=0.01")
    assert "--minibatch=1: the pooled features' batch norm has a single value then; 2" in failure(
        f"--data={data}", "--minibatch=1")
    assert "32 at least; give --architecture=unet" in failure(f"--data={data}")
    assert "goes up to 16" in failure(*common, "--resolution=32")
    assert "has 24 training pictures" in failure(*common, "--num-images=25")
    assert "--init-from: without effect" in failure(*common, "--init-from=3")
    assert "unrecognized arguments: --fmap-base" in failure(*common, "--fmap-base=3")
    assert "invalid choice: 'small-32'" in failure(f"--data={data}", "--preset=small-32")


def test_the_plan(data, tmp_path, capsys):
    assert train.main([f"--data={data}", f"--results={tmp_path}", "--variant=segmenter",
                       "--preset=tiny", "--device=cpu", "--kimg=0.032", "--num-images=10",
                       "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "16 of 10 pictures" in said and "unet for 2 classes at 16x16" in said
    assert "2 steps of 16" in said


def test_a_segmenter_that_selects_is_checked_before_devices_are_made(data, tmp_path, capsys):
    """Until then train.py reads only its header: creating a variable would fix the devices."""
    tools.train(tiny(data, kimg=0.008, tick_kimg=0.008), tmp_path / "segmenter")
    command = ["--variant=2d", "--preset=demo-32", f"--data={data}", "--resolution=16", "--gpus=2",
               "--device=cpu", f"--results={tmp_path}", f"--segmenter={tmp_path / 'segmenter'}",
               "--select-by=labels", "--dry-run"]
    assert train.main([*command, "--metrics=kid8"]) == 0
    assert "would make a new run" in capsys.readouterr().out
    with pytest.raises(UserError, match="takes photos of 16x16; the training's images are 8x8"):
        train.main([*command[:3], "--resolution=8", *command[4:], "--metrics=kid8"])
    with pytest.raises(UserError, match="--segmenter: it is for --select-by=labels"):
        train.main([*(part for part in command if part != "--select-by=labels"), "--metrics=kid8"])


def test_help_is_of_the_variant(capsys):
    with pytest.raises(SystemExit):
        train.main(["--variant=segmenter", "--help"])
    said = capsys.readouterr().out
    assert "--output-stride" in said and "--r1-gamma" not in said
    with pytest.raises(UserError, match="invalid choice: 'segmentr'"):
        train.main(["--variant=segmentr"])
