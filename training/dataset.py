"""TFRecords -> uint8 image tensors at a given resolution.

The records of a level are indexed once; their order is a permutation of (seed, epoch), so that a
place in the endless stream is one integer, and any place can be reached at once.
"""

import collections
import concurrent.futures
import os
import re

import numpy as np
import tensorflow as tf

from dnnlib.data import channels, tfrecords
from dnnlib.data.dataset_info import DatasetInfo, open_dataset, read_labels
from dnnlib.util import UserError

__all__ = ["DatasetInfo", "TrainingStream", "open_dataset", "permutation", "read_labels",
           "read_split"]

_RGB_AND_BINARY = channels.NUM_COLOURS + 1
_THREADS = min(os.cpu_count() or 1, 4)


class TrainingStream:
    """Endless minibatches: (images uint8 [minibatch, resolution, resolution, num_channels], labels
    float32 [minibatch, label_size]); label_size is 0 where the data sets have no labels.

    Sample k is record permutation(seed, k // n, n)[k % n] of the n records of all directories
    together. Iteration starts at sample `start_nimg`: a run that stopped after nimg images goes on
    with start_nimg=nimg. With `rows`, places in a minibatch, only those samples are read and given:
    a worker's share, in that order.

    num_channels: 3, 4 (RGB and the binary map: the sum of the class maps, which exclude each other)
    or 3 + C. Directories without maps can take part only when it is 3.

    Attributes: num_images; labels, float32 [num_images, label_size], those of all records.
    """

    def __init__(self, directories, split="train", *, resolution, num_channels, minibatch, seed,
                 start_nimg=0, rows=None):
        """Raises UserError where a directory lacks the split, the resolution or the channels, or
        has labels of another size than the others."""
        opened = [_open_split(directory, split, resolution) for directory in directories]
        infos = [info for info, _ in opened]
        _check_channels(infos, num_channels)
        check_label_sizes(infos)
        self.labels = np.concatenate([read_labels(info.path, split) for info in infos])
        self._files = [file for _, file in opened]
        self._starts = np.cumsum([0] + [len(file) for file in self._files])
        self.num_images = int(self._starts[-1])
        self._file_channels = infos[0].num_channels
        self._resolution, self._num_channels = resolution, num_channels
        self._minibatch, self._seed, self._start_nimg = minibatch, seed, start_nimg
        self._rows = range(minibatch) if rows is None else rows

    def __iter__(self):
        images = _loader(self._read, _decoder(self._file_channels, self._resolution,
                                              self._num_channels))
        return _batches(self._orders(), lambda numbers: (images(numbers), self._labels(numbers)),
                        [file.path for file in self._files])

    def _labels(self, numbers):
        """The labels of records, on the CPU like their images."""
        with tf.device("CPU:0"):
            return tf.constant(self.labels[numbers])

    def _orders(self):
        """The numbers of the records of each minibatch, or of its `rows`: int64 [samples]."""
        epoch, order, position = None, None, self._start_nimg
        while True:
            numbers = []
            for k in (position + int(row) for row in self._rows):
                if k // self.num_images != epoch:
                    epoch = k // self.num_images
                    order = permutation(self._seed, epoch, self.num_images)
                numbers.append(order[k % self.num_images])
            position += self._minibatch
            yield numbers

    def _read(self, numbers):
        """Records `numbers` of all files together."""
        numbers = np.asarray(numbers)
        records = np.empty(len(numbers), object)
        owners = np.searchsorted(self._starts, numbers, side="right") - 1
        for owner in np.unique(owners):
            places = np.flatnonzero(owners == owner)
            records[places] = self._files[owner].read_many(numbers[places] - self._starts[owner])
        return records.tolist()


def permutation(seed, epoch, num_images):
    """The order of the records in one epoch, int64 [num_images]: a function of the arguments."""
    return np.random.default_rng([seed, epoch]).permutation(num_images)


def read_split(directory, split, resolution, only_rgb=False, *, minibatch=32, limit=None, seed=0,
               indices=None):
    """Each image of a split once: yields uint8 arrays [<= minibatch, resolution, resolution, C].

    In the file's order; with `limit`, the first `limit` of a seeded permutation, or all where there
    are fewer; with `indices`, those images in their order. Raises UserError as TrainingStream does.
    """
    info, file = _open_split(directory, split, resolution)
    order = np.arange(len(file)) if indices is None else indices
    if limit is not None:
        order = permutation(seed, 0, len(file))[:limit]
    num_channels = channels.NUM_COLOURS if only_rgb else info.num_channels
    orders = (order[start:start + minibatch] for start in range(0, len(order), minibatch))
    images = _loader(file.read_many, _decoder(info.num_channels, resolution, num_channels))
    return (batch.numpy() for batch in _batches(orders, images, [file.path]))


