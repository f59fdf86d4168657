"""Clothes for a drawn figure: chosen at random, painted back to front."""

import numpy as np

from dataprep.annotations import MODANET_CLASSES

_SKIN = ((246, 214, 190), (234, 192, 160), (214, 164, 128), (150, 104, 74), (104, 70, 50))
_HAIR = ((30, 24, 22), (84, 54, 34), (168, 122, 70), (128, 52, 30))
_CLOTH = ((200, 44, 52), (236, 186, 60), (60, 140, 90), (240, 240, 236), (226, 120, 150),
          (70, 130, 190), (130, 90, 160), (232, 130, 60))
_DENIM = ((52, 72, 122), (92, 122, 170), (34, 42, 66), (70, 66, 64))
_LEATHER = ((34, 30, 30), (112, 66, 38), (150, 40, 44), (176, 134, 84))
_COAT = ((60, 62, 70), (120, 96, 70), (70, 84, 70), (150, 150, 156), (110, 50, 60))


class Dresser:
    """Paints one figure in clothes of random kinds and colours."""

    def __init__(self, canvas, figure, rng):
        self.canvas, self.figure, self.rng, self.h = canvas, figure, rng, figure.h
        self.labels = []  # class ids; the first garment is object 1 of the canvas
        self.skin, self.hair = self._colour(_SKIN), self._colour(_HAIR)

    def dress(self):
        """Paint everything; returns the class ids of the garments in the order of their objects."""
        long_hair = self._chance(0.5)
        if long_hair:
            self.canvas.ellipse(self._face(0, 0.055), 0.094 * self.h, 0.13 * self.h, self.hair)
        self._bare_body()
        kind = self.rng.choice(["dress", "skirt", "pants", "shorts"], p=[0.28, 0.22, 0.34, 0.16])
        self._feet(boots=self._chance(0.33))
        sleeves = self._dress() if kind == "dress" else self._top_and(kind)
        if self._chance(0.22):
            belt = self._garment("belt", _LEATHER)
            self.canvas.polygon(self.figure.trunk(0.575, 0.545, 0.012), *belt)
        if self._chance(0.3):
            sleeves = self._coat()
        self._arms(*sleeves)
        self._head(long_hair)
        if self._chance(0.2):
            self._scarf()
        return self.labels

    def _chance(self, share):
        """True in that share of the cases."""
        return self.rng.random() < share

    def _colour(self, colours):
        """One of the colours, varied a little."""
        base = np.array(colours[self.rng.integers(len(colours))])
        return np.clip(base + self.rng.normal(0, 8, 3), 8, 250)

    def _garment(self, name, colours):
        """(colour, number on the canvas) of a new garment of the class `name`."""
        self.labels.append(MODANET_CLASSES.index(name) + 1)
        return self._colour(colours), len(self.labels)

    def _face(self, x, y):
        """The point right of and below the middle of the head, in heights of the body."""
        return self.figure.head + np.array([x, y]) * self.h

    def _bare_body(self):
        figure, canvas = self.figure, self.canvas
        for side in (0, 1):
            canvas.limb(figure.leg(side, 0.05), 0.042 * self.h, self.skin)
        canvas.polygon(figure.trunk(0.79, 0.45), self.skin)
        canvas.limb([figure.at(0, 0.82), figure.at(0, 0.76)], 0.04 * self.h, self.skin)

    def _feet(self, boots):
        """Boots to below the knee, or shoes."""
        foot = self._garment("boots" if boots else "footwear", _LEATHER)
        top = self.rng.uniform(0.17, 0.23)
        for side, sign in enumerate((-1, 1)):
            ankle = self.figure.ankles[side]
            if boots:
                start = self.figure.leg(side, top)[-1]
                self.canvas.limb([start, ankle], 0.05 * self.h, *foot)
            toe = ankle + np.array([sign * 0.035, 0.018]) * self.h
            self.canvas.limb([ankle + [0, 0.012 * self.h], toe], 0.034 * self.h, *foot)

    def _dress(self):
        """A dress; returns (colour, object, share of the arm) of its sleeves."""
        dress = self._garment("dress", _CLOTH)
        hem, flare = self.rng.uniform(0.16, 0.34), self.rng.uniform(0.02, 0.08)
        self.canvas.polygon(self.figure.trunk(0.60, hem, 0.01, flare), *dress)
        self.canvas.polygon(self.figure.trunk(0.785, 0.55, 0.008), *dress)
        return *dress, self.rng.choice([0.0, 0.3])

    def _top_and(self, kind):
        """A top with a skirt, pants or shorts; returns (colour, object, share of the arm) of its
        sleeves."""
        top = self._garment("top", _CLOTH)
        bottom = self._garment(kind, _CLOTH if kind == "skirt" else _DENIM)
        if kind == "skirt":
            hem, flare = self.rng.uniform(0.2, 0.36), self.rng.uniform(0.0, 0.07)
            self.canvas.polygon(self.figure.trunk(0.58, hem, 0.012, flare), *bottom)
        else:
            until = 0.07 if kind == "pants" else self.rng.uniform(0.3, 0.36)
            for side in (0, 1):
                self.canvas.limb(self.figure.leg(side, until), 0.055 * self.h, *bottom)
            self.canvas.polygon(self.figure.trunk(0.57, 0.44, 0.008), *bottom)
        hem = self.rng.uniform(0.5, 0.57)
        self.canvas.polygon(self.figure.trunk(0.785, hem, 0.01), *top)
        return *top, self.rng.choice([0.0, 0.3, 0.9])

    def _coat(self):
        """An open jacket or coat; returns (colour, object, share of the arm) of its sleeves."""
        coat = self._garment("outer", _COAT)
        hem, gap = self.rng.uniform(0.3, 0.5), self.rng.uniform(0.02, 0.05)
        whole = self.figure.trunk(0.79, hem, 0.022, 0.01)
        edge = np.array([self.figure.at(gap, 0.79), self.figure.at(gap, hem)])
        self.canvas.polygon([*whole[:8], *(edge - [2 * gap * self.h, 0])[::-1]], *coat)
        self.canvas.polygon([*whole[8:], *edge], *coat)
        return *coat, 0.95

    def _arms(self, colour, owner, share):
        """Arms with sleeves, and perhaps a bag in one hand."""
        bag_side = self.rng.integers(2) if self._chance(0.35) else None
        for side in (0, 1):
            self.canvas.limb(self.figure.arm(side, 1.0), 0.031 * self.h, self.skin)
            self.canvas.ellipse(self.figure.wrists[side], 0.036 * self.h, 0.036 * self.h, self.skin)
            if share:
                self.canvas.limb(self.figure.arm(side, share), 0.041 * self.h, colour, owner)
            if side == bag_side:
                self._bag(self.figure.wrists[side])

    def _bag(self, hand):
        bag = self._garment("bag", _LEATHER)
        width, height = self.rng.uniform(0.05, 0.07), self.rng.uniform(0.09, 0.13)
        corners = np.array([(-0.8, 0.2), (0.8, 0.2), (1, 1), (-1, 1)]) * [width, height]
        self.canvas.limb([hand, hand + [0, 0.25 * height * self.h]], 0.012 * self.h, *bag)
        self.canvas.polygon(hand + corners * self.h, *bag)

    def _head(self, long_hair):
        """Head, hair, sunglasses, headwear."""
        h, canvas = self.h, self.canvas
        canvas.ellipse(self._face(0, -0.02), 0.086 * h, 0.092 * h, self.hair)
        canvas.ellipse(self._face(0, 0.012), 0.07 * h, 0.082 * h, self.skin)
        canvas.polygon([self._face(x, y) for x, y in (
            (-0.075, -0.02), (-0.05, -0.09), (0.05, -0.09), (0.075, -0.02), (0.03, -0.045),
            (-0.03, -0.045))], self.hair)
        for sign in (-1, 1):
            canvas.ellipse(self._face(sign * 0.027, 0.01), 0.01 * h, 0.01 * h, (40, 34, 30))
        canvas.ellipse(self._face(0, 0.055), 0.022 * h, 0.008 * h, self.skin * [0.85, 0.55, 0.55])
        if self._chance(0.2):
            glass = self._garment("sunglasses", ((24, 24, 30), (52, 34, 24)))
            for sign in (-1, 1):
                canvas.ellipse(self._face(sign * 0.032, 0.01), 0.03 * h, 0.022 * h, *glass)
        if self._chance(0.28):
            hat = self._garment("headwear", _CLOTH)
            canvas.polygon([self._face(x, y) for x, y in (
                (-0.085, -0.035), (-0.065, -0.105), (0.065, -0.105), (0.085, -0.035))], *hat)
            canvas.ellipse(self._face(0, -0.038), self.rng.uniform(0.09, 0.13) * h, 0.017 * h, *hat)

    def _scarf(self):
        """A scarf around the neck with one end hanging."""
        scarf = self._garment("scarf/tie", _CLOTH)
        self.canvas.limb([self.figure.at(-0.05, 0.785), self.figure.at(0.05, 0.785)],
                         0.03 * self.h, *scarf)
        end = self.rng.uniform(0.62, 0.68)
        self.canvas.limb([self.figure.at(0.03, 0.78), self.figure.at(0.035, end)], 0.025 * self.h,
                         *scarf)
