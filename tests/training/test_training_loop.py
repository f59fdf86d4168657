"""The demo's three stages in miniature, interrupted or not."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from dnnlib.data.pictures import GAP
from dnnlib.util import UserError
from tests.conftest import TINY
from tests.tools.data_helpers import FOUR, read_jsonl, tagged_and_untagged
from tests.tools.training_runs import begin, stop_after
from training.config import TrainingConfig
from training.gan.init_from import state_from_snapshot
from training.run.files import RunFiles
from training.run.plan import last_ticks, num_moments, stretches
from training.snapshots import best_snapshot, find_snapshot, load_snapshot
from training.state import list_states

pytestmark = pytest.mark.usefixtures("eagerly")

SMALLEST = dict(resolution=8, initial_resolution=4)
PLAIN = dict(variant="rgb", resolution=4)  # one step to compile, and the fastest


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """Make two data sets at 8x8: one with four classes, one without maps."""
    return tagged_and_untagged(tmp_path_factory.mktemp("data"), 8, 12)


def config_for(datasets, **changes):
    tagged, untagged = datasets
    values = {**TINY, **SMALLEST, "data": str(tagged), "variant": "2d", **changes}
    if values["variant"] == "2d":
        values.setdefault("untagged", str(untagged))
    return TrainingConfig(**values)


def digests(path):
    return load_snapshot(path).header["digests"]


@pytest.fixture(scope="module")
def whole_run(datasets, tmp_path_factory):
    """Return a finished run of three stages whose FID grows from stage to stage and with time."""
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    evaluated = []

    def evaluate(snapshot):
        evaluated.append((snapshot.header["stage"], snapshot.header["kimg"]))
        return {"fid8": snapshot.header["kimg"]}

    assert begin(config_for(datasets), run_dir, evaluate=evaluate).run() is True
    assert len(set(evaluated)) == len(evaluated) == 7 + 2  # ticks, and again after each growth
    return run_dir


def test_three_stages_write_every_file_of_a_run(whole_run):
    names = {path.name for path in whole_run.iterdir()}
    assert {"log.txt", "stats.jsonl", "reals.png", "reals-binary.png", "reals-classes.png",
            "best.json", "network-final.safetensors", "fakes000000.016.png"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert len([name for name in names if name.startswith("training-state-")]) == 2
    events = [json.loads(line) for line in (whole_run / "stats.jsonl").read_text().splitlines()]
    assert [e["stage"] for e in events if e["event"] == "growth"] == ["binary", "classes"]
    ticks = [e for e in events if e["event"] == "tick"]
    assert {e["stage"] for e in ticks} == {"rgb", "binary", "classes"}
    assert {"Loss/scores/real/rgb", "Loss/r1_penalty/joint", "Metrics/fid8", "Progress/lod",
            "Timing/sec_per_kimg"} <= set(ticks[-1])
    assert ticks[-1]["Progress/kimg"] == pytest.approx(0.112)
    assert ticks[-1]["Classes/real/hat"] == 1.0 and 0 <= ticks[-1]["Classes/total_variation"] <= 1
    with Image.open(whole_run / "reals-classes.png") as grid:
        assert grid.size == (4 * (2 * 96 + GAP) + GAP, 8 * (96 + GAP) + GAP)


def test_the_final_snapshot_describes_itself(whole_run):
    snapshot = load_snapshot(whole_run / "network-final.safetensors")
    assert set(snapshot.networks) == {"G", "Gs", "D_rgb", "D_joint"}
    assert snapshot.classes == FOUR
    header = snapshot.header
    assert (header["stage"], header["kimg"]) == ("classes", 0.112)
    assert header["lod"] == {"resolution": 8, "fade": 0.0}
    images = snapshot.networks["Gs"](np.zeros((2, 8), np.float32))
    assert images.shape == (2, 8, 8, 3 + len(FOUR))


def test_the_best_snapshot_is_of_the_final_stage(whole_run):
    best = json.loads((whole_run / "best.json").read_text())
    # The first tick after 0.080, where the class stage starts.
    assert best["value"] == best["kimg"] == 0.096
    assert best_snapshot(whole_run).name == best["snapshot"]
    assert find_snapshot(str(whole_run)) == best_snapshot(whole_run)


def test_a_best_snapshot_newer_than_the_state_is_dropped(datasets, whole_run, tmp_path):
    """If a run continues from an older state, its networks at that kimg will be others."""
    run = shutil.copytree(whole_run, tmp_path / "run")
    assert begin(config_for(datasets), run).progress.best_value is not None
    assert (run / "best.json").is_file()
    list_states(run)[-1].unlink()
    best = json.loads((run / "best.json").read_text())
    (run / "best.json").write_text(json.dumps({**best, "kimg": 0.112}))
    assert begin(config_for(datasets), run).progress.best_value is None
    assert not (run / "best.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [9])  # in the binary stage, between the critics' turns
def test_interrupted_equals_uninterrupted(datasets, whole_run, tmp_path, stop_at):
    config = config_for(datasets)
    training = begin(config, tmp_path / "run")
    stop_after(training, stop_at)
    assert training.run() is False
    again = begin(config, tmp_path / "run")
    assert again.progress.step == stop_at
    assert again.run() is True
    final = "network-final.safetensors"
    assert digests(tmp_path / "run" / final) == digests(whole_run / final)


def test_a_finished_run_does_not_change(datasets, whole_run):
    before = (whole_run / "network-final.safetensors").stat().st_mtime_ns
    assert begin(config_for(datasets), whole_run).run() is True
    assert (whole_run / "network-final.safetensors").stat().st_mtime_ns == before


@pytest.mark.slow
def test_rgb_stage_is_the_same_in_all_variants(datasets, tmp_path):
    """One RGB training can then serve all variants; the c variant uses no untagged photos."""
    finals = {}
    for variant in ("rgb", "2d"):
        config = config_for(datasets, variant=variant, untagged=None, rgb_kimg=0.016,
                            binary_kimg=0.0, classes_kimg=0.0)
        training = begin(config, tmp_path / variant)
        training._enter = lambda stage, training=training: training.request_stop()
        training.run()
        finals[variant] = training.method.networks["G"].digest()
    assert finals["rgb"] == finals["2d"]


@pytest.mark.slow
def test_start_from_an_rgb_snapshot(datasets, tmp_path):
    rgb = config_for(datasets, **PLAIN, rgb_kimg=0.016)
    begin(rgb, tmp_path / "rgb").run()
    config = config_for(datasets, variant="c", resolution=4)
    training = begin(config, tmp_path / "c",
                     origin=tmp_path / "rgb" / "network-final.safetensors")
    assert training.run() is True
    final = load_snapshot(tmp_path / "c" / "network-final.safetensors")
    assert set(final.networks) == {"G", "Gs", "D_joint"}
    assert final.header["kimg"] == pytest.approx(0.048)


def test_snapshots_that_cannot_start_a_training(datasets, whole_run):
    state = next(whole_run.glob("training-state-*"))
    with pytest.raises(UserError, match="a training state"):
        load_snapshot(state)
    snapshot = load_snapshot(whole_run / "network-final.safetensors")
    with pytest.raises(UserError, match="its classes are hat"):
        state_from_snapshot(snapshot, config_for(datasets, initial_resolution=8), FOUR[::-1])
    with pytest.raises(UserError, match="--mapping-layers=2"):
        state_from_snapshot(snapshot, config_for(datasets, initial_resolution=8, mapping_layers=3),
                            FOUR)
    with pytest.raises(UserError, match="networks, 8; leave it out"):
        state_from_snapshot(snapshot, config_for(datasets), FOUR)


@pytest.mark.slow
def test_patience_ends_a_stage(datasets, tmp_path):
    config = config_for(datasets, **PLAIN, rgb_kimg=0.4)
    config = dataclasses.replace(config, patience=2, metrics="fid8")
    training = begin(config, tmp_path / "run", evaluate=lambda snapshot: {"fid8": 1.0})
    assert training.run() is True
    # One evaluation that counts as the best, two that are no better.
    assert training.progress.cur_nimg == 3 * 16


def test_a_damaged_state_falls_back_to_the_previous_one(datasets, compiled, tmp_path):
    config = config_for(datasets, **PLAIN, rgb_kimg=0.032, tick_kimg={4: 0.016})
    training = begin(config, tmp_path / "run")
    training.run()
    states = sorted((tmp_path / "run").glob("training-state-*"))
    assert len(states) == 2
    states[-1].write_bytes(states[-1].read_bytes()[:-100])
    (tmp_path / "run" / "network-final.safetensors").unlink()
    again = begin(config, tmp_path / "run")
    assert again.progress.cur_nimg == 16
    assert "damaged" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.slow
def test_a_stage_without_length_still_grows_the_final_snapshot(datasets, tmp_path):
    config = config_for(datasets, variant="c", rgb_kimg=0.016, binary_kimg=0.016, classes_kimg=0.0)
    assert begin(config, tmp_path / "run").run() is True
    final = load_snapshot(tmp_path / "run" / "network-final.safetensors")
    assert (final.header["stage"], final.classes) == ("classes", FOUR)
    assert final.networks["Gs"].config["num_channels"] == 3 + len(FOUR)


@pytest.mark.slow
def test_a_stage_without_length_is_no_growth_in_the_reports(datasets, tmp_path):
    """It is entered only for the next one to grow from."""
    config = config_for(datasets, variant="c", resolution=4, rgb_kimg=0.016, binary_kimg=0.0,
                        classes_kimg=0.016)
    begin(config, tmp_path / "run").run()
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "passing through stage binary (4 channels), which has no steps\n" in log
    assert log.count("entering stage") == 1 and "entering stage classes (7 channels)\n" in log
    assert [event["stage"] for event in read_jsonl(tmp_path / "run" / "stats.jsonl")
            if event["event"] == "growth"] == ["classes"]


@pytest.mark.slow
def test_killed_before_the_final_snapshot(datasets, tmp_path, monkeypatch):
    config = config_for(datasets, **PLAIN)
    with monkeypatch.context() as patch:
        patch.setattr(RunFiles, "finish", lambda self, stage, progress: None)
        begin(config, tmp_path / "run").run()
    assert begin(config, tmp_path / "run").run() is True
    assert load_snapshot(tmp_path / "run" / "network-final.safetensors").header["stage"] == "rgb"


@pytest.mark.slow
def test_stops_do_not_move_ticks(datasets, tmp_path):
    """An interrupted tick goes on: evaluations, and so `patience`, do not depend on stops."""
    config = config_for(datasets, **PLAIN, rgb_kimg=0.096, tick_kimg={4: 0.032})
    ends = {}
    for name, stop_at in (("whole", None), ("stopped", 3)):
        training = begin(config, tmp_path / name)
        take_step = training._step

        def step_and_stop(stage, training=training, take_step=take_step, stop_at=stop_at):
            take_step(stage)
            training.stop_requested |= training.progress.step == stop_at

        training._step = step_and_stop
        if not training.run():
            begin(config, tmp_path / name).run()
        events = read_jsonl(tmp_path / name / "stats.jsonl")
        ends[name] = [e["Progress/kimg"] for e in events if e["event"] == "tick"]
    assert ends["stopped"] == ends["whole"] == [0.032, 0.064, 0.096]


@pytest.mark.slow
def test_patience_waits_for_the_target_resolution(datasets, tmp_path):
    """Values at smaller sizes are not comparable with those at full size."""
    config = config_for(datasets, variant="rgb", rgb_kimg=0.4, patience=2,
                        metrics="fid8")
    training = begin(config, tmp_path / "run",
                     evaluate=lambda snapshot: {"fid8": snapshot.header["lod"]["resolution"]})
    assert training.run() is True
    # The first tick at full size ends at 48; two more are compared with its value.
    assert training.progress.cur_nimg == 48 + 2 * 16


@pytest.mark.slow
def test_first_grid_and_first_network(datasets, tmp_path):
    config = config_for(datasets, **PLAIN, network_ticks=3)
    begin(config, tmp_path / "run").run()
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert "fakes000000.000.png" in names
    assert sorted(name[17:27] for name in names if name.startswith("network-snapshot")) == [
        "000000.016", "000000.048", "000000.064"]
    # The plan counts the files of this run.
    ends = last_ticks(stretches(config, len(FOUR)))
    assert num_moments(ends, config.network_ticks, also=1) == 3
    assert num_moments(ends, config.image_ticks) + 1 == len(
        [name for name in names if name.startswith("fakes")])
