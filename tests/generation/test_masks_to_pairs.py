"""A user's own set with any number of classes, from files to generated pairs, by the commands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.dataprep.test_masks import make_masked
from tests.tools.data_helpers import read_jsonl

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--preset=demo-32", "--device=cpu", "--resolution=16", "--fmap-base=64", "--fmap-max=8",
        "--latent-size=8", "--mapping-layers=2", "--hold-kimg=0.016", "--fade-kimg=0.016",
        "--rgb-kimg=0.064", "--binary-kimg=0.016", "--classes-kimg=0.032", "--minibatch=8",
        "--tick-kimg=0.016", "--minibatch-repeats=1", "--network-ticks=1", "--metrics=none"]


def command(folder, script, *arguments):
    """Run a script as a user does; return its output."""
    done = subprocess.run([sys.executable, ROOT / script, *map(str, arguments)], cwd=folder,
                          env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("num_classes, variant", [(1, "2d"), (4, "2d"), (40, "c")])
def test_from_masks_to_pairs(tmp_path, num_classes, variant):
    classes = [f"thing {i}" for i in range(1, num_classes + 1)]
    make_masked(tmp_path / "mine", num=40, classes=classes, side=24)
    command(tmp_path, "dataset_tool.py", "create_from_masks", "--source=mine", "--out=data",
            "--resolution=16", "--num-val=8", "--num-test=8")
    command(tmp_path, "train.py", f"--variant={variant}", "--data=data", *TINY)
    run, = (tmp_path / "results").iterdir()
    command(tmp_path, "generate.py", "--seeds=0-3", "--out=sheets")
    command(tmp_path, "generate.py", "--num=6", "--out=pairs", "--trunc=1")
    assert "classes8" in command(tmp_path, "run_metrics.py", "--data=data", "--metrics=classes8")
    counted = json.loads((run / "classes8.json").read_text())["classes"]
    assert sorted(entry["name"] for entry in counted) == sorted(classes)

    shown = set()
    for sample in read_jsonl(tmp_path / "pairs" / "samples.jsonl"):
        with Image.open(tmp_path / "pairs" / sample["label"]) as picture:
            labels = np.asarray(picture)
        assert picture.mode == "P" and labels.shape == (16, 16) and labels.max() <= num_classes
        assert {classes[label - 1] for label in np.unique(labels[labels > 0])} == set(
            sample["present"])
        shown |= set(sample["present"])
    coco = json.loads(next((tmp_path / "pairs" / "annotations").iterdir()).read_text())
    assert [category["name"] for category in coco["categories"]] == classes
    assert {classes[a["category_id"] - 1] for a in coco["annotations"]} == shown and shown
    # The pairs are a labelled set themselves.
    command(tmp_path, "dataset_tool.py", "create_from_masks", "--source=pairs", "--out=again",
            "--resolution=16", "--num-test=0")
    assert json.loads((tmp_path / "again/dataset.json").read_text())["num_channels"] == \
        3 + num_classes
