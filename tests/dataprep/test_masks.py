"""Photos with index-mask PNGs: data sets made of them, what is refused, and pairs."""

import json
import struct
import unicodedata
import zlib

import numpy as np
import pytest
from PIL import Image

import dataset_tool
from dataprep import masks, photo_sources, raw_files
from dnnlib.data import channels, photos, pictures, tfrecords
from dnnlib.data.dataset import open_dataset, read_split
from dnnlib.data.photos import PhotoError
from dnnlib.util import UserError
from tests.tools.data_helpers import FOUR, folder_bytes, photo_bytes, read_jsonl


def label_maps(num, num_classes, side=16, seed=5):
    """Return label maps uint8 [num, side, side] of columns that together show every class."""
    rng = np.random.default_rng(seed)
    numbers = np.resize(np.arange(num_classes + 1), (num, side))
    return np.stack([np.tile(rng.permutation(row), (side, 1)) for row in numbers]).astype(np.uint8)


def make_masked(path, num=10, classes=FOUR, side=16):
    """Make a folder of images/, labels/ (palette PNGs) and classes.txt; return its label maps."""
    rng = np.random.default_rng(3)
    maps = label_maps(num, len(classes), side)
    for folder in ("images", "labels"):
        (path / folder).mkdir(parents=True)
    for i, labels in enumerate(maps):
        (path / "images" / f"p{i}.jpg").write_bytes(photo_bytes(rng, side, side, quality=95))
        picture = Image.fromarray(labels).convert("P")
        picture.putdata(labels.ravel().tolist())
        picture.save(path / "labels" / f"p{i}.png")
    (path / "classes.txt").write_text("\n".join(classes) + "\n")
    return maps


def run(*arguments):
    """Run the tool in this process."""
    return dataset_tool.main([str(argument) for argument in arguments])


def create(source, out, *options):
    return run("create_from_masks", "--source", source, "--out", out, "--resolution", 16,
               "--workers", 1, *options)


def stored_labels(data, split="train", level=4):
    """Return {id: label map} of a split."""
    file = tfrecords.RecordFile(data / split / f"{split}-r{level:02d}.tfrecords")
    ids = json.loads((data / "dataset.json").read_text())["splits"][split]
    return {image_id: channels.to_label_map(file.read_image(i)[3:].transpose(1, 2, 0), 127)
            for i, image_id in enumerate(ids)}


