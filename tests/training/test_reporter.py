"""What a real run in miniature tells: log, stats.jsonl, events, page; and on a terminal."""

import fcntl
import os
import re
import shutil
import struct
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dnnlib import util
from tests.conftest import TINY
from tests.tools.chart_reader import PageReader
from tests.tools.data_helpers import FOUR, make_dataset, random_image, read_jsonl
from tests.training.test_status_line import Screen
from training.config import TrainingConfig
from training.dataset import open_dataset
from training.run.plan import simulate_ticks, snapshot_bytes, state_bytes, stretches
from training.run.reporter import Teller, official_names
from training.schedule import make_stage
from training.state import Progress
from training.training_loop import Training

STRATEGY = tf.distribute.OneDeviceStrategy("/cpu:0")
ROOT = Path(__file__).resolve().parents[2]
OPTIONS = {**TINY, "resolution": 4, "initial_resolution": 4, "network_ticks": 3, "image_ticks": 2,
           "rgb_kimg": 0.032, "variant": "2d"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rng = np.random.default_rng(0)
    images = np.stack([random_image(rng, 7, 8) for _ in range(12)])
    return make_dataset(tmp_path_factory.mktemp("data") / "tagged", {"train": images}, FOUR)


def begin(data, run_dir):
    run_dir.mkdir(exist_ok=True)
    config = TrainingConfig(**{**OPTIONS, "data": str(data)})
    return Training(config, run_dir, STRATEGY, open_dataset(data),
                    evaluate=lambda snapshot: {"fid8": 1 + snapshot.header["kimg"]})


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """Two finished runs: one as it is, and one that goes on from a copy of the first's directory,
    as a killed process would have left it after step 9, in a tick of the last stage."""
    root = tmp_path_factory.mktemp("runs")
    training = begin(data, root / "whole")
    turn = training._turn

    def turn_and_copy(stage):
        turn(stage)
        if training.progress.step == 9:
            shutil.copytree(root / "whole", root / "again")

    training._turn = turn_and_copy
    assert training.run() is True
    assert begin(data, root / "again").run() is True
    return root / "whole", root / "again"


def ticks_of(run_dir):
    return [r for r in read_jsonl(run_dir / "stats.jsonl") if r["event"] == "tick"]


def test_a_training_does_what_was_planned(data, runs):
    config = TrainingConfig(**{**OPTIONS, "data": str(data)})
    planned = list(simulate_ticks(config, stretches(config, 4)))
    for run_dir in runs:
        ticks = ticks_of(run_dir)
        assert [t["Progress/kimg"] for t in ticks] == [t.nimg / 1000 for t in planned]
        assert [t["saved_network"] for t in ticks] == [t.saves_network for t in planned]
        names = [path.name for path in run_dir.iterdir()]
        assert sum(n.startswith("network-snapshot") for n in names) == sum(
            t.saves_network for t in planned)
        assert sum(n.startswith("fakes") for n in names) == 1 + sum(t.draws for t in planned)
    last = make_stage(config, 4, "classes")
    for name, expected in (("network-final*", snapshot_bytes), ("training-state-*", state_bytes)):
        size = max(runs[0].glob(name)).stat().st_size
        assert 0 < size - expected(config, last) < 60_000  # the header


def test_ticks_are_told_alike_everywhere(runs):
    log = (runs[0] / "log.txt").read_text()
    lines = [line for line in log.splitlines() if line.startswith("tick ")]
    ticks = ticks_of(runs[0])
    assert len(lines) == len(ticks) and "warning" not in log
    for line, tick in zip(lines, ticks):
        told = dict(re.findall(r"(kimg|resolution|minibatch|sec/kimg|images/s|skipped) +([\d.]+)",
                               line))
        assert float(told["kimg"]) == pytest.approx(tick["Progress/kimg"], abs=0.06)
        assert float(told["sec/kimg"]) == pytest.approx(tick["Timing/sec_per_kimg"], abs=0.01)
        assert float(told["images/s"]) == pytest.approx(1000 / tick["Timing/sec_per_kimg"],
                                                        rel=1e-3)
        assert int(told["minibatch"]) == 8 and int(told["resolution"]) == 4
        assert "sec/tick" in line and "maintenance" in line and "ETA stage" in line
        assert "gpumem" not in line or tf.config.list_physical_devices("GPU")
    assert ticks[-1]["Timing/eta_sec"] == 0 and ticks[0]["Timing/eta_sec"] > 0
    assert ticks[-1]["Progress/end_kimg"] == ticks[-1]["Progress/kimg"]
    assert "fid8 1.08" in lines[-1]


def test_events_have_the_official_names(runs):
    ticks = ticks_of(runs[0])
    events = EventAccumulator(str(runs[0]), size_guidance={"tensors": 0, "images": 0})
    events.Reload()
    names = set(events.Tags()["tensors"])
    assert {"Progress/kimg", "Progress/lod", "Timing/sec_per_kimg", "Timing/maintenance_sec",
            "Resources/peak_mem_gb", "Loss/scores/real", "Loss/scores/fake", "Loss/r1_penalty",
            "Loss/scores/real/joint", "Metrics/fid8", "fakes", "reals"} <= names

    def told(name):
        return {event.step: float(tf.make_ndarray(event.tensor_proto))
                for event in events.Tensors(name)}

    for name in ("Loss/G", "Loss/scores/fake/rgb", "Progress/kimg"):
        assert told(name) == {round(1000 * t["Progress/kimg"]): pytest.approx(t[name], rel=1e-6)
                              for t in ticks}
    last = ticks[-1]
    assert told("Loss/r1_penalty")[80] == pytest.approx(
        (last["Loss/r1_penalty/rgb"] + last["Loss/r1_penalty/joint"]) / 2, rel=1e-5)
    assert len(events.Tensors("fakes")) == len(list(runs[0].glob("fakes*.png")))
    assert len(events.Tensors("reals")) == 3


def test_the_page_shows_the_run(runs):
    reader = PageReader((runs[0] / "index.html").read_text())
    ticks = ticks_of(runs[0])
    for title, curve, name in (("losses", "D/joint", "Loss/D/joint"), ("losses", "G", "Loss/G"),
                               ("scores of D", "real/rgb", "Loss/scores/real/rgb"),
                               ("fid8", "fid8", "Metrics/fid8")):
        points = [p for piece in reader.values(title)[curve] for p in piece]
        expected = [(t["Progress/kimg"], t[name]) for t in ticks if name in t]
        np.testing.assert_allclose(points, expected, atol=2e-3)
    kinds = [kind for kind, _ in reader.charts["losses"]["marks"]]
    assert kinds.count("growth") == 2 and kinds.count("resume") == 0
    assert len(reader.sources()) == len(list(runs[0].glob("fakes*.png"))) + 1
    assert "reals-classes.png" in reader.text
    assert all(name in reader.text for name in FOUR)
    (box,) = [a for tag, a in reader.tags if tag == "p" and a.get("class", "").startswith("state")]
    assert box == {"class": "state finished"}


TIMES = ("sec/kimg", "maintenance, seconds", "peak memory, GB")


def test_the_page_after_a_resume_is_that_of_an_uninterrupted_run(runs):
    whole, again = (PageReader((run / "index.html").read_text()) for run in runs)
    assert whole.charts.keys() == again.charts.keys()
    for title in whole.charts.keys() - set(TIMES):
        assert whole.charts[title]["curves"] == again.charts[title]["curves"], title
        marks = [mark for mark in again.charts[title]["marks"] if mark[0] != "resume"]
        assert whole.charts[title]["marks"] == marks
        assert len(again.charts[title]["marks"]) == len(marks) + 1
    assert whole.sources() == again.sources()
    assert [row["kimg"] for row in read_jsonl(runs[1] / "stats.jsonl")
            if row["event"] == "resume"] == [0.064]


def test_the_page_is_there_from_the_beginning_and_says_when_a_run_ends(data, tmp_path):
    """Running, with the first grids, before any tick is over; stopped, whatever ends it."""
    training = begin(data, tmp_path / "run")
    states = []

    def look_and_fail(stage):
        states.append((tmp_path / "run" / "index.html").read_text())
        raise RuntimeError("the end")

    training._turn = look_and_fail
    with pytest.raises(RuntimeError, match="the end"):
        training.run()
    assert 'class="state running"' in states[0] and "No tick is over yet" in states[0]
    assert len(PageReader(states[0]).sources()) == 2
    assert 'class="state stopped"' in (tmp_path / "run" / "index.html").read_text()
    assert read_jsonl(tmp_path / "run" / "stats.jsonl") == [
        {"event": "begin", "kimg": 0.0, "classes": list(FOUR)}]


def test_official_names():
    assert official_names({"Loss/scores/real/a": 1.0, "Loss/scores/real/b": 2.0, "Loss/G": 5.0,
                           "Loss/r1_penalty/a": 3.0}) == {
        "Loss/scores/real": 1.5, "Loss/r1_penalty": 3.0}


@pytest.fixture
def teller(data, tmp_path):
    config = TrainingConfig(**{**OPTIONS, "data": str(data)})
    return Teller(tmp_path, config, open_dataset(data),
                  util.start_log("telling", tmp_path / "log.txt"))


def tell(teller, step, skipped_mean, turns):
    """One tick of the rgb stage after `step` turns."""
    stage = make_stage(teller.config, 4, "rgb", 1.0)
    progress = Progress(step=step, cur_nimg=8 * step, tick=step // 4)
    teller.tick(stage, progress, {
        "Progress/tick": progress.tick, "Progress/turns": turns, "Progress/kimg": 0.008 * step,
        "Progress/lod": 1.0, "Progress/resolution": 4, "Progress/channels": 3,
        "Progress/minibatch": 8, "Progress/lrate": 0.001, "Loss/G": 1.0,
        "Progress/skipped_updates": skipped_mean, "Timing/total_sec": 3.0,
        "Timing/sec_per_tick": 1.0, "Timing/sec_per_kimg": 31.0, "Timing/maintenance_sec": 0.5},
        saved_network=False)
    return progress


def test_skipped_updates_are_counted_over_resumes(teller):
    """Turns report 0, 1 or 2 each, of which a tick knows the mean."""
    teller.begin(Progress())
    progress = tell(teller, 4, 0.75, 4)
    teller.begin(progress)
    tell(teller, 8, 0.5, 4)
    ticks = ticks_of(teller.run_dir)
    assert [t["Progress/skipped_updates"] for t in ticks] == [3, 2]
    assert [t["Progress/skipped_total"] for t in ticks] == [3, 5]
    assert "Timing/eta_sec" not in ticks[0]  # no turn was timed


def test_a_page_that_cannot_be_written_is_told_and_ends_nothing(teller):
    (teller.run_dir / "index.html").mkdir()
    teller.begin(Progress())
    tell(teller, 4, 0, 4)
    log = (teller.run_dir / "log.txt").read_text()
    assert re.search(r"warning: .*index.html could not be written: IsADirectoryError: .*\n", log)
    assert len(ticks_of(teller.run_dir)) == 1


PROGRAM = """
import sys
from pathlib import Path
import tensorflow as tf
from dnnlib import util
from tests.training.test_reporter import OPTIONS
from training.run import status_line
from training.config import TrainingConfig
from training.dataset import open_dataset
from training.training_loop import Training
live.INTERVAL_SEC = 0.0
data, run_dir = sys.argv[1:]
config = TrainingConfig(**{**OPTIONS, "variant": "rgb", "data": data})
Training(config, Path(run_dir), tf.distribute.OneDeviceStrategy("/cpu:0"),
         open_dataset(data)).run()
print("after", file=sys.stderr)
"""


def test_a_run_on_a_terminal(data, tmp_path):
    """The live line says everything, and the log's lines are whole on the screen."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 160, 0, 0))
    (tmp_path / "run").mkdir()
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, data, tmp_path / "run"], cwd=ROOT,
                               stdout=theirs, stderr=theirs,
                               env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
    os.close(theirs)
    seen = b""
    while True:
        try:
            seen += os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
    assert process.wait() == 0
    os.close(ours)
    text = seen.decode()
    assert re.search(r"kimg 0\.\d  rgb 4x4  [\d.e+]+ sec/kimg  [\d.e+]+ images/s  "
                     r"ETA stage \w+, run \w+  skipped 0  mem [\d.]+ GB", text)
    screen = Screen()
    screen.feed(text)
    log = (tmp_path / "run" / "log.txt").read_text().splitlines()
    lines = [line for line in screen.lines if line]
    assert lines[-1] == "after" and [line for line in lines if line in log] == log
    assert not any(line.startswith("kimg") for line in lines)
