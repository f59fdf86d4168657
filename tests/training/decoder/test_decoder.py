"""Training decoders: the loss, noise, devices, resumes, what they learn, the command line."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import generate
import run_metrics
import train
from dnnlib.data import channels
from dnnlib.tflib.distribute import Draws
from dnnlib.tflib.optimizer import Adam, Sgd
from dnnlib.util import UserError
from tests.tools import labelled_pictures, official_files
from tests.tools import labelled_seeds as tools
from tests.tools.generators import save_network
from tests.tools.labelled_seeds import begun, labelled_folder, read, tiny, write_label
from training.decoder.config import DecoderConfig
from training.decoder.decoder import NETWORK
from training.decoder.job import DecoderJob, held_back
from training.decoder.labels import LabelledFolder, Labelling
from training.official import __main__ as official
from training.run.options import given_options, parse_training_options
from training.sampler import Sampler, seed_noise
from training.snapshots import load_snapshot, read_header
from training.state import TrainingState, save_state

pytestmark = pytest.mark.usefixtures("eagerly")

KINDS = ("linear", "conv", "mlp")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return labelled_folder(tmp_path_factory.mktemp("labelled"))


def test_pictures_are_reproduced(folder):
    """The training's network draws the folder's pictures, equal to the grey level."""
    origin, out = folder
    method, _ = begun(tiny(out), origin)
    again = tools.pictures.to_uint8_metrics(method.images(range(8))[..., :3])
    written = np.stack([read(path) for path in sorted(out.glob("seed*.png"))])
    assert np.abs(again.astype(int) - written).max() <= 1 and written.std() > 10


@pytest.mark.parametrize("kind, mode", [
    ("linear", "eagerly"), ("conv", "eagerly"), ("mlp", "compiled")])
def test_the_loss_is_the_mean_over_labelled_pixels(folder, request, kind, mode):
    """Against NumPy, from the network's own logits of the features with the step's noise."""
    request.getfixturevalue(mode)
    origin, out = folder
    config = tiny(out, kind)
    method, progress = begun(config, origin)
    stage = method.stage(progress)
    batch = method.next_batch(stage, progress)
    hidden = np.array(batch.label_maps)
    hidden[:, :5] = channels.IGNORE
    batch = batch._replace(label_maps=tf.constant(hidden))
    inputs, labels = method.examples(batch, Draws(5, 0, 4))
    logits, _ = method.networks[NETWORK].train_call(inputs)
    logits, labels = logits.numpy().astype(np.float64), labels.numpy()
    assert labels.shape == ((10, 64) if kind == "mlp" else (4, 16, 16))
    counted = labels != channels.IGNORE
    assert 0 < counted.mean() < 1
    chosen = np.take_along_axis(logits, np.where(counted, labels, 0)[..., None], -1)[..., 0]
    losses = np.log(np.exp(logits).sum(axis=-1)) - chosen
    report = method.step(batch, stage, 0)
    np.testing.assert_allclose(report["Loss/cross_entropy"], losses[counted].mean(), rtol=1e-5)
    hits = (logits.argmax(-1) == labels)[counted]
    np.testing.assert_allclose(report["Training/accuracy"], hits.mean(), rtol=1e-6)


def test_noise_is_drawn_in_every_step_and_the_generator_is_fixed(folder):
    origin, out = folder
    method, progress = begun(tiny(out), origin)
    network, stage = method.networks[NETWORK], method.stage(progress)
    batch = method.next_batch(stage, progress)
    before = network.get_arrays()
    first, second = (method.examples(batch, Draws(5, step, 4))[0] for step in (0, 1))
    assert all(np.abs(a - b).max() > 1e-4 for a, b in zip(first, second))
    np.testing.assert_array_equal(first[-1], method.examples(batch, Draws(5, 0, 4))[0][-1])
    method.step(batch, stage, 0)
    for name, value in network.get_arrays().items():
        assert np.array_equal(value, before[name]) == name.startswith("generator/"), name


def test_pixels_of_an_mlp_have_their_own_labels(folder):
    """A picture whose features encode its labels gives pixels with the matching labels."""
    origin, out = folder
    method, progress = begun(tiny(out, "mlp"), origin)
    batch = method.next_batch(method.stage(progress), progress)
    draws = Draws(5, 3, 4)
    places = (draws.uniform("pixels", [16]).numpy() * 256).astype(int)
    pixels, labels = method.examples(batch, draws)
    expected = np.take_along_axis(batch.label_maps.numpy().reshape(4, 256), places, 1)
    np.testing.assert_array_equal(labels, np.tile(expected.reshape(1, 64), (10, 1)))
    finest = method.networks[NETWORK].features(
        batch.dlatents, lambda layer, h, w: draws.normal(f"noise{layer}", [h, w, 1]))[-1]
    found = np.take_along_axis(finest.numpy().reshape(4, 256, 8), places[..., None], 1)
    np.testing.assert_allclose(pixels[:, -8:], found.reshape(64, 8), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_what_colours_mean(folder, compiled, tmp_path, kind):
    """From six pictures, for two others and for new seeds; the snapshot is a network of colours and
    maps for every script."""
    origin, out = folder
    rates = {"lrate": 0.02} if kind != "conv" else {}
    config = tiny(out, kind, kimg=1.2, tick_kimg=0.4, **rates)
    tools.train(config, tmp_path / "run", origin, held_back=[1, 6])
    ticks = [json.loads(line) for line in (tmp_path / "run/stats.jsonl").read_text().splitlines()
             if '"tick"' in line]
    scores = [tick["Metrics/miou"] for tick in ticks if "Metrics/miou" in tick]
    assert scores[-1] > 0.7 and json.loads(
        (tmp_path / "run/best.json").read_text())["value"] == max(scores)
    assert ("Decoder/uncertainty" in ticks[-1]) == (kind == "mlp")
    assert read(tmp_path / "run/fakes000000.000.png").ndim == 3
    # Generated pairs of other seeds: colours are the generator's, labels follow from the colours.
    network, pairs = tmp_path / "run", tmp_path / "pairs"
    generate.main([f"--network={network}", "--num=6", "--first-seed=100", f"--out={pairs}",
                   "--trunc=0.9", "--min-confidence=0.01"])
    rgb = np.stack([read(path) for path in sorted((pairs / "images").glob("*.png"))])
    maps = np.stack([read(path) for path in sorted((pairs / "labels").glob("*.png"))])
    assert (tools.colour_labels(rgb) == maps).mean() > 0.8
    plain = Sampler.load(origin).seed_images([100], 0.9, "random", 1)
    ours = Sampler.load(tmp_path / "run/network-final.safetensors").seed_images(
        [100], 0.9, "random", 1)
    np.testing.assert_allclose(next(ours)[..., :3], next(plain), atol=1e-4)


@pytest.mark.slow
def test_its_snapshot_works_like_a_generator_with_maps(folder, tmp_path, monkeypatch):
    """In sheets, interpolations, style mixes, shards and replay; it cannot start a training."""
    origin, out = folder
    tools.train(tiny(out), tmp_path / "run", origin)
    monkeypatch.chdir(tmp_path)
    for options in (["--seeds=0-3"], ["--separate", "--seeds=0,1"], ["--interpolate=1,2"],
                    ["--style-mix", "--row-seeds=0", "--col-seeds=1"],
                    ["--num=3", "--format=tfrecords", "--out=records"]):
        assert generate.main(["--network=run", *options]) == 0
    header = json.loads((tmp_path / "records/dataset.json").read_text())
    assert header["classes"] == ["red", "green"]
    generate.main(["--network=run", "--num=2", "--out=pairs"])
    assert generate.main(["--replay=pairs/samples.jsonl", "--index=1", "--out=again"]) == 0
    assert generate.main(["--network=run", "--seeds=0-1", "--for-labelling", "--out=more"]) == 0
    for variant in ("rgb", "2d", "decoder"):
        labels = [f"--labels={out}"] if variant == "decoder" else ["--data=records"]
        with pytest.raises(UserError, match=r"--init-from: .* is a snapshot of --variant=decoder"):
            train.main([f"--variant={variant}", "--init-from=run", "--device=cpu", *labels])


@pytest.mark.slow
def test_metrics_of_maps_accept_its_snapshot(folder, tmp_path):
    """Shapes of the maps, and agreement with a segmentation network."""
    origin, out = folder
    tools.train(tiny(out), tmp_path / "run", origin)
    data = labelled_pictures.coloured_dataset(tmp_path / "data")
    labelled_pictures.train(labelled_pictures.tiny(data), tmp_path / "segmenter")
    assert run_metrics.main([
        f"--network={tmp_path / 'run'}", "--metrics=labels8,maps8", f"--data={data}",
        f"--segmenter={tmp_path / 'segmenter'}", f"--results={tmp_path}", "--split=val"]) == 0
    lines = (tmp_path / "run/metric-labels8.jsonl").read_text().splitlines()
    assert 0 <= json.loads(lines[-1])["results"]["labels8"] <= 1


def test_its_pictures_are_labelled_as_its_generators(folder, tmp_path, capsys):
    """The pixels are the generator's: they may join its pictures, and a decoder learns from that
    network. Folders of earlier versions have the digest of both, and are converted."""
    origin, out = folder
    tools.train(tiny(out, kimg=0), tmp_path / "run", origin)
    for_labelling = ["--for-labelling", "--trunc=0.9", f"--out={tmp_path / 'more'}"]
    generate.main([f"--network={origin}", "--seeds=0-3", *for_labelling])
    first = Labelling.read(tmp_path / "more")
    generate.main([f"--network={tmp_path / 'run'}", "--seeds=4-7", *for_labelling])
    made = Labelling.read(tmp_path / "more")
    assert (made.network, made.digest) == (str(origin), first.digest)
    assert list(made.pictures) == [f"seed000{seed}.png" for seed in range(8)]
    shutil.copytree(out / "labels", tmp_path / "more/labels")
    tools.write_class_list(tmp_path / "more", tools.CLASSES)
    command = ["--variant=decoder", "--device=cpu", f"--labels={tmp_path / 'more'}",
               f"--init-from={origin}", f"--results={tmp_path}", "--dry-run"]
    assert train.main(command) == 0
    assert "8 of 8 pictures have labels" in capsys.readouterr().out
    assert failure(*command[2:3], f"--init-from={tmp_path / 'run'}").endswith(
        f"a decoder is trained on a Style-GAN: give {origin}")
    both = read_header(tmp_path / "run/network-final.safetensors")["digest"]
    dataclasses.replace(made, network="run", digest=both).write(tmp_path / "more")
    generate.main([f"--network={tmp_path / 'run'}", "--seeds=0", *for_labelling])
    assert Labelling.read(tmp_path / "more") == made


def test_a_decoder_on_an_official_pickle(tmp_path, capsys):
    """From the pickle to pairs; the decoder's snapshot has no official form."""
    pickle = tmp_path / "network.pkl"
    networks, arrays = official_files.tiny_networks()
    official_files.write_pickle(pickle, networks)
    out, side = tmp_path / "labelled", Sampler.load(pickle).resolution
    generate.main([f"--network={pickle}", "--seeds=0-3", "--for-labelling", f"--out={out}"])
    for path in sorted(out.glob("seed*.png")):
        write_label(out, path.name, tools.colour_labels(read(path)))
    tools.write_class_list(out, tools.CLASSES)
    config = tiny(out, "linear", resolution=side)
    tools.train(config, tmp_path / "run", pickle)
    network = load_snapshot(tmp_path / "run/network-final.safetensors").networks["Gs"]
    for name, value in arrays["Gs"].items():
        np.testing.assert_array_equal(network.vars[f"generator/{name}"], value)
    assert generate.main([f"--network={tmp_path / 'run'}", "--num=2",
                          f"--out={tmp_path / 'pairs'}"]) == 0
    with pytest.raises(UserError, match="the official release has no such network"):
        official.main(["export", str(tmp_path / "run"), str(tmp_path / "arrays.npz")])


