"""The plan: its stretches are those of the schedule; describing it writes nothing."""

import os
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

import train
from dnnlib.data.dataset import open_dataset
from dnnlib.util import UserError, format_time
from tests.tools.data_helpers import FOUR, make_dataset, random_image
from training.config import PRESETS, TrainingConfig
from training.gan.init_from import enter_stage, new_state
from training.gan.schedule import make_stage, training_schedule
from training.run import rehearsal
from training.run.directory import make_run
from training.run.plan import SIZES, describe_plan, stretches


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    images = np.stack([random_image(np.random.default_rng(0), 7, 16) for _ in range(8)])
    return make_dataset(tmp_path_factory.mktemp("data") / "small", {"train": images}, FOUR)


@pytest.mark.parametrize("preset", PRESETS)
def test_stretches_are_those_of_the_schedule(preset):
    resolution = TrainingConfig.preset(preset, {}).resolution or 512
    config = TrainingConfig.preset(preset, {"resolution": resolution})
    found = stretches(config, 13)
    assert [s[0] for s in found[1:]] == [s[1] for s in found[:-1]] and found[0][0] == 0
    for start, end, stage in found:
        for nimg in (start, (start + end) // 2, end - 1):
            now = training_schedule(config, 13, nimg)
            assert now.phase == stage.phase
            assert (now.minibatch, now.lrate) == (stage.minibatch, stage.lrate)
    assert found[-1][1] == 1000 * (config.rgb_kimg + config.binary_kimg + config.classes_kimg)


@pytest.mark.parametrize("preset", ["small-32", "demo-32"])
def test_the_table_has_the_sizes_of_the_presets_files(preset):
    """Compared with networks that were built and grown to their full size."""
    config = TrainingConfig.preset(preset, {})
    state = new_state(config)
    for name in ("binary", "classes"):
        state = enter_stage(state, make_stage(config, 13, name), config)
    snapshot = sum(4 * int(np.prod(v.shape)) for network in state.networks.values()
                   for v in network.vars.values())
    slots = sum(8 * int(np.prod(v.shape)) for name, network in state.networks.items()
                if name != "Gs" for v in network.trainables.values())
    (row,) = (row for row in SIZES if row[0] == preset)
    assert row[2:4] == (f"{snapshot / 1e6:.3g} MB", f"{(snapshot + slots) / 1e6:.3g} MB")


def test_the_plan_has_every_part():
    config = TrainingConfig.preset("demo-32", {"data": "somewhere", "binary_kimg": 4.0})
    dataset = SimpleNamespace(path="somewhere", splits={"train": 7}, classes=["c"] * 13,
                              label_size=0)
    plan = describe_plan(config, dataset, "rgb", 2, 2)
    lines = plan.splitlines()
    assert " ".join(lines[1].split()) == ("from kimg to kimg stage resolution channels critics "
                                          "minibatch per device lrate ticks sec/kimg time")
    assert [line.split()[2] for line in lines[2:9]] == ["rgb"] * 5 + ["binary", "classes"]
    assert [re.search(r"0\.003  (\d+)$", line)[1] for line in lines[2:9]] == [
        "2", "1", "2", "1", "1", "1", "12"]
    assert "76 kimg in all, in about 19 ticks" in plan and "time is not known" in plan
    # Stages end with the ticks 6, 7 and 19; snapshots are also those of the ticks 1 and 10, and
    # network-final, grids that of the beginning.
    for image_ticks, grids in ((1, 20), (4, 8)):
        assert (f"would be written: about 6 network snapshots and {grids} grids of fakes; 2 "
                "training states are kept") in describe_plan(
                    replace(config, image_ticks=image_ticks), dataset, "rgb", 2, 2)
    assert "counted, not measured" in plan and plan.endswith("nothing was written")
    assert {line.split()[0] for line in lines[-7:-1]} == {"preset", *PRESETS}
    nothing = TrainingConfig.preset("demo-32", dict.fromkeys(
        ("rgb_kimg", "binary_kimg", "classes_kimg"), 0.0))
    plan = describe_plan(nothing, dataset, "rgb", 1, 2)
    assert "0 kimg in all, in about 0 ticks" in plan and "about 1 network snapshots and 1 " in plan
    always_fading = TrainingConfig.preset("demo-32", {"data": "somewhere", "hold_kimg": 0.0})
    lines = describe_plan(always_fading, dataset, "rgb", 2, 2).splitlines()
    assert [line.split()[:5] for line in lines[2:4]] == [
        ["0.0", "4.0", "rgb", "8", "->"], ["4.0", "8.0", "rgb", "16", "->"]]


def test_the_plan_has_the_measured_times():
    config = TrainingConfig.preset("demo-32", {"data": "somewhere", "binary_kimg": 4.0})
    dataset = SimpleNamespace(path="somewhere", splits={"train": 7}, classes=["c"] * 13,
                              label_size=0)
    rates = {("rgb", 8): 1.0, ("rgb", 16): 4.5, ("rgb", 32): 20.0, ("binary", 32): 30.0,
             ("classes", 32): 31.0}
    lines = describe_plan(config, dataset, "rgb", 2, 2, rates, 3723).splitlines()
    assert "on this machine the training will take about 1h 02m 03s, judging by steps" in lines[10]
    for line, (start, end, stage) in zip(lines[2:9], stretches(config, 13)):
        rate = rates[stage.name, stage.resolution]
        cells = line.split("  ")
        assert cells[-1].strip() == format_time((end - start) / 1000 * rate)
        assert f" {rate:g} " in line


def test_parts_of_a_minibatch_are_in_the_plan(tiny_config):
    dataset = SimpleNamespace(path="somewhere", splits={"train": 7}, classes=[], label_size=0)
    whole, parts = (describe_plan(
        tiny_config(variant="rgb", minibatch={4: 64}, minibatch_per_gpu=limit), dataset, "rgb", 2,
        2).splitlines()[2] for limit in ({}, {4: 8}))
    assert " 32 " in whole and " 4 x 8 " in parts


def listing(folder):
    """Return {path: (size, time)} of everything below a folder."""
    return {os.path.join(where, name): os.lstat(os.path.join(where, name))[6:9:2]
            for where, folders, files in os.walk(folder) for name in [*folders, *files]}


def test_a_dry_run_writes_nothing(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STYLE_C_GAN_CACHE", str(tmp_path / "cache"))
    before = listing(data.parent), listing(tmp_path)
    assert train.main([f"--data={data}", "--preset=demo-32", "--resolution=16", "--dry-run",
                       "--device=cpu"]) == 0
    out = capsys.readouterr().out
    assert "would make a new run: the next number in results" in out
    assert "nothing was written" in out
    assert (listing(data.parent), listing(tmp_path)) == before


@pytest.mark.slow
def test_a_dry_run_measures_this_machine(data, tmp_path, monkeypatch, capsys):
    """It times real steps of the only critic at the only resolution, and their compilation apart;
    nothing is written. The p of an adaptive augmentation is about 0.5.
    """
    monkeypatch.chdir(tmp_path)
    steps, gan_step = [], rehearsal.GanStep
    monkeypatch.setattr(rehearsal, "GanStep",
                        lambda *args, **more: steps.append(gan_step(*args, **more)) or steps[-1])
    times, timed_steps = [], rehearsal._timed_steps
    monkeypatch.setattr(rehearsal, "_timed_steps",
                        lambda *args: times.append(timed_steps(*args)) or times[-1])
    assert train.main([f"--data={data}", "--preset=demo-32", "--resolution=8", "--fmap-base=32",
                       "--fmap-max=4", "--latent-size=4", "--device=cpu", "--gpus=2", "--dry-run",
                       "--r1-interval=1",
                       "--variant=rgb", "--measure", "--augment=ada"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"on this machine the training will take about [^0]\S* .*by steps", out)
    assert out.endswith("nothing was written\n") and "time is not known" not in out
    assert not list(tmp_path.iterdir())
    (compile_sec, step_sec), = times
    assert 0 < step_sec < 0.5 < compile_sec
    assert 0.4 < float(steps[0].augmentation.values["p"].numpy()) < 0.6


def test_measure_needs_a_dry_run_on_one_machine(data):
    options = [f"--data={data}", "--preset=demo-32", "--resolution=16", "--measure"]
    with pytest.raises(UserError, match="--measure: works only with --dry-run"):
        train.main(options)
    with pytest.raises(UserError, match="--measure: times the devices of one machine"):
        train.main([*options, "--dry-run", "--workers=a:1,b:1", "--worker-index=0"])


@pytest.mark.parametrize("first_stage", ["rgb", "binary"])
def test_expected_times_cover_all_that_is_left(tiny_config, monkeypatch, first_stage):
    """Steps take their channels' number of seconds at 8x8, compiling 5 s; networks have grown."""
    config, calls = tiny_config(variant="2d", fmap_max=4), []

    def timed_steps(config, state, stage, critic, strategy):
        assert state.networks[f"D_{critic.name}"].config["num_channels"] == critic.channels
        assert state.networks["G"].config["num_channels"] == stage.channels
        calls.append((stage.name, stage.resolution, critic.name))
        return 5.0, critic.channels * stage.resolution / 8

    monkeypatch.setattr(rehearsal, "_timed_steps", timed_steps)
    rates, seconds = rehearsal.expected_times(config, 4, first_stage,
                                              tf.distribute.get_strategy())
    expected, ahead = 0.0, stretches(config, 4, first_stage)
    for start, end, stage in ahead:
        mean = np.mean([critic.channels for critic in stage.critics]) * stage.resolution / 8
        expected += (end - start) / stage.minibatch * mean + 5.0 * len(stage.critics)
        assert rates[stage.name, stage.resolution] == pytest.approx(
            mean * 1000 / stage.minibatch)
    assert seconds == pytest.approx(expected, rel=1e-6)
    assert len(calls) == len(set(calls)) and {name for name, *_ in calls} == {
        stage.name for *_, stage in ahead}


def test_a_dry_run_names_the_run_that_it_would_continue(data, tmp_path, capsys):
    """It also refuses what the command itself would refuse."""
    options = [f"--data={data}", "--preset=demo-32", "--resolution=16", "--dry-run",
               "--device=cpu", f"--results={tmp_path}"]
    config = TrainingConfig.preset("demo-32", {"data": str(data), "resolution": 16,
                                               "mirror_pairs": "none"})
    record = {**config.to_json(), "init_from": None, "data_digest": open_dataset(data).digest}
    run = make_run(None, tmp_path, "x", record)
    assert train.main(options) == 0
    assert f"would continue {run}, from its beginning" in capsys.readouterr().out
    (run / "training-state-000000512.safetensors").touch()
    assert train.main(options) == 0
    assert "from training-state-000000512.safetensors" in capsys.readouterr().out
    with pytest.raises(UserError, match="seed: 1000 there, 5 now"):
        train.main([*options, f"--run={run}", "--seed=5"])
    with pytest.raises(UserError, match="--override: needs --run"):
        train.main([*options, "--override"])
