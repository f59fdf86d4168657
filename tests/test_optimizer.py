"""Adam against a float64 oracle, its reset, and the skipping of what is not finite."""

import numpy as np
import pytest
import tensorflow as tf

from dnnlib.tflib.optimizer import Adam, all_finite


def oracle(var, grads, lrate, beta1, beta2, epsilon=1e-8):
    """Adam as in Kingma and Ba's efficient form, in float64."""
    var, m, v = var.astype(np.float64), 0.0, 0.0
    for t, grad in enumerate(grads, 1):
        m = beta1 * m + (1 - beta1) * grad
        v = beta2 * v + (1 - beta2) * grad.astype(np.float64) ** 2
        var = var - lrate * np.sqrt(1 - beta2**t) / (1 - beta1**t) * m / (np.sqrt(v) + epsilon)
    return var


def apply(adam, grads, lrate=0.01):
    grads = {name: tf.constant(grad) for name, grad in grads.items()}
    adam.apply(tf.distribute.get_strategy(), grads, all_finite(grads), tf.constant(lrate))


@pytest.mark.parametrize("beta1, beta2", [(0.0, 0.99), (0.9, 0.999)])
def test_several_steps_and_a_reset(rng, beta1, beta2):
    start = rng.standard_normal((3, 4)).astype(np.float32)
    var = tf.Variable(start)
    adam = Adam({"w": var}, beta1, beta2)
    grads = rng.standard_normal((6, 3, 4)).astype(np.float32)
    for grad in grads:
        apply(adam, {"w": grad})
    expected = oracle(start, grads, 0.01, beta1, beta2)
    np.testing.assert_allclose(var.numpy(), expected, rtol=1e-5, atol=1e-6)
    adam.reset()
    before = var.numpy()
    for grad in grads[:3]:
        apply(adam, {"w": grad})
    expected = oracle(before, grads[:3], 0.01, beta1, beta2)
    np.testing.assert_allclose(var.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_an_update_that_is_not_finite_is_skipped_whole(rng, poison):
    """All variables stay, those with sound gradients too, and so do moments and step count."""
    a, b = tf.Variable(tf.ones([3])), tf.Variable(tf.ones([2]))
    adam = Adam({"a": a, "b": b})
    apply(adam, {"a": np.float32([1, poison, 1]), "b": np.ones(2, np.float32)})
    np.testing.assert_array_equal(a.numpy(), np.ones(3))
    np.testing.assert_array_equal(b.numpy(), np.ones(2))
    assert all(np.all(value == 0) for value in adam.get_arrays().values())
    grad = rng.standard_normal(3).astype(np.float32)
    apply(adam, {"a": grad, "b": np.zeros(2, np.float32)})
    np.testing.assert_allclose(a.numpy(), oracle(np.ones(3), [grad], 0.01, 0.0, 0.99), rtol=1e-5)
    assert adam.slots["step"].numpy() == 1


def test_slots_survive_a_round_trip(rng):
    var = tf.Variable(tf.ones([3]))
    adam = Adam({"w": var})
    apply(adam, {"w": np.float32([1, 2, 3])})
    twin = Adam({"w": tf.Variable(var)})
    twin.set_arrays(adam.get_arrays())
    for optimizer in (adam, twin):
        apply(optimizer, {"w": np.float32([3, 2, 1])})
    np.testing.assert_array_equal(var.numpy(), twin.variables_by_name["w"].numpy())
