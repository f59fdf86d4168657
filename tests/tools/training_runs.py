"""Trainings of Style-GANs in a run directory, for tests."""

import tensorflow as tf

from dnnlib.data.dataset import open_dataset
from training.stylegan import StyleGan
from training.training_loop import Training

ONE_DEVICE = tf.distribute.OneDeviceStrategy("/cpu:0")


def begin(config, run_dir, strategy=ONE_DEVICE, evaluate=None, origin=None, log=None, keep=2):
    """Return a Training that begins in a run directory, or goes on there.

    evaluate: function Snapshot -> {metric: value}. origin: file of the snapshot to begin with.
    """
    run_dir.mkdir(exist_ok=True)
    method = StyleGan(config, open_dataset(config.data), strategy, evaluate, origin)
    return Training(method, run_dir, strategy, log, keep)


def stop_after(training, step):
    """Have a training stop after a step, as after a request to stop."""
    take_step = training._step

    def step_and_stop(stage):
        take_step(stage)
        if training.progress.step == step:
            training.request_stop()

    training._step = step_and_stop
