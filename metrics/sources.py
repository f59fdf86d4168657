"""Where images on disk come from: splits of data sets, plain folders and folders of pairs."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dnnlib import channels, dataset_info
from dnnlib.download import file_digest
from dnnlib.util import UserError

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


@dataclass(frozen=True)
class ImageSource:
    """A finite set of images.

    `batches(maps=False, indices=None)` starts an iterator over (rgb uint8 [n, H, W, 3], label maps
    uint8 [n, H, W]), every image once or those of `indices`, in their order; maps are None unless
    asked for. `digest` identifies their content; `about` is what a result says of them; `classes`
    names the labels 1..C, () where there are none; `size` is (height, width) of the first image.
    `names()` gives what each photo is called, as text, in the images' order.
    """

    name: str
    count: int
    digest: str
    batches: object
    about: dict
    classes: tuple = ()
    size: tuple | None = None
    names: object = None


def split_source(info, split, resolution, read_split):
    """The images of a data set's split at one resolution; of 'train+val' those of both splits.

    info: of dnnlib.dataset_info; read_split(directory, split, resolution, only_rgb, indices) ->
    iterator over uint8 [n, H, W, 3 + C], as training.dataset has it. Raises UserError where the
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
        batches=batches, classes=info.classes, size=(resolution, resolution),
        names=lambda: list(map(str, dataset_info.read_ids(info.path, split))),
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
    """The images directly in a folder, in the order of their names, each at its own size.

    Alpha is dropped and grey made RGB, as torch-fidelity does. Raises UserError for a folder
    without images or, on reading, an image that cannot be decoded.
    """
    paths = _image_paths(directory)
    digest = _files_digest(paths)

    def batches(maps=False, indices=None):
        return ((_read_image(path)[None], None) for path in _chosen(paths, indices))

    return ImageSource(
        name=Path(directory).name, count=len(paths), digest=digest, batches=batches,
        size=_read_size(paths[0]), names=lambda: [path.name for path in paths],
        about={"path": str(directory), "digest": digest})


def pair_source(directory, images, labels, classes):
    """Images and label maps in two subfolders, paired by name, as generate.py writes them.

    Maps are pictures of labels 0..C: palette or grey PNGs. Raises UserError where an image has no
    map or, on reading, a map has labels that are no class.
    """
    directory = Path(directory)
    paths = _image_paths(directory / images)
    label_paths = [directory / labels / f"{path.stem}.png" for path in paths]
    missing = [path for path in label_paths if not path.is_file()]
    if missing:
        raise UserError(f"{missing[0]}: missing, and {len(missing) - 1} more: every image in "
                        f"{directory / images} needs its label map")
    digest = _files_digest([*paths, *label_paths])

    def batches(maps=False, indices=None):
        for image, label_map in _chosen(list(zip(paths, label_paths)), indices):
            yield (_read_image(image)[None],
                   _read_labels(label_map, len(classes))[None] if maps else None)

    return ImageSource(
        name=directory.name, count=len(paths), digest=digest, classes=tuple(classes),
        batches=batches, size=_read_size(paths[0]), names=lambda: [path.name for path in paths],
        about={"path": str(directory), "digest": digest})


def _chosen(items, indices):
    """All items, or those of `indices` in their order."""
    return items if indices is None else [items[i] for i in indices]


def _image_paths(directory):
    """The images directly in a folder in the order of their names. Raises UserError for none."""
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f"{directory}: no such folder")
    paths = sorted(p for p in directory.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        inside = ", ".join(sorted(p.name for p in directory.iterdir() if p.is_dir()))
        raise UserError(f"{directory}: no images ({' '.join(sorted(IMAGE_SUFFIXES))}) directly in "
                        f"this folder{'; folders in it: ' + inside if inside else ''}")
    return paths


def folders_of_images(directory):
    """Names of the folders in a folder that hold images."""
    return sorted(folder.name for folder in Path(directory).iterdir() if folder.is_dir()
                  and any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.iterdir()))


def _files_digest(paths):
    """sha256 over the names and contents of files."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name} {file_digest(path)}\n".encode())
    return digest.hexdigest()


def _read_size(path):
    """(height, width)."""
    return _decode(path, lambda image: image.size[::-1])


def _read_image(path):
    """uint8 [H, W, 3]."""
    return _decode(path, lambda image: np.asarray(image.convert("RGB")))


def _read_labels(path, num_classes):
    """uint8 [H, W] of 0..C: a picture's indices or grey values."""
    mode, labels = _decode(path, lambda image: (image.mode, np.asarray(image)))
    if mode not in ("P", "L"):
        raise UserError(f"{path}: a picture of mode {mode}; label maps have a palette or are grey")
    if labels.max(initial=0) > num_classes:
        raise UserError(f"{path}: label {labels.max()}, where {num_classes} classes are known")
    return labels


def _decode(path, read):
    """read(image) of an image file. Raises UserError where it cannot be decoded."""
    try:
        with Image.open(path) as image:
            return read(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be read as an image ({error})") from None
