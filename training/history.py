"""What stats.jsonl tells of a run: ticks, growths in channels, resumes."""

import json
from dataclasses import dataclass, field

STATS = "stats.jsonl"
OPTIONS = "training_options.json"
FINAL = "network-final.safetensors"


@dataclass
class History:
    """Records of stats.jsonl by kind, in the order of the file.

    Attributes:
        ticks: of every tick, {name: scalar} and `stage`. growths: stage, kimg, before, after.
        resumes: kimg. unreadable: lines that hold no record.
    """

    ticks: list = field(default_factory=list)
    growths: list = field(default_factory=list)
    resumes: list = field(default_factory=list)
    unreadable: int = 0


def read_history(run_dir):
    """The History of a run directory; empty where there is no stats.jsonl.

    A line that was cut off by a crash is counted, not an error: it must not end a training.
    """
    history = History()
    path = run_dir / STATS
    if not path.is_file():
        return history
    kinds = {"tick": history.ticks, "growth": history.growths, "resume": history.resumes}
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
