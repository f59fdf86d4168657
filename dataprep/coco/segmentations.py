"""Check COCO's polygons and run lengths (RLE), and draw them as label maps.

Nothing unchecked reaches pycocotools. It crashes the whole process on NaN, on far coordinates and
on outlines too long for memory; it silently accepts an odd number of coordinates; it reads memory
that is not its own if runs do not fill the mask, and writes beyond its own if they overfill it.
"""

import re
import warnings
from dataclasses import dataclass, field

import numpy as np
from pycocotools import mask as coco_mask

from dnnlib.data.photos import PhotoError

MAX_ID = 2**53  # of images, annotations and categories
SHARE_MARGIN = 0.1  # polygons in shares of the image may lie this far outside 0..1
SHARES = "polygon within 0..1, as in shares of the image; expected pixels"
_MAX_OVERHANG = 4  # image sides by which a coordinate may lie outside the image
_MAX_LENGTH = 100  # length of an annotation's outlines in image sides; at most 5 in ModaNet
_NOT_FINITE = "polygon with a coordinate that is not finite"
_MAX_PIXELS = 2**26  # of a mask, as for a photo
_MAX_RUN = 2**32  # pixels
_LONGEST = 7  # characters of a run length: 35 bits


@dataclass(frozen=True)
class Instance:
    """One annotated object: label 1..C; polygons, each float64 [2n] = x0, y0, x1, y1, ...; or a
    mask of the image in pycocotools' run lengths."""

    label: int
    polygons: tuple = ()
    mask: dict | None = None


@dataclass(frozen=True)
class Photo:
    """The annotations of one image. keypoints: float64 [K, 3], with coordinates in pixels,
    otherwise as in dnnlib.data.keypoints; None if there are none."""

    image_id: int
    file_name: str
    width: int
    height: int
    instances: tuple = ()
    keypoints: np.ndarray | None = field(default=None, compare=False)

    @property
    def is_annotated(self) -> bool:
        """Return whether anything is known of the image."""
        return bool(self.instances) or self.keypoints is not None


def parse_int(value: object, low: int, high: int) -> int | None:
    """Return `value` as a whole number low..high, also from 7.0 or "7"; None if it is not one."""
    digits = isinstance(value, str) and re.fullmatch("[0-9]{1,16}", value)
    if digits or (isinstance(value, float) and value.is_integer()):
        value = int(value)
    number = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    return value if number else None


# Reading. A str in place of a polygon or of run lengths is the reason why they are rejected.

def read_segmentation(parts: object) -> list | dict | str | None:
    """Return the JSON value "segmentation" as arrays: a list of polygons (float64 [2n], or the
    reason for rejecting one), or run lengths {"size", "counts": int64 [n]}, or the reason for
    rejecting the whole value; None for null."""
    if isinstance(parts, dict):
        size, counts = parts.get("size"), parts.get("counts")
        if not isinstance(size, list) or len(size) != 2:
            return "run lengths without a size [height, width]"
        if isinstance(counts, str):
            counts = _decode_counts(counts)
        elif isinstance(counts, list):
            numbers = [parse_int(count, 0, _MAX_RUN) for count in counts]
            counts = None if None in numbers else np.array(numbers, np.int64)
        if not isinstance(counts, np.ndarray) or not len(counts) or counts.min() < 0:
            return "run lengths that are not whole numbers of 0 or more"
        return {"size": size, "counts": counts}
    if parts is None:
        return None
    if not isinstance(parts, list):
        return "segmentation is neither polygons nor run lengths"
    if parts and set(map(type, parts)) <= {int, float}:  # one polygon, without its brackets
        parts = [parts]
    return [_read_polygon(polygon) for polygon in parts]


def _read_polygon(polygon):
    """Return a polygon as float64 [2n], or the reason for rejecting it."""
    if not isinstance(polygon, list):
        return "polygon is not a list of numbers"
    if len(polygon) % 2:
        return "polygon with an odd number of coordinates"
    if len(polygon) < 6:
        return "polygon of fewer than three points"
    if not set(map(type, polygon)) <= {int, float}:
        return "polygon with a coordinate that is no number"
    try:
        points = np.array(polygon, np.float64)
    except OverflowError:  # integers of hundreds of digits
        return _NOT_FINITE
    return points if np.abs(points).max() < 1e9 else _NOT_FINITE  # also for NaN


