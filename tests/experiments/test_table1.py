"""Table 1: its rows, and a real run at 8x8."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dnnlib.util import UserError
from experiments import table1
from tests.tools.data_helpers import tagged_and_untagged
from tests.tools.metrics_helpers import graph_bytes, small_arrays
from training.config import TrainingConfig
from training.gan.init_from import new_state
from training.run.config_checks import idle_rules
from training.snapshots import save_snapshot

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def options(tmp_path):
    """Return arguments for data sets at 8x8, and a function that adds to them."""
    tagged, untagged = tagged_and_untagged(tmp_path, 8, 12)
    fixed = [f"--out={tmp_path / 'out'}", "--preset=tiny", f"--data={tagged}",
             f"--untagged={untagged}"]
    return lambda *more: [*fixed, *more]


VALUES = {"kid16": {"": 0.1}, "fid16": {"": 90.0}, "classes16": {"": 0.2},
          "maps16": {"": 0.4, "_classes": 6, "_tv": 0.2}}


def values(kid):
    return {**VALUES, "kid16": {"": kid}}


def commands(stand_ins, start="--variant="):
    """Return {run: its options} of all trainings."""
    calls = [dict(argument[2:].partition("=")[::2] for argument in call)
             for call in stand_ins.calls() if any(a.startswith(start) for a in call)]
    return {Path(call["run"]).name: call for call in calls}


def test_rows_differ_in_what_their_names_say(stand_ins, options, tmp_path):
    rows = ("rgb", "c", "c-ada", "2d", "2d-detached-ada", "2d-balance", "2d-labelled")
    stand_ins.set_metrics({f"{row}-seed5": VALUES for row in rows})
    assert table1.main(options(f"--rows={','.join(rows)}", "--seeds=5", "--kimg=2")) == 0
    made = commands(stand_ins)
    assert made["start"]["variant"] == "rgb" and "init-from" not in made["start"]
    own = {"variant", "untagged", "augment", "joint-rgb-grad", "balance", "run"}
    base = made["2d-seed5"]
    for row in rows[1:]:
        other = made[f"{row}-seed5"]
        assert {k: v for k, v in base.items() if k not in own} == {
            k: v for k, v in other.items() if k not in own}
    assert base["init-from"] == str(tmp_path / "out" / "start") and base["seed"] == "5"
    assert (base["binary-kimg"], base["classes-kimg"]) == ("0.016", "1.984")
    assert made["2d-detached-ada-seed5"]["joint-rgb-grad"] == "0"
    assert made["2d-detached-ada-seed5"]["augment"] == made["c-ada-seed5"]["augment"] == "ada"
    assert made["2d-balance-seed5"]["balance"] == "0.5"
    assert [run for run in made if "untagged" not in made[run]] == [
        "c-seed5", "c-ada-seed5", "2d-labelled-seed5"]
    rgb = made["rgb-seed5"]
    assert rgb["rgb-kimg"] == "2" and not {"binary-kimg", "classes-kimg", "grow-d"} & rgb.keys()
    assert rgb["untagged"] == base["untagged"]


def test_presets_have_only_options_of_the_training():
    fields = {*TrainingConfig.__dataclass_fields__, "preset"}
    for preset in table1.PRESETS.values():
        assert (preset.rgb | preset.train | preset.ada).keys() <= fields
        assert {row for row, _ in preset.plan} <= table1.ROWS.keys()
        assert len(preset.plan) == len(set(preset.plan))


def test_rows_without_maps_get_no_option_of_maps():
    refused, = [rule.options for rule in idle_rules("rgb", "rgb") if rule.idle]
    assert set(refused) <= set(table1.OF_MAPS)


def test_augmented_rows_have_their_own_options(stand_ins, options, monkeypatch):
    tiny = dataclasses.replace(table1.PRESETS["tiny"], ada={"ada_kimg": 5})
    monkeypatch.setitem(table1.PRESETS, "tiny", tiny)
    stand_ins.set_metrics({"c-seed1": VALUES, "c-ada-seed1": VALUES})
    assert table1.main(options("--rows=c,c-ada", "--seeds=1")) == 0
    made = commands(stand_ins)
    assert made["c-ada-seed1"]["ada-kimg"] == "5" and "ada-kimg" not in made["c-seed1"]


def test_the_table(stand_ins, draw_charts, options, tmp_path):
    """Rows in the order of ROWS, means, a difference beyond chance, the floor, the paper's rows."""
    stand_ins.set_metrics({
        "2d-seed1": values(0.08), "2d-seed2": values(0.09), "c-seed1": values(0.2),
        "c-seed2": values(0.204), "2d-ada-seed1": values(0.0855),
        "rgb-seed1": {"kid16": {"": 0.05}, "fid16": {"": 50.0}}})
    assert table1.main(options("--rows=2d,c", "--seeds=1,2")) == 0
    draw_charts()
    assert table1.main(options("--rows=2d-ada,rgb", "--seeds=1")) == 0
    text = (tmp_path / "out" / "table1.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith(("| `", "| floor"))]
    assert [line.split("|")[1].strip() for line in lines] == [
        "`rgb`", "`c`", "`2d`", "`2d-ada`", "floor: half of the photos against the other"]
    assert lines[2] == ("| `2d` | 2 | 85.0 ± 5.0 | 90.0 ± 0.0 | – | 0.200 ± 0.000 | 6.0 ± 0.0 | "
                        "40.0 ± 0.0 | 100.016 | 10m 00s |")
    assert "| 1.0 | 0.0 | – | 0.001 | 0.0 | 0.1 |" in lines[4]
    assert "* `c` against `2d`: KID x 1000 higher by 117.0 (worse)." in text
    assert "* `2d-ada` against `2d`: no more than seeds differ." in text
    assert "| Style-C-GAN-2D | 4.69 ± 0.12 | 20.97 |" in text
    assert "    python train.py --variant=2d " in text
    record = json.loads((tmp_path / "out" / "table1.json").read_text())
    assert record["rows"]["c"]["KID x 1000"]["mean"] == pytest.approx(202)
    assert len(record["trials"]) == 6 and record["options"]["kimg"] == 0.048
    assert (tmp_path / "out" / "table1.png").stat().st_size > 1000


def test_a_table_keeps_its_options(stand_ins, options, tmp_path):
    """The folder alone continues it; other lengths or photos are refused."""
    stand_ins.set_metrics({f"{row}-seed1000": VALUES for row in ("2d", "c")})
    assert table1.main(options("--kimg=1")) == 0
    calls, out = len(stand_ins.calls()), f"--out={tmp_path / 'out'}"
    assert table1.main([out]) == 0 and table1.main([out, "--table-only"]) == 0
    assert len(stand_ins.calls()) == calls
    with pytest.raises(UserError, match=r"--kimg=2.0: .*out was begun with 1.0; leave it out"):
        table1.main([out, "--kimg=2"])
    with pytest.raises(UserError, match=r"--reals=x: .* was begun with None"):
        table1.main([out, "--reals=x"])


@pytest.mark.parametrize("more, message", [
    (["--kimg=0.016"], "--kimg=0.016: 0.016 of them are the binary stage"),
    (["--rows=3d"], "--rows=3d: unknown; known: rgb, c, "),
    (["--rgb=x", "--resolution=8"], "--resolution: without effect: rows have the resolution of"),
    (["--reals=nowhere"], "--reals=nowhere: no such folder"),
    (["--rgb=nowhere"], "nowhere: no such snapshot"),
    (["--rgb=docs/models/ccp-2d-32.safetensors"], "is of stage classes; rows begin from one of")])
def test_mistakes_have_clear_errors(stand_ins, options, tmp_path, more, message):
    with pytest.raises(UserError, match=message):
        table1.main(options(*more))
    assert not (tmp_path / "out").exists() and not stand_ins.calls()


def test_nothing_to_show(tmp_path):
    with pytest.raises(UserError, match="no table was begun there"):
        table1.main([f"--out={tmp_path}", "--table-only"])


def test_with_own_photos_only_they_are_used(tmp_path, capsys):
    """With --data, the preset's own photos and the row without unlabelled ones are not used."""
    tagged, _ = tagged_and_untagged(tmp_path, 8, 12)
    assert table1.main([f"--data={tagged}", f"--out={tmp_path / 'out'}", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "datasets/" not in out and "--untagged" not in out and "2d-labelled" not in out
    assert f"--reals={tagged} --split=train --floor" in out
    assert not (tmp_path / "out").exists()


def rgb_network(path, config):
    """Write a snapshot of untrained networks of the RGB stage."""
    networks = new_state(config).networks
    save_snapshot(path, networks, {"variant": "rgb", "stage": "rgb", "classes": [], "kimg": 7,
                                   "lod": {"resolution": config.resolution, "fade": 0.0}})
    return path


@pytest.mark.slow
def test_a_real_run_is_stopped_and_continued(options, tmp_path, tiny_config):
    """Two rows at 8x8 from a network; Ctrl-C while the second one trains."""
    weights = tmp_path / "small.pb"
    weights.write_bytes(graph_bytes(small_arrays()))
    rgb = rgb_network(tmp_path / "rgb.safetensors", tiny_config(resolution=8))
    argv = options("--rows=rgb,c", "--seeds=3", f"--inception={weights}", f"--rgb={rgb}")
    environment = {**os.environ, "STYLE_C_GAN_CACHE": str(tmp_path / "cache")}

    def begin():
        return subprocess.Popen([sys.executable, "-m", "experiments.table1", *argv], cwd=ROOT,
                                env=environment, stdout=subprocess.PIPE, text=True)
    process, out = begin(), tmp_path / "out"
    while process.poll() is None and not (out / "c-seed3" / "stats.jsonl").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[0]
    assert process.returncode == 130, said
    assert f"stopped; the same command continues: python -m experiments.table1 --out={out}" in said
    assert not (out / "c-seed3" / "network-final.safetensors").exists()
    assert "| `rgb` | 1 |" in (out / "table1.md").read_text()
    finished = (out / "rgb-seed3" / "metric-kid16.jsonl").read_bytes()
    rgb.unlink()  # the table has a copy
    process = begin()
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert "== c, seed 3: 2 of 2, to be continued" in said and "== rgb" not in said
    assert (out / "rgb-seed3" / "metric-kid16.jsonl").read_bytes() == finished
    record = json.loads((out / "table1.json").read_text())
    assert [one["row"] for one in record["trials"]] == ["rgb", "c"]
    for one in record["trials"]:
        assert one["kimg"] == 0.048 and {"kid16", "fid16", "is16"} <= one["values"].keys()
    assert "maps16_classes" in record["trials"][1]["values"]
    assert "classes drawn" in record["rows"]["c"] and "classes drawn" not in record["rows"]["rgb"]
