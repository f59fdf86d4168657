"""VGG16's convolutions (Simonyan and Zisserman 2015, configuration D), as perceptual features."""

from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from dnnlib.tflib.vgg16_weights import BLOCKS, conv_names

SMALLEST = 1 << len(BLOCKS) - 1  # side of the smallest image that has pixels in the last block


class Vgg16:
    """The convolutions of VGG16, for images float32 [N, H, W, 3] in [0, 255]."""

    def __init__(self, arrays: dict[str, np.ndarray], blocks: tuple = BLOCKS):
        """Take the arrays of `vgg16_weights.read_weights`."""
        self._shift, self._scale = (arrays[f"scaling_layer.{part}"].reshape(3)
                                    for part in ("shift", "scale"))
        self._convs = [[(tf.constant(arrays[f"{name}.weight"].transpose(2, 3, 1, 0)),  # HWIO
                         tf.constant(arrays[f"{name}.bias"])) for name in names]
                       for names in conv_names(blocks)]

    def blocks(self, images: tf.Tensor) -> Iterator[list[tf.Tensor]]:
        """Yield the activations of every block, [N, h, w, fmaps] after each ReLU."""
        x = (images / 127.5 - 1 - self._shift) / self._scale
        for number, convs in enumerate(self._convs):
            if number:
                x = tf.nn.max_pool2d(x, 2, 2, "VALID")
            activations = []
            for kernel, bias in convs:
                x = tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME") + bias)
                activations.append(x)
            yield activations

    def relus(self, images: tf.Tensor, names: Sequence[tuple[int, int]]) -> list[tf.Tensor]:
        """Return the activations of the ReLUs `names`, in this order; (3, 2) is relu3_2."""
        found = {}
        for number, activations in enumerate(self.blocks(images), 1):
            found |= {(number, i): x for i, x in enumerate(activations, 1)}
            if number == max(block for block, _ in names):
                break
        return [found[name] for name in names]
