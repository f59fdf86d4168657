"""--verify finds every kind of damage."""

import json
import shutil

import numpy as np
import pytest

import dataset_tool
from dataprep import create, verify
from dnnlib.data import tfrecords
from dnnlib.util import UserError
from tests.tools.data_helpers import create_config, make_source

NUM = 22


def run(*arguments):
    """Return the exit status of the tool."""
    return dataset_tool.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Make two data sets of 8x8: one with class maps, and one with labels."""
    root = tmp_path_factory.mktemp("sets")
    source = make_source(root / "source", NUM)
    (source / "images" / "0000009.jpg").write_bytes(b"none")
    create.create_modanet(create_config(source=source, out=root / "maps", resolution=8, num_val=4,
                                        num_test=3), print)
    names = sorted(path.name for path in (source / "images").iterdir())
    table = {"labels": [[name, [i / 8, 1.0]] for i, name in enumerate(names)]}
    (root / "labels.json").write_text(json.dumps(table))
    create.create_from_images(create_config(
        command="create_from_images", source=source / "images", out=root / "labelled",
        resolution=8, num_val=2, labels=root / "labels.json"), print)
    return root


@pytest.fixture
def maps(originals, tmp_path):
    return shutil.copytree(originals / "maps", tmp_path / "maps")


@pytest.fixture
def labelled(originals, tmp_path):
    return shutil.copytree(originals / "labelled", tmp_path / "labelled")


def edit_json(folder, change):
    """Let `change` alter the content of dataset.json."""
    content = json.loads((folder / "dataset.json").read_text())
    change(content)
    (folder / "dataset.json").write_text(json.dumps(content))


def records(path):
    """Return the framed records of a file."""
    data, records = path.read_bytes(), tfrecords.RecordFile(path)
    offsets, lengths = records._offsets, records._lengths
    return [data[start - 12:start + length + 4] for start, length in zip(offsets, lengths)]


def test_complete_data_sets_have_no_defects(originals, capsys):
    for name in ("maps", "labelled"):
        assert run("info", originals / name, "--verify") == 0
        assert "every record is whole" in capsys.readouterr().out


def test_the_result_does_not_depend_on_the_workers(maps, monkeypatch):
    monkeypatch.setattr(verify, "_BATCH", 3)
    assert verify.find_defects(maps, workers=1) == []
    swap(maps, 3)
    defects = verify.find_defects(maps, workers=1)
    assert len(defects) == 3 and verify.find_defects(maps, workers=2) == defects


def flip(folder):
    path = folder / "train" / "train-r02.tfrecords"
    data = bytearray(path.read_bytes())
    data[int(tfrecords.RecordFile(path)._offsets[5]) + 3] ^= 4
    path.write_bytes(data)


def cut(folder):
    path = folder / "val" / "val-r03.tfrecords"
    path.write_bytes(path.read_bytes()[:-7])


def swap(folder, level):
    path = folder / "train" / f"train-r{level:02d}.tfrecords"
    framed = records(path)
    framed[1], framed[9] = framed[9], framed[1]
    path.write_bytes(b"".join(framed))


def drop_record(folder):
    path = folder / "train" / "train-r03.tfrecords"
    path.write_bytes(b"".join(records(path)[:-1]))


def other_pixels(folder):
    """Replace a record by a valid one of another image."""
    path = folder / "test" / "test-r02.tfrecords"
    framed = records(path)
    image = tfrecords.decode_record(framed[0][12:-4]).copy()
    image[0, 0, 0] ^= 255
    path.write_bytes(b"".join([tfrecords.frame(tfrecords.encode_record(image, "webp")),
                               *framed[1:]]))


def larger(folder):
    shutil.copy(folder / "train" / "train-r03.tfrecords", folder / "train" / "train-r02.tfrecords")


@pytest.mark.parametrize("damage, told", [
    (flip, ["train-r02.tfrecords: record 5 is damaged (wrong checksum)"]),
    (cut, ["val-r03.tfrecords: damaged or cut short in record 3"]),
    (lambda folder: swap(folder, 3), ["record 1 is not the image of the largest level",
                                      "record 9 is not", "the digest of pixels, order"]),
    (lambda folder: swap(folder, 2), ["r02.tfrecords: record 1 is not the image",
                                      "r02.tfrecords: record 9 is not the image"]),
    (drop_record, ["train-r03.tfrecords: 13 records, dataset.json says 14"]),
    (other_pixels, ["test-r02.tfrecords: record 0 is not the image of the largest level"]),
    (larger, ["record 0 has shape (16, 8, 8), not (16, 4, 4)"]),
    (lambda folder: (folder / "train" / "train-r02.tfrecords").unlink(),
     ["train/train-r02.tfrecords: no such file"]),
    (lambda folder: shutil.copy(folder / "val" / "val-r02.tfrecords",
                                folder / "val" / "val-r05.tfrecords"),
     ["val/val-r05.tfrecords: no part of the data set"]),
    (lambda folder: (folder / "skipped.jsonl").write_text(""),
     ["skipped.jsonl: 0 photos, dataset.json says 1"]),
    (lambda folder: (folder / "skipped.jsonl").write_text('{"id": 9, "reas'),
     ["skipped.jsonl: damaged"]),
    (lambda folder: (folder / "skipped.jsonl").write_text('{"id": 8, "reason": "no"}\n'),
     ["skipped.jsonl: 8 is written as well"]),
    (lambda folder: (folder / "skipped.jsonl").unlink(), ["skipped.jsonl: no such file"])])
def test_damaged_files_are_found(maps, damage, told, capsys):
    damage(maps)
    assert run("info", maps, "--verify") == 2
    printed = capsys.readouterr().out
    for line in told:
        assert line in printed
    assert " defects; make or copy this data set again" in printed


def wrong_class(content):
    content["class_counts"]["train"]["belt"]["images"] += 1


def wrong_area(content):
    content["class_counts"]["val"]["bag"]["pixels"] += 1e-8


def one_less(content):
    content["splits"]["train"].pop()


def exchanged(content):
    train = content["splits"]["train"]
    train[0], train[1] = train[1], train[0]


def moved(content):
    content["splits"]["val"].append(content["splits"]["train"].pop())


def twice(content):
    content["splits"]["train"][0] = content["splits"]["train"][1]


@pytest.mark.parametrize("change, told", [
    (wrong_class, ["belt in train is {'images':"]),
    (wrong_area, ["bag in val is {"]),
    (one_less, ["train-r02.tfrecords: 14 records, dataset.json says 13"]),
    (exchanged, ["the digest of pixels, order and labels"]),
    (moved, ["14 records, dataset.json says 13", "val-r03.tfrecords: 4 records, dataset.json sa"]),
    (twice, ["is listed 2 times", "the digest"]),
    (lambda content: content.update(digest="0" * 64), ["the digest"]),
    (lambda content: content.update(skipped=2), ["skipped.jsonl: 1 photos, dataset.json says 2"]),
    (lambda content: content.update(resolution=16), ["train/train-r04.tfrecords: no such file"])])
def test_wrong_entries_of_dataset_json_are_found(maps, change, told, capsys):
    edit_json(maps, change)
    assert run("info", maps, "--verify") == 2
    printed = capsys.readouterr().out
    for line in told:
        assert line in printed
    assert "np." not in printed


@pytest.mark.parametrize("changes", [
    {"splits": {"train": [{}]}}, {"splits": {"train": 3}}, {"class_counts": []}, {"options": 3},
    {"class_counts": {"train": {"bag": 3}}}, {"resolution": 8.0}, {"classes": [1] * 13},
    {"class_counts": {"train": {"bag": {"images": "3", "pixels": 0}}}}, {"name": None},
    {"num_channels": 3}, {"num_channels": 258, "classes": [f"c{i}" for i in range(255)]}])
@pytest.mark.parametrize("option", [[], ["--verify"]])
def test_dataset_json_entries_of_another_type_are_one_line(maps, changes, option):
    edit_json(maps, lambda content: content.update(changes))
    with pytest.raises(UserError, match=r"dataset\.json: incomplete"):
        run("info", maps, *option)


@pytest.mark.parametrize("part", ["photos", "together"])
def test_wrong_statistics_are_found(maps, part, capsys):
    path = maps / "statistics.json"
    content = json.loads(path.read_text())
    content[part] = {"photos": 19, "together": content["together"][::-1]}[part]
    path.write_text(json.dumps(content))
    assert run("info", maps, "--verify") == 2
    assert f"statistics.json: '{part}' is not that of the records" in capsys.readouterr().out
    path.write_text("[]")
    assert run("info", maps, "--verify") == 2
    path.unlink()
    assert run("info", maps, "--verify") == 0


def test_a_name_with_a_line_separator_is_not_damage(maps):
    path = maps / "skipped.jsonl"
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    lines[0]["reason"] += " \u2028 a line separator"
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines),
                    encoding="utf-8")
    assert run("info", maps, "--verify") == 0


def test_wrong_labels_are_found(labelled, capsys):
    path = labelled / "train" / "train-rxx.labels"
    table = np.load(path)
    for damaged, told in ((table[::-1], "the digest of pixels, order and labels"),
                          (table[1:], "expected finite numbers of shape"),
                          (table + np.inf, "expected finite numbers of shape")):
        with open(path, "wb") as file:
            np.save(file, damaged)
        assert told in "".join(verify.find_defects(labelled, workers=1))
    path.unlink()
    assert run("info", labelled, "--verify") == 2
    assert "no such file" in capsys.readouterr().out


def test_unexpected_label_files_are_found(labelled, capsys):
    edit_json(labelled, lambda content: content.update(label_size=0))
    assert run("info", labelled, "--verify") == 2
    assert "train-rxx.labels: no part of the data set" in capsys.readouterr().out


def test_only_the_first_defects_are_shown(maps, capsys):
    larger(maps)
    assert run("info", maps, "--verify") == 2
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12 and lines[10] == "and 4 more" and "14 defects" in lines[11]
