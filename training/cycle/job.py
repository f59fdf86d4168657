"""A CycleGAN's training as train.py starts it."""

import dataclasses
import logging
from pathlib import Path
from typing import ClassVar

import tensorflow as tf

from dnnlib.data.dataset import DatasetInfo
from dnnlib.data.labelled import IMAGES, PairFolder, pair_folders
from dnnlib.suggestions import command, did_you_mean
from dnnlib.util import UserError
from training.cycle.config import MIN_RESOLUTION, CycleConfig
from training.cycle.cyclegan import CycleTraining
from training.cycle.domains import Domain, open_list
from training.run.job import SingleStageJob, check_patches, fitting_resolution


class CycleJob(SingleStageJob):
    """A training of generators between two lists of photos."""

    idle: ClassVar = {"init_from": "all networks begin anew",
                      "inception": "no score selects a snapshot: the last one counts as best"}

    def check(self, config: CycleConfig) -> None:
        """Check everything that would fail later; set the config, the data set and notes."""
        if not config.target:
            raise UserError("--target: missing: the photos that those of --data are translated to")
        self.dataset, self.target = open_list(config.data), open_list(config.target)
        resolution = fitting_resolution(config.resolution, [self.dataset, self.target],
                                        MIN_RESOLUTION)
        check_patches("strides", config.strides, resolution)
        self.config = dataclasses.replace(config, resolution=resolution)
        if (self.dataset.digest == self.target.digest
                and config.target_garment in (None, config.garment)):
            garment = "" if config.garment is None else ", or another garment with --target-garment"
            raise UserError(f"--target: {config.target} has the same photos as "
                            f"--data={config.data}; give those of the other kind{garment}")
        if config.minibatch_per_gpu and self.share % config.minibatch_per_gpu:
            raise UserError(f"--minibatch-per-gpu={config.minibatch_per_gpu}: a device's "
                            f"{self.share} photos of each list must divide into such parts")
        self.domains = [Domain.open(source, resolution, garment)
                        for source, garment in self._garments()]
        self.notes = self._notes()

    def _garments(self):
        """Return (source, names of the classes to translate) for both lists; no names mean the
        whole photo.

        Raises:
            UserError: a source lacks one of the classes, or neither source has class maps.
        """
        c, found = self.config, []
        if c.garment is None:
            return [(self.dataset, ()), (self.target, ())]
        for option, source, text in (
                ("garment", self.dataset, c.garment),
                ("target-garment", self.target, c.target_garment or c.garment)):
            names = tuple(text.split(","))
            unknown = [name for name in names if name not in source.classes]
            if source.classes and unknown:
                raise UserError(f"--{option}={text}: {source.path} has no class {unknown[0]!r}; it "
                                f"has {', '.join(source.classes)}"
                                + did_you_mean(unknown[0], source.classes))
            found.append((source, names if source.classes else ()))
        if not any(names for _, names in found):
            raise UserError(f"--garment={c.garment}: neither {c.data} nor {c.target} has maps that "
                            "show where it is")
        if c.target_garment and not self.target.classes:
            raise UserError(f"--target-garment={c.target_garment}: {c.target} has no maps; its "
                            "photos are translated as a whole")
        return found

    def _notes(self):
        """Return lines about the photos."""
        counts = [len(domain.numbers) for domain in self.domains]
        names = [str(domain.source.path) for domain in self.domains]
        lines = [f"A: {counts[0]:,} photos of {names[0]}; B: {counts[1]:,} of {names[1]}; both at "
                 f"{self.config.resolution}x{self.config.resolution}: "
                 f"{self.config.kimg * 1000 / max(counts):.3g} passes through the longer list"]
        for side, domain, count in zip("AB", self.domains, counts):
            if domain.garment:
                total = domain.source.splits["train"]
                lines.append(f"{side}: only {' and '.join(domain.garment)} is translated; of "
                             f"{total:,} photos {total - count:,} show too little of it")
            elif self.config.garment:
                lines.append(f"{side}: has no maps: its photos are translated as a whole; critics "
                             "see them all through the other list's masks")
            if count == 1:
                lines.append(f"warning: {domain.source.path} has only one photo: its critic will "
                             "know it by heart")
        a, b = (domain.fit for domain in self.domains)
        if a != b and not self.config.garment:
            lines.append(f"warning: photos A are made square by --fit={a}, B by --fit={b}: unless "
                         "all are square, white bars alone tell A from B, and will be learned")
        return lines

    def digests(self) -> dict[str, str | None]:
        """Return the digest of the photos B."""
        return {"target_digest": self.target.digest}

    def make_method(self, strategy: tf.distribute.Strategy, log: logging.Logger) -> CycleTraining:
        """Return the method."""
        return CycleTraining(self.config, self.domains, strategy)

    def subject(self) -> str:
        """Return in a few words what is trained, and for what."""
        c = self.config
        return f"CycleGAN of {c.blocks} blocks at {c.resolution}x{c.resolution}"

    def next_commands(self, run_dir: Path) -> str:
        """Return commands that translate the photos A, or their garments."""
        commands, source, garment = [], self.dataset.path, self.domains[0].garment
        if isinstance(self.dataset, DatasetInfo):
            source = Path("extracted")
            commands.append(command("dataset_tool.py", "extract", self.dataset.path,
                                    f"--out={source}"))
            source = source if garment else source / IMAGES
        elif isinstance(self.dataset, PairFolder) and not garment:
            source = pair_folders(source)[0] / IMAGES  # one shard at a time
        commands.append(command("generate.py", f"--network={run_dir}", f"--source={source}",
                                "--direction=AtoB", "--out=translated"))
        return "; ".join(commands)
