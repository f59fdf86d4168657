"""Methods whose generator draws a photo from a condition that its discriminator also sees."""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from dnnlib.tflib.distribute import Draws
from dnnlib.tflib.optimizer import all_finite
from training.single_stage import SingleStageMethod
from training.translation import losses
from training.translation.translator import NETWORK

CRITIC = "D"
_MEAN = tf.distribute.ReduceOp.MEAN


class Example(NamedTuple):
    """The training data of a replica's share of a step.

    Attributes:
        inputs: G's inputs, which the dropout masks follow.
        condition: [N, R, R, channels], which D sees before the photo's channels.
        semantics: [N, R, R, K], where each of K classes or keypoints is; not negative.
        photos: rgb [N, R, R, 3] in [-1, 1], which G should draw.
    """

    inputs: Sequence[tf.Tensor]
    condition: tf.Tensor
    semantics: tf.Tensor
    photos: tf.Tensor


class ConditionalGan(SingleStageMethod):
    """G, which draws a photo, and D, which sees the photo with the condition it is drawn from.

    A step updates D, then updates G using the updated D, on the same generated photos (pix2pix,
    section 3.3). The config is a ConditionalConfig. Subclasses make both networks and the batches,
    and turn a batch into an Example.
    """

    def example(self, batch: NamedTuple, draws: Draws) -> Example:
        """Return the Example for a batch, changed at random."""
        raise NotImplementedError

    def reconstruction(self, photos: tf.Tensor, fakes: tf.Tensor) -> tf.Tensor:
        """Return how far generated photos are from the real ones, [N]."""
        raise NotImplementedError

    def _update(self, batch, step, lrate):
        """Take one step; traced."""
        report = self.strategy.run(self._step_in_replica, (batch, step, lrate))
        return {name: self.first_replica(value) for name, value in report.items()}

    def _step_in_replica(self, batch, step, lrate):
        """Update D, then G; return {name: scalar} to report."""
        G, D = self.networks[NETWORK], self.networks[CRITIC]
        draws = self.draws(step)
        inputs, condition, semantics, photos = self.example(batch, draws)
        # One pass of G serves both updates.
        with tf.GradientTape(watch_accessed_variables=False) as tape_of_G:
            tape_of_G.watch(list(G.trainables.values()))
            fakes, means = G.train_call(*inputs, G.masks(draws.uniform))
        # Update D.
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(list(D.trainables.values()))
            real, values = self._judge(condition, photos)
            fake, _ = self._judge(condition, tf.stop_gradient(fakes))
            weights = [losses.map_weights(self.config.critic, semantics, x.shape[1]) for x in real]
            loss_D = tf.reduce_mean(losses.discriminator_loss(real, fake, weights))
        grads = tape.gradient(loss_D, D.trainables)
        finite_D = self._update_network(CRITIC, grads, values, loss_D, lrate)
        # Update G, with the updated D.
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(fakes)
            logits, _ = self._judge(condition, fakes)
            gan = tf.reduce_mean(losses.gan_loss(logits, weights, is_real=True))
            reconstruction = tf.reduce_mean(self.reconstruction(photos, fakes))
            loss_G = gan + self.config.weight_of_reconstruction() * reconstruction
        grads = tape_of_G.gradient(fakes, G.trainables, tape.gradient(loss_G, fakes))
        finite_G = self._update_network(NETWORK, grads, means, loss_G, lrate)
        report = {"Loss/G": loss_G, "Loss/D": loss_D, "Loss/G_gan": gan,
                  "Loss/reconstruction": reconstruction,
                  "Loss/scores/real": _mean_logit(real), "Loss/scores/fake": _mean_logit(fake)}
        report = tf.distribute.get_replica_context().all_reduce(_MEAN, report)
        skipped = sum(1.0 - tf.cast(finite, tf.float32) for finite in (finite_D, finite_G))
        return {**report, "Progress/skipped_updates": skipped}

    def _update_network(self, name, grads, values, loss, lrate):
        """Update a network with means over the replicas; return whether they were finite."""
        context = tf.distribute.get_replica_context()
        grads, loss = context.all_reduce(_MEAN, [grads, loss])
        values = context.all_reduce(_MEAN, values) if values else {}
        finite = all_finite(grads) & tf.math.is_finite(loss)
        context.merge_call(lambda _, grads, values, finite, lrate: self.apply(
            name, grads, values, self.first_replica(finite), self.first_replica(lrate)),
            (grads, values, finite, lrate))
        return finite

    def _judge(self, condition, rgb):
        """Return D's logits for photos with their condition, and {name: value} for its update to
        assign."""
        return self.networks[CRITIC].train_call(tf.concat([condition, rgb], axis=-1))


def _mean_logit(logits):
    return tf.reduce_mean([tf.reduce_mean(x) for x in logits])
