"""Read, place and draw keypoints of people in a data set's images; read pairs of images that show
one person.

Points are float32 [..., K, 3]: x, y and COCO's flag: 0 unknown (then x and y are 0), 1 known but
covered, 2 visible. In a data set, x and y are shares of the square image's side, from its left and
upper border, and thus valid at every level: pixel i of R covers i / R to (i + 1) / R.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from dnnlib.data import channels, dataset, pyramid
from dnnlib.data.tfrecords import AGAIN
from dnnlib.util import UserError

# The eighteen keypoints of OpenPose's COCO model, in its order; and the pairs that are joined,
# counted from 1 as in COCO.
NAMES = ("nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder",
         "left_elbow", "left_wrist", "right_hip", "right_knee", "right_ankle", "left_hip",
         "left_knee", "left_ankle", "right_eye", "left_eye", "right_ear", "left_ear")
SKELETON = ((2, 3), (3, 4), (4, 5), (2, 6), (6, 7), (7, 8), (2, 9), (9, 10), (10, 11), (2, 12),
            (12, 13), (13, 14), (2, 1), (1, 15), (15, 17), (1, 16), (16, 18))
UNKNOWN, COVERED, VISIBLE = 0, 1, 2


# Geometry

def place(points: np.ndarray, size: Sequence[int], resolution: int, fit: str) -> np.ndarray:
    """Return points [K, 3] of a photo of `size` (width, height), in its pixels (pixel i covers i to
    i + 1), as a data set stores them for the photo that pyramid.fit_square made square: float32
    [K, 3]. Points outside the image become unknown."""
    points, size = np.asarray(points, np.float64), np.asarray(size)
    if fit == "crop":
        side = size.min()
        shares = (points[:, :2] - (size - side) / 2) / side
    else:
        left, top, right, bottom = pyramid.content_box(size.tolist(), resolution, fit)
        inner = points[:, :2] / size * (right - left, bottom - top)
        shares = (inner + (left, top)) / resolution
    known = (points[:, 2:] > UNKNOWN) & ((shares >= 0) & (shares <= 1)).all(axis=1, keepdims=True)
    return np.where(known, np.hstack([shares, points[:, 2:]]), 0).astype(np.float32)


def draw_skeleton(rgb: np.ndarray, points: np.ndarray,
                  skeleton: Sequence[Sequence[int]]) -> np.ndarray:
    """Return a picture uint8 [R, R, 3] with its points [K, 3] and the lines of the skeleton."""
    picture = Image.fromarray(np.ascontiguousarray(rgb))
    pen, side = ImageDraw.Draw(picture), rgb.shape[0]
    places = [tuple((point[:2] * side - 0.5).tolist()) if point[2] > UNKNOWN else None
              for point in points]
    # Draw lines in the colours of their second points, then the points.
    colours = channels.palette(len(points))[1:].tolist()
    for first, second in skeleton:
        if places[first - 1] and places[second - 1]:
            pen.line([places[first - 1], places[second - 1]], tuple(colours[second - 1]),
                     max(side // 96, 1))
    radius = side / 96
    for spot, colour in zip(places, colours):
        if spot:
            x, y = spot
            pen.ellipse([x - radius, y - radius, x + radius, y + radius], tuple(colour))
    return np.asarray(picture)


def skeletons(points: np.ndarray, side: int, skeleton: Sequence[Sequence[int]]) -> np.ndarray:
    """Return points [N, K, 3] and the lines of the skeleton on black, uint8 [N, side, side, 3]."""
    black = np.zeros((side, side, channels.NUM_COLOURS), np.uint8)
    return np.stack([draw_skeleton(black, one, skeleton) for one in points])


# Files of a data set, beside the records

def keypoints_path(directory: str | Path, split: str) -> Path:
    """Return the path of a split's keypoints."""
    return Path(directory) / split / f"{split}-keypoints.npy"


def pairs_path(directory: str | Path, split: str) -> Path:
    """Return the path of a split's pairs."""
    return Path(directory) / split / f"{split}-pairs.npy"


def read_keypoints(directory: str | Path, split: str) -> np.ndarray:
    """Return the keypoints of a split, float32 [N, K, 3], in its records' order; K is 0 if the data
    set has none. Raises UserError if the file is missing, damaged or of another data set."""
    info = dataset.open_dataset(directory)
    shape = info.splits.get(split, 0), len(info.keypoints), 3
    if not all(shape):
        return np.zeros(shape, np.float32)
    path = keypoints_path(directory, split)
    points = dataset.read_array(path, "keypoints")
    known = points[..., 2:] > UNKNOWN if points.shape == shape else None
    if known is None or points.dtype != np.float32 or not np.isfinite(points).all() \
            or not np.isin(points[..., 2], (UNKNOWN, COVERED, VISIBLE)).all() \
            or points.min() < 0 or points[..., :2].max() > 1 or (points * ~known).any():
        raise UserError(f"{path}: not the keypoints of {shape[0]} images, [x, y, flag] of each of "
                        f"{shape[1]}, x and y from 0 to 1; {AGAIN}")
    return points


def read_pairs(directory: str | Path, split: str) -> np.ndarray:
    """Return the pairs of images of a split that show one person: int32 [P, 2], numbers of records
    from and to. P is 0 if the data set has no pairs. Raises UserError as `read_keypoints` does."""
    info = dataset.open_dataset(directory)
    count = info.pairs.get(split, 0)
    if not count:
        return np.zeros((0, 2), np.int32)
    path = pairs_path(directory, split)
    pairs = dataset.read_array(path, "pairs")
    if pairs.dtype != np.int32 or pairs.shape != (count, 2) or pairs.min() < 0 \
            or pairs.max() >= info.splits[split] or (pairs[:, 0] == pairs[:, 1]).any():
        raise UserError(f"{path}: not {count} pairs of the {info.splits[split]} images; {AGAIN}")
    return pairs
