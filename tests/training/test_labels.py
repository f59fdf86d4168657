"""Conditioning labels from a JSON file through the data set to the minibatches."""

import itertools
import json
import os
import sys

import numpy as np
import pytest

import dataset_tool
from dataprep import dataset_report
from dataprep.labels import missing_classes, read_label_file
from dnnlib import cli
from dnnlib.data import dataset, tfrecords
from dnnlib.data.dataset import open_dataset, read_labels
from dnnlib.util import UserError
from tests.tools.data_helpers import folder_bytes, make_dataset, photo_bytes, random_image
from training.dataset import TrainingStream, permutation
from training.run.config_checks import check_reals

NAMES = ["a.png", "b.png", "sub/c.png"]
CLASSES = [["sub/c.png", 2], ["a.png", 0], ["b.png", 4]]
NUMBERS = [["b.png", [0.5, -1]], ["a.png", [1, 2]], ["sub/c.png", [0, 1e-3]]]
NUM = 12


def label_file(path, labels):
    """Write a JSON file as StyleGAN's successors do; NaN and the like as Python writes them."""
    path.write_text(json.dumps({"labels": labels}))
    return path


def test_whole_numbers_become_one_hot_in_the_order_of_the_photos(tmp_path):
    table = read_label_file(label_file(tmp_path / "x.json", CLASSES), NAMES)
    assert table.dtype == np.float32
    assert table.tolist() == [[1, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 1, 0, 0]]


def test_lists_of_numbers_are_unchanged(tmp_path):
    table = read_label_file(label_file(tmp_path / "x.json", NUMBERS), NAMES)
    np.testing.assert_array_equal(table, np.float32([[1, 2], [0.5, -1], [0, 1e-3]]))


@pytest.mark.parametrize("labels, message", [
    (CLASSES + [["d.png", 1], ["e.png", 1]], "d.png, e.png not among the photos"),
    (CLASSES[:2], "no label for b.png"),
    (CLASSES + [["a.png", 1]], "a.png more than once"),
    (CLASSES[:2] + [NUMBERS[0]], "a.png has a class for a label, b.png has 2 numbers"),
    (NUMBERS[:2] + [["sub/c.png", [1, 2, 3]]], "a.png has 2 numbers for a label, sub/c.png has 3"),
    (CLASSES[:2] + [["b.png", -1]], "the label of b.png is -1; expected a whole number, 0 or more"),
    (CLASSES[:2] + [["b.png", 1.0]], "the label of b.png is 1.0"),
    (CLASSES[:2] + [["b.png", True]], "the label of b.png is True"),
    (CLASSES[:2] + [["b.png", "1"]], "the label of b.png is 1;"),
    (CLASSES[:2] + [["b.png", None]], "the label of b.png is None"),
    (CLASSES[:2] + [["b.png", 10**9]], "class 1000000000; expected numbers below 65536"),
    (NUMBERS[1:] + [["b.png", [0, float("nan")]]], r"the label of b.png is \[0, nan\]"),
    (NUMBERS[1:] + [["b.png", [0, float("inf")]]], r"the label of b.png is \[0, inf\]"),
    (NUMBERS[1:] + [["b.png", [0, 1e39]]], r"the label of b.png is \[0, 1e\+39\]"),
    (NUMBERS[1:] + [["b.png", []]], r"the label of b.png is \[\]"),
    (NUMBERS[1:] + [["b.png", [0, "1"]]], "the label of b.png"),
    ([["a.png"]], r"expected pairs such as \[\"file.png\", 3\]"), ([["a.png", 1, 2]], "pairs"),
    ([[1, 2]], "pairs"), (["ab"], "pairs"), ([], "expected {"), (None, "expected {"),
    ({"a.png": 1}, "expected {")])
def test_impossible_labels_are_one_line(tmp_path, labels, message):
    path = label_file(tmp_path / "x.json", labels)
    with pytest.raises(UserError, match=message) as error:
        read_label_file(path, NAMES)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


@pytest.mark.parametrize("content, message", [
    ("{", "not valid JSON"), ("[]", "expected {"), ("{}", "expected {")])
