"""Photos and pairs translated by a CycleGAN: sizes, garments, records, what is refused."""

import functools
import json
import shutil

import numpy as np
import pytest
from PIL import Image

import dataset_tool
import generate
from dnnlib.util import UserError
from generation.pairs import read_samples
from tests.tools.domains import save_cyclegan, tiny, two_datasets
from tests.tools.generators import save_network
from tests.tools.labelled_pictures import coloured_dataset, train
from tests.tools.labelled_pictures import tiny as segmenter_config
from training.cycle import translator as translators
from training.cycle.translator import CycleTranslator
from training.snapshots import read_header

pytestmark = pytest.mark.usefixtures("eagerly")

SIZES = {"a": (16, 16), "b": (31, 22), "c": (9, 50)}  # width, height


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Write snapshots of untrained networks: of whole photos, and of the garment box."""
    root = tmp_path_factory.mktemp("networks")
    data = two_datasets(root)
    for name, garment in (("whole", None), ("box", "box")):
        save_cyclegan(root / f"{name}.safetensors", tiny(data, garment=garment))
    return root


@pytest.fixture
def place(tmp_path, monkeypatch, rng):
    """Make a folder with photos, and pairs with what generate.py --num writes beside them."""
    monkeypatch.chdir(tmp_path)
    for folder in ("photos", "pairs/images", "pairs/labels", "pairs/annotations"):
        (tmp_path / folder).mkdir(parents=True)
    records = []
    for number, (name, (width, height)) in enumerate(SIZES.items()):
        rgb = rng.integers(0, 256, (height, width, 3), np.uint8)
        labels = rng.integers(0, 3, (height, width), np.uint8)
        Image.fromarray(rgb).save(f"photos/{name}.png")
        Image.fromarray(rgb).save(f"pairs/images/{name}.png")
        Image.fromarray(labels).save(f"pairs/labels/{name}.png")
        records.append({
            "seed": number, "image": f"images/{name}.png", "label": f"labels/{name}.png",
            "digest": "d", "resolution": 16, "fade": 0.0, "trunc": 1.0, "trunc_cutoff": 8,
            "noise": "random", "network": "n", "sha256": "s"})
    (tmp_path / "pairs/samples.jsonl").write_text(
        "".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "pairs/classes.txt").write_text("hat\nbox\n")
    (tmp_path / "pairs/annotations/instances.json").write_text("{}")
    return tmp_path


def read(path):
    return np.asarray(Image.open(path))


def translate(networks, name, *options):
    return generate.main([f"--network={networks / name}.safetensors", *options])


@pytest.mark.parametrize("own_scale, mode", [(False, "compiled"), (True, "eagerly")])
def test_photos_of_any_size(place, networks, request, own_scale, mode, capsys):
    """Each result has its photo's size and is what the network draws from it; a repeated command
    continues, another direction is refused."""
    request.getfixturevalue(mode)
    flag = ["--own-scale"] if own_scale else []
    options = ["--source=photos", "--out=out", "--direction=BtoA",
               "--own-scale" if own_scale else "--minibatch=2"]
    translate(networks, "whole", *options)
    text = capsys.readouterr().out
    assert "3 photos translated, 0 were there" in text
    assert ("at their own scale" if own_scale else "translated at 16x16") in text
    for name, (width, height) in SIZES.items():
        assert read(f"out/images/{name}.png").shape == (height, width, 3)
    translator = CycleTranslator(networks / "whole.safetensors", "BtoA", 2, own_scale)
    square, = translator.translate([read("photos/a.png")])
    network = translator._networks[0]
    expected = network(read("photos/a.png")[None].astype(np.float32) / 127.5 - 1)[0]
    assert np.abs(square - (127.5 * expected + 127.5)).max() < 1.01
    np.testing.assert_array_equal(square, read("out/images/a.png"))
    assert not np.array_equal(square, CycleTranslator(
        networks / "whole.safetensors", "AtoB", 2, own_scale).translate([read("photos/a.png")])[0])
    assert read("out/sheet.png").shape == (6 + 3 * 128 + 6, 6 + 3 * 134, 3)
    before = read("out/images/b.png")
    (place / "out/images/a.png").unlink()
    translate(networks, "whole", *options)
    assert "1 photos translated, 2 were there" in capsys.readouterr().out
    np.testing.assert_array_equal(read("out/images/b.png"), before)
    np.testing.assert_array_equal(read("out/images/a.png"), square)
    with pytest.raises(UserError, match=r"made in another way .direction BtoA there, AtoB now"):
        translate(networks, "whole", "--source=photos", "--out=out", *flag)


@pytest.mark.parametrize("height, width", [(1, 1), (4, 4), (3, 9)])
def test_own_scale_of_a_few_pixels(networks, rng, height, width):
    """The photo is mirrored up to the smallest side that the networks accept."""
    rgb = rng.integers(0, 256, (height, width, 3), np.uint8)
    translator = CycleTranslator(networks / "whole.safetensors", own_scale=True)
    result, = translator.translate([rgb])
    padded = np.pad(rgb, [(0, 8 - height), (0, max(8, -width // 4 * -4) - width), (0, 0)],
                    "symmetric")
    expected = translator._networks[0](padded[None].astype(np.float32) / 127.5 - 1)[0]
    assert np.abs(result - (127.5 * expected[:height, :width] + 127.5)).max() < 1.01


@pytest.fixture
def cropped(place):
    """Write a snapshot of a network whose photos A were cropped to squares."""
    data = two_datasets(place)
    content = json.loads((data[0] / "dataset.json").read_text())
    (data[0] / "dataset.json").write_text(json.dumps({**content, "options": {"fit": "crop"}}))
    return save_cyclegan(place / "cropped.safetensors", tiny(data))


def test_photos_for_a_network_of_cropped_photos(place, cropped, capsys):
    """Their shorter side has the training's size, so that objects have the same scale; they are not
    padded with white."""
    domains = read_header(cropped)["domains"]
    assert (domains["A"]["fit"], domains["B"]["fit"]) == ("crop", "pad")
    generate.main([f"--network={cropped}", "--source=photos", "--out=out"])
    assert "with a shorter side of 16 pixels, as in training" in capsys.readouterr().out
    network = CycleTranslator(cropped)._networks[0]
    for name, inner in {"a": (16, 16), "b": (23, 16), "c": (16, 89)}.items():
        photo = Image.open(f"photos/{name}.png")
        small = np.asarray(photo.resize(inner, Image.Resampling.HAMMING), np.float32)
        padded = np.pad(small, [*((0, -side % 4) for side in inner[::-1]), (0, 0)], "symmetric")
        result = 127.5 * network(padded[None] / 127.5 - 1)[0, :inner[1], :inner[0]] + 128
        whole = Image.fromarray(np.uint8(np.clip(result, 0, 255))).resize(
            photo.size, Image.Resampling.BICUBIC)
        assert np.abs(read(f"out/images/{name}.png").astype(int) - np.asarray(whole)).max() <= 1


def test_older_snapshots_do_not_record_how_squares_were_made(place, cropped, monkeypatch):
    header = read_header(cropped)
    for domain in header["domains"].values():
        domain.pop("fit")
    monkeypatch.setattr(CycleTranslator, "check", lambda *args: header)
    assert CycleTranslator(cropped).fit == "pad"


def test_own_scale_of_a_large_photo_works_in_tiles(networks, rng, monkeypatch):
    """Of bounded size, which cover all of it and blend into one another; small photos are whole."""
    monkeypatch.setattr(translators, "TILE", 32)
    monkeypatch.setattr(translators, "OVERLAP", 8)
    translator, seen = CycleTranslator(networks / "whole.safetensors", own_scale=True), []
    translator._networks = [lambda images: seen.append(images.shape[1:3]) or images] * 2
    for height, width in ((70, 101), (16, 200), (33, 32), (32, 32), (12, 80)):
        rgb = rng.integers(0, 256, (height, width, 3), np.uint8)
        result, = translator.translate([rgb])
        assert np.abs(result.astype(int) - rgb).max() <= 1
        assert all(np.prod(shape) <= 32 * 32 for shape in seen)
        assert (len(seen) == 1) == (height * width <= 32 * 32)
        seen.clear()
    translator._networks = [lambda images: 0 * images + next(tints)] * 2
    tints = iter(np.float32([-0.8, 0.8]))
    row = translator.translate([np.zeros((32, 56, 3), np.uint8)])[0][0, :, 0].astype(int)
    assert (row[:24] == 26).all() and (row[32:] == 230).all()
    assert (np.diff(row[23:33]) > 15).all()


def test_reconstructions_are_made_by_the_other_generator(place, networks):
    """On the sheet: the photo, the result, and the result translated back."""
    translate(networks, "whole", "--source=photos", "--out=out", "--own-scale")
    back, = CycleTranslator(networks / "whole.safetensors", "BtoA", own_scale=True).translate(
        [read("out/images/a.png")])
    column = read("out/sheet.png")[6:, 6:134]
    for row, expected in enumerate((read("photos/a.png"), read("out/images/a.png"), back)):
        square = column[128 * row:128 * (row + 1)]
        np.testing.assert_array_equal(square, Image.fromarray(expected).resize(
            (128, 128), Image.Resampling.HAMMING))


def test_garments_of_pairs(place, networks, capsys):
    """Pixels of other labels keep every bit, labels and other files are copied, and records gain
    the translation; the result is a source for the dataset tool, and for another translation."""
    translate(networks, "box", "--source=pairs", "--out=out")
    for name in SIZES:
        rgb, labels = read(f"pairs/images/{name}.png"), read(f"pairs/labels/{name}.png")
        new = read(f"out/images/{name}.png")
        np.testing.assert_array_equal(new[labels != 2], rgb[labels != 2])
        assert np.abs(new[labels == 2].astype(int) - rgb[labels == 2]).mean() > 10
        np.testing.assert_array_equal(read(f"out/labels/{name}.png"), labels)
    for name in ("annotations/instances.json", "classes.txt"):
        assert (place / "out" / name).read_text() == (place / "pairs" / name).read_text()
    first = read_samples("out/samples.jsonl")
    done = first[1]["retextured"][0]
    digest = CycleTranslator(networks / "box.safetensors").digest
    assert (done["network"], done["direction"], done["garment"]) == (digest, "AtoB", ["box"])
    assert first[1]["sha256"] != "s" and first[1]["seed"] == 1
    with pytest.raises(UserError, match="a CycleGAN has changed these pairs"):
        generate.main(["--replay=out/samples.jsonl"])
    generator = save_network(place / "rgb.safetensors", ("hat", "box"))
    with pytest.raises(UserError, match="holds pairs that a CycleGAN has changed since"):
        generate.main([f"--network={generator}", "--num=2", "--out=out"])
    translate(networks, "whole", "--source=out", "--garment=hat,box", "--direction=BtoA",
              "--out=twice")
    assert [step["direction"] for step in read_samples("twice/samples.jsonl")[0]["retextured"]] == [
        "AtoB", "BtoA"]
    assert dataset_tool.main(["create_from_masks", "--source=out", "--resolution=16", "--num-val=0",
                              "--num-test=0", "--out=data", "--workers=1"]) in (None, 0)


def test_photos_whose_maps_a_segmenter_makes(place, tmp_path):
    """Its folder with the photos beside the maps is a source, at the photos' own sizes."""
    data, segmenter = coloured_dataset(tmp_path / "data"), tmp_path / "segmenter"
    train(segmenter_config(data, kimg=0.016, tick_kimg=0.016), segmenter)
    network = save_cyclegan(tmp_path / "red.safetensors", tiny((data, data), garment="red"))
    Image.open("photos/b.png").save("photos/b.jpg", quality=98)
    (place / "photos/b.png").unlink()
    with pytest.raises(UserError, match=r"--source=photos --out=maps, and copy .* to maps/images"):
        generate.main([f"--network={network}", "--source=photos"])
    generate.main([f"--network={segmenter}", "--source=photos", "--out=maps"])
    shutil.copytree("photos", "maps/images")
    generate.main([f"--network={network}", "--source=maps", "--out=out"])
    for name, (width, height) in SIZES.items():
        before = read(f"photos/{name}.{'jpg' if name == 'b' else 'png'}")
        after, labels = read(f"out/images/{name}.png"), read(f"maps/labels/{name}.png")
        assert after.shape == (height, width, 3)
        np.testing.assert_array_equal(after[labels != 1], before[labels != 1])


