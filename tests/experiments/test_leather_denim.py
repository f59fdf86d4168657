"""From leather to denim: rows, data and maps, the table and its curves, and a real run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dnnlib.util import UserError
from experiments import leather_denim
from experiments.leather_denim import term_charts
from tests.tools.domains import BLUE, RED, boxes
from tests.tools.metrics_helpers import small_arrays
from training.cycle.config import CycleConfig
from training.snapshots import save_container

LOSSES = {"G/AB": 0.5, "G/BA": 0.25, "D/A": 0.125, "D/B": 0.0625, "cycle/A": 0.25, "cycle/B": 0.5}


@pytest.fixture
def options(tmp_path):
    """Return arguments for 40 and 50 photos at 16x16, and a function that adds to them."""
    for name, colour, count in (("leather", RED, 40), ("denim", BLUE, 50)):
        folder = tmp_path / f"photos-{name}"
        folder.mkdir()
        for number, photo in enumerate(boxes(colour, count, seed=1)):
            Image.fromarray(photo[:3].transpose(1, 2, 0)).save(folder / f"{number:03}.png")
    fixed = [f"--out={tmp_path / 'out'}", "--preset=tiny",
             *(f"--{name}={tmp_path / f'photos-{name}'}" for name in ("leather", "denim"))]
    return lambda *more: [*fixed, *more]


@pytest.fixture
def cycle_ins(stand_ins):
    """Return stand-ins whose trainings report a CycleGAN's losses."""
    script = stand_ins.root / "train.py"
    losses = {f"Loss/{name}": value for name, value in LOSSES.items()}
    script.write_text(script.read_text().replace(
        '"stage": "classes",', f'"stage": "cycle", **{losses!r},'))
    return stand_ins


def values(objective, kid=0.05, background=0.25):
    return {"cycleloss": {"": objective, "_cycle_AtoB": 0.1, "_background_AtoB": background},
            "cyclekid": {"_AtoB": kid, "_BtoA": kid / 2, "_untranslated": 0.125},
            "cycleclass": {"_AtoB": 0.75, "_BtoA": 0.5, "_real": 0.9, "_real_A": 0.875,
                           "_real_B": 0.75}}


def segmenter(folder):
    """Write a snapshot without weights: the header of a segmentation network of outer and pants."""
    path = folder / "seg.safetensors"
    save_container(path, {"kind": "networks", "variant": "segmenter", "digest": "d" * 64,
                          "classes": ["outer", "pants"],
                          "networks": {"S": {"type": "", "config": {"resolution": 16}}}},
                   {"S": {"weight": np.zeros(1, np.float32)}})
    return path


def made(stand_ins):
    """Return [(words, options)] of all commands, in order."""
    return [([word for word in call if word[:2] != "--"],
             dict(argument[2:].partition("=")[::2] for argument in call if argument[:2] == "--"))
            for call in stand_ins.calls()]


def trainings(stand_ins):
    return {Path(own["run"]).name.removesuffix("-seed3"): own for _, own in made(stand_ins)
            if "variant" in own}


def test_rows_are_two_papers_with_six_and_nine_blocks(cycle_ins, options, tmp_path):
    cycle_ins.set_metrics({f"{row}-seed3": values(3) for row in leather_denim.WHOLE})
    for number in range(10):  # files that create_from_images skips
        (tmp_path / f"photos-leather/._{number:03}.png").touch()
    (tmp_path / "photos-leather/more.png").mkdir()
    assert leather_denim.main(options(f"--rows={','.join(leather_denim.WHOLE)}", "--seeds=3")) == 0
    rows = trainings(cycle_ins)
    assert {row: (own["preset"], own["blocks"]) for row, own in rows.items()} == {
        "zhu-9": ("zhu", "9"), "zhu-6": ("zhu", "6"), "clothing-9": ("leather-denim", "9"),
        "clothing-6": ("leather-denim", "6")}
    first = rows["zhu-9"]
    assert all({k: v for k, v in own.items() if k not in ("preset", "blocks", "run")}
               == {k: v for k, v in first.items() if k not in ("preset", "blocks", "run")}
               for own in rows.values())
    assert "garment" not in first and first["resolution"] == "16"
    data = {Path(own["out"]).name: own for words, own in made(cycle_ins)
            if words == ["create_from_images"]}
    assert {name: (own["num-test"], own["num-val"]) for name, own in data.items()} == {
        "leather": ("4", "0"), "denim": ("5", "0")}
    assert (first["data"], first["target"]) == (data["leather"]["out"], data["denim"]["out"])


