"""COCO annotations, read and checked, and polygons -> label maps.

Nothing unchecked reaches pycocotools: it ends the whole process on NaN coordinates and accepts an odd number of
coordinates in silence.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from pycocotools import mask as coco_mask

from dnnlib.util import UserError, read_json

# ModaNet's classes, ids 1, 2, ... in this order. Annotations are matched by id: the names in the
# files have typing errors.
MODANET_CLASSES = ("bag", "belt", "boots", "footwear", "outer", "dress", "sunglasses", "pants",
                   "top", "shorts", "skirt", "headwear", "scarf/tie")

_MAX_SIDE = 65536  # pixels; larger images are taken for a mistake
_MAX_OVERHANG = 4  # a coordinate may lie this many image sides away from the frame, not more


@dataclass(frozen=True)
class Instance:
    """One annotated garment: label 1..C and its polygons, each float64 [2n] = x0, y0, x1, y1, ..."""

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
    """Photos by id, and what was left out: [{"id", "reason"}] of images, {reason: count} of annotations."""

    photos: dict = field(default_factory=dict)
    skipped_images: list = field(default_factory=list)
    skipped_annotations: dict = field(default_factory=dict)


def load_annotations(path, num_classes):
    """Read a COCO file whose category ids are 1..num_classes. Bad items are left out and counted.

    Raises UserError where the file is missing, no JSON, or not of COCO's structure.
    """
    content = read_json(path)
    lists = [content.get(key) if isinstance(content, dict) else None for key in ("images", "annotations")]
    if not all(isinstance(value, list) for value in lists):
        raise UserError(f"{path}: not COCO annotations: it needs the lists 'images' and 'annotations'")
    result = Annotations()
    images = {}
    for entry in lists[0]:
        _add_image(images, entry, result.skipped_images)
    instances = {image_id: [] for image_id in images}
    for entry in lists[1]:
        reason = _add_instance(instances, images, entry, num_classes)
        if reason:
            result.skipped_annotations[reason] = result.skipped_annotations.get(reason, 0) + 1
    for image_id, (file_name, width, height) in images.items():
        result.photos[image_id] = Photo(image_id, file_name, width, height, tuple(instances[image_id]))
    return result


def _is_int(value, low, high):
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _add_image(images, entry, skipped):
    """Enter {id: (file_name, width, height)}; a bad or repeated entry goes to `skipped`."""
    entry = entry if isinstance(entry, dict) else {}
    image_id, size = entry.get("id"), (entry.get("width"), entry.get("height"))
    if not _is_int(image_id, 0, 2**53):
        skipped.append({"id": None, "reason": "image entry without a whole number as id"})
    elif image_id in images:
        skipped.append({"id": image_id, "reason": "image id given twice; the first entry counts"})
    elif not all(_is_int(side, 1, _MAX_SIDE) for side in size):
        skipped.append({"id": image_id, "reason": "image entry without a valid width and height"})
    else:
        file_name = entry.get("file_name")
        images[image_id] = (file_name if isinstance(file_name, str) else "", *size)


def _add_instance(instances, images, entry, num_classes):
    """Enter one annotation; return the reason where it is left out, else None."""
    if not isinstance(entry, dict):
        return "not an object"
    image_id, label = entry.get("image_id"), entry.get("category_id")
    if not _is_int(image_id, 0, 2**53) or image_id not in images:
        return "of an image that is not listed"
    if not _is_int(label, 1, num_classes):
        return f"category id outside 1..{num_classes}"
    polygons = entry.get("segmentation")
    if not isinstance(polygons, list):
        return "segmentation is not a list of polygons"
    checked = [_check_polygon(polygon, *images[image_id][1:]) for polygon in polygons]
    reasons = [item for item in checked if isinstance(item, str)]
    good = tuple(item for item in checked if not isinstance(item, str))
    if good:
        instances[image_id].append(Instance(label, good))
    return reasons[0] if reasons else None if good else "no polygon"


def _check_polygon(polygon, width, height):
    """float64 [2n] of a sound polygon, else the reason against it (str)."""
    if not isinstance(polygon, list):
        return "polygon is not a list of numbers"
    if len(polygon) % 2:
        return "polygon with an odd number of coordinates"
    if len(polygon) < 6:
        return "polygon of fewer than three points"
    if not all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in polygon):
        return "polygon with a coordinate that is no number"
    if not all(abs(x) < 1e9 and math.isfinite(x) for x in polygon):
        return "polygon with a coordinate that is not finite"
    points = np.array(polygon, np.float64).reshape(-1, 2)
    sides = np.array([width, height])
    if (points < -_MAX_OVERHANG * sides).any() or (points > (1 + _MAX_OVERHANG) * sides).any():
        return "polygon far outside the image"
    return points.reshape(-1)


def instance_mask(polygons, width, height):
    """Union of polygons (checked, pixels) -> bool [height, width], by COCO's own rasteriser."""
    encoded = coco_mask.frPyObjects([p.tolist() for p in polygons], height, width)
    return coco_mask.decode(coco_mask.merge(encoded)).astype(bool)


def label_map(instances, width, height, size):
    """Label map uint8 [h, w] for a photo of `size` = (w, h) from polygons in an image of width x height.

    Larger instances are painted first, so that a belt stays visible on a dress; ties keep the file's order.
    """
    scale = np.array([size[0] / width, size[1] / height])
    masks = []
    for instance in instances:
        polygons = [(p.reshape(-1, 2) * scale).reshape(-1) for p in instance.polygons]
        masks.append((instance_mask(polygons, *size), instance.label))
    labels = np.zeros((size[1], size[0]), np.uint8)
    for mask, label in sorted(masks, key=lambda pair: -int(pair[0].sum())):
        labels[mask] = label
    return labels
