"""Where photos come from: a folder, a zip, PaperDoll's lmdb, or record files. Read as bytes."""

import functools
import io
import os
import stat
import zipfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dataprep import archives
from dataprep.archives import PhotoLmdb, PhotoZip, too_large
from dnnlib.data import tfrecords
from dnnlib.data.channels import NUM_COLOURS
from dnnlib.data.photo_names import IMAGE_SUFFIXES, MAX_BYTES, NameIndex
from dnnlib.data.photos import FORMATS, PhotoError, is_picture
from dnnlib.util import UserError, one_line

__all__ = ["OTHER_FILE", "Listing", "PhotoFolder", "PhotoLmdb", "PhotoRecords", "PhotoZip",
           "list_images", "list_photos", "open_records", "open_source"]
OTHER_FILE = f"no photo: its content is none of {', '.join(FORMATS)}"
_TAR_MAGIC, _TAR_MAGIC_AT = b"ustar", 257


@dataclass(frozen=True)
class PhotoFolder:
    """Loose files in a folder and its subfolders; hidden ones are left out.

    Links are followed: they are the user's own, unlike names in archives and annotations.
    """

    path: Path

    def find(self, image_id, file_name):
        """The Found of an image entry; its key is a relative name (see dnnlib.data.photo_names)."""
        return _folder_index(self.path).find(image_id, file_name)

    def read(self, name):
        """The file's bytes. Raises PhotoError where it is out of the folder or unreadable."""
        if ".." in name.split("/") or os.path.isabs(name):
            raise PhotoError("file leads out of the photo folder")
        path = self.path / name
        try:
            found = os.stat(path)
            if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for, for ever
                raise PhotoError("not a regular file")
            if found.st_size > MAX_BYTES:
                raise too_large(found.st_size)
            return path.read_bytes()
        except OSError as error:
            raise PhotoError(f"file cannot be read ({error.strerror})") from None


@dataclass(frozen=True)
class PhotoRecords:
    """Images in the official release's record files, of the level of `resolution` or else of the
    largest; a key is the number of a record."""

    path: Path
    resolution: int

    def read(self, number):
        """A PNG file of one image. Raises PhotoError where its record is damaged or not RGB."""
        try:
            image = open_records(self).read_image(number)
        except UserError as error:
            raise PhotoError(one_line(error)) from None
        if image.shape[0] != NUM_COLOURS:
            raise PhotoError(f"record of {image.shape[0]} channels; expected {NUM_COLOURS}")
        buffer = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).save(buffer, "PNG", compress_level=0)
        return buffer.getvalue()


@functools.lru_cache(maxsize=4)
def open_records(source):
    """RecordFile of a PhotoRecords: one for each process."""
    files = tfrecords.record_files(source.path)
    level = source.resolution.bit_length() - 1
    return tfrecords.RecordFile(files[level if level in files else max(files)])


@functools.lru_cache(maxsize=4)
def _folder_index(path):
    files = _walk(path)
    return NameIndex([*files.own, *files.linked])


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


@dataclass(frozen=True)
class Listing:
    """Files of a folder: names of photos, sorted; and [{"id": name, "reason"}] of all others."""

    photos: list
    others: list


def list_photos(path):
    """Listing of all files below a folder: a photo has an image's suffix, or else its content.

    Hidden files are left out. Of several names of one file, by links, one counts. Raises UserError
    where there is no such folder.
    """
    if not Path(path).is_dir():
        raise UserError(f"{path}: no such folder")
    files = _walk(path)
    reasons, place_of = dict(files.left_out), {place: name for name, place in files.own.items()}
    for name, place in sorted(files.linked.items()):
        if not os.path.exists(place):
            reasons[name] = "link to nothing"
        elif place_of.setdefault(place, name) != name:
            reasons[name] = "link to a file that is read already"
    photos = []
    for name in [*files.own, *files.linked]:
        if name in reasons:
            continue
        if name.lower().endswith(IMAGE_SUFFIXES) or _has_picture(Path(path) / name):
            photos.append(name)
        else:
            reasons[name] = OTHER_FILE
    return Listing(sorted(photos), [{"id": name, "reason": reasons[name]}
                                    for name in sorted(reasons)])


def list_images(path):
    """Names of the photos of list_photos."""
    return list_photos(path).photos


def _has_picture(path):
    """is_picture of a regular file; a pipe would be waited for."""
    return path.is_file() and is_picture(path)


@dataclass
class _Files:
    """Files below a folder, {relative name: place without links}: its own, and those behind links;
    and folders that were not gone into, {name: reason}."""

    own: dict
    linked: dict
    left_out: dict


def _walk(root):
    """_Files that are not hidden. A folder is gone into once, whatever links lead to it."""
    found, seen = _Files({}, {}, {}), set()
    folders, links = [""], []
    while folders or links:  # what is there itself comes before what links lead to
        inner = folders.pop() if folders else links.pop(0)
        place = os.path.realpath(os.path.join(root, inner))
        if place in seen:
            found.left_out[inner] = "link to a folder that is read already"
            continue
        seen.add(place)
        for entry in _entries(place, inner, found.left_out):
            name, is_link = os.path.join(inner, entry.name), entry.is_symlink()
            if os.path.isdir(entry.path):
                (links if is_link else folders).append(name)
            elif is_link:
                found.linked[name] = os.path.realpath(entry.path)
            else:
                found.own[name] = entry.path
    return found


def _entries(place, inner, left_out):
    """Entries of a folder that are not hidden; one that cannot be read goes into `left_out`."""
    try:
        with os.scandir(place) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")),
                          key=lambda entry: entry.name)
    except OSError as error:
        if not inner:
            raise
        left_out[inner] = f"folder cannot be read ({error.strerror})"
        return []
