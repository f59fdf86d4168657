"""run_metrics.py from its command line: networks, folders, weights, records, errors."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import dataset_tool
import generate
import run_metrics
from dnnlib.data.dataset import open_dataset
from dnnlib.tflib.network import build
from dnnlib.util import UserError
from metrics.image_sources import open_images
from metrics.networks.inception import load_detector
from metrics.networks.inception_weights import LOGITS
from tests.tools.data_helpers import make_dataset
from tests.tools.metrics_helpers import graph_bytes, small_arrays
from training.networks_stylegan import G_style
from training.segmentation.labeller import Labeller
from training.snapshots import load_snapshot, read_header, save_snapshot

pytestmark = pytest.mark.usefixtures("eagerly")

BLIND = ("ppl", "classes", "maps", "labels", "miou")  # metrics that need no Inception


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Make 40 images of 16x16."""
    path = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(40):
        image = rng.integers(0, 256, (16, 16, 3), np.uint8) // (1 + i % 3)
        Image.fromarray(image).save(path / f"{i:03d}.png")
    return path


@pytest.fixture(scope="module")
def data(folder, tmp_path_factory):
    """Make a data set of them: 16 train, 12 val, 12 test."""
    out = tmp_path_factory.mktemp("data") / "toy"
    dataset_tool.main(["create_from_images", f"--source={folder}", f"--out={out}", "--workers=1",
                       "--resolution=16", "--num-val=12", "--num-test=12"])
    return open_dataset(out)


