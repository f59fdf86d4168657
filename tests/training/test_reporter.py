"""What a real run in miniature reports: log, stats.jsonl, events, page, and terminal output."""

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
from dnnlib.data.dataset import open_dataset
from tests.conftest import TINY
from tests.tools import training_runs
from tests.tools.data_helpers import FOUR, make_dataset, random_image, read_jsonl
from tests.tools.page_reader import PageReader
from tests.training.test_status_line import Screen
from training.config import TrainingConfig
from training.gan.schedule import make_stage
from training.run.files import NoFiles, RunFiles
from training.run.history import read_history
from training.run.reporter import RunReporter, growth_sentence, official_names
from training.run.run_page import loss_charts, metric_charts
from training.state import Progress
from training.stylegan import StyleGan

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
    config = TrainingConfig(**{**OPTIONS, "data": str(data)})
    return training_runs.begin(config, run_dir,
                               evaluate=lambda snapshot: {"fid8": 1 + snapshot.header["kimg"]})


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """Return a finished run; `again` beside it is a copy of its directory as a killed process would
    have left it after step 9, in a tick of the last stage."""
    root = tmp_path_factory.mktemp("runs")
    training = begin(data, root / "whole")
    take_step = training._step

    def step_and_copy(stage):
        take_step(stage)
        if training.progress.step == 9:
            shutil.copytree(root / "whole", root / "again")

    training._step = step_and_copy
    assert training.run() is True
    return root / "whole"


@pytest.fixture(scope="module")
def again(data, whole):
    """Return a finished run that continued from that copy."""
    assert begin(data, whole.parent / "again").run() is True
    return whole.parent / "again"


def ticks_of(run_dir):
    return [r for r in read_jsonl(run_dir / "stats.jsonl") if r["event"] == "tick"]


@pytest.mark.slow
def test_ticks_are_where_the_options_put_them(whole):
    check_ticks(whole)


def check_ticks(run_dir):
    """Assert a tick every 16 images and at the end of each stage, networks saved in the first and
    third one, and grids drawn in every second one; both also at the stages' ends."""
    ticks = ticks_of(run_dir)
    assert [t["Progress/kimg"] for t in ticks] == [0.016, 0.032, 0.048, 0.064, 0.08]
    assert [t["saved_network"] for t in ticks] == [True, True, True, False, True]
    names = [path.name for path in run_dir.iterdir()]
    assert sum(n.startswith("network-snapshot") for n in names) == 4
    assert sum(n.startswith("fakes") for n in names) == 1 + 4


@pytest.mark.slow
def test_log_and_stats_report_the_same_ticks(whole):
    log = (whole / "log.txt").read_text()
    lines = [line for line in log.splitlines() if line.startswith("tick ")]
    ticks = ticks_of(whole)
    assert len(lines) == len(ticks) and "warning" not in log
    for line, tick in zip(lines, ticks):
        shown = dict(re.findall(r"(kimg|resolution|minibatch|sec/kimg|images/s|skipped) +([\d.]+)",
                               line))
        assert float(shown["kimg"]) == pytest.approx(tick["Progress/kimg"], abs=0.06)
        assert float(shown["sec/kimg"]) == pytest.approx(tick["Timing/sec_per_kimg"], abs=0.01)
        assert float(shown["images/s"]) == pytest.approx(1000 / tick["Timing/sec_per_kimg"],
                                                        rel=1e-3)
        assert int(shown["minibatch"]) == 8 and int(shown["resolution"]) == 4
        assert "sec/tick" in line and "maintenance" in line and "ETA stage" in line
        assert "gpumem" not in line or tf.config.list_physical_devices("GPU")
    assert ticks[-1]["Timing/eta_sec"] == 0 and ticks[0]["Timing/eta_sec"] > 0
    assert ticks[-1]["Progress/end_kimg"] == ticks[-1]["Progress/kimg"]
    assert "fid8 1.08" in lines[-1]


@pytest.mark.slow
def test_events_have_the_official_names(whole):
    ticks = ticks_of(whole)
    events = EventAccumulator(str(whole), size_guidance={"tensors": 0, "images": 0})
    events.Reload()
    names = set(events.Tags()["tensors"])
    assert {"Progress/kimg", "Progress/lod", "Timing/sec_per_kimg", "Timing/maintenance_sec",
            "Resources/peak_mem_gb", "Loss/scores/real", "Loss/scores/fake", "Loss/r1_penalty",
            "Loss/scores/real/joint", "Metrics/fid8", "fakes", "reals"} <= names

    def events_of(name):
        return {event.step: float(tf.make_ndarray(event.tensor_proto))
                for event in events.Tensors(name)}

    for name in ("Loss/G", "Loss/scores/fake/rgb", "Progress/kimg"):
        assert events_of(name) == {
            round(1000 * t["Progress/kimg"]): pytest.approx(t[name], rel=1e-6) for t in ticks}
    last = ticks[-1]
    assert events_of("Loss/r1_penalty")[80] == pytest.approx(
        (last["Loss/r1_penalty/rgb"] + last["Loss/r1_penalty/joint"]) / 2, rel=1e-5)
    assert len(events.Tensors("fakes")) == len(list(whole.glob("fakes*.png")))
    assert len(events.Tensors("reals")) == 3


