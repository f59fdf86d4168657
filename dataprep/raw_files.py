"""Find the input files and match them: ModaNet's annotations (downloaded if missing), other COCO
sets, photos with mask PNGs; and the photos of image entries."""

import collections
import dataclasses
import hashlib
import itertools
import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from dataprep import photo_sources
from dataprep.coco.annotations import MAX_INSTANCES, TOO_MANY
from dnnlib.data.coco import KEYPOINTS_FILE, MODANET_FILE, OWN_FILE
from dnnlib.download import download, file_digest
from dnnlib.suggestions import PHOTOS_AND_MASKS
from dnnlib.util import UserError, one_line

DEFAULT_SOURCE = "datasets/modanet/raw"
TRAIN_JSON = "modanet2018_instances_train.json"
VAL_JSON = "modanet2018_instances_val.json"  # lists images only
ANNOTATIONS_URL = "https://github.com/eBay/modanet/raw/master/annotations/"
# As published in 2018.
PUBLISHED = {TRAIN_JSON: {"size": 105_924_292, "md5": "96478657d20e322e9d3282c6d73c0c4c"},
             VAL_JSON: {"size": 215_183, "md5": "900b24b7d6c0c48203e6244f45d65499"}}
_PUBLISHED_MD5 = {published["md5"] for published in PUBLISHED.values()}
_PHOTOS_URL = "http://vision.is.tohoku.ac.jp/chictopia2/photos.lmdb.tar"
_PHOTOS_MD5 = "a404789687fc3906d7d843942c802f53"
_SHOWN = 5  # names in an error
_PHOTO_PLACES = ("images", "photos.lmdb", "images.zip", "photos.zip")

# The last two are what generate wrote before it wrote classes.txt.
_CLASS_FILES = ("classes.txt", "classes.json", "labelmap.txt", OWN_FILE, MODANET_FILE)
MASK_ENDING = re.compile(r"(.+)[_.-](?:masks?|labels?|segs?|segm|segmentation|gt)", re.IGNORECASE)

_ANNOTATED = "annotated, so it belongs to labelled data"


# ModaNet

def find_modanet(source: str, annotations: str | None, images: str | None,
                 report: Callable[[str], None], name: str = TRAIN_JSON) -> tuple:
    """Return (annotations' path, photos' path): those given, else the ones under `source`.
    Annotations, the file `name`, are downloaded if they are missing in the default folder, or if
    there is only a Git-LFS pointer. Raises UserError, which names everything that is missing, what
    to fetch and where to put it."""
    problems = []
    try:
        path = Path(annotations or Path(source) / "annotations" / name)
        _provide(path, annotations is None, source, report)
        if path.is_file() and file_digest(path, "md5") not in _PUBLISHED_MD5:
            report(f"warning: {path} is none of ModaNet's published files: another version, or "
                   "other annotations")
    except UserError as error:
        problems.append(one_line(error))
    photos = images or next((Path(source) / place for place in _PHOTO_PLACES
                             if (Path(source) / place).exists()), None)
    if photos is None:
        problems.append(
            f"{source}: no photos there; fetch {_PHOTOS_URL} (about 40 GB, md5 {_PHOTOS_MD5}) and "
            f"unpack it to {Path(source) / 'photos.lmdb'}, or put files named like 0736001.jpg "
            f"into {Path(source) / 'images'}, or name another place with --images")
    if problems:
        raise UserError(". ".join(problems))
    return path, photos


def _provide(path, is_default_name, source, report):
    """Download missing annotations. Raise UserError if that is not possible."""
    start = b""
    if path.is_file():
        with open(path, "rb") as file:
            start = file.read(1024)  # the limit of a Git-LFS pointer
    if start.startswith(b"version https://git-lfs"):
        report(f"{path} is only a Git-LFS pointer, as a clone without git-lfs makes it; fetching "
               "the file itself")
        if path.name not in PUBLISHED:
            raise UserError(f"{path}: only a Git-LFS pointer, to a file of unknown address; run "
                            "git lfs pull in its clone, or name another file with --annotations")
        oid = re.search(rb"^oid sha256:([0-9a-f]{64})$", start, re.MULTILINE)
        size = re.search(rb"^size (\d{1,15})$", start, re.MULTILINE)
        _fetch(path, {"sha256": oid[1].decode(), "size": int(size[1])} if oid and size
               else PUBLISHED[path.name])
    elif is_default_name and not path.is_file():
        if Path(source) != Path(DEFAULT_SOURCE):
            raise UserError(f"{path}: no such file; fetch {ANNOTATIONS_URL + path.name} and put it "
                            "there, or name another file with --annotations")
        for name, expected in PUBLISHED.items():
            if not path.with_name(name).is_file():
                _fetch(path.with_name(name), expected)


