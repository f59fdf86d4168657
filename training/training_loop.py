"""The training loop: read the schedule, step, tick, save, stop. What it trains is a Method."""

import contextlib
import logging
import signal
import time
from pathlib import Path

import tensorflow as tf

from dnnlib import util
from dnnlib.cluster import SharedError
from dnnlib.tflib import autosummary, distribute
from training import state as states
from training.method import Method
from training.run import directory, signals
from training.run.files import NoFiles, RunFiles

MAX_SKIPPED = 100  # consecutive skipped updates after which the training is given up


class Training:
    """One training in one run directory; `run()` trains to the end of its schedule.

    With several workers, all of them take the same steps. Only the first one writes files, draws
    and evaluates: in the others `self.files` does nothing.

    A killed training continues from its newest state and repeats what came after it, with the same
    results, since everything follows from the state alone. So a state is written before anything
    that takes long (compiling, drawing, evaluating), which can then be interrupted.
    """

    def __init__(self, method: Method, run_dir: Path, strategy: tf.distribute.Strategy,
                 log: logging.Logger | None = None, keep: int = 2):
        """Load the newest training state of the run directory, or begin a new training.

        Args:
            method: what is trained. run_dir: an existing directory. strategy: its devices.
            log: the log to write to; by default the run's log.txt and the terminal.
            keep: number of training states to keep in the directory.
        """
        self.method, self.config = method, method.config
        self.run_dir, self.strategy = run_dir, strategy
        self.log = log or util.start_log("training", run_dir / "log.txt")
        self.stop_requested = False
        self.stop_handler = signals.StopHandler(self.log, self.request_stop)
        with strategy.scope():
            stored = states.load_newest_state(run_dir, self.log)
            states.check_same_state(strategy, stored, run_dir)
            if stored:
                state = states.restored_state(*stored, run_dir, method.make_optimizers)
                method.resume(state)
                self.progress = state.progress
                self.log.info(f"continuing at kimg {self.progress.cur_nimg / 1000:.1f}")
                if len(self.progress.ended_nimg) == len(method.stage_ends(self.progress)):
                    self.log.info("nothing is left to train: --patience ended the last stage; a "
                                  "new run without it trains longer")
            else:
                self.progress = method.begin()
        self.files = (RunFiles(run_dir, method, self.log, keep) if distribute.is_chief(strategy)
                      else NoFiles())
        self.files.clear(self.progress, self.progress.stats_bytes if stored else 0)
        # The step before which the newest state was written; the first step needs no file.
        self.saved_step = self.progress.step
        self.progress.num_threads = states.note_threads(self.progress, self.log)
        self.start_time = time.monotonic() - self.progress.elapsed_sec

    def run(self) -> bool:
        """Train to the end of the schedule, or until SIGTERM, SIGHUP or Ctrl-C.

        Returns True at the end of the schedule; False if it was stopped, with its state saved.

        Raises:
            UserError: the disk is full, or MAX_SKIPPED updates in a row were skipped.
        """
        p = self.progress
        with (directory.explain_full_disk(self.run_dir), self.stop_handler,
              distribute.stopped_with_others(self.strategy), self.files.reporting(p)):
            with contextlib.suppress(signals.Stopped):
                self._start_clock()
                self._report_tick()  # if a killed process ended one without reporting it
                while not self._should_stop():
                    stage = self._next_stage()
                    if stage is None:
                        self.method.close()
                        self.files.finish(self.method.stage(p), p)
                        return True
                    if p.step == 0:
                        self._draw_beginning(stage)
                    # The schedule is fixed for minibatch_repeats steps, and for one at least: a
                    # continued run may have a smaller minibatch_repeats than when it stopped.
                    self._step(stage)
                    while p.steps_since_schedule < self.config.minibatch_repeats:
                        self._step(stage)
                    p.steps_since_schedule = 0
                    if p.cur_nimg >= p.tick_nimg + stage.tick_kimg * 1000 or self._stage_is_over():
                        self._tick(stage)
            # Stopped before the end: save a state if there is anything newer than the last one.
            self.method.close()
            if self.saved_step != p.step:
                self._save_state()
            if self.stop_handler.signal == signal.SIGHUP:
                util.close_broken_outputs()
            self.log.info(f"stopped at kimg {p.cur_nimg / 1000:.1f}; run the same command to "
                          "continue")
        return False

    # Stopping.

    def request_stop(self) -> None:
        """Stop this worker and all others the next time the schedule is read."""
        self.stop_requested = True
        distribute.ask_others_to_stop(self.strategy)

    @property
    def stop_signal(self) -> int:
        """Return the number of the signal that asked to stop; SIGINT if another worker got it."""
        return self.stop_handler.signal or signal.SIGINT

    def _should_stop(self):
        """Return whether any worker was asked to stop; raise UserError if updates keep failing.

        All workers agree here on whatever ends a stage or the training early.
        """
        p = self.progress
        stop, ended = distribute.all_reduce_max(
            self.strategy, [self.stop_requested, len(p.ended_nimg)])
        if ended > len(p.ended_nimg):  # the first worker's scores have ended a stage
            p.ended_nimg.append(p.cur_nimg)
        self.stop_requested |= bool(stop)
        with self.stop_handler.during(signals.STEP):  # waits for what the devices were asked to do
            p.skipped_in_a_row = states.skipped_in_a_row(self.method.optimizers)
        if p.skipped_in_a_row >= MAX_SKIPPED:
            self.files.give_up(self.method.stage(p), p)
            distribute.all_gather(self.strategy, None)  # until the first worker has written why
            raise SharedError(directory.divergence_message(self.run_dir))
        return stop

    def _may_leave(self):
        """Return whether nothing is lost by exiting at once; False if there are other workers."""
        return (self.saved_step == self.progress.step
                and not distribute.has_other_workers(self.strategy))

    # The schedule.

    def _next_stage(self):
        """Return the Stage to train now, after entering it if it is new; None after the last one.

        A stage is entered even if it is shorter than a step, since the next one grows from it.
        """
        p = self.progress
        if p.steps_since_schedule == 0:
            p.schedule_nimg = p.cur_nimg
        while True:
            ends = self.method.stage_ends(p)
            if len(p.ended_nimg) == len(ends):
                return None
            name, end = ends[len(p.ended_nimg)]
            if name != p.stage:
                self._enter(self.method.first_moment(name))
            if p.schedule_nimg < end:
                break
            p.ended_nimg.append(p.schedule_nimg)
        stage = self.method.stage(p)
        # A new phase: all optimizers start afresh.
        if list(stage.phase) != p.phase:
            for optimizer in self.method.optimizers.values():
                optimizer.reset()
            p.phase = list(stage.phase)
        return stage

    def _enter(self, stage):
        """Enter a new stage, and report the networks' scores before and after."""
        p = self.progress
        self.files.pause()
        with self.stop_handler.during(signals.GROW, interruptible=self._may_leave()):
            before = self._inspect(stage)
            with self.strategy.scope():
                self.method.enter(stage)
            p.stage, p.stage_best, p.evaluations_since_best = stage.name, None, 0
            p.scores_nimg = None
            self.files.growth(stage, p, before, self._inspect(stage))

    def _inspect(self, stage):
        """Return numbers that show a change of the networks: the method's own, and the scores,
        which are measured unless that was done at this very moment of training."""
        p, numbers = self.progress, self.files.inspect(stage)
        if p.scores_nimg != p.cur_nimg:
            p.scores, p.scores_nimg = self.files.scores(stage, p), p.cur_nimg
        return {name: round(value, 4) for name, value in {**numbers, **p.scores}.items()}

    def _stage_is_over(self):
        """Return whether this stage has reached its end."""
        p = self.progress
        return p.cur_nimg >= self.method.stage_ends(p)[len(p.ended_nimg)][1]

    # Steps.

    def _step(self, stage):
        """Update the networks once."""
        p, method = self.progress, self.method
        to_compile = method.compiles(stage, p.step)
        if to_compile:
            self.files.compiling(to_compile)
            if self.saved_step != p.step:
                self._save_state()
        # The batch, then the update. If nothing would be lost, a signal ends the process at once.
        alone = not distribute.has_other_workers(self.strategy)
        with self.stop_handler.during(signals.PHOTOS, interruptible=alone):
            batch = method.next_batch(stage, p)
        work = signals.COMPILE if to_compile else signals.STEP
        may_leave = bool(to_compile) and self._may_leave()
        with self.stop_handler.during(work, interruptible=may_leave):
            scalars = method.step(batch, stage, p.step)
        # Report the scalars, and count.
        for name, value in scalars.items():
            autosummary.report(name, value)
        stream = method.stream(stage, p.step)
        p.stream_nimg[stream] = p.stream_nimg.get(stream, 0) + stage.minibatch
        p.step += 1
        p.steps_since_schedule += 1
        p.cur_nimg += stage.minibatch
        self.files.step(stage, p)

    # Ticks.

    def _start_clock(self):
        """Start the clock for a tick, or for the rest of one that was interrupted."""
        self.clock_nimg, self.clock_step = self.progress.cur_nimg, self.progress.step
        self.clock_time = time.monotonic()

    def _tick(self, stage):
        """End a tick: save what it has to report with the state, then report it."""
        p, now = self.progress, time.monotonic()
        tick_sec, tick_kimg = now - self.clock_time, (p.cur_nimg - self.clock_nimg) / 1000
        p.elapsed_sec = now - self.start_time
        name = directory.moment_name(p.cur_nimg, p.tick_nimg, stage.tick_kimg)
        p.tick, p.tick_nimg = p.tick + 1, p.cur_nimg
        scalars = {**autosummary.collect(), **stage.scalars,
                   "Progress/tick": p.tick, "Progress/turns": p.step - self.clock_step,
                   "Progress/kimg": p.cur_nimg / 1000, "Progress/minibatch": stage.minibatch,
                   "Timing/total_sec": p.elapsed_sec, "Timing/sec_per_tick": tick_sec,
                   "Timing/sec_per_kimg": tick_sec / tick_kimg}
        p.pending_tick = {"name": name, "scalars": scalars}
        self._save_state()
        self._report_tick()
        self._start_clock()

    def _report_tick(self):
        """Draw, evaluate and report the tick that has ended, if one has, and save once more.

        Meanwhile the other workers wait where the schedule is read next.
        """
        p, began = self.progress, time.monotonic()
        if p.pending_tick is None:
            return
        stage, stage_is_over = self.method.stage(p), self._stage_is_over()
        name, scalars = p.pending_tick["name"], p.pending_tick["scalars"]
        saves_network = p.tick % self.config.network_ticks == 0 or p.tick == 1 or stage_is_over
        self.files.pause()
        # What the tick reports is in the saved state, so every worker may exit at once.
        with (contextlib.suppress(signals.Stopped),
              self.stop_handler.during(signals.REPORT, interruptible=True)):
            if p.tick % self.config.image_ticks == 0 or stage_is_over:
                self._draw(stage, name)
            if saves_network:
                self._evaluate(stage, name)
                scalars |= {f"Metrics/{metric}": value for metric, value in p.scores.items()}
                scalars |= self.files.details(stage)
            scalars["Timing/maintenance_sec"] = time.monotonic() - began
            self.files.tick(stage, p, scalars, saves_network)
            p.pending_tick = None
            self._save_state()

    def _draw_beginning(self, stage):
        """Draw pictures of the networks before they have learned anything."""
        self.files.pause()
        with self.stop_handler.during(signals.REPORT, interruptible=self._may_leave()):
            self._draw(stage, "000000" if stage.tick_kimg >= 1 else "000000.000")

    def _draw(self, stage, name):
        with self.stop_handler.during(signals.DRAW):
            self.files.draw(stage, self.progress, name)

    def _evaluate(self, stage, name):
        """Save and measure the networks; record the best ones; end a stage that stopped improving.
        """
        p, files = self.progress, self.files
        p.scores, p.scores_nimg = files.scores(stage, p), p.cur_nimg
        path = files.save_network(stage, p, name)
        selecting = self.method.selects(p.scores)
        if selecting is None or not stage.is_comparable:
            return
        if p.selecting not in (None, selecting):  # values of another score cannot be compared
            p.best_value, p.stage_best, p.evaluations_since_best = None, None, 0
        p.selecting, value = selecting, p.scores[selecting]
        if states.is_better(value, p.stage_best, self.method.higher_is_better):
            p.stage_best, p.evaluations_since_best = value, 0
        else:
            p.evaluations_since_best += 1
        # The best snapshot comes from the last stage, since earlier stages draw fewer channels.
        if stage.name == self.method.stage_ends(p)[-1][0] and states.is_better(
                value, p.best_value, self.method.higher_is_better):
            p.best_value = value
            files.save_best(path, selecting, p)
        if self.config.patience and p.evaluations_since_best >= self.config.patience:
            self.log.info(f"stage {stage.name} ends: {selecting} has not improved for "
                          f"{self.config.patience} evaluations")
            p.ended_nimg.append(p.cur_nimg)

    def _save_state(self):
        """Write the current training state."""
        p = self.progress
        p.elapsed_sec = time.monotonic() - self.start_time
        p.skipped_in_a_row = states.skipped_in_a_row(self.method.optimizers)
        p.stats_bytes = self.files.stats_bytes()
        self.files.save_state(states.TrainingState(
            self.method.networks, self.method.optimizers, p, self.method.buffers()))
        self.saved_step = p.step
