"""training/sampler.py: the stream of samples for metrics, label maps, minibatches."""

import numpy as np
import pytest
import tensorflow as tf

from dnnlib.data.channels import to_label_map
from dnnlib.util import UserError
from training.sampler import Sampler, label_maps, stream_noise
from training.snapshots import Snapshot


class Network:
    """A stand-in for Gs whose images [N, 4, 4, 3] depend on its inputs."""

    latent_size, num_channels = 5, 3

    def __init__(self, label_size=0, paint=None):
        self.label_size, self.latents, self.paint = label_size, [], paint or self.noisy

    def mapping(self, latents, labels):
        tf.numpy_function(lambda x: self.latents.append(x), [latents], [])
        return latents[:, None] if labels is None else labels[:, None]

    def synthesis(self, dlatents, resolution, fade, noise):
        return self.paint(dlatents, noise)

    @staticmethod
    def noisy(dlatents, noise):
        return tf.tile(dlatents[:, None, :, :1] * 0.3, [1, 4, 4, 3]) + noise(1, 4, 4) * 0.1


def sampler_of(network):
    header = {"classes": [], "lod": {"resolution": 4, "fade": 0.0}}
    return Sampler(Snapshot({"Gs": network}, header))


def stream(seed, count=7, minibatch=7, labels=None, network=None):
    """Return all images of a stream."""
    batches = list(sampler_of(network or Network()).stream(seed, count, minibatch,
                                                           label_table=labels))
    assert all(len(batch) == minibatch for batch in batches[:-1])
    return np.concatenate(batches)


@pytest.mark.parametrize("minibatch", [1, 3, 8])
def test_samples_depend_only_on_seed_and_position(minibatch):
    images = stream(11, minibatch=minibatch)
    assert images.shape == (7, 4, 4, 3)
    np.testing.assert_array_equal(images, stream(11))
    np.testing.assert_array_equal(images[:4], stream(11, 4, minibatch))
    assert not np.array_equal(images, stream(12, minibatch=minibatch))


def test_latents_follow_from_the_seed():
    network = Network()
    stream(42, 6, 3, network=network)
    expected = np.random.RandomState(42).randn(6, 5).astype(np.float32)
    np.testing.assert_array_equal(np.concatenate(network.latents), expected)


@pytest.mark.parametrize("minibatch", [1, 3, 8])
def test_labels_are_drawn_from_the_table_by_seed_and_position(minibatch):
    table = np.eye(5, dtype=np.float32)[[0, 0, 0, 2, 4]]
    network = Network(5, lambda labels, noise: tf.tile(labels[:, :, None], [1, 4, 4, 1]))

    def drawn(minibatch, seed, count):
        return stream(seed, count, minibatch, table, network)[:, 0, 0]
    rows = drawn(minibatch, 3, 50)
    np.testing.assert_array_equal(rows, drawn(50, 3, 50))
    np.testing.assert_array_equal(rows[:20], drawn(minibatch, 3, 20))
    assert not np.array_equal(rows, drawn(minibatch, 4, 50))
    np.testing.assert_allclose(drawn(500, 3, 5000).mean(axis=0), [0.6, 0, 0.2, 0, 0.2], atol=0.03)
    # They have their own stream (docs/metrics.md): the latents' stream would tie labels to latents.
    places = (np.random.RandomState([3, 1]).random_sample(50) * 5).astype(int)
    np.testing.assert_array_equal(rows, table[places])


def test_labels_cannot_be_drawn_without_a_table():
    with pytest.raises(UserError, match="needs labels to draw from"):
        stream(0, labels=np.zeros((0, 3), np.float32))


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_diverged_network_is_reported(value):
    network = Network(paint=lambda dlatents, noise: tf.fill([7, 4, 4, 5], value))
    with pytest.raises(UserError, match="not finite"):
        stream(0, network=network)


@pytest.mark.parametrize("size", [4, 8, 16])
def test_noise_is_normal_and_one_stream(size):
    whole = stream_noise(5, 0, 64)(2, size, size).numpy()
    np.testing.assert_array_equal(stream_noise(5, 40, 9)(2, size, size), whole[40:49])
    assert abs(whole.mean()) < 5 / np.sqrt(whole.size)
    assert abs(whole.std() - 1) < 5 / np.sqrt(whole.size)
    other = stream_noise(5, 0, 64)(3, size, size).numpy()
    assert abs(np.corrcoef(whole.ravel(), other.ravel())[0, 1]) < 5 / np.sqrt(whole.size)


def test_the_stream_of_noise_does_not_change():
    """The values of metrics depend on it."""
    values = stream_noise(3, 1, 2)(1, 4, 4).numpy().ravel()[[0, 1, 16, 31]]
    np.testing.assert_allclose(values, [0.2446907, 1.234254, 1.0723263, 1.9961416], rtol=1e-5)


def test_label_maps_are_the_largest_map_above_zero(rng):
    """As in dnnlib.data.channels, with ties and zeros; for tensors and for arrays."""
    images = np.round(rng.standard_normal((6, 8, 8, 7)) - 0.5).astype(np.float32) / 2
    expected = to_label_map(images[..., 3:])
    assert set(np.unique(expected)) == {0, 1, 2, 3, 4}
    for found in (label_maps(images), label_maps(tf.constant(images))):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == np.uint8
    np.testing.assert_array_equal(label_maps(images[0]), expected[0])
    assert not label_maps(images[..., :3]).any()


@pytest.mark.parametrize("dataset, known, expected", [
    ({"resolution": 8, "content_box": [1, 0, 7, 8]}, True, (1, 0, 3, 4)),
    ({"resolution": 4, "content_box": [1, 0, 3, 4]}, True, (1, 0, 3, 4)),
    ({"resolution": 8, "content_box": None}, True, None), ({"digest": "0"}, False, None)])
def test_pixels_that_are_partly_padding_are_not_in_the_content_box(dataset, known, expected):
    header = {"classes": [], "lod": {"resolution": 4, "fade": 0.0}, "dataset": dataset}
    sampler = Sampler(Snapshot({"Gs": Network()}, header))
    assert (sampler.knows_padding, sampler.content_box) == (known, expected)
