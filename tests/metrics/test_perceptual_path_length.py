"""Perceptual path length: the release's vectors, networks of known length, minibatches."""

import numpy as np
import pytest
import tensorflow as tf

from dnnlib.util import UserError
from metrics import perceptual_path_length as ppl
from metrics.networks.lpips import Lpips
from tests.tools.vgg16 import NARROW, random_arrays
from training.networks_stylegan import G_style

DRANGE = 127.5  # from a network's units to the distance's
OPTIONS = dict(latent_size=5, space="w", sampling="full", num_samples=7, minibatch=4, seed=11)


@pytest.fixture(scope="module")
def vectors(shared):
    """Return arrays that the 2019 release computed."""
    return np.load(shared / "reference" / "metrics.npz")


def drawn_latents(seed, count, size):
    """Return both latents of each pair [count, size], drawn from the seed independently."""
    return np.random.RandomState(seed).randn(count, 2, size).transpose(1, 0, 2)


def squared_error(images1, images2):
    return tf.reduce_sum(tf.square(images1 - images2), axis=[1, 2, 3])


def as_dlatents(latents, labels):
    """A mapping that does nothing: one layer."""
    return latents[:, None]


def painter(matrix):
    """Return a linear synthesis: dlatents [n, 1, d] @ matrix [d, 48] -> images of 4x4."""
    return lambda dlatents, noise: tf.reshape(
        dlatents[:, 0] @ tf.constant(matrix, tf.float32), [-1, 4, 4, 3])


