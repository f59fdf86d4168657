"""A decoder's training as train.py starts it."""

import dataclasses
import logging
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from dnnlib.suggestions import command
from dnnlib.tflib.distribute import is_chief
from dnnlib.util import UserError
from training.decoder.config import DecoderConfig
from training.decoder.decoder import DecoderTraining
from training.decoder.labels import LabelledFolder
from training.run.job import SingleStageJob, snapshot_to_begin_with
from training.snapshots import read_header
from training.state import newest_progress

MIN_HELD_BACK = 2  # pictures; with fewer, chance would select the snapshot


class DecoderJob(SingleStageJob):
    """A training of a decoder."""

    idle: ClassVar = {"inception": "its score is mIoU, which needs no Inception"}

    def check(self, config: DecoderConfig) -> None:
        """Check everything that would fail later; set the config, the data set and notes."""
        if not config.data:
            raise UserError("--labels: missing: the folder of labelled pictures, which generate.py "
                            "--for-labelling or --project writes")
        if not self.options.init_from:
            raise UserError("--init-from: missing: the generator whose pictures are labelled")
        self.dataset = LabelledFolder(config.data)
        self.origin, self.about = self._generator()
        made, generator = self.dataset.labelling, self.about["generator"]
        # The pictures must be those of this generator, at their own resolution.
        if generator["digest"] != made.digest:
            raise UserError(f"--init-from: {generator['path']} has the digest "
                            f"{generator['digest'][:12]}; the pictures in {self.dataset.path} "
                            f"are of {made.network} with {made.digest[:12]}")
        if config.resolution not in (None, made.resolution):
            raise UserError(f"--resolution={config.resolution}: the pictures were made at "
                            f"{made.resolution}; leave it out")
        self.config = dataclasses.replace(config, resolution=made.resolution)
        self.held_back = held_back(len(self.dataset), config.held_back, config.seed)
        self.notes = self._notes()

    def _generator(self):
        """Return the snapshot with the generator, and header entries about it for the decoder's
        snapshots. It is one of the continued run's, which needs no other file, or --init-from's."""
        o = self.options
        begun = newest_progress(o.run) if o.continues else None
        own = sorted(o.run.glob("network-*.safetensors")) if begun else []
        origin = own[0] if own else snapshot_to_begin_with(o)
        header = read_header(origin)
        about = {name: header[name] for name in ("lod", "dataset", "generator") if name in header}
        if own:
            return origin, about
        if header["networks"].get("Gs", {}).get("type") != "G_style":
            inside = f": give {header['generator']['path']}" if "generator" in header else ""
            raise UserError(f"--init-from: {origin} is a snapshot of --variant="
                            f"{header.get('variant')}; a decoder is trained on a Style-GAN{inside}")
        return origin, about | {"generator": {"path": str(origin), "digest": header["digest"]}}

    def _notes(self):
        """Return lines about the labels."""
        total, held = len(self.dataset), len(self.held_back)
        lines = [f"{total} of {len(self.dataset.labelling.pictures)} pictures have labels, of "
                 f"{len(self.dataset.classes)} classes: {', '.join(self.dataset.classes)}",
                 *self.dataset.problems]
        shown = np.unique(self.dataset.label_maps)
        absent = [name for label, name in enumerate(self.dataset.classes, 1) if label not in shown]
        if absent:
            lines.append(f"warning: no picture shows {', '.join(absent)}")
        lines.append(f"{held} pictures are held back and select the best snapshot" if held else
                     "no picture is held back: the last snapshot counts as best")
        return lines

    def facts(self) -> dict[str, Any]:
        """Return what must be equal on all workers."""
        return {**super().facts(), "init_from's digest": self.about["generator"]["digest"]}

    def make_method(self, strategy: tf.distribute.Strategy, log: logging.Logger) -> DecoderTraining:
        """Return the method; the first worker evaluates it on the held-back pictures."""
        evaluate = None
        if self.held_back and is_chief(strategy):
            evaluate = self.evaluation.decoder_evaluation(self.dataset.label_maps, self.held_back)
        about = self.about | {"labels": {
            "path": str(self.dataset.path), "digest": self.dataset.digest,
            "num_learned": len(self.dataset) - len(self.held_back)}}
        return DecoderTraining(self.config, self.dataset, self.held_back, self.origin, about,
                               strategy, evaluate)

    def subject(self) -> str:
        """Return in a few words what is trained, and for what."""
        c = self.config
        return (f"{c.decoder} decoder for {len(self.dataset.classes)} classes at "
                f"{c.resolution}x{c.resolution}")

    def next_commands(self, run_dir: Path) -> str:
        """Return commands that make pairs with the generator and its decoder."""
        made = self.dataset.labelling.class_label
        label = [] if made is None else [
            f"--label={','.join(map(str, made if isinstance(made, tuple) else (made,)))}"]
        return "; ".join(command("generate.py", f"--network={run_dir}", what, *label)
                         for what in ("--seeds=0-35", "--num=10000"))


def held_back(total: int, share: float, seed: int) -> list[int]:
    """Return the numbers of the pictures not to train on; [] if they would be too few."""
    count = int(round(total * share, 6))  # 100 * 0.29 is a little less than 29
    if not MIN_HELD_BACK <= count < total:
        return []
    return np.sort(np.random.default_rng([seed, 8]).permutation(total)[:count]).tolist()
