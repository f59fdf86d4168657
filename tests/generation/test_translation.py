"""generate.py --maps and --from: photos from label files, data sets and generated maps."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

import generate
import run_metrics
from dnnlib.data import channels, pictures, pyramid
from dnnlib.data.class_list import write_class_list
from dnnlib.data.dataset import open_dataset, open_split
from dnnlib.data.labelled import PairFolder
from dnnlib.util import UserError
from generation.labelling import find_photos
from generation.translation import LabelFiles, fit_maps
from tests.tools.data_helpers import one_hot
from tests.tools.generators import save_network
from tests.tools.labelled_pictures import CLASSES, coloured_dataset
from tests.tools.translations import save_translator
from training.sampler import Sampler, label_maps
from training.translation.translator import Translator

pytestmark = pytest.mark.usefixtures("eagerly")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return save_translator(tmp_path_factory.mktemp("network") / "network.safetensors")


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def folder_of_maps(path, shapes, seed=1):
    """Write label PNGs of these shapes with a list of classes; return the maps."""
    rng = np.random.default_rng(seed)
    path.mkdir(parents=True)
    found = [rng.integers(0, 3, shape).astype(np.uint8) for shape in shapes]
    for number, labels in enumerate(found):
        pictures.save_label_png(path / f"map{number}.png", labels, 2)
    write_class_list(path, CLASSES)
    return found


def swapped_in_files_of_one_size(path):
    """Return a label map, and one with labels 1 and 2 swapped, whose PNGs are equally long."""
    def size(labels):
        pictures.save_label_png(path, labels, 2)
        return path.stat().st_size
    rng = np.random.default_rng(7)
    while True:
        labels = rng.integers(0, 3, (16, 16)).astype(np.uint8)
        swapped = np.array([0, 2, 1], np.uint8)[labels]
        if size(labels) == size(swapped):
            return labels, swapped


def run(*options):
    return generate.main([str(option) for option in options])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_photos_of_label_files_are_a_folder_of_pairs(network, compiled, tmp_path, capsys):
    """They are what the network draws from the map, with the dropout of seed 0."""
    found = folder_of_maps(tmp_path / "maps", [(16, 16)] * 3)
    assert run(f"--network={network}", f"--maps={tmp_path / 'maps'}", "--minibatch=2",
               f"--out={tmp_path / 'out'}") == 0
    said = capsys.readouterr().out
    assert "3 photos made, 0 were there" in said and "resized" not in said
    pairs = PairFolder(tmp_path / "out", 16)
    assert pairs.classes == CLASSES and len(pairs) == 3
    drawn = Translator(network).translate(one_hot(np.stack(found), 2), [0, 0, 0])
    for number, labels in enumerate(found):
        rgb, written = pairs.read(number)
        np.testing.assert_array_equal(written, labels)
        expected = pictures.to_uint8_metrics(drawn[number])
        assert np.abs(rgb.astype(int) - expected).max() <= 1 and rgb.std() > 5


def test_several_photos_of_a_map_and_repeats(network, tmp_path, capsys):
    """The same command makes missing photos, more samples are added, and a changed map is drawn
    again, even if its file has the old size; the bytes equal an uninterrupted run's."""
    maps, out, photos = tmp_path / "maps", tmp_path / "out", []
    folder_of_maps(maps, [(16, 16)] * 3)
    command = f"--network={network}", f"--maps={maps}", "--minibatch=2", "--samples=2"
    run(*command, f"--out={out}")
    assert names(out / "images") == sorted(f"map{n}{s}.png" for n in range(3) for s in ("", "-1"))
    assert (read(out / "images/map1.png") != read(out / "images/map1-1.png")).any()
    np.testing.assert_array_equal(read(out / "labels/map1.png"), read(out / "labels/map1-1.png"))
    again = tmp_path / "again"
    run(*command[:3], f"--out={again}")
    (again / "images/map1.png").unlink()
    capsys.readouterr()
    run(*command, f"--out={again}")
    assert "4 photos made, 2 were there already" in capsys.readouterr().out
    for path in (out / "images").iterdir():
        np.testing.assert_array_equal(read(again / "images" / path.name), read(path))
    for labels in swapped_in_files_of_one_size(tmp_path / "tried.png"):
        pictures.save_label_png(maps / "map0.png", labels, 2)
        run(*command, f"--out={out}")
        assert "2 photos made, 4 were there" in capsys.readouterr().out
        photos.append(read(out / "images/map0.png"))
        np.testing.assert_array_equal(read(out / "labels/map0-1.png"), labels)
    assert (photos[0] != photos[1]).any()


