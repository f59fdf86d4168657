"""The formulas of a CycleGAN's metrics."""

import numpy as np
import pytest

from metrics.cycle.measures import (
    CycleFindings,
    distances,
    fid_distance,
    floors,
    kid_distance,
    objective,
    texture_accuracies,
)
from metrics.features import FeatureSet


def test_the_objective_equals_the_papers():
    """By hand, from "Clothing texture synthesis using CycleGAN", section 4.1; least squares."""
    terms = {"AtoB": {"real": 0.1, "fake": 0.2, "fooled": 0.5, "cycle": 0.03, "identity": 0.4,
                      "background": 0.0},
             "BtoA": {"real": 0.3, "fake": 0.1, "fooled": 0.6, "cycle": 0.05, "identity": 0.2}}
    values = objective(CycleFindings(terms=terms, cycle_weight=10))
    assert values[""] == pytest.approx(0.8 + 0.3 + 1.0 + 0.5)
    assert values["_cycle_BtoA"] == 0.05 and values["_background_AtoB"] == 0
    assert "_background_BtoA" not in values


def test_distances_are_to_the_target(rng):
    """From translated photos of A to real ones of B; the untranslated distance is equal both ways;
    floors are from the target's training photos."""
    def features(mean):
        return FeatureSet((mean + rng.standard_normal((40, 3))).astype(np.float32))

    found = CycleFindings(
        reals={"A": features(0), "B": features(4)},
        translated={"AtoB": features(3), "BtoA": features(1)},
        training={"A": features(0), "B": features(4)})
    fid, kid = distances(found, fid_distance), distances(found, kid_distance)
    assert fid["_AtoB"] == fid_distance(found.translated["AtoB"], found.reals["B"])[""]
    assert fid["_AtoB"] == pytest.approx(3, abs=1.5) and fid["_BtoA"] == pytest.approx(3, abs=1.5)
    assert fid["_untranslated"] == pytest.approx(48, rel=0.15)
    assert 0 < kid["_AtoB"] < kid["_untranslated"] and "_AtoB_std" in kid
    of_floor = floors(found, fid_distance)
    assert of_floor.keys() == {"_AtoB", "_BtoA"} and max(of_floor.values()) < 0.7


def test_accuracies_of_translated_and_of_real_photos():
    shares = {"AtoB": 0.5, "BtoA": 0.75, "A": 0.875, "B": 1.0}
    assert texture_accuracies(CycleFindings(accuracies=shares)) == {
        "": 0.625, "_AtoB": 0.5, "_BtoA": 0.75, "_real": 0.9375, "_real_A": 0.875, "_real_B": 1.0}
