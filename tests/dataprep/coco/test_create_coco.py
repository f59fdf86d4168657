"""COCO files of other conventions, from the command to the stored pixels: the polygons cover each
photo's red area."""

import json
import zipfile

import lmdb
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

import dataset_tool
from dataprep.coco.segmentations import Instance, Photo
from dataprep.raw_files import match_photos
from dnnlib.data import channels, tfrecords
from dnnlib.data.coco import MODANET_CLASSES
from dnnlib.data.photo_names import Found
from dnnlib.util import UserError
from tests.tools.data_helpers import read_jsonl

SIDE = 16


def corners(x, y, width, height):
    """Return a rectangle as COCO's polygon."""
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def red_photo(path, box):
    """Write a grey photo with a red box (x, y, width, height)."""
    x, y, width, height = box
    pixels = np.full((SIDE, SIDE, 3), 200, np.uint8)
    pixels[y:y + height, x:x + width] = (255, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


class CocoSet:
    """A COCO set being made in a folder: photos with a red box, entries, annotations."""

    def __init__(self, root):
        self.root, self.images, self.annotations = root, [], []
        (root / "annotations").mkdir(parents=True)

    def photo(self, name, box):
        red_photo(self.root / "images" / name, box)

    def entry(self, image_id, file_name, *parts, **changes):
        """Add an image entry with annotations [(category id, segmentation)]."""
        self.images.append({"id": image_id, "file_name": file_name, "width": SIDE, "height": SIDE,
                            **changes})
        self.annotations += [{"id": 1, "image_id": image_id, "category_id": category,
                              "segmentation": segmentation} for category, segmentation in parts]

    def save(self, names=None):
        """Write the file with the categories {id: name}; return its folder."""
        content = {"images": self.images, "annotations": self.annotations}
        if names is not None:
            content["categories"] = [{"id": number, "name": name} for number, name in names.items()]
        (self.root / "annotations" / "modanet2018_instances_train.json").write_text(
            json.dumps(content))
        return self.root


@pytest.fixture
def coco(tmp_path):
    return CocoSet(tmp_path / "source")


def create(command, source, out, *options):
    arguments = [command, "--source", source, "--out", out, "--resolution", SIDE, "--workers", 1,
                 "--num-val", 0, "--num-test", 0, *options]
    return dataset_tool.main([str(argument) for argument in arguments])


def stored(out):
    """Return ({id: (RGB [h, w, 3], label map [h, w])}, content of dataset.json)."""
    content = json.loads((out / "dataset.json").read_text())
    records = tfrecords.RecordFile(out / "train" / "train-r04.tfrecords")
    images = [records.read_image(i).transpose(1, 2, 0) for i in range(len(records))]
    return {image_id: (image[..., channels.RGB],
                       channels.to_label_map(image[..., channels.SEGMAPS], 127))
            for image_id, image in zip(content["splits"]["train"], images)}, content


def assert_red_is_labelled(out, expected):
    """Assert that every map has its label exactly where the photo is red: {id: label or None}."""
    images, _ = stored(out)
    assert images.keys() == expected.keys()
    for image_id, (rgb, labels) in images.items():
        red = (rgb == (255, 0, 0)).all(axis=2)
        assert red.any()
        np.testing.assert_array_equal(labels > 0, red)
        assert expected[image_id] is None or set(labels[red]) == {expected[image_id]}


@pytest.mark.parametrize("names", [
    dict(enumerate(sorted(MODANET_CLASSES), 1)), dict(enumerate(MODANET_CLASSES)),
    {**dict(enumerate(MODANET_CLASSES, 1)), 7: "suncglasses", 13: "Scarf & Tie"}],
    ids=["alphabetical", "from 0", "misspelt"])
def test_modanets_classes_are_matched_by_name(coco, tmp_path, names, capsys):
    for image_id, category in enumerate(names, 1):
        coco.photo(f"{image_id:07d}.png", (3, 2, 8, 9))
        coco.entry(image_id, f"{image_id:07d}.png", (category, [corners(3, 2, 8, 9)]))
    source = coco.save(names)
    create("create_modanet", source, tmp_path / "a")
    assert "taken for ModaNet's classes by name" in capsys.readouterr().out
    right = {image_id: MODANET_CLASSES.index({"suncglasses": "sunglasses", "Scarf & Tie":
                                              "scarf/tie"}.get(name, name)) + 1
             for image_id, name in enumerate(names.values(), 1)}
    assert_red_is_labelled(tmp_path / "a", right)
    create("create_from_coco", source, tmp_path / "b")
    assert stored(tmp_path / "b")[1]["digest"] == stored(tmp_path / "a")[1]["digest"]


def test_only_create_from_coco_accepts_own_classes(coco, tmp_path, capsys):
    names = {40: "dog", 3: "_background_", 11: "car", 8: "person"}
    for image_id, category in ((1, 40), (2, 11), (3, 8), (4, 3)):
        coco.photo(f"{image_id}.png", (4, 4, 5, 6))
        coco.entry(image_id, f"{image_id}.png", (category, [corners(4, 4, 5, 6)]))
    source = coco.save(names)
    with pytest.raises(UserError, match=r"'person', 'car', 'dog'.*create_from_coco") as error:
        create("create_modanet", source, tmp_path / "set")
    assert "\n" not in str(error.value) and not (tmp_path / "set").exists()
    create("create_from_coco", source, tmp_path / "set")
    printed = capsys.readouterr().out
    assert "3 classes: 1 person, 2 car, 3 dog" in printed
    assert "'_background_' (id 3) is background" in printed
    assert "left out: 1 x category that is background" in printed
    assert_red_is_labelled(tmp_path / "set", {1: 3, 2: 2, 3: 1})
    assert stored(tmp_path / "set")[1]["classes"] == ["person", "car", "dog"]


def test_only_given_classes_are_used_in_the_given_order(coco, tmp_path, capsys):
    """Other classes become background; a photo without any of the given ones is left out."""
    boxes = {1: (2, 2, 8, 6), 2: (3, 4, 5, 5), 3: (1, 1, 4, 9)}
    for number, category in ((1, 7), (2, 9), (3, 3)):
        coco.photo(f"{number}.png", boxes[number])
        coco.entry(number, f"{number}.png", (category, [corners(*boxes[number])]))
    source, out = coco.save({3: "hat", 7: "coat", 9: "shoe"}), tmp_path / "out"
    assert create("create_from_coco", source, out, "--only-classes=Shoe,coat") == 0
    assert stored(out)[1]["classes"] == ["shoe", "coat"]
    assert_red_is_labelled(out, {1: 2, 2: 1})
    assert "--only-classes: 1 shoe, 2 coat\n" in capsys.readouterr().out
    for wrong, message in (("coat,boot", "'boot' is none of the classes hat, coat, shoe"),
                           ("coat,coat", "each once"), ("coat,Coat", "'coat' is given twice"),
                           ("shoes", "is none of .*; did you mean 'shoe'"), ("coat,", "each once")):
        with pytest.raises(UserError, match=message):
            create("create_from_coco", source, tmp_path / "x", f"--only-classes={wrong}")
    with pytest.raises(UserError, match="--only-classes: without effect"):
        create("create_from_coco", source, tmp_path / "x", "--only-classes=coat", "--untagged")
    with pytest.raises(UserError, match="'boot' is none of"):
        dataset_tool.main(["create_synthetic", f"--out={tmp_path / 'drawn'}", "--num-images=8",
                           "--only-classes=top,boot"])
    assert not (tmp_path / "drawn").exists()


def test_many_classes_and_one_that_no_photo_shows(coco, tmp_path, capsys):
    """Labels go up to 254, because 255 is the label of ignored pixels."""
    coco.photo("a.png", (2, 2, 5, 5))
    coco.entry(1, "a.png", (254, [corners(2, 2, 5, 5)]), (1, [corners(9, 9, 3, 3)]))
    source = coco.save({number: f"c{number}" for number in range(1, 255)})
    create("create_from_coco", source, tmp_path / "set")
    labels = stored(tmp_path / "set")[0][1][1]
    assert (labels[2:7, 2:7] == 254).all() and (labels[9:12, 9:12] == 1).all()
    assert np.count_nonzero(labels) == 34
    assert "warning: " in (printed := capsys.readouterr().out)
    assert "no image shows c2, c3, " in printed


def test_without_categories_only_modanets_ids_are_known(coco, tmp_path, capsys):
    coco.photo("0000001.png", (1, 1, 4, 4))
    coco.entry(1, "0000001.png", (9, [corners(1, 1, 4, 4)]))
    source = coco.save()
    create("create_modanet", source, tmp_path / "set")
    assert "lists no categories; ids are taken as ModaNet's" in capsys.readouterr().out
    assert_red_is_labelled(tmp_path / "set", {1: 9})
    with pytest.raises(UserError, match="lists no categories"):
        create("create_from_coco", source, tmp_path / "own")


def test_ids_starting_at_another_number_than_the_list(coco, tmp_path):
    for category in range(3):
        coco.photo(f"{category}.png", (1, 1, 4, 4))
        coco.entry(category, f"{category}.png", (category, [corners(1, 1, 4, 4)]))
    with pytest.raises(UserError, match="counted from another number"):
        create("create_modanet", coco.save(dict(enumerate(MODANET_CLASSES, 1))), tmp_path / "set")


def test_polygons_in_fractions_are_refused_and_single_ones_left_out(coco, tmp_path, capsys):
    shares = (np.float64(corners(3, 2, 8, 9)) / SIDE).tolist()
    coco.photo("1.png", (3, 2, 8, 9))
    coco.entry(1, "1.png", (1, [shares]), (1, [corners(0, 0, 1, 1)]))
    with pytest.raises(UserError, match=r"within 0\.\.1.*pixels") as error:
        create("create_from_coco", coco.save({1: "a"}), tmp_path / "set")
    assert "\n" not in str(error.value)
    del coco.images[:], coco.annotations[:]
    coco.entry(1, "1.png", (1, [corners(3, 2, 8, 9)]), (1, [shares]))
    create("create_from_coco", coco.save({1: "a"}), tmp_path / "set")
    assert "left out: 1 x polygon within 0..1" in capsys.readouterr().out
    assert_red_is_labelled(tmp_path / "set", {1: 1})


def test_the_first_pixel_is_not_a_fraction(coco, tmp_path):
    """Polygons along pixel borders, as written for label maps."""
    coco.photo("1.png", (0, 0, 1, 1))
    coco.entry(1, "1.png", (1, [corners(0, 0, 1, 1)]))
    create("create_from_coco", coco.save({1: "a"}), tmp_path / "set")
    assert_red_is_labelled(tmp_path / "set", {1: 1})


@pytest.mark.parametrize("scale, warned", [(100 / 400, True), (1, False)])
def test_polygons_in_per_cent_get_a_warning(coco, tmp_path, capsys, scale, warned):
    Image.new("RGB", (400, 400)).save(coco.root / "x.png")
    polygon = (np.float64(corners(40, 40, 360, 300)) * scale).tolist()
    coco.entry(1, "x.png", (1, [polygon]), width=400, height=400)
    create("create_from_coco", coco.save({1: "a"}), tmp_path / "set")
    assert ("per cent" in capsys.readouterr().out) == warned


def test_numbers_as_text_and_as_floats_and_flat_polygons(coco, tmp_path):
    forms = [(1.0, 1, 3.0), ("2", 2.0, "3"), (3, "3", 3)]
    for listed, used, category in forms:
        coco.photo(f"{used}.png", (5, 3, 6, 7))
        coco.images.append({"id": listed, "file_name": f"{used}.png", "width": float(SIDE),
                            "height": str(SIDE)})
        coco.annotations.append({"image_id": used, "category_id": category,
                                 "segmentation": corners(5, 3, 6, 7)})
    create("create_from_coco", coco.save({"3": "a"}), tmp_path / "set")
    assert_red_is_labelled(tmp_path / "set", {1: 1, 2: 1, 3: 1})


def test_run_lengths_in_both_forms_cover_the_red_area(coco, tmp_path):
    mask = np.zeros((SIDE, SIDE), bool)
    mask[2:11, 3:11] = True
    counts = [3 * SIDE + 2] + [9, 7] * 7 + [9, SIDE * SIDE - 10 * SIDE - 11]
    assert sum(counts) == SIDE * SIDE and sum(counts[1::2]) == mask.sum()
    text = coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()
    for image_id, form in enumerate((counts, text), 1):
        coco.photo(f"{image_id}.png", (3, 2, 8, 9))
        coco.entry(image_id, f"{image_id}.png", (1, {"size": [SIDE, SIDE], "counts": form}))
    create("create_from_coco", coco.save({1: "a"}), tmp_path / "set")
    assert_red_is_labelled(tmp_path / "set", {1: 1, 2: 1})


def shifted(coco, names, ids, file_names=None):
    """Make photos whose red box moves from one to the next, each with its id."""
    for number, (name, image_id) in enumerate(zip(names, ids)):
        box = (number, 3, 4, 9)
        coco.photo(name, box)
        coco.entry(image_id, (file_names or names)[number], (1, [corners(*box)]))


@pytest.mark.parametrize("names, ids, said", [
    ([f"{number}.png" for number in range(1, 7)], range(6),
     "file_name says 2.png, id 1 would take 1.png"),
    ([f"{number:05d}.png" for number in range(6)], range(6, 0, -1),
     "file_name says 00005.png, id 1 would take 00001.png"),
    (["a/x.png", "a/y.png", "b/x.png", "b/y.png"], (5, 3, 4, 6), None),
    (["train/1.png", "train/2.png", "val/1.png", "val/2.png"], range(1, 5),
     "file_name says 1.png, id 3")], ids=["one off", "backwards", "folders", "both"])
def test_file_name_decides_which_file_is_the_photo(coco, tmp_path, capsys, names, ids, said):
    shifted(coco, names, ids)
    create("create_from_coco", coco.save({1: "a"}), tmp_path / "set")
    assert_red_is_labelled(tmp_path / "set", dict.fromkeys(ids, 1))
    assert said is None or said in capsys.readouterr().out


def test_a_zip_is_searched_like_a_folder(coco, tmp_path, capsys):
    shifted(coco, ["a/1.png", "b/1.png", "b/2.png"], (2, 1, 3))
    images = coco.save({1: "a"}) / "images"
    with zipfile.ZipFile(coco.root / "images.zip", "w") as archive:
        for path in images.rglob("*.png"):
            archive.write(path, f"mine/{path.relative_to(images)}")
    images.rename(tmp_path / "elsewhere")
    create("create_from_coco", coco.root, tmp_path / "set")
    assert_red_is_labelled(tmp_path / "set", {1: 1, 2: 1, 3: 1})
    assert "file_name says 1.png, id 2" in capsys.readouterr().out


def test_a_database_has_only_ids_with_a_remark(coco, tmp_path, capsys):
    shifted(coco, ["1.png", "2.png"], (1, 2), ["1.png", "7.png"])
    source = coco.save()
    with lmdb.open(str(source / "photos.lmdb"), map_size=1 << 20) as env, \
            env.begin(write=True) as transaction:
        for path in (source / "images").iterdir():
            transaction.put(path.stem.encode(), path.read_bytes())
    (source / "images").rename(tmp_path / "elsewhere")
    create("create_modanet", source, tmp_path / "set")
    assert "1 x the number in file_name is not the id: the id decides" in (
        printed := capsys.readouterr().out) and "file_name says 7.png, id 2" in printed
    assert_red_is_labelled(tmp_path / "set", {1: 1, 2: 1})


def test_ambiguous_names_are_left_out_and_listed(coco, tmp_path, capsys):
    shifted(coco, ["a/x.png", "b/x.png", "y.png"], (1, 2, 3), ["x.png", "b/x.png", "y.png"])
    create("create_from_coco", coco.save({1: "a"}), tmp_path / "set")
    assert_red_is_labelled(tmp_path / "set", {2: 1, 3: 1})
    assert read_jsonl(tmp_path / "set" / "skipped.jsonl") == [
        {"id": 1, "reason": "photo is ambiguous: several files have its name"}]
    assert "3 annotated: 2 found, 0 missing, 1 in doubt" in capsys.readouterr().out


def test_a_missing_photo_does_not_get_its_neighbour(coco, tmp_path):
    """2.png is missing, and by its number id 1 would be 1.png."""
    shifted(coco, ["1.png", "2.png", "3.png"], (0, 1, 2))
    (coco.root / "images" / "2.png").unlink()
    create("create_from_coco", coco.save({1: "a"}), tmp_path / "set")
    assert_red_is_labelled(tmp_path / "set", {0: 1, 2: 1})


@pytest.mark.parametrize("file_names", [("p.png", "p.png"), ("images/p.png", "p.png")])
def test_one_photo_under_two_ids_has_the_annotations_of_both(coco, tmp_path, capsys, file_names):
    coco.photo("p.png", (2, 2, 6, 8))
    coco.photo("q.png", (1, 1, 5, 5))
    coco.entry(11, file_names[0], (1, [corners(2, 2, 6, 3)]))
    coco.entry(10, file_names[1], (2, [corners(2, 5, 6, 5)]))
    coco.entry(20, "q.png", (1, [corners(1, 1, 5, 5)]))
    create("create_from_coco", coco.save({1: "a", 2: "b"}), tmp_path / "set")
    assert_red_is_labelled(tmp_path / "set", {10: None, 20: 1})
    labels = stored(tmp_path / "set")[0][10][1]
    assert (labels[2:5, 2:8] == 1).all() and (labels[5:10, 2:8] == 2).all()
    printed = capsys.readouterr().out
    assert "3 annotated: 3 found, 0 missing" in printed
    assert "1 x one photo under another id: the annotations are joined" in printed


def test_older_data_sets_with_photos_by_number_are_not_continued(coco, tmp_path):
    """The same command with the same file used to give other labels."""
    shifted(coco, ["1.png", "2.png"], (0, 1))
    create("create_from_coco", coco.save({1: "a"}), tmp_path / "set")
    path = tmp_path / "set" / "dataset.json"
    content = json.loads(path.read_text())
    del content["options"]["names"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="names is None, not 'decide'"):
        create("create_from_coco", coco.root, tmp_path / "set")


# Which entry gets a photo

class Places:
    """A source with given results: {file_name: (key, whether it is exact)}."""

    def __init__(self, places):
        self.places = places

    def find(self, image_id, file_name):
        key, exact = self.places[file_name]
        return Found(key, None if key else "photo is missing", (), exact)


def photos(*entries):
    """Return {id: Photo} of (id, file_name, width, annotations)."""
    return {image_id: Photo(image_id, name, width, 9, (Instance(1),) * count)
            for image_id, name, width, count in entries}


@pytest.mark.parametrize("entries, pairs, left", [
    ([(1, "x", 9, 1), (2, "a/x", 9, 2)], [(1, 3)], {}),
    ([(1, "x", 9, 1), (2, "a/x", 8, 2)], [], {1: "different sizes", 2: "different sizes"}),
    ([(1, "X", 9, 1), (2, "x", 9, 2)], [(2, 2)], {1: "another id"}),
    ([(1, "X", 9, 1), (2, "b/x", 9, 2)], [], {1: "another id", 2: "another id"}),
    ([(1, "X", 9, 1), (2, "X", 9, 2)], [(1, 3)], {}),
    ([(1, "x", 9, 600), (2, "a/x", 9, 600)], [], {1: "more than 1000", 2: "more than 1000"}),
    ([(1, "x", 9, 0), (2, "x", 9, 2), (3, "gone", 9, 1)], [(2, 2)],
     {1: "no usable", 3: "missing"})])
def test_a_photo_with_several_ids_is_used_once(entries, pairs, left):
    source = Places({"x": ("x", True), "a/x": ("x", True), "X": ("x", False), "b/x": ("x", False),
                     "gone": (None, False)})
    matched = match_photos(photos(*entries), source)
    assert [(photo.image_id, len(photo.instances)) for photo, _ in matched.pairs] == pairs
    assert matched.reasons.keys() == left.keys()
    assert all(part in matched.reasons[image_id] for image_id, part in left.items())


def test_untagged_photos_have_no_annotations_under_any_id():
    source = Places({name: (name, True) for name in "xyz"})
    matched = match_photos(photos((1, "x", 9, 0), (2, "x", 9, 1), (3, "y", 9, 0), (4, "y", 9, 0),
                                  (5, "z", 9, 0)), source, untagged=True)
    assert [(photo.image_id, key) for photo, key in matched.pairs] == [(3, "y"), (5, "z")]
    assert matched.reasons == dict.fromkeys(
        (1, 2), "annotated, so it belongs to labelled data")


# Where the files are

def test_files_are_found_below_source(coco, tmp_path, capsys):
    shifted(coco, ["1.png", "2.png"], (1, 2))
    source = coco.save({1: "a"})
    (source / "annotations" / "modanet2018_instances_train.json").rename(source / "a.coco.json")
    for path in (source / "images").iterdir():
        path.rename(source / path.name)
    (source / "images").rmdir()
    create("create_from_coco", source, tmp_path / "set")
    assert_red_is_labelled(tmp_path / "set", {1: 1, 2: 1})
    (source / "b.json").write_text("{}")
    with pytest.raises(UserError, match=r"several JSON files \(a\.coco\.json, b\.json\).*"
                                        "--annotations"):
        create("create_from_coco", source, tmp_path / "set")
    capsys.readouterr()
    create("create_from_coco", source, tmp_path / "set", "--annotations", source / "a.coco.json")
    assert "finished; nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize("options, message", [
    ([], "give --annotations and --images, or --source"),
    (["--annotations", "a.json"], "give --annotations and --images"),
    (["--source", "nowhere"], "nowhere: no such folder"),
    (["--source", "."], "no JSON file there or in annotations/")])
