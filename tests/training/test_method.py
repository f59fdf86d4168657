"""A second, tiny method in the same loop: it resumes, runs on two devices and has a page."""

import dataclasses
import re
from dataclasses import dataclass, field

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from dnnlib.tflib.distribute import mirrored_strategy
from dnnlib.tflib.network import NETWORKS, Network, build
from dnnlib.tflib.optimizer import all_finite
from tests.tools.data_helpers import read_jsonl
from tests.tools.training_runs import stop_after
from training.method import Method
from training.run import signals
from training.run.history import BEST, FINAL
from training.snapshots import load_snapshot
from training.state import Progress, new_optimizers
from training.training_loop import Training

ONE_DEVICE = tf.distribute.OneDeviceStrategy("/cpu:0")
SIZE, MINIBATCH = 4, 8
TRUTH = np.arange(1.0, SIZE + 1, dtype=np.float32)


@dataclass(frozen=True)
class LineOptions:
    size: int
    seed: int = 0


@NETWORKS.register
class Line(Network):
    """y = x w."""

    Options = LineOptions

    def __init__(self, name="line", **options):
        super().__init__(name, **options)
        self.add_variable("w", [self.options.size], lambda rng, shape: rng.standard_normal(shape))

    def __call__(self, x):
        return tf.linalg.matvec(x, self.vars["w"])


@dataclass(frozen=True)
class Config:
    """The options that the loop reads, and those of the method."""

    minibatch_repeats: int = 2
    image_ticks: int = 1
    network_ticks: int = 2
    patience: int = 0
    precision: str = "fp32"
    lrate: float = 0.05
    lengths: dict = field(default_factory=lambda: {"coarse": 32, "fine": 64})

    def to_json(self):
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Stage:
    name: str
    lrate: float
    minibatch: int = MINIBATCH
    tick_kimg: float = 0.016
    is_comparable: bool = True
    summary: str = ""

    @property
    def phase(self):
        return (self.name,)

    @property
    def scalars(self):
        return {"Progress/lrate": self.lrate}


def shade_of(weight):
    """Return a grey that shows a weight."""
    return int(np.clip(np.nan_to_num(weight) * 50 + 100, 0, 255))


class Regression(Method):
    """Fit w by Adam in two stages, the second with a lower learning rate."""

    def __init__(self, config, strategy):
        self.config, self.strategy = config, strategy
        self.compiled = None

    def begin(self):
        self.networks = {"line": build("Line", "line", {"size": SIZE, "seed": 3})}
        self.optimizers = self.make_optimizers(self.networks)
        return Progress(first_stage="coarse", stage="coarse")

    def make_optimizers(self, networks):
        return new_optimizers(networks)

    def stage_ends(self, progress):
        ends = np.cumsum(list(self.config.lengths.values())).tolist()
        ends[:len(progress.ended_nimg)] = progress.ended_nimg
        return list(zip(self.config.lengths, ends))

    def stage(self, progress):
        name = next((name for name, end in self.stage_ends(progress)
                     if progress.schedule_nimg < end), "fine")
        return self.first_moment(name)

    def first_moment(self, name):
        return Stage(name, self.config.lrate / (1 if name == "coarse" else 10))

    def compiles(self, stage, step):
        return None if self.compiled else "the regression"

    def next_batch(self, stage, progress):
        rng = np.random.default_rng(progress.stream_nimg.get("reals", 0))
        return rng.standard_normal((MINIBATCH, SIZE)).astype(np.float32)

    def step(self, batch, stage, step):
        if self.compiled is None:
            self.compiled = tf.function(self._update)
        share = MINIBATCH // self.strategy.num_replicas_in_sync
        x = self.strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(batch[context.replica_id_in_sync_group * share:][:share]))
        return {"Loss/line": self.compiled(x, tf.constant(stage.lrate))}

    def _update(self, x, lrate):
        line, optimizer = self.networks["line"], self.optimizers["line"]

        def gradients(x):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(line(x) - tf.linalg.matvec(x, TRUTH)))
            grads = tape.gradient(loss, line.trainables)
            return tf.distribute.get_replica_context().all_reduce(
                tf.distribute.ReduceOp.MEAN, (grads, loss))

        grads, loss = self.strategy.run(gradients, (x,))
        first = self.strategy.experimental_local_results
        finite = all_finite({name: first(grad)[0] for name, grad in grads.items()})
        optimizer.apply(self.strategy, grads, finite, lrate)
        return first(loss)[0]

    def weights(self):
        return self.networks["line"].vars["w"].numpy()

    def draw(self, stage, run_dir, name):
        picture = np.full((4, 4, 3), shade_of(self.weights()[0]), np.uint8)
        Image.fromarray(picture).save(run_dir / f"fakes{name}.png")
        return {"fakes": picture}

    def scores(self, stage, progress):
        return {"error": float(np.abs(self.weights() - TRUTH).max())}

    def header(self, stage, progress):
        return {"stage": stage.name, "kimg": progress.cur_nimg / 1000, "classes": []}


