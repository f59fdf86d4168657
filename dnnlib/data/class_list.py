"""Read lists of class names: one name per line, with or without numbers and colours, or JSON.

A line is a name, `name #rrggbb` with its colour in masks, or a line of CVAT's labelmap.txt,
`name:r,g,b:parts:actions`. Lines may begin with their numbers, `1: hat`, in any order from 0 or 1
on; `255: void` is not a class. Empty lines and those that begin with # are left out. A line that
seems to have a colour in another form (`hat ff0000`, `#ff0000 hat`) is an error. JSON is a list of
names, an object {name: "#rrggbb"}, or a COCO file, whose categories are taken.
"""

import collections
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dnnlib.data.channels import MAX_CLASSES
from dnnlib.suggestions import did_you_mean
from dnnlib.util import UserError, atomic_write

FILE_NAME = "classes.txt"
_MAX_NAME = 100
_SHOWN = 8  # numbers in an error
_COLOUR = re.compile(r"(.*[^\s,;:=])[\s,;:=]+(#[0-9a-fA-F]{6})")
# What is probably a colour too: at the end of a line, or in front. Six letters may be a word.
_HEX = r"(?:(?=[a-fA-F]*\d)[0-9a-fA-F]{6}|[fF]{6})"
_LIKE_COLOUR = (
    re.compile(rf"(?P<name>.+?)[\s,;:=(]+(?:0x)?(?P<colour>{_HEX}|#[0-9a-fA-F]{{3}}|"
               r"\d{1,3}(?:[\s,;]+\d{1,3}){2})\)?"),
    re.compile(rf"#?(?P<colour>{_HEX})[\s,;:=]+(?P<name>\S.*)"))
_CVAT = re.compile(r"([^:]+):(?:(\d{1,3}(?:,\s*\d{1,3}){2})(?::[^:]*){0,2}|:[^:]*:[^:]*)")
_NUMBERED = re.compile(r"(-?\d{1,3})\s*[\s:=,;.)]\s*(\S.*)")
_NO_CLASS = {"background", "bg", "ignore", "ignored", "void", "unlabeled", "unlabelled", "none"}
_TO_IGNORE = (-1, 255)  # numbers of pixels to ignore in other programs' masks


@dataclass(frozen=True)
class ClassList:
    """The content of a list of class names.

    Attributes:
        colours: 0xrrggbb of each name, or None; () if the list has none.
        first: number of the first name, if the list has numbers.
        notes: what was left out of the file.
    """

    path: Path
    names: tuple
    colours: tuple = ()
    first: int | None = None
    notes: tuple = ()

    def num_background(self) -> int:
        """Return how many names come before those of classes, as in lists of labelme, VOC and
        others: [__ignore__, -1,] _background_, 0; or void, 0; ..."""
        if self.first is not None:
            return 1 - self.first
        are_background = [is_background(name) for name in self.names[:2]]
        if all(are_background) and len(self.names) > 1 and _word(self.names[0]) == "ignore":
            return 2
        return int(are_background[:1] == [True])


def is_background(name: str) -> bool:
    """Return whether other programs use a name for pixels of no class."""
    return _word(name) in _NO_CLASS


def _word(name):
    return name.casefold().strip("_- ")


def fold_name(name: str) -> str:
    """Return the letters and digits of a name, equal for "scarf & tie" and "Scarf/Tie"."""
    words = re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", name).casefold())
    return "".join(word for word in words if word != "and")


def find_class(name: str, classes: Sequence[str], option: str = "") -> str:
    """Return the class that `name` means, ignoring case and punctuation. Raises UserError if there
    is none, or several. option: "--only-classes", with which the error begins."""
    same = [known for known in classes if fold_name(known) == fold_name(name) != ""]
    if name in classes or len(same) == 1:
        return name if name in classes else same[0]
    guess = f"; did you mean {' or '.join(map(repr, same))}?" if same else did_you_mean(
        fold_name(name), {fold_name(known): repr(known) for known in classes if fold_name(known)})
    where = f"{option}: " if option else ""
    raise UserError(f"{where}{name!r} is none of the classes {', '.join(classes)}{guess}")


