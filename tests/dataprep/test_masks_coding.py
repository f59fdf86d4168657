"""Masks of other conventions: all of them together show what pixels mean, or the user must say."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataprep import masks, photo_sources
from dnnlib.data import channels
from dnnlib.util import UserError
from tests.dataprep.test_masks import create, make_masked, run, stored_labels
from tests.tools.data_helpers import FOUR, read_jsonl

SIDE, NUM = 16, 6
COLOURS = np.uint8([[0, 0, 0], [255, 0, 0], [0, 160, 255], [128, 128, 0], [9, 9, 200]])
VOC = np.uint8([[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]])  # as published
LISTED = "hat #ff0000\ncoat #00a0ff\nlegs #808000\nshoes #0909c8\n"
CVAT = ("# label:color_rgb:parts:actions\nbackground:0,0,0::\nhat:255,0,0::\ncoat:0,160,255::\n"
        "legs:128,128,0::\nshoes:9,9,200::\n")


def in_palette(values, colours):
    """Return a palette picture of numbers [h, w]."""
    picture = Image.fromarray(np.uint8(values))
    picture = Image.frombytes("P", picture.size, picture.tobytes())
    picture.putpalette(np.uint8(colours).tobytes())
    return picture


def adaptive(labels, colours=COLOURS):
    """Return a picture with its own palette: colours in the order in which they occur."""
    shown, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return in_palette(np.argsort(order)[inverse].reshape(labels.shape), colours[shown[order]])


def grey_rgb(values):
    return Image.fromarray(np.uint8(values)).convert("RGB")


def write(path, draw, text=None, names="p{}.png", list_name="classes.txt", classes=FOUR):
    """Make a folder of photos and masks draw(label map); return {photo: label map}."""
    maps = make_masked(path, NUM, classes, SIDE)
    for i, labels in enumerate(maps):
        (path / "labels" / f"p{i}.png").unlink()
        draw(labels).save(path / "labels" / names.format(i))
    if text is not None:
        (path / "classes.txt").unlink()
        (path / list_name).write_text(text)
    return {f"p{i}.jpg": labels for i, labels in enumerate(maps)}


def check(tmp_path, maps, *options, classes=FOUR):
    """Make a data set and compare its names and label maps with `maps`."""
    assert create(tmp_path / "mine", tmp_path / "set", "--num-val", 0, "--num-test", 0,
                  *options) == 0
    assert json.loads((tmp_path / "set/dataset.json").read_text())["classes"] == list(classes)
    stored = stored_labels(tmp_path / "set")
    assert stored.keys() == maps.keys()
    for name, labels in maps.items():
        np.testing.assert_array_equal(stored[name], labels)
    assert run("info", tmp_path / "set", "--verify") == 0


# {name: (picture of a label map, text of the list, its name, part of the output)}
CONVENTIONS = {
    "rgb, colours in the list": (lambda m: Image.fromarray(COLOURS[m]), LISTED, "classes.txt", ""),
    "rgb, CVAT's list": (lambda m: Image.fromarray(COLOURS[m]), CVAT, "labelmap.txt",
                         "'background' is number 0"),
    "rgb, CVAT's list, background last": (
        lambda m: Image.fromarray(COLOURS[m]), CVAT.replace("background:0,0,0::\n", "")
        + "background:0,0,0::\n", "labelmap.txt", "'background' is number 0"),
    "rgb, background between": (
        lambda m: Image.fromarray(COLOURS[m]), LISTED.replace("coat", "void #000000\ncoat"),
        "classes.txt", "'void' is number 0"),
    "rgba, white background": (
        lambda m: Image.fromarray(np.where(m[..., None], COLOURS[m], 255).astype(np.uint8))
        .convert("RGBA"), "void #ffffff\n" + LISTED, "classes.txt", "'void' is number 0"),
    "palettes that differ, colours": (adaptive, LISTED, "classes.txt", ""),
    "one palette, colours": (lambda m: in_palette(m + 7, np.concatenate([VOC, [[1, 2, 3]] * 2,
                                                                         COLOURS])),
                             LISTED, "classes.txt", ""),
    "grey, colours": (Image.fromarray, LISTED, "classes.txt", ""),
    "grey numbers, a grey in the list": (
        Image.fromarray, LISTED.replace("808000", "808080"), "classes.txt", ""),
    "greys in the list": (lambda m: Image.fromarray(50 * m), "hat #323232\ncoat #646464\n"
                          "legs #969696\nshoes #c8c8c8\n", "classes.txt", ""),
    "rgb, this program's colours": (lambda m: Image.fromarray(channels.colourise(m, 4)), None, None,
                                    "this program's for the numbers 0 to 4"),
    "rgb, VOC's colours": (lambda m: Image.fromarray(VOC[m]), None, None, "VOC's for the numbers"),
    "rgb, grey": (grey_rgb, None, None, ""),
    "grey and opaque": (lambda m: Image.fromarray(m).convert("LA"), None, None, ""),
    "16 bits": (lambda m: Image.fromarray(m.astype(np.uint16)), None, None, ""),
    "labelme's list": (Image.fromarray, "\n".join(["__ignore__", "_background_", *FOUR]),
                       "classes.txt", "'_background_' is number 0, the background; classes count"),
    "JSON with background": (Image.fromarray, json.dumps(["Background", *FOUR]), "classes.json",
                             "'Background' is number 0"),
    "numbers from 0": (Image.fromarray, "0: Void\n1: hat\n2: coat\n3: legs\n4: shoes",
                       "classes.txt", "left out: numbers (5)"),
    "comments": (Image.fromarray, "# of the upper body\nhat\n\ncoat\n# below\nlegs\nshoes",
                 "classes.txt", "left out: comments (2), empty lines (1)")}


@pytest.mark.parametrize("kind", CONVENTIONS)
def test_masks_of_all_conventions_give_the_same_label_maps(tmp_path, kind, capsys):
    draw, text, list_name, printed = CONVENTIONS[kind]
    check(tmp_path, write(tmp_path / "mine", draw, text, list_name=list_name))
    assert printed in capsys.readouterr().out


@pytest.mark.parametrize("text, highest, warned", [
    (None, 3, True), (None, 4, False), ("void\nhat\ncoat\nlegs", 3, False),
    ("1: hat\n2: coat\n3: legs\n4: shoes", 3, False)])
def test_numbers_that_seem_to_start_at_0_get_a_warning(tmp_path, capsys, text, highest, warned):
    write(tmp_path / "mine", lambda m: Image.fromarray(np.minimum(m, highest)), text)
    create(tmp_path / "mine", tmp_path / "set", "--num-val", 0, "--num-test", 0)
    assert ("warning: no mask has the number 4 ('shoes'), and 0 is the background; if 0 is 'hat'"
            in capsys.readouterr().out) == warned


@pytest.mark.parametrize("draw", [
    lambda m: Image.fromarray(255 * m), lambda m: grey_rgb(255 * m),
    lambda m: in_palette(255 * m, np.arange(256).repeat(3)), lambda m: Image.fromarray(m > 0)])
def test_one_class_in_white(tmp_path, draw, capsys):
    maps = write(tmp_path / "mine", draw, classes=("hat",))
    check(tmp_path, maps, classes=("hat",))
    printed = capsys.readouterr().out
    assert ("255 is 'hat', the one class" in printed) == (draw(maps["p0.jpg"]).mode != "1")
    assert "counts as background" not in printed


def test_white_is_ignored_if_there_are_ones_too(tmp_path, capsys):
    def draw(labels):
        return Image.fromarray(np.where(np.arange(SIDE) < 3, 255, labels).astype(np.uint8))
    maps = write(tmp_path / "mine", draw, classes=("hat",))
    check(tmp_path, {name: np.where(np.arange(SIDE) < 3, 0, labels)
                     for name, labels in maps.items()}, classes=("hat",))
    assert "255 counts as background: 288 pixels (19 %) in 6 of 6 masks" in capsys.readouterr().out


@pytest.mark.parametrize("number, kind", [(200, np.uint8), (65535, np.uint16), (5, np.uint8)])
def test_another_number_is_ignored(tmp_path, number, kind, capsys):
    def draw(labels):
        return Image.fromarray(np.where(labels == 2, kind(number), labels.astype(kind)))
    maps = write(tmp_path / "mine", draw)
    check(tmp_path, {name: np.where(labels == 2, 0, labels) for name, labels in maps.items()},
          "--ignore", number)
    printed = capsys.readouterr().out
    assert f"mask value {number} counts as background" in printed
    assert "warning: no image shows coat:" in printed
    with pytest.raises(UserError, match=f"ignore is {number}, not None"):
        create(tmp_path / "mine", tmp_path / "set", "--num-val", 0, "--num-test", 0)


def test_a_number_to_ignore_may_have_any_colour(tmp_path):
    """VOC's borders are number 255 of its palette, whose colour no list has."""
    def draw(labels):
        palette = np.concatenate([COLOURS, np.zeros((250, 3), int), [[224, 224, 192]]])
        return in_palette(np.where(np.arange(SIDE) == 4, 255, labels), palette)
    maps = write(tmp_path / "mine", draw, LISTED)
    check(tmp_path, {name: np.where(np.arange(SIDE) == 4, 0, labels)
                     for name, labels in maps.items()})


