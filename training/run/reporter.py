"""What a run reports: status line, tick line, stats.jsonl, TensorBoard events, a page."""

import contextlib
import logging
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from dnnlib import util
from dnnlib.data import pictures
from dnnlib.page import RELOAD_SEC, WIDTH
from training.method import Method, Stage
from training.run.history import STATS, read_history
from training.run.run_page import write_page
from training.run.status_line import StatusLine
from training.run.time_left import TimeEstimator
from training.state import Progress

_OVER_CRITICS = ("Loss/scores/real", "Loss/scores/fake", "Loss/r1_penalty")


class RunReporter:
    """Reports one run in its log, on the terminal and in files of its directory."""

    def __init__(self, run_dir: Path, method: Method, log: logging.Logger):
        """Report on the training of `method` in `run_dir`, which may hold earlier reports."""
        self.run_dir, self.method, self.log = run_dir, method, log
        self.writer = tf.summary.create_file_writer(str(run_dir))
        self.status_line = StatusLine(log)
        self.time_estimator = TimeEstimator(method)
        self.skipped, self.next_page = 0, 0.0

    @contextlib.contextmanager
    def reporting(self, progress: Progress) -> Iterator[None]:
        """Report while the body runs; when it ends, for whatever reason, write that it stopped."""
        self.begin(progress)
        try:
            yield
        finally:
            self.status_line.clear()
            self.writer.flush()
            self._write_page(is_running=False)

    def begin(self, progress: Progress) -> None:
        """Begin the reports, or continue those of a stopped run; record this in stats.jsonl."""
        ticks = [tick for tick in read_history(self.run_dir).ticks
                 if round(tick["Progress/kimg"] * 1000) <= progress.cur_nimg]
        for tick in ticks:
            self.time_estimator.remember(tick)
        self.skipped = sum(tick.get("Progress/skipped_updates", 0) for tick in ticks)
        self._record("resume" if progress.step else "begin", {
            "kimg": progress.cur_nimg / 1000, "classes": list(self.method.classes)})
        self._write_page()

    def compiling(self, what: str) -> None:
        """Log that a step is about to be compiled."""
        self.log.info(f"compiling: {what}")
        self.time_estimator.pause()

    def step(self, stage: Stage, progress: Progress) -> None:
        """Time a finished step; update the status line about once a second."""
        self.time_estimator.step(stage)
        if not self.status_line.is_due():
            return
        # The most important fields come first.
        fields = [f"kimg {progress.cur_nimg / 1000:.1f}",
                  f"{stage.name} {' '.join(stage.summary.split())}".rstrip()]
        sec_per_kimg = self.time_estimator.sec_per_kimg(stage)
        of_stage, of_run = self.time_estimator.time_left(progress)
        if sec_per_kimg:
            fields += [f"{sec_per_kimg:.4g} sec/kimg", f"{1000 / sec_per_kimg:.3g} images/s",
                       f"ETA stage {util.format_time(of_stage)}, run {util.format_time(of_run)}"]
        self.status_line.show([*fields, f"skipped {self.skipped}",
                               f"mem {peak_memory_gb():.1f} GB"])

    def pause(self) -> None:
        """Prepare for work other than steps, which may show its own progress bars."""
        self.time_estimator.pause()
        self.status_line.clear()

    def tick(self, stage: Stage, progress: Progress, scalars: dict[str, float],
             saved_network: bool) -> None:
        """Report a tick as a line of the log and of stats.jsonl, as events, and on the page.

        Args:
            scalars: {name: value}; those that only this class knows are added.
            saved_network: whether the tick wrote and evaluated a network snapshot.
        """
        tick = {"stage": stage.name, "saved_network": saved_network, **scalars}
        self.time_estimator.remember(tick)
        # Add what follows from the clock and earlier ticks. `scalars` has means over the tick's
        # steps; for skipped updates, the number is reported instead.
        skipped = round(scalars.get("Progress/skipped_updates", 0) * scalars["Progress/turns"])
        self.skipped += skipped
        of_stage, of_run = self.time_estimator.time_left(progress)
        scalars = {**scalars,
                   "Progress/skipped_updates": skipped, "Progress/skipped_total": self.skipped,
                   "Progress/end_kimg": self.method.stage_ends(progress)[-1][1] / 1000,
                   "Timing/images_per_sec": 1000 / scalars["Timing/sec_per_kimg"],
                   "Resources/peak_mem_gb": peak_memory_gb(),
                   "Timing/eta_stage_sec": of_stage, "Timing/eta_sec": of_run}
        self.log.info(_tick_line(stage, scalars))
        self._record("tick", tick | scalars)
        with self.writer.as_default():
            for name, value in (scalars | official_names(scalars)).items():
                tf.summary.scalar(name, value, step=progress.cur_nimg)
        self.writer.flush()
        if time.monotonic() >= self.next_page:
            self._write_page()

    def report_grid(self, progress: Progress, grid: np.ndarray, name: str) -> None:
        """Report a grid uint8 [H, W, 3], such as 'fakes', as an event no wider than the page."""
        with self.writer.as_default():
            tf.summary.image(name, pictures.shrink_to_width(grid, WIDTH)[None],
                             step=progress.cur_nimg)
        if not progress.step:
            self._write_page()

    def growth(self, stage: Stage, progress: Progress, before: dict[str, float],
               after: dict[str, float]) -> None:
        """Report a growth in channels, with {name: value} of scores and metrics before and after;
        only name the stage if it is over without a step, and the networks grow on."""
        channels = stage.scalars.get("Progress/channels")
        name = f"stage {stage.name}" + f" ({channels} channels)" * bool(channels)
        if progress.schedule_nimg >= dict(self.method.stage_ends(progress))[stage.name]:
            self.log.info(f"passing through {name}, which has no steps")
            return
        self.log.info(f"entering {name}")
        for moment, values in (("before", before), ("after", after)):
            if values:
                self.log.info(f"{moment} the growth {growth_sentence(values)}")
        self._record("growth", {"stage": stage.name, "kimg": progress.cur_nimg / 1000,
                                "before": before, "after": after})

    def _record(self, event, content):
        util.append_jsonl(self.run_dir / STATS, {"event": event, **content})

    def _write_page(self, is_running=True):
        """Write index.html; an error is only logged, so that it cannot end a training of weeks."""
        # Drawing takes a second or two, and browsers reload the page no more often than this.
        self.next_page = time.monotonic() + RELOAD_SEC
        try:
            write_page(self.run_dir, self.method.config.to_json(), is_running)
        except Exception as error:
            self.log.info(f"warning: {self.run_dir / 'index.html'} could not be written: "
                          f"{type(error).__name__}: {util.one_line(error)}")


