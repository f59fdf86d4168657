"""Trials: run, continued, stopped, failed."""

import dataclasses
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from dnnlib import util
from dnnlib.util import UserError, lock_directory
from experiments.study import (
    EVALUATED,
    Trial,
    choose,
    run_study,
    script,
    shell_command,
)


def trial(out, row, seed=0, metrics="kid9"):
    run = out / f"{row}-seed{seed}"
    return Trial(row, seed, run, script("train.py", {"run": run}),
                 [script("run_metrics.py", {"network": run, "metrics": metrics})])


@pytest.fixture
def trials(started, tmp_path):
    """Return three trials, in a folder `out`."""
    started.set_metrics({f"{row}-seed0": {"kid9": {"": 0.1, "_std": 0.01}} for row in "abc"})
    return [trial(tmp_path / "out", row) for row in "abc"]


def run(trials, tmp_path, **options):
    reports = []
    status = run_study(trials, tmp_path / "out", "the command", lambda: reports.append(1),
                       **options)
    return status, len(reports)


def test_commands_of_scripts(started):
    command = script("train.py", {"init_from": "x y", "untagged": None, "floor": True, "kimg": 3})
    assert command[1:] == [str(started.root / "train.py"), "--init-from=x y", "--floor",
                           "--kimg=3"]


def test_finished_trials_are_not_repeated(trials, started, tmp_path, capfd):
    assert run(trials, tmp_path) == (0, 3)
    assert started.trained() == ["a-seed0", "b-seed0", "c-seed0"]
    out = capfd.readouterr().out
    assert "== b, seed 0: 2 of 3, new; about 22m 00s left" in out
    assert f"$ {trials[0].training[0]} {started.root}/train.py --run=" in out
    before = len(started.calls())
    assert run(trials, tmp_path) == (0, 0)
    assert len(started.calls()) == before


def test_preparations_come_before_the_training_and_count(trials, started, tmp_path, capfd):
    slow = [sys.executable, "-c", "import time; time.sleep(0.3)"]
    first, second = (dataclasses.replace(one, preparations=[slow]) for one in trials[:2])
    (started.root / "fail-b-seed0").touch()
    assert run([first, second], tmp_path)[0] == 2
    said = capfd.readouterr().out
    assert said.index("time.sleep") < said.index("train.py")
    result = first.result()
    assert 0.3 < result["preparation_sec"] < 60 and result["preparations"]
    broken = dataclasses.replace(trials[2], preparations=[[sys.executable, "-c", "exit(3)"]])
    assert run([broken], tmp_path)[0] == 2
    assert "c-seed0" not in started.trained()
    assert "failed: c, seed 0: preparation ended with status 3" in capfd.readouterr().out


def test_another_evaluation_or_a_newer_network_is_measured_again(trials, started, tmp_path):
    run(trials[:1], tmp_path)
    started.set_metrics({"a-seed0": {"kid9": {"": 0.2}, "fid9": {"": 7.0}}})
    other = trial(tmp_path / "out", "a", metrics="kid9,fid9")
    assert not other.is_evaluated() and trials[0].is_evaluated()
    run([other], tmp_path)
    assert started.trained() == ["a-seed0"]
    assert other.result()["values"] == {"kid9": 0.2, "fid9": 7.0}
    later = time.time() + 10
    os.utime(other.run / "network-final.safetensors", (later, later))
    assert not other.is_evaluated()


def test_rows_trained_by_other_commands_are_refused(trials, started, tmp_path):
    """The table stores the command that trained a row; another device makes no difference."""
    run(trials[:1], tmp_path)
    other = dataclasses.replace(trials[0], training=[*trials[0].training, "--lrate=0.5"])
    assert other.is_evaluated() and "--lrate" not in other.result()["training"]
    assert other.result()["training"] == shell_command(trials[0].training)
    with pytest.raises(UserError, match=r"a, seed 0: .*was trained by other .*\(--lrate=0.5\)"):
        other.check_training()
    dataclasses.replace(trials[0], training=[*trials[0].training, "--gpus=2"]).check_training()
    trials[0].check_training()


def test_a_study_may_move(trials, started, tmp_path):
    run(trials[:1], tmp_path)
    (tmp_path / "out").rename(tmp_path / "moved")
    moved = trial(tmp_path / "moved", "a")
    moved.check_training()
    assert moved.is_evaluated() and moved.result()["values"] == {"kid9": 0.1, "kid9_std": 0.01}
    # From a version that stored only the evaluations.
    util.write_json(moved.run / EVALUATED, [command[2:] for command in moved.evaluations])
    moved.check_training()
    assert moved.is_evaluated() and not trial(tmp_path / "moved", "a", metrics="x").is_evaluated()


