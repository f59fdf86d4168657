"""Find the photo file of an image entry, by its file name or its id."""

import collections
import itertools
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
# Suffixes of files that may be found under another name; reading them shows if they are pictures.
_PICTURES = (*IMAGE_SUFFIXES, "", ".jfif", ".gif", ".tif", ".tiff", ".heic", ".avif")
MAX_BYTES = 2**28  # a little more than the largest picture that is decoded, uncompressed
MISSING = "photo is missing"
SEVERAL = "several files have the id as name"
NUMBER_DIFFERS = "the number in file_name is not the id: file_name decides"
_AMBIGUOUS = "photo is ambiguous: several files have its name"
_OTHER_NUMBER = MISSING + " (file_name is not there, and its number is not the id)"


class Found(NamedTuple):
    """The file of an image entry: its key in the source, or None and the reason; remarks for the
    user on how it was found, ((kind, instance), ...); and whether its name was exactly as given."""

    key: object
    reason: str | None = None
    remarks: tuple = ()
    exact: bool = False


def leads_out(name: str) -> bool:
    """Return whether a path, with slashes of either kind, could leave its folder: is absolute or
    contains `..`."""
    parts = re.split(r"[/\\]", name)
    return ".." in parts or not parts[0] or bool(re.match("[A-Za-z]:", name))


def may_block(path: Path) -> bool:
    """Return whether a path is a pipe, a socket or a device, where reading could block for ever."""
    return path.exists() and not path.is_file() and not path.is_dir()


def name_number(file_name: str) -> int | None:
    """Return a file's name, without folder and suffix, as a number; None if it is not a number."""
    stem = PurePosixPath(file_name.replace("\\", "/")).stem
    return int(stem) if re.fullmatch("[0-9]{1,16}", stem) else None