def test_other_files_are_one_line(tmp_path, content, message):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_label_file(tmp_path / "x.json", NAMES)


def test_many_wrong_names_are_counted(tmp_path):
    path = label_file(tmp_path / "x.json", [[f"{i:02d}.png", 1] for i in range(20)])
    with pytest.raises(UserError, match=r"00.png, 01.png, 02.png and 17 more not among"):
        read_label_file(path, NAMES)


@pytest.mark.parametrize("written", ["./{}", ".\\{}", "././{}", "x/../{}"])
def test_names_as_other_programs_write_them_are_read(tmp_path, written):
    """With backslashes, and with a byte order mark at the beginning."""
    labels = [[written.format(name).replace("/", "\\"), label] for name, label in CLASSES]
    path = label_file(tmp_path / "x.json", labels)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    plain = label_file(tmp_path / "y.json", CLASSES)
    np.testing.assert_array_equal(read_label_file(path, NAMES), read_label_file(plain, NAMES))


def test_a_backslash_in_a_photos_own_name_is_kept(tmp_path):
    path = label_file(tmp_path / "x.json", [["a\\b.png", 1], ["a/b.png", 0]])
    assert read_label_file(path, ["a/b.png", "a\\b.png"]).tolist() == [[1, 0], [0, 1]]
    path = label_file(tmp_path / "x.json", [["a.png", 1], ["./a.png", 0]])
    with pytest.raises(UserError, match=r"a\.png more than once"):
        read_label_file(path, ["a.png"])
    path = label_file(tmp_path / "x.json", [["a.png", 1], ["d\\e.png", 0]])
    with pytest.raises(UserError, match=r"d\\e.png not among the photos"):
        read_label_file(path, ["a.png"])


@pytest.mark.parametrize("table, missing", [
    ([[0, 1, 0], [0, 0, 1]], [0]), ([[0, 1, 0, 0, 0]], [0, 2, 3, 4]), (np.eye(3), []),
    ([[0, 0.5], [0, 1]], []), ([[0, 0], [0, 1]], []), ([[0, 1, 1]], [])])
def test_classes_without_images_are_listed_for_class_labels_only(table, missing):
    assert missing_classes(np.float32(table)) == missing


# Data sets

@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Make a folder of photos, one of which cannot be read."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(3)
    for i in range(NUM):
        content = photo_bytes(rng, 16, 16, "PNG")
        (folder / f"{i:02d}.png").write_bytes(content if i != 5 else content[:60])
    return folder


def create(photos, out, labels=None, *options):
    """Make a data set whose photo i has the label i % 3 (or the one in `labels`)."""
    labels = labels or [[f"{i:02d}.png", i % 3] for i in range(NUM)]
    out.parent.mkdir(exist_ok=True)
    path = label_file(out.parent / f"{out.name}.json", labels)
    return dataset_tool.main(["create_from_images", f"--source={photos}", f"--out={out}",
                              f"--labels={path}", "--resolution=8", "--workers=1",
                              "--num-val=3", "--num-test=2", *options])


