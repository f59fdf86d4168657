"""Trainings of StyleGANs in a run directory, and steps on two devices, for tests."""

import numpy as np
import tensorflow as tf

from dnnlib.data.dataset import open_dataset
from dnnlib.tflib.distribute import mirrored_strategy
from training.stylegan import StyleGan
from training.training_loop import Training

ONE_DEVICE = tf.distribute.OneDeviceStrategy("/cpu:0")


def begin(config, run_dir, strategy=ONE_DEVICE, evaluate=None, origin=None, log=None, keep=2):
    """Return a Training that starts in a run directory, or continues there.

    evaluate: function Snapshot -> {metric: value}. origin: file of the snapshot to start from.
    """
    run_dir.mkdir(exist_ok=True)
    method = StyleGan(config, open_dataset(config.data), strategy, evaluate, origin)
    return Training(method, run_dir, strategy, log, keep)


def with_networks(method):
    """Return a method after making its networks, and its initial counters."""
    with method.strategy.scope():
        return method, method.begin()


def run_to_end(method, run_dir):
    """Train a method in a run directory, or continue there; return the Training."""
    run_dir.mkdir(exist_ok=True)
    training = Training(method, run_dir, method.strategy)
    training.run()
    return training


def stop_after(training, step):
    """Make a training stop after a step, as after a request to stop."""
    take_step = training._step

    def step_and_stop(stage):
        take_step(stage)
        if training.progress.step == step:
            training.request_stop()

    training._step = step_and_stop


def assert_two_devices_do_what_one_does(begun):
    """Assert equal reports, networks and copies of variables after two steps on 1 and 2 devices.

    begun: function strategy -> (method, progress).
    """
    found, methods = [], []
    for strategy in (ONE_DEVICE, mirrored_strategy("cpu", 2)):
        method, progress = begun(strategy)
        reports = []
        for number in range(2):
            stage = method.stage(progress)
            reports.append(method.step(method.next_batch(stage, progress), stage, number))
        found.append((method.networks, reports))
        methods.append(method)
    for first, second in zip(found[0][1], found[1][1]):
        for name, value in first.items():
            np.testing.assert_allclose(second[name], value, rtol=2e-3, atol=1e-5, err_msg=name)
    for name, network in found[0][0].items():
        twin = found[1][0][name]
        assert_same_network(network.get_arrays(), twin.get_arrays(), name)
        for variable in twin.vars.values():
            np.testing.assert_array_equal(*[copy.numpy() for copy in variable.values])
    for one, two in zip(*(method.buffers().values() for method in methods)):
        assert_same_buffer(one, two)


def assert_same_network(one, two, name):
    """Assert that the arrays of two networks are equal, to rounding, after a few steps."""
    assert one.keys() == two.keys()
    for key, value in one.items():
        # Adam's first steps are just as long where the gradient is rounding noise.
        differ = np.abs(two[key] - value) > 1e-3 * np.abs(value) + 2e-5
        assert differ.mean() < 0.02, (name, key)


def assert_same_buffer(one, two):
    """Assert that two buffers that a method keeps, such as pictures, are equal."""
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, atol=1e-2, err_msg=name)
