"""Conditional networks from the training loop to generate.py."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import generate
import train
from dnnlib.cli import label_suffix
from dnnlib.data import pictures
from dnnlib.data.dataset import read_labels
from dnnlib.util import UserError
from generation import pairs, sheets
from tests.conftest import TINY
from tests.tools.data_helpers import FOUR, make_dataset, random_image, read_jsonl
from tests.tools.training_runs import begin, stop_after
from training.config import TrainingConfig
from training.dataset import TrainingStream, permutation
from training.gan.init_from import state_from_snapshot
from training.networks_stylegan import G_style
from training.sampler import Sampler
from training.snapshots import load_snapshot, save_snapshot

pytestmark = pytest.mark.usefixtures("eagerly")

STRATEGY = tf.distribute.OneDeviceStrategy("/cpu:0")
FINAL = "network-final.safetensors"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Make a data set at 8x8 with four classes, and labels of three numbers."""
    rng = np.random.default_rng(0)
    images = np.stack([random_image(rng, 7, 8) for _ in range(12)])
    labels = rng.standard_normal((12, 3)).astype(np.float32)
    return make_dataset(tmp_path_factory.mktemp("data") / "tagged", {"train": images}, FOUR,
                        labels={"train": labels})


def config_for(dataset, **changes):
    return TrainingConfig(**{
        **TINY, "resolution": 4, "initial_resolution": 4, "variant": "c", "rgb_kimg": 0.016,
        "binary_kimg": 0.008, "classes_kimg": 0.016, "tick_kimg": {4: 0.008}, "d_loss": "hinge",
        "g_loss": "hinge", "data": str(dataset), **changes})


@pytest.fixture(scope="module")
def whole_run(dataset, tmp_path_factory):
    """Return a finished conditional training of three stages: its directory and evaluations."""
    run_dir = tmp_path_factory.mktemp("runs") / "00000-whole"
    seen = []

    def evaluate(snapshot):
        images = snapshot.networks["Gs"](np.ones([2, 8]), np.float32([[1, 0, 0], [0, 1, 0]]))
        seen.append(float(tf.reduce_max(tf.abs(images[0] - images[1]))))
        return {}

    assert begin(config_for(dataset), run_dir, evaluate=evaluate).run() is True
    return run_dir, seen


@pytest.mark.slow
def test_networks_of_all_stages_have_the_data_sets_label_size(whole_run):
    run_dir, seen = whole_run
    networks = load_snapshot(run_dir / FINAL).networks
    assert {network.label_size for network in networks.values()} == {3}
    assert len(seen) > 4 and min(seen) > 0, "the label matters at every evaluation"


def run_to(step, config, run_dir):
    """Train from the directory's state to a step, and stop there."""
    training = begin(config, run_dir)
    stop_after(training, step)
    assert training.run() is False


def digests(path):
    return load_snapshot(path).header["digests"]


@pytest.mark.slow
def test_interrupted_equals_uninterrupted(dataset, whole_run, tmp_path):
    config, run_dir = config_for(dataset), tmp_path / "run"
    run_to(1, config, run_dir)
    again = begin(config, run_dir)
    assert again.progress.step == 1 and again.run() is True
    assert digests(run_dir / FINAL) == digests(whole_run[0] / FINAL)


@pytest.mark.slow
@pytest.mark.parametrize("changed", ["those of the first minibatch", "the others"])
def test_other_labels_train_other_networks(dataset, whole_run, tmp_path, changed):
    """D's first step uses the labels of its minibatch; G's draws from all labels."""
    data, config = tmp_path / "other", config_for(dataset)
    shutil.copytree(dataset, data)
    labels, seen = read_labels(dataset, "train"), permutation(config.seed, 0, 12)[:8]
    rows = seen if changed.startswith("those") else np.setdiff1d(np.arange(12), seen)
    labels[rows] += 1
    with open(data / "train" / "train-rxx.labels", "wb") as file:
        np.save(file, labels)
    name = "network-snapshot-000000.008.safetensors"
    run_to(1, config_for(data), tmp_path / "run")
    ours, theirs = digests(tmp_path / "run" / name), digests(whole_run[0] / name)
    different = {network for network in ours if ours[network] != theirs[network]}
    # Gs was averaged between the two steps, with the mean of the D step's dlatents.
    assert different == ({"D_rgb", "G", "Gs"} if changed.startswith("those") else {"G"})


