"""generate.py: pictures and pairs, reproducible from seed and options, that can be continued."""

import errno
import functools
import json
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from pycocotools.coco import COCO

import dataset_tool
import generate
from dnnlib.data import channels, pictures
from dnnlib.data.class_list import read_class_list
from dnnlib.data.coco import MODANET_CLASSES, MODANET_FILE
from dnnlib.data.dataset import open_dataset, read_split
from dnnlib.util import UserError, lock_directory
from generation import pairs, sheets
from generation.options import parse_options
from generation.selection import BLOCK
from metrics.options import parse_command
from tests.tools.data_helpers import one_hot
from tests.tools.generators import RESOLUTION, save_network
from training import snapshots
from training.networks_stylegan import G_style
from training.sampler import NOISES, Sampler, label_maps, seed_noise

# pycocotools' own arrays predate NumPy 2's `copy` keyword.
pytestmark = [pytest.mark.usefixtures("eagerly"), pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning")]


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Return {name: snapshot}: a results folder with one run each."""
    root = tmp_path_factory.mktemp("results")
    kinds = {"rgb": (), "binary": ("any",), "classes": MODANET_CLASSES}
    file_name = "network-snapshot-000001.safetensors"
    return {name: save_network(root / f"{number:05d}-{name}" / file_name, classes)
            for number, (name, classes) in enumerate(kinds.items())}


@pytest.fixture(scope="module")
def sampler(networks):
    return Sampler.load(networks["classes"])


@pytest.fixture(scope="module")
def loaded():
    """Return Sampler.load, but load and trace every network only once."""
    return functools.cache(Sampler.load)


@pytest.fixture
def loads_once(monkeypatch, loaded):
    """Keep generate.py's networks loaded from one call to the next."""
    monkeypatch.setattr(Sampler, "load", loaded)


@pytest.fixture(scope="module")
def finished(networks, tmp_path_factory):
    """Return a folder of seven pairs, made in one run."""
    out = tmp_path_factory.mktemp("pairs") / "out"
    assert generate.main([f"--network={networks['classes']}", "--num=7", f"--out={out}"]) == 0
    return out


def contents(folder):
    """Return {relative name: bytes} of all files of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*")) if path.is_file()}


def draw(sampler, seeds, psi=0.7, noise="random", minibatch=8):
    """Return the images of seeds, float32 [N, H, W, 3 + C]."""
    return np.concatenate(list(sampler.seed_images(seeds, psi, noise, minibatch)))


def assert_same_pairs(folder, expected):
    """Assert equal files: colours to one grey level, label maps except ties, equal records."""
    ours, theirs = contents(folder), contents(expected)
    assert ours.keys() == theirs.keys()
    for name in ours:
        if name.endswith(".png"):
            difference = open_png(folder / name).astype(int) - open_png(expected / name)
            if name.startswith("images/"):
                assert np.abs(difference).max() <= 1
            assert np.count_nonzero(difference) <= 0.01 * difference.size
    read = [pairs.read_samples(path / pairs.SAMPLES) for path in (folder, expected)]
    for one, other in zip(*read, strict=True):
        assert {**one, "sha256": 0, "present": 0} == {**other, "sha256": 0, "present": 0}


def open_png(path):
    with Image.open(path) as image:
        return np.asarray(image)


# Samples

def test_latents_are_numpys_random_state_of_the_seed(sampler):
    latents = sampler.seed_latents([7, 0, 2**32 - 1])
    for row, seed in zip(latents, [7, 0, 2**32 - 1]):
        assert (row == np.random.RandomState(seed).randn(1, 8)[0]).all()


@pytest.mark.parametrize("noise", NOISES)
def test_a_sample_is_the_same_in_any_minibatch(sampler, noise):
    """Except for rounding: matrix products of other sizes round differently."""
    apart = draw(sampler, list(range(9)), 0.7, noise, minibatch=1)
    for minibatch in (4, 9):
        together = draw(sampler, list(range(9)), 0.7, noise, minibatch)
        np.testing.assert_allclose(together, apart, atol=1e-4)
    np.testing.assert_allclose(draw(sampler, [8, 2, 5], 0.7, noise), apart[[8, 2, 5]], atol=1e-4)


def test_images_are_made_one_minibatch_at_a_time(sampler):
    sizes = [len(images) for images in sampler.seed_images(list(range(9)), 0.7, "random", 4)]
    assert sizes == [4, 4, 1]


def test_images_have_truncation_and_each_seeds_noise(sampler):
    seeds, layers = [3, 11], {}

    def noise(layer, height, width):
        layers[layer] = np.stack([np.random.RandomState([seed, layer]).standard_normal(
            (height, width, 1)) for seed in seeds]).astype(np.float32)
        return layers[layer]
    expected = sampler.network(sampler.seed_latents(seeds), truncation_psi=0.7, truncation_cutoff=8,
                               noise=noise).numpy()
    assert sorted(layers) == list(range(sampler.num_layers))
    np.testing.assert_allclose(draw(sampler, seeds, 0.7), expected, atol=2e-5)
    assert np.abs(draw(sampler, seeds, 1.0) - expected).max() > 0.01
    assert np.abs(draw(sampler, seeds, 0.7, "const") - expected).max() > 0.01


def test_noise_is_normal_and_differs_by_seed_and_layer():
    noise = seed_noise([0, 1])
    finest = noise(7, 32, 32).numpy()
    assert abs(finest.mean()) < 0.05 and abs(finest.std() - 1) < 0.05
    assert np.abs(np.corrcoef([*finest.reshape(2, -1), noise(6, 32, 32)[0].numpy().ravel()])
                  - np.eye(3)).max() < 0.1


def test_images_are_at_the_snapshots_growth_state(tmp_path):
    path = save_network(tmp_path / "a.safetensors", ("bag",), resolution=8, fade=0.25)
    half = Sampler.load(path)
    images = draw(half, [5], 1.0, "const")
    expected = half.network(half.seed_latents([5]), resolution=8, fade=0.25).numpy()
    assert images.shape == (1, 8, 8, 4)
    np.testing.assert_allclose(images, expected, atol=2e-5)


# Sheets

def test_interpolation_is_even_from_first_to_second_latent():
    z1, z2 = np.array([[0.0, 4.0]]), np.array([[2.0, 0.0]])
    line = sheets.interpolate(z1, z2, 5)
    assert line.tolist() == [[0, 4], [0.5, 3], [1, 2], [1.5, 1], [2, 0]]
    assert sheets.interpolate(z1, z2, 2).tolist() == [[0, 4], [2, 0]]


def test_style_mix_uses_the_columns_style_in_the_given_layers():
    rows, columns = np.zeros((2, 4, 3)), np.ones((3, 4, 3))
    rows[1], columns[2] = 5, 7
    mixed = sheets.mix_styles(rows, columns, [0, 3]).reshape(2, 3, 4, 3)
    assert (mixed[1, 2, [0, 3]] == 7).all() and (mixed[1, 2, [1, 2]] == 5).all()
    assert (mixed[0, 0, [0, 3]] == 1).all() and (mixed[0, 0, [1, 2]] == 0).all()


def test_seed_grid_shows_image_map_and_overlay(sampler):
    images = draw(sampler, [4, 6])
    sheet = sheets.seed_grid(sampler, [4, 6], 0.7, "random", minibatch=8)
    rgb, labels = pictures.to_uint8(images[1][..., :3]), label_maps(images[1])
    assert sheet.cells.shape == (2, RESOLUTION, 3 * RESOLUTION, 3) and sheet.columns == 1
    assert sheet.captions == ["seed 4", "seed 6"]
    image, colours, tinted = np.split(sheet.cells[1], 3, axis=1)
    assert (image == rgb).all() and (colours == channels.colourise(labels, 13)).all()
    assert (tinted == pictures.overlay(rgb, labels, 13)).all() and labels.any()


@pytest.mark.parametrize("factor", [4, 8])
def test_every_cell_has_its_caption_below(sampler, factor):
    sheet = sheets.seed_grid(sampler, [0, 1, 2, 3, 4, 4294967295], 0.7, "random", 8)
    picture, width = sheet.draw(factor), 3 * factor * RESOLUTION
    lines = picture.reshape(3, -1, 2, width, 3).swapaxes(1, 2).reshape(6, -1, width, 3)
    for cell, seed, found in zip(sheet.cells, [0, 1, 2, 3, 4, 4294967295], lines, strict=True):
        assert (found[:factor * RESOLUTION] == pictures.enlarge(cell, factor)).all()
        strip = found[factor * RESOLUTION:]
        assert (strip == pictures.caption(f"seed {seed}", width)).all() and strip.min() < 100


def test_interpolation_sheet_has_images_above_maps_and_the_seeds_at_its_ends(sampler):
    sheet = sheets.interpolation(sampler, 1, 2, 4, 0.7, "const", 8)
    assert sheet.cells.shape == (4, 2 * RESOLUTION, RESOLUTION, 3) and sheet.columns == 4
    assert sheet.captions == ["seed 1", "0.33", "0.67", "seed 2"]
    ends = draw(sampler, [1, 2], 0.7, "const")
    first = pictures.to_uint8(ends[0][..., :3]).astype(int)
    assert np.abs(sheet.cells[0][:RESOLUTION] - first).max() <= 1
    last_map = channels.colourise(label_maps(ends[1]), 13)
    assert (sheet.cells[-1][RESOLUTION:] != last_map).mean() < 0.01


def test_only_the_latent_changes_along_an_interpolation(sampler):
    cells = sheets.interpolation(sampler, 5, 5, 3, 0.7, "random", 3).cells
    assert (cells == cells[0]).all()


def test_style_mix_sheet_with_every_layer_from_the_column_repeats_the_column(sampler):
    layers = list(range(sampler.num_layers))
    sheet = sheets.style_mix(sampler, [0, 1], [2, 3, 4], layers, 0.7, "const", 11)
    lines = sheet.cells.reshape(3, 4, RESOLUTION, 2 * RESOLUTION, 3)
    assert not lines[0][0].any() and sheet.columns == 4
    assert (lines[1][1:] == lines[0][1:]).all() and (lines[2][1:] == lines[0][1:]).all()
    assert sheet.captions == [
        "", "column: seed 2", "column: seed 3", "column: seed 4",
        "row: seed 0", "0 + layers of 2", "0 + layers of 3", "0 + layers of 4",
        "row: seed 1", "1 + layers of 2", "1 + layers of 3", "1 + layers of 4"]
    mixed = sheets.style_mix(sampler, [0, 1], [2, 3, 4], [0], 0.7, "const", 11)
    mixed = mixed.cells.reshape(lines.shape)
    assert (mixed[:, 0] == lines[:, 0]).all() and (mixed[0] == lines[0]).all()
    assert (mixed[1][1:] != lines[1][1:]).any()


def test_sheets_do_not_keep_maps_of_earlier_minibatches(sampler):
    """As floats, all of them may take gigabytes."""
    arrays = []

    def drawn(*args):
        for images in sampler.seed_images(*args):
            assert not any(array() is not None for array in arrays)
            yield SimpleNamespace(numpy=lambda images=images: kept(images.numpy().copy()))

    def kept(array):
        arrays.append(weakref.ref(array))
        return array
    watched = SimpleNamespace(classes=sampler.classes, seed_images=drawn)
    sheet = sheets.seed_grid(watched, range(9), 0.7, "const", 2)
    whole = sheets.seed_grid(sampler, range(9), 0.7, "const", 9)
    assert len(arrays) == 5 and sheet.columns == whole.columns
    assert np.abs(sheet.cells[:, :, :RESOLUTION].astype(int)
                  - whole.cells[:, :, :RESOLUTION]).max() <= 1


def test_a_style_mix_is_the_same_in_any_minibatch(sampler):
    """Each sample keeps the noise of its row's seed."""
    sheets_ = [sheets.style_mix(sampler, [0, 1], [2, 3, 4], [0], 0.7, "random", minibatch)
               for minibatch in (2, 11)]
    one, other = (sheet.cells[:, :, :RESOLUTION].astype(int) for sheet in sheets_)
    assert np.abs(one - other).max() <= 1


@pytest.mark.parametrize("kind, panels", [("rgb", 1), ("binary", 3), ("classes", 3)])
def test_all_pictures_are_written_for_all_kinds_of_network(networks, tmp_path, kind, panels):
    common = [f"--network={networks[kind]}", f"--out={tmp_path}"]
    assert generate.main([*common, "--seeds=0-3,9"]) == 0
    assert generate.main([*common, "--interpolate=4,9", "--steps=3", "--trunc=1"]) == 0
    assert generate.main([*common, "--style-mix", "--row-seeds=0,1", "--col-seeds=5-7"]) == 0
    sizes = {path.name: open_png(path).shape for path in tmp_path.iterdir()}
    side, columns = generate.MIN_SIDE, 3 if panels == 1 else 2
    assert sizes["seeds-0-3,9-trunc0.7.png"][1] == columns * panels * side
    assert sizes["interpolate-4-9-steps3-trunc1.png"][1] == 3 * side
    mixed = sizes["style-mix-rows0-1-cols5-7-layers0-3-trunc0.7.png"]
    assert mixed[1] == 4 * side * (1 if panels == 1 else 2)
    assert len(sizes) == 3


@pytest.mark.parametrize("argv", [
    ["--interpolate=0,1", "--steps=2"], ["--interpolate=0,1", "--steps=3"],
    ["--style-mix", "--row-seeds=0", "--col-seeds=1", "--col-styles=0"],
    ["--style-mix", "--row-seeds=1", "--col-seeds=0", "--col-styles=0"],
    ["--style-mix", "--row-seeds=0", "--col-seeds=1", "--col-styles=0-2"]])
def test_every_option_of_a_picture_is_in_its_name(networks, loads_once, tmp_path_factory, argv):
    """All are written to one folder, and none replaces another."""
    out = tmp_path_factory.getbasetemp() / "all-in-one"
    before = len(list(out.glob("*")))
    assert generate.main([f"--network={networks['rgb']}", f"--out={out}", *argv]) == 0
    assert len(list(out.iterdir())) == before + 1


@pytest.mark.parametrize("kind", ["rgb", "binary", "classes"])
def test_files_of_single_seeds_have_the_official_names(networks, loads_once, tmp_path, kind,
                                                       capsys):
    common = [f"--network={networks[kind]}", "--seeds=0,7,12345,7", "--separate"]
    assert generate.main([*common, f"--out={tmp_path}"]) == 0
    sampler = Sampler.load(networks[kind], None)
    names = [f"seed{seed}" for seed in ("0000", "0007", "12345")]
    folders = ["", "labels/"] if sampler.classes else [""]
    lists = {"classes.txt"} if sampler.classes else set()
    assert contents(tmp_path).keys() == lists | {
        f"{folder}{n}.png" for folder in folders for n in names}
    if sampler.classes:
        assert read_class_list(tmp_path / "classes.txt").names == tuple(sampler.classes)
    for name, image in zip(names, draw(sampler, [0, 7, 12345])):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.mode == "RGB"
            assert (np.asarray(picture) == pictures.to_uint8_metrics(image[..., :3])).all()
        if sampler.classes:
            labels = open_png(tmp_path / "labels" / f"{name}.png")
            assert (labels == label_maps(image)).all()
    assert f"wrote 3 pictures seed*.png in {tmp_path}" in capsys.readouterr().out


def test_separate_files_of_other_options_have_other_folders(networks, loads_once, tmp_path,
                                                            monkeypatch):
    monkeypatch.chdir(tmp_path)
    for options in ([], ["--trunc=1"], ["--noise=const"]):
        generate.main([f"--network={networks['rgb']}", "--seeds=3", "--separate", *options])
    assert sorted(path.name for path in tmp_path.glob("generated/*/*")) == [
        "separate-trunc0.7", "separate-trunc0.7-const", "separate-trunc1"]


@pytest.mark.parametrize("kind", ["rgb", "classes"])
@pytest.mark.parametrize("masks", ["labels", "masks"])
@pytest.mark.parametrize("name, message", [
    ("labelling.json", "has a labelling.json"), ("samples.jsonl", "has a samples.jsonl"),
    ("classes.txt", "has labels of the classes one, two; the new ones are of ")])
def test_separate_files_do_not_replace_other_files(networks, loads_once, tmp_path, script, kind,
                                                   masks, name, message):
    """Above all not labels drawn by a person, nor the list of classes of masks elsewhere."""
    (tmp_path / masks).mkdir()
    (tmp_path / masks / "seed0003.png").write_bytes(b"drawn by hand")
    (tmp_path / name).write_text("one\ntwo\n")
    before = contents(tmp_path)
    status, error = script(f"--network={networks[kind]}", "--seeds=3", "--separate",
                           f"--out={tmp_path}")
    assert status == 2 and message in error and "choose another folder" in error
    assert contents(tmp_path) == before


def test_pictures_of_other_samples_do_not_replace_each_other(networks, tmp_path, capsys):
    for options in (["--seeds=0,2"], ["--seeds=0-2"], ["--seeds=0-2", "--noise=const"]):
        generate.main([f"--network={networks['classes']}", f"--out={tmp_path}", *options])
    found = {path.name: open_png(path).shape for path in tmp_path.iterdir()}
    assert found.keys() == {"seeds-0,2-trunc0.7.png", "seeds-0-2-trunc0.7.png",
                            "seeds-0-2-trunc0.7-const.png"}
    height, width = found["seeds-0,2-trunc0.7.png"][:2]
    assert f"seeds-0,2-trunc0.7.png ({width}x{height})" in capsys.readouterr().out


def test_the_newest_run_and_the_generated_folder_are_defaults(networks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = networks["rgb"].parents[1]
    assert generate.main([f"--results={results}", "--seeds=0"]) == 0
    folder = tmp_path / "generated" / "00002-classes-network-snapshot-000001"
    assert [path.name for path in folder.iterdir()] == ["seeds-0-trunc0.7.png"]


# Films

def test_a_film_is_named_after_its_options(networks, loads_once, tmp_path, capsys):
    common = [f"--network={networks['classes']}", "--video=webp", "--seeds=0-3", "--steps=2",
              f"--out={tmp_path}"]
    assert generate.main([*common, "--grid=2x1", "--fps=10"]) == 0
    assert "512x566, 4 frames, 0.4 s)" in capsys.readouterr().out
    assert generate.main([*common, "--trunc=1", "--space=z"]) == 0
    frames = {}
    for path in tmp_path.iterdir():
        with Image.open(path) as film:
            frames[path.name] = film.n_frames
    assert frames == {"video-0-3-w-steps2-fps10-grid2x1-trunc0.7.webp": 4,
                      "video-0-3-z-steps2-fps30-trunc1.webp": 8}


def test_a_conditional_networks_film_has_its_label(tmp_path):
    path, frames = save_network(tmp_path / "x.safetensors", ("bag",), label_size=2), []
    for label in (0, 1):
        assert generate.main([f"--network={path}", "--video=webp", "--seeds=0,1", "--steps=1",
                              f"--label={label}", f"--out={tmp_path}"]) == 0
        frames.append(open_png(tmp_path / f"video-0-1-w-steps1-fps30-label{label}-trunc0.7.webp"))
    assert (frames[0] != frames[1]).any()


@pytest.mark.parametrize("argv, message", [
    (["--video"], "pip install -r requirements-video.txt"),
    (["--video=gif", "--seeds=0-199", "--grid=100x1"], "16383 are the most")])
def test_a_film_that_cannot_be_written_is_refused_at_once(networks, script, monkeypatch, argv,
                                                          message):
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr(Sampler, "dlatent_images", None)
    status, error = script(f"--network={networks['rgb']}", *argv)
    assert status == 2 and message in error and error.count("\n") == 1


# Pairs

def test_pairs_have_the_networks_images_and_label_maps(finished, networks):
    # Loaded again: a network that was compiled for minibatches of other sizes rounds differently.
    images = draw(Sampler.load(networks["classes"]), list(range(7)), 1.0, minibatch=7)
    for seed, image in enumerate(images):
        rgb = open_png(finished / f"images/{seed:07d}.png")
        assert (rgb == pictures.to_uint8_metrics(image[..., :3])).all()
        with Image.open(finished / f"labels/{seed:07d}.png") as label_png:
            assert label_png.mode == "P"
            labels = np.asarray(label_png)
        winner = image[..., 3:].argmax(-1) + 1
        assert (labels == np.where(image[..., 3:].max(-1) > 0, winner, 0)).all()
        assert 0 < (labels > 0).mean() < 1
        tinted = open_png(finished / f"overlays/{seed:07d}.png")
        assert (tinted == pictures.overlay(rgb, labels, 13)).all()


def test_coco_tools_read_the_label_maps_from_annotations(finished):
    coco = COCO(str(finished / MODANET_FILE))
    assert sorted(coco.imgs) == list(range(7))
    assert {c["id"]: c["name"] for c in coco.dataset["categories"]} == dict(
        enumerate(MODANET_CLASSES, 1))
    for seed, entry in coco.imgs.items():
        labels = np.zeros((entry["height"], entry["width"]), np.uint8)
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[seed])):
            labels[coco.annToMask(annotation) == 1] = annotation["category_id"]
        assert (labels == open_png(finished / "labels" / entry["file_name"])).all()


