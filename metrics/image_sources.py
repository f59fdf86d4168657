"""Open sets of images on disk: splits of data sets, plain folders and folders of pairs.

Files are decoded by dnnlib.data.photos, so that a photo gives the same picture as in a data set.
"""

import collections
import functools
import hashlib
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dnnlib import util
from dnnlib.data import channels, dataset
from dnnlib.data.dataset import FILE_NAME, DatasetInfo
from dnnlib.data.labelled import (
    IMAGES,
    LABELS,
    find_label_maps,
    pair_classes,
    pair_folders,
    read_label_png,
)
from dnnlib.data.photo_names import IMAGE_SUFFIXES, may_block
from dnnlib.data.photos import PhotoError, decode_file
from dnnlib.download import file_digest
from dnnlib.util import UserError


@dataclass(frozen=True)
class ImageSource:
    """A finite set of images.

    batches: function (maps=False, indices=None, signed=False) -> iterator over (rgb uint8
    [n, H, W, 3], label maps uint8 [n, H, W]), every image once or those of `indices`, in their
    order; maps are None unless `maps` is set. signed: real-valued maps float32 [n, H, W, C] instead
    of labels, if there are any.
    """

    name: str
    count: int
    digest: str  # of the images' content
    batches: Callable
    about: dict  # what a result records about them
    classes: tuple = ()  # names of the labels 1..C, () without label maps
    sizes: collections.Counter = field(default_factory=collections.Counter)  # of (width, height)
    names: Callable | None = None  # () -> names of the photos, in the images' order
    left_out: tuple = ()  # lines about files that are not among the images


@dataclass(frozen=True)
class PeopleSource:
    """The pairs of photos of one person in a data set's split.

    read: function (numbers of pairs) -> training.pose.people.PoseBatch. count (of pairs), about,
    sizes: as in ImageSource.
    """

    count: int
    read: Callable
    about: dict
    sizes: collections.Counter


def warn(line: str) -> None:
    """Print a warning on stderr, apart from the results."""
    print(line, file=sys.stderr)


def warn_of_other_fit(path: str | Path, fit: str, learned: str) -> None:
    """Warn if photos are made square in another way than those of a network's training were; both
    are of pyramid.FITS."""
    if fit != learned:
        warn(f"warning: {path}: made square by --fit={fit}, the training's by --fit={learned}: "
             "unless photos are square, that alone changes the metrics")


def is_dataset(directory: str | Path) -> bool:
    """Return whether a folder is a data set; True if it is missing, which is then reported as a
    missing data set."""
    return (Path(directory) / FILE_NAME).is_file() or not Path(directory).is_dir()


@functools.lru_cache
def open_images(directory: str | Path, split: str, resolution: int | None = None) -> ImageSource:
    """Open a data set (its `split`), one of its splits' folders, pairs, or a folder of pictures.

    Warns, once per source, of files that are left out and of sizes that differ. resolution: of a
    data set's images; by default its own.
    """
    directory = Path(directory)
    if not (directory / FILE_NAME).is_file() and (directory.parent / FILE_NAME).is_file():
        directory, split = directory.parent, directory.name
    if is_dataset(directory) or any(directory.glob("*.tfrecords")):  # these need a dataset.json
        info = dataset.open_dataset(directory)
        return split_source(info, split, resolution or info.resolution)
    if (parts := pair_folders(directory)) and (parts[0] / LABELS).is_dir():
        source, deeper = pair_source(directory), []
    else:
        source = folder_source(directory)
        deeper = sorted(folder.name for folder in directory.iterdir() if folder.is_dir() and any(
            path.suffix.lower() in IMAGE_SUFFIXES for path in _visible_files(folder)))
    lines = list(source.left_out)
    if len(source.sizes) > 1:
        lines.append(f"{directory}: images of {len(source.sizes):,} sizes, most often "
                     f"{most_common_sizes(source.sizes, 2)}: each is taken at its own, which alone "
                     "changes the metrics")
    if deeper:
        lines.append(f"{directory}: its {source.count:,} images are taken, those in its folders "
                     f"({', '.join(deeper)}) are not")
    for line in lines:
        warn(f"warning: {line}")
    return source


def most_common_sizes(sizes: collections.Counter, count: int = 1) -> str:
    """Return the most common sizes in a Counter of (width, height), as '64x48 (12 of 20) and 32x32
    (8 of 20)'; a single size as '64x48'."""
    return " and ".join(
        f"{width}x{height}" + (f" ({number:,} of {sizes.total():,})" if len(sizes) > 1 else "")
        for (width, height), number in sizes.most_common(count))


