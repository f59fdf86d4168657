"""Read data sets on disk: dataset.json, splits of records, conditioning labels.

All code opens data sets through this module, so that they are checked in one place. It does not
load TensorFlow. dataset.json is written last: a data set without it is unfinished.
"""

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dnnlib import util
from dnnlib.data import channels, pyramid, tfrecords
from dnnlib.data.tfrecords import AGAIN
from dnnlib.process_pool import threaded_map
from dnnlib.suggestions import command, conversion
from dnnlib.util import UserError, atomic_write, one_line, read_json

FORMAT_VERSION = 1
FILE_NAME = "dataset.json"
STATISTICS = "statistics.json"
SPLITS = ("train", "val", "test")  # some of them may be missing or empty
COMPARED_AT = 8  # side in pixels at which photos_in_common compares photos, if they are so large


@dataclass(frozen=True)
class DatasetInfo:
    """The parts of dataset.json that readers need.

    Attributes:
        path: folder of the data set.
        resolution: side of the largest level, in pixels.
        classes: names of the C classes, in channel order.
        splits: {split: number of images}.
        digest: sha256 over the content of all images.
        label_size: length of an image's conditioning label; 0 if images have none.
        keypoints: names of an image's K keypoints (dnnlib.data.keypoints); () if images have none.
        skeleton: pairs of keypoints that are joined, counted from 1.
        pairs: {split: number of pairs of images that show one person}.
    """

    path: Path
    name: str
    resolution: int
    num_channels: int
    classes: tuple
    splits: dict
    digest: str
    label_size: int = 0
    keypoints: tuple = ()
    skeleton: tuple = ()
    pairs: dict = field(default_factory=dict)


# dataset.json

def open_dataset(directory: str | Path) -> DatasetInfo:
    """Read and check dataset.json. Raises UserError if the data set is missing or unfinished."""
    path = Path(directory)
    if not (path / FILE_NAME).is_file():
        raise UserError(_why_missing(path))
    content = read_json(path / FILE_NAME)
    if not isinstance(content, dict) or content.get("complete") is not True:
        raise UserError(f"{path / FILE_NAME}: not of a finished data set; make it again")
    if content.get("format_version") != FORMAT_VERSION:
        raise UserError(f"{path / FILE_NAME}: format version {content.get('format_version')!r}; "
                        f"this program reads version {FORMAT_VERSION}")
    try:
        _check_types(content)
        splits = {split: len(ids) for split, ids in content["splits"].items()}
        return DatasetInfo(path, content["name"], content["resolution"], content["num_channels"],
                           tuple(content["classes"]), splits, content["digest"],
                           content.get("label_size", 0), tuple(content.get("keypoints", ())),
                           tuple(map(tuple, content.get("skeleton", ()))),
                           content.get("pairs", {}))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path / FILE_NAME}: incomplete ({error!r}); make it again") from None


def open_part(path: str | Path) -> tuple[DatasetInfo, str | None] | None:
    """Return (data set, None) for the folder of a data set, (data set, split) for the folder of one
    of its splits (DIR/val), None for any other path. Raises UserError for record files alone."""
    path = Path(path)
    if (path / FILE_NAME).is_file():
        return open_dataset(path), None
    info = open_dataset(path.parent) if (path.parent / FILE_NAME).is_file() else None
    if info and info.splits.get(path.name):
        return info, path.name
    if info is None and any(path.glob("*.tfrecords")):
        raise UserError(_why_missing(path))
    return None


def read_ids(directory: str | Path, split: str) -> list:
    """Return the ids of a split's photos, numbers or file names, in the order of its records.
    Raises UserError if there is no such split."""
    ids = read_json(open_dataset(directory).path / FILE_NAME)["splits"]
    if split not in ids:
        raise UserError(f"data set {directory} has no split {split!r}; it has: {', '.join(ids)}")
    return ids[split]


def read_fit(directory: str | Path) -> str:
    """Return which of pyramid.FITS made a data set's photos square; `pad` if this is not stored."""
    fit = read_json(open_dataset(directory).path / FILE_NAME).get("options", {}).get("fit")
    return fit if fit in pyramid.FITS else pyramid.FITS[0]


def content_box(directory: str | Path) -> tuple[int, int, int, int] | None:
    """Return the box of the photos in a data set's square images: left, top, right, bottom in
    pixels at the largest level. None if photos have different boxes, or if this is not known,
    because data sets of earlier versions have no statistics."""
    try:
        content = read_json(Path(directory) / FILE_NAME)
        sizes = read_json(Path(directory) / STATISTICS)["sizes"]
        fit, resolution = content["options"]["fit"], content["resolution"]
        boxes = {pyramid.content_box([int(side) for side in size.split("x")], resolution, fit)
                 for size in sizes}
    except (UserError, KeyError, TypeError, ValueError):
        return None
    return boxes.pop() if len(boxes) == 1 else None


