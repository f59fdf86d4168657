"""The command lines of all experiments: common options, which --out stores, and the run."""

import argparse
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dnnlib import cli, util
from dnnlib.cli import IdleRule
from dnnlib.data import dataset, labelled
from dnnlib.util import UserError
from experiments.study import Trial, choose, run_study
from experiments.tables import command_lines

OPTIONS_FILE = "study.json"  # in --out
DIGESTS = "digests"  # of the data sets, in this file


def plan_of(rows: str, *seeds: int) -> tuple[tuple[str, int], ...]:
    """Return (row, seed) for all rows, which are separated by spaces, seed by seed."""
    return tuple((row, seed) for seed in seeds for row in rows.split())


@dataclass(frozen=True)
class Preset:
    """The trials of a study, and their options.

    Attributes:
        plan: (row, seed), the most valuable answers first.
        options: values for options of the script that are not given.
        train: options of train.py for all rows.
    """

    plan: tuple[tuple[str, int], ...]
    options: dict
    train: dict


@dataclass(frozen=True)
class Study:
    """The definition of one script in this folder.

    Attributes:
        name: of its module, and of the files of its table.
        presets: by name; the first one is the default.
        rows: names of all rows.
        fixed: options that a study cannot change once begun. of_machine: those that may change.
        own: {option besides those of all experiments: keywords of add_argument}.
        needs: options that a study requires, such as its data.
        together: options of a preset that belong to its --data; unused if other data are given.
        about_rows: help for --rows, if the rows depend on other options.
    """

    name: str
    presets: dict[str, Preset]
    rows: Sequence[str]
    fixed: tuple[str, ...]
    of_machine: tuple[str, ...]
    own: dict[str, dict] = field(default_factory=dict)
    needs: tuple[str, ...] = ("data",)
    together: tuple[str, ...] = ()
    about_rows: str = ""

    def begin(self, argv: Sequence[str], description: str, examples: str) -> argparse.Namespace:
        """Parse a command line, and complete it with the options that the study was begun with,
        else with the preset's.

        Raises:
            UserError: an option has no effect, or one of `fixed` has another value than before,
                since rows of two kinds do not make a table.
        """
        parser = cli.argument_parser(description.partition("\n")[0], examples)
        self._add_options(parser)
        options = parser.parse_args(argv)
        cli.refuse_idle(cli.non_default_options(parser, options), [
            IdleRule(["dry_run", "rows", "seeds"], options.table_only,
                     "--table-only shows what is finished")])
        self._remember(options)
        return options

    def _add_options(self, parser):
        """Add the options that all experiments have, and the study's own."""
        add = parser.add_argument
        add("--out", type=Path, default=Path("results") / self.name, metavar="DIR",
            help="folder of the run directories and the table")
        add("--preset", choices=self.presets,
            help=f"networks, data and lengths (default: {next(iter(self.presets))})")
        add("--rows", type=lambda text: text.split(","), metavar="ROW,...",
            help=self.about_rows or f"of {', '.join(self.rows)} (default: the preset's, each with "
                                    "its own seeds)")
        add("--seeds", type=cli.seeds, metavar="N,...", help="seeds of every row")
        add("--kimg", type=float, metavar="N", help="length of every row (default: the preset's)")
        add("--device", choices=("gpu", "cpu"), help="as for train.py")
        add("--gpus", type=cli.positive_int, metavar="N", help="as for train.py")
        add("--dry-run", action="store_true", help="print the commands")
        add("--table-only", action="store_true", help="write the table of the finished trials")
        for name, keywords in self.own.items():
            add(f"--{name}", **keywords)

    def _remember(self, options):
        """Complete the options with those stored in --out, else with the preset's."""
        path = options.out / OPTIONS_FILE
        stored = util.read_json(path) if path.is_file() else {}
        if options.table_only and not stored:
            raise UserError(f"{options.out}: no table was begun there; give --out")
        for name in self.fixed + self.of_machine:
            given = getattr(options, name, None)
            if given is None:
                setattr(options, name, stored.get(name))
            elif stored and name in self.fixed and given != stored.get(name):
                raise UserError(f"--{name}={given}: {options.out} was begun with "
                                f"{stored.get(name)}; leave it out, or give another --out")
        options.preset = options.preset or next(iter(self.presets))
        # What was stored stays; an option that is newer than the study gets the preset's value.
        own_data = not stored and all(getattr(options, name) for name in self.needs)
        known = {*stored, *(self.together if own_data else ())}
        for name, value in self.presets[options.preset].options.items():
            if getattr(options, name) is None and name not in known:
                setattr(options, name, value)
        for name in self.needs:
            if not getattr(options, name):
                raise UserError(f"--{name}: missing, and --preset={options.preset} names none")

    def run(self, options: argparse.Namespace,
            make_trial: Callable[[argparse.Namespace, str, int], Trial],
            write_tables: Callable[[argparse.Namespace], Path], *, left_out: Sequence[str] = (),
            first: Trial | None = None, prepare: Callable[[], None] = lambda: None) -> int:
        """Print the commands, or train, measure and write the table. Return the exit status.

        Args:
            make_trial: (options, row, seed) -> the Trial.
            write_tables: (options) -> the table's path.
            left_out: rows that are not possible here. first: a trial that all others begin from.
            prepare: called before the first training.
        """
        if options.table_only:
            write_tables(options)
            return 0
        plan = [(row, seed) for row, seed in self.presets[options.preset].plan
                if row not in left_out]
        trials = [make_trial(options, row, seed)
                  for row, seed in choose(plan, options.rows, options.seeds, self.rows)]
        if options.dry_run:
            for trial in [*([first] if first else []), *trials]:
                print(f"== {trial.name}: {trial.state()}")
                for command in (*trial.preparations, trial.training, *trial.evaluations):
                    print(f"$ {shlex.join(command)}")
            return 0
        for trial in trials:
            trial.check_training()
        digests = self._data_digests(options)
        prepare()
        util.write_json(options.out / OPTIONS_FILE, {**self._stored(options), DIGESTS: digests})
        status = run_study(trials, options.out, self._continuing(options),
                           lambda: write_tables(options), first)
        print(f"wrote {write_tables(options)}")
        return status

    def _data_digests(self, options):
        """Return {path: digest} of the data sets and folders of pairs that `fixed` options name,
        some as NAME:DIR,...; raise UserError if one has changed since the study was begun."""
        words = [word for name in self.fixed for word in str(getattr(options, name)).split(",")]
        paths = [Path(word.partition(":")[2] or word) for word in words]
        digests = {str(path): labelled.open_labelled(path).digest for path in paths
                   if (path / dataset.FILE_NAME).is_file() or labelled.pair_folders(path)}
        study = options.out / OPTIONS_FILE
        before = util.read_json(study).get(DIGESTS, {}) if study.is_file() else {}
        for path, digest in digests.items():
            if before.get(path, digest) != digest:
                raise UserError(f"{path}: was made anew since {options.out} was begun, and rows of "
                                "two data sets make no table; give another --out")
        return digests

    def _continuing(self, options):
        """Return the command that continues a study, with the rows and seeds asked for."""
        chosen = {"rows": options.rows, "seeds": options.seeds}
        return shlex.join([
            "python", "-m", f"experiments.{self.name}", f"--out={options.out}",
            *(f"--{name}={','.join(map(str, values))}" for name, values in chosen.items()
              if values)])

    def _stored(self, options):
        """Return {option: value} as stored in --out."""
        return {name: getattr(options, name) for name in self.fixed + self.of_machine}

    def results(self, options: argparse.Namespace,
                make_trial: Callable[[argparse.Namespace, str, int], Trial]) -> list[dict]:
        """Return the results of all measured trials in --out, in the order of the rows."""
        found = []
        for row in self.rows:
            seeds = sorted(int(seed) for path in options.out.glob(f"{row}-seed*")
                           if (seed := path.name.removeprefix(f"{row}-seed")).isdecimal())
            trials = [make_trial(options, row, seed) for seed in seeds]
            found += [trial.result() for trial in trials if trial.is_evaluated()]
        return found

    def write(self, options: argparse.Namespace, lines: Sequence[str], results: list[dict],
              **found: Any) -> Path:
        """Write the table: lines and commands as Markdown, results as JSON. Return the Markdown
        file's path; raise UserError if --table-only finds no results."""
        if options.table_only and not results:
            raise UserError(f"{options.out}: nothing is finished there that would be measured so "
                            "today; a table that is there stays as it is")
        path = options.out / f"{self.name}.md"
        util.write_json(path.with_suffix(".json"), {
            "options": self._stored(options), **found, "trials": results})
        util.atomic_write(path, "\n".join([*lines, *command_lines(results), ""]))
        return path
