"""Augmentation of what discriminators see: geometry for photo and maps alike, colour for the photo.

Reals and fakes are augmented in the same way, and G is trained through the augmentation. With p
below about 0.8, G's pictures therefore show nothing of it (Karras et al. 2020, "Training generative
adversarial networks with limited data", sections 2 and 3, appendix B: "bgc"). Every transformation
is applied to an image with probability p.

All geometric transformations combine into one affine transformation of an image that is reflected
at its borders. An image is resampled once: it is doubled in size by a wavelet's low-pass filter,
read bilinearly at twice the final size, and halved by the same filter. A transformation that only
moves pixels to positions of other pixels copies them. Colours are changed by one affine
transformation of RGB.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from dnnlib.data import channels
from dnnlib.tflib.distribute import Draws
from training.config import TrainingConfig, parse_augment

INTERVAL = 4  # minibatches of a critic from one change of p to the next

# The low-pass filter of the sym6 wavelet (Daubechies 1992), whose norm is 1. It is orthogonal to
# itself shifted by 2, so doubling and then halving an image restores it.
SYM6 = np.array([0.015404109327027373, 0.0034907120842174702, -0.11799011114819057,
                 -0.048311742585633, 0.4910559419267466, 0.787641141030194, 0.3379294217276218,
                 -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
                 0.0017677118642428036, -0.007800708325034148])
_ORIGIN = 5  # the tap at a pixel's own position
# Pixel i of an image is at position 2 i + _DELAY of the doubled image, by the filter's centre of
# mass.
_DELAY = float(np.arange(12) @ SYM6 / SYM6.sum()) - _ORIGIN

# Names of an image's random numbers. If `name?` is below the probability, `name` is applied.
UNIFORMS = ("flip?", "flip", "rot90?", "rot90", "translation?", "x", "y", "scale?", "turn?",
            "turn", "aniso?", "turn again?", "turn again", "shift?", "brightness?", "contrast?",
            "luma?", "luma", "hue?", "hue", "saturation?")
NORMALS = ("scale", "aniso", "x", "y", "brightness", "contrast", "saturation")


class Transformation(NamedTuple):
    """The transformation of each image of a minibatch.

    Attributes:
        geometry: [N, 3, 3], maps positions (x, y, 1) in the result to positions in the image, in
            image widths from its centre.
        colour: [N, 3, 4], maps (r, g, b, 1) to the new colours; -1 is black, 1 is white.
    """

    geometry: tf.Tensor
    colour: tf.Tensor


def augment(images: tf.Tensor, p: tf.Tensor | None, draws: Draws, purpose: str) -> tf.Tensor:
    """Augment images as discriminators see them.

    Args:
        images: [N, r, r, channels] float32, colours in [-1, 1]; the other channels change only
            in geometry.
        p: scalar, the probability of every transformation. If it is 0 or None, images are
            returned unchanged.
        draws: the step's random numbers.
        purpose: prefix of the names of these random numbers.
    """
    if p is None:
        return images

    def augmented() -> tf.Tensor:
        chosen = random_transformation(draws, purpose, p, images.shape[1])
        return apply_colour(apply_geometry(images, chosen.geometry), chosen.colour)

    return tf.cond(p > 0, augmented, lambda: tf.identity(images))


def random_transformation(draws: Draws, purpose: str, p: tf.Tensor, size: int) -> Transformation:
    """Draw a Transformation for each sample, for images of `size` x `size` pixels.

    Source: Karras et al. 2020, appendix B, which gives the distributions; pipeline "bgc".
    """
    uniform = dict(zip(UNIFORMS, tf.unstack(
        draws.uniform(f"{purpose}/augment_uniform", [len(UNIFORMS)]), axis=1)))
    normal = dict(zip(NORMALS, tf.unstack(
        draws.normal(f"{purpose}/augment_normal", [len(NORMALS)]), axis=1)))

    def chosen(name: str, value: tf.Tensor, probability: tf.Tensor = p) -> tf.Tensor:
        """Return `value` where the transformation is applied, else 0; [N]."""
        return tf.where(uniform[f"{name}?"] < probability, value, 0.0)

    # Geometry, in the order in which it is applied to the image. Matrices map the result back to
    # the image, so each is the inverse of its transformation.
    whole_pixels = [chosen("translation", tf.round((uniform[axis] * 2 - 1) * 0.125 * size) / size)
                    for axis in "xy"]
    turn = 1 - tf.sqrt(1 - p)  # probability of each of two rotations; p is that of at least one
    scale, aniso = chosen("scale", normal["scale"] * 0.2), chosen("aniso", normal["aniso"] * 0.2)
    geometry = functools.reduce(_product, [
        _scaling(1 - 2 * chosen("flip", tf.floor(uniform["flip"] * 2)), 1.0),
        _rotation(chosen("rot90", tf.floor(uniform["rot90"] * 4)) * (math.pi / 2)),
        _translation(*whole_pixels),
        _scaling(2 ** -scale, 2 ** -scale),
        _rotation(chosen("turn", (uniform["turn"] * 2 - 1) * math.pi, turn)),
        _scaling(2 ** -aniso, 2 ** aniso),
        _rotation(chosen("turn again", (uniform["turn again"] * 2 - 1) * math.pi, turn)),
        _translation(*(chosen("shift", normal[axis] * 0.125) for axis in "xy"))])

    # Colour. Luma is the part of a colour along the grey axis.
    grey = tf.constant(np.full([3, 3], 1 / 3), tf.float32)  # the projection on the grey axis
    unit = tf.eye(3)
    contrast = 2 ** chosen("contrast", normal["contrast"] * 0.5)
    saturation = 2 ** chosen("saturation", normal["saturation"])
    luma = 2 * chosen("luma", tf.floor(uniform["luma"] * 2))
    hue = _rotation_about_grey(chosen("hue", (uniform["hue"] * 2 - 1) * math.pi))
    linear = functools.reduce(_product, [
        grey + (unit - grey) * _as_matrix(saturation), hue, unit - grey * _as_matrix(luma),
        unit * _as_matrix(contrast)])  # [N, 3, 3]; the last one is applied first
    # Brightness comes before all of these.
    brightness = chosen("brightness", normal["brightness"] * 0.2)
    offset = tf.reduce_sum(linear, axis=2) * brightness[:, None]
    return Transformation(geometry, tf.concat([linear, offset[:, :, None]], axis=2))


def _product(a, b):
    """Return a @ b of matrices [N, i, j] and [N, j, k] in full precision.

    GPUs may round the factors of `tf.matmul` to 11 bits, which moves pixels of a large image.
    """
    return tf.reduce_sum(a[:, :, :, None] * b[:, None, :, :], axis=2)


def _as_matrix(values):
    """Return numbers [N] as [N, 1, 1]."""
    return values[:, None, None]


def _rows(*rows):
    """Return matrices [N, rows, columns] of entries that are [N] or numbers."""
    count = tf.shape(next(entry for row in rows for entry in row if tf.is_tensor(entry)))
    return tf.stack([tf.stack([tf.broadcast_to(tf.cast(entry, tf.float32), count) for entry in row],
                              axis=-1) for row in rows], axis=-2)


def _scaling(x, y):
    return _rows([x, 0, 0], [0, y, 0], [0, 0, 1])


def _rotation(angle):
    cos, sin = tf.cos(angle), tf.sin(angle)
    return _rows([cos, sin, 0], [-sin, cos, 0], [0, 0, 1])


def _translation(x, y):
    return _rows([1, 0, -x], [0, 1, -y], [0, 0, 1])


def _rotation_about_grey(angle):
    """Return rotations of the colours about the grey axis, [N, 3, 3] (Rodrigues' formula)."""
    cos, sin = tf.cos(angle), tf.sin(angle) / math.sqrt(3)
    mean = (1 - cos) / 3
    return _rows([cos + mean, mean - sin, mean + sin], [mean + sin, cos + mean, mean - sin],
                 [mean - sin, mean + sin, cos + mean])


def apply_colour(images: tf.Tensor, colour: tf.Tensor) -> tf.Tensor:
    """Return images [N, r, r, channels] with their colours transformed by [N, 3, 4]."""
    shape = tf.shape(images)
    rgb = tf.reshape(images[..., channels.RGB], [shape[0], -1, 3])
    rgb = tf.matmul(rgb, colour[:, :, :3], transpose_b=True) + colour[:, None, :, 3]
    rgb = tf.reshape(rgb, [*tf.unstack(shape[:3]), 3])
    return tf.concat([rgb, images[..., channels.SEGMAPS]], axis=-1)


def apply_geometry(images: tf.Tensor, geometry: tf.Tensor) -> tf.Tensor:
    """Return images [N, r, r, channels] moved by `Transformation.geometry`.

    If all pixels of an image land on pixels (it is flipped, turned by right angles, moved by whole
    pixels, or unchanged), they are copied bit for bit; otherwise the image is resampled.
    """
    size = images.shape[1]
    sources = _sources(geometry, np.arange(size), size)  # [N, 2, r * r]
    pixels = tf.round(sources)
    lands_on_pixels = tf.reduce_all(tf.abs(sources - pixels) < 1e-3, axis=[1, 2])
    column, row = tf.unstack(tf.cast(_reflected(pixels, size - 1), tf.int32), axis=1)
    flat = tf.reshape(images, [-1, size * size, images.shape[3]])
    copied = tf.gather(flat, row * size + column, batch_dims=1)
    return tf.where(lands_on_pixels[:, None, None, None], tf.reshape(copied, tf.shape(images)),
                    _resampled(images, geometry))


def _sources(geometry, places, size):
    """Return where pixels come from, [N, 2, places^2] (x, y), in pixels of `size` x `size` images.

    The pixels are those of the grid that `places` make along both sides.
    """
    middle = (size - 1) / 2
    y, x = (axis.reshape(-1).astype(np.float32) for axis in np.meshgrid(
        (places - middle) / size, (places - middle) / size, indexing="ij"))
    rows = geometry[:, :2, :, None] * size  # [N, 2, 3, 1]
    return rows[:, :, 0] * x + rows[:, :, 1] * y + rows[:, :, 2] + middle


def _resampled(images, geometry):
    """Return images doubled, read bilinearly where their pixels come from, and halved."""
    size = images.shape[1]
    double, halve = _doubling(size), _halving(size)
    doubled = _along_both_axes(double, images)  # [N, 2 r, 2 r, channels]
    # The pixels of the doubled result that halving needs.
    places = (np.arange(halve.shape[1]) - _ORIGIN - _DELAY) / 2
    sources = _sources(geometry, places, size)
    read = _read_bilinear(doubled, _reflected(sources, size - 1) * 2 + _DELAY)
    return _along_both_axes(halve, tf.reshape(read, [-1, *2 * halve.shape[1:], images.shape[3]]))


def _reflected(places, last):
    """Return positions reflected at both ends until they are in [0, last]."""
    return last - tf.abs(last - tf.math.floormod(places, 2.0 * last))


def _along_both_axes(matrix, images):
    """Return images [N, r, r, channels] with rows and columns multiplied by `matrix` [m, r]."""
    new, old = matrix.shape
    fmaps = images.shape[3]
    matrix = tf.constant(matrix)
    rows = tf.reshape(tf.matmul(matrix, tf.reshape(images, [-1, old, old * fmaps])),
                      [-1, old, fmaps])
    return tf.reshape(tf.matmul(matrix, rows), [-1, new, new, fmaps])


# Compiled together with its sum over four neighbours: several times as fast on a CPU as separate
# operations. One gather of all four is faster than four gathers, with many channels twice as fast.
@tf.function(jit_compile=True, autograph=False)
def _read_bilinear(images, places):
    """Return the values of images [N, s, s, channels] at places [N, 2, P]: [N, P, channels]."""
    count, size, _, fmaps = images.shape
    places = tf.stop_gradient(places)  # compiled code computes all gradients, needed or not
    first = tf.minimum(tf.floor(places), size - 2.0)
    x, y = tf.unstack(places - first, axis=1)  # [N, P]: fractions of a pixel
    column, row = tf.unstack(tf.cast(first, tf.int32), axis=1)
    corner = tf.range(count)[:, None] * (size * size) + row * size + column
    corners = tf.stack([corner, corner + 1, corner + size, corner + size + 1])
    weights = tf.stack([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y])
    pixels = tf.gather(tf.reshape(images, [-1, fmaps]), corners)  # [4, N, P, channels]
    return tf.reduce_sum(pixels * weights[..., None], axis=0)


@functools.cache
def _doubling(size):
    """Return the matrix [2 size, size] that doubles a reflected row of pixels."""
    matrix = np.zeros([2 * size, size])
    for k in range(2 * size):
        for tap in range(len(SYM6)):
            pixel, rest = divmod(_ORIGIN + k - tap, 2)
            if rest == 0:
                folded = pixel % (2 * size - 2)
                matrix[k, min(folded, 2 * size - 2 - folded)] += SYM6[tap] * math.sqrt(2)
    return matrix.astype(np.float32)


@functools.cache
def _halving(size):
    """Return the matrix [size, 2 size + 10] that halves a row of pixels, given from _ORIGIN pixels
    before the first one on."""
    matrix = np.zeros([size, 2 * size + len(SYM6) - 2])
    for pixel in range(size):
        matrix[pixel, 2 * pixel:2 * pixel + len(SYM6)] = SYM6 / math.sqrt(2)
    return matrix.astype(np.float32)


class Augmentation(tf.Module):
    """A critic's p, and how it adapts (Karras et al. 2020, section 3.1).

    r_t, the mean sign of the critic's scores of reals, shows how far the critic overfits: 0 if it
    does not, 1 if it recognises all of them. Every INTERVAL minibatches p rises if r_t is above its
    target, and falls if it is below.

    Attributes:
        values: {'p', 'r_t', 'sign_sum', 'minibatches': scalar tf.Variable}; the last two count
            from the last change of p.
    """

    def __init__(self, config: TrainingConfig, p: float | None = None):
        """Begin with `p`; if it is None or --augment fixes p, begin as `config.augment` says."""
        super().__init__()
        kind, first_p = parse_augment(config.augment)
        self.adapts = kind == "ada"
        p = p if self.adapts and p is not None else first_p
        self.target, self.kimg = config.ada_target, config.ada_kimg
        beginning = {"p": p, "r_t": 0.0, "sign_sum": 0.0, "minibatches": 0.0}
        self.values = {name: tf.Variable(value, trainable=False, dtype=tf.float32)
                       for name, value in beginning.items()}

    def update(self, strategy: tf.distribute.Strategy, mean_sign: tf.Tensor, finite: tf.Tensor,
               minibatch: int) -> None:
        """Count a minibatch of the critic and change p if it is time; in cross-replica context.

        Args:
            mean_sign: mean sign of the scores of the minibatch's reals.
            finite: False if these scores must not be counted.
            minibatch: images in the minibatch.
        """
        old = self.values
        count = old["minibatches"] + 1
        sign_sum = old["sign_sum"] + mean_sign
        is_time = count >= INTERVAL
        r_t = tf.where(is_time, sign_sum / count, old["r_t"])
        step = 0.0
        if self.adapts:
            step = tf.sign(r_t - self.target) * (minibatch * INTERVAL / (self.kimg * 1000))
        new = {"p": tf.where(is_time, tf.clip_by_value(old["p"] + step, 0.0, 1.0), old["p"]),
               "r_t": r_t, "sign_sum": tf.where(is_time, 0.0, sign_sum),
               "minibatches": tf.where(is_time, 0.0, count)}
        for name, value in new.items():
            value = tf.where(finite, value, old[name])
            strategy.extended.update(old[name], lambda var, value: var.assign(value), args=(value,))

    def get_arrays(self) -> dict[str, np.ndarray]:
        """Return {name: float32 scalar}."""
        return {name: value.numpy() for name, value in self.values.items()}

    def set_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        """Assign what `get_arrays` returned, except p if the options fix it."""
        for name, value in self.values.items():
            if name != "p" or self.adapts:
                value.assign(arrays[name])


def typical_augmentation(config: TrainingConfig) -> Augmentation | None:
    """Return an Augmentation as in the middle of a training, for timing steps; None if there is
    no augmentation. It is made in the current strategy's scope."""
    return None if config.augment == "none" else Augmentation(config, p=0.5)