def test_maps_of_other_sizes(network, tmp_path, capsys):
    """Resized by nearest neighbour, padded to a square if needed, and written without the padding;
    ignored pixels are background."""
    large, wide, _ = folder_of_maps(tmp_path / "maps", [(32, 32), (8, 16), (16, 16)])
    ignored = np.where(np.arange(16) < 4, channels.IGNORE, 1).astype(np.uint8)
    Image.fromarray(np.tile(ignored, (16, 1))).save(tmp_path / "maps/map2.png")
    run(f"--network={network}", f"--maps={tmp_path / 'maps'}", f"--out={tmp_path / 'out'}")
    assert "resized to 16x16 by nearest pixels" in capsys.readouterr().out
    np.testing.assert_array_equal(read(tmp_path / "out/labels/map0.png"), large[1::2, 1::2])
    np.testing.assert_array_equal(read(tmp_path / "out/labels/map1.png"), wide)
    assert read(tmp_path / "out/images/map1.png").shape == (8, 16, 3)
    np.testing.assert_array_equal(read(tmp_path / "out/labels/map2.png")[0], ignored % 255)
    square = fit_maps([wide], 16, 2)
    np.testing.assert_array_equal(channels.to_label_map(square.segmaps[0], 127)[4:12], wide)
    assert square.segmaps[0, :4].max() == 0 and square.boxes == [(0, 4, 16, 12)]


def test_maps_for_a_network_of_cropped_photos(tmp_path, capsys):
    """Their middle squares are drawn, like the cropped photos of its training."""
    path = save_translator(tmp_path / "cropped.safetensors", about={"fit": "crop"})
    large, wide, _ = folder_of_maps(tmp_path / "maps", [(32, 48), (16, 26), (16, 16)])
    run(f"--network={path}", f"--maps={tmp_path / 'maps'}", f"--out={tmp_path / 'out'}")
    assert "were cut to their middle squares and resized to 16x16" in capsys.readouterr().out
    for number, expected in enumerate((large[1::2, 9:40:2], wide[:, 5:21])):
        np.testing.assert_array_equal(read(tmp_path / f"out/labels/map{number}.png"), expected)
        assert read(tmp_path / f"out/images/map{number}.png").shape == (16, 16, 3)


def test_maps_of_data_sets_and_of_pairs(network, tmp_path):
    """All splits or one; a folder of pairs, a folder with only labels/, and shards."""
    data = coloured_dataset(tmp_path / "data")
    common = f"--network={network}", "--minibatch=4"
    run(*common, f"--maps={data / 'val'}", f"--out={tmp_path / 'val'}")
    pairs = PairFolder(tmp_path / "val", 16)
    stored = [pairs.read(number)[1] for number in range(len(pairs))]
    assert len(stored) == 4
    run(*common, f"--maps={data}", f"--out={tmp_path / 'all'}")
    assert len(names(tmp_path / "all/images")) == 32
    run(*common, f"--maps={tmp_path / 'val'}", f"--out={tmp_path / 'again'}")
    shutil.rmtree(tmp_path / "val/images")
    (tmp_path / "shards").mkdir()
    shutil.copytree(tmp_path / "val", tmp_path / "shards/shard-00000-of-00001")
    for source in ("val", "shards"):
        run(*common, f"--maps={tmp_path / source}", f"--out={tmp_path / f'of-{source}'}")
        for number in range(4):
            np.testing.assert_array_equal(
                read(tmp_path / f"of-{source}/labels/{number:07d}.png"), stored[number])
            np.testing.assert_array_equal(
                read(tmp_path / f"of-{source}/images/{number:07d}.png"),
                read(tmp_path / f"again/images/{number:07d}.png"))


def test_soft_edges_of_stored_maps_are_kept(tmp_path):
    """At a size below the data set's own, as in training; the labels are of the larger shares."""
    data, out = coloured_dataset(tmp_path / "data"), tmp_path / "out"
    network = save_translator(tmp_path / "small.safetensors", resolution=8)
    run(f"--network={network}", f"--maps={data / 'val'}", f"--out={out}")
    records = open_split(open_dataset(data), "val", 8)
    maps = np.stack([records.read_maps(number).transpose(1, 2, 0) for number in range(4)])
    assert ((maps > 0) & (maps < 255)).mean() > 0.01
    drawn = pictures.to_uint8_metrics(Translator(network).translate(maps, [0] * 4)).astype(int)
    for number, (photo, shares) in enumerate(zip(drawn, maps)):
        assert np.abs(read(out / f"images/{number:07d}.png") - photo).max() <= 1
        np.testing.assert_array_equal(read(out / f"labels/{number:07d}.png"),
                                      np.where(shares.max(-1) > 127, 1 + shares.argmax(-1), 0))


