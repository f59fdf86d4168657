"""Write a data set: order, splits, record files, dataset.json, continuing after interruptions.

A data set is written below `<out>/.partial` and moved into place when it is complete. dataset.json
comes last: a folder without it is unfinished, and the same command continues from its journal.
"""

import collections
import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dataprep import journal, ranges
from dataprep.conversion import ConversionSpec, Converted, Item, convert_all
from dnnlib import util
from dnnlib.data import channels, dataset, keypoints, tfrecords
from dnnlib.data.dataset import SPLITS

if TYPE_CHECKING:  # it imports Apache Beam, which need not be installed
    from dnnlib.beam_runner import BeamRunner

SKIPPED = "skipped.jsonl"
PHOTO_SIZES = "photo_sizes"  # an option: the digest of the photos' sizes
_PARTIAL = ".partial"
_SHOWN = 3  # photos with the same pixels that are named
_NAME = "{0}/{0}-r{1:02d}.tfrecords"  # of a split and level
# What a killed process leaves of files that are written to a temporary file and renamed.
_LEFTOVERS = (*(f".{name}.*.tmp" for name in (dataset.FILE_NAME, SKIPPED, dataset.STATISTICS)),
              f"{_PARTIAL}/*/.*.labels.*.tmp", f"{_PARTIAL}/*/.*.npy.*.tmp")
_CHECKPOINT_PHOTOS = 128  # that a killed run loses at most, besides those being converted


def check_splits(num_val: int, num_test: int, num_items: int) -> None:
    """Raise UserError if nothing would be left for training."""
    if num_val + num_test >= num_items:
        raise util.UserError(f"{num_val} validation and {num_test} test photos leave none of the "
                             f"{num_items} for training; ask for fewer (--num-val, --num-test)")


def shuffle_items(items: Sequence[Item], seed: int) -> list[Item]:
    """Return the items in a seeded order. Of those without a given split, the first that can be
    converted are for validation, the next for the test, all others for training. Photos of one
    person are consecutive."""
    order = np.random.default_rng(seed).permutation(len(items)).tolist()
    persons = {i: ("photo", i) if items[i].person is None else items[i].person for i in order}
    places = {person: place for place, person in enumerate(dict.fromkeys(persons.values()))}
    return [items[i] for i in sorted(order, key=lambda i: places[persons[i]])]


def is_finished(out: str | Path, options: dict) -> bool:
    """Return whether `out` contains this data set, finished. Raises UserError if it contains one
    made with other options. Photo sizes are compared unless an earlier version made it, without
    them."""
    path = Path(out) / dataset.FILE_NAME
    if not path.exists():
        return False
    dataset.open_dataset(out)
    there = util.read_json(path).get("options", {})
    options = {key: value for key, value in options.items() if key != PHOTO_SIZES or key in there}
    if there != options:
        raise util.UserError(f"{out} holds a finished data set made in another way "
                             f"({_differences(there, options)}); choose another --out or delete it")
    return True


def _differences(there, here):
    """Return, in words, how two sets of options differ."""
    return "; ".join(f"{key} is {there.get(key)!r}, not {here.get(key)!r}"
                     for key in sorted(there.keys() | here.keys())
                     if there.get(key) != here.get(key))