def _decode_counts(text):
    """Return COCO's string of run lengths as int64 [n], not yet checked; None if it is not such a
    string. Each character has five bits of a number, the lowest first, and a flag if more follow.
    From the fourth on, numbers are stored as differences from the number two places before."""
    codes = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    ends = np.flatnonzero((codes & 32) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST:
        return None
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    numbers = np.add.reduceat((codes & 31) << shifts, starts)
    numbers -= np.where(codes[ends] & 16, np.int64(1) << 5 * lengths, 0)  # two's complement
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


# Checking against the image

def make_instance(label: int, segmentation: object, width: int,
                  height: int) -> tuple[Instance | None, str | None]:
    """Check what read_segmentation returned; return (Instance or None, reason why it, or a part of
    it, is left out, or None)."""
    if isinstance(segmentation, str):
        return None, segmentation
    if isinstance(segmentation, dict):
        size, counts = segmentation["size"], segmentation["counts"]
        if [parse_int(side, 1, _MAX_PIXELS) for side in size] != [height, width]:
            return None, "run lengths for another size than the image's"
        if width * height > _MAX_PIXELS:
            return None, "run lengths of an image that is too large"
        if len(counts) > width * height + 1 or counts.sum() != width * height:
            return None, "run lengths that do not add up to the image"
        if not counts[1::2].any():
            return None, "run lengths without area"
        plain = {"size": [height, width], "counts": counts.tolist()}
        return Instance(label, mask=coco_mask.frPyObjects(plain, height, width)), None
    if segmentation is None or segmentation == []:
        return None, "no segmentation: a box alone has no outline"
    defects = [polygon if isinstance(polygon, str) else _misplaced(polygon, width, height)
               for polygon in segmentation]
    good = tuple(polygon for polygon, defect in zip(segmentation, defects) if not defect)
    # The rasteriser allocates memory for each point on an outline.
    outlines = [polygon.reshape(-1, 2) / (width, height) for polygon in good]
    if sum(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum()
           for points in outlines) > _MAX_LENGTH:
        return None, f"outline longer than {_MAX_LENGTH} times the image"
    return (Instance(label, good) if good else None), next(filter(None, defects), None)


def _misplaced(polygon, width, height):
    """Return what is wrong with a polygon, float64 [2n], in its image, or None."""
    points = polygon.reshape(-1, 2) / (width, height)
    low, high = points.min(axis=0), points.max(axis=0)
    if low.min() < -_MAX_OVERHANG or high.max() > 1 + _MAX_OVERHANG:
        return "polygon far outside the image"
    if high.min() <= 0 or low.max() >= 1:
        return "polygon outside the image"
    points = points - points[0]
    far = points[np.abs(points).max(axis=1).argmax()]
    # A line has no area. The signed area is no test: a figure of eight may have zero.
    off = np.abs(points[:, 0] * far[1] - points[:, 1] * far[0]).max()
    if off <= 1e-12:
        return "polygon without area"
    shares = polygon.min() >= -SHARE_MARGIN and polygon.max() <= 1 + SHARE_MARGIN
    # In whole numbers, it is the image's first pixel, as traced from a label map.
    return SHARES if shares and (polygon % 1).any() and min(width, height) > 1 else None


# Label maps

def encode_mask(polygons: tuple, width: int, height: int) -> dict:
    """Return the union of checked polygons, in pixels, as COCO's run lengths."""
    encoded = coco_mask.frPyObjects([polygon.tolist() for polygon in polygons], height, width)
    return coco_mask.merge(encoded)


def decode_mask(encoded: dict) -> np.ndarray:
    """Return run lengths as bool [height, width]."""
    with warnings.catch_warnings():  # the package still uses the API of NumPy 1
        warnings.simplefilter("ignore", DeprecationWarning)
        return coco_mask.decode(encoded).astype(bool)


def _resized(encoded, size):
    """Return a mask's run lengths for a picture of `size` = (w, h), by nearest neighbour."""
    height, width = encoded["size"]
    if (width, height) == tuple(size):
        return encoded
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new)
                     for new, old in zip(size[::-1], (height, width)))
    return coco_mask.encode(np.asfortranarray(decode_mask(encoded)[rows][:, columns], np.uint8))


def label_map_and_overlap(photo: Photo, size: tuple[int, int]) -> tuple[np.ndarray, float]:
    """Return a photo's label map uint8 [h, w] for a picture of `size` = (w, h), and the share of
    the instances' total area that another instance covers. Polygons and masks are scaled if the
    picture does not have the size in the annotation file. Larger instances are painted first, so
    that a belt stays visible on a dress; ties keep their order. Raises PhotoError if not a single
    pixel is covered."""
    scale = np.array([size[0] / photo.width, size[1] / photo.height])
    masks = []
    for instance in photo.instances:
        polygons = [(polygon.reshape(-1, 2) * scale).ravel() for polygon in instance.polygons]
        encoded = encode_mask(polygons, *size) if polygons else _resized(instance.mask, size)
        masks.append((int(coco_mask.area(encoded)), encoded, instance.label))
    labels = np.zeros((size[1], size[0]), np.uint8)
    for _, encoded, label in sorted(masks, key=lambda mask: -mask[0]):
        labels[decode_mask(encoded)] = label
    total = sum(area for area, _, _ in masks)
    if not total:
        raise PhotoError("annotations cover no pixel of the photo")
    return labels, 1 - int(np.count_nonzero(labels)) / total
