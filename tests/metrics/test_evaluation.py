"""metrics/evaluation.py: a network's images as the metrics read them."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from dnnlib.data.channels import to_label_map
from dnnlib.data.dataset import open_dataset
from dnnlib.data.pictures import upscale_nearest
from dnnlib.util import UserError
from metrics.evaluation import (
    labeller_warnings,
    network_stream,
    training_evaluation,
    training_metrics,
)
from tests.tools.data_helpers import make_dataset
from tests.tools.metrics_helpers import StubDetector
from training.sampler import Sampler
from training.segmentation.labeller import LabellerInfo
from training.snapshots import Snapshot


def generated(paint, count, minibatch, num_classes=0, resolution=8, signed=False):
    """Return (rgb, maps) of a network at 4x4 of 8x8 whose images are paint(noise)."""
    class Network:
        latent_size = 2
        label_size = 0

        def mapping(self, latents, labels):
            return latents[:, None]

        def synthesis(self, dlatents, at, fade, noise):
            return paint(noise)
    Network.resolution = resolution
    header = {"classes": ["c"] * num_classes, "lod": {"resolution": 4, "fade": 0.0}}
    sampler = Sampler(Snapshot({"Gs": Network()}, header))
    rgb, maps = zip(*network_stream(sampler, 0, minibatch, signed=signed)(count))
    return np.concatenate(rgb), np.concatenate(maps) if num_classes else maps


def test_images_are_rounded_as_the_metrics_do_and_upscaled():
    values = [-2.0, -1.0, -0.999, 0.0, 0.0039, 0.9999, 1.5]
    images, maps = generated(
        lambda noise: tf.tile(tf.constant(values)[:, None, None, None], [1, 4, 4, 3]), 7, 7)
    assert images[:, 0, 0, 0].tolist() == [0, 0, 0, 128, 128, 255, 255]
    assert images.shape == (7, 8, 8, 3) and images.dtype == np.uint8 and maps == (None,)


def test_maps_are_the_largest_above_zero_upscaled_like_the_colours():
    drawn = []

    def paint(noise):
        values = tf.round(noise(0, 4, 4) * 2 + noise(1, 4, 4) * tf.range(-1.0, 4.0)) / 2
        tf.numpy_function(lambda x: drawn.append(x), [values], [])
        return tf.clip_by_value(values, -9, 9)
    rgb, maps = generated(paint, 10, 6, num_classes=2)
    values = np.concatenate(drawn)[:10]
    np.testing.assert_array_equal(maps, upscale_nearest(to_label_map(values[..., 3:]), 8))
    assert set(np.unique(maps)) == {0, 1, 2} and maps.dtype == np.uint8
    assert rgb.shape == (10, 8, 8, 3)


def test_signed_maps_decide_the_labels():
    def paint(noise):
        return noise(0, 4, 4) + noise(1, 4, 4) * tf.range(-1.0, 4.0)
    (rgb, labels), (again, signed) = (
        generated(paint, 5, 3, num_classes=2, signed=asked) for asked in (False, True))
    assert signed.shape == (5, 8, 8, 2) and signed.dtype == np.float32
    np.testing.assert_array_equal(to_label_map(signed), labels)
    np.testing.assert_array_equal(rgb, again)


def test_upscaling_repeats_pixels():
    image = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    big = upscale_nearest(image, 6)
    np.testing.assert_array_equal(big[0, ::3, ::3], image[0])
    np.testing.assert_array_equal(big[0, 2, 5], image[0, 0, 1])
    with pytest.raises(ValueError, match="cannot be repeated"):
        upscale_nearest(image, 5)


class PairNetwork:
    """Draws one class everywhere, on black."""

    latent_size, label_size, resolution = 2, 0, 4

    def __init__(self, num_classes):
        self.num_classes = num_classes

    def mapping(self, latents, labels):
        return latents[:, None]

    def synthesis(self, dlatents, at, fade, noise):
        values = tf.constant([-1.0] * 3 + [0.5] * self.num_classes)
        return tf.ones([tf.shape(dlatents)[0], 4, 4, 1]) * values


def test_a_trainings_metrics_of_pairs_start_with_the_classes(tmp_path, rng, monkeypatch):
    images = rng.integers(0, 256, (6, 5, 4, 4), np.uint8)
    data = {name: open_dataset(make_dataset(tmp_path / name, {"train": part, "val": part}, classes))
            for name, part, classes in (("maps", images, ("a", "b")), ("rgb", images[:, :3], ()))}
    monkeypatch.setattr("metrics.networks.inception.load_detector",
                        lambda *options, **more: StubDetector())
    options = {"resolution": 4, "minibatch": 2, "seed": 0, "weights": None,
               "log": lambda line: None}
    metrics = training_metrics("kid4_trainval_pair,kid4")
    evaluate = training_evaluation(metrics, data["maps"], **options)

    def names(classes):
        header = {"classes": classes, "lod": {"resolution": 4, "fade": 0.0}}
        return set(evaluate(Snapshot({"Gs": PairNetwork(len(classes))}, header)))
    assert names([]) == names(["binary"]) == {"kid4", "kid4_std"}
    assert names(["a", "b"]) == {"kid4", "kid4_std", "kid4_trainval_pair", "kid4_trainval_pair_std"}
    with pytest.raises(UserError, match=r"kid4_trainval_pair of pairs, but .*rgb has no segm"):
        training_evaluation(metrics, data["rgb"], **options)


def test_too_few_reals_are_noticed_at_the_start(tmp_path, rng):
    images = rng.integers(0, 256, (3, 3, 4, 4), np.uint8)
    data = open_dataset(make_dataset(tmp_path / "few", {"train": images, "val": images[:1]}, ()))
    with pytest.raises(UserError, match="kid4: 1 reals; it takes 2 at least"):
        training_evaluation(training_metrics("kid4"), data, resolution=4, minibatch=2, seed=0,
                            weights=None, log=print)


class GreenLabeller:
    """Labels a whole photo as the second class."""

    classes, resolution, digest, path, header = ("a", "b"), 4, "green", "green", {}

    def label_maps(self, rgb):
        return np.full(rgb.shape[:3], 2, np.uint8)


def test_a_segmenter_trained_on_the_reals_is_named():
    """Validation photos are held back; of another data set it has seen none."""
    data = SimpleNamespace(path="data", digest="1")

    def warnings(name, learned):
        labeller = LabellerInfo(Path("S"), ("a",), 4, "2", {"dataset": {"digest": learned}})
        return labeller_warnings(training_metrics(name, segmenter="S"), labeller, data)
    assert warnings("kid4,labels4_trainval", "1") == [
        "warning: S has learned from photos of data: it labels these better than others, and "
        "labels4_trainval takes its labels of them as the ceiling"]
    assert warnings("kid4_trainval,labels4", "1") == warnings("labels4_trainval", "3") == []
    assert labeller_warnings(training_metrics("kid4_trainval"), None, data) == []


def test_a_trainings_labels_are_compared_with_a_segmenters(tmp_path, rng, monkeypatch):
    """Once the classes are drawn; this network draws only the first class."""
    images = rng.integers(0, 256, (6, 5, 4, 4), np.uint8)
    data = open_dataset(make_dataset(tmp_path / "maps", {"train": images, "val": images},
                                     ("a", "b")))
    monkeypatch.setattr("metrics.networks.inception.load_detector",
                        lambda *options, **more: StubDetector())
    monkeypatch.setattr("metrics.evaluation.Labeller", lambda info, minibatch: GreenLabeller())
    with pytest.raises(UserError, match="labels4 needs --segmenter"):
        training_metrics("kid4,labels4")
    evaluate = training_evaluation(
        training_metrics("kid4,labels4", None, "green"), data, resolution=4, minibatch=2, seed=0,
        weights=None, log=lambda line: None, labeller="green")

    def scores(classes):
        header = {"classes": classes, "lod": {"resolution": 4, "fade": 0.0}}
        return evaluate(Snapshot({"Gs": PairNetwork(len(classes))}, header))
    assert set(scores([])) == {"kid4", "kid4_std"}
    values = scores(["a", "b"])
    assert values["labels4"] == 0 and 0 < values["labels4_accuracy_real"] < 1
    # Without Inception's weights these are all scores.
    def refuse(*options, **more):
        raise UserError("no route")
    monkeypatch.setattr("metrics.networks.inception.load_detector", refuse)
    lines = []
    evaluate = training_evaluation(
        training_metrics("kid4,labels4", None, "green"), data, resolution=4, minibatch=2, seed=0,
        weights=None, log=lines.append, labeller="green")
    assert lines == ["warning: no kid4 during training, the newest snapshot counts as best: "
                     "no route"]
    assert scores(["a", "b"]) == {name: value for name, value in values.items()
                                  if name.startswith("labels4")}


def test_metrics_of_a_training(tmp_path):
    weights = tmp_path / "w.npz"
    weights.touch()
    assert training_metrics("none") == []
    assert [metric.name for metric in training_metrics("fid1k,is1k", weights)] == ["fid1k", "is1k"]
    for text, path, message in (("ppl_wfull", None, "ppl_wfull is not computed during training"),
                                ("classes9", None, "classes9 is not computed during training"),
                                ("maps9", None, "maps9 is not computed during training"),
                                ("fid9", "nowhere", "--inception=nowhere: no such file"),
                                ("fid1", None, "fid1: 1 fakes; it takes 2 at least"),
                                ("none", weights, "needs no Inception weights"),
                                ("fud1", None, "unknown metric 'fud1'")):
        with pytest.raises(UserError, match=message):
            training_metrics(text, path)