def test_a_colour_that_is_not_listed_is_named(tmp_path):
    def draw(labels):
        return Image.fromarray(COLOURS[np.where(labels == labels[0, 0], 4, labels)])
    write(tmp_path / "mine", draw, LISTED.replace("0909c8", "0909c9"))
    picture = Image.fromarray(COLOURS[np.uint8([[0, 1, 2, 3] * 4] * SIDE)])
    picture.save(tmp_path / "mine/labels/p2.png")
    create(tmp_path / "mine", tmp_path / "set", "--num-val", 0, "--num-test", 0)
    reasons = {line["id"]: line["reason"] for line in read_jsonl(tmp_path / "set/skipped.jsonl")}
    assert reasons == {f"p{i}.jpg": "mask has the colour #0909c8 that is not in the list of classes"
                       for i in (0, 1, 3, 4, 5)}


def test_borders_to_ignore_have_vocs_colour(tmp_path):
    def draw(labels):
        border = np.where(np.arange(SIDE) == 4, 255, labels)
        return Image.fromarray(masks._voc_palette()[border])
    maps = write(tmp_path / "mine", draw)
    check(tmp_path, {name: np.where(np.arange(SIDE) == 4, 0, labels)
                     for name, labels in maps.items()})


def test_vocs_palette_is_the_published_one():
    palette = masks._voc_palette()
    np.testing.assert_array_equal(palette[:5], VOC)
    assert palette[[8, 20, 255]].tolist() == [[64, 0, 0], [0, 64, 128], [224, 224, 192]]