def test_photos_of_generated_maps(network, tmp_path, capsys):
    """From seeds, or a number of them: the generator's maps, cropped like its pairs."""
    generator = save_network(tmp_path / "2d.safetensors", CLASSES)
    command = f"--network={network}", f"--from={generator}", f"--out={tmp_path / 'out'}"
    assert run(*command, "--seeds=3-5") == 0
    sampler = Sampler.load(generator)
    images, = sampler.seed_images([3, 4, 5], 1.0, "random", 3)
    for seed, labels in zip((3, 4, 5), label_maps(images)):
        written = read(tmp_path / f"out/labels/{seed:07d}.png")
        factor = 16 // sampler.resolution
        expected = labels.repeat(factor, 0).repeat(factor, 1)
        assert written.shape == expected.shape and (written == expected).mean() > 0.98
    run(*command, "--num=4", "--first-seed=4")
    assert "2 photos made, 2 were there already" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"in another way \(source.trunc 1.0 there, 0.5 now"):
        run(*command, "--seeds=3", "--trunc=0.5")


def test_padding_of_generated_maps_is_no_map(tmp_path):
    """It is cut off, and made again as the network's own photos were: background, or none."""
    about = {"resolution": 16, "content_box": [3, 0, 13, 16]}
    generator = save_network(tmp_path / "2d.safetensors", CLASSES, dataset=about)
    images, = Sampler.load(generator).seed_images([3], 1.0, "random", 8)
    inner = label_maps(images)[0][:, 3:13]
    for fit, expected in (("pad", inner), ("crop", pyramid.fit_label_map(inner, 16, "crop"))):
        path = save_translator(tmp_path / f"{fit}.safetensors", about={"fit": fit})
        run(f"--network={path}", f"--from={generator}", "--seeds=3", f"--out={tmp_path / fit}")
        assert (read(tmp_path / fit / "labels/0000003.png") == expected).mean() > 0.98
        square = fit_maps([read(tmp_path / fit / "labels/0000003.png")], 16, 2)
        photo = pictures.to_uint8_metrics(Translator(path).translate(square.segmaps, [0]))[0]
        left, top, right, bottom = square.boxes[0]
        np.testing.assert_array_equal(read(tmp_path / fit / "images/0000003.png"),
                                      photo[top:bottom, left:right])


def test_maps_of_a_label_of_several_numbers(network, tmp_path, capsys):
    """The record has a list in place of the option's tuple."""
    generator = save_network(tmp_path / "2d.safetensors", CLASSES, label_size=2)
    command = f"--network={network}", f"--from={generator}", f"--out={tmp_path / 'out'}"
    for seeds, expected in (("3", "1 photos made, 0"), ("3-4", "1 photos made, 1 were there")):
        run(*command, "--label=0.5,0.5", f"--seeds={seeds}")
        assert expected in capsys.readouterr().out
    with pytest.raises(UserError, match=r"source.label \[0.5, 0.5\] there, \[0.5, 0.25\] now"):
        run(*command, "--label=0.5,0.25", "--seeds=3")


def test_shards_have_the_same_classes(tmp_path):
    """Otherwise the same number would be another class."""
    for number, classes in enumerate((CLASSES, CLASSES[::-1])):
        folder_of_maps(shard := tmp_path / f"shard-{number:05d}-of-00002" / "labels", [(16, 16)])
        (shard / "map0.png").rename(shard / f"other{number}.png")
        (shard / "classes.txt").unlink()
        write_class_list(shard.parent, classes)
    with pytest.raises(UserError, match=r"00001-of-00002/classes.txt: names green, red, but .*"
                                        r"00000-of-00002/classes.txt red, green: shards need"):
        LabelFiles(tmp_path)
    write_class_list(shard.parent, CLASSES)
    assert LabelFiles(tmp_path).classes == CLASSES