@pytest.mark.slow
def test_the_grid_shows_latents_and_labels_of_the_seed(dataset, whole_run):
    run_dir, _ = whole_run
    config, Gs = config_for(dataset), load_snapshot(run_dir / FINAL).networks["Gs"]
    latents = np.random.RandomState(config.seed).randn(32, 8).astype(np.float32)
    table = read_labels(config.data, "train")
    labels = table[np.random.RandomState([config.seed, 1]).randint(12, size=32)]
    assert len(np.unique(labels, axis=0)) > 6
    rows = [Gs(latents[i:i + 8], labels[i:i + 8]) for i in range(0, 32, 8)]
    pairs = np.concatenate([pictures.draw_pairs(row) for row in rows])
    expected = pictures.grey_sheet(pairs, columns=8 * pairs.shape[1] // pairs.shape[2])
    last = max(run_dir.glob("fakes*.png"))
    with Image.open(last) as picture:
        np.testing.assert_allclose(np.asarray(picture).astype(int), expected.astype(int), atol=1)


@pytest.mark.slow
def test_growth_reports_scores_under_labels(dataset, whole_run):
    """Fakes are scored with the labels they were drawn for, reals with their own."""
    run_dir, _ = whole_run
    config, events = config_for(dataset), read_jsonl(run_dir / "stats.jsonl")
    growth = next(event for event in events if event["event"] == "growth")
    # The last networks of the RGB stage, before the growth.
    networks = load_snapshot(run_dir / "network-snapshot-000000.016.safetensors").networks
    latents = np.random.RandomState(config.seed).randn(8, 8).astype(np.float32)
    table = read_labels(dataset, "train")
    labels = table[np.random.RandomState([config.seed, 1]).randint(12, size=8)]
    fakes = networks["Gs"](latents, labels)
    stream = TrainingStream([dataset], resolution=4, num_channels=3, minibatch=8, seed=0)
    reals, real_labels = next(iter(stream))
    reals = reals.numpy() / np.float32(127.5) - 1
    expected = {"D_rgb/fake": networks["D_rgb"](fakes, labels),
                "D_rgb/real": networks["D_rgb"](reals, real_labels)}
    assert growth["before"] == pytest.approx(
        {name: float(np.mean(scores)) for name, scores in expected.items()}, abs=2e-3)
    assert any("Classes/total_variation" in event for event in events)


@pytest.mark.slow
def test_a_snapshot_of_other_labels_cannot_start_a_training(dataset, whole_run):
    snapshot = load_snapshot(whole_run[0] / FINAL)
    config = config_for(dataset)
    assert state_from_snapshot(snapshot, config, FOUR, 3).networks["G"].label_size == 3
    with pytest.raises(UserError, match=r"label_size of its .* is 3, of this training 0"):
        state_from_snapshot(snapshot, config, FOUR, 0)


def test_labels_are_checked_before_anything_is_made(dataset, tmp_path, rng, capsys):
    def failure(*options):
        with pytest.raises(UserError) as caught:
            train.main([*options, "--device=cpu", f"--results={tmp_path / 'results'}",
                        "--preset=demo-32", "--resolution=8", "--metrics=none"])
        assert not (tmp_path / "results").exists()
        return str(caught.value)

    images = np.stack([random_image(rng, 3, 8) for _ in range(4)])
    plain = make_dataset(tmp_path / "plain", {"train": images}, ())
    assert "labels of 3 and 0 numbers" in failure(
        f"--data={dataset}", f"--untagged={plain}", "--variant=rgb")
    (broken,) = [make_dataset(tmp_path / "broken", {"train": images}, (),
                              labels={"train": np.zeros([3, 2], np.float32)})]
    assert "train-rxx.labels" in failure(f"--data={broken}", "--variant=rgb", "--dry-run")
    assert train.main([f"--data={dataset}", "--variant=rgb", "--resolution=8", "--dry-run"]) == 0
    assert "4 classes, labels of 3 numbers" in capsys.readouterr().out


# Generation

def save_network(path, label_size, seed=1):
    """Write a snapshot of a random generator whose images depend on labels."""
    network = G_style("Gs", num_channels=5, resolution=8, latent_size=8, dlatent_size=8,
                      mapping_fmaps=8, mapping_layers=1, fmap_base=64, fmap_max=8, seed=seed,
                      label_size=label_size)
    network.vars["dlatent_avg"].assign(np.linspace(-1, 1, 8, dtype=np.float32))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_snapshot(path, {"Gs": network}, {
        "stage": "classes", "classes": ["a", "b"], "kimg": 1.0,
        "lod": {"resolution": 8, "fade": 0.0}})
    return path


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Return {label_size: snapshot}."""
    root = tmp_path_factory.mktemp("results")
    return {size: save_network(root / f"0000{size}-labels" / FINAL, size) for size in (0, 1, 3)}


@pytest.mark.parametrize("label, row", [(2, [0, 0, 1]), ((0.5, -1, 2), [0.5, -1, 2])])
def test_samples_are_drawn_with_the_label(networks, label, row):
    sampler = Sampler.load(networks[3], label)
    labels = np.float32([row] * 2)
    expected = sampler.network(sampler.seed_latents([3, 4]), labels, truncation_psi=0.7).numpy()
    images, = sampler.seed_images([3, 4], 0.7, "const", 2)
    np.testing.assert_allclose(images, expected, atol=2e-5)
    other, = Sampler.load(networks[3], 0).seed_images([3, 4], 0.7, "const", 2)
    assert np.abs(other - expected).max() > 0.01


def test_a_one_hot_label_is_its_class(networks):
    assert Sampler.load(networks[3], (0.0, 1.0, 0.0)).label == 1
    for values in ((0, 0.5, 0), (0.5, 1, 0), (1, 1, 0), (0, -1, 1)):
        assert Sampler.load(networks[3], values).label == values
    assert Sampler.load(networks[1], (0.25,)).label == (0.25,)
    assert Sampler.load(networks[0]).label is None


@pytest.mark.parametrize("label_size, argv, message", [
    (3, [], "is conditional: choose what it draws with --label, a class of 0-2, or 3 numbers"),
    (0, ["--label=0"], "was trained without labels; leave it out"),
    (0, ["--label=0.5,1"], "was trained without labels; leave it out"),
    (3, ["--label=3"], "takes a class of 0-2"), (3, ["--label=1,2"], "2 numbers; "),
    (3, ["--label=0.5"], "1 numbers; "), (3, ["--label=1,nan,0"], "expected a number"),
    (3, ["--label=x"], "expected a number"), (3, ["--label="], "expected a number"),
    (3, ["--label=1", "--replay=x"], "--label: without effect: it is for a grid of seeds, ")])
def test_labels_that_do_not_fit_are_one_line(networks, tmp_path, script, label_size, argv, message):
    for mode in ([], ["--num=1"]):
        out = tmp_path / "out"
        if "--replay=x" in argv and mode:
            continue
        status, error = script(f"--network={networks[label_size]}", f"--out={out}", *argv, *mode)
        assert status == 2 and message in error and error.count("\n") == 1 and not out.exists()


def test_pictures_and_their_names_show_the_label(networks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    common = [f"--network={networks[3]}"]
    assert generate.main([*common, "--seeds=0-3", "--label=2"]) == 0
    assert generate.main([*common, "--seeds=0-3", "--label=0.5,-1,2", "--noise=const"]) == 0
    assert generate.main([*common, "--label=1", "--interpolate=1,2", "--steps=2"]) == 0
    assert generate.main([*common, "--label=1", "--style-mix"]) == 0
    assert generate.main([*common, "--label=1", "--num=1"]) == 0
    folder = tmp_path / "generated" / "00003-labels-network-final"
    assert {path.name for path in folder.iterdir()} == {
        "seeds-0-3-label2-trunc0.7.png", "seeds-0-3-label-0.5_-1_2-trunc0.7-const.png",
        "interpolate-1-2-steps2-label1-trunc0.7.png",
        "style-mix-rows0-3-cols4-8-layers0-3-label1-trunc0.7.png", "pairs-label1"}
    sampler = Sampler.load(networks[3], 2)
    expected = sheets.seed_grid(sampler, [0, 1, 2, 3], 0.7, "random", 8).draw(16)
    with Image.open(folder / "seeds-0-3-label2-trunc0.7.png") as picture:
        assert (np.asarray(picture)[:len(expected)] == expected).all()
    assert len(label_suffix(tuple(np.linspace(0, 1, 512)))) < 20
    assert label_suffix((0.5,) * 99) != label_suffix((0.25,) * 99)


def test_pairs_record_their_label_and_are_reproduced(networks, tmp_path, capsys, script):
    command = [f"--network={networks[3]}", "--label=0.5,-1,2.1", "--num=3"]
    generate.main([*command, f"--out={tmp_path / 'a'}"])
    records = pairs.read_samples(tmp_path / "a" / pairs.SAMPLES)
    np.testing.assert_array_equal(np.float32([r["class_label"] for r in records]),
                                  np.float32([[0.5, -1, 2.1]] * 3))
    generate.main([*command, f"--out={tmp_path / 'a'}"])
    assert "0 made, 3 were there already" in capsys.readouterr().out
    samples = tmp_path / "a" / pairs.SAMPLES
    assert generate.main([f"--replay={samples}", "--index=2", f"--out={tmp_path / 'b'}"]) == 0
    assert "made again, " in capsys.readouterr().out
    status, error = script(*command[::2], "--label=1", f"--out={tmp_path / 'a'}")
    assert status == 2 and "class_label [0.5, -1.0" in error and ", 1 now" in error
    status, error = script(f"--replay={samples}", f"--network={networks[0]}")
    assert status == 2 and "name the right one" in error


def test_records_without_a_label_have_no_label_key(networks, tmp_path, capsys):
    generate.main([f"--network={networks[0]}", "--num=1", f"--out={tmp_path / 'a'}"])
    samples = tmp_path / "a" / pairs.SAMPLES
    assert "class_label" not in json.loads(samples.read_text())
    assert generate.main([f"--replay={samples}", f"--out={tmp_path / 'b'}"]) == 0


@pytest.mark.parametrize("label", [-1, True, "2", [], [0, None, 1], [[1], [2], [3]],
                                   [0, float("inf"), 1], {}])
def test_broken_labels_in_records_are_named(networks, tmp_path, script, label):
    generate.main([f"--network={networks[3]}", "--label=1", "--num=1", f"--out={tmp_path / 'a'}"])
    samples = tmp_path / "a" / pairs.SAMPLES
    record = json.loads(samples.read_text())
    samples.write_text(json.dumps({**record, "class_label": label}) + "\n")
    status, error = script(f"--replay={samples}")
    assert status == 2 and "line 1: not a sample's record" in error and error.count("\n") == 1
