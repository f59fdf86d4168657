"""report.html: what is in a data set, as a page to look at, beside the data.

The same data give the same bytes: nothing in it depends on when or where it was made.
"""

import collections
import itertools
import json

import numpy as np

from dataprep import report, statistics
from dataprep.writer import SKIPPED
from dnnlib import util
from dnnlib.data import channels, dataset_info, pictures
from dnnlib.page import WIDTH, Encoded, Page

FILE_NAME = "report.html"
_SHOWN_CLASSES = 40  # of the co-occurrence table; its size is the square
_SHOWN_PHOTOS, _SHOWN_SIZES = 200, 12  # left out; sizes in the table
_SHEET, _SHEET_SIDE = 24, 128  # photos of the contact sheet and their largest side
_ASPECTS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.95, 1.05, 1.25, 1.5, 2.0, 2.5)
_SIDES = (32, 64, 128, 256, 512, 768, 1024, 1536, 2048, 4096)


def write_report(directory):
    """Write report.html into a data set; returns its path.

    Raises UserError where the data set is missing, unfinished or damaged.
    """
    info = dataset_info.open_dataset(directory)
    content = util.read_json(info.path / dataset_info.FILE_NAME)
    known = statistics.read_statistics(directory, info.classes)
    page = Page(f"Data set {info.name}")
    _add_summary(page, info, content)
    _add_sheet(page, info)
    if info.classes:
        _add_classes(page, info, content.get("class_counts", {}))
    if known is None:
        page.text("Classes together, overlaps and the photos' own sizes were not recorded when "
                  f"this data set was made ({statistics.FILE_NAME} is missing).")
    else:
        if info.classes:
            _add_together(page, info.classes, known)
            _add_overlap(page, known)
        _add_sizes(page, known["sizes"])
    _add_skipped(page, info.path / SKIPPED)
    path = info.path / FILE_NAME
    util.atomic_write(path, page.render())
    return path


def _add_summary(page, info, content):
    """What `info` prints first."""
    rows = [["images", ", ".join(f"{size} {split}" for split, size in info.splits.items())],
            ["channels", f"{info.num_channels}: RGB and {len(info.classes)} class maps"],
            ["largest images", f"{info.resolution}x{info.resolution}, and all levels below"],
            ["conditioning labels", f"{info.label_size} numbers" if info.label_size else "none"],
            ["photos left out", str(content.get("skipped", 0))],
            ["encoding", str(content.get("encoding"))], ["digest", info.digest]]
    rows += [[f"option {name}", json.dumps(value, ensure_ascii=False)[:200]]
             for name, value in sorted(content.get("options", {}).items()) if name != "classes"]
    page.table(["", ""], rows)


def _add_sheet(page, info):
    """A contact sheet of the first split that has images."""
    page.heading("Photos" + (", their maps and overlays" if info.classes else ""))
    split = next((split for split, size in info.splits.items() if size), None)
    if split is None:
        page.text("none")
        return
    side = min(info.resolution, _SHEET_SIDE)
    panels = 3 if info.classes else 1
    columns = WIDTH // (panels * max(side, pictures.SMALLEST) + pictures.GAP)
    sheet = report.image_sheet(info.path, split, _SHEET, columns, side, seed=0)
    page.picture(Encoded.of(sheet), f"{min(_SHEET, info.splits[split])} of {info.splits[split]} "
                 f"images of split {split}, chosen at random, at {side}x{side}")
    colours = channels.palette(len(info.classes))[1:].tolist()
    if info.classes:
        page.legend(dict(zip(info.classes, colours)))


def _add_classes(page, info, counts):
    """How often each class is seen and how much of an image it covers, by split."""
    splits = {split: size for split, size in info.splits.items() if size}
    entries = {split: [counts.get(split, {}).get(name, {"images": 0, "pixels": 0.0})
                       for name in info.classes] for split in splits}
    page.heading("How many images show each class")
    page.bars(info.classes, {split: [100 * entry["images"] / splits[split]
                                     for entry in entries[split]] for split in splits}, "{:.1f} %")
    page.heading("How large the classes are")
    page.text("Mean share of the area of those images that show the class.")
    page.bars(info.classes, {split: [100 * _area_where_shown(entry, splits[split])
                                     for entry in entries[split]] for split in splits}, "{:.2f} %")
    page.heading("Classes in numbers")
    head = ["class", *(f"{split}: {what}" for split in splits
                       for what in ("images", "% of images", "% of area"))]
    rows = [[name, *(cell for split in splits for cell in (
        entries[split][i]["images"], round(100 * entries[split][i]["images"] / splits[split], 2),
        round(100 * entries[split][i]["pixels"], 3)))] for i, name in enumerate(info.classes)]
    page.table(head, rows)


