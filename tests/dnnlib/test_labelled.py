"""Labelled pictures by number: folders of pairs, squares, ignored pixels, what is refused."""

import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dnnlib.data import channels, labelled, pictures, pyramid
from dnnlib.data.class_list import write_class_list
from dnnlib.util import UserError
from tests.tools.labelled_pictures import CLASSES, coloured_dataset, picture


def pair_folder(path, rng, num=3, size=None):
    """Write a folder of pairs; return [(rgb, label map)]."""
    pairs = [picture(rng) for _ in range(num)]
    for number, (rgb, label_map) in enumerate(pairs):
        if size:
            rgb, label_map = rgb[:size[1], :size[0]], label_map[:size[1], :size[0]]
            pairs[number] = rgb, label_map
        pictures.save_png(path / f"images/{number}.png", rgb)
        pictures.save_label_png(path / f"labels/{number}.png", label_map, 2)
    write_class_list(path, CLASSES)
    return pairs


def test_pairs_of_the_requested_size_are_unchanged(tmp_path, rng):
    pairs = pair_folder(tmp_path, rng)
    folder = labelled.open_labelled(tmp_path)
    assert folder.classes == CLASSES and folder.splits == {"train": 3} and len(folder) == 3
    assert folder.largest_level() == 16
    found = labelled.pictures_of(folder, "train", 16)
    for number, (rgb, label_map) in enumerate(pairs):
        for ours, expected in zip(found.read(number), (rgb, label_map)):
            np.testing.assert_array_equal(ours, expected)


