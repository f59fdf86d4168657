"""Progress bars are shown on every terminal, and nowhere else."""

import fcntl
import os
import struct
import subprocess
import sys
import termios

import pytest

COMMAND = [sys.executable, "-c", "from dnnlib import util\nlist(util.progress(range(9)))"]


@pytest.mark.parametrize("rows, columns", [(40, 110), (0, 0), (0, 110)])
def test_a_bar_is_seen_on_a_terminal_of_known_and_unknown_size(rows, columns):
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
    subprocess.run(COMMAND, stderr=theirs, check=True)
    os.close(theirs)
    seen = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "100%|" in seen and "9/9" in seen


def test_nothing_is_written_to_a_file():
    assert subprocess.run(COMMAND, capture_output=True, check=True).stderr == b""
