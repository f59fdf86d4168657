"""Photos converted in ranges give the same data set as the serial command, to the byte."""

import contextlib
import dataclasses
import json
import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tqdm import tqdm

import dataset_tool
from dataprep import conversion, journal, masks, photo_sources, ranges, side_by_side, writer
from dataprep.coco import segmentations
from dnnlib.data.dataset import open_dataset
from dnnlib.util import UserError
from tests.tools.beam import AnyRunner
from tests.tools.data_helpers import folder_bytes, make_source, photo_bytes

NUM, SIZES = 20, (3, 2)
BAD = 4  # positions, in the order of conversion, of the files that are not photos


class Stopped(Exception):
    """Some interruption."""


@dataclass(frozen=True)
class CountingFolder(photo_sources.PhotoFolder):
    """A folder that counts its reads, in a folder of notes that workers share."""

    notes: str = ""

    def read(self, name):
        with open(os.path.join(self.notes, name), "a") as file:
            file.write("x")
        return super().read(name)


class StoppingRunner(AnyRunner):
    """A runner that breaks down after some elements."""

    def __init__(self, elements):
        self.left = elements

    def run(self, start, elements):
        work = start()
        for element in list(elements)[:self.left]:
            work(element)
        raise Stopped


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch):
    """Make seven ranges; checkpoints are between them and elsewhere."""
    monkeypatch.setattr(ranges, "PHOTOS", 3)
    monkeypatch.setattr(writer, "_CHECKPOINT_PHOTOS", 3)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Make photos; among the first ones, for validation and test, some files are not photos."""
    path = make_source(tmp_path_factory.mktemp("source"), NUM)
    names = sorted(os.listdir(path / "images"))
    for number in np.random.default_rng(0).permutation(NUM)[:2 * BAD:2]:
        (path / "images" / names[number]).write_bytes(b"<html>not found</html>")
    return path


def write(out, source, runner=None, reported=None, notes=None, **changes):
    """Write a small labelled data set."""
    folder = photo_sources.PhotoFolder(source / "images") if notes is None else \
        CountingFolder(source / "images", str(notes))
    names = photo_sources.list_photos(folder.path)[0]
    labels = np.random.default_rng(0).normal(size=(NUM, 2)).astype(np.float32)
    items = [conversion.Item(name, name, label=row) for name, row in zip(names, labels)]
    options = {"resolution": 8, "fit": "pad", "encoding": "raw", **changes}
    spec = conversion.ConversionSpec(folder, (), label_size=2, **options)
    writer.write_dataset(out, spec, writer.shuffle_items(items, 0), SIZES, [], options, 1,
                         ([] if reported is None else reported).append, runner)


def reads(notes):
    """Return how often each photo was read."""
    return {path.name: len(path.read_text()) for path in notes.iterdir()}


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """Return the bytes that the serial command writes."""
    out = tmp_path_factory.mktemp("whole") / "set"
    write(out, source)
    assert open_dataset(out).splits == {"train": NUM - sum(SIZES) - BAD, "val": 3, "test": 2}
    return folder_bytes(out)


@pytest.fixture
def notes(tmp_path):
    (tmp_path / "notes").mkdir()
    return tmp_path / "notes"


def test_the_same_bytes_in_any_order_each_range_once(source, whole, tmp_path, notes):
    """Splits are exact, although photos in the middle are unusable; no leftovers remain."""
    write(tmp_path / "set", source, AnyRunner(), notes=notes)
    assert folder_bytes(tmp_path / "set") == whole
    assert set(reads(notes).values()) == {1} and len(reads(notes)) == NUM


@pytest.mark.parametrize("ranges_done", [0, 1, 6])
def test_ranges_of_a_killed_run_are_not_converted_again(source, whole, tmp_path, notes,
                                                        ranges_done):
    out, reported = tmp_path / "set", []
    with pytest.raises(Stopped):
        write(out, source, StoppingRunner(ranges_done), notes=notes)
    folder, = out.glob(".partial/ranges-*")
    (folder / ".000006.0123.tmp").write_bytes(b"half")  # of a killed worker

    class Tidy(AnyRunner):
        def run(self, start, elements):
            assert not list(folder.glob(".*"))
            super().run(start, elements)
    write(out, source, Tidy(), reported, notes)
    assert folder_bytes(out) == whole and set(reads(notes).values()) == {1}
    assert reported == [f"{ranges_done} of 7 ranges of 3 photos are converted already"][
        :ranges_done]


@pytest.mark.parametrize("photos", [0, 1, 8, 9, 19])
def test_stopped_while_ranges_are_read(source, whole, tmp_path, notes, monkeypatch, photos):
    """The journal's photos are kept; ranges already read are removed, and not needed again."""
    out, add, added = tmp_path / "set", journal.Journal.add, []

    def stopping(book, entry):
        add(book, entry)
        added.append(entry)
        if sum("id" in entry for entry in added) > photos:
            raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "add", stopping)
        with contextlib.suppress(KeyboardInterrupt):
            write(out, source, AnyRunner(), notes=notes)
    assert len(list(out.glob(".partial/ranges-*/[0-9]*[0-9]"))) == 7 - photos // 3
    write(out, source, AnyRunner(), notes=notes)
    assert folder_bytes(out) == whole and set(reads(notes).values()) == {1}


