"""One line at the foot of a terminal that is written over and over."""

import os
import sys
import time

INTERVAL_SEC = 1.0
ESCAPE_CLEAR = "\r\x1b[K"  # to the line's beginning, and erase it


class LiveLine:
    """A line on stderr that makes way for every line of a log; silent where stderr is no terminal.
    """

    def __init__(self, log, stream=None, clock=time.monotonic):
        """
        Args:
            log: logging.Logger whose lines go to the same terminal.
            stream: instead of stderr. clock: function () -> seconds.
        """
        self.stream, self.clock = stream or sys.stderr, clock
        self.is_shown, self.next = False, 0.0
        self.is_terminal = self.stream.isatty()
        if self.is_terminal:
            log.addFilter(self._make_way)

    def is_due(self):
        """Whether there is a terminal and the line on it is older than a second."""
        return self.is_terminal and self.clock() >= self.next

    def show(self, fields):
        """Write texts side by side, as many as the terminal has room for."""
        if not self.is_terminal:
            return
        self.next = self.clock() + INTERVAL_SEC
        self._write(ESCAPE_CLEAR + fitted(fields, self._columns() - 1))
        self.is_shown = True

    def clear(self):
        """Take the line away, for others to write there."""
        if self.is_shown:
            self._write(ESCAPE_CLEAR)
            self.is_shown = False

    def _make_way(self, record):
        """A filter of the log, which is asked before anything is printed: all lines pass."""
        self.clear()
        return True

    def _write(self, text):
        """A terminal that went away (a closed connection) ends the line, not the training."""
        try:
            self.stream.write(text)
            self.stream.flush()
        except OSError:
            self.is_terminal = self.is_shown = False

    def _columns(self):
        """Of the terminal; 80 where it does not say."""
        try:
            return os.get_terminal_size(self.stream.fileno()).columns or 80
        except OSError:
            return 80


def fitted(fields, width, gap="  "):
    """The first of the texts, whole ones, that fit side by side into a width."""
    line = fields[0][:width]
    for field in fields[1:]:
        if len(line) + len(gap) + len(field) > width:
            break
        line += gap + field
    return line
