"""A data set written out again as pictures: what other people's programs read.

    OUT/images/0000007.png      colours
    OUT/labels/0000007.png      palette indices: 0 background, 1..C
    OUT/classes.txt             the classes' names, one a line
    OUT/annotations/instances.json    COCO polygons of all pictures in the folder; of ModaNet's
                                classes modanet2018_instances_train.json
    OUT/images.jsonl            file, id in the data set and split of each
    OUT/labels.json             conditioning labels, where the data set has them
    OUT/extract.json            what it was made from

create_from_masks reads the first three, create_modanet the COCO file of ModaNet's classes,
create_from_coco that of others, and create_from_images images/ and labels.json.
"""

import collections
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from dataprep.report import open_records
from dnnlib import util
from dnnlib.data import channels, class_list, coco, dataset_info, pictures
from dnnlib.util import UserError

LISTING, STATE = "images.jsonl", "extract.json"
_PRESENT = 127  # a stored map shows its class where it is above half
_AHEAD = 64  # pictures under way


def extract(directory, out, split, resolution, say):
    """Write the pictures of a split, or of "all", at one resolution (None: the largest).

    Goes on where an earlier run of the same stopped. Raises UserError where there is no such split
    or resolution, or `out` holds something else.
    """
    info = dataset_info.open_dataset(directory)
    splits = [name for name, size in info.splits.items() if size] if split == "all" else [split]
    files = {name: open_records(info, name, resolution) for name in splits}
    entries = [entry for entry in _entries(info) if entry["split"] in splits]
    out = Path(out)
    state = {"digest": info.digest, "split": split, "resolution": resolution or info.resolution}
    with util.only_process(out, "extracting into it"):
        _open_folder(out, state)
        missing = [entry for entry in entries if not all(
            (out / name).is_file() for name in _names(entry, info.classes))]
        with util.progress(total=len(missing), desc="extracting", unit="img") as bar:
            for _ in _written(out, files, missing, info.classes):
                bar.update()
        _write_tables(out, info, entries)
    say(f"{out}: {len(missing)} images written, {len(entries) - len(missing)} were there already")


def _entries(info):
    """[{"file", "id", "split", "number", "record"}] of all images of a data set.

    `number` names the files: the id where all ids are distinct whole numbers, as ModaNet's are, or
    else the place in the data set, the same whatever split is written.
    """
    ids = util.read_json(info.path / dataset_info.FILE_NAME)["splits"]
    entries = [{"id": image_id, "split": split, "record": record}
               for split in ids for record, image_id in enumerate(ids[split])]
    numbers = [entry["id"] for entry in entries]
    if not all(type(number) is int and 0 <= number < 2**53 for number in numbers) \
            or len(set(numbers)) < len(numbers):
        numbers = range(len(entries))
    return [{"file": f"{number:07d}.png", **entry, "number": number}
            for number, entry in zip(numbers, entries)]


def _open_folder(out, state):
    """Make a folder ready. Raises UserError where it holds other things."""
    there = {path.name for path in out.iterdir()}
    if there and STATE not in there:
        raise UserError(f"--out={out}: holds files, but no {STATE}; choose a new folder")
    if there and util.read_json(out / STATE) != state:
        raise UserError(f"--out={out}: holds another data set, split or resolution; choose a new "
                        "folder")
    util.write_json(out / STATE, state)
    for path in out.glob("*/.*.tmp"):  # of a run that was killed
        path.unlink()


def _names(entry, classes):
    """Files of one image."""
    return [f"{folder}/{entry['file']}" for folder in ("images", *(["labels"] if classes else []))]


def _written(out, files, entries, classes):
    """Write the pictures of `entries` in threads, which compress outside the interpreter's lock;
    yield once for each, in order."""
    pending = collections.deque()
    with ThreadPoolExecutor() as pool:
        for entry in entries:
            image = files[entry["split"]].read_image(entry["record"])
            pending.append(pool.submit(_write_image, out, entry, image, classes))
            if len(pending) > _AHEAD:
                yield pending.popleft().result()
        yield from (future.result() for future in pending)


def _write_image(out, entry, image, classes):
    """Write the files of one image uint8 [3 + C, H, W]."""
    image = image.transpose(1, 2, 0)
    pictures.save_png(out / "images" / entry["file"], image[..., channels.RGB])
    if classes:
        labels = channels.to_label_map(image[..., channels.SEGMAPS], _PRESENT)
        pictures.save_label_png(out / "labels" / entry["file"], labels, len(classes))


def _write_tables(out, info, entries):
    """Write what concerns all pictures together; the COCO file is read from their label maps."""
    lines = [json.dumps({key: entry[key] for key in ("file", "id", "split")}) + "\n"
             for entry in entries]
    util.atomic_write(out / LISTING, "".join(lines))
    if info.label_size:
        tables = {split: dataset_info.read_labels(info.path, split)
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
        coco.write_coco(path, info.classes, _label_maps(out, entries),
                        f"extracted from {info.name}")


def _label_maps(out, entries):
    """Yield (image id, file name, label map) of each picture."""
    for entry in util.progress(entries, desc="annotations", unit="img"):
        with Image.open(out / "labels" / entry["file"]) as picture:
            yield entry["number"], entry["file"], np.asarray(picture)
