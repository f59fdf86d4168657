"""Measure how fast features are computed: our detector against torch-fidelity's, alternating on the
same machine; and the FID formula at 2048 dimensions."""

import json
import os
import subprocess
import sys
import time

import numpy as np

from benchmarks.processes import check_packages
from benchmarks.result import ROOT, cpu_name, report
from dnnlib import cli, util
from dnnlib.util import UserError
from metrics.frechet_inception_distance import frechet_distance
from metrics.networks.inception_weights import cached_weights

PAUSE_SEC = 0.3  # between the sides, so that spinning threads of the other side go to sleep
NUM_FEATURES = 2048

EXAMPLES = """\
  python -m benchmarks.detector --torch-python=venv-torch/bin/python
  python -m benchmarks.detector --torch-python=none --rounds=5
"""


def main(argv):
    """Measure, print and, with --out, write JSON. Return the exit status."""
    options = parse_options(argv)
    result = {"resolution": options.resolution, "minibatch": options.minibatch,
              "threads": options.threads, "rounds": options.rounds, "cpu": cpu_name(),
              "load_average_before": os.getloadavg()[0]}
    sides = start_sides(options)
    try:
        versions, times = run_rounds(sides, options.rounds)
    finally:
        for side in sides.values():
            side.stdin.close()
            side.wait()
    result |= {"versions": versions} | summary(times, options.minibatch)
    result["fid_formula"] = time_formula(options.rounds)
    report(result, options.out)
    return 0


def parse_options(argv):
    """Parse the command line."""
    parser = cli.argument_parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("--torch-python", default=sys.executable, metavar="PATH", help="interpreter that has torch "
        "and torch-fidelity, or none to measure our side alone")
    add("--resolution", type=int, default=64, help="size of the images that are resized to 299")
    add("--minibatch", type=int, default=16, help="images at a time")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads of each side")
    add("--rounds", type=int, default=20, help="timed minibatches of each side, alternating")
    add("--out", metavar="FILE", help="also write the JSON to this file")
    return parser.parse_args(argv)


def start_sides(options):
    """Return {'ours': process, 'torch_fidelity': process}, each waiting for lines on its stdin."""
    if not cached_weights().is_file():
        raise UserError(f"{cached_weights()}: no Inception weights; run_metrics.py fetches them")
    shape = [str(options.resolution), str(options.minibatch), str(options.threads)]
    commands = {"ours": [sys.executable, "-m", "benchmarks.sides.our_side", *shape,
                         str(cached_weights())]}
    if options.torch_python != "none":
        check_torch(options.torch_python)
        commands["torch_fidelity"] = [
            options.torch_python, "-m", "benchmarks.sides.torch_fidelity_side", "speed",
            str(cached_weights()), *shape]
    return {name: subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            for name, command in commands.items()}


def check_torch(python):
    """Raise UserError if an interpreter lacks torch-fidelity."""
    check_packages(python, ["torch", "torch_fidelity"],
                   "venv-torch/bin/pip install -r requirements-torch.txt, then "
                   "--torch-python=venv-torch/bin/python; or --torch-python=none")


def run_rounds(sides, rounds):
    """Time the sides alternately; return ({side: versions}, {side: [times of a minibatch]})."""
    versions = {name: read_answer(name, side) for name, side in sides.items()}
    times = {name: [] for name in sides}
    for _ in util.progress(range(rounds), desc="rounds", unit="round"):
        for name, side in sides.items():
            time.sleep(PAUSE_SEC)
            side.stdin.write("go\n")
            side.stdin.flush()
            times[name].append(read_answer(name, side))
    return versions, times


def read_answer(name, side):
    """Return a process's next line of JSON. Raises UserError if the process has ended."""
    line = side.stdout.readline()
    if not line:
        raise UserError(f"{name}: ended without an answer; run it by hand to see why: "
                        f"{' '.join(side.args)}")
    return json.loads(line)


def summary(times, minibatch):
    """Return images per second and processor time of each side, and the ratio of throughputs."""
    result = {}
    for name, measured in times.items():
        wall, cpu = (np.array([t[key] for t in measured]) for key in ("wall_sec", "cpu_sec"))
        result[name] = {"images_per_sec": round(float(minibatch / np.median(wall)), 2),
                        "images_per_sec_best": round(float(minibatch / wall.min()), 2),
                        "cpu_sec_per_image": round(float(np.median(cpu) / minibatch), 5)}
    if len(times) == 2:
        ours, theirs = ([t["wall_sec"] for t in times[name]] for name in times)
        ratios = np.array(theirs) / np.array(ours)
        result["throughput_ratio"] = round(float(np.median(ratios)), 3)
        result["throughput_ratio_quartiles"] = np.percentile(ratios, [25, 75]).round(3).tolist()
    return result


def time_formula(rounds):
    """Return wall and processor time of the FID of two Gaussians of 2048 dimensions, as medians."""
    rng = np.random.default_rng(0)
    moments = []
    for scale in (1.0, 1.1):
        x = rng.standard_normal((2 * NUM_FEATURES, NUM_FEATURES)) * scale
        moments += [x.mean(axis=0), np.cov(x, rowvar=False)]
    times = []
    for _ in range(min(rounds, 5)):
        wall, cpu = time.perf_counter(), time.process_time()
        frechet_distance(*moments)
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    wall, cpu = np.median(times, axis=0).round(3).tolist()
    return {"num_features": NUM_FEATURES, "blas_threads": 1, "wall_sec": wall, "cpu_sec": cpu}


if __name__ == "__main__":
    cli.run_main(main)
