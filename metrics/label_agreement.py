"""Evaluate generated maps with a segmenter that was trained on real photos.

The segmenter labels generated photos, and its labels are compared with the generated maps. The
ceiling is how well its labels of unseen real photos agree with their maps: what is missing to 1 is
the segmenter's own error, what is missing to the ceiling is the generator's.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dnnlib.util import UserError
from metrics import segmentation_scores as scores
from metrics.features import FeatureSet
from metrics.map_quality import MapMeasure, PairBatch

NUM_RARE = 5  # classes that count as rare: those with the fewest pixels in the real maps


def confusion_measure(labeller: Any) -> MapMeasure:
    """Return the measure of a Labeller: for each pair, as one row, the confusion matrix [1 + C,
    1 + C] of its map and the labeller's labels of its photo."""
    def count(pairs: PairBatch, num_classes: int) -> np.ndarray:
        predicted = labeller.label_maps(pairs.rgb)
        return np.stack([scores.confusion_matrix(*maps, 1 + num_classes).ravel()
                         for maps in zip(pairs.label_maps, predicted)])
    trained = {key: labeller.header.get(key) for key in ("dataset", "dataset2", "num_pictures",
                                                         "kimg")}
    about = {"segmenter": {"path": str(labeller.path), "digest": labeller.digest,
                           "resolution": labeller.resolution, **trained}}
    return MapMeasure(count, lambda num_classes: (1 + num_classes) ** 2, digest=labeller.digest,
                      about=about)


def check_labeller(labeller: Any, classes: Sequence[str], sizes: Iterable[tuple[int, int]],
                   whose: str) -> None:
    """Raise UserError if a Labeller or LabellerInfo has other classes than the maps (`classes`), or
    takes photos of another size than theirs (`sizes`, each (width, height))."""
    if tuple(labeller.classes) != tuple(classes):
        raise UserError(f"the segmenter {labeller.path} has the classes "
                        f"{', '.join(labeller.classes)}; {whose} {', '.join(classes) or 'none'}")
    side = labeller.resolution
    others = [f"{width}x{height}" for width, height in sizes if (width, height) != (side, side)]
    if others:
        raise UserError(f"the segmenter {labeller.path} takes photos of {side}x{side}; {whose} are "
                        f"{others[0]}: train one with --resolution")


def has_learned_from(labeller: Any, digest: str) -> bool:
    """Return whether a Labeller or LabellerInfo was trained on the training photos of the data set
    with this digest, which it labels better than others."""
    return labeller.header.get("dataset", {}).get("digest") == digest


def confusion(images: FeatureSet) -> np.ndarray:
    """Return the confusion matrix [1 + C, 1 + C] over all images of a FeatureSet with that measure.
    """
    total = images.maps["confusion"].sum(axis=0, dtype=np.float64)
    side = round(len(total) ** 0.5)
    return total.reshape(side, side)


def label_agreement(fakes: FeatureSet, reals: FeatureSet) -> dict[str, float]:
    """Return {suffix: value} of labelsNk; suffixes that end in _real are for the reals.

    Means are over the labels that occur in the maps of both sides: a generator that never draws the
    hard classes would otherwise be compared with a mean that includes them. The mean of no labels
    is 0. Only '_ratio_all' is over all labels of the real maps, where a label that is never drawn
    has IoU 0: faded maps agree with a segmenter on the background alone.
    fakes, reals: with confusions.
    """
    sides = {"": confusion(fakes), "_real": confusion(reals)}
    common = scores.in_truth(sides[""]) & scores.in_truth(sides["_real"])
    values = {}
    for side, matrix in sides.items():
        values |= {f"{suffix}{side}": value for suffix, value in _scores(matrix, common).items()}
    # IoUs of all labels of the real maps: of fakes, of reals.
    real_labels = scores.in_truth(sides["_real"])
    of_all = [np.nan_to_num(scores.class_ious(matrix)[real_labels]) * drawn
              for matrix, drawn in ((sides[""], common[real_labels]), (sides["_real"], 1))]
    values |= {"_ratio_all": of_all[0].sum() / (of_all[1].sum() or np.inf),
               "_ratio": values[""] / (values["_real"] or np.inf),
               "_classes": scores.without_background(common).sum()}
    return {suffix: float(np.nan_to_num(value)) for suffix, value in values.items()}


