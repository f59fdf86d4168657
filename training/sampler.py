"""Sample a generator: z -> w -> images, in minibatches, for grids, pairs, sheets and metrics.

Latents and noise come from two kinds of random streams, both frozen: later versions must not change
them. `generate.py` draws each sample from its own seed, as the official tools do (`seed_latents`,
`seed_noise`). Metrics draw sample k of one stream (`Sampler.stream`, `stream_noise`). Either way a
sample's inputs do not depend on its minibatch. The last bits of its pixels do, since matrix
products of other sizes round differently.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from dnnlib import util
from dnnlib.data import channels
from dnnlib.util import UserError
from training.snapshots import Snapshot, load_snapshot

TRUNCATION_CUTOFF = 8  # number of layers that truncation acts on (StyleGAN, appendix B)
NOISES = ("random", "const")

Noise = Callable[[int, int, int], tf.Tensor]  # (layer, height, width) -> [N, height, width, 1]


class Sampler:
    """A snapshot's Gs, at the resolution and fade that it was trained to.

    Attributes:
        network: Gs.
        resolution, fade: its growth state.
        path: the snapshot's file; None for networks in training.
        classes: names of the channels after the colours.
        digest: digest of the weights; None for networks in training.
        generator: {path, digest} of the snapshot that has the same colours and w. For a decoder's
            network this is the generator that it was trained on, otherwise the network itself.
        label_size: length of the labels that the network takes; 0 for none.
        label: the label drawn by default: a class, or label_size numbers if it is not one-hot.
        content_box: (left, top, right, bottom) of the photos without their padding, in the images
            that the network was trained on; None if it differed between them.
        knows_padding: whether the header has that entry; headers of earlier versions do not.
    """

    def __init__(self, snapshot: Snapshot, label_row: np.ndarray | None = None,
                 traced: bool = True):
        """Sample a Snapshot's Gs.

        Args:
            label_row: [1, label_size], the label of samples for which none is given.
            traced: compile the network, which pays off from a few minibatches upwards.
        """
        self.network, self.path = snapshot.networks["Gs"], snapshot.path
        self.classes, self.digest = snapshot.classes, snapshot.header.get("digest")
        self.generator = snapshot.header.get(
            "generator", {"path": str(self.path), "digest": self.digest})
        self.resolution = snapshot.header["lod"]["resolution"]
        self.fade = float(snapshot.header["lod"]["fade"])
        about = snapshot.header.get("dataset", {})
        self.knows_padding = "content_box" in about
        self.content_box = about.get("content_box")
        if self.content_box is not None:  # the pixels of our resolution that are inside it
            factor = about["resolution"] / self.resolution
            left, top, right, bottom = (side / factor for side in self.content_box)
            self.content_box = (math.ceil(left), math.ceil(top), math.floor(right),
                                math.floor(bottom))
        self.label_size = self.network.label_size
        self.label = None if label_row is None else _short_label(label_row[0])
        self._label_row = label_row
        compiled = tf.function(autograph=False, reduce_retracing=True) if traced \
            else lambda function: function
        self._map = compiled(_mapping(self.network))
        self._synthesize = compiled(_synthesis(self.network, self.resolution, self.fade))

    @classmethod
    def load(cls, path: str | Path, label: int | Sequence[float] | None = None,
             traced: bool = True) -> "Sampler":
        """Read a snapshot file; a conditional network draws `label`, a class or label_size numbers.

        Args:
            traced: as for `Sampler`.

        Raises:
            UserError: the file is damaged or of another kind, or the network does not take this
                label.
        """
        snapshot = load_snapshot(path, names=("Gs",))
        if "Gs" not in snapshot.networks:
            raise UserError(f"{path}: a snapshot of --variant={snapshot.header.get('variant')}, "
                            "which generates nothing of seeds; name a generator (train.py "
                            "--variant=2d)")
        num_maps = snapshot.networks["Gs"].num_channels - channels.NUM_COLOURS
        if num_maps != len(snapshot.classes):
            raise UserError(f"{path}: {num_maps} maps, but names for {len(snapshot.classes)} "
                            "classes")
        return cls(snapshot, label_row(label, snapshot.networks["Gs"].label_size, path), traced)

    def with_label(self, label: int | Sequence[float] | None) -> "Sampler":
        """Return a sampler that draws another label and shares this network.

        Raises:
            UserError: the network does not take this label.
        """
        row = label_row(label, self.label_size, self.path)
        other = copy.copy(self)
        other.label, other._label_row = None if row is None else _short_label(row[0]), row
        return other

    @property
    def num_layers(self) -> int:
        """Return the number of layers with a style and a noise input at this resolution."""
        return 2 * (self.resolution.bit_length() - 1) - 2

    def seed_latents(self, seeds: Sequence[int]) -> np.ndarray:
        """Return z [N, latent_size]; each row is RandomState(seed).randn(1, latent_size)."""
        size = self.network.latent_size
        return np.concatenate([np.random.RandomState(seed).randn(1, size) for seed in seeds])

    def dlatents(self, latents: np.ndarray, psi: float | None = None,
                 labels: np.ndarray | None = None) -> np.ndarray:
        """Return w float32 [N, layers, dlatent_size] for latents [N, latent_size].

        Args:
            psi: truncation of the first TRUNCATION_CUTOFF layers; None for none.
            labels: [N, label_size]; by default all samples have the sampler's own label.
        """
        if labels is None and self._label_row is not None:
            labels = np.repeat(self._label_row, len(latents), axis=0)
        labels = None if labels is None else tf.constant(labels, tf.float32)
        return self._map(tf.constant(latents, tf.float32), psi, labels).numpy()

    def synthesize(self, dlatents: np.ndarray, noise: Noise | None = None) -> tf.Tensor:
        """Return one minibatch of images, float32 [N, resolution, resolution, 3 + C].

        Args:
            dlatents: [N, layers, dlatent_size].
            noise: noise of every layer; None for the network's own, equal for all samples.
        """
        sizes = [4 << layer // 2 for layer in range(self.num_layers)]
        layers = [noise(layer, size, size) for layer, size in enumerate(sizes)] if noise else []
        return self._synthesize(tf.constant(dlatents), layers)

    def seed_images(self, seeds: Sequence[int], psi: float | None, noise: str,
                    minibatch: int) -> Iterator[tf.Tensor]:
        """Yield the images of seeds, minibatch by minibatch, as `synthesize` returns them.

        Args:
            noise: "random", drawn from each sample's seed, or "const", the network's own.

        Raises:
            UserError: the network has diverged.
        """
        for start in range(0, len(seeds), minibatch):
            part = seeds[start:start + minibatch]
            dlatents = self.dlatents(self.seed_latents(part), psi)
            yield from self.dlatent_images(dlatents, part, noise, minibatch)

    def dlatent_images(self, dlatents: np.ndarray, noise_seeds: Sequence[int], noise: str,
                       minibatch: int, draw: Callable[[Sequence[int]], Noise] | None = None
                       ) -> Iterator[tf.Tensor]:
        """Yield the images of dlatents [N, layers, dlatent_size], otherwise as `seed_images`.

        Args:
            noise_seeds: N seeds of the noise.
            draw: function that returns the noise of seeds; by default seed_noise.
        """
        for start in range(0, len(dlatents), minibatch):
            part = slice(start, start + minibatch)
            drawn = (draw or seed_noise)(noise_seeds[part]) if noise == "random" else None
            yield self._finite(self.synthesize(dlatents[part], drawn))

    def stream(self, seed: int, count: int, minibatch: int, psi: float | None = None,
               label_table: np.ndarray | None = None) -> Iterator[tf.Tensor]:
        """Yield the first `count` samples of the stream `seed`, as minibatches like `seed_images`.

        Args:
            label_table: [rows, label_size], from which a conditional network draws its labels.

        Raises:
            UserError: the network has diverged, or the table is empty.
        """
        latents_rng, next_labels = np.random.RandomState(seed), label_stream(label_table, seed)
        for start in range(0, count, minibatch):
            # The last minibatch is drawn in full too, so there is one shape and one trace.
            latents = latents_rng.randn(minibatch, self.network.latent_size)
            dlatents = self.dlatents(latents, psi, next_labels(minibatch))
            images = self.synthesize(dlatents, stream_noise(seed, start, minibatch))
            yield self._finite(images[:count - start])

    def _finite(self, images):
        """Return images; raise UserError if some values are not finite."""
        if not tf.reduce_all(tf.math.is_finite(images)):
            raise UserError(f"{self.path or 'Gs'}: the network makes values that are not finite, "
                            "it has diverged: use an older snapshot")
        return images


# These are functions, not methods: methods and their Sampler would hold references to each other,
# and the network would stay on its device until Python's garbage collector found them.

def _mapping(network):
    """Return the function to compile (latents, psi, labels) -> dlatents."""
    def run(latents: tf.Tensor, psi: float | None, labels: tf.Tensor | None) -> tf.Tensor:
        dlatents = network.mapping(latents, labels)
        return dlatents if psi is None else network.truncate(dlatents, psi, TRUNCATION_CUTOFF)
    return run


def _synthesis(network, resolution, fade):
    """Return the function to compile (dlatents, noise of every layer) -> images."""
    def run(dlatents: tf.Tensor, layers: list[tf.Tensor]) -> tf.Tensor:
        noise = (lambda layer, height, width: layers[layer]) if layers else None
        return network.synthesis(dlatents, resolution, fade, noise)
    return run


def seed_noise(seeds: Sequence[int]) -> Noise:
    """Return the noise of samples with their own seeds: RandomState([seed, layer]).

    RandomState's stream is frozen, so a sample can be reproduced with any later NumPy.
    """
    def noise(layer: int, height: int, width: int) -> tf.Tensor:
        draws = [np.random.RandomState([seed, layer]).standard_normal((height, width, 1))
                 for seed in seeds]
        return tf.constant(np.stack(draws), tf.float32)
    return noise


def stream_noise(seed: int, start: int | tf.Tensor, count: int) -> Noise:
    """Return the noise of samples start, start + 1, ... of the stream `seed`.

    The Philox generator yields four values for each step of its counter. A sample therefore starts
    at counter (its number) * (its number of pixels) / 4; from 4x4 up, pixels are a multiple of 16.
    """
    def noise(layer: int, height: int, width: int) -> tf.Tensor:
        place = tf.cast(start, tf.uint64) * (height * width // 4)
        return tf.raw_ops.StatelessRandomNormalV2(
            shape=(count, height, width, 1), key=tf.constant([seed * 256 + layer], tf.uint64),
            counter=tf.stack([place, tf.constant(0, tf.uint64)]), alg=1)
    return noise


def label_stream(table: np.ndarray | None, seed: int) -> Callable[[int], np.ndarray | None]:
    """Return a function (n) -> the next n samples' rows of `table` [rows, label_size].

    Sample k's row depends on (seed, k) alone. Without a table the function returns None.
    """
    if table is None:
        return lambda n: None
    if not len(table):
        raise UserError("a conditional network needs labels to draw from: there are none")
    rng = np.random.RandomState([seed, 1])  # a different stream from that of the latents
    return lambda n: table[(rng.random_sample(n) * len(table)).astype(int)]


def label_maps(images: tf.Tensor | np.ndarray) -> np.ndarray:
    """Return the label maps uint8 [..., H, W] of generated images [..., H, W, 3 + C].

    Each pixel has the number of the largest class map if that is above 0, else 0 (thesis, section
    4.4.2). Computed on the images' device.
    """
    segmaps = images[..., channels.SEGMAPS]
    if segmaps.shape[-1] == 0:
        return np.zeros(segmaps.shape[:-1], np.uint8)
    present = tf.reduce_max(segmaps, axis=-1) > 0
    winner = tf.cast(tf.argmax(segmaps, axis=-1) + 1, tf.uint8)
    return tf.where(present, winner, tf.uint8.min).numpy()


def gather_images(batches: Iterator[tf.Tensor], total: int) -> np.ndarray:
    """Return minibatches of images as one array [total, H, W, 3 + C], with a progress bar."""
    arrays = []
    with util.progress(total=total, desc="images", unit="img") as bar:
        for batch in batches:
            arrays.append(batch.numpy())
            bar.update(len(arrays[-1]))
    return np.concatenate(arrays)


def label_row(label: int | Sequence[float] | None, label_size: int,
              path: str | Path) -> np.ndarray | None:
    """Return a label as a conditional network takes it, float32 [1, label_size]; None for networks
    that take no labels.

    Raises:
        UserError: the network of the snapshot at `path` does not take this label.
    """
    allowed = f"a class of 0-{label_size - 1}, or {label_size} numbers with commas between them"
    if not label_size:
        if label is not None:
            raise UserError(f"--label: {path} was trained without labels; leave it out")
        return None
    if label is None:
        raise UserError(f"{path} is conditional: choose what it draws with --label, {allowed}")
    if isinstance(label, int):
        if label >= label_size:
            raise UserError(f"--label={label}: {path} takes {allowed}")
        return np.eye(label_size, dtype=np.float32)[[label]]
    if len(label) != label_size:
        raise UserError(f"--label: {len(label)} numbers; {path} takes {allowed}")
    return np.array([label], np.float32)


def _short_label(values):
    """Return the class if values [label_size] are one-hot, else a tuple of the values."""
    if np.count_nonzero(values) == 1 and values.max() == 1:
        return int(values.argmax())
    return tuple(values.tolist())
