"""A training of photos of maps as train.py starts it."""

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
from dnnlib.data.dataset import open_dataset, open_split
from dnnlib.suggestions import command
from dnnlib.tflib.distribute import is_chief, replica_rows
from dnnlib.tflib.vgg16_weights import find_weights
from dnnlib.util import UserError, arrays_digest
from training.networks_translation import patch_side
from training.run.job import Job, measured_time
from training.translation.config import Pix2PixConfig
from training.translation.pix2pix import Pix2Pix

MIN_RESOLUTION = 16  # below, the U-Net has no three blocks to drop of


class Pix2PixJob(Job):
    """A training of a generator of photos from maps."""

    def __init__(self, config: Pix2PixConfig, options: argparse.Namespace,
                 given: dict[str, Any], num_replicas: int, evaluation: ModuleType):
        """Check everything that would fail later; see StyleGanJob.

        Raises:
            UserError: options do not fit the data, the segmentation network, the devices or each
                other.
        """
        self.options, self.evaluation = options, evaluation
        cli.refuse_idle({"init_from"} if options.init_from else set(), [
            IdleRule(["init_from"], True, "both networks begin anew")])
        self.metrics = evaluation.translation_metrics(config.metrics, config.segmenter,
                                                      options.inception)
        self.dataset = open_dataset(config.data)
        self.classes = tuple(self.dataset.classes)
        if not self.classes:
            raise UserError(f"--data: {config.data} has no segmentation maps to draw photos of")
        pairs = mirroring.NONE
        if config.mirror:
            pairs = mirroring.pairs_text(mirroring.parse_pairs(config.mirror_pairs, self.classes))
        self.config = dataclasses.replace(config, mirror_pairs=pairs,
                                          resolution=self._resolution(config))
        replica_rows(config.minibatch, num_replicas, 0, 1)
        if not self.dataset.splits.get("val"):
            cli.refuse_idle({name for name, idle in (
                ("patience", config.patience),
                ("segmenter", config.segmenter and config.reconstruction != "semantic")) if idle}, [
                IdleRule(["patience", "segmenter"], True,
                         f"{config.data} has no validation photos to measure snapshots by")])
        self.labeller = evaluation.training_labeller(
            config.segmenter, options.results, self.dataset, self.config.resolution)
        self.vgg = find_weights(config.lpips)[0] if config.reconstruction == "vgg" else None
        self.notes = self._notes()

    def _resolution(self, config):
        """Return the side of the photos; raise UserError if data or networks have none such."""
        resolution = config.resolution or self.dataset.resolution
        if resolution > self.dataset.resolution:
            raise UserError(f"--resolution={resolution}: {self.dataset.path} goes up to "
                            f"{self.dataset.resolution}")
        if resolution < MIN_RESOLUTION:
            raise UserError(f"--resolution={resolution}: {MIN_RESOLUTION} at least")
        if patch_side(resolution, config.d_strides, config.scales) < 1:
            raise UserError(f"--d-strides={config.d_strides}: at {resolution}x{resolution} with "
                            f"--scales={config.scales} no patch is left; give fewer")
        return resolution

    def _notes(self):
        """Return lines on the data."""
        c, sizes = self.config, self.dataset.splits
        side = patch_side(c.resolution, c.d_strides)
        lines = [f"{sizes['train']:,} photos with maps of {len(self.classes)} classes; the "
                 f"discriminator sees {side}x{side} patches"]
        if not sizes.get("val"):
            lines.append(f"warning: {self.dataset.path} has no validation split: the last snapshot "
                         "counts as best")
        if c.mirror:
            lines += mirroring.mirroring_lines(c.mirror_pairs, self.classes)
        return lines

    def facts(self) -> dict[str, Any]:
        """Return what must be equal in all workers."""
        facts = {name: value for name, value in self.config.to_json().items()
                 if name not in ("data", "segmenter", "lpips")}
        return {**facts, "gpus": self.options.gpus, "device": self.options.device,
                "tensorflow": tf.__version__, "data's digest": self.dataset.digest,
                **self.digests()}

    def digests(self) -> dict[str, str | None]:
        """Return the digests of the segmentation network and of VGG16."""
        return {"segmenter_digest": self.labeller and self.labeller.digest,
                "lpips_digest": self.vgg and arrays_digest(self.vgg)}

    def make_method(self, strategy: tf.distribute.Strategy, log: logging.Logger) -> Pix2Pix:
        """Return the method; the first worker evaluates it on the validation split."""
        c, evaluate = self.config, None
        split = "val" if self.dataset.splits.get("val") else "train"
        shown = open_split(self.dataset, split, c.resolution)
        if split == "val" and is_chief(strategy):
            evaluate = self.evaluation.translation_evaluation(
                self.metrics, self.dataset, c.resolution, labeller=self.labeller,
                weights=self.options.inception, lpips_weights=c.lpips, log=log.info)
        about = {"dataset": {"name": self.dataset.name, "path": str(self.dataset.path),
                             "digest": self.dataset.digest},
                 "segmenter": self.labeller and {"path": str(self.labeller.path),
                                                 "digest": self.labeller.digest},
                 "vgg": self.digests()["lpips_digest"]}
        return Pix2Pix(c, self.classes, strategy, shown, about,
                       self.labeller and self.labeller.path, evaluate, self.vgg)

    def plan(self) -> str:
        """Return what the training would do."""
        c = self.config
        weight = "" if c.reconstruction == "none" else f" (weight {c.weight_of_reconstruction():g})"
        return "\n".join([
            f"{c.generator} and critic {c.critic} for {len(self.classes)} classes at "
            f"{c.resolution}x{c.resolution}, reconstruction {c.reconstruction}{weight}, "
            f"{c.kimg:g} kimg: {round(c.kimg * 1000 / c.minibatch):,} steps of {c.minibatch}",
            measured_time(self), "nothing was written"])

    def next_commands(self, run_dir: Path) -> str:
        """Return the commands that draw photos of the data's maps, and measure them."""
        split = next(name for name in ("test", "val", "train") if self.dataset.splits.get(name))
        network = f"--network={run_dir}"
        draw = command("generate.py", network, f"--maps={Path(self.config.data) / split}",
                       "--out=photos")
        return f"{draw}; " + command("run_metrics.py", network, "--metrics=kid1k,lpips",
                                     *([] if split == "test" else [f"--split={split}"]))
