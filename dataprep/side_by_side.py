"""Read pictures that hold photo and labels side by side, the form of pix2pix's data sets.

Labels are colours, which JPEG and resizing change, and blend at borders. A pixel first gets the
class of the nearest colour in the list. At borders, where a blend of two classes may be near the
colour of a third, it gets the nearer of the two. Finally it gets the class of most pixels in its
3x3 neighbourhood. A flat area whose colour is far from all in the list is not a blend: such a
picture is left out.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from dnnlib.data.class_list import read_class_list
from dnnlib.data.dataset import SPLITS
from dnnlib.data.photos import PhotoError
from dnnlib.util import UserError

SIDES = ("left", "right")
_SPLIT_OF = {**dict(zip(SPLITS, SPLITS)), "training": "train", "valid": "val", "validation": "val"}
# CMP Facades in the colours of pix2pix's copy; number 0 first.
FACADES = {"background": 0x0000de, "facade": 0x0030ff, "window": 0x0080ff, "door": 0x00d0ff,
           "cornice": 0x20ffde, "sill": 0x70ff8f, "balcony": 0xbfff40, "blind": 0xffef00,
           "deco": 0xffa000, "molding": 0xff5000, "pillar": 0xff0000, "shop": 0xaf0000}
BUILT_IN = {"facades": FACADES}
# In Facades, at least 65 % of a label half is near a colour and at most 0.15 % is flat and far; of
# a photo half, at most 0.4 % is near and at least 13 % is flat and far.
_NEAR, _LEAST_NEAR = 40, 0.3  # distance in RGB; share of the area
_FAR, _MOST_FAR = 48, 0.01
_REACH, _BLEND = 4, 64  # pixels from an area to a blend at its border; distance in RGB
_FLAT = 24  # levels by which the pixels of a 3x3 neighbourhood differ at most
_STEP = 16  # colours in messages are rounded to multiples, so that alike defects count as one


@dataclass(frozen=True)
class SideBySide:
    """The layout of pictures that hold a photo and its labels. photo: the photo's side; colours:
    ((0xrrggbb, label), ...)."""

    photo: str
    colours: tuple

    def split_halves(self, picture: Image.Image,
                     size: tuple[int, int]) -> tuple[Image.Image, np.ndarray, tuple[int, int]]:
        """Return (photo, label map uint8 [h, w], the photo's own width and height) of an RGB
        picture, whose file has `size` = (width, height). Raises PhotoError if its width is odd, or
        its labels have other colours or show background only."""
        if size[0] % 2:
            raise PhotoError(f"picture of {size[0]}x{size[1]}; photo and labels side by side have "
                             "an even width")
        width, height = picture.size
        half = width // 2  # in a reduced picture, an odd column may be between the halves
        left, right = (picture.crop((x, 0, x + half, height)) for x in (0, width - half))
        photo, drawn = (left, right) if self.photo == "left" else (right, left)
        labels = self._label_map(drawn)
        if not labels.any():
            raise PhotoError("labels show background only")
        return photo, labels, (size[0] // 2, size[1])

    def _label_map(self, drawn):
        """Return the label map uint8 [h, w] of the drawn half. Raises PhotoError."""
        rgb, (codes, labels) = np.asarray(drawn), zip(*self.colours)
        palette = np.array([[code >> 16, code >> 8 & 255, code & 255] for code in codes])
        nearest, distance = nearest_colours(rgb, palette)
        if (distance <= _NEAR**2).mean() < _LEAST_NEAR:
            raise PhotoError("labels do not have the colours of the list of classes; is the photo "
                             f"on the {self.photo}?")
        # A flat colour is not a blend, and not damage by JPEG.
        high, low = (np.asarray(drawn.filter(kind(3)), np.int16)
                     for kind in (ImageFilter.MaxFilter, ImageFilter.MinFilter))
        foreign = (distance > _FAR**2) & ((high - low).max(axis=-1) <= _FLAT)
        if foreign.mean() > _MOST_FAR:
            colour = np.median(rgb[foreign], axis=0)
            colour = np.minimum(np.rint(colour / _STEP) * _STEP, 255).astype(np.uint8)
            raise PhotoError(f"labels have a colour near #{colour.tobytes().hex()}, which is not "
                             "in the list of classes")
        unblended = resolve_blends(rgb, palette, nearest, distance)
        return majority_filter(np.array(labels, np.uint8)[unblended])


def nearest_colours(rgb: np.ndarray, palette: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (number uint8 [h, w] of the nearest of the colours [n, 3], its squared distance int32
    [h, w]) of a picture uint8 [h, w, 3]."""
    nearest = np.zeros(rgb.shape[:2], np.uint8)
    least = np.full(rgb.shape[:2], np.iinfo(np.int32).max, np.int32)
    for number, colour in enumerate(palette):  # one by one, to bound the memory
        distance = ((rgb - colour.astype(np.int32))**2).sum(axis=-1, dtype=np.int32)
        nearest[distance < least] = number
        np.minimum(least, distance, out=least)
    return nearest, least


def resolve_blends(rgb: np.ndarray, palette: np.ndarray, nearest: np.ndarray,
                   distance: np.ndarray) -> np.ndarray:
    """Return nearest_colours' numbers with blends resolved. A colour's areas consist of squares of
    2x2 pixels near this colour. A pixel outside all areas that is in reach of two of them, and
    whose colour is near the line between theirs, gets the nearer of the two."""
    areas = {}  # {number: bool [h, w], its areas}
    for number in np.unique(nearest):
        own = np.pad((nearest == number) & (distance <= _NEAR**2), 1)
        squares = own[:-1, :-1] & own[1:, :-1] & own[:-1, 1:] & own[1:, 1:]
        if squares.any():
            areas[number] = (squares[:-1, :-1] | squares[1:, :-1] | squares[:-1, 1:]
                             | squares[1:, 1:])
    rest = ~np.logical_or.reduce([*areas.values(), np.zeros(nearest.shape, bool)])
    near = {number: _dilate(area) & rest for number, area in areas.items()}
    result, least = nearest.copy(), np.full(nearest.shape, _BLEND**2, np.float32)
    for first, second in itertools.combinations(areas, 2):
        both = near[first] & near[second]
        line = (palette[second] - palette[first]).astype(np.float32)
        offset = rgb[both] - palette[first].astype(np.float32)  # [pixels, 3]
        share = np.clip(offset @ line / (line @ line), 0, 1)
        off = ((offset - share[:, None] * line)**2).sum(axis=-1)
        result[both] = np.where(off < least[both], np.where(share < 0.5, first, second),
                                result[both])
        least[both] = np.minimum(off, least[both])
    return result


def _dilate(mask):
    """Return a mask [h, w] dilated by _REACH pixels in rows and columns."""
    for axis in (0, 1):
        padded = np.pad(mask, [(_REACH, _REACH) if i == axis else (0, 0) for i in (0, 1)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * _REACH + 1, axis)
        mask = windows.any(axis=-1)
    return mask


def majority_filter(labels: np.ndarray) -> np.ndarray:
    """Return for each pixel of a label map [h, w] the most frequent label in its 3x3 neighbourhood;
    in a tie its own, or else the lowest."""
    result, most = labels.copy(), np.zeros(labels.shape, np.int8)
    for label in np.unique(labels):
        own = labels == label
        padded = np.pad(own, 1).astype(np.int8)
        rows = padded[:-2] + padded[1:-1] + padded[2:]
        votes = 2 * (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) + own  # own: decides a tie
        result[votes > most] = label
        np.maximum(most, votes, out=most)
    return result


def read_colours(listed: str, report: Callable[[str], None]) -> tuple[tuple, tuple]:
    """Return (names of the classes 1..C, ((0xrrggbb, label), ...)) of a built-in list, or of a file
    of names and colours; report the numbers. Raises UserError if there are no colours."""
    if listed in BUILT_IN:
        names, colours = zip(*BUILT_IN[listed].items())
        before = 1
    else:
        content = read_class_list(listed)
        names, colours, before = content.names, content.colours, content.num_background()
        if not colours:
            raise UserError(f"{listed}: has no colours; write them behind the names (name #rrggbb)")
    classes = tuple(names[before:])
    # Names before those of classes are background, with or without colours.
    labels = [0] * before + list(range(1, len(classes) + 1))
    background = ", ".join(names[:before]) or "background (no colour)"
    report(f"{listed}: 0 {background}, "
           + ", ".join(f"{label} {name}" for label, name in enumerate(classes, 1)))
    return classes, tuple((colour, label) for colour, label in zip(colours, labels)
                          if colour is not None)


def folder_splits(source: str, names: list[str]) -> tuple[dict, list[dict]]:
    """Return ({name: split}, skipped [{"id", "reason"}]) of pictures in the folders train/, val/
    and test/ of `source` (upper or lower case; also training/, valid/ and validation/); ({}, []) if
    it has none of these. Raises UserError if there is val/ or test/ but no train/."""
    folder_of = {name: name.partition("/")[0].casefold() if "/" in name else "" for name in names}
    splits = {name: _SPLIT_OF[folder] for name, folder in folder_of.items() if folder in _SPLIT_OF}
    if not splits:
        return {}, []
    if "train" not in splits.values():
        raise UserError(f"{source}: has {' and '.join(sorted(set(splits.values())))}, but no "
                        "pictures in train; name the folder with the pictures itself, or the one "
                        "above train/")
    return splits, [{"id": name, "reason": f"not in {'/, '.join(SPLITS)}/"}
                    for name in names if name not in splits]
