"""Forms of layers that scale: exact against NumPy in float64, chosen by a rule, made once a step;
and what a turn leaves alone."""

import numpy as np
import pytest
import tensorflow as tf

from dnnlib.tflib import ops
from dnnlib.tflib.network import build
from training.critics import Critic
from training.forms import use_fused
from training.gan_step import Turn
from training.state import new_state

SMALL = dict(num_channels=3, resolution=16, fmap_base=64, fmap_max=8, seed=5)
KINDS = {"G_style": dict(SMALL, latent_size=8, dlatent_size=8, mapping_fmaps=8, mapping_layers=2),
         "D_basic": SMALL}


# ---------------------------------------------------------------------------- float64, by hand


def shifted(x):
    """The nine shifts of a zero-padded x [N, H, W, C], {(i, j): as x}."""
    padded, (height, width) = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)]), x.shape[1:3]
    return {(i, j): padded[:, i:i + height, j:j + width] for i in range(3) for j in range(3)}


def conv(x, w):
    return sum(part @ w[tap] for tap, part in shifted(x).items())


def conv_by_x(g, w):
    return conv(g, w[::-1, ::-1].transpose(0, 1, 3, 2))


def conv_by_w(x, g):
    by_w = np.zeros((3, 3, x.shape[3], g.shape[3]))
    for tap, part in shifted(x).items():
        by_w[tap] = np.einsum("nhwc,nhwd->cd", part, g)
    return by_w


def repeat(x):
    return x.repeat(2, axis=1).repeat(2, axis=2)


def sum_2x2(x):
    return sum(x[:, i::2, j::2] for i in (0, 1) for j in (0, 1))


# Each form: forward, gradient by x, gradient by w.
ORACLES = {
    ops.upscale2d_conv2d: (lambda x, w: conv(repeat(x), w),
                           lambda g, w: sum_2x2(conv_by_x(g, w)),
                           lambda x, g: conv_by_w(repeat(x), g)),
    ops.conv2d_downscale2d: (lambda x, w: sum_2x2(conv(x, w)) / 4,
                             lambda g, w: conv_by_x(repeat(g) / 4, w),
                             lambda x, g: conv_by_w(x, repeat(g) / 4))}


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("shape", [(1, 2, 2, 1, 1), (2, 4, 6, 3, 5), (4, 8, 8, 32, 16)])
@pytest.mark.parametrize("form", ORACLES)
def test_forms_and_two_derivatives_are_exact(rng, form, shape, fused):
    """Value, gradients by input and weight, and by weight the gradient of the squared gradient by
    input (what R1 asks for): <g, y> is linear in x and in w, so all follow from two adjoints."""
    n, height, width, fmaps_in, fmaps = shape
    forward, by_x, by_w = ORACLES[form]
    x = rng.standard_normal((n, height, width, fmaps_in))
    w = rng.standard_normal((3, 3, fmaps_in, fmaps))
    g = rng.standard_normal(forward(x, w).shape)
    slope = by_x(g, w)
    expected = [forward(x, w), slope, by_w(x, g), 2 * by_w(slope, g)]
    results = derivatives(form, *(tf.constant(a, tf.float32) for a in (x, w, g)), fused)
    for ours, right in zip(results, expected, strict=True):
        np.testing.assert_allclose(ours, right, rtol=1e-4, atol=2e-6 * np.abs(right).max())


def derivatives(form, x, w, g, fused):
    with tf.GradientTape() as outer:
        outer.watch(w)
        with tf.GradientTape() as inner:
            inner.watch([x, w])
            y = form(x, w, fused)
            total = tf.reduce_sum(y * g)
        by_x, by_w = inner.gradient(total, [x, w])
        penalty = tf.reduce_sum(tf.square(by_x))
    return y, by_x, by_w, outer.gradient(penalty, w)


