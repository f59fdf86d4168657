"""FID, KID and IS as formulas: reference vectors, closed forms, brute force."""

import inspect
import time

import numpy as np
import pytest
import scipy.linalg
import threadpoolctl

from dnnlib.util import UserError
from metrics.frechet_inception_distance import frechet_distance
from metrics.inception_score import inception_score
from metrics.kernel_inception_distance import kernel_distance, squared_mmd


def random_gaussian(rng, size, samples):
    """Return mean and covariance of `samples` random vectors: singular if they are few."""
    x = rng.standard_normal((samples, size)) @ rng.standard_normal((size, size))
    return x.mean(axis=0) + rng.standard_normal(size), np.cov(x, rowvar=False)


def test_fid_equals_the_reference(shared):
    z = np.load(shared / "reference" / "metrics.npz")
    fid = frechet_distance(z["mu_real"], z["sigma_real"], z["mu_fake"], z["sigma_fake"])
    np.testing.assert_allclose(fid, z["fid"], rtol=1e-6)


def test_rank_deficient_fid_equals_the_reference(shared):
    z = np.load(shared / "reference" / "metrics.npz")
    sides = [z[name][:40].astype(np.float64) for name in ("feat_real", "feat_fake")]
    moments = [m for x in sides for m in (x.mean(axis=0), np.cov(x, rowvar=False))]
    np.testing.assert_allclose(frechet_distance(*moments), z["fid_rank_deficient_first40"],
                               rtol=1e-6)


def test_fid_of_commuting_gaussians_in_closed_form(rng):
    """Covariances with common axes: |m1 - m2|^2 + sum of (s1 - s2)^2 over the axes."""
    axes = np.linalg.qr(rng.standard_normal((20, 20)))[0]
    s1, s2 = rng.uniform(0, 3, 20), rng.uniform(0, 3, 20)
    s1[:5] = 0
    m1, m2 = rng.standard_normal((2, 20))
    fid = frechet_distance(m1, axes * s1 ** 2 @ axes.T, m2, axes * s2 ** 2 @ axes.T)
    np.testing.assert_allclose(fid, ((m1 - m2) ** 2).sum() + ((s1 - s2) ** 2).sum(), rtol=1e-9)


@pytest.mark.parametrize("samples", [200, 12])
def test_fid_equals_the_general_matrix_root(rng, samples):
    m1, c1 = random_gaussian(rng, 24, samples)
    m2, c2 = random_gaussian(rng, 24, 300)
    values = scipy.linalg.eigvals(c1 @ c2).real
    root = np.sqrt(values[values > 0]).sum()
    expected = ((m1 - m2) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * root
    np.testing.assert_allclose(frechet_distance(m1, c1, m2, c2), expected, rtol=1e-5)
    np.testing.assert_allclose(frechet_distance(m2, c2, m1, c1), expected, rtol=1e-5)


def test_fid_of_a_gaussian_with_itself_is_zero(rng):
    mean, cov = random_gaussian(rng, 30, 20)
    assert abs(frechet_distance(mean, cov, mean, cov)) < 1e-9 * np.trace(cov)
    assert frechet_distance(mean, cov * 0, mean, cov * 0) == 0


@pytest.mark.slow
def test_the_fid_formula_takes_seconds_at_full_size(rng):
    """In processor time of all threads: less than three symmetric eigenproblems of that size; it
    consists of two."""
    m1, c1 = random_gaussian(rng, 2048, 3000)
    times = []
    for compute in (lambda: frechet_distance(m1, c1, m1 + 1, c1 * 2), lambda: np.linalg.eigh(c1)):
        with threadpoolctl.threadpool_limits(1):
            start = time.process_time()
            compute()
            times.append(time.process_time() - start)
    assert times[0] < 3 * times[1]


def test_mmd_by_brute_force(rng):
    x, y = rng.standard_normal((2, 7, 5)) + [[[0.0]], [[0.3]]]

    def kernel(a, b):
        return (a @ b / 5 + 1) ** 3
    within = sum(kernel(a[i], a[j]) for a in (x, y) for i in range(7) for j in range(7) if i != j)
    between = sum(kernel(a, b) for a in x for b in y)
    np.testing.assert_allclose(squared_mmd(x, y), within / 42 - 2 * between / 49, rtol=1e-12)


def test_kid_of_all_samples_is_one_subset(rng):
    x, y = rng.standard_normal((2, 40, 8)).astype(np.float32)
    mean, std = kernel_distance(x, y)
    np.testing.assert_allclose(mean, squared_mmd(x.astype(float), y.astype(float)), rtol=1e-9)
    assert std == 0


def test_kid_subsets_estimate_the_whole(rng):
    """Their mean does, and the draws are the same every time."""
    x, y = rng.standard_normal((300, 8)), rng.standard_normal((200, 8)) + 0.5
    mean, std = kernel_distance(x, y, subset_size=50)
    whole = squared_mmd(x[:200], y)
    assert abs(mean - whole) < 4 * std / np.sqrt(100) + 0.1 * whole
    assert kernel_distance(x, y, subset_size=50) == (mean, std)
    assert kernel_distance(x[:30], y)[1] > 0


def test_kid_is_unbiased(rng):
    """Between samples of one distribution it is zero on average, whatever their number."""
    values = [squared_mmd(*rng.standard_normal((2, 6, 4))) for _ in range(3000)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))


def test_kid_by_hand_drawn_subsets(rng):
    """The protocol: 100 subsets of 1,000, drawn like torch-fidelity's."""
    defaults = inspect.signature(kernel_distance).parameters
    assert [defaults[name].default for name in ("num_subsets", "subset_size")] == [100, 1000]
    x, y = rng.standard_normal((30, 4)), rng.standard_normal((20, 4))
    draws, values = np.random.RandomState(2020), []
    for _ in range(3):
        rows = [draws.permutation(n)[:10] for n in (30, 20)]
        values.append(squared_mmd(x[rows[0]], y[rows[1]]))
    np.testing.assert_allclose(kernel_distance(x, y, num_subsets=3, subset_size=10),
                               (np.mean(values), np.std(values)), rtol=1e-12)


def test_kid_of_one_sample_is_refused(rng):
    with pytest.raises(UserError, match="KID of 1 and 5 samples"):
        kernel_distance(rng.random((1, 4)), rng.random((5, 4)))


def test_inception_score_by_hand():
    """Two distinct classes: 2. All the same: 1."""
    sure = np.eye(2, dtype=np.float32)[np.arange(40) % 2]
    np.testing.assert_allclose(inception_score(sure, 10), (2, 0), atol=1e-12)
    np.testing.assert_allclose(inception_score(np.full((40, 5), 0.2), 10), (1, 0), atol=1e-12)


def test_inception_score_by_brute_force(rng):
    p = rng.dirichlet(np.full(7, 0.3), 53)
    scores = []
    for i in range(5):
        part = p[i * 53 // 5:(i + 1) * 53 // 5]
        marginal = part.mean(axis=0)
        scores.append(np.exp(np.mean([(row * np.log(row / marginal)).sum() for row in part])))
    np.testing.assert_allclose(inception_score(p, 5), (np.mean(scores), np.std(scores)), rtol=1e-9)


def test_inception_score_of_too_few_is_refused():
    with pytest.raises(UserError, match="9 samples in 10 splits"):
        inception_score(np.full((9, 3), 1 / 3), 10)
