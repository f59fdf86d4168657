"""A training of photos from maps as train.py starts it."""

import dataclasses
import logging
from pathlib import Path
from typing import ClassVar

import tensorflow as tf

from dnnlib import cli
from dnnlib.cli import IdleRule
from dnnlib.data import mirroring
from dnnlib.data.dataset import open_dataset, open_split, read_fit
from dnnlib.suggestions import command, validation_warnings
from dnnlib.tflib.distribute import is_chief
from dnnlib.tflib.vgg16_weights import DIGEST, cached_file, find_weights
from dnnlib.util import UserError, arrays_digest
from training.networks_translation import patch_side
from training.run.job import (
    SingleStageJob,
    about_dataset,
    check_patches,
    chosen_pairs,
    fitting_resolution,
    shown_split,
)
from training.translation.config import Pix2PixConfig, reconstruction_text
from training.translation.pix2pix import Pix2Pix

MIN_RESOLUTION = 16  # below it, the U-Net lacks three blocks for dropout


class Pix2PixJob(SingleStageJob):
    """A training of a generator of photos from maps."""

    idle: ClassVar = {"init_from": "both networks begin anew"}

    def check(self, config: Pix2PixConfig) -> None:
        """Check everything that would fail later; set the config, the data set and notes."""
        self.metrics = self.evaluation.translation_metrics(config.metrics, config.segmenter,
                                                           self.options.inception)
        self.dataset = open_dataset(config.data)
        self.classes = tuple(self.dataset.classes)
        if not self.classes:
            raise UserError(f"--data: {config.data} has no segmentation maps to draw photos from")
        resolution = fitting_resolution(config.resolution, [self.dataset], MIN_RESOLUTION)
        check_patches("d-strides", config.d_strides, resolution, config.scales)
        self.config = dataclasses.replace(config, resolution=resolution,
                                          mirror_pairs=chosen_pairs(config, self.classes))
        if self.dataset.splits.get("val"):
            self.evaluation.metrics_of_val(self.metrics, self.dataset.splits)
        else:
            # Options that are only for measuring.
            idle = {"patience": config.patience,
                    "metrics": self.given.get("metrics", "none") != "none",
                    "segmenter": config.segmenter and config.reconstruction != "semantic"}
            cli.refuse_idle({name for name, is_idle in idle.items() if is_idle}, [
                IdleRule(list(idle), True,
                         f"{config.data} has no validation photos to measure snapshots by")])
        self.labeller = self.evaluation.training_labeller(
            config.segmenter, self.options.results, self.dataset, resolution)
        self.vgg, self.vgg_digest = self._find_vgg()
        self.notes = self._notes()

    def _find_vgg(self):
        """Return VGG16's arrays for --reconstruction=vgg, and the digest of the weights of VGG16
        and LPIPS; None for what is not used. A plan fetches nothing, since the digest of what would
        be fetched is known."""
        c = self.config
        compares = c.reconstruction == "vgg"
        if not compares and not any("lpips" in metric.measures for metric in self.metrics):
            return None, None
        if self.options.dry_run and not c.lpips and not cached_file().is_file():
            return None, DIGEST
        arrays, _ = find_weights(c.lpips)
        return arrays if compares else None, arrays_digest(arrays)

    def _notes(self):
        """Return lines about the data."""
        c, sizes = self.config, self.dataset.splits
        side = patch_side(c.resolution, c.d_strides)
        lines = [f"{sizes['train']:,} photos with maps of {len(self.classes)} classes; the "
                 f"discriminator scores {side}x{side} patches"]
        lines += validation_warnings(self.dataset.path, sizes.get("val", 0))
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
        if c.reconstruction == "vgg" and vgg is None:  # --dry-run --measure
            vgg = find_weights(c.lpips)[0]
        split = "val" if self.dataset.splits.get("val") else "train"
        shown = open_split(self.dataset, split, c.resolution)
        if split == "val" and is_chief(strategy):
            evaluate = self.evaluation.translation_evaluation(
                self.metrics, self.dataset, c.resolution, labeller=self.labeller,
                weights=self.options.inception, lpips_weights=c.lpips, log=log.info)
        about = {"dataset": about_dataset(self.dataset), "fit": read_fit(self.dataset.path),
                 "segmenter": self.labeller and {"path": str(self.labeller.path),
                                                 "digest": self.labeller.digest},
                 "vgg": vgg and self.vgg_digest}
        return Pix2Pix(c, self.classes, strategy, shown, about,
                       self.labeller and self.labeller.path, evaluate, vgg)

    def subject(self) -> str:
        """Return in a few words what is trained, and for what."""
        c = self.config
        return (f"{c.generator} and critic {c.critic} for {len(self.classes)} classes at "
                f"{c.resolution}x{c.resolution}, {reconstruction_text(c)}")

    def next_commands(self, run_dir: Path) -> str:
        """Return commands that draw photos from the data's maps, and measure them."""
        split, network = shown_split(self.dataset), f"--network={run_dir}"
        draw = command("generate.py", network, f"--maps={Path(self.config.data) / split}",
                       "--out=photos")
        measure = command("run_metrics.py", network, "--metrics=kid1k,lpips",
                          *([] if split == "test" else [f"--split={split}"]))
        return f"{draw}; {measure}"
