"""Photos found by name and id, and all kinds of files that are not photos."""

import os

import lmdb
import pytest

from dataprep import photo_sources
from dnnlib.data.photos import PhotoError
from dnnlib.util import UserError
from tests.tools.data_helpers import photo_bytes


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0000007.jpg").write_bytes(b"seven")
    (tmp_path / "images" / "odd.png").write_bytes(b"odd")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    return tmp_path / "images"


@pytest.mark.parametrize("image_id, file_name, found", [
    (7, "0000007.jpg", "0000007.jpg"), (7, "somewhere/else/0000007.jpg", "0000007.jpg"),
    (7, "odd.png", "odd.png"), (7, "", "0000007.jpg"), (8, "odd.png", "odd.png"),
    (8, "C:\\photos\\odd.png", "odd.png"), (8, "/images/odd.png", "odd.png"),
    (8, "0000008.jpg", None), (8, "../secret.jpg", None), (8, "", None), (8, "..", None),
    (8, ".", None), (8, "a\0b", None), (8, "0000007.jpg", "0000007.jpg"), (8, "7.jpg", None)])
def test_photos_are_found_by_id_within_the_folder(folder, image_id, file_name, found):
    assert photo_sources.open_photos(folder).find(image_id, file_name).key == found


@pytest.mark.parametrize("names, found", [
    (["9.jpg"], "9.jpg"), (["000000009.PNG"], "000000009.PNG"), (["9"], "9"),
    (["a/b/0000009.jpg"], "a/b/0000009.jpg"), (["9.jpg", "0000009.jpg"], "0000009.jpg"),
    (["b/0000009.jpg", "a/b/0000009.jpg"], "b/0000009.jpg"),
    (["b/0000009.jpg", "a/0000009.jpg"], "a/0000009.jpg"),
    (["9.jpg", "b/0000009.jpg"], "b/0000009.jpg"),
    (["0000009.txt"], None), ([".9.jpg"], None), (["19.jpg", "90.jpg", "9a.jpg"], None),
    (["\u0669.jpg"], None), (["-9.jpg"], None), ([".git/9.jpg"], None)])
def test_every_way_of_writing_an_id(tmp_path, names, found):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert photo_sources.open_photos(tmp_path).find(9, "x.jpg").key == found


def test_a_file_name_overrides_the_number_with_a_remark(folder):
    found = photo_sources.open_photos(folder).find(8, "images/0000007.jpg")
    assert found.key == "0000007.jpg"
    assert "file_name says 0000007.jpg, id 8" in dict(found.remarks).values()


def test_reading_gives_the_bytes(folder):
    assert photo_sources.open_photos(folder).read("0000007.jpg") == b"seven"


def test_links_inside_a_folder_are_followed(folder):
    (folder / "0000009.jpg").symlink_to(folder.parent / "secret.jpg")
    source = photo_sources.open_photos(folder)
    assert source.find(9, "").key == "0000009.jpg" and source.read("0000009.jpg") == b"secret"


@pytest.mark.parametrize("name", ["../secret.jpg", "x/../../secret.jpg", "{}/secret.jpg"])
def test_names_outside_the_folder_are_not_read(folder, name):
    with pytest.raises(PhotoError, match="out of the photo folder"):
        photo_sources.open_photos(folder).read(name.format(folder.parent))


def test_a_removed_file_is_skipped(folder):
    with pytest.raises(PhotoError, match="cannot be read"):
        photo_sources.open_photos(folder).read("gone.jpg")


def test_pipes_and_enormous_files_are_not_read(folder):
    os.mkfifo(folder / "0000010.jpg")
    with open(folder / "0000011.jpg", "wb") as file:
        file.truncate(300_000_000)
    for name, reason in (("0000010.jpg", "regular"), ("0000011.jpg", "300 MB")):
        with pytest.raises(PhotoError, match=reason):
            photo_sources.open_photos(folder).read(name)


@pytest.fixture(params=[True, False], ids=["folder", "file"])
def database(request, tmp_path):
    """Make an lmdb in PaperDoll's form: ASCII ids as keys."""
    path = tmp_path / "photos.lmdb"
    with lmdb.open(str(path), subdir=request.param, map_size=1 << 20) as env, \
            env.begin(write=True) as transaction:
        transaction.put(b"7", b"\xff\xd8\xffseven")
        transaction.put(b"736001", b"many")
    return path


def test_lmdb_keys_are_ids(database):
    source = photo_sources.open_photos(database)
    assert isinstance(source, photo_sources.PhotoLmdb)
    assert source.find(7, "0000736001.jpg").key == "7" and source.find(736001, "").key == "736001"
    assert source.find(1, "7").key is None
    assert source.read("736001") == b"many"


def test_a_broken_lmdb_is_one_line(tmp_path):
    (tmp_path / "photos.lmdb").mkdir()
    (tmp_path / "photos.lmdb" / "data.mdb").write_bytes(b"nonsense" * 4096)
    with pytest.raises(UserError, match=r"photos\.lmdb: not a readable lmdb"):
        photo_sources.open_photos(tmp_path / "photos.lmdb")


