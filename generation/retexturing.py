"""Translate photos, or the garments of labelled pairs, with a CycleGAN.

    OUT/images/<photo>.png     in the photo's size
    OUT/sheet.png              photos above, then translated, then translated back
    OUT/retexturing.json       which network, direction and garment, and what is done

A folder of pairs also gets labels/, classes.txt and annotations/ as they are, overlays/, and
samples.jsonl, whose lines also record what was done to the pair. Pixels outside the garment stay
the pair's own, so that its labels remain valid. Pictures that cannot be read are left out
everywhere. A picture or label map that has changed is processed again.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from dnnlib import util
from dnnlib.data import channels, coco, pictures, pyramid
from dnnlib.data.class_list import FILE_NAME as CLASSES
from dnnlib.data.class_list import find_class
from dnnlib.data.labelled import (
    IMAGES,
    LABELS,
    check_one_class,
    pair_classes,
    pair_folders,
    read_label_png,
)
from dnnlib.data.photos import decode_photo
from dnnlib.util import UserError
from generation.labelling import OVERLAYS, find_photos, read_photos
from generation.pairs import SAMPLES, pair_digest, read_samples
from generation.resumable_folder import content_digest, open_resumable
from training.cycle.translator import CycleTranslator

RECORD, SHEET = "retexturing.json", "sheet.png"
ANNOTATIONS = "annotations"
SHOWN, COLUMNS, SIDE = 24, 8, 128  # photos per sheet and per row, and the side of their squares
_GREY = (pictures.GREY,) * 3


class _Garment(NamedTuple):
    """What is translated in a pair: labels of `names` among the pairs' `classes`."""

    classes: tuple[str, ...]
    names: Sequence[str]

    def numbers(self) -> list[int]:
        """Return its labels."""
        return [1 + self.classes.index(name) for name in self.names]

    def mask(self, labels: np.ndarray) -> np.ndarray:
        """Return where the garment is in a label map [h, w], bool [h, w, 1]."""
        return np.isin(labels, self.numbers())[..., None]


class _Photo(NamedTuple):
    """A photo to translate: its file, its pixels, the (width, height) in the file, and, for a pair,
    its label map."""

    file: Path
    rgb: np.ndarray
    size: tuple[int, int]
    labels: np.ndarray | None


def retexture_photos(translator: CycleTranslator, source: Path,
                     out: Path) -> tuple[int, int, list[str]]:
    """Translate all photos of a folder, except those that exist already; return how many were made,
    how many existed, and lines about those left out.

    Raises:
        UserError: the network was trained on garments alone; the folder has no photos; or as
            `open_resumable`, for `out`.
    """
    photos = find_photos(source)
    if translator.garment:
        raise UserError(f"--source={source}: {translator.path} translates "
                        f"{' and '.join(translator.garment)} alone and needs to know where that "
                        "is: give a folder of pairs (images/, labels/, classes.txt); a "
                        "segmentation network makes one of photos: generate.py --network=SEGMENTER "
                        f"--source={source} --out=maps, and copy the photos to maps/images")
    with _open_folder(translator, None, out) as folder:
        return _write_all(translator, photos, None, folder)


def retexture_pairs(translator: CycleTranslator, source: Path, names: Sequence[str],
                    out: Path) -> tuple[int, int, list[str]]:
    """Translate the garments of all pairs of a folder, or of shards; return the same as
    `retexture_photos`.

    Args:
        names: of the garments' classes; the pixels of all others stay as they are.

    Raises:
        UserError: the pairs have no such class or are not complete, or as `retexture_photos`.
    """
    folders, total = pair_folders(source), (0, 0, [])
    classes = pair_classes(*folders)
    garment = _Garment(classes, [find_class(name, classes, "--garment") for name in names])
    for pairs in folders:  # each has its own tables and record
        files, place = find_photos(pairs / IMAGES), out if pairs == source else out / pairs.name
        check_one_class(sorted((pairs / LABELS).glob("*.png")), classes)
        with _open_folder(translator, garment, place) as folder:
            part = _write_all(translator, files, garment, folder)
            done = {Path(name).stem for name in folder.done}
            _write_tables(pairs, {file.stem for file in (pairs / IMAGES).iterdir()} - done, place)
            _write_samples(translator, pairs, garment, folder)
        total = tuple(whole + own for whole, own in zip(total, part))
    return total


