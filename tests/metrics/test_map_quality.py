"""Regions, specks and the other measures of label maps, by hand-made maps."""

import numpy as np
import pytest

from metrics.features import FeatureSet
from metrics.map_quality import MEASURES, count_regions, drawn_enough, map_quality

# Of class 1 a block, a pair and, touching the pair by a corner only, a single pixel; of class 2 a
# region of three pixels around a corner. Background is cut in two and counts as nothing.
DRAWN = np.uint8([[1, 1, 0, 1],
                  [1, 1, 0, 1],
                  [0, 0, 1, 0],
                  [2, 2, 0, 0],
                  [0, 2, 0, 0]])


def measured(maps, num_classes=2, min_area=0.0):
    """The FeatureSet of label maps."""
    maps = np.uint8(maps)
    return FeatureSet(maps={name: measure(maps, num_classes)
                            for name, (measure, _) in MEASURES.items()}, min_area=min_area)


def test_regions_are_connected_by_their_sides_and_specks_have_two_pixels_at_most():
    assert count_regions(DRAWN[None], 2).tolist() == [[4, 2]]


@pytest.mark.parametrize("maps, expected", [
    (np.zeros((2, 3, 3)), [[0, 0], [0, 0]]),
    (np.ones((1, 3, 3)), [[1, 0]]),
    (np.eye(3)[None], [[3, 3]]),
    ([[[1, 2, 1, 2]]], [[4, 4]]),  # classes side by side do not join
    ([[[1, 1, 1, 2]], [[0, 1, 1, 0]]], [[2, 1], [1, 1]])])
def test_regions_of_maps(maps, expected):
    counts = count_regions(np.uint8(maps), 2)
    assert counts.dtype == np.float32 and counts.tolist() == expected


def test_regions_equal_a_flood_fill(rng):
    maps = rng.integers(0, 4, (20, 9, 7), np.uint8)

    def fill(image, row, column):
        """Take away one region of an image of integers; returns its pixels."""
        label, open_pixels, size = image[row, column], [(row, column)], 0
        while open_pixels:
            r, c = open_pixels.pop()
            if 0 <= r < 9 and 0 <= c < 7 and image[r, c] == label:
                image[r, c], size = 0, size + 1
                open_pixels += [(r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)]
        return size
    expected = []
    for image in maps.copy():
        sizes = [fill(image, *place) for place in np.ndindex(9, 7) if image[place]]
        expected.append([len(sizes), sum(size <= 2 for size in sizes)])
    assert count_regions(maps, 3).tolist() == expected


def test_every_measure_has_the_columns_it_announces():
    for measure, columns in MEASURES.values():
        assert measure(DRAWN[None], 5).shape == (1, columns(5))


def test_values_of_both_sides():
    fakes = measured([DRAWN, DRAWN, np.zeros((5, 4))])
    reals = measured([np.ones((5, 4)), np.tri(5, 4)])
    assert map_quality(fakes, reals) == {
        "": pytest.approx(0.5), "_regions": pytest.approx(8 / 3),
        "_covered": pytest.approx(20 / 60), "_classes": 1,
        "_real": 0, "_regions_real": 1, "_covered_real": pytest.approx((20 + 14) / 40),
        "_classes_real": 1, "_tv": pytest.approx(0.5)}


def test_maps_without_a_region_have_no_specks():
    nothing = measured(np.zeros((2, 3, 3)))
    values = map_quality(nothing, nothing)
    assert values[""] == values["_real"] == values["_regions"] == values["_classes"] == 0
    assert values["_tv"] == 0


def frequencies(shown, n):
    """The FeatureSet of n images of which `shown` [C] show each class."""
    areas = np.arange(n)[:, None] < np.array(shown)
    return FeatureSet(maps={"areas": np.float32(areas)})


def test_half_the_real_frequency_is_enough():
    """Exactly half counts, whatever the numbers of images; classes that no real shows do not."""
    reals = frequencies([30, 30, 30, 1, 0], 30)
    fakes = frequencies([35, 34, 70, 2, 70], 70)
    assert drawn_enough(fakes, reals).tolist() == [True, False, True, True, False]


def test_a_class_below_the_least_area_is_not_shown():
    maps = np.zeros((1, 4, 4))
    maps[0, 0, 0], maps[0, 1:3] = 1, 2
    values = map_quality(measured(maps, min_area=0.1), measured(maps, min_area=0.1))
    assert values["_classes"] == values["_classes_real"] == 1 and values["_regions"] == 2
