"""Downloads that resume, are checked, and are whole or absent; and the folder that caches them."""

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import requests
import urllib3

from dnnlib.util import UserError, progress

CACHE_VARIABLE = "STYLE_C_GAN_CACHE"
CONNECT_SEC = 5
READ_SEC = 30
ATTEMPTS = 5  # to get an answer
BACKOFF_SEC = 1  # before the third attempt 2 s, twice as long before every further one
MAX_WAIT_SEC = 300  # a server that asks for more is given up
BUSY = (408, 429, 500, 502, 503, 504)
CHUNK = 1 << 16  # what of a lost connection may be fetched again

logging.getLogger("urllib3").setLevel(logging.ERROR)  # its lines about trying again are long


def cache_dir() -> Path:
    """Return the folder for files that can be made again: $STYLE_C_GAN_CACHE, else
    ~/.cache/style-c-gan."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen)
    try:
        return Path.home() / ".cache" / "style-c-gan"
    except RuntimeError:  # a container's user without a home: nothing can be kept
        return Path(os.devnull) / "style-c-gan"


def has_room(folder: Path, num_bytes: int, report: Callable[[str], None]) -> bool:
    """Return whether a cache folder can take a file of `num_bytes`.

    If not, `report(line)` gets the reason, once for a folder.
    """
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


_reported = set()  # cache folders that cannot be written, as a warning has said


def download(url: str, path: str | Path, sha256: str | None = None, md5: str | None = None,
             size: int | None = None) -> Path:
    """Fetch `url` into `path`, checked, and return the path.

    What has arrived waits in `<path>.part`, from where this call goes on after a lost connection,
    and a later one if a checksum can tell that the parts fit; `path` itself appears only when
    whole. Busy servers are asked again, at growing intervals or when they say.

    Args:
        size: bytes.

    Raises:
        UserError: the address cannot be reached or answers with an error, or the file has not the
            stated size or checksum.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(part) as file:
        if not (sha256 or md5):
            file.truncate(0)
        try_again = _length(file) > 0  # the old part may have been another file's
        while True:
            _fetch(url, file, size, bool(sha256 or md5))
            try:
                check_file(part, url, sha256, md5, size)
                break
            except UserError:
                file.truncate(0)
                if not try_again:
                    raise
                try_again = False
        os.fsync(file.fileno())
        os.replace(part, path)
    return path


def check_file(path: str | Path, name: str, sha256: str | None = None, md5: str | None = None,
               size: int | None = None) -> None:
    """Compare a file with the stated size (bytes) and checksums.

    Raises:
        UserError: it differs; `name`, what was expected and what was found.
    """
    found = {"bytes": Path(path).stat().st_size}
    expected = {"bytes": size, "sha256": sha256, "md5": md5}
    for algorithm in ("sha256", "md5"):
        if expected[algorithm]:
            found[algorithm] = file_digest(path, algorithm)
    for what, value in found.items():
        if expected[what] is not None and value != expected[what]:
            raise UserError(f"{name}: {what} {value}, expected {expected[what]}: the file is "
                            "damaged or another one")


def file_digest(path: str | Path, algorithm: str = "sha256") -> str:
    """Return the hexadecimal digest of a file's bytes."""
    digest = hashlib.new(algorithm)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def mistaken_for(start: bytes, wanted: str) -> str | None:
    """Return what a file is, by its first bytes, that was fetched in place of `wanted` ('a
    network'), and what to do; None for any other file."""
    if start.startswith(b"version https://git-lfs"):
        return "only a Git-LFS pointer; fetch the file itself (git lfs pull)"
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_WEB_PAGE):
        return f"a web page, not {wanted}: download it again"
    return None


_WEB_PAGE = (b"<!doctype html", b"<html", b"<head", b"<?xml")


# Transfer


class _Lost(Exception):
    """The connection was lost while the file came."""


class _Retry(urllib3.Retry):
    """urllib3's rules for trying again, with an upper bound for what servers may ask for."""

    def get_retry_after(self, response):
        """Return the seconds that a server asks for, None if it does not."""
        try:
            seconds = super().get_retry_after(response)
        except urllib3.exceptions.InvalidHeader:
            return None
        if seconds is not None and seconds > MAX_WAIT_SEC:
            raise UserError(f"HTTP {response.status}; the server asks to come back in "
                            f"{seconds:.0f} s")
        return seconds


