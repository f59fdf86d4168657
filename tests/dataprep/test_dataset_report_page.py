"""report.html and its statistics, counted again from the pictures."""

import json
import os
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image

import dataset_tool
from dataprep import dataset_report, writer
from dnnlib.charts import bar_chart
from dnnlib.data import photos, tfrecords
from dnnlib.util import UserError
from tests.dataprep.test_masks import make_masked
from tests.tools.data_helpers import (
    FOUR,
    annotations_path,
    folder_bytes,
    make_dataset,
    make_source,
    photo_bytes,
    random_image,
    read_jsonl,
    save_annotations,
)
from tests.tools.page_reader import PageReader

NUM = 14


def run(*arguments):
    """Run the tool in this process."""
    return dataset_tool.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module", autouse=True)
def bars():
    """Draw the bars that conftest.py leaves out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset_report, "bar_chart", bar_chart)
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Make photos of two sizes with rectangles; one photo is missing."""
    path = make_source(tmp_path_factory.mktemp("page") / "source", NUM)
    content = json.loads(annotations_path(path).read_text())
    for entry in content["images"][:4]:
        entry.update(width=80, height=120)
        data = photo_bytes(np.random.default_rng(9), 80, 120)
        (path / "images" / entry["file_name"]).write_bytes(data)
    (path / "images" / "0000009.jpg").unlink()
    save_annotations(path, content)
    return path


@pytest.fixture(scope="module")
def data(source):
    out = source.parent / "set"
    run("create_modanet", "--source", source, "--out", out, "--resolution", 32, "--workers", 1)
    return out


def masks_of(source):
    """Return {image id: [bool mask of each instance]} of the existing photos, by slicing."""
    content = json.loads(annotations_path(source).read_text())
    sizes = {entry["id"]: (entry["height"], entry["width"]) for entry in content["images"]}
    masks = {image_id: [] for image_id in sizes if image_id != 9}
    for annotation in content["annotations"]:
        if annotation["image_id"] == 9:
            continue
        x, y, w, h = annotation["bbox"]
        mask = np.zeros(sizes[annotation["image_id"]], bool)
        mask[y:y + h, x:x + w] = True
        masks[annotation["image_id"]].append(mask)
    return masks


def test_overlaps_are_counted_between_instances(source, data):
    shares = []
    for masks in masks_of(source).values():
        depth = np.sum(masks, axis=0)
        shares.append(np.maximum(depth - 1, 0).sum() / depth.sum())
    found = dataset_report.read_statistics(data, json.loads(
        (data / "dataset.json").read_text())["classes"])["overlap"]
    assert 0 < found["photos"] < NUM - 1 and found["photos"] == sum(s > 0 for s in shares)
    np.testing.assert_allclose(found["mean"], np.mean(shares), atol=1e-7)


def test_classes_that_occur_together_and_sizes_are_counted(source, data):
    content = json.loads((data / "dataset.json").read_text())
    known = dataset_report.read_statistics(data, content["classes"])
    together, photos = np.zeros((13, 13), int), 0
    for split in ("train", "val", "test"):
        if content["splits"][split]:
            file = tfrecords.RecordFile(data / split / f"{split}-r05.tfrecords")
            for number in range(len(file)):
                shown = file.read_image(number)[3:].any(axis=(1, 2)).astype(int)
                together += np.outer(shown, shown)
                photos += 1
    np.testing.assert_array_equal(known["together"], together)
    sizes = Counter()
    for path in (source / "images").iterdir():
        with Image.open(path) as picture:
            sizes["{}x{}".format(*picture.size)] += 1
    assert known["sizes"] == dict(sizes) and known["photos"] == photos == NUM - 1


def test_the_page_describes_the_data(data):
    text = PageReader((data / "report.html").read_text()).text
    for part in ("Data set set", "12 train, 1 test", "scarf/tie",
                 "photo is missing", "instances overlap",
                 "40x60", "80x120", "0.6 to below 0.7", "digest"):
        assert part in text
    counts = json.loads((data / "dataset.json").read_text())["class_counts"]["train"]
    for name, entry in counts.items():
        assert name in text and str(entry["images"]) in text
    known = json.loads((data / "statistics.json").read_text())
    assert f"In {known['overlap']['photos']} of {NUM - 1} photos" in text
    assert f"{100 * known['overlap']['mean']:.2f} % of the area" in text


def rows_of(path):
    """Return all rows of the page's tables: lists of cells."""
    rows = re.findall(r"<tr>(.*?)</tr>", path.read_text())
    return [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in rows]


