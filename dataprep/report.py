"""What is in a data set: tables in text, contact sheets as pictures."""

import numpy as np

from dnnlib import util
from dnnlib.data import channels, pictures, tfrecords
from dnnlib.data.dataset_info import FILE_NAME, open_dataset, read_labels

_SHOWN_LABELS = 32
_PRESENT = 127  # a stored map shows its class where it is above half


def describe(directory):
    """Lines that tell what a data set holds, with the frequency of its classes in each split.

    Raises UserError where it is missing or unfinished.
    """
    info = open_dataset(directory)
    content = util.read_json(info.path / FILE_NAME)
    splits = {split: size for split, size in info.splits.items() if size}
    files = [path for path in info.path.glob("*/*.tfrecords") if path.parent.name in splits]
    size = sum(path.stat().st_size for path in files)
    total = sum(splits.values())
    yield f"{info.path}: {info.name}, {info.resolution}x{info.resolution} and all levels below"
    yield f"channels   {info.num_channels} (RGB + {len(info.classes)} class maps)"
    yield "images     " + ", ".join(f"{count} {split}" for split, count in splits.items())
    yield f"left out   {content.get('skipped', 0)}"
    yield (f"on disk    {size / 1e9:.2f} GB, {size / total / 1e6:.3f} MB an image, encoding "
           f"{content.get('encoding')}")
    yield f"label_size {info.label_size}" + ("" if info.label_size else " (no labels)")
    yield f"digest     {info.digest}"
    if info.classes:
        yield ""
        yield from class_table(info.classes, splits, content.get("class_counts", {}))
    if info.label_size:
        yield ""
        yield from label_table({split: read_labels(directory, split) for split in splits})


def class_table(classes, splits, counts):
    """Lines: for each class and split the images that show it, their share, its mean area.

    `splits`: {split: number of images}; `counts`: {split: {class: {"images", "pixels"}}}.
    """
    width = max(len(name) for name in classes) + 2
    yield " " * width + "".join(f"{split + ' images':>15}{'%':>7}{'% area':>9}" for split in splits)
    for name in classes:
        cells = []
        for split, size in splits.items():
            entry = counts.get(split, {}).get(name, {"images": 0, "pixels": 0.0})
            cells.append(f"{entry['images']:>15}{100 * entry['images'] / size:>7.1f}"
                         f"{100 * entry['pixels']:>9.3f}")
        yield name.ljust(width) + "".join(cells)


def label_table(labels):
    """Lines: for each label and split the images that have it; of numbers that are no classes, the
    mean.

    `labels`: {split: float32 [n, label_size]}. Of many, those of the largest sums are shown.
    """
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


def contact_sheet(directory, split, num, columns, resolution, seed):
    """Some images of a split (see `image_sheet`), with a legend of the classes."""
    sheet = image_sheet(directory, split, num, columns, resolution, seed)
    return pictures.with_legend(sheet, open_dataset(directory).classes)


def image_sheet(directory, split, num, columns, resolution, seed):
    """Some images of a split on grey, each as photo, map and overlay side by side.

    Returns uint8 [H, W, 3]. `num` images of a seeded choice; `resolution` None is the largest.
    Raises UserError where the split or resolution is missing.
    """
    info = open_dataset(directory)
    records = open_records(info, split, resolution)
    chosen = np.random.default_rng(seed).permutation(len(records))[:num]
    panels = [_panel(records.read_image(number), len(info.classes)) for number in np.sort(chosen)]
    return pictures.grey_sheet(np.stack(panels), min(columns, len(panels)))


def open_records(info, split, resolution):
    """The RecordFile of a split of a data set (DatasetInfo) at a resolution, None for the largest.

    Raises UserError where the split or resolution is missing, or records are.
    """
    if not info.splits.get(split):
        raise util.UserError(f"{info.path} has no images in split {split!r}; it has: "
                             + ", ".join(name for name, size in info.splits.items() if size))
    files = tfrecords.record_files(info.path / split)
    level = (resolution or info.resolution).bit_length() - 1
    if level not in files:
        raise util.UserError(f"{info.path} has no images of {resolution}x{resolution}; it has: "
                             + ", ".join(str(1 << r) for r in files))
    records = tfrecords.RecordFile(files[level])
    if len(records) != info.splits[split]:
        raise util.UserError(f"{records.path}: {len(records)} records where dataset.json says "
                             f"{info.splits[split]}; make or copy this data set again")
    return records


def _panel(image, num_classes):
    """Image uint8 [C, H, W] -> photo | map | overlay, uint8 [H, 3 W, 3]; without maps the photo."""
    image = image.transpose(1, 2, 0)
    rgb = image[..., channels.RGB]
    if not num_classes:
        return rgb
    labels = channels.to_label_map(image[..., channels.SEGMAPS], _PRESENT)
    return np.concatenate([rgb, channels.colourise(labels, num_classes),
                           pictures.overlay(rgb, labels, num_classes)], axis=1)
