"""LPIPS against its formula in float64 NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from dnnlib.download import CACHE_VARIABLE
from metrics.networks import lpips
from metrics.networks.lpips import Lpips
from tests.tools.vgg16 import NARROW, activations, random_arrays


def oracle(arrays, images1, images2, blocks=NARROW):
    """Return the distance in plain float64 NumPy: float64 [N]."""
    total = 0
    for number, pair in enumerate(zip(*(activations(arrays, x, blocks)
                                        for x in (images1, images2)))):
        f1, f2 = (f[-1] / (np.sqrt((f[-1] ** 2).sum(axis=1, keepdims=True)) + 1e-10) for f in pair)
        weights = arrays[f"lin{number}.model.1.weight"].astype(np.float64)
        total = total + ((f1 - f2) ** 2 * weights).sum(axis=1).mean(axis=(1, 2))
    return total


@pytest.fixture
def weights(tmp_path, rng):
    """Write a narrow network; return (path, arrays)."""
    arrays = random_arrays(rng)
    np.savez(tmp_path / "lpips.npz", **arrays)
    return tmp_path / "lpips.npz", arrays


def pair_of_images(rng, shape):
    return rng.uniform(0, 255, (2, *shape)).astype(np.float32)


@pytest.mark.parametrize("size", [(16, 16), (33, 21), (40, 64)])
def test_equals_the_formula_in_float64(weights, rng, size):
    path, arrays = weights
    images = pair_of_images(rng, (3, *size, 3))
    expected = oracle(arrays, *images)
    assert expected.min() > 1e-3
    np.testing.assert_allclose(Lpips(path, NARROW)(*images), expected, rtol=2e-6)


def test_gradients_are_finite_without_active_fmaps():
    """The length is 0 there, and a square root has no derivative: TensorFlow gives 0 for it."""
    features = tf.constant([[0, 0, 0], [0, 3e-4, 4e-4]], tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(features)
        unit = lpips._unit_length(features)
        loss = tf.reduce_sum(unit * [1.0, 2.0, 3.0])
    np.testing.assert_allclose(unit, [[0, 0, 0], [0, 0.6, 0.8]], rtol=1e-5)
    gradient = tape.gradient(loss, features)
    assert np.isfinite(gradient).all() and np.abs(gradient[1]).max() > 100


def test_is_a_distance(weights, rng):
    path, _ = weights
    a, b = pair_of_images(rng, (2, 16, 16, 3))
    distance = Lpips(path, NARROW)
    np.testing.assert_array_equal(distance(a, a), 0)
    np.testing.assert_allclose(distance(a, b), distance(b, a), rtol=1e-6)
    np.testing.assert_allclose(distance(a, b)[1:], distance(a[1:], b[1:]), rtol=1e-5)
    traced = tf.function(distance)(tf.constant(a), tf.constant(b))
    np.testing.assert_allclose(traced, distance(a, b), rtol=1e-6)


def test_images_that_are_too_small_are_refused(weights, rng):
    path, _ = weights
    with pytest.raises(ValueError, match="16 pixels or more"):
        Lpips(path, NARROW)(*pair_of_images(rng, (1, 16, 15, 3)))


def test_the_digest_is_of_the_values(weights, tmp_path):
    path, arrays = weights
    before = Lpips(path, NARROW)
    assert before.name == f"weights from {path}"
    arrays["lin4.model.1.weight"][0, 0] *= 1.01
    np.savez(tmp_path / "other.npz", **arrays)
    assert Lpips(tmp_path / "other.npz", NARROW).digest != before.digest


def test_weights_in_the_cache_need_no_path(weights, tmp_path, monkeypatch):
    path, _ = weights
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    path.rename(tmp_path / "cache" / "lpips-vgg.npz")
    assert Lpips(blocks=NARROW).digest
