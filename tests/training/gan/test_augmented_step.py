"""A step whose critic sees augmented images: on devices, in parts, in each precision, with XLA.

That it is StyleGAN's step on these images is shown by test_gan_step.py.
"""

import numpy as np
import pytest

from dnnlib.tflib.distribute import mirrored_strategy
from tests.tools import gan_steps
from tests.tools.gan_steps import (
    ONE_DEVICE,
    RGB,
    batch,
    distance,
    gradients,
    moved_state,
    num_traces,
)
from training.dataset import process_reals
from training.gan.init_from import enter_stage
from training.gan.schedule import make_stage, stage_critics

SMALL = dict(resolution=4, initial_resolution=4)
ADAPTING = dict(augment="ada", ada_kimg=0.16)  # p changes by 0.4 every four minibatches of 16
JOINT = stage_critics("2d", "classes", 5)[1]


def run(config, state, steps, *args, **more):
    """Return (GanStep, [report]) at 4x4, which compiles fastest."""
    return gan_steps.run(config, state, steps, *args, resolution=4, **more)


def state_with_maps(config, strategy=ONE_DEVICE):
    """Return a moved state in the class stage."""
    state = moved_state(config, strategy)
    with strategy.scope():
        for name in ("binary", "classes"):
            state = enter_stage(state, make_stage(config, 5, name), config)
    return state


def digests(state):
    return {name: network.digest() for name, network in state.networks.items()}


@pytest.mark.slow
def test_p_zero_is_no_augmentation_bit_for_bit(tiny_config):
    """With a target of 1, which is never exceeded, p stays at its start."""
    seen = []
    for changes in ({}, {"augment": "ada", "ada_target": 1.0}):
        config = tiny_config(**SMALL, **changes)
        state = state_with_maps(config)
        turn, reports = run(config, state, range(5), critic=JOINT, minibatch=8)
        seen.append(digests(state))
    assert seen[0] == seen[1]
    assert [float(report["Augment/p"]) for report in reports] == [0.0] * 5
    assert num_traces(turn) == 1


@pytest.mark.slow
def test_a_step_reports_p_and_r_t(tiny_config):
    """r_t is over the four minibatches whose signs are reported too."""
    config = tiny_config(variant="rgb", **SMALL, **ADAPTING)
    _, reports = run(config, moved_state(config), range(8), lrate=0.0, p=0.5)
    signs = [float(report["Loss/signs/real"]) for report in reports]
    assert all(-1 <= sign <= 1 for sign in signs)
    for report in reports[3:7]:
        assert float(report["Augment/r_t"]) == pytest.approx(np.mean(signs[:4]), abs=1e-6)
    way = np.sign(np.mean(signs[:4]) - 0.6)
    steps = np.diff([0.5] + [float(report["Augment/p"]) for report in reports])
    assert steps[3] == pytest.approx(0.4 * way, abs=1e-6)
    np.testing.assert_array_equal(np.delete(steps, [3, 7]), 0)


def test_signs_are_of_ds_scores_of_reals(tiny_config):
    """If zero is the median of D's scores of reals, half of them are positive."""
    config = tiny_config(variant="rgb", **{**SMALL, "mirror": False})
    state = moved_state(config)
    D = state.networks["D_rgb"]
    scores = D(process_reals(batch(0, 16, 4).images), resolution=4).numpy()
    bias = D.vars["4x4/Dense1/bias"]
    bias.assign(bias - np.median(scores))
    _, (report,) = run(config, state, [0], lrate=0.0)
    assert float(report["Loss/signs/real"]) == 0


@pytest.mark.slow
def test_non_finite_values_do_not_count(tiny_config):
    config = tiny_config(variant="rgb", **SMALL, **ADAPTING)
    state = moved_state(config)
    state.networks["D_rgb"].vars["4x4/Dense1/bias"].assign([np.nan])
    turn, reports = run(config, state, range(5), p=0.5)
    assert [float(report["Progress/skipped_updates"]) for report in reports] == [2.0] * 5
    assert {name: float(value) for name, value in turn.augmentation.get_arrays().items()} == {
        "p": 0.5, "r_t": 0.0, "sign_sum": 0.0, "minibatches": 0.0}


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"precision": "bf16"}, {"xla": True}], ids=["bf16", "XLA"])
def test_bfloat16_and_xla_steps_change_all_networks(tiny_config, changes):
    """A step changes all networks, and the weights stay finite."""
    config = tiny_config(**SMALL, augment="fixed:0.6", **changes)
    state = state_with_maps(config)
    before = digests(state)
    _, reports = run(config, state, [0, 1], critic=JOINT, minibatch=8)
    assert [float(report["Progress/skipped_updates"]) for report in reports] == [0.0, 0.0]
    changed = {name for name, digest in digests(state).items() if digest != before[name]}
    assert changed == {"G", "Gs", "D_joint"}
    for network in state.networks.values():
        assert all(np.isfinite(array).all() for array in network.get_arrays().values())


@pytest.mark.slow
@pytest.mark.parametrize("parts, num_replicas", [({4: 8}, 1), ({}, 2)],
                         ids=["parts", "two replicas"])
def test_shares_equal_the_whole(tiny_config, parts, num_replicas):
    """Gradients and reports of a step. Variables are not moved: Adam's first step would follow the
    sign of rounding noise."""
    strategy = ONE_DEVICE if num_replicas == 1 else mirrored_strategy("cpu", num_replicas)
    seen = []
    for of_parts, where in (({}, ONE_DEVICE), (parts, strategy)):
        config = tiny_config(**SMALL, **ADAPTING, minibatch_per_gpu=of_parts)
        state = state_with_maps(config, where)
        turn, reports = run(config, state, range(4), where, critic=JOINT, lrate=0.0, p=0.5)
        seen.append((gradients(state), reports, turn.augmentation.get_arrays()))
    (grads, reports, arrays), (shared_grads, shared_reports, shared_arrays) = seen
    for name in ("G", "D_joint"):
        assert distance(shared_grads[name], grads[name]) < 1e-4, name
    for name, value in reports[-1].items():
        np.testing.assert_allclose(shared_reports[-1][name], value, rtol=1e-3, atol=1e-5)
    assert abs(arrays["p"] - 0.5) == pytest.approx(0.4, abs=1e-6)
    for name, value in arrays.items():
        assert shared_arrays[name] == pytest.approx(value, abs=1e-6)


@pytest.mark.slow
def test_gradients_depend_on_p(tiny_config):
    """Otherwise the tests above would compare nothing."""
    grads = []
    for p in (0.0, 0.6):
        config = tiny_config(variant="rgb", **SMALL, augment="ada")
        state = moved_state(config)
        run(config, state, [0], critic=RGB, lrate=0.0, p=p)
        grads.append(gradients(state))
    for name in ("G", "D_rgb"):
        assert distance(grads[1][name], grads[0][name]) > 0.1, name
