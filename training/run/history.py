"""What stats.jsonl says of a run: its classes, ticks, growths in channels, resumes."""

import json
from dataclasses import dataclass, field

STATS = "stats.jsonl"
OPTIONS = "training_options.json"
FINAL = "network-final.safetensors"
GIVEN_UP = "nonfinite.json"


@dataclass
class History:
    """Records of stats.jsonl by kind, in the order of the file.

    Attributes:
        begins: classes. ticks: of every tick, {name: scalar} and `stage`. growths: stage, kimg,
        before, after. resumes: kimg, classes. unreadable: lines that hold no record.
    """

    begins: list = field(default_factory=list)
    ticks: list = field(default_factory=list)
    growths: list = field(default_factory=list)
    resumes: list = field(default_factory=list)
    unreadable: int = 0

    @property
    def classes(self) -> list[str]:
        """Names of the classes 1..C; of older runs, which do not state them, those counted."""
        for record in [*self.begins, *self.resumes]:
            if "classes" in record:
                return [str(name) for name in record["classes"]]
        counted = (name for tick in self.ticks for name in tick)
        return list(dict.fromkeys(name.removeprefix("Classes/real/") for name in counted
                                  if name.startswith("Classes/real/")))

    @property
    def stages(self) -> set[str]:
        """Names of the stages that were trained so far."""
        return {record["stage"] for record in [*self.ticks, *self.growths]}


def read_history(run_dir):
    """The History of a run directory; empty where there is no stats.jsonl.

    A line that was cut off by a crash is counted, not an error: it must not end a training.
    """
    history = History()
    path = run_dir / STATS
    if not path.is_file():
        return history
    kinds = {"begin": history.begins, "tick": history.ticks, "growth": history.growths,
             "resume": history.resumes}
    for line in path.read_bytes().splitlines():
        record = _record(line)
        if record is None or not isinstance(record.get("event"), str):
            history.unreadable += 1
        elif record["event"] in kinds:
            kinds[record["event"]].append(record)
    return history


def _record(line):
    """The JSON object of a line, or None."""
    try:
        record = json.loads(line)
    except ValueError:  # no JSON, or no UTF-8
        return None
    return record if isinstance(record, dict) else None
