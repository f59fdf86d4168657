"""Label maps of photos: sizes, repeats, files that are not photos."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import dataset_tool
import generate
from dnnlib.util import UserError
from generation import labelling
from tests.tools.labelled_pictures import coloured_dataset, picture, tiny, train
from training.segmentation.labeller import Labeller


@pytest.fixture(scope="module")
def labeller(tmp_path_factory):
    """Return a network that distinguishes red from green."""
    root = tmp_path_factory.mktemp("segmenter")
    train(tiny(coloured_dataset(root / "data"), kimg=0.8, tick_kimg=0.8), root / "run")
    return Labeller.load(root / "run")


def test_maps_have_their_photos_sizes(labeller, tmp_path, rng):
    """A picture enlarged to four sizes has the same map, enlarged, at nearly every pixel."""
    rgb, truth = picture(rng)
    source, out = tmp_path / "photos", tmp_path / "out"
    source.mkdir()
    wide = np.full((16, 24, 3), 255, np.uint8)
    wide[:, 4:20] = rgb
    Image.fromarray(rgb).save(source / "same.png")
    Image.fromarray(rgb).resize((64, 64), Image.Resampling.NEAREST).save(source / "large.png")
    Image.fromarray(wide).resize((72, 48), Image.Resampling.NEAREST).save(source / "wide.jpg",
                                                                         quality=98)
    (source / "broken.png").write_bytes(b"no photo")
    made, kept, unreadable = labelling.label_photos(labeller, source, out, 2)
    assert (made, kept) == (3, 0) and len(unreadable) == 1 and "broken.png" in unreadable[0]
    for name, size in (("same", (16, 16)), ("large", (64, 64)), ("wide", (72, 48))):
        with Image.open(out / f"labels/{name}.png") as image:
            assert image.size == size and image.mode == "P"
            labels = np.asarray(image)
        assert (out / f"overlays/{name}.png").is_file()
        if name != "wide":
            enlarged = np.kron(truth, np.ones((size[0] // 16,) * 2, np.uint8))
            assert (labels == enlarged).mean() > 0.9
    assert (out / "classes.txt").read_text() == "red\ngreen\n"
    # A repeat makes missing maps, and maps of a changed photo, even if its file has the old size.
    (out / "labels/wide.png").unlink()
    Image.fromarray(rgb[::-1]).resize((48, 48)).save(source / "same.png")
    assert labelling.label_photos(labeller, source, out, 2)[:2] == (2, 1)
    with Image.open(out / "labels/same.png") as image:
        assert image.size == (48, 48)
    content = (source / "wide.jpg").read_bytes()
    (source / "wide.jpg").write_bytes(content[:-9] + bytes(7) + content[-2:])
    assert labelling.label_photos(labeller, source, out, 2)[:2] == (1, 2)
    (source / "large.png").write_bytes(b"no photo any more")
    assert labelling.label_photos(labeller, source, out, 2)[:2] == (0, 2)
    assert not list(out.rglob("large.png"))
    record = json.loads((out / "labeller.json").read_text())
    (out / "labeller.json").write_text(json.dumps({**record, "network": "0" * 64}))
    with pytest.raises(UserError, match=r"maps made in another way \(network 0000"):
        labelling.label_photos(labeller, source, out, 2)
    (out / "labeller.json").unlink()
    with pytest.raises(UserError, match="holds files, but no labeller"):
        labelling.label_photos(labeller, source, out, 2)


def test_probabilities_are_compared_at_the_photos_pixels():
    """The square's padding is cut off; between two pixels the larger probability wins."""
    probabilities = np.zeros((4, 4, 3), np.float32)
    probabilities[..., 0] = 0.2
    probabilities[:, 1, 1] = probabilities[:, 2, 2] = 0.8
    probabilities[:, [0, 3], 0] = 9  # left and right of a photo twice as high as wide
    labels = labelling.label_map_from_probabilities(probabilities, (8, 16))
    assert labels.shape == (16, 8)
    np.testing.assert_array_equal(labels[0], [1, 1, 1, 1, 2, 2, 2, 2])


def test_the_background_must_be_likelier_than_all_classes_together():
    chances = np.array([[[0.4, 0.35, 0.25], [0.6, 0.3, 0.1]],
                        [[0.45, 0.2, 0.35], [0.1, 0.9, 0.0]]], np.float32)
    np.testing.assert_array_equal(labelling.label_map_from_probabilities(chances, (2, 2)),
                                  [[1, 0], [2, 1]])


