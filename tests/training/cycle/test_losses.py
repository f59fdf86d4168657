"""Losses of garments and of whole pictures, and compositing, against NumPy."""

import numpy as np
import tensorflow as tf

from training.cycle.losses import composite, masked_l1, of_pictures


def some(rng, *shape):
    return rng.uniform(-1, 1, (3, 4, 4, *shape)).astype(np.float32)


def test_l1_of_a_garment_is_the_mean_over_its_pixels(rng):
    """Soft ones count in part; a picture without any has none; a whole one is plain L1."""
    first, second, mask = some(rng, 3), some(rng, 3), np.abs(some(rng, 1))
    mask[0], mask[1] = 1, 0
    difference = np.abs(first.astype(np.float64) - second).mean(-1, keepdims=True)
    expected = [difference[0].mean(), 0, (difference[2] * mask[2]).sum() / mask[2].sum()]
    np.testing.assert_allclose(masked_l1(*map(tf.constant, (first, second, mask))), expected,
                               rtol=1e-5)


def test_a_garment_of_less_than_a_pixel_weighs_what_it_covers():
    mask = np.zeros((1, 4, 4, 1), np.float32)
    mask[0, 1, 2] = 0.25
    ones = tf.ones([1, 4, 4, 3])
    np.testing.assert_allclose(masked_l1(ones, -ones, tf.constant(mask)), [0.5])


def test_the_logit_of_a_picture_is_the_mean_of_its_patches(rng):
    logits = [rng.standard_normal((2, side, side, 1)).astype(np.float32) for side in (5, 2)]
    for found, patches in zip(of_pictures(list(map(tf.constant, logits))), logits):
        assert found.shape == (2, 1, 1, 1)
        np.testing.assert_allclose(found[:, 0, 0], patches.mean((1, 2)), rtol=1e-5, atol=1e-7)


def test_around_a_garment_every_bit_stays(rng):
    new, old, mask = some(rng, 3), some(rng, 3), np.abs(some(rng, 1))
    mask[mask < 0.4], mask[mask > 0.8] = 0, 1
    new[0] = np.nan
    found = composite(*map(tf.constant, (new, old, mask))).numpy()
    np.testing.assert_array_equal(found[1:][mask[1:, ..., 0] == 0],
                                  old[1:][mask[1:, ..., 0] == 0])
    np.testing.assert_array_equal(found[0][mask[0, ..., 0] == 0], old[0][mask[0, ..., 0] == 0])
    expected = mask * new.astype(np.float64) + (1 - mask) * old
    np.testing.assert_allclose(found[1:], expected[1:], atol=1e-6)
