"""Drawn street-fashion photos with exact polygons, in ModaNet's layout.

A photo is a function of (seed, number). Its polygons are the borders of what shows on the canvas.
"""

import functools
import io
import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from dataprep.drawing.figures import Canvas, Dresser, noise, random_figure
from dnnlib import util
from dnnlib.data import coco
from dnnlib.process_pool import ordered_map

WIDTH, HEIGHT = 400, 600
_JPEG_QUALITY = 90
_VERSION = 2  # of the drawing: raise it when the same numbers give other pictures
_PARTS = ("images", "annotations")
_MARK = ".drawn"  # file that tells an unfinished drawing from other people's photos
_MIN_PIXELS = 12  # smaller remains of a garment are not annotated


def _info(num_images, seed):
    """Return what the annotations say of the drawing that they belong to."""
    return {"description": "drawn figures in ModaNet's layout", "version": _VERSION,
            "num_images": num_images, "seed": seed}


def is_drawn(raw: str | Path, num_images: int, seed: int) -> bool:
    """Return whether `raw` holds all photos of this very drawing."""
    path = Path(raw) / coco.MODANET_FILE
    return path.exists() and util.read_json(path).get("info") == _info(num_images, seed)


def draw_all(raw: str | Path, num_images: int, seed: int, workers: int) -> Path:
    """Draw photos into `raw`/images and write `raw`/annotations; return the annotations' path. A
    drawing with the same arguments is kept; another one is replaced. The result does not depend on
    `workers`. Raises UserError if another process is drawing, or `raw` holds other files."""
    raw = Path(raw)
    path, info = raw / coco.MODANET_FILE, _info(num_images, seed)
    with util.only_process(raw, "drawing these photos"):
        if is_drawn(raw, num_images, seed):
            return path
        if not (raw / _MARK).exists() and any((raw / part).exists() for part in _PARTS):
            raise util.UserError(f"{raw}: holds files that were not drawn; choose another --out")
        (raw / _MARK).touch()
        for part in _PARTS:  # with all that a killed run left there
            shutil.rmtree(raw / part, ignore_errors=True)
        (raw / "images").mkdir()
        content = {"info": info, **_draw_images(raw / "images", num_images, seed, workers)}
        util.atomic_write(path, json.dumps(content))
    return path


def _draw_images(folder, num_images, seed, workers):
    """Draw photos into `folder`; return all of the annotations but "info"."""
    images, annotations = [], []
    drawn = ordered_map(functools.partial(draw_photo, seed), range(num_images), workers)
    bar = util.progress(drawn, total=num_images, desc="drawing", unit="photo")
    for image_id, (jpeg, instances) in enumerate(bar, 1):
        name = f"{image_id:07d}.jpg"
        (folder / name).write_bytes(jpeg)
        images.append({"file_name": name, "width": WIDTH, "id": image_id, "license": 1,
                       "height": HEIGHT})
        annotations += [{"image_id": image_id, "id": len(annotations) + i, "iscrowd": 0, **part}
                        for i, part in enumerate(instances, 1)]
    categories = [{"supercategory": "fashion", "id": label, "name": name}
                  for label, name in enumerate(coco.MODANET_CLASSES, 1)]
    return {"images": images, "licenses": [], "annotations": annotations, "categories": categories}


def draw_photo(seed: int, number: int) -> tuple[bytes, list[dict]]:
    """Return a JPEG and [{"category_id", "segmentation", "area", "bbox"}] of photo `number`."""
    rgb, owner, labels = draw_figure(np.random.default_rng([seed, number]))
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    # The owners' numbers serve as labels, so that a garment is one annotation.
    parts = coco.label_annotations(owner, image_id=0, first_id=1)
    instances = [{"category_id": labels[part["category_id"] - 1],
                  **{key: part[key] for key in ("segmentation", "area", "bbox")}}
                 for part in parts if part["area"] >= _MIN_PIXELS]
    return buffer.getvalue(), instances


def draw_figure(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Return one picture, rgb uint8 [600, 400, 3], owner uint8 [600, 400] and labels. owner is n
    where garment n shows, else 0; labels[n - 1] is that garment's class."""
    canvas = Canvas(_backdrop(rng))
    labels = Dresser(canvas, random_figure(rng, WIDTH, HEIGHT), rng).dress()
    light = 1 + rng.normal(0, 0.04) + 0.07 * noise(rng, (HEIGHT, WIDTH), (4, 3))
    picture = canvas.rgb * light[..., None] + rng.normal(0, 3, (HEIGHT, WIDTH, 1))
    return np.clip(picture, 0, 255).astype(np.uint8), canvas.owner, labels


def _backdrop(rng):
    """Return a pale wall over a floor that is a little darker, uint8 [600, 400, 3]."""
    wall = rng.uniform(190, 235) + rng.normal(0, 5, 3)
    picture = np.tile(wall, (HEIGHT, WIDTH, 1))
    picture[int(HEIGHT * rng.uniform(0.74, 0.8)):] = wall * rng.uniform(0.72, 0.86)
    return np.clip(picture, 0, 255).astype(np.uint8)
