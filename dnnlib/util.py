"""Run directories, logging, progress, files that are whole or absent, and one-line errors."""

import argparse
import contextlib
import fcntl
import hashlib
import io
import json
import logging
import os
import re
import select
import sys
import traceback
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dnnlib.quiet import native_greetings_hidden


class UserError(Exception):
    """A mistake its user can mend, in one line: what, where, what is allowed or what to do."""


def run_main(main):
    """Run a script's `main(argv)` and leave with its exit status.

    UserError and operating-system errors become one line on stderr and status 2; Ctrl-C becomes
    130; a reader that closes the pipe of the output (`| head`) ends the script with status 0. A
    traceback, and what TensorFlow's C++ side says at its start, are shown only when `--debug` is
    among the arguments.
    """
    argv = sys.argv[1:]
    # TensorFlow uses oneDNN's convolutions by itself only where a processor has AVX-512; they are
    # faster without it as well (docs/performance.md).
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    for stream in (sys.stdout, sys.stderr):  # names of files may have what the terminal lacks
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if "--debug" in argv:
        sys.exit(_run(main, argv))
    with native_greetings_hidden():
        status = _run(main, argv)
    sys.exit(status)


def _run(main, argv):
    """Return main(argv)'s exit status, its errors printed on stderr."""
    try:
        return _run_to_the_end(main, argv)
    except BrokenPipeError:
        if not close_broken_outputs():
            raise
        return 0


def _run_to_the_end(main, argv):
    """Return main(argv)'s exit status. Raises BrokenPipeError where nobody reads the output."""
    try:
        status = main(argv)
        sys.stdout.flush()  # at the interpreter's end it would be too late to handle an error
        return status
    except SystemExit as leaving:  # of --help
        sys.stdout.flush()
        return leaving.code
    except (UserError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _broken_outputs():
            raise
        if "--debug" in argv:
            traceback.print_exc()
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _broken_outputs():
    """Return the file descriptors among stdout and stderr whose readers or terminals are gone."""
    broken = []
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a test's stream has no descriptor
            poll = select.poll()
            poll.register(stream.fileno(), 0)  # errors and hang-ups are reported without asking
            broken += [fd for fd, event in poll.poll(0) if event != select.POLLNVAL]
    return broken


def close_broken_outputs():
    """Send what goes to pipes without a reader, or to a terminal that is gone, nowhere; return
    whether there are any."""
    broken = _broken_outputs()
    for fd in broken:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, fd)
        os.close(nowhere)
    return bool(broken)


def one_line(error):
    """An error's message on a single line; operating-system errors keep their file name.

    Characters that a terminal could obey, of a file's name for instance, become backslash escapes.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def argument_parser(description, examples):
    """An ArgumentParser whose help shows defaults and examples, and which knows `--debug`."""
    parser = _Parser(
        description=description, epilog="examples:\n" + examples, allow_abbrev=False,
        formatter_class=_HelpFormatter)
    parser.add_argument("--debug", action="store_true", help="show a traceback with an error")
    return parser


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser whose complaints are one line."""

    def error(self, message):
        raise UserError(f"{message}; see {self.prog} --help")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults behind every option that has one, examples printed as written."""

    def _get_help_string(self, action):
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


def parse_ints(text):
    """'0-3,7' -> [0, 1, 2, 3, 7]. Raises argparse.ArgumentTypeError for anything else."""
    numbers = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not match:
            raise argparse.ArgumentTypeError(
                f"{text!r}: expected numbers and ranges such as 0-35 or 3,7,12-15")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise argparse.ArgumentTypeError(f"{text!r}: the range {part} runs backwards")
        numbers.extend(range(first, last + 1))
    return numbers


def progress(iterable=None, total=None, desc=None, unit="it"):
    """A tqdm bar with rate and ETA on stderr; silent when stderr is not a terminal."""
    # tqdm shows nothing where a terminal does not know its size: under `script`, in containers.
    size = {"dynamic_ncols": True} if _terminal_size_is_known() else {"ncols": 80, "nrows": 24}
    return tqdm(iterable, total=total, desc=desc, unit=unit, disable=None, smoothing=0.1, **size)


def _terminal_size_is_known():
    """Whether stderr says how many columns and rows it has."""
    try:
        return all(os.get_terminal_size(sys.stderr.fileno()))
    except OSError:
        return False


@contextlib.contextmanager
def only_process(directory, doing):
    """Hold a directory's lock. Raises UserError where another process is `doing` the same."""
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
def atomic_path(path):
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


