"""The two lists of photos that a CycleGAN translates between, and minibatches of both."""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from dnnlib.data import channels, dataset, pyramid
from dnnlib.data.labelled import PairFolder, pair_folders, parse_picture
from dnnlib.data.photos import FORMATS, decode_file, list_pictures, probe
from dnnlib.tflib.distribute import Draws
from dnnlib.util import UserError
from training.cycle.config import CycleConfig
from training.dataset import affine_transform, shuffled_index

SMALLEST_SHARE = 0.01  # share of a photo that the garment must cover for the photo to be used
MASK = slice(channels.NUM_COLOURS, channels.NUM_COLOURS + 1)


class UnlabelledFolder:
    """The photos directly in a folder, of any size, fitted into squares on white.

    Attributes:
        path: the folder. name: its name. classes: none.
        splits: {'train': number of photos}. digest: sha256 of their names and contents.
    """

    classes: tuple[str, ...] = ()

    def __init__(self, path: str | Path, resolution: int | None = None):
        """List the photos; raise UserError if there are none. `resolution`: see PairFolder."""
        self.path, self.resolution = Path(path), resolution
        self._files = list_pictures(self.path)
        if not self._files:
            raise UserError(f"{path}: neither a finished data set (no {dataset.FILE_NAME}) nor a "
                            f"folder of photos ({', '.join(FORMATS)}) or pairs")
        self.name, self.splits = self.path.resolve().name, {"train": len(self._files)}

    @functools.cached_property
    def digest(self) -> str:
        """Return the digest by which a continued training recognises the photos."""
        listing = "".join(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n"
                          for path in self._files)
        return hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest()

    def largest_level(self) -> int:
        """Return the largest power of two that the longer side of half of the photos reaches."""
        return pyramid.common_level(parse_picture(file, probe) for file in self._files)

    def at(self, resolution: int) -> "UnlabelledFolder":
        """Return the same folder, read at a resolution."""
        return UnlabelledFolder(self.path, resolution)

    def read(self, number: int) -> tuple[np.ndarray, None]:
        """Return a photo uint8 [R, R, 3], and None, since it has no labels."""
        photo = parse_picture(self._files[number], decode_file)
        return np.asarray(pyramid.fit_square(photo, self.resolution, "pad", pyramid.WHITE)), None


Source = dataset.DatasetInfo | PairFolder | UnlabelledFolder


def open_list(path: str | Path) -> Source:
    """Return the data set, folder of pairs or folder of photos at a path; raise UserError if it is
    none of these."""
    path = Path(path)
    if path.is_dir() and not (path / dataset.FILE_NAME).is_file():
        if pair_folders(path):
            return PairFolder(path)
        if not list(path.glob("*.tfrecords")):
            return UnlabelledFolder(path)
    return dataset.open_dataset(path)


