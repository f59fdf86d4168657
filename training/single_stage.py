"""Methods of one stage whose networks stay as they are: schedule, devices, random numbers."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from dnnlib.tflib import distribute
from dnnlib.tflib.distribute import Draws
from training.method import Method
from training.method_config import MethodConfig
from training.state import Progress


@dataclass(frozen=True)
class SingleStage:
    """A moment of the training: everything but the learning rate stays as it is."""

    minibatch: int
    tick_kimg: float
    lrate: float
    resolution: int
    name: str
    is_comparable: bool = True

    @property
    def phase(self) -> tuple:
        """Return the stage's name: there is one phase."""
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
    """A Method whose one step, `_update`, is compiled once and shared by the devices.

    Attributes:
        stage_name: of the only stage.
        rows, worker_rows: places in the minibatch of every replica, and of this worker.
    """

    stage_name: str

    def __init__(self, config: MethodConfig, classes: tuple[str, ...],
                 strategy: tf.distribute.Strategy):
        """
        Args:
            config: with `resolution` set, `minibatch`, `kimg` and `tick_kimg`.
            classes: names of the labels 1..C.
            strategy: the devices to train on.
        """
        self.config, self.classes, self.strategy = config, classes, strategy
        self.rows = [distribute.replica_rows(config.minibatch, strategy.num_replicas_in_sync, r, 1)
                     for r in range(strategy.num_replicas_in_sync)]
        self.worker_rows = distribute.worker_rows(strategy, config.minibatch, 1)
        self._compiled = tf.function(self._update, autograph=False)

    def lrate(self, left: float) -> float:
        """Return the learning rate where a share of the training is left."""
        raise NotImplementedError

    # The schedule.

    def stage_ends(self, progress: Progress) -> list[tuple[str, int]]:
        """Return the end of the only stage."""
        ended = progress.ended_nimg
        return [(self.stage_name, ended[0] if ended else round(self.config.kimg * 1000))]

    def stage(self, progress: Progress) -> SingleStage:
        """Return the stage with the learning rate of the moment."""
        c = self.config
        left = max(1 - progress.schedule_nimg / (c.kimg * 1000), 0.0) if c.kimg else 0.0
        return SingleStage(c.minibatch, c.tick_kimg, self.lrate(left), c.resolution,
                           self.stage_name)

    # Steps.

    def compiles(self, stage: SingleStage, step: int) -> str | None:
        """Return what the first step compiles."""
        if self._compiled.experimental_get_tracing_count():
            return None
        return f"{self.config.variant} at {stage.resolution}x{stage.resolution}"

    def step(self, batch: NamedTuple, stage: SingleStage, step: int) -> dict[str, tf.Tensor]:
        """Update the networks once."""
        if len(self.rows) > 1:
            places = [np.searchsorted(self.worker_rows, rows) for rows in self.rows]
            batch = type(batch)(*(
                self.strategy.experimental_distribute_values_from_function(
                    lambda context, values=values: tf.gather(
                        values, places[context.replica_id_in_sync_group])) for values in batch))
        return self._compiled(batch, tf.constant(step, tf.int32),
                              tf.constant(stage.lrate, tf.float32))

    def _update(self, batch, step, lrate):
        """Take one step and return {name: scalar} to report; traced, in cross-replica context."""
        raise NotImplementedError

    def draws(self, step: tf.Tensor) -> Draws:
        """Return the random numbers of a step for this replica's share, in a replica."""
        rows = None
        if len(self.rows) > 1:
            context = tf.distribute.get_replica_context()
            rows = tf.gather(tf.stack(self.rows), context.replica_id_in_sync_group)
        return Draws(self.config.seed, step, self.config.minibatch, rows)

    def first(self, value: tf.Tensor) -> tf.Tensor:
        """Return the first replica's copy of a value that is equal in all of them."""
        return self.strategy.experimental_local_results(value)[0]

    def apply(self, name: str, grads: dict, values: dict, finite: tf.Tensor,
              lrate: tf.Tensor) -> None:
        """Update a network by all-reduced gradients, and assign {variable: value}, such as running
        means, unless the update is skipped; in cross-replica context."""
        self.optimizers[name].apply(self.strategy, grads, finite, lrate)
        variables = self.networks[name].vars
        for key, value in values.items():
            self.strategy.extended.update(
                variables[key], lambda var, new: var.assign(tf.where(finite, new, var)),
                args=(value,))
