"""Read PNG masks, and decide what their pixels mean.

Pixels are numbers (0 the background, 1..C the classes) of a palette or grey PNG, or colours from
the list of classes (see dnnlib.data.class_list). One number, 255 unless another is given, is to be
ignored: it counts as background, or gets a label of its own. All masks of a set together decide
whether a list begins with the background, whether 255 is a class, and whether masks have different
palettes.
"""

import collections
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from dataprep import photo_sources
from dnnlib.data import channels
from dnnlib.data.class_list import ClassList, is_background
from dnnlib.data.photos import GREY_ALPHA, PALETTE, RGB, RGBA, PhotoError, read_png_values
from dnnlib.process_pool import map_in_batches
from dnnlib.util import UserError

IGNORE = 255
_BATCH = 16  # masks that a worker reads at once
_FEW = 200  # reading fewer masks takes less time than starting processes
_MAX_COLOURS = 1000  # that are kept of one mask; so many cannot be classes
_SHOWN = 8  # colours in a warning
_BLACK = 0


# The pixels of one mask

@dataclass(frozen=True)
class Coding:
    """The meaning of the pixels of a set's masks."""

    num_classes: int
    ignore: int | None = IGNORE  # number that is to be ignored
    ignored: int = 0  # label that it gets; in data sets, the background's
    white: bool = False  # 255 is class 1
    colours: tuple = ()  # ((0xrrggbb, label), ...) if the masks' colours count
    numbers_in: frozenset = frozenset({"grey", "palette"})  # kinds of Pixels that are numbers


@dataclass(frozen=True)
class Pixels:
    """The pixels of a mask. kind "grey" or "palette": values [h, w] are numbers; "rgb": 0xrrggbb.
    palette: colours 0xrrggbb of the numbers."""

    kind: str
    values: np.ndarray
    palette: tuple = ()

    def colour(self, value: int) -> int | None:
        """Return the colour 0xrrggbb of a value; None if the palette has none."""
        if self.kind == "palette":
            return self.palette[value] if value < len(self.palette) else None
        return value * 0x010101 if self.kind == "grey" else value

    def counts(self) -> dict[int, int]:
        """Return {value: pixels}."""
        values, pixels = np.unique(self.values, return_counts=True)
        return dict(zip(values.tolist(), pixels.tolist()))


@dataclass(frozen=True)
class Mask:
    """The label map of one photo, in a PNG of the same size."""

    source: photo_sources.PhotoFolder
    key: str
    coding: Coding

    def label_map(self, size: tuple[int, int]) -> np.ndarray:
        """Return the label map uint8 [h, w] of a photo of `size` = (w, h). Raises PhotoError if the
        file is unreadable, of another size, background only, or has pixels that are no class."""
        pixels = read_pixels(self.source.read(self.key), size)
        counts = pixels.counts()
        labels = {value: label_of(self.coding, pixels, value) for value in counts}
        if {*labels.values()} <= {0, self.coding.ignored}:
            hint = f" (value {self.coding.ignore} counts as background)" \
                if pixels.kind != "rgb" and self.coding.ignore in counts else ""
            raise PhotoError(f"mask shows background only{hint}")
        table = np.zeros(max(labels) + 1, np.uint8)
        table[list(labels)] = list(labels.values())
        return table[pixels.values]


def label_of(coding: Coding, pixels: Pixels, value: int) -> int:
    """Return the label of a value of `pixels`. Raises PhotoError if it has none."""
    colour = pixels.colour(value)
    if pixels.kind not in coding.numbers_in:
        label = dict(coding.colours).get(colour)
        if label is None and pixels.kind == "palette" and value == coding.ignore:
            return coding.ignored
        if label is None:
            where = "list of classes" if coding.colours else "list of classes, which has no colours"
            shown = f"colour #{colour:06x}" if colour is not None else f"number {value} (no colour)"
            raise PhotoError(f"mask has the {shown} that is not in the {where}")
        return label
    number = value & 0xFF if pixels.kind == "rgb" else value
    if pixels.kind == "rgb" and colour != number * 0x010101:
        raise PhotoError(f"mask has the colour #{value:06x}, other masks have numbers")
    if number == coding.ignore:
        return coding.ignored
    if coding.white and number == IGNORE:
        return 1
    if number > coding.num_classes:
        raise PhotoError(f"mask has the value {number}, above the number of classes "
                         f"({coding.num_classes})")
    return number


def read_pixels(data: bytes, size: tuple[int, int] | None = None) -> Pixels:
    """Return the Pixels of a PNG's bytes, reduced like the photo of `size` = (w, h). Raises
    PhotoError if the PNG is damaged, too large, not a mask, or of another size."""
    kind, values, palette = read_png_values(data, size)
    if kind == PALETTE:
        return Pixels("palette", values, tuple(_pack(palette).tolist()))
    if kind in (GREY_ALPHA, RGBA) and values[..., -1].min() < 255:
        raise PhotoError("mask has transparent pixels")
    if kind in (RGB, RGBA):
        return Pixels("rgb", _pack(values[..., :3]))
    return Pixels("grey", values[..., 0] if kind == GREY_ALPHA else values)


