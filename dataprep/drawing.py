"""Curves, fabrics and a canvas that remembers which pixel belongs to what: for drawn photos.

Points are float arrays [n, 2] of x, y in pixels, y down.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

_SUBPIXELS = 4
_LIGHT = np.array([-0.8, -0.6])  # towards the light: the upper left
_SHADOW_OFFSET = (3, 4)  # pixels right and down


def curve(points, closed=True, steps=8):
    """A Catmull-Rom spline through `points` [n, 2]: [m, 2]."""
    p = np.asarray(points, np.float64)
    if not closed:
        p = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    t = np.arange(steps)[:, None, None] / steps
    p0, p1, p2, p3 = (p[:-3], p[1:-2], p[2:-1], p[3:]) if not closed else \
        (np.roll(p, 1, 0), p, np.roll(p, -1, 0), np.roll(p, -2, 0))
    spline = 0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2
                    + (3 * p1 - p0 - 3 * p2 + p3) * t**3)
    spline = spline.transpose(1, 0, 2).reshape(-1, 2)
    return spline if closed else np.concatenate([spline, p[-2:-1]])


def tube(points, radii, round_ends=True):
    """A smooth limb along `points` [n, 2] with radii [n]: a list of polygons, their union.

    One outline would cross itself where the limb bends sharply.
    """
    line = curve(points, closed=False)
    radius = np.interp(np.linspace(0, len(radii) - 1, len(line)), np.arange(len(radii)), radii)
    direction = np.gradient(line, axis=0)
    direction /= np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-6)
    normal = direction[:, ::-1] * [1, -1] * radius[:, None]
    left, right = line + normal, line - normal
    pieces = [np.stack([left[i], left[i + 1], right[i + 1], right[i]])
              for i in range(len(line) - 1)]
    to_end = np.minimum(np.linalg.norm(line - line[0], axis=1),
                        np.linalg.norm(line - line[-1], axis=1))
    discs = range(len(line)) if round_ends else np.flatnonzero(to_end > radius)
    return pieces + [ellipse(line[i], radius[i], radius[i]) for i in discs]


def ellipse(centre, half_width, half_height, tilt=0.0):
    """An ellipse as a polygon [32, 2]; `tilt` in radians, clockwise."""
    angle = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    x, y = half_width * np.cos(angle), half_height * np.sin(angle)
    return np.column_stack([centre[0] + x * np.cos(tilt) - y * np.sin(tilt),
                            centre[1] + x * np.sin(tilt) + y * np.cos(tilt)])


def blur(field, radius):
    """Three box means along both axes, close to a Gaussian; `field` float32 [h, w], edges held."""
    radius = int(radius)
    for axis in (0, 1) * 3 if radius else ():
        width = [(0, 0)] * field.ndim
        width[axis] = (radius + 1, radius)
        total = np.cumsum(np.pad(field, width, mode="edge"), axis=axis, dtype=np.float64)
        size = 2 * radius + 1
        upper = np.take(total, range(size, total.shape[axis]), axis)
        lower = np.take(total, range(total.shape[axis] - size), axis)
        field = ((upper - lower) / size).astype(np.float32)
    return field


def noise(rng, size, cells):
    """Smooth random field float32 [h, w], about -1 to 1; `size` (h, w), `cells` (rows, columns)."""
    grid = Image.fromarray(rng.uniform(-1, 1, cells).astype(np.float32))
    return np.asarray(grid.resize(size[::-1], Image.Resampling.BICUBIC))


@dataclass(frozen=True)
class Fabric:
    """A pattern in the plane: `kind`, two colours [3] 0..255, the repeat in pixels, its angle."""

    kind: str
    base: tuple
    second: tuple = (255, 255, 255)
    repeat: float = 12.0
    angle: float = 0.0

    def at(self, x, y):
        """Colours float32 [..., 3] at pixel coordinates [...]."""
        u = (x * np.cos(self.angle) + y * np.sin(self.angle)) / self.repeat
        v = (y * np.cos(self.angle) - x * np.sin(self.angle)) / self.repeat
        weight = _PATTERNS[self.kind](u, v)[..., None].astype(np.float32)
        base, second = np.float32(self.base), np.float32(self.second)
        return base + (second - base) * weight


def _soft(value, width=0.12):
    """A step from 0 to 1 at value 0, `width` wide on both sides."""
    return np.clip(value / (2 * width) + 0.5, 0, 1)


def _dots(u, v):
    return _soft(0.32 - np.hypot(u % 1 - 0.5, (v + 0.5 * (np.floor(u) % 2)) % 1 - 0.5), 0.06)


def _flowers(u, v):
    cell = np.sin(12.9898 * np.floor(u) + 78.233 * np.floor(v)) * 43758.5453 % 1
    x, y = u % 1 - 0.35 - 0.3 * cell, v % 1 - 0.35 - 0.3 * (cell * 7 % 1)
    petals = 0.24 + 0.09 * np.cos(5 * np.arctan2(y, x) + 6 * cell)
    return _soft(petals - np.hypot(x, y), 0.06)


_PATTERNS = {
    "plain": lambda u, v: np.zeros_like(u),
    "stripes": lambda u, v: _soft(np.abs(v % 1 - 0.5) - 0.25),
    "checks": lambda u, v: 0.5 * (_soft(np.abs(u % 1 - 0.5) - 0.28)
                                  + _soft(np.abs(v % 1 - 0.5) - 0.28)),
    "dots": _dots,
    "flowers": _flowers,
    "denim": lambda u, v: 0.18 + 0.1 * np.sin(90 * (u + v)) + 0.08 * np.sin(1.3 * u + 0.7 * v),
    "knit": lambda u, v: 0.12 + 0.12 * np.sin(22 * v + 2 * np.sin(22 * u)),
}
PATTERNS = tuple(_PATTERNS)


class Canvas:
    """A picture in the making.

    rgb: float32 [h, w, 3] in 0..255; owner: int16 [h, w], the object that shows at each pixel, 0
    where it is none that is counted.
    """

    def __init__(self, rgb, rng):
        self.rgb = np.array(rgb, np.float32)
        self.owner = np.zeros(rgb.shape[:2], np.int16)
        height, width = self.owner.shape
        self._folds = (0.7 * noise(rng, (height, width), (height // 30, width // 9))
                       + 0.5 * noise(rng, (height, width), (height // 14, width // 20)))

    def paint(self, outlines, fabric, owner=0, relief=0.3, folds=0.06, shadow=0.22, depth=None):
        """Fill polygons (a list of [n, 2]) with a shaded fabric.

        relief: strength of the shading that makes it round; folds: of the creases; shadow: of what
        it throws on things below; depth: blur radius of the shading, by default from the size.
        """
        box = self._box(np.concatenate(outlines), margin=14)
        if box is None:
            return
        x0, y0, x1, y1 = box
        alpha = self._coverage(outlines, box)
        area = np.s_[y0:y1, x0:x1]
        if shadow:
            dark = blur(np.roll(alpha, _SHADOW_OFFSET[::-1], (0, 1)), 4) * (1 - alpha)
            self.rgb[area] *= (1 - shadow * dark)[..., None]
        depth = depth or int(np.clip(min(x1 - x0 - 28, y1 - y0 - 28) / 5, 2, 7))
        light = 1 + relief * _relief(alpha, depth) + folds * self._folds[area]
        y, x = np.mgrid[y0:y1, x0:x1].astype(np.float32)
        colour = fabric.at(x, y) * light[..., None]
        self.rgb[area] += (colour - self.rgb[area]) * alpha[..., None]
        self.owner[area][alpha >= 0.5] = owner

    def _box(self, points, margin):
        """x0, y0, x1, y1 of what can change, within the canvas; None where nothing can."""
        height, width = self.owner.shape
        low = np.maximum(np.floor(points.min(0)).astype(int) - margin, 0)
        high = np.minimum(np.ceil(points.max(0)).astype(int) + margin, [width, height])
        return (*low, *high) if (high > low).all() else None

    @staticmethod
    def _coverage(outlines, box):
        """Share of each pixel that the polygons cover, float32 [h, w] in 0..1."""
        x0, y0, x1, y1 = box
        mask = Image.new("L", ((x1 - x0) * _SUBPIXELS, (y1 - y0) * _SUBPIXELS))
        draw = ImageDraw.Draw(mask)
        for outline in outlines:
            points = (np.asarray(outline) - [x0, y0]) * _SUBPIXELS
            draw.polygon([tuple(point) for point in points.tolist()], fill=255)
        return np.asarray(mask.reduce(_SUBPIXELS), np.float32) / 255

    def darken(self, outline, amount, softness):
        """A soft shadow of the form of a polygon [n, 2]."""
        x0, y0, x1, y1 = box = self._box(outline, margin=4 * softness)
        dark = blur(self._coverage([outline], box), softness)
        self.rgb[y0:y1, x0:x1] *= (1 - amount * dark)[..., None]


def _relief(alpha, depth):
    """Shading about -1..1 of a shape bulging towards the viewer, lit from the upper left."""
    height = blur(alpha, depth / 2)
    slope_y, slope_x = np.gradient(height)
    lit = -(slope_x * _LIGHT[0] + slope_y * _LIGHT[1]) * 1.1 * depth
    return np.clip(lit, -1, 1) - 0.5 * (1 - height)
