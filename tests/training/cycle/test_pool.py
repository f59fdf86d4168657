"""The pool of earlier pictures: which are kept and which are shown, as Zhu et al. describe it."""

import numpy as np
import pytest
import tensorflow as tf

from training.cycle.pool import ImagePool, query_order


def zhu(pool, size, new, chances, places):
    """Return the pool after new pictures, added one by one, and the pictures shown; with lists."""
    pool, shown = list(pool), []
    for picture, chance, place in zip(new, chances, places):
        if len(pool) < size:
            pool.append(picture)
            shown.append(picture)
        elif chance < 0.5:
            shown.append(pool[place])
            pool[place] = picture
        else:
            shown.append(picture)
    return pool, shown


@pytest.mark.parametrize("size, minibatch", [(6, 4), (2, 5), (12, 1), (3, 3)])
def test_pictures_are_kept_and_shown_as_in_the_paper(rng, size, minibatch):
    """From empty to long full; in a small pool a minibatch can swap a picture it has just added."""
    pool, made, expected = ImagePool(size, 2), 0, []
    for _ in range(4 * size // minibatch + 6):
        numbers = np.arange(made, made + minibatch)
        new = np.broadcast_to(numbers[:, None, None, None] + 1.0, (minibatch, 2, 2, 3))
        chances, places = rng.uniform(size=minibatch), rng.integers(0, size, minibatch)
        shown, kept = pool.query("fakes_a", tf.constant(new, tf.float32), tf.constant(chances),
                                 tf.constant(places, tf.int32))
        expected, expected_shown = zhu(expected, size, numbers, chances, places)
        np.testing.assert_array_equal(shown[:, 0, 0, 0], np.array(expected_shown) + 1)
        np.testing.assert_array_equal(kept[:len(expected), 1, 1, 2], np.array(expected) + 1)
        filled = pool.filled_after(minibatch)
        assert filled == len(expected)
        pool.variables["fakes_a"].assign(kept)
        pool.variables["filled"].assign(filled)
        made += minibatch
    assert not pool.variables["fakes_b"].numpy().any()


def test_half_of_the_pictures_are_earlier_ones(rng):
    """Once the pool is full."""
    count = 400
    _, shown = query_order(50, tf.constant(50), rng.uniform(size=count),
                           rng.integers(0, 50, count))
    assert abs(np.mean(shown.numpy() != 50 + np.arange(count)) - 0.5) < 0.06
