"""generation.videos: only the latent of a film changes, along a closed smooth curve."""

import dataclasses

import numpy as np
import pytest

from dnnlib.data import pictures
from dnnlib.tflib.network import build
from generation.videos import MIN_SIDE, Video, closed_spline
from tests.tools.generators import RESOLUTION, save_network
from training import snapshots
from training.decoder.networks import decoded_config
from training.sampler import Sampler, label_maps

pytestmark = pytest.mark.usefixtures("eagerly")

FACTOR = MIN_SIDE // RESOLUTION


def save_decoder(path):
    """Write a snapshot of a generator without maps and a decoder of two maps."""
    colours = snapshots.load_snapshot(save_network(path, ())).networks["Gs"]
    network = build("DecodedGenerator", "Gs", decoded_config(colours.config, 2, decoder="conv"))
    snapshots.save_snapshot(path, {"Gs": network}, {
        "stage": "classes", "classes": ["bag", "skirt"],
        "lod": {"resolution": RESOLUTION, "fade": 0.0}})
    return path


@pytest.fixture(scope="module")
def samplers(tmp_path_factory):
    """Return {kind: Sampler} of random networks."""
    root = tmp_path_factory.mktemp("networks")
    paths = {"maps": save_network(root / "maps.safetensors", ("bag", "skirt")),
             "rgb": save_network(root / "rgb.safetensors", ()),
             "decoder": save_decoder(root / "decoder.safetensors")}
    return {kind: Sampler.load(path) for kind, path in paths.items()}


@pytest.fixture
def video(samplers):
    return Video(samplers["maps"], [3, 8, 5], (1, 1), "w", 4, 0.7, "random", 4)


def drawn(video):
    frames = np.stack(list(video.frames()))
    assert frames.shape == (len(video), *video.size[::-1], 3)
    return frames


# The curve

def test_the_curve_is_closed_and_smooth(rng):
    points = rng.standard_normal((5, 2, 3))
    spline = closed_spline(points)
    np.testing.assert_allclose(spline(np.arange(6)), points[[0, 1, 2, 3, 4, 0]], atol=1e-12)
    for order in (0, 1, 2):
        np.testing.assert_allclose(spline(5, order), spline(0, order), atol=1e-9)
        np.testing.assert_allclose(spline(2 - 1e-9, order), spline(2 + 1e-9, order), atol=1e-6)


@pytest.mark.parametrize("space", ["w", "z"])
def test_the_curve_passes_through_the_w_of_every_seed(video, space):
    video = dataclasses.replace(video, space=space)
    own = video.sampler.dlatents(video.sampler.seed_latents(video.seeds), 0.7)
    np.testing.assert_allclose(video.make_path()(np.arange(3)), own, atol=1e-5)
    between = video.make_path()(np.array([0.5]))
    assert np.abs(between - own).max(axis=(1, 2)).min() > 0.01


def test_z_keeps_its_length_between_seeds(video, monkeypatch):
    sampler, seen = video.sampler, []
    lengths = np.linalg.norm(sampler.seed_latents(video.seeds), axis=1)
    way = dataclasses.replace(video, space="z").make_path()
    monkeypatch.setattr(sampler, "dlatents", lambda z, psi: seen.append(z))
    way(np.linspace(0, 3, 31))
    found = np.linalg.norm(seen[0], axis=1)
    np.testing.assert_allclose(found[[0, 10, 20, 30]], lengths[[0, 1, 2, 0]])
    assert lengths.min() - 0.5 < found.min() and found.max() < lengths.max() + 0.5


@pytest.mark.parametrize("space", ["w", "z"])
def test_a_film_continues_from_its_end_to_its_start(video, space):
    frames = drawn(dataclasses.replace(video, space=space, steps=12)).astype(float)
    steps = np.abs(frames - np.roll(frames, 1, axis=0)).mean(axis=(1, 2, 3))
    assert 0 < steps[0] <= steps[1:].max()


# Frames

def test_frames_equal_stills_with_the_photo_above_the_map(video):
    sampler, frames = video.sampler, drawn(video)
    own = sampler.dlatents(sampler.seed_latents(video.seeds), 0.7)
    dlatents = closed_spline(own)(np.arange(12) / 4).astype(np.float32)
    stills = np.concatenate(list(sampler.dlatent_images(dlatents, [3] * 12, "random", 4)))
    assert video.size[0] == MIN_SIDE
    photos, maps = frames[:, :MIN_SIDE], frames[:, MIN_SIDE:2 * MIN_SIDE]
    expected = pictures.to_uint8(stills[..., :3])
    np.testing.assert_array_equal(photos[:, ::FACTOR, ::FACTOR], expected)
    np.testing.assert_array_equal(photos, pictures.upscale_nearest(expected, MIN_SIDE))
    np.testing.assert_array_equal(maps, pictures.upscale_nearest(
        pictures.map_pictures(stills[..., 3:]), MIN_SIDE))
    assert 0 < (label_maps(stills) > 0).mean() < 1
    assert (frames[:, 2 * MIN_SIDE:] == pictures.legend(("bag", "skirt"), MIN_SIDE)).all()


@pytest.mark.parametrize("noise", ["random", "const"])
def test_noise_is_fixed_in_a_film(video, noise):
    still = drawn(dataclasses.replace(video, seeds=[5, 5], noise=noise, minibatch=3))
    assert (still == still[0]).all()


@pytest.mark.parametrize("kind, panels, legend", [("rgb", 1, 0), ("maps", 2, 18),
                                                  ("decoder", 2, 18)])
def test_all_kinds_of_network(samplers, video, kind, panels, legend):
    frames = drawn(dataclasses.replace(video, sampler=samplers[kind], steps=2))
    assert frames.shape == (6, panels * MIN_SIDE + legend, MIN_SIDE, 3)
    assert (frames[0] != frames[2]).any()


def test_every_cell_of_a_grid_has_its_own_film(video):
    grid = drawn(dataclasses.replace(video, seeds=[3, 8, 5, 1, 2, 9], grid=(1, 2), minibatch=8))
    for number, seeds in enumerate(([3, 8, 5], [1, 2, 9])):
        alone = drawn(dataclasses.replace(video, seeds=seeds))[:, :2 * MIN_SIDE].astype(int)
        cell = grid[:, 2 * MIN_SIDE * number:2 * MIN_SIDE * (number + 1)]
        assert np.abs(cell - alone)[:, :MIN_SIDE].max() <= 1
        assert (cell != alone)[:, MIN_SIDE:].mean() < 0.01
    beside = dataclasses.replace(video, seeds=[3, 8, 5, 1], grid=(2, 1))
    assert len(beside) == 8 and beside.size[0] == 2 * MIN_SIDE
