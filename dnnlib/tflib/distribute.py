"""Distribute training over devices and machines: strategies, shares of a minibatch, and draws."""

import contextlib
import os
import signal
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from dnnlib.cluster import SharedError
from dnnlib.tflib.connection import Connection, start_strategy
from dnnlib.util import UserError, one_line

# What collective operations and TensorFlow's coordination service raise if a worker is gone.
_LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError,
         tf.errors.DeadlineExceededError)
PHILOX = 1  # number of the generator that TensorFlow itself chooses on CPUs and GPUs


def create_strategy(device: str, num_replicas: int, workers: list[str] | None = None,
                    worker_index: int = 0, facts: dict[str, Any] | None = None,
                    report: Callable[[str], None] = print) -> tf.distribute.Strategy:
    """Return the tf.distribute strategy for devices of this machine, or of several machines.

    Several CPU replicas are logical devices of one CPU. Call this before anything runs on a device.
    In its scope, all workers must create the same variables in the same order; these start with
    worker 0's values. Computations with variables outside `run` affect only one worker.

    Args:
        device: 'gpu' or 'cpu'.
        num_replicas: devices on this machine.
        workers: ['host:port', ...] of several workers, each with as many devices; waits for all.
        worker_index: this process's place in the list.
        facts: {name: JSON value} that must be equal in all workers.
        report: takes lines about the wait.

    Raises:
        UserError: if the machine lacks the devices, or the workers cannot connect.
    """
    check_devices(device, num_replicas, workers)
    if device == "gpu":
        gpus = tf.config.list_physical_devices("GPU")
        tf.config.set_visible_devices(gpus[:num_replicas], "GPU")
    else:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * num_replicas)
        tf.config.set_visible_devices([], "GPU")
    if workers:
        num_gpus = num_replicas if device == "gpu" else 0
        strategy = start_strategy(workers, worker_index, num_gpus, report)
        strategy.connection = Connection(workers, worker_index)
        strategy.connection.meet(facts or {})
        return strategy
    if num_replicas == 1:
        return tf.distribute.OneDeviceStrategy(f"/{device}:0")
    return mirrored_strategy(device, num_replicas)


def check_devices(device: str, num_replicas: int, workers: list[str] | None = None) -> None:
    """Raise UserError if this machine has no such devices to train on."""
    if num_replicas < 1:
        raise UserError(f"--gpus={num_replicas}: expected a number from 1 upwards")
    if device == "cpu" and workers and num_replicas > 1:
        raise UserError(f"--gpus={num_replicas}: with --workers TensorFlow uses a CPU as one "
                        "device; start more workers instead")
    found = len(tf.config.list_physical_devices("GPU"))
    if device == "gpu" and found < num_replicas:
        raise UserError(f"--gpus={num_replicas}: this machine has {found} GPUs that TensorFlow "
                        f"can use; give --gpus=1..{found} or --device=cpu" if found else
                        f"--gpus={num_replicas}: TensorFlow sees no GPU on this machine; give "
                        "--device=cpu to train on the CPU (slow; meant for small presets)")


def _connection(strategy):
    """Return the strategy's Connection with other workers, or None."""
    return getattr(strategy, "connection", None)


def has_other_workers(strategy: tf.distribute.Strategy) -> bool:
    """Return whether other processes take part in the strategy."""
    return _connection(strategy) is not None


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Return whether this process is the only one, or worker 0, which writes, draws and evaluates.
    """
    return not has_other_workers(strategy) or _connection(strategy).index == 0


def all_gather(strategy: tf.distribute.Strategy, value: Any) -> list[Any]:
    """Return the JSON values that all workers give in this call, by worker; all must call this."""
    return _connection(strategy).exchange(value) if has_other_workers(strategy) else [value]


def all_reduce_max(strategy: tf.distribute.Strategy, numbers: Sequence[float]) -> list[float]:
    """Return, number by number, the largest value that any worker gives: the same in all of them.

    Values that differ between workers (a signal that one of them got, a result of the chief's
    evaluation) enter a decision through this; all workers must call it at the same places.
    """
    return [max(values) for values in zip(*all_gather(strategy, list(numbers)))]


@contextlib.contextmanager
def worker_session(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Leave together with the other workers when the work is done; after an error, report it to
    them.

    If one of them is lost, this process ends with dnnlib.cluster.LOST_STATUS.
    """
    connection = _connection(strategy)
    if connection is None:
        yield
        return
    try:
        yield
    except _LOST:
        connection.wait_for_loss()
    except SharedError:
        connection.close()
        raise
    except BaseException as error:
        connection.fail(one_line(error))
        raise
    connection.close()


def report_losses(strategy: tf.distribute.Strategy, report: Callable[[str], None]) -> None:
    """Pass the one line about a lost worker to `report` from now on, instead of to stderr."""
    if has_other_workers(strategy):
        _connection(strategy).report = report


def ask_others_to_stop(strategy: tf.distribute.Strategy) -> None:
    """Ask the other workers, if there are any, to stop: see `stopped_with_others`."""
    if has_other_workers(strategy):
        _connection(strategy).request_stop()


