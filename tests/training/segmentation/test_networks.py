"""Segmentation networks: keras.applications' ResNet-50, dilations for strides, ImageNet."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from dnnlib.tflib.network import build
from training.segmentation import networks

SIDE = 64


def functional(encode, output_stride, side=SIDE):
    """Return a Keras model of a backbone: rgb -> features of stride 4, of the output stride."""
    rgb = layers.Input((side, side, 3))
    return keras.Model(rgb, encode(rgb, output_stride))


def shaken(model, rng):
    """Give all variables of a model values that reveal errors; return {path: array}."""
    values = {}
    for variable in model.variables:
        value = np.asarray(variable)
        if variable.path.endswith(("gamma", "moving_variance")):
            value = value * rng.uniform(0.5, 1.5, value.shape)
        elif not variable.path.endswith("kernel"):
            value = value + 0.1 * rng.standard_normal(value.shape)
        values[variable.path] = value.astype(np.float32)
        variable.assign(values[variable.path])
    return values


@pytest.mark.slow
def test_resnet50_is_keras_with_dilations_for_strides(rng):
    """Keras' network has a stride of 32. With dilations in place of the last strides, every second
    or fourth feature is the same."""
    theirs = keras.applications.ResNet50(include_top=False, weights=None,
                                         input_shape=(SIDE, SIDE, 3))
    values = shaken(theirs, rng)
    rgb = rng.uniform(-1, 1, (2, SIDE, SIDE, 3)).astype(np.float32)
    expected = theirs(rgb).numpy()
    for stride in (16, 8):
        ours = functional(networks.resnet50, stride)
        for variable in ours.variables:
            variable.assign(values[variable.path])
        low, high = ours(rgb)
        assert low.shape == (2, 16, 16, 256) and high.shape == (2, SIDE // stride, SIDE // stride,
                                                                2048)
        step = 32 // stride
        np.testing.assert_allclose(high[:, ::step, ::step], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stride", [8, 16])
def test_efficientnet_lite0_with_dilations_for_strides(stride, rng):
    """At the last of every two or four places its features are those with all strides: TensorFlow's
    strides look at the middle of these places."""
    undilated = functional(networks.efficientnet_lite0, 32)
    values = shaken(undilated, rng)
    ours = functional(networks.efficientnet_lite0, stride)
    for variable in ours.variables:
        variable.assign(values[variable.path])
    rgb = rng.uniform(-1, 1, (2, SIDE, SIDE, 3)).astype(np.float32)
    step = 32 // stride
    for expected, features, every in zip(undilated(rgb), ours(rgb), (1, step)):
        np.testing.assert_allclose(features[:, every - 1::every, every - 1::every], expected,
                                   rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_older_files_keep_their_dilations():
    """Without the option that makes them exact, the first dilated blocks look twice as far."""
    options = {"resolution": SIDE, "num_outputs": 2, "output_stride": 8}
    for more, expected in (({}, [2, 4]), ({"exact_dilations": True}, [1, 2])):
        model = build("Segmenter", "S", options | more).model
        first = [model.get_layer(f"block{number}_depthwise") for number in (5, 11)]
        assert [layer.dilation_rate[0] for layer in first] == expected


@pytest.mark.parametrize("stride", [8, 16])
def test_the_shapes_of_efficientnet_lite0(stride):
    low, high = functional(networks.efficientnet_lite0, stride)(np.zeros((1, SIDE, SIDE, 3)))
    assert low.shape == (1, 16, 16, 24) and high.shape == (1, SIDE // stride, SIDE // stride, 320)


def test_rates_of_the_pyramid_follow_the_features(monkeypatch):
    """6, 12 and 18 for features 32 wide; on small features no rate that sees only padding."""
    rates = []
    conv = networks._conv
    monkeypatch.setattr(networks, "_conv", lambda x, *args, rate=1, **options: (
        rates.append(rate), conv(x, *args, rate=rate, **options))[1])
    networks._pyramid(layers.Input((32, 32, 8)))
    assert rates == [1, 6, 12, 18, 1, 1]
    rates.clear()
    networks._pyramid(layers.Input((4, 4, 8)))
    assert rates == [1, 1, 2, 1, 1]


@pytest.mark.parametrize("options", [{"architecture": "unet", "unet_fmaps": 4},
                                     {"architecture": "deeplab"}])
def test_options_and_arrays_determine_a_network(options, rng):
    """Two of one seed are equal, logits have the picture's size, running means are returned."""
    one, two, other = (build("Segmenter", "S", {"resolution": 32, "num_outputs": 3, "seed": seed,
                                                **options}) for seed in (1, 1, 2))
    assert one.digest() == two.digest() != other.digest()
    rgb = tf.constant(rng.uniform(-1, 1, (4, 32, 32, 3)), tf.float32)
    before = one.get_arrays()
    logits, means = one.train_call(rgb)
    assert logits.shape == (4, 32, 32, 3)
    assert means.keys() == one.vars.keys() - one.trainables.keys()
    assert one.digest() == two.digest()  # nothing was assigned
    name = next(name for name in means if name.endswith("moving_mean"))
    assert np.abs(means[name] - before[name]).max() > 0
    other.set_arrays(before)
    np.testing.assert_array_equal(other(rgb), one(rgb))
