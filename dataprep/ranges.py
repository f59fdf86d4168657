"""Convert photos in ranges, each by a single worker: the elements of an Apache Beam pipeline.

    FOLDER/000007.items    the photos of a range for its worker: JSON [[key, photo], ...], of Items
    FOLDER/000007          their results, written to a temporary file and renamed when complete

The file of results has a line of JSON for each photo, followed by its records. The writer reads the
ranges in order, as it reads the results of processes, so its output does not depend on which
workers made them, how often, or in which order. Workers must have the photos and FOLDER under the
same paths as this process.
"""

import contextlib
import functools
import itertools
import json
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dataprep.coco.segmentations import Instance, Photo
from dataprep.conversion import ConversionSpec, Converted, Item, convert_or_reason
from dataprep.masks import Coding, Mask
from dataprep.photo_sources import PhotoFolder
from dataprep.side_by_side import SideBySide
from dnnlib import util
from dnnlib.process_pool import reuse_freed_memory
from dnnlib.util import UserError

if TYPE_CHECKING:  # it imports Apache Beam, which need not be installed
    from dnnlib.beam_runner import BeamRunner

PHOTOS = 256  # in a range; a multiple of the writer's checkpoints
_NAME, _NAMES = "{:06d}", "[0-9]" * 6
_LOOK = 1.0  # seconds between updates of the progress


def convert_ranges(runner: "BeamRunner", folder: Path, spec: ConversionSpec, items: Sequence[Item],
                first: int, report: Callable[[str], None]) -> Iterator[Converted | str]:
    """Convert `items` from number `first` on with a runner's workers, unless they are converted
    already; return an iterator as `conversion.convert_all` does. It removes each range once read.

    Raises UserError if the runner fails.
    """
    folder = folder.absolute()
    folder.mkdir(exist_ok=True)
    util.remove_leftovers(folder, [".*.tmp"])
    numbers = range(first // PHOTOS, -(-len(items) // PHOTOS)) if first < len(items) else range(0)
    missing = [number for number in numbers if not (folder / _NAME.format(number)).exists()]
    if len(missing) < len(numbers):
        report(f"{len(numbers) - len(missing)} of {len(numbers)} ranges of {PHOTOS} photos are "
               "converted already")
    # Not in the pipeline: Beam takes minutes to compress the polygons of ten thousand photos.
    for number in missing:
        pairs = [(item.key, item.photo and asdict(item.photo))
                 for item in items[number * PHOTOS:(number + 1) * PHOTOS]]
        util.atomic_write(_items_path(folder, number), json.dumps(pairs, default=_plain))
    with _progress(folder, len(numbers)):
        if missing:
            runner.run(functools.partial(_start_worker, spec, folder), missing)
    for number in numbers:
        if not (folder / _NAME.format(number)).exists():
            raise UserError(f"{folder / _NAME.format(number)}: no worker has made this range; run "
                            "the same command again")
    return itertools.islice(_read_all(folder, numbers, len(items)), first % PHOTOS, None)


def _items_path(folder, number):
    return folder / f"{_NAME.format(number)}.items"


@contextlib.contextmanager
def _progress(folder, total):
    """Show how many of the ranges are done."""
    ended = threading.Event()

    def watch():
        with util.progress(total=total, desc="converting", unit="range") as bar:
            while not ended.wait(_LOOK):
                bar.update(len(list(folder.glob(_NAMES))) - bar.n)
            bar.update(len(list(folder.glob(_NAMES))) - bar.n)
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


# The photos of a range

def _plain(value):
    """Return a field of a photo that JSON cannot represent as lists or text."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, bytes):  # run lengths
        return value.decode()
    return sorted(value) if isinstance(value, frozenset) else os.fspath(value)


def _read_photo(entry):
    """Return an Item's photo from its fields, which determine its class."""
    if "instances" in entry:
        instances = tuple(Instance(part["label"], tuple(map(np.float64, part["polygons"])),
                                   part["mask"]) for part in entry["instances"])
        points = entry["keypoints"]
        return Photo(**{**entry, "instances": instances,
                        "keypoints": None if points is None else np.float64(points)})
    if "coding" in entry:
        return Mask(PhotoFolder(Path(entry["source"]["path"])), entry["key"],
                    Coding(**entry["coding"]))
    return SideBySide(**entry)


# In a worker

def _start_worker(spec, folder):
    """Return the function that converts a range, given its number."""
    reuse_freed_memory()
    return functools.partial(_convert_range, spec, folder)


def _convert_range(spec, folder, number):
    """Convert one range, unless that is done."""
    path = folder / _NAME.format(number)
    if path.exists():
        return
    pairs = util.read_json(_items_path(folder, number))
    temporary = folder / f".{path.name}.{uuid.uuid4().hex}.tmp"  # pids may repeat on other machines
    try:
        with open(temporary, "wb") as file:
            for key, photo in pairs:  # the parts of an Item that determine a record
                item = Item(None, key, photo and _read_photo(photo))
                _write_result(file, convert_or_reason(spec, item))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# The file of a range

def _write_result(file, result):
    """Write the result of one photo."""
    if isinstance(result, Converted):
        entry = {**asdict(result), "digest": result.digest.hex(),
                 "records": {level: len(record) for level, record in result.records.items()},
                 "points": None if result.points is None else result.points.tolist()}
        parts = result.records.values()
    else:
        entry, parts = {"reason": result}, ()
    file.write(json.dumps(entry).encode() + b"\n" + b"".join(parts))


def _read_all(folder, numbers, num_items):
    """Yield the results of ranges; remove each range when the reader asks for the next one."""
    for number in numbers:
        path = folder / _NAME.format(number)
        with open(path, "rb") as file:
            for _ in range(min(PHOTOS, num_items - number * PHOTOS)):
                yield _read_result(file, path)
        path.unlink()


def _read_result(file, path):
    """Return the result of the next photo. Raises UserError if the file is damaged."""
    try:
        entry = json.loads(file.readline())
        if "reason" in entry:
            return entry["reason"]
        records = {int(level): file.read(size) for level, size in entry["records"].items()}
        if [len(record) for record in records.values()] != list(entry["records"].values()):
            raise ValueError("cut short")
        points = entry["points"]
        return Converted(**{**entry, "records": records, "digest": bytes.fromhex(entry["digest"]),
                            "shares": tuple(entry["shares"]), "size": tuple(entry["size"]),
                            "points": None if points is None else np.float32(points)})
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({util.one_line(error)[:80]}); delete it and run the "
                        "same command again: it continues") from None
