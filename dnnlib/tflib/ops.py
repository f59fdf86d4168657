"""Pure functions on NHWC tensors from which the networks are made.

Sources: Progressive Growing of GANs (Karras et al. 2018, section 4: equalised learning rate, pixel
norm; section 3: minibatch stddev) and StyleGAN (Karras et al. 2019, section 2 and appendix C:
style, noise, blur). Every function can be differentiated twice, as the R1 penalty needs.

`x` is [minibatch, height, width, fmaps] float32 unless said otherwise; convolution kernels are
[height, width, fmaps in, fmaps out]. Activations and kernels may be bfloat16 or float16 as well;
biases, noise and styles are float32 then too, and whatever is summed over pixels is so in float32.
"""

import numpy as np
import tensorflow as tf

HE_GAIN = np.sqrt(2)  # what keeps the variance through a (leaky) ReLU
NONLINEARITIES = ("lrelu", "relu")

# Two 3-taps that lie one pixel apart, seen as one 4-tap: row o says which 3-taps fall on tap o.
_FOUR_FROM_THREE = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]], np.float32)
_KERNEL4_FROM_KERNEL3 = np.kron(_FOUR_FROM_THREE, _FOUR_FROM_THREE)  # [16, 9]


def he_std(shape, gain=HE_GAIN):
    """gain / sqrt(fan_in), fan_in being the product of all but the last dimension (He et al. 2015,
    equation 10)."""
    return gain / np.sqrt(np.prod(shape[:-1]))


def dense(x, weight):
    """x [minibatch, in] @ weight [in, out]."""
    return tf.matmul(x, weight)


def conv2d(x, weight):
    """Convolution with stride 1 and zero padding: same height and width."""
    return tf.nn.conv2d(x, weight, strides=1, padding="SAME")


@tf.custom_gradient
def upscale2d(x):
    """Nearest-neighbour upscaling by two: y[i, j] = x[i // 2, j // 2].

    Its adjoint is the sum over 2x2 pixels; TensorFlow's own gradient of this kernel has no second
    derivative.
    """
    shape = tf.shape(x)
    y = tf.raw_ops.ResizeNearestNeighbor(images=x, size=2 * shape[1:3])
    y.set_shape([x.shape[0], *(None if s is None else 2 * s for s in x.shape[1:3]), x.shape[3]])
    return y, lambda dy: 4 * downscale2d(dy)


def downscale2d(x):
    """Mean over 2x2 pixels."""
    return tf.nn.avg_pool2d(x, ksize=2, strides=2, padding="VALID")


def blur2d(x):
    """Depthwise convolution with [1, 2, 1] x [1, 2, 1] / 16, zero padding (StyleGAN, appendix C).

    On a CPU the depthwise kernel and its gradients were 2 to 30 times faster than slices and adds
    or pooling twice.
    """
    taps = np.outer([1, 2, 1], [1, 2, 1]).astype(np.float32) / 16
    kernel = tf.constant(np.tile(taps[:, :, None, None], [1, 1, x.shape[-1], 1]), x.dtype)
    return tf.nn.depthwise_conv2d(x, kernel, strides=[1, 1, 1, 1], padding="SAME")


def add_bias(x, bias):
    """x [..., fmaps] + bias [fmaps].

    Of the short types the bias's gradient is summed in float32: TensorFlow's kernel adds bfloat16
    up in bfloat16, where a sum of some hundred equal numbers stops growing.
    """
    return tf.nn.bias_add(x, bias) if x.dtype == tf.float32 else _add_bias_to_short(x, bias)


@tf.custom_gradient
def _add_bias_to_short(x, bias):
    def gradients(dy):
        return dy, tf.reduce_sum(tf.cast(dy, tf.float32), axis=list(range(len(dy.shape) - 1)))

    return tf.nn.bias_add(x, tf.cast(bias, x.dtype)), gradients


