"""The dataset tool's commands from end to end, and their output."""

import hashlib
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import lmdb
import numpy as np
import pytest
from PIL import Image

import dataset_tool
import train
from dataprep import conversion, create, photo_sources, raw_files
from dnnlib import cli
from dnnlib.data import pyramid, tfrecords
from dnnlib.data.dataset import open_dataset, read_labels
from dnnlib.util import UserError
from tests.tools.data_helpers import (
    annotations_path,
    create_config,
    folder_bytes,
    make_source,
    photo_bytes,
    read_jsonl,
    save_annotations,
)
from training.config import TrainingConfig
from training.run.config_checks import fit_to_dataset
from training.run.options import parse_training_options

REPOSITORY = Path(__file__).resolve().parents[2]
NUM = 12


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path / "source", NUM)


def run(*arguments):
    """Run the tool in this process; return (exit status, None)."""
    return dataset_tool.main([str(argument) for argument in arguments])


def create_modanet(source, out, *options):
    return run("create_modanet", "--source", source, "--out", out, "--resolution", 16,
               "--workers", 1, *options)


def test_photos_become_a_data_set_and_the_next_step_is_printed(source, tmp_path, capsys):
    assert create_modanet(source, tmp_path / "set", "--num-val", 2, "--num-test", 3) == 0
    printed = capsys.readouterr().out
    assert "12 images listed, 0 empty, 12 annotated: 12 found, 0 missing" in printed
    assert "12 photos to convert, 0 of them unreadable by their headers" in printed
    assert "projected: 12 photos" in printed and "7 train, 2 val, 3 test" in printed
    assert f"python train.py --variant=2d --data={tmp_path / 'set'}" in printed
    info = open_dataset(tmp_path / "set")
    assert info.splits == {"train": 7, "val": 2, "test": 3} and info.num_channels == 16
    assert not list(tmp_path.glob("set/.*"))


def test_a_finished_data_set_is_kept_and_another_is_refused(source, tmp_path, capsys):
    create_modanet(source, tmp_path / "set")
    before = folder_bytes(tmp_path / "set")
    assert create_modanet(source, tmp_path / "set", "--workers", 2) == 0
    assert "finished; nothing to do" in capsys.readouterr().out
    with pytest.raises(UserError, match="seed is 0, not 1"):
        create_modanet(source, tmp_path / "set", "--seed", 1)
    assert folder_bytes(tmp_path / "set") == before


@pytest.mark.parametrize("command", ["create_modanet", "create_from_images"])
def test_other_photos_of_the_same_names_are_another_data_set(source, tmp_path, capsys, command):
    def make():
        return run(command, "--source", source, "--out", tmp_path / "set", "--resolution", 8,
                   "--workers", 1)
    make()
    photo = source / "images" / "0000007.jpg"
    photo.write_bytes(photo.read_bytes() + b"more")
    with pytest.raises(UserError, match="photo_sizes is "):
        make()
    # Made before sizes were stored: it is kept, and the output names what is unknown.
    content = json.loads((tmp_path / "set" / "dataset.json").read_text())
    del content["options"]["photo_sizes"]
    (tmp_path / "set" / "dataset.json").write_text(json.dumps(content))
    capsys.readouterr()
    assert make() == 0
    assert json.loads((tmp_path / "set" / "dataset.json").read_text()) == content
    printed = capsys.readouterr().out
    assert "finished; nothing to do" in printed
    assert f"that its photos are those in {source}" in printed
    assert "is known only from their names" in printed


def test_photos_with_the_same_pixels_get_a_warning(source, tmp_path, capsys):
    for name in ("a.jpg", "b.jpg"):
        shutil.copy(source / "images" / "0000007.jpg", source / "images" / name)
    run("create_from_images", "--source", source / "images", "--out", tmp_path / "set",
        "--resolution", 8, "--workers", 1, "--num-val", 4, "--num-test", 5)
    said = "3 photos have the same pixels as another, 3 of them as one in another split; "
    assert f"warning: {said}" in capsys.readouterr().out
    run("info", tmp_path / "set")
    assert f"repeats    {said}" in capsys.readouterr().out
    assert run("info", tmp_path / "set", "--verify") == 0


