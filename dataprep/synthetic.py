"""Drawn street-fashion photos with exact polygons, in ModaNet's layout.

A photo is a function of (seed, number): a figure is posed, dressed from a wardrobe that has every
class, and painted back to front on a canvas that knows which garment shows at each pixel. The
polygons are the borders of what shows.
"""

import functools
import io
import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from dataprep import wardrobe
from dataprep.annotations import MODANET_CLASSES
from dataprep.drawing import Canvas, noise
from dataprep.figure import random_figure
from dataprep.modanet import TRAIN_JSON
from dataprep.process_pool import ordered_map
from dnnlib import util
from dnnlib.data import coco

WIDTH, HEIGHT = 400, 600
_JPEG_QUALITY = 90
_VERSION = 2  # of the drawing: raise it when the same numbers give other pictures
_DESCRIPTION = "drawn figures in ModaNet's layout"
_PARTS = ("images", "annotations")
_MARK = ".drawn"  # tells an unfinished drawing from other people's photos
_MIN_PIXELS = 12  # smaller remains of a garment are not annotated


def _info(num_images, seed):
    """What the annotations say of the drawing that they belong to."""
    return {"description": _DESCRIPTION, "version": _VERSION,
            "num_images": num_images, "seed": seed}


def is_drawn(raw, num_images, seed):
    """Whether `raw` holds all photos of this very drawing."""
    path = Path(raw) / "annotations" / TRAIN_JSON
    return path.exists() and util.read_json(path).get("info") == _info(num_images, seed)


def draw_all(raw, num_images, seed, workers):
    """Draw photos into `raw`/images and write `raw`/annotations; returns the annotations' path.

    Photos already drawn with the same arguments are kept; anything else in the two folders is
    replaced. The result does not depend on `workers`. Raises UserError where another process draws,
    or where `raw` holds what was not drawn.
    """
    raw = Path(raw)
    path, info = raw / "annotations" / TRAIN_JSON, _info(num_images, seed)
    with util.only_process(raw, "drawing these photos"):
        if is_drawn(raw, num_images, seed):
            return path
        _refuse_foreign(raw, path)
        (raw / _MARK).touch()
        for part in _PARTS:  # with all that a killed run left there
            shutil.rmtree(raw / part, ignore_errors=True)
        (raw / "images").mkdir()
        content = {"info": info, **_draw_images(raw / "images", num_images, seed, workers)}
        util.atomic_write(path, json.dumps(content))
    return path


def _refuse_foreign(raw, path):
    """Raise UserError where photos or annotations (`path`) below `raw` are not drawn ones."""
    if (raw / _MARK).exists() or not any((raw / part).exists() for part in _PARTS):
        return
    info = util.read_json(path).get("info") if path.exists() else None
    if not isinstance(info, dict) or info.get("description") != _DESCRIPTION:
        raise util.UserError(f"{raw}: holds files that were not drawn; choose another --out")


def _draw_images(folder, num_images, seed, workers):
    """Draw photos into `folder`; returns all of the annotations but "info"."""
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
    return {"images": images, "licenses": [], "annotations": annotations,
            "categories": _categories()}


def _categories():
    return [{"supercategory": "fashion", "id": label, "name": name}
            for label, name in enumerate(MODANET_CLASSES, 1)]


def draw_photo(seed, number):
    """(JPEG bytes, [{"category_id", "segmentation", "area", "bbox"}]) of photo `number`."""
    rgb, owner, labels = draw_figure(np.random.default_rng([seed, number]))
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    instances = []
    for index, label in enumerate(labels, 1):
        mask = owner == index
        area = int(np.count_nonzero(mask))
        if area < _MIN_PIXELS:
            continue
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        instances.append({"category_id": label, "segmentation": coco.mask_polygons(mask),
                          "area": area, "bbox": [int(side) for side in box]})
    return buffer.getvalue(), instances


def draw_figure(rng):
    """One picture: (rgb uint8 [600, 400, 3], owner uint8 [600, 400], labels).

    owner is n where garment n shows, else 0; labels[n - 1] is that garment's class.
    """
    canvas = Canvas(_backdrop(rng))
    labels = wardrobe.Dresser(canvas, random_figure(rng, WIDTH, HEIGHT), rng).dress()
    light = 1 + rng.normal(0, 0.04) + 0.07 * noise(rng, (HEIGHT, WIDTH), (4, 3))
    picture = canvas.rgb * light[..., None] + rng.normal(0, 3, (HEIGHT, WIDTH, 1))
    return np.clip(picture, 0, 255).astype(np.uint8), canvas.owner, labels


def _backdrop(rng):
    """A pale wall over a floor that is a little darker, uint8 [600, 400, 3]."""
    wall = rng.uniform(190, 235) + rng.normal(0, 5, 3)
    picture = np.empty((HEIGHT, WIDTH, 3))
    picture[:] = wall
    picture[int(HEIGHT * rng.uniform(0.74, 0.8)):] = wall * rng.uniform(0.72, 0.86)
    return np.clip(picture, 0, 255).astype(np.uint8)
