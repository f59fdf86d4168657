"""A training of people in other poses as train.py starts it."""

import dataclasses
import logging
from pathlib import Path
from typing import ClassVar

import tensorflow as tf

from dnnlib.data import mirroring
from dnnlib.data.dataset import open_dataset, read_fit
from dnnlib.data.labelled import choose_numbers
from dnnlib.suggestions import command
from dnnlib.tflib.distribute import is_chief
from dnnlib.util import UserError
from training.networks_translation import patch_side
from training.pose import body
from training.pose.config import PoseConfig
from training.pose.people import PosePairs
from training.pose.pose import Pose
from training.run.job import (
    SingleStageJob,
    about_dataset,
    check_patches,
    fitting_resolution,
    shown_split,
)
from training.translation.config import reconstruction_text

MIN_RESOLUTION = 16  # below it, a keypoint's heatmap has about one pixel
MAX_EVALUATED = 1000  # largest number of the validation split's pairs to evaluate


class PoseJob(SingleStageJob):
    """A training of a generator of people in other poses."""

    idle: ClassVar = {"init_from": "both networks begin anew",
                      "inception": "its scores need no Inception"}

    def check(self, config: PoseConfig) -> None:
        """Check everything that would fail later; set the config, the data set and notes."""
        self.dataset = open_dataset(config.data)
        self._check_people(config)
        if config.patience and not self.dataset.pairs.get("val"):
            raise UserError(f"--patience: without effect: {config.data} has no validation pairs to "
                            "measure snapshots by; leave it out")
        resolution = fitting_resolution(config.resolution, [self.dataset], MIN_RESOLUTION)
        if resolution >> config.halvings < 2:
            raise UserError(f"--halvings={config.halvings}: {resolution}x{resolution} would shrink "
                            "to less than 2x2; give fewer")
        check_patches("d-strides", config.d_strides, resolution)
        self.config = dataclasses.replace(config, resolution=resolution)
        self.notes = self._notes()

    def _check_people(self, config):
        """Raise UserError if the data set lacks keypoints or pairs that the training needs."""
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
                            f"{' or '.join(missing[:2])}, needed to find parts of the body; give "
                            "--skips=plain")

    def _notes(self):
        """Return lines about the data."""
        c, info = self.config, self.dataset
        side = patch_side(c.resolution, c.d_strides)
        lines = [f"{info.pairs['train']:,} pairs of {info.splits['train']:,} photos with "
                 f"{len(info.keypoints)} keypoints; the discriminator scores {side}x{side} patches"]
        if not info.pairs.get("val"):
            lines.append(f"warning: {info.path} has no pairs in a validation split: the last "
                         "snapshot counts as best")
        pairs = mirroring.pairs_by_name(info.keypoints)
        alone = mirroring.without_partner(info.keypoints, pairs)
        kept = "in mirrored photos they keep their names (--no-mirror mirrors none)"
        if c.mirror and alone:
            lines.append(f"warning: {', '.join(alone)}: keypoints of one side without the other "
                         f"side's; {kept}")
        elif c.mirror and not pairs:
            lines.append(f"warning: no keypoints are named left and right; {kept}")
        return lines

    def make_method(self, strategy: tf.distribute.Strategy, log: logging.Logger) -> Pose:
        """Return the method; the first worker evaluates it on the validation split."""
        info, evaluate = self.dataset, None
        pairs = shown = PosePairs(info, "train", self.config.resolution)
        if info.pairs.get("val"):
            shown = PosePairs(info, "val", self.config.resolution)
            if is_chief(strategy):
                evaluate = self.evaluation.pose_evaluation(
                    choose_numbers(len(shown), MAX_EVALUATED, self.config.seed))
        about = {"dataset": about_dataset(info), "fit": read_fit(info.path)}
        return Pose(self.config, strategy, pairs, shown, about, evaluate)

    def subject(self) -> str:
        """Return in a few words what is trained, and for what."""
        c = self.config
        return (f"{c.skips} skips and critic {c.critic} for {len(self.dataset.keypoints)} "
                f"keypoints at {c.resolution}x{c.resolution}, {reconstruction_text(c)}")

    def next_commands(self, run_dir: Path) -> str:
        """Return commands that draw the data's people in each other's poses, and measure them."""
        split, network = shown_split(self.dataset), f"--network={run_dir}"
        place, count = Path(self.config.data) / split, min(self.dataset.splits[split], 8)
        draw = command("generate.py", network, f"--source={place}", f"--poses={place}",
                       f"--num-images={count}", "--out=posed")
        measured = next(name for name in ("test", "val", "train") if self.dataset.pairs.get(name))
        measure = command("run_metrics.py", network, "--metrics=kid1k,lpips",
                          *([] if measured == "test" else [f"--split={measured}"]))
        return f"{draw}; {measure}"
