"""COCO annotations, read and checked, and polygons -> label maps.

Nothing unchecked reaches pycocotools: it ends the whole process on NaN coordinates and accepts an
odd number of coordinates in silence.
"""

import warnings
from dataclasses import dataclass, field

import numpy as np
from pycocotools import mask as coco_mask

from dnnlib.util import UserError, read_json

# ModaNet's classes, ids 1, 2, ... in this order. Annotations are matched by id: the names in the
# files have typing errors.
MODANET_CLASSES = ("bag", "belt", "boots", "footwear", "outer", "dress", "sunglasses", "pants",
                   "top", "shorts", "skirt", "headwear", "scarf/tie")

_MAX_ID = 2**53
_MAX_SIDE = 65536  # pixels; more is taken for a mistake
_MAX_OVERHANG = 4  # image sides that a coordinate may lie away from the frame


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

    Raises UserError where the file is missing, not JSON, or not of COCO's structure.
    """
    try:
        content = read_json(path)
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, deep nesting
        raise UserError(f"{path}: not valid JSON ({error})") from None
    content = content if isinstance(content, dict) else {}
    images, annotations = content.get("images"), content.get("annotations")
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise UserError(f"{path}: not COCO annotations; they need the lists 'images' and "
                        "'annotations'")
    result = Annotations()
    frames = {}
    for entry in images:
        _add_image(frames, entry, result.skipped_images)
    instances = {image_id: [] for image_id in frames}
    for entry in annotations:
        reason = _add_instance(instances, frames, entry, num_classes)
        if reason:
            result.defects.append(_defect(entry, reason))
    result.photos = {image_id: Photo(image_id, *frame, tuple(instances[image_id]))
                     for image_id, frame in frames.items()}
    return result


def _is_int(value, low, high):
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _add_image(frames, entry, skipped):
    """Enter {id: (file_name, width, height)}; a bad or repeated entry goes to `skipped`."""
    entry = entry if isinstance(entry, dict) else {}
    image_id, size = entry.get("id"), (entry.get("width"), entry.get("height"))
    if not _is_int(image_id, 0, _MAX_ID):
        skipped.append({"id": None, "reason": "image entry without a whole number as id"})
    elif image_id in frames:
        skipped.append({"id": image_id, "reason": "image id given twice (the first one counts)"})
    elif not all(_is_int(side, 1, _MAX_SIDE) for side in size):
        skipped.append({"id": image_id, "reason": "image entry without a valid width and height"})
    else:
        file_name = entry.get("file_name")
        frames[image_id] = (file_name if isinstance(file_name, str) else "", *size)


def _add_instance(instances, frames, entry, num_classes):
    """Enter one annotation; return why it or a part of it was left out, or None."""
    if not isinstance(entry, dict):
        return "annotation is not an object"
    image_id, label = entry.get("image_id"), entry.get("category_id")
    if not _is_int(image_id, 0, _MAX_ID) or image_id not in frames:
        return "annotation of an image that is not listed"
    if not _is_int(label, 1, num_classes):
        return f"category id outside 1..{num_classes}"
    polygons = entry.get("segmentation")
    if not isinstance(polygons, list) or not polygons:
        return "segmentation is not a list of polygons"
    defects = [_polygon_defect(polygon, *frames[image_id][1:]) for polygon in polygons]
    good = tuple(np.array(polygon, np.float64)
                 for polygon, defect in zip(polygons, defects) if not defect)
    if good:
        instances[image_id].append(Instance(label, good))
    return next(filter(None, defects), None)


def _polygon_defect(polygon, width, height):
    """What is wrong with a polygon, or None."""
    if not isinstance(polygon, list):
        return "polygon is not a list of numbers"
    if len(polygon) % 2:
        return "polygon with an odd number of coordinates"
    if len(polygon) < 6:
        return "polygon of fewer than three points"
    if not all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in polygon):
        return "polygon with a coordinate that is no number"
    if not all(-1e9 < x < 1e9 for x in polygon):  # nor is it so of NaN
        return "polygon with a coordinate that is not finite"
    for values, side in ((polygon[0::2], width), (polygon[1::2], height)):
        if min(values) < -_MAX_OVERHANG * side or max(values) > (1 + _MAX_OVERHANG) * side:
            return "polygon far outside the image"
    return None


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
    return labels, 1 - int(np.count_nonzero(labels)) / sum(areas) if any(areas) else 0.0
