"""Run lengths give exactly the mask; hostile ones are left out with a reason: pycocotools would
read or write memory outside its own."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from dataprep.coco.annotations import load_annotations
from tests.tools.data_helpers import label_map

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def load(folder, segmentations, width, height):
    """Return what is read from one image whose annotations have the labels 1, 2, ..."""
    path = folder / "a.json"
    path.write_text(json.dumps({
        "images": [{"id": 1, "width": width, "height": height}],
        "categories": [{"id": label, "name": f"c{label}"} for label in range(1, 5)],
        "annotations": [{"image_id": 1, "category_id": label, "segmentation": segmentation}
                        for label, segmentation in enumerate(segmentations, 1)]}))
    return load_annotations(path, own=True)


def plain(mask):
    """Return uncompressed run lengths of a bool mask [h, w], by columns, starting with zeros."""
    flat = np.concatenate([[False], mask.ravel(order="F"), [not mask[-1, -1]]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], changes]))
    return {"size": list(mask.shape), "counts": counts.tolist()}


def compressed(mask):
    """Return pycocotools' own string for a mask."""
    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode()}


def some_masks(rng):
    """Return bool masks: noise, blocks, full, one pixel at each end, a few runs of thousands."""
    first, last = np.zeros((2, 5, 3), bool)
    first[0, 0], last[-1, -1] = True, True
    large = np.zeros((700, 900), bool)
    large[3:650, 10:20], large[5:30, 300:890] = True, True
    return [rng.random((7, 11)) < 0.5, np.kron(rng.random((3, 2)) < 0.5, np.ones((9, 8))) > 0,
            np.ones((4, 6), bool), first, last, large, ~large]


@pytest.mark.parametrize("form", [plain, compressed])
def test_run_lengths_give_the_mask(tmp_path, rng, form):
    for mask in some_masks(rng):
        height, width = mask.shape
        result = load(tmp_path, [form(mask)], width, height)
        assert not result.defects
        np.testing.assert_array_equal(label_map(result.photos[1], (width, height)), mask)


def test_integral_floats_and_empty_runs_are_read(tmp_path):
    counts = {"size": ["4", 5.0], "counts": [3.0, 2, 0, 0, 4, 1, 10]}
    expected = np.zeros(20, np.uint8)
    expected[[3, 4, 9]] = 1
    result = load(tmp_path, [counts], 5, 4)
    np.testing.assert_array_equal(label_map(result.photos[1], (5, 4)),
                                  expected.reshape(4, 5, order="F"))


def test_masks_are_scaled_with_a_photo_of_another_size(tmp_path, rng):
    small = rng.random((6, 5)) < 0.5
    large = np.kron(small, np.ones((4, 4))) > 0
    for mask, size, expected in ((large, (5, 6), small), (small, (20, 24), large)):
        photo = load(tmp_path, [compressed(mask)], *mask.shape[::-1]).photos[1]
        np.testing.assert_array_equal(label_map(photo, size), expected)


def test_masks_and_polygons_are_painted_larger_first(tmp_path):
    large, small = np.zeros((2, 20, 20), bool)
    large[2:18, 2:18], small[6:8, 6:8] = True, True
    polygon = [[4, 4, 12, 4, 12, 12, 4, 12]]
    photo = load(tmp_path, [plain(small), polygon, compressed(large)], 20, 20).photos[1]
    expected = np.zeros((20, 20), np.uint8)
    expected[2:18, 2:18], expected[4:12, 4:12], expected[6:8, 6:8] = 3, 2, 1
    np.testing.assert_array_equal(label_map(photo, (20, 20)), expected)


@pytest.mark.parametrize("changes, reason", [
    ({"size": [6, 5]}, "another size"), ({"size": [5]}, "without a size"),
    ({"size": "5x6"}, "without a size"), ({"size": None}, "without a size"),
    ({"size": [-5, -6]}, "another size"), ({"size": [None, 6]}, "another size"),
    ({"counts": [10, 5, 14]}, "add up"), ({"counts": [10, 5, 16]}, "add up"),
    ({"counts": [10, -5, 25]}, "whole numbers"), ({"counts": [2**70, 1]}, "whole numbers"),
    ({"counts": [10, 5.5, 14.5]}, "whole numbers"), ({"counts": [10, None]}, "whole numbers"),
    ({"counts": [10, True, 19]}, "whole numbers"), ({"counts": [[30]]}, "whole numbers"),
    ({"counts": []}, "whole numbers"), ({"counts": None}, "whole numbers"),
    ({"counts": {"a": 1}}, "whole numbers"), ({"counts": 30}, "whole numbers"),
    ({"counts": [30]}, "without area"), ({"counts": [15, 0, 15]}, "without area"),
    ({"counts": [0] * 40 + [15, 15]}, "add up"), ({"counts": ""}, "whole numbers"),
    ({"counts": "b'0'"}, "whole numbers"), ({"counts": "\u1234"}, "whole numbers"),
    ({"counts": "~~~"}, "whole numbers"), ({"counts": "P"}, "whole numbers"),
    ({"counts": "PPPPPPPPPPPPPPPPPPPP0"}, "whole numbers"), ({"counts": "O"}, "whole numbers"),
    ({"counts": "1000"}, "add up")])
def test_hostile_run_lengths_are_left_out_with_a_reason(tmp_path, changes, reason):
    good = {"size": [5, 6], "counts": [10, 5, 15]}
    result = load(tmp_path, [good, {**good, **changes}], 6, 5)
    assert [part.label for part in result.photos[1].instances] == [1]
    (defect,) = result.defects
    assert reason in defect["reason"]


def test_masks_of_too_many_pixels_are_left_out(tmp_path):
    """Decoding would take four gigabytes."""
    segmentation = {"size": [65536, 65536], "counts": [0, 2**32]}
    (defect,) = load(tmp_path, [segmentation], 65536, 65536).defects
    assert "too large" in defect["reason"]


TEXTS = st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=12)
LISTS = st.lists(st.one_of(st.integers(-2, 30), st.sampled_from([2**31, 2**32, 2**63, None])),
                 max_size=6)


@settings(max_examples=150, deadline=None)
@given(st.one_of(TEXTS, LISTS))
def test_anything_becomes_a_whole_mask_or_is_listed(tmp_path_factory, counts):
    result = load(tmp_path_factory.mktemp("fuzz"), [{"size": [5, 6], "counts": counts}], 6, 5)
    assert len(result.defects) + len(result.photos[1].instances) == 1
    for part in result.photos[1].instances:
        assert 0 < label_map(result.photos[1], (6, 5)).sum() == coco_mask.area(part.mask)
