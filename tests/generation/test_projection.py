"""Projection: what a step computes, and whether it finds a generated picture's own w."""

import dataclasses
import zipfile

import numpy as np
import pytest
import tensorflow as tf

from dnnlib.data import pictures
from generation import projection
from generation.projection import PRESETS, Objective, Projector
from metrics.networks.lpips import Lpips
from tests.metrics.networks.test_lpips import oracle
from tests.tools.generators import save_network
from tests.tools.vgg16 import activations, random_arrays
from training.latents import Latents, noise_of
from training.sampler import Sampler

WIDE = ((16, 16), (16, 16), (16, 16, 16), (16, 16, 16), (16, 16, 16))  # fmaps of a small VGG16


def without_noise(arrays):
    """Make pictures depend on w alone, within the range of colours."""
    for name in arrays:
        if name.endswith("Noise/weight"):
            arrays[name] *= 0
        elif name.endswith("/const"):
            arrays[name] = np.random.default_rng(2).standard_normal(arrays[name].shape, np.float32)
        elif "ToRGB" in name:
            arrays[name] *= 0.3


@pytest.fixture(scope="module")
def arrays():
    """Return weights of a small VGG16."""
    return random_arrays(np.random.default_rng(1), WIDE)


@pytest.fixture(scope="module")
def lpips(arrays, tmp_path_factory):
    path = tmp_path_factory.mktemp("lpips") / "lpips.npz"
    np.savez(path, **arrays)
    return Lpips(path, WIDE)


@pytest.fixture(scope="module")
def sampler(tmp_path_factory):
    return Sampler.load(save_network(tmp_path_factory.mktemp("network") / "rgb.safetensors", (),
                                     change=without_noise))


def settings(space, steps, **changes):
    return dataclasses.replace(PRESETS[space], steps=steps, **changes)


def photos_of(sampler, seeds):
    """Return (w, pictures uint8) of seeds."""
    w = sampler.dlatents(sampler.seed_latents(seeds))
    return w, pictures.to_uint8(sampler.synthesize(w).numpy())


def test_rates_and_noise_of_w_by_step():
    """As in the projector: 5 % up, 25 % down; noise for the first three quarters."""
    preset = settings("w", 1000)
    rates = [projection.learning_rate(preset, step) for step in (0, 25, 50, 750, 875, 999)]
    np.testing.assert_allclose(rates[:5], [0, 0.05, 0.1, 0.1, 0.05], atol=1e-12)
    assert 0 < rates[5] < 1e-5
    shares = [projection.w_noise_share(preset, step) for step in (0, 375, 750, 999)]
    np.testing.assert_allclose(shares, [0.05, 0.0125, 0, 0])
    assert {projection.learning_rate(settings("w+", 9), step) for step in range(9)} == {0.01}
    assert projection.w_noise_share(settings("w+", 9), 0) == 0


