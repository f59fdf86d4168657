"""Measure the memory that TensorFlow uses in a turn, in a process of its own.

    python -m benchmarks.sides.memory_side PRESET STAGE RESOLUTION MINIBATCH PRECISION MICROBATCH

Prints a line of JSON: the largest sum of live allocations that TensorFlow reports (peak_bytes), and
by how much the process's resident set rose above the program itself (rss_bytes).
"""

import dataclasses
import glob
import json
import sys
import tempfile
from pathlib import Path

import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from benchmarks.export_step import make_turn, turn_arguments
from benchmarks.memory import place
from training.method_config import by_resolution


def resident(key):
    """Return bytes from this process's status: VmRSS, or VmHWM, the largest so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])


def peak_of_allocator(run):
    """Return the most bytes that TensorFlow's CPU allocator has held by the time `run` is done.

    It does not report allocations below 4 KB.
    """
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            run()
        space = xplane_pb2.XSpace()
        path, = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
        space.ParseFromString(Path(path).read_bytes())
    return max(stat.int64_value or stat.uint64_value
               for plane in space.planes for line in plane.lines for event in line.events
               for stat in event.stats
               if plane.stat_metadata[stat.metadata_id].name == "peak_bytes_in_use")


def main(preset, stage_name, resolution, minibatch, precision, microbatch):
    """Measure and print."""
    config, critic, stage = place(preset, stage_name, int(resolution), precision)
    stage = dataclasses.replace(stage, minibatch=int(minibatch))
    config = dataclasses.replace(config, minibatch_per_gpu={4: int(microbatch)})
    before = resident("VmRSS")
    turn = make_turn(config, stage, critic)
    reals = turn_arguments(turn)[0], tf.zeros([turn.minibatch, 0])

    def run():
        turn(reals, 0, 0.0, by_resolution(config.lrate, turn.resolution))["Loss/G"].numpy()

    run()
    run()
    peak = peak_of_allocator(run)
    print(json.dumps({"peak_bytes": peak, "rss_bytes": resident("VmHWM") - before}))


if __name__ == "__main__":
    main(*sys.argv[1:])