def test_distinct_photos_get_no_warning(source, tmp_path, capsys):
    create_modanet(source, tmp_path / "set")
    run("info", tmp_path / "set")
    assert "same pixels" not in capsys.readouterr().out


def test_a_dry_run_writes_nothing(source, tmp_path, capsys):
    assert create_modanet(source, tmp_path / "set", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "12 annotated: 12 found, 0 missing" in printed and "projected: 12 photos" in printed
    assert run("create_synthetic", "--out", tmp_path / "set", "--dry-run", "--resolution", 64) == 0
    assert "nothing written; would draw 2000 photos into" in capsys.readouterr().out
    assert not (tmp_path / "set").exists()


def damage(source, rng):
    """Damage the photos with ids 8 to 13, each in another way; headers show it for 9 and 10."""
    content = json.loads(annotations_path(source).read_text())
    for part in content["annotations"]:
        if part["image_id"] == 8:
            part["segmentation"] = [[1, 2, 3, 4]]
    save_annotations(source, content)
    images = source / "images"
    (images / "0000009.jpg").write_bytes(b"<html>not found</html>")
    (images / "0000010.jpg").write_bytes(b"")
    (images / "0000011.jpg").write_bytes((images / "0000011.jpg").read_bytes()[:-150])
    (images / "0000012.jpg").unlink()
    (images / "0000013.jpg").write_bytes(photo_bytes(rng, 60, 40))


@pytest.mark.parametrize("num_images", [None, 8])
def test_every_photo_is_written_or_listed_with_its_reason(source, tmp_path, rng, capsys,
                                                          num_images):
    damage(source, rng)
    chosen = () if num_images is None else ("--num-images", num_images)
    create_modanet(source, tmp_path / "set", "--num-val", 2, "--num-test", 1, *chosen)
    printed = capsys.readouterr().out
    assert "12 images listed, 1 empty, 11 annotated: 10 found, 1 missing" in printed
    if num_images is None:
        assert "10 photos to convert, 2 of them unreadable by their headers" in printed
        assert "projected: 8 photos" in printed
    content = json.loads((tmp_path / "set" / "dataset.json").read_text())
    written = list(itertools.chain(*content["splits"].values()))
    lines = read_jsonl(tmp_path / "set" / "skipped.jsonl")
    skipped = [line["id"] for line in lines if "annotation" not in line]
    assert sorted(written + skipped) == list(range(7, 7 + NUM))
    assert all(line["reason"] for line in lines) and content["skipped"] == len(skipped)
    reasons = {line["id"]: line["reason"] for line in lines if "annotation" not in line}
    assert reasons[8] == "no usable annotation" and reasons[12] == "photo is missing"
    not_chosen = [reason for reason in reasons.values() if "--num-images" in reason]
    assert len(not_chosen) == (0 if num_images is None else 2)
    assert not set(written) & {8, 9, 10, 11, 12, 13}
    assert run("info", tmp_path / "set", "--verify") == 0


def test_every_image_of_a_folder_is_written_or_listed(source, tmp_path, rng):
    damage(source, rng)
    run("create_from_images", "--source", source, "--out", tmp_path / "set", "--resolution", 8,
        "--workers", 1, "--num-images", 9)
    written = json.loads((tmp_path / "set" / "dataset.json").read_text())["splits"]["train"]
    skipped = [line["id"] for line in read_jsonl(tmp_path / "set" / "skipped.jsonl")]
    assert sorted(written + skipped) == sorted(folder_bytes(source)), "the annotations, too"


def spoil(source, rng):
    """Damage four of NUM photos so that headers do not show it, and two more visibly."""
    images = source / "images"
    for image_id in (8, 9):
        path = images / f"{image_id:07d}.jpg"
        path.write_bytes(path.read_bytes()[:-150])
    for image_id in (11, 14):
        (images / f"{image_id:07d}.jpg").write_bytes(photo_bytes(rng, 60, 40))
    (images / "0000010.jpg").write_bytes(b"<html>not found</html>")
    (images / "0000017.jpg").unlink()
    (images / "0000017.jpg").symlink_to("nowhere")


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("command", ["create_modanet", "create_from_images", "create_from_masks"])
def test_splits_have_the_requested_size_despite_defects(tmp_path, rng, command, seed):
    source = make_source(tmp_path / "source", 24)
    if command == "create_from_masks":
        (source / "classes.txt").write_text("figure")
        (source / "labels").mkdir()
        for path in (source / "images").iterdir():
            value = {20: 0, 21: 2}.get(int(path.stem), 1)  # background only; no class
            Image.new("L", (40, 60), value).save(source / "labels" / f"{path.stem}.png")
    spoil(source, rng)
    run(command, f"--source={source}", f"--out={tmp_path / 'set'}", "--resolution=8", "--workers=1",
        f"--seed={seed}", "--num-val=4", "--num-test=3")
    splits = json.loads((tmp_path / "set" / "dataset.json").read_text())["splits"]
    usable = {"create_modanet": 18, "create_from_images": 20, "create_from_masks": 16}[command]
    assert {split: len(ids) for split, ids in splits.items()} == {
        "train": usable - 7, "val": 4, "test": 3}
    assert len(set(itertools.chain(*splits.values()))) == usable
    assert run("info", tmp_path / "set", "--verify") == 0


def test_too_few_usable_photos_for_the_splits_are_one_line(source, tmp_path, rng):
    spoil(source, rng)
    options = ["create_modanet", f"--source={source}", f"--out={tmp_path / 'set'}",
               "--resolution=8", "--workers=1", "--num-test=0"]
    with pytest.raises(UserError, match="10 validation and 0 test photos leave none of the 10 "):
        run(*options, "--num-val=10")  # seen in the headers
    with pytest.raises(UserError, match="of 12, 6 went into validation, 0 into the test, and the "):
        run(*options, "--num-val=6")
    assert not (tmp_path / "set" / "dataset.json").exists()


@pytest.mark.parametrize("num_val, advice", [
    (5, "only 5 validation images: .*--num-val=0 --num-test=0 trains with all"), (0, None)])
@pytest.mark.parametrize("dry", [True, False])
def test_few_validation_photos_get_a_warning(source, tmp_path, capsys, num_val, advice, dry):
    create_modanet(source, tmp_path / "set", "--num-val", num_val, *["--dry-run"] * dry)
    printed = capsys.readouterr().out
    found = re.search("warning: .* validation images.*", printed)
    assert re.search(advice, found[0]) if advice else not found


@pytest.mark.parametrize("num_photos, num_val, said", [
    (1000, 0, "no validation images: .*; --num-val=100 or more can"), (999, 0, None),
    (1000, 99, "only 99 .*; --num-val=100 or more can"), (1000, 100, None),
    (999, 99, "trains with all of so few"), (120, 100, None)])
def test_the_advice_depends_on_the_number_of_photos(num_photos, num_val, said):
    lines = []
    create._report_few_validation(num_val, num_photos, lines.append)
    assert re.search(said, *lines) if said else not lines


def test_suggested_commands_are_quoted_and_work(source, tmp_path, capsys, monkeypatch):
    """train.py accepts what is printed, even if a path has a space and a quote."""
    out = tmp_path / "my set's"
    create_modanet(source, out, "--num-val", 0, "--num-test", 0)
    line = re.search("^train: python (train.py .*)$", capsys.readouterr().out, re.MULTILINE)[1]
    script, *arguments = shlex.split(line)
    assert arguments[:3] == ["--variant=2d", f"--data={out}", "--preset=small-32"]
    assert script == "train.py" and "--resolution=16" in arguments
    given = parse_training_options(arguments)
    config = TrainingConfig.preset(given.preset, {"variant": "2d", "resolution": given.resolution})
    assert fit_to_dataset(config, open_dataset(given.data), 1).resolution == 16
    run("create_from_images", "--source", source, "--out", out / "rgb", "--resolution", 4,
        "--workers", 1)
    printed = capsys.readouterr().out
    assert shlex.split(printed.splitlines()[-1])[-1] == f"--untagged={out / 'rgb'}"
    assert "\ntrain the RGB baseline: python train.py --variant=rgb '--data=" in printed


def test_files_that_are_not_photos_are_counted(source, tmp_path, capsys):
    for name in ("a.txt", "b.txt", "c.TXT", "d.xml", "e.xml", "f.db", "g", "h.mp4", "i.json"):
        (source / name).write_text("nothing")
    (source / "images" / "again.jpg").symlink_to("0000007.jpg")
    run("create_from_images", "--source", source, "--out", tmp_path / "set", "--resolution", 8,
        "--workers", 1)
    printed = capsys.readouterr().out
    assert "12 image files\n  left out: 10 x no photo: its content is none of " in printed
    assert "left out: 1 x link to a file that is read already" in printed
    lines = read_jsonl(tmp_path / "set" / "skipped.jsonl")
    assert len(lines) == 11 and all(line["reason"] for line in lines)
    assert open_dataset(tmp_path / "set").splits["train"] == NUM


@pytest.mark.parametrize("masks", ["labels", "masks"])
def test_masks_are_not_taken_for_photos(source, tmp_path, masks):
    folder = shutil.copytree(source / "images", tmp_path / "mine/images").parent
    shutil.copytree(source / "images", folder / masks)
    with pytest.raises(UserError, match=rf"in {masks}/ would be .* give --source={folder}/images, "
                                        rf"or .*: python dataset_tool.py create_from_masks "):
        create.create_from_images(create_config(source=folder, out=tmp_path / "set"), print)
    assert not (tmp_path / "set").exists()


def test_a_folder_of_photos_keeps_its_digest(source, tmp_path):
    """It decides if a data set is finished: the md5 over the names, despite other files."""
    names = "\n".join(f"{i:07d}.jpg" for i in range(7, 7 + NUM))
    (source / "images" / ".DS_Store").touch()
    create.create_from_images(create_config(source=source / "images", out=tmp_path / "set"), print)
    content = json.loads((tmp_path / "set" / "dataset.json").read_text())
    assert content["options"]["source"] == hashlib.md5(names.encode()).hexdigest()
    assert content["skipped"] == 0 and read_jsonl(tmp_path / "set" / "skipped.jsonl") == []


def official(folder, images, name="tiny", labels=None):
    """Write uint8 [N, C, H, W] like the official dataset tool: raw, without folders of splits."""
    folder.mkdir()
    for image in images:
        for level, smaller in pyramid.levels(image, 2).items():
            with open(folder / f"{name}-r{level:02d}.tfrecords", "ab") as file:
                file.write(tfrecords.frame(tfrecords.encode_record(smaller, "raw")))
    if labels is not None:
        with open(folder / f"{name}-rxx.labels", "wb") as file:
            np.save(file, labels)
    return folder


@pytest.mark.parametrize("command", ["info", "display", "train"])
def test_official_record_files_are_recognised(tmp_path, rng, command):
    images = rng.integers(0, 256, (2, 3, 16, 16), dtype=np.uint8)
    folder = official(tmp_path / "my records", images)
    with pytest.raises(UserError, match=r"as the official dataset tool writes them; .* "
                                        r"create_from_images .*--resolution=16") as error:
        if command == "train":
            train.main([f"--data={folder}", "--device=cpu", "--dry-run"])
        else:
            run(command, folder)
    told = shlex.split(str(error.value).partition("convert them: ")[2])
    assert told[3] == f"--source={folder}" and "\n" not in str(error.value)
    assert run(*told[2:-1], f"--out={tmp_path / 'set'}", "--workers=1") == 0
    with pytest.raises(UserError, match=f"is one split of a data set; .*{tmp_path / 'set'}$"):
        run("info", tmp_path / "set" / "train")


@pytest.mark.parametrize("label_size, resolution", [(0, 16), (3, 16), (0, 8)])
def test_official_record_files_become_a_data_set(tmp_path, rng, label_size, resolution):
    """Every image keeps its pixels and its label; if the largest level is lower than theirs, the
    levels below are rounded twice."""
    images = rng.integers(0, 256, (9, 3, 16, 16), dtype=np.uint8)
    labels = rng.normal(size=(9, 3)).astype(np.float32) if label_size else None
    folder = official(tmp_path / "tiny", images, labels=labels)
    run("create_from_images", f"--source={folder}", f"--out={tmp_path / 'set'}", "--num-val=2",
        f"--resolution={resolution}", "--workers=1")
    splits = json.loads((tmp_path / "set" / "dataset.json").read_text())["splits"]
    assert sorted(itertools.chain(*splits.values())) == list(range(9)) and len(splits["val"]) == 2
    for split, ids in splits.items():
        if not ids:
            continue
        there = read_labels(tmp_path / "set", split)
        np.testing.assert_array_equal(there, np.zeros((len(ids), 0)) if labels is None
                                      else labels[ids])
        for level in range(2, resolution.bit_length()):
            name = f"{split}/{split}-r{level:02d}.tfrecords"
            ours = tfrecords.RecordFile(tmp_path / "set" / name)
            theirs = tfrecords.RecordFile(folder / f"tiny-r{level:02d}.tfrecords")
            for number, image_id in enumerate(ids):
                apart = ours.read_image(number).astype(int) - theirs.read_image(image_id)
                rounding = resolution < 16 and level < resolution.bit_length() - 1
                assert np.abs(apart).max() <= int(rounding)


def test_impossible_official_record_files_are_one_line(tmp_path, rng, capsys):
    images = rng.integers(0, 256, (3, 5, 8, 8), dtype=np.uint8)
    options = f"--out={tmp_path / 'set'}", "--resolution=8", "--workers=1"
    folder = official(tmp_path / "maps", images)
    with pytest.raises(UserError, match="record of 5 channels; expected 3"):
        run("create_from_images", f"--source={folder}", *options)
    folder = official(tmp_path / "labels", images[:, :3], labels=np.zeros((2, 4)))
    with pytest.raises(UserError, match=r"expected finite numbers of shape \[3, n\]"):
        run("create_from_images", f"--source={folder}", *options)
    with pytest.raises(UserError, match="--labels: without effect: images in record files"):
        run("create_from_images", f"--source={folder}", "--labels=x.json", *options)
    (folder / "more-rxx.labels").touch()
    with pytest.raises(UserError, match="are labels of different data sets"):
        run("create_from_images", f"--source={folder}", *options)
    assert "enlarged" not in capsys.readouterr().out
    folder = official(tmp_path / "small", images[:, :3])
    run("create_from_images", f"--source={folder}", f"--out={tmp_path / 'large'}", "--dry-run",
        "--resolution=16")
    assert "enlarged to 16; --resolution=8 takes them as they are" in capsys.readouterr().out
    folder = official(tmp_path / "damaged", images[:, :3])
    damaged = folder / "tiny-r03.tfrecords"
    damaged.write_bytes(damaged.read_bytes()[:-30] + bytes(30))
    run("create_from_images", f"--source={folder}", *options)
    assert open_dataset(tmp_path / "set").splits["train"] == 2
    assert "wrong checksum" in capsys.readouterr().out


@pytest.mark.parametrize("command, options, message", [
    ("create_synthetic", ["--out={file}"], "--out=.*file is a file, not a folder"),
    ("create_synthetic", ["--out={file}/x"], "--out=.*file is a file, not a folder"),
    ("create_modanet", ["--annotations={folder}"], "--annotations=.*: is a folder, not a file"),
    ("create_from_pairs", ["--source={folder}", "--classes={folder}"], "--classes=.*is a folder")])
def test_files_given_as_folders_are_refused_first(tmp_path, command, options, message):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=message):
        run(command, *(option.format(file=tmp_path / "file", folder=tmp_path)
                       for option in options))


