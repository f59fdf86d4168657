"""From records to what discriminators see: an endless stream of minibatches, and its processing.

The records of a level are indexed once. Their order is a permutation that depends on (seed, epoch),
so a position in the endless stream is one integer, and any position can be reached at once.
"""

import functools
import itertools
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from dnnlib.data import tfrecords
from dnnlib.data.channels import NUM_COLOURS, RGB, SEGMAPS
from dnnlib.data.dataset import check_label_sizes, open_dataset, open_split, read_labels
from dnnlib.process_pool import threaded_map
from dnnlib.tflib import ops
from dnnlib.util import UserError
from training.config import TrainingConfig
from training.gan.balance import epoch_draws

_RGB_AND_BINARY = NUM_COLOURS + 1
THREADS = min(os.cpu_count() or 1, 4)  # threads that read minibatches ahead


class Batch(NamedTuple):
    """A minibatch of records.

    Attributes:
        images: uint8 [N, resolution, resolution, num_channels].
        labels: float32 [N, label_size]; label_size is 0 if the data sets have no labels.
    """

    images: tf.Tensor
    labels: tf.Tensor


class TrainingStream:
    """Endless minibatches of one or more data sets, each a Batch.

    Sample k is record permutation(seed, k // n, n)[k % n] of the n records of all directories
    together. If some records are drawn more often than others, it is draw permutation(...)[k % n]
    of the n draws of epoch k // n.

    Attributes:
        num_images: number of records in all directories.
        labels: float32 [num_images, label_size], those of the first epoch, ordered by record.
    """

    def __init__(self, directories: Sequence[str | Path], split: str = "train", *, resolution: int,
                 num_channels: int, minibatch: int, seed: int, start_nimg: int = 0,
                 rows: Sequence[int] | None = None, factors: np.ndarray | None = None):
        """
        Args:
            directories: data sets. Those without maps can be used only with three channels.
            num_channels: 3, 4 (RGB and the binary map: the sum of the class maps, which exclude
                each other) or 3 + C.
            minibatch: samples from one Batch to the next.
            start_nimg: the sample to begin with: a run that stopped after nimg images continues
                with start_nimg=nimg.
            rows: positions in a minibatch, such as a worker's share; only those samples are read,
                in this order. None for all.
            factors: how often each record is drawn in an epoch on average, float64 [num_images],
                from training.gan.balance.photo_factors; None for once each.

        Raises:
            UserError: a directory lacks the split, the resolution or the channels, or its labels
                differ in size from the others'.
        """
        infos = [open_dataset(directory) for directory in directories]
        self._files = [open_split(info, split, resolution) for info in infos]
        _check_channels(infos, num_channels)
        check_label_sizes(infos)
        self._labels = np.concatenate([read_labels(info.path, split) for info in infos])
        self._starts = np.cumsum([0] + [len(file) for file in self._files])
        self.num_images = int(self._starts[-1])
        self._decode = _decoder(infos[0].num_channels, resolution, num_channels)
        self._minibatch, self._seed, self._start_nimg = minibatch, seed, start_nimg
        self._rows = range(minibatch) if rows is None else rows
        self._factors = factors
        self.labels = self._labels[np.sort(self._order(0))]

    def __iter__(self) -> Iterator[Batch]:
        """Yield Batches for ever, some of them read ahead by threads.

        These are our own threads, not a tf.data generator: tf.data waits for its threads while it
        holds the interpreter's lock, which the generator needs, so dropping an iterator can hang.
        """
        return threaded_map(self._load, self._orders(), THREADS)

    def _orders(self):
        """Yield the record numbers [samples] of each minibatch, or of its `rows`."""
        order = functools.lru_cache(2)(self._order)
        for position in itertools.count(self._start_nimg, self._minibatch):
            places = [divmod(position + int(row), self.num_images) for row in self._rows]
            yield [order(epoch)[place] for epoch, place in places]

    def _order(self, epoch):
        """Return the numbers of an epoch's records in order, int64 [num_images]."""
        order = permutation(self._seed, epoch, self.num_images)
        if self._factors is None:
            return order
        return epoch_draws(self._factors, self._seed, epoch)[order]

    def _load(self, numbers):
        """Return the Batch of records `numbers`, on the CPU."""
        try:
            with tf.device("CPU:0"):
                return Batch(self._decode(tf.constant(self._read(numbers))),
                             tf.constant(self._labels[numbers]))
        except tf.errors.OpError as error:
            names = ", ".join(str(file.path) for file in self._files)
            raise UserError(f"{names}: a record cannot be decoded ({_reason(error.message)}); "
                            "make or copy this data set again") from None

    def _read(self, numbers):
        """Return the serialized records `numbers`, counted over all files together."""
        numbers = np.asarray(numbers)
        records = np.empty(len(numbers), object)
        owners = np.searchsorted(self._starts, numbers, side="right") - 1
        for owner in np.unique(owners):
            places = np.flatnonzero(owners == owner)
            records[places] = self._files[owner].read_many(numbers[places] - self._starts[owner])
        return records.tolist()


