"""The nearest reals: the search against brute force, its memory, the sheet pixel by pixel."""

import json
import tracemalloc

import numpy as np
import pytest
from PIL import Image

import run_metrics
from dnnlib.data import channels, pictures
from dnnlib.data.class_list import write_class_list
from dnnlib.data.dataset import open_dataset
from dnnlib.download import CACHE_VARIABLE
from dnnlib.util import UserError
from metrics.features import CHUNK
from metrics.image_sources import folder_source, pair_source, split_source
from metrics.nearest_neighbours import GAP, nearest, read_chosen, sheet, write_nearest
from tests.tools.data_helpers import FOUR, make_dataset, random_image
from tests.tools.metrics_helpers import StubDetector, graph_bytes, small_arrays
from training.networks_stylegan import G_style
from training.sampler import Sampler, label_maps
from training.snapshots import save_snapshot

pytestmark = pytest.mark.usefixtures("eagerly")

PHOTOS = [f"summer/IMG_{(7 * i) % 24:04d}.jpg" for i in range(24)]


def brute_force(queries, features, count):
    """Return pairs (distance, index), sorted: the smaller index first among equal distances."""
    found = []
    for query in np.asarray(queries, np.float64):
        pairs = [(float(np.linalg.norm(row - query)), i) for i, row in
                 enumerate(np.asarray(features, np.float64))]
        found.append(sorted(pairs)[:count])
    return np.array(found)


@pytest.fixture(scope="module")
def images():
    """Return 16-pixel images with four maps, channels first: train 24, test 3."""
    rng = np.random.default_rng(5)
    return {split: np.stack([random_image(rng, 7, 16) for _ in range(n)])
            for split, n in (("train", 24), ("test", 3))}


@pytest.fixture(scope="module")
def source(images, tmp_path_factory):
    """Return their training split; the photos are called PHOTOS."""
    path = make_dataset(tmp_path_factory.mktemp("data") / "toy", images)
    content = json.loads((path / "dataset.json").read_text())
    content["splits"]["train"] = PHOTOS
    (path / "dataset.json").write_text(json.dumps(content))
    return split_source(open_dataset(path), "train", 16)


def rgb_and_labels(image):
    """Return (uint8 [H, W, 3], uint8 [H, W]) of an image [C, H, W]."""
    image = image.transpose(1, 2, 0)
    return image[..., :3], channels.to_label_map(image[..., 3:], threshold=127)


@pytest.mark.parametrize("n", [3, 10, CHUNK, 2 * CHUNK + 100])
def test_search_equals_brute_force(rng, n):
    features = rng.standard_normal((n, 5)).astype(np.float32)
    queries = rng.standard_normal((4, 5)).astype(np.float32)
    indices, distances = nearest(queries, features)
    expected = brute_force(queries, features, 10)
    assert indices.shape == (4, min(n, 10))
    np.testing.assert_array_equal(indices, expected[:, :, 1])
    np.testing.assert_allclose(distances, expected[:, :, 0], rtol=1e-14)


def test_ties_go_to_the_smaller_index(rng):
    """Many equal distances, within blocks and across them."""
    features = rng.integers(0, 2, (2 * CHUNK + 5, 3)).astype(np.float32)
    queries = np.array([[0, 0, 0], [1, 0, 1], [0.5, 0.5, 0.5]], np.float32)
    indices, _ = nearest(queries, features)
    np.testing.assert_array_equal(indices, brute_force(queries, features, 10)[:, :, 1])
    np.testing.assert_array_equal(indices[2], np.arange(10))
    copies = np.repeat(rng.standard_normal((1, 2048)).astype(np.float32), CHUNK + 3, axis=0)
    np.testing.assert_array_equal(nearest(copies[:1] + 1, copies)[0], [np.arange(10)])


def test_small_differences_of_large_features(rng):
    """A copy is at distance 0, a near copy at its small distance."""
    features = (1000 + rng.standard_normal((50, 2048))).astype(np.float32)
    features[7] = features[30]
    features[7, 0] = np.nextafter(features[7, 0], np.float32(2000))
    indices, distances = nearest(features[30:31], features, count=2)
    np.testing.assert_array_equal(indices, [[30, 7]])
    assert distances[0, 0] == 0
    step = float(features[7, 0]) - float(features[30, 0])
    assert distances[0, 1] == pytest.approx(step, rel=1e-12)


