"""Train a small network to tell which of two lists a photo is from; it classifies translated
photos, and unseen real photos for comparison.

It is trained in seconds, on the photos of the CycleGAN's training, and cached by their digests.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from dnnlib import util
from dnnlib.download import keep_arrays
from dnnlib.safe_pickle import NPZ_ERRORS, read_npz
from dnnlib.tflib.keras_network import KerasNetwork
from dnnlib.tflib.optimizer import Adam
from metrics.cycle.photos import CyclePhotos, cache_key
from training.cycle.domains import split_mask, to_floats
from training.cycle.losses import critic_view

LARGEST = 64  # side of the images that it sees; larger photos are averaged down
FMAPS = (16, 32, 64, 64)
# All that determines it besides the photos; a result records it.
RECIPE = {"network": "3x3 convolutions of stride 2, mean over the picture, one logit",
          "fmaps": list(FMAPS), "largest_side": LARGEST, "photos": 1000, "steps": 400,
          "minibatch": 32, "lrate": 1e-3, "flips": True, "seed": 0}
MINIBATCH = 16  # photos read at a time


class DomainNetwork(KerasNetwork):
    """rgb float32 [N, side, side, 3] in [-1, 1] -> logits [N, 1], above 0 for the list B."""

    @dataclass(frozen=True)
    class Options:
        """The network's settings."""

        side: int
        seed: int = 0

    def make_model(self) -> keras.Model:
        """Return the model; it has no norms, which would remove the tint."""
        side = self.options.side
        images = x = layers.Input((side, side, 3), name="images")
        for i, fmaps in enumerate(FMAPS):
            x = layers.Conv2D(fmaps, 3, 2, "same", activation="relu", name=f"conv{i}")(x)
        x = layers.GlobalAveragePooling2D()(x)
        return keras.Model([images], layers.Dense(1, name="logit")(x))


class View(NamedTuple):
    """How the network sees photos.

    Attributes:
        side: size to which they are averaged down. has_regions: it sees garments as critics do.
    """

    side: int
    has_regions: bool

    def shrink(self, images: tf.Tensor) -> tf.Tensor:
        """Return images [n, R, R, channels] averaged down."""
        factor = images.shape[1] // self.side
        return tf.nn.avg_pool2d(images, factor, factor, "VALID") if factor > 1 else images

    def critic_view(self, rgb: tf.Tensor, mask: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
        """Return reduced photos as the network sees them; masks as in `critic_view`."""
        return critic_view(rgb, mask, other, self.has_regions)


class DomainClassifier:
    """A trained network and its view.

    Attributes:
        about: what a result records about it: its recipe, the digest of its weights.
    """

    def __init__(self, network: DomainNetwork, view: View):
        self._network, self._view = network, view
        self.about = {**RECIPE, "side": view.side, "digest": network.digest()}

    def classify_as_b(self, rgb: tf.Tensor, mask: tf.Tensor, other: tf.Tensor) -> np.ndarray:
        """Return whether photos float32 [n, R, R, 3] look like those of B, bool [n]; mask, other:
        masks of their garments, and of the garments in photos of the other list."""
        seen = self._view.critic_view(*map(self._view.shrink, (rgb, mask, other)))
        return self._network(seen).numpy()[:, 0] > 0


def load_or_train_classifier(photos: CyclePhotos, has_regions: bool, cache: Path | None,
                             report: Callable[[str], None]) -> DomainClassifier:
    """Return the classifier of training photos A and B, from the cache if it is there.

    Args:
        has_regions: it sees garments, as critics do; else whole photos.
        report: called with warnings.
    """
    view = View(min(photos.A.resolution, LARGEST), has_regions)
    network = DomainNetwork("domains", side=view.side, seed=RECIPE["seed"])
    lists = [cache_key(domain) for domain in photos]
    key = hashlib.sha256(json.dumps([RECIPE, view, lists]).encode()).hexdigest()[:32]
    path = cache and cache / f"domains-{key}.npz"
    if path and path.is_file():
        try:
            network.set_arrays(read_npz(path), str(path))
            return DomainClassifier(network, view)
        except (OSError, util.UserError, *NPZ_ERRORS) as error:
            report(f"warning: {path} is damaged ({util.one_line(error)}); making it again")
    # The first photos of each list [n, side, side, 4]: colours, and the mask to translate
    reduced = [np.concatenate([
        view.shrink(tf.concat(split_mask(to_floats(tf.constant(own))), -1)).numpy()
        for own in photos.batches(side, MINIBATCH, min(RECIPE["photos"], len(domain.numbers)))])
        for side, domain in photos._asdict().items()]
    train_classifier(network, reduced, view)
    if path:
        keep_arrays(path, network.get_arrays(), report)
    return DomainClassifier(network, view)


def train_classifier(network: DomainNetwork, lists: list[np.ndarray], view: View) -> None:
    """Train a network to tell which of two lists [n, side, side, 4] a photo is from. Each list
    gives half of every minibatch, so that the longer one is not preferred."""
    optimizer, rng = Adam(network.trainables, 0.9, 0.999), np.random.default_rng(RECIPE["seed"])
    strategy, half = tf.distribute.get_strategy(), RECIPE["minibatch"] // 2
    truth = tf.constant([[0.0]] * half + [[1.0]] * half)

    @tf.function(autograph=False)
    def step(a: tf.Tensor, b: tf.Tensor) -> None:
        (rgb_a, mask_a), (rgb_b, mask_b) = split_mask(a), split_mask(b)
        seen = tf.concat([view.critic_view(rgb_a, mask_a, mask_b),
                          view.critic_view(rgb_b, mask_b, mask_a)], 0)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(
                truth, network.train_call(seen)[0]))
        grads = tape.gradient(loss, network.trainables)
        optimizer.apply(strategy, grads, tf.constant(True), tf.constant(RECIPE["lrate"]))

    with util.progress(total=RECIPE["steps"], desc="classifier", unit="step") as bar:
        for _ in range(RECIPE["steps"]):
            drawn = []
            for photos in lists:
                some = photos[rng.integers(len(photos), size=half)]
                # About half of them are mirrored.
                kept = rng.random(half)[:, None, None, None] < 0.5
                drawn.append(tf.constant(np.where(kept, some, some[:, :, ::-1])))
            step(*drawn)
            bar.update(1)
