"""A CycleGAN on test photos: values against NumPy; the classifier; run_metrics.py."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import run_metrics
from dnnlib.data import pictures
from dnnlib.data.class_list import write_class_list
from dnnlib.data.labelled import PairFolder
from dnnlib.util import UserError
from metrics.cycle import domain_classifier as classifiers
from metrics.cycle.domain_classifier import load_or_train_classifier
from metrics.cycle.evaluation import compute_findings, evaluate_cyclegan
from metrics.cycle.networks import CycleNetworks
from metrics.cycle.photos import (
    CyclePhotos,
    cache_key,
    open_test_photos,
    open_training_photos,
)
from metrics.image_sources import open_images
from metrics.kernel_inception_distance import kernel_distance
from metrics.metric_base import parse_metrics
from tests.tools.data_helpers import make_dataset, tagged_and_untagged
from tests.tools.domains import RED, SIDE, boxes, save_cyclegan, tiny, two_datasets
from tests.tools.metrics_helpers import StubDetector, small_arrays
from tests.training.cycle.test_cyclegan import l1
from tests.training.cycle.test_losses import moved_to_the_middle
from training.cycle.domains import Domain
from training.snapshots import read_header

pytestmark = pytest.mark.usefixtures("eagerly")

NO_CHOICE = {"A": None, "B": None}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Use a separate cache, and a classifier of fewer steps."""
    monkeypatch.setenv("STYLE_C_GAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(classifiers, "RECIPE", classifiers.RECIPE | {
        "steps": 60, "lrate": 1e-2, "minibatch": 16})
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Make data sets of 8 and 9 photos, 3 and 2 of them for the test, and snapshots of untrained
    networks: of whole photos with critics of pictures, and of the garment box; also at half the
    photos' size, where its edges are soft."""
    root = tmp_path_factory.mktemp("cycle")
    data = two_datasets(root, counts=(8, 9), num_test=(3, 2))
    save_cyclegan(root / "whole.safetensors", tiny(data, critic="picture"))
    save_cyclegan(root / "box.safetensors", tiny(data, garment="box"))
    save_cyclegan(root / "soft.safetensors", tiny(data, garment="box", resolution=8))
    return root


@pytest.fixture(params=["whole", "box", "soft"])
def opened(place, request):
    """Return networks, and test and training photos with the maps of box."""
    path = place / f"{request.param}.safetensors"
    header = read_header(path)
    photos = open_test_photos(header, path, NO_CHOICE, "test", ("box",))
    return CycleNetworks(path), photos, open_training_photos(header, path, photos)


def floats(domain, number):
    """Return colours and mask of a photo, [1, R, R, 3] and [1, R, R, 1]."""
    photo = domain.read(domain.numbers[number])[None].astype(np.float32)
    return photo[..., :3] / np.float32(127.5) - 1, photo[..., 3:] / 255


def as_uint8(images):
    return np.clip(np.asarray(images) * 127.5 + 128, 0, 255).astype(np.uint8)


def test_values_on_test_photos(opened):
    """For each photo: terms of the objective, the mean colours of the critics' inputs, and what a
    classifier says that takes photos for B if they are rather blue than red."""
    networks, photos, training = opened

    def is_blue(images, *masks):
        return np.mean(images[..., 2] - images[..., 0], (1, 2)) > 0

    found = compute_findings(networks, photos, training, StubDetector(),
                             SimpleNamespace(classify_as_b=is_blue), minibatch=2)

    def logits(name, images):
        one = networks._networks[name]([tf.constant(images, tf.float32)]).numpy()
        return one.mean((1, 2)) if networks.config.critic == "picture" else one

    for side, other, there, back in (("A", "B", "G_AB", "G_BA"), ("B", "A", "G_BA", "G_AB")):
        terms, seen_fakes, seen_reals, right = [], [], [], []
        for number in range(len(photos.side(side).numbers)):
            rgb, box = floats(photos.side(side), number)
            _, other_box = floats(training.side(other), number)
            mask, other_mask = (box, other_box) if networks.has_garment else (
                np.ones_like(box), np.ones_like(box))
            region = moved_to_the_middle(mask, mask) * moved_to_the_middle(other_mask, other_mask)
            raw = networks._networks[there](rgb).numpy()
            fake = rgb + mask * (raw - rgb)
            again = fake + mask * (networks._networks[back](fake.astype(np.float32)).numpy() - fake)
            seen = moved_to_the_middle(fake, mask) * region
            real = moved_to_the_middle(rgb, mask) * region
            answer = logits(f"D_{other}", seen)
            terms.append({
                "fooled": ((answer - 1) ** 2).mean(), "fake": (answer ** 2).mean(),
                "real": ((logits(f"D_{side}", real) - 1) ** 2).mean(),
                "cycle": l1(again, rgb, mask), "background": l1(fake, rgb, 1 - box),
                "background_raw": l1(raw, rgb, 1 - box),
                "identity": l1(networks._networks[back](rgb).numpy(), rgb, mask)})
            right.append([is_blue(fake) == (other == "B"), is_blue(rgb) == (side == "B")])
            seen_fakes.append(as_uint8(seen).mean((0, 1, 2)))
            seen_reals.append(as_uint8(real).mean((0, 1, 2)))
        direction = f"{side}to{other}"
        for name, value in found.terms[direction].items():
            assert value == pytest.approx(np.mean([one[name] for one in terms]), rel=1e-4), name
        assert len(found.terms[direction]) == 7
        assert [found.accuracies[direction], found.accuracies[side]] == pytest.approx(
            np.mean(right, axis=0).ravel())
        # At the photos' own size, masks have no soft edges.
        assert (found.terms[direction]["background"] == 0) == (
            networks.has_garment and photos.A.resolution == SIDE)
        for features, means in ((found.translated[direction], seen_fakes),
                                (found.reals[side], seen_reals)):
            np.testing.assert_allclose(features.features[:, :3], means, atol=0.05)
    assert [len(found.training[side]) for side in "AB"] == [2, 3]


