"""Operations against NumPy and themselves in other forms."""

import numpy as np
import pytest
import tensorflow as tf

from dnnlib.tflib import ops


def normal(rng, *shape):
    return tf.constant(rng.standard_normal(shape), tf.float32)


@pytest.mark.parametrize("shape", [
    (1, 2, 2, 1, 1), (2, 4, 4, 3, 5), (3, 8, 6, 7, 2), (1, 5, 9, 4, 4)])
def test_fused_upscale_equals_plain(rng, shape):
    n, h, w, fmaps_in, fmaps = shape
    x, weight = normal(rng, n, h, w, fmaps_in), normal(rng, 3, 3, fmaps_in, fmaps)
    assert_same_with_gradients(ops.upscale2d_conv2d, x, weight)


@pytest.mark.parametrize("shape", [
    (1, 2, 2, 1, 1), (2, 4, 4, 3, 5), (3, 8, 6, 7, 2), (1, 10, 4, 4, 4)])
def test_fused_downscale_equals_plain(rng, shape):
    n, h, w, fmaps_in, fmaps = shape
    x, weight = normal(rng, n, h, w, fmaps_in), normal(rng, 3, 3, fmaps_in, fmaps)
    assert_same_with_gradients(ops.conv2d_downscale2d, x, weight)


def assert_same_with_gradients(function, x, weight):
    """Plain and fused agree in value, gradients, and the gradient of a gradient's square."""
    results = [derivatives(lambda x, w, f=fused: function(x, w, f), x, weight)
               for fused in (False, True)]
    for plain, fused in zip(*results, strict=True):
        np.testing.assert_allclose(fused, plain, rtol=1e-4, atol=1e-4 * np.abs(plain).max())


def derivatives(function, x, weight):
    with tf.GradientTape() as outer:
        outer.watch(weight)
        with tf.GradientTape() as inner:
            inner.watch([x, weight])
            y = function(x, weight)
            total = tf.reduce_sum(tf.sin(y))
        by_x, by_weight = inner.gradient(total, [x, weight])
        penalty = tf.reduce_sum(tf.square(by_x))
    return [v.numpy() for v in (y, by_x, by_weight, outer.gradient(penalty, weight))]


def slow_upscale(x):
    return tf.repeat(tf.repeat(x, 2, axis=1), 2, axis=2)


