"""Draw figures: a canvas that records the object at each pixel, a pose, clothes of all classes.

Points are float arrays [n, 2] of x, y in pixels, y down. Everything depends on `rng` alone.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from dnnlib.data.coco import MODANET_CLASSES

_EDGE = 3  # pixels of a shape's darker outline
_SIDES = np.array([-1.0, 1.0])
# Arm poses: angles in degrees of upper arm and forearm from straight down, outwards positive.
_ARMS = {"hang": ((8, 16), (2, 10)), "away": ((20, 32), (14, 26)), "hip": ((36, 46), (-52, -40))}
_ARM_SHARES = (0.6, 0.2, 0.2)
_SKIN = ((246, 214, 190), (234, 192, 160), (214, 164, 128), (150, 104, 74), (104, 70, 50))
_HAIR = ((30, 24, 22), (84, 54, 34), (168, 122, 70), (128, 52, 30))
_CLOTH = ((200, 44, 52), (236, 186, 60), (60, 140, 90), (240, 240, 236), (226, 120, 150),
          (70, 130, 190), (130, 90, 160), (232, 130, 60))
_DENIM = ((52, 72, 122), (92, 122, 170), (34, 42, 66), (70, 66, 64))
_LEATHER = ((34, 30, 30), (112, 66, 38), (150, 40, 44), (176, 134, 84))
_COAT = ((60, 62, 70), (120, 96, 70), (70, 84, 70), (150, 150, 156), (110, 50, 60))
# Offsets x, y from the middle of the head, in body heights; x is that of the one on the right.
_EYE, _EAR, _NOSE = (0.027, 0.01), (0.07, 0.012), (0.0, 0.034)


def noise(rng: np.random.Generator, size: tuple, cells: tuple) -> np.ndarray:
    """Return a smooth random field float32 [h, w], about -1 to 1, of `cells` (rows, columns)."""
    grid = Image.fromarray(rng.uniform(-1, 1, cells).astype(np.float32))
    return np.asarray(grid.resize(size[::-1], Image.Resampling.BICUBIC))


class Canvas:
    """A picture that is painted shape by shape; later shapes cover earlier ones. owner: number of
    the object that a shape belongs to; 0 if it belongs to none that is annotated."""

    def __init__(self, rgb: np.ndarray) -> None:
        """Start with a backdrop, uint8 [h, w, 3]."""
        self._picture = Image.fromarray(rgb)
        self._owner = Image.new("L", self._picture.size)
        self._pens = [ImageDraw.Draw(self._picture), ImageDraw.Draw(self._owner)]

    rgb = property(lambda self: np.array(self._picture), doc="The picture, uint8 [h, w, 3].")
    owner = property(lambda self: np.array(self._owner),
                     doc="The object that shows at each pixel, uint8 [h, w].")

    def polygon(self, points: ArrayLike, colour: ArrayLike, owner: int = 0) -> None:
        """Fill a polygon [n, 2]."""
        for pen, fill, edge in self._inks(colour, owner):
            pen.polygon(list(map(tuple, np.asarray(points).tolist())), fill, edge, _EDGE)

    def ellipse(self, centre: ArrayLike, half_width: float, half_height: float, colour: ArrayLike,
                owner: int = 0) -> None:
        """Fill an ellipse with upright axes."""
        half = np.array([half_width, half_height])
        for pen, fill, edge in self._inks(colour, owner):
            pen.ellipse([*(centre - half), *(centre + half)], fill=fill, outline=edge, width=_EDGE)

    def limb(self, points: ArrayLike, radius: float, colour: ArrayLike, owner: int = 0) -> None:
        """Draw a bent stroke with round ends through `points` [n, 2], 2 * `radius` pixels wide."""
        for shrink, tone in ((0, 0.8), (_EDGE, 1)):
            r = max(radius - shrink, 1)
            for pen, fill, _ in self._inks(np.array(colour) * tone, owner):
                pen.line(list(map(tuple, np.asarray(points).tolist())), fill, round(2 * r), "curve")
                for x, y in (points[0], points[-1]):
                    pen.ellipse([x - r, y - r, x + r, y + r], fill=fill)

    def _inks(self, colour, owner):
        """Return (pen, fill, outline) of the picture and of the owners."""
        fill, edge = (tuple(np.clip(np.array(colour) * tone, 0, 255).astype(int).tolist())
                      for tone in (1, 0.8))
        return zip(self._pens, (fill, owner), (edge, owner))


@dataclass(frozen=True)
class Figure:
    """A pose: joints in pixels, x and y; pairs of joints are [2, 2], the one on the picture's left
    first. `h` is the body's height, the unit of lengths; `ground` is the y that it stands on."""

    h: float
    ground: float
    head: np.ndarray
    shoulders: np.ndarray
    elbows: np.ndarray
    wrists: np.ndarray
    hips: np.ndarray
    knees: np.ndarray
    ankles: np.ndarray

    def level(self, share: float) -> float:
        """Return the y of a height above the ground, given as a share of the body's height."""
        return self.ground - share * self.h

    def at(self, x: float, share: float) -> np.ndarray:
        """Return the point `x` (in heights) right of the body's middle line at that height."""
        middle = float(np.interp(share, [0.47, 0.77],
                                 [self.hips[:, 0].mean(), self.shoulders[:, 0].mean()]))
        return np.array([middle + x * self.h, self.level(share)])

    def face(self, x: float, y: float) -> np.ndarray:
        """Return the point `x` right of and `y` below the middle of the head, in heights of the
        body."""
        return self.head + np.array([x, y]) * self.h

    def keypoints(self) -> np.ndarray:
        """Return the joints [18, 2] in the order of dnnlib.data.keypoints.NAMES. A figure faces the
        viewer: its right side is on the picture's left."""
        right, left = ([self.shoulders[side], self.elbows[side], self.wrists[side]]
                       for side in (0, 1))
        right_leg, left_leg = ([self.hips[side], self.knees[side], self.ankles[side]]
                               for side in (0, 1))
        eyes_and_ears = [self.face(sign * x, y) for x, y in (_EYE, _EAR) for sign in _SIDES]
        return np.array([self.face(*_NOSE), self.shoulders.mean(axis=0), *right, *left, *right_leg,
                         *left_leg, *eyes_and_ears])

    def trunk(self, top: float, bottom: float, ease: float = 0.0, flare: float = 0.0) -> np.ndarray:
        """Return the torso's outline [n, 2] between two heights, `ease` wider on each side, and
        `flare` more at its lower end (both in heights of the body)."""
        shares = np.linspace(top, bottom, 8)
        width = float(np.ptp(self.shoulders[:, 0])) / self.h / 2
        half = np.interp(shares, [0.47, 0.58, 0.74, 0.79],
                         [0.115, 0.098, width, 0.7 * width]) + ease
        half += flare * (top - shares) / (top - bottom)
        left, right = ([self.at(side * x, share) for x, share in zip(half, shares)]
                       for side in _SIDES)
        return np.array(left + right[::-1])

    def leg(self, side: int, until: float) -> np.ndarray:
        """Return points of one leg from the hip down to a height."""
        points = np.array([self.hips[side], self.knees[side], self.ankles[side]])
        y = self.level(until)
        end = [np.interp(y, points[:, 1], points[:, i]) for i in range(2)]
        return np.concatenate([points[points[:, 1] < y], [end]])

    def arm(self, side: int, share: float) -> np.ndarray:
        """Return points of the first `share` of one arm."""
        shoulder, elbow, wrist = self.shoulders[side], self.elbows[side], self.wrists[side]
        if share <= 0.5:
            return np.array([shoulder, shoulder + 2 * share * (elbow - shoulder)])
        return np.array([shoulder, elbow, elbow + (2 * share - 1) * (wrist - elbow)])


