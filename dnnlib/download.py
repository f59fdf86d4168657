"""Resumable, checked downloads, complete or absent; and the folder that caches them."""

import contextlib
import hashlib
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import requests
import urllib3

from dnnlib.util import (
    UserError,
    atomic_path,
    explain_disk_full,
    lock_directory,
    mistaken_for,
    one_line,
    progress,
)

CACHE_VARIABLE = "STYLE_C_GAN_CACHE"
CONNECT_SEC, READ_SEC = 5, 30
ATTEMPTS = 5  # to get an answer
BACKOFF_SEC = 1  # before the third attempt 2 s, twice as long before every further one
MAX_WAIT_SEC = 300  # longest wait that a server may ask for
BUSY = (408, 429, 500, 502, 503, 504)
CHUNK = 1 << 16  # most bytes that are fetched again after a lost connection
_reported = set()  # cache folders that cannot be written, and were warned about

logging.getLogger("urllib3").setLevel(logging.ERROR)  # its messages on retries are long


def cache_dir() -> Path:
    """Return the folder for files that can be made again: $STYLE_C_GAN_CACHE, else
    ~/.cache/style-c-gan."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen)
    try:
        return Path.home() / ".cache" / "style-c-gan"
    except RuntimeError:  # no home, as for some users in containers: nothing can be kept
        return Path(os.devnull) / "style-c-gan"


def keep_arrays(path: Path, arrays: dict[str, np.ndarray], report: Callable[[str], None]) -> bool:
    """Write arrays as an .npz into the cache. Return False if there is no room, after reporting the
    reason."""
    num_bytes = 2 * sum(array.nbytes for array in arrays.values())  # with room to spare
    if not has_room(path.parent, num_bytes, report):
        return False
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)
    return True


def has_room(folder: Path, num_bytes: int, report: Callable[[str], None]) -> bool:
    """Return whether a cache folder can take a file of `num_bytes`; if not, report the reason, once
    per folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, num_bytes)
        return True
    except OSError as error:
        if folder not in _reported:
            _reported.add(folder)
            report("warning: nothing is kept for the next time: the cache "
                   f"{folder} cannot be written ({error.strerror}); name another folder in the "
                   f"environment variable {CACHE_VARIABLE}")
        return False


def download(url: str, path: str | Path, size: int, **checksums: str) -> Path:
    """Download `url` to `path`, and return the path, which appears once complete and checked.

    Bytes that have arrived are kept in `<path>.part`, from which this call continues after a lost
    connection, and so does a later call. Busy servers are asked again, at growing intervals or when
    they say.

    Args:
        size: bytes.
        checksums: sha256 or md5, hexadecimal.

    Raises:
        UserError: no answer or a wrong one, a wrong size or checksum, or a full disk.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    with lock_directory(path.parent, f"downloading {path.name}"), \
            explain_disk_full(part, lambda: "free some space and run again to go on"), \
            open(part, "ab", buffering=0) as file:
        try:
            while True:
                is_resumed = _length(file) > 0  # perhaps from another file's part
                _fetch(url, file, size)
                try:
                    check_file(part, url, size=size, **checksums)
                    break
                except UserError:
                    file.truncate(0)
                    if not is_resumed:
                        raise
            os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            if part.exists() and not _length(file):
                part.unlink()
    return path


def fetch_wheel(package: str, folder: str | Path, **expected: Any) -> Path:
    """Fetch the wheel of a package ('name==1.0') into a folder, from the index that pip uses;
    return its path. Raises UserError if pip cannot fetch it, or if its size and checksums are not
    the `expected` ones (see `check_file`)."""
    wheel = _pip_download(package, folder, "*.whl", "--only-binary=:all:", package)
    check_file(wheel, wheel.name, **expected)
    return wheel


def fetch_source(package: str, folder: str | Path, sha256: str, size: int) -> Path:
    """Fetch the source archive of a package that has no wheel, as `fetch_wheel` does. pip runs its
    setup.py to get its name, but only after comparing the checksum."""
    with tempfile.TemporaryDirectory() as spare:
        wanted = Path(spare) / "requirements.txt"
        wanted.write_text(f"{package} --hash=sha256:{sha256}\n")
        archive = _pip_download(package, folder, "*.tar.gz", "--no-binary=:all:",
                                "--no-build-isolation", f"--requirement={wanted}")
    check_file(archive, archive.name, sha256=sha256, size=size)
    return archive


def _pip_download(package, folder, pattern, *arguments):
    """Return the only file that pip downloads into a folder, named like `pattern`."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input",
               "--disable-pip-version-check", "--dest", str(folder), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    found = list(Path(folder).glob(pattern))
    if result.returncode or len(found) != 1:
        _, error, text = result.stderr.partition("ERROR: ")
        reason = one_line(text if error else result.stderr[-200:])[:200]
        raise UserError(f"pip download {package} failed: {reason}")
    return found[0]