def test_memory_does_not_grow_with_the_reals(tmp_path, rng):
    """It has a block's differences and squares in float64, however long the mapped file is."""
    shape = (16 * CHUNK, 128)
    np.save(tmp_path / "features.npy", rng.standard_normal(shape).astype(np.float32))
    features = np.load(tmp_path / "features.npy", mmap_mode="r")
    queries = rng.standard_normal((8, 128))
    tracemalloc.start()
    nearest(queries, features)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    block = CHUNK * 128 * 8
    assert block < peak < 2.5 * block < features.nbytes


def test_sources_read_chosen_images(images, source, tmp_path):
    picks = np.array([19, 0, 7])
    chosen = list(source.batches(maps=True, indices=picks))
    for rgb, labels, k in zip(*map(np.concatenate, zip(*chosen)), picks):
        expected = rgb_and_labels(images["train"][k])
        np.testing.assert_array_equal(rgb, expected[0])
        np.testing.assert_array_equal(labels, expected[1])
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for k, image in enumerate(images["train"]):
        rgb, label_map = rgb_and_labels(image)
        Image.fromarray(rgb).save(tmp_path / "images" / f"{k:03d}.png")
        pictures.save_label_png(tmp_path / "labels" / f"{k:03d}.png", label_map, 4)
    write_class_list(tmp_path, FOUR)
    pairs = pair_source(tmp_path)
    for other in (pairs, folder_source(tmp_path / "images")):
        maps = bool(other.classes)
        assert other.names() == [f"{k:03d}.png" for k in range(24)]
        for k, (rgb, labels) in zip(picks, other.batches(maps=maps, indices=picks)):
            expected = rgb_and_labels(images["train"][k])
            np.testing.assert_array_equal(rgb[0], expected[0])
            if maps:
                np.testing.assert_array_equal(labels[0], expected[1])


def test_reals_are_found_by_their_index(images, source):
    reals = read_chosen(source, np.array([3, 20]), with_maps=True)
    assert reals.keys() == {3, 20}
    np.testing.assert_array_equal(reals[20][1], rgb_and_labels(images["train"][20])[1])
    assert read_chosen(source, np.array([3]), with_maps=False)[3][1] is None


def test_sheet_pixel_by_pixel(images):
    rows = [[(*rgb_and_labels(images["train"][r * 3 + c]), f"cell {r}{c}") for c in range(3)]
            for r in range(2)]
    picture = sheet(rows, FOUR)
    side, row = 128, 128 + pictures.LEGEND_ROW
    legend = pictures.legend(FOUR, picture.shape[1])
    assert picture.shape == (2 * row + len(legend), 3 * 2 * side + 3 * GAP, 3)
    np.testing.assert_array_equal(picture[2 * row:], legend)
    for r in range(2):
        for c in range(3):
            rgb, label_map = rgb_and_labels(images["train"][r * 3 + c])
            left = c * 2 * side + (c + 1) * GAP * (c > 0)
            found = picture[r * row:(r + 1) * row, left:left + 2 * side]
            np.testing.assert_array_equal(found[:side, :side], pictures.enlarge(rgb, 8))
            colours = pictures.enlarge(channels.colourise(label_map, 4), 8)
            np.testing.assert_array_equal(found[:side, side:], colours)
            caption = pictures.caption(f"cell {r}{c}", 2 * side)
            np.testing.assert_array_equal(found[side:], caption)
            assert caption.min() < 100 and (caption == 255).mean() > 0.8


def test_sheet_of_images_of_other_sizes():
    """Without classes only images; large ones averaged, others fitted into the same square."""
    large = np.full((512, 512, 3), 90, np.uint8)
    large[::2] += 100
    wide = np.full((30, 60, 3), 200, np.uint8)
    picture = sheet([[(large, None, "a"), (wide, None, "b")]], ())
    assert picture.shape == (256 + pictures.LEGEND_ROW, 2 * 256 + 2 * GAP, 3)
    assert (picture[:256, :256] == 140).all()
    fitted = picture[:256, 256 + 2 * GAP:]
    assert (fitted[64:192] == 200).all() and (fitted[:64] == 0).all() and (fitted[192:] == 0).all()


