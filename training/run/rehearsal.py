"""Estimate how long a training will take, from a few of its steps on images of noise."""

import time

import tensorflow as tf

from dnnlib import util
from training.config import TrainingConfig
from training.gan.augmentation import typical_augmentation
from training.gan.gan_step import GanStep
from training.gan.init_from import enter_stage, new_state
from training.gan.schedule import Critic, Stage, make_stage, variant_stages
from training.run.plan import stretches

STEPS_SEC = 2.0  # seconds of steps to time for each critic at each resolution


def expected_times(config: TrainingConfig, num_classes: int, first_stage: str,
                   strategy: tf.distribute.Strategy) -> tuple[dict, float]:
    """Time steps of every critic at every resolution, without fading and with an adaptive
    augmentation in the middle of its range.

    Returns:
        {(stage name, resolution): seconds per kimg}, and the seconds that all steps and their
        compilation take, without pictures, snapshots and metrics.
    """
    ahead = stretches(config, num_classes, first_stage)
    rates, compile_sec = {}, {}
    with strategy.scope():
        state = new_state(config)
    places = dict.fromkeys((stage.name, stage.resolution) for *_, stage in ahead)
    for name, resolution in util.progress(places, desc="timing", unit="resolution"):
        octaves = (config.resolution // resolution).bit_length() - 1
        stage = make_stage(config, num_classes, name, float(octaves))
        # The networks grow through the stages in between.
        names = variant_stages(config.variant)
        for between in names[names.index(state.progress.stage) + 1:names.index(name) + 1]:
            with strategy.scope():
                state = enter_stage(state, make_stage(config, num_classes, between), config)
        times = [_timed_steps(config, state, stage, critic, strategy) for critic in stage.critics]
        compile_sec[name, resolution] = sum(compiling for compiling, _ in times)
        step_sec = sum(step for _, step in times) / len(times)
        rates[name, resolution] = step_sec / stage.minibatch * 1000
    # A new resolution is compiled twice: while it fades in, and without the coarser one.
    return rates, sum((end - start) / 1000 * rates[stage.name, stage.resolution]
                      + compile_sec[stage.name, stage.resolution] for start, end, stage in ahead)


def _timed_steps(config, state, stage: Stage, critic: Critic, strategy):
    """Return the seconds that a critic's step takes to compile, and those that it takes to run."""
    with strategy.scope():
        augmentation = typical_augmentation(config)
    gan_step = GanStep(strategy, config, state.networks, state.optimizers, critic,
                       stage.resolution, False, stage.minibatch, augmentation=augmentation)
    shape = [stage.minibatch, stage.resolution, stage.resolution, critic.channels]
    noise = tf.random.stateless_uniform(shape, [0, 0], 0, 256, tf.int32)
    reals = tf.cast(noise, tf.uint8), tf.zeros([stage.minibatch, 0])

    def seconds_of(step: int) -> float:
        began = time.perf_counter()
        gan_step(reals, step, 0.0, stage.lrate)["Loss/G"].numpy()  # waits for the device
        return time.perf_counter() - began

    # With lazy R1 a step has two traces, with the penalty and without.
    interval = config.r1_interval
    first = [seconds_of(step) for step in {0, interval - 1}]
    seconds, step = [], 0
    while step < interval or sum(seconds) < STEPS_SEC:
        seconds.append(seconds_of(step))
        step += 1
    step_sec = sum(seconds) / len(seconds)
    return max(sum(first) - len(first) * step_sec, 0.0), step_sec
