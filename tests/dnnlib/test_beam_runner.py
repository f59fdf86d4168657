"""Beam's runners: their options are checked, and their failures are one line."""

import os
import signal
import sys

import pytest

from dnnlib.util import UserError
from tests.tools.beam import IN_MEMORY, NOISE, processes, session

pytestmark = NOISE


@pytest.fixture
def beam_runner():
    pytest.importorskip("apache_beam", reason="Apache Beam is not installed "
                                              "(requirements-beam.txt)")
    from dnnlib import beam_runner
    return beam_runner


def test_beam_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    monkeypatch.delitem(sys.modules, "dnnlib.beam_runner", raising=False)
    with pytest.raises(UserError, match=r"not installed; .* pip install -r requirements-beam\.txt"):
        import dnnlib.beam_runner  # noqa: F401


@pytest.mark.parametrize("name, options, message", [
    ("Nonsense", [], "--runner=Nonsense: Unexpected pipeline runner"),
    ("DirectRunner", ["--direct_num_worker=2"], "Beam knows no option --direct_num_worker$"),
    ("DirectRunner", ["--direct_num_workers", "2", "more"], "Beam knows no option more$"),
    ("DirectRunner", ["--direct_num_workers=two"],
     "^--: argument --direct_num_workers: invalid int value: 'two'$"),
    ("DirectRunner", ["--direct_running_mode=x"],
     "^--: argument --direct_running_mode: invalid choice: 'x' .*in_memory")])
def test_unknown_runners_and_options_are_one_line(beam_runner, name, options, message, capfd):
    with pytest.raises(UserError, match=message) as error:
        beam_runner.BeamRunner(name, options)
    assert "\n" not in str(error.value) and "usage" not in capfd.readouterr().err


def start():
    return fail_at_two


def fail_at_two(number):
    if number == 2:
        raise OSError("no two")


def test_an_error_in_a_worker_is_one_line(beam_runner):
    with pytest.raises(UserError, match=r"^--runner=DirectRunner: .*no two.*run the same command"):
        beam_runner.BeamRunner("DirectRunner", IN_MEMORY).run(start, range(5))


def note_folder():
    return note_where


def note_where(path):
    with open("where", "a") as file:  # in the command's folder, whatever the worker's is
        file.write(f"{os.getpid()} {path}\n")


@pytest.mark.slow
def test_workers_are_other_processes_in_the_same_folder(beam_runner, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    beam_runner.BeamRunner("DirectRunner", processes(2)).run(note_folder, map(str, range(8)))
    lines = [line.split() for line in (tmp_path / "where").read_text().splitlines()]
    assert sorted(path for _, path in lines) == list("01234567")
    assert str(os.getpid()) not in {pid for pid, _ in lines}


def start_dying():
    return die


def die(number):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_worker_that_dies_ends_the_run(beam_runner):
    """DirectRunner itself would wait forever. In the background SIGINT is ignored, as here."""
    code = ("import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
            "import tests.dnnlib.test_beam_runner as t; from dnnlib import beam_runner, cli\n"
            "cli.run_main(lambda argv: beam_runner.BeamRunner('DirectRunner', t.processes(2))"
            ".run(t.start_dying, range(4)))")
    with session(code) as process:
        error = process.communicate(timeout=200)[1].decode()
    assert process.returncode == 2
    assert error.splitlines()[-1].startswith("error: a worker process died (Worker subprocess")
