"""Describe a data set: lines for the terminal, contact sheets, report.html beside the data.

The same data give the same page: nothing in it depends on when or where it was made.
"""

import collections
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dataprep.writer import SKIPPED, describe_repeats
from dnnlib import util
from dnnlib.charts import bar_chart
from dnnlib.data import channels, dataset, keypoints, pictures
from dnnlib.page import WIDTH, Encoded, Page

FILE_NAME = "report.html"
_SHOWN_LABELS = 32
_SHOWN_CLASSES = 40  # rows and columns of the co-occurrence table
_SHOWN_PHOTOS, _SHOWN_SIZES = 200, 12  # in the tables of photos left out, and of photo sizes
_SHEET, _SHEET_SIDE = 24, 128  # photos of the contact sheet and their largest side
_ASPECTS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.95, 1.05, 1.25, 1.5, 2.0, 2.5)
_SIDES = (32, 64, 128, 256, 512, 768, 1024, 1536, 2048, 4096)


# Lines

def summary_lines(directory: str | Path) -> Iterator[str]:
    """Yield lines on what a data set holds, with the frequency of its classes in each split."""
    info = dataset.open_dataset(directory)
    content = util.read_json(info.path / dataset.FILE_NAME)
    splits = _filled_splits(info)
    yield f"{info.path}: {info.name}, {info.resolution}x{info.resolution} and all levels below"
    for name, text in _facts(info, content):
        yield f"{name:<11}{text}"
    known = read_statistics(directory, info.classes) or {}
    if repeats := known.get("repeats"):  # earlier versions did not count them
        yield f"repeats    {describe_repeats(repeats)}"
    if info.classes:  # a table: a row for each class, columns for each split
        yield ""
        width = max(len(name) for name in info.classes) + 2
        yield " " * width + "".join(f"{split + ' images':>15}{'%':>7}{'% area':>9}"
                                    for split in splits)
        entries = _class_entries(info.classes, splits, content)
        for i, name in enumerate(info.classes):
            yield name.ljust(width) + "".join(
                f"{of_split[i]['images']:>15}{100 * of_split[i]['images'] / splits[split]:>7.1f}"
                f"{100 * of_split[i]['pixels']:>9.3f}" for split, of_split in entries.items())
    if info.label_size:
        yield ""
        yield from label_lines({split: dataset.read_labels(directory, split) for split in splits})


def _filled_splits(info):
    return {split: size for split, size in info.splits.items() if size}


def _facts(info, content):
    """Return facts about a data set: [(name, text)]."""
    def counts(of_split: dict) -> str:
        return ", ".join(f"{count} {split}" for split, count in of_split.items() if count)

    splits = _filled_splits(info)
    size = sum(path.stat().st_size for split in splits
               for path in (info.path / split).rglob("*.tfrecords"))  # of all shards
    facts = [("channels", f"{info.num_channels} (RGB + {len(info.classes)} class maps)"),
             ("images", counts(splits)), ("left out", str(content.get("skipped", 0))),
             ("on disk", f"{size / 1e9:.2f} GB, {size / max(sum(splits.values()), 1) / 1e6:.3f} MB "
                         f"an image, encoding {content.get('encoding')}"),
             ("label_size", str(info.label_size or "0 (no labels)"))]
    if info.keypoints:
        facts.append(("keypoints", f"{len(info.keypoints)} ({', '.join(info.keypoints)})"))
    if info.pairs:
        facts.append(("pairs", f"{counts(info.pairs)} (photos of one person)"))
    return [*facts, ("digest", info.digest)]


def _class_entries(classes, splits, content):
    """Return {split: [{"images": that show a class, "pixels": its mean area} of each class]}."""
    counts, none = content.get("class_counts", {}), {"images": 0, "pixels": 0.0}
    return {split: [counts.get(split, {}).get(name, none) for name in classes] for split in splits}


def label_lines(labels: dict[str, np.ndarray]) -> Iterator[str]:
    """Yield a line for each label, with the number of images that have it in each split, or with
    its mean if labels are not classes. labels: {split: float32 [n, label_size]}; if there are many,
    those with the largest sums are shown."""
    whole = np.concatenate(list(labels.values()))
    are_classes = bool(((whole == 0) | (whole == 1)).all() and (whole.sum(axis=1) == 1).all())
    what, of_split = ("images", np.sum) if are_classes else ("mean", np.mean)
    order = np.argsort(-whole.sum(axis=0), kind="stable")[:_SHOWN_LABELS]
    yield "label".ljust(8) + "".join(f"{f'{split} {what}':>15}" for split in labels)
    for label in np.sort(order):
        yield f"{label:<8}" + "".join(f"{of_split(table[:, label], dtype=np.float64):>15.6g}"
                                      for table in labels.values())
    if whole.shape[1] > len(order):
        yield f"and {whole.shape[1] - len(order)} more"


