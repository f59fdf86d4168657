"""Training CycleGANs: losses, gradients, devices, resumes, garments, what it learns."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from dnnlib.tflib import cpu_convolutions
from dnnlib.tflib.distribute import Draws, mirrored_strategy
from tests.tools import domains as tools
from tests.tools.domains import begun, steps, tiny, two_datasets
from tests.training.cycle.test_losses import moved_to_the_middle
from training.cycle.cyclegan import CRITICS, CycleTraining
from training.cycle.domains import augment_photos, split_mask, to_floats

LIVELY = dict(garment="box", norm="batch", critic="picture", identity_weight=0.5, clip_norm=0.05,
              rotation=20.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return two_datasets(tmp_path_factory.mktemp("boxes"))


def test_neighbouring_seeds_have_different_networks(data):
    digests = [network.digest() for seed in (1, 2, 3)
               for network in tools.cyclegan(tiny(data, seed=seed)).make_networks().values()]
    assert len(set(digests)) == len(digests) == 12


def seen_photos(method, batch, step=0):
    """Return a batch's photos and masks as a step uses them, float64: [(rgb, mask) of A, of B]."""
    draws = Draws(method.config.seed, step, method.config.minibatch)
    return [tuple(part.numpy().astype(np.float64) for part in split_mask(
        augment_photos(to_floats(photos), draws, method.config, name)))
        for photos, name in zip(batch, "ab")]


def shifts(method, step=0):
    """Return by how much a step moves garments before its critics, [n, 2]."""
    config = method.config
    return config.resolution / 32 * (2 * Draws(config.seed, step, config.minibatch).uniform(
        "overlap", [2]).numpy() - 1)


def called(method, name, images):
    """Return a network's output in training, float64; for a critic that of its single scale."""
    found, _ = method.networks[name].train_call(tf.constant(images, tf.float32))
    return np.asarray(found[0] if name in CRITICS else found, np.float64)


def l1(first, second, mask):
    return np.mean((np.abs(first - second).mean(-1, keepdims=True) * mask).sum((1, 2, 3))
                   / mask.sum((1, 2, 3)))


@pytest.mark.parametrize("changes", [{"identity_weight": 0.5}, LIVELY])
def test_the_terms_of_the_losses(data, eagerly, changes):
    """Against NumPy, from the networks' own pictures and logits."""
    config = tiny(data, **changes)
    method, progress = begun(config)
    batch = method.next_batch(method.stage(progress), progress)
    (a, mask_a), (b, mask_b) = seen_photos(method, batch)
    assert (mask_a.min() < 1) == bool(config.garment)

    def made(name, photos, mask):
        return photos + mask * (called(method, name, photos) - photos)

    def logits(name, images):
        found = called(method, name, images)
        return found.mean((1, 2), keepdims=True) if config.critic == "picture" else found

    fake_b, fake_a = made("G_AB", a, mask_a), made("G_BA", b, mask_b)
    shift = shifts(method)
    regions = (moved_to_the_middle(mask_a, mask_a, shift)
               * moved_to_the_middle(mask_b, mask_b, -shift))
    seen_a, seen_b, seen_fake_a, seen_fake_b = (
        moved_to_the_middle(images, mask, moved) * regions if config.garment else images
        for images, mask, moved in ((a, mask_a, shift), (b, mask_b, -shift),
                                    (fake_a, mask_b, -shift), (fake_b, mask_a, shift)))
    real = {"D_A": logits("D_A", seen_a), "D_B": logits("D_B", seen_b)}
    fake = {"D_A": logits("D_A", seen_fake_a), "D_B": logits("D_B", seen_fake_b)}
    expected = {
        "Loss/G/AB": np.mean((fake["D_B"] - 1) ** 2), "Loss/G/BA": np.mean((fake["D_A"] - 1) ** 2),
        "Loss/cycle/A": l1(made("G_BA", fake_b, mask_a), a, mask_a),
        "Loss/cycle/B": l1(made("G_AB", fake_a, mask_b), b, mask_b),
        "Loss/identity/A": l1(called(method, "G_BA", a), a, mask_a),
        "Loss/identity/B": l1(called(method, "G_AB", b), b, mask_b),
        **{f"Loss/D/{name[-1]}": (np.mean((real[name] - 1) ** 2) + np.mean(fake[name] ** 2)) / 2
           for name in CRITICS}}
    if config.garment:
        expected["Background/AB"] = l1(called(method, "G_AB", a), a, 1 - mask_a)
        expected["Background/BA"] = l1(called(method, "G_BA", b), b, 1 - mask_b)
        expected["Critics/seen"] = regions.mean()
    report = {name: float(value) for name, value in method.step(
        batch, method.stage(progress), 0).items()}
    for name, value in expected.items():
        assert report.pop(name) == pytest.approx(value, rel=1e-4), name
    assert report.pop("Progress/skipped_updates") == 0
    assert all(name.startswith("Training/gradient_norm/") for name in report)


