"""COCO annotations, read and checked, and polygons or run lengths -> label maps.

Nothing unchecked reaches pycocotools: it ends the whole process on NaN, on far coordinates and on
outlines too long for memory; an odd number of coordinates it accepts in silence. Run lengths have
their checks in dataprep.run_lengths.
"""

import warnings
from dataclasses import dataclass, field

import numpy as np
from pycocotools import mask as coco_mask

from dataprep.categories import check_used, read_categories, whole
from dataprep.run_lengths import encode_run_lengths, read_run_lengths
from dnnlib.data.coco import MODANET_CLASSES
from dnnlib.data.photos import PhotoError
from dnnlib.util import UserError, read_json

_MAX_ID = 2**53
_MAX_SIDE = 65536  # pixels; more is taken for a mistake
_MAX_OVERHANG = 4  # image sides that a coordinate may lie away from the frame
_MAX_LENGTH = 100  # image sides that an annotation's outlines may have; ModaNet's have 5 at most
MAX_INSTANCES = 1000  # of one image; each takes time and memory of the image's size
TOO_MANY = f"more than {MAX_INSTANCES} annotations of one image"
_NOT_FINITE = "polygon with a coordinate that is not finite"
_SHARES = "polygon within 0..1, as in shares of the image; expected pixels"
_SHARE_MARGIN = 0.1  # shares may be outside the image as well
_SHARE = 1 + _SHARE_MARGIN
_PERCENT, _MIN_SIDE = 100.5, 200  # polygons up to here in images from there on may be per cent


@dataclass(frozen=True)
class Instance:
    """One annotated garment: label 1..C; polygons, each float64 [2n] = x0, y0, x1, y1, ...; or a
    mask of the image in run lengths, as pycocotools has them."""

    label: int
    polygons: tuple = ()
    mask: dict | None = None


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
    """Names of the labels 1..C, lines to print, photos by id, and what was left out.

    renumbered: category ids are not the labels, as they were taken to be once.

    skipped_images: [{"id", "reason"}]; defects: [{"id", "annotation", "reason"}], each one
    annotation of which at least a part was left out, "id" being the image's.
    """

    classes: tuple
    notes: list
    renumbered: bool = False
    photos: dict = field(default_factory=dict)
    skipped_images: list = field(default_factory=list)
    defects: list = field(default_factory=list)


