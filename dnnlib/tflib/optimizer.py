"""Adam as the official release uses it: one pure update rule and a class that holds the slots."""

import numpy as np
import tensorflow as tf

FIRST_LOSS_SCALE, LAST_LOSS_SCALE = 2.0**15, 2.0**24
LOSS_SCALE_STEPS = 2000  # sound updates in a row before the scale is tried twice as large


def adam_update(var, m, v, grad, rates, momentum):
    """One Adam step for one variable and its moments, in place (Kingma and Ba 2014, the efficient
    form before section 2.1).

    m <- beta1 m + (1 - beta1) grad, v <- beta2 v + (1 - beta2) grad^2 and
    var <- var - lr m / (sqrt(v) + epsilon), where lr = lrate * sqrt(1 - beta2^t) / (1 - beta1^t);
    rates: {'lr', 'beta1', 'beta2', 'epsilon', the kernel's powers of betas, 0}. TensorFlow's
    kernel reads and writes each number once; op by op it took four times as long.
    """
    # The kernel's other form takes beta1 m + (1 - beta1) grad for m in the last line. Without
    # momentum that is the gradient itself, not one that went through m, which rounds.
    tf.raw_ops.ResourceApplyAdam(
        var=var.handle, m=m.handle, v=v.handle, grad=grad, **rates, use_nesterov=not momentum)


class Adam(tf.Module):
    """Adam over named variables, to be built and applied in the strategy's cross-replica context.

    An update whose gradients hold a NaN or an infinity is skipped whole: variables, moments and
    step count stay. With loss scaling, for gradients that pass through float16, the scale is halved
    then, down to 1, and doubled after LOSS_SCALE_STEPS sound updates (Micikevicius et al. 2018,
    section 3.2); who computes the gradients multiplies the loss by `loss_scale`, and divides them.

    Attributes:
        slots: {'m/<variable>' and 'v/<variable>': tf.Variable, and of no shape 'step',
            'skipped_in_a_row', and with loss scaling 'loss_scale', 'good_steps'}.
    """

    def __init__(self, variables, beta1=0.0, beta2=0.99, epsilon=1e-8, loss_scaling=False):
        super().__init__()
        self.variables_by_name = dict(variables)
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self._counters = {"step": 0.0, "skipped_in_a_row": 0.0}  # and what they begin with
        if loss_scaling:
            self._counters |= {"loss_scale": FIRST_LOSS_SCALE, "good_steps": 0.0}
        self.slots = {name: tf.Variable(value, trainable=False)
                      for name, value in self._counters.items()}
        for name, var in self.variables_by_name.items():
            self.slots[f"m/{name}"] = tf.Variable(tf.zeros(var.shape), trainable=False)
            self.slots[f"v/{name}"] = tf.Variable(tf.zeros(var.shape), trainable=False)

    def apply(self, strategy, grads, finite, lrate):
        """Apply all-reduced gradients.

        Args:
            grads: {variable name: gradient as `strategy.run` returns it, equal in every replica};
                variables without one stay.
            finite: scalar bool, False to skip this update.
            lrate: scalar float32.
        """
        counters = self._new_counters(finite)
        step = counters["step"]
        # A skipped first update leaves step at 0, where the bias correction would divide by zero.
        t = tf.maximum(step, 1.0)
        lrate_t = lrate * tf.sqrt(1 - self.beta2 ** t) / (1 - self.beta1 ** t)

        def update(var, grad, m, v, rates):
            adam_update(var, m, v, grad, rates, momentum=self.beta1 != 0)

        def update_all():
            # Made once: constants of each variable's own are a seventh of a turn's operations.
            rates = {"lr": lrate_t} | {key: tf.constant(value) for key, value in (
                ("beta1", self.beta1), ("beta2", self.beta2), ("epsilon", self.epsilon),
                ("beta1_power", 0.0), ("beta2_power", 0.0))}
            for name, grad in grads.items():
                args = (grad, self.slots[f"m/{name}"], self.slots[f"v/{name}"], rates)
                strategy.extended.update(self.variables_by_name[name], update, args=args)
            return True

        tf.cond(finite, update_all, lambda: False)
        for name, value in counters.items():
            strategy.extended.update(
                self.slots[name], lambda var, value: var.assign(value), args=(value,))

    def _new_counters(self, finite):
        """{counter: its value after an update}.

        An update that a smaller loss scale may save is not counted as skipped in a row.
        """
        old = self.slots
        new = {"step": old["step"] + tf.cast(finite, tf.float32)}
        counted = 1.0
        if "loss_scale" in old:
            scale, good_steps = tf.convert_to_tensor(old["loss_scale"]), old["good_steps"] + 1
            grows = good_steps >= LOSS_SCALE_STEPS
            larger = tf.where(grows, tf.minimum(2 * scale, LAST_LOSS_SCALE), scale)
            new["loss_scale"] = tf.where(finite, larger, tf.maximum(scale / 2, 1.0))
            new["good_steps"] = tf.where(finite & ~grows, good_steps, 0.0)
            counted = tf.cast(scale <= 1, tf.float32)
        new["skipped_in_a_row"] = tf.where(finite, 0.0, old["skipped_in_a_row"] + counted)
        return new

    @property
    def skipped_in_a_row(self):
        """How many updates were skipped since the last sound one."""
        return int(self.slots["skipped_in_a_row"].numpy())

    @property
    def loss_scale(self):
        """What the loss is to be multiplied by, a scalar tensor; None without loss scaling."""
        scale = self.slots.get("loss_scale")
        return None if scale is None else tf.identity(scale)

    def reset(self):
        """Forget moments and step count (zeroed moments with an old step count would make the next
        steps about ten times too long); the loss scale stays."""
        for name, slot in self.slots.items():
            if name not in ("loss_scale", "good_steps"):
                slot.assign(np.zeros(slot.shape, np.float32))

    def get_arrays(self):
        """{slot name: array}."""
        return {name: slot.numpy() for name, slot in self.slots.items()}

    def set_arrays(self, arrays):
        """Assign every slot from `get_arrays`'s form."""
        for name, slot in self.slots.items():
            slot.assign(arrays[name])


def all_finite(grads):
    """Scalar bool: no gradient in the dict has a NaN or an infinity."""
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(grad)) for grad in grads.values()])
