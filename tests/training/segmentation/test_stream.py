"""Minibatches of labelled pictures: shares, order, positions; flips, zooms, and ignored pixels."""

import numpy as np
import pytest
import tensorflow as tf

from dnnlib.data import channels, labelled
from dnnlib.data.dataset import open_dataset
from dnnlib.tflib.distribute import Draws
from tests.tools.labelled_pictures import SIDE, coloured_dataset, picture, tiny
from training.segmentation.stream import (
    LabelledBatch,
    Source,
    process_pictures,
    read_labelled,
    split_minibatch,
    zoom_randomly,
)


class Numbered:
    """Pictures of a single grey level, which is their number."""

    classes = ("one",)

    def __init__(self, first):
        self.first = first

    def __len__(self):
        return 10

    def read(self, number):
        value = np.uint8(self.first + number)
        return np.full((4, 4, 3), value), np.full((4, 4), value)


def levels(sources, seed, count, start=0, rows=None):
    """Return the numbers of the pictures in some minibatches."""
    minibatch = sum(source.share for source in sources)
    return [read_labelled(sources, seed, [
        step * minibatch + row for row in rows or range(minibatch)]).rgb[:, 0, 0, 0].tolist()
        for step in range(start, start + count)]


def test_minibatches_keep_the_shares_and_epochs_are_complete():
    sources = [Source(Numbered(0), [0, 3, 5], 3), Source(Numbered(100), range(10), 1)]
    batches = levels(sources, 1, 20)
    for batch in batches:
        assert sorted(batch[:3]) == [0, 3, 5] and batch[3] >= 100
    for epoch in (batches[:10], batches[10:]):
        assert sorted(batch[3] for batch in epoch) == list(range(100, 110))
    assert batches[0][:3] != batches[1][:3] or batches[1][:3] != batches[2][:3]
    assert levels(sources, 1, 20) == batches
    assert levels(sources, 2, 20) != batches
    # Two sources of one size: the second's order is not the first's, nor any of the next seed's.
    alike = [Source(Numbered(0), range(10), 1)] * 2
    one, two = (list(zip(*levels(alike, seed, 10))) for seed in (1, 2))
    assert one[1] not in (one[0], *two)


def test_a_stream_starts_anywhere_and_workers_read_their_rows():
    sources = [Source(Numbered(0), range(10), 3), Source(Numbered(100), range(10), 1)]
    batches = levels(sources, 1, 9)
    assert levels(sources, 1, 4, start=5) == batches[5:]
    parts = [levels(sources, 1, 9, rows=rows) for rows in ([0, 2], [1, 3])]
    for batch, even, odd in zip(batches, *parts):
        assert even == batch[0::2] and odd == batch[1::2]


def test_a_smaller_choice_is_part_of_a_larger_one():
    few, more = (labelled.choose_numbers(50, number, 3) for number in (10, 20))
    assert len(set(few)) == 10 and set(few) < set(more)
    assert labelled.choose_numbers(50, None, 3) == range(50)
    assert labelled.choose_numbers(50, 10, 4) != few


@pytest.mark.parametrize("mix, expected", [(0.5, (4, 4)), (0.9, (1, 7)), (1, (0, 8)), (0, (8, 0))])
def test_shares_of_a_minibatch(mix, expected):
    assert split_minibatch(8, mix) == expected


def batch_of(pairs):
    rgb, label_maps = (np.stack(parts) for parts in zip(*pairs))
    return LabelledBatch(tf.constant(rgb), tf.constant(label_maps))


def test_flips_mirror_the_map_and_swap_sides(rng):
    """Labels 1 and 2 are swapped in the mirrored half; IGNORE stays."""
    pairs = [picture(rng) for _ in range(16)]
    for _, label_map in pairs:
        label_map[0] = channels.IGNORE
    batch, config = batch_of(pairs), tiny("x", zoom=1.0)
    draws = Draws(1, 7, 16)
    rgb, label_maps = process_pictures(batch, draws, config, [0, 2, 1])
    flipped = draws.uniform("mirror").numpy() < 0.5
    assert 0 < flipped.sum() < 16
    for i, (old_rgb, old_map) in enumerate(pairs):
        if flipped[i]:
            old_rgb, old_map = old_rgb[:, ::-1], old_map[:, ::-1]
            old_map = np.array([0, 2, 1, *range(3, 256)])[old_map]
        np.testing.assert_allclose(rgb[i], old_rgb / 127.5 - 1, atol=1e-6)
        np.testing.assert_array_equal(label_maps[i], old_map)
    still, _ = process_pictures(batch, draws, tiny("x", zoom=1.0, mirror=False), None)
    np.testing.assert_allclose(still, batch.rgb.numpy() / 127.5 - 1, atol=1e-6)


def test_zooms_move_picture_and_map_alike():
    """A picture of its own coordinates shows where each pixel came from."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    rgb = tf.constant(np.tile(np.stack([x, y, 0 * x], axis=-1), (32, 1, 1, 1)))
    label_maps = tf.constant(np.tile((y * SIDE + x).astype(np.int32) % 250, (32, 1, 1))[..., None])
    draws = Draws(1, 3, 32)
    moved, moved_maps = zoom_randomly(rgb, label_maps, 2.0, draws)
    scale = (2.0 ** (2 * draws.uniform("zoom") - 1)).numpy()
    assert scale.min() < 0.7 and scale.max() > 1.4
    outside = moved_maps[..., 0].numpy() == channels.IGNORE
    assert not outside[scale >= 1].any() and outside[scale < 0.9].any(axis=(1, 2)).all()
    for i in range(32):
        inside = ~outside[i]
        source = np.rint(moved[i].numpy()[..., :2]).astype(int)
        expected = (source[..., 1] * SIDE + source[..., 0]) % 250
        # Halfway between two pixels, the last bit decides which one is nearest.
        clear = (np.abs(moved[i].numpy()[..., :2] % 1 - 0.5) > 1e-3).all(axis=-1)
        np.testing.assert_array_equal(moved_maps[i, ..., 0].numpy()[inside & clear],
                                      expected[inside & clear])
        inner = np.diff(moved[i, SIDE // 2, :, 0].numpy())
        np.testing.assert_allclose(np.median(inner[inner > 0]), 1 / scale[i], rtol=1e-3)


def test_records_are_read_as_label_maps(tmp_path, rng):
    data = coloured_dataset(tmp_path / "data")
    pictures = labelled.pictures_of(open_dataset(data), "train", SIDE)
    expected_rgb, expected = picture(np.random.default_rng(0))
    rgb, label_map = pictures.read(0)
    np.testing.assert_array_equal(label_map, expected)
    np.testing.assert_array_equal(rgb, expected_rgb)
