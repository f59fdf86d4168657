"""Features: streaming statistics, batches, the cache, and where images come from."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from dnnlib.data.channels import to_label_map
from dnnlib.data.dataset_info import DatasetInfo
from dnnlib.data.pictures import save_label_png, save_png
from dnnlib.util import UserError
from metrics.fakes import network_fakes, sample_noise, upscale_nearest
from metrics.features import (
    FeatureSet,
    Statistics,
    fake_features,
    minibatches,
    source_areas,
    source_features,
)
from metrics.image_sources import ImageSource, folder_source, pair_source, split_source
from tests.tools.data_helpers import one_hot
from tests.tools.metrics_helpers import StubDetector


def images_source(images, digest="content", batch=3):
    """An ImageSource of an array that counts how often it is read."""
    reads = []

    def batches(maps=False):
        reads.append(1)
        for i in range(0, len(images), batch):
            part = images[i:i + batch]
            yield part, part[..., 0] // 86 if maps else None
    source = ImageSource("some", len(images), digest, batches, {}, ("a", "b"))
    return source, reads


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (10, 8, 8, 3), np.uint8)


def test_statistics_equal_numpy(rng):
    x = (rng.standard_normal((500, 6)) * 1e-3 + 1e3).astype(np.float32)
    statistics = Statistics()
    for part in np.split(x, [1, 10, 300]):
        statistics.append(part)
    np.testing.assert_allclose(statistics.mean, x.astype(np.float64).mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(statistics.cov, np.cov(x.astype(np.float64), rowvar=False),
                               rtol=1e-9, atol=1e-18)
    assert statistics.count == 500 and statistics.cov.dtype == np.float64


def test_covariance_of_one_sample():
    statistics = Statistics()
    statistics.append(np.ones((1, 4)))
    with pytest.raises(UserError, match="covariance of 1 samples"):
        _ = statistics.cov


@pytest.mark.parametrize("sizes", [[10], [1] * 10, [3, 3, 3, 1], [4, 6], [9, 1]])
def test_minibatches_are_full_whatever_comes(images, sizes):
    detector = StubDetector()
    parts = list(minibatches(np.split(images, np.cumsum(sizes)[:-1]), detector))
    np.testing.assert_array_equal(np.concatenate(parts), detector.resize(images))
    assert [len(part) for part in parts] == [4, 4, 2]


def test_minibatches_take_images_of_several_sizes(rng):
    sizes = [(8, 8), (5, 9), (8, 8)]
    images = [rng.integers(0, 256, (2, *size, 3), np.uint8) for size in sizes]
    assert [len(part) for part in minibatches(images, StubDetector())] == [4, 2]


def test_minibatches_refuse_floats(images):
    with pytest.raises(ValueError, match="float32"):
        next(minibatches([images.astype(np.float32)], StubDetector()))


def test_fakes_stop_at_the_count(images):
    def generate(count):
        return iter([(images, None), (images, None)])
    assert len(fake_features(generate, 13, StubDetector())) == 13
    with pytest.raises(UserError, match="20 images where 21"):
        fake_features(generate, 21, StubDetector())


@pytest.mark.parametrize("devices", [1, 2, 3])
def test_features_and_areas_of_fakes_in_one_pass(rng, devices):
    """Whatever the devices and batches: every image's features and areas stand in its row."""
    images = rng.integers(0, 256, (41, 8, 8, 3), np.uint8)
    maps = rng.integers(0, 3, (41, 8, 8), np.uint8)

    def generate(count):
        return ((images[i:i + 5], maps[i:i + 5]) for i in range(0, count, 5))
    detector = StubDetector(devices=devices)
    fakes = fake_features(generate, 38, detector, num_classes=2, min_area=0.3)
    np.testing.assert_array_equal(fakes.features, detector.features(detector.resize(images[:38])))
    shares = np.stack([(maps[:38] == label).mean(axis=(1, 2)) for label in (1, 2)], axis=1)
    np.testing.assert_allclose(fakes.areas, shares, rtol=1e-6)
    np.testing.assert_array_equal(fakes.instances, (shares > 0.3).sum(axis=0))
    np.testing.assert_array_equal(fakes[:7].instances, (shares[:7] > 0.3).sum(axis=0))
    alone = fake_features(generate, 38, num_classes=2)
    np.testing.assert_array_equal(alone.areas, fakes.areas)
    assert alone.features is None and len(alone) == 38


