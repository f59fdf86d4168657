"""The 2015-12-05 Inception in our own operations: images -> pool_3 features and probabilities.

Convolutions, batch norms and ReLUs follow `inception_layers.TRUNK`; the weights give the numbers of
fmaps. Images are resized inside, as in the original graph.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from metrics.features import MINIBATCH
from metrics.networks.inception_layers import TRUNK, Conv, Pool, kernel_shapes
from metrics.networks.inception_weights import DIGEST, LOGITS, PARTS, Weights, find_inception

SIZE = 299
EPSILON = 0.001
RESIZE = f"the graph's own bilinear to {SIZE}x{SIZE}: no aligned corners, no half-pixel centres"


class Inception:
    """A detector of features.

    Attributes: minibatch (images that go through the network at a time), num_features (2048),
    replicas (functions like `features`, each on its own device), has_logits, digest (sha256 of the
    weights up to pool_3), logits_digest (sha256 of all weights, None without the last layer), name,
    resize_rule.
    """

    resize_rule = RESIZE

    def __init__(self, weights: Weights, minibatch: int = MINIBATCH, layers: tuple = TRUNK,
                 devices: Sequence[str] | None = None):
        """Build the network on `devices`, by default all GPUs, else the CPU."""
        self.minibatch, self.has_logits = minibatch, weights.has_logits
        self.digest, self.logits_digest = weights.digest, weights.logits_digest
        published = self.digest == DIGEST
        self.name = "inception-2015-12-05" if published else f"weights from {weights.source}"
        shapes, self.num_features = kernel_shapes(
            layers, fmaps_of=lambda conv: weights.arrays[f"{conv.scope}/batchnorm/beta"].size)
        self._last_layer = weights.arrays.get(LOGITS)
        kernels = {}
        for scope in shapes:  # fold batch norms into convolutions; the network has no gamma
            kernel, beta, mean, variance = (weights.arrays[f"{scope}/{part}"].astype(np.float64)
                                            for part in PARTS)
            scale = 1 / np.sqrt(variance + EPSILON)
            kernels[scope] = np.float32(kernel * scale), np.float32(beta - mean * scale)
        self._trunks = [_Trunk(layers, kernels, minibatch, device)
                        for device in devices or default_devices()]
        self.replicas = [trunk.features for trunk in self._trunks]

    def resize(self, images: np.ndarray) -> np.ndarray:
        """Resize uint8 [N, H, W, 3] to float32 [N, 299, 299, 3] in [0, 255], on the CPU."""
        with tf.device("CPU:0"):
            return tf.raw_ops.ResizeBilinear(images=tf.cast(images, tf.float32), size=[SIZE, SIZE],
                                             align_corners=False, half_pixel_centers=False).numpy()

    def features(self, resized: np.ndarray) -> np.ndarray:
        """Return pool_3, float32 [N, num_features], for float32 [N <= minibatch, 299, 299, 3]."""
        return self.replicas[0](resized)

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Return p(y|x), float32 [N, 1008], of pool_3 [N, num_features].

        All outputs of the graph are used and the bias is left out, as in the original Inception
        Score (Salimans et al. 2016, code) and in is50k.
        """
        logits = features @ self._last_layer
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        return p / p.sum(axis=1, keepdims=True)


class _Trunk:
    """The network up to pool_3 with its kernels {scope: (kernel, bias)} on one device."""

    def __init__(self, layers, kernels, minibatch, device):
        self._layers, self._minibatch, self._device = layers, minibatch, device
        with tf.device(device):
            self._convs = {scope: tuple(map(tf.constant, pair)) for scope, pair in kernels.items()}

    def features(self, resized: np.ndarray) -> np.ndarray:
        """Do the work of Inception.features; fill up smaller batches, for one shape and trace."""
        count = len(resized)
        if count < self._minibatch:
            resized = np.pad(resized, [(0, self._minibatch - count), (0, 0), (0, 0), (0, 0)])
        with tf.device(self._device):
            return self._pool_3(tf.constant(resized)).numpy()[:count]

    @tf.function(autograph=False, reduce_retracing=True)
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


def default_devices() -> list[str]:
    """Return the names of all GPUs, or of the CPU if there is none."""
    return [device.name for device in tf.config.list_logical_devices("GPU")] or ["CPU:0"]


def load_detector(path: str | Path | None = None, need_logits: bool = False,
                  minibatch: int = MINIBATCH, report: Callable[[str], None] = print) -> Inception:
    """Return the detector with the weights that `find_inception` finds; raise what it raises."""
    return Inception(find_inception(path, need_logits, report), minibatch)
