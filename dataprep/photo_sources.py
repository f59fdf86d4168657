"""Read photos, as bytes, from a folder, a zip, PaperDoll's lmdb or record files.

A source is sent to worker processes, so it holds only a path; each process caches what it opens.
"""

import functools
import io
import itertools
import lzma
import os
import re
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dnnlib.data import photo_names, tfrecords
from dnnlib.data.channels import NUM_COLOURS
from dnnlib.data.photo_names import Found, NameIndex
from dnnlib.data.photos import FORMATS, PhotoError, is_picture
from dnnlib.util import UserError, one_line

OTHER_FILE = f"no photo: its content is none of {', '.join(FORMATS)}"
_EXPECTED = "expected a folder of image files, a zip of them, or PaperDoll's photos.lmdb"
_LMDB_MAGIC = bytes.fromhex("DEC0EFBE")  # at byte 16 of the first page
_IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"RIFF", b"GIF8", b"BM")
_SAMPLE = 100  # entries at each end of a database that are read before it is used
_MAX_FORMS = 8  # ways of writing an id; with more, the keys are something else


def _check_size(size):
    """Raise PhotoError if a file of `size` bytes is too large for a photo."""
    if size > photo_names.MAX_BYTES:
        raise PhotoError(f"file of {size / 1e6:.0f} MB is too large for a photo")


@dataclass(frozen=True)
class PhotoFolder:
    """Loose files in a folder and its subfolders; hidden ones are left out. Links are followed:
    they are the user's own, unlike names in archives and annotations."""

    path: Path

    def find(self, image_id: int, file_name: str) -> Found:
        """Return the file of an image entry; its key is a relative name."""
        return _folder_index(self.path).find(image_id, file_name)

    def size(self, name: str) -> int | None:
        """Return a file's size in bytes, None if it does not exist: `read` raises the reason."""
        path = self.path / name
        return path.stat().st_size if path.exists() else None

    def read(self, name: str) -> bytes:
        """Return a file's bytes. Raises PhotoError if it is outside the folder or unreadable."""
        if ".." in name.split("/") or os.path.isabs(name):
            raise PhotoError("file leads out of the photo folder")
        path = self.path / name
        try:
            if path.exists() and not path.is_file():  # reading a pipe could block for ever
                raise PhotoError("not a regular file")
            _check_size(path.stat().st_size)
            return path.read_bytes()
        except OSError as error:
            raise PhotoError(f"file cannot be read ({error.strerror})") from None


@dataclass(frozen=True)
class PhotoZip:
    """A zip of photos, in any subfolders; found as in a folder, never unpacked to the disk."""

    path: Path

    def find(self, image_id: int, file_name: str) -> Found:
        """Return the member of an image entry; its key is a name in the zip."""
        return _open_zip(self.path)[1].find(image_id, file_name)

    def size(self, name: str) -> int:
        """Return the size in bytes that the zip states for a member."""
        return _open_zip(self.path)[0].getinfo(name).file_size

    def read(self, name: str) -> bytes:
        """Return a member's bytes, never more than the zip states. Raises PhotoError if it cannot
        be read."""
        if photo_names.leads_out(name):
            raise PhotoError("zip entry leads out of the archive")
        archive, _ = _open_zip(self.path)
        try:
            member = archive.getinfo(name)
            if member.flag_bits & 1:
                raise PhotoError("zip entry is encrypted")
            _check_size(max(member.file_size, member.compress_size))
            with archive.open(member) as file:
                data = file.read(member.file_size)
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, NotImplementedError,
                ValueError, EOFError, OSError) as error:
            raise PhotoError(f"zip entry is damaged ({one_line(error)[:80]})") from None
        if len(data) != member.file_size:
            raise PhotoError("zip entry is damaged (it is shorter than stated)")
        return data


