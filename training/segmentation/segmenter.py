"""A segmentation network as a method: one stage, gradient descent, selected by validation mIoU."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from dnnlib.data import channels, mirroring, pictures
from dnnlib.data.labelled import LabelledPictures
from dnnlib.tflib.distribute import Draws
from dnnlib.tflib.network import Network, build
from dnnlib.tflib.optimizer import Sgd
from training.segmentation.config import SegmenterConfig
from training.segmentation.imagenet import imagenet_arrays
from training.segmentation.label_training import LabelTraining
from training.segmentation.stream import LabelledBatch, LabelledStream, Source, process_pictures
from training.single_stage import SingleStage
from training.state import Progress

STAGE = "labels"
NETWORK = "S"
PICTURES, COLUMNS = 16, 4  # of a grid: photo, map, what the network says
MAX_WEIGHT = 10.0  # of a rare class's pixels


class SegmenterTraining(LabelTraining):
    """The network S, which draws the label map of a photo.

    Attributes:
        pictures: what it is trained on.
    """

    network_name, stage_name = NETWORK, STAGE

    def __init__(self, config: SegmenterConfig, classes: tuple[str, ...], sources: list[Source],
                 about_data: dict[str, Any], strategy: tf.distribute.Strategy,
                 shown: LabelledPictures,
                 evaluate: Callable[["SegmenterTraining"], dict[str, float]] | None = None,
                 report: Callable[[str], None] = print):
        """
        Args:
            config: with `resolution` set.
            classes: names of the labels 1..C.
            sources: what the minibatches come from.
            about_data: what a snapshot's header says of the data.
            strategy: the devices to train on.
            shown: pictures for the grids.
            evaluate: what measures the network on the validation split, on the first worker.
            report: takes lines on what is fetched.
        """
        super().__init__(config, classes, strategy, evaluate)
        self.sources, self.about_data, self.shown = sources, about_data, shown
        self.report = report
        self._stream = None

    def begin(self) -> Progress:
        """Make the network, with ImageNet's weights if asked for."""
        c = self.config
        network = build("Segmenter", NETWORK, {
            "resolution": c.resolution, "num_outputs": len(self.classes) + 1,
            "architecture": c.architecture, "backbone": c.backbone,
            "output_stride": c.output_stride, "unet_fmaps": c.unet_fmaps, "seed": c.seed})
        if c.imagenet:
            network.set_arrays(network.get_arrays() | imagenet_arrays(self.report))
        self.networks = {NETWORK: network}
        self.optimizers = self.make_optimizers(self.networks)
        return Progress(first_stage=STAGE, stage=STAGE)

    def make_optimizers(self, networks: dict[str, Network]) -> dict[str, Sgd]:
        """Return gradient descent with momentum; kernels decay."""
        c = self.config
        return {name: Sgd(network.trainables, c.momentum, c.weight_decay,
                          [key for key in network.trainables if key.endswith("/kernel")])
                for name, network in networks.items()}

    def lrate(self, left: float) -> float:
        """Return the learning rate where a share of the training is left."""
        return self.config.lrate * left ** self.config.poly_power

    # Steps.

    def next_batch(self, stage: SingleStage, progress: Progress) -> LabelledBatch:
        """Return the next labelled pictures, of several workers this one's."""
        if self._stream is None:
            start = progress.stream_nimg.get(self.stream(stage, progress.step), 0)
            self._stream = iter(LabelledStream(self.sources, self.config.seed, start,
                                               self.worker_rows))
        return next(self._stream)

    def examples(self, batch: LabelledBatch, draws: Draws) -> tuple[tf.Tensor, tf.Tensor]:
        """Return photos and label maps, changed at random."""
        return process_pictures(batch, draws, self.config, self._mirrored_labels)

    @functools.cached_property
    def _mirrored_labels(self):
        """Return the label that each label 0..C has in a mirrored picture; None if all stay."""
        if not self.config.mirror:
            return None
        pairs = mirroring.parse_pairs(self.config.mirror_pairs, self.classes)
        order = mirroring.mirrored_order(pairs, self.classes)
        # Class i gets the map of class order[i]: label order[i] becomes label i.
        return order and [0, *(order.index(i) + 1 for i in range(len(order)))]

    def pixel_weights(self) -> tf.Tensor:
        """Return the weight of a pixel of each label, float32 [1 + C]."""
        if self.config.class_weights == "none":
            return super().pixel_weights()
        return tf.constant(self._balanced_weights, tf.float32)

    @functools.cached_property
    def _balanced_weights(self):
        return balanced_weights(self.sources, len(self.classes) + 1)

    def close(self) -> None:
        """Let go of the reading threads."""
        self._stream = None

    # What a run shows of it.

    def draw(self, stage: SingleStage, run_dir: Path, name: str) -> dict[str, np.ndarray]:
        """Write fakes<name>.png: photo, its map, the network's map."""
        numbers = range(min(PICTURES, len(self.shown)))
        rgb, truth = (np.stack(parts) for parts in zip(*map(self.shown.read, numbers)))
        found = self.predict(rgb)
        num_classes = len(self.classes)
        truth = np.where(truth == channels.IGNORE, 0, truth)
        cells = np.concatenate([rgb, channels.colourise(truth, num_classes),
                                channels.colourise(found, num_classes)], axis=2)
        grid = pictures.grey_sheet(cells, COLUMNS)
        pictures.save_png(run_dir / f"fakes{name}.png", grid)
        return {"labels": grid}

    def predict(self, rgb: np.ndarray) -> np.ndarray:
        """Return the label maps uint8 [N, R, R] of photos uint8 [N, R, R, 3]."""
        return predicted_labels(self._infer, rgb)

    @functools.cached_property
    def _infer(self):
        """Return the compiled network."""
        return tf.function(self.networks[NETWORK], reduce_retracing=True)

    def header(self, stage: SingleStage, progress: Progress) -> dict[str, Any]:
        """Return what a snapshot says of itself."""
        return {"variant": "segmenter", "stage": STAGE, "classes": list(self.classes),
                "kimg": progress.cur_nimg / 1000,
                "lod": {"resolution": self.config.resolution, "fade": 0.0}, **self.about_data}


def predicted_labels(network: Callable, rgb: np.ndarray) -> np.ndarray:
    """Return the label maps uint8 [N, R, R] that a network gives photos uint8 [N, R, R, 3]."""
    logits = network(tf.cast(rgb, tf.float32) / 127.5 - 1)
    return tf.argmax(logits, axis=-1).numpy().astype(np.uint8)


def balanced_weights(sources: list[Source], num_labels: int) -> np.ndarray:
    """Return median frequency / frequency of each label, at most MAX_WEIGHT; float64 [num_labels].

    Source: Eigen and Fergus 2015, section 4.3.3. A label that nothing shows has the weight 1.
    """
    pixels = np.zeros(num_labels)
    for source in sources:
        count = np.zeros(num_labels)
        for number in source.numbers:
            _, label_map = source.pictures.read(number)
            count += np.bincount(label_map.ravel(), minlength=256)[:num_labels]
        pixels += count * source.share / max(len(source.numbers), 1)
    shown = pixels > 0
    weights = np.ones(num_labels)
    weights[shown] = np.minimum(np.median(pixels[shown]) / pixels[shown], MAX_WEIGHT)
    return weights
