"""Kernel Inception Distance (Binkowski et al., "Demystifying MMD GANs", 2018, section 4).

A pure function of two arrays of features, independent of networks and files.
"""

import numpy as np

from dnnlib.util import UserError

NUM_SUBSETS = 100
SUBSET_SIZE = 1000
SEED = 2020  # for drawing subsets, as in torch-fidelity: its numbers are the same


def kernel_distance(features1: np.ndarray, features2: np.ndarray, num_subsets: int = NUM_SUBSETS,
                    subset_size: int = SUBSET_SIZE) -> tuple[float, float]:
    """Return mean and standard deviation over random subsets of the unbiased squared MMD.

    features: [n1, d] and [n2, d]. Every subset draws min(subset_size, n1, n2) samples of each
    without replacement; if these are all samples of both, there is one subset. Raises UserError for
    fewer than two samples.
    """
    size = min(subset_size, len(features1), len(features2))
    if size < 2:
        raise UserError(f"KID of {len(features1)} and {len(features2)} samples: two are needed")
    if len(features1) == len(features2) == size:
        num_subsets = 1
    rng = np.random.RandomState(SEED)
    distances = []
    for _ in range(num_subsets):
        x, y = (features[rng.choice(len(features), size, replace=False)].astype(np.float64)
                for features in (features1, features2))
        distances.append(squared_mmd(x, y))
    return float(np.mean(distances)), float(np.std(distances))


def squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Return the unbiased squared maximum mean discrepancy of x, y: [m, d] (eq. 4): the sum of the
    mean kernels within x and within y, excluding each sample with itself, minus twice the mean
    kernel between x and y."""
    m = len(x)
    within = sum(k.sum() - np.trace(k) for k in (polynomial_kernel(x, x), polynomial_kernel(y, y)))
    return float(within / (m * (m - 1)) - 2 * polynomial_kernel(x, y).mean())


def polynomial_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return (x.y / d + 1)^3 for every pair of rows: [m, d], [n, d] -> [m, n] (section 4)."""
    k = x @ y.T / x.shape[1] + 1
    return k * k * k
