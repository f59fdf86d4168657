"""Workers, splits, interruption, full disks: a data set is complete, and always the same."""

import errno
import itertools
import json
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from dataprep import conversion, photo_sources, writer
from dataprep.coco import annotations
from dnnlib.data import coco, tfrecords
from dnnlib.data.dataset import open_dataset
from dnnlib.process_pool import ordered_map
from dnnlib.util import UserError, lock_directory
from tests.tools.data_helpers import (
    annotations_path,
    folder_bytes,
    make_source,
    photo_bytes,
    read_jsonl,
)

CLASSES = coco.MODANET_CLASSES
NUM = 9


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_source(tmp_path_factory.mktemp("source"), NUM)


def recipe_of(source, **changes):
    options = {"source": photo_sources.PhotoFolder(source / "images"), "classes": CLASSES,
               "resolution": 16, "fit": "pad", "encoding": "webp", **changes}
    return conversion.ConversionSpec(**options)


def items_of(source):
    photos = annotations.load_annotations(annotations_path(source)).photos
    return [conversion.Item(i, f"{i:07d}.jpg", photo) for i, photo in photos.items()]


def write(out, source, items=None, workers=1, skipped=None, **changes):
    order = writer.shuffle_items(items or items_of(source), seed=0)
    return writer.write_dataset(out, recipe_of(source, **changes), order, (2, 1),
                                [] if skipped is None else skipped, {"a": 1}, workers)


def read_split(out, split, level):
    records = tfrecords.RecordFile(out / split / f"{split}-r{level:02d}.tfrecords")
    return np.stack([records.read_image(i) for i in range(len(records))])


def test_splits_are_a_seeded_partition_of_the_photos(tmp_path, source):
    """Validation first, then test, then training: sizes and photos as in earlier versions."""
    items = items_of(source)
    order = [items[i].image_id for i in np.random.default_rng(0).permutation(NUM)]
    assert [item.image_id for item in writer.shuffle_items(items, 0)] == order
    assert writer.shuffle_items(items, 1) != writer.shuffle_items(items, 0)
    splits = write(tmp_path, source)["splits"]
    assert list(splits) == ["train", "val", "test"]
    assert splits == {"train": order[3:], "val": order[:2], "test": order[2:3]}


def test_the_files_match_dataset_json(tmp_path, source):
    content = write(tmp_path / "set", source)
    info = open_dataset(tmp_path / "set")
    assert json.loads((tmp_path / "set" / "dataset.json").read_text()) == content
    assert info.splits == {"train": 6, "val": 2, "test": 1} and info.num_channels == 16
    records = {f"{split}/{split}-r{level:02d}.tfrecords"
               for split in writer.SPLITS for level in (2, 3, 4)}
    assert set(folder_bytes(tmp_path / "set")) == {"dataset.json", "skipped.jsonl",
                                                   "statistics.json", *records}
    for split, ids in content["splits"].items():
        images = read_split(tmp_path / "set", split, 4)
        assert len(images) == len(ids)
        for name, counts in content["class_counts"][split].items():
            maps = images[:, 3 + CLASSES.index(name)]
            assert counts["images"] == (maps.max((1, 2)) > 0).sum()
            assert counts["pixels"] == pytest.approx(maps.mean() / 255, abs=1e-6)


def test_records_are_in_the_order_of_the_ids(tmp_path, source):
    content = write(tmp_path / "set", source)
    by_id = {item.image_id: item for item in items_of(source)}
    images = read_split(tmp_path / "set", "train", 4)
    for image, image_id in zip(images, content["splits"]["train"]):
        expected = conversion.convert_photo(recipe_of(source), by_id[image_id]).records[4]
        np.testing.assert_array_equal(image, tfrecords.decode_record(expected[12:-4]))


def test_the_result_does_not_depend_on_the_workers(tmp_path, source):
    items = items_of(source) + [conversion.Item(i, "nowhere.jpg", items_of(source)[0].photo)
                                for i in range(100, 112)]
    write(tmp_path / "1" / "set", source, items, workers=1)
    write(tmp_path / "3" / "set", source, items, workers=3)
    assert open_dataset(tmp_path / "1" / "set").splits == {"train": 6, "val": 2, "test": 1}
    assert folder_bytes(tmp_path / "1") == folder_bytes(tmp_path / "3")


def test_the_digest_is_of_the_pixels(tmp_path, source):
    digests = [write(tmp_path / str(i), source, **changes)["digest"] for i, changes in enumerate(
        ({}, {"encoding": "raw"}, {"fit": "crop"}, {"resolution": 8}))]
    assert digests[0] == digests[1] and len(set(digests)) == 3


