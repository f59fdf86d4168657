"""Downloads that resume, are checked, and are whole or absent; and the folder that caches them.

HTTP as in RFC 9110: ranges (section 14), If-Range (13.1.5), Retry-After (10.2.3).
"""

import contextlib
import email.utils
import fcntl
import hashlib
import json
import os
import re
import tempfile
import time
from pathlib import Path

import requests
import urllib3

from dnnlib.util import UserError, atomic_write, progress

CACHE_VARIABLE = "STYLE_C_GAN_CACHE"
CONNECT_SEC = 5
READ_SEC = 30
ATTEMPTS = 5  # in a row that bring nothing new
BACKOFF_SEC = 1  # before the second attempt, twice as long before every further one
MAX_WAIT_SEC = 300  # a server that asks for more is left alone
CHUNK = 1 << 16  # what of a lost connection may be fetched again


def cache_dir():
    """Folder for files that can be made again: $STYLE_C_GAN_CACHE, else ~/.cache/style-c-gan."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen)
    try:
        return Path.home() / ".cache" / "style-c-gan"
    except RuntimeError:  # a container's user without a home: nothing can be kept
        return Path(os.devnull) / "style-c-gan"


def has_room(folder, num_bytes, say):
    """Return whether a cache folder can take a file of `num_bytes`.

    Where not, `say(line)` gets the reason, once for a folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, num_bytes)
        return True
    except OSError as error:
        if folder not in _reported:
            _reported.add(folder)
            say(f"warning: nothing is kept for the next time: the cache {folder} cannot be written "
                f"({error.strerror}); name another folder in the environment variable "
                f"{CACHE_VARIABLE}")
        return False


_reported = set()  # cache folders that cannot be written, as a warning has said


def download(url, path, sha256=None, md5=None, size=None):
    """Fetch `url` into `path`, checked, and return the path.

    What has arrived waits in `<path>.part`, from where this call or a later one goes on; `path`
    itself appears only when whole. Lost connections and busy servers (429, 5xx) are tried again, at
    growing intervals, as long as one of ATTEMPTS tries brings something. Raises UserError naming
    the address when it cannot be reached, answers with an error, or the file has not the stated
    size (bytes) or checksum.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(part) as file:
        transfer = _Transfer(url, path.name, part, file, size, bool(sha256 or md5))
        if transfer.run():
            with contextlib.suppress(_Mismatch):  # the old part may have been another file's
                _compare(part, url, sha256, md5, size)
                return transfer.finish(path)
            transfer.forget()
            transfer.run()
        try:
            _compare(part, url, sha256, md5, size)
        except _Mismatch:
            transfer.forget()
            raise
        return transfer.finish(path)


def check_file(path, name, sha256=None, md5=None, size=None):
    """Compare a file with the stated size and checksums.

    Raises UserError naming `name`, what was expected and what was found.
    """
    _compare(Path(path), name, sha256, md5, size)


def file_digest(path, algorithm="sha256"):
    """Hexadecimal digest of a file's bytes."""
    digest = hashlib.new(algorithm)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def mistaken_for(start, wanted):
    """Return what a file is, by its first bytes, that was fetched in place of `wanted` ('a
    network'), and what to do; None for any other file."""
    if start.startswith(b"version https://git-lfs"):
        return "only a Git-LFS pointer; fetch the file itself (git lfs pull)"
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_WEB_PAGE):
        return f"a web page, not {wanted}: download it again"
    return None


_WEB_PAGE = (b"<!doctype html", b"<html", b"<head", b"<?xml")


class _Mismatch(UserError):
    """A file that is not the expected one."""


class _Again(Exception):
    """An attempt failed in a way that may pass; the message says how. `wait`: seconds, or None."""

    def __init__(self, reason, wait=None):
        super().__init__(reason)
        self.wait = wait


class _Unreachable(_Again):
    """No connection could be made at all."""


