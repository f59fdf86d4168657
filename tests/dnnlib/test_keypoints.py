"""Keypoints: where they are in fitted images, their files."""

import json

import numpy as np
import pytest
from PIL import Image

from dnnlib.data import dataset, keypoints, pyramid
from dnnlib.util import UserError
from tests.tools.data_helpers import make_dataset, random_image

NAMES = keypoints.NAMES


def random_points(rng, *shape):
    """Return points of which a third are unknown, float32 [*shape, 3]."""
    points = rng.uniform(0, 1, (*shape, 3)).astype(np.float32)
    points[..., 2] = rng.integers(0, 3, shape)
    return points * (points[..., 2:] > 0)


@pytest.mark.parametrize("fit", pyramid.FITS)
@pytest.mark.parametrize("size", [(400, 600), (601, 397), (64, 64), (31, 90)])
def test_a_dot_in_the_photo_is_where_its_point_is(rng, fit, size):
    """As the function that fits photos moves it, at the largest level and a smaller one."""
    resolution, (width, height) = 64, size
    for _ in range(4):
        # A dot of at least a pixel of the result, in the centre square, so that a crop has it too.
        side = min(size)
        x, y = ((length - side) / 2 + side * rng.uniform(0.2, 0.8) for length in size)
        radius = max(size) / 40
        columns, rows = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
        dot = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * radius**2))
        image = np.asarray(pyramid.fit_square(Image.fromarray(dot.astype(np.uint8)), resolution,
                                              fit, 0), np.float64)
        points = keypoints.place(np.array([[x, y, 2]]), size, resolution, fit)
        centre = [(image.sum(axis) * (np.arange(resolution) + 0.5)).sum() / image.sum()
                  for axis in (0, 1)]
        np.testing.assert_allclose(points[0, :2] * resolution, centre, atol=0.15)
        for level in (64, 32):
            small = image.reshape(level, 64 // level, level, -1).mean((1, 3))
            dot_at = np.array(np.unravel_index(small.argmax(), small.shape))
            assert np.abs(dot_at - np.floor(points[0, 1::-1] * level)).max() <= 1


def test_points_outside_a_crop_are_unknown():
    points = np.array([[50, 300, 2], [50, 20, 1], [50, 590, 2], [0, 0, 0]])
    cropped = keypoints.place(points, (400, 600), 64, "crop")
    np.testing.assert_allclose(cropped, [[0.125, 0.5, 2], [0, 0, 0], [0, 0, 0], [0, 0, 0]])
    padded = keypoints.place(points, (400, 600), 64, "pad")
    assert padded[:, 2].tolist() == [2, 1, 2, 0] and not padded[3].any()
    left, _, right, _ = pyramid.content_box((400, 600), 64, "pad")
    assert padded[0, 0] * 64 == pytest.approx(left + (right - left) / 8)


def test_the_skeleton_joins_all_points():
    assert len(NAMES) == len(set(NAMES)) == 18
    assert {number for pair in keypoints.SKELETON for number in pair} == set(range(1, 19))
    for first, second in keypoints.SKELETON:
        sides = {NAMES[number - 1].partition("_")[0] for number in (first, second)}
        assert sides != {"left", "right"}


def test_drawing_changes_nothing_else():
    rgb = np.full((96, 96, 3), 200, np.uint8)
    points = np.array([[0.25, 0.25, 2], [0.75, 0.25, 1], [0, 0, 0]])
    drawn = keypoints.draw_skeleton(rgb, points, [(1, 2), (2, 3)])
    rows, columns = np.nonzero((drawn != 200).any(-1))
    assert set(rows) <= {22, 23, 24, 25} and columns.min() >= 22 and columns.max() <= 73
    assert (drawn[23:25, 30:70] != 200).any(-1).any(0).all() and (rgb == 200).all()


@pytest.fixture
def data(tmp_path, rng):
    images = {"train": np.stack([random_image(rng, 7, 8) for _ in range(4)])}
    path = make_dataset(tmp_path / "data", images)
    content = json.loads((path / "dataset.json").read_text())
    content |= {"keypoints": ["a", "b"], "skeleton": [[1, 2]], "pairs": {"train": 2}}
    (path / "dataset.json").write_text(json.dumps(content))
    dataset.write_array(keypoints.keypoints_path(path, "train"), random_points(rng, 4, 2))
    dataset.write_array(keypoints.pairs_path(path, "train"),
                          np.array([[0, 3], [3, 0]], np.int32))
    return path


def test_files_are_read_and_checked(data, rng):
    points = keypoints.read_keypoints(data, "train")
    assert points.shape == (4, 2, 3) and keypoints.read_keypoints(data, "val").shape == (0, 2, 3)
    assert keypoints.read_pairs(data, "train").tolist() == [[0, 3], [3, 0]]
    assert keypoints.read_pairs(data, "val").shape == (0, 2)
    for wrong in (points[:3], points.astype(np.float64), points + 1, -points,
                  np.where(points > 0, np.nan, points)):
        dataset.write_array(keypoints.keypoints_path(data, "train"), wrong)
        with pytest.raises(UserError, match="not the keypoints of 4 images"):
            keypoints.read_keypoints(data, "train")
    for wrong in ([[0, 4], [1, 0]], [[1, 1], [0, 1]], [[0, 1]], [[-1, 0], [0, 1]]):
        dataset.write_array(keypoints.pairs_path(data, "train"), np.array(wrong, np.int32))
        with pytest.raises(UserError, match="not 2 pairs of the 4 images"):
            keypoints.read_pairs(data, "train")
    keypoints.pairs_path(data, "train").write_bytes(b"none")
    with pytest.raises(UserError, match="not a file of pairs"):
        keypoints.read_pairs(data, "train")
    keypoints.pairs_path(data, "train").unlink()
    with pytest.raises(UserError, match="no such file"):
        keypoints.read_pairs(data, "train")
