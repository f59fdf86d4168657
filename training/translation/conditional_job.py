"""What trainings of a ConditionalGan have in common as train.py starts them."""

from typing import Any

import tensorflow as tf

from dnnlib.util import UserError
from training.networks_translation import patch_side
from training.run.job import Job, measured_time
from training.translation.config import ConditionalConfig

_PATHS = ("data", "segmenter", "lpips")  # may differ between workers; their digests may not


class ConditionalJob(Job):
    """A training of a generator whose photos are compared with real ones beside the GAN loss.

    Attributes:
        config: as Job's.
    """

    config: ConditionalConfig

    def side_of(self, config: ConditionalConfig) -> int:
        """Return the side of the photos; raise UserError if the data set has none such."""
        resolution = config.resolution or self.dataset.resolution
        if resolution > self.dataset.resolution:
            raise UserError(f"--resolution={resolution}: {self.dataset.path} goes up to "
                            f"{self.dataset.resolution}")
        return resolution

    def check_patches(self, config: ConditionalConfig, resolution: int, scales: int = 1) -> None:
        """Raise UserError if a discriminator of so many scales has no patch at a resolution."""
        if patch_side(resolution, config.d_strides, scales) < 1:
            size = f"{resolution}x{resolution}" + (f" with --scales={scales}" if scales > 1 else "")
            raise UserError(f"--d-strides={config.d_strides}: at {size} no patch is left; give "
                            "fewer")

    def facts(self) -> dict[str, Any]:
        """Return what must be equal in all workers."""
        facts = {name: value for name, value in self.config.to_json().items() if name not in _PATHS}
        return {**facts, "gpus": self.options.gpus, "device": self.options.device,
                "tensorflow": tf.__version__, "data's digest": self.dataset.digest,
                **self.digests()}

    def about_dataset(self) -> dict[str, str]:
        """Return what a snapshot's header says of the data set."""
        info = self.dataset
        return {"name": info.name, "path": str(info.path), "digest": info.digest}

    def subject(self) -> str:
        """Return what is trained, and for what, in a few words."""
        raise NotImplementedError

    def plan(self) -> str:
        """Return what the training would do."""
        c = self.config
        weight = "" if c.reconstruction == "none" else f" (weight {c.weight_of_reconstruction():g})"
        return "\n".join([
            f"{self.subject()} at {c.resolution}x{c.resolution}, reconstruction "
            f"{c.reconstruction}{weight}, {c.kimg:g} kimg: "
            f"{round(c.kimg * 1000 / c.minibatch):,} steps of {c.minibatch}",
            measured_time(self), "nothing was written"])
