"""Endless minibatches of labelled pictures from one source or two, and their random changes."""

import collections
import concurrent.futures
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from dnnlib.data import channels
from dnnlib.data.labelled import LabelledPictures
from dnnlib.tflib.distribute import Draws
from training.dataset import permutation
from training.segmentation.config import SegmenterConfig

_THREADS = min(os.cpu_count() or 1, 4)


class LabelledBatch(NamedTuple):
    """Some labelled pictures.

    Attributes:
        rgb: uint8 [N, R, R, 3].
        label_maps: uint8 [N, R, R], 0..C and channels.IGNORE.
    """

    rgb: tf.Tensor
    label_maps: tf.Tensor


class Source(NamedTuple):
    """Where a part of every minibatch comes from: `share` of the pictures with these numbers."""

    pictures: LabelledPictures
    numbers: Sequence[int]
    share: int
    name: str = ""


class LabelledStream:
    """Endless LabelledBatches: `share` pictures of every source, each in permutations of its own.
    """

    def __init__(self, sources: Sequence[Source], seed: int, start_nimg: int = 0,
                 rows: Sequence[int] | None = None):
        """
        Args:
            start_nimg: the picture to begin with, a multiple of the minibatch.
            rows: places in a minibatch that are read, such as a worker's; None for all.
        """
        self._sources, self._seed = sources, seed
        self._step = start_nimg // sum(source.share for source in sources)
        self._places = [(index, place) for index, source in enumerate(sources)
                        for place in range(source.share)]
        if rows is not None:
            self._places = [self._places[row] for row in rows]

    def __iter__(self) -> Iterator[LabelledBatch]:
        """Yield batches for ever, some of them read ahead by threads."""
        pending, step = collections.deque(), self._step
        pool = concurrent.futures.ThreadPoolExecutor(_THREADS, "pictures")
        try:
            while True:
                pending.append(pool.submit(self._load, step))
                step += 1
                if len(pending) > 2 * _THREADS:
                    yield pending.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _load(self, step):
        """Return the batch of a step."""
        orders, pairs = {}, []
        for index, place in self._places:
            pictures, numbers, share, _ = self._sources[index]
            epoch, position = divmod(step * share + place, len(numbers))
            if (index, epoch) not in orders:
                orders[index, epoch] = permutation(self._seed + index, epoch, len(numbers))
            pairs.append(pictures.read(numbers[orders[index, epoch][position]]))
        rgb, label_maps = (np.stack(parts) for parts in zip(*pairs))
        with tf.device("CPU:0"):
            return LabelledBatch(tf.constant(rgb), tf.constant(label_maps))


def shares(minibatch: int, mix: float) -> tuple[int, int]:
    """Return how many pictures of a minibatch come from the first source and from the second."""
    second = round(minibatch * mix)
    return minibatch - second, second


def process_pictures(batch: LabelledBatch, draws: Draws, config: SegmenterConfig,
                     mirrored_labels: Sequence[int] | None) -> tuple[tf.Tensor, tf.Tensor]:
    """Return rgb float32 [N, R, R, 3] in [-1, 1] and label maps int32 [N, R, R], changed at random.

    Args:
        mirrored_labels: for every label the one that it becomes in a mirrored picture; None if all
            stay.
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
        rgb, label_maps = zoomed(rgb, label_maps, config.zoom, draws)
    return rgb, label_maps[..., 0]


def zoomed(rgb: tf.Tensor, label_maps: tf.Tensor, limit: float,
           draws: Draws) -> tuple[tf.Tensor, tf.Tensor]:
    """Return pictures and label maps [N, R, R, ...] enlarged by 1 / limit to limit and moved.

    An enlarged picture is moved within its frame, a reduced one within the new frame, where what
    it leaves has label IGNORE and repeats its border.
    """
    side = rgb.shape[1]
    scale = limit ** (2 * draws.uniform("zoom") - 1)  # [N]
    room = (side - 1) / 2 * tf.abs(1 - 1 / scale)
    middle = (side - 1) / 2
    shift_x, shift_y = (room * (2 * draws.uniform(f"shift_{axis}") - 1) for axis in "xy")
    zeros = tf.zeros_like(scale)
    # Output pixel x comes from input pixel x / scale + offset.
    offset = middle * (1 - 1 / scale)
    transforms = tf.stack([1 / scale, zeros, offset + shift_x, zeros, 1 / scale, offset + shift_y,
                           zeros, zeros], axis=1)
    common = {"transforms": transforms, "output_shape": [side, side]}
    rgb = tf.raw_ops.ImageProjectiveTransformV3(
        images=rgb, interpolation="BILINEAR", fill_mode="NEAREST", fill_value=0.0, **common)
    label_maps = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(label_maps, tf.float32), interpolation="NEAREST", fill_mode="CONSTANT",
        fill_value=float(channels.IGNORE), **common)
    return rgb, tf.cast(label_maps, tf.int32)