@pytest.fixture(scope="module")
def labelled(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("sets") / "labelled"
    assert create(photos, out) == 0
    return out


def test_labels_are_beside_the_records_and_in_their_order(labelled):
    info = open_dataset(labelled)
    assert info.label_size == 3 and sum(info.splits.values()) == NUM - 1
    splits = json.loads((labelled / "dataset.json").read_text())["splits"]
    for split, ids in splits.items():
        labels = np.load(labelled / split / f"{split}-rxx.labels", allow_pickle=False)
        assert labels.dtype == np.float32 and labels.shape == (len(ids), 3)
        assert labels.argmax(1).tolist() == [int(name[:2]) % 3 for name in ids]
        np.testing.assert_array_equal(labels, read_labels(labelled, split))
    assert "05.png" not in itertools.chain(*splits.values()), "left out, and its label with it"


def test_a_selection_of_photos_keeps_labels_and_label_size(photos, tmp_path):
    """The largest class decides the size, even if its photo is not selected."""
    labels = [[f"{i:02d}.png", 9 if i == 11 else i % 2] for i in range(NUM)]
    create(photos, tmp_path / "part", labels, "--num-images=8", "--seed=1")
    splits = json.loads((tmp_path / "part" / "dataset.json").read_text())["splits"]
    assert "11.png" not in itertools.chain(*splits.values())
    for split, ids in splits.items():
        table = read_labels(tmp_path / "part", split)
        assert table.shape[1] == 10
        assert table.argmax(1).tolist() == [int(name[:2]) % 2 for name in ids]


def test_the_digest_covers_pixels_and_labels(photos, labelled, tmp_path):
    swapped = [[f"{i:02d}.png", (i + 1) % 3] for i in range(NUM)]
    create(photos, tmp_path / "swapped", swapped)
    create(photos, tmp_path / "two" / "labelled")
    dataset_tool.main(["create_from_images", f"--source={photos}", f"--out={tmp_path / 'none'}",
                       "--resolution=8", "--workers=1", "--num-val=3", "--num-test=2"])
    digests = [open_dataset(path).digest
               for path in (labelled, tmp_path / "swapped", tmp_path / "none")]
    assert len(set(digests)) == 3
    again = folder_bytes(tmp_path / "two" / "labelled")
    assert again == folder_bytes(labelled), "in every byte the same"
    assert not list((tmp_path / "none").rglob("*.labels"))


def test_other_labels_are_another_data_set(photos, labelled, tmp_path, capsys):
    assert create(photos, labelled) == 0
    assert "finished; nothing to do" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"made in another way .*labels is"):
        create(photos, labelled, [[f"{i:02d}.png", 0] for i in range(NUM)])
    with pytest.raises(UserError, match=r"labels is .*not None"):
        dataset_tool.main(["create_from_images", f"--source={photos}", f"--out={labelled}",
                           "--resolution=8", "--num-val=3", "--num-test=2"])


def test_an_interrupted_split_is_written_again(photos, tmp_path, monkeypatch):
    def interrupted(path, rows, label_size):
        raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dataset, "write_labels", interrupted)
        create(photos, tmp_path / "set")
    assert not (tmp_path / "set" / "train").exists()
    create(photos, tmp_path / "set")
    assert read_labels(tmp_path / "set", "val").shape == (3, 3)


def test_info_counts_the_images_of_each_label(photos, labelled, tmp_path, capsys):
    dataset_tool.main(["info", str(labelled)])
    printed = capsys.readouterr().out
    assert "label_size 3" in printed and "train images" in printed
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line}
    for k in range(3):
        assert rows[str(k)] == [str(int(read_labels(labelled, split)[:, k].sum()))
                                for split in ("train", "val", "test")]
    lines = list(dataset_report.label_lines({"train": np.float32([[0.5, 1], [0.25, 1]])}))
    assert "train mean" in lines[0] and [line.split() for line in lines[1:]] == [
        ["0", "0.375"], ["1", "1"]]
    many = list(dataset_report.label_lines({"train": np.eye(100, dtype=np.float32)}))
    assert many[-1] == "and 68 more" and len(many) == 34


def test_wrong_labels_are_one_line_and_nothing_is_made(photos, tmp_path, monkeypatch, capsys):
    path = label_file(tmp_path / "x.json", [["00.png", 1]])
    monkeypatch.setattr(sys, "argv", [
        "dataset_tool.py", "create_from_images", f"--source={photos}", f"--labels={path}",
        f"--out={tmp_path / 'set'}"])
    with pytest.raises(SystemExit) as left:
        cli.run_main(dataset_tool.main)
    error = capsys.readouterr().err
    assert left.value.code == 2 and error.count("\n") == 1
    assert "no label for 01.png, 02.png, 03.png and 8 more" in error
    assert not (tmp_path / "set").exists()


