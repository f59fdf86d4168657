"""Order, splits, interruption; the record files and dataset.json.

A data set is written below `<out>/.partial` and moved into place when it is whole. dataset.json
comes last: a folder without it is unfinished, and is made anew by the same command.
"""

import contextlib
import errno
import functools
import hashlib
import io
import json
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dataprep import annotations, masks, photos, pyramid, sources
from dataprep.workers import ordered_map
from dnnlib import channels, dataset_info, util
from dnnlib.tflib import tfrecords

SPLITS = ("train", "val", "test")
SKIPPED = "skipped.jsonl"
_PARTIAL = ".partial"
_PROBES = 12  # photos converted to project size and time


@dataclass(frozen=True)
class Item:
    """One photo to convert: its id in the data set, its key in the source, its annotations or mask,
    its conditioning label, float32 [label_size]."""

    image_id: int | str
    key: str
    photo: annotations.Photo | masks.Mask | None = None
    label: np.ndarray | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Recipe:
    """What, besides the item, determines a record's bytes, and the length of the items' labels (0:
    they have none). It is sent to the workers."""

    source: sources.PhotoFolder | sources.PhotoLmdb
    classes: tuple
    resolution: int
    fit: str
    encoding: str
    label_size: int = 0


@dataclass(frozen=True)
class Converted:
    """A converted item: framed records by level, hash of the top level, area share by class."""

    records: dict
    digest: bytes
    shares: tuple


def convert(recipe, item):
    """Item -> Converted. Raises photos.PhotoError where this photo cannot be used."""
    photo = photos.decode_photo(recipe.source.read(item.key))
    labels = _labels(item.photo, photo.size) if recipe.classes else None
    image = pyramid.build_image(photo, labels, len(recipe.classes), recipe.resolution, recipe.fit)
    records = {level: tfrecords.frame(tfrecords.encode_record(smaller, recipe.encoding))
               for level, smaller in pyramid.levels(image, tfrecords.MIN_LEVEL).items()}
    shares = image[channels.SEGMAPS].mean(axis=(1, 2), dtype=np.float64) / 255
    return Converted(records, hashlib.sha256(image.tobytes()).digest(), tuple(shares.tolist()))


def _labels(photo, size):
    """The label map of a picture of `size`. Raises PhotoError where annotations are not for it."""
    if isinstance(photo, masks.Mask):
        return photo.label_map(size)
    if abs(photo.width * size[1] - photo.height * size[0]) > 0.02 * photo.width * size[1]:
        raise photos.PhotoError(f"photo is {size[0]}x{size[1]}, its annotations are for "
                                 f"{photo.width}x{photo.height}")
    return annotations.label_map(photo, size)


def check_splits(num_val, num_test, num_items):
    """Raise UserError where nothing would be left for training."""
    if num_val + num_test >= num_items:
        raise util.UserError(f"{num_val} validation and {num_test} test photos leave none of the "
                             f"{num_items} for training; ask for fewer (--num-val, --num-test)")


def choose_splits(items, num_val, num_test, seed):
    """{split: items}: a seeded order, cut into validation, test and the rest, train.

    Raises UserError where there are too few items.
    """
    check_splits(num_val, num_test, len(items))
    order = np.random.default_rng(seed).permutation(len(items))
    shuffled = [items[i] for i in order]
    return {"train": shuffled[num_val + num_test:], "val": shuffled[:num_val],
            "test": shuffled[num_val:num_val + num_test]}


def convert_all(recipe, items, workers):
    """Yield Converted, or the reason (str) against it, for each item in order."""
    return ordered_map(functools.partial(_convert_or_reason, recipe), items, workers)


def _convert_or_reason(recipe, item):
    try:
        return convert(recipe, item)
    except photos.PhotoError as error:
        return str(error)


def project(recipe, items):
    """(bytes, seconds on one core) for a photo, from a few of `items`, evenly spread."""
    sample = [items[i] for i in np.unique(np.linspace(0, len(items) - 1, _PROBES).astype(int))]
    started = time.perf_counter()
    sizes = [sum(map(len, result.records.values()))
             for result in convert_all(recipe, sample, workers=1) if isinstance(result, Converted)]
    seconds = (time.perf_counter() - started) / len(sample)
    return (float(np.mean(sizes)) if sizes else 0.0), seconds


# Writing

def is_finished(out, options):
    """True where `out` holds this very data set, finished; False where it holds none.

    Raises UserError where it holds a finished one made with other options.
    """
    path = Path(out) / dataset_info.FILE_NAME
    if not path.exists():
        return False
    dataset_info.open_dataset(out)
    there = util.read_json(path).get("options", {})
    different = [f"{key} is {there.get(key)!r}, not {options.get(key)!r}"
                 for key in sorted(there.keys() | options.keys())
                 if there.get(key) != options.get(key)]
    if different:
        raise util.UserError(f"{out} holds a finished data set made in another way "
                             f"({'; '.join(different)}); choose another --out or delete it")
    return True