def test_formats_of_label_files(tmp_path):
    """PNG in capitals counts; a JPEG may be a PNG's photo, but it is not silently left out."""
    folder = tmp_path / "maps"
    folder_of_maps(folder, [(16, 16), (8, 8)])
    (folder / "map0.png").rename(folder / "map0.PNG")
    Image.new("RGB", (16, 16)).save(folder / "map0.jpg")
    assert LabelFiles(folder).names == ["map0", "map1"]
    Image.new("RGB", (16, 16)).save(folder / "map2.jpg")
    with pytest.raises(UserError, match=r"map2\.jpg: no PNG; label maps are PNGs: save it as one"):
        LabelFiles(folder)


def test_masks_of_0_and_255_are_refused(tmp_path):
    """Of one class, they would be maps without the class."""
    (tmp_path / "classes.txt").write_text("hat\n")
    Image.fromarray(np.uint8([[0, 255]])).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="0 and 255 alone; 'hat' is 1"):
        LabelFiles(tmp_path)


def failure(*options):
    """Return the message of a command that fails."""
    with pytest.raises(UserError) as error:
        run(*options)
    return str(error.value)


def test_options_that_do_not_fit_are_refused(network, tmp_path):
    maps, out = tmp_path / "maps", f"--out={tmp_path / 'out'}"
    folder_of_maps(maps, [(16, 16)])
    common = f"--network={network}", f"--maps={maps}", out
    (tmp_path / "empty").mkdir()
    assert "no such file or folder" in failure(common[0], "--maps=nowhere", out)
    assert "no label maps there" in failure(common[0], f"--maps={tmp_path / 'empty'}", out)
    other = save_translator(tmp_path / "other.safetensors", ("red", "blue"))
    assert "the maps have the classes red, green" in failure(f"--network={other}", *common[1:])
    plain = save_translator(tmp_path / "plain.safetensors", dropout=0.0, seed=4)
    assert "--samples=2: " in failure(f"--network={plain}", *common[1:], "--samples=2")
    shutil.copy(maps / "map0.png", maps / "map0-1.png")
    assert "two photos would be called map0-1" in failure(*common, "--samples=2")
    run(*common)
    assert "photos made in another way (network " in failure(f"--network={plain}", *common[1:])
    assert "is the folder of --maps, or contains it" in failure(*common[:2], f"--out={maps}")
    generator = save_network(tmp_path / "rgb.safetensors", ())
    assert "draws no maps" in failure(common[0], f"--from={generator}", out)
    assert "which draws no photos from maps" in failure(f"--network={generator}", *common[1:])
    assert "generates nothing of seeds" in failure(common[0], "--seeds=0")
    assert failure(common[0], f"--from={network}", out).endswith(
        "generates nothing of seeds; name a generator (train.py --variant=2d)")
    assert "--from: without effect: it goes with --seeds or --num alone, not with --maps" in \
        failure(*common, "--from=3")
    assert "--num counts from --first-seed" in failure(common[0], "--from=3", "--num=3",
                                                       "--seeds=1")
    assert "--trunc: without effect" in failure(*common, "--trunc=0.5")
    assert "--samples: without effect: it is for --maps, --from" in failure("--samples=2")
    assert "--first-seed: without effect: it is for --num" in failure("--from=3", "--first-seed=2")
    with pytest.raises(UserError, match="which reals"):
        run_metrics.main([common[0], "--metrics=fid4"])
    (maps / "classes.txt").unlink()
    assert f"{maps / 'classes.txt'}: no such file; write the class names into" in failure(*common)


def test_the_record_lists_finished_photos(network, tmp_path):
    folder_of_maps(tmp_path / "maps", [(16, 16)])
    run(f"--network={network}", f"--maps={tmp_path / 'maps'}", f"--out={tmp_path / 'out'}")
    record = json.loads((tmp_path / "out/translation.json").read_text())
    assert record["network"] == Translator(network).digest and record["classes"] == list(CLASSES)
    assert list(record["photos"]) == ["map0"]


def test_pipes_do_not_block(tmp_path):
    """Neither among maps nor among photos."""
    folder_of_maps(tmp_path / "maps", [(16, 16)])
    os.mkfifo(tmp_path / "maps/a.png")
    assert LabelFiles(tmp_path / "maps").names == ["map0"]
    shutil.copy(tmp_path / "maps/map0.png", tmp_path / "maps/LARGE.PNG")
    assert LabelFiles(tmp_path / "maps").names == ["LARGE", "map0"]
    (tmp_path / "maps/LARGE.PNG").unlink()
    assert [path.name for path in find_photos(tmp_path / "maps")] == ["map0.png"]