def write_dataset(out: str | Path, spec: ConversionSpec, items: list[Item],
                  sizes: tuple[int, int], skipped: list[dict], options: dict, workers: int,
                  report: Callable[[str], None] = print,
                  runner: "BeamRunner | None" = None, pairs: Sequence[tuple] = ()) -> dict:
    """Convert shuffled `items` into the folder `out`; return the content of dataset.json.

    Continues where an interrupted run of the same data set stopped; the result is the same, byte
    for byte. Raises UserError if the disk is full, no photo is left for training, or another
    process is working in `out`.

    Args:
        sizes: (validation, test), exact numbers of images, even if some photos are unusable. If
            photos show persons, there are as many more as keep each person in one split.
        skipped: [{"id", "reason"}] of photos left out before; those that cannot be converted are
            added.
        runner: its workers convert, instead of `workers` processes.
        pairs: (from, to), ids of photos that show one person.
    """
    out = Path(out)
    with util.lock_directory(out, "making this data set"), util.explain_disk_full(
            out, lambda: "free some space and run the same command again: it continues"):
        if is_finished(out, options):  # by another process, since this one began
            return util.read_json(out / dataset.FILE_NAME)
        header = _header(spec, items, sizes, options)
        done = _begin(out, header, report)
        if done.entries:
            report(f"{out}: continuing after the {len(done.entries)} of the {len(items)} photos "
                   "that an interrupted run went through")
        # Convert photos into records, with a line of the journal for each.
        first = len(done.entries)
        results = convert_all(spec, items[first:], workers) if runner is None else \
            ranges.convert_ranges(runner, _ranges_folder(out, header), spec, items, first, report)
        entries = _write_records(out / _PARTIAL, spec, items, sizes, header, done, results)
        skipped += [{"id": entry["id"], "reason": entry["reason"]} for entry in entries
                    if "reason" in entry]
        # All of dataset.json is counted from those lines, so it is the same after interruptions.
        counts = DatasetCounts(spec.classes, spec.resolution, spec.label_size, SPLITS,
                               spec.keypoints)
        converted = [pair for pair in zip(items, entries) if "split" in pair[1]]
        for item, entry in sorted(converted, key=lambda pair: SPLITS.index(pair[1]["split"])):
            counts.add(entry["split"], entry["id"], bytes.fromhex(entry["digest"]),
                       entry["shares"], item.label, entry["size"], entry["overlap"],
                       entry.get("keypoints"))
        counts.add_pairs(_pair_numbers(counts.ids, pairs))
        if repeats := counts.statistics().get("repeats"):
            report(f"warning: {describe_repeats(repeats)}")
        util.atomic_write(out / SKIPPED, "".join(json.dumps(entry, ensure_ascii=False) + "\n"
                                                 for entry in skipped))
        if not counts.ids["train"]:
            remove_work(out)  # continuing would only find the same photos unusable again
            raise util.UserError(
                f"{out}: no photo is left for training: of {len(items)}, {len(counts.ids['val'])} "
                f"went into validation, {len(counts.ids['test'])} into the test, and the others "
                f"could not be converted (the last: {skipped[-1]['reason']}); {out / SKIPPED} has "
                "all reasons")
        _finish(out, spec, counts, skipped, options)
        return util.read_json(out / dataset.FILE_NAME)


def _pair_numbers(ids, pairs):
    """Return {split: int32 [P, 2]} of pairs of ids that are both in the split."""
    place_of = {image_id: (split, number) for split, of_split in ids.items()
                for number, image_id in enumerate(of_split)}
    places = [(place_of[a], place_of[b]) for a, b in pairs if a in place_of and b in place_of]
    return {split: np.array([(a[1], b[1]) for a, b in places if a[0] == b[0] == split],
                            np.int32).reshape(-1, 2) for split in ids}


def _finish(out, spec, counts, skipped, options):
    """Move the splits into place and write dataset.json. The journal is removed last, so that a run
    killed in here can be continued."""
    work = out / _PARTIAL
    for split, rows in counts.labels.items() if spec.label_size else ():
        if rows:
            dataset.write_labels(dataset.labels_path(work, split), rows, spec.label_size)
    for split, rows in counts.keypoints.items():
        if rows:
            dataset.write_array(keypoints.keypoints_path(work, split), np.stack(rows))
    for split, pairs in counts.pairs.items():
        if len(pairs):
            dataset.write_array(keypoints.pairs_path(work, split), pairs)
    for folder in sorted(work / split for split in SPLITS if (work / split).is_dir()):
        os.replace(folder, out / folder.name)
    write_description(out, spec, counts, options,
                      sum("annotation" not in entry for entry in skipped))
    remove_work(out)


def write_description(out: Path, spec: ConversionSpec, counts: "DatasetCounts", options: dict,
                      num_skipped: int) -> None:
    """Write statistics.json, then dataset.json, which finishes a data set."""
    content = {"format_version": dataset.FORMAT_VERSION, "complete": True,
        "name": out.resolve().name, "resolution": spec.resolution,
        "num_channels": channels.num_channels(spec.classes),
        "classes": list(spec.classes), "label_size": spec.label_size,
        "encoding": spec.encoding, "splits": counts.ids, "class_counts": counts.class_counts(),
        "options": options, "digest": counts.digest(), "skipped": num_skipped}
    if spec.keypoints:
        content |= {"keypoints": list(spec.keypoints), "skeleton": list(spec.skeleton)}
    if counts.pairs:
        content["pairs"] = {split: len(pairs) for split, pairs in counts.pairs.items()}
    util.atomic_write(out / dataset.STATISTICS, json.dumps(counts.statistics()) + "\n")
    util.write_json(out / dataset.FILE_NAME, content)


# Interruption

def _header(spec, items, sizes, options):
    """Return what identifies a data set before anything is converted."""
    listed = hashlib.sha256(json.dumps(sizes).encode())
    for item in items:
        listed.update(f"\0{item.image_id}\0{item.key}\0".encode("utf-8", "surrogateescape"))
        if spec.label_size:
            listed.update(item.label.tobytes())
    header = {"format_version": dataset.FORMAT_VERSION, "journal": journal.VERSION,
              "options": options, "classes": spec.classes, "resolution": spec.resolution,
              "fit": spec.fit, "encoding": spec.encoding, "label_size": spec.label_size,
              # Two folders with the same ids have equal keys: without this they could be mixed.
              "photos_from": os.fsdecode(spec.source.path.resolve()), "photos": listed.hexdigest()}
    if spec.keypoints:
        header["keypoints"] = spec.keypoints
    return json.loads(json.dumps(header))  # as it will be read: lists for tuples


