"""Stop requests to a running training, and warnings if it hangs.

Python runs a signal's handler in the main thread, between two of its instructions: never while that
thread waits inside TensorFlow. So a second thread also receives signals (through a pipe that the
interpreter writes to at once) and watches the clock.
"""

import contextlib
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dnnlib.util import close_broken_outputs, format_time

GRACE_SEC = 10.0  # time for the main thread to respond to a request to stop
POLL_SEC = 0.2
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """A request to stop, raised in work that can be abandoned at once.

    It is not an Exception, so that code that recovers from errors does not catch it.
    """


@dataclass(frozen=True)
class Work:
    """A kind of work of the main thread.

    Attributes:
        name: its name in messages.
        late: the warning to log after `late_sec`, then after twice that, and so on; None if the
            work may take any time.
    """

    name: str
    late: str | None = None
    late_sec: float = 60.0


PHOTOS = Work("the wait for photos", "no photos for {time}: the input pipeline is stalled; check "
              "the disk or the network that the data set is on")
STEP = Work("this step", "no step has finished for {time}: a device, or another worker, does not "
            "respond", late_sec=600.0)
COMPILE = Work("compiling", "still compiling after {time}", late_sec=180.0)
DRAW = Work("drawing", "no picture for {time}: drawing is slow, or the disk or network that the "
            "data set is on does not respond")
REPORT = Work("drawing and evaluating")
GROW = Work("the growth")


@dataclass
class _CurrentWork:
    """What the main thread does, since when, whether it can be interrupted, when to warn next."""

    work: Work
    began: float
    interruptible: bool
    warn_sec: float


class StopHandler:
    """Handles SIGINT, SIGTERM and SIGHUP (the terminal was closed) inside its `with` block.

    The first signal is a request to stop. Stopped interrupts work that need not be finished; if it
    cannot, the process ends after GRACE_SEC. A Ctrl-C after the first signal ends the process
    immediately. If SIGHUP is ignored, as under nohup, it stays ignored.

    Attributes:
        signal: number of the first signal; None before it.
    """

    def __init__(self, log: logging.Logger, on_stop: Callable[[], None] = lambda: None):
        """Write warnings to `log`; call `on_stop` at the first signal, in its handler."""
        self.log, self.on_stop = log, on_stop
        self.signal: int | None = None
        self._now, self._asked = None, None

    @contextlib.contextmanager
    def during(self, work: Work, interruptible: bool = False) -> Iterator[None]:
        """Do `work` in the main thread, in the body of this context.

        Args:
            interruptible: nothing is lost if it is interrupted; this holds for all work inside it
                too.

        Raises:
            Stopped: a stop was requested, and `interruptible` is set.
        """
        around = self._now
        interruptible = interruptible or bool(around and around.interruptible)
        self._now = _CurrentWork(work, time.monotonic(), interruptible, work.late_sec)
        try:
            if interruptible and self.signal:
                raise Stopped
            yield
        finally:
            self._now = around

    def __enter__(self):
        self._ends = os.pipe()
        for end in self._ends:
            os.set_blocking(end, False)
        self._wakeup = signal.set_wakeup_fd(self._ends[1], warn_on_full_buffer=False)
        self._old = {number: signal.signal(number, self._handle) for number in SIGNALS
                     if (number, signal.getsignal(number)) != (signal.SIGHUP, signal.SIG_IGN)}
        self._unraisable = sys.unraisablehook
        sys.unraisablehook = self._ignored
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watch")
        self._thread.start()
        return self

    def __exit__(self, *_):
        for number, previous in self._old.items():
            signal.signal(number, previous)
        sys.unraisablehook = self._unraisable
        signal.set_wakeup_fd(self._wakeup)
        os.write(self._ends[1], b"\0")
        self._thread.join()
        for end in self._ends:
            os.close(end)

    def _handle(self, number, frame):
        """Handle a signal in the main thread, between two of its instructions."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if self.signal:
            return
        self.signal = number
        self.on_stop()
        if self._now and self._now.interruptible:
            raise Stopped

    def _ignored(self, caught):
        """Handle an exception that Python ignores.

        Stopped is one if a signal arrives in a `__del__` or a callback of the garbage collector;
        the next `during` raises it again.
        """
        if not issubclass(caught.exc_type, Stopped):
            self._unraisable(caught)

    def _watch(self):
        """Watch the clock and incoming signals, in the second thread."""
        while True:
            if select.select([self._ends[0]], [], [], POLL_SEC)[0]:
                received = os.read(self._ends[0], 64)
                if 0 in received:
                    return
                if signal.SIGHUP in received:  # the terminal is gone; writing to it must not fail
                    close_broken_outputs()
                for number in (n for n in received if n in SIGNALS):
                    if self._asked and number == signal.SIGINT:
                        end_process(128 + number)
                    if not self._asked and not (self._now and self._now.interruptible):
                        self.log.info("stopping: the state is saved first (Ctrl-C again stops at "
                                      "once)")
                    self._asked = self._asked or (number, time.monotonic())
            now, clock = self._now, time.monotonic()
            if now and self._asked and clock - self._asked[1] > GRACE_SEC:
                # End the process if nothing is lost; otherwise log what it is waiting for.
                number, _ = self._asked
                if now.interruptible:
                    self.log.info(f"stopped in the middle of {now.work.name}; the newest training "
                                  "state is complete: run the same command to continue")
                    end_process(128 + number)
                self.log.info(f"asked to stop: waiting for the end of {now.work.name}; Ctrl-C once "
                              "more stops at once, and a continued run then repeats what came "
                              "after the last training state")
                self._asked = number, clock + 5 * GRACE_SEC
            if now and now.work.late and clock - now.began >= now.warn_sec:
                took = clock - now.began
                self.log.info("warning: " + now.work.late.format(time=format_time(took)))
                now.warn_sec = 2 * took


def end_process(status: int) -> None:
    """End this process even if some of its threads would wait forever."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # raised if the terminal is gone
            stream.flush()
    os._exit(status)


def end_if_stuck(status: int, patience_sec: float = 2.0) -> None:
    """End the process if one of its threads does not end by itself.

    Python would wait forever for a thread that reads from a disk that does not respond.
    """
    deadline = time.monotonic() + patience_sec
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(max(deadline - time.monotonic(), 0))
            if thread.is_alive():
                end_process(status)
