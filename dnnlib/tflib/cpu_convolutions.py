"""The convolutions of `ops` for bfloat16 on a CPU.

If a CPU has bfloat16 instructions, oneDNN's convolutions are 1.9 times faster in bfloat16 than in
float32, but its gradients by the kernel only 1.1 to 1.6 times. As matrix products of shifted
images, these gradients are 1.1 to 9 times faster than oneDNN's if the matrices are wide enough.

If a CPU has none, gradients use generic kernels. They are 11 to 18 times slower than those for
float32, and sum bfloat16 in bfloat16. A convolution is then computed in float32 from its bfloat16
inputs, and its result is rounded once.

`conv2d` and `fused_upscale` are each other's adjoints, and linear in either argument: together with
`_kernel_gradient` they can be differentiated any number of times.
"""

import functools

import tensorflow as tf


def _stride(kernel):
    """Return 2 for the 4x4 kernels of fused resampling, else 1."""
    return 2 if kernel.shape[0] == 4 else 1


@functools.cache
def sums_are_float32(dtype: tf.DType) -> bool:
    """Return whether this CPU's convolutions of `dtype` sum in float32: 1024 ones make 1024."""
    with tf.init_scope(), tf.device("/cpu:0"):
        ones = tf.ones([1, 4, 4, 1024], dtype)
        total = tf.nn.conv2d_transpose(ones, tf.ones([1, 1, 1, 1024], dtype), [1, 4, 4, 1],
                                       strides=1, padding="SAME")
        return bool(tf.reduce_all(total == 1024))


def _compute(function, *tensors):
    """Return function(*tensors), computed in float32 if sums in the tensors' type are inexact."""
    dtype = tensors[0].dtype
    if sums_are_float32(dtype):
        return function(*tensors)
    return tf.cast(function(*(tf.cast(tensor, tf.float32) for tensor in tensors)), dtype)


@tf.custom_gradient
def conv2d(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Compute ops.conv2d, or with a 4x4 kernel ops.fused_downscale: x [N, H, W, C] and kernel
    [size, size, C, D] to [N, H / stride, W / stride, D]."""
    y = _compute(functools.partial(tf.nn.conv2d, strides=_stride(kernel), padding="SAME"), x,
                 kernel)
    return y, lambda dy: (fused_upscale(dy, kernel), _kernel_gradient(x, dy, kernel.shape[0]))


fused_downscale = conv2d


@tf.custom_gradient
def fused_upscale(y: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Compute ops.fused_upscale, the adjoint of `conv2d`: y [N, h, w, D] to [N, stride * h,
    stride * w, C]."""
    stride, shape = _stride(kernel), tf.shape(y)
    size = [shape[0], stride * shape[1], stride * shape[2], kernel.shape[2]]
    x = _compute(functools.partial(tf.nn.conv2d_transpose, output_shape=size, strides=stride,
                                   padding="SAME"), y, kernel)
    return x, lambda dx: (conv2d(dx, kernel), _kernel_gradient(dx, y, kernel.shape[0]))


def _kernel_gradient(x, dy, size):
    """Return the gradient of sum(dy * convolution of x) by the kernel, [size, size, C, D].

    x is [N, H, W, C], dy [N, H / stride, W / stride, D].
    """
    # Matrix products with fmaps x (4 with stride 2) rows are faster than oneDNN's gradient from 256
    # rows on, measured on two CPU cores with bfloat16.
    rows = x.shape[3] * (4 if size == 4 else 1)
    if rows < 256 or not sums_are_float32(x.dtype):
        shape = tf.stack([size, size, x.shape[3], dy.shape[3]])
        strides = [1, 2, 2, 1] if size == 4 else [1, 1, 1, 1]
        return _compute(lambda x, dy: tf.raw_ops.Conv2DBackpropFilter(
            input=x, filter_sizes=shape, out_backprop=dy, strides=strides, padding="SAME"), x, dy)
    if size == 4:  # with stride 2: 2x2 taps on blocks of 2x2 pixels
        blocks = tf.nn.space_to_depth(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), 2)
        taps = tf.reshape(_products(blocks, dy, 2), [2, 2, 2, 2, x.shape[3], dy.shape[3]])
        return tf.reshape(tf.transpose(taps, [0, 2, 1, 3, 4, 5]), [4, 4, x.shape[3], dy.shape[3]])
    edge = [size // 2] * 2
    taps = _products(tf.pad(x, [[0, 0], edge, edge, [0, 0]]), dy, size)
    return tf.reshape(taps, [size, size, x.shape[3], dy.shape[3]])


def _products(x, dy, size):
    """Return for every tap the product of dy [N, h, w, D] and x [N, h + size - 1, w + size - 1, C]
    shifted by the tap, [size^2, C, D]."""
    height, width = dy.shape[1:3]
    parts = [x[:, i:i + height, j:j + width] for i in range(size) for j in range(size)]
    dy = tf.reshape(dy, [-1, dy.shape[3]])
    return tf.stack([tf.matmul(tf.reshape(part, [-1, x.shape[3]]), dy, transpose_a=True)
                     for part in parts])
