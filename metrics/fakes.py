"""Images of a network as the metrics see them: seeded latents and noise, uint8, colours only."""

import numpy as np
import tensorflow as tf

from dnnlib import channels, pictures


def network_fakes(run, latent_size, resolution, minibatch, seed):
    """A function generate(count) -> iterator over uint8 [n, resolution, resolution, 3].

    run(latents [minibatch, latent_size], labels, noise) -> float images [minibatch, r, r, 3 + C],
    about [-1, 1], where noise(layer, height, width) -> [minibatch, height, width, 1]. Latents and noise
    of sample k depend on (seed, k) alone. Only the colours are judged; images of a lower resolution
    (a network that still grows) are upscaled by repeating pixels, as official evaluations do.
    """
    @tf.function(reduce_retracing=True)
    def run_batch(latents, start):
        def noise(layer, height, width):
            return sample_noise(seed, layer, start, (minibatch, height, width, 1))
        return run(latents, None, noise)[..., channels.RGB]

    def generate(count):
        rng = np.random.RandomState(seed)
        for start in range(0, count, minibatch):
            latents = rng.randn(minibatch, latent_size).astype(np.float32)
            images = run_batch(tf.constant(latents), tf.constant(start, tf.uint64)).numpy()
            images = pictures.to_uint8_metrics(images[:count - start])
            yield upscale_nearest(images, resolution)

    return generate


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
    """Repeat the pixels of images [n, r, r, 3] up to `resolution`, a multiple of r."""
    factor = resolution // images.shape[1]
    if factor * images.shape[1] != resolution:
        raise ValueError(f"{images.shape[1]} pixels cannot be repeated to {resolution}")
    return images.repeat(factor, axis=1).repeat(factor, axis=2)
