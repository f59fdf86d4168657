"""Run trainings for rows x seeds, all evaluated in the same way: the base of all experiments.

A *trial* is one row of a table with one seed: a training in its own run directory, and the commands
that measure its network. Each command is a process of its own, printed before it starts, so that it
can be run by hand. Finished trials are not repeated; interrupted ones are continued.
"""

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from dnnlib import util
from dnnlib.suggestions import did_you_mean
from dnnlib.util import UserError, format_time
from training.run.history import FINAL, read_history

ROOT = Path(__file__).resolve().parents[1]
EVALUATED = "evaluated.json"  # in a run directory: the commands of a trial that is finished
PREPARED = "prepared.json"  # in a run directory: the seconds that preparations took
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


# Commands

def script(name: str, options: dict[str, Any], *words: str | Path) -> list[str]:
    """Return the command of one of the program's scripts: {'init_from': 'x'} is --init-from=x.

    True is a flag; options whose value is None are left out. words: arguments before the options.
    """
    flags = {f"--{key.replace('_', '-')}": value for key, value in options.items()
             if value is not None}
    return [sys.executable, str(ROOT / name), *map(str, words),
            *(flag if value is True else f"{flag}={value}" for flag, value in flags.items())]


def shell_command(command: Sequence[str]) -> str:
    """Return a command of `script` as a user types it in the program's folder."""
    return shlex.join(["python", Path(command[1]).name, *command[2:]])


class StudyStopped(Exception):
    """The user has asked to stop, by the signal `signal`."""

    def __init__(self, number: int):
        super().__init__(number)
        self.signal = number


class Processes:
    """Runs commands, one at a time, and passes requests to stop on to the running one.

    Inside its `with` block, Ctrl-C, SIGTERM and SIGHUP reach only this process, which passes each
    on to the command once: a training saves its state and ends. Then `run` raises StudyStopped.
    """

    def __init__(self):
        self._running, self._signal, self._undelivered, self._before = None, None, [], {}

    def __enter__(self) -> "Processes":
        for number in SIGNALS:
            # Under nohup, a closed terminal is not a request to stop, as in train.py.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
        self._undelivered.append(number)
        self._deliver()

    def _deliver(self):
        while self._running and self._undelivered:
            self._running.send_signal(self._undelivered.pop())

    def run(self, command: Sequence[str]) -> int:
        """Print a command, run it to its end and return its exit status."""
        if self._signal:
            raise StudyStopped(self._signal)
        print(f"$ {shlex.join(command)}", flush=True)
        # In a session of its own, so that a terminal's Ctrl-C does not reach it a second time.
        self._running = subprocess.Popen(command, start_new_session=True)
        self._deliver()
        try:
            status = self._running.wait()
        finally:
            self._running = None
        if self._signal:
            raise StudyStopped(self._signal)
        return status


# Trials

