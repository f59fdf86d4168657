"""Conditioning labels of photos, read from a JSON file and checked.

The file is the one that StyleGAN's successors use: {"labels": [["a.png", 3], ["b/c.png", 0], ...]},
names relative to the folder of photos. Whole numbers are classes and become one-hot; lists of
numbers are taken as they are.
"""

import collections
import posixpath

import numpy as np

from dnnlib import util
from dnnlib.util import UserError

_MAX_CLASSES = 65_536  # a larger number is taken for a mistake: it would fill the memory with zeros
_LARGEST = float(np.finfo(np.float32).max)
_SHOWN = 3  # names in an error


def read_label_file(path, names):
    """The labels of `names`, float32 [len(names), label_size].

    Raises UserError where the file is not of this form, names a photo twice or one that is not
    there, leaves one out, or holds labels that do not go together.
    """
    content, known = util.read_json(path), set(names)
    entries = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise UserError(f'{path}: expected {{"labels": [["file.png", 3], ...]}}')
    for entry in entries:
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
            raise UserError(f'{path}: expected pairs such as ["file.png", 3], found '
                            f"{util.one_line(entry)[:80]}")
    entries = [(_own_name(name, known), label) for name, label in entries]
    labels = dict(entries)
    if len(labels) < len(entries):
        counts = collections.Counter(name for name, _ in entries)
        twice = sorted(name for name, count in counts.items() if count > 1)
        raise UserError(f"{path}: {_names(twice)} more than once")
    _check_names(path, labels, names)
    return _table(path, {name: labels[name] for name in names})


def _own_name(name, known):
    """A name as it is among `known` photos: other programs write ./a.png and sub\\a.png."""
    own = posixpath.normpath(name.replace("\\", "/"))
    return own if name not in known and own in known else name


def missing_classes(table):
    """The classes that no image has, where labels [n, label_size] are one-hot; else none."""
    one_hot = ((table == 0) | (table == 1)).all() and (table.sum(axis=1) == 1).all()
    return np.flatnonzero(~table.any(axis=0)).tolist() if one_hot else []


def _check_names(path, labels, names):
    """Every label has its photo and every photo its label."""
    unknown = sorted(labels.keys() - set(names))
    if unknown:
        raise UserError(f"{path}: {_names(unknown)} not among the photos (names are relative to "
                        "--source)")
    without = sorted(set(names) - labels.keys())
    if without:
        raise UserError(f"{path}: no label for {_names(without)}; give every photo one, or take it "
                        "out of --source")


def _names(names):
    """Some of `names`, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _table(path, labels):
    """{name: label} -> float32 [n, label_size] in the same order. Raises UserError."""
    kinds = {name: _kind(label) for name, label in labels.items()}
    first = next(iter(labels))
    for name, kind in kinds.items():
        if kind is None:
            raise UserError(f"{path}: the label of {name} is {util.one_line(labels[name])[:80]}; "
                            "expected a whole number, 0 or more, or a list of finite numbers")
        if kind != kinds[first]:
            raise UserError(f"{path}: {first} has {kinds[first]} for a label, {name} has {kind}; "
                            "all must be alike")
    if kinds[first] == "a class":
        return _one_hot(path, list(labels.values()))
    return np.array(list(labels.values()), np.float32)


def _kind(label):
    """What a label is, in words; None where it is no label."""
    if type(label) is int and label >= 0:
        return "a class"
    if isinstance(label, list) and label and all(type(x) in (int, float) for x in label):
        finite = all(abs(x) <= _LARGEST for x in label)
        return f"{len(label)} numbers" if finite else None
    return None


def _one_hot(path, numbers):
    """Classes [n] -> float32 [n, largest + 1]."""
    if max(numbers) >= _MAX_CLASSES:
        raise UserError(f"{path}: class {max(numbers)}; expected numbers below {_MAX_CLASSES}, "
                        "counted from 0")
    table = np.zeros((len(numbers), max(numbers) + 1), np.float32)
    table[np.arange(len(numbers)), numbers] = 1
    return table