def _scores(matrix, labels):
    """Return {suffix: value}: the mean IoU over `labels`, with and without the background, and the
    accuracy over all pixels."""
    return {"": scores.mean_iou(matrix, labels),
            "_foreground": scores.mean_iou(matrix, scores.without_background(labels)),
            "_accuracy": scores.pixel_accuracy(matrix)}


def iou_table(classes: Sequence[str], reals: FeatureSet,
              fakes: FeatureSet | None = None) -> list[dict]:
    """Return a row per label, the background first: name, and, for reals and fakes with confusions,
    the share of pixels, IoU and accuracy, None if undefined."""
    sides = {"real": reals} | ({"fake": fakes} if fakes else {})
    table = [{"name": name} for name in ("background", *classes)]
    for side, images in sides.items():
        matrix = confusion(images)
        shares = matrix.sum(axis=1) / matrix.sum()
        for row, share, iou, accuracy in zip(table, shares, scores.class_ious(matrix),
                                             scores.class_accuracies(matrix)):
            row[f"{side}_pixels"] = float(share)
            row[f"{side}_iou"] = None if np.isnan(iou) else float(iou)
            row[f"{side}_accuracy"] = None if np.isnan(accuracy) else float(accuracy)
    return table


def miou_values(images: FeatureSet) -> dict[str, float]:
    """Return {suffix: value} of miou for images with confusions: the mean IoU over the labels that
    occur in the maps, with the background and ('_foreground') without it; the accuracy; and
    ('_any') the mean IoU of two labels, the background and all classes as one."""
    matrix = confusion(images)
    values = {**_scores(matrix, scores.in_truth(matrix)),
              "_any": scores.mean_iou(scores.merge_classes(matrix))}
    return {suffix: float(np.nan_to_num(value)) for suffix, value in values.items()}


def rare_labels(confusion: np.ndarray) -> np.ndarray:
    """Return the NUM_RARE labels with the fewest pixels in the truth, the rarest first. Labels that
    do not occur, and the background, are excluded."""
    pixels = np.asarray(confusion).sum(axis=1)
    shown = np.flatnonzero(scores.without_background(pixels > 0))
    return shown[np.argsort(pixels[shown], kind="stable")][:NUM_RARE]


def photo_agreement(fakes: FeatureSet, reals: FeatureSet) -> dict[str, float]:
    """Return {suffix: value} of miou for photos drawn from maps; suffixes that end in _real are for
    the real photos of these maps.

    Means are over the labels that occur in the maps, with the background and ('_foreground')
    without it, and ('_rare') over the `rare_labels` of the real maps.
    fakes, reals: with confusions.
    """
    sides = {"": confusion(fakes), "_real": confusion(reals)}
    rare = np.isin(np.arange(len(sides[""])), rare_labels(sides["_real"]))
    values = {}
    for side, matrix in sides.items():
        shown = scores.in_truth(matrix)
        own = {**_scores(matrix, shown), "_rare": scores.mean_iou(matrix, rare & shown)}
        values |= {f"{suffix}{side}": value for suffix, value in own.items()}
    return {suffix: float(np.nan_to_num(value)) for suffix, value in values.items()}


def rare_table(table: Sequence[dict], reals: FeatureSet) -> list[dict]:
    """Return the rows of an `iou_table` for the `rare_labels` of the reals, the rarest first."""
    return [table[label] for label in rare_labels(confusion(reals))]


def rare_lines(rare: Sequence[dict]) -> list[str]:
    """Return the lines of a `rare_table` as text."""
    def per_cent(value: float | None) -> str:
        return "    –" if value is None else f"{100 * value:5.1f}"

    width = max(len(row["name"]) for row in rare)
    return [f"the {len(rare)} rarest classes, in per cent: share of the real maps' pixels; IoU in "
            "real photos, in generated ones; accuracy in real ones, in generated ones",
            *("  ".join([f"  {row['name']:{width}}", *(per_cent(row[column]) for column in (
                "real_pixels", "real_iou", "fake_iou", "real_accuracy", "fake_accuracy"))])
              for row in rare)]