def _begin(out, header, report):
    """Return the ConversionProgress of an interrupted run of the same data set, with its files
    prepared; else an empty one, after removing everything in the way. Raises UserError instead of
    removing anything that no unfinished run has made."""
    work, folders = out / _PARTIAL, [out / split for split in SPLITS]
    done, there = journal.read_journal(work, header)
    for folder in folders:
        own = {dataset.labels_path(out, folder.name), keypoints.pairs_path(out, folder.name),
               keypoints.keypoints_path(out, folder.name),
               *(out / _NAME.format(folder.name, level) for level in range(11))}
        # Without a journal these files are not ours: a run has one from its start to its end.
        foreign = sorted(path.name for path in folder.iterdir()
                         if there is None or path not in own) if folder.is_dir() else []
        if foreign:
            raise util.UserError(
                f"{folder}: in the way, and no part of an interrupted run ({foreign[0]} is in it); "
                "choose another --out, move or delete it")
    util.remove_leftovers(out, _LEFTOVERS)
    if done.entries:
        for folder in folders:  # moved into place already
            if folder.is_dir() and not (work / folder.name).exists():
                os.replace(folder, work / folder.name)
            shutil.rmtree(folder, ignore_errors=True)
        if all((work / name).is_file() and (work / name).stat().st_size >= size
               for name, size in done.sizes.items()):
            return done
        report(f"{out}: the unfinished files are damaged; starting over")
    elif there not in (None, header):
        different = _differences(*({**entry, **entry.get("options", {}), "options": None}
                                   for entry in (there, header)))
        report(f"{out}: replacing the unfinished files of another data set ({different})")
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    for path in sorted(work.iterdir()) if work.is_dir() else ():
        if path != _ranges_folder(out, header):  # ranges are whole or absent
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
    work.mkdir(exist_ok=True)
    return journal.ConversionProgress()


def _ranges_folder(out, header):
    """Return the folder for ranges of this data set alone: workers of another run may be alive."""
    identity = json.dumps([header, ranges.PHOTOS]).encode()
    return out / _PARTIAL / f"ranges-{hashlib.sha256(identity).hexdigest()[:12]}"


def remove_work(out: str | Path) -> None:
    """Remove the unfinished files."""
    shutil.rmtree(Path(out) / _PARTIAL, ignore_errors=True)


def unfinished_bytes(out: str | Path) -> int:
    """Return the size of the unfinished files."""
    return sum(path.stat().st_size for path in (Path(out) / _PARTIAL).glob("*/*"))


# Records

def _write_records(work, spec, items, sizes, header, done, results):
    """Write `results` (Converted or reasons) of `items` after those of `done`, a
    ConversionProgress; return the journal's entry for every item."""
    entries, rest = list(done.entries), items[len(done.entries):]
    room = {"val": sizes[0], "test": sizes[1], "train": len(items)}  # filled in this order
    splits = [split for split in SPLITS if room[split]]
    split_of = {}  # {person: split}
    for item, entry in zip(items, entries):
        if "split" in entry:
            room[entry["split"]] = max(room[entry["split"]] - 1, 0)
            split_of[item.person] = entry["split"]
    with contextlib.ExitStack() as stack:  # if one file fails (full disk), the others are closed
        files = {}
        for split in splits:
            (work / split).mkdir(exist_ok=True)
            for level in range(tfrecords.MIN_LEVEL, spec.resolution.bit_length()):
                name = _NAME.format(split, level)
                files[name] = stack.enter_context(open(work / name, "ab"))
                files[name].truncate(done.sizes.get(name, 0))
        book = stack.enter_context(journal.Journal(work, header, done))
        bar = stack.enter_context(util.progress(total=len(rest), desc="converting", unit="photo"))
        for number, (item, result) in enumerate(zip(rest, results), 1):
            if isinstance(result, Converted):
                split = item.split or next(filter(room.get, room))
                if item.person is not None:
                    split = split_of.setdefault(item.person, split)
                room[split] = max(room[split] - 1, 0)
                for level, record in result.records.items():
                    files[_NAME.format(split, level)].write(record)
                entry = {"id": item.image_id, "split": split, "digest": result.digest.hex(),
                         "shares": result.shares, "size": result.size, "overlap": result.overlap}
                if result.points is not None:
                    entry["keypoints"] = result.points.tolist()
            else:
                entry = {"id": item.image_id, "reason": result}
            entries.append(entry)
            book.add(entry)
            if number % _CHECKPOINT_PHOTOS == 0 or number == len(rest):
                for file in files.values():
                    file.flush()
                    os.fsync(file.fileno())
                book.checkpoint({name: file.tell() for name, file in files.items()})
            bar.update()
    return entries


