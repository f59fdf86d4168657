"""What a run tells of itself: the tick line, stats.jsonl and TensorBoard's events."""

import resource

import tensorflow as tf

from dnnlib import util


class Teller:
    """Tells of one run, through its log and in files of its directory."""

    def __init__(self, run_dir, config, dataset, log):
        """dataset: DatasetInfo."""
        self.run_dir, self.config, self.dataset, self.log = run_dir, config, dataset, log
        self.writer = tf.summary.create_file_writer(str(run_dir))

    def tick(self, stage, progress, scalars, left_sec):
        """One tick: {name: value} as a line of the log, a line of stats.jsonl and events.

        left_sec: expected until the end of the schedule.
        """
        self.log.info(_tick_line(stage, scalars, left_sec))
        util.append_jsonl(self.run_dir / "stats.jsonl",
                          {"event": "tick", "stage": stage.name, **scalars})
        with self.writer.as_default():
            for name, value in scalars.items():
                tf.summary.scalar(name, value, step=progress.cur_nimg)
        self.writer.flush()

    def grid(self, progress, grid):
        """A grid of fakes, uint8 [H, W, 3], as an event."""
        with self.writer.as_default():
            tf.summary.image("fakes", grid[None], step=progress.cur_nimg)

    def growth(self, stage, progress, before, after):
        """A growth in channels: {name: value} of scores and metrics before and after it."""
        self.log.info(f"growth to stage {stage.name} ({stage.channels} channels): "
                      f"before {before}, after {after}")
        util.append_jsonl(self.run_dir / "stats.jsonl", {
            "event": "growth", "stage": stage.name, "kimg": progress.cur_nimg / 1000,
            "before": before, "after": after})


def _tick_line(stage, s, left_sec):
    """The official release's line of a tick, with the stage and an ETA."""
    metrics = "".join(f" {name.split('/')[1]} {value:.4g}" for name, value in s.items()
                      if name.startswith("Metrics/"))
    return (f"tick {s['Progress/tick']:<4d} kimg {s['Progress/kimg']:<8.1f} "
            f"stage {stage.name:<7s} lod {stage.lod:<5.2f} minibatch {stage.minibatch:<4d} "
            f"time {util.format_time(s['Timing/total_sec']):<12s} "
            f"sec/tick {s['Timing/sec_per_tick']:<7.1f} "
            f"sec/kimg {s['Timing/sec_per_kimg']:<7.2f} "
            f"maintenance {s['Timing/maintenance_sec']:<6.1f} "
            f"gpumem {s['Resources/peak_mem_gb']:<5.1f} ETA {util.format_time(left_sec)}{metrics}")


def peak_memory_gb():
    """Peak memory of the first GPU, or of this process where there is none."""
    if tf.config.list_logical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
