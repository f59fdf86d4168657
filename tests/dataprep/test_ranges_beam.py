"""Data sets made on Apache Beam equal those of the serial command, to the byte."""

import sys
import time
from dataclasses import dataclass

import pytest

pytest.importorskip("apache_beam", reason="Apache Beam is not installed (requirements-beam.txt)")

import dataset_tool
from dataprep import conversion, photo_sources, ranges, writer
from dataprep.coco import annotations
from dnnlib import cli
from dnnlib.beam_runner import BeamRunner
from dnnlib.data import coco
from dnnlib.data.dataset import open_dataset
from tests.tools.beam import IN_MEMORY, NOISE, kill_a_worker, processes, session, wait_until
from tests.tools.data_helpers import annotations_path, folder_bytes, make_source

NUM = 40
pytestmark = [pytest.mark.slow, *NOISE]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Make photos with annotations; three of the files are not photos."""
    path = make_source(tmp_path_factory.mktemp("source"), NUM)
    for image_id in (8, 20, 33):
        (path / "images" / f"{image_id:07d}.jpg").write_bytes(b"<html>not found</html>")
    return path


@dataclass(frozen=True)
class SlowFolder(photo_sources.PhotoFolder):
    """A folder that is slow to read, so that there is time to kill its readers."""

    def read(self, name):
        time.sleep(1)
        return super().read(name)


def write(out, source, runner=None, kind=photo_sources.PhotoFolder):
    """Write a small data set with maps, in ten ranges."""
    ranges.PHOTOS = 4
    photos = annotations.load_annotations(annotations_path(source)).photos
    items = [conversion.Item(i, f"{i:07d}.jpg", photo) for i, photo in photos.items()]
    spec = conversion.ConversionSpec(kind(source / "images"), coco.MODANET_CLASSES, 16, "pad",
                                     "webp")
    reported = []
    writer.write_dataset(out, spec, writer.shuffle_items(items, 0), (5, 4), [], {"a": 1}, 1,
                         reported.append, runner and BeamRunner("DirectRunner", runner))
    return reported


@pytest.fixture(autouse=True)
def ranges_are_as_before(monkeypatch):
    monkeypatch.setattr(ranges, "PHOTOS", ranges.PHOTOS)


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "set"
    write(out, source)
    assert open_dataset(out).splits == {"train": NUM - 12, "val": 5, "test": 4}
    return folder_bytes(out)


@pytest.mark.parametrize("options", [IN_MEMORY, processes(2), processes(4)],
                         ids=["in memory", "two processes", "four"])
def test_the_same_bytes_as_in_one_process(source, whole, tmp_path, options):
    write(tmp_path / "set", source, options)
    assert folder_bytes(tmp_path / "set") == whole


def begin(out, source):
    """Do the same slowly, with two workers; for a separate process."""
    cli.run_main(lambda _: write(out, source, processes(2), SlowFolder) and None)


@pytest.mark.parametrize("killed", ["worker", "all"])
def test_killed_and_continued(source, whole, tmp_path, killed):
    """With another number of workers, which do not repeat finished work."""
    out = tmp_path / "set"
    code = ("import sys; from pathlib import Path; from tests.dataprep import test_ranges_beam\n"
            "test_ranges_beam.begin(*map(Path, sys.argv[1:]))")
    with session(code, out, source) as process:
        wait_until(lambda: any(out.glob(".partial/ranges-*/" + ranges._NAMES)), process)
        if killed == "worker":
            kill_a_worker(process)
            error = process.communicate(timeout=200)[1].decode()
            assert process.returncode == 2 and "error: a worker process died" in error
    done = sorted(out.glob(".partial/ranges-*/" + ranges._NAMES))
    assert 0 < len(done) < 10 and not (out / "dataset.json").exists()
    reported = write(out, source, IN_MEMORY if killed == "all" else processes(3))
    assert reported == [f"{len(done)} of 10 ranges of 4 photos are converted already"]
    assert folder_bytes(out) == whole


def test_the_command(source, tmp_path, monkeypatch, capsys):
    """Relative paths too, and a dry run."""
    monkeypatch.chdir(tmp_path)
    own = ["create_modanet", f"--source={source}", "--resolution=16", "--workers=1"]
    assert dataset_tool.main([*own, "--out=1/set"]) == 0
    assert dataset_tool.main([*own, "--out=2/set", "--runner=DirectRunner", "--dry-run"]) == 0
    assert "of one core (from a few of them)" in capsys.readouterr().out
    assert not (tmp_path / "2").exists()
    assert dataset_tool.main([*own, "--out=2/set", "--runner=DirectRunner", "--", *IN_MEMORY]) == 0
    assert folder_bytes(tmp_path / "1") == folder_bytes(tmp_path / "2")
    monkeypatch.setattr(sys, "argv", ["dataset_tool.py", *own, "--out=3", "--runner=DirectRunner",
                                      "--", "--direct_num_worker=2"])
    with pytest.raises(SystemExit) as leaving:
        cli.run_main(dataset_tool.main)
    assert leaving.value.code == 2
    assert "error: --: Beam knows no option --direct_num_worker\n" in capsys.readouterr().err