def _area_where_shown(entry, num_images):
    """Mean area share over the images that show a class; 0 where none does."""
    return entry["pixels"] * num_images / max(entry["images"], 1)


def _add_together(page, classes, known):
    """Of the images that show one class, how many show another."""
    together = np.array(known["together"])
    order = np.sort(np.argsort(-np.diag(together), kind="stable")[:_SHOWN_CLASSES])
    page.heading("Which classes are seen together")
    page.text("Of the images that show the class on the left, the share in % that shows the class "
              "above too. All splits." + (
                  f" The {_SHOWN_CLASSES} most frequent of {len(classes)} classes."
                  if len(classes) > _SHOWN_CLASSES else ""))
    share = together / np.maximum(np.diag(together), 1)[:, None]
    rows = [[classes[i], int(together[i, i]), *(round(100 * share[i, j]) for j in order)]
            for i in order]
    shades = [[0, 0, *(0 if i == j else share[i, j] for j in order)] for i in order]
    page.table(["class", "images", *(classes[j] for j in order)], rows, shades)


def _add_overlap(page, known):
    """How much of the annotated area lies under another instance."""
    page.heading("Overlap")
    if known["overlap"] is None:
        page.text("These annotations give each pixel one class: nothing overlaps.")
        return
    photos, mean = known["overlap"]["photos"], known["overlap"]["mean"]
    page.text(f"In {photos} of {known['photos']} photos "
              f"({100 * photos / max(known['photos'], 1):.1f} %) instances overlap. On average "
              f"{100 * mean:.2f} % of the area of a photo's instances lies under another one; the "
              "smaller instance is kept.")


def _add_sizes(page, sizes):
    """Sizes and aspect ratios of the photos that were converted."""
    page.heading("Sizes of the photos")
    counts = {tuple(map(int, size.split("x"))): count for size, count in sizes.items()}
    ratios = _histogram([(w / h, n) for (w, h), n in counts.items()], _ASPECTS)
    sides = _histogram([(max(size), n) for size, n in counts.items()], _SIDES)
    page.text("Width over height:")
    page.bars(list(ratios), {"photos": list(ratios.values())}, "{:.0f}")
    page.text("Longer side in pixels:")
    page.bars(list(sides), {"photos": list(sides.values())}, "{:.0f}")
    shown = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:_SHOWN_SIZES]
    page.table(["size", "photos"], [[f"{w}x{h}", count] for (w, h), count in shown])
    if len(counts) > len(shown):
        page.text(f"and {len(counts) - len(shown)} sizes more")


def _histogram(weighted, edges):
    """{interval: count} of [(value, count)], without the empty intervals at both ends."""
    places = np.searchsorted(edges, [value for value, _ in weighted], side="right")
    counts = np.bincount(places, [count for _, count in weighted], len(edges) + 1).astype(int)
    names = [f"below {edges[0]:g}", *(f"{low:g} to below {high:g}"
                                      for low, high in itertools.pairwise(edges)),
             f"{edges[-1]:g} or more"]
    filled = np.flatnonzero(counts)
    span = range(filled[0], filled[-1] + 1) if len(filled) else ()
    return {names[i]: int(counts[i]) for i in span}


def _add_skipped(page, path):
    """What was left out: reasons with their numbers, then photo by photo."""
    page.heading("Left out")
    entries = _read_skipped(path)
    if not entries:
        page.text("nothing")
        return
    page.table(["reason", "number"],
               collections.Counter(entry["reason"] for entry in entries).most_common())
    page.text("One by one" + (f", the first {_SHOWN_PHOTOS} of {len(entries)} ({SKIPPED} has all):"
                              if len(entries) > _SHOWN_PHOTOS else ":"))
    page.table(["photo", "annotation", "reason"],
               [[_named(entry.get("id")), _named(entry.get("annotation")), entry["reason"]]
                for entry in entries[:_SHOWN_PHOTOS]])


def _read_skipped(path):
    """The entries of skipped.jsonl, none where it is missing. Raises UserError where it is broken.
    """
    try:
        lines = path.read_bytes().splitlines() if path.is_file() else []
        return [{**(entry := json.loads(line)), "reason": str(entry["reason"])} for line in lines]
    except (ValueError, KeyError, TypeError) as error:
        raise util.UserError(f"{path}: broken ({util.one_line(error)}); make or copy this data set "
                             "again") from None


def _named(value):
    """An id as text; nothing where there is none."""
    return "" if value is None else str(value)
