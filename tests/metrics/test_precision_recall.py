"""Precision and recall against brute force in float64, at ties and at every block's border."""

import numpy as np
import pytest

from dnnlib.util import UserError
from metrics import precision_recall as module
from metrics.precision_recall import in_manifold, precision_recall, squared_radii


def distances(a, b):
    """Return squared distances, float64 [len(a), len(b)]."""
    return np.array([((row - b) ** 2).sum(axis=1) for row in a])


def by_brute_force(reals, fakes, k=3):
    """Compute the definition literally."""
    reals, fakes = reals.astype(np.float64), fakes.astype(np.float64)

    def share_inside(x, y):
        balls = np.sort(distances(y, y), axis=1)[:, k]  # the first is the point itself
        return (distances(x, y) <= balls).any(axis=1).mean()
    return share_inside(fakes, reals), share_inside(reals, fakes)


def smooth(rng, n, m):
    return rng.standard_normal((n, 20)), rng.standard_normal((m, 20)) * 1.1 + 0.2


def ties(rng, n, m):
    return rng.integers(0, 3, (n, 4)), rng.integers(0, 3, (m, 4))


def copies(rng, n, m):
    """Return copies far from the origin, where |a|^2 + |b|^2 - 2 a.b is not exactly 0."""
    a = rng.standard_normal((n, 20)) * 0.01 + 1000
    return a, np.concatenate([a[:m // 2], a[:1].repeat(m - m // 2, axis=0) + 0.004])


@pytest.fixture
def small_blocks(monkeypatch):
    """Use blocks of a few rows."""
    monkeypatch.setattr(module, "BLOCK_BYTES", 8 * 300)


@pytest.mark.parametrize("make", [smooth, ties, copies])
@pytest.mark.parametrize("n, m", [(60, 60), (71, 33), (20, 90)])
@pytest.mark.parametrize("k", [1, 3])
def test_equals_brute_force(rng, small_blocks, make, n, m, k):
    reals, fakes = (x.astype(np.float32) for x in make(rng, n, m))
    expected = by_brute_force(reals, fakes, k)
    assert precision_recall(reals, fakes, k) == expected
    assert make is not smooth or 0 < min(expected) <= max(expected) < 1


def test_the_block_size_does_not_matter(rng, small_blocks, monkeypatch):
    reals, fakes = (x.astype(np.float32) for x in smooth(rng, 80, 70))
    small = precision_recall(reals, fakes)
    monkeypatch.undo()
    assert precision_recall(reals, fakes) == small


def test_radii_are_distances_to_the_third_neighbour(rng, small_blocks):
    x = rng.standard_normal((50, 6)).astype(np.float32)
    expected = np.sort(distances(x.astype(np.float64), x.astype(np.float64)), axis=1)[:, 3]
    np.testing.assert_allclose(squared_radii(x, 3), expected, rtol=1e-9)


def test_equal_features_are_at_distance_zero(rng):
    """A set is inside itself even if all radii are zero; nothing next to it is."""
    x = (rng.standard_normal((10, 30)) * 1e3).astype(np.float32).repeat(4, axis=0)
    np.testing.assert_array_equal(squared_radii(x, 3), np.zeros(40))
    assert in_manifold(x, x, np.zeros(40)).all()
    assert not in_manifold(x * np.float32(1.0001), x, np.zeros(40)).any()
    assert precision_recall(x, x) == (1, 1)


def test_by_hand():
    """Reals 0 1 2 3 10 have radii 3 2 2 3 9, to the third other real; fakes of a narrow set."""
    reals = np.float32([[0], [1], [2], [3], [10]])
    fakes = np.float32([[0.4], [0.5], [0.6], [0.7], [30]])
    np.testing.assert_allclose(np.sqrt(squared_radii(reals, 3)), [3, 2, 2, 3, 9])
    precision, recall = precision_recall(reals, fakes)
    assert precision == pytest.approx(4 / 5)
    # The ball around 30 reaches 0.5: all but 0 are inside; around 0.4 it reaches 0.1 to 0.7.
    assert recall == pytest.approx(4 / 5)


def test_precision_and_recall_are_not_swapped(rng):
    """Fakes inside one corner of the reals have high precision and low recall."""
    reals = rng.standard_normal((300, 2)).astype(np.float32)
    precision, recall = precision_recall(reals, reals[:30] * 0.1)
    assert precision == 1 and recall < 0.4


@pytest.mark.parametrize("counts", [(3, 10), (10, 3)])
def test_too_few_samples_are_refused(rng, counts):
    with pytest.raises(UserError, match=r"of 3 (reals|fakes): more than k = 3"):
        precision_recall(*(rng.random((count, 2)) for count in counts))
