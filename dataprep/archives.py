"""Photos in one file: PaperDoll's lmdb, or a zip. Found and read as bytes, never unpacked."""

import functools
import itertools
import os
import re
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dnnlib.data.photo_names import (
    MAX_BYTES,
    MISSING,
    SEVERAL,
    Found,
    NameIndex,
    leads_out,
    name_number,
)
from dnnlib.data.photos import PhotoError
from dnnlib.util import UserError, one_line

LMDB_MAGIC = struct.pack("<I", 0xBEEFC0DE)  # at byte 16 of the first page
LMDB_MAGIC_AT = 16
_IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"RIFF", b"GIF8", b"BM")
_SAMPLE = 100  # entries at each end of a database that are looked at before it is used
_MAX_FORMS = 8  # ways of writing an id; more, and the keys are something else
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # APPNOTE 4.3.7: signature, lengths of name and extra


def too_large(size):
    """The PhotoError about a file of `size` bytes."""
    return PhotoError(f"file of {size / 1e6:.0f} MB is too large for a photo")


@dataclass(frozen=True)
class PhotoLmdb:
    """PaperDoll's photos.lmdb: keys are ASCII photo ids, values the bytes of image files.

    Zeros before the id and a common beginning or suffix (`0736001`, `736001.jpg`) are seen by
    looking at some keys.
    """

    path: Path

    def find(self, image_id, file_name):
        """The Found of this id: keys are ids, so `file_name` is compared only."""
        with _open_lmdb(self.path).begin(buffers=True) as transaction:
            keys = [f"{prefix}{image_id:0{width}d}{suffix}"
                    for prefix, width, suffix in _key_forms(self.path)]
            keys = [key for key in dict.fromkeys(keys) if transaction.get(key.encode()) is not None]
        if not keys:
            return Found(None, MISSING)
        remarks = []
        if name_number(file_name) not in (None, image_id):
            remarks.append(("the number in file_name is not the id: the id decides, as the "
                            "database has no names", f"file_name says {file_name}, id {image_id}"))
        if len(keys) > 1:
            remarks.append((SEVERAL, f"id {image_id}: {keys[0]}, not {', '.join(keys[1:])}"))
        return Found(keys[0], None, tuple(remarks))

    def read(self, key):
        """The file's bytes. Raises PhotoError where the value is empty or no file of a photo."""
        with _open_lmdb(self.path).begin(buffers=True) as transaction:
            value = transaction.get(key.encode())
            if value is None:
                raise PhotoError("photo is gone from the database")
            if len(value) > MAX_BYTES:
                raise too_large(len(value))
            return bytes(value)


class ZipMember(NamedTuple):
    """All that is needed to read one file of a zip: workers need not load the directory."""

    name: str
    offset: int  # of the local header
    compressed: int  # bytes
    size: int  # bytes
    crc: int
    method: int
    encrypted: bool


@dataclass(frozen=True)
class PhotoZip:
    """A zip of photos, in any subfolders; found as in a folder (dnnlib.data.photo_names)."""

    path: Path

    def find(self, image_id, file_name):
        """The Found of an image entry; its key is a ZipMember."""
        names, members = _zip_index(self.path)
        found = names.find(image_id, file_name)
        return found if found.key is None else found._replace(key=members[found.key])

    def read(self, member):
        """The file's bytes. Raises PhotoError saying what is wrong with this member."""
        _check_member(member)
        try:
            with open(self.path, "rb") as file:
                file.seek(member.offset)
                header = file.read(_LOCAL_HEADER.size)
                signature, *lengths = _LOCAL_HEADER.unpack(header)
                if signature != b"PK\x03\x04":
                    raise PhotoError("zip entry is damaged (no header)")
                file.seek(sum(lengths), os.SEEK_CUR)
                data = file.read(member.compressed)
        except (OSError, struct.error) as error:
            raise PhotoError(f"zip entry cannot be read ({one_line(error)[:80]})") from None
        return _unpack(data, member)


