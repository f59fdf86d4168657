"""The benchmark of a step: figures by hand, options, and a complete run at miniature size."""

import json

import numpy as np
import pytest

from benchmarks import train_step, turns
from benchmarks.train_step import main, measure_stream_case, parse_options, rounds_for
from dnnlib.util import UserError
from tests.tools.data_helpers import make_dataset, random_image

TINY = ["--fmap-base=64", "--fmap-max=8", "--latent-size=8", "--rounds=2"]


@pytest.fixture(autouse=True)
def quick_rate(monkeypatch):
    """Replace the rate of matrix products, which takes seconds to measure, by any number."""
    monkeypatch.setattr(train_step, "matmul_rate", lambda precision: 2e9)


def test_ratios_and_medians_by_hand():
    """Eight images in 2, 4, 2 s; the other side takes 4, 4, 8 s: ratios 2, 1, 4."""
    ours, others = [(2, 4), (4, 6), (2, 4)], [(4, 4), (4, 12), (8, 8)]
    assert turns.medians(ours, 8) == {"sec_per_image": 0.25, "sec_per_image_best": 0.25,
                                      "cpu_sec_per_image": 0.5}
    assert turns.paired_ratio(ours, others) == {"wall": 2.0, "quartiles": [1.5, 3.0], "cpu": 2.0}


def test_rounds_alternate_the_order_of_sides():
    order = []
    functions = {name: (lambda name=name: order.append(name)) for name in "abc"}
    times = turns.timed_in_turns(functions, 2)
    assert "".join(order) == "abccba"
    assert {name: len(rows) for name, rows in times.items()} == {"a": 2, "b": 2, "c": 2}


def test_number_of_rounds():
    assert [rounds_for(seconds) for seconds in (0.001, 1.0, 2.5, 60)] == [15, 12, 5, 5]


@pytest.mark.slow
def test_steps_at_miniature_size(tmp_path, capsys):
    """Both sides are timed; the limit is operations over the rate, and smaller if fused."""
    out = tmp_path / "step.json"
    assert main(["--resolutions=8", "--channels=4", f"--out={out}", *TINY]) == 0
    result = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out) == result
    assert result["steps"]["gmacs_per_sec"] == {"fp32": 2.0}
    case = result["steps"]["8x4"]
    assert case["minibatch"] == 8 and case["rounds"] == 2
    for side in ("ours", "plain"):
        assert 0 < case[side]["sec_per_image_best"] <= case[side]["sec_per_image"]
    assert 0 < case["ours"]["limit_sec_per_image"] < case["plain"]["limit_sec_per_image"]
    assert case["ours_faster_than_plain"]["wall"] > 0
    assert "official_sec_per_image" not in case  # which has other widths


@pytest.mark.slow
def test_the_augmented_side_at_miniature_size(capsys):
    assert main(["--resolutions=8", "--ops=ours", "--augment=fixed:0.6", "--minibatch=4",
                 *TINY]) == 0
    case = json.loads(capsys.readouterr().out)["steps"]["8x3"]
    assert case["minibatch"] == 4
    assert case["augmented_to_ours"]["cpu"] == pytest.approx(
        case["augmented"]["cpu_sec_per_image"] / case["ours"]["cpu_sec_per_image"], rel=0.5)
    assert not [name for name in case if "faster" in name]


def test_the_plain_side_fuses_nothing(tiny_config):
    """Our side does, at the same resolution and widths."""
    fused = {}
    for name, rule in (("ours", None), ("plain", turns.plain)):
        side = turns.Side(tiny_config(variant="rgb"), 3, 16, 8, rule)
        fused[name] = {n.use_fused_resampling(16, 8) for n in side.state.networks.values()}
    assert fused == {"ours": {True}, "plain": {False}}


def test_minibatches_equal_the_official_column():
    minibatches = {r: train_step.minibatch_at(r) for r in (8, 16, 32, 64, 128, 512)}
    assert minibatches == {8: 8, 16: 8, 32: 8, 64: 4, 128: 2, 512: 1}
    assert train_step.official(16, 0.0528) == {"official_sec_per_image": 0.1056,
                                               "ours_to_official": 0.5}
    assert train_step.official(128, 1.0) == {}


@pytest.mark.slow
def test_stream_at_miniature_size(tmp_path):
    rng = np.random.default_rng(0)
    images = np.stack([random_image(rng, 16, 8) for _ in range(20)])
    data = make_dataset(tmp_path / "data", {"train": images}, classes=[f"c{i}" for i in range(13)])
    result = measure_stream_case(data, (8, 8, 64, 8), rounds=1)
    assert result["constant"]["sec_per_image"] > 0 and result["stream"]["sec_per_image"] > 0
    assert result["stream_to_constant"]["wall"] > 0 and result["wait_ms_per_turn"] >= 0


@pytest.mark.slow
def test_start_at_miniature_size():
    result = train_step.measure_start(parse_options(TINY))
    assert result["until_first_turn_sec"] >= result["first_turn_sec"] > 0
    assert result["whole_process_sec"] > result["next_resolution_sec"] > 0


@pytest.mark.parametrize("argv, message", [
    (["--rounds=-1"], "--rounds must not be negative"),
    (["--channels=2"], "--channels not below 3"),
    (["--precision=bf16", "--ops=plain"], "a side of ours"),
    (["--augment=fixed:0.5", "--ops=plain"], "--augment=fixed:0.5: a side of ours"),
    (["--ops=fast"], "known are ours, plain"),
    (["--parts=steps,all"], "known are steps, stream, start")])
def test_options_that_make_no_sense_are_refused(argv, message):
    with pytest.raises(UserError, match=message):
        parse_options(argv)
