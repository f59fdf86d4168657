"""Pictures that a run draws of itself: reals.png and fakes%06d.png."""

import numpy as np

from dnnlib.data import channels, pictures

MINIBATCH, MINIBATCHES = 8, 4  # samples of a grid
PANELS = 8  # photos and maps side by side


def grid_bytes(stage):
    """Return more bytes than a grid's PNG has at a Stage; small noise, enlarged, comes near."""
    pairs = 2 if stage.channels > channels.NUM_COLOURS else 1
    return 2 * MINIBATCHES * MINIBATCH * pairs * stage.resolution ** 2 * 3 + 40_000


def _sheet(minibatches):
    """Draw a list of images float [N, H, W, 3 + C] as pairs on grey -> uint8 [height, width, 3]."""
    pairs = np.concatenate([pictures.pairs(images) for images in minibatches])
    return pictures.grey_sheet(pairs, PANELS * pairs.shape[1] // pairs.shape[2])


class Grids:
    """The grids of one run, of latents and labels that stay the same all through the training."""

    def __init__(self, run_dir, config, labels):
        """labels: [n, label_size] of all training images; label_size is 0 where they have none."""
        self.run_dir, self.config, self.labels = run_dir, config, labels

    def inputs(self, count):
        """Latents [count, latent_size], and labels drawn from the training images' (None where they
        have none)."""
        labels = None
        if self.labels.shape[1]:
            rng = np.random.RandomState([self.config.seed, 1])
            labels = self.labels[rng.randint(len(self.labels), size=count)]
        latents = np.random.RandomState(self.config.seed).randn(count, self.config.latent_size)
        return latents.astype(np.float32), labels

    def batches(self, num_batches, minibatch):
        """The same as [(latents, labels)] of minibatches."""
        latents, labels = self.inputs(num_batches * minibatch)
        parts = [None] * num_batches if labels is None else np.split(labels, num_batches)
        return list(zip(np.split(latents, num_batches), parts))

    def save_fakes(self, Gs, stage, name):
        """Write fakes<name>.png of Gs, not truncated; returns the grid, uint8 [H, W, 3]."""
        grid = _sheet([Gs(*inputs, resolution=stage.resolution, fade=stage.fade)
                       for inputs in self.batches(MINIBATCHES, MINIBATCH)])
        pictures.save_png(self.run_dir / f"fakes{name}.png", grid)
        return grid

    def save_reals(self, stream, stage):
        """Write reals.png with the stage's channels, once a stage; returns the grid, uint8
        [H, W, 3], or None where it was there.

        stream: function (minibatch) -> TrainingStream at the full resolution.
        """
        path = self.run_dir / ("reals.png" if stage.name == "rgb" else f"reals-{stage.name}.png")
        if path.is_file():
            return None
        batches = iter(stream(MINIBATCH))
        grid = _sheet([channels.to_signed(next(batches)[0].numpy()) for _ in range(MINIBATCHES)])
        pictures.save_png(path, grid)
        return grid
