"""Measure how fast a turn of training is (D step with R1, average, G step): against the plain
algorithm in the same process, against the arithmetic limit, with real data, and from a cold start.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.result import ROOT, cpu_name, report
from dnnlib import cli, util
from dnnlib.util import UserError

PARTS = ("steps", "stream", "start")
OPS = ("ours", "plain")
PRECISIONS = ("fp32", "bf16")
# Images of a turn, few enough for two cores, and the network's final resolution: 64, or the turn's
# resolution if that is larger. The official column was measured with the same.
MINIBATCH = {4: 8, 64: 4, 128: 2, 256: 1}
FINAL_RESOLUTION = 64
# Seconds per image of the official TensorFlow graph with 3 channels, default widths and these
# minibatches, on two other cores. Their products of 4096^2 matrices ran at OFFICIAL_RATE, which
# makes the times comparable, but only roughly.
OFFICIAL = {8: 0.0326, 16: 0.1056, 32: 0.413, 64: 0.897}
OFFICIAL_RATE = 265e9  # multiply-adds per second
STREAM_CASES = (  # resolution, minibatch, fmap_base, fmap_max: with short turns
    (8, 8, 8192, 512), (32, 32, 1024, 64))
STREAM_IMAGES = 200
STREAM_TURNS = 6  # in a row, in each round
SETTLE_SEC = 0.5  # pause in which the stream fills its buffer

EXAMPLES = """\
  python -m benchmarks.train_step --out=step.json
  python -m benchmarks.train_step --channels=16 --resolutions=32,64
  python -m benchmarks.train_step --precision=bf16 --resolutions=32,64,128
  python -m benchmarks.train_step --augment=fixed:0.6 --ops=ours --resolutions=32,64 --channels=3,16
  python -m benchmarks.train_step --parts=stream,start
