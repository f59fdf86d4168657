"""metrics/label_agreement.py: a segmenter's labels against maps; and whether it measures: maps that
are moved, wrong or another sample's must score lower, in that order."""

import collections
import itertools
import json

import numpy as np
import pytest

import dataset_tool
import run_metrics
import train
from benchmarks.worse_maps import judge, worsened
from benchmarks.worse_maps import main as worse_maps_main
from dnnlib.data import channels
from dnnlib.util import UserError
from metrics.features import FeatureSet
from metrics.image_sources import open_images
from metrics.label_agreement import (
    check_labeller,
    confusion,
    confusion_measure,
    iou_table,
    label_agreement,
    miou_values,
    photo_agreement,
    rare_labels,
    rare_lines,
    rare_table,
)
from metrics.map_quality import PairBatch
from training.segmentation.labeller import Labeller


class ByColour:
    """A segmenter that is never wrong: classes are the palette's colours."""

    path, digest, resolution, header = "by-colour.safetensors", "d" * 64, 16, {}

    def __init__(self, num_classes):
        self.classes = tuple("abcdefgh"[:num_classes])

    def label_maps(self, rgb):
        colours = channels.palette(len(self.classes)).astype(int)
        return np.uint8(np.abs(rgb[..., None, :] - colours).sum(axis=-1).argmin(axis=-1))


def judged(labeller, rgb, label_maps):
    """Return the FeatureSet with the confusions of photos and maps."""
    measure = confusion_measure(labeller)
    rows = measure.count(PairBatch(rgb, label_maps), len(labeller.classes))
    assert rows.shape == (len(rgb), measure.columns(len(labeller.classes)))
    return FeatureSet(maps={"confusion": np.float32(rows)})


def painted(label_maps, num_classes):
    """Return photos of label maps: every class in its colour."""
    return channels.colourise(np.uint8(label_maps), num_classes)


def test_values_and_table_by_hand():
    """No map has class b, so the means are over the background and a; c is found in a fake photo
    where the map has a."""
    real = np.uint8([[[0, 0, 1, 1], [0, 0, 2, 3]]])
    maps, photo = np.uint8([[[0, 0, 1, 1], [0, 1, 1, 1]]]), np.uint8([[[0, 0, 1, 1], [0, 0, 1, 3]]])
    labeller = ByColour(3)
    reals = judged(labeller, painted(real, 3), real)
    fakes = judged(labeller, painted(photo, 3), maps)
    assert confusion(fakes).tolist() == [[3, 0, 0, 0], [1, 3, 0, 1], [0] * 4, [0] * 4]
    assert label_agreement(fakes, reals) == {
        "": pytest.approx((3 / 4 + 3 / 5) / 2), "_foreground": pytest.approx(3 / 5),
        "_accuracy": 6 / 8, "_real": 1, "_foreground_real": 1, "_accuracy_real": 1,
        "_ratio": pytest.approx((3 / 4 + 3 / 5) / 2), "_classes": 1,
        "_ratio_all": pytest.approx((3 / 4 + 3 / 5) / 4)}
    table = iou_table(labeller.classes, reals, fakes)
    assert [row["name"] for row in table] == ["background", "a", "b", "c"]
    assert [row["fake_iou"] for row in table] == [3 / 4, 3 / 5, None, 0]
    assert [row["fake_accuracy"] for row in table] == [1, 3 / 5, None, None]
    assert [row["real_pixels"] for row in table] == [4 / 8, 2 / 8, 1 / 8, 1 / 8]
    assert [row["fake_pixels"] for row in table] == [3 / 8, 5 / 8, 0, 0]  # of the maps
    assert miou_values(fakes) == {"": pytest.approx((3 / 4 + 3 / 5) / 2),
                                  "_foreground": pytest.approx(3 / 5), "_accuracy": 6 / 8,
                                  "_any": pytest.approx((3 / 4 + 4 / 5) / 2)}


