"""Make turns of training from a configuration, and time them side by side."""

import time

import numpy as np
import tensorflow as tf

from training.gan.augmentation import typical_augmentation
from training.gan.gan_step import GanStep
from training.gan.init_from import new_state
from training.gan.schedule import Critic, Stage

LRATE = 0.001


def plain(resolution, fmaps):
    """Return False: in the plain algorithm no layer is fused."""
    return False


class Side:
    """One form of a turn, with its own networks and optimizers.

    Attributes:
        turn: GanStep. minibatch: images of one call. steps: calls so far. networks: as in the turn.
    """

    def __init__(self, config, num_channels, resolution, minibatch, fused=None):
        """Make the networks and the turn. fused: replaces the networks' rule for fused layers."""
        self.strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
        self.config, self.minibatch, self.steps = config, minibatch, 0
        self.critic = Critic("rgb", num_channels)
        with self.strategy.scope():
            self.state = new_state(config, num_channels)
            self.augmentation = typical_augmentation(config)
        for network in self.state.networks.values():
            network.use_fused_resampling = fused or network.use_fused_resampling
        self.turn = self.make_turn(resolution, fading=False)

    def make_turn(self, resolution, fading):
        """Return a GanStep of these networks at a resolution; its first call compiles it."""
        return GanStep(self.strategy, self.config, self.state.networks, self.state.optimizers,
                       self.critic, resolution, fading, self.minibatch,
                       augmentation=self.augmentation)

    def run(self, reals):
        """Do one turn, and wait until it is done."""
        report = self.turn(reals, self.steps, 0.0, LRATE)
        self.steps += 1
        return float(report["Loss/G"])


def stage(num_channels, resolution, minibatch):
    """Return the Stage of such a turn, for counting its operations."""
    return Stage("rgb", num_channels, (Critic("rgb", num_channels),), lod=0.0,
                 resolution=resolution, fade=0.0, minibatch=minibatch, lrate=LRATE, tick_kimg=1)


def constant_reals(num_channels, resolution, minibatch):
    """Return a minibatch of noise, in the form that TrainingStream gives."""
    shape = (minibatch, resolution, resolution, num_channels)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return tf.constant(images), tf.zeros([minibatch, 0])


def timed(function):
    """Return (wall seconds, processor seconds of this process) of function()."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def timed_in_turns(functions, rounds):
    """Return {name: [(wall, processor seconds) of each round]}. Every second round runs in reverse
    order, so that no function always follows the same one."""
    times = {name: [] for name in functions}
    for number in range(rounds):
        for name in list(functions)[::-1 if number % 2 else 1]:
            times[name].append(timed(functions[name]))
    return times


def medians(times, images):
    """Return {"sec_per_image", "sec_per_image_best", "cpu_sec_per_image"} of [(wall, processor)].
    """
    wall, cpu = np.array(times).T / images
    return {"sec_per_image": significant(np.median(wall)),
            "sec_per_image_best": significant(wall.min()),
            "cpu_sec_per_image": significant(np.median(cpu))}


def paired_ratio(times, others):
    """Return the median and quartiles of the ratios of wall times, round by round: how many times
    longer `others` take than `times`; and the median ratio of processor times."""
    ratios = np.array(others) / np.array(times)
    low, high = np.percentile(ratios[:, 0], [25, 75])
    return {"wall": round(float(np.median(ratios[:, 0])), 3),
            "quartiles": [round(float(low), 3), round(float(high), 3)],
            "cpu": round(float(np.median(ratios[:, 1])), 3)}


def significant(value, digits=4):
    """Return the value rounded to that many significant digits."""
    return float(f"{float(value):.{digits}g}")
