"""bfloat16 activations: where they are used, and what stays in float32; lazy R1; XLA."""

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf

from dnnlib.data.dataset import open_dataset
from dnnlib.tflib import cpu_convolutions, ops
from dnnlib.tflib.distribute import mirrored_strategy
from dnnlib.util import UserError
from tests.tools.data_helpers import make_dataset
from tests.tools.gan_steps import (
    ONE_DEVICE,
    batch,
    distance,
    gradients,
    moved_state,
    num_traces,
    run,
)
from training import snapshots
from training.gan.init_from import enter_stage, new_state
from training.gan.schedule import make_stage
from training.run.config_checks import fit_to_dataset
from training.state import list_states, new_optimizers, restored_state, save_state

EPSILON = 2**-8  # largest relative error of one rounding to bfloat16


def optimizers_of(config):
    """Return the function that makes the optimizers of a training in its precision."""
    return functools.partial(new_optimizers, precision=config.precision)


def short_and_exact(rng, shape, scale=1.0):
    """Return random numbers in bfloat16, and the same numbers in float64."""
    x = tf.cast(tf.constant(scale * rng.standard_normal(shape), tf.float32), tf.bfloat16)
    return x, tf.cast(x, tf.float64)


def test_sums_over_pixels_do_not_stop_growing():
    """Gradients of bias and noise weight over 16,384 pixels of ones; TensorFlow's own BiasAddGrad
    gives 256 in bfloat16."""
    x = tf.ones([4, 64, 64, 3], tf.bfloat16)
    weight = tf.ones([3])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([x, weight])
        biased = tf.cast(ops.add_bias(x, weight), tf.float32)
        noisy = tf.cast(ops.apply_noise(x, tf.ones([4, 64, 64, 1]), weight), tf.float32)
    np.testing.assert_array_equal(tape.gradient(biased, weight), np.full(3, 4 * 64 * 64))
    np.testing.assert_array_equal(tape.gradient(noisy, weight), np.full(3, 4 * 64 * 64))


