"""Order, splits, interruption; the record files and dataset.json.

A data set is written below `<out>/.partial` and moved into place when it is whole. dataset.json
comes last: a folder without it is unfinished, and the same command goes on from its journal.
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

from dataprep import annotations, journal, masks, photo_sources, pyramid, statistics
from dataprep.process_pool import ordered_map
from dnnlib import util
from dnnlib.data import channels, dataset_info, photos, tfrecords

SPLITS = ("train", "val", "test")
SKIPPED = "skipped.jsonl"
_PARTIAL = ".partial"
_PROBES = 12  # photos converted to project size and time
_CHECKPOINT_PHOTOS = 128  # what a killed run loses at most, besides those under way


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

    source: (photo_sources.PhotoFolder | photo_sources.PhotoLmdb | photo_sources.PhotoZip
             | photo_sources.PhotoRecords)
    classes: tuple
    resolution: int
    fit: str
    encoding: str
    label_size: int = 0


@dataclass(frozen=True)
class Converted:
    """A converted item: framed records by level, hash of the top level, area share by class; the
    photo's width and height, and the overlap of its instances (dataprep.statistics)."""

    records: dict
    digest: bytes
    shares: tuple
    size: tuple
    overlap: float | None


def convert(recipe, item):
    """Item -> Converted. Raises photos.PhotoError where this photo cannot be used."""
    data = recipe.source.read(item.key)
    photo = photos.decode_photo(data)
    labels, overlap = _labels(item.photo, photo.size) if recipe.classes else (None, None)
    image = pyramid.build_image(photo, labels, len(recipe.classes), recipe.resolution, recipe.fit)
    records = {level: tfrecords.frame(tfrecords.encode_record(smaller, recipe.encoding))
               for level, smaller in pyramid.levels(image, tfrecords.MIN_LEVEL).items()}
    return Converted(records, *describe_image(image), photos.probe(data), overlap)


def describe_image(image):
    """(sha256 of the pixels, area share of each class) of an image uint8 [C, H, W]."""
    shares = pyramid.area_shares(image[channels.SEGMAPS])
    return hashlib.sha256(np.ascontiguousarray(image)).digest(), tuple(shares)


def _labels(photo, size):
    """(label map, overlap of its instances or None) of a picture of `size`.

    Raises PhotoError where annotations are not for it.
    """
    if isinstance(photo, masks.Mask):
        return photo.label_map(size), None
    if abs(photo.width * size[1] - photo.height * size[0]) > 0.02 * photo.width * size[1]:
        raise photos.PhotoError(f"photo is {size[0]}x{size[1]}, its annotations are for "
                                 f"{photo.width}x{photo.height}")
    return annotations.label_map_and_overlap(photo, size)


def check_splits(num_val, num_test, num_items):
    """Raise UserError where nothing would be left for training."""
    if num_val + num_test >= num_items:
        raise util.UserError(f"{num_val} validation and {num_test} test photos leave none of the "
                             f"{num_items} for training; ask for fewer (--num-val, --num-test)")


def shuffled(items, seed):
    """The items in a seeded order: the first that can be converted are for validation, the next for
    the test, all others for training."""
    return [items[i] for i in np.random.default_rng(seed).permutation(len(items))]


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