def penalty_by_hand(noise):
    """Return the penalty of one map in float64 NumPy."""
    total, noise = 0.0, noise.astype(np.float64)
    while True:
        total += sum(np.mean(noise * np.roll(noise, 1, axis)) ** 2 for axis in (0, 1))
        if len(noise) <= 8:
            return total
        noise = noise.reshape(len(noise) // 2, 2, -1, 2).mean(axis=(1, 3))


@pytest.mark.parametrize("side", [4, 8, 16, 32])
def test_noise_penalty(rng, side):
    noise = rng.standard_normal((3, side, side, 1)).astype(np.float32)
    noise[2] = np.sin(np.arange(side) / side * 2 * np.pi)[:, None, None]  # a picture
    found = projection.noise_penalty(tf.constant(noise)).numpy()
    np.testing.assert_allclose(found, [penalty_by_hand(n[..., 0]) for n in noise], rtol=1e-4,
                               atol=1e-9)
    assert side < 16 or found[2] > 20 * found[:2].max()
    normal = projection.normalize_noise(tf.constant(3 * noise + 1)).numpy()
    np.testing.assert_allclose(normal.mean(axis=(1, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(np.square(normal).mean(axis=(1, 2, 3)), 1, rtol=1e-5)


def test_inputs_of_vgg(rng):
    images = rng.uniform(0, 255, (1, 512, 512, 3)).astype(np.float32)
    np.testing.assert_allclose(projection.resize_for_vgg(tf.constant(images))[0], images[0].reshape(
        256, 2, 256, 2, 3).mean(axis=(1, 3)), rtol=1e-5)
    small = images[:, :8, :8]
    np.testing.assert_array_equal(projection.resize_for_vgg(tf.constant(small))[0, ::2, 1::2],
                                  small[0])
    for side in (16, 64, 256):
        part = tf.constant(images[:, :side, :side])
        assert projection.resize_for_vgg(part) is part


def test_terms_equal_both_papers(arrays, lpips, rng):
    """For w, LPIPS; for w+, mean squares of colours in [0, 1] and of relu1_1, 1_2, 3_2, 4_2."""
    a, b = rng.uniform(0, 255, (2, 2, 16, 16, 3)).astype(np.float32)

    def terms(space):
        objective = Objective(lpips, space)
        return objective.terms(*(objective.features(tf.constant(x)) for x in (a, b)))

    np.testing.assert_allclose(terms("w")["lpips"], oracle(arrays, a, b, WIDE), rtol=1e-5)
    first, second = (list(activations(arrays, x, WIDE)) for x in (a, b))
    vgg = sum(np.square(first[i][j] - second[i][j]).mean(axis=(1, 2, 3))
              for i, j in ((0, 0), (0, 1), (2, 1), (3, 1)))
    found = terms("w+")
    np.testing.assert_allclose(found["vgg"], vgg, rtol=1e-4)
    np.testing.assert_allclose(found["pixels"], np.square((a - b) / 255).mean(axis=(1, 2, 3)),
                               rtol=1e-5)


@pytest.mark.parametrize("space, steps, rate, nearer, rmse", [
    ("w", 80, 0.1, 0.02, 2), ("w+", 120, 0.1, 0.15, 6)])
def test_projection_finds_a_generated_pictures_own_w(sampler, lpips, space, steps, rate, nearer,
                                                     rmse):
    """The distance to w is relative to that of the mean w, where the search starts."""
    w, photos = photos_of(sampler, [3])
    projector = Projector(sampler, settings(space, steps, lrate=rate), lpips, 1)
    found, mean = projector.project(photos, [0])[0], projection.w_statistics(sampler).mean
    away = np.sqrt(np.square(w[0] - found.latents.w).mean() / np.square(w - mean).mean())
    made = pictures.to_uint8(sampler.synthesize(found.latents.w[None],
                                                noise_of([found.latents])).numpy())
    error = np.sqrt(np.square(made.astype(float) - photos).mean())
    print(space, away, error, found.terms)
    assert away < nearer and error < rmse
    assert (np.ptp(found.latents.w, axis=0).max() == 0) == (space == "w")
    assert len(found.latents.noise) == (6 if space == "w" else 0)


@pytest.mark.parametrize("space", ["w", "w+"])
@pytest.mark.slow
def test_photos_do_not_depend_on_each_other(sampler, lpips, space):
    """Beside another photo the same bits, alone the same to rounding; and one trace for all."""
    _, photos = photos_of(sampler, [3, 4, 5])
    pair, alone = (Projector(sampler, settings(space, 6), lpips, count) for count in (2, 1))
    first = pair.project(photos[:2], [7, 8])[0]
    beside = pair.project(photos[[0, 2]], [7, 9])[0]
    same = alone.project(photos[:1], [7])[0]
    other = alone.project(photos[:1], [8])[0]
    for x, y, z in zip(*([one.latents.w, *one.latents.noise] for one in (first, beside, same))):
        np.testing.assert_array_equal(x, y)
        np.testing.assert_allclose(x, z, rtol=1e-2, atol=1e-3)
    assert first.terms == beside.terms
    # Only space w has random numbers.
    assert np.array_equal(same.latents.w, other.latents.w) == (space == "w+")
    assert pair._step.experimental_get_tracing_count() == 1


def test_statistics_of_w(sampler):
    found = projection.w_statistics(sampler)
    w = sampler.dlatents(np.random.RandomState(123).randn(10_000, 8))[:, 0].astype(np.float64)
    np.testing.assert_allclose(found.mean, w.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.std, np.sqrt(w.var(axis=0).sum()), rtol=1e-5)


def test_latents_in_files(tmp_path, rng):
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in ((6, 8), (4, 4), (8, 8))]
    latents = Latents(arrays[0], tuple(arrays[1:]))
    latents.write(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        assert set(file) == {"w", "noise0", "noise1"}
        np.testing.assert_array_equal(file["w"], arrays[0])
    found = Latents.read(tmp_path / "a.npz")
    np.testing.assert_array_equal(noise_of([found, latents])(1, 8, 8)[1, ..., 0], arrays[2])
    assert noise_of([Latents(arrays[0])]) is None
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-60])
    np.savez(tmp_path / "c.npz", noise0=arrays[1])
    np.savez(tmp_path / "d.npz", w=np.full((6, 8), np.nan, np.float32))
    np.save(tmp_path / "e.npy", arrays[0])
    np.savez(tmp_path / "f.npz", w=np.zeros((0, 8), np.float32))
    np.savez_compressed(tmp_path / "g.npz", w=arrays[0], noise0=np.zeros((4096, 4097), np.float32))
    with zipfile.ZipFile(tmp_path / "h.npz", "w") as archive, archive.open("w.npy", "w") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (1 << 24, 1 << 24)})
    for name in ("b.npz", "c.npz", "d.npz", "e.npy", "f.npz", "g.npz", "h.npz"):
        with pytest.raises(projection.UserError, match=f"{name}: cannot be read as the w"):
            Latents.read(tmp_path / name)
    with pytest.raises(projection.UserError, match="no such file"):
        Latents.read(tmp_path / "none.npz")
