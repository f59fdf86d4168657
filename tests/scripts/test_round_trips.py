"""A data set's or a network's output is read back to the pixel: maps, names and order."""

import contextlib
import io
import json
import shlex
import shutil

import numpy as np
import pytest
from PIL import Image

import dataset_tool
import generate
from dnnlib.data.coco import MODANET_CLASSES
from tests.dataprep.test_extract import stored
from tests.dataprep.test_masks import make_masked, stored_labels
from tests.scripts.test_generate import RESOLUTION, save_network
from tests.tools.data_helpers import FOUR, folder_bytes, read_jsonl

pytestmark = pytest.mark.usefixtures("eagerly")

# The last one has names that a plain list cannot store, and a class that is never shown.
CLASSES = [FOUR, MODANET_CLASSES, ("#1", "2: x", "hat #ff0000", "3 y", "unseen")]
WAYS = ["masks", "coco"]


def run(*arguments):
    assert dataset_tool.main([str(argument) for argument in arguments]) == 0


def create_again(way, classes, source, out):
    """Make a data set from a folder's pictures, by its masks or by its COCO file."""
    coco = "create_modanet" if classes == MODANET_CLASSES else "create_from_coco"
    run("create_from_masks" if way == "masks" else coco, "--source", source, "--out", out,
        "--resolution", RESOLUTION, "--num-val", 0, "--num-test", 0, "--workers", 1)
    assert json.loads((out / "dataset.json").read_text())["classes"] == list(classes)


def file_numbers(images):
    """Return {number of the file: image} for {id: image}, whose ids are numbers or file names."""
    return {int(str(key).partition(".")[0]): image for key, image in images.items()}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("classes", CLASSES)
def test_from_photos_to_pictures_and_back(tmp_path, classes, way):
    shown = tuple(name for name in classes if name != "unseen")
    make_masked(tmp_path / "mine", 8, shown, side=RESOLUTION)
    (tmp_path / "mine/classes.txt").write_text(
        json.dumps(classes) if classes == MODANET_CLASSES else
        "".join(f"{number}: {name}\n" for number, name in enumerate(classes, 1))
        if classes == FOUR else json.dumps(["void", *classes]))
    run("create_from_masks", "--source", tmp_path / "mine", "--out", tmp_path / "first",
        "--resolution", RESOLUTION, "--num-val", 2, "--num-test", 1, "--workers", 1)
    run("extract", tmp_path / "first", "--out", tmp_path / "pictures")
    create_again(way, classes, tmp_path / "pictures", tmp_path / "second")
    again = file_numbers(stored(tmp_path / "second"))
    lines = read_jsonl(tmp_path / "pictures/images.jsonl")
    assert len(again) == len(lines) == 8
    for line in lines:
        np.testing.assert_array_equal(again[int(line["file"][:7])],
                                      stored(tmp_path / "first", line["split"])[line["id"]])


@pytest.mark.parametrize("way", WAYS)
def test_photos_of_any_shape_keep_their_label_maps(tmp_path, way):
    """Resized maps have soft borders, so only label maps and colours are the same."""
    make_masked(tmp_path / "mine", 6, FOUR, side=40)
    for path in (tmp_path / "mine").glob("*/p[012].*"):
        with Image.open(path) as picture:
            picture.crop((0, 0, 40, 23)).save(path)
    run("create_from_masks", "--source", tmp_path / "mine", "--out", tmp_path / "first",
        "--resolution", RESOLUTION, "--num-val", 0, "--num-test", 0, "--workers", 1)
    run("extract", tmp_path / "first", "--out", tmp_path / "pictures")
    create_again(way, FOUR, tmp_path / "pictures", tmp_path / "second")
    first, again = stored_labels(tmp_path / "first"), stored_labels(tmp_path / "second")
    again, colours = file_numbers(again), file_numbers(stored(tmp_path / "second"))
    for line in read_jsonl(tmp_path / "pictures/images.jsonl"):
        number = int(line["file"][:7])
        np.testing.assert_array_equal(again[number], first[line["id"]])
        np.testing.assert_array_equal(colours[number][:3],
                                      stored(tmp_path / "first")[line["id"]][:3])
    assert len(again) == 6 and len(np.unique(list(first.values()))) == 5


