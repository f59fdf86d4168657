"""Every kind of image file, and every kind of file that is none."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dataprep import photos
from tests.data_helpers import photo_bytes


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode, kind", [
    ("RGB", "PNG"), ("L", "PNG"), ("1", "PNG"), ("P", "PNG"), ("LA", "PNG"), ("RGBA", "PNG"),
    ("CMYK", "JPEG"), ("L", "JPEG"), ("RGB", "WEBP"), ("RGB", "BMP")])
def test_every_mode_becomes_rgb(mode, kind):
    photo = photos.decode_photo(encode(Image.new("RGB", (6, 4), "white").convert(mode), kind))
    assert photo.mode == "RGB" and photo.size == (6, 4)
    assert np.asarray(photo).min() > 250


def test_sixteen_bits_of_grey_become_eight():
    pixels = np.array([[0, 257 * 40, 65535]], np.uint16)
    photo = photos.decode_photo(encode(Image.fromarray(pixels), "PNG"))
    assert np.asarray(photo)[0, :, 1].tolist() == [0, 40, 255]


def test_what_is_transparent_becomes_white():
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = [10, 20, 30, 255]
    photo = np.asarray(photos.decode_photo(encode(Image.fromarray(pixels), "PNG")))
    assert photo[0, 0].tolist() == [10, 20, 30] and photo[1, 1].tolist() == [255, 255, 255]


@pytest.mark.parametrize("orientation, size", [(1, (6, 4)), (3, (6, 4)), (6, (4, 6)), (8, (4, 6))])
def test_photos_are_turned_upright(orientation, size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.new("RGB", (6, 4)), "JPEG", exif=exif)
    assert photos.decode_photo(data).size == photos.probe(data) == size


def test_files_that_are_no_images_are_refused(rng):
    jpeg = photo_bytes(rng, 64, 48)
    parts = jpeg[:20], jpeg[:len(jpeg) // 2], jpeg[50:]
    for data in (b"", b"\0" * 1000, b"<html>404</html>", *parts):
        with pytest.raises(photos.PhotoError):
            photos.decode_photo(data)


def test_a_probe_reads_the_header_only(rng):
    jpeg = photo_bytes(rng, 64, 48)
    assert photos.probe(jpeg) == photos.probe(jpeg[:-20]) == (64, 48)
    with pytest.raises(photos.PhotoError, match="no known format"):
        photos.probe(b"<html>404</html>")


def test_enormous_images_are_refused_before_they_are_decoded(monkeypatch):
    monkeypatch.setattr(photos, "_MAX_PIXELS", 99)
    with pytest.raises(photos.PhotoError, match="10x10"):
        photos.decode_photo(encode(Image.new("RGB", (10, 10)), "PNG"))
    small = encode(Image.new("1", (8, 8)), "PNG")
    header = b"IHDR" + struct.pack(">II", 30_000, 30_000) + small[24:29]
    bomb = small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:]
    with pytest.raises(photos.PhotoError, match="too large"):
        photos.decode_photo(bomb)


def test_changed_bytes_never_do_more_than_refuse(rng):
    whole = [photo_bytes(rng, 24, 16, kind) for kind in ("JPEG", "PNG", "WEBP")]
    for data in whole * 100:
        changed = bytearray(data)
        for position in rng.integers(0, len(data), 3):
            changed[position] = rng.integers(256)
        try:
            assert photos.decode_photo(bytes(changed)).mode == "RGB"
        except photos.PhotoError as error:
            assert "\n" not in str(error)