def test_real_features_are_cached_by_content(images, tmp_path):
    source, reads = images_source(images)
    first = source_features(source, StubDetector(), tmp_path)
    again = source_features(source, StubDetector(), tmp_path)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, source_features(source, StubDetector()))
    assert len(reads) == 2  # once for the cache, once without one
    assert isinstance(again, np.memmap)

    other = images_source(images[::-1], digest="other")[0]
    assert not np.array_equal(source_features(other, StubDetector(), tmp_path), first)
    detector = StubDetector()
    detector.digest = "other"
    source_features(source, detector, tmp_path)
    assert len(reads) == 3
    assert len(list(tmp_path.iterdir())) == 3


def test_real_areas_are_cached_apart(images, tmp_path):
    source, reads = images_source(images)
    source_features(source, StubDetector(), tmp_path)
    first, again = (source_areas(source, tmp_path) for _ in range(2))
    expected = [(images[..., 0] // 86 == label).mean(axis=(1, 2)) for label in (1, 2)]
    np.testing.assert_allclose(first, np.stack(expected, axis=1), rtol=1e-6)
    np.testing.assert_array_equal(first, again)
    assert len(reads) == 2 and isinstance(again, np.memmap)
    other = images_source(images[::-1], digest="other")[0]
    np.testing.assert_array_equal(source_areas(other, tmp_path), first[::-1])


@pytest.mark.parametrize("damage", [lambda p: p.write_bytes(b""), lambda p: p.write_bytes(b"xy"),
                                    lambda p: p.write_bytes(p.read_bytes()[:-9]),
                                    lambda p: np.save(p, np.zeros((3, 3)))])
def test_a_damaged_cache_is_made_again(images, tmp_path, damage):
    source, reads = images_source(images)
    features = source_features(source, StubDetector(), tmp_path).copy()
    damage(next(tmp_path.iterdir()))
    lines = []
    again = source_features(source, StubDetector(), tmp_path, lines.append)
    np.testing.assert_array_equal(again, features)
    assert len(reads) == 2 and lines[0].startswith("warning:")


def test_an_interrupted_pass_leaves_no_cache(images, tmp_path):
    def broken():
        yield images, None
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        source_features(ImageSource("x", 20, "d", broken, {}), StubDetector(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_statistics_of_a_set(rng):
    features = rng.standard_normal((2500, 3)).astype(np.float32)
    whole = FeatureSet(features)
    for part in (whole, whole[:2000], whole[1::2]):
        np.testing.assert_allclose(part.statistics.cov, np.cov(
            part.features.astype(np.float64), rowvar=False), rtol=1e-10)
    assert [len(part) for part in (whole[:2000], whole[1::2])] == [2000, 1250]
    assert whole[:2500] is whole and whole[:9999] is whole


def test_folder_source(rng, tmp_path):
    big, small = (rng.integers(0, 256, (*size, 3), np.uint8) for size in ((6, 4), (3, 3)))
    Image.fromarray(big).save(tmp_path / "b.png")
    Image.fromarray(small[..., 0]).save(tmp_path / "A.PNG")
    (tmp_path / "notes.txt").write_text("no image")
    source = folder_source(tmp_path)
    first, second = source.batches()
    np.testing.assert_array_equal(first[0][0], np.repeat(small[..., :1], 3, axis=-1))
    np.testing.assert_array_equal(second[0][0], big)
    assert first[1] is None and source.classes == ()
    assert source.count == 2
    Image.fromarray(small[..., 1]).save(tmp_path / "A.PNG")
    assert folder_source(tmp_path).digest != source.digest


def test_folders_that_hold_no_images(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        folder_source(tmp_path / "nowhere")
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match=r"no images directly in this folder; .* images"):
        folder_source(tmp_path)


@pytest.fixture
def pairs(images, tmp_path):
    """A folder of three pairs, as generate.py writes them."""
    for i, image in enumerate(images[:3]):
        save_png(tmp_path / "images" / f"{i:07d}.png", image)
        save_label_png(tmp_path / "labels" / f"{i:07d}.png", image[..., 0] % 3, 2)
    return tmp_path


def test_pair_source(pairs, images):
    source = pair_source(pairs, "images", "labels", ["a", "b"])
    assert source.count == 3 and source.classes == ("a", "b")
    rgb, maps = (np.concatenate(part) for part in zip(*source.batches(maps=True)))
    np.testing.assert_array_equal(rgb, images[:3])
    np.testing.assert_array_equal(maps, images[:3, ..., 0] % 3)
    assert all(maps is None for _, maps in source.batches())
    save_label_png(pairs / "labels" / "0000001.png", np.zeros((8, 8)), 2)
    assert pair_source(pairs, "images", "labels", ["a", "b"]).digest != source.digest


def test_pairs_that_are_none(pairs, images):
    with pytest.raises(UserError, match=r"labels/000000\d.png: label 2, where 1 classes"):
        list(pair_source(pairs, "images", "labels", ["a"]).batches(maps=True))
    save_png(pairs / "labels" / "0000002.png", images[0])
    with pytest.raises(UserError, match=r"0000002.png: a picture of mode RGB"):
        list(pair_source(pairs, "images", "labels", ["a", "b"]).batches(maps=True))
    (pairs / "labels" / "0000001.png").unlink()
    with pytest.raises(UserError, match=r"0000001.png: missing, and 0 more"):
        pair_source(pairs, "images", "labels", ["a", "b"])


def test_split_source(images, tmp_path):
    info = DatasetInfo(tmp_path, "toy", 8, 5, ("a", "b"), {"train": 10, "test": 0}, "abc")
    labels = images[..., 0] % 3
    asked = []

    def read_split(path, split, resolution, only_rgb, indices):
        asked.append((path, split, resolution, only_rgb, indices))
        segmaps = one_hot(labels, 2)
        return iter([images if only_rgb else np.concatenate([images, segmaps], axis=-1)])
    source = split_source(info, "train", 4, read_split)
    assert source.count == 10 and source.digest == "abc train 4" and source.classes == ("a", "b")
    for maps, indices in ((False, None), (True, [3])):
        rgb, label_maps = next(source.batches(maps, indices))
        np.testing.assert_array_equal(rgb, images)
        np.testing.assert_array_equal(label_maps, labels if maps else None)
    assert asked == [(tmp_path, "train", 4, True, None), (tmp_path, "train", 4, False, [3])]
    with pytest.raises(UserError, match="no images in split 'test'; it has: train"):
        split_source(info, "test", 4, read_split)


def noisy_images(latents, labels, noise):
    """A stand-in for a network: [N, 4, 4, 3] from its latents and noise."""
    return tf.tile(latents[:, None, None, :1] * 0.3, [1, 4, 4, 3]) + noise(1, 4, 4) * 0.1


@pytest.mark.parametrize("minibatch", [1, 3, 8])
def test_fakes_depend_on_seed_and_place_alone(minibatch):
    def fakes(minibatch, seed, count=7):
        generate = network_fakes(noisy_images, 5, 4, minibatch, seed)
        batches = list(generate(count))
        assert all(maps is None for _, maps in batches)
        return np.concatenate([rgb for rgb, _ in batches])
    images = fakes(minibatch, 11)
    assert images.shape == (7, 4, 4, 3) and images.dtype == np.uint8
    np.testing.assert_array_equal(images, fakes(7, 11))
    np.testing.assert_array_equal(images[:4], fakes(minibatch, 11, 4))
    assert not np.array_equal(images, fakes(minibatch, 12))


def test_latents_are_those_of_the_seed():
    seen = []

    def run(latents, labels, noise):
        seen.append(latents)
        return tf.zeros([3, 4, 4, 3])
    tf.config.run_functions_eagerly(True)
    try:
        list(network_fakes(run, 5, 4, 3, 42)(6))
    finally:
        tf.config.run_functions_eagerly(False)
    expected = np.random.RandomState(42).randn(6, 5).astype(np.float32)
    np.testing.assert_array_equal(np.concatenate(seen), expected)


def test_fakes_are_rounded_as_the_metrics_do():
    values = [-2.0, -1.0, -0.999, 0.0, 0.0039, 0.9999, 1.5]
    expected = [0, 0, 0, 128, 128, 255, 255]

    def run(latents, labels, noise):
        return tf.tile(tf.constant(values)[:, None, None, None], [1, 4, 4, 3])
    images, _ = next(network_fakes(run, 2, 8, 7, 0)(7))
    assert images[:, 0, 0, 0].tolist() == expected and images.shape == (7, 8, 8, 3)


def test_a_diverged_network_is_no_number():
    def run(latents, labels, noise):
        return tf.fill([2, 4, 4, 3], np.nan)
    with pytest.raises(UserError, match="not finite"):
        next(network_fakes(run, 2, 4, 2, 0)(2))


def test_maps_of_fakes_are_the_largest_above_zero():
    """As dnnlib.data.channels has it, ties and zeros included, upscaled like the colours."""
    def run(latents, labels, noise):
        values = tf.round(noise(0, 4, 4) * 2 + noise(1, 4, 4) * tf.range(-1.0, 4.0)) / 2
        seen.append(values)
        return values
    seen = []
    tf.config.run_functions_eagerly(True)
    try:
        batches = list(network_fakes(run, 2, 8, 6, 0)(10))
    finally:
        tf.config.run_functions_eagerly(False)
    expected = to_label_map(np.concatenate(seen)[:10, ..., 3:])
    assert set(np.unique(expected)) == {0, 1, 2}
    maps = np.concatenate([maps for _, maps in batches])
    np.testing.assert_array_equal(maps, upscale_nearest(expected, 8))
    assert maps.dtype == np.uint8


@pytest.mark.parametrize("minibatch", [1, 3, 8])
def test_labels_are_drawn_by_seed_and_place_from_the_table(minibatch):
    table = np.eye(5, dtype=np.float32)[[0, 0, 0, 2, 4]]

    def run(latents, labels, noise):
        return tf.tile(labels[:, None, None, 2:5], [1, 4, 4, 1])

    def drawn(minibatch, seed, count):
        batches = network_fakes(run, 2, 4, minibatch, seed, table)(count)
        return np.concatenate([rgb[:, 0, 0] for rgb, _ in batches])
    rows = drawn(minibatch, 3, 50)
    np.testing.assert_array_equal(rows, drawn(50, 3, 50))
    np.testing.assert_array_equal(rows[:20], drawn(minibatch, 3, 20))
    assert not np.array_equal(rows, drawn(minibatch, 4, 50))
    many = drawn(500, 3, 5000)
    shares = [(many == row).all(axis=1).mean() for row in ([128] * 3, [255, 128, 128],
                                                           [128, 128, 255])]
    np.testing.assert_allclose(shares, [0.6, 0.2, 0.2], atol=0.03)
    # A stream of its own (docs/metrics.md): that of the latents would tie labels to them.
    places = (np.random.RandomState([3, 1]).random_sample(50) * 5).astype(int)
    shown = np.uint8(127.5 * table[places, 2:] + 128)
    np.testing.assert_array_equal(rows, shown)


def test_labels_are_not_drawn_from_nothing():
    with pytest.raises(UserError, match="needs labels to draw from"):
        next(network_fakes(noisy_images, 2, 4, 2, 0, np.zeros((0, 3), np.float32))(2))


@pytest.mark.parametrize("size", [4, 8, 16])
def test_noise_is_normal_and_one_stream(size):
    whole = sample_noise(5, 2, tf.constant(0, tf.uint64), (64, size, size, 1)).numpy()
    part = sample_noise(5, 2, tf.constant(40, tf.uint64), (9, size, size, 1)).numpy()
    np.testing.assert_array_equal(part, whole[40:49])
    assert abs(whole.mean()) < 5 / np.sqrt(whole.size)
    assert abs(whole.std() - 1) < 5 / np.sqrt(whole.size)
    other = sample_noise(5, 3, tf.constant(0, tf.uint64), (64, size, size, 1)).numpy()
    assert abs(np.corrcoef(whole.ravel(), other.ravel())[0, 1]) < 5 / np.sqrt(whole.size)


def test_upscaling_repeats_pixels():
    image = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    big = upscale_nearest(image, 6)
    np.testing.assert_array_equal(big[0, ::3, ::3], image[0])
    np.testing.assert_array_equal(big[0, 2, 5], image[0, 0, 1])
    with pytest.raises(ValueError, match="cannot be repeated"):
        upscale_nearest(image, 5)