@pytest.mark.slow
def test_a_decoder_on_a_conditional_generator(tmp_path):
    """The pictures' label gives their features; later any label can be requested."""
    origin = save_network(tmp_path / "rgb.safetensors", (), label_size=3)
    out = tmp_path / "labelled"
    generate.main([f"--network={origin}", "--seeds=0-3", "--for-labelling", "--label=2",
                   f"--out={out}"])
    for path in sorted(out.glob("seed*.png")):
        write_label(out, path.name, tools.colour_labels(read(path)))
    tools.write_class_list(out, tools.CLASSES)
    training = tools.train(tiny(out), tmp_path / "run", origin)
    again = tools.pictures.to_uint8_metrics(training.method.images(range(4))[..., :3])
    written = np.stack([read(path) for path in sorted(out.glob("seed*.png"))])
    assert np.abs(again.astype(int) - written).max() <= 1
    for label in (0, 2):
        assert generate.main([f"--network={tmp_path / 'run'}", "--seeds=0-1", f"--label={label}",
                              f"--out={tmp_path / 'sheets'}"]) == 0


def failure(*options):
    """Return the message of a command that fails."""
    with pytest.raises(UserError) as error:
        train.main(["--variant=decoder", "--device=cpu", *options])
    return str(error.value)


def test_options_that_do_not_fit_are_refused(folder, tmp_path):
    origin, out = folder
    common = f"--labels={out}", f"--init-from={origin}", f"--results={tmp_path}"
    assert "--labels: missing" in failure(f"--init-from={origin}")
    assert "--init-from: missing" in failure(f"--labels={out}")
    other = save_network(tmp_path / "other.safetensors", (), seed=9)
    assert f"has the digest {read_header(other)['digest'][:12]}" in failure(
        f"--labels={out}", f"--init-from={other}")
    assert "labelling.json: no such file" in failure(f"--labels={tmp_path}", common[1])
    assert "made at 16" in failure(*common, "--resolution=8")
    assert "it is for --decoder=conv" in failure(*common, "--decoder=mlp", "--weight-decay=1")
    assert "it is for --decoder=mlp" in failure(*common, "--pixels=4")
    assert "a multiple of --minibatch=4" in failure(*common, "--decoder=mlp", "--pixels=66")
    assert "leaves no picture" in failure(*common, "--held-back=1")
    assert "--inception: without effect" in failure(*common, "--inception=x")
    wrong = failure(*common, "--data=x")
    assert "unrecognized arguments: --data=" in wrong and " --variant=decoder --help" in wrong


