"""Draw street-fashion photos with exact polygons, in ModaNet's layout, and with keypoints.

A photo depends only on (seed, number) and on how many photos show one person, in different poses.
Its polygons are the borders of what is visible on the canvas.
"""

import functools
import io
import itertools
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dataprep.drawing.figures import Canvas, Dresser, noise, random_figure
from dnnlib import util
from dnnlib.data import coco, keypoints
from dnnlib.process_pool import ordered_map

WIDTH, HEIGHT = 400, 600
_JPEG_QUALITY = 90
_VERSION = 2  # of the drawing: raise it when the same numbers give other pictures
_PARTS = ("images", "annotations")
PAIRS_FILE = Path("annotations") / "pairs.csv"
_MARK = ".drawn"  # file that marks a folder of drawings; files in other folders are never replaced
_MIN_PIXELS = 12  # a garment with fewer visible pixels is not annotated


@dataclass(frozen=True)
class Drawing:
    """What is drawn: photos, of which every `poses` in a row show one person. keypoints: whether
    they are written to a file."""

    num_images: int
    seed: int
    keypoints: bool = False
    poses: int = 1

    def info(self) -> dict:
        """Return the "info" of the annotations, which identifies the drawing."""
        people = {"keypoints": True, "poses": self.poses} if self.keypoints else {}
        return {"description": "drawn figures in ModaNet's layout", "version": _VERSION,
                "num_images": self.num_images, "seed": self.seed, **people}

    def is_in(self, raw: str | Path) -> bool:
        """Return whether `raw` contains all photos of exactly this drawing."""
        path = Path(raw) / coco.MODANET_FILE
        return path.exists() and util.read_json(path).get("info") == self.info()

    def pairs(self) -> list[tuple[str, str]]:
        """Return the names of all pairs of photos that show one person, in both directions."""
        numbers = range(self.num_images)
        persons = [numbers[first:first + self.poses]
                   for first in range(0, self.num_images, self.poses)]
        return [(_file_name(a), _file_name(b)) for person in persons
                for a, b in itertools.permutations(person, 2)]


def _file_name(number):
    return f"{number + 1:07d}.jpg"


def draw_all(raw: str | Path, drawing: Drawing, workers: int) -> Path:
    """Draw photos into `raw`/images and write `raw`/annotations; return the annotations' path. The
    same drawing is kept if it is there; another one is replaced. The result does not depend on
    `workers`. Raises UserError if another process is drawing, or `raw` contains other files."""
    raw = Path(raw)
    path = raw / coco.MODANET_FILE
    with util.lock_directory(raw, "drawing these photos"):
        if drawing.is_in(raw):
            return path
        if not (raw / _MARK).exists() and any((raw / part).exists() for part in _PARTS):
            raise util.UserError(f"{raw}: holds files that were not drawn; choose another --out")
        (raw / _MARK).touch()
        for part in _PARTS:  # including what a killed run left
            shutil.rmtree(raw / part, ignore_errors=True)
        (raw / "images").mkdir()
        content, people = _draw_images(raw / "images", drawing, workers)
        if drawing.keypoints:
            coco.write_keypoints(raw / coco.KEYPOINTS_FILE, keypoints.NAMES, keypoints.SKELETON,
                                 people, "drawn figures")
        if drawing.poses > 1:
            util.atomic_write(raw / PAIRS_FILE, "from,to\n" + "".join(
                f"{a},{b}\n" for a, b in drawing.pairs()))
        util.atomic_write(path, json.dumps({"info": drawing.info(), **content}))
    return path


def _draw_images(folder, drawing, workers):
    """Draw photos into `folder`; return the annotations without "info", and items for
    coco.write_keypoints."""
    images, annotations, people = [], [], []
    drawn = ordered_map(functools.partial(draw_photo, drawing.seed, poses=drawing.poses),
                        range(drawing.num_images), workers)
    bar = util.progress(drawn, total=drawing.num_images, desc="drawing", unit="photo")
    for image_id, (jpeg, instances, points) in enumerate(bar, 1):
        name = _file_name(image_id - 1)
        (folder / name).write_bytes(jpeg)
        people.append((image_id, name, (WIDTH, HEIGHT), points))
        images.append({"file_name": name, "width": WIDTH, "id": image_id, "license": 1,
                       "height": HEIGHT})
        annotations += [{"image_id": image_id, "id": len(annotations) + i, "iscrowd": 0, **part}
                        for i, part in enumerate(instances, 1)]
    categories = [{"supercategory": "fashion", "id": label, "name": name}
                  for label, name in enumerate(coco.MODANET_CLASSES, 1)]
    return {"images": images, "licenses": [], "annotations": annotations,
            "categories": categories}, people


def draw_photo(seed: int, number: int, poses: int = 1) -> tuple[bytes, list[dict], np.ndarray]:
    """Return a JPEG, [{"category_id", "segmentation", "area", "bbox"}] and keypoints [18, 3] of
    photo `number`; every `poses` photos in a row show one person."""
    rng = np.random.default_rng([seed, number // poses])
    pose_rng = np.random.default_rng([seed, number, 1]) if poses > 1 else None
    rgb, owner, labels, points = draw_figure(rng, pose_rng)
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    # Garments' numbers serve as labels, so that each garment is one annotation.
    parts = coco.label_annotations(owner, image_id=0, first_id=1)
    instances = [{"category_id": labels[part["category_id"] - 1],
                  **{key: part[key] for key in ("segmentation", "area", "bbox")}}
                 for part in parts if part["area"] >= _MIN_PIXELS]
    return buffer.getvalue(), instances, points


def draw_figure(rng: np.random.Generator, pose_rng: np.random.Generator | None = None
                ) -> tuple[np.ndarray, np.ndarray, list[int], np.ndarray]:
    """Return one picture, rgb uint8 [600, 400, 3], owner uint8 [600, 400], labels and keypoints.

    owner is n where garment n is visible, else 0; labels[n - 1] is that garment's class; keypoints
    are [18, 3] in pixels, otherwise as in dnnlib.data.keypoints. The pose and the noise are drawn
    from `pose_rng` (None: `rng`); the backdrop, the body, its clothes and the light from `rng`.
    """
    canvas = Canvas(_backdrop(rng))
    figure = random_figure(pose_rng or rng, WIDTH, HEIGHT, rng)
    labels = Dresser(canvas, figure, rng).dress()
    flags = np.full((len(keypoints.NAMES), 1), keypoints.VISIBLE)
    if coco.MODANET_CLASSES.index("sunglasses") + 1 in labels:
        flags[[keypoints.NAMES.index(f"{side}_eye") for side in ("left", "right")]] = \
            keypoints.COVERED
    light = 1 + rng.normal(0, 0.04) + 0.07 * noise(rng, (HEIGHT, WIDTH), (4, 3))
    picture = canvas.rgb * light[..., None] + (pose_rng or rng).normal(0, 3, (HEIGHT, WIDTH, 1))
    # Pillow draws at the middles of pixels.
    points = np.hstack([figure.keypoints() + 0.5, flags])
    return np.clip(picture, 0, 255).astype(np.uint8), canvas.owner, labels, points


def _backdrop(rng):
    """Return a pale wall above a slightly darker floor, uint8 [600, 400, 3]."""
    wall = rng.uniform(190, 235) + rng.normal(0, 5, 3)
    picture = np.tile(wall, (HEIGHT, WIDTH, 1))
    picture[int(HEIGHT * rng.uniform(0.74, 0.8)):] = wall * rng.uniform(0.72, 0.86)
    return np.clip(picture, 0, 255).astype(np.uint8)