def kernel4(weight, scale=1.0, flip=False):
    """The 4x4 kernel K = w[1:, 1:] + w[:-1, 1:] + w[1:, :-1] + w[:-1, :-1] of a 3x3 kernel
    zero-padded by one, times `scale`.

    `flip` turns the 3x3 kernel by 180 degrees first. Written as a [16, 9] matrix times the kernel:
    sums of slices and their gradients take longer than the convolution itself where there are 512
    maps.
    """
    matrix = _KERNEL4_FROM_KERNEL3[:, ::-1] if flip else _KERNEL4_FROM_KERNEL3
    matrix = tf.constant(matrix * np.float32(scale), weight.dtype)
    fmaps = weight.shape[2:]
    return tf.reshape(tf.matmul(matrix, tf.reshape(weight, [9, -1])), [4, 4, *fmaps])


def upscale_kernel(weight, scale=1.0):
    """The kernel of `fused_upscale`, [4, 4, fmaps out, fmaps in], of a 3x3 kernel times `scale`."""
    return kernel4(tf.transpose(weight, [0, 1, 3, 2]), scale, flip=True)


def fused_upscale(x, kernel):
    """y[2i + o - 1] += x[i] K[o]: transposed convolution of stride 2 with an `upscale_kernel`."""
    shape = tf.shape(x)
    size = [shape[0], 2 * shape[1], 2 * shape[2], kernel.shape[2]]
    return tf.nn.conv2d_transpose(x, kernel, size, strides=2, padding="SAME")


def upscale2d_conv2d(x, weight, fused=False):
    """conv2d(upscale2d(x), weight) for a 3x3 kernel.

    Fused: `fused_upscale`, 2.25 times fewer multiplications, the same function up to rounding.
    """
    if fused:
        return fused_upscale(x, upscale_kernel(weight))
    return conv2d(upscale2d(x), weight)


def downscale_kernel(weight, scale=1.0):
    """The kernel of `fused_downscale`, [4, 4, fmaps in, fmaps out], of a 3x3 kernel times
    `scale`."""
    return kernel4(weight, 0.25 * scale)


def fused_downscale(x, kernel):
    """Convolution of stride 2 with a `downscale_kernel`."""
    return tf.nn.conv2d(x, kernel, strides=2, padding="SAME")


def conv2d_downscale2d(x, weight, fused=False):
    """downscale2d(conv2d(x, weight)) for a 3x3 kernel.

    Fused: `fused_downscale`, 2.25 times fewer multiplications, the same function up to rounding.
    """
    if fused:
        return fused_downscale(x, downscale_kernel(weight))
    return downscale2d(conv2d(x, weight))


def pixel_norm(x, epsilon=1e-8):
    """x / sqrt(mean of x^2 over the last axis + epsilon) (ProGAN, section 4.2). Any rank.

    Computed in float32 whatever the type of x, and returned in that type.
    """
    y = tf.cast(x, tf.float32)
    y *= tf.math.rsqrt(tf.reduce_mean(tf.square(y), axis=-1, keepdims=True) + epsilon)
    return tf.cast(y, x.dtype)


def instance_norm(x, epsilon=1e-8):
    """Zero mean and unit variance over height and width, per sample and map (StyleGAN, equation 1).

    Computed in float32 whatever the type of x, and returned in that type.
    """
    y = tf.cast(x, tf.float32)
    y -= tf.reduce_mean(y, axis=[1, 2], keepdims=True)
    y *= tf.math.rsqrt(tf.reduce_mean(tf.square(y), axis=[1, 2], keepdims=True) + epsilon)
    return tf.cast(y, x.dtype)


@tf.custom_gradient
def leaky_relu(x):
    """max(x, 0.2 x).

    The gradient is told by the output's sign, not the input's: nothing but the output is kept, and
    TensorFlow can compute convolution, bias and activation in one kernel.
    """
    y = tf.nn.leaky_relu(x, 0.2)
    sign = tf.stop_gradient(y)
    return y, lambda dy: tf.raw_ops.LeakyReluGrad(gradients=dy, features=sign, alpha=0.2)


def activate(x, nonlinearity):
    """One of NONLINEARITIES: 'lrelu' is `leaky_relu`, 'relu' max(x, 0)."""
    return leaky_relu(x) if nonlinearity == "lrelu" else tf.nn.relu(x)


