"""What the first worker writes and reports during a training; the other workers write nothing."""

import contextlib
import logging
from pathlib import Path
from typing import Any

from dnnlib import util
from dnnlib.util import UserError
from training.method import Method, Stage
from training.run import directory
from training.run.history import BEST, FINAL
from training.run.reporter import RunReporter
from training.snapshots import save_snapshot
from training.state import Progress, TrainingState, save_state


class RunFiles(RunReporter):
    """Writes the files of a run, and reports it."""

    def __init__(self, run_dir: Path, method: Method, log: logging.Logger, keep: int):
        """Write to `run_dir`, and keep the newest `keep` training states there."""
        super().__init__(run_dir, method, log)
        self.keep = keep

    def clear(self, progress: Progress, reported_bytes: int | None) -> None:
        """Remove what a killed process left behind (`directory.clean_up_after_kill`), and forget
        a best snapshot from after this point, since it will be overwritten."""
        directory.clean_up_after_kill(self.run_dir, reported_bytes)
        best = self.run_dir / BEST
        if best.is_file() and util.read_json(best)["kimg"] > progress.cur_nimg / 1000:
            best.unlink()
            progress.best_value = None

    def stats_bytes(self) -> int:
        """Return the length of stats.jsonl."""
        return directory.stats_bytes(self.run_dir)

    def save_state(self, state: TrainingState) -> None:
        """Write a training state."""
        save_state(self.run_dir, state, self.keep)

    def draw(self, stage: Stage, progress: Progress, name: str) -> None:
        """Write the method's pictures of this moment."""
        for tag, picture in self.method.draw(stage, self.run_dir, name).items():
            self.report_grid(progress, picture, tag)

    def inspect(self, stage: Stage) -> dict[str, float]:
        """Return the method's own numbers about its networks."""
        return self.method.inspect(stage)

    def scores(self, stage: Stage, progress: Progress) -> dict[str, float]:
        """Return the method's scores; if they cannot be computed, log a warning and return {}."""
        # Networks that diverged, or photos that cannot be read, must not end a run.
        try:
            return self.method.scores(stage, progress)
        except UserError as error:
            self.log.info(f"warning: no metrics at kimg {progress.cur_nimg / 1000:.1f}: "
                          f"{util.one_line(error)}")
            return {}

    def details(self, stage: Stage) -> dict[str, float]:
        """Return the method's additional scalars for a network snapshot."""
        return self.method.details(stage)

    def save_network(self, stage: Stage, progress: Progress, name: str) -> Path:
        """Write network-snapshot-<name> with `progress.scores` in its header."""
        path = self.run_dir / f"network-snapshot-{name}.safetensors"
        header = {**self.method.header(stage, progress), "scores": progress.scores}
        save_snapshot(path, self.method.networks, header)
        return path

    def save_best(self, path: Path, metric: str, progress: Progress) -> None:
        """Record in best.json that the snapshot at `path` has the best value of the metric."""
        util.write_json(self.run_dir / BEST, {
            "snapshot": path.name, "metric": metric, "value": progress.best_value,
            "kimg": progress.cur_nimg / 1000})

    def finish(self, stage: Stage, progress: Progress) -> None:
        """Write the last snapshot under its official name, network-final.safetensors."""
        path = self.run_dir / FINAL
        if not path.is_file():
            save_snapshot(path, self.method.networks, self.method.header(stage, progress))

    def give_up(self, stage: Stage, progress: Progress) -> None:
        """Save the diverged networks under a name of their own, and remove the bad states."""
        name = f"nonfinite-{progress.cur_nimg / 1000:010.3f}.safetensors"
        save_snapshot(self.run_dir / name, self.method.networks,
                      self.method.header(stage, progress))
        directory.mark_diverged(self.run_dir, self.method.remedies(), progress, name)


class NoFiles:
    """Does nothing in place of RunFiles, on workers other than the first."""

    reporting = staticmethod(contextlib.nullcontext)

    def _nothing(self, *_: Any) -> None:
        """Return None."""

    clear = save_state = compiling = step = pause = draw = growth = tick = _nothing
    save_network = save_best = finish = give_up = _nothing

    def stats_bytes(self) -> int:
        """Return 0: this worker writes no stats.jsonl."""
        return 0

    def inspect(self, *_: Any) -> dict[str, float]:
        """Return {}: only the first worker measures."""
        return {}

    scores = details = inspect