def test_sheet_and_numbers_of_copies(images, source, tmp_path):
    """Fakes that are copies of reals 5 and 17 find them, at distance 0, with their maps."""
    fakes = [rgb_and_labels(images["train"][k]) for k in (5, 17)]
    detector = StubDetector()
    path = write_nearest(tmp_path / "nearest-5,17", fakes, ["seed 5", "seed 17"], source, FOUR,
                         detector, {"network": "toy"}, tmp_path / "cache")
    record = json.loads((tmp_path / "nearest-5,17.json").read_text())
    assert record["network"] == "toy" and record["num_reals"] == 24
    assert record["reals"]["split"] == "train" and record["detector_hash"] == "stub"
    features = detector.features(np.stack([rgb_and_labels(image)[0].mean(axis=(0, 1))
                                           for image in images["train"]]).astype(np.float32))
    for k, name, sample in zip((5, 17), ("seed 5", "seed 17"), record["samples"]):
        expected = brute_force(features[k:k + 1], features, 10)[0]
        assert sample["name"] == name
        assert sample["indices"][0] == k and sample["distances"][0] == 0
        assert sample["indices"] == expected[:, 1].tolist()
        assert sample["photos"] == [PHOTOS[i] for i in sample["indices"]]
        np.testing.assert_allclose(sample["distances"], expected[:, 0], rtol=1e-4)
    picture = np.asarray(Image.open(path))
    for column, text in enumerate(["generated: seed 5", f"{PHOTOS[5]}   0.00"]):
        place = column * (256 + 2 * GAP)
        np.testing.assert_array_equal(picture[128:128 + pictures.LEGEND_ROW, place:place + 256],
                                      pictures.caption(text, 256))
    first = slice(0, 128), slice(0, 256)
    second = slice(0, 128), slice(256 + 2 * GAP, 512 + 2 * GAP)
    np.testing.assert_array_equal(picture[first], picture[second])
    assert len(np.unique(picture[:128, 128:256].reshape(-1, 3), axis=0)) > 2  # maps


def test_numbers_of_photos_and_names_that_are_not_text(images, source, tmp_path):
    """Photos whose id is a number are called by it; names stay on one line."""
    path = make_dataset(tmp_path / "numbers", images)
    assert split_source(open_dataset(path), "test", 16).names() == ["0", "1", "2"]
    (tmp_path / "odd").mkdir()
    rgb, _ = rgb_and_labels(images["train"][5])
    Image.fromarray(rgb).save(tmp_path / "odd" / f"caf\xe9\n\x1b[2J{'x' * 90}.png")
    write_nearest(tmp_path / "out", [(rgb, None)], ["seed 5"], folder_source(tmp_path / "odd"), (),
                  StubDetector(), {}, tmp_path / "cache")
    (sample,) = json.loads((tmp_path / "out.json").read_text())["samples"]
    assert sample["photos"] == [rf"café \x1b[2J{'x' * 90}.png"]


@pytest.mark.parametrize("classes", [(), ("any",)])
def test_without_common_classes_the_sheet_has_only_images(images, source, tmp_path, classes):
    rgb, label_map = rgb_and_labels(images["train"][5])
    path = write_nearest(tmp_path / "nearest", [(rgb, label_map if classes else None)], ["seed 5"],
                         source, classes, StubDetector(), {}, tmp_path / "cache")
    height, width = 128 + pictures.LEGEND_ROW, 11 * 128 + 11 * GAP
    assert np.asarray(Image.open(path)).shape == (height, width, 3)


