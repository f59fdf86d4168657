"""A line at the bottom of the terminal that is updated in place."""

import logging
import time
from collections.abc import Callable

from dnnlib import util

INTERVAL_SEC = 1.0


class StatusLine:
    """A line of text on stderr, drawn by tqdm, that is removed before every line of a log.

    Nothing is written if stderr is not a terminal.
    """

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic):
        """Start without showing anything.

        Args:
            log: a log on the same terminal. clock: returns seconds.
        """
        self.clock, self.next, self.bar = clock, 0.0, None
        log.addFilter(lambda record: self.clear() or True)

    def is_due(self) -> bool:
        """Return True if the line is older than a second."""
        return self.clock() >= self.next

    def show(self, fields: list[str]) -> None:
        """Write as many of the texts side by side as fit the terminal, most important first."""
        self.next = self.clock() + INTERVAL_SEC
        if self.bar is None:
            self.bar = util.progress(bar_format="{desc}", leave=False)
        if not self.bar.disable:
            self.bar.set_description_str(fitting_fields(fields, self.bar.format_dict["ncols"] - 1))

    def clear(self) -> None:
        """Remove the line, so that other output can go there."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def fitting_fields(fields: list[str], width: int) -> str:
    """Return a line with as many of the first texts, uncut, as fit side by side into a width."""
    line = fields[0][:width]
    for field in fields[1:]:
        if len(line) + 2 + len(field) > width:
            break
        line += "  " + field
    return line
