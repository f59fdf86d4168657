"""A segmentation network as a method: one stage, gradient descent, selected by validation mIoU."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from dnnlib.data import channels, mirroring, pictures
from dnnlib.data.labelled import LabelledPictures
from dnnlib.tflib import distribute
from dnnlib.tflib.distribute import Draws
from dnnlib.tflib.network import Network, build
from dnnlib.tflib.optimizer import Sgd, all_finite
from training.method import Method
from training.segmentation.config import SegmenterConfig
from training.segmentation.imagenet import imagenet_arrays
from training.segmentation.stream import LabelledBatch, LabelledStream, Source, process_pictures
from training.state import Progress

STAGE = "labels"
NETWORK = "S"
PICTURES, COLUMNS = 16, 4  # of a grid: photo, map, what the network says
MAX_WEIGHT = 10.0  # of a rare class's pixels


@dataclass(frozen=True)
class SegmenterStage:
    """A moment of the training: everything but the learning rate stays as it is."""

    minibatch: int
    tick_kimg: float
    lrate: float
    resolution: int
    name: str = STAGE
    phase: tuple = (STAGE,)
    is_comparable: bool = True

    @property
    def scalars(self) -> dict[str, float]:
        """Return what every tick reports."""
        return {"Progress/lrate": self.lrate}

    @property
    def summary(self) -> str:
        """Return the same for the log."""
        return f"lrate {self.lrate:<9.3g}"


class SegmenterTraining(Method):
    """The network S, which draws the label map of a photo.

    Attributes:
        pictures: what it is trained on.
    """

    higher_is_better = True

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
        self.config, self.classes, self.sources = config, classes, sources
        self.about_data, self.strategy, self.shown = about_data, strategy, shown
        self.evaluate, self.report = evaluate, report
        self.rows = [distribute.replica_rows(config.minibatch, strategy.num_replicas_in_sync, r, 1)
                     for r in range(strategy.num_replicas_in_sync)]
        self.worker_rows = distribute.worker_rows(strategy, config.minibatch, 1)
        self._stream = None
        self._compiled = tf.function(self._update, autograph=False)

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

    # The schedule.

    def stage_ends(self, progress: Progress) -> list[tuple[str, int]]:
        """Return the end of the only stage."""
        ended = progress.ended_nimg
        return [(STAGE, ended[0] if ended else round(self.config.kimg * 1000))]

    def stage(self, progress: Progress) -> SegmenterStage:
        """Return the stage with the learning rate of the moment."""
        c = self.config
        left = max(1 - progress.schedule_nimg / (c.kimg * 1000), 0.0) if c.kimg else 0.0
        return SegmenterStage(c.minibatch, c.tick_kimg, c.lrate * left ** c.poly_power,
                              c.resolution)

    # Steps.

    def compiles(self, stage: SegmenterStage, step: int) -> str | None:
        """Return what the first step compiles."""
        if self._compiled.experimental_get_tracing_count():
            return None
        return f"segmentation network at {stage.resolution}x{stage.resolution}"

    def next_batch(self, stage: SegmenterStage, progress: Progress) -> LabelledBatch:
        """Return the next labelled pictures, of several workers this one's."""
        if self._stream is None:
            start = progress.stream_nimg.get(self.stream(stage, progress.step), 0)
            self._stream = iter(LabelledStream(self.sources, self.config.seed, start,
                                               self.worker_rows))
        return next(self._stream)

    def step(self, batch: LabelledBatch, stage: SegmenterStage, step: int) -> dict[str, tf.Tensor]:
        """Update the network once."""
        if len(self.rows) > 1:
            places = [np.searchsorted(self.worker_rows, rows) for rows in self.rows]
            batch = LabelledBatch(*(
                self.strategy.experimental_distribute_values_from_function(
                    lambda context, values=values: tf.gather(
                        values, places[context.replica_id_in_sync_group])) for values in batch))
        return self._compiled(batch, tf.constant(step, tf.int32),
                              tf.constant(stage.lrate, tf.float32))

    def _update(self, batch, step, lrate):
        """Take one step; traced."""
        network = self.networks[NETWORK]
        grads, means, finite, report = self.strategy.run(self._gradients, (batch, step))

        def first(value):
            return self.strategy.experimental_local_results(value)[0]

        finite = first(finite)
        self.optimizers[NETWORK].apply(self.strategy, grads, finite, lrate)
        for name, value in means.items():
            self.strategy.extended.update(
                network.vars[name], lambda var, new: var.assign(tf.where(finite, new, var)),
                args=(value,))
        report = {name: first(value) for name, value in report.items()}
        return {**report, "Progress/skipped_updates": 1.0 - tf.cast(finite, tf.float32)}

    def _gradients(self, batch, step):
        """Return all-reduced gradients, running means, whether all is finite, and a report; in a
        replica."""
        network, context = self.networks[NETWORK], tf.distribute.get_replica_context()
        rows = None
        if len(self.rows) > 1:
            rows = tf.gather(tf.stack(self.rows), context.replica_id_in_sync_group)
        draws = Draws(self.config.seed, step, self.config.minibatch, rows)
        rgb, label_maps = process_pictures(batch, draws, self.config, self._mirrored_labels)
        counted = label_maps != channels.IGNORE  # [n, R, R]
        label_maps = tf.where(counted, label_maps, 0)
        weights = tf.gather(self._class_weights, label_maps) * tf.cast(counted, tf.float32)
        # The mean over all pixels of the minibatch that count, whichever replica has them.
        total = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.reduce_sum(weights))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(list(network.trainables.values()))
            logits, means = network.train_call(rgb)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(label_maps, logits)
            loss = tf.reduce_sum(weights * losses) / tf.maximum(total, 1.0)
        grads = tape.gradient(loss, network.trainables)
        hits = tf.cast(tf.equal(tf.argmax(logits, -1, tf.int32), label_maps) & counted, tf.float32)
        pixels = tf.reduce_sum(tf.cast(counted, tf.float32))
        grads, loss, hits, pixels = context.all_reduce(
            tf.distribute.ReduceOp.SUM, [grads, loss, tf.reduce_sum(hits), pixels])
        means = context.all_reduce(tf.distribute.ReduceOp.MEAN, means)
        report = {"Loss/cross_entropy": loss,
                  "Training/accuracy": hits / tf.maximum(pixels, 1.0)}
        return grads, means, all_finite(grads) & tf.math.is_finite(loss), report

    @functools.cached_property
    def _mirrored_labels(self):
        """Return the label that each label 0..C has in a mirrored picture; None if all stay."""
        if not self.config.mirror:
            return None
        pairs = mirroring.parse_pairs(self.config.mirror_pairs, self.classes)
        order = mirroring.mirrored_order(pairs, self.classes)
        # Class i gets the map of class order[i]: label order[i] becomes label i.
        return order and [0, *(order.index(i) + 1 for i in range(len(order)))]

    @functools.cached_property
    def _class_weights(self):
        """Return the weight of a pixel of each label, float32 [1 + C]."""
        if self.config.class_weights == "none":
            return np.ones(len(self.classes) + 1, np.float32)
        return balanced_weights(self.sources, len(self.classes) + 1).astype(np.float32)

    def close(self) -> None:
        """Let go of the reading threads."""
        self._stream = None

    # What a run shows of it.

    def draw(self, stage: SegmenterStage, run_dir: Path, name: str) -> dict[str, np.ndarray]:
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

    def scores(self, stage: SegmenterStage, progress: Progress) -> dict[str, float]:
        """Return mIoU and accuracy on the validation split."""
        return self.evaluate(self) if self.evaluate else {}

    def header(self, stage: SegmenterStage, progress: Progress) -> dict[str, Any]:
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
