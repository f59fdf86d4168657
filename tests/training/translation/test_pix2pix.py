"""Training photos from maps: steps, random changes, devices, resumes, learning, commands."""

import functools
import json
import logging

import numpy as np
import pytest
import tensorflow as tf

import train
from dnnlib.data import channels
from dnnlib.data.dataset import open_dataset
from dnnlib.tflib.distribute import Draws
from dnnlib.tflib.vgg16 import Vgg16
from dnnlib.tflib.vgg16_weights import DIGEST, find_weights, read_weights
from dnnlib.util import UserError, arrays_digest
from metrics.evaluation import translation_evaluation, translation_metrics
from metrics.networks.lpips import Lpips
from tests.tools import labelled_pictures
from tests.tools import translations as tools
from tests.tools.labelled_pictures import coloured_dataset
from tests.tools.training_runs import ONE_DEVICE
from tests.tools.translations import begun, tiny
from tests.tools.vgg16 import NARROW, random_arrays
from training.dataset import Batch
from training.run import directory, launch
from training.run.history import read_history
from training.run.options import given_options, parse_training_options
from training.segmentation.labeller import read_labeller
from training.snapshots import read_header
from training.translation import losses
from training.translation.config import Pix2PixConfig
from training.translation.pix2pix import jitter_randomly
from training.translation.translator import Translator, seed_masks

pytestmark = pytest.mark.usefixtures("eagerly")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return coloured_dataset(tmp_path_factory.mktemp("data") / "coloured")


@pytest.fixture(scope="module")
def segmenter(data, tmp_path_factory):
    """Write the snapshot of a network after hardly any training; return its path."""
    return segmentation_network(data, tmp_path_factory.mktemp("segmenter"), kimg=0.016)


def segmentation_network(data, run, kimg):
    labelled_pictures.train(labelled_pictures.tiny(data, kimg=kimg, tick_kimg=kimg), run)
    return run / "network-final.safetensors"


def evaluation(metrics, data, **options):
    """Return the function that evaluates a training's snapshots with these --metrics."""
    parsed = translation_metrics(metrics, options.get("labeller"), None)
    return translation_evaluation(parsed, open_dataset(data), 16, **options)


# A step

@pytest.mark.parametrize("options, mode", [
    ({}, "compiled"), ({"critic": "semantic", "scales": 2, "spectral_norm": True}, "eagerly"),
    ({"generator": "resnet", "blocks": 1, "norm": "batch", "reconstruction": "none",
      "critic": "capacity"}, "eagerly")], ids=["pix2pix", "semantic", "resnet"])
def test_a_step_updates_d_and_then_g_with_the_new_d(data, request, options, mode):
    """D's gradient is from reals and the old G's fakes; G's is from the new D."""
    request.getfixturevalue(mode)
    method, progress = begun(tiny(data, **options))
    c, stage = method.config, method.stage(progress)
    batch = method.next_batch(stage, progress)
    G, D = (network.clone() for network in method.networks.values())
    new_D = method.networks["D"]
    report = method.step(batch, stage, 0)
    draws = Draws(c.seed, 0, c.minibatch)
    _, condition, _, photos = method.example(batch, draws)
    assert condition.numpy().min() >= 0 and condition.shape[-1] == 2

    def judged(network, rgb):
        return network.train_call(tf.concat([condition, rgb], -1))[0]

    with tf.GradientTape() as tape:
        fakes = G.train_call(condition, G.masks(draws.uniform))[0]
        real, fake = judged(D, photos), judged(D, fakes)
        weights = [losses.map_weights(c.critic, condition, x.shape[1]) for x in real]
        loss = tf.reduce_mean(losses.discriminator_loss(real, fake, weights))
    np.testing.assert_allclose(report["Loss/D"], loss, rtol=1e-4)
    check_first_gradients(method.optimizers["D"], tape.gradient(loss, D.trainables))
    with tf.GradientTape() as tape:
        fakes = G.train_call(condition, G.masks(draws.uniform))[0]
        gan = tf.reduce_mean(losses.gan_loss(judged(new_D, fakes), weights, True))
        l1 = tf.reduce_mean(tf.abs(photos - fakes))
        loss = gan + c.weight_of_reconstruction() * l1
    np.testing.assert_allclose(report["Loss/G_gan"], gan, rtol=1e-3)
    np.testing.assert_allclose(report["Loss/reconstruction"], l1, rtol=1e-4)
    np.testing.assert_allclose(report["Loss/G"], loss, rtol=1e-3)
    check_first_gradients(method.optimizers["G"], tape.gradient(loss, G.trainables))