def test_the_pages_numbers_by_hand(tmp_path, rng):
    """Of four images, hat is in 4, coat in 1 (covering 8 % of it), legs in 2, shoes in none."""
    images = np.stack([random_image(rng, 7, 16) for _ in range(4)])
    data = make_dataset(tmp_path / "set", {"train": images})
    content = json.loads((data / "dataset.json").read_text())
    content["class_counts"] = {"train": {
        "hat": {"images": 4, "pixels": 0.5}, "coat": {"images": 1, "pixels": 0.02},
        "legs": {"images": 2, "pixels": 0.1}, "shoes": {"images": 0, "pixels": 0.0}}}
    (data / "dataset.json").write_text(json.dumps(content))
    (data / "statistics.json").write_text(json.dumps({
        "classes": FOUR, "photos": 4, "sizes": {"4x6": 4}, "overlap": None,
        "together": [[4, 1, 2, 0], [1, 1, 1, 0], [2, 1, 2, 0], [0, 0, 0, 0]]}))
    run("info", data)
    rows = rows_of(data / "report.html")
    for row in (["hat", "4", "100", "50"], ["coat", "1", "25", "2"], ["legs", "2", "50", "10"],
                ["shoes", "0", "0", "0"],
                ["hat", "4", "100", "25", "50", "0"], ["coat", "1", "100", "100", "100", "0"],
                ["legs", "2", "100", "50", "100", "0"], ["shoes", "0", "0", "0", "0", "0"]):
        assert row in rows
    bars = re.findall(r">([0-9.]+ %)</text", (data / "report.html").read_text())
    assert bars == ["100.0 %", "25.0 %", "50.0 %", "0.0 %", "50.00 %", "8.00 %", "20.00 %",
                    "0.00 %"]


def test_info_writes_the_same_page_again(data, capsys):
    before = folder_bytes(data)
    (data / "report.html").unlink()
    assert run("info", data) == 0
    assert f"{data / 'report.html'} shows what is in it" in capsys.readouterr().out
    assert folder_bytes(data) == before


