"""dnnlib.data.pictures: conversions at rounding boundaries, grids by position, PNGs read back."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from dnnlib.data import channels, pictures
from dnnlib.util import UserError

RNG = np.random.default_rng(7)


def test_grid_conversion_rounds_to_the_nearest_and_the_metrics_conversion_truncates():
    steps = np.arange(256)
    exact = (steps - 127.5) / 127.5
    assert (pictures.to_uint8(exact) == steps).all()
    assert (pictures.to_uint8(exact + 0.4 / 127.5) == steps).all()
    assert (pictures.to_uint8(exact[:-1] + 0.6 / 127.5) == steps[1:]).all()
    level = (steps - 128) / 127.5
    assert (pictures.to_uint8_metrics(level + 0.01 / 127.5) == steps).all()
    assert (pictures.to_uint8_metrics(level + 0.99 / 127.5) == steps).all()


def test_conversions_saturate_and_zero_is_mid_grey_in_both():
    values = np.array([-9.0, -1.0, 0.0, 1.0, 9.0])
    assert pictures.to_uint8(values).tolist() == [0, 0, 128, 255, 255]
    assert pictures.to_uint8_metrics(values).tolist() == [0, 0, 128, 255, 255]


def test_non_finite_values_are_drawn_black_but_not_measured():
    values = np.array([np.nan, np.inf, -np.inf, 1.0])
    assert pictures.to_uint8(values).tolist() == [0, 255, 0, 255]
    with pytest.raises(UserError, match="not finite"):
        pictures.to_uint8_metrics(values)


def test_grids_are_filled_row_by_row_and_the_rest_is_black():
    images = RNG.integers(1, 256, (5, 4, 6, 3), np.uint8)
    grid = pictures.image_grid(images, columns=3)
    assert grid.shape == (8, 18, 3)
    for index, image in enumerate(images):
        row, column = divmod(index, 3)
        assert (grid[row * 4:row * 4 + 4, column * 6:column * 6 + 6] == image).all()
    assert not grid[4:, 12:].any()


@pytest.mark.parametrize("count, columns", [(0, 3), (3, 0)])
def test_an_empty_grid_is_refused(count, columns):
    with pytest.raises(ValueError, match="grid of"):
        pictures.image_grid(np.zeros((count, 4, 4, 3), np.uint8), columns)


def test_pairs_show_colours_left_and_the_largest_positive_class_right():
    images = np.full((2, 4, 4, 3 + 3), -0.5, np.float32)
    images[1, :2, :, 3:] = [0.1, 0.4, 0.3]
    pairs = pictures.draw_pairs(images)
    assert pairs.shape == (2, 4, 8, 3)
    colours = channels.palette(3)
    assert (pairs[1, :, :4] == pictures.to_uint8(np.float32(-0.5))).all()
    assert (pairs[1, :2, 4:] == colours[2]).all()
    assert not pairs[1, 2:, 4:].any() and not pairs[0, :, 4:].any()


def test_pairs_with_a_binary_map_are_white_and_without_maps_are_colours_only():
    images = np.zeros((3, 4, 4, 4), np.float32)
    images[..., 0, 3] = 0.01
    pairs = pictures.draw_pairs(images)
    assert pairs.shape == (3, 4, 8, 3)
    assert (pairs[:, :, 4] == 255).all() and not pairs[:, :, 5:].any()
    assert pictures.draw_pairs(images[..., :3]).shape == (3, 4, 4, 3)


@pytest.mark.parametrize("side, shown", [(32, 96), (20, 100), (4, 96), (96, 96), (128, 128)])
@pytest.mark.parametrize("panels", [1, 2])
def test_sheets_show_every_pixel_as_a_square_and_grey_around_each_image(side, shown, panels):
    images = RNG.integers(0, 256, (3, side, panels * side, 3), np.uint8)
    images[0, :, 0] = 255  # white borders, unlike the grey between images
    sheet = pictures.grey_sheet(images, columns=2)
    gap, width = pictures.GAP, panels * shown
    assert sheet.shape == (2 * shown + 3 * gap, 2 * width + 3 * gap, 3)
    is_grey = np.ones(sheet.shape[:2], bool)
    for index, image in enumerate(images):
        top, left = gap + index // 2 * (shown + gap), gap + index % 2 * (width + gap)
        part = sheet[top:top + shown, left:left + width]
        assert (part == pictures.enlarge(image, shown // side)).all()
        is_grey[top:top + shown, left:left + width] = False
    assert (sheet[is_grey] == pictures.GREY).all()


def test_captions_fit_their_width_and_keep_the_end():
    def is_drawn_alike(text, other, width=128):
        return (pictures.caption(text, width) == pictures.caption(other, width)).all()

    long = "a/very/long/way/to/IMG_20240131.jpg   12.50"
    assert any(is_drawn_alike(long, "..." + long[i:]) for i in range(1, len(long)))
    assert not is_drawn_alike(long, long[:-1] + "1")
    assert (pictures.caption(long, 128)[:, -3:] == 255).all()
    assert not is_drawn_alike(long, "..." + long[1:], 512)
    assert is_drawn_alike("caf\xe9\n", r"caf\xe9\n")
    assert pictures.caption(long, 10).shape == (pictures.LEGEND_ROW, 10, 3)


def test_overlay_tints_labelled_pixels_only():
    rgb = np.full((1, 2, 3), 100, np.uint8)
    mixed = pictures.overlay(rgb, np.array([[0, 2]]), 3, alpha=0.25)
    assert (mixed[0, 0] == 100).all()
    assert (mixed[0, 1] == np.rint(75 + 0.25 * channels.palette(3)[2].astype(float))).all()


def test_legend_shows_letters_of_other_alphabets():
    def is_drawn_alike(name, other):
        return np.array_equal(pictures.legend((name, "\xe9"), 300),
                              pictures.legend((other, "\xe9"), 300))

    # Pillow's own font has the same box for all of them.
    names = ["R\xf6ckchen", "R\xfcckchen", "Rockchen", "\u044e\u0431\u043a\u0430",
             "\u044e\u0431\u043a\u0438", "\u88d9", "\u8863"]
    assert not any(map(is_drawn_alike, names, names[1:]))
    assert is_drawn_alike("Ro\u0308ckchen", "R\xf6ckchen")
    assert is_drawn_alike("\u88d9", r"\u88d9")


def test_legend_shows_every_colour_and_fits_its_width():
    classes = [f"class {i}" for i in range(13)]
    for width in (64, 300, 1200):
        strip = pictures.legend(classes, width)
        assert strip.shape[1] == width
        seen = {tuple(pixel) for pixel in strip.reshape(-1, 3).tolist()}
        assert all(tuple(colour) in seen for colour in channels.palette(13)[1:].tolist())
    picture = np.zeros((10, 300, 3), np.uint8)
    assert pictures.with_legend(picture, ()) is picture
    assert pictures.with_legend(picture, ("any",)) is picture
    assert pictures.with_legend(picture, classes).shape[0] > 10


def test_enlarging_makes_squares_of_pixels():
    picture = RNG.integers(0, 256, (2, 3, 3), np.uint8)
    large = pictures.enlarge(picture, 4)
    assert large.shape == (8, 12, 3)
    assert (large[::4, ::4] == picture).all() and (large[3::4, 3::4] == picture).all()


@pytest.mark.parametrize("num_classes", [1, 4, 13, 255])
def test_label_png_has_indices_and_the_palette(tmp_path, num_classes):
    labels = RNG.integers(0, num_classes + 1, (9, 7)).astype(np.uint8)
    labels[0, 0] = num_classes
    pictures.save_label_png(tmp_path / "x.png", labels, num_classes)
    with Image.open(tmp_path / "x.png") as image:
        assert image.mode == "P" and (np.asarray(image) == labels).all()
        assert (np.asarray(image.convert("RGB")) == channels.colourise(labels, num_classes)).all()
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]


def test_label_png_refuses_a_label_without_a_class(tmp_path):
    with pytest.raises(ValueError, match="label 5 in a map of 4"):
        pictures.save_label_png(tmp_path / "x.png", np.full((2, 2), 5), 4)
    with pytest.raises(ValueError, match="label 255 in a map of 4"):
        pictures.save_label_png(tmp_path / "x.png", np.full((2, 2), 255), 4)
    assert not list(tmp_path.iterdir())
    labels = np.array([[0, 4], [255, 255]], np.uint8)
    pictures.save_label_png(tmp_path / "x.png", labels, 4, may_ignore=True)
    with Image.open(tmp_path / "x.png") as image:
        assert (np.asarray(image) == labels).all()
        assert (np.asarray(image.convert("RGB"))[0, 1] == channels.palette(4)[4]).all()
    with pytest.raises(ValueError, match="label 5 in a map of 4"):
        pictures.save_label_png(tmp_path / "x.png", labels[:1] + 1, 4, may_ignore=True)


def test_png_is_lossless(tmp_path):
    picture = RNG.integers(0, 256, (5, 6, 3), np.uint8)
    pictures.save_png(tmp_path / "deep" / "x.png", picture)
    with Image.open(tmp_path / "deep" / "x.png") as image:
        assert (np.asarray(image) == picture).all()


def test_pictures_do_not_import_tensorflow():
    code = "import sys, dnnlib.data.pictures; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