def load_annotations(path, own=False):
    """Read a COCO file; its categories are ModaNet's by name, or with `own` any. Bad items are left
    out and listed.

    Annotations' own ids and `iscrowd` mean nothing here: a label map knows no instances. Raises
    UserError where the file is missing, not JSON, not of COCO's structure, its categories are not
    usable, or all its polygons are in shares of the image.
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
    categories = read_categories(path, content.get("categories"), MODANET_CLASSES, own)
    check_used(path, categories.labels, _category_ids(annotations))
    renumbered = any(number != label for number, label in categories.labels.items())
    result = Annotations(categories.classes, list(categories.notes), renumbered)
    frames = _frames(images, result.skipped_images)
    instances = {image_id: [] for image_id in frames}
    for entry in annotations:
        reason = _add_instance(instances, frames, entry, categories.labels)
        if reason:
            result.defects.append(_defect(entry, reason))
    result.photos = {image_id: Photo(image_id, *frame, tuple(instances[image_id]))
                     for image_id, frame in frames.items()}
    result.notes += _doubts(path, result, categories)
    return result


def _category_ids(annotations):
    """The ids that annotations use, as far as they are whole numbers."""
    used = {whole(entry.get("category_id"), 0, _MAX_ID)
            for entry in annotations if isinstance(entry, dict)}
    return used - {None}


def _doubts(path, result, categories):
    """Yield warnings of what the annotations have, taken together. Raises UserError if all polygons
    are in shares."""
    photos = [photo for photo in result.photos.values() if photo.instances]
    parts = [part for photo in photos for part in photo.instances]
    largest = max((polygon.max() for part in parts for polygon in part.polygons), default=0)
    if largest <= _SHARE and any(defect["reason"] == _SHARES for defect in result.defects):
        raise UserError(f"{path}: its polygons lie within 0..1, so they are in shares of the "
                        "image; expected pixels: multiply x by the width, y by the height")
    smallest = min((max(photo.width, photo.height) for photo in photos), default=0)
    if 0 < largest <= _PERCENT and smallest >= _MIN_SIDE:
        yield (f"warning: {path}: no polygon reaches beyond 100 in images of {smallest} pixels or "
               "more; if they are in per cent, every map is wrong: pixels are expected")
    absent = categories.listed - {part.label for part in parts}
    if absent and parts:
        names = ", ".join(categories.classes[label - 1] for label in sorted(absent))
        yield f"warning: {path}: no annotation shows {names}; nothing can be learnt of them"


def _compact(entry):
    """The JSON reader's hook for each object: of an annotation, what is used, and polygons and run
    lengths become arrays, or the reason against them, at once: Python's numbers would take four
    times the memory."""
    if "segmentation" not in entry:
        return entry
    kept = {key: entry.get(key) for key in ("id", "image_id", "category_id", "segmentation")}
    parts = kept["segmentation"]
    if isinstance(parts, list):
        if parts and set(map(type, parts)) <= {int, float}:  # one polygon, without its brackets
            parts = [parts]
        kept["segmentation"] = [_read_polygon(polygon) for polygon in parts]
    else:  # what is a text from here on is a reason
        kept["segmentation"] = read_run_lengths(parts) if isinstance(parts, dict) else None
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


def _frames(images, skipped):
    """List of image entries -> {id: (file_name, width, height)}; the others go to `skipped`.

    An id that stands for two different images stands for none: its annotations could be of either.
    """
    entries, doubtful = {}, set()
    for entry in images:
        image_id = whole(entry.get("id"), 0, _MAX_ID) if isinstance(entry, dict) else None
        if image_id is None:
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
    size = tuple(whole(entry.get(key), 1, _MAX_SIDE) for key in ("width", "height"))
    if None in size:
        return None
    file_name = entry.get("file_name")
    return (file_name if isinstance(file_name, str) else "", *size)


def _add_instance(instances, frames, entry, labels):
    """Enter one annotation; return why it or a part of it was left out, or None."""
    if not isinstance(entry, dict):
        return "annotation is not an object"
    image_id = whole(entry.get("image_id"), 0, _MAX_ID)
    if image_id not in frames:
        return "annotation of an image that is not listed, or was left out"
    label = labels.get(whole(entry.get("category_id"), 0, _MAX_ID))
    if label is None:
        return "category id of no class"
    if label == 0:
        return "category that is background: its area stays background"
    instance, defect = _read_instance(label, entry.get("segmentation"), *frames[image_id][1:])
    if instance is not None and len(instances[image_id]) == MAX_INSTANCES:
        return TOO_MANY
    if instance is not None:
        instances[image_id].append(instance)
    return defect


def _read_instance(label, segmentation, width, height):
    """(Instance or None, why it or a part of it is left out or None) of what _compact left."""
    if isinstance(segmentation, str | dict):
        if isinstance(segmentation, str):
            return None, segmentation
        mask, defect = encode_run_lengths(segmentation, width, height)
        return (None if defect else Instance(label, mask=mask)), defect
    if not isinstance(segmentation, list) or not segmentation:
        return None, "segmentation is not a list of polygons"
    defects = [polygon if isinstance(polygon, str) else _misplaced(polygon, width, height)
               for polygon in segmentation]
    good = tuple(polygon for polygon, defect in zip(segmentation, defects) if not defect)
    if sum(_length(polygon, width, height) for polygon in good) > _MAX_LENGTH:
        return None, f"outline longer than {_MAX_LENGTH} times the image"
    return (Instance(label, good) if good else None), next(filter(None, defects), None)


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
    if off <= 1e-12:
        return "polygon without area"
    shares = polygon.min() >= -_SHARE_MARGIN and polygon.max() <= _SHARE
    # In whole numbers it is the first pixel, as the borders of label maps have it.
    return _SHARES if shares and (polygon % 1).any() and min(width, height) > 1 else None


def _length(polygon, width, height):
    """How often a polygon's outline crosses the image: the rasteriser takes memory for each point
    on it."""
    points = polygon.reshape(-1, 2) / (width, height)
    return np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum()


def _defect(entry, reason):
    """A line for the list of what was left out; ids only where they are whole numbers."""
    entry = entry if isinstance(entry, dict) else {}
    ids = [whole(entry.get(key), 0, _MAX_ID) for key in ("image_id", "id")]
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


def _resized(encoded, size):
    """Run lengths of a mask -> those of a picture of `size` = (w, h), by the nearest pixels."""
    height, width = encoded["size"]
    if (width, height) == tuple(size):
        return encoded
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new)
                     for new, old in zip(size[::-1], (height, width)))
    return coco_mask.encode(np.asfortranarray(decode_mask(encoded)[rows][:, columns], np.uint8))


def label_map(photo, size):
    """Photo's annotations -> label map uint8 [h, w] for a picture of `size` = (w, h).

    Polygons and masks are scaled where the picture has another size than the annotation file says.
    Larger instances are painted first, so that a belt stays visible on a dress; ties keep their
    order. Raises PhotoError where not a single pixel is covered.
    """
    return label_map_and_overlap(photo, size)[0]


def label_map_and_overlap(photo, size):
    """(label map, see `label_map`; share of all instances' area that lies under another one)."""
    scale = np.array([size[0] / photo.width, size[1] / photo.height])
    masks = []
    for instance in photo.instances:
        polygons = [(polygon.reshape(-1, 2) * scale).ravel() for polygon in instance.polygons]
        encoded = encode_mask(polygons, *size) if polygons else _resized(instance.mask, size)
        masks.append((encoded, instance.label))
    labels = np.zeros((size[1], size[0]), np.uint8)
    areas = [int(coco_mask.area(encoded)) for encoded, _ in masks]
    for number in sorted(range(len(masks)), key=lambda number: -areas[number]):
        encoded, label = masks[number]
        labels[decode_mask(encoded)] = label
    if not any(areas):
        raise PhotoError("annotations cover no pixel of the photo")
    return labels, 1 - int(np.count_nonzero(labels)) / sum(areas)
