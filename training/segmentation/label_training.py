"""A method that learns label maps from labelled pictures: one stage, trained by cross-entropy."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from dnnlib.data import channels
from dnnlib.tflib.distribute import Draws
from dnnlib.tflib.optimizer import all_finite
from training.single_stage import SingleStageMethod


class LabelTraining(SingleStageMethod):
    """Trains a network that gives logits of labels for every pixel; mean IoU selects snapshots.

    The network's `train_call` returns logits and {name: value} for a step to assign. Subclasses
    make the network and the batches, and turn a batch into `examples`.

    Attributes:
        network_name: name of the network in `networks`.
    """

    network_name: str
    higher_is_better = True

    def examples(self, batch: NamedTuple, draws: Draws) -> tuple[Any, tf.Tensor]:
        """Return the network's inputs, and the int32 labels that its logits should give; called in
        a replica."""
        raise NotImplementedError

    @property
    def pixel_weights(self) -> np.ndarray:
        """Return the weight of pixels of each label, float64 [1 + C]."""
        return np.ones(len(self.classes) + 1)

    def _update(self, batch, step, lrate):
        """Take one step; traced."""
        grads, means, finite, report = self.strategy.run(self._gradients, (batch, step))
        self.apply(self.network_name, grads, means, self.first_replica(finite), lrate)
        return {name: self.first_replica(value) for name, value in report.items()}

    def _gradients(self, batch, step):
        """Return all-reduced gradients, running means, whether all is finite, and {name: scalar} to
        report; called in a replica."""
        network, context = self.networks[self.network_name], tf.distribute.get_replica_context()
        inputs, label_maps = self.examples(batch, self.draws(step))
        counted = label_maps != channels.IGNORE
        label_maps = tf.where(counted, label_maps, 0)
        weights = tf.constant(self.pixel_weights, tf.float32)
        weights = tf.gather(weights, label_maps) * tf.cast(counted, tf.float32)
        # The mean over all pixels of the minibatch that count, across replicas.
        total = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.reduce_sum(weights))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(list(network.trainables.values()))
            logits, means = network.train_call(inputs)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(label_maps, logits)
            loss = tf.reduce_sum(weights * losses) / tf.maximum(total, 1.0)
        grads = tape.gradient(loss, network.trainables)
        # Gradients, loss and accuracy are summed over the replicas, running means averaged.
        hits = tf.cast(tf.equal(tf.argmax(logits, -1, tf.int32), label_maps) & counted, tf.float32)
        pixels = tf.reduce_sum(tf.cast(counted, tf.float32))
        grads, loss, hits, pixels = context.all_reduce(
            tf.distribute.ReduceOp.SUM, [grads, loss, tf.reduce_sum(hits), pixels])
        if means:
            means = context.all_reduce(tf.distribute.ReduceOp.MEAN, means)
        finite = all_finite(grads) & tf.math.is_finite(loss)
        return grads, means, finite, {
            "Loss/cross_entropy": loss, "Training/accuracy": hits / tf.maximum(pixels, 1.0),
            "Progress/skipped_updates": 1.0 - tf.cast(finite, tf.float32)}

    def save_labelled(self, run_dir: Path, name: str, rgb: np.ndarray, truth: np.ndarray,
                      found: np.ndarray) -> dict[str, np.ndarray]:
        """Write fakes<name>.png: pictures uint8 [n, R, R, 3], true label maps, found label maps."""
        truth = np.where(truth == channels.IGNORE, 0, truth)
        return self.save_grid(run_dir, name, np.concatenate([rgb, *(
            channels.colourise(maps, len(self.classes)) for maps in (truth, found))], axis=2))
