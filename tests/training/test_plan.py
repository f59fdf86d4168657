"""The plan: its ticks and files are those of the training, and describing it leaves no trace."""

import os
import re
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

import train
from dnnlib.util import UserError
from tests.tools.data_helpers import FOUR, make_dataset, random_image
from training.config import PRESETS, preset_config
from training.dataset import open_dataset
from training.run import rehearsal
from training.run.directory import make_run
from training.run.plan import (
    describe_plan,
    rows_at_once,
    simulate_ticks,
    snapshot_bytes,
    state_bytes,
    stretches,
)
from training.run.time_left import turn_cost
from training.schedule import make_stage, training_schedule
from training.state import enter_stage, new_state


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    images = np.stack([random_image(np.random.default_rng(0), 7, 16) for _ in range(8)])
    return make_dataset(tmp_path_factory.mktemp("data") / "small", {"train": images}, FOUR)


@pytest.mark.parametrize("preset", PRESETS)
def test_stretches_are_those_of_the_schedule(preset):
    config = preset_config(preset, {"resolution": preset_config(preset, {}).resolution or 512})
    found = stretches(config, 13)
    assert [s[0] for s in found[1:]] == [s[1] for s in found[:-1]] and found[0][0] == 0
    for start, end, stage in found:
        for nimg in (start, (start + end) // 2, end - 1):
            now = training_schedule(config, 13, nimg)
            assert now.optimizer_phase == stage.optimizer_phase
            assert (now.minibatch, now.lrate) == (stage.minibatch, stage.lrate)
    assert found[-1][1] == 1000 * (config.rgb_kimg + config.binary_kimg + config.classes_kimg)


def walked(config, minibatch_of_looks):
    """Ticks of a plain walk over all looks at the schedule: [(nimg, stage name, tick)]."""
    nimg = tick_nimg = 0
    ended, ticks = [], []
    while True:
        names = ["rgb", "binary", "classes"]
        lengths = [round(getattr(config, f"{name}_kimg") * 1000) for name in names]
        if len(ended) == 3:
            return ticks
        end = (ended[-1] if ended else 0) + lengths[len(ended)]
        if nimg >= end:
            ended.append(nimg)
            continue
        stage = training_schedule(config, 13, nimg, ended_nimg=tuple(ended))
        nimg += stage.minibatch * minibatch_of_looks
        if nimg >= tick_nimg + 1000 * stage.tick_kimg or nimg >= end:
            tick_nimg = nimg
            ticks.append((nimg, stage.name))


@pytest.mark.parametrize("changes", [
    {}, {"minibatch_repeats": 7, "tick_kimg": {4: 3.3, 16: 0.9}}, {"tick_kimg": {4: 0.01}},
    {"hold_kimg": 1.1, "fade_kimg": 0.3, "binary_kimg": 0.0, "minibatch": {4: 48, 16: 20}}])
def test_ticks_are_those_of_the_loop(changes):
    config = preset_config("demo-32", changes)
    ticks = list(simulate_ticks(config, stretches(config, 13)))
    expected = walked(config, config.minibatch_repeats)
    assert [(tick.nimg, tick.stage.name) for tick in ticks] == expected
    last_of_stage = [b[1:] != a[1:] for a, b in zip(expected, [*expected[1:], (0, "")])]
    assert [tick.saves_network for tick in ticks] == [
        ends or number == 1 or number % config.network_ticks == 0
        for number, ends in enumerate(last_of_stage, start=1)]


def test_sizes_of_the_presets_networks():
    """Against networks that were built."""
    config = preset_config("demo-32", {})
    state = new_state(config)
    for name in ("rgb", "binary", "classes"):
        stage = make_stage(config, 13, name)
        if name != "rgb":
            state = enter_stage(state, stage, "zero")
        numbers = {n: sum(int(np.prod(v.shape)) for v in network.vars.values())
                   for n, network in state.networks.items()}
        slots = sum(int(np.prod(v.shape)) for n, network in state.networks.items() if n != "Gs"
                    for v in network.trainables.values())
        assert snapshot_bytes(config, stage) == 4 * sum(numbers.values())
        assert state_bytes(config, stage) == 4 * sum(numbers.values()) + 8 * slots


def test_the_plan_tells_everything():
    config = preset_config("demo-32", {"data": "somewhere"})
    dataset = SimpleNamespace(path="somewhere", splits={"train": 7}, classes=["c"] * 13,
                              label_size=0)
    plan = describe_plan(config, dataset, "rgb", 2, (1e9, "a slow machine"), 2)
    lines = plan.splitlines()
    assert " ".join(lines[1].split()) == ("from kimg to kimg stage resolution channels critics "
                                          "minibatch per device lrate ticks memory time")
    assert [line.split()[2] for line in lines[2:9]] == ["rgb"] * 5 + ["binary", "classes"]
    assert [re.search(r"0\.003  (\d+) ", line)[1] for line in lines[2:9]] == [
        "1", "1", "2", "1", "1", "1", "8"]
    assert all(re.search(r" \d\S* MB  .*\ds$", line) for line in lines[2:9])
    assert "measured just now on a slow machine, shared by 2 devices" in plan
    assert "2 training states kept" in plan
    assert "estimate" in plan and "lower bound" in plan and plan.endswith("nothing was written")
    twice = describe_plan(config, dataset, "rgb", 1, (2e9, "a"), 2)
    assert [line.split()[-1] for line in twice.splitlines()[2:9]] == [
        line.split()[-1] for line in lines[2:9]]  # two devices, or one of twice the speed
    nothing = preset_config("demo-32", dict.fromkeys(
        ("rgb_kimg", "binary_kimg", "classes_kimg"), 0.0))
    assert "0 kimg in all, in 0 ticks" in describe_plan(nothing, dataset, "rgb", 1, (1e9, "a"), 2)


def test_rows_at_once(tiny_config):
    stage = make_stage(tiny_config(), 4, "rgb")
    assert rows_at_once(tiny_config(), stage, 2) == 4
    assert rows_at_once(tiny_config(mbstd_group_size=2, minibatch_per_gpu={4: 2}), stage, 2) == 2
    assert rows_at_once(tiny_config(minibatch_per_gpu={4: 16, 32: 4}), stage, 1) == 8


def test_parts_need_less_memory(tiny_config):
    dataset = SimpleNamespace(path="somewhere", splits={"train": 7}, classes=[], label_size=0)
    whole, parts = (describe_plan(
        tiny_config(variant="rgb", minibatch={4: 64}, minibatch_per_gpu=limit), dataset, "rgb", 2,
        (1e9, "a"), 2).splitlines()[2] for limit in ({}, {4: 8}))
    assert " 32 " in whole and " 4 x 8 " in parts
    memory = [float(re.search(r"([\d.]+) kB", line)[1]) if "kB" in line else
              1e3 * float(re.search(r"([\d.]+) MB", line)[1]) for line in (whole, parts)]
    assert memory[1] < memory[0] / 2


def listing(folder):
    """{path: (size, time)} of everything below."""
    return {os.path.join(where, name): os.lstat(os.path.join(where, name))[6:9:2]
            for where, folders, files in os.walk(folder) for name in [*folders, *files]}


def test_a_dry_run_leaves_no_trace(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STYLE_C_GAN_CACHE", str(tmp_path / "cache"))
    before = listing(data.parent), listing(tmp_path)
    assert train.main([f"--data={data}", "--preset=demo-32", "--resolution=16", "--dry-run",
                       "--device=cpu"]) == 0
    out = capsys.readouterr().out
    assert "would make a new run: the next number in results" in out
    assert "nothing was written" in out
    assert (listing(data.parent), listing(tmp_path)) == before


def test_a_dry_run_measures_this_machine(data, tmp_path, monkeypatch, capsys):
    """Real turns are timed; what they predict is not less than the bound; nothing is written."""
    monkeypatch.chdir(tmp_path)
    assert train.main([f"--data={data}", "--preset=demo-32", "--resolution=8", "--fmap-base=32",
                       "--fmap-max=4", "--latent-size=4", "--device=cpu", "--gpus=2", "--dry-run",
                       "--measure"]) == 0
    *plan, last = capsys.readouterr().out.splitlines()
    assert plan[-1] == "nothing was written"
    told = re.search(r"on this machine the training will take about (.*), by turns", last)[1]
    bound = re.search(r"kimg in all, in \d+ ticks and at least (.*)", "\n".join(plan))[1]
    assert seconds_of(told) > seconds_of(bound) >= 0
    assert not list(tmp_path.iterdir())


def seconds_of(text):
    """'1h 02m 03s' -> 3723."""
    units = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    return sum(int(part[:-1]) * units[part[-1]] for part in text.split())


def test_measuring_is_for_dry_runs_of_one_machine(data):
    options = [f"--data={data}", "--preset=demo-32", "--resolution=16", "--measure"]
    with pytest.raises(UserError, match="--measure: goes with --dry-run only"):
        train.main(options)
    with pytest.raises(UserError, match="--measure: times the devices of one machine"):
        train.main([*options, "--dry-run", "--workers=a:1,b:1", "--worker-index=0"])


@pytest.mark.parametrize("first_stage", ["rgb", "binary"])
@pytest.mark.parametrize("interval", [1, 4])
def test_expected_seconds_price_all_that_is_ahead(tiny_config, monkeypatch, first_stage, interval):
    """Where a turn takes a second for every so many multiply-adds and compiling five."""
    config, rate = tiny_config(r1_interval=interval), 1e7
    monkeypatch.setattr(rehearsal, "_timed_turns", lambda config, stage, strategy: (
        5.0, turn_cost(config, stage) / rate))
    expected = 0.0
    for start, end, stage in stretches(config, 4, first_stage):
        expected += (end - start) / stage.minibatch * turn_cost(config, stage) / rate
        expected += 5.0 * len(stage.critics)
    found = rehearsal.expected_seconds(config, 4, first_stage, None)
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_turn_is_timed_apart_from_its_compilation(tiny_config):
    config = tiny_config(resolution=8)
    compile_sec, turn_sec = rehearsal._timed_turns(config, make_stage(config, 4, "rgb"),
                                                   tf.distribute.get_strategy())
    assert 0 < turn_sec < 0.5 < compile_sec


def test_a_dry_run_says_which_run_goes_on(data, tmp_path, capsys):
    """And refuses what the command itself would refuse."""
    options = [f"--data={data}", "--preset=demo-32", "--resolution=16", "--dry-run",
               "--device=cpu", f"--results={tmp_path}"]
    config = preset_config("demo-32", {"data": str(data), "resolution": 16, "mirror_pairs": "none"})
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