def test_unusable_labels_are_listed_one_per_line(folder, tmp_path):
    """Missing, of another size, of unknown classes, without a picture, twice, replaced pictures."""
    _, out = labelled_folder(tmp_path, count=8)
    good = read(out / "labels/seed0000.png")
    write_label(out, "seed0001.png", good[:8])
    Image.fromarray(np.full_like(good, 7)).save(out / "labels/seed0002.png")
    write_label(out, "seed0077.png", good)
    write_label(out, "seed0004.png", good)
    (out / "labels/seed0003.png").unlink()
    (out / "labels/seed0005.png").write_bytes(b"PNG")
    (out / "seed0006.png").write_bytes((out / "seed0000.png").read_bytes())
    labelled = LabelledFolder(out)
    assert labelled.names == tuple(f"seed000{n}.png" for n in (0, 4, 7))
    assert labelled.label_maps.shape == (3, 16, 16)
    said = labelled.problems
    for number, part in enumerate([
            "seed0001.png: 16x8 pixels, its picture has 16x16: left out",
            "seed0002.png: label 7, above the number of classes (2): left out",
            "seed0003.png: missing: this picture is left out",
            "seed0005.png: cannot be read as a label map",
            "seed0006.png: not the picture that was written under this name",
            "seed0077.png: no picture has this name",
            "seed0004.png and seed0000.png have the same labels"]):
        assert part in said[number], said
    assert len(said) == 7 and not any("\n" in line for line in said)
    assert labelled.digest != LabelledFolder(labelled_folder(tmp_path / "b")[1]).digest
    for path in (out / "labels").glob("*.png"):
        Image.fromarray(np.where(good > 0, 255, 0).astype(np.uint8)).save(path)
    with pytest.raises(UserError, match=r"no label map shows a class: .* 1 to 2: red, green"):
        LabelledFolder(out)
    for path in (out / "labels").glob("*.png"):
        path.unlink()
    with pytest.raises(UserError, match="none of the 8 pictures has labels"):
        LabelledFolder(out)


