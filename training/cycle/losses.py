"""A CycleGAN's losses besides those in training/translation: for garments and whole pictures; and
what critics see of garments."""

from collections.abc import Sequence

import tensorflow as tf

from training.dataset import affine_transform

KIND = "least_squares"  # kind of the adversarial losses
LARGEST_SHIFT = 1 / 32  # share of a photo's side by which each of two garments is shifted at most


def masked_l1(first: tf.Tensor, second: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Return the mean absolute difference of pictures [N, R, R, 3], weighted by mask [N, R, R, 1]:
    [N]. If the mask has less than one pixel it is the sum instead; 0 for an empty mask."""
    area = tf.reduce_sum(mask, [1, 2, 3])
    total = tf.reduce_sum(mask * tf.reduce_mean(tf.abs(first - second), -1, keepdims=True),
                          [1, 2, 3])
    return total / tf.maximum(area, 1.0)


def mean_over_patches(logits: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Return one logit per picture, the mean of its patches': [N, 1, 1, maps] for every scale."""
    return [tf.reduce_mean(patches, [1, 2], keepdims=True) for patches in logits]


def loss_logits(logits: Sequence[tf.Tensor],
                critic: str) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Return the logits of every scale from which a critic's loss is computed, and their weights,
    which are all 1; `critic` is one of config.CRITICS."""
    of_loss = mean_over_patches(logits) if critic == "picture" else list(logits)
    return of_loss, [tf.ones_like(patches) for patches in of_loss]


def composite(new: tf.Tensor, old: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Return `new` where a soft mask [N, R, R, 1] is 1, exactly `old` where it is 0, and a blend in
    between."""
    return tf.where(mask > 0, old + mask * (new - old), old)


def critic_view(images: tf.Tensor, mask: tf.Tensor, other: tf.Tensor, has_garment: bool,
                shift: tf.Tensor | float = 0.0) -> tf.Tensor:
    """Return images [N, R, R, channels] as critics see them.

    In a training with garments, each garment (where `mask` is) is moved to the middle, or `shift`
    from it, and is seen through `seen_regions`, with 0 (grey) around. Without garments, images are
    returned unchanged.
    """
    if not has_garment:
        return images
    return centred(images, mask, shift) * seen_regions(mask, other, shift)


def seen_regions(mask: tf.Tensor, other: tf.Tensor, shift: tf.Tensor | float = 0.0) -> tf.Tensor:
    """Return the regions [N, R, R, 1] through which critics see pictures of both lists: where a
    garment of one list and a garment of the other overlap, when each is moved to the middle.

    The outlines of garments differ between the lists, and generators do not change them. So photo i
    of A, and what is made from photo i of B, are seen through the same region: a critic cannot tell
    them apart by its form, size or place.

    Args:
        mask, other: soft masks of photos, `mask` from one list and `other` from the other.
        shift: pixels [N, 2], to the right and down, by which `mask` is moved from the middle;
            `other` is moved the opposite way, so that different parts overlap. For pictures of the
            other list it is -shift.
    """
    return centred(mask, mask, shift) * centred(other, other, -shift)


def centred(images: tf.Tensor, mask: tf.Tensor, shift: tf.Tensor | float = 0.0) -> tf.Tensor:
    """Return images [N, R, R, channels] moved by whole pixels, so that the centre of mass of their
    mask [N, R, R, 1] is `shift` [N, 2] pixels to the right of and below the middle.

    Uncovered pixels are 0. An empty mask counts as centred.
    """
    middle = (mask.shape[1] - 1) / 2
    places = tf.range(mask.shape[1], dtype=tf.float32) - middle
    area = tf.reduce_sum(mask, [1, 2, 3])
    centres = tf.stack([tf.math.divide_no_nan(
        tf.reduce_sum(places * tf.reduce_sum(mask, [axis, 3]), 1), area) for axis in (1, 2)], 1)
    right, down = tf.unstack(tf.round(centres - shift), axis=1)
    return affine_transform(images, (1, 0, right), (0, 1, down), "NEAREST", "CONSTANT")