class _Transfer:
    """One download over all its attempts.

    `<part>.json` beside the part says whose bytes these are: {"url", "validator"}, the validator
    being a strong ETag or the date of the last change.
    """

    def __init__(self, url, name, part, file, size, checked):
        self._url, self._name, self._part, self._file = url, name, part, file
        self._size, self._checked = size, checked
        self._origin = _origin(part)
        self._answered = False

    def run(self):
        """Fetch what the part lacks. Returns whether it began with bytes from an earlier call."""
        resumed = self._have() > 0
        if self._size is None or self._have() != self._size:
            with progress(desc=self._name, unit="B") as bar:
                bar.unit_scale = True
                self._attempts(bar)
        self._file.flush()
        return resumed

    def finish(self, path):
        """Give the whole file its name."""
        os.fsync(self._file.fileno())
        os.replace(self._part, path)
        self._origin.unlink(missing_ok=True)
        return path

    def forget(self):
        """Drop what has arrived."""
        self._file.flush()
        self._file.truncate(0)
        self._origin.unlink(missing_ok=True)

    def _have(self):
        self._file.flush()
        return os.fstat(self._file.fileno()).st_size

    def _attempts(self, bar):
        failures, furthest = 0, self._have()
        while True:
            try:
                return self._attempt(bar)
            except _Again as error:
                failures = failures + 1 if self._have() <= furthest else 1
                furthest = max(furthest, self._have())
                given_up = isinstance(error, _Unreachable) and not self._answered
                if failures == ATTEMPTS or given_up:
                    raise UserError(f"{self._url}: {error}{self._kept()}") from None
                wait = error.wait if error.wait is not None else BACKOFF_SEC * 2**(failures - 1)
                if wait > MAX_WAIT_SEC:
                    raise UserError(f"{self._url}: {error}; the server asks to come back in "
                                    f"{wait:.0f} s{self._kept()}") from None
                bar.set_postfix_str(f"{error}; again in {wait:.0f} s")
                time.sleep(wait)

    def _attempt(self, bar):
        """One request: append what is lacking, or begin again where that is not offered."""
        have, validator = self._have(), self._validator()
        if have and not (validator or self._checked):
            self.forget()  # nothing could tell whether the rest fits
            have = 0
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers |= {"Range": f"bytes={have}-"} | ({"If-Range": validator} if validator else {})
        with _failures_told(self._url), \
                requests.get(self._url, headers=headers, stream=True,
                             timeout=(CONNECT_SEC, READ_SEC)) as response:
            self._answered = True
            if response.status_code == 416:
                return self._is_whole(response, have)
            self._refuse_errors(response)
            if response.status_code == 206 and not self._fits(response, have, validator):
                self.forget()
                raise _Again("the server sent another part than was asked for")
            self._receive(response, bar)

    def _receive(self, response, bar):
        """Write the body of a 200 or 206."""
        if response.status_code == 200:
            self.forget()
            self._remember(response)
        total = self._total(response)
        bar.total, bar.n = total, self._have()
        bar.refresh()
        arrived = bar.n
        for chunk in response.iter_content(CHUNK):
            self._file.write(chunk)
            bar.update(len(chunk))
            arrived += len(chunk)
            if total is not None and arrived > total:  # of unknown length, perhaps without an end
                self.forget()
                raise UserError(f"{self._url}: the server sends more than the {total:,} bytes "
                                "expected: another file")
        if total is not None and self._have() < total:
            raise _Again(f"the connection ended after {self._have():,} of {total:,} bytes")

    def _total(self, response):
        """Length of the whole file in bytes, or None. Raises UserError where it is a wrong one."""
        length = response.headers.get("Content-Length", "")
        if not length.isdecimal():
            return self._size
        total = self._have() + int(length)
        if self._size is not None and total != self._size:
            self.forget()
            raise UserError(f"{self._url}: the server has {total:,} bytes, expected "
                            f"{self._size:,}: another file")
        return total

    def _refuse_errors(self, response):
        """Raise _Again where a later attempt may do better, UserError where none will."""
        status = f"HTTP {response.status_code} {response.reason}"
        if response.status_code in (408, 429) or response.status_code >= 500:
            raise _Again(status, _retry_after(response.headers.get("Retry-After", "")))
        if response.status_code not in (200, 206):
            raise UserError(f"{self._url}: {status}{self._kept()}")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise UserError(f"{self._url}: the server compresses the file, so that its bytes "
                            "cannot be counted or checked; fetch it by hand")

    def _is_whole(self, response, have):
        """After 416: nothing is lacking, or what there is belongs to another file."""
        if response.headers.get("Content-Range", "") != f"bytes */{have}":
            self.forget()
            raise _Again("what had arrived before did not fit the file there")

    def _fits(self, response, have, validator):
        """Whether a 206 goes on where the part ends, in the same file."""
        found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        now = _strong_validator(response.headers)
        return bool(found and int(found[1]) == have) and (not validator or now in (None, validator))

    def _validator(self):
        """What tells that the file at the address is still the part's, or None."""
        try:
            origin = json.loads(self._origin.read_text(encoding="utf-8"))
            return origin["validator"] if origin["url"] == self._url else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _remember(self, response):
        validator = _strong_validator(response.headers)
        if validator:
            atomic_write(self._origin, json.dumps({"url": self._url, "validator": validator}))

    def _kept(self):
        have = self._have()
        return f"; {have:,} bytes are kept in {self._part}, run again to go on" if have else ""