def test_pairs_in_shards(place, networks, capsys):
    """Each becomes a shard of the result; a repeated command finds all of them there."""
    shutil.copytree("pairs", "sharded/shard-00000-of-00002")
    (place / "pairs").rename("sharded/shard-00001-of-00002")
    for expected in ("6 photos translated, 0 were there", "0 photos translated, 6 were there"):
        translate(networks, "box", "--source=sharded", "--out=out")
        assert expected in capsys.readouterr().out
        shard = place / "out/shard-00001-of-00002"
        assert len(read_samples(shard / "samples.jsonl")) == len(list(shard.glob("images/*"))) == 3


@pytest.mark.parametrize("name, options, error", [
    ("box", ["--source=photos"], "translates box alone and needs to know where that is"),
    ("whole", ["--source=pairs"], "--garment: missing"),
    ("whole", ["--source=photos", "--garment=box"], "--garment: photos is not a folder of pairs"),
    ("whole", ["--source=pairs", "--garment=coat"],
     "--garment: 'coat' is none of the classes hat, box"),
    ("whole", ["--source=nowhere"], "--source=nowhere: no such file or folder"),
    ("whole", ["--source=photos", "--out=pairs"], "holds files, but no retexturing.json"),
    ("whole", ["--source=photos", "--own-scale", "--minibatch=2"],
     "--minibatch: without effect: --own-scale translates photos one by one"),
    ("whole", ["--seeds=1"], "snapshot of --variant=cyclegan"),
    ("whole", ["--seeds=1", "--own-scale"], "--own-scale.*it is for --source"),
])
def test_wrong_options_are_refused(place, networks, name, options, error):
    with pytest.raises(UserError, match=error):
        translate(networks, name, *options)


