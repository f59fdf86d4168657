"""What run_metrics.py judges and compares with, opened: networks, data sets, folders.

A part of that script: the one place where training's files and metrics meet.
"""

import collections
import functools
import os
from pathlib import Path

from dnnlib import util
from dnnlib.data import channels, pictures
from dnnlib.data.coco import find_annotations
from dnnlib.data.dataset_info import FILE_NAME, open_dataset, read_labels
from dnnlib.util import UserError
from metrics.evaluation import Fakes, warn
from metrics.image_sources import folder_source, folders_of_images, pair_source, split_source
from metrics.metric_base import FULL, SPLIT, TRAIN_VAL, parse_metric, reals_of


def open_reals(options, header, names):
    """{kind: ImageSource} of the reals that the metrics compare with.

    The whole training split for those of kind FULL, with the validation split for TRAIN_VAL, unless
    --reals says otherwise.
    """
    kinds = reals_of(names)
    if not kinds:
        return {}
    split = options.split or "test"
    splits = {SPLIT: split, FULL: "train", TRAIN_VAL: TRAIN_VAL}
    if options.reals:
        splits = dict.fromkeys(splits, split)
    sources = {name: open_split(options, header, name) for name in {splits[kind] for kind in kinds}}
    return {kind: sources[splits[kind]] for kind in kinds}


def reals_path(options, header):
    """Where the reals are looked for; None where nothing says it."""
    return options.reals or options.data or header.get("dataset", {}).get("path")


def label_size(header):
    """Length of the labels that a network takes; 0 for none, and where no network is judged."""
    return header["networks"]["Gs"]["config"].get("label_size", 0) if header else 0


def is_dataset(directory):
    """Whether a folder is a data set, or is taken for one since it is missing."""
    return (Path(directory) / FILE_NAME).is_file() or not Path(directory).is_dir()


def check_folders(options, header, names):
    """Raise UserError for folders that are missing, and for --reals, --data, --split and
    --resolution that would have no effect.
    """
    kinds, reals = reals_of(names), reals_path(options, header)
    compared = [reals] if reals and (kinds or options.nearest) else []
    opened = [options.fakes, *compared] if options.fakes else compared
    # Metrics of the whole training split look at --split only where --reals names the images.
    split = (opened if SPLIT in kinds or options.nearest or options.reals
             else [options.fakes] if options.fakes else [])
    wrong = [text for present, text in [
        (options.reals and options.data and not label_size(header),
         "--reals and --data: one of both (only a conditional network takes labels of --data "
         "besides)"),
        (options.reals and not compared, "--reals: none of these metrics compares with reals"),
        (options.data and not compared and not label_size(header),
         "--data: none of these metrics compares with reals"),
        (options.split and split and not any(map(is_dataset, split)),
         f"--split is for data sets; {', '.join(map(str, split))}: all images are taken"),
        (options.resolution and not any(is_dataset(path) or is_dataset(Path(path).parent)
                                        for path in opened),
         "--resolution is for data sets; images of plain folders are taken as they are")]
        if present]
    if wrong:
        raise UserError(wrong[0])
    for option in ("fakes", "reals"):
        path = getattr(options, option)
        if path and not Path(path).exists():
            raise UserError(f"--{option}={path}: no such folder")


def open_split(options, header, split):
    """ImageSource of one part of the reals, at the network's resolution."""
    directory = options.reals or options.data or stored_path(options, header)
    if directory is None:
        raise UserError("which reals? Give --reals=DIR (a folder of images or a data set) or "
                        "--data=DIR (a data set)")
    resolution = header["networks"]["Gs"]["config"]["resolution"] if header else options.resolution
    return open_source(directory, split, resolution)


def stored_path(options, header):
    """Where the data set was when the network was trained, None where its header does not say.

    Raises UserError where it is not there, seen from here.
    """
    path = header.get("dataset", {}).get("path")
    if path and not Path(path).is_dir():
        raise UserError(f"{path}: no such folder here; it is the path of the training data in the "
                        f"header of {options.network}: give the one of today with --data=DIR")
    return path


