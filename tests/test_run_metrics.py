"""run_metrics.py from its command line: networks, folders, weights, records, errors."""

import json

import numpy as np
import pytest
from PIL import Image

import dataset_tool
import run_metrics
from dnnlib.dataset_info import open_dataset
from dnnlib.util import UserError
from metrics.inception import load_detector
from metrics.inception_weights import LOGITS
from tests.metrics_helpers import graph_bytes, small_arrays
from training.networks_stylegan import G_style
from training.snapshots import save_snapshot


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """40 images of 16x16."""
    path = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(40):
        image = rng.integers(0, 256, (16, 16, 3), np.uint8) // (1 + i % 3)
        Image.fromarray(image).save(path / f"{i:03d}.png")
    return path


@pytest.fixture(scope="module")
def data(folder, tmp_path_factory):
    """They as a data set: 16 train, 12 val, 12 test."""
    out = tmp_path_factory.mktemp("data") / "toy"
    dataset_tool.main(["create_from_images", f"--source={folder}", f"--out={out}", "--workers=1",
                       "--resolution=16", "--num-val=12", "--num-test=12"])
    return open_dataset(out)


@pytest.fixture(scope="module")
def results(data, tmp_path_factory):
    """A results folder with one run, whose network is still at 8x8 of 16x16."""
    root = tmp_path_factory.mktemp("results")
    network = G_style("Gs", num_channels=5, resolution=16, latent_size=8, dlatent_size=8,
                      mapping_fmaps=8, fmap_base=64, fmap_max=8)
    (root / "00007-c-toy").mkdir()
    save_snapshot(root / "00007-c-toy" / "network-snapshot-000003.safetensors", {"Gs": network}, {
        "variant": "c", "stage": "classes", "classes": ["a", "b"], "kimg": 3.5,
        "lod": {"resolution": 8, "fade": 0.25},
        "dataset": {"name": data.name, "path": str(data.path), "digest": data.digest}})
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A narrow Inception as .pb, and one without the last layer as .npz."""
    root = tmp_path_factory.mktemp("weights")
    arrays = small_arrays()
    (root / "small.pb").write_bytes(graph_bytes(arrays))
    del arrays[LOGITS]
    np.savez(root / "pool_3.npz", **arrays)
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of the test's own."""
    monkeypatch.setenv("STYLE_C_GAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def run(results, weights):
    """A function (options...) that runs the script with the results and weights above."""
    def call(*options):
        return run_metrics.main([f"--results={results}", f"--inception={weights / 'small.pb'}",
                                 *options])
    return call


def records(folder, name):
    """The lines of metric-<name>.jsonl."""
    lines = (folder / f"metric-{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_the_newest_network_against_the_test_split(run, results, data, capsys):
    assert run("--metrics=fid20,kid30,is40", "--floor") == 0
    out = capsys.readouterr().out
    assert "20 fakes, 12 reals of toy test, fakes of 8 upscaled to 16" in out
    assert "floor fid20" in out and "6 each" in out
    (fid,), (score,) = (records(results / "00007-c-toy", name) for name in ("fid20", "is40"))
    assert fid["results"]["fid20"] > 0 and fid["floor"]["num_each"] == 6
    assert (fid["num_fakes"], fid["num_reals"]) == (20, 12)
    assert fid["reals"]["split"] == "test" and fid["reals"]["digest"] == data.digest
    assert fid["kimg"] == 3.5 and fid["seed"] == 0 and fid["truncation"] is None
    assert fid["upscaled"] == "nearest" and "no half-pixel centres" in fid["resize"]
    assert len(fid["network_digest"]) == len(fid["detector_hash"]) == 64
    assert fid["detector"].startswith("weights from ") and "--metrics=fid20" in fid["command"]
    assert score["reals"] is None and score["detector_hash"] != fid["detector_hash"]
    assert set(score["results"]) == {"is40", "is40_std", "is40_5", "is40_5_std"}


def test_same_seed_same_number(run, results, weights, monkeypatch):
    detector = load_detector(weights / "small.pb")
    monkeypatch.setattr("metrics.inception.load_detector", lambda *options: detector)
    numbers = []
    for options in (["--seed=1"], ["--seed=1", "--minibatch=5"], ["--seed=2"],
                    ["--seed=1", "--trunc=0.5"], ["--seed=1", "--split=val"]):
        run("--metrics=kid12", *options)
        numbers.append(records(results / "00007-c-toy", "kid12")[-1]["results"]["kid12"])
    assert numbers[1] == pytest.approx(numbers[0], rel=1e-3)
    assert len({round(number, 7) for number in numbers[1:]}) == 4


def test_two_folders(run, folder, tmp_path, capsys):
    fakes = tmp_path / "fakes"
    fakes.mkdir()
    for i, path in enumerate(sorted(folder.iterdir())[:15]):
        Image.open(path).resize((20 + i % 2, 20)).save(fakes / f"{i}.jpg")
    assert run("--metrics=fid1k,kid10", f"--reals={folder}", f"--fakes={fakes}") == 0
    fid, = records(fakes, "fid1k")
    assert (fid["num_fakes"], fid["num_reals"]) == (15, 40)
    assert records(fakes, "kid10")[0]["num_fakes"] == 10
    assert "fid1k: there are only 15 fakes" in capsys.readouterr().err


def test_images_against_themselves(run, data):
    """A data set's split and that split's own directory are the same images."""
    run("--metrics=fid16", f"--reals={data.path}", "--split=train",
        f"--fakes={data.path / 'train'}")
    record, = records(data.path / "train", "fid16")
    assert record["reals"] == record["fakes"]
    assert abs(record["results"]["fid16"]) < 1e-6


def test_without_the_last_layer_the_others_still_run(run, results, weights, capsys):
    assert run("--metrics=is20,fid20", f"--inception={weights / 'pool_3.npz'}") == 0
    captured = capsys.readouterr()
    skipped, = [line for line in captured.err.splitlines() if line.startswith("skipped:")]
    assert "is20" in skipped and "inception-2015-12-05.tgz" in skipped
    assert captured.out.startswith("fid20")
    assert not (results / "00007-c-toy" / "metric-is20.jsonl").exists()
    with pytest.raises(UserError, match="none of is20 can be computed"):
        run("--metrics=is20", f"--inception={weights / 'pool_3.npz'}")


def test_dry_run_touches_nothing(run, results, cache, capsys):
    before = sorted(results.rglob("*"))
    assert run("--dry-run", "--metrics=fid9k") == 0
    out = capsys.readouterr().out
    assert "network-snapshot-000003" in out and "12 of toy test" in out and "9,000 fakes" in out
    assert sorted(results.rglob("*")) == before and not cache.exists()


@pytest.mark.parametrize("options, message", [
    (["--metrics=fad1k"], "unknown metric 'fad1k'; known: fidNk"),
    (["--split=all"], "no images in split 'all'; it has: train, val, test"),
    (["--data=nowhere"], "data set nowhere does not exist"),
    (["--fakes=nowhere"], "--fakes needs --reals"),
    (["--network=99"], "99: no such snapshot, run directory or run number"),
    (["--minibatch=0"], "--minibatch=0: at least 1"),
    (["--seed=-1"], "--seed=-1: 0 to"),
    (["--inception=nowhere.pb"], r"nowhere\.pb: no such file; get https")])
def test_mistakes_are_explained(run, options, message):
    with pytest.raises(UserError, match=message):
        run("--metrics=fid20", *options)


def test_no_run_yet(tmp_path):
    with pytest.raises(UserError, match="no run with a network snapshot"):
        run_metrics.main([f"--results={tmp_path}"])


def test_weights_are_not_fetched_for_a_mistake(monkeypatch, tmp_path):
    """Nothing is downloaded before names and data are known to be good."""
    monkeypatch.setattr("metrics.inception.load_detector", None)
    with pytest.raises(UserError, match=r"no such folder|does not exist"):
        run_metrics.main(["--fakes=a", f"--reals={tmp_path / 'none'}"])
