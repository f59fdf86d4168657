"""The training loop: compose, step, tick; nothing else."""

import contextlib
import signal
import time

from dnnlib import util
from dnnlib.cluster import SharedError
from dnnlib.data import mirroring
from dnnlib.tflib import autosummary, distribute
from training import snapshots
from training.dataset import read_labels
from training.gan_step import Turn
from training.reals import reals_stream
from training.run import directory, signals
from training.run.evaluation import Evaluation
from training.run.grids import Grids
from training.run.reporter import Teller
from training.schedule import make_stage, stage_ends, training_schedule
from training.state import (
    check_same_state,
    enter_stage,
    new_state,
    note_threads,
    restored_state,
    skipped_in_a_row,
)

MAX_SKIPPED = 100  # updates skipped in a row after which a training is given up


class Training:
    """One training in one run directory: state, streams, compiled turns and reports.

    Built anew or from the directory's newest training state; `run()` goes on to the schedule's end.
    Of several workers all do the same turns; the chief alone writes, draws and evaluates.

    A killed training goes on from its newest state and does again what came after: in the same
    way, since what it does is a function of the state. So a state is written before anything that
    takes long (compiling, drawing, evaluating), which may then be left in the middle.
    """

    def __init__(self, config, run_dir, strategy, dataset, evaluate=None, first_state=None,
                 log=None, keep=2):
        """
        Args:
            config: TrainingConfig with `resolution` set. dataset: DatasetInfo.
            evaluate: function Snapshot -> {metric name: value}, or None.
            first_state: TrainingState to begin with (from a snapshot); None for fresh networks.
            keep: number of training states that stay in the directory.
        """
        self.config, self.run_dir, self.strategy, self.dataset = config, run_dir, strategy, dataset
        self.log = log or util.start_log("training", run_dir / "log.txt")
        self.keep, self.is_chief = keep, distribute.is_chief(strategy)
        self.turns, self.streams = {}, {}
        self.stop_requested = False
        self.watch = signals.Watch(self.log, self._request_stop)
        with strategy.scope():
            stored = snapshots.load_newest_state(run_dir, self.log)
            check_same_state(strategy, stored, run_dir)
            if stored:
                self.state = restored_state(*stored, run_dir, config.precision)
                self.log.info(f"continuing at kimg {self.progress.cur_nimg / 1000:.1f}")
            else:
                self.state = first_state or new_state(config, label_size=dataset.label_size)
        if self.is_chief:
            directory.tidy(run_dir, self.progress.stats_bytes if stored else 0)
        # The turn that the newest state stands before; the first one needs no file.
        self.saved_step = self.progress.step
        note_threads(self.progress, self.log)
        self.grids = Grids(run_dir, config, read_labels(config.data, "train"))
        self.evaluation = Evaluation(run_dir, config, dataset, self.grids, evaluate, self.log)
        self.teller = Teller(run_dir, config, dataset, self.log) if self.is_chief else None
        self.start_time = time.monotonic() - self.progress.elapsed_sec

    @property
    def progress(self):
        return self.state.progress

    @property
    def stop_signal(self):
        """The signal that asked to stop; SIGINT's number where another worker got it."""
        return self.watch.signal or signal.SIGINT

    def run(self):
        """Train to the end of the schedule, or until SIGTERM, SIGHUP or Ctrl-C: saved and left.

        Returns True when the schedule is finished. Raises UserError where the disk is full, and
        where MAX_SKIPPED updates in a row were skipped.
        """
        telling = self.teller.running(self.progress) if self.teller else contextlib.nullcontext()
        others = distribute.stopped_by_others(self.strategy)
        with directory.disk_full_told(self.run_dir), self.watch, others, telling:
            with contextlib.suppress(signals.Stopped):
                if self._train():
                    return True
            self.streams = {}  # their threads would keep the process
            if self.saved_step != self.progress.step:
                self._save_state()
            if self.watch.signal == signal.SIGHUP:
                util.close_broken_outputs()
            self.log.info(f"stopped at kimg {self.progress.cur_nimg / 1000:.1f}; run the same "
                          "command to continue")
        return False

    def _train(self):
        """Turn by turn; returns True at the end of the schedule, False after a request to stop."""
        self._begin_tick()
        if self.progress.pending and self.is_chief:
            self._tell_tick()
        while not self._agree_to_stop():
            stage = self._look_at_schedule()
            if stage is None:
                self._finish()
                return True
            if self.progress.step == 0 and self.is_chief:
                self._draw_beginning(stage)
            while self.progress.look_turns < self.config.minibatch_repeats:
                self._turn(stage)
            self.progress.look_turns = 0
            if self._tick_is_over(stage):
                self._tick(stage)
        return False

    def _request_stop(self, *_):
        self.stop_requested = True
        if distribute.link_of(self.strategy):
            distribute.link_of(self.strategy).ask_to_stop()

    def _agree_to_stop(self):
        """Whether any worker was asked to stop; a stage that the chief has ended ends for all.

        What ends a training early is decided here, at every look at the schedule. Raises UserError
        where it must be given up.
        """
        p = self.progress
        stop, ended = distribute.agree(self.strategy, [self.stop_requested, len(p.ended_nimg)])
        if ended > len(p.ended_nimg):
            p.ended_nimg.append(p.cur_nimg)
        if stop:  # not taken back where a signal came after the question
            self.stop_requested = True
        with self.watch.during(signals.TURN):  # what was asked of a device is waited for here
            p.skipped_in_a_row = skipped_in_a_row(self.state)
        if p.skipped_in_a_row >= MAX_SKIPPED:
            self._give_up()
        return stop

    def _give_up(self):
        """Leave the networks under a name of their own, and the last good state as the newest."""
        p = self.progress
        if self.is_chief:
            name = f"nonfinite-{p.cur_nimg / 1000:010.3f}.safetensors"
            snapshots.save_snapshot(self.run_dir / name, self.state.networks,
                                    self.evaluation.header(self._stage(), p))
            directory.mark_given_up(self.run_dir, self.config, p, name)
        distribute.everyones(self.strategy, None)  # the others wait for what they are to tell
        raise SharedError(directory.given_up_line(self.run_dir))

    def _look_at_schedule(self):
        """The Stage to train now, after entering it where it is new; None when training is over.

        A stage is entered even where it is shorter than a step: the next one grows from it.
        """
        p = self.progress
        if p.look_turns == 0:
            p.look_nimg = p.cur_nimg
        while True:
            ends = self._stage_ends()
            if len(p.ended_nimg) == len(ends):
                return None
            name, end = ends[len(p.ended_nimg)]
            if name != p.stage:
                self._grow(make_stage(self.config, len(self.dataset.classes), name))
            if p.look_nimg < end:
                break
            p.ended_nimg.append(p.look_nimg)
        stage = self._stage()
        if list(stage.optimizer_phase) != p.optimizer_phase:
            self._reset(stage)
        return stage

    def _stage(self):
        """The Stage of the last look at the schedule; the last one when training is over."""
        p = self.progress
        return training_schedule(self.config, len(self.dataset.classes), p.look_nimg, p.first_stage,
                                 tuple(p.ended_nimg))

    def _stage_ends(self):
        """[(stage name, nimg at its end)] as things stand."""
        return stage_ends(self.config, self.progress.first_stage, tuple(self.progress.ended_nimg))

    def _stage_is_over(self):
        """Whether the stage at hand has reached its end."""
        return self.progress.cur_nimg >= self._stage_ends()[len(self.progress.ended_nimg)][1]

    def _grow(self, stage):
        """Enter a stage, logging the scores and metrics before and after the growth."""
        p, report = self.progress, self.evaluation.growth_report
        measured = p.scores if p.scores_nimg == p.cur_nimg else None
        if self.teller:
            self.teller.pause()
        with self.watch.during(signals.GROW, at_once=self._may_leave()):
            before = report(self.state.networks, stage, p, measured) if self.is_chief else None
            with self.strategy.scope():
                self.state = enter_stage(self.state, stage, self.config.grow_d,
                                         self.config.precision)
            self.turns, self.streams = {}, {}
            if self.is_chief:
                after = report(self.state.networks, stage, p)
                self.teller.growth(stage, p, before, after)

    def _reset(self, stage):
        """A new phase: optimizers start afresh, turns and streams of the old one are let go."""
        for optimizer in self.state.optimizers.values():
            optimizer.reset()
        self.progress.optimizer_phase = list(stage.optimizer_phase)
        self.turns, self.streams = {}, {}

    def _turn(self, stage):
        """One turn of the critic whose turn it is."""
        p = self.progress
        critic = stage.critics[p.step % len(stage.critics)]
        if critic.name not in self.turns:
            self._prepare(critic, stage)
        turn = self.turns[critic.name]
        work = signals.TURN if turn.is_compiled(p.step) else signals.COMPILE
        if work is signals.COMPILE:
            if self.teller:
                self.teller.compiling(critic, stage)
            if self.saved_step != p.step:
                self._save_state()
        with self.watch.during(signals.PHOTOS, at_once=not distribute.link_of(self.strategy)):
            reals = next(self.streams[critic.name])
        with self.watch.during(work, at_once=work is signals.COMPILE and self._may_leave()):
            values = turn(reals, p.step, stage.fade, stage.lrate)
        for name, value in values.items():
            is_shared = name.startswith("Progress/") or name == "Loss/G"
            autosummary.report(name if is_shared else f"{name}/{critic.name}", value)
        p.step += 1
        p.look_turns += 1
        p.cur_nimg += stage.minibatch
        p.stream_nimg[critic.name] = p.stream_nimg.get(critic.name, 0) + stage.minibatch
        if self.teller:
            self.teller.turn(stage, p)

    def _may_leave(self):
        """Whether nothing is lost by leaving at once; of several workers none leaves alone."""
        return self.saved_step == self.progress.step and not distribute.link_of(self.strategy)

    def _prepare(self, critic, stage):
        """Make a critic's turn, which its first call compiles, and its stream of reals."""
        stream = reals_stream(
            self.config, stage.resolution, critic.channels, stage.minibatch, self.config.seed,
            self.progress.stream_nimg.get(critic.name, 0), with_untagged=critic.name == "rgb",
            rows=distribute.worker_rows(self.strategy, stage.minibatch,
                                        self.config.mbstd_group_size))
        self.turns[critic.name] = Turn(
            self.strategy, self.config, self.state.networks, self.state.optimizers, critic,
            stage.resolution, stage.fade > 0, stage.minibatch, stream.labels,
            len(stage.critics), self._mirrored_order(stage, critic))
        self.streams[critic.name] = iter(stream)

    def _mirrored_order(self, stage, critic):
        """For every class map that a critic sees the one that it becomes in a mirrored image; None
        where there are none."""
        if not self.config.mirror or stage.name != "classes" or critic.channels < stage.channels:
            return None
        classes = self.dataset.classes
        return mirroring.mirrored_order(
            mirroring.parse_pairs(self.config.mirror_pairs, classes), classes)

    def _begin_tick(self):
        """Start the clock of a tick, or of the rest of one that was interrupted."""
        self.clock_nimg, self.clock_step = self.progress.cur_nimg, self.progress.step
        self.clock_time = time.monotonic()

    def _tick_is_over(self, stage):
        p = self.progress
        return p.cur_nimg >= p.tick_nimg + stage.tick_kimg * 1000 or self._stage_is_over()

    def _tick(self, stage):
        """A tick is over: what it has to say is saved with the state, then told."""
        p, now = self.progress, time.monotonic()
        tick_sec, tick_kimg = now - self.clock_time, (p.cur_nimg - self.clock_nimg) / 1000
        p.elapsed_sec = now - self.start_time
        name = directory.moment_name(p.cur_nimg, p.tick_nimg, stage.tick_kimg)
        p.tick, p.tick_nimg = p.tick + 1, p.cur_nimg
        scalars = autosummary.collect() | {
            "Progress/tick": p.tick, "Progress/turns": p.step - self.clock_step,
            "Progress/kimg": p.cur_nimg / 1000, "Progress/lod": stage.lod,
            "Progress/resolution": stage.resolution, "Progress/channels": stage.channels,
            "Progress/minibatch": stage.minibatch, "Progress/lrate": stage.lrate,
            "Timing/total_sec": p.elapsed_sec, "Timing/sec_per_tick": tick_sec,
            "Timing/sec_per_kimg": tick_sec / tick_kimg}
        if self.is_chief:
            p.pending = {"name": name, "scalars": scalars}
            self._save_state()
            self._tell_tick()
        self._begin_tick()

    def _tell_tick(self):
        """Draw, evaluate and report the pending tick, and save once more: it is told."""
        p, stage, began = self.progress, self._stage(), time.monotonic()
        name, scalars = p.pending["name"], p.pending["scalars"]
        stage_is_over = self._stage_is_over()
        saves_network = (p.tick % self.config.network_ticks == 0 or p.tick == 1 or stage_is_over)
        self.teller.pause(saves_network)
        # Of several workers the others wait where all agree on what comes next.
        with contextlib.suppress(signals.Stopped), self.watch.during(signals.TELL, at_once=True):
            if p.tick % self.config.image_ticks == 0 or stage_is_over:
                self._save_fakes(stage, name)
            if saves_network:
                scalars |= self.evaluation.save_network(self.state.networks, stage, p, name)
            scalars["Timing/maintenance_sec"] = time.monotonic() - began
            self.teller.tick(stage, p, scalars, saves_network)
            p.pending = None
            self._save_state()

    def _draw_beginning(self, stage):
        """The grids of networks that have not learned anything yet."""
        self.teller.pause()
        with self.watch.during(signals.TELL, at_once=self._may_leave()):
            self._save_fakes(stage, "000000" if stage.tick_kimg >= 1 else "000000.000")

    def _save_fakes(self, stage, name):
        """The grids of this moment."""
        with self.watch.during(signals.PHOTOS):
            reals = self.grids.save_reals(
                lambda minibatch: reals_stream(self.config, self.config.resolution, stage.channels,
                                               minibatch, seed=0), stage)
        if reals is not None:
            self.teller.grid(self.progress, reals, "reals")
        self.teller.grid(self.progress, self.grids.save_fakes(
            self.state.networks["Gs"], stage, name))

    def _save_state(self):
        """Write the state of this moment, if it is ours to write."""
        p = self.progress
        if self.is_chief:
            p.elapsed_sec = time.monotonic() - self.start_time
            p.skipped_in_a_row = skipped_in_a_row(self.state)
            p.stats_bytes = directory.stats_bytes(self.run_dir)
            snapshots.save_state(self.run_dir, self.state.networks, self.state.optimizers,
                                 p.to_json(), self.keep)
        self.saved_step = p.step

    def _finish(self):
        """Write network-final.safetensors, the last snapshot under the official name."""
        path = self.run_dir / directory.FINAL
        if self.is_chief and not path.is_file():
            snapshots.save_snapshot(path, self.state.networks,
                                    self.evaluation.header(self._stage(), self.progress))
