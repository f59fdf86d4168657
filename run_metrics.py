#!/usr/bin/env python3
"""Evaluate a trained network or a folder of images: FID, KID, precision, recall, IS, PPL, maps."""

import argparse
import os
import shlex
from collections.abc import Iterable
from typing import Any

from dnnlib import cli
from dnnlib.cli import IdleRule
from dnnlib.data.dataset import read_fit
from dnnlib.download import cache_dir
from dnnlib.util import UserError
from metrics.image_sources import (
    ImageSource,
    PeopleSource,
    is_dataset,
    open_images,
    warn,
    warn_of_other_fit,
)
from metrics.map_quality import MEASURES, MapMeasure
from metrics.metric_base import (
    CYCLE_METRICS,
    CYCLE_USES,
    FULL,
    SPLIT,
    TRAIN_VAL,
    Metric,
    adapt_to_translator,
    measures_of,
    parse_metrics,
    reals_of,
)
from metrics.options import check_folders, check_kind, parse_command
from metrics.results import GeneratedImages, evaluate, evaluate_segmenter, find_detector
from training.snapshot_header import is_cyclegan, is_reposer, is_translator

EXAMPLES = """\
  python run_metrics.py --metrics=fid50k,is50k
  python run_metrics.py --metrics=fid50k_full,kid50k_full,pr50k3_full
  python run_metrics.py --metrics=fid1k,kid1k --network=results/00003-2d-modanet --split=val --floor
  python run_metrics.py --metrics=classes50k --fakes=datasets/generated --data=datasets/modanet
  python run_metrics.py --metrics=maps10k --person --floor
  python run_metrics.py --metrics=labels10k,kid10k_pair --segmenter=results/00005-segmenter-modanet
  python run_metrics.py --metrics=miou --network=results/00005-segmenter-modanet --split=val
  python run_metrics.py --network=7 --metrics=kid1k,lpips,miou --segmenter=5     # photos from maps
  python run_metrics.py --network=8 --metrics=kid1k,lpips,l1                # people in other poses
  python run_metrics.py --network=results/00007-cyclegan-leather
  python run_metrics.py --metrics=ppl_wfull --lpips=lpips-vgg.npz
  python run_metrics.py --metrics=fid50k,kid50k --reals=photos --fakes=generated/images
  python run_metrics.py --nearest=0-7
"""


def main(argv: list[str]) -> int:
    """Parse options; compute the metrics that can be computed, print and record them. Return the
    exit status."""
    options, metrics = parse_command(argv, __doc__, EXAMPLES)
    command = f"python run_metrics.py {shlex.join(argv)}"
    open_images.cache_clear()
    # Imported here so that --help and wrong options answer at once.
    from training.snapshots import find_snapshot, read_header

    header = {}
    if not options.fakes:
        options.network = find_snapshot(options.network, options.results)
        header = read_header(options.network)
    if is_cyclegan(header):
        measure_cyclegan(options, header, metrics, command)
        return 0
    check_kind(options, header, metrics)
    check_folders(options, header, metrics)
    # Open the reals, the maps or poses that a network draws from, and the reals of the
    # nearest-neighbour sheet: by default the training split, which a network could have memorised.
    reals, inputs, neighbours = open_reals(options, header, metrics), None, None
    if is_translator(header) or is_reposer(header):
        inputs = open_inputs(options, header)
        metrics = [adapt_to_translator(metric, inputs.count) for metric in metrics]
    if options.nearest:
        neighbours = reals_of_split(options, header, options.split or "train")
    sources = [source for source in (*reals.values(), inputs, neighbours) if source]
    warn_of_other_data(header, sources)
    for path in {source.about["path"] for source in sources if "split" in source.about}:
        warn_of_other_fit(path, read_fit(path), header.get("fit", read_fit(path)))
    if any(metric.uses == "segmenter" for metric in metrics):
        measure_segmenter(options, reals[SPLIT], command)
        return 0
    detector, metrics = find_detector(metrics, options.inception, options.minibatch, neighbours)
    if options.nearest:
        print(f"wrote {write_neighbours(options, neighbours, detector, command)}")
    if metrics:
        fakes = open_fakes(options, header, metrics, inputs)
        evaluate(metrics, fakes, reals, detector, command=command, minibatch=options.minibatch,
                 min_area=options.min_area, floor=options.floor,
                 known=open_measures(options, metrics, fakes, reals))
    return 0