# Contact sheets

def contact_sheet(directory: str | Path, split: str, num: int, columns: int,
                  resolution: int | None, seed: int) -> np.ndarray:
    """Return a grey sheet, uint8 [H, W, 3], with `num` images of a split, chosen by `seed`: each as
    photo, map, overlay and photo with keypoints side by side. resolution: None is the largest.
    Raises UserError if there is no such split or resolution."""
    info = dataset.open_dataset(directory)
    records = dataset.open_split(info, split, resolution)
    chosen = np.random.default_rng(seed).permutation(len(records))[:num]
    panels, num_classes = [], len(info.classes)
    points = keypoints.read_keypoints(directory, split)
    for number in np.sort(chosen):
        rgb, labels = records.read_pair(number)
        skeleton = [keypoints.draw_skeleton(rgb, points[number], info.skeleton)
                    ] if info.keypoints else []
        if num_classes:  # [h, 3w, 3]
            rgb = np.concatenate([rgb, channels.colourise(labels, num_classes),
                                  pictures.overlay(rgb, labels, num_classes)], axis=1)
        panels.append(np.concatenate([rgb, *skeleton], axis=1))
    return pictures.grey_sheet(np.stack(panels), min(columns, len(panels)))


# The page

def write_report(directory: str | Path) -> Path:
    """Write report.html into a data set; return its path."""
    info = dataset.open_dataset(directory)
    content = util.read_json(info.path / dataset.FILE_NAME)
    known = read_statistics(directory, info.classes)  # None in data sets of earlier versions
    page = Page(f"Data set {info.name}")
    rows = [["largest images", f"{info.resolution}x{info.resolution}, and all levels below"],
            *map(list, _facts(info, content))]
    rows += [[f"option {name}", _as_written(name, value, info.classes)[:200]]
             for name, value in sorted(content.get("options", {}).items()) if name != "classes"]
    page.table(["", ""], rows)

    _add_sheet(page, info)
    if info.classes:
        _add_classes(page, info, content)
    if known is None:
        page.text("Classes together, overlaps and the photos' own sizes were not recorded when "
                  f"this data set was made ({dataset.STATISTICS} is missing).")
    else:
        if info.classes:
            _add_together(page, info.classes, known)
        if known["sizes"]:
            _add_sizes(page, known["sizes"])
    _add_skipped(page, info.path / SKIPPED)
    path = info.path / FILE_NAME
    util.atomic_write(path, page.render())
    return path


def _as_written(option, value, classes):
    """Return an option's value as JSON; colours as a list of classes has them."""
    if option != "colours":
        return json.dumps(value, ensure_ascii=False)
    names = ("background", *classes)
    return ", ".join(f"{names[label]} #{colour:06x}" for colour, label in value)


def read_statistics(directory: str | Path, classes: tuple) -> dict | None:
    """Return statistics.json of a data set with these classes, or None if there is none, as in data
    sets of earlier versions. Raises UserError for broken JSON."""
    path = Path(directory) / dataset.STATISTICS
    content = util.read_json(path) if path.is_file() else None
    same = isinstance(content, dict) and content.get("classes") == list(classes)
    parts = {"photos", "together", "sizes", "overlap"}
    return content if same and content.keys() >= parts else None


def _add_sheet(page, info):
    """Add a contact sheet of the first split that has images."""
    page.heading("Photos" + (", their maps and overlays" if info.classes else "")
                 + (", their keypoints" if info.keypoints else ""))
    split = next((split for split, size in info.splits.items() if size), None)
    if split is None:
        page.text("none")
        return
    side = min(info.resolution, _SHEET_SIDE)
    panels = (3 if info.classes else 1) + bool(info.keypoints)
    columns = WIDTH // (panels * max(side, pictures.SMALLEST) + pictures.GAP)
    sheet = contact_sheet(info.path, split, _SHEET, columns, side, seed=0)
    page.picture(Encoded.of(sheet), f"{min(_SHEET, info.splits[split])} of {info.splits[split]} "
                 f"images of split {split}, chosen at random, at {side}x{side}")
    if info.classes:
        colours = channels.palette(len(info.classes))[1:].tolist()
        page.legend({name: "rgb({}, {}, {})".format(*rgb)
                     for name, rgb in zip(info.classes, colours)})


