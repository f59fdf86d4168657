"""One device, several, several machines: the strategy, shares of a minibatch, and draws."""

import contextlib
import os
import re
import signal
import zlib

import numpy as np
import tensorflow as tf

from dnnlib.cluster import SharedError, join
from dnnlib.util import UserError, one_line


def create_strategy(device, num_replicas, workers=None, worker_index=0, facts=None, say=print):
    """The tf.distribute strategy for `num_replicas` devices of kind 'gpu' or 'cpu' on this machine.

    Several CPU replicas are logical devices of one CPU. To be called before anything runs on a
    device. With `workers`, ['host:port', ...], the same number of devices of each of them takes
    part: this waits for all, whose `facts` must be equal (dnnlib.cluster.join; `say` takes what
    there is to tell). Raises UserError where the machine lacks the devices, and as `join` does.
    """
    check_devices(device, num_replicas, workers)
    link = join(workers, worker_index, facts or {}, say) if workers else None
    if device == "gpu":
        gpus = tf.config.list_physical_devices("GPU")
        tf.config.set_visible_devices(gpus[:num_replicas], "GPU")
    else:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * num_replicas)
        tf.config.set_visible_devices([], "GPU")
    if link:
        return _multi_worker_strategy(device, num_replicas, link)
    if num_replicas == 1:
        return tf.distribute.OneDeviceStrategy(f"/{device}:0")
    return mirrored_strategy(device, num_replicas)


def check_devices(device, num_replicas, workers=None):
    """Raise UserError where this machine has no such devices to train on."""
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


def _multi_worker_strategy(device, num_replicas, link):
    """A MultiWorkerMirroredStrategy of the workers that `link` connects, which it gets as `link`.

    All of them create the same variables in the same order in its scope, each of which starts as
    the chief's. Reading and computing with variables outside `run` concerns one worker alone.
    """
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": link.addresses}), task_type="worker", task_id=link.index,
        num_accelerators={"GPU": num_replicas} if device == "gpu" else {}, rpc_layer="grpc")
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    except tf.errors.OpError as error:
        reason = " ".join(error.message.split())[:200]
        link.fail(f"TensorFlow could not start its server ({reason})")
        raise UserError(f"TensorFlow could not start its server at {link.addresses[link.index]} "
                        f"({reason}); give another port, to all workers") from None
    strategy.link = link
    return strategy


def link_of(strategy):
    """The strategy's Link to other workers, or None."""
    return getattr(strategy, "link", None)


def is_chief(strategy):
    """Whether this process writes, draws and evaluates: the only one, or worker 0 of several."""
    link = link_of(strategy)
    return link is None or link.is_chief


def everyones(strategy, value):
    """The JSON values that all workers gave at this call, by worker; all must make it."""
    link = link_of(strategy)
    return [value] if link is None else link.exchange(value)


def agree(strategy, values):
    """The largest of what all workers gave, number by number: the same list in all of them.

    What differs between workers (a signal that one of them got, what the chief's evaluation found)
    enters a decision through here; all workers must call it at the same places.
    """
    return [max(numbers) for numbers in zip(*everyones(strategy, list(values)))]


@contextlib.contextmanager
def working_together(strategy):
    """Leave together with the other workers: when the work is done, or else telling them why.

    Where one of them is lost, this process ends with dnnlib.cluster.LOST_STATUS.
    """
    link = link_of(strategy)
    if link is None:
        yield
        return
    try:
        yield
    except _MISSED as error:
        link.wait_for_loss(_missed(link, error.message))
    except SharedError:
        link.close()
        raise
    except BaseException as error:
        link.fail(one_line(error))
        raise
    link.close()


@contextlib.contextmanager
def stopped_by_others(strategy):
    """While it lasts, what asks another worker to stop is a SIGTERM to this one too: so it is heard
    in the middle of whatever may be left at once."""
    link = link_of(strategy)
    if link is None:
        yield
        return
    link.on_stop = lambda: os.kill(os.getpid(), signal.SIGTERM)
    try:
        yield
    finally:
        link.on_stop = None


# What collective operations and TensorFlow's coordination service raise where a worker is gone.
_MISSED = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError,
           tf.errors.DeadlineExceededError)


def _missed(link, message):
    """A line about the worker that TensorFlow's error is about."""
    told = re.search(r"/task:(\d+)", message)
    worker = int(told[1]) if told and int(told[1]) < link.num_workers else None
    who = "a worker" if worker is None else f"worker {worker} ({link.addresses[worker]})"
    return f"{who} does not answer"


def worker_rows(strategy, minibatch, group_size=4):
    """Places in the global minibatch of all samples of this worker's replicas, ascending."""
    link, replicas = link_of(strategy), strategy.num_replicas_in_sync
    own = range(replicas)
    if link:
        count = replicas // link.num_workers
        own = range(link.index * count, (link.index + 1) * count)
    return np.sort(np.concatenate(
        [replica_rows(minibatch, replicas, r, group_size) for r in own]))


