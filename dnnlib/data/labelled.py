"""Read labelled pictures by number, from a data set's split or from a folder of pairs."""

import contextlib
import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dnnlib.data import channels, dataset, pyramid
from dnnlib.data.class_list import FILE_NAME as CLASSES
from dnnlib.data.class_list import read_class_list
from dnnlib.data.photos import (
    GREY,
    PALETTE,
    PhotoError,
    decode_file,
    list_pictures,
    probe,
    read_picture_file,
    read_png_values,
)
from dnnlib.util import UserError

IMAGES, LABELS = "images", "labels"
_JUDGED = 8  # label maps that show whether 255 is the one class


class LabelledPictures(Protocol):
    """Pictures with their label maps.

    Attributes:
        classes: names of the labels 1..C.
    """

    classes: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of pictures."""

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return rgb uint8 [R, R, 3] and the label map uint8 [R, R]: 0..C or channels.IGNORE."""


class SplitPictures:
    """The pictures of a data set's split at one resolution."""

    def __init__(self, info: dataset.DatasetInfo, split: str, resolution: int):
        """Open the records; raise UserError if they are missing, or have no maps."""
        if not info.classes:
            raise UserError(f"{info.path}: has no segmentation maps")
        self.classes = tuple(info.classes)
        self._file = dataset.open_split(info, split, resolution)

    def __len__(self) -> int:
        return len(self._file)

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return picture and label map `number`."""
        return self._file.read_pair(number)


class PairFolder:
    """A folder of pairs as generate.py --num writes them: images/, labels/ and classes.txt, or
    shards of these.

    Attributes:
        path: the folder. classes: names of the labels 1..C.
        splits: {'train': number of pairs}, as a DatasetInfo's.
    """

    def __init__(self, path: str | Path, resolution: int | None = None):
        """List the pairs; raise UserError if they are not complete.

        Args:
            resolution: side of the squares that `read` returns; only `read` needs it.
        """
        self.path = Path(path)
        parts = pair_folders(self.path) or [self.path]
        self._images = [path for part in parts for path in _pictures(part / IMAGES)]
        self.classes = pair_classes(*parts)
        self._labels = find_label_maps(self._images)
        check_one_class(self._labels, self.classes)
        self.name, self.splits = self.path.resolve().name, {"train": len(self._images)}
        self.resolution = resolution

    def at(self, resolution: int) -> "PairFolder":
        """Return the same folder, read at a resolution."""
        return PairFolder(self.path, resolution)

    @functools.cached_property
    def digest(self) -> str:
        """Return the sha256 of the classes and all files' names and sizes, which a continued
        training compares."""
        listing = "".join(f"{path.relative_to(self.path)} {path.stat().st_size}\n"
                          for path in [*self._images, *self._labels])
        listing += "\n".join(self.classes)
        return hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest()

    @functools.cached_property
    def content_digest(self) -> str:
        """Return the sha256 of the digest and all files' content. It identifies what is cached for
        the pairs, since corrected maps may have their old sizes."""
        content = hashlib.sha256(self.digest.encode())
        for path in [*self._images, *self._labels]:
            content.update(hashlib.sha256(path.read_bytes()).digest())
        return content.hexdigest()

    def largest_level(self) -> int:
        """Return the largest power of two that the longer side of half of the pictures reaches."""
        return pyramid.common_level(parse_picture(path, probe) for path in self._images)

    def __len__(self) -> int:
        return len(self._images)

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return picture and label map `number`. The padding to a square is white background, as in
        a data set."""
        rgb = parse_picture(self._images[number], decode_file)
        labels = read_label_png(self._labels[number], len(self.classes), size=rgb.size)
        if rgb.size != (self.resolution, self.resolution):
            rgb = pyramid.fit_square(rgb, self.resolution, "pad", pyramid.WHITE)
            labels = pyramid.fit_label_map(labels, self.resolution)
        return np.asarray(rgb), labels


def parse_picture(path: Path, parse: Callable[[Path], Any]) -> Any:
    """Return parse(path); raise UserError if there is no readable picture."""
    try:
        return parse(path)
    except PhotoError as error:
        raise UserError(f"{path}: {error}; move it out of the folder") from None


def pair_folders(path: Path) -> list[Path]:
    """Return the folders of pairs at a path: itself, its shards, or none."""
    if (path / IMAGES).is_dir():
        return [path]
    return sorted(part for part in path.glob("shard-*-of-*") if (part / IMAGES).is_dir())


def pair_classes(first: Path, *others: Path) -> tuple[str, ...]:
    """Return the names of the labels 1..C of a folder of pairs, or of shards; raise UserError if a
    folder has no list of names, a list gives colours, or the lists of shards differ."""
    listed = read_class_list(first / CLASSES)
    if listed.colours:
        raise UserError(f"{listed.path}: gives colours, but the maps of a folder of pairs have "
                        "numbers; convert it with dataset_tool.py create_from_masks")
    classes = tuple(listed.names[listed.num_background():])
    for other in others:
        if (found := pair_classes(other)) != classes:
            raise UserError(f"{other / CLASSES}: names {', '.join(found)}, but {first / CLASSES} "
                            f"{', '.join(classes)}: shards need the same classes in one order")
    return classes


