"""Class frequencies by hand-made maps."""

import numpy as np
import pytest

from dnnlib.channels import one_hot, to_signed
from training.class_frequency import class_frequencies, total_variation


def images_of(label_maps, num_classes):
    maps = one_hot(np.uint8(label_maps), num_classes)
    rgb = np.zeros((*maps.shape[:-1], 3), np.uint8)
    return to_signed(np.concatenate([rgb, maps], axis=-1))


def test_frequencies_count_images_not_pixels():
    batches = [images_of([[[1, 1], [0, 3]], [[1, 0], [0, 0]]], 3), images_of([[[0, 0], [0, 0]]], 3)]
    np.testing.assert_allclose(class_frequencies(batches, 3), [2 / 3, 0, 1 / 3])


def test_the_largest_map_above_zero_counts():
    images = np.full((1, 1, 1, 5), -0.1, np.float32)
    assert class_frequencies([images], 2).tolist() == [0, 0]
    images[..., 3:] = [0.2, 0.3]
    assert class_frequencies([images], 2).tolist() == [0, 1]


def test_total_variation():
    assert total_variation(np.array([0.5, 0.5]), np.array([0.1, 0.1])) == pytest.approx(0)
    assert total_variation(np.array([1.0, 0]), np.array([0, 0.3])) == pytest.approx(1)
    assert total_variation(np.array([0.6, 0.2]), np.array([0.5, 0.5])) == pytest.approx(0.25)
    assert total_variation(np.zeros(2), np.array([0.5, 0.5])) == 1
