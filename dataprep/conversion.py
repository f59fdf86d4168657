"""Convert photos into records; and project size and time from a few of them before that."""

import functools
import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from dataprep import masks, photo_sources
from dataprep.coco import segmentations
from dataprep.side_by_side import SideBySide
from dnnlib.data import channels, keypoints, photos, pyramid, tfrecords
from dnnlib.process_pool import map_in_batches, ordered_map

_PROBES = 12  # photos converted to project size and time
_BATCH = 64  # photos whose headers a worker reads at once
_FEW = 2000  # reading fewer headers takes less time than starting processes


@dataclass(frozen=True)
class Item:
    """One photo to convert. label: float32 [label_size]; split: the given one, or None; person:
    number of the person that it shows, if several photos show one."""

    image_id: int | str
    key: str | int
    photo: segmentations.Photo | masks.Mask | SideBySide | None = None
    label: np.ndarray | None = field(default=None, compare=False)
    split: str | None = None
    person: int | None = None


@dataclass(frozen=True)
class ConversionSpec:
    """What determines a record's bytes besides the item's key and photo. It is sent to the workers.
    keypoints: names, if images have keypoints; skeleton: pairs of their numbers, from 1."""

    source: photo_sources.Source
    classes: tuple
    resolution: int
    fit: str
    encoding: str
    label_size: int = 0
    keypoints: tuple = ()
    skeleton: tuple = ()


@dataclass(frozen=True)
class Converted:
    """A converted item."""

    records: dict  # {level: framed record}
    digest: bytes  # sha256 of the pixels at the largest level
    shares: tuple  # each class's share of the area
    size: tuple  # the photo's width and height
    overlap: float | None  # share of the instances' area that another covers; None: cannot overlap
    points: np.ndarray | None = None  # keypoints, float32 [K, 3]


def convert_photo(spec: ConversionSpec, item: Item) -> Converted:
    """Convert one item. Raises photos.PhotoError if this photo cannot be used."""
    data = spec.source.read(item.key)
    photo, size, labels, overlap = photos.decode_photo(data), photos.probe(data), None, None
    if isinstance(item.photo, SideBySide):
        photo, labels, size = item.photo.split_halves(photo, size)
    elif isinstance(item.photo, masks.Mask):
        labels = item.photo.label_map(photo.size)
    elif spec.classes:
        check_shape(item.photo, photo.size)
        labels, overlap = segmentations.label_map_and_overlap(item.photo, photo.size)
    points = None
    if spec.keypoints:
        check_shape(item.photo, photo.size)
        scale = photo.width / item.photo.width, photo.height / item.photo.height, 1
        points = keypoints.place(item.photo.keypoints * scale, photo.size, spec.resolution,
                                 spec.fit)  # float32 [K, 3]
        if not points.any():
            raise photos.PhotoError("no keypoint within the picture")
    image = pyramid.build_image(photo, labels, len(spec.classes), spec.resolution, spec.fit)
    return convert_image(image, spec.encoding, size, overlap, points)


def convert_image(image: np.ndarray, encoding: str, size: tuple,
                  overlap: float | None = None, points: np.ndarray | None = None) -> Converted:
    """Return the Converted of an image uint8 [3 + C, H, W]."""
    records = {level: tfrecords.frame(tfrecords.encode_record(smaller, encoding))
               for level, smaller in pyramid.levels(image, tfrecords.MIN_LEVEL).items()}
    return Converted(records, *digest_and_shares(image), size, overlap, points)


def digest_and_shares(image: np.ndarray) -> tuple[bytes, tuple]:
    """Return (sha256 of the pixels, area share of each class) of an image uint8 [C, H, W]."""
    shares = pyramid.area_shares(image[channels.SEGMAPS])
    return hashlib.sha256(np.ascontiguousarray(image)).digest(), tuple(shares)


def check_shape(photo: segmentations.Photo, size: tuple[int, int]) -> None:
    """Raise PhotoError if a picture of this size has another shape than in its annotations."""
    if abs(photo.width * size[1] - photo.height * size[0]) > 0.02 * photo.width * size[1]:
        raise photos.PhotoError(f"photo is {size[0]}x{size[1]}, its annotations are for "
                                f"{photo.width}x{photo.height}")


def convert_all(spec: ConversionSpec, items: list[Item], workers: int) -> Iterator[Converted | str]:
    """Yield for each item, in order, its Converted or the reason (str) why it is left out."""
    return ordered_map(functools.partial(convert_or_reason, spec), items, workers)


def convert_or_reason(spec: ConversionSpec, item: Item) -> Converted | str:
    """Return an item's Converted, or the reason why it is left out."""
    try:
        return convert_photo(spec, item)
    except photos.PhotoError as error:
        return str(error)


# Before anything is written

def count_unreadable(source: photo_sources.Source, keys: list, workers: int) -> int:
    """Return how many photos of `source` have no image header; nothing is decoded."""
    return sum(map_in_batches(functools.partial(_is_unreadable, source), keys,
                              workers if len(keys) > _FEW else 1, _BATCH, "reading headers",
                              "photo"))


def _is_unreadable(source, key):
    try:
        photos.probe(source.read(key))
    except photos.PhotoError:
        return True
    return False


def estimate_cost(spec: ConversionSpec, items: list[Item]) -> tuple[float, float]:
    """Return (bytes, seconds on one core) per photo, estimated from a few of `items`, evenly
    spread."""
    sample = [items[i] for i in np.unique(np.linspace(0, len(items) - 1, _PROBES).astype(int))]
    started = time.perf_counter()
    sizes = [sum(map(len, result.records.values()))
             for result in convert_all(spec, sample, workers=1) if isinstance(result, Converted)]
    seconds = (time.perf_counter() - started) / len(sample)
    return (float(np.mean(sizes)) if sizes else 0.0), seconds