def shifted(labels):
    """Return a map in which every pixel has a class."""
    return Image.fromarray(np.maximum(labels, 1))


REFUSED = {
    "0 and 255 of several classes": (
        lambda m: Image.fromarray(np.uint8(255) * (m > 0)), None, (), "0 and 255 only.*4 classes"),
    "background, and all numbers": (
        Image.fromarray, "void\nhat\ncoat\nlegs", (), "'void'.* masks have the number 4; take"),
    "background, and never 0": (
        shifted, "background\nhat\ncoat\nlegs\nshoes", (), "the masks never have the number 0"),
    "palettes that differ": (
        adaptive, None, (), r"palettes differ: the number 0 is #\w{6} in p0.png and #\w{6} in p1"),
    "one palette of another order": (
        lambda m: in_palette(m, COLOURS if m[0, 0] % 2 else COLOURS[[0, 2, 1, 3, 4]]), None, (),
        "palettes differ: the number 1 is"),
    "a class of number 0": (
        Image.fromarray, "0 hat\n1 coat\n2 legs", (), "number 0 is 'hat', but 0 is always the ba"),
    "a class to ignore": (Image.fromarray, None, ("--ignore", 2), "--ignore=2 is the class 'coat'"),
    "colours without a list": (
        lambda m: Image.fromarray(COLOURS[m]), None, (), "no photo is left.*which has no colours")}


