"""A canvas that remembers which pixel belongs to what: for drawn photos.

Points are float arrays [n, 2] of x, y in pixels, y down.
"""

import numpy as np
from PIL import Image, ImageDraw

_EDGE = 3  # pixels of a shape's darker outline


def noise(rng, size, cells):
    """Smooth random field float32 [h, w], about -1 to 1; `size` (h, w), `cells` (rows, columns)."""
    grid = Image.fromarray(rng.uniform(-1, 1, cells).astype(np.float32))
    return np.asarray(grid.resize(size[::-1], Image.Resampling.BICUBIC))


class Canvas:
    """A picture in the making; what is painted later covers what was there."""

    def __init__(self, rgb):
        """rgb: uint8 [h, w, 3], the backdrop, which belongs to object 0."""
        self._picture = Image.fromarray(rgb)
        self._owner = Image.new("L", self._picture.size)
        self._pens = [ImageDraw.Draw(self._picture), ImageDraw.Draw(self._owner)]

    @property
    def rgb(self):
        """The picture, uint8 [h, w, 3]."""
        return np.array(self._picture)

    @property
    def owner(self):
        """The object that shows at each pixel, uint8 [h, w]; 0 where it is none that counts."""
        return np.array(self._owner)

    def polygon(self, points, colour, owner=0):
        """Fill a polygon [n, 2]."""
        points = [tuple(point) for point in np.asarray(points).tolist()]
        for pen, fill, edge in self._inks(colour, owner):
            pen.polygon(points, fill=fill, outline=edge, width=_EDGE)

    def ellipse(self, centre, half_width, half_height, colour, owner=0):
        """Fill an ellipse whose axes are upright."""
        half = np.array([half_width, half_height])
        box = [*(centre - half), *(centre + half)]
        for pen, fill, edge in self._inks(colour, owner):
            pen.ellipse(box, fill=fill, outline=edge, width=_EDGE)

    def limb(self, points, radius, colour, owner=0):
        """Draw a bent stroke with round ends through `points` [n, 2], 2 * `radius` pixels wide."""
        for shrink, tone in ((0, 0.8), (_EDGE, 1)):
            r = max(radius - shrink, 1)
            for pen, fill, _ in self._inks(np.array(colour) * tone, owner):
                pen.line([tuple(point) for point in np.asarray(points).tolist()], fill=fill,
                         width=round(2 * r), joint="curve")
                for x, y in (points[0], points[-1]):
                    pen.ellipse([x - r, y - r, x + r, y + r], fill=fill)

    def _inks(self, colour, owner):
        """(pen, fill, outline) of the picture and of the owners."""
        fill, edge = (tuple(np.clip(np.array(colour) * tone, 0, 255).astype(int).tolist())
                      for tone in (1, 0.8))
        return zip(self._pens, (fill, owner), (edge, owner))
