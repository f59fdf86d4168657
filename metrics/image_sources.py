"""Where images on disk come from: splits of data sets, plain folders and folders of pairs.

Files are decoded by dnnlib.data.photos, so that a photo is the same picture here as in a data set.
"""

import collections
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from dnnlib import util
from dnnlib.data import channels, dataset_info
from dnnlib.data.photo_names import IMAGE_SUFFIXES, MAX_BYTES
from dnnlib.data.photos import PhotoError, decode_photo
from dnnlib.download import file_digest
from dnnlib.util import UserError

_LISTED = 3  # files that a message names; of more it gives the number


@dataclass(frozen=True)
class ImageSource:
    """A finite set of images.

    `batches(maps=False, indices=None)` starts an iterator over (rgb uint8 [n, H, W, 3], label maps
    uint8 [n, H, W]), every image once or those of `indices`, in their order; maps are None unless
    asked for. `digest` identifies their content; `about` is what a result says of them; `classes`
    names the labels 1..C, () where there are none; `sizes` counts the images of every (width,
    height); `names()` are what the photos are called, in the images' order; `left_out` are lines on
    files that are not among the images.
    """

    name: str
    count: int
    digest: str
    batches: object
    about: dict
    classes: tuple = ()
    sizes: collections.Counter = field(default_factory=collections.Counter)
    names: object = None
    left_out: tuple = ()


def split_source(info, split, resolution, read_split):
    """The images of a data set's split at one resolution; of 'train+val' those of both splits.

    info: DatasetInfo; read_split(directory, split, resolution, only_rgb, indices) -> iterator over
    uint8 [n, H, W, 3 + C], as training.dataset has it. Raises UserError where the
    split is empty.
    """
    def batches(maps=False, indices=None):
        for part, places in _parts(counts, indices):
            for images in read_split(info.path, part, resolution, not maps, indices=places):
                segmaps = images[..., channels.SEGMAPS]
                yield (images[..., channels.RGB],
                       channels.to_label_map(segmaps, threshold=127) if maps else None)

    counts = {part: info.splits[part] for part in split.split("+") if info.splits.get(part)}
    if not counts:
        filled = ", ".join(name for name, size in info.splits.items() if size)
        raise UserError(f"data set {info.path} has no images in split {split!r}; it has: {filled}")
    return ImageSource(
        name=f"{info.name} {split}", count=sum(counts.values()),
        digest=f"{info.digest} {split} {resolution}",
        batches=batches, classes=info.classes,
        sizes=collections.Counter({(resolution, resolution): sum(counts.values())}),
        names=lambda: [str(name) for part in counts
                       for name in dataset_info.read_ids(info.path, part)],
        about={"path": str(info.path), "name": info.name, "split": split,
               "resolution": resolution, "digest": info.digest})


def _parts(counts, indices):
    """Yield (split, places in it or None for all) of {split: count}, in the order of `indices`,
    which count through all splits."""
    if indices is None or len(counts) == 1:
        yield from ((part, indices) for part in counts)
        return
    owners = [(part, place) for part, count in counts.items() for place in range(count)]
    for number in indices:
        part, place = owners[number]
        yield part, [place]


def folder_source(directory):
    """The pictures directly in a folder, in the order of their names, each at its own size.

    Read as dataset_tool.py reads photos: upright, grey and 16 bits as RGB, transparent parts on
    white; what a file is, its content says. Hidden files are left out, others that cannot be used
    are counted in `left_out`. Raises UserError for a folder without pictures.
    """
    pictures, left_out = _survey(directory)
    paths, digest = [picture.path for picture in pictures], _digest(pictures)

    def batches(maps=False, indices=None):
        return ((_read_image(path)[None], None) for path in _chosen(paths, indices))

    return ImageSource(
        name=Path(directory).name, count=len(paths), digest=digest, batches=batches,
        sizes=_sizes(pictures), names=lambda: [path.name for path in paths], left_out=left_out,
        about={"path": str(directory), "digest": digest})


def pair_source(directory, images, labels, classes):
    """Images and label maps in two subfolders, paired by name, as generate.py writes them.

    Maps are pictures of labels 0..C: palette or grey PNGs. Raises UserError where an image has no
    map or, on reading, a map has labels that are no class.
    """
    directory = Path(directory)
    pictures, left_out = _survey(directory / images)
    pairs = [(picture.path, directory / labels / f"{picture.path.stem}.png")
             for picture in pictures]
    missing = [label_path for _, label_path in pairs if not label_path.is_file()]
    if missing:
        raise UserError(f"{missing[0]}: missing, and {len(missing) - 1} more: every image in "
                        f"{directory / images} needs its label map")
    digest = _digest(pictures, [label_path for _, label_path in pairs])

    def batches(maps=False, indices=None):
        for image, label_map in _chosen(pairs, indices):
            yield (_read_image(image)[None],
                   _read_labels(label_map, len(classes))[None] if maps else None)

    return ImageSource(
        name=directory.name, count=len(pairs), digest=digest, classes=tuple(classes),
        batches=batches, sizes=_sizes(pictures),
        names=lambda: [image.name for image, _ in pairs], left_out=left_out,
        about={"path": str(directory), "digest": digest})