def test_dataset_tool_reads_the_pairs_back_to_the_pixel(finished, tmp_path):
    dataset_tool.main(["create_modanet", f"--source={finished}", f"--out={tmp_path / 'set'}",
                       f"--resolution={RESOLUTION}", "--num-val=0", "--num-test=0", "--workers=1"])
    info = open_dataset(tmp_path / "set")
    images = np.concatenate(list(read_split(info.path, "train", RESOLUTION, minibatch=4)))
    assert info.classes == MODANET_CLASSES and len(images) == 7
    wanted = {open_png(finished / f"images/{seed:07d}.png").tobytes():
              open_png(finished / f"labels/{seed:07d}.png") for seed in range(7)}
    for image in images:
        labels = wanted.pop(np.ascontiguousarray(image[..., :3]).tobytes())
        assert (image[..., 3:] == one_hot(labels, 13)).all()


def test_a_record_says_how_its_sample_was_made(finished, sampler):
    records = [json.loads(line) for line in (finished / pairs.SAMPLES).read_text().splitlines()]
    assert [record["seed"] for record in records] == list(range(7))
    first = records[0]
    assert first["digest"] == sampler.digest and first["network"] == str(sampler.path)
    assert (first["trunc"], first["trunc_cutoff"], first["noise"]) == (1.0, 8, "random")
    labels = open_png(finished / first["label"])
    assert first["present"] == [MODANET_CLASSES[label - 1] for label in np.unique(labels) if label]


