"""Does the semantic critic draw small classes better? Rows, tables, and a real one of 16x16."""

import json
from pathlib import Path

import pytest
from PIL import Image

from dnnlib.util import UserError
from experiments import semantic_critic
from tests.tools import labelled_pictures
from tests.tools.labelled_pictures import coloured_dataset
from training.translation.config import Pix2PixConfig


@pytest.fixture
def options(tmp_path):
    """Arguments for data sets at 16x16, and a function that adds to them."""
    fixed = [f"--out={tmp_path / 'out'}", "--preset=tiny",
             f"--data=facades:{coloured_dataset(tmp_path / 'real')}",
             "--segmenter=facades-64:3,ccp-64:4"]
    return lambda *more: [*fixed, *more]


def values(miou, rare):
    return {"miou": {"": miou, "_rare": rare, "_real": 0.9, "_rare_real": 0.8}, "l1": {"": 0.2}}


def test_rows_differ_in_critic_and_reconstruction_alone(stand_ins, options):
    methods = ("patch-l1", "semantic-semantic", "capacity-semantic", "semantic-l1")
    rows = [f"facades-64-{method}" for method in methods]
    stand_ins.metrics_say({f"{row}-seed5": values(0.5, 0.4) for row in rows})
    assert semantic_critic.main(options(f"--rows={','.join(rows)}", "--seeds=5",
                                        "--judge=facades-64:7")) == 0
    calls = [dict(argument[2:].partition("=")[::2] for argument in arguments)
             for arguments in stand_ins.calls()]
    made = {Path(call["run"]).name: call for call in calls if "variant" in call}
    own = {"critic", "reconstruction", "segmenter", "run"}
    for row, method in zip(rows, methods):
        call = made[f"{row}-seed5"]
        assert {k: v for k, v in call.items() if k not in own} == {
            k: v for k, v in made[f"{rows[0]}-seed5"].items() if k not in own}
        assert f"{call['critic']}-{call['reconstruction']}" == method
        assert call.get("segmenter") == ("3" if method.endswith("semantic") else None)
        assert call["resolution"] == "16" and call["metrics"] == "none"
    measured = [call for call in calls if "variant" not in call and "metrics" in call]
    assert {(call["segmenter"], call["split"]) for call in measured} == {("7", "test")}


def test_the_table_states_what_is_beyond_chance(stand_ins, options, tmp_path):
    stand_ins.metrics_say({
        "facades-64-patch-l1-seed1": values(0.3, 0.1),
        "facades-64-patch-l1-seed2": values(0.3, 0.12),
        "facades-64-semantic-semantic-seed1": values(0.3, 0.2),
        "facades-64-semantic-semantic-seed2": values(0.31, 0.22)})
    assert semantic_critic.main(options("--seeds=1,2")) == 0
    text = (tmp_path / "out/semantic_critic.md").read_text()
    assert "| `patch-l1` | 2 | 11.0 ± 1.0 | 30.0 ± 0.0 |" in text
    assert "| real photos |  | 80.0 | 90.0 |" in text and "Labelled by 3, by which the" in text
    assert ("* `semantic-semantic` against `patch-l1`: mIoU of the rarest classes (%) higher by "
            "10.0 (better)") in text
    assert (tmp_path / "out/semantic_critic-facades-64.png").is_file()
    record = json.loads((tmp_path / "out/semantic_critic.json").read_text())
    assert list(record["scenes"]) == ["facades-64"]


def test_what_is_lacking_is_told(stand_ins, options):
    for more, message in (
            (["--rows=ccp-64-patch-l1"], "--data: rows of `ccp-64` need it: ccp:"),
            (["--rows=facades-128-semantic-l1"], "--segmenter: rows of `facades-128` need it"),
            (["--judge=facades:3"], "--judge=facades:3: facades:3 is none of NAME:VALUE"),
            (["--rows=patch-l1"], "--rows=patch-l1: unknown; known: facades-64-patch-l1")):
        with pytest.raises(UserError, match=message):
            semantic_critic.main(options(*more))


def test_the_plan_begins_with_the_claim():
    """Every row twice; each data set's claim before its controls."""
    plan = semantic_critic.PRESETS["night"].plan
    assert sorted(plan) == sorted((row, seed) for row in semantic_critic.ROWS for seed in (1, 2))
    assert plan[:4] == tuple((f"facades-64-{method}", seed) for seed in (1, 2)
                             for method in ("patch-l1", "semantic-semantic"))
    fields = {*Pix2PixConfig.__dataclass_fields__, "preset"}
    for preset in semantic_critic.PRESETS.values():
        for train in (preset.train, *preset.of_scene.values()):
            assert train.keys() <= fields


@pytest.mark.slow
def test_a_real_one(options, tmp_path):
    """The very commands, at 16x16: every class has its IoU in generated and in real photos."""
    run = tmp_path / "segmenter"
    labelled_pictures.train(labelled_pictures.tiny(tmp_path / "real"), run)
    arguments = [argument for argument in options() if not argument.startswith("--segmenter")]
    assert semantic_critic.main([*arguments, f"--segmenter=facades-64:{run}"]) == 0
    record = json.loads((tmp_path / "out/semantic_critic.json").read_text())
    assert {trial["row"] for trial in record["trials"]} == {
        "facades-64-patch-l1", "facades-64-semantic-semantic"}
    for trial in record["trials"]:
        assert 0 < trial["values"]["miou"] <= 1 and 0 < trial["values"]["miou_rare_real"] <= 1
        assert [one["name"] for one in trial["classes"]["miou"]] == ["background", "red", "green"]
    text = (tmp_path / "out/semantic_critic.md").read_text()
    assert "IoU of the 2 rarest classes" in text and text.count("| red | ") == 2
    with Image.open(tmp_path / "out/semantic_critic-facades-64-photos.png") as sheet:
        assert sheet.width > 4 * 96 and sheet.height > 4 * 96
