"""What a run tells of itself: live line, tick line, stats.jsonl, TensorBoard's events, a page."""

import contextlib
import resource

import tensorflow as tf

from dnnlib import util
from dnnlib.data import pictures
from dnnlib.page import WIDTH
from training.run.history import STATS, read_history
from training.run.run_page import write_page
from training.run.status_line import LiveLine
from training.run.time_left import Pace
from training.schedule import stage_ends


class Teller:
    """Tells of one run, through its log, on the terminal and in files of its directory."""

    def __init__(self, run_dir, config, dataset, log):
        """dataset: DatasetInfo."""
        self.run_dir, self.config, self.dataset, self.log = run_dir, config, dataset, log
        self.writer = tf.summary.create_file_writer(str(run_dir))
        self.live = LiveLine(log)
        self.pace = Pace(config, len(dataset.classes))
        self.skipped = 0

    @contextlib.contextmanager
    def running(self, progress):
        """While a training runs; at the end, whatever it is, a live line is taken away and the
        page says so."""
        self.begin(progress)
        try:
            yield
        finally:
            self.live.clear()
            self.writer.flush()
            self._write_page(is_running=False)

    def begin(self, progress):
        """Take up what a run told before it was stopped, and mark in stats.jsonl where it goes on.
        """
        ticks = [tick for tick in read_history(self.run_dir).ticks
                 if tick["Progress/kimg"] * 1000 <= progress.cur_nimg]
        self.pace.remember(ticks)
        self.skipped = sum(tick.get("Progress/skipped_updates", 0) for tick in ticks)
        self._record("resume" if progress.step else "begin", {
            "kimg": progress.cur_nimg / 1000, "classes": list(self.dataset.classes)})
        self._write_page()

    def compiling(self, critic, stage):
        """A turn is about to be compiled."""
        self.log.info(f"compiling: critic {critic.name} at {stage.resolution}x{stage.resolution}"
                      f"{', fading in' if stage.fade else ''}")
        self.pace.compiling()

    def turn(self, stage, progress):
        """A turn is done: about once a second the live line is written anew."""
        self.pace.turn(stage)
        if self.live.is_due():
            self.live.show(self._live_fields(stage, progress))

    def pause(self, saves_network=None):
        """Something else than turns follows: a tick that saves a network or does not, or what
        happens once (None). It may show bars of its own."""
        self.pace.pause(saves_network)
        self.live.clear()

    def _live_fields(self, stage, progress):
        """What the live line says, the most important first."""
        fading = f" fading {stage.fade:.2f}" if stage.fade else ""
        sec_per_kimg = self.pace.sec_per_kimg(stage)
        of_stage, of_run = self.pace.left(progress)
        fields = [f"kimg {progress.cur_nimg / 1000:.1f}",
                  f"{stage.name} {stage.resolution}x{stage.resolution}{fading}"]
        if sec_per_kimg:
            fields += [f"{sec_per_kimg:.4g} sec/kimg", f"{1000 / sec_per_kimg:.3g} images/s",
                       f"ETA stage {util.format_time(of_stage)}, run {util.format_time(of_run)}"]
        return [*fields, f"skipped {self.skipped}", f"mem {peak_memory_gb():.1f} GB"]

    def tick(self, stage, progress, scalars, saved_network):
        """One tick as a line of the log and of stats.jsonl, events, and the page.

        Args:
            scalars: {name: value}; what only this class knows is added.
            saved_network: whether a network snapshot was written, and evaluated, in it.
        """
        self.pace.maintained(saved_network, scalars["Timing/maintenance_sec"])
        scalars = {**scalars, **self._own_scalars(progress, scalars)}
        self.log.info(_tick_line(stage, scalars))
        self._record("tick", {"stage": stage.name, "saved_network": saved_network, **scalars})
        with self.writer.as_default():
            for name, value in (scalars | official_names(scalars)).items():
                tf.summary.scalar(name, value, step=progress.cur_nimg)
        self.writer.flush()
        self._write_page()

    def _own_scalars(self, progress, scalars):
        """What follows from the clock and from the ticks before."""
        # Reported are the means over the tick's turns: of skipped updates their number counts.
        skipped = round(scalars.get("Progress/skipped_updates", 0) * scalars["Progress/turns"])
        self.skipped += skipped
        of_stage, of_run = self.pace.left(progress)
        ends = stage_ends(self.config, progress.first_stage, tuple(progress.ended_nimg))
        left = {} if of_run is None else {"Timing/eta_stage_sec": of_stage,
                                          "Timing/eta_sec": of_run}
        return {"Progress/skipped_updates": skipped, "Progress/skipped_total": self.skipped,
                "Progress/end_kimg": ends[-1][1] / 1000,
                "Timing/images_per_sec": 1000 / scalars["Timing/sec_per_kimg"],
                "Resources/peak_mem_gb": peak_memory_gb(), **left}

    def grid(self, progress, grid, name="fakes"):
        """A grid of fakes or reals, uint8 [H, W, 3], as an event, not larger than one can look at.
        """
        with self.writer.as_default():
            tf.summary.image(name, pictures.reduced(grid, WIDTH)[None], step=progress.cur_nimg)
        if not progress.step:
            self._write_page()

    def growth(self, stage, progress, before, after):
        """A growth in channels: {name: value} of scores and metrics before and after it."""
        self.log.info(f"growth to stage {stage.name} ({stage.channels} channels): "
                      f"before {before}, after {after}")
        self._record("growth", {"stage": stage.name, "kimg": progress.cur_nimg / 1000,
                                "before": before, "after": after})

    def _record(self, event, content):
        util.append_jsonl(self.run_dir / STATS, {"event": event, **content})

    def _write_page(self, is_running=True):
        """index.html. Whatever is wrong with it is told and does not end a training of weeks."""
        try:
            write_page(self.run_dir, self.config.to_json(), is_running)
        except Exception as error:
            self.log.info(f"warning: {self.run_dir / 'index.html'} could not be written: "
                          f"{type(error).__name__}: {util.one_line(error)}")


