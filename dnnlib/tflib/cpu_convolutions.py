"""The convolutions of `ops` in the forms that suit a CPU: for the short types.

Where a CPU has bfloat16 instructions, oneDNN's convolutions run 1.9 times faster in bfloat16 than
in float32, but its gradients by the kernel only 1.1 to 1.6 times. As matrix products of shifted
images these are 1.1 to 9 times faster than oneDNN's where the matrices are wide enough
(`_products_pay`).

Where it has none, and for float16 on every CPU, TensorFlow takes generic kernels. They are 7 to 15
times slower than those of float32, and gradients add bfloat16 up in bfloat16. There a convolution
is computed in float32 from its short inputs, and its result is rounded once.

`_convolve` and `_scatter` are each other's adjoints, and linear in either argument: with
`kernel_gradient` they are closed under differentiation, as often as one likes.
"""

import functools

import tensorflow as tf


def conv2d(x, weight):
    """As ops.conv2d."""
    return _convolve(x, weight)


def fused_downscale(x, kernel):
    """As ops.fused_downscale."""
    return _convolve(x, kernel)


def fused_upscale(x, kernel):
    """As ops.fused_upscale."""
    return _scatter(x, kernel)


def _stride(kernel):
    """2 for the 4x4 kernels of the fused forms, else 1."""
    return 2 if kernel.shape[0] == 4 else 1


@functools.cache
def _bfloat16_sums_are_float32():
    """Return whether this CPU's convolutions add bfloat16 up in float32: 1024 ones make 1024."""
    with tf.init_scope(), tf.device("/cpu:0"):
        ones = tf.ones([1, 4, 4, 1024], tf.bfloat16)
        total = tf.nn.conv2d_transpose(ones, tf.ones([1, 1, 1, 1024], tf.bfloat16), [1, 4, 4, 1],
                                       strides=1, padding="SAME")
        return bool(tf.reduce_all(total == 1024))


def _has_kernels(dtype):
    """Return whether this CPU computes convolutions of `dtype` in `dtype`."""
    return dtype == tf.float32 or (dtype == tf.bfloat16 and _bfloat16_sums_are_float32())


def _compute(function, *tensors):
    """Return function(*tensors), computed in a type that the CPU has, in the type of `tensors`."""
    dtype = tensors[0].dtype
    if _has_kernels(dtype):
        return function(*tensors)
    return tf.cast(function(*(tf.cast(tensor, tf.float32) for tensor in tensors)), dtype)


@tf.custom_gradient
def _convolve(x, kernel):
    """x [N, H, W, C], kernel [size, size, C, D] -> [N, H / stride, W / stride, D], zero padding."""
    y = _compute(functools.partial(tf.nn.conv2d, strides=_stride(kernel), padding="SAME"), x,
                 kernel)
    return y, lambda dy: (_scatter(dy, kernel), kernel_gradient(x, dy, kernel.shape[0]))


@tf.custom_gradient
def _scatter(y, kernel):
    """y [N, h, w, D], kernel [size, size, C, D] -> [N, stride * h, stride * w, C]."""
    stride, shape = _stride(kernel), tf.shape(y)
    size = [shape[0], stride * shape[1], stride * shape[2], kernel.shape[2]]
    x = _compute(functools.partial(tf.nn.conv2d_transpose, output_shape=size, strides=stride,
                                   padding="SAME"), y, kernel)
    return x, lambda dx: (_convolve(dx, kernel), kernel_gradient(dx, y, kernel.shape[0]))


def _products_pay(x, size):
    """Return whether matrix products with fmaps x (4 with stride 2) rows beat oneDNN's gradient:
    from 256 rows on, measured on two CPU cores with bfloat16."""
    return x.shape[3] * (4 if size == 4 else 1) >= 256 and _has_kernels(x.dtype)


def kernel_gradient(x, dy, size):
    """The gradient of sum(dy * convolution of x) by the kernel, [size, size, C, D].

    x: [N, H, W, C]. dy: [N, H / stride, W / stride, D]. size: 1 or 3, stride 1; or 4, stride 2.
    """
    if not _products_pay(x, size):
        shape = tf.stack([size, size, x.shape[3], dy.shape[3]])
        strides = [1, 2, 2, 1] if size == 4 else [1, 1, 1, 1]
        return _compute(lambda x, dy: tf.raw_ops.Conv2DBackpropFilter(
            input=x, filter_sizes=shape, out_backprop=dy, strides=strides, padding="SAME"), x, dy)
    if size == 4:
        return _blocks_gradient(x, dy)
    edge = [size // 2] * 2
    taps = _products(tf.pad(x, [[0, 0], edge, edge, [0, 0]]), dy, size)
    return tf.reshape(taps, [size, size, x.shape[3], dy.shape[3]])


def _blocks_gradient(x, dy):
    """`kernel_gradient` of a 4x4 kernel with stride 2: 2x2 taps on blocks of 2x2 pixels."""
    blocks = tf.nn.space_to_depth(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), 2)
    taps = tf.reshape(_products(blocks, dy, 2), [2, 2, 2, 2, x.shape[3], dy.shape[3]])
    return tf.reshape(tf.transpose(taps, [0, 2, 1, 3, 4, 5]), [4, 4, x.shape[3], dy.shape[3]])


def _products(x, dy, size):
    """[size^2, C, D]: for every tap the product of dy [N, h, w, D] and x [N, h + size - 1,
    w + size - 1, C] from the tap on."""
    height, width = dy.shape[1:3]
    parts = [x[:, i:i + height, j:j + width] for i in range(size) for j in range(size)]
    dy = tf.reshape(dy, [-1, dy.shape[3]])
    return tf.stack([tf.matmul(tf.reshape(part, [-1, x.shape[3]]), dy, transpose_a=True)
                     for part in parts])
