"""run_metrics.py and trainings on networks that draw photos from maps, or people in poses."""

import dataclasses
import functools
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

import run_metrics
from dnnlib.data import channels
from dnnlib.data.dataset import open_dataset
from dnnlib.tflib.network import build
from dnnlib.util import UserError
from metrics.evaluation import (
    pose_evaluation,
    training_metrics,
    translation_evaluation,
    translation_metrics,
)
from metrics.image_sources import open_images
from metrics.map_quality import PairBatch
from metrics.networks.lpips import Lpips
from metrics.translated_photos import l1_measure, to_stored_maps, translated_stream
from tests.tools.labelled_pictures import CLASSES, coloured_dataset
from tests.tools.metrics_helpers import graph_bytes, small_arrays
from tests.tools.people import people_dataset, save_reposer
from tests.tools.translations import save_translator
from tests.tools.vgg16 import NARROW, random_arrays
from training.pose.people import PosePairs
from training.pose.reposer import Reposer
from training.segmentation.labeller import Labeller, read_labeller
from training.snapshots import read_header, save_snapshot
from training.translation.translator import Translator

pytestmark = pytest.mark.usefixtures("eagerly")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Make a data set, a translator, a segmenter, and narrow Inception and VGG16 weights."""
    path = tmp_path_factory.mktemp("translated")
    data = coloured_dataset(path / "coloured")
    save_translator(path / "run.safetensors", about={"dataset": {"path": str(data)}, "fit": "pad"})
    network = build("Segmenter", "S", {"resolution": 16, "num_outputs": 3, "unet_fmaps": 2,
                                       "architecture": "unet"})
    save_snapshot(path / "segmenter.safetensors", {"S": network}, {
        "variant": "segmenter", "classes": list(CLASSES), "kimg": 1})
    (path / "small.pb").write_bytes(graph_bytes(small_arrays()))
    np.savez(path / "lpips.npz", **random_arrays(np.random.default_rng(1)))
    return path


@pytest.fixture(autouse=True)
def narrow(tmp_path, monkeypatch):
    """Use a separate cache, and LPIPS with a narrow VGG16."""
    monkeypatch.setenv("STYLE_C_GAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("metrics.networks.lpips.Lpips", functools.partial(Lpips, blocks=NARROW))


def run(root, *options):
    return run_metrics.main([f"--network={root / 'run.safetensors'}", *options])


def newest(root, name):
    """Return the newest line of metric-<name>.jsonl."""
    return json.loads((root / f"metric-{name}.jsonl").read_text().splitlines()[-1])


def drawn(root, split, seed=0):
    """Return (photos, their label maps, the real photos) of a split."""
    source = open_images(root / "coloured", split, 16)
    originals, maps = (np.concatenate(parts) for parts in zip(*source.batches(maps=True)))
    translator = Translator.load(root / "run.safetensors")
    segmaps = np.uint8(255) * (maps[..., None] == np.arange(1, 3))
    photos = translator.translate(segmaps, [seed] * len(maps))
    return np.clip(photos * 127.5 + 128, 0, 255).astype(np.uint8), maps, originals


def test_a_translator_by_hand(root, capsys):
    """One photo for every map of the split, compared with the map's own photo; each metric's line
    has everything that defines it."""
    options = [f"--segmenter={root / 'segmenter.safetensors'}", f"--lpips={root / 'lpips.npz'}",
               f"--inception={root / 'small.pb'}"]
    assert run(root, "--metrics=kid1k,miou,l1,lpips", "--floor", *options) == 0
    told = capsys.readouterr()
    assert "kid1k: there are only 4 fakes; computed and recorded as kid4" in told.err
    assert "the 2 rarest classes" in told.out and "floor miou" in told.out
    photos, maps, originals = drawn(root, "test")
    assert newest(root, "l1")["results"]["l1"] == pytest.approx(
        np.abs(photos - originals.astype(float)).mean() / 255, rel=1e-5)
    distance = Lpips(root / "lpips.npz", NARROW)
    record = newest(root, "lpips")
    assert record["results"]["lpips"] == pytest.approx(np.mean(distance(
        photos.astype(np.float32), originals.astype(np.float32))), rel=1e-4)
    assert record["distance_hash"] == distance.digest and record["num_fakes"] == 4
    assert record["reals"] == record["maps"] and "4 reals of coloured test" in told.out
    record, found = newest(root, "miou"), {}
    labeller = Labeller.load(root / "segmenter.safetensors")
    for side, rgb in (("fake", photos), ("real", originals)):
        labels = labeller.label_maps(rgb)
        found[side] = [((labels == k) & (maps == k)).sum() / ((labels == k) | (maps == k)).sum()
                       for k in range(3)]
        assert [row[f"{side}_iou"] for row in record["classes"]] == pytest.approx(found[side])
    values = record["results"]
    assert (values["miou"], values["miou_real"]) == pytest.approx(
        (np.mean(found["fake"]), np.mean(found["real"])))
    assert values["miou_rare"] == pytest.approx(np.mean(found["fake"][1:]))
    pixels = [(maps == k).sum() for k in (1, 2)]
    assert [row["name"] for row in record["rare"]] == [CLASSES[k] for k in np.argsort(pixels)]
    assert record["segmenter"]["digest"] == labeller.digest and record["variant"] == "pix2pix"
    assert record["maps"]["split"] == "test" and record["seed"] == 0
    assert record["network_digest"] == read_header(root / "run.safetensors")["digest"]
    assert json.loads((root / "miou.json").read_text())["rare"] == record["rare"]
    assert newest(root, "kid4")["num_reals"] == 4 and "floor" in newest(root, "kid4")


def test_photos_made_square_in_another_way_are_named(root, posed, capsys):
    """Than those of the training."""
    for data, network in (("coloured", "run.safetensors"), ("people", "posed/run.safetensors")):
        content = json.loads((root / data / "dataset.json").read_text())
        other = shutil.copytree(root / data, root / f"cropped-{data}")
        (other / "dataset.json").write_text(json.dumps({**content, "options": {"fit": "crop"}}))
        for path in (root / data, other):
            run_metrics.main([f"--network={root / network}", "--metrics=l1", "--split=val",
                              f"--data={path}"])
            assert (f"{other}: made square by --fit=crop, the training's by --fit=pad: unless"
                    in capsys.readouterr().err) == (path == other)


def test_the_split_and_the_dropout(root):
    values = []
    for options in ([], ["--split=val"], ["--seed=2"]):
        assert run(root, "--metrics=l1", *options) == 0
        values.append(newest(root, "l1")["results"]["l1"])
    photos, _, originals = drawn(root, "val")
    assert values[1] == pytest.approx(np.abs(photos - originals.astype(float)).mean() / 255)
    assert len({round(value, 6) for value in values}) == 3


def test_trainings_measure_like_run_metrics(root):
    """On the validation split; the first metric comes first."""
    translator = Translator.load(root / "run.safetensors")
    segmenter = root / "segmenter.safetensors"
    names = "miou,lpips,kid2,l1,kid2_full,kid2_trainval"
    evaluate = translation_evaluation(
        translation_metrics(names, segmenter, None), open_dataset(root / "coloured"), 16,
        labeller=read_labeller(segmenter), weights=root / "small.pb",
        lpips_weights=root / "lpips.npz")
    values = evaluate(SimpleNamespace(translate=lambda segmaps: translator.translate(
        segmaps, [0] * len(segmaps))))
    assert next(iter(values)) == "miou"
    run(root, f"--metrics={names}", "--split=val", f"--segmenter={segmenter}",
        f"--inception={root / 'small.pb'}", f"--lpips={root / 'lpips.npz'}")
    for name in names.split(","):
        for key, value in newest(root, name)["results"].items():
            assert values.pop(key) == pytest.approx(value, rel=1e-3, abs=1e-9)
    assert not values


def test_trainings_leave_out_metrics_without_weights(root):
    """If the first metric were left out, another one would select the best snapshot."""
    (root / "trunk.pb").write_bytes(graph_bytes(small_arrays(logits=False)))
    data, lines = coloured_dataset(root / "more", photos=12), []
    options = dict(weights=root / "trunk.pb", log=lines.append)

    def evaluation(names):
        return translation_evaluation(translation_metrics(names, None, root / "trunk.pb"),
                                      open_dataset(data), 16, **options)

    values = evaluation("l1,is12,kid2")(SimpleNamespace(
        translate=lambda segmaps: np.zeros((*segmaps.shape[:3], 3), np.float32)))
    assert [name for name in values if "_" not in name] == ["l1", "kid2"]
    assert any("is12 needs the detector's last layer" in line for line in lines)
    with pytest.raises(UserError, match="is12 is to select the best snapshot"):
        evaluation("is12,l1")


def test_trainings_refuse_metrics_of_a_cyclegan():
    for parse in (lambda names: translation_metrics(names, None, None), training_metrics):
        with pytest.raises(UserError, match="cyclekid is not computed during training"):
            parse("cyclekid")


def test_maps_are_used_as_they_are_stored(root, rng):
    """A data set's with their soft edges, a folder's as whole pixels."""
    soft = rng.integers(0, 256, (2, 3, 3, 4), np.uint8)
    images = np.concatenate([np.zeros((2, 3, 3, 3), np.uint8), soft], axis=-1)
    np.testing.assert_array_equal(to_stored_maps(channels.to_signed(images)[..., 3:], 4), soft)
    labels = rng.integers(0, 3, (2, 3, 3))
    assert (to_stored_maps(labels, 2).argmax(-1)[labels > 0] == labels[labels > 0] - 1).all()
    source, seen = open_images(root / "coloured", "val", 16), []

    def translate(segmaps):
        seen.append(segmaps)
        return channels.colourise(channels.to_label_map(segmaps, 127), 2) / 127.5 - 1

    photos, maps, originals = (np.concatenate(parts) for parts in zip(
        *translated_stream(source, translate, 3)(4)))
    np.testing.assert_array_equal(photos, channels.colourise(maps, 2))
    (rgb, labels), = source.batches(maps=True)
    np.testing.assert_array_equal(originals, rgb)
    np.testing.assert_array_equal(maps, labels)
    assert [x.shape for x in seen] == [(3, 16, 16, 2), (1, 16, 16, 2)]
    one_by_one = dataclasses.replace(source, batches=lambda **options: (
        (photo[None], label_map[None]) for photo, label_map in zip(rgb, labels)))
    list(translated_stream(one_by_one, translate, 3)(4))
    np.testing.assert_array_equal(np.concatenate(seen[2:]), np.concatenate(seen[:2]))
    assert len(seen) == 4
    assert set(np.unique(seen[0])) == {0, 255}
    assert l1_measure().count(PairBatch(rgb, maps, originals=rgb), 2).tolist() == [[0]] * 4


@pytest.mark.parametrize("options, message", [
    (["--metrics=ppl_wfull"], "ppl needs latents"),
    (["--metrics=miou"], "miou of photos drawn from maps needs a segmenter"),
    (["--metrics=l1,classes4,maps1k"], "classes4, maps1k: for maps that a network draws"),
    (["--metrics=l1", "--trunc=0.5"], "--trunc: without effect: .* has no samples of its own"),
    (["--metrics=l1", "--nearest=0"], "--nearest: without effect"),
    (["--metrics=l1", "--floor"], "--floor: without effect"),
    (["--metrics=l1", "--segmenter=x"], "--segmenter: without effect"),
    (["--metrics=l1", "--split=all"], "no images in split 'all'")])
def test_options_without_use_for_a_translator_are_refused(root, options, message):
    with pytest.raises(UserError, match=message):
        run(root, *options)


def test_options_that_do_not_fit_the_network_are_refused(root):
    other = coloured_dataset(root / "other", seed=3)
    content = json.loads((other / "dataset.json").read_text())
    (other / "dataset.json").write_text(json.dumps({**content, "classes": ["red", "blue"]}))
    segmenter = f"--network={root / 'segmenter.safetensors'}"
    plain = save_translator(root / "plain.safetensors", dropout=0.0)
    for options, message in (
            (["--metrics=l1", f"--data={other}"], "of the classes red, green; .* have red, blue"),
            (["--metrics=lpips", segmenter], "l1 and lpips compare photos drawn from maps"),
            (["--metrics=l1", f"--fakes={root / 'coloured'}"], "--fakes: miou, l1 and lpips"),
            (["--metrics=miou", segmenter, "--segmenter=x"], "--segmenter: miou takes it for"),
            (["--metrics=l1", f"--network={plain}", "--seed=3"], "has no dropout")):
        with pytest.raises(UserError, match=message):
            run_metrics.main([*([] if any("network" in x or "fakes" in x for x in options)
                                else [f"--network={root / 'run.safetensors'}"]), *options])


# People in other poses

@pytest.fixture(scope="module")
def posed(root):
    """Write a network that draws people in poses; its data set has validation but no test pairs."""
    data = people_dataset(root / "people")
    return save_reposer(root / "posed" / "run.safetensors",
                        about={"dataset": {"path": str(data)}, "fit": "pad"})


def of_poses(posed, *options):
    return run_metrics.main([f"--network={posed}", "--split=val", *options])


def test_people_in_other_poses_by_hand(root, posed, capsys):
    """A split's pairs, each compared with its target; FID and KID use all photos of the split."""
    assert of_poses(posed, "--metrics=kid1k,fid3,l1,lpips", f"--lpips={root / 'lpips.npz'}",
                    f"--inception={root / 'small.pb'}", "--floor", "--minibatch=3") == 0
    told = capsys.readouterr()
    assert "kid1k: there are only 4 fakes; computed and recorded as kid4" in told.err
    pairs = PosePairs(open_dataset(root / "people"), "val", 16).read(range(4))
    reposer = Reposer.load(posed, minibatch=3)
    photos = np.clip(127.5 * reposer.draw(pairs.source, pairs.source_points, pairs.target_points)
                     + 128, 0, 255).astype(np.uint8)
    record = newest(posed.parent, "l1")
    assert record["results"]["l1"] == pytest.approx(
        np.abs(photos - pairs.target.astype(float)).mean() / 255, rel=1e-5)
    assert record["results"]["l1"] == pytest.approx(pose_evaluation(range(4), 3)(SimpleNamespace(
        read=lambda numbers: PosePairs(open_dataset(root / "people"), "val", 16).read(numbers),
        translate=lambda some: reposer.draw(some.source, some.source_points, some.target_points))
    )["l1"], rel=1e-5)
    assert (record["num_fakes"], record["num_reals"], record["variant"]) == (4, 4, "pose")
    assert record["reals"] == record["pairs"] and record["pairs"]["split"] == "val"
    assert record["network_digest"] == reposer.digest
    assert newest(posed.parent, "lpips")["results"]["lpips"] == pytest.approx(np.mean(
        Lpips(root / "lpips.npz", NARROW)(photos.astype(np.float32),
                                          pairs.target.astype(np.float32))), rel=1e-4)
    assert newest(posed.parent, "kid4")["num_reals"] == 4
    assert newest(posed.parent, "fid3")["results"]["fid3"] > 0


