"""Photos in an lmdb or a zip: keys and values are checked, and damage is reported."""

import pickle
import random
import struct
import tracemalloc
import zipfile

import lmdb
import pytest

from dataprep import photo_sources
from dnnlib.data.photos import PhotoError
from dnnlib.process_pool import ordered_map
from dnnlib.util import UserError

JPEG = b"\xff\xd8\xff\xe0 a photo"


def make_lmdb(path, entries, **options):
    with lmdb.open(str(path), map_size=1 << 24, **options) as env, \
            env.begin(write=True) as transaction:
        for key, value in entries.items():
            transaction.put(key, value)
    return path


@pytest.mark.parametrize("key", [b"736001", b"0736001", b"0000736001", b"736001.jpg",
                                 b"0736001.JPG", b"photo/736001.jpg", b"id-0736001"])
@pytest.mark.parametrize("others", [1, 300])
def test_every_way_of_writing_an_id_as_a_key(tmp_path, key, others):
    digits = key.strip(b"photid-/.JPGjpg")
    written = [key.replace(digits, str(i).encode().rjust(len(digits), b"0") if digits[:1] == b"0"
                           else str(i).encode()) for i in range(1, others)]
    path = make_lmdb(tmp_path / "x", {name: JPEG for name in [*written, key]})
    source = photo_sources.open_photos(path)
    assert source.find(736001, "").key == key.decode() and source.read(key.decode()) == JPEG
    assert source.find(73600, "").key is None and source.find(36001, "736001").key is None


def test_the_plain_key_comes_first(tmp_path):
    path = make_lmdb(tmp_path / "x", {b"0000007": JPEG, b"7": JPEG, b"0000008": JPEG})
    source = photo_sources.open_photos(path)
    assert source.find(7, "").key == "7" and source.find(8, "").key == "0000008"
    assert [instance for _, instance in source.find(7, "").remarks] == ["id 7: 7, not 0000007"]
    assert source.find(8, "").remarks == ()


@pytest.mark.parametrize("entries, message", [
    ({}, "empty"),
    ({b"7": b"http://images.example/7.jpg"}, r"not image files but begin with b'http://images"),
    ({b"7": b""}, "not image files but begin with b''"),
    ({struct.pack("<Q", 7): JPEG}, r"keys are not photo ids but such as b'\\x07"),
    ({b"http://h/%d/%d.jpg" % (i, i): JPEG for i in range(20)}, "not photo ids"),
    ({b"%s-%d" % (bytes([97 + i]), i): JPEG for i in range(20)}, "not photo ids")])
def test_other_databases_are_named(tmp_path, entries, message):
    with pytest.raises(UserError, match=message):
        photo_sources.open_photos(make_lmdb(tmp_path / "x", entries))


def test_a_few_values_that_are_not_photos_do_not_matter(tmp_path):
    entries = {b"%d" % i: b"http://gone" for i in range(500)} | {b"9999": JPEG}
    assert photo_sources.open_photos(make_lmdb(tmp_path / "x", entries)).find(3, "").key == "3"


@pytest.mark.parametrize("name", ["data.mdb", "photos.lmdb", "photos", "photos.zip"])
def test_a_database_file_is_recognised_by_its_content(tmp_path, name):
    path = make_lmdb(tmp_path / name, {b"7": JPEG}, subdir=False)
    assert photo_sources.open_photos(path).find(7, "").key == "7"