def test_empty_maps_and_classes_never_drawn_are_reported_at_the_end():
    records = [{"present": []}, {"present": ["b"]}, {"present": []}]
    lines = pairs.describe_gaps(records, ["a", "b", "c"])
    assert lines == [
        "warning: 2 of 3 pairs show no class: their maps are background only",
        "shown by none of 3 pairs: a, c"]
    assert not pairs.describe_gaps([{"present": ["a", "b"]}], ["a", "b"])
    assert pairs.describe_gaps([{"present": []}, {"seed": 3}], ["a", "b"]) == [
        "warning: 1 of 1 pairs show no class: their maps are background only"]


def test_a_longer_run_keeps_existing_pairs(networks, finished, tmp_path, capsys):
    out = tmp_path / "out"
    common = [f"--network={networks['classes']}", f"--out={out}"]
    generate.main([*common, "--num=3", "--minibatch=2"])
    before = (out / "images/0000001.png").stat().st_mtime_ns
    generate.main([*common, "--num=7", "--minibatch=3"])
    assert "4 made, 3 were there already" in capsys.readouterr().out
    assert (out / "images/0000001.png").stat().st_mtime_ns == before
    assert_same_pairs(out, finished)


@pytest.mark.parametrize("damage", ["torn line", "lost label", "unfinished", "no annotations"])
def test_an_interrupted_run_ends_with_the_same_files(networks, finished, tmp_path, damage):
    out = tmp_path / "out"
    common = [f"--network={networks['classes']}", f"--out={out}", "--num=7"]
    generate.main(common)
    lines = (out / pairs.SAMPLES).read_bytes().splitlines(keepends=True)
    if damage == "torn line":
        (out / pairs.SAMPLES).write_bytes(b"".join(lines[:5]) + lines[5][:40])
    elif damage == "lost label":
        (out / "labels/0000006.png").unlink()
        (out / pairs.SAMPLES).write_bytes(b"".join(lines[:6]))
    elif damage == "unfinished":
        (out / pairs.SAMPLES).write_bytes(b"".join(lines[:4]))
        (out / "images/0000004.png").write_bytes(b"old")
        (out / "labels/.0000004.png.123.tmp").write_bytes(b"half")
    else:
        (out / MODANET_FILE).unlink()
    generate.main(common)
    assert_same_pairs(out, finished)


