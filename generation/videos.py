"""Make films of closed paths through seeds: the latent moves, the noise stays as it is.

A loop is the periodic cubic spline through the latents of its seeds, in w or in z. Its speed and
curvature are continuous, at the seeds and where it closes. A path of straight lines or great
circles (lerp, slerp) would turn abruptly at every seed, which shows as a jerk.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from scipy.interpolate import CubicSpline

from dnnlib.data import pictures
from generation.sheets import panels
from training.sampler import Noise, Sampler, seed_noise

MIN_SIDE = 256  # images below this many pixels are enlarged


@dataclass(frozen=True)
class Video:
    """A film of loops side by side, each photo above its map.

    Attributes:
        seeds: seeds of the first loop, of the second, ...: the same number for each.
        grid: columns and rows of loops.
        space: "w" or "z", in which the path is a spline.
        steps: frames from one seed to the next.
        psi: truncation. noise: "random", that of a loop's first seed, or "const".
        minibatch: images made at a time.
    """

    sampler: Sampler
    seeds: Sequence[int]
    grid: tuple[int, int]
    space: str
    steps: int
    psi: float
    noise: str
    minibatch: int

    def __len__(self) -> int:
        return self._loops.shape[1] * self.steps

    @property
    def size(self) -> tuple[int, int]:
        """Return the width and the height of a frame."""
        columns, rows = self.grid
        classes, side = self.sampler.classes, self._factor * self.sampler.resolution
        height = rows * side * (2 if classes else 1)
        return columns * side, height + len(_legend(classes, columns * side))

    @property
    def _loops(self):
        """Return the seeds [loops, seeds per loop]."""
        return np.reshape(self.seeds, (math.prod(self.grid), -1))

    @property
    def _factor(self):
        """Return how often a pixel is repeated in each direction."""
        return max(1, MIN_SIDE // self.sampler.resolution)

    def frames(self) -> Iterator[np.ndarray]:
        """Yield the frames, uint8 [height, width, 3]. Raises UserError if the network has diverged.
        """
        sampler, (count, _) = self.sampler, self._loops.shape
        legend = _legend(sampler.classes, self.size[0])
        path_at, draw = self.make_path(), _cached_seed_noise()
        group = max(1, self.minibatch // count)  # frames made at a time
        for start in range(0, len(self), group):
            dlatents = path_at(np.arange(start, min(start + group, len(self))) / self.steps)
            noise_seeds = self._loops[:, 0].tolist() * (len(dlatents) // count)
            cells = np.concatenate([
                np.concatenate(panels(images.numpy()), axis=1) for images in sampler.dlatent_images(
                    dlatents, noise_seeds, self.noise, self.minibatch, draw)])  # [n * loops, ...]
            for frame in cells.reshape(-1, count, *cells.shape[1:]):
                grid = pictures.enlarge(pictures.image_grid(frame, self.grid[0]), self._factor)
                yield np.concatenate([grid, legend])

    def make_path(self) -> Callable[[np.ndarray], np.ndarray]:
        """Return the function times [n] -> dlatents [n * loops, layers, size] of each loop; it
        passes through seed k at time k."""
        sampler, shape = self.sampler, self._loops.T.shape
        points = sampler.seed_latents(self._loops.T.ravel().tolist())
        if self.space == "w":
            points = sampler.dlatents(points, self.psi)
            spline = closed_spline(points.reshape(*shape, *points.shape[1:]))
            return lambda times: spline(times).astype(np.float32).reshape(-1, *points.shape[1:])
        points = points.reshape(*shape, -1)
        spline = closed_spline(points)
        lengths = closed_spline(np.linalg.norm(points, axis=-1, keepdims=True))

        def at_times(times: np.ndarray) -> np.ndarray:
            # Between seeds z would be shorter than random latents are: restore its length.
            z = spline(times)
            z *= lengths(times) / np.linalg.norm(z, axis=-1, keepdims=True)
            return sampler.dlatents(z.reshape(-1, z.shape[-1]), self.psi)
        return at_times


def closed_spline(points: np.ndarray) -> CubicSpline:
    """Return the cubic spline of period K through points [K, ...] at 0, 1, ..., K - 1."""
    return CubicSpline(np.arange(len(points) + 1), np.concatenate([points, points[:1]]),
                       bc_type="periodic")


def _cached_seed_noise():
    """Return a seed_noise that caches the noise of each seed: a film needs it for every frame."""
    @functools.cache
    def one(seed: int, *layer: int) -> tf.Tensor:
        return seed_noise([seed])(*layer)

    def draw(seeds: Sequence[int]) -> Noise:
        return lambda *layer: tf.concat([one(seed, *layer) for seed in seeds], axis=0)
    return draw


def _legend(classes, width):
    """Return the legend below a frame; its height is 0 if none is needed."""
    return pictures.with_legend(np.zeros((0, width, 3), np.uint8), classes)