def _fetch(path, expected):
    """Download one annotation file; `expected`: size and checksum."""
    try:
        download(ANNOTATIONS_URL + path.name, path, **expected)
    except UserError as error:
        raise UserError(f"{one_line(error)}; fetch it by hand and put it at {path}, or name "
                        "another file with --annotations") from None


# COCO

def find_coco(source: str | None, annotations: str | None, images: str | None,
              keypoints: str | None = None) -> tuple:
    """Return (annotations' path, photos' path) of a COCO set: those given, else found in `source`.
    Annotations are the only JSON file in annotations/, or else in `source`; photos are in images/,
    a zip or lmdb, or `source` itself. The given keypoint file, and one named as `extract` does, do
    not count. Raises UserError if there is no JSON file, or more than one."""
    if source is None and None in (annotations, images):
        raise UserError("give --annotations and --images, or --source for a folder that holds both")
    root = _existing_folder(source)
    if images is None:
        images = next((root / name for name in _PHOTO_PLACES if (root / name).exists()), root)
    if annotations is not None:
        return Path(annotations), images
    others = {(root / KEYPOINTS_FILE).resolve(), Path(keypoints or root).resolve()}
    there = next(filter(None, (
        [path for path in sorted(root.glob(pattern)) if path.resolve() not in others]
        for pattern in ("annotations/*.json", "*.json"))), [])
    if len(there) == 1:
        return there[0], images
    found = ", ".join(path.name for path in there[:_SHOWN]) + ", ..." * (len(there) > _SHOWN)
    raise UserError(f"{root}: {f'several JSON files ({found})' if there else 'no JSON file'} there "
                    "or in annotations/; name the COCO file with --annotations")


def _existing_folder(source):
    """Return --source as a Path, None if it is not given. Raise UserError if it is not a folder."""
    if source is not None and not Path(source).is_dir():
        raise UserError(f"{source}: no such folder")
    return Path(source) if source is not None else None


@dataclass
class Matched:
    """Image entries of an annotation file with their photos."""

    pairs: list = field(default_factory=list)  # [(Photo, key in the source)] by ids
    joined: int = 0  # ids that were joined with another id of the same photo
    reasons: dict = field(default_factory=dict)  # {id: why it is left out}
    # {kind: [instance, ...]} of photos that were found in unusual ways.
    remarks: dict = field(default_factory=lambda: collections.defaultdict(list))


def match_photos(photos: dict, source: object, untagged: bool = False) -> Matched:
    """Find the photos of the entries of {id: Photo} that have annotations; if `untagged`, of those
    that have none under any id. A file that several ids name is one photo: their annotations are
    joined, since otherwise it could be in both train and test. Other ids that lead to it are left
    out."""
    result, claims, annotated = Matched(), collections.defaultdict(list), set()
    for image_id, photo in sorted(photos.items()):
        if not untagged and not photo.is_annotated:
            result.reasons[image_id] = "no usable annotation"
            continue
        found = source.find(image_id, photo.file_name)
        if untagged and photo.instances:
            annotated.add(found.key)
            result.reasons[image_id] = _ANNOTATED
        elif found.key is None:
            result.reasons[image_id] = found.reason
        else:
            claims[found.key].append((photo, found))
    for key in annotated & claims.keys():
        result.reasons |= {photo.image_id: _ANNOTATED for photo, _ in claims.pop(key)}

    # If several ids claim a photo, it belongs to those that name it exactly.
    for key, claimants in claims.items():
        alike = len({photo.file_name for photo, _ in claimants}) == 1
        sure = claimants if alike else [claim for claim in claimants if claim[1].exact]
        owners = [photo for photo, _ in sure]
        ids = {photo.image_id for photo in owners}
        others = [photo.image_id for photo, _ in claimants if photo.image_id not in ids]
        result.reasons |= dict.fromkeys(others, "photo is that of another id, too")
        instances = tuple(itertools.chain.from_iterable(photo.instances for photo in owners))
        if len({(photo.width, photo.height) for photo in owners}) > 1:
            result.reasons |= dict.fromkeys(
                ids, "photo is listed under several ids with different sizes")
        elif len(instances) > MAX_INSTANCES:
            result.reasons |= dict.fromkeys(ids, TOO_MANY)
        elif owners:
            result.pairs.append((dataclasses.replace(owners[0], instances=instances), key))
            result.joined += len(owners) - 1
            for kind, instance in itertools.chain.from_iterable(found.remarks for _, found in sure):
                result.remarks[kind].append(instance)
    result.pairs.sort(key=lambda pair: pair[0].image_id)
    result.reasons = dict(sorted(result.reasons.items()))
    return result


