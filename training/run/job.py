"""What train.py needs from a kind of training before and after the loop runs."""

import argparse
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import tensorflow as tf

from dnnlib import cli
from dnnlib.cli import IdleRule
from dnnlib.data import mirroring
from dnnlib.data.dataset import DatasetInfo
from dnnlib.data.labelled import PairFolder
from dnnlib.tflib.distribute import create_strategy, replica_rows
from dnnlib.util import UserError
from training.method import Method
from training.method_config import MethodConfig
from training.networks_translation import patch_side
from training.run.directory import stored_options
from training.run.plan import expected_time
from training.snapshots import find_snapshot

# Options that name data or networks: paths may differ between machines, digests may not.
PATHS = ("data", "data2", "target", "untagged", "segmenter", "lpips")


class Job:
    """A training before it starts: its options, checked against data and devices.

    Attributes:
        config: with everything set that follows from the data.
        dataset: the data set in config.data.
        options: of the command line. evaluation: the module metrics.evaluation.
        notes: lines that the log and --dry-run begin with.
    """

    config: MethodConfig
    dataset: DatasetInfo
    options: argparse.Namespace
    evaluation: ModuleType
    notes: list[str]

    def facts(self) -> dict[str, Any]:
        """Return what must be equal on all workers, as JSON values."""
        own = {name: value for name, value in self.config.to_json().items() if name not in PATHS}
        return {**own, "gpus": self.options.gpus, "device": self.options.device,
                "tensorflow": tf.__version__, "data's digest": self.dataset.digest,
                **self.digests()}

    def digests(self) -> dict[str, str | None]:
        """Return {'<option>_digest': digest of the file or data that the option names}.

        A continued run must find them unchanged, though paths may differ. data_digest is not
        among them.
        """
        return {}

    def plan(self) -> str:
        """Return what the training would do, as text; with --measure, how long it takes here."""
        raise NotImplementedError

    def make_method(self, strategy: tf.distribute.Strategy, log: logging.Logger) -> Method:
        """Return the Method for the loop to train on the devices of `strategy`."""
        raise NotImplementedError

    def next_commands(self, run_dir: Path) -> str:
        """Return commands that use the trained network."""
        raise NotImplementedError


class SingleStageJob(Job):
    """A training of a SingleStageMethod.

    Attributes:
        given: {field of the config: value} for the options that the user has given.
        share: number of pictures per device in a minibatch.
    """

    idle: ClassVar[dict[str, str]]  # {option of train.py without effect here: why}

    def __init__(self, config: MethodConfig, options: argparse.Namespace, given: dict[str, Any],
                 num_replicas: int, evaluation: ModuleType):
        """Check everything that would fail later; see StyleGanJob."""
        self.options, self.given, self.evaluation = options, given, evaluation
        cli.refuse_idle([name for name in self.idle if getattr(options, name)],
                        [IdleRule([name], True, reason) for name, reason in self.idle.items()])
        self.share = len(replica_rows(config.minibatch, num_replicas, 0, 1))
        self.check(config)

    def check(self, config: MethodConfig) -> None:
        """Set the config, the data set and the notes; raise UserError if options do not fit."""
        raise NotImplementedError

    def subject(self) -> str:
        """Return in a few words what is trained, and for what."""
        raise NotImplementedError

    def plan(self) -> str:
        """Return what the training would do; with --measure, also how long, by timing steps now."""
        c, total = self.config, None
        if self.options.measure:
            strategy = create_strategy(self.options.device, self.options.gpus)
            method = self.make_method(strategy, logging.getLogger("plan"))
            with strategy.scope():
                progress = method.begin()
            stage, seconds = method.stage(progress), []
            while not seconds or sum(seconds[1:]) < 3.0:  # the first one compiles
                began = time.perf_counter()
                scalars = method.step(method.next_batch(stage, progress), stage, 0)
                next(iter(scalars.values())).numpy()  # waits for the device
                seconds.append(time.perf_counter() - began)
            method.close()
            total = c.kimg * 1000 / c.minibatch * sum(seconds[1:]) / len(seconds[1:])
        return (f"{self.subject()}, {c.kimg:g} kimg: {round(c.kimg * 1000 / c.minibatch):,} steps "
                f"of {c.minibatch}\n{expected_time(total)}\nnothing was written")


def fitting_resolution(wanted: int | None, sources: Sequence, least: int = 4) -> int:
    """Return the side of the pictures to train on: `wanted`, or by default the smallest source's.

    Args:
        sources: data sets, folders of photos, or folders of pairs (which are read at any size).

    Raises:
        UserError: it is larger than a source's, or smaller than `least`.
    """
    def largest(source: Any) -> int:
        return source.resolution if isinstance(source, DatasetInfo) else source.largest_level()

    resolution = wanted or min(map(largest, sources))
    for source in sources:
        if not isinstance(source, PairFolder) and resolution > largest(source):
            raise UserError(f"--resolution={resolution}: {source.path} goes up to "
                            f"{largest(source)}")
    if resolution < least:
        raise UserError(f"--resolution={resolution}: {least} at least")
    return resolution


def check_patches(option: str, strides: int, resolution: int, scales: int = 1) -> None:
    """Raise UserError if a discriminator with these strides and scales has no patch at the
    resolution."""
    if patch_side(resolution, strides, scales) < 1:
        size = f"{resolution}x{resolution}" + (f" with --scales={scales}" if scales > 1 else "")
        raise UserError(f"--{option}={strides}: at {size} no patch is left; give fewer")


def chosen_pairs(config: MethodConfig, classes: tuple[str, ...]) -> str:
    """Return the pairs of classes to swap in mirrored images, as text.

    They are those of --mirror-pairs, or by default those that the classes' names show; none if the
    training mirrors nothing.

    Raises:
        UserError: --mirror-pairs names other classes.
    """
    if not config.mirror:
        return mirroring.NONE
    return mirroring.pairs_text(mirroring.parse_pairs(config.mirror_pairs, classes))


def snapshot_to_begin_with(options: argparse.Namespace) -> Path:
    """Return the snapshot of --init-from.

    Raises:
        UserError: there is none; if a run may have begun with it, how to continue without it.
    """
    try:
        return find_snapshot(options.init_from, options.results)
    except UserError as error:
        if stored_options(options.run) is None:
            raise
        raise UserError(f"--init-from: {error}. {options.run} no longer needs it if it began with "
                        f"it: --run={options.run} alone continues it") from None


def about_dataset(info: DatasetInfo) -> dict[str, str]:
    """Return what a snapshot's header says about a data set."""
    return {"name": info.name, "path": str(info.path), "digest": info.digest}


def shown_split(info: DatasetInfo) -> str:
    """Return the split for commands after a training, if possible one that was not trained on."""
    return next(name for name in ("test", "val", "train") if info.splits.get(name))
