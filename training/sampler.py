"""Images from a network snapshot: latents and noise by seed, truncation.

A sample is a function of (network, seed, options) alone: latents and noise are drawn from the
sample's own seed, and every sample passes through the network by itself (a matrix product of eight
rows rounds otherwise than eight of one row), so that its minibatch leaves no trace in its bits.
"""

import functools
from pathlib import Path

import numpy as np
import tensorflow as tf

import training.networks_stylegan  # noqa: F401  (enters the networks into their registry)
from dnnlib import util
from dnnlib.data import channels
from dnnlib.util import UserError
from training.snapshots import load_snapshot

TRUNCATION_CUTOFF = 8  # layers that truncation acts on (StyleGAN, appendix B)
NOISES = ("random", "const")


class Sampler:
    """A snapshot's Gs, at the resolution and fade it was trained to, under one label.

    Attributes: classes (names behind the channels after the colours), resolution, digest of the
    weights, path, label_size, label (a class, or as many numbers where it is none; None where the
    network is not conditional).
    """

    def __init__(self, path, label=None):
        """Load Gs.

        Args:
            label: what a conditional network is to draw: a class, or label_size numbers.

        Raises UserError for a file that is missing, damaged or of another kind, and for a label
        that the network does not take.
        """
        snapshot = load_snapshot(path, names=("Gs",))
        self.path, self.network = Path(path), snapshot.networks["Gs"]
        self.classes, self.digest = snapshot.classes, snapshot.header["digest"]
        self.resolution = snapshot.header["lod"]["resolution"]
        self.fade = float(snapshot.header["lod"]["fade"])
        num_maps = self.network.config["num_channels"] - channels.NUM_COLOURS
        if num_maps != len(self.classes):
            raise UserError(f"{path}: {num_maps} maps, but names for {len(self.classes)} classes")
        self.label_size = self.network.config["label_size"]
        self._label_row = _label_row(label, self.label_size, path)
        self.label = None if self._label_row is None else _short_label(self._label_row[0])

    @property
    def num_layers(self):
        """Layers with a style and a noise input that are in use at this resolution."""
        return 2 * (self.resolution.bit_length() - 1) - 2

    def latents(self, seeds):
        """z [N, latent_size]: row by row RandomState(seed).randn(1, latent_size)."""
        size = self.network.config["latent_size"]
        return np.concatenate([np.random.RandomState(seed).randn(1, size) for seed in seeds])

    def dlatents(self, latents, psi):
        """Mapped and truncated w: float32 [N, layers, dlatent_size] of latents [N, latent_size]."""
        return self._map(tf.constant(latents, tf.float32), psi).numpy()

    def synthesize(self, dlatents, noise_seeds, noise="random"):
        """Images float32 [N, resolution, resolution, 3 + C] of dlatents [N, layers, dlatent_size].

        noise="random": each sample's noise is drawn from its entry of noise_seeds; "const": the
        network's own noise variables.
        """
        draws = _draw_noise(noise_seeds, self.num_layers) if noise == "random" else ()
        return self._synthesize(tf.constant(dlatents), draws).numpy()

    def images(self, seeds, psi, noise="random"):
        """Images float32 [N, resolution, resolution, 3 + C] of seeds."""
        return self.synthesize(self.dlatents(self.latents(seeds), psi), seeds, noise)

    def check_finite(self, images):
        """Raise UserError for images with values that are not finite."""
        if not np.isfinite(images).all():
            raise UserError(f"{self.path}: the network makes values that are not finite, it has "
                            "diverged: use an older snapshot")

    def synthesize_many(self, dlatents, noise_seeds, noise, minibatch):
        """`synthesize` in minibatches with a progress bar.

        Raises UserError where values are not finite.
        """
        with util.progress(total=len(dlatents), desc="images", unit="img") as bar:
            batches = []
            for start in range(0, len(dlatents), minibatch):
                part = slice(start, start + minibatch)
                batches.append(self.synthesize(dlatents[part], noise_seeds[part], noise))
                self.check_finite(batches[-1])
                bar.update(len(batches[-1]))
        return np.concatenate(batches)

    @functools.cached_property
    def _map(self):
        @tf.function(reduce_retracing=True)
        def run(latents, psi):
            def one(z):
                w = self.network.mapping(z[None], self._label_row)
                return self.network.truncate(w, psi, TRUNCATION_CUTOFF)[0]
            shape = [self.network.num_styles, self.network.config["dlatent_size"]]
            return tf.map_fn(one, latents, fn_output_signature=tf.TensorSpec(shape))
        return run

    @functools.cached_property
    def _synthesize(self):
        @tf.function(reduce_retracing=True)
        def run(dlatents, draws):
            def one(sample):
                w, noise = sample
                layers = [layer[None] for layer in noise]
                return self.network.synthesis(
                    w[None], resolution=self.resolution, fade=self.fade,
                    noise=(lambda index, height, width: layers[index]) if layers else None)[0]
            shape = [self.resolution, self.resolution, self.network.config["num_channels"]]
            return tf.map_fn(one, (dlatents, draws), fn_output_signature=tf.TensorSpec(shape))
        return run


def _label_row(label, label_size, path):
    """A label as a conditional network takes it, float32 [1, label_size]; None for other networks.

    Raises UserError where the label and the network do not go together.
    """
    allowed = f"a class of 0-{label_size - 1}, or {label_size} numbers with commas between them"
    if not label_size:
        if label is not None:
            raise UserError(f"--label: {path} was trained without labels; leave it out")
        return None
    if label is None:
        raise UserError(f"{path} is conditional: say what it shall draw with --label, {allowed}")
    if isinstance(label, int):
        if label >= label_size:
            raise UserError(f"--label={label}: {path} takes {allowed}")
        row = np.zeros([1, label_size], np.float32)
        row[0, label] = 1
        return row
    if len(label) != label_size:
        raise UserError(f"--label: {len(label)} numbers; {path} takes {allowed}")
    return np.array([label], np.float32)


def _short_label(values):
    """The class that one-hot values [label_size] stand for, else the values themselves."""
    if np.count_nonzero(values) == 1 and values.max() == 1:
        return int(values.argmax())
    return tuple(values.tolist())


def _draw_noise(seeds, num_layers):
    """Noise of every layer: tuple of float32 [N, size, size, 1], sample by sample from its seed.

    RandomState's stream is frozen, so that a sample can be made again with any later NumPy.
    """
    layers = []
    for layer in range(num_layers):
        size = 4 << layer // 2
        draws = [np.random.RandomState([seed, layer]).standard_normal((size, size, 1))
                 for seed in seeds]
        layers.append(tf.constant(np.stack(draws), tf.float32))
    return tuple(layers)


def label_maps(images):
    """Label maps uint8 [..., H, W] of generated images: the largest class above 0, else 0."""
    return channels.to_label_map(images[..., channels.SEGMAPS])
