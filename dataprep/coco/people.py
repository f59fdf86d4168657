"""Read keypoints of people from COCO's JSON, and lists of pairs of photos that show one person.

COCO's coordinates are pixel numbers, so the middle of a pixel is at a whole number; here pixel i
covers i to i + 1, and its middle is half a pixel further. If a photo shows several people, the
largest counts.
"""

import collections
import csv
import dataclasses
import itertools
import posixpath
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dataprep.coco.annotations import Annotations, read_frames
from dataprep.coco.segmentations import MAX_ID, SHARE_MARGIN, Photo, parse_int
from dnnlib.data.keypoints import COVERED, UNKNOWN, VISIBLE
from dnnlib.util import UserError, one_line, read_json

NO_KEYPOINTS = "no keypoints"
_OTHER_SHAPE = "keypoints are of a photo of another shape"
_MAX_KEYPOINTS, _MAX_NAME = 255, 100
_HALF = 0.5  # of a pixel: from COCO's coordinates to ours


@dataclass
class KeypointFile:
    """The content of a keypoint file.

    Attributes:
        names: of the K keypoints.
        skeleton: pairs of keypoints that are joined, counted from 1.
        photos: {id: Photo}, with keypoints where a person has any.
        defects: [{"id": the image's, "annotation", "reason"}].
    """

    names: tuple
    skeleton: tuple
    photos: dict = field(default_factory=dict)
    skipped_images: list = field(default_factory=list)
    defects: list = field(default_factory=list)

    def join(self, labelled: Annotations | None) -> Annotations:
        """Return `labelled` with the keypoints of the same photos, matched by file name; for None,
        annotations without classes. Photos without keypoints, or whose keypoints belong to a photo
        of another shape, are moved to the skipped images."""
        if labelled is None:
            known = {number: photo for number, photo in self.photos.items()
                     if photo.keypoints is not None}
            rest = [{"id": number, "reason": NO_KEYPOINTS} for number in self.photos
                    if number not in known]
            return Annotations((), [], photos=known, defects=self.defects,
                               skipped_images=self.skipped_images + rest)
        of_name = {photo.file_name: photo for photo in self.photos.values()
                   if photo.keypoints is not None and photo.file_name}
        for number, photo in list(labelled.photos.items()):
            own = of_name.get(photo.file_name)
            if not photo.instances:  # left out later: it has no usable annotation
                continue
            if own is not None and _same_shape(photo, own):
                scale = photo.width / own.width, photo.height / own.height, 1
                labelled.photos[number] = dataclasses.replace(
                    photo, keypoints=own.keypoints * scale)
            else:
                del labelled.photos[number]
                labelled.skipped_images.append(
                    {"id": number, "reason": NO_KEYPOINTS if own is None else _OTHER_SHAPE})
        labelled.defects += self.defects
        return labelled


def _same_shape(a, b):
    """Return whether two Photos can be the same photo in two sizes, each rounded to pixels."""
    return abs(a.width * b.height - b.width * a.height) <= max(a.width + a.height,
                                                               b.width + b.height)


def read_keypoint_file(path: str | Path) -> KeypointFile:
    """Read a COCO keypoint file. Raises UserError if it is not one, no person in it has a keypoint,
    or all keypoints are in shares of the image."""
    content = read_json(path)
    content = content if isinstance(content, dict) else {}
    images, annotations = content.get("images"), content.get("annotations")
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise UserError(f"{path}: not COCO keypoints; they need the lists 'images' and "
                        "'annotations'")
    result = KeypointFile(*_read_names(path, content.get("categories")))
    frames = read_frames(images, result.skipped_images)
    largest = {}  # {frame: (size of the person, points)}; several ids may name one photo
    frame_of = {image_id: frame if frame[0] else image_id for image_id, frame in frames.items()}
    for entry in annotations:
        entry = entry if isinstance(entry, dict) else {}
        image_id = parse_int(entry.get("image_id"), 0, MAX_ID)
        if "keypoints" not in entry or image_id not in frames:
            continue
        points = _read_points(entry["keypoints"], len(result.names), frames[image_id][1:])
        if points is None:
            result.defects.append({
                "id": image_id, "annotation": parse_int(entry.get("id"), 0, MAX_ID),
                "reason": f"keypoints that are not x, y, 0 to 2 for each of {len(result.names)}"})
        elif points[:, 2].any():
            candidate = (_person_size(entry.get("bbox"), points), points)
            frame = frame_of[image_id]
            largest[frame] = max(largest.get(frame, candidate), candidate,
                                 key=lambda pair: pair[0])
    if not largest:
        reason = f": {result.defects[0]['reason']}" if result.defects else ""
        raise UserError(f"{path}: no person has a keypoint{reason}")
    if max(points[:, :2].max() for _, points in largest.values()) <= 1 + SHARE_MARGIN + _HALF:
        raise UserError(f"{path}: its keypoints are within 0..1, so they are in shares of the "
                        "image; expected pixels: multiply x by the width, y by the height")
    result.photos = {image_id: Photo(image_id, *frame,
                                     keypoints=largest.get(frame_of[image_id], (0, None))[1])
                     for image_id, frame in frames.items()}
    return result


