"""Polygons give back their masks to the pixel, by COCO's own rasteriser and reader."""

import inspect
import json
import sys

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from dnnlib.data import coco
from dnnlib.data.coco import label_annotations, mask_polygons, write_coco

# pycocotools' own arrays predate NumPy 2's `copy` keyword.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def rasterise(polygons, height, width):
    encoded = coco_mask.frPyObjects(polygons, height, width)
    return coco_mask.decode(coco_mask.merge(encoded)).astype(bool)


def mask_of(*rows):
    return np.array([[pixel == "#" for pixel in row] for row in rows])


SHAPES = {
    "one pixel": mask_of("...", ".#.", "..."),
    "full": mask_of("##", "##"),
    "diagonal pixels": mask_of("#.#", ".#.", "#.#"),
    "ring": mask_of("####", "#..#", "####"),
    "ring that is open at a corner": mask_of("###.", "#.#.", "##.#", "..##"),
    "two holes in a row, island within": mask_of("###########", "#.###.....#", "#####.#.#.#",
                                                 "#.###.....#", "###########"),
    "staircase": mask_of("#....", "##...", "###..", "####.", "#####"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_polygons_give_the_shape_back(name):
    mask = SHAPES[name]
    assert (rasterise(mask_polygons(mask), *mask.shape) == mask).all()


@pytest.mark.parametrize("density", [0.05, 0.3, 0.5, 0.7, 0.95])
def test_polygons_give_random_masks_back(density):
    rng = np.random.default_rng(int(density * 100))
    for _ in range(20):
        mask = rng.random(rng.integers(1, 24, 2)) < density
        polygons = mask_polygons(mask)
        assert bool(polygons) == mask.any()
        if polygons:
            assert (rasterise(polygons, *mask.shape) == mask).all()


def test_a_mask_with_many_holes_is_cut_without_recursion():
    mask = np.ones((201, 3), bool)
    mask[1::2, 1] = False
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 50)
    try:
        assert sum(len(polygon) // 2 for polygon in mask_polygons(mask)) > 4 * 100
    finally:
        sys.setrecursionlimit(limit)


@pytest.mark.parametrize("density", [0.5, 0.7, 0.9])
def test_every_row_is_visited_at_most_twice(density, monkeypatch):
    """However many holes there are: once to find them, once to cut them open."""
    rows, trace = [], coco._border_loops

    def count(mask):
        rows.append(len(mask))
        return trace(mask)
    monkeypatch.setattr(coco, "_border_loops", count)
    mask = np.random.default_rng(0).random((120, 40)) < density
    assert (rasterise(mask_polygons(mask), *mask.shape) == mask).all()
    assert sum(rows) <= 2 * len(mask)


def test_a_plain_rectangle_has_four_corners_and_no_cut():
    mask = np.zeros((9, 9), bool)
    mask[2:5, 3:8] = True
    assert mask_polygons(mask) == [[3, 2, 8, 2, 8, 5, 3, 5]]
    mask[3, 4] = False
    assert len(mask_polygons(mask)) == 2


def test_pixels_touching_only_at_a_corner_are_separate_polygons():
    assert sorted(mask_polygons(SHAPES["diagonal pixels"]))[0] == [0, 0, 1, 0, 1, 1, 0, 1]
    assert len(mask_polygons(SHAPES["diagonal pixels"])) == 5


def test_annotations_state_class_box_and_area():
    labels = np.zeros((8, 10), np.uint8)
    labels[1:4, 2:7] = 5
    labels[2, 3] = 9
    dress, top = label_annotations(labels, image_id=42, first_id=7)
    assert (dress["id"], dress["image_id"], dress["category_id"]) == (7, 42, 5)
    assert dress["bbox"] == [2, 1, 5, 3] and dress["area"] == 14 and dress["iscrowd"] == 0
    assert (top["id"], top["category_id"], top["bbox"], top["area"]) == (8, 9, [3, 2, 1, 1], 1)


def test_file_is_read_by_coco_tools_with_the_same_masks(tmp_path):
    rng = np.random.default_rng(3)
    labels = {image_id: rng.integers(0, 4, (6, 7)).astype(np.uint8).repeat(3, 0).repeat(3, 1)
              for image_id in (0, 5, 9)}
    labels[11] = np.zeros((18, 21), np.uint8)
    path = tmp_path / "annotations.json"
    items = ((image_id, f"{image_id:07d}.png", label) for image_id, label in labels.items())
    write_coco(path, ("bag", "belt", "boots"), items, "made in a test")
    coco = COCO(str(path))
    assert sorted(coco.imgs) == [0, 5, 9, 11]
    assert [c["name"] for c in coco.loadCats([1, 2, 3])] == ["bag", "belt", "boots"]
    for image_id, label in labels.items():
        read = np.zeros_like(label)
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[image_id])):
            mask = coco.annToMask(annotation).astype(bool)
            assert mask.sum() == annotation["area"]
            read[mask] = annotation["category_id"]
        assert (read == label).all()
    ids = [a["id"] for a in json.loads(path.read_text())["annotations"]]
    assert ids == list(range(1, len(ids) + 1))


def test_a_failed_write_leaves_no_file(tmp_path):
    def items():
        yield 1, "1.png", np.ones((4, 4), np.uint8)
        raise OSError("disk full")
    with pytest.raises(OSError, match="disk full"):
        write_coco(tmp_path / "annotations.json", ("bag",), items(), "")
    assert not list(tmp_path.iterdir())