def _fetch(url, file, size, checked):
    """Append what the part lacks, for as long as attempts bring something.

    Raises UserError for whatever cannot be mended by asking again.
    """
    retry = _Retry(total=ATTEMPTS - 1, connect=1, status_forcelist=BUSY, raise_on_status=False,
                   backoff_factor=BACKOFF_SEC)
    name = Path(file.name).name.removesuffix(".part")
    with requests.Session() as session, progress(desc=name, unit="B") as bar:
        bar.unit_scale = True
        for scheme in ("http://", "https://"):
            session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=retry))
        furthest, validator = -1, None
        while size is None or _length(file) != size:
            if not (checked or validator):
                file.truncate(0)  # nothing could tell whether the rest fits
            try:
                with _ask(session, url, file, validator) as response:
                    if response.status_code == 416:
                        return
                    if response.status_code == 200:
                        validator = _strong_tag(response)
                    return _receive(url, file, size, response, bar)
            except _Lost:
                if _length(file) <= furthest:
                    raise UserError(f"{url}: the connection was lost{_kept(file)}") from None
                furthest = _length(file)


def _ask(session, url, file, validator):
    """Return the response to a request for what is lacking: a 200 for an emptied part, a 206 for
    one that it continues, or a 416 for one that is whole."""
    have, headers = _length(file), {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-"} | ({"If-Range": validator} if validator else {})
    try:
        response = session.get(url, headers=headers, stream=True, timeout=(CONNECT_SEC, READ_SEC))
    except requests.exceptions.SSLError:
        raise UserError(f"{url}: no secure connection (is its certificate accepted here?)"
                        ) from None
    except UserError as error:
        raise UserError(f"{url}: {error}{_kept(file)}") from None
    except (requests.ConnectionError, requests.Timeout):
        raise UserError(f"{url}: the connection could not be made, or no answer came within "
                        f"{READ_SEC} s{_kept(file)}") from None
    except requests.RequestException as error:
        raise UserError(f"{url}: the address cannot be used ({type(error).__name__})") from None
    found, tag = response.headers.get("Content-Range", ""), _strong_tag(response)
    same = not (tag and validator) or tag == validator
    fits = {206: found.startswith(f"bytes {have}-") and same, 416: found == f"bytes */{have}"}
    if response.status_code == 200:
        file.truncate(0)
    elif have and not fits.get(response.status_code, True):
        # What had arrived is of another file, or the rest is not what was asked for.
        response.close()
        file.truncate(0)
        return _ask(session, url, file, None)
    elif not have or response.status_code not in fits:
        response.close()
        raise UserError(f"{url}: HTTP {response.status_code} {response.reason}{_kept(file)}")
    return response


def _receive(url, file, size, response, bar):
    """Append the body of a 200 or 206. Raises _Lost if it ends early, UserError if it is longer
    than `size` or the disk is full."""
    bar.n, bar.total = _length(file), size
    length = response.headers.get("Content-Length", "")
    if length.isdecimal():  # that so many bytes come, urllib3 watches
        bar.total = bar.n + int(length)
        if size not in (None, bar.total):
            file.truncate(0)
            raise UserError(f"{url}: the server has {bar.total:,} bytes, expected {size:,}: "
                            "another file")
    bar.refresh()
    chunks = response.iter_content(CHUNK)
    while True:
        try:
            chunk = next(chunks, b"")
        except requests.RequestException:
            raise _Lost from None
        if not chunk:
            break
        try:
            if file.write(chunk) < len(chunk):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise UserError(f"{file.name}: {error.strerror}{_kept(file)}") from None
        bar.update(len(chunk))
        if size is not None and _length(file) > size:  # of unknown length, perhaps without an end
            file.truncate(0)
            raise UserError(f"{url}: the server sends more than the {size:,} bytes expected: "
                            "another file")
    if size is not None and _length(file) < size:
        raise _Lost


def _strong_tag(response):
    """Return the ETag that stands for the very bytes, or None."""
    tag = response.headers.get("ETag", "")
    return tag if re.fullmatch('"[^"]*"', tag) else None


def _length(file):
    """Return how many bytes have arrived."""
    return os.fstat(file.fileno()).st_size


def _kept(file):
    """Say for a message what a later call goes on from."""
    have = _length(file)
    return f"; {have:,} bytes are kept in {file.name}, run again to go on" if have else ""


@contextlib.contextmanager
def _locked(part: Path) -> Iterator[BinaryIO]:
    """Yield the part, open to append to; remove it at the end if it is empty.

    Raises UserError if another process has it.
    """
    with open(part, "ab", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{part}: another process is downloading this file; wait for it"
                            ) from None
        try:
            yield file
        finally:
            if part.exists() and not _length(file):
                part.unlink()
