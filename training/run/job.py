"""What train.py asks of a kind of training before and after the loop runs."""

import argparse
import logging
import time
from pathlib import Path
from typing import Any

import tensorflow as tf

from dnnlib import util
from dnnlib.data.dataset import DatasetInfo
from dnnlib.tflib.distribute import create_strategy
from training.method import Method
from training.method_config import MethodConfig

_TIMED_SEC = 3.0  # of steps for --measure


class Job:
    """A training to be: its options, checked against data and devices.

    Attributes:
        config: with everything set that follows from the data.
        dataset: what config.data holds.
        options: of the command line.
        notes: lines that the log and --dry-run begin with.
    """

    config: MethodConfig
    dataset: DatasetInfo
    options: argparse.Namespace
    notes: list[str]

    def facts(self) -> dict[str, Any]:
        """Return what must be equal in all workers, as JSON values."""
        raise NotImplementedError

    def digests(self) -> dict[str, str | None]:
        """Return {'<option>_digest': digest of what it names} beside data_digest: a continued run
        must find the same, wherever it is."""
        return {}

    def plan(self) -> str:
        """Return what the training would do, as text; with --measure how long it takes here."""
        raise NotImplementedError

    def make_method(self, strategy: tf.distribute.Strategy, log: logging.Logger) -> Method:
        """Return the method, as what the loop trains on the devices of `strategy`."""
        raise NotImplementedError

    def next_commands(self, run_dir: Path) -> str:
        """Return commands that use the trained network."""
        raise NotImplementedError


def measured_time(job: Job) -> str:
    """Return a line on how long a training of one stage takes; with --measure by steps timed now.

    Args:
        job: its method has one stage, and its config `kimg` and `minibatch`.
    """
    if not job.options.measure:
        return "time is not known: --measure times some steps on this machine"
    strategy = create_strategy(job.options.device, job.options.gpus)
    method = job.make_method(strategy, logging.getLogger("plan"))
    with strategy.scope():
        progress = method.begin()
    stage, seconds = method.stage(progress), []
    while not seconds or sum(seconds[1:]) < _TIMED_SEC:  # the first one compiles
        began = time.perf_counter()
        scalars = method.step(method.next_batch(stage, progress), stage, 0)
        next(iter(scalars.values())).numpy()  # waits for the device
        seconds.append(time.perf_counter() - began)
    method.close()
    steps = job.config.kimg * 1000 / job.config.minibatch
    total = steps * sum(seconds[1:]) / len(seconds[1:])
    return (f"on this machine the training will take about {util.format_time(total)}, by steps "
            "timed just now; evaluations come on top")