def begin(run_dir, strategy=ONE_DEVICE, **changes):
    run_dir.mkdir(exist_ok=True)
    return Training(Regression(Config(**changes), strategy), run_dir, strategy)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the directory of an undisturbed run."""
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    assert begin(run_dir).run() is True
    return run_dir


def final_weights(run_dir):
    return load_snapshot(run_dir / FINAL).networks["line"].vars["w"].numpy()


def test_it_learns_and_writes_every_file_of_a_run(whole):
    ticks = [e for e in read_jsonl(whole / "stats.jsonl") if e["event"] == "tick"]
    assert [t["Progress/kimg"] for t in ticks] == [0.016, 0.032, 0.048, 0.064, 0.08, 0.096]
    assert [t["stage"] for t in ticks] == ["coarse"] * 2 + ["fine"] * 4
    assert ticks[-1]["Loss/line"] < ticks[0]["Loss/line"]
    assert {"log.txt", "index.html", BEST, FINAL, "fakes000000.096.png"} <= {
        path.name for path in whole.iterdir()}
    best = load_snapshot(whole / "network-snapshot-000000.096.safetensors")
    assert best.header["scores"]["error"] == pytest.approx(ticks[-1]["Metrics/error"])


def test_its_page_shows_its_curves(whole):
    page = (whole / "index.html").read_text()
    assert "finished" in page and "error" in page and re.search("Loss/line|line", page)


@pytest.mark.parametrize("stop_at", [3, 6])  # in the middle of a tick; in the second stage
def test_interrupted_equals_uninterrupted(whole, tmp_path, stop_at):
    training = begin(tmp_path / "run")
    stop_after(training, stop_at)
    assert training.run() is False
    again = begin(tmp_path / "run")
    assert stop_at <= again.progress.step < 12 and again.run() is True
    np.testing.assert_array_equal(final_weights(tmp_path / "run"), final_weights(whole))


def test_fewer_steps_between_readings_of_the_schedule(tmp_path):
    """Stopped after three of four steps and continued with one, it still goes on."""
    training = begin(tmp_path / "run", minibatch_repeats=4)
    next_batch = training.method.next_batch

    def batch_or_stop(stage, progress):
        if progress.step == 3:
            training.stop_handler.signal = 15
            raise signals.Stopped
        return next_batch(stage, progress)

    training.method.next_batch = batch_or_stop
    assert training.run() is False and training.progress.steps_since_schedule == 3
    assert begin(tmp_path / "run", minibatch_repeats=1).run() is True


def test_a_finished_training_closes_its_data(tmp_path):
    training, closed = begin(tmp_path / "run"), []
    training.method.close = lambda: closed.append(True)
    assert training.run() is True and closed


def test_two_devices_compute_what_one_does(whole, tmp_path):
    assert begin(tmp_path / "run", mirrored_strategy("cpu", 2)).run() is True
    np.testing.assert_allclose(final_weights(tmp_path / "run"), final_weights(whole), atol=1e-5)


def test_patience_ends_its_stages(tmp_path):
    """Without learning nothing improves: one score is the best, the next is no better."""
    training = begin(tmp_path / "run", lrate=0.0, patience=1, network_ticks=1)
    assert training.run() is True
    assert training.progress.ended_nimg == [32, 64]
    # A longer last stage does not continue it, and the log says so.
    assert begin(tmp_path / "run", patience=1, network_ticks=1).run() is True
    assert "nothing is left to train: --patience" in (tmp_path / "run/log.txt").read_text()


def test_networks_that_diverge_are_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("training.training_loop.MAX_SKIPPED", 2)
    training = begin(tmp_path / "run")
    training.method.networks["line"].vars["w"].assign(np.full(SIZE, np.nan, np.float32))
    with pytest.raises(Exception, match=r"2 updates in a row.*a lower --lrate"):
        training.run()
