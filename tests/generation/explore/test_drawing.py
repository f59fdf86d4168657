"""What the page shows, without the page: pictures of generators, photos, painted maps."""

import json

import numpy as np
import pytest
from PIL import Image

import generate
from dnnlib.data import channels, pictures
from dnnlib.util import UserError
from generation import pairs, sheets
from generation.explore import drawing
from generation.explore.drawing import BETWEEN, MIXED, SampleSpec
from generation.selection import Selection
from tests.tools.domains import save_cyclegan, tiny, two_datasets
from tests.tools.generators import RESOLUTION, save_network
from tests.tools.translations import save_translator
from training.cycle.translator import CycleTranslator
from training.sampler import Sampler, label_maps
from training.translation.translator import Translator

CLASSES = ("hat", "scarf", "bag")
FACTOR = drawing.SIDE // RESOLUTION


@pytest.fixture(scope="module")
def sampler(tmp_path_factory):
    path = tmp_path_factory.mktemp("results") / "00000-c" / "network-final.safetensors"
    return Sampler.load(save_network(path, CLASSES, seed=4), traced=False)


def pair(sampler, seed, psi=1.0, noise="random"):
    """Return rgb and label map of a seed."""
    images, = sampler.seed_images([seed], psi, noise, 1)
    return [part[0] for part in pairs.to_pairs(images)]


def small(picture):
    """Return a picture as it was before it was enlarged."""
    return picture[::FACTOR, ::FACTOR]


# Generators

@pytest.mark.parametrize("psi, noise", [(1.0, "random"), (0.5, "const")])
def test_one_seed_shows_its_pair(sampler, psi, noise):
    drawn = drawing.draw_sample(sampler, SampleSpec(seed=7, psi=psi, noise=noise), CLASSES)
    rgb, label_map = pair(sampler, 7, psi, noise)
    np.testing.assert_array_equal(small(drawn.views.photo), rgb)
    np.testing.assert_array_equal(small(drawn.views.map), channels.colourise(label_map, 3))
    np.testing.assert_array_equal(small(drawn.views.overlay), pictures.overlay(rgb, label_map, 3))
    assert drawn.strip is None
    for label in np.unique(label_map[label_map > 0]):
        assert f"{CLASSES[label - 1]} {100 * (label_map == label).mean():.1f} %" in drawn.line


def test_disabled_classes_are_not_shown(sampler):
    label_map = pair(sampler, 7)[1]
    assert len(np.unique(label_map)) > 2, "a map that shows too little to test it"
    views = drawing.draw_sample(sampler, SampleSpec(seed=7), ["scarf"]).views
    np.testing.assert_array_equal(small(views.map), channels.colourise(
        np.where(label_map == 2, 2, 0), 3))
    np.testing.assert_array_equal(small(views.overlay)[label_map != 2],
                                  small(views.photo)[label_map != 2])


@pytest.mark.parametrize("position, seed", [(0.0, 3), (1.0, 9)])
def test_both_ends_show_the_seeds(sampler, position, seed):
    """With the first seed's noise, as generate.py --interpolate draws them."""
    spec = SampleSpec(BETWEEN, 3, other=9, position=position)
    drawn = drawing.draw_sample(sampler, spec, CLASSES)
    dlatents = sampler.dlatents(sampler.seed_latents([seed]), 1.0)
    images, = sampler.dlatent_images(dlatents, [3], "random", 1)
    difference = small(drawn.views.photo).astype(int) - pairs.to_pairs(images)[0][0]
    assert np.abs(difference).max() <= 1
    assert drawn.strip.shape[1] == drawing.STEPS * drawing.SIDE // 3


def test_chosen_layers_have_the_second_seeds_styles(sampler):
    def mixed(layers):
        return small(drawing.draw_sample(sampler, SampleSpec(MIXED, 3, other=9, layers=layers,
                                                noise="const"), CLASSES).views.photo).astype(int)

    ends = [pair(sampler, seed, noise="const")[0] for seed in (3, 9)]
    assert np.abs(mixed(()) - ends[0]).max() <= 1
    assert np.abs(mixed(range(99)) - ends[1]).max() <= 1
    dlatents = sampler.dlatents(sampler.seed_latents([3, 9]), 1.0)
    half = sheets.mix_styles(dlatents[:1], dlatents[1:], [0, 1])
    images, = sampler.dlatent_images(half, [3], "const", 1)
    assert np.abs(mixed((0, 1)) - pairs.to_pairs(images)[0][0]).max() <= 1


