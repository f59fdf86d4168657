"""Options of networks and losses from the command line to a training step, and what is refused."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from dnnlib.tflib import ops
from dnnlib.util import UserError, write_json
from generation.sheets import style_mix
from training import config as config_module
from training import loss
from training.config import TrainingConfig
from training.gan.channel_growth import grow_critic, grow_generator
from training.gan.gan_step import GanStep
from training.gan.init_from import network_configs, new_state, state_from_snapshot
from training.gan.schedule import Critic
from training.method_config import as_option
from training.run.config_checks import check_minibatches, check_networks
from training.run.directory import find_run
from training.run.options import parse_training_options
from training.sampler import Sampler
from training.snapshots import Snapshot, load_snapshot, save_snapshot

TINY = ["--variant=rgb", "--resolution=8", "--fmap-base=32", "--fmap-max=8", "--latent-size=8",
        "--mapping-layers=2", "--minibatch=8"]
# StyleGAN (Karras et al. 2019), table 1, from the last row up, and the other options.
ABLATIONS = {
    "F": [],
    "E, no style mixing": ["--style-mixing-prob=0"],
    "D, no noise": ["--no-use-noise", "--style-mixing-prob=0"],
    "C, dense input": ["--no-use-noise", "--no-const-input", "--style-mixing-prob=0"],
    "B, no styles": ["--no-use-noise", "--no-const-input", "--no-use-styles",
                     "--style-mixing-prob=0", "--use-pixel-norm", "--no-use-instance-norm",
                     "--mapping-layers=0"],
    "A, no blur": ["--no-use-noise", "--no-const-input", "--no-use-styles",
                   "--style-mixing-prob=0", "--use-pixel-norm", "--no-use-instance-norm",
                   "--mapping-layers=0", "--no-blur", "--d-loss=wgan", "--g-loss=wgan",
                   "--r1-gamma=0", "--wgan-lambda=10"],
    "ReLU and He": ["--nonlinearity=relu", "--no-use-wscale"],
    "hinge, R2": ["--d-loss=hinge", "--g-loss=hinge", "--r2-gamma=3"],
    "saturating": ["--g-loss=logistic_saturating"],
    "stddev": ["--mbstd-group-size=8", "--mbstd-num-features=2"],
    "no stddev": ["--mbstd-group-size=1"],
    "widths": ["--fmap-decay=0.5", "--fmap-base=12", "--mapping-lrmul=0.1"],
    "latents": ["--no-normalize-latents", "--mapping-layers=1"],
}
# Another value for every field of a network's configuration.
OTHER_VALUES = {
    "resolution": 16, "fmap_base": 32, "fmap_decay": 0.5, "fmap_max": 6, "latent_size": 9,
    "mapping_layers": 3, "mapping_lrmul": 0.1, "normalize_latents": False, "use_styles": False,
    "use_noise": False, "const_input": False, "use_pixel_norm": True, "use_instance_norm": False,
    "nonlinearity": "relu", "use_wscale": False, "blur": False, "mbstd_group_size": 2,
    "mbstd_num_features": 2}


def parsed(*options):
    """Return the config of a command line."""
    given = parse_training_options([*TINY, *options])
    return TrainingConfig.preset("paper", {
        f.name: getattr(given, f.name) for f in dataclasses.fields(TrainingConfig)
        if getattr(given, f.name) is not None})


@pytest.mark.parametrize("ablation, label_size", [
    *((name, 3) for name in ABLATIONS),
    *(pytest.param(name, 0, marks=() if name in ("F", "B, no styles") else pytest.mark.slow)
      for name in ABLATIONS)])
def test_every_ablation_trains(eagerly, tmp_path, rng, ablation, label_size):
    """One step changes every variable in use; the snapshot draws the same as the network."""
    config = parsed(*ABLATIONS[ablation])
    check_networks(config)
    check_minibatches(config, 1)
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    with strategy.scope():
        state = new_state(config, label_size=label_size)
    before = {name: n.get_arrays() for name, n in state.networks.items()}
    images = rng.integers(0, 256, (8, 8, 8, 3), np.uint8)
    labels = np.eye(label_size, dtype=np.float32)[rng.integers(0, label_size, 8)] if label_size \
        else np.zeros((8, 0), np.float32)
    turn = GanStep(strategy, config, state.networks, state.optimizers, Critic("rgb", 3), 8, False,
                   8, labels)
    report = turn((tf.constant(images), tf.constant(labels)), 0, 0.0, 0.001)
    assert report["Progress/skipped_updates"] == 0 and np.isfinite(report["Loss/D"])
    for name in ("G", "D_rgb"):
        network = state.networks[name]
        still = [n for n, var in network.trainables.items()
                 if np.array_equal(var.numpy(), before[name][n])]
        assert all("RGB_lod1" in n for n in still), still
    assert_snapshot_draws_the_same(state.networks, tmp_path / "s.safetensors", labels, rng)


def assert_snapshot_draws_the_same(networks, path, labels, rng):
    header = {"classes": [], "lod": {"resolution": 8, "fade": 0.0}}
    save_snapshot(path, networks, header)
    loaded = load_snapshot(path)
    latents = rng.standard_normal((8, 8)).astype(np.float32)
    labels = labels if labels.shape[1] else None
    np.testing.assert_array_equal(
        loaded.networks["Gs"](latents, labels, truncation_psi=0.7),
        networks["Gs"](latents, labels, truncation_psi=0.7))


def test_sheets_of_a_network_without_styles(tmp_path):
    """generate.py draws its seeds, and refuses style mixing."""
    networks = new_state(parsed(*ABLATIONS["B, no styles"])).networks
    header = {"classes": [], "lod": {"resolution": 8, "fade": 0.0}}
    save_snapshot(tmp_path / "s.safetensors", networks, header)
    sampler = Sampler.load(tmp_path / "s.safetensors")
    assert next(sampler.seed_images([1, 2], 0.7, "random", 2)).shape == (2, 8, 8, 3)
    with pytest.raises(UserError, match="no styles"):
        style_mix(sampler, [1], [2], [0], 0.7, "random", 2)


def test_every_option_of_the_networks_is_an_option_of_training():
    """Every TrainingConfig option with a network option's name is passed on to the network."""
    changed = dataclasses.replace(TrainingConfig(), style_mixing_prob=0.0, **OTHER_VALUES)
    fields = {f.name for f in dataclasses.fields(TrainingConfig)}
    for name, network in new_state(changed, label_size=3).networks.items():
        for key in fields & set(network.config) - {"seed"}:
            assert network.config[key] == OTHER_VALUES[key], (name, key)
    assert network_configs(changed)["G"]["mapping_nonlinearity"] == "relu"