def test_thin_classes_reach_the_critic(data):
    """The semantic critic gets the maps unchanged where a class has less than half of a pixel."""
    method, _ = begun(tiny(data, critic="semantic", jitter=1.0))
    images = np.full((4, 16, 16, 3 + 2), 0, np.uint8)
    images[:, 8, :, 3] = 100
    batch = Batch(tf.constant(images), tf.zeros([4, 0]))
    semantics = method.example(batch, Draws(0, 0, 4)).semantics.numpy()
    np.testing.assert_allclose(semantics.sum((1, 2)), [[16 * 100 / 255, 0]] * 4, atol=0.5)


def check_first_gradients(optimizer, grads):
    """Assert that Adam's first moment is (1 - 0.5) times the first gradient."""
    assert (optimizer.beta1, optimizer.beta2) == (0.5, 0.999)
    for name, grad in grads.items():
        scale = np.abs(grad).max()
        np.testing.assert_allclose(optimizer.slots[f"m/{name}"].numpy() * 2, grad, rtol=1e-2,
                                   atol=2e-3 * scale + 1e-7, err_msg=name)


@pytest.mark.slow
def test_a_step_assigns_running_statistics(data):
    """Running means of both networks, and D's vectors for the power method."""
    method, progress = begun(tiny(data, norm="batch", spectral_norm=True))
    before = {name: network.get_arrays() for name, network in method.networks.items()}
    stage = method.stage(progress)
    method.step(method.next_batch(stage, progress), stage, 0)
    for name, network in method.networks.items():
        kept = [key for key, var in network.vars.items() if not var.trainable]
        assert kept
        for key in kept:
            assert not np.array_equal(network.vars[key], before[name][key]), key


def test_the_segmentation_network_is_used_and_not_trained(data, segmenter):
    method, progress = begun(tiny(data, reconstruction="semantic", segmenter=str(segmenter)),
                             segmenter=segmenter)
    assert method.config.weight_of_reconstruction() == 10
    before, stage = method.segmenter.digest(), method.stage(progress)
    report = method.step(method.next_batch(stage, progress), stage, 0)
    assert 0 < report["Loss/reconstruction"] < 1 and method.segmenter.digest() == before
    assert set(method.networks) == {"G", "D"}


def test_vgg_gives_the_reconstruction_loss(data, rng):
    arrays = random_arrays(rng)
    method = tools.pix2pix(tiny(data, reconstruction="vgg"), vgg=arrays)
    photos, fakes = tf.constant(rng.uniform(-1, 1, (2, 3, 16, 16, 3)), tf.float32)
    np.testing.assert_allclose(method.reconstruction(photos, fakes),
                               losses.vgg_l1(Vgg16(arrays), photos, fakes), rtol=1e-5)


@pytest.mark.slow
def test_vgg_is_not_stored_in_a_snapshot(data, rng, tmp_path, monkeypatch):
    """By the command line; other VGG weights make another training."""
    weights = tmp_path / "vgg.npz"
    np.savez(weights, **random_arrays(rng))
    monkeypatch.setattr("training.translation.job.find_weights", functools.partial(
        find_weights, blocks=NARROW))
    monkeypatch.setattr("metrics.networks.lpips.Lpips", functools.partial(Lpips, blocks=NARROW))
    command = ["--variant=pix2pix", f"--data={data}", f"--run={tmp_path / 'run'}", "--preset=tiny",
               "--device=cpu", "--gpus=2", "--reconstruction=vgg", "--kimg=0.008",
               "--tick-kimg=0.004", f"--lpips={weights}", "--g-fmaps=2", "--d-fmaps=2",
               "--metrics=lpips,l1"]
    assert train.main(command) == 0
    ticks = read_history(tmp_path / "run").ticks
    assert ticks[-1]["Loss/reconstruction"] > 0.1 and 0 < ticks[-1]["Metrics/l1"] < 1
    assert json.loads((tmp_path / "run/best.json").read_text())["metric"] == "lpips"
    header = read_header(tmp_path / "run/network-final.safetensors")
    assert set(header["networks"]) == {"G", "D"} and header["training"]["reconstruction"] == "vgg"
    assert header["vgg"] == arrays_digest(read_weights(weights, NARROW))
    np.savez(weights, **random_arrays(np.random.default_rng(9)))
    with pytest.raises(UserError, match=r"started with other options .*lpips_digest"):
        train.main(command)