@functools.lru_cache
def open_source(directory, split, resolution=None):
    """ImageSource of a data set (its `split`), of one of its splits, of pairs or of a folder.

    Warns, once for a source, of files that are left out and of sizes that differ.

    resolution: of a data set's images (default: its own).
    """
    from generation.pairs import FOLDERS
    from training.dataset import read_split

    directory = Path(directory)
    if (directory.parent / FILE_NAME).is_file():
        directory, split = directory.parent, directory.name
    if is_dataset(directory):
        info = open_dataset(directory)
        return split_source(info, split, resolution or info.resolution, read_split)
    if (directory / FOLDERS["image"]).is_dir() and (directory / FOLDERS["label"]).is_dir():
        source = pair_source(directory, FOLDERS["image"], FOLDERS["label"], pair_classes(directory))
        deeper = ()
    else:
        source, deeper = folder_source(directory), folders_of_images(directory)
    for line in source.left_out:
        warn(f"warning: {line}")
    if len(source.sizes) > 1:
        warn(f"warning: {directory}: images of {len(source.sizes):,} sizes, most often "
             f"{commonest(source.sizes, 2)}: each is taken at its own, which alone moves the "
             "metrics")
    if deeper:
        warn(f"warning: {directory}: its {source.count:,} images are taken, those in its folders "
             f"({', '.join(deeper)}) are not")
    return source


def pair_classes(directory):
    """Names of the labels 1..C in a folder of pairs, from its annotations."""
    path = find_annotations(directory)
    try:
        categories = util.read_json(path)["categories"]
        names = {category["id"]: category["name"] for category in categories}
        return tuple(names[i + 1] for i in range(len(names)))
    except (KeyError, TypeError):
        raise UserError(f"{path}: no list of categories 1 to C") from None


def folder_fakes(options, reals):
    """Images from disk as Fakes; warns where they and the reals {kind: ImageSource} differ in size.
    """
    source = open_source(options.fakes, options.split or "test", options.resolution)
    warn_sizes(source.sizes, reals)
    maps = bool(source.classes)
    return Fakes(lambda count: source.batches(maps), source.count, {"fakes": source.about},
                 folder_results(options), source.classes)


def warn_sizes(sizes, reals):
    """Warn once for every source among {kind: ImageSource} whose images are mostly of another size
    than most of the fakes. sizes: {(width, height): number of fakes}."""
    for real in {real.name: real for real in reals.values()}.values():
        if sizes.most_common(1)[0][0] != real.sizes.most_common(1)[0][0]:
            advice = ("--resolution takes reals of another size" if "resolution" in real.about
                      else "dataset_tool.py create_from_images makes a data set of one size")
            warn(f"warning: fakes are {commonest(sizes)}, the reals of {real.name} "
                 f"{commonest(real.sizes)}: that alone moves the metrics; {advice}")


def commonest(sizes, count=1):
    """'64x48 (12 of 20) and 32x32 (8 of 20)' of a Counter of (width, height); '64x48' where that
    is the only size."""
    return " and ".join(
        f"{width}x{height}" + (f" ({number:,} of {sizes.total():,})" if len(sizes) > 1 else "")
        for (width, height), number in sizes.most_common(count))