def _why_missing(path):
    """Return one line on a path without dataset.json: what it is, and what to do."""
    records = sorted(path.glob("*-r[0-9][0-9].tfrecords"))
    if records and (path.parent / FILE_NAME).is_file():
        return f"{path} is one split of a data set; give the whole one, {path.parent}"
    if records:
        side = 2 ** int(records[-1].stem[-2:])
        convert = command("dataset_tool.py", "create_from_images", f"--source={path}",
                          f"--resolution={side}", "--out=datasets/converted")
        return (f"{path}: record files without dataset.json, as the official dataset tool writes "
                f"them; to use their images (and labels), convert them: {convert}")
    if path.is_file():
        return f"data set {path} is a file; give the folder it is in"
    if convert := path.is_dir() and conversion(path):
        return f"{path} is no data set (no dataset.json); make one of its photos: {convert}"
    state = f"{path} is no data set, or an unfinished one (no dataset.json)" if path.is_dir() \
        else f"data set {path} does not exist"
    return (f"{state}; make it with dataset_tool.py (--help lists the ways), for example: "
            "python dataset_tool.py create_modanet")


def _check_types(content):
    """Raise TypeError or AttributeError if a part does not have the type that readers expect."""
    def check(is_right: bool, fault: str) -> None:
        if not is_right:
            raise TypeError(fault)

    label_size, names = content.get("label_size", 0), content.get("keypoints", [])
    check(type(label_size) is int and label_size >= 0, f"label_size {label_size!r}")
    check(type(content["resolution"]) is int, f"resolution {content['resolution']!r}")
    check(all(isinstance(name, str) for name in (content["name"], *content["classes"])),
          "a name that is no text")
    num_classes = len(content["classes"])
    check(num_classes <= channels.MAX_CLASSES,
          f"{num_classes} classes; up to {channels.MAX_CLASSES} are possible")
    check(content["num_channels"] == channels.NUM_COLOURS + num_classes,
          f"num_channels {content['num_channels']!r} with {num_classes} classes")
    check(all(isinstance(image_id, int | str) for ids in content["splits"].values()
              for image_id in ids), "an id that is neither number nor text")
    check(isinstance(names, list) and all(isinstance(name, str) for name in names),
          "keypoints that are no names")
    check(all(type(number) is int and 1 <= number <= len(names) for first, second
              in content.get("skeleton", []) for number in (first, second)),
          "a skeleton that joins no keypoints")
    check(all(type(count) is int and split in content["splits"]
              for split, count in content.get("pairs", {}).items()), "pairs that are no numbers")
    check(isinstance(content.get("options", {}), dict), "options that are no table")
    check(all(isinstance(count[part], int | float)
              for counts in content.get("class_counts", {}).values()
              for count in counts.values() for part in ("images", "pixels")),
          "class_counts that are no numbers")


# Splits

def split_sizes(info: DatasetInfo, split: str | None) -> dict[str, int]:
    """Return {split: number of images} of the splits that have images, among those in `split`
    ("train+val"; None: all). Raises UserError if none has any, or if a split does not exist."""
    wanted = info.splits if split is None else split.split("+")
    sizes = {part: info.splits[part] for part in wanted if info.splits.get(part)}
    unknown = [part for part in wanted if part not in {*info.splits, *SPLITS}]
    if unknown or not sizes:
        filled = [name for name, size in info.splits.items() if size]
        hint = (f" (run_metrics.py takes --split={filled[0]}, every command the folder "
                f"{info.path}/{filled[0]})" if filled else "")
        raise UserError(f"data set {info.path} has no images in split "
                        f"{(unknown or [split])[0]!r}; it has: {', '.join(filled)}{hint}")
    return sizes


def places(sizes: dict[str, int]) -> list[tuple[str, int]]:
    """Return (split, number of the record) for all images of splits {split: size}."""
    return [(split, number) for split, size in sizes.items() for number in range(size)]


def open_split(info: DatasetInfo, split: str,
               resolution: int | None = None) -> tfrecords.RecordFile:
    """Return the records of one split at one resolution; None is the largest. Raises UserError if
    one of the two is missing, or dataset.json states another number of images."""
    split_sizes(info, split)
    resolution = resolution or info.resolution
    files = tfrecords.record_files(info.path / split)
    level = resolution.bit_length() - 1
    if level not in files or resolution != 1 << level:
        known = ", ".join(str(1 << r) for r in files)
        raise UserError(f"data set {info.path} has no images of {resolution}x{resolution}; "
                        f"it has: {known}")
    file = tfrecords.RecordFile(files[level])
    if len(file) != info.splits[split]:
        raise UserError(f"{file.path}: {len(file)} records where dataset.json says "
                        f"{info.splits[split]}; {AGAIN}")
    return file