def slow_downscale(x):
    n, h, w, c = x.shape
    return tf.reduce_mean(tf.reshape(x, [n, h // 2, 2, w // 2, 2, c]), axis=[2, 4])


def slow_blur(x):
    p = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
    h, w = x.shape[1:3]
    return sum(a * b / 16 * p[:, i:i + h, j:j + w]
               for i, a in enumerate([1, 2, 1]) for j, b in enumerate([1, 2, 1]))


@pytest.mark.parametrize("fast, slow", [
    (ops.upscale2d, slow_upscale), (ops.downscale2d, slow_downscale), (ops.blur2d, slow_blur),
    (ops.leaky_relu, lambda x: tf.maximum(x, 0.2 * x)),
    (lambda x: ops.activate(x, "lrelu"), lambda x: tf.where(x > 0, x, 0.2 * x)),
    (lambda x: ops.activate(x, "relu"), lambda x: tf.where(x > 0, x, 0 * x)),
])
def test_value_and_two_derivatives(rng, fast, slow):
    """The quick forms and their own gradients equal what TensorFlow derives from the plain ones."""
    x, scale = normal(rng, 2, 6, 4, 3), tf.constant(1.3)
    for ours, theirs in zip(derivatives(lambda x, s: fast(s * x), x, scale),
                            derivatives(lambda x, s: slow(s * x), x, scale), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("minibatch, group_size, groups", [
    (8, 4, 2), (3, 4, 1), (6, 2, 3), (1, 4, 1)])
def test_minibatch_stddev_by_hand(rng, minibatch, group_size, groups):
    """Sample i is in group i mod M, and all samples of a group get the same constant map."""
    x = rng.standard_normal((minibatch, 4, 4, 6)).astype(np.float32)
    y = ops.minibatch_stddev(x, group_size).numpy()
    np.testing.assert_array_equal(y[..., :6], x)
    for i in range(minibatch):
        expected = np.sqrt(x[i % groups::groups].var(axis=0, dtype=np.float64) + 1e-8).mean()
        np.testing.assert_allclose(y[i, ..., 6], expected, rtol=1e-5)


@pytest.mark.parametrize("group_size, num_features", [(4, 3), (2, 2), (8, 6)])
def test_minibatch_stddev_features_by_hand(rng, group_size, num_features):
    """Feature f tells of the f-th range of maps."""
    x = rng.standard_normal((8, 4, 4, 6)).astype(np.float32)
    y = ops.minibatch_stddev(x, group_size, num_features).numpy()
    groups, share = 8 // group_size, 6 // num_features
    assert y.shape == (8, 4, 4, 6 + num_features)
    for i in range(8):
        stddev = np.sqrt(x[i % groups::groups].var(axis=0, dtype=np.float64) + 1e-8)
        for f in range(num_features):
            expected = stddev[..., f * share:(f + 1) * share].mean()
            np.testing.assert_allclose(y[i, ..., 6 + f], expected, rtol=1e-5)


def test_he_std():
    """gain / sqrt(fan_in) of dense and convolutional weights."""
    np.testing.assert_allclose(ops.he_std([3, 3, 4, 7], gain=1), 1 / 6, rtol=1e-6)
    np.testing.assert_allclose(ops.he_std([8, 5]), 0.5, rtol=1e-6)


def test_instance_norm_is_computed_in_float32(rng):
    """A large offset does not eat the variance where activations are bfloat16."""
    x = tf.cast(300 + 2 * normal(rng, 2, 8, 8, 3), tf.bfloat16)
    y = ops.instance_norm(x)
    assert y.dtype == tf.bfloat16
    y = tf.cast(y, tf.float32).numpy()
    np.testing.assert_allclose(y.mean((1, 2)), 0, atol=0.01)
    np.testing.assert_allclose(y.std((1, 2)), 1, atol=0.01)


def test_norms_and_style_by_hand(rng):
    x, style = normal(rng, 2, 4, 4, 3), normal(rng, 2, 6)
    y = ops.style_mod(x, style).numpy()
    expected = x * (style[:, None, None, :3] + 1) + style[:, None, None, 3:]
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    y = ops.pixel_norm(x).numpy()
    np.testing.assert_allclose((y ** 2).mean(-1), 1, rtol=1e-5)


def test_noise_is_one_map_with_a_weight_per_channel(rng):
    x, noise, weight = normal(rng, 2, 4, 4, 3), normal(rng, 2, 4, 4, 1), normal(rng, 3)
    np.testing.assert_allclose(ops.apply_noise(x, noise, weight), x + noise * weight, rtol=1e-6)


@pytest.mark.parametrize("function", [
    ops.upscale2d, ops.downscale2d, ops.blur2d, ops.leaky_relu, ops.instance_norm,
    ops.minibatch_stddev,
    lambda x: ops.upscale2d_conv2d(x, tf.ones([3, 3, 3, 2]), fused=True),
    lambda x: ops.conv2d_downscale2d(x, tf.ones([3, 3, 3, 2]), fused=True)])
def test_unknown_minibatch(rng, function):
    """Traced once for any minibatch, with every other dimension known."""
    traced = tf.function(function, input_signature=[tf.TensorSpec([None, 4, 4, 3])])
    assert None not in traced.get_concrete_function().outputs[0].shape[1:]
    for minibatch in (1, 4):
        x = normal(rng, minibatch, 4, 4, 3)
        np.testing.assert_allclose(traced(x), function(x), rtol=1e-5, atol=1e-5)
    assert traced.experimental_get_tracing_count() == 1
