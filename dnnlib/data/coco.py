"""Write label maps as COCO annotations: exact polygons along pixel borders, as a stream."""

import itertools
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from dnnlib.util import atomic_path, atomic_write

# ModaNet's classes, ids 1, 2, ... in this order; the names in its files have typing errors.
MODANET_CLASSES = ("bag", "belt", "boots", "footwear", "outer", "dress", "sunglasses", "pants",
                   "top", "shorts", "skirt", "headwear", "scarf/tie")
KEYPOINTS_FILE = Path("annotations") / "person_keypoints.json"
MODANET_FILE = Path("annotations") / "modanet2018_instances_train.json"
OWN_FILE = Path("annotations") / "instances.json"  # of all other classes

_RIGHT, _DOWN, _LEFT, _UP = range(4)  # along a border, clockwise: the inside is on the right


def mask_polygons(mask: np.ndarray) -> list[list[int]]:
    """Return polygons [[x0, y0, x1, y1, ...], ...] whose union is exactly a bool mask [H, W].

    Corners lie on pixel corners, so COCO's rasteriser reproduces the mask exactly. A COCO polygon
    cannot have a hole: a mask with holes is cut along rows, so that each hole is open somewhere.
    """
    mask = np.asarray(mask, bool)
    loops = _border_loops(mask)
    # Holes run the other way, so their signed area is negative.
    holes = [loop for loop in loops
             if loop[:, 0] @ np.roll(loop[:, 1], -1) < loop[:, 1] @ np.roll(loop[:, 0], -1)]
    if not holes:
        return [loop.reshape(-1).tolist() for loop in loops]
    rows = [0, *_cutting_rows(holes), len(mask)]
    return [(loop + (0, top)).reshape(-1).tolist() for top, end in itertools.pairwise(rows)
            for loop in _border_loops(mask[top:end])]


def _cutting_rows(holes):
    """Return the fewest rows such that one goes through, or along the border of, every hole: in
    order, the last row of each hole that no earlier row has opened."""
    spans = sorted((int(hole[:, 1].max()), int(hole[:, 1].min())) for hole in holes)
    rows = []
    for last, first in spans:
        if not rows or first > rows[-1]:
            rows.append(last)
    return rows


def label_annotations(label_map: np.ndarray, image_id: int, first_id: int) -> list[dict]:
    """Return the annotations of a label map [H, W]: one per class, ids from `first_id` upwards,
    with bbox [x, y, width, height] and area in pixels; category_id is the label."""
    annotations = []
    for label in np.unique(label_map[label_map > 0]).tolist():
        mask = label_map == label
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        x, y = int(columns[0]), int(rows[0])
        box = mask[y:rows[-1] + 1, x:columns[-1] + 1]
        polygons = [(np.array(polygon).reshape(-1, 2) + (x, y)).reshape(-1).tolist()
                    for polygon in mask_polygons(box)]
        annotations.append({
            "id": first_id + len(annotations), "image_id": image_id, "category_id": label,
            "segmentation": polygons, "bbox": [x, y, box.shape[1], box.shape[0]],
            "area": int(box.sum()), "iscrowd": 0})
    return annotations


def annotations_path(folder: str | Path, classes: Sequence[str]) -> Path:
    """Return the path of the COCO file of a folder of pictures with these classes."""
    return Path(folder) / (MODANET_FILE if tuple(classes) == MODANET_CLASSES else OWN_FILE)


def find_annotations(folder: str | Path) -> Path:
    """Return the COCO file of a folder of pictures, whatever its classes are; it may be missing."""
    path = Path(folder) / MODANET_FILE
    return path if path.exists() else Path(folder) / OWN_FILE


def rename_annotations(folder: str | Path, classes: Sequence[str]) -> None:
    """Give a folder's COCO file its present name: earlier versions used one name for all classes.
    """
    there, path = find_annotations(folder), annotations_path(folder, classes)
    if there != path and there.exists():
        os.replace(there, path)


def write_coco(path: str | Path, classes: Sequence[str], items: Iterable[tuple],
               description: str) -> None:
    """Write a COCO file from an iterable of (image_id, file_name, label map [H, W]). Only the list
    of images is kept in memory."""
    kind = "fashion" if tuple(classes) == MODANET_CLASSES else ""
    images, next_id = [], 1
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        head = {"info": {"description": description}, "licenses": [],
                "categories": [{"id": label, "name": name, "supercategory": kind}
                               for label, name in enumerate(classes, 1)]}
        file.write(json.dumps(head, ensure_ascii=False)[:-1] + ',\n"annotations": [')
        # Write annotations one by one, then the list of images.
        for image_id, file_name, label_map in items:
            height, width = label_map.shape
            images.append({"id": image_id, "width": width, "height": height,
                           "file_name": file_name})
            for annotation in label_annotations(label_map, image_id, next_id):
                file.write((",\n" if next_id > 1 else "\n") + json.dumps(annotation))
                next_id += 1
        file.write('],\n"images": ' + json.dumps(images) + "}\n")