@dataclass(frozen=True)
class PhotoLmdb:
    """PaperDoll's photos.lmdb: keys are ASCII photo ids, values the bytes of image files. Leading
    zeros, a common prefix or suffix (`0736001`, `736001.jpg`) are recognised from some keys."""

    path: Path

    def find(self, image_id: int, file_name: str) -> Found:
        """Return the entry of this id. Keys are ids, so `file_name` is only compared."""
        with _open_lmdb(self.path).begin(buffers=True) as transaction:
            keys = [f"{prefix}{image_id:0{width}d}{suffix}"
                    for prefix, width, suffix in _key_forms(self.path)]
            keys = [key for key in dict.fromkeys(keys) if transaction.get(key.encode()) is not None]
        if not keys:
            return Found(None, photo_names.MISSING)
        remarks = []
        if photo_names.name_number(file_name) not in (None, image_id):
            remarks.append(("the number in file_name is not the id: the id decides, as the "
                            "database has no names", f"file_name says {file_name}, id {image_id}"))
        if len(keys) > 1:
            remarks.append((photo_names.SEVERAL,
                            f"id {image_id}: {keys[0]}, not {', '.join(keys[1:])}"))
        return Found(keys[0], None, tuple(remarks))

    def size(self, key: str) -> int:
        """Return the size of an entry in bytes."""
        with _open_lmdb(self.path).begin(buffers=True) as transaction:
            return len(transaction.get(key.encode()))

    def read(self, key: str) -> bytes:
        """Return the bytes of an entry. Raises PhotoError if it is gone or too large."""
        with _open_lmdb(self.path).begin(buffers=True) as transaction:
            value = transaction.get(key.encode())
            if value is None:
                raise PhotoError("photo is gone from the database")
            _check_size(len(value))
            return bytes(value)


@dataclass(frozen=True)
class PhotoRecords:
    """The official release's record files, at the level of `resolution` or else the largest one; a
    key is the number of a record."""

    path: Path
    resolution: int

    def read(self, number: int) -> bytes:
        """Return one image as a PNG. Raises PhotoError if its record is damaged or not RGB."""
        try:
            image = open_records(self).read_image(number)
        except UserError as error:
            raise PhotoError(one_line(error)) from None
        if image.shape[0] != NUM_COLOURS:
            raise PhotoError(f"record of {image.shape[0]} channels; expected {NUM_COLOURS}")
        buffer = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).save(buffer, "PNG", compress_level=0)
        return buffer.getvalue()


Source = PhotoFolder | PhotoZip | PhotoLmdb | PhotoRecords


def open_photos(path: str | Path) -> PhotoFolder | PhotoZip | PhotoLmdb:
    """Return the source for a folder of files, a zip, an lmdb folder (with data.mdb) or an lmdb
    file, recognised by content. Raises UserError if it is none of these, or damaged."""
    path, start = Path(path), b""
    is_lmdb = (path / "data.mdb").is_file()
    if path.is_dir() and not is_lmdb:
        return PhotoFolder(path)
    if path.is_file():
        with open(path, "rb") as file:
            start = file.read(512)
    elif not is_lmdb:
        missing = "no photos there" if path.exists() else "no such folder or file"
        raise UserError(f"{path}: {missing}; {_EXPECTED}")
    if is_lmdb or start.startswith(_LMDB_MAGIC, 16):
        _key_forms(path)  # raises UserError
        return PhotoLmdb(path)
    if zipfile.is_zipfile(path):
        _open_zip(path)
        return PhotoZip(path)
    kind = f"no photos in it, it begins with {start[:40]!r}" if start else "an empty file"
    if start.startswith(b"ustar", 257):
        kind = "a tar archive; unpack it (tar -xf) and name what comes out"
    elif start.startswith(b"PK\x03\x04"):
        kind = "a zip that is cut short; fetch it again"
    elif start.startswith(b"version https://git-lfs"):
        kind = "only a Git-LFS pointer; fetch the file itself (git lfs pull)"
    raise UserError(f"{path}: {kind}; {_EXPECTED}")


# Opened once in each process

@functools.lru_cache(maxsize=4)
def open_records(source: PhotoRecords) -> tfrecords.RecordFile:
    """Return the record file of a PhotoRecords."""
    files = tfrecords.record_files(source.path)
    level = source.resolution.bit_length() - 1
    return tfrecords.RecordFile(files[level if level in files else max(files)])


@functools.lru_cache(maxsize=4)
def _folder_index(path):
    return NameIndex(itertools.chain(*_walk(path)[:2]))


