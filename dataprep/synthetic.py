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
from dataprep.backdrops import random_backdrop
from dataprep.drawing import Canvas, Fabric, curve, ellipse, tube
from dataprep.figure import paint_arm, paint_bare_body, paint_head, random_figure
from dataprep.modanet import TRAIN_JSON
from dataprep.workers import ordered_map
from dnnlib import coco, util

WIDTH, HEIGHT = 400, 600
_JPEG_QUALITY = 90
_VERSION = 1  # of the drawing: raise it when the same numbers give other pictures
_DESCRIPTION = "drawn figures in ModaNet's layout"
_PARTS = ("images", "annotations")
_MARK = ".drawn"  # tells an unfinished drawing from other people's photos
_MIN_PIXELS = 12  # smaller remains of a garment are not annotated
_SKIN = ((246, 214, 190), (234, 192, 160), (214, 164, 128), (176, 124, 88), (132, 88, 60),
         (92, 60, 44))
_HAIR = ((30, 24, 22), (58, 38, 26), (104, 68, 40), (168, 122, 70), (214, 178, 116), (128, 52, 30),
         (150, 148, 146))


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
    """One picture: (rgb uint8 [600, 400, 3], owner int16 [600, 400], labels).

    owner is n where garment n shows, else 0; labels[n - 1] is that garment's class.
    """
    canvas = Canvas(random_backdrop(rng, HEIGHT, WIDTH), rng)
    figure = random_figure(rng, WIDTH, HEIGHT)
    ground = ellipse((figure.x + 12, figure.ground - 2), 0.12 * figure.h, 0.017 * figure.h)
    canvas.darken(ground, 0.55, 7)
    labels = _Dresser(canvas, figure, rng).dress()
    warmth = 1 + rng.normal(0, 0.025, 3) + rng.normal(0, 0.05)
    vignette = 1 - 0.12 * np.hypot(*np.mgrid[-1:1:HEIGHT * 1j, -1:1:WIDTH * 1j])**2
    picture = canvas.rgb * warmth * vignette[..., None] + rng.normal(0, 3, canvas.rgb.shape)
    return np.clip(picture, 0, 255).astype(np.uint8), canvas.owner, labels


