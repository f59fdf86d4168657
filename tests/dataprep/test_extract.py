"""Pictures extracted from a data set, and data sets made from these pictures."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import dataset_tool
from dnnlib.data import channels, tfrecords
from dnnlib.data.coco import MODANET_CLASSES
from dnnlib.util import UserError
from tests.tools.data_helpers import FOUR, folder_bytes, make_dataset, random_image, read_jsonl


def run(*arguments):
    """Run the tool in this process."""
    return dataset_tool.main([str(argument) for argument in arguments])


@pytest.fixture
def images(rng):
    """Return images that each show a class: in a set with maps others would be left out."""
    return {"train": np.stack([random_image(rng, 7, 16) for _ in range(5)]),
            "val": np.stack([random_image(rng, 7, 16) for _ in range(3)])}


@pytest.fixture
def data(tmp_path, images):
    return make_dataset(tmp_path / "data", images)


def stored(data, split="train"):
    """Return {id: image uint8 [C, H, W]} at the largest level."""
    content = json.loads((data / "dataset.json").read_text())
    level = content["resolution"].bit_length() - 1
    file = tfrecords.RecordFile(data / split / f"{split}-r{level:02d}.tfrecords")
    return {image_id: file.read_image(i) for i, image_id in enumerate(content["splits"][split])}


def read(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_pictures_are_the_records_pixels(data, images, tmp_path, capsys):
    assert run("extract", data, "--out", tmp_path / "out") == 0
    assert "8 images written, 0 were there already" in capsys.readouterr().out
    listing = read_jsonl(tmp_path / "out" / "images.jsonl")
    assert [(line["split"], line["id"]) for line in listing] == [
        *(("train", i) for i in range(5)), *(("val", i) for i in range(3))]
    for line in listing:
        image = images[line["split"]][line["id"]]
        np.testing.assert_array_equal(read(tmp_path / "out/images" / line["file"]),
                                      image[:3].transpose(1, 2, 0))
        labels = channels.to_label_map(image[3:].transpose(1, 2, 0), 127)
        np.testing.assert_array_equal(read(tmp_path / "out/labels" / line["file"]), labels)
    assert (tmp_path / "out" / "classes.txt").read_text().split() == list(FOUR)


def test_create_from_masks_gives_back_the_same_pixels(data, tmp_path):
    run("extract", data, "--out", tmp_path / "out")
    run("create_from_masks", "--source", tmp_path / "out", "--out", tmp_path / "again",
        "--resolution", 16, "--num-val", 0, "--num-test", 0, "--workers", 1)
    again = stored(tmp_path / "again")
    assert len(again) == 8
    for line in read_jsonl(tmp_path / "out" / "images.jsonl"):
        np.testing.assert_array_equal(again[line["file"]],
                                      stored(data, line["split"])[line["id"]])
    content = json.loads((tmp_path / "again" / "dataset.json").read_text())
    assert content["classes"] == list(FOUR)


def test_soft_borders_of_resized_maps_keep_their_labels(data, tmp_path, rng):
    """Stored maps have intermediate values: label maps stay equal, next time all pixels do."""
    soft = random_image(rng, 7, 16)
    soft[3:] = rng.dirichlet([0.3] * 5, (16, 16)).transpose(2, 0, 1)[:4] * 255
    first = make_dataset(tmp_path / "soft", {"train": soft[None]})
    run("extract", first, "--out", tmp_path / "a")
    largest, least = soft[3:].argmax(axis=0) + 1, soft[3:].max(axis=0)
    np.testing.assert_array_equal(read(tmp_path / "a/labels/0000000.png"),
                                  np.where(least > 127, largest, 0))
    run("create_from_masks", "--source", tmp_path / "a", "--out", tmp_path / "second",
        "--resolution", 16, "--num-val", 0, "--num-test", 0, "--workers", 1)
    run("extract", tmp_path / "second", "--out", tmp_path / "b")
    for folder in ("images", "labels"):
        assert folder_bytes(tmp_path / "a" / folder) == folder_bytes(tmp_path / "b" / folder)


def test_create_modanet_gives_back_the_same_label_maps(tmp_path, rng):
    images = np.stack([random_image(rng, 16, 16) for _ in range(3)])
    data = make_dataset(tmp_path / "data", {"train": images}, MODANET_CLASSES)
    content = json.loads((data / "dataset.json").read_text())
    content["splits"]["train"] = [901, 17, 400000]
    (data / "dataset.json").write_text(json.dumps(content))
    run("extract", data, "--out", tmp_path / "out")
    assert sorted(path.stem for path in (tmp_path / "out/images").iterdir()) == [
        "0000017", "0000901", "0400000"]
    run("create_modanet", "--source", tmp_path / "out", "--out", tmp_path / "again",
        "--resolution", 16, "--num-val", 0, "--num-test", 0, "--workers", 1)
    first, again = stored(data), stored(tmp_path / "again")
    assert first.keys() == again.keys()
    for image_id in first:
        np.testing.assert_array_equal(again[image_id], first[image_id])


def test_repeating_it_writes_missing_files(data, tmp_path, capsys):
    run("extract", data, "--out", tmp_path / "out")
    whole = folder_bytes(tmp_path / "out")
    (tmp_path / "out/images/0000002.png").unlink()
    (tmp_path / "out/labels/0000005.png").unlink()
    (tmp_path / "out/labels/.0000005.png.77.tmp").write_bytes(b"half")
    (tmp_path / "out/.images.jsonl.77.tmp").write_bytes(b"half")
    shutil.rmtree(tmp_path / "out/annotations")
    run("extract", data, "--out", tmp_path / "out")
    assert "2 images written, 6 were there already" in capsys.readouterr().out
    assert folder_bytes(tmp_path / "out") == whole


def test_a_picture_that_cannot_be_written_is_an_error(data, tmp_path):
    run("extract", data, "--out", tmp_path / "out")
    shutil.rmtree(tmp_path / "out/images")
    (tmp_path / "out/images").write_text("in the way")
    with pytest.raises(OSError, match="images"):
        run("extract", data, "--out", tmp_path / "out")


def test_a_folder_of_something_else_is_not_changed(data, tmp_path):
    run("extract", data, "--out", tmp_path / "out", "--split", "val")
    with pytest.raises(UserError, match="another data set, split or resolution"):
        run("extract", data, "--out", tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match=r"holds files, but no extract\.json"):
        run("extract", data, "--out", tmp_path / "mine")
    assert len(list((tmp_path / "mine").iterdir())) == 1


def test_any_level_and_split(data, images, tmp_path):
    run("extract", data, "--out", tmp_path / "out", "--split", "val", "--resolution", 8)
    names = sorted(path.name for path in (tmp_path / "out" / "images").iterdir())
    assert len(names) == 3 and read(tmp_path / "out/images" / names[0]).shape == (8, 8, 3)
    for option, message in ((("--resolution", 32), "no images of 32x32"),
                            (("--split", "test"), "no images in split 'test'")):
        with pytest.raises(UserError, match=message):
            run("extract", data, "--out", tmp_path / "none", *option)
    assert not (tmp_path / "none").exists()


def test_colours_and_conditioning_labels_are_kept(tmp_path, images):
    rows = np.float32([[1, 0], [0, 1], [0.25, -3], [0, 0], [5, 5]])
    data = make_dataset(tmp_path / "data", {"train": images["train"][:, :3]}, (),
                        labels={"train": rows})
    run("extract", data, "--out", tmp_path / "out")
    assert not (tmp_path / "out/labels").exists() and not (tmp_path / "out/classes.txt").exists()
    run("create_from_images", "--source", tmp_path / "out/images", "--labels",
        tmp_path / "out/labels.json", "--out", tmp_path / "again", "--resolution", 16)
    again = stored(tmp_path / "again")
    ids = json.loads((tmp_path / "again/dataset.json").read_text())["splits"]["train"]
    for row, image_id in zip(np.load(tmp_path / "again/train/train-rxx.labels"), ids):
        number = int(image_id.partition(".")[0])
        np.testing.assert_array_equal(row, rows[number])
        np.testing.assert_array_equal(again[image_id], images["train"][number, :3])


@pytest.mark.parametrize("split, names", [("all", 5), ("train", 3), ("test", 2)])
def test_conditioning_labels_of_sets_with_an_empty_split(tmp_path, images, split, names):
    """A split without images has no label file, and needs none."""
    rows = np.float32(np.eye(5))
    parts = {"train": images["train"][:3, :3], "test": images["train"][3:, :3]}
    data = make_dataset(tmp_path / "data", parts, (), labels={"train": rows[:3], "test": rows[3:]})
    content = json.loads((data / "dataset.json").read_text())
    content["splits"] = {"train": ["a", "b", "c"], "val": [], "test": ["d", "e"]}
    (data / "dataset.json").write_text(json.dumps(content))
    assert run("extract", data, "--out", tmp_path / "out", "--split", split) == 0
    labels = json.loads((tmp_path / "out/labels.json").read_text())["labels"]
    ids = {line["file"]: line["id"] for line in read_jsonl(tmp_path / "out/images.jsonl")}
    assert len(labels) == names == len(list((tmp_path / "out/images").iterdir()))
    for file, label in labels:
        np.testing.assert_array_equal(label, rows["abcde".index(ids[file])])


@pytest.mark.parametrize("classes", [(), FOUR])
@pytest.mark.parametrize("splits", [("train",), ("train", "val"), ("train", "test"),
                                    ("train", "val", "test")])
def test_every_split_at_every_level(tmp_path, images, classes, splits):
    stack = images["train"][:2, :3 + len(classes)]
    labels = None if classes else {split: np.float32([[1, 0], [0, 1]]) for split in splits}
    data = make_dataset(tmp_path / "data", {split: stack for split in splits}, classes,
                        labels=labels)
    content = json.loads((data / "dataset.json").read_text())
    content["splits"] = {split: [f"{split}{i}" for i in range(2)] if split in splits else []
                         for split in ("train", "val", "test")}
    (data / "dataset.json").write_text(json.dumps(content))
    for split in ("all", *splits):
        for side in (4, 8, 16):
            out = tmp_path / f"{split}{side}"
            assert run("extract", data, "--out", out, "--split", split, "--resolution", side) == 0
            assert read(next((out / "images").iterdir())).shape == (side, side, 3)
            assert (out / ("classes.txt" if classes else "labels.json")).is_file()


def test_an_earlier_versions_folder_of_own_classes_is_continued(data, tmp_path):
    """Its annotations were named like ModaNet's; they are renamed."""
    run("extract", data, "--out", tmp_path / "out")
    whole = folder_bytes(tmp_path / "out")
    annotations = tmp_path / "out/annotations"
    (annotations / "instances.json").rename(annotations / "modanet2018_instances_train.json")
    run("extract", data, "--out", tmp_path / "out")
    assert folder_bytes(tmp_path / "out") == whole
    categories = json.loads((annotations / "instances.json").read_text())["categories"]
    assert categories == [{"id": i, "name": name, "supercategory": ""}
                          for i, name in enumerate(FOUR, 1)]


def test_254_classes_are_kept(tmp_path, rng):
    image = np.zeros((257, 16, 16), np.uint8)
    labels = (rng.permutation(256) % 255).astype(np.uint8).reshape(16, 16)
    image[3:] = 255 * (labels == np.arange(1, 255)[:, None, None])
    data = make_dataset(tmp_path / "data", {"train": image[None]}, tuple(map(str, range(254))))
    run("extract", data, "--out", tmp_path / "out")
    np.testing.assert_array_equal(read(tmp_path / "out/labels/0000000.png"), labels)
    annotations = json.loads((tmp_path / "out/annotations/instances.json").read_text())
    assert sorted(a["category_id"] for a in annotations["annotations"]) == list(range(1, 255))
