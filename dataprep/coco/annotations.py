"""Read and check COCO annotation files; bad items are left out and listed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dataprep.coco import segmentations
from dataprep.coco.categories import NOT_CHOSEN, check_used, read_categories
from dataprep.coco.segmentations import MAX_ID, Photo, parse_int
from dnnlib.data.coco import MODANET_CLASSES
from dnnlib.util import UserError, read_json

_MAX_SIDE = 65536  # pixels; a larger side is taken for a mistake
MAX_INSTANCES = 1000  # of one image; each takes time and memory of the image's size
TOO_MANY = f"more than {MAX_INSTANCES} annotations of one image"
# Polygons may be in per cent if none has a coordinate above _PERCENT, in images of _MIN_SIDE pixels
# or more.
_PERCENT, _MIN_SIDE = 100.5, 200


@dataclass
class Annotations:
    """The content of an annotation file."""

    classes: tuple  # names of the labels 1..C
    notes: list  # lines to print
    renumbered: bool = False  # category ids are not the labels (earlier versions took them as such)
    photos: dict = field(default_factory=dict)  # {id: Photo}
    skipped_images: list = field(default_factory=list)  # [{"id", "reason"}]
    # [{"id": the image's, "annotation", "reason"}] of what is left out, wholly or in part.
    defects: list = field(default_factory=list)


def load_annotations(path: str | Path, own: bool = False,
                     only: Sequence[str] | None = None) -> Annotations:
    """Read a COCO file. Its categories are ModaNet's, matched by name, or any if `own`; `only`
    names those that become classes (None: all). The annotations' ids and `iscrowd` are ignored,
    because a label map has no instances. Raises UserError if this is not a COCO file, its
    categories are unusable, or its polygons are in shares of the image instead of pixels."""
    content = read_json(path, object_hook=_compact)
    content = content if isinstance(content, dict) else {}
    images, annotations = content.get("images"), content.get("annotations")
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise UserError(f"{path}: not COCO annotations; they need the lists 'images' and "
                        "'annotations'")
    categories = read_categories(path, content.get("categories"), MODANET_CLASSES, own)
    if only is not None:
        categories = categories.restrict(only)
    check_used(path, categories.labels, {parse_int(entry.get("category_id"), 0, MAX_ID)
        for entry in annotations if isinstance(entry, dict)} - {None})
    renumbered = any(number != label for number, label in categories.labels.items())
    result = Annotations(categories.classes, list(categories.notes), renumbered)
    frames = read_frames(images, result.skipped_images)
    instances = {image_id: [] for image_id in frames}
    for entry in annotations:
        reason = _add_instance(instances, frames, entry, categories.labels)
        if reason:  # ids only if they are whole numbers
            entry = entry if isinstance(entry, dict) else {}
            ids = [parse_int(entry.get(key), 0, MAX_ID) for key in ("image_id", "id")]
            result.defects.append({"id": ids[0], "annotation": ids[1], "reason": reason})
    result.photos = {image_id: Photo(image_id, *frame, tuple(instances[image_id]))
                     for image_id, frame in frames.items()}
    _check_all(path, result)
    return result


def _compact(entry):
    """Keep what is used of an annotation while JSON is parsed, with polygons and run lengths as
    arrays: as Python numbers they would take four times the memory."""
    if "segmentation" not in entry:
        return entry
    return {**{key: entry.get(key) for key in ("id", "image_id", "category_id")},
            "segmentation": segmentations.read_segmentation(entry["segmentation"])}


def _check_all(path, result):
    """Add notes on doubts about the annotations as a whole. Raise UserError if all polygons are in
    shares of the image."""
    photos = [photo for photo in result.photos.values() if photo.instances]
    parts = [part for photo in photos for part in photo.instances]
    largest = max((polygon.max() for part in parts for polygon in part.polygons), default=0)
    if largest <= 1 + segmentations.SHARE_MARGIN \
            and any(entry["reason"] == segmentations.SHARES for entry in result.defects):
        raise UserError(f"{path}: its polygons are within 0..1, so they are in shares of the "
                        "image; expected pixels: multiply x by the width, y by the height")
    smallest = min((max(photo.width, photo.height) for photo in photos), default=0)
    if 0 < largest <= _PERCENT and smallest >= _MIN_SIDE:
        result.notes.append(
            f"warning: {path}: no polygon reaches beyond 100 in images of {smallest} pixels or "
            "more; if they are in per cent, every map is wrong: pixels are expected")


def read_frames(images: list, skipped: list[dict]) -> dict:
    """Return {id: (file_name, width, height)} of the usable image entries; list the others in
    `skipped`. An id given to two different images is unusable: its annotations could belong to
    either."""
    entries, reasons = {}, {}
    for entry in images:
        image_id = parse_int(entry.get("id"), 0, MAX_ID) if isinstance(entry, dict) else None
        if image_id is None:
            skipped.append({"id": None, "reason": "image entry without a whole number as id"})
            continue
        size = tuple(parse_int(entry.get(key), 1, _MAX_SIDE) for key in ("width", "height"))
        name = entry.get("file_name")
        frame = None if None in size else (name if isinstance(name, str) else "", *size)
        if entries.setdefault(image_id, frame) != frame:
            reasons[image_id] = "image id given to different images"
    for image_id, frame in entries.items():
        if frame is None:
            reasons.setdefault(image_id, "image entry without a valid width and height")
    skipped += [{"id": image_id, "reason": reason} for image_id, reason in sorted(reasons.items())]
    return {image_id: frame for image_id, frame in entries.items() if image_id not in reasons}


def _add_instance(instances, frames, entry, labels):
    """Add one annotation; return why it, or a part of it, was left out, or None."""
    if not isinstance(entry, dict):
        return "annotation is not an object"
    image_id = parse_int(entry.get("image_id"), 0, MAX_ID)
    if image_id not in frames:
        return "annotation of an image that is not listed, or was left out"
    label = labels.get(parse_int(entry.get("category_id"), 0, MAX_ID))
    if label is None:
        return "category id of no class"
    if label == NOT_CHOSEN:
        return None
    if label == 0:
        return "category that is background: its area stays background"
    instance, defect = segmentations.make_instance(label, entry.get("segmentation"),
                                                   *frames[image_id][1:])
    if instance is not None and len(instances[image_id]) == MAX_INSTANCES:
        return TOO_MANY
    if instance is not None:
        instances[image_id].append(instance)
    return defect