def test_a_sample_whose_file_was_lost_is_made_again(networks, finished, tmp_path):
    out = tmp_path / "out"
    common = [f"--network={networks['classes']}", f"--out={out}", "--num=3"]
    generate.main(common)
    (out / "labels/0000001.png").unlink()
    generate.main(common)
    again, before = (open_png(path / "labels/0000001.png") for path in (out, finished))
    assert (again != before).mean() < 0.01
    assert [record["seed"] for record in pairs.read_samples(out / pairs.SAMPLES)] == [0, 2, 1]


def test_an_interrupted_folder_has_its_classes(networks, loads_once, tmp_path, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt
    monkeypatch.setattr(pairs, "write_pair", stop)
    with pytest.raises(KeyboardInterrupt):
        generate.main([f"--network={networks['classes']}", f"--out={tmp_path}", "--num=3"])
    assert (tmp_path / "classes.txt").read_text().splitlines() == list(MODANET_CLASSES)


@pytest.mark.parametrize("option, message", [
    ("--trunc=0.7", "trunc 1.0 there, 0.7 now"),
    ("--noise=const", "noise random there, const now"),
    ("--network=binary", "digest ")])
def test_contradictory_options_are_refused_and_named(networks, finished, script, option, message):
    before = contents(finished)
    network = networks[option.partition("=")[2] if "network" in option else "classes"]
    more = [] if "network" in option else [option]
    status, error = script(f"--network={network}", "--num=9", f"--out={finished}", *more)
    assert status == 2 and message in error and "choose another folder" in error
    assert contents(finished) == before


def test_replay_makes_the_same_pair(finished, loads_once, tmp_path, capsys):
    """One at a time, although they were made in a minibatch of seven."""
    for index in (0, 5):
        command = [f"--replay={finished / pairs.SAMPLES}", f"--index={index}"]
        assert generate.main([*command, f"--out={tmp_path / str(index)}"]) == 0
        assert "made again, " in capsys.readouterr().out
        expected = {name for name in contents(finished) if name.endswith(f"000000{index}.png")}
        assert contents(tmp_path / str(index)).keys() == expected and len(expected) == 3


def changed_copy(finished, out, levels=0, label=None, **entries):
    """Write the sample with seed 2 to a separate folder, as if recorded differently: colours
    brighter by `levels`, one pixel with another label; return its samples.jsonl."""
    record = {**pairs.read_samples(finished / pairs.SAMPLES)[2], **entries}
    rgb, labels = (open_png(finished / record[kind]).copy() for kind in ("image", "label"))
    rgb[0, 0] = np.where(rgb[0, 0] < 128, rgb[0, 0] + levels, rgb[0, 0] - levels)
    if label is not None:
        labels[3, 3] = label
    pictures.save_png(out / record["image"], rgb)
    pictures.save_label_png(out / record["label"], labels, 13)
    record["sha256"] = pairs.pair_digest(rgb, labels)
    (out / pairs.SAMPLES).write_text(json.dumps(record) + "\n")
    return out / pairs.SAMPLES


def test_replay_compares_within_one_grey_level(finished, sampler, loads_once, tmp_path, capsys):
    """Label maps may also differ where maps are equal, as on other machines."""
    maps = draw(sampler, [2], 1.0)[0, 3, 3, 3:]
    far = int(np.insert(maps, 0, 0).argmin())
    for number, (changes, status, message) in enumerate([
            (dict(levels=1), 0, "within one grey level"),
            (dict(levels=3), 1, "differ from the record by up to 3 grey levels, and the labels "
                                "of 0 by"),
            (dict(label=far), 1, "the labels of 1 by more than a tie"),
            (dict(trunc=0.5), 1, "pixels differ")]):
        out = tmp_path / str(number)
        path = changed_copy(finished, out, **changes)
        assert generate.main([f"--replay={path}", f"--out={out / 'again'}"]) == status
        assert message in capsys.readouterr().out


def test_labels_of_equal_maps_count_as_the_same(finished, sampler, tmp_path):
    """If the recorded label's map is within one grey level of the largest one."""
    maps = np.insert(draw(sampler, [2], 1.0)[0, 3, 3, 3:], 0, 0)
    second, first = np.argsort(maps)[-2:]
    path = changed_copy(finished, tmp_path, label=int(second))
    record, = pairs.read_samples(path)

    class Tied:
        """The sampler, with two maps nearly equal at this pixel."""
        classes, path, content_box = sampler.classes, sampler.path, sampler.content_box

        def __init__(self, gap):
            self.gap = gap

        def seed_images(self, *args):
            for images in sampler.seed_images(*args):
                values = images.numpy()
                place = max(first, second) + 2  # the map of one of them; labels start at 1
                other = maps[min(first, second)] if min(first, second) else 0
                values[0, 3, 3, place] = other + (self.gap if max(first, second) == first
                                                  else -self.gap)
                yield tf.constant(values)
    assert pairs.replay(Tied(0.9 / 255), record, tmp_path, tmp_path / "a") == (
        True, "as recorded within one grey level")
    assert pairs.replay(Tied(1.1 / 255), record, tmp_path, tmp_path / "b")[0] is False


def test_replay_draws_a_data_sets_samples_in_its_minibatch_size(finished, sampler, tmp_path):
    """Other minibatches round differently, and there are no pictures to compare with."""
    def seed_images(seeds, psi, noise, minibatch):
        for images in sampler.seed_images(seeds, psi, noise, minibatch):
            yield images if minibatch == BLOCK else images + 0.02
    rounding = SimpleNamespace(classes=sampler.classes, path=sampler.path,
                               content_box=sampler.content_box, seed_images=seed_images)
    images, = sampler.seed_images(range(2, 2 + BLOCK), 1.0, "random", BLOCK)
    (rgb,), (labels,) = pairs.to_pairs(images.numpy()[:1])
    record = {name: value for name, value in pairs.read_samples(finished / pairs.SAMPLES)[2].items()
              if name not in pairs.FOLDERS}
    record["sha256"] = pairs.pair_digest(rgb, labels)
    assert pairs.replay(rounding, record, finished, tmp_path) == (True, "every pixel as recorded")


def test_replay_without_files_needs_equal_pixels(finished, loads_once, tmp_path, capsys):
    """Only equal pixels can be recognised by their digest."""
    path = changed_copy(finished, tmp_path, levels=1)
    record, = pairs.read_samples(path)
    (tmp_path / record["label"]).write_bytes((finished / record["label"]).read_bytes()[:50])
    assert generate.main([f"--replay={path}", f"--out={tmp_path / 'again'}"]) == 1
    assert "cannot be compared" in capsys.readouterr().out
    pictures.save_png(tmp_path / record["image"], np.zeros((16, 16, 3), np.uint8))
    pictures.save_label_png(tmp_path / record["label"], np.zeros((16, 16), np.uint8), 13)
    assert generate.main([f"--replay={path}", f"--out={tmp_path / 'again'}"]) == 1
    assert "are not the recorded ones any more" in capsys.readouterr().out


def test_replay_does_not_replace_pairs(finished, loads_once, tmp_path, script, capsys):
    """Neither those of a folder of pairs, nor the recorded files before the comparison."""
    before = contents(finished)
    status, error = script(f"--replay={finished / pairs.SAMPLES}", f"--out={finished}")
    assert status == 2 and "holds pairs, which would be replaced" in error
    assert contents(finished) == before
    path = changed_copy(finished, tmp_path, levels=3).rename(tmp_path / "other.jsonl")
    assert generate.main([f"--replay={path}", f"--out={tmp_path}"]) == 1
    assert "differ from the record by up to 3 grey levels" in capsys.readouterr().out


def test_two_processes_do_not_write_into_one_folder(networks, tmp_path, script):
    with lock_directory(tmp_path, "x"):
        status, error = script(f"--network={networks['rgb']}", "--num=1", f"--out={tmp_path}")
    assert status == 2 and "another process is writing pairs into it" in error
    assert not list(tmp_path.iterdir())


def test_replay_refuses_another_network(networks, finished, script):
    status, error = script(f"--replay={finished / pairs.SAMPLES}", f"--network={networks['rgb']}")
    assert status == 2 and "name the right one with --network" in error


def test_networks_without_maps_write_only_images_and_say_so(networks, tmp_path, capsys):
    generate.main([f"--network={networks['rgb']}", "--num=2", f"--out={tmp_path / 'out'}"])
    assert "no maps (RGB only)" in capsys.readouterr().out
    assert sorted(contents(tmp_path / "out")) == ["images/0000000.png", "images/0000001.png",
                                                  "samples.jsonl"]


# Selected pairs, pairs without padding, pairs in shards

def test_pairs_of_required_classes(networks, loads_once, tmp_path, capsys):
    command = [f"--network={networks['classes']}", f"--out={tmp_path / 'out'}", "--num=4",
               "--require=Footwear", "--min-area=5%"]
    assert generate.main(command) == 0
    printed = capsys.readouterr().out
    records = pairs.read_samples(tmp_path / "out" / pairs.SAMPLES)
    areas = [(open_png(tmp_path / "out" / record["label"]) == 4).mean() for record in records]
    assert len(areas) == 4 and min(areas) >= 0.05
    tried = records[-1]["seed"] + 1
    assert f"tried {tried} seeds, accepted 4 ({100 * 4 / tried:.3g} %)" in printed
    assert "shown on 5 % or more by accepted pairs (by all tried): footwear 100 %" in printed
    # With --min-confidence=0 all seeds are accepted, one after the other.
    generate.main([f"--network={networks['classes']}", f"--out={tmp_path / 'all'}", "--num=3",
                   "--min-confidence=0"])
    assert [r["seed"] for r in pairs.read_samples(tmp_path / "all" / pairs.SAMPLES)] == [0, 1, 2]


@pytest.mark.parametrize("kind, reason", [
    ("classes", "--require: 'hat' is none of the classes bag, "),
    ("rgb", "the network draws no maps (RGB only), by which pairs could be chosen")])
def test_a_class_that_is_not_drawn_is_refused_before_the_network_is_loaded(networks, monkeypatch,
                                                                           tmp_path, script, kind,
                                                                           reason):
    monkeypatch.setattr(Sampler, "load", None)
    status, error = script(f"--network={networks[kind]}", f"--out={tmp_path / 'out'}", "--num=3",
                           "--require=hat")
    assert status == 2 and reason in error and not (tmp_path / "out").exists()


def test_a_class_that_is_hardly_ever_drawn_ends_with_status_2(networks, tmp_path, script):
    status, error = script(f"--network={networks['classes']}", f"--out={tmp_path / 'out'}",
                           "--num=3", "--require=footwear", "--min-area=0.99", "--max-tries=20")
    assert status == 2 and error.count("\n") == 1
    assert "20 seeds in a row were rejected" in error and "--max-tries" in error


def test_a_selected_pair_is_reproduced(networks, tmp_path, capsys):
    out = tmp_path / "out"
    generate.main([f"--network={networks['classes']}", f"--out={out}", "--num=2",
                   "--balance=bag:5%", "--min-confidence=0.1"])
    assert generate.main([f"--replay={out / pairs.SAMPLES}", "--index=1",
                          f"--out={tmp_path / 'again'}"]) == 0


@pytest.fixture(scope="module")
def padded(tmp_path_factory):
    """Return {name: snapshot} for photos of one aspect ratio, padded at twice the resolution."""
    folder, classes = tmp_path_factory.mktemp("padded"), ("hat", "scarf")
    boxes = {"portrait": [7, 0, 24, 32], "full": [0, 0, 32, 32], "mixed": None}
    return {name: save_network(folder / f"{name}.safetensors", classes, dataset={
        "resolution": 32, "content_box": box}) for name, box in boxes.items()}


def test_pairs_are_written_without_the_padding(padded, tmp_path, capsys):
    """Pixels that are half padding at the lower resolution are left out too; all tools can read the
    result."""
    out, kept = tmp_path / "out", tmp_path / "kept"
    generate.main([f"--network={padded['portrait']}", "--num=3", f"--out={out}"])
    assert "pairs are 8x16: without the padding" in capsys.readouterr().out
    generate.main([f"--network={padded['portrait']}", "--num=3", f"--out={kept}",
                   "--keep-padding"])
    for name in ("images", "labels", "overlays"):
        for path in sorted((out / name).iterdir()):
            assert (open_png(path) == open_png(kept / name / path.name)[:, 4:12]).all()
    generate.main([f"--network={padded['portrait']}", "--num=3", "--shards=1",
                   f"--out={tmp_path / 'shards'}"])
    assert "pairs are 8x16: without the padding" in capsys.readouterr().out
    assert (out / "classes.txt").read_text() == "hat\nscarf\n"
    coco = COCO(str(out / "annotations" / "instances.json"))
    for seed, entry in coco.imgs.items():
        labels = np.zeros((16, 8), np.uint8)
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[seed])):
            labels[coco.annToMask(annotation) == 1] = annotation["category_id"]
        assert (labels == open_png(out / "labels" / entry["file_name"])).all()
    assert generate.main([f"--replay={out / pairs.SAMPLES}", f"--out={tmp_path / 'again'}"]) == 0
    assert open_png(tmp_path / "again/images/0000000.png").shape == (16, 8, 3)
    options = [f"--resolution={RESOLUTION}", "--num-val=0", "--num-test=0", "--workers=1"]
    for number, command in enumerate((["create_from_masks"], ["create_from_coco"])):
        folder = tmp_path / str(number)
        dataset_tool.main([*command, f"--source={out}", f"--out={folder}", *options])
        image = next(iter(read_split(folder, "train", RESOLUTION)))[0]
        assert (image[:, :4, :3] == 255).all() and (image[:, 12:, :3] == 255).all()


