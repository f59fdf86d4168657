"""The command lines of all scripts: their start and end, parsers, values, options without effect.

The functions text -> value are types for argparse; their ArgumentTypeError says what is allowed.
"""

import argparse
import contextlib
import hashlib
import io
import logging
import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from dnnlib.stderr_filter import hide_tensorflow_banner
from dnnlib.suggestions import did_you_mean
from dnnlib.util import UserError, close_broken_outputs, one_line

MAX_SEED = np.iinfo(np.uint32).max  # the largest that numpy.random.RandomState takes
MAX_PSI = 100
MAX_GRID = 4096  # samples in one picture


# Start and end of a script

def run_main(main: Callable[[list[str]], int | None]) -> None:
    """Run a script's `main(argv)` and exit with its status.

    UserError and operating-system errors print one line on stderr and exit with 2, Ctrl-C with 130,
    an output that nobody reads any more (`| head`) with 0. A traceback, and what TensorFlow's C++
    side prints at its start, are shown only with `--debug`.
    """
    argv = sys.argv[1:]
    # By default TensorFlow uses oneDNN's convolutions only if a processor has AVX-512; they are
    # faster on others as well (docs/performance.md).
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    for name in ("stdout", "stderr"):  # None if the shell has closed it (>&-)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - until the process ends
    for stream in (sys.stdout, sys.stderr):  # file names may have characters it cannot encode
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # matplotlib warns if it cannot keep its cache, which costs seconds and loses nothing.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    with contextlib.nullcontext() if "--debug" in argv else hide_tensorflow_banner():
        status = exit_status(main, argv)
    sys.exit(status)