def test_a_missing_source_is_one_line(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder or file; expected a folder"):
        photo_sources.open_photos(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no such folder"):
        photo_sources.list_photos(tmp_path / "nowhere")


@pytest.mark.parametrize("content, message", [
    (b"", "an empty file"), (b"<html>not found", "it begins with b'<html>not found'"),
    (b"PK\x03\x04 and the rest lost", "cut short"), (b"\0" * 257 + b"ustar", "tar -xf"),
    (b"version https://git-lfs.github.com/spec/v1\n", "Git-LFS pointer")])
def test_other_files_are_named(tmp_path, content, message):
    (tmp_path / "photos.lmdb").write_bytes(content)
    with pytest.raises(UserError, match=message):
        photo_sources.open_photos(tmp_path / "photos.lmdb")


def test_images_of_all_subfolders_are_listed_in_order(tmp_path):
    for name in ("b.jpg", "a/z.PNG", "a/c.jpeg", "a/.hidden.jpg", ".dir/d.jpg", "e.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert photo_sources.list_photos(tmp_path)[0] == ["a/c.jpeg", "a/z.PNG", "b.jpg"]


def listed(path):
    """Return (photos, {name: reason}) of list_photos."""
    photos, others = photo_sources.list_photos(path)
    assert [entry["id"] for entry in others] == sorted(entry["id"] for entry in others)
    return photos, {entry["id"]: entry["reason"] for entry in others}


def test_files_with_any_name_are_read(tmp_path, rng):
    """Every format that is read, with names that do not show it; and files that are not photos."""
    kinds = {"a.tif": "TIFF", "b.gif": "GIF", "c.jfif": "JPEG", "d.ppm": "PPM", "e.avif": "AVIF",
             "noext": "JPEG", "photo.txt": "PNG", "sub/f.JPE": "JPEG", "g.png": "JPEG"}
    others = {"notes.txt": b"P is for photo", "Thumbs.db": b"\xd0\xcf\x11\xe0", "h.xml": b"",
              "sub/README": b"II* is not enough", "i.heic": b"\0\0\0 ftypheic" + bytes(99)}
    (tmp_path / "sub").mkdir()
    for name, kind in kinds.items():
        (tmp_path / name).write_bytes(photo_bytes(rng, 8, 8, kind))
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
    for hidden in (".DS_Store", "._a.jpg", "sub/.b.png"):
        (tmp_path / hidden).write_bytes(photo_bytes(rng, 8, 8))
    (tmp_path / "broken.jpg").write_bytes(b"<html>")
    found, reasons = listed(tmp_path)
    assert found == sorted([*kinds, "broken.jpg"]), "what is called a photo is one, if a bad one"
    assert reasons == dict.fromkeys(others, photo_sources.OTHER_FILE)
    assert photo_sources.list_photos(tmp_path)[0] == found


def test_linked_folders_are_visited_once(tmp_path, rng):
    """Even if links form circles, each file counts once, so it is not in both train and test."""
    for name in ("in/a.jpg", "in/sub/b.jpg", "out/c.jpg", "out/deep/d.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(photo_bytes(rng, 8, 8))
    for link, target in {"in/0": "out", "in/loop": "in", "in/sub/up": "in", "out/deep/back": "in",
                         "out/deep/self": "out/deep", "in/again": "out/deep"}.items():
        (tmp_path / link).symlink_to(tmp_path / target)
    (tmp_path / "in" / "copy.jpg").symlink_to("a.jpg")
    (tmp_path / "in" / "z.jpg").symlink_to(tmp_path / "out" / "c.jpg")
    (tmp_path / "in" / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "in" / "knot.jpg").symlink_to("knot.jpg")
    found, reasons = listed(tmp_path / "in")
    assert found == ["0/c.jpg", "0/deep/d.jpg", "a.jpg", "sub/b.jpg"]
    folder, file = (f"link to a {kind} that is read already" for kind in ("folder", "file"))
    assert reasons == {"loop": folder, "sub/up": folder, "again": folder, "0/deep/back": folder,
                       "0/deep/self": folder, "copy.jpg": file, "z.jpg": file,
                       "gone.jpg": "link to nothing", "knot.jpg": "link to nothing"}
    for name in found:
        photo_sources.PhotoFolder(tmp_path / "in").read(name)


def test_a_folder_that_cannot_be_read_is_listed(tmp_path, monkeypatch):
    for name in ("a.jpg", "locked/b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)
    monkeypatch.setattr(os, "scandir", refusing)
    assert listed(tmp_path) == (["a.jpg"], {"locked": "folder cannot be read (Permission denied)"})


def test_pipes_do_not_block_listing(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert listed(tmp_path) == ([], {"pipe": photo_sources.OTHER_FILE})