def test_unreadable_files_are_counted_by_several_processes_too(source, rng, monkeypatch):
    damage(source, rng)
    folder = photo_sources.PhotoFolder(source / "images")
    keys = sorted(path.name for path in folder.path.iterdir()) + ["nowhere.jpg"]
    monkeypatch.setattr(conversion, "_BATCH", 5)
    assert conversion.count_unreadable(folder, keys, 1) == 3
    monkeypatch.setattr(conversion, "_FEW", 3)
    assert conversion.count_unreadable(folder, keys, 2) == 3


def test_space_of_unfinished_files_counts_as_free(tmp_path, monkeypatch):
    """A run that fills the disk to the last tenth can still be continued."""
    (tmp_path / ".partial" / "train").mkdir(parents=True)
    (tmp_path / ".partial" / "train" / "train-r02.tfrecords").write_bytes(bytes(9000))
    monkeypatch.setattr(create.shutil, "disk_usage",
                        lambda _: type("Usage", (), {"free": 1000}))
    config = create_config(out=tmp_path)
    create._check_space(config, 90, 100, 0.1, print)
    with pytest.raises(UserError, match="the disk has only"):
        create._check_space(config, 110, 100, 0.1, print)


def test_everything_skipped_is_counted_and_listed(source, tmp_path, rng, capsys):
    content = json.loads(annotations_path(source).read_text())
    content["images"].append({"id": 99, "file_name": "x.jpg", "width": 4, "height": 4})
    content["images"].append({"id": 98, "file_name": "../../etc/passwd", "width": 4, "height": 4})
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 8]
    content["annotations"].append({"image_id": 9, "id": 77, "category_id": 3,
                                   "segmentation": [[1, 2, 3, 4, 5, float("nan")]]})
    content["annotations"].append({"image_id": 500, "id": 78, "category_id": 3,
                                   "segmentation": [[1, 2, 3, 4, 5, 6]]})
    save_annotations(source, content)
    (source / "images" / "0000010.jpg").write_bytes(photo_bytes(rng, 40, 60)[:200])
    create_modanet(source, tmp_path / "set", "--num-val", 0, "--num-test", 0)
    printed = capsys.readouterr().out
    assert "14 images listed, 3 empty, 11 annotated: 11 found, 0 missing" in printed
    assert "left out: 3 x no usable annotation" in printed
    assert "left out: 1 x polygon with a coordinate that is not finite" in printed
    assert "left out: 1 x not a readable image" in printed and "4 left out" in printed
    lines = read_jsonl(tmp_path / "set" / "skipped.jsonl")
    photos = {line["id"] for line in lines if "annotation" not in line}
    assert photos == {8, 10, 98, 99}
    assert {line["annotation"] for line in lines if "annotation" in line} == {77, 78}
    assert open_dataset(tmp_path / "set").splits["train"] == NUM - 2