def test_learning_rates(data):
    """Constant for half of the training, then linear down to zero."""
    method, progress = begun(tiny(data))
    rates = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        progress.schedule_nimg = share * 32
        rates.append(method.stage(progress).lrate / 2e-4)
    np.testing.assert_allclose(rates, [1, 1, 1, 0.5, 0])


# Random changes

def test_jitter_crops_the_enlarged_picture(rng):
    images = tf.constant(rng.uniform(-1, 1, (6, 16, 16, 4)), tf.float32)
    draws = Draws(5, 3, 6)
    found = jitter_randomly(images, 1.25, draws).numpy()
    large = tf.image.resize(images, (20, 20)).numpy()
    places = set()
    for n in range(6):
        x, y = (int(draws.integer(f"jitter_{axis}", 5)[n]) for axis in "xy")
        np.testing.assert_allclose(found[n], large[n, y:y + 16, x:x + 16], atol=1e-5)
        places.add((x, y))
    assert len(places) > 3


def test_flips_mirror_maps_and_swap_pairs(data):
    method, _ = begun(tiny(data, jitter=1.0, mirror_pairs="red:green"))
    images = np.zeros((4, 16, 16, 5), np.uint8)
    images[:, :, :4, 0] = 255
    images[:, :, :4, 3] = 255
    draws = Draws(5, 1, 4)
    _, maps, _, rgb = method.example(Batch(tf.constant(images), tf.zeros([4, 0])), draws)
    flipped = draws.uniform("mirror").numpy() < 0.5
    assert 0 < flipped.sum() < 4
    for n in range(4):
        place, label = (slice(12, 16), 1) if flipped[n] else (slice(0, 4), 0)
        expected = np.zeros((16, 16, 2))
        expected[:, place, label] = 1
        np.testing.assert_allclose(maps[n], expected, atol=1e-6)
        np.testing.assert_allclose(rgb[n, :, :, 0], expected[..., label] * 2 - 1, atol=1e-6)


# Trainings

@pytest.mark.slow
def test_it_learns_what_colours_mean(data, compiled, tmp_path):
    """A minute suffices for red where red should be; the scores select the best snapshot, and the
    run's translator draws what the training shows."""
    segmenter = segmentation_network(data, tmp_path / "segmenter", kimg=0.8)
    config = tiny(data, kimg=1.6, tick_kimg=0.4, g_fmaps=8, lrate=1e-3, dropout=0.2,
                  segmenter=str(segmenter))
    assert config.metrics == "miou,l1"
    training = tools.train(config, tmp_path / "run", segmenter=segmenter, evaluate=evaluation(
        config.metrics, data, labeller=read_labeller(segmenter), minibatch=3))
    ticks = [json.loads(line) for line in (tmp_path / "run/stats.jsonl").read_text().splitlines()
             if '"tick"' in line]
    scores = [{name: tick[f"Metrics/{name}"] for name in ("miou", "miou_accuracy", "l1")}
              for tick in ticks]
    assert scores[-1]["miou"] > 0.8 and scores[-1]["l1"] < scores[0]["l1"]
    best = json.loads((tmp_path / "run/best.json").read_text())
    assert (best["metric"], best["value"]) == ("miou", max(score["miou"] for score in scores))
    assert (tmp_path / "run/fakes000000.000.png").is_file()
    translator = Translator.load(tmp_path / "run/network-final.safetensors", minibatch=3)
    method = training.method
    images = method.read(range(4))
    segmaps, rgb = images[..., channels.SEGMAPS], images[..., channels.RGB]
    drawn = translator.translate(segmaps, [0, 0, 0, 0])
    np.testing.assert_allclose(drawn, method.translate(segmaps), atol=1e-4)
    l1 = np.abs(np.rint(drawn * 127.5 + 127.5) - rgb).mean() / 255
    assert l1 == pytest.approx(scores[-1]["l1"], abs=0.01)
    assert np.abs(translator.translate(segmaps, [0, 1, 2, 3]) - drawn)[1:].max() > 0.01
    assert translator.classes == labelled_pictures.CLASSES and translator.has_dropout
    plain = evaluation("l1", data)(method)
    assert plain == {"l1": pytest.approx(scores[-1]["l1"], rel=1e-4)}


def test_shown_photos_have_one_dropout(data):
    """That of seed 0, as those of generate.py; otherwise scores would depend on the order."""
    method, _ = begun(tiny(data, dropout=0.5))
    segmaps = np.repeat(method.read([0])[..., channels.SEGMAPS], 2, axis=0)
    found, network = method.translate(segmaps), method.networks["G"]
    expected = network(segmaps / np.float32(255), seed_masks(network, [0, 0]))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    other = network(segmaps / np.float32(255), seed_masks(network, [0, 1]))
    assert np.abs(other[1] - found[1]).max() > 1e-3


