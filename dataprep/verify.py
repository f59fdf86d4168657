"""Whether a data set is what its dataset.json says, and one digest of all of its files."""

import collections
import concurrent.futures
import functools
import hashlib
import json
import os
from dataclasses import dataclass

import numpy as np

from dataprep import pyramid, statistics, writer
from dataprep.process_pool import ordered_map
from dnnlib import util
from dnnlib.data import channels, dataset_info, tfrecords

_CHUNK = 1 << 22
_BATCH = 16  # images that a worker checks at once
_TOP_FILES = (dataset_info.FILE_NAME, writer.SKIPPED, statistics.FILE_NAME)
_SUFFIXES = (".tfrecords", ".labels")


# One digest

def digest(directory):
    """sha256, hexadecimal, over all files of a finished data set: dataset.json, skipped.jsonl,
    statistics.json, records and labels; pages and raw data beside them are no part of it.

    It is taken over a line "<sha256 of the file> <bytes> <name>\\n" for each, sorted by name.
    Raises UserError where the data set is missing or unfinished.
    """
    root = dataset_info.open_dataset(directory).path
    names = [name for name in _TOP_FILES if (root / name).is_file()]
    names += [path.relative_to(root).as_posix() for split in writer.SPLITS
              for path in (root / split).glob("[!.]*") if path.suffix in _SUFFIXES]
    names.sort()
    sizes = {name: (root / name).stat().st_size for name in names}
    # Threads: hashing lets the interpreter go. The files are of very different sizes.
    with util.progress(total=sum(sizes.values()), desc="reading", unit="B") as bar, \
            concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        hashes = list(pool.map(lambda name: _file_digest(root / name, bar), names))
    lines = [f"{file_hash} {sizes[name]} {name}\n" for file_hash, name in zip(hashes, names)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _file_digest(path, bar):
    """sha256 of a file, hexadecimal."""
    result = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            result.update(chunk)
            bar.update(len(chunk))
    return result.hexdigest()


# Verification

@dataclass(frozen=True)
class _Checked:
    """What a worker found in one image: defects (str); of a readable top level the sha256 of its
    pixels and each class's share of its area, else None."""

    defects: list
    pixels_digest: bytes | None = None
    shares: tuple = ()


def find_defects(directory, workers):
    """Read every record of a finished data set; returns its defects, a list of lines.

    Checked are files and counts against dataset.json and statistics.json; of each record checksum,
    image data and shape; each level against the largest one; labels; class counts and the content's
    digest; skipped.jsonl. Raises UserError where the data set is missing or unfinished.
    """
    info = dataset_info.open_dataset(directory)
    content = util.read_json(info.path / dataset_info.FILE_NAME)
    if info.num_channels != channels.num_channels(info.classes):
        return [f"{dataset_info.FILE_NAME}: {info.num_channels} channels with "
                f"{len(info.classes)} classes"]
    _open_records.cache_clear()
    ids = content["splits"]
    defects = _id_defects(ids) + _skipped_defects(info.path, content)
    tally = writer.Tally(info.classes, info.resolution, info.label_size, ids)
    whole = True
    with util.progress(total=sum(info.splits.values()), desc="verifying", unit="photo") as bar:
        for split in ids:
            files, found = _split_files(info, split)
            defects += found
            labels, found = _labels(info, split)
            defects += found
            for number, checked in enumerate(_check_images(info, split, files, workers)):
                bar.update()
                defects += checked.defects
                if checked.pixels_digest is None or number >= len(ids[split]):
                    whole = False
                    continue
                label = labels[number] if labels is not None and info.label_size else None
                tally.add(split, ids[split][number], checked.pixels_digest, checked.shares, label)
                tally.statistics.add((info.resolution,) * 2, checked.shares, None)
            whole &= labels is not None and len(tally.ids[split]) == len(ids[split])
    # Of what is not whole neither is to be expected, and its defects have been told.
    return defects + (_content_defects(info.path, content, tally) if whole else [])


def _id_defects(ids):
    """Splits that no data set has, ids that come twice."""
    defects = [f"{dataset_info.FILE_NAME}: unknown split {split!r}"
               for split in ids.keys() - set(writer.SPLITS)]
    counts = collections.Counter(image_id for of_split in ids.values() for image_id in of_split)
    return defects + [f"{dataset_info.FILE_NAME}: {image_id!r} is listed {count} times"
                      for image_id, count in counts.items() if count > 1]


def _skipped_defects(root, content):
    """skipped.jsonl holds as many photos as dataset.json says, each with a reason, none of which
    is written."""
    try:
        lines = (root / writer.SKIPPED).read_text(encoding="utf-8").splitlines()
        entries = [json.loads(line) for line in lines]
        skipped = [entry["id"] for entry in entries if "annotation" not in entry]
        unexplained = sum(not entry["reason"] for entry in entries)
    except FileNotFoundError:
        return [f"{writer.SKIPPED}: no such file"]
    except (ValueError, KeyError, TypeError) as error:
        return [f"{writer.SKIPPED}: damaged ({util.one_line(error)})"]
    defects = [f"{writer.SKIPPED}: {unexplained} entries without a reason"] if unexplained else []
    if len(skipped) != content.get("skipped"):
        defects.append(f"{writer.SKIPPED}: {len(skipped)} photos, dataset.json says "
                       f"{content.get('skipped')}")
    written = {str(image_id) for of_split in content["splits"].values() for image_id in of_split}
    return defects + [f"{writer.SKIPPED}: {image_id!r} is written as well"
                      for image_id in skipped if str(image_id) in written]


def _split_files(info, split):
    """({level: path} of the split's readable record files, defects)."""
    folder, size = info.path / split, info.splits[split]
    levels = range(tfrecords.MIN_LEVEL, info.resolution.bit_length())
    # A split of unusable photos only has empty files, one that nobody asked for has none.
    expected = {level: f"{split}-r{level:02d}.tfrecords" for level in levels} \
        if size or folder.exists() else {}
    there = {path.name for path in folder.glob("*.tfrecords")}
    defects = [f"{split}/{name}: no part of the data set"
               for name in sorted(there - set(expected.values()))]
    files = {}
    for level, name in expected.items():
        if name not in there:
            defects.append(f"{split}/{name}: no such file")
            continue
        try:
            count = len(_open_records(folder / name))
        except util.UserError as error:
            defects.append(util.one_line(error))
            continue
        files[level] = folder / name
        if count != size:
            defects.append(f"{split}/{name}: {count} records, dataset.json says {size}")
    return files, defects


@functools.lru_cache(maxsize=32)
def _open_records(path):
    """An open record file: one for each process."""
    return tfrecords.RecordFile(path)


def _labels(info, split):
    """(labels, float32 [n, label_size], or None where they are damaged; defects)."""
    path = dataset_info.labels_path(info.path, split)
    if not info.label_size and path.exists():
        return None, [f"{split}/{path.name}: no part of the data set"]
    if not info.splits[split]:
        return np.zeros((0, info.label_size), np.float32), []
    try:
        return dataset_info.read_labels(info.path, split), []
    except util.UserError as error:
        return None, [util.one_line(error)]


def _check_images(info, split, files, workers):
    """Yield _Checked for each image of a split."""
    count = max((len(_open_records(path)) for path in files.values()), default=0)
    batches = [range(first, min(first + _BATCH, count)) for first in range(0, count, _BATCH)]
    check = functools.partial(_check_batch, files, info.num_channels,
                              info.resolution.bit_length() - 1)
    for results in ordered_map(check, batches, workers if len(batches) > 1 else 1):
        yield from results


def _check_batch(files, num_channels, top, numbers):
    """[_Checked] of some images of `files` {level: path}."""
    return [_check_image(files, num_channels, top, number) for number in numbers]


def _check_image(files, num_channels, top, number):
    """One image at all levels -> _Checked."""
    images, defects = {}, []
    for level, path in files.items():
        if number >= len(_open_records(path)):
            continue  # told by the file's count
        try:
            images[level] = _open_records(path).read_image(number)
        except util.UserError as error:
            defects.append(util.one_line(error))
            continue
        shape = num_channels, 1 << level, 1 << level
        if images[level].shape != shape:
            defects.append(f"{path}: record {number} has shape {images.pop(level).shape}, not "
                           f"{shape}")
    if top not in images:
        return _Checked(defects)
    expected = pyramid.levels(images[top], tfrecords.MIN_LEVEL)
    defects += [f"{files[level]}: record {number} is not the image of the largest level"
                for level in images if not np.array_equal(images[level], expected[level])]
    return _Checked(defects, *writer.describe_image(images[top]))


def _content_defects(root, content, tally):
    """dataset.json and the counts of statistics.json, where it is, against what was read."""
    defects = []
    path = root / statistics.FILE_NAME
    if path.exists():
        there, expected = util.read_json(path), tally.statistics.content()
        there = there if isinstance(there, dict) else {}
        defects += [f"{path.name}: {part!r} is not that of the records"
                    for part in ("photos", "together") if there.get(part) != expected[part]]
    for split, counts in tally.class_counts().items():
        told = content.get("class_counts", {}).get(split, {})
        defects += [f"{dataset_info.FILE_NAME}: {name} in {split} is {told.get(name)}, the records "
                    f"have {count}" for name, count in counts.items() if told.get(name) != count]
    if tally.digest() != content["digest"]:
        defects.append(f"{dataset_info.FILE_NAME}: the digest of pixels, order and labels is "
                       f"{content['digest']}, the records have {tally.digest()}")
    return defects