def test_gradients_are_those_of_the_losses(data, eagerly, request):
    """Along one direction of each network's variables. Critics' losses are not in the generators'
    gradients. Compiled."""
    config = tiny(data, garment="box", identity_weight=0.5, pool=0)
    method, progress = begun(config)
    steps(method, progress, 1)
    request.getfixturevalue("compiled")
    batch = method.next_batch(method.stage(progress), progress)
    gradients, rng = tf.function(method._gradients, autograph=False), np.random.default_rng(3)
    grads, *_ = gradients(batch, tf.constant(1))

    def total(kind):
        report = gradients(batch, tf.constant(1))[-1]
        return sum(float(method._weight(name) if kind == "G" else 1) * float(value)
                   for name, value in report.items() if name.startswith("Loss/")
                   and (name.split("/")[1] == "D") == (kind == "D"))

    for network, of_network in grads.items():
        arrays = method.networks[network].get_arrays()
        # Along the gradient with random factors.
        direction = {name: grad.numpy() * (1 + 0.5 * rng.standard_normal(grad.shape))
                     for name, grad in of_network.items()}
        length = np.sqrt(sum((d ** 2).sum() for d in direction.values()))
        step, sides = 2e-4 / length, []
        for sign in (1, -1):
            method.networks[network].set_arrays(arrays | {
                name: arrays[name] + sign * step * d for name, d in direction.items()})
            sides.append(total(network[0]))
        method.networks[network].set_arrays(arrays)
        expected = sum((grad.numpy() * direction[name]).sum() for name, grad in of_network.items())
        assert (sides[0] - sides[1]) / (2 * step) == pytest.approx(expected, rel=0.05), network


def test_parts_of_a_minibatch_have_the_same_gradients(data, eagerly):
    """The same pool and report too."""
    found = []
    for minibatch_per_gpu in (0, 2):
        method, progress = begun(tiny(data, garment="box", identity_weight=0.5, pool=3,
                                      minibatch_per_gpu=minibatch_per_gpu))
        batch = method.next_batch(method.stage(progress), progress)
        grads, _, pooled, _, report = method._gradients(batch, tf.constant(0))
        found.append(tf.nest.flatten((grads, pooled, report)))
    assert len(found[0]) > 30
    for whole, parts in zip(*found, strict=True):
        np.testing.assert_allclose(parts, whole, rtol=1e-3, atol=1e-5)


