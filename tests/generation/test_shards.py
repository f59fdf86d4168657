"""Shards of pairs: the same bytes whichever process writes them, in any order, however often."""

import errno
import functools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dataprep import dataset_report, verify
from dnnlib.data import pictures
from dnnlib.data.dataset import content_box, open_dataset, read_split
from dnnlib.util import UserError
from generation import pairs, shards
from generation.selection import Selection
from tests.generation.test_selection import CHOSEN, CLASSES, contents
from tests.tools.data_helpers import one_hot
from tests.tools.generators import RESOLUTION, save_network
from training.config import TrainingConfig
from training.dataset import reals_stream
from training.sampler import Sampler


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return save_network(tmp_path_factory.mktemp("network") / "network.safetensors", CLASSES, seed=4,
                        dataset={"resolution": RESOLUTION, "content_box": [3, 0, 13, RESOLUTION]})


@pytest.fixture(scope="module", autouse=True)
def loads_once():
    """Keep the network loaded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sampler, "load", functools.cache(Sampler.load))
        yield


@pytest.fixture(scope="module")
def job_in(network):
    """Return a function that makes a job in a folder."""
    def make(out, kind="tfrecords", **changes):
        out.mkdir(parents=True, exist_ok=True)
        options = dict(trunc=1.0, noise="random", keep_padding=False, min_region=1,
                       first_seed=5, num=40, shards=3, selection=None, max_tries=300) | changes
        return shards.ShardJob(str(network), None, kind=kind, out=str(out), **options)
    return make


def write(job):
    sampler, recipe = job.load()
    return shards.write_shards(job, sampler, recipe)


@pytest.fixture(scope="module")
def finished(job_in, tmp_path_factory):
    """Return {kind: finished folder}, both called `set`."""
    places = {kind: tmp_path_factory.mktemp(kind) / "set" for kind in ("folder", "tfrecords")}
    for kind, out in places.items():
        write(job_in(out, kind))
    return places


def samples(out):
    """Return the records of all shards, in their order."""
    return [record for path in sorted(out.rglob(pairs.SAMPLES))
            for record in pairs.read_samples(path)]


def test_shards_have_every_seed_once(finished):
    for out in finished.values():
        seeds = [record["seed"] for record in samples(out)]
        assert sorted(seeds) == list(range(5, 45)) and seeds[:3] == [5, 8, 11]


@pytest.mark.parametrize("kind", ["folder", "tfrecords"])
def test_order_and_repeats_do_not_change_the_bytes(finished, job_in, tmp_path, kind, monkeypatch):
    """Shard 2 first, by another process; shard 1 started and killed; shard 2 made once more."""
    job = job_in(tmp_path / "set", kind)
    sampler, recipe = job.load()
    shards.begin(job, recipe)
    killed = job.place(1).with_name(f".{job.place(1).name}.0123.tmp")
    killed.mkdir()
    (killed / "train-r02.tfrecords").write_bytes(b"half")
    line = shards.write_shard(job, sampler, recipe, 2)
    with monkeypatch.context() as patch:  # existing shards are not made again
        patch.setattr(shards, "_WRITERS", {})
        assert shards.write_shard(job, sampler, recipe, 2) == line and line["pairs"] == 13
    write(job)
    assert contents(tmp_path / "set") == contents(finished[kind])


def test_two_processes_can_make_one_shard_at_once(finished, job_in, tmp_path, monkeypatch):
    """The second one finds it there when it is done."""
    job = job_in(tmp_path / "set")
    sampler, recipe = job.load()
    shards.begin(job, recipe)
    make_writer = shards._WRITERS["tfrecords"]

    def meanwhile(*args):
        monkeypatch.setitem(shards._WRITERS, "tfrecords", make_writer)
        shards.write_shard(job, sampler, recipe, 0)
        return make_writer(*args)
    monkeypatch.setitem(shards._WRITERS, "tfrecords", meanwhile)
    shards.write_shard(job, sampler, recipe, 0)
    write(job)
    assert contents(tmp_path / "set") == contents(finished["tfrecords"])


def test_shards_of_records_are_a_complete_data_set(finished, job_in):
    out = finished["tfrecords"]
    assert verify.find_defects(out, 1) == []
    info = open_dataset(out)
    assert (info.classes, info.resolution, info.splits["train"]) == (CLASSES, RESOLUTION, 40)
    assert content_box(out) == (3, 0, 13, RESOLUTION)  # networks trained on it know the padding
    sampler, recipe = job_in(out).load()
    assert recipe.box is None
    images = np.concatenate(list(read_split(out, "train", RESOLUTION)))
    for record, image in zip(samples(out)[:14], images):
        made, = sampler.seed_images([record["seed"]], 1.0, "random", 1)
        rgb, label_map = (part[0] for part in pairs.to_pairs(made))
        assert np.abs(image[..., :3].astype(int) - rgb).max() <= 1
        assert np.count_nonzero(image[..., 3:] != one_hot(label_map, 3)) <= 6


def test_unknown_padding_is_not_stored(tmp_path):
    path = save_network(tmp_path / "network.safetensors", CLASSES, seed=4)
    job = shards.ShardJob(str(path), None, 1.0, "random", False, 1, "tfrecords",
                          str(tmp_path / "set"), 0, 4, 1, None, 1)
    write(job)
    assert verify.find_defects(tmp_path / "set", 1) == []
    assert content_box(tmp_path / "set") is None
    assert dataset_report.write_report(tmp_path / "set").is_file()


@pytest.mark.parametrize("damage, message", [
    ("byte", "damaged"), ("file", "no such file"), ("shard", "dataset.json says 40")])
def test_verify_finds_what_is_wrong_with_a_shard(finished, job_in, tmp_path, damage, message):
    write(job_in(tmp_path / "set"))
    shard = tmp_path / "set" / "train" / "shard-00001-of-00003"
    path = shard / "train-r03.tfrecords"
    if damage == "byte":
        content = path.read_bytes()
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif damage == "file":
        path.unlink()
    else:
        shard.rename(tmp_path / "elsewhere")
    defects = "\n".join(verify.find_defects(tmp_path / "set", 1))
    assert message in defects
    assert damage == "shard" or "shard-00001-of-00003" in defects


def test_training_reads_shards(finished):
    """Every image of every shard once per epoch."""
    config = TrainingConfig(data=str(finished["tfrecords"]), resolution=RESOLUTION, mirror=False)
    stream = iter(reals_stream(config, RESOLUTION, 6, 20, seed=0))
    batches = np.concatenate([next(stream).images.numpy() for _ in range(2)])
    images = np.concatenate(list(read_split(finished["tfrecords"], "train", RESOLUTION)))
    assert {image.tobytes() for image in batches} == {image.tobytes() for image in images}


def test_a_shards_folder_is_a_folder_of_pairs(finished):
    """Without the padding: 10x16."""
    shard = finished["folder"] / "shard-00001-of-00003"
    records = pairs.read_samples(shard / pairs.SAMPLES)
    assert records[0]["box"] == [3, 0, 13, 16] and (shard / "classes.txt").is_file()
    assert pictures.read_png(shard / records[0]["label"]).shape == (16, 10)
    assert len(json.loads((shard / pairs.coco.OWN_FILE).read_text())["images"]) == len(records)


# Shards of selected pairs

def test_each_shard_tries_its_own_seeds(job_in, tmp_path):
    job = job_in(tmp_path / "set", selection=CHOSEN, num=7, shards=1, first_seed=0)
    tally = write(job)
    chosen = [record["seed"] for record in samples(tmp_path / "set")]
    # Areas exclude the padding, so they differ from those of whole images.
    assert len(chosen) == 7 and tally.accepted == 7 and tally.tried == chosen[-1] + 1
    job = job_in(tmp_path / "parts", selection=CHOSEN, num=7, shards=2, first_seed=0)
    assert write(job).accepted == 7
    parts = [[record["seed"] for record in pairs.read_samples(path)]
             for path in sorted((tmp_path / "parts").rglob(pairs.SAMPLES))]
    assert [len(part) for part in parts] == [4, 3]
    assert all(seed % 2 == number for number, part in enumerate(parts) for seed in part)
    assert set(parts[0]) & set(chosen), "the same seeds are chosen by whoever tries them"


def test_a_shard_that_was_given_up_is_not_tried_again(job_in, tmp_path, monkeypatch):
    never = Selection(require=("hat",), min_area=0.99)
    job = job_in(tmp_path / "set", selection=never, num=4, shards=2, max_tries=20)
    with pytest.raises(UserError, match="shard 0 of 2: 20 seeds in a row were rejected"):
        write(job)
    with monkeypatch.context() as patch:
        patch.setattr(Sampler, "seed_images", None)
        for tries in (20, 10):
            with pytest.raises(UserError, match="tried 20 seeds"):
                write(replace(job, max_tries=tries))
    with pytest.raises(UserError, match="tried 30 seeds"):
        write(replace(job, max_tries=30))
    # An easier selection belongs to another folder.
    with pytest.raises(UserError, match=r"min_area 0\.99 there, 0\.0 now"):
        write(replace(job, selection=replace(never, min_area=0.0)))


def test_each_shards_progress_has_its_number(job_in, finished, tmp_path, monkeypatch):
    titles, bar = [], pairs.util.progress

    def record(*args, **options):
        titles.append(options["desc"])
        return bar(*args, **options)
    monkeypatch.setattr(pairs.util, "progress", record)
    for kind in finished:
        write(job_in(tmp_path / kind, kind, num=3))
    assert [title for title in titles if "/" in title] == 2 * ["shard 1/3", "shard 2/3",
                                                               "shard 3/3"]


def test_other_files_are_not_changed(job_in, finished, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds files, but no shards\.json"):
        write(job_in(tmp_path))
    before = contents(finished["folder"])
    for changes, message in (({"num": 41}, "num 40 there, 41 now"),
                             ({"trunc": 0.5}, "trunc 1.0 there, 0.5 now"),
                             ({"keep_padding": True}, "box ")):
        job = job_in(finished["folder"], "folder", **changes)
        with pytest.raises(UserError, match=message):
            write(job)
    assert contents(finished["folder"]) == before


@pytest.mark.parametrize("kind", ["folder", "tfrecords"])
def test_a_disk_that_is_full_for_everything_is_one_line(job_in, tmp_path, monkeypatch, kind):
    """Including the line that would say why a shard is missing."""
    def full(*args):
        raise OSError(errno.ENOSPC, "no room")
    job = job_in(tmp_path / "set", kind)
    monkeypatch.setattr(shards.util, "write_json", full)
    with pytest.raises(UserError, match=r"set: the disk is full .*run the same command again"):
        write(job)
    monkeypatch.undo()
    monkeypatch.setitem(shards._WRITERS, kind, full)
    with pytest.raises(UserError, match=r"set: the disk is full .*run the same command again"):
        write(job)


def test_a_missing_shard_leaves_the_data_set_unfinished(job_in, tmp_path):
    job = job_in(tmp_path / "set")
    sampler, recipe = job.load()
    shards.begin(job, recipe)
    shards.write_shard(job, sampler, recipe, 0)
    with pytest.raises(UserError, match="shard 1 of 3 is missing; run the same command again"):
        shards.finish(job, sampler, recipe)
    assert not Path(tmp_path / "set" / "dataset.json").exists()
