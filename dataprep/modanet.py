"""ModaNet's raw data: what can be fetched is fetched, for the rest it says what to do; and where
the files of other sets in COCO's form are."""

import re
from pathlib import Path

from dnnlib.download import download, file_digest
from dnnlib.util import UserError, one_line

DEFAULT_SOURCE = "datasets/modanet/raw"
TRAIN_JSON = "modanet2018_instances_train.json"
VAL_JSON = "modanet2018_instances_val.json"  # lists images only
ANNOTATIONS_URL = "https://github.com/eBay/modanet/raw/master/annotations/"
# As published in 2018.
PUBLISHED = {TRAIN_JSON: {"size": 105_924_292, "md5": "96478657d20e322e9d3282c6d73c0c4c"},
             VAL_JSON: {"size": 215_183, "md5": "900b24b7d6c0c48203e6244f45d65499"}}
_PHOTOS_URL = "http://vision.is.tohoku.ac.jp/chictopia2/photos.lmdb.tar"
_PHOTOS_MD5 = "a404789687fc3906d7d843942c802f53"
_LFS_POINTER = b"version https://git-lfs"
_SHOWN = 5  # names in an error
_PHOTO_PLACES = ("images", "photos.lmdb", "images.zip", "photos.zip")


def find_raw(source, annotations, images, say, name=TRAIN_JSON):
    """(annotations' path, photos' path): those given, else the ones below the folder `source`,
    where `name` is the file of annotations.

    Annotations are downloaded where they are missing in the default folder, and where only a
    Git-LFS pointer lies in their place. `say(line)` hears of it, and of annotations that are not
    the published ones. Raises UserError that says, for everything missing, what to fetch and where
    to put it.
    """
    problems = []
    try:
        path = Path(annotations or Path(source) / "annotations" / name)
        _provide(path, annotations is None, source, say)
        _say_unknown(path, say)
    except UserError as error:
        problems.append(one_line(error))
    try:
        photos = images or _find_photos(Path(source))
    except UserError as error:
        problems.append(one_line(error))
    if problems:
        raise UserError(". ".join(problems))
    return path, photos


def find_coco(source: str | None, annotations: str | None, images: str | None) -> tuple:
    """Return (annotations' path, photos' path) of a COCO set: those given, else below `source`: the
    only JSON file in annotations/, or else beside it; images/, a zip or lmdb, or `source` itself.

    Raises:
        UserError: there is none, or more than one JSON file.
    """
    if source is None and None in (annotations, images):
        raise UserError("give --annotations and --images, or --source for a folder that holds both")
    root = Path(source) if source is not None else None
    if root is not None and not root.is_dir():
        raise UserError(f"{root}: no such folder")
    if images is None:
        images = next((root / name for name in _PHOTO_PLACES if (root / name).exists()), root)
    if annotations is not None:
        return Path(annotations), images
    there = sorted(root.glob("annotations/*.json")) or sorted(root.glob("*.json"))
    if len(there) == 1:
        return there[0], images
    found = ", ".join(path.name for path in there[:_SHOWN]) + ", ..." * (len(there) > _SHOWN)
    raise UserError(f"{root}: {f'several JSON files ({found})' if there else 'no JSON file'} there "
                    "or in annotations/; name the COCO file with --annotations")


def _provide(path, is_default_name, source, say):
    """Fetch annotations that are not there. Raises UserError where that is not possible."""
    pointer = _read_pointer(path)
    if pointer is not None:
        say(f"{path} is only a Git-LFS pointer, as a clone without git-lfs leaves it; fetching "
            "the file itself")
        if path.name not in PUBLISHED:
            raise UserError(f"{path}: only a Git-LFS pointer, to a file of unknown address; run "
                            "git lfs pull in its clone, or name another file with --annotations")
        _fetch(path, pointer or PUBLISHED[path.name])
    elif is_default_name and not path.is_file():
        if Path(source) != Path(DEFAULT_SOURCE):
            raise UserError(f"{path}: no such file; fetch {ANNOTATIONS_URL + path.name} and put it "
                            "there, or name another file with --annotations")
        for name, expected in PUBLISHED.items():
            if not path.with_name(name).is_file():
                _fetch(path.with_name(name), expected)


def _read_pointer(path):
    """What a Git-LFS pointer says of its file, as keywords of download(): {"sha256", "size"}, {}
    where it is damaged; None where the file is missing or no pointer."""
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        start = file.read(1024)  # the format's limit
    if not start.startswith(_LFS_POINTER):
        return None
    oid = re.search(rb"^oid sha256:([0-9a-f]{64})$", start, re.MULTILINE)
    size = re.search(rb"^size (\d{1,15})$", start, re.MULTILINE)
    return {"sha256": oid[1].decode(), "size": int(size[1])} if oid and size else {}


def _fetch(path, expected):
    """Download one annotation file; `expected`: size and checksum."""
    try:
        download(ANNOTATIONS_URL + path.name, path, **expected)
    except UserError as error:
        raise UserError(f"{one_line(error)}; fetch it by hand and put it at {path}, or name "
                        "another file with --annotations") from None


def _say_unknown(path, say):
    """A warning where a file is none of the published ones; there are other versions, and other
    people's annotations in the same form."""
    if not path.is_file():
        return  # whoever reads it says so
    md5 = file_digest(path, "md5")
    if md5 not in (published["md5"] for published in PUBLISHED.values()):
        known = ", ".join(f"{name}: {published['size']:,} bytes, md5 {published['md5']}"
                          for name, published in PUBLISHED.items())
        say(f"warning: {path} ({path.stat().st_size:,} bytes, md5 {md5}) is none of ModaNet's "
            f"published files ({known}): another version, or other annotations")


def _find_photos(source):
    for name in _PHOTO_PLACES:
        if (source / name).exists():
            return source / name
    raise UserError(
        f"{source}: no photos there; fetch {_PHOTOS_URL} (about 40 GB, md5 {_PHOTOS_MD5}) and "
        f"unpack it to {source / 'photos.lmdb'}, or put files named like 0736001.jpg into "
        f"{source / 'images'}, or name another place with --images")