"""


def main(argv):
    """Measure, print and, with --out, write JSON. Return the exit status."""
    options = parse_options(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    result = {"cpu": cpu_name(), "threads": len(os.sched_getaffinity(0)),
              "versions": {"python": platform.python_version(), "tensorflow": tf.__version__},
              "fmap_base": options.fmap_base, "fmap_max": options.fmap_max,
              "load_average_before": round(os.getloadavg()[0], 2)}
    for part in options.parts:
        result[part] = {"steps": measure_steps, "stream": measure_stream,
                        "start": measure_start}[part](options)
    result["load_average_after"] = round(os.getloadavg()[0], 2)
    report(result, options.out)
    return 0


def parse_options(argv):
    """Parse the command line. Raises UserError if a number is out of range."""
    parser = cli.argument_parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("--parts", type=names(PARTS), default=["steps"], metavar="LIST", help="what to measure: "
        "steps (turns on a constant batch), stream (a constant batch against training's stream), "
        "start (time to the first turn at 64x64 and at the next resolution, in a cold process)")
    add("--resolutions", type=numbers, default=[8, 16, 32, 64, 128], metavar="LIST",
        help="in steps: resolutions")
    add("--channels", type=numbers, default=[3], metavar="LIST", help="in steps: image channels")
    add("--ops", type=names(OPS), default=list(OPS), metavar="LIST", help="in steps: ours, plain "
        "(the same turn with no layer fused), or both, whose ratio is then reported")
    add("--precision", choices=PRECISIONS, default="fp32", help="in steps: if not fp32, compare a "
        "third side, ours in that precision, with both")
    add("--augment", metavar="fixed:P", help="in steps: compare a further side, ours with a "
        "discriminator that sees augmented images, with ours")
    add("--minibatch", type=int, metavar="N", help="images of a step (default: by resolution)")
    add("--rounds", type=int, default=0, metavar="N", help="timed turns of every side (default: "
        "as many as take about 12 seconds, from 5 to 15)")
    add("--fmap-base", type=int, default=8192, metavar="N", help="in steps: width of the networks")
    add("--fmap-max", type=int, default=512, metavar="N", help="in steps: most fmaps of a layer")
    add("--latent-size", type=int, default=512, metavar="N", help="in steps: length of z and w")
    add("--out", metavar="FILE", help="also write the JSON to this file")
    options = parser.parse_args(argv)
    if options.rounds < 0 or min(options.channels) < 3:
        raise UserError("--rounds must not be negative, --channels not below 3")
    for name, is_given in (("precision", options.precision != "fp32"),
                           ("augment", options.augment)):
        if is_given and options.ops == ["plain"]:
            raise UserError(f"--{name}={getattr(options, name)}: a side of ours; leave --ops=plain "
                            "out")
    return options


def numbers(text):
    """Return whole numbers: '8,16' -> [8, 16]."""
    return [int(part) for part in text.split(",")]


def names(known):
    """Return a parser of comma-separated names from `known`."""
    def parse(text):
        chosen = text.split(",")
        if not set(chosen) <= set(known):
            raise UserError(f"{text}: known are {', '.join(known)}")
        return chosen
    return parse


# Turns on a constant batch

def measure_steps(options):
    """Return the rate of matrix products, and {"<resolution>x<channels>": figures} of turns."""
    rates = {"fp32": matmul_rate("fp32")}
    if options.precision != "fp32":
        rates[options.precision] = matmul_rate(options.precision)
    result = {"gmacs_per_sec": {name: round(rate / 1e9, 1) for name, rate in rates.items()},
              "gmacs_per_sec_of_official": OFFICIAL_RATE / 1e9}
    cases = [(r, c) for c in options.channels for r in options.resolutions]
    for resolution, num_channels in util.progress(cases, desc="steps", unit="case"):
        result[f"{resolution}x{num_channels}"] = measure_step(
            options, resolution, num_channels, rates)
    return result


def matmul_rate(precision):
    """Return the multiply-adds per second of a product of 4096^2 matrices."""
    from benchmarks.operations import matmul_rate as rate

    return rate(precision, seconds=2.0, size=4096)


def measure_step(options, resolution, num_channels, rates):
    """Return the seconds per image of every side, their ratios, and the arithmetic limits."""
    from benchmarks import turns

    minibatch = options.minibatch or minibatch_at(resolution)
    config = step_config(options, resolution)
    sides = {name: turns.Side(config, num_channels, resolution, minibatch,
                              turns.plain if name == "plain" else None) for name in options.ops}
    if options.precision != "fp32":
        low = step_config(options, resolution, precision=options.precision)
        sides[options.precision] = turns.Side(low, num_channels, resolution, minibatch)
    if options.augment:
        augmented = step_config(options, resolution, augment=options.augment)
        sides["augmented"] = turns.Side(augmented, num_channels, resolution, minibatch)
    reals = turns.constant_reals(num_channels, resolution, minibatch)
    functions = {name: (lambda side=side: side.run(reals)) for name, side in sides.items()}
    compile_sec = {name: round(turns.timed(function)[0], 1) for name, function in functions.items()}
    warm = turns.timed_in_turns(functions, 1)
    rounds = options.rounds or rounds_for(sum(wall for (wall, _), in warm.values()))
    times = turns.timed_in_turns(functions, rounds)
    result = {"minibatch": minibatch, "rounds": rounds, "compile_sec": compile_sec,
              **{name: turns.medians(times[name], minibatch) for name in times}}
    for name in times:
        rate = rates.get(name, rates["fp32"])
        result[name]["limit_sec_per_image"] = turns.significant(
            operations(config, num_channels, resolution, minibatch, name) / rate)
    result |= comparisons(times)
    measured_so = (num_channels, config.fmap_base, config.fmap_max, minibatch) == (
        3, 8192, 512, minibatch_at(resolution))
    if measured_so and "ours" in times:
        result |= official(resolution, result["ours"]["sec_per_image"])
    return result


def minibatch_at(resolution):
    """Return the number of images of a turn."""
    return MINIBATCH[max(r for r in MINIBATCH if r <= resolution)]


def step_config(options, resolution, **changes):
    """Return the configuration of one side."""
    from training.config import TrainingConfig

    return TrainingConfig(
        variant="rgb", resolution=max(FINAL_RESOLUTION, resolution), fmap_base=options.fmap_base,
        fmap_max=options.fmap_max, latent_size=options.latent_size, **changes)


def operations(config, num_channels, resolution, minibatch, side):
    """Return the multiply-adds per image of a side's turn."""
    from benchmarks import turns
    from benchmarks.operations import turn_operations

    stage = turns.stage(num_channels, resolution, minibatch)
    forms = {"fused": turns.plain} if side == "plain" else {}
    return turn_operations(config, stage.critics[0], stage, **forms)


