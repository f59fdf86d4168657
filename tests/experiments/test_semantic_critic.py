"""Does the semantic critic draw small classes better? Rows, tables, and a real run at 16x16."""

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from dnnlib import util
from dnnlib.data import pictures
from dnnlib.data.dataset import open_dataset
from dnnlib.tflib.network import build
from dnnlib.util import UserError
from experiments import semantic_critic
from experiments.tables import summarize
from generation.translation import StoredMaps
from tests.tools import labelled_pictures
from tests.tools.labelled_pictures import coloured_dataset
from training.snapshots import save_snapshot
from training.translation.config import Pix2PixConfig


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    """Write snapshots of two untrained segmentation networks of one architecture."""
    folder, paths = tmp_path_factory.mktemp("judges"), []
    for seed in (1, 2):
        network = build("Segmenter", "S", {"resolution": 16, "num_outputs": 3, "unet_fmaps": 2,
                                           "architecture": "unet", "seed": seed})
        paths.append(folder / f"{seed}.safetensors")
        save_snapshot(paths[-1], {"S": network}, {
            "variant": "segmenter", "classes": list(labelled_pictures.CLASSES), "kimg": 1})
    return paths


@pytest.fixture
def options(tmp_path, judges):
    """Return arguments for data sets at 16x16, and a function that adds to them."""
    fixed = [f"--out={tmp_path / 'out'}", "--preset=tiny",
             f"--data=facades:{coloured_dataset(tmp_path / 'real')}",
             f"--segmenter=facades-64:{judges[0]},ccp-64:4"]
    return lambda *more: [*fixed, *more]


def values(miou, rare):
    return {"miou": {"": miou, "_rare": rare, "_real": 0.9, "_rare_real": 0.8}, "l1": {"": 0.2}}


def test_rows_differ_only_in_critic_and_reconstruction(stand_ins, options, judges):
    methods = ("patch-l1", "semantic-semantic", "capacity-semantic", "semantic-l1")
    rows = [f"facades-64-{method}" for method in methods]
    stand_ins.set_metrics({f"{row}-seed5": values(0.5, 0.4) for row in rows})
    assert semantic_critic.main(options(f"--rows={','.join(rows)}", "--seeds=5",
                                        f"--judge=facades-64:{judges[1]}")) == 0
    calls = [dict(argument[2:].partition("=")[::2] for argument in arguments)
             for arguments in stand_ins.calls()]
    made = {Path(call["run"]).name: call for call in calls if "variant" in call}
    own = {"critic", "reconstruction", "segmenter", "run"}
    for row, method in zip(rows, methods):
        call = made[f"{row}-seed5"]
        assert {k: v for k, v in call.items() if k not in own} == {
            k: v for k, v in made[f"{rows[0]}-seed5"].items() if k not in own}
        assert f"{call['critic']}-{call['reconstruction']}" == method
        assert call.get("segmenter") == (
            str(judges[0]) if method.endswith("semantic") else None)
        assert call["resolution"] == "16" and call["metrics"] == "none"
    measured = [call for call in calls if "variant" not in call and "metrics" in call]
    assert {(call["segmenter"], call["split"]) for call in measured} == {(str(judges[1]), "test")}


def test_the_table_states_differences_beyond_chance(stand_ins, options, tmp_path, judges,
                                                    monkeypatch):
    monkeypatch.setitem(semantic_critic.PRESETS, "tiny", dataclasses.replace(
        semantic_critic.PRESETS["tiny"], metrics="miou,fid{n},kid{n}"))
    of_photos = {"fid4": {"": 120.0}, "kid4": {"": 0.02}}
    stand_ins.set_metrics({f"facades-64-{row}": {**values(*found), **of_photos} for row, found in {
        "patch-l1-seed1": (0.3, 0.1), "patch-l1-seed2": (0.3, 0.12),
        "semantic-semantic-seed1": (0.3, 0.2), "semantic-semantic-seed2": (0.31, 0.22)}.items()})
    assert semantic_critic.main(options("--seeds=1,2")) == 0
    text = (tmp_path / "out/semantic_critic.md").read_text()
    assert "| `patch-l1` | 2 | 11.0 ± 1.0 | 30.0 ± 0.0 | – | 120.0 ± 0.0 | 20.0 ± 0.0 |" in text
    # FID and KID have no ceiling, but a floor: between two halves; 0.001 for the stand-in.
    assert "| real photos |  | 80.0 | 90.0 | – | 0.0 | 1.0 | – |" in text
    assert f"Labelled by {judges[0]}, by which the" in text
    assert ("* `semantic-semantic` against `patch-l1`: mIoU of the rarest classes (%) higher by "
            "10.0 (better)") in text
    assert (tmp_path / "out/semantic_critic-facades-64.png").is_file()
    record = json.loads((tmp_path / "out/semantic_critic.json").read_text())
    assert list(record["scenes"]) == ["facades-64"]
    # The table alone opens no network, and an empty one does not replace it.
    stored = json.loads((tmp_path / "out/study.json").read_text())
    (tmp_path / "out/study.json").write_text(json.dumps(
        {**stored, "segmenter": "facades-64:gone", "judge": "facades-64:gone-too"}))
    with pytest.raises(UserError, match="nothing is finished there that would be measured so"):
        semantic_critic.main([f"--out={tmp_path / 'out'}", "--table-only"])
    assert (tmp_path / "out/semantic_critic.md").read_text() == text


