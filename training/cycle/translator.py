"""Translate photos with a trained CycleGAN, as Sampler samples a generator."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from dnnlib.data import pictures, pyramid
from training.cycle.config import MIN_RESOLUTION, there_and_back
from training.snapshots import OfSnapshot, load_snapshot

MULTIPLE = 4  # of pixels that a generator's two halvings take


class CycleTranslator(OfSnapshot):
    """A snapshot's two generators.

    Attributes:
        path: the snapshot's file. resolution: side of the photos that it was trained with.
        digest: of the weights. direction: 'AtoB' or 'BtoA'.
        garment: names of the classes that it was trained to translate; none: whole photos.
    """

    def __init__(self, path: Path, direction: str = "AtoB", minibatch: int = 8,
                 own_scale: bool = False):
        """Load the generators of a snapshot file.

        Args:
            own_scale: translate photos pixel by pixel as they are. Otherwise they are fitted into
                squares of `resolution`, as those of the training, and the result is enlarged.

        Raises:
            UserError: the snapshot is of another kind.
        """
        names = there_and_back(direction)
        header = self.check(path, "cyclegan", "translates no photos", *names)
        self.path, self.digest = path, header["digest"]
        self.direction, self.minibatch, self.own_scale = direction, minibatch, own_scale
        networks = load_snapshot(path, names=names).networks
        self.resolution = networks[names[0]].resolution
        self.garment = tuple(header["domains"][direction[0]]["garment"])
        self._calls = [tf.function(networks[name], reduce_retracing=True) for name in names]
        self._networks = [networks[name] for name in names]

    def translate(self, photos: Sequence[np.ndarray], back: bool = False) -> list[np.ndarray]:
        """Return photos uint8 [h, w, 3] of any size translated, each of its size.

        Args:
            back: translate in the other direction, as a reconstruction is made.

        Raises:
            UserError: the network has diverged.
        """
        if self.own_scale:
            return [self._as_it_is(photo, back) for photo in photos]
        found = []
        for start in range(0, len(photos), self.minibatch):
            found += self._in_squares(photos[start:start + self.minibatch], back)
        return found

    def _in_squares(self, photos, back):
        """Return a minibatch of photos translated in squares on white, and brought to their size.
        """
        squares = [np.asarray(pyramid.fit_square(Image.fromarray(photo), self.resolution, "pad",
                                                 pyramid.WHITE)) for photo in photos]
        squares += squares[-1:] * (self.minibatch - len(photos))  # one trace, alike in last bits
        results = self._run(self._calls[back], np.stack(squares))
        found = []
        for photo, result in zip(photos, results):
            size = photo.shape[1::-1]
            box = pyramid.content_box(size, self.resolution, "pad")
            part = Image.fromarray(result).crop(box)
            found.append(np.asarray(part.resize(size, Image.Resampling.BICUBIC)
                                    if part.size != size else part))
        return found

    def _as_it_is(self, photo, back):
        """Return a photo translated at its own scale."""
        height, width = photo.shape[:2]
        missing = [(0, max(MIN_RESOLUTION - side, -side % MULTIPLE)) for side in (height, width)]
        padded = np.pad(photo, [*missing, (0, 0)], mode="symmetric")
        return self._run(self._networks[back], padded[None])[0, :height, :width]

    def _run(self, network, rgb):
        """Return what a generator makes of uint8 [N, h, w, 3], uint8."""
        return pictures.to_uint8_metrics(network(tf.cast(rgb, tf.float32) / 127.5 - 1))


def is_cyclegan(header: dict) -> bool:
    """Return if a snapshot's header is of a CycleGAN."""
    return header.get("variant") == "cyclegan"

