"""Charts: values are legible, gaps stay gaps, long curves are reduced and keep peaks."""

import io
import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from dnnlib.charts import COLOURS, Chart, bar_chart, curves, growth_chart

X = np.arange(8.0)
SPACE = "{http://www.w3.org/2000/svg}"


def paths(svg, colour):
    """Return [points [n, 2]] of the lines of a colour in an SVG element."""
    found = [path.get("d") for path in ElementTree.fromstring(svg).iter(SPACE + "path")
             if f"stroke: {colour}" in path.get("style", "") and "clip-path" in path.attrib]
    return [np.array(re.findall(r"[ML] (\S+) (\S+)", d), float) for d in found]


def texts(svg):
    return [text.text for text in ElementTree.fromstring(svg).iter(SPACE + "text")]


def drawn(series, marks=()):
    """Return the Axes of a chart."""
    axes = Figure(figsize=(5.2, 2.5)).add_axes((0.13, 0.14, 0.85, 0.74))
    Chart("t", "kimg", series, list(marks)).draw(axes)
    return axes


@pytest.mark.parametrize("y, scale", [
    ([3, -1, 2, 0, 5, 1e-3, 7, 2], "linear"), ([1, 10, 100, 3, 2, 1, 900, 4], "log"),
    ([5.0] * 8, "linear"), ([0.0] * 8, "linear"), ([1e-12, 2e-12] * 4, "linear"),
    ([1e-200, 1e200] * 4, "log"), ([-1e299, 1e299] * 4, "linear")])
def test_values_can_be_read_off(y, scale):
    svg = Chart("t", "kimg", {"a": (X, y)}).svg()
    assert drawn({"a": (X, y)}).get_yscale() == scale
    (points,) = paths(svg, COLOURS[0])
    y = np.log(y) if scale == "log" else np.array(y, float)
    for places, values in zip(points.T, (X, -y / (np.abs(y).max() or 1)), strict=True):
        assert len(places) == len(values)
        if np.ptp(values):
            slope = np.ptp(places) / np.ptp(values)
            np.testing.assert_allclose(places - places[0], slope * (values - values[0]), atol=1e-3)
    assert len(texts(svg)) >= 8 and "kimg" in texts(svg)


def test_values_that_are_not_numbers_are_gaps_and_counted():
    y = [1, 2, np.nan, 3, np.inf, 4, 5, -np.inf]
    curve, dots = drawn({"a": (X, y)}).lines
    assert list(np.isnan(curve.get_ydata())) == [False, False, True, False, True, False, False,
                                                 True]
    assert dots.get_xydata().tolist() == [[3, 3]] and dots.get_marker() == "o"
    for points, text in ((y, "a: not finite (3 of 8 not finite)"), ([1, 2.5], "a: 2.5"),
                         ([], "a: nothing yet")):
        assert Chart("t", "", {"a": (X[:len(points)], points)}).legend() == {text: COLOURS[0]}
    for series in ({"a": (X, [np.nan] * 8)}, {"a": ([], [])}, {}, {"a": ([0.0], [4.0])}):
        ElementTree.fromstring(Chart("t", "kimg", series).svg())


def test_the_only_point_of_a_curve_is_drawn_whole_at_the_edge():
    """After one tick it is where the axis ends."""
    edge, middle = (np.asarray(Image.open(io.BytesIO(curves([Chart(
        "t", "kimg", {"a": ([4.0], [2.5])}, x_end=end)])))) for end in (4, 8))
    blue = np.array([int(COLOURS[0][k:k + 2], 16) for k in (1, 3, 5)])
    counts = [(picture[..., :3] == blue).all(-1).sum() for picture in (edge, middle)]
    assert abs(counts[0] - counts[1]) < 5, counts


def test_curves_of_different_lengths_share_the_axes():
    axes = drawn({"a": (X, X), "b": ([3.0, 6.0], [-4, 20])})
    assert axes.get_xlim() == (0, 7) and axes.get_ylim()[0] < -4 and axes.get_ylim()[1] > 20
    assert [line.get_color() for line in axes.lines[::2]] == list(COLOURS[:2])
    wide = Figure().add_subplot()
    Chart("t", "kimg", {"a": (X, X)}, x_end=50).draw(wide)
    assert wide.get_xlim() == (0, 50)


