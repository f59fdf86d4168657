"""Metrics by name: parsing, one pass for all, warnings, floors."""

import numpy as np
import pytest

from dnnlib.util import UserError
from metrics.features import FeatureSet
from metrics.frechet_inception_distance import frechet_distance
from metrics.inception_score import inception_score
from metrics.kernel_inception_distance import kernel_distance
from metrics.metric_base import METRICS, evaluate, floor, parse_metric, unavailable
from tests.metrics_helpers import StubDetector


@pytest.fixture
def detector():
    return StubDetector()


@pytest.fixture
def reals(rng, detector):
    images = rng.integers(0, 256, (30, 4, 4, 3), np.uint8)
    return FeatureSet(detector.features(detector.resize(images)))


def fakes(count):
    """An endless generator's first images, in batches of 7."""
    rng = np.random.default_rng(1)
    for _ in range(-(-count // 7)):
        yield rng.integers(0, 200, (7, 4, 4, 3), np.uint8)


@pytest.mark.parametrize("name, pattern, count", [
    ("fid50k", "fidNk", 50_000), ("fid1k", "fidNk", 1000), ("kid10k", "kidNk", 10_000),
    ("is50k", "isNk", 50_000), ("fid200", "fidNk", 200)])
def test_names_are_protocols(name, pattern, count):
    function, number = parse_metric(name)
    assert function is METRICS[pattern] and number == count


@pytest.mark.parametrize("name", ["", "fid", "fid0k", "FID50k", "fid50kk", "fid-1k", "fid50k_full",
                                  "fid1.5k", "fidNk", "kid50m", "swd16k"])
def test_unknown_names_list_the_known(name):
    with pytest.raises(UserError, match="known: fidNk, isNk, kidNk, where Nk is"):
        parse_metric(name)


def test_every_metric_names_its_sources():
    for name in METRICS:
        assert "Paper:" in METRICS[name].__doc__ and "Reference:" in METRICS[name].__doc__


def test_evaluate_equals_the_formulas(reals, detector):
    results = evaluate(["kid50", "fid20", "is50"], fakes, reals, detector, lambda line: None)
    images = np.concatenate(list(fakes(50)))[:50]
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
    evaluate(["fid40", "kid20", "kid40"], generate, reals, detector, lambda line: None)
    assert counts == [40]


def test_results_do_not_depend_on_the_minibatch(reals):
    def values(minibatch):
        detector = StubDetector()
        detector.minibatch = minibatch
        return evaluate(["fid20", "kid20"], fakes, reals, detector, lambda line: None)
    assert values(4) == values(7)


def test_limit_of_a_folder(reals, detector):
    few = evaluate(["fid50k"], lambda count: fakes(20), reals, detector, print, limit=20)
    assert few["fid50k"]["fid50k"] == evaluate(["fid20"], fakes, reals, detector)["fid20"]["fid20"]


def test_a_warning_names_the_counts(reals, detector):
    lines = []
    evaluate(["fid5", "fid6", "kid5"], fakes, reals, detector, lines.append)
    assert len(lines) == 1
    assert lines[0].startswith("warning: fid5 of 5 fakes is biased: fewer samples than the 6 feat")


def test_floor_is_the_metric_between_halves(reals, detector):
    values, half = floor("fid50k", reals, detector)
    a, b = (FeatureSet(reals.features[i::2]).statistics for i in range(2))
    assert half == 15
    assert values == {"fid50k": frechet_distance(a.mean, a.cov, b.mean, b.cov)}
    with pytest.raises(UserError, match="is50k compares with no reals"):
        floor("is50k", reals, detector)


def test_metrics_without_logits_are_named():
    lacking = unavailable(["fid50k", "is50k"], StubDetector(has_logits=False))
    assert list(lacking) == ["is50k"]
    assert "inception-2015-12-05.tgz" in lacking["is50k"] and "--inception" in lacking["is50k"]
    assert unavailable(["fid50k", "is50k"], StubDetector()) == {}