def read_class_list(path: str | Path) -> ClassList:
    """Return the ClassList of a file. Raises UserError if it has none, or if its names or colours
    are not usable for classes."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        listed = _parse_json(path, json.loads(text)) if text.lstrip()[:1] in ("[", "{") \
            else _parse_lines(path, text)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; write the class names into it, one per line") \
            from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: neither text in UTF-8 nor a JSON list "
                        f"({type(error).__name__})") from None
    # Check that there are usable names, and that all of them have a colour, or none has.
    before = listed.num_background()
    num_classes = len(listed.names) - before
    if not 1 <= num_classes <= MAX_CLASSES:
        raise UserError(f"{path}: {num_classes} classes; expected 1 to {MAX_CLASSES}")
    if before and not is_background(listed.names[before - 1]):
        raise UserError(f"{path}: number 0 is {listed.names[before - 1]!r}, but 0 is always the "
                        "background; number the classes from 1 on, in masks too")
    for number, name in enumerate(listed.names, 1):
        if not name or not name.isprintable() or len(name) > _MAX_NAME:
            raise UserError(f"{path}: class {number} has no usable name; expected 1 to "
                            f"{_MAX_NAME} printable characters")
    for name, colour in list(zip(listed.names, listed.colours))[before:]:
        if colour is None:
            raise UserError(f"{path}: {name!r} has no colour, other classes have")
    # Check that nothing is given twice.
    for name, count in collections.Counter(listed.names).items():
        if count > 1:
            raise UserError(f"{path}: the class {name!r} is given twice")
    for colour, count in collections.Counter(listed.colours).items():
        if count > 1 and colour is not None:
            raise UserError(f"{path}: two names have the colour #{colour:06x}")
    return listed


def _parse_json(path, content):
    """Return the ClassList of a JSON value: a list, {name: colour}, or a COCO file."""
    if isinstance(content, dict) and isinstance(categories := content.get("categories"), list):
        try:
            names = {category["id"]: category["name"].strip() for category in categories}
            return ClassList(path, tuple(names[i + 1] for i in range(len(categories))), first=1)
        except (KeyError, TypeError, AttributeError):
            raise UserError(f"{path}: a COCO file whose categories do not have the ids 1 to "
                            f"{len(categories)}; masks need a list of names (--classes)") from None
    names = list(content)
    colours = [isinstance(text, str) and re.fullmatch("#[0-9a-fA-F]{6}", text)
               for text in content.values()] if isinstance(content, dict) else []
    if not all(isinstance(name, str) for name in names) or not all(colours) or content == {}:
        raise UserError(f"{path}: expected a list of names, or an object of names and colours such "
                        'as {"hat": "#ff0000"}')
    return ClassList(path, tuple(map(str.strip, names)),
                     tuple(int(colour[0][1:], 16) for colour in colours))


def _parse_lines(path, text):
    """Return the ClassList of a text, one name per line."""
    lines = [line.strip() for line in text.rstrip().splitlines()]
    for line in lines:
        if line[:1] == "#" and (like := _LIKE_COLOUR[1].fullmatch(line)):
            raise UserError(_ask_for_colour(path, line, like))
    bodies = [line for line in lines if line and line[0] != "#"]
    numbered = [_numbered(path, line) for line in bodies]
    first, ignored = None, []
    if numbered and all(numbered):
        first, bodies, ignored = _in_order(path, numbered)
    notes = [f"{kind} ({count})" for kind, count in (
        ("comments", sum(line[:1] == "#" for line in lines)), ("empty lines", lines.count("")),
        ("numbers", len(numbered) if first is not None else 0)) if count]
    names, colours = zip(*(_split_colour(path, body) for body in bodies)) if bodies else ((), ())
    return ClassList(path, names, colours if any(c is not None for c in colours) else (),
                     first, (*notes, *ignored))


def _numbered(path, line):
    """Return (number, rest of the line); None without one, or if it is itself a name with a colour.
    """
    match = _NUMBERED.fullmatch(line)
    if not match or _split_colour(path, line)[0].isdecimal():
        return None
    return int(match[1]), match[2]


def _in_order(path, numbered):
    """Return (number of the first line, lines in the order of their numbers, lines left out) of
    [(number, line)]. Names of pixels that masks ignore are left out, or come first if they have a
    colour. Raises UserError if numbers are missing or given twice."""
    rest, before, left_out = [], [], []
    for number, line in sorted(numbered):
        name, colour = _split_colour(path, line)
        if number not in _TO_IGNORE or not is_background(name):
            rest.append((number, line))
        elif colour is not None:
            before.append(line)
        else:
            left_out.append(f"{number}: {name}")
    numbers = [number for number, _ in rest]
    if numbers and numbers not in (list(range(len(rest))), list(range(1, len(rest) + 1))):
        there = ", ".join(map(str, numbers[:_SHOWN])) + ", ..." * (len(numbers) > _SHOWN)
        raise UserError(f"{path}: its lines begin with the numbers {there}, which leave some out "
                        "or repeat some; list every number from 0 or 1 on (names that begin with "
                        'numbers: as JSON, ["2 cents", ...])')
    first = (numbers[0] if numbers else 1) - len(before)
    return first, before + [line for _, line in rest], left_out


def _split_colour(path, line):
    """Return (name, colour 0xrrggbb or None) of a line; raise UserError if that is not certain."""
    if match := _COLOUR.fullmatch(line):
        return match[1], int(match[2][1:], 16)
    if match := _CVAT.fullmatch(line):
        parts = [int(part) for part in match[2].split(",")] if match[2] else None
        if parts and max(parts) > 255:
            raise UserError(f"{path}: {line!r} has a colour above 255")
        return match[1].strip(), int.from_bytes(bytes(parts)) if parts else None
    if like := next(filter(None, (form.fullmatch(line) for form in _LIKE_COLOUR)), None):
        raise UserError(_ask_for_colour(path, line, like))
    return line, None


def _ask_for_colour(path, line, like):
    """Return an error about a line that is probably a name and a colour."""
    colour = like["colour"].removeprefix("#")
    if len(colour) == 3:
        colour = "".join(2 * digit for digit in colour)
    elif len(colour) != 6 or not colour.isalnum():
        colour = "".join(f"{min(int(part), 255):02x}" for part in re.findall(r"\d+", colour))
    return (f"{path}: {line!r}: if {like['colour']} is a colour, write {like['name']} #{colour}; "
            f"if it belongs to the name, write the list as JSON, [{json.dumps(line)}, ...]")


def write_class_list(folder: str | Path, names: Sequence[str]) -> None:
    """Write the names of the labels 1..C to classes.txt, in a form that reads back as these names.
    """
    path = Path(folder) / FILE_NAME
    for text in ("".join(f"{name}\n" for name in names),
                 "".join(f"{number}: {name}\n" for number, name in enumerate(names, 1))):
        if _is_read_as(path, text, names):
            break
    else:
        categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
        text = json.dumps({"categories": categories}, ensure_ascii=False)
    atomic_write(path, text)


def _is_read_as(path, text, names):
    """Return whether a text of lines reads back as exactly these names."""
    try:
        listed = _parse_lines(path, text)
    except UserError:
        return False
    return listed.names == tuple(names) and not listed.colours \
        and not listed.num_background() and text[0] not in "[{"
