"""A trained network inside a larger one: same images and scores; the training goes on."""

import numpy as np
import pytest

from dnnlib.data.dataset import open_dataset
from dnnlib.tflib.network import build
from dnnlib.util import UserError
from tests.tools.data_helpers import tagged_and_untagged
from tests.tools.training_runs import ONE_DEVICE, begin, with_networks
from training.gan.init_from import (
    check_start,
    enter_stage,
    grow_resolution,
    new_state,
    take_network_options,
)
from training.gan.schedule import make_stage
from training.snapshots import load_snapshot, read_header, save_snapshot
from training.stylegan import StyleGan

pytestmark = pytest.mark.usefixtures("eagerly")


@pytest.mark.parametrize("steps", [1, 2])
def test_a_grown_network_draws_and_scores_as_before(tiny_config, steps):
    options = dict(num_channels=3, resolution=8, fmap_base=64, fmap_max=8, seed=3)
    G = build("G_style", "G", {**options, "latent_size": 8, "dlatent_size": 8, "mapping_fmaps": 8})
    D = build("D_basic", "D_rgb", options)
    large_G, large_D = (grow_resolution(network, 8 << steps) for network in (G, D))
    latents = np.random.default_rng(0).standard_normal((4, 8), np.float32)
    images = G(latents)
    np.testing.assert_array_equal(large_G(latents, resolution=8), images)
    np.testing.assert_array_equal(large_D(images, resolution=8), D(images))
    assert large_G(latents).shape == (4, 8 << steps, 8 << steps, 3)
    assert np.ptp(large_G(latents)) > 0  # the new layers are initialised


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["rgb", "2d"])
def test_a_training_grows_on_from_a_trained_network(tmp_path, tiny_config, variant):
    tagged, _ = tagged_and_untagged(tmp_path, 8, 12)
    common = dict(data=str(tagged), variant=variant, initial_resolution=4, rgb_kimg=0.032,
                  binary_kimg=0.0, classes_kimg=0.032, hold_kimg=0.008, fade_kimg=0.008)
    begin(tiny_config(**common, resolution=4), tmp_path / "small").run()
    origin = tmp_path / "small/network-final.safetensors"
    config = tiny_config(**common, resolution=8)
    training = begin(config, tmp_path / "large", origin=origin)
    stages = []
    draw = training.method.draw
    training.method.draw = lambda stage, *rest: (stages.append(stage.lod), draw(stage, *rest))[1]
    assert training.run() is True
    assert stages[0] == 1 and stages[-1] == 0
    final = load_snapshot(tmp_path / "large/network-final.safetensors")
    assert final.networks["G"].resolution == 8 and final.header["lod"]["resolution"] == 8
    assert final.header["kimg"] == pytest.approx(0.032)
    assert final.networks["G"].num_channels == {"rgb": 3, "2d": 7}[variant]


def test_class_frequencies_are_at_the_current_resolution(tmp_path, tiny_config):
    """While a network with maps grows, they are measured at the resolution it has reached."""
    tagged, _ = tagged_and_untagged(tmp_path, 8, 12)
    dataset, options = open_dataset(tagged), dict(data=str(tagged), variant="2d",
                                                  initial_resolution=4, hold_kimg=1, fade_kimg=1)
    small = tiny_config(**options, resolution=4)
    state = new_state(small)
    for name in ("binary", "classes"):
        state = enter_stage(state, make_stage(small, len(dataset.classes), name), small)
    save_snapshot(tmp_path / "small.safetensors", state.networks, {
        "variant": "2d", "stage": "classes", "classes": list(dataset.classes), "kimg": 1.0,
        "lod": {"resolution": 4, "fade": 0.0}})
    details = []
    for resolution in (4, 8):
        method, progress = with_networks(StyleGan(
            tiny_config(**options, resolution=resolution), dataset, ONE_DEVICE,
            origin=tmp_path / "small.safetensors"))
        stage = method.stage(progress)
        assert stage.resolution == 4
        details.append(method.details(stage))
    assert details[0] == details[1]


def test_a_training_starts_at_the_trained_networks_resolution(tmp_path, tiny_config):
    tagged, _ = tagged_and_untagged(tmp_path, 8, 12)
    small = tiny_config(data=str(tagged), variant="rgb", resolution=4, initial_resolution=4,
                        rgb_kimg=0.016)
    begin(small, tmp_path / "small").run()
    header = read_header(tmp_path / "small/network-final.safetensors")
    wanted = tiny_config(data=str(tagged), variant="rgb", resolution=8, initial_resolution=8)
    config, taken = take_network_options(header, wanted, {"resolution": 8})
    assert config.resolution == 8 and taken["initial_resolution"] == 4
    check_start(header, config, ())
    with pytest.raises(UserError, match="networks, 4; leave it out"):
        check_start(header, wanted, ())
    with pytest.raises(UserError, match=r"=8: stage binary begins at .*grow them with --variant="):
        check_start(header, tiny_config(
            data=str(tagged), variant="c", resolution=8, initial_resolution=4), ("a",))