@contextlib.contextmanager
def stopped_with_others(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """While this lasts, turn another worker's `ask_others_to_stop` into a SIGTERM to this process,
    which interrupts it at once where that is possible."""
    connection = _connection(strategy)
    if connection is None:
        yield
        return
    connection.on_stop = lambda: os.kill(os.getpid(), signal.SIGTERM)
    try:
        yield
    finally:
        connection.on_stop = None


def worker_rows(strategy: tf.distribute.Strategy, minibatch: int,
                group_size: int = 4) -> np.ndarray:
    """Return the places in the global minibatch of this worker's samples, int64, ascending."""
    connection, replicas = _connection(strategy), strategy.num_replicas_in_sync
    own = range(replicas)
    if connection:
        count = replicas // connection.num_workers
        own = range(connection.index * count, (connection.index + 1) * count)
    return np.sort(np.concatenate(
        [replica_rows(minibatch, replicas, r, group_size) for r in own]))


def split_among_replicas(strategy: tf.distribute.Strategy, batch: NamedTuple,
                         rows: Sequence[np.ndarray], own_rows: np.ndarray) -> NamedTuple:
    """Split a batch, this worker's places `own_rows` of the global minibatch, among its replicas;
    each gets the values at its `rows`."""
    if len(rows) == 1:
        return batch
    places = [np.searchsorted(own_rows, of_replica) for of_replica in rows]
    return type(batch)(*(strategy.experimental_distribute_values_from_function(
        lambda context, values=values: tf.gather(
            values, places[context.replica_id_in_sync_group])) for values in batch))


def mirrored_strategy(device: str, num_replicas: int) -> tf.distribute.MirroredStrategy:
    """Return a MirroredStrategy over the first `num_replicas` logical devices of a kind."""
    reduction = tf.distribute.ReductionToOneDevice() if device == "cpu" else None
    return tf.distribute.MirroredStrategy(
        [f"/{device}:{i}" for i in range(num_replicas)], cross_device_ops=reduction)


def replica_rows(minibatch: int, num_replicas: int, replica: int,
                 group_size: int = 4) -> np.ndarray:
    """Return one replica's places in the global minibatch, int64 [minibatch / num_replicas].

    Minibatch stddev reshapes a batch to [G, M, ...]: group m has samples m, m+M, m+2M, ... A
    replica that gets rows g*M + r*M/R + j therefore has whole groups, and R replicas compute the
    same as one. Raises UserError if the minibatch cannot be shared in this way.
    """
    if num_replicas < 1:
        raise UserError(f"--gpus={num_replicas}: expected a number from 1 upwards")
    group_size = min(group_size, minibatch)
    if minibatch % (group_size * num_replicas):
        raise UserError(f"a minibatch of {minibatch} cannot be shared by {num_replicas} devices in "
                        f"whole groups of {group_size}: --minibatch must be a multiple of "
                        f"{group_size * num_replicas}")
    groups = np.arange(minibatch).reshape(group_size, num_replicas, -1)
    return groups[:, replica].reshape(-1)


def rng_state(key: tf.Tensor) -> dict[str, Any]:
    """Return key, counter and generator as tf.random's stateless functions derive them from a key.

    This is one operation. Each of those functions takes thirty, and a step draws twenty times.
    XLA's operation of this name derives others, so that its draws differ.
    """
    return tf.raw_ops.StatelessRandomGetKeyCounter(seed=key)._asdict() | {"alg": PHILOX}


class Draws:
    """The random numbers of one step, as functions of (seed, step, place in the global minibatch).

    Each draw is made for the global minibatch and then sliced. This is ten times faster than a draw
    per sample, and gives the same numbers on one device or several, and after a resume. Every draw
    of a step has its own name.
    """

    def __init__(self, seed: int, step: int | tf.Tensor, minibatch: int,
                 rows: tf.Tensor | None = None):
        """`rows`: places of this replica's samples in the global minibatch, None for all."""
        self.minibatch, self.rows = minibatch, rows
        # The half of tf.random.experimental.stateless_fold_in that does not depend on the name.
        key = tf.stack([tf.cast(seed, tf.int32), tf.cast(step, tf.int32)])
        self.seed = tf.raw_ops.StatelessRandomUniformFullIntV2(
            shape=[], **rng_state(key), dtype=tf.int32)

    def normal(self, name: str, shape: list[int]) -> tf.Tensor:
        """Return N(0, 1) of shape [samples, *shape]."""
        return self._own_rows(tf.raw_ops.StatelessRandomNormalV2(
            shape=[self.minibatch, *shape], **self._rng_state(name)))

    def uniform(self, name: str, shape: Sequence[int] = ()) -> tf.Tensor:
        """Return U[0, 1) of shape [samples, *shape]."""
        return self._own_rows(tf.raw_ops.StatelessRandomUniformV2(
            shape=[self.minibatch, *shape], **self._rng_state(name)))

    def integer(self, name: str, high: int) -> tf.Tensor:
        """Return integers of [0, high) of shape [samples], int32."""
        return self._own_rows(tf.raw_ops.StatelessRandomUniformIntV2(
            shape=[self.minibatch], **self._rng_state(name), minval=0, maxval=high))

    def shared_uniform(self, name: str) -> tf.Tensor:
        """Return one U[0, 1) for the whole minibatch."""
        return tf.raw_ops.StatelessRandomUniformV2(shape=[], **self._rng_state(name))

    def shared_integer(self, name: str, low: int, high: int) -> tf.Tensor:
        """Return one integer of [low, high) for the whole minibatch."""
        return tf.raw_ops.StatelessRandomUniformIntV2(
            shape=[], **self._rng_state(name), minval=low, maxval=high)

    def _rng_state(self, name):
        """Return `rng_state` for the key that tf.random.experimental.stateless_fold_in makes from a
        name."""
        return rng_state(tf.stack([self.seed, zlib.crc32(name.encode()) & 0x7FFFFFFF]))

    def _own_rows(self, values):
        return values if self.rows is None else tf.gather(values, self.rows)
