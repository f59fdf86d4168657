"""What must not change: command lines, files and numbers, stored in tests/frozen. The tests use
the scripts' main functions, and hardly any module of the program.

If a change is intended, RENEW_FROZEN=1 python -m pytest tests/test_frozen.py renews help texts and
records.json; the run, its end and the pictures are never renewed.
"""

import hashlib
import json
import os
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file

import dataset_tool
import generate
import run_metrics
import train
from dnnlib.tflib import distribute
from tests.tools.training_runs import ONE_DEVICE

FROZEN = Path(__file__).resolve().parent / "frozen"
SCRIPTS = {module.__name__: module for module in (train, generate, run_metrics, dataset_tool)}
RUN = Path("results/00000-2d-dataset-8")
FINAL, SHEET = "network-final.safetensors", "seeds-0-3-trunc0.7.png"
TRAIN = shlex.split("""
    --variant=2d --data=dataset --device=cpu --resolution=8 --initial-resolution=4 --fmap-base=32
    --fmap-max=4 --latent-size=6 --mapping-layers=2 --minibatch=4 --minibatch-repeats=1
    --hold-kimg=0.008 --fade-kimg=0.008 --rgb-kimg=0.032 --binary-kimg=0.016 --classes-kimg=0.032
    --tick-kimg=0.016 --network-ticks=1 --smoothing-kimg=0.1 --seed=3 --keep=4
    --metrics=fid4_full,kid4_trainval --inception=inception.npz --lrate=0.01""")
EXTRACTED = {  # sha256 of all pixels, in the order of the names
    "images": "ca6899bf177954b4700e6348db969815c31f8f8f18aa9a0a2b7a0d44fb0bbe91",
    "labels": "2f1028bcf2d084cec2244b3e82357f5bd15607e47de9c92677cfeb43a0f50d3e"}
# After eight steps, one thread and two differ by 8e-5 of a tensor's change in two steps.
TOLERANCE = 1e-3
# Instance norm cancels it, so its gradient is only rounding noise, which Adam makes large.
UNDETERMINED = "4x4/Const/bias"
SPLITS = "--resolution=16 --workers=1 --num-val=2 --num-test=2 --seed=5"
CONVERSIONS = {out: f"{text} --out={out} {SPLITS}" for out, text in {
    "dataset": "create_modanet --source=raw", "cropped": "create_modanet --source=raw --fit=crop",
    "raw-records": "create_modanet --source=raw --encoding=raw",
    "coco": "create_from_coco --source=raw --encoding=png",
    "labelled": "create_from_images --source=raw/images --labels=raw/labels.json",
    "masks": "create_from_masks --source=extracted"}.items()}


def expect(path, text, what):
    """Check that a frozen file has this text; with RENEW_FROZEN, write it."""
    if os.environ.get("RENEW_FROZEN"):
        path.write_text(text)
    frozen = path.read_text() if path.is_file() else "(no such file)"
    assert text == frozen, (f"{what} is not that of {path}; if that is meant: RENEW_FROZEN=1 "
                            "python -m pytest tests/test_frozen.py, and look at the difference")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Make a working folder with copies of all frozen files; the run is in results/."""
    monkeypatch.setenv("STYLE_C_GAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(FROZEN, tmp_path, dirs_exist_ok=True)
    RUN.parent.mkdir()
    Path("run").rename(RUN)
    return tmp_path


@pytest.mark.parametrize("name", sorted(path.stem for path in (FROZEN / "help").iterdir()))
def test_help(name, monkeypatch, capsys):
    script, _, command = name.partition("-")
    command = f"--variant={command}" if script == "train" and command else command
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "argv", [f"{script}.py"])
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    with pytest.raises(SystemExit) as leaving:
        SCRIPTS[script].main([*filter(None, [command]), "--help"])
    assert leaving.value.code == 0
    expect(FROZEN / "help" / f"{name}.txt", capsys.readouterr().out, f"the help of {name}")


def header(path):
    """Return a snapshot's header without the digests of its arrays and the path of its data."""
    with safe_open(str(path), framework="np") as file:
        content = json.loads(file.metadata()["header"])
    del content["digests"], content["digest"], content["dataset"]["path"]
    return content