def minibatch_stddev(x, group_size=4, num_features=1):
    """Append `num_features` maps that tell how much the samples of a group differ (ProGAN, section
    3).

    Groups have min(group_size, minibatch) samples, and sample i of [G, M] is in group i mod M. Per
    group the stddev (1e-8 under the root) is averaged over pixels and each of `num_features` equal
    ranges of maps, and repeated as a constant map. The minibatch must be a multiple of the group
    size, fmaps of `num_features`.

    Returns [minibatch, height, width, fmaps + num_features].
    """
    shape = tf.shape(x)
    group = tf.minimum(group_size, shape[0])
    height, width, fmaps = x.shape[1:]
    y = tf.cast(x, tf.float32)
    y = tf.reshape(y, [group, -1, height * width, num_features, fmaps // num_features])
    variance = tf.reduce_mean(tf.square(y - tf.reduce_mean(y, axis=0, keepdims=True)), axis=0)
    statistic = tf.reduce_mean(tf.sqrt(variance + 1e-8), axis=[1, 3])  # [M, num_features]
    y = tf.tile(statistic[:, None, None, :], [group, height, width, 1])
    return tf.concat([x, tf.cast(y, x.dtype)], axis=-1)


def style_mod(x, style):
    """x * (s0 + 1) + s1 with style [minibatch, 2 * fmaps] = (s0, s1) (StyleGAN, equation 1)."""
    scale, shift = _scale_and_shift(style)
    return tf.cast(tf.cast(x, tf.float32) * scale + shift, x.dtype)


def _scale_and_shift(style):
    style = tf.reshape(style, [-1, 2, 1, 1, style.shape[-1] // 2])
    return style[:, 0] + 1, style[:, 1]


def adaptive_instance_norm(x, style):
    """style_mod(instance_norm(x), style) for the short types, rounded once.

    Its gradient by x is written out, scale / sigma * (dy - mean(dy) - y mean(dy y)) with y =
    (x - mean(x)) / sigma: nothing but x is kept for it, where TensorFlow would keep three times as
    much in float32.
    """
    return _adaptive_instance_norm(x, *_scale_and_shift(style))


@tf.custom_gradient
def _adaptive_instance_norm(x, scale, shift, epsilon=1e-8):
    def normalised():
        """(x of zero mean and unit variance, 1 / its deviation), float32."""
        y = tf.cast(x, tf.float32)
        mean = tf.reduce_mean(y, axis=[1, 2], keepdims=True)
        variance = tf.reduce_mean(tf.math.squared_difference(y, mean), axis=[1, 2], keepdims=True)
        rsigma = tf.math.rsqrt(variance + epsilon)
        return (y - mean) * rsigma, rsigma

    def gradients(dy):
        """By x, scale and shift; the normalised x is made again and not kept."""
        y, rsigma = normalised()
        dy = tf.cast(dy, tf.float32)
        dshift = tf.reduce_sum(dy, axis=[1, 2], keepdims=True)
        dscale = tf.reduce_sum(dy * y, axis=[1, 2], keepdims=True)
        pixels = tf.cast(tf.shape(x)[1] * tf.shape(x)[2], tf.float32)
        dx = scale * rsigma * (dy - (dshift + y * dscale) / pixels)
        return tf.cast(dx, x.dtype), dscale, dshift

    return tf.cast(normalised()[0] * scale + shift, x.dtype), gradients


def apply_noise(x, noise, weight):
    """x + noise [minibatch or 1, height, width, 1] * weight [fmaps] (StyleGAN, section 2).

    Of the short types as a matrix product, whose gradients are summed in float32.
    """
    if x.dtype == tf.float32:
        return x + noise * weight
    column = tf.reshape(tf.cast(noise, x.dtype), [-1, 1])
    maps = tf.matmul(column, tf.cast(weight, x.dtype)[None])
    return x + tf.reshape(maps, tf.concat([tf.shape(noise)[:3], weight.shape], 0))
