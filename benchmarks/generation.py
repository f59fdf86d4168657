"""Measure pairs per second against the minibatch: in memory, as a folder, as a data set."""

import os
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.result import ROOT, cpu_name, report
from dnnlib import cli, util

EXAMPLES = """\
  python -m benchmarks.generation
  python -m benchmarks.generation --network=results/00003-2d-modanet --minibatches=8,32 --pairs=512
"""
KINDS = ("in_memory", "folder", "tfrecords")
NETWORK = ROOT / "docs" / "models" / "ccp-2d-32.safetensors"


def main(argv: list[str]) -> int:
    """Measure every minibatch in turn, several times, and print medians."""
    options = parse_options(argv)
    # Imported here so that --help and wrong options answer at once.
    import tensorflow as tf

    from training.sampler import Sampler
    from training.snapshots import find_snapshot

    sampler = Sampler.load(find_snapshot(options.network), options.label)
    rates = {(size, kind): [] for size in options.minibatches for kind in KINDS}
    with util.progress(total=options.rounds * len(rates), desc="measuring", unit="run") as bar:
        for _ in range(options.rounds):
            for (size, kind), found in rates.items():
                found.append(pairs_per_sec(sampler, options.pairs, size, kind))
                bar.update()
    median = {key: round(statistics.median(found), 1) for key, found in rates.items()}
    report({
        "cpu": cpu_name(), "cores": os.cpu_count(), "load_average": round(os.getloadavg()[0], 2),
        "devices": [device.name for device in tf.config.list_logical_devices()],
        "network": sampler.path.name, "resolution": sampler.resolution,
        "classes": len(sampler.classes), "pairs": options.pairs, "rounds": options.rounds,
        "pairs_per_sec": [
            {"minibatch": size, **{kind: median[size, kind] for kind in KINDS}}
            for size in options.minibatches]}, options.out)
    return 0


def parse_options(argv):
    """Parse the command line."""
    parser = cli.argument_parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("--network", default=str(NETWORK), metavar="SPEC", help="snapshot file, run directory or "
        "run number")
    add("--label", type=cli.label, metavar="K", help="label for a conditional network")
    add("--minibatches", type=lambda text: [cli.positive_int(part) for part in text.split(",")],
        default="1,4,8,16,32", metavar="LIST", help="samples at a time")
    add("--pairs", type=cli.positive_int, default=256, metavar="N", help="pairs per measurement")
    add("--rounds", type=cli.positive_int, default=3, metavar="N", help="measurements of each kind")
    add("--out", metavar="FILE", help="also write the JSON to this file")
    return parser.parse_args(argv)


def pairs_per_sec(sampler, count: int, minibatch: int, kind: str) -> float:
    """Return the number of pairs per second, once the network is compiled.

    Args:
        kind: of KINDS; "folder" and "tfrecords" write all files, as generate.py --num does.
    """
    from generation import pairs, shards
    from generation.selection import Request, make_samples

    recipe = pairs.make_recipe(sampler, 1.0, "random", keep_padding=kind == "tfrecords")
    request = Request(range(count), count, minibatch)
    next(make_samples(sampler, recipe, request))
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        if kind == "folder":
            pairs.write_pairs(sampler, recipe, request, Path(folder))
        elif kind == "tfrecords":
            shards.write_records(sampler, recipe, request, Path(folder, "shard"))
        else:
            for batch in make_samples(sampler, recipe, request):
                pairs.to_pairs(batch.images)
        return count / (time.perf_counter() - start)


if __name__ == "__main__":
    cli.run_main(main)
