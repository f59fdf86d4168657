"""generate.py --poses: people of data sets and folders in other poses."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import dataset_tool
import generate
from dnnlib.data import coco, keypoints, pictures
from dnnlib.data.dataset import open_dataset
from dnnlib.util import UserError
from tests.tools import people as tools
from tests.tools.people import people_dataset, save_reposer
from training.pose.people import PosePairs
from training.pose.reposer import Reposer


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
    """The message of a command that fails."""
    with pytest.raises(UserError) as error:
        run(*options)
    return str(error.value)


def test_every_photo_in_every_pose(network, data, tmp_path, capsys):
    """What is written is what the network draws; the poses are written as keypoints; the same
    command makes what is missing."""
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


def test_folders_with_coco_keypoints(network, data, tmp_path, capsys):
    """As `extract` writes them; photos that are no squares; a changed pose is drawn anew."""
    people = tmp_path / "people"
    assert dataset_tool.main(["extract", str(data), "--split=val", f"--out={people}"]) == 0
    photos = sorted(path.stem for path in (people / "images").iterdir())
    wide = np.pad(read(people / f"images/{photos[0]}.png"), [(0, 0), (8, 8), (0, 0)])
    (tmp_path / "poses").mkdir()
    file = tmp_path / "poses" / "one.json"
    points = keypoints.read_keypoints(data, "val")[1] * (16, 16, 1)

    def write_pose(shift):
        coco.write_keypoints(file, tools.NAMES, (), [
            (1, "sub/wide.png", (32, 16), points + (shift, 0, 0))], "")

    write_pose(8)
    Image.fromarray(wide).save(tmp_path / "poses" / "wide.png")
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


def test_what_does_not_fit_is_told(network, data, tmp_path):
    common = f"--network={network}", f"--source={data}", f"--out={tmp_path / 'out'}"
    assert "--poses: missing" in failure(*common)
    assert "no keypoints there; expected" in failure(*common, f"--poses={tmp_path}")
    assert "--num-images=21: " in failure(*common, f"--poses={data}", "--num-images=21")
    other = save_reposer(tmp_path / "other.safetensors", ("a", "b", "c"))
    assert "takes a, b, c" in failure(f"--network={other}", *common[1:], f"--poses={data}")
    assert "--garment: without effect: it is for a CycleGAN" in failure(
        *common, f"--poses={data}", "--garment=top")
    assert "--poses: without effect: it is for --source" in failure(f"--poses={data}")
