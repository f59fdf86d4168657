"""Pairs of photos of one person: source and target, with keypoints."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from dnnlib.data import dataset, keypoints
from dnnlib.data.dataset import DatasetInfo


class PoseBatch(NamedTuple):
    """A minibatch of pairs of photos, each pair of one person.

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
        names: names of the K keypoints. skeleton: which of them are joined, counted from 1.
    """

    def __init__(self, info: DatasetInfo, split: str, resolution: int):
        """Open records, keypoints and pairs; raise UserError if they are missing."""
        self.names, self.skeleton = info.keypoints, info.skeleton
        self._file = dataset.open_split(info, split, resolution)
        self._points = keypoints.read_keypoints(info.path, split)
        self._pairs = keypoints.read_pairs(info.path, split)

    def __len__(self) -> int:
        return len(self._pairs)

    def read(self, numbers: Sequence[int]) -> PoseBatch:
        """Return the pairs with these numbers, as arrays."""
        source, target = self._pairs[list(numbers)].T
        return PoseBatch(self._photos(source), self._photos(target), self._points[source],
                         self._points[target])

    def _photos(self, numbers):
        return np.stack([self._file.read_image(number, only_rgb=True).transpose(1, 2, 0)
                         for number in numbers.tolist()])