@pytest.mark.parametrize("name", ["box", "whole"])
def test_photos_of_a_data_set_are_to_be_extracted_first(place, networks, name):
    two_datasets(place, num_test=(2, 0))
    for source, command in (("a", "extract a --out=extracted"),
                            ("a/test", "extract a --split=test --out=extracted")):
        with pytest.raises(UserError, match=f"--source={source}: a data set.*: .*{command}$"):
            translate(networks, name, f"--source={source}", "--out=out")


def test_masks_of_0_and_255_are_refused(place, networks):
    """Nothing in them would be the one garment."""
    (place / "pairs/classes.txt").write_text("box\n")
    for path in (place / "pairs/labels").iterdir():
        Image.fromarray(np.where(read(path) == 1, 255, 0).astype(np.uint8)).save(path)
    with pytest.raises(UserError, match=r"pairs/labels: .* 0 and 255 alone; 'box' is 1"):
        translate(networks, "box", "--source=pairs")


def test_a_damaged_record_is_named(place, networks):
    translate(networks, "whole", "--source=photos", "--out=out")
    file = place / "out/retexturing.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "photos": {**record["photos"], "a.png": 3}}))
    with pytest.raises(UserError, match=r"retexturing\.json: damaged"):
        translate(networks, "whole", "--source=photos", "--out=out")


