"""Values of options, options without effect."""

import argparse
import errno
from pathlib import Path

import pytest

from dnnlib import cli
from dnnlib.util import UserError


@pytest.mark.parametrize("parse, good, bad", [
    (cli.natural, {"0": 0, "12": 12}, ["-1", "1.5", "", "x", "²", "9" * 19]),
    (cli.positive_int, {"1": 1, "007": 7}, ["0", "00", "-1", "1e3", ""]),
    (cli.seeds, {"0-3,7": [0, 1, 2, 3, 7], " 5 ": [5]},
     ["3-1", "1,,2", "a", "0-4096", "0-4000,0-99", str(2**32)]),
    (cli.psi, {"0.7": 0.7, "-1": -1}, ["101", "nan", "inf", ""]),
    (cli.share, {"0.5%": 0.005, "0.1": 0.1, "100%": 1, "0": 0}, ["101%", "-1%", "%", "", "nan"]),
    (cli.label, {"3": 3, "0.1,0": (0.1, 0.0)}, ["", "a", "0.1,"])])
def test_values(parse, good, bad):
    assert {text: parse(text) for text in good} == good
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match=r"^'"):
            parse(text)


def test_names_of_files_stay_short():
    assert cli.numbers_name([0, 1, 2, 7]) == "0-2,7"
    assert len(cli.numbers_name(range(0, 400, 3))) == 8
    assert [cli.label_suffix(label) for label in (None, 3, (0.5, 0))] == \
        ["", "-label3", "-label-0.5_0"]
    assert cli.label_suffix((0.1234567,)) != cli.label_suffix((0.1234568,))


class ResourceExhaustedError(Exception):
    """Has the name of TensorFlow's error."""


def test_too_little_memory_is_one_line(capsys):
    def main(argv):
        raise ResourceExhaustedError("OOM when allocating tensor\n[[node]]")

    assert cli.exit_status(main, []) == 2
    assert capsys.readouterr().err == ("error: the device's memory is too small; give a smaller "
                                       "--minibatch, or smaller photos\n")
    with pytest.raises(ResourceExhaustedError):
        cli.exit_status(main, ["--debug"])


@pytest.mark.parametrize("error, line", [
    (FileNotFoundError(errno.ENOENT, "No such file", "a b.json"), "a b.json: No such file"),
    (PermissionError(errno.EACCES, "Denied", Path("x")), "x: Denied"),
    (OSError(errno.EXDEV, "Cross-device", "a", None, "b"),
     f"[Errno {errno.EXDEV}] Cross-device: 'a' -> 'b'"),
    (OSError(errno.ENOSPC, "Full"), f"[Errno {errno.ENOSPC}] Full"),
    (OSError("any"), "any")])
def test_errors_of_the_system_begin_with_the_file(capsys, error, line):
    def main(argv):
        raise error

    assert cli.exit_status(main, []) == 2
    assert capsys.readouterr().err == f"error: {line}\n"


def test_a_misspelt_option_gets_the_one_that_may_be_meant():
    """Of the command that it is given to; nothing is guessed for what resembles none."""
    parser = cli.argument_parser("", "")
    parser.prog = "tool"
    parser.add_argument("--resolution")
    parser.add_argument("--blur", action=argparse.BooleanOptionalAction)
    sub = parser.add_subparsers(dest="command").add_parser("make", prog="tool make")
    sub.add_argument("--num-val")
    for argv, message in (
            (["--resoluton=64"], "--resoluton=64; did you mean --resolution? see tool --help"),
            (["--noblur"], "--noblur; did you mean --no-blur? see tool --help"),
            (["--xyz"], "--xyz; see tool --help"),
            (["make", "--numval=3"], "--numval=3; did you mean --num-val? see tool make --help")):
        with pytest.raises(UserError) as error:
            parser.parse_args(argv)
        assert str(error.value) == f"unrecognized arguments: {message}"


def test_options_without_effect_are_refused_by_the_first_rule_that_applies():
    parser = argparse.ArgumentParser()
    parser.add_argument("--num-val", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    rules = [cli.IdleRule(("seed",), False, "never"), cli.IdleRule(("num_val",), True, "no maps"),
             cli.IdleRule(("num_val", "seed"), True, "again")]

    def refuse(*argv):
        cli.refuse_idle(cli.non_default_options(parser, parser.parse_args(argv)), rules)
    refuse("--num-val=2", "--seed=0")
    with pytest.raises(UserError, match=r"^--num-val: without effect: no maps; leave it out$"):
        refuse("--num-val=3")
    with pytest.raises(UserError, match=r"^--seed: without effect: again; leave it out$"):
        refuse("--seed=1")
