"""What a set's masks have in them, looked at before anything is converted, and so what they mean.

One mask does not say whether its list of classes begins with the background, whether 255 is a class
or what is to be ignored, or whether its palette was made for it alone: all of them together do.
"""

import collections
import functools
from dataclasses import dataclass, replace

import numpy as np

from dataprep.masks import IGNORE, WHITE, Coding, PhotoError, read_pixels
from dataprep.process_pool import ordered_map
from dnnlib import util
from dnnlib.data import channels
from dnnlib.data.class_list import is_background
from dnnlib.util import UserError

_BATCH = 16  # masks that a worker looks at once
_FEW = 200  # fewer masks are looked at sooner than processes start
_MAX_COLOURS = 1000  # of one mask that are remembered; more are no classes
_SHOWN = 8  # colours in a warning
_BLACK, _WHITE = 0, 0xFFFFFF


@dataclass(frozen=True)
class Seen:
    """What one mask has: its name, kind (as dataprep.masks.Pixels), {value: pixels}, and {value:
    colour 0xrrggbb}."""

    key: str
    kind: str
    counts: dict
    colours: dict

    def numbers(self):
        """Return the counts {number: pixels}; those of grey that is stored as RGB, too."""
        if self.kind != "rgb":
            return self.counts
        return {value & 0xFF: count for value, count in self.counts.items()}


def look(source, keys, workers):
    """Return [Seen] of the masks of `source` that can be read; conversion will say why others
    cannot."""
    batches = [keys[first:first + _BATCH] for first in range(0, len(keys), _BATCH)]
    found = ordered_map(functools.partial(_look_at, source), batches,
                        workers if len(keys) > _FEW else 1)
    seen = []
    with util.progress(total=len(keys), desc="looking at masks", unit="mask") as bar:
        for batch, results in zip(batches, found):
            seen += results
            bar.update(len(batch))
    return seen


def _look_at(source, keys):
    return [seen for key in keys if (seen := _see(source, key)) is not None]


def _see(source, key):
    """Return the Seen of one mask; None where it is unreadable."""
    try:
        pixels = read_pixels(source.read(key))
    except PhotoError:
        return None
    counts = dict(list(pixels.counts().items())[:_MAX_COLOURS])
    return Seen(key, pixels.kind, counts, {value: pixels.colour(value) for value in counts})


def decide(listed, seen, ignore, say):
    """Return (class names of the numbers 1..C, Coding) of a set's masks.

    Args:
        listed: a dnnlib.data.class_list.ClassList.
        seen: [Seen] of all masks.
        ignore: number that counts as background; None: 255 where it is no class.
        say: prints a line.

    Raises UserError where what the masks mean is not certain.
    """
    if listed.notes:
        say(f"{listed.path}: left out: {', '.join(listed.notes)}")
    coding = Coding(0, ignore if ignore is not None else IGNORE)
    if listed.colours:
        coding = replace(coding, numbers_in=_kinds_of_numbers(listed, seen))
    elif not any(_has_colours(mask) for mask in seen):
        coding = replace(coding, numbers_in=coding.numbers_in | {"rgb"})
    numbered = [mask for mask in seen if mask.kind in coding.numbers_in]
    before = _num_before(listed, numbered, coding.ignore, say)
    classes = listed.names[before:]
    coding = replace(coding, num_classes=len(classes))
    if ignore is None and len(classes) >= IGNORE:
        coding = replace(coding, ignore=None)
    elif ignore is not None and 1 <= ignore <= len(classes):
        raise UserError(f"--ignore={ignore} is the class {classes[ignore - 1]!r}; expected a "
                        f"number above {len(classes)}")
    coding = replace(coding, colours=_listed_colours(listed, before) if listed.colours
                     else _known_colours(listed, seen, coding, say))
    _check_palettes(listed, [mask for mask in numbered if mask.kind == "palette"], coding, say)
    coding = _decide_white(coding, numbered, ignore, classes, say)
    _say_ignored(coding, numbered, ignore, say)
    return classes, coding


def _has_colours(mask):
    """Return whether a mask is RGB, and not of greys only."""
    return mask.kind == "rgb" and any(value != (value & 0xFF) * 0x010101 for value in mask.counts)


def _kinds_of_numbers(listed, seen):
    """Return the kinds of masks whose numbers count though classes have colours: grey ones, unless
    all their greys are in the list."""
    greys = set().union(*(mask.colours.values() for mask in seen if mask.kind == "grey")) - {_BLACK}
    return frozenset() if greys and greys <= set(listed.colours) else frozenset({"grey"})


def _num_before(listed, numbered, ignore, say):
    """Return how many names of a list come before that of number 1.

    Raises UserError where the masks contradict the list.
    """
    before = listed.num_background()
    if not before:
        return 0
    name = listed.names[before - 1]
    if not is_background(name):
        raise UserError(f"{listed.path}: number 0 is {name!r}, but 0 is always the background; "
                        "give masks whose classes have the numbers from 1 on")
    num_classes = len(listed.names) - before
    shown = set().union(*(mask.numbers() for mask in numbered)) - {ignore}
    if shown and (0 not in shown or num_classes + 1 in shown):
        found = f"have the number {num_classes + 1}" if 0 in shown else "never have the number 0"
        raise UserError(
            f"{listed.path}: begins with {name!r}, which would be number 0, but the masks {found}; "
            f"take that line out, or number the lines (1: {name}) if it is a class")
    say(f"{listed.path}: {name!r} is number 0, the background; classes count from "
        f"1: {listed.names[before]}")
    return before


