"""Bytes of image files -> upright RGB pictures, or the reason against it."""

import contextlib
import io
import struct
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

_MAX_PIXELS = 100_000_000
_ORIENTATION = 0x0112  # EXIF's tag; 5 to 8 are the turned ones


class PhotoError(Exception):
    """One photo that cannot be used; its message is the reason."""


def probe(data):
    """Bytes of an image file -> (width, height) of the upright picture, from its header alone.

    Raises PhotoError where no picture can come of it; a damaged body is not noticed.
    """
    with _opened(data) as image:
        size = image.size
        return size[::-1] if image.getexif().get(_ORIENTATION) in (5, 6, 7, 8) else size


def decode_photo(data):
    """Bytes of an image file -> PIL RGB image, upright as its EXIF data says, alpha on white.

    Raises PhotoError saying why it cannot be used.
    """
    with _opened(data) as image:
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))


@contextlib.contextmanager
def _opened(data):
    """The lazily opened image. What Pillow raises while it is in use becomes PhotoError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of oddities that it copes with
            with Image.open(io.BytesIO(data)) as image:
                if image.width * image.height > _MAX_PIXELS:
                    raise PhotoError(f"image of {image.width}x{image.height} pixels is too large")
                yield image
    except Image.DecompressionBombError:
        raise PhotoError("image is too large") from None
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, OverflowError) as error:
        reason = " ".join(str(error).split())[:120]
        if isinstance(error, UnidentifiedImageError):
            reason = "no known format"  # Pillow's own text has the address of our buffer in it
        raise PhotoError(f"not a readable image ({type(error).__name__}: {reason})") from None


def _to_rgb(image):
    """Any mode -> RGB; what is transparent becomes white, like the padding."""
    if image.mode.startswith("I;16"):  # Pillow's conversion would clip 16 bits to 8: all white
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")
