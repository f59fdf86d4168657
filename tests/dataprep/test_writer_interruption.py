"""A conversion that is stopped anywhere continues from there and ends with the same bytes."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import train
from dataprep import conversion, journal, photo_sources, writer
from dnnlib import cli
from dnnlib.data.dataset import open_dataset
from dnnlib.util import UserError
from tests.tools.data_helpers import folder_bytes, make_source, photo_bytes, read_jsonl

REPOSITORY = Path(__file__).resolve().parents[2]
NUM = 300
KILLS = int(os.environ.get("KILLS", "8"))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Make photos; three of the files are not photos."""
    path = make_source(tmp_path_factory.mktemp("source"), NUM)
    for image_id in (20, 150, 290):
        (path / "images" / f"{image_id:07d}.jpg").write_bytes(b"<html>not found</html>")
    return path


@dataclass(frozen=True)
class StoppingFolder(photo_sources.PhotoFolder):
    """A folder that counts its reads, and stops at photo number `stop` like Ctrl-C."""

    stop: int | None = None
    reads: list = None

    def read(self, name):
        if len(self.reads) == self.stop:
            raise KeyboardInterrupt
        self.reads.append(name)
        return super().read(name)


def write(out, source, stop=None, said=None, **changes):
    """Write a small labelled data set; return how many photos were read."""
    folder = StoppingFolder(source / "images", stop, [])
    names = photo_sources.list_photos(folder.path)[0]
    labels = np.random.default_rng(0).normal(size=(NUM, 2)).astype(np.float32)
    items = [conversion.Item(name, name, label=row) for name, row in zip(names, labels)]
    options = {"resolution": 8, "fit": "pad", "encoding": "raw", **changes}
    recipe = conversion.ConversionSpec(folder, (), label_size=2, **options)
    with contextlib.suppress(KeyboardInterrupt):
        writer.write_dataset(out, recipe, writer.shuffle_items(items, 0), (30, 20),
                             [{"id": "x", "reason": "before"}], options, 1,
                             (said if said is not None else []).append)
    return len(folder.reads)


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """Return the bytes of an uninterrupted data set."""
    out = tmp_path_factory.mktemp("whole") / "set"
    assert write(out, source) == NUM
    assert len(read_jsonl(out / "skipped.jsonl")) == 4 and not (out / ".partial").exists()
    assert open_dataset(out).splits == {"train": NUM - 53, "val": 30, "test": 20}
    return folder_bytes(out)


@pytest.mark.parametrize("stop", [0, 127, 128, 129, 256, 299])
def test_a_stopped_run_continues_after_its_last_checkpoint(source, whole, tmp_path, stop):
    out, said = tmp_path / "set", []
    assert write(out, source, stop) == stop
    assert not (out / "dataset.json").exists() and not (out / "train").exists()
    assert write(out, source, said=said) == NUM - stop // 128 * 128
    assert folder_bytes(out) == whole
    assert len(said) == (stop > 127)
    assert all(f"after the {stop // 128 * 128} of the 300" in line for line in said)


def test_a_run_stopped_many_times(source, whole, tmp_path):
    for stop in (130, 5, 130, 0):
        assert write(tmp_path / "set", source, stop) == stop
    assert write(tmp_path / "set", source) == NUM - 256
    assert folder_bytes(tmp_path / "set") == whole


@pytest.mark.parametrize("after", [False, True])
def test_a_stop_at_any_step_of_the_end_does_no_harm(source, whole, tmp_path, monkeypatch, after):
    """Files are renamed into place one by one; it may stop before or after any of them."""
    rename, unlink, out, steps = os.replace, Path.unlink, tmp_path / "set", 0

    def stopping(old, new):
        nonlocal left
        left -= 1
        if left < 0 and not after:
            raise KeyboardInterrupt
        rename(old, new)
        if left < 0:
            raise KeyboardInterrupt

    write(out, source, 299)
    while not (out / "dataset.json").exists():
        left = steps
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", stopping)
            # A killed process does not clean up (atomic_path, the only user of missing_ok).
            patch.setattr(Path, "unlink",
                          lambda path, missing_ok=False: missing_ok or unlink(path))
            reads = write(out, source)
        for path in out.rglob(".*.tmp"):  # of another process
            path.rename(path.with_name(path.name.replace(f".{os.getpid()}.", ".1.")))
        assert reads == (0 if steps else NUM - 256), "photos are not converted again"
        steps += 1
    assert steps > 8, "labels and folders of three splits, and three files"
    write(out, source)
    writer.remove_work(out)
    assert folder_bytes(out) == whole


