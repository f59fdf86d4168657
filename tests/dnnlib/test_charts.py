"""Bar charts: bars are as high as their values, stand in order, and names fit."""

import numpy as np
import pytest

from dnnlib.charts import SERIES_COLOURS, bar_chart


def bars(chart, colour):
    """[(first column, height)] of the bars of a colour, left to right, the legend left out."""
    mask = (chart == colour).all(axis=-1)
    mask[:70] = False
    columns = np.flatnonzero(mask.any(axis=0))
    starts = [c for c in columns if c - 1 not in columns]
    return [(int(c), int(mask[:, c].sum())) for c in starts]


def test_bars_stand_for_their_values():
    values = {"real": [0.4, 0.2, 0.1, 0], "generated": [0.1, 0.3, 0, 0.05]}
    chart = bar_chart("A title", ["a", "b", "c", "d"], values)
    assert chart.dtype == np.uint8 and chart.ndim == 3
    real, fake = (bars(chart, colour) for colour in SERIES_COLOURS[:2])
    unit = real[0][1] / 0.4
    np.testing.assert_allclose([h / unit for _, h in real], [0.4, 0.2, 0.1], atol=0.005)
    np.testing.assert_allclose([h / unit for _, h in fake], [0.1, 0.3, 0.05], atol=0.005)
    assert real[0][0] < fake[0][0] < real[1][0] < fake[1][0] < real[2][0] < fake[2][0]


@pytest.mark.parametrize("values", [[0, 0], [1, 1e-9], [0.07, 0.2], [1e-7, 0]])
def test_any_values_can_be_drawn(values):
    chart = bar_chart("t", ["x", "y"], {"one": values})
    assert max([h for _, h in bars(chart, SERIES_COLOURS[0])], default=0) <= 24 * 16


def test_long_names_and_titles_stay_inside():
    """The picture's edges stay white."""
    chart = bar_chart("A long title " * 8, ["a name of some length", "b", "another long one"],
                      {"real": [0.3, 0.2, 0.5], "generated": [0.1, 0.4, 0.5]})
    for edge in (chart[0], chart[-1], chart[:, 0], chart[:, -1]):
        assert (edge == 255).all()