@contextlib.contextmanager
def _open_folder(translator, garment, out):
    with open_resumable(out, RECORD, "photos", _translation_settings(translator, garment),
                        {"path": str(translator.path)}) as folder:
        if not all(isinstance(value, list) and len(value) == 2 for value in folder.done.values()):
            raise UserError(f"{out / RECORD}: damaged; choose another folder")
        yield folder


def _write_all(translator, files, garment, folder):
    """Write photos, or the pictures of pairs with their labels. `folder.done` has [fingerprint,
    sha256 of a new pair's pixels] for each."""
    fingerprints, left_out = {file: _fingerprint(file, garment) for file in files}, {}
    missing = folder.begin(
        files, lambda file: file.name,
        lambda file: [fingerprints[file], folder.done.get(file.name, (None, None))[1]],
        lambda file: _results(folder.path, file, garment))
    for part in folder.minibatches(missing, translator.minibatch):
        photos = list(_read(part, garment, left_out))
        for photo, result in zip(photos, _translate(translator, photos, garment)):
            digest = _write(photo, result, garment, folder.path)
            folder.done[photo.file.name] = [fingerprints[photo.file], digest]
    for file in left_out:  # it may have been a picture in an earlier run
        for path in _results(folder.path, file, garment):
            path.unlink(missing_ok=True)
    if missing:
        shown = [file for file in files if file.name in folder.done][:SHOWN]
        _write_sheet(translator, list(_read(shown, garment, {})), garment, folder.path)
    return len(missing) - len(left_out), len(files) - len(missing), list(left_out.values())


def _fingerprint(file, garment):
    """Return what a photo's result is made of: the sha256 of its file and, for a pair, the sha256
    of the label map and the garment's labels."""
    fingerprint = {"picture": content_digest(file)}
    return fingerprint if garment is None else {
        **fingerprint, "label": content_digest(_label_map(file)), "garment": garment.numbers()}


def _read(files: Iterable[Path], garment, left_out: dict[Path, str]) -> Iterator[_Photo]:
    """Yield photos that can be read; add lines about the others to `left_out`."""
    for file, picture, size in read_photos(files, left_out):
        labels = None
        if garment:
            path = _label_map(file)
            labels = read_label_png(path, len(garment.classes))
            if labels.shape != picture.size[::-1]:
                raise UserError(f"{path}: {labels.shape[1]}x{labels.shape[0]} pixels, its picture "
                                f"has {picture.width}x{picture.height}")
        yield _Photo(file, np.asarray(picture), size, labels)


def _label_map(file):
    return file.parents[1] / LABELS / f"{file.stem}.png"


def _translate(translator, photos, garment, back=False):
    """Return translated photos; in a pair, only the garment is translated."""
    results = translator.translate([photo.rgb for photo in photos], back) if photos else []
    if garment is None:
        return results
    return [np.where(garment.mask(photo.labels), result, photo.rgb)
            for photo, result in zip(photos, results)]


def _write(photo, result, garment, out):
    """Write a translated photo; for a pair, also write the labels and the overlay, and return the
    sha256 of its pixels."""
    picture, *of_pair = _results(out, photo.file, garment)
    whole = Image.fromarray(result).resize(photo.size, Image.Resampling.LANCZOS)
    pictures.save_png(picture, np.asarray(whole))
    if garment is None:
        return None
    label_map, overlay = of_pair
    util.atomic_write(label_map, _label_map(photo.file).read_bytes())
    labels = np.where(photo.labels == channels.IGNORE, 0, photo.labels)
    pictures.save_png(overlay, pictures.overlay(result, labels, len(garment.classes)))
    return pair_digest(result, photo.labels)


