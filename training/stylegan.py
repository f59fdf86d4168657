"""Style-GAN, Style-C-GAN and Style-C-GAN-2D as a method: stages, growth, critics, streams.

All three first learn colours, while growing in resolution; then one binary map, then one map per
class (Korneliusson et al. 2019, section 2). Critics take turns, step by step.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from dnnlib.data import mirroring
from dnnlib.data.dataset import DatasetInfo, content_box, read_labels
from dnnlib.tflib import distribute
from dnnlib.tflib.network import Network
from dnnlib.tflib.optimizer import Optimizer
from training.config import TrainingConfig
from training.dataset import Batch, TrainingStream, reals_stream
from training.gan import inspection
from training.gan.augmentation import Augmentation
from training.gan.balance import classes_shown, photo_factors
from training.gan.gan_step import GanStep
from training.gan.init_from import enter_stage, new_state, state_from_snapshot
from training.gan.schedule import Critic, Stage, make_stage, stage_ends, training_schedule
from training.gan.snapshot_score import add_labels_score, selecting_score
from training.method import Method
from training.method_config import as_text
from training.run.grids import Grids
from training.snapshots import Snapshot, load_snapshot
from training.state import Progress, TrainingState, new_optimizers


class StyleGan(Method):
    """The networks G, Gs (the running average of G) and a D for every critic.

    Attributes:
        augmentations: {critic: Augmentation}; empty if --augment=none.
        steps, streams: {critic: GanStep} and {critic: iterator over its reals} of this phase.
    """

    def __init__(self, config: TrainingConfig, dataset: DatasetInfo,
                 strategy: tf.distribute.Strategy,
                 evaluate: Callable[[Snapshot], dict[str, float]] | None = None,
                 origin: Path | None = None):
        """
        Args:
            config: with `resolution` set.
            dataset: the data set in config.data.
            strategy: the devices to train on.
            evaluate: function that measures the networks on the validation split.
            origin: file of the snapshot to begin with; None for fresh networks.
        """
        self.config, self.dataset, self.strategy = config, dataset, strategy
        self.classes = tuple(dataset.classes)
        self.evaluate, self.origin = evaluate, origin
        self.labels = read_labels(config.data, "train")  # [n, label_size]
        self._content_box = content_box(dataset.path)
        self.grids = Grids(config, self.labels)
        self.augmentations: dict[str, Augmentation] = {}
        self.steps: dict[str, GanStep] = {}
        self.streams: dict[str, Any] = {}
        self._phase = None

    def begin(self) -> Progress:
        """Make the networks of the RGB stage, or take those of the snapshot."""
        probabilities = {}
        if self.origin is None:
            state = new_state(self.config, label_size=self.dataset.label_size)
        else:
            snapshot = load_snapshot(self.origin)
            state = state_from_snapshot(snapshot, self.config, self.classes,
                                        self.dataset.label_size)
            probabilities = snapshot.header.get("augment_p", {})
        self.networks, self.optimizers = state.networks, state.optimizers
        self._make_augmentations(probabilities)
        return state.progress

    def make_optimizers(self, networks: dict[str, Network]) -> dict[str, Optimizer]:
        """Return Adam for each network, and have the networks compute in config.precision."""
        return new_optimizers(networks, self.config.precision)

    def resume(self, state: TrainingState) -> None:
        """Take over the networks, optimizers and augmentations of a stored state.

        If the state was written without augmentation, it begins as for fresh networks.
        """
        super().resume(state)
        self._make_augmentations({})
        for critic, augmentation in self.augmentations.items():
            stored = state.buffers.get(f"augment_{critic}")
            if stored is not None:
                augmentation.set_arrays(stored)

    def buffers(self) -> dict[str, dict[str, np.ndarray]]:
        """Return the values of every critic's augmentation."""
        return {f"augment_{critic}": augmentation.get_arrays()
                for critic, augmentation in self.augmentations.items()}

    def _make_augmentations(self, probabilities):
        """Make an augmentation for every critic, unless --augment=none; p starts as in
        `probabilities`, {critic: p}."""
        critics = [name.removeprefix("D_") for name in self.networks if name.startswith("D_")]
        self.augmentations = {} if self.config.augment == "none" else {
            critic: Augmentation(self.config, probabilities.get(critic)) for critic in critics}

    def _probabilities(self):
        """Return {critic: p}."""
        return {critic: float(augmentation.values["p"].numpy())
                for critic, augmentation in self.augmentations.items()}

    # The schedule.

    def stage_ends(self, progress: Progress) -> list[tuple[str, int]]:
        """Return (stage name, images shown by its end) for all stages, in order."""
        return stage_ends(self.config, progress.first_stage, tuple(progress.ended_nimg))

    def stage(self, progress: Progress) -> Stage:
        """Return the Stage at `progress.schedule_nimg`."""
        return training_schedule(self.config, len(self.classes), progress.schedule_nimg,
                                 progress.first_stage, tuple(progress.ended_nimg))

    def first_moment(self, name: str) -> Stage:
        """Return the Stage at the beginning of `name`."""
        return make_stage(self.config, len(self.classes), name)

    def enter(self, stage: Stage) -> None:
        """Grow the channels of G and of every critic, and drop the old networks and optimizers.

        A critic's augmentation begins with the p of the critic that it grows from.
        """
        old = self._probabilities()
        state = TrainingState(self.networks, self.optimizers, Progress())
        state = enter_stage(state, stage, self.config)
        self.networks, self.optimizers = state.networks, state.optimizers
        self._make_augmentations(
            {critic.name: old.get(critic.grows_from) for critic in stage.critics})
        self.close()

    @functools.cached_property
    def _photo_factors(self):
        """Return how often each photo is drawn in an epoch on average, float64 [n]."""
        shown = classes_shown(self.config.data, "train", self.config.resolution)
        return photo_factors(shown, self.config.balance)

    # One step.

    def compiles(self, stage: Stage, step: int) -> str | None:
        """Return which critic's step has to be compiled at `step`; None if none has to be."""
        critic = stage.critic(step)
        if (stage.phase == self._phase and critic.name in self.steps
                and self.steps[critic.name].is_compiled(step)):
            return None
        fading = ", fading in" if stage.fade else ""
        return f"critic {critic.name} at {stage.resolution}x{stage.resolution}{fading}"

    def stream(self, stage: Stage, step: int) -> str:
        """Return the name of the critic whose turn it is: each has its own stream."""
        return stage.critic(step).name

    def next_batch(self, stage: Stage, progress: Progress) -> Batch:
        """Return the reals of the critic whose turn it is."""
        critic = stage.critic(progress.step)
        if stage.phase != self._phase:  # drop what was compiled and read for the old one
            self.close()
            self._phase = stage.phase
        if critic.name not in self.streams:
            stream = self._stream(critic, stage, progress.stream_nimg.get(critic.name, 0))
            self.streams[critic.name] = iter(stream)
            self.steps[critic.name] = self._gan_step(critic, stage, stream.labels)
        return next(self.streams[critic.name])

    def step(self, batch: Batch, stage: Stage, step: int) -> dict[str, tf.Tensor]:
        """Update D, the average Gs and G once."""
        critic = stage.critic(step)
        scalars = self.steps[critic.name](batch, step, stage.fade, stage.lrate)
        # G's loss and the counters are shared by all critics; the rest belongs to one critic.
        return {name if name.startswith("Progress/") or name == "Loss/G"
                else f"{name}/{critic.name}": value for name, value in scalars.items()}

    def _stream(self, critic: Critic, stage: Stage, start_nimg: int) -> TrainingStream:
        """Return the endless minibatches of a critic. The image critic also sees untagged photos;
        the joint critic sees photos of rare classes more often, by --balance."""
        rows = distribute.worker_rows(self.strategy, stage.minibatch, self.config.mbstd_group_size)
        is_balanced = self.config.balance and critic.name == "joint" and stage.name == "classes"
        factors = self._photo_factors if is_balanced else None
        return reals_stream(self.config, stage.resolution, critic.channels, stage.minibatch,
                            self.config.seed, start_nimg, with_untagged=critic.name == "rgb",
                            rows=rows, factors=factors)

    def _gan_step(self, critic: Critic, stage: Stage, labels: np.ndarray) -> GanStep:
        """Return a critic's step, compiled at its first call."""
        return GanStep(self.strategy, self.config, self.networks, self.optimizers, critic,
                       stage.resolution, fading=stage.fade > 0, minibatch=stage.minibatch,
                       labels=labels, num_critics=len(stage.critics),
                       mirrored_order=self._mirrored_order(stage, critic),
                       augmentation=self.augmentations.get(critic.name))

    def _mirrored_order(self, stage, critic):
        """Return, for every class map that a critic sees, the map that it becomes in a mirrored
        image; None if it sees no class maps or nothing is mirrored."""
        if not self.config.mirror or stage.name != "classes" or critic.channels < stage.channels:
            return None
        pairs = mirroring.parse_pairs(self.config.mirror_pairs, self.classes)
        return mirroring.mirrored_order(pairs, self.classes)

    def close(self) -> None:
        """Drop compiled steps, and streams, whose threads would keep the process from ending."""
        self.steps, self.streams, self._phase = {}, {}, None

    # What a run shows about its networks.

    def draw(self, stage: Stage, run_dir: Path, name: str) -> dict[str, np.ndarray]:
        """Write pictures of the running average, of reals and of augmented reals."""
        critic = max(stage.critics, key=lambda critic: critic.channels)
        augmentation = self.augmentations.get(critic.name)
        return self.grids.draw(run_dir, stage, name, self.networks["Gs"],
                               augmentation and augmentation.values["p"])

    def scores(self, stage: Stage, progress: Progress) -> dict[str, float]:
        """Return the metrics on the validation split; none without an `evaluate`."""
        if self.evaluate is None:
            return {}
        snapshot = Snapshot(self.networks, self.header(stage, progress))
        return add_labels_score(self.evaluate(snapshot))

    def selects(self, scores: dict[str, float]) -> str | None:
        """Return the score that --select-by asks for; lower is better."""
        return selecting_score(scores, self.config.select_by)

    def inspect(self, stage: Stage) -> dict[str, float]:
        """Return the mean score of every critic on some reals and fakes of its channels."""
        return inspection.mean_scores(self.networks, self.grids, stage, self.config.map_contrast)

    def details(self, stage: Stage) -> dict[str, float]:
        """Return how often each class occurs in real and in generated maps."""
        if stage.name != "classes":
            return {}
        return inspection.class_scalars(self.networks["Gs"], self.grids, stage, self.classes)

    def remedies(self) -> list[str]:
        """Return options to try if losses or gradients are no longer finite."""
        config = self.config
        remedies = [f"a lower --lrate ({as_text(config.lrate)} now)",
                    f"a higher --r1-gamma ({config.r1_gamma:g} now)"]
        return remedies + (["--precision=fp32"] if config.precision != "fp32" else [])

    def header(self, stage: Stage, progress: Progress) -> dict[str, Any]:
        """Return what a snapshot holds besides its arrays."""
        # progress.stage is the stage that the networks are in. During growth, `stage` is the next.
        names = {"rgb": (), "binary": ("any",), "classes": self.classes}[progress.stage]
        dataset = self.dataset
        return {"variant": self.config.variant, "stage": progress.stage, "classes": list(names),
                "kimg": progress.cur_nimg / 1000,
                **({"augment_p": self._probabilities()} if self.augmentations else {}),
                "lod": {"resolution": stage.resolution, "fade": stage.fade},
                "dataset": {"name": dataset.name, "path": os.path.abspath(dataset.path),
                            "digest": dataset.digest, "resolution": dataset.resolution,
                            "content_box": self._content_box},
                "training": self.config.to_json()}
