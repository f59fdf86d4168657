"""Lists of class names in a file: one a line, with or without numbers and colours, or JSON.

A line is a name, `name #rrggbb` with the colour that masks have for it, or one of CVAT's
labelmap.txt, `name:r,g,b:parts:actions`. Lines may begin with their numbers, `1: hat`. Empty lines
and those that begin with # are left out. JSON is a list of names, an object {name: "#rrggbb"}, or a
COCO file, of which the categories are taken.
"""

import collections
import json
import re
from dataclasses import dataclass
from pathlib import Path

from dnnlib.data.channels import MAX_CLASSES
from dnnlib.util import UserError, atomic_write

FILE_NAME = "classes.txt"
_MAX_NAME = 100
_COLOUR = re.compile(r"(.*\S)\s+(#[0-9a-fA-F]{6})")
_CVAT = re.compile(r"([^:]+):(?:(\d{1,3}(?:,\s*\d{1,3}){2})(?::[^:]*){0,2}|:[^:]*:[^:]*)")
_NUMBERED = re.compile(r"(\d{1,3})\s*[\s:=,;.)]\s*(\S.*)")
_NO_CLASS = {"background", "bg", "ignore", "ignored", "void", "unlabeled", "unlabelled", "none"}


@dataclass(frozen=True)
class ClassList:
    """What a list has.

    names: as they stand there; colours: of each name 0xrrggbb, or None, where the list has any;
    first: number of the first name, where the list says so; notes: what was left out of the file.
    """

    path: Path
    names: tuple
    colours: tuple = ()
    first: int | None = None
    notes: tuple = ()

    def num_background(self):
        """Return how many names before the classes' seem to be those of no class, as labelme, VOC
        and others list them: [__ignore__, -1,] _background_, 0; or void, 0; ..."""
        if self.first is not None:
            return 1 - self.first
        before = [name for name in self.names[:2] if is_background(name)]
        if len(before) == 2 and _word(before[0]) == "ignore":
            return 2
        return int(before[:1] == list(self.names[:1]) != [])


def is_background(name: str) -> bool:
    """Return whether a name is one that other programs have for what is no class."""
    return _word(name) in _NO_CLASS


def _word(name):
    return name.casefold().strip("_- ")


def read_class_list(path):
    """Return the ClassList of a file.

    Raises UserError where it has no names or too many, one is empty, too long, not printable or
    given twice, or colours are missing or not distinct.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        listed = _parse_json(path, json.loads(text)) if text.lstrip()[:1] in ("[", "{") \
            else _parse_lines(path, text)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; write the class names into it, one a line") \
            from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: neither text nor a JSON list ({type(error).__name__})") from None
    _check_names(listed)
    _check_colours(listed)
    return listed


def _parse_json(path, content):
    """Return the ClassList of what JSON has: a list, {name: colour}, or a COCO file."""
    if isinstance(content, dict) and isinstance(content.get("categories"), list):
        return _parse_categories(path, content["categories"])
    names = list(content)
    colours = [text if isinstance(text, str) and re.fullmatch("#[0-9a-fA-F]{6}", text) else None
               for text in content.values()] if isinstance(content, dict) else []
    if not all(isinstance(name, str) for name in names) or None in colours \
            or content == {}:
        raise UserError(f"{path}: expected a list of names, or an object of names and colours such "
                        'as {"hat": "#ff0000"}')
    return ClassList(path, tuple(map(str.strip, names)),
                     tuple(int(colour[1:], 16) for colour in colours))


def _parse_categories(path, categories):
    """Return the ClassList of a COCO file's categories, whose ids have to be 1..C."""
    try:
        names = {category["id"]: category["name"].strip() for category in categories}
        return ClassList(path, tuple(names[i + 1] for i in range(len(categories))), first=1)
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: a COCO file whose categories do not have the ids 1 to "
                        f"{len(categories)}; masks need a list of names (--classes)") from None


def _parse_lines(path, text):
    """Return the ClassList of a text, one name a line."""
    lines = [line.strip() for line in text.splitlines()]
    kept = [line for line in lines if line and not line.startswith("#")]
    comments = sum(line.startswith("#") for line in lines)
    blank = "\n".join(lines).rstrip("\n").split("\n").count("")
    numbers, bodies = _split_numbers(kept)
    notes = [f"{kind} ({count})" for kind, count in (
        ("comments", comments), ("empty lines", blank), ("numbers", len(numbers or ()))) if count]
    entries = [_split_colour(path, body) for body in bodies]
    names = tuple(name for name, _ in entries)
    colours = tuple(colour for _, colour in entries)
    return ClassList(path, names, colours if any(c is not None for c in colours) else (),
                     numbers[0] if numbers else None, tuple(notes))


def _split_numbers(lines):
    """Return (numbers, rest of each line) where all lines begin with 0, 1, 2, ... or 1, 2, 3, ...;
    else (None, lines)."""
    found = [_NUMBERED.fullmatch(line) for line in lines]
    if not lines or not all(found):
        return None, lines
    numbers = [int(match[1]) for match in found]
    if numbers[0] > 1 or numbers != list(range(numbers[0], numbers[0] + len(lines))):
        return None, lines
    return numbers, [match[2] for match in found]


def _split_colour(path, line):
    """Return (name, colour 0xrrggbb or None) of a line."""
    if match := _COLOUR.fullmatch(line):
        return match[1], int(match[2][1:], 16)
    if match := _CVAT.fullmatch(line):
        parts = [int(part) for part in match[2].split(",")] if match[2] else None
        if parts and max(parts) > 255:
            raise UserError(f"{path}: {line!r} has a colour above 255")
        return match[1].strip(), int.from_bytes(bytes(parts)) if parts else None
    return line, None


def _check_names(listed):
    """Raise UserError for names that are none."""
    num_classes = len(listed.names) - listed.num_background()
    if not 1 <= num_classes <= MAX_CLASSES:
        raise UserError(f"{listed.path}: {num_classes} classes; expected 1 to {MAX_CLASSES}")
    for number, name in enumerate(listed.names, 1):
        if not name or not name.isprintable() or len(name) > _MAX_NAME:
            raise UserError(f"{listed.path}: class {number} has no usable name; expected 1 to "
                            f"{_MAX_NAME} printable characters")
    twice = [name for name, count in collections.Counter(listed.names).items() if count > 1]
    if twice:
        raise UserError(f"{listed.path}: the class {twice[0]!r} is given twice")


def _check_colours(listed):
    """Raise UserError where some classes have colours and others none, or two have the same."""
    before = listed.num_background()
    without = [name for name, colour in zip(listed.names[before:], listed.colours[before:])
               if colour is None]
    if without:
        raise UserError(f"{listed.path}: {without[0]!r} has no colour, other classes have")
    counts = collections.Counter(filter(lambda colour: colour is not None, listed.colours))
    twice = [colour for colour, count in counts.items() if count > 1]
    if twice:
        raise UserError(f"{listed.path}: two names have the colour #{twice[0]:06x}")


def write_class_list(folder, names):
    """Write the names of the numbers 1..C into classes.txt, so that they are read as they are."""
    path = Path(folder) / FILE_NAME
    for text in ("".join(f"{name}\n" for name in names),
                 "".join(f"{number}: {name}\n" for number, name in enumerate(names, 1))):
        listed = _parse_lines(path, text)
        if listed.names == tuple(names) and not listed.colours \
                and not listed.num_background() and text[0] not in "[{":
            break
    else:
        categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
        text = json.dumps({"categories": categories}, ensure_ascii=False)
    atomic_write(path, text)
