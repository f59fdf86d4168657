"""A standing figure: where its joints are, and the outlines of what covers them."""

from dataclasses import dataclass

import numpy as np

from dataprep import drawing

# Arm poses: angles in degrees of upper arm and forearm from straight down, outwards positive.
_ARMS = {"hang": ((5, 14), (0, 9)), "hip": ((36, 46), (-62, -48)),
         "pocket": ((16, 24), (-26, -16)), "away": ((14, 26), (10, 24)),
         "front": ((6, 14), (-80, -62)), "hair": ((58, 80), (195, 215))}
_ARM_NAMES = tuple(_ARMS)
_ARM_SHARES = (0.42, 0.17, 0.13, 0.12, 0.10, 0.06)


@dataclass(frozen=True)
class Figure:
    """Joints in pixels; `h` is the body's height, in which lengths are given; sides 0 and 1 are the
    picture's left and right.
    """

    h: float
    ground: float
    x: float
    shoulders: np.ndarray
    elbows: np.ndarray
    wrists: np.ndarray
    hips: np.ndarray
    knees: np.ndarray
    ankles: np.ndarray
    toes: np.ndarray
    head: np.ndarray
    arms: tuple
    build: float

    @property
    def face(self):
        """The unit of everything on the head: a real head is larger than a drawn one."""
        return 1.1 * self.h

    def level(self, share):
        """y of a height above the ground, given as a share of the body's height."""
        return self.ground - share * self.h

    def centre(self, share):
        """x of the body's middle line at that height."""
        heights = [0.0, 0.5, 0.615, 0.82, 0.93]
        hips, shoulders = self.hips[:, 0].mean(), self.shoulders[:, 0].mean()
        middles = [hips, hips, (hips + shoulders) / 2, shoulders, self.head[0]]
        return float(np.interp(share, heights, middles))

    def half_width(self, share):
        """Half the torso's width at that height, in pixels."""
        heights = [0.42, 0.48, 0.53, 0.62, 0.70, 0.76, 0.80, 0.825]
        slim = [0.094, 0.098, 0.092, 0.068, 0.080, 0.088, 0.098, 0.080]
        broad = [0.084, 0.090, 0.088, 0.080, 0.094, 0.104, 0.114, 0.092]
        widths = np.array(slim) * (1 - self.build) + np.array(broad) * self.build
        return float(np.interp(share, heights, widths)) * self.h

    def trunk(self, top, bottom, ease=0.0, flare=0.0, neck=0.035, dip=0.02):
        """Outline of the torso between two heights, `ease` pixels wider, `flare` more below."""
        left, right = [], []
        for share in np.linspace(top, bottom, 9):
            part = (top - share) / max(top - bottom, 1e-6)
            half = self.half_width(share) + ease + flare * part**2
            left.append((self.centre(share) - half, self.level(share)))
            right.append((self.centre(share) + half, self.level(share)))
        middle = self.centre(top)
        collar = [(middle + neck * self.h, self.level(top + 0.022)),
                  (middle, self.level(top + 0.022 - dip)),
                  (middle - neck * self.h, self.level(top + 0.022))]
        return np.array(collar + left + right[::-1])

    def leg(self, side, until=0.0):
        """Points and bare radii down one leg; `until` cuts it off at a height."""
        hip, knee, ankle = self.hips[side], self.knees[side], self.ankles[side]
        calf = knee + 0.35 * (ankle - knee)
        points = np.array([hip, hip + 0.5 * (knee - hip), knee, calf, ankle])
        radii = np.array([0.050, 0.044, 0.030, 0.032, 0.0165]) * self.h
        return cut(points, radii, self.level(until))

    def arm(self, side, share=1.0):
        """Points and bare radii down one arm, the first `share` of it."""
        shoulder, elbow, wrist = self.shoulders[side], self.elbows[side], self.wrists[side]
        points = np.array([shoulder, (shoulder + elbow) / 2, elbow, (elbow + wrist) / 2, wrist])
        radii = np.array([0.027, 0.024, 0.020, 0.019, 0.0125]) * self.h * (0.92 + 0.2 * self.build)
        at = np.linspace(0, 4 * share, 5)
        index = np.arange(5)
        cut_points = np.column_stack([np.interp(at, index, points[:, i]) for i in range(2)])
        return cut_points, np.interp(at, index, radii)


def cut(points, radii, y):
    """The part of a limb above the height y (pixels), as five points and radii."""
    lengths = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    fine = np.linspace(0, lengths[-1], 100)
    ys = np.interp(fine, lengths, points[:, 1])
    end = fine[ys <= y][-1] if (ys <= y).any() else fine[1]
    at = np.linspace(0, end, 5)
    result = np.column_stack([np.interp(at, lengths, points[:, i]) for i in range(2)])
    return result, np.interp(at, lengths, radii)


