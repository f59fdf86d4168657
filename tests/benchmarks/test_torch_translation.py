"""The benchmark against plain PyTorch: our side at miniature size, and both if torch is installed.
"""

import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import torch_translation
from benchmarks.result import ROOT
from benchmarks.sides import translation_memory_side
from benchmarks.torch_stylegan import check_torch
from benchmarks.torch_translation import OurSide, in_turns, parse_options, sizes
from dnnlib.util import UserError
from training.snapshots import save_snapshot
from training.translation.translator import Translator

PYTHON = os.environ.get("TORCH_PYTHON", sys.executable)
TINY = ["--resolution=16", "--fmaps=4", "--strides=1", "--rounds=1", "--threads=1"]
SIZES = {"resolution": 16, "minibatch": 1, "fmaps": 4, "strides": 1}
METHODS = {"cyclegan": ["--blocks=1"], "pix2pix": ["--method=pix2pix", "--channels=3"]}


@pytest.mark.parametrize("method", METHODS)
def test_our_side_runs_a_training_step(method):
    side = OurSide(parse_options([*TINY, *METHODS[method]]))
    before = {name: network.get_arrays() for name, network in side.method.networks.items()}
    tf.config.run_functions_eagerly(True)
    try:
        assert len(side.run()) > 5 and side.steps == 1
    finally:
        tf.config.run_functions_eagerly(False)
    for name, network in side.method.networks.items():
        assert any((array != before[name][key]).any()
                   for key, array in network.get_arrays().items())
        assert side.parameters[name] == sum(
            before[name][key].size for key in network.trainables)


def test_our_side_draws_like_generate(tmp_path):
    """Photos from its maps, with the dropout of a seed; nothing is trained."""
    side = OurSide(parse_options([*TINY, *METHODS["pix2pix"], "--generation", "--minibatch=2"]))
    network = side.method.networks["G"]
    save_snapshot(tmp_path / "run.safetensors", {"G": network}, {
        "variant": "pix2pix", "classes": ["a", "b", "c"], "kimg": 0.0})
    before = network.get_arrays()
    tf.config.run_functions_eagerly(True)
    try:
        photos = side.draw()
        np.testing.assert_allclose(photos, Translator(tmp_path / "run.safetensors").translate(
            side._batch.images[..., 3:].numpy(), [0, 0]), atol=1e-5)
    finally:
        tf.config.run_functions_eagerly(False)
    assert photos.shape == (2, 16, 16, 3) and np.ptp(photos) > 0 and network.dropout_shapes
    assert side.steps == 0 and all(
        (array == before[key]).all() for key, array in network.get_arrays().items())


def test_a_result_describes_its_step():
    """All options of the method; parts of a minibatch are for the memory side only."""
    assert sizes(parse_options([*TINY, *METHODS["cyclegan"]])) == {
        "method": "cyclegan", **SIZES, "blocks": 1, "minibatch_per_gpu": 0}
    assert sizes(parse_options([*TINY, *METHODS["pix2pix"]])) == {
        "method": "pix2pix", **SIZES, "channels": 3}
    parts = translation_memory_side.parse_options(["--minibatch=4", "--minibatch-per-gpu=2"])
    assert sizes(parts)["minibatch_per_gpu"] == 2
    with pytest.raises(UserError, match="--minibatch-per-gpu"):
        parse_options(["--minibatch-per-gpu=2"])


def test_sides_alternate_in_starting(monkeypatch):
    monkeypatch.setattr(torch_translation, "PAUSE_SEC", 0)
    began = itertools.count()
    assert in_turns([lambda: ("ours", next(began)), lambda: ("torch", next(began))], 3) == [
        [("ours", 0), ("ours", 3), ("ours", 4)], [("torch", 1), ("torch", 2), ("torch", 5)]]


@pytest.mark.slow
@pytest.mark.parametrize("method, options, timed", [
    ("cyclegan", [], "steps"), ("pix2pix", [], "steps"),
    ("pix2pix", ["--generation"], "generation")])
def test_both_sides_at_miniature_size(method, options, timed):
    """Networks must be of equal size; in a separate process, which sets its threads."""
    try:
        check_torch(PYTHON)
    except UserError as error:
        pytest.skip(f"{error} (or TORCH_PYTHON)")
    command = [sys.executable, "-m", "benchmarks.torch_translation", *TINY, *METHODS[method],
               *options, f"--torch-python={PYTHON}"]
    result = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)
    assert (result["method"], result["timed"]) == (method, timed)
    assert len(result["parameters"]) in (2, 4)
    assert (result.get("blocks"), result.get("channels"), result["rounds"]) == {
        "cyclegan": (1, None, 1), "pix2pix": (None, 3, 1)}[method]
    assert result["ours_faster"]["wall"] > 0 and result["torch"]["sec_per_image"] > 0


@pytest.mark.parametrize("argv, message", [
    (["--channels=3"], "--channels: without effect: cyclegan has none"),
    (["--method=pix2pix", "--blocks=6"], "--blocks: without effect: pix2pix has none"),
    (["--generation"], "--generation: without effect: only that of pix2pix is timed")])
def test_options_that_make_no_sense_are_refused(argv, message):
    with pytest.raises(UserError, match=message):
        parse_options(argv)
