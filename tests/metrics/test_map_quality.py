"""Regions, specks, uncertain pixels, steps and the other measures of pairs, by hand-made maps."""

import numpy as np
import pytest

from metrics.features import FeatureSet
from metrics.map_quality import (
    MARGIN,
    MEASURES,
    PairBatch,
    count_doubts,
    count_regions,
    count_steps,
    drawn_enough,
    map_quality,
    pair_batch,
)

# Class 1 has a block, a pair and, touching the pair only at a corner, a single pixel; class 2 has a
# region of three pixels around a corner. Background is cut in two and is not counted.
DRAWN = np.uint8([[1, 1, 0, 1],
                  [1, 1, 0, 1],
                  [0, 0, 1, 0],
                  [2, 2, 0, 0],
                  [0, 2, 0, 0]])


def measured(maps, num_classes=2, min_area=0.0, rgb=None):
    """Return the FeatureSet of label maps, or of signed maps [n, H, W, C], on black photos."""
    maps = np.asarray(maps, np.uint8 if np.ndim(maps) == 3 else np.float32)
    pairs = pair_batch(np.zeros((*maps.shape[:3], 3), np.uint8) if rgb is None else rgb, maps)
    return FeatureSet(maps={name: measure.count(pairs, num_classes)
                            for name, measure in MEASURES.items()}, min_area=min_area)


def test_regions_join_by_sides_and_specks_have_at_most_two_pixels():
    assert count_regions(DRAWN[None], 2).tolist() == [[4, 2]]


@pytest.mark.parametrize("maps, expected", [
    (np.zeros((2, 3, 3)), [[0, 0], [0, 0]]),
    (np.ones((1, 3, 3)), [[1, 0]]),
    (np.eye(3)[None], [[3, 3]]),
    ([[[1, 2, 1, 2]]], [[4, 4]]),  # different classes side by side do not join
    ([[[1, 1, 1, 2]], [[0, 1, 1, 0]]], [[2, 1], [1, 1]])])
def test_regions_of_maps(maps, expected):
    counts = count_regions(np.uint8(maps), 2)
    assert counts.dtype == np.float32 and counts.tolist() == expected


def test_regions_equal_a_flood_fill(rng):
    maps = rng.integers(0, 4, (20, 9, 7), np.uint8)

    def fill(image, row, column):
        """Remove one region from an image of integers; return its pixels."""
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
    pairs = PairBatch(np.zeros((1, 5, 4, 3), np.uint8), DRAWN[None])
    for measure in MEASURES.values():
        assert measure.count(pairs, 5).shape == (1, measure.columns(5))


def test_labels_follow_from_the_signed_maps():
    signed = np.float32([[[[-0.5, 0.4], [0.1, 0.0]], [[-0.1, -0.2], [0.0, 0.0]]]])
    assert pair_batch(None, signed).label_maps.tolist() == [[[2, 1], [0, 0]]]
    assert pair_batch(None, None).label_maps is None
    labels = np.zeros((1, 2, 2), np.uint8)
    pairs = pair_batch(None, labels)
    assert pairs.label_maps is labels and pairs.segmaps is None


@pytest.mark.parametrize("maps, claimed, unsure", [
    ([[0.5, -0.5, -0.5]], 0, 0),  # surely a class
    ([[-0.5, -0.5, -0.5]], 0, 0),  # surely background: 0.5 below its 0
    ([[-0.2, -0.5, -0.5]], 0, 1),  # close to appearing
    ([[0.2, -0.5, -0.5]], 0, 1),  # close to vanishing
    ([[0.7, 0.6, -0.5]], 1, 1),  # two classes, close to swapping
    ([[0.9, 0.3, -0.5]], 1, 0),  # two classes, with a clear winner
    ([[0.9, 0.0, -0.5]], 0, 0),  # 0 is not a claim
    ([[MARGIN, -0.5, -0.5]], 0, 0),  # exactly the margin is enough
    ([[0.5, 0.5, 0.5], [-0.5, -0.1, -0.5], [0.5, -0.5, -0.5], [0.5, 0.1, -0.5]], 0.5, 0.5)])
def test_claimed_and_unsure_pixels(maps, claimed, unsure):
    segmaps = np.float32(maps)[None, None]
    pairs = PairBatch(np.zeros((1, 1, len(maps), 3), np.uint8), None, segmaps)
    assert count_doubts(pairs).tolist() == [[claimed, unsure]]


def test_shares_of_claimed_and_unsure_pixels():
    """Of four pixels two show a class, one of them unsure with two classes; so is one without."""
    signed = np.float32([[[[0.5, -0.5], [0.4, 0.3], [-0.1, -0.5], [-0.5, -0.5]]]])
    values = map_quality(measured(signed), measured(signed))
    assert values["_claimed"] == values["_claimed_real"] == 0.5
    assert values["_unsure"] == values["_unsure_real"] == 0.5