@pytest.mark.parametrize("damage", ["cut", "missing", "no checkpoint", "broken journal"])
def test_damaged_leftovers_are_made_again(source, whole, tmp_path, damage):
    out, said = tmp_path / "set", []
    write(out, source, 200)
    file = out / ".partial" / "train" / "train-r03.tfrecords"
    book = out / ".partial" / journal.FILE_NAME
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:1000])
    elif damage == "missing":
        file.unlink()
    elif damage == "no checkpoint":
        book.write_bytes(b"".join(line for line in book.read_bytes().splitlines(True)
                                  if b"checkpoint" not in line))
    else:
        book.write_bytes(book.read_bytes()[:50])
    assert write(out, source, said=said) == NUM
    assert folder_bytes(out) == whole
    assert len(said) == (damage in ("cut", "missing"))


def test_records_after_the_checkpoint_are_dropped(source, whole, tmp_path):
    write(tmp_path / "set", source, 200)
    for path in (tmp_path / "set" / ".partial").rglob("*"):
        if path.is_file():
            with open(path, "ab") as file:
                file.write(b'{"id": 1, "reas')
    assert write(tmp_path / "set", source) == NUM - 128
    assert folder_bytes(tmp_path / "set") == whole


def test_leftovers_of_other_options_are_replaced_and_reported(source, whole, tmp_path):
    said = []
    write(tmp_path / "set", source, 200, resolution=16)
    assert write(tmp_path / "set", source, said=said) == NUM
    assert len(said) == 1 and "replacing the unfinished files" in said[0]
    assert "resolution is 16, not 8" in said[0]
    assert folder_bytes(tmp_path / "set") == whole


def test_leftovers_of_other_photos_are_replaced(source, whole, tmp_path):
    """The same options, but the list of photos has changed since."""
    write(tmp_path / "set", source, 200)
    book = tmp_path / "set" / ".partial" / journal.FILE_NAME
    first, rest = book.read_bytes().split(b"\n", 1)
    header = json.loads(first)
    header["photos"] = "0" * 64
    book.write_bytes(json.dumps(header).encode() + b"\n" + rest)
    assert write(tmp_path / "set", source) == NUM
    assert folder_bytes(tmp_path / "set") == whole


def test_photos_that_were_all_unusable_are_tried_again(source, whole, tmp_path):
    empty = tmp_path / "source" / "images"
    empty.mkdir(parents=True)
    for path in (source / "images").iterdir():
        (empty / path.name).touch()
    with pytest.raises(UserError, match="no photo is left for training"):
        write(tmp_path / "set", empty.parent)
    assert write(tmp_path / "set", source) == NUM
    assert folder_bytes(tmp_path / "set") == whole


def test_train_refuses_an_unfinished_data_set(source, tmp_path, monkeypatch, capsys):
    write(tmp_path / "set", source, 200)
    monkeypatch.setattr(sys, "argv", ["train.py", "--variant=rgb", f"--data={tmp_path / 'set'}",
                                      "--device=cpu", f"--results={tmp_path / 'results'}"])
    with pytest.raises(SystemExit) as leaving:
        cli.run_main(train.main)
    assert leaving.value.code == 2 and "an unfinished one" in capsys.readouterr().err


