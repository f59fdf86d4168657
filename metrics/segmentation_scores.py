"""Measure how well label maps agree: confusion matrix, IoU of each class, mean IoU, pixel accuracy.

Paper: Everingham et al., "The PASCAL Visual Object Classes Challenge: A Retrospective", 2015,
section 4.3: intersection over union of the pixels of all images together, so that an image with
little of a class has little weight. Pure NumPy.
"""

import numpy as np

from dnnlib.data.channels import IGNORE


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, num_labels: int) -> np.ndarray:
    """Count the pixels of label i in the truth that are predicted as j.

    Args:
        truth, predicted: uint8 of the same shape, labels 0..num_labels - 1. Pixels where the truth
            is IGNORE are not counted.

    Returns:
        int64 [num_labels, num_labels].

    Raises:
        ValueError: the shapes differ, or a label is out of range.
    """
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.shape != predicted.shape:
        raise ValueError(f"label maps {truth.shape} and {predicted.shape}")
    counted = truth != IGNORE
    truth, predicted = truth[counted].astype(np.int64), predicted[counted].astype(np.int64)
    for what, labels in (("truth", truth), ("prediction", predicted)):
        if labels.max(initial=0) >= num_labels:
            raise ValueError(f"label {labels.max()} in a {what} of {num_labels} labels")
    pairs = np.bincount(truth * num_labels + predicted, minlength=num_labels ** 2)
    return pairs.reshape(num_labels, num_labels)


def class_ious(confusion: np.ndarray) -> np.ndarray:
    """Return TP / (TP + FP + FN) of each label, float64 [labels]; NaN for labels in neither map."""
    confusion = np.asarray(confusion, np.float64)
    hits = confusion.diagonal()
    unions = confusion.sum(axis=0) + confusion.sum(axis=1) - hits
    return np.divide(hits, unions, out=np.full(len(hits), np.nan), where=unions > 0)


def class_accuracies(confusion: np.ndarray) -> np.ndarray:
    """Return the share of each label's pixels that is predicted correctly, float64 [labels]; NaN if
    it has no pixels."""
    confusion = np.asarray(confusion, np.float64)
    pixels = confusion.sum(axis=1)
    return np.divide(confusion.diagonal(), pixels, out=np.full(len(pixels), np.nan),
                     where=pixels > 0)


def in_truth(confusion: np.ndarray) -> np.ndarray:
    """Return which labels occur in the truth: bool [labels]."""
    return np.asarray(confusion).sum(axis=1) > 0


def mean_iou(confusion: np.ndarray, chosen: np.ndarray | None = None) -> float:
    """Return the mean IoU of the labels `chosen` (bool [labels]); by default of those that occur in
    the truth, including the background. NaN if there are none."""
    chosen = in_truth(confusion) if chosen is None else chosen
    ious = class_ious(confusion)[chosen]
    return float(ious.mean()) if len(ious) else np.nan


def without_background(chosen: np.ndarray) -> np.ndarray:
    """Return `chosen` (bool [labels]) without the first label."""
    return chosen & (np.arange(len(chosen)) > 0)


def merge_classes(confusion: np.ndarray) -> np.ndarray:
    """Return the confusion matrix [2, 2] of the background and all classes merged into one."""
    confusion = np.asarray(confusion)
    return np.array([[confusion[0, 0], confusion[0, 1:].sum()],
                     [confusion[1:, 0].sum(), confusion[1:, 1:].sum()]])


def pixel_accuracy(confusion: np.ndarray) -> float:
    """Return the share of pixels whose label is predicted correctly; NaN if there are no pixels."""
    total = np.sum(confusion)
    return float(np.trace(confusion) / total) if total else np.nan