def atomic_write(path, content):
    """Write bytes or text so that `path` is either whole or as it was.

    Bytes of file names that are no UTF-8 are written as escapes, which JSON reads back.
    """
    if isinstance(content, str):
        content = content.encode("utf-8", "backslashreplace")
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_json(path, value):
    """Write `value` as indented JSON, atomically."""
    atomic_write(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path, object_hook=None):
    """Read JSON, with a byte order mark or without; `object_hook` as in json.loads.

    Raises UserError where it is missing or broken.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"), object_hook=object_hook)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not valid JSON ({one_line(error)})") from None


def append_jsonl(path, record):
    """Append one JSON line."""
    with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")


def list_runs(results_dir):
    """Run directories `NNNNN-<description>` below `results_dir`, oldest first."""
    root = Path(results_dir)
    if not root.is_dir():
        return []
    runs = [p for p in root.iterdir() if p.is_dir() and re.match(r"\d{5}-", p.name)]
    return sorted(runs, key=lambda p: p.name)


def create_run_dir(results_dir, description):
    """Make and return `results_dir/NNNNN-<description>` with the next free number."""
    runs = list_runs(results_dir)
    number = int(runs[-1].name[:5]) + 1 if runs else 0
    path = Path(results_dir) / f"{number:05d}-{description}"
    path.mkdir(parents=True)
    return path


def start_log(name, path=None):
    """A logger that prints plain lines to stdout and, given `path`, appends them to that file."""
    logger = logging.getLogger(name)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = False
    logger.setLevel(logging.INFO)
    handlers = [_Terminal(sys.stdout)]
    if path is not None:
        handlers.append(_LogFile(path, encoding="utf-8", errors="backslashreplace"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
    return logger


def log_to_file(logger, line):
    """Write a line that the terminal gets by another way to the logger's file alone."""
    for handler in logger.handlers:
        if isinstance(handler, _LogFile):
            handler.handle(logger.makeRecord(logger.name, logging.INFO, "", 0, line, (), None))


class _Terminal(logging.StreamHandler):
    """A log's lines on stdout. Where nobody reads them any more the work ends, as it does where
    they are printed."""

    def handleError(self, record):
        """Raise BrokenPipeError; print any other error."""
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            raise
        super().handleError(record)


class _LogFile(logging.FileHandler):
    """A log's file. Where it cannot be written (a full disk), one line says so and work goes on: it
    is no reason to lose what is being logged."""

    told = False

    def handleError(self, record):
        """Instead of a traceback for every line."""
        if not self.told:
            self.told = True
            print(f"warning: {self.baseFilename} cannot be written "
                  f"({one_line(sys.exc_info()[1])})", file=sys.stderr)

    def close(self):
        """What is still in the buffer is tried once more."""
        with contextlib.suppress(OSError):
            super().close()


def format_time(seconds):
    """Seconds in the form 12s, 3m 05s, 2h 07m 30s or 1d 04h 10m."""
    s = int(np.rint(seconds))
    if s < 60:
        return f"{s}s"
    if s < 3600:
        return f"{s // 60}m {s % 60:02d}s"
    if s < 86400:
        return f"{s // 3600}h {s // 60 % 60:02d}m {s % 60:02d}s"
    return f"{s // 86400}d {s // 3600 % 24:02d}h {s // 60 % 60:02d}m"


def arrays_digest(arrays):
    """sha256 hex over names, shapes and little-endian float32 bytes, in the order of the names."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name], "<f4", order="C")
        sha.update(f"{name}{array.shape}".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()
