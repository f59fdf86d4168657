"""Measure how fast a turn is: ours against a plain PyTorch StyleGAN's, alternating on the same
processor."""

import os
import subprocess
import sys
import time

import numpy as np

from benchmarks.detector import PAUSE_SEC, read_answer
from benchmarks.processes import check_packages
from benchmarks.result import ROOT, cpu_name, report
from dnnlib import cli, util

EXAMPLES = """\
  python -m benchmarks.torch_stylegan --torch-python=venv-torch/bin/python --resolution=32
  venv-torch/bin/python -m benchmarks.sides.torch_stylegan_side time 512 3 4 --device=cuda
"""


def main(argv):
    """Measure, print and, with --out, write JSON. Return the exit status."""
    options = parse_options(argv)
    other = start_side(options)
    try:
        result = compare(options, other)
    finally:
        other.stdin.close()
        other.wait()
    report(result, options.out)
    return 0


def parse_options(argv):
    """Parse the command line."""
    parser = cli.argument_parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("--torch-python", default=sys.executable, metavar="PATH", help="interpreter that has torch")
    add("--resolution", type=int, default=32, help="resolution of the images and both networks")
    add("--channels", type=int, default=3, help="channels of the images")
    add("--minibatch", type=int, default=8, help="images of a turn")
    add("--fmap-base", type=int, default=8192, help="width of the networks")
    add("--fmap-max", type=int, default=512, help="most fmaps of a layer")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads of each side")
    add("--rounds", type=int, default=12, help="timed turns of each side, alternating")
    add("--out", metavar="FILE", help="also write the JSON to this file")
    return parser.parse_args(argv)


def start_side(options):
    """Return the process of the PyTorch side, which waits for lines on its stdin."""
    check_torch(options.torch_python)
    command = [options.torch_python, "-m", "benchmarks.sides.torch_stylegan_side", "speed",
               str(options.resolution), str(options.channels), str(options.minibatch),
               f"--fmap-base={options.fmap_base}", f"--fmap-max={options.fmap_max}",
               f"--threads={options.threads}"]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            stderr=subprocess.DEVNULL, text=True)


def check_torch(python):
    """Raise UserError if an interpreter lacks torch."""
    check_packages(python, ["torch"], "venv-torch/bin/pip install torch numpy, then "
                   "--torch-python=venv-torch/bin/python")


def compare(options, other):
    """Return the figures of both sides, and the median of the ratios round by round."""
    import tensorflow as tf

    from benchmarks import turns
    from training.config import TrainingConfig

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    config = TrainingConfig(variant="rgb", resolution=options.resolution,
                            fmap_base=options.fmap_base, fmap_max=options.fmap_max)
    side = turns.Side(config, options.channels, options.resolution, options.minibatch)
    reals = turns.constant_reals(options.channels, options.resolution, options.minibatch)
    load = os.getloadavg()[0]
    side.run(reals)
    versions = {"tensorflow": tf.__version__, **read_answer("torch", other)}
    ours, theirs = [], []
    for _ in util.progress(range(options.rounds), desc="rounds", unit="round"):
        time.sleep(PAUSE_SEC)
        ours.append(turns.timed(lambda: side.run(reals)))
        time.sleep(PAUSE_SEC)
        other.stdin.write("go\n")
        other.stdin.flush()
        answer = read_answer("torch", other)
        theirs.append((answer["wall_sec"], answer["cpu_sec"]))
    return {"cpu": cpu_name(), "threads": options.threads, "versions": versions,
            "resolution": options.resolution, "channels": options.channels,
            "minibatch": options.minibatch, "fmap_base": options.fmap_base,
            "fmap_max": options.fmap_max, "load_average_before": round(load, 2),
            "ours": turns.medians(ours, options.minibatch),
            "torch": turns.medians(theirs, options.minibatch),
            "ours_faster": turns.paired_ratio(np.array(ours), np.array(theirs))}


if __name__ == "__main__":
    cli.run_main(main)
