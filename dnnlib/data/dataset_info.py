"""dataset.json, what a data set says of itself: written last, so that none means unfinished."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dnnlib.suggestions import command
from dnnlib.util import UserError, one_line, read_json

FORMAT_VERSION = 1
FILE_NAME = "dataset.json"


@dataclass(frozen=True)
class DatasetInfo:
    """The parts of dataset.json that readers need. `splits`: {split: number of images}.

    `label_size`: length of an image's conditioning label; 0 where images have none.
    """

    path: Path
    name: str
    resolution: int
    num_channels: int
    classes: tuple
    splits: dict
    digest: str
    label_size: int = 0


def open_dataset(directory):
    """Read and check dataset.json. Raises UserError where the data set is missing or unfinished."""
    path = Path(directory)
    if not (path / FILE_NAME).is_file():
        raise UserError(_why_none(path))
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
                           _check_size(content.get("label_size", 0)))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path / FILE_NAME}: incomplete ({error!r}); make it again") from None


def read_ids(directory: str | Path, split: str) -> list:
    """Return the ids of a split's photos, numbers or file names, in the order of its records."""
    return read_json(open_dataset(directory).path / FILE_NAME)["splits"][split]


def _why_none(path):
    """One line on a path where no dataset.json is: what it is, and what to do."""
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
    state = "is unfinished (no dataset.json)" if path.is_dir() else "does not exist"
    return (f"data set {path} {state}; make it with dataset_tool.py, for example: "
            "python dataset_tool.py create_modanet")


def _check_types(content):
    """Raise TypeError or AttributeError where a part is not of its kind, so that nothing further
    on stumbles over it."""
    if type(content["resolution"]) is not int:
        raise TypeError(f"resolution {content['resolution']!r}")
    if not all(isinstance(name, str) for name in (content["name"], *content["classes"])):
        raise TypeError("a name that is no text")
    if not all(isinstance(image_id, int | str) for ids in content["splits"].values()
               for image_id in ids):
        raise TypeError("an id that is neither number nor text")
    if not isinstance(content.get("options", {}), dict):
        raise TypeError("options that are no table")
    for counts in content.get("class_counts", {}).values():
        for count in counts.values():
            if not all(isinstance(count[part], int | float) for part in ("images", "pixels")):
                raise TypeError("class_counts that are no numbers")


def _check_size(label_size):
    """The same where it is a length. Raises TypeError."""
    if type(label_size) is not int or label_size < 0:
        raise TypeError(f"label_size {label_size!r}")
    return label_size


def labels_path(directory, split):
    """Where the labels of a split lie: beside its record files, under the official tool's name."""
    return Path(directory) / split / f"{split}-rxx.labels"


def read_labels(directory, split):
    """The conditioning labels of a split, float32 [n, label_size], in the order of its records.

    A NumPy file as the official dataset tool writes it, of numbers only: nothing is unpickled.
    Where the data set has no labels: [n, 0]. Raises UserError where the file is missing, damaged or
    not of this data set.
    """
    info = open_dataset(directory)
    shape = info.splits.get(split, 0), info.label_size
    if not info.label_size:
        return np.zeros(shape, np.float32)
    path = labels_path(directory, split)
    if not path.is_file():
        raise UserError(f"{path}: no such file, though dataset.json says that the images have "
                        f"labels of {info.label_size} numbers; make or copy this data set again")
    labels = read_label_array(path)
    if labels.shape != shape or not np.isfinite(labels).all():
        raise UserError(f"{path}: expected finite numbers of shape {list(shape)}, found shape "
                        f"{list(labels.shape)}; make or copy this data set again")
    return labels


def read_label_array(path):
    """The array in a file of labels, float32; nothing in it is unpickled. Raises UserError where it
    is damaged."""
    try:
        with open(path, "rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False).astype(np.float32)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: not a file of labels ({one_line(error)}); make or copy this "
                        "data set again") from None
