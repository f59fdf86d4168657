"""Map COCO's `categories` to classes of a data set, by name: ids differ from file to file."""

import collections
import difflib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from dataprep.coco.segmentations import MAX_ID, parse_int
from dnnlib.data.channels import MAX_CLASSES
from dnnlib.data.class_list import find_class, fold_name, is_background
from dnnlib.util import UserError

_MAX_NAME = 100  # characters
# difflib's ratio from which a name counts as a misspelling: one letter more or less, in long names
# also one different letter. "shirts" and "shorts" have 0.83.
_ALIKE = 0.85
_SHOWN = 5  # names in an error
NOT_CHOSEN = -1  # label of categories that --only-classes leaves out


@dataclass(frozen=True)
class Categories:
    """Class names in the order of their labels, from 1; {category id: label}, where 0 is the
    background; lines to print."""

    classes: tuple
    labels: dict
    notes: tuple = ()

    def restrict(self, names: Sequence[str]) -> "Categories":
        """Return these categories with only the classes `names`, in this order; the ids of others
        get the label NOT_CHOSEN. Raises UserError if a name is no class, or is given twice."""
        names = [find_class(name, self.classes, "--only-classes") for name in names]
        for name, count in collections.Counter(names).items():
            if count > 1:
                raise UserError(f"--only-classes: the class {name!r} is given twice")
        chosen = {self.classes.index(name) + 1: label for label, name in enumerate(names, 1)}
        labels = {number: chosen.get(label, NOT_CHOSEN if label else 0)
                  for number, label in self.labels.items()}
        return Categories(tuple(names), labels,
                          (*self.notes, f"--only-classes: {_numbered(names)}"))


def read_categories(path: object, entries: object, known: tuple, own: bool) -> Categories:
    """Return the Categories of a COCO file's list "categories", `entries` (None if it has none).
    `known` are ModaNet's classes, which may be misspelt and have any ids; with `own`, other names
    become classes, in the order of their ids. Raises UserError if names or ids are unusable."""
    names = _read_names(path, entries)
    if not names:
        if own:
            raise UserError(f"{path}: lists no categories, from which the classes get their names")
        return Categories(known, {label: label for label in range(1, len(known) + 1)}, (
            f"{path}: lists no categories; ids are taken as ModaNet's: {_numbered(known)}",))
    shown = {number: name for number, name in names.items() if not is_background(name)}
    notes = [f"{path}: the category {name!r} (id {number}) is background, not a class"
             for number, name in names.items() if number not in shown]
    if not shown:
        raise UserError(f"{path}: its categories are background only; none is a class")
    classes, matched = _choose_classes(path, shown, known, own)
    labels = {number: classes.index(matched[name]) + 1 for number, name in shown.items()}
    notes += _describe(path, classes, shown, labels, known)
    background = dict.fromkeys(names.keys() - shown.keys(), 0)
    return Categories(classes, labels | background, tuple(notes))


def _read_names(path, entries):
    """Return {id: name} of a list of categories, in the order of ids."""
    if not isinstance(entries, list | None):
        raise UserError(f"{path}: its 'categories' are not a list")
    names = {}
    for place, entry in enumerate(entries or [], 1):
        entry = entry if isinstance(entry, dict) else {}
        number, name = parse_int(entry.get("id"), 0, MAX_ID), entry.get("name")
        name = unicodedata.normalize("NFC", name).strip() if isinstance(name, str) else ""
        if number is None or not 1 <= len(name) <= _MAX_NAME or not name.isprintable():
            raise UserError(f"{path}: entry {place} of its categories needs a whole number as id "
                            f"and a name of 1 to {_MAX_NAME} printable characters")
        if names.setdefault(number, name) != name:
            raise UserError(f"{path}: the category id {number} is both {names[number]!r} and "
                            f"{name!r}; its annotations could belong to either")
    return dict(sorted(names.items()))


def _choose_classes(path, shown, known, own):
    """Return (classes, {name in the file: class}) for {id: name}."""
    matched = _match(dict.fromkeys(shown.values()), known)
    foreign = list(dict.fromkeys(name for name in shown.values() if name not in matched))
    if not foreign and (not own or set(matched.values()) == set(known)):
        return known, matched
    if not own:
        more = ", ..." if len(foreign) > _SHOWN else ""
        raise UserError(f"{path}: has categories that are none of ModaNet's classes "
                        f"({', '.join(map(repr, foreign[:_SHOWN]))}{more}); use create_from_coco "
                        "for a data set of a file's own classes")
    classes = tuple(dict.fromkeys(shown.values()))
    if len(classes) > MAX_CLASSES:
        raise UserError(f"{path}: {len(classes)} classes; expected 1 to {MAX_CLASSES}")
    return classes, {name: name for name in classes}


def _match(names, known):
    """Return {name: known class} for the names that are known classes, ignoring case and
    punctuation. Misspellings are considered only if there are as many names as classes: in other
    lists, "stop" would be taken for a misspelt "top"."""
    folded = {fold_name(name): name for name in known}
    matched = {name: folded[fold_name(name)] for name in names if fold_name(name) in folded}
    free = [fold for fold, name in folded.items() if name not in matched.values()]
    if len(names) == len(known):
        close = {name: difflib.get_close_matches(fold_name(name), free, n=2, cutoff=_ALIKE)
                 for name in names if name not in matched}
        taken = collections.Counter(fold for folds in close.values() for fold in folds)
        matched |= {name: folded[folds[0]] for name, folds in close.items()
                    if len(folds) == 1 and taken[folds[0]] == 1}
    return matched


def _describe(path, classes, shown, labels, known):
    """Yield lines for the user about the classes. shown: {id: name}; labels: {id: label}."""
    if classes != known:
        yield (f"{path}: {len(classes)} class{'es' * (len(classes) > 1)}: {_numbered(classes)}")
    moved = [f"{number} {name} -> {labels[number]} {classes[labels[number] - 1]}"
             for number, name in shown.items() if labels[number] != number
             or fold_name(name) != fold_name(classes[labels[number] - 1])]
    if moved and classes == known:
        yield (f"{path}: categories are taken for ModaNet's classes by name (id in the file -> "
               f"label): {', '.join(moved)}")
    for label, count in collections.Counter(labels.values()).items():
        if count > 1:
            numbers = [str(number) for number in labels if labels[number] == label]
            yield (f"warning: {path}: the category ids {', '.join(numbers)} have the same name "
                   f"and become one class, {classes[label - 1]}")


def _numbered(classes):
    return ", ".join(f"{label} {name}" for label, name in enumerate(classes, 1))


def check_used(path: object, labels: dict, used: set) -> None:
    """Raise UserError if the ids that annotations use are the listed ids shifted by one: those that
    happen to be listed would get the label of a neighbouring category."""
    shifted = [{number + shift for number in used} <= labels.keys() for shift in (1, -1)]
    if any(shifted) and used & labels.keys() and not used <= labels.keys():
        raise UserError(f"{path}: its annotations use the category ids {min(used)} to {max(used)}, "
                        f"but its classes have {min(labels)} to {max(labels)}: one of them is "
                        "counted from another number; give both the same ids")
