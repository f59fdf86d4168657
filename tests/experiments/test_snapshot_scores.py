"""Which score selects? How snapshots are measured, how results are compared, and a real run."""

import json

import pytest

from dnnlib.util import UserError
from experiments import snapshot_scores
from tests.tools.generators import save_network
from tests.tools.labelled_pictures import coloured_dataset
from tests.tools.labelled_pictures import tiny as segmenter_config
from tests.tools.labelled_pictures import train as train_segmenter
from tests.tools.metrics_helpers import graph_bytes, small_arrays

CLASSES = ("red", "green")


@pytest.fixture
def run(tmp_path):
    """Make a run directory with three snapshots that draw maps, and one without maps."""
    for seed, kimg in enumerate(("000004", "000010", "000020", "000030")):
        save_network(tmp_path / f"run/network-snapshot-{kimg}.safetensors",
                     CLASSES if seed else (), seed)
    return tmp_path / "run"


@pytest.fixture
def options(tmp_path, run):
    """Return arguments, and a function that adds to them."""
    fixed = [f"--out={tmp_path / 'out'}", "--preset=tiny", f"--run={run}", "--segmenter=judge",
             f"--data={coloured_dataset(tmp_path / 'real')}"]
    return lambda *more: [*fixed, *more]


def photos(fid, kid, pair, ratio):
    return {"fid32": {"": fid}, "kid32": {"": kid}, "kid32_pair": {"": pair},
            "labels32": {"": ratio / 2, "_ratio_all": ratio}}


def test_scores_are_compared_with_the_use_of_pairs(stand_ins, options, tmp_path):
    """Photos get better while maps fade: FID orders the snapshots the wrong way."""
    stand_ins.set_metrics({
        "network-snapshot-000010.safetensors": photos(90, 0.10, 0.30, 0.9),
        "network-snapshot-000020.safetensors": photos(80, 0.09, 0.20, 0.4),
        "network-snapshot-000030.safetensors": photos(70, 0.08, 0.25, 0.1),
        **{f"{kimg}-seed{seed}": {"miou": {"": miou + 0.01 * seed}} for seed in (1, 2)
           for kimg, miou in (("000010", 0.5), ("000020", 0.4), ("000030", 0.2))}})
    assert snapshot_scores.main(options("--seeds=1,2")) == 0
    record = json.loads((tmp_path / "out/snapshot_scores.json").read_text())
    judged = record["judged"]
    assert judged["fid"] == {"correlation": pytest.approx(-1), "selects": "000030",
                             "lost": pytest.approx(30)}
    assert judged["pair"]["correlation"] == pytest.approx(-0.5)
    assert judged["labels"] == {"correlation": pytest.approx(1), "selects": "000010", "lost": 0}
    assert record["scores"]["000020"]["labels"] == pytest.approx(80 / 0.4)
    text = (tmp_path / "out/snapshot_scores.md").read_text()
    assert "| 000010 | 51.5 ± 0.5 | 90 | 0.1 | 0.3 | 100 |" in text
    assert "| `labels` | 1.00 | 000010 | 0.0 |" in text
    assert "    python generate.py --network=" in text  # what makes the pairs too


def test_equal_scores_give_no_order():
    table = {str(kimg): {"miou": miou, "fid": fid, "kid": 1 / fid, "pair": 0.5, "labels": fid}
             for kimg, (miou, fid) in enumerate([(10, 90), (20, 80), (30, 70)])}
    judged = snapshot_scores.judge(table)
    assert judged["pair"]["correlation"] is None
    assert (judged["fid"]["correlation"], judged["kid"]["correlation"]) == (1, -1)


def test_every_snapshot_with_maps_is_used(stand_ins, options, run, tmp_path):
    stand_ins.set_metrics({
        "network-snapshot-000020.safetensors": photos(80, 0.09, 0.2, 0.4),
        "000020-seed1": {"miou": {"": 0.5}}})
    assert snapshot_scores.main(options("--rows=000020")) == 0
    made, trained, _, _ = (dict(argument[2:].partition("=")[::2] for argument in call)
                           for call in stand_ins.calls())
    assert made == {"network": str(run / "network-snapshot-000020.safetensors"), "num": "16",
                    "keep-padding": "", "out": str(tmp_path / "out/pairs-000020")}
    assert trained["data2"] == made["out"] and trained["mix"] == "1"
    with pytest.raises(UserError, match="--rows=000004: unknown; known: 000010, 000020, 000030"):
        snapshot_scores.main(options("--rows=000004"))


def test_missing_inputs_are_named(options, tmp_path):
    with pytest.raises(UserError, match="--segmenter: missing"):
        snapshot_scores.main([part for part in options() if not part.startswith("--segmenter")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: no snapshots of a network that draws maps"):
        snapshot_scores.main(options(f"--run={tmp_path / 'empty'}"))


@pytest.mark.slow
def test_a_real_run(options, tmp_path, monkeypatch):
    """The real commands, at 16x16."""
    monkeypatch.setenv("STYLE_C_GAN_CACHE", str(tmp_path / "cache"))
    weights = tmp_path / "small.pb"
    weights.write_bytes(graph_bytes(small_arrays()))
    train_segmenter(segmenter_config(tmp_path / "real"), tmp_path / "judge")
    argv = options(f"--segmenter={tmp_path / 'judge'}", f"--inception={weights}",
                   "--rows=000010,000020")
    assert snapshot_scores.main(argv) == 0
    table = json.loads((tmp_path / "out/snapshot_scores.json").read_text())["scores"]
    assert set(table) == {"000010", "000020"}
    assert all(set(row) == {"miou", "fid", "kid", "pair", "labels"} for row in table.values())