def _listed_colours(listed, before):
    """Return ((colour, label), ...) of a list: black is the background if nothing else is."""
    labels = [0] * before + list(range(1, len(listed.names) - before + 1))
    table = dict(zip(listed.colours, labels))
    table.pop(None, None)
    if 0 not in table.values():
        table.setdefault(_BLACK, 0)
    return tuple(table.items())


def _known_colours(listed, seen, coding, say):
    """Return ((colour, label), ...) of the palette that all RGB masks have, ours or VOC's; ()
    where there are none, or of other colours, which are named."""
    coloured = [mask for mask in seen if mask.kind == "rgb"]
    if "rgb" in coding.numbers_in or not coloured:
        return ()
    shown = set().union(*(mask.counts for mask in coloured))
    count = coding.num_classes
    for name, palette in (("this program's", channels.palette(count)), ("VOC's", _voc_palette())):
        colours = [int.from_bytes(bytes(colour)) for colour in palette.tolist()]
        table = {colour: label for label, colour in enumerate(colours[:count + 1])}
        if coding.ignore is not None and coding.ignore < len(colours):
            table.setdefault(colours[coding.ignore], 0)
        if shown <= table.keys():
            say(f"{len(coloured)} masks are RGB: their colours are {name} for the numbers 0 to "
                f"{count}")
            return tuple(table.items())
    colours = ", ".join(f"#{colour:06x}" for colour in sorted(shown)[:_SHOWN])
    say(f"warning: {len(coloured)} masks are RGB and {listed.path} does not say what their colours "
        f"mean ({colours}{', ...' if len(shown) > _SHOWN else ''}); write them into it (name "
        "#rrggbb)")
    return ()


def _voc_palette():
    """Return the colours of PASCAL VOC's masks, uint8 [256, 3]: each third bit of the number, from
    the lowest on, is a bit of a colour, from the highest on."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    bits = np.pad(bits, ((0, 0), (0, 1))).reshape(256, 3, 3)  # [number, place, colour]
    return np.packbits(np.pad(bits, ((0, 0), (0, 5), (0, 0))), axis=1)[:, 0]


def _check_palettes(listed, masks, coding, say):
    """Raise UserError where a number has another colour in some palettes, as in those that are made
    for each picture; say so where the background's colour is unusual."""
    owners = collections.defaultdict(dict)  # {number: {colour: name of the first mask}}
    for mask in masks:
        for number, colour in mask.colours.items():
            if number != coding.ignore:
                owners[number].setdefault(colour, mask.key)
    for number, keys in sorted(owners.items()):
        if len(keys) > 1:
            (first, one), (second, other) = list(keys.items())[:2]
            raise UserError(
                f"masks' palettes differ: the number {number} is {_hex(first)} in {one} and "
                f"{_hex(second)} in {other}, so that numbers may not mean the same; write the "
                f"colours into {listed.path} (name #rrggbb), or save all with one palette")
    colours = {number: next(iter(keys)) for number, keys in owners.items()}
    black = [number for number, colour in colours.items() if number and colour == _BLACK]
    background = colours.get(0, _BLACK)
    if background not in (_BLACK, _WHITE) or (black and background != _BLACK):
        also = f", and number {black[0]} is black" if black else ""
        say(f"warning: the number 0, which is the background, is {_hex(background)} in the masks' "
            f"palette{also}; look whether classes and background are exchanged")


def _hex(colour):
    """Return a colour as it is shown."""
    return "without a colour" if colour is None else f"#{colour:06x}"


def _decide_white(coding, numbered, ignore, classes, say):
    """Return the coding, in which 255 is class 1 where masks have 0 and 255 only and there is one
    class. Raises UserError where there are several."""
    shown = set().union(*(mask.numbers() for mask in numbered))
    if ignore is not None or coding.ignore is None or WHITE not in shown or shown - {0, WHITE}:
        return coding
    if len(classes) > 1:
        raise UserError(f"the masks have the numbers 0 and {WHITE} only, as masks of one class do, "
                        f"and {len(classes)} classes are listed; masks of several classes have the "
                        f"numbers 1 to {len(classes)}, or colours that the list gives (name "
                        "#rrggbb)")
    say(f"the masks have the numbers 0 and {WHITE} only: {WHITE} is {classes[0]!r}, the one class")
    return replace(coding, white=True, ignore=None)


def _say_ignored(coding, numbered, ignore, say):
    """One line: in how many masks, and of how many pixels, numbers are ignored."""
    ignored = [mask.numbers()[coding.ignore] for mask in numbered
               if coding.ignore in mask.numbers()]
    if ignored:
        share = sum(ignored) / sum(sum(mask.counts.values()) for mask in numbered)
        say(f"mask value {coding.ignore} counts as background: {sum(ignored):,} pixels "
            f"({100 * share:.2g} %) in {len(ignored)} of {len(numbered)} masks")
    elif ignore is not None:
        say(f"warning: no mask has the value {ignore} of --ignore")
