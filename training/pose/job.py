"""A training of people in other poses as train.py starts it."""

import argparse
import dataclasses
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import tensorflow as tf

from dnnlib import cli
from dnnlib.cli import IdleRule
from dnnlib.data import mirroring
from dnnlib.data.dataset import open_dataset
from dnnlib.suggestions import command
from dnnlib.tflib.distribute import is_chief, replica_rows
from dnnlib.util import UserError
from training.networks_translation import patch_side
from training.pose import body
from training.pose.config import PoseConfig
from training.pose.people import PosePairs
from training.pose.pose import Pose
from training.run.job import Job, measured_time

MAX_EVALUATED = 1000  # pairs of the validation split


class PoseJob(Job):
    """A training of a generator of people in other poses."""

    def __init__(self, config: PoseConfig, options: argparse.Namespace,
                 given: dict[str, Any], num_replicas: int, evaluation: ModuleType):
        """Check everything that would fail later; see StyleGanJob.

        Raises:
            UserError: options do not fit the data, the devices or each other.
        """
        self.options, self.evaluation = options, evaluation
        cli.refuse_idle({name for name in ("init_from", "inception") if getattr(options, name)}, [
            IdleRule(["init_from"], True, "both networks begin anew"),
            IdleRule(["inception"], True, "its scores need no Inception")])
        self.dataset = open_dataset(config.data)
        self._check_people(config)
        self.config = dataclasses.replace(config, resolution=self._resolution(config))
        replica_rows(config.minibatch, num_replicas, 0, 1)
        self.notes = self._notes()

    def _check_people(self, config):
        """Raise UserError if the data set does not know enough of people."""
        info = self.dataset
        if not info.keypoints:
            raise UserError(f"--data: {info.path} has no keypoints; make one with dataset_tool.py "
                            "create_synthetic --keypoints --poses=4, or create_from_coco "
                            "--keypoints --pairs")
        if not info.pairs.get("train"):
            raise UserError(f"--data: {info.path} has no pairs of photos of one person in its "
                            "training split; make it with --pairs, or with --poses")
        missing = body.missing_joints(info.keypoints)
        if config.skips == "deformable" and missing:
            raise UserError(f"--skips=deformable: {info.path} has no keypoint "
                            f"{' or '.join(missing[:2])}, by which parts of the body are known; "
                            "give --skips=plain")

    def _resolution(self, config):
        """Return the side of the photos; raise UserError if data or networks have none such."""
        resolution = config.resolution or self.dataset.resolution
        if resolution > self.dataset.resolution:
            raise UserError(f"--resolution={resolution}: {self.dataset.path} goes up to "
                            f"{self.dataset.resolution}")
        if resolution >> config.halvings < 2:
            raise UserError(f"--halvings={config.halvings}: of {resolution}x{resolution} less than "
                            "2x2 would be left; give fewer")
        if patch_side(resolution, config.d_strides) < 1:
            raise UserError(f"--d-strides={config.d_strides}: at {resolution}x{resolution} no "
                            "patch is left; give fewer")
        return resolution

    def _notes(self):
        """Return lines on the data."""
        c, info = self.config, self.dataset
        side = patch_side(c.resolution, c.d_strides)
        lines = [f"{info.pairs['train']:,} pairs of {info.splits['train']:,} photos with "
                 f"{len(info.keypoints)} keypoints; the discriminator sees {side}x{side} patches"]
        if not info.pairs.get("val"):
            lines.append(f"warning: {info.path} has no pairs in a validation split: the last "
                         "snapshot counts as best")
        alone = mirroring.without_partner(info.keypoints, mirroring.pairs_by_name(info.keypoints))
        if c.mirror and alone:
            lines.append(f"warning: {', '.join(alone)}: keypoints of one side without the other's; "
                         "in mirrored photos they keep their names (--no-mirror mirrors none)")
        return lines

    def facts(self) -> dict[str, Any]:
        """Return what must be equal in all workers."""
        facts = {name: value for name, value in self.config.to_json().items() if name != "data"}
        return {**facts, "gpus": self.options.gpus, "device": self.options.device,
                "tensorflow": tf.__version__, "data's digest": self.dataset.digest}

    def make_method(self, strategy: tf.distribute.Strategy, log: logging.Logger) -> Pose:
        """Return the method; the first worker evaluates it on the validation split."""
        info, evaluate = self.dataset, None
        pairs = shown = PosePairs(info, "train", self.config.resolution)
        if info.pairs.get("val"):
            shown = PosePairs(info, "val", self.config.resolution)
            if is_chief(strategy):
                evaluate = self.evaluation.pose_evaluation(min(len(shown), MAX_EVALUATED))
        about = {"dataset": {"name": info.name, "path": str(info.path), "digest": info.digest}}
        return Pose(self.config, strategy, pairs, shown, about, evaluate)

    def plan(self) -> str:
        """Return what the training would do."""
        c = self.config
        weight = "" if c.reconstruction == "none" else f" (weight {c.weight_of_reconstruction():g})"
        return "\n".join([
            f"{c.skips} skips and critic {c.critic} for {len(self.dataset.keypoints)} keypoints at "
            f"{c.resolution}x{c.resolution}, reconstruction {c.reconstruction}{weight}, "
            f"{c.kimg:g} kimg: {round(c.kimg * 1000 / c.minibatch):,} steps of {c.minibatch}",
            measured_time(self), "nothing was written"])

    def next_commands(self, run_dir: Path) -> str:
        """Return the command that draws the data's people in each other's poses."""
        sizes = self.dataset.splits
        split = next(name for name in ("test", "val", "train") if sizes.get(name))
        place = Path(self.config.data) / split
        return command("generate.py", f"--network={run_dir}", f"--source={place}",
                       f"--poses={place}", f"--num-images={min(sizes[split], 8)}", "--out=posed")