def measure_cyclegan(options: argparse.Namespace, header: dict, metrics: list[Metric],
                     command: str) -> None:
    """Compute the metrics of a CycleGAN."""
    from metrics.cycle.evaluation import evaluate_cyclegan
    from metrics.cycle.photos import open_test_photos
    from metrics.evaluation import network_results

    if "metrics" not in options.given:
        metrics = parse_metrics(CYCLE_METRICS)
    others = [metric.name for metric in metrics if metric.uses not in CYCLE_USES]
    if others:
        raise UserError(f"{others[0]}: {options.network} translates photos and generates none: ask "
                        f"for {CYCLE_METRICS}, or write some with generate.py --source, and name "
                        "the images/ of their folder with --fakes")
    own = any(header["domains"][side]["garment"] for side in "AB")
    cli.refuse_idle(options.given, [
        IdleRule(["nearest", "reals", "trunc", "seed", "min_area", "label", "person", "segmenter"],
                 True, "a CycleGAN translates test photos, and nothing is drawn"),
        IdleRule(["floor"], True, "the floors of a CycleGAN are computed anyway"),
        IdleRule(["garment"], own, "the network was trained with garments of its own"),
        IdleRule(["garment"], not any(metric.uses == "cycle" for metric in metrics),
                 "it is for cycleloss, which was not asked for"),
        IdleRule(["inception"], not any(metric.uses_detector for metric in metrics),
                 "none of these metrics uses features")])
    photos = open_test_photos(header, options.network,
                              {"A": options.data, "B": options.target}, options.split or "test",
                              tuple(options.garment or ()))
    cli.refuse_idle(options.given, [
        IdleRule(["split"], not any(is_dataset(domain.source.path) for domain in photos),
                 f"it is for data sets; all photos of {photos.A.source.path} and "
                 f"{photos.B.source.path} are taken")])
    detector, metrics = find_detector(metrics, options.inception, options.minibatch)
    evaluate_cyclegan(options.network, metrics, photos, detector,
                      network_results(options.network, options.results), command=command,
                      minibatch=options.minibatch)


def open_reals(options: argparse.Namespace, header: dict,
               metrics: list[Metric]) -> dict[str, ImageSource]:
    """Return {kind: reals that the metrics compare with}: for FULL the whole training split, for
    TRAIN_VAL this and the validation split; with --reals, its images for all kinds."""
    split = options.split or "test"
    splits = {} if options.reals else {FULL: "train", TRAIN_VAL: TRAIN_VAL}
    return {kind: reals_of_split(options, header, splits.get(kind, split))
            for kind in reals_of(metrics)}


def reals_of_split(options: argparse.Namespace, header: dict, split: str) -> ImageSource:
    """Return one part of the reals, at the network's resolution."""
    return open_images(reals_directory(options, header), split,
                       network_resolution(header) if header else options.resolution)


def open_inputs(options: argparse.Namespace, header: dict) -> ImageSource | PeopleSource:
    """Return the inputs from each of which a network draws one photo: the images whose maps a
    translator takes, or pairs of photos of one person."""
    from metrics.translated_photos import open_people

    split = options.split or "test"
    if is_translator(header):
        return reals_of_split(options, header, split)
    return open_people(reals_directory(options, header), split, network_resolution(header),
                       header["keypoints"], str(options.network))


def reals_directory(options: argparse.Namespace, header: dict) -> str:
    """Return the path of the reals."""
    from metrics.evaluation import stored_dataset

    directory = options.reals or options.data or stored_dataset(header, options.network)
    if directory is None:
        raise UserError("which reals? Give --reals=DIR (a folder of images or a data set) or "
                        "--data=DIR (a data set)")
    return directory


def warn_of_other_data(header: dict, sources: Iterable[ImageSource | PeopleSource]) -> None:
    """Warn if the data set that a network's header names has changed since the training."""
    learned = header.get("dataset", {})
    if not {"path", "digest"} <= learned.keys():
        return
    for source in sources:
        if (os.path.realpath(source.about["path"]) == os.path.realpath(str(learned["path"]))
                and source.about["digest"] != learned["digest"]):
            warn(f"warning: {source.about['path']} is not the data set of the training any more: "
                 "its splits may hold photos that the network has learned from")
            return


