"""Features: streaming statistics, batches, the cache, and where images come from."""

import shutil

import numpy as np
import pytest
from PIL import Image

from dnnlib.data.channels import palette, to_label_map
from dnnlib.data.class_list import write_class_list
from dnnlib.data.dataset import open_dataset
from dnnlib.data.pictures import save_label_png, save_png
from dnnlib.util import UserError
from metrics.features import (
    FeatureSet,
    fake_features,
    minibatches,
    source_features,
    source_maps,
)
from metrics.image_sources import (
    ImageSource,
    folder_source,
    open_images,
    pair_source,
    split_source,
)
from metrics.map_quality import MapMeasure, count_regions
from tests.tools.data_helpers import make_dataset, random_image
from tests.tools.metrics_helpers import StubDetector


def images_source(images, digest="content", batch=3):
    """Return an ImageSource of an array that counts how often it is read."""
    reads = []

    def batches(maps=False, signed=False):
        reads.append(1)
        for i in range(0, len(images), batch):
            part = images[i:i + batch]
            yield part, part[..., 0] // 86 if maps else None
    source = ImageSource("some", len(images), digest, batches, {}, ("a", "b"))
    return source, reads


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (10, 8, 8, 3), np.uint8)


def test_statistics_have_a_common_offset_without_loss(rng):
    x = (rng.standard_normal((500, 6)) * 1e-3 + 1e3).astype(np.float32)
    statistics = FeatureSet(x).statistics
    np.testing.assert_allclose(statistics.mean, x.astype(np.float64).mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(statistics.cov, np.cov(x.astype(np.float64), rowvar=False),
                               rtol=1e-9, atol=1e-18)
    assert statistics.cov.dtype == np.float64


def test_covariance_of_one_sample():
    with pytest.raises(UserError, match="covariance of 1 samples"):
        _ = FeatureSet(np.ones((1, 4), np.float32)).statistics


@pytest.mark.parametrize("sizes", [[10], [1] * 10, [3, 3, 3, 1], [4, 6], [9, 1]])
def test_minibatches_are_full_for_any_input_sizes(images, sizes):
    detector = StubDetector()
    parts = list(minibatches(np.split(images, np.cumsum(sizes)[:-1]), detector))
    np.testing.assert_array_equal(np.concatenate(parts), detector.resize(images))
    assert [len(part) for part in parts] == [4, 4, 2]


def test_minibatches_accept_images_of_several_sizes(rng):
    sizes = [(8, 8), (5, 9), (8, 8)]
    images = [rng.integers(0, 256, (2, *size, 3), np.uint8) for size in sizes]
    assert [len(part) for part in minibatches(images, StubDetector())] == [4, 2]


def test_minibatches_refuse_floats(images):
    with pytest.raises(ValueError, match="float32"):
        next(minibatches([images.astype(np.float32)], StubDetector()))


def test_fakes_stop_at_the_count(images):
    def generate(count):
        return iter([(images, None), (images, None)])
    assert len(fake_features(generate, 13, StubDetector())) == 13
    with pytest.raises(UserError, match="20 images where 21"):
        fake_features(generate, 21, StubDetector())


@pytest.mark.parametrize("devices", [1, 2, 3])
def test_features_and_areas_of_fakes_in_one_pass(rng, devices):
    """With any devices and batches: every image's features and areas are in its row."""
    images = rng.integers(0, 256, (41, 8, 8, 3), np.uint8)
    maps = rng.integers(0, 3, (41, 8, 8), np.uint8)

    def generate(count):
        return ((images[i:i + 5], maps[i:i + 5]) for i in range(0, count, 5))
    detector = StubDetector(devices=devices)
    fakes = fake_features(generate, 38, detector, ["areas", "regions"], 2, 0.3)
    np.testing.assert_array_equal(fakes.features, detector.features(detector.resize(images[:38])))
    shares = np.stack([(maps[:38] == label).mean(axis=(1, 2)) for label in (1, 2)], axis=1)
    np.testing.assert_allclose(fakes.areas, shares, rtol=1e-6)
    np.testing.assert_array_equal(fakes.instances, (shares > 0.3).sum(axis=0))
    np.testing.assert_array_equal(fakes[:7].instances, (shares[:7] > 0.3).sum(axis=0))
    np.testing.assert_array_equal(fakes.maps["regions"], count_regions(maps[:38], 2))
    np.testing.assert_array_equal(fakes[7:9].maps["regions"], fakes.maps["regions"][7:9])
    alone = fake_features(generate, 38, measures=["areas"], num_classes=2)
    np.testing.assert_array_equal(alone.areas, fakes.areas)
    assert alone.features is None and len(alone) == 38


def test_real_features_are_cached_by_content(images, tmp_path):
    source, reads = images_source(images)
    first = source_features(source, StubDetector(), tmp_path)
    again = source_features(source, StubDetector(), tmp_path)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, source_features(source, StubDetector()))
    assert len(reads) == 2  # once for the cache, once without a cache
    assert isinstance(again, np.memmap)

    other = images_source(images[::-1], digest="other")[0]
    assert not np.array_equal(source_features(other, StubDetector(), tmp_path), first)
    detector = StubDetector()
    detector.digest = "other"
    source_features(source, detector, tmp_path)
    assert len(reads) == 3
    assert len(list(tmp_path.iterdir())) == 3