def test_long_curves_are_reduced_and_keep_peaks_and_ends(rng):
    x, y = np.arange(50_000.0), rng.normal(size=50_000)
    y[12_345], y[44_444], y[7] = 99, -99, np.nan
    svg = Chart("t", "kimg", {"a": (x, y)}).svg()
    assert len(svg) < 40_000
    few = Chart("t", "kimg", {"a": ([0, 12_345, 44_444, 49_999], [0, 99, -99, 0])}).svg()
    long, short = (np.concatenate(paths(text, COLOURS[0])) for text in (svg, few))
    for bound in (np.min, np.max):
        np.testing.assert_allclose(bound(long, axis=0), bound(short, axis=0), atol=1)
    for peak in short[1:3]:
        assert np.abs(long - peak).max(axis=1).min() < 1


def test_marks_are_in_place_and_their_texts_do_not_overlap():
    marks = [(1, "16", "mark"), (1.01, "32", "mark"), (3.5, "classes\x1b", "growth"),
             (6.9, "resumed", "resume"), (99, "outside", "mark")]
    axes = drawn({"a": (X, X)}, marks)
    assert [line.get_xdata()[0] for line in axes.lines[2:]] == [1, 1.01, 3.5, 6.9]
    assert len({line.get_color() for line in axes.lines[2:]}) == 3
    shown = [text.get_text() for text in axes.texts]
    assert shown == ["16", "classes\\u001b", "resumed"]  # 32 would cover 16
    axes.figure.canvas.draw()
    right = axes.bbox.x1
    assert all(text.get_window_extent().x1 <= right + 1 for text in axes.texts)


def test_axes_have_round_numbers_inside():
    for y in ([0, 1], [1, 1e6], [0.00123, 0.00124], [-5, 5], [2, 70]):
        axes = drawn({"a": ([0, 16600], y)})
        axes.figure.canvas.draw()
        low, high = axes.get_ylim()
        inside = [t for t in axes.get_yticklabels() if low <= t.get_position()[1] <= high]
        numbers = [float(text.get_text()) for text in inside]
        assert 2 <= len(numbers) <= 10 and len(set(numbers)) == len(numbers), (y, numbers)
        assert "10000" in [text.get_text() for text in axes.get_xticklabels()]


def test_a_single_number_is_not_flat():
    """Nor is a curve that was never finite, or has gaps: these must be visible."""
    def is_flat(*curves):
        return Chart("t", "kimg", {str(i): (np.arange(len(y)), y)
                                   for i, y in enumerate(curves)}).is_flat()

    assert is_flat([2, 2, 2]) and is_flat([0, 0], [3, 3, 3])
    assert not is_flat([2]) and not is_flat([2, 2], [3, 4]) and not is_flat([])
    assert not is_flat([2, np.nan, 2]) and not is_flat([np.nan, np.nan])


def test_bars_are_as_long_as_their_values():
    svg = bar_chart(["a", "b", "c"], {"x": [1, 2, 0], "y": [4, 0.5, 3]}, "{:.1f} %")
    for colour, values in zip(COLOURS, ([1, 2, 0], [4, 0.5, 3])):
        bars = re.findall(rf'<path d="([^"]*)" clip-path="[^"]*" style="fill: {colour}"', svg)
        widths = [np.ptp([float(x) for x in re.findall(r"[ML] (\S+) ", bar)]) for bar in bars]
        np.testing.assert_allclose(np.array(widths) / max(widths), np.array(values) / max(values),
                                   atol=1e-3)
    assert [text for text in texts(svg) if text] == [
        "a", "b", "c", "1.0 %", "2.0 %", "0.0 %", "4.0 %", "0.5 %", "3.0 %", "x", "y"]


def test_whiskers_are_as_long_as_their_spreads():
    values, spreads = [2.0, 1.0], [0.5, 0.25]
    svg = bar_chart(["a", "b"], {"x": values}, spreads={"x": spreads})
    bars = re.findall(rf'<path d="([^"]*)" clip-path="[^"]*" style="fill: {COLOURS[0]}"', svg)
    whiskers = re.findall(r'<path d="([^"]*)" clip-path="[^"]*" style="[^"]*stroke: #555555', svg)
    widths = [np.ptp([float(x) for x in re.findall(r"[ML] (\S+) ", path)])
              for path in bars + whiskers]
    np.testing.assert_allclose(np.array(widths) / widths[0], [1, 0.5, 0.5, 0.25], atol=1e-3)


def test_names_from_the_data_are_plain_text():
    names = ["$x_1$", "<script>", "a\x1b[2J\u202e\ud800", "\u8863\u670d", "_hidden"]
    svg = bar_chart(names, {"real": [1] * 5})
    assert texts(svg)[:5] == ["$x_1$", "<script>", "a\\u001b[2J\\u202e\\ud800", "\u8863\u670d",
                              "_hidden"]
    assert svg.startswith("<svg") and "<script>" not in svg and not re.search(r"url\(h|<image", svg)


