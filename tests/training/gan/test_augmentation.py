"""What each transformation does and how often, gradients, and the adaptation of p."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from dnnlib.tflib.distribute import Draws, mirrored_strategy
from dnnlib.util import UserError
from tests.tools.gan_steps import ONE_DEVICE
from training.config import parse_augment
from training.gan import augmentation
from training.gan.augmentation import Augmentation, apply_geometry, augment, random_transformation

MANY = 20_000


class Only(Draws):
    """Draws with which only some transformations can take place."""

    def __init__(self, seed, minibatch, *allowed):
        super().__init__(seed, 0, minibatch)
        self.allowed = {f"{name}?" for name in allowed}

    def uniform(self, name, shape=()):
        """Draw 1 to decide about the other transformations: it is below no probability."""
        closed = [n.endswith("?") and n not in self.allowed for n in augmentation.UNIFORMS]
        return tf.where(closed, 1.0, super().uniform(name, shape))


def transformations(p, *allowed, size=64):
    """Return (geometry [MANY, 3, 3], colour [MANY, 3, 4]) of some transformations."""
    return [part.numpy() for part in random_transformation(
        Only(1, MANY, *allowed), "test", tf.constant(p), size)]


IDENTITY = np.eye(3), np.eye(3, 4)


def changed(parts):
    """Return which samples the geometry changes, and which the colour: bool [2, MANY]."""
    return np.array([np.abs(part - same).max((1, 2)) > 1e-6
                     for part, same in zip(parts, IDENTITY)])


def test_p_zero_changes_nothing():
    names = [name[:-1] for name in augmentation.UNIFORMS if name.endswith("?")]
    assert len(names) == 13
    for part, same in zip(transformations(0.0, *names), IDENTITY):
        np.testing.assert_array_equal(part, np.broadcast_to(same, part.shape))


# The share of images that a transformation changes when it takes place: half of all flips, three of
# four rotations by right angles, all moves by up to 8 pixels except those by none in x and y.
@pytest.mark.parametrize("allowed, share", [
    (["flip"], 1 / 2), (["rot90"], 3 / 4), (["translation"], 1 - 1 / 16**2), (["scale"], 1),
    (["turn", "turn again"], 1), (["aniso"], 1), (["shift"], 1), (["brightness"], 1),
    (["contrast"], 1), (["luma"], 1 / 2), (["hue"], 1), (["saturation"], 1)],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "")
def test_each_takes_place_with_probability_p(allowed, share):
    for p in (0.2, 0.7):
        assert abs(changed(transformations(p, *allowed)).any(0).mean() - p * share) < 0.012


def test_transformations_are_independent_of_each_other():
    """A quarter of the samples has both of two transformations, each with p 0.5."""
    moved_ones, recoloured_ones = changed(transformations(0.5, "scale", "hue"))
    assert abs((moved_ones & recoloured_ones).mean() - 0.25) < 0.012


def normal_numbers(matrices):
    """Return {name: values that should be N(0, 1), [MANY]} of the transformations at p 1."""
    geometry = {name: transformations(1.0, name)[0] for name in ("scale", "aniso", "shift")}
    colour = {name: transformations(1.0, name)[1] for name in ("brightness", "contrast")}
    return matrices | {
        "scale": -np.log2(geometry["scale"][:, 0, 0]) / 0.2,
        "scale of y": -np.log2(geometry["scale"][:, 1, 1]) / 0.2,
        "aniso": -np.log2(geometry["aniso"][:, 0, 0]) / 0.2,
        "aniso of y": np.log2(geometry["aniso"][:, 1, 1]) / 0.2,
        "shift of x": -geometry["shift"][:, 0, 2] / 0.125,
        "shift of y": -geometry["shift"][:, 1, 2] / 0.125,
        "brightness": colour["brightness"][:, 0, 3] / 0.2,
        "contrast": np.log2(colour["contrast"][:, 0, 0]) / 0.5}


def test_normal_distributions():
    saturation = transformations(1.0, "saturation")[1]
    difference = saturation[:, 0, 0] - saturation[:, 0, 1]  # of a colour that is not grey
    for name, values in normal_numbers({"saturation": np.log2(difference)}).items():
        assert abs(values.mean()) < 0.03 and abs(values.std() - 1) < 0.02, name
        assert abs((np.abs(values) < 1).mean() - 0.6827) < 0.015, name


def test_uniform_distributions():
    """Angles over the whole circle, whole pixels up to an eighth of the side, four right angles."""
    for name in ("turn", "turn again"):
        geometry, _ = transformations(1.0, name)
        angles = np.arctan2(geometry[:, 0, 1], geometry[:, 0, 0])
        assert np.abs(np.histogram(angles, 8, (-np.pi, np.pi))[0] / MANY - 1 / 8).max() < 0.01
    geometry, _ = transformations(1.0, "rot90")
    for turned in range(4):
        angle = turned * np.pi / 2
        meant = np.abs(geometry[:, :2, :2] - [[np.cos(angle), np.sin(angle)],
                                              [-np.sin(angle), np.cos(angle)]]).max((1, 2)) < 1e-6
        assert abs(meant.mean() - 1 / 4) < 0.012
    geometry, _ = transformations(1.0, "translation", size=32)
    for axis in (0, 1):
        pixels = geometry[:, axis, 2] * 32
        np.testing.assert_allclose(pixels, np.round(pixels), atol=1e-5)
        shares = np.bincount(np.round(pixels).astype(int) + 4, minlength=9) / MANY
        np.testing.assert_allclose(shares, [1 / 16, *[1 / 8] * 7, 1 / 16], atol=0.012)
    _, colour = transformations(1.0, "hue")
    grey = np.array([1, -1, 0]) / np.sqrt(2), np.array([1, 1, -2]) / np.sqrt(6)
    red = colour[:, :, :3] @ grey[0]
    angles = np.arctan2(red @ grey[1], red @ grey[0])
    assert np.abs(np.histogram(angles, 8, (-np.pi, np.pi))[0] / MANY - 1 / 8).max() < 0.01


def images_of(rng, count, size, num_channels):
    return rng.uniform(-1, 1, (count, size, size, num_channels)).astype(np.float32)


def reflected(places, size):
    places = np.abs(places) % (2 * size - 2)
    return np.where(places < size, places, 2 * size - 2 - places)


def test_whole_pixel_moves_copy_pixels(rng):
    """Flips, right angles and whole pixels, borders included, bit for bit."""
    size = 16
    image = images_of(rng, 1, size, 5)
    row, column = np.mgrid[:size, :size]
    flip, quarter = np.diag([-1, 1, 1]), np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    quarter_in_float = quarter + np.cos(np.pi / 2) * np.diag([1, 1, 0])
    by = np.array([[1, 0, -3 / size], [0, 1, 5 / size], [0, 0, 1]])
    below, right = reflected(row + 5, size), column - 3
    for geometry, expected in (
            (np.eye(3), image[0]), (flip, image[0, :, ::-1]), (quarter, np.rot90(image[0], -1)),
            (quarter_in_float, np.rot90(image[0], -1)),
            (by, image[0][below, reflected(right, size)]),
            (flip @ by, image[0][below, reflected(size - 1 - right, size)])):
        result = apply_geometry(tf.constant(image), tf.constant(geometry[None], tf.float32)).numpy()
        np.testing.assert_array_equal(result[0], expected)


def test_all_channels_share_one_geometry_and_maps_keep_their_values(rng):
    image = np.repeat(images_of(rng, 64, 8, 1), 5, axis=3)
    result = augment(tf.constant(image), tf.constant(1.0), Only(
        1, 64, "flip", "rot90", "translation", "scale", "turn", "turn again", "aniso", "shift"),
        "test").numpy()
    np.testing.assert_allclose(result, np.repeat(result[..., :1], 5, axis=3), atol=1e-6)
    assert np.abs(result - image).max((1, 2, 3)).min() > 0.1
    result = augment(tf.constant(image), tf.constant(1.0), Only(
        1, 64, "brightness", "contrast", "luma", "hue", "saturation"), "test").numpy()
    np.testing.assert_array_equal(result[..., 3:], image[..., 3:])
    assert np.abs(result - image)[..., :3].max((1, 2, 3)).min() > 0.01


@pytest.mark.parametrize("size, num_channels", [(8, 3), (16, 16)])
def test_gradients_are_those_of_the_linear_map(rng, size, num_channels):
    """augment is linear in the images up to an offset: <A x, y> = <x, A' y>, A' the gradient."""
    x, y = (tf.constant(images_of(rng, 32, size, num_channels)) for _ in "xy")
    p, draws = tf.constant(0.6), Draws(3, 0, 32)
    offset = augment(tf.zeros_like(x), p, draws, "test")
    with tf.GradientTape() as tape:
        tape.watch(x)
        products = tf.reduce_sum((augment(x, p, draws, "test") - offset) * y, axis=[1, 2, 3])
    adjoint = tape.gradient(products, x).numpy().astype(np.float64)
    np.testing.assert_allclose(products, np.sum(adjoint * x.numpy(), (1, 2, 3)), atol=5e-3)
    assert np.abs(adjoint).max((1, 2, 3)).min() > 0.1


def test_gradients_at_p_zero_are_unchanged(rng):
    x, y = (tf.constant(images_of(rng, 4, 8, 5)) for _ in "xy")
    with tf.GradientTape() as tape:
        tape.watch(x)
        result = augment(x, tf.constant(0.0), Draws(3, 0, 4), "test")
        total = tf.reduce_sum(result * y)
    np.testing.assert_array_equal(result, x)
    np.testing.assert_array_equal(tape.gradient(total, x), y)


def test_a_replicas_rows_are_those_of_the_whole(rng):
    images, rows = tf.constant(images_of(rng, 8, 8, 5)), [5, 2, 6]
    whole = augment(images, tf.constant(0.7), Draws(1, 2, 8), "test").numpy()
    part = augment(tf.gather(images, rows), tf.constant(0.7),
                   Draws(1, 2, 8, tf.constant(rows)), "test")
    np.testing.assert_allclose(part, whole[rows], atol=1e-5)


# The adaptation of p.

def adapt(augmentation, signs, minibatch=10, finite=True, strategy=ONE_DEVICE):
    """Return [p after each minibatch] for these mean signs."""
    seen = []
    for sign in signs:
        augmentation.update(strategy, tf.constant(sign), tf.constant(finite), minibatch)
        seen.append(float(augmentation.values["p"].numpy()))
    return seen


def test_p_follows_the_mean_sign_every_four_minibatches(tiny_config):
    """By 4 minibatches over --ada-kimg; the mean of the four decides, then the count restarts."""
    adapting = Augmentation(tiny_config(augment="ada", ada_kimg=1.0))  # 40 images: 0.04
    seen = adapt(adapting, [1.0, 1.0, 0.0, 0.8] + [1.0] * 4 + [0.5] * 3 + [0.6])
    np.testing.assert_allclose(seen, [0, 0, 0, 0.04, 0.04, 0.04, 0.04, 0.08] + [0.08] * 3 + [0.04],
                               atol=1e-6)
    assert abs(float(adapting.values["r_t"].numpy()) - 0.525) < 1e-6
    assert float(adapting.values["minibatches"].numpy()) == 0
    adapt(adapting, [0.6] * 4)  # at its target it stays
    assert abs(float(adapting.values["p"].numpy()) - 0.04) < 1e-6


def test_p_stays_between_0_and_1(tiny_config):
    config = tiny_config(augment="ada", ada_kimg=0.1)  # by 0.4
    assert adapt(Augmentation(config, 0.1), [-1.0] * 4)[-1] == 0
    assert adapt(Augmentation(config, 0.9), [1.0] * 8)[-1] == 1


def test_non_finite_signs_are_not_counted(tiny_config):
    adapting = Augmentation(tiny_config(augment="ada", ada_kimg=0.1))
    adapt(adapting, [1.0, 1.0])
    before = adapting.get_arrays()
    adapt(adapting, [np.nan, np.nan, 1.0], finite=False)
    assert adapting.get_arrays() == before
    assert adapt(adapting, [1.0, 1.0])[-1] == pytest.approx(0.4)


def test_a_fixed_p_stays_and_r_t_is_measured(tiny_config):
    fixed = Augmentation(tiny_config(augment="fixed:0.25"), 0.9)
    assert adapt(fixed, [1.0, 1.0, 0.0, 0.0]) == [0.25] * 4
    assert float(fixed.values["r_t"].numpy()) == 0.5
    fixed.set_arrays({**fixed.get_arrays(), "p": np.float32(0.7), "r_t": np.float32(0.1)})
    assert float(fixed.values["p"].numpy()) == 0.25
    assert float(fixed.values["r_t"].numpy()) == np.float32(0.1)


def test_every_replica_has_the_same_p(tiny_config):
    strategy = mirrored_strategy("cpu", 2)
    with strategy.scope():
        adapting = Augmentation(tiny_config(augment="ada", ada_kimg=0.1))
    adapt(adapting, [1.0] * 4, strategy=strategy)
    assert [float(copy.numpy()) for copy in adapting.values["p"].values] == [np.float32(0.4)] * 2


@pytest.mark.parametrize("text, parsed", [
    ("ada", ("ada", 0.0)), ("none", ("none", 0.0)), ("fixed:0.5", ("fixed", 0.5)),
    ("fixed:1", ("fixed", 1.0))])
def test_values_of_augment(tiny_config, text, parsed):
    assert parse_augment(text) == parsed
    assert tiny_config(augment=text).augment == text


@pytest.mark.parametrize("changes, message", [
    *[({"augment": text}, "--augment=.*fixed:P with P above 0, up to 1") for text in (
        "fixed", "fixed:", "fixed:0", "fixed:1.5", "fixed:nan", "ada:0.5", "none:", "", "often")],
    ({"ada_target": 0.5}, "only --augment=ada adapts"),
    ({"augment": "fixed:0.5", "ada_kimg": 100.0}, "only --augment=ada adapts"),
    ({"augment": "ada", "d_loss": "wgan"}, "have no zero between reals and fakes"),
    ({"augment": "ada", "ada_target": 1.5}, "from -1 to 1"),
    ({"augment": "ada", "ada_kimg": 0.0}, "above 0")])
def test_what_augment_refuses(tiny_config, changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(tiny_config(), **changes)
