"""Atomic files, locks, logs, progress, times, digests; and UserError, an error of one line."""

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import select
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_WEB_PAGE = (b"<!doctype html", b"<html", b"<head", b"<?xml")


class UserError(Exception):
    """A mistake that the user can fix, in one line: what, where, what is allowed or what to do."""


def one_line(error: object) -> str:
    """Return an error's message on a single line. Characters that could control a terminal, such as
    in a file's name, become backslash escapes."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


# Outputs

def close_broken_outputs() -> bool:
    """Redirect stdout and stderr to the null device if their readers or terminals are gone; return
    whether one of them was."""
    broken = []
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a test's stream has no descriptor
            poll = select.poll()
            poll.register(stream.fileno(), 0)  # errors and hang-ups are reported without asking
            broken += [fd for fd, event in poll.poll(0) if event != select.POLLNVAL]
    for fd in broken:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, fd)
        os.close(nowhere)
    return bool(broken)


def progress(iterable: Iterable | None = None, **options: object) -> tqdm:
    """Return a tqdm bar with these options, rate and ETA on stderr; silent without a terminal."""
    # tqdm shows nothing if a terminal does not know its size: under `script`, in containers.
    try:
        size_is_known = all(os.get_terminal_size(sys.stderr.fileno()))
    except OSError:
        size_is_known = False
    size = {"dynamic_ncols": True} if size_is_known else {"ncols": 80, "nrows": 24}
    return tqdm(iterable, disable=None, smoothing=0.1, **size, **options)


def format_time(seconds: float) -> str:
    """Return seconds in the form 12s, 3m 05s, 2h 07m 30s or 1d 04h 10m."""
    s = int(np.rint(seconds))
    days, hours, minutes = s // 86400, s // 3600 % 24, s // 60 % 60
    if days:
        return f"{days}d {hours:02d}h {minutes:02d}m"
    return (f"{hours}h {minutes:02d}m {s % 60:02d}s" if hours
            else f"{minutes}m {s % 60:02d}s" if minutes else f"{s}s")


# Files that are complete or absent

@contextlib.contextmanager
def lock_directory(directory: str | Path, doing: str) -> Iterator[None]:
    """Hold a directory's lock. Raises UserError if another process is `doing` the same."""
    Path(directory).mkdir(parents=True, exist_ok=True)
    fd = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{directory}: another process is {doing}; wait for it, "
                            "or choose another directory") from None
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def explain_disk_full(directory: str | Path, advice: Callable[[], str]) -> Iterator[None]:
    """Raise UserError "<directory>: the disk is full (<error>); <advice()>" if it is full.

    TensorFlow's writers report a full disk as exhausted resources, as they do a device's memory:
    the operating system's text distinguishes the two. Other errors pass unchanged.
    """
    try:
        yield
    except Exception as error:
        is_full = (error.errno in _DISK_FULL if isinstance(error, OSError)
                   else type(error).__module__.startswith("tensorflow.")
                   and any(os.strerror(number) in str(error) for number in _DISK_FULL))
        if not is_full:
            raise
        raise UserError(f"{directory}: the disk is full ({one_line(error)[:200]}); "
                        f"{advice()}") from None


def remove_leftovers(directory: str | Path, patterns: Iterable[str]) -> None:
    """Remove the files that a killed process left: all that match a glob below `directory`."""
    for pattern in patterns:
        for path in Path(directory).glob(pattern):
            path.unlink()


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`: flushed and renamed on success, removed on error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write(path: str | Path, content: bytes | str) -> None:
    """Write bytes or text so that `path` is either complete or unchanged. In text, bytes of file
    names that are not UTF-8 become escapes, which JSON reads back."""
    if isinstance(content, str):
        content = content.encode("utf-8", "backslashreplace")
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: str | Path, value: object) -> None:
    """Write `value` as indented JSON, atomically."""
    atomic_write(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: str | Path, object_hook: Callable | None = None) -> object:
    """Read JSON, with or without a byte order mark. Raises UserError if it is missing or broken,
    has numbers of thousands of digits, or is nested too deeply."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"), object_hook=object_hook)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        reason = mistaken_for(Path(path).read_bytes()[:256], "JSON") or one_line(error)
        raise UserError(f"{path}: not valid JSON ({reason})") from None


def append_jsonl(path: str | Path, record: object) -> None:
    """Append one JSON line."""
    with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")


def mistaken_for(start: bytes, wanted: str) -> str | None:
    """Return what a file is instead of `wanted` ('a network'), according to its first bytes (256
    are enough), and what to do; None if they show no such mistake."""
    if not start:
        return "an empty file: copy or download it again"
    if start.startswith(b"version https://git-lfs"):
        return "only a Git-LFS pointer; fetch the file itself (git lfs pull)"
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_WEB_PAGE):
        return f"a web page, not {wanted}: download it again"
    return None


def arrays_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Return sha256 hex over names, shapes and little-endian float32 bytes, in order of names."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name], "<f4", order="C")
        sha.update(f"{name}{array.shape}".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


# Runs and their logs

def list_runs(results_dir: str | Path) -> list[Path]:
    """Return run directories `NNNNN-<description>` below `results_dir`, oldest first."""
    return sorted(path for path in Path(results_dir).glob("[0-9]" * 5 + "-*") if path.is_dir())


def create_run_dir(results_dir: str | Path, description: str) -> Path:
    """Make and return `results_dir/NNNNN-<description>` with the next free number."""
    runs = list_runs(results_dir)
    number = int(runs[-1].name[:5]) + 1 if runs else 0
    path = Path(results_dir) / f"{number:05d}-{description}"
    path.mkdir(parents=True)
    return path


def start_log(name: str, path: str | Path | None = None) -> logging.Logger:
    """Return a logger that prints plain lines to stdout and, given `path`, appends them there."""
    logger = logging.getLogger(name)
    while logger.handlers:
        logger.handlers[0].close()
        logger.removeHandler(logger.handlers[0])
    logger.propagate = False
    logger.setLevel(logging.INFO)
    handlers = [_Terminal(sys.stdout)]
    if path is not None:
        handlers.append(_LogFile(path, encoding="utf-8", errors="backslashreplace"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
    return logger


def log_to_file(logger: logging.Logger, line: str) -> None:
    """Write a line only to the logger's file, if the terminal already shows it."""
    for handler in logger.handlers:
        if isinstance(handler, _LogFile):
            handler.handle(logger.makeRecord(logger.name, logging.INFO, "", 0, line, (), None))


class _Terminal(logging.StreamHandler):
    """Print a log's lines on stdout; if stdout has lost its reader, raise, as print does."""

    def handleError(self, record: logging.LogRecord):
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            raise
        super().handleError(record)


class _LogFile(logging.FileHandler):
    """Write a log's lines to a file; if that fails (a full disk), warn once and continue."""

    has_warned = False

    def handleError(self, record: logging.LogRecord):
        if not self.has_warned:
            self.has_warned = True
            print(f"warning: {self.baseFilename} cannot be written "
                  f"({one_line(sys.exc_info()[1])})", file=sys.stderr)

    def close(self):
        with contextlib.suppress(OSError):  # closing writes what is still in the buffer
            super().close()