def _add_classes(page, info, content):
    """Add how many images show each class and how much of an image it covers, by split."""
    splits = _filled_splits(info)
    entries = _class_entries(info.classes, splits, content)
    page.heading("How many images show each class")
    shares = {split: [100 * entry["images"] / splits[split] for entry in entries[split]]
              for split in splits}
    page.chart(bar_chart(info.classes, shares, "{:.1f} %"))
    page.heading("How large the classes are")
    page.text("Mean share of the area of those images that show the class.")
    areas = {split: [100 * entry["pixels"] * splits[split] / max(entry["images"], 1)
                     for entry in entries[split]] for split in splits}
    page.chart(bar_chart(info.classes, areas, "{:.2f} %"))
    page.heading("Classes in numbers")
    head = ["class", *(f"{split}: {what}" for split in splits
                       for what in ("images", "% of images", "% of area"))]
    rows = [[name, *(cell for split in splits for cell in (
        entries[split][i]["images"], round(100 * entries[split][i]["images"] / splits[split], 2),
        round(100 * entries[split][i]["pixels"], 3)))] for i, name in enumerate(info.classes)]
    page.table(head, rows)


def _add_together(page, classes, known):
    """Add how many of the images that show one class show another, and how instances overlap."""
    together = np.array(known["together"])  # [C, C]; images of each class on the diagonal
    order = np.sort(np.argsort(-np.diag(together), kind="stable")[:_SHOWN_CLASSES])
    page.heading("Which classes occur together")
    page.text("Of the images that show the class on the left, the share in % that shows the class "
              "above too. All splits." + (
                  f" The {_SHOWN_CLASSES} most frequent of {len(classes)} classes."
                  if len(classes) > _SHOWN_CLASSES else ""))
    share = together / np.maximum(np.diag(together), 1)[:, None]
    rows = [[classes[i], int(together[i, i]), *(round(100 * share[i, j]) for j in order)]
            for i in order]
    shades = [[0, 0, *(0 if i == j else share[i, j] for j in order)] for i in order]
    page.table(["class", "images", *(classes[j] for j in order)], rows, shades)
    page.heading("Overlap")
    if known["overlap"] is None:
        page.text("These annotations give each pixel one class: nothing overlaps.")
        return
    photos, mean = known["overlap"]["photos"], known["overlap"]["mean"]
    page.text(f"In {photos} of {known['photos']} photos "
              f"({100 * photos / max(known['photos'], 1):.1f} %) instances overlap. On average "
              f"{100 * mean:.2f} % of the area of a photo's instances is covered by another one; "
              "the smaller instance is shown.")


def _add_sizes(page, sizes):
    """Add sizes and aspect ratios of the photos that were converted."""
    page.heading("Sizes of the photos")
    counts = {tuple(map(int, size.split("x"))): count for size, count in sizes.items()}
    for text, edges, value in (("Width over height:", _ASPECTS, lambda size: size[0] / size[1]),
                               ("Longer side in pixels:", _SIDES, max)):
        bars = _histogram([(value(size), count) for size, count in counts.items()], edges)
        page.text(text)
        page.chart(bar_chart(list(bars), {"photos": list(bars.values())}, "{:.0f}"))
    shown = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:_SHOWN_SIZES]
    page.table(["size", "photos"], [[f"{w}x{h}", count] for (w, h), count in shown])
    if len(counts) > len(shown):
        page.text(f"and {len(counts) - len(shown)} sizes more")


def _histogram(weighted, edges):
    """Return {interval: count} of [(value, count)], without the empty intervals at both ends."""
    places = np.searchsorted(edges, [value for value, _ in weighted], side="right")
    counts = np.bincount(places, [count for _, count in weighted], len(edges) + 1).astype(int)
    names = [f"below {edges[0]:g}", *(f"{low:g} to below {high:g}"
                                      for low, high in itertools.pairwise(edges)),
             f"{edges[-1]:g} or more"]
    filled = np.flatnonzero(counts)
    span = range(filled[0], filled[-1] + 1) if len(filled) else ()
    return {names[i]: int(counts[i]) for i in span}


def _add_skipped(page, path):
    """Add what was left out: the number of cases of each reason, then photo by photo."""
    page.heading("Left out")
    try:
        lines = path.read_bytes().splitlines() if path.is_file() else []
        entries = [{**(entry := json.loads(line)), "reason": str(entry["reason"])}
                   for line in lines]
    except (ValueError, KeyError, TypeError) as error:
        raise util.UserError(f"{path}: broken ({util.one_line(error)}); make or copy this data set "
                             "again") from None
    if not entries:
        page.text("nothing")
        return
    page.table(["reason", "number"],
               collections.Counter(entry["reason"] for entry in entries).most_common())
    page.text("One by one" + (f", the first {_SHOWN_PHOTOS} of {len(entries)} ({SKIPPED} has all):"
                              if len(entries) > _SHOWN_PHOTOS else ":"))
    rows = [[entry.get("id"), entry.get("annotation"), entry["reason"]]
            for entry in entries[:_SHOWN_PHOTOS]]
    page.table(["photo", "annotation", "reason"],
               [["" if cell is None else str(cell) for cell in row] for row in rows])
