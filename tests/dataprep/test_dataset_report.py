"""The dataset tool's report about a data set, and its pictures."""

import json

import numpy as np
import pytest
from PIL import Image

import dataset_tool
from dataprep import dataset_report
from dnnlib.data import channels, tfrecords
from dnnlib.data.pictures import GAP, GREY, enlarge
from dnnlib.util import UserError
from tests.tools.data_helpers import FOUR, make_dataset, random_image


@pytest.fixture
def images():
    rng = np.random.default_rng(2)
    return {"train": np.stack([random_image(rng, 7, 16) for _ in range(5)]),
            "val": np.stack([random_image(rng, 7, 16)])}


@pytest.fixture
def data(tmp_path, images):
    path = make_dataset(tmp_path / "data", images)
    content = json.loads((path / "dataset.json").read_text())
    content["class_counts"] = {"train": {"coat": {"images": 4, "pixels": 0.125}}}
    content["splits"]["test"] = []
    (path / "dataset.json").write_text(json.dumps(content))
    return path


def test_info_prints_sizes_and_class_frequencies(data, capsys):
    assert dataset_tool.main(["info", str(data)]) == 0
    printed = capsys.readouterr().out
    assert "7 (RGB + 4 class maps)" in printed and "5 train, 1 val" in printed
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line}
    assert rows["coat"][:3] == ["4", "80.0", "12.500"] and rows["hat"][:3] == ["0", "0.0", "0.000"]
    assert set(FOUR) <= set(rows) and "test images" not in printed


def test_info_counts_the_bytes_of_shards(data, capsys):
    lines = list(dataset_report.summary_lines(data))
    shard = data / "train" / tfrecords.shard_name(0, 1)
    shard.mkdir()
    for path in (data / "train").glob("*.tfrecords"):
        path.rename(shard / path.name)
    assert list(dataset_report.summary_lines(data)) == lines


def test_info_without_maps_has_no_table(tmp_path, images):
    path = make_dataset(tmp_path / "rgb", {"train": images["train"][:, :3]}, ())
    assert list(dataset_report.summary_lines(path))[-1].startswith("digest")


def test_the_sheet_shows_photo_map_and_overlay(data, images):
    sheet = dataset_report.contact_sheet(data, "val", 1, 1, None, 0)
    image = images["val"][0].transpose(1, 2, 0)
    labels = channels.to_label_map(image[..., 3:], 127)
    panels = sheet[GAP:GAP + 96, GAP:-GAP]
    assert panels.shape[1] == 3 * 96 and (sheet[:GAP] == GREY).all()
    np.testing.assert_array_equal(panels[:, :96], enlarge(image[..., :3], 6))
    np.testing.assert_array_equal(panels[:, 96:192], enlarge(channels.palette(4)[labels], 6))
    overlay, plain = panels[::6, 192::6], labels == 0
    np.testing.assert_array_equal(overlay[plain], image[..., :3][plain])
    assert (overlay[~plain] != image[..., :3][~plain]).any()


def test_display_writes_a_png_of_any_level(data, tmp_path):
    out = tmp_path / "sheet.png"
    assert dataset_tool.main(["display", str(data), "--out", str(out), "--num", "4", "--columns",
                              "2", "--resolution", "8"]) == 0
    with Image.open(out) as picture:
        assert picture.size[0] == 2 * 3 * 96 + 3 * GAP
        assert picture.size[1] > 2 * 96 + 3 * GAP, "the legend is below"


def test_data_without_maps_are_shown_as_photos_only(tmp_path, images):
    path = make_dataset(tmp_path / "rgb", {"train": images["train"][:, :3]}, ())
    shape = dataset_report.contact_sheet(path, "train", 4, 2, None, 0).shape
    assert shape == (2 * 96 + 3 * GAP, 2 * 96 + 3 * GAP, 3)


@pytest.mark.parametrize("out, message", [
    ("sheet.jpg", "ends with .png"), ("", "ends with .png"),
    ("data/dataset.json/sheet.png", "dataset.json is a file, not a folder")])
def test_display_reports_write_errors_in_one_line(data, out, message):
    with pytest.raises(UserError, match=f"--out=.*{message}"):
        dataset_tool.main(["display", str(data), f"--out={data.parent / out}"])


def test_display_reports_read_errors_in_one_line(data):
    with pytest.raises(UserError, match="no images in split 'test'; it has: train, val"):
        dataset_report.contact_sheet(data, "test", 1, 1, None, 0)
    with pytest.raises(UserError, match="no images of 32x32; it has: 4, 8, 16"):
        dataset_report.contact_sheet(data, "train", 1, 1, 32, 0)
