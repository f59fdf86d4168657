"""Translate photos with a trained CycleGAN, as Sampler samples a generator."""

import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from dnnlib.data import pictures, pyramid
from training.cycle.config import MIN_RESOLUTION, generator_names
from training.snapshots import SnapshotModel, load_snapshot

MULTIPLE = 4  # a generator's two halvings need sides that are multiples of this
TILE, OVERLAP = 1024, 128  # pixels; a generator of nine blocks sees 90 pixels far


class CycleTranslator(SnapshotModel):
    """A snapshot's two generators.

    Attributes:
        path: the snapshot's file. resolution: side of the training photos in pixels.
        digest: digest of the weights. direction: 'AtoB' or 'BtoA'.
        garment: names of the classes that it was trained to translate; none: whole photos.
        fit: how the training photos were made square, one of pyramid.FITS.
    """

    def __init__(self, path: Path, direction: str = "AtoB", minibatch: int = 8,
                 own_scale: bool = False):
        """Load the generators of a snapshot file.

        Args:
            own_scale: translate photos at their own scale. Otherwise they are scaled as in
                training, to squares of `resolution`, or to a shorter side of `resolution` if
                training cropped squares; the result is then enlarged.

        Raises:
            UserError: the snapshot is of another kind.
        """
        names = generator_names(direction)
        header = self.check(path, "cyclegan", "translates no photos", *names)
        self.path, self.digest = path, header["digest"]
        self.direction, self.minibatch, self.own_scale = direction, minibatch, own_scale
        networks = load_snapshot(path, names=names).networks
        self.resolution = networks[names[0]].resolution
        domain = header["domains"][direction[0]]
        self.garment = tuple(domain["garment"])
        self.fit = domain.get("fit", pyramid.FITS[0])  # older snapshots lack it
        self._calls = [tf.function(networks[name], autograph=False, reduce_retracing=True)
                       for name in names]
        self._networks = [networks[name] for name in names]

    def translate(self, photos: Sequence[np.ndarray], back: bool = False) -> list[np.ndarray]:
        """Return photos uint8 [h, w, 3] of any size translated, each at its own size.

        Args:
            back: translate in the other direction, as for a reconstruction.

        Raises:
            UserError: the network has diverged.
        """
        if self.own_scale:
            return [self._translate_at_own_scale(photo, back) for photo in photos]
        if self.fit == "crop":
            return [self._translate_rescaled(photo, back) for photo in photos]
        found = []
        for start in range(0, len(photos), self.minibatch):
            found += self._translate_in_squares(photos[start:start + self.minibatch], back)
        return found

    def _translate_in_squares(self, photos, back):
        """Return a minibatch of photos translated in squares on white, then resized to their size.
        """
        squares = [np.asarray(pyramid.fit_square(Image.fromarray(photo), self.resolution, "pad",
                                                 pyramid.WHITE)) for photo in photos]
        squares += squares[-1:] * (self.minibatch - len(photos))  # one trace, the same last bits
        results = self._run(self._calls[back], np.stack(squares))
        found = []
        for photo, result in zip(photos, results):
            size = photo.shape[1::-1]
            box = pyramid.content_box(size, self.resolution, "pad")
            found.append(_resize(Image.fromarray(result).crop(box), size))
        return found

    def _translate_rescaled(self, photo, back):
        """Return a photo translated with a shorter side of `resolution`, the scale of the squares
        cropped in training, then resized to its size."""
        small = pyramid.resize_shorter_side(Image.fromarray(photo), self.resolution)
        result = self._translate_at_own_scale(np.asarray(small), back)
        return _resize(Image.fromarray(result), photo.shape[1::-1])

    def _translate_at_own_scale(self, photo, back):
        """Return a photo translated at its own scale, in bounded memory."""
        height, width = photo.shape[:2]
        missing = [(0, max(MIN_RESOLUTION - side, -side % MULTIPLE)) for side in (height, width)]
        padded = np.pad(photo, [*missing, (0, 0)], mode="symmetric")
        return self._run(functools.partial(run_in_tiles, self._networks[back]),
                         padded[None])[0, :height, :width]

    def _run(self, network, rgb):
        """Return what a generator makes of uint8 [N, h, w, 3], as uint8."""
        return pictures.to_uint8_metrics(network(tf.cast(rgb, tf.float32) / 127.5 - 1))


def _resize(picture, size):
    """Return a PIL picture resized to (width, height), uint8 [height, width, 3]."""
    return np.asarray(picture.resize(size, Image.Resampling.BICUBIC)
                      if picture.size != size else picture)


def run_in_tiles(network: Callable, images: tf.Tensor) -> np.ndarray:
    """Return what a network makes of images [N, h, w, 3], whose sides are multiples of MULTIPLE.

    Images of more than TILE x TILE pixels are processed in tiles that overlap by about OVERLAP
    pixels or more. Over the overlap, the results are blended linearly.
    """
    shape = images.shape
    if shape[1] * shape[2] <= TILE ** 2:
        return network(images).numpy()
    total, weights = np.zeros(shape, np.float32), np.zeros((*shape[1:3], 1), np.float32)
    for top, left in itertools.product(*map(_tile_starts, shape[1:3])):
        place = ..., slice(top, top + TILE), slice(left, left + TILE), slice(None)
        weight = np.multiply.outer(*map(_tile_weights, weights[place].shape[:2]))[..., None]
        total[place] += weight * network(images[place]).numpy()
        weights[place] += weight
    return total / weights


def _tile_starts(length):
    """Return where tiles begin along a side."""
    count = max(1, -(-(length - OVERLAP) // (TILE - OVERLAP)))
    return np.linspace(0, length - TILE, count).astype(int) // MULTIPLE * MULTIPLE


def _tile_weights(length):
    """Return the weights of a tile's pixels along a side, rising from both ends."""
    places = np.arange(1, length + 1, dtype=np.float32)
    return np.minimum(np.minimum(places, places[::-1]), OVERLAP)