def random_figure(rng, width, height):
    """A Figure standing in a picture of that size."""
    h = rng.uniform(0.80, 0.90) * height
    ground = height * rng.uniform(0.945, 0.972)
    x = width * rng.uniform(0.42, 0.58)
    build = float(rng.beta(0.6, 0.9))
    sway = rng.normal(0, 0.012) * h
    lift = rng.normal(0, 0.006) * h
    sides = np.array([-1.0, 1.0])

    def row(offset, share, shift=0.0, tilt=0.0):
        ys = np.full(2, ground - share * h) + tilt * sides
        return np.column_stack([x + shift + sides * offset * h, ys])

    shoulders = row(0.078 + 0.020 * build, 0.790, -sway, lift)
    hips = row(0.046, 0.485, sway, -lift)
    stance = rng.uniform(0.022, 0.062, 2)
    ankles = row(0.0, 0.045)
    ankles[:, 0] += sides * stance * h
    knees = (hips + ankles) / 2 + np.column_stack(
        [sides * rng.uniform(-0.004, 0.014, 2) * h, np.full(2, -0.012 * h)])
    if rng.random() < 0.35:  # walking: one foot behind, drawn higher, its knee turned in
        behind = int(rng.integers(2))
        ankles[behind, 1] -= rng.uniform(0.012, 0.03) * h
        knees[behind, 0] -= sides[behind] * 0.012 * h
    turn = np.radians(rng.uniform(8, 34, 2))
    toes = ankles + 0.05 * h * np.column_stack([sides * np.sin(turn), np.cos(turn)])
    arms = tuple(_ARM_NAMES[i] for i in rng.choice(len(_ARM_NAMES), 2, p=_ARM_SHARES))
    elbows, wrists = _place_arms(rng, shoulders, arms, h, sides)
    head = np.array([x - sway + rng.normal(0, 0.006) * h, ground - 0.926 * h])
    return Figure(h, ground, x, shoulders, elbows, wrists, hips, knees, ankles, toes, head, arms,
                  build)


def _place_arms(rng, shoulders, arms, h, sides):
    """(elbows, wrists), each [2, 2]."""
    elbows, wrists = np.zeros((2, 2)), np.zeros((2, 2))
    for side, pose in enumerate(arms):
        upper, fore = (np.radians(rng.uniform(*limits)) for limits in _ARMS[pose])
        elbows[side] = shoulders[side] + 0.162 * h * np.array([sides[side] * np.sin(upper),
                                                               np.cos(upper)])
        wrists[side] = elbows[side] + 0.142 * h * np.array([sides[side] * np.sin(fore),
                                                            np.cos(fore)])
    return elbows, wrists


def paint_bare_body(canvas, figure, skin, legs):
    """Torso, neck and legs. `legs` is the fabric of the legs: skin, or tights."""
    for side in (0, 1):
        canvas.paint(drawing.tube(*figure.leg(side)), legs, folds=0.01)
        canvas.paint(_foot(figure, side), legs, folds=0.0, shadow=0.1)
    canvas.paint([figure.trunk(0.80, 0.46)], skin, folds=0.01)
    neck = drawing.tube([(figure.head[0], figure.level(0.885)),
                         (figure.centre(0.81), figure.level(0.80))],
                        np.array([0.024, 0.032]) * figure.h * (1 + 0.2 * figure.build))
    canvas.paint(neck, skin, folds=0.0)


def _foot(figure, side):
    ankle, toe = figure.ankles[side], figure.toes[side]
    return drawing.tube([ankle, ankle + 0.6 * (toe - ankle), toe],
                        np.array([0.0165, 0.021, 0.012]) * figure.h)


def paint_arm(canvas, figure, side, skin):
    """One bare arm with its hand."""
    canvas.paint(drawing.tube(*figure.arm(side)), skin, folds=0.01)
    wrist, elbow = figure.wrists[side], figure.elbows[side]
    forward = (wrist - elbow) / np.linalg.norm(wrist - elbow)
    palm = [wrist, wrist + 0.022 * figure.h * forward, wrist + 0.045 * figure.h * forward]
    canvas.paint(drawing.tube(palm, np.array([0.0125, 0.017, 0.008]) * figure.h), skin,
                 folds=0.0, shadow=0.15)


def paint_head(canvas, figure, skin, rng):
    """Head and face."""
    (x, y), h = figure.head, figure.face
    face = drawing.curve([(x - 0.043 * h, y - 0.02 * h), (x, y - 0.066 * h),
                          (x + 0.043 * h, y - 0.02 * h), (x + 0.040 * h, y + 0.022 * h),
                          (x + 0.017 * h, y + 0.060 * h), (x - 0.017 * h, y + 0.060 * h),
                          (x - 0.040 * h, y + 0.022 * h)])
    canvas.paint([face], skin, folds=0.0, relief=0.4, shadow=0.3, depth=8)
    tone = np.array(skin.base)
    dark = drawing.Fabric("plain", tuple(tone * 0.72))
    lips = drawing.Fabric("plain", tuple(tone * [0.86, 0.55, 0.55] + [rng.uniform(0, 40), 0, 0]))
    brow = drawing.Fabric("plain", tuple(tone * 0.35))
    flat = {"relief": 0.0, "folds": 0.0, "shadow": 0.0}
    for side in (-1, 1):
        eye = (x + side * 0.018 * h, y + 0.002 * h)
        canvas.paint([drawing.ellipse(eye, 0.0105 * h, 0.0062 * h)], dark, **flat)
        canvas.paint([drawing.ellipse(eye, 0.0085 * h, 0.0042 * h)],
                     drawing.Fabric("plain", (236, 232, 226)), **flat)
        canvas.paint([drawing.ellipse(eye, 0.0042 * h, 0.0044 * h)],
                     drawing.Fabric("plain", (45, 34, 28)), **flat)
        arch = [(x + side * 0.008 * h, y - 0.011 * h), (x + side * 0.019 * h, y - 0.0155 * h),
                (x + side * 0.030 * h, y - 0.011 * h)]
        canvas.paint(drawing.tube(arch, np.array([0.0022, 0.0026, 0.0014]) * h), brow, **flat)
    nose = [(x + 0.002 * h, y + 0.004 * h), (x + 0.006 * h, y + 0.021 * h), (x, y + 0.024 * h)]
    canvas.paint(drawing.tube(nose, np.array([0.001, 0.003, 0.002]) * h), dark, **flat)
    canvas.paint([drawing.ellipse((x, y + 0.039 * h), 0.0125 * h, 0.0048 * h)], lips, **flat)
