"""Folders that the same command continues, by a record of what is done in them.

    OUT/<record>.json    how the folder is made, and `photos`: what each finished photo was made of

A photo is done if the record names the inputs that it would be made of now (a digest of the files,
or an equivalent), and if the files written for it exist.
"""

import collections
import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from dnnlib import util
from dnnlib.download import file_digest
from dnnlib.util import UserError

T = TypeVar("T")
_DONE = "photos"
_SAVE_SEC = 1.0  # between two saves of the record, which may be long
_LEFTOVERS = (".*.tmp", "*/.*.tmp", "*/*/.*.tmp")


class ResumableFolder:
    """A folder that `open_resumable` has opened.

    Attributes:
        path: path of the folder.
        done: {name of a finished photo: JSON value}, what it was made of.
    """

    def __init__(self, path: Path, record: Path, head: dict, done: dict):
        """Keep what `open_resumable` found; head: the record's content besides `done`."""
        self.path, self.done = path, done
        self._record, self._head = record, head

    def begin(self, photos: Iterable[T], name: Callable[[T], str],
              fingerprint: Callable[[T], object], files: Callable[[T], Iterable[Path]]) -> list[T]:
        """Return the photos that are not done, and remove them from the record before their files
        change.

        Args:
            name, fingerprint, files: return a photo's name in `done`, what it would be made of now,
                and the files that are written for it.
        """
        missing = [photo for photo in photos
                   if name(photo) not in self.done or self.done[name(photo)] != fingerprint(photo)
                   or not all(file.is_file() for file in files(photo))]
        for photo in missing:
            self.done.pop(name(photo), None)
        self.save()
        return missing

    def minibatches(self, missing: Sequence[T], size: int,
                    desc: str = "photos") -> Iterator[list[T]]:
        """Yield photos, `size` at a time, with a progress bar; what the caller enters into `done`
        is saved from time to time, and when the folder is closed."""
        saved_sec = time.monotonic()
        with util.progress(total=len(missing), desc=desc, unit="img") as bar:
            for start in range(0, len(missing), size):
                part = missing[start:start + size]
                yield part
                if time.monotonic() > saved_sec + _SAVE_SEC:
                    self.save()
                    saved_sec = time.monotonic()
                bar.update(len(part))

    def save(self) -> None:
        """Write the record."""
        util.write_json(self._record, {**self._head, _DONE: self.done})


@contextlib.contextmanager
def open_resumable(path: Path, record: str, what: str, how: dict,
                   about: dict) -> Iterator[ResumableFolder]:
    """Open a new or existing folder, for this process alone; explain the error if the disk is full.

    Args:
        record: file name of the record.
        what: the folder's content, for an error: "photos".
        how: JSON values that must equal those with which the folder was begun.
        about: further JSON values for the record.

    Raises:
        UserError: the folder holds something else, or things made in another way; another process
            is writing into it; or the disk is full.
    """
    done, file = {}, path / record
    with (util.explain_disk_full(path, lambda: f"{len(done)} photos are complete; free some "
                                 "space and run the same command again: it continues"),
          util.lock_directory(path, "writing into it")):
        if file.is_file():
            stored = util.read_json(file)
            if not isinstance(stored, dict) or not isinstance(stored.get(_DONE), dict):
                raise UserError(f"{file}: damaged; choose another folder")
            there = {name: value for name, value in stored.items() if name not in (_DONE, *about)}
            refuse_difference(path, there, how, f"{what} made")
            done |= stored[_DONE]
        else:
            refuse_strange_files(path, record)
        util.remove_leftovers(path, _LEFTOVERS)
        folder = ResumableFolder(path, file, {**about, **how}, done)
        folder.save()  # from now on it is a folder that can be continued
        try:
            yield folder
        finally:  # keeps what is complete after an interruption, too
            folder.save()


def first_repeated(names: Iterable[str]) -> str | None:
    """Return the first name that occurs more than once; None if there is none."""
    counts = collections.Counter(names)
    return next((name for name, count in counts.items() if count > 1), None)


def refuse_strange_files(path: Path, record: str) -> None:
    """Raise UserError if a folder without a record holds files; it may be missing."""
    if path.exists() and any(path.iterdir()):
        raise UserError(f"--out={path}: holds files, but no {record}; choose a new folder")


def refuse_difference(path: Path, there: dict, wanted: dict, what: str) -> None:
    """Raise UserError if the content of a folder (what: "samples made", "samples chosen") was made
    with other values than those wanted now."""
    if there == wanted:
        return
    there, wanted = _as_stored(there), _as_stored(wanted)
    different = [f"{name} {there.get(name)!s:.40} there, {wanted.get(name)!s:.40} now"
                 for name in {**there, **wanted} if there.get(name) != wanted.get(name)]
    if different:
        raise UserError(f"--out={path}: holds {what} in another way ({'; '.join(different)}); "
                        "choose another folder or the same options")


def _as_stored(values):
    """Return values as JSON stores them, lists for tuples, with the entries of an object listed one
    by one."""
    found = {}
    for name, value in json.loads(json.dumps(values)).items():
        found |= {f"{name}.{key}": part for key, part in value.items()} \
            if isinstance(value, dict) else {name: value}
    return found


def content_digest(file: Path) -> str | None:
    """Return the sha256 of a file's bytes; None if it cannot be read: the next attempt to open it
    reports why."""
    try:
        return file_digest(file)
    except OSError:
        return None