def test_a_smaller_number_of_photos_is_a_seeded_choice(source, tmp_path):
    sets = []
    for seed in (0, 0, 1):
        out = tmp_path / str(len(sets))
        create_modanet(source, out, "--num-images", 5, "--seed", seed, "--num-val", 1)
        splits = json.loads((out / "dataset.json").read_text())["splits"]
        sets.append(sorted(itertools.chain(*splits.values())))
    assert len(sets[0]) == 5 and sets[0] == sets[1] != sets[2]


@pytest.mark.parametrize("num, sizes", [
    (52_346, (2000, 5000)), (52_254, (2000, 5000)), (50_000, (2000, 5000)), (49_999, (1910, 4776)),
    (799, (31, 76)), (10, (0, 1)), (1, (0, 0))])
def test_splits_have_modanets_sizes_or_proportions(num, sizes):
    assert create.default_splits(num) == sizes


def test_raw_encoding_is_the_official_format(source, tmp_path):
    create_modanet(source, tmp_path / "raw", "--encoding", "raw")
    create_modanet(source, tmp_path / "webp")
    for level in (2, 3, 4):
        name = f"train/train-r{level:02d}.tfrecords"
        raw, webp = (tfrecords.RecordFile(tmp_path / form / name) for form in ("raw", "webp"))
        assert b"\x0a\x04data" in raw.read(0) and b"\x0a\x04data" not in webp.read(0)
        for i in range(len(raw)):
            np.testing.assert_array_equal(raw.read_image(i), webp.read_image(i))