def _read_names(path, categories):
    """Return (names, skeleton) of the categories that have keypoints."""
    categories = categories if isinstance(categories, list) else []
    entries = [entry for entry in categories if isinstance(entry, dict) and entry.get("keypoints")]
    if not entries:
        raise UserError(f"{path}: none of its categories lists 'keypoints'")
    names, skeleton = entries[0]["keypoints"], entries[0].get("skeleton") or []
    if any(entry["keypoints"] != names for entry in entries):
        raise UserError(f"{path}: categories of different keypoints; expected one list")
    if not isinstance(names, list) or not 1 <= len(names) <= _MAX_KEYPOINTS \
            or not all(isinstance(name, str) and name.isprintable() and 0 < len(name) <= _MAX_NAME
                       for name in names) or len(set(names)) < len(names):
        raise UserError(f"{path}: 'keypoints' of a category: expected 1 to {_MAX_KEYPOINTS} names, "
                        "each once")
    joined = [tuple(parse_int(number, 1, len(names)) for number in pair)
              if isinstance(pair, list) and len(pair) == 2 else (None,)
              for pair in (skeleton if isinstance(skeleton, list) else [None])]
    if any(None in pair for pair in joined):
        raise UserError(f"{path}: 'skeleton' of a category: expected pairs of numbers from 1 to "
                        f"{len(names)}")
    return tuple(names), tuple(joined)


def _read_points(values, count, size):
    """Return COCO's numbers as float64 [K, 3], with points outside the picture marked as unknown;
    None if they are not keypoints."""
    if not isinstance(values, list) or len(values) != 3 * count \
            or not set(map(type, values)) <= {int, float}:
        return None
    try:
        points = np.array(values, np.float64).reshape(-1, 3)
    except OverflowError:
        return None
    if not np.isfinite(points).all() or not np.isin(points[:, 2],
                                                    (UNKNOWN, COVERED, VISIBLE)).all():
        return None
    points[:, :2] += _HALF
    inside = ((points[:, :2] >= 0) & (points[:, :2] <= size)).all(axis=1)
    return points * inside[:, None] * (points[:, 2:] > UNKNOWN)


def _person_size(box, points):
    """Return the area of a person's box, or else of the box around the known points."""
    if isinstance(box, list) and len(box) == 4 and set(map(type, box)) <= {int, float} \
            and all(abs(number) <= MAX_ID for number in box):  # false for NaN
        return box[2] * box[3]
    known = points[points[:, 2] > UNKNOWN, :2]
    return float(np.prod(np.ptp(known, axis=0)))


# Pairs

def read_pair_list(path: str | Path) -> list[tuple[str, str]]:
    """Return the pairs (from, to) of file names in a CSV file with these two columns; other columns
    are ignored. Raises UserError if they are missing."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if not {"from", "to"} <= set(rows.fieldnames or ()):
                raise UserError(f"{path}: expected a line 'from,to' and then pairs of file names")
            return [(row["from"], row["to"]) for row in rows if row["from"] and row["to"]]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV file ({one_line(error)})") from None


def resolve_pairs(pairs: Iterable[tuple[str, str]], names: dict) -> list[tuple]:
    """Return pairs of file names, without repeats, as pairs of ids, given {file name: id}; a photo
    that is not in it becomes (name,). `./a.jpg` and `b\\a.jpg` are understood. A name without
    folders means the only photo of that name in any folder."""
    of_name = {_plain(name): image_id for name, image_id in names.items()}
    same_name = collections.defaultdict(set)
    for name, image_id in of_name.items():
        same_name[name.rpartition("/")[2]].add(image_id)
    of_name = {name: min(ids) for name, ids in same_name.items() if len(ids) == 1} | of_name
    found = (tuple(of_name.get(_plain(name), (name,)) for name in pair) for pair in pairs)
    return list(dict.fromkeys(pair for pair in found if pair[0] != pair[1]))


def _plain(name):
    """Return a path with slashes, without ./ at its start, in Unicode's form NFC."""
    return unicodedata.normalize("NFC", posixpath.normpath(name.replace("\\", "/")))


def number_persons(ids: Sequence, links: Sequence[tuple]) -> dict:
    """Return {id: number of the person}. Photos joined by links show one person, also if they are
    joined through other photos, which may themselves be missing."""
    parent = {image_id: image_id for image_id in (*ids, *itertools.chain(*links))}

    def root(image_id: int | str) -> int | str:
        while parent[image_id] != image_id:
            parent[image_id] = image_id = parent[parent[image_id]]
        return image_id

    for a, b in links:
        parent[root(a)] = root(b)
    numbers = {}
    return {image_id: numbers.setdefault(root(image_id), len(numbers)) for image_id in ids}
