"""Stopped, killed, disk full, no photos: what a training does then, and that it continues.

killing.py shows in separate processes that a killed run ends like an undisturbed one.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from dnnlib import util
from dnnlib.util import UserError
from tests.conftest import TINY
from tests.tools.data_helpers import make_dataset, random_image, read_jsonl
from tests.tools.training_runs import begin
from training import loss, snapshots, state, training_loop
from training.config import TrainingConfig
from training.dataset import TrainingStream
from training.run import directory, signals
from training.training_loop import Training

ROOT = Path(__file__).resolve().parents[2]
FINAL = "network-final.safetensors"


@pytest.mark.parametrize("variant, num_ticks", [
    ("2d", 9), ("segmenter", 12), ("decoder", 12), ("pix2pix", 12), ("pose", 12),
    ("cyclegan", 12)])
@pytest.mark.slow
def test_killed_again_and_again(variant, num_ticks, tmp_path):
    """Set KILLS=100 for more kills."""
    kills = os.environ.get("KILLS", "25")
    result = subprocess.run(
        [sys.executable, "-m", "tests.tools.killing", str(tmp_path), f"--variant={variant}",
         f"--kills={kills}"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    logged = json.loads(result.stdout.splitlines()[-1])
    print(logged)
    assert logged["kills"] == int(kills) and logged["runs_finished"] > 0
    assert logged["differences"] == []
    assert len(logged["ticks"]) == num_ticks


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Return a config: eight steps at 4x4, RGB; ticks of four; two steps per schedule reading."""
    rng = np.random.default_rng(0)
    images = np.stack([random_image(rng, 7, 8)[:3] for _ in range(12)])
    data = make_dataset(tmp_path_factory.mktemp("data") / "photos", {"train": images}, ())
    return TrainingConfig(**{**TINY, "data": str(data), "variant": "rgb", "resolution": 4,
                             "initial_resolution": 4, "minibatch_repeats": 2, "rgb_kimg": 0.064,
                             "tick_kimg": {4: 0.032}})


def ticks(run_dir):
    return [e["Progress/kimg"] for e in read_jsonl(run_dir / "stats.jsonl") if e["event"] == "tick"]


@pytest.fixture(scope="module")
def peaceful_run(config, tmp_path_factory):
    """Return an undisturbed run whose wall clock goes back by an hour at each reading."""
    run_dir, now = tmp_path_factory.mktemp("runs") / "peaceful", itertools.count(2e9, -3600.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: next(now))
        assert begin(config, run_dir).run() is True
    return run_dir


@pytest.fixture(scope="module")
def peaceful(peaceful_run):
    """Return the digests of its networks."""
    return snapshots.read_header(peaceful_run / FINAL)["digests"]


def test_durations_do_not_depend_on_the_wall_clock(peaceful_run):
    logged = [e for e in read_jsonl(peaceful_run / "stats.jsonl") if e["event"] == "tick"]
    for name in ("total_sec", "sec_per_tick", "sec_per_kimg", "maintenance_sec", "images_per_sec"):
        assert all(0 < tick[f"Timing/{name}"] < 1e5 for tick in logged)
    total = [tick["Timing/total_sec"] for tick in logged]
    assert len(total) == 2 and total[0] < total[1]
    header, _ = state.load_newest_state(peaceful_run, Lines())
    assert total[1] <= header["progress"]["elapsed_sec"] < total[1] + 1000


def ends_as(peaceful, config, run_dir, **more):
    """Continue a run to its end; return whether it ends like the peaceful one, each tick once."""
    assert begin(config, run_dir, **more).run() is True
    assert ticks(run_dir) == [0.032, 0.064]
    return snapshots.read_header(run_dir / FINAL)["digests"] == peaceful


def interrupt(number):
    """Send a signal to this process, which its main thread handles before the next line."""
    os.kill(os.getpid(), number)


@pytest.mark.slow
def test_an_evaluation_stops_at_once(config, peaceful, tmp_path):
    """It is repeated on resuming; an evaluation that fails only has no numbers."""
    asked = []

    def evaluate(snapshot):
        asked.append(snapshot.header["kimg"])
        if len(asked) == 1:
            raise UserError("the images are not finite")
        if len(asked) == 2:
            interrupt(signal.SIGHUP)
            raise AssertionError("the evaluation went on")
        return {"fid8": 1.0}

    training = begin(config, tmp_path / "run", evaluate=evaluate)
    assert training.run() is False
    assert training.stop_signal == signal.SIGHUP
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    assert "run the same command to continue" in (tmp_path / "run" / "log.txt").read_text()
    assert ends_as(peaceful, config, tmp_path / "run", evaluate=evaluate)
    assert asked == [0.032, 0.064, 0.064]
    assert "no metrics at kimg 0.0: the images are not finite" in (
        tmp_path / "run" / "log.txt").read_text()
    assert json.loads((tmp_path / "run" / "best.json").read_text())["kimg"] == 0.064


