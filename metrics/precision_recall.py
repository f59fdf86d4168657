"""Precision and recall of sets of features (Kynkaanniemi et al., "Improved Precision and Recall
Metric for Assessing Generative Models", 2019, section 2).

A pure function of two arrays of features; knows neither networks nor files. Memory: the features
themselves, one block of squared distances (BLOCK_BYTES) and a few arrays of its shape; never all
pairs.
"""

import numpy as np

from dnnlib import util
from dnnlib.util import UserError

BLOCK_BYTES = 1 << 27  # of one block of float64 distances
COLUMNS = 2048  # features that go through float64 at a time
PAIRS = 4096  # pairs whose distance is taken directly at a time


def precision_recall(reals, fakes, k=3):
    """(precision, recall): the share of fakes within the reals' manifold, and the reverse; eq. 2.

    reals: [n, d], fakes: [m, d], of any float type. A set's manifold is the union of balls around
    its members, whose radii reach the k-th nearest other member, border included. Raises UserError
    for k members or fewer.

    Every decision is that of float64 distances sqrt(sum (a - b)^2): the distance of equal features
    is 0, and d(a, b) is d(b, a). Matrix products find the few pairs that are too close to call,
    which are then computed directly.
    """
    for what, features in (("reals", reals), ("fakes", fakes)):
        if len(features) <= k:
            raise UserError(f"precision and recall of {len(features)} {what}: more than k = {k} "
                            "are needed")
    with util.progress(total=2 * (len(reals) + len(fakes)), desc="neighbours", unit="img") as bar:
        radii = [squared_radii(x, k, bar.update) for x in (reals, fakes)]
        precision = inside(fakes, reals, radii[0], bar.update).mean()
        recall = inside(reals, fakes, radii[1], bar.update).mean()
    return float(precision), float(recall)


def squared_radii(x, k, done=lambda rows: None):
    """Squared distance of each row of x: [n, d] to its k-th nearest other row; float64 [n]."""
    radii = np.empty(len(x))
    for rows, squares, doubt in _blocks(x, x):
        # The row itself is among them, at distance 0.
        near = np.partition(squares, k, axis=1)[:, k]
        candidates = squares <= (near + 2 * doubt)[:, None]
        i, j = np.nonzero(candidates)
        exact = np.full(squares.shape, np.inf)
        exact[i, j] = _direct(x[rows], i, x, j)
        radii[rows] = np.partition(exact, k, axis=1)[:, k]
        done(len(squares))
    return radii


def inside(x, y, radii, done=lambda rows: None):
    """Which rows of x: [n, d] lie in a ball around some row of y: [m, d]; bool [n].

    radii: squared, float64 [m].
    """
    found = np.zeros(len(x), bool)
    for rows, squares, doubt in _blocks(x, y):
        margin = radii - squares
        hit = (margin > doubt[:, None]).any(axis=1)
        i, j = np.nonzero((np.abs(margin) <= doubt[:, None]) & ~hit[:, None])
        close = i[_direct(x[rows], i, y, j) <= radii[j]]
        hit[close] = True
        found[rows] = hit
        done(len(squares))
    return found


def _blocks(x, y):
    """Yield (rows of x, squared distances [rows, m] to all of y, their possible error [rows]).

    By |a|^2 + |b|^2 - 2 a.b in float64, whose rounding is at most about 2 d eps (|a|^2 + |b|^2).
    """
    norms = np.concatenate([(part.astype(np.float64) ** 2).sum(axis=1) for part in _parts(y)])
    step = max(BLOCK_BYTES // (8 * len(y)), 1)
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        a = x[rows].astype(np.float64)
        squares = np.concatenate([a @ part.astype(np.float64).T for part in _parts(y)], axis=1)
        own = (a ** 2).sum(axis=1)
        squares *= -2
        squares += own[:, None]
        squares += norms
        yield rows, squares, 4 * x.shape[1] * np.finfo(np.float64).eps * (own + norms.max())


def _parts(y):
    return (y[start:start + COLUMNS] for start in range(0, len(y), COLUMNS))


def _direct(x, i, y, j):
    """Sum of (x[i] - y[j])^2 in float64 of pairs of rows; [number of pairs]."""
    squares = [((x[i[part]].astype(np.float64) - y[j[part]]) ** 2).sum(axis=1)
               for part in (slice(s, s + PAIRS) for s in range(0, len(i), PAIRS))]
    return np.concatenate(squares) if squares else np.zeros(0)
