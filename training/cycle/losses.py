"""Losses of a CycleGAN besides those of training/translation: of garments, of whole pictures."""

from collections.abc import Sequence

import tensorflow as tf


def masked_l1(first: tf.Tensor, second: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Return the mean absolute difference of pictures [N, R, R, 3] where mask [N, R, R, 1] is 1,
    weighted by it elsewhere: [N]; 0 for a mask of less than a pixel."""
    area = tf.reduce_sum(mask, [1, 2, 3])
    total = tf.reduce_sum(mask * tf.reduce_mean(tf.abs(first - second), -1, keepdims=True),
                          [1, 2, 3])
    return total / tf.maximum(area, 1.0)


def of_pictures(logits: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Return one logit for each picture, the mean of its patches: [N, 1, 1, maps] of every scale.
    """
    return [tf.reduce_mean(patches, [1, 2], keepdims=True) for patches in logits]


def composite(new: tf.Tensor, old: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Return `new` where a soft mask [N, R, R, 1] is 1, and where it is 0 exactly `old`."""
    return tf.where(mask > 0, old + mask * (new - old), old)