def test_photos_of_given_maps():
    """Classes with the fewest pixels are rare; c, which no map has, and background are not."""
    maps = np.uint8([[[0, 0, 0, 0, 0, 0, 1, 1], [2, 2, 2, 2, 2, 2, 1, 4]]])
    drawn = np.uint8([[[0, 0, 0, 0, 0, 2, 2, 1], [2, 2, 2, 2, 2, 2, 1, 0]]])
    labeller = ByColour(4)
    reals, fakes = (judged(labeller, painted(photo, 4), maps) for photo in (maps, drawn))
    assert rare_labels(confusion(reals)).tolist() == [4, 1, 2]
    ious = [5 / 7, 2 / 3, 6 / 8, 0]
    assert photo_agreement(fakes, reals) == {
        "": pytest.approx(np.mean(ious)), "_foreground": pytest.approx(np.mean(ious[1:])),
        "_rare": pytest.approx(np.mean(ious[1:])), "_accuracy": 13 / 16, "_real": 1,
        "_foreground_real": 1, "_rare_real": 1, "_accuracy_real": 1}
    rows = rare_table(iou_table(labeller.classes, reals, fakes), reals)
    assert [(row["name"], row["fake_iou"]) for row in rows] == [
        ("d", 0), ("a", pytest.approx(2 / 3)), ("b", 6 / 8)]
    lines = rare_lines(rows)
    assert lines[0].startswith("the 3 rarest classes") and lines[1].split() == [
        "d", "6.2", "100.0", "0.0", "100.0", "0.0"]
    # Of many classes, five are rare; their mean is not that of all.
    many = np.diag([50, 9, 8, 7, 6, 5, 4, 3])
    many[1, 0] = 40
    assert rare_labels(many).tolist() == [7, 6, 5, 4, 3]


