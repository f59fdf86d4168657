"""Are twenty labels enough? What each row makes, the table and its curves, and a real run."""

import json
from pathlib import Path

import pytest

from dnnlib.charts import growth_chart
from dnnlib.util import UserError
from experiments import twenty_labels
from tests.tools.generators import save_network
from tests.tools.labelled_pictures import CLASSES, coloured_dataset
from tests.tools.labelled_pictures import tiny as segmenter_config
from tests.tools.labelled_pictures import train as train_segmenter
from training.config import TrainingConfig
from training.decoder.config import DecoderConfig
from training.segmentation.config import SegmenterConfig


@pytest.fixture
def options(tmp_path):
    """Return arguments for a data set at 16x16, and a function that adds to them."""
    fixed = [f"--out={tmp_path / 'out'}", "--preset=tiny",
             f"--data={coloured_dataset(tmp_path / 'real')}", "--rgb=colours", "--teacher=teacher"]
    return lambda *more: [*fixed, *more]


def values(miou, two):
    return {"miou": {"": miou, "_any": two, "_accuracy": 0.9}}


def made(stand_ins):
    """Return {last part of a command's output path: its options} of all commands, in order."""
    calls = [dict(argument[2:].partition("=")[::2] for argument in call if argument[:2] == "--")
             for call in stand_ins.calls()]
    return {Path(call.get("out", call.get("run", call.get("network")))).name: call
            for call in calls if "metrics" not in call or call["metrics"] == "none"}


def test_a_network_learns_from_photos(stand_ins, options):
    stand_ins.set_metrics({f"{row}-seed3": values(0.5, 0.6) for row in ("real-5", "real-20")})
    assert twenty_labels.main(options("--rows=real-5,real-20", "--seeds=3")) == 0
    five, twenty = made(stand_ins).values()
    assert (five["num-images"], twenty["num-images"]) == ("5", "20") and "data2" not in five
    assert {k: v for k, v in five.items() if k not in ("num-images", "run")} == {
        k: v for k, v in twenty.items() if k not in ("num-images", "run")}


def test_a_network_learns_from_a_decoders_pairs(stand_ins, options, tmp_path):
    stand_ins.set_metrics({f"{row}-seed3": values(0.5, 0.6) for row in (
        "teacher-20", "imagenet-teacher-20", "projected-5")})
    rows = options("--rows=teacher-20,projected-5", "--seeds=3", "--architecture=deeplab")
    assert twenty_labels.main(rows) == 0
    commands, out = made(stand_ins), tmp_path / "out"
    labels, decoder, pairs, segmenter = list(commands.values())[:4]
    assert labels["seeds"] == "3000-3019" and labels["teacher"] == "teacher"
    assert decoder["labels"] == labels["out"] and decoder["variant"] == "decoder"
    assert labels["network"] == decoder["init-from"] == "colours"
    assert pairs["network"] == decoder["run"] and pairs["num"] == "16"
    assert "keep-padding" in pairs and pairs["first-seed"] == "300000"
    assert segmenter["data2"] == pairs["out"] and segmenter["mix"] == "1"
    projected = commands["projected-5-3-labels"]
    assert projected["project"] == str(tmp_path / "real") and projected["num-images"] == "5"
    assert commands["projected-5-3-decoder"]["labels"] == str(out / "projected-5-3-labels")
    # With ImageNet's weights a network learns from the same pairs.
    assert twenty_labels.main(options("--rows=imagenet-teacher-20", "--seeds=3")) == 0
    again = made(stand_ins)["imagenet-teacher-20-seed3"]
    assert again["data2"] == pairs["out"] and "imagenet" in again and "imagenet" not in segmenter


def test_a_network_learns_from_style_c_gan_2d(stand_ins, options, tmp_path):
    stand_ins.set_metrics({"2d-50-seed3": values(0.5, 0.6)})
    assert twenty_labels.main(options("--rows=2d-50", "--seeds=3", "--untagged=more")) == 0
    assert [call[0] for call in stand_ins.calls()[:2]] == ["extract", "create_from_masks"]
    _, subset, gan, pairs, segmenter = made(stand_ins).values()
    assert (subset["num-images"], subset["resolution"]) == ("50", "16")
    assert subset["source"] == str(tmp_path / "out/photos")
    assert gan["data"] == subset["out"] and gan["untagged"] == "more"
    assert gan["init-from"] == "colours" and pairs["network"] == gan["run"]
    assert segmenter["data2"] == pairs["out"]