def mirrored_strategy(device, num_replicas):
    """A MirroredStrategy over the first `num_replicas` logical devices of a kind."""
    reduction = tf.distribute.ReductionToOneDevice() if device == "cpu" else None
    return tf.distribute.MirroredStrategy(
        [f"/{device}:{i}" for i in range(num_replicas)], cross_device_ops=reduction)


def replica_rows(minibatch, num_replicas, replica, group_size=4):
    """Places in the global minibatch of one replica's samples, int64 [minibatch / num_replicas].

    Minibatch stddev reshapes a batch to [G, M, ...]: group m holds samples m, m+M, m+2M, ... A
    replica that gets rows g*M + r*M/R + j therefore sees whole groups, and R replicas compute what
    one does. Raises UserError where the minibatch cannot be shared so.
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


PHILOX = 1  # number of the generator that TensorFlow itself chooses on CPUs and GPUs


def generator(key):
    """Return key, counter and generator as tf.random's stateless functions derive them of a key.

    One operation where each of those functions takes thirty, and a turn draws twenty times. XLA has
    an operation of this name that derives others.
    """
    return tf.raw_ops.StatelessRandomGetKeyCounter(seed=key)._asdict() | {"alg": PHILOX}


class Draws:
    """The random numbers of one step, as functions of (seed, step, place in the global minibatch).

    Each draw is made for the global minibatch and then sliced: ten times faster than a draw per
    sample, and the same numbers on one device or several, and after a resume.
    """

    def __init__(self, seed, step, minibatch, rows=None, from_bits=False):
        """
        Args:
            rows: places of this replica's samples in the global minibatch, None for all.
            from_bits: make floating-point numbers of random bits here, as TensorFlow's kernels do.
                XLA draws the same bits and makes other numbers of them.
        """
        self.minibatch = minibatch
        self.rows = rows
        self.from_bits = from_bits
        # The half of tf.random.experimental.stateless_fold_in that does not depend on the name.
        key = tf.stack([tf.cast(seed, tf.int32), tf.cast(step, tf.int32)])
        self.seed = self._bits([], key, tf.int32)

    def _key(self, name):
        """What tf.random.experimental.stateless_fold_in makes of the seed and a name."""
        return tf.stack([self.seed, zlib.crc32(name.encode()) & 0x7FFFFFFF])

    def _bits(self, shape, key, dtype):
        """Any numbers of a whole type."""
        if self.from_bits:
            return tf.random.stateless_uniform(shape, key, None, None, dtype, alg="philox")
        return tf.raw_ops.StatelessRandomUniformFullIntV2(shape=shape, **generator(key),
                                                          dtype=dtype)

    def _mine(self, values):
        return values if self.rows is None else tf.gather(values, self.rows)

    def _uniform(self, shape, name):
        """U[0, 1): the low 23 of 32 random bits."""
        if not self.from_bits:
            return tf.raw_ops.StatelessRandomUniformV2(shape=shape, **generator(self._key(name)))
        bits = self._bits(shape, self._key(name), tf.uint32)
        mantissa = tf.bitwise.bitwise_and(bits, tf.constant(0x7FFFFF, tf.uint32))
        return tf.cast(mantissa, tf.float32) * 2.0**-23

    def _normal(self, shape, name):
        """N(0, 1): pairs of uniform numbers u, v give sqrt(-2 log u) (sin 2 pi v, cos 2 pi v) (Box
        and Muller 1958)."""
        if not self.from_bits:
            return tf.raw_ops.StatelessRandomNormalV2(shape=shape, **generator(self._key(name)))
        count = np.prod(shape)
        u, v = tf.unstack(self._uniform([-(-count // 2), 2], name), axis=1)
        radius, angle = tf.sqrt(-2 * tf.math.log(tf.maximum(u, 1e-7))), 2 * np.pi * v
        values = tf.stack([radius * tf.sin(angle), radius * tf.cos(angle)], axis=1)
        return tf.reshape(tf.reshape(values, [-1])[:count], shape)

    def normal(self, name, shape):
        """N(0, 1) of shape [samples, *shape]; `name` tells this draw from the step's others."""
        return self._mine(self._normal([self.minibatch, *shape], name))

    def uniform(self, name):
        """U[0, 1) of shape [samples]."""
        return self._mine(self._uniform([self.minibatch], name))

    def integer(self, name, high):
        """Integers of [0, high) of shape [samples], int32."""
        return self._mine(self._integer([self.minibatch], name, 0, high))

    def shared_uniform(self, name):
        """One U[0, 1) for the whole minibatch."""
        return self._uniform([], name)

    def shared_integer(self, name, low, high):
        """One integer of [low, high) for the whole minibatch."""
        return self._integer([], name, low, high)

    def _integer(self, shape, name, low, high):
        if self.from_bits:
            return tf.random.stateless_uniform(shape, self._key(name), low, high, tf.int32,
                                               alg="philox")
        return tf.raw_ops.StatelessRandomUniformIntV2(shape=shape, **generator(self._key(name)),
                                                      minval=low, maxval=high)
