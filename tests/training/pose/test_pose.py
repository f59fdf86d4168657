"""Training people in other poses: examples, devices, resumes, what it learns, the command line."""

import itertools
import json

import numpy as np
import pytest
import tensorflow as tf

import train
from dnnlib.data import keypoints, mirroring
from dnnlib.data.dataset import open_dataset
from dnnlib.data.labelled import choose_numbers
from dnnlib.tflib.distribute import Draws
from dnnlib.util import UserError
from metrics.evaluation import pose_evaluation
from tests.tools import people as tools
from tests.tools.people import begun, people_dataset, tiny
from training.pose import body
from training.pose.config import PoseConfig
from training.pose.people import PosePairs
from training.pose.pose import Pose
from training.pose.reposer import Reposer
from training.run.options import given_options, parse_training_options
from training.state import Progress
from training.translation import losses


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return people_dataset(tmp_path_factory.mktemp("data") / "people")


# Pairs and examples

def test_every_pass_has_all_pairs_in_a_new_order(data):
    """From any position in the stream; also a worker's rows alone."""
    pairs = PosePairs(open_dataset(data), "train", 16)
    assert len(pairs) == 16 and pairs.names == tools.NAMES
    method, _ = begun(tiny(data, minibatch=4, seed=3))
    batches = list(itertools.islice(method.batches(0), 8))
    first, second = (np.concatenate([batch.source for batch in part])
                     for part in (batches[:4], batches[4:]))
    assert {photo.tobytes() for photo in first} == {photo.tobytes() for photo in second}
    assert len({photo.tobytes() for photo in first}) == 16 and (first != second).any()
    method.worker_rows = [1, 2]
    later = next(method.batches(20))
    for whole, part in zip(batches[5], later):
        np.testing.assert_array_equal(whole[1:3], part)
    one = pairs.read([0])
    np.testing.assert_array_equal(one.target, pairs.read([1]).source)
    np.testing.assert_array_equal(one.target_points[0],
                                  keypoints.read_keypoints(data, "train")[1])


def test_an_example_is_mirrored_as_a_whole(data):
    """Photos, heatmaps and frames; D sees the source, both poses and the target."""
    method, _ = begun(tiny(data, critic="semantic"))
    batch, draws = method.pairs.read(range(4)), Draws(5, 1, 4)
    flip = draws.uniform("mirror").numpy() < 0.5
    assert 0 < flip.sum() < 4
    inputs, condition, semantics, photos = method.example(batch, draws)
    order = mirroring.mirrored_order(mirroring.pairs_by_name(tools.NAMES), tools.NAMES)
    points = [np.where(flip[:, None, None], body.mirror_points(tf.constant(one), order), one)
              for one in (batch.source_points, batch.target_points)]
    source, target = (np.where(flip[:, None, None, None], rgb[:, :, ::-1], rgb) / 127.5 - 1
                      for rgb in (batch.source, batch.target))
    maps = [body.heatmaps(tf.constant(one), 16) for one in points]
    np.testing.assert_allclose(photos, target, atol=1e-6)
    np.testing.assert_allclose(inputs[0], np.concatenate([source, maps[0]], -1), atol=1e-5)
    np.testing.assert_allclose(condition, np.concatenate([source, *maps], -1), atol=1e-5)
    np.testing.assert_allclose(semantics, maps[1], atol=1e-5)
    for frames, one in zip(inputs[2:], points):
        np.testing.assert_allclose(frames, body.part_frames(tf.constant(one), tools.NAMES),
                                   atol=1e-6)
    # All keypoints have the same weight at D's patches.
    weights = losses.map_weights("semantic", semantics, 6).numpy()
    assert weights.shape == (4, 6, 6, 19)
    np.testing.assert_allclose(weights.mean((1, 2))[:, :18], 1 / 18, rtol=1e-4)


# What is shown and measured