@pytest.mark.parametrize("kind", REFUSED)
def test_ambiguous_masks_are_refused(tmp_path, kind):
    draw, text, options, message = REFUSED[kind]
    write(tmp_path / "mine", draw, text, list_name="classes.txt")
    with pytest.raises(UserError, match=message) as error:
        create(tmp_path / "mine", tmp_path / "set", *options)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "set/dataset.json").exists()


def test_colours_without_a_list_are_named(tmp_path, capsys):
    write(tmp_path / "mine", lambda m: Image.fromarray(COLOURS[m]))
    create(tmp_path / "mine", tmp_path / "set", "--dry-run")
    assert "does not say what their colours mean (#000000, #00a0ff, #0909c8, #808000, #ff0000); " \
        "write them" in capsys.readouterr().out


def test_palettes_may_differ_in_unused_colours(tmp_path):
    """The colour of the ignored number does not count either."""
    def draw(labels):
        palette = np.concatenate([COLOURS, [labels[0, :3]] * 251])
        return in_palette(np.where(np.arange(SIDE) == 4, 255, labels), palette)
    maps = write(tmp_path / "mine", draw)
    check(tmp_path, {name: np.where(np.arange(SIDE) == 4, 0, labels)
                     for name, labels in maps.items()})


def test_a_list_may_number_a_class_called_background(tmp_path):
    text = "1: background\n2: hat\n3: coat\n4: legs"
    check(tmp_path, write(tmp_path / "mine", Image.fromarray, text),
          classes=("background", "hat", "coat", "legs"))


@pytest.mark.parametrize("colours, hint", [
    ([[255, 0, 0], [0, 0, 0]], "number 0, which is the background, is #ff0000 .* number 1 is bl"),
    ([[255, 255, 255], [0, 0, 0]], "is #ffffff in the masks' palette, and number 1 is black"),
    ([[0, 255, 0], [255, 0, 0]], "is #00ff00 in the masks' palette; check"),
    ([[0, 0, 0], [255, 0, 0]], None), ([[255, 255, 255], [255, 0, 0]], None),
    ([[0, 0, 0], [0, 0, 0]], None)])
def test_a_background_of_an_unusual_colour_gets_a_hint(tmp_path, colours, hint, capsys):
    maps = write(tmp_path / "mine", lambda m: in_palette(m, colours), classes=("hat",))
    check(tmp_path, maps, classes=("hat",))
    warnings = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert len(warnings) == (hint is not None)
    if hint:
        with pytest.raises(UserError, match=hint):
            raise UserError(warnings[0])


def test_classes_that_no_mask_shows_are_named(tmp_path, capsys):
    maps = write(tmp_path / "mine", Image.fromarray, "\n".join([*FOUR, "scarf", "gloves"]))
    check(tmp_path, maps, classes=(*FOUR, "scarf", "gloves"))
    assert "warning: no image shows scarf, gloves: check whether" in capsys.readouterr().out


@pytest.mark.parametrize("ending", ["_mask", "-Label", "_seg", ".gt", "_segmentation", "_masks"])
def test_masks_names_may_have_an_ending(tmp_path, ending):
    maps = write(tmp_path / "mine", Image.fromarray, names="p{}" + ending + ".png")
    check(tmp_path, maps)


