"""Class counts of hand-made maps."""

import numpy as np
import pytest

from dnnlib.data.channels import to_signed
from dnnlib.data.class_counts import (
    class_areas,
    class_frequencies,
    proportions,
    total_variation,
)
from tests.tools.data_helpers import one_hot


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


def test_areas_are_shares_of_the_image(rng):
    label_maps = rng.integers(0, 4, (5, 8, 4), np.uint8)
    expected = np.array([[np.mean(image == label) for label in (1, 2, 3, 4)]
                         for image in label_maps])
    np.testing.assert_allclose(class_areas(label_maps, 4), expected, rtol=1e-7)
    with pytest.raises(ValueError, match="label 3 in a map of 2 classes"):
        class_areas(np.full((1, 2, 2), 3), 2)


def test_proportions_without_images_are_zero():
    np.testing.assert_allclose(proportions([3, 1, 0]), [0.75, 0.25, 0])
    assert proportions([0, 0]).tolist() == [0, 0]