@functools.lru_cache(4)
def permutation(seed: int, epoch: int, num_images: int, index: int = 0) -> np.ndarray:
    """Return the order of the records in one epoch, int64 [num_images]; do not modify it.

    `index` is the number of the list of records, if there are several lists.
    """
    # Odd last numbers are for other draws (gan/balance.py); 0 gives the same as [seed, epoch].
    return np.random.default_rng([seed, epoch, 2 * index]).permutation(num_images)


def shuffled_index(seed: int, count: int, place: int, index: int = 0) -> int:
    """Return which of the `count` items of list `index` is at a place in their endless sequence
    of permutations."""
    epoch, rest = divmod(place, count)
    return int(permutation(seed, epoch, count, index)[rest])


def reals_stream(config: TrainingConfig, resolution: int, num_channels: int, minibatch: int,
                 seed: int, start_nimg: int = 0, with_untagged: bool = False,
                 rows: Sequence[int] | None = None,
                 factors: np.ndarray | None = None) -> TrainingStream:
    """Return the stream of a training's photos, with_untagged those without maps as well."""
    directories = [config.data]
    if with_untagged and config.untagged:
        directories.append(config.untagged)
    return TrainingStream(directories, resolution=resolution, num_channels=num_channels,
                          minibatch=minibatch, seed=seed, start_nimg=start_nimg, rows=rows,
                          factors=factors)


def _check_channels(infos, num_channels):
    """Raise UserError if the data sets cannot give images of `num_channels` channels."""
    if num_channels == NUM_COLOURS:
        return
    for info in infos:
        if not info.classes:
            raise UserError(f"data set {info.path} has no class maps: it can train the image "
                            "critic alone")
        if num_channels not in (_RGB_AND_BINARY, info.num_channels):
            raise UserError(f"data set {info.path} cannot give images of {num_channels} channels; "
                            f"it gives {NUM_COLOURS}, {_RGB_AND_BINARY} or {info.num_channels}")
        if info.classes != infos[0].classes:
            raise UserError(f"data sets {infos[0].path} and {info.path} have different classes")


def _decoder(file_channels, resolution, num_channels):
    """Return a traced function: serialized records [N] -> images uint8 [N, H, W, num_channels]."""

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.string)])
    def decode(serialized: tf.Tensor) -> tf.Tensor:
        return tfrecords.parse_records(serialized, file_channels, resolution,
                                       only_rgb=num_channels == NUM_COLOURS,
                                       one_map=num_channels == _RGB_AND_BINARY)

    return decode


def _reason(message):
    """Return the reason from TensorFlow's message on a failed op, without its place in the graph.
    """
    failed_check = re.search(r"assertion failed: \[([^\]]*)\]", message)
    if failed_check:
        return failed_check[1]
    where = re.compile(r"Graph execution error|Detected at node|File |\[\[")
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    reasons = [line for line in lines if not where.match(line)]
    return reasons[-1][:200] if reasons else "TensorFlow gives no reason"