def network_resolution(header: dict) -> int:
    """Return the side of the images of a snapshot's network, once it is fully grown."""
    networks = header["networks"]
    name = next(name for name in ("Gs", "S", "G") if name in networks)
    return networks[name]["config"]["resolution"]


def open_fakes(options: argparse.Namespace, header: dict, metrics: list[Metric],
               inputs: ImageSource | PeopleSource | None) -> GeneratedImages:
    """Return the images of --fakes, or of the network. inputs: what `open_inputs` returned."""
    from metrics.evaluation import folder_images, network_images, posed_images, translated_images

    if is_translator(header):
        return translated_images(options.network, inputs, options.results,
                                 minibatch=options.minibatch, seed=options.seed)
    if is_reposer(header):
        return posed_images(options.network, inputs, options.results, minibatch=options.minibatch)
    if options.fakes:
        source = open_images(options.fakes, options.split or "test", options.resolution)
        return folder_images(source, options.fakes, options.results)
    return network_images(options.network, metrics, options.results, minibatch=options.minibatch,
                          seed=options.seed, psi=options.trunc, data=options.data,
                          lpips_weights=options.lpips, crop_face=options.crop_face)


def open_measures(options: argparse.Namespace, metrics: list[Metric], fakes: GeneratedImages,
                  reals: dict[str, ImageSource]) -> dict[str, MapMeasure]:
    """Return all measures by name, including those that compare with originals and those that use
    the networks of --segmenter and --person."""
    from metrics.evaluation import translation_measures
    from metrics.label_agreement import confusion_measure
    from metrics.networks.person import PersonNetwork, person_measure

    known, needed = MEASURES | translation_measures(metrics, options.lpips), measures_of(metrics)
    if "outside" in needed:
        known["outside"] = person_measure(PersonNetwork(
            None if options.person is True else options.person))
    if "confusion" in needed:
        from training.segmentation.labeller import Labeller

        labeller = Labeller.load(options.segmenter, options.results, options.minibatch)
        check_segmenter(labeller, fakes.classes, fakes.sizes, reals)
        known["confusion"] = confusion_measure(labeller)
    return known


def measure_segmenter(options: argparse.Namespace, reals: ImageSource, command: str) -> None:
    """Compute miou of the segmenter of --network."""
    from metrics.evaluation import network_results
    from metrics.label_agreement import confusion_measure
    from training.segmentation.labeller import Labeller

    labeller = Labeller.load(options.network, minibatch=options.minibatch)
    check_segmenter(labeller, labeller.classes, (), {SPLIT: reals})
    evaluate_segmenter(reals, confusion_measure(labeller),
                       network_results(options.network, options.results), command=command,
                       minibatch=options.minibatch)


def write_neighbours(options: argparse.Namespace, reals: ImageSource, detector: Any,
                     command: str) -> str:
    """Write the sheet of --nearest and its numbers beside it; return the picture's path."""
    from metrics.evaluation import folder_results, folder_samples, network_results, network_samples
    from metrics.nearest_neighbours import write_nearest

    if options.fakes:
        source = open_images(options.fakes, options.split or "test", options.resolution)
        samples, names, classes, about = folder_samples(source, options.nearest)
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


def check_segmenter(labeller: Any, classes: tuple[str, ...], sizes: Iterable[tuple[int, int]],
                    reals: dict[str, ImageSource]) -> None:
    """Raise UserError if a Labeller does not fit the fakes (of these classes and sizes) or the
    reals; warn if it was trained on the reals."""
    from metrics.label_agreement import check_labeller, has_learned_from

    check_labeller(labeller, classes, sizes, "the fakes")
    for source in reals.values():
        check_labeller(labeller, source.classes, source.sizes, f"the reals, {source.name},")
        if "train" in source.about.get("split", "") and has_learned_from(
                labeller, source.about["digest"]):
            warn(f"warning: {labeller.path} has learned from photos of {source.name}: it labels "
                 "these better than others; --split=test has others")


if __name__ == "__main__":
    cli.run_main(main)
