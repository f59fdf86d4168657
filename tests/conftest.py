"""Fixtures of all tests: two CPU devices, tiny data and networks, and the reference material."""

import gc
import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as dnnlib.cli.run_main does

import numpy as np
import pytest
import tensorflow as tf

import generate
from dataprep import dataset_report
from dnnlib import cli
from dnnlib.tflib import autosummary
from training.config import TrainingConfig
from training.gan import inspection

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, and would stay so

SHARED = Path(__file__).resolve().parents[2] / "shared"

# Two replicas need two devices, and devices can only be created before the first operation.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)

TINY = dict(resolution=16, fmap_base=64, fmap_max=8, latent_size=8, mapping_layers=2,
            hold_kimg=0.016, fade_kimg=0.016, rgb_kimg=0.064, binary_kimg=0.016,
            classes_kimg=0.032, minibatch={4: 8}, tick_kimg={4: 0.016}, minibatch_repeats=1,
            smoothing_kimg=0.1, network_ticks=1, metrics="none", seed=3)


@pytest.fixture(scope="session")
def shared():
    """Return the path of the reference material; tests that use it are skipped if it is missing."""
    if not SHARED.is_dir():
        pytest.skip("the folder ../shared (reference vectors, real photos) is not on this machine")
    return SHARED


@pytest.fixture
def tiny_config():
    """Return a function (**changes) -> TrainingConfig of networks that train within seconds."""
    return lambda **changes: TrainingConfig(**{**TINY, **changes})


@pytest.fixture(scope="module", autouse=True)
def old_graphs_are_not_searched():
    """TensorFlow keeps every graph with a gradient of our own for good. Python's collector would
    search all of them again and again, for minutes in the end."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def eagerly():
    """Run eagerly: a few steps of a tiny network take less time than their trace. Every step and
    every network also has tests that compile it."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def compiled():
    """Compile, in one test of a module that runs eagerly."""
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(False)
    yield
    tf.config.run_functions_eagerly(before)


@pytest.fixture(scope="session", autouse=True)
def classes_of_few_images():
    """At every tick, count the classes of fewer images: no data set here has more."""
    inspection.CLASS_COUNT_IMAGES = 24


@pytest.fixture(scope="session", autouse=True)
def no_bars_in_reports():
    """Leave the bars out of data sets' reports, which would take longer than the data;
    test_dataset_report_page.py draws them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset_report, "bar_chart", lambda *args: "<svg></svg>")
        yield


@pytest.fixture(autouse=True)
def no_left_over_reports():
    """Keep scalars reported by one test from the next one."""
    autosummary.collect()


@pytest.fixture
def script(monkeypatch, capsys):
    """Return a function that runs generate.py as a script: (exit status, stderr)."""
    def run(*argv):
        monkeypatch.setattr(sys, "argv", ["generate.py", *map(str, argv)])
        with pytest.raises(SystemExit) as leaving:
            cli.run_main(generate.main)
        return leaving.value.code, capsys.readouterr().err
    return run


@pytest.fixture
def rng():
    """Return a seeded NumPy generator."""
    return np.random.default_rng(1234)
