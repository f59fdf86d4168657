"""Where photos come from: a folder, a zip, or PaperDoll's lmdb. Found and read as bytes."""

import functools
import os
import stat
import zipfile
from dataclasses import dataclass
from pathlib import Path

from dataprep import archives
from dataprep.archives import PhotoLmdb, PhotoZip, too_large
from dataprep.photo_names import IMAGE_SUFFIXES, MAX_BYTES, NameIndex
from dataprep.photos import PhotoError
from dnnlib.util import UserError

__all__ = ["PhotoFolder", "PhotoLmdb", "PhotoZip", "list_images", "open_source"]
_TAR_MAGIC, _TAR_MAGIC_AT = b"ustar", 257


@dataclass(frozen=True)
class PhotoFolder:
    """Loose files in a folder and its subfolders; hidden ones are left out."""

    path: Path

    def find(self, image_id, file_name):
        """The Found of an image entry; its key is a relative name (see dataprep.photo_names)."""
        return _folder_index(self.path).find(image_id, file_name)

    def read(self, name):
        """The file's bytes. Raises PhotoError where it is out of the folder or unreadable."""
        root, path = os.path.realpath(self.path), os.path.realpath(self.path / name)
        if os.path.commonpath([root, path]) != root:
            raise PhotoError("file leads out of the photo folder")
        try:
            found = os.stat(path)
            if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for, for ever
                raise PhotoError("not a regular file")
            if found.st_size > MAX_BYTES:
                raise too_large(found.st_size)
            return Path(path).read_bytes()
        except OSError as error:
            raise PhotoError(f"file cannot be read ({error.strerror})") from None


@functools.lru_cache(maxsize=4)
def _folder_index(path):
    return NameIndex(_walk(path))


def open_source(path):
    """A photo source for a folder of files, a zip, an lmdb folder (with data.mdb) or an lmdb file.

    What it is, is seen from its content. Raises UserError where it is nothing of the kind, or
    damaged.
    """
    path = Path(path)
    if path.is_dir():
        if (path / "data.mdb").is_file():
            return archives.open_lmdb(path)
        return PhotoFolder(path)
    if not path.is_file():
        raise UserError(f"{path}: no photos there; {_EXPECTED}")
    with open(path, "rb") as file:
        start = file.read(512)
    if start.startswith(archives.LMDB_MAGIC, archives.LMDB_MAGIC_AT):
        return archives.open_lmdb(path)
    if zipfile.is_zipfile(path):
        return archives.open_zip(path)
    raise UserError(f"{path}: {_kind(start)}; {_EXPECTED}")


_EXPECTED = "expected a folder of image files, a zip of them, or PaperDoll's photos.lmdb"


def _kind(start):
    """What a file that holds no photos seems to be, from its first bytes."""
    if start.startswith(_TAR_MAGIC, _TAR_MAGIC_AT):
        return "a tar archive; unpack it (tar -xf) and name what comes out"
    if start.startswith(b"PK\x03\x04"):
        return "a zip that is cut short; fetch it again"
    if start.startswith(b"version https://git-lfs"):
        return "only a Git-LFS pointer; fetch the file itself (git lfs pull)"
    return f"no photos in it, it begins with {start[:40]!r}" if start else "an empty file"


def list_images(path):
    """Relative names of all image files below a folder, sorted; hidden ones are left out.

    Raises UserError where there is no such folder.
    """
    if not Path(path).is_dir():
        raise UserError(f"{path}: no such folder")
    return sorted(name for name in _walk(path) if name.lower().endswith(IMAGE_SUFFIXES))


def _walk(root):
    """Relative names of all files below a folder that are not hidden."""
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        inner = Path(folder).relative_to(root)
        yield from ((inner / name).as_posix() for name in files if not name.startswith("."))
