"""Generators and discriminators of translation: the papers' sizes, layers against NumPy."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from dnnlib.tflib.network import build
from training.networks_translation import Convolution, PatchDiscriminator, patch_side
from training.pose.body import NUM_PARTS


def count(network):
    """Return how many numbers are trained."""
    return sum(int(np.prod(var.shape)) for var in network.trainables.values())


def conv(kernel, fmaps_in, fmaps, bias=False):
    """Return how many numbers a convolution has."""
    return kernel ** 2 * fmaps_in * fmaps + bias * fmaps


def of_norms(*fmaps):
    """Return how many numbers norms with scale and offset have."""
    return 2 * sum(fmaps)


def made(kind, seed=1, **options):
    few = {"blocks": 1} if kind == "ResnetGenerator" else {}
    return build(kind, "G", {"seed": seed, **few, **options})


def lively(network, seed=1):
    """Give every variable random values that reveal errors; variances get positive ones."""
    rng = np.random.default_rng(seed)
    network.set_arrays({name: 0.3 * rng.standard_normal(value.shape).astype(np.float32)
                        + 1.0 * name.endswith(("variance", "gamma"))
                        for name, value in network.get_arrays().items()})
    return network


def ones(network, count):
    return [tf.ones([count, *shape]) for shape in network.dropout_shapes]


@pytest.mark.parametrize("compiled", [False, True])
def test_keras_makes_no_values_of_its_own(compiled):
    """These would double the memory, and would exist before a size is refused."""
    network = made("PatchDiscriminator", resolution=16, in_channels=3, fmaps=2, strides=1)
    call = tf.function(network.train_call) if compiled else network.train_call
    call(tf.ones([2, 16, 16, 3]))
    assert [variable.path for variable in network.model.variables
            if variable._value is not None] == []


# The papers' networks

@pytest.mark.slow
def test_the_unet_of_256_pixels_has_the_papers_54_million_numbers():
    network = made("UnetGenerator", resolution=256, in_channels=3)
    down = [(3, 64), (64, 128), (128, 256), (256, 512), *[(512, 512)] * 4]
    up = [(512, 512), *[(1024, 512)] * 3, (1024, 256), (512, 128), (256, 64)]
    expected = sum(conv(4, *fmaps) for fmaps in down + up) + 64 + 512  # biases without a norm
    expected += conv(4, 128, 3, bias=True)
    expected += of_norms(128, 256, *[512] * 4) + of_norms(*(fmaps for _, fmaps in up))
    assert count(network) == expected and 54.4e6 < expected < 54.5e6
    assert network.dropout_shapes == [(2, 2, 512), (4, 4, 512), (8, 8, 512)]


@pytest.mark.parametrize("in_channels, about", [(6, 2.77e6), (3, 2.765e6)])
def test_a_patch_discriminator_of_70_pixels(in_channels, about):
    network = made("PatchDiscriminator", resolution=256, in_channels=in_channels)
    expected = (conv(4, in_channels, 64, bias=True) + conv(4, 64, 128) + conv(4, 128, 256)
                + conv(4, 256, 512) + conv(4, 512, 1, bias=True) + of_norms(128, 256, 512))
    assert count(network) == expected == pytest.approx(about, rel=1e-3)
    assert [logits.shape for logits in network.model.outputs] == [(None, 30, 30, 1)]


@pytest.mark.parametrize("blocks, about", [(9, 11.4e6), (6, 7.8e6)])
def test_a_resnet_generator(blocks, about):
    network = made("ResnetGenerator", resolution=32, in_channels=3, blocks=blocks)
    expected = (conv(7, 3, 64) + conv(3, 64, 128) + conv(3, 128, 256)
                + 2 * blocks * conv(3, 256, 256) + conv(3, 256, 128) + conv(3, 128, 64)
                + conv(7, 64, 3, bias=True))
    assert count(network) == expected == pytest.approx(about, rel=1e-2)


# Shapes and what they compute

@pytest.mark.parametrize("resolution, shapes", [
    (16, [(2, 2, 32), (4, 4, 16), (8, 8, 8)]), (32, [(2, 2, 64), (4, 4, 32), (8, 8, 16)]),
    (128, [(2, 2, 64), (4, 4, 64), (8, 8, 64)])])
def test_a_unet_goes_down_to_one_pixel(resolution, shapes):
    network = made("UnetGenerator", resolution=resolution, in_channels=5, fmaps=8)
    assert network.dropout_shapes == shapes
    innermost = resolution.bit_length() - 2
    assert network.model.get_layer(f"down{innermost}").output.shape[1:3] == (1, 1)
    rgb = network(tf.zeros([2, resolution, resolution, 5]), ones(network, 2))
    assert rgb.shape == (2, resolution, resolution, 3) and np.abs(rgb).max() < 1
    without = made("UnetGenerator", resolution=16, in_channels=5, fmaps=8, dropout=0.0)
    assert without.dropout_shapes == [] and without(tf.zeros([1, 16, 16, 5])).shape[1] == 16


@pytest.mark.parametrize("kind", ["UnetGenerator", "ResnetGenerator"])
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_options_and_arrays_determine_a_generator(kind, norm, rng):
    """Kernels have the papers' deviation. With instance norm a picture does not depend on the
    others in its minibatch, and training and use agree; batch norm returns running means."""
    options = {"resolution": 16, "in_channels": 2, "fmaps": 8, "norm": norm}
    one, two, other = (made(kind, seed, **options) for seed in (1, 1, 2))
    assert one.digest() == two.digest() != other.digest()
    kernels = np.concatenate([value.ravel() for name, value in one.get_arrays().items()
                              if name.endswith("/kernel")])
    assert abs(kernels.std() - 0.02) < 2e-4 and abs(kernels.mean()) < 2e-4
    condition = tf.constant(rng.uniform(0, 1, (3, 16, 16, 2)), tf.float32)
    network = lively(one)
    rgb, means = network.train_call(condition, ones(network, 3))
    in_use = network(condition, ones(network, 3))
    single = network(condition[:1], ones(network, 1))
    np.testing.assert_allclose(in_use[:1], single, atol=1e-4)
    assert (np.abs(in_use - rgb).max() < 1e-4) == (norm == "instance")
    assert bool(means) == (norm == "batch")
    assert all(not np.array_equal(value, network.vars[name]) for name, value in means.items())


@pytest.mark.parametrize("kind", ["UnetGenerator", "ResnetGenerator", "PatchDiscriminator",
                                  "PoseGenerator"])
def test_bfloat16(kind, rng):
    """Convolutions and the values between them are rounded; variables, norms, biases and outputs
    are float32."""
    options = {"resolution": 32, "fmaps": 8, "norm": "batch", **{
        "PatchDiscriminator": {"strides": 1, "in_channels": 2},
        "PoseGenerator": {"num_keypoints": 18, "halvings": 2}}.get(kind, {"in_channels": 2})}
    exact = lively(made(kind, **options))
    rounded = exact.clone()
    rounded.compute_dtype = tf.bfloat16
    assert keras.config.dtype_policy().name == "float32"
    for layer in rounded.model.layers:
        sums = "norm" in layer.name or getattr(layer, "bias", None) is not None
        assert not layer.weights or layer.compute_dtype == ("float32" if sums else "bfloat16")
    draw = functools.partial(rng.uniform, -1, 1)
    inputs = [tf.constant(draw((2, 32, 32, 2)), tf.float32)]
    if kind == "PoseGenerator":
        frames = draw((2, NUM_PARTS, 2, 3))
        inputs = [tf.constant(value, tf.float32) for value in (
            draw((2, 32, 32, 21)), draw((2, 32, 32, 18)), frames, frames)]
    if kind != "PatchDiscriminator":
        inputs.append(ones(exact, 2))
        assert rounded.model.layers[-1].compute_dtype == "float32"  # tanh near 1 has a gradient
    found = []
    for network in (exact, rounded):
        with tf.GradientTape() as tape:
            outputs, means = network.train_call(*inputs)
            outputs = outputs[0] if isinstance(outputs, list) else outputs
            loss = tf.reduce_mean(tf.square(outputs - 0.5))
        grads = tape.gradient(loss, network.trainables)
        assert outputs.dtype == tf.float32 and all(g.dtype == tf.float32 for g in grads.values())
        found.append((outputs.numpy(), {name: g.numpy() for name, g in grads.items()}, means))
    (image, grads, means), (near_image, near_grads, near_means) = found
    assert 1e-5 < np.linalg.norm(near_image - image) / np.linalg.norm(image) < 0.05
    assert means.keys() == near_means.keys() == grads.keys() ^ exact.vars.keys()
    whole, near = (np.concatenate([g[name].ravel() for name in grads]) for g in (grads, near_grads))
    assert np.linalg.norm(near - whole) < 0.1 * np.linalg.norm(whole)


def test_affine_norms():
    """Instance norms have scale and offset in the U-Net, and neither in the ResNet generator."""
    for kind, norm, affine in (("UnetGenerator", "instance", True),
                               ("ResnetGenerator", "instance", False),
                               ("ResnetGenerator", "batch", True)):
        names = made(kind, resolution=16, in_channels=2, fmaps=4, norm=norm).vars
        assert any(name.endswith("gamma") for name in names) == affine
    names = made("PatchDiscriminator", resolution=32, in_channels=2, affine=False).vars
    assert not any(name.endswith("gamma") for name in names)


def test_skips_and_dropout_reach_the_picture(rng):
    """Each mask changes the picture; dropout keeps half of the values, doubled."""
    network = lively(made("UnetGenerator", resolution=16, in_channels=2, fmaps=4))
    condition = tf.constant(rng.uniform(0, 1, (1, 16, 16, 2)), tf.float32)
    whole = ones(network, 1)
    for i in range(3):
        masks = [mask * (0 if k == i else 1) for k, mask in enumerate(whole)]
        assert np.abs(network(condition, masks) - network(condition, whole)).max() > 1e-3
    drawn = network.masks(lambda name, shape: rng.uniform(size=(7, *shape)))
    values, counts = np.unique(np.concatenate([m.numpy().ravel() for m in drawn]),
                               return_counts=True)
    np.testing.assert_array_equal(values, [0, 2])
    assert abs(counts[0] / counts.sum() - 0.5) < 0.05


def test_the_unet_against_numpy(rng):
    """At 4x4 pixels, by loops in float64: two halvings, one block with norm, mask and skip."""
    network = lively(made("UnetGenerator", resolution=4, in_channels=2, fmaps=3))
    condition = rng.uniform(0, 1, (1, 4, 4, 2))
    mask = rng.integers(0, 2, (1, 2, 2, 3)) * 2.0
    v = {name: value.astype(np.float64) for name, value in network.get_arrays().items()}

    def down(x, name):
        side = x.shape[1] // 2
        padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
        out = np.zeros((1, side, side, v[f"{name}/bias"].size))
        for i in range(side):
            for j in range(side):
                patch = padded[0, 2 * i:2 * i + 4, 2 * j:2 * j + 4]
                out[0, i, j] = np.einsum("hwi,hwio->o", patch, v[f"{name}/kernel"])
        return out + v[f"{name}/bias"]

    def up(x, name):
        side, kernel = x.shape[1], v[f"{name}/kernel"]  # [h, w, out, in]
        out = np.zeros((1, 2 * side + 2, 2 * side + 2, kernel.shape[2]))
        for i in range(side):
            for j in range(side):
                out[0, 2 * i:2 * i + 4, 2 * j:2 * j + 4] += np.einsum(
                    "hwoi,i->hwo", kernel, x[0, i, j])
        return out[:, 1:-1, 1:-1] + v.get(f"{name}/bias", 0)

    first = down(condition, "down0")
    x = np.maximum(down(np.where(first > 0, first, 0.2 * first), "down1"), 0)
    x = up(x, "up1")
    x = (x - x.mean((1, 2))) / np.sqrt(x.var((1, 2)) + 1e-5)
    x = (x * v["up1_norm/gamma"] + v["up1_norm/beta"]) * mask
    x = np.tanh(up(np.maximum(np.concatenate([x, first], axis=-1), 0), "up0"))
    ours = network(tf.constant(condition, tf.float32), [tf.constant(mask, tf.float32)])
    np.testing.assert_allclose(ours, x, atol=2e-5)


# Discriminators

@pytest.mark.parametrize("resolution, strides, sides", [
    (64, 3, [6]), (64, 2, [14]), (32, 1, [14]), (16, 1, [6]), (64, 2, [14, 6])])
def test_logits_of_patches(resolution, strides, sides):
    """Each scale has its side; there is a map for each output."""
    scales = len(sides)
    network = made("PatchDiscriminator", resolution=resolution, in_channels=4, fmaps=4,
                   strides=strides, num_maps=3, scales=scales)
    logits, _ = network.train_call(tf.zeros([2, resolution, resolution, 4]))
    assert [x.shape for x in logits] == [(2, side, side, 3) for side in sides]
    assert patch_side(resolution, strides, scales) == sides[-1]


@pytest.mark.parametrize("strides, side", [(1, 16), (2, 34), (3, 70)])
def test_a_patch_sees_a_square_of_the_papers_size(strides, side):
    """The gradient of a middle logit with respect to the picture is confined to it."""
    network = lively(made("PatchDiscriminator", resolution=128, in_channels=1, fmaps=2,
                          strides=strides))
    # Norms see the whole picture, so they are left out here.
    images = tf.Variable(np.random.default_rng(3).standard_normal((1, 128, 128, 1)), tf.float32)
    x = tf.cast(images, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        features = x
        for i in range(strides + 1):
            kernel = tf.convert_to_tensor(network.vars[f"scale0_conv{i}/kernel"])
            features = tf.nn.conv2d(tf.pad(features, [[0, 0], [1, 1], [1, 1], [0, 0]]), kernel,
                                    2 if i < strides else 1, "VALID")
        kernel = tf.convert_to_tensor(network.vars["scale0_logits/kernel"])
        logits = tf.nn.conv2d(tf.pad(features, [[0, 0], [1, 1], [1, 1], [0, 0]]), kernel, 1,
                              "VALID")
        middle = logits[0, logits.shape[1] // 2, logits.shape[2] // 2, 0]
    seen = np.abs(tape.gradient(middle, x)[0, :, :, 0]) > 0
    assert seen.any(1).sum() == seen.any(0).sum() == side
    assert network.train_call(x)[0][0].shape == logits.shape


def test_the_second_scale_sees_means_of_pixels(rng):
    network = lively(made("PatchDiscriminator", resolution=32, in_channels=2, fmaps=2, strides=1,
                          scales=2))
    alone = made("PatchDiscriminator", resolution=16, in_channels=2, fmaps=2, strides=1)
    alone.set_arrays({f"scale0_{name.removeprefix('scale1_')}": value
                      for name, value in network.get_arrays().items() if "scale1" in name})
    images = rng.standard_normal((2, 32, 32, 2)).astype(np.float32)
    halved = images.reshape(2, 16, 2, 16, 2, 2).mean((2, 4))
    np.testing.assert_allclose(network.train_call(tf.constant(images))[0][1],
                               alone.train_call(tf.constant(halved))[0][0], atol=1e-4)


def test_spectral_norm_divides_by_the_largest_singular_value(rng):
    """After some steps of the power method, with Miyato et al.'s gradient (equation 9)."""
    network = PatchDiscriminator("D", resolution=16, in_channels=3, fmaps=4, strides=1,
                                 spectral_norm=True, seed=2)
    path = "scale0_conv1/kernel"
    images = tf.constant(rng.standard_normal((2, 16, 16, 3)), tf.float32)
    for _ in range(100):
        _, values = network.train_call(images)
        assert set(values) == {f"scale0_{layer}/kernel_u" for layer in ("conv0", "conv1",
                                                                        "logits")}
        for name, value in values.items():
            network.vars[name].assign(value)
    kernel = network.vars[path].numpy().astype(np.float64)
    left, singular, right = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]),
                                          full_matrices=False)
    np.testing.assert_allclose(network.values()[path], kernel / singular[0], rtol=1e-4, atol=1e-7)
    probe = rng.standard_normal(kernel.shape)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(network.values()[path] * tf.constant(probe, tf.float32))
    outer = np.outer(left[:, 0], right[0]).reshape(kernel.shape)
    expected = (probe - (probe * kernel).sum() / singular[0] * outer) / singular[0]
    np.testing.assert_allclose(tape.gradient(total, network.vars[path]), expected, rtol=1e-3,
                               atol=1e-3)


