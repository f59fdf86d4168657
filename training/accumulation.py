"""Gradients of a device's share of a minibatch from parts that fit its memory, one after another.

A part holds whole minibatch-stddev groups: parts share a device's samples as devices share the
minibatch (`replica_rows`). The mean over equal parts is the mean over the share.
"""

import tensorflow as tf

from dnnlib.tflib.distribute import replica_rows
from dnnlib.util import UserError
from training.config import by_resolution


def num_parts(config, resolution, minibatch, num_replicas):
    """In how many parts a device takes its share of a minibatch, by `config.minibatch_per_gpu`.

    Raises UserError where the share does not divide into parts of whole stddev groups.
    """
    share = minibatch // num_replicas
    if not config.minibatch_per_gpu:
        return 1
    size = min(int(by_resolution(config.minibatch_per_gpu, resolution)), share)
    group = min(config.mbstd_group_size, minibatch)
    if share % size or size % group:
        allowed = [n for n in range(group, share + 1, group) if share % n == 0]
        raise UserError(
            f"--minibatch-per-gpu: {size} at {resolution}x{resolution}: a device's {share} images "
            f"must divide into equal parts of whole minibatch-stddev groups of {group}; give one "
            f"of {', '.join(map(str, allowed))} there")
    return share // size


def mean_over_parts(function, parts):
    """The mean of function(part) over all parts, computed one after another.

    Args:
        function: tensors of one part -> nest of float32 tensors, shaped alike for all parts.
        parts: nest of tensors [num_parts, ...].

    A loop inside the graph, each turn of which frees what it made before the next begins; its first
    turn stands before it, which shows what there is to add up.
    """
    def at(k):
        return tf.nest.map_structure(lambda values: values[k], parts)

    def add(k, sums):
        return k + 1, tf.nest.map_structure(tf.add, sums, function(at(k)))

    count = tf.nest.flatten(parts)[0].shape[0]
    first = function(at(0))
    # Or else the loop's first turn, which needs no sums before its end, would run beside `first`.
    with tf.control_dependencies(tf.nest.flatten(first)):
        start = tf.identity(1)
    _, sums = tf.while_loop(lambda k, _: k < count, add, (start, first), parallel_iterations=1)
    return tf.nest.map_structure(lambda value: value / count, sums)


def part_rows(num_samples, num_parts, group_size):
    """Places of every part's samples in a device's share, [num_parts][num_samples / num_parts]."""
    return [replica_rows(num_samples, num_parts, k, group_size) for k in range(num_parts)]