def test_scaled_kernels(rng):
    """A kernel made of a stored weight and its scale is that of the weight in use."""
    weight = tf.constant(rng.standard_normal((3, 3, 4, 6)), tf.float32)
    for make in (ops.upscale_kernel, ops.downscale_kernel):
        np.testing.assert_allclose(make(weight, 0.3), make(0.3 * weight), rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------------- the rule


@pytest.mark.parametrize("resolution, fmaps, fused", [
    (8, 512, False), (8, 513, False), (8, 511, True), (8, 64, True), (16, 512, True),
    (16, 16, True), (512, 16, True), (4, 512, False)])
def test_rule(resolution, fmaps, fused):
    assert use_fused(resolution, fmaps) is fused


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_follows_its_rule_layer_by_layer(kind, monkeypatch):
    """The rule is asked with the finer resolution and the maps of the layer's output, and its
    answer alone decides: whatever is fused, the images or scores are the same."""
    network, calls, made = build(kind, "x", KINDS[kind]), [], []
    name = "fused_upscale" if kind == "G_style" else "fused_downscale"
    original = getattr(ops, name)
    monkeypatch.setattr(ops, name, lambda y, kernel: made.append(1) or original(y, kernel))
    x = tf.ones([4, 8] if kind == "G_style" else [4, 16, 16, 3])
    plain = None
    for form in (set(), {8}, {16}, {8, 16}):
        network.use_fused = lambda r, fmaps, form=form: calls.append((r, fmaps)) or r in form
        made.clear()
        y = network(x)
        assert len(made) == len(form)
        plain = y if plain is None else plain
        np.testing.assert_allclose(y, plain, rtol=1e-4, atol=1e-5)
    assert set(calls) == {(8, 8), (16, 8)}


# ---------------------------------------------------------------------------- made once


@pytest.mark.parametrize("kind", KINDS)
def test_weights_made_once_change_no_gradient(kind, rng):
    network = build(kind, "x", KINDS[kind])
    shape = (4, 8) if kind == "G_style" else (4, 16, 16, 3)
    inputs = [tf.constant(rng.standard_normal(shape), tf.float32) for _ in range(2)]
    with tf.GradientTape() as tape:
        total = sum(tf.reduce_sum(tf.sin(network(x))) for x in inputs)
    apart = tape.gradient(total, network.trainables)
    with tf.GradientTape() as tape, network.weights_made_once():
        total = sum(tf.reduce_sum(tf.sin(network(x))) for x in inputs)
    together = tape.gradient(total, network.trainables)
    assert apart.keys() == together.keys()
    for name, grad in apart.items():
        if grad is None:  # the coarser ToRGBs and FromRGBs
            assert together[name] is None
            continue
        np.testing.assert_allclose(together[name], grad, rtol=1e-4,
                                   atol=1e-4 * np.abs(grad).max())


def test_weights_made_once_are_made_once_and_let_go():
    network, x = build("D_basic", "D", SMALL), tf.ones([4, 16, 16, 3])
    name = "16x16/Conv0/weight"
    with network.weights_made_once():
        before = network(x).numpy()
        network.vars[name].assign(tf.zeros_like(network.vars[name]))
        np.testing.assert_array_equal(network(x), before)
    assert np.any(network(x) != before)


def test_weights_made_once_are_let_go_after_an_error():
    network = build("D_basic", "D", SMALL)
    with pytest.raises(ValueError, match="resolutions"), network.weights_made_once():
        network(tf.ones([4, 2, 2, 3]), resolution=2)
    assert network._kept is None


# ---------------------------------------------------------------------------- not in use


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("resolution", [4, 8, 16])
def test_variables_tell_where_they_take_part(kind, resolution):
    """Exactly the finer ones have no gradient; coarser ToRGBs and FromRGBs have none either."""
    network = build(kind, "x", KINDS[kind])
    x = tf.ones([4, 8] if kind == "G_style" else [4, resolution, resolution, 3])
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(tf.sin(network(x, resolution=resolution, fade=0.5)))
    for name, grad in tape.gradient(total, network.trainables).items():
        finer = network.resolution_of(name) > resolution
        past = "RGB_lod" in name and network.resolution_of(name) < resolution // 2
        assert (grad is None) == (finer or past), name
    noise = [network.resolution_of(n) for n in network.vars if "/noise" in n]
    assert noise == ([4, 4, 8, 8, 16, 16] if kind == "G_style" else [])


def test_a_turn_leaves_finer_variables_alone(tiny_config, rng):
    """They, their average and their moments stay; every one in use moves."""
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    config = tiny_config(variant="rgb")
    with strategy.scope():
        state = new_state(config)
    before = {name: network.get_arrays() for name, network in state.networks.items()}
    turn = Turn(strategy, config, state.networks, state.optimizers, Critic("rgb", 3), 8, False, 8)
    images = tf.constant(rng.integers(0, 256, (8, 8, 8, 3), np.uint8))
    for step in range(2):
        turn((images, tf.zeros([8, 0])), step, 0.0, 0.01)
    for key, network in state.networks.items():
        for name, value in network.get_arrays().items():
            finer = network.resolution_of(name) > 8
            if finer or ("RGB_lod" in name and "lod1" not in name):
                np.testing.assert_array_equal(value, before[key][name], err_msg=name)
            elif network.vars[name].trainable:
                assert np.any(value != before[key][name]), name
    for key, optimizer in state.optimizers.items():
        for name, slot in optimizer.slots.items():
            if "/" in name and state.networks[key].resolution_of(name) > 8:
                assert not np.any(slot.numpy()), name
