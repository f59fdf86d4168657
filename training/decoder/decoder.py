"""A decoder as a method: every step computes the features of a few labelled pictures anew."""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from dnnlib.data import channels, pictures
from dnnlib.tflib.distribute import Draws
from dnnlib.tflib.network import Network, build
from dnnlib.tflib.optimizer import Adam, Optimizer, Sgd
from training.dataset import shuffled_index
from training.decoder.config import LINEAR_DROP, POLY_POWER, DecoderConfig
from training.decoder.labels import LabelledFolder
from training.decoder.networks import (
    DecodedGenerator,
    decoded_config,
    disagreement,
    gather_pixels,
    picture_uncertainty,
)
from training.sampler import Sampler, label_maps, label_row
from training.segmentation.label_training import LabelTraining
from training.single_stage import PICTURES, SingleStage
from training.snapshots import Snapshot, load_snapshot

NETWORK = "Gs"


class DecoderBatch(NamedTuple):
    """A minibatch of labelled pictures.

    Attributes:
        dlatents: float32 [N, layers, dlatent_size].
        label_maps: uint8 [N, R, R], 0..C and channels.IGNORE.
    """

    dlatents: tf.Tensor
    label_maps: tf.Tensor


class DecoderTraining(LabelTraining):
    """Trains the decoder of a generator.

    Noise is drawn anew every step, since features change with it and maps should not. Pictures are
    not mirrored: a decoder treats all pixels in the same way and each by itself, so a mirrored
    picture adds nothing.
    """

    network_name, stage_name = NETWORK, "classes"  # as if maps were trained with the colours

    def __init__(self, config: DecoderConfig, labelled: LabelledFolder, held_back: Sequence[int],
                 origin: Path, about: dict[str, Any], strategy: tf.distribute.Strategy,
                 evaluate: Callable | None = None):
        """
        Args:
            labelled: the pictures.
            held_back: numbers of the pictures that are not trained on.
            origin: snapshot of the generator that made them, or of this generator with a decoder,
                to continue from.

        For the others see SingleStageMethod.
        """
        super().__init__(config, labelled.classes, strategy, about, evaluate)
        self.labelled, self.origin = labelled, origin
        self.learned = [n for n in range(len(labelled)) if n not in set(held_back)]

    def make_networks(self) -> dict[str, Network]:
        """Return the snapshot's generator with the decoder that it has, or with a new one."""
        Gs = load_snapshot(self.origin, names=("Gs",)).networks["Gs"]
        if isinstance(Gs, DecodedGenerator):
            return {NETWORK: Gs}
        network = build("DecodedGenerator", NETWORK, decoded_config(
            Gs.config, len(self.classes), decoder=self.config.decoder,
            map_resolution=self.config.resolution, decoder_seed=self.config.seed))
        network.set_arrays(network.get_arrays() | {
            f"generator/{name}": value for name, value in Gs.get_arrays().items()})
        return {NETWORK: network}

    def make_optimizers(self, networks: dict[str, Network]) -> dict[str, Optimizer]:
        """Return gradient descent with momentum and weight decay of kernels for conv; else Adam."""
        variables = networks[NETWORK].trainables
        if self.config.decoder != "conv":
            return {NETWORK: Adam(variables, beta1=0.9, beta2=0.999)}
        kernels = [key for key in variables if key.endswith("/kernel")]
        return {NETWORK: Sgd(variables, 0.9, self.config.weight_decay, kernels)}

    def lrate(self, left: float) -> float:
        """Return the learning rate when the share `left` of the training remains."""
        factor = {"conv": left ** POLY_POWER, "mlp": 1.0,
                  "linear": 1.0 if left > 1 - LINEAR_DROP else 0.1}[self.config.decoder]
        return self.config.lrate * factor

    # Steps.

    def batches(self, start_nimg: int) -> Iterator[DecoderBatch]:
        """Yield minibatches of labelled pictures for ever, in permutations."""
        for first in itertools.count(start_nimg, self.config.minibatch):
            numbers = [self.learned[shuffled_index(self.config.seed, len(self.learned),
                                                   first + int(row))]
                       for row in self.worker_rows]
            with tf.device("CPU:0"):
                batch = DecoderBatch(tf.constant(self._dlatents[numbers]),
                                     tf.constant(self.labelled.label_maps[numbers]))
            yield batch

    def examples(self, batch: DecoderBatch, draws: Draws) -> tuple[Any, tf.Tensor]:
        """Return features and label maps of whole pictures, or for mlp of some of their pixels."""
        c, network = self.config, self.networks[NETWORK]
        label_maps = tf.cast(batch.label_maps, tf.int32)
        features = network.features(
            batch.dlatents, lambda layer, h, w: draws.normal(f"noise{layer}", [h, w, 1]))
        if c.decoder != "mlp":
            return features, label_maps
        # mlp sees P pixels of each picture.
        side = c.resolution
        places = draws.uniform("pixels", [c.pixels // c.minibatch]) * side ** 2  # [n, P]
        places = tf.minimum(tf.cast(places, tf.int32), side ** 2 - 1)
        pixels = gather_pixels(features, places, side)
        labels = tf.gather(tf.reshape(label_maps, [-1, side ** 2]), places, batch_dims=1)
        # All members learn from the same n P pixels; only their initial weights differ.
        members = network.decoder.options.members
        return (tf.reshape(pixels, [-1, pixels.shape[-1]]),
                tf.tile(tf.reshape(labels, [1, -1]), [members, 1]))

    @functools.cached_property
    def _sampler(self):
        """Return a Sampler of the network; it always uses the network's current weights."""
        made = self.labelled.labelling
        return Sampler(Snapshot(self.networks, {"classes": self.classes, "lod": {
            "resolution": made.resolution, "fade": made.fade}}), label_row(
                made.class_label, self.networks[NETWORK].label_size, self.origin))

    @functools.cached_property
    def _dlatents(self):
        """Return w float32 [n, layers, dlatent_size] of the labelled pictures."""
        return self.labelled.dlatents(self._sampler)

    # What a run shows about it.

    def images(self, numbers: Sequence[int]) -> np.ndarray:
        """Return labelled pictures with the maps that the decoder draws, [n, R, R, 3 + C]."""
        numbers, images = list(numbers), []
        for start in range(0, len(numbers), self.config.minibatch):
            part = numbers[start:start + self.config.minibatch]
            images.append(self._sampler.synthesize(self._dlatents[part],
                                                   self.labelled.noise(part)).numpy())
        return np.concatenate(images)

    def predict(self, numbers: Sequence[int]) -> np.ndarray:
        """Return the label maps uint8 [n, R, R] that the decoder draws for labelled pictures."""
        return label_maps(self.images(numbers))

    def draw(self, stage: SingleStage, run_dir: Path, name: str) -> dict[str, np.ndarray]:
        """Write fakes<name>.png: picture, its labels, the decoder's map."""
        numbers = range(min(PICTURES, len(self.labelled)))
        images, truth = self.images(numbers), self.labelled.label_maps[:PICTURES]
        return self.save_labelled(run_dir, name, pictures.to_uint8(images[..., channels.RGB]),
                                  truth, label_maps(images))

    def details(self, stage: SingleStage) -> dict[str, float]:
        """Return how much the members of an mlp's ensemble disagree on held-back pictures, or on
        all pictures if none are held back."""
        if self.config.decoder != "mlp":
            return {}
        network = self.networks[NETWORK]
        unseen = [n for n in range(len(self.labelled)) if n not in self.learned] or self.learned
        values = []
        for number in unseen:
            features = network.features(tf.constant(self._dlatents[[number]]),
                                        self.labelled.noise([number]))
            values.append(picture_uncertainty(disagreement(
                network.decoder.probabilities(features))))
        return {"Decoder/uncertainty": float(np.mean(values))}
