"""Adam against a float64 oracle, its reset, and the skipping of non-finite updates."""

import numpy as np
import pytest
import tensorflow as tf

from dnnlib.tflib.optimizer import Adam, all_finite


def oracle(var, grads, lrate, beta1, beta2, epsilon=1e-8):
    """Compute Adam in Kingma and Ba's efficient form, in float64."""
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
def test_a_non_finite_update_is_skipped_entirely(rng, poison):
    """Even variables with finite gradients do not change, nor do moments and step count."""
    a, b = tf.Variable(tf.ones([3])), tf.Variable(tf.ones([2]))
    adam = Adam({"a": a, "b": b})
    for skipped in (1, 2):
        apply(adam, {"a": np.float32([1, poison, 1]), "b": np.ones(2, np.float32)})
        assert adam.skipped_in_a_row == skipped
    np.testing.assert_array_equal(a.numpy(), np.ones(3))
    np.testing.assert_array_equal(b.numpy(), np.ones(2))
    assert all(np.all(value == 0) for name, value in adam.get_arrays().items()
               if name != "skipped_in_a_row")
    grad = rng.standard_normal(3).astype(np.float32)
    apply(adam, {"a": grad, "b": np.zeros(2, np.float32)})
    np.testing.assert_allclose(a.numpy(), oracle(np.ones(3), [grad], 0.01, 0.0, 0.99), rtol=1e-5)
    assert adam.slots["step"].numpy() == 1 and adam.skipped_in_a_row == 0


def test_skipped_updates_and_a_reset_between_many_steps(rng):
    """Ten steps of two variables with changing rates, two of them skipped, a reset after the sixth;
    the oracle gets only the finite ones."""
    start = {"a": rng.standard_normal((3, 4)), "b": rng.standard_normal(5)}
    variables = {n: tf.Variable(value, dtype=tf.float32) for n, value in start.items()}
    adam = Adam(variables, 0.5, 0.99)
    state = {n: (value, 0.0, 0.0) for n, value in start.items()}
    t = 0
    for step in range(10):
        if step == 6:
            adam.reset()
            state, t = {n: (value, 0.0, 0.0) for n, (value, _, _) in state.items()}, 0
        lrate, sound = 0.01 * (step + 1), step not in (3, 7)
        grads = {n: 10.0 ** rng.integers(-4, 3) * rng.standard_normal(v.shape)
                 for n, v in start.items()}
        if not sound:
            grads["b"][2] = -np.inf
        apply(adam, {n: grad.astype(np.float32) for n, grad in grads.items()}, lrate)
        if sound:
            t += 1
            state = {n: one_step(*state[n], grads[n], lrate, t) for n in state}
    for name, (value, m, v) in state.items():
        np.testing.assert_allclose(variables[name].numpy(), value, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(adam.slots[f"m/{name}"].numpy(), m, rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(adam.slots[f"v/{name}"].numpy(), v, rtol=1e-4, atol=1e-10)
    assert adam.slots["step"].numpy() == t == 3


def one_step(theta, m, v, grad, lrate, t, beta1=0.5, beta2=0.99):
    """Take one step of Kingma and Ba 2014, algorithm 1 (bias-corrected moments), in float64.

    Its epsilon, next to the corrected root, is ours times sqrt(1 - beta2^t).
    """
    m = beta1 * m + (1 - beta1) * grad
    v = beta2 * v + (1 - beta2) * grad ** 2
    corrected_m, corrected_v = m / (1 - beta1 ** t), v / (1 - beta2 ** t)
    epsilon = 1e-8 / np.sqrt(1 - beta2 ** t)
    return theta - lrate * corrected_m / (np.sqrt(corrected_v) + epsilon), m, v


def test_slots_survive_a_round_trip(rng):
    var = tf.Variable(tf.ones([3]))
    adam = Adam({"w": var})
    apply(adam, {"w": np.float32([1, 2, 3])})
    twin = Adam({"w": tf.Variable(var)})
    twin.set_arrays(adam.get_arrays())
    for optimizer in (adam, twin):
        apply(optimizer, {"w": np.float32([3, 2, 1])})
    np.testing.assert_array_equal(var.numpy(), twin.variables_by_name["w"].numpy())