@pytest.fixture
def run(source, tmp_path, monkeypatch):
    """Return a function (options...): run_metrics.py with narrow detector and separate cache."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    (tmp_path / "small.pb").write_bytes(graph_bytes(small_arrays()))
    return lambda *options: run_metrics.main([
        f"--inception={tmp_path / 'small.pb'}", f"--results={tmp_path / 'results'}", *options])


def make_network(path, source, label_size=0):
    """Write a snapshot of a network with four maps, still at 8x8 of 16x16."""
    network = G_style("Gs", num_channels=7, resolution=16, label_size=label_size, latent_size=8,
                      dlatent_size=8, mapping_layers=2, mapping_fmaps=8, fmap_base=64, fmap_max=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_snapshot(path, {"Gs": network}, {
        "variant": "c", "stage": "classes", "classes": list(FOUR), "kimg": 1,
        "lod": {"resolution": 8, "fade": 0.0},
        "dataset": {"name": "toy", "path": source.about["path"], "digest": "0" * 64}})
    return path


def test_the_options_samples_equal_generate_pys(run, source, tmp_path, capsys):
    path = make_network(tmp_path / "run" / "network.safetensors", source)
    assert run(f"--network={path}", "--nearest=3-5") == 0
    assert capsys.readouterr().out.endswith(f"wrote {path.parent / 'nearest-3-5.png'}\n")
    assert not list(path.parent.glob("metric-*"))
    picture = np.asarray(Image.open(path.parent / "nearest-3-5.png"))
    images, = Sampler.load(path).seed_images([3, 4, 5], 1, "random", 16)
    rgb = pictures.to_uint8_metrics(images[..., :3])
    for row, (image, label_map) in enumerate(zip(rgb, label_maps(images))):
        found = picture[row * (128 + pictures.LEGEND_ROW):][:128]
        np.testing.assert_array_equal(found[:, :128], pictures.enlarge(image, 16))
        colours = channels.colourise(label_map, 4)
        np.testing.assert_array_equal(found[:, 128:256], pictures.enlarge(colours, 16))
    record = json.loads((path.parent / "nearest-3-5.json").read_text())
    assert record["reals"]["split"] == "train" and record["num_reals"] == 24
    assert [sample["name"] for sample in record["samples"]] == ["seed 3", "seed 4", "seed 5"]
    assert run(f"--network={path}", "--nearest=3", "--split=test") == 0
    assert json.loads((path.parent / "nearest-3.json").read_text())["num_reals"] == 3


def test_the_option_with_a_conditional_network(run, source, tmp_path):
    path = make_network(tmp_path / "run" / "network.safetensors", source, label_size=2)
    with pytest.raises(UserError, match="is conditional"):
        run(f"--network={path}", "--nearest=0")
    assert run(f"--network={path}", "--nearest=0", "--label=1") == 0
    picture = np.asarray(Image.open(path.parent / "nearest-0-label1.png"))
    images, = Sampler.load(path, 1).seed_images([0], 1, "random", 16)
    rgb = pictures.to_uint8_metrics(images[..., :3])
    np.testing.assert_array_equal(picture[:128, :128], pictures.enlarge(rgb[0], 16))


def test_the_option_with_folders_and_a_metric(run, images, source, tmp_path):
    """Fakes are images by their numbers; the sheet is not put in their folder."""
    (tmp_path / "fakes").mkdir()
    for k in (20, 4):
        rgb, _ = rgb_and_labels(images["train"][k])
        Image.fromarray(rgb).save(tmp_path / "fakes" / f"{k:02d}.png")
    options = [f"--fakes={tmp_path / 'fakes'}", f"--reals={source.about['path']}"]
    assert run(*options, "--nearest=1,0", "--metrics=kid2", "--split=train") == 0
    assert sorted(p.name for p in (tmp_path / "fakes").iterdir()) == ["04.png", "20.png"]
    found = tmp_path / "results" / "metrics-fakes" / "nearest-1,0.json"
    samples = json.loads(found.read_text())["samples"]
    assert [(s["name"], s["indices"][0]) for s in samples] == [
        ("20.png", 20), ("04.png", 4)]
    with pytest.raises(UserError, match=r"--nearest=2: .*fakes has images 0-1"):
        run(*options, "--nearest=2")


@pytest.mark.parametrize("options, message", [
    (["--nearest=0", "--seed=1"], "--seed: without effect: the samples of --nearest are seeds"),
    (["--label=1"], "--label: without effect: it is for"),
    (["--nearest=0", "--fakes=x", "--label=1"], "--label: without effect: it is for"),
    (["--nearest=0", "--lpips=x"], "--lpips: without effect: it is for ppl"),
    (["--nearest=0,-1"], "--nearest"),
])
def test_options_that_contradict_each_other_are_refused(run, options, message):
    with pytest.raises(UserError, match=message):
        run(*options)
