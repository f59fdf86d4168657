"""Pictures to be labelled, and labels read back from annotation tools and a teacher."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import generate
from dnnlib import util
from dnnlib.data import coco, pictures
from dnnlib.data.class_list import read_class_list
from dnnlib.util import UserError
from generation import annotation
from generation.options import parse_options
from tests.tools import labelled_pictures
from tests.tools.generators import save_network
from tests.tools.labelled_seeds import CLASSES, colour_labels, read
from training.decoder.labels import LabelledFolder, Labelling
from training.segmentation.labeller import Labeller

pytestmark = pytest.mark.usefixtures("eagerly")

SEEDS = range(4)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return save_network(tmp_path_factory.mktemp("network") / "rgb.safetensors", ())


@pytest.fixture
def folder(network, tmp_path):
    """Write pictures to be labelled."""
    out = tmp_path / "twenty"
    generate.main([f"--network={network}", "--seeds=0-3", "--for-labelling", f"--out={out}"])
    return out


def truth(folder):
    """Return {name: label map} that a careful person would draw."""
    return {f"seed{seed:04d}.png": colour_labels(read(folder / f"seed{seed:04d}.png"))
            for seed in SEEDS}


def take(source, folder):
    """Read labels; return (how many, the lines about it)."""
    lines = []
    return annotation.import_labels(source, folder, lines.append), lines


def check(folder, expected, classes=CLASSES):
    """Assert that the folder has exactly these label maps, and a training can read them."""
    labelled = LabelledFolder(folder)
    assert labelled.classes == classes
    assert list(labelled.names) == list(expected)
    for name, label_map in expected.items():
        np.testing.assert_array_equal(read(folder / "labels" / name), label_map)


def test_the_files_reproduce_the_pictures(network, folder, tmp_path):
    """The pixels equal those of pairs without truncation; features are not written."""
    made = Labelling.read(folder)
    assert made.seeds == tuple(SEEDS) and made.trunc == 1.0 and made.noise == "random"
    assert sorted(path.name for path in folder.iterdir()) == [
        "labelling.json", *(f"seed000{i}.png" for i in SEEDS)]
    generate.main([f"--network={network}", "--num=4", f"--out={tmp_path / 'pairs'}"])
    for seed in SEEDS:
        np.testing.assert_array_equal(read(folder / f"seed000{seed}.png"),
                                      read(tmp_path / f"pairs/images/000000{seed}.png"))


def test_only_pictures_of_the_same_kind_may_be_added(network, folder):
    """More of the same may be added, and fewer or other seeds remove none; another network or
    truncation is refused."""
    (folder / "labels").mkdir()
    (folder / "labels/seed0001.png").write_bytes(b"stays")
    same = [f"--network={network}", "--for-labelling", f"--out={folder}"]
    before = Labelling.read(folder).pictures
    for seeds, names in (("0-5", range(6)), ("1", range(6)), ("9,2", [*range(6), 9])):
        generate.main([*same, f"--seeds={seeds}"])
        assert Labelling.read(folder).seeds == tuple(names)
    assert before.items() <= Labelling.read(folder).pictures.items()
    assert (folder / "labels/seed0001.png").read_bytes() == b"stays"
    with pytest.raises(UserError, match="made in another way"):
        generate.main([*same, "--seeds=0-3", "--trunc=0.5"])
    with util.lock_directory(folder, "busy"), pytest.raises(UserError, match="another process is"):
        generate.main([*same, "--seeds=0-3"])  # of two at once, one would forget the other's


def test_label_maps_of_other_pictures_are_not_adopted(network, tmp_path):
    """A folder of --separate has the maps of seeds of any network, under the same names."""
    generate.main([f"--network={save_network(tmp_path / '2d.safetensors', CLASSES)}", "--seeds=0-3",
                   "--separate", f"--out={tmp_path / 'twenty'}"])
    before = (tmp_path / "twenty/seed0000.png").read_bytes()
    with pytest.raises(UserError, match=r"has label maps, but no labelling\.json"):
        generate.main([f"--network={network}", "--seeds=0-3", "--for-labelling",
                       f"--out={tmp_path / 'twenty'}"])
    assert (tmp_path / "twenty/seed0000.png").read_bytes() == before


def test_masks_as_labelme_writes_them(folder, tmp_path):
    """labelme2voc: index PNGs, and class_names.txt that starts with __ignore__ and _background_."""
    export, expected = tmp_path / "voc", truth(folder)
    (export / "SegmentationClassPNG").mkdir(parents=True)
    (export / "class_names.txt").write_text("__ignore__\n_background_\nred\ngreen\n")
    for name, label_map in expected.items():
        image = Image.fromarray(label_map, mode="P")
        image.putpalette(annotation.masks._voc_palette().tobytes())
        image.save(export / "SegmentationClassPNG" / name)
    assert take(export, folder)[0] == 4
    check(folder, expected)
    assert read_class_list(folder / "classes.txt").names == CLASSES


def test_ignored_pixels_of_masks_stay_ignored(folder, tmp_path):
    """labelme's __ignore__ is 255: not background, which a decoder would learn."""
    expected = truth(folder)
    (tmp_path / "export").mkdir()
    (tmp_path / "export/class_names.txt").write_text("__ignore__\n_background_\nred\ngreen\n")
    for name, label_map in expected.items():
        label_map[:2] = 255
        Image.fromarray(label_map).save(tmp_path / "export" / name.replace(".png", ".PNG"))
    count, lines = take(tmp_path / "export", folder)
    assert count == 4 and any("255 is ignored: 128 pixels" in line for line in lines)
    check(folder, expected)


