"""Pairs of photos of one person: source and target, with keypoints, one by one and in batches."""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from dnnlib.data import dataset, keypoints
from dnnlib.data.dataset import DatasetInfo
from dnnlib.process_pool import threaded_map
from training.dataset import THREADS, shuffled


class PoseBatch(NamedTuple):
    """Some pairs of photos of one person.

    Attributes:
        source, target: uint8 [N, R, R, 3].
        source_points, target_points: float32 [N, K, 3] as in dnnlib.data.keypoints.
    """

    source: np.ndarray | tf.Tensor
    target: np.ndarray | tf.Tensor
    source_points: np.ndarray | tf.Tensor
    target_points: np.ndarray | tf.Tensor


class PosePairs:
    """The pairs of a data set's split at one resolution.

    Attributes:
        names: of the K keypoints. skeleton: which of them are joined, counted from 1.
    """

    def __init__(self, info: DatasetInfo, split: str, resolution: int):
        """Open records, keypoints and pairs; raise UserError if they are not there."""
        self.names, self.skeleton = info.keypoints, info.skeleton
        self._file = dataset.open_split(info, split, resolution)
        self._points = keypoints.read_keypoints(info.path, split)
        self._pairs = keypoints.read_pairs(info.path, split)

    def __len__(self) -> int:
        return len(self._pairs)

    def read(self, numbers: Sequence[int]) -> PoseBatch:
        """Return the pairs of these numbers, as arrays."""
        source, target = self._pairs[list(numbers)].T
        return PoseBatch(self._photos(source), self._photos(target), self._points[source],
                         self._points[target])

    def _photos(self, numbers):
        return np.stack([self._file.read_image(number, only_rgb=True).transpose(1, 2, 0)
                         for number in numbers.tolist()])

    def batches(self, minibatch: int, seed: int, start_nimg: int = 0,
                rows: Sequence[int] | None = None) -> Iterator[PoseBatch]:
        """Yield batches for ever, in a new permutation whenever all pairs were seen, some of them
        read ahead by threads.

        Args:
            start_nimg: the pair to begin with, a multiple of the minibatch.
            rows: places in a minibatch that are read, such as a worker's; None for all.
        """
        rows = range(minibatch) if rows is None else rows

        def load(step: int) -> PoseBatch:
            """Return the batch of a step."""
            numbers = [shuffled(seed, len(self), step * minibatch + int(row)) for row in rows]
            with tf.device("CPU:0"):
                return PoseBatch(*map(tf.constant, self.read(numbers)))

        return threaded_map(load, itertools.count(start_nimg // minibatch), THREADS)
