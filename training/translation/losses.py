"""Losses of translators as pure functions of logits, pictures and maps; means are per sample.

Sources: Isola et al. 2017 (pix2pix), section 3.1; Mao et al. 2017, "Least squares generative
adversarial networks", with 1 for reals and 0 for fakes, as Zhu et al. 2017 use it; "Next steps for
image synthesis using semantic segmentation" (2020), section 3, for the weights and equation 2;
Johnson et al. 2016, "Perceptual losses", and Wang et al. 2018 (pix2pixHD), for VGG's features;
Siarohin et al. 2018, "Deformable GANs for pose-based human image generation", for nearby pixels.
"""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from dnnlib.tflib.vgg16 import Vgg16

# Losses of logits that should be real, and of logits that should be fake.
GAN_LOSSES = {
    "logistic": (lambda logits: tf.nn.softplus(-logits), tf.nn.softplus),
    "least_squares": (lambda logits: tf.square(logits - 1), tf.square),
}
VGG_RELUS = tuple((block, 1) for block in range(1, 6))  # the first ReLU of every block


def num_maps(critic: str, num_classes: int) -> int:
    """Return how many maps of logits a critic has: one, or one per class and one for everything."""
    return 1 if critic == "patch" else num_classes + 1


def map_weights(critic: str, semantics: tf.Tensor, side: int) -> tf.Tensor:
    """Return the weight of every logit, float32 [N, side, side, num_maps].

    patch: 1.
    semantic: (1 / K) s_k / mean(s_k) for class k, and 1 for the last map. The maps s are reduced to
    the logits' size by averaging areas; the mean is over a picture. So all classes of a picture
    have the same weight, however small they are; a class that is absent, or has less than one pixel
    in all, has weight 0. (The paper's authors reduce by nearest pixels, which at 6x6 logits loses
    half of the small classes.)
    capacity: 1 / K and 1: the same maps without the semantics.

    Args:
        semantics: float32 [N, R, R, K], each class's share of each pixel, or heatmaps.
    """
    count, num_classes = tf.shape(semantics)[0], semantics.shape[-1]
    everything = tf.ones([count, side, side, 1])
    if critic == "patch":
        return everything
    of_classes = tf.ones([count, side, side, num_classes])
    if critic == "semantic":
        pixels = tf.reduce_sum(semantics, [1, 2], keepdims=True)
        s = tf.where(pixels < 1, 0.0, area_means(semantics, side))
        of_classes = tf.math.divide_no_nan(s, tf.reduce_mean(s, [1, 2], keepdims=True))
    return tf.concat([of_classes / num_classes, everything], axis=-1)


def area_means(maps: tf.Tensor, side: int) -> tf.Tensor:
    """Return maps [N, R, R, K] as [N, side, side, K]: means over the area of each new pixel."""
    old = np.arange(maps.shape[1])
    edges = np.linspace(0, maps.shape[1], side + 1)
    covered = np.minimum(edges[1:, None], old + 1) - np.maximum(edges[:-1, None], old)
    shares = tf.constant(np.maximum(covered, 0) * side / maps.shape[1], maps.dtype)
    return tf.einsum("ip,npqk,jq->nijk", shares, maps, shares)


def gan_loss(logits: Sequence[tf.Tensor], weights: Sequence[tf.Tensor], is_real: bool,
             kind: str = "logistic") -> tf.Tensor:
    """Return the loss of logits that should be real, or fake, [N]: the mean over patches of the
    weighted sum over maps, summed over scales (pix2pixHD, equation 2).

    Args:
        logits, weights: [N, h, w, maps] of every scale.
        kind: a key of GAN_LOSSES.
    """
    loss = GAN_LOSSES[kind][0 if is_real else 1]
    return tf.add_n([tf.reduce_mean(tf.reduce_sum(w * loss(x), -1), [1, 2])
                     for x, w in zip(logits, weights, strict=True)])


def discriminator_loss(real: Sequence[tf.Tensor], fake: Sequence[tf.Tensor],
                       weights: Sequence[tf.Tensor], kind: str = "logistic") -> tf.Tensor:
    """Return D's loss [N], halved to slow D down (pix2pix, section 3.3)."""
    return (gan_loss(real, weights, True, kind) + gan_loss(fake, weights, False, kind)) / 2


def l1(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Return the mean absolute difference of pictures or probabilities [N, h, w, channels], [N]."""
    return tf.reduce_mean(tf.abs(first - second), [1, 2, 3])


def nearest_neighbour_l1(photos: tf.Tensor, fakes: tf.Tensor, side: int) -> tf.Tensor:
    """Return the mean absolute difference between fakes and the most similar nearby pixels, [N].

    Each pixel of a fake is compared with all pixels of the photo in the `side` x `side` square
    around its position, inside the picture. The smallest mean over the channels counts, so a shift
    by a pixel is no error. The paper compares features of a VGG-19's second layer, which see 5x5
    pixels; here the colours themselves are compared.

    Args:
        photos, fakes: [N, R, R, channels].
        side: odd.
    """
    size, reach = fakes.shape[1], side // 2
    # Pad photos with a value that is far from all colours.
    padded = tf.pad(photos, [[0, 0], [reach, reach], [reach, reach], [0, 0]], constant_values=1e6)
    found = [tf.reduce_mean(tf.abs(padded[:, y:y + size, x:x + size] - fakes), -1)
             for y in range(side) for x in range(side)]
    return tf.reduce_mean(tf.reduce_min(found, axis=0), [1, 2])


def semantic_l1(segment: Callable[[tf.Tensor], tf.Tensor], photos: tf.Tensor,
                fakes: tf.Tensor) -> tf.Tensor:
    """Return the mean absolute difference between a segmentation network's outputs for photos and
    for fakes, [N]: between the probabilities of all labels.

    Args:
        segment: function rgb [N, R, R, 3] in [-1, 1] -> logits [N, R, R, 1 + K]; not trained.
    """
    expected = tf.stop_gradient(tf.nn.softmax(segment(photos)))
    return l1(expected, tf.nn.softmax(segment(fakes)))


def vgg_l1(vgg: Vgg16, photos: tf.Tensor, fakes: tf.Tensor) -> tf.Tensor:
    """Return how much VGG16's features of photos and fakes differ, [N].

    This is the sum over VGG_RELUS of the mean absolute differences of their activations:
    pix2pixHD's sum of 1 / M_i |F_i - F_i|_1, which is over the same layers of VGG19. All layers
    have the same weight, as in the paper's equation; its published code, as far as is known, gives
    early layers less weight.

    Args:
        photos, fakes: rgb [N, R, R, 3] in [-1, 1].
    """
    expected, found = (vgg.relus((rgb + 1) * 127.5, VGG_RELUS) for rgb in (photos, fakes))
    return tf.add_n([l1(tf.stop_gradient(x), y) for x, y in zip(expected, found)])