def _pack(colours):
    """Return colours [..., 3] as 0xrrggbb, uint32 [...]."""
    red, green, blue = np.moveaxis(np.asarray(colours, np.uint32), -1, 0)
    return red << 16 | green << 8 | blue


# The content of all masks of a set

@dataclass(frozen=True)
class MaskContent:
    """The content of one mask: its name, its kind (as in Pixels), counts {value: pixels}, colours
    {value: 0xrrggbb}; numbers: counts {number: pixels}, also for grey that is stored as RGB."""

    key: str
    kind: str
    counts: dict
    colours: dict
    numbers: dict


def read_contents(source: photo_sources.PhotoFolder, keys: list, workers: int) -> list[MaskContent]:
    """Return the MaskContent of all masks of `source` that can be read."""
    contents = map_in_batches(functools.partial(_read_content, source), keys,
                              workers if len(keys) > _FEW else 1, _BATCH, "reading masks", "mask")
    return [content for content in contents if content is not None]


def _read_content(source, key):
    """Return the MaskContent of one mask; None if it cannot be read: conversion reports why."""
    try:
        pixels = read_pixels(source.read(key))
    except PhotoError:
        return None
    counts = dict(list(pixels.counts().items())[:_MAX_COLOURS])
    numbers = {value & 0xFF: count for value, count in counts.items()} \
        if pixels.kind == "rgb" else counts
    return MaskContent(key, pixels.kind, counts, {value: pixels.colour(value) for value in counts},
                       numbers)


def decide_coding(listed: ClassList, contents: list[MaskContent], ignore: int | None,
                  report: Callable[[str], None], ignored: int = 0) -> tuple[tuple, Coding]:
    """Return (class names of the numbers 1..C, Coding) of a set's masks. `ignore` is the number
    that is to be ignored (None: 255); it gets the label `ignored`. Raises UserError if the masks
    are ambiguous."""
    if listed.notes:
        report(f"{listed.path}: left out: {', '.join(listed.notes)}")
    coding = Coding(0, ignore if ignore is not None else IGNORE, ignored)
    if listed.colours:
        # Only grey masks can have numbers, and only if not all their greys are in the list.
        greys = set().union(*(mask.colours.values() for mask in contents if mask.kind == "grey"))
        greys -= {_BLACK}
        coding = replace(coding, numbers_in=frozenset() if greys and greys <= set(listed.colours)
                         else frozenset({"grey"}))
    elif not any(value != (value & 0xFF) * 0x010101
                 for mask in contents if mask.kind == "rgb" for value in mask.counts):
        coding = replace(coding, numbers_in=coding.numbers_in | {"rgb"})  # of greys only
    numbered = [mask for mask in contents if mask.kind in coding.numbers_in]
    shown = set().union(*(mask.numbers for mask in numbered))
    if listed.colours and not numbered:
        listed = _background_first(listed)
    before = _num_before(listed, shown - {coding.ignore}, report)
    classes = listed.names[before:]
    coding = replace(coding, num_classes=len(classes))
    _report_count_from_zero(listed, classes, shown, report)
    if ignore is not None and 1 <= ignore <= len(classes):
        raise UserError(f"--ignore={ignore} is the class {classes[ignore - 1]!r}; expected a "
                        f"number above {len(classes)}")
    coding = replace(coding, colours=_listed_colours(listed, before) if listed.colours
                     else _known_colours(listed, contents, coding, report))
    _check_palettes(listed, [mask for mask in numbered if mask.kind == "palette"], coding, report)
    if ignore is None and IGNORE in shown and not shown - {0, IGNORE}:
        if len(classes) > 1:
            raise UserError(
                f"the masks have the numbers 0 and 255 only, as masks of one class do, and "
                f"{len(classes)} classes are listed; masks of several classes have the numbers 1 "
                f"to {len(classes)}, or colours that the list gives (name #rrggbb)")
        report(f"the masks have the numbers 0 and 255 only: 255 is {classes[0]!r}, the one class")
        coding = replace(coding, white=True, ignore=None)
    counts = [mask.numbers[coding.ignore] for mask in numbered if coding.ignore in mask.numbers]
    if counts:
        share = sum(counts) / sum(sum(mask.counts.values()) for mask in numbered)
        how = "is ignored" if coding.ignored else "counts as background"
        report(f"mask value {coding.ignore} {how}: {sum(counts):,} pixels "
               f"({100 * share:.2g} %) in {len(counts)} of {len(numbered)} masks")
    elif ignore is not None:
        report(f"warning: no mask has the value {ignore} of --ignore")
    return classes, coding