def test_info_works_if_the_folder_cannot_be_written(data, capsys, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied", "report.html")
    monkeypatch.setattr(dataset_report.util, "atomic_write", refuse)
    assert run("info", data) == 0
    printed = capsys.readouterr().out
    assert "channels   16" in printed and "no report.html beside the data" in printed


def test_the_page_of_data_without_statistics_says_so(tmp_path, rng):
    data = make_dataset(tmp_path / "old", {"train": random_image(rng, 7, 16)[None]})
    run("info", data)
    text = PageReader((data / "report.html").read_text()).text
    assert "were not recorded" in text and "Sizes of the photos" not in text
    other = {"classes": ["of", "another", "data", "set"], "photos": 1, "together": [[1] * 4] * 4,
             "sizes": {}, "overlap": None}
    (data / "statistics.json").write_text(json.dumps(other))
    run("info", data)
    assert "were not recorded" in PageReader((data / "report.html").read_text()).text


@pytest.mark.parametrize("line", ['{"id": 3', '{"id": 3}', "[]", '"reason"', "3"])
def test_a_broken_list_of_skipped_photos_is_one_line(tmp_path, rng, line):
    data = make_dataset(tmp_path / "set", {"train": random_image(rng, 7, 16)[None]})
    (data / "skipped.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match=r"skipped\.jsonl: broken"):
        run("info", data)


def test_names_of_files_do_not_become_markup(tmp_path, rng):
    data = make_dataset(tmp_path / "<b>", {"train": random_image(rng, 7, 16)[None]},
                        ("<script>alert(1)</script>", '"><img src=x>', "a&b", "x"))
    lines = [{"id": "<i>.jpg", "reason": "<u>reason</u>"},
             {"id": 3, "annotation": "</table>", "reason": "r"}]
    (data / "skipped.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run("info", data)
    reader = PageReader((data / "report.html").read_text())
    assert not {"script", "b", "u"} & set(reader.names()) and reader.names().count("img") == 1
    assert reader.names().count("i") == 4, "squares of the legend"
    for part in ("<script>alert(1)</script>", "<i>.jpg", "<u>reason</u>", "</table>"):
        assert part in reader.text


def test_data_without_maps_have_no_class_sections(tmp_path, source):
    run("create_from_images", "--source", source / "images", "--out", tmp_path / "set",
        "--resolution", 16, "--workers", 1)
    text = PageReader((tmp_path / "set/report.html").read_text()).text
    assert "show each class" not in text and "Overlap" not in text and "40x60" in text


def test_many_skipped_photos_and_classes_stay_readable(tmp_path, rng):
    classes = [f"class {i}" for i in range(60)]
    data = make_dataset(tmp_path / "set", {"train": random_image(rng, 63, 16)[None]}, classes)
    together = np.diag(np.arange(60)).tolist()
    (data / "statistics.json").write_text(json.dumps({
        "classes": classes, "photos": 1, "together": together, "sizes": {}, "overlap": None}))
    (data / "skipped.jsonl").write_text('{"id": 1, "reason": "gone"}\n' * 500)
    run("info", data)
    reader = PageReader((data / "report.html").read_text())
    assert "the first 200 of 500" in reader.text and reader.text.count("gone") == 201
    assert "The 40 most frequent of 60 classes" in reader.text
    assert "nothing overlaps" in reader.text


@pytest.mark.parametrize("weighted, expected", [
    ([(1, 2), (3, 1), (3.9, 1)], {"below 2": 2, "2 to below 4": 2}),
    ([(2, 1), (9, 5)], {"2 to below 4": 1, "4 to below 8": 0, "8 or more": 5}), ([], {})])
def test_histograms(weighted, expected):
    assert dataset_report._histogram(weighted, (2, 4, 8)) == expected


def test_index_masks_have_no_overlap(tmp_path):
    """They have one class per pixel, so the overlap is unknown, not zero."""
    counts = writer.DatasetCounts(FOUR, 16, 0, ["train"])
    counts.add("train", 1, b"", [0.5, 0, 0, 0.1], size=(4, 6))
    counts.add("train", 2, b"", [0, 0, 0, 0.1], size=(6, 4))
    content = counts.statistics()
    assert content["overlap"] is None and content["sizes"] == {"4x6": 1, "6x4": 1}
    assert np.diag(content["together"]).tolist() == [1, 0, 0, 2]
    assert content["together"][0][3] == content["together"][3][0] == 1
    (tmp_path / "statistics.json").write_text(json.dumps(content))
    assert dataset_report.read_statistics(tmp_path, FOUR) == content


def test_colours_are_shown_as_people_write_them(tmp_path):
    maps = make_masked(tmp_path / "mine", num=6, classes=("hat", "coat"))
    table = np.array([[0, 0, 0], [0xC8, 0, 0], [0, 0xA0, 0xFF]], np.uint8)
    for number, labels in enumerate(maps):
        Image.fromarray(table[labels]).save(tmp_path / "mine/labels" / f"p{number}.png")
    (tmp_path / "mine/classes.txt").write_text("hat #c80000\ncoat #00A0FF\n")
    run("create_from_masks", "--source", tmp_path / "mine", "--out", tmp_path / "set",
        "--resolution", 16, "--workers", 1)
    text = PageReader((tmp_path / "set" / "report.html").read_text()).text
    assert "hat #c80000, coat #00a0ff, background #000000" in text


def test_names_that_are_not_text_are_listed(tmp_path):
    make_masked(tmp_path / "mine", num=6)
    images, labels = (str(tmp_path / "mine" / folder).encode() for folder in ("images", "labels"))
    os.rename(images + b"/p0.jpg", images + b"/caf\xe9.jpg")
    os.rename(labels + b"/p0.png", labels + b"/caf\xe9.png")
    os.rename(labels + b"/p1.png", labels + b"/\xff.png")
    run("create_from_masks", "--source", tmp_path / "mine", "--out", tmp_path / "set",
        "--resolution", 16, "--workers", 1)
    ids = json.loads((tmp_path / "set" / "dataset.json").read_text())["splits"]["train"]
    assert r"caf\udce9.jpg" in ids
    assert {line["id"] for line in read_jsonl(tmp_path / "set" / "skipped.jsonl")} == {
        "p1.jpg", r"\udcff.png"}
    assert r"\udcff.png" in PageReader((tmp_path / "set" / "report.html").read_text()).text


def test_sizes_are_the_files_sizes(tmp_path, monkeypatch, rng):
    """Large photos are halved when decoded; turned photos count as they are seen."""
    monkeypatch.setattr(photos, "_FULL_SIZE", 20 * 20)
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(photo_bytes(rng, 40, 30))
    (tmp_path / "in" / "b.jpg").write_bytes(photo_bytes(rng, 16, 12, exif=exif.tobytes()))
    run("create_from_images", "--source", tmp_path / "in", "--out", tmp_path / "set",
        "--resolution", 8, "--workers", 1)
    known = dataset_report.read_statistics(tmp_path / "set", ())
    assert known["sizes"] == {"40x30": 1, "12x16": 1}