def test_every_question_has_its_comparison():
    """The effect of semantics with equally many maps, and of maps instead of pixels."""
    rare = {"patch-l1": 0.1, "semantic-semantic": 0.4, "capacity-semantic": 0.4,
            "semantic-l1": 0.2}
    table = summarize([{"row": row, "values": {"miou_rare": value + seed / 100}}
                       for row, value in rare.items() for seed in (1, 2)], semantic_critic.MEASURES)
    title = "mIoU of the rarest classes (%)"
    expected = [f"`{row}` against `patch-l1`: {title} higher by {by} (better)."
                for row, by in (("semantic-semantic", "30.0"), ("capacity-semantic", "30.0"),
                                ("semantic-l1", "10.0"))]
    assert semantic_critic.compare_methods(table) == [
        *expected, "`semantic-semantic` against `capacity-semantic`: no more than seeds differ.",
        f"`semantic-semantic` against `semantic-l1`: {title} higher by 20.0 (better)."]


def test_a_judge_that_rows_use_is_refused_or_named(options, tmp_path, judges):
    """The same network under another name is refused, a different one is named."""
    copy = tmp_path / "copy.safetensors"
    shutil.copy(judges[0], copy)
    with pytest.raises(UserError, match="the very network of --segmenter=facades-64:"):
        semantic_critic.main(options(f"--judge=facades-64:{copy}"))
    with pytest.raises(UserError, match="no such snapshot"):
        semantic_critic.main(options("--judge=facades-64:no"))
    given = SimpleNamespace(segmenter=f"facades-64:{judges[0]}", judge=f"facades-64:{judges[1]}")
    semantic_critic.check_judges(given)
    assert semantic_critic.judge_text(given, "facades-64") == (
        f"Labelled by {judges[1]}, the rows of semantic trained by another network, {judges[0]}.")


def test_photos_stand_beside_their_maps(options, tmp_path):
    """Also if some were made again later, so that the record lists them in another order."""
    data, folder = tmp_path / "real", tmp_path / "out/run/photos"
    given = SimpleNamespace(out=tmp_path / "out", preset="tiny", data=f"facades:{data}")
    options()  # makes the data set
    names = StoredMaps(open_dataset(data), "test").names
    for number, name in enumerate(names):
        colour = np.array([50 * number, 255 - 50 * number, 7], np.uint8)
        pictures.save_png(folder / "images" / f"{name}.png", np.tile(colour, (16, 16, 1)))
    util.write_json(folder / "translation.json", {"photos": dict.fromkeys(names[::-1])})
    semantic_critic.draw_photos_of_maps(given, "facades-64", [{"row": "x", "run": folder.parent}])
    sheet = pictures.read_png(tmp_path / "out/semantic_critic-facades-64-photos.png").astype(int)
    red = sheet[(sheet[..., 2] == 7) & (sheet[..., 0] + sheet[..., 1] == 255)][:, 0]  # row by row
    assert list(dict.fromkeys(red.tolist())) == [50 * number for number in range(len(names))]


def test_missing_inputs_are_named(stand_ins, options, tmp_path):
    unsplit = coloured_dataset(tmp_path / "unsplit")
    content = json.loads((unsplit / "dataset.json").read_text())
    (unsplit / "dataset.json").write_text(json.dumps(
        {**content, "splits": {"train": content["splits"]["train"]}}))
    for more, message in (
            (["--rows=ccp-64-patch-l1"], "--data: rows of `ccp-64` need it: ccp:"),
            (["--rows=facades-128-semantic-l1"], "--segmenter: rows of `facades-128` need it"),
            (["--judge=facades:3"], "--judge=facades:3: facades:3 is none of NAME:VALUE"),
            ([f"--data=facades:{unsplit}"], "has neither test nor validation photos to measure on"),
            (["--data=face:x"], "where NAME is one of facades, ccp$"),
            (["--rows=patch-l1"], "--rows=patch-l1: unknown; known: facades-64-patch-l1")):
        with pytest.raises(UserError, match=message):
            semantic_critic.main(options(*more))


def test_the_plan_starts_with_the_claim():
    """Every row twice; each data set's claim before its controls."""
    plan = semantic_critic.PRESETS["night"].plan
    assert sorted(plan) == sorted((row, seed) for row in semantic_critic.ROWS for seed in (1, 2))
    assert plan[:4] == tuple((f"facades-64-{method}", seed) for seed in (1, 2)
                             for method in ("patch-l1", "semantic-semantic"))
    fields = {*Pix2PixConfig.__dataclass_fields__, "preset"}
    for preset in semantic_critic.PRESETS.values():
        assert preset.train.keys() <= fields


@pytest.mark.slow
def test_a_real_run(options, tmp_path):
    """The real commands, at 16x16: every class has its IoU in generated and in real photos."""
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
