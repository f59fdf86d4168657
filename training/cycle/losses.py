"""A CycleGAN's losses besides those of training/translation: of garments and of whole pictures,
and of what critics see of garments."""

from collections.abc import Sequence

import tensorflow as tf

from training.dataset import moved_affinely

KIND = "least_squares"  # of the adversarial losses
LARGEST_SHIFT = 1 / 32  # of a photo's side, by which each of two overlapping garments is moved


def masked_l1(first: tf.Tensor, second: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Return the mean absolute difference of pictures [N, R, R, 3] where mask [N, R, R, 1] is 1,
    weighted by it elsewhere: [N]; of a mask of less than a pixel the sum, 0 if it is empty."""
    area = tf.reduce_sum(mask, [1, 2, 3])
    total = tf.reduce_sum(mask * tf.reduce_mean(tf.abs(first - second), -1, keepdims=True),
                          [1, 2, 3])
    return total / tf.maximum(area, 1.0)


def of_pictures(logits: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Return one logit for each picture, the mean of its patches: [N, 1, 1, maps] of every scale.
    """
    return [tf.reduce_mean(patches, [1, 2], keepdims=True) for patches in logits]


def scored(logits: Sequence[tf.Tensor], critic: str) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Return the logits of every scale that a critic's loss is of, as config.CRITICS has it, and
    their weights, which are all 1."""
    of_loss = of_pictures(logits) if critic == "picture" else list(logits)
    return of_loss, [tf.ones_like(patches) for patches in of_loss]


def composite(new: tf.Tensor, old: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Return `new` where a soft mask [N, R, R, 1] is 1, and where it is 0 exactly `old`."""
    return tf.where(mask > 0, old + mask * (new - old), old)


def as_critics_see(images: tf.Tensor, mask: tf.Tensor, other: tf.Tensor, has_garment: bool,
                   shift: tf.Tensor | float = 0.0) -> tf.Tensor:
    """Return images [N, R, R, channels] as critics see them: in a training with garments, which are
    where `mask` is, in the middle or `shift` from it, through `seen_regions`, and 0 (grey) around
    these; in another one as they are."""
    if not has_garment:
        return images
    return centred(images, mask, shift) * seen_regions(mask, other, shift)


def seen_regions(mask: tf.Tensor, other: tf.Tensor, shift: tf.Tensor | float = 0.0) -> tf.Tensor:
    """Return the regions [N, R, R, 1] through which critics see pictures of both lists: where a
    garment of the one and a garment of the other overlap, each moved to the middle.

    Garments' outlines differ from list to list, and no generator changes them. So photo i of A, and
    what was made of photo i of B, are seen through one region: a critic cannot part them by its
    form, its size or its place.

    Args:
        mask, other: soft masks of photos of either list.
        shift: pixels [N, 2], to the right and down, by which `mask` is moved from the middle, and
            `other` the opposite way: so other parts of both overlap. For pictures of the other list
            it is -shift.
    """
    return centred(mask, mask, shift) * centred(other, other, -shift)


def centred(images: tf.Tensor, mask: tf.Tensor, shift: tf.Tensor | float = 0.0) -> tf.Tensor:
    """Return images [N, R, R, channels] moved, by whole pixels, so that the centre of mass of their
    mask [N, R, R, 1] is `shift` [N, 2] pixels right of and below the middle; 0 where there was
    nothing. An empty mask counts as one in the middle."""
    middle = (mask.shape[1] - 1) / 2
    places = tf.range(mask.shape[1], dtype=tf.float32) - middle
    area = tf.reduce_sum(mask, [1, 2, 3])
    centres = tf.stack([tf.math.divide_no_nan(
        tf.reduce_sum(places * tf.reduce_sum(mask, [axis, 3]), 1), area) for axis in (1, 2)], 1)
    right, down = tf.unstack(tf.round(centres - shift), axis=1)
    return moved_affinely(images, (1, 0, right), (0, 1, down), "NEAREST", "CONSTANT")
