"""A segmentation network as a method: one stage, gradient descent, selected by validation mIoU."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from dnnlib.data import mirroring
from dnnlib.data.labelled import LabelledPictures
from dnnlib.tflib.distribute import Draws
from dnnlib.tflib.network import Network, build
from dnnlib.tflib.optimizer import Sgd
from training.segmentation.config import SegmenterConfig
from training.segmentation.imagenet import imagenet_arrays
from training.segmentation.label_training import LabelTraining
from training.segmentation.stream import LabelledBatch, Source, process_pictures, read_labelled
from training.single_stage import PICTURES, SingleStage

NETWORK = "S"
MAX_WEIGHT = 10.0  # largest weight of a rare class's pixels


class SegmenterTraining(LabelTraining):
    """Trains the network S, which draws the label map of a photo."""

    network_name, stage_name = NETWORK, "labels"

    def __init__(self, config: SegmenterConfig, classes: tuple[str, ...], sources: list[Source],
                 about: dict[str, Any], strategy: tf.distribute.Strategy, shown: LabelledPictures,
                 evaluate: Callable | None = None, report: Callable[[str], None] = print):
        """
        Args:
            sources: the sources of the minibatches.
            shown: pictures for the grids.
            report: function that takes lines about what is fetched.

        For the others see SingleStageMethod.
        """
        super().__init__(config, classes, strategy, about, evaluate)
        self.sources, self.shown, self.report = sources, shown, report

    def make_networks(self) -> dict[str, Network]:
        """Return a new network, with ImageNet's weights if config.imagenet."""
        c = self.config
        network = build("Segmenter", NETWORK, {
            "resolution": c.resolution, "num_outputs": len(self.classes) + 1,
            "architecture": c.architecture, "backbone": c.backbone,
            "output_stride": c.output_stride, "unet_fmaps": c.unet_fmaps, "exact_dilations": True,
            "seed": c.seed})
        if c.imagenet:
            network.set_arrays(network.get_arrays() | imagenet_arrays(self.report))
        return {NETWORK: network}

    def make_optimizers(self, networks: dict[str, Network]) -> dict[str, Sgd]:
        """Return gradient descent with momentum, and with weight decay of the kernels."""
        c = self.config
        return {name: Sgd(network.trainables, c.momentum, c.weight_decay,
                          [key for key in network.trainables if key.endswith("/kernel")])
                for name, network in networks.items()}

    def lrate(self, left: float) -> float:
        """Return the learning rate when the share `left` of the training remains."""
        return self.config.lrate * left ** self.config.poly_power

    # Steps.

    def read_batch(self, places: Sequence[int]) -> LabelledBatch:
        """Return labelled pictures of all sources, unchanged."""
        return read_labelled(self.sources, self.config.seed, places)

    def examples(self, batch: LabelledBatch, draws: Draws) -> tuple[tf.Tensor, tf.Tensor]:
        """Return photos and label maps, changed at random."""
        return process_pictures(batch, draws, self.config, self._mirrored_labels)

    @functools.cached_property
    def _mirrored_labels(self):
        """Return, for each label 0..C, its label in a mirrored picture; None if all are the same.
        """
        if not self.config.mirror:
            return None
        pairs = mirroring.parse_pairs(self.config.mirror_pairs, self.classes)
        order = mirroring.mirrored_order(pairs, self.classes)
        # Class i gets the map of class order[i]: label order[i] becomes label i.
        return order and [0, *(order.index(i) + 1 for i in range(len(order)))]

    @functools.cached_property
    def pixel_weights(self) -> np.ndarray:
        """Return the weight of pixels of each label, float64 [1 + C]."""
        if self.config.class_weights == "none":
            return super().pixel_weights
        return balanced_weights(self.sources, len(self.classes) + 1)

    # What a run shows about it.

    def draw(self, stage: SingleStage, run_dir: Path, name: str) -> dict[str, np.ndarray]:
        """Write fakes<name>.png: photo, its map, the network's map."""
        numbers = range(min(PICTURES, len(self.shown)))
        rgb, truth = (np.stack(parts) for parts in zip(*map(self.shown.read, numbers)))
        return self.save_labelled(run_dir, name, rgb, truth, self.predict(rgb))

    def predict(self, rgb: np.ndarray) -> np.ndarray:
        """Return the label maps uint8 [N, R, R] of photos uint8 [N, R, R, 3]."""
        logits = self._infer(tf.cast(rgb, tf.float32) / 127.5 - 1)
        return tf.argmax(logits, axis=-1).numpy().astype(np.uint8)

    @functools.cached_property
    def _infer(self):
        """Return the network as a compiled function."""
        return tf.function(self.networks[NETWORK], autograph=False, reduce_retracing=True)


def balanced_weights(sources: list[Source], num_labels: int) -> np.ndarray:
    """Return median frequency / frequency of each label, at most MAX_WEIGHT; float64 [num_labels].

    A label's frequency is its share of the pixels in the pictures that show it (Eigen and Fergus
    2015, section 4.3.3). A label that no picture shows has weight 1.
    """
    pixels, around = np.zeros(num_labels), np.zeros(num_labels)
    for source in sources:
        weight = source.share / max(len(source.numbers), 1)
        for number in source.numbers:
            _, label_map = source.pictures.read(number)
            count = np.bincount(label_map.ravel(), minlength=256)[:num_labels]
            pixels += weight * count
            around += weight * count.sum() * (count > 0)
    shown = pixels > 0
    weights, frequencies = np.ones(num_labels), pixels[shown] / around[shown]
    weights[shown] = np.minimum(np.median(frequencies) / frequencies, MAX_WEIGHT)
    return weights