def _open_split(directory, split, resolution):
    """(DatasetInfo, RecordFile) of one split at one resolution, checked against dataset.json."""
    info = open_dataset(directory)
    if not info.splits.get(split):
        filled = ", ".join(name for name, size in info.splits.items() if size)
        raise UserError(f"data set {info.path} has no images in split {split!r}; it has: {filled}")
    files = tfrecords.record_files(info.path / split)
    level = resolution.bit_length() - 1
    if level not in files or resolution != 1 << level:
        known = ", ".join(str(1 << r) for r in files)
        raise UserError(f"data set {info.path} has no images of {resolution}x{resolution}; "
                        f"it has: {known}")
    file = tfrecords.RecordFile(files[level])
    if len(file) != info.splits[split]:
        raise UserError(f"{file.path}: {len(file)} records where dataset.json says "
                        f"{info.splits[split]}; make or copy this data set again")
    return info, file


def _check_channels(infos, num_channels):
    """Raises UserError where the data sets cannot give images of `num_channels` channels."""
    if num_channels == channels.NUM_COLOURS:
        return
    for info in infos:
        if not info.classes:
            raise UserError(f"data set {info.path} has no class maps: it can train the image "
                            "critic alone")
        if num_channels not in (_RGB_AND_BINARY, info.num_channels):
            raise UserError(f"data set {info.path} cannot give images of {num_channels} channels; "
                            f"it gives {channels.NUM_COLOURS}, {_RGB_AND_BINARY} or "
                            f"{info.num_channels}")
        if info.classes != infos[0].classes:
            raise UserError(f"data sets {infos[0].path} and {info.path} have different classes")


def check_label_sizes(infos):
    """Raises UserError where labels of the data sets (DatasetInfo) cannot be those of one network.

    Photos without labels cannot join labelled ones: a conditional critic has no score for them.
    """
    for info in infos:
        if info.label_size != infos[0].label_size:
            raise UserError(f"data sets {infos[0].path} and {info.path} have labels of "
                            f"{infos[0].label_size} and {info.label_size} numbers; a network "
                            "takes labels of one size (make both with --labels, or neither)")


def _decoder(file_channels, resolution, num_channels):
    """A traced function: serialized records [N] -> images uint8 [N, H, W, num_channels]."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def decode(serialized):
        """Records [N] -> images; one binary map is the sum of the class maps."""
        only_rgb = num_channels == channels.NUM_COLOURS
        images = tfrecords.parse_records(serialized, file_channels, resolution, only_rgb)
        if num_channels != _RGB_AND_BINARY or file_channels == _RGB_AND_BINARY:
            return images
        maps = tf.cast(images[..., channels.SEGMAPS], tf.int32)
        binary = tf.minimum(tf.reduce_sum(maps, axis=-1, keepdims=True), 255)
        return tf.concat([images[..., channels.RGB], tf.cast(binary, tf.uint8)], axis=-1)

    return decode


def _loader(read, decode):
    """A function numbers -> decode(read(numbers)), computed on the CPU."""
    def load(numbers):
        with tf.device("CPU:0"):
            return decode(tf.constant(read(numbers)))
    return load


def _batches(orders, load, paths):
    """Yield load(numbers) for each list of numbers, in order, some batches ahead.

    Threads of our own and not a tf.data generator: tf.data waits for its threads while it holds
    the interpreter's lock, which the generator needs, so that dropping an iterator can hang.
    Raises UserError: the reader's own, or one naming `paths` where a record cannot be decoded.
    """
    pending = collections.deque()
    pool = concurrent.futures.ThreadPoolExecutor(_THREADS, "records")
    try:
        for numbers in orders:
            pending.append(pool.submit(load, numbers))
            if len(pending) > 2 * _THREADS:
                yield _result(pending.popleft(), paths)
        while pending:
            yield _result(pending.popleft(), paths)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _result(future, paths):
    """A loaded batch. TensorFlow's errors become UserErrors."""
    try:
        return future.result()
    except tf.errors.OpError as error:
        names = ", ".join(str(path) for path in paths)
        raise UserError(f"{names}: a record cannot be decoded ({_reason(error.message)}); "
                        "make or copy this data set again") from None


def _reason(message):
    """What TensorFlow's message says of the op that failed; the rest is lines of where it stood."""
    told = re.search(r"assertion failed: \[([^\]]*)\]", message)
    if told:
        return told[1]
    where = re.compile(r"Graph execution error|Detected at node|File |\[\[")
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    reasons = [line for line in lines if not where.match(line)]
    return reasons[-1][:200] if reasons else "TensorFlow gives no reason"