def check_file(path: str | Path, name: str, sha256: str | None = None, md5: str | None = None,
               size: int | None = None) -> None:
    """Raise UserError if a file does not have the stated size (bytes) and checksums. name: what the
    message calls it."""
    found = {"bytes": Path(path).stat().st_size}
    expected = {"bytes": size, "sha256": sha256, "md5": md5}
    for algorithm in ("sha256", "md5"):
        if expected[algorithm]:
            found[algorithm] = file_digest(path, algorithm)
    for what, value in found.items():
        if expected[what] is not None and value != expected[what]:
            with open(path, "rb") as file:
                mistaken = mistaken_for(file.read(256), "the file")
            raise UserError(f"{name}: {what} {value}, expected {expected[what]}: "
                            + (mistaken or "the file is damaged or another one"))


def file_digest(path: str | Path, algorithm: str = "sha256") -> str:
    """Return the hexadecimal digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


class _Retry(urllib3.Retry):
    """urllib3's rules for retries, with an upper bound on the wait that servers may ask for."""

    def get_retry_after(self, response: urllib3.BaseHTTPResponse) -> float | None:
        """Return the seconds that a server asks for, None if it does not."""
        seconds = super().get_retry_after(response)
        if seconds is not None and seconds > MAX_WAIT_SEC:
            raise UserError(f"HTTP {response.status}; the server asks to come back in "
                            f"{seconds:.0f} s")
        return seconds


def _fetch(url, file, size):
    """Append the missing bytes, as long as attempts make progress. Raises UserError for errors that
    a retry cannot fix."""
    adapter = requests.adapters.HTTPAdapter(max_retries=_Retry(
        total=ATTEMPTS - 1, connect=1, status_forcelist=BUSY, raise_on_status=False,
        backoff_factor=BACKOFF_SEC))
    name, furthest = Path(file.name).name.removesuffix(".part"), -1
    with requests.Session() as session, \
            progress(desc=name, total=size, unit="B", unit_scale=True) as bar:
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        while (have := _length(file)) < size:
            if have <= furthest:
                raise UserError(f"{url}: the connection was lost{_kept(file)}")
            furthest = have
            headers = {"Accept-Encoding": "identity"}
            try:
                response = session.get(
                    url, headers=headers | ({"Range": f"bytes={have}-"} if have else {}),
                    stream=True, timeout=(CONNECT_SEC, READ_SEC))
            except UserError as error:
                raise UserError(f"{url}: {error}{_kept(file)}") from None
            except requests.RequestException as error:
                raise UserError(f"{url}: the connection could not be made, or no answer came "
                                f"within {READ_SEC} s ({type(error).__name__})"
                                f"{_kept(file)}") from None
            with response:
                _receive(url, file, size, response, bar)


def _receive(url, file, size, response, bar):
    """Append a response's body, or the part that arrives before the connection is lost. Raises
    UserError if the response is an error, or its file does not have `size` bytes."""
    have, status = _length(file), response.status_code
    found = response.headers.get("Content-Range", "")
    if status == 200:  # also of servers without ranges
        have = 0
        file.truncate(0)
    elif status != 206 or not found.startswith(f"bytes {have}-"):
        if status in (206, 416):  # another range, or the part is another file's
            file.truncate(0)
        raise UserError(f"{url}: HTTP {status} {response.reason}{_kept(file)}")
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and have + int(length) != size:
        file.truncate(0)
        raise UserError(f"{url}: the server has {have + int(length):,} bytes, expected {size:,}: "
                        "another file")
    bar.n = have
    with contextlib.suppress(requests.RequestException):
        for chunk in response.iter_content(CHUNK):
            file.write(chunk)
            bar.update(len(chunk))
            if _length(file) > size:  # the length was not stated; perhaps it never ends
                file.truncate(0)
                raise UserError(f"{url}: the server sends more than the {size:,} bytes expected: "
                                "another file")


def _length(file):
    """Return how many bytes have arrived."""
    return os.fstat(file.fileno()).st_size


def _kept(file):
    """Return what to add to a message if a later call can continue."""
    have = _length(file)
    return f"; {have:,} bytes are kept in {file.name}, run again to go on" if have else ""