# Masks

def find_masks(source: str | None, images: str | None, masks: str | None,
               classes: str | None) -> tuple[Path, Path, Path]:
    """Return (folder of photos, folder of masks, file of class names), as given or else in
    `source`. Raises UserError if one of them is not given, and `source` is not given either, or if
    `source` is only the folder of the photos or of the masks."""
    root, defaults = _existing_folder(source), (None, None, None)
    if root is not None:
        whole = root.parent
        if images is masks is None and any(root in (whole / a, whole / b) and (whole / a).is_dir()
                                           and (whole / b).is_dir() for a, b in PHOTOS_AND_MASKS):
            raise UserError(f"--source={source}: only a part of {whole}, where photos and masks "
                            f"are; give --source={whole}")
        pairs = [(root / a, root / b) for a, b in PHOTOS_AND_MASKS]
        lists = [root / name for name in _CLASS_FILES]
        defaults = (*next((pair for pair in pairs if all(map(Path.is_dir, pair))), (root, root)),
                    next(filter(Path.is_file, lists), lists[0]))
    found = [given if given is not None else default
             for given, default in zip((images, masks, classes), defaults)]
    if None in found:
        option = ("--images", "--masks", "--classes")[found.index(None)]
        raise UserError(f"give --source, or {option} too")
    return tuple(map(Path, found))


def match_masks(images: Path, masks: Path) -> tuple[dict, list]:
    """Return ({photo's name: mask's name}, skipped [{"id", "reason"}]). A mask has its photo's path
    apart from the suffix. An ending such as _mask, _label or _seg may follow, unless another mask
    has exactly the photo's name. If both are in one folder, the masks are its PNG files with such
    an ending, or else all its PNG files. Raises UserError if a folder is missing."""
    (photo_names, skipped), (mask_names, no_masks) = map(photo_sources.list_photos, (images, masks))
    # In one folder: which of the files are masks.
    if Path(images).resolve() == Path(masks).resolve():
        no_masks = []
        stems = _by_stem(photo_names)
        with_ending = [name for stem in stems for name in stems[stem]
                       if (ending := MASK_ENDING.fullmatch(stem)) and ending[1] in stems]
        mask_names = list(filter(_is_png, with_ending)) or list(filter(_is_png, photo_names)) \
            or with_ending
        are_masks = set(mask_names)
        photo_names = [name for name in photo_names if name not in are_masks]

    # Find the stem of the photo that each mask belongs to.
    photos_of, all_masks = _by_stem(photo_names), _by_stem(mask_names)
    skipped += [{**entry, "id": f"{Path(masks).name}/{entry['id']}"} for entry in no_masks]
    masks_of = collections.defaultdict(list)
    for stem, names in all_masks.items():
        pngs = list(filter(_is_png, names)) or names
        skipped += [{"id": f"{Path(masks).name}/{name}",
                     "reason": "no PNG, beside a mask that is one"}
                    for name in names if name not in pngs]
        ending = None if stem in photos_of else MASK_ENDING.fullmatch(stem)
        moved = ending and ending[1] in photos_of and ending[1] not in all_masks
        masks_of[ending[1] if moved else stem] += pngs

    pairs = {}
    for stem in sorted(photos_of.keys() | masks_of.keys()):
        names, others = photos_of.get(stem, []), masks_of.get(stem, [])
        if len(names) == len(others) == 1:
            pairs[names[0]] = others[0]
            continue
        reason = ("photo has no mask" if not others else "mask has no photo" if not names else
                  "several photos of one stem" if len(names) > 1 else
                  f"several masks of one stem ({', '.join(others)})")
        skipped += [{"id": name, "reason": reason} for name in names or others]
    return pairs, skipped


def _by_stem(names):
    """Return {path without its suffix, in Unicode's form NFC: names}."""
    stems = collections.defaultdict(list)
    for name in names:
        stems[unicodedata.normalize("NFC", name.rpartition(".")[0])].append(name)
    return stems


def _is_png(name):
    return name.lower().endswith(".png")


def listing_digest(images: Path, masks: Path, pairs: dict) -> str:
    """Return the md5 of the names and sizes of all matched files, which identifies a source."""
    lines = [json.dumps([photo, mask, (images / photo).stat().st_size,
                         (masks / mask).stat().st_size]) for photo, mask in pairs.items()]
    return hashlib.md5("".join(lines).encode()).hexdigest()


def sizes_digest(source: object, keys: list) -> str:
    """Return the md5 of the sizes of a source's photos, since other photos may have their names."""
    return hashlib.md5(json.dumps([source.size(key) for key in keys]).encode()).hexdigest()