def test_other_networks_cannot_translate_photos(place, networks):
    rgb = save_network(place / "rgb.safetensors", ())
    with pytest.raises(UserError, match=r"--direction.*it is for a CycleGAN"):
        generate.main([f"--network={rgb}", "--source=photos", "--direction=BtoA"])
    with pytest.raises(UserError, match="which translates no photos"):
        CycleTranslator(rgb)


def test_photos_that_cannot_be_read_are_left_out(place, networks, capsys):
    (place / "photos/d.png").write_bytes(b"no picture")
    translate(networks, "whole", "--source=photos", "--out=out")
    text = capsys.readouterr().out
    assert "left out: photos/d.png" in text and "3 photos translated, 0 were there" in text


@pytest.mark.parametrize("source", ["photos", "pairs"])
def test_photos_that_are_read_at_half_their_size(place, networks, monkeypatch, source):
    """The results have the size stated in their files."""
    monkeypatch.setattr("dnnlib.data.photos._FULL_SIZE", 100)
    translate(networks, "whole", f"--source={source}", "--out=out",
              *(["--garment=box"] if source == "pairs" else []))
    for name, (width, height) in SIZES.items():
        assert read(f"out/images/{name}.png").shape == (height, width, 3)


def contents(folder):
    """Return {file: bytes} of everything but the record."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*")
            if path.is_file() and path.name != "retexturing.json"}


def coco(*names):
    """Return COCO's JSON of pictures with one box each."""
    return json.dumps({
        "categories": [{"id": 1, "name": "hat"}, {"id": 2, "name": "box"}],
        "images": [{"id": number, "file_name": f"{name}.png"} for number, name in enumerate(names)],
        "annotations": [{"id": 9 + number, "image_id": number} for number in range(len(names))]})


