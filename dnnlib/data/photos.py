"""Decode image files to upright RGB pictures or numbers of masks, or raise the reason why not."""

import contextlib
import functools
import io
import struct
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageCms, TiffTags, UnidentifiedImageError

from dnnlib.data.photo_names import IMAGE_SUFFIXES, MAX_BYTES, may_block
from dnnlib.util import mistaken_for, one_line

# Formats of photos. Pillow has many more; one of them runs another program.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
_IN_ONE_PIECE = ("WEBP", "AVIF")  # decoded to 16 bytes a pixel
_MAX_PIXELS = 2**26  # a little more than 6000 x 9000
_MAX_DECODED = 4 * _MAX_PIXELS  # bytes
_MAX_SIDE = 65_536
_FULL_SIZE = _MAX_PIXELS // 4  # pixels; larger photos are reduced to half their sides
_BAND = 512  # rows of a large photo that are converted at a time
# EXIF's orientations 2 to 8, and the transforms that turn the picture upright.
_UPRIGHT = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_90}
_SRGB = ImageCms.createProfile("sRGB")
_LIKE_SRGB = 4  # of 255: the largest difference between profiles that are called sRGB
# Exceptions that Pillow raises for damaged files, besides its own.
_DAMAGE = (OSError, ValueError, SyntaxError, EOFError, struct.error, ArithmeticError, LookupError,
           TypeError, AttributeError, RuntimeError)
# Colour types of PNG files, and the number of bytes up to and including the colour type
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
_PNG_HEAD = 26


class PhotoError(Exception):
    """The reason why one photo cannot be used."""


class PngValues(NamedTuple):
    """The content of a PNG.

    Attributes:
        kind: GREY, ..., RGBA. values: uint8 or uint16 [h, w] or [h, w, channels]; for grey and
            palettes, the stored numbers.
        palette: colours [n, 3] of the numbers; empty if there is no palette.
    """

    kind: int
    values: np.ndarray
    palette: np.ndarray


