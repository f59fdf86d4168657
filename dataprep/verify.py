"""Check that a data set matches its dataset.json."""

import collections
import functools
import json
from pathlib import Path

import numpy as np

from dataprep import writer
from dataprep.conversion import digest_and_shares
from dnnlib import util
from dnnlib.data import dataset, keypoints, pyramid, tfrecords
from dnnlib.process_pool import map_in_batches

_BATCH = 16  # images that a worker checks at once


def find_defects(directory: str | Path, workers: int) -> list[str]:
    """Read every record of a finished data set; return its defects, a list of lines.

    Checked are: files and counts against dataset.json and statistics.json; the checksum, image data
    and shape of each record; each level against the largest one; labels, keypoints and pairs; class
    counts and the content's digest; skipped.jsonl.
    """
    info = dataset.open_dataset(directory)
    content = util.read_json(info.path / dataset.FILE_NAME)
    _open_records.cache_clear()
    ids = content["splits"]
    defects = [f"{dataset.FILE_NAME}: unknown split {split!r}"
               for split in ids.keys() - set(writer.SPLITS)]
    repeats = collections.Counter(image_id for of_split in ids.values() for image_id in of_split)
    defects += [f"{dataset.FILE_NAME}: {image_id!r} is listed {count} times"
                for image_id, count in repeats.items() if count > 1]
    defects += _skipped_defects(info.path, content)
    # Count everything again, as when the data set was written.
    counts = writer.DatasetCounts(info.classes, info.resolution, info.label_size, ids,
                                  info.keypoints)
    is_whole, pairs = True, {}
    for split in ids:
        files, found = _split_files(info, split)
        labels, more = _read_array(
            info, split, dataset.labels_path,
            dataset.read_labels if info.splits[split] else lambda *_: (), bool(info.label_size))
        points, of_points = _read_array(info, split, keypoints.keypoints_path,
                                        keypoints.read_keypoints, bool(info.keypoints))
        pairs[split], of_pairs = _read_array(info, split, keypoints.pairs_path,
                                             keypoints.read_pairs, bool(info.pairs.get(split)))
        defects += found + more + of_points + of_pairs
        is_whole &= points is not None and pairs[split] is not None
        records = max((len(_open_records(paths)) for paths in files.values()), default=0)
        check = functools.partial(_check_image, files, info.num_channels,
                                  info.resolution.bit_length() - 1)
        results = map_in_batches(check, range(records), workers if records > _BATCH else 1, _BATCH,
                                 f"verifying {split}", "photo")
        for number, (found, *content_of) in enumerate(results):
            defects += found
            if not content_of or number >= len(ids[split]):
                is_whole = False
                continue
            label = labels[number] if labels is not None and info.label_size else None
            counts.add(split, ids[split][number], *content_of, label, points=points[number]
                       if points is not None and info.keypoints else None)
        is_whole &= labels is not None and len(counts.ids[split]) == len(ids[split])
    if is_whole:
        counts.add_pairs(pairs)
    # If something is missing, counts and digest cannot match, and that defect is listed already.
    return defects + (_content_defects(info.path, content, counts) if is_whole else [])


def _skipped_defects(root, content):
    """Return defects if skipped.jsonl has another number of photos than dataset.json, an entry
    without a reason, or a photo that is in the data set."""
    try:
        lines = (root / writer.SKIPPED).read_bytes().splitlines()
        entries = [json.loads(line) for line in lines]
        skipped = [entry["id"] for entry in entries if "annotation" not in entry]
        unexplained = sum(not entry["reason"] for entry in entries)
    except FileNotFoundError:
        return [f"{writer.SKIPPED}: no such file"]
    except (ValueError, KeyError, TypeError) as error:
        return [f"{writer.SKIPPED}: damaged ({util.one_line(error)})"]
    defects = [f"{unexplained} entries without a reason"] if unexplained else []
    if len(skipped) != content.get("skipped"):
        defects.append(f"{len(skipped)} photos, dataset.json says {content.get('skipped')}")
    written = {str(image_id) for of_split in content["splits"].values() for image_id in of_split}
    defects += [f"{image_id!r} is written as well" for image_id in skipped
                if str(image_id) in written]
    return [f"{writer.SKIPPED}: {defect}" for defect in defects]


