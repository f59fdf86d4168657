"""Compute metrics of a CycleGAN from what was found on its test photos.

Photos of A are translated to B and those of B to A, and each are compared with the real test photos
of the list that they should look like. Untranslated photos are the baseline to beat, real training
photos the floor.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from metrics.features import FeatureSet
from metrics.frechet_inception_distance import frechet_distance
from metrics.kernel_inception_distance import kernel_distance

DIRECTIONS = ("AtoB", "BtoA")


@dataclass(frozen=True)
class CycleFindings:
    """What was found on the test photos A and B.

    Attributes:
        reals: {'A', 'B': FeatureSet of the test photos}.
        translated: {'AtoB', 'BtoA': FeatureSet of what was made of them}.
        training: {'A', 'B': FeatureSet of as many training photos as the other list has test
            photos}.
        terms: {'AtoB', 'BtoA': {name of a term of the objective: its mean over the photos}}.
        accuracies: {'A', 'B': share of the test photos that the classifier of domains gets right;
            'AtoB', 'BtoA': share of the translated photos that it assigns to the target}.
        cycle_weight: weight of the cycle loss in the objective.
    """

    reals: dict[str, FeatureSet] = field(default_factory=dict)
    translated: dict[str, FeatureSet] = field(default_factory=dict)
    training: dict[str, FeatureSet] = field(default_factory=dict)
    terms: dict[str, dict[str, float]] = field(default_factory=dict)
    accuracies: dict[str, float] = field(default_factory=dict)
    cycle_weight: float = 0.0


def fid_distance(first: FeatureSet, second: FeatureSet) -> dict[str, float]:
    """Return {'': FID} of two FeatureSets."""
    a, b = first.statistics, second.statistics
    return {"": frechet_distance(a.mean, a.cov, b.mean, b.cov)}


def kid_distance(first: FeatureSet, second: FeatureSet) -> dict[str, float]:
    """Return {'': KID, '_std': its deviation over subsets} of two FeatureSets."""
    mean, std = kernel_distance(first.features, second.features)
    return {"": mean, "_std": std}


def distances(found: CycleFindings, distance: Callable) -> dict[str, float]:
    """Return {suffix: distance} of the translated photos from the target's test photos, for both
    directions, and of the untranslated ones, which is the same in both directions.

    Args:
        distance: (FeatureSet, FeatureSet) -> {suffix: value}.
    """
    pairs = {direction: (found.translated[direction], found.reals[direction[-1]])
             for direction in DIRECTIONS} | {"untranslated": (found.reals["A"], found.reals["B"])}
    return _all(pairs, distance)


def floors(found: CycleFindings, distance: Callable) -> dict[str, float]:
    """Return {suffix: distance} with the target's training photos in place of translated ones:
    about what a perfect network would reach."""
    return _all({direction: (found.training[direction[-1]], found.reals[direction[-1]])
                 for direction in DIRECTIONS}, distance)


def _all(pairs, distance):
    return {f"_{name}{suffix}": value for name, sets in pairs.items()
            for suffix, value in distance(*sets).items()}


def objective(found: CycleFindings) -> dict[str, float]:
    """Return {suffix: value}: the objective of "Clothing texture synthesis using CycleGAN" (''),
    section 4.1, with least squares in place of logarithms (section 4.3), and its terms.

    L = sum over both directions of (D(real) - 1)^2 + D(fake)^2 + (D(fake) - 1)^2, and
    cycle_weight times both cycles' L1.
    """
    values, total = {}, 0.0
    for direction in DIRECTIONS:
        terms = found.terms[direction]
        total += (terms["real"] + terms["fake"] + terms["fooled"]
                  + found.cycle_weight * terms["cycle"])
        values |= {f"_{name}_{direction}": value for name, value in terms.items()}
    return {"": total, **values}


def texture_accuracies(found: CycleFindings) -> dict[str, float]:
    """Return {suffix: share}: of the translated photos that a classifier of real photos assigns to
    the target, over both directions ('') and for each, and of the real test photos that it gets
    right."""
    shares = found.accuracies
    means = {suffix: (shares[first] + shares[second]) / 2
             for suffix, first, second in (("", *DIRECTIONS), ("_real", "A", "B"))}
    return {**means, **{f"_{direction}": shares[direction] for direction in DIRECTIONS},
            **{f"_real_{side}": shares[side] for side in "AB"}}
