"""How long the rest of a training takes: seconds per kimg as seen, and operations for what has not
been seen.

No stretch of a training comes twice: each resolution, fade and stage has its own cost. What is
still to come is priced by its operations, at the rates of what has been.
"""

import collections
import functools
import time

from training.operations import turn_operations
from training.run.plan import clipped, simulate_ticks, stretches
from training.schedule import make_stage

WINDOW_SEC = 60.0  # of turns that the present speed is the mean of


def turn_cost(config, stage):
    """Multiply-adds of one turn, its critics taken equally often."""
    operations = [turn_operations(config, critic, stage) for critic in stage.critics]
    return stage.minibatch * sum(operations) / len(operations)


class Pace:
    """The clock of one training, told of every turn; times of everything else are kept apart."""

    def __init__(self, config, num_classes, clock=time.monotonic):
        """clock: function () -> seconds."""
        self.config, self.num_classes, self.clock = config, num_classes, clock
        self.seen = {}  # {optimizer_phase: (multiply-adds, seconds) of a turn}, oldest first
        self.window, self.window_sec = collections.deque(), 0.0  # seconds of the latest turns
        self.phase, self.last = None, None
        self.costs = {}  # {optimizer_phase: multiply-adds of a turn}
        self.paused, self.compiles = None, False
        self.maintenance = {}  # {whether a network was saved: seconds of the latest such tick}
        self.compile_sec = 0.0

    def remember(self, ticks):
        """Take over what the ticks of stats.jsonl tell, before the first turn of a resumed run.

        Not of ticks in which the clock was set back, as files of earlier versions may have them.
        """
        for tick in ticks:
            if min(tick["Timing/sec_per_kimg"], tick["Timing/maintenance_sec"]) < 0:
                continue
            self.maintained(tick.get("saved_network", False), tick["Timing/maintenance_sec"])
            stage = make_stage(self.config, self.num_classes, tick["stage"], tick["Progress/lod"])
            self.seen.pop(stage.optimizer_phase, None)
            self.seen[stage.optimizer_phase] = (
                self._cost(stage),
                tick["Timing/sec_per_kimg"] * stage.minibatch / 1000)

    def compiling(self):
        """The turn under way is a critic's first: its time is none of a turn's."""
        self.compiles = True

    def pause(self, kind=None):
        """Something else than turns follows: a tick that saves a network (True) or does not, or
        what happens once (None)."""
        self.paused = (kind,)

    def maintained(self, saved_network, seconds):
        """A tick, of a network's snapshot or without, took that long beside its turns so far."""
        self.maintenance[saved_network] = seconds

    def turn(self, stage):
        """A turn of this Stage is done (or, of a GPU, handed over: the window evens that out)."""
        now = self.clock()
        elapsed = None if self.last is None else now - self.last
        self.last = now
        if stage.optimizer_phase != self.phase:
            self.phase = stage.optimizer_phase
            self.window.clear()
            self.window_sec = 0.0
        if elapsed is not None:
            self._account(stage, elapsed)
        self.paused, self.compiles = None, False

    def _account(self, stage, elapsed):
        """Book the time since the turn before as what it was."""
        if self.compiles:
            if self.paused is None:
                self.compile_sec = max(elapsed - self._turn_sec(stage, 0.0), 0.0)
        elif self.paused is not None:
            if self.paused[0] is not None:
                self.maintenance[self.paused[0]] = max(elapsed - self._turn_sec(stage, 0.0), 0.0)
        else:
            self.window.append(elapsed)
            self.window_sec += elapsed
            while len(self.window) > 1 and self.window_sec > WINDOW_SEC:
                self.window_sec -= self.window.popleft()
            self.seen.pop(self.phase, None)
            self.seen[self.phase] = (self._cost(stage), self.window_sec / len(self.window))

    def sec_per_kimg(self, stage):
        """Of the latest turns, or expected from others; None before any turn was timed."""
        seconds = self._turn_sec(stage)
        return None if seconds is None else seconds / stage.minibatch * 1000

    def _turn_sec(self, stage, unknown=None):
        """Seconds of a turn: as seen, or a + b * operations through the latest two stretches seen
        (a: what every turn costs, however small its images), or proportional to one.
        """
        if not self.seen:
            return unknown
        if stage.optimizer_phase in self.seen:
            return self.seen[stage.optimizer_phase][1]
        cost = self._cost(stage)
        *before, (last_cost, last_sec) = self.seen.values()
        for other_cost, other_sec in reversed(before):
            if other_cost == last_cost:
                continue
            slope = (last_sec - other_sec) / (last_cost - other_cost)
            if 0 < slope <= last_sec / last_cost:
                return last_sec + slope * (cost - last_cost)
            break
        return last_sec * cost / last_cost

    def _cost(self, stage):
        """turn_cost, counted once a phase."""
        phase = stage.optimizer_phase
        if phase not in self.costs:
            self.costs[phase] = turn_cost(self.config, stage)
        return self.costs[phase]

    def left(self, progress):
        """(seconds to the end of the stage, to the end of the run), drawing, evaluating and
        compiling included, if no stage ends early; (None, None) before any turn was timed."""
        if not self.seen:
            return None, None
        ahead = clipped(self._stretches(progress.first_stage, tuple(progress.ended_nimg)),
                        progress.cur_nimg)
        seconds = {progress.stage: 0.0}
        for start, end, stage in ahead:
            of_turns = (end - start) / 1000 * self.sec_per_kimg(stage)
            fresh = stage.optimizer_phase != self.phase
            of_turns += fresh * len(stage.critics) * self.compile_sec
            seconds[stage.name] = seconds.get(stage.name, 0.0) + of_turns
        for tick in simulate_ticks(self.config, ahead, progress.tick, progress.tick_nimg):
            seconds[tick.stage.name] += self.maintenance.get(tick.saves_network, 0.0)
        # At a growth in channels the networks are evaluated once more.
        seconds |= {name: of_stage + self.maintenance.get(True, 0.0)
                    for name, of_stage in seconds.items() if name != progress.stage}
        return seconds[progress.stage], sum(seconds.values())

    @functools.lru_cache(maxsize=1)  # noqa: B019 (one Pace a process)
    def _stretches(self, first_stage, ended_nimg):
        """The same until a stage ends: some thousand looks at the schedule."""
        return stretches(self.config, self.num_classes, first_stage, ended_nimg)