def _chosen(items, indices):
    """All items, or those of `indices` in their order."""
    return items if indices is None else [items[i] for i in indices]


@dataclass(frozen=True)
class _Picture:
    """A file that was decoded: (width, height) and a digest of its pixels, or the reason why it
    cannot be used."""

    path: Path
    size: tuple | None = None
    digest: str | None = None
    reason: str | None = None


def _survey(directory):
    """Decode all files directly in a folder: ([_Picture] of those that can be used, lines on the
    others). Raises UserError where there are none."""
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f"{directory}: no such folder")
    paths = _visible_files(directory)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(util.progress(pool.map(_look_at, paths), total=len(paths),
                                   desc=f"looking through {directory.name}", unit="file"))
    usable = [picture for picture in found if not picture.reason]
    unreadable = [f"{picture.path.name} ({picture.reason})" for picture in found
                  if picture.reason and _is_named_picture(picture.path)]
    others = [picture.path.name for picture in found
              if picture.reason and not _is_named_picture(picture.path)]
    if unreadable and not usable:
        raise UserError(f"{directory}: none of its pictures can be read: {_some(unreadable)}")
    if not usable:
        inside = ", ".join(sorted(p.name for p in directory.iterdir() if p.is_dir()))
        raise UserError(f"{directory}: no images directly in this folder"
                        f"{'; folders in it: ' + inside if inside else ''}")
    lines = [f"{directory}: {what} left out: {len(names):,}, {_some(names)}" for what, names in (
        ("pictures that cannot be read,", unreadable),
        ("files that are no pictures,", others)) if names]
    return usable, tuple(lines)


def _some(names):
    """The first names, for a message."""
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more:,} more" if more > 0 else "")


def _visible_files(directory):
    """Files directly in a folder, in the order of their names; hidden ones are left out."""
    return sorted(path for path in Path(directory).iterdir()
                  if path.is_file() and not path.name.startswith("."))


def _is_named_picture(path):
    """Whether a file is called as a picture, whatever it holds."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def folders_of_images(directory):
    """Names of the folders in a folder that hold images."""
    return sorted(folder.name for folder in Path(directory).iterdir() if folder.is_dir()
                  and any(map(_is_named_picture, _visible_files(folder))))


def _look_at(path):
    """The _Picture of a file."""
    try:
        rgb = _decode(path)
    except PhotoError as error:
        return _Picture(path, reason=str(error))
    return _Picture(path, rgb.size, hashlib.sha256(rgb.tobytes()).hexdigest())


def _digest(pictures, label_paths=()):
    """sha256 over the names, sizes and pixels of pictures and the contents of other files."""
    digest = hashlib.sha256()
    lines = [f"{p.path.name} {p.size} {p.digest}\n" for p in pictures]
    for line in [*lines, *(f"{path.name} {file_digest(path)}\n" for path in label_paths)]:
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _sizes(pictures):
    """How many pictures there are of every (width, height)."""
    return collections.Counter(picture.size for picture in pictures)


def _read_image(path):
    """uint8 [H, W, 3]. Raises UserError where it cannot be decoded any more."""
    try:
        return np.asarray(_decode(path))
    except PhotoError as error:
        raise UserError(f"{path}: {error}") from None


def _decode(path):
    """The PIL image of a file, as it is in a data set. Raises PhotoError."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise PhotoError("file is too large for a picture")
        return decode_photo(path.read_bytes())
    except OSError as error:
        raise PhotoError(f"file cannot be read ({error.strerror})") from None


def _read_labels(path, num_classes):
    """uint8 [H, W] of 0..C: a picture's indices or grey values."""
    try:
        with Image.open(path) as image:
            mode, labels = image.mode, np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be read as an image ({error})") from None
    if mode not in ("P", "L"):
        raise UserError(f"{path}: a picture of mode {mode}; label maps have a palette or are grey")
    if labels.max(initial=0) > num_classes:
        raise UserError(f"{path}: label {labels.max()}, where {num_classes} classes are known")
    return labels
