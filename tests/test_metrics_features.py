"""Features: streaming statistics, batches, the cache, and where images come from."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from dnnlib.dataset_info import DatasetInfo
from dnnlib.util import UserError
from metrics.fakes import network_fakes, sample_noise, upscale_nearest
from metrics.features import FeatureSet, Statistics, extract, fake_features, source_features
from metrics.sources import ImageSource, folder_source, split_source
from tests.metrics_helpers import StubDetector


def images_source(images, digest="content", batch=3):
    """An ImageSource of an array that counts how often it is read."""
    reads = []

    def batches():
        reads.append(1)
        return (images[i:i + batch] for i in range(0, len(images), batch))
    source = ImageSource("some", len(images), digest, batches, {})
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
def test_extract_fills_minibatches_whatever_comes(images, sizes):
    detector = StubDetector()
    batches = np.split(images, np.cumsum(sizes)[:-1])
    features = np.concatenate(list(extract(batches, detector)))
    np.testing.assert_array_equal(features, detector.features(detector.resize(images)))
    assert detector.batches[:-1] == [4, 4, 2]


def test_extract_takes_images_of_several_sizes(rng):
    sizes = [(8, 8), (5, 9), (8, 8)]
    batches = [rng.integers(0, 256, (2, *size, 3), np.uint8) for size in sizes]
    assert [len(f) for f in extract(batches, StubDetector())] == [4, 2]


def test_extract_refuses_floats(images):
    with pytest.raises(ValueError, match="float32"):
        next(extract([images.astype(np.float32)], StubDetector()))


def test_fakes_stop_at_the_count(images):
    features = fake_features(lambda count: iter([images, images]), 13, StubDetector())
    assert len(features) == 13
    with pytest.raises(UserError, match="20 images where 21"):
        fake_features(lambda count: iter([images, images]), 21, StubDetector())


def test_real_features_are_cached_by_content(images, tmp_path):
    source, reads = images_source(images)
    first = source_features(source, StubDetector(), tmp_path)
    again = source_features(source, StubDetector(), tmp_path)
    np.testing.assert_array_equal(first.features, again.features)
    np.testing.assert_array_equal(first.features, source_features(source, StubDetector()).features)
    assert len(reads) == 2  # once for the cache, once without one
    assert isinstance(again.features, np.memmap)

    other = images_source(images[::-1], digest="other")[0]
    assert not np.array_equal(source_features(other, StubDetector(), tmp_path).features,
                              first.features)
    detector = StubDetector()
    detector.digest = "other"
    source_features(source, detector, tmp_path)
    assert len(reads) == 3
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("damage", [lambda p: p.write_bytes(b""), lambda p: p.write_bytes(b"xy"),
                                    lambda p: p.write_bytes(p.read_bytes()[:-9]),
                                    lambda p: np.save(p, np.zeros((3, 3)))])
def test_a_damaged_cache_is_made_again(images, tmp_path, damage):
    source, reads = images_source(images)
    features = source_features(source, StubDetector(), tmp_path).features.copy()
    damage(next(tmp_path.iterdir()))
    lines = []
    again = source_features(source, StubDetector(), tmp_path, lines.append).features
    np.testing.assert_array_equal(again, features)
    assert len(reads) == 2 and lines[0].startswith("warning:")


def test_an_interrupted_pass_leaves_no_cache(images, tmp_path):
    def broken():
        yield images
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        source_features(ImageSource("x", 20, "d", broken, {}), StubDetector(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_statistics_of_a_set(rng):
    features = rng.standard_normal((2500, 3)).astype(np.float32)
    np.testing.assert_allclose(FeatureSet(features).statistics.cov,
                               np.cov(features.astype(np.float64), rowvar=False), rtol=1e-10)


def test_folder_source(rng, tmp_path):
    big, small = (rng.integers(0, 256, (*size, 3), np.uint8) for size in ((6, 4), (3, 3)))
    Image.fromarray(big).save(tmp_path / "b.png")
    Image.fromarray(small[..., 0]).save(tmp_path / "A.PNG")
    (tmp_path / "notes.txt").write_text("no image")
    source = folder_source(tmp_path)
    first, second = source.batches()
    np.testing.assert_array_equal(first[0], np.repeat(small[..., :1], 3, axis=-1))
    np.testing.assert_array_equal(second[0], big)
    assert source.count == 2
    Image.fromarray(small[..., 1]).save(tmp_path / "A.PNG")
    assert folder_source(tmp_path).digest != source.digest


def test_folders_that_hold_no_images(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        folder_source(tmp_path / "nowhere")
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match=r"no images .* directly in this folder; .* images"):
        folder_source(tmp_path)


def test_a_broken_image_is_named(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"<html>")
    with pytest.raises(UserError, match=r"x\.jpg: cannot be read as an image"):
        list(folder_source(tmp_path).batches())


def test_split_source(images, tmp_path):
    info = DatasetInfo(tmp_path, "toy", 8, 3, (), {"train": 10, "test": 0}, "abc")
    asked = []

    def read_split(*args, **options):
        asked.append((args, options))
        return iter([images])
    source = split_source(info, "train", 4, read_split)
    assert source.count == 10 and source.digest == "abc train 4"
    np.testing.assert_array_equal(next(source.batches()), images)
    assert asked == [((tmp_path, "train", 4), {"only_rgb": True})]
    with pytest.raises(UserError, match="no images in split 'test'; it has: train"):
        split_source(info, "test", 4, read_split)


def noisy_images(latents, labels, noise):
    """A stand-in for a network: [N, 4, 4, 5] from its latents and noise."""
    images = tf.tile(latents[:, None, None, :1] * 0.3, [1, 4, 4, 5]) + noise(1, 4, 4) * 0.1
    return images


@pytest.mark.parametrize("minibatch", [1, 3, 8])
def test_fakes_depend_on_seed_and_place_alone(minibatch):
    def fakes(minibatch, seed, count=7):
        generate = network_fakes(noisy_images, 5, 4, minibatch, seed)
        return np.concatenate(list(generate(count)))
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
    images = next(network_fakes(run, 2, 8, 7, 0)(7))
    assert images[:, 0, 0, 0].tolist() == expected and images.shape == (7, 8, 8, 3)


def test_a_diverged_network_is_no_number():
    def run(latents, labels, noise):
        return tf.fill([2, 4, 4, 3], np.nan)
    with pytest.raises(UserError, match="not finite"):
        next(network_fakes(run, 2, 4, 2, 0)(2))


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
