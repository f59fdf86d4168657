"""generate.py --poses: people of data sets and folders in other poses."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import dataset_tool
import generate
from dnnlib.data import coco, keypoints, pictures
from dnnlib.data.dataset import open_dataset
from dnnlib.util import UserError
from generation import posing
from tests.tools import people as tools
from tests.tools.people import people_dataset, save_reposer
from training.pose.people import PosePairs
from training.pose.reposer import Reposer

pytestmark = pytest.mark.usefixtures("eagerly")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return save_reposer(tmp_path_factory.mktemp("network") / "network.safetensors")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return people_dataset(tmp_path_factory.mktemp("data") / "people")


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def run(*options):
    return generate.main([str(option) for option in options])


def failure(*options):
    """Return the message of a command that fails."""
    with pytest.raises(UserError) as error:
        run(*options)
    return str(error.value)


@pytest.mark.slow
def test_every_photo_in_every_pose(network, data, tmp_path, capsys):
    """The files are what the network draws; poses are written as keypoints; the same command makes
    missing photos."""
    out = tmp_path / "out"
    command = (f"--network={network}", f"--source={data / 'val'}", f"--poses={data / 'train'}",
               "--num-images=3", "--minibatch=4", f"--out={out}")
    assert run(*command) == 0
    said = capsys.readouterr().out
    assert "9 photos made, 0 were there already" in said and "create_from_coco" in said
    content = json.loads((out / coco.KEYPOINTS_FILE).read_text())
    names = [entry["file_name"] for entry in content["images"]]
    assert sorted(path.name for path in (out / "images").iterdir()) == sorted(names)
    source, target = names[5].removesuffix(".png").split("-")
    numbers = int(source.removeprefix("val")), int(target.removeprefix("train"))
    pairs = [PosePairs(open_dataset(data), split, 16).read([number])
             for split, number in zip(("val", "train"), numbers)]
    drawn = Reposer(network).draw(pairs[0].source, pairs[0].source_points, pairs[1].source_points)
    expected = pictures.to_uint8_metrics(drawn)[0].astype(int)
    assert np.abs(read(out / "images" / names[5]) - expected).max() <= 1 and expected.std() > 5
    points = np.reshape(content["annotations"][5]["keypoints"], (-1, 3)) + (0.5, 0.5, 0)
    np.testing.assert_allclose(points, pairs[1].source_points[0] * (16, 16, 1), atol=1e-3)
    assert read(out / "sheet.png").shape[0] > 4 * 96
    before = read(out / "images" / names[5])
    (out / "images" / names[5]).unlink()
    run(*command)
    assert "1 photos made, 8 were there already" in capsys.readouterr().out
    np.testing.assert_array_equal(read(out / "images" / names[5]), before)
    assert "holds photos made in another way" in failure(
        *command[:2], f"--poses={data / 'val'}", *command[3:])


def test_folders_with_coco_keypoints(network, data, compiled, tmp_path, capsys):
    """As `extract` writes them; photos need not be squares; a changed pose is drawn again."""
    people = tmp_path / "people"
    assert dataset_tool.main(["extract", str(data), "--split=val", f"--out={people}"]) == 0
    photos = sorted(path.stem for path in (people / "images").iterdir())
    (tmp_path / "poses").mkdir()
    file = tmp_path / "poses" / "one.json"
    points = keypoints.read_keypoints(data, "val")[1] * (16, 16, 1)

    def write_pose(shift):
        coco.write_keypoints(file, tools.NAMES, (), [
            (1, "sub/wide.png", (32, 16), points + (shift, 0, 0))], "")

    write_pose(8)
    command = f"--network={network}", f"--source={people}", f"--out={tmp_path / 'out'}"
    assert run(*command, f"--poses={file}") == 0
    names = sorted(path.name for path in (tmp_path / "out/images").iterdir())
    assert names == [f"{photo}-wide.png" for photo in photos] and len(names) == 4
    first = read(tmp_path / "out/images" / names[0])
    assert first.shape == (8, 16, 3)  # of the square's 16 pixels
    capsys.readouterr()
    write_pose(10)
    run(*command, f"--poses={file}")
    assert "4 photos made, 0 were there" in capsys.readouterr().out
    assert (read(tmp_path / "out/images" / names[0]) != first).any()
    shutil.rmtree(people / "images")
    assert "No such file" in failure(*command[:2], f"--poses={file}", f"--out={tmp_path / 'new'}")


# Without a network

def write(source, poses, out, fit="pad"):
    """Draw all people of one place in all poses of another one, by a network of grey photos."""
    grey = SimpleNamespace(
        names=tools.NAMES, skeleton=keypoints.SKELETON, resolution=16, minibatch=3, digest="d",
        path=Path("grey"), draw=lambda photos, *points: np.zeros(photos.shape, np.float32))
    choices = [posing.Choice(figures, range(len(figures.names))) for figures in (
        posing.open_figures(source, fit), posing.open_figures(poses, fit))]
    return posing.PosingJob(grey, *choices, out).run()


@pytest.fixture
def people(data, tmp_path):
    """Write the validation people as files, and wide.png with the pose of one of them."""
    folder = tmp_path / "people"
    dataset_tool.main(["extract", str(data), "--split=val", f"--out={folder}"])
    (tmp_path / "wide/sub").mkdir(parents=True)
    photo = np.pad(read(sorted((folder / "images").iterdir())[1]), [(0, 0), (8, 8), (0, 0)])
    Image.fromarray(photo).save(tmp_path / "wide/sub/wide.png")
    points = keypoints.read_keypoints(data, "val")[1] * (16, 16, 1) + (8, 0, 0)
    coco.write_keypoints(tmp_path / "wide/person_keypoints.json", tools.NAMES, (), [
        (1, "sub/wide.png", (32, 16), points)], "")
    return folder


def test_every_file_is_read_once(data, people, tmp_path, monkeypatch):
    """However many pairs there are; only the points of a pose are needed."""
    opened, decoded = [], []
    open_split, decode_file = posing.dataset.open_split, posing.decode_file
    monkeypatch.setattr(posing.dataset, "open_split",
                        lambda *args: opened.append(args[1]) or open_split(*args))
    monkeypatch.setattr(posing, "decode_file",
                        lambda path: decoded.append(path) or decode_file(path))
    assert write(data, data / "val", tmp_path / "stored") == (80, 0)
    assert sorted(opened) == ["train", "val"]
    assert write(people, people, tmp_path / "out") == (16, 0)
    assert len(decoded) == len(set(decoded)) == 4
    assert write(people, tmp_path / "wide", tmp_path / "other") == (4, 0)
    Image.new("RGB", (32, 16)).save(tmp_path / "wide/sub/wide.png")
    assert write(people, tmp_path / "wide", tmp_path / "other") == (0, 4)
    assert write(tmp_path / "wide", people, tmp_path / "third") == (4, 0)
    Image.new("RGB", (32, 16), "red").save(tmp_path / "wide/sub/wide.png")
    assert write(tmp_path / "wide", people, tmp_path / "third") == (4, 0)


def test_photos_are_made_square_as_in_training(data, people, tmp_path):
    for fit, box in (("pad", (0, 4, 16, 12)), ("crop", (0, 0, 16, 16))):
        figures = posing.open_figures(tmp_path / "wide", fit)
        points, found = figures.pose(0, 16)
        assert found == box
        if fit == "crop":
            np.testing.assert_allclose(points, keypoints.read_keypoints(data, "val")[1], atol=1e-5)
            np.testing.assert_array_equal(figures.photo(0, 16), read(
                sorted((people / "images").iterdir())[1]))
        write(people, tmp_path / "wide", tmp_path / fit, fit)
        drawn = read(next((tmp_path / fit / "images").iterdir()))
        assert drawn.shape == (box[3] - box[1], 16, 3)


def write_people(path, *names, size=(16, 16)):
    """Write a file of COCO keypoints of photos with these names."""
    points = np.array([[4, 4, 2]] * len(tools.NAMES))
    coco.write_keypoints(path, tools.NAMES, (), [
        (number, name, size, points) for number, name in enumerate(names, 1)], "")
    return path


def test_two_photos_with_one_name_are_refused(tmp_path):
    """Also if they are in several pairs."""
    for sources, poses, name in ((["a-b.png", "a.png"], ["c.png", "b-c.png"], "a-b-c.png"),
                                 (["x/a.png", "y/a.png"], ["b.png"], "a-b.png")):
        files = [write_people(tmp_path / f"{kind}.json", *names)
                 for kind, names in (("source", sources), ("poses", poses))]
        with pytest.raises(UserError, match=f"two photos would be called {name}"):
            write(*files, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_keypoints_cannot_name_photos_outside_their_folder(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "secret.png")
    (tmp_path / "people/images").mkdir(parents=True)
    for name in ("../../secret.png", "../secret.png", str(tmp_path / "secret.png"), "a\0.png", ""):
        file = write_people(tmp_path / "people/person_keypoints.json", name)
        with pytest.raises(UserError, match="is no name of a photo in "):
            posing.open_figures(file.parent, "pad")
    write_people(file, "/elsewhere/a.png")  # photos of poses alone are not read
    assert posing.open_figures(file, "pad").names == ["a"]
    poses = posing.open_figures(write_people(file, str(tmp_path / "secret.png")), "pad")
    assert poses.fingerprint(0)[-1] is None
    with pytest.raises(UserError, match=r"person_keypoints\.json/secret\.png: "):
        poses.photo(0, 16)


def test_keypoints_must_fit_the_photos_shape(tmp_path):
    (tmp_path / "people").mkdir()
    file = write_people(tmp_path / "people/person_keypoints.json", "a.png", size=(32, 16))
    Image.new("RGB", (24, 24)).save(tmp_path / "people/a.png")
    with pytest.raises(UserError, match=r"a\.png: photo is 24x24, its annotations are for 32x16"):
        write(file.parent, file, tmp_path / "out")


def test_options_that_do_not_fit_are_refused(network, data, tmp_path):
    common = f"--network={network}", f"--source={data}", f"--out={tmp_path / 'out'}"
    assert "--poses: missing" in failure(*common)
    assert "no keypoints there; expected" in failure(*common, f"--poses={tmp_path}")
    assert "--num-images=21: " in failure(*common, f"--poses={data}", "--num-images=21")
    other = save_reposer(tmp_path / "other.safetensors", ("a", "b", "c"), about={"fit": "crop"})
    assert Reposer(other).fit == "crop"
    assert "takes a, b, c" in failure(f"--network={other}", *common[1:], f"--poses={data}")
    assert "--garment: without effect: it is for a CycleGAN" in failure(
        *common, f"--poses={data}", "--garment=top")
    assert "--poses: without effect: it is for --source" in failure(f"--poses={data}")
