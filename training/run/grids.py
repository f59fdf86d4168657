"""Draw pictures of a run: reals.png, augmented.png and fakes%06d.png."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from dnnlib.data import channels, pictures
from dnnlib.tflib.distribute import Draws
from dnnlib.tflib.network import Network
from training.config import TrainingConfig
from training.dataset import TrainingStream
from training.gan.augmentation import augment
from training.gan.schedule import Stage
from training.run.history import AUGMENTED
from training.sampler import Sampler
from training.snapshots import Snapshot

MINIBATCH, MINIBATCHES = 8, 4  # samples of a grid
PANELS = 8  # photos and maps side by side


class Grids:
    """Draw the grids of one run, of latents and labels that stay the same during the training."""

    def __init__(self, config: TrainingConfig, labels: np.ndarray):
        """Keep the labels [n, label_size] of all training images; label_size may be 0."""
        self.config, self.labels = config, labels

    def inputs(self, count: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return latents [count, latent_size], and as many of the training images' labels.

        The labels are None if the training images have none.
        """
        labels = None
        if self.labels.shape[1]:
            rng = np.random.RandomState([self.config.seed, 1])
            labels = self.labels[rng.randint(len(self.labels), size=count)]
        latents = np.random.RandomState(self.config.seed).randn(count, self.config.latent_size)
        return latents.astype(np.float32), labels

    def batches(self, num_batches: int, minibatch: int) -> list[tuple]:
        """Return such inputs as a list of minibatches (latents, labels)."""
        latents, labels = self.inputs(num_batches * minibatch)
        parts = [None] * num_batches if labels is None else np.split(labels, num_batches)
        return list(zip(np.split(latents, num_batches), parts))

    def save_fakes(self, run_dir: Path, Gs: Network, stage: Stage, name: str) -> np.ndarray:
        """Write fakes<name>.png of Gs, not truncated; return the grid, uint8 [H, W, 3]."""
        # Not compiled: a grid has a few minibatches only.
        sampler = Sampler(Snapshot({"Gs": Gs}, {"classes": (), "lod": {
            "resolution": stage.resolution, "fade": stage.fade}}), traced=False)
        grid = _sheet([sampler.synthesize(sampler.dlatents(latents, labels=labels))
                       for latents, labels in self.batches(MINIBATCHES, MINIBATCH)])
        pictures.save_png(run_dir / f"fakes{name}.png", grid)
        return grid

    def save_reals(self, run_dir: Path, stream: Callable[[int], TrainingStream],
                   stage: Stage) -> np.ndarray | None:
        """Write reals.png with the stage's channels, once for each stage.

        Args:
            stream: function (minibatch) -> TrainingStream at the full resolution.

        Returns:
            The grid, uint8 [H, W, 3]; None if it was there already.
        """
        path = run_dir / ("reals.png" if stage.name == "rgb" else f"reals-{stage.name}.png")
        if path.is_file():
            return None
        grid = _sheet(_first_images(stream))
        pictures.save_png(path, grid)
        return grid

    def save_augmented(self, run_dir: Path, stream: Callable[[int], TrainingStream],
                       p: tf.Tensor) -> np.ndarray:
        """Write augmented.png: reals as a critic sees them, augmented with its present p.

        Random numbers are always the same, so that what p does can be followed.

        Args:
            stream: function (minibatch) -> TrainingStream at the resolution of the moment.
            p: scalar.

        Returns:
            The grid, uint8 [H, W, 3].
        """
        images = np.concatenate(_first_images(stream))
        draws = Draws(self.config.seed, 0, len(images))
        grid = _sheet([augment(tf.constant(images), tf.convert_to_tensor(p), draws,
                               "picture").numpy()])
        pictures.save_png(run_dir / AUGMENTED, grid)
        return grid


def _first_images(stream):
    """Return the images of a grid, a list of minibatches float32 [N, H, W, 3 + C]."""
    batches = iter(stream(MINIBATCH))
    return [channels.to_signed(next(batches).images.numpy()) for _ in range(MINIBATCHES)]


def _sheet(minibatches):
    """Draw a list of images float [N, H, W, 3 + C] as pairs on grey -> uint8 [height, width, 3]."""
    pairs = np.concatenate([pictures.pairs(images) for images in minibatches])
    return pictures.grey_sheet(pairs, PANELS * pairs.shape[1] // pairs.shape[2])
