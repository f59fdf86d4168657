"""Label maps and palettes, for any number of classes."""

import numpy as np
import pytest

from dnnlib.data import channels
from tests.tools.data_helpers import one_hot


@pytest.mark.parametrize("num_classes", [1, 2, 4, 13, 255])
def test_label_maps_of_one_hot_maps(rng, num_classes):
    labels = rng.integers(0, num_classes + 1, (9, 7), dtype=np.uint8)
    maps = one_hot(labels, num_classes)
    np.testing.assert_array_equal(channels.to_label_map(maps, threshold=127), labels)
    signed = maps / np.float32(255) - np.float32(0.5)
    np.testing.assert_array_equal(channels.to_label_map(signed), labels)


@pytest.mark.parametrize("values, label", [
    ([-0.5, -0.1, -0.2], 0), ([0.0, 0.0, 0.0], 0), ([0.1, 0.3, 0.2], 2), ([-1.0, -1.0, 1e-6], 3)])
def test_the_largest_positive_map_wins(values, label):
    """A value > 0 means that the class is present; zero itself does not."""
    assert channels.to_label_map(np.float32([[values]])) == [[label]]


def test_without_classes_everything_is_background():
    np.testing.assert_array_equal(channels.to_label_map(np.zeros((2, 3, 0))), np.zeros((2, 3)))
    assert channels.num_channels(()) == 3


@pytest.mark.parametrize("num_classes", [1, 4, 13, 64])
def test_palette_has_distinct_colours_on_black(num_classes):
    palette = channels.palette(num_classes)
    assert palette.shape == (num_classes + 1, 3) and palette.dtype == np.uint8
    assert (palette[0] == 0).all()
    assert len(np.unique(palette, axis=0)) == num_classes + 1


def test_255_colours_are_distinguishable():
    """No two are closer than 50 of the 765 steps between black and white."""
    palette = channels.palette(255).astype(int)
    for label, colour in enumerate(palette[1:], 1):
        assert np.abs(palette[:label] - colour).sum(axis=1).min() >= 50
        np.testing.assert_array_equal(channels.palette(label), palette[:label + 1])
    with pytest.raises(ValueError, match="256 classes"):
        channels.palette(256)


def test_channels_are_colours_and_maps(rng):
    images = rng.integers(0, 255, (2, 4, 4, 7))
    parts = images[..., channels.RGB], images[..., channels.SEGMAPS]
    np.testing.assert_array_equal(np.concatenate(parts, axis=-1), images)
    assert channels.num_channels("abcd") == 7


def test_colourise_looks_labels_up():
    labels = np.array([[0, 2], [1, 4]], np.uint8)
    np.testing.assert_array_equal(channels.colourise(labels, 4), channels.palette(4)[labels])
