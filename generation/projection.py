"""Projection: find the w, and the noise, from which a generator draws a picture like a photo.

Two settings, both of them optimized by Adam from the mean w:

* space w, the projector of Karras et al. 2020 ("Analyzing and improving the image quality of
  StyleGAN", appendix D) with the settings of their adaptive augmentation's release: one w for all
  layers, with added noise that fades, and the noise maps; the loss is LPIPS.
* space w+, Image2StyleGAN (Abdal et al. 2019, section 5): one w per layer; the loss compares four
  activations of VGG16, and the colours.

Every photo has its own loss and random numbers, so that it does not depend on the others of its
minibatch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from dnnlib.data import channels
from dnnlib.tflib.optimizer import Adam
from dnnlib.tflib.vgg16 import SMALLEST
from dnnlib.util import UserError
from metrics.networks.lpips import Lpips
from training.latents import Latents
from training.sampler import Sampler, seed_noise

W_SAMPLES, W_SEED = 10_000, 123  # latents whose mean w is the start
LARGEST = 256  # side of pictures that VGG16 sees; larger ones are averaged down
RELUS = (1, 1), (1, 2), (3, 2), (4, 2)  # of Image2StyleGAN's loss
COARSEST = 8  # smallest side of noise maps that is penalised


@dataclass(frozen=True)
class Settings:
    """How photos are projected.

    Attributes:
        space: w, one for all layers; or w+, one for each.
        steps: steps of Adam with beta 0.9 and 0.999.
        lrate: learning rate between the ramps.
        ramp_up, ramp_down: shares of the steps at both ends, linear and as a cosine.
        w_noise: standard deviation of the noise added to w at the beginning, in units of the
            standard deviation of w.
        w_noise_until: share of the steps after which nothing is added.
        noise_weight: weight of the penalty for noise maps that show a picture; 0: the network's own
            noise is used, unchanged.
    """

    space: str
    steps: int
    lrate: float
    ramp_up: float = 0.0
    ramp_down: float = 0.0
    w_noise: float = 0.0
    w_noise_until: float = 0.75
    noise_weight: float = 0.0


PRESETS = {
    "w": Settings("w", steps=1000, lrate=0.1, ramp_up=0.05, ramp_down=0.25, w_noise=0.05,
                  noise_weight=1e5),
    # The paper takes 5,000 steps, its usual ports 1,000.
    "w+": Settings("w+", steps=1000, lrate=0.01)}


# Schedules, and functions of noise and images

def learning_rate(settings: Settings, step: int) -> float:
    """Return the learning rate of a step, from 0."""
    t = step / settings.steps
    up = min(1.0, t / settings.ramp_up) if settings.ramp_up else 1.0
    down = min(1.0, (1 - t) / settings.ramp_down) if settings.ramp_down else 1.0
    return settings.lrate * up * (0.5 - 0.5 * math.cos(math.pi * down))


def w_noise_share(settings: Settings, step: int) -> float:
    """Return the standard deviation of what a step adds to w, in units of that of w."""
    left = max(0.0, 1 - step / settings.steps / settings.w_noise_until)
    return settings.w_noise * left ** 2


def noise_penalty(noise: tf.Tensor) -> tf.Tensor:
    """Return [N], how much noise maps [N, h, w, 1] look like pictures: squared correlations of
    horizontal and vertical neighbours, summed over halved sizes down to 8x8."""
    total = 0.0
    while True:
        for axis in (1, 2):
            product = noise * tf.roll(noise, 1, axis)
            total += tf.square(tf.reduce_mean(product, axis=[1, 2, 3]))
        if noise.shape[1] <= COARSEST:
            return total
        noise = tf.nn.avg_pool2d(noise, 2, 2, "VALID")


def normalize_noise(noise: tf.Tensor) -> tf.Tensor:
    """Return noise maps [N, h, w, 1] with mean 0 and mean square 1, each by itself."""
    noise -= tf.reduce_mean(noise, axis=[1, 2, 3], keepdims=True)
    return noise * tf.math.rsqrt(tf.reduce_mean(tf.square(noise), axis=[1, 2, 3], keepdims=True))


def resize_for_vgg(images: tf.Tensor) -> tf.Tensor:
    """Return images [N, R, R, 3] as VGG16 sees them: averaged down to 256x256 at most, or enlarged
    to 16x16, the least that its five blocks need."""
    side = images.shape[1]
    if side > LARGEST:
        return tf.nn.avg_pool2d(images, side // LARGEST, side // LARGEST, "VALID")
    if side < SMALLEST:
        return tf.repeat(tf.repeat(images, SMALLEST // side, axis=1), SMALLEST // side, axis=2)
    return images


class Objective:
    """The loss between photos and pictures, both float32 [N, R, R, 3] in [0, 255]."""

    def __init__(self, lpips: Lpips, space: str):
        self.lpips, self.space = lpips, space

    def features(self, images: tf.Tensor) -> list[tf.Tensor]:
        """Return the features that `terms` compares."""
        seen = resize_for_vgg(images)
        if self.space == "w":
            return self.lpips.features(seen)
        return [images / 255, *self.lpips.vgg.relus(seen, RELUS)]

    def terms(self, photos: Sequence[tf.Tensor], fakes: Sequence[tf.Tensor]) -> dict:
        """Return {name: [N]}, the parts of the loss, from both sides' features."""
        if self.space == "w":
            return {"lpips": self.lpips.distance(photos, fakes)}
        pixels, *layers = (tf.reduce_mean(tf.square(a - b), axis=[1, 2, 3])
                           for a, b in zip(photos, fakes))
        return {"pixels": pixels, "vgg": tf.add_n(layers)}