@pytest.fixture(scope="module")
def results(data, tmp_path_factory):
    """Make a results folder with one run, whose network is still at 8x8 of 16x16."""
    root = tmp_path_factory.mktemp("results")
    network = G_style("Gs", num_channels=5, resolution=16, latent_size=8, dlatent_size=8,
                      mapping_fmaps=8, fmap_base=64, fmap_max=8)
    (root / "00007-c-toy").mkdir()
    save_snapshot(root / "00007-c-toy" / "network-snapshot-000003.safetensors", {"Gs": network}, {
        "variant": "c", "stage": "classes", "classes": ["a", "b"], "kimg": 3.5,
        "lod": {"resolution": 8, "fade": 0.25},
        "dataset": {"name": data.name, "path": str(data.path), "digest": data.digest}})
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Write a narrow Inception as .pb, and one without the last layer as .npz."""
    root = tmp_path_factory.mktemp("weights")
    arrays = small_arrays()
    (root / "small.pb").write_bytes(graph_bytes(arrays))
    del arrays[LOGITS]
    np.savez(root / "pool_3.npz", **arrays)
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Use a separate cache for the test."""
    monkeypatch.setenv("STYLE_C_GAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def run(results, weights):
    """Return a function (options...) that runs the script with the results and weights above."""
    def call(*options):
        blind = any(option.startswith(tuple(f"--metrics={name}" for name in BLIND))
                    for option in options)
        inception = [] if blind else [f"--inception={weights / 'small.pb'}"]
        return run_metrics.main([f"--results={results}", *inception, *options])
    return call


def records(folder, name):
    """Return the lines of metric-<name>.jsonl."""
    lines = (folder / f"metric-{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_the_newest_network_against_the_test_split(run, results, data, capsys):
    assert run("--metrics=fid20,kid30,is40", "--floor") == 0
    out = capsys.readouterr().out
    assert "20 fakes, 12 reals of toy test, fakes of 8 upscaled to 16" in out
    assert "floor fid20" in out and "6 each" in out
    (fid,), (score,) = (records(results / "00007-c-toy", name) for name in ("fid20", "is40"))
    assert fid["results"]["fid20"] > 0 and fid["floor"]["num_each"] == 6
    assert (fid["num_fakes"], fid["num_reals"]) == (20, 12)
    assert fid["reals"]["split"] == "test" and fid["reals"]["digest"] == data.digest
    assert fid["kimg"] == 3.5 and fid["seed"] == 0 and fid["truncation"] is None
    assert fid["upscaled"] == "nearest" and "no half-pixel centres" in fid["resize"]
    assert len(fid["network_digest"]) == len(fid["detector_hash"]) == 64
    assert fid["detector"].startswith("weights from ") and "--metrics=fid20" in fid["command"]
    assert score["reals"] is None and score["detector_hash"] != fid["detector_hash"]
    assert set(score["results"]) == {"is40", "is40_std", "is40_5", "is40_5_std"}


def test_the_same_seed_gives_the_same_number(run, results, weights, monkeypatch):
    """For any minibatch, up to rounding in matrix products of other shapes, and then to uint8."""
    detector = load_detector(weights / "small.pb")
    monkeypatch.setattr("metrics.networks.inception.load_detector", lambda *options: detector)
    names = ["kid12", "fid12", "is12", "pr123_full"]
    numbers = []
    for options in (["--seed=1"], ["--seed=1", "--minibatch=5"], ["--seed=2"],
                    ["--seed=1", "--trunc=0.5"], ["--seed=1", "--split=val"]):
        run(f"--metrics={','.join(names)}", *options)
        numbers.append([list(records(results / "00007-c-toy", name)[-1]["results"].values())
                        for name in names])
    for again, first in zip(numbers[1], numbers[0]):
        np.testing.assert_allclose(again, first, rtol=1e-3, atol=1e-9)
    assert len({round(number[0][0], 7) for number in numbers[1:]}) == 4


def test_two_folders(run, folder, results, tmp_path, capsys):
    fakes = tmp_path / "fakes"
    fakes.mkdir()
    for i, path in enumerate(sorted(folder.iterdir())[:15]):
        Image.open(path).resize((20 + i % 2, 20)).save(fakes / f"{i}.jpg")
    assert run("--metrics=fid1k,kid10", f"--reals={folder}", f"--fakes={fakes}") == 0
    fid = records(results / "metrics-fakes", "fid15")[-1]
    assert (fid["metric"], fid["num_fakes"], fid["num_reals"]) == ("fid15", 15, 40)
    assert list(fid["results"]) == ["fid15"] and "--metrics=fid1k,kid10" in fid["command"]
    assert records(results / "metrics-fakes", "kid10")[-1]["num_fakes"] == 10
    told = capsys.readouterr()
    assert "fid1k: there are only 15 fakes; computed and recorded as fid15" in told.err
    assert "its folders" not in told.err and "fid1k" not in told.out
    assert not list(fakes.glob("*.jsonl")) and not list((results / "metrics-fakes").glob("*fid1k*"))
    (fakes / "more").mkdir()
    (fakes / "0.jpg").rename(fakes / "more" / "0.jpg")
    run("--metrics=kid10", f"--reals={folder}", f"--fakes={fakes}")
    assert "its 14 images are taken, those in its folders (more) are not" in (
        capsys.readouterr().err)


def test_different_sizes_get_a_warning(run, results, folder, data, tmp_path, capsys):
    """A data set's reals are read at its own size; --resolution chooses another one."""
    for i, path in enumerate(sorted(folder.iterdir())[:9]):
        Image.open(path).resize((8, 8)).save(tmp_path / f"{i}.png")
    options = ["--metrics=kid9", f"--fakes={tmp_path}", f"--data={data.path}"]
    run(*options)
    assert "fakes are 8x8, the reals of toy test 16x16" in capsys.readouterr().err
    run(*options, "--resolution=8")
    assert "warning" not in capsys.readouterr().err
    lines = records(results / f"metrics-{tmp_path.name}", "kid9")
    assert [r["reals"]["resolution"] for r in lines] == [16, 8]


def test_photos_of_another_size_than_the_networks_get_a_warning(run, folder, tmp_path, capsys):
    run("--metrics=kid9", f"--reals={folder}")
    assert "warning" not in capsys.readouterr().err
    for i in range(3):
        Image.new("RGB", (24, 20), (i, 0, 0)).save(tmp_path / f"{i}.png")
    run("--metrics=kid9", f"--reals={tmp_path}")
    assert f"fakes are 16x16, the reals of {tmp_path.name} 24x20" in capsys.readouterr().err


def test_options_that_plain_folders_ignore_are_refused(run, results, folder, data):
    both = [f"--fakes={folder}", f"--reals={folder}"]
    for options, message in (
            ([*both, "--split=val"], "--split: without effect: it is for data sets"),
            ([*both, "--resolution=8"], "--resolution: without effect: it is for data sets"),
            ([f"--reals={folder}", "--split=val"], "--split: without effect: it is for data sets"),
            ([f"--fakes={folder}", f"--data={data.path}", "--split=val", "--metrics=fid9_full"],
             "--split: without effect: it is for data sets"),
            ([f"--reals={folder}", "--metrics=is10"], "--reals: without effect: none of these"),
            ([f"--data={data.path}", "--metrics=is10"], "--data: without effect: none of these")):
        with pytest.raises(UserError, match=message):
            run("--metrics=fid9", *options)
    assert run("--metrics=kid9", f"--fakes={data.path}", f"--reals={folder}", "--split=val",
               "--resolution=8") == 0
    assert records(results / "metrics-toy", "kid9")[-1]["fakes"]["split"] == "val"
    assert not list(data.path.rglob("metric-*"))


def test_a_split_and_its_own_folder_are_the_same_images(run, results, data):
    """The records are equal, and FID is 0."""
    run("--metrics=fid16", f"--reals={data.path}", "--split=train",
        f"--fakes={data.path / 'train'}")
    record, = records(results / "metrics-train", "fid16")
    assert record["reals"] == record["fakes"]
    assert abs(record["results"]["fid16"]) < 1e-6


def test_full_metrics_are_against_the_training_split(run, results, folder, data, capsys):
    """Unless --reals is given; one evaluation may need both sets."""
    assert run("--metrics=fid15_full,kid15,pr153_full") == 0
    out = capsys.readouterr().out
    assert "(15 fakes, 16 reals of toy train" in out and "(15 fakes, 12 reals of toy test" in out
    assert "pr153_full_precision" in out and "pr153_full_recall" in out
    where = results / "00007-c-toy"
    splits = {name: records(where, name)[-1] for name in ("fid15_full", "kid15", "pr153_full")}
    assert [(r["reals"]["split"], r["num_reals"]) for r in splits.values()] == [
        ("train", 16), ("test", 12), ("train", 16)]
    assert set(splits["pr153_full"]["results"]) == {"pr153_full_precision", "pr153_full_recall"}
    run("--metrics=fid15_full", f"--reals={folder}")
    assert records(where, "fid15_full")[-1]["num_reals"] == 40
    run("--metrics=fid15_full", f"--reals={data.path}", "--split=val")
    assert records(where, "fid15_full")[-1]["reals"]["split"] == "val"


@pytest.fixture
def labelled(tmp_path, rng):
    """Make a data set with two classes: b is in half of the test images, a in all."""
    images = np.zeros((8, 5, 16, 16), np.uint8)
    images[:, :3] = rng.integers(0, 256, (8, 3, 16, 16))
    images[:, 3, :8] = 255
    images[:4, 4, 8:] = 255
    return make_dataset(tmp_path / "labelled", {"test": images, "train": images[:6]}, ("a", "b"))


def test_classes_of_a_network(run, results, labelled, capsys):
    where = results / "00007-c-toy"
    assert run("--metrics=classes30", f"--data={labelled}", "--min-area=0.1", "--floor") == 0
    assert "classes above 10 % of an image" in capsys.readouterr().out
    table = json.loads((where / "classes30.json").read_text())
    record, = records(where, "classes30")
    assert table["results"] == record["results"] and record["min_area"] == 0.1
    assert [row["name"] for row in table["classes"]] == ["a", "b"]
    assert [row["real_instances"] for row in table["classes"]] == [8, 4]
    shares = [[row[f"{side}_proportion"] for row in table["classes"]] for side in ("real", "fake")]
    np.testing.assert_allclose(shares[0], [8 / 12, 4 / 12])
    assert record["results"]["classes30"] == pytest.approx(
        0.5 * np.abs(np.subtract(*shares)).sum())
    assert "detector" not in record and record["floor"]["num_each"] == 4
    with Image.open(where / "classes30.png") as picture:
        assert picture.width > 200


def test_classes_of_generated_pairs(run, results, labelled, tmp_path, rng):
    """A folder that generate.py wrote is counted like the network whose images it holds."""
    pairs = tmp_path / "pairs"
    assert generate.main([f"--results={results}", f"--out={pairs}", "--num=6", "--trunc=1"]) == 0
    assert run("--metrics=classes9", f"--fakes={pairs}", f"--data={labelled}") == 0
    where = results / "metrics-pairs"
    table = json.loads((where / "classes6.json").read_text())
    present = [json.loads(line)["present"]
               for line in (pairs / "samples.jsonl").read_text().splitlines()]
    assert {row["name"]: row["fake_instances"] for row in table["classes"]} == {
        name: sum(name in names for names in present) for name in ("a", "b")}
    assert run("--metrics=classes6", f"--fakes={pairs}", f"--reals={pairs}") == 0
    assert records(where, "classes6")[-1]["results"] == {"classes6": 0}
    assert not list(pairs.glob("classes*.json")) and not list(pairs.glob("metric*"))
    with pytest.raises(UserError, match="the generated images have none"):
        run("--metrics=classes6", f"--fakes={pairs / 'images'}", f"--data={labelled}")
    other = make_dataset(tmp_path / "other", {"test": np.zeros((2, 4, 16, 16), np.uint8)}, ("b",))
    with pytest.raises(UserError, match="fakes have the classes a, b; the reals, other test, b"):
        run("--metrics=classes6", f"--fakes={pairs}", f"--data={other}")


def test_maps_of_a_network_and_of_pairs(run, results, labelled, tmp_path, capsys):
    """Reals and fakes are measured alike, in one pass with the classes; folders of pairs too."""
    where = results / "00007-c-toy"
    assert run("--metrics=maps30,classes30", f"--data={labelled}", "--min-area=0.1",
               "--floor") == 0
    assert "floor maps30 0 " in capsys.readouterr().out
    record, = records(where, "maps30")
    values = record["results"]
    # Each test image has one region of a in its upper half, and half of them one of b below it.
    assert (values["maps30_real"], values["maps30_regions_real"]) == (0, 1.5)
    assert (values["maps30_covered_real"], values["maps30_classes_real"]) == (0.75, 2)
    assert values["maps30_tv"] == records(where, "classes30")[0]["results"]["classes30"]
    assert {row["name"]: row["real_frequency"] for row in record["classes"]} == {"a": 1, "b": 0.5}
    assert record["floor"]["results"]["maps30_regions"] == 1.5 and record["min_area"] == 0.1
    with Image.open(where / "maps30.png") as picture:
        assert picture.width > 200
    assert json.loads((where / "maps30.json").read_text())["classes"] == record["classes"]
    pairs = tmp_path / "pairs"
    generate.main([f"--results={results}", f"--out={pairs}", "--num=6", "--trunc=1"])
    assert run("--metrics=maps6", f"--fakes={pairs}", f"--reals={pairs}") == 0
    same = records(results / "metrics-pairs", "maps6")[-1]["results"]
    assert same["maps6"] == same["maps6_real"] and same["maps6_tv"] == 0
    assert same["maps6_classes"] == same["maps6_classes_real"]
    assert same["maps6_regions"] == same["maps6_regions_real"] > 0
    # Measures of real-valued maps exist for a network and a data set, not for files of labels.
    assert values["maps30_unsure"] > 0 == values["maps30_unsure_real"]
    assert "maps6_edges" in same and not {"maps6_unsure", "maps6_unsure_real"} & same.keys()


def test_metrics_of_pairs(run, results, labelled, tmp_path):
    """Photo and map in one picture, with the metric of photos; --reals may be folders of pairs."""
    assert run("--metrics=fid8_pair,kid8_pair,fid8", f"--data={labelled}", "--floor") == 0
    where = results / "00007-c-toy"
    pair, photo = records(where, "fid8_pair")[-1], records(where, "fid8")[-1]
    assert pair["results"]["fid8_pair"] != photo["results"]["fid8"]
    assert pair["classes"] == ["a", "b"] and "picture" in pair and "picture" not in photo
    assert pair["detector_hash"] == photo["detector_hash"] and pair["floor"]["num_each"] == 4
    pairs = tmp_path / "pairs"
    generate.main([f"--results={results}", f"--out={pairs}", "--num=6", "--trunc=1"])
    assert run("--metrics=fid6_pair", f"--fakes={pairs}", f"--reals={pairs}") == 0
    assert abs(records(results / "metrics-pairs", "fid6_pair")[-1]["results"]["fid6_pair"]) < 1e-6
    with pytest.raises(UserError, match="fid6_pair needs label maps: the generated images have"):
        run("--metrics=fid6_pair", f"--fakes={pairs / 'images'}", f"--data={labelled}")


@pytest.fixture(scope="module")
def segmenter(results):
    """Write the snapshot of an untrained U-Net."""
    path = results / "metrics-segmenter" / "network-final.safetensors"
    path.parent.mkdir(exist_ok=True)
    network = build("Segmenter", "S", {"resolution": 16, "num_outputs": 3, "unet_fmaps": 2,
                                       "architecture": "unet"})
    save_snapshot(path, {"S": network}, {"variant": "segmenter", "classes": ["a", "b"], "kimg": 1})
    return path


def test_labels_of_a_network_and_of_pairs(run, results, labelled, segmenter, tmp_path):
    options = [f"--data={labelled}", f"--segmenter={segmenter}"]
    assert run("--metrics=labels20,maps20", "--floor", *options) == 0
    where = results / "00007-c-toy"
    record, = records(where, "labels20")
    values = record["results"]
    assert values["labels20_ratio"] == values["labels20"] / values["labels20_real"]
    assert record["segmenter"] == {
        "path": str(segmenter), "resolution": 16, "digest": read_header(segmenter)["digest"],
        "dataset": None, "dataset2": None, "num_pictures": None, "kimg": 1}
    assert [row["name"] for row in record["classes"]] == ["background", "a", "b"]
    assert record["floor"]["num_each"] == 4 and "min_area" not in record
    assert "segmenter" not in records(where, "maps20")[-1]
    with Image.open(where / "labels20.png") as picture:
        assert picture.width > 200
    pairs = tmp_path / "pairs"  # of the network, which is at 8x8
    generate.main([f"--results={results}", f"--out={pairs}", "--num=6", "--trunc=1"])
    with pytest.raises(UserError, match="takes photos of 16x16; the fakes are 8x8"):
        run("--metrics=labels9", f"--fakes={pairs}", *options)
    assert run("--metrics=labels9", f"--fakes={labelled}", *options) == 0
    values = records(results / "metrics-labelled", "labels8")[-1]["results"]
    assert values["labels8"] == values["labels8_real"] and values["labels8_ratio"] == 1


def test_miou_of_a_segmenter(run, labelled, segmenter, capsys):
    """By hand, from the labels that it gives."""
    assert run("--metrics=miou", f"--network={segmenter}", f"--data={labelled}") == 0
    assert "8 reals of labelled test" in capsys.readouterr().out
    record = records(segmenter.parent, "miou")[-1]
    rgb, labels = (np.concatenate(part) for part in zip(*open_images(
        labelled, "test", 16).batches(maps=True)))
    found = Labeller.load(segmenter).label_maps(rgb)
    ious = [((found == k) & (labels == k)).sum() / ((found == k) | (labels == k)).sum()
            for k in range(3)]
    assert 0 < np.mean(ious) < 1
    of_two = [((found > 0) == (labels > 0))[side].sum() / (side | other).sum() for side, other in (
        (labels > 0, found > 0), (labels == 0, found == 0))]
    assert record["results"] == {
        "miou": pytest.approx(np.mean(ious)), "miou_foreground": pytest.approx(np.mean(ious[1:])),
        "miou_accuracy": pytest.approx((found == labels).mean()),
        "miou_any": pytest.approx(np.mean(of_two))}
    assert [row["real_iou"] for row in record["classes"]] == pytest.approx(ious)
    assert (segmenter.parent / "miou.png").is_file()


def test_photos_that_a_network_was_trained_on_get_a_warning(run, labelled, segmenter, results,
                                                            capsys):
    """A segmenter on its own training photos gives no ceiling; a data set that was made again since
    may have moved training photos into its test split."""
    header, digest = read_header(segmenter), open_dataset(labelled).digest
    own = segmenter.with_name("own.safetensors")
    save_snapshot(own, load_snapshot(segmenter).networks, {
        "variant": "segmenter", "classes": header["classes"], "kimg": 1,
        "dataset": {"name": "labelled", "path": str(labelled), "digest": digest}})
    for network, split, told in ((own, "train", True), (own, "test", False),
                                 (segmenter, "train", False)):
        run("--metrics=miou", f"--network={network}", f"--data={labelled}", f"--split={split}")
        assert ("has learned from photos of" in capsys.readouterr().err) == told
    remade = results / "metrics-segmenter" / "remade.safetensors"
    snapshot = load_snapshot(results / "00007-c-toy/network-snapshot-000003.safetensors")
    old = {**snapshot.header["dataset"], "digest": "of before"}
    save_snapshot(remade, snapshot.networks, {
        **{name: snapshot.header[name] for name in ("variant", "stage", "classes", "kimg", "lod")},
        "dataset": old})
    shutil.copytree(old["path"], results / "elsewhere")
    for options, told in (([], 1), ([f"--data={old['path']}"], 1),
                          ([f"--data={results / 'elsewhere'}"], 0)):
        run("--metrics=fid9,kid9_full", f"--network={remade}", *options)
        lines = capsys.readouterr().err
        assert lines.count("is not the data set of the training any more") == told


def test_segmenters_and_generators_cannot_replace_each_other(run, labelled, segmenter, data):
    for options, message in (
            (["--metrics=miou"], "miou needs a segmenter; .*network-snapshot-000003.* is not one"),
            (["--metrics=fid9", f"--network={segmenter}"], "labels photos and generates none"),
            (["--metrics=miou,maps9"], "ask for it alone"),
            (["--metrics=miou", f"--network={segmenter}", "--floor"], "--floor: without effect"),
            (["--metrics=miou", f"--network={segmenter}", f"--data={data.path}"],
             "the segmenter .* has the classes a, b; the reals, toy test, none"),
            (["--metrics=labels9", f"--data={labelled}"], "labelsNk needs a segmenter"),
            (["--metrics=labels9", f"--data={labelled}", "--segmenter=7"],
             "a snapshot of --variant=c; a segmentation network is wanted"),
            (["--metrics=maps9", f"--segmenter={segmenter}"], "--segmenter: without effect"),
            (["--metrics=classes9", "--person"], "--person: without effect: it is for mapsNk")):
        with pytest.raises(UserError, match=message):
            run(*options)


def test_a_segmenter_runs_in_minibatches(run, labelled, segmenter, monkeypatch):
    sizes, load = [], Labeller.load

    def record(*args, **options):
        labeller = load(*args, **options)
        sizes.append(labeller.minibatch)
        return labeller
    monkeypatch.setattr(Labeller, "load", record)
    run("--metrics=miou", f"--network={segmenter}", f"--data={labelled}", "--minibatch=3")
    run("--metrics=labels4", f"--segmenter={segmenter}", f"--data={labelled}", "--minibatch=3")
    assert sizes == [3, 3]


def test_path_lengths(run, results, monkeypatch, capsys):
    """With the test's own distance: names, counts, records; in w no reals are needed."""
    class Distance:
        name, digest = "mean square", "abc"

        def __init__(self, path):
            assert path is None

        def __call__(self, images1, images2):
            return tf.reduce_mean(tf.square(images1 - images2), axis=[1, 2, 3])
    with pytest.raises(UserError, match="takes images of 16 pixels or more, and would see 8x8"):
        run("--metrics=ppl10_wend", "--crop-face")
    monkeypatch.setattr("metrics.networks.lpips.Lpips", Distance)
    monkeypatch.setattr("metrics.evaluation.SMALLEST", 8)
    assert run("--metrics=ppl10_wfull,ppl10_zend", "--seed=3", "--minibatch=4") == 0
    assert "10 pairs, mean square" in capsys.readouterr().out
    w, z = (records(results / "00007-c-toy", f"ppl10_{part}")[-1] for part in ("wfull", "zend"))
    assert w["results"]["ppl10_wfull"] > 0 and z["results"]["ppl10_zend"] > 0
    assert w["num_pairs"] == 10 and w["seed"] == 3 and w["distance_hash"] == "abc"
    assert "detector" not in w and "num_reals" not in w and w["crop_face"] is False
    assert run("--metrics=ppl10_wend", "--crop-face") == 0
    assert "10 pairs, mean square, middle of faces" in capsys.readouterr().out


def test_a_conditional_network_draws_the_labels_of_its_training_set(run, folder, tmp_path, rng):
    images = rng.integers(0, 256, (6, 3, 16, 16), np.uint8)
    labels = {split: np.eye(3)[[i % 3 for i in range(6)]] for split in ("train", "test")}
    data = make_dataset(tmp_path / "digits", {"train": images, "test": images}, (), labels=labels)
    network = G_style("Gs", num_channels=3, resolution=16, latent_size=8, dlatent_size=8,
                      mapping_fmaps=8, fmap_base=64, fmap_max=8, label_size=3)
    path = tmp_path / "network-final.safetensors"
    save_snapshot(path, {"Gs": network}, {"variant": "rgb", "stage": "rgb", "classes": [],
                                          "kimg": 1, "lod": {"resolution": 16, "fade": 0.0},
                                          "dataset": {"path": str(data)}})
    assert run("--metrics=kid8", f"--network={path}") == 0
    assert records(tmp_path, "kid8")[0]["labels"] == {
        "drawn_from": "train", "path": str(data), "digest": open_dataset(data).digest}
    assert run("--metrics=kid8", f"--network={path}", f"--reals={folder}", f"--data={data}") == 0
    assert records(tmp_path, "kid8")[1]["num_reals"] == 40
    with pytest.raises(UserError, match="--data: without effect: --reals names"):
        run("--nearest=0", f"--network={path}", f"--reals={folder}", f"--data={data}")
    other = make_dataset(tmp_path / "plain", {"train": images, "test": images}, ())
    with pytest.raises(UserError, match="labels of 0 numbers; the network takes 3"):
        run("--metrics=kid8", f"--network={path}", f"--data={other}")


def test_without_the_last_layer_the_others_still_run(run, results, weights, capsys):
    assert run("--metrics=is20,fid20", f"--inception={weights / 'pool_3.npz'}") == 0
    captured = capsys.readouterr()
    skipped, = [line for line in captured.err.splitlines() if line.startswith("skipped:")]
    assert "is20" in skipped and "inception-2015-12-05.tgz" in skipped
    assert captured.out.startswith("fid20")
    assert not (results / "00007-c-toy" / "metric-is20.jsonl").exists()
    with pytest.raises(UserError, match="none of is20 can be computed"):
        run("--metrics=is20", f"--inception={weights / 'pool_3.npz'}")


def test_the_data_sets_folder_may_be_the_working_directory(data, monkeypatch):
    monkeypatch.chdir(data.path)
    for split in ("test", "val"):
        assert open_images(".", split).count == 12


@pytest.mark.parametrize("options, message", [
    (["--metrics=fad1k"], "unknown metric 'fad1k'; known: classesNk, cycleclass"),
    (["--metrics="], "unknown metric ''; known"),
    (["--metrics=fid"], r"; did you mean fid50k\?$"), (["--metrics=Kid1k"], "you mean kid1k"),
    (["--split=all"], "no images in split 'all'; it has: train, val, test"),
    (["--data=nowhere"], "data set nowhere does not exist"),
    (["--fakes=nowhere"], "--fakes=nowhere: no such folder"),
    (["--reals=nowhere"], "--reals=nowhere: no such folder"),
    (["--fakes=."], "which reals. Give --reals=DIR"),
    (["--metrics=ppl_wfull", "--trunc=1"], "--trunc: ppl is measured over the whole latent space"),
    (["--metrics=ppl_wfull", "--fakes=x"], "ppl needs a network"),
    (["--metrics=ppl10_zend", "--lpips=nowhere.npz"], r"nowhere.npz: no such file: .* Make them"),
    (["--metrics=ppl10_zend"], r"no LPIPS weights: no route\. .* give them as --lpips"),
    (["--metrics=is10", "--lpips=x"], "--lpips: without effect: it is for ppl"),
    (["--metrics=is10", "--crop-face"], "--crop-face: without effect: it is for ppl"),
    (["--metrics=is10", "--min-area=0.1"],
     "--min-area: without effect: it is for classesNk and mapsNk"),
    (["--metrics=classes10", "--min-area=1"], "--min-area=1.0: a share of the image"),
    (["--metrics=classes10"], "the reals, toy test, have none"),
    (["--metrics=is9"], "is9: 9 fakes; it takes 10 at least"),
    (["--metrics=is10", "--floor"], "--floor: without effect: none of these"),
    (["--metrics=fid9_full", "--split=val"], "--split: without effect: none of these"),
    (["--metrics=fid9", "--reals=x", "--data=x"], "--data: without effect: --reals names"),
    (["--metrics=fid9", "--fakes=x", "--network=x"], "--network: without effect: the images of"),
    (["--metrics=fid9", "--fakes=x", "--seed=1"], "--seed: without effect: the images of --fakes"),
    (["--metrics=fid9", "--resolution=8"], "--resolution: without effect: it is for --fakes"),
    (["--network=99"], "99: no such snapshot, run directory or run number"),
    (["--minibatch=0"], "--minibatch: '0': expected a whole number, 1 or more"),
    (["--trunc=nan"], "--trunc: 'nan': expected a number"),
    (["--seed=-1"], "--seed: '-1': expected a whole number"),
    (["--inception=nowhere.pb"], r"nowhere\.pb: no such file; get https")])
def test_mistakes_have_clear_errors(run, options, message, monkeypatch):
    def refuse(*args, **expected):
        raise UserError("no route")
    monkeypatch.setattr("dnnlib.tflib.vgg16_weights.fetch_source", refuse)
    with pytest.raises(UserError, match=message):
        run("--metrics=fid20", *options)


@pytest.mark.parametrize("where, options", [
    ("out/syn", ["--metrics=kid4"]), ("/nowhere/syn", ["--metrics=kid4_full"]),
    ("out/syn", ["--nearest=0"])])
def test_data_that_have_moved_must_be_given(run, results, data, tmp_path, where, options):
    """A relative path seen from another folder, and a path from another machine."""
    snapshot = load_snapshot(next(results.glob("00007-c-toy/network-snapshot*")))
    path = tmp_path / "network-final.safetensors"
    save_snapshot(path, snapshot.networks, {**snapshot.header, "dataset": {"path": where}})
    message = f"{where}: no such folder here; it is the path of the training data in the header of "
    with pytest.raises(UserError, match=message + f"{path}: give its present path with --data=DIR"):
        run(f"--network={path}", *options)
    assert run(f"--network={path}", *options, f"--data={data.path}") == 0


def test_without_a_run_the_error_names_train(tmp_path):
    with pytest.raises(UserError, match="no run with a network snapshot"):
        run_metrics.main([f"--results={tmp_path}"])


def test_weights_are_not_fetched_if_options_are_wrong(monkeypatch, tmp_path):
    """Nothing is downloaded before names and data have been checked."""
    monkeypatch.setattr("metrics.networks.inception.load_detector", None)
    with pytest.raises(UserError, match=r"no such folder|does not exist"):
        run_metrics.main(["--fakes=a", f"--reals={tmp_path / 'none'}"])
