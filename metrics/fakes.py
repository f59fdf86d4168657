"""Images of a network as the metrics see them: seeded latents, labels and noise, uint8."""

import numpy as np
import tensorflow as tf

from dnnlib.data import channels, pictures
from dnnlib.util import UserError


def network_fakes(run, latent_size, resolution, minibatch, seed, labels=None):
    """A function generate(count) -> iterator over (rgb, label_maps).

    rgb: uint8 [n, resolution, resolution, 3]; label_maps: uint8 [n, resolution, resolution], the
    largest map above 0 (thesis, section 4.4.2), or None where the network draws none.

    run(latents [minibatch, latent_size], labels [minibatch, label_size] or None, noise) -> float
    images [minibatch, r, r, 3 + C] about [-1, 1], where noise(layer, height, width) -> [minibatch,
    height, width, 1]. Of sample k, latents, noise and the row of `labels` [rows, label_size] that
    it is given depend on (seed, k) alone. Images of a lower resolution (a network that still grows)
    are upscaled by repeating pixels, as official evaluations do.
    """
    @tf.function(reduce_retracing=True)
    def run_batch(latents, rows, start):
        def noise(layer, height, width):
            return sample_noise(seed, layer, start, (minibatch, height, width, 1))
        images = run(latents, rows, noise)
        return images[..., channels.RGB], to_label_maps(images[..., channels.SEGMAPS])

    def generate(count):
        latents_rng = np.random.RandomState(seed)
        draw = label_drawer(labels, seed)
        for start in range(0, count, minibatch):
            latents = latents_rng.randn(minibatch, latent_size).astype(np.float32)
            rgb, maps = run_batch(tf.constant(latents), draw(minibatch),
                                  tf.constant(start, tf.uint64))
            used = slice(0, count - start)
            yield (upscale_nearest(pictures.to_uint8_metrics(rgb[used].numpy()), resolution),
                   None if maps is None else upscale_nearest(maps[used].numpy(), resolution))

    return generate


def label_drawer(labels, seed):
    """A function (n) -> the next n samples' rows of labels [rows, label_size], float32.

    Sample k's is a function of (seed, k). labels None: -> None.
    """
    if labels is None:
        return lambda n: None
    if not len(labels):
        raise UserError("a conditional network needs labels to draw from: there are none")
    rng = np.random.RandomState([seed, 1])  # another stream than that of the latents
    return lambda n: tf.constant(labels[(rng.random_sample(n) * len(labels)).astype(int)])


def to_label_maps(segmaps):
    """channels.to_label_map of signed maps, where they are: [N, H, W, C] -> uint8 [N, H, W].

    None for no maps.
    """
    if segmaps.shape[-1] == 0:
        return None
    present = tf.reduce_max(segmaps, axis=-1) > 0
    return tf.where(present, tf.cast(tf.argmax(segmaps, axis=-1) + 1, tf.uint8), tf.uint8.min)


def sample_noise(seed, layer, start, shape):
    """N(0, 1) of samples start, start + 1, ...: float32 of `shape`, the same in whatever minibatch.

    The counter of the Philox generator runs through four values a step, so that a sample's place in
    the stream is its number times its size / 4 (a size at 4x4 and above is a multiple of 16).
    """
    size = shape[1] * shape[2] * shape[3]
    counter = tf.stack([start * (size // 4), tf.constant(0, tf.uint64)])
    key = tf.constant([seed * 256 + layer], tf.uint64)
    return tf.raw_ops.StatelessRandomNormalV2(shape=shape, key=key, counter=counter, alg=1)


def upscale_nearest(images, resolution):
    """Repeat the pixels of images [n, r, r, ...] up to `resolution`, a multiple of r."""
    factor = resolution // images.shape[1]
    if factor * images.shape[1] != resolution:
        raise ValueError(f"{images.shape[1]} pixels cannot be repeated to {resolution}")
    return images.repeat(factor, axis=1).repeat(factor, axis=2)