@functools.lru_cache(maxsize=4)
def _open_zip(path):
    """Return (open zip, NameIndex of its files without links). Raises UserError if it cannot be
    read."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(f"{path}: not a readable zip ({one_line(error)})") from None
    return archive, NameIndex({entry.filename for entry in archive.infolist() if not entry.is_dir()
                               and not stat.S_ISLNK(entry.external_attr >> 16)})


@functools.lru_cache(maxsize=4)
def _open_lmdb(path):
    """Return an open database. Raises UserError if it is damaged."""
    import lmdb  # here, because only ModaNet's own photos need the package
    try:
        database = lmdb.open(str(path), readonly=True, lock=False, readahead=False,
                             subdir=path.is_dir())
        needed = database.stat()["psize"] * (database.info()["last_pgno"] + 1)
    except lmdb.Error as error:
        raise UserError(f"{path}: not a readable lmdb ({one_line(error)})") from None
    there = (path / "data.mdb" if path.is_dir() else path).stat().st_size
    if there < needed:  # reading the missing part of a mapped file would kill the process
        database.close()
        raise UserError(f"{path}: cut short ({there:,} of {needed:,} bytes); unpack or fetch it "
                        "again")
    return database


@functools.lru_cache(maxsize=4)
def _key_forms(path):
    """Return the ways in which keys write an id: ((prefix, width, suffix), ...), the plain one
    first. Raises UserError if keys are not ids, or values are not image files."""
    with _open_lmdb(path).begin(buffers=True) as transaction:
        both_ends = (transaction.cursor().iternext(), transaction.cursor().iterprev())
        entries = [(bytes(key), bytes(value[:60])) for entries in both_ends
                   for key, value in itertools.islice(entries, _SAMPLE)]
    if not entries:
        raise UserError(f"{path}: the database is empty")
    forms = set()
    for key, _ in entries:
        if match := re.fullmatch(rb"([ -/:-~]*)(\d{1,16})(\.[A-Za-z]{1,5})?", key):
            prefix, digits, suffix = (part.decode() for part in match.groups(b""))
            forms.add((prefix, len(digits) if digits.startswith("0") else 0, suffix))
    if not forms or len(forms) > _MAX_FORMS:
        raise UserError(f"{path}: keys are not photo ids but such as {entries[0][0][:40]!r}; "
                        "expected ASCII ids as in PaperDoll's photos.lmdb")
    if not any(value.startswith(_IMAGE_STARTS) for _, value in entries):
        raise UserError(f"{path}: values are not image files but begin with {entries[0][1]!r}; "
                        "expected the photos themselves, as in PaperDoll's photos.lmdb")
    return (("", 0, ""), *sorted(forms - {("", 0, "")}))


# The files of a folder

def list_photos(path: str | Path) -> tuple[list[str], list[dict]]:
    """Return (names of photos, sorted; [{"id": name, "reason"}] of all other files) of a folder. A
    photo has an image's suffix, or else an image's content. Hidden files are left out. If links
    give a file several names, one of them counts. Raises UserError if there is no such folder."""
    if not Path(path).is_dir():
        raise UserError(f"{path}: no such folder")
    own, linked, reasons = _walk(path)
    place_of = {place: name for name, place in own.items()}
    for name, place in sorted(linked.items()):
        if not os.path.exists(place):
            reasons[name] = "link to nothing"
        elif place_of.setdefault(place, name) != name:
            reasons[name] = "link to a file that is read already"
    photos = []
    for name in [name for name in (*own, *linked) if name not in reasons]:
        file = Path(path) / name
        # Reading a pipe could block for ever.
        if name.lower().endswith(photo_names.IMAGE_SUFFIXES) \
                or (file.is_file() and is_picture(file)):
            photos.append(name)
        else:
            reasons[name] = OTHER_FILE
    return sorted(photos), [{"id": name, "reason": reasons[name]} for name in sorted(reasons)]


def _walk(root):
    """Return ({relative name: place}, the same for links to files, {folder: why it is not entered})
    for all files that are not hidden. Each folder is entered once, whatever links lead to it."""
    own, linked, left_out, visited = {}, {}, {}, set()
    folders, links = [""], []
    while folders or links:  # the folders themselves come before links to folders
        inner = folders.pop() if folders else links.pop(0)
        place = os.path.realpath(os.path.join(root, inner))
        if place in visited:
            left_out[inner] = "link to a folder that is read already"
            continue
        visited.add(place)
        try:
            with os.scandir(place) as scanned:
                entries = sorted((entry for entry in scanned if not entry.name.startswith(".")),
                                 key=lambda entry: entry.name)
        except OSError as error:
            if not inner:
                raise
            left_out[inner] = f"folder cannot be read ({error.strerror})"
            continue
        for entry in entries:
            name, is_link = os.path.join(inner, entry.name), entry.is_symlink()
            if os.path.isdir(entry.path):
                (links if is_link else folders).append(name)
            elif is_link:
                linked[name] = os.path.realpath(entry.path)
            else:
                own[name] = entry.path
    return own, linked, left_out