def test_garments_are_found_by_a_segmentation_network(cycle_ins, options, tmp_path):
    """All rows then have the maps: rows of whole photos are measured around the garment."""
    cycle_ins.set_metrics({f"{row}-seed3": values(3) for row in ("zhu-9", "zhu-9-garment")})
    network = segmenter(tmp_path)
    assert leather_denim.main(options("--rows=zhu-9,zhu-9-garment", "--seeds=3",
                                      f"--segmenter={network}", "--garment=outer,pants")) == 0
    commands = made(cycle_ins)
    maps = {Path(own["out"]).name: own for words, own in commands if own.get("source")}
    assert maps["leather-maps"]["network"] == str(network)
    masks = next(own for words, own in commands if words == ["create_from_masks"])
    assert masks["masks"] == f"{maps['leather-maps']['out']}/labels"
    rows = trainings(cycle_ins)
    assert rows["zhu-9-garment"]["garment"] == "outer,pants" and "garment" not in rows["zhu-9"]
    assert rows["zhu-9"]["data"] == rows["zhu-9-garment"]["data"] == masks["out"]
    measured = {Path(own["network"]).name: own.get("garment") for _, own in commands
                if "metrics" in own}
    assert measured == {"zhu-9-seed3": "outer,pants", "zhu-9-garment-seed3": None}


def test_only_comparable_rows_are_compared(cycle_ins, options, tmp_path):
    """Whole photos and garments only in changes around the garment; two papers' settings in
    everything but their critics; each kind has its own table."""
    network = segmenter(tmp_path)
    rows = {"zhu-9": (2.0, 0.05, 0.25), "clothing-9": (3.0, 0.08, 0.5),
            "zhu-9-garment": (1.0, 0.02, 0.0)}
    cycle_ins.set_metrics({
        f"{row}-seed{seed}": values(objective, kid + 0.001 * seed, background + 0.001 * seed)
        for row, (objective, kid, background) in rows.items() for seed in (1, 2)})
    assert leather_denim.main(options(f"--rows={','.join(rows)}", "--seeds=1,2",
                                      f"--segmenter={network}", "--garment=outer,pants")) == 0
    text = (tmp_path / "out/leather_denim.md").read_text()
    assert ("`zhu-9-garment` against `zhu-9`: around the garment L1, to denim lower by 0.250 "
            "(better).") in text
    between, = (line for line in text.splitlines() if "`clothing-9` against `zhu-9`" in line)
    assert "KID x 1000, to denim higher by 30.0" in between and "objective" not in between
    whole, garments = text.split("## Whole photos")[1].split("## Differences")[0].split(
        "## Garments")
    assert "| `zhu-9` | 2 | 2.00" in whole and "-garment`" not in whole
    steps = [line.split("|")[-2].strip() for line in whole.splitlines() if line[:3] == "| `"]
    assert steps == ["100,016", "10,002"]  # with ten photos
    assert "| `zhu-9-garment` |" in garments and "| `zhu-9` |" not in garments


def test_one_seed_states_no_difference_and_says_so_once(cycle_ins, options, tmp_path):
    rows = leather_denim.WHOLE
    cycle_ins.set_metrics({f"{row}-seed1": values(2.0) for row in rows})
    assert leather_denim.main(options(f"--rows={','.join(rows)}", "--seeds=1")) == 0
    text = (tmp_path / "out/leather_denim.md").read_text()
    assert text.count("No row has two seeds that differ") == 1


def test_a_table_needs_no_photos(cycle_ins, options, tmp_path):
    """They were counted when the study started."""
    cycle_ins.set_metrics({"zhu-6-seed1": values(2.0)})
    assert leather_denim.main(options("--rows=zhu-6", "--seeds=1")) == 0
    for name in ("leather", "denim"):
        shutil.rmtree(tmp_path / f"photos-{name}")
    (tmp_path / "out/leather_denim.md").unlink()
    assert leather_denim.main([f"--out={tmp_path / 'out'}", "--table-only"]) == 0
    assert "| `zhu-6` | 1 |" in (tmp_path / "out/leather_denim.md").read_text()


