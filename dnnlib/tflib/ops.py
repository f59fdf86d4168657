"""Pure functions on NHWC tensors, of which the networks consist.

Sources: Progressive Growing of GANs (Karras et al. 2018, section 4: equalised learning rate, pixel
norm; section 3: minibatch stddev) and StyleGAN (Karras et al. 2019, section 2 and appendix C:
style, noise, blur). Every function can be differentiated twice, as the R1 penalty needs.

`x` is [minibatch, height, width, fmaps] float32 unless said otherwise; convolution kernels are
[height, width, fmaps in, fmaps out]. Activations and kernels may also be bfloat16; biases, noise
and styles are float32 even then, and all sums over pixels are computed in float32.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

HE_GAIN = np.sqrt(2)  # keeps the variance through a (leaky) ReLU
NONLINEARITIES = ("lrelu", "relu")

# Two 3-taps, one pixel apart, as one 4-tap: row o has the elements of the 3-taps that add to tap o.
_FOUR_FROM_THREE = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]], np.float32)
_KERNEL4_FROM_KERNEL3 = np.kron(_FOUR_FROM_THREE, _FOUR_FROM_THREE)  # [16, 9]


def he_std(shape: Sequence[int], gain: float = HE_GAIN) -> float:
    """Return gain / sqrt(product of all dimensions but the last) (He et al. 2015, equation 10)."""
    return gain / np.sqrt(np.prod(shape[:-1]))


def dense(x: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """Multiply x [minibatch, in] by weight [in, out]."""
    return tf.matmul(x, weight)


def conv2d(x: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """Convolve with stride 1 and zero padding: same height and width."""
    return tf.nn.conv2d(x, weight, strides=1, padding="SAME")


@tf.custom_gradient
def upscale2d(x: tf.Tensor) -> tf.Tensor:
    """Repeat every pixel: y[i, j] = x[i // 2, j // 2] (ProGAN, section 2); the gradient is the sum
    over 2x2 pixels (TensorFlow's own has no second derivative)."""
    shape = tf.shape(x)
    y = tf.raw_ops.ResizeNearestNeighbor(images=x, size=2 * shape[1:3])
    y.set_shape([x.shape[0], *(None if s is None else 2 * s for s in x.shape[1:3]), x.shape[3]])
    return y, lambda dy: 4 * downscale2d(dy)


def downscale2d(x: tf.Tensor) -> tf.Tensor:
    """Take the mean over 2x2 pixels (ProGAN, section 2)."""
    return tf.nn.avg_pool2d(x, ksize=2, strides=2, padding="VALID")


def blur2d(x: tf.Tensor) -> tf.Tensor:
    """Convolve every map with [1, 2, 1] x [1, 2, 1] / 16, zero padding (StyleGAN, appendix C).

    On a CPU the depthwise kernel and its gradients were 2 to 30 times faster than slices and adds
    or pooling twice.
    """
    taps = np.outer([1, 2, 1], [1, 2, 1]).astype(np.float32) / 16
    kernel = tf.constant(np.tile(taps[:, :, None, None], [1, 1, x.shape[-1], 1]), x.dtype)
    return tf.nn.depthwise_conv2d(x, kernel, strides=[1, 1, 1, 1], padding="SAME")


def add_bias(x: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Return x [..., fmaps] + bias [fmaps]. For bfloat16, the bias's gradient is summed in float32,
    because in bfloat16 sums stop growing after some hundred equal numbers."""
    return tf.nn.bias_add(x, bias) if x.dtype == tf.float32 else _add_bias_to_bfloat16(x, bias)


@tf.custom_gradient
def _add_bias_to_bfloat16(x, bias):
    def gradients(dy: tf.Tensor) -> tuple:
        return dy, tf.reduce_sum(tf.cast(dy, tf.float32), axis=list(range(len(dy.shape) - 1)))

    return tf.nn.bias_add(x, tf.cast(bias, x.dtype)), gradients


def _kernel4(weight, scale, flip):
    """Return the 4x4 kernel K = w[1:, 1:] + w[:-1, 1:] + w[1:, :-1] + w[:-1, :-1] of a 3x3 kernel
    zero-padded by one, turned by 180 degrees if `flip`, times `scale`.

    It is computed as a matrix times the kernel: for 512 fmaps, sums of slices and their gradients
    would take longer than the convolution itself.
    """
    matrix = _KERNEL4_FROM_KERNEL3[:, ::-1] if flip else _KERNEL4_FROM_KERNEL3
    matrix = tf.constant(matrix * np.float32(scale), weight.dtype)
    fmaps = weight.shape[2:]
    return tf.reshape(tf.matmul(matrix, tf.reshape(weight, [9, -1])), [4, 4, *fmaps])


def upscale_kernel(weight: tf.Tensor, scale: float = 1.0) -> tf.Tensor:
    """Return `fused_upscale`'s kernel [4, 4, fmaps out, fmaps in] of a 3x3 kernel * `scale`."""
    return _kernel4(tf.transpose(weight, [0, 1, 3, 2]), scale, flip=True)


def fused_upscale(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Compute conv2d(upscale2d(x), weight) from `upscale_kernel(weight)`, with 2.25 times fewer
    multiplications: y[2i + o - 1] += x[i] K[o], a transposed convolution of stride 2."""
    shape = tf.shape(x)
    size = [shape[0], 2 * shape[1], 2 * shape[2], kernel.shape[2]]
    return tf.nn.conv2d_transpose(x, kernel, size, strides=2, padding="SAME")


def downscale_kernel(weight: tf.Tensor, scale: float = 1.0) -> tf.Tensor:
    """Return `fused_downscale`'s kernel [4, 4, fmaps in, fmaps out] of a 3x3 kernel * `scale`."""
    return _kernel4(weight, 0.25 * scale, flip=False)


def fused_downscale(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Compute downscale2d(conv2d(x, weight)) from `downscale_kernel(weight)`, with 2.25 times fewer
    multiplications: a convolution of stride 2."""
    return tf.nn.conv2d(x, kernel, strides=2, padding="SAME")


def pixel_norm(x: tf.Tensor, epsilon: float = 1e-8) -> tf.Tensor:
    """Return x / sqrt(mean of x^2 over the last axis + epsilon) (ProGAN, section 4.2), computed in
    float32; x may have any rank."""
    y = tf.cast(x, tf.float32)
    y *= tf.math.rsqrt(tf.reduce_mean(tf.square(y), axis=-1, keepdims=True) + epsilon)
    return tf.cast(y, x.dtype)


def instance_norm(x: tf.Tensor, epsilon: float = 1e-8) -> tf.Tensor:
    """Give every map of every sample zero mean and unit variance (StyleGAN, equation 1), computed
    in float32."""
    y = tf.cast(x, tf.float32)
    y -= tf.reduce_mean(y, axis=[1, 2], keepdims=True)
    y *= tf.math.rsqrt(tf.reduce_mean(tf.square(y), axis=[1, 2], keepdims=True) + epsilon)
    return tf.cast(y, x.dtype)


@tf.custom_gradient
def leaky_relu(x: tf.Tensor) -> tf.Tensor:
    """Return max(x, 0.2 x). The gradient follows from the output's sign, so that only the output is
    kept, and TensorFlow can compute convolution, bias and activation in one kernel."""
    y = tf.nn.leaky_relu(x, 0.2)
    sign = tf.stop_gradient(y)
    return y, lambda dy: tf.raw_ops.LeakyReluGrad(gradients=dy, features=sign, alpha=0.2)


def activate(x: tf.Tensor, nonlinearity: str) -> tf.Tensor:
    """Apply one of NONLINEARITIES: 'lrelu' is `leaky_relu`, 'relu' max(x, 0)."""
    return leaky_relu(x) if nonlinearity == "lrelu" else tf.nn.relu(x)


def minibatch_stddev(x: tf.Tensor, group_size: int = 4, num_features: int = 1) -> tf.Tensor:
    """Append `num_features` maps of the stddev within groups of samples (ProGAN, section 3).

    A group has G = min(group_size, minibatch) samples; with minibatch = G M, sample i is in group
    i mod M. In each group, the stddev (1e-8 under the root) is averaged over pixels and over each
    of `num_features` equal ranges of fmaps, and repeated as a constant map. The minibatch must be a
    multiple of the group size, fmaps of `num_features`.
    """
    group = tf.minimum(group_size, tf.shape(x)[0])
    height, width, fmaps = x.shape[1:]
    y = tf.cast(x, tf.float32)
    y = tf.reshape(y, [group, -1, height * width, num_features, fmaps // num_features])
    # [M, height * width, num_features, fmaps / num_features]
    variance = tf.reduce_mean(tf.square(y - tf.reduce_mean(y, axis=0, keepdims=True)), axis=0)
    statistic = tf.reduce_mean(tf.sqrt(variance + 1e-8), axis=[1, 3])  # [M, num_features]
    y = tf.tile(statistic[:, None, None, :], [group, height, width, 1])  # [G M, height, width, ...]
    return tf.concat([x, tf.cast(y, x.dtype)], axis=-1)


def style_mod(x: tf.Tensor, style: tf.Tensor) -> tf.Tensor:
    """Return x * (s0 + 1) + s1, style [minibatch, 2 * fmaps] = (s0, s1) (StyleGAN, equation 1)."""
    scale, shift = _scale_and_shift(style)
    return tf.cast(tf.cast(x, tf.float32) * scale + shift, x.dtype)


def _scale_and_shift(style):
    """Return s0 + 1 and s1, [minibatch, 1, 1, fmaps] each."""
    style = tf.reshape(style, [-1, 2, 1, 1, style.shape[-1] // 2])
    return style[:, 0] + 1, style[:, 1]


def adaptive_instance_norm(x: tf.Tensor, style: tf.Tensor) -> tf.Tensor:
    """Compute style_mod(instance_norm(x), style) (StyleGAN, equation 1), rounded once.

    For bfloat16, the gradient by x is written out: scale / sigma * (dy - mean(dy) - y mean(dy y))
    with y = (x - mean(x)) / sigma. It keeps only x, where TensorFlow would keep three times as much
    in float32.
    """
    if x.dtype == tf.float32:
        return style_mod(instance_norm(x), style)
    return _adaptive_instance_norm(x, *_scale_and_shift(style))


@tf.custom_gradient
def _adaptive_instance_norm(x, scale, shift, epsilon=1e-8):
    def normalised():
        """Return x with zero mean and unit variance, and 1 / its deviation, in float32."""
        y = tf.cast(x, tf.float32)
        mean = tf.reduce_mean(y, axis=[1, 2], keepdims=True)
        variance = tf.reduce_mean(tf.math.squared_difference(y, mean), axis=[1, 2], keepdims=True)
        rsigma = tf.math.rsqrt(variance + epsilon)
        return (y - mean) * rsigma, rsigma

    def gradients(dy: tf.Tensor) -> tuple:
        """Return the gradients by x, scale and shift; this computes the normalised x again."""
        y, rsigma = normalised()
        dy = tf.cast(dy, tf.float32)
        dshift = tf.reduce_sum(dy, axis=[1, 2], keepdims=True)
        dscale = tf.reduce_sum(dy * y, axis=[1, 2], keepdims=True)
        pixels = tf.cast(tf.shape(x)[1] * tf.shape(x)[2], tf.float32)
        dx = scale * rsigma * (dy - (dshift + y * dscale) / pixels)
        return tf.cast(dx, x.dtype), dscale, dshift

    return tf.cast(normalised()[0] * scale + shift, x.dtype), gradients


def apply_noise(x: tf.Tensor, noise: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """Return x + noise [minibatch or 1, height, width, 1] * weight [fmaps] (StyleGAN, section 2);
    for bfloat16 as a matrix product, whose gradients are summed in float32."""
    if x.dtype == tf.float32:
        return x + noise * weight
    column = tf.reshape(tf.cast(noise, x.dtype), [-1, 1])
    maps = tf.matmul(column, tf.cast(weight, x.dtype)[None])
    return x + tf.reshape(maps, tf.concat([tf.shape(noise)[:3], weight.shape], 0))