def _split_files(info, split):
    """Return ({level: paths} of the split's readable record files, defects)."""
    folder, size = info.path / split, info.splits[split]
    levels = range(tfrecords.MIN_LEVEL, info.resolution.bit_length())
    there = {path.relative_to(folder).as_posix()
             for pattern in ("*.tfrecords", f"{tfrecords.SHARDS}/*.tfrecords")
             for path in folder.glob(pattern)}
    shards = sorted({name.rpartition("/")[0] for name in there if "/" in name}) or [""]
    # A split whose photos were all unusable has empty files, one that was not asked for has none.
    expected = {level: [str(Path(shard, f"{split}-r{level:02d}.tfrecords")) for shard in shards]
                for level in levels} if size or folder.exists() else {}
    defects = [f"{split}/{name}: no part of the data set"
               for name in sorted(there.difference(*expected.values()))]
    files = {}
    for level, names in expected.items():
        missing = [f"{split}/{name}: no such file" for name in names if name not in there]
        defects += missing
        if missing:
            continue
        paths = tuple(folder / name for name in names)
        try:
            count = len(_open_records(paths))
        except util.UserError as error:
            defects.append(util.one_line(error))
            continue
        files[level] = paths
        if count != size:
            defects.append(f"{split}/{names[0]}: {count} records, dataset.json says {size}"
                           if len(names) == 1 else f"{split}: {count} records of level {level} in "
                           f"{len(names)} shards, dataset.json says {size}")
    return files, defects


@functools.lru_cache(maxsize=32)
def _open_records(paths):
    """Return the records of a level: opened once in each process."""
    return tfrecords.RecordFile(paths)


def _read_array(info, split, path_of, read, expected):
    """Return (labels, keypoints or pairs of a split, None if they are damaged; defects)."""
    path = path_of(info.path, split)
    if not expected and path.exists():
        return None, [f"{split}/{path.name}: no part of the data set"]
    try:
        return read(info.path, split), []
    except util.UserError as error:
        return None, [util.one_line(error)]


def _check_image(files, num_channels, top, number):
    """Return [defects] of one image at all levels, followed, if its top level is readable, by the
    sha256 of its pixels and each class's share of its area."""
    images, defects = {}, []
    for level, paths in files.items():
        records = _open_records(paths)
        if number >= len(records):
            continue  # reported with the file's count
        try:
            images[level] = records.read_image(number)
        except util.UserError as error:
            defects.append(util.one_line(error))
            continue
        shape = num_channels, 1 << level, 1 << level
        if images[level].shape != shape:
            defects.append(f"{records.path_of(number)}: record {number} has shape "
                           f"{images.pop(level).shape}, not {shape}")
    if top not in images:
        return [defects]
    expected = pyramid.levels(images[top], tfrecords.MIN_LEVEL)
    defects += [f"{_open_records(files[level]).path_of(number)}: record {number} is not the image "
                "of the largest level"
                for level in images if not np.array_equal(images[level], expected[level])]
    return [defects, *digest_and_shares(images[top])]


def _content_defects(root, content, counts):
    """Return defects of dataset.json and of the counts of statistics.json, if it is there."""
    defects = []
    path = root / dataset.STATISTICS
    if path.exists():
        there, expected = util.read_json(path), counts.statistics()
        there = there if isinstance(there, dict) else {}
        defects += [f"{path.name}: {part!r} is not that of the records"
                    for part in ("photos", "together") if there.get(part) != expected[part]]
    for split, of_split in counts.class_counts().items():
        listed = content.get("class_counts", {}).get(split, {})
        defects += [f"{dataset.FILE_NAME}: {name} in {split} is {listed.get(name)}, the records "
                    f"have {count}" for name, count in of_split.items()
                    if listed.get(name) != count]
    if counts.digest() != content["digest"]:
        defects.append(f"{dataset.FILE_NAME}: the digest of pixels, order and labels is "
                       f"{content['digest']}, the records have {counts.digest()}")
    return defects
