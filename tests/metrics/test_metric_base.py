"""Metrics by name: parsing, one pass for all, warnings, floors."""

import numpy as np
import pytest

from dnnlib.util import UserError
from metrics.features import FeatureSet
from metrics.frechet_inception_distance import frechet_distance
from metrics.inception_score import inception_score
from metrics.kernel_inception_distance import kernel_distance
from metrics.metric_base import (
    FULL,
    METRICS,
    SPLIT,
    check_counts,
    compute,
    compute_floor,
    compute_paths,
    measure_fakes,
    parse_metric,
    parse_metrics,
    reals_of,
    select_computable,
)
from metrics.precision_recall import precision_recall
from tests.tools.metrics_helpers import StubDetector


@pytest.fixture
def detector():
    return StubDetector()


@pytest.fixture
def reals(rng, detector):
    images = rng.integers(0, 256, (30, 4, 4, 3), np.uint8)
    return FeatureSet(detector.features(detector.resize(images)))


def fakes(count):
    """Return an endless generator's first images, in batches of 7."""
    rng = np.random.default_rng(1)
    for _ in range(-(-count // 7)):
        yield rng.integers(0, 200, (7, 4, 4, 3), np.uint8), None


def evaluate(names, generate, reals, detector, warn=lambda line: None):
    """Return {name: {name + suffix: value}} of metrics, from one pass over the generated images."""
    metrics = [parse_metric(name) for name in names]
    fakes = measure_fakes(metrics, generate, detector)
    return {metric.name: compute(metric, fakes, reals.get(metric.reals), detector, warn)
            for metric in metrics}


@pytest.mark.parametrize("name, pattern, count", [
    ("fid50k", "fidNk", 50_000), ("fid1k", "fidNk", 1000), ("kid10k", "kidNk", 10_000),
    ("is50k", "isNk", 50_000), ("fid200", "fidNk", 200), ("fid50k_full", "fidNk_full", 50_000),
    ("kid50k_full", "kidNk_full", 50_000), ("pr50k3_full", "prNk3_full", 50_000),
    ("pr2003_full", "prNk3_full", 200), ("ppl_wfull", "pplNk_wfull", 100_000),
    ("ppl10k_zend", "pplNk_zend", 10_000), ("ppl_zfull", "pplNk_zfull", 100_000),
    ("ppl7_wend", "pplNk_wend", 7), ("classes50k", "classesNk", 50_000),
    ("maps1k", "mapsNk", 1000), ("labels1k", "labelsNk", 1000), ("kid1k_pair", "kidNk_pair", 1000),
    ("fid50_pair", "fidNk_pair", 50), ("miou", "miou", 0),
    ("cyclekid", "cyclekid", 0)])
def test_names_are_protocols(name, pattern, count):
    metric = parse_metric(name)
    assert (metric.pattern, metric.name, metric.count) == (pattern, name, count)
    assert metric.function is METRICS[pattern].function


@pytest.mark.parametrize("name", ["", "fid", "fid0k", "FID50k", "fid50kk", "fid-1k", "fid50k_half",
                                  "pr50k_full", "pr50k3", "ppl_full", "classes", "_full",
                                  "fid1.5k", "fidNk", "kid50m", "swd16k", "miou1k", "labels"])
def test_unknown_names_list_the_known(name):
    with pytest.raises(UserError, match=r"known: classesNk, .*, fidNk, .* where Nk is a"):
        parse_metric(name)


def test_every_metric_names_its_sources():
    for name in METRICS:
        description = METRICS[name].function.__doc__
        assert "Paper:" in description and "Reference:" in description


def test_evaluate_equals_the_formulas(reals, detector):
    results = evaluate(["kid50", "fid20", "is50"], fakes, {SPLIT: reals}, detector)
    images = np.concatenate([rgb for rgb, _ in fakes(50)])[:50]
    features = detector.features(detector.resize(images)).astype(np.float64)
    assert list(results) == ["kid50", "fid20", "is50"]
    r = reals.features.astype(np.float64)
    np.testing.assert_allclose(
        results["fid20"]["fid20"],
        frechet_distance(features[:20].mean(0), np.cov(features[:20], rowvar=False),
                         r.mean(0), np.cov(r, rowvar=False)), rtol=1e-6)
    kid = kernel_distance(features, r)
    np.testing.assert_allclose([results["kid50"]["kid50"], results["kid50"]["kid50_std"]], kid,
                               rtol=1e-6)
    p = detector.probabilities(features)
    np.testing.assert_allclose(list(results["is50"].values()),
                               [*inception_score(p, 10), *inception_score(p, 5)], rtol=1e-5)
    assert list(results["is50"]) == ["is50", "is50_std", "is50_5", "is50_5_std"]


def test_images_are_generated_once(reals, detector):
    counts = []

    def generate(count):
        counts.append(count)
        return fakes(count)
    evaluate(["fid40", "kid20", "kid40"], generate, {SPLIT: reals}, detector)
    assert counts == [40]


def test_results_do_not_depend_on_the_minibatch(reals):
    def values(minibatch):
        detector = StubDetector()
        detector.minibatch = minibatch
        names = ["fid20", "kid20", "is20", "fid20_full", "kid20_full", "pr203_full"]
        return evaluate(names, fakes, {SPLIT: reals, FULL: reals}, detector)
    assert values(4) == values(7) == values(20)


def test_a_folder_with_fewer_images_limits_the_count(reals, detector):
    few = measure_fakes([parse_metric("fid50k")], lambda count: fakes(20), detector, limit=20)
    same = evaluate(["fid20"], fakes, {SPLIT: reals}, detector)
    assert compute(parse_metric("fid50k"), few, reals, detector)["fid50k"] == same["fid20"]["fid20"]


def test_a_warning_names_the_counts(reals, detector):
    lines = []
    names = ["fid5", "fid6", "kid5", "is20", "fid5_full", "pr53_full", "pr63_full"]
    evaluate(names, fakes, {SPLIT: reals, FULL: reals[:5]}, detector, lines.append)
    assert [line.split(" is biased")[0] for line in lines] == [
        "warning: fid5 of 5 fakes", "warning: fid5_full of 5 fakes and 5 reals",
        "warning: pr53_full of 5 fakes and 5 reals", "warning: pr63_full of 5 reals"]
    assert "fewer samples than the 6 features" in lines[0]


def test_a_floor_needs_two_halves(reals, detector):
    for name, count in (("maps9", 1), ("fid9", 3)):
        with pytest.raises(UserError, match=f"--floor: {name} .*at least; there are {count}"):
            compute_floor(parse_metric(name), reals[:count], detector)


def test_floor_is_the_metric_between_halves(reals, detector):
    values, half = compute_floor(parse_metric("fid50k"), reals, detector)
    a, b = (FeatureSet(reals.features[i::2]).statistics for i in range(2))
    assert half == 15
    assert values == {"fid50k": frechet_distance(a.mean, a.cov, b.mean, b.cov)}


def test_metrics_without_logits_are_named():
    metrics, reasons = parse_metrics("fid50k,is50k,fid50k"), []
    assert [metric.name for metric in metrics] == ["fid50k", "is50k"]
    assert select_computable(metrics, StubDetector(has_logits=False), reasons.append) == metrics[:1]
    reason, = reasons
    assert reason.startswith("is50k") and "--inception" in reason
    assert "inception-2015-12-05.tgz" in reason
    assert select_computable(metrics, StubDetector(), reasons.append) == metrics
    assert len(reasons) == 1


def test_full_metrics_compare_with_the_full_set(reals, detector):
    """And only with it; precision is of the fakes, recall of the reals."""
    other = FeatureSet(reals.features[:25] + 30)
    sets = {SPLIT: reals, FULL: other}
    names = ["fid20_full", "kid20_full", "pr203_full", "fid20", "kid20"]
    results = evaluate(names, fakes, sets, detector)
    values = {name: value for part in results.values() for name, value in part.items()}
    fake = measure_fakes([parse_metric("fid20")], fakes, detector)
    for kind, end in ((SPLIT, ""), (FULL, "_full")):
        a, b = fake.statistics, sets[kind].statistics
        assert values[f"fid20{end}"] == frechet_distance(a.mean, a.cov, b.mean, b.cov)
        kid = kernel_distance(fake.features, sets[kind].features)
        assert (values[f"kid20{end}"], values[f"kid20{end}_std"]) == kid
    assert precision_recall(other.features, fake.features) == (
        values["pr203_full_precision"], values["pr203_full_recall"])
    assert reals_of(parse_metrics(",".join(names))) == {SPLIT, FULL}
    assert reals_of(parse_metrics("is20,ppl_wfull")) == set()


def test_metrics_of_pairs_depend_on_the_maps(rng, detector):
    """Equal photos with other maps: fid and kid do not change, those of pairs do."""
    photos = rng.integers(0, 256, (30, 4, 4, 3), np.uint8)
    metrics = [parse_metric(name) for name in ("fid30", "kid30", "fid30_pair", "kid30_pair")]

    def measured(labels):
        return measure_fakes(metrics, lambda count: iter([(photos, labels)]), detector,
                             num_classes=2)
    maps = rng.integers(0, 3, (30, 4, 4), np.uint8)
    fakes, reals = measured(maps), measured(np.where(maps == 1, np.uint8(2), maps))
    values = {}
    for metric in metrics:
        values |= compute(metric, fakes, reals, detector)
    assert abs(values["fid30"]) < 1e-6 and values["fid30_pair"] > 1
    assert values["kid30_pair"] > 0 > values["kid30"]  # unbiased: below 0 for equal sets
    floor, half = compute_floor(metrics[2], reals, detector)
    assert half == 15 and floor["fid30_pair"] != 0


def test_paths_are_requested_by_space_and_sampling():
    asked = []

    def paths(space, sampling, num_samples):
        asked.append((space, sampling, num_samples))
        return 3.5
    for name in ("ppl_zfull", "ppl_wfull", "ppl_zend", "ppl2k_wend"):
        assert compute_paths(parse_metric(name), paths) == {name: 3.5}
    assert asked == [("z", "full", 100_000), ("w", "full", 100_000), ("z", "end", 100_000),
                     ("w", "end", 2000)]


def test_classes_are_counted_alike_and_without_a_detector():
    """Instances 3:1 against 1:1, above a quarter of the image."""
    areas = np.float32([[1, 0.25], [0.5, 0.3], [0.26, 0], [0, 0]])
    reals = FeatureSet(maps={"areas": areas}, min_area=0.25)

    def generate(count):
        maps = np.zeros((4, 2, 2), np.uint8)
        maps[0], maps[1], maps[2, 0, 0] = 1, 2, 1
        yield np.zeros((4, 2, 2, 3), np.uint8), maps
    metric = parse_metric("classes4")
    fakes = measure_fakes([metric], generate, None, num_classes=2, min_area=0.25)
    assert fakes.features is None and fakes.instances.tolist() == [1, 1]
    assert compute(metric, fakes, reals, None) == {"classes4": pytest.approx(0.25)}
    assert measure_fakes([parse_metric("ppl_wfull")], generate, None) is None


@pytest.mark.parametrize("name, limit, num_reals, message", [
    ("is9", None, {}, "is9: 9 fakes; it takes 10 at least"),
    ("is50k", 9, {}, "is50k: 9 fakes; it takes 10"),
    ("fid50k", None, {SPLIT: 1}, "fid50k: 1 reals; it takes 2"),
    ("pr33_full", None, {FULL: 9}, "pr33_full: 3 fakes; it takes 4"),
])
def test_too_few_images_are_refused_before_any_is_made(name, limit, num_reals, message):
    with pytest.raises(UserError, match=message):
        check_counts([parse_metric(name)], limit, num_reals)


def test_the_warning_of_a_floor_mentions_halves(detector, reals):
    said = []
    compute_floor(parse_metric("fid50k"), reals[:8], detector, said.append)
    assert "4 reals in one half and 4 in the other" in said[0]
