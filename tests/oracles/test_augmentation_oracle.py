"""The program's augmentation against the oracle's, and the oracle against known properties."""

import numpy as np
import pytest
import tensorflow as tf

from dnnlib.tflib.distribute import Draws
from tests.oracles import augmentation_oracle as oracle
from training.gan import augmentation

# Float32 positions in a doubled image of 64 are correct to 1e-5 pixels; colours grow with contrast
# and saturation, so errors are relative to the largest value of an image.
TOLERANCE = 2e-4


def draws_of(seed, minibatch):
    """Return (Draws, [{name: number} of uniform, of normal draws] per sample), for `augment`."""
    draws = Draws(seed, 0, minibatch)
    tables = []
    for kind, names in (("uniform", augmentation.UNIFORMS), ("normal", augmentation.NORMALS)):
        values = getattr(draws, kind)(f"test/augment_{kind}", [len(names)]).numpy()
        tables.append([dict(zip(names, map(float, row))) for row in values])
    return draws, list(zip(*tables))


@pytest.mark.parametrize("size, num_maps, p, count", [
    (8, 2, 0.15, 64), (8, 13, 0.6, 32), (16, 0, 0.6, 24), (16, 13, 1.0, 8), (32, 3, 0.6, 12),
    (32, 13, 1.0, 4)])
def test_augment_equals_the_oracle(size, num_maps, p, count):
    rng = np.random.default_rng(size + num_maps)
    images = rng.uniform(-1, 1, (count, size, size, 3 + num_maps)).astype(np.float32)
    draws, numbers = draws_of(size, count)
    results = augmentation.augment(tf.constant(images), tf.constant(p), draws, "test").numpy()
    changed = 0
    for image, result, (uniform, normal) in zip(images, results, numbers):
        expected = oracle.augment(image, np.float32(p), uniform, normal)
        np.testing.assert_allclose(result, expected, atol=TOLERANCE * max(1, abs(expected).max()))
        changed += np.abs(expected - image).max() > 0.1
    assert changed > 0.6 * count


def test_the_filter_is_orthogonal_with_six_vanishing_moments():
    """It is also nearly symmetric: its phase is nearly that of its delay."""
    taps = np.array(oracle.SYMMLET)
    np.testing.assert_allclose(augmentation.SYM6, taps, atol=1e-8)
    taps = augmentation.SYM6
    for shift in range(0, 12, 2):
        assert abs(taps[shift:] @ taps[:12 - shift] - (shift == 0)) < 1e-11
    signs = (-1.0) ** np.arange(12)
    for moment in range(6):
        assert abs((signs * taps) @ (np.arange(12) / 12.0) ** moment) < 1e-11
    omega = np.linspace(0, 1, 51)
    phase = np.unwrap(np.angle(np.exp(-1j * np.outer(omega, np.arange(12))) @ taps))
    np.testing.assert_allclose(phase, -omega * (oracle.MIDDLE + oracle.DELAY), atol=0.25)


def test_the_matrix_moves_a_smooth_picture(rng):
    """Against the picture's formula at the source positions, away from the borders."""
    size, angle, factor = 32, 0.5, 1.2

    def picture(z):
        return np.stack([np.cos(0.3 * z.real + 0.2 * z.imag), np.sin(0.25 * z.imag)], axis=-1)

    row, column = np.mgrid[:size, :size] - (size - 1) / 2
    z = column + 1j * row
    moved = (z - (2.3 - 1.6j)) * np.exp(-1j * angle) / factor
    geometry = np.eye(3)
    # result -> image, in widths: shifted back, rotated back, made smaller.
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / factor
    geometry[:2, :2], geometry[:2, 2] = turn, -turn @ [2.3 / size, -1.6 / size]
    result = augmentation.apply_geometry(tf.constant(picture(z)[None], tf.float32),
                                         tf.constant(geometry[None], tf.float32)).numpy()[0]
    inside = (np.abs(moved.real) < 11) & (np.abs(moved.imag) < 11)
    assert inside.sum() > 400
    np.testing.assert_allclose(result[inside], picture(moved)[inside], atol=0.01)
