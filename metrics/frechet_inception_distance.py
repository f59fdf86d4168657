"""Frechet Inception Distance (Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", 2017).

A pure function of two means and covariances, independent of networks and files.
"""

import numpy as np
from threadpoolctl import threadpool_limits


def frechet_distance(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray,
                     cov2: np.ndarray) -> float:
    """Return |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of two Gaussians (eq. 6).

    mean: [d], cov: [d, d] float64, symmetric, of any rank. tr (S1 S2)^(1/2) is the sum of the roots
    of the eigenvalues of L' S2 L, where S1 = L L' by S1's own eigenvectors: real and symmetric.
    """
    # Use one BLAS thread: more are slower here, on a busy machine many times slower.
    with threadpool_limits(limits=1, user_api="blas"):
        values, vectors = np.linalg.eigh(cov1)
        # Smaller eigenvalues are rounding errors, as in a covariance of too few samples.
        used = values > np.abs(values).max(initial=0) * len(values) * np.finfo(np.float64).eps
        root = vectors[:, used] * np.sqrt(values[used])
        products = np.linalg.eigvalsh(root.T @ cov2 @ root)
    trace_root = np.sqrt(products[products > 0]).sum()
    offset = np.asarray(mean1) - np.asarray(mean2)
    return float(offset @ offset + np.trace(cov1) + np.trace(cov2) - 2 * trace_root)
