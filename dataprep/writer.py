"""Workers, order, splits, interruption; the record files and dataset.json.

A data set is written below `<out>/.partial` and moved into place when it is whole; `dataset.json` comes last, so that
a folder without it is unfinished.
"""

import collections
import concurrent.futures
import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataprep import annotations, pyramid, sources
from dnnlib import channels, util
from dnnlib.tflib import tfrecords

FORMAT_VERSION = 1
SPLITS = ("train", "val", "test")
_PARTIAL = ".partial"
_PROBES = 12  # photos converted to project size and time


@dataclass(frozen=True)
class Item:
    """One photo to convert: its id in the data set, its key in the source, its annotations or None."""

    image_id: int | str
    key: str
    photo: annotations.Photo | None = None


@dataclass(frozen=True)
class Recipe:
    """Everything besides the item that determines a record's bytes. Sent to the workers."""

    source: sources.PhotoFolder | sources.PhotoLmdb
    classes: tuple
    resolution: int
    fit: str
    encoding: str


@dataclass(frozen=True)
class Converted:
    """A converted item: framed records by level, hash of the top level's pixels, area share by class."""

    records: dict
    digest: bytes
    shares: tuple


def convert(recipe, item):
    """Item -> Converted. Raises sources.PhotoError where this photo cannot be used."""
    photo = sources.decode_photo(recipe.source.read(item.key))
    labels = _labels(item.photo, photo.size) if recipe.classes else None
    image = pyramid.build_image(photo, labels, len(recipe.classes), recipe.resolution, recipe.fit)
    records = {level: tfrecords.frame(tfrecords.encode_record(plane, recipe.encoding))
               for level, plane in pyramid.levels(image, tfrecords.MIN_LEVEL)}
    shares = image[channels.SEGMAPS].mean(axis=(1, 2), dtype=np.float64) / 255
    return Converted(records, hashlib.sha256(image.tobytes()).digest(), tuple(shares.tolist()))


def _labels(entry, size):
    """The label map of a photo of `size`; annotations are scaled where both sizes have one shape."""
    width, height = entry.width, entry.height
    if abs(width * size[1] - height * size[0]) > 0.02 * width * size[1]:
        raise sources.PhotoError(f"photo is {size[0]}x{size[1]}, its annotations are for {width}x{height}")
    return annotations.label_map(entry.instances, width, height, size)


def choose_splits(ids, num_val, num_test, seed):
    """{split: [ids]}: a seeded order, cut into validation, test and the rest, train."""
    if num_val + num_test > len(ids):
        raise util.UserError(f"--num-val={num_val} and --num-test={num_test} ask for more than the "
                             f"{len(ids)} photos there are")
    order = np.random.default_rng(seed).permutation(len(ids))
    shuffled = [ids[i] for i in order]
    return {"train": shuffled[num_val + num_test:], "val": shuffled[:num_val],
            "test": shuffled[num_val:num_val + num_test]}


# ---------------------------------------------------------------------------------------------
# Workers. They import no TensorFlow, and only the parent writes.

_recipe = None


def _start_worker(recipe):
    global _recipe
    _recipe = recipe


def _work(item):
    try:
        return convert(_recipe, item)
    except sources.PhotoError as error:
        return str(error)


def convert_all(recipe, items, workers):
    """Yield (item, Converted or the reason against it) in the order of `items`, in bounded memory."""
    if workers == 1:
        _start_worker(recipe)
        yield from ((item, _work(item)) for item in items)
        return
    pending = collections.deque()
    with concurrent.futures.ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), _start_worker, (recipe,)) as pool:
        try:
            for item in items:
                pending.append((item, pool.submit(_work, item)))
                if len(pending) >= 4 * workers:
                    done, future = pending.popleft()
                    yield done, future.result()
            for done, future in pending:
                yield done, future.result()
        except concurrent.futures.process.BrokenProcessPool:
            raise util.UserError("a worker process died (out of memory?); "
                                 "run again, with fewer --workers") from None
        finally:
            pool.shutdown(cancel_futures=True)


def project(recipe, items):
    """(bytes per photo, seconds per photo on one core) from a few photos spread over `items`."""
    sample = [items[i] for i in np.unique(np.linspace(0, len(items) - 1, _PROBES).astype(int))]
    started, sizes = time.perf_counter(), []
    for _, result in convert_all(recipe, sample, workers=1):
        if isinstance(result, Converted):
            sizes.append(sum(len(record) for record in result.records.values()))
    seconds = time.perf_counter() - started
    return (float(np.mean(sizes)) if sizes else 0.0), seconds / len(sample)


# ---------------------------------------------------------------------------------------------
# Writing.

