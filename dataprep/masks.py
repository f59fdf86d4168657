"""Other labelled sets: a folder of photos with PNG masks and a list of class names.

A mask's pixels are numbers, 0 the background, 1..C the classes, in a palette or in grey; or they
are colours that the list of classes gives (see dnnlib.data.class_list). One number, 255 where no
other is given, marks pixels to ignore, as in many sets: it counts as background.
"""

import collections
import hashlib
import io
import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dataprep import photo_sources
from dnnlib.data.coco import MODANET_FILE, OWN_FILE
from dnnlib.data.photos import PhotoError, reduction
from dnnlib.util import UserError

IGNORE = WHITE = 255
# Where photos and masks are below --source: as extract and generate write them, as others do.
_FOLDERS = (("images", "labels"), ("images", "masks"), ("JPEGImages", "SegmentationClass"))
# The last ones: what generate wrote before it wrote classes.txt.
_CLASS_FILES = ("classes.txt", "classes.json", "labelmap.txt", OWN_FILE, MODANET_FILE)
_SUFFIX = re.compile(r"(.+)[_.-](?:masks?|labels?|segs?|segm|segmentation|gt)", re.IGNORECASE)
_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGBA = 0, 2, 3, 4, 6  # colour types of PNG files
_HEAD = 26  # bytes up to and with the colour type


@dataclass(frozen=True)
class Coding:
    """What the pixels of a set's masks mean.

    ignore: number that counts as background; white: 255 is class 1; colours: ((0xrrggbb, label),
    ...) where the masks' colours count; numbers_in: kinds of Pixels of which numbers count.
    """

    num_classes: int
    ignore: int | None = IGNORE
    white: bool = False
    colours: tuple = ()
    numbers_in: frozenset = frozenset({"grey", "palette"})


@dataclass(frozen=True)
class Pixels:
    """The pixels of a mask. kind "grey" or "palette": values [h, w] are numbers; "rgb": 0xrrggbb.
    palette: colours 0xrrggbb of the numbers."""

    kind: str
    values: np.ndarray
    palette: tuple = ()

    def colour(self, value):
        """Return the colour 0xrrggbb of a value; None where the palette has none."""
        if self.kind == "palette":
            return self.palette[value] if value < len(self.palette) else None
        return value * 0x010101 if self.kind == "grey" else value

    def counts(self):
        """Return {value: pixels}, by runs: masks have few of them, and many pixels."""
        flat = self.values.ravel()
        starts = np.flatnonzero(np.diff(flat, prepend=~flat[:1]))
        values, inverse = np.unique(flat[starts], return_inverse=True)
        pixels = np.bincount(inverse, np.diff(starts, append=len(flat)))
        return dict(zip(values.tolist(), pixels.astype(int).tolist()))


@dataclass(frozen=True)
class Mask:
    """The label map of one photo, in a PNG of the same size."""

    source: photo_sources.PhotoFolder
    key: str
    coding: Coding

    def label_map(self, size):
        """Return the label map uint8 [h, w] of a photo of `size` = (w, h).

        Raises PhotoError where the file is unreadable, of another size, or shows no class at all,
        where numbers are above num_classes or colours are not in the list.
        """
        pixels = read_pixels(self.source.read(self.key), size)
        counts = pixels.counts()
        labels = {value: label_of(self.coding, pixels, value) for value in counts}
        if not any(labels.values()):
            hint = f" (value {self.coding.ignore} counts as background)" \
                if pixels.kind != "rgb" and self.coding.ignore in counts else ""
            raise PhotoError(f"mask shows background only{hint}")
        table = np.zeros(max(labels) + 1, np.uint8)
        table[list(labels)] = list(labels.values())
        return table[pixels.values]


def label_of(coding, pixels, value):
    """Return the label of a value of `pixels`. Raises PhotoError where it has none."""
    if pixels.kind not in coding.numbers_in:
        colour = pixels.colour(value)
        label = dict(coding.colours).get(colour)
        if label is None and pixels.kind == "palette" and value == coding.ignore:
            return 0
        if label is None:
            where = "list of classes" if coding.colours else "list of classes, which has no colours"
            shown = f"colour #{colour:06x}" if colour is not None else f"number {value} uncoloured,"
            raise PhotoError(f"mask has the {shown} that is not in the {where}")
        return label
    number = value & 0xff if pixels.kind == "rgb" else value
    if pixels.kind == "rgb" and pixels.colour(value) != number * 0x010101:
        raise PhotoError(f"mask has the colour #{value:06x}, other masks have numbers")
    if number == coding.ignore:
        return 0
    if coding.white and number == WHITE:
        return 1
    if number > coding.num_classes:
        raise PhotoError(f"mask has the value {number}, above the number of classes "
                         f"({coding.num_classes})")
    return number


