"""dataset.json, splits and their images, read without TensorFlow."""

import json

import numpy as np
import pytest

from dnnlib.data import dataset, tfrecords
from dnnlib.util import UserError
from tests.tools.data_helpers import FOUR, make_dataset, random_image

NUM = 10


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return {split: np.stack([random_image(rng, 7, 16) for _ in range(n)])
            for split, n in (("train", NUM), ("val", 4))}


@pytest.fixture(scope="module")
def labelled(images, tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("sets") / "labelled", images)


@pytest.fixture
def copy(images, tmp_path):
    return make_dataset(tmp_path / "copy", images, encoding="png")


def change_json(path, **changes):
    content = json.loads((path / "dataset.json").read_text())
    (path / "dataset.json").write_text(json.dumps({**content, **changes}))


def nhwc(stack):
    return stack.transpose(0, 2, 3, 1)


def read(path, *args, **options):
    return np.concatenate(list(dataset.read_split(path, *args, **options)))


def test_open_dataset_describes_the_data_set(labelled):
    info = dataset.open_dataset(labelled)
    assert (info.name, info.resolution, info.num_channels) == ("labelled", 16, 7)
    assert info.classes == FOUR and info.splits == {"train": NUM, "val": 4}
    assert info.digest == "0" * 64 and info.label_size == 0
    assert dataset.read_ids(labelled, "val") == [0, 1, 2, 3]


def test_a_part_is_a_data_set_or_one_of_its_splits(copy, tmp_path):
    assert dataset.open_part(copy)[1] is None and dataset.open_part(copy / "val")[1] == "val"
    assert dataset.open_part(tmp_path) is None
    (copy / "dataset.json").unlink()
    with pytest.raises(UserError, match=r"record files without dataset\.json, as the official"):
        dataset.open_part(copy / "val")


def test_read_split_gives_each_image_once_in_order(labelled, images):
    batches = list(dataset.read_split(labelled, "val", 16, minibatch=3))
    assert [len(batch) for batch in batches] == [3, 1]
    assert isinstance(batches[0], np.ndarray)
    np.testing.assert_array_equal(np.concatenate(batches), nhwc(images["val"]))
    np.testing.assert_array_equal(read(labelled, "val", 16, only_rgb=True),
                                  nhwc(images["val"])[..., :3])


@pytest.mark.parametrize("minibatch", [1, 2, 32])
def test_read_split_gives_images_in_the_order_of_indices(labelled, images, minibatch):
    order = [7, 0, 7, 9, 3]
    np.testing.assert_array_equal(
        read(labelled, "train", 16, minibatch=minibatch, indices=np.array(order)),
        nhwc(images["train"])[order])


@pytest.mark.parametrize("encoding", tfrecords.ENCODINGS)
def test_read_split_decodes_every_encoding(images, tmp_path, encoding):
    path = make_dataset(tmp_path / encoding, images, encoding=encoding)
    np.testing.assert_array_equal(read(path, "val", 16), nhwc(images["val"]))
    np.testing.assert_array_equal(read(path, "val", 16, only_rgb=True),
                                  nhwc(images["val"])[..., :3])


def test_several_splits_are_joined_by_a_plus(labelled):
    info = dataset.open_dataset(labelled)
    assert dataset.split_sizes(info, "train+val") == {"train": NUM, "val": 4}
    assert dataset.split_sizes(info, "val+test") == {"val": 4}
    with pytest.raises(UserError, match=r"split .test.; it has: train, val .*--split=train"):
        dataset.split_sizes(info, "test")
    with pytest.raises(UserError, match=r"split .tset.; it has: train, val "):
        dataset.split_sizes(info, "train+tset")
    with pytest.raises(UserError, match=r"no split .tset.; it has: train, val$"):
        dataset.read_ids(labelled, "tset")


def test_open_split_chooses_the_largest_level_by_default(labelled):
    info = dataset.open_dataset(labelled)
    assert dataset.open_split(info, "train").path.name == "train-r04.tfrecords"
    assert dataset.open_split(info, "train", 8).path.name == "train-r03.tfrecords"
    for resolution in (32, 12):
        with pytest.raises(UserError, match=f"no images of {resolution}x{resolution}; it has: 4,"):
            dataset.open_split(info, "train", resolution)


@pytest.mark.parametrize("changes", [
    {"complete": False}, {"complete": "yes"}, {"format_version": 2}, {"splits": None},
    {"classes": None}, {"splits": {"train": 3}}, {"label_size": -1}, {"label_size": True}])
def test_a_wrong_dataset_json_is_one_line(copy, changes):
    change_json(copy, **changes)
    with pytest.raises(UserError, match=r"dataset\.json"):
        dataset.open_dataset(copy)


def test_missing_and_unfinished_data_sets_have_different_errors(copy, tmp_path):
    with pytest.raises(UserError, match=r"nowhere does not exist.*dataset_tool\.py"):
        dataset.open_dataset(tmp_path / "nowhere")
    (copy / "dataset.json").unlink()
    with pytest.raises(UserError, match="no data set, or an unfinished one"):
        dataset.read_split(copy, "train", 16)


def test_a_count_that_differs_from_dataset_json_is_noticed(copy):
    change_json(copy, splits={"train": list(range(NUM + 1))})
    with pytest.raises(UserError, match=r"10 records where dataset\.json says 11"):
        dataset.read_split(copy, "train", 16)


def test_a_damaged_record_is_one_line_with_its_name(copy):
    path = copy / "train" / "train-r04.tfrecords"
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"train-r04\.tfrecords: record \d is damaged"):
        read(copy, "train", 16)


def test_records_of_another_shape_are_one_line(copy):
    (copy / "train" / "train-r04.tfrecords").write_bytes(
        (copy / "train" / "train-r03.tfrecords").read_bytes())
    with pytest.raises(UserError, match=r"record 0 has the shape \[7, 8, 8\], expected \[7, 16"):
        read(copy, "train", 16)


@pytest.mark.parametrize("sizes, options, expected", [
    ({"400x600": 9, "800x1200": 5}, {"fit": "pad"}, (2, 0, 13, 16)),
    ({"400x600": 9, "600x400": 1}, {"fit": "pad"}, None),
    ({"400x600": 9, "600x400": 1}, {"fit": "crop"}, (0, 0, 16, 16)),
    ({"": 14}, {"fit": "pad"}, None), ({"400x600": 14}, {}, None), (None, {"fit": "pad"}, None)])
def test_the_content_box_of_a_data_set(copy, sizes, options, expected):
    """Known if it is the same for all photos."""
    change_json(copy, options=options)
    if sizes is not None:
        (copy / "statistics.json").write_text(json.dumps({"sizes": sizes}))
    assert dataset.content_box(copy) == expected