def test_missing_files_are_one_line(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        dataset_tool.main(["create_from_coco", *options])


def test_photos_without_annotations_can_be_used_as_untagged(coco, tmp_path, monkeypatch):
    shifted(coco, ["1.png", "2.png"], (1, 2))
    coco.photo("3.png", (1, 1, 2, 2))
    coco.entry(3, "3.png")
    source = coco.save({1: "a"})
    monkeypatch.chdir(tmp_path)
    dataset_tool.main(["create_from_coco", f"--source={source}", "--resolution=16", "--workers=1",
                       "--untagged"])
    content = json.loads((tmp_path / "datasets/coco-untagged/dataset.json").read_text())
    assert content["splits"]["train"] == [3] and content["classes"] == []


def test_names_cannot_control_the_terminal(coco, tmp_path, capsys):
    coco.photo("1.png", (1, 1, 4, 4))
    coco.entry(1, "\x1b[2J\x9b1m\n\ud800" + "x" * 9999, (1, [corners(1, 1, 4, 4)]))
    create("create_from_coco", coco.save({1: "a"}), tmp_path / "set")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "file_name" in line]
    assert r"\x1b[2J\x9b1m \ud800xxx" in line and line.isprintable() and len(line) < 300
    assert_red_is_labelled(tmp_path / "set", {1: 1})
