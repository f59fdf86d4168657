"""The command lines of all experiments: common options, what is remembered of them, the run."""

import argparse
import collections
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnnlib import cli, util
from dnnlib.cli import IdleRule
from dnnlib.util import UserError, format_time
from experiments.study import Trial, choose, measured_sec, print_commands, run_study

OPTIONS_FILE = "study.json"  # in --out


@dataclass(frozen=True)
class Preset:
    """What a study is made of.

    Attributes:
        plan: (row, seed), in the order of what the answers are worth.
        options: of the script, where they are not given.
        train: options of train.py for all rows.
    """

    plan: tuple[tuple[str, int], ...]
    options: dict
    train: dict


@dataclass(frozen=True)
class Study:
    """What a script of this folder is.

    Attributes:
        name: of its module, and of the files of its table.
        presets: {name: what has `plan`, ((row, seed), ...), and `options`, {option: default}}; the
            first one is the default.
        rows: names of all rows.
        fixed: options that a study has once and for all. of_machine: those that may change.
        needs: options that name its data, without which there is no study.
    """

    name: str
    presets: dict[str, Any]
    rows: Sequence[str]
    fixed: tuple[str, ...]
    of_machine: tuple[str, ...]
    needs: tuple[str, ...] = ("data",)

    @property
    def stored(self) -> tuple[str, ...]:
        """Return the names of the options that --out remembers."""
        return self.fixed + self.of_machine

    def add_options(self, parser: argparse.ArgumentParser, about_rows: str = "") -> None:
        """Add the options that all experiments have.

        Args:
            about_rows: what --rows names, where that is known only once other options are.
        """
        add = parser.add_argument
        add("--out", type=Path, default=Path("results") / self.name, metavar="DIR",
            help="where the run directories and the table are")
        add("--preset", choices=self.presets,
            help=f"what is trained on what (default: {next(iter(self.presets))})")
        add("--rows", type=lambda text: text.split(","), metavar="ROW,...",
            help=about_rows or f"of {', '.join(self.rows)} (default: the preset's, each with its "
                               "own seeds)")
        add("--seeds", type=cli.seeds, metavar="N,...", help="seeds of every row")
        add("--kimg", type=float, metavar="N", help="length of every row (default: the preset's)")
        add("--device", choices=("gpu", "cpu"), help="as of train.py")
        add("--gpus", type=cli.positive_int, metavar="N", help="as of train.py")
        add("--dry-run", action="store_true", help="print the commands")
        add("--measure", action="store_true", help="with --dry-run: how long they take here")
        add("--table-only", action="store_true", help="write the table of what is finished")

    def idle_rules(self, options: argparse.Namespace) -> list[IdleRule]:
        """Return the rules on these options."""
        return [IdleRule(["measure"], not options.dry_run, "it goes with --dry-run"),
                IdleRule(["dry_run", "rows", "seeds"], options.table_only,
                         "--table-only shows what is finished")]

    def remember(self, options: argparse.Namespace, together: Sequence[str] = ()) -> None:
        """Complete options by those that the study was begun with, else by the preset's.

        Args:
            together: options of a preset that belong to its --data: with another one none of them
                is meant.

        Raises:
            UserError: another value of one of `fixed`, since rows of two kinds make no table.
        """
        path = options.out / OPTIONS_FILE
        stored = util.read_json(path) if path.is_file() else {}
        if options.table_only and not stored:
            raise UserError(f"{options.out}: no table was begun there; give --out")
        for name in self.stored:
            if getattr(options, name) is None:
                setattr(options, name, stored.get(name))
            elif stored and name in self.fixed and getattr(options, name) != stored.get(name):
                raise UserError(f"--{name}={getattr(options, name)}: {options.out} was begun with "
                                f"{stored.get(name)}; leave it out, or give another --out")
        options.preset = options.preset or next(iter(self.presets))
        if not stored:
            others = set(together) if all(getattr(options, name) for name in self.needs) else set()
            for name, value in self.presets[options.preset].options.items():
                if getattr(options, name) is None and name not in others:
                    setattr(options, name, value)
        for name in self.needs:
            if not getattr(options, name):
                raise UserError(f"--{name}: which data set? --preset={options.preset} names none")

    def plan(self, options: argparse.Namespace,
             left_out: Sequence[str] = ()) -> list[tuple[str, int]]:
        """Return the (row, seed) to do, without rows that are not possible here."""
        return choose([(row, seed) for row, seed in self.presets[options.preset].plan
                       if row not in left_out], options.rows, options.seeds, self.rows)

    def run(self, options: argparse.Namespace, trials: Sequence[Trial],
            write_report: Callable[[argparse.Namespace], Path], first: Trial | None = None,
            prepare: Callable[[], None] = lambda: None,
            timed: Callable[[str], Sequence[str]] | None = None) -> int:
        """Print the commands, or train, measure and write the table. Return the exit status.

        Args:
            trials: all that are wanted. first: that all others begin from.
            write_report: (options) -> the table's path.
            prepare: what is done before the first training.
            timed: row -> the training whose time --measure takes; by default a trial's own.
        """
        if options.dry_run:
            print_commands([*([first] if first else []), *trials])
            if options.measure:
                trainings = {trial.row: trial.training for trial in trials}
                print_times(collections.Counter(trial.row for trial in trials),
                            timed or trainings.get)
            return 0
        prepare()
        util.write_json(options.out / OPTIONS_FILE,
                        {name: getattr(options, name) for name in self.stored})
        status = run_study(trials, options.out,
                           f"python -m experiments.{self.name} --out={options.out}",
                           lambda: write_report(options), first)
        print(f"wrote {write_report(options)}")
        return status


def print_times(rows: dict[str, int], training: Callable[[str], Sequence[str]]) -> None:
    """Print how long trainings take on this machine, by a few steps of each row."""
    total_sec = 0.0
    for row, number in rows.items():
        row_sec = measured_sec(training(row))
        total_sec += number * row_sec
        print(f"{row}: {number} x {format_time(row_sec)}", flush=True)
    print(f"in all about {format_time(total_sec)} of training; evaluations come on top")


def finished_results(options: argparse.Namespace, study: Study,
                     make_trial: Callable[[str, int], Trial]) -> list[dict[str, Any]]:
    """Return the results of all trials in --out that are measured, in the order of the rows."""
    found = []
    for row in study.rows:
        seeds = sorted(int(path.name.removeprefix(f"{row}-seed"))
                       for path in options.out.glob(f"{row}-seed*"))
        trials = [make_trial(row, seed) for seed in seeds]
        found += [trial.result() for trial in trials if trial.is_evaluated()]
    return found