def test_adaptive_instance_norm(rng):
    """Against float64 and autodiff: values to one rounding, gradients of all three inputs."""
    x = short_and_exact(rng, (3, 8, 6, 5), scale=3.0)[0] + 2  # a mean to subtract
    exact = tf.cast(x, tf.float64)
    style = tf.constant(rng.standard_normal((3, 10)), tf.float32)
    dy, exact_dy = short_and_exact(rng, (3, 8, 6, 5))
    exact_style = tf.cast(style, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch([x, style])
        y = ops.adaptive_instance_norm(x, style)
    grads = tape.gradient(y, [x, style], output_gradients=dy)
    with tf.GradientTape() as tape:
        tape.watch([exact, exact_style])
        centred = exact - tf.reduce_mean(exact, [1, 2], keepdims=True)
        normed = centred / tf.sqrt(tf.reduce_mean(centred**2, [1, 2], keepdims=True) + 1e-8)
        parts = tf.reshape(exact_style, [3, 2, 1, 1, 5])
        exact_y = normed * (parts[:, 0] + 1) + parts[:, 1]
    exact_grads = tape.gradient(exact_y, [exact, exact_style], output_gradients=exact_dy)
    assert y.dtype == grads[0].dtype == x.dtype and grads[1].dtype == tf.float32
    for ours, theirs in zip((y, *grads), (exact_y, *exact_grads)):
        error = np.abs(tf.cast(ours, tf.float64) - theirs).max()
        assert error <= EPSILON * np.abs(theirs).max()


PLAIN = {1: (ops.conv2d, None), 2: (ops.fused_downscale, ops.fused_upscale)}
OURS = {1: (cpu_convolutions.conv2d, None),
        2: (cpu_convolutions.fused_downscale, cpu_convolutions.fused_upscale)}


def derivatives(x, kernel, down, convolve, scatter):
    """Return a convolution, the slope of a scalar of it and its adjoint, and what R1 needs: the
    gradients of the squared slope."""
    with tf.GradientTape() as outer:
        outer.watch([x, kernel])
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = convolve(x, kernel)
            factor = 1.0 if scatter is None else tf.reduce_sum(scatter(down, kernel) * x)
            total = tf.reduce_sum(tf.sin(y) * factor)
        slope = inner.gradient(total, x)
        penalty = tf.reduce_sum(slope**2)
    return y, slope, *outer.gradient(penalty, [x, kernel])


@pytest.mark.parametrize("size, fmaps", [(1, 3), (3, 3), (3, 256), (4, 3), (4, 64)])
def test_cpu_convolutions_equal_tensorflows(rng, size, fmaps):
    """Values, gradients and the second derivatives that R1 needs, on both sides of the rule for
    fmaps; in float32, to rounding."""
    stride = 2 if size == 4 else 1
    x, kernel, down = (tf.constant(rng.standard_normal(shape), tf.float32) for shape in (
        (2, 6, 4, fmaps), (size, size, fmaps, 2), (2, 6 // stride, 4 // stride, 2)))
    for got, expected in zip(derivatives(x, kernel, down, *OURS[stride]),
                             derivatives(x, kernel, down, *PLAIN[stride])):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("size", [3, 4])
def test_bfloat16_convolutions_are_rounded_once(rng, size):
    """Values and both gradients, on every processor: 2,304 or 4,096 products are added up in
    float32. Kernels that add up in bfloat16 are wrong by 10 roundings."""
    stride = 2 if size == 4 else 1
    x, kernel, dy = (short_and_exact(rng, shape) for shape in (
        (4, 32, 32, 256), (size, size, 256, 8), (4, 32 // stride, 32 // stride, 8)))

    def values_and_gradients(convolve, x, kernel, dy):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            y = convolve(x, kernel)
        return y, *tape.gradient(y, [x, kernel], output_gradients=dy)

    ours = values_and_gradients(OURS[stride][0], x[0], kernel[0], dy[0])
    exact = values_and_gradients(PLAIN[stride][0], x[1], kernel[1], dy[1])
    for got, expected in zip(ours, exact):
        assert got.dtype == tf.bfloat16
        error = np.linalg.norm(tf.cast(got, tf.float64) - expected)
        assert error < 0.6 * EPSILON * np.linalg.norm(expected)


def test_types_of_convolutions_variables_and_scores(tiny_config):
    """Convolutions are in bfloat16, except those at the images' side; variables, slots, images and
    scores are float32; Gs is not affected."""
    state = moved_state(tiny_config(variant="rgb", precision="bf16"))
    G, D, Gs = (state.networks[name] for name in ("G", "D_rgb", "Gs"))

    def kinds(network, *shape):
        graph = tf.function(network).get_concrete_function(tf.TensorSpec(shape)).graph
        assert graph.structured_outputs.dtype == tf.float32
        return {(op.inputs[1].shape[0], of_cast(op.inputs[1]).dtype)
                for op in graph.get_operations() if op.type in ("Conv2D", "Conv2DBackpropInput")}

    def of_cast(tensor):
        """Return the tensor before a cast to float32: not every processor has bfloat16 kernels."""
        is_cast = tensor.op.type == "Cast" and tensor.dtype == tf.float32
        return tensor.op.inputs[0] if is_cast else tensor

    expected = {(1, tf.float32), (3, tf.bfloat16), (4, tf.bfloat16)}
    assert kinds(D, 8, 16, 16, 3) == kinds(G, 8, 8) == expected
    assert {dtype for _, dtype in kinds(Gs, 8, 8)} == {tf.float32}
    kept = [v for network in (G, D, Gs) for v in network.vars.values()]
    kept += [slot for optimizer in state.optimizers.values() for slot in optimizer.slots.values()]
    assert {v.dtype for v in kept} == {tf.float32}


def test_new_grown_and_restored_networks_have_the_precision(tiny_config, tmp_path):
    config = tiny_config(precision="bf16")
    state = new_state(config)
    states = [state]
    state = enter_stage(state, make_stage(config, 5, "binary"), config)
    states += [state, restored_state(*written(state, tmp_path), "x", optimizers_of(config))]
    for state in states:
        for name, network in state.networks.items():
            assert network.compute_dtype == (tf.float32 if name == "Gs" else tf.bfloat16)


def written(state, folder):
    """Write a training state; return (header, groups) from its file."""
    save_state(folder, state)
    return snapshots.load_container(list_states(folder)[0])


@pytest.mark.slow
def test_gradients_of_D_in_bfloat16(tiny_config):
    """By their norm; measured: 0.019."""
    seen = {}
    for kind in ("fp32", "bf16"):
        config = tiny_config(variant="rgb", precision=kind)
        state = moved_state(config)
        run(config, state, [0], resolution=16, minibatch=8, lrate=0.0)
        seen[kind] = gradients(state)["D_rgb"]
    assert distance(seen["bf16"], seen["fp32"]) < 0.05


@pytest.mark.slow
def test_everything_together(tiny_config):
    """bfloat16, parts, lazy R1, labels, two replicas: against float32 on one device in one part."""
    config = tiny_config(variant="rgb", resolution=4, initial_resolution=4, r1_interval=2,
                         style_mixing_prob=1.0)
    short = dataclasses.replace(config, precision="bf16", minibatch_per_gpu={4: 4})
    two = mirrored_strategy("cpu", 2)
    seen = []
    for options, strategy in ((config, ONE_DEVICE), (short, two)):
        state = moved_state(options, strategy, label_size=3)
        turn, reports = run(options, state, [1, 2], strategy, resolution=4, lrate=0.0, label_size=3)
        assert ["Loss/r1_penalty" in report for report in reports] == [False, True]
        assert num_traces(turn) == 2
        seen.append(gradients(state)["D_rgb"])
    assert distance(seen[1], seen[0]) < 0.05
    for network in state.networks.values():
        for var in network.vars.values():
            assert len({copy.numpy().tobytes() for copy in var.values}) == 1


# ---------------------------------------------------------------------------- lazy R1


def test_lazy_r1_counts_the_steps_of_each_critic(tiny_config):
    """Two critics take turns and k = 2: R1 is in every second step of each, with k times the weight
    it has in every step (tests/oracles/test_turn_oracle.py)."""
    config = tiny_config(variant="rgb", resolution=4, initial_resolution=4, r1_interval=2)
    state = moved_state(config)
    _, reports = run(config, state, range(12), resolution=4, minibatch=8, num_critics=2)
    assert ["Loss/r1_penalty" in report for report in reports] == [True, True, False, False] * 3
    with pytest.raises(UserError, match="--r1-gamma=0 leaves"):
        tiny_config(r1_interval=2, r1_gamma=0.0)


# ---------------------------------------------------------------------------- states


@pytest.mark.slow
def test_a_state_holds_all_of_it(tiny_config, tmp_path):
    """bf16 and lazy R1: two steps, a state written and read, and two more steps equal four in a
    row. A counter that an older state lacks starts at zero."""
    config = tiny_config(variant="rgb", resolution=4, initial_resolution=4, precision="bf16",
                         r1_interval=2)
    one = moved_state(config)
    turn, _ = run(config, one, [1, 2], resolution=4, minibatch=8)
    header, groups = written(one, tmp_path)
    two = restored_state(header, groups, "x", optimizers_of(config))
    for step in (3, 4):
        turn(batch(step, 8, 4), step, 0.0, 0.001)
    run(config, two, [3, 4], resolution=4, minibatch=8)
    for name, network in one.networks.items():
        assert network.digest() == two.networks[name].digest()
    del groups["opt_G"]["skipped_in_a_row"]
    old = restored_state(header, groups, "x", optimizers_of(config))
    assert old.optimizers["G"].skipped_in_a_row == 0


def test_float16_is_refused_in_one_line(tiny_config):
    with pytest.raises(UserError, match=r"^--precision=fp16: expected one of fp32, bf16$"):
        tiny_config(precision="fp16")


# ---------------------------------------------------------------------------- XLA


def test_xla_is_for_one_device(tiny_config, tmp_path):
    """Its step against float64: tests/oracles/test_turn_oracle.py."""
    config = tiny_config(variant="rgb", xla=True, minibatch={4: 16})
    images = np.zeros([8, 3, 16, 16], np.uint8)
    dataset = open_dataset(make_dataset(tmp_path / "rgb", {"train": images}, ()))
    fit_to_dataset(config, dataset, 1)
    with pytest.raises(UserError, match=r"one device, not for 2; .*--gpus=1"):
        fit_to_dataset(config, dataset, 2)