def test_labels_that_are_all_zero_get_a_warning(photos, tmp_path, capsys):
    create(photos, tmp_path / "set", [[f"{i:02d}.png", [i // 10, 0]] for i in range(NUM)])
    assert "warning: 10 labels of zeros only" in capsys.readouterr().out
    create(photos, tmp_path / "set2")
    assert "labels of zeros" not in capsys.readouterr().out


def test_classes_without_images_get_a_warning(photos, tmp_path, capsys):
    create(photos, tmp_path / "set", [[f"{i:02d}.png", 1 + i % 2 * 9] for i in range(NUM)])
    printed = capsys.readouterr().out
    assert "no image has class 0, 2, 3, 4, 5 ... (of 11 classes, counted from 0)" in printed
    create(photos, tmp_path / "set2")
    assert "no image has class" not in capsys.readouterr().out


@pytest.mark.parametrize("content, said", [
    ('{"labels": [["00.png", 0]]}', True), ('{"labels": null}', False), ("{", False), ("[]", False),
    ('{"complete": true}', False)])
def test_unused_labels_are_mentioned(tmp_path, rng, capsys, content, said):
    folder = tmp_path / "my photos"
    folder.mkdir()
    (folder / "00.png").write_bytes(photo_bytes(rng, 16, 16, "PNG"))
    (folder / "dataset.json").write_text(content)
    arguments = ["create_from_images", f"--source={folder}", "--resolution=8", "--workers=1"]
    assert dataset_tool.main([*arguments, f"--out={tmp_path / 'a'}"]) == 0
    printed = capsys.readouterr().out
    assert (f"are not used; to use them, give '--labels={folder}/dataset.json'" in printed) == said
    if said:
        labels = f"--labels={folder}/dataset.json"
        assert dataset_tool.main([*arguments, labels, f"--out={tmp_path / 'b'}"]) == 0
        assert "left out: " not in capsys.readouterr().out, "it is used"
        assert open_dataset(tmp_path / "b").label_size == 1


# Reading

def test_a_stream_gives_every_image_its_label(labelled):
    stream = TrainingStream([labelled], resolution=8, num_channels=3, minibatch=4, seed=1)
    file = tfrecords.RecordFile(labelled / "train" / "train-r03.tfrecords")
    table, n = read_labels(labelled, "train"), len(file)
    np.testing.assert_array_equal(stream.labels, table)
    k = 0
    for images, labels in itertools.islice(iter(stream), 5):
        assert labels.dtype == np.float32 and labels.shape == (4, 3)
        for image, label in zip(images.numpy(), labels.numpy()):
            number = permutation(1, k // n, n)[k % n]
            np.testing.assert_array_equal(image, file.read_image(number).transpose(1, 2, 0))
            np.testing.assert_array_equal(label, table[number])
            k += 1


def test_labels_of_several_directories_follow_their_images(tmp_path, rng):
    parts = []
    for i, num in enumerate((3, 5)):
        images = np.stack([random_image(rng, 3, 8) for _ in range(num)])
        labels = rng.standard_normal((num, 2)).astype(np.float32)
        parts.append((images, labels, make_dataset(
            tmp_path / str(i), {"train": images}, (), labels={"train": labels})))
    stream = TrainingStream([part[2] for part in parts], resolution=8, num_channels=3,
                            minibatch=8, seed=2)
    images, labels = next(iter(stream))
    everything = {image.transpose(1, 2, 0).tobytes(): label for part in parts
                  for image, label in zip(part[0], part[1])}
    for image, label in zip(images.numpy(), labels.numpy()):
        np.testing.assert_array_equal(everything.pop(image.tobytes()), label)
    np.testing.assert_array_equal(stream.labels, np.concatenate([part[1] for part in parts]))


def test_unlabelled_data_have_labels_of_no_columns(tmp_path, rng):
    data = make_dataset(tmp_path / "a", {"train": random_image(rng, 3, 8)[None]}, ())
    assert open_dataset(data).label_size == 0
    assert read_labels(data, "train").shape == (1, 0)
    stream = TrainingStream([data], resolution=8, num_channels=3, minibatch=2, seed=0)
    assert next(iter(stream))[1].shape == (2, 0)


def test_labelled_and_unlabelled_photos_do_not_mix(labelled, tmp_path, rng, tiny_config):
    plain = make_dataset(tmp_path / "plain", {"train": random_image(rng, 3, 8)[None]}, ())
    with pytest.raises(UserError, match="plain have labels of 3 and 0 numbers"):
        TrainingStream([labelled, plain], resolution=8, num_channels=3, minibatch=2, seed=0)
    config = tiny_config(variant="rgb", resolution=8, data=str(labelled), untagged=str(plain))
    with pytest.raises(UserError, match="labels of 3 and 0 numbers"):
        check_reals(config, open_dataset(labelled))


def test_official_files_are_read_like_the_official_reader(shared, tmp_path):
    """Files written by the official dataset tool; labels in the order of the records."""
    official = shared / "reference" / "tfrecords_c3_32" / "tiny"
    (tmp_path / "train").mkdir()
    for path in official.iterdir():
        name = path.name.replace("tiny", "train")
        (tmp_path / "train" / name).write_bytes(path.read_bytes())
    (tmp_path / "dataset.json").write_text(json.dumps({
        "format_version": 1, "complete": True, "name": "tiny", "resolution": 32,
        "num_channels": 3, "classes": [], "splits": {"train": [0, 1, 2]}, "digest": "0" * 64,
        "label_size": 4}))
    reader = np.load(shared / "reference" / "tfrecords_reader.npz")
    for lod in range(4):
        stream = TrainingStream([tmp_path], resolution=32 >> lod, num_channels=3, minibatch=3,
                                seed=0)
        images, labels = (part.numpy() for part in next(iter(stream)))
        order = permutation(0, 0, 3)
        np.testing.assert_array_equal(labels, reader[f"labels_lod{lod}"][order])
        np.testing.assert_array_equal(images.transpose(0, 3, 1, 2),
                                      reader[f"images_lod{lod}"][order])
    dataset.write_labels(tmp_path / "ours.labels", list(reader["labels_lod0"]), 4)
    assert (tmp_path / "ours.labels").read_bytes() == (official / "tiny-rxx.labels").read_bytes()


@pytest.mark.parametrize("damage, message", [
    ("missing", "no such file, though"), ("torn", "not a file of labels"),
    ("empty", "not a file of labels"),
    ("short", r"expected .*shape \[4, 3\], found shape \[3, 3\]"),
    ("narrow", r"found shape \[4, 2\]"), ("nan", "expected finite numbers"),
    ("objects", "not a file of labels"), ("text", "not a file of labels")])
def test_a_damaged_file_of_labels_is_one_line(tmp_path, rng, damage, message):
    labels = rng.standard_normal((4, 3)).astype(np.float32)
    images = np.stack([random_image(rng, 3, 8) for _ in range(4)])
    data = make_dataset(tmp_path / "set", {"train": images}, (), labels={"train": labels})
    path = data / "train" / "train-rxx.labels"
    wrong = {"short": labels[:3], "narrow": labels[:, :2], "nan": labels * np.float32("nan"),
             "objects": np.array([[{}] * 3] * 4), "text": np.array([["a"] * 3] * 4)}
    if damage in wrong:
        with open(path, "wb") as file:
            np.save(file, wrong[damage], allow_pickle=True)
    elif damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:130 if damage == "torn" else 0])
    with pytest.raises(UserError, match=message) as error:
        read_labels(data, "train")
    assert str(path) in str(error.value) and "\n" not in str(error.value)


class Hostile:
    """Makes a folder when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_file_of_labels_is_executed(tmp_path, rng):
    data = make_dataset(tmp_path / "set", {"train": random_image(rng, 3, 8)[None]}, (),
                        labels={"train": np.zeros([1, 1])})
    with open(data / "train" / "train-rxx.labels", "wb") as file:
        np.save(file, np.array([[Hostile(tmp_path / "made")]]), allow_pickle=True)
    with pytest.raises(UserError, match="not a file of labels"):
        read_labels(data, "train")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("value", [-1, "3", 1.5, None, True])
def test_an_impossible_label_size_is_one_line(tmp_path, rng, value):
    data = make_dataset(tmp_path / "set", {"train": random_image(rng, 3, 8)[None]}, ())
    content = json.loads((data / "dataset.json").read_text())
    (data / "dataset.json").write_text(json.dumps({**content, "label_size": value}))
    with pytest.raises(UserError, match=r"dataset\.json"):
        open_dataset(data)