def generate_pairs(folder):
    return generate.main([f"--network={folder.parent / 'run/network-snapshot-000001.safetensors'}",
                          "--num=5", f"--out={folder}"])


@pytest.fixture(scope="module", params=CLASSES)
def pairs(request, tmp_path_factory):
    """Return (classes, folder that generate.py --num wrote, its output)."""
    root = tmp_path_factory.mktemp("pairs")
    save_network(root / "run" / "network-snapshot-000001.safetensors", request.param)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert generate_pairs(root / "my pairs") == 0
    return request.param, root / "my pairs", printed.getvalue()


@pytest.mark.parametrize("way", WAYS)
def test_from_a_network_to_pairs_and_to_a_data_set(pairs, tmp_path, way):
    classes, folder, _ = pairs
    create_again(way, classes, folder, tmp_path / "set")
    images, labels = stored(tmp_path / "set"), file_numbers(stored_labels(tmp_path / "set"))
    assert labels.keys() == set(range(5))
    for number, image in file_numbers(images).items():
        with Image.open(folder / f"images/{number:07d}.png") as picture:
            np.testing.assert_array_equal(image[:3].transpose(1, 2, 0), picture)
        with Image.open(folder / f"labels/{number:07d}.png") as picture:
            np.testing.assert_array_equal(labels[number], picture)
            assert labels[number].any() and not labels[number].all()


def test_only_files_with_modanets_classes_have_its_name(pairs):
    classes, folder, _ = pairs
    expected = "modanet2018_instances_train.json" if classes == MODANET_CLASSES \
        else "instances.json"
    assert [path.name for path in (folder / "annotations").iterdir()] == [expected]


def test_the_command_printed_after_pairs_works(pairs, tmp_path, monkeypatch):
    classes, _, printed = pairs
    line = printed.splitlines()[-1]
    command, name = ("create_modanet", "modanet-generated") if classes == MODANET_CLASSES \
        else ("create_from_masks", "generated-masks")
    assert line.startswith(f"Next: python dataset_tool.py {command} --source='")
    monkeypatch.chdir(tmp_path)
    run(*shlex.split(line)[3:])
    content = json.loads((tmp_path / "datasets" / name / "dataset.json").read_text())
    assert content["classes"] == list(classes) and content["resolution"] == RESOLUTION


def test_a_folder_of_an_earlier_version_is_read_and_continued(pairs, tmp_path):
    """It has no classes.txt, and its annotations have ModaNet's name whatever the classes are."""
    classes, folder, _ = pairs
    shutil.copytree(folder.parent, tmp_path / "old")
    there = tmp_path / "old/my pairs"
    whole = folder_bytes(there)
    (there / "classes.txt").unlink()
    annotations, = (there / "annotations").iterdir()
    annotations.rename(annotations.with_name("modanet2018_instances_train.json"))
    create_again("masks", classes, there, tmp_path / "set")
    generate_pairs(there)
    assert folder_bytes(there) == whole


@pytest.mark.parametrize("pairs", [FOUR], indirect=True)
def test_missing_files_of_an_earlier_versions_folder_are_made(pairs, tmp_path):
    _, folder, _ = pairs
    shutil.copytree(folder.parent, tmp_path / "old")
    there = tmp_path / "old/my pairs"
    whole = folder_bytes(there)
    (there / "samples.jsonl").write_bytes(whole["samples.jsonl"].rpartition(b'{"seed"')[0])
    (there / "annotations/instances.json").unlink()
    (there / "annotations/modanet2018_instances_train.json").write_text("of four")
    generate_pairs(there)
    again = folder_bytes(there)
    assert again.keys() == whole.keys()
    assert again["annotations/instances.json"] == whole["annotations/instances.json"]
