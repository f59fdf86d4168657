"""Operations against NumPy, and against other forms of themselves."""

import numpy as np
import pytest
import tensorflow as tf

from dnnlib.tflib import ops


def normal(rng, *shape):
    return tf.constant(rng.standard_normal(shape), tf.float32)


def derivatives(function, x, weight, loss=tf.sin):
    """Return y = function(x, weight), the gradients of sum(loss(y)) by both, and by weight the
    gradient of the squared gradient by x, which R1 needs."""
    with tf.GradientTape() as outer:
        outer.watch(weight)
        with tf.GradientTape() as inner:
            inner.watch([x, weight])
            y = function(x, weight)
            total = tf.reduce_sum(loss(y))
        by_x, by_weight = inner.gradient(total, [x, weight])
        penalty = tf.reduce_sum(tf.square(by_x))
    return [v.numpy() for v in (y, by_x, by_weight, outer.gradient(penalty, weight))]


# ---------------------------------------------------------------------------- resampling, float64


def shifted(x):
    """Return the nine shifts of a zero-padded x [N, H, W, C], {(i, j): same shape as x}."""
    padded, (height, width) = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)]), x.shape[1:3]
    return {(i, j): padded[:, i:i + height, j:j + width] for i in range(3) for j in range(3)}


def conv(x, w):
    return sum(part @ w[tap] for tap, part in shifted(x).items())


def conv_by_x(g, w):
    return conv(g, w[::-1, ::-1].transpose(0, 1, 3, 2))


def conv_by_w(x, g):
    by_w = np.zeros((3, 3, x.shape[3], g.shape[3]))
    for tap, part in shifted(x).items():
        by_w[tap] = np.einsum("nhwc,nhwd->cd", part, g)
    return by_w


def repeat(x):
    return x.repeat(2, axis=1).repeat(2, axis=2)


def sum_2x2(x):
    return sum(x[:, i::2, j::2] for i in (0, 1) for j in (0, 1))


# Each resampling in NumPy: forward, gradient by x, gradient by w.
ORACLES = {
    "up": (lambda x, w: conv(repeat(x), w),
           lambda g, w: sum_2x2(conv_by_x(g, w)),
           lambda x, g: conv_by_w(repeat(x), g)),
    "down": (lambda x, w: sum_2x2(conv(x, w)) / 4,
             lambda g, w: conv_by_x(repeat(g) / 4, w),
             lambda x, g: conv_by_w(x, repeat(g) / 4))}
RESAMPLED = {
    ("up", "plain"): lambda x, w: ops.conv2d(ops.upscale2d(x), w),
    ("up", "fused"): lambda x, w: ops.fused_upscale(x, ops.upscale_kernel(w)),
    ("down", "plain"): lambda x, w: ops.downscale2d(ops.conv2d(x, w)),
    ("down", "fused"): lambda x, w: ops.fused_downscale(x, ops.downscale_kernel(w))}


@pytest.mark.parametrize("shape", [(1, 2, 2, 1, 1), (2, 4, 6, 3, 5), (4, 8, 8, 32, 16)])
@pytest.mark.parametrize("way", RESAMPLED)
def test_resampling_and_two_derivatives_are_exact(rng, way, shape):
    """Value, gradients by input and weight, and by weight the gradient of the squared gradient by
    input (which R1 needs): <g, y> is linear in x and in w, so all follow from two adjoints."""
    n, height, width, fmaps_in, fmaps = shape
    forward, by_x, by_w = ORACLES[way[0]]
    x = rng.standard_normal((n, height, width, fmaps_in))
    w = rng.standard_normal((3, 3, fmaps_in, fmaps))
    g = rng.standard_normal(forward(x, w).shape)
    slope = by_x(g, w)
    expected = [forward(x, w), slope, by_w(x, g), 2 * by_w(slope, g)]
    results = derivatives(RESAMPLED[way], *(tf.constant(a, tf.float32) for a in (x, w)),
                          lambda y: y * g)
    for ours, right in zip(results, expected, strict=True):
        np.testing.assert_allclose(ours, right, rtol=1e-4, atol=2e-6 * np.abs(right).max())


def test_kernels_include_the_weights_scale(rng):
    """A kernel made from a stored weight and its scale equals that of the weight in use."""
    weight = tf.constant(rng.standard_normal((3, 3, 4, 6)), tf.float32)
    for make in (ops.upscale_kernel, ops.downscale_kernel):
        np.testing.assert_allclose(make(weight, 0.3), make(0.3 * weight), rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------------- the other operations


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
    """Operations with their own gradients equal TensorFlow's from the plain definition."""
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
    """Feature f is of the f-th range of fmaps."""
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
    """A large offset does not destroy the variance of bfloat16 activations."""
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
    lambda x: ops.fused_upscale(x, tf.ones([4, 4, 2, 3])),
    lambda x: ops.fused_downscale(x, tf.ones([4, 4, 3, 2]))])
def test_operations_accept_an_unknown_minibatch(rng, function):
    """Traced once for any minibatch, with all other dimensions known."""
    traced = tf.function(function, input_signature=[tf.TensorSpec([None, 4, 4, 3])])
    assert None not in traced.get_concrete_function().outputs[0].shape[1:]
    for minibatch in (1, 4):
        x = normal(rng, minibatch, 4, 4, 3)
        np.testing.assert_allclose(traced(x), function(x), rtol=1e-5, atol=1e-5)
    assert traced.experimental_get_tracing_count() == 1