class NameIndex:
    """An index that finds files by the `file_name` and the id of image entries.

    If there are files of the name in `file_name`, the one whose path agrees in most parts, from the
    end, is taken; Unicode forms are equal (NFC). Otherwise it is the file whose name differs only
    in case or suffix, then the one whose name is the id, with or without leading zeros, unless
    `file_name` is another number. If two files agree equally well, none is taken. Among several
    files of an id, `%07d.jpg` comes first, then the least deep, then the order of names. A file in
    another folder is never taken if the folder in `file_name` exists.
    """

    def __init__(self, names: Iterable[str]) -> None:
        tables = [collections.defaultdict(list) for _ in range(3)]
        self._by_name, self._by_stem, self._by_id = tables
        self._folders = set()
        for name in sorted(names, key=_preference):
            parts = _parts(name)
            if not parts or parts[-1].startswith("."):
                continue
            keys = [parts[-1], None, None]
            if PurePosixPath(parts[-1]).suffix.lower() in _PICTURES:
                keys[1:] = _folded(parts)[-1], name_number(parts[-1])
            for table, key in zip(tables, keys):
                # Names that lead out of the folder come last: they count if there are no others.
                if key is not None and not (leads_out(name) and key in table):
                    table[key].append(name)
                    for folder in parts[-2:-1]:
                        table[folder, key].append(name)
            self._folders.update(parts[-2:-1])

    def find(self, image_id: int, file_name: str) -> Found:
        """Return the file of an image entry, or why there is none."""
        wanted = _parts(file_name)
        number = name_number(file_name)
        found = self._choose(wanted, self._named(self._by_name, wanted[-1], wanted)) \
            if wanted else None
        if wanted and found is None and number != image_id:
            found = self._choose(wanted, self._named(self._by_stem, _folded(wanted)[-1], wanted),
                                 _folded)
        if found is None and number not in (None, image_id):
            return Found(None, _OTHER_NUMBER)
        found = found or self._by_number(image_id, wanted)
        doubts = self._doubts(image_id, wanted, found.key) if found.key is not None else ()
        return found._replace(remarks=(*found.remarks, *doubts))

    def _choose(self, wanted, names, form=list):
        """Return the Found of the name whose parts, after form(parts), agree best from the end;
        None if there is none."""
        parts = {name: _parts(name) for name in names}
        if not parts:
            return None
        # Choose those that agree in most parts; among several, the one without further parts.
        agreeing = {name: _agreement(form(wanted), form(found)) for name, found in parts.items()}
        most = max(agreeing.values())
        best = [name for name in parts if agreeing[name] == most]
        whole = [name for name in best if len(parts[name]) == most]
        if len(best) > 1 and len(whole) != 1:
            return Found(None, _AMBIGUOUS)
        # Remark on differences.
        name = whole[0] if len(whole) == 1 else best[0]
        remarks = []
        if parts[name][-1] != wanted[-1]:
            kind = "case" if _lower(parts[name][-1]) == _lower(wanted[-1]) else "suffix"
            remarks.append((f"the file differs from file_name in {kind}",
                            f"{wanted[-1]}: {name} is taken"))
        sure = most == min(len(wanted), len(parts[name]))
        if not sure:
            remarks.append(("the folder in file_name is not there, the rest of the name is",
                            f"{'/'.join(wanted)}: {name} is taken"))
        return Found(name, None, tuple(remarks), sure and form is list)

    def _named(self, table, key, wanted):
        """Return the names of a key; if a folder named like that of `wanted` exists, only those in
        it."""
        for folder in self._folders.intersection(wanted[-2:-1]):
            key = folder, key
        return table.get(key, ())

    def _by_number(self, image_id, wanted):
        """Return the Found of the file whose name is the id."""
        names = self._named(self._by_id, image_id, wanted)
        if not names:
            return Found(None, MISSING)
        remarks = []
        if wanted and name_number(wanted[-1]) is None:
            remarks.append(("file_name is not there, the id is taken",
                            f"{wanted[-1]}, id {image_id}: {names[0]}"))
        elif wanted and PurePosixPath(wanted[-1]).suffix != PurePosixPath(names[0]).suffix:
            remarks.append(("the file differs from file_name in suffix",
                            f"{wanted[-1]}: {names[0]} is taken"))
        return Found(names[0], None, tuple(remarks))

    def _doubts(self, image_id, wanted, taken):
        """Yield remarks if the number in a name differs from the id, or several files have the id.
        """
        names = self._by_id.get(image_id, [])
        number = name_number(wanted[-1]) if wanted else None
        if number not in (None, image_id):
            other = f" would take {names[0]}" if names else ""
            yield NUMBER_DIFFERS, f"file_name says {wanted[-1]}, id {image_id}{other}"
        elif len(names) > 1 and taken in names and len(wanted) < 2:
            others = ", ".join(name for name in names if name != taken)
            yield SEVERAL, f"id {image_id}: {taken}, not {others}"


def _parts(name):
    """Return the parts of a path with slashes of either kind, after the last `..`."""
    parts = re.split(r"[/\\]", unicodedata.normalize("NFC", name))
    while ".." in parts:
        parts = parts[parts.index("..") + 1:]
    return [part for part in parts if part not in ("", ".")]


def _folded(parts):
    """Return the parts of a path in lower case and without suffix."""
    return [_lower(part) for part in (*parts[:-1], PurePosixPath(parts[-1]).stem)]


def _lower(text):
    """Return a text in lower case, normalised again, as some letters change their Unicode form."""
    return unicodedata.normalize("NFC", text.casefold())


def _agreement(first, second):
    """Return the number of parts in which two paths agree, from their ends."""
    pairs = zip(reversed(first), reversed(second))
    return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))


def _preference(name):
    """Return the sort key of the files of one id."""
    path = PurePosixPath(name)
    image_id = name_number(path.name)
    canonical = image_id is not None and path.name == f"{image_id:07d}.jpg"
    return leads_out(name), not canonical, len(path.parts), name
