"""Optimizers: Adam as the official release uses it, and gradient descent with momentum."""

import functools
from collections.abc import Iterable

import numpy as np
import tensorflow as tf


class Optimizer(tf.Module):
    """Base of optimizers over named variables, to be built and applied in the strategy's
    cross-replica context.

    An update whose gradients have a NaN or an infinity is skipped completely: variables, slots and
    step count keep their values.

    Attributes:
        slots: {'<kind>/<variable>' of every kind of moment: tf.Variable of the variable's shape;
            'step' and 'skipped_in_a_row': scalar tf.Variable}.
    """

    kinds: tuple[str, ...] = ()  # moments of each variable

    def __init__(self, variables: dict[str, tf.Variable]):
        super().__init__()
        self.variables_by_name = dict(variables)
        self.slots = {name: tf.Variable(0.0, trainable=False)
                      for name in ("step", "skipped_in_a_row")}
        for name, var in self.variables_by_name.items():
            for kind in self.kinds:
                self.slots[f"{kind}/{name}"] = tf.Variable(tf.zeros(var.shape), trainable=False)

    def apply(self, strategy: tf.distribute.Strategy, grads: dict, finite: tf.Tensor,
              lrate: tf.Tensor):
        """Apply all-reduced gradients.

        Args:
            grads: {variable name: gradient as `strategy.run` returns it, equal in every replica};
                variables without one keep their values.
            finite: scalar bool, False to skip this update.
            lrate: scalar float32.
        """
        step = self.slots["step"] + tf.cast(finite, tf.float32)
        skipped = tf.where(finite, 0.0, self.slots["skipped_in_a_row"] + 1)
        # A skipped first update leaves step at 0, where a bias correction would divide by zero.
        t = tf.maximum(step, 1.0)
        numbers = self._numbers(lrate, t)

        def update_all():
            for name, grad in grads.items():
                moments = [self.slots[f"{kind}/{name}"] for kind in self.kinds]
                strategy.extended.update(
                    self.variables_by_name[name], functools.partial(self._update, name),
                    args=(grad, numbers, *moments))
            return True

        tf.cond(finite, update_all, lambda: False)
        for name, value in (("step", step), ("skipped_in_a_row", skipped)):
            strategy.extended.update(
                self.slots[name], lambda var, value: var.assign(value), args=(value,))

    def _numbers(self, lrate, t):
        """Return {name: scalar} for all calls of `_update` at update number t, from 1."""
        raise NotImplementedError

    def _update(self, name, var, grad, numbers, *moments):
        """Update the variable `name` and its moments in place."""
        raise NotImplementedError

    @property
    def skipped_in_a_row(self) -> int:
        """Return how many updates were skipped since the last finite one."""
        return int(self.slots["skipped_in_a_row"].numpy())

    def reset(self):
        """Reset moments and step count (an old count would make steps ten times too long)."""
        for slot in self.slots.values():
            slot.assign(np.zeros(slot.shape, np.float32))

    def get_arrays(self) -> dict[str, np.ndarray]:
        """Return {slot name: float32 array}."""
        return {name: slot.numpy() for name, slot in self.slots.items()}

    def set_arrays(self, arrays: dict[str, np.ndarray]):
        """Assign every slot from arrays in the form of `get_arrays`."""
        for name, slot in self.slots.items():
            slot.assign(arrays[name])


class Adam(Optimizer):
    """Adam as the official release uses it.

    m <- beta1 m + (1 - beta1) grad, v <- beta2 v + (1 - beta2) grad^2, and with lr = lrate *
    sqrt(1 - beta2^t) / (1 - beta1^t) var <- var - lr m / (sqrt(v) + epsilon) (Kingma and Ba 2014,
    the efficient form before section 2.1).
    """

    kinds = ("m", "v")

    def __init__(self, variables: dict[str, tf.Variable], beta1: float = 0.0, beta2: float = 0.99,
                 epsilon: float = 1e-8):
        super().__init__(variables)
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon

    def _numbers(self, lrate, t):
        lrate_t = lrate * tf.sqrt(1 - self.beta2 ** t) / (1 - self.beta1 ** t)
        # The powers of the betas are 0, since `lrate_t` includes them.
        return {"lr": lrate_t} | {key: tf.constant(value) for key, value in (
            ("beta1", self.beta1), ("beta2", self.beta2), ("epsilon", self.epsilon),
            ("beta1_power", 0.0), ("beta2_power", 0.0))}

    def _update(self, name, var, grad, numbers, m, v):
        # The kernel reads and writes each number once; op by op it took four times as long.
        # Its Nesterov form has beta1 m + (1 - beta1) grad for m in the last line. Without momentum
        # this is the gradient itself, not m, which is rounded.
        tf.raw_ops.ResourceApplyAdam(var=var.handle, m=m.handle, v=v.handle, grad=grad, **numbers,
                                     use_nesterov=self.beta1 == 0)


class Sgd(Optimizer):
    """Gradient descent with momentum and weight decay.

    a <- momentum a + grad + decay var, var <- var - lrate a; only `decayed` variables decay.
    """

    kinds = ("a",)

    def __init__(self, variables: dict[str, tf.Variable], momentum: float = 0.9,
                 decay: float = 0.0, decayed: Iterable[str] = ()):
        super().__init__(variables)
        self.momentum, self.decay, self.decayed = momentum, decay, frozenset(decayed)

    def _numbers(self, lrate, t):
        return {"lr": lrate, "momentum": tf.constant(self.momentum)}

    def _update(self, name, var, grad, numbers, a):
        if self.decay and name in self.decayed:
            grad += self.decay * var
        tf.raw_ops.ResourceApplyMomentum(var=var.handle, accum=a.handle, grad=grad, **numbers)


def all_finite(grads: dict[str, tf.Tensor]) -> tf.Tensor:
    """Return whether no gradient has a NaN or an infinity, as a scalar bool."""
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(grad)) for grad in grads.values()])
