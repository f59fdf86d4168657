"""What the training loop needs from the thing it trains.

The loop (training_loop.py) counts images, writes training states, ticks, evaluates and stops. A
method knows the networks, their losses, their data and their pictures. A new system is a new file
with a Method in it, and not a line in the loop.
"""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from dnnlib.tflib.network import Network
from dnnlib.tflib.optimizer import Optimizer
from training.state import Progress, TrainingState


class Stage(Protocol):
    """What the loop reads of a moment of a method's schedule; it never changes.

    Attributes:
        name: of the stage that the networks are in.
        phase: of JSON values; a new one means: compile anew, start every optimizer afresh.
        minibatch: images of one step, over all devices.
        tick_kimg: length of a tick.
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

    What raises NotImplementedError must be written, `first_moment` for several stages alone; the
    rest has defaults.

    Attributes:
        config: has the loop's options: `minibatch_repeats`, `image_ticks`, `network_ticks`,
            `patience`, `precision` and `to_json()`.
        networks: {name: Network}, all that a snapshot holds.
        optimizers: {name: Optimizer} of the networks that are trained.
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

        Called in the strategy's scope. Returns the counters of that beginning.
        """
        raise NotImplementedError

    def make_optimizers(self, networks: dict[str, Network]) -> dict[str, Optimizer]:
        """Return a fresh optimizer for each of the networks, all of which are trained.

        Called in the strategy's scope.
        """
        raise NotImplementedError

    def resume(self, state: TrainingState) -> None:
        """Take over the networks, optimizers and buffers of a stored state.

        Called in the strategy's scope, in place of `begin`.
        """
        self.networks, self.optimizers = state.networks, state.optimizers

    def buffers(self) -> dict[str, dict[str, np.ndarray]]:
        """Return {name: {name: float32 array}}: what decides the next steps besides networks,
        optimizers and counters."""
        return {}

    def stage_ends(self, progress: Progress) -> list[tuple[str, int]]:
        """Return (stage name, images shown by its end) of all stages of this training, in order.

        A stage that ended early, by `progress.ended_nimg`, has the end that it had.
        """
        raise NotImplementedError

    def stage(self, progress: Progress) -> Stage:
        """Return the Stage at `progress.schedule_nimg`; past the end, the last one goes on."""
        raise NotImplementedError

    def first_moment(self, name: str) -> Stage:
        """Return the first moment of the stage `name`, for `enter`; written if there are several
        stages."""
        raise NotImplementedError

    def enter(self, stage: Stage) -> None:
        """Change networks and optimizers for a new stage, in the strategy's scope."""

    def inspect(self, stage: Stage) -> dict[str, float]:
        """Return numbers that show what `enter` changes, measured before and after it."""
        return {}

    def compiles(self, stage: Stage, step: int) -> str | None:
        """Return what the step would have to compile, in words; None if it is compiled."""
        return None

    def stream(self, stage: Stage, step: int) -> str:
        """Return the name of the stream of data that the step takes its batch from."""
        return "reals"

    def next_batch(self, stage: Stage, progress: Progress) -> Any:
        """Return the data of the next step.

        `progress.stream_nimg` has the images that each stream has given so far.
        """
        raise NotImplementedError

    def step(self, batch: Any, stage: Stage, step: int) -> dict[str, tf.Tensor]:
        """Update the networks once; every random number follows from `step` and the seed.

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
        """Return what a snapshot holds besides its arrays, as plain JSON values."""
        raise NotImplementedError

    def remedies(self) -> list[str]:
        """Return options to try if losses or gradients are no longer finite."""
        return ["a lower --lrate"]

    def close(self) -> None:
        """Drop whatever would keep the process from ending, such as reading threads."""