def test_any_folder_of_photos_becomes_an_rgb_data_set(source, tmp_path, capsys):
    assert run("create_from_images", "--source", source, "--out", tmp_path / "set",
               "--resolution", 8, "--workers", 1) == 0
    info = open_dataset(tmp_path / "set")
    assert info.num_channels == 3 and info.classes == ()
    assert info.splits == {"train": NUM, "val": 0, "test": 0}
    ids = json.loads((tmp_path / "set" / "dataset.json").read_text())["splits"]["train"]
    assert sorted(ids) == [f"images/{i:07d}.jpg" for i in range(7, 7 + NUM)]
    assert "--untagged=" in capsys.readouterr().out


def test_photos_alone_get_the_same_geometry(source, tmp_path):
    """With and without maps, a photo has the same pixels."""
    labelled = create.create_modanet(create_config(source=source, out=tmp_path / "a"), print)
    config = create_config(source=source / "images", out=tmp_path / "b")
    colours = create.create_from_images(config, print)
    first = tfrecords.RecordFile(tmp_path / "a/train/train-r04.tfrecords")
    second = tfrecords.RecordFile(tmp_path / "b/train/train-r04.tfrecords")
    for i, image_id in enumerate(labelled["splits"]["train"]):
        j = colours["splits"]["train"].index(f"{image_id:07d}.jpg")
        np.testing.assert_array_equal(first.read_image(i)[:3], second.read_image(j))


