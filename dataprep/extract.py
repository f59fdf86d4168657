"""Write a data set out as pictures and lists that other programs read.

    OUT/images/0000007.png      colours
    OUT/labels/0000007.png      palette indices: 0 background, 1..C
    OUT/classes.txt             the classes' names, one per line
    OUT/annotations/instances.json    COCO polygons; for ModaNet's classes
                                modanet2018_instances_train.json
    OUT/images.jsonl            file, id in the data set and split of each image
    OUT/labels.json             conditioning labels, if the data set has any
    OUT/annotations/person_keypoints.json   COCO keypoints, if it has any
    OUT/pairs.csv               pairs of photos of one person, if it has any
    OUT/extract.json            what the folder was made from

Each create command reads the files that concern it.
"""

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path

from dnnlib import util
from dnnlib.data import class_list, coco, dataset, keypoints, pictures
from dnnlib.process_pool import threaded_map
from dnnlib.util import UserError

LISTING, STATE = "images.jsonl", "extract.json"


def extract(directory: str | Path, out: str | Path, split: str, resolution: int | None,
            report: Callable[[str], None]) -> None:
    """Write the pictures of a split, or of "all", at one resolution (None: the largest); continue
    where an earlier run stopped. Raises UserError if there is no such split or resolution, or `out`
    contains something else."""
    info = dataset.open_dataset(directory)
    splits = [name for name, size in info.splits.items() if size] if split == "all" else [split]
    files = {name: dataset.open_split(info, name, resolution) for name in splits}
    entries = [entry for entry in _entries(info) if entry["split"] in splits]
    out = Path(out)
    state = {"digest": info.digest, "split": split, "resolution": resolution or info.resolution}
    # Existing pictures are complete: each is written to a temporary file, then renamed.
    with util.lock_directory(out, "extracting into it"):
        there = {path.name for path in out.iterdir()}
        if there and STATE not in there:
            raise UserError(f"--out={out}: holds files, but no {STATE}; choose a new folder")
        if there and util.read_json(out / STATE) != state:
            raise UserError(f"--out={out}: holds another data set, split or resolution; choose a "
                            "new folder")
        util.write_json(out / STATE, state)
        util.remove_leftovers(out, ["*/.*.tmp", ".*.tmp"])
        folders = ["images", "labels"] if info.classes else ["images"]
        missing = [entry for entry in entries if not all(
            (out / folder / entry["file"]).is_file() for folder in folders)]
        written = threaded_map(functools.partial(_write_image, out, files, info.classes), missing,
                               os.cpu_count() or 1)
        for _ in util.progress(written, total=len(missing), desc="extracting", unit="img"):
            pass
        _write_tables(out, info, entries)
        if info.keypoints:
            _write_people(out, info, entries, resolution or info.resolution)
    report(f"{out}: {len(missing)} images written, {len(entries) - len(missing)} were there "
           "already")


def _entries(info):
    """Return [{"file", "id", "split", "number", "record"}] of all images of a data set. `number`
    names the files: the id if all ids are distinct whole numbers, else the place in the data set.
    """
    ids = util.read_json(info.path / dataset.FILE_NAME)["splits"]
    entries = [{"id": image_id, "split": split, "record": record}
               for split in ids for record, image_id in enumerate(ids[split])]
    numbers = [entry["id"] for entry in entries]
    if not all(type(number) is int and 0 <= number < 2**53 for number in numbers) \
            or len(set(numbers)) < len(numbers):
        numbers = range(len(entries))
    return [{"file": f"{number:07d}.png", **entry, "number": number}
            for number, entry in zip(numbers, entries)]


def _write_image(out, files, classes, entry):
    """Write the files of one image."""
    rgb, labels = files[entry["split"]].read_pair(entry["record"])
    pictures.save_png(out / "images" / entry["file"], rgb)
    if classes:
        pictures.save_label_png(out / "labels" / entry["file"], labels, len(classes))


def _write_tables(out, info, entries):
    """Write the files that describe all pictures; the COCO file is made from their label maps."""
    util.atomic_write(out / LISTING, "".join(
        json.dumps({key: entry[key] for key in ("file", "id", "split")}) + "\n"
        for entry in entries))
    if info.label_size:
        tables = {split: dataset.read_labels(info.path, split)
                  for split in {entry["split"] for entry in entries}}
        rows = [[entry["file"], tables[entry["split"]][entry["record"]].tolist()]
                for entry in entries]
        util.write_json(out / "labels.json", {"labels": rows})
    if not info.classes:
        return
    class_list.write_class_list(out, info.classes)
    coco.rename_annotations(out, info.classes)
    path = coco.annotations_path(out, info.classes)
    if not path.exists():
        maps = ((entry["number"], entry["file"], pictures.read_png(out / "labels" / entry["file"]))
                for entry in util.progress(entries, desc="annotations", unit="img"))
        coco.write_coco(path, info.classes, maps, f"extracted from {info.name}")


def _write_people(out, info, entries, resolution):
    """Write the keypoints of all pictures, in pixels, and the pairs of pictures of one person."""
    splits = dict.fromkeys(entry["split"] for entry in entries)
    points = {split: keypoints.read_keypoints(info.path, split) for split in splits}
    items = ((entry["number"], entry["file"], (resolution, resolution),
              points[entry["split"]][entry["record"]] * (resolution, resolution, 1))
             for entry in entries)
    coco.write_keypoints(out / coco.KEYPOINTS_FILE, info.keypoints, info.skeleton, items,
                         f"extracted from {info.name}")
    files = {(entry["split"], entry["record"]): entry["file"] for entry in entries}
    rows = [(files[split, a], files[split, b]) for split in splits
            for a, b in keypoints.read_pairs(info.path, split).tolist()]
    if rows:
        util.atomic_write(out / "pairs.csv", "from,to\n" + "".join(f"{a},{b}\n" for a, b in rows))