# Counts

class DatasetCounts:
    """The counts of dataset.json and statistics.json, collected image by image.

    The digest is the sha256 over JSON [classes, resolution] ([..., label_size] if there are labels,
    then the names of keypoints if there are any), then for each image "split id ", the sha256 of
    its pixels at the largest level, its label and its keypoints; then the pairs of each split.
    """

    def __init__(self, classes: Sequence[str], resolution: int, label_size: int,
                 splits: Sequence[str], keypoint_names: Sequence[str] = ()) -> None:
        self._classes = list(classes)
        self._sums = {split: np.zeros((2, len(classes))) for split in splits}
        identity = [list(classes), resolution,
                    *filter(None, [label_size, list(keypoint_names)])]
        self._digest = hashlib.sha256(json.dumps(identity).encode())
        self.ids = {split: [] for split in splits}
        self.labels = {split: [] for split in splits}
        self.keypoints = {split: [] for split in splits}
        self.pairs = {}
        self._together = np.zeros((len(classes), len(classes)), np.int64)
        self._sizes = collections.Counter()
        self._overlaps = []
        self._alike = collections.defaultdict(list)  # {sha256 of pixels: [[split, id], ...]}

    def add(self, split: str, image_id: int | str, pixels_digest: bytes, shares: Sequence[float],
            label: np.ndarray | None = None, size: Sequence[int] = (),
            overlap: float | None = None, points: Sequence | None = None) -> None:
        """Count one image. shares: of each class in the area; label: float32 [label_size]; size:
        the photo's width and height, if they are known; overlap: as in Converted; points: keypoints
        [K, 3]."""
        self.ids[split].append(image_id)
        self._alike[pixels_digest].append([split, image_id])
        self._sums[split] += [np.greater(shares, 0), shares]
        self._digest.update(f"{split} {image_id} ".encode() + pixels_digest)
        if label is not None:
            self.labels[split].append(label)
            self._digest.update(label.tobytes())
        if points is not None:
            self.keypoints[split].append(np.array(points, np.float32))
            self._digest.update(self.keypoints[split][-1].tobytes())
        shown = np.flatnonzero(shares)
        self._together[np.ix_(shown, shown)] += 1
        if size:
            self._sizes["x".join(map(str, size))] += 1
        if overlap is not None:
            self._overlaps.append(overlap)

    def add_pairs(self, pairs: dict[str, np.ndarray]) -> None:
        """Count the pairs of all splits, int32 [P, 2], after all images."""
        if any(map(len, pairs.values())):
            self.pairs = pairs
            for split, numbers in pairs.items():
                self._digest.update(f"pairs {split} ".encode() + numbers.tobytes())

    def digest(self) -> str:
        """Return the sha256, hexadecimal."""
        return self._digest.hexdigest()

    def class_counts(self) -> dict:
        """Return {split: {class: {"images": that show it, "pixels": mean share of the area}}}."""
        return {split: {name: {"images": int(images),
                               "pixels": float(round(share / max(len(self.ids[split]), 1), 8))}
                        for name, images, share in zip(self._classes, *sums)}
                for split, sums in self._sums.items()}

    def statistics(self) -> dict:
        """Return the content of statistics.json, over all splits. together[i][j]: photos that show
        both classes i and j; sizes: {"400x600": photos}; overlap: photos that have any and the mean
        share over all, or None; repeats, if there are any: as describe_repeats takes them."""
        overlaps, repeats = self._overlaps, self._repeats()
        return {"classes": self._classes, "photos": sum(map(len, self.ids.values())),
                "together": self._together.tolist(), "sizes": dict(self._sizes.most_common()),
                "overlap": {"photos": sum(value > 0 for value in overlaps),
                            "mean": round(sum(overlaps) / len(overlaps), 8)} if overlaps else None,
                **({"repeats": repeats} if repeats else {})}

    def _repeats(self):
        """Return what describe_repeats takes; None if no two photos have the same pixels."""
        groups = [group for group in self._alike.values() if len(group) > 1]
        apart = [group for group in groups if len({split for split, _ in group}) > 1]
        return {"photos": sum(map(len, groups)), "apart": sum(map(len, apart)),
                "first": (apart or groups)[0][:_SHOWN]} if groups else None


def describe_repeats(repeats: dict) -> str:
    """Return a sentence on photos with the pixels of another: how many there are, how many of them
    have it in another split ("apart"), and the first ones, [[split, id], ...]."""
    first = ", ".join(f"{image_id} in {split}" for split, image_id in repeats["first"])
    return (f"{repeats['photos']} photos have the same pixels as another, {repeats['apart']} of "
            f"them as one in another split; the first: {first}")