def write_keypoints(path: str | Path, names: Sequence[str], skeleton: Sequence[Sequence[int]],
                    items: Iterable[tuple], description: str) -> None:
    """Write a COCO keypoint file of one person per image. items: (image_id, file_name, (width,
    height), points [K, 3]), points as in dnnlib.data.keypoints but in pixels. COCO's coordinates
    are pixel numbers, which are smaller by half a pixel."""
    images, annotations = [], []
    for image_id, file_name, (width, height), points in items:
        images.append({"id": image_id, "width": width, "height": height, "file_name": file_name})
        points = np.asarray(points, np.float64)
        known = points[:, 2] > 0
        if not known.any():
            continue
        # The box around the known points; COCO's triples, zeros for the others.
        low, high = points[known, :2].min(axis=0), points[known, :2].max(axis=0)
        box = [round(float(value), 2) for value in (*low, *(high - low))]
        flat = [value for (x, y, flag), is_known in zip(points.tolist(), known) for value in (
            (round(x - 0.5, 4), round(y - 0.5, 4), int(flag)) if is_known else (0, 0, 0))]
        annotations.append({
            "id": len(annotations) + 1, "image_id": image_id, "category_id": 1, "iscrowd": 0,
            "keypoints": flat, "num_keypoints": int(known.sum()), "bbox": box,
            "area": round(box[2] * box[3], 2)})
    category = {"id": 1, "name": "person", "supercategory": "person", "keypoints": list(names),
                "skeleton": list(map(list, skeleton))}
    atomic_write(path, json.dumps({"info": {"description": description}, "licenses": [],
                                   "categories": [category], "annotations": annotations,
                                   "images": images}) + "\n")


def _border_loops(mask):
    """Return the closed borders of a mask [H, W] as int arrays [n, 2] of corners x, y: clockwise,
    for holes the other way. Pixels that only touch at a corner are separate: the walk prefers the
    right turn, which stays with the same pixel."""
    starts, ends, directions = _border_segments(mask)
    if not len(starts):
        return []
    # Find the segment that follows each one: it begins where that one ends.
    width = mask.shape[1] + 1
    begins = np.full((4, (mask.shape[0] + 1) * width), -1)
    begins[directions, starts[:, 1] * width + starts[:, 0]] = np.arange(len(starts))
    corner = ends[:, 1] * width + ends[:, 0]
    right_turn, left_turn = begins[(directions + 1) % 4, corner], begins[directions - 1, corner]
    following = np.where(right_turn >= 0, right_turn, left_turn).tolist()
    # Walk along the borders.
    loops, visited = [], [False] * len(following)
    for first in range(len(following)):
        loop, segment = [], first
        while not visited[segment]:
            visited[segment] = True
            loop.append(segment)
            segment = following[segment]
        if loop:
            loops.append(starts[loop])
    return loops


def _border_segments(mask):
    """Return the border's straight pieces: starts [n, 2], ends [n, 2] as x, y, directions [n]."""
    padded, pieces = np.pad(mask, 1), []
    outside = {_RIGHT: padded[:-2, 1:-1], _DOWN: padded[1:-1, 2:],
               _LEFT: padded[2:, 1:-1], _UP: padded[1:-1, :-2]}  # the neighbours of each pixel
    for direction, neighbours in outside.items():
        border = mask & ~neighbours
        across = direction in (_RIGHT, _LEFT)
        rows = np.pad(border if across else border.T, ((0, 0), (1, 1))).astype(np.int8)
        line, low = np.nonzero(np.diff(rows) == 1)  # runs of True from low to high along a line
        high = np.nonzero(np.diff(rows) == -1)[1]
        line = line + (direction in (_LEFT, _DOWN))  # the far side of the pixel
        points = [np.stack([at, line] if across else [line, at], 1) for at in (low, high)]
        start, end = points if direction in (_RIGHT, _DOWN) else points[::-1]
        pieces.append((start, end, np.full(len(line), direction)))
    return tuple(np.concatenate(part) for part in zip(*pieces))
