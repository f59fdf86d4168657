"""Write pictures of a generator for labelling, and import their labels.

    OUT/labelling.json         what is needed to make the pictures again
    OUT/seed0000.png           a picture
    OUT/labels/seed0000.png    its label map: palette indices, 0 background, 1..C the classes
    OUT/classes.txt            names of the classes 1..C
    OUT/teacher.json           if a teacher labelled some: which network, and which of the maps

The labels come from a segmentation network, the teacher, or from a person: index or colour PNGs in
a folder with a list of classes, as labelme's labelme2voc and CVAT's "Segmentation mask" write them,
or one COCO file. train.py --variant=decoder learns from OUT.
"""

import codecs
import collections
import dataclasses
import itertools
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dataprep import masks
from dataprep.coco.annotations import load_annotations
from dataprep.coco.segmentations import label_map_and_overlap
from dataprep.photo_sources import PhotoFolder
from dataprep.raw_files import MASK_ENDING
from dnnlib import util
from dnnlib.data import channels, pictures
from dnnlib.data.class_list import FILE_NAME as CLASSES
from dnnlib.data.class_list import read_class_list, write_class_list
from dnnlib.data.labelled import LABELS
from dnnlib.data.photo_names import IMAGE_SUFFIXES
from dnnlib.data.photos import PhotoError
from dnnlib.util import UserError
from generation.labelling import check_labelled_classes, find_photos, read_photos, write_maps
from generation.sheets import seed_pairs
from training.decoder.labels import FILE_NAME, Labelling, picture_digest, picture_name
from training.sampler import TRUNCATION_CUTOFF, Sampler
from training.segmentation.labeller import Labeller

# Where annotation tools put their masks and lists of classes, the most likely place first.
_MASK_FOLDERS = ("SegmentationClassPNG", "SegmentationClass", LABELS, "masks")
_CLASS_FILES = ("labelmap.txt", "class_names.txt", CLASSES, "labels.txt")

TEACHER = "teacher.json"
_FORMATS = ("give a COCO file, or a folder of PNG masks with a list of classes (CVAT: COCO 1.0, or "
            "Segmentation mask 1.1, unpacked; labelme: labelme2coco, or labelme2voc)")

LabelMaps = dict[str, np.ndarray]  # {name of the picture: label map uint8 [R, R]}


def write_pictures(sampler: Sampler, seeds: Sequence[int], out: Path, psi: float, noise: str,
                   minibatch: int) -> None:
    """Write the pictures of seeds, and what is needed to make them again; keep pictures of others.

    For a decoder's network, record its generator alone, on which other decoders are trained.

    Raises:
        UserError: the folder holds pictures of another network, or made in another way, or maps
            of other pictures; or another process is writing into it.
    """
    with util.lock_directory(out, "writing pictures into it"):
        there = _read_earlier(sampler, out, psi, noise)
        seeds, digests = tuple(dict.fromkeys(seeds)), {}
        for seed, rgb, _ in seed_pairs(sampler, seeds, psi, noise, minibatch):
            digests[picture_name(seed)] = picture_digest(rgb)
            pictures.save_png(out / picture_name(seed), rgb)
        if there is not None:
            seeds, digests = tuple(dict.fromkeys([*there.seeds, *seeds])), there.pictures | digests
        generator = sampler.generator
        Labelling(generator["path"], generator["digest"], sampler.resolution, sampler.fade, seeds,
                  psi, TRUNCATION_CUTOFF, noise, sampler.label, digests).write(out)


def _read_earlier(sampler, out, psi, noise):
    """Return the Labelling of the pictures that a folder has; None if it has none. Raise UserError
    as `write_pictures`."""
    if not (out / FILE_NAME).is_file():
        if any((out / LABELS).glob("*.png")):
            raise UserError(f"--out={out}: has label maps, but no {FILE_NAME}: they would count "
                            "as labels of the new pictures; choose another folder")
        return None
    # Earlier versions wrote the digest of a decoder's whole network.
    there, digests = Labelling.read(out), (sampler.generator["digest"], sampler.digest)
    how = there.trunc, there.noise, there.class_label
    if there.projected or there.digest not in digests or how != (psi, noise, sampler.label):
        raise UserError(
            f"--out={out}: has pictures to be labelled that were made in another way; choose "
            "another folder, or the same network, --trunc, --noise and --label")
    return there


