"""Read a run's stats.jsonl: its classes, ticks, growths in channels, resumes."""

import json
from dataclasses import dataclass, field
from pathlib import Path

STATS = "stats.jsonl"
OPTIONS = "training_options.json"
FINAL = "network-final.safetensors"
BEST = "best.json"
DIVERGED = "nonfinite.json"
AUGMENTED = "augmented.png"


@dataclass
class History:
    """Records of stats.jsonl by kind, in the order of the file.

    Attributes:
        begins, resumes: kimg, classes. ticks: every scalar by its name, and `stage`.
        growths: stage, kimg, before, after. unreadable: number of lines that are no record.
    """

    begins: list[dict] = field(default_factory=list)
    ticks: list[dict] = field(default_factory=list)
    growths: list[dict] = field(default_factory=list)
    resumes: list[dict] = field(default_factory=list)
    unreadable: int = 0

    @property
    def classes(self) -> list[str]:
        """Return the names of the classes 1..C; [] if no record has them."""
        return next((record["classes"] for record in [*self.begins, *self.resumes]
                     if "classes" in record), [])

    @property
    def stages(self) -> set[str]:
        """Return the names of the stages entered so far."""
        return {record["stage"] for record in [*self.ticks, *self.growths]}


def read_history(run_dir: Path) -> History:
    """Return the History of a run directory; empty if there is no stats.jsonl.

    A line that was cut off by a crash is counted; it is no error, so that it cannot end a training.
    """
    history = History()
    kinds = {"begin": history.begins, "tick": history.ticks, "growth": history.growths,
             "resume": history.resumes}
    path = run_dir / STATS
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
            kinds.get(record["event"], []).append(record)
        except (ValueError, TypeError, KeyError):  # no JSON, or no record
            history.unreadable += 1
    return history