def photos_in_common(info: DatasetInfo, splits: Iterable[str],
                     other: DatasetInfo) -> dict[str, int]:
    """Return how many photos of the training split of `other` are also in splits of `info`; those
    that share none are left out.

    Photos are compared by their colours at 8x8, so they must have been fitted and reduced alike.
    """
    side = min(COMPARED_AT, info.resolution, other.resolution)
    held_back = {split: {image.tobytes() for part in read_split(
        info.path, split, side, only_rgb=True) for image in part}
        for split in splits if info.splits.get(split)}
    counts = dict.fromkeys(held_back, 0)
    if not counts:
        return {}
    with util.progress(total=other.splits["train"], desc=f"comparing {other.path}",
                       unit="img") as bar:
        for part in read_split(other.path, "train", side, only_rgb=True):
            for image in part:
                for split, photos in held_back.items():
                    counts[split] += image.tobytes() in photos
            bar.update(len(part))
    return {split: count for split, count in counts.items() if count}


def read_split(directory: str | Path, split: str, resolution: int, only_rgb: bool = False, *,
               minibatch: int = 32, indices: Sequence[int] | None = None) -> Iterator[np.ndarray]:
    """Return an iterator over the images of a split, or those of `indices` in this order: uint8
    [<= minibatch, resolution, resolution, C]. Threads read some minibatches ahead.

    With `only_rgb`, C is 3. Raises UserError at once as `open_split` does, and from the iterator if
    a record is damaged.
    """
    info = open_dataset(directory)
    file = open_split(info, split, resolution)
    order = range(len(file)) if indices is None else indices
    shape = channels.NUM_COLOURS if only_rgb else info.num_channels, resolution, resolution

    def load(start: int) -> np.ndarray:
        images = []
        for number in order[start:start + minibatch]:
            images.append(file.read_image(number, only_rgb))
            if images[-1].shape != shape:
                raise UserError(f"{file.path}: record {number} has the shape "
                                f"{list(images[-1].shape)}, expected {list(shape)}; {AGAIN}")
        return np.stack(images).transpose(0, 2, 3, 1)

    return threaded_map(load, range(0, len(order), minibatch), min(os.cpu_count() or 1, 4))


# Conditioning labels

def labels_path(directory: str | Path, split: str) -> Path:
    """Return the path of a split's labels: beside its records, under the official tool's name."""
    return Path(directory) / split / f"{split}-rxx.labels"


def read_labels(directory: str | Path, split: str) -> np.ndarray:
    """Return the conditioning labels of a split, float32 [n, label_size], in its records' order.

    label_size is 0 if the data set has no labels. Raises UserError if the file is missing, damaged
    or of another data set.
    """
    info = open_dataset(directory)
    shape = info.splits.get(split, 0), info.label_size
    if not info.label_size:
        return np.zeros(shape, np.float32)
    path = labels_path(directory, split)
    labels = read_label_array(path)
    if labels.shape != shape or not np.isfinite(labels).all():
        raise UserError(f"{path}: expected finite numbers of shape {list(shape)}, found shape "
                        f"{list(labels.shape)}; {AGAIN}")
    return labels


def read_label_array(path: str | Path) -> np.ndarray:
    """Return the labels in a file in the official tool's format, float32. Raises UserError as
    `read_array` does."""
    return read_array(path, "labels").astype(np.float32)


def write_labels(path: str | Path, rows: Sequence[np.ndarray], label_size: int) -> None:
    """Write labels [n, label_size] in the order of their records, as the official tool does."""
    write_array(path, np.array(rows, np.float32).reshape(-1, label_size))


# Arrays beside the records

def read_array(path: str | Path, what: str) -> np.ndarray:
    """Read an array of numbers from a file beside a data set's records; nothing is unpickled. what:
    what messages call it ("labels"). Raises UserError if it is missing or damaged."""
    try:
        with open(path, "rb") as file:
            values = np.lib.format.read_array(file, allow_pickle=False)
        if values.dtype.kind not in "biuf":
            raise ValueError(f"values of type {values.dtype}")
        return values
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, though dataset.json says that images have {what}; "
                        f"{AGAIN}") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: not a file of {what} ({one_line(error)}); {AGAIN}") from None


def write_array(path: str | Path, values: np.ndarray) -> None:
    """Write an array beside a data set's records, whole or not at all."""
    content = io.BytesIO()
    np.save(content, values, allow_pickle=False)
    atomic_write(path, content.getvalue())


def check_label_sizes(infos: Sequence[DatasetInfo]) -> None:
    """Raise UserError if one network cannot take the labels of all these data sets. This includes
    data sets without labels: a conditional critic has no score for their photos."""
    for info in infos:
        if info.label_size != infos[0].label_size:
            raise UserError(f"data sets {infos[0].path} and {info.path} have labels of "
                            f"{infos[0].label_size} and {info.label_size} numbers; a network "
                            "takes labels of one size (make both with --labels, or neither)")
