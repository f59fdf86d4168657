"""Draw lines and bars with matplotlib, as SVG elements for pages or as PNG files.

matplotlib is imported where it is used, so that programs that may draw a chart start at once.
"""

import contextlib
import io
import re
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dnnlib.page import escape_controls

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#3465a4", "#e57c23", "#4e9a06", "#75507b", "#c4a000", "#a40000")
LOG_DECADES = 1.5  # positive values that differ by more are drawn on a logarithmic scale
_HUGE = 1e300  # larger values count as not finite: their axis could not be computed
_LETTER = 0.017  # width of a letter of a mark's text, as a share of the chart's width
_MARKS = {"mark": ("#b0b0b0", "-"), "growth": ("#75507b", "-"), "resume": ("#a40000", ":")}
# Text is stored as text, the same chart has the same bytes, and a $ in a name does not start a
# formula. Within a pixel, a curve is a line from its lowest to its highest value.
_STYLE = {"path.simplify_threshold": 1, "svg.fonttype": "none", "svg.hashsalt": "charts",
          "font.sans-serif": ["DejaVu Sans"], "font.size": 9, "text.parse_math": False,
          "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#999999",
          "grid.color": "#e4e4e4", "axes.axisbelow": True, "legend.frameon": False}


@dataclass
class Chart:
    """Curves over a common axis.

    Attributes:
        series: {name: (x [n], y [n])}, x ascending; y may hold NaN and infinities, which are gaps.
        marks: [(x, text, kind)] of vertical lines; kind is one of 'mark', 'growth' and 'resume'.
        x_end: value that the axis reaches at least, to make charts comparable.
    """

    title: str
    x_title: str
    series: dict
    marks: list = field(default_factory=list)
    x_end: float = 0.0

    def is_flat(self) -> bool:
        """Return whether every curve has one value throughout, and one has two points or more."""
        curves = [_finite(y) for _, y in self.series.values()]
        return (all(len(y) and (y == y[0]).all() for y in curves)
                and any(len(y) > 1 for y in curves))

    def legend(self) -> dict[str, str]:
        """Return {text: colour}: each curve's name, last value, number of values not finite."""
        entries = {}
        for (name, (_, y)), colour in zip(self.series.items(), COLOURS * len(self.series)):
            y = _finite(y)
            last = f"{y[-1]:.4g}" if len(y) else "nothing yet"
            lost = f" ({np.isnan(y).sum()} of {len(y)} not finite)" if np.isnan(y).any() else ""
            entries[f"{name}: {last.replace('nan', 'not finite')}{lost}"] = colour
        return entries

    def svg(self) -> str:
        """Draw the curves as an SVG element; title and legend are for the page to print."""
        with _figure(5.2, 2.5) as figure:
            self.draw(figure.add_axes((0.13, 0.14, 0.85, 0.74)))  # left, bottom, width, height
            return _svg(figure)

    def draw(self, axes: "Axes"):
        """Draw the curves and marks into the Axes of a figure."""
        from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

        curves = [(np.asarray(x, np.float64), _finite(y)) for x, y in self.series.values()]
        xs = np.concatenate([[0.0, self.x_end], *(x for x, _ in curves)])
        ys = np.concatenate([[], *(y[~np.isnan(y)] for _, y in curves)])
        decades = np.ptp(np.log10(ys)) if len(ys) and ys.min() > 0 else 0
        if decades > LOG_DECADES:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 3 else (1,),
                                                    numticks=8))
            axes.yaxis.set_minor_locator(NullLocator())
        else:
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10)))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: f"{value:.6g}")
        axes.set_xlim(xs.min(), xs.max() or 1.0)
        axes.set_xlabel(escape_controls(self.x_title), loc="right", labelpad=0)
        axes.grid(axis="y")
        # Draw the curves; a value between two gaps is a dot, as no line reaches it. It is drawn
        # whole at the chart's edges, where the only value of a young training is.
        for (x, y), colour in zip(curves, COLOURS * len(curves)):
            gaps = np.isnan(np.concatenate([[np.nan], y, [np.nan]]))
            alone = gaps[:-2] & gaps[2:] & ~gaps[1:-1]
            axes.plot(x, y, color=colour, linewidth=1.2)
            axes.plot(x[alone], y[alone], "o", color=colour, markersize=4, clip_on=False)
        # Draw vertical lines; a text that would cover the previous one is left out.
        (low, high), free = axes.get_xlim(), 0.0
        for x, text, kind in (mark for mark in self.marks if low <= mark[0] <= high):
            colour, dashes = _MARKS[kind]
            axes.axvline(x, color=colour, linestyle=dashes, linewidth=0.9)
            text = escape_controls(text)[:20]
            width = _LETTER * len(text)
            start = min((x - low) / (high - low), 1 - width)
            if start >= free:
                axes.text(start, 1.02, text, color=colour, fontsize=8, transform=axes.transAxes)
                free = start + width + _LETTER