@contextlib.contextmanager
def _locked(part):
    """The part, open to append to. Raises UserError where another process is at it."""
    with open(part, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{part}: another process is downloading this file; wait for it"
                            ) from None
        try:
            yield file
        finally:
            file.flush()
            if part.exists() and not part.stat().st_size:
                part.unlink()
                _origin(part).unlink(missing_ok=True)


def _origin(part):
    """Where it is noted whose bytes the part holds."""
    return part.with_name(part.name + ".json")


def _compare(path, name, sha256, md5, size):
    """Raise _Mismatch where a file has not the stated size and checksums."""
    found = {"bytes": path.stat().st_size}
    expected = {"bytes": size, "sha256": sha256, "md5": md5}
    for algorithm in ("sha256", "md5"):
        if expected[algorithm]:
            found[algorithm] = file_digest(path, algorithm)
    for what, value in found.items():
        if expected[what] is not None and value != expected[what]:
            raise _Mismatch(f"{name}: {what} {value}, expected {expected[what]}: the file is "
                            "damaged or another one")


def _strong_validator(headers):
    """What If-Range can ask for: an ETag that stands for the very bytes, else the last change."""
    tag = headers.get("ETag", "")
    return tag if re.fullmatch('"[^"]*"', tag) else headers.get("Last-Modified")


def _retry_after(text):
    """Seconds that a Retry-After header asks for (a number or a date), None where it does not."""
    if re.fullmatch(r"\d{1,9}", text.strip()):
        return int(text)
    try:
        return max(0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


@contextlib.contextmanager
def _failures_told(url):
    """Failures of the transfer become _Again in a few words; the library's run over several lines.

    Raises UserError for what no further attempt changes.
    """
    try:
        yield
    except requests.exceptions.SSLError:
        raise UserError(f"{url}: no secure connection (is its certificate accepted here?)"
                        ) from None
    except requests.ConnectTimeout:
        raise _Unreachable(f"no connection within {CONNECT_SEC} s") from None
    except requests.Timeout:
        raise _Again(f"the server sent nothing for {READ_SEC} s") from None
    except requests.ConnectionError as error:
        cause = error.args[0] if error.args else None
        if isinstance(cause, urllib3.exceptions.ReadTimeoutError):
            raise _Again(f"the server sent nothing for {READ_SEC} s") from None
        made = not isinstance(cause, urllib3.exceptions.MaxRetryError)
        raise (_Again("the connection was lost") if made
               else _Unreachable("the connection could not be made")) from None
    except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError):
        raise _Again("the connection was lost") from None
    except requests.RequestException as error:
        raise UserError(f"{url}: the address cannot be used ({type(error).__name__})") from None
