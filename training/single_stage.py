"""Methods with one stage, whose networks do not grow: schedule, devices, random numbers."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from dnnlib.data import pictures
from dnnlib.process_pool import threaded_map
from dnnlib.tflib import cpu_convolutions, distribute
from dnnlib.tflib.distribute import Draws
from dnnlib.tflib.network import Network
from dnnlib.tflib.optimizer import Optimizer
from training.dataset import THREADS
from training.method import Method
from training.method_config import MethodConfig
from training.state import Progress, new_optimizers

PICTURES, COLUMNS = 16, 4  # pictures and columns of a grid


@dataclass(frozen=True)
class SingleStage:
    """A moment of the training: everything except the learning rate is constant."""

    minibatch: int
    tick_kimg: float
    lrate: float
    resolution: int
    name: str
    is_comparable: bool = True

    @property
    def phase(self) -> tuple:
        """Return the stage's name: there is only one phase."""
        return (self.name,)

    @property
    def scalars(self) -> dict[str, float]:
        """Return what every tick reports."""
        return {"Progress/lrate": self.lrate}

    @property
    def summary(self) -> str:
        """Return the same for the log."""
        return f"lrate {self.lrate:<9.3g}"


class SingleStageMethod(Method):
    """A Method whose step, `_update`, is compiled once and shared by the devices.

    Attributes:
        stage_name: name of the only stage.
        about: entries of a snapshot's header that describe the data.
        rows, worker_rows: rows of the minibatch for every replica, and for this worker.
    """

    stage_name: str

    def __init__(self, config: MethodConfig, classes: tuple[str, ...],
                 strategy: tf.distribute.Strategy, about: dict[str, Any],
                 evaluate: Callable[[Any], dict[str, float]] | None = None):
        """
        Args:
            config: with `resolution` set, `minibatch`, `kimg` and `tick_kimg`.
            classes: names of the labels 1..C.
            strategy: the devices to train on.
            about: see above.
            evaluate: function of this method -> {metric: value}, on the first worker; the first
                metric selects the best snapshot.
        """
        self.config, self.classes, self.strategy = config, classes, strategy
        self.about, self.evaluate, self._stream = about, evaluate, None
        self.rows = [distribute.replica_rows(config.minibatch, strategy.num_replicas_in_sync, r, 1)
                     for r in range(strategy.num_replicas_in_sync)]
        self.worker_rows = distribute.worker_rows(strategy, config.minibatch, 1)
        self._compiled = tf.function(self._update, autograph=False)

    # Networks.

    def make_networks(self) -> dict[str, Network]:
        """Return the networks of a new training, in the strategy's scope."""
        raise NotImplementedError

    def begin(self) -> Progress:
        """Make the networks."""
        self.networks = self.make_networks()
        self.optimizers = self.make_optimizers(self.networks)
        return Progress(first_stage=self.stage_name, stage=self.stage_name)

    def make_optimizers(self, networks: dict[str, Network]) -> dict[str, Optimizer]:
        """Return Adam as in pix2pix and CycleGAN for each network, and have the networks compute
        in config.precision."""
        return new_optimizers(networks, self.config.precision, betas=(0.5, 0.999))

    # The schedule.

    def lrate(self, left: float) -> float:
        """Return the learning rate when the share `left` of the training remains: constant over
        the first half, then falling to 0."""
        return self.config.lrate * min(2 * left, 1.0)

    def stage_ends(self, progress: Progress) -> list[tuple[str, int]]:
        """Return the end of the only stage."""
        ended = progress.ended_nimg
        return [(self.stage_name, ended[0] if ended else round(self.config.kimg * 1000))]

    def stage(self, progress: Progress) -> SingleStage:
        """Return the stage with its current learning rate."""
        c = self.config
        left = max(1 - progress.schedule_nimg / (c.kimg * 1000), 0.0) if c.kimg else 0.0
        return SingleStage(c.minibatch, c.tick_kimg, self.lrate(left), c.resolution,
                           self.stage_name)

    # Steps.

    def read_batch(self, places: Sequence[int]) -> NamedTuple:
        """Return the samples at some places of the endless stream, as arrays; called in threads."""
        raise NotImplementedError

    def batches(self, start_nimg: int) -> Iterator[NamedTuple]:
        """Yield this worker's part of every minibatch for ever, some of them read ahead, starting
        at `start_nimg`, a multiple of the minibatch."""
        minibatch = self.config.minibatch

        def load(step: int) -> NamedTuple:
            batch = self.read_batch([step * minibatch + int(row) for row in self.worker_rows])
            with tf.device("CPU:0"):
                return type(batch)(*map(tf.constant, batch))

        return threaded_map(load, itertools.count(start_nimg // minibatch), THREADS)

    def next_batch(self, stage: SingleStage, progress: Progress) -> NamedTuple:
        """Return the next of `batches`."""
        if self._stream is None:
            start = progress.stream_nimg.get(self.stream(stage, progress.step), 0)
            self._stream = self.batches(start)
        return next(self._stream)

    def close(self) -> None:
        """Drop the stream with its reading threads."""
        self._stream = None

    def compiles(self, stage: SingleStage, step: int) -> str | None:
        """Return what the first step compiles."""
        if self._compiled.experimental_get_tracing_count():
            return None
        text = f"{self.config.variant} at {stage.resolution}x{stage.resolution}"
        if (any(getattr(network, "compute_dtype", None) == tf.bfloat16
                for network in self.networks.values())
                and not tf.config.list_logical_devices("GPU")
                and not cpu_convolutions.sums_are_float32(tf.bfloat16)):
            text += "; this processor has no bfloat16: steps take many times as long as in float32"
        return text

    def step(self, batch: NamedTuple, stage: SingleStage, step: int) -> dict[str, tf.Tensor]:
        """Update the networks once."""
        batch = distribute.split_among_replicas(self.strategy, batch, self.rows, self.worker_rows)
        return self._compiled(batch, tf.constant(step, tf.int32),
                              tf.constant(stage.lrate, tf.float32))

    def _update(self, batch, step, lrate):
        """Take one step and return {name: scalar} to report; traced, in cross-replica context."""
        raise NotImplementedError

    def draws(self, step: tf.Tensor) -> Draws:
        """Return the random numbers of a step for this replica's share; called in a replica."""
        rows = None
        if len(self.rows) > 1:
            context = tf.distribute.get_replica_context()
            rows = tf.gather(tf.stack(self.rows), context.replica_id_in_sync_group)
        return Draws(self.config.seed, step, self.config.minibatch, rows)

    def first_replica(self, value: tf.Tensor) -> tf.Tensor:
        """Return the first replica's copy of a value that is equal in all of them."""
        return self.strategy.experimental_local_results(value)[0]

    def apply(self, name: str, grads: dict, values: dict, finite: tf.Tensor,
              lrate: tf.Tensor) -> None:
        """Update a network with all-reduced gradients, and assign `values`, {variable: value} such
        as running means, unless the update is skipped; called in cross-replica context."""
        self.optimizers[name].apply(self.strategy, grads, finite, lrate)
        variables = self.networks[name].vars
        for key, value in values.items():
            self.strategy.extended.update(
                variables[key], lambda var, new: var.assign(tf.where(finite, new, var)),
                args=(value,))

    # What a run shows about it.

    def scores(self, stage: SingleStage, progress: Progress) -> dict[str, float]:
        """Return what `evaluate` measures."""
        return self.evaluate(self) if self.evaluate else {}

    def save_grid(self, run_dir: Path, name: str, cells: np.ndarray,
                  columns: int = COLUMNS) -> dict[str, np.ndarray]:
        """Write fakes<name>.png, cells uint8 [n, h, w, 3] on grey; return it as `draw` does."""
        grid = pictures.grey_sheet(cells, columns)
        pictures.save_png(run_dir / f"fakes{name}.png", grid)
        return {self.stage_name: grid}

    def header(self, stage: SingleStage, progress: Progress) -> dict[str, Any]:
        """Return what a snapshot holds besides its arrays."""
        return {"variant": self.config.variant, "stage": self.stage_name,
                "classes": list(self.classes), "kimg": progress.cur_nimg / 1000,
                "lod": {"resolution": self.config.resolution, "fade": 0.0},
                "training": self.config.to_json(), **self.about}