def test_no_photos_at_all_is_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: there is no photo to convert"):
        run("create_from_images", "--source", tmp_path / "empty", "--out", tmp_path / "set")


def test_a_disk_that_is_too_small_is_noticed_first(source, tmp_path, monkeypatch):
    monkeypatch.setattr(create.shutil, "disk_usage",
                        lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match=r"only 0\.00 GB left"):
        create_modanet(source, tmp_path / "set")
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("arguments, status, message", [
    (["create_modanet", "--resolution", "48"], 2, "power of two"),
    (["create_modanet", "--num-val", "-1"], 2, "0 or more"),
    (["create_modanet", "--workers", "0"], 2, "1 or more"),
    (["create_modanet", "--fit", "stretch"], 2, "pad"),
    (["create_modanet", "--colour", "red"], 2, "--colour"),
    (["info", "nowhere"], 2, "does not exist"),
    (["display", "nowhere"], 2, "does not exist"),
    (["create_from_images", "--source", "nowhere"], 2, "no such folder"),
    (["create_modanet", "--help"], 0, "(default: 512)"),
    (["--help"], 0, "create_synthetic"),
    ([], 2, "COMMAND")])
def test_mistakes_are_one_line_and_status_2(arguments, status, message, tmp_path, monkeypatch,
                                            capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dataset_tool.py", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.run_main(dataset_tool.main)
    printed = capsys.readouterr()
    assert left.value.code == status and message in printed.out + printed.err
    assert "Traceback" not in printed.err
    assert not list(tmp_path.iterdir())


def test_the_script_itself(source, tmp_path):
    """Broken JSON, from the shell: one line and status 2; with --debug the traceback too."""
    annotations_path(source).write_text("{")
    command = [sys.executable, REPOSITORY / "dataset_tool.py", "create_modanet", "--source", source]
    for extra, lines in (([], 1), (["--debug"], 3)):
        done = subprocess.run([*command, *extra], cwd=tmp_path, capture_output=True, text=True,
                              check=False)
        assert done.returncode == 2 and "not valid JSON" in done.stderr
        assert min(len(done.stderr.splitlines()), 3) == lines


def test_the_tool_loads_no_tensorflow():
    """Workers import what the tool imports: TensorFlow would take half a gigabyte in each."""
    code = "import sys, dataset_tool; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0


class Downloads:
    """A stand-in for the network: content by file name, and the names requested."""

    def __init__(self, contents):
        self.contents, self.asked = contents, []

    def __call__(self, url, path, **expected):
        self.asked.append((url, expected))
        if path.name not in self.contents:
            raise UserError(f"{url}: HTTP 404 Not Found")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.contents[path.name])