def _background_first(listed):
    """Return a list of colours, whose order says nothing about the masks, with the background in
    front: CVAT writes a label of the user's where the user put it."""
    places = [i for i, name in enumerate(listed.names) if is_background(name)]
    black = [i for i in places if listed.colours[i] == _BLACK]
    if listed.num_background() or listed.first is not None or 1 not in (len(places), len(black)):
        return listed
    first, = black if len(black) == 1 else places
    order = [first, *(i for i in range(len(listed.names)) if i != first)]
    return replace(listed, names=tuple(listed.names[i] for i in order),
                   colours=tuple(listed.colours[i] for i in order))


def _num_before(listed, shown, report):
    """Return how many names come before that of number 1. Raises UserError if the numbers `shown`
    in the masks contradict it."""
    before = listed.num_background()
    if not before:
        return 0
    name, over = listed.names[before - 1], len(listed.names) - before + 1
    if shown and (0 not in shown or over in shown):
        found = f"have the number {over}" if 0 in shown else "never have the number 0"
        raise UserError(
            f"{listed.path}: begins with {name!r}, which would be number 0, but the masks {found}; "
            f"take that line out, or number the lines (1: {name}) if it is a class")
    report(f"{listed.path}: {name!r} is number 0, the background; classes count from "
           f"1: {listed.names[before]}")
    return before


def _report_count_from_zero(listed, classes, shown, report):
    """Warn if the masks' numbers seem to count the names of an unnumbered list from 0."""
    count = len(classes)
    if listed.first is None and classes == listed.names and count > 1 \
            and set(range(count)) <= shown and count not in shown:
        report(f"warning: no mask has the number {count} ({classes[-1]!r}), and 0 is the "
               f"background; if 0 is {classes[0]!r} in the masks, all labels are shifted: add 1 to "
               "the masks' numbers")


def _listed_colours(listed, before):
    """Return ((colour, label), ...) of a list; black is the background unless the list has one."""
    labels = [0] * before + list(range(1, len(listed.names) - before + 1))
    table = dict(zip(listed.colours, labels))
    table.pop(None, None)
    if 0 not in table.values():
        table.setdefault(_BLACK, 0)
    return tuple(table.items())


def _known_colours(listed, contents, coding, report):
    """Return ((colour, label), ...) of RGB masks in this program's colours or VOC's; () for others,
    after a warning, or if there are none."""
    coloured = [mask for mask in contents if mask.kind == "rgb"]
    if "rgb" in coding.numbers_in or not coloured:
        return ()
    shown = set().union(*(mask.counts for mask in coloured))
    count = coding.num_classes
    for name, palette in (("this program's", channels.palette(count)), ("VOC's", _voc_palette())):
        colours = _pack(palette).tolist()
        table = {colour: label for label, colour in enumerate(colours[:count + 1])}
        if coding.ignore is not None and coding.ignore < len(colours):
            table.setdefault(colours[coding.ignore], coding.ignored)
        if shown <= table.keys():
            report(f"{len(coloured)} masks are RGB: their colours are {name} for the numbers 0 to "
                   f"{count}")
            return tuple(table.items())
    colours = ", ".join(f"#{colour:06x}" for colour in sorted(shown)[:_SHOWN])
    report(f"warning: {len(coloured)} masks are RGB and {listed.path} does not say what their "
           f"colours mean ({colours}{', ...' if len(shown) > _SHOWN else ''}); write them into it "
           "(name #rrggbb)")
    return ()


def _voc_palette():
    """Return the colours of PASCAL VOC's masks, uint8 [256, 3]: every third bit of the number, from
    the lowest up, is a bit of one colour, from the highest down."""
    numbers, colour = np.arange(256)[:, None], np.arange(3)
    return sum((numbers >> 3 * i + colour & 1) << 7 - i for i in range(3)).astype(np.uint8)


def _check_palettes(listed, masks, coding, report):
    """Raise UserError if a number has different colours in the masks' palettes, as when each
    picture has its own; warn if the background's colour is unusual."""
    owners = collections.defaultdict(dict)  # {number: {colour: name of the first mask}}
    for mask in masks:
        for number, colour in mask.colours.items():
            if number != coding.ignore:
                owners[number].setdefault(colour, mask.key)
    for number, keys in sorted(owners.items()):
        if len(keys) > 1:
            first, second = (
                f"{'without a colour' if colour is None else f'#{colour:06x}'} in {key}"
                for colour, key in list(keys.items())[:2])
            raise UserError(
                f"masks' palettes differ: the number {number} is {first} and {second}, so that "
                f"numbers may not mean the same; write the colours into {listed.path} (name "
                "#rrggbb), or save all with one palette")
    colours = {number: next(iter(keys)) for number, keys in owners.items()}
    black = [number for number, colour in colours.items() if number and colour == _BLACK]
    background = colours.get(0) or _BLACK
    if background not in (_BLACK, 0xFFFFFF) or (black and background != _BLACK):
        also = f", and number {black[0]} is black" if black else ""
        report(f"warning: the number 0, which is the background, is #{background:06x} in the "
               f"masks' palette{also}; check whether classes and background are exchanged")