def _check_member(member):
    """Raise PhotoError for what is not read at all."""
    if leads_out(member.name):
        raise PhotoError("zip entry leads out of the archive")
    if member.encrypted:
        raise PhotoError("zip entry is encrypted")
    if member.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise PhotoError(f"zip entry is compressed by method {member.method}, which is not read")
    if max(member.size, member.compressed) > MAX_BYTES:
        raise too_large(max(member.size, member.compressed))


def _unpack(data, member):
    """Stored or deflated bytes -> the file, never longer than stated. Raises PhotoError."""
    if member.method == zipfile.ZIP_DEFLATED:
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, member.size + 1)
        except zlib.error:
            raise PhotoError("zip entry is damaged (it cannot be unpacked)") from None
    if len(data) != member.size or zlib.crc32(data) != member.crc:
        raise PhotoError("zip entry is damaged (its size or checksum is wrong)")
    return data


@functools.lru_cache(maxsize=4)
def _zip_index(path):
    """(NameIndex, {name: ZipMember}); of several members of one name the last counts."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()
                       and not stat.S_ISLNK(entry.external_attr >> 16)]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(f"{path}: not a readable zip ({one_line(error)})") from None
    members = {entry.filename: ZipMember(
        entry.filename, entry.header_offset, entry.compress_size, entry.file_size, entry.CRC,
        entry.compress_type, bool(entry.flag_bits & 1)) for entry in entries}
    return NameIndex(members), members


def open_zip(path):
    """PhotoZip. Raises UserError where its directory cannot be read."""
    _zip_index(path)
    return PhotoZip(path)


def open_lmdb(path):
    """PhotoLmdb. Raises UserError where it is damaged, or its entries are no photos by id."""
    _key_forms(path)
    return PhotoLmdb(path)


@functools.lru_cache(maxsize=4)
def _open_lmdb(path):
    """An open database: one for each process, so it cannot live in the source object."""
    import lmdb  # here, because only ModaNet's own photos need the package
    try:
        database = lmdb.open(str(path), readonly=True, lock=False, readahead=False,
                             subdir=path.is_dir())
        needed = database.stat()["psize"] * (database.info()["last_pgno"] + 1)
    except lmdb.Error as error:
        raise UserError(f"{path}: not a readable lmdb ({one_line(error)})") from None
    there = (path / "data.mdb" if path.is_dir() else path).stat().st_size
    if there < needed:  # reading what is lacking of a mapped file would end the process
        database.close()
        raise UserError(f"{path}: cut short ({there:,} of {needed:,} bytes); unpack or fetch it "
                        "again")
    return database


@functools.lru_cache(maxsize=4)
def _key_forms(path):
    """Ways in which keys write an id: ((prefix, width, suffix), ...), the plain first.

    Raises UserError where keys are no ids, or values no image files.
    """
    with _open_lmdb(path).begin(buffers=True) as transaction:
        both_ends = (transaction.cursor().iternext(), transaction.cursor().iterprev())
        entries = [(bytes(key), bytes(value[:60])) for entries in both_ends
                   for key, value in itertools.islice(entries, _SAMPLE)]
    if not entries:
        raise UserError(f"{path}: the database is empty")
    found = [re.fullmatch(rb"([ -/:-~]*)(\d{1,16})(\.[A-Za-z]{1,5})?", key) for key, _ in entries]
    forms = {_key_form(match) for match in found if match}
    if not forms or len(forms) > _MAX_FORMS:
        raise UserError(f"{path}: keys are not photo ids but such as {entries[0][0][:40]!r}; "
                        "expected ASCII ids as in PaperDoll's photos.lmdb")
    if not any(value.startswith(_IMAGE_STARTS) for _, value in entries):
        raise UserError(f"{path}: values are not image files but begin with {entries[0][1]!r}; "
                        "expected the photos themselves, as in PaperDoll's photos.lmdb")
    return (("", 0, ""), *sorted(forms - {("", 0, "")}))


def _key_form(match):
    """(prefix, width, suffix) of a key."""
    prefix, digits, suffix = (part.decode() for part in match.groups(b""))
    return prefix, len(digits) if digits.startswith("0") else 0, suffix
