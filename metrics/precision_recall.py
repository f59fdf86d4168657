"""Precision and recall of sets of features (Kynkaanniemi et al., "Improved Precision and Recall
Metric for Assessing Generative Models", 2019, section 2).

A pure function of two arrays of features. It needs memory for the features in float64 and a few
blocks of squared distances (BLOCK_BYTES), never for all pairs.
"""

from collections.abc import Callable, Iterator

import numpy as np

from dnnlib import util
from dnnlib.util import UserError

BLOCK_BYTES = 1 << 27  # of one block of float64 distances
ROUNDING = 1e-12  # error of a squared distance, as a fraction of |a|^2 + |b|^2


def precision_recall(reals: np.ndarray, fakes: np.ndarray, k: int = 3) -> tuple[float, float]:
    """Return (precision, recall): the share of fakes within the reals' manifold, and the share of
    reals within the fakes'.

    A set's manifold is the union of balls around its members, whose radii reach the k-th nearest
    other member, border included (eq. 2). reals, fakes: [n, d] and [m, d], of any float type.
    Raises UserError if a set has k members or fewer.
    """
    for what, features in (("reals", reals), ("fakes", fakes)):
        if len(features) <= k:
            raise UserError(f"precision and recall of {len(features)} {what}: more than k = {k} "
                            "are needed")
    with util.progress(total=2 * (len(reals) + len(fakes)), desc="neighbours", unit="img") as bar:
        radii = [squared_radii(x, k, bar.update) for x in (reals, fakes)]
        precision = in_manifold(fakes, reals, radii[0], bar.update).mean()
        recall = in_manifold(reals, fakes, radii[1], bar.update).mean()
    return float(precision), float(recall)


def squared_radii(x: np.ndarray, k: int, update: Callable = lambda rows: None) -> np.ndarray:
    """Return the squared distance of each row of x [n, d] to its k-th nearest other row, [n]."""
    radii = np.empty(len(x))
    for rows, squares in _blocks(x, x):
        radii[rows] = np.partition(squares, k, axis=1)[:, k]  # the row itself is among them
        update(len(squares))
    return radii


def in_manifold(x: np.ndarray, y: np.ndarray, radii: np.ndarray,
                update: Callable = lambda rows: None) -> np.ndarray:
    """Return which rows of x [n, d] are in a ball around some row of y [m, d]: bool [n].

    radii: squared, [m].
    """
    found = np.zeros(len(x), bool)
    for rows, squares in _blocks(x, y):
        found[rows] = (squares <= radii).any(axis=1)
        update(len(squares))
    return found


def _blocks(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (rows of x, their squared distances to all of y, float64 [rows, m])."""
    y = y.astype(np.float64)
    norms = np.square(y).sum(axis=1)
    step = max(BLOCK_BYTES // (8 * len(y)), 1)
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        a = x[rows].astype(np.float64)
        # |a|^2 + |b|^2 - 2 a.b; for equal rows, only rounding remains.
        sums = np.square(a).sum(axis=1)[:, None] + norms
        squares = sums - 2 * (a @ y.T)
        squares[squares < ROUNDING * sums] = 0
        yield rows, squares