@dataclass(frozen=True)
class Domain:
    """The photos of one list that are used.

    Attributes:
        source: where they are. resolution: side at which they are read, in pixels.
        garment: names of the classes to translate; none: the whole photo.
        numbers: numbers of the photos that show the garment, or of all photos.
        split: the data set's split; folders have only 'train'.
    """

    source: Source
    resolution: int
    garment: tuple[str, ...] = ()
    numbers: Sequence[int] = ()
    split: str = "train"

    @classmethod
    def open(cls, source: Source, resolution: int, garment: Sequence[str] = (),
             split: str = "train", smallest_share: float = SMALLEST_SHARE) -> "Domain":
        """Return the photos of a source that show the classes `garment` on at least
        `smallest_share` of their area; all photos if there are no classes or the share is 0.

        Raises:
            UserError: no photo shows the garment.
        """
        if isinstance(source, dataset.DatasetInfo):
            dataset.open_split(source, split, resolution)  # raises if files are missing
        count = source.splits[split]
        garment = tuple(dict.fromkeys(garment))  # a class that is named twice counts once
        whole = cls(source, resolution, garment, range(count), split)
        if not garment or not smallest_share:
            return whole
        numbers = [n for n in whole.numbers if whole.mask(n).mean() >= smallest_share * 255]
        if not numbers:
            raise UserError(f"{source.path}: none of {count} photos shows "
                            f"{' or '.join(garment)} on {smallest_share:.0%} of its area")
        return dataclasses.replace(whole, numbers=numbers)

    @functools.cached_property
    def fit(self) -> str:
        """Return which of pyramid.FITS made the photos square."""
        is_dataset = isinstance(self.source, dataset.DatasetInfo)
        return dataset.read_fit(self.source.path) if is_dataset else pyramid.FITS[0]

    @functools.cached_property
    def _photos(self):
        """Return the source, opened at the resolution."""
        if isinstance(self.source, dataset.DatasetInfo):
            return dataset.open_split(self.source, self.split, self.resolution)
        return self.source.at(self.resolution)

    def read(self, number: int) -> np.ndarray:
        """Return a photo and, if there is a garment, its soft mask: uint8 [R, R, 3 or 4]."""
        if isinstance(self.source, dataset.DatasetInfo):
            rgb = self._photos.read_image(number, only_rgb=True).transpose(1, 2, 0)
            mask = self.mask(number) if self.garment else None
        else:
            rgb, label_map = self._photos.read(number)
            mask = self._of_labels(label_map)
        return np.concatenate([rgb, mask], axis=-1) if self.garment else rgb

    def mask(self, number: int) -> np.ndarray:
        """Return the garment's soft mask, uint8 [R, R, 1]."""
        if isinstance(self.source, PairFolder):
            return self._of_labels(self._photos.read(number)[1])
        maps = self._photos.read_maps(number)[self._numbers]
        return np.minimum(maps.sum(axis=0, dtype=np.uint16), 255).astype(np.uint8)[..., None]

    def _of_labels(self, label_map):
        return np.uint8(255) * np.isin(label_map, np.add(self._numbers, 1))[..., None]

    @property
    def _numbers(self):
        """Return the numbers of the garment's classes."""
        return [self.source.classes.index(name) for name in self.garment]


class DomainBatch(NamedTuple):
    """Photos of both lists, with masks if there is a garment: uint8 [N, R, R, 3 or 4] each."""

    a: np.ndarray | tf.Tensor
    b: np.ndarray | tf.Tensor


def read_domains(domains: Sequence[Domain], seed: int, places: Sequence[int]) -> DomainBatch:
    """Return the photos of both lists at some places of an endless stream.

    Each list has its own permutations: before the longer list has been seen once, the shorter one
    begins again, in another order.
    """
    return DomainBatch(*(
        np.stack([domain.read(
            domain.numbers[shuffled_index(seed, len(domain.numbers), place, index)])
            for place in places]) for index, domain in enumerate(domains)))


def to_floats(photos: tf.Tensor) -> tf.Tensor:
    """Return uint8 [N, R, R, 3 or 4] as float32: colours in [-1, 1], masks in [0, 1]."""
    values = tf.cast(photos, tf.float32)
    return tf.concat([values[..., channels.RGB] / 127.5 - 1, values[..., MASK] / 255], axis=-1)


def split_mask(photos: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the colours of photos [N, R, R, 3 or 4] and their mask [N, R, R, 1], ones if they have
    none."""
    rgb, mask = photos[..., channels.RGB], photos[..., MASK]
    return rgb, mask if mask.shape[-1] else tf.ones_like(rgb[..., :1])


def augment_photos(photos: tf.Tensor, draws: Draws, config: CycleConfig, name: str) -> tf.Tensor:
    """Return photos with their masks [N, R, R, 3 or 4] flipped, enlarged, rotated and cropped.

    Enlarging by a factor and cropping to the old size is one affine map here. Areas that a rotation
    uncovers are filled by reflection.
    """
    if config.flip:
        flip = tf.reshape(draws.uniform(f"{name}/flip") < 0.5, [-1, 1, 1, 1])
        photos = tf.where(flip, tf.reverse(photos, [2]), photos)
    if config.jitter == 1 and not config.rotation:
        return photos
    middle = (photos.shape[1] - 1) / 2
    room = middle * (1 - 1 / config.jitter)
    shift_x, shift_y = (room * (2 * draws.uniform(f"{name}/shift_{axis}") - 1) for axis in "xy")
    angle = np.pi / 180 * config.rotation * (2 * draws.uniform(f"{name}/angle") - 1)
    # Pixel p of the result is pixel middle + turned (p - middle) / jitter + shift of the photo.
    cos, sin = tf.cos(angle) / config.jitter, tf.sin(angle) / config.jitter
    return affine_transform(photos, (cos, -sin, middle * (1 - cos + sin) + shift_x),
                            (sin, cos, middle * (1 - sin - cos) + shift_y), fill="REFLECT")
