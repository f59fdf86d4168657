"""Metrics of folders as users have them: odd files and names, results elsewhere, no cache."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import dataset_tool
import run_metrics
from dnnlib import download
from dnnlib.data.dataset import open_dataset
from dnnlib.util import UserError
from metrics import results
from metrics.features import source_features
from metrics.image_sources import folder_source, open_images, split_source
from metrics.metric_base import limit_metric, parse_metric
from metrics.networks import inception_weights
from tests.tools.metrics_helpers import StubDetector, small_arrays, write_files

TURNS = {1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
         5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a, 1), 7: lambda a: np.rot90(
             a, 2).transpose(1, 0, 2), 8: lambda a: np.rot90(a, -1)}


@pytest.fixture
def photos(rng):
    """Return ten pictures uint8 [16, 16, 3], with colours of four levels."""
    return (rng.integers(0, 4, (10, 16, 16, 3)) * 85).astype(np.uint8)


def save_all(folder, photos, save):
    """Write photo i with save(pixels, i, path without suffix)."""
    folder.mkdir()
    for i, photo in enumerate(photos):
        save(photo, i, str(folder / str(i)))
    return folder


def plain(pixels, i, stem):
    Image.fromarray(pixels).save(f"{stem}.png")


def turned(pixels, i, stem):
    """Store a photo so that its EXIF orientation, a different one for each, turns it upright."""
    exif = Image.Exif()
    exif[0x0112] = 1 + i % 8
    Image.fromarray(np.ascontiguousarray(TURNS[1 + i % 8](pixels))).save(f"{stem}.png", exif=exif)


def with_alpha(pixels, i, stem):
    """Make the white pixels transparent, whatever colour is stored there."""
    alpha = np.where((pixels == 255).all(-1), 0, 255).astype(np.uint8)
    hidden = np.where(alpha[..., None] == 0, np.uint8(7), pixels)
    Image.fromarray(np.dstack([hidden, alpha])).save(f"{stem}.png")


def as_bmp(pixels, i, stem):
    Image.fromarray(pixels).save(f"{stem}.BMP")


def with_hidden_files(pixels, i, stem):
    plain(pixels, i, stem)
    folder, name = os.path.split(stem)
    with open(f"{folder}/._{name}.png", "wb") as file:
        file.write(b"\0\5\26\7\0\2\0\0Mac OS X")


def in_latin_1(pixels, i, stem):
    folder, name = os.path.split(stem)
    Image.fromarray(pixels).save(os.fsdecode(os.fsencode(folder) + b"/caf\xe9" + name.encode()
                                             + b".png"))


def linked(pixels, i, stem):
    folder, name = os.path.split(stem)
    os.makedirs(f"{folder}-elsewhere", exist_ok=True)
    plain(pixels, i, f"{folder}-elsewhere/{name}")
    os.symlink(f"{folder}-elsewhere/{name}.png", f"{stem}.png")


FORMS = [turned, with_alpha, as_bmp, with_hidden_files, in_latin_1, linked]


@pytest.mark.parametrize("save", FORMS)
def test_the_same_pictures_in_other_files(photos, tmp_path, save):
    source = folder_source(save_all(tmp_path / "fakes", photos, save))
    assert source.count == 10 and source.sizes == {(16, 16): 10} and not source.left_out
    for (rgb, _), photo in zip(source.batches(), photos, strict=True):
        np.testing.assert_array_equal(rgb[0], photo)
    digest = folder_source(save_all(tmp_path / "plain", photos, plain)).digest
    if save in (turned, with_alpha, with_hidden_files, linked):
        assert source.digest == digest
    photos[3, 0, 0, 0] ^= 1
    assert folder_source(save_all(tmp_path / "other", photos, plain)).digest != digest


def test_sixteen_bit_grey_and_names_without_suffix(rng, tmp_path):
    """16 bits are divided by 257; a PNG is recognised by its content."""
    deep = rng.integers(0, 2**16, (5, 7), np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", tmp_path / "a")
    os.link(tmp_path / "a", tmp_path / "b.data")
    Image.fromarray(deep[::2] > 30000).save(tmp_path / "c.png")
    source = folder_source(tmp_path)
    first, second, third = (rgb[0] for rgb, _ in source.batches())
    np.testing.assert_array_equal(first, np.repeat((deep // 257)[..., None], 3, axis=-1))
    np.testing.assert_array_equal(second, first)
    np.testing.assert_array_equal(third[..., 0], (deep[::2] > 30000) * 255)
    assert source.sizes.most_common() == [((7, 5), 2), ((7, 3), 1)]
    assert source.names() == ["a", "b.data", "c.png"]


def test_metrics_read_the_data_sets_pixels(photos, tmp_path):
    for number, save in enumerate([turned, with_alpha, as_bmp, in_latin_1]):
        part = save_all(tmp_path / "part", photos[number:number + 2], save)
        for path in part.iterdir():
            path.rename(tmp_path / os.fsdecode(b"%d-" % number + os.fsencode(path.name)))
        part.rmdir()
    (tmp_path / "photos").mkdir()
    for path in tmp_path.glob("*.*"):
        path.rename(tmp_path / "photos" / path.name)
    out = tmp_path / "set"
    dataset_tool.main(["create_from_images", f"--source={tmp_path / 'photos'}", f"--out={out}",
                       "--resolution=16", "--workers=1"])
    info = open_dataset(out)
    stored = split_source(info, "train", 16)
    seen = folder_source(tmp_path / "photos")
    assert stored.count == seen.count == 8
    stored_rgb = np.concatenate([rgb for rgb, _ in stored.batches()])
    by_name = dict(zip(stored.names(), stored_rgb))
    for name, (rgb, _) in zip(seen.names(), seen.batches()):
        written = name.encode("utf-8", "backslashreplace").decode()
        np.testing.assert_array_equal(rgb[0], by_name[written])


def spoil(folder):
    """Put a truncated JPEG, a text called .png and other files into a folder."""
    Image.new("RGB", (64, 64), (9, 8, 7)).save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:-9])
    (folder / "page.png").write_text("<html>")
    (folder / "notes.txt").write_text("no picture")
    (folder / "link.png").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.png")  # reading it would block forever


def test_unusable_files_are_counted(photos, tmp_path):
    folder = save_all(tmp_path / "fakes", photos, plain)
    spoil(folder)
    source = folder_source(folder)
    assert source.count == len(list(source.batches())) == 10
    line, = source.left_out
    assert "left out (4): cut.jpg (" in line and "link.png (link to nothing), notes.txt" in line
    assert line.endswith(" and 1 more")
    (folder / "notes.txt").unlink()
    line, = folder_source(folder).left_out
    assert "page.png (not a readable image (a web page, not a picture: download it again))" in line


def test_folders_without_readable_images_are_refused(tmp_path):
    spoil(tmp_path)
    with pytest.raises(UserError, match=r"no images directly .*; left out \(4\): cut.jpg \("):
        folder_source(tmp_path)
    for path in tmp_path.glob("*.*"):
        path.unlink()
    with pytest.raises(UserError, match=r"no images directly in this folder$"):
        folder_source(tmp_path)
    (tmp_path / "x-r04.tfrecords").touch()
    with pytest.raises(UserError, match=r"record files without dataset\.json.*create_from_images"):
        open_images(tmp_path, "test")


class Corner(StubDetector):
    """Features of an image's upper left quarter: rotated pictures have others."""

    def resize(self, images):
        height, width = images.shape[1:3]
        return super().resize(images[:, :height // 2, :width // 2])


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return a function (options...): run_metrics.py with a stub detector and a separate cache."""
    monkeypatch.setenv("STYLE_C_GAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("metrics.networks.inception.load_detector", lambda *options: Corner())
    return lambda *options: run_metrics.main([f"--results={tmp_path / 'results'}", *options])


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_distances_of_copies_are_zero_whatever_their_files(run, photos, tmp_path, capsys):
    reals = save_all(tmp_path / "reals", photos, plain)
    for name, save in (("turned", turned), ("latin", in_latin_1), ("clear", with_alpha)):
        fakes = save_all(tmp_path / name, photos, save)
        assert run("--metrics=fid50k,kid10", f"--reals={reals}", f"--fakes={fakes}") == 0
        record, = lines_of(tmp_path / "results" / f"metrics-{name}" / "metric-fid10.jsonl")
        assert abs(record["results"]["fid10"]) < 1e-6
        assert len(list(fakes.iterdir())) == len(list(reals.iterdir())) == 10
    said = capsys.readouterr()
    assert "fid50k" not in said.out and "sizes" not in said.err and "left out" not in said.err
    assert said.err.count("fid50k: there are only 10 fakes; computed and recorded as fid10") == 3


def test_paths_that_are_not_unicode_are_recorded(run, photos, tmp_path):
    fakes = save_all(tmp_path / os.fsdecode(b"caf\xe9"), photos, plain)
    assert run("--metrics=kid5", f"--reals={fakes}", f"--fakes={fakes}", "--nearest=0") == 0
    where = tmp_path / "results" / f"metrics-{fakes.name}"
    record, = lines_of(where / "metric-kid5.jsonl")
    sheet = json.loads((where / "nearest-0.json").read_text())
    assert record["fakes"]["path"] == sheet["fakes"]["path"] == str(fakes)


def test_sizes_and_skipped_files_get_one_warning(run, photos, tmp_path, capsys):
    fakes = save_all(tmp_path / "fakes", photos[:7], plain)
    for i, size in enumerate([(8, 12), (8, 12), (3, 3)]):
        Image.new("RGB", size, (i, 9, 9)).save(fakes / f"x{i}.png")
    spoil(fakes)
    reals = save_all(tmp_path / "reals", photos[:, :8], plain)
    assert run("--metrics=kid5,kid6", "--nearest=1", f"--reals={reals}", f"--fakes={fakes}") == 0
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 3 and all(line.startswith("warning: ") for line in warnings)
    assert f"{fakes}: left out (4): cut.jpg" in warnings[0]
    assert "images of 3 sizes, most often 16x16 (7 of 10) and 8x12 (2 of 10)" in warnings[1]
    assert "fakes are 16x16 (7 of 10), the reals of reals 16x8: that alone" in warnings[2]


@pytest.mark.parametrize("size, about, advice", [
    ((10, 16), {"resolution": 16}, "generate.py --keep-padding writes pairs of the reals' size"),
    ((16, 32), {"resolution": 16}, "--resolution takes reals of another size"),
    ((10, 16), {}, "dataset_tool.py create_from_images makes a data set of one size")])
def test_advice_on_sizes_knows_pairs_without_padding(capsys, size, about, advice):
    reals = SimpleNamespace(name="mine train", sizes=Counter({(16, 16): 3}), about=about)
    results.warn_sizes(Counter({size: 5}), {"reals": reals})
    assert capsys.readouterr().err.rstrip().endswith(f"changes the metrics; {advice}")


@pytest.mark.parametrize("name, count, expected", [
    ("fid50k", 1200, "fid1200"), ("pr9003_full", 700, "pr7003_full"),
    ("fid50k_full", 2000, "fid2k_full"), ("kid50k", 7, "kid7"),
    ("pr50k3_full", 1003, "pr10033_full"), ("is50k", 10000, "is10k")])
def test_names_of_metrics_give_the_counts(name, count, expected):
    assert limit_metric(parse_metric(name), count) == parse_metric(expected)
    assert limit_metric(parse_metric(name), None) == parse_metric(name) == limit_metric(
        parse_metric(name), 50_000)


# A cache that cannot be written

def unwritable(tmp_path, kind, monkeypatch):
    """Return the cache's folder after making it impossible to write there."""
    if kind == "a file in the way":
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("STYLE_C_GAN_CACHE", str(tmp_path / "file" / "cache"))
    elif kind == "no such place":
        monkeypatch.delenv("STYLE_C_GAN_CACHE", raising=False)
        monkeypatch.setenv("HOME", "/proc/nothere")
    elif kind == "no home":
        monkeypatch.delenv("STYLE_C_GAN_CACHE", raising=False)
        monkeypatch.setattr(download.Path, "home", no_home)
    else:
        monkeypatch.setattr(download.os, "posix_fallocate", full)
    return download.cache_dir()


def no_home():
    raise RuntimeError("Could not determine home directory.")


def full(fd, offset, length):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("kind", ["a file in the way", "no such place", "no home", "full"])
def test_nothing_fails_without_a_cache(run, photos, tmp_path, kind, monkeypatch, capsys):
    folder = unwritable(tmp_path, kind, monkeypatch)
    monkeypatch.setattr("dnnlib.download._reported", set())
    fakes = save_all(tmp_path / "fakes", photos, plain)
    for _ in range(2):
        run("--metrics=fid10", "--nearest=2", f"--reals={fakes}", f"--fakes={fakes}")
    for record in lines_of(tmp_path / "results" / "metrics-fakes" / "metric-fid10.jsonl"):
        assert abs(record["results"]["fid10"]) < 1e-6
    said = capsys.readouterr().err
    assert said.count("nothing is kept for the next time") == said.count("STYLE_C_GAN_CACHE") == 1
    assert str(folder) in said
    assert not folder.exists() or not list(folder.iterdir())


def test_a_read_only_cache_is_used(photos, tmp_path, monkeypatch):
    source = folder_source(save_all(tmp_path / "reals", photos, plain))
    kept = source_features(source, StubDetector(), tmp_path / "cache")
    monkeypatch.setattr(download.os, "posix_fallocate", full)
    detector, lines = StubDetector(), []
    np.testing.assert_array_equal(
        source_features(source, detector, tmp_path / "cache", lines.append), kept)
    assert not detector.batches and not lines


def test_weights_are_used_even_if_they_cannot_be_cached(tmp_path, monkeypatch):
    """Downloaded weights too, which then go to a temporary folder."""
    unwritable(tmp_path, "a file in the way", monkeypatch)
    monkeypatch.setattr("dnnlib.download._reported", set())
    lines, paths = [], write_files(tmp_path, small_arrays())

    def fetch(url, path, **expected):
        assert path.parent.is_dir() and tmp_path not in path.parents
        return Path(shutil.copy(paths["tgz"], path))
    monkeypatch.setattr(inception_weights, "download", fetch)
    weights = inception_weights.find_inception(report=lines.append)
    assert weights.has_logits and len(lines) == 2
    assert lines[0].startswith("fetching ") and "STYLE_C_GAN_CACHE" in lines[1]
