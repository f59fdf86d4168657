"""train.py as its users meet it: options, plans, one-line errors."""

import argparse
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

import run_metrics
import train
from dnnlib.dataset_info import open_dataset
from dnnlib.util import UserError, only_process
from tests.data_helpers import FOUR, make_dataset, random_image, read_jsonl
from tests.metrics_helpers import graph_bytes, small_arrays
from training.checks import check_idle
from training.runs import find_run, make_run
from training.snapshots import save_snapshot
from training.state import new_state

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "small"
    images = np.stack([random_image(rng, 7, 16) for _ in range(8)])
    return make_dataset(path, {"train": images}, FOUR)


@pytest.fixture(scope="module")
def rgb_data(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "photos"
    images = np.stack([random_image(rng, 7, 16)[:3] for _ in range(8)])
    return make_dataset(path, {"train": images}, ())


def small_photos(folder):
    """A data set at 8x8, where 16x16 is wanted."""
    images = np.stack([random_image(np.random.default_rng(0), 7, 8)[:3] for _ in range(2)])
    return make_dataset(folder / "small_photos", {"train": images}, ())


def failure(*options):
    """The UserError of a command line."""
    with pytest.raises(UserError) as caught:
        train.main(list(options))
    return str(caught.value)


def test_wrong_options_say_what_is_allowed(data, rgb_data, tmp_path):
    assert "see " in failure("--colour=red")
    assert "rgb, c, 2d" in failure("--variant=3d").replace("'", "")
    assert "8:128,32:64" in failure("--minibatch=8:x")
    assert "dataset_tool.py" in failure(f"--data={tmp_path / 'nowhere'}")
    assert "--resolution=32" in failure(f"--data={data}", "--resolution=32", "--device=cpu")
    assert "give --resolution=16, or" in failure(f"--data={data}", "--preset=demo-32")
    assert "power of two" in failure(f"--data={data}", "--resolution=12")
    assert "no segmentation maps" in failure(f"--data={rgb_data}", "--variant=2d")
    assert "no critic on RGB alone" in failure(
        f"--data={data}", "--variant=c", f"--untagged={rgb_data}")
    assert "--device=cpu" in failure(f"--data={data}", "--gpus=4", f"--results={tmp_path}")
    # What would come to light at the last resolution only, after days of training.
    assert "--minibatch must be a multiple of 8" in failure(
        f"--data={data}", "--gpus=2", "--device=cpu", "--minibatch=8:16,16:4", "--dry-run")
    assert "small_photos goes up to 8" in failure(
        f"--data={data}", "--dry-run", f"--untagged={small_photos(tmp_path.parent)}")
    assert not list(tmp_path.iterdir())


def test_dry_run_prints_the_plan_and_writes_nothing(data, tmp_path, capsys):
    options = [f"--data={data}", "--preset=demo-32", "--resolution=16", f"--results={tmp_path}"]
    assert train.main([*options, "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert "8 -> 16" in plan and "rgb, joint" in plan and "58 kimg in all" in plan
    assert not list(tmp_path.iterdir())


def test_tables_on_the_command_line():
    assert train.parse_table("8:128,32:64") == {8: 128, 32: 64}
    assert train.parse_table("0.002") == {4: 0.002}
    assert isinstance(train.parse_table("64")[4], int)
    with pytest.raises(argparse.ArgumentTypeError, match="given twice"):
        train.parse_table("8:32,8:16")


def test_run_directories(tmp_path):
    """The same command continues its unfinished run; a finished one, or others, get a new one."""
    record = {"variant": "rgb", "lrate": {4: 0.001}, "seed": 0}
    assert find_run(None, tmp_path, record) is None
    first = make_run(None, tmp_path, "rgb-small-16", record)
    assert first.name == "00000-rgb-small-16"
    assert find_run(None, tmp_path, record) == first
    assert find_run(None, tmp_path, {**record, "seed": 1}) is None
    (first / "network-final.safetensors").touch()
    assert find_run(None, tmp_path, record) is None
    assert find_run(first, tmp_path, record) == first
    with pytest.raises(UserError, match="seed: 0 there, 5 now"):
        find_run(first, tmp_path, {**record, "seed": 5})
    (first / "training_options.json").write_text("[1]")
    with pytest.raises(UserError, match="damaged"):
        find_run(first, tmp_path, record)


def test_two_processes_do_not_share_a_run(tmp_path):
    with only_process(tmp_path, "training"), pytest.raises(UserError, match="another process"), \
            only_process(tmp_path, "training"):
        raise AssertionError("two at once")


def test_the_log_says_why_a_run_ended(tmp_path, capsys):
    """In its file, for an owner whose terminal is gone; the terminal has it from run_main."""
    with pytest.raises(UserError), train.chiefs_run(tf.distribute.get_strategy(), tmp_path):
        raise UserError("the reason")
    assert (tmp_path / "log.txt").read_text().endswith("\nerror: the reason\n")
    assert "the reason" not in "".join(capsys.readouterr())


def test_checks_before_anything_is_made(data, tmp_path):
    common = [f"--data={data}", "--device=cpu", f"--results={tmp_path}"]
    assert "fid" in failure(*common, "--metrics=foo")
    assert "no such file" in failure(*common, "--inception=nowhere.npz")
    assert "--inception: " in failure(*common, "--metrics=none", "--inception=nowhere.npz")
    assert "--lrate=8:-1: expected positive" in failure(*common, "--lrate=8:-1")
    for name in ("classes1k", "ppl_wfull"):
        assert f"{name} is not computed" in failure(*common, f"--metrics=fid1k,{name}")
    assert "takes" in failure(*common, "--variant=2d", "--rgb-kimg=10")
    assert "--fmap-base" in failure(*common, "--fmap-base=2", "--preset=demo-32",
                                   "--resolution=16")
    assert "no such snapshot" in failure(*common, "--init-from=77")
    for option in ("--binary-kimg=1", "--classes-kimg=1", "--grow-d=copy", "--map-noise=0"):
        assert f"{option.split('=')[0]}: without effect: --variant=rgb" in failure(
            *common, "--variant=rgb", option)
    assert not list(tmp_path.iterdir())


def test_options_of_stages_gone_through_are_refused():
    check_idle({"classes_kimg", "grow_d", "binary_kimg"}, "2d", "binary")
    check_idle({"initial_resolution", "rgb_kimg"}, "rgb", "rgb")
    for name in ("rgb_kimg", "hold_kimg", "fade_kimg", "initial_resolution"):
        with pytest.raises(UserError, match="begins with stage binary"):
            check_idle({name}, "c", "binary")
    with pytest.raises(UserError, match="begins with stage classes"):
        check_idle({"binary_kimg"}, "2d", "classes")


def test_metrics_during_training_are_those_of_run_metrics(tiny_config, tmp_path, monkeypatch, rng):
    """Against the validation images (_full: the training images); a warning is told once."""
    monkeypatch.setenv("STYLE_C_GAN_CACHE", str(tmp_path / "cache"))
    weights = tmp_path / "small.pb"
    weights.write_bytes(graph_bytes(small_arrays()))
    images = {split: np.stack([random_image(rng, 7, 16)[:3] for _ in range(n)])
              for split, n in (("train", 9), ("val", 6), ("test", 5))}
    info = open_dataset(make_dataset(tmp_path / "data", images, ()))
    names = ["fid12", "kid12", "fid12_full"]
    config, lines = tiny_config(variant="rgb", metrics=",".join(names)), []
    evaluate = train.make_evaluate(config, info, SimpleNamespace(inception=weights),
                                   SimpleNamespace(info=lines.append))
    snapshot = save_snapshot(tmp_path / "network-final.safetensors", new_state(config).networks, {
        "variant": "rgb", "stage": "rgb", "classes": [], "kimg": 1.0,
        "lod": {"resolution": 16, "fade": 0.0}, "dataset": {"path": str(info.path)}})
    values = evaluate(snapshot)
    assert evaluate(snapshot) == values
    assert [line.split(" is biased")[0] for line in lines] == [
        "warning: fid12 of 12 fakes and 6 reals", "warning: fid12_full of 12 fakes and 9 reals"]
    run_metrics.main([f"--metrics={','.join(names)}", f"--network={tmp_path}", "--split=val",
                      f"--inception={weights}", f"--seed={config.seed}"])
    for name in names:
        for key, value in read_jsonl(tmp_path / f"metric-{name}.jsonl")[0]["results"].items():
            assert values.pop(key) == pytest.approx(value, rel=1e-3)
    assert not values


def test_errors_are_one_line_and_status_2():
    """Nothing else on stderr, though TensorFlow greets there."""
    result = subprocess.run([sys.executable, "train.py", "--data=/does/not/exist"], cwd=ROOT,
                            capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("error: data set /does/not/exist")
    assert result.stderr.count("\n") == 1 and result.stdout == ""
