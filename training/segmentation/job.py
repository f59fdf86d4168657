"""A segmentation network's training as train.py starts it."""

import dataclasses
import logging
from pathlib import Path
from typing import ClassVar

import tensorflow as tf

from dnnlib.data import labelled, mirroring
from dnnlib.data.dataset import DatasetInfo
from dnnlib.data.labelled import PairFolder
from dnnlib.suggestions import command, validation_warnings
from dnnlib.tflib.distribute import is_chief
from dnnlib.util import UserError
from training.run.job import SingleStageJob, about_dataset, chosen_pairs, fitting_resolution
from training.segmentation.config import SegmenterConfig
from training.segmentation.segmenter import SegmenterTraining
from training.segmentation.stream import Source, split_minibatch


class SegmenterJob(SingleStageJob):
    """A training of a segmentation network."""

    idle: ClassVar = {"init_from": "a segmentation network begins anew, or with --imagenet",
                      "inception": "its score is mIoU, which needs no Inception"}

    def check(self, config: SegmenterConfig) -> None:
        """Check everything that would fail later; set the config, the data set and notes."""
        self.dataset = labelled.open_labelled(config.data)
        self.second = config.data2 and labelled.open_labelled(config.data2)
        self.classes = tuple(self.dataset.classes)
        if not self.classes:
            raise UserError(f"--data: {config.data} has no segmentation maps to learn from")
        if self.second and tuple(self.second.classes) != self.classes:
            raise UserError(f"--data2: {config.data2} has the classes "
                            f"{', '.join(self.second.classes)}; --data={config.data} "
                            f"{', '.join(self.classes)}")
        self.config = dataclasses.replace(config, resolution=self._resolution(config),
                                          mirror_pairs=chosen_pairs(config, self.classes))
        self.sources = self._sources()
        parts = [f"{source.share} of {len(source.numbers):,} pictures of {source.name}"
                 for source in self.sources]
        self.notes = [f"every minibatch: {' and '.join(parts)}",
                      *validation_warnings(self.dataset.path, len(self._validation() or ()))]
        if self.config.mirror:
            self.notes += mirroring.mirroring_lines(self.config.mirror_pairs, self.classes)

    def _resolution(self, config):
        """Return the side of the pictures to train on; raise UserError if it does not fit the data
        or the network."""
        resolution = fitting_resolution(config.resolution,
                                        [self.dataset, *filter(None, [self.second])])
        least = 32 if config.architecture == "deeplab" else 8
        if resolution < least:
            smaller = "; give --architecture=unet for smaller ones" if least > 8 else ""
            raise UserError(f"--resolution={resolution}: --architecture={config.architecture} "
                            f"takes {least} at least{smaller}")
        return resolution

    def _sources(self):
        """Return the Sources of minibatches; raise UserError if --mix or --num-images does not fit
        them."""
        c, found = self.config, []
        mix = c.mix if self.second else 0.0
        parts = split_minibatch(c.minibatch, mix)
        if 0 < mix < 1 and 0 in parts:
            raise UserError(f"--mix={mix:g}: a minibatch of {c.minibatch} then has none of one "
                            "source; give another share, or a larger --minibatch")
        for info, share, number in zip((self.dataset, self.second), parts, (c.num_images, None)):
            if not share:
                continue
            pictures = labelled.pictures_of(info, "train", c.resolution)
            if number and number > len(pictures):
                raise UserError(f"--num-images={number}: {info.path} has {len(pictures)} training "
                                "pictures")
            found.append(Source(pictures, labelled.choose_numbers(len(pictures), number, c.seed),
                                share, str(info.path)))
        return found

    def _validation(self):
        """Return the validation pictures, None if there are none."""
        if isinstance(self.dataset, PairFolder) or not self.dataset.splits.get("val"):
            return None
        return labelled.pictures_of(self.dataset, "val", self.config.resolution)

    def digests(self) -> dict[str, str | None]:
        """Return the digest of the second source."""
        return {"data2_digest": self.second and self.second.digest}

    def make_method(self, strategy: tf.distribute.Strategy,
                    log: logging.Logger) -> SegmenterTraining:
        """Return the method; the first worker evaluates it on the validation split."""
        validation, evaluate = self._validation(), None
        if validation and is_chief(strategy):
            evaluate = self.evaluation.segmenter_evaluation(validation, self.config.minibatch)
        about = {"dataset": about_dataset(self.dataset),
                 "dataset2": self.second and {"path": str(self.second.path),
                                              "digest": self.second.digest},
                 "num_pictures": [len(source.numbers) for source in self.sources]}
        return SegmenterTraining(self.config, self.classes, self.sources, about, strategy,
                                 validation or self.sources[0].pictures, evaluate, log.info)

    def subject(self) -> str:
        """Return in a few words what is trained, and for what."""
        c = self.config
        return f"{c.architecture} for {len(self.classes)} classes at {c.resolution}x{c.resolution}"

    def next_commands(self, run_dir: Path) -> str:
        """Return commands that label photos and measure the network."""
        network = f"--network={run_dir}"
        commands = [command("generate.py", network, "--source=photos", "--out=maps")]
        splits = self.dataset.splits if isinstance(self.dataset, DatasetInfo) else {}
        split = next((name for name in ("test", "val") if splits.get(name)), None)
        if split:
            commands.append(command("run_metrics.py", network, "--metrics=miou",
                                    f"--split={split}"))
        return "; ".join(commands)