def label_by_teacher(labeller: Labeller, folder: Path, minibatch: int) -> tuple[int, int]:
    """Write a segmentation network's label maps of a folder's pictures, but keep existing maps, its
    own or a person's; return how many were written, and how many existed.

    Raises:
        UserError: the folder has maps of another teacher, or labels of other classes; or a file in
            it is not one of the pictures.
    """
    names, photos = Labelling.read(folder).pictures, find_photos(folder, "--out")
    check_labelled_classes(folder, labeller.classes)
    if strangers := [path for path in photos if path.name not in names]:
        raise UserError(f"{strangers[0]}: not one of the pictures that are to be labelled")
    write_class_list(folder, labeller.classes)
    missing = [path for path in photos if not (folder / LABELS / path.name).is_file()]
    _record_teacher(labeller, folder, [path.name for path in missing])
    with util.progress(total=len(missing), desc="labels", unit="img") as bar:
        for start in range(0, len(missing), minibatch):
            unreadable = {}
            part = list(read_photos(missing[start:start + minibatch], unreadable))
            if unreadable:
                raise UserError(next(iter(unreadable.values())))
            write_maps(labeller, part, folder)
            bar.update(len(part))
    return len(missing), len(photos) - len(missing)


def _record_teacher(labeller, folder, missing):
    """Record the maps that a teacher is about to draw, so that none exists without its record;
    raise UserError if the folder has maps of another teacher."""
    before = _read_teacher(folder)
    drawn = [name for name in before["maps"] if (folder / LABELS / name).is_file()]
    if drawn and before["digest"] != labeller.digest:
        raise UserError(f"--teacher={labeller.path}: {folder / LABELS} has {len(drawn)} label maps "
                        f"of another teacher, {before['path']}; remove them to have new ones, give "
                        "that teacher, or choose another folder")
    if drawn or missing:
        util.write_json(folder / TEACHER, {"path": str(labeller.path), "digest": labeller.digest,
                                           "maps": sorted({*drawn, *missing})})


def _read_teacher(folder) -> dict:
    """Return what is recorded about the teacher of a folder: path, digest, and names of `maps`."""
    path = folder / TEACHER
    if not path.is_file():
        return {"path": None, "digest": None, "maps": []}
    record = util.read_json(path)
    if not isinstance(record, dict) or not {"path", "digest", "maps"} <= record.keys() or not (
            isinstance(record["maps"], list) and all(isinstance(n, str) for n in record["maps"])):
        raise UserError(f"{path}: damaged; choose another folder")
    return record


def import_labels(source: Path, folder: Path, report: Callable[[str], None]) -> int:
    """Write the labels of an annotation tool's export as label maps of a folder's pictures; return
    how many there are.

    Args:
        source: a COCO file, or a folder of PNG masks with a list of classes.
        folder: where `write_pictures` wrote.
        report: called with a line about everything that is left out, and about what masks mean.

    Raises:
        UserError: nothing can be used, or the meaning of the labels is uncertain.
    """
    labelling = Labelling.read(folder)
    read = _read_coco if source.is_file() else _read_masks
    classes, found = read(source, folder, labelling, report)
    if not found:
        raise UserError(f"{source}: has no labels for the pictures in {folder}; they are found by "
                        f"name, such as {next(iter(labelling.pictures))}")
    check_labelled_classes(folder, classes)
    for name in labelling.pictures:
        path = folder / LABELS / name
        if name not in found:
            report(f"{name}: no labels in {source}; the old ones stay, unless you remove {path}"
                   if path.is_file() else f"{name}: has no labels yet")
    teacher = _read_teacher(folder)
    for name, label_map in found.items():
        pictures.save_label_png(folder / LABELS / name, label_map, len(classes), may_ignore=True)
    write_class_list(folder, classes)
    if teacher["maps"]:  # those that were replaced are no longer the teacher's
        util.write_json(folder / TEACHER, teacher | {
            "maps": [name for name in teacher["maps"] if name not in found]})
    return len(found)


def _picture_of(file_name, labelling):
    """Return the picture that a file name refers to, whatever its folder, suffix (tools convert
    pictures) and Unicode form; None if there is none."""
    wanted = _nfc(Path(file_name.replace("\\", "/")).stem + ".png")
    return next((name for name in labelling.pictures if _nfc(name) == wanted), None)