@pytest.mark.parametrize("subdir", [True, False])
def test_a_truncated_database_does_not_crash_the_process(tmp_path, subdir):
    path = make_lmdb(tmp_path / "x", {b"%d" % i: JPEG * 500 for i in range(200)}, subdir=subdir)
    data = path / "data.mdb" if subdir else path
    with open(data, "r+b") as file:
        file.truncate(data.stat().st_size // 2)
    with pytest.raises(UserError, match=r"cut short \([\d,]+ of [\d,]+ bytes\)"):
        photo_sources.open_photos(path)


def make_zip(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zips_members_are_read_unchanged(tmp_path, method):
    content = {f"photos/{i % 3}/{i:07d}.jpg": random.Random(i).randbytes(1000 * i) + b"a" * 999
               for i in range(9)}
    content |= {"photos/odd.png": b"odd", ".odd.png": b"", "empty/": b"", "readme.txt": b"x"}
    source = photo_sources.open_photos(make_zip(tmp_path / "photos.bin", content, method))
    for i in range(9):
        member = source.find(i, "").key
        assert member == f"photos/{i % 3}/{i:07d}.jpg"
        assert source.read(member) == content[member]
    assert source.read(source.find(99, "x\\odd.png").key) == b"odd"
    assert [source.find(99, name).key for name in (".odd.png", "")] == [None] * 2


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_of_other_methods_may_be_damaged(tmp_path, method):
    content = random.Random(0).randbytes(3000)
    path = make_zip(tmp_path / "a.zip", {"7.jpg": content}, method)
    assert photo_sources.open_photos(path).read("7.jpg") == content
    data = path.read_bytes()
    for number in range(8):  # any position after the member's own header
        path = tmp_path / f"{number}.zip"
        place = 35 + 3 * number
        path.write_bytes(data[:place] + b"\xff" * 40 + data[place + 40:])
        with pytest.raises(PhotoError, match="zip entry is damaged"):
            photo_sources.open_photos(path).read("7.jpg")


def test_sizes_are_known_without_reading(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "7.jpg").write_bytes(JPEG)
    sources = [(tmp_path / "folder", "7.jpg"), (make_zip(tmp_path / "a.zip", {"7.jpg": JPEG}),
                                                "7.jpg"),
               (make_lmdb(tmp_path / "x", {b"7": JPEG}), "7")]
    assert [photo_sources.open_photos(path).size(key) for path, key in sources] == [len(JPEG)] * 3
    assert photo_sources.open_photos(tmp_path / "folder").size("8.jpg") is None


def test_a_zip_may_follow_other_bytes(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"7.jpg": JPEG})
    path.write_bytes(b"#!/bin/sh" * 100 + path.read_bytes())
    source = photo_sources.open_photos(path)
    assert source.read(source.find(7, "").key) == JPEG


def test_the_last_member_of_a_name_counts(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("7.jpg", b"old")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("7.jpg", b"new")
    source = photo_sources.open_photos(tmp_path / "a.zip")
    assert source.read(source.find(7, "").key) == b"new"


@pytest.mark.parametrize("name", ["../7.jpg", "/etc/7.jpg", "a/../../7.jpg", "C:\\7.jpg",
                                  "C:/7.jpg", "..\\7.jpg"])
def test_entries_that_escape_are_refused_and_come_last(tmp_path, name):
    source = photo_sources.open_photos(make_zip(tmp_path / "a.zip", {name: JPEG}))
    member = source.find(7, "7.jpg").key
    if member is not None:  # the index does not treat a backslash as a separator
        with pytest.raises(PhotoError, match="out of the archive"):
            source.read(member)
    archive = make_zip(tmp_path / "b.zip", {name: b"x", "z/z/7.jpg": JPEG})
    source = photo_sources.open_photos(archive)
    assert source.read(source.find(7, "").key) == JPEG


def test_links_in_a_zip_are_not_photos(tmp_path):
    link = zipfile.ZipInfo("7.jpg")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
        archive.writestr("8.jpg", JPEG)
    assert photo_sources.open_photos(tmp_path / "a.zip").find(7, "").key is None


# Positions in an entry of a zip's directory, and the number of bytes there.
FIELDS = {"method": (10, 2), "crc": (16, 4), "compressed": (20, 4), "size": (24, 4)}


def with_directory(path, content, **changes):
    """Open a zip of one photo whose directory is changed."""
    data = bytearray(make_zip(path, {"7.jpg": content}).read_bytes())
    entry = data.index(b"PK\x01\x02")
    for name, value in changes.items():
        place, size = FIELDS[name]
        data[entry + place:entry + place + size] = value.to_bytes(size, "little")
    path.write_bytes(data)
    return photo_sources.open_photos(path)


@pytest.mark.parametrize("changes, reason", [
    ({"method": zipfile.ZIP_BZIP2}, "damaged"), ({"method": 99}, "damaged"),
    ({"size": 2**29}, "537 MB is too large"), ({"compressed": 2**29}, "too large"),
    ({"size": 100}, "damaged"), ({"size": 50_001}, "damaged"), ({"crc": 1}, "damaged"),
    ({"compressed": 10}, "damaged"), ({"method": 0}, "damaged")])
def test_wrong_zip_directories_are_refused(tmp_path, changes, reason):
    source = with_directory(tmp_path / "a.zip", b"a" * 50_000, **changes)
    with pytest.raises(PhotoError, match=reason):
        source.read(source.find(7, "").key)


def test_a_zip_bomb_is_unpacked_only_to_its_stated_size(tmp_path):
    """20 MB in 20 kB: only the stated 10 bytes are unpacked."""
    source = with_directory(tmp_path / "a.zip", b"\0" * 20_000_000, size=10)
    member = source.find(7, "").key
    tracemalloc.start()
    try:
        with pytest.raises(PhotoError):
            source.read(member)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_encrypted_members_are_named(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"7.jpg": JPEG})
    data = bytearray(path.read_bytes())
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + at] |= 1
    path.write_bytes(data)
    source = photo_sources.open_photos(path)
    with pytest.raises(PhotoError, match="encrypted"):
        source.read(source.find(7, "").key)