def test_ambiguous_endings_are_listed(tmp_path):
    """p0: two endings; p1: its own name counts; p2: no photo; p3_mask is a photo; a JPEG."""
    maps = write(tmp_path / "mine", Image.fromarray)
    images, labels = tmp_path / "mine/images", tmp_path / "mine/labels"
    (labels / "p0.png").rename(labels / "p0_mask.png")
    (labels / "p0_seg.png").write_bytes((labels / "p0_mask.png").read_bytes())
    (labels / "p1_mask.png").write_bytes((labels / "p2.png").read_bytes())
    (labels / "p2.png").rename(labels / "p2_x.png")
    (images / "p3.jpg").rename(images / "p3_mask.jpg")
    (labels / "p3.png").rename(labels / "p3_mask.png")
    (labels / "p4.jpg").write_bytes(b"")
    (images / "p6.jpg").symlink_to("nowhere")
    (labels / "p7.txt").write_text("p7")
    create(tmp_path / "mine", tmp_path / "set", "--num-val", 0, "--num-test", 0)
    reasons = {line["id"]: line["reason"] for line in read_jsonl(tmp_path / "set/skipped.jsonl")}
    assert reasons == {
        "p0.jpg": "several masks of one stem (p0_mask.png, p0_seg.png)",
        "p1_mask.png": "mask has no photo", "p2.jpg": "photo has no mask",
        "p2_x.png": "mask has no photo", "labels/p4.jpg": "no PNG, beside a mask that is one",
        "p6.jpg": "link to nothing", "labels/p7.txt": photo_sources.OTHER_FILE}
    assert run("info", tmp_path / "set", "--verify") == 0
    stored = stored_labels(tmp_path / "set")
    assert stored.keys() == {"p1.jpg", "p3_mask.jpg", "p4.jpg", "p5.jpg"}
    np.testing.assert_array_equal(stored["p1.jpg"], maps["p1.jpg"])
    np.testing.assert_array_equal(stored["p3_mask.jpg"], maps["p3.jpg"])


def test_names_of_masks_need_not_be_utf8(tmp_path):
    write(tmp_path / "mine", Image.fromarray)
    for ending in ("mask", "seg"):
        path = os.fsencode(tmp_path / "mine/labels") + b"/\xff_" + ending.encode() + b".png"
        Path(os.fsdecode(path)).write_bytes(b"")
    Path(os.fsdecode(os.fsencode(tmp_path / "mine/images") + b"/\xff.jpg")).write_bytes(b"")
    create(tmp_path / "mine", tmp_path / "set")
    line, = read_jsonl(tmp_path / "set/skipped.jsonl")
    assert line == {"id": "\\udcff.jpg", "reason": "several masks of one stem (\\udcff_mask.png, "
                                                  "\\udcff_seg.png)"}


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_masks_with_an_ending_may_be_beside_their_photos(tmp_path, suffix):
    maps = write(tmp_path / "mine", Image.fromarray, names="p{}_mask.png")
    for path in (tmp_path / "mine/images").iterdir():
        Image.open(path).save(tmp_path / "mine" / path.with_suffix(suffix).name)
        path.unlink()
    for path in (tmp_path / "mine/labels").iterdir():
        path.rename(tmp_path / "mine" / path.name)
    (tmp_path / "mine/images").rmdir()
    check(tmp_path, {name[:2] + suffix: labels for name, labels in maps.items()})


def test_jpeg_masks_are_refused_with_the_reason(tmp_path):
    write(tmp_path / "mine", Image.fromarray, names="p{}_mask.jpg")
    with pytest.raises(UserError, match="mask is a JPEG, whose compression changes numbers"):
        create(tmp_path / "mine", tmp_path / "set")


def test_a_dry_run_says_what_masks_mean_and_writes_nothing(tmp_path, capsys):
    write(tmp_path / "mine", lambda m: Image.fromarray(255 * m), classes=("hat",))
    create(tmp_path / "mine", tmp_path / "set", "--dry-run")
    assert "255 is 'hat', the one class" in capsys.readouterr().out
    assert not (tmp_path / "set").exists()


def test_other_colours_are_another_data_set(tmp_path):
    maps = write(tmp_path / "mine", lambda m: Image.fromarray(COLOURS[m]), LISTED)
    check(tmp_path, maps)
    (tmp_path / "mine/classes.txt").write_text(
        LISTED.replace("ff0000", "x").replace("00a0ff", "ff0000").replace("x", "00a0ff"))
    with pytest.raises(UserError, match="colours is"):
        create(tmp_path / "mine", tmp_path / "set", "--num-val", 0, "--num-test", 0)
