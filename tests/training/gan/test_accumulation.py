"""Gradients added up over parts of a minibatch: those of the whole, with less memory."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from dnnlib.tflib.distribute import mirrored_strategy
from dnnlib.util import UserError
from tests.tools.gan_steps import (
    ONE_DEVICE,
    RGB,
    distance,
    gradients,
    moved_state,
    num_traces,
    run,
)
from training.gan.accumulation import mean_over_parts, sum_over_parts
from training.gan.init_from import enter_stage
from training.gan.schedule import make_stage, num_parts, stage_critics
from training.run.config_checks import check_minibatches

ROOT = Path(__file__).resolve().parents[3]


def test_mean_over_parts_uses_each_part_once(rng):
    values = rng.standard_normal((5, 3, 2)).astype(np.float32)
    mean = tf.function(lambda v: mean_over_parts(
        lambda part: {"sum": tf.reduce_sum(part[0], 0), "count": tf.ones([])},
        [(part,) for part in tf.unstack(v)]))(values)
    np.testing.assert_allclose(mean["sum"], values.sum(1).mean(0), rtol=1e-5)
    assert mean["count"] == 1


def test_outputs_of_parts_keep_their_order(rng):
    """Sums are over all samples."""
    values = rng.standard_normal((6, 2)).astype(np.float32)
    for count in (1, 3):
        sums, made = tf.function(lambda v, count=count: sum_over_parts(
            lambda part: ({"sum": tf.reduce_sum(part["v"], 0)}, [2 * part["v"]]), {"v": v}, count)
        )(values)
        np.testing.assert_allclose(sums["sum"], values.sum(0), rtol=1e-5)
        np.testing.assert_allclose(made[0], 2 * values, rtol=1e-6)


def test_parts_hold_whole_stddev_groups(tiny_config):
    """Group m of a share holds its samples m, m + M, ...; every sample is in one part."""
    config = tiny_config(minibatch_per_gpu={4: 8})
    rows = run(config, moved_state(config), [], critic=RGB)[0].part_rows
    assert rows.shape == (2, 8)
    assert sorted(rows.reshape(-1)) == list(range(16))
    for part in rows:
        assert all(len({sample % 4 for sample in group}) == 1 for group in part.reshape(4, -1).T)


@pytest.mark.slow
@pytest.mark.parametrize("changes, num_replicas", [
    ({}, 1), ({"style_mixing_prob": 1.0}, 2),
    ({"d_loss": "wgan", "g_loss": "wgan", "r1_gamma": 0.0, "wgan_lambda": 10.0}, 1)],
    ids=["labels", "labels, mixing, two replicas", "labels, WGAN-GP"])
def test_parts_equal_the_whole(tiny_config, changes, num_replicas):
    """Gradients, running means of w and reports of a step, to 1e-5. Variables are not moved: Adam's
    first step would follow the sign of rounding noise."""
    strategy = ONE_DEVICE if num_replicas == 1 else mirrored_strategy("cpu", num_replicas)
    config = tiny_config(variant="rgb", resolution=4, initial_resolution=4, **changes)
    seen = []
    for parts, where in (({}, ONE_DEVICE), ({4: 4}, strategy)):
        config = dataclasses.replace(config, minibatch_per_gpu=parts)
        state = moved_state(config, where, label_size=3)
        turn, reports = run(config, state, [0], where, resolution=4, lrate=0.0, label_size=3)
        assert num_traces(turn) == 1
        seen.append((state, reports[0]))
    (whole, report), (parted, parts_report) = seen
    for name, grads in gradients(whole).items():
        assert distance(gradients(parted)[name], grads) < 1e-5, name
    np.testing.assert_allclose(parted.networks["G"].vars["dlatent_avg"].numpy(),
                               whole.networks["G"].vars["dlatent_avg"].numpy(), rtol=1e-5)
    assert report.keys() == parts_report.keys()
    for name, value in report.items():
        np.testing.assert_allclose(parts_report[name], np.mean(value), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_parts_equal_the_whole_with_maps(tiny_config):
    """The joint critic of the 2d variant, whose reals get noise on their maps."""
    seen = []
    for parts in ({}, {4: 8}):
        config = tiny_config(resolution=8, minibatch_per_gpu=parts)
        state = moved_state(config)
        for name in ("binary", "classes"):
            state = enter_stage(state, make_stage(config, 5, name), config)
        run(config, state, [3], critic=stage_critics("2d", "classes", 5)[1], lrate=0.0)
        seen.append(gradients(state))
    for name in ("G", "D_joint"):
        assert distance(seen[1][name], seen[0][name]) < 1e-5, name


MEMORY = """
import re
from pathlib import Path

from tests.tools import gan_steps
from training.config import TrainingConfig

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

def config(parts):
    return TrainingConfig(variant="rgb", resolution=64, fmap_base=512, fmap_max=32, latent_size=16,
                          mapping_layers=1, minibatch_per_gpu=parts)

state = gan_steps.moved_state(config({}))
for parts in ({4: 4}, {}):
    gan_steps.run(config(parts), state, [0], resolution=64, minibatch=128)
    print("peak", round(peak()))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="/proc tells the peak")
def test_parts_take_less_memory():
    """A step of 128 images in parts of 4, then whole (946 and 1613 MB); the first includes tracing.
    """
    done = subprocess.run([sys.executable, "-c", MEMORY], cwd=ROOT, capture_output=True, text=True)
    peaks = [int(n) for n in re.findall(r"peak (\d+)", done.stdout)]
    assert len(peaks) == 2, done.stderr
    assert peaks[1] > peaks[0] + 300, peaks


@pytest.mark.parametrize("size, words", [
    (6, "6 at 8x8: a device's 16 images"), (2, "groups of 4; give one of 4, 8, 16 there")])
def test_sizes_that_do_not_fit_are_refused(tiny_config, size, words):
    config = tiny_config(minibatch={4: 32}, minibatch_per_gpu={4: 16, 8: size})
    assert num_parts(config, 4, 32, 1) == 2
    with pytest.raises(UserError, match=words) as error:
        check_minibatches(config, 2)
    assert "\n" not in str(error.value)


def test_a_limit_above_the_minibatch_changes_nothing(tiny_config):
    config = tiny_config(minibatch_per_gpu={4: 8})
    assert [num_parts(config, 8, n, 1) for n in (4, 8, 16)] == [1, 1, 2]
    with pytest.raises(UserError, match="whole numbers"):
        tiny_config(minibatch_per_gpu={4: 1.5})