def random_figure(rng: np.random.Generator, width: int, height: int,
                  body_rng: np.random.Generator | None = None) -> Figure:
    """Return a random Figure that stands in a picture of that size. Its height and the width of its
    shoulders are drawn from `body_rng` (None: `rng`)."""
    body_rng = body_rng or rng
    h = body_rng.uniform(0.86, 0.92) * height
    ground = height * rng.uniform(0.955, 0.975)
    x = width * rng.uniform(0.46, 0.54)
    sway = rng.normal(0, 0.008) * h

    def row(offset: float, share: float, shift: float = 0.0) -> np.ndarray:  # [2, 2]
        return np.column_stack([x + shift + _SIDES * offset * h, np.full(2, ground - share * h)])

    shoulders, hips = row(body_rng.uniform(0.115, 0.14), 0.745, -sway), row(0.062, 0.475, sway)
    ankles = row(rng.uniform(0.06, 0.1), 0.05)
    knees = (hips + ankles) / 2 + [[0, -0.01 * h]] * 2
    # Arms: two angles for each side.
    poses = [list(_ARMS.values())[i] for i in rng.choice(len(_ARMS), 2, p=_ARM_SHARES)]
    upper, fore = np.radians([[rng.uniform(*pose[part]) for pose in poses] for part in (0, 1)])
    elbows = shoulders + 0.165 * h * np.column_stack([_SIDES * np.sin(upper), np.cos(upper)])
    wrists = elbows + 0.145 * h * np.column_stack([_SIDES * np.sin(fore), np.cos(fore)])
    head = np.array([x - sway, ground - 0.895 * h])
    return Figure(h, ground, head, shoulders, elbows, wrists, hips, knees, ankles)


