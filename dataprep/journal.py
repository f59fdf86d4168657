"""Record the progress of an unfinished data set, so that the same command continues it.

The first line of `journal.jsonl` identifies the data set. Then comes a line for each photo, in
order, and at intervals a checkpoint: the sizes of the record files, written once these are on the
disk. What comes after the last checkpoint may be half written and is dropped.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

FILE_NAME = "journal.jsonl"
VERSION = 2  # of a photo's line: raise it when earlier lines cannot be continued
_CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class ConversionProgress:
    """The content of an unfinished data set up to its last checkpoint. entries: the photos' lines;
    sizes: {record file: bytes}; length: of the journal, in bytes."""

    entries: list = field(default_factory=list)
    sizes: dict = field(default_factory=dict)
    length: int = 0


def read_journal(folder: str | Path, header: dict) -> tuple[ConversionProgress, dict | None]:
    """Return (progress, the journal's header). The progress is empty if the journal is missing or
    has another header; the header is None if there is no complete first line."""
    there, entries, done, end = None, [], ConversionProgress(), 0
    path = Path(folder) / FILE_NAME
    for line in path.read_bytes().splitlines(keepends=True) if path.is_file() else ():
        end += len(line)
        try:
            entry = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            break  # cut short or broken
        if there is None:
            there = entry
            if there != header:
                break
        elif _CHECKPOINT in entry:
            done = ConversionProgress(list(entries), entry[_CHECKPOINT], end)
        else:
            entries.append(entry)
    return done, there


class Journal:
    """The journal of the running conversion: new, with `header`, or continued after `progress`."""

    def __init__(self, folder: Path, header: dict, progress: ConversionProgress) -> None:
        self._file = open(Path(folder) / FILE_NAME, "ab")  # noqa: SIM115 - closed by __exit__
        self._file.truncate(progress.length)
        if not progress.length:
            self.add(header)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def add(self, entry: dict) -> None:
        """Write a line: the header's, or a photo's."""
        self._file.write(json.dumps(entry).encode() + b"\n")

    def checkpoint(self, sizes: dict) -> None:
        """Record that all photos so far are on the disk, in record files of these `sizes`."""
        self.add({_CHECKPOINT: sizes})
        self._file.flush()
        os.fsync(self._file.fileno())