@pytest.mark.slow
def test_the_page_shows_the_run(whole):
    reader = PageReader((whole / "index.html").read_text())
    ticks = ticks_of(whole)
    for title, curve, name in (("losses", "D/joint", "Loss/D/joint"), ("losses", "G", "Loss/G"),
                               ("scores of D", "real/rgb", "Loss/scores/real/rgb"),
                               ("fid8", "fid8", "Metrics/fid8")):
        assert f"{curve}: {[t[name] for t in ticks if name in t][-1]:.4g}" in reader.charts[title]
    assert len(reader.sources()) == len(list(whole.glob("fakes*.png"))) + 1
    assert "reals-classes.png" in reader.text
    assert all(name in reader.text for name in FOUR)
    (box,) = [a for tag, a in reader.tags if tag == "p" and a.get("class", "").startswith("state")]
    assert box == {"class": "state finished"}


@pytest.mark.slow
def test_the_page_after_a_resume_equals_an_uninterrupted_runs(whole, again):
    """Except for the times, and for the marks where it was resumed."""
    check_ticks(again)
    runs = [(run, read_history(run)) for run in (whole, again)]
    for charts in (lambda run, history: metric_charts(history, run),
                   lambda _, history: loss_charts(history)):
        assert charts(*runs[0])
        for chart, other in zip(charts(*runs[0]), charts(*runs[1]), strict=True):
            assert chart.series == other.series
            assert len(other.marks) == len(chart.marks) + 1
            assert chart.marks == [mark for mark in other.marks if mark[2] != "resume"]
            assert [mark[2] for mark in chart.marks] == ["growth"] * 2
    readers = [PageReader((run / "index.html").read_text()) for run in (whole, again)]
    assert readers[0].sources() == readers[1].sources()
    assert [row["kimg"] for row in read_jsonl(again / "stats.jsonl")
            if row["event"] == "resume"] == [0.064]


@pytest.mark.slow
def test_growths_are_logged_as_sentences(whole):
    log = (whole / "log.txt").read_text()
    row = next(row for row in read_jsonl(whole / "stats.jsonl") if row["event"] == "growth")
    scores = [row["before"][f"D_rgb/{kind}"] for kind in ("real", "fake")]
    assert "entering stage binary (4 channels)\n" in log
    assert ("before the growth D_rgb scores reals {:.2f} and fakes {:.2f}, fid8 is".format(*scores)
            in log) and "{" not in log
    assert growth_sentence({"D_a/real": 0.123, "fid": 55.123456, "D_a/fake": -4}) == (
        "D_a scores reals 0.12 and fakes -4.00, fid is 55.12")


def test_the_page_exists_from_the_start_and_shows_when_a_run_ends(data, tmp_path):
    """Running with the first grids before any tick has finished; stopped, whatever the reason."""
    training = begin(data, tmp_path / "run")
    states = []

    def look_and_fail(stage):
        states.append((tmp_path / "run" / "index.html").read_text())
        raise RuntimeError("the end")

    training._step = look_and_fail
    with pytest.raises(RuntimeError, match="the end"):
        training.run()
    assert 'class="state running"' in states[0] and "No tick has finished yet" in states[0]
    assert len(PageReader(states[0]).sources()) == 2
    assert 'class="state stopped"' in (tmp_path / "run" / "index.html").read_text()
    assert read_jsonl(tmp_path / "run" / "stats.jsonl") == [
        {"event": "begin", "kimg": 0.0, "classes": list(FOUR)}]


def test_official_names():
    assert official_names({"Loss/scores/real/a": 1.0, "Loss/scores/real/b": 2.0, "Loss/G": 5.0,
                           "Loss/r1_penalty/a": 3.0}) == {
        "Loss/scores/real": 1.5, "Loss/r1_penalty": 3.0}


@pytest.fixture
def reporter(data, tmp_path):
    config = TrainingConfig(**{**OPTIONS, "data": str(data)})
    return RunReporter(tmp_path, StyleGan(config, open_dataset(data), STRATEGY),
                       util.start_log("reporting", tmp_path / "log.txt"))