@pytest.mark.parametrize("name", [n for n in OTHER_VALUES if n != "use_styles"])
def test_a_snapshot_of_another_network_names_the_option_to_give(tiny_config, name):
    common = {"variant": "rgb", "initial_resolution": 8, "resolution": 8}
    if name == "resolution":
        common["initial_resolution"] = 16
    ours = tiny_config(**common)
    theirs = tiny_config(**{**common, name: OTHER_VALUES[name]})
    networks = new_state(theirs).networks
    header = {"stage": "rgb", "classes": [], "lod": {"resolution": theirs.resolution, "fade": 0.0},
              "networks": {key: {"type": type(network).__name__, "config": network.config}
                           for key, network in networks.items()}}
    snapshot = Snapshot(networks, header)
    if name != "resolution":
        with pytest.raises(UserError, match=f"give {as_option(name, OTHER_VALUES[name])}$"):
            state_from_snapshot(snapshot, ours, ())
    assert state_from_snapshot(snapshot, theirs, ()).networks.keys() == networks.keys()
    with pytest.raises(UserError, match="label_size of its D_rgb is 0, of this training 3"):
        state_from_snapshot(snapshot, theirs, (), label_size=3)


def test_names_listed_without_tensorflow_are_complete():
    assert set(config_module.D_LOSSES) == set(loss.D_LOSSES)
    assert set(config_module.G_LOSSES) == set(loss.G_LOSSES)
    assert config_module.NONLINEARITIES == ops.NONLINEARITIES


@pytest.mark.parametrize("options, message", [
    (["--no-use-styles", "--style-mixing-prob=0"], "give --no-const-input too"),
    (["--no-use-styles", "--no-const-input"], "give --style-mixing-prob=0 too"),
    (["--mbstd-group-size=1", "--mbstd-num-features=2"], "leaves minibatch stddev out"),
    (["--mapping-layers=0", "--mapping-lrmul=1"], "leaves the mapping network out"),
    (["--mapping-lrmul=0"], "a number above 0"), (["--fmap-decay=-1"], "from 0 to "),
    (["--r2-gamma=-1"], "from 0 to "), (["--wgan-lambda=nan"], "finite"),
    (["--mbstd-group-size=0"], "from 1 to "), (["--style-mixing-prob=2"], "from 0 to 1"),
    (["--d-loss=lsgan"], "wgan.*hinge"), (["--g-loss=logistic"], "nonsaturating"),
    (["--nonlinearity=tanh"], "lrelu.*relu")])
def test_refused_options(options, message):
    with pytest.raises(UserError, match=message) as caught:
        parsed(*options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("changes, message", [
    ({"mbstd_num_features": 3}, "must divide the 8 feature maps"),
    ({"fmap_base": 1, "fmap_decay": 0.5}, "give at least 3"),
    ({"fmap_base": 4, "fmap_decay": 2.0}, "give at least 64")])
def test_widths_that_leave_no_fmaps_are_refused(tiny_config, changes, message):
    with pytest.raises(UserError, match=message):
        check_networks(tiny_config(**changes))


def test_minibatches_must_have_whole_stddev_groups(tiny_config):
    """At any resolution; a group larger than the minibatch is the whole minibatch."""
    check_minibatches(tiny_config(mbstd_group_size=16, minibatch={4: 8}), 1)
    with pytest.raises(UserError, match="multiple of 6"):
        check_minibatches(tiny_config(mbstd_group_size=3, minibatch={4: 12, 16: 8}), 2)


def test_older_runs_have_the_default_options(tmp_path):
    """training_options.json of a version without the network options."""
    record = {**TrainingConfig(seed=7).to_json(), "data_digest": "x"}
    old = {name: value for name, value in record.items()
           if name not in OTHER_VALUES or name in ("resolution", "fmap_base", "fmap_max")}
    run = tmp_path / "00000-old"
    run.mkdir()
    write_json(run / "training_options.json", old)
    assert find_run(None, tmp_path, record) == run
    assert find_run(run, tmp_path, record) == run
    assert find_run(None, tmp_path, {**record, "use_noise": False}) is None
    with pytest.raises(UserError, match="use_noise: True there, False now"):
        find_run(run, tmp_path, {**record, "use_noise": False})


def test_growth_keeps_the_options(tiny_config):
    config = tiny_config(style_mixing_prob=0.0, **{**OTHER_VALUES, "resolution": 8})
    networks = new_state(config, label_size=2).networks
    for grown, old in ((grow_generator(networks["G"], 4), networks["G"]),
                       (grow_critic(networks["D_rgb"], 4), networks["D_rgb"])):
        assert grown.config == {**old.config, "num_channels": 4}
