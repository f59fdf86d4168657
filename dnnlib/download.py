"""Downloads that resume, are checked, and are whole or absent; and the folder that caches them."""

import hashlib
import os
from pathlib import Path

import requests

from dnnlib.util import UserError, progress

CACHE_VARIABLE = "STYLE_C_GAN_CACHE"
CONNECT_SEC = 5
READ_SEC = 30
ATTEMPTS = 4
CHUNK = 1 << 16  # what of a lost connection may be fetched again


def cache_dir():
    """Folder for files that can be made again: $STYLE_C_GAN_CACHE, else ~/.cache/style-c-gan."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen) if chosen else Path.home() / ".cache" / "style-c-gan"


def download(url, path, sha256=None, md5=None, size=None):
    """Fetch `url` into `path`, checked, and return the path.

    What has arrived waits in `<path>.part`, from where a later call goes on; `path` itself appears
    only when whole. Lost connections are taken up again as long as each attempt brings something.
    Raises UserError naming the address when it cannot be reached, answers with an error, or the
    file has not the stated size (bytes) or checksum.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, ATTEMPTS + 1):
        before = _size(part)
        try:
            _fetch(url, part, path.name, size)
            break
        except requests.RequestException as error:
            if attempt == ATTEMPTS or _size(part) <= before:
                kept = f"; {_size(part):,} bytes are kept in {part}" if _size(part) else ""
                raise UserError(f"{url}: {_reason(error)}{kept}") from None
    check_file(part, url, sha256=sha256, md5=md5, size=size, remove=True)
    os.replace(part, path)
    return path


def check_file(path, name, sha256=None, md5=None, size=None, remove=False):
    """Compare a file with the stated size and checksums.

    Raises UserError naming `name`, what was expected and what was found. With `remove` a file that
    differs is deleted first, so that the next download starts afresh.
    """
    found = {"bytes": _size(path)}
    expected = {"bytes": size, "sha256": sha256, "md5": md5}
    for algorithm in ("sha256", "md5"):
        if expected[algorithm]:
            found[algorithm] = file_digest(path, algorithm)
    for what, value in found.items():
        if expected[what] is not None and value != expected[what]:
            if remove:
                Path(path).unlink()
            raise UserError(f"{name}: {what} {value}, expected {expected[what]}: the file is "
                            "damaged or another one")


def file_digest(path, algorithm="sha256"):
    """Hexadecimal digest of a file's bytes."""
    digest = hashlib.new(algorithm)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _fetch(url, part, name, size):
    """One attempt: append to `part` what it lacks, or start again where that is not offered."""
    have = _size(part)
    if size is not None and have == size:
        return
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    timeout = (CONNECT_SEC, READ_SEC)
    with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
        if response.status_code == 416:
            part.unlink()
            raise UserError(f"{url}: {part} did not fit the file there and is removed; run again")
        if response.status_code not in (200, 206):
            raise UserError(f"{url}: HTTP {response.status_code} {response.reason}")
        resumed = response.status_code == 206
        start = have if resumed else 0
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdigit() else size
        bar = progress(total=total, desc=name, unit="B")
        with bar, open(part, "ab" if resumed else "wb") as file:
            bar.unit_scale = True
            bar.update(start)
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
            file.flush()
            os.fsync(file.fileno())


def _size(path):
    """Bytes of a file, 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def _reason(error):
    """A lost connection in a few words; the library's own message runs over several lines."""
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection within {CONNECT_SEC} s"
    if isinstance(error, requests.Timeout):
        return f"the server sent nothing for {READ_SEC} s"
    if isinstance(error, requests.ConnectionError):
        return "the connection could not be made or was lost"
    return f"the transfer failed ({type(error).__name__})"
