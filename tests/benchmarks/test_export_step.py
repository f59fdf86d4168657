"""A step as an XLA module: its parameters, and that it computes the same as the step."""

import dataclasses
import json
import os
import shlex
import subprocess
import zlib

import numpy as np
import pytest
import tensorflow as tf

import training.gan.gan_step
from benchmarks import export_step
from dnnlib.tflib.distribute import Draws
from dnnlib.util import UserError
from training.gan.schedule import make_stage

STEPS = 3


def small_turn(tiny_config):
    """Return a step of few operations, always with the same weights, none of them at a special
    value.

    With an epsilon of 1e-8 Adam would follow the sign of gradients that are zero except for
    rounding. """
    config = tiny_config(variant="rgb", resolution=8, mapping_layers=1)
    stage = dataclasses.replace(make_stage(config, 13, "rgb"), minibatch=4)
    turn = export_step.make_turn(config, stage, stage.critics[-1])
    rng = np.random.default_rng(5)
    for network in (turn.G, turn.Gs, turn.D):
        network.set_arrays({name: array + 0.3 * rng.standard_normal(array.shape).astype(np.float32)
                            for name, array in network.get_arrays().items()})
    turn.G_opt.epsilon = turn.D_opt.epsilon = 1e-3
    return turn


def arrays_after(turn, run):
    """Return every variable of a step after STEPS runs of run(step)."""
    for step in range(STEPS):
        run(step)
    return {name: variable.numpy()
            for name, variable in export_step.turn_variables(turn).items()}


def plain_run(turn):
    """Return the step as training runs it: by TensorFlow's own executor."""
    def run(step):
        reals, _, fade, lrate = export_step.turn_arguments(turn, step)
        turn((reals, np.zeros([turn.minibatch, 0], np.float32)), step, fade, lrate)
    return run


class WholeDraws(Draws):
    """Draws from integers of a fixed algorithm, which XLA draws identically. Its floats differ, and
    by default it uses another algorithm."""

    def __init__(self, seed, step, minibatch, rows=None):
        super().__init__(seed, step, minibatch, rows)
        key = tf.stack([tf.cast(seed, tf.int32), tf.cast(step, tf.int32)])
        self.seed = tf.random.stateless_uniform([], key, None, None, tf.int32, alg="philox")

    def _whole(self, name, shape, low=0, high=2 ** 20):
        key = tf.stack([self.seed, zlib.crc32(name.encode()) & 0x7FFFFFFF])
        return tf.random.stateless_uniform(shape, key, low, high, tf.int32, alg="philox")

    def normal(self, name, shape):
        whole = self._whole(name, [self.minibatch, *shape])
        return tf.math.ndtri((tf.cast(whole, tf.float32) + 0.5) / 2 ** 20)

    def uniform(self, name):
        return tf.cast(self._whole(name, [self.minibatch]), tf.float32) / 2 ** 20

    def shared_uniform(self, name):
        return tf.cast(self._whole(name, []), tf.float32) / 2 ** 20

    def shared_integer(self, name, low, high):
        return self._whole(name, [], low, high)


def errors(ours, theirs, before):
    """Return {variable: norm of the difference, relative to the change by training}."""
    return {name: float(np.linalg.norm(ours[name] - array)
                        / (np.linalg.norm(array - before[name]) + 1e-6 * np.linalg.norm(array)
                           + 1e-30))
            for name, array in theirs.items()}


@pytest.mark.slow
def test_xla_computes_the_same_as_the_step(tiny_config, monkeypatch):
    monkeypatch.setattr(training.gan.gan_step, "Draws", WholeDraws)
    turns = [small_turn(tiny_config) for _ in range(3)]
    compiled = export_step.compiled_turn(turns[0])
    before = arrays_after(turns[2], lambda step: None)
    xla = arrays_after(turns[0], lambda step: compiled(*export_step.turn_arguments(turns[0], step)))
    found = errors(xla, arrays_after(turns[1], plain_run(turns[1])), before)
    assert max(found.values()) < 0.01