def _results(out, file, is_pair):
    """Return the files written for a photo: the picture and, for a pair, labels and overlay."""
    return [out / kind / f"{file.stem}.png"
            for kind in ([IMAGES, LABELS, OVERLAYS] if is_pair else [IMAGES])]


def _write_sheet(translator, photos, garment, out):
    """Write a sheet of photos: each above its translation, and that translated back."""
    cells = []
    for photo in photos:
        picture, *_ = _results(out, photo.file, garment)
        result = np.asarray(decode_photo(picture.read_bytes()))
        back, = _translate(translator, [photo._replace(rgb=result)], garment, back=True)
        cells.append(np.concatenate([np.asarray(pyramid.fit_square(
            Image.fromarray(rgb), SIDE, "pad", _GREY)) for rgb in (photo.rgb, result, back)]))
    if cells:
        sheet = pictures.grey_sheet(np.stack(cells), min(COLUMNS, len(cells)))
        pictures.save_png(out / SHEET, sheet)
    else:
        (out / SHEET).unlink(missing_ok=True)


def _translation_settings(translator, garment):
    """Return what was done to photos, as JSON values."""
    return {"network": translator.digest, "direction": translator.direction,
            "garment": list(garment.names) if garment else [], "own_scale": translator.own_scale}


def _write_tables(pairs, left_out, out):
    """Write the classes and annotations of a folder of pairs, without the pictures `left_out`
    (names without suffix)."""
    for path in [pairs / CLASSES, *pairs.glob(f"{ANNOTATIONS}/*")]:
        if path.is_file():
            content = path.read_bytes()
            if path.suffix == ".json":
                content = _filter_annotations(left_out, path, content)
            util.atomic_write(out / path.relative_to(pairs), content)
    for name in (coco.MODANET_FILE, coco.OWN_FILE, coco.KEYPOINTS_FILE):
        if not (pairs / name).is_file():
            (out / name).unlink(missing_ok=True)  # from an earlier state of the pairs


def _filter_annotations(left_out, path, content):
    """Return the content of an annotation file for the pictures that are written: a COCO file names
    PNGs, and has no pictures that are left out."""
    table = util.read_json(path)
    if not isinstance(table, dict) or not {"images", "annotations"} <= table.keys():
        return content
    try:
        names = {image["id"]: Path(image["file_name"]) for image in table["images"]}
        gone = {number for number, name in names.items() if name.stem in left_out}
        written = {"images": [{**image, "file_name": f"{names[image['id']].with_suffix('.png')}"}
                              for image in table["images"] if image["id"] not in gone],
                   "annotations": [one for one in table["annotations"]
                                   if one["image_id"] not in gone]}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged COCO annotations ({util.one_line(error)})") from None
    if written.items() <= table.items():
        return content
    return json.dumps({**table, **written}, ensure_ascii=False).encode() + b"\n"


def _write_samples(translator, pairs, garment, folder):
    """Write samples.jsonl, if the pairs have one: their lines with the digest of the new pixels,
    and with what was done to them, after earlier re-texturings."""
    if not (pairs / SAMPLES).is_file():
        (folder.path / SAMPLES).unlink(missing_ok=True)
        return
    step, lines = {**_translation_settings(translator, garment), "path": str(translator.path)}, []
    for record in read_samples(pairs / SAMPLES):
        _, digest = folder.done.get(Path(record.get("image", "")).name, (None, None))
        if digest:
            lines.append(json.dumps({**record, "sha256": digest,
                                     "retextured": [*record.get("retextured", []), step]}))
    util.atomic_write(folder.path / SAMPLES, "".join(f"{line}\n" for line in lines))