def rounds_for(seconds):
    """Return how many rounds of that length take about 12 seconds, from 5 to 15."""
    return int(min(max(12 / seconds, 5), 15))


def comparisons(times):
    """Return how many times faster the sides are, or slower with augmentation, paired by round."""
    from benchmarks.turns import paired_ratio

    ratios = {}
    for name in times:
        if name in ("ours", *PRECISIONS) and "plain" in times:
            ratios[f"{name}_faster_than_plain"] = paired_ratio(times[name], times["plain"])
        if name in PRECISIONS and "ours" in times:
            ratios[f"{name}_faster_than_ours"] = paired_ratio(times[name], times["ours"])
    if {"augmented", "ours"} <= times.keys():
        ratios["augmented_to_ours"] = paired_ratio(times["ours"], times["augmented"])
    return ratios


def official(resolution, sec_per_image):
    """Return the official column beside ours, if it has this resolution."""
    if resolution not in OFFICIAL:
        return {}
    return {"official_sec_per_image": OFFICIAL[resolution],
            "ours_to_official": round(sec_per_image / OFFICIAL[resolution], 3)}


# Turns on training's stream

def measure_stream(options):
    """Return {case: how much longer a turn takes if it reads real data}, with all channels, on
    drawn photos."""
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        size = max(case[0] for case in STREAM_CASES)
        command = ["dataset_tool.py", "create_synthetic", f"--num-images={STREAM_IMAGES}",
                   f"--resolution={size}", f"--out={data}"]
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for case in util.progress(STREAM_CASES, desc="stream", unit="case"):
            resolution, minibatch, fmap_base, fmap_max = case
            name = f"{resolution}x16, minibatch {minibatch}, {fmap_base}/{fmap_max}"
            result[name] = measure_stream_case(data, case, options.rounds or 7)
    return result


def measure_stream_case(data, case, rounds):
    """Return the times of turns on a constant batch and of as many turns on the stream, their
    ratio, and the time spent waiting."""
    from benchmarks import turns
    from training.config import TrainingConfig
    from training.dataset import TrainingStream

    resolution, minibatch, fmap_base, fmap_max = case
    config = TrainingConfig(variant="rgb", resolution=resolution, fmap_base=fmap_base,
                            fmap_max=fmap_max)
    stream = TrainingStream([data], split="train", resolution=resolution, num_channels=16,
                            minibatch=minibatch, seed=0)
    side, batches, waits = turns.Side(config, 16, resolution, minibatch), iter(stream), []
    constant = next(batches)

    def on_stream():
        for _ in range(STREAM_TURNS):
            begun = time.perf_counter()
            reals = next(batches)
            waits.append(time.perf_counter() - begun)
            side.run(reals)

    def on_constant():
        for _ in range(STREAM_TURNS):
            side.run(constant)

    side.run(constant)
    on_stream()
    times = {"constant": [], "stream": []}
    for _ in range(rounds):
        for name, function in (("constant", on_constant), ("stream", on_stream)):
            time.sleep(SETTLE_SEC)
            times[name].append(turns.timed(function))
    images = STREAM_TURNS * minibatch
    return {"constant": turns.medians(times["constant"], images),
            "stream": turns.medians(times["stream"], images),
            "stream_to_constant": turns.paired_ratio(times["constant"], times["stream"]),
            "wait_ms_per_turn": round(float(np.median(waits)) * 1e3, 3)}


# Cold start

def measure_start(options):
    """Return what `benchmarks.first_step` reports in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.first_step", str(options.fmap_base),
               str(options.fmap_max)]
    begun = time.perf_counter()
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if run.returncode:
        raise UserError(f"{' '.join(command)} failed: {run.stderr.strip()[-300:]}")
    told = json.loads(run.stdout.splitlines()[-1])
    return told | {"whole_process_sec": round(time.perf_counter() - begun, 1)}


if __name__ == "__main__":
    cli.run_main(main)