@pytest.mark.slow
def test_a_step_with_augmentation(tiny_config, tmp_path):
    """Its p and counts are variables of the module."""
    config = tiny_config(variant="rgb", resolution=8, mapping_layers=1, augment="ada")
    stage = dataclasses.replace(make_stage(config, 13, "rgb"), minibatch=4)
    names = export_step.export(export_step.make_turn(config, stage, stage.critics[-1]), tmp_path, 1)
    assert {"augment/p", "augment/sign_sum", "augment/minibatches"} <= set(names["parameters"])
    assert {"Augment/p", "Augment/r_t"} <= set(names["outputs"])
    with np.load(tmp_path / "params.npz") as params:
        assert params[f"p{names['parameters'].index('augment/p')}"] == 0.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Export a step of the command line."""
    folder = tmp_path_factory.mktemp("exported")
    assert export_step.main(["--preset=demo-32", "--resolution=4", "--minibatch=8", "--batches=3",
                             f"--out={folder}"]) == 0
    return folder


def test_the_exported_files(folder):
    names = json.loads((folder / "names.json").read_text())
    assert (folder / "step.hlo").stat().st_size > 10_000
    with np.load(folder / "params.npz") as params:
        assert sorted(params.files) == sorted(f"p{i}" for i in range(len(names["parameters"])))
        places = {name: f"p{i}" for i, name in enumerate(names["parameters"])}
        assert params[places["reals"]].shape == (8, 4, 4, 3)
        assert params[places["G/G_synthesis/4x4/Conv/weight"]].shape == (3, 3, 64, 64)
        assert params[places["opt_D_rgb/step"]] == 0
    with np.load(folder / "feed.npz") as feed:
        assert feed["p0"].shape == (3, 8, 4, 4, 3)
        np.testing.assert_array_equal(feed["p1"], [0, 1, 2])
    assert names["critic"] == "rgb" and "Loss/G" in names["outputs"]


@pytest.mark.parametrize("argv, message", [
    (["--stage=binary", "--variant=rgb"], "has the stages rgb"),
    (["--stage=classes", "--resolution=16"], "stage classes of preset paper has 512"),
    (["--resolution=1024"], "has 4, 8"),
    (["--critic=joint"], "--critic=joint: stage rgb has rgb")])
def test_missing_files_are_refused(argv, message):
    with pytest.raises(UserError, match=message):
        export_step.plan(export_step.parse_options(argv))


def test_parameters_in_another_order_are_noticed():
    text = "HloModule m, entry_computation_layout={(f32[2,3]{1,0}, s32[])->(f32[])}"
    export_step.check_parameters(text, [np.zeros([2, 3]), np.zeros([])])
    with pytest.raises(ValueError, match=r"\(2, 3\), \(\)"):
        export_step.check_parameters(text, [np.zeros([]), np.zeros([2, 3])])


@pytest.mark.slow
def test_another_runtime_computes_the_same(tiny_config, tmp_path):
    """XLA_RUNNER='python runner.py': a command that runs `step.hlo --params --feed --steps --save`
    and stores every updated parameter p<i>."""
    if "XLA_RUNNER" not in os.environ:
        pytest.skip("XLA_RUNNER names no command that runs XLA modules")
    turns = [small_turn(tiny_config) for _ in range(3)]
    names = export_step.export(turns[0], tmp_path, STEPS)["parameters"]
    subprocess.run([*shlex.split(os.environ["XLA_RUNNER"]), tmp_path / "step.hlo",
                    "--params", tmp_path / "params.npz", "--feed", tmp_path / "feed.npz",
                    "--steps", str(STEPS), "--save", tmp_path / "out.npz"], check=True)
    before = arrays_after(turns[1], lambda step: None)
    compiled = export_step.compiled_turn(turns[2])
    ours = arrays_after(
        turns[2], lambda step: compiled(*export_step.turn_arguments(turns[2], step)))
    with np.load(tmp_path / "out.npz") as out:
        theirs = {names[int(key[1:])]: out[key] for key in out.files if key.startswith("p")}
    changed = {name for name, array in ours.items() if (array != before[name]).any()}
    assert changed <= set(theirs)
    assert max(errors(ours, theirs, before).values()) < 1e-3