def test_the_ceiling_is_the_segmenters_score_on_reals():
    """A segmenter wrong about half of a class in reals and fakes alike does not lower the ratio."""
    maps = np.uint8([[[0, 0, 1, 1]]])
    photo = painted([[[0, 0, 1, 0]]], 1)
    images = judged(ByColour(1), photo, maps)
    values = label_agreement(images, images)
    assert values[""] == values["_real"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert values["_ratio"] == 1


def test_maps_that_fade_lose_agreement_over_all_classes(rng):
    """They only agree with the segmenter on the background."""
    labeller, truth = ByColour(2), rng.integers(0, 3, (6, 16, 16))
    reals = judged(labeller, painted(truth, 2), np.uint8(truth))
    half_wrong = np.where(rng.random(truth.shape) < 0.5, truth, rng.integers(0, 3, truth.shape))
    photos = np.where(truth[..., None] == 0, painted(truth, 2), 5)  # no garment is visible
    useful, faded = (label_agreement(judged(labeller, rgb, np.uint8(maps)), reals)
                     for rgb, maps in ((painted(truth, 2), half_wrong), (photos, 0 * truth)))
    assert faded["_ratio"] > 0.99 > useful["_ratio"]
    assert faded["_ratio_all"] < 0.34 < useful["_ratio_all"] < 1


def test_maps_without_overlap_have_no_agreement():
    labeller, none, all_ = ByColour(1), np.zeros((1, 2, 2), np.uint8), np.ones((1, 2, 2), np.uint8)
    values = label_agreement(judged(labeller, painted(none, 1), none),
                             judged(labeller, painted(all_, 1), all_))
    assert values[""] == values["_ratio"] == values["_classes"] == 0


def test_segmenters_that_do_not_fit_are_refused():
    labeller = ByColour(2)
    check_labeller(labeller, ["a", "b"], collections.Counter({(16, 16): 3}), "the fakes")
    with pytest.raises(UserError, match="has the classes a, b; the fakes b, a"):
        check_labeller(labeller, ["b", "a"], [(16, 16)], "the fakes")
    with pytest.raises(UserError, match="takes photos of 16x16; the fakes are 8x16"):
        check_labeller(labeller, ["a", "b"], [(16, 16), (8, 16)], "the fakes")


def test_maps_by_wrongness():
    maps = np.uint8([[[1, 1, 2, 0, 0, 3]], [[0, 0, 0, 0, 0, 2]]])
    worse = worsened(maps, ("a", "b", "c"), ["a", "c"])
    assert {how: maps[0, 0].tolist() for how, maps in worse.items()} == {
        "as they are": [1, 1, 2, 0, 0, 3], "moved by 1 pixel": [0, 1, 1, 2, 0, 0],
        "moved by 2 pixels": [0, 0, 1, 1, 2, 0], "moved by 4 pixels": [0, 0, 0, 0, 1, 1],
        "a and c swapped": [3, 3, 2, 0, 0, 1], "of another sample": [0, 0, 0, 0, 0, 2]}
    assert "b and a swapped" in worsened(np.insert(maps, 0, 2, axis=2), ("a", "b", "c"))


def assert_falling(scores):
    """Assert that scores fall with the shift, to another sample's maps; a swap costs too."""
    ratios = {how: values["_ratio"] for how, values in scores.items()}
    right, *moved, swapped, others = ratios.values()
    assert right == 1
    falling = [right, *moved, others]
    assert all(better > worse + 0.02 for better, worse in itertools.pairwise(falling)), ratios
    assert others < swapped < 0.95, ratios


def test_worse_maps_score_lower_with_a_perfect_segmenter(rng):
    """Blocks of four classes in their colours."""
    maps = np.zeros((40, 16, 16), np.uint8)
    for label_map in maps:
        for label in rng.permutation(4)[:3]:
            y, x = rng.integers(0, 10, 2)
            label_map[y:y + rng.integers(4, 7), x:x + rng.integers(4, 7)] = label + 1
    labeller = ByColour(4)
    scores = judge(labeller, painted(maps, 4), worsened(maps, labeller.classes))
    assert scores["as they are"][""] == 1
    assert_falling(scores)


@pytest.mark.slow
def test_worse_maps_score_lower_with_a_trained_segmenter(tmp_path, capsys):
    """Drawn figures at 32x32, a small U-Net after 375 steps: with the commands alone."""
    data, results = tmp_path / "figures", tmp_path / "results"
    dataset_tool.main(["create_synthetic", f"--out={data}", "--num-images=260", "--resolution=32",
                       "--num-val=20", "--num-test=40", "--workers=2"])
    train.main(["--variant=segmenter", "--preset=tiny", f"--data={data}", f"--results={results}",
                "--kimg=6", "--tick-kimg=3", "--device=cpu"])
    labeller = Labeller.load(None, results)
    source = open_images(data, "test", 32)
    rgb, maps = (np.concatenate(part) for part in zip(*source.batches(maps=True)))
    scores = judge(labeller, rgb, worsened(maps, source.classes))
    assert_falling(scores)
    # The same by run_metrics.py, with a data set's photos and maps in place of generated ones.
    run_metrics.main(["--metrics=labels40", f"--fakes={data}", f"--data={data}",
                      f"--segmenter={labeller.path}", f"--results={results}"])
    line, = (results / "metrics-figures" / "metric-labels40.jsonl").read_text().splitlines()
    assert json.loads(line)["results"]["labels40"] == pytest.approx(scores["as they are"][""])
    capsys.readouterr()
    assert worse_maps_main([f"--segmenter={labeller.path}", f"--data={data}",
                            "--swap=top,pants", f"--out={tmp_path / 'chart.png'}"]) == 0
    assert "top and pants swapped" in capsys.readouterr().out
    assert (tmp_path / "chart.png").is_file()
    with pytest.raises(UserError, match="--swap=top,hat: two of bag"):
        worse_maps_main([f"--segmenter={labeller.path}", f"--data={data}", "--swap=top,hat"])
