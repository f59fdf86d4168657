"""LPIPS: how different two images look (Zhang et al., "The Unreasonable Effectiveness of Deep
Features as a Perceptual Metric", 2018, section 3), version 0.1 with VGG16."""

from collections.abc import Callable, Sequence
from pathlib import Path

import tensorflow as tf

from dnnlib.tflib.vgg16 import SMALLEST, Vgg16
from dnnlib.tflib.vgg16_weights import BLOCKS, DIGEST, find_weights
from dnnlib.util import arrays_digest

EPSILON = 1e-10  # added to a feature vector's length


class Lpips:
    """The distance: callable (images, images float32 [N, H, W, 3] in [0, 255]) -> float32 [N].

    Attributes: digest (sha256 of the weights), name, vgg.
    """

    def __init__(self, weights_path: str | Path | None = None, blocks: tuple = BLOCKS,
                 report: Callable[[str], None] = print):
        """Read the weights. Raises UserError as `vgg16_weights.find_weights` does."""
        arrays, source = find_weights(weights_path, blocks, report)
        self.digest = arrays_digest(arrays)
        self.name = "lpips-0.1-vgg" if self.digest == DIGEST else f"weights from {source}"
        self.vgg = Vgg16(arrays, blocks)
        self._weights = [tf.constant(arrays[f"lin{i}.model.1.weight"].reshape(-1))
                         for i in range(len(blocks))]

    def __call__(self, images1: tf.Tensor, images2: tf.Tensor) -> tf.Tensor:
        """Return the distances. Raises ValueError for images smaller than 16 pixels."""
        features = self.features(tf.concat([images1, images2], axis=0))
        return self.distance(*zip(*(tf.split(x, 2) for x in features)))

    def features(self, images: tf.Tensor) -> list[tf.Tensor]:
        """Return the last activations of every block, [N, h, w, fmaps], normalised to length 1.

        Raises ValueError for images smaller than 16 pixels.
        """
        if min(images.shape[1:3]) < SMALLEST:
            raise ValueError(f"images are {images.shape}: LPIPS needs {SMALLEST} pixels or more")
        return [_unit_length(activations[-1]) for activations in self.vgg.blocks(images)]

    def distance(self, features1: Sequence[tf.Tensor], features2: Sequence[tf.Tensor]) -> tf.Tensor:
        """Return [N], summed over blocks, the mean over pixels of sum_c weight_c (f1_c - f2_c)^2
        (eq. 1)."""
        return tf.add_n([
            tf.reduce_mean(tf.tensordot(tf.square(first - second), weights, 1), axis=[1, 2])
            for first, second, weights in zip(features1, features2, self._weights)])


def _unit_length(x):
    """Return x / (|x| + eps) over the last axis; TensorFlow's gradient of it is finite at 0."""
    return x / (tf.sqrt(tf.reduce_sum(tf.square(x), axis=-1, keepdims=True)) + EPSILON)
