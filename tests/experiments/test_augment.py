"""Are pairs useful? The rows, the table, and a real run at 16x16."""

import json
from pathlib import Path

import pytest

from dnnlib.util import UserError
from experiments import augment
from tests.tools.labelled_pictures import coloured_dataset
from training.segmentation.config import SegmenterConfig


@pytest.fixture
def options(tmp_path):
    """Return arguments for data sets at 16x16, and a function that adds to them."""
    fixed = [f"--out={tmp_path / 'out'}", "--preset=tiny",
             f"--data={coloured_dataset(tmp_path / 'real')}",
             f"--pairs={coloured_dataset(tmp_path / 'pairs', seed=1)}"]
    return lambda *more: [*fixed, *more]


def values(miou, accuracy=0.9):
    return {"miou": {"": miou, "_foreground": miou - 0.1, "_accuracy": accuracy}}


def test_rows_differ_only_in_their_data(stand_ins, options, tmp_path):
    rows = ("pairs", "real-10", "both-10", "real-all", "both-all")
    stand_ins.set_metrics({f"{row}-seed5": values(0.5) for row in rows})
    assert augment.main(options(f"--rows={','.join(rows)}", "--seeds=5")) == 0
    made = {Path(call["run"]).name.removesuffix("-seed5"): call for call in (
        dict(argument[2:].partition("=")[::2] for argument in arguments)
        for arguments in stand_ins.calls()) if "variant" in call}
    own = {"num-images", "data2", "mix", "run"}
    for row in rows:
        assert {k: v for k, v in made[row].items() if k not in own} == {
            k: v for k, v in made["pairs"].items() if k not in own}
    assert [made[row].get("num-images") for row in rows] == [None, "10", "10", None, None]
    assert [made[row].get("mix") for row in rows] == ["1", None, "0.5", None, "0.5"]
    assert ["data2" in made[row] for row in rows] == [True, False, True, False, True]


def test_the_table_states_differences_beyond_chance(stand_ins, options, tmp_path):
    stand_ins.set_metrics({
        "real-10-seed1": values(0.3), "real-10-seed2": values(0.32), "both-10-seed1": values(0.4),
        "both-10-seed2": values(0.41)})
    assert augment.main(options("--rows=real-10,both-10", "--seeds=1,2")) == 0
    text = (tmp_path / "out/augment.md").read_text()
    assert "| `real-10` | 2 | 31.0 ± 1.0 | 21.0 ± 1.0 | 90.0 ± 0.0 |" in text
    assert "* `both-10` against `real-10`: mIoU (%) higher by 9.5 (better)" in text
    assert json.loads((tmp_path / "out/augment.json").read_text())["options"]["mix"] == 0.5
    with pytest.raises(UserError, match=r"--mix=0.3: .* was begun with 0.5"):
        augment.main(options("--mix=0.3"))


def test_presets_have_only_options_of_the_training():
    fields = {*SegmenterConfig.__dataclass_fields__, "preset"}
    for preset in augment.PRESETS.values():
        assert preset.train.keys() <= fields and {row for row, _ in preset.plan} <= {*augment.ROWS}


def test_rows_with_more_photos_than_exist_are_left_out(stand_ins, options):
    with pytest.raises(UserError, match="--pairs: missing"):
        augment.main([part for part in options() if not part.startswith("--pairs")])
    stand_ins.set_metrics({f"{kind}-10-seed1": values(0.5) for kind in ("real", "both")})
    assert augment.main(options()) == 0
    assert set(stand_ins.trained()) == {"real-10-seed1", "both-10-seed1"}


def test_rows_of_a_remade_data_set_do_not_join_the_old_ones(stand_ins, options, tmp_path):
    rows = {f"{row}-seed1": values(0.5) for row in ("real-10", "both-10", "pairs")}
    stand_ins.set_metrics(rows)
    assert augment.main(options()) == 0
    about = tmp_path / "pairs/dataset.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), "digest": "1" * 64}))
    with pytest.raises(UserError, match=r"pairs: was made anew since .*out was begun"):
        augment.main(options("--rows=pairs", "--seeds=1"))
    assert set(stand_ins.trained()) == {"real-10-seed1", "both-10-seed1"}
    assert augment.main([f"--out={tmp_path / 'out'}", "--table-only"]) == 0


@pytest.mark.slow
def test_a_real_run(options, tmp_path):
    """The real commands, at 16x16; every class has its IoU."""
    assert augment.main(options("--seeds=1")) == 0
    record = json.loads((tmp_path / "out/augment.json").read_text())
    assert {trial["row"] for trial in record["trials"]} == {"real-10", "both-10"}
    for trial in record["trials"]:
        assert 0 < trial["values"]["miou"] <= 1
        assert [one["name"] for one in trial["classes"]["miou"]] == ["background", "red", "green"]
    assert "| red | " in (tmp_path / "out/augment.md").read_text()