@dataclass(frozen=True)
class Trial:
    """One row with one seed.

    Attributes:
        training: the command that makes or continues `run`.
        evaluations: the commands that measure its network; they write metric-*.jsonl into `run`,
            or into one of `records`.
        preparations: commands that make the inputs of the training; repeated, they continue.
        records: further folders into which the evaluations write.
    """

    row: str
    seed: int
    run: Path
    training: list[str]
    evaluations: list[list[str]]
    preparations: Sequence[list[str]] = ()
    records: Sequence[Path] = ()

    @property
    def name(self) -> str:
        """Return its name in messages."""
        return f"{self.row}, seed {self.seed}"

    def is_trained(self) -> bool:
        """Return whether its training is finished."""
        return (self.run / FINAL).is_file()

    def is_evaluated(self) -> bool:
        """Return whether exactly these commands measured the network after its training ended."""
        record = self.run / EVALUATED
        return (self.is_trained() and record.is_file()
                and record.stat().st_mtime_ns >= (self.run / FINAL).stat().st_mtime_ns
                and self._finished_by()["evaluations"] == self._commands()["evaluations"])

    def check_training(self) -> None:
        """Raise UserError if it is finished, but other commands than these trained it."""
        if not self.is_evaluated():
            return
        found, wanted = self._finished_by(), self._commands()
        for name in ("preparations", "training"):
            if found[name] not in (None, wanted[name]):
                apart = shlex.join(differing_words(found[name], wanted[name]))
                raise UserError(f"{self.name}: {self.run} was trained by other commands than "
                                f"today's ({apart}); give another --out, or remove it to train "
                                "it anew")

    def _commands(self, place="OUT"):
        """Return its commands for comparison: without interpreter, path of the program and device,
        and with `place` for the study's folder."""
        def plain(command: Sequence[str]) -> list[str]:
            words = (word for word in command[1:]
                     if not word.startswith(("--device=", "--gpus=")))
            return [re.sub(rf"(?<![^=,]){re.escape(str(self.run.parent))}(?=/|$|,)",
                           lambda found: place, Path(word).name if number == 0 else word)
                    for number, word in enumerate(words)]

        return {"preparations": [plain(command) for command in self.preparations],
                "training": plain(self.training),
                "evaluations": [plain(command) for command in self.evaluations]}

    def _finished_by(self):
        """Return the commands that `run_trials` recorded, and the study's folder at that time."""
        record = util.read_json(self.run / EVALUATED)
        if isinstance(record, list):  # an older version recorded only the evaluations, as typed
            same = record == [command[2:] for command in self.evaluations]
            return {"preparations": None, "training": None, "out": str(self.run.parent),
                    "evaluations": self._commands()["evaluations"] if same else None}
        return record

    def state(self) -> str:
        """Return its state, in a word or two."""
        if self.is_evaluated():
            return "finished"
        if self.is_trained():
            return "to be evaluated"
        return "to be continued" if self.run.is_dir() else "new"

    def train_and_evaluate(self, processes: Processes) -> str | None:
        """Train and evaluate as far as that is not done yet; return what failed, or None."""
        if not self.is_trained():
            for command in self.preparations:
                began = time.monotonic()
                if status := processes.run(command):
                    return f"{self.name}: preparation ended with status {status}"
                self.run.mkdir(parents=True, exist_ok=True)
                util.write_json(self.run / PREPARED,
                                self.prepared_sec() + time.monotonic() - began)
            if status := processes.run(self.training):
                return f"{self.name}: training ended with status {status}"
            if not self.is_trained():
                return f"{self.name}: training left no {FINAL} in {self.run}"
        if not self.is_evaluated():
            for command in self.evaluations:
                if status := processes.run(command):
                    return f"{self.name}: evaluation ended with status {status}"
            util.write_json(self.run / EVALUATED,
                            {"out": str(self.run.parent), **self._commands()})
        return None

    def prepared_sec(self) -> float:
        """Return the seconds that its preparations took."""
        path = self.run / PREPARED
        return util.read_json(path) if path.is_file() else 0.0

    def result(self) -> dict[str, Any]:
        """Return its results: kimg, seconds of preparation, training and evaluation, every value
        and floor of its metrics by name, their tables of classes, and the commands."""
        ticks = read_history(self.run).ticks
        records, trained_by = [], None
        if self.is_evaluated():
            records, trained_by = self._records(), self._finished_by()["training"]
        values, floors = {}, {}
        for record in records:
            values |= record["results"]
            floors |= (record.get("floor") or {}).get("results", {})
        classes = {record["metric"]: record["classes"] for record in records
                   if "classes" in record}
        # Each record has the seconds since its command began.
        seconds = {}
        for record in records:
            seconds[record["command"]] = max(record["time_sec"],
                                             seconds.get(record["command"], 0.0))
        return {"row": self.row, "seed": self.seed, "run": str(self.run), "classes": classes,
                "kimg": ticks[-1]["Progress/kimg"] if ticks else 0.0,
                "preparation_sec": self.prepared_sec(),
                "training_sec": ticks[-1]["Timing/total_sec"] if ticks else 0.0,
                "evaluation_sec": sum(seconds.values()),
                "values": values, "floors": floors,
                "preparations": [shell_command(command) for command in self.preparations],
                "training": shell_command(self.training) if trained_by is None else shlex.join(
                    ["python", *(word.replace("OUT/", f"{self.run.parent}/")
                                 for word in trained_by)]),
                "evaluations": [shell_command(command) for command in self.evaluations]}

    def _records(self):
        """Return the newest record of every metric that the evaluations wrote."""
        out = self._finished_by()["out"]  # the study may have moved since
        own = {shlex.join(["python", *command]) for command in self._commands(out)["evaluations"]}
        newest = {}
        for path in (path for folder in (self.run, *self.records)
                     for path in sorted(folder.glob("metric-*.jsonl"))):
            records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
            newest |= {one["metric"]: one for one in records if one["command"] in own}
        return list(newest.values())