def read_png_values(data: bytes, size: tuple[int, int] | None = None) -> PngValues:
    """Return the numbers that a mask's PNG stores, reduced like the photo of `size` = (w, h).
    Raises PhotoError if it is damaged, too large, not a mask, or of another size."""
    if data[:2] == b"\xff\xd8":
        raise PhotoError("mask is a JPEG, whose compression changes numbers; save masks as PNG")
    if mistaken := mistaken_for(data[:256], "a mask"):
        raise PhotoError(f"mask is {mistaken}")
    if len(data) < _PNG_HEAD or data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR":
        raise PhotoError("mask is not a PNG file")
    width, height, depth, kind = struct.unpack(">IIBB", data[16:_PNG_HEAD])
    if depth > 8 and kind != GREY:
        raise PhotoError("mask has 16 bits a colour; expected 8")
    factor = reduction((width, height))  # as the photo's
    if size is not None and (-(-width // factor), -(-height // factor)) != tuple(size):
        raise PhotoError(f"photo is {size[0]}x{size[1]}, its mask {width}x{height}")
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            image.load()
            values = np.asarray(image)[::factor, ::factor]
            palette = image.getpalette() if kind == PALETTE else []
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:  # check the checksums, which
            image.verify()  # loading ignores: missing parts would be background
    except (OSError, ValueError, SyntaxError, EOFError, struct.error) as error:
        raise PhotoError(f"mask is damaged ({type(error).__name__})") from None
    if kind == GREY and depth < 8:  # Pillow stretches 2 and 4 bits to the whole range; 1 is bool
        values = values.astype(np.uint8) // (255 // (2**depth - 1) if depth > 1 else 1)
    return PngValues(kind, values, np.reshape(palette, (-1, 3)))


def list_pictures(folder: Path) -> list[Path]:
    """Return the files directly in a folder that are named like photos, or are pictures by their
    content, in the order of their names; without hidden ones."""
    return sorted(path for path in folder.iterdir()
                  if path.name[0] != "." and not path.is_dir() and not may_block(path)
                  and (path.suffix.lower() in IMAGE_SUFFIXES
                       or (path.is_file() and is_picture(path))))


def read_picture_file(path: Path) -> bytes:
    """Return the bytes of a picture's file. Raises PhotoError if it cannot be read."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise PhotoError("file is too large for a picture")
        return path.read_bytes()
    except OSError as error:
        raise PhotoError(_why_unreadable(path, error)) from None


def decode_file(path: Path) -> Image.Image:
    """Return the picture in a file as `decode_photo` does. Raises PhotoError."""
    return decode_photo(read_picture_file(path))


def _why_unreadable(path, error):
    """Return the reason of an operating system's error."""
    is_broken_link = path.is_symlink() and not path.exists()
    return "link to nothing" if is_broken_link else f"file cannot be read ({error.strerror})"


def is_picture(path: str | Path) -> bool:
    """Return whether a file's content is in one of FORMATS; it may be damaged."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.open(path, formats=FORMATS).close()
    except (Image.DecompressionBombError, *_DAMAGE) as error:  # decode_photo will report it
        return not isinstance(error, UnidentifiedImageError)
    return True


def probe(data: bytes | Path) -> tuple[int, int]:
    """Return (width, height) of the upright, unreduced picture in an image file, from its header;
    of a path, no more is read. Raises PhotoError if it cannot be a picture; a damaged body is not
    noticed."""
    with _opened(data) as image:
        turned = image.format != "TIFF" and _orientation(image) in (5, 6, 7, 8)
        return image.size[::-1] if turned else image.size  # Pillow turns TIFFs itself


def decode_photo(data: bytes) -> Image.Image:
    """Return the bytes of an image file as a PIL RGB image, upright according to its EXIF data,
    alpha on white, converted to sRGB if a colour profile is embedded (one that is broken or for
    another mode is ignored).

    Photos of more than 2^24 pixels are reduced to half their sides, so that memory stays bounded.
    Raises PhotoError if the file cannot be used. This includes JPEGs without their end marker and
    PNGs with a wrong checksum; in other formats there is nothing to check.
    """
    with _opened(data) as image:
        size, factor = image.size, reduction(image.size)
        image.draft(None, (size[0] // factor, size[1] // factor))  # JPEGs are decoded smaller
        image.load()
        if image.format in ("JPEG", "MPO") and not _is_whole(data):
            raise PhotoError("JPEG is truncated (it has no end marker)")
        if image.format == "PNG":  # loading does not check its checksums
            with Image.open(io.BytesIO(data), formats=FORMATS) as other:
                other.verify()
        picture = _small_rgb(image, factor if image.size == size else 1)
        orientation = _UPRIGHT.get(_orientation(image))
        return picture if orientation is None else picture.transpose(orientation)


def reduction(size: tuple[int, int]) -> int:
    """Return the factor by which decode_photo divides both sides of a photo of `size` = (width,
    height), rounding up. Raises PhotoError if the photo is too large to be decoded."""
    width, height = size
    if width * height > _MAX_PIXELS or max(size) > _MAX_SIDE:
        raise PhotoError(f"image of {width}x{height} pixels is too large")
    return 1 if width * height <= _FULL_SIZE else 2


@contextlib.contextmanager
def _opened(data):
    """Yield the lazily opened image of bytes or a path. What Pillow raises while it is in use
    becomes PhotoError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of oddities that it can handle
            file = data if isinstance(data, Path) else io.BytesIO(data)
            with Image.open(file, formats=FORMATS) as image:
                _check_kind(image)
                yield image
    except Image.DecompressionBombError:
        raise PhotoError("image is too large") from None
    except UnidentifiedImageError:
        start = data[:256] if isinstance(data, bytes) else _read_start(data)
        reason = mistaken_for(start, "a picture") or "no known format"
        raise PhotoError(f"not a readable image ({reason})") from None
    except _DAMAGE as error:
        if isinstance(data, Path) and getattr(error, "strerror", None):
            raise PhotoError(_why_unreadable(data, error)) from None
        reason = f"{type(error).__name__}: {one_line(error)[:120]}"
        raise PhotoError(f"not a readable image ({reason})") from None


def _read_start(path):
    """Return the first bytes of a file."""
    with open(path, "rb") as file:
        return file.read(256)


def _check_kind(image):
    """Raise PhotoError for images that are too large or not photos, before anything is decoded."""
    if reduction(image.size) > 1 and image.format in _IN_ONE_PIECE:
        raise PhotoError(f"{image.format} image of {image.width}x{image.height} pixels is too "
                         "large")
    if image.format == "TIFF":
        _check_tiff(image)
    # Phones store several pictures in one JPEG (MPO); the first is the photo.
    elif image.format != "MPO" and getattr(image, "is_animated", False):
        raise PhotoError("animation, not a photo")
    if image.mode == "F":
        raise PhotoError("picture of floating-point numbers; expected whole ones of 8 or 16 bits")


def _check_tiff(image):
    """Raise PhotoError for a TIFF that is not a single photo, too large, or decoded wrongly."""
    tags = {TiffTags.lookup(tag).name: value for tag, value in image.tag_v2.items()}
    depths = tags.get("BitsPerSample", (1,))
    if image.is_animated:
        raise PhotoError("TIFF of several pages; save the photo as a file of its own")
    if tags.get("NewSubfileType", 0) & 1:  # a preview, with which raw files of cameras begin
        raise PhotoError("TIFF that begins with a preview; save the photo itself as JPEG or TIFF")
    if not set(depths) <= {1, 2, 4, 8, 16} or image.mode == "I":
        raise PhotoError(f"TIFF of {max(depths)} bits; expected 8 or 16")
    if max(depths) > 8 and tags.get("PhotometricInterpretation") == 0:
        raise PhotoError("TIFF of 16 bits in which 0 is white; expected 0 to be black")
    at_once = max(image.width * image.height, tags.get("TileWidth", 0) * tags.get("TileLength", 0))
    if at_once * max(depths) * tags.get("SamplesPerPixel", 1) > 8 * _MAX_DECODED:
        raise PhotoError(f"TIFF image of {image.width}x{image.height} pixels is too large")


def _orientation(image):
    """Return the value of EXIF's tag Orientation, None without it."""
    return image.getexif().get(0x0112)


def _is_whole(jpeg):
    """Return whether a JPEG has its end marker after the start of its first scan. libjpeg paints
    missing blocks grey, and the segments before the scan may contain whole JPEGs."""
    position = 2
    while position + 4 <= len(jpeg):
        if jpeg[position] != 0xFF or jpeg[position + 1] == 0xFF:  # fill bytes
            position += 1
        elif jpeg[position + 1] == 0xDA:
            return jpeg.find(b"\xff\xd9", position) >= 0
        else:
            position += 2 + int.from_bytes(jpeg[position + 2:position + 4], "big")
    return False


def _small_rgb(image, factor):
    """Return a loaded image as RGB, sides divided by `factor`; in bands, to bound the memory."""
    # Pillow treats all CMYK in JPEGs as inverted; only Adobe's are.
    negative = (image.mode == "CMYK" and image.format in ("JPEG", "MPO")
                and "adobe" not in image.info)
    profile = image.info.get("icc_profile")
    if factor == 1:
        return _to_rgb(image, negative, profile)
    width, height = image.size
    result = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    for top in range(0, height, _BAND):
        band = image.crop((0, top, width, min(top + _BAND, height)))
        result.paste(_to_rgb(band, negative, profile).reduce(factor), (0, top // factor))
    return result


def _to_rgb(image, negative, profile):
    """Return an image of any mode as RGB, inverted if `negative`, according to an ICC profile
    (bytes or None); transparent parts become white, like the padding."""
    if negative:
        image = ImageChops.invert(image)
    if image.mode.startswith("I"):  # Pillow's conversion would clip 16 bits to 8: all white
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if not image.has_transparency_data:
        return _to_srgb(image, profile)
    image = image.convert("RGBA")
    colours = _to_srgb(image.convert("RGB"), profile)
    colours.putalpha(image.getchannel("A"))
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, colours).convert("RGB")


def _to_srgb(image, profile):
    """Return an opaque picture as RGB in sRGB, according to an ICC profile (bytes; None: sRGB)."""
    mode = image.mode if image.mode in ("L", "CMYK") else "RGB"
    transform = _transform(profile, mode) if profile else None
    if transform is None:
        return image.convert("RGB")
    return ImageCms.applyTransform(image.convert(mode), transform)


@functools.lru_cache(maxsize=16)
def _transform(profile, mode):
    """Return the transform of L, RGB or CMYK pictures to sRGB; None if the profile is sRGB itself,
    broken or for another mode."""
    try:
        transform = ImageCms.buildTransform(ImageCms.ImageCmsProfile(io.BytesIO(profile)), _SRGB,
                                            mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    if mode == "CMYK":
        return transform
    grid = np.indices((16,) * len(mode), np.uint8).reshape(len(mode), 1, -1).transpose(1, 2, 0) * 17
    colours = Image.fromarray(np.ascontiguousarray(grid[..., 0] if mode == "L" else grid))
    moved = np.asarray(ImageCms.applyTransform(colours, transform)).astype(int)
    return transform if np.abs(moved - grid).max() > _LIKE_SRGB else None
