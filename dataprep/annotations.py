"""COCO annotations, read and checked, and polygons -> label maps.

Nothing unchecked reaches pycocotools: it ends the whole process on NaN, on far coordinates and on
outlines too long for memory; an odd number of coordinates it accepts in silence, and run lengths
that do not fill the mask are filled with whatever is in memory. ModaNet has polygons only, so run
lengths are not read at all.
"""

import warnings
from dataclasses import dataclass, field

import numpy as np
from pycocotools import mask as coco_mask

from dataprep.photos import PhotoError
from dnnlib.coco import MODANET_CLASSES  # noqa: F401 - readers of annotations take it from here
from dnnlib.util import UserError, read_json

_MAX_ID = 2**53
_MAX_SIDE = 65536  # pixels; more is taken for a mistake
_MAX_OVERHANG = 4  # image sides that a coordinate may lie away from the frame
_MAX_LENGTH = 100  # image sides that an annotation's outlines may have; ModaNet's have 5 at most
_MAX_INSTANCES = 1000  # of one image; each takes time and memory of the image's size
_NOT_FINITE = "polygon with a coordinate that is not finite"


@dataclass(frozen=True)
class Instance:
    """One annotated garment: label 1..C; polygons, each float64 [2n] = x0, y0, x1, y1, ..."""

    label: int
    polygons: tuple


@dataclass(frozen=True)
class Photo:
    """What the annotation file says of one image."""

    image_id: int
    file_name: str
    width: int
    height: int
    instances: tuple = ()


@dataclass
class Annotations:
    """Photos by id, and what was left out.

    skipped_images: [{"id", "reason"}]; defects: [{"id", "annotation", "reason"}], each one
    annotation of which at least a part was left out, "id" being the image's.
    """

    photos: dict = field(default_factory=dict)
    skipped_images: list = field(default_factory=list)
    defects: list = field(default_factory=list)


def load_annotations(path, num_classes):
    """Read a COCO file whose category ids are 1..num_classes. Bad items are left out and listed.

    Annotations' own ids and `iscrowd` mean nothing here: a label map knows no instances. Raises
    UserError where the file is missing, not JSON, or not of COCO's structure.
    """
    try:
        content = read_json(path, object_hook=_compact)
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, deep nesting
        raise UserError(f"{path}: not valid JSON ({error})") from None
    content = content if isinstance(content, dict) else {}
    images, annotations = content.get("images"), content.get("annotations")
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise UserError(f"{path}: not COCO annotations; they need the lists 'images' and "
                        "'annotations'")
    result = Annotations()
    frames = _frames(images, result.skipped_images)
    instances = {image_id: [] for image_id in frames}
    for entry in annotations:
        reason = _add_instance(instances, frames, entry, num_classes)
        if reason:
            result.defects.append(_defect(entry, reason))
    result.photos = {image_id: Photo(image_id, *frame, tuple(instances[image_id]))
                     for image_id, frame in frames.items()}
    return result


def _compact(entry):
    """The JSON reader's hook for each object: of an annotation, what is used, and polygons become
    arrays, or the reason against them, at once: Python's numbers would take four times the memory.
    """
    if "segmentation" not in entry:
        return entry
    kept = {key: entry.get(key) for key in ("id", "image_id", "category_id", "segmentation")}
    if isinstance(kept["segmentation"], list):
        kept["segmentation"] = [_read_polygon(polygon) for polygon in kept["segmentation"]]
    return kept


def _read_polygon(polygon):
    """What JSON has for a polygon -> float64 [2n], or what is wrong with it."""
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
    return points if np.abs(points).max() < 1e9 else _NOT_FINITE  # NaN is not below


def _is_int(value, low, high):
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _frames(images, skipped):
    """List of image entries -> {id: (file_name, width, height)}; the others go to `skipped`.

    An id that stands for two different images stands for none: its annotations could be of either.
    """
    entries, doubtful = {}, set()
    for entry in images:
        image_id = entry.get("id") if isinstance(entry, dict) else None
        if not _is_int(image_id, 0, _MAX_ID):
            skipped.append({"id": None, "reason": "image entry without a whole number as id"})
        elif entries.setdefault(image_id, frame := _frame(entry)) != frame:
            doubtful.add(image_id)
    reasons = dict.fromkeys(doubtful, "image id given to different images")
    for image_id in [image_id for image_id, frame in entries.items() if frame is None]:
        reasons.setdefault(image_id, "image entry without a valid width and height")
    skipped += [{"id": image_id, "reason": reason} for image_id, reason in sorted(reasons.items())]
    return {image_id: frame for image_id, frame in entries.items() if image_id not in reasons}