def split_source(info: DatasetInfo, split: str, resolution: int) -> ImageSource:
    """Return the images of a data set's split; for 'train+val', those of both. Raises UserError if
    there are none."""
    sizes = dataset.split_sizes(info, split)
    places = dataset.places(sizes)

    def batches(maps: bool = False, indices: Sequence[int] | None = None,
                signed: bool = False) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        chosen = places if indices is None else [places[number] for number in indices]
        for part, group in itertools.groupby(chosen, key=lambda place: place[0]):
            numbers = [number for _, number in group]
            for images in dataset.read_split(info.path, part, resolution, not maps,
                                             indices=numbers):
                found = None
                if maps and signed:
                    found = channels.to_signed(images)[..., channels.SEGMAPS]
                elif maps:
                    found = channels.to_label_map(images[..., channels.SEGMAPS],
                                                  channels.STORED_THRESHOLD)
                yield images[..., channels.RGB], found

    return ImageSource(
        name=f"{info.name} {split}", count=len(places),
        digest=f"{info.digest} {split} {resolution}",
        batches=batches, classes=info.classes,
        sizes=collections.Counter({(resolution, resolution): len(places)}),
        names=lambda: [str(name) for part in sizes for name in dataset.read_ids(info.path, part)],
        about={"path": str(info.path), "name": info.name, "split": split,
               "resolution": resolution, "digest": info.digest})


def folder_source(directory: str | Path) -> ImageSource:
    """Return the pictures directly in a folder, in the order of their names, each at its own size.

    They are read as in dataset_tool.py: upright, grey and 16 bits as RGB, transparent parts on
    white; a file's content decides what it is. Hidden files are left out, other files that cannot
    be used are counted in `left_out`. Raises UserError for a folder without pictures.
    """
    return _picture_source(Path(directory), *_decode_folder(Path(directory)))


def pair_source(directory: str | Path) -> ImageSource:
    """Return images and label maps in two subfolders, paired by name, as generate.py writes them;
    or in shards of these.

    Maps are palette or grey PNGs of labels 0..C; classes.txt has the classes' names. Raises
    UserError if that list or an image's map is missing or, on reading, if a map has labels above C.
    """
    directory = Path(directory)
    parts = pair_folders(directory)
    decoded = [_decode_folder(part / IMAGES) for part in parts]
    pictures = [picture for found, _ in decoded for picture in found]
    left_out = tuple(line for _, lines in decoded for line in lines)
    label_paths = find_label_maps([picture.path for picture in pictures])
    return _picture_source(directory, pictures, left_out, label_paths, pair_classes(*parts))


def _picture_source(directory, pictures, left_out, label_paths=(), classes=()):
    """Return the ImageSource of decoded pictures and, for pairs, the paths of their label maps."""
    content = "".join([*(f"{p.path.name} {p.size} {p.digest}\n" for p in pictures),
                       *(f"{path.name} {file_digest(path)}\n" for path in label_paths)])
    digest = hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()

    def batches(maps: bool = False, indices: Sequence[int] | None = None,
                signed: bool = False) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        for i in range(len(pictures)) if indices is None else indices:
            try:
                rgb = np.asarray(decode_file(pictures[i].path))
            except PhotoError as error:
                raise UserError(f"{pictures[i].path}: {error}") from None
            yield rgb[None], (read_label_png(label_paths[i], len(classes), False,
                                             pictures[i].size)[None]
                              if maps and classes else None)

    return ImageSource(
        name=directory.resolve().name, count=len(pictures), digest=digest, batches=batches,
        classes=tuple(classes), sizes=collections.Counter(picture.size for picture in pictures),
        names=lambda: [picture.path.name for picture in pictures], left_out=left_out,
        about={"path": str(directory), "digest": digest})


class _Picture(NamedTuple):
    """A decoded file: (width, height) and a digest of its pixels; or None and why it failed."""

    path: Path
    size: tuple | None
    digest: str


def _decode_folder(directory):
    """Decode all files directly in a folder; return ([_Picture] of the usable ones, lines about the
    others). Raises UserError if none is usable."""
    if not directory.is_dir():
        raise UserError(f"{directory}: no such folder")

    def decode(path: Path) -> _Picture:
        try:
            image = decode_file(path)
            return _Picture(path, image.size, hashlib.sha256(image.tobytes()).hexdigest())
        except PhotoError as error:
            return _Picture(path, None, str(error))

    paths = _visible_files(directory)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(util.progress(pool.map(decode, paths), total=len(paths),
                                   desc=f"reading {directory.name}", unit="file"))
    usable = [picture for picture in found if picture.size]
    # A message names three of the others, and how many more there are.
    others = [f"{path.name} ({reason})" for path, size, reason in found if not size]
    more = f" and {len(others) - 3:,} more" if len(others) > 3 else ""
    listed = f"left out ({len(others):,}): {', '.join(others[:3])}{more}"
    if not usable:
        inside = ", ".join(sorted(p.name for p in directory.iterdir() if p.is_dir()))
        raise UserError(f"{directory}: no images directly in this folder"
                        + (f"; {listed}" if others else "")
                        + (f"; folders in it: {inside}" if inside else ""))
    return usable, (f"{directory}: {listed}",) if others else ()


def _visible_files(directory):
    """Return the files directly in a folder, in the order of their names, without hidden ones."""
    return sorted(path for path in Path(directory).iterdir()
                  if path.name[0] != "." and not path.is_dir() and not may_block(path))