def exit_status(main: Callable[[list[str]], int | None], argv: list[str]) -> int | None:
    """Return main(argv)'s exit status, with its errors printed on stderr."""
    try:
        try:
            status = main(argv)
            sys.stdout.flush()  # at the interpreter's exit it is too late to handle an error
            return status
        except SystemExit as leaving:  # from --help
            sys.stdout.flush()
            return leaving.code
        except (UserError, OSError) as error:
            if isinstance(error, BrokenPipeError) and close_broken_outputs():
                return 0
            if "--debug" in argv:
                traceback.print_exc()
            print(f"error: {_without_number(error)}", file=sys.stderr)
            return 2
        except Exception as error:
            # Compare TensorFlow's class by name: not all scripts import TensorFlow.
            if type(error).__name__ != "ResourceExhaustedError" or "--debug" in argv:
                raise
            print("error: the device's memory is too small; give a smaller --minibatch, or smaller "
                  "photos", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("interrupted; repeat the command to continue", file=sys.stderr)
            return 130
    except BrokenPipeError:  # also from the handlers above
        if not close_broken_outputs():
            raise
        return 0


def _without_number(error):
    """Return an error as one line; of one about a single file, the file and what is wrong."""
    name = error.filename if isinstance(error, OSError) and error.filename2 is None else None
    return one_line(f"{name}: {error.strerror}" if isinstance(name, str | os.PathLike) else error)


def argument_parser(description: str, examples: str) -> argparse.ArgumentParser:
    """Return a parser whose help shows defaults and examples, and which knows `--debug`."""
    parser = _Parser(
        description=description, epilog="examples:\n" + examples, allow_abbrev=False,
        formatter_class=_HelpFormatter)
    parser.add_argument("--debug", action="store_true", help="show a traceback with an error")
    return parser


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, and name the option that may be meant;
    `help_options` select the help to see."""

    help_options = ""

    def parse_known_args(self, args=None, namespace=None):
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            known = [option for action in self._actions for option in action.option_strings]
            self.error(f"unrecognized arguments: {' '.join(unknown)}"
                       + did_you_mean(unknown[0].partition("=")[0], known))
        return found, unknown

    def error(self, message: str):
        raise UserError(f"{message}{'' if message.endswith('?') else ';'} see {self.prog} "
                        f"{self.help_options}--help")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Print the default of every option that has one, and the examples as written."""

    def _get_help_string(self, action):
        has_default = action.default is not None and action.default is not False
        return super()._get_help_string(action) if has_default else action.help


def split_argv(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return a script's own arguments, and those after "--", which are the runner's."""
    end = argv.index("--") if "--" in argv else len(argv)
    return list(argv[:end]), list(argv[end + 1:])


def check_runner(runner: str | None, of_runner: Sequence[str]) -> None:
    """Raise UserError if there are options for a runner, but no runner is given."""
    if of_runner and runner is None:
        raise UserError("--: options after it are for --runner, which is not given")


# Options without effect

@dataclass(frozen=True)
class IdleRule:
    """Options (as argparse names them, "num_val") that have no effect if `idle`, and the reason."""

    options: Sequence[str]
    idle: bool
    reason: str


def refuse_idle(given: Iterable[str], rules: Iterable[IdleRule]) -> None:
    """Raise UserError for the first option that the user gave (`given`: see non_default_options)
    although a rule says that it has no effect."""
    given = set(given)
    for rule in rules:
        for name in rule.options:
            if rule.idle and name in given:
                raise UserError(f"--{name.replace('_', '-')}: without effect: {rule.reason}; "
                                "leave it out")


def non_default_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> dict:
    """Return {name: value} of the options whose values are not the parser's defaults."""
    return {name: value for name, value in vars(options).items()
            if value != parser.get_default(name)}


# Values

def natural(text: str) -> int:
    """Return a whole number, 0 or more."""
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, 0 or more")
    return int(text)


def positive_int(text: str) -> int:
    """Return a whole number, 1 or more."""
    if not re.fullmatch(r"0*[1-9][0-9]{0,17}", text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, 1 or more")
    return int(text)


def seed(text: str) -> int:
    """Return a whole number that can be a seed."""
    value = natural(text)
    if value > MAX_SEED:
        raise argparse.ArgumentTypeError(f"{text!r}: seeds go from 0 to {MAX_SEED}")
    return value


def seeds(text: str) -> list[int]:
    """Return seeds and ranges of them as a list: '0-3,7' -> [0, 1, 2, 3, 7]."""
    numbers = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not match:
            raise argparse.ArgumentTypeError(
                f"{text!r}: expected numbers and ranges such as 0-35 or 3,7,12-15")
        first, last = seed(match[1]), seed(match[2] or match[1])
        if last < first:
            raise argparse.ArgumentTypeError(f"{text!r}: the range {part} runs backwards")
        if last - first + len(numbers) >= MAX_GRID:
            raise argparse.ArgumentTypeError(f"{text!r}: at most {MAX_GRID} samples at a time; "
                                             "give the other seeds in further commands")
        numbers.extend(range(first, last + 1))
    return numbers


def grid(text: str) -> tuple[int, int]:
    """Return columns and rows, '4x2' -> (4, 2)."""
    match = re.fullmatch(r"([0-9]+)x([0-9]+)", text)
    columns, rows = map(int, match.groups()) if match else (0, 0)
    if not 1 <= columns * rows <= MAX_GRID:
        raise argparse.ArgumentTypeError(f"{text!r}: expected columns x rows such as 4x2, for "
                                         f"{MAX_GRID} samples at most")
    return columns, rows


def finite(text: str) -> float:
    """Return a number that is neither infinite nor NaN."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number such as 0.7")
    return value


def psi(text: str) -> float:
    """Return a truncation_psi; beyond MAX_PSI there are only overflows, no pictures."""
    value = finite(text)
    if abs(value) > MAX_PSI:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected a number from -{MAX_PSI} to {MAX_PSI}")
    return value


def share(text: str) -> float:
    """Return a share of a whole, '0.5%' or '0.005' -> 0.005."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:  # also for NaN
        raise argparse.ArgumentTypeError(f"{text!r}: expected a share such as 0.5% or 0.005")
    return value


def label(text: str) -> int | tuple[float, ...]:
    """Return a class, '3' -> 3, or numbers, '0.1,0,0.9' or '0.5' -> (0.1, 0.0, 0.9) or (0.5,)."""
    if text.isascii() and text.isdecimal():
        return natural(text)
    return tuple(finite(part) for part in text.split(","))


# Values in file names, so that pictures of different samples do not overwrite each other

def numbers_name(numbers: Iterable[int]) -> str:
    """Return numbers for a file's name: [0, 1, 2, 7] -> '0-2,7'; a hash if that is long."""
    runs = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number,))
    return _short(",".join("-".join(map(str, run)) for run in runs))


def label_suffix(label: int | Sequence[float] | None) -> str:
    """Return what a label (training.sampler.Sampler.label) adds to a file's or folder's name."""
    if label is None or isinstance(label, int):
        return "" if label is None else f"-label{label}"
    return "-label-" + _short("_".join(
        text if float(text := f"{value:g}") == value else repr(float(value)) for value in label))


def _short(text):
    """Return a text of up to 40 characters, or a hash of a longer one."""
    return text if len(text) <= 40 else hashlib.sha256(text.encode()).hexdigest()[:8]