def test_measures_of_real_maps_are_cached_separately(images, tmp_path):
    source, reads = images_source(images)
    source_features(source, StubDetector(), tmp_path)
    first, again = (source_maps(source, "areas", tmp_path) for _ in range(2))
    expected = [(images[..., 0] // 86 == label).mean(axis=(1, 2)) for label in (1, 2)]
    np.testing.assert_allclose(first, np.stack(expected, axis=1), rtol=1e-6)
    np.testing.assert_array_equal(first, again)
    assert len(reads) == 2 and isinstance(again, np.memmap)
    other = images_source(images[::-1], digest="other")[0]
    np.testing.assert_array_equal(source_maps(other, "areas", tmp_path), first[::-1])
    regions, cached = (source_maps(source, "regions", tmp_path) for _ in range(2))
    np.testing.assert_array_equal(regions, count_regions(images[..., 0] // 86, 2))
    np.testing.assert_array_equal(regions, cached)
    assert len(reads) == 3 and isinstance(cached, np.memmap)


@pytest.mark.parametrize("devices", [1, 2])
def test_photos_and_pairs_in_one_pass(rng, devices):
    """Every view's features are in the row of its image, whatever the batches."""
    images = rng.integers(0, 256, (13, 8, 8, 3), np.uint8)
    maps = rng.integers(0, 3, (13, 8, 8), np.uint8)

    def generate(count):
        return ((images[i:i + 5], maps[i:i + 5]) for i in range(0, 13, 5))
    detector = StubDetector(devices=devices)
    fakes = fake_features(generate, 11, detector, num_classes=2, views=["photo", "pair"])
    beside = np.concatenate([images, palette(2)[maps]], axis=2)
    np.testing.assert_array_equal(fakes.features, detector.features(detector.resize(images[:11])))
    np.testing.assert_array_equal(fakes.pairs.features,
                                  detector.features(detector.resize(beside[:11])))
    alone = fake_features(generate, 11, detector, num_classes=2, views=["pair"])
    assert alone.features is None and len(alone) == 11
    np.testing.assert_array_equal(alone[2:4].pairs.features, fakes.pairs.features[2:4])


def test_pairs_of_reals_are_cached_separately_from_photos(images, tmp_path):
    source, reads = images_source(images)
    photos = source_features(source, StubDetector(), tmp_path)
    pairs, again = (source_features(source, StubDetector(), tmp_path, view="pair")
                    for _ in range(2))
    np.testing.assert_array_equal(pairs, again)
    assert len(reads) == 2 and not np.array_equal(photos, pairs)
    detector, maps = StubDetector(), palette(2)[images[..., 0] // 86]
    np.testing.assert_array_equal(pairs, detector.features(detector.resize(
        np.concatenate([images, maps], axis=2))))


def test_a_measure_with_a_network_is_cached_by_its_digest(images, tmp_path):
    source, reads = images_source(images)
    for digest, value in (("one", 1), ("two", 2), ("one", 3)):
        known = {"mine": MapMeasure(lambda pairs, num_classes, value=value: np.full(
            (len(pairs.rgb), 1), value), lambda num_classes: 1, digest=digest)}
        expected = {"one": 1, "two": 2}[digest]
        assert (source_maps(source, "mine", tmp_path, known=known) == expected).all()
    assert len(reads) == 2


@pytest.mark.parametrize("damage", [lambda p: p.write_bytes(b""), lambda p: p.write_bytes(b"xy"),
                                    lambda p: p.write_bytes(p.read_bytes()[:-9]),
                                    lambda p: np.save(p, np.zeros((3, 3)))])
def test_a_damaged_cache_is_made_again(images, tmp_path, damage):
    source, reads = images_source(images)
    features = source_features(source, StubDetector(), tmp_path).copy()
    damage(next(tmp_path.iterdir()))
    lines = []
    again = source_features(source, StubDetector(), tmp_path, lines.append)
    np.testing.assert_array_equal(again, features)
    assert len(reads) == 2 and lines[0].startswith("warning:")


def test_an_interrupted_pass_leaves_no_cache(images, tmp_path):
    def broken(maps):
        yield images, None
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        source_features(ImageSource("x", 20, "d", broken, {}), StubDetector(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_statistics_of_a_feature_set(rng):
    features = rng.standard_normal((2500, 3)).astype(np.float32)
    whole = FeatureSet(features)
    for part in (whole, whole[:2000], whole[1::2]):
        np.testing.assert_allclose(part.statistics.cov, np.cov(
            part.features.astype(np.float64), rowvar=False), rtol=1e-10)
    assert [len(part) for part in (whole[:2000], whole[1::2])] == [2000, 1250]
    assert whole[:2500] is whole and whole[:9999] is whole


def test_a_folder_source_reads_images(rng, tmp_path):
    big, small = (rng.integers(0, 256, (*size, 3), np.uint8) for size in ((6, 4), (3, 3)))
    Image.fromarray(big).save(tmp_path / "b.png")
    Image.fromarray(small[..., 0]).save(tmp_path / "A.PNG")
    (tmp_path / "notes.txt").write_text("no image")
    source = folder_source(tmp_path)
    first, second = source.batches()
    np.testing.assert_array_equal(first[0][0], np.repeat(small[..., :1], 3, axis=-1))
    np.testing.assert_array_equal(second[0][0], big)
    assert first[1] is None and source.classes == ()
    assert source.count == 2
    Image.fromarray(small[..., 1]).save(tmp_path / "A.PNG")
    assert folder_source(tmp_path).digest != source.digest


def test_folders_without_images_are_refused(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        folder_source(tmp_path / "nowhere")
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match=r"no images directly in this folder; .* images"):
        folder_source(tmp_path)


@pytest.fixture
def pairs(images, tmp_path):
    """Make a folder of three pairs, as generate.py writes them."""
    for i, image in enumerate(images[:3]):
        save_png(tmp_path / "images" / f"{i:07d}.png", image)
        save_label_png(tmp_path / "labels" / f"{i:07d}.png", image[..., 0] % 3, 2)
    write_class_list(tmp_path, ["a", "b"])
    return tmp_path


def test_a_pair_source_reads_photos_and_maps(pairs, images):
    source = pair_source(pairs)
    assert source.count == 3 and source.classes == ("a", "b")
    rgb, maps = (np.concatenate(part) for part in zip(*source.batches(maps=True)))
    np.testing.assert_array_equal(rgb, images[:3])
    np.testing.assert_array_equal(maps, images[:3, ..., 0] % 3)
    assert all(maps is None for _, maps in source.batches())
    save_label_png(pairs / "labels" / "0000001.png", np.zeros((8, 8)), 2)
    assert pair_source(pairs).digest != source.digest


def test_wrong_pairs_are_refused(pairs, images):
    write_class_list(pairs, ["a"])
    with pytest.raises(UserError, match=r"labels/000000\d.png: label 2, above the number"):
        list(pair_source(pairs).batches(maps=True))
    write_class_list(pairs, ["a", "b"])
    save_label_png(pairs / "labels" / "0000000.png", np.zeros((8, 12)), 2)
    with pytest.raises(UserError, match=r"0000000.png: 12x8 pixels, its picture has \d+x\d+"):
        list(pair_source(pairs).batches(maps=True))
    save_label_png(pairs / "labels" / "0000000.png", images[0, ..., 0] % 3, 2)
    save_png(pairs / "labels" / "0000002.png", images[0])
    with pytest.raises(UserError, match=r"0000002.png: a picture of colours"):
        list(pair_source(pairs).batches(maps=True))
    (pairs / "labels" / "0000001.png").unlink()
    with pytest.raises(UserError, match=r"0000001.png: missing: every picture"):
        pair_source(pairs)


def test_pairs_in_shards_are_one_source(pairs, tmp_path):
    whole = pair_source(pairs)
    photos = np.concatenate([rgb for rgb, _ in whole.batches()])
    for number, names in enumerate((["0000000", "0000001"], ["0000002"])):
        shard = tmp_path / "shards" / f"shard-{number:05d}-of-00002"
        for name in names:
            for folder in ("images", "labels"):
                (shard / folder).mkdir(parents=True, exist_ok=True)
                shutil.copy(pairs / folder / f"{name}.png", shard / folder)
        write_class_list(shard, ["a", "b"])
    shards = open_images(tmp_path / "shards", "train")
    assert shards.count == 3 and shards.classes == ("a", "b") and shards.digest == whole.digest
    np.testing.assert_array_equal(np.concatenate([rgb for rgb, _ in shards.batches()]), photos)


def test_a_split_source_reads_a_split(rng, tmp_path):
    images = np.stack([random_image(rng, 5, 4) for _ in range(10)])
    info = open_dataset(make_dataset(tmp_path / "toy", {"train": images, "test": images[:0]},
                                     ("a", "b")))
    source = split_source(info, "train", 4)
    assert source.count == 10 and source.digest == f"{info.digest} train 4"
    assert source.classes == ("a", "b")
    labels = to_label_map(images.transpose(0, 2, 3, 1)[..., 3:], threshold=127)
    for maps, indices in ((False, None), (True, [3, 1])):
        rgb, label_maps = next(source.batches(maps, indices))
        chosen = slice(None) if indices is None else indices
        np.testing.assert_array_equal(rgb, images.transpose(0, 2, 3, 1)[chosen, ..., :3])
        np.testing.assert_array_equal(label_maps, labels[chosen] if maps else None)
    _, signed = next(source.batches(maps=True, signed=True))
    np.testing.assert_allclose(signed, images.transpose(0, 2, 3, 1)[..., 3:] / 255 - 0.5, atol=1e-6)
    np.testing.assert_array_equal(to_label_map(signed), labels)
    with pytest.raises(UserError, match="no images in split 'test'; it has: train"):
        split_source(info, "test", 4)