class _Dresser:
    """Chooses clothes and paints the figure, back to front."""

    def __init__(self, canvas, figure, rng):
        self.canvas, self.figure, self.rng = canvas, figure, rng
        self.labels = []
        self.skin = Fabric("plain", _SKIN[rng.integers(len(_SKIN))])
        self.hair = Fabric("plain", _HAIR[rng.integers(len(_HAIR))])

    def own(self, name):
        """A new garment of the class `name`; returns its number on the canvas."""
        self.labels.append(MODANET_CLASSES.index(name) + 1)
        return len(self.labels)

    def chance(self, share):
        """True in that share of the cases."""
        return self.rng.random() < share

    def dress(self):
        """Paint everything; returns the labels."""
        masculine = self.figure.build > 0.6
        long_hair = self.chance(0.12 if masculine else 0.72)
        if long_hair:
            self._back_hair()
        in_dress = self.chance(0.03 if masculine else 0.38)
        in_skirt = not in_dress and self.chance(0.03 if masculine else 0.40)
        legs = self.skin
        if (in_dress or in_skirt) and self.chance(0.3):
            legs = Fabric("plain", tuple(self.rng.uniform(18, 60) * np.ones(3)))
        paint_bare_body(self.canvas, self.figure, self.skin, legs)
        sleeves = self._body(in_dress, in_skirt)
        if masculine and not in_dress and self.chance(0.45):
            wardrobe.paint_tie(*self._brush(), wardrobe.random_fabric(self.rng, 0.6),
                               self.own("scarf/tie"))
        if self.chance(0.48):
            fabric = wardrobe.random_fabric(self.rng, 0.25)
            owner = self.own("outer")
            ease = wardrobe.paint_outer(*self._brush(), fabric, owner)
            sleeves = (fabric, owner, float(self.rng.choice([1.0, 0.96, 0.75])), ease)
        self._arms(sleeves)
        if self.chance(0.2):
            wardrobe.paint_scarf(*self._brush(), wardrobe.random_fabric(self.rng, 0.5),
                                 self.own("scarf/tie"))
        self._head(long_hair)
        return self.labels

    def _brush(self):
        return self.canvas, self.figure, self.rng

    def _body(self, in_dress, in_skirt):
        """Everything on trunk, legs and feet; returns (fabric, owner, share, ease) of sleeves."""
        rng = self.rng
        in_boots = self.chance(0.34)
        over_trousers = in_boots and not in_dress and not in_skirt
        if not over_trousers:
            self._feet(in_boots)
        fabric = wardrobe.random_fabric(rng)
        if in_dress:
            owner = self.own("dress")
            share = wardrobe.paint_dress(*self._brush(), fabric, owner)
        else:
            tucked = self.chance(0.55)
            owner = self.own("top")
            if tucked:
                share = wardrobe.paint_top(*self._brush(), fabric, owner, tucked)
            self._bottoms(in_skirt, in_boots)
            if over_trousers:
                self._feet(in_boots)
            if not tucked:
                share = wardrobe.paint_top(*self._brush(), fabric, owner, tucked)
        if self.chance(0.34):
            wardrobe.paint_belt(*self._brush(), wardrobe.leather(rng), self.own("belt"))
        return fabric, owner, share, rng.uniform(1.5, 3.5)

    def _bottoms(self, in_skirt, in_boots):
        """Skirt, shorts or trousers."""
        if in_skirt:
            fabric = wardrobe.random_fabric(self.rng)
            wardrobe.paint_skirt(*self._brush(), fabric, self.own("skirt"))
            return
        fabric = (wardrobe.denim(self.rng) if self.chance(0.5)
                  else wardrobe.random_fabric(self.rng, 0.12))
        short = self.chance(0.26)
        owner = self.own("shorts" if short else "pants")
        wardrobe.paint_trousers(*self._brush(), fabric, owner, short, in_boots)

    def _feet(self, in_boots):
        """Boots or shoes; the one farther back is painted first."""
        fabric = wardrobe.leather(self.rng)
        until = self.rng.choice([self.rng.uniform(0.10, 0.14), self.rng.uniform(0.2, 0.27)])
        heel = self.chance(0.55)
        owner = self.own("boots" if in_boots else "footwear")
        for side in np.argsort(self.figure.ankles[:, 1]):
            if in_boots:
                wardrobe.paint_boot(self.canvas, self.figure, side, fabric, owner, until, 3.0)
            else:
                wardrobe.paint_shoe(self.canvas, self.figure, side, fabric, owner, heel)

    def _arms(self, sleeves):
        """Arms with sleeves, and perhaps a bag on one side, below that side's arm."""
        fabric, owner, share, ease = sleeves
        bag_side = self.rng.integers(2) if self.chance(0.62) else None
        for side in (0, 1):
            if side == bag_side:
                wardrobe.paint_bag(*self._brush(), side, wardrobe.leather(self.rng),
                                   self.own("bag"))
            paint_arm(self.canvas, self.figure, side, self.skin)
            if share:
                wardrobe.paint_sleeves(self.canvas, self.figure, side, fabric, owner, share, ease)

    def _head(self, long_hair):
        """Head, hair, sunglasses, headwear."""
        paint_head(self.canvas, self.figure, self.skin, self.rng)
        self._front_hair(long_hair)
        if self.chance(0.36):
            wardrobe.paint_sunglasses(*self._brush(), self.own("sunglasses"))
        if self.chance(0.30):
            wardrobe.paint_headwear(*self._brush(), wardrobe.random_fabric(self.rng, 0.15),
                                    self.own("headwear"))

    def _back_hair(self):
        (x, y), h = self.figure.head, self.figure.face
        length, spread = self.rng.uniform(0.06, 0.2) * h, self.rng.uniform(0.048, 0.066) * h
        outline = [(x, y - 0.075 * h), (x + 0.052 * h, y - 0.03 * h),
                   (x + spread, y + 0.4 * length), (x + 0.8 * spread, y + length),
                   (x, y + 0.9 * length), (x - 0.8 * spread, y + length),
                   (x - spread, y + 0.4 * length), (x - 0.052 * h, y - 0.03 * h)]
        self.canvas.paint([curve(outline)], self.hair, folds=0.16)

    def _front_hair(self, long_hair):
        """The hair around the face, and for long hair two locks in front of the shoulders."""
        (x, y), h = self.figure.head, self.figure.face
        part = self.rng.uniform(-0.02, 0.02) * h
        low = self.rng.uniform(0.0, 0.03) * h if long_hair else -0.012 * h
        cap = [(x - 0.046 * h, y + low), (x - 0.050 * h, y - 0.035 * h),
               (x - 0.026 * h, y - 0.072 * h), (x + 0.026 * h, y - 0.072 * h),
               (x + 0.050 * h, y - 0.035 * h), (x + 0.046 * h, y + low),
               (x + 0.036 * h, y - 0.022 * h), (x + part, y - 0.044 * h),
               (x - 0.036 * h, y - 0.022 * h)]
        self.canvas.paint([curve(cap)], self.hair, folds=0.16, shadow=0.25)
        for sign in (-1, 1) if long_hair and self.chance(0.6) else ():
            end = self.rng.uniform(0.06, 0.15) * h
            lock = [(x + sign * 0.046 * h, y - 0.02 * h), (x + sign * 0.052 * h, y + 0.05 * h),
                    (x + sign * self.rng.uniform(0.048, 0.062) * h, y + 0.05 * h + end)]
            self.canvas.paint(tube(lock, np.array([0.009, 0.015, 0.006]) * h), self.hair,
                              folds=0.16, shadow=0.2)