def bar_chart(names: list, series: dict, form: str = "{:g}", title: str = "",
              kind: str = "svg", spreads: dict | None = None) -> str | bytes:
    """Draw horizontal bars: a group for each name, in it a bar for each of `series`.

    Args:
        series: {legend: values [len(names)]}; NaN and infinities have no bar.
        form: format of the number behind each bar.
        kind: 'svg' for the element, 'png' for the content of a file.
        spreads: {legend: lengths [len(names)]} of a whisker to either side of a bar's end.
    """
    thick = 0.8 / len(series)
    series = {legend: _finite(values) for legend, values in series.items()}
    height = max(len(names), 1) * (0.17 * len(series) + 0.08)
    with _figure(6.5, height) as figure:
        axes = figure.add_axes((0, 0, 1, 1))
        for k, (legend, values) in enumerate(series.items()):
            places = np.arange(len(names)) + (k - (len(series) - 1) / 2) * thick
            bars = axes.barh(places, np.nan_to_num(values), 0.88 * thick,
                             label=escape_controls(legend),
                             xerr=spreads and np.nan_to_num(spreads[legend]),
                             error_kw={"elinewidth": 0.8, "ecolor": "#555555"},
                             color=COLOURS[k % len(COLOURS)])
            axes.bar_label(bars, ["none" if np.isnan(value) else form.format(value)
                                  for value in values], padding=3)
        # Names at the left, no axis below, legend and title above.
        axes.set_yticks(np.arange(len(names)), [escape_controls(name) for name in names])
        axes.set_ylim(max(len(names), 1) - 0.5, -0.5)
        ends = [end for legend, values in series.items()
                for end in np.nan_to_num(values) + np.nan_to_num(spreads[legend] if spreads else 0)]
        axes.set_xlim(0, 1.1 * max(ends, default=1) or 1)
        axes.tick_params(left=False, bottom=False, labelbottom=False)
        axes.spines["bottom"].set_visible(False)
        if len(series) > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(series))
        if title:
            axes.set_title(escape_controls(title), pad=26)
        return _svg(figure, "tight") if kind == "svg" else _png(figure)


def growth_chart(panels: dict, x_title: str, title: str = "", dashed: str = "") -> bytes:
    """Draw values over a logarithmic axis, with whiskers, as a PNG file.

    Args:
        panels: {title of the values: {legend: [(x, value, length of a whisker to either side)]}},
            x ascending, above 0; panels are drawn one below the other.
        dashed: prefix of the legends of curves that are dashed, with hollow marks, in the colour of
            the curve whose legend lacks the prefix.
    """
    names = dict.fromkeys(legend.removeprefix(dashed) for series in panels.values()
                          for legend in series)
    colours = dict(zip(names, COLOURS * len(names)))
    with _figure(6.0, 3.6 * len(panels)) as figure:
        grid = figure.subplots(len(panels), squeeze=False, gridspec_kw={
            "left": 0, "right": 1, "bottom": 0, "top": 1, "hspace": 0.25})[:, 0]
        for (y_title, series), axes in zip(panels.items(), grid):
            for legend, points in series.items():
                name = legend.removeprefix(dashed)
                x, values, spreads = zip(*points)
                axes.errorbar(x, values, spreads, label=escape_controls(legend),
                              color=colours[name], linestyle="-" if legend == name else "--",
                              marker="o", markersize=5,
                              markerfacecolor=colours[name] if legend == name else "white",
                              linewidth=1.2, capsize=3, elinewidth=0.8)
            # A tick at every number; the legend at the right.
            ticks = sorted({point[0] for points in series.values() for point in points})
            axes.set_xscale("log")
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
            axes.set_xlabel(escape_controls(x_title))
            axes.set_ylabel(escape_controls(y_title))
            axes.grid(axis="y")
            axes.legend(loc="upper left", bbox_to_anchor=(1, 1), handlelength=3)
        if title:
            grid[0].set_title(escape_controls(title), loc="left")
        return _png(figure)


def curves(charts: list[Chart]) -> bytes:
    """Draw charts below each other, each with its title and legend, as a PNG file."""
    with _figure(7.0, 2.6 * len(charts)) as figure:
        panels = figure.subplots(len(charts), squeeze=False, gridspec_kw={"hspace": 0.5})
        for chart, axes in zip(charts, panels[:, 0]):
            chart.draw(axes)
            axes.set_title(escape_controls(chart.title), loc="left")
            legend = chart.legend()
            handles = [axes.plot([], [], color=colour)[0] for colour in legend.values()]
            axes.legend(handles, [escape_controls(text) for text in legend], loc="upper left",
                        bbox_to_anchor=(1, 1))
        return _png(figure)


def _finite(y):
    """Return float64 [n] with NaN for whatever cannot be drawn."""
    y = np.array(y, np.float64)
    y[~(np.abs(y) < _HUGE)] = np.nan
    return y


@contextlib.contextmanager
def _figure(width, height):
    """Yield an empty figure of this size, in inches, in the style of all charts."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # A browser has the letters that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield Figure(figsize=(width, height))


def _png(figure):
    """Return a figure as the content of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()


def _svg(figure, bounds=None):
    """Return a figure as an SVG element, without anything that changes from call to call."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches=bounds,
                   metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue()
    # Leave out the file's head, and ids that several charts of a page would share.
    return re.sub(r'<g id="\w+">', "<g>", text[text.index("<svg"):])