def test_checkpoints_within_ranges(source, whole, tmp_path, monkeypatch):
    """As in a data set that was started with ranges of another size."""
    monkeypatch.setattr(writer, "_CHECKPOINT_PHOTOS", 4)
    add, out, reported = journal.Journal.add, tmp_path / "set", []

    def stopping(book, entry):
        add(book, entry)
        if len(reported) == 10:
            raise KeyboardInterrupt
        reported.append(entry)
    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "add", stopping)
        with contextlib.suppress(KeyboardInterrupt):
            write(out, source, AnyRunner())
    reported.clear()
    write(out, source, AnyRunner(), reported)
    assert "continuing after the 8 of the 20" in reported[0] and folder_bytes(out) == whole


def test_an_incomplete_range_does_not_count(source, whole, tmp_path, monkeypatch):
    convert = ranges.convert_or_reason

    def stopping(spec, item):
        if any(tmp_path.glob("set/.partial/ranges-*/000004")):
            raise Stopped
        return convert(spec, item)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(ranges, "convert_or_reason", stopping)
        write(tmp_path / "set", source, AnyRunner())
    folder, = tmp_path.glob("set/.partial/ranges-*")
    assert [path.name for path in sorted(folder.glob("*")) if not path.suffix] == [
        "000004", "000005", "000006"]
    write(tmp_path / "set", source, AnyRunner())
    assert folder_bytes(tmp_path / "set") == whole


def test_a_progress_bar_counts_finished_ranges(source, tmp_path, monkeypatch, capsys):
    write(tmp_path / "1", source, AnyRunner())
    assert not capsys.readouterr().err, "no terminal"
    monkeypatch.setattr(ranges, "_LOOK", 0.001)
    monkeypatch.setattr(ranges.util, "progress", lambda **options: tqdm(**options))
    write(tmp_path / "2", source, AnyRunner())
    shown = capsys.readouterr().err
    assert "converting:   0%" in shown and "7/7 [" in shown


def test_a_removed_range_is_made_again(source, whole, tmp_path):
    out = tmp_path / "set"
    with pytest.raises(Stopped):
        write(out, source, StoppingRunner(7))
    next(out.glob(".partial/ranges-*/000003")).unlink()
    write(out, source, AnyRunner())
    assert folder_bytes(out) == whole


def test_the_serial_command_and_a_runner_continue_each_other(source, whole, tmp_path, monkeypatch):
    with pytest.raises(Stopped):
        write(tmp_path / "1" / "set", source, StoppingRunner(2))
    write(tmp_path / "1" / "set", source)
    assert folder_bytes(tmp_path / "1" / "set") == whole
    convert = conversion.convert_photo

    def stopping(spec, item):
        if len(done) == 8:
            raise KeyboardInterrupt
        done.append(item)
        return convert(spec, item)
    done = []
    with monkeypatch.context() as patch:
        patch.setattr(conversion, "convert_photo", stopping)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "2" / "set", source)
    reported = []
    write(tmp_path / "2" / "set", source, AnyRunner(), reported)
    assert "continuing after the 6 of the 20" in reported[0]
    assert folder_bytes(tmp_path / "2" / "set") == whole


def test_ranges_of_another_data_set_are_not_used(source, whole, tmp_path, monkeypatch):
    """Neither those of a killed run nor those of its workers that are still running."""
    out, left = tmp_path / "set", {}
    with pytest.raises(Stopped):
        write(out, source, StoppingRunner(3), fit="crop")
    old, = out.glob(".partial/ranges-*")

    class Meanwhile(AnyRunner):
        def run(self, start, elements):
            left["gone"] = not old.exists()
            super().run(start, elements)
            old.mkdir()
            (old / "000001").write_bytes(b"of another")
    write(out, source, Meanwhile())
    assert left == {"gone": True} and folder_bytes(out) == whole


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:40],
                                    lambda data: b"\x80\x05." + data, lambda data: b""])
def test_a_damaged_range_is_one_line(source, whole, tmp_path, damage):
    with pytest.raises(Stopped):
        write(tmp_path / "set", source, StoppingRunner(7))
    path = next(tmp_path.glob("set/.partial/ranges-*/000005"))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"000005: damaged \(.*\); delete it and run the same"):
        write(tmp_path / "set", source, AnyRunner())
    path.unlink()
    write(tmp_path / "set", source, AnyRunner())
    assert folder_bytes(tmp_path / "set") == whole