def test_masks_as_cvat_writes_them(folder, tmp_path):
    """CVAT's "Segmentation mask 1.1": colour PNGs, and labelmap.txt with the colours."""
    export, expected = tmp_path / "cvat", truth(folder)
    (export / "SegmentationClass").mkdir(parents=True)
    (export / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nred:250,50,83::\n"
        "green:51,221,255::\n")
    colours = np.array([(0, 0, 0), (250, 50, 83), (51, 221, 255)], np.uint8)
    for name, label_map in expected.items():
        Image.fromarray(colours[label_map]).save(export / "SegmentationClass" / name)
    count, lines = take(export, folder)
    assert count == 4 and lines[-1] == f"{export}/labelmap.txt: 0 background, 1 red, 2 green"
    check(folder, expected)


def coco_export(folder, path, expected, **changes):
    """Write a COCO file of label maps like labelme2coco and CVAT: with a background category and
    JPEGs in a folder."""
    coco.write_coco(path, CLASSES, [(i, name, label_map) for i, (name, label_map)
                                    in enumerate(expected.items(), 1)], "test")
    content = json.loads(path.read_text())
    content["categories"].insert(0, {"id": 0, "name": "_background_", "supercategory": None})
    for image in content["images"]:
        image["file_name"] = f"JPEGImages/{image['file_name'].replace('.png', '.jpg')}"
    path.write_text(json.dumps(content | changes))
    return content


def test_a_coco_file(folder, tmp_path):
    expected = truth(folder)
    coco_export(folder, tmp_path / "annotations.json", expected)
    assert generate.main([f"--labels-from={tmp_path / 'annotations.json'}",
                          f"--out={folder}"]) == 0
    check(folder, expected)


def test_bad_entries_of_a_coco_file_are_listed_one_per_line(folder, tmp_path):
    path, expected = tmp_path / "annotations.json", truth(folder)
    content = coco_export(folder, path, expected)
    images = content["images"]
    images[0]["width"] = 32
    images[1]["file_name"] = "holiday.jpg"
    content["annotations"] = [a for a in content["annotations"]
                              if a["image_id"] != images[2]["id"]]
    path.write_text(json.dumps(content))
    count, lines = take(path, folder)
    assert count == 1 and not any("\n" in line for line in lines)
    for part in ("seed0000.jpg: 32x16 pixels, its picture has 16x16: left out",
                 "holiday.jpg: no picture has this name: left out",
                 "seed0002.jpg: nothing is labelled in it: left out",
                 "seed0000.png: has no labels yet", "seed0001.png: has no labels yet"):
        assert sum(part in line for line in lines) == 1, lines
    check(folder, {"seed0003.png": expected["seed0003.png"]})


def test_pictures_that_a_coco_file_lists_twice(folder, tmp_path):
    """Under two ids, as some tools do for every class: the labels are joined. Files of one name in
    two folders: it is not known whose labels are right."""
    path, expected = tmp_path / "annotations.json", truth(folder)
    content = coco_export(folder, path, expected)
    for image in content["images"][:2]:
        content["images"].append({**image, "id": image["id"] + 100})
    for entry in content["annotations"]:  # every second one of these pictures
        entry["image_id"] += 100 * (entry["image_id"] < 3 and entry["id"] % 2)
    content["images"].append(content["images"][3] | {"id": 99, "file_name": "b/seed0003.jpg"})
    path.write_text(json.dumps(content))
    count, lines = take(path, folder)
    assert count == 3
    check(folder, {name: expected[name] for name in list(expected)[:3]})
    assert sum("2 names of files mean seed0003.png: left out" in line for line in lines) == 2