def check_target(out, options):
    """True where `out` already holds this very data set. Removes what an interrupted run has left.

    Raises UserError where it holds another one.
    """
    out = Path(out)
    if not (out / "dataset.json").exists():
        return False
    old = util.read_json(out / "dataset.json").get("options", {})
    different = sorted(key for key in old.keys() | options.keys() if old.get(key) != options.get(key))
    if different:
        listed = ", ".join(f"{key} {old.get(key)!r} there, {options.get(key)!r} asked" for key in different)
        raise util.UserError(f"{out}: a finished data set with other options is there ({listed}); "
                             "choose another --out, or delete that folder")
    return True


def write_dataset(out, recipe, splits, skipped, options, workers):
    """Convert `splits` {split: [Item]} into `out` and return the content of its dataset.json.

    `skipped` [{"id", "reason"}] are photos already left out; it grows by the unreadable ones. Raises UserError where
    the disk is full or nothing could be converted.
    """
    out = Path(out)
    work = out / _PARTIAL
    shutil.rmtree(work, ignore_errors=True)
    for split in SPLITS:
        if (out / split).is_dir():
            _remove_unfinished(out / split)
    work.mkdir(parents=True)
    try:
        written, counts, digest = _write_splits(work, recipe, splits, skipped, workers)
        lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in skipped)
        util.atomic_write(out / "skipped.jsonl", lines)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise util.UserError(f"{out}: the disk is full; free some space and run the same command "
                             "again (the unfinished files are replaced)") from None
    if not any(written.values()):
        raise util.UserError(f"{out}: none of the photos could be converted; "
                             f"{out / 'skipped.jsonl'} has the reasons")
    for split in splits:
        if written[split]:
            os.replace(work / split, out / split)
    content = {
        "format_version": FORMAT_VERSION, "complete": True, "name": out.resolve().name,
        "resolution": recipe.resolution, "num_channels": channels.num_channels(recipe.classes),
        "classes": list(recipe.classes), "encoding": recipe.encoding, "splits": written,
        "class_counts": counts, "options": options, "digest": digest, "skipped": len(skipped)}
    shutil.rmtree(work)
    util.write_json(out / "dataset.json", content)
    return content


def _remove_unfinished(folder):
    """Remove a split folder of an unfinished data set. Refuses to remove anything but record files."""
    foreign = [p.name for p in folder.iterdir() if not p.name.endswith(".tfrecords")]
    if foreign:
        raise util.UserError(f"{folder}: in the way, and not ours ({foreign[0]} is in it); "
                             "choose another --out or move it")
    shutil.rmtree(folder)


def _write_splits(work, recipe, splits, skipped, workers):
    """Write all record files. Returns ({split: [ids]}, {split: class counts}, digest)."""
    items = [(split, item) for split in splits for item in splits[split]]
    written = {split: [] for split in splits}
    totals = {split: np.zeros((2, len(recipe.classes))) for split in splits}
    digest = hashlib.sha256(json.dumps(list(recipe.classes)).encode())
    files = _SplitFiles(work, recipe.resolution)
    with files, util.progress(total=len(items), desc="converting", unit="photo") as bar:
        results = convert_all(recipe, [item for _, item in items], workers)
        for (split, _), (item, result) in zip(items, results):
            bar.update()
            if isinstance(result, str):
                skipped.append({"id": item.image_id, "reason": result})
                continue
            files.write(split, result.records)
            written[split].append(item.image_id)
            totals[split] += [np.greater(result.shares, 0), result.shares]
            digest.update(f"{split} {item.image_id} ".encode() + result.digest)
    counts = {split: _class_counts(recipe.classes, totals[split], len(written[split])) for split in splits}
    return written, counts, digest.hexdigest()


def _class_counts(classes, totals, num_photos):
    """{class: {"images": photos that show it, "pixels": mean share of the area}}."""
    return {name: {"images": int(images), "pixels": round(share / max(num_photos, 1), 6)}
            for name, images, share in zip(classes, *totals)}


class _SplitFiles:
    """The open record files of one split at a time."""

    def __init__(self, work, resolution):
        self._work = work
        self._levels = range(tfrecords.MIN_LEVEL, resolution.bit_length())
        self._split, self._files = None, {}

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for file in self._files.values():
            file.close()
        self._files = {}

    def write(self, split, records):
        """Append one image's framed records {level: bytes}. The splits come one after another."""
        if split != self._split:
            self.__exit__()
            (self._work / split).mkdir()
            self._split = split
            self._files = {level: open(self._work / split / f"{split}-r{level:02d}.tfrecords", "xb")
                           for level in self._levels}
        for level, file in self._files.items():
            file.write(records[level])