def test_unusable_photos_are_listed_with_a_reason(tmp_path, rng):
    source = make_source(tmp_path / "source", NUM)
    (source / "images" / "0000008.jpg").write_bytes(b"no image at all")
    (source / "images" / "0000009.jpg").write_bytes(photo_bytes(rng, 60, 40))
    (source / "images" / "0000010.jpg").unlink()
    skipped = [{"id": 3, "reason": "before"}, {"id": 7, "annotation": 1, "reason": "a polygon"}]
    content = write(tmp_path / "set", source, skipped=skipped)
    lines = read_jsonl(tmp_path / "set" / "skipped.jsonl")
    reasons = {line["id"]: line["reason"] for line in lines}
    assert reasons[8] == "not a readable image (no known format)"
    assert "60x40" in reasons[9]
    assert "cannot be read" in reasons[10] and reasons[3] == "before"
    assert sorted(itertools.chain(*content["splits"].values())) == [7, 11, 12, 13, 14, 15]
    assert content["skipped"] == 4, "photos, not annotations"


def test_annotations_are_scaled_with_a_photo_of_another_size(tmp_path, rng):
    source = make_source(tmp_path / "source", NUM)
    item = items_of(source)[0]
    small = conversion.convert_photo(recipe_of(source), item)
    (source / "images" / item.key).write_bytes(photo_bytes(rng, 80, 120))
    large = conversion.convert_photo(recipe_of(source), item)
    np.testing.assert_allclose(large.shares, small.shares, atol=0.002)


def test_no_usable_photo_is_one_line_and_no_data_set(tmp_path, source):
    items = [conversion.Item(i, "nowhere.jpg", items_of(source)[0].photo) for i in range(5)]
    with pytest.raises(UserError, match=r"no photo is left for training: of 5, 0 .*skipped\.jsonl"):
        write(tmp_path / "set", source, items)
    with pytest.raises(UserError, match="unfinished"):
        open_dataset(tmp_path / "set")


def test_a_full_disk_is_one_line_and_the_next_run_succeeds(tmp_path, source, monkeypatch):
    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(writer.os, "fsync", full)
        with pytest.raises(UserError, match=r"disk is full \(.*\); free some space and run"):
            write(tmp_path / "set", source)
    assert [path.name for path in (tmp_path / "set").iterdir()] == [".partial"]
    write(tmp_path / "set", source)
    assert not (tmp_path / "set" / ".partial").exists()


def killed(out, source):
    write(out, source, items_of(source) * 200)


def test_a_killed_run_leaves_no_data_set_and_does_no_harm(tmp_path, source):
    out = tmp_path / "set"
    for delay in (0.0, 0.1, 0.3):
        process = multiprocessing.get_context("spawn").Process(target=killed, args=(out, source))
        process.start()
        while not (out / ".partial").exists():
            time.sleep(0.01)
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert not (out / "dataset.json").exists() and not (out / "train").exists()
    write(out, source)
    write(tmp_path / "clean" / "set", source)
    assert folder_bytes(out) == folder_bytes(tmp_path / "clean" / "set")


def test_records_whose_dataset_json_is_lost_are_not_removed(tmp_path, source):
    write(tmp_path, source)
    (tmp_path / "dataset.json").unlink()
    before = folder_bytes(tmp_path)
    with pytest.raises(UserError, match="no part of an interrupted run"):
        write(tmp_path, source)
    assert folder_bytes(tmp_path) == before


def test_other_folders_are_not_removed(tmp_path, source):
    (tmp_path / "set" / "train").mkdir(parents=True)
    (tmp_path / "set" / "train" / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"thesis\.tex"):
        write(tmp_path / "set", source)
    assert (tmp_path / "set" / "train" / "thesis.tex").exists()


def test_two_writers_cannot_use_one_folder(tmp_path, source):
    with lock_directory(tmp_path / "set", "making it"), \
            pytest.raises(UserError, match="another process"):
        write(tmp_path / "set", source)


def test_a_finished_data_set_is_recognised(tmp_path, source):
    assert not writer.is_finished(tmp_path, {"a": 1})
    write(tmp_path, source)
    assert writer.is_finished(tmp_path, {"a": 1})
    with pytest.raises(UserError, match="a is 1, not 2"):
        writer.is_finished(tmp_path, {"a": 2})
    with pytest.raises(UserError, match="b is None, not 1"):
        writer.is_finished(tmp_path, {"a": 1, "b": 1})


@pytest.mark.parametrize("workers", [1, 2])
def test_many_items_keep_their_order(workers):
    assert list(ordered_map(abs, range(-50, 0), workers)) == list(range(50, 0, -1))


def die(item):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_is_one_line():
    with pytest.raises(UserError, match="a worker process died"):
        list(ordered_map(die, range(3), workers=2))


def test_the_projected_size_is_about_right(tmp_path, source):
    size, seconds = conversion.estimate_cost(recipe_of(source), items_of(source))
    write(tmp_path, source)
    total = sum(len(data) for name, data in folder_bytes(tmp_path).items() if "tfrecords" in name)
    assert size == pytest.approx(total / NUM, rel=1e-6) and seconds > 0
