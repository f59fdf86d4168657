"""Write label maps of photos with a segmentation network.

    OUT/labels/<photo>.png      palette indices, in the photo's size: 0 background, 1..C
    OUT/overlays/<photo>.png
    OUT/classes.txt             names of the classes 1..C
    OUT/labeller.json           the network, and the sha256 of every photo that is done

`dataset_tool.py create_from_masks --images=photos --source=OUT` reads it.
"""

import collections
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from dnnlib.data import pictures, pyramid
from dnnlib.data.class_list import FILE_NAME as CLASSES
from dnnlib.data.class_list import read_class_list, write_class_list
from dnnlib.data.dataset import open_part
from dnnlib.data.labelled import LABELS
from dnnlib.data.photos import (
    FORMATS,
    PhotoError,
    decode_photo,
    list_pictures,
    probe,
    read_picture_file,
)
from dnnlib.suggestions import command
from dnnlib.util import UserError
from generation.resumable_folder import content_digest, open_resumable
from training.segmentation.labeller import Labeller

OVERLAYS, RECORD = "overlays", "labeller.json"


def label_photos(labeller: Labeller, source: Path, out: Path,
                 minibatch: int) -> tuple[int, int, list[str]]:
    """Write the maps of all photos in a folder, except maps that exist already.

    Returns:
        How many were written, how many existed, lines about files that are not readable photos.

    Raises:
        UserError: the folder has no photos, or two whose maps would have the same name; or as
            `open_resumable`, for `out`.
    """
    photos, unreadable = find_photos(source), {}
    about = {"path": str(labeller.path), "classes": list(labeller.classes)}
    with open_resumable(out, RECORD, "label maps", {"network": labeller.digest}, about) as folder:
        fingerprints = {path: content_digest(path) for path in photos}
        missing = folder.begin(photos, lambda path: path.name, fingerprints.get,
                               lambda path: [_map_path(out, path)])
        write_class_list(out, labeller.classes)
        for part in folder.minibatches(missing, minibatch, "labels"):
            if readable := list(read_photos(part, unreadable)):
                write_maps(labeller, readable, out)
                folder.done |= {photo.path.name: fingerprints[photo.path] for photo in readable}
        for path in unreadable:  # it may have been a photo in an earlier run
            for old in (_map_path(out, path), _overlay_path(out, path)):
                old.unlink(missing_ok=True)
    return (len(missing) - len(unreadable), len(photos) - len(missing),
            list(unreadable.values()))


def find_photos(source: Path, option: str = "--source") -> list[Path]:
    """Return the files of a folder that are named like photos, or are pictures by their content.

    Args:
        option: names the folder in an error.

    Raises:
        UserError: there are none, or two that differ only in their suffix; or it is a data set.
    """
    if not source.is_dir():
        raise UserError(f"{option}={source}: no such folder")
    if part := open_part(source):
        info, split = part
        extract = command("dataset_tool.py", "extract", info.path,
                          *([f"--split={split}"] if split else []), "--out=extracted")
        raise UserError(f"{option}={source}: a data set, whose photos are in record files; to use "
                        f"them, write them to a folder: {extract}")
    photos = list_pictures(source)
    if not photos:
        raise UserError(f"{option}={source}: no photos directly in this folder "
                        f"({', '.join(FORMATS)})")
    stems = collections.Counter(path.stem for path in photos)
    if twice := [path.name for path in photos if stems[path.stem] > 1]:
        raise UserError(f"{option}={source}: {' and '.join(twice[:2])} would become one file; "
                        "rename one of them")
    return photos


def check_labelled_classes(folder: Path, classes: Sequence[str]) -> None:
    """Raise UserError if the folder has labels of other classes."""
    if any((folder / LABELS).glob("*.png")):
        check_listed_classes(folder, classes, f"remove {folder / LABELS}, ")