def test_damaged_lists_of_pictures_are_refused(folder, tmp_path):
    whole = json.loads((folder[1] / "labelling.json").read_text())
    digests = list(whole["pictures"].values())
    for content in ([], whole | {"pictures": ["a.png"] * len(digests)},
                    whole | {"pictures": {f"../{n}.png": x for n, x in enumerate(digests)}},
                    whole | {"pictures": {f"{n}.png": n for n, x in enumerate(digests)}},
                    whole | {"pictures": {"..": "x"}, "seeds": [0]},
                    whole | {"seeds": [7, *whole["seeds"][1:]]},  # labels of another picture
                    whole | {"seeds": whole["seeds"][::-1]},
                    whole | {"seeds": ["0"] * len(digests)},
                    *(whole | {name: value} for name, value in (
                        ("trunc", "1"), ("noise", "some"), ("resolution", "16"),
                        ("resolution", 17), ("fade", None), ("digest", 3), ("class_label", [None]),
                        ("trunc_cutoff", 0.5), ("trunc_cutoff", 4)))):
        (tmp_path / "labelling.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match=r"labelling\.json: damaged"):
            Labelling.read(tmp_path)


def test_classes_may_be_listed_with_the_background(tmp_path):
    """As labelme and CVAT do: names before the first class have no label."""
    _, out = labelled_folder(tmp_path, count=2)
    for text in ("__ignore__\n_background_\nred\ngreen\n", "background:0,0,0::\nred:1,2,3::\n"
                 "green:4,5,6::\n"):
        (out / "classes.txt").write_text(text)
        assert LabelledFolder(out).classes == ("red", "green")


def test_held_back_pictures_are_a_fixed_share():
    """If that makes at least two pictures; always the same ones."""
    assert held_back(20, 0.1, 3) == held_back(20, 0.1, 3) and len(held_back(20, 0.1, 3)) == 2
    assert held_back(19, 0.1, 3) == [] and held_back(11, 0.5, 3) == sorted(held_back(11, 0.5, 3))
    assert held_back(2, 1.0, 3) == [] and len(held_back(100, 0.29, 3)) == 29


@pytest.mark.parametrize("label, suggested", [(None, ""), (2, " --label=2"),
                                              ((0.5, -1.0), " --label=0.5,-1.0")])
def test_a_finished_decoder_suggests_commands(label, suggested):
    """For a conditional generator with the label that its pictures have."""
    job = object.__new__(DecoderJob)
    job.dataset = SimpleNamespace(labelling=SimpleNamespace(class_label=label))
    network = "python generate.py --network=run"
    assert job.next_commands("run") == (f"{network} --seeds=0-35{suggested}; "
                                        f"{network} --num=10000{suggested}")


def test_a_decoder_kind_sets_its_defaults():
    assert DecoderConfig.preset("small", {}).weight_decay == 1e-3
    mlp = DecoderConfig.preset("large", {"decoder": "mlp", "kimg": 3.0})
    assert (mlp.lrate, mlp.pixels, mlp.minibatch, mlp.kimg, mlp.weight_decay) == (
        1e-3, 64, 2, 3.0, 0)


@pytest.mark.parametrize("preset", ["small", "large"])
@pytest.mark.parametrize("kind", KINDS)
def test_held_back_pictures_are_evaluated_often_enough(preset, kind):
    """Otherwise --patience=5, which docs/methods.md recommends, would never end a training."""
    config = DecoderConfig.preset(preset, {"decoder": kind})
    assert round(config.kimg / config.tick_kimg) // config.network_ticks > 5


def test_optimizers(folder):
    """conv: SGD that decays kernels only; the others: Adam as in their papers."""
    origin, out = folder
    made = {kind: begun(tiny(out, kind), origin)[0].optimizers[NETWORK] for kind in KINDS}
    sgd = made["conv"]
    assert (type(sgd), sgd.momentum, sgd.decay) == (Sgd, 0.9, 1e-3)
    assert sgd.decayed == {*(f"decoder/layer{i}/kernel" for i in range(6)),
                           "decoder/logits/kernel"}
    for kind in ("linear", "mlp"):
        assert (type(made[kind]), made[kind].beta1, made[kind].beta2) == (Adam, 0.9, 0.999)


def test_learning_rates(folder):
    """conv: a power of the share left; linear: a tenth after two fifths; mlp: constant."""
    origin, out = folder
    rates = {kind: [begun(tiny(out, kind, lrate=1.0), origin)[0].lrate(left)
                    for left in (1.0, 0.5, 0.0)] for kind in KINDS}
    assert rates == {"conv": [1, 0.5 ** 0.9, 0], "linear": [1, 0.1, 0.1], "mlp": [1, 1, 1]}


def test_the_plan_and_labels_that_have_moved(folder, tmp_path, capsys):
    origin, out = folder
    command = ["--variant=decoder", f"--init-from={origin}", f"--labels={out}", "--device=cpu",
               f"--run={tmp_path / 'run'}", "--decoder=linear", "--preset=tiny",
               "--held-back=0.25"]
    assert train.main([*command, "--kimg=0.016", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "8 of 8 pictures have labels, of 2 classes: red, green" in said
    assert "2 pictures are held back" in said and "4 steps of 4" in said
    command.append("--kimg=0")
    run = tmp_path / "run"
    options = parse_training_options(command)
    train.train(train.make_job(options, given_options(options), None), tools.ONE_DEVICE)
    header = read_header(run / "network-final.safetensors")
    assert header["labels"]["num_learned"] == 6 and header["stage"] == "classes"
    assert header["generator"]["digest"] == read_header(origin)["digest"]
    assert header["lod"] == {"resolution": 16, "fade": 0.0}
    moved = tmp_path / "moved"
    out.rename(moved)
    try:
        with pytest.raises(UserError, match="give its current path with --labels"):
            train.main([f"--run={run}", "--dry-run"])
        assert train.main([f"--run={run}", f"--labels={moved}", "--dry-run"]) == 0
    finally:
        moved.rename(out)


def test_a_run_needs_its_generator_only_at_the_start(folder, tmp_path):
    """Its states contain it, and its snapshots its description."""
    origin, out = folder
    copy, run = tmp_path / "generator.safetensors", tmp_path / "run"
    copy.write_bytes(origin.read_bytes())
    options = parse_training_options([
        "--variant=decoder", f"--init-from={copy}", f"--labels={out}", "--device=cpu",
        f"--run={run}", "--decoder=linear", "--preset=tiny", "--kimg=0"])
    job = train.make_job(options, given_options(options), None)
    train.train(job, tools.ONE_DEVICE)
    method = job.make_method(tools.ONE_DEVICE, None)
    progress = method.begin()
    save_state(run, TrainingState(method.networks, method.optimizers, progress))
    copy.unlink()
    options = parse_training_options([f"--run={run}"])
    again = train.make_job(options, given_options(options), None).make_method(
        tools.ONE_DEVICE, None)
    assert again.about == method.about
    assert again.about["generator"] == {
        "path": str(copy), "digest": read_header(origin)["digest"]}
    assert again.begin() == progress  # as --measure does
    assert "no such snapshot" in failure(f"--init-from={copy}", f"--labels={out}")


def test_uncertainty_is_measured_with_the_pictures_own_noise(folder):
    origin, out = folder
    method, progress = begun(tiny(out, "mlp"), origin)
    network = method.networks[NETWORK]
    values = []
    for number, seed in enumerate(method.labelled.labelling.seeds):
        features = network.features(tf.constant(method._dlatents[[number]]),
                                    seed_noise([seed]))
        p = network.decoder.probabilities(features).numpy().astype(np.float64)
        divergences = (p * np.log(p / p.mean(0))).sum(-1).mean(0).ravel()
        values.append(np.sort(divergences)[-26:].mean())
    found = method.details(method.stage(progress))["Decoder/uncertainty"]
    np.testing.assert_allclose(found, np.mean(values), rtol=1e-3)
