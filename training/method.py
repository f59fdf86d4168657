"""What the training loop needs from the method it trains.

The loop (training_loop.py) counts images, writes training states, ticks, evaluates and stops. A
method knows the networks, their losses, their data and their pictures. A new method is a new file
with a Method in it; the loop needs no change.
"""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from dnnlib.tflib.network import Network
from dnnlib.tflib.optimizer import Optimizer
from training.state import Progress, TrainingState


class Stage(Protocol):
    """What the loop needs to know about one moment of a method's schedule; immutable.

    Attributes:
        name: name of the stage that the networks are in.
        phase: JSON values; when they change, steps are compiled anew and all optimizers restart.
        minibatch: images per step, over all devices.
        tick_kimg: length of a tick in kimg.
        is_comparable: whether scores measured now can be compared with those at the stage's end.
        scalars: {name: number} that every tick reports, such as the learning rate.
        summary: the same in words for the log, such as 'resolution 32   lod 0.50'.
    """

    name: str
    phase: tuple
    minibatch: int
    tick_kimg: float
    is_comparable: bool
    scalars: dict[str, float]
    summary: str


class Method:
    """A way to train networks.

    Subclasses must define whatever raises NotImplementedError here (`first_moment` only if there
    are several stages); the rest has defaults.

    Attributes:
        config: has the loop's options: `minibatch_repeats`, `image_ticks`, `network_ticks`,
            `patience`, `precision` and `to_json()`.
        networks: {name: Network}, all networks that a snapshot holds.
        optimizers: {name: Optimizer} for the networks that are trained.
        classes: names of the classes behind the channels after the colours.
        higher_is_better: whether the score that selects the best snapshot should be high.
    """

    config: Any
    networks: dict[str, Network]
    optimizers: dict[str, Optimizer]
    classes: tuple[str, ...] = ()
    higher_is_better: bool = False

    def begin(self) -> Progress:
        """Make the networks and optimizers that a new training begins with.

        Called in the strategy's scope. Returns the counters to begin with.
        """
        raise NotImplementedError

    def make_optimizers(self, networks: dict[str, Network]) -> dict[str, Optimizer]:
        """Return a fresh optimizer for each of these networks, all of which are trained.

        Called in the strategy's scope.
        """
        raise NotImplementedError

    def resume(self, state: TrainingState) -> None:
        """Take over the networks, optimizers and buffers of a stored state.

        Called in the strategy's scope, in place of `begin`.
        """
        self.networks, self.optimizers = state.networks, state.optimizers

    def buffers(self) -> dict[str, dict[str, np.ndarray]]:
        """Return {name: {name: float32 array}}: whatever else the next steps depend on, besides
        networks, optimizers and counters."""
        return {}

    def stage_ends(self, progress: Progress) -> list[tuple[str, int]]:
        """Return (stage name, images shown by its end) for all stages of this training, in order.

        For stages that have ended, which may be early, the end is that in `progress.ended_nimg`.
        """
        raise NotImplementedError

    def stage(self, progress: Progress) -> Stage:
        """Return the Stage at `progress.schedule_nimg`; past the end, the last one continues."""
        raise NotImplementedError

    def first_moment(self, name: str) -> Stage:
        """Return the first moment of the stage `name`, for `enter`; needed only if there are
        several stages."""
        raise NotImplementedError

    def enter(self, stage: Stage) -> None:
        """Change networks and optimizers for a new stage, in the strategy's scope."""

    def inspect(self, stage: Stage) -> dict[str, float]:
        """Return numbers that show what `enter` changes, measured before and after it."""
        return {}

    def compiles(self, stage: Stage, step: int) -> str | None:
        """Return, in words, what this step would have to compile; None if it is compiled."""
        return None

    def stream(self, stage: Stage, step: int) -> str:
        """Return the name of the data stream that the step takes its batch from."""
        return "reals"

    def next_batch(self, stage: Stage, progress: Progress) -> Any:
        """Return the data of the next step.

        `progress.stream_nimg` holds how many images each stream has given so far.
        """
        raise NotImplementedError

    def step(self, batch: Any, stage: Stage, step: int) -> dict[str, tf.Tensor]:
        """Update the networks once, with random numbers that depend on `step` and the seed alone.

        Returns {name: scalar} to report.
        """
        raise NotImplementedError

    def draw(self, stage: Stage, run_dir: Path, name: str) -> dict[str, np.ndarray]:
        """Write pictures of this moment to `run_dir`.

        Returns {tag: uint8 [H, W, 3]} for TensorBoard.
        """
        return {}

    def scores(self, stage: Stage, progress: Progress) -> dict[str, float]:
        """Return {metric: value} of the networks; raise UserError if they cannot be measured."""
        return {}

    def selects(self, scores: dict[str, float]) -> str | None:
        """Return the name of the score that selects the best snapshot, None if none does."""
        return next(iter(scores), None)

    def details(self, stage: Stage) -> dict[str, float]:
        """Return further {scalar: value} to report with a network snapshot."""
        return {}

    def header(self, stage: Stage, progress: Progress) -> dict[str, Any]:
        """Return what a snapshot holds besides its arrays, in plain JSON values."""
        raise NotImplementedError

    def remedies(self) -> list[str]:
        """Return options to try if losses or gradients are no longer finite."""
        return ["a lower --lrate"]

    def close(self) -> None:
        """Drop whatever would keep the process from ending, such as threads that read data."""
