"""Losses of garments and of whole pictures, compositing, and critics' inputs, against NumPy."""

import numpy as np
import tensorflow as tf

from training.cycle.losses import centred, composite, masked_l1, mean_over_patches, seen_regions


def some(rng, *shape):
    return rng.uniform(-1, 1, (3, 4, 4, *shape)).astype(np.float32)


def test_l1_of_a_garment_is_the_mean_over_its_pixels(rng):
    """Soft pixels count in part; a picture without any has loss 0; a whole picture has plain L1."""
    first, second, mask = some(rng, 3), some(rng, 3), np.abs(some(rng, 1))
    mask[0], mask[1] = 1, 0
    difference = np.abs(first.astype(np.float64) - second).mean(-1, keepdims=True)
    expected = [difference[0].mean(), 0, (difference[2] * mask[2]).sum() / mask[2].sum()]
    np.testing.assert_allclose(masked_l1(*map(tf.constant, (first, second, mask))), expected,
                               rtol=1e-5)


def test_a_garment_of_less_than_a_pixel_has_its_area_as_weight():
    mask = np.zeros((1, 4, 4, 1), np.float32)
    mask[0, 1, 2] = 0.25
    ones = tf.ones([1, 4, 4, 3])
    np.testing.assert_allclose(masked_l1(ones, -ones, tf.constant(mask)), [0.5])


def test_the_logit_of_a_picture_is_the_mean_of_its_patches(rng):
    logits = [rng.standard_normal((2, side, side, 1)).astype(np.float32) for side in (5, 2)]
    for found, patches in zip(mean_over_patches(list(map(tf.constant, logits))), logits):
        assert found.shape == (2, 1, 1, 1)
        np.testing.assert_allclose(found[:, 0, 0], patches.mean((1, 2)), rtol=1e-5, atol=1e-7)


def test_compositing_keeps_every_bit_around_a_garment(rng):
    new, old, mask = some(rng, 3), some(rng, 3), np.abs(some(rng, 1))
    mask[mask < 0.4], mask[mask > 0.8] = 0, 1
    new[0] = np.nan
    found = composite(*map(tf.constant, (new, old, mask))).numpy()
    np.testing.assert_array_equal(found[1:][mask[1:, ..., 0] == 0],
                                  old[1:][mask[1:, ..., 0] == 0])
    np.testing.assert_array_equal(found[0][mask[0, ..., 0] == 0], old[0][mask[0, ..., 0] == 0])
    expected = mask * new.astype(np.float64) + (1 - mask) * old
    np.testing.assert_allclose(found[1:], expected[1:], atol=1e-6)


def moved_to_the_middle(images, mask, shift=None):
    """Compute `centred` pixel by pixel, in float64."""
    side, found = images.shape[1], np.zeros_like(images, np.float64)
    shifts = np.zeros((len(images), 2)) if shift is None else shift
    for image, own, weights, (x, y) in zip(found, images, mask[..., 0].astype(np.float64), shifts):
        places = np.arange(side) - (side - 1) / 2
        down, right = (int(np.round((weights.sum(axis) * places).sum() / max(weights.sum(), 1e-9)
                                    - moved)) for axis, moved in ((1, y), (0, x)))
        for y in range(max(0, -down), min(side, side - down)):
            for x in range(max(0, -right), min(side, side - right)):
                image[y, x] = own[y + down, x + right]
    return found


def garments(rng, side, low, high):
    """Return float32 [4, side, side, 1]: soft boxes that start in the given range; the last one is
    the whole picture, as for photos without maps."""
    masks = np.zeros((4, side, side, 1), np.float32)
    for mask in masks[:3]:
        y, x = rng.integers(low, high, 2)
        mask[y:y + rng.integers(3, 6), x:x + rng.integers(3, 6)] = rng.uniform(0.3, 1)
    masks[3] = 1
    return masks


def test_garments_are_moved_to_the_middle(rng):
    images = rng.uniform(-1, 1, (4, 12, 12, 3)).astype(np.float32)
    masks = garments(rng, 12, 0, 7)
    masks[2] = 0
    found = centred(tf.constant(images), tf.constant(masks)).numpy()
    np.testing.assert_array_equal(found, moved_to_the_middle(images, masks).astype(np.float32))
    np.testing.assert_array_equal(found[2:], images[2:])
    assert (found[:2] != images[:2]).any()


def test_outlines_do_not_distinguish_garments(rng):
    """Jackets are at the top, trousers lower and smaller: critics see both in the same form."""
    a, b = garments(rng, 16, 0, 3), garments(rng, 16, 9, 12)
    regions = seen_regions(tf.constant(a), tf.constant(b)).numpy()
    np.testing.assert_allclose(regions, moved_to_the_middle(a, a) * moved_to_the_middle(b, b),
                               rtol=1e-6)
    assert not (a[:3] * b[:3]).any() and (regions.sum((1, 2, 3)) > 0.5).all()
    ones = np.ones_like(a)
    shift = np.array([[2, -1], [0, 1.6], [-2.4, 0], [1, 1]], np.float32)
    for moved, one, other in ((shift, a, b), (-shift, b, a)):
        np.testing.assert_allclose(
            seen_regions(*map(tf.constant, (one, other, moved))),
            moved_to_the_middle(a, a, shift) * moved_to_the_middle(b, b, -shift), rtol=1e-6)
    for mask in (a, b):
        inside = centred(tf.constant(ones), tf.constant(mask)).numpy()
        assert (inside[regions > 0] == 1).all()  # no pixel is invented
    np.testing.assert_array_equal(seen_regions(tf.constant(ones), tf.constant(b)),
                                  centred(tf.constant(b), tf.constant(b)))
