"""Lines of samples.jsonl from any source."""

import json

import pytest

from dnnlib.util import UserError
from generation import pairs

RECORD = {"seed": 3, "image": "images/0000003.png", "label": "labels/0000003.png",
          "overlay": "overlays/0000003.png", "digest": "d", "resolution": 16, "fade": 0.0,
          "trunc": 1.0, "trunc_cutoff": 8, "noise": "random", "network": "a.safetensors",
          "sha256": "s"}


def read(folder, line):
    """Return the records of a file with one line."""
    (folder / "samples.jsonl").write_text(line + "\n")
    return pairs.read_samples(folder / "samples.jsonl")


def test_a_complete_record_is_read(tmp_path):
    for more in ({}, {"box": [0, 0, 8, 16]}, {"retextured": [{"network": "d"}]}):
        assert read(tmp_path, json.dumps({**RECORD, **more})) == [{**RECORD, **more}]


@pytest.mark.parametrize("more", [
    {"seed": 3.0}, {"seed": True}, {"image": "../../a.png"}, {"label": "/etc/passwd"},
    {"overlay": 5}, {"box": [0, 0, 8]}, {"box": ["a", 0, 8, 8]}, {"retextured": 5},
    {"noise": ["random"]}, {"trunc": "1"}, {"digest": 5}, {"resolution": "x"},
    {"resolution": 16.0}, {"box": [0, 0, 8, 17]}, {"box": [-1, 0, 8, 16]}, {"box": [8, 0, 8, 16]},
    {"box": [0, 9, 8, 8]}, {"box": [0, 0, 8, 8], "resolution": "x"}])
def test_impossible_values_are_refused(tmp_path, more):
    with pytest.raises(UserError, match="line 1: not a sample's record") as error:
        read(tmp_path, json.dumps({**RECORD, **more}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("line", ["[]", "{", "[" * 100_000, "5"])
def test_other_lines_are_refused(tmp_path, line):
    with pytest.raises(UserError, match="line 1: not a sample's record"):
        read(tmp_path, line)