def test_a_network_without_maps_shows_none(tmp_path):
    colours = Sampler.load(save_network(tmp_path / "rgb.safetensors", ()), traced=False)
    drawn = drawing.draw_sample(colours, SampleSpec(BETWEEN), ())
    assert drawn.views.map is None and drawn.views.overlay is None and drawn.line == ""
    with pytest.raises(UserError, match="draws no maps"):
        drawing.search(colours, SampleSpec(), Selection())


def test_padding_is_not_shown(tmp_path):
    about = {"resolution": 16, "content_box": [4, 0, 12, 16]}
    path = save_network(tmp_path / "padded.safetensors", CLASSES, dataset=about)
    drawn = drawing.draw_sample(Sampler.load(path, traced=False), SampleSpec(), CLASSES)
    assert drawn.views.photo.shape == (drawing.SIDE, drawing.SIDE // 2, 3)


def test_the_search_finds_the_first_seed_with_the_classes(sampler):
    images, = sampler.seed_images(range(6, 70), 1.0, "random", 64)
    areas = np.stack([(label_maps(images) == label).mean(axis=(1, 2)) for label in (1, 2)])
    expected = 6 + int((areas >= 0.1).all(axis=0).argmax())
    chosen = Selection(("hat", "scarf"), 0.1)
    assert drawing.search(sampler, SampleSpec(seed=5), chosen) == expected > 7
    assert drawing.search(sampler, SampleSpec(seed=5), Selection()) == 6


def test_an_endless_search_is_given_up(sampler, monkeypatch):
    monkeypatch.setattr(drawing, "TRIES", 20)
    with pytest.raises(UserError, match="none of the 20 seeds after 5 shows hat on 100 % of the "):
        drawing.search(sampler, SampleSpec(seed=5), Selection(("hat",), 1.0))
    with pytest.raises(UserError, match="none of the 0 seeds after 99999 shows"):
        drawing.search(sampler, SampleSpec(seed=drawing.LAST_SEED), Selection(("hat",)))


def test_a_saved_pair_is_reproduced(sampler, tmp_path, capsys):
    """Another truncation has another folder; the message has the command."""
    for spec in (SampleSpec(seed=7), SampleSpec(seed=12),
                 SampleSpec(seed=7, psi=0.5, noise="const"), SampleSpec(seed=7)):
        line = drawing.save_pair(sampler, spec, tmp_path)
    folder = tmp_path / "00000-c-network-final"
    assert {path.name for path in folder.iterdir()} == {"explored-trunc1",
                                                        "explored-trunc0.5-const"}
    samples = folder / "explored-trunc1" / "samples.jsonl"
    assert [json.loads(text)["seed"] for text in samples.read_text().splitlines()] == [7, 12]
    command = line.partition("python generate.py ")[2].split()
    assert generate.main([*command, f"--out={tmp_path / 'again'}"]) == 0
    assert "seed 7 made again" in capsys.readouterr().out


# Photos

def test_other_files_and_too_large_photos_are_one_line(tmp_path):
    (tmp_path / "text.png").write_text("no photo")
    with pytest.raises(UserError, match=r"^text\.png: not a readable image"):
        drawing.read_photo(tmp_path / "text.png")
    Image.new("1", (40_000, 2_000)).save(tmp_path / "large.png")
    with pytest.raises(UserError, match=r"^large\.png: .* is too large"):
        drawing.read_photo(tmp_path / "large.png")
    with pytest.raises(UserError, match=r"^large\.png: .* is too large"):
        drawing.read_map(tmp_path / "large.png", 16, 3)


def test_a_photo_is_reduced(tmp_path):
    Image.new("RGB", (2048, 512), (10, 20, 30)).save(tmp_path / "wide.png")
    assert drawing.read_photo(tmp_path / "wide.png").shape == (256, 1024, 3)


def test_a_photo_is_translated_as_generate_does(tmp_path, rng):
    """Made square as the photos of its own direction were, and refused where the network translates
    a garment alone: a photo does not show where that is."""
    data = two_datasets(tmp_path)
    content = json.loads((data[1] / "dataset.json").read_text())
    (data[1] / "dataset.json").write_text(json.dumps({**content, "options": {"fit": "crop"}}))
    path = save_cyclegan(tmp_path / "whole.safetensors", tiny(data))
    photo = rng.integers(0, 256, (24, 40, 3), np.uint8)
    for direction in ("AtoB", "BtoA"):
        translator = CycleTranslator(path, direction, 1)
        there, = translator.translate([photo])
        back, = translator.translate([there], True)
        for found, expected in zip(drawing.translate_photo(translator, photo), (there, back)):
            np.testing.assert_array_equal(found, expected)
    path = save_cyclegan(tmp_path / "box.safetensors", tiny(data, garment="box"))
    with pytest.raises(UserError, match=r"^box\.safetensors: translates box alone, .*--source="):
        drawing.translate_photo(CycleTranslator(path, "AtoB", 1), photo)


# Painted maps

@pytest.mark.parametrize("resolution", [16, 256, 1024])
def test_a_canvas_is_read_back(resolution, rng):
    label_map = rng.integers(0, 14, (resolution, resolution)).astype(np.uint8)
    canvas = drawing.to_canvas(label_map, 13)
    assert canvas.shape[0] == max(512, resolution)
    np.testing.assert_array_equal(drawing.from_canvas(canvas, [], resolution, 13), label_map)


def test_paint_covers_the_map_and_its_soft_edges_do_not():
    """The left half is opaque, pixels beside it almost transparent; edge noise is outvoted."""
    canvas = drawing.to_canvas(np.full((16, 16), 2, np.uint8), 3)
    layer = np.zeros((512, 512, 4), np.uint8)
    layer[..., :3] = channels.palette(3)[1]
    layer[:, :256, 3], layer[:, 256:, 3] = 255, 90
    layer[:, 200:210, :3] = channels.palette(3)[3]
    expected = np.full((16, 16), 2)
    expected[:, :8] = 1
    np.testing.assert_array_equal(drawing.from_canvas(canvas, [layer], 16, 3), expected)
    np.testing.assert_array_equal(drawing.from_canvas(canvas[::2, ::2], [layer[::2, ::2]], 16, 3),
                                  expected)


def test_a_seeds_map_and_the_photo_of_a_map(sampler, tmp_path):
    """The map is enlarged to the translator's size; its photo equals generate.py --maps."""
    label_map = pair(sampler, 7)[1]
    np.testing.assert_array_equal(drawing.draw_map(sampler, 7, 2 * RESOLUTION),
                                  np.kron(label_map, np.ones((2, 2), np.uint8)))
    translator = Translator(save_translator(tmp_path / "network.safetensors", CLASSES), minibatch=1)
    segmaps = (label_map[None, ..., None] == np.arange(1, 4)) * np.uint8(255)
    expected, = pictures.to_uint8_metrics(translator.translate(segmaps, [3]))
    np.testing.assert_array_equal(small(drawing.photo_of_map(translator, label_map, 3)), expected)


def test_label_files_are_read_as_maps(tmp_path):
    labels = np.zeros((8, 16), np.uint8)
    labels[:, 8:], labels[0, 0] = 3, channels.IGNORE
    pictures.save_label_png(tmp_path / "map.png", labels, 3, may_ignore=True)
    found = drawing.read_map(tmp_path / "map.png", 16, 3)
    assert found.shape == (16, 16) and not found[:4].any() and (found[4:12, 8:] == 3).all()
    with pytest.raises(UserError, match=r"^map\.png: label 3, above the number of classes \(2\)"):
        drawing.read_map(tmp_path / "map.png", 16, 2)
