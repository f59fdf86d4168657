"""Where photos come from: a folder, or PaperDoll's lmdb. They are found by id and read as bytes."""

import functools
import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dataprep.photos import PhotoError
from dnnlib.util import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_MAX_BYTES = 2**28  # the largest picture that is decoded, uncompressed, and a little


@dataclass(frozen=True)
class PhotoFolder:
    """Loose files in one folder."""

    path: Path

    def find(self, image_id, file_name):
        """Name of the file of this id, or None: `%07d.jpg`, else the last part of `file_name`."""
        last_part = PurePosixPath(file_name.replace("\\", "/")).name
        names = (f"{image_id:07d}.jpg", last_part)
        return next((name for name in names if name in _listing(self.path)), None)

    def read(self, name):
        """The file's bytes. Raises PhotoError where it is out of the folder or unreadable."""
        root, path = os.path.realpath(self.path), os.path.realpath(self.path / name)
        if os.path.commonpath([root, path]) != root:
            raise PhotoError("file leads out of the photo folder")
        try:
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for, for ever
                raise PhotoError("not a regular file")
            if status.st_size > _MAX_BYTES:
                raise PhotoError(f"file of {status.st_size / 1e6:.0f} MB is too large for a photo")
            return Path(path).read_bytes()
        except OSError as error:
            raise PhotoError(f"file cannot be read ({error.strerror})") from None


@dataclass(frozen=True)
class PhotoLmdb:
    """PaperDoll's photos.lmdb: keys are ASCII photo ids, values the bytes of image files."""

    path: Path

    def find(self, image_id, file_name):
        """The key of this id, or None. `file_name` does not matter."""
        key = str(image_id)
        with _open_lmdb(self.path).begin(buffers=True) as transaction:
            return key if transaction.get(key.encode()) is not None else None

    def read(self, key):
        """The file's bytes."""
        with _open_lmdb(self.path).begin() as transaction:
            return transaction.get(key.encode())


@functools.lru_cache(maxsize=4)
def _listing(path):
    """Names of the files in a folder."""
    return frozenset(entry.name for entry in os.scandir(path) if not entry.is_dir())


@functools.lru_cache(maxsize=4)
def _open_lmdb(path):
    """An open database: one for each process, so it cannot live in the source object."""
    import lmdb  # here, because only ModaNet's own photos need the package
    try:
        return lmdb.open(str(path), readonly=True, lock=False, readahead=False,
                         subdir=path.is_dir())
    except lmdb.Error as error:
        raise UserError(f"{path}: not a readable lmdb ({error})") from None


def open_source(path):
    """A photo source for a folder of files, an lmdb folder (with data.mdb) or an lmdb file.

    Raises UserError where there is nothing of the kind.
    """
    path = Path(path)
    if (path / "data.mdb").is_file() or (path.is_file() and path.suffix in (".lmdb", ".mdb")):
        _open_lmdb(path)
        return PhotoLmdb(path)
    if path.is_dir():
        return PhotoFolder(path)
    raise UserError(f"{path}: no photos there; expected a folder of image files or PaperDoll's "
                    "photos.lmdb")


def list_images(path):
    """Relative names of all image files below a folder, sorted; hidden ones are left out.

    Raises UserError where there is no such folder.
    """
    root, names = Path(path), []
    if not root.is_dir():
        raise UserError(f"{path}: no such folder")
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        names += [(Path(folder) / name).relative_to(root).as_posix() for name in files
                  if not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)]
    return sorted(names)
