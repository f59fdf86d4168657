"""Style-GAN's trainings as train.py starts them: options that fit the data, notes, the plan."""

import argparse
import dataclasses
import logging
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import tensorflow as tf

from dnnlib import cli
from dnnlib.data.dataset import DatasetInfo, open_dataset, photos_in_common
from dnnlib.data.mirroring import mirroring_lines
from dnnlib.suggestions import command, few_validation, suggested_preset
from dnnlib.tflib.distribute import create_strategy, is_chief
from dnnlib.util import UserError
from training.config import TrainingConfig
from training.gan.balance import balance_line, classes_shown, photo_factors
from training.gan.init_from import check_start, first_stage_after, take_network_options
from training.gan.snapshot_score import needed_metrics, selects_any
from training.method_config import as_option, by_resolution
from training.run.config_checks import fit_to_dataset, fitting_command, idle_rules
from training.run.job import Job, snapshot_to_begin_with
from training.run.plan import describe_plan
from training.run.rehearsal import expected_times
from training.snapshots import read_header
from training.state import newest_progress
from training.stylegan import StyleGan

FID_REALS = 2048  # features per photo: with fewer reals, FID is far from the value it estimates


class StyleGanJob(Job):
    """A training of Style-GAN or one of its variants."""

    def __init__(self, config: TrainingConfig, options: argparse.Namespace, given: dict[str, Any],
                 num_replicas: int, evaluation: ModuleType):
        """Check everything that would fail later.

        Args:
            given: {field: value} for the options that the user has given.
            num_replicas: number of devices of all workers together.
            evaluation: the module metrics.evaluation.

        Raises:
            UserError: options do not fit the data set, the devices, the snapshot or each other.
        """
        self.options, self.num_replicas, self.evaluation = options, num_replicas, evaluation
        evaluation.training_metrics(config.metrics, options.inception, config.segmenter)  # raises
        # The networks to begin with: those of the continued run, of a snapshot, or fresh ones.
        self.origin, self.header, self.first_stage, taken = None, None, "rgb", {}
        begun = newest_progress(options.run) if options.continues else None
        if begun:
            self.first_stage = begun.first_stage
        elif options.init_from:
            self.origin = snapshot_to_begin_with(options)
            self.header = read_header(self.origin)
            if self.header["networks"].get("G", {}).get("type") != "G_style":
                raise UserError(f"--init-from: {self.origin} is a snapshot of --variant="
                                f"{self.header.get('variant')}, which holds no G to continue with")
            config, taken = take_network_options(self.header, config, given)
            self.first_stage = first_stage_after(self.header, config)
        grows = config.initial_resolution < (config.resolution or 0)  # unset in fresh trainings
        cli.refuse_idle(given, idle_rules(config.variant, self.first_stage,
                                          self.header and self.header["stage"], grows))
        # The data set, and metrics that fit it: the requested ones, and those that select
        # snapshots.
        self.dataset = open_dataset(config.data)
        if "metrics" not in given and not options.continues:
            metrics = fitting_metrics(config.metrics, self.dataset)
            config = dataclasses.replace(config, metrics=metrics)
        needed = [] if config.metrics == "none" else needed_metrics(config.metrics,
                                                                    config.select_by)
        if evaluation.needs_validation(evaluation.training_metrics(
                ",".join(needed) or "none", None, config.segmenter)) \
                and not self.dataset.splits.get("val"):
            raise UserError(f"--select-by={config.select_by}: {', '.join(needed)} compare with the "
                            f"validation split, and {self.dataset.path} has none; give "
                            f"--metrics={fitting_metrics(config.metrics, self.dataset)}")
        config = dataclasses.replace(config, metrics=",".join([config.metrics, *needed]))
        self.config = fit_to_dataset(config, self.dataset, num_replicas, self.first_stage, taken)
        if self.header:
            check_start(self.header, self.config, self.dataset.classes, self.dataset.label_size)
        metrics = evaluation.training_metrics(self.config.metrics, None, config.segmenter)
        self.labeller = evaluation.training_labeller(config.segmenter, options.results,
                                                     self.dataset, self.config.resolution)
        self.notes = start_notes(self.config, self.dataset, options, self.header, taken,
                                 evaluation.needs_validation(metrics))
        self.notes += evaluation.labeller_warnings(metrics, self.labeller, self.dataset)

    def facts(self) -> dict[str, Any]:
        """Return what must be equal on all workers; paths may differ between machines."""
        return {**super().facts(), "images": self.dataset.splits,
                "init_from's digest": self.header and self.header["digest"]}

    def digests(self) -> dict[str, str | None]:
        """Return the digests of the untagged photos and of the segmentation network that selects
        snapshots."""
        untagged = self.config.untagged and open_dataset(self.config.untagged).digest
        return {"untagged_digest": untagged,
                "segmenter_digest": self.labeller and self.labeller.digest}

    def plan(self) -> str:
        """Return a line for every stretch, then files and memory; with --measure, also times."""
        times = ()
        if self.options.measure:
            strategy = create_strategy(self.options.device, self.options.gpus)
            times = expected_times(self.config, len(self.dataset.classes), self.first_stage,
                                   strategy)
        return describe_plan(self.config, self.dataset, self.first_stage, self.num_replicas,
                             self.options.keep, *times)

    def make_method(self, strategy: tf.distribute.Strategy, log: logging.Logger) -> StyleGan:
        """Return the StyleGan; the first worker evaluates it on the validation split."""
        config, evaluate = self.config, None
        if is_chief(strategy):
            evaluate = self.evaluation.training_evaluation(
                self.evaluation.training_metrics(config.metrics, None, config.segmenter),
                self.dataset, resolution=config.resolution,
                minibatch=by_resolution(config.minibatch, config.resolution), seed=config.seed,
                weights=self.options.inception, log=log.info, labeller=self.labeller)
        return StyleGan(config, self.dataset, strategy, evaluate, self.origin)

    def next_commands(self, run_dir: Path) -> str:
        """Return commands that make pictures and pairs and compute a metric that suits the test
        split's size."""
        network, dataset = f"--network={run_dir}", self.dataset
        label = ["--label=0"] if dataset.label_size else []
        test, metric = dataset.splits.get("test", 0), "fid50k"
        if test < FID_REALS:
            metric = "kid1k_trainval" if few_validation(test) else "kid1k"
        commands = [command("generate.py", network, "--seeds=0-35", *label)]
        if self.config.variant != "rgb":
            commands.append(command("generate.py", network, f"--num={dataset.splits['train']}",
                                    *label))
        return "; ".join([*commands, command("run_metrics.py", network, f"--metrics={metric}")])


