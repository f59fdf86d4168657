"""Losses against NumPy, and with critics whose gradients are known in closed form."""

import numpy as np
import pytest
import tensorflow as tf

from training import loss


@pytest.fixture
def pair(rng):
    """Return reals and fakes [4, 4, 4, 5]."""
    return [tf.constant(rng.standard_normal((4, 4, 4, 5)), tf.float32) for _ in range(2)]


@pytest.fixture
def linear(rng):
    """Return a critic D(x) = <a, x>, whose gradient is a everywhere, and a."""
    a = tf.constant(rng.standard_normal((4, 4, 5)), tf.float32)
    return lambda x: tf.reduce_sum(x * a, axis=[1, 2, 3])[:, None], a


def softplus(x):
    return np.log1p(np.exp(x))


@pytest.mark.parametrize("kind, formula", [
    ("logistic", lambda r, f: softplus(f) + softplus(-r)),
    ("wgan", lambda r, f: f - r + 0.001 * r ** 2),
    ("hinge", lambda r, f: np.maximum(0, 1 + f) + np.maximum(0, 1 - r))])
def test_discriminator_losses(kind, formula):
    r, f = np.meshgrid([-3.0, -1, -0.9, 0, 1, 2], [-2.0, -1, 0, 1, 3])
    np.testing.assert_allclose(loss.D_LOSSES[kind](tf.constant(r), tf.constant(f)), formula(r, f))


@pytest.mark.parametrize("kind, formula", [
    ("logistic_nonsaturating", lambda f: softplus(-f)),
    ("logistic_saturating", lambda f: -softplus(f)),
    ("wgan", lambda f: -f), ("hinge", lambda f: -f)])
def test_generator_losses(kind, formula):
    fakes = tf.constant([[-2.0], [0.0], [3.0]], tf.float64)
    ours = loss.generator_loss(lambda x: x, fakes, kind=kind)
    np.testing.assert_allclose(ours, formula(fakes.numpy()[:, 0]))


@pytest.mark.parametrize("lod_floor", [0, 2])
def test_r1_and_r2_of_a_linear_critic(pair, linear, lod_floor):
    """Both are |a|^2 / 4^lod_floor for every sample."""
    score, a = linear
    plain, _ = loss.discriminator_loss(score, *pair, r1_gamma=0.0)
    value, terms = loss.discriminator_loss(score, *pair, r1_gamma=3.0, r2_gamma=5.0,
                                           lod_floor=lod_floor)
    square = np.sum(np.square(a)) / 4 ** lod_floor
    for name in ("Loss/r1_penalty", "Loss/r2_penalty"):
        np.testing.assert_allclose(terms[name], [square] * 4, rtol=1e-5)
    np.testing.assert_allclose(value - plain, [(3 + 5) / 2 * square] * 4, rtol=1e-4)


@pytest.mark.parametrize("lod_floor", [0, 1])
def test_gradient_penalty_of_a_linear_critic(pair, linear, lod_floor):
    """(|a| / 2^lod_floor - 1)^2 times lambda, on images mixed of both; the loss has the drift."""
    score, a = linear
    mix = tf.constant([0.0, 1.0, 0.5, 0.25])[:, None, None, None]
    value, terms = loss.discriminator_loss(score, *pair, kind="wgan", r1_gamma=0.0,
                                           wgan_lambda=10.0, mix=mix, lod_floor=lod_floor)
    norm = np.sqrt(np.sum(np.square(a))) / 2 ** lod_floor
    real, fake = (score(x).numpy()[:, 0] for x in pair)
    np.testing.assert_allclose(terms["Loss/mixed_norms"], [norm] * 4, rtol=1e-5)
    mixed = real + (fake - real) * mix[:, 0, 0, 0]
    np.testing.assert_allclose(terms["Loss/scores/mixed"][:, 0], mixed, rtol=1e-4, atol=1e-4)
    expected = fake - real + 0.001 * real ** 2 + 10 * (norm - 1) ** 2
    np.testing.assert_allclose(value, expected, rtol=1e-4)


def test_octaves_equal_a_nearest_upscaled_image(pair):
    """Scoring small images = scoring the means of large ones; R1 at the large ones is correct."""
    weight = tf.random.stateless_normal([4, 4, 5], [0, 7])

    def small(x):
        return tf.reduce_sum(tf.sin(x) * weight, axis=[1, 2, 3])[:, None]

    def large(x):
        return small(tf.nn.avg_pool2d(x, 4, 4, "VALID"))

    upscaled = [tf.repeat(tf.repeat(x, 4, axis=1), 4, axis=2) for x in pair]
    mix = tf.fill([4, 1, 1, 1], 0.3)
    kwargs = {"r1_gamma": 10.0, "r2_gamma": 2.0, "wgan_lambda": 10.0, "mix": mix}
    ours, _ = loss.discriminator_loss(small, *pair, lod_floor=2, **kwargs)
    theirs, _ = loss.discriminator_loss(large, *upscaled, **kwargs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_reals_and_fakes_are_scored_once_and_separately(pair, linear):
    seen = []

    def score(x):
        seen.append(x.shape[0])
        return linear[0](x)

    loss.discriminator_loss(score, *pair, r1_gamma=10.0)
    assert seen == [4, 4]


def test_terms_that_are_off_are_not_reported(pair, linear):
    _, terms = loss.discriminator_loss(linear[0], *pair, r1_gamma=0.0)
    assert set(terms) == {"Loss/scores/real", "Loss/scores/fake"}