def snapshot_fakes(options, names, reals):
    """A snapshot's Gs as Fakes: truncated only if asked to, random noise, upscaled if need be.

    Warns where the reals {kind: ImageSource}, a plain folder then, are of another size.
    """
    from metrics.fakes import network_fakes
    from training.sampler import TRUNCATION_CUTOFF
    from training.snapshots import load_snapshot

    snapshot = load_snapshot(options.network, names=("Gs",))
    Gs, header = snapshot.networks["Gs"], snapshot.header
    warn_sizes(collections.Counter({(Gs.resolution, Gs.resolution): 1}), reals)
    labels, about_labels = training_labels(options, header)
    generate = network_fakes(snapshot.generator(options.trunc), Gs.latent_size, Gs.resolution,
                             options.minibatch, options.seed, labels)
    upscaled = header["lod"]["resolution"] < Gs.resolution
    truncation = {"psi": options.trunc, "cutoff": TRUNCATION_CUTOFF}
    about = {"network": str(options.network), "network_digest": header["digest"],
             "variant": header.get("variant"), "stage": header.get("stage"),
             "kimg": header["kimg"], "lod": header["lod"], "resolution": Gs.resolution,
             "upscaled": "nearest" if upscaled else None,
             "truncation": None if options.trunc is None else truncation, "noise": "random",
             "labels": about_labels,
             "uint8": "127.5 x + 128, saturated, truncated", "seed": options.seed}
    paths = about_paths = None
    if any(parse_metric(name)[0].uses == "paths" for name in names):
        paths, about_paths = snapshot_paths(options, snapshot, labels)
    folder = network_results(options)
    return Fakes(generate, None, about, folder, snapshot.classes, paths, about_paths)


def network_results(options):
    """Where results on a network are written: beside it, or below --results where that is
    read-only; made before hours are spent on them."""
    directory = Path(options.network).parent
    return directory if os.access(directory, os.W_OK) else _below_results(directory, options)


def folder_results(options):
    """Where results on the images of --fakes are written: below --results, not among them, where
    they would be in the way."""
    return _below_results(Path(options.fakes), options)


def _below_results(directory, options):
    folder = Path(options.results) / f"metrics-{directory.resolve().name}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def training_labels(options, header):
    """The labels [n, label_size] that a conditional network draws from, and what a result says of
    them; None twice for another network.
    """
    if not label_size(header):
        return None, None
    directory = options.data or stored_path(options, header)
    if directory is None:
        raise UserError("a conditional network needs labels: --data=DIR, the data set it was "
                        "trained on")
    labels = read_labels(directory, "train")
    if labels.shape[1] != label_size(header):
        raise UserError(f"{directory}: labels of {labels.shape[1]} numbers; the network takes "
                        f"{label_size(header)}")
    return labels, {"drawn_from": "train", "path": str(directory),
                    "digest": open_dataset(directory).digest}


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


def snapshot_samples(options):
    """The samples of --nearest as generate.py makes them, untruncated unless --trunc asks for it.

    Returns (list of (rgb uint8 [H, W, 3], label map uint8 [H, W]), what each is called, classes,
    what a result says of them, folder).
    """
    from metrics.fakes import upscale_nearest
    from training.sampler import Sampler, label_maps

    sampler = Sampler(options.network, options.label)
    psi = 1 if options.trunc is None else options.trunc
    dlatents = sampler.dlatents(sampler.latents(options.nearest), psi)
    images = sampler.synthesize_many(dlatents, options.nearest, "random", options.minibatch)
    rgb = pictures.to_uint8_metrics(images[..., channels.RGB])
    parts = (upscale_nearest(part, sampler.network.resolution)
             for part in (rgb, label_maps(images)))
    about = {"network": str(options.network), "network_digest": sampler.digest,
             "truncation": options.trunc, "label": sampler.label}
    names = [f"seed {seed}" for seed in options.nearest]
    return list(zip(*parts)), names, sampler.classes, about, network_results(options)


def folder_samples(options):
    """The same of images on disk: those of --fakes with the numbers of --nearest.

    The sheet does not go among them, where it would count as one of them the next time.
    """
    from metrics.nearest_neighbours import read_chosen

    source = open_source(options.fakes, options.split or "test", options.resolution)
    if max(options.nearest) >= source.count:
        raise UserError(f"--nearest={max(options.nearest)}: {options.fakes} has images "
                        f"0-{source.count - 1}")
    found = read_chosen(source, options.nearest, bool(source.classes))
    samples = [found[number] for number in options.nearest]
    called = source.names()
    return (samples, [called[number] for number in options.nearest], source.classes,
            {"fakes": source.about}, folder_results(options))
