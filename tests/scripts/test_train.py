"""train.py as its users see it: options, plans, one-line errors."""

import argparse
import dataclasses
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

import run_metrics
import train
from dnnlib.cli import refuse_idle
from dnnlib.data.dataset import DatasetInfo, open_dataset
from dnnlib.tflib.network import build
from dnnlib.util import UserError, lock_directory
from metrics.evaluation import training_evaluation, training_metrics
from metrics.image_sources import split_source
from metrics.metric_base import SPLIT, reals_of
from tests.tools.data_helpers import FOUR, make_dataset, random_image, read_jsonl
from tests.tools.metrics_helpers import graph_bytes, small_arrays
from training.config import TrainingConfig
from training.gan.init_from import enter_stage, new_state
from training.gan.schedule import make_stage
from training.run import launch, stylegan_job
from training.run.config_checks import idle_rules
from training.run.directory import find_run, make_run
from training.run.options import given_options, parse_table, parse_training_options
from training.snapshots import save_snapshot
from training.state import save_state
from training.variants import CONFIGS

ROOT = Path(__file__).resolve().parents[2]


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
    """Make a data set at 8x8 where 16x16 is needed."""
    images = np.stack([random_image(np.random.default_rng(0), 7, 8)[:3] for _ in range(2)])
    return make_dataset(folder / "small_photos", {"train": images}, ())


def failure(*options):
    """Return the UserError of a command line."""
    with pytest.raises(UserError) as caught:
        train.main(list(options))
    return str(caught.value)


def test_errors_of_wrong_options_name_the_allowed_values(data, rgb_data, tmp_path):
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
    # This would only fail at the last resolution, after days of training.
    assert "--minibatch must be a multiple of 8" in failure(
        f"--data={data}", "--gpus=2", "--device=cpu", "--minibatch=8:16,16:4", "--dry-run")
    assert "small_photos goes up to 8" in failure(
        f"--data={data}", "--dry-run", f"--untagged={small_photos(tmp_path.parent)}")
    assert not list(tmp_path.iterdir())