def test_a_stop_while_compiling_writes_no_state(config, tmp_path, monkeypatch):
    """In the middle of a trace; nothing is lost, since nothing was learned."""
    original = loss.discriminator_loss

    def interrupted(*args, **kwargs):
        interrupt(signal.SIGINT)
        return original(*args, **kwargs)

    monkeypatch.setattr(loss, "discriminator_loss", interrupted)
    training = begin(config, tmp_path / "run")
    assert training.run() is False
    assert training.stop_signal == signal.SIGINT
    assert training.progress.step == 0
    assert state.list_states(tmp_path / "run") == []


@pytest.mark.parametrize("good_reads", [0, 3])
@pytest.mark.slow
def test_a_stalled_input_pipeline_is_logged_and_can_be_stopped(good_reads, config, peaceful,
                                                               tmp_path, monkeypatch):
    """The fourth minibatch does not come: a state between two readings of the schedule is saved. Or
    no minibatch comes at all, when the first grid is drawn."""
    path, answers, reads = tmp_path / "run", threading.Event(), []
    read = TrainingStream._read

    def blocked(self, numbers):
        reads.append(numbers)
        if len(reads) > good_reads:
            answers.wait()
        return read(self, numbers)

    def stop_after_two_warnings():
        while training.progress.step < good_reads:
            time.sleep(0.05)
        before = logged().count("warning: no p")
        while logged().count("warning: no p") < before + 2:
            time.sleep(0.05)
        interrupt(signal.SIGTERM)

    def logged():
        return (path / "log.txt").read_text()

    with monkeypatch.context() as patch:
        if good_reads:
            patch.setattr(Training, "_draw_beginning", lambda self, stage: None)  # it reads too
        patch.setattr(TrainingStream, "_read", blocked)
        for name in ("PHOTOS", "DRAW"):
            late = getattr(signals, name).late
            patch.setattr(signals, name, signals.Work(name, late, late_sec=0.2))
        training = begin(config, path)
        threading.Thread(target=stop_after_two_warnings, daemon=True).start()
        assert training.run() is False
    answers.set()
    assert training.progress.step == training.saved_step == good_reads
    assert training.progress.steps_since_schedule == good_reads % config.minibatch_repeats
    assert ("the input pipeline is stalled" if good_reads else "no picture for") in logged()
    assert ends_as(peaceful, config, path)


@pytest.mark.slow
def test_a_run_that_only_skips_updates_is_given_up(config, peaceful, tmp_path, monkeypatch):
    """Networks get another name; the same command does not repeat it, other options continue."""
    monkeypatch.setattr(training_loop, "MAX_SKIPPED", 3)
    run_dir = directory.make_run(None, tmp_path, "rgb", config.to_json())
    training = begin(config, run_dir)
    take_step = training._step

    def poisoned(stage):
        take_step(stage)
        if training.progress.step == 5:  # after the first tick
            const = training.method.networks["G"].vars["G_synthesis/4x4/Const/const"]
            const.assign(tf.fill(const.shape, np.nan))
            training._save_state()
        if training.progress.step == 7:
            training._save_state()

    training._step = poisoned
    with pytest.raises(UserError, match=r"given up at kimg 0.064: 3 updates in a row.*"
                       r"lower --lrate .*higher --r1-gamma .*--override.* from kimg 0.040"
                       r".*another --run"):
        training.run()
    assert (run_dir / "nonfinite-000000.064.safetensors").is_file()
    assert snapshots.best_snapshot(run_dir).name.startswith("network-snapshot-")
    # The state of step 5 is good: nothing had been skipped yet.
    assert [p.name[-14:-12] for p in state.list_states(run_dir)] == ["32", "40"]
    with pytest.raises(UserError, match="the same options lead there again"):
        directory.find_run(run_dir, tmp_path, config.to_json())
    with pytest.raises(UserError, match="the same options lead there again"):
        directory.find_run(None, tmp_path, config.to_json())
    directory.adopt_options(directory.find_run(run_dir, tmp_path, config.to_json(), override=True),
                   config.to_json(), Lines())
    state.list_states(run_dir)[-1].unlink()  # the poisoned one
    assert ends_as(peaceful, config, run_dir)


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system of 700 kB."""
    path = tmp_path / "disk"
    path.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "none", str(path)],
                          capture_output=True, check=False)
    if made.returncode:
        pytest.skip("file systems can be mounted by root only")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def fill(path):
    """Fill a disk to the last byte."""
    with open(path, "wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(512))


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_state(config, peaceful, small_disk):
    run_dir, filler = small_disk / "run", small_disk / "filler"
    training = begin(config, run_dir)
    save = training._save_state

    def fill_and_save():
        if training.progress.tick == 2 and not filler.exists():
            fill(filler)
        save()

    training._save_state = fill_and_save
    with pytest.raises(UserError, match=r"is full .*No space left") as caught:
        training.run()
    newest = state.list_states(run_dir)[-1]
    assert f"({newest.name})" in str(caught.value) and "make room" in str(caught.value)
    assert not list(run_dir.glob(".*"))
    assert snapshots.load_container(newest)[0]["progress"]["cur_nimg"] == 32
    filler.unlink()
    assert ends_as(peaceful, config, run_dir)


def test_a_full_disk_in_tensorboard_is_reported_as_such(tmp_path):
    """TensorFlow reports it as exhausted resources, like a device's memory."""
    with (pytest.raises(UserError, match=r"the disk is full"),
          directory.explain_full_disk(tmp_path)):
        raise tf.errors.ResourceExhaustedError(None, None, "events.out; No space left on device")
    with pytest.raises(tf.errors.ResourceExhaustedError), directory.explain_full_disk(tmp_path):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
    with pytest.raises(FileNotFoundError), directory.explain_full_disk(tmp_path):
        (tmp_path / "missing").read_text()


