"""What learns label maps from labelled pictures: one stage, steps of cross-entropy on devices."""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from dnnlib.data import channels
from dnnlib.tflib.distribute import Draws
from dnnlib.tflib.optimizer import all_finite
from training.method_config import MethodConfig
from training.single_stage import SingleStage, SingleStageMethod
from training.state import Progress


class LabelTraining(SingleStageMethod):
    """A network that gives every pixel the logits of its label, selected by mean IoU.

    Its `train_call` returns logits and {name: value} of what a step assigns. Subclasses make it,
    and the batches, and say what a batch is to the network.

    Attributes:
        network_name: of the network among `networks`.
    """

    network_name: str
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
        super().__init__(config, classes, strategy)
        self.evaluate = evaluate

    def examples(self, batch: NamedTuple, draws: Draws) -> tuple[Any, tf.Tensor]:
        """Return the network's inputs and the label maps int32 of its logits, in a replica."""
        raise NotImplementedError

    def pixel_weights(self) -> tf.Tensor:
        """Return the weight of a pixel of each label, float32 [1 + C]."""
        return tf.ones([len(self.classes) + 1])

    def _update(self, batch, step, lrate):
        """Take one step; traced."""
        grads, means, finite, report = self.strategy.run(self._gradients, (batch, step))
        finite = self.first(finite)
        self.apply(self.network_name, grads, means, finite, lrate)
        report = {name: self.first(value) for name, value in report.items()}
        return {**report, "Progress/skipped_updates": 1.0 - tf.cast(finite, tf.float32)}

    def _gradients(self, batch, step):
        """Return all-reduced gradients, running means, whether all is finite, and a report; in a
        replica."""
        network, context = self.networks[self.network_name], tf.distribute.get_replica_context()
        inputs, label_maps = self.examples(batch, self.draws(step))
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

    def scores(self, stage: SingleStage, progress: Progress) -> dict[str, float]:
        """Return mIoU and accuracy on pictures that are not learned from."""
        return self.evaluate(self) if self.evaluate else {}