def test_gradients_are_clipped_before_the_step(data, eagerly):
    """Each network's to the norm, from the norms that are reported."""
    found = []
    for clip_norm in (0.0, 0.05):
        method, progress = begun(tiny(data, clip_norm=clip_norm))
        batch = method.next_batch(method.stage(progress), progress)
        grads, *_, report = method._gradients(batch, tf.constant(0))
        found.append((grads, report))
    for name, of_network in found[0][0].items():
        norm = np.sqrt(sum((grad.numpy() ** 2).sum() for grad in of_network.values()))
        reported = float(found[1][1][f"Training/gradient_norm/{name}"])
        assert reported == pytest.approx(norm, rel=1e-4)
        for key, grad in of_network.items():
            np.testing.assert_allclose(found[1][0][name][key], grad * min(0.05 / norm, 1),
                                       rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("has_maps", [(True, True), (True, False), (False, True)])
def test_critics_see_all_garments_in_one_shared_region(tmp_path, eagerly, monkeypatch, has_maps):
    """Reals, and fakes made from the other list's photo at the same position. Outside the region is
    grey, so that an outline does not tell them apart."""
    data = two_datasets(tmp_path, has_maps)
    method, progress = begun(tiny(data, garment="box", flip=False, jitter=1.0, pool=0))
    batch = method.next_batch(method.stage(progress), progress)
    seen = {}
    monkeypatch.setattr(method, "_critic_loss", lambda name, reals, fakes: (
        seen.update({name: (reals.numpy(), fakes.numpy())}) or
        CycleTraining._critic_loss(method, name, reals, fakes)))
    method.step(batch, method.stage(progress), 0)
    masks = [photos.numpy()[..., 3:] / 255 for photos in batch if photos.shape[-1] == 4]
    whole = np.ones_like(masks[0])
    regions = [moved_to_the_middle(mask, mask, sign * shifts(method)) for mask, sign in zip(
        (masks if all(has_maps) else (*masks, whole) if has_maps[0] else (whole, *masks)), (1, -1))]
    region = np.prod(regions, axis=0)[..., 0]
    assert len(masks) == sum(has_maps) and 0.02 < region.mean() < 0.9
    for images in (*seen["D_A"], *seen["D_B"]):
        assert not images[region == 0].any() and np.abs(images[region == 1]).mean() > 0.01
        assert np.abs(images).max(-1)[region == 1].min() > 0  # nothing inside is hidden


def test_a_translation_does_not_change_photos_outside_the_garment(data, eagerly):
    method, _ = begun(tiny(data, garment="box"))
    photos = method._shown[0]
    there, back = method.translate("AtoB", photos)
    outside = photos[..., 3] == 0
    for images in (there, back):
        np.testing.assert_array_equal(images[outside], photos[outside][:, :3])
        assert np.abs(images[~outside] - photos[~outside][:, :3]).mean() > 0.1


@pytest.mark.slow
def test_bfloat16_networks_keep_their_precision(data, tmp_path, eagerly):
    config = tiny(data, kimg=0.008, image_ticks=9, precision="bf16")
    for kimg in (0.008, 0.016):
        training = tools.train(dataclasses.replace(config, kimg=kimg), tmp_path / "run")
        assert all(network.compute_dtype == tf.bfloat16
                   for network in training.method.networks.values())
    slow = not cpu_convolutions.sums_are_float32(tf.bfloat16)
    log = (tmp_path / "run/log.txt").read_text()
    assert ("this processor has no bfloat16" in log) == slow


def test_the_learning_rate_falls_over_the_second_half(data):
    method = tools.cyclegan(tiny(data))
    assert [method.lrate(left) for left in (1.0, 0.5, 0.25, 0.0)] == [2e-3, 2e-3, 1e-3, 0.0]


@pytest.mark.slow
def test_the_pool_is_the_same_on_all_devices(data):
    """test_conformance.py tests what two devices do together."""
    method, progress = begun(tiny(data, pool=5), mirrored_strategy("cpu", 2))
    steps(method, progress, 3)
    for var in method.pool.variables.values():
        np.testing.assert_array_equal(*[copy.numpy() for copy in var.values])


@pytest.mark.slow
def test_it_learns_to_swap_two_colours(data, tmp_path):
    """Red boxes become blue and blue ones red, little changes around them, and the way back leads
    to the photo."""
    config = tiny(data, kimg=1.2, tick_kimg=0.4, fmaps=8, lrate=4e-3, identity_weight=0.5,
                  image_ticks=9)
    training = tools.train(config, tmp_path / "run")
    for side, (direction, strong, weak) in enumerate((("AtoB", 2, 0), ("BtoA", 0, 2))):
        photos = training.method._shown[side]
        maps = boxes_of((config.data, config.target)[side], len(photos))
        there, back = training.method.translate(direction, photos)
        inside = there[maps]
        assert inside[:, strong].mean() > inside[:, weak].mean() + 0.5
        assert np.abs(there[~maps] - photos[~maps]).mean() < 0.25
        assert np.abs(back - photos).mean() < 0.2
    lines = (tmp_path / "run/stats.jsonl").read_text().splitlines()
    ticks = [json.loads(line) for line in lines if '"tick"' in line]
    assert ticks[-1]["Loss/cycle/A"] < 0.75 * ticks[0]["Loss/cycle/A"]


def boxes_of(path, count):
    """Return where the boxes of a data set's first photos are, bool [count, R, R]."""
    domain = tools.Domain.open(tools.open_list(path), tools.SIDE, ("box",))
    return np.stack([domain.read(n)[..., 3] == 255 for n in range(count)])