def test_a_folder_may_start_with_digits(trials, started, monkeypatch, tmp_path):
    """As in 2d: in a pattern, a digit after a group's reference would change the group's number."""
    monkeypatch.chdir(tmp_path)
    started.set_metrics({"a-seed0": {"kid9": {"": 0.1}}})
    for name in ("2d", "120-g<1>"):
        run([trial(Path(name), "a")], tmp_path)
        assert trial(Path(name), "a").result()["values"] == {"kid9": 0.1}


def test_the_time_of_evaluations_includes_all_commands(trials, started, tmp_path):
    """For several metrics in one command, the time of the last, from the command's start."""
    started.set_metrics({"a-seed0": {"kid9": {"": 0.1}, "fid9": {"": 7.0}, "is9": {"": 2.0}}})
    two = dataclasses.replace(trials[0], evaluations=[
        script("run_metrics.py", {"network": trials[0].run, "metrics": names})
        for names in ("kid9,fid9", "is9")])
    run([two], tmp_path)
    assert two.result()["evaluation_sec"] == 120


def test_records_of_other_commands_do_not_count(trials, tmp_path):
    run(trials[:1], tmp_path)
    path = trials[0].run / "metric-kid9.jsonl"
    path.write_text(path.read_text() + path.read_text().replace("0.1,", "0.9,").replace(
        "--network", "--trunc=0.5 --network"))
    assert trials[0].result()["values"] == {"kid9": 0.1, "kid9_std": 0.01}
    assert trials[0].result()["floors"] == {"kid9": 0.001, "kid9_std": 0.001}


def test_a_failed_trial_does_not_stop_the_others(trials, started, tmp_path, capfd):
    (started.root / "fail-b-seed0").touch()
    started.set_metrics({"a-seed0": {"kid9": {"": 0.1}}})  # c's evaluation fails
    assert run(trials, tmp_path) == (2, 3)
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("failed")]
    assert "b, seed 0: training ended with status 2" in lines[0]
    assert "c, seed 0: evaluation ended with status 1" in lines[1] and len(lines) == 2
    assert [one.state() for one in trials] == ["finished", "to be continued", "to be evaluated"]
    (started.root / "fail-b-seed0").unlink()
    started.set_metrics({f"{row}-seed0": {"kid9": {"": 0.1}} for row in "bc"})
    assert run(trials, tmp_path) == (0, 2)
    assert started.trained() == ["a-seed0", "b-seed0", "c-seed0", "b-seed0"]


def test_without_the_first_trial_the_others_do_not_start(trials, started, tmp_path):
    (started.root / "fail-first-seed0").touch()
    first = trial(tmp_path / "out", "first")
    assert run(trials, tmp_path, first=first)[0] == 2
    assert started.trained() == ["first-seed0"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_reaches_the_training_once_and_ends_the_study(trials, started, tmp_path,
                                                                        capfd, number):
    (started.root / "wait-b-seed0").touch()

    def ask():
        while started.trained()[-1:] != ["b-seed0"]:
            time.sleep(0.01)
        os.kill(os.getpid(), number)
    thread = threading.Thread(target=ask)
    thread.start()
    before = signal.getsignal(number)
    status, _ = run(trials, tmp_path)
    thread.join()
    assert status == 128 + number and signal.getsignal(number) is before
    assert (trials[1].run / "state").read_text() == str(int(number))
    assert "stopped; the same command continues: the command" in capfd.readouterr().out
    (started.root / "wait-b-seed0").unlink()
    assert run(trials, tmp_path)[0] == 0
    assert started.trained() == ["a-seed0", "b-seed0", "b-seed0", "c-seed0"]


def test_one_process_at_a_time(trials, tmp_path):
    with lock_directory(tmp_path / "out", "x"), \
            pytest.raises(UserError, match="running this study"):
        run(trials, tmp_path)


def test_the_rows_and_seeds_of_a_plan():
    plan = [("b", 1), ("a", 1), ("b", 2)]
    assert choose(plan, None, None, "abc") == plan
    assert choose(plan, ["c", "a"], None, "abc") == [("c", 1), ("a", 1), ("c", 2), ("a", 2)]
    assert choose(plan, None, [7], "abc") == [("b", 7), ("a", 7)]
    with pytest.raises(UserError, match="--rows=d: unknown; known: a, b, c"):
        choose(plan, ["a", "d"], None, "abc")
    with pytest.raises(UserError, match=r"known: real-20, 2d-20; did you mean real-20\?$"):
        choose(plan, ["rael-20"], None, ["real-20", "2d-20"])