def write_dataset(out, recipe, items, sizes, skipped, options, workers, say=print):
    """Convert `items` (see shuffled) into the folder `out`; returns what dataset.json says.

    `sizes`: (validation, test) images, exactly, whatever photos turn out to be unusable. Goes on
    where an interrupted run of the same data set stopped; the result is the same, byte for byte.
    `skipped` [{"id", "reason"}] lists photos left out before; the unreadable ones are added
    to it. Raises UserError where the disk is full, no photo is left for training, or another
    process is at work in `out`.
    """
    out = Path(out)
    with util.only_process(out, "making this data set"), _explain_full_disk(out):
        if is_finished(out, options):  # by another process, since this one began
            return util.read_json(out / dataset_info.FILE_NAME)
        header = _header(recipe, items, sizes, options)
        done = _begin(out, header, say)
        if done.entries:
            say(f"{out}: going on behind the {len(done.entries)} of the {len(items)} photos that "
                "an interrupted run went through")
        entries = _write_records(out / _PARTIAL, recipe, items, sizes, (header, done), workers)
        skipped += [{"id": entry["id"], "reason": entry["reason"]} for entry in entries
                    if "reason" in entry]
        tally = _count(recipe, items, entries)
        lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in skipped]
        util.atomic_write(out / SKIPPED, "".join(lines))
        if not tally.ids["train"]:
            remove_work(out)  # to continue would be to find the same photos unusable again
            why = skipped[-1]["reason"] if skipped else "none was given"
            raise util.UserError(
                f"{out}: no photo is left for training: of {len(items)}, {len(tally.ids['val'])} "
                f"went into validation, {len(tally.ids['test'])} into the test, and the others "
                f"could not be converted (the last: {why}); {out / SKIPPED} has all reasons")
        _finish(out, recipe, tally, skipped, options)
        return util.read_json(out / dataset_info.FILE_NAME)


def _finish(out, recipe, tally, skipped, options):
    """Move the splits into place and write dataset.json. The journal goes last: a run that is
    killed in here is continued from it."""
    work = out / _PARTIAL
    for split in filter(tally.ids.get, tally.ids):
        if recipe.label_size:
            _write_labels(dataset_info.labels_path(work, split), tally.labels[split],
                          recipe.label_size)
    for folder in sorted(path for path in work.iterdir() if path.is_dir()):
        os.replace(folder, out / folder.name)
    content = {
        "format_version": dataset_info.FORMAT_VERSION, "complete": True,
        "name": out.resolve().name, "resolution": recipe.resolution,
        "num_channels": channels.num_channels(recipe.classes),
        "classes": list(recipe.classes), "label_size": recipe.label_size,
        "encoding": recipe.encoding, "splits": tally.ids, "class_counts": tally.class_counts(),
        "options": options, "digest": tally.digest(),
        "skipped": sum("annotation" not in entry for entry in skipped)}
    tally.statistics.write(out)
    util.write_json(out / dataset_info.FILE_NAME, content)
    remove_work(out)


