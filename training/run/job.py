"""What train.py asks of a kind of training before and after the loop runs."""

import argparse
import logging
from pathlib import Path
from typing import Any

import tensorflow as tf

from dnnlib.data.dataset import DatasetInfo
from training.method import Method
from training.method_config import MethodConfig


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