def test_a_full_log_is_reported_once_and_output_continues(capfd):
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    log = util.start_log("full", "/dev/full")
    log.info("first line")
    log.info("second line")
    util.start_log("full")
    out, err = capfd.readouterr()
    assert out == "first line\nsecond line\n"
    assert err.count("\n") == 1 and "/dev/full" in err and "No space" in err


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    stats = tmp_path / "stats.jsonl"
    stats.write_text('{"event": "tick"}\n')
    logged = directory.stats_bytes(tmp_path)
    with open(stats, "a") as file:
        file.write('{"event": "ti')
    for name in (".training-state-000000001.safetensors.77.tmp", ".fakes000001.png.77.tmp",
                 ".augmented.png.77.tmp", ".training_options.json.77.tmp", ".someone-elses.tmp"):
        (tmp_path / name).touch()
    directory.clean_up_after_kill(tmp_path, logged)
    assert stats.read_text() == '{"event": "tick"}\n'
    assert [p.name for p in tmp_path.glob(".*")] == [".someone-elses.tmp"]
    directory.clean_up_after_kill(tmp_path, None)  # a state from before lengths were stored
    assert stats.stat().st_size == logged
    directory.clean_up_after_kill(tmp_path, 0)
    assert stats.stat().st_size == 0


class Lines:
    """A log that keeps its lines."""

    def __init__(self):
        self.lines = []

    def info(self, line):
        self.lines.append(line)

    def wait_for(self, count):
        while len(self.lines) < count:
            time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_request_to_stop_ends_work_that_may_stop_at_once(number):
    asked = []
    with signals.StopHandler(Lines(), lambda: asked.append(number)) as watching:
        interrupt(number)
        assert asked == [number] and watching.signal == number
        with pytest.raises(signals.Stopped), watching.during(signals.REPORT, interruptible=True):
            raise AssertionError("it went on")


def test_a_request_to_stop_in_a_finaliser_prints_no_traceback(monkeypatch):
    """Python ignores what is raised there, and prints it; other exceptions are still printed."""
    class Finalised:
        def __del__(self):
            interrupt(signal.SIGTERM)

    class Broken:
        def __del__(self):
            raise OSError("broken")

    printed = []
    monkeypatch.setattr(sys, "unraisablehook", lambda caught: printed.append(caught.exc_type))
    with signals.StopHandler(Lines()) as watching:
        with watching.during(signals.REPORT, interruptible=True):
            Finalised()
        Broken()
        assert watching.signal == signal.SIGTERM and printed == [OSError]
        with pytest.raises(signals.Stopped), watching.during(signals.REPORT, interruptible=True):
            raise AssertionError("it went on")
    Broken()
    assert printed == [OSError, OSError]


def test_a_hangup_that_the_shell_ignores_stays_ignored():
    """As under nohup; other signals count, and SIGHUP is still ignored afterwards."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.StopHandler(Lines()) as watching:
            interrupt(signal.SIGHUP)
            assert watching.signal is None
            interrupt(signal.SIGTERM)
            assert watching.signal == signal.SIGTERM
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_stalled_work_is_logged_at_growing_intervals():
    log = Lines()
    with signals.StopHandler(log) as watching:
        with watching.during(signals.REPORT, interruptible=True):
            with watching.during(signals.PHOTOS):
                assert watching._now.interruptible  # like the work around it
            time.sleep(3 * signals.POLL_SEC)
            assert watching._now.work is signals.REPORT
        assert log.lines == []  # an evaluation may take any time
        began = time.monotonic()
        with watching.during(signals.Work("turn", "no turn for {time}", late_sec=0.3)):
            log.wait_for(3)
        assert time.monotonic() - began >= 0.3 * 4
        assert all(line.startswith("warning: no turn for ") for line in log.lines)


STUCK = """
import ctypes, sys, threading, time
from dnnlib import util
from training.run import signals