@pytest.fixture
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / raw_files.DEFAULT_SOURCE


def test_without_arguments_annotations_are_fetched_and_photos_requested(in_empty_folder,
                                                                        monkeypatch):
    network = Downloads(dict.fromkeys(raw_files.PUBLISHED, b'{"images": [], "annotations": []}'))
    monkeypatch.setattr(raw_files, "download", network)
    with pytest.raises(UserError, match=r"photos\.lmdb\.tar .*unpack it to "
                                        r"datasets/modanet/raw/photos\.lmdb") as error:
        run("create_modanet")
    assert "modanet2018_instances_train.json" not in str(error.value)
    assert [expected for _, expected in network.asked] == list(raw_files.PUBLISHED.values())
    assert all(url.startswith("https://github.com/eBay/modanet/") for url, _ in network.asked)
    with pytest.raises(UserError):
        run("create_modanet")
    assert len(network.asked) == 2, "what is there is not fetched again"


def test_failed_downloads_name_the_path(in_empty_folder, monkeypatch):
    monkeypatch.setattr(raw_files, "download", Downloads({}))
    with pytest.raises(UserError) as error:
        run("create_modanet")
    for part in ("HTTP 404", "put it at datasets/modanet/raw/annotations/modanet2018_instances_",
                 "photos.lmdb.tar", "datasets/modanet/raw/images"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_given_paths_need_no_source(source, tmp_path, in_empty_folder):
    assert run("create_modanet", "--annotations", annotations_path(source), "--images",
               source / "images", "--out", tmp_path / "set", "--resolution", 8, "--workers", 1) == 0


def test_photos_in_an_lmdb_give_the_same_records(source, tmp_path):
    """PaperDoll's form, below --source, read by two processes."""
    create_modanet(source, tmp_path / "folder" / "set")
    with lmdb.open(str(source / "photos.lmdb"), map_size=1 << 22) as env, \
            env.begin(write=True) as transaction:
        for path in (source / "images").iterdir():
            transaction.put(str(int(path.stem)).encode(), path.read_bytes())
    (source / "images").rename(source / "elsewhere")
    create_modanet(source, tmp_path / "lmdb" / "set", "--workers", 2)
    assert folder_bytes(tmp_path / "lmdb") == folder_bytes(tmp_path / "folder")


@pytest.mark.parametrize("command, places", [
    ("create_modanet", ["--annotations=a", "--images=b"]),
    ("create_from_coco", ["--annotations=a", "--images=b"]),
    ("create_from_masks", ["--images=a", "--masks=b", "--classes=c"])])
def test_an_unused_source_is_refused(command, places):
    with pytest.raises(UserError, match=r"^--source: without effect: .* name all that is read"):
        run(command, "--source=elsewhere", *places)
