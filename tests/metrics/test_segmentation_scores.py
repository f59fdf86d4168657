"""metrics/segmentation_scores.py against Keras's metrics, by hand, and by brute force."""

import keras
import numpy as np
import pytest

from dnnlib.data.channels import IGNORE
from metrics.segmentation_scores import (
    class_ious,
    confusion_matrix,
    in_truth,
    mean_iou,
    pixel_accuracy,
    without_background,
)


@pytest.fixture
def maps(rng):
    """Return five labels' truth with ignored pixels, and a prediction right in two of three."""
    truth = rng.integers(0, 5, (6, 9, 7), np.uint8)
    predicted = np.where(rng.random(truth.shape) < 2 / 3, truth, rng.integers(0, 5, truth.shape))
    truth[rng.random(truth.shape) < 0.1] = IGNORE
    return truth, predicted.astype(np.uint8)


def test_scores_equal_those_of_keras(maps):
    truth, predicted = maps
    confusion = confusion_matrix(truth, predicted, 5)

    def theirs(metric):
        metric.update_state(truth.astype(np.int32), predicted.astype(np.int32))
        return float(metric.result())
    assert mean_iou(confusion) == pytest.approx(
        theirs(keras.metrics.MeanIoU(5, ignore_class=IGNORE)), rel=1e-6)
    for label, iou in enumerate(class_ious(confusion)):
        assert iou == pytest.approx(
            theirs(keras.metrics.IoU(5, [label], ignore_class=IGNORE)), rel=1e-6)
    accuracy = keras.metrics.Accuracy()
    accuracy.update_state(truth, predicted, sample_weight=truth != IGNORE)
    assert pixel_accuracy(confusion) == pytest.approx(float(accuracy.result()), rel=1e-6)


def test_confusion_counts_every_pair_of_labels(maps):
    truth, predicted = maps
    confusion = confusion_matrix(truth, predicted, 5)
    for i, j in np.ndindex(5, 5):
        assert confusion[i, j] == ((truth == i) & (predicted == j)).sum()
    assert confusion.sum() == (truth != IGNORE).sum() < truth.size
    parts = sum(confusion_matrix(*pair, 5) for pair in zip(truth, predicted))
    np.testing.assert_array_equal(parts, confusion)


def test_values_by_hand():
    confusion = confusion_matrix(np.uint8([0, 0, 0, 1, 1, 3]), np.uint8([0, 0, 1, 1, 2, 3]), 5)
    np.testing.assert_array_equal(class_ious(confusion), [2 / 3, 1 / 3, 0, 1, np.nan])
    # Label 2 is only predicted: it lowers label 1's score, but is not a class of the truth.
    assert in_truth(confusion).tolist() == [True, True, False, True, False]
    assert mean_iou(confusion) == pytest.approx((2 / 3 + 1 / 3 + 1) / 3)
    garments = without_background(in_truth(confusion))
    assert mean_iou(confusion, garments) == pytest.approx((1 / 3 + 1) / 2)
    assert pixel_accuracy(confusion) == pytest.approx(4 / 6)


def test_no_scores_without_labelled_pixels():
    confusion = confusion_matrix(np.full(4, IGNORE, np.uint8), np.zeros(4, np.uint8), 2)
    assert confusion.sum() == 0
    assert np.isnan(mean_iou(confusion)) and np.isnan(pixel_accuracy(confusion))


@pytest.mark.parametrize("truth, predicted, message", [
    ([0, 3], [0, 0], "label 3 in a truth of 3"), ([0, 0], [0, 255], "label 255 in a prediction"),
    ([0, 0], [0], r"label maps \(2,\) and \(1,\)")])
def test_maps_that_do_not_fit_are_refused(truth, predicted, message):
    with pytest.raises(ValueError, match=message):
        confusion_matrix(np.uint8(truth), np.uint8(predicted), 3)
