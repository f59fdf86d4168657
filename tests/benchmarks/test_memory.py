"""Memory of a step: the count against TensorFlow's, and what keeps it low."""

import dataclasses
import json
import subprocess
import sys

import pytest
import tensorflow as tf

from benchmarks import memory
from benchmarks.operations import memory_parts, turn_memory
from benchmarks.result import ROOT
from dnnlib.util import UserError
from tests.benchmarks.test_operations import NUM_CLASSES, in_use, traced_graph
from training.gan.accumulation import mean_over_parts
from training.gan.schedule import make_stage


def test_the_g_step_waits_for_the_gradients_of_d(tiny_config):
    """Otherwise the activations of both steps would be in memory at once."""
    config = tiny_config(variant="rgb", resolution=8)
    stage = make_stage(config, NUM_CLASSES, "rgb")
    ops = in_use(traced_graph(config, stage, stage.critics[0]))
    draws = [op for op in ops if op.type.startswith("StatelessRandomNormal")]
    waiting = [op for op in draws if "Conv2DBackpropFilter" in {o.type for o in before(op)}]
    assert len(waiting) == len(draws) / 2 > 0


def before(op):
    """Return all operations that must be done before `op`."""
    seen, queue = set(), [op]
    while queue:
        op = queue.pop()
        new = ({tensor.op for tensor in op.inputs} | set(op.control_inputs)) - seen
        seen |= new
        queue += new
    return seen


def test_later_parts_wait_for_the_first():
    """Otherwise the loop's first iteration would run in parallel."""
    mean = tf.function(lambda x: mean_over_parts(
        lambda part: tf.reduce_sum(tf.exp(part)), tf.unstack(x)))
    graph = mean.get_concrete_function(tf.zeros([3, 2])).graph
    loop, = [op for op in in_use(graph) if op.type in ("While", "StatelessWhile")]
    counters = [tensor.op for tensor in loop.inputs if tensor.dtype == tf.int32]
    assert any("Exp" in {op.type for op in before(counter)} for counter in counters)


def test_parts_of_memory_follow_their_sizes():
    config, critic, stage = memory.place("paper", "rgb", 64, "fp32")
    few, many = (memory_parts(config, critic, stage, count) for count in (4, 8))
    assert {name for name in few if few[name] != many[name]} == {
        "activations", "working", "staging"}
    assert many["activations"] == 2 * few["activations"]
    short = memory_parts(config, critic, stage, 4, "bf16")
    assert short["slots"] == few["slots"] and short["weights"] == few["weights"]
    # Instance norm is computed in float32 in either precision.
    assert 0.5 < short["activations"] / few["activations"] < 0.7
    joint = memory_parts(*memory.place("paper", "classes", 512, "fp32"), 4)
    assert joint["slots"] > 1.4 * few["slots"]  # three networks instead of two


def test_only_as_many_images_at_once_as_fit():
    place = memory.place("paper", "rgb", 512, "fp32")
    room = turn_memory(*place, 8, accumulating=True)
    assert memory.most_at_once(*place, "fp32", room) == 8
    assert memory.most_at_once(*place, "fp32", room - 1) == 4
    assert memory.most_at_once(*place, "fp32", 1e9) == 0
    assert memory.most_at_once(*place, "fp32", 1e12) == 16  # the whole minibatch


def test_the_table_is_printed(capsys):
    assert memory.main(["--presets=small-64,demo-32"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| preset | stage, resolution |")
    assert [line.split(" | ")[1] for line in lines[2:]] == [
        "rgb, 64", "classes, 64", "rgb, 32", "classes, 32"]
    for argv in (["--presets=large"], ["--out=table.json"]):
        with pytest.raises(UserError, match=f"{argv[0].split('=')[0]}: "):
            memory.parse_options(argv)


@pytest.mark.slow
@pytest.mark.parametrize("minibatch, at_once, precision", [
    (32, 32, "fp32"), (32, 8, "fp32"), (32, 32, "bf16")])
def test_the_count_equals_tensorflows_memory(minibatch, at_once, precision):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.sides.memory_side", "small-64", "rgb", "64",
         *map(str, (minibatch, precision, at_once))],
        cwd=ROOT, capture_output=True, text=True, check=True)
    measured = json.loads(done.stdout.splitlines()[-1])["peak_bytes"]
    config, critic, stage = memory.place("small-64", "rgb", 64, precision)
    counted = turn_memory(config, critic, dataclasses.replace(stage, minibatch=minibatch), at_once,
                          precision, at_once < minibatch)
    assert counted == pytest.approx(measured, rel=0.2)