def test_seeds_have_their_dropout_for_ever(data):
    """Each block its own stream, so that a seed gives the same photo in later versions."""
    network = tools.pix2pix(tiny(data, dropout=0.25)).make_networks()["G"]
    masks = seed_masks(network, [4, 9])
    assert len(masks) == 3
    for layer, (mask, shape) in enumerate(zip(masks, network.dropout_shapes)):
        kept = np.stack([np.random.RandomState([seed, layer]).random_sample(shape) >= 0.25
                         for seed in (4, 9)])
        np.testing.assert_allclose(mask, kept / 0.75, rtol=1e-6)


def test_the_first_metric_selects(data):
    assert tiny(data).metrics == "l1" and not tools.pix2pix(tiny(data)).higher_is_better
    assert tools.pix2pix(tiny(data, segmenter="some")).higher_is_better
    assert not tools.pix2pix(tiny(data, segmenter="some", metrics="kid9,miou")).higher_is_better


# The command line

def failure(*options):
    """Return the message of a command that fails."""
    with pytest.raises(UserError) as error:
        train.main(["--variant=pix2pix", "--device=cpu", *map(str, options)])
    return str(error.value)


def test_options_that_do_not_fit_are_refused(data, segmenter, tmp_path):
    common = f"--data={data}", f"--results={tmp_path}", "--preset=tiny"
    plain = coloured_dataset(tmp_path / "plain")
    content = json.loads((plain / "dataset.json").read_text())
    (plain / "dataset.json").write_text(json.dumps({
        **content, "classes": [], "num_channels": 3}))
    assert "no segmentation maps" in failure(f"--data={plain}", *common[1:])
    (plain / "dataset.json").write_text(json.dumps({**content, "classes": ["red", "blue"]}))
    assert "the training's images red, blue" in failure(
        f"--data={plain}", *common[1:], f"--segmenter={segmenter}")
    (plain / "dataset.json").write_text(json.dumps({
        **content, "splits": {**content["splits"], "val": []}}))
    for option in ("--patience=2", f"--segmenter={segmenter}"):
        assert "has no validation photos" in failure(f"--data={plain}", *common[1:], option)
    assert "needs --segmenter" in failure(*common, "--reconstruction=semantic")
    assert "compares nothing" in failure(*common, "--reconstruction=none",
                                         "--reconstruction-weight=1")
    assert "leaves --reconstruction=l1 out" in failure(*common, "--reconstruction-weight=0")
    assert "goes up to 16" in failure(*common, "--resolution=32")
    assert "16 at least" in failure(*common, "--resolution=8")
    assert "no patch is left" in failure(*common, "--d-strides=3")
    assert "only --generator=resnet" in failure(*common, "--blocks=6")
    assert "--generator=resnet has none" in failure(*common, "--generator=resnet", "--dropout=0.5")
    assert "--norm=instance" in failure(*common, "--norm=batch", "--minibatch=1")
    assert "--no-mirror flips no photos" in failure(*common, "--no-mirror", "--mirror-pairs=a:b")
    assert "--metrics=l1 needs no Inception" in failure(*common, "--inception=x")
    assert "miou needs --segmenter" in failure(*common, "--metrics=miou")
    assert "maps9 is not computed during training" in failure(*common, "--metrics=maps9")
    assert "--segmenter: it is for" in failure(*common, "--segmenter=x", "--metrics=l1")
    assert "--patience: needs --metrics" in failure(*common, "--metrics=none", "--patience=1")
    assert "--lpips: it is for" in failure(*common, "--lpips=x")
    assert "x: no such file: no LPIPS" in failure(*common, "--lpips=x", "--reconstruction=vgg")
    assert "--init-from: without effect" in failure(*common, "--init-from=3")
    assert "cannot be shared by 3 devices" in failure(*common, "--gpus=3")
    assert "no such snapshot" in failure(*common, "--segmenter=x")


def test_impossible_metrics_are_refused_before_a_run_is_made(data, tmp_path):
    common = f"--data={data}", f"--results={tmp_path / 'results'}", "--preset=tiny"
    assert "x: no such file: no LPIPS" in failure(*common, "--lpips=x", "--metrics=l1,lpips")
    assert "is4: 4 fakes; it takes 10 at least" in failure(*common, "--metrics=l1,is1k")
    content = json.loads((data / "dataset.json").read_text())
    other = coloured_dataset(tmp_path / "other")
    (other / "dataset.json").write_text(json.dumps({
        **content, "splits": {**content["splits"], "val": []}}))
    assert "--metrics: without effect: " in failure(f"--data={other}", *common[1:], "--metrics=l1")
    assert job_of(f"--data={other}", *common[1:], "--metrics=none").metrics == []
    assert not (tmp_path / "results").exists()


