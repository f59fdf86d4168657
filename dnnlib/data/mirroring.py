"""Find the classes that change places when a picture is mirrored: a left eye becomes a right one.
"""

import re

from dnnlib.util import UserError

NONE = "none"  # --mirror-pairs: no classes change places
_SIDES = {"left": "left", "right": "right", "l": "left", "r": "right"}
_OTHER = {"left": "right", "right": "left"}
# Where a word of a name ends: at signs and blanks, and before the capitals of leftEye, eyeL, LEye.
_WORD_ENDS = re.compile(r"[\W_]+|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def pairs_by_name(classes: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return the pairs (left, right) of classes whose names differ only in the side.

    In l_eye and r_eye, Left-arm and Right-arm, back_left_door and back_right_door, handL and handR,
    the side is a separate word. lefteye and righteye are a pair because both exist; leftover and
    bright have no side. Names that could have several partners get none.
    """
    names = {}
    for name in classes:
        names.setdefault(_words(name), []).append(name)
    found = []
    for words, same in names.items():
        other = names.get(tuple(_OTHER.get(word, word) for word in words), [])
        if _side(words) == "left" and len(same) == len(other) == 1:
            found.append((same[0], other[0]))
    for name in classes:
        other = re.sub("[Ll]eft", lambda match: {"l": "r", "L": "R"}[match[0][0]] + "ight", name)
        if other != name and other in classes and not _side(_words(name)) + _side(_words(other)):
            found.append((name, other))
    return sorted(found, key=lambda pair: classes.index(pair[0]))


def without_partner(classes: tuple[str, ...], pairs: list[tuple[str, str]]) -> list[str]:
    """Return the classes whose names have a side, but which are in no pair."""
    paired = {name for pair in pairs for name in pair}
    return [name for name in classes if name not in paired and _side(_words(name))
            and name.lower() not in ("l", "r")]


def parse_pairs(text: str | None, classes: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return the pairs that --mirror-pairs names: 'a:b,c:d', 'none', or None for those by name.

    Raises UserError if these are not pairs of these classes, with each class once at most.
    """
    if text is None:
        return pairs_by_name(classes)
    if text == NONE:
        return []
    name = "|".join(re.escape(name) for name in sorted(classes, key=len, reverse=True))
    pairs = re.findall(f"({name}):({name})(?:,|$)", text) if classes else []
    named = [name for pair in pairs for name in pair]
    if pairs_text(pairs) != text or len(set(named)) < len(named):
        raise UserError(f"--mirror-pairs={text}: expected none, or pairs such as l_eye:r_eye,"
                        "l_arm:r_arm of the data set's classes, each class once; they are "
                        f"{', '.join(classes) or 'none'}")
    return pairs


def pairs_text(pairs: list[tuple[str, str]]) -> str:
    """Return pairs as --mirror-pairs takes them."""
    return ",".join(":".join(pair) for pair in pairs) or NONE


def mirrored_order(pairs: list[tuple[str, str]], classes: tuple[str, ...]) -> list[int] | None:
    """Return for every class the number, from 0, of the class whose map it gets in a mirrored
    picture; None if all keep their own."""
    if not pairs:
        return None
    partners = dict(pairs) | {right: left for left, right in pairs}
    return [classes.index(partners.get(name, name)) for name in classes]


def mirroring_lines(text: str | None, classes: tuple[str, ...]) -> list[str]:
    """Return what a training reports about --mirror-pairs: the pairs, and classes without one."""
    pairs = parse_pairs(text, classes)
    alone = without_partner(classes, pairs)
    lines = [f"mirrored photos swap the classes {pairs_text(pairs)}"] if pairs else []
    if alone:
        lines.append(f"warning: {', '.join(alone)}: named after a side, but not swapped in "
                     "mirrored photos, so that both sides are learned under one name; give "
                     "--mirror-pairs=LEFT:RIGHT,... with all pairs, or --no-mirror")
    return lines


def _words(name):
    """Return the words of a name in lower case; l and r become left and right."""
    words = [word.lower() for word in _WORD_ENDS.split(name) if word]
    return tuple(_SIDES.get(word, word) for word in words)


def _side(words):
    """Return the first side among words, '' if there is none."""
    return next((word for word in words if word in _OTHER), "")
