"""The 2015-12-05 Inception in our own operations: images -> pool_3 features and probabilities.

Convolutions, batch norms and ReLUs follow `inception_layers.TRUNK`; the numbers of maps are those
of the weights. Images are resized inside, as the original graph does it.
"""

import numpy as np
import tensorflow as tf

from metrics.features import MINIBATCH
from metrics.inception_layers import TRUNK, Conv, Pool, kernel_shapes
from metrics.inception_weights import DIGEST, LOGITS, find_weights

SIZE = 299
EPSILON = 0.001
RESIZE = f"the graph's own bilinear to {SIZE}x{SIZE}: no aligned corners, no half-pixel centres"


class Inception:
    """A detector of features.

    Attributes: minibatch (images that go through the network at a time), num_features (2048),
    replicas (functions that do what `features` does, each on a device of its own), has_logits,
    digest (sha256 of the weights up to pool_3), logits_digest (and the last layer's, None without
    it), name, resize_rule.
    """

    resize_rule = RESIZE

    def __init__(self, weights, minibatch=MINIBATCH, layers=TRUNK, devices=None):
        """weights: metrics.inception_weights.Weights; devices: all GPUs, else the CPU."""
        self.minibatch = minibatch
        self.digest = weights.digest
        self.has_logits = weights.has_logits
        self.logits_digest = weights.logits_digest
        published = self.digest == DIGEST
        self.name = "inception-2015-12-05" if published else f"weights from {weights.source}"
        self.num_features = kernel_shapes(layers, fmaps_of=lambda conv: _fmaps(weights, conv))[1]
        self._last_layer = weights.arrays.get(LOGITS)
        kernels = {scope: _fold(weights.arrays, scope) for scope in kernel_shapes(layers)[0]}
        self._trunks = [_Trunk(layers, kernels, minibatch, device)
                        for device in devices or default_devices()]
        self.replicas = [trunk.features for trunk in self._trunks]

    def resize(self, images):
        """uint8 [N, H, W, 3] -> float32 [N, 299, 299, 3] in [0, 255], on the CPU."""
        with tf.device("CPU:0"):
            return self._resize(tf.constant(images)).numpy()

    def features(self, resized):
        """float32 [N <= minibatch, 299, 299, 3] of `resize` -> pool_3 float32 [N, num_features]."""
        return self.replicas[0](resized)

    def probabilities(self, features):
        """pool_3 [N, num_features] -> p(y|x) float32 [N, 1008]: softmax without the final bias.

        All outputs of the graph count and the bias is left out, as in the original Inception Score
        (Salimans et al. 2016, code) and in is50k.
        """
        logits = features @ self._last_layer
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        return p / p.sum(axis=1, keepdims=True)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
    def _resize(self, images):
        return tf.raw_ops.ResizeBilinear(images=tf.cast(images, tf.float32), size=[SIZE, SIZE],
                                         align_corners=False, half_pixel_centers=False)


class _Trunk:
    """The network up to pool_3 with its weights on one device."""

    def __init__(self, layers, kernels, minibatch, device):
        """kernels: {scope: (kernel, bias)}."""
        self._layers, self._minibatch, self._device = layers, minibatch, device
        with tf.device(device):
            self._convs = {scope: tuple(map(tf.constant, pair)) for scope, pair in kernels.items()}

    def features(self, resized):
        """Inception.features. Smaller batches are filled up: there is one shape and one trace."""
        count = len(resized)
        if count < self._minibatch:
            fill = np.zeros((self._minibatch - count, *resized.shape[1:]), resized.dtype)
            resized = np.concatenate([resized, fill])
        with tf.device(self._device):
            return self._pool_3(tf.constant(resized)).numpy()[:count]

    @tf.function(reduce_retracing=True)
    def _pool_3(self, resized):
        return tf.reduce_mean(self._run(self._layers, (resized - 128) / 128), axis=[1, 2])

    def _run(self, layers, x):
        """Pass x [N, H, W, C] through layers."""
        for layer in layers:
            if isinstance(layer, Conv):
                kernel, bias = self._convs[layer.scope]
                x = tf.nn.relu(tf.nn.conv2d(x, kernel, layer.stride, layer.padding) + bias)
            elif isinstance(layer, Pool):
                pool = {"max": tf.nn.max_pool2d, "average": tf.nn.avg_pool2d}[layer.kind]
                x = pool(x, 3, layer.stride, layer.padding)
            else:
                x = tf.concat([self._run(branch, x) for branch in layer.branches], axis=-1)
        return x


def default_devices():
    """The names of all GPUs, or of the CPU where there is none."""
    return [device.name for device in tf.config.list_logical_devices("GPU")] or ["CPU:0"]


def load_detector(path=None, need_logits=False, minibatch=MINIBATCH, report=print):
    """The detector with the weights that `find_weights` finds; raises what it raises."""
    return Inception(find_weights(path, need_logits, report), minibatch)


def _fmaps(weights, conv):
    return weights.arrays[f"{conv.scope}/batchnorm/beta"].size


def _fold(arrays, scope):
    """Kernel and bias that do convolution and batch norm at once.

    kernel / sqrt(variance + eps), beta - mean / sqrt(variance + eps); the network has no gamma.
    """
    mean, variance, beta = (arrays[f"{scope}/batchnorm/{part}"].astype(np.float64)
                            for part in ("moving_mean", "moving_variance", "beta"))
    scale = 1 / np.sqrt(variance + EPSILON)
    return (np.float32(arrays[f"{scope}/conv2d_params"] * scale),
            np.float32(beta - mean * scale))
