"""The training loop: compose, step, tick; nothing else."""

import contextlib
import os
import signal
import time

import tensorflow as tf

from dnnlib import channels, util
from dnnlib.class_counts import class_frequencies, total_variation
from dnnlib.tflib import autosummary
from dnnlib.tflib.distribute import agree, everyones, is_chief, link_of, worker_rows
from dnnlib.util import UserError
from training import snapshots
from training.dataset import TrainingStream, read_labels
from training.grids import Grids
from training.schedule import make_stage, stage_ends, training_schedule
from training.state import enter_stage, new_state, restored_state
from training.telling import Teller
from training.turn import Turn

CLASS_COUNT_IMAGES = 512  # that the frequencies of the classes are counted in


class Training:
    """One training in one run directory: state, streams, compiled turns and reports.

    Built anew or from the directory's newest training state; `run()` goes on to the schedule's end.
    Of several workers all do the same turns; the chief alone writes, draws and evaluates.
    """

    def __init__(self, config, run_dir, strategy, dataset, evaluate=None, first_state=None,
                 log=None):
        """
        Args:
            config: TrainingConfig with `resolution` set. dataset: DatasetInfo.
            evaluate: function Snapshot -> {metric name: value}, or None.
            first_state: TrainingState to begin with (from a snapshot); None for fresh networks.
        """
        self.config, self.run_dir, self.strategy, self.dataset = config, run_dir, strategy, dataset
        self.evaluate = evaluate
        self.log = log or util.start_log("training", run_dir / "log.txt")
        self.is_chief = is_chief(strategy)
        self.grids = Grids(run_dir, config, read_labels(config.data, "train"))
        self.teller = Teller(run_dir, config, dataset, self.log) if self.is_chief else None
        self.turns, self.streams = {}, {}
        self.stop_requested = False
        with strategy.scope():
            stored = snapshots.load_newest_state(run_dir, self.log)
            check_same_state(strategy, stored, run_dir)
            if stored:
                self.state = restored_state(*stored, source=run_dir)
                self.log.info(f"continuing at kimg {self.progress.cur_nimg / 1000:.1f}")
            else:
                self.state = first_state or new_state(config, label_size=dataset.label_size)
        self._check_threads()
        self.start_time = time.time() - self.progress.elapsed_sec

    @property
    def progress(self):
        return self.state.progress

    def run(self):
        """Train to the end of the schedule, or until SIGTERM or Ctrl-C, which save and leave.

        Returns True when the schedule is finished.
        """
        self._begin_tick()
        with _stop_signals(self._request_stop), self._told():
            while not self._agree_to_stop():
                stage = self._look_at_schedule()
                if stage is None:
                    break
                if self.progress.step == 0 and self.is_chief:
                    self._save_fakes(stage)
                for _ in range(self.config.minibatch_repeats):
                    self._turn(stage)
                if self._tick_is_over(stage):
                    self._tick(stage)
        if self.stop_requested:
            if self.is_chief:
                self._save_state()
            self.log.info(f"stopped at kimg {self.progress.cur_nimg / 1000:.1f}; run the same "
                          "command to continue")
            return False
        if self.is_chief and not (self.run_dir / "network-final.safetensors").is_file():
            self._finish()
        return True

    def _told(self):
        """The teller at work, where this worker has one."""
        return self.teller.running(self.progress) if self.teller else contextlib.nullcontext()

    def _request_stop(self, *_):
        self.stop_requested = True
        if link_of(self.strategy):
            link_of(self.strategy).ask_to_stop()

    def _agree_to_stop(self):
        """Whether any worker was asked to stop; a stage that the chief has ended ends for all."""
        p = self.progress
        stop, ended = agree(self.strategy, [self.stop_requested, len(p.ended_nimg)])
        if ended > len(p.ended_nimg):
            p.ended_nimg.append(p.cur_nimg)
        if stop:  # not taken back where a signal came after the question
            self.stop_requested = True
        return stop

    def _look_at_schedule(self):
        """The Stage to train now, after entering it where it is new; None when training is over.

        A stage is entered even where it is shorter than a step: the next one grows from it.
        """
        p = self.progress
        while True:
            ends = self._stage_ends()
            if len(p.ended_nimg) == len(ends):
                return None
            name, end = ends[len(p.ended_nimg)]
            if name != p.stage:
                self._grow(make_stage(self.config, len(self.dataset.classes), name))
            if p.cur_nimg < end:
                break
            p.ended_nimg.append(p.cur_nimg)
        stage = self._stage_now()
        if list(stage.optimizer_phase) != p.optimizer_phase:
            self._reset(stage)
        return stage

    def _stage_now(self):
        """The Stage at this moment; the last one when training is over."""
        p = self.progress
        return training_schedule(self.config, len(self.dataset.classes), p.cur_nimg, p.first_stage,
                                 tuple(p.ended_nimg))

    def _stage_ends(self):
        """[(stage name, nimg at its end)] as things stand."""
        return stage_ends(self.config, self.progress.first_stage, tuple(self.progress.ended_nimg))

    def _stage_is_over(self):
        """Whether the stage at hand has reached its end."""
        return self.progress.cur_nimg >= self._stage_ends()[len(self.progress.ended_nimg)][1]

    def _grow(self, stage):
        """Enter a stage, logging the scores and metrics before and after the growth."""
        before = self._growth_report(stage) if self.is_chief else None
        with self.strategy.scope():
            self.state = enter_stage(self.state, stage, self.config.grow_d)
        self.turns, self.streams = {}, {}
        if self.is_chief:
            self.teller.growth(stage, self.progress, before, self._growth_report(stage))

    def _growth_report(self, stage):
        """Mean scores of every critic on some reals and fakes of its channels, and the metrics."""
        networks = self.state.networks
        latents, fake_labels = self.grids.inputs(stage.minibatch)
        fakes = networks["Gs"](latents, fake_labels)
        self.teller.pause()
        report = {}
        for name in [n for n in networks if n.startswith("D_")]:
            width = networks[name].config["num_channels"]
            stream = self._stream(stage.resolution, width, stage.minibatch, seed=0)
            reals, labels = next(iter(stream))
            reals = channels.to_signed(reals.numpy())
            labels = labels if self.dataset.label_size else None
            for kind, images, given in (("real", reals, labels),
                                        ("fake", fakes[..., :width], fake_labels)):
                report[f"{name}/{kind}"] = float(tf.reduce_mean(networks[name](images, given)))
        if self.evaluate:
            report |= self.evaluate(snapshots.Snapshot(networks, self._header(stage)))
        return {name: round(value, 4) for name, value in report.items()}

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
        reals = next(self.streams[critic.name])
        for name, value in self.turns[critic.name](reals, p.step, stage.fade, stage.lrate).items():
            is_shared = name.startswith("Progress/") or name == "Loss/G"
            autosummary.report(name if is_shared else f"{name}/{critic.name}", value)
        p.step += 1
        p.cur_nimg += stage.minibatch
        p.stream_nimg[critic.name] = p.stream_nimg.get(critic.name, 0) + stage.minibatch
        if self.teller:
            self.teller.turn(stage, p)

    def _prepare(self, critic, stage):
        """Make a critic's turn, which its first call compiles, and its stream of reals."""
        if self.teller:
            self.teller.compiling(critic, stage)
        stream = self._stream(
            stage.resolution, critic.channels, stage.minibatch, self.config.seed,
            self.progress.stream_nimg.get(critic.name, 0), with_untagged=critic.name == "rgb",
            rows=worker_rows(self.strategy, stage.minibatch, self.config.mbstd_group_size))
        self.turns[critic.name] = Turn(
            self.strategy, self.config, self.state.networks, self.state.optimizers, critic,
            stage.resolution, stage.fade > 0, stage.minibatch, stream.labels)
        self.streams[critic.name] = iter(stream)

    def _stream(self, resolution, num_channels, minibatch, seed, start_nimg=0, with_untagged=False,
                rows=None):
        """Real images; the image critic's stream takes the untagged photos in."""
        directories = [self.config.data]
        if with_untagged and self.config.untagged:
            directories.append(self.config.untagged)
        return TrainingStream(directories, resolution=resolution, num_channels=num_channels,
                              minibatch=minibatch, seed=seed, start_nimg=start_nimg, rows=rows)

    def _begin_tick(self):
        """Start the clock of a tick, or of the rest of one that was interrupted."""
        self.clock_nimg, self.clock_time = self.progress.cur_nimg, time.time()
        self.clock_step = self.progress.step

    def _tick_is_over(self, stage):
        p = self.progress
        return p.cur_nimg >= p.tick_nimg + stage.tick_kimg * 1000 or self._stage_is_over()

    def _tick(self, stage):
        """Report, draw, evaluate, save."""
        p, now = self.progress, time.time()
        tick_sec, tick_kimg = now - self.clock_time, (p.cur_nimg - self.clock_nimg) / 1000
        p.elapsed_sec = now - self.start_time
        p.tick, p.tick_nimg = p.tick + 1, p.cur_nimg
        stage_is_over = self._stage_is_over()
        scalars = autosummary.collect()
        if not self.is_chief:
            self._begin_tick()
            return
        saves_network = p.tick % self.config.network_ticks == 0 or p.tick == 1 or stage_is_over
        self.teller.pause(saves_network)
        if p.tick % self.config.image_ticks == 0 or stage_is_over:
            self._save_fakes(stage)
        if saves_network:
            scalars |= self._save_network(stage)
        scalars |= {
            "Progress/turns": p.step - self.clock_step, "Progress/tick": p.tick,
            "Progress/kimg": p.cur_nimg / 1000, "Progress/lod": stage.lod,
            "Progress/resolution": stage.resolution, "Progress/channels": stage.channels,
            "Progress/minibatch": stage.minibatch, "Progress/lrate": stage.lrate,
            "Timing/total_sec": p.elapsed_sec, "Timing/sec_per_tick": tick_sec,
            "Timing/sec_per_kimg": tick_sec / tick_kimg,
            "Timing/maintenance_sec": time.time() - now}
        self.teller.tick(stage, p, scalars, saves_network)
        self._begin_tick()
        self._save_state()

    def _save_fakes(self, stage):
        """The grids of this moment."""
        reals = self.grids.save_reals(
            lambda minibatch: self._stream(self.config.resolution, stage.channels, minibatch,
                                           seed=0), stage)
        if reals is not None:
            self.teller.grid(self.progress, reals, "reals")
        self.teller.grid(self.progress, self.grids.save_fakes(
            self.state.networks["Gs"], stage, self._kimg_name(stage)))

    def _kimg_name(self, stage):
        """kimg for file names: whole as in the official release, thousandths in short ticks."""
        nimg = self.progress.cur_nimg
        return f"{nimg // 1000:06d}" + ("" if stage.tick_kimg >= 1 else f".{nimg % 1000:03d}")

    def _save_network(self, stage):
        """A network snapshot and its evaluation; returns {'Metrics/<name>': value}."""
        header = self._header(stage)
        live = snapshots.Snapshot(self.state.networks, header)
        scores = self.evaluate(live) if self.evaluate else {}
        path = self.run_dir / f"network-snapshot-{self._kimg_name(stage)}.safetensors"
        snapshots.save_snapshot(path, self.state.networks, {**header, "scores": scores})
        if scores:
            self._compare(stage, scores, path)
        scalars = {f"Metrics/{name}": value for name, value in scores.items()}
        return scalars | (self._class_scalars(stage) if stage.name == "classes" else {})

    def _class_scalars(self, stage):
        """How often each class occurs in real and in generated maps, and their distance."""
        batches = -(-CLASS_COUNT_IMAGES // stage.minibatch)
        stream = iter(self._stream(stage.resolution, stage.channels, stage.minibatch, seed=0))
        inputs = self.grids.batches(batches, stage.minibatch)
        num_classes = len(self.dataset.classes)
        real = class_frequencies(
            (channels.to_signed(next(stream)[0].numpy()) for _ in range(batches)), num_classes)
        fake = class_frequencies(
            (self.state.networks["Gs"](*minibatch) for minibatch in inputs), num_classes)
        scalars = {"Classes/total_variation": total_variation(real, fake)}
        for name, in_reals, in_fakes in zip(self.dataset.classes, real, fake):
            scalars |= {f"Classes/real/{name}": in_reals, f"Classes/fake/{name}": in_fakes}
        return scalars

    def _compare(self, stage, scores, path):
        """Keep account of the best snapshot, and end the stage when it has stopped improving.

        Only what is at the target resolution counts: a network that still grows is compared as
        upscaled images, by numbers of another kind.
        """
        p = self.progress
        name = selection_metric(scores)
        if name is None or stage.lod:
            return
        value = scores[name]
        if p.stage_best is None or value < p.stage_best:
            p.stage_best, p.evaluations_since_best = value, 0
        else:
            p.evaluations_since_best += 1
        is_last = stage.name == self._stage_ends()[-1][0]
        if is_last and (p.best_value is None or value < p.best_value):
            p.best_value = value
            util.write_json(self.run_dir / "best.json", {
                "snapshot": path.name, "metric": name, "value": value, "kimg": p.cur_nimg / 1000})
        if self.config.patience and p.evaluations_since_best >= self.config.patience:
            self.log.info(f"stage {stage.name} ends: {name} has not improved for "
                          f"{self.config.patience} evaluations")
            p.ended_nimg.append(p.cur_nimg)

    def _header(self, stage):
        """What a snapshot says of itself."""
        names = {"rgb": (), "binary": ("any",), "classes": self.dataset.classes}[stage.name]
        dataset = self.dataset
        return {"variant": self.config.variant, "stage": self.progress.stage,
                "classes": list(names), "kimg": self.progress.cur_nimg / 1000,
                "lod": {"resolution": stage.resolution, "fade": stage.fade},
                "dataset": {"name": dataset.name, "path": str(dataset.path),
                            "digest": dataset.digest},
                "training": self.config.to_json()}

    def _save_state(self):
        self.progress.elapsed_sec = time.time() - self.start_time
        snapshots.save_state(self.run_dir, self.state.networks, self.state.optimizers,
                             self.progress.to_json())

    def _finish(self):
        """Write network-final.safetensors, the last snapshot under the official name."""
        snapshots.save_snapshot(self.run_dir / "network-final.safetensors", self.state.networks,
                                self._header(self._stage_now()))

    def _check_threads(self):
        """Bit-identity of a continued run holds for an equal number of threads only: say so."""
        threads = tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count()
        if self.progress.num_threads not in (0, threads):
            self.log.info(f"warning: this training ran with {self.progress.num_threads} threads "
                          f"before and now has {threads}; results will differ in the last bits")
        self.progress.num_threads = threads


def check_same_state(strategy, stored, run_dir):
    """Raise UserError, in all workers, unless all have read the same training state (or none).

    stored: what `snapshots.load_newest_state` returned.
    """
    states = everyones(strategy, stored and [stored[0]["progress"]["cur_nimg"],
                                             stored[0]["digests"]])
    for worker, state in enumerate(states):
        if state != states[0]:
            told = ["no training state" if s is None else f"a training state of kimg "
                    f"{s[0] / 1000:.3f}" for s in (states[0], state)]
            other = "another one, of the same kimg" if told[0] == told[1] else told[1]
            raise UserError(f"{run_dir}: worker 0 finds {told[0]} in it, worker {worker} {other}; "
                            "all workers must see the same run directory (a shared file system)")


def selection_metric(names):
    """The metric that selects the best snapshot, lower being better: the first FID, else the first
    KID, else None."""
    return next((n for kind in ("fid", "kid") for n in names if n.startswith(kind)), None)


@contextlib.contextmanager
def _stop_signals(handler):
    """Have SIGINT and SIGTERM call `handler`, not end the process; a second Ctrl-C ends it."""
    old = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number, frame):
        handler()
        signal.signal(number, old[number])

    for number in old:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)