def test_other_pairs_are_padded_like_a_data_sets_photos(tmp_path, rng):
    """8x16 pixels become 4x8 in the middle of 8x8: nearest labels, white background around."""
    (rgb, label_map), *_ = pair_folder(tmp_path, rng, size=(8, 16))
    ours, labels = labelled.PairFolder(tmp_path, 8).read(0)
    converted = pyramid.build_image(Image.fromarray(rgb), label_map, len(CLASSES), 8, "pad")
    np.testing.assert_array_equal(ours.transpose(2, 0, 1), converted[channels.RGB])
    beside = [0, 1, 6, 7]
    assert (ours[:, beside] == 255).all() and not labels[:, beside].any()
    assert not converted[channels.NUM_COLOURS:, :, beside].any()
    inner = np.asarray(Image.fromarray(label_map).resize((4, 8), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(labels[:, 2:6], inner)


def test_the_size_is_one_that_half_of_the_pictures_reach(tmp_path, rng, monkeypatch):
    """Whatever the size of the first one; only headers are read."""
    pair_folder(tmp_path, rng)
    Image.new("RGB", (5, 3)).save(tmp_path / "images/0.png")
    for name in "12":  # larger than any label map may be, and not read either
        Image.new("RGB", (20, 40)).save(tmp_path / f"images/{name}.png")
    folder = labelled.PairFolder(tmp_path)
    assert folder.largest_level() == 32
    monkeypatch.setattr(labelled, "decode_file", None)
    assert folder.largest_level() == 32
    (tmp_path / "images/1.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"1\.png: not a readable image"):
        folder.largest_level()


def test_shards_are_one_folder(tmp_path, rng):
    pairs = [pair for number in range(2)
             for pair in pair_folder(tmp_path / f"shard-0000{number}-of-00002", rng)]
    folder = labelled.open_labelled(tmp_path)
    assert len(folder) == 6 and folder.classes == CLASSES
    for number, (rgb, label_map) in enumerate(pairs):
        for ours, expected in zip(folder.at(16).read(number), (rgb, label_map)):
            np.testing.assert_array_equal(ours, expected)
    (tmp_path / "shard-00001-of-00002/labels/2.png").unlink()
    with pytest.raises(UserError, match=r"labels/2\.png: missing: every picture in images/ needs"):
        labelled.open_labelled(tmp_path)


def test_a_digest_of_classes_names_and_sizes(tmp_path, rng):
    pair_folder(tmp_path, rng)
    first = labelled.PairFolder(tmp_path).digest
    assert labelled.PairFolder(tmp_path).digest == first
    (tmp_path / "images/0.png").rename(tmp_path / "images/9.png")
    (tmp_path / "labels/0.png").rename(tmp_path / "labels/9.png")
    second = labelled.PairFolder(tmp_path).digest
    names = (tmp_path / "classes.txt").read_text().split()
    (tmp_path / "classes.txt").write_text("\n".join(names[::-1]))
    assert first != second != labelled.PairFolder(tmp_path).digest != first


@pytest.mark.parametrize("change, message", [
    (lambda path: (path / "labels/1.png").unlink(), r"labels/1\.png: missing: .* a PNG of"),
    (lambda path: [file.unlink() for file in (path / "labels").iterdir()],
     r"labels/0\.png: missing, and 2 more: every picture in images/"),
    (lambda path: (path / "classes.txt").unlink(), r"classes\.txt: no such file"),
    (lambda path: (path / "classes.txt").write_text("hat #ff0000\nbag #00ff00"),
     "gives colours, .* convert it with dataset_tool.py create_from_masks"),
    (lambda path: (path / "classes.txt").write_text("0: hat\n1: bag\n2: shoe"),
     "number 0 is 'hat', but 0 is always the background"),
    (lambda path: [file.unlink() for file in (path / "images").iterdir()], "no pictures there"),
    (lambda path: [file.rename(file.with_name(f".{file.name}"))
                   for file in (path / "images").iterdir()], "no pictures there")])
def test_incomplete_folders_are_refused(tmp_path, rng, change, message):
    pair_folder(tmp_path, rng)
    change(tmp_path)
    with pytest.raises(UserError, match=message):
        labelled.open_labelled(tmp_path)


@pytest.mark.parametrize("label_map, message", [
    (np.full((16, 16), 3, np.uint8), "label 3, above the number of classes \\(2\\)"),
    (np.zeros((8, 16), np.uint8), "16x8 pixels, its picture has 16x16"),
    (np.zeros((16, 16, 3), np.uint8), "picture of colours")])
def test_wrong_label_maps_are_refused(tmp_path, rng, label_map, message):
    pair_folder(tmp_path, rng)
    Image.fromarray(label_map).save(tmp_path / "labels/1.png")
    with pytest.raises(UserError, match=message):
        labelled.PairFolder(tmp_path, 16).read(1)


def write_png(path, depth, rows, size=None, kind=0):
    """Write a PNG file as other programs do: rows of bytes as they are stored."""
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(
            ">I", zlib.crc32(name + data))
    width, height = size or (16, len(rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(
        ">IIBBBBB", width, height, depth, kind, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(
            b"".join(b"\0" + row for row in rows))) + chunk(b"IEND", b""))


@pytest.mark.parametrize("depth, row, labels", [
    (1, b"\x55" * 2, [0, 1]), (2, b"\x1b" * 4, [0, 1, 2, 3]), (4, b"\x12\x0f" * 4, [1, 2, 0, 15])])
def test_grey_of_few_bits_is_read_as_stored(tmp_path, depth, row, labels):
    """Pillow scales it to 0..255: label 1 of 4 bits would be 17, and 15 would be ignored."""
    write_png(tmp_path / "a.png", depth, [row] * 3)
    found = labelled.read_label_png(tmp_path / "a.png", 40)
    assert found.dtype == np.uint8 and (found == labels * (16 // len(labels))).all()


def test_other_files_are_not_read_as_label_maps(tmp_path):
    """Neither a huge one, about which Pillow would warn, nor one for which it starts a program."""
    path = tmp_path / "a.png"
    write_png(path, 8, [b""], size=(10_000, 10_000))
    with pytest.raises(UserError, match="image of 10000x10000 pixels is too large"):
        labelled.read_label_png(path, 2)
    write_png(path, 16, [bytes(32)] * 16)
    with pytest.raises(UserError, match="or of 16 bits"):
        labelled.read_label_png(path, 2)
    path.write_text("<html>404</html>")
    with pytest.raises(UserError, match=r"a\.png: cannot be .*\(mask is a web page, not a mask"):
        labelled.read_label_png(path, 2)
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n")
    with pytest.raises(UserError, match="not a PNG file"):
        labelled.read_label_png(path, 2)


def test_two_pictures_do_not_share_a_map(tmp_path, rng):
    pair_folder(tmp_path, rng)
    (tmp_path / "images/1.jpg").write_bytes((tmp_path / "images/2.png").read_bytes())
    with pytest.raises(UserError, match=r"1\.png: its label map would be 1\.png, which is that of "
                       r"1\.jpg"):
        labelled.open_labelled(tmp_path)


def test_photos_without_maps_are_not_pairs(tmp_path, rng):
    pair_folder(tmp_path, rng)
    shutil.rmtree(tmp_path / "labels")
    with pytest.raises(UserError, match=r"needs labels/ and classes\.txt .*photos alone are the"):
        labelled.open_labelled(tmp_path)


def test_files_that_are_no_pictures_need_no_label_maps(tmp_path, rng):
    """Hidden files, and those of file managers and programs."""
    pair_folder(tmp_path, rng)
    for name in ("Thumbs.db", "notes.txt", "._0.png"):
        (tmp_path / "images" / name).write_bytes(b"no picture")
    assert len(labelled.open_labelled(tmp_path)) == 3


def test_colours_count_if_an_editor_renumbers_them(tmp_path, rng):
    """Editors and optimisers of PNGs store the same colours in another order; other palettes are no
    reason to doubt the indices."""
    (_, label_map), *_ = pair_folder(tmp_path, rng)
    label_map[0] = channels.IGNORE
    path = tmp_path / "labels/0.png"
    pictures.save_label_png(path, label_map, 2, may_ignore=True)
    with Image.open(path) as image:
        image.remap_palette([2, channels.IGNORE, 0, 1]).save(tmp_path / "renumbered.png")
        other = image.copy()
    assert (np.asarray(Image.open(tmp_path / "renumbered.png")) != label_map).any()
    np.testing.assert_array_equal(
        labelled.read_label_png(tmp_path / "renumbered.png", 2), label_map)
    other.putpalette(channels.palette(channels.IGNORE)[::-1].tobytes())
    other.save(tmp_path / "other.png")
    np.testing.assert_array_equal(labelled.read_label_png(tmp_path / "other.png", 2), label_map)


def test_masks_of_0_and_255_are_refused(tmp_path, rng):
    """Of one class, they would be pictures without the class, and with pixels to ignore."""
    pair_folder(tmp_path, rng)
    (tmp_path / "classes.txt").write_text("hat\n")
    for number in range(3):
        Image.fromarray(np.uint8([[0, 255]] * 16).repeat(8, 1)).save(
            tmp_path / f"labels/{number}.png")
    with pytest.raises(UserError, match=r"labels: .* 0 and 255 alone; 'hat' is 1, .* write 1 in"):
        labelled.open_labelled(tmp_path)
    Image.fromarray(np.uint8([[1, 255]] * 16).repeat(8, 1)).save(tmp_path / "labels/2.png")
    assert len(labelled.open_labelled(tmp_path)) == 3


def test_files_may_contain_ignored_pixels(tmp_path, rng):
    pair_folder(tmp_path, rng)
    Image.fromarray(np.full((16, 16), 255, np.uint8)).save(tmp_path / "labels/1.png")
    assert (labelled.PairFolder(tmp_path, 16).read(1)[1] == channels.IGNORE).all()
    with pytest.raises(UserError, match="label 255, above the number of classes \\(2\\)"):
        labelled.read_label_png(tmp_path / "labels/1.png", 2, may_ignore=False)


def test_a_data_set_is_recognised_by_its_file(tmp_path):
    info = labelled.open_labelled(coloured_dataset(tmp_path / "data"))
    assert len(labelled.pictures_of(info, "val", 16)) == 4
    with pytest.raises(UserError, match="does not exist"):
        labelled.open_labelled(tmp_path / "nowhere")
