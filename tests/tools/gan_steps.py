"""Steps of tiny networks for tests: states with all variables moved, batches, gradients."""

import numpy as np
import tensorflow as tf

from training.dataset import Batch
from training.gan.augmentation import Augmentation
from training.gan.gan_step import GanStep
from training.gan.init_from import new_state
from training.gan.schedule import Critic

ONE_DEVICE = tf.distribute.OneDeviceStrategy("/cpu:0")
RGB = Critic("rgb", 3)


def moved_state(config, strategy=ONE_DEVICE, label_size=0):
    """Return a fresh state of the RGB stage; no noise weight and no bias is zero."""
    rng = np.random.default_rng(5)
    with strategy.scope():
        state = new_state(config, label_size=label_size)
    for network in state.networks.values():
        network.set_arrays({name: array + 0.3 * rng.standard_normal(array.shape)
                            for name, array in network.get_arrays().items()})
    return state


def batch(step, minibatch, resolution, num_channels=3, label_size=0):
    """Return the reals of a step, as TrainingStream gives them."""
    rng = np.random.default_rng([6, step])
    shape = (minibatch, resolution, resolution, num_channels)
    return Batch(tf.constant(rng.integers(0, 256, shape, np.uint8)),
                 tf.constant(rng.standard_normal((minibatch, label_size)), tf.float32))


def num_traces(gan_step):
    """Return how often a step has been traced so far."""
    return sum(run.experimental_get_tracing_count() for run in gan_step._compiled.values())


def run(config, state, steps, strategy=ONE_DEVICE, critic=RGB, resolution=8, minibatch=16,
        lrate=0.001, label_size=0, num_critics=1, p=None):
    """Return (GanStep, [report]) of the given steps; p: where an adaptive augmentation starts."""
    table = np.random.default_rng(7).standard_normal((5, label_size)).astype(np.float32)
    with strategy.scope():
        augmentation = None if config.augment == "none" else Augmentation(config, p)
    turn = GanStep(strategy, config, state.networks, state.optimizers, critic, resolution, False,
                   minibatch, table, num_critics, augmentation=augmentation)
    return turn, [turn(batch(step, minibatch, resolution, critic.channels, label_size), step, 0.0,
                       lrate) for step in steps]


def gradients(state):
    """Return {network: {variable: last step's gradient}}: Adam's first moments, no momentum."""
    return {name: {slot[2:]: value for slot, value in optimizer.get_arrays().items()
                   if slot.startswith("m/")}
            for name, optimizer in state.optimizers.items()}


def distance(ours, theirs):
    """Return the norm of the difference over the norm, of all of {variable: array} together."""
    wrong, size = (np.sqrt(sum(np.sum(np.square(v.astype(np.float64))) for v in values))
                   for values in ([ours[n] - theirs[n] for n in theirs], theirs.values()))
    return wrong / size