def job_of(*options):
    """Return the Job of a command."""
    options = parse_training_options(["--variant=pix2pix", "--device=cpu", *options])
    return train.make_job(options, given_options(options), None)


def test_its_snapshot_records_how_photos_were_made_square(tmp_path):
    """So that maps are made square the same way later."""
    for fit in ("pad", "crop"):
        data = coloured_dataset(tmp_path / fit)
        content = json.loads((data / "dataset.json").read_text())
        (data / "dataset.json").write_text(json.dumps({**content, "options": {"fit": fit}}))
        job = job_of(f"--data={data}", "--preset=tiny")
        method = job.make_method(ONE_DEVICE, logging.getLogger("test"))
        assert method.about["fit"] == fit
        assert method.evaluate and len(method.shown) == 4  # of the validation split


def test_lpips_weights_are_part_of_a_run(data, tmp_path, rng, monkeypatch):
    """Those used by --metrics too; a dry run does not download them."""
    monkeypatch.setenv("STYLE_C_GAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("training.translation.job.find_weights", functools.partial(
        find_weights, blocks=NARROW))
    weights, command = tmp_path / "vgg.npz", [f"--data={data}", "--preset=tiny"]
    np.savez(weights, **random_arrays(rng))
    given = [f"--lpips={weights}", "--metrics=lpips"]
    record = launch.run_record(job_of(*command, *given))
    assert record["lpips_digest"] == arrays_digest(read_weights(weights, NARROW))
    run = directory.make_run(tmp_path / "run", tmp_path, "", record)
    np.savez(weights, **random_arrays(rng))
    assert "lpips_digest" in directory.changed_options(
        run, launch.run_record(job_of(*command, *given)))
    # Another path with the same digest means the same weights; without digests, the path decides.
    moved = {**record, "lpips": "moved.npz"}
    assert not directory.changed_options(run, moved)
    directory.make_run(run, tmp_path, "", {**record, "lpips_digest": None})
    assert "lpips" in directory.changed_options(run, {**moved, "lpips_digest": None})
    monkeypatch.setattr("training.translation.job.find_weights", None)
    for more in (["--reconstruction=vgg"], ["--metrics=l1,lpips"]):
        assert job_of(*command, *more, "--dry-run").digests()["lpips_digest"] == DIGEST
    assert job_of(*command).digests()["lpips_digest"] is None


def test_reconstructions_and_generators_set_their_defaults():
    weights = {name: Pix2PixConfig.preset("pix2pix", {"reconstruction": name, "segmenter": "3"}
                                          ).weight_of_reconstruction()
               for name in ("l1", "semantic", "vgg", "none")}
    assert weights == {"l1": 100, "semantic": 10, "vgg": 10, "none": 0}
    stored = Pix2PixConfig.preset("pix2pix", {}).to_json()  # as in a run that --override changes
    changed = Pix2PixConfig.from_json({**stored, "reconstruction": "semantic", "segmenter": "3"})
    assert changed.weight_of_reconstruction() == 10
    assert Pix2PixConfig.preset("small", {"generator": "resnet"}).dropout == 0
    paper = Pix2PixConfig.preset("pix2pix", {})
    assert (paper.critic, paper.generator, paper.minibatch, paper.kimg, paper.lrate) == (
        "patch", "unet", 1, 80, 2e-4)
    assert round(256 * paper.jitter) == 286 and round(64 * paper.jitter) == 72


def test_the_plan(data, tmp_path, capsys):
    assert train.main([f"--data={data}", f"--results={tmp_path}", "--variant=pix2pix",
                       "--preset=tiny", "--device=cpu", "--kimg=0.016", "--critic=semantic",
                       "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "unet and critic semantic for 2 classes at 16x16, reconstruction l1 (weight 100)" in said
    assert "4 steps of 4" in said


def test_its_snapshot_cannot_start_a_stylegan(data, tmp_path):
    network = tools.save_translator(tmp_path / "network.safetensors")
    with pytest.raises(UserError, match=r"is a snapshot of --variant=pix2pix, which holds no G"):
        train.main(["--variant=2d", f"--init-from={network}", f"--data={data}", "--device=cpu"])
