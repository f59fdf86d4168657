"""Commands' suggestions: presets that fit, quoting for shells, warnings about small splits."""

import itertools
import shlex
from pathlib import Path

import numpy as np
import pytest

import generate
from dnnlib import suggestions
from dnnlib.data.dataset import DatasetInfo, open_dataset
from dnnlib.util import UserError
from tests.tools.data_helpers import make_dataset
from training.config import PRESETS, TrainingConfig
from training.run.config_checks import fit_to_dataset
from training.run.options import parse_training_options


@pytest.mark.parametrize("num_val, begins", [
    (0, "no validation images"), (12, "only 12 validation images"), (99, "only 99 validation")])
def test_few_validation_images_get_a_warning(num_val, begins):
    assert suggestions.few_validation(num_val).startswith(begins)


def test_a_training_warns_of_its_validation_split():
    none, = suggestions.validation_warnings("datasets/mine", 0)
    assert none == ("warning: datasets/mine has no validation split: the last snapshot counts as "
                    "best")
    few, = suggestions.validation_warnings("datasets/mine", 12)
    assert few.startswith("warning: only 12 validation images")
    assert suggestions.validation_warnings("datasets/mine", 100) == []


def test_a_hundred_are_enough():
    assert suggestions.few_validation(100) is None and suggestions.few_validation(2000) is None


@pytest.mark.parametrize("num_photos, resolution, preset", [
    (60, 512, "small-32"), (999, 64, "small-32"), (1000, 512, "small-64"), (9999, 256, "small-64"),
    (50_000, 32, "small-32"), (50_000, 64, "small-64"), (10_000, 128, "paper-256"),
    (50_000, 256, "paper-256"), (50_000, 512, "paper"), (50_000, 1024, "paper")])
def test_the_preset_depends_on_photos_and_resolution(num_photos, resolution, preset):
    assert suggestions.suggested_preset(num_photos, resolution) == preset


def test_resolutions_equal_the_presets():
    assert {name: TrainingConfig.preset(name, {}).resolution
            for name in PRESETS} == suggestions._RESOLUTIONS
    assert TrainingConfig().initial_resolution == suggestions._INITIAL_RESOLUTION


@pytest.mark.parametrize("variant", ["rgb", "2d"])
def test_every_suggestion_fits_its_data(variant, tmp_path):
    """train.py accepts the options without a warning, whatever the size."""
    classes = () if variant == "rgb" else ("hat", "coat")
    path = make_dataset(tmp_path / "set", {"train": np.zeros((1, 3, 4, 4), np.uint8)}, ())
    for num, level in itertools.product((3, 60, 3000, 50_000), range(2, 11)):
        data = DatasetInfo(path, "set", 1 << level, 3 + len(classes), classes,
                           {"train": num}, "")
        given = parse_training_options(suggestions.training_options(num, data.resolution))
        overrides = {name: getattr(given, name) for name in ("resolution", "initial_resolution")
                     if getattr(given, name) is not None}
        config = TrainingConfig.preset(given.preset, {"variant": variant, **overrides})
        assert fit_to_dataset(config, data, 1).resolution <= data.resolution


@pytest.mark.parametrize("files, device", [([], ["--device=cpu"]), (["nvidia0"], [])])
def test_without_a_gpu_the_cpu_is_named(tmp_path, monkeypatch, capsys, files, device):
    for name in files:
        (tmp_path / name).touch()
    monkeypatch.setattr(suggestions, "_GPU_FILES", (str(tmp_path / "nvidia0"),))
    assert suggestions.training_options(3000, 64) == ["--preset=small-64", *device]
    assert suggestions.training_options(3000, 4) == [
        "--preset=small-32", "--resolution=4", "--initial-resolution=4", *device]
    generate.print_decoder_command(Path("twenty"), "3")
    assert capsys.readouterr().out == " ".join([
        "Next: python train.py --variant=decoder --init-from=3 --labels=twenty", *device]) + "\n"


@pytest.mark.parametrize("files, given, expected", [
    (["images/a.jpg", "masks/a.png"], "", "create_from_masks"),
    (["images/a.jpg", "labels/a.png", "annotations/instances.json"], "", "create_from_masks"),
    (["JPEGImages/a.jpg", "SegmentationClass/a.png"], "", "create_from_masks"),
    (["images/a.jpg", "masks/a.png"], "images", "create_from_masks"),
    (["a.jpg", "a_mask.png", "classes.txt"], "", "create_from_masks"),
    (["images/a.jpg", "annotations/instances.json"], "", "create_from_coco"),
    (["images/a.jpg", "annotations/instances.json"], "images", "create_from_coco"),
    (["a.jpg", "result.json"], "", "create_from_coco"),
    (["images/a.jpg", "annotations/modanet2018_instances_train.json"], "", "create_modanet"),
    (["a.jpg", "other.json"], "", "create_from_images"), (["x/a.JPG"], "", "create_from_images"),
    (["images/a.jpg"], "images", "create_from_images"), (["notes.txt"], "", None), ([], "", None)])
def test_a_folder_without_a_data_set_gets_the_command_that_makes_one(tmp_path, files, given,
                                                                     expected):
    """Of the folder itself, or of the one that holds its masks or annotations, too."""
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("[]" if name == "other.json" else '{"images": []}')
    with pytest.raises(UserError) as error:
        open_dataset(tmp_path / given)
    source = tmp_path / given if expected == "create_from_images" else tmp_path
    if expected is None:
        assert "example: python dataset_tool.py create_modanet" in str(error.value)
    else:
        assert str(error.value).endswith(
            f"make one of its photos: python dataset_tool.py {expected} --source={source} "
            "--out=datasets/converted")


@pytest.mark.parametrize("path", ["plain", "my photos", "it's", "$HOME;ls", 'a"b', "-x", "Größe"])
def test_a_shell_reads_a_quoted_command_back(path):
    line = suggestions.command("train.py", f"--data={path}", Path(path))
    assert shlex.split(line) == ["python", "train.py", f"--data={path}", path]
    assert path != "plain" or line == "python train.py --data=plain plain"
