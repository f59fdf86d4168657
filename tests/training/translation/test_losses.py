"""Losses of translators against float64 NumPy; their gradients against finite differences."""

import numpy as np
import pytest
import tensorflow as tf

from dnnlib.tflib.vgg16 import Vgg16
from tests.tools.vgg16 import activations, random_arrays
from training.translation import losses
from training.translation.config import CRITICS

R, K = 12, 3


@pytest.fixture
def semantics(rng):
    """Return maps [2, 12, 12, 3] of two pictures; the second has no class 1, and 2 in a corner."""
    labels = rng.integers(0, K + 1, (2, R, R))
    labels[1] = np.where(labels[1] > 1, 0, labels[1])
    labels[1, :4, :4] = 3
    return np.float64(labels[..., None] == np.arange(1, K + 1))


def area_mean(image, side, row, column):
    """Return the mean over the area of a pixel of the smaller image, by 60ths of a pixel."""
    fine = np.kron(image, np.ones((60, 60)))
    step = len(fine) // side
    return fine[row * step:(row + 1) * step, column * step:(column + 1) * step].mean()


def of_critic(critic, semantics, side):
    """Return the weights, computed by loops: (1 / K) s_k / mean(s_k), and 1."""
    count = len(semantics)
    if critic == "patch":
        return np.ones((count, side, side, 1))
    result = np.ones((count, side, side, K + 1))
    for n in range(count):
        for k in range(K):
            small = np.array([[area_mean(semantics[n, ..., k], side, i, j) for j in range(side)]
                              for i in range(side)])
            weight = small / small.mean() if small.any() else np.zeros_like(small)
            result[n, :, :, k] = (weight if critic == "semantic" else 1) / K
    return result


@pytest.mark.parametrize("critic", CRITICS)
@pytest.mark.parametrize("side", [12, 6, 5, 2])
def test_weights(critic, semantics, side):
    weights = losses.map_weights(critic, tf.constant(semantics, tf.float32), side)
    np.testing.assert_allclose(weights, of_critic(critic, semantics, side), rtol=1e-5, atol=1e-6)
    assert weights.shape[-1] == losses.num_maps(critic, K)


@pytest.mark.parametrize("side", [R, 3])
def test_every_present_class_has_the_same_weight(semantics, side):
    """However few of its pixels fall on each logit."""
    semantics[1, ..., 2] = 0
    semantics[1, 1, 4, 2] = 1
    weights = losses.map_weights("semantic", tf.constant(semantics, tf.float32), side).numpy()
    present = semantics.any(axis=(1, 2))
    assert not present[1, 1] and present[1, 2] and semantics[1, ..., 2].mean() < 0.15
    np.testing.assert_allclose(weights.mean((1, 2))[:, :K], present / K, rtol=1e-5)
    assert np.isfinite(weights).all() and (weights[..., K] == 1).all()
    # The capacity control's weights add up to the same if all classes are present.
    other = losses.map_weights("capacity", tf.constant(semantics, tf.float32), side)
    np.testing.assert_allclose(np.mean(other, (1, 2)).sum(-1), 2, rtol=1e-6)


def test_weights_of_heatmaps_follow_their_values(rng):
    heat = rng.uniform(0.1, 1, (1, R, R, K)).astype(np.float32)
    weights = losses.map_weights("semantic", tf.constant(heat), R).numpy()
    np.testing.assert_allclose(weights[..., :K], heat / heat.mean((1, 2)) / K, rtol=1e-5)


def test_thin_classes_have_full_weight_and_slivers_none():
    """A class with 0.3 of each of six pixels, and one that covers less than one pixel in all."""
    thin = np.zeros((1, R, R, K), np.float32)
    thin[0, 4, :6, 0] = 0.3
    thin[0, 0, :2, 1] = 0.4
    weights = losses.map_weights("semantic", tf.constant(thin), 6).numpy()
    np.testing.assert_allclose(weights.mean((1, 2))[0, :2], [1 / K, 0], rtol=1e-5)


def logits_and_weights(rng, semantics):
    logits = [rng.standard_normal((2, side, side, K + 1)) * 3 for side in (6, 3)]
    return logits, [of_critic("semantic", semantics, side) for side in (6, 3)]


@pytest.mark.parametrize("kind", losses.GAN_LOSSES)
def test_gan_losses(kind, rng, semantics):
    """Over both scales; D's loss is half the sum of its two parts."""
    reals, weights = logits_and_weights(rng, semantics)
    fakes, _ = logits_and_weights(rng, semantics)

    def expected(logits, is_real):
        total = np.zeros(2)
        for x, w in zip(logits, weights):
            says_real = 1 / (1 + np.exp(-x))
            loss = {"logistic": -np.log(says_real if is_real else 1 - says_real),
                    "least_squares": (x - is_real) ** 2}[kind]
            for n in range(2):
                total[n] += sum((w[n, :, :, k] * loss[n, :, :, k]).mean() for k in range(K + 1))
        return total

    ours = [[tf.constant(x, tf.float32) for x in part] for part in (reals, fakes, weights)]
    for is_real in (True, False):
        np.testing.assert_allclose(losses.gan_loss(ours[0], ours[2], is_real, kind),
                                   expected(reals, is_real), rtol=1e-5)
    np.testing.assert_allclose(losses.discriminator_loss(*ours, kind),
                               (expected(reals, True) + expected(fakes, False)) / 2, rtol=1e-5)
    extreme = losses.gan_loss([tf.constant([[[[-200.0]]]])], [tf.ones([1, 1, 1, 1])], True)
    assert extreme.numpy() == 200  # from logits, not from probabilities