def check_listed_classes(folder: Path, classes: Sequence[str], advice: str = "") -> None:
    """Raise UserError if the folder has a list of other classes."""
    if not (folder / CLASSES).is_file():
        return
    listed = read_class_list(folder / CLASSES)
    there = listed.names[listed.num_background():]
    if there != tuple(classes):
        raise UserError(f"{folder}: has labels of the classes {', '.join(there)}; the new ones are "
                        f"of {', '.join(classes) or 'none'}: {advice}give the same ones, or choose "
                        "another folder")


def _map_path(out, photo):
    return out / LABELS / f"{photo.stem}.png"


def _overlay_path(out, photo):
    return out / OVERLAYS / f"{photo.stem}.png"


class ReadPhoto(NamedTuple):
    """A file's upright photo, at half its size if it is large, and its (width, height) in the
    file."""

    path: Path
    photo: Image.Image
    size: tuple[int, int]


def read_photos(paths: Iterable[Path], unreadable: dict[Path, str]) -> Iterator[ReadPhoto]:
    """Yield the photos in files; add a line to `unreadable` for each file that is not a readable
    photo."""
    for path in paths:
        try:
            data = read_picture_file(path)
            photo = ReadPhoto(path, decode_photo(data), probe(data))
        except PhotoError as error:
            unreadable[path] = f"{path}: {error}"
        else:
            yield photo


def write_maps(labeller: Labeller, photos: Sequence[ReadPhoto], out: Path) -> None:
    """Write the maps and overlays of a minibatch of photos."""
    squares = np.stack([pyramid.fit_square(photo, labeller.resolution, "pad", pyramid.WHITE)
                        for _, photo, _ in photos])  # [n, R, R, 3]
    for photo, chances in zip(photos, labeller.probabilities(squares)):
        label_map = label_map_from_probabilities(chances, photo.photo.size)
        write_map(label_map, photo, out, len(labeller.classes))


def write_map(label_map: np.ndarray, photo: ReadPhoto, out: Path, num_classes: int) -> None:
    """Write a label map of an upright photo, in the size that the photo has in its file, and the
    overlay."""
    overlay = pictures.overlay(np.asarray(photo.photo), label_map, num_classes)
    whole = Image.fromarray(label_map).resize(photo.size, Image.Resampling.NEAREST)
    pictures.save_png(_overlay_path(out, photo.path), overlay)
    pictures.save_label_png(_map_path(out, photo.path), np.asarray(whole), num_classes)


def label_map_at_size(values: np.ndarray, present: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the label map of a photo, uint8 [height, width], from values of the square [R, R] that
    the photo was fitted into.

    Args:
        values: float32 [R, R, C]; a pixel gets the class with the largest value.
        present: float32 [R, R]; where this is not above 0, the pixel is background.
        size: (width, height) of the photo.
    """
    left, top, right, bottom = pyramid.content_box(size, len(present), "pad")

    def enlarged(plane: np.ndarray) -> np.ndarray:
        part = np.ascontiguousarray(plane[top:bottom, left:right])
        return np.asarray(Image.fromarray(part).resize(size, Image.Resampling.BILINEAR))

    best, label_map = np.full(size[::-1], -np.inf, np.float32), np.zeros(size[::-1], np.uint8)
    # One class at a time, since all of them at a photo's size may be gigabytes.
    for label in range(1, values.shape[-1] + 1):
        plane = enlarged(values[..., label - 1])
        label_map[plane > best] = label
        best = np.maximum(best, plane)
    label_map[enlarged(present) <= 0] = 0
    return label_map


def label_map_from_probabilities(probabilities: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the label map of a photo from probabilities float32 [R, R, 1 + C]; see
    `label_map_at_size`.

    A pixel is background if the background is likelier than all classes together. If it only had to
    be likelier than each of them, a garment that may be of two classes would get no label, and
    garments would shrink with every network that learns from another's labels.
    """
    return label_map_at_size(probabilities[..., 1:], 0.5 - probabilities[..., 0], size)