def last_tick(folder):
    """Return the last tick in stats.jsonl."""
    lines = map(json.loads, (folder / "stats.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == "tick"][-1]


@pytest.mark.slow
@pytest.mark.parametrize("later_state", [
    "training-state-000000072.safetensors", "training-state-000000048.safetensors"])
def test_the_same_command_finishes_the_run(later_state, place, monkeypatch):
    """Continued from the middle of a tick, and from before the growth to all classes."""
    # Other tests may have started to use the devices, which can no longer be set up then.
    monkeypatch.setattr(distribute, "create_strategy", lambda *args: ONE_DEVICE)
    told = (RUN / "stats.jsonl").read_bytes()
    for state in RUN.glob("training-state-*"):
        if state.name > later_state:
            state.unlink()
    assert train.main(TRAIN) == 0
    assert [path.name for path in RUN.parent.iterdir()] == [RUN.name]
    made, frozen = header(RUN / FINAL), header(FROZEN / "final.safetensors")
    for part in ("training", "dataset"):  # without entries that were added later
        made[part] = {name: made[part][name] for name in frozen[part]}
    assert made == frozen
    before = load_file(FROZEN / "run" / "training-state-000000072.safetensors")
    frozen, made = load_file(FROZEN / "final.safetensors"), load_file(RUN / FINAL)
    assert made.keys() == frozen.keys()
    for name, values in frozen.items():
        if not name.endswith(UNDETERMINED):
            np.testing.assert_allclose(made[name], values, rtol=0, err_msg=name,
                                       atol=TOLERANCE * np.abs(values - before[name]).max())
    lines, tick = (RUN / "stats.jsonl").read_bytes(), last_tick(RUN)
    assert lines.startswith(told) or later_state.endswith("48.safetensors")
    assert tick.keys() >= last_tick(FROZEN / "run").keys() and tick["Progress/kimg"] == 0.08
    assert tick["Metrics/fid4_full"] == pytest.approx(5010, rel=0.01)
    best, frozen = (json.loads((run / "best.json").read_text()) for run in (RUN, FROZEN / "run"))
    assert best == {**frozen, "value": pytest.approx(frozen["value"], rel=0.01)}


def check_picture(path, frozen, uncertain=0.0):
    """Check that pictures are equal within a grey level, except a share `uncertain` of pixels."""
    made, wanted = (np.asarray(Image.open(p), np.int16) for p in (path, FROZEN / frozen))
    assert made.shape == wanted.shape
    differ = np.abs(made - wanted).reshape(*made.shape[:2], -1).max(axis=-1) > (made.ndim == 3)
    assert differ.mean() <= uncertain, frozen


def test_pictures_of_the_frozen_networks(place):
    """The best network's sheet; pairs, and one pair again from its record; by the run's number and
    by file name. If two classes are equally likely, rounding may choose the other one."""
    assert generate.main(["--network=0", "--seeds=0-3", "--out=out"]) == 0
    check_picture(f"out/{SHEET}", f"pictures/{SHEET}", uncertain=0.02)
    assert generate.main(["--network=final.safetensors", "--num=2", "--trunc=0.7",
                          "--out=made"]) == 0
    assert generate.main(["--replay=pictures/pairs/samples.jsonl", "--index=1", "--out=again",
                          "--network=final.safetensors"]) in (0, 1)
    for kind in ("images", "labels", "overlays"):
        for out, number in (("made", 0), ("made", 1), ("again", 1)):
            name = f"{kind}/{number:07d}.png"
            check_picture(f"{out}/{name}", f"pictures/pairs/{name}",
                          uncertain=0 if kind == "images" else 0.1)
    made, wanted = (pair_files(Path(out)) for out in ("made", "pictures/pairs"))
    assert made == wanted


def pair_files(folder):
    """Return a folder of pairs without pictures and values that depend on single pixels."""
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    for sample in samples:
        del sample["present"], sample["sha256"]
        sample.pop("confidence", None)  # added later
    coco = json.loads((folder / "annotations/modanet2018_instances_train.json").read_text())
    coco["annotations"] = list(coco["annotations"][0])
    return samples, coco, (folder / "classes.txt").read_text()


def test_metrics_of_the_frozen_networks(place):
    """The newest run's best network, and a file with given Inception weights."""
    reals = ["--data=dataset", "--split=train"]
    assert run_metrics.main(["--metrics=classes32", *reals]) == 0
    record = json.loads((RUN / "metric-classes32.jsonl").read_text())
    assert record["network"] == f"{RUN}/network-snapshot-000000.064.safetensors"
    assert run_metrics.main(["--metrics=classes32,fid8_full", "--network=final.safetensors",
                             "--inception=inception.npz", *reals]) == 0
    for name, value, tolerance in (("classes32", 0.505, 0.03), ("fid8_full", 3780.6, 2)):
        results = json.loads(Path(f"metric-{name}.jsonl").read_text())["results"]
        assert results == {name: pytest.approx(value, abs=tolerance)}


def digests(folder):
    """Return {file: sha256} of a data set without its page; for dataset.json its fields."""
    files = {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
             for path in sorted(folder.rglob("*")) if path.is_file()
             and path.name not in ("report.html", "dataset.json")}
    content = json.loads((folder / "dataset.json").read_text())
    del content["class_counts"]  # statistics.json has them too
    return {**files, "dataset.json": content}


def test_conversions(place):
    """Data sets made from tests/frozen/raw are the same to the byte."""
    shutil.rmtree("dataset")
    records = {}
    for out, command in CONVERSIONS.items():
        assert dataset_tool.main(command.split()) == 0
        records[command] = digests(Path(out))
        if out == "dataset":
            assert dataset_tool.main(["extract", "dataset", "--out=extracted"]) == 0
    expect(FROZEN / "records.json", json.dumps(records, indent=1) + "\n", "what is converted")


def test_the_frozen_data_set(place, capsys):
    """It can be read and verified, and has the same maps as before."""
    assert dataset_tool.main(["info", "dataset", "--verify"]) == 0
    capsys.readouterr()
    assert dataset_tool.main(["info", "dataset"]) == 0
    assert "5 train, 2 val, 2 test" in capsys.readouterr().out
    assert dataset_tool.main(["extract", "dataset", "--out=out"]) == 0
    for folder, digest in EXTRACTED.items():
        pixels = [np.asarray(Image.open(path)) for path in sorted(Path("out", folder).iterdir())]
        assert len(pixels) == 9
        assert hashlib.sha256(np.stack(pixels).tobytes()).hexdigest() == digest, folder