@pytest.mark.parametrize("num_classes", [1, 4, 40, pytest.param(254, marks=pytest.mark.slow)])
def test_masks_become_class_maps_of_any_number(tmp_path, num_classes):
    classes = [f"class {i}" for i in range(1, num_classes + 1)]
    maps = make_masked(tmp_path / "mine", num=max(4, num_classes // 32), classes=classes)
    create(tmp_path / "mine", tmp_path / "set", "--num-val", 0, "--num-test", 0)
    info = open_dataset(tmp_path / "set")
    assert info.num_channels == 3 + num_classes and list(info.classes) == classes
    stored = stored_labels(tmp_path / "set")
    assert len(stored) == len(maps)
    for i, labels in enumerate(maps):
        np.testing.assert_array_equal(stored[f"p{i}.jpg"], labels)
    for image, read in zip(stored.values(), read_split(tmp_path / "set", "train", 16, minibatch=1)):
        np.testing.assert_array_equal(read[0, ..., 3:] > 127,
                                      image[..., None] == np.arange(1, num_classes + 1))
    assert run("info", tmp_path / "set") == 0
    assert run("display", tmp_path / "set", "--out", tmp_path / "sheet.png", "--num", 4) == 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        side = pictures.SMALLEST  # of a panel; the second panel is the map
        left = side + pictures.GAP
        panel = np.asarray(sheet)[pictures.GAP:pictures.GAP + side, left:left + side]
    colours = channels.palette(num_classes)
    shown = {tuple(colour) for colour in panel.reshape(-1, 3).tolist()}
    assert shown <= {tuple(colour) for colour in colours.tolist()} and len(shown) > 1


def png(values, kind, depth):
    """Return a PNG of any colour type and depth, packed by hand: values [h, w] below 2^depth."""
    bits = np.unpackbits(values.astype(np.uint8)[..., None], axis=-1)[..., 8 - depth:]
    rows = np.packbits(bits.reshape(len(values), -1), axis=-1)
    head = struct.pack(">IIBBBBB", *values.shape[::-1], depth, kind, 0, 0, 0)
    palette = [(b"PLTE", bytes(3 << depth))] if kind == 3 else []
    chunks = [(b"IHDR", head), *palette,
              (b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))),
              (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks)


@pytest.mark.parametrize("kind", [0, 3])
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_palette_and_grey_of_any_depth(tmp_path, kind, depth):
    num_classes = min(2**depth - 1, 200)
    values = np.arange(num_classes + 1, dtype=np.uint8).repeat(3)[None].repeat(2, axis=0)
    (tmp_path / "a.png").write_bytes(png(values, kind, depth))
    mask = masks.Mask(photo_sources.PhotoFolder(tmp_path), "a.png", masks.Coding(num_classes))
    np.testing.assert_array_equal(mask.label_map(values.shape[::-1]), values)


def test_255_is_background_unless_it_is_a_class(tmp_path):
    values = np.array([[0, 1, 255]], np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    source = photo_sources.PhotoFolder(tmp_path)
    for coding, labels in ((masks.Coding(254), [[0, 1, 0]]),
                           (masks.Coding(255, ignore=None), [[0, 1, 255]]),
                           (masks.Coding(1, ignore=None, white=True), [[0, 1, 1]])):
        assert masks.Mask(source, "a.png", coding).label_map((3, 1)).tolist() == labels


def test_masks_are_reduced_with_their_photos(tmp_path, monkeypatch):
    """A large photo is halved when decoded, and odd sides are rounded up."""
    monkeypatch.setattr(photos, "_FULL_SIZE", 6 * 8)
    values = np.arange(63, dtype=np.uint8).reshape(7, 9)
    Image.fromarray(values).save(tmp_path / "a.png")
    mask = masks.Mask(photo_sources.PhotoFolder(tmp_path), "a.png", masks.Coding(63))
    np.testing.assert_array_equal(mask.label_map((5, 4)), values[::2, ::2])


def _save(path, values):
    Image.fromarray(np.asarray(values)).save(path)


def _deep_png():
    """Return a PNG of 16x16 pixels with 16 bits per colour, of which only the header exists."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))


BAD_MASKS = {
    "above": (lambda path: _save(path, np.uint8([[5] * 16] * 16)), "value 5, above .* \\(4\\)"),
    "rgb": (lambda path: _save(path, np.uint8([[[255, 3, 0]] * 16] * 16)),
            "the colour #ff0300 that is not in the list of classes, which has no colours"),
    "rgba": (lambda path: Image.new("RGBA", (16, 16), "#01010180").save(path), "transparent"),
    "16-bit": (lambda path: _save(path, np.uint16([[257] * 16] * 16)), "value 257, above"),
    "16-bit colours": (lambda path: path.write_bytes(_deep_png()), "16 bits a colour"),
    "size": (lambda path: _save(path, np.uint8([[1] * 16] * 15)), "photo is 16x16, its mask 16x15"),
    "empty": (lambda path: _save(path, np.uint8([[0] * 16] * 16)), "background only$"),
    "ignored": (lambda path: _save(path, np.uint8([[255] * 16] * 16)), "only \\(value 255 counts"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:60]), "mask is damaged"),
    "nothing": (lambda path: path.write_bytes(b""), "mask is an empty file"),
    "jpeg": (lambda path: Image.new("L", (16, 16)).save(path, "JPEG"), "mask is a JPEG, whose"),
    "missing": (lambda path: path.unlink(), "photo has no mask"),
    "doubled": (lambda path: path.with_suffix(".PNG").write_bytes(b""), "several masks")}


@pytest.mark.parametrize("kind", BAD_MASKS)
def test_a_bad_mask_is_skipped_with_its_reason(tmp_path, kind):
    make_masked(tmp_path / "mine")
    damage, reason = BAD_MASKS[kind]
    damage(tmp_path / "mine" / "labels" / "p3.png")
    create(tmp_path / "mine", tmp_path / "set")
    line, = read_jsonl(tmp_path / "set" / "skipped.jsonl")
    assert line["id"] == "p3.jpg"
    with pytest.raises(PhotoError, match=reason):
        raise PhotoError(line["reason"])
    assert sum(open_dataset(tmp_path / "set").splits.values()) == 9


def test_masks_without_photos_and_photos_of_one_stem_are_listed(tmp_path):
    make_masked(tmp_path / "mine")
    images = tmp_path / "mine" / "images"
    (images / "p1.jpg").unlink()
    (images / "p2.png").write_bytes((images / "p2.jpg").read_bytes())
    create(tmp_path / "mine", tmp_path / "set")
    reasons = {line["id"]: line["reason"] for line in read_jsonl(tmp_path / "set/skipped.jsonl")}
    assert reasons == {"p1.png": "mask has no photo", "p2.jpg": "several photos of one stem",
                       "p2.png": "several photos of one stem"}


@pytest.mark.parametrize("forms", [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_in_other_forms_of_unicode_are_paired(tmp_path, forms):
    """A Mac writes a letter and its dots as two characters, other systems as one."""
    maps = make_masked(tmp_path / "mine")
    for folder, suffix, form in zip(("images", "labels"), ("jpg", "png"), forms):
        file = tmp_path / "mine" / folder / f"p3.{suffix}"
        file.rename(file.with_stem(unicodedata.normalize(form, "Gr\u00fcn 3")))
    create(tmp_path / "mine", tmp_path / "set", "--num-val", 0, "--num-test", 0)
    stored = stored_labels(tmp_path / "set")
    name = unicodedata.normalize(forms[0], "Gr\u00fcn 3.jpg")
    np.testing.assert_array_equal(stored[name], maps[3])
    assert len(stored) == 10


def test_masks_beside_their_photos_are_gathered_once(tmp_path, monkeypatch):
    """And not again for every photo."""
    gathered = []
    monkeypatch.setattr(raw_files, "set", lambda names: gathered.append(names) or frozenset(names),
                        raising=False)
    for name in (f"{i}{ending}" for i in range(20) for ending in (".jpg", "_mask.png")):
        (tmp_path / name).touch()
    pairs, _ = raw_files.match_masks(tmp_path, tmp_path)
    assert pairs == {f"{i}.jpg": f"{i}_mask.png" for i in range(20)} and len(gathered) == 1


def test_photos_and_masks_may_be_side_by_side_or_anywhere(tmp_path):
    make_masked(tmp_path / "mine")
    (tmp_path / "flat").mkdir()
    for file in (tmp_path / "mine").rglob("*.*"):
        (tmp_path / "flat" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "list.json").write_text(json.dumps(FOUR))
    create(tmp_path / "mine", tmp_path / "a" / "set")
    create(tmp_path / "flat", tmp_path / "b" / "set")
    run("create_from_masks", "--images", tmp_path / "mine/images", "--masks", tmp_path / "flat",
        "--classes", tmp_path / "list.json", "--out", tmp_path / "c" / "set", "--resolution", 16)
    sets = [folder_bytes(tmp_path / name) for name in "abc"]
    assert sets[0] == sets[1]
    assert sets[2].keys() == sets[0].keys()


def test_masks_belong_to_photos_turned_upright(tmp_path, rng):
    """EXIF turns the stored 24x16 photo to 16x24: masks are of the photo as viewers show it."""
    make_masked(tmp_path / "mine", num=4)
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "mine/images/p0.jpg").write_bytes(photo_bytes(rng, 24, 16, exif=exif.tobytes()))
    Image.fromarray(np.ones((24, 16), np.uint8)).save(tmp_path / "mine/labels/p0.png")
    create(tmp_path / "mine", tmp_path / "set", "--num-val", 0, "--num-test", 0)
    assert "p0.jpg" in stored_labels(tmp_path / "set")


def test_missing_inputs_are_named(tmp_path):
    with pytest.raises(UserError, match="give --source, or --images too"):
        run("create_from_masks", "--out", tmp_path / "set")
    with pytest.raises(UserError, match="give --source, or --classes too"):
        run("create_from_masks", "--images", tmp_path, "--masks", tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        run("create_from_masks", "--source", tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"classes\.txt: no such file; write the class names"):
        run("create_from_masks", "--source", tmp_path)
    for part in ("images", "masks"):
        (tmp_path / "mine" / part).mkdir(parents=True)
    for part in ("images", "masks"):
        with pytest.raises(UserError, match=f"{part}: only a part of .*mine, where photos and masks"
                           f" are; give --source={tmp_path / 'mine'}$"):
            run("create_from_masks", "--source", tmp_path / "mine" / part)


def test_a_changed_source_is_another_data_set(tmp_path):
    make_masked(tmp_path / "mine")
    create(tmp_path / "mine", tmp_path / "set")
    assert create(tmp_path / "mine", tmp_path / "set") == 0
    (tmp_path / "mine" / "classes.txt").write_text("hat\ncoat\nlegs\nboots\n")
    with pytest.raises(UserError, match="classes is"):
        create(tmp_path / "mine", tmp_path / "set")


def test_incomplete_masks_are_refused(tmp_path):
    """Pillow reads some of them silently: wrong classes, or background for the missing part."""
    labels = np.random.default_rng(0).integers(0, 4, (64, 64)).astype(np.uint8)
    Image.fromarray(labels).save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    source, lengths = photo_sources.PhotoFolder(tmp_path), range(20, len(data) - 60, 100)
    assert len(lengths) > 5
    for lacking in lengths:
        (tmp_path / "holed.png").write_bytes(data[:-lacking] + bytes(lacking))
        with pytest.raises(PhotoError, match="mask is damaged"):
            masks.Mask(source, "holed.png", masks.Coding(254)).label_map((64, 64))
    whole = masks.Mask(source, "whole.png", masks.Coding(254))
    np.testing.assert_array_equal(whole.label_map((64, 64)), labels)
