"""CycleGANs by train.py: plans, and what is refused before anything is trained."""

import json
import shlex
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import dataset_tool
import generate
import train
from dnnlib.tflib import distribute
from dnnlib.util import UserError
from tests.tools.data_helpers import tagged_and_untagged
from tests.tools.domains import (
    BLUE,
    ONE_DEVICE,
    RED,
    TINY,
    box_dataset,
    pair_folder,
    two_datasets,
)
from training.cycle.config import CycleConfig
from training.cycle.job import CycleJob
from training.snapshots import read_header, save_snapshot

OPTIONS = ["--variant=cyclegan", "--preset=tiny", "--device=cpu"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Make a working folder with the data sets a and b, and c without maps."""
    two_datasets(tmp_path)
    box_dataset(tmp_path / "c", BLUE, 4, seed=3, has_maps=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(distribute, "create_strategy", lambda *args: ONE_DEVICE)
    return tmp_path


def run(*options):
    return train.main([*OPTIONS, *options])


def test_the_plan_names_both_lists(place, capsys):
    """Lists of unequal length and size: a pass has the longer list's length, the smaller size."""
    box_dataset(place / "large", RED, 5, seed=4, side=32)
    run("--data=large", "--target=b", "--dry-run", "--kimg=0.9", "--garment=box")
    out = capsys.readouterr().out
    assert ("A: 5 photos of large; B: 9 of b; both at 16x16: 100 passes through the longer list"
            in out)
    assert "A: only box is translated; of 5 photos 0 show too little of it" in out
    assert "CycleGAN of 1 blocks at 16x16, 0.9 kimg: 225 steps of 4" in out
    run("--data=a", "--target=c", "--garment=box", "--dry-run")
    assert "B: has no maps: its photos are translated as a whole" in capsys.readouterr().out


def test_white_bars_of_one_list_alone_are_named(place, capsys):
    """Unless critics see garments alone."""
    content = json.loads((place / "a/dataset.json").read_text())
    (place / "a/dataset.json").write_text(json.dumps({**content, "options": {"fit": "crop"}}))
    for options, warned in (([], True), (["--garment=box"], False)):
        run("--data=a", "--target=b", "--dry-run", *options)
        assert ("warning: photos A are made square by --fit=crop, B by --fit=pad"
                in capsys.readouterr().out) == warned


def test_folders_of_photos_and_a_single_photo(place, capsys):
    for name, count in (("photos", 3), ("one", 1)):
        (place / name).mkdir()
        for number in range(count):
            Image.new("RGB", (20 + number, 30), (200, 30, 9)).save(place / name / f"{number}.png")
    run("--data=photos", "--target=one", "--dry-run")
    out = capsys.readouterr().out
    assert "A: 3 photos of photos; B: 1 of one; both at 16x16" in out
    assert "warning: one has only one photo: its critic will know it by heart" in out


def test_a_folder_of_pairs_is_read_at_the_size_of_half_of_them(place, capsys):
    """Or at any other size that is given."""
    pair_folder(place / "pairs")
    box_dataset(place / "large", RED, 5, seed=4, side=32)
    for kind in ("images", "labels"):
        with Image.open(f"pairs/{kind}/0.png") as first:
            first.resize((8, 8), Image.Resampling.NEAREST).save(f"pairs/{kind}/0.png")
    for options, side in (([], 16), (["--resolution=32"], 32)):
        run("--data=pairs", "--target=large", "--dry-run", *options)
        assert f"both at {side}x{side}" in capsys.readouterr().out


@pytest.mark.parametrize("options, error", [
    ([], "--target: missing"),
    (["--target=a"], "--target: a has the same photos as --data=a; give those of the other kind"),
    (["--target=copy"], "--target: copy has the same photos as --data=a"),
    (["--target=a", "--garment=box"], "or another garment with --target-garment"),
    (["--target=nowhere"], "data set nowhere does not exist"),
    (["--target=empty"], "empty: neither a finished data set .* nor a folder of photos .*JPEG"),
    (["--target=b", "--resolution=32"], "--resolution=32: a goes up to 16"),
    (["--target=b", "--resolution=4"], "--resolution=4: 8 at least"),
    (["--target=b", "--strides=3"], "--strides=3: at 16x16 no patch is left"),
    (["--target=b", "--garment=hat"], "--garment=hat: a has no class 'hat'; it has box"),
    (["--target=b", "--garment=boxx"], "it has box; did you mean box"),
    (["--target=b", "--garment=box", "--target-garment=hat"], "--target-garment=hat: b has no cl"),
    (["--target=c", "--garment=box", "--target-garment=hat"], "--target-garment=hat: c has no map"),
    (["--data=c", "--target=copy-of-c", "--garment=box"], "neither c nor copy-of-c has maps"),
    (["--target=b", "--target-garment=box"], "--target-garment: is for --garment"),
    (["--target=b", "--gpus=3"], "a minibatch of 4 cannot be shared by 3 devices"),
    (["--target=b", "--norm=batch", "--minibatch=1"], "--norm=batch: a single picture's"),
    (["--target=b", "--minibatch-per-gpu=3"], "--minibatch-per-gpu=3: a device's 4 photos of each"),
    (["--target=b", "--minibatch-per-gpu=5"], "--minibatch-per-gpu=5: a minibatch has 4 photos"),
    (["--target=b", "--minibatch-per-gpu=2", "--norm=batch"], "--norm=batch normalises what is"),
    (["--target=b", "--cycle-weight=0", "--identity-weight=1"], "--identity-weight: is a share"),
    (["--target=b", "--patience=2"], "--patience: no score is measured"),
    (["--target=b", "--init-from=x"], "--init-from.*all networks begin anew"),
])
def test_wrong_options_are_refused(place, options, error):
    shutil.copytree("a", "copy")
    (place / "empty").mkdir()
    box_dataset(place / "copy-of-c", BLUE, 4, seed=3, has_maps=False)
    with pytest.raises(UserError, match=error):
        run(*([] if any("--data" in option for option in options) else ["--data=a"]), *options,
            "--dry-run")


def test_one_list_may_be_two_garments(place, capsys):
    """Of the same photos, from one class to another."""
    data, _ = tagged_and_untagged(place, 16, 6)
    run(f"--data={data}", f"--target={data}", "--garment=hat,coat", "--target-garment=legs",
        "--dry-run")
    out = capsys.readouterr().out
    assert "A: only hat and coat is translated" in out and "B: only legs is translated" in out


@pytest.mark.parametrize("data, garment, source", [
    ("c", "box", "extracted/images"), ("sharded", None, "sharded/shard-00000-of-00002/images"),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        ("a", None, "extracted/images"), ("a", "box", "extracted"), ("pairs", None, "pairs/images"),
        ("pairs", "box", "pairs"), ("sharded", "box", "sharded"),
        ("pairs/images", "box", "pairs/images"))),
])
def test_the_next_commands_work(place, data, garment, source):
    """Whatever A is: with or without maps and a garment; a folder, shards or a data set."""
    for name in ("pairs", "sharded/shard-00000-of-00002", "sharded/shard-00001-of-00002"):
        pair_folder(place / name)
    config = CycleConfig.preset("tiny", {**TINY, "data": data, "target": "b", "garment": garment})
    job = CycleJob(config, SimpleNamespace(init_from=None, inception=None, gpus=1), {}, 1, None)
    method = job.make_method(ONE_DEVICE, None)
    with ONE_DEVICE.scope():
        progress = method.begin()
    save_snapshot(place / "n.safetensors", method.networks,
                  method.header(method.stage(progress), progress))
    commands = job.next_commands("n.safetensors").split("; ")
    assert commands[-1].startswith(
        f"python generate.py --network=n.safetensors --source={source} --direction=AtoB")
    for command in commands:
        _, script, *options = shlex.split(command)
        main = {"generate.py": generate.main, "dataset_tool.py": dataset_tool.main}[script]
        assert main(options) in (None, 0)
    assert len(list((place / "translated").rglob("images/*.png"))) in (3, 4, 6)


