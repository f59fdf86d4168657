"""Gradients of a device's share of a minibatch that does not fit into its memory at once.

The device takes its share in parts, one after another, and adds up their gradients. In a Style-GAN
a part holds whole minibatch-stddev groups: a device's share is split into parts as the minibatch is
split among devices (`replica_rows`). The mean over equal parts is the mean over the share.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from training.dataset import Batch


class Samples(NamedTuple):
    """The samples of a replica, or of a part of its share.

    Attributes:
        rows: [n], their places in the global minibatch, which determine their random numbers; None
            for the whole minibatch.
        reals: their Batch; empty in the G step, which needs no reals.
    """

    rows: tf.Tensor | None
    reals: Batch | tuple = ()


def own_samples(rows: list[np.ndarray], part_rows: np.ndarray,
                reals: Batch | tuple = ()) -> list[Samples]:
    """Return the Samples of every part of this replica's share; called within a replica.

    Args:
        rows: [replicas][n], the places of each replica's samples in the global minibatch.
        part_rows: [parts, n / parts], places in a replica's share.
        reals: this replica's.
    """
    own = None
    if len(rows) > 1:
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        own = tf.gather(tf.stack(rows), replica)
    if len(part_rows) == 1:
        return [Samples(own, reals)]
    return [Samples(tf.constant(places) if own is None else tf.gather(own, places),
                    reals and Batch(*(tf.gather(values, places) for values in reals)))
            for places in part_rows]


def mean_over_parts(function: Callable[[Any], Any], parts: list[Any]) -> Any:
    """Return the mean of function(part) over all parts, computed one after another.

    It is a loop inside the graph; each pass frees its memory before the next one begins.

    Args:
        function: nest of tensors of one part -> nest of float32 tensors, the same shapes for all.
        parts: nests of tensors of equal shapes.
    """
    if len(parts) == 1:
        return function(parts[0])
    stacked = tf.nest.map_structure(lambda *values: tf.stack(values), *parts)  # [parts, ...]

    def at(k: int | tf.Tensor) -> Any:
        return tf.nest.map_structure(lambda values: values[k], stacked)

    def add(k: tf.Tensor, sums: Any) -> tuple[tf.Tensor, Any]:
        return k + 1, tf.nest.map_structure(tf.add, sums, function(at(k)))

    # The first pass runs before the loop and gives the sums their structure. The loop's own first
    # pass does not need those sums until its end; it must still not run at the same time.
    first = function(at(0))
    with tf.control_dependencies(tf.nest.flatten(first)):
        start = tf.identity(1)
    _, sums = tf.while_loop(lambda k, _: k < len(parts), add, (start, first),
                            parallel_iterations=1)
    return tf.nest.map_structure(lambda value: value / len(parts), sums)


def sum_over_parts(function: Callable[[Any], tuple[Any, Any]], samples: Any, count: int
                   ) -> tuple[Any, Any]:
    """Return what a function returns for samples, which it is given in `count` equal parts.

    Args:
        function: nest of samples [n, ...] -> (nest of float32 sums over them, nest of float32
            [n, ...]).
        samples: nest of [N, ...].

    Returns:
        The sums over all N samples, and [N, ...].
    """
    if count == 1:
        return function(samples)

    def of_part(part: Any) -> tuple[Any, Any]:
        number, own = part
        sums, made = function(own)
        # Put into its place among zeros, so that the mean over parts is [N, ...] / count.
        placed = tf.nest.map_structure(
            lambda values: tf.scatter_nd([[number]], values[None], [count, *values.shape]), made)
        return sums, placed

    split = [tf.split(values, count) for values in tf.nest.flatten(samples)]
    sums, made = mean_over_parts(of_part, [
        (tf.constant(k), tf.nest.pack_sequence_as(samples, own))
        for k, own in enumerate(zip(*split))])
    sums, made = tf.nest.map_structure(lambda value: value * count, (sums, made))
    return sums, tf.nest.map_structure(
        lambda values: tf.reshape(values, [-1, *values.shape[2:]]), made)
