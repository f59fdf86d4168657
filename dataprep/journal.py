"""How far an unfinished data set is, so that the same command goes on where an earlier one stopped.

`journal.jsonl` lies among the unfinished files. Its first line says what is being made, then comes
a line for each photo in order, and at intervals a checkpoint: the sizes of the record files,
written once these are on the disk. What lies behind the last checkpoint may be half written and is
dropped.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

FILE_NAME = "journal.jsonl"
VERSION = 2  # of a photo's line: raise it when the lines of before cannot be continued
_CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class Progress:
    """What an unfinished data set holds up to its last checkpoint.

    entries: the photos' lines; sizes: {record file: bytes}; length: that of the journal, in bytes.
    """

    entries: list = field(default_factory=list)
    sizes: dict = field(default_factory=dict)
    length: int = 0


def read_journal(folder, header):
    """(Progress, header there): empty where the journal is missing or another's.

    The second is None where there is no journal with a whole first line.
    """
    lines = _whole_lines(Path(folder) / FILE_NAME)
    there, _ = next(lines, (None, 0))
    entries, done = [], Progress()
    for entry, end in lines if there == header else ():
        if _CHECKPOINT in entry:
            done = Progress(list(entries), entry[_CHECKPOINT], end)
        else:
            entries.append(entry)
    return done, there


def _whole_lines(path):
    """Yield (object, byte behind its line) up to the first line that is cut short or broken."""
    if not path.is_file():
        return
    with open(path, "rb") as file:
        end = 0
        for line in file:
            end += len(line)
            try:
                value = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                value = None
            if not isinstance(value, dict):
                return
            yield value, end


class Journal:
    """The journal of the run at work: begun with `header`, or continued after `progress`."""

    def __init__(self, folder, header, progress):
        self._file = open(Path(folder) / FILE_NAME, "ab")  # noqa: SIM115 - closed by __exit__
        self._file.truncate(progress.length)
        if not progress.length:
            self._write(header)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def add(self, entry):
        """Note one photo."""
        self._write(entry)

    def checkpoint(self, sizes):
        """Note that all photos so far are on the disk, in record files of these `sizes`."""
        self._write({_CHECKPOINT: sizes})
        self._file.flush()
        os.fsync(self._file.fileno())

    def _write(self, value):
        self._file.write(json.dumps(value).encode() + b"\n")