def write_dataset(out, recipe, splits, skipped, options, workers):
    """Convert `splits` {split: [Item]} into the folder `out`; returns what dataset.json says.

    `skipped` [{"id", "reason"}] lists photos left out before; the unreadable ones are added to it.
    Raises UserError where the disk is full, nothing could be converted, or another process is at
    work in `out`.
    """
    out = Path(out)
    with util.only_process(out, "making this data set"), _explain_full_disk(out):
        _remove_unfinished(out)
        work = out / _PARTIAL
        work.mkdir()
        ids, counts, digest = _write_splits(work, recipe, splits, skipped, workers)
        lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in skipped]
        util.atomic_write(out / SKIPPED, "".join(lines))
        if not ids["train"]:
            raise util.UserError(f"{out}: no training photo could be converted; "
                                 f"{out / SKIPPED} has the reasons")
        for folder in work.iterdir():
            os.replace(folder, out / folder.name)
        work.rmdir()
        content = {
            "format_version": dataset_info.FORMAT_VERSION, "complete": True,
            "name": out.resolve().name, "resolution": recipe.resolution,
            "num_channels": channels.num_channels(recipe.classes),
            "classes": list(recipe.classes), "label_size": recipe.label_size,
            "encoding": recipe.encoding, "splits": ids, "class_counts": counts,
            "options": options, "digest": digest,
            "skipped": sum("annotation" not in entry for entry in skipped)}
        util.write_json(out / dataset_info.FILE_NAME, content)
    return content


@contextlib.contextmanager
def _explain_full_disk(out):
    """A full disk becomes one line that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise util.UserError(f"{out}: the disk is full; free some space and run the same command "
                             "again, which replaces the unfinished files") from None


def _remove_unfinished(out):
    """Remove what an interrupted run left. Raises UserError rather than remove anything else."""
    shutil.rmtree(out / _PARTIAL, ignore_errors=True)
    for folder in (out / split for split in SPLITS):
        if folder.is_dir():
            foreign = [path.name for path in folder.iterdir()
                       if path.suffix not in (".tfrecords", ".labels")]
            if foreign:
                raise util.UserError(f"{folder}: in the way, and no part of a data set "
                                     f"({foreign[0]} is in it); choose another --out or move it")
            shutil.rmtree(folder)


def _write_splits(work, recipe, splits, skipped, workers):
    """Write all record files. Returns ({split: [ids]}, {split: class counts}, digest)."""
    items = [(split, item) for split in splits for item in splits[split]]
    ids = {split: [] for split in splits}
    sums = {split: np.zeros((2, len(recipe.classes))) for split in splits}
    labels = {split: [] for split in splits}
    identity = [list(recipe.classes), recipe.resolution, *filter(None, [recipe.label_size])]
    digest = hashlib.sha256(json.dumps(identity).encode())
    levels = range(tfrecords.MIN_LEVEL, recipe.resolution.bit_length())
    with _SplitFiles(work, levels) as files, \
            util.progress(total=len(items), desc="converting", unit="photo") as bar:
        for split in filter(splits.get, splits):
            files.open(split)
        results = convert_all(recipe, [item for _, item in items], workers)
        for (split, item), result in zip(items, results):
            bar.update()
            if isinstance(result, str):
                skipped.append({"id": item.image_id, "reason": result})
                continue
            files.write(split, result.records)
            ids[split].append(item.image_id)
            sums[split] += [np.greater(result.shares, 0), result.shares]
            digest.update(f"{split} {item.image_id} ".encode() + result.digest)
            if recipe.label_size:
                labels[split].append(item.label)
                digest.update(item.label.tobytes())
    if recipe.label_size:
        for split in filter(splits.get, splits):
            _write_labels(dataset_info.labels_path(work, split), labels[split], recipe.label_size)
    counts = {split: _class_counts(recipe.classes, sums[split], len(ids[split])) for split in sums}
    return ids, counts, digest.hexdigest()


def _write_labels(path, rows, label_size):
    """Write the labels of a split, in the order of its records, as the official tool does."""
    content = io.BytesIO()
    np.save(content, np.array(rows, np.float32).reshape(-1, label_size), allow_pickle=False)
    util.atomic_write(path, content.getvalue())


def _class_counts(classes, sums, num_photos):
    """{class: {"images": photos that show it, "pixels": mean share of a photo's area}}."""
    return {name: {"images": int(images), "pixels": round(share / max(num_photos, 1), 8)}
            for name, images, share in zip(classes, *sums)}


class _SplitFiles:
    """Record files below `work`, one for each split and level; on disk when the block ends well."""

    def __init__(self, work, levels):
        self._work, self._levels, self._files = work, levels, {}

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        for file in self._files.values():
            if kind is None:
                file.flush()
                os.fsync(file.fileno())
            file.close()

    def open(self, split):
        """Make the split's folder and files."""
        (self._work / split).mkdir()
        for level in self._levels:
            path = self._work / split / f"{split}-r{level:02d}.tfrecords"
            self._files[split, level] = open(path, "xb")  # noqa: SIM115 - closed by __exit__

    def write(self, split, records):
        """Append one image's framed records {level: bytes}."""
        for level, record in records.items():
            self._files[split, level].write(record)