def find_label_maps(images: Sequence[Path]) -> list[Path]:
    """Return the file of each picture's label map; raise UserError if one is missing, or if two
    pictures would share it."""
    found = [path.parents[1] / LABELS / f"{path.stem}.png" for path in images]
    owners = {}
    for image, path in zip(images, found):
        if owners.setdefault(path, image) != image:
            raise UserError(f"{image}: its label map would be {path.name}, which is that of "
                            f"{owners[path].name}; rename one of them and its map")
    if missing := [path for path in found if not path.is_file()]:
        more = f", and {len(missing) - 1:,} more" if len(missing) > 1 else ""
        raise UserError(f"{missing[0]}: missing{more}: every picture in {IMAGES}/ needs its label "
                        "map, a PNG of the same name")
    return found


def check_one_class(paths: Sequence[Path], classes: Sequence[str]) -> None:
    """Raise UserError if the first label maps of one class have 255 in place of 1, as many masks
    do: 255 is to be ignored here. Maps that cannot be read are left to the reader."""
    shown = set()
    for path in paths[:_JUDGED if len(classes) == 1 else 0]:
        with contextlib.suppress(UserError):
            shown |= {*np.unique(read_label_png(path, 1)).tolist()}
    if channels.IGNORE in shown and 1 not in shown:
        raise UserError(f"{paths[0].parent}: label maps with the numbers 0 and 255 alone; "
                        f"{classes[0]!r} is 1, and pixels of 255 are ignored: write 1 in place of "
                        "255")


def _pictures(folder):
    """Return the pictures directly in a folder; raise UserError if it has none."""
    found = list_pictures(folder)
    if found and not (folder.parent / LABELS).is_dir():
        raise UserError(f"{folder.parent}: a folder of pairs needs {LABELS}/ and {CLASSES} beside "
                        f"{IMAGES}/; photos alone are the folder {folder}")
    if not found:
        raise UserError(f"{folder}: no pictures there; a folder of pairs has {IMAGES}/, {LABELS}/ "
                        f"and {CLASSES}")
    return found


def read_label_png(path: str | Path, num_classes: int, may_ignore: bool = True,
                   size: tuple[int, int] | None = None) -> np.ndarray:
    """Return the palette indices or grey values of a PNG, of up to 8 bits, as a label map uint8
    [h, w]: 0..C and, with `may_ignore`, channels.IGNORE. If an image editor has given other indices
    to this program's colours, the colours count. Raises UserError for any other file or label, and
    if `size`, its picture's (w, h), is given and differs."""
    try:
        kind, labels, colours = read_png_values(read_picture_file(Path(path)))
    except PhotoError as error:
        raise UserError(f"{path}: cannot be read as a label map ({error})") from None
    if kind not in (GREY, PALETTE) or labels.dtype != np.uint8:
        raise UserError(f"{path}: a picture of colours or of 16 bits; label maps are PNGs with a "
                        "palette or of grey, of up to 8 bits")
    if size not in (None, labels.shape[::-1]):
        raise UserError(f"{path}: {labels.shape[1]}x{labels.shape[0]} pixels, its picture has "
                        f"{size[0]}x{size[1]}")
    labels = _by_colour(labels, colours, num_classes)
    wrong = labels[(labels > num_classes) & ~(may_ignore & (labels == channels.IGNORE))]
    if len(wrong):
        raise UserError(f"{path}: label {wrong.max()}, above the number of classes ({num_classes})")
    return labels


def _by_colour(labels, colours, num_classes):
    """Return the indices [h, w] of a palette `colours` [n, 3] as labels, uint8: the indices, unless
    all that are used have this program's colours of 0..C or channels.IGNORE; then, the colours'.
    """
    used = np.flatnonzero(np.bincount(labels.ravel(), minlength=256))
    if used[-1] >= len(colours):
        return labels
    own = channels.palette(channels.IGNORE)
    known = {tuple(own[label]): label for label in [channels.IGNORE, *range(num_classes + 1)]}
    found = [known.get(tuple(colour)) for colour in colours[used]]
    if None in found:
        return labels
    table = np.zeros(256, np.uint8)
    table[used] = found
    return table[labels]


def open_labelled(path: str | Path) -> dataset.DatasetInfo | PairFolder:
    """Open a folder of pairs or, at any other path, a data set; raise UserError if it is neither.
    """
    if pair_folders(Path(path)) and not (Path(path) / dataset.FILE_NAME).is_file():
        return PairFolder(path)
    return dataset.open_dataset(path)


def pictures_of(source: dataset.DatasetInfo | PairFolder, split: str,
                resolution: int) -> LabelledPictures:
    """Return the pictures of a split at a resolution; a folder of pairs has only 'train'."""
    if isinstance(source, PairFolder):
        return source.at(resolution)
    return SplitPictures(source, split, resolution)


def choose_numbers(count: int, number: int | None, seed: int) -> Sequence[int]:
    """Draw `number` of the pictures 0..count - 1, ascending; all for None. With the same seed, a
    smaller number draws a subset of a larger one."""
    if number is None:
        return range(count)
    return np.sort(np.random.default_rng([seed, 7]).permutation(count)[:number]).tolist()