def _nfc(text):
    return unicodedata.normalize("NFC", text)


def _read_coco(source, folder, labelling, report) -> tuple[Sequence[str], LabelMaps]:
    """Return the classes and label maps of a COCO file."""
    with open(source, "rb") as file:
        if file.read(100).removeprefix(codecs.BOM_UTF8).lstrip()[:1] not in (b"{", b"["):
            raise UserError(f"{source}: not JSON; {_FORMATS}")
    content, side, found = load_annotations(source, own=True), labelling.resolution, {}
    # Report what the reader left out; then read the photos, and report those left out here.
    for note in content.notes:
        report(note)
    for defect in content.defects:
        report(f"{source}: annotation {defect['annotation']}: {defect['reason']}: left out")
    for entry in content.skipped_images:
        report(f"{source}: image {entry['id']}: {entry['reason']}: left out")
    entries = collections.defaultdict(list)  # {file name: entries}: some tools list a photo twice
    for photo in content.photos.values():
        entries[photo.file_name].append(photo)
    owners = collections.Counter(_picture_of(file_name, labelling) for file_name in entries)
    for file_name, photos in entries.items():
        name, problem = _picture_of(file_name, labelling), None
        instances = itertools.chain.from_iterable(photo.instances for photo in photos)
        photo = dataclasses.replace(photos[0], instances=tuple(instances))
        sizes = {(photo.width, photo.height) for photo in photos}
        if name is None:
            problem = "no picture has this name"
        elif owners[name] > 1:
            problem = f"{owners[name]} names of files mean {name}"
        elif sizes != {(side, side)}:
            width, height = min(sizes - {(side, side)})
            problem = f"{width}x{height} pixels, its picture has {side}x{side}"
        elif not photo.instances:
            problem = "nothing is labelled in it"
        else:
            try:
                found[name] = label_map_and_overlap(photo, (side, side))[0]
            except PhotoError as error:
                problem = error
        if problem:
            report(f"{source}: {photo.file_name}: {problem}: left out")
    return content.classes, found


def _read_masks(source, folder, labelling, report) -> tuple[Sequence[str], LabelMaps]:
    """Return the classes and label maps of a folder of masks."""
    if not source.is_dir():
        raise UserError(f"--labels-from={source}: no such file or folder")
    # Find the masks, and the list that explains their numbers or colours.
    place = next((source / name for name in _MASK_FOLDERS if (source / name).is_dir()), source)
    keys = _mask_names(place)
    if not keys:
        raise UserError(f"{place}: has no PNGs; {_FORMATS}")
    listed = next((path for path in (
        *(parent / name for parent in (source, place) for name in _CLASS_FILES),
        folder / CLASSES) if path.is_file()), source / _CLASS_FILES[0])
    files = PhotoFolder(place)
    contents = masks.read_contents(files, keys, 1)
    classes, coding = masks.decide_coding(read_class_list(listed), contents, None, report,
                                          channels.IGNORE)
    numbered = ", ".join(f"{number} {name}" for number, name in enumerate(classes, 1))
    report(f"{listed}: 0 background, {numbered}")
    # Match masks with pictures by name.
    side, found = labelling.resolution, {}
    for key in keys:
        ending = MASK_ENDING.fullmatch(str(Path(key).with_suffix("")))
        name = _picture_of(key, labelling) or (ending and _picture_of(ending[1], labelling))
        try:
            if name is None:
                raise PhotoError("no picture has this name")
            if name in found:
                raise PhotoError(f"another mask of {name}")
            found[name] = masks.Mask(files, key, coding).label_map((side, side))
        except PhotoError as error:
            report(f"{place / key}: {error}: left out")
    return classes, found


def _mask_names(place):
    """Return the names of the PNGs below a folder, and of pictures in other formats of which there
    is no PNG, since they may be masks too."""
    files = [path.relative_to(place) for path in sorted(place.rglob("*"))
             if path.name[0] != "." and path.suffix.lower() in IMAGE_SUFFIXES]
    pngs = {path.with_suffix("") for path in files if path.suffix.lower() == ".png"}
    return [str(path) for path in files
            if path.suffix.lower() == ".png" or path.with_suffix("") not in pngs]
