"""Perceptual path length (Karras et al., "A Style-Based Generator ...", 2019, section 4.1): how
much, by a perceptual distance, the image changes for a tiny step in latent space.

Everything but `path_lengths` is a pure function of arrays.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from dnnlib import util
from dnnlib.data import channels
from dnnlib.util import UserError
from training.sampler import label_stream, stream_noise

EPSILON = 1e-4  # length of a step, as a fraction of the path between two latents
LARGEST = 256  # largest side that the distance takes; its linear layers were trained with that


def path_lengths(mapping: Callable, synthesis: Callable, distance: Callable, *, latent_size: int,
                 space: str, sampling: str, num_samples: int, minibatch: int, seed: int,
                 resolution: int | None = None, labels: np.ndarray | None = None,
                 crop_face: bool = False) -> np.ndarray:
    """Return d(G(t), G(t + eps)) / eps^2 of random pairs of images: float64 [num_samples].

    Equation 2 (space 'z') and 3 ('w') before the mean; reference: perceptual_path_length.py of the
    2019 release. Latents, position, labels and noise of pair k depend on (seed, k) alone; both
    images of a pair share their noise. Minibatches of other sizes round differently: a pair's
    length changes by up to 1.3e-2 of itself, since its images differ only in their last digits; the
    mean of 400 pairs by 4e-5.

    Args:
        mapping: (latents [n, latent_size], labels [n, label_size] or None) -> dlatents
            [n, layers, dlatent_size].
        synthesis: (dlatents, noise) -> images [n, r, r, 3 or more], colours first, in about
            [-1, 1]; noise(layer, height, width) -> [n, height, width, 1].
        distance: (images, images float32 [n, r, r, 3] in [0, 255]) -> [n], such as Lpips.
        space: 'z', a great circle between two latents, or 'w', the line between their dlatents.
        sampling: 'full', positions t ~ U(0, 1), or 'end', t = 0: pairs at the latents themselves.
        minibatch: pairs at a time.
        resolution: of the final network, to which smaller images are enlarged.
        labels: [m, label_size], from which a pair's label is drawn; None for no labels.
        crop_face: compare only the part that `face_crop` keeps.
    """
    run_mapping = tf.function(mapping, reduce_retracing=True)

    @tf.function(reduce_retracing=True)
    def run_pairs(dlatents: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
        def noise(layer: int, height: int, width: int) -> tf.Tensor:
            drawn = stream_noise(seed, start, minibatch)(layer, height, width)
            return tf.concat([drawn, drawn], axis=0)
        images = preprocess(synthesis(dlatents, noise)[..., channels.RGB], resolution, crop_face)
        return distance(*tf.split((images + 1) * 127.5, 2))

    latents_rng, next_labels = np.random.RandomState(seed), label_stream(labels, seed)
    position_rng = np.random.RandomState([seed, 2])  # the labels' stream is [seed, 1]
    lengths = []
    with util.progress(total=num_samples, desc=f"path length in {space}", unit="pair") as bar:
        for start in range(0, num_samples, minibatch):
            # All minibatches are full, which gives one shape and one trace.
            latents = latents_rng.randn(minibatch, 2, latent_size).transpose(1, 0, 2)
            t = position_rng.uniform(size=(minibatch, 1)) * (sampling == "full")
            # latents [2, minibatch, latent_size] -> dlatents [2 minibatch, layers, dlatent_size]
            dlatents = _steps(run_mapping, space, latents, t, next_labels(minibatch))
            distances = run_pairs(tf.constant(dlatents, tf.float32), tf.constant(start, tf.uint64))
            lengths.append(distances.numpy()[:num_samples - start].astype(np.float64))
            bar.update(len(lengths[-1]))
    return np.concatenate(lengths) / EPSILON ** 2


def _steps(run_mapping, space, latents, t, labels):
    """Return dlatents [2n, layers, size] of n pairs: those at t, then those at t + eps.

    Points on the great circle get the length sqrt(latent_size) that latents have on average. A
    mapping that normalises them gives the same result as for unit length, and labels keep their
    weight.

    Args:
        latents: [2, n, latent_size]. t: [n, 1]. labels: [n, label_size] or None.
    """
    if space == "z":
        scale = np.sqrt(latents.shape[-1])
        latents = [scale * slerp(*latents, s) for s in (t, t + EPSILON)]
    dlatents = run_mapping(tf.constant(np.concatenate(latents), tf.float32),
                           None if labels is None else tf.constant(np.tile(labels, (2, 1))))
    if space == "z":
        return dlatents.numpy()
    ends = np.split(dlatents.numpy().astype(np.float64), 2)
    return np.concatenate([lerp(*ends, s[:, None]) for s in (t, t + EPSILON)])


def preprocess(images: tf.Tensor, resolution: int | None = None, crop: bool = False) -> tf.Tensor:
    """Return images [n, r, r, 3] as the distance takes them: enlarged to `resolution` by repeating
    pixels, cropped if `crop`, averaged down to at most 256 pixels by a whole factor."""
    size = images.shape[1]
    if resolution is not None and resolution > size:
        images = tf.repeat(tf.repeat(images, resolution // size, axis=1), resolution // size, 2)
    if crop:
        rows, columns = face_crop(images.shape[1])
        images = images[:, rows, columns]
    factor = images.shape[1] // LARGEST
    return tf.nn.avg_pool2d(images, factor, factor, "VALID") if factor > 1 else images


def face_crop(size: int) -> tuple[slice, slice]:
    """Return (rows, columns): the part of an aligned face that the 2019 release compares for FFHQ
    and CelebA-HQ."""
    unit = size // 8
    return slice(3 * unit, 7 * unit), slice(2 * unit, 6 * unit)


def perceptual_path_length(lengths: np.ndarray) -> float:
    """Return the mean of lengths [n] without their outliers. Raises UserError if some are not
    finite."""
    if not np.isfinite(lengths).all():
        raise UserError("path lengths are not finite: the network makes values that are not, it "
                        "has diverged: use an older snapshot")
    return float(without_outliers(lengths).mean(dtype=np.float64))


def without_outliers(lengths: np.ndarray) -> np.ndarray:
    """Return the lengths [n] from the 1st to the 99th percentile, both included. As in the 2019
    release, the percentiles are samples (the nearest below and above)."""
    low = np.percentile(lengths, 1, method="lower")
    high = np.percentile(lengths, 99, method="higher")
    return lengths[(low <= lengths) & (lengths <= high)]


def normalize(vectors: np.ndarray) -> np.ndarray:
    """Return vectors [..., d] divided by their lengths."""
    return vectors / np.sqrt(np.sum(np.square(vectors), axis=-1, keepdims=True))


def slerp(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Return the point at t [..., 1] on the great circle from a to b [..., d], at unit length.

    Shoemake 1985: a cos(t w) + c sin(t w), w the angle between a and b, c at a right angle to a.
    """
    a, b = normalize(a), normalize(b)
    cosine = np.sum(a * b, axis=-1, keepdims=True)
    angle = t * np.arccos(cosine)
    return normalize(a * np.cos(angle) + normalize(b - cosine * a) * np.sin(angle))


def lerp(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Return the point at t on the line from a to b."""
    return a + (b - a) * t
