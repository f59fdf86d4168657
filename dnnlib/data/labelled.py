"""Read labelled pictures by number, from a data set's split or from a folder of pairs."""

import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dnnlib.data import channels, dataset, pyramid
from dnnlib.data.class_list import FILE_NAME as CLASSES
from dnnlib.data.class_list import read_class_list
from dnnlib.data.photos import GREY, PALETTE, PhotoError, decode_photo, probe, read_png_values
from dnnlib.util import UserError

IMAGES, LABELS = "images", "labels"


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
        self._images = [p for part in parts for p in sorted(_files(part / IMAGES))]
        self.classes = pair_classes(*parts)
        self._labels = find_label_maps(self._images)
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
        rgb = parse_picture(self._images[number], lambda path: decode_photo(path.read_bytes()))
        labels = read_label_png(self._labels[number], len(self.classes), size=rgb.size)
        if rgb.size != (self.resolution, self.resolution):
            rgb = pyramid.fit_square(rgb, self.resolution, "pad", pyramid.WHITE)
            labels = pyramid.fit_label_map(labels, self.resolution)
        return np.asarray(rgb), labels


def parse_picture(path: Path, parse: Callable[[Path], Any]) -> Any:
    """Return parse(path); raise UserError if there is no readable picture."""
    try:
        return parse(path)
    except (PhotoError, OSError) as error:
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
        raise UserError(f"{missing[0]}: missing, and {len(missing) - 1} more: every picture in "
                        f"{IMAGES}/ needs its label map")
    return found


def _files(folder):
    """Return the files directly in a folder that are not hidden; raise UserError if it has none."""
    found = [path for path in folder.glob("[!.]*") if path.is_file()]
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
    [h, w]: 0..C and, with `may_ignore`, channels.IGNORE. Raises UserError for any other file or
    label, and if `size`, its picture's (w, h), is given and differs."""
    try:
        kind, labels, _ = read_png_values(Path(path).read_bytes())
    except (PhotoError, OSError) as error:
        raise UserError(f"{path}: cannot be read as a label map ({error})") from None
    if kind not in (GREY, PALETTE) or labels.dtype != np.uint8:
        raise UserError(f"{path}: a picture of colours or of 16 bits; label maps are PNGs with a "
                        "palette or of grey, of up to 8 bits")
    if size not in (None, labels.shape[::-1]):
        raise UserError(f"{path}: {labels.shape[1]}x{labels.shape[0]} pixels, its picture has "
                        f"{size[0]}x{size[1]}")
    wrong = labels[(labels > num_classes) & ~(may_ignore & (labels == channels.IGNORE))]
    if len(wrong):
        raise UserError(f"{path}: label {wrong.max()}, where {num_classes} classes are known")
    return labels


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