def report(reporter, step, skipped_mean, turns):
    """Report one tick of the rgb stage after `step` steps."""
    stage = make_stage(reporter.method.config, 4, "rgb", 1.0)
    progress = Progress(step=step, cur_nimg=8 * step, tick=step // 4)
    reporter.tick(stage, progress, {
        "Progress/tick": progress.tick, "Progress/turns": turns, "Progress/kimg": 0.008 * step,
        "Progress/lod": 1.0, "Progress/resolution": 4, "Progress/channels": 3,
        "Progress/minibatch": 8, "Progress/lrate": 0.001, "Loss/G": 1.0,
        "Progress/skipped_updates": skipped_mean, "Timing/total_sec": 3.0,
        "Timing/sec_per_tick": 1.0, "Timing/sec_per_kimg": 31.0, "Timing/maintenance_sec": 0.5},
        saved_network=False)
    return progress


def test_skipped_updates_are_counted_over_resumes(reporter):
    """Steps report 0, 1 or 2 each; the tick has their mean."""
    reporter.begin(Progress())
    progress = report(reporter, 4, 0.75, 4)
    reporter.begin(progress)
    report(reporter, 8, 0.5, 4)
    ticks = ticks_of(reporter.run_dir)
    assert [t["Progress/skipped_updates"] for t in ticks] == [3, 2]
    assert [t["Progress/skipped_total"] for t in ticks] == [3, 5]
    assert ticks[0]["Timing/eta_sec"] > 0  # from the tick's own speed: no step was timed


def test_the_last_tick_counts_after_a_resume(reporter):
    """Even at 16,056 images, which as a float are less than a thousand times 16.056."""
    assert 0.008 * 2007 * 1000 > 8 * 2007
    reporter.begin(report(reporter, 2007, 0.75, 4))
    assert reporter.skipped == 3


def test_a_page_that_cannot_be_written_is_only_logged(reporter):
    (reporter.run_dir / "index.html").mkdir()
    reporter.begin(Progress())
    report(reporter, 4, 0, 4)
    log = (reporter.run_dir / "log.txt").read_text()
    assert re.search(r"warning: .*index.html could not be written: IsADirectoryError: .*\n", log)
    assert len(ticks_of(reporter.run_dir)) == 1


def test_the_page_is_written_at_most_once_a_minute(reporter):
    """Drawing takes longer than a short tick, and browsers do not reload it more often."""
    page = reporter.run_dir / "index.html"
    reporter.begin(Progress())
    report(reporter, 4, 0, 4)
    assert "No tick has finished yet" in page.read_text()
    reporter.next_page = 0.0
    report(reporter, 8, 0, 4)
    assert ("Losses and scores" in page.read_text()
            and "No tick has finished" not in page.read_text())


PROGRAM = """
import sys
from pathlib import Path
import tensorflow as tf
from dnnlib import util
from tests.training.test_reporter import OPTIONS
from training.run import status_line
from training.config import TrainingConfig
from tests.tools import training_runs
status_line.INTERVAL_SEC = 0.0
data, run_dir = sys.argv[1:]
config = TrainingConfig(**{**OPTIONS, "variant": "rgb", "data": data})
training_runs.begin(config, Path(run_dir)).run()
print("after", file=sys.stderr)
"""


@pytest.mark.slow
def test_a_run_on_a_terminal(data, tmp_path):
    """The status line is complete, and the log's lines are whole on the screen."""
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
    assert re.search(r"kimg 0\.\d  rgb resolution 4 lod 0.00  [\d.e+]+ sec/kimg  "
                     r"[\d.e+]+ images/s  ETA stage \w+, run \w+  skipped 0  mem [\d.]+ GB", text)
    screen = Screen()
    screen.feed(text)
    log = (tmp_path / "run" / "log.txt").read_text().splitlines()
    lines = [line.rstrip() for line in screen.lines if line.rstrip()]
    assert lines[-1] == "after" and [line for line in lines if line in log] == log
    assert not any(line.startswith("kimg") for line in lines)


def test_other_workers_write_no_files():
    """They have every method that the loop calls, returning what it needs to go on."""
    own = {"begin", "report_grid"}
    assert {name for name in dir(RunFiles) if name[0] != "_"} - own == {
        name for name in dir(NoFiles) if name[0] != "_"}
    silent = NoFiles()
    with silent.reporting(Progress()):
        assert (silent.stats_bytes(), silent.scores(None, Progress())) == (0, {})
        assert silent.tick(None, Progress(), {}, True) is None
