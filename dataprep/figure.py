"""A standing figure: where its joints are, and how wide it is."""

from dataclasses import dataclass

import numpy as np

_SIDES = np.array([-1.0, 1.0])
# Arm poses: angles in degrees of upper arm and forearm from straight down, outwards positive.
_ARMS = {"hang": ((8, 16), (2, 10)), "away": ((20, 32), (14, 26)), "hip": ((36, 46), (-52, -40))}
_ARM_SHARES = (0.6, 0.2, 0.2)


@dataclass(frozen=True)
class Figure:
    """Joints in pixels, x and y; of pairs [2, 2] the picture's left one first.

    `h` is the body's height, in which lengths are given; `ground` is the y that it stands on.
    """

    h: float
    ground: float
    head: np.ndarray
    shoulders: np.ndarray
    elbows: np.ndarray
    wrists: np.ndarray
    hips: np.ndarray
    knees: np.ndarray
    ankles: np.ndarray

    def level(self, share):
        """y of a height above the ground, given as a share of the body's height."""
        return self.ground - share * self.h

    def centre(self, share):
        """x of the body's middle line at that height."""
        middles = [self.hips[:, 0].mean(), self.shoulders[:, 0].mean()]
        return float(np.interp(share, [0.47, 0.77], middles))

    def at(self, x, share):
        """The point `x` (in heights of the body) right of the middle line at that height."""
        return np.array([self.centre(share) + x * self.h, self.level(share)])

    def trunk(self, top, bottom, ease=0.0, flare=0.0):
        """Outline [n, 2] of the torso between two heights, `ease` wider on each side, and `flare`
        more at its lower end (both in heights of the body)."""
        shares = np.linspace(top, bottom, 8)
        width = float(np.ptp(self.shoulders[:, 0])) / self.h / 2
        half = np.interp(shares, [0.47, 0.58, 0.74, 0.79],
                         [0.115, 0.098, width, 0.7 * width]) + ease
        half += flare * (top - shares) / (top - bottom)
        left, right = ([self.at(side * x, share) for x, share in zip(half, shares)]
                       for side in _SIDES)
        return np.array(left + right[::-1])

    def leg(self, side, until):
        """Points of one leg from the hip down to a height."""
        return _down_to([self.hips[side], self.knees[side], self.ankles[side]], self.level(until))

    def arm(self, side, share):
        """Points of the first `share` of one arm."""
        shoulder, elbow, wrist = self.shoulders[side], self.elbows[side], self.wrists[side]
        if share <= 0.5:
            return np.array([shoulder, shoulder + 2 * share * (elbow - shoulder)])
        return np.array([shoulder, elbow, elbow + (2 * share - 1) * (wrist - elbow)])


def _down_to(points, y):
    """The part of a line [n, 2] that goes down which is above the height y."""
    points = np.array(points)
    above = points[points[:, 1] < y]
    ends = [np.interp(y, points[:, 1], points[:, i]) for i in range(2)]
    return np.concatenate([above, [ends]])


def random_figure(rng, width, height):
    """A Figure standing in a picture of that size."""
    h = rng.uniform(0.86, 0.92) * height
    ground = height * rng.uniform(0.955, 0.975)
    x = width * rng.uniform(0.46, 0.54)
    sway = rng.normal(0, 0.008) * h

    def row(offset, share, shift=0.0):
        return np.column_stack([x + shift + _SIDES * offset * h, np.full(2, ground - share * h)])

    shoulders, hips = row(rng.uniform(0.115, 0.14), 0.745, -sway), row(0.062, 0.475, sway)
    ankles = row(rng.uniform(0.06, 0.1), 0.05)
    knees = (hips + ankles) / 2 + [[0, -0.01 * h]] * 2
    upper, fore = _arm_angles(rng)
    elbows = shoulders + 0.165 * h * np.column_stack([_SIDES * np.sin(upper), np.cos(upper)])
    wrists = elbows + 0.145 * h * np.column_stack([_SIDES * np.sin(fore), np.cos(fore)])
    head = np.array([x - sway, ground - 0.895 * h])
    return Figure(h, ground, head, shoulders, elbows, wrists, hips, knees, ankles)


def _arm_angles(rng):
    """Radians of both upper arms [2] and of both forearms [2]."""
    poses = [list(_ARMS.values())[i] for i in rng.choice(len(_ARMS), 2, p=_ARM_SHARES)]
    return np.radians([[rng.uniform(*pose[part]) for pose in poses] for part in (0, 1)])