def test_the_same_chart_has_the_same_bytes():
    for draw in (Chart("t", "kimg", {"a": (X, X)}, [(1, "x", "growth")]).svg,
                 lambda: bar_chart(["a"], {"x": [1]}), lambda: bar_chart(["a"], {"x": [1]},
                                                                        kind="png")):
        assert draw() == draw()
    assert not re.search(r"\d{4}-\d\d-\d\d|matplotlib v", bar_chart(["a"], {"x": [1]}))


@pytest.mark.parametrize("names, values", [([], []), (["a"], [0]), (["a", "b"], [1e-9, 1])])
def test_charts_without_bars_and_with_zero_bars(names, values):
    ElementTree.fromstring(bar_chart(names, {"x": values}))


def test_missing_values_have_no_bar():
    svg = bar_chart(["a", "b"], {"x": [np.nan, 2.0]}, spreads={"x": [np.nan, 0.5]})
    assert [text for text in texts(svg) if text] == ["a", "b", "none", "2"]


def test_long_names_and_titles_are_inside_the_picture():
    """Its edges stay white."""
    content = bar_chart(["a name of some length", "b"], {"real": [0.3, 0.2], "fake": [0.1, 0.4]},
                        title="A long title " * 8, kind="png")
    picture = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    for edge in (picture[0], picture[-1], picture[:, 0], picture[:, -1]):
        assert (edge == 255).all()
    assert (picture == (52, 101, 164)).all(axis=-1).any()


def test_matplotlib_is_imported_only_to_draw():
    code = ("import sys; import dnnlib.charts, training.run.run_page, dataprep.dataset_report, "
            "metrics.results; sys.exit('matplotlib' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def grown(*panels, **options):
    """Return the pixels of a growth chart of these series."""
    content = growth_chart({f"mIoU {n}": series for n, series in enumerate(panels)}, "labels",
                           **options)
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def test_growth_has_a_point_for_every_number():
    """Equal factors are equal distances: of 5, 10 and 20, the second is in the middle."""
    picture = grown({"a": [(5, 1, 0), (10, 1, 0), (20, 1, 0)]})
    blue = (picture == (52, 101, 164)).all(axis=-1)
    thick = np.flatnonzero(blue[:, :1000].sum(axis=0) > 5)  # markers; then comes the legend
    groups = np.split(thick, np.flatnonzero(np.diff(thick) > 1) + 1)
    first, middle, last = (group.mean() for group in groups)
    assert middle == pytest.approx((first + last) / 2, abs=1)
    for edge in (picture[0], picture[-1], picture[:, 0], picture[:, -1]):
        assert (edge == 255).all()


def test_growth_of_variants_is_dashed_in_one_colour():
    """Seven curves have four colours; a second panel has the same colours."""
    names = [start + kind for kind in "abcd" for start in ("", "x-")][:7]
    series = {name: [(5, 9 * n, 0), (20, 9 * n, 0)] for n, name in enumerate(names)}
    picture = grown(series, dict(reversed(series.items())), dashed="x-")
    for number, colour in enumerate(COLOURS):
        same = (picture == tuple(bytes.fromhex(colour[1:]))).all(axis=-1)
        for half in np.array_split(same, 2):
            lengths = half.sum(axis=1) / half.shape[1]
            rows = np.flatnonzero(lengths > 0.2)  # of curves, which are level; not of the legend
            lines = [lengths[group].max() for group in np.split(
                rows, np.flatnonzero(np.diff(rows) > 9) + 1) if len(group)]
            assert len(lines) == (2, 2, 2, 1, 0, 0)[number]
            assert len(lines) < 2 or 0.5 < min(lines) / max(lines) < 0.8


def test_charts_below_each_other_share_the_colour_of_a_name():
    charts = [Chart(title, "kimg", {"a": (X, X), "b": (X, 2 * X)}) for title in ("G", "D")]
    one, two = (np.asarray(Image.open(io.BytesIO(curves(charts[:count]))).convert("RGB"))
                for count in (1, 2))
    assert two.shape[0] > 1.5 * one.shape[0]
    for colour in ((52, 101, 164), (229, 124, 35)):
        rows = np.flatnonzero((two == colour).all(axis=-1).any(axis=1)) / two.shape[0]
        assert rows.min() < 0.45 and rows.max() > 0.55  # in both