def test_the_table_and_its_curves(stand_ins, options, tmp_path, monkeypatch):
    drawn = []
    stand_ins.set_metrics({
        "real-5-seed1": values(0.10, 0.5), "real-5-seed2": values(0.12, 0.6),
        "real-20-seed1": values(0.2, 0.7), "real-20-seed2": values(0.2, 0.7),
        "teacher-20-seed1": values(0.3, 0.8)})
    assert twenty_labels.main(options("--rows=real-5,real-20", "--seeds=1,2")) == 0
    monkeypatch.setattr(twenty_labels, "growth_chart", lambda panels, *text: drawn.append(
        panels) or growth_chart(panels, *text))
    assert twenty_labels.main(options("--rows=teacher-20", "--seeds=1")) == 0
    text = (tmp_path / "out/twenty_labels.md").read_text()
    assert "| labels of | 5 | 20 |" in text
    assert "| `real` | 11.0 ± 1.0 | 20.0 ± 0.0 |" in text and "| `teacher` | – | 30.0 |" in text
    assert "    python generate.py --network=colours --seeds=1000-1019 --for-labelling " in text
    record = json.loads((tmp_path / "out/twenty_labels.json").read_text())
    assert record["rows"]["real-5"]["mIoU of two labels (%)"]["mean"] == pytest.approx(55)
    assert (tmp_path / "out/twenty_labels.png").stat().st_size > 1000
    assert "it learns from 18 of 20, 45 of 50, 90 of 100" in text
    classes, two = (drawn[-1][name] for name in ("mIoU (%)", "mIoU of two labels (%)"))
    assert [number for number, *_ in classes["real"]] == [5, 20]
    assert classes["real"][0][1:] == pytest.approx((11, 1))
    assert two["real"][0][1:] == pytest.approx((55, 5))
    assert two["teacher"] == [(20, pytest.approx(80), 0)]
    # A renamed folder is not a trial.
    (tmp_path / "out/real-5-seed1").rename(tmp_path / "out/real-5-seed1-old")
    assert twenty_labels.main([f"--out={tmp_path / 'out'}", "--table-only"]) == 0
    assert "| `real` | 12.0 | 20.0 ± 0.0 |" in (tmp_path / "out/twenty_labels.md").read_text()


def test_missing_inputs_of_a_row_are_named(stand_ins, options):
    for missing, row in (("rgb", "projected-5"), ("teacher", "teacher-5"), ("rgb", "2d-5")):
        with pytest.raises(UserError, match=f"--{missing}: rows of `{row[:-2]}` need it"):
            twenty_labels.main([part for part in options(f"--rows={row}")
                                if not part.startswith(f"--{missing}")])
    with pytest.raises(UserError, match="--preset=cars: has no options for rows of `2d`"):
        twenty_labels.main([*options("--rows=2d-5"), "--preset=cars"])
    assert not stand_ins.calls()


def test_the_network_that_learns_can_be_chosen(stand_ins, options, tmp_path):
    stand_ins.set_metrics({f"{row}-seed3": values(0.5, 0.6)
                           for row in ("real-5", "imagenet-real-5")})
    assert twenty_labels.main(options("--rows=real-5", "--seeds=3", "--resolution=8")) == 0
    unet = made(stand_ins)["real-5-seed3"]
    assert unet["preset"] == "tiny" and unet["resolution"] == "8"
    with pytest.raises(UserError, match="--architecture=unet: rows of `imagenet-real-5`"):
        twenty_labels.main(options("--rows=imagenet-real-5"))
    with pytest.raises(UserError, match="out was begun with unet"):
        twenty_labels.main(options("--architecture=deeplab"))
    # A study that is older than the option goes on with the preset's network.
    path = tmp_path / "out/study.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items()
                                if key != "architecture"}))
    assert twenty_labels.main(options("--table-only")) == 0
    assert "(unet)" in (tmp_path / "out/twenty_labels.md").read_text()
    deep = [f"--out={tmp_path / 'deep'}", *options("--rows=real-5,imagenet-real-5", "--seeds=3",
                                                   "--architecture=deeplab")[1:]]
    assert twenty_labels.main([part for part in deep if part != "--preset=tiny"]) == 0
    deep = made(stand_ins)["imagenet-real-5-seed3"]
    assert deep["preset"] == "small" and "imagenet" in deep and deep["resolution"] == "64"


def test_pairs_and_labelled_pictures_have_different_seeds(stand_ins, options):
    stand_ins.set_metrics({f"teacher-5-seed{seed}": values(0.5, 0.6) for seed in (0, 1)})
    assert twenty_labels.main(options("--rows=teacher-5", "--seeds=0,1")) == 0
    commands = made(stand_ins)
    assert [(commands[f"teacher-5-{seed}-labels"]["seeds"],
             commands[f"teacher-5-{seed}-pairs"]["first-seed"]) for seed in (0, 1)] == [
        ("0-4", "50000"), ("1000-1004", "100000")]


def test_presets_have_only_options_of_the_training():
    for preset in twenty_labels.PRESETS.values():
        for options, config in ((preset.train, SegmenterConfig), (preset.gan, TrainingConfig),
                                (preset.decoder, DecoderConfig)):
            names = {name.removeprefix("no_") for name in options}
            assert names <= {*config.__dataclass_fields__, "preset"}
        assert {row for row, _ in preset.plan} <= {*twenty_labels.ROWS}
        assert len(preset.plan) == len(set(preset.plan))


@pytest.mark.slow
def test_a_real_run(options, tmp_path):
    """The real commands, at 16x16: photos, and a decoder trained on a teacher's labels."""
    rgb = save_network(tmp_path / "rgb.safetensors", ())
    train_segmenter(segmenter_config(tmp_path / "real"), tmp_path / "teacher")
    argv = options("--rows=real-5,teacher-5", "--seeds=1", f"--rgb={rgb}",
                   f"--teacher={tmp_path / 'teacher'}")
    assert twenty_labels.main(argv) == 0
    record = json.loads((tmp_path / "out/twenty_labels.json").read_text())
    assert {trial["row"] for trial in record["trials"]} == {"real-5", "teacher-5"}
    for trial in record["trials"]:
        assert 0 < trial["values"]["miou"] <= 1
        assert [one["name"] for one in trial["classes"]["miou"]] == ["background", *CLASSES]
