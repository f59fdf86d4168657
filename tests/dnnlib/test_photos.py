"""Every kind of image file, and every kind of file that is not an image."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, TiffImagePlugin

from dnnlib.data import photos
from tests.tools.data_helpers import photo_bytes

ROOT = Path(__file__).resolve().parents[2]


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


def test_transparent_pixels_become_white():
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


def test_files_that_are_not_images_are_refused(rng):
    jpeg = photo_bytes(rng, 64, 48)
    parts = jpeg[:20], jpeg[:len(jpeg) // 2], jpeg[50:]
    png = photo_bytes(rng, 64, 48, "PNG")
    # As an aborted download leaves it, cut at two places; Pillow shows the rest in black.
    holed = [png[:-first] + bytes(first) for first in (3000, 500)]
    holed += [png[:2000] + bytes(200) + png[2200:], png[:-20]]
    for data in (b"", b"\0" * 1000, b"<html>404</html>", *holed, *parts):
        with pytest.raises(photos.PhotoError):
            photos.decode_photo(data)


def test_a_probe_reads_the_header_only(rng):
    jpeg = photo_bytes(rng, 64, 48)
    assert photos.probe(jpeg) == photos.probe(jpeg[:-20]) == (64, 48)
    with pytest.raises(photos.PhotoError, match="no known format"):
        photos.probe(b"404")


@pytest.mark.parametrize("data, reason", [
    (b"", "an empty file"), (b"\n<HTML>404</html>", "a web page, not a picture: download it again"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "only a Git-LFS pointer; fetch")])
def test_files_that_are_often_taken_for_photos_are_named(tmp_path, data, reason):
    (tmp_path / "a.jpg").write_bytes(data)
    for function, photo in ((photos.decode_photo, data), (photos.probe, tmp_path / "a.jpg")):
        with pytest.raises(photos.PhotoError, match=rf"not a readable image \({reason}"):
            function(photo)


def test_files_that_cannot_be_read_are_one_line_without_their_path(tmp_path):
    (tmp_path / "link.png").symlink_to("nowhere")
    (tmp_path / "folder.png").mkdir()
    for name, reason in (("link.png", "link to nothing"),
                         ("folder.png", r"file cannot be read \(Is a directory\)"),
                         ("a.png", r"file cannot be read \(No such file or directory\)")):
        for function in (photos.decode_file, photos.probe):
            with pytest.raises(photos.PhotoError, match=f"^{reason}$"):
                function(tmp_path / name)


def test_enormous_images_are_refused_before_they_are_decoded():
    small = encode(Image.new("1", (8, 8)), "PNG")
    for width, height in ((6001, 20_000), (30_000, 30_000), (70_000, 1)):
        header = b"IHDR" + struct.pack(">II", width, height) + small[24:29]
        bomb = small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:]
        for function in (photos.decode_photo, photos.probe):
            with pytest.raises(photos.PhotoError, match="too large"):
                function(bomb)


@pytest.mark.parametrize("kind, mode", [("JPEG", "RGB"), ("PNG", "RGB"), ("PNG", "P"),
                                        ("PNG", "RGBA"), ("PNG", "I;16")])
def test_large_photos_are_reduced(monkeypatch, kind, mode):
    """The same picture, within rounding and JPEG's losses, as means of 2x2 pixels."""
    monkeypatch.setattr(photos, "_FULL_SIZE", 30 * 50)
    monkeypatch.setattr(photos, "_BAND", 16)
    ramp = np.add.outer(np.arange(83), np.arange(41)).astype(np.uint8)
    image = Image.fromarray(ramp)
    image = Image.fromarray(ramp.astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    photo = photos.decode_photo(encode(image, kind))
    assert photo.size == (21, 42)
    tops, lefts = np.arange(41), np.arange(20)
    expected = np.add.outer(2 * tops, 2 * lefts) + 1
    assert np.abs(np.asarray(photo)[:41, :20, 1] - expected).max() <= 2


# Not getrusage, whose peak a process inherits from its parent.
MEASURE = """
import sys
from dnnlib.data import photos
import PIL.PngImagePlugin, PIL.JpegImagePlugin
def peak_mb():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) // 1024
data = sys.stdin.buffer.read()
before = peak_mb()
size = photos.decode_photo(data).size
print(*size, peak_mb() - before)
"""


@pytest.mark.parametrize("kind, mode, most_mb", [
    ("JPEG", "RGB", 150), pytest.param("PNG", "RGBA", 400, marks=pytest.mark.slow)])
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from /proc")
def test_memory_of_6000x9000_is_bounded(kind, mode, most_mb):
    data = encode(Image.new(mode, (6000, 9000), (200, 30, 60)), kind)
    done = subprocess.run([sys.executable, "-c", MEASURE], cwd=ROOT, input=data,
                          capture_output=True, check=True)
    width, height, megabytes = map(int, done.stdout.split())
    assert (width, height) == (3000, 4500) and megabytes < most_mb, megabytes


def test_large_webp_is_refused_for_its_decoders_memory(monkeypatch):
    monkeypatch.setattr(photos, "_FULL_SIZE", 30)
    assert photos.decode_photo(encode(Image.new("RGB", (5, 6)), "WEBP")).size == (5, 6)
    with pytest.raises(photos.PhotoError, match="WEBP image of 5x7 pixels is too large"):
        photos.decode_photo(encode(Image.new("RGB", (5, 7)), "WEBP"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_sides_are_halved_once_and_rounded_up(monkeypatch, kind):
    """Half of 7x9, rounded up, has more than a quarter of its pixels."""
    monkeypatch.setattr(photos, "_FULL_SIZE", 18)
    assert photos.decode_photo(encode(Image.new("RGB", (7, 9)), kind)).size == (4, 5)


def test_one_pixel_is_a_photo():
    photo = photos.decode_photo(encode(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG"))
    assert photo.size == (1, 1) and photo.getpixel((0, 0)) == (9, 8, 7)


def noisy_jpeg(rng, width=200, height=160, mode="RGB", **options):
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    return encode(image.convert(mode), "JPEG", **options)


JPEGS = [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"mode": "L"}, {"mode": "CMYK"},
         {"optimize": True, "subsampling": 0}]


@pytest.mark.parametrize("options", JPEGS)
@pytest.mark.parametrize("ending", [b"", b"\0" * 5000])
def test_jpegs_without_an_end_marker_are_refused(rng, options, ending):
    data = noisy_jpeg(rng, **options)
    for share in (0.3, 0.6, 0.95):
        with pytest.raises(photos.PhotoError, match=r"truncated|broken"):
            photos.decode_photo(data[:int(share * len(data))] + ending)


@pytest.mark.parametrize("options", JPEGS)
def test_whole_jpegs_are_accepted_whatever_follows(rng, options):
    data = noisy_jpeg(rng, **options)
    for ending in (b"", b"\0" * 100, b"<html>"):
        assert photos.decode_photo(data + ending).size == (200, 160)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_grey_photos_are_not_taken_for_truncated_ones(options, mode):
    image = Image.new("RGB", (203, 151), (128, 128, 128)).convert(mode)
    photo = photos.decode_photo(encode(image, "JPEG", **options))
    assert np.abs(np.asarray(photo).astype(int) - 128).max() <= 1


def test_an_embedded_thumbnail_does_not_end_a_photo(rng):
    exif = Image.Exif()
    exif[0x9286] = noisy_jpeg(rng, 16, 16)  # UserComment: the bytes of a whole JPEG
    data = noisy_jpeg(rng, exif=exif)
    photos.decode_photo(data)
    with pytest.raises(photos.PhotoError, match="no end marker"):
        photos.decode_photo(data[:-2] + b"\0" * 3000)


def without_adobe(jpeg):
    """Return the file without Adobe's segment, which comes first."""
    assert jpeg[2:4] == b"\xff\xee" and jpeg[6:11] == b"Adobe"
    return jpeg[:2] + jpeg[4 + int.from_bytes(jpeg[4:6], "big"):]


@pytest.mark.parametrize("change", [bytes, without_adobe])
def test_cmyk_has_tensorflows_colours(rng, change):
    """Adobe's programs store CMYK inverted and mark it with their own segment."""
    tf = pytest.importorskip("tensorflow")
    small = rng.integers(0, 256, (5, 4, 4), dtype=np.uint8)
    small[..., 3] = small[..., 3] // 4 + 96
    image = Image.fromarray(small, "CMYK").resize((64, 48))
    data = change(encode(image, "JPEG", quality=95))
    expected = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE").numpy()
    photo = np.asarray(photos.decode_photo(data)).astype(int)
    assert np.abs(photo - expected).max() <= 2 and np.ptp(expected) > 100


@pytest.mark.parametrize("orientation", range(10))
def test_orientations_equal_pillows(rng, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)), "PNG",
                  exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    photo = photos.decode_photo(data)
    np.testing.assert_array_equal(np.asarray(photo), np.asarray(expected))
    assert photos.probe(data) == photo.size


def test_alpha_is_read_from_a_file_named_jpeg():
    """Only the content of a file matters, not its name."""
    photo = photos.decode_photo(encode(Image.new("RGBA", (2, 2), (255, 0, 0, 128)), "PNG"))
    assert photo.getpixel((0, 0)) == (255, 127, 127)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_animations_are_refused(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    with pytest.raises(photos.PhotoError, match="animation"):
        photos.decode_photo(data)
    with pytest.raises(photos.PhotoError, match="animation"):
        photos.probe(data)
    assert photos.decode_photo(encode(frames[0], kind)).size == (8, 8)


def test_of_a_phones_photo_with_a_preview_the_first_picture_is_read():
    frames = [Image.new("RGB", (16, 16), "red"), Image.new("RGB", (8, 8), "blue")]
    photo = photos.decode_photo(encode(frames[0], "MPO", save_all=True, append_images=frames[1:]))
    assert photo.size == (16, 16) and photo.getpixel((3, 3))[0] > 250


@pytest.mark.parametrize("data", [
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n",
    b"SIMPLE  =                    T" + bytes(2850), b"II*\0" + bytes(100)])
def test_formats_not_used_for_photos_are_not_tried(data, tmp_path):
    with pytest.raises(photos.PhotoError, match="no known format"):
        photos.decode_photo(data)
    (tmp_path / "a.jpg").write_bytes(data)
    assert not photos.is_picture(tmp_path / "a.jpg")


COLOURS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3
LESS_COMMON = [("TIFF", "RGB", {}), ("TIFF", "RGB", {"compression": "tiff_lzw"}),
               ("TIFF", "RGB", {"compression": "tiff_adobe_deflate"}), ("TIFF", "CMYK", {}),
               ("TIFF", "RGBA", {"compression": "packbits"}), ("PPM", "RGB", {}),
               ("TIFF", "RGB", {"big_tiff": True}),
               ("AVIF", "RGB", {"quality": 100, "subsampling": "4:4:4"}),
               ("GIF", "P", {}), ("TIFF", "P", {})]


@pytest.mark.parametrize("kind, mode, options", LESS_COMMON)
def test_less_common_files_are_the_same_pixels(kind, mode, options, tmp_path):
    image = Image.fromarray(COLOURS)
    data = encode(image.quantize(24) if mode == "P" else image.convert(mode), kind, **options)
    apart = np.asarray(photos.decode_photo(data)).astype(int) - COLOURS
    assert np.abs(apart).max() <= {"AVIF": 3}.get(kind, 0) and photos.probe(data) == (6, 4)
    (tmp_path / "photo.txt").write_bytes(data)
    assert photos.is_picture(tmp_path / "photo.txt")


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiffs_are_turned_upright_too(orientation, compression):
    exif = Image.Exif()
    exif[0x0112] = orientation
    png, tiff = (encode(Image.fromarray(COLOURS), kind, exif=exif, **options) for kind, options in
                 (("PNG", {}), ("TIFF", {"compression": compression})))
    expected = np.asarray(photos.decode_photo(png))
    np.testing.assert_array_equal(np.asarray(photos.decode_photo(tiff)), expected)
    assert photos.probe(tiff) == photos.probe(png) == expected.shape[1::-1]


@pytest.mark.parametrize("kind", ["TIFF", "PPM"])
def test_sixteen_bits_of_other_files_become_eight(kind):
    pixels = np.array([[0, 257 * 40, 257 * 200, 65535]], np.uint16)
    photo = photos.decode_photo(encode(Image.fromarray(pixels), kind))
    assert np.asarray(photo)[0, :, 1].tolist() == [0, 40, 200, 255]


PREVIEW, BITS, WHITE, ROWS, PLANES, TILE_WIDTH, TILE_HEIGHT = 254, 258, 262, 278, 284, 322, 323


def tiff(tags, changes=(), kind=np.uint8):
    """Return a TIFF of 6x4 pixels with `tags`; `changes` {old: (new, value)} replaces tags."""
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for number, value in tags.items():
        info[number] = value
    data = bytearray(encode(Image.fromarray(np.zeros((4, 6), kind)), "TIFF", tiffinfo=info))
    first = int.from_bytes(data[4:8], "little") + 2
    for entry in range(first, first + 12 * data[first - 2], 12):
        number = int.from_bytes(data[entry:entry + 2], "little")
        if number in dict(changes):
            new, value = changes[number]
            data[entry:entry + 12] = struct.pack("<HHII", new, 4, 1, value)
    return bytes(data)


@pytest.mark.parametrize("data, reason", [
    (tiff({PREVIEW: 1}), "begins with a preview"),
    (tiff({}, {WHITE: (WHITE, 0)}, np.uint16), "0 is white"),
    (tiff({}, {ROWS: (TILE_WIDTH, 1 << 16), PLANES: (TILE_HEIGHT, 1 << 16)}), "6x4 .* too large"),
    (tiff({}, {BITS: (BITS, 12)}), "TIFF of 12 bits"),
    (encode(Image.new("F", (3, 2)), "TIFF"), "TIFF of 32 bits; expected 8 or 16"),
    (encode(Image.new("I", (3, 2)), "TIFF"), "TIFF of 32 bits; expected 8 or 16"),
    (encode(Image.new("F", (3, 2)), "PPM"), "floating-point"),
    (encode(Image.new("L", (3, 2)), "TIFF", save_all=True, append_images=[Image.new("L", (3, 2))]),
     "TIFF of several pages")])
def test_files_that_would_be_decoded_wrongly_are_refused(data, reason):
    for function in (photos.probe, photos.decode_photo):
        with pytest.raises(photos.PhotoError, match=reason):
            function(data)


def test_enormous_tiffs_and_ppms_are_refused_before_they_are_decoded():
    bomb = tiff({}, {256: (256, 30_000), 257: (257, 30_000)})
    for data in (bomb, b"P6 30000 30000 255\n", b"P6 70000 1 255\n"):
        with pytest.raises(photos.PhotoError, match="too large"):
            photos.decode_photo(data)


def icc_profile(primaries, curve, space=b"RGB "):
    """Return a display profile (ICC.1:2001) of D50 primaries [[X, Y, Z] of red, green and blue] and
    one tone curve, the numbers of a `curv`: none for linear, one for a gamma, else a table."""
    def number(value):
        return struct.pack(">i", round(value * 65536))
    tags = {name: b"XYZ \0\0\0\0" + b"".join(map(number, value))
            for name, value in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries)}
    tags[b"wtpt"] = b"XYZ \0\0\0\0" + b"".join(map(number, (0.9642, 1, 0.8249)))
    for name in (b"rTRC", b"gTRC", b"bTRC", b"kTRC"):
        tags[name] = (b"curv\0\0\0\0" + struct.pack(">I", len(curve))
                      + np.array(curve, ">u2").tobytes() + bytes(len(curve) % 2 * 2))
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(content))
        body += content
    head = struct.pack(">I4sI4s4s4s12s4s", 128 + len(table) + len(body), b"\0" * 4, 0x02400000,
                       b"mntr", space, b"XYZ ", bytes(12), b"acsp")
    light = bytes(28) + b"".join(map(number, (0.9642, 1, 0.8249)))
    return (head + light + bytes(128 - len(head) - len(light))) + table + body


SRGB = ((0.4360, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7139))
LINEAR = np.linspace(0, 1, 1024)
CURVE = np.where(LINEAR <= 0.04045, LINEAR / 12.92, ((LINEAR + 0.055) / 1.055) ** 2.4)
CODES = np.rint(CURVE * 65535).astype(int).tolist()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_another_profile_is_converted(kind):
    """Red and blue exchanged; and linear light, by sRGB's own formula."""
    options = {"lossless": True} if kind == "WEBP" else {}
    swapped = encode(Image.fromarray(COLOURS), kind, icc_profile=icc_profile(SRGB[::-1], CODES),
                     **options)
    apart = np.asarray(photos.decode_photo(swapped)).astype(int) - COLOURS[..., ::-1]
    assert np.abs(apart).max() <= 2
    light = COLOURS / 255
    expected = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    linear = encode(Image.fromarray(COLOURS), kind, icc_profile=icc_profile(SRGB, []), **options)
    assert np.abs(np.asarray(photos.decode_photo(linear)) - expected).max() <= 2


def test_grey_and_transparent_pictures_are_converted_too():
    grey, alpha = np.array([[0, 64, 128, 255]], np.uint8), np.array([[255, 255, 128, 0]], np.uint8)
    expected = [0, 137, 188, 255]  # sRGB's formula for 64 / 255 and 128 / 255
    data = encode(Image.fromarray(grey), "PNG", icc_profile=icc_profile(SRGB, [], b"GRAY"))
    assert np.abs(np.asarray(photos.decode_photo(data))[0, :, 0] - expected).max() <= 1
    image = Image.merge("RGBA", [Image.fromarray(part) for part in (grey, grey, grey, alpha)])
    data = encode(image, "PNG", icc_profile=icc_profile(SRGB, []))
    over_white = [0, 137, 188 * 128 / 255 + 127, 255]
    assert np.abs(np.asarray(photos.decode_photo(data))[0, :, 0] - over_white).max() <= 1.5


BROKEN = [b"no profile", icc_profile(SRGB, CODES)[:200], icc_profile(SRGB[::-1], [], b"CMYK"), b""]


# sRGB profiles of different programs differ this much: other decimals of the primaries.
SIMILAR = icc_profile(np.array(SRGB) * [[0.992], [1], [0.992]], CODES)


@pytest.mark.parametrize("profile", [
    icc_profile(SRGB, CODES), SIMILAR, *BROKEN,
    ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()])
@pytest.mark.parametrize("kind, mode", [("JPEG", "RGB"), ("PNG", "RGB"), ("PNG", "RGBA"),
                                        ("JPEG", "L"), ("PNG", "I;16")])
def test_srgb_and_broken_profiles_change_no_bit(profile, kind, mode):
    image = Image.fromarray(COLOURS)
    image = Image.fromarray(COLOURS[..., 0].astype(np.uint16) * 257) if mode == "I;16" \
        else image.convert(mode)
    with_profile, without = (np.asarray(photos.decode_photo(encode(image, kind, **options)))
                             for options in ({"icc_profile": profile}, {}))
    np.testing.assert_array_equal(with_profile, without)


def test_changed_bytes_never_do_more_than_refuse(rng):
    whole = [photo_bytes(rng, 24, 16, kind) for kind in ("JPEG", "PNG", "WEBP", "PPM", "AVIF")]
    whole += [photo_bytes(rng, 24, 16, "TIFF", compression=name)
              for name in (None, "tiff_lzw", "jpeg")]
    for data in whole * 100:
        changed = bytearray(data)
        for position in rng.integers(0, len(data), 3):
            changed[position] = rng.integers(256)
        try:
            assert photos.decode_photo(bytes(changed)).mode == "RGB"
        except photos.PhotoError as error:
            assert "\n" not in str(error)
