"""A generator of people in other poses.

Source: Siarohin et al. 2018, "Deformable GANs for pose-based human image generation" (pose-gan):
encoders of 64-128-256-512-512-512 maps, one for the source photo with its pose and one for the
target pose, both with skip connections to a decoder. Convolutions, norms and dropout are those of
the U-Net in training/networks_translation.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import tensorflow as tf
from keras import layers

from dnnlib.data.channels import NUM_COLOURS
from dnnlib.tflib.network import NETWORKS
from training.networks_translation import (
    DROPPED_BLOCKS,
    FLOAT32,
    KERNEL,
    MAX_WIDENING,
    TranslationGenerator,
    leaky_layer,
    norm_layer,
    picture_layer,
    upsampled,
)
from training.pose.body import NUM_PARTS, warp_features


class Deformation(layers.Layer):
    """Moves features from the source pose to the target pose; see `warp_features`."""

    def call(self, features: tf.Tensor, source: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        """Return features [N, h, h, fmaps] moved by frames [N, P, 2, 3]."""
        return warp_features(features, source, target)


@NETWORKS.register
class PoseGenerator(TranslationGenerator):
    """(source photo with its heatmaps float32 [N, R, R, 3 + K], target heatmaps [N, R, R, K],
    frames of both poses [N, P, 2, 3] each, dropout masks) -> rgb float32 [N, R, R, 3] in (-1, 1).

    At 128x128 it has two encoders C64-C128-C256-C512-C512-C512 with leaky ReLU, whose first layer
    keeps the size and the others halve it, and a decoder CD512-CD512-CD512-C256-C128-C3, in which
    each layer before the last doubles the size. Each of these is followed by concatenation with
    both encoders' features of its size; the decoder begins with both encoders' last features. The
    source's features are deformed, or left unchanged if `skips` is plain. First layers have no
    norm.
    """

    @dataclass(frozen=True)
    class Options:
        """What defines the network.

        Attributes:
            resolution: a power of two.
            num_keypoints: K.
            skips: deformable or plain; plain skips do not use the frames.
            fmaps: feature maps of the first layer; doubled at each halving, up to 8 times as many.
            halvings: number of halvings in the encoders; at least two pixels must remain.
            norm, dropout: as in UnetGenerator.Options.
        """

        resolution: int
        num_keypoints: int
        skips: str = "deformable"
        fmaps: int = 64
        halvings: int = 5
        norm: str = "instance"
        dropout: float = 0.5
        seed: int = 0

    def inputs(self, source: tf.Tensor, target: tf.Tensor, source_frames: tf.Tensor,
               target_frames: tf.Tensor, masks: Sequence[tf.Tensor] = ()) -> list[tf.Tensor]:
        """Return the model's inputs for the inputs of a call."""
        return [source, target, *self._used(source_frames, target_frames), *masks]

    def _used(self, *frames):
        return frames if self.options.skips == "deformable" else ()

    def _widths(self):
        """Return the feature maps of the encoders' layers."""
        o = self.options
        return [o.fmaps * min(1 << i, MAX_WIDENING) for i in range(o.halvings + 1)]

    @property
    def dropout_shapes(self) -> list[tuple[int, int, int]]:
        """Return the shape [h, w, fmaps] of every mask, the innermost first."""
        o = self.options
        if not o.dropout:
            return []
        blocks = list(enumerate(self._widths()))[:0:-1][:DROPPED_BLOCKS]
        return [(o.resolution >> i - 1, o.resolution >> i - 1, fmaps) for i, fmaps in blocks]

    def make_model(self) -> keras.Model:
        """Return the model that the options define."""
        # Inputs.
        o = self.options
        size = o.resolution, o.resolution
        source = layers.Input((*size, NUM_COLOURS + o.num_keypoints), name="source")
        target = layers.Input((*size, o.num_keypoints), name="target")
        frames = self._used(*(layers.Input((NUM_PARTS, 2, 3), name=f"{name}_frames")
                              for name in ("source", "target")))
        masks = [layers.Input(shape, name=f"mask{i}")
                 for i, shape in enumerate(self.dropout_shapes)]
        # Both encoders.
        skips = []
        for of_source, of_target in zip(self._encoded(source, "source"),
                                        self._encoded(target, "target")):
            if frames:
                # Frames are coordinates, which bfloat16 would round to whole pixels.
                of_source = Deformation(dtype=FLOAT32)(of_source, *frames)
            skips.append(layers.Concatenate()([of_source, of_target]))
        # The decoder.
        widths, x = self._widths(), skips[-1]
        for number, i in enumerate(range(o.halvings, 0, -1)):
            x = upsampled(layers.ReLU()(x), widths[i], KERNEL, f"up{i}")
            x = norm_layer(x, o.norm, f"up{i}_norm")
            if number < len(masks):
                x = layers.Multiply()([x, masks[number]])
            x = layers.Concatenate()([x, skips[i - 1]])
        x = layers.Conv2D(NUM_COLOURS, 3, padding="same", name="last",
                          dtype=FLOAT32)(layers.ReLU()(x))
        return keras.Model([source, target, *frames, *masks], picture_layer(x))

    def _encoded(self, x, name):
        """Return the features of an encoder's layers, [N, h, h, fmaps] each."""
        first, *others = self._widths()
        x = layers.Conv2D(first, 3, padding="same", name=f"{name}_down0", dtype=FLOAT32)(x)
        found = [x]
        for i, fmaps in enumerate(others, 1):
            x = leaky_layer(x, after_bias=i == 1)
            x = layers.Conv2D(fmaps, KERNEL, 2, "same", use_bias=False, name=f"{name}_down{i}")(x)
            x = norm_layer(x, self.options.norm, f"{name}_down{i}_norm")
            found.append(x)
        return found
