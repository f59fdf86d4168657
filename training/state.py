"""What changes during training: networks, optimizers and counters, and their file.

A training state is a container like a snapshot (snapshots.py), with additional groups
`opt_<network>` and the counters. A killed run continues from its newest undamaged state.
"""

import contextlib
import dataclasses
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Self

import numpy as np
import tensorflow as tf

from dnnlib.cluster import SharedError
from dnnlib.tflib import cpu_convolutions, ops
from dnnlib.tflib.distribute import all_gather
from dnnlib.tflib.network import Network
from dnnlib.tflib.optimizer import Adam, Optimizer
from dnnlib.util import UserError
from training.snapshots import (
    kimg_in_name,
    load_own,
    networks_from_groups,
    networks_header,
    open_container,
    save_container,
)

# Names in files that differ from the attributes of Progress.
_NAMES_IN_FILES = {"schedule_nimg": "look_nimg", "steps_since_schedule": "look_turns",
                   "pending_tick": "pending", "phase": "optimizer_phase"}


@dataclass
class Progress:
    """The counters of a training. Only the training loop writes them.

    Attributes:
        first_stage: stage that the training began with. stage: stage that the networks are in.
        cur_nimg: real images shown so far. step: steps so far. tick: ticks so far.
        tick_nimg: nimg at which this tick began.
        schedule_nimg: nimg at which the schedule was last read. steps_since_schedule: steps since
            then; a training that was stopped in between does the rest of them first.
        pending_tick: what a finished tick still has to report; None if there is none.
        ended_nimg: nimg at which stages ended. phase: Stage.phase of the last step, as a list.
        stream_nimg: {stream: number of images it has given}.
        selecting: name of the score that selects the best snapshot. best_value: its best value in
            the final stage. stage_best: its best value in this stage, evaluations_since_best: the
            number of evaluations since then, both for `patience`.
        scores: the newest scores {name: value}, measured at scores_nimg.
        stats_bytes: length of stats.jsonl; None in states written before this was stored.
        skipped_in_a_row: how many updates in a row were skipped last, by the optimizer with most.
        elapsed_sec: time spent on this training in all its processes together.
        num_threads: threads of the process that wrote this state; another number of threads
            changes the last bits of results.
    """

    first_stage: str = "rgb"
    stage: str = "rgb"
    cur_nimg: int = 0
    step: int = 0
    tick: int = 0
    tick_nimg: int = 0
    schedule_nimg: int = 0
    steps_since_schedule: int = 0
    pending_tick: dict | None = None
    ended_nimg: list[int] = field(default_factory=list)
    phase: list | None = None
    stream_nimg: dict[str, int] = field(default_factory=dict)
    selecting: str | None = None
    best_value: float | None = None
    stage_best: float | None = None
    evaluations_since_best: int = 0
    scores: dict[str, float] = field(default_factory=dict)
    scores_nimg: int | None = None
    stats_bytes: int | None = None
    skipped_in_a_row: int = 0
    elapsed_sec: float = 0.0
    num_threads: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the counters as plain JSON values, under their names in files."""
        return {_NAMES_IN_FILES.get(name, name): value
                for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, Any], source: str | Path) -> Self:
        """Return the counters for what `to_json` returned; raise UserError if a later version
        wrote it."""
        attributes = {stored: name for name, stored in _NAMES_IN_FILES.items()}
        values = {attributes.get(name, name): value for name, value in values.items()}
        unknown = sorted(values.keys() - {f.name for f in dataclasses.fields(cls)})
        if unknown:
            raise UserError(f"{source}: its training state holds {', '.join(unknown)}, which this "
                            "version does not know; continue it with the program that wrote it")
        return cls(**values)


@dataclass
class TrainingState:
    """Everything that determines how a training continues.

    Attributes:
        networks: {name: Network}. optimizers: {name: Optimizer} for those that are trained.
        progress: the counters.
        buffers: {name: {name: float32 array}}, whatever else the method stores.
    """

    networks: dict[str, Network]
    optimizers: dict[str, Optimizer]
    progress: Progress
    buffers: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)


def new_optimizers(networks: dict[str, Network], precision: str = "fp32",
                   betas: tuple[float, float] = (0.0, 0.99)) -> dict[str, Adam]:
    """Return a fresh Adam for each network, and have the networks compute in `precision`."""
    on_cpu = not tf.config.list_logical_devices("GPU")
    for network in networks.values():
        network.compute_dtype = {"fp32": tf.float32, "bf16": tf.bfloat16}[precision]
        network.convolutions = cpu_convolutions if precision != "fp32" and on_cpu else ops
    return {name: Adam(network.trainables, *betas) for name, network in networks.items()}


def save_state(run_dir: Path, state: TrainingState, keep: int = 2) -> None:
    """Write `training-state-<nimg>` and keep the newest `keep` files up to it.

    Later states are removed: they are damaged, or the run went back to before them. While updates
    are being skipped no state is removed; otherwise only states with skips might be left.
    """
    progress = state.progress
    groups = {name: network.get_arrays() for name, network in state.networks.items()}
    groups |= {f"opt_{name}": optimizer.get_arrays()
               for name, optimizer in state.optimizers.items()}
    groups |= {f"buf_{name}": arrays for name, arrays in state.buffers.items()}
    header = {"kind": "state", "progress": progress.to_json(), "optimizers": list(state.optimizers),
              "buffers": list(state.buffers), "networks": networks_header(state.networks)}
    path = Path(run_dir) / f"training-state-{progress.cur_nimg:09d}.safetensors"
    save_container(path, header, groups)
    if progress.skipped_in_a_row:
        return
    # `keep` states up to this one stay.
    states = list_states(run_dir)
    place = states.index(path) + 1
    for other in states[:max(place - keep, 0)] + states[place:]:
        other.unlink()


def list_states(run_dir: Path) -> list[Path]:
    """Return the training states of a run, oldest first."""
    return sorted((path for path in Path(run_dir).iterdir()
                   if re.fullmatch(r"training-state-\d+\.safetensors", path.name)),
                  key=kimg_in_name)


def newest_progress(run_dir: Path) -> Progress | None:
    """Return the counters of the newest training state whose header can be read, if any."""
    for path in reversed(list_states(run_dir)):
        with contextlib.suppress(UserError):  # damaged; load_newest_state reports it
            counters = open_container(path, lambda file, header: header["progress"])
            return Progress.from_json(counters, path)
    return None


def load_newest_state(run_dir: Path, log: logging.Logger) -> tuple[dict, dict] | None:
    """Return (header, {group: {name: array}}) of the newest undamaged training state, if any.

    If a state is damaged, this is reported to `log` and the one before it is used.

    Raises:
        UserError: all states are damaged.
    """
    states = list_states(run_dir)
    for path in reversed(states):
        try:
            header, groups = load_own(path)
            if header.get("kind") != "state" or not {"networks", "progress"} <= header.keys():
                raise UserError(f"{path}: damaged: not a training state")
            missing = {*header["networks"], *(f"opt_{name}" for name in _trained(header)),
                       *(f"buf_{name}" for name in header.get("buffers", ()))} - set(groups)
            if missing:
                raise UserError(f"{path}: damaged: without {', '.join(sorted(missing))}")
            return header, groups
        except UserError as error:
            log.info(f"warning: {error}; going back to the previous state")
    if states:
        raise UserError(f"{run_dir}: none of its {len(states)} training states is whole; restore "
                        "one from a copy, or delete them all to begin this run anew")
    return None


def _trained(header):
    """Return the names of the networks that have an optimizer."""
    # Older states do not list them; there, all networks except the average are trained.
    return header.get("optimizers", [name for name in header["networks"] if name != "Gs"])


def restored_state(header: dict, groups: dict, source: str | Path,
                   make_optimizers: Callable[[dict[str, Network]], dict[str, Optimizer]]
                   ) -> TrainingState:
    """Return the TrainingState that `save_state` wrote, made in the current strategy's scope.

    Args:
        make_optimizers: the method's function {name: trained Network} -> their optimizers.

    Raises:
        UserError: another version of this program wrote it.
    """
    networks = networks_from_groups(header, groups, source)
    optimizers = make_optimizers({name: networks[name] for name in _trained(header)})
    for name, optimizer in optimizers.items():
        # Older states lack some slots, which keep their initial values, and all buffers.
        optimizer.set_arrays({**optimizer.get_arrays(), **groups[f"opt_{name}"]})
    return TrainingState(networks, optimizers, Progress.from_json(header["progress"], source),
                         {name: groups[f"buf_{name}"] for name in header.get("buffers", ())})


def remove_states_with_skips(run_dir: Path) -> float | None:
    """Remove the states that were written while updates were skipped.

    Returns the kimg of the newest remaining state; None if none remains.
    """
    kimg = None
    for path in list_states(run_dir):
        progress = open_container(path, lambda file, header: header["progress"])
        if progress.get("skipped_in_a_row"):
            path.unlink()
        else:
            kimg = progress["cur_nimg"] / 1000
    return kimg


def check_same_state(strategy: tf.distribute.Strategy, stored: tuple[dict, dict] | None,
                     run_dir: Path) -> None:
    """Raise SharedError unless `load_newest_state` returned the same on all workers."""
    own = stored and [stored[0]["progress"]["cur_nimg"], stored[0]["digests"]]
    states = all_gather(strategy, own)
    for worker, state in enumerate(states):
        if state != states[0]:
            found = ["no training state" if s is None else f"a training state of kimg "
                     f"{s[0] / 1000:.3f}" for s in (states[0], state)]
            other = "another one, of the same kimg" if found[0] == found[1] else found[1]
            raise SharedError(
                f"{run_dir}: worker 0 finds {found[0]} in it, worker {worker} {other}; all workers "
                "must see the same run directory (a shared file system)")


def note_threads(progress: Progress, log: logging.Logger) -> int:
    """Return TensorFlow's number of threads; warn if this training used another number before.

    A continued run gives the same bits only with the same number.
    """
    threads = (tf.config.threading.get_intra_op_parallelism_threads()
               or len(os.sched_getaffinity(0)))  # TensorFlow's default
    if progress.num_threads not in (0, threads):
        log.info(f"warning: this training ran with {progress.num_threads} threads before and now "
                 f"has {threads}; results will differ in the last bits")
    return threads


def skipped_in_a_row(optimizers: dict[str, Optimizer]) -> int:
    """Return how many updates in a row were skipped last, by the optimizer with most."""
    return max((optimizer.skipped_in_a_row for optimizer in optimizers.values()), default=0)


def is_better(value: float, best: float | None, higher: bool = False) -> bool:
    """Return whether a value is finite and below the best one so far, if there is one.

    Args:
        higher: whether higher values are better instead.
    """
    return isfinite(value) and (best is None or (value > best if higher else value < best))