def test_the_table_and_the_curves(cycle_ins, draw_charts, options, tmp_path):
    cycle_ins.set_metrics({
        "zhu-9-seed1": values(2.0), "zhu-9-seed2": values(2.1), "zhu-6-seed1": values(3.0, 0.08),
        "zhu-6-seed2": values(3.1, 0.081)})
    assert leather_denim.main(options("--rows=zhu-9,zhu-6", "--seeds=1,2")) == 0
    draw_charts()
    assert leather_denim.main([f"--out={tmp_path / 'out'}", "--table-only"]) == 0
    text = (tmp_path / "out/leather_denim.md").read_text()
    assert "| `zhu-9` | 2 | 2.05 ± 0.05 | 50.0 ± 0.0 | 25.0 ± 0.0 | 75.0 ± 0.0 |" in text
    assert "KID x 1000 of untranslated photos 125.0; KID floor x 1000, to denim 1.0" in text
    assert ("untranslated leather taken for denim (%) 12.5; real denim taken for denim (%) 75.0; "
            "untranslated denim taken for leather (%) 25.0; real leather taken for leather (%) 87.5"
            ) in text
    assert "`zhu-9` against `zhu-6`: objective lower by 1.00 (better), KID x 1000" in text
    assert (tmp_path / "out/leather_denim.png").read_bytes()[1:4] == b"PNG"
    record = json.loads((tmp_path / "out/leather_denim.json").read_text())
    charts = {chart.title: chart.series for chart in term_charts(record["trials"])}
    assert charts["objective"]["zhu-6"] == ([100.016], [0.75 + 2 * 0.1875 + 10 * 0.75])
    assert charts["critics"]["zhu-9"][1] == [0.375] and set(charts["cycle"]) == {"zhu-9", "zhu-6"}


@pytest.mark.parametrize("more, error", [
    (["--rows=zhu-9-garment"], "--rows=zhu-9-garment: rows that end in -garment need --segmenter"),
    (["--segmenter=3"], "--segmenter and --garment: .* both, or neither"),
    (["--denim=nowhere"], "--denim=nowhere: 0 photos; 20 at least"),
    (["--denim="], "--denim: missing, and --preset=tiny names none"),
    (["--segmenter=seg.safetensors", "--garment=outer,coat"],
     "--garment=outer,coat: seg.safetensors has no class 'coat'; it has outer, pants$"),
    (["--segmenter=seg.safetensors", "--garment=outr"], "outer, pants; did you mean outer"),
])
def test_wrong_options_are_refused(options, tmp_path, monkeypatch, more, error):
    monkeypatch.chdir(tmp_path)
    segmenter(tmp_path)
    with pytest.raises(UserError, match=error):
        leather_denim.main(options(*more))


def test_presets_have_only_options_of_the_training():
    fields = {*CycleConfig.__dataclass_fields__, "preset"}
    for preset in leather_denim.PRESETS.values():
        assert {*preset.train} <= fields
        assert {row for row, _ in preset.plan} <= {*leather_denim.ROWS}
    assert set(leather_denim.SETTINGS.values()) <= set(CycleConfig.presets)


@pytest.mark.slow
def test_a_real_run(options, tmp_path, monkeypatch):
    """The real commands, at 16x16, with a narrow Inception."""
    monkeypatch.setenv("STYLE_C_GAN_CACHE", str(tmp_path / "cache"))
    np.savez(tmp_path / "inception.npz", **small_arrays())
    assert leather_denim.main(options("--rows=zhu-6", "--seeds=1",
                                      f"--inception={tmp_path / 'inception.npz'}")) == 0
    trial, = json.loads((tmp_path / "out/leather_denim.json").read_text())["trials"]
    assert trial["values"]["cycleloss"] > 0 and 0 <= trial["values"]["cycleclass"] <= 1
    assert {"cyclekid_AtoB", "cyclefid_untranslated"} <= trial["values"].keys()
    text = (tmp_path / "out/leather_denim.md").read_text()
    assert "![grid](zhu-6-seed1/fakes" in text and "KID floor x 1000, to denim" in text
