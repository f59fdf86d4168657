"""How long a training will take: from a few of its turns, on images of noise."""

import time

import tensorflow as tf

from dnnlib.data.channels import NUM_COLOURS
from training.gan_step import Turn
from training.run.time_left import Pace, turn_cost
from training.schedule import make_stage
from training.state import Progress, new_state

TURNS_SEC = 2.0  # of turns timed at one resolution


def expected_seconds(config, num_classes, first_stage, strategy):
    """Seconds that the training's turns and their compilation will take.

    Turns are timed at the first resolution and at the last one; `Pace` prices all others by their
    multiply-adds. Pictures, snapshots and metrics are not included.

    Args:
        config: TrainingConfig with `resolution` set.
        num_classes: of the data set. first_stage: the stage that the training begins with.
        strategy: of this machine's devices.
    """
    pace = Pace(config, num_classes)
    octaves = (config.resolution // config.initial_resolution).bit_length() - 1
    for lod in sorted({max(octaves, 0), 0}, reverse=True):
        stage = make_stage(config, num_classes, "rgb", lod)
        compile_sec, turn_sec = _timed_turns(config, stage, strategy)
        pace.seen[stage.optimizer_phase] = (turn_cost(config, stage), turn_sec)
        pace.compile_sec = max(pace.compile_sec, compile_sec)
    return pace.left(Progress(first_stage=first_stage, stage=first_stage))[1]


def _timed_turns(config, stage, strategy):
    """(seconds to compile a turn of the RGB stage, seconds of one that is compiled)."""
    with strategy.scope():
        state = new_state(config)
    turn = Turn(strategy, config, state.networks, state.optimizers, stage.critics[0],
                stage.resolution, False, stage.minibatch)
    shape = [stage.minibatch, stage.resolution, stage.resolution, NUM_COLOURS]
    noise = tf.random.stateless_uniform(shape, [0, 0], 0, 256, tf.int32)
    reals = tf.cast(noise, tf.uint8), tf.zeros([stage.minibatch, 0])

    def seconds_of(step):
        began = time.perf_counter()
        turn(reals, step, 0.0, stage.lrate)["Loss/G"].numpy()  # waits for the device
        return time.perf_counter() - began

    # With lazy R1 a turn has two traces, which take turns of their own.
    interval = config.r1_interval
    first = [seconds_of(step) for step in {0, interval - 1}]
    seconds, step = [], 0
    while step < interval or sum(seconds) < TURNS_SEC:
        seconds.append(seconds_of(step))
        step += 1
    turn_sec = sum(seconds) / len(seconds)
    return max(sum(first) - len(first) * turn_sec, 0.0), turn_sec