def test_names_in_another_unicode_form(folder, tmp_path):
    """As macOS leaves them: they look alike."""
    name = "caf\N{LATIN SMALL LETTER E WITH ACUTE}.png"
    labelling = Labelling.read(folder)
    assert annotation._picture_of("x/cafe\N{COMBINING ACUTE ACCENT}.jpg", dataclasses.replace(
        labelling, pictures={name: "digest"})) == name


def test_existing_labels_are_kept_and_a_line_says_so(folder, tmp_path):
    """An export that lists a picture without labels does not remove its existing ones."""
    path, expected = tmp_path / "annotations.json", truth(folder)
    content = coco_export(folder, path, expected)
    take(path, folder)
    (folder / "labels/seed0003.png").unlink()
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] <= 2]
    path.write_text(json.dumps(content))
    count, lines = take(path, folder)
    assert count == 2 and lines[-2:] == [
        f"seed0002.png: no labels in {path}; the old ones stay, unless you remove "
        f"{folder / 'labels/seed0002.png'}", "seed0003.png: has no labels yet"]
    check(folder, {name: expected[name] for name in list(expected)[:3]})


def test_bad_masks_are_listed_one_per_line(folder, tmp_path):
    export, expected = tmp_path / "masks", truth(folder)
    export.mkdir()
    (export / "classes.txt").write_text("red\ngreen\n")
    for name, label_map in expected.items():
        Image.fromarray(label_map).save(export / name)
    Image.fromarray(expected["seed0000.png"][:8]).save(export / "seed0000.png")
    Image.fromarray(expected["seed0001.png"] * 3).save(export / "seed0001.png")
    Image.fromarray(expected["seed0002.png"]).save(export / "seed0007.png")
    count, lines = take(export, folder)
    assert count == 2
    for part in ("seed0000.png: photo is 16x16, its mask 16x8", "seed0001.png: mask has the value",
                 "seed0007.png: no picture has this name"):
        assert sum(part in line and "left out" in line for line in lines) == 1, lines


def test_other_formats_are_refused_with_those_that_work(folder, tmp_path):
    """labelme's own JSONs, CVAT's archives and its XML."""
    (tmp_path / "labelme").mkdir()
    (tmp_path / "labelme/seed0000.json").write_text('{"version": "5.5.0", "shapes": []}')
    shutil.make_archive(tmp_path / "cvat", "zip", tmp_path / "labelme")
    (tmp_path / "annotations.xml").write_text('<?xml version="1.0"?>\n<annotations/>')
    for name, what in (("labelme", "has no PNGs"), ("cvat.zip", "not JSON"),
                       ("annotations.xml", "not JSON")):
        with pytest.raises(UserError, match=f"{name}: {what}; give a COCO file, or a folder of"):
            take(tmp_path / name, folder)


def test_masks_in_other_forms(folder, tmp_path):
    """Their names may end as create_from_masks allows; JPEGs are listed, if they are no photos."""
    export, expected = tmp_path / "masks", truth(folder)
    export.mkdir()
    (export / "classes.txt").write_text("red\ngreen\n")
    for name, label_map in expected.items():
        Image.fromarray(label_map).save(export / name.replace(".png", "_mask.png"))
    (export / "seed0000_mask.png").rename(export / "seed0000.PNG")
    Image.new("RGB", (16, 16)).save(export / "seed0000.jpg")
    (export / "seed0001_mask.png").unlink()
    Image.fromarray(expected["seed0001.png"]).save(export / "seed0001.jpg")
    lines = take(export, folder)[1]
    check(folder, {name: expected[name] for name in expected if name != "seed0001.png"})
    assert [line for line in lines if ".jpg" in line] == [
        f"{export}/seed0001.jpg: mask is a JPEG, whose compression changes numbers; save masks as "
        "PNG: left out"]


def test_labels_of_other_classes_are_refused(folder, tmp_path):
    expected = truth(folder)
    coco_export(folder, tmp_path / "a.json", expected)
    take(tmp_path / "a.json", folder)
    coco_export(folder, tmp_path / "b.json", expected, categories=[
        {"id": 1, "name": "sky"}, {"id": 2, "name": "green"}])
    with pytest.raises(UserError, match="has labels of the classes red, green"):
        take(tmp_path / "b.json", folder)
    with pytest.raises(UserError, match="has no labels for the pictures"):
        path = tmp_path / "c.json"
        coco_export(folder, path, {"other.png": expected["seed0000.png"]})
        take(path, folder)


