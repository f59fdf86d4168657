"""Tables of experiments: means, spreads, and which differences may be stated."""

import pytest

from experiments.tables import Cell, Measure, cell_text, differences, summarize

KID = Measure("KID", "kid9", "lower", 1000)
DRAWN = Measure("drawn", "maps9_classes", "higher")


def results(**values):
    """Return one result for each number of KID: {row: [0.1, ...]}."""
    return [{"row": row, "values": {"kid9": value}} for row, numbers in values.items()
            for value in numbers]


def test_mean_and_spread():
    table = summarize([*results(a=[0.1, 0.13], b=[0.2]), {"row": "c", "values": {}}], [KID, DRAWN])
    assert table["a"]["KID"] == (pytest.approx(115), pytest.approx(30))
    assert table["b"]["KID"] == (pytest.approx(200), None)
    assert table["c"] == {} and "drawn" not in table["a"]
    assert cell_text(table["a"]["KID"], KID) == "115.0 ± 15.0"
    assert cell_text(table["b"]["KID"], KID) == "200.0"
    assert cell_text(None, KID) == "–"


def test_differences_larger_than_between_seeds_are_stated():
    table = {"base": {"KID": Cell(100, 10), "drawn": Cell(6, 1)},
             "better": {"KID": Cell(80, None), "drawn": Cell(9, None)},
             "worse": {"KID": Cell(120.5, 20)}, "same": {"KID": Cell(119, None)}}
    assert differences(table, "base", [KID, DRAWN]) == [
        "`better` against `base`: drawn higher by 3.0 (better).",  # seeds differ by 20 too
        "`worse` against `base`: KID higher by 20.5 (worse).",
        "`same` against `base`: no more than seeds differ."]


def test_without_a_known_spread_no_difference_is_stated():
    alone = {"base": {"KID": Cell(100, None)}, "other": {"KID": Cell(1, None)}}
    assert "No row has two seeds" in differences(alone, "base", [KID])[0]
    # Two seeds that happen to agree do not turn everything else into a difference.
    agreeing = {"base": {"KID": Cell(100, 2), "drawn": Cell(7, 0)},
                "other": {"drawn": Cell(8, None)}}
    assert differences(agreeing, "base", [KID, DRAWN]) == [
        "`other` against `base`: no more than seeds differ."]
    assert "`base` is not finished" in differences({"x": {}}, "base", [KID])[0]
