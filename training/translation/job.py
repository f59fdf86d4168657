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
from dnnlib.tflib.vgg16_weights import DIGEST, cached_file, find_weights
from dnnlib.util import UserError, arrays_digest
from training.networks_translation import patch_side
from training.translation.conditional_job import ConditionalJob
from training.translation.config import Pix2PixConfig
from training.translation.pix2pix import Pix2Pix

MIN_RESOLUTION = 16  # below, the U-Net has no three blocks to drop of


class Pix2PixJob(ConditionalJob):
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
        self._check_evaluation(given)
        self.labeller = evaluation.training_labeller(
            config.segmenter, options.results, self.dataset, self.config.resolution)
        self.vgg, self.vgg_digest = self._find_vgg()
        self.notes = self._notes()

    def _resolution(self, config):
        """Return the side of the photos; raise UserError if data or networks have none such."""
        resolution = self.side_of(config)
        if resolution < MIN_RESOLUTION:
            raise UserError(f"--resolution={resolution}: {MIN_RESOLUTION} at least")
        self.check_patches(config, resolution, config.scales)
        return resolution

    def _check_evaluation(self, given):
        """Raise UserError for metrics of more photos than the validation split has, and without
        one for options that are for measuring alone."""
        c = self.config
        if self.dataset.splits.get("val"):
            self.evaluation.metrics_of_val(self.metrics, self.dataset.splits)
            return
        idle = {"patience": c.patience, "metrics": given.get("metrics", "none") != "none",
                "segmenter": c.segmenter and c.reconstruction != "semantic"}
        cli.refuse_idle({name for name, is_idle in idle.items() if is_idle}, [
            IdleRule(list(idle), True,
                     f"{c.data} has no validation photos to measure snapshots by")])

    def _find_vgg(self):
        """Return VGG16's arrays for --reconstruction=vgg, and the digest of the weights of VGG16
        and LPIPS; None of what is not used. A plan fetches nothing: the digest of what would be
        fetched is known."""
        c = self.config
        compares = c.reconstruction == "vgg"
        if not compares and not any("lpips" in metric.measures for metric in self.metrics):
            return None, None
        if self.options.dry_run and not c.lpips and not cached_file().is_file():
            return None, DIGEST
        arrays, _ = find_weights(c.lpips)
        return arrays if compares else None, arrays_digest(arrays)

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

    def digests(self) -> dict[str, str | None]:
        """Return the digests of the segmentation network and of the weights of VGG16 and LPIPS."""
        return {"segmenter_digest": self.labeller and self.labeller.digest,
                "lpips_digest": self.vgg_digest}

    def make_method(self, strategy: tf.distribute.Strategy, log: logging.Logger) -> Pix2Pix:
        """Return the method; the first worker evaluates it on the validation split."""
        c, vgg, evaluate = self.config, self.vgg, None
        if c.reconstruction == "vgg" and vgg is None:  # of a plan that takes the time
            vgg = find_weights(c.lpips)[0]
        split = "val" if self.dataset.splits.get("val") else "train"
        shown = open_split(self.dataset, split, c.resolution)
        if split == "val" and is_chief(strategy):
            evaluate = self.evaluation.translation_evaluation(
                self.metrics, self.dataset, c.resolution, labeller=self.labeller,
                weights=self.options.inception, lpips_weights=c.lpips, log=log.info)
        about = {"dataset": self.about_dataset(),
                 "segmenter": self.labeller and {"path": str(self.labeller.path),
                                                 "digest": self.labeller.digest},
                 "vgg": vgg and self.vgg_digest}
        return Pix2Pix(c, self.classes, strategy, shown, about,
                       self.labeller and self.labeller.path, evaluate, vgg)

    def subject(self) -> str:
        """Return what is trained, and for what, in a few words."""
        return (f"{self.config.generator} and critic {self.config.critic} for {len(self.classes)} "
                "classes")

    def next_commands(self, run_dir: Path) -> str:
        """Return the commands that draw photos of the data's maps, and measure them."""
        split = next(name for name in ("test", "val", "train") if self.dataset.splits.get(name))
        network = f"--network={run_dir}"
        draw = command("generate.py", network, f"--maps={Path(self.config.data) / split}",
                       "--out=photos")
        return f"{draw}; " + command("run_metrics.py", network, "--metrics=kid1k,lpips",
                                     *([] if split == "test" else [f"--split={split}"]))