def test_shown_and_measured_pairs_are_of_all_people(tmp_path, monkeypatch):
    """They are chosen by the seed: the first pairs are of a few people only."""
    data = people_dataset(tmp_path / "people", people=20)
    config = tiny(data)
    pairs, seen = PosePairs(open_dataset(data), "train", 16), []
    method = Pose(config, tools.ONE_DEVICE, pairs, pairs, {})
    monkeypatch.setattr(method, "translate", lambda batch: batch.target / 127.5 - 1.0)
    read = method.read
    monkeypatch.setattr(method, "read", lambda numbers: seen.extend(numbers) or read(numbers))
    method.draw(None, tmp_path, "0")
    assert seen == choose_numbers(40, 16, config.seed) and max(seen) > 30
    options = parse_training_options(["--variant=pose", f"--data={data}", "--preset=tiny",
                                      "--device=cpu"])
    monkeypatch.setattr("training.pose.job.MAX_EVALUATED", 3)
    job = train.make_job(options, given_options(options), None)
    made = job.make_method(tools.ONE_DEVICE, None)
    seen.clear()
    assert made.evaluate(method) == {"l1": pytest.approx(0, abs=0.002)}
    assert seen == choose_numbers(4, 3, job.config.seed)
    content = json.loads((data / "dataset.json").read_text())
    assert made.about["fit"] == "pad"  # the default for a data set without it
    (data / "dataset.json").write_text(json.dumps({**content, "options": {"fit": "crop"}}))
    made = job.make_method(tools.ONE_DEVICE, None)
    assert made.header(None, Progress("poses", "poses"))["fit"] == "crop"


# Trainings

@pytest.mark.slow
def test_it_learns_figures_that_stay_as_they_are(tmp_path):
    """The target is the source, and the people are not in the training split: within 200 steps the
    skips copy them. The scores select the best snapshot, and the run's network draws in use what
    the training shows."""
    data = people_dataset(tmp_path / "still", people=40, still=True)
    config = tiny(data, kimg=0.8, tick_kimg=0.4, lrate=2e-3, dropout=0.0, g_fmaps=8,
                  reconstruction="l1")
    tools.train(config, tmp_path / "run", evaluate=pose_evaluation(range(4), 3))
    scores = [json.loads(line)["Metrics/l1"] for line in
              (tmp_path / "run/stats.jsonl").read_text().splitlines() if "Metrics/l1" in line]
    pairs = PosePairs(open_dataset(data), "val", 16).read(range(4))
    of_others = np.abs(pairs.target - pairs.target[::-1].astype(float)).mean() / 255
    assert scores[-1] < min(scores[0], of_others / 4), (scores, of_others)
    assert json.loads((tmp_path / "run/best.json").read_text())["value"] == min(scores)
    assert (tmp_path / "run/fakes000000.800.png").is_file()
    reposer = Reposer.load(tmp_path / "run/network-final.safetensors", minibatch=3)
    assert reposer.names == tools.NAMES and reposer.resolution == 16
    drawn = reposer.draw(pairs.source, pairs.source_points, pairs.target_points)
    l1 = np.abs(np.rint(drawn * 127.5 + 127.5) - pairs.target).mean() / 255
    assert l1 == pytest.approx(scores[-1], abs=0.01)


# The command line

def failure(*options):
    """Return the message of a command that fails."""
    with pytest.raises(UserError) as error:
        train.main(["--variant=pose", "--device=cpu", *map(str, options)])
    return str(error.value)


