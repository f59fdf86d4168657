"""Time our detector, for comparison with benchmarks.sides.torch_fidelity_side.

    python -m benchmarks.sides.our_side RESOLUTION MINIBATCH THREADS [WEIGHTS]

Answers every line on stdin with a line of JSON, one timed minibatch each, resizing included.
"""

import json
import sys
import time

import numpy as np
import tensorflow as tf

from metrics.networks.inception import load_detector


def speed(resolution, minibatch, threads, weights=None):
    """Time a minibatch for every line on stdin; print {"wall_sec", "cpu_sec"} as a line."""
    tf.config.threading.set_intra_op_parallelism_threads(int(threads))
    detector = load_detector(weights, minibatch=int(minibatch), report=lambda line: None)
    rng = np.random.default_rng(0)
    shape = (int(minibatch), int(resolution), int(resolution), 3)
    images = rng.integers(0, 256, shape, np.uint8)
    for _ in range(2):
        detector.features(detector.resize(images))
    print(json.dumps({"tensorflow": tf.__version__}), flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        detector.features(detector.resize(images))
        print(json.dumps({"wall_sec": time.perf_counter() - wall,
                          "cpu_sec": time.process_time() - cpu}), flush=True)


if __name__ == "__main__":
    speed(*sys.argv[1:])