def test_changed_bytes_never_do_more_than_refuse(tmp_path, rng):
    """A photo is read unchanged, or not at all."""
    content = {f"{i}.jpg": rng.bytes(50) + b"a" * 50 for i in range(4)}
    whole = make_zip(tmp_path / "a.zip", content).read_bytes()
    outcomes = {"read": 0, "refused": 0, "missing": 0}
    for number in range(300):
        data = bytearray(whole)
        for position in rng.integers(0, len(data), 3):
            data[position] = rng.integers(256)
        path = tmp_path / f"{number}.zip"
        path.write_bytes(data)
        try:
            source = photo_sources.open_photos(path)
            for i in range(4):
                member = source.find(i, "").key
                if member is None:
                    outcomes["missing"] += 1
                elif source.read(member) in content.values():
                    outcomes["read"] += 1
        except (UserError, PhotoError):
            outcomes["refused"] += 1
        path.unlink()
    assert sum(outcomes.values()) >= 300 and all(outcomes.values())


@pytest.mark.parametrize("kind", ["zip", "lmdb"])
def test_spawned_workers_open_the_source_themselves(tmp_path, kind):
    path = tmp_path / "photos"
    if kind == "zip":
        make_zip(path, {f"{i}.jpg": JPEG + bytes([i]) for i in range(6)})
    else:
        make_lmdb(path, {b"%d" % i: JPEG + bytes([i]) for i in range(6)})
    source = photo_sources.open_photos(path)
    keys = [source.find(i, "").key for i in range(6)]
    assert pickle.loads(pickle.dumps(source)) == source and len(pickle.dumps(source)) < 300
    assert list(ordered_map(source.read, keys, 2)) == [JPEG + bytes([i]) for i in range(6)]


def test_a_truncated_zip_is_named(tmp_path):
    path = make_zip(tmp_path / "a.zip", {f"{i}.jpg": JPEG for i in range(9)})
    whole = path.read_bytes()
    path.write_bytes(whole[:-60])
    with pytest.raises(UserError, match="cut short"):
        photo_sources.open_photos(path)
    path.write_bytes(whole.replace(b"PK\x01\x02", b"PK\x01\x00", 1))
    with pytest.raises(UserError, match="not a readable zip"):
        photo_sources.open_photos(path)
