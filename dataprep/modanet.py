"""ModaNet's raw data: what can be fetched is fetched, for the rest it says what to do."""

from pathlib import Path

from dnnlib.download import download
from dnnlib.util import UserError, one_line

DEFAULT_SOURCE = "datasets/modanet/raw"
TRAIN_JSON = "modanet2018_instances_train.json"
ANNOTATIONS_URL = "https://github.com/eBay/modanet/raw/master/annotations/"
# {file: md5}, as published in 2018. The second lists images only.
CHECKSUMS = {TRAIN_JSON: "96478657d20e322e9d3282c6d73c0c4c",
             "modanet2018_instances_val.json": "900b24b7d6c0c48203e6244f45d65499"}
_PHOTOS_URL = "http://vision.is.tohoku.ac.jp/chictopia2/photos.lmdb.tar"
_PHOTOS_MD5 = "a404789687fc3906d7d843942c802f53"
_LFS_POINTER = b"version https://git-lfs"


def find_raw(source, annotations=None, images=None):
    """(annotations' path, photos' path): those given, else the ones below the folder `source`.

    The annotations of the default folder are downloaded where they are missing. Raises UserError
    that says, for everything missing, what to fetch and where to put it.
    """
    found, problems = [annotations, images], []
    for i, find in enumerate((_find_annotations, _find_photos)):
        try:
            found[i] = found[i] or find(Path(source))
        except UserError as error:
            problems.append(one_line(error))
    if problems:
        raise UserError(". ".join(problems))
    return tuple(found)


def _find_annotations(source):
    path = source / "annotations" / TRAIN_JSON
    if not _is_present(path) and source == Path(DEFAULT_SOURCE):
        for name, md5 in CHECKSUMS.items():
            if not _is_present(path.with_name(name)):
                _fetch(path.with_name(name), md5)
    if not _is_present(path):
        state = "only a Git-LFS pointer is there" if path.is_file() else "no such file"
        raise UserError(f"{path}: {state}; fetch {ANNOTATIONS_URL + TRAIN_JSON} and put it there, "
                        "or name another file with --annotations")
    return path


def _is_present(path):
    """True where the file is there and not just Git-LFS's pointer to it."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(_LFS_POINTER)) != _LFS_POINTER


def _fetch(path, md5):
    """Download one annotation file."""
    try:
        download(ANNOTATIONS_URL + path.name, path, md5=md5)
    except UserError as error:
        raise UserError(f"{one_line(error)}; fetch it by hand and put it at {path}, or name "
                        "another file with --annotations") from None


def _find_photos(source):
    for name in ("images", "photos.lmdb"):
        if (source / name).exists():
            return source / name
    raise UserError(
        f"{source}: no photos there; fetch {_PHOTOS_URL} (about 40 GB, md5 {_PHOTOS_MD5}) and "
        f"unpack it to {source / 'photos.lmdb'}, or put files named like 0736001.jpg into "
        f"{source / 'images'}, or name another place with --images")