def test_the_classifier_tells_the_lists_apart(opened, cache, compiled, monkeypatch):
    """For unseen photos, and for photos with swapped colours; the next time it is read from the
    cache, and made again if that is damaged."""
    networks, photos, training = opened
    lines = []
    classifier = load_or_train_classifier(training, networks.has_garment, cache, lines.append)
    for side in "AB":
        (own, others), = photos.with_partners(side, 8, training)
        rgb = own[..., :3] / np.float32(127.5) - 1
        masks = networks.masks(own), networks.masks(others)
        for is_b, images in ((side == "B", rgb), (side == "A", rgb[..., ::-1])):
            assert (classifier.classify_as_b(tf.constant(images), *masks) == is_b).mean() >= 0.8
    monkeypatch.setattr(classifiers, "train_classifier", None)
    again = load_or_train_classifier(training, networks.has_garment, cache, lines.append)
    assert again.about == classifier.about and not lines
    path, = cache.glob("domains-*.npz")
    whole = path.read_bytes()
    path.write_bytes(b"damaged")
    with pytest.raises(TypeError):  # since it would be trained
        load_or_train_classifier(training, networks.has_garment, cache, lines.append)
    assert "is damaged" in lines[0]
    path.write_bytes(whole[:len(whole) // 2])
    with pytest.raises(TypeError):
        load_or_train_classifier(training, networks.has_garment, cache, lines.append)
    assert "is damaged" in lines[1]


class Toy:
    """A list of photos whose colours are independent of their garments' outlines; each outline is
    one share of the picture."""

    def __init__(self, rng, count):
        self.numbers = range(count)
        self._photos = rng.uniform(0, 2, (count, 1, 1, 8))

    def read(self, number):
        return self._photos[number]


def test_garments_of_one_distribution_have_no_distance(rng):
    """A garment is seen through its own outline and its partner's. Through one another's outlines
    two lists would be closer than chance allows, and so would floors."""
    def seen(lists, side, partners, **places):
        own, others = map(np.concatenate, zip(*lists.with_partners(side, 8, partners, **places)))
        return (own * others)[:, 0, 0].astype(np.float32)

    found = []
    for _ in range(300):
        photos = CyclePhotos(Toy(rng, 10), Toy(rng, 10))
        training = CyclePhotos(Toy(rng, 20), Toy(rng, 20))
        reals, fakes = (seen(photos, side, training) for side in "BA")
        floor = seen(training, "B", training, count=10, start=10)
        through_one_another = seen(photos, "B", photos), seen(photos, "A", photos)
        found.append([kernel_distance(first, second)[0] for first, second in (
            (fakes, reals), (floor, reals), through_one_another)])
    means, errors = np.mean(found, axis=0), np.std(found, axis=0) / np.sqrt(len(found))
    assert (np.abs(means[:2]) < 4 * errors[:2]).all()
    assert means[2] < -10 * errors[2]


def test_partners_are_garments_of_the_training_photos(place, monkeypatch):
    """Translated and real test photos share none; floors use another part than reals."""
    path, asked = place / "box.safetensors", []
    header = read_header(path)
    photos = open_test_photos(header, path, NO_CHOICE, "test")
    training = open_training_photos(header, path, photos)
    both = CyclePhotos.with_partners
    monkeypatch.setattr(CyclePhotos, "with_partners", lambda own, side, minibatch, partners, count,
                        start=0: asked.append((own is photos, side, partners is training, start))
                        or both(own, side, minibatch, partners, count, start))
    compute_findings(CycleNetworks(path), photos, training, StubDetector(), None, 4)
    assert sorted(asked) == [(False, "A", True, 4), (False, "B", True, 4),
                             *((True, side, True, 0) for side in "AABB")]


def test_maps_edited_in_place_are_other_photos(tmp_path):
    """The cache of pairs goes by the files' content: an edited map may have its old size."""
    write_class_list(tmp_path, ("hat", "box"))
    labels = np.full((16, 16), 1, np.uint8)
    pictures.save_png(tmp_path / "images/a.png", np.zeros((16, 16, 3), np.uint8))
    found = []
    for number in (1, 2):
        pictures.save_label_png(tmp_path / "labels/a.png", number * labels, 2)
        source = PairFolder(tmp_path)
        found.append((source.digest, cache_key(Domain.open(source, 16))))
    assert found[0][0] == found[1][0] and found[0][1] != found[1][1]


def test_photos_without_the_garment_are_measured_too(tmp_path, place):
    """By networks of whole photos: all is background. Networks of garments leave them out."""
    images = boxes(RED, 3, 1)
    images[0, 3] = images[0, 3].min()
    make_dataset(tmp_path / "own", {"test": images}, ("box",))
    given = {"A": str(tmp_path / "own"), "B": None}
    for name, count in (("whole", 3), ("box", 2)):
        path = place / f"{name}.safetensors"
        photos = open_test_photos(read_header(path), path, given, "test", ("box",))
        assert len(photos.A.numbers) == count
    assert not photos.A.mask(0).any()


@pytest.mark.slow
def test_a_line_has_everything_that_defines_a_value(place, compiled, tmp_path, monkeypatch,
                                                    capsys):
    """By run_metrics.py without --metrics, which computes all of them."""
    monkeypatch.chdir(tmp_path)
    np.savez("inception.npz", **small_arrays())
    shutil.copy(place / "box.safetensors", "box.safetensors")
    open_images.cache_clear()
    assert run_metrics.main(["--network=box.safetensors", "--inception=inception.npz"]) == 0
    records = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.jsonl")}
    assert set(records) == {f"metric-cycle{name}" for name in ("fid", "kid", "loss", "class")}
    for record in records.values():
        assert (record["num_A"], record["num_B"]) == (3, 2)
        assert record["network_digest"] == read_header(place / "box.safetensors")["digest"]
        assert record["photos"]["B"]["split"] == "test" and record["photos"]["B"]["digest"]
        assert "through the overlap" in record["seen"] and record["command"]
    kid, loss, answers = (records[f"metric-cycle{name}"] for name in ("kid", "loss", "class"))
    assert set(kid["results"]) == {f"cyclekid_{name}{suffix}" for suffix in ("", "_std")
                                   for name in ("AtoB", "BtoA", "untranslated")}
    assert kid["floor"]["results"].keys() < kid["results"].keys()
    assert kid["floor"]["num_training"] == {"A": 2, "B": 3}
    assert kid["detector_hash"]
    assert loss["results"]["cycleloss_background_AtoB"] == 0
    assert loss["results"]["cycleloss_background_raw_AtoB"] > 0 and loss["cycle_weight"] == 10
    assert answers["results"]["cycleclass_real"] >= 0.8 and answers["classifier"]["steps"] == 60
    assert answers["classifier"]["training_photos"]["A"]["split"] == "train"
    printed = capsys.readouterr()
    assert "3 photos A, 2 B" in printed.out and "cyclefid of 2 photos is biased" in printed.err


@pytest.mark.parametrize("options, error", [
    (["--metrics=fid50"], "fid50: .* generates none: .*name the images/ of their folder"),
    (["--nearest=0-3"], "--nearest: .*a CycleGAN translates"),
    (["--floor", "--metrics=cyclekid"], "--floor: .*floors of a CycleGAN are computed anyway"),
    (["--data=photos", "--target=others", "--split=val"], "--split: .*all photos of photos and ot"),
    (["--data=b", "--target=b"], "--target: b has the same photos as b, those of A; give those of"),
    (["--target=a", "--garment=box"], "--target: a has the same photos as .*/a, those of A"),
    (["--metrics=cycleloss", "--inception=x"], "--inception: .*none of these metrics uses"),
    (["--garment=hat"], "the garment: 'hat' is none of the classes box"),
    (["--garment=box", "--metrics=cyclefid"], "--garment: .*it is for cycleloss"),
    (["--split=train+test"], r"--split=train\+test: a CycleGAN is measured on one split"),
    (["--split=val"], "no images in split 'val'"),
    (["--data=other"], "--data=.*, the garment: 'box' is none of the classes hat"),
    (["--network=box.safetensors", "--garment=box"], "--garment: .* garments of its own"),
    (["--metrics=kid50", "--target=b"], "--target: .*it is for metrics of a CycleGAN"),
])
def test_wrong_options_are_refused(place, tmp_path, monkeypatch, options, error):
    monkeypatch.chdir(place)
    if "--data=other" in options:
        data, _ = tagged_and_untagged(tmp_path, 16, 6)
        options = [f"--data={data}", "--network=box.safetensors", "--split=train"]
    if "--data=photos" in options:
        for name, grey in (("photos", 0), ("others", 99)):
            Path(name).mkdir(exist_ok=True)
            Image.new("RGB", (16, 16), (grey,) * 3).save(f"{name}/0.png")
    network = [] if "--network=box.safetensors" in options else ["--network=whole.safetensors"]
    with pytest.raises(UserError, match=error):
        run_metrics.main([*network, *options])


def test_a_single_training_photo_is_refused_before_translation(tmp_path, monkeypatch):
    """Floors need two."""
    data = two_datasets(tmp_path, counts=(1, 5), num_test=(2, 2))
    path = save_cyclegan(tmp_path / "one.safetensors", tiny(data))
    photos = open_test_photos(read_header(path), path, NO_CHOICE, "test")
    monkeypatch.setattr(CycleNetworks, "measure", None)
    with pytest.raises(UserError, match=r"a: 1 photos A of the training, for floors; .*take 2 at"):
        evaluate_cyclegan(path, parse_metrics("cyclekid"), photos, StubDetector(), tmp_path,
                          command="", minibatch=2)


def test_two_garments_of_one_data_set_are_two_lists(tmp_path, capsys):
    """As in a training between them; neither list is taken for the other."""
    data, _ = tagged_and_untagged(tmp_path, 16, 6)
    config = tiny((data, data), garment="hat,coat")
    path = save_cyclegan(tmp_path / "own.safetensors", config)
    header = read_header(path)
    with pytest.raises(UserError, match="has the same photos as"):
        open_test_photos(header, path, NO_CHOICE, "train")
    header["domains"]["B"] |= {"garment": ["legs"]}
    photos = open_test_photos(header, path, NO_CHOICE, "train")
    assert photos.A.garment == ("hat", "coat") and photos.B.garment == ("legs",)
    assert "is the list" not in capsys.readouterr().err


def test_photos_of_folders(place, tmp_path, capsys):
    """A folder has no test split, so other photos must be given; training photos, and photos of the
    other list, get a warning."""
    path = place / "whole.safetensors"
    header = read_header(path)
    photos = open_test_photos(header, path, {"A": str(place / "a"), "B": None}, "train")
    assert isinstance(photos, CyclePhotos) and len(photos.A.numbers) == 8
    assert "has the same photos A that" in capsys.readouterr().err
    folder = tmp_path / "photos"
    folder.mkdir()
    tf.io.write_file(str(folder / "1.png"), tf.io.encode_png(tf.zeros([9, 9, 3], tf.uint8)))
    for fit in ("pad", "crop"):
        header["domains"]["A"] |= {"fit": fit}
        one = open_test_photos(header, path, {"A": str(folder), "B": None}, "test")
        assert len(one.A.numbers) == 1
        assert (f"photos: made square by --fit=pad, the training's by --fit={fit}: unless" in
                capsys.readouterr().err) == (fit == "crop")
    swapped = {"A": str(place / "b"), "B": str(place / "a")}
    capsys.readouterr()
    open_test_photos(header, path, swapped, "test")
    said = capsys.readouterr().err
    assert "/b is the list B of" in said and "/a is the list A of" in said
    header["domains"]["A"] |= {"path": str(folder)}
    with pytest.raises(UserError, match=r"--data: missing: .* a folder without a test split"):
        open_test_photos(header, path, NO_CHOICE, "test")
    # A data set that was moved is found if it is given.
    assert open_training_photos(header, path, photos).A.source.path == place / "a"
    photos = open_test_photos(header, path, {"A": str(folder), "B": None}, "test")
    with pytest.raises(UserError, match=r"is not the folder of the photos A.* data set as --data"):
        open_training_photos(header, path, photos)
    header["domains"]["A"] |= {"path": str(tmp_path / "gone")}
    with pytest.raises(UserError, match="no such folder here; it held the photos A"):
        open_test_photos(header, path, NO_CHOICE, "test")
