"""What looks after a running training: requests to stop, and the news that it stands still.

Python runs a signal's handler in the main thread, between two of its instructions: never while that
thread waits inside TensorFlow. So a thread of its own hears of signals too (through a pipe that the
interpreter writes to at once), and looks at the clock.
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from dataclasses import dataclass

from dnnlib.util import close_broken_outputs, format_time

GRACE_SEC = 10.0  # for the main thread to hear of a request to stop
SLOWER = 3  # times the longest turn so far: a slow device is not taken for one that stands still
POLL_SEC = 0.2
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """A request to stop, in a place that can be left at once.

    No Exception: nothing that recovers from errors is to take it for one.
    """


@dataclass(frozen=True)
class Work:
    """A kind of thing that the main thread does.

    `late`: what to say after `late_sec`, then after twice that, and so on; None for what may take
    any time. `repeated`: the longest one so far tells how long the next may take.
    """

    name: str
    late: str | None = None
    late_sec: float = 60.0
    repeated: bool = False


PHOTOS = Work("the wait for photos", "no photos for {time}: the input pipeline stands still; look "
              "after the disk or the network that the data set is on")
TURN = Work("the turn at hand", "no turn has finished for {time}: a device, or another worker, "
            "does not answer", repeated=True)
COMPILE = Work("compiling", "still compiling after {time}", late_sec=180.0)
TELL = Work("drawing and evaluating")
GROW = Work("the growth")


@dataclass(frozen=True)
class _Now:
    """What the main thread does now, since when, and whether it may be torn away from it."""

    work: Work
    began: float
    at_once: bool


class Watch:
    """Hears SIGINT, SIGTERM and SIGHUP (a terminal that was closed) while it is entered, and says
    through `log` what stands still. A SIGHUP that is ignored, under nohup, stays ignored.

    The first signal is a request to stop: `signal` is its number from then on, and work that may be
    left at once is left by Stopped (where the main thread cannot hear, the process is ended after
    GRACE_SEC). A Ctrl-C after that ends the process there and then.
    """

    def __init__(self, log, on_stop=lambda: None):
        """`on_stop` is called at the first signal, in its handler."""
        self.log, self.on_stop = log, on_stop
        self.signal = None
        self._now, self._longest = None, {}
        self._said, self._asked = None, None

    @contextlib.contextmanager
    def during(self, work, at_once=False):
        """The main thread does `work`. `at_once`: nothing is lost where it is left in the middle;
        raises Stopped there. What is done inside of such work may be left as well."""
        began, around = time.monotonic(), self._now
        at_once = at_once or bool(around and around.at_once)
        self._now = _Now(work, began, at_once)
        try:
            if at_once and self.signal:
                raise Stopped
            yield
        finally:
            self._now = around
            took = time.monotonic() - began
            self._longest[work.name] = max(took, self._longest.get(work.name, 0))

    def __enter__(self):
        self._ends = os.pipe()
        for end in self._ends:
            os.set_blocking(end, False)
        self._wakeup = signal.set_wakeup_fd(self._ends[1], warn_on_full_buffer=False)
        ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else set()
        self._old = {number: signal.signal(number, self._handle)
                     for number in SIGNALS if number not in ignored}
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watch")
        self._thread.start()
        return self

    def __exit__(self, *_):
        for number, previous in self._old.items():
            signal.signal(number, previous)
        signal.set_wakeup_fd(self._wakeup)
        os.write(self._ends[1], b"\0")
        self._thread.join()
        for end in self._ends:
            os.close(end)

    def _handle(self, number, frame):
        """In the main thread, between two of its instructions."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if self.signal:
            return
        self.signal = number
        self.on_stop()
        if self._now and self._now.at_once:
            raise Stopped

    def _watch(self):
        """The thread: wake at a signal, and now and then."""
        while True:
            if select.select([self._ends[0]], [], [], POLL_SEC)[0]:
                heard = os.read(self._ends[0], 64)
                if 0 in heard:
                    return
                if signal.SIGHUP in heard:  # the terminal is gone: nothing is to fail at it
                    close_broken_outputs()
                for number in (n for n in heard if n in SIGNALS):
                    if self._asked and number == signal.SIGINT:
                        end_process(128 + number)
                    self._asked = self._asked or (number, time.monotonic())
            now = self._now
            if now:
                self._look(now, time.monotonic())

    def _look(self, now, clock):
        """Say what is late, and see that a request to stop is followed."""
        if self._asked and clock - self._asked[1] > GRACE_SEC:
            self._insist(now, *self._asked)
        if now.work.late is None:
            return
        limit = now.work.late_sec
        if now.work.repeated:
            limit = max(limit, SLOWER * self._longest.get(now.work.name, 0))
        took = clock - now.began
        began, next_sec = self._said if self._said and self._said[0] == now.began else (
            now.began, limit)
        if took >= next_sec:
            self.log.info("warning: " + now.work.late.format(time=format_time(took)))
            next_sec = 2 * took
        self._said = began, next_sec

    def _insist(self, now, number, asked_at):
        """The main thread has not left: end the process where nothing is lost by it, else say what
        it is waiting for."""
        if now.at_once:
            self.log.info(f"stopped in the middle of {now.work.name}; the newest training state is "
                          "whole: run the same command to continue")
            end_process(128 + number)
        self.log.info(f"asked to stop: waiting for the end of {now.work.name}; Ctrl-C once more "
                      "ends at once, and what is newer than the last training state is done again")
        self._asked = number, time.monotonic() + 5 * GRACE_SEC


def end_process(status):
    """End this process although threads of it wait for something that may never come."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # of a terminal that is gone
            stream.flush()
    os._exit(status)


def end_if_stuck(status, patience_sec=2.0):
    """End the process where a thread of it does not end by itself, for which Python would wait for
    ever: one that reads from a disk that does not answer."""
    deadline = time.monotonic() + patience_sec
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(max(deadline - time.monotonic(), 0))
            if thread.is_alive():
                end_process(status)
