"""index.html of a run, made from files: its numbers are those of stats.jsonl."""

import base64
import io
import json
import math
import re

import numpy as np
from PIL import Image

from dnnlib.data import channels, pictures
from dnnlib.page import escape
from tests.tools.page_reader import PageReader
from training.config import TrainingConfig
from training.run import run_page
from training.run.history import DIVERGED, FINAL, read_history
from training.run.run_page import MAX_GRIDS, evenly, write_page

EVIL = '<script>alert(1)</script>"\'&amp;/\x1b[2J\u202e'
OPTIONS = TrainingConfig.preset("demo-32", {"seed": 5, "minibatch": {4: 8, 16: 4}}).to_json()


def tick(number, **changes):
    """Return a record of stats.jsonl, of a run in three stages of 100 ticks each; NaN at tick 7."""
    stage = ("rgb", "binary", "classes")[min(number // 100, 2)]
    critics = ("rgb",) if stage == "rgb" else ("rgb", "joint")
    record = {"event": "tick", "stage": stage, "saved_network": number % 10 == 0}
    for place, critic in enumerate(critics):
        record |= {f"Loss/scores/real/{critic}": math.sin(number / 9 + place),
                   f"Loss/scores/fake/{critic}": -math.sin(number / 9 + place),
                   f"Loss/r1_penalty/{critic}": 10 ** (math.sin(number / 50) - place),
                   f"Loss/signs/real/{critic}": math.sin(number / 20 + place),
                   f"Augment/p/{critic}": abs(math.sin(number / 70 + place)),
                   f"Augment/r_t/{critic}": math.sin(number / 20 - place),
                   f"Loss/D/{critic}": math.nan if number == 7 else 1 + 1 / (number + place)}
    record |= {"Loss/G": 1 + number / 1000, "Progress/tick": number, "Progress/kimg": 0.5 * number,
               "Progress/lod": max(2 - number / 40, 0), "Progress/lrate": 0.001,
               "Progress/resolution": 8 if number < 40 else 16 if number < 80 else 32,
               "Progress/channels": 3, "Progress/minibatch": 8, "Progress/end_kimg": 200.0,
               "Progress/skipped_updates": 0, "Progress/skipped_total": 0,
               "Timing/total_sec": 60.0 * number, "Timing/sec_per_tick": 30.0,
               "Timing/sec_per_kimg": 60.0 + number, "Timing/maintenance_sec": 1.0,
               "Timing/eta_sec": 5000.0, "Timing/eta_stage_sec": 400.0,
               "Resources/peak_mem_gb": 1.5}
    if record["saved_network"]:
        record |= {"Metrics/fid1k": 300 / number, "Metrics/kid1k": 1 / number}
    return record | changes


def write_run(run_dir, num_ticks, num_grids=0, extra=(), size=32):
    """Write a run directory like a training's."""
    run_dir.mkdir(parents=True, exist_ok=True)
    records = [tick(number) for number in range(1, num_ticks + 1)]
    lines = [json.dumps(record) for record in [*records, *extra]]
    (run_dir / "stats.jsonl").write_text("\n".join(lines) + "\n")
    rng = np.random.default_rng(0)
    for number in range(num_grids):
        grid = np.kron(rng.integers(0, 255, (size // 4, size, 3)), np.ones((4, 4, 1)))
        pictures.save_png(run_dir / f"fakes{number:06d}.png", grid.astype(np.uint8))
    return records


def read_page(run_dir, options=OPTIONS):
    write_page(run_dir, options)
    return PageReader((run_dir / "index.html").read_text(encoding="utf-8"))


def charts_of(run_dir):
    """Return {title: Chart} of all charts on the page, in their order."""
    history = read_history(run_dir)
    names = sorted({name.removeprefix("Classes/real/") for record in history.ticks
                    for name in record if name.startswith("Classes/real/")})
    charts = [*run_page.metric_charts(history, run_dir), *run_page.class_charts(history, names),
              *run_page.loss_charts(history), *run_page.schedule_charts(history)]
    return {chart.title: chart for chart in charts}


CURVES = [("scores of D", "real/rgb", "Loss/scores/real/rgb"),
          ("scores of D", "fake/joint", "Loss/scores/fake/joint"),
          ("mean sign of D's scores, and r_t", "real/joint", "Loss/signs/real/joint"),
          ("mean sign of D's scores, and r_t", "r_t/rgb", "Augment/r_t/rgb"),
          ("probability p of each augmentation", "joint", "Augment/p/joint"),
          ("losses", "D/rgb", "Loss/D/rgb"), ("losses", "G", "Loss/G"),
          ("r1_penalty", "joint", "Loss/r1_penalty/joint"), ("fid1k", "fid1k", "Metrics/fid1k"),
          ("kid1k", "kid1k", "Metrics/kid1k"), ("learning rate", "learning rate", "Progress/lrate"),
          ("sec/kimg", "sec/kimg", "Timing/sec_per_kimg")]


def test_curves_equal_the_numbers_in_stats(tmp_path):
    records = write_run(tmp_path, 250)
    reader, charts = read_page(tmp_path), charts_of(tmp_path)
    for title, curve, name in CURVES:
        expected = np.array([(r["Progress/kimg"], r[name]) for r in records if name in r])
        np.testing.assert_array_equal(np.transpose(charts[title].series[curve]), expected)
        assert charts[title].x_end == 125
        last = f"{curve}: {expected[-1, 1]:.4g}"
        assert last in reader.charts.get(title, "") or charts[title].is_flat()
    text = (tmp_path / "index.html").read_text()
    assert charts["losses"].svg() in text and charts["fid1k"].svg() in text
    assert "D/rgb: 1.004 (1 of 250 not finite)" in reader.text
    assert charts["losses"].marks == [(19.5, "16", "mark"), (39.5, "32", "mark")]


def test_growths_and_resumes_are_marked(tmp_path):
    growth = {"event": "growth", "stage": "binary", "kimg": 49.5, "before": {"D_rgb/real": 0.25},
              "after": {"D_rgb/real": 0.125, "D_joint/real": 0.75}}
    write_run(tmp_path, 150, extra=[growth, {"event": "resume", "kimg": 30.25}])
    reader = read_page(tmp_path)
    assert charts_of(tmp_path)["losses"].marks == [
        (19.5, "16", "mark"), (30.25, "resumed", "resume"), (39.5, "32", "mark"),
        (49.5, "binary", "growth")]
    assert "to binary map at kimg 49.5" in reader.text and "0.125" in reader.text


def test_grids_behind_a_slider(tmp_path):
    write_run(tmp_path, 20, num_grids=3)
    pictures.save_png(tmp_path / "reals.png", np.full((2102, 2078, 3), 9, np.uint8))
    reader = read_page(tmp_path)
    (slider,) = [a for tag, a in reader.tags if tag == "input"]
    assert (slider["type"], slider["min"], slider["max"], slider["value"]) == (
        "range", "0", "2", "2")
    assert [tag for tag, _ in reader.tags].count("script") == 1
    for number, source in enumerate(reversed(reader.sources()[:3])):
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))
        drawn = np.asarray(Image.open(tmp_path / f"fakes{number:06d}.png"))
        np.testing.assert_array_equal(shown, drawn)
    places = [reader.text.index(f"fakes{n:06d}.png") for n in (2, 1, 0)]
    assert places == sorted(places)  # the newest first if scripts are off
    widths = [int(a["width"]) for tag, a in reader.tags if tag == "img"]
    assert widths == [128] * 3 + [1039]  # large ones are reduced


def test_many_ticks_and_grids_stay_small_and_are_not_encoded_again(tmp_path, monkeypatch):
    encoded, reduced = [], pictures.shrink_to_width
    monkeypatch.setattr(pictures, "shrink_to_width",
                        lambda *args: encoded.append(1) or reduced(*args))
    write_run(tmp_path, 3000, num_grids=90, size=16)
    reader = read_page(tmp_path)
    assert MAX_GRIDS / 2 < len(reader.sources()) <= MAX_GRIDS
    assert f"{len(reader.sources())} of 90 grids" in reader.text
    assert "fakes000000.png" in reader.text
    assert "fakes000089.png" in reader.text
    text = (tmp_path / "index.html").read_text()
    pictures_size = sum(map(len, reader.sources()))
    assert len(text) - pictures_size < 600_000
    assert abs(float(re.search(r"; ([\d.]+) MB", reader.text)[1]) * 1e6 - len(text)) < 60_000
    assert len(encoded) == len(reader.sources())
    # A grid that was drawn again after a resume is encoded again.
    pictures.save_png(tmp_path / "fakes000000.png", np.zeros((8, 8, 3), np.uint8))
    assert read_page(tmp_path).sources()[:-1] == reader.sources()[:-1]
    assert len(encoded) == len(reader.sources()) + 1
    # One more grid: only that one is encoded.
    pictures.save_png(tmp_path / "fakes000090.png", np.zeros((8, 8, 3), np.uint8))
    assert "fakes000090.png" in read_page(tmp_path).text
    assert len(encoded) == len(reader.sources()) + 2


def test_evenly_chosen_grids_change_one_at_a_time():
    assert evenly([1], 3) == [1] and evenly([1, 2, 3], 3) == [1, 2, 3]
    shown = [0]
    for last in range(1, 300):
        chosen, before = evenly(list(range(last + 1)), 40), shown
        assert chosen[0] == 0 and chosen[-1] == last and min(last + 1, 21) <= len(chosen) <= 40
        assert len(set(np.diff(chosen[:-1]))) <= 1 and set(chosen) - set(before) == {last}
        shown = chosen


def test_runs_of_any_kind_have_a_page(tmp_path):
    """Nothing yet; no metrics, no classes; a line cut off by a crash; a name without a number."""
    (tmp_path / "empty").mkdir()
    assert "No tick has finished yet" in read_page(tmp_path / "empty").text
    write_run(tmp_path / "plain", 5)
    with open(tmp_path / "plain" / "stats.jsonl", "ab") as file:
        file.write(b'{"event": "tick", "sta\n\xff\n7\n')
    (tmp_path / "plain" / "fakes-old.png").write_bytes(b"")
    reader = read_page(tmp_path / "plain", {})
    assert "3 lines could not be read" in reader.text
    headings = re.findall("<h2>(.*?)</h2>", (tmp_path / "plain" / "index.html").read_text())
    assert headings == ["Losses and scores", "Speed and schedule", "Configuration"]
    assert "colour" not in reader.text and "stopped" in reader.text


def test_a_method_that_does_not_grow_has_a_page(tmp_path):
    record = {name: value for name, value in tick(1).items()
              if name not in ("Progress/resolution", "Progress/channels", "Progress/lod")}
    write_run(tmp_path, 0, num_grids=2, extra=[record, record | {"Progress/kimg": 1.5}])
    reader = read_page(tmp_path)
    assert "kimg 1.5, stage rgb, fakes000001.png" in reader.text and "lod" not in reader.text
    assert "losses" in reader.text


def test_important_charts_are_first_and_flat_curves_are_folded(tmp_path):
    counted = {f"Classes/{kind}/{name}": 0.5 for kind in ("real", "fake")
               for name in "abcdefgh"} | {"Classes/total_variation": 0.25}
    write_run(tmp_path, 30, num_grids=1, extra=[tick(31, **counted)])
    run_page = (tmp_path / "index.html")
    write_page(tmp_path, OPTIONS)
    text = run_page.read_text()
    headings = re.findall("<h2>(.*?)</h2>", text)
    assert headings == ["Grids", "Metrics", "Class frequencies", "Losses and scores",
                        "Speed and schedule", "Configuration"]
    assert text.index('class="state') < text.index("<h2>")
    folded = re.findall("<details><summary>(.*?)</summary>(.*?)</details>", text, re.DOTALL)
    assert [summary for summary, _ in folded] == [
        "rarer ones: f, g, h",
        "constant: learning rate, minibatch, maintenance, seconds, peak memory, GB, "
        "skipped updates in a tick", "Everything else"]
    assert [content.count("<svg") for _, content in folded] == [3, 0, 0]
    assert text.count("<svg") == 3 + 1 + 6 + 2 + 6
    assert ['learning rate', '0.001'] in [re.findall(">([^<]+)</td>", row)
                                          for row in folded[1][1].split("<tr>")]


def state_of(reader):
    """Return the attributes and the text of the box at the top."""
    (box,) = [a for tag, a in reader.tags if tag == "p" and a.get("class", "").startswith("state")]
    return box, reader.text.partition("kimg")[0]


def test_the_page_of_a_finished_or_stopped_run_does_not_reload(tmp_path):
    write_run(tmp_path, 3)
    for name, shown in ((None, "stopped"), (DIVERGED, "given up"), (FINAL, "finished")):
        if name:
            (tmp_path / name).touch()
        for is_running in (False, True) if name else (False,):
            write_page(tmp_path, OPTIONS, is_running)
            reader = PageReader((tmp_path / "index.html").read_text())
            box, text = state_of(reader)
            assert box == {"class": f"state {shown}"} and shown in text
            assert not {"script", "noscript"} & {tag for tag, _ in reader.tags}
            assert "still to go" not in reader.text or is_running


def test_a_running_page_shows_its_age(tmp_path, monkeypatch):
    """In text, since nothing else shows that a run was killed; the seconds until it is late too."""
    monkeypatch.setattr(run_page.time, "time", lambda: 1e9)
    (tmp_path / "new").mkdir()
    for run, num_ticks, sec, late in (("new", 0, 0, 0), ("slow", 2, 900, 4505),
                                      ("fast", 2, 9, 600)):
        if num_ticks:
            write_run(tmp_path / run, num_ticks,
                      extra=[tick(num_ticks + 1, **{"Timing/sec_per_tick": sec})])
        write_page(tmp_path / run, OPTIONS, is_running=True)
        reader = PageReader((tmp_path / run / "index.html").read_text())
        box, text = state_of(reader)
        assert box == {"class": "state running", "data-written": "1000000000",
                       "data-late": str(late)}
        assert re.search(r"running when this page was written, \d{4}-\d\d-\d\d [\d:]{8} [+-]\d{4}",
                         text)
        assert ("the latest took 15m 01s" in text) == (run == "slow")
        assert "if it is much older, the training was killed" in text


def test_the_legend_has_the_colours_of_the_maps(tmp_path):
    names = ["top", EVIL, "shoes"]
    begin = {"event": "begin", "kimg": 0.0, "classes": names}
    growth = {"event": "growth", "stage": "classes", "kimg": 9.0, "before": {}, "after": {}}
    write_run(tmp_path, 3, num_grids=1, extra=[begin])
    assert "shoes" not in read_page(tmp_path).text  # no maps yet
    write_run(tmp_path, 101, num_grids=1, extra=[growth, begin])
    text = (read_page(tmp_path), (tmp_path / "index.html").read_text())[1]
    legend = re.search('<p class="legend">(.*?)</p>', text, re.DOTALL)[1]
    found = re.findall(r'rgb\((\d+), (\d+), (\d+)\)"></i>(.*?)</span>', legend)
    colours = channels.palette(3).tolist()
    shown = ["background", "top", escape(EVIL), "shoes", "any class, in the binary map"]
    assert [entry[3] for entry in found] == shown
    assert [[int(part) for part in entry[:3]] for entry in found] == [*colours, [255, 255, 255]]


def test_results_of_run_metrics_are_shown(tmp_path):
    write_run(tmp_path, 20)
    rows = [{"results": {"fid1k": value, "note": "x"}, "kimg": kimg,
             "reals": {"split": "test"}} for kimg, value in ((8, 50.0), (4, 60.0), (8, 40.0))]
    lines = [json.dumps(row) for row in rows] + ["", "{", '{"kimg": 1}', '{"results": []}']
    (tmp_path / "metric-fid1k.jsonl").write_text("\n".join(lines))
    chart = charts_of(tmp_path)["fid1k"]
    assert chart.series["fid1k, run_metrics.py, test"] == ((4, 8), (60, 40))
    assert len(chart.series["fid1k"][0]) == 2 and chart.x_end == 10  # the end of all charts' axes
    assert "fid1k, run_metrics.py, test: 40" in read_page(tmp_path).charts["fid1k"]


def test_classes_are_compared(tmp_path):
    counted = {f"Classes/real/{name}": share for name, share in (("a/b", 0.2), (EVIL, 0.6))}
    counted |= {"Classes/fake/a/b": 0.1, f"Classes/fake/{EVIL}": 0.3,
                "Classes/total_variation": 0.25}
    write_run(tmp_path, 2, extra=[tick(3, **counted | {"Classes/fake/a/b": 0.4}),
                                  tick(5, **counted)])
    reader = read_page(tmp_path)
    shown = EVIL.replace("\x1b", "\\u001b").replace("\u202e", "\\u202e")
    assert reader.text.index(shown) < reader.text.index("a/b") and "60.0" in reader.text
    charts = charts_of(tmp_path)
    assert charts["total variation distance of the proportions"].series["distance"][1] == [
        0.25, 0.25]
    assert charts["a/b"].series == {"real": ([1.5, 2.5], [20, 20]),
                                    "generated": ([1.5, 2.5], [40, 10])}
    assert charts[EVIL].series["generated"][1] == [30, 30]


def test_hostile_names_stay_text(tmp_path):
    run_dir = tmp_path / EVIL.replace("/", "_")
    hostile = tick(2, **{f"Loss/D/{EVIL}": 1.0, f"Metrics/{EVIL}": 2.0, "stage": EVIL,
                         f"Classes/real/{EVIL}": 0.5})
    growth = {"event": "growth", "stage": EVIL, "kimg": 0.2, "before": {EVIL: 1}, "after": {}}
    write_run(run_dir, 1, num_grids=1, extra=[hostile, growth])
    reader = read_page(run_dir, {**OPTIONS, "data": EVIL})
    scripts = [attributes for tag, attributes in reader.tags if tag == "script"]
    assert scripts == [{}] and reader.text.count("<script>alert(1)</script>") >= 6
    for _, attributes in reader.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("src", "data:").startswith("data:") and "href" not in attributes
        assert attributes.get("xlink:href", "#").startswith("#")
    assert not re.search(r"@import|url\((?!#)", (run_dir / "index.html").read_text())


def test_options_that_differ_from_the_preset_come_first(tmp_path):
    write_run(tmp_path, 1)
    text = read_page(tmp_path, {**OPTIONS, "init_from": "x", "data": "datasets/mine"}).text
    first, rest = text.partition("What differs from the preset demo-32")[2].split("Everything else")
    assert "seed" in first and "4:8,16:4" in first and "datasets/mine" in first
    assert "fmap_base" in rest and "init_from" in rest and "fmap_base" not in first