def _frame(entry):
    """(file_name, width, height) of an image entry; None where there is no valid size."""
    size = entry.get("width"), entry.get("height")
    if not all(_is_int(side, 1, _MAX_SIDE) for side in size):
        return None
    file_name = entry.get("file_name")
    return (file_name if isinstance(file_name, str) else "", *size)


def _add_instance(instances, frames, entry, num_classes):
    """Enter one annotation; return why it or a part of it was left out, or None."""
    if not isinstance(entry, dict):
        return "annotation is not an object"
    image_id, label = entry.get("image_id"), entry.get("category_id")
    if not _is_int(image_id, 0, _MAX_ID) or image_id not in frames:
        return "annotation of an image that is not listed, or was left out"
    if not _is_int(label, 1, num_classes):
        return f"category id outside 1..{num_classes}"
    polygons = entry.get("segmentation")
    if isinstance(polygons, dict):
        return "segmentation in run lengths (RLE); expected polygons"
    if not isinstance(polygons, list) or not polygons:
        return "segmentation is not a list of polygons"
    size = frames[image_id][1:]
    defects = [polygon if isinstance(polygon, str) else _misplaced(polygon, *size)
               for polygon in polygons]
    good = tuple(polygon for polygon, defect in zip(polygons, defects) if not defect)
    if sum(_length(polygon, *size) for polygon in good) > _MAX_LENGTH:
        return f"outline longer than {_MAX_LENGTH} times the image"
    if len(instances[image_id]) == _MAX_INSTANCES:
        return f"more than {_MAX_INSTANCES} annotations of one image"
    if good:
        instances[image_id].append(Instance(label, good))
    return next(filter(None, defects), None)


def _misplaced(polygon, width, height):
    """What is wrong with a polygon, float64 [2n], in its image, or None."""
    points = polygon.reshape(-1, 2) / (width, height)
    low, high = points.min(axis=0), points.max(axis=0)
    if low.min() < -_MAX_OVERHANG or high.max() > 1 + _MAX_OVERHANG:
        return "polygon far outside the image"
    if high.min() <= 0 or low.max() >= 1:
        return "polygon outside the image"
    points = points - points[0]
    far = points[np.abs(points).max(axis=1).argmax()]
    # A line has no area. The signed area would not do: that of a figure of eight may be zero.
    off = np.abs(points[:, 0] * far[1] - points[:, 1] * far[0]).max()
    return "polygon without area" if off <= 1e-12 else None


def _length(polygon, width, height):
    """How often a polygon's outline crosses the image: the rasteriser takes memory for each point
    on it."""
    points = polygon.reshape(-1, 2) / (width, height)
    return np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum()


def _defect(entry, reason):
    """A line for the list of what was left out; ids only where they are plain numbers."""
    entry = entry if isinstance(entry, dict) else {}
    ids = [entry.get(key) if _is_int(entry.get(key), 0, _MAX_ID) else None
           for key in ("image_id", "id")]
    return {"id": ids[0], "annotation": ids[1], "reason": reason}


def encode_mask(polygons, width, height):
    """Union of checked polygons, in pixels, as COCO's run lengths, by its own rasteriser."""
    encoded = coco_mask.frPyObjects([polygon.tolist() for polygon in polygons], height, width)
    return coco_mask.merge(encoded)


def decode_mask(encoded):
    """Run lengths -> bool [height, width]."""
    with warnings.catch_warnings():  # the package still speaks to NumPy 1
        warnings.simplefilter("ignore", DeprecationWarning)
        return coco_mask.decode(encoded).astype(bool)


def label_map(photo, size):
    """Photo's annotations -> label map uint8 [h, w] for a picture of `size` = (w, h).

    Polygons are scaled where the picture has another size than the annotation file says. Larger
    instances are painted first, so that a belt stays visible on a dress; ties keep their order.
    Raises PhotoError where not a single pixel is covered.
    """
    return label_map_and_overlap(photo, size)[0]


def label_map_and_overlap(photo, size):
    """(label map, see `label_map`; share of all instances' area that lies under another one)."""
    scale = np.array([size[0] / photo.width, size[1] / photo.height])
    masks = []
    for instance in photo.instances:
        polygons = [(polygon.reshape(-1, 2) * scale).ravel() for polygon in instance.polygons]
        masks.append((encode_mask(polygons, *size), instance.label))
    labels = np.zeros((size[1], size[0]), np.uint8)
    areas = [int(coco_mask.area(encoded)) for encoded, _ in masks]
    for number in sorted(range(len(masks)), key=lambda number: -areas[number]):
        encoded, label = masks[number]
        labels[decode_mask(encoded)] = label
    if not any(areas):
        raise PhotoError("annotations cover no pixel of the photo")
    return labels, 1 - int(np.count_nonzero(labels)) / sum(areas)
