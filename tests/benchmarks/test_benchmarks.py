"""The benchmark of the detector: ratios by hand, order of sides, and sides that cannot run."""

import subprocess
import sys

import pytest

from benchmarks.detector import check_torch, parse_options, read_answer, run_rounds, summary
from dnnlib.util import UserError

ECHO = ("import json, sys\n"
        "print(json.dumps({'version': sys.argv[1]}), flush=True)\n"
        "for number, line in enumerate(sys.stdin):\n"
        "    print(json.dumps({'wall_sec': number + 1, 'line': line}), flush=True)\n")


def start(*arguments):
    """Start a side that answers like the real ones."""
    return subprocess.Popen([sys.executable, *arguments], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, text=True)


def stop(*sides):
    for side in sides:
        side.communicate()


def test_sides_alternate(monkeypatch):
    monkeypatch.setattr("benchmarks.detector.PAUSE_SEC", 0)
    sides = {name: start("-c", ECHO, name) for name in ("ours", "torch_fidelity")}
    try:
        versions, times = run_rounds(sides, 3)
    finally:
        stop(*sides.values())
    assert versions == {name: {"version": name} for name in sides}
    assert {name: [t["wall_sec"] for t in rows] for name, rows in times.items()} == {
        "ours": [1, 2, 3], "torch_fidelity": [1, 2, 3]}


def test_ratio_by_hand():
    """Ours takes 2, 4, 2 s for eight images, theirs 4, 4, 8 s: ratios 2, 1, 4."""
    times = {"ours": [{"wall_sec": t, "cpu_sec": 2 * t} for t in (2, 4, 2)],
             "torch_fidelity": [{"wall_sec": t, "cpu_sec": t} for t in (4, 4, 8)]}
    result = summary(times, 8)
    assert result["ours"] == {"images_per_sec": 4, "images_per_sec_best": 4,
                              "cpu_sec_per_image": 0.5}
    assert result["torch_fidelity"]["images_per_sec"] == 2
    assert result["throughput_ratio"] == 2 and result["throughput_ratio_quartiles"] == [1.5, 3]
    assert "throughput_ratio" not in summary({"ours": times["ours"]}, 8)


def test_a_side_that_died_is_named():
    side = start("-c", "pass")
    with pytest.raises(UserError, match="ours: ended without an answer; run it by hand"):
        read_answer("ours", side)
    stop(side)


def test_without_torch_fidelity_the_error_says_how_to_get_it(tmp_path):
    with pytest.raises(UserError, match="cannot be run"):
        check_torch(tmp_path / "python")
    fake = tmp_path / "fake"
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(0o755)
    with pytest.raises(UserError, match=r"has no torch-fidelity: .*requirements-torch\.txt"):
        check_torch(fake)
    assert parse_options([]).torch_python == sys.executable