def affine_transform(images: tf.Tensor, x: Sequence, y: Sequence, interpolation: str = "BILINEAR",
                     fill: str = "NEAREST", fill_value: float = 0.0) -> tf.Tensor:
    """Return images [N, R, R, channels] with each pixel (i, j) taken from another position.

    Args:
        x, y: three numbers each, tensors [N] or the same for all images: the position is
            (x[0] i + x[1] j + x[2], y[0] i + y[1] j + y[2]), i to the right and j downwards.
        interpolation, fill, fill_value: as in ImageProjectiveTransformV3.
    """
    count = tf.shape(images)[:1]
    rows = [tf.broadcast_to(tf.cast(value, tf.float32), count) for value in (*x, *y, 0.0, 0.0)]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images, transforms=tf.stack(rows, axis=1), output_shape=images.shape[1:3],
        interpolation=interpolation, fill_mode=fill, fill_value=fill_value)


def adjust_dynamic_range(x: tf.Tensor, drange_in: Sequence[float],
                         drange_out: Sequence[float]) -> tf.Tensor:
    """Map x linearly from the interval drange_in to drange_out, as float32."""
    scale = (drange_out[1] - drange_out[0]) / (drange_in[1] - drange_in[0])
    return tf.cast(x, tf.float32) * scale + (drange_out[0] - drange_in[0] * scale)


def fade_reals(x: tf.Tensor, fade: tf.Tensor | float) -> tf.Tensor:
    """Return lerp(x, its 2x2 means nearest-upscaled, fade), for x [N, r, r, channels].

    This removes detail that a generator cannot draw yet while a resolution fades in. Below 8x8,
    where no coarser resolution exists, x is returned unchanged.
    """
    if x.shape[1] < 8 or (not tf.is_tensor(fade) and fade == 0):
        return x
    return x + (ops.upscale2d(ops.downscale2d(x)) - x) * fade


def process_reals(images: tf.Tensor, fade: tf.Tensor | float = 0.0, flip: tf.Tensor | None = None,
                  map_noise: tf.Tensor | None = None,
                  mirrored_order: Sequence[int] | None = None) -> tf.Tensor:
    """Return uint8 images as float32: colours in [-1, 1], maps in [-0.5, 0.5].

    Source: thesis, section 4.4.2.

    Args:
        images: [N, r, r, channels].
        fade: frac(lod).
        flip: bool [N], which images to mirror left to right, with their maps; None for none.
        map_noise: [N, r, r, channels - 3], added to the maps at the end; None for none.
        mirrored_order: [channels - 3], for every map the number of the map that it becomes in a
            mirrored image, where left and right classes are swapped; None if none are swapped.
    """
    rgb = adjust_dynamic_range(images[..., :NUM_COLOURS], [0, 255], [-1, 1])
    maps = adjust_dynamic_range(images[..., NUM_COLOURS:], [0, 255], [-0.5, 0.5])
    x = tf.concat([rgb, maps], axis=-1)
    if flip is not None:
        mirrored = tf.reverse(x, axis=[2])
        if mirrored_order is not None:
            order = [*range(NUM_COLOURS), *(NUM_COLOURS + number for number in mirrored_order)]
            mirrored = tf.gather(mirrored, order, axis=-1)
        x = tf.where(tf.reshape(flip, [-1, 1, 1, 1]), mirrored, x)
    x = fade_reals(x, fade)
    if map_noise is not None:
        x += tf.pad(map_noise, [[0, 0], [0, 0], [0, 0], [NUM_COLOURS, 0]])
    return x


def with_map_contrast(images: tf.Tensor, contrast: float) -> tf.Tensor:
    """Return signed images [N, r, r, channels] with each map m replaced by 0.5 tanh(contrast m) /
    tanh(0.5 contrast): -0.5, 0 and 0.5 do not change, values between them move away from 0.

    Maps of real photos have just two values, generated maps never quite. A discriminator that sees
    maps unchanged tells real from generated by that, and learns little about shapes.
    """
    if contrast == 0 or images.shape[-1] == NUM_COLOURS:
        return images
    maps = tf.tanh(contrast * images[..., SEGMAPS]) / (2 * math.tanh(contrast / 2))
    return tf.concat([images[..., RGB], maps], axis=-1)