def read_pixels(data, size=None):
    """Return the Pixels of a PNG's bytes, reduced as the photo of `size` = (w, h) is.

    Raises PhotoError where it is damaged, too large, or no mask; and where it is of another size.
    """
    width, height, depth, kind = _read_header(data)
    factor = reduction((width, height))  # as the photo's
    if size is not None and (-(-width // factor), -(-height // factor)) != tuple(size):
        raise PhotoError(f"photo is {size[0]}x{size[1]}, its mask {width}x{height}")
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            image.load()
            values = np.asarray(image)[::factor, ::factor]
            palette = image.getpalette() if kind == _PALETTE else []
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:  # its checksums, which
            image.verify()  # loading does not look at: what is lacking would be background
    except (OSError, ValueError, SyntaxError, EOFError, struct.error) as error:
        raise PhotoError(f"mask is damaged ({type(error).__name__})") from None
    if kind == _PALETTE:
        return Pixels("palette", values, tuple(_pack(np.reshape(palette, (-1, 3))).tolist()))
    if kind in (_GREY_ALPHA, _RGBA) and values[..., -1].min() < 255:
        raise PhotoError("mask has transparent pixels")
    if kind in (_RGB, _RGBA):
        return Pixels("rgb", _pack(values[..., :3]))
    if kind == _GREY_ALPHA:
        values = values[..., 0]
    if depth in (1, 2, 4):  # Pillow stretches 2 and 4 bits to the whole range; 1 bit becomes bool
        values = values.astype(np.uint8) // (255 // (2**depth - 1) if depth > 1 else 1)
    return Pixels("grey", values)


def _read_header(data):
    """Return (width, height, bits, colour type) of a PNG's bytes. Raises PhotoError."""
    if data[:2] == b"\xff\xd8":
        raise PhotoError("mask is a JPEG, whose compression changes numbers; save masks as PNG")
    if len(data) < _HEAD or data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR":
        raise PhotoError("mask is not a PNG file")
    width, height, depth, kind = struct.unpack(">IIBB", data[16:_HEAD])
    if depth > 8 and kind != _GREY:
        raise PhotoError("mask has 16 bits a colour; expected 8")
    return width, height, depth, kind


def _pack(colours):
    """Return colours [..., 3] as 0xrrggbb, uint32 [...]."""
    red, green, blue = np.moveaxis(np.asarray(colours, np.uint32), -1, 0)
    return red << 16 | green << 8 | blue


def find_folders(source, images, masks, classes):
    """(folder of photos, folder of masks, file of class names), as given or below `source`.

    Raises UserError where one is neither given nor there.
    """
    root = Path(source) if source is not None else None
    if root is not None and not root.is_dir():
        raise UserError(f"{root}: no such folder")
    pairs = [(root / a, root / b) for a, b in _FOLDERS] if root is not None else []
    there = next((pair for pair in pairs if all(folder.is_dir() for folder in pair)), (root, root))
    lists = [root / name for name in _CLASS_FILES] if root is not None else []
    listed = next((path for path in lists if path.is_file()), lists[0] if lists else None)
    found = [Path(given) if given is not None else default
             for given, default in zip((images, masks, classes), (*there, listed))]
    for path, option in zip(found, ("--images", "--masks", "--classes")):
        if path is None:
            raise UserError(f"give --source, or {option} too")
    return tuple(found)


def match(images, masks):
    """Return ({photo's name: mask's name}, skipped [{"id", "reason"}]).

    A mask has its photo's path without the suffix; behind it there may be an ending such as _mask,
    _label or _seg, if no mask is called like the photo. Where both are in one folder, the masks are
    its PNG files with such an ending, else all of its PNG files. Raises UserError where a folder is
    missing.
    """
    photo_names, mask_names = photo_sources.list_images(images), photo_sources.list_images(masks)
    if Path(images).resolve() == Path(masks).resolve():
        mask_names = _masks_among(photo_names)
        photo_names = [name for name in photo_names if name not in set(mask_names)]
    photos_of, masks_of = _by_stem(photo_names), _by_stem(mask_names)
    skipped = _set_aside(masks_of, Path(masks).name)
    masks_of = _without_endings(masks_of, photos_of)
    pairs = {}
    for stem in sorted(photos_of.keys() | masks_of.keys()):
        names, others = photos_of.get(stem, []), masks_of.get(stem, [])
        if len(names) == len(others) == 1:
            pairs[names[0]] = others[0]
            continue
        reason = ("photo has no mask" if not others else "mask has no photo" if not names else
                  "several photos of one stem" if len(names) > 1 else
                  f"several masks of one stem ({', '.join(others)})")
        skipped += [{"id": name, "reason": reason} for name in names or others]
    return pairs, skipped


def _by_stem(names):
    """{path without its suffix: names}."""
    stems = collections.defaultdict(list)
    for name in names:
        stems[name.rpartition(".")[0]].append(name)
    return stems


def _is_png(name):
    return name.lower().endswith(".png")


def _masks_among(names):
    """Return the masks in a folder that has the photos too."""
    stems = _by_stem(names)
    with_ending = [name for stem in stems for name in stems[stem]
                   if (ending := _SUFFIX.fullmatch(stem)) and ending[1] in stems]
    pngs = [name for name in names if _is_png(name)]
    return [name for name in with_ending if _is_png(name)] or pngs or with_ending


def _set_aside(masks_of, folder):
    """Take out of {stem: names} what is no PNG beside a PNG; return it, [{"id", "reason"}]."""
    skipped = []
    for stem, names in masks_of.items():
        pngs = list(filter(_is_png, names))
        if pngs:
            skipped += [{"id": f"{folder}/{name}", "reason": "no PNG, beside a mask that is one"}
                        for name in names if name not in pngs]
            masks_of[stem] = pngs
    return skipped


def _without_endings(masks_of, photos_of):
    """Return {stem: names} of masks by the stems of their photos, where there are such photos."""
    result = collections.defaultdict(list)
    for stem, names in masks_of.items():
        ending = None if stem in photos_of else _SUFFIX.fullmatch(stem)
        moved = ending and ending[1] in photos_of and ending[1] not in masks_of
        result[ending[1] if moved else stem] += names
    return result


def listing_digest(images, masks, pairs):
    """md5 of the names and sizes of all matched files: what a data set was made from."""
    digest = hashlib.md5()
    for photo, mask in pairs.items():
        sizes = [(Path(folder) / name).stat().st_size
                 for folder, name in ((images, photo), (masks, mask))]
        digest.update(json.dumps([photo, mask, *sizes]).encode())
    return digest.hexdigest()
