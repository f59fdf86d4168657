"""Inception Score (Salimans et al., "Improved Techniques for Training GANs", 2016, section 4).

A pure function of class probabilities, independent of networks and files.
"""

import itertools

import numpy as np

from dnnlib.util import UserError


def inception_score(probabilities: np.ndarray, num_splits: int) -> tuple[float, float]:
    """Return mean and standard deviation over splits of exp(mean KL(p(y|x) || p(y))).

    probabilities: [n, classes], rows sum to 1. Splits are consecutive and as equal as possible;
    p(y) is the split's own mean. Raises UserError if there are fewer samples than splits.
    """
    n = len(probabilities)
    if n < num_splits:
        raise UserError(f"an Inception Score of {n} samples in {num_splits} splits")
    scores = []
    for start, stop in itertools.pairwise(i * n // num_splits for i in range(num_splits + 1)):
        p = probabilities[start:stop].astype(np.float64)
        scores.append(np.exp(_times_log(p).sum() / len(p) - _times_log(p.mean(axis=0)).sum()))
    return float(np.mean(scores)), float(np.std(scores))


def _times_log(p):
    """Return p log p, 0 where p is 0."""
    return p * np.log(np.where(p > 0, p, 1))
