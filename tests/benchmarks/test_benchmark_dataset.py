"""The benchmark of data sets: its clock, its memory, its source, and one small complete run."""

import collections
import json
import os
import sys
import time
import types

import numpy as np
import pytest

from benchmarks import dataset, processes
from dnnlib.util import UserError, read_json

SLEEPER = "import time; x = b'x' * {}; time.sleep({})"
PARENT = ("import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', sys.argv[1]]); "
          "sys.exit(child.wait())")


def spin(seconds):
    """Use up processor time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_a_stage_has_only_its_own_time(monkeypatch):
    module = types.ModuleType("stages_of_a_test")
    module.inner = lambda: spin(0.04)
    module.outer = lambda: (spin(0.02), module.inner(), module.inner())
    monkeypatch.setitem(sys.modules, module.__name__, module)
    times, inner = collections.Counter(), module.inner
    with dataset.timed_functions({(module.__name__, "inner"): "in",
                                  (module.__name__, "outer"): "out"}, times):
        module.outer()
    assert times["in"] == pytest.approx(0.08, abs=0.01)
    assert times["out"] == pytest.approx(0.02, abs=0.01)
    assert module.inner is inner  # and nothing stays changed
    module.outer()
    assert sum(times.values()) == pytest.approx(0.1, abs=0.01)


def test_every_stage_is_a_function_of_the_real_code():
    with dataset.timed_functions(dataset.STAGES, collections.Counter()):
        pass


def test_memory_of_descendants_counts(tmp_path):
    """A process that only waits for one of 150 MB."""
    child = SLEEPER.format(150_000_000, 0.5)
    result = processes.run_measured([sys.executable, "-c", PARENT, child], tmp_path)
    assert 150 < result["peak_mb"] < 250 and result["peak_processes"] == 2
    assert result["wall_sec"] > 0.5 and result["cpu_sec"] > 0


def test_memory_of_one_process_equals_the_systems():
    block = np.ones(50_000_000, np.uint8)
    assert processes.pss_bytes(os.getpid()) > block.nbytes
    assert processes.process_tree(os.getpid())[0] == os.getpid()
    assert processes.pss_bytes(2**22 + 1) == 0


def test_a_failed_command_is_reported_with_its_reason(tmp_path):
    with pytest.raises(UserError, match="broken here"):
        processes.run_measured([sys.executable, "-c", "raise SystemExit('broken here')"], tmp_path)


@pytest.mark.parametrize("options", [["--num-images=19"], ["--rounds=0"], ["--workers=0"],
                                     ["--plan=-1"], ["--encoding=jpeg"]])
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(UserError):
        dataset.parse_options(options)


@pytest.mark.slow
def test_one_small_run(tmp_path, capsys):
    out = tmp_path / "result.json"
    argv = ["--num-images=20", "--resolution=32", "--rounds=1", "--round-sec=0.05", "--plan=30",
            "--workers=1", f"--out={out}"]
    assert dataset.main(argv) == 0
    result = read_json(out)
    assert json.loads(capsys.readouterr().out) == result
    stages = result["stages_ms"]
    assert list(stages) == [*dataset.STAGES.values(), "sum"]
    assert sum(stages.values()) == pytest.approx(2 * stages["sum"], abs=0.01)
    assert min(stages.values()) > 0
    assert set(result["conversions"]) == {"5", "20"} and set(result["reading"]) == {"32"}
    assert sum(result["mb_per_photo_by_resolution"].values()) == pytest.approx(
        result["mb_per_photo"], abs=1e-4)
    assert result["plan"]["photos"] == 30


def test_the_source_repeats_photos_with_their_annotations(tmp_path):
    small, large = tmp_path / "small", tmp_path / "large"
    source = tmp_path / "drawn"
    dataset.synthetic.draw_all(source, dataset.synthetic.Drawing(3, 0), 1)
    for raw, count in ((small, 3), (large, 7)):
        dataset.make_source(source, raw, count)
    few, many = (dataset.annotations.load_annotations(
        raw / "annotations" / dataset.raw_files.TRAIN_JSON) for raw in (small, large))
    assert list(many.photos) == [1, 2, 3, 4, 5, 6, 7] and not many.defects
    for image_id, photo in many.photos.items():
        original = few.photos[(image_id - 1) % 3 + 1]
        assert [part.label for part in photo.instances] == [
            part.label for part in original.instances]
        assert (large / "images" / f"{image_id:07d}.jpg").read_bytes() == (
            small / "images" / f"{original.image_id:07d}.jpg").read_bytes()
