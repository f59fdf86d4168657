"""Photos found by id and nothing else, and every kind of file that is none."""

import io
import struct
import zlib

import lmdb
import numpy as np
import pytest
from PIL import Image

from dataprep import sources
from dnnlib.util import UserError
from tests.data_helpers import photo_bytes


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0000007.jpg").write_bytes(b"seven")
    (tmp_path / "images" / "odd.png").write_bytes(b"odd")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    return tmp_path / "images"


@pytest.mark.parametrize("image_id, file_name, found", [
    (7, "0000007.jpg", "0000007.jpg"), (7, "somewhere/else/0000007.jpg", "0000007.jpg"),
    (7, "odd.png", "0000007.jpg"), (7, "", "0000007.jpg"), (8, "odd.png", "odd.png"),
    (8, "C:\\photos\\odd.png", "odd.png"), (8, "/images/odd.png", "odd.png"),
    (8, "0000008.jpg", None), (8, "../secret.jpg", None), (8, "", None), (8, "..", None),
    (8, ".", None), (8, "a\0b", None)])
def test_photos_are_found_by_id_within_the_folder(folder, image_id, file_name, found):
    assert sources.open_source(folder).find(image_id, file_name) == found


def test_reading_gives_the_bytes(folder):
    assert sources.open_source(folder).read("0000007.jpg") == b"seven"


def test_links_out_of_the_folder_are_not_followed(folder):
    (folder / "0000009.jpg").symlink_to(folder.parent / "secret.jpg")
    source = sources.open_source(folder)
    assert source.find(9, "") == "0000009.jpg"
    with pytest.raises(sources.PhotoError, match="out of the photo folder"):
        source.read("0000009.jpg")


def test_a_file_that_is_gone_is_one_photo_less(folder):
    with pytest.raises(sources.PhotoError, match="cannot be read"):
        sources.open_source(folder).read("gone.jpg")


@pytest.fixture(params=[True, False], ids=["folder", "file"])
def database(request, tmp_path):
    """PaperDoll's form: ASCII ids as keys."""
    path = tmp_path / "photos.lmdb"
    with lmdb.open(str(path), subdir=request.param, map_size=1 << 20) as env, \
            env.begin(write=True) as transaction:
        transaction.put(b"7", b"seven")
        transaction.put(b"736001", b"many")
    return path


def test_lmdb_keys_are_ids(database):
    source = sources.open_source(database)
    assert isinstance(source, sources.PhotoLmdb)
    assert source.find(7, "0000736001.jpg") == "7" and source.find(736001, "") == "736001"
    assert source.find(1, "7") is None
    assert source.read("736001") == b"many"


def test_a_broken_lmdb_is_one_line(tmp_path):
    (tmp_path / "photos.lmdb").mkdir()
    (tmp_path / "photos.lmdb" / "data.mdb").write_bytes(b"nonsense" * 4096)
    with pytest.raises(UserError, match=r"photos\.lmdb: not a readable lmdb"):
        sources.open_source(tmp_path / "photos.lmdb")


def test_nothing_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no photos there"):
        sources.open_source(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no such folder"):
        sources.list_images(tmp_path / "nowhere")


def test_images_of_all_subfolders_are_listed_in_order(tmp_path):
    for name in ("b.jpg", "a/z.PNG", "a/c.jpeg", "a/.hidden.jpg", ".dir/d.jpg", "e.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert sources.list_images(tmp_path) == ["a/c.jpeg", "a/z.PNG", "b.jpg"]


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode, kind", [
    ("RGB", "PNG"), ("L", "PNG"), ("1", "PNG"), ("P", "PNG"), ("LA", "PNG"), ("RGBA", "PNG"),
    ("CMYK", "JPEG"), ("L", "JPEG"), ("RGB", "WEBP"), ("RGB", "BMP")])
def test_every_mode_becomes_rgb(mode, kind):
    photo = sources.decode_photo(encode(Image.new("RGB", (6, 4), "white").convert(mode), kind))
    assert photo.mode == "RGB" and photo.size == (6, 4)
    assert np.asarray(photo).min() > 250


def test_sixteen_bits_of_grey_become_eight():
    pixels = np.array([[0, 257 * 40, 65535]], np.uint16)
    photo = sources.decode_photo(encode(Image.fromarray(pixels), "PNG"))
    assert np.asarray(photo)[0, :, 1].tolist() == [0, 40, 255]


def test_what_is_transparent_becomes_white():
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = [10, 20, 30, 255]
    photo = np.asarray(sources.decode_photo(encode(Image.fromarray(pixels), "PNG")))
    assert photo[0, 0].tolist() == [10, 20, 30] and photo[1, 1].tolist() == [255, 255, 255]


@pytest.mark.parametrize("orientation, size", [(1, (6, 4)), (3, (6, 4)), (6, (4, 6)), (8, (4, 6))])
def test_photos_are_turned_upright(orientation, size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.new("RGB", (6, 4)), "JPEG", exif=exif)
    assert sources.decode_photo(data).size == size


def test_files_that_are_no_images_are_refused(rng):
    jpeg = photo_bytes(rng, 64, 48)
    parts = jpeg[:20], jpeg[:len(jpeg) // 2], jpeg[50:]
    for data in (b"", b"\0" * 1000, b"<html>404</html>", *parts):
        with pytest.raises(sources.PhotoError):
            sources.decode_photo(data)


def test_enormous_images_are_refused_before_they_are_decoded(monkeypatch):
    monkeypatch.setattr(sources, "_MAX_PIXELS", 99)
    with pytest.raises(sources.PhotoError, match="10x10"):
        sources.decode_photo(encode(Image.new("RGB", (10, 10)), "PNG"))
    small = encode(Image.new("1", (8, 8)), "PNG")
    header = b"IHDR" + struct.pack(">II", 30_000, 30_000) + small[24:29]
    bomb = small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:]
    with pytest.raises(sources.PhotoError, match="too large"):
        sources.decode_photo(bomb)


def test_changed_bytes_never_do_more_than_refuse(rng):
    whole = [photo_bytes(rng, 24, 16, kind) for kind in ("JPEG", "PNG", "WEBP")]
    for data in whole * 100:
        changed = bytearray(data)
        for position in rng.integers(0, len(data), 3):
            changed[position] = rng.integers(256)
        try:
            assert sources.decode_photo(bytes(changed)).mode == "RGB"
        except sources.PhotoError as error:
            assert "\n" not in str(error)
