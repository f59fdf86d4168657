"""Bytes of image files -> upright RGB pictures, or the reason against it."""

import contextlib
import io
import struct
import warnings

import numpy as np
from PIL import Image, ImageChops, UnidentifiedImageError

from dnnlib.util import one_line

# What photos come in. Pillow knows many more formats; one of them runs another program.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
_MAX_PIXELS = 2**26  # 6000 x 9000 and a little
_MAX_SIDE = 65_536
_FULL_SIZE = _MAX_PIXELS // 4  # up to here a photo is used as it is, above at half its sides
_BAND = 512  # rows of a large photo that are converted at a time
_ORIENTATION = 0x0112  # EXIF's tag; its values 2 to 8 and what turns the picture upright:
_UPRIGHT = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_90}
_END_OF_IMAGE = b"\xff\xd9"
_NO_DIFFERENCE = {"L": (0, 0), "RGB": ((0, 0),) * 3, "CMYK": ((0, 0),) * 4}  # by mode


class PhotoError(Exception):
    """One photo that cannot be used; its message is the reason."""


def probe(data):
    """Bytes of an image file -> (width, height) of the upright picture, from its header alone.

    This is the file's own size, also where decode_photo reduces it. Raises PhotoError where no
    picture can come of it; a damaged body is not noticed.
    """
    with _opened(data) as image:
        size = image.size
        return size[::-1] if _orientation(image) in (5, 6, 7, 8) else size


def decode_photo(data):
    """Bytes of an image file -> PIL RGB image, upright as its EXIF data says, alpha on white.

    Photos of more than 2^24 pixels are reduced to half their sides, so that memory stays bounded.
    Raises PhotoError saying why it cannot be used; a JPEG that ends early is refused also where an
    end marker was put behind what is left, a PNG with a wrong checksum; others have nothing to
    check by.
    """
    with _opened(data) as image:
        size, factor = image.size, reduction(image.size)
        image.draft(None, (size[0] // factor, size[1] // factor))  # JPEGs are decoded smaller
        image.load()
        if image.format in ("JPEG", "MPO"):
            _check_whole(data, image)
        if image.format == "PNG":  # whose checksums loading does not look at
            with Image.open(io.BytesIO(data), formats=_FORMATS) as other:
                other.verify()
        picture = _small_rgb(image, factor) if image.size == size else _to_rgb(image)
        orientation = _UPRIGHT.get(_orientation(image))
        return picture if orientation is None else picture.transpose(orientation)


def reduction(size):
    """The power of two by which decode_photo divides both sides, rounding up, of a photo of `size`
    = (width, height). Raises PhotoError where it is not decoded at all."""
    width, height = size
    if width * height > _MAX_PIXELS or max(size) > _MAX_SIDE:
        raise PhotoError(f"image of {width}x{height} pixels is too large")
    return 1 if width * height <= _FULL_SIZE else 2


@contextlib.contextmanager
def _opened(data):
    """The lazily opened image. What Pillow raises while it is in use becomes PhotoError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of oddities that it copes with
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                _check_kind(image)
                yield image
    except Image.DecompressionBombError:
        raise PhotoError("image is too large") from None
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, OverflowError) as error:
        reason = one_line(error)[:120]
        if isinstance(error, UnidentifiedImageError):
            reason = "no known format"  # Pillow's own text has the address of our buffer in it
        raise PhotoError(f"not a readable image ({type(error).__name__}: {reason})") from None


def _check_kind(image):
    """Raise PhotoError for what is too large and what is no photo, before anything is decoded."""
    if reduction(image.size) > 1 and image.format == "WEBP":  # 16 bytes a pixel, in one piece
        raise PhotoError(f"WebP image of {image.width}x{image.height} pixels is too large")
    # Phones store several pictures in one JPEG (MPO), of which the first is the photo.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise PhotoError("animation, not a photo")


def _orientation(image):
    return image.getexif().get(_ORIENTATION)


def _check_whole(data, image):
    """Raise PhotoError for a JPEG of which a part is missing. `image` is loaded.

    libjpeg paints blocks that it has no data for grey, and Pillow does not pass its warning on. It
    skips bytes between the last block and the end marker: where bytes put there change the picture,
    blocks were missing. Only pictures that end in grey, or came in scans, are decoded twice.
    """
    end = data.find(_END_OF_IMAGE, _scan_start(data))
    if end < 0:
        raise PhotoError("JPEG is truncated (it has no end marker)")
    last = np.asarray(image)[-1, -1]
    if not image.info.get("progressive") and not np.isin(last, (127, 128)).all():
        return
    longer = data[:end] + bytes(range(1, 255)) * 8 + data[end:]
    with Image.open(io.BytesIO(longer), formats=_FORMATS) as other:
        other.draft(None, image.size)
        other.load()
        if ImageChops.difference(image, other).getextrema() != _NO_DIFFERENCE[image.mode]:
            raise PhotoError("JPEG is truncated (parts of the picture are missing)")


def _scan_start(data):
    """Where a JPEG's first scan starts: behind the segments, which may hold whole JPEGs."""
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF or data[position + 1] == 0xFF:  # fill bytes
            position += 1
        elif data[position + 1] == 0xDA:
            return position
        else:
            position += 2 + int.from_bytes(data[position + 2:position + 4], "big")
    return len(data)


def _small_rgb(image, factor):
    """Loaded image -> RGB, sides divided by `factor`; in bands, as conversions take copies."""
    if factor == 1:
        return _to_rgb(image)
    width, height = image.size
    result = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    for top in range(0, height, _BAND):
        band = image.crop((0, top, width, min(top + _BAND, height)))
        result.paste(_to_rgb(band).reduce(factor), (0, top // factor))
    return result


def _to_rgb(image):
    """Any mode -> RGB; what is transparent becomes white, like the padding."""
    if image.mode == "CMYK" and "adobe" not in image.info:
        image = ImageChops.invert(image)  # Pillow takes all for inverted; only Adobe's are
    if image.mode.startswith("I;16"):  # Pillow's conversion would clip 16 bits to 8: all white
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")
