"""The schedule: stages, resolutions, presets (test_vectors.py has the official ones)."""

import json

import pytest

from dnnlib.util import UserError
from training.config import PRESETS, TrainingConfig
from training.gan.schedule import Critic, stage_ends, training_schedule
from training.method_config import by_resolution


def test_stages_at_their_boundaries(tiny_config):
    config = tiny_config(variant="2d", rgb_kimg=1.0, binary_kimg=0.5, classes_kimg=2.0)
    names = {nimg: training_schedule(config, 13, nimg).name
             for nimg in (999, 1000, 1499, 1500, 3499, 3500, 9999)}
    assert names == {999: "rgb", 1000: "binary", 1499: "binary", 1500: "classes",
                     3499: "classes", 3500: "classes", 9999: "classes"}
    assert stage_ends(config) == [("rgb", 1000), ("binary", 1500), ("classes", 3500)]
    assert training_schedule(config, 13, 1000).resolution == config.resolution
    assert [training_schedule(config, 13, n).channels for n in (0, 1000, 1500)] == [3, 4, 16]


def test_stage_that_ended_early(tiny_config):
    config = tiny_config(variant="c", rgb_kimg=1.0, binary_kimg=0.5, classes_kimg=2.0)
    ends = stage_ends(config, ended_nimg=(600,))
    assert ends == [("rgb", 600), ("binary", 1100), ("classes", 3100)]
    assert training_schedule(config, 13, 700, ended_nimg=(600,)).name == "binary"


def test_start_from_a_snapshot_skips_stages(tiny_config):
    config = tiny_config(variant="2d", binary_kimg=0.5, classes_kimg=2.0)
    assert training_schedule(config, 13, 0, first_stage="binary").name == "binary"
    assert training_schedule(config, 13, 500, first_stage="binary").name == "classes"


def test_resolution_grows_in_the_first_stage_whichever_it_is(tiny_config):
    config = tiny_config(variant="2d", resolution=32, initial_resolution=16, hold_kimg=1.0,
                         fade_kimg=1.0, binary_kimg=3.0, classes_kimg=3.0)
    lods = [training_schedule(config, 13, n, first_stage="classes").lod for n in (0, 1500, 2000)]
    assert lods == [1, 0.5, 0]
    assert training_schedule(config, 13, 3000, first_stage="binary").lod == 0


@pytest.mark.parametrize("variant, nimg, critics", [
    ("rgb", 0, [("rgb", 3)]), ("c", 0, [("rgb", 3)]),
    ("c", 1000, [("joint", 4)]), ("c", 1500, [("joint", 8)]),
    ("2d", 1000, [("rgb", 3), ("joint", 4)]), ("2d", 1500, [("rgb", 3), ("joint", 8)])])
def test_critics(tiny_config, variant, nimg, critics):
    config = tiny_config(variant=variant, rgb_kimg=1.0, binary_kimg=0.5)
    stage = training_schedule(config, 5, nimg)
    assert [(c.name, c.channels) for c in stage.critics] == critics
    assert all(isinstance(c, Critic) for c in stage.critics)


def test_phase_changes_with_floor_and_ceil_of_lod(tiny_config):
    config = tiny_config(variant="rgb", resolution=32, hold_kimg=1.0, fade_kimg=1.0)
    phases = [training_schedule(config, 0, n).phase
              for n in (0, 1000, 1001, 1999, 2000, 3000, 3001)]
    assert phases[0] == phases[1] != phases[2] == phases[3] != phases[4] == phases[5] != phases[6]


def test_values_by_resolution_hold_up_to_the_next_entry():
    values = [by_resolution({8: 128, 64: 32}, r) for r in (4, 8, 32, 64, 512)]
    assert values == [128, 128, 128, 32, 32]


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_complete_and_survive_json(preset):
    config = TrainingConfig.preset(preset, {"resolution": 64})
    fields = json.loads(json.dumps(config.to_json()))
    for name in ("minibatch", "lrate", "tick_kimg"):
        fields[name] = {int(resolution): value for resolution, value in fields[name].items()}
    assert TrainingConfig(**fields) == config


@pytest.mark.parametrize("bad", [
    dict(variant="3d"), dict(resolution=48), dict(minibatch={}), dict(lrate={4: 0}),
    dict(rgb_kimg=-1), dict(style_mixing_prob=1.5), dict(variant="c", untagged="x"),
    dict(grow_d="none"), dict(hold_kimg=float("nan")), dict(rgb_kimg=float("inf")),
    dict(lrate={4: float("nan")}), dict(minibatch={4: 16.5}), dict(seed=2**31),
    dict(variant="c", joint_rgb_grad=0.0), dict(patience=3, metrics="none"),
    dict(lrate={4: 1e30}), dict(lrate={4: 1e-30}), dict(lrate={8: 0.001, 32: 2}),
    dict(lrate={-8: 0.001}), dict(minibatch={23: 8}), dict(minibatch={4: 16.0}),
    dict(minibatch={4: 10**10}), dict(minibatch_per_gpu={4: 10**30}), dict(tick_kimg={4: 1e30}),
    dict(r1_gamma=1e30), dict(r2_gamma=1e30), dict(wgan_lambda=1e30), dict(map_noise=1e30),
    dict(rgb_kimg=1e30), dict(binary_kimg=1e18), dict(classes_kimg=1e10), dict(hold_kimg=-1e-9),
    dict(fade_kimg=1e18), dict(smoothing_kimg=1e30), dict(fmap_base=10**30), dict(fmap_decay=1e3),
    dict(fmap_max=10**10), dict(latent_size=10**10), dict(mapping_layers=10**10),
    dict(mapping_lrmul=1e30), dict(mapping_lrmul=0.0), dict(mbstd_group_size=10**10),
    dict(network_ticks=10**30), dict(patience=10**30), dict(r1_interval=10**30),
    dict(r1_gamma=float("nan")), dict(mirror=False, mirror_pairs="a:b")])
def test_bad_values_are_refused(bad):
    with pytest.raises(UserError, match="--"):
        TrainingConfig(**bad)


def test_unknown_preset():
    with pytest.raises(UserError, match="paper-256"):
        TrainingConfig.preset("huge", {})
