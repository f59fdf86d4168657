"""The score that selects the best snapshot, and the metrics that it needs."""

import json

import pytest

from tests.tools.data_helpers import tagged_and_untagged
from tests.tools.training_runs import begin
from training.gan.snapshot_score import (
    LABELS_SCORE,
    add_labels_score,
    needed_metrics,
    selecting_score,
)


@pytest.mark.parametrize("names, expected", [
    (["kid1k", "fid1k", "fid2k"], "fid1k"), (["kid1k", "kid1k_std"], "kid1k"),
    (["is1k", "is1k_std"], None),  # here a higher score is better
    (["fid1k_pair", "kid1k"], "kid1k")])
def test_photos_are_compared_by_fid_or_else_kid(names, expected):
    assert selecting_score(dict.fromkeys(names, 1.0), "fid") == expected


def test_photos_are_compared_by_the_selected_score():
    scores = add_labels_score({"fid1k": 40.0, "kid1k_std": 1.0, "kid1k": 0.2, "kid1k_pair": 0.1,
                               "labels1k": 0.3, "labels1k_ratio": 0.9, "labels1k_ratio_all": 0.5})
    assert [selecting_score(scores, kind) for kind in ("kid", "pair", "labels")] == [
        "kid1k", "kid1k_pair", LABELS_SCORE]
    assert scores[LABELS_SCORE] == 80.0
    assert add_labels_score({"fid1k": 40.0}) == {"fid1k": 40.0}
    # A ratio of zero, and one above that of real maps; KID is an estimate and may be below 0.
    for kid, ratio, expected in ((0.2, 0.0, 200.0), (0.2, 1.3, 0.2), (-0.001, 0.5, 0.0002)):
        scores = {"kid1k": kid, "labels1k_trainval_ratio_all": ratio}
        assert add_labels_score(scores)[LABELS_SCORE] == pytest.approx(expected)
    # Before there are maps only the photos count.
    assert selecting_score({"fid1k": 40.0}, "labels") == "fid1k"
    assert selecting_score({"kid1k": 0.4}, "pair") == "kid1k"


@pytest.mark.parametrize("metrics, select_by, expected", [
    ("fid1k", "fid", []), ("fid1k", "kid", ["kid1k"]), ("kid1k_trainval", "kid", []),
    ("fid1k", "pair", ["kid1k_pair"]), ("kid1k_trainval", "pair", ["kid1k_trainval_pair"]),
    ("kid200,fid200_pair", "pair", []), ("kid1k,fid1k", "labels", ["labels1k"]),
    ("kid9_trainval", "labels", ["labels9_trainval"]), ("labels9", "labels", ["kid9"]),
    ("is5k", "labels", ["kid5k", "labels5k"])])
def test_metrics_that_a_selection_needs(metrics, select_by, expected):
    assert needed_metrics(metrics, select_by) == expected


@pytest.mark.slow
@pytest.mark.parametrize("select_by, best", [("fid", 0.016), ("pair", 0.048), ("labels", 0.032)])
def test_the_selected_score_decides_the_best_snapshot(tiny_config, tmp_path, select_by, best):
    """FID is best at first, labels in the middle; the pairs' distance falls to the end."""
    moments = {0.016: (10.0, 0.1, 0.9), 0.032: (11.0, 0.9, 0.8), 0.048: (20.0, 0.9, 0.1)}

    def evaluate(snapshot):
        fid, ratio, pair = moments.get(snapshot.header["kimg"], (99.0, 0.0, 9.0))
        return {"fid8": fid, "labels8_ratio_all": ratio, "kid8_pair": pair}

    data, _ = tagged_and_untagged(tmp_path, 4, 8)
    config = tiny_config(
        data=str(data), variant="c", resolution=4, initial_resolution=4, rgb_kimg=0.0,
        binary_kimg=0.0, classes_kimg=0.048, mirror_pairs="none", metrics="fid8",
        select_by=select_by, segmenter="x" if select_by == "labels" else None)
    begin(config, tmp_path / "run", evaluate=evaluate).run()
    assert json.loads((tmp_path / "run" / "best.json").read_text())["kimg"] == best