def test_the_command(labeller, tmp_path, rng, capsys):
    source = tmp_path / "photos"
    source.mkdir()
    Image.fromarray(picture(rng)[0]).save(source / "a.png")
    (source / "b.jpg").write_bytes(b"no photo")
    network, out = f"--network={labeller.path}", tmp_path / "out"
    assert generate.main([network, f"--source={source}", f"--out={out}"]) == 0
    said = capsys.readouterr().out
    assert "1 label maps written, 0 were there" in said and "left out: " in said
    assert f"--masks={out}/labels --classes={out}/classes.txt" in said
    for wrong, message in (([network, "--seeds=3"], "generates nothing"),
                           ([network, f"--source={source}", "--trunc=1"], "--trunc: without eff"),
                           (["--network=docs/models/ccp-2d-32.safetensors", f"--source={source}"],
                            "a segmentation network is wanted")):
        with pytest.raises(UserError, match=message):
            generate.main(wrong)
    # The next command makes a data set of it; a photo that cannot be read is left out there too.
    assert dataset_tool.main(["create_from_masks", f"--images={source}", f"--masks={out}/labels",
                              f"--classes={out}/classes.txt", "--resolution=16", "--num-val=0",
                              "--num-test=0", f"--out={tmp_path / 'labelled'}"]) == 0


def test_maps_of_reduced_photos_have_the_files_size(tmp_path, rng, monkeypatch):
    """Whether the photo is turned or not."""
    monkeypatch.setattr("dnnlib.data.photos._FULL_SIZE", 300)
    planes = np.eye(2, dtype=np.float32)
    left = np.where(np.arange(16)[:, None] < 8, planes[1], planes[0])
    stub = SimpleNamespace(
        path="net", digest="d", classes=("coat",), resolution=16,
        probabilities=lambda rgb: np.broadcast_to(left, (len(rgb), 16, 16, 2)))
    (tmp_path / "photos").mkdir()
    for name, size in (("even", (32, 20)), ("odd", (31, 21)), ("small", (16, 10))):
        Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8)).save(
            tmp_path / f"photos/{name}.png")
    turned = Image.new("RGB", (20, 32)).getexif()
    turned[0x0112] = 6
    Image.new("RGB", (20, 32)).save(tmp_path / "photos/turned.jpg", exif=turned)
    assert labelling.label_photos(stub, tmp_path / "photos", tmp_path / "out", 2)[0] == 4
    for name, (width, height) in (("even", (32, 20)), ("odd", (31, 21)), ("small", (16, 10)),
                                  ("turned", (32, 20))):
        with Image.open(tmp_path / f"out/labels/{name}.png") as image:
            labels = np.asarray(image)
        assert labels.shape == (height, width)
        assert (labels[:, :width // 2] == 1).all() and not labels[:, width // 2 + 1:].any()


def test_photos_are_recognised_by_their_content(tmp_path):
    """As by dataset_tool.py create_from_images."""
    picture = Image.new("RGB", (4, 4))
    for suffix, kind in (("tif", "TIFF"), ("gif", "GIF"), ("ppm", "PPM"), ("jfif", "JPEG"),
                         ("avif", "AVIF"), ("", "PNG")):
        picture.save(tmp_path / f"{kind}.{suffix}".rstrip("."), format=kind)
    (tmp_path / "notes.txt").write_text("no photo")
    (tmp_path / ".hidden.tif").write_bytes((tmp_path / "TIFF.tif").read_bytes())
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "nothing").symlink_to("nowhere")
    assert [path.name for path in labelling.find_photos(tmp_path)] == [
        "AVIF.avif", "GIF.gif", "JPEG.jfif", "PNG", "PPM.ppm", "TIFF.tif"]


def test_folders_without_photos_and_equal_stems_are_refused(tmp_path):
    for path, message in ((tmp_path / "nowhere", "no such folder"), (tmp_path, "no photos")):
        with pytest.raises(UserError, match=message):
            labelling.find_photos(path)
    for name in ("a.png", "a.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"a\.jpg and a\.png would become one file"):
        labelling.find_photos(tmp_path)
