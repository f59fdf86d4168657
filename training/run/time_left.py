"""Estimate how long the rest of a training takes, from the measured speed.

At a resolution that was not trained yet, a kimg is assumed to take four times as long as at half
that resolution.
"""

import collections
import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from training.run.plan import clipped, find_stretches

if TYPE_CHECKING:  # they import TensorFlow
    from training.method import Method, Stage
    from training.state import Progress

WINDOW_SEC = 60.0  # the current speed is the mean over this many seconds of steps


class TimeEstimator:
    """Times one training step by step; everything that is not a step is counted separately.

    Attributes:
        rates: {(stage name, resolution): measured seconds per kimg}, the latest one last.
        tick_sec: {whether a network was saved: seconds of the latest such tick beside its steps}.
    """

    def __init__(self, method: "Method", clock: Callable[[], float] = time.monotonic):
        """Begin with nothing measured; `method` has the schedule, `clock` returns seconds."""
        self.method, self.clock = method, clock
        self.rates, self.tick_sec = {}, {}
        self._window = collections.deque()  # seconds of the latest steps
        self._phase, self._last = None, None
        self._schedule = None, None  # ends of finished stages, stretches after them

    def remember(self, tick: dict) -> None:
        """Take a tick's times from its scalars, which are as in stats.jsonl.

        Its speed counts only if no step was timed, since it includes the compilation of steps.
        """
        self.tick_sec[tick.get("saved_network", False)] = tick["Timing/maintenance_sec"]
        if not self._window:
            self._measured((tick["stage"], tick.get("Progress/resolution", 1)),
                           tick["Timing/sec_per_kimg"])

    def pause(self) -> None:
        """Leave out the time until after the next step: other work follows, or the step compiles.
        """
        self._last = None

    def step(self, stage: "Stage") -> None:
        """Time a finished step (on a GPU it may only be queued; the window evens that out)."""
        now = self.clock()
        last, self._last = self._last, now
        if stage.phase != self._phase:
            self._phase = stage.phase
            self._window.clear()
        if last is not None:
            self._window.append(now - last)
            while sum(self._window) - self._window[0] > WINDOW_SEC:
                self._window.popleft()
            mean = sum(self._window) / len(self._window)
            self._measured(_place(stage), mean / stage.minibatch * 1000)

    def _measured(self, place, rate):
        """Store a rate as the latest one."""
        self.rates.pop(place, None)
        self.rates[place] = rate

    def sec_per_kimg(self, stage: "Stage") -> float | None:
        """Return seconds per kimg, measured or expected; None before anything was measured."""
        place = _, size = _place(stage)
        if place not in self.rates and self.rates:
            # The nearest resolution; among several, the latest.
            near = min(reversed(self.rates), key=lambda other: max(other[1] / size,
                                                                   size / other[1]))
            return self.rates[near] * (size / near[1]) ** 2
        return self.rates.get(place)

    def time_left(self, progress: "Progress") -> tuple[float, float] | tuple[None, None]:
        """Return seconds to the end of the stage and of the run, assuming no stage ends early.

        This includes ticks but not compiling. (None, None) before anything was measured.
        """
        if not self.rates:
            return None, None
        # The stretches after the last finished stage are found anew whenever a stage ends.
        ended = list(progress.ended_nimg)
        if self._schedule[0] != ended:
            def stage_at(nimg: int) -> "Stage":
                return self.method.stage(dataclasses.replace(progress, schedule_nimg=nimg))

            ends = [end for _, end in self.method.stage_ends(progress)[len(ended):]]
            self._schedule = ended, find_stretches(stage_at, ended[-1] if ended else 0, ends)
        ahead = clipped(self._schedule[1], progress.cur_nimg)
        seconds = collections.Counter({progress.stage: 0.0})
        saving = 1 / self.method.config.network_ticks  # share of ticks that save a network
        tick_sec = (saving * self.tick_sec.get(True, 0.0)
                    + (1 - saving) * self.tick_sec.get(False, 0.0))
        for start, end, stage in ahead:
            seconds[stage.name] += (end - start) / 1000 * (
                self.sec_per_kimg(stage) + tick_sec / stage.tick_kimg)
        return seconds[progress.stage], sum(seconds.values())


def _place(stage):
    """Return a stage's name and resolution; 1 for methods without resolutions."""
    return stage.name, stage.scalars.get("Progress/resolution", 1)
