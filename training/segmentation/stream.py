"""Minibatches of labelled pictures from one source or two, and their random changes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from dnnlib.data import channels
from dnnlib.data.labelled import LabelledPictures
from dnnlib.tflib.distribute import Draws
from training.dataset import affine_transform, shuffled_index
from training.segmentation.config import SegmenterConfig


class LabelledBatch(NamedTuple):
    """A minibatch of labelled pictures.

    Attributes:
        rgb: uint8 [N, R, R, 3].
        label_maps: uint8 [N, R, R], 0..C and channels.IGNORE.
    """

    rgb: np.ndarray | tf.Tensor
    label_maps: np.ndarray | tf.Tensor


class Source(NamedTuple):
    """A source of a part of every minibatch.

    Attributes:
        numbers: numbers of the pictures to use.
        share: how many pictures of a minibatch come from this source.
    """

    pictures: LabelledPictures
    numbers: Sequence[int]
    share: int
    name: str = ""


def read_labelled(sources: Sequence[Source], seed: int, places: Sequence[int]) -> LabelledBatch:
    """Return the pictures at some places of an endless stream.

    Each of its minibatches has `share` pictures of every source; each source has its own endless
    permutations.
    """
    rows = [(index, row) for index, source in enumerate(sources) for row in range(source.share)]
    pairs = []
    for place in places:
        step, (index, row) = place // len(rows), rows[place % len(rows)]
        pictures, numbers, share, _ = sources[index]
        chosen = shuffled_index(seed, len(numbers), step * share + row, index)
        pairs.append(pictures.read(numbers[chosen]))
    return LabelledBatch(*map(np.stack, zip(*pairs)))


def split_minibatch(minibatch: int, mix: float) -> tuple[int, int]:
    """Return how many pictures of a minibatch come from the first and from the second source."""
    second = round(minibatch * mix)
    return minibatch - second, second


def process_pictures(batch: LabelledBatch, draws: Draws, config: SegmenterConfig,
                     mirrored_labels: Sequence[int] | None) -> tuple[tf.Tensor, tf.Tensor]:
    """Return rgb float32 [N, R, R, 3] in [-1, 1] and label maps int32 [N, R, R], changed at random.

    Args:
        mirrored_labels: for every label, its label in a mirrored picture; None if all are the same.
    """
    rgb = tf.cast(batch.rgb, tf.float32) / 127.5 - 1
    label_maps = tf.cast(batch.label_maps, tf.int32)[..., None]  # [N, R, R, 1]
    if config.mirror:
        flip = tf.reshape(draws.uniform("mirror") < 0.5, [-1, 1, 1, 1])
        mirrored = tf.reverse(label_maps, [2])
        if mirrored_labels is not None:
            table = [*mirrored_labels, *range(len(mirrored_labels), channels.IGNORE + 1)]
            mirrored = tf.gather(table, mirrored)
        rgb = tf.where(flip, tf.reverse(rgb, [2]), rgb)
        label_maps = tf.where(flip, mirrored, label_maps)
    if config.zoom > 1:
        rgb, label_maps = zoom_randomly(rgb, label_maps, config.zoom, draws)
    return rgb, label_maps[..., 0]


def zoom_randomly(rgb: tf.Tensor, label_maps: tf.Tensor, limit: float,
                  draws: Draws) -> tuple[tf.Tensor, tf.Tensor]:
    """Return pictures and label maps [N, R, R, ...] scaled by 1 / limit to limit and moved.

    An enlarged picture always fills the frame. A reduced one is placed anywhere inside it; around
    it, its border pixels are repeated and have the label IGNORE.
    """
    side = rgb.shape[1]
    scale = limit ** (2 * draws.uniform("zoom") - 1)  # [N]
    room = (side - 1) / 2 * tf.abs(1 - 1 / scale)
    middle = (side - 1) / 2
    shift_x, shift_y = (room * (2 * draws.uniform(f"shift_{axis}") - 1) for axis in "xy")
    # Output pixel x comes from input pixel x / scale + offset.
    offset = middle * (1 - 1 / scale)
    places = (1 / scale, 0, offset + shift_x), (0, 1 / scale, offset + shift_y)
    label_maps = affine_transform(tf.cast(label_maps, tf.float32), *places, "NEAREST", "CONSTANT",
                                  float(channels.IGNORE))
    return affine_transform(rgb, *places), tf.cast(label_maps, tf.int32)
