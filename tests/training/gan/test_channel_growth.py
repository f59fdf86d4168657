"""Growing channels keeps what was learned."""

import numpy as np
import pytest
import tensorflow as tf

from dnnlib.tflib.network import build
from training import networks_stylegan  # noqa: F401
from training.gan.channel_growth import EMPTY, grow_critic, grow_generator, source_channels

SMALL = dict(resolution=16, fmap_base=64, fmap_max=8)


@pytest.fixture
def latents(rng):
    return rng.standard_normal((4, 8)).astype(np.float32)


def perturbed(network, rng):
    """Return the network with every variable moved, so that no bias is zero."""
    network.set_arrays({n: a + 0.1 * rng.standard_normal(a.shape).astype(np.float32)
                        for n, a in network.get_arrays().items()})
    return network


def generator(channels, rng):
    config = dict(SMALL, num_channels=channels, latent_size=8, dlatent_size=8, mapping_fmaps=8,
                  mapping_layers=2)
    return perturbed(build("G_style", "G", config), rng)


def critic(channels, rng, **options):
    return perturbed(build("D_basic", "D", dict(SMALL, num_channels=channels, **options)), rng)


@pytest.mark.parametrize("resolution, fade", [(16, 0.0), (16, 0.4), (8, 0.0), (4, 0.0)])
def test_generator_keeps_colours_exactly_and_copies_red_then_binary(latents, rng, resolution, fade):
    rgb = generator(3, rng)
    binary = grow_generator(rgb, 4)
    old = rgb(latents, resolution=resolution, fade=fade).numpy()
    new = binary(latents, resolution=resolution, fade=fade).numpy()
    np.testing.assert_array_equal(new[..., :3], old)
    np.testing.assert_array_equal(new[..., 3], old[..., 0])
    binary = perturbed(binary, rng)
    classes = grow_generator(binary, 3 + 5)
    old = binary(latents, resolution=resolution, fade=fade).numpy()
    new = classes(latents, resolution=resolution, fade=fade).numpy()
    np.testing.assert_array_equal(new[..., :4], old)
    for channel in range(3, 8):
        np.testing.assert_array_equal(new[..., channel], old[..., 3])


@pytest.mark.parametrize("old_channels, new_channels", [(3, 4), (4, 8)])
@pytest.mark.parametrize("resolution, fade", [(16, 0.0), (16, 0.4), (4, 0.0)])
def test_generator_with_empty_maps(latents, rng, old_channels, new_channels, resolution, fade):
    old = generator(old_channels, rng)
    grown = grow_generator(old, new_channels, "empty")
    images = grown(latents, resolution=resolution, fade=fade).numpy()
    before = old(latents, resolution=resolution, fade=fade).numpy()
    np.testing.assert_array_equal(images[..., :3], before[..., :3])
    assert np.all(images[..., 3:] == EMPTY) and EMPTY == -0.5
    # Equally large networks do not change: a training may start from one with all its channels.
    kept = grow_generator(old, old_channels, "empty")
    np.testing.assert_array_equal(kept(latents).numpy(), old(latents).numpy())


@pytest.mark.parametrize("equalised", [True, False])
@pytest.mark.parametrize("old_channels, new_channels", [(3, 4), (4, 16)])
def test_critic_with_fresh_inputs(rng, old_channels, new_channels, equalised):
    old = critic(old_channels, rng, use_wscale=equalised)
    new = grow_critic(old, new_channels, "fresh")
    images = np.zeros([4, 16, 16, new_channels], np.float32)  # maps of 0 have no weight
    images[..., :3] = rng.standard_normal([4, 16, 16, 3])
    np.testing.assert_allclose(new(images).numpy(), old(images[..., :old_channels]).numpy(),
                               atol=1e-5)
    weight = new.get_arrays()["FromRGB_lod0/weight"][0, 0]  # [channels, maps]
    maps = weight[3:] * (np.sqrt(2 / new_channels) if equalised else 1)  # as they are used
    drawn = np.sqrt(2 / 3)  # He's deviation for three colours
    assert np.sqrt(np.mean(maps ** 2)) == pytest.approx(drawn, rel=0.5)
    assert len(np.unique(maps, axis=0)) == len(maps)  # all of them differ
    again = grow_critic(old, new_channels, "fresh").get_arrays()["FromRGB_lod0/weight"][0, 0]
    np.testing.assert_array_equal(again, weight)
    kept = grow_critic(old, old_channels, "fresh").get_arrays()
    np.testing.assert_array_equal(kept["FromRGB_lod0/weight"],
                                  old.get_arrays()["FromRGB_lod0/weight"])


@pytest.mark.parametrize("old_channels, new_channels", [(3, 4), (4, 16), (3, 16)])
@pytest.mark.parametrize("resolution, fade", [(16, 0.0), (16, 0.4), (8, 0.0), (4, 0.0)])
def test_critic_with_zero_inputs_scores_as_before(
        rng, old_channels, new_channels, resolution, fade):
    """Copies of stored weights would be rescaled by sqrt(old / new): equalised learning rate."""
    old = critic(old_channels, rng)
    new = grow_critic(old, new_channels, "zero")
    images = rng.standard_normal((4, resolution, resolution, new_channels)).astype(np.float32)
    before = old(images[..., :old_channels], resolution=resolution, fade=fade)
    after = new(images, resolution=resolution, fade=fade)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


def test_critic_with_copied_inputs_adds_map_and_red(rng):
    """A new channel has its source's effective weight: D'(rgb, map) = D(rgb, map added to red)."""
    old = critic(3, rng)
    new = grow_critic(old, 4, "copy")
    images = rng.standard_normal((4, 16, 16, 4)).astype(np.float32)
    summed = images[..., :3] + np.pad(images[..., 3:], [(0, 0)] * 3 + [(0, 2)])
    np.testing.assert_allclose(new(images), old(summed), rtol=1e-4, atol=1e-4)


def test_without_equalised_learning_rate_stored_weights_are_copied_as_they_are(rng):
    """They are not divided by sqrt(fan_in)."""
    old = critic(3, rng, use_wscale=False)
    images = rng.standard_normal((4, 16, 16, 4)).astype(np.float32)
    unseen, copied = (grow_critic(old, 4, new_inputs) for new_inputs in ("zero", "copy"))
    np.testing.assert_allclose(unseen(images), old(images[..., :3]), rtol=1e-5, atol=1e-5)
    summed = images[..., :3] + np.pad(images[..., 3:], [(0, 0)] * 3 + [(0, 2)])
    np.testing.assert_allclose(copied(images), old(summed), rtol=1e-4, atol=1e-4)


def test_every_lod_grows(rng):
    grown = grow_critic(critic(3, rng), 16, "copy")
    names = [n for n in grown.vars if n.startswith("FromRGB") and n.endswith("weight")]
    assert len(names) == 3
    for name in names:
        weights = grown.vars[name].numpy()
        np.testing.assert_array_equal(weights[:, :, 3:], np.repeat(weights[:, :, :1], 13, axis=2))


def test_growing_does_not_change_the_old_network(rng):
    old = critic(3, rng)
    digest = old.digest()
    grow_critic(old, 4, "zero").vars["FromRGB_lod0/weight"].assign_add(tf.ones([1, 1, 4, 8]))
    assert old.digest() == digest


def test_source_channels():
    assert source_channels(3, 4) == [0, 1, 2, 0]
    assert source_channels(4, 6) == [0, 1, 2, 3, 3, 3]
    assert source_channels(16, 16) == list(range(16))
    with pytest.raises(ValueError):
        source_channels(16, 4)