def fitting_metrics(names: str, dataset: DatasetInfo) -> str:
    """Return the metrics of a preset, or another if the validation split is too small for them.

    The other metric is KID of as many fakes against training and validation images together.
    """
    if names == "none" or not few_validation(dataset.splits.get("val", 0)):
        return names
    return "kid{}_trainval".format(re.match(r"[a-z]+(\d+k?)", names)[1])


def start_notes(config: TrainingConfig, dataset: DatasetInfo, options: argparse.Namespace,
                header: dict[str, Any] | None, taken: dict[str, Any],
                needs_validation: bool) -> list[str]:
    """Return the lines that a training's log and --dry-run begin with.

    Args:
        header: of the snapshot of --init-from. taken: {option: value} from it.
        needs_validation: whether one of the metrics compares with the validation split alone.
    """
    lines, photos, val = [], dataset.splits["train"], dataset.splits.get("val", 0)
    if taken:
        lines.append("from the snapshot of --init-from: "
                     + " ".join(as_option(name, value) for name, value in taken.items()))
    if header and header["stage"] != "rgb":  # then its critics have seen maps
        # Earlier versions, which stored no such option, had no tanh.
        before = header.get("training", {}).get("map_contrast", 0.0)
        if before != config.map_contrast:
            lines.append(f"--map-contrast={config.map_contrast:g}: the critics of --init-from have "
                         f"seen maps with --map-contrast={before:g}, and have to adapt")
    if options.preset == TrainingConfig.default_preset and not options.init_from \
            and options.preset != suggested_preset(photos, dataset.resolution):
        lines.append(f"--preset={options.preset} is for more than {photos:,} training images of "
                     f"{dataset.resolution}x{dataset.resolution}; what fits them: "
                     f"{fitting_command(dataset)}")
    if config.untagged and not options.continues:
        untagged = open_dataset(config.untagged)
        for split, shared in photos_in_common(dataset, ("test", "val"), untagged).items():
            lines.append(f"warning: --untagged={config.untagged}: {shared} of its photos are in "
                         f"the {split} split of {dataset.path}, so metrics on that split will look "
                         "too good; leave them out")
    if config.variant != "rgb" and config.mirror:
        lines += mirroring_lines(config.mirror_pairs, dataset.classes)
    if config.balance:
        shown = classes_shown(config.data, "train", config.resolution)
        lines.append(balance_line(dataset.classes, shown, photo_factors(shown, config.balance)))
    if config.metrics != "none" and not selects_any(config.metrics, config.select_by):
        lines.append(f"no metric of --metrics={config.metrics} selects a best snapshot: the newest "
                     "counts as the best; fidNk or kidNk would select one")
    few = few_validation(val)
    if few and needs_validation:
        lines.append(f"warning: {few}, and --metrics={config.metrics} compares with them; "
                     f"{fitting_metrics(config.metrics, dataset)} takes the training images too")
    elif few and "_trainval" in config.metrics:
        lines.append(f"warning: {few}; {config.metrics.partition(',')[0]} compares with "
                     f"all {photos + val:,} training and validation images")
    return lines
