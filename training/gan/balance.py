"""How often each photo is drawn, so that rare classes are seen more often than they occur.

Let f_c be the share of the n photos that show class c, F the mean of f over the classes that occur,
and X the strength of `--balance`. Photo i is drawn with probability w_i. The w_i are chosen close
to uniform, and so that the frequencies p_c of the classes (the sum of w_i over the photos that show
c) are close to F:

    minimise  (1 - X) sum_i w_i ln(n w_i) + X sum_c [p_c ln(p_c / F) - p_c + F]
    with      1 / R <= n w_i <= R,    n w_i = 1 for photos that show no class,    R = 10.

X = 0 draws all photos equally often. X = 1 evens out the classes as far as R, and photos that show
several classes, allow. R keeps a few photos of a rare class from filling the stage, and any photo
from vanishing. If each photo showed one class, p_c would be proportional to f_c^(1 - X). The
solution has the form

    n w_i = clip(exp(nu + sum of lambda_c where i shows c), 1 / R, R),
    (1 - X) lambda_c = X ln(F / p_c),

and iterative proportional fitting finds it.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dnnlib import util
from dnnlib.data.channels import STORED_THRESHOLD
from dnnlib.data.dataset import open_dataset, open_split
from dnnlib.util import UserError

MAX_FACTOR = 10.0  # R
COUNT_RESOLUTION = 128  # size of the maps to look at: 45,000 photos take seconds, not minutes
# Factors are multiples of 1 / UNITS, so rounding that differs between processors changes no draws.
UNITS = 10_000
_MAX_STRENGTH = 0.98  # used for any larger X, since fitting takes longer the closer X is to 1
_TOLERANCE, _MAX_SWEEPS = 1e-9, 10_000
_RAREST = 3  # number of classes in the log


def classes_shown(directory: str | Path, split: str, resolution: int) -> np.ndarray:
    """Return which classes each photo of a split shows with one pixel or more, bool [n, C].

    The maps are those of `resolution`, or of COUNT_RESOLUTION if that is smaller.

    Raises:
        UserError: the data set lacks the split or the resolution, or a record is damaged
            or has maps of another number of classes.
    """
    info = open_dataset(directory)
    file = open_split(info, split, min(resolution, COUNT_RESOLUTION))
    shown = np.zeros((len(file), len(info.classes)), bool)
    for number in util.progress(range(len(file)), desc="classes", unit="photo"):
        maps = file.read_maps(number)
        if len(maps) != len(info.classes):
            raise UserError(f"{file.path}: record {number} has {len(maps)} class maps, expected "
                            f"{len(info.classes)}; make or copy this data set again")
        shown[number] = maps.max(axis=(1, 2)) > STORED_THRESHOLD
    return shown


def photo_factors(shown: np.ndarray, strength: float) -> np.ndarray:
    """Return n w_i of each photo, float64 [n], rounded to multiples of 1 / UNITS; see above.

    Args:
        shown: bool [n, C], from `classes_shown`.
        strength: X, from 0 to 1.
    """
    factors, has_class = np.ones(len(shown)), shown.any(axis=1)
    if strength > 0 and has_class.any():
        # Photos that show the same classes have the same factor.
        kinds, kind_of, counts = np.unique(shown[has_class], axis=0, return_inverse=True,
                                           return_counts=True)
        found = shown.sum(axis=0)
        fitted = _fitted_factors(kinds, counts, found[found > 0].mean(), strength)
        factors[has_class] = fitted[kind_of.reshape(-1)]
    return np.rint(factors * UNITS) / UNITS


def _fitted_factors(kinds, counts, wanted, strength):
    """Return the factor of each kind of photo.

    Args:
        kinds: bool [kinds, C], the classes that each kind shows.
        counts: [kinds], number of photos of each kind.
        wanted: n F, the number of draws that should show each class.
        strength: X.
    """
    stiffness = 1 / min(strength, _MAX_STRENGTH) - 1
    # nu is the lambda of a class that all photos show; its wanted count is the number of photos.
    kinds = np.concatenate([kinds, np.ones((len(kinds), 1), bool)], axis=1)
    wanted = np.append(np.full(kinds.shape[1] - 1, wanted), counts.sum())
    stiffness = np.append(np.full(kinds.shape[1] - 1, stiffness), 0)
    members = {c: np.flatnonzero(kinds[:, c]) for c in np.flatnonzero(kinds.any(axis=0))}
    lambdas, exponents = np.zeros(len(wanted)), np.zeros(len(kinds))
    for _ in range(_MAX_SWEEPS):
        before = lambdas.copy()
        for c, rows in members.items():
            # The step is exact if no factor is clipped. If some are, it is too short but never too
            # long, so the sweeps converge.
            drawn = (counts[rows] * _clipped(exponents[rows])).sum()
            step = (np.log(wanted[c] / drawn) - stiffness[c] * lambdas[c]) / (1 + stiffness[c])
            lambdas[c] += step
            exponents[rows] += step
        if np.abs(lambdas - before).max() < _TOLERANCE:
            break
    return _clipped(exponents)


def _clipped(exponents):
    return np.clip(np.exp(exponents), 1 / MAX_FACTOR, MAX_FACTOR)


def epoch_draws(factors: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Return the photos drawn in an epoch of n draws, ascending, int64 [n].

    This is systematic resampling in whole numbers. The order of the photos and the offset depend on
    (seed, epoch). Photo i occurs floor(n w_i) or ceil(n w_i) times, and n w_i times on average.

    Args:
        factors: [n], from `photo_factors`.
    """
    n, rng = len(factors), np.random.default_rng([seed, epoch, 1])
    line = rng.permutation(n)
    ends = np.cumsum(np.rint(factors[line] * UNITS).astype(np.int64))
    places = (rng.integers(ends[-1]) + np.arange(n) * ends[-1]) // n
    return np.sort(line[np.searchsorted(ends, places, side="right")])


def balance_line(classes: Sequence[str], shown: np.ndarray, factors: np.ndarray) -> str:
    """Return a line for the log: how often the rarest classes are drawn, and the largest factor.

    Args:
        classes: names of the C classes.
        shown: bool [n, C], from `classes_shown`.
        factors: [n], from `photo_factors`.
    """
    found, drawn = shown.mean(axis=0), factors @ shown / factors.sum()
    rarest = [c for c in np.argsort(found, kind="stable") if found[c]][:_RAREST]
    parts = [f"{classes[c]} in {drawn[c]:.1%} of its photos ({found[c]:.1%} of the data set's)"
             for c in rarest]
    absent = [name for name, frequency in zip(classes, found) if not frequency]
    nowhere = f"; no photo shows {', '.join(absent)}" if absent else ""
    return (f"balanced: the joint critic sees {', '.join(parts)}{nowhere}; the most drawn photo "
            f"comes {factors.max():.1f} times as often as before")