@pytest.mark.parametrize("name, line", [
    ("full", "pairs are 16x16, as the network draws them"),
    ("mixed", "have the padding of the photos, whose aspect ratios differed"),
    ("old", "the snapshot does not say where the photos are")])
def test_unknown_padding_is_kept(padded, networks, tmp_path, capsys, name, line):
    path = padded.get(name, networks["binary"])
    generate.main([f"--network={path}", "--num=1", f"--out={tmp_path}"])
    assert line in capsys.readouterr().out
    assert open_png(tmp_path / "images/0000000.png").shape == (16, 16, 3)


def test_pairs_as_a_data_set(networks, loads_once, tmp_path, capsys):
    """It passes --verify, and has one shard for every thousand pairs."""
    out = tmp_path / "set"
    command = [f"--network={networks['classes']}", "--num=9", "--format=tfrecords", f"--out={out}"]
    assert generate.main(command) == 0
    assert f"Next: python train.py --variant=2d --data={out}" in capsys.readouterr().out
    assert dataset_tool.main(["info", str(out), "--verify"]) == 0
    assert open_dataset(out).splits == {"train": 9, "val": 0, "test": 0}
    before = contents(out)
    assert generate.main(command) == 0 and contents(out) == before
    shard, = (out / "train").iterdir()
    for index in range(9):  # to the bit, as there are no pictures to compare with
        capsys.readouterr()
        assert generate.main([f"--replay={shard / pairs.SAMPLES}", f"--index={index}",
                              f"--out={tmp_path / 'again'}"]) == 0
        assert "every pixel as recorded" in capsys.readouterr().out