# Convolutions of a single picture

@pytest.mark.parametrize("size, stride, padding", [(3, 1, "valid"), (4, 2, "same"),
                                                   (7, 1, "same")])
def test_one_picture_is_convolved_as_in_a_minibatch_of_two(size, stride, padding):
    layer = Convolution(5, size, stride, padding)
    rng = np.random.default_rng(0)
    two = tf.constant(rng.standard_normal((2, 16, 12, 3)), tf.float32)
    upstream = tf.constant(rng.standard_normal(layer(two).shape), tf.float32)

    def computed(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        return y, *tape.gradient(y, [x, layer.kernel], dy)

    y, dx, dk = computed(two, upstream)
    ones = [computed(two[n:n + 1], upstream[n:n + 1]) for n in (0, 1)]
    np.testing.assert_allclose(np.concatenate([one[0] for one in ones]), y, atol=1e-5)
    np.testing.assert_allclose(np.concatenate([one[1] for one in ones]), dx, atol=1e-5)
    np.testing.assert_allclose(ones[0][2] + ones[1][2], dk, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count, kind", [(1, "Conv3D"), (2, "Conv2D")])
@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="for CPUs")
def test_one_picture_uses_the_fast_kernel(count, kind):
    network = made("ResnetGenerator", resolution=16, in_channels=3, fmaps=2)
    graph = tf.function(network.__call__).get_concrete_function(
        tf.TensorSpec([count, 16, 16, 3])).graph
    assert {op.type for op in graph.get_operations() if op.type.startswith("Conv")
            and "Backprop" not in op.type} == {kind}