class Dresser:
    """Paint one figure, back to front, in clothes of random kinds and colours."""

    def __init__(self, canvas: Canvas, figure: Figure, rng: np.random.Generator) -> None:
        self.canvas, self.figure, self.rng, self.h = canvas, figure, rng, figure.h
        self.labels = []  # class ids; the first garment is object 1 of the canvas
        self.skin, self.hair = self._colour(_SKIN), self._colour(_HAIR)

    def dress(self) -> list[int]:
        """Paint everything; return the class ids of the garments in the order of their objects."""
        canvas, figure, h = self.canvas, self.figure, self.h
        long_hair = self._chance(0.5)
        if long_hair:
            canvas.ellipse(figure.face(0, 0.055), 0.094 * h, 0.13 * h, self.hair)
        for side in (0, 1):
            canvas.limb(figure.leg(side, 0.05), 0.042 * h, self.skin)
        canvas.polygon(figure.trunk(0.79, 0.45), self.skin)
        canvas.limb([figure.at(0, 0.82), figure.at(0, 0.76)], 0.04 * h, self.skin)
        kind = self.rng.choice(["dress", "skirt", "pants", "shorts"], p=[0.28, 0.22, 0.34, 0.16])
        self._feet(boots=self._chance(0.33))
        sleeves = self._clothes(kind)
        if self._chance(0.22):
            canvas.polygon(figure.trunk(0.575, 0.545, 0.012), *self._garment("belt", _LEATHER))
        if self._chance(0.3):
            sleeves = self._coat()
        self._arms(*sleeves)
        self._head()
        if self._chance(0.2):  # a scarf around the neck with one end hanging
            scarf = self._garment("scarf/tie", _CLOTH)
            canvas.limb([figure.at(-0.05, 0.785), figure.at(0.05, 0.785)], 0.03 * h, *scarf)
            end = self.rng.uniform(0.62, 0.68)
            canvas.limb([figure.at(0.03, 0.78), figure.at(0.035, end)], 0.025 * h, *scarf)
        return self.labels

    def _chance(self, share):
        """Return True in that share of the cases."""
        return self.rng.random() < share

    def _colour(self, colours):
        """Return one of the colours, varied a little."""
        base = np.array(colours[self.rng.integers(len(colours))])
        return np.clip(base + self.rng.normal(0, 8, 3), 8, 250)

    def _garment(self, name, colours):
        """Return (colour, number on the canvas) of a new garment of the class `name`."""
        self.labels.append(MODANET_CLASSES.index(name) + 1)
        return self._colour(colours), len(self.labels)

    def _feet(self, boots):
        """Paint boots to below the knee, or shoes."""
        foot = self._garment("boots" if boots else "footwear", _LEATHER)
        top = self.rng.uniform(0.17, 0.23)
        for side, sign in enumerate((-1, 1)):
            ankle = self.figure.ankles[side]
            if boots:
                self.canvas.limb([self.figure.leg(side, top)[-1], ankle], 0.05 * self.h, *foot)
            toe = ankle + np.array([sign * 0.035, 0.018]) * self.h
            self.canvas.limb([ankle + [0, 0.012 * self.h], toe], 0.034 * self.h, *foot)

    def _clothes(self, kind):
        """Paint a dress, or a top with a skirt, pants or shorts; return (colour, object, share of
        the arm) of its sleeves."""
        canvas, trunk, uniform = self.canvas, self.figure.trunk, self.rng.uniform
        cloth = self._garment("dress" if kind == "dress" else "top", _CLOTH)
        if kind == "dress":
            canvas.polygon(trunk(0.60, uniform(0.16, 0.34), 0.01, uniform(0.02, 0.08)), *cloth)
            canvas.polygon(trunk(0.785, 0.55, 0.008), *cloth)
            return *cloth, self.rng.choice([0.0, 0.3])
        bottom = self._garment(kind, _CLOTH if kind == "skirt" else _DENIM)
        if kind == "skirt":
            canvas.polygon(trunk(0.58, uniform(0.2, 0.36), 0.012, uniform(0.0, 0.07)), *bottom)
        else:
            until = 0.07 if kind == "pants" else uniform(0.3, 0.36)
            for side in (0, 1):
                canvas.limb(self.figure.leg(side, until), 0.055 * self.h, *bottom)
            canvas.polygon(trunk(0.57, 0.44, 0.008), *bottom)
        canvas.polygon(trunk(0.785, uniform(0.5, 0.57), 0.01), *cloth)
        return *cloth, self.rng.choice([0.0, 0.3, 0.9])

    def _coat(self):
        """Paint an open jacket or coat; return its sleeves as _clothes does."""
        coat = self._garment("outer", _COAT)
        hem, gap = self.rng.uniform(0.3, 0.5), self.rng.uniform(0.02, 0.05)
        whole = self.figure.trunk(0.79, hem, 0.022, 0.01)
        edge = np.array([self.figure.at(gap, 0.79), self.figure.at(gap, hem)])
        self.canvas.polygon([*whole[:8], *(edge - [2 * gap * self.h, 0])[::-1]], *coat)
        self.canvas.polygon([*whole[8:], *edge], *coat)
        return *coat, 0.95

    def _arms(self, colour, owner, share):
        """Paint arms with sleeves, and perhaps a bag in one hand."""
        bag_side = self.rng.integers(2) if self._chance(0.35) else None
        for side in (0, 1):
            hand, h = self.figure.wrists[side], self.h
            self.canvas.limb(self.figure.arm(side, 1.0), 0.031 * h, self.skin)
            self.canvas.ellipse(hand, 0.036 * h, 0.036 * h, self.skin)
            if share:
                self.canvas.limb(self.figure.arm(side, share), 0.041 * h, colour, owner)
            if side == bag_side:
                bag = self._garment("bag", _LEATHER)
                width, height = self.rng.uniform(0.05, 0.07), self.rng.uniform(0.09, 0.13)
                corners = np.array([(-0.8, 0.2), (0.8, 0.2), (1, 1), (-1, 1)]) * [width, height]
                self.canvas.limb([hand, hand + [0, 0.25 * height * h]], 0.012 * h, *bag)
                self.canvas.polygon(hand + corners * h, *bag)

    def _head(self):
        """Paint head, hair, perhaps sunglasses and headwear."""
        h, canvas, face = self.h, self.canvas, self.figure.face
        canvas.ellipse(face(0, -0.02), 0.086 * h, 0.092 * h, self.hair)
        canvas.ellipse(face(0, 0.012), 0.07 * h, 0.082 * h, self.skin)
        canvas.polygon([face(x, y) for x, y in (
            (-0.075, -0.02), (-0.05, -0.09), (0.05, -0.09), (0.075, -0.02), (0.03, -0.045),
            (-0.03, -0.045))], self.hair)
        for sign in (-1, 1):
            canvas.ellipse(face(sign * _EYE[0], _EYE[1]), 0.01 * h, 0.01 * h, (40, 34, 30))
        # The mouth.
        canvas.ellipse(face(0, 0.055), 0.022 * h, 0.008 * h, self.skin * [0.85, 0.55, 0.55])
        if self._chance(0.2):
            glass = self._garment("sunglasses", ((24, 24, 30), (52, 34, 24)))
            for sign in (-1, 1):
                canvas.ellipse(face(sign * 0.032, 0.01), 0.03 * h, 0.022 * h, *glass)
        if self._chance(0.28):
            hat = self._garment("headwear", _CLOTH)
            canvas.polygon([face(x, y) for x, y in (
                (-0.085, -0.035), (-0.065, -0.105), (0.065, -0.105), (0.085, -0.035))], *hat)
            canvas.ellipse(face(0, -0.038), self.rng.uniform(0.09, 0.13) * h, 0.017 * h, *hat)
