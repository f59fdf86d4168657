"""What learns label maps from labelled pictures: one stage, steps of cross-entropy on devices."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from dnnlib.data import channels
from dnnlib.tflib import distribute
from dnnlib.tflib.distribute import Draws
from dnnlib.tflib.optimizer import all_finite
from training.method import Method
from training.method_config import MethodConfig
from training.state import Progress


@dataclass(frozen=True)
class LabelStage:
    """A moment of the training: everything but the learning rate stays as it is."""

    minibatch: int
    tick_kimg: float
    lrate: float
    resolution: int
    name: str
    is_comparable: bool = True

    @property
    def phase(self) -> tuple:
        """Return the stage's name: there is one phase."""
        return (self.name,)

    @property
    def scalars(self) -> dict[str, float]:
        """Return what every tick reports."""
        return {"Progress/lrate": self.lrate}

    @property
    def summary(self) -> str:
        """Return the same for the log."""
        return f"lrate {self.lrate:<9.3g}"


class LabelTraining(Method):
    """A network that gives every pixel the logits of its label, selected by mean IoU.

    Its `train_call` returns logits and {name: value} of what a step assigns. Subclasses make it,
    and the batches, and say what a batch is to the network.

    Attributes:
        network_name: of the network among `networks`.
        stage_name: of the only stage.
        rows, worker_rows: places in the minibatch of every replica, and of this worker.
    """

    network_name: str
    stage_name: str
    higher_is_better = True

    def __init__(self, config: MethodConfig, classes: tuple[str, ...],
                 strategy: tf.distribute.Strategy, evaluate: Callable | None):
        """
        Args:
            config: with `resolution` set, `minibatch`, `kimg` and `tick_kimg`.
            classes: names of the labels 1..C.
            strategy: the devices to train on.
            evaluate: function of this method -> {metric: value}, on the first worker.
        """
        self.config, self.classes, self.strategy = config, classes, strategy
        self.evaluate = evaluate
        self.rows = [distribute.replica_rows(config.minibatch, strategy.num_replicas_in_sync, r, 1)
                     for r in range(strategy.num_replicas_in_sync)]
        self.worker_rows = distribute.worker_rows(strategy, config.minibatch, 1)
        self._compiled = tf.function(self._update, autograph=False)

    def examples(self, batch: NamedTuple, draws: Draws) -> tuple[Any, tf.Tensor]:
        """Return the network's inputs and the label maps int32 of its logits, in a replica."""
        raise NotImplementedError

    def pixel_weights(self) -> tf.Tensor:
        """Return the weight of a pixel of each label, float32 [1 + C]."""
        return tf.ones([len(self.classes) + 1])

    def lrate(self, left: float) -> float:
        """Return the learning rate where a share of the training is left."""
        raise NotImplementedError

    # The schedule.

    def stage_ends(self, progress: Progress) -> list[tuple[str, int]]:
        """Return the end of the only stage."""
        ended = progress.ended_nimg
        return [(self.stage_name, ended[0] if ended else round(self.config.kimg * 1000))]

    def stage(self, progress: Progress) -> LabelStage:
        """Return the stage with the learning rate of the moment."""
        c = self.config
        left = max(1 - progress.schedule_nimg / (c.kimg * 1000), 0.0) if c.kimg else 0.0
        return LabelStage(c.minibatch, c.tick_kimg, self.lrate(left), c.resolution,
                          self.stage_name)

    # Steps.

    def compiles(self, stage: LabelStage, step: int) -> str | None:
        """Return what the first step compiles."""
        if self._compiled.experimental_get_tracing_count():
            return None
        return f"{self.config.variant} at {stage.resolution}x{stage.resolution}"

    def step(self, batch: NamedTuple, stage: LabelStage, step: int) -> dict[str, tf.Tensor]:
        """Update the network once."""
        if len(self.rows) > 1:
            places = [np.searchsorted(self.worker_rows, rows) for rows in self.rows]
            batch = type(batch)(*(
                self.strategy.experimental_distribute_values_from_function(
                    lambda context, values=values: tf.gather(
                        values, places[context.replica_id_in_sync_group])) for values in batch))
        return self._compiled(batch, tf.constant(step, tf.int32),
                              tf.constant(stage.lrate, tf.float32))

    def _update(self, batch, step, lrate):
        """Take one step; traced."""
        network = self.networks[self.network_name]
        grads, means, finite, report = self.strategy.run(self._gradients, (batch, step))

        def first(value):
            return self.strategy.experimental_local_results(value)[0]

        finite = first(finite)
        self.optimizers[self.network_name].apply(self.strategy, grads, finite, lrate)
        for name, value in means.items():
            self.strategy.extended.update(
                network.vars[name], lambda var, new: var.assign(tf.where(finite, new, var)),
                args=(value,))
        report = {name: first(value) for name, value in report.items()}
        return {**report, "Progress/skipped_updates": 1.0 - tf.cast(finite, tf.float32)}

    def _gradients(self, batch, step):
        """Return all-reduced gradients, running means, whether all is finite, and a report; in a
        replica."""
        network, context = self.networks[self.network_name], tf.distribute.get_replica_context()
        rows = None
        if len(self.rows) > 1:
            rows = tf.gather(tf.stack(self.rows), context.replica_id_in_sync_group)
        draws = Draws(self.config.seed, step, self.config.minibatch, rows)
        inputs, label_maps = self.examples(batch, draws)
        counted = label_maps != channels.IGNORE
        label_maps = tf.where(counted, label_maps, 0)
        weights = tf.gather(self.pixel_weights(), label_maps) * tf.cast(counted, tf.float32)
        # The mean over all pixels of the minibatch that count, whichever replica has them.
        total = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.reduce_sum(weights))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(list(network.trainables.values()))
            logits, means = network.train_call(inputs)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(label_maps, logits)
            loss = tf.reduce_sum(weights * losses) / tf.maximum(total, 1.0)
        grads = tape.gradient(loss, network.trainables)
        hits = tf.cast(tf.equal(tf.argmax(logits, -1, tf.int32), label_maps) & counted, tf.float32)
        pixels = tf.reduce_sum(tf.cast(counted, tf.float32))
        grads, loss, hits, pixels = context.all_reduce(
            tf.distribute.ReduceOp.SUM, [grads, loss, tf.reduce_sum(hits), pixels])
        if means:
            means = context.all_reduce(tf.distribute.ReduceOp.MEAN, means)
        report = {"Loss/cross_entropy": loss,
                  "Training/accuracy": hits / tf.maximum(pixels, 1.0)}
        return grads, means, all_finite(grads) & tf.math.is_finite(loss), report

    def scores(self, stage: LabelStage, progress: Progress) -> dict[str, float]:
        """Return mIoU and accuracy on pictures that are not learned from."""
        return self.evaluate(self) if self.evaluate else {}
