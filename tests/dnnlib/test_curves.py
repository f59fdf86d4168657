"""Line charts: values can be read off them, gaps stay gaps, long ones are thin and keep peaks."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from dnnlib.curves import MAX_POINTS, Chart, Mark, thinned
from tests.tools.chart_reader import PageReader

X = np.arange(8.0)


def read(series, marks=(), title="t"):
    svg = Chart(title, "kimg", series, list(marks)).svg()
    ElementTree.fromstring(svg)
    return PageReader(svg)


@pytest.mark.parametrize("y, scale", [
    ([3, -1, 2, 0, 5, 1e-3, 7, 2], "linear"), ([1, 10, 100, 3, 2, 1, 900, 4], "log"),
    ([5.0] * 8, "linear"), ([0.0] * 8, "linear"), ([1e-12, 2e-12] * 4, "linear"),
    ([1e-200, 1e200] * 4, "log"), ([-1e299, 1e299] * 4, "linear")])
def test_values_can_be_read_off(y, scale):
    reader = read({"a": (X, y)})
    assert reader.charts["t"]["data-scale"] == scale
    (piece,) = reader.values("t")["a"]
    x_read, y_read = np.array(piece).T
    np.testing.assert_allclose(x_read, X, atol=1e-3)
    if scale == "log":
        np.testing.assert_allclose(np.log(y_read), np.log(y), atol=1e-4 * np.ptp(np.log(y)))
    else:
        np.testing.assert_allclose(y_read, y, atol=1e-4 * (np.ptp(y) or 1))


def test_what_is_no_number_is_a_gap_and_counted():
    y = [1, 2, np.nan, 3, np.inf, 4, 5, -np.inf]
    pieces = read({"a": (X, y)}).values("t")["a"]
    assert [[round(x) for x, _ in piece] for piece in pieces] == [[0, 1], [3], [5, 6]]
    assert Chart("t", "kimg", {"a": (X, y)}).legend()[0][1] == "a: not finite (3 of 8 not finite)"
    assert Chart("t", "kimg", {"a": (X[:2], [1, 2.5])}).legend()[0][1] == "a: 2.5"
    assert read({"a": (X, [np.nan] * 8)}).values("t") == {"a": []}
    assert read({"a": ([], [])}).values("t") == {"a": []} and read({}).values("t") == {}
    assert read({"a": ([0.0], [4.0])}).values("t")["a"] == [[(0.0, pytest.approx(4))]]


def test_curves_of_other_lengths_share_the_axes():
    reader = read({"a": (X, X), "b": ([3.0, 6.0], [-4, 20])})
    assert reader.charts["t"]["data-x"] == "0.0 7.0"
    np.testing.assert_allclose(reader.values("t")["b"][0], [(3, -4), (6, 20)], atol=5e-3)


def test_thinning_keeps_peaks_gaps_and_the_end(rng):
    x, y = np.arange(50_000.0), rng.normal(size=50_000)
    y[12_345], y[44_444], y[7] = 99, -99, np.nan
    thin_x, thin_y = thinned(x, y)
    assert len(thin_y) <= MAX_POINTS + 2 and {0, 7, 12_345, 44_444, 49_999} <= set(thin_x)
    np.testing.assert_array_equal(thin_y, y[thin_x.astype(int)])
    assert (np.diff(thin_x) > 0).all() and np.diff(thin_x).max() < 2 * len(x) / (MAX_POINTS // 3)
    same = thinned(x[:MAX_POINTS], y[:MAX_POINTS])
    np.testing.assert_array_equal(same[0], x[:MAX_POINTS])
    assert len(Chart("t", "kimg", {"a": (x, y)}).svg()) < 20_000


def test_marks_lie_where_they_should_and_their_texts_apart():
    marks = [Mark(1, "16"), Mark(1.01, "32"), Mark(1.02, "64"), Mark(5, "classes", "growth"),
             Mark(99, "outside")]
    reader = read({"a": (X, X)}, marks)
    assert [kind for kind, _ in reader.charts["t"]["marks"]] == ["mark"] * 3 + ["growth"]
    places = [(px - 64) / (520 - 76) * 7 for _, px in reader.charts["t"]["marks"]]
    np.testing.assert_allclose(places, [1, 1.01, 1.02, 5], atol=1e-2)
    shown = re.findall(r'<text class="\w+" [^>]*>(\w+)</text>', Chart(
        "t", "kimg", {"a": (X, X)}, marks).svg())
    assert shown[:3] == ["16", "32", "classes"]  # 64 would cover them: its line's title tells it


def test_axes_have_round_numbers_within():
    for y in ([0, 1], [1, 1e6], [0.00123, 0.00124], [-5, 5], [2, 70]):
        svg = Chart("t", "kimg", {"a": ([0, 16600], y)}).svg()
        beside = [float(t) for t in re.findall(r'text-anchor="end">([^<]+)</text>', svg)[:-1]]
        assert 2 <= len(beside) <= 10, (y, beside)
        chart = PageReader(svg).charts["t"]
        low, high = map(float, chart["data-y"].split())
        assert all(low <= value <= high for value in beside)
        assert "10000" in re.findall(r'text-anchor="middle">([^<]+)</text>', svg)