def growth_sentence(values: dict[str, float]) -> str:
    """Return values such as {'D_rgb/real': 0.12, 'D_rgb/fake': -0.4, 'fid1k': 55.1} as part of a
    sentence."""
    parts = []
    for name, value in values.items():
        critic, _, kind = name.rpartition("/")
        if kind == "real":
            parts.append(f"{critic} scores reals {value:.2f} and "
                         f"fakes {values[f'{critic}/fake']:.2f}")
        elif not critic:
            parts.append(f"{name} is {value:.4g}")
    return ", ".join(parts)


def official_names(scalars: dict[str, float]) -> dict[str, float]:
    """Return {name in the official release: mean over the critics}: 'Loss/scores/real' is the mean
    of 'Loss/scores/real/rgb' and 'Loss/scores/real/joint'."""
    groups = {known: [value for name, value in scalars.items() if name.startswith(known + "/")]
              for known in _OVER_CRITICS}
    return {name: sum(values) / len(values) for name, values in groups.items() if values}


def _tick_line(stage, s):
    """Return a tick's line as in the official release, with stage, speed, ETA and metrics added."""
    metrics = "".join(f" {name.removeprefix('Metrics/')} {value:.4g}" for name, value in s.items()
                      if name.startswith("Metrics/"))
    return (f"tick {s['Progress/tick']:<4d} kimg {s['Progress/kimg']:<8.1f} "
            f"stage {stage.name:<7s} {stage.summary} "
            f"minibatch {stage.minibatch:<4d} "
            f"time {util.format_time(s['Timing/total_sec']):<12s} "
            f"sec/tick {s['Timing/sec_per_tick']:<7.1f} "
            f"sec/kimg {s['Timing/sec_per_kimg']:<7.2f} "
            f"images/s {s['Timing/images_per_sec']:<6.4g} "
            f"maintenance {s['Timing/maintenance_sec']:<6.1f} "
            f"{'gpumem' if _gpus() else 'mem'} {s['Resources/peak_mem_gb']:<5.1f} "
            f"skipped {s['Progress/skipped_total']} "
            f"ETA stage {util.format_time(s['Timing/eta_stage_sec'])} "
            f"run {util.format_time(s['Timing/eta_sec'])}{metrics}")


def peak_memory_gb() -> float:
    """Return the peak memory of the fullest GPU, or of this process if there is none, in GB."""
    if _gpus():
        return max(tf.config.experimental.get_memory_info(name)["peak"] for name in _gpus()) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _gpus():
    """Return the names of this process's GPUs as TensorFlow's memory counters take them."""
    return [f"GPU:{i}" for i in range(len(tf.config.list_logical_devices("GPU")))]
