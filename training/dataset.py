"""TFRecords -> uint8 image tensors at a given resolution.

The records of a level are indexed once (offsets and lengths); their order is a permutation of (seed, epoch), so that
the position in the endless stream is one integer and any position can be reached at once.
"""

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tensorflow as tf

from dnnlib import channels
from dnnlib.tflib import tfrecords
from dnnlib.util import UserError, read_json

_RGB_AND_BINARY = channels.NUM_COLOURS + 1


@dataclass(frozen=True)
class DatasetInfo:
    """What dataset.json says; `splits` gives the number of images of each split."""

    path: Path
    name: str
    resolution: int
    num_channels: int
    classes: tuple
    splits: dict = field(hash=False)
    digest: str


def open_dataset(directory):
    """Read and check dataset.json. Raises UserError where the data set is missing or unfinished."""
    path = Path(directory)
    if not (path / "dataset.json").is_file():
        state = "is unfinished (no dataset.json)" if path.is_dir() else "does not exist"
        raise UserError(f"data set {path} {state}; make it with dataset_tool.py, "
                        "for example: python dataset_tool.py create_modanet")
    content = read_json(path / "dataset.json")
    if not isinstance(content, dict) or content.get("complete") is not True:
        raise UserError(f"{path / 'dataset.json'}: not that of a finished data set; make it again")
    if content.get("format_version") != 1:
        raise UserError(f"{path / 'dataset.json'}: format version {content.get('format_version')!r}; "
                        "this program reads version 1")
    try:
        return DatasetInfo(path, content["name"], content["resolution"], content["num_channels"],
                           tuple(content["classes"]),
                           {split: len(ids) for split, ids in content["splits"].items()},
                           content["digest"])
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path / 'dataset.json'}: incomplete ({error!r}); make it again") from None


class RecordFile:
    """The records of one split at one level, read by number."""

    def __init__(self, directory, split, resolution):
        """Raises UserError where there is no such split or level, or the file is not what dataset.json says."""
        info = open_dataset(directory)
        if not info.splits.get(split):
            filled = [name for name, size in info.splits.items() if size]
            raise UserError(f"data set {info.path} has no images in split {split!r}; it has {filled}")
        files = tfrecords.record_files(info.path / split)
        level = resolution.bit_length() - 1
        if level not in files or resolution != 1 << level:
            raise UserError(f"data set {info.path} has no images of {resolution}x{resolution}; "
                            f"it has {', '.join(str(1 << r) for r in files)}")
        self.path, self.num_channels = files[level], info.num_channels
        self._offsets, self._lengths = tfrecords.index_records(self.path)
        if len(self) != info.splits[split]:
            raise UserError(f"{self.path}: {len(self)} records, dataset.json says {info.splits[split]}; "
                            "make or copy this data set again")
        self._fd = os.open(self.path, os.O_RDONLY)

    def __len__(self):
        return len(self._offsets)

    def __del__(self):
        if hasattr(self, "_fd"):
            os.close(self._fd)

    def read(self, number):
        """Serialized Example `number`, its checksum checked."""
        return tfrecords.read_record(self._fd, self.path, int(self._offsets[number]),
                                     int(self._lengths[number]))


