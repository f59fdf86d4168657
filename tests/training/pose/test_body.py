"""Heatmaps, parts of bodies and deformed features against float64 NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from dnnlib.data import mirroring
from tests.tools import people
from training.pose import body

NAMES = people.NAMES


@pytest.fixture
def points(rng):
    """Return three figures [3, 18, 3]: two lack some joints, one has hips wider than shoulders, and
    one is seen from the side."""
    found = np.stack([people.pose(rng) for _ in range(3)])
    at = {name: number for number, name in enumerate(NAMES)}
    found[0, at["left_wrist"]] = found[1, at["right_hip"]] = 0
    found[1, [at[name] for name in body.HEAD if name != "nose"]] = 0
    found[0, at["left_hip"], 0] += 0.2
    found[2, [at[name] for name in (*body.SHOULDERS, *body.HIPS)], 0] = 0.5, 0.51, 0.5, 0.51
    return found


def test_heatmaps(points):
    """Gaussians around the known points, with pose-gan's six pixels of 128."""
    maps = body.heatmaps(tf.constant(points), 16)
    centres = (np.arange(16) + 0.5) / 16
    squares = ((centres[:, None, None] - points[:, None, None, :, 1].astype(np.float64)) ** 2
               + (centres[:, None] - points[:, None, None, :, 0].astype(np.float64)) ** 2)
    expected = np.exp(-squares / (2 * (6 / 128) ** 2)) * (points[:, None, None, :, 2] > 0)
    np.testing.assert_allclose(maps, expected, atol=2e-6)


def test_mirroring_swaps_left_and_right(points):
    """Mirrored twice, points are where they were; heatmaps equal the mirrored ones."""
    order = mirroring.mirrored_order(mirroring.pairs_by_name(NAMES), NAMES)
    flipped = body.mirror_points(tf.constant(points, tf.float32), order).numpy()
    for k, name in enumerate(NAMES):
        side, _, joint = name.partition("_")
        other = {"left": "right", "right": "left"}.get(side)
        partner = points[:, NAMES.index(f"{other}_{joint}") if other else k]
        np.testing.assert_allclose(flipped[:, k, 0],
                                   np.where(partner[:, 2] > 0, 1 - partner[:, 0], 0), atol=1e-6)
        np.testing.assert_array_equal(flipped[:, k, 1:], np.float32(partner[:, 1:]))
    np.testing.assert_allclose(body.mirror_points(tf.constant(flipped), order), points, atol=1e-6)
    maps = [body.heatmaps(tf.constant(x, tf.float32), 8).numpy() for x in (points, flipped)]
    np.testing.assert_allclose(maps[1], maps[0][:, :, ::-1][..., order], atol=1e-5)


# Parts

def corners_of_parts(points):
    """Return {part number: corners [4, 2] of a figure's rectangles}, (u, v) = 00, 10, 01, 11."""
    at = {name: point[:2].astype(np.float64) for name, point in zip(NAMES, points) if point[2]}
    limbs = [[at.get(name) for name in limb] for limb in body.LIMBS]
    lengths = [np.linalg.norm(b - a) for a, b in limbs if a is not None and b is not None]
    width = np.mean(lengths) / 3
    lines = {i: (a, b, width) for i, (a, b) in enumerate(limbs)
             if a is not None and b is not None}
    if all(name in at for name in (*body.SHOULDERS, *body.HIPS)):
        pairs = [[at[name] for name in names] for names in (body.SHOULDERS, body.HIPS)]
        lines[8] = (*(sum(pair) / 2 for pair in pairs),
                    max(width, *(np.linalg.norm(a - b) for a, b in pairs)))
    head = np.array([at[name] for name in body.HEAD if name in at])
    (left, top), (right, bottom) = head.min(0) - width / 2, head.max(0) + width / 2
    middle = (left + right) / 2
    lines[9] = np.array([middle, bottom]), np.array([middle, top]), right - left
    found = {}
    for i, (start, end, wide) in lines.items():
        along = (end - start) / np.linalg.norm(end - start)
        half = wide / 2 * np.array([-along[1], along[0]])
        found[i] = np.array([start - half, start + half, end - half, end + half])
    return found


def test_parts_are_rectangles_along_limbs(points):
    frames = body.part_frames(tf.constant(points), NAMES).numpy()
    assert frames.shape == (3, body.NUM_PARTS, 2, 3)
    for frame, one in zip(frames, points):
        expected = corners_of_parts(one)
        assert len(expected) > 6
        for i in range(body.NUM_PARTS):
            if i not in expected:
                assert not frame[i].any()
                continue
            for corner, u, v in zip(expected[i], (0, 1, 0, 1), (0, 0, 1, 1)):
                np.testing.assert_allclose(frame[i] @ [u, v, 1], corner, atol=1e-6)


def test_a_body_without_limbs_has_no_parts(points):
    lonely = points * (np.array(NAMES) == "nose")[:, None]
    assert not body.part_frames(tf.constant(lonely), NAMES).numpy().any()


