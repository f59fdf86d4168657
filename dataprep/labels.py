"""Conditioning labels of photos, read from a JSON file and checked.

The file is the one that StyleGAN's successors use: {"labels": [["a.png", 3], ["b/c.png", 0], ...]},
names relative to the folder of photos. Whole numbers are classes and become one-hot; lists of
numbers are taken as they are.
"""

import collections
import posixpath
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dnnlib import util
from dnnlib.util import UserError

_MAX_CLASSES = 65_536  # a larger number is taken for a mistake: it would fill the memory with zeros
_LARGEST = float(np.finfo(np.float32).max)
_SHOWN = 3  # names in an error


def read_label_file(path: str | Path, names: Sequence[str]) -> np.ndarray:
    """Return the labels of `names`, float32 [len(names), label_size]. Raises UserError if the file
    does not have this form, names a photo twice or one that does not exist, leaves one out, or has
    labels of different kinds."""
    content, known = util.read_json(path), set(names)
    entries = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise UserError(f'{path}: expected {{"labels": [["file.png", 3], ...]}}')
    for entry in entries:
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
            raise UserError(f'{path}: expected pairs such as ["file.png", 3], found '
                            f"{util.one_line(entry)[:80]}")
    # Other programs write ./a.png and sub\a.png.
    own = {name: posixpath.normpath(name.replace("\\", "/")) for name, _ in entries}
    entries = [(own[name] if name not in known and own[name] in known else name, label)
               for name, label in entries]
    labels = dict(entries)
    counts = collections.Counter(name for name, _ in entries)
    for wrong, text in (
            ([name for name, count in counts.items() if count > 1], "{} more than once"),
            (labels.keys() - known, "{} not among the photos (names are relative to --source)"),
            (known - labels.keys(), "no label for {}; give every photo one, or take it out of "
                                    "--source")):
        if wrong:
            more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
            raise UserError(f"{path}: {text.format(', '.join(sorted(wrong)[:_SHOWN]) + more)}")
    return _table(path, {name: labels[name] for name in names})


def missing_classes(table: np.ndarray) -> list[int]:
    """Return the classes that no image has, if labels [n, label_size] are one-hot; else none."""
    one_hot = ((table == 0) | (table == 1)).all() and (table.sum(axis=1) == 1).all()
    return np.flatnonzero(~table.any(axis=0)).tolist() if one_hot else []


def _table(path, labels):
    """Return {name: label} as float32 [n, label_size] in the same order. Raises UserError."""
    kinds = {name: _kind(label) for name, label in labels.items()}
    first = next(iter(labels))
    for name, kind in kinds.items():
        if kind is None:
            raise UserError(f"{path}: the label of {name} is {util.one_line(labels[name])[:80]}; "
                            "expected a whole number, 0 or more, or a list of finite numbers")
        if kind != kinds[first]:
            raise UserError(f"{path}: {first} has {kinds[first]} for a label, {name} has {kind}; "
                            "all must be alike")
    numbers = list(labels.values())  # n classes, or n lists of label_size numbers
    if kinds[first] != "a class":
        return np.array(numbers, np.float32)
    if max(numbers) >= _MAX_CLASSES:
        raise UserError(f"{path}: class {max(numbers)}; expected numbers below {_MAX_CLASSES}, "
                        "counted from 0")
    table = np.zeros((len(numbers), max(numbers) + 1), np.float32)
    table[np.arange(len(numbers)), numbers] = 1
    return table


def _kind(label):
    """Return the kind of a label, in words; None if it is not a label."""
    if type(label) is int and label >= 0:
        return "a class"
    if isinstance(label, list) and label and all(type(x) in (int, float) for x in label):
        finite = all(abs(x) <= _LARGEST for x in label)
        return f"{len(label)} numbers" if finite else None
    return None
