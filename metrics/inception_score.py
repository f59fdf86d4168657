"""Inception Score (Salimans et al., "Improved Techniques for Training GANs", 2016, section 4).

A pure function of class probabilities; knows neither networks nor files.
"""

import itertools

import numpy as np

from dnnlib.util import UserError


def inception_score(probabilities, num_splits):
    """Mean and standard deviation over splits of exp(mean KL(p(y|x) || p(y))); two floats.

    probabilities: [n, classes], rows sum to 1. Splits are consecutive and as equal as can be; p(y)
    is a split's own mean. Raises UserError where there are fewer samples than splits.
    """
    n = len(probabilities)
    if n < num_splits:
        raise UserError(f"an Inception Score of {n} samples in {num_splits} splits")
    bounds = [i * n // num_splits for i in range(num_splits + 1)]
    scores = [_score(probabilities[a:b]) for a, b in itertools.pairwise(bounds)]
    return float(np.mean(scores)), float(np.std(scores))


def _score(p):
    p = p.astype(np.float64)
    divergence = _times_log(p).sum() / len(p) - _times_log(p.mean(axis=0)).sum()
    return np.exp(divergence)


def _times_log(p):
    """p log p, 0 where p is 0."""
    return p * np.log(np.where(p > 0, p, 1))