class TrainingStream:
    """Endless minibatches: uint8 tensors [minibatch, resolution, resolution, num_channels].

    Sample k of the stream is record perm(seed, k // n)[k % n] of the n records of all directories together. The
    stream starts at sample `start_nimg`: a run that stops after nimg images goes on with start_nimg=nimg.

    num_channels: 3, 4 (RGB and the binary map: the sum of the class maps, which exclude each other) or 3 + C.
    Directories without maps can take part only when it is 3.
    """

    def __init__(self, directories, split="train", *, resolution, num_channels, minibatch, seed, start_nimg=0):
        self._files = [RecordFile(directory, split, resolution) for directory in directories]
        _check_channels(self._files, num_channels)
        sizes = [len(file) for file in self._files]
        self.num_images = sum(sizes)
        self._starts = np.cumsum([0] + sizes)
        self._resolution, self._num_channels = resolution, num_channels
        self._minibatch, self._seed, self._start_nimg = minibatch, seed, start_nimg

    def __iter__(self):
        # A generator keeps one exception back: tf.data would turn a UserError into its own kind.
        failure = []
        dataset = tf.data.Dataset.from_generator(
            lambda: _keep_error(self._serialized(), failure),
            output_signature=tf.TensorSpec([self._minibatch], tf.string))
        dataset = dataset.map(self._parse, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        with _as_user_error(failure, [file.path for file in self._files]):
            yield from dataset.prefetch(tf.data.AUTOTUNE)

    def _parse(self, serialized):
        return _parse_channels(serialized, self._files[0].num_channels, self._resolution, self._num_channels)

    def _serialized(self):
        """Minibatches of serialized records."""
        epoch, order = None, None
        position = self._start_nimg
        while True:
            batch = []
            for k in range(position, position + self._minibatch):
                if k // self.num_images != epoch:
                    epoch = k // self.num_images
                    order = permutation(self._seed, epoch, self.num_images)
                batch.append(self._read(int(order[k % self.num_images])))
            position += self._minibatch
            yield batch

    def _read(self, number):
        """Record `number` of all files together."""
        file = int(np.searchsorted(self._starts, number, side="right")) - 1
        return self._files[file].read(number - int(self._starts[file]))


def permutation(seed, epoch, num_images):
    """The order of the records in one epoch: a function of (seed, epoch)."""
    return np.random.default_rng([seed, epoch]).permutation(num_images)


def read_split(directory, split, resolution, only_rgb=False, *, minibatch=32, limit=None, seed=0):
    """Each image of a split once: yields uint8 arrays [<= minibatch, resolution, resolution, C].

    In the file's order; with `limit`, the first `limit` of a seeded permutation (all where there are fewer).
    """
    file = RecordFile(directory, split, resolution)
    order = np.arange(len(file)) if limit is None else permutation(seed, 0, len(file))[:limit]
    num_channels = channels.NUM_COLOURS if only_rgb else file.num_channels

    def serialized():
        for start in range(0, len(order), minibatch):
            yield [file.read(number) for number in order[start:start + minibatch]]

    failure = []
    dataset = tf.data.Dataset.from_generator(
        lambda: _keep_error(serialized(), failure), output_signature=tf.TensorSpec([None], tf.string))
    dataset = dataset.map(
        lambda records: _parse_channels(records, file.num_channels, resolution, num_channels),
        num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    with _as_user_error(failure, [file.path]):
        yield from dataset.prefetch(tf.data.AUTOTUNE).as_numpy_iterator()


def _check_channels(files, num_channels):
    """Raises UserError where the files cannot give images of `num_channels`."""
    if num_channels == channels.NUM_COLOURS:
        return
    for file in files:
        if file.num_channels == channels.NUM_COLOURS:
            raise UserError(f"{file.path}: an RGB data set cannot train the maps; only the image critic can use it")
        if num_channels not in (_RGB_AND_BINARY, file.num_channels):
            raise UserError(f"{file.path}: images of {file.num_channels} channels, {num_channels} asked; "
                            f"it gives {channels.NUM_COLOURS}, {_RGB_AND_BINARY} or {file.num_channels}")
        if file.num_channels != files[0].num_channels:
            raise UserError(f"{file.path} and {files[0].path} have different numbers of classes")


def _parse_channels(serialized, file_channels, resolution, num_channels):
    """Serialized records [N] -> images uint8 [N, H, W, num_channels]."""
    only_rgb = num_channels == channels.NUM_COLOURS
    images = tfrecords.parse_records(serialized, file_channels, resolution, only_rgb)
    if num_channels != _RGB_AND_BINARY or file_channels == _RGB_AND_BINARY:
        return images
    binary = tf.reduce_sum(tf.cast(images[..., channels.SEGMAPS], tf.int32), axis=-1, keepdims=True)
    return tf.concat([images[..., channels.RGB], tf.cast(tf.minimum(binary, 255), tf.uint8)], axis=-1)


def _keep_error(generator, failure):
    """Pass the items on; put a UserError into `failure` before letting it out."""
    try:
        yield from generator
    except UserError as error:
        failure.append(error)
        raise


@contextlib.contextmanager
def _as_user_error(failure, paths):
    """tf.data's errors become UserErrors: the one kept back, or one that names the files."""
    try:
        yield
    except tf.errors.OpError as error:
        if failure:
            raise failure[0] from None
        names = ", ".join(str(path) for path in paths)
        raise UserError(f"{names}: a record cannot be decoded ({error.message.splitlines()[0]}); "
                        "make or copy this data set again") from None