def test_nothing_is_unpickled(source, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trapped"),)

    class Attacked(AnyRunner):
        def run(self, start, elements):
            path = next(tmp_path.glob("set/.partial/ranges-*/000002.items"))
            path.write_bytes(pickle.dumps(Trap()))
            super().run(start, elements)
    with pytest.raises(UserError, match=r"000002\.items: not valid JSON"):
        write(tmp_path / "set", source, Attacked())
    assert not (tmp_path / "trapped").exists()


def square(x, y, side):
    return np.float64([x, y, x + side, y, x + side, y + side, x, y + side]) + 0.1


MASK, _ = segmentations.make_instance(2, {"size": [40, 30], "counts": np.array([500, 300, 400])},
                                      30, 40)
FOLDER = photo_sources.PhotoFolder(Path("masks \udcff"))


@pytest.mark.parametrize("photo", [
    None, segmentations.Photo(1, "a.jpg", 30, 40),
    segmentations.Photo(1, "\udcff", 30, 40, (
        segmentations.Instance(7, (square(1, 2, 20), square(3, 3, 1 / 3))), MASK)),
    segmentations.Photo(1, "a.jpg", 30, 40, keypoints=np.random.default_rng(0).random((18, 3))),
    masks.Mask(FOLDER, "a.png", masks.Coding(3)),
    masks.Mask(FOLDER, "a.png", masks.Coding(3, None, 255, True, ((0xffffff, 2), (0, 0)),
                                             frozenset({"rgb", "grey"}))),
    side_by_side.SideBySide("right", ((0xffffff, 2), (0, 0)))])
def test_a_worker_reads_the_photos_that_were_written(tmp_path, monkeypatch, photo):
    """Tuples may be read as lists."""
    def fields(photo):
        return json.dumps(photo and dataclasses.asdict(photo), default=ranges._plain)
    read = []
    monkeypatch.setattr(ranges, "convert_or_reason", lambda spec, item: read.append(item) or "none")
    items = [conversion.Item("a", key, photo) for key in ("\udcff.jpg", 7)]
    assert list(ranges.convert_ranges(AnyRunner(), tmp_path / "ranges", None, items, 0, print)) == [
        "none", "none"]
    for item, again in zip(items, read):
        assert again.key == item.key and type(again.photo) is type(photo)
        assert fields(again.photo) == fields(photo)
        if isinstance(photo, masks.Mask):
            assert again.photo.source == photo.source
        if isinstance(photo, segmentations.Photo) and photo.instances:
            np.testing.assert_equal(*(segmentations.label_map_and_overlap(one, (45, 60))
                                      for one in (again.photo, photo)))


def test_a_range_that_no_worker_made_is_an_error(source, tmp_path):
    class Idle:
        def run(self, start, elements):
            start()
    with pytest.raises(UserError, match="000000: no worker has made this range; run the same"):
        write(tmp_path / "set", source, Idle())


@pytest.mark.parametrize("encoding", ["webp", "raw"])
def test_a_result_is_read_as_it_was_written(source, tmp_path, rng, encoding):
    """Also a reason that is not UTF-8."""
    folder = photo_sources.PhotoFolder(tmp_path)
    (tmp_path / "a.jpg").write_bytes(photo_bytes(rng, 40, 60))
    spec = conversion.ConversionSpec(folder, (), 16, "pad", encoding)
    results = [conversion.convert_photo(spec, conversion.Item("a", "a.jpg")), "no \udcff photo\n"]
    with open(tmp_path / "000000", "wb") as file:
        for result in results:
            ranges._write_result(file, result)
    read = list(ranges._read_all(tmp_path, range(1), 2))
    assert read == results and not (tmp_path / "000000").exists()


def test_keypoints_are_read_as_they_were_written(tmp_path, rng):
    points = rng.random((18, 3), np.float32)
    image = np.zeros((3, 8, 8), np.uint8)
    with open(tmp_path / "range", "wb") as file:
        ranges._write_result(file, conversion.convert_image(image, "png", (8, 8), None, points))
    with open(tmp_path / "range", "rb") as file:
        again = ranges._read_result(file, tmp_path / "range").points
    np.testing.assert_array_equal(again, points)
    assert again.dtype == np.float32


def test_a_runner_is_an_option_of_the_create_commands(tmp_path, capsys):
    with pytest.raises(UserError, match="options after it are for --runner, which is not given"):
        dataset_tool.main(["create_synthetic", "--", "--direct_num_workers=2"])
    with pytest.raises(UserError, match="options after it are for --runner, which is not given"):
        dataset_tool.main(["info", str(tmp_path), "--", "--direct_num_workers=2"])