def official_names(scalars):
    """{name of the official release: mean over the critics}: 'Loss/scores/real/rgb' and
    'Loss/scores/real/joint' together make 'Loss/scores/real'."""
    groups = {}
    for name, value in scalars.items():
        for known in ("Loss/scores/real", "Loss/scores/fake", "Loss/r1_penalty"):
            if name.startswith(known + "/"):
                groups.setdefault(known, []).append(value)
    return {name: sum(values) / len(values) for name, values in groups.items()}


def _tick_line(stage, s):
    """The official release's line of a tick, with the stage, speed, ETA and metrics."""
    metrics = "".join(f" {name.removeprefix('Metrics/')} {value:.4g}" for name, value in s.items()
                      if name.startswith("Metrics/"))
    eta = "" if "Timing/eta_sec" not in s else (
        f" ETA stage {util.format_time(s['Timing/eta_stage_sec'])} "
        f"run {util.format_time(s['Timing/eta_sec'])}")
    return (f"tick {s['Progress/tick']:<4d} kimg {s['Progress/kimg']:<8.1f} "
            f"stage {stage.name:<7s} resolution {stage.resolution:<4d} lod {stage.lod:<5.2f} "
            f"minibatch {stage.minibatch:<4d} "
            f"time {util.format_time(s['Timing/total_sec']):<12s} "
            f"sec/tick {s['Timing/sec_per_tick']:<7.1f} "
            f"sec/kimg {s['Timing/sec_per_kimg']:<7.2f} "
            f"images/s {s['Timing/images_per_sec']:<6.4g} "
            f"maintenance {s['Timing/maintenance_sec']:<6.1f} "
            f"{'gpumem' if _gpus() else 'mem'} {s['Resources/peak_mem_gb']:<5.1f} "
            f"skipped {s['Progress/skipped_total']}{eta}{metrics}")


def peak_memory_gb():
    """Peak memory of the fullest GPU, or of this process where there is none."""
    if _gpus():
        return max(tf.config.experimental.get_memory_info(name)["peak"] for name in _gpus()) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _gpus():
    """Names of this process's GPUs, as TensorFlow's memory counters want them."""
    return [f"GPU:{i}" for i in range(len(tf.config.list_logical_devices("GPU")))]
