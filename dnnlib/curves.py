"""Line charts as SVG elements: curves over an axis, thinned, with gaps where there is no number."""

from dataclasses import dataclass, field
from math import ceil, floor, log10

import numpy as np

from dnnlib.charts import round_step
from dnnlib.page import escape

MAX_POINTS = 600  # of a curve; more than the chart has pixels to tell apart
LOG_RATIO = 30  # positive values that differ by more are drawn on a logarithmic scale
HUGE = 1e300  # beyond it counts as not finite: the axis could not be computed
COLOURS = ("#3465a4", "#e57c23", "#4e9a06", "#75507b", "#c4a000", "#a40000")
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 520, 250, 64, 12, 32, 34
_LETTER = 7  # about the width of a letter of 12 px
_MARK_ROWS = (26, 12)  # heights of the marks' texts


@dataclass
class Mark:
    """A vertical line at `x` with a text; `kind` is its class in the style sheet."""

    x: float
    text: str
    kind: str = "mark"


@dataclass
class Chart:
    """Curves over a common axis.

    Attributes:
        title: stands above. x_title: below the axis.
        series: {name: (x [n], y [n])}, x ascending; y may hold NaN and infinities: gaps.
        marks: [Mark]. x_end: the axis goes at least up to it, so that charts can be compared.
    """

    title: str
    x_title: str
    series: dict
    marks: list = field(default_factory=list)
    x_end: float = 0.0

    def svg(self):
        """The chart as an SVG element. Its attributes data-x, data-y (limits) and data-scale tell
        how its coordinates follow from numbers."""
        curves = {name: (np.asarray(x, np.float64), _finite(y))
                  for name, (x, y) in self.series.items()}
        plane = Plane.around(curves.values(), self.x_end)
        parts = [*plane.rules(), *plane.marks(self.marks)]
        for number, (name, (x, y)) in enumerate(curves.items()):
            parts += _curve(plane, name, x, y, COLOURS[number % len(COLOURS)])
        parts.append(f'<text class="axis" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 4}" '
                     f'text-anchor="end">{escape(self.x_title)}</text>')
        return (f'<svg xmlns="http://www.w3.org/2000/svg" class="lines" role="img" '
                f'viewBox="0 0 {_WIDTH} {_HEIGHT}" aria-label="{escape(self.title)}" '
                f'data-x="{plane.x[0]!r} {plane.x[1]!r}" data-y="{plane.y[0]!r} {plane.y[1]!r}" '
                f'data-scale="{"log" if plane.is_log else "linear"}">' + "\n".join(parts)
                + "</svg>")

    def is_flat(self) -> bool:
        """Whether no curve ever changes, of two points or more."""
        curves = [_finite(y) for _, y in self.series.values()]
        return (all(len(y) and (y == y[0]).all() for y in curves)
                and any(len(y) > 1 for y in curves))

    def legend(self):
        """[(colour, text)]: each curve's name, its last number, and how many are none."""
        return [(COLOURS[k % len(COLOURS)], f"{name}: {_last(_finite(y))}")
                for k, (name, (_, y)) in enumerate(self.series.items())]


def _finite(y):
    """As float64 [n], with NaN for whatever is no number that can be drawn."""
    y = np.array(y, np.float64)
    y[~(np.abs(y) < HUGE)] = np.nan
    return y


def _last(y):
    """'0.3071', '0.3071 (2 of 40 not finite)' or 'nothing yet'."""
    if not len(y):
        return "nothing yet"
    lost = int(np.isnan(y).sum())
    text = "not finite" if np.isnan(y[-1]) else f"{y[-1]:.4g}"
    return text + (f" ({lost} of {len(y)} not finite)" if lost else "")