def test_changed_pairs_are_translated_again(place, networks, compiled, capsys, monkeypatch):
    """The result equals a new folder: after labels were edited in a file of the same size, pairs
    were made again, the source has grown, or the list of classes has changed."""
    monkeypatch.setattr(CycleTranslator, "load", functools.cache(CycleTranslator.load))

    def check(name, expected):
        translate(networks, "box", "--source=pairs", "--out=out")
        assert expected in capsys.readouterr().out, name
        translate(networks, "box", "--source=pairs", f"--out={name}")
        capsys.readouterr()
        assert contents(place / "out") == contents(place / name), name

    check("fresh", "3 photos translated, 0 were there")
    labels, size = read("pairs/labels/a.png"), (place / "pairs/labels/a.png").stat().st_size
    for quality in range(10):  # one of the zip streams has the old size
        Image.fromarray(np.where(labels > 0, 3 - labels, 0).astype(np.uint8)).save(
            "pairs/labels/a.png", compress_level=quality)
        if (place / "pairs/labels/a.png").stat().st_size == size:
            break
    check("edited", "1 photos translated, 2 were there")
    for kind in ("images", "labels"):
        Image.fromarray(read(f"pairs/{kind}/b.png")[::-1]).save(f"pairs/{kind}/b.png")
        shutil.copy(f"pairs/{kind}/c.png", f"pairs/{kind}/d.png")
    (place / "pairs/annotations/instances.json").write_text(coco("a", "b", "c", "d"))
    check("grown", "2 photos translated, 2 were there")
    (place / "pairs/classes.txt").write_text("box\nhat\n")
    for name in ("annotations/instances.json", "samples.jsonl"):
        (place / "pairs" / name).unlink()
    check("renumbered", "4 photos translated, 0 were there")
    (place / "out/overlays/a.png").unlink()
    check("missing", "1 photos translated, 3 were there")


def test_unreadable_pairs_are_left_out_entirely(place, networks, capsys):
    """Even if they could be read before: no labels, annotations or samples remain."""
    (place / "pairs/annotations/instances.json").write_text(coco("a", "b", "c", "d"))
    (place / "pairs/annotations/notes.json").write_text("[1]")
    (place / "pairs/images/d.heic").write_bytes(b"a picture of another kind")
    (place / "pairs/images/a.txt").write_text("on a.png")
    translate(networks, "box", "--source=pairs", "--out=out")
    (place / "pairs/images/b.png").write_bytes(b"no picture")
    for out, expected in (("out", "0 photos translated, 2 were there"),
                          ("new", "2 photos translated, 0 were there")):
        capsys.readouterr()
        translate(networks, "box", "--source=pairs", f"--out={out}")
        said = capsys.readouterr().out
        assert expected in said and "left out: pairs/images/b.png" in said
        assert not list((place / out).rglob("b.png"))
        kept = json.loads((place / out / "annotations/instances.json").read_text())
        assert [image["file_name"] for image in kept["images"]] == ["a.png", "c.png"]
        assert [one["id"] for one in kept["annotations"]] == [9, 11]
        assert len(kept["categories"]) == 2
        assert (place / out / "annotations/notes.json").read_text() == "[1]"
        assert [record["seed"] for record in read_samples(place / out / "samples.jsonl")] == [0, 2]


def test_annotations_name_the_files_that_are_written(place, networks):
    """PNGs, even for pairs whose pictures are JPEGs."""
    for name in "abc":
        Image.fromarray(read(f"pairs/images/{name}.png")).save(f"pairs/images/{name}.jpg")
        (place / f"pairs/images/{name}.png").unlink()
    path = place / "pairs/annotations/instances.json"
    path.write_text(coco("a", "b", "c").replace(".png", ".jpg"))
    translate(networks, "box", "--source=pairs", "--out=out")
    written = json.loads((place / "out/annotations/instances.json").read_text())
    assert written == json.loads(coco("a", "b", "c"))
    assert all((place / "out/images" / image["file_name"]).is_file()
               for image in written["images"])


def test_a_stop_in_the_first_minibatch_is_continued(place, networks, monkeypatch):
    """The folder has pictures that are not in the record yet; the command continues."""
    def stop(*args):
        raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("generation.retexturing.pictures.overlay", stop)
        translate(networks, "box", "--source=pairs", "--out=out")
    assert (place / "out/images/a.png").is_file()
    translate(networks, "box", "--source=pairs", "--out=out")
    assert len(read_samples("out/samples.jsonl")) == 3
