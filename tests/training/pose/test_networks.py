"""The generator of people in other poses: its size, and the inputs that reach its pictures."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from dnnlib.tflib.network import build
from tests.tools import people
from training.pose import body
from training.pose.reposer import generator_inputs


def made(**options):
    return build("PoseGenerator", "G", {"resolution": 16, "num_keypoints": 2, "fmaps": 4,
                                        "halvings": 2, "seed": 1, **options})


def inputs(rng, count=1):
    """Return photos with heatmaps, heatmaps, and frames of two figures."""
    points = [tf.constant(np.stack([people.pose(rng) for _ in range(count)])) for _ in range(2)]
    return [tf.constant(rng.uniform(-1, 1, (count, 16, 16, 5)), tf.float32),
            tf.constant(rng.uniform(0, 1, (count, 16, 16, 2)), tf.float32),
            *(body.part_frames(one, people.NAMES) for one in points)]


def masks_of(network, count=1):
    return [tf.ones([count, *shape]) for shape in network.dropout_shapes]


def lively(network, rng):
    """Give every variable random values that reveal errors."""
    network.set_arrays({name: 0.3 * rng.standard_normal(value.shape).astype(np.float32)
                        + 1.0 * name.endswith("gamma")
                        for name, value in network.get_arrays().items()})
    return network


@pytest.mark.slow
def test_the_papers_network_of_128_pixels():
    network = made(resolution=128, num_keypoints=18, fmaps=64, halvings=5)
    widths = [64, 128, 256, 512, 512, 512]

    def conv(kernel, fmaps_in, fmaps):
        return kernel ** 2 * fmaps_in * fmaps

    expected = sum(conv(3, channels, 64) + 64 for channels in (21, 18))
    expected += 2 * sum(conv(4, *pair) + 2 * pair[1] for pair in itertools.pairwise(widths))
    ups = [512, 512, 512, 256, 128]
    behind = [1024] + [up + 2 * skip for up, skip in zip(ups, widths[-2::-1])]
    expected += sum(conv(4, *pair) + 2 * pair[1] for pair in zip(behind, ups))
    expected += conv(3, behind[-1], 3) + 3
    assert sum(int(np.prod(var.shape)) for var in network.trainables.values()) == expected
    assert network.dropout_shapes == [(8, 8, 512), (16, 16, 512), (32, 32, 512)]


def test_every_input_changes_the_picture(rng):
    network = lively(made(), rng)
    assert network.dropout_shapes == [(8, 8, 16), (16, 16, 8)]
    given, masks = inputs(rng), masks_of(network)
    rgb = network(*given, masks)
    assert rgb.shape == (1, 16, 16, 3) and np.abs(rgb).max() < 1
    np.testing.assert_allclose(network.train_call(*given, masks)[0], rgb, atol=1e-5)
    other = inputs(rng)
    for i in range(4):
        changed = [*given[:i], other[i], *given[i + 1:]]
        assert np.abs(network(*changed, masks) - rgb).max() > 1e-2, i
    masks[0] *= 0
    assert np.abs(network(*given, masks) - rgb).max() > 1e-2


def test_plain_skips_equal_deformable_ones_without_parts(rng):
    """They have the same variables, and ignore the frames."""
    deformable, plain = (made(skips=skips, dropout=0.0) for skips in ("deformable", "plain"))
    lively(deformable, rng)
    plain.set_arrays(deformable.get_arrays())
    given = inputs(rng)
    without = [*given[:2], tf.zeros_like(given[2]), tf.zeros_like(given[3])]
    expected = plain(*given)
    np.testing.assert_allclose(deformable(*without), expected, atol=1e-5)
    np.testing.assert_array_equal(plain(*without), expected)
    assert np.abs(deformable(*given) - expected).max() > 1e-2


def test_the_sources_features_move_from_its_pose_to_the_target(rng):
    """A network of zeros, except for the way of the source's red to the picture's blue through the
    last skip connection."""
    network = made(dropout=0.0)
    arrays = {name: np.zeros_like(value) for name, value in network.get_arrays().items()}
    arrays["source_down0/kernel"][1, 1, 0, 0] = 1
    before = arrays["last/kernel"].shape[2] - 2 * 4  # the decoder's; 4 of the source, 4 of the pose
    arrays["last/kernel"][1, 1, before, 2] = 1
    network.set_arrays(arrays)
    given = inputs(rng)
    red = tf.abs(given[0][..., :1])
    rgb = network(tf.concat([red, given[0][..., 1:]], -1), *given[1:])
    np.testing.assert_allclose(rgb[..., 2:], tf.tanh(body.warp_features(red, *given[2:])),
                               atol=1e-6)
    assert np.abs(rgb[..., 2:] - tf.tanh(red)).max() > 0.1


def test_bodies_with_other_joints_have_no_parts(rng):
    """Plain skips accept any keypoints."""
    points = tf.constant([[[0.5, 0.5, 2], [0.1, 0.9, 1]]])
    given = generator_inputs(tf.zeros([1, 16, 16, 3]), points, points, ("a", "b"))
    assert [one.shape.as_list() for one in given] == [
        [1, 16, 16, 5], [1, 16, 16, 2], [1, 10, 2, 3], [1, 10, 2, 3]]
    assert not given[2].numpy().any() and given[1].numpy().max() > 0.5
    network = made(skips="plain", dropout=0.0)
    assert network(*given).shape == (1, 16, 16, 3)