signals.GRACE_SEC = 0.3
lock, libc = ctypes.create_string_buffer(64), ctypes.CDLL(None)
libc.pthread_mutex_lock(lock)


def block():
    libc.pthread_mutex_lock(lock)  # for ever: the handler of a signal never gets its turn


def announce():
    while sys._current_frames()[threading.main_thread().ident].f_code is not block.__code__:
        time.sleep(0.01)
    time.sleep(0.2)
    print("ready", flush=True)


with signals.StopHandler(util.start_log("stuck")) as watching, \\
        watching.during(signals.REPORT, interruptible=AT_ONCE):
    threading.Thread(target=announce, daemon=True).start()
    block()
"""


def stuck(interruptible):
    """Start a process whose main thread is inside native code."""
    process = subprocess.Popen([sys.executable, "-c", STUCK.replace("AT_ONCE", str(interruptible))],
                               cwd=ROOT, text=True, stdout=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_process_inside_native_code_can_be_stopped():
    """If nothing is lost by it, the process ends although its main thread handles no signal."""
    with stuck(interruptible=True) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 128 + signal.SIGTERM
        assert process.stdout.read().startswith("stopped in the middle of drawing and evaluating")


def test_a_second_ctrl_c_ends_at_once():
    with stuck(interruptible=False) as process:
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == (
            "stopping: the state is saved first (Ctrl-C again stops at once)\n")
        assert "Ctrl-C once more" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait() == 128 + signal.SIGINT


def test_an_endless_thread_does_not_keep_the_process_alive():
    code = ("import threading\nfrom training.run import signals\n"
            "threading.Thread(target=threading.Event().wait).start()\n"
            "signals.end_if_stuck(143, patience_sec=0.1)")
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 143


def test_a_second_tick_in_one_kimg_has_its_own_name(tmp_path):
    assert directory.moment_name(140_032, 0, 140) == "000140"
    assert directory.moment_name(140_900, 140_032, 140) == "000140.900"  # the end of a stage
    assert directory.moment_name(512, 0, 140) == "000000.512"
    assert directory.moment_name(16, 0, 0.016) == "000000.016"
    for name in ("000139", "000140", "000140.900"):
        (tmp_path / f"network-snapshot-{name}.safetensors").touch()
    assert snapshots.best_snapshot(tmp_path).stem == "network-snapshot-000140.900"


def test_other_options_are_listed(tmp_path):
    """--override continues with options that may change."""
    record = {**TrainingConfig().to_json(), "init_from": None, "data_digest": "d"}
    run = directory.make_run(tmp_path / "run", tmp_path, "x", record)
    other = {**record, "lrate": {4: 0.5}, "r1_gamma": 3.0}
    with pytest.raises(UserError, match=r"lrate: 4:0.001,256:0.0015,512:0.002 there, 0.5 now; "
                                        r"r1_gamma: 10.0 there, 3.0 now.*"
                                        r"--override to continue"):
        directory.find_run(run, tmp_path, other)
    assert directory.find_run(run, tmp_path, other, override=True) == run
    for name, value in (("variant", "c"), ("resolution", 8), ("fmap_max", 3), ("hold_kimg", 1.0),
                        ("data_digest", "e"), ("init_from", "x")):
        for override in (False, True):  # --override is suggested only where it helps
            with pytest.raises(UserError, match=f"options that a training cannot change .{name}"):
                directory.find_run(run, tmp_path, {**other, name: value}, override=override)
    with pytest.raises(UserError, match="--override: needs --run"):
        directory.find_run(None, tmp_path, record, override=True)
    with pytest.raises(UserError, match=r"--override: .*typo holds no run"):
        directory.find_run(tmp_path / "typo", tmp_path, record, override=True)
    for name in ("", run / "training_options.json"):
        with pytest.raises(UserError, match=r"--run=.*expected the name of a directory"):
            directory.named_run(name, tmp_path)
    log = Lines()
    (run / FINAL).touch()  # with the old options
    directory.adopt_options(run, other, log)
    assert not (run / FINAL).exists()
    assert len(log.lines) == 2 and "r1_gamma: 10.0 there, 3.0 now" in log.lines[1]
    assert directory.find_run(run, tmp_path, other) == run