def test_an_absent_class_has_no_gradient(rng, semantics):
    logits = tf.constant(rng.standard_normal((2, 6, 6, K + 1)), tf.float32)
    weights = losses.map_weights("semantic", tf.constant(semantics, tf.float32), 6)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = losses.gan_loss([logits], [weights], True)
    grad = tape.gradient(loss, logits).numpy()
    assert (grad[1, :, :, 1] == 0).all() and np.isfinite(grad).all()
    says_real = 1 / (1 + np.exp(-logits.numpy().astype(np.float64)))
    np.testing.assert_allclose(grad, of_critic("semantic", semantics, 6) * (says_real - 1) / 36,
                               rtol=1e-4, atol=1e-8)


def test_reconstructions(rng):
    """L1 of pixels, and of a segmentation network's probabilities; its gradient reaches the fakes
    and not the photos."""
    photos, fakes = (rng.uniform(-1, 1, (2, R, R, 3)) for _ in range(2))
    np.testing.assert_allclose(
        losses.l1(*(tf.constant(x, tf.float32) for x in (photos, fakes))),
        np.abs(photos - fakes).mean((1, 2, 3)), rtol=1e-5)
    matrix = rng.standard_normal((3, K + 1))

    def probabilities(x):
        values = np.exp(x @ matrix)
        return values / values.sum(-1, keepdims=True)

    def expected(x):
        return np.abs(probabilities(photos) - probabilities(x)).mean((1, 2, 3))

    inputs = [tf.constant(x, tf.float32) for x in (photos, fakes)]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(inputs)
        loss = losses.semantic_l1(lambda x: x @ tf.constant(matrix, tf.float32), *inputs)
    np.testing.assert_allclose(loss, expected(fakes), rtol=1e-5)
    assert tape.gradient(loss, inputs[0]) is None
    grad = tape.gradient(loss, inputs[1]).numpy()
    for place in ((0, 3, 4, 1), (1, 11, 0, 2)):
        step = np.zeros_like(fakes)
        step[place] = 1e-6
        slope = (expected(fakes + step) - expected(fakes - step)).sum() / 2e-6
        np.testing.assert_allclose(grad[place], slope, rtol=1e-3, atol=1e-7)


def test_vgg(rng):
    """The first ReLU of every block of a narrow network; the gradient reaches the fakes only."""
    arrays = random_arrays(rng)
    photos, fakes = (rng.uniform(-1, 1, (2, 16, 16, 3)) for _ in range(2))

    def expected(x):
        seen = [[block[0] for block in activations(arrays, (rgb + 1) * 127.5)]
                for rgb in (photos, x)]
        assert len(seen[0]) == 5
        return sum(np.abs(first - second).mean((1, 2, 3)) for first, second in zip(*seen))

    inputs = [tf.constant(x, tf.float32) for x in (photos, fakes)]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(inputs)
        loss = losses.vgg_l1(Vgg16(arrays), *inputs)
    np.testing.assert_allclose(loss, expected(fakes), rtol=1e-5)
    assert tape.gradient(loss, inputs[0]) is None
    grad = tape.gradient(loss, inputs[1]).numpy()
    for place in ((0, 3, 4, 1), (1, 11, 0, 2)):
        step = np.zeros_like(fakes)
        step[place] = 1e-6
        slope = (expected(fakes + step) - expected(fakes - step)).sum() / 2e-6
        np.testing.assert_allclose(grad[place], slope, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("side", [1, 3])
def test_nearest_neighbours(side, rng):
    """The nearest of the photo's pixels in the neighbourhood, inside the picture; with a
    neighbourhood of one, L1. The gradient is that of the chosen differences."""
    photos, fakes = (rng.uniform(-1, 1, (2, 6, 6, 3)) for _ in range(2))

    def expected(fakes):
        total, reach = np.zeros(2), side // 2
        for n, i, j in np.ndindex(2, 6, 6):
            around = photos[n, max(i - reach, 0):i + reach + 1, max(j - reach, 0):j + reach + 1]
            total[n] += np.abs(around - fakes[n, i, j]).mean(-1).min()
        return total / 36

    x, y = (tf.constant(part, tf.float32) for part in (photos, fakes))
    with tf.GradientTape() as tape:
        tape.watch(y)
        loss = losses.nearest_neighbour_l1(x, y, side)
    np.testing.assert_allclose(loss, expected(fakes), rtol=1e-5)
    if side == 1:
        np.testing.assert_allclose(loss, losses.l1(x, y), rtol=1e-6)
    grad = tape.gradient(loss, y).numpy()
    for place in ((0, 0, 0, 1), (1, 5, 3, 0), (0, 2, 2, 2)):
        step = np.zeros_like(fakes)
        step[place] = 1e-6
        slope = (expected(fakes + step) - expected(fakes - step)).sum() / 2e-6
        np.testing.assert_allclose(grad[place], slope, rtol=1e-3, atol=1e-6)


def test_a_shift_by_one_pixel_is_no_error(rng):
    photos = tf.constant(rng.uniform(-1, 1, (1, 6, 6, 3)), tf.float32)
    moved = tf.concat([photos[:, :, :1], photos[:, :, :-1]], axis=2)
    assert losses.nearest_neighbour_l1(photos, moved, 3).numpy() == 0 < losses.l1(photos, moved)
