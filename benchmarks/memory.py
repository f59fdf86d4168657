"""Count a turn's memory on one device in a table of presets, and measure how right the count is."""

import dataclasses
import json
import os
import subprocess
import sys

from benchmarks.operations import memory_parts, turn_memory
from benchmarks.result import ROOT, cpu_name, report
from dnnlib import cli, util
from dnnlib.util import UserError
from training.config import PRESETS, TrainingConfig
from training.gan.schedule import make_stage, variant_stages
from training.method_config import by_resolution

NUM_CLASSES = 13
FINAL = 512  # final resolution of presets that take the data set's
GROUP = 4  # group of minibatch stddev: no device takes fewer images at once
DEVICES = 4
MEASURED = (  # preset, stage, resolution, minibatch, images at once, precision
    ("small-64", "rgb", 64, 32, 32, "fp32"), ("small-64", "rgb", 64, 32, 32, "bf16"),
    ("small-64", "rgb", 64, 32, 8, "fp32"), ("small-64", "classes", 64, 32, 32, "fp32"),
    ("paper", "rgb", 8, 8, 8, "fp32"), ("paper", "rgb", 64, 8, 8, "fp32"),
    ("paper", "rgb", 64, 8, 8, "bf16"), ("paper", "rgb", 128, 8, 8, "fp32"))

EXAMPLES = """\
  python -m benchmarks.memory
  python -m benchmarks.memory --card=24 --presets=paper
  python -m benchmarks.memory --measure --out=memory.json
"""


def main(argv):
    """Print the table, or measure. Return the exit status."""
    options = parse_options(argv)
    if options.measure:
        report(measurements(), options.out)
        return 0
    print("\n".join(table(options.presets, options.card - options.reserve)))
    return 0


def parse_options(argv):
    """Parse the command line. Raises UserError for an unknown preset."""
    parser = cli.argument_parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("--presets", default="paper,paper-256,small-64,demo-32", metavar="LIST",
        help="presets in the table")
    add("--card", type=float, default=11.0, metavar="GB", help="memory of a device, 10^9 bytes")
    add("--reserve", type=float, default=1.5, metavar="GB", help="part of it that is not "
        "TensorFlow's tensors: context, workspaces, gaps; an assumption")
    add("--measure", action="store_true", help="instead of the table, compare measured with "
        "counted memory, for turns on the CPU in processes of their own (takes minutes)")
    add("--out", metavar="FILE", help="with --measure, also write the JSON to this file")
    options = parser.parse_args(argv)
    options.presets = options.presets.split(",")
    unknown = set(options.presets) - set(PRESETS)
    if unknown:
        raise UserError(f"--presets: unknown {', '.join(sorted(unknown))}; known: "
                        f"{', '.join(PRESETS)}")
    if options.out and not options.measure:
        raise UserError("--out: the table is printed; redirect it")
    return options


def place(preset, stage_name, resolution, precision):
    """Return (TrainingConfig, the stage's last critic, Stage) of a preset's 2d variant."""
    config = TrainingConfig.preset(preset, {"precision": precision})
    config = dataclasses.replace(config, resolution=config.resolution or FINAL)
    lod = float(config.resolution.bit_length() - resolution.bit_length())
    stage = make_stage(config, NUM_CLASSES, stage_name, lod)
    return config, stage.critics[-1], stage


def table(presets, room_gb):
    """Return the lines of a Markdown table: GB at the minibatch of one of DEVICES devices, and how
    many images at once fit into `room_gb`."""
    head = ["preset", "stage, resolution", f"images a GPU ({DEVICES} GPUs)",
            *(f"GB {p}" for p in ("fp32", "16 bits")),
            *(f"most at once, {p}" for p in ("fp32", "16 bits"))]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for preset in presets:
        final = TrainingConfig.preset(preset, {}).resolution or FINAL
        cases = [("rgb", r) for r in (64, 128, 256, 512) if r <= final] or [("rgb", final)]
        for stage, resolution in [*cases, (variant_stages("2d")[-1], final)]:
            minibatch = by_resolution(TrainingConfig.preset(preset, {}).minibatch, resolution)
            share = max(minibatch // DEVICES, GROUP)
            kinds = ("fp32", "bf16")
            used = [turn_memory(*place(preset, stage, resolution, kind), share, kind)
                    for kind in kinds]
            fits = [most_at_once(*place(preset, stage, resolution, kind), kind, room_gb * 1e9)
                    for kind in kinds]
            lines.append(f"| {preset} | {stage}, {resolution} | {share} | "
                         f"{' | '.join(f'{bytes_ / 1e9:.2f}' for bytes_ in used)} | "
                         f"{' | '.join(map(str, fits))} |")
    return lines


def most_at_once(config, critic, stage, precision, room):
    """Return how many images, a multiple of GROUP, fit into `room` bytes if one device has the
    whole minibatch; 0 if not even one group fits."""
    count = 0
    while count < stage.minibatch and turn_memory(
            config, critic, stage, count + GROUP, precision,
            accumulating=count + GROUP < stage.minibatch) <= room:
        count += GROUP
    return count


def measurements():
    """Return the measured memory of every case of MEASURED, beside the counted memory."""
    results = []
    for case in util.progress(MEASURED, desc="cases", unit="case"):
        preset, stage_name, resolution, minibatch, at_once, precision = case
        command = [sys.executable, "-m", "benchmarks.sides.memory_side", preset, stage_name,
                   *map(str, (resolution, minibatch, precision, at_once))]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"{' '.join(command)}: failed: {done.stderr.strip()[-500:]}")
        measured = json.loads(done.stdout.splitlines()[-1])
        config, critic, stage = place(preset, stage_name, resolution, precision)
        parts = memory_parts(config, critic, dataclasses.replace(stage, minibatch=minibatch),
                             at_once, precision, accumulating=at_once < minibatch)
        counted = sum(parts.values())
        results.append({
            "case": case, "counted_mb": round(counted / 1e6),
            "peak_mb": round(measured["peak_bytes"] / 1e6),
            "rss_mb": round(measured["rss_bytes"] / 1e6),
            "counted_to_peak": round(counted / measured["peak_bytes"], 3),
            "parts_mb": {name: round(part / 1e6, 1) for name, part in parts.items()}})
    return {"cpu": cpu_name(), "load_average": round(os.getloadavg()[0], 2), "cases": results}


if __name__ == "__main__":
    cli.run_main(main)
