"""Official networks in our commands: convert, export, pictures, metrics, training."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import generate
import run_metrics
import train
from dnnlib.safe_pickle import is_pickle
from dnnlib.util import UserError
from tests.tools.data_helpers import FOUR, make_dataset, random_image
from tests.tools.metrics_helpers import graph_bytes, small_arrays
from tests.tools.official_files import official_state, tiny_networks, write_pickle
from training.method_config import as_option
from training.official import __main__ as official
from training.snapshots import load_snapshot, read_header, save_snapshot

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tiny(tmp_path):
    """Return the path of a small official pickle."""
    return write_pickle(tmp_path / "network-snapshot-000123.pkl", tiny_networks()[0])


def test_commands_from_the_shell(tiny, tmp_path):
    def call(*options):
        return subprocess.run([sys.executable, "-m", "training.official", *map(str, options)],
                              cwd=ROOT, capture_output=True, text=True, check=False)

    help_text = call("--help")
    assert help_text.returncode == 0 and "convert" in help_text.stdout
    failed = call("convert", tmp_path / "nothing.pkl", tmp_path / "x.safetensors")
    assert failed.returncode == 2 and failed.stdout == ""
    assert failed.stderr == f"error: {tmp_path}/nothing.pkl: no such file\n"


@pytest.mark.parametrize("options, message", [
    (["convert", "README.md", "x.safetensors"], "not a pickle"),
    (["convert", "README.md", "x.pkl"], r"name of a \.safetensors file"),
    (["export", "README.md", "x.safetensors"], r"name of a \.npz file"),
    (["export", "README.md", "{}/x.npz"], "README.md: cut short, damaged or not a snapshot"),
    (["export", "77", "{}/x.npz", "--results={}"], "no such snapshot"),
    (["convert"], "required"), ([], "required"), (["import", "a", "b"], "invalid choice")])
def test_wrong_command_lines(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=message):
        official.main([option.format(tmp_path) for option in options])
    assert not list(tmp_path.iterdir())


def test_a_snapshot_with_two_critics_exports_the_joint_one(tiny, tmp_path, capsys):
    snapshot = load_snapshot(tiny)
    wide = load_snapshot(write_pickle(tmp_path / "w.pkl", tiny_networks(num_channels=5)[0]))
    networks = {"D_rgb": snapshot.networks["D_rgb"], **wide.networks}
    save_snapshot(tmp_path / "x.safetensors", networks, {
        **wide.header, "official_lod": {}, "lod": {"resolution": 8, "fade": 0.5}})
    options = ["export", tmp_path / "x.safetensors", tmp_path / "x.npz"]
    assert official.main([str(option) for option in options]) == 0
    assert "D is D_joint" in capsys.readouterr().out
    exported = np.load(tmp_path / "x.npz")
    assert exported["D/FromRGB_lod0/weight"].shape[2] == 5
    assert exported["D/lod"] == exported["G/G_synthesis/lod"] == 1.5


def test_files_are_recognised_by_their_content(tiny, tmp_path):
    """A pickle, a snapshot, and neither, whatever their names."""
    snapshot = load_snapshot(tiny)
    save_snapshot(tmp_path / "snapshot.pkl", snapshot.networks, snapshot.header)
    assert load_snapshot(tmp_path / "snapshot.pkl").header["digest"] == snapshot.header["digest"]
    renamed = tiny.rename(tmp_path / "pickle.safetensors")
    assert load_snapshot(renamed, names=("Gs",)).networks["Gs"].digest() == \
        snapshot.header["digest"]
    with pytest.raises(UserError, match="not a pickle"):
        official.main(["convert", str(tmp_path / "snapshot.pkl"), str(tmp_path / "x.safetensors")])


def test_pictures_of_a_pickle(tiny, tmp_path, capsys):
    assert generate.main([f"--network={tiny}", "--seeds=0-3", f"--out={tmp_path / 'out'}"]) == 0
    assert "RGB only" in capsys.readouterr().out
    assert len(list((tmp_path / "out").glob("*.png"))) == 1


def test_metrics_of_a_pickle(tiny):
    """It names no data set, so the reals must be given."""
    with pytest.raises(UserError, match="--reals=DIR"):
        run_metrics.main([f"--network={tiny}", "--metrics=fid1k"])


def test_results_of_a_read_only_folder(tmp_path, labelled, monkeypatch):
    """A pickle on a shared disk: the results of run_metrics.py go below --results."""
    (tmp_path / "shared").mkdir()
    path = write_pickle(tmp_path / "shared" / "x.pkl", tiny_networks(resolution=8)[0])
    (tmp_path / "small.pb").write_bytes(graph_bytes(small_arrays()))
    monkeypatch.setattr(os, "access", lambda where, mode: where != path.parent)
    monkeypatch.setenv("STYLE_C_GAN_CACHE", str(tmp_path / "cache"))
    options = [f"--network={path}", f"--reals={labelled}", "--split=train", "--metrics=fid16",
               f"--inception={tmp_path / 'small.pb'}", f"--results={tmp_path / 'results'}"]
    assert run_metrics.main(options) == 0
    assert [file.name for file in path.parent.iterdir()] == ["x.pkl"]
    record = json.loads((tmp_path / "results/metrics-shared/metric-fid16.jsonl").read_text())
    assert record["kimg"] is None and record["results"]["fid16"] > 0


@pytest.fixture
def labelled(tmp_path):
    rng = np.random.default_rng(0)
    images = np.stack([random_image(rng, 7, 8) for _ in range(8)])
    return make_dataset(tmp_path / "labelled", {"train": images}, FOUR)


SIZES = ("resolution", "fmap_base", "fmap_max", "latent_size", "mapping_layers")
TAKEN = ["--resolution=8", "--fmap-base=64", "--fmap-max=8", "--latent-size=8",
         "--mapping-layers=2"]  # in which tiny_networks differ from the preset


def training_options(network, data, folder):
    return [f"--init-from={network}", "--variant=2d", f"--data={data}", "--device=cpu", "--gpus=2",
            f"--results={folder}", "--metrics=none", "--binary-kimg=0.016", "--classes-kimg=0",
            "--minibatch=8", "--minibatch-repeats=2", "--tick-kimg=0.016"]


@pytest.mark.slow
def test_an_official_network_starts_the_channel_stages(tmp_path, labelled, capsys):
    """G has lod 0, and the average lags behind: this one can continue, at its sizes."""
    path = write_pickle(tmp_path / "x.pkl", tiny_networks((0.0, 0.0, 0.9), resolution=8)[0])
    assert train.main(training_options(path, labelled, tmp_path / "results")) == 0
    told = capsys.readouterr().out
    assert "entering stage binary (4 channels)" in told
    assert f"from the snapshot of --init-from: {' '.join(TAKEN)}" in told
    final = load_snapshot(tmp_path / "results" / "00000-2d-labelled-8/network-final.safetensors")
    assert set(final.networks) == {"G", "Gs", "D_rgb", "D_joint"}
    assert final.networks["Gs"].config["num_channels"] == 7
    stored = json.loads((final.path.parent / "training_options.json").read_text())
    assert [as_option(option, stored[option]) for option in SIZES] == TAKEN


def test_contradicting_options_name_the_one_to_give(tmp_path, labelled, capsys):
    path = write_pickle(tmp_path / "x.pkl", tiny_networks(resolution=8)[0])
    options = training_options(path, labelled, tmp_path / "results")
    assert train.main([*options, "--fmap-max=8", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert f"--init-from: {' '.join(o for o in TAKEN if o != '--fmap-max=8')}\n" in told
    for option, other in zip(TAKEN[1:], ("--fmap-base=32", "--fmap-max=4", "--latent-size=4",
                                         "--mapping-layers=1")):
        with pytest.raises(UserError, match=f"give {option}"):
            train.main([*options, other])
    growing = write_pickle(tmp_path / "y.pkl", tiny_networks((1.0, 1.0, 0.0), resolution=8)[0])
    with pytest.raises(UserError, match="still grows"):
        train.main(training_options(growing, labelled, tmp_path / "results"))
    assert not (tmp_path / "results").exists()


def test_state_of_the_helpers(tiny):
    """The pickles in these tests have the same entries as the official one."""
    state = official_state("D", "D_basic", {}, {})
    assert set(state) == {"version", "name", "static_kwargs", "components", "build_module_src",
                          "build_func_name", "variables"}
    assert is_pickle(tiny)
    assert read_header(tiny)["kimg"] == 123
