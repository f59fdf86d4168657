"""Other labelled sets: a folder of photos with index-mask PNGs and a list of class names.

A mask is a PNG whose pixels are numbers: 0 the background, 1..C the classes, in a palette or in
grey. The value 255 marks pixels to ignore in many sets; it counts as background where C < 255.
"""

import collections
import hashlib
import io
import json
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dataprep import sources
from dataprep.photos import PhotoError, reduction
from dnnlib.channels import MAX_CLASSES
from dnnlib.util import UserError

IGNORE = 255
CLASS_FILES = ("classes.txt", "classes.json")
# Where photos and masks lie below --source; extract writes the first pair.
_FOLDERS = (("images", "labels"), ("images", "masks"))
_MAX_NAME = 100
_GREY, _PALETTE = 0, 3  # colour types of PNG files
_HEAD = 26  # bytes up to and with the colour type


@dataclass(frozen=True)
class Mask:
    """The label map of one photo, in a PNG of the same size."""

    source: sources.PhotoFolder
    key: str
    num_classes: int

    def label_map(self, size):
        """Label map uint8 [h, w] of a photo of `size` = (w, h).

        Raises PhotoError where the file is unreadable, no index mask, of another size, holds
        numbers above num_classes, or shows no class at all.
        """
        labels = _read_indices(self.source.read(self.key), size)
        ignored = self.num_classes < IGNORE and labels == IGNORE
        labels = np.where(ignored, np.uint8(0), labels)
        largest = int(labels.max())
        if largest > self.num_classes:
            raise PhotoError(f"mask has the value {largest}, above the number of classes "
                                     f"({self.num_classes})")
        if not largest:
            hint = f" (value {IGNORE} counts as background)" if np.any(ignored) else ""
            raise PhotoError(f"mask shows background only{hint}")
        return labels


def _read_indices(data, size):
    """Bytes of an index-mask PNG -> its numbers, uint8 [h, w]. Raises PhotoError."""
    if len(data) < _HEAD or data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR":
        raise PhotoError("mask is not a PNG file")
    width, height, depth, kind = struct.unpack(">IIBB", data[16:_HEAD])
    if kind not in (_GREY, _PALETTE):
        raise PhotoError("mask has colours; expected numbers in a palette or grey")
    if depth > 8:
        raise PhotoError("mask has 16 bits a pixel; expected 8")
    factor = reduction((width, height))  # as the photo's
    if (-(-width // factor), -(-height // factor)) != tuple(size):
        raise PhotoError(f"photo is {size[0]}x{size[1]}, its mask {width}x{height}")
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            image.load()
            values = np.asarray(image).astype(np.uint8)[::factor, ::factor]
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:  # its checksums, which
            image.verify()  # loading does not look at: what is lacking would be background
    except (OSError, ValueError, SyntaxError, EOFError, struct.error) as error:
        raise PhotoError(f"mask is damaged ({type(error).__name__})") from None
    # Pillow stretches grey of 2 and 4 bits to the whole range, but not palette indices.
    return values // (255 // (2**depth - 1)) if kind == _GREY and depth in (2, 4) else values


def read_classes(path):
    """Class names in the order of their numbers from 1: a JSON list, or a text file, one a line.

    Raises UserError where there are none or over 255, one is empty, too long, not printable, or
    given twice.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        names = json.loads(text) if text.lstrip()[:1] in ("[", "{") else text.splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; write the class names into it, one a line") \
            from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: neither text nor a JSON list ({type(error).__name__})") from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: expected a list of names")
    names = [name.strip() for name in names]
    while names and not names[-1]:
        names.pop()
    if not 1 <= len(names) <= MAX_CLASSES:
        raise UserError(f"{path}: {len(names)} classes; expected 1 to {MAX_CLASSES}")
    for number, name in enumerate(names, 1):
        if not name or not name.isprintable() or len(name) > _MAX_NAME:
            raise UserError(f"{path}: class {number} has no usable name; expected 1 to {_MAX_NAME} "
                            "printable characters")
    twice = [name for name, count in collections.Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"{path}: the class {twice[0]!r} is given twice")
    return tuple(names)


def find_folders(source, images, masks, classes):
    """(folder of photos, folder of masks, file of class names), as given or below `source`.

    Raises UserError where one is neither given nor there.
    """
    root = Path(source) if source is not None else None
    if root is not None and not root.is_dir():
        raise UserError(f"{root}: no such folder")
    pairs = [(root / a, root / b) for a, b in _FOLDERS] if root is not None else []
    there = next((pair for pair in pairs if all(folder.is_dir() for folder in pair)), (root, root))
    lists = [root / name for name in CLASS_FILES] if root is not None else []
    listed = next((path for path in lists if path.is_file()), lists[0] if lists else None)
    found = [Path(given) if given is not None else default
             for given, default in zip((images, masks, classes), (*there, listed))]
    for path, option in zip(found, ("--images", "--masks", "--classes")):
        if path is None:
            raise UserError(f"give --source, or {option} too")
    return tuple(found)


def match(images, masks):
    """Photos and masks of one stem, the path below their folder without the suffix.

    Returns ({photo's name: mask's name}, skipped [{"id", "reason"}]). Where both lie in one folder,
    its PNG files are the masks. Raises UserError where a folder is missing.
    """
    mask_names = [name for name in sources.list_images(masks) if name.lower().endswith(".png")]
    photo_names = sources.list_images(images)
    if Path(images).resolve() == Path(masks).resolve():
        photo_names = [name for name in photo_names if name not in set(mask_names)]
    photos_of, masks_of = _by_stem(photo_names), _by_stem(mask_names)
    pairs, skipped = {}, []
    for stem in sorted(photos_of.keys() | masks_of.keys()):
        names, others = photos_of.get(stem, []), masks_of.get(stem, [])
        if len(names) == len(others) == 1:
            pairs[names[0]] = others[0]
            continue
        reason = ("photo has no mask" if not others else "mask has no photo" if not names else
                  "several photos of one stem" if len(names) > 1 else "several masks of one stem")
        skipped += [{"id": name, "reason": reason} for name in names or others]
    return pairs, skipped


def _by_stem(names):
    """{path without its suffix: names}."""
    stems = collections.defaultdict(list)
    for name in names:
        stems[name.rpartition(".")[0]].append(name)
    return stems


def listing_digest(images, masks, pairs):
    """md5 of the names and sizes of all matched files: what a data set was made from."""
    digest = hashlib.md5()
    for photo, mask in pairs.items():
        sizes = [(Path(folder) / name).stat().st_size
                 for folder, name in ((images, photo), (masks, mask))]
        digest.update(json.dumps([photo, mask, *sizes]).encode())
    return digest.hexdigest()