def command(source, out, workers=1):
    """Start the real command in a separate process group."""
    return subprocess.Popen(
        [sys.executable, REPOSITORY / "dataset_tool.py", "create_modanet", "--source", source,
         "--out", out, "--resolution", "16", "--num-val", "20", "--num-test", "20", "--workers",
         str(workers)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)


def assert_checkpoint_holds(out):
    """Assert that everything the last checkpoint counts is in the files, wherever they are now."""
    path = out / ".partial" / journal.FILE_NAME
    lines = path.read_bytes().splitlines(True) if path.exists() else []
    sizes = [json.loads(line)["checkpoint"] for line in lines
             if b"checkpoint" in line and line.endswith(b"\n")]
    for name, size in (sizes[-1] if sizes else {}).items():
        file = next(folder / name for folder in (out / ".partial", out) if (folder / name).exists())
        assert file.stat().st_size >= size


def content_of(out):
    """Return the bytes of a data set without its page, which is written last."""
    return {name: data for name, data in folder_bytes(out).items() if name != "report.html"}


@pytest.mark.slow
def test_runs_killed_at_random_times_end_with_the_same_bytes(source, tmp_path):
    seed = int(os.environ.get("KILL_SEED", random.SystemRandom().randrange(2**32)))
    print(f"seed {seed}; repeat with KILL_SEED={seed}")
    times = random.Random(seed)
    started = time.perf_counter()
    process = command(source, tmp_path / "whole" / "set")
    assert process.communicate()[1] == b"" and process.returncode == 0
    duration = time.perf_counter() - started
    expected = content_of(tmp_path / "whole" / "set")
    out, finished = tmp_path / "0" / "set", 0
    for _ in range(KILLS):
        process = command(source, out)
        time.sleep(times.uniform(0.2, 1) * duration)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if (out / "dataset.json").exists():
            assert content_of(out) == expected
            finished += 1
            out = tmp_path / str(finished) / "set"
        elif out.exists():
            with pytest.raises(UserError, match="unfinished"):
                open_dataset(out)
            assert_checkpoint_holds(out)
    process = command(source, out)
    assert process.communicate()[1] == b"" and process.returncode == 0
    assert content_of(out) == expected
    assert folder_bytes(out) == folder_bytes(tmp_path / "whole" / "set")


@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_parent(source, tmp_path):
    process = command(source, tmp_path / "set", workers=2)
    book = tmp_path / "set" / ".partial" / journal.FILE_NAME
    while not (book.exists() and b"checkpoint" in book.read_bytes()):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    try:
        process.communicate(timeout=30)  # ends when the last worker closes the shared pipe
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process = command(source, tmp_path / "set", workers=2)
    assert process.communicate()[1] == b"" and process.returncode == 0


@pytest.mark.parametrize("begun", [False, True])
def test_other_records_are_not_removed(source, tmp_path, begun):
    """--out can be a folder of TFRecords made by something else: they are not removed."""
    out = tmp_path / "set"
    if begun:
        write(out, source, 200)
    mine = out / "train" / ("mine.tfrecords" if begun else "train-r77.tfrecords")
    mine.parent.mkdir(parents=True)
    mine.write_text("precious")
    with pytest.raises(UserError, match="in the way, and no part of an interrupted run"):
        write(out, source)
    assert mine.read_text() == "precious"


def test_photos_of_another_folder_are_not_mixed_in(source, tmp_path):
    """The ids are the same, but the photos are not, as if the folder were a bad copy."""
    shutil.copytree(source, tmp_path / "other")
    rng = np.random.default_rng(1)
    for path in (tmp_path / "other" / "images").iterdir():
        path.write_bytes(photo_bytes(rng, 20, 30))
    said = []
    write(tmp_path / "set", source, 200)
    assert write(tmp_path / "set", tmp_path / "other", said=said) == NUM
    assert len(said) == 1 and "photos_from is" in said[0]
    write(tmp_path / "new" / "set", tmp_path / "other")
    assert folder_bytes(tmp_path / "set") == folder_bytes(tmp_path / "new" / "set")