def test_options_that_do_not_fit_are_refused(data, tmp_path):
    common = f"--data={data}", f"--results={tmp_path}", "--preset=tiny"
    other = people_dataset(tmp_path / "other")
    content = json.loads((other / "dataset.json").read_text())

    def changed(**changes):
        (other / "dataset.json").write_text(json.dumps({**content, **changes}))
        return failure(f"--data={other}", *common[1:])

    assert "has no keypoints; make one" in changed(keypoints=[], skeleton=[])
    assert "has no pairs of photos of one person" in changed(pairs={})
    (other / "dataset.json").write_text(json.dumps({**content, "pairs": {"train": 16}}))
    assert "has no validation pairs to measure snapshots by; leave it out" in failure(
        f"--data={other}", *common[1:], "--patience=2")
    assert "has no keypoint left_ankle, needed to find" in changed(keypoints=[
        name.replace("left_ankle", "left_foot") for name in tools.NAMES])
    assert "compares nothing" in failure(*common, "--reconstruction=none",
                                         "--reconstruction-weight=1")
    assert "leaves --reconstruction=nearest out" in failure(*common, "--reconstruction-weight=0")
    assert "is for --reconstruction=nearest" in failure(*common, "--reconstruction=l1",
                                                        "--neighbourhood=5")
    assert "expected an odd number" in failure(*common, "--neighbourhood=4")
    assert "goes up to 16" in failure(*common, "--resolution=32")
    assert "16 at least" in failure(*common, "--resolution=8", "--halvings=2")
    assert "would shrink to less than 2x2" in failure(*common, "--halvings=4")
    assert "no patch is left" in failure(*common, "--d-strides=3")
    assert "--norm=instance" in failure(*common, "--norm=batch", "--minibatch=1")
    assert "--inception: without effect" in failure(*common, "--inception=x")
    assert "--init-from: without effect" in failure(*common, "--init-from=3")
    assert "cannot be shared by 3 devices" in failure(*common, "--gpus=3")


def test_keypoints_that_are_not_swapped_in_mirrored_photos_are_named(tmp_path):
    """One side's alone; and all, if no name shows a side."""
    data = people_dataset(tmp_path / "people")
    content = json.loads((data / "dataset.json").read_text())
    for renamed, expected in (
            ({}, []), ({"left_ankle": "foot_left"}, ["right_ankle, foot_left: keypoints of one"]),
            ({"left_": "L", "right_": "R"}, ["no keypoints are named left and right"])):
        names = " ".join(tools.NAMES)
        for old, new in renamed.items():
            names = names.replace(old, new)
        (data / "dataset.json").write_text(json.dumps({**content, "keypoints": names.split()}))
        for mirror in ([], ["--no-mirror"]):
            options = parse_training_options(["--variant=pose", f"--data={data}", "--preset=tiny",
                                              "--device=cpu", "--skips=plain", *mirror])
            warned = [line for line in train.make_job(options, given_options(options), None).notes
                      if line.startswith("warning")]
            assert len(warned) == (0 if mirror else len(expected))
            assert all(text in line for text, line in zip(expected, warned))


def test_reconstructions_set_their_default_weights():
    weights = {name: PoseConfig.preset(
        "tiny", {"reconstruction": name}).weight_of_reconstruction()
               for name in ("nearest", "l1", "none")}
    assert weights == {"nearest": 100, "l1": 100, "none": 0}
    paper = PoseConfig.preset("pose-gan", {})
    assert (paper.skips, paper.critic, paper.halvings, paper.minibatch, paper.neighbourhood) == (
        "deformable", "patch", 5, 4, 3)


def test_the_plan_of_a_command(data, tmp_path, capsys):
    assert train.main([f"--data={data}", f"--results={tmp_path}", "--variant=pose", "--preset=tiny",
                       "--device=cpu", "--kimg=0.016", "--critic=semantic", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "deformable skips and critic semantic for 18 keypoints" in said
    assert "reconstruction nearest (weight 100)" in said and "4 steps of 4" in said
    assert "16 pairs of 16 photos with 18 keypoints" in said


def test_the_next_commands_measure_a_split_that_has_pairs(tmp_path):
    people_dataset(tmp_path / "people")
    content = json.loads((tmp_path / "people/dataset.json").read_text())
    for pairs, split in ((content["pairs"], "val"), ({"train": 16}, "train")):
        (tmp_path / "people/dataset.json").write_text(json.dumps({**content, "pairs": pairs}))
        options = parse_training_options(["--variant=pose", f"--data={tmp_path / 'people'}",
                                          "--preset=tiny", "--device=cpu"])
        draw, measure = train.make_job(options, given_options(options), None).next_commands(
            tmp_path / "run").split("; ")
        assert draw.startswith("python generate.py ") and "/people/val" in draw
        assert measure == (f"python run_metrics.py --network={tmp_path / 'run'} "
                           f"--metrics=kid1k,lpips --split={split}")
