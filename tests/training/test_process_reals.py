"""Processing of real images."""

import numpy as np
import pytest
import tensorflow as tf

from training.dataset import fade_reals, process_reals


@pytest.fixture
def images(rng):
    return tf.constant(rng.integers(0, 256, (3, 8, 8, 6), np.uint8))


def test_colours_and_maps_have_their_own_range():
    images = np.array([0, 255], np.uint8).reshape(1, 1, 2, 1).repeat(5, -1)
    np.testing.assert_array_equal(process_reals(tf.constant(images))[0, 0],
                                  [[-1, -1, -1, -0.5, -0.5], [1, 1, 1, 0.5, 0.5]])


def test_rgb_alone(images):
    rgb = process_reals(images[..., :3])
    np.testing.assert_array_equal(rgb, process_reals(images)[..., :3])


def test_flip_is_per_image_and_includes_the_maps(images):
    plain = process_reals(images).numpy()
    flipped = process_reals(images, flip=tf.constant([True, False, True])).numpy()
    np.testing.assert_array_equal(flipped[[0, 2]], plain[[0, 2], :, ::-1])
    np.testing.assert_array_equal(flipped[1], plain[1])


def test_fade_removes_detail(images):
    plain = process_reals(images).numpy()
    means = plain.reshape(3, 4, 2, 4, 2, 6).mean((2, 4)).repeat(2, 1).repeat(2, 2)
    np.testing.assert_allclose(process_reals(images, 1.0), means, atol=1e-6)
    np.testing.assert_allclose(process_reals(images, tf.constant(0.25)),
                               0.75 * plain + 0.25 * means, atol=1e-6)
    np.testing.assert_array_equal(process_reals(images, tf.constant(0.0)), plain)


def test_nothing_coarser_than_4x4_to_fade_to():
    x = tf.random.stateless_normal([2, 4, 4, 3], [0, 0])
    np.testing.assert_array_equal(fade_reals(x, tf.constant(0.5)), x)


def test_noise_is_added_to_maps_only_and_is_not_faded(images, rng):
    noise = tf.constant(0.01 * rng.standard_normal((3, 8, 8, 3)), tf.float32)
    plain = process_reals(images, 0.5).numpy()
    noisy = process_reals(images, 0.5, map_noise=noise).numpy()
    np.testing.assert_array_equal(noisy[..., :3], plain[..., :3])
    np.testing.assert_allclose(noisy[..., 3:] - plain[..., 3:], noise, atol=1e-6)