@dataclass
class Plane:
    """Where numbers lie on the chart: x and y are (lowest, highest)."""

    x: tuple
    y: tuple
    is_log: bool

    @classmethod
    def around(cls, curves, x_end):
        """A plane with room for all curves [(x, y)], from 0 to `x_end` at least."""
        curves = list(curves)
        xs = np.concatenate([[0.0, x_end], *(x for x, _ in curves)])
        ys = np.concatenate([y[~np.isnan(y)] for _, y in curves] or [[]])
        if not len(ys):
            ys = np.array([0.0, 1.0])
        low, high = float(ys.min()), float(ys.max())
        is_log = low > 0 and high / low > LOG_RATIO
        if is_log:
            low, high = low / 1.15, high * 1.15
        else:
            room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
            low, high = low - room, high + room
        return cls((float(xs.min()), float(xs.max()) or 1.0), (low, high), is_log)

    def place_x(self, x):
        """Pixels from the left."""
        share = (np.asarray(x, np.float64) - self.x[0]) / (self.x[1] - self.x[0])
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def place_y(self, y):
        """Pixels from above."""
        low, high, y = self.y[0], self.y[1], np.asarray(y, np.float64)
        if self.is_log:
            low, high, y = np.log(low), np.log(high), np.log(y)
        return _HEIGHT - _BOTTOM - (y - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    def rules(self):
        """Horizontal rules with their numbers, and the numbers below."""
        right = _WIDTH - _RIGHT
        for value in _log_values(*self.y) if self.is_log else _even_values(*self.y, 5):
            y = self.place_y(value)
            yield (f'<line class="rule" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
                   f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.6g}</text>')
        bottom = _HEIGHT - _BOTTOM
        for value in _even_values(*self.x, 6):
            x = self.place_x(value)
            yield (f'<line class="rule" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
                   f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{value:.6g}</text>')

    def marks(self, marks):
        """Vertical lines within the chart; a text for which two rows have no room is a title only.
        """
        free = dict.fromkeys(_MARK_ROWS, _LEFT)
        for mark in marks:
            if not self.x[0] <= mark.x <= self.x[1]:
                continue
            x = float(self.place_x(mark.x))
            text = escape(mark.text)
            yield (f'<line class="{mark.kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 4}" '
                   f'y2="{_HEIGHT - _BOTTOM}"><title>{text}</title></line>')
            width = _LETTER * len(mark.text)
            start = min(x, _WIDTH - _RIGHT - width)
            row = next((row for row in _MARK_ROWS if start >= free[row]), None)
            if row:
                yield f'<text class="{mark.kind}" x="{start:.1f}" y="{row}">{text}</text>'
                free[row] = start + width + _LETTER


def _curve(plane, name, x, y, colour):
    """Lines between neighbours that are numbers; a number alone is a dot."""
    x, y = thinned(x, y)
    yield f'<g stroke="{colour}" fill="{colour}"><title>{escape(name)}</title>'
    px, py = plane.place_x(x), plane.place_y(y)
    gaps = np.flatnonzero(np.isnan(y))
    for piece in np.split(np.arange(len(y)), gaps):
        piece = piece[~np.isnan(y[piece])]
        if len(piece) == 1:
            yield f'<circle cx="{px[piece[0]]:.2f}" cy="{py[piece[0]]:.2f}" r="2.5"/>'
        elif len(piece):
            points = " ".join(f"{px[i]:.2f},{py[i]:.2f}" for i in piece)
            yield f'<polyline points="{points}"/>'
    yield "</g>"


def thinned(x, y, limit=MAX_POINTS):
    """At most about `limit` points of a curve: of every stretch of neighbours its first lowest,
    first highest and first missing one, so that peaks and gaps stay; the last point always.

    x, y: float64 [n], y with NaN where it is missing.
    """
    if len(y) <= limit:
        return x, y
    kept = {0, len(y) - 1}
    for part in np.array_split(np.arange(len(y)), limit // 3):
        missing = np.isnan(y[part])
        kept |= {int(part[missing.argmax()])} if missing.any() else set()
        if not missing.all():
            kept |= {int(part[np.nanargmin(y[part])]), int(part[np.nanargmax(y[part])])}
    kept = sorted(kept)
    return x[kept], y[kept]


def _even_values(low, high, count):
    """Round numbers between two limits, about `count`."""
    step = round_step((high - low) / count)
    first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def _log_values(low, high):
    """Powers of ten between two limits, some left out where there are many; or 1, 2, 5 times."""
    powers = range(floor(log10(low)), ceil(log10(high)) + 1)
    factors = (1, 2, 5) if len(powers) <= 3 else (1,)
    every = -(-len(powers) // 7)
    values = [f * 10.0 ** p for p in powers if p % every == 0 for f in factors]
    return [v for v in values if low <= v <= high]