def test_a_splits_own_folder_is_that_split(posed):
    assert run_metrics.main([f"--network={posed}", "--metrics=l1",
                             f"--data={posed.parents[1] / 'people' / 'val'}"]) == 0
    record = newest(posed.parent, "l1")
    assert record["num_fakes"] == 4 and record["pairs"]["split"] == "val"


@pytest.mark.parametrize("options, message", [
    (["--metrics=ppl_wfull"], "ppl_wfull: .* without maps or latents: ask for l1, lpips"),
    (["--metrics=miou"], "miou: .* draws people in other poses, without maps"),
    (["--metrics=maps4"], "maps4: .* draws people in other poses, without maps"),
    (["--metrics=kid4_pair"], "kid4_pair: .* without maps"),
    (["--metrics=l1", "--seed=2"], "--seed: without effect: .* draws one photo of each pair"),
    (["--metrics=l1", "--trunc=0.5"], "--trunc: without effect"),
    (["--nearest=0"], "--nearest: without effect")])
def test_options_without_use_for_poses_are_refused(posed, options, message):
    with pytest.raises(UserError, match=message):
        of_poses(posed, *options)


def test_pairs_that_do_not_fit_are_refused(root, posed):
    other = people_dataset(root / "named")
    content = json.loads((other / "dataset.json").read_text())
    names = ["hand", *content["keypoints"][1:]]
    (other / "dataset.json").write_text(json.dumps({**content, "keypoints": names}))
    for data, split, message in (
            ("people", [], "no pairs of .* in split 'test'; .* have some: train, val"),
            ("coloured", ["--split=val"], "no pairs of .* in split 'val'; .* have some: none"),
            ("named", ["--split=val"], "takes keypoints nose, .*; .* has hand, neck"),
            ("", [], "is no data set")):
        with pytest.raises(UserError, match=message):
            run_metrics.main([f"--network={posed}", "--metrics=l1", f"--data={root / data}",
                              *split])