def test_dry_run_prints_the_plan_and_writes_nothing(data, tmp_path, capsys):
    options = [f"--data={data}", "--preset=demo-32", "--resolution=16", f"--results={tmp_path}"]
    assert train.main([*options, "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert "8 -> 16" in plan and "rgb, joint" in plan and "72 kimg in all" in plan
    assert not list(tmp_path.iterdir())


def test_untagged_photos_of_the_test_split_get_a_warning(tmp_path, capsys, rng):
    images = np.stack([random_image(rng, 7, 8) for _ in range(20)])
    data = make_dataset(tmp_path / "data", {"train": images[:10], "val": images[10:14],
                                            "test": images[14:]}, FOUR)
    # Photos of the training split are allowed; one validation and five test photos are there too.
    extra = make_dataset(tmp_path / "extra", {"train": images[[0, 13, 15, 16, 17, 18, 19], :3]}, ())
    options = [f"--data={data}", "--preset=demo-32", "--variant=2d", "--resolution=8",
               "--initial-resolution=8", "--dry-run", f"--results={tmp_path / 'results'}"]
    train.main([*options, f"--untagged={extra}"])
    said = capsys.readouterr().out
    assert f"5 of its photos are in the test split of {data}" in said
    assert "1 of its photos are in the val split" in said
    other = make_dataset(tmp_path / "other", {"train": images[:10, :3]}, ())
    train.main([*options, f"--untagged={other}"])
    assert "look too good" not in capsys.readouterr().out


def test_tables_are_parsed():
    assert parse_table("8:128,32:64") == {8: 128, 32: 64}
    assert parse_table("0.002") == {4: 0.002}
    assert isinstance(parse_table("64")[4], int)
    assert isinstance(parse_table("1e2")[4], int)
    assert parse_table("1e30") == {4: 1e30}
    assert isinstance(parse_table("1e30")[4], float)  # not a count, and too long for a message
    with pytest.raises(argparse.ArgumentTypeError, match="given twice"):
        parse_table("8:32,8:16")


def test_run_directories(tmp_path):
    """The same command continues its unfinished run; after a finished run, or with other options,
    it starts a new one."""
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
    # A damaged one is skipped.
    (first / "network-final.safetensors").unlink()
    for content in ("[1]", "{", '{"variant": "3d"}'):
        (first / "training_options.json").write_text(content)
        assert find_run(None, tmp_path, record) is None


def test_untagged_photos_are_identified_by_their_digest(tmp_path):
    """Moved, they are the same; another digest means others; older runs stored no digest."""
    record = {"variant": "2d", "mirror_pairs": "none", "untagged": "a", "untagged_digest": "1"}
    run = make_run(None, tmp_path, "2d-small-16", record)
    assert find_run(None, tmp_path, {**record, "untagged": "b"}) == run
    with pytest.raises(UserError, match="untagged_digest: 1 there, 2 now"):
        find_run(run, tmp_path, {**record, "untagged_digest": "2"})
    old = {name: value for name, value in record.items() if name != "untagged_digest"}
    (run / "training_options.json").write_text(json.dumps(old))
    assert find_run(None, tmp_path, record) == run
    with pytest.raises(UserError, match="untagged: a there, b now"):
        find_run(run, tmp_path, {**record, "untagged": "b"})


def job_of(config, options):
    """Return what is stored of a training, without the checks of StyleGanJob."""
    return SimpleNamespace(config=config, dataset=open_dataset(config.data), options=options,
                           digests=lambda: {"segmenter_digest": None})


def test_two_processes_do_not_share_a_run(tmp_path):
    with lock_directory(tmp_path, "training"), pytest.raises(UserError, match="another process"), \
            lock_directory(tmp_path, "training"):
        raise AssertionError("two at once")


def test_the_log_names_the_reason_that_ended_a_run(data, tmp_path, capsys):
    """In its file, for a user whose terminal is closed; run_main prints it on the terminal."""
    config = TrainingConfig.preset("paper", {"data": str(data)})
    options = argparse.Namespace(run=tmp_path / "run", results=tmp_path, override=False,
                                 init_from=None, device="cpu", gpus=1, keep=2, inception=None)
    with (pytest.raises(UserError),
          launch.open_run(tf.distribute.get_strategy(), job_of(config, options))):
        raise UserError("the reason")
    assert (tmp_path / "run" / "log.txt").read_text().endswith("\nerror: the reason\n")
    assert "the reason" not in "".join(capsys.readouterr())


def test_a_run_continues_with_its_own_options(data, tmp_path, capsys):
    """Given only its number or directory: data, device and sizes are those it was started with;
    other options are compared with its own, or changed with --override."""
    started = [f"--data={data}", "--preset=demo-32", "--resolution=16", "--device=cpu", "--gpus=2",
               "--keep=5", f"--results={tmp_path}", "--lrate=0.002", "--metrics=none"]
    options = parse_training_options(started)
    config = launch.choose_config(options, given_options(options))
    config = dataclasses.replace(config, mirror_pairs="none")
    run = make_run(None, tmp_path, "2d-small-16", launch.run_record(job_of(config, options)))

    for name in ("0", "00000", str(run)):
        again = parse_training_options([f"--run={name}", f"--results={tmp_path}"])
        assert launch.choose_config(again, {}) == config
        assert (again.run, again.device, again.gpus, again.keep) == (run, "cpu", 2, 5)
        assert train.main([f"--run={name}", f"--results={tmp_path}", "--dry-run"]) == 0
        assert f"would continue {run}, from its beginning\n" in capsys.readouterr().out
    common = [f"--run={run}", f"--results={tmp_path}"]
    on_gpu = parse_training_options([*common, "--device=gpu"])
    assert launch.choose_config(on_gpu, {}) == config and on_gpu.device == "gpu"
    told = failure(*common, "--lrate=0.004", "--dry-run")
    assert "(lrate: 0.002 there, 0.004 now)" in told
    assert "fmap_max: 64 there, 512 now" in failure(*common, "--preset=paper", "--resolution=16",
                                                    f"--data={data}", "--dry-run")
    changed = parse_training_options([*common, "--override", "--lrate=0.004"])
    assert launch.choose_config(changed, given_options(changed)) == dataclasses.replace(
        config, lrate={4: 0.004})
    for name in ("typo", data):
        assert f"--run={name}: no run there to continue" in failure(f"--run={name}")
    moved = tmp_path / "moved"
    data.rename(moved)
    try:
        assert "the folder of its --data, " in failure(*common, "--dry-run")
        assert train.main([*common, f"--data={moved}", "--dry-run"]) == 0
    finally:
        moved.rename(data)
    assert "no run of that number; runs in" in failure("--run=7", f"--results={tmp_path}")


def test_options_are_checked_before_anything_is_made(data, tmp_path):
    common = [f"--data={data}", "--device=cpu", f"--results={tmp_path}"]
    assert "fid" in failure(*common, "--metrics=foo")
    assert "no such file" in failure(*common, "--inception=nowhere.npz")
    assert "--inception: " in failure(*common, "--metrics=none", "--inception=nowhere.npz")
    assert "--lrate=8:-1: expected a number from" in failure(*common, "--lrate=8:-1")
    for name in ("classes1k", "ppl_wfull"):
        assert f"{name} is not computed" in failure(*common, f"--metrics=fid1k,{name}")
    assert "takes" in failure(*common, "--variant=2d", "--rgb-kimg=10")
    assert "--fmap-base" in failure(*common, "--fmap-base=2", "--preset=demo-32",
                                   "--resolution=16")
    assert "no such snapshot" in failure(*common, "--init-from=77")
    # Metrics that cannot compare snapshots, or metrics of maps where there are none.
    assert "--patience: no metric of --metrics=is1k says" in failure(
        *common, "--metrics=is1k", "--patience=3")
    assert "--metrics: --variant=rgb draws no maps for kid1k_pair" in failure(
        *common, "--variant=rgb", "--metrics=fid1k,kid1k_pair")
    for option in ("--binary-kimg=1", "--classes-kimg=1", "--grow-d=copy", "--map-noise=0",
                   "--map-contrast=5"):
        assert f"{option.split('=')[0]}: without effect: --variant=rgb" in failure(
            *common, "--variant=rgb", option, "--dry-run")
    for rate in ("1e30", "1e400", "nan", "-1", "0", "8:0.001,16:3"):
        assert "expected" in failure(*common, f"--lrate={rate}")
    assert failure(*common, "--lrate=1e30") == "--lrate=1e+30: expected a number from 1e-08 to 1"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("variant, preset, shown", [
    ("2d", "paper", {"network-ticks": 10}),
    ("segmenter", "small", {"network-ticks": 2, "kimg": 20.0, "minibatch": 8}),
    ("decoder", "small", {"network-ticks": 1, "weight-decay": 0.001})])
def test_the_help_shows_the_defaults_of_the_default_preset(variant, preset, shown, capsys):
    """They are what a training has without further options."""
    with pytest.raises(SystemExit):
        parse_training_options([f"--variant={variant}", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert f"training options (with the defaults of --preset={preset}):" in text
    config = CONFIGS[variant].preset(preset, {})
    for flag, value in shown.items():
        assert getattr(config, flag.replace("-", "_")) == value
        assert re.search(rf" --{flag} [A-Z]+ [^()]*\(default: {value}\)", text), flag


def test_errors_name_a_command_that_works(data, rgb_data, tmp_path):
    """It works exactly as printed, even if the path has spaces."""
    folder = tmp_path / "my data"
    folder.symlink_to(data)
    for path, options in ((rgb_data, ["--variant=2d"]), (folder, ["--resolution=1024"]),
                          (folder, ["--preset=small-64"])):
        told = failure(f"--data={path}", "--device=cpu", *options)
        words = shlex.split(told[told.index("python train.py"):])
        assert words[:2] == ["python", "train.py"] and f"--data={path}" in words
        assert "--preset=small-32" in words and "--resolution=16" in words
        assert parse_training_options(words[2:]).preset == "small-32"
    assert train.main([*words[2:], f"--results={tmp_path}", "--dry-run"]) == 0
    assert "give --initial-resolution=16" in failure(
        f"--data={data}", "--device=cpu", "--preset=demo-32", "--resolution=16",
        "--initial-resolution=32")


def test_sizes_come_from_the_snapshot(data, tmp_path, tiny_config, capsys):
    """An RGB training continues at the snapshot's size; too small data name the size needed."""
    config = tiny_config(variant="rgb", use_noise=False)
    save_snapshot(tmp_path / "x.safetensors", new_state(config).networks, {
        "variant": "rgb", "stage": "rgb", "classes": [], "kimg": 1.0,
        "lod": {"resolution": 16, "fade": 0.0}, "dataset": {"path": str(data)}})
    options = [f"--init-from={tmp_path / 'x.safetensors'}", "--variant=rgb", "--device=cpu",
               "--metrics=none", f"--results={tmp_path}"]
    assert train.main([*options, f"--data={data}", "--preset=small-64", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert ("from the snapshot of --init-from: --resolution=16 --fmap-base=64 --fmap-max=8 "
            "--latent-size=8 --mapping-layers=2 --no-use-noise --initial-resolution=16\n") in told
    assert "up to 16x16" in told and "what fits them" not in told
    small = small_photos(tmp_path)
    assert failure(*options, f"--data={small}") == (
        f"--init-from: its networks are of 16x16, {small} goes up to 8; make a larger one with "
        "dataset_tool.py --resolution=16")
    assert "give --no-use-noise" in failure(*options, f"--data={data}", "--use-noise")


def test_a_run_needs_its_snapshot_only_at_the_start(data, tmp_path, tiny_config, capsys):
    """Also while networks of 8x8 grow to 16x16, and with --run alone."""
    classes = open_dataset(data).classes
    small = tiny_config(variant="2d", resolution=8)
    state = new_state(small)
    for name in ("binary", "classes"):
        state = enter_stage(state, make_stage(small, len(classes), name), small)
    origin = tmp_path / "x.safetensors"
    save_snapshot(origin, state.networks, {
        "variant": "2d", "stage": "classes", "classes": list(classes), "kimg": 1.0,
        "lod": {"resolution": 8, "fade": 0.0}, "training": {"map_contrast": 5.0},
        "dataset": {"path": str(data)}})
    options = parse_training_options([
        f"--data={data}", "--variant=2d", "--preset=demo-32", "--resolution=16", "--device=cpu",
        "--metrics=none", "--map-contrast=0", f"--init-from={origin}", f"--results={tmp_path}"])
    job = train.make_job(options, given_options(options), None)
    assert ("--map-contrast=0: the critics of --init-from have seen maps with --map-contrast=5, "
            "and have to adapt") in job.notes
    run = make_run(None, tmp_path, "2d-small-16", launch.run_record(job))
    again = ["--run=0", f"--results={tmp_path}"]
    assert train.main([*again, "--dry-run", "--resolution=16"]) == 0
    state.progress.first_stage, state.progress.cur_nimg = "classes", 16
    save_state(run, state)
    origin.unlink()
    capsys.readouterr()
    assert train.main([*again, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "from training-state-000000016" in told and "8 -> 16" in told
    assert "--binary-kimg: without effect" in failure(*again, "--binary-kimg=1")
    told = failure(*again[1:], f"--init-from={origin}", f"--data={data}")
    assert "no such snapshot" in told and "alone continues" not in told
    # The command that started it names the one that continues without the snapshot.
    told = failure(*again, "--preset=demo-32", f"--init-from={origin}", f"--data={data}")
    assert "no such snapshot" in told and f"--run={run} alone continues" in told


def test_a_segmenter_selecting_by_its_training_photos_is_noted(data, tmp_path):
    """Without validation photos the ceiling is that of its training photos, and a line says so."""
    path, header = tmp_path / "S.safetensors", {"dataset": {"digest": open_dataset(data).digest}}
    network = build("Segmenter", "S", {"resolution": 16, "num_outputs": 1 + len(FOUR),
                                       "unet_fmaps": 2, "architecture": "unet"})
    save_snapshot(path, {"S": network}, {"variant": "segmenter", "classes": list(FOUR), "kimg": 1,
                                         **header})
    options = parse_training_options([
        f"--data={data}", "--variant=2d", "--preset=demo-32", "--resolution=16", "--device=cpu",
        "--metrics=kid8_trainval", "--select-by=labels", f"--segmenter={path}",
        f"--results={tmp_path}"])
    warning = train.make_job(options, given_options(options), None).notes[-1]
    assert f"{path} has learned from photos of {data}" in warning and "labels8_trainval" in warning


def with_splits(folder, **counts):
    """Return a DatasetInfo of photos at 8x8 in splits of these sizes."""
    rng = np.random.default_rng(0)
    images = {split: np.stack([random_image(rng, 7, 8)[:3] for _ in range(count)])
              for split, count in counts.items()}
    return open_dataset(make_dataset(folder, images, ()))


def notes(info, *argv):
    """Return (the metrics, the lines that a training with these options prints first)."""
    argv = ["--variant=rgb", f"--data={info.path}", *argv]
    options = parse_training_options(argv)
    config = launch.choose_config(options, given_options(options))
    if not options.metrics:
        metrics = stylegan_job.fitting_metrics(config.metrics, info)
        config = dataclasses.replace(config, metrics=metrics)
    needs_validation = SPLIT in reals_of(training_metrics(config.metrics))
    return config.metrics, stylegan_job.start_notes(config, info, options, None, {},
                                                    needs_validation)


def test_a_small_validation_split_is_not_used_for_selection(tmp_path):
    """KID against the training images is used; metrics that are given are kept, with a warning."""
    small, none, enough = (with_splits(tmp_path / f"d{val}", train=5, val=val) if val else
                           with_splits(tmp_path / "d0", train=5) for val in (2, 0, 100))
    metrics, lines = notes(small, "--preset=small-32")
    assert metrics == "kid1k_trainval" and len(lines) == 1
    assert lines[0].startswith("warning: only 2 validation images") and "all 7 training" in lines[0]
    assert notes(small)[0] == "kid10k_trainval"
    metrics, lines = notes(small, "--preset=small-32", "--metrics=fid50")
    assert metrics == "fid50" and len(lines) == 1
    assert lines[0].startswith("warning: only 2") and "kid50_trainval takes the train" in lines[0]
    assert notes(small, "--preset=small-32", "--metrics=fid50_full")[1] == []
    assert notes(small, "--preset=small-32", "--metrics=is50")[1] == [
        "no metric of --metrics=is50 selects a best snapshot: the newest counts as the best; fidNk "
        "or kidNk would select one"]
    assert notes(small, "--preset=small-32", "--metrics=none") == ("none", [])
    metrics, lines = notes(none, "--preset=small-64")
    assert metrics == "kid1k_trainval" and lines[0].startswith("warning: no validation images")
    assert notes(enough, "--preset=small-32") == ("kid1k,fid1k", [])
    assert "what fits them: python train.py --variant=rgb" in notes(enough)[1][0]


def test_a_finished_training_suggests_commands(tiny_config, tmp_path):
    """Metrics that the test split is large enough for, a quoted path, labels if there are any."""
    def suggested(test, label_size=0, **changes):
        info = DatasetInfo(tmp_path, "mine", 16, 7, FOUR, {"train": 60, "test": test}, "d",
                           label_size)
        job = SimpleNamespace(config=tiny_config(**changes), dataset=info)
        told = stylegan_job.StyleGanJob.next_commands(job, Path("my results/00000-c"))
        return [shlex.split(part) for part in told.split("; ")]

    generate_words, pairs, metrics = suggested(5)
    assert generate_words == ["python", "generate.py", "--network=my results/00000-c",
                              "--seeds=0-35"]
    assert pairs[-1] == "--num=60" and metrics[-1] == "--metrics=kid1k_trainval"
    assert suggested(100)[-1][-1] == "--metrics=kid1k"
    assert suggested(5000)[-1][-1] == "--metrics=fid50k"
    assert [words[-1] for words in suggested(5, label_size=3, variant="rgb")] == [
        "--label=0", "--metrics=kid1k_trainval"]


def test_options_of_completed_stages_are_refused():
    refuse_idle({"classes_kimg", "grow_d", "binary_kimg"}, idle_rules("2d", "binary"))
    refuse_idle({"initial_resolution", "rgb_kimg"}, idle_rules("rgb", "rgb"))
    for name in ("rgb_kimg", "hold_kimg", "fade_kimg", "initial_resolution"):
        with pytest.raises(UserError, match="begins with stage binary"):
            refuse_idle({name}, idle_rules("c", "binary"))
    refuse_idle({"hold_kimg", "fade_kimg"}, idle_rules("2d", "classes", "classes", grows=True))
    with pytest.raises(UserError, match="begins with stage classes"):
        refuse_idle({"binary_kimg"}, idle_rules("2d", "classes"))
    refuse_idle({"grow_g"}, idle_rules("2d", "classes", "binary"))
    with pytest.raises(UserError, match="all of their maps already"):
        refuse_idle({"grow_g"}, idle_rules("2d", "classes", "classes"))


@pytest.mark.slow
def test_metrics_during_training_equal_run_metrics(tiny_config, tmp_path, monkeypatch, rng):
    """Against the validation images (_full: the training images); a warning is printed once."""
    monkeypatch.setenv("STYLE_C_GAN_CACHE", str(tmp_path / "cache"))
    weights = tmp_path / "small.pb"
    weights.write_bytes(graph_bytes(small_arrays()))
    images = {split: np.stack([random_image(rng, 7, 16)[:3] for _ in range(n)])
              for split, n in (("train", 9), ("val", 6), ("test", 5))}
    info = open_dataset(make_dataset(tmp_path / "data", images, ()))
    both = split_source(info, "train+val", 16)
    assert both.count == 15
    stored = np.concatenate([images["train"], images["val"]]).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(np.concatenate([rgb for rgb, _ in both.batches()]), stored)
    np.testing.assert_array_equal(
        np.concatenate([rgb for rgb, _ in both.batches(indices=[9, 2, 14])]), stored[[9, 2, 14]])
    names = ["fid12", "kid12", "fid12_full", "kid12_trainval"]
    config, lines = tiny_config(variant="rgb", metrics=",".join(names)), []
    evaluate = training_evaluation(training_metrics(config.metrics), info, resolution=16,
                                   minibatch=8, seed=config.seed, weights=weights, log=lines.append)
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
    """Nothing else is on stderr, where TensorFlow prints its greeting."""
    result = subprocess.run([sys.executable, "train.py", "--data=/does/not/exist"], cwd=ROOT,
                            capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("error: data set /does/not/exist")
    assert result.stderr.count("\n") == 1 and result.stdout == ""