@contextlib.contextmanager
def _explain_full_disk(out):
    """A full disk becomes one line that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise util.UserError(f"{out}: the disk is full; free some space and run the same command "
                             "again, which goes on from here") from None


# Interruption

def _header(recipe, items, sizes, options):
    """What tells one data set from another, before anything is converted."""
    listed = hashlib.sha256(json.dumps(sizes).encode())
    for item in items:
        listed.update(f"\0{item.image_id}\0{item.key}\0".encode("utf-8", "surrogateescape"))
        if recipe.label_size:
            listed.update(item.label.tobytes())
    header = {"format_version": dataset_info.FORMAT_VERSION, "journal": journal.VERSION,
              "options": options, "classes": recipe.classes, "resolution": recipe.resolution,
              "fit": recipe.fit, "encoding": recipe.encoding, "label_size": recipe.label_size,
              # Keys alone do not tell apart two folders of the same ids: they would be mixed.
              "photos_from": os.fsdecode(recipe.source.path.resolve()),
              "photos": listed.hexdigest()}
    return json.loads(json.dumps(header))  # as it will be read: lists for tuples


def _begin(out, header, say):
    """The Progress of an interrupted run of the same data set, whose files are made ready; else an
    empty one, and what is in the way is removed.

    Raises UserError rather than remove anything that is no part of a data set.
    """
    work = out / _PARTIAL
    done, there = journal.read_journal(work, header)
    _refuse_foreign(out, there is not None)
    if done.entries:
        _take_back(out, work)
        if all(_size(work / name) >= size for name, size in done.sizes.items()):
            _remove_temporary(out)
            return done
        say(f"{out}: the unfinished files are damaged; starting over")
    elif there not in (None, header):
        say(f"{out}: replacing the unfinished files of another data set "
            f"({_differences(there, header)})")
    _remove_temporary(out)
    for split in SPLITS:
        shutil.rmtree(out / split, ignore_errors=True)
    remove_work(out)
    work.mkdir()
    return journal.Progress()


def _refuse_foreign(out, has_journal):
    """Raise UserError where a split's folder has files in it that no unfinished run has left there.

    Without a journal none has: a run keeps one from before its first record to its end.
    """
    for folder in (out / split for split in SPLITS):
        own = {folder / f"{folder.name}-r{level:02d}.tfrecords"
               for level in range(tfrecords.MIN_LEVEL, 11)}
        own.add(dataset_info.labels_path(out, folder.name))
        foreign = sorted(path.name for path in folder.iterdir()
                         if path not in own) if folder.is_dir() else []
        if foreign:
            raise util.UserError(f"{folder}: in the way, and no part of a data set "
                                 f"({foreign[0]} is in it); choose another --out or move it")
        if not has_journal and folder.is_dir() and any(folder.iterdir()):
            raise util.UserError(f"{folder}: record files without dataset.json, and not of an "
                                 "interrupted run; choose another --out, move or delete them")


def _take_back(out, work):
    """Splits that were moved into place already go back to the unfinished files."""
    for folder in (out / split for split in SPLITS):
        if folder.is_dir() and not (work / folder.name).exists():
            os.replace(folder, work / folder.name)
        shutil.rmtree(folder, ignore_errors=True)


def _remove_temporary(out):
    """Remove what a killed run left of files that are written beside and renamed."""
    for pattern in (f".{dataset_info.FILE_NAME}.*.tmp", f".{SKIPPED}.*.tmp",
                    f".{statistics.FILE_NAME}.*.tmp",
                    f"{_PARTIAL}/*/.*.labels.*.tmp"):
        for path in out.glob(pattern):
            path.unlink()


def remove_work(out):
    """Remove the unfinished files."""
    shutil.rmtree(Path(out) / _PARTIAL, ignore_errors=True)


def unfinished_bytes(out):
    """What the unfinished files take on the disk."""
    return sum(path.stat().st_size for path in (Path(out) / _PARTIAL).glob("*/*"))


def _size(path):
    """Bytes of a file; -1 where there is none."""
    return path.stat().st_size if path.is_file() else -1


def _differences(there, here):
    """What tells two headers apart, in words."""
    there, here = ({**header, **header.get("options", {})} for header in (there, here))
    different = [f"{key} was {there.get(key)!r}, is {here.get(key)!r}"
                 for key in sorted(there.keys() | here.keys())
                 if there.get(key) != here.get(key) and key not in ("options", "classes")]
    return "; ".join(different) or "other classes"


# Records

class Tally:
    """What dataset.json says of the images: ids by split, class counts, and one digest of all.

    The digest is sha256 over JSON [classes, resolution] ([..., label_size] where there are labels),
    then for each image "split id ", the sha256 of its pixels at the largest level and its label.
    """

    def __init__(self, classes, resolution, label_size, splits):
        self._classes = classes
        self._sums = {split: np.zeros((2, len(classes))) for split in splits}
        identity = [list(classes), resolution, *filter(None, [label_size])]
        self._digest = hashlib.sha256(json.dumps(identity).encode())
        self.ids = {split: [] for split in splits}
        self.labels = {split: [] for split in splits}
        self.statistics = statistics.Statistics(classes)

    def add(self, split, image_id, pixels_digest, shares, label=None):
        """Count one image: sha256 of its pixels, area share of each class, float32 [label_size].
        """
        self.ids[split].append(image_id)
        self._sums[split] += [np.greater(shares, 0), shares]
        self._digest.update(f"{split} {image_id} ".encode() + pixels_digest)
        if label is not None:
            self.labels[split].append(label)
            self._digest.update(label.tobytes())

    def digest(self):
        """sha256, hexadecimal."""
        return self._digest.hexdigest()

    def class_counts(self):
        """{split: {class: {"images": that show it, "pixels": mean share of an image's area}}}."""
        return {split: {name: {"images": int(images),
                               "pixels": float(round(share / max(len(self.ids[split]), 1), 8))}
                        for name, images, share in zip(self._classes, *sums)}
                for split, sums in self._sums.items()}


def _write_records(work, recipe, items, sizes, journalled, workers):
    """Write the records of `items` behind those that are there already.

    sizes: (validation, test) images; journalled: (header, Progress). Returns a line of the journal
    for every item.
    """
    header, done = journalled
    entries, rest = list(done.entries), items[len(done.entries):]
    results = convert_all(recipe, rest, workers)
    levels = range(tfrecords.MIN_LEVEL, recipe.resolution.bit_length())
    room = {"val": sizes[0], "test": sizes[1], "train": len(items)}  # filled in this order
    splits = [split for split in SPLITS if room[split]]
    for entry in entries:
        if "split" in entry:
            room[entry["split"]] -= 1
    with _SplitFiles(work, splits, levels, done.sizes) as files, \
            journal.Journal(work, header, done) as book, \
            util.progress(total=len(rest), desc="converting", unit="photo") as bar:
        for number, (item, result) in enumerate(zip(rest, results), 1):
            split = next(filter(room.get, room))
            if isinstance(result, Converted):
                room[split] -= 1
                files.write(split, result.records)
            entries.append(_entry(split, item, result))
            book.add(entries[-1])
            if number % _CHECKPOINT_PHOTOS == 0 or number == len(rest):
                book.checkpoint(files.sync())
            bar.update()
    return entries


def _entry(split, item, result):
    """A photo's line in the journal."""
    if isinstance(result, str):
        return {"id": item.image_id, "reason": result}
    return {"id": item.image_id, "split": split, "digest": result.digest.hex(),
            "shares": result.shares, "size": result.size, "overlap": result.overlap}


def _count(recipe, items, entries):
    """The Tally of items, split by split, from their lines in the journal."""
    tally = Tally(recipe.classes, recipe.resolution, recipe.label_size, SPLITS)
    for split in SPLITS:
        for item, entry in zip(items, entries):
            if entry.get("split") == split:
                tally.add(split, entry["id"], bytes.fromhex(entry["digest"]), entry["shares"],
                          item.label)
                tally.statistics.add(entry["size"], entry["shares"], entry["overlap"])
    return tally


def _write_labels(path, rows, label_size):
    """Write the labels of a split, in the order of its records, as the official tool does."""
    content = io.BytesIO()
    np.save(content, np.array(rows, np.float32).reshape(-1, label_size), allow_pickle=False)
    util.atomic_write(path, content.getvalue())


class _SplitFiles:
    """Record files below `work`, one for each split and level, cut to `sizes` {name: bytes}."""

    def __init__(self, work, splits, levels, sizes):
        self._work, self._written = work, set()
        self._files = {}
        for split in splits:
            (work / split).mkdir(exist_ok=True)
            for level in levels:
                name = f"{split}/{split}-r{level:02d}.tfrecords"
                file = open(work / name, "ab")  # noqa: SIM115 - closed by __exit__
                file.truncate(sizes.get(name, 0))
                self._files[split, level] = file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.ExitStack() as stack:  # a full disk can fail one; the others are closed
            for file in self._files.values():
                stack.callback(file.close)

    def write(self, split, records):
        """Append one image's framed records {level: bytes}."""
        for level, record in records.items():
            self._files[split, level].write(record)
            self._written.add(self._files[split, level])

    def sync(self):
        """Bring everything onto the disk; returns {name: bytes}."""
        for file in self._written:
            file.flush()
            os.fsync(file.fileno())
        self._written.clear()
        return {Path(file.name).relative_to(self._work).as_posix(): file.tell()
                for file in self._files.values()}
