"""Make square images of every resolution from a photo and its label map."""

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from dnnlib.data import channels

FITS = ("pad", "crop")
WHITE = (255, 255, 255)
# No overshoot, so that the class maps stay a partition of the image; less aliasing than a box.
_FILTER = Image.Resampling.HAMMING


def fit_square(plane: Image.Image, resolution: int, fit: str,
               fill: int | tuple[int, int, int]) -> Image.Image:
    """Resize a PIL image to resolution x resolution and keep its aspect ratio.

    fit="pad": the whole image, centred, the rest `fill`; fit="crop": the largest centred square.
    """
    width, height = plane.size
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
        return plane.resize((resolution, resolution), _FILTER, box)
    if fit != "pad":
        raise ValueError(f"unknown fit {fit!r}; known: {', '.join(FITS)}")
    left, top, right, bottom = content_box(plane.size, resolution, fit)
    square = Image.new(plane.mode, (resolution, resolution), fill)
    square.paste(plane.resize((right - left, bottom - top), _FILTER), (left, top))
    return square


def resize_shorter_side(photo: Image.Image, side: int) -> Image.Image:
    """Resize a PIL image so that its shorter side is `side`: fit="crop" cuts out its middle."""
    scale = side / min(photo.size)
    return photo.resize([round(length * scale) for length in photo.size], _FILTER)


def common_level(sizes: Iterable[tuple[int, int]]) -> int:
    """Return the largest power of two that the longer side of half of the photos reaches."""
    return 1 << (int(np.median([max(size) for size in sizes])).bit_length() - 1)


def content_box(size: Sequence[int], resolution: int, fit: str) -> tuple[int, int, int, int]:
    """Return the box of a photo of `size` (width, height) in its square image: left, top, right,
    bottom in pixels; the rest is padding."""
    if fit == "crop":
        return 0, 0, resolution, resolution
    scale = resolution / max(size)
    sides = [max(1, round(side * scale)) for side in size]
    left, top = ((resolution - side) // 2 for side in sides)
    return left, top, left + sides[0], top + sides[1]


def fit_label_map(labels: np.ndarray, resolution: int, fit: str = "pad") -> np.ndarray:
    """Return a label map uint8 [h, w] resized as fit_square does with its photo, by nearest
    neighbour; padding is background."""
    if fit == "crop":
        side = min(labels.shape)
        top, left = ((length - side) // 2 for length in labels.shape)
        labels = labels[top:top + side, left:left + side]
    left, top, right, bottom = content_box(labels.shape[::-1], resolution, "pad")
    square = np.zeros((resolution, resolution), np.uint8)
    square[top:bottom, left:right] = np.asarray(Image.fromarray(labels).resize(
        (right - left, bottom - top), Image.Resampling.NEAREST))
    return square


def build_image(photo: Image.Image, labels: np.ndarray | None, num_classes: int, resolution: int,
                fit: str) -> np.ndarray:
    """Return a photo (PIL RGB) and its label map uint8 [h, w] (None without classes) as one image
    uint8 [3 + C, resolution, resolution], with the same geometry and filter for both."""
    image = np.zeros((channels.NUM_COLOURS + num_classes, resolution, resolution), np.uint8)
    image[channels.RGB] = np.asarray(fit_square(photo, resolution, fit, WHITE)).transpose(2, 0, 1)
    present = np.flatnonzero(np.bincount(labels.ravel())) if num_classes else []
    for label in present:
        if label:
            plane = Image.fromarray((labels == label).astype(np.uint8) * np.uint8(255))
            image[channels.NUM_COLOURS + label - 1] = fit_square(plane, resolution, fit, 0)
    return image


def levels(image: np.ndarray, min_level: int) -> dict[int, np.ndarray]:
    """Return {level: uint8 [C, 2^level, 2^level]} of an image [C, 2^r, 2^r], from r to `min_level`.

    Each level is the 2x2 mean of the unquantised level above, rounded half to even, as in the
    official release's files: the sum over a block of 4^n pixels, divided by 4^n. Sums are whole
    numbers, so they are exact; those of up to 256 pixels need 16 bits.
    """
    level = image.shape[1].bit_length() - 1
    result, num_halvings = {level: image}, 0
    occupied = np.flatnonzero(image.reshape(len(image), -1).max(axis=1))  # most maps are empty
    total = image[occupied]
    while level > min_level:
        level, num_halvings = level - 1, num_halvings + 1
        kind = np.uint16 if num_halvings <= 4 else np.uint32
        rows = np.add(total[:, 0::2], total[:, 1::2], dtype=kind)
        total = rows[:, :, 0::2] + rows[:, :, 1::2]
        result[level] = np.zeros((len(image), 1 << level, 1 << level), np.uint8)
        # total / 2^bits, rounded half to even: a half goes up only if the quotient is odd.
        bits = 2 * num_halvings
        result[level][occupied] = (total + ((1 << (bits - 1)) - 1) + ((total >> bits) & 1)) >> bits
    return result


def area_shares(planes: np.ndarray) -> list[float]:
    """Return the share of the area that each map covers; planes: uint8 [C, res, res], 255 where it
    does."""
    # Sum columns first, in 32 bits: three times faster than a mean in float64, and exact.
    sums = [plane.sum(axis=0, dtype=np.uint32).sum(dtype=np.int64) if plane.any() else 0
            for plane in planes]
    return [float(total) / planes[0].size / 255 for total in sums]
