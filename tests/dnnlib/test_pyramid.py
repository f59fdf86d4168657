"""Square images from photos, and their levels."""

import numpy as np
import pytest
from PIL import Image

from dnnlib.data import pyramid
from tests.tools.data_helpers import random_image


def test_levels_equal_the_official_tools(shared):
    contents = np.load(shared / "reference" / "tfrecords_contents.npz")
    for record, source in enumerate(contents["order"]):
        levels = pyramid.levels(contents["source_images"][source], 2)
        assert list(levels) == [5, 4, 3, 2]
        for level, image in levels.items():
            expected = contents[f"tiny-r{level:02d}.tfrecords/{record}"]
            np.testing.assert_array_equal(image, expected)


def test_levels_are_means_of_unquantised_means(rng):
    """Against float64 means over whole blocks of the largest level."""
    image = random_image(rng, 6, 64)
    image[4] = 0
    for level, smaller in pyramid.levels(image, 2).items():
        side = 1 << level
        blocks = image.reshape(6, side, 64 // side, side, 64 // side).astype(np.float64)
        np.testing.assert_array_equal(smaller, np.rint(blocks.mean((2, 4))))
        assert smaller.dtype == np.uint8


def test_halves_round_to_even():
    image = np.zeros((3, 8, 8), np.uint8)
    image[0, :2, :2], image[1, :2, :2] = [[0, 1], [1, 0]], [[1, 2], [2, 1]]
    assert pyramid.levels(image, 2)[2][:, 0, 0].tolist() == [0, 2, 0]


@pytest.mark.parametrize("resolution", [512, 1024])
def test_sums_do_not_overflow(rng, resolution):
    """White, nearly white and noise, down from the largest levels, against float64."""
    image = np.stack([np.full((resolution, resolution), 255, np.uint8),
                      rng.integers(254, 256, (resolution, resolution), dtype=np.uint8),
                      rng.integers(0, 256, (resolution, resolution), dtype=np.uint8)])
    for level, smaller in pyramid.levels(image, 2).items():
        side, block = 1 << level, resolution >> level
        blocks = image.reshape(3, side, block, side, block)
        np.testing.assert_array_equal(smaller, np.rint(blocks.mean((2, 4), dtype=np.float64)))


def test_halves_round_to_even_at_every_level():
    """Blocks whose means are 0.5, 1.5, 2.5, ...: one half of the block is larger by one."""
    for halvings in range(1, 8):
        block, values = 1 << halvings, np.arange(0, 255, dtype=np.uint8).repeat(2)[:16 * 16]
        tiles = values.reshape(16, 16).repeat(block, 0).repeat(block, 1)
        tiles[0::2] += 1
        smaller = pyramid.levels(tiles[None], 4)[4][0]
        np.testing.assert_array_equal(smaller, np.rint(values.reshape(16, 16) + 0.5))


def test_area_shares_are_means(rng):
    planes = np.stack([np.zeros((64, 64), np.uint8), np.full((64, 64), 255, np.uint8),
                       rng.integers(0, 256, (64, 64), dtype=np.uint8)])
    expected = planes.mean(axis=(1, 2), dtype=np.float64) / 255
    assert pyramid.area_shares(planes) == expected.tolist()
    assert pyramid.area_shares(planes[:0]) == []


def picture(width, height):
    """Return a photo with a red left half and a blue right half."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, :width // 2, 0] = pixels[:, width // 2:, 2] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize("width, height, rows, columns", [
    (40, 60, (0, 60), (10, 50)), (60, 40, (10, 50), (0, 60)), (60, 60, (0, 60), (0, 60))])
def test_pad_keeps_the_whole_photo_centred_on_white(width, height, rows, columns):
    labels = np.ones((height, width), np.uint8)
    image = pyramid.build_image(picture(width, height), labels, 2, 60, "pad")
    inside = np.zeros((60, 60), bool)
    inside[slice(*rows), slice(*columns)] = True
    assert (image[:3, ~inside] == 255).all() and (image[3:, ~inside] == 0).all()
    assert (image[3, inside] == 255).all() and (image[4] == 0).all()
    np.testing.assert_array_equal(image[:3, inside].T.reshape(-1, 3),
                                  np.asarray(picture(width, height)).reshape(-1, 3))


@pytest.mark.parametrize("width, height", [(40, 60), (60, 40)])
def test_crop_cuts_out_the_largest_centred_square(width, height):
    labels = np.zeros((height, width), np.uint8)
    labels[height // 2 - 20:height // 2 + 20, width // 2 - 20:width // 2 + 20] = 2
    image = pyramid.build_image(picture(width, height), labels, 2, 40, "crop")
    assert (image[4] == 255).all() and (image[3] == 0).all()
    assert (image[0, :, :20] == 255).all() and (image[2, :, 20:] == 255).all()


@pytest.mark.parametrize("fit", pyramid.FITS)
@pytest.mark.parametrize("resolution", [32, 64, 256])
def test_maps_stay_a_partition(rng, fit, resolution):
    """Inside the photo, the maps of all classes sum to the whole, up to rounding."""
    labels = rng.integers(1, 5, (12, 8), dtype=np.uint8).repeat(10, 0).repeat(10, 1)
    image = pyramid.build_image(picture(80, 120), labels, 4, resolution, fit)
    total = image[3:].astype(int).sum(0)
    inside = pyramid.fit_square(Image.new("L", (80, 120), 255), resolution, fit, 0)
    assert np.abs(total - np.asarray(inside)).max() <= 4


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 7)])
@pytest.mark.parametrize("fit", pyramid.FITS)
def test_any_shape_becomes_a_square(size, fit):
    labels = np.ones(size[::-1], np.uint8)
    assert pyramid.build_image(Image.new("RGB", size), labels, 1, 16, fit).shape == (4, 16, 16)


def test_unknown_fits_are_refused():
    with pytest.raises(ValueError, match="stretch"):
        pyramid.fit_square(picture(4, 4), 4, "stretch", 0)


def test_without_classes_there_is_only_colour():
    assert pyramid.build_image(picture(40, 60), None, 0, 16, "pad").shape == (3, 16, 16)


@pytest.mark.parametrize("size, resolution, fit, expected", [
    ((400, 600), 512, "pad", (85, 0, 426, 512)),  # ModaNet: 341x512
    ((600, 400), 64, "pad", (0, 10, 64, 53)), ((300, 300), 32, "pad", (0, 0, 32, 32)),
    ((1000, 1), 32, "pad", (0, 15, 32, 16)), ((400, 600), 512, "crop", (0, 0, 512, 512))])
def test_a_content_box_is_where_the_photo_is(size, resolution, fit, expected):
    assert pyramid.content_box(size, resolution, fit) == expected
    black = pyramid.fit_square(Image.new("RGB", size), resolution, fit, (255, 255, 255))
    left, top, right, bottom = expected
    inside = np.zeros((resolution, resolution), bool)
    inside[top:bottom, left:right] = True
    assert ((np.asarray(black).max(-1) == 0) == inside).all()
