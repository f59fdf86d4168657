"""ModaNet's raw data: what can be fetched is fetched, for the rest it says what to do."""

import hashlib
from pathlib import Path

import requests

from dnnlib import util

DEFAULT_SOURCE = "datasets/modanet/raw"
TRAIN_JSON = "modanet2018_instances_train.json"
# {file: md5}, as eBay published them in 2018.
_CHECKSUMS = {TRAIN_JSON: "96478657d20e322e9d3282c6d73c0c4c",
              "modanet2018_instances_val.json": "900b24b7d6c0c48203e6244f45d65499"}
_ANNOTATIONS_URL = "https://github.com/eBay/modanet/raw/master/annotations/"
_PHOTOS_URL = "http://vision.is.tohoku.ac.jp/chictopia2/photos.lmdb.tar"
_PHOTOS_MD5 = "a404789687fc3906d7d843942c802f53"
_LFS_POINTER = b"version https://git-lfs"
_TIMEOUT_SEC = 30
_CHUNK = 1 << 16


def find_annotations(source):
    """The train annotations below a source folder; for the default one they are downloaded.

    Raises UserError saying what to fetch and where to put it.
    """
    folder = Path(source) / "annotations"
    if not _is_present(folder / TRAIN_JSON):
        if str(source) != DEFAULT_SOURCE:
            raise util.UserError(f"{folder / TRAIN_JSON}: {_absence(folder / TRAIN_JSON)}; fetch "
                                 f"{_ANNOTATIONS_URL + TRAIN_JSON} and put it there, or name "
                                 "another file with --annotations")
        for name, md5 in _CHECKSUMS.items():
            if not _is_present(folder / name):
                fetch(_ANNOTATIONS_URL + name, folder / name, md5)
    return folder / TRAIN_JSON


def _is_present(path):
    """True where the file is there and not just Git-LFS's pointer to it."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(_LFS_POINTER)) != _LFS_POINTER


def _absence(path):
    return "only a Git-LFS pointer (clone with git-lfs)" if path.is_file() else "no such file"


def find_photos(source):
    """The photos below a source folder: images/ or photos.lmdb.

    Raises UserError saying what to fetch and where to put it.
    """
    for name in ("images", "photos.lmdb"):
        if (Path(source) / name).exists():
            return Path(source) / name
    raise util.UserError(
        f"{source}: no photos there. They cannot be downloaded unasked: fetch {_PHOTOS_URL} (about "
        f"40 GB, md5 {_PHOTOS_MD5}) and unpack it to {Path(source) / 'photos.lmdb'}, or put loose "
        f"files named like 0736001.jpg into {Path(source) / 'images'}, or name another place with "
        "--images")


def fetch(url, path, md5):
    """Download `url` to `path`, which appears only when it is whole and its md5 is right.

    Raises UserError that tells how to do it by hand.
    """
    try:
        with util.atomic_path(path) as temporary:
            _download(url, temporary, Path(path).name)
            with open(temporary, "rb") as file:
                got = hashlib.file_digest(file, "md5").hexdigest()
            if got != md5:
                raise util.UserError(f"got a file of md5 {got}, expected {md5}")
    except (requests.RequestException, util.UserError) as error:
        raise util.UserError(f"{url} cannot be downloaded ({util.one_line(error)[:300]}); fetch it "
                             f"by hand and put it at {path}") from None


def _download(url, path, name):
    """Stream `url` into the file `path`. Raises requests.RequestException."""
    with requests.get(url, stream=True, timeout=_TIMEOUT_SEC) as response:
        response.raise_for_status()
        size = int(response.headers.get("Content-Length", 0)) or None
        with open(path, "wb") as file, util.progress(total=size, desc=name, unit="B") as bar:
            for chunk in response.iter_content(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
