"""Draw photos from maps with a trained generator, as Sampler samples a Style-GAN."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from dnnlib.data import pyramid
from dnnlib.util import UserError
from training.networks_translation import TranslationGenerator
from training.snapshots import SnapshotModel, load_snapshot

NETWORK = "G"


class PhotoDrawer(SnapshotModel):
    """A snapshot's generator of photos.

    Attributes:
        path: the snapshot's file. header: its header. digest: digest of the weights.
        resolution: side of photos in pixels. fit: how the training photos were made square, one of
            pyramid.FITS.
    """

    variant: str
    lack: str  # what networks of other variants cannot do

    def __init__(self, path: Path, minibatch: int = 8):
        """Load the generator of a snapshot file; raise UserError if it is of another kind."""
        self.header = self.check(path, self.variant, self.lack, NETWORK)
        self.path, self.minibatch, self.digest = path, minibatch, self.header["digest"]
        self.network = load_snapshot(path, names=(NETWORK,)).networks[NETWORK]
        self.resolution = self.network.resolution
        self.fit = self.header.get("fit", pyramid.FITS[0])  # older snapshots lack it

    def draw_in_minibatches(self, infer: Callable[..., np.ndarray],
                            *inputs: np.ndarray) -> np.ndarray:
        """Return what the network draws from inputs [n, ...], minibatch by minibatch.

        The last minibatch is filled up, so that a photo does not depend on how many are drawn.

        Args:
            infer: function (inputs of a minibatch) -> its photos.

        Raises:
            UserError: the network has diverged.
        """
        count, found = len(inputs[0]), []
        for start in range(0, count, self.minibatch):
            own = min(self.minibatch, count - start)
            parts = (values[start:start + own] for values in inputs)
            found.append(infer(*(np.concatenate([part, np.repeat(
                part[-1:], self.minibatch - own, axis=0)]) for part in parts))[:own])
        photos = np.concatenate(found)
        if not np.isfinite(photos).all():
            raise UserError(f"{self.path}: the network makes values that are not finite, it has "
                            "diverged: use an older snapshot")
        return photos


class Translator(PhotoDrawer):
    """A snapshot's generator of photos from maps.

    Attributes:
        classes: names of the classes in its maps.
        has_dropout: whether photos from one map differ by their seeds.

    For the others see PhotoDrawer.
    """

    variant, lack = "pix2pix", "draws no photos from maps"

    def __init__(self, path: Path, minibatch: int = 8):
        """Load the generator of a snapshot file; see PhotoDrawer."""
        super().__init__(path, minibatch)
        self.classes = tuple(self.header["classes"])
        self.has_dropout = bool(self.network.dropout_shapes)
        self._infer = tf.function(self.network, autograph=False, reduce_retracing=True)

    def translate(self, segmaps: np.ndarray, seeds: Sequence[int]) -> np.ndarray:
        """Return photos float32 [n, R, R, 3] from maps uint8 [n, R, R, C], each with the dropout of
        its seed.

        Raises:
            UserError: the network has diverged.
        """
        def infer(segmaps: np.ndarray, seeds: np.ndarray) -> np.ndarray:
            return self._infer(tf.cast(segmaps, tf.float32) / 255,
                               seed_masks(self.network, seeds)).numpy()

        return self.draw_in_minibatches(infer, segmaps, np.asarray(seeds))


def seed_masks(network: TranslationGenerator, seeds: Sequence[int]) -> list[tf.Tensor]:
    """Return the dropout masks of pictures with their own seeds: from RandomState([seed, layer]),
    whose stream is frozen."""
    layers = {f"dropout{i}": i for i in range(len(network.dropout_shapes))}

    def uniform(name: str, shape: Sequence[int]) -> tf.Tensor:
        return tf.constant(np.stack([
            np.random.RandomState([seed, layers[name]]).random_sample(shape) for seed in seeds]),
            tf.float32)

    return network.masks(uniform)
