"""Where images on disk come from: splits of data sets and plain folders."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dnnlib.download import file_digest
from dnnlib.util import UserError

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


@dataclass(frozen=True)
class ImageSource:
    """A finite set of images.

    `batches()` starts an iterator over uint8 [n, H, W, 3], every image once; `digest` identifies
    their content; `about` is what a result says of them.
    """

    name: str
    count: int
    digest: str
    batches: object
    about: dict


def split_source(info, split, resolution, read_split):
    """The RGB images of a data set's split at one resolution.

    info: of dnnlib.dataset_info; read_split(directory, split, resolution, only_rgb) -> iterator, as
    training.dataset has it. Raises UserError where the split is empty.
    """
    if not info.splits.get(split):
        filled = ", ".join(name for name, size in info.splits.items() if size)
        raise UserError(f"data set {info.path} has no images in split {split!r}; it has: {filled}")
    return ImageSource(
        name=f"{info.name} {split}", count=info.splits[split],
        digest=f"{info.digest} {split} {resolution}",
        batches=lambda: read_split(info.path, split, resolution, only_rgb=True),
        about={"path": str(info.path), "name": info.name, "split": split,
               "resolution": resolution, "digest": info.digest})


def folder_source(directory):
    """The images directly in a folder, in the order of their names, each at its own size.

    Alpha is dropped and grey made RGB, as torch-fidelity does. Raises UserError for a folder
    without images or, on reading, an image that cannot be decoded.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f"{directory}: no such folder")
    paths = sorted(p for p in directory.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        inside = ", ".join(sorted(p.name for p in directory.iterdir() if p.is_dir()))
        raise UserError(f"{directory}: no images ({' '.join(sorted(IMAGE_SUFFIXES))}) directly in "
                        f"this folder{'; folders in it: ' + inside if inside else ''}")
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name} {file_digest(path)}\n".encode())
    return ImageSource(
        name=directory.name, count=len(paths), digest=digest.hexdigest(),
        batches=lambda: (_read_image(path)[None] for path in paths),
        about={"path": str(directory), "digest": digest.hexdigest()})


def _read_image(path):
    """uint8 [H, W, 3]."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be read as an image ({error})") from None
