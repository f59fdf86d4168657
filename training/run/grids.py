"""Draw pictures of a run: reals.png, augmented.png and fakes%06d.png."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from dnnlib.data import channels, pictures
from dnnlib.tflib.distribute import Draws
from dnnlib.tflib.network import Network
from training.config import TrainingConfig
from training.dataset import TrainingStream, reals_stream
from training.gan.augmentation import augment
from training.gan.schedule import Stage
from training.run.history import AUGMENTED
from training.sampler import Sampler
from training.snapshots import Snapshot

MINIBATCH, MINIBATCHES = 8, 4  # samples of a grid, as minibatches
PANELS = 8  # number of photos and maps side by side


class Grids:
    """Draws the grids of one run, from latents and labels that do not change during training."""

    def __init__(self, config: TrainingConfig, labels: np.ndarray):
        """Keep the labels [n, label_size] of all training images; label_size may be 0."""
        self.config, self.labels = config, labels

    def inputs(self, count: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return latents [count, latent_size], and `count` labels drawn from the training images'.

        The labels are None if the training images have none.
        """
        labels = None
        if self.labels.shape[1]:
            rng = np.random.RandomState([self.config.seed, 1])
            labels = self.labels[rng.randint(len(self.labels), size=count)]
        latents = np.random.RandomState(self.config.seed).randn(count, self.config.latent_size)
        return latents.astype(np.float32), labels

    def batches(self, num_batches: int, minibatch: int) -> list[tuple]:
        """Return `inputs` as a list of minibatches (latents, labels)."""
        latents, labels = self.inputs(num_batches * minibatch)
        parts = [None] * num_batches if labels is None else np.split(labels, num_batches)
        return list(zip(np.split(latents, num_batches), parts))

    def reals(self, num_channels: int, resolution: int,
              minibatch: int = MINIBATCH) -> TrainingStream:
        """Return a stream of reals that is the same in every call."""
        return reals_stream(self.config, resolution, num_channels, minibatch, seed=0)

    def draw(self, run_dir: Path, stage: Stage, name: str, Gs: Network,
             p: tf.Tensor | None = None) -> dict[str, np.ndarray]:
        """Write fakes<name>.png of Gs without truncation; once per stage, reals.png with its
        channels; and augmented.png, the first reals as the critic with most channels sees them.

        Args:
            p: the probability of that critic's augmentation, scalar; None without augmentation.

        Returns:
            {"fakes", "reals", "augmented": picture uint8 [H, W, 3]}, those that were drawn.
        """
        made = {}
        path = run_dir / ("reals.png" if stage.name == "rgb" else f"reals-{stage.name}.png")
        if not path.is_file():
            made["reals"] = _sheet(_first_images(self.reals(stage.channels,
                                                            self.config.resolution)))
            pictures.save_png(path, made["reals"])
        if p is not None:
            width = max(critic.channels for critic in stage.critics)
            images = np.concatenate(_first_images(self.reals(width, stage.resolution)))
            # The same random numbers in every tick, so that the effect of p can be seen.
            draws = Draws(self.config.seed, 0, len(images))
            made["augmented"] = _sheet([augment(tf.constant(images), tf.convert_to_tensor(p), draws,
                                                "picture").numpy()])
            pictures.save_png(run_dir / AUGMENTED, made["augmented"])
        # Not compiled, since a grid has only a few minibatches.
        sampler = Sampler(Snapshot({"Gs": Gs}, {"classes": (), "lod": {
            "resolution": stage.resolution, "fade": stage.fade}}), traced=False)
        made["fakes"] = _sheet([sampler.synthesize(sampler.dlatents(latents, labels=labels))
                                for latents, labels in self.batches(MINIBATCHES, MINIBATCH)])
        pictures.save_png(run_dir / f"fakes{name}.png", made["fakes"])
        return made


def _first_images(stream):
    """Return the images of a grid, a list of minibatches float32 [N, H, W, 3 + C]."""
    batches = iter(stream)
    return [channels.to_signed(next(batches).images.numpy()) for _ in range(MINIBATCHES)]


def _sheet(minibatches):
    """Return minibatches float [N, H, W, 3 + C] as a sheet of pairs, uint8 [height, width, 3]."""
    pairs = np.concatenate([pictures.draw_pairs(images) for images in minibatches])
    return pictures.grey_sheet(pairs, PANELS * pairs.shape[1] // pairs.shape[2])
