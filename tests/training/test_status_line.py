"""The status line: on a terminal, through a pty, and nowhere else."""

import fcntl
import os
import re
import struct
import subprocess
import sys
import termios

import pytest

from training.run.status_line import fitting_fields

PROGRAM = """
import logging, sys
from dnnlib import util
from training.run.status_line import StatusLine
log = util.start_log("training")
now = [0.0]
status = StatusLine(log, clock=lambda: now[0])
for i in range(40):
    now[0] += 0.125
    if status.is_due():
        status.show([f"kimg {i}", "rgb 8x8", "x" * 30, "y" * 30, "end"])
    if i % 15 == 14:
        log.info(f"tick {i}")
status.clear()
status.clear()
print("after", file=sys.stderr)
"""


class Screen:
    """What a terminal shows: it knows carriage return and newline."""

    def __init__(self):
        self.lines, self.column = [""], 0

    def feed(self, text):
        for part in re.findall(r"\r|\n|[^\r\n]+", text):
            if part == "\r":
                self.column = 0
            elif part == "\n":
                self.lines.append("")
                self.column = 0
            else:
                line = self.lines[-1].ljust(self.column)
                self.lines[-1] = line[:self.column] + part + line[self.column + len(part):]
                self.column += len(part)


def run_on_terminal(columns, rows=24, stdout_too=True, code=PROGRAM):
    """Return (text seen, stdout or None) of a program whose stderr is a terminal."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
    result = subprocess.run([sys.executable, "-c", code], stderr=theirs, check=True, text=True,
                            stdout=theirs if stdout_too else subprocess.PIPE)
    os.close(theirs)
    seen = os.read(ours, 1_000_000).decode()
    os.close(ours)
    return seen, result.stdout


def test_lines_of_the_log_are_whole():
    seen, _ = run_on_terminal(120)
    screen = Screen()
    screen.feed(seen)
    assert [line.rstrip() for line in screen.lines] == ["tick 14", "tick 29", "after", ""]
    # Once a second: every eighth pass of the loop.
    shown = re.findall(r"\r(kimg \d+)  rgb 8x8  x{30}  y{30}  end", seen)
    assert shown == ["kimg 0", "kimg 8", "kimg 16", "kimg 24", "kimg 32"]


@pytest.mark.parametrize("columns, rows, width", [(40, 24, 39), (0, 0, 79), (9, 24, 8)])
def test_it_fits_into_one_line(columns, rows, width):
    """80 columns if the terminal does not give its width; a longer line would scroll."""
    seen, _ = run_on_terminal(columns, rows)
    shown = re.findall(r"\r(kimg[^\r]*)", seen)
    assert len(shown) == 5 and max(map(len, shown)) <= width


def test_log_in_a_file_stays_clean():
    seen, stdout = run_on_terminal(100, stdout_too=False)
    assert stdout == "tick 14\ntick 29\n" and "kimg 32" in seen


def test_silent_without_a_terminal():
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True)
    assert result.stdout == b"tick 14\ntick 29\n" and result.stderr == b"after\n"


def test_a_closed_terminal_ends_only_the_status_line():
    """The other end of the pty is closed in the middle of the loop, which goes on."""
    ours, theirs = os.openpty()
    code = PROGRAM.replace("now[0] += 0.125", "now[0] += 1; input() if i == 20 else 0").replace(
        'print("after", file=sys.stderr)', 'print("after")')
    process = subprocess.Popen([sys.executable, "-c", code], stderr=theirs, text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    os.close(theirs)
    while "kimg 20" not in (seen := os.read(ours, 1_000_000).decode()) and "kimg 19" not in seen:
        pass
    os.close(ours)
    stdout, _ = process.communicate("\n")
    assert (process.returncode, stdout) == (0, "tick 14\ntick 29\nafter\n")


def test_fields_are_shown_whole_or_not_at_all():
    assert fitting_fields(["kimg 1", "abc", "de"], 11) == "kimg 1  abc"
    assert fitting_fields(["kimg 1", "abc", "de"], 15) == "kimg 1  abc  de"
    assert fitting_fields(["kimg 1", "abcdef", "de"], 13) == "kimg 1"
    assert fitting_fields(["kimg 1"], 3) == "kim"