def test_labels_without_maps_have_no_unsure_pixels():
    pairs = PairBatch(np.zeros((2, 3, 3, 3), np.uint8), np.ones((2, 3, 3), np.uint8))
    assert np.isnan(count_doubts(pairs)).all() and count_doubts(pairs).shape == (2, 2)
    signed = measured(np.full((1, 3, 3, 2), -0.5))
    values = map_quality(signed, measured(np.ones((1, 3, 3))))
    assert values["_unsure"] == values["_claimed"] == 0
    assert "_unsure_real" not in values and not np.isnan(list(values.values())).any()


def test_steps_by_hand():
    """Two colours side by side, first with the same border in the labels, then one pixel off."""
    rgb = np.zeros((2, 2, 4, 3), np.uint8)
    rgb[:, :, 2:] = 30, 60, 90  # steps of 60 in the middle of both rows
    labels = np.uint8([[[0, 0, 1, 1]] * 2, [[0, 0, 0, 1]] * 2])
    counts = count_steps(PairBatch(rgb, labels))
    assert counts.tolist() == [[120, 2, 0, 8], [0, 2, 120, 8]]
    right, wrong = (measured(labels[i:i + 1], rgb=rgb[:1]) for i in range(2))
    assert map_quality(wrong, right)["_edges"] == 0
    assert map_quality(right, wrong)["_edges"] == 0  # and nothing elsewhere to compare with
    rgb[:, 1] += 1
    both = measured(labels[:1], rgb=rgb[:1])
    assert map_quality(both, both)["_edges"] == pytest.approx(60 / (4 / 8))


def test_steps_equal_brute_force(rng):
    rgb = rng.integers(0, 256, (3, 5, 6, 3), np.uint8)
    labels = rng.integers(0, 3, (3, 5, 6), np.uint8)
    expected = np.zeros((3, 4))
    for n, y, x in np.ndindex(labels.shape):
        for place in ((n, y + 1, x), (n, y, x + 1)):
            if place[1] < 5 and place[2] < 6:
                step = np.abs(rgb[place].astype(float) - rgb[n, y, x]).mean()
                k = 0 if labels[place] != labels[n, y, x] else 2
                expected[n, k:k + 2] += step, 1
    np.testing.assert_allclose(count_steps(PairBatch(rgb, labels)), expected, rtol=1e-6)


def test_values_of_fakes_and_reals():
    fakes = measured([DRAWN, DRAWN, np.zeros((5, 4))])
    reals = measured([np.ones((5, 4)), np.tri(5, 4)])
    assert map_quality(fakes, reals) == {
        "": pytest.approx(0.5), "_regions": pytest.approx(8 / 3), "_fragments": 8 / 4,
        "_covered": pytest.approx(20 / 60), "_classes": 1, "_edges": 0,
        "_real": 0, "_regions_real": 1, "_fragments_real": 1,
        "_covered_real": pytest.approx((20 + 14) / 40), "_classes_real": 1, "_edges_real": 0,
        "_tv": pytest.approx(0.5), "_areas_tv": pytest.approx(6 / 20)}


def test_garments_outside_the_person_are_a_share_of_all_pixels():
    images = measured(np.ones((2, 3, 3)))
    images.maps["outside"] = np.float32([[1, 2], [2, 6]])
    values = map_quality(images, measured(np.ones((2, 3, 3))))
    assert values["_outside"] == pytest.approx(3 / 8) and "_outside_real" not in values


def test_maps_without_a_region_have_no_specks():
    nothing = measured(np.zeros((2, 3, 3)))
    values = map_quality(nothing, nothing)
    assert values[""] == values["_real"] == values["_regions"] == values["_classes"] == 0
    assert values["_tv"] == 0


def frequencies(shown, n):
    """Return the FeatureSet of n images of which `shown` [C] show each class."""
    areas = np.arange(n)[:, None] < np.array(shown)
    return FeatureSet(maps={"areas": np.float32(areas)})


def test_half_the_real_frequency_is_enough():
    """Exactly half is enough for any numbers of images; classes absent from reals do not count."""
    reals = frequencies([30, 30, 30, 1, 0], 30)
    fakes = frequencies([35, 34, 70, 2, 70], 70)
    assert drawn_enough(fakes, reals).tolist() == [True, False, True, True, False]


def test_a_class_below_the_minimum_area_is_not_shown():
    maps = np.zeros((1, 4, 4))
    maps[0, 0, 0], maps[0, 1:3] = 1, 2
    values = map_quality(measured(maps, min_area=0.1), measured(maps, min_area=0.1))
    assert values["_classes"] == values["_classes_real"] == 1 and values["_regions"] == 2