def test_a_run_continues_with_its_own_lists(place):
    """Its snapshot names both; another list is refused, a moved one is accepted."""
    options = ["--data=a", "--target=b", "--kimg=0", "--run=run"]
    assert run(*options) == 0
    assert ("dataset_tool.py extract a --out=extracted; python generate.py --network=run "
            "--source=extracted/images --direction=AtoB") in (place / "run/log.txt").read_text()
    header = read_header(place / "run/network-final.safetensors")
    assert [header["domains"][side]["name"] for side in "AB"] == ["a", "b"]
    assert header["domains"]["B"]["num_photos"] == 9 and header["variant"] == "cyclegan"
    with pytest.raises(UserError, match=r"target_digest: .*there"):
        run("--data=a", "--target=c", "--kimg=0", "--run=run")
    with pytest.raises(UserError, match=r"that a training cannot change .*target_digest"):
        run("--data=a", "--target=c", "--kimg=0", "--run=run", "--override")
    (place / "b").rename("moved")
    assert run("--data=a", "--target=moved", "--kimg=0", "--run=run") == 0


@pytest.mark.parametrize("name", CycleConfig.presets)
def test_presets(name):
    config = CycleConfig.preset(name, {})
    assert CycleConfig.from_json(config.to_json()) == config
    if name == "leather-denim":
        assert (config.norm, config.critic, config.minibatch, config.lrate) == (
            "batch", "picture", 10, 0.002)
    if name == "small":  # for 64x64: patches of 34x34
        assert config.strides == 2
    assert np.isclose(config.jitter, 286 / 256, atol=1e-6)
