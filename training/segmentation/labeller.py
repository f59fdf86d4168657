"""Label photos with a trained segmentation network, as Sampler samples a generator."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from dnnlib.util import UserError
from training.segmentation.segmenter import NETWORK
from training.snapshots import find_snapshot, load_snapshot, read_header


class LabellerInfo(NamedTuple):
    """What a snapshot's header says about its segmentation network; see Labeller."""

    path: Path
    classes: tuple[str, ...]
    resolution: int
    digest: str
    header: dict[str, Any]


def read_labeller(spec: str | Path, results_dir: str = "results") -> LabellerInfo:
    """Return what the header of a snapshot file, run or run number says, without loading a network.

    Raises:
        UserError: it holds no segmentation network.
    """
    path = find_snapshot(spec, results_dir)
    header = read_header(path)
    network = header["networks"].get(NETWORK)
    if network is None:
        raise UserError(f"{path}: a snapshot of --variant={header.get('variant')}; a segmentation "
                        "network is wanted (train.py --variant=segmenter)")
    return LabellerInfo(path, tuple(header["classes"]), network["config"]["resolution"],
                        header["digest"], header)


class Labeller:
    """A snapshot's segmentation network.

    Attributes:
        path: the snapshot's file. classes: names of the labels 1..C.
        resolution: side in pixels of the photos that it takes.
        digest: digest of the weights.
    """

    def __init__(self, info: LabellerInfo, minibatch: int = 16):
        """Load the network of a snapshot."""
        self.path, self.classes, self.resolution, self.digest, self.header = info
        self._network = load_snapshot(info.path).networks[NETWORK]
        self.minibatch = minibatch
        self._infer = tf.function(lambda rgb: tf.nn.softmax(
            self._network(tf.cast(rgb, tf.float32) / 127.5 - 1)), autograph=False,
            reduce_retracing=True)

    @classmethod
    def load(cls, spec: str | Path, results_dir: str = "results",
             minibatch: int = 16) -> "Labeller":
        """Return the Labeller of a snapshot file, run directory or run number; see
        `read_labeller`."""
        return cls(read_labeller(spec, results_dir), minibatch)

    def probabilities(self, rgb: np.ndarray) -> np.ndarray:
        """Return float32 [N, R, R, 1 + C] for photos uint8 [N, R, R, 3]; 0 is the background.

        Raises:
            UserError: the network has diverged.
            ValueError: photos of another size.
        """
        return np.concatenate(list(self._iter_probabilities(rgb)))

    def label_maps(self, rgb: np.ndarray) -> np.ndarray:
        """Return the label maps uint8 [N, R, R] of photos uint8 [N, R, R, 3].

        Raises:
            UserError: the network has diverged.
            ValueError: photos of another size.
        """
        return np.concatenate([part.argmax(axis=-1).astype(np.uint8)
                               for part in self._iter_probabilities(rgb)])

    def _iter_probabilities(self, rgb) -> Iterator[np.ndarray]:
        """Yield the probabilities of photos in minibatches; raise ValueError if photos have another
        size, UserError if probabilities are not finite."""
        if rgb.shape[1:3] != (self.resolution, self.resolution):
            raise ValueError(f"photos {rgb.shape} for a network of {self.resolution}")
        for start in range(0, len(rgb), self.minibatch):
            part = self._infer(rgb[start:start + self.minibatch]).numpy()
            if not np.isfinite(part).all():
                raise UserError(f"{self.path}: the network makes values that are not finite, it "
                                "has diverged: use an older snapshot")
            yield part