def test_vectors_slerp_and_normalize(vectors):
    a, b, t = (vectors[f"slerp_{name}"].astype(np.float64) for name in "abt")
    eps = float(vectors["epsilon"])
    assert eps == ppl.EPSILON
    np.testing.assert_allclose(ppl.normalize(a), vectors["normalize_a"], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(ppl.slerp(a, b, t), vectors["slerp_out"], rtol=1e-5, atol=1e-6)
    later = ppl.slerp(a, b, t + eps)
    np.testing.assert_allclose(later, vectors["slerp_out_t_plus_eps"], rtol=1e-5, atol=1e-6)


def test_vectors_lerp(vectors):
    a, b = (vectors[f"lerp_{name}"].astype(np.float64) for name in "ab")
    t = vectors["slerp_t"].astype(np.float64)[:, None]
    for shift, name in ((0, "lerp_out"), (ppl.EPSILON, "lerp_out_t_plus_eps")):
        np.testing.assert_allclose(ppl.lerp(a, b, t + shift), vectors[name], rtol=1e-5, atol=1e-6)


def test_vectors_outliers(vectors):
    lengths = vectors["ppl_distances"]
    left = ppl.without_outliers(lengths)
    assert len(left) == vectors["ppl_filtered_count"]
    assert (left.min(), left.max()) == (vectors["ppl_lo"], vectors["ppl_hi"])
    np.testing.assert_allclose(ppl.perceptual_path_length(lengths), vectors["ppl_filtered_mean"],
                               rtol=1e-6)


def test_vectors_face_crop(vectors):
    rows, columns = ppl.face_crop(512)
    found = [rows.start, rows.stop, columns.start, columns.stop]
    np.testing.assert_array_equal(found, vectors["ppl_crop_512_slices"])


def test_outliers_by_hand():
    lengths = np.arange(201.0)[::-1]  # the 1st percentile is 2, the 99th 198
    np.testing.assert_array_equal(np.sort(ppl.without_outliers(lengths)), np.arange(2, 199))
    between = np.arange(100.0)  # 0.99 and 98.01: rounded outwards
    assert len(ppl.without_outliers(between)) == 100


def test_lengths_that_are_not_finite_are_an_error():
    with pytest.raises(UserError, match="diverged"):
        ppl.perceptual_path_length(np.array([1.0, np.nan]))


def test_slerp_by_geometry():
    a, b = np.array([[2.0, 0, 0]]), np.array([[0, 0.1, 0]])
    np.testing.assert_allclose(ppl.slerp(a, b, 1 / 3), [[np.cos(np.pi / 6), 0.5, 0]], atol=1e-12)
    np.testing.assert_allclose(ppl.slerp(a, b, 1), [[0, 1, 0]], atol=1e-12)


def test_length_of_a_linear_network_in_w(rng):
    """|eps (w2 - w1) M|^2 / eps^2 for every t, in the distance's units."""
    matrix = rng.standard_normal((5, 48))
    options = OPTIONS | {"num_samples": 40}
    found = ppl.path_lengths(as_dlatents, painter(matrix), squared_error, **options)
    z1, z2 = drawn_latents(11, 40, 5)
    expected = DRANGE ** 2 * (((z2 - z1) @ matrix) ** 2).sum(axis=1)
    np.testing.assert_allclose(found, expected, rtol=0.01)  # float32 images, steps of 1e-4
    np.testing.assert_allclose(found.mean(), expected.mean(), rtol=1e-3)


def test_length_of_a_linear_network_in_z(rng):
    """A chord of a circle of radius sqrt(5): 5 angle^2 if the matrix keeps lengths."""
    matrix = np.linalg.qr(rng.standard_normal((48, 5)))[0].T
    options = OPTIONS | {"space": "z", "num_samples": 40}
    found = ppl.path_lengths(as_dlatents, painter(matrix), squared_error, **options)
    z1, z2 = drawn_latents(11, 40, 5)
    norms = np.linalg.norm(z1, axis=1) * np.linalg.norm(z2, axis=1)
    angle = np.arccos((z1 * z2).sum(axis=1) / norms)
    np.testing.assert_allclose(found, DRANGE ** 2 * 5 * angle ** 2, rtol=0.01)


@pytest.mark.parametrize("space", ["z", "w"])
def test_step_leads_to_the_second_latent(space):
    """The sign of the change shows the direction."""
    def signed(images1, images2):
        return tf.reduce_sum(images2 - images1, axis=[1, 2, 3])

    options = OPTIONS | {"space": space, "sampling": "end"}
    found = ppl.path_lengths(as_dlatents, painter(np.ones((5, 48))), signed, **options)
    z1, z2 = drawn_latents(11, 7, 5)
    if space == "z":
        z1, z2 = ppl.normalize(z1), ppl.normalize(z2)
        z2 = z2 - (z1 * z2).sum(axis=1, keepdims=True) * z1  # along the circle
    np.testing.assert_array_equal(np.sign(found), np.sign((z2 - z1 * (space == "w")).sum(axis=1)))


def positions(**changes):
    """Return the positions of an exponential network's pairs, from their lengths; NaN if close."""
    def exponential(dlatents, noise):
        return tf.tile(tf.exp(dlatents[:, :, None]), [1, 4, 4, 3])
    options = OPTIONS | {"latent_size": 1, "num_samples": 3000, "minibatch": 500} | changes
    lengths = ppl.path_lengths(as_dlatents, exponential, squared_error, **options)
    z1, z2 = drawn_latents(11, 3000, 1)[:, :, 0]
    with np.errstate(all="ignore"):
        w = np.log(np.sqrt(lengths / 48) / DRANGE / np.abs(z2 - z1))
        return np.where(np.abs(z2 - z1) > 1, (w - z1) / (z2 - z1), np.nan)


def test_positions_are_uniform_or_the_end():
    t = positions()
    expected = np.random.RandomState([11, 2]).uniform(size=3000)  # not the stream of the latents
    np.testing.assert_allclose(t, np.where(np.isfinite(t), expected, np.nan), atol=0.02)
    t = np.sort(t[np.isfinite(t)])
    assert len(t) > 1000
    # The largest gap between the distribution and the diagonal (Kolmogorov-Smirnov, p = 1e-4).
    assert np.abs(t - (np.arange(len(t)) + 0.5) / len(t)).max() < 2.3 / np.sqrt(len(t))
    at_end = positions(sampling="end")
    np.testing.assert_allclose(at_end[np.isfinite(at_end)], 0, atol=0.01)


def test_noise_is_shared_within_a_pair_but_not_between_pairs():
    def only_noise(dlatents, noise):
        return tf.tile(noise(3, 4, 4), [1, 1, 1, 3]) + 0 * dlatents[:, :, None, :1]

    def mean_colour(images1, images2):
        return tf.reduce_mean(images1, axis=[1, 2, 3])

    same = ppl.path_lengths(as_dlatents, only_noise, squared_error, **OPTIONS)
    np.testing.assert_array_equal(same, 0)
    means = ppl.path_lengths(as_dlatents, only_noise, mean_colour, **OPTIONS)
    assert len(np.unique(means)) == 7
    other = ppl.path_lengths(as_dlatents, only_noise, mean_colour, **(OPTIONS | {"minibatch": 3}))
    np.testing.assert_allclose(means, other, rtol=1e-6)
    other = ppl.path_lengths(as_dlatents, only_noise, mean_colour, **(OPTIONS | {"seed": 12}))
    assert not np.isclose(means, other).any()


def test_the_distance_gets_eight_bit_units():
    """-1 is 0, 1 is 255, unclipped and unrounded."""
    def constant(dlatents, noise):
        return tf.constant([-1, 1, 1.001]) + 0 * dlatents[:, :, None, :1]

    def colours(images1, images2):
        np.testing.assert_array_equal(images1.shape, [4, 1, 1, 3])
        return images1[:, 0, 0] * ppl.EPSILON ** 2

    found = ppl.path_lengths(as_dlatents, constant, colours, **OPTIONS)
    np.testing.assert_allclose(found, [[0, 255, 255.1275]] * 7, atol=1e-4)


def test_labels_are_shared_by_a_pair_and_drawn_from_the_table():
    """The mapping adds the label: it moves the image, but not within a pair."""
    seen = []

    def mapping(latents, labels):
        tf.numpy_function(lambda x: seen.append(x), [labels], [])
        return latents[:, None] + 100 * labels[:, None, :1]

    table = np.eye(3, dtype=np.float32)[[0, 1, 1, 1]]
    options = OPTIONS | {"num_samples": 400, "minibatch": 80}
    matrix = np.eye(5, 48)
    with_labels = ppl.path_lengths(mapping, painter(matrix), squared_error, labels=table, **options)
    without = ppl.path_lengths(as_dlatents, painter(matrix), squared_error, **options)
    np.testing.assert_allclose(with_labels.mean(), without.mean(), rtol=0.05)
    seen = np.stack(seen)
    assert seen.shape == (5, 160, 3)
    np.testing.assert_array_equal(seen[:, :80], seen[:, 80:])
    np.testing.assert_allclose(seen.mean(axis=(0, 1)), [0.25, 0.75, 0], atol=0.08)


@pytest.mark.parametrize("space, sampling", [("z", "full"), ("w", "end")])
def test_independent_of_the_minibatch(tmp_path, rng, space, sampling):
    """A real generator with maps, labels and random noise, and a real perceptual distance."""
    G = G_style(num_channels=5, resolution=16, label_size=3, latent_size=8, dlatent_size=8,
                mapping_layers=2, mapping_fmaps=8, fmap_base=64, fmap_max=8)
    for name, variable in G.vars.items():
        if name.endswith("Noise/weight"):
            variable.assign(tf.fill(variable.shape, 0.3))
    np.savez(tmp_path / "lpips.npz", **random_arrays(rng))
    distance = Lpips(tmp_path / "lpips.npz", NARROW)

    def lengths(minibatch, num_samples=10):
        return ppl.path_lengths(
            G.mapping, lambda w, noise: G.synthesis(w, noise=noise), distance, latent_size=8,
            space=space, sampling=sampling, num_samples=num_samples, minibatch=minibatch, seed=4,
            labels=np.eye(3, dtype=np.float32))

    one, several = lengths(10), lengths(3)
    assert one.shape == several.shape == (10,) and (one > 0).all()
    np.testing.assert_allclose(one, several, rtol=0.05)
    np.testing.assert_allclose(one.mean(), several.mean(), rtol=0.01)
    np.testing.assert_allclose(lengths(10, 4), one[:4], rtol=1e-6)


def test_images_are_cropped_and_resized_for_the_distance(rng):
    images = rng.standard_normal((2, 512, 512, 3)).astype(np.float32)
    averaged = images.reshape(2, 256, 2, 256, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(ppl.preprocess(images), averaged, atol=1e-6)
    np.testing.assert_array_equal(ppl.preprocess(images, crop=True), images[:, 192:448, 128:384])
    np.testing.assert_array_equal(ppl.preprocess(images[:, :256, :256]), images[:, :256, :256])
    small = images[:, :2, :2]
    enlarged = small.repeat(4, axis=1).repeat(4, axis=2)
    np.testing.assert_array_equal(ppl.preprocess(small, 8), enlarged)