def differing_words(found: Sequence, wanted: Sequence) -> list[str]:
    """Return the words of commands that are in only one of two lists, at any depth."""
    def words(part: Sequence) -> list[str]:
        return [part] if isinstance(part, str) else [word for one in part for word in words(one)]

    return sorted(set(words(found)) ^ set(words(wanted)))


def choose(plan: Sequence[tuple[str, int]], rows: Sequence[str] | None, seeds: Sequence[int] | None,
           known: Iterable[str]) -> list[tuple[str, int]]:
    """Return the plan or, if --rows or --seeds are given, each of these rows with each seed.

    Args:
        plan: the (row, seed) of a preset, in order. rows, seeds: as given, or None.
        known: all rows that exist.
    """
    if unknown := [row for row in rows or () if row not in known]:
        raise UserError(f"--rows={','.join(unknown)}: unknown; known: {', '.join(known)}"
                        + did_you_mean(unknown[0], known))
    if rows is None and seeds is None:
        return list(plan)
    rows = rows or list(dict.fromkeys(row for row, _ in plan))
    seeds = seeds or sorted({seed for _, seed in plan})
    return [(row, seed) for seed in seeds for row in rows]


def run_trials(trials: Sequence[Trial], processes: Processes,
               after_each: Callable[[], object]) -> list[str]:
    """Train and evaluate all trials; return lines on those that failed.

    A line with the time left is printed before each; after_each() is called when one is done.
    """
    failures = []
    for number, trial in enumerate(trials):
        if trial.is_evaluated():
            continue
        print(f"== {trial.name}: {number + 1} of {len(trials)}, {trial.state()}; "
              f"{time_left(trials[number:], trials)}", flush=True)
        if failure := trial.train_and_evaluate(processes):
            print(f"failed: {failure}", flush=True)
            failures.append(failure)
        after_each()
    return failures


def time_left(ahead: Sequence[Trial], trials: Sequence[Trial]) -> str:
    """Return, in words, the time of the trials ahead, estimated from the finished ones' mean."""
    taken = [trial.result() for trial in trials if trial.is_evaluated()]
    if not taken:
        return "the time left is known after the first"
    mean = sum(one["preparation_sec"] + one["training_sec"] + one["evaluation_sec"]
               for one in taken) / len(taken)
    open_ones = [trial for trial in ahead if not trial.is_evaluated()]
    begun = sum(trial.result()["training_sec"] for trial in open_ones)
    return f"about {format_time(max(mean * len(open_ones) - begun, 0))} left"


# A study

def run_study(trials: Sequence[Trial], out: Path, command: str, after_each: Callable[[], object],
              first: Trial | None = None) -> int:
    """Train and evaluate all trials that are not finished; return the exit status.

    A trial that fails does not stop the others: it is named at the end, and the status is 2.

    Args:
        out: directory of the study, which only one process at a time may use.
        command: the one that continues the study, for messages.
        after_each: called when a trial is done, to write tables.
        first: a trial that all others begin from.
    """
    with util.lock_directory(out, "running this study"), Processes() as processes:
        try:
            failures = run_trials([first] if first else [], processes, after_each)
            if not failures:
                failures = run_trials(trials, processes, after_each)
        except StudyStopped as stopped:
            after_each()
            print(f"stopped; the same command continues: {command}", flush=True)
            return 128 + stopped.signal
    for failure in failures:
        print(f"failed: {failure}; its log is in its run directory, the same command tries again",
              file=sys.stderr)
    return 2 if failures else 0

