"""Outputs of scripts: pipes without readers, terminals that lack our characters."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

import dataset_tool
import generate
import run_metrics
import train
from dnnlib import cli, util

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run_script(monkeypatch, capsys):
    """Return a function (main, *argv, stdout) -> (exit status, stderr), like a script's."""
    def run(main, *argv, stdout):
        monkeypatch.setattr(sys, "argv", ["script.py", *argv])
        monkeypatch.setattr(sys, "stdout", stdout)
        with pytest.raises(SystemExit) as leaving:
            cli.run_main(main)
        monkeypatch.undo()
        return leaving.value.code, capsys.readouterr().err
    return run


@pytest.fixture
def unread():
    """Return a stream into a pipe whose reader is closed."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stream:
        yield stream


def print_much(argv):
    for line in range(100_000):
        print(line)
    raise AssertionError("nobody reads this")


def print_little(argv):
    print("done")
    return 1


def log_much(argv):
    log = util.start_log("to a pipe")
    for line in range(10):
        log.info(str(line))
    raise AssertionError("nobody reads this")


@pytest.mark.parametrize("main", [print_much, print_little, log_much])
def test_a_closed_pipe_ends_quietly(run_script, unread, main):
    assert run_script(main, stdout=unread) == (0, "")
    unread.write("what a destructor prints goes nowhere")
    unread.flush()


@pytest.mark.parametrize("script", [dataset_tool, generate, run_metrics, train])
def test_every_script_ends_quietly(run_script, unread, script):
    assert run_script(script.main, "--help", stdout=unread) == (0, "")


def lose_a_connection(argv):
    print("working", flush=True)
    raise BrokenPipeError(32, "Broken pipe")


def test_another_broken_pipe_is_an_error(run_script, tmp_path):
    with open(tmp_path / "out.txt", "w") as stream:
        assert run_script(lose_a_connection, stdout=stream) == (
            2, "error: [Errno 32] Broken pipe\n")


def test_a_full_disk_under_the_output_is_an_error(run_script):
    with open("/dev/full", "w") as stream:
        status, error = run_script(print_little, stdout=stream)
        assert status == 2 and error == "error: [Errno 28] No space left on device\n"
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def test_a_shell_sees_no_error():
    """The interpreter flushes once more when it ends."""
    command = f"{sys.executable} dataset_tool.py --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True,
                          check=True)
    assert (done.stdout, done.stderr) == ("0\n", "")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_outputs_are_not_an_error(closed):
    command = "from dnnlib import cli; cli.run_main(lambda argv: print('done'))"
    done = subprocess.run(["bash", "-c", f"{sys.executable} -c \"{command}\" {closed}"], cwd=ROOT,
                          capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_matplotlib_does_not_complain_of_a_missing_home():
    """As in containers; our own line on the cache names what helps."""
    command = "from dnnlib import cli; cli.run_main(lambda argv: print(__import__('matplotlib')))"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True,
                          check=True, env=os.environ | {"HOME": "/proc/nothere"})
    assert "module" in done.stdout and done.stderr == ""


NAMES = ["OUT/ñ", "日本", os.fsdecode(b"caf\xe9"), "plain"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("write", ["print", "log"])
def test_characters_that_the_terminal_lacks_become_escapes(run_script, tmp_path, encoding, write):
    def main(argv):
        tell = util.start_log("names", tmp_path / "log.txt").info if write == "log" else print
        for name in NAMES:
            tell(name)
        return 0
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    assert run_script(main, stdout=stream) == (0, "")
    assert raw.getvalue().decode(encoding).splitlines() == [
        name.encode(encoding, "backslashreplace").decode(encoding) for name in NAMES]
    if write == "log":
        assert (tmp_path / "log.txt").read_text("utf-8").splitlines() == [
            "OUT/ñ", "日本", r"caf\udce9", "plain"]


def test_json_keeps_names_that_are_not_unicode(tmp_path):
    record = {"path": os.fsdecode(b"caf\xe9"), "ñ": "日本"}
    util.write_json(tmp_path / "a.json", record)
    util.append_jsonl(tmp_path / "b.jsonl", record)
    assert util.read_json(tmp_path / "a.json") == util.read_json(tmp_path / "b.jsonl") == record
    assert "日本" in (tmp_path / "a.json").read_text("utf-8")
