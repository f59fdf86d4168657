"""What a CycleGAN has besides training/translation: losses of garments and of whole pictures, and
what critics see of garments."""

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


def seen_regions(mask: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """Return the regions [N, R, R, 1] through which critics see pictures of both lists: where a
    garment of the one and a garment of the other overlap, each moved to the middle.

    Garments' outlines differ from list to list, and no generator changes them. So photo i of A, and
    what was made of photo i of B, are seen through one region: a critic cannot part them by its
    form, its size or its place.

    Args:
        mask, other: soft masks of photos of either list.
    """
    return centred(mask, mask) * centred(other, other)


def seen_through(images: tf.Tensor, mask: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """Return images [N, R, R, channels], whose garments are where `mask` is, as critics see them:
    in the middle, through `seen_regions`, and 0 (grey) around these."""
    return centred(images, mask) * seen_regions(mask, other)


def centred(images: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Return images [N, R, R, channels] moved, by whole pixels, so that the centre of mass of their
    mask [N, R, R, 1] is in the middle; 0 where there was nothing. An empty mask moves nothing."""
    middle = (mask.shape[1] - 1) / 2
    places = tf.range(mask.shape[1], dtype=tf.float32) - middle
    area = tf.reduce_sum(mask, [1, 2, 3])
    right, down = (tf.round(tf.math.divide_no_nan(
        tf.reduce_sum(places * tf.reduce_sum(mask, [axis, 3]), 1), area)) for axis in (1, 2))
    zeros, ones = tf.zeros_like(area), tf.ones_like(area)
    # Pixel (x, y) of the result is pixel (x + right, y + down).
    transforms = tf.stack([ones, zeros, right, zeros, ones, down, zeros, zeros], axis=1)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images, transforms=transforms, output_shape=images.shape[1:3],
        interpolation="NEAREST", fill_mode="CONSTANT", fill_value=0.0)