def label(class_number, path="teacher"):
    """Return a teacher that gives all pixels one class."""
    planes = np.eye(len(CLASSES) + 1, dtype=np.float32)[class_number]
    return SimpleNamespace(
        path=path, digest=f"digest of {path}", classes=CLASSES, resolution=16,
        probabilities=lambda rgb: np.broadcast_to(planes, (*rgb.shape[:3], len(planes))))


def test_a_teacher_keeps_what_a_person_drew(folder):
    """Also when it is used again, for maps drawn over its own labels, and if a picture that was
    made again differs in a bit, as on another machine."""
    drawn = truth(folder)
    pictures.save_label_png(folder / "labels/seed0002.png", drawn["seed0002.png"], 2)
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    assert annotation.label_by_teacher(label(1), folder, 4) == (3, 1)
    pictures.save_label_png(folder / "labels/seed0000.png", drawn["seed0000.png"], 2)
    rgb = read(folder / "seed0000.png").copy()
    rgb[0, 0] ^= 1
    pictures.save_png(folder / "seed0000.png", rgb)
    assert annotation.label_by_teacher(label(2), folder, 4) == (0, 4)
    (folder / "holiday.jpg").write_bytes((folder / "seed0000.png").read_bytes())
    with pytest.raises(UserError, match=r"holiday\.jpg: not one of the pictures"):
        annotation.label_by_teacher(label(2), folder, 4)
    for name, expected in (("seed0000.png", drawn["seed0000.png"]), ("seed0001.png", 1),
                           ("seed0002.png", drawn["seed0002.png"])):
        assert (read(folder / "labels" / name) == expected).all(), name


def test_maps_of_two_teachers_are_not_mixed(folder, tmp_path):
    """Those of the first stay until they are removed, or replaced by a person's."""
    maps = sorted((folder / "labels" / f"seed{seed:04d}.png") for seed in SEEDS)
    assert annotation.label_by_teacher(label(1, "A"), folder, 4) == (4, 0)
    for left in (4, 3):
        with pytest.raises(UserError, match=f"--teacher=B: .*labels has {left} label maps of "
                           "another teacher, A; remove them to have new ones, give that teacher"):
            annotation.label_by_teacher(label(2, "B"), folder, 4)
        assert all((read(path) == 1).all() for path in maps if path.is_file())
        maps[0].unlink(missing_ok=True)
    assert annotation.label_by_teacher(label(1, "A"), folder, 4) == (1, 3)
    # Labels of an annotation tool for two pictures; the teacher's other two are removed.
    expected = dict(list(truth(folder).items())[:2])
    coco_export(folder, tmp_path / "a.json", expected)
    take(tmp_path / "a.json", folder)
    for path in maps[2:]:
        path.unlink()
    assert annotation.label_by_teacher(label(2, "B"), folder, 4) == (2, 2)
    check(folder, expected | {path.name: np.full((16, 16), 2) for path in maps[2:]})
    for content in ("[]", "{}", '{"path": "A", "digest": "d", "maps": [3]}'):
        (folder / "teacher.json").write_text(content)
        with pytest.raises(UserError, match=r"teacher\.json: damaged"):
            annotation.label_by_teacher(label(2, "B"), folder, 4)


@pytest.mark.slow
def test_a_teacher_labels_pictures(network, tmp_path):
    """The maps equal those of the segmentation network; its classes are the folder's."""
    data = labelled_pictures.coloured_dataset(tmp_path / "data")
    labelled_pictures.train(labelled_pictures.tiny(data), tmp_path / "segmenter")
    out = tmp_path / "twenty"
    generate.main([f"--network={network}", "--seeds=0-3", "--for-labelling",
                   f"--teacher={tmp_path / 'segmenter'}", f"--out={out}"])
    labeller = Labeller.load(tmp_path / "segmenter")
    rgb = np.stack([read(out / f"seed{seed:04d}.png") for seed in SEEDS])
    labelled = LabelledFolder(out)
    np.testing.assert_array_equal(labelled.label_maps, labeller.label_maps(rgb))
    assert labelled.classes == labeller.classes and not [
        line for line in labelled.problems if "warning" not in line]
    (out / "holiday.png").write_bytes((out / "seed0000.png").read_bytes())
    with pytest.raises(UserError, match="not one of the pictures"):
        annotation.label_by_teacher(labeller, out, 4)


def test_options_that_do_not_go_together():
    for options, said in ((["--teacher=3"], "--teacher: without effect"),
                          (["--for-labelling", "--separate"], "--separate: without effect"),
                          (["--num=3", "--for-labelling"], "--for-labelling: without effect"),
                          (["--labels-from=x"], "--out: missing"),
                          (["--labels-from=x", "--network=3", "--out=y"], "--network: without")):
        with pytest.raises(UserError, match=said):
            parse_options(options)