class WStatistics(NamedTuple):
    """Mean of w, float32 [dlatent_size], and its standard deviation: the root of the mean squared
    distance from the mean."""

    mean: np.ndarray
    std: float


def w_statistics(sampler: Sampler) -> WStatistics:
    """Return the statistics of w over 10,000 latents; a conditional network uses its label."""
    latents = np.random.RandomState(W_SEED).randn(W_SAMPLES, sampler.network.latent_size)
    w = np.concatenate([sampler.dlatents(part)[:, 0] for part in np.split(latents, 10)])
    mean = w.mean(axis=0, dtype=np.float64)
    return WStatistics(mean.astype(np.float32),
                       float(np.sqrt(np.square(w - mean).sum() / W_SAMPLES)))


class Projection(NamedTuple):
    """A photo's Latents, and {name: value}, the terms of its loss at the last step."""

    latents: Latents
    terms: dict[str, float]


Watch = Callable[[int, Callable[[], np.ndarray]], None]  # (step, () -> images float [N, R, R, 3])


class Projector:
    """Projects minibatches of photos of one size."""

    def __init__(self, sampler: Sampler, settings: Settings, lpips: Lpips, minibatch: int):
        """Project `minibatch` photos at once."""
        self.sampler, self.settings, self.minibatch = sampler, settings, minibatch
        self._objective, self._statistics = Objective(lpips, settings.space), w_statistics(sampler)
        # A generator with a decoder: use the generator alone, as maps are no part of the loss.
        self._generator = getattr(sampler.network, "generator", sampler.network)
        layers = sampler.network.num_styles if settings.space == "w+" else 1
        size = sampler.network.dlatent_size
        self._w = tf.Variable(tf.zeros([minibatch, layers, size]), name="w")
        sides = [4 << layer // 2 for layer in range(sampler.num_layers)]
        has_noise = settings.noise_weight and self._generator.options.use_noise
        self._noise = [tf.Variable(tf.zeros([minibatch, side, side, 1]), name=f"noise{layer}")
                       for layer, side in enumerate(sides if has_noise else [])]
        self._variables = {var.name.partition(":")[0]: var for var in (self._w, *self._noise)}
        self._adam = Adam(self._variables, beta1=0.9, beta2=0.999)
        self._features = tf.function(self._objective.features, autograph=False)
        self._step = tf.function(self._one_step, autograph=False)

    def project(self, photos: np.ndarray, seeds: Sequence[int],
                watch: Watch = lambda step, images: None) -> list[Projection]:
        """Return the projections of `minibatch` photos uint8 [N, R, R, 3].

        Args:
            seeds: one seed for each photo's random numbers.
            watch: called with every step, from 0, and a function that returns its images.

        Raises:
            UserError: the network has diverged.
        """
        # Begin with the mean w and the noise of the seeds.
        self._adam.reset()
        self._w.assign(tf.broadcast_to(self._statistics.mean, self._w.shape))
        noise = seed_noise(seeds)
        for layer, var in enumerate(self._noise):
            var.assign(normalize_noise(noise(layer, *var.shape[1:3])))
        target = self._features(tf.constant(photos, tf.float32))
        for step in range(self.settings.steps):
            rate = tf.constant(learning_rate(self.settings, step), tf.float32)
            images, terms = self._step(target, self._draw_w_noise(seeds, step), rate)
            watch(step, images.numpy)
        w = np.broadcast_to(self._w.numpy(), [
            self.minibatch, self.sampler.network.num_styles, self._w.shape[-1]])
        if not np.isfinite(w).all():
            raise UserError(f"{self.sampler.path}: the network makes values that are not finite, "
                            "it has diverged: use an older snapshot")
        layers = [var.numpy()[..., 0] for var in self._noise]  # each [N, h, w]
        return [Projection(Latents(w[n].copy(), tuple(layer[n] for layer in layers)),
                           {name: float(values[n]) for name, values in terms.items()})
                for n in range(self.minibatch)]

    def _draw_w_noise(self, seeds, step):
        """Return what a step adds to w, [N, 1, dlatent_size]."""
        std = w_noise_share(self.settings, step) * self._statistics.std
        size = self._w.shape[-1]
        if not std:
            return tf.zeros([len(seeds), 1, size])
        return tf.constant(std * np.stack([
            np.random.RandomState([seed, 1, step]).standard_normal((1, size)) for seed in seeds]),
            tf.float32)

    def _one_step(self, target, drawn, lrate):
        """Update w and noise; return the images [N, R, R, 3] before that and the terms of the
        loss."""
        num_styles = self.sampler.network.num_styles
        noise = (lambda layer, height, width: self._noise[layer]) if self._noise else None
        with tf.GradientTape() as tape:
            w = self._w + drawn  # [N, 1 or layers, dlatent_size]
            dlatents = tf.broadcast_to(w, [w.shape[0], num_styles, w.shape[2]])
            images = self._generator.synthesis(dlatents, self.sampler.resolution,
                                               self.sampler.fade, noise)[..., channels.RGB]
            terms = self._objective.terms(target, self._objective.features(127.5 * images + 127.5))
            if self._noise:
                terms["noise"] = self.settings.noise_weight * tf.add_n(
                    [noise_penalty(tf.convert_to_tensor(var)) for var in self._noise])
            loss = tf.add_n([tf.reduce_sum(values) for values in terms.values()])
        grads = dict(zip(self._variables, tape.gradient(loss, list(self._variables.values()))))
        self._adam.apply(tf.distribute.get_strategy(), grads, tf.constant(True), lrate)
        for var in self._noise:
            var.assign(normalize_noise(tf.convert_to_tensor(var)))
        return images, terms