def test_beam_that_is_not_installed_is_named(networks, tmp_path, script, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    monkeypatch.delitem(sys.modules, "dnnlib.beam_runner", raising=False)
    status, error = script(f"--network={networks['classes']}", "--num=2", "--shards=2",
                           "--runner=DirectRunner", f"--out={tmp_path / 'out'}")
    assert status == 2 and "pip install -r requirements-beam.txt" in error


# Bad input

@pytest.mark.parametrize("argv, message", [
    (["--seeds=-3"], "--seeds"), (["--seeds=3-1"], "runs backwards"), (["--seeds=a"], "--seeds"),
    (["--seeds="], "--seeds"),
    (["--seeds=0-4000000000", "--separate"],
     "at most 4096 samples at a time; give the other seeds in further commands"),
    (["--style-mix", "--row-seeds=0-63", "--col-seeds=0-64"], "--row-seeds: 64 rows of 65 --col"),
    (["--seeds=4294967296"], "seeds go from 0"), (["--num=-1"], "1 or more"),
    (["--num=0"], "1 or more"), (["--num=1e3"], "1 or more"), (["--num=99999999"], "at most"),
    (["--num=2", "--first-seed=4294967295"], "last seed"), (["--trunc=nan"], "such as 0.7"),
    (["--interpolate=4"], "two seeds"), (["--steps=0"], "1 or more"),
    (["--interpolate=1,2", "--steps=1"], "at least 2 pictures"),
    (["--num=3", "--separate"], "--separate: without effect: it is for a grid of seeds"),
    (["--num=3", "--style-mix"], "not allowed with"), (["--shards=2"], "it is for --num"),
    (["--seeds=0-3", "--num=5"], "--seeds: without effect: it is for a grid of seeds"),
    (["--row-seeds=1"], "--row-seeds: without effect: it is for --style-mix"),
    (["--replay=x", "--trunc=0.5"], "--trunc: without effect: it is for a grid of seeds, "),
    (["--replay=x", "--minibatch=2"], "--minibatch: without effect"),
    (["--noise=none"], "choose from"), (["--minibatch=0"], "1 or more"),
    (["--require=bag"], "--require: without effect: it is for --num"),
    (["--num=2", "--min-area=1%"], "it is for --require and --balance"),
    (["--num=2", "--balance=120%"], "expected a share such as 0.5% or 0.005"),
    (["--num=2", "--balance=a"], "expected a share"),
    (["--num=2", "--balance=bag:10%,skirt"], "such as bag:10%,skirt:20%"),
    (["--num=2", "--balance=bag:a"], "expected a share"),
    (["--num=2", "--balance=bag:10%, bag:90%"], "names a class twice; give each one share"),
    (["--source=nowhere"], "--source=nowhere: no such file or folder"),
    (["--maps=nowhere"], "--maps=nowhere: no such file or folder"),
    (["--project=nowhere"], "--project=nowhere: no such file or folder"),
    (["--source=x", "--out=./x"], "--out=./x: is the folder of --source, or contains it"),
    (["--maps=x/labels", "--out=x"], "--out=x: is the folder of --maps, or contains it"),
    (["--num=2", "--max-tries=5"], "no pair is rejected"),
    (["--num=2", "--shards=3"], "at most one for each pair"),
    (["--num=2", "--runner=DirectRunner"], "it makes shards"),
    (["--num=2", "--shards=2", "--", "--x=1"], "options after it are for --runner"),
    (["--num=2", "--balance=1%", "--minibatch=2"], "made 16 at a time"),
    (["--num=2", "--format=tfrecords", "--keep-padding"], "images of a data set are square"),
    (["--video=avi"], "choose from"), (["--video", "--num=2"], "not allowed with"),
    (["--video", "--separate"], "--separate: without effect: it is for a grid of seeds"),
    (["--video", "--seeds=3"], "1 seeds for 1x1 films; all films need the"),
    (["--video", "--seeds=0-8", "--grid=2x2"], "9 seeds for 2x2 films"),
    (["--video", "--grid=2"], "columns x rows such as 4x2"),
    (["--video", "--grid=0x2"], "columns x rows such as 4x2"),
    (["--grid=2x2"], "--grid: without effect: it is for --video"),
    (["--seeds=0-3", "--fps=10"], "--fps: without effect: it is for --video"),
    (["--space=z"], "--space: without effect: it is for --video, --project"),
    (["--video", "--space=w+"], "it is for --project"),
    (["--project=x", "--space=z"], "it is for --video"),
    (["--video", "--fps=121"], "120 frames a second at most"),
    (["--video=gif", "--fps=51"], "50 frames a second at most")])
def test_bad_options_end_with_status_2_and_say_why(script, argv, message):
    status, error = script(*argv)
    assert status == 2 and message in error and "Traceback" not in error


def bad_snapshot(path, networks, kind):
    """Write a file that is not a complete network snapshot."""
    good = networks["classes"].read_bytes()
    path.write_bytes({"empty": b"", "text": b"hello", "torn": good[:len(good) // 2],
                      "flipped": good[:-9] + bytes([good[-9] ^ 255]) + good[-8:]}[kind])
    return path


@pytest.mark.parametrize("kind", ["empty", "text", "torn", "flipped"])
def test_damaged_snapshots_are_named(networks, tmp_path, script, kind):
    path = bad_snapshot(tmp_path / "x.safetensors", networks, kind)
    status, error = script(f"--network={path}")
    assert status == 2 and str(path) in error and error.count("\n") == 1


def test_a_training_state_is_not_a_network_snapshot(tmp_path, script):
    network = G_style("Gs", num_channels=3, resolution=4, fmap_base=16, latent_size=4,
                      dlatent_size=4, mapping_fmaps=4)
    path = tmp_path / "training-state-000001.safetensors"
    snapshots.save_container(path, {"kind": "state", "networks": {
        "Gs": {"type": "G_style", "config": network.config}}}, {"Gs": network.get_arrays()})
    status, error = script(f"--network={path}")
    assert status == 2 and "a network snapshot is wanted" in error


@pytest.mark.parametrize("argv", [["--seeds=0"], ["--num=1"], ["--interpolate=1,2"],
                                  ["--video=gif"]])
def test_out_that_is_a_file_is_refused(networks, tmp_path, script, argv):
    (tmp_path / "file").write_text("mine")
    status, error = script(f"--network={networks['rgb']}", f"--out={tmp_path / 'file'}", *argv)
    assert status == 2 and "is a file" in error and (tmp_path / "file").read_text() == "mine"


def test_a_folder_of_other_things_is_not_changed(networks, tmp_path, script):
    (tmp_path / "thesis.txt").write_text("mine")
    status, error = script(f"--network={networks['rgb']}", f"--out={tmp_path}", "--num=1")
    assert status == 2 and "choose a new folder" in error
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("argv, message", [
    (["--network=no/such/file"], "no such snapshot"), (["--network=77"], "00002-classes"),
    (["--replay=no-such.jsonl"], "no such file"),
    (["--network=2", "--style-mix", "--col-styles=0-6"], "layers 0-5")])
def test_missing_things_are_named(networks, script, argv, message):
    status, error = script(f"--results={networks['rgb'].parents[1]}", *argv)
    assert status == 2 and message in error and error.count("\n") == 1


def test_the_error_for_an_empty_results_folder_names_train(tmp_path, script):
    status, error = script(f"--results={tmp_path}")
    assert status == 2 and "train.py" in error


@pytest.mark.parametrize("line", [
    "hello", "[]", "{}", '{"seed": 1}', "seed -1", "seed 4294967296", "trunc NaN", 'noise "loud"'])
def test_broken_lines_are_named(finished, tmp_path, script, line):
    good = json.loads((finished / pairs.SAMPLES).read_text().splitlines()[0])
    key, _, value = line.partition(" ")
    if key in good:
        line = json.dumps({**good, key: json.loads(value)})
    path = tmp_path / "samples.jsonl"
    path.write_text(json.dumps(good) + "\n" + line + "\n")
    status, error = script(f"--replay={path}")
    assert status == 2 and "line 2" in error and error.count("\n") == 1


def test_an_index_past_the_end_is_refused(finished, script):
    status, error = script(f"--replay={finished / pairs.SAMPLES}", "--index=7")
    assert status == 2 and "has 7 samples" in error


def test_a_full_disk_keeps_complete_pairs_and_can_be_continued(networks, finished, tmp_path, script,
                                                               monkeypatch):
    save, out = pictures.save_png, tmp_path / "out"

    def full(path, picture):
        if path.name == "0000004.png" and path.parent.name == "overlays":
            raise OSError(errno.ENOSPC, "No space left on device")
        save(path, picture)
    monkeypatch.setattr(pictures, "save_png", full)
    command = [f"--network={networks['classes']}", "--num=7", f"--out={out}", "--minibatch=2"]
    status, error = script(*command)
    assert status == 2 and "disk is full" in error and "4 samples are complete" in error
    assert error.count("\n") == 1
    assert not list(Path(out).rglob("*.tmp")) and len(pairs.read_samples(out / pairs.SAMPLES)) == 4
    monkeypatch.setattr(pictures, "save_png", save)
    generate.main(command)
    assert_same_pairs(out, finished)


@pytest.mark.parametrize("channel", [0, 9])
@pytest.mark.parametrize("mode", ["--num=2", "--seeds=0-1", "--interpolate=0,1", "--video=gif"])
def test_a_diverged_network_writes_no_pictures(tmp_path, script, channel, mode):
    def diverge(arrays):
        arrays["G_synthesis/ToRGB_lod0/bias"][channel] = np.nan
    path = save_network(tmp_path / "x.safetensors", MODANET_CLASSES, change=diverge)
    status, error = script(f"--network={path}", mode, f"--out={tmp_path / 'out'}")
    assert status == 2 and "not finite" in error
    made = {path.suffix for path in tmp_path.glob("out/**/*")}
    assert not made & {".png", ".gif", ".tmp"}


@pytest.mark.parametrize("parse", [parse_options, lambda argv: parse_command(argv)[0]])
def test_truncation_that_would_overflow_is_refused(parse):
    for psi in ("1e30", "-1e5", "nan", "1e400", "x"):
        with pytest.raises(UserError, match=r"--trunc: .*expected a number"):
            parse([f"--trunc={psi}"])
    assert parse(["--trunc=-1"]).trunc == -1