def test_missing_joints_are_named():
    assert body.missing_joints(NAMES) == []
    assert body.missing_joints([name for name in NAMES if name not in ("neck", "nose")]) == []
    assert body.missing_joints([name for name in NAMES if name != "left_knee"]) == ["left_knee"]
    assert body.missing_joints(["nose"])[0] == "right_shoulder"


# Features

def covered(corners, side):
    """Return how much of each pixel a rectangle covers, [side, side], by distances to its sides."""
    result = np.ones((side, side))
    for i, j in np.ndindex(side, side):
        pixel = np.array([j + 0.5, i + 0.5]) / side
        for end in (1, 2):
            length = np.linalg.norm(corners[end] - corners[0])
            at = (pixel - corners[0]) @ (corners[end] - corners[0]) / length * side
            low, high = max(at - 0.5, 0), min(at + 0.5, length * side)
            result[i, j] *= max(high - low, 0)
    return result


def deformed(features, source, target):
    """Deform by loops: masked features, moved by the least-squares affine map, and the maximum."""
    side = len(features)
    masks = {i: covered(corners, side) for i, corners in source.items()}
    result = features * np.prod([1 - mask for mask in masks.values()], axis=0)[..., None]
    parts = [np.zeros_like(features)]
    for i in source.keys() & target.keys():
        masked = np.pad(features * masks[i][..., None], [(1, 1), (1, 1), (0, 0)])
        affine = np.linalg.lstsq(np.hstack([target[i], np.ones((4, 1))]), source[i], rcond=None)[0]
        moved = np.zeros_like(features)
        for y, x in np.ndindex(side, side):
            column, row = np.array([(x + 0.5) / side, (y + 0.5) / side, 1]) @ affine * side + 0.5
            if not (0 <= column < side + 1 and 0 <= row < side + 1):
                continue
            j, i_ = int(column), int(row)
            p, q = column - j, row - i_
            moved[y, x] = ((1 - q) * ((1 - p) * masked[i_, j] + p * masked[i_, j + 1])
                           + q * ((1 - p) * masked[i_ + 1, j] + p * masked[i_ + 1, j + 1]))
        parts.append(moved)
    return np.maximum(result, np.max(parts, axis=0))


def test_deformed_features_and_their_gradient(points, rng):
    """At two sizes; against finite differences, at places where the maximum does not matter."""
    poses = points, points[::-1]
    frames = [body.part_frames(tf.constant(part), NAMES) for part in poses]
    corners = [[corners_of_parts(one) for one in part] for part in poses]
    for side in (8, 5):
        features = rng.standard_normal((3, side, side, 3))
        probe = rng.standard_normal(features.shape)

        def expected(features):
            return np.stack([deformed(*parts) for parts in zip(features, *corners)])

        x = tf.constant(features, tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(x)
            found = body.warp_features(x, *frames)
            total = tf.reduce_sum(found * tf.constant(probe, tf.float32))
        np.testing.assert_allclose(found, expected(features), atol=2e-5)
        assert np.abs(found.numpy() - features).max() > 0.5
        grad = tape.gradient(total, x).numpy()
        for place in ((0, 3, 3, 1), (1, 4, 2, 0), (0, 1, 4, 2)):
            step = np.zeros_like(features)
            step[place] = 1e-5
            slope = ((expected(features + step) - expected(features - step)) * probe).sum() / 2e-5
            assert grad[place] == pytest.approx(slope, abs=1e-4), place


def test_a_part_moves_its_features(rng):
    """An upright rectangle of whole pixels is moved by whole pixels; its surroundings stay."""
    frame = np.zeros((1, body.NUM_PARTS, 2, 3), np.float32)
    frame[0, 3] = [[2, 0, 1], [0, 3, 2]]
    target = frame.copy()
    target[0, 3, :, 2] = 4, 3
    features = rng.uniform(0.5, 1, (1, 8, 8, 2)).astype(np.float32)
    found = body.warp_features(tf.constant(features), frame / 8, target / 8).numpy()
    expected = features.copy()
    expected[:, 2:5, 1:3] = 0
    expected[:, 3:6, 4:6] = np.maximum(features[:, 2:5, 1:3], features[:, 3:6, 4:6])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    # Unmoved, nothing changes; a part that one of the poses lacks is drawn nowhere.
    np.testing.assert_allclose(body.warp_features(tf.constant(features), frame / 8, frame / 8),
                               features, atol=1e-6)
    gone = body.warp_features(tf.constant(features), frame / 8, np.zeros_like(frame)).numpy()
    np.testing.assert_allclose(gone[:, 2:5, 1:3], 0, atol=1e-6)
    kept = body.warp_features(tf.constant(features), np.zeros_like(frame), frame / 8)
    np.testing.assert_allclose(kept, features, atol=1e-6)
    # Negative features never survive: a part is 0 outside itself, and the maximum is taken.
    signed = (features * rng.choice([-1, 1], features.shape)).astype(np.float32)
    for target in (frame, np.zeros_like(frame)):
        found = body.warp_features(tf.constant(signed), frame / 8, target / 8).numpy()
        around = np.ones((1, 8, 8, 2), bool)
        around[:, 2:5, 1:3] = False
        np.testing.assert_allclose(found[around], np.maximum(signed, 0)[around], atol=1e-6)
    assert (signed < 0).any()
