"""Where photos come from: a folder or PaperDoll's lmdb. They are found by id and read as bytes."""

import functools
import io
import os
import struct
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image, ImageOps

from dnnlib.util import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_MAX_PIXELS = 100_000_000


class PhotoError(Exception):
    """One photo that cannot be used: its message is the reason."""


@dataclass(frozen=True)
class PhotoFolder:
    """Loose files in one folder."""

    path: Path

    def find(self, image_id, file_name):
        """Name of the file of this id, or None: `%07d.jpg`, else the last part of `file_name`."""
        basename = PurePosixPath(file_name.replace("\\", "/")).name
        for name in (f"{image_id:07d}.jpg", basename):
            if name in _listing(self.path):
                return name
        return None

    def read(self, name):
        """The file's bytes. Raises PhotoError where it leads out of the folder or cannot be read."""
        root, path = os.path.realpath(self.path), os.path.realpath(self.path / name)
        if os.path.commonpath([root, path]) != root:
            raise PhotoError("the file leads out of the photo folder")
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise PhotoError(f"cannot be read ({error.strerror})") from None


@dataclass(frozen=True)
class PhotoLmdb:
    """PaperDoll's photos.lmdb: keys are ASCII photo ids, values the files' bytes."""

    path: Path

    def find(self, image_id, file_name):
        """The key of this id, or None."""
        key = str(image_id)
        with _lmdb(self.path).begin() as transaction:
            return key if transaction.get(key.encode()) is not None else None

    def read(self, key):
        """The file's bytes."""
        with _lmdb(self.path).begin() as transaction:
            return transaction.get(key.encode())


@functools.lru_cache(maxsize=4)
def _listing(path):
    """Names of the files in a folder."""
    return frozenset(entry.name for entry in os.scandir(path) if not entry.is_dir())


@functools.lru_cache(maxsize=4)
def _lmdb(path):
    """An open environment; one per process, which is why it is not kept in the source object."""
    import lmdb
    try:
        return lmdb.open(str(path), readonly=True, lock=False, readahead=False, subdir=path.is_dir())
    except lmdb.Error as error:
        raise UserError(f"{path}: not a readable lmdb ({error})") from None


def open_source(path):
    """A photo source for a folder, an lmdb folder (holding data.mdb) or an lmdb file.

    Raises UserError where there is nothing of the kind.
    """
    path = Path(path)
    if path.is_dir():
        return PhotoLmdb(path) if (path / "data.mdb").is_file() else PhotoFolder(path)
    if path.is_file() and path.suffix in (".lmdb", ".mdb"):
        return PhotoLmdb(path)
    raise UserError(f"{path}: no photos there; expected a folder of image files, "
                    "or PaperDoll's photos.lmdb")


def list_images(path):
    """Relative names of all image files below a folder, sorted; hidden ones and links are left out."""
    root, names = Path(path), []
    if not root.is_dir():
        raise UserError(f"{path}: no such folder")
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        names += [(Path(folder) / name).relative_to(root).as_posix() for name in files
                  if not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)]
    return sorted(names)


def decode_photo(data):
    """Bytes of an image file -> PIL RGB image, turned upright as its EXIF data says.

    Raises PhotoError saying why it cannot be used.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise PhotoError(f"too large: {image.width}x{image.height} pixels")
            image.load()
            return ImageOps.exif_transpose(image).convert("RGB")
    except Image.DecompressionBombError:
        raise PhotoError("too large") from None
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, OverflowError) as error:
        raise PhotoError(f"not a readable image ({type(error).__name__}: {error})") from None
