"""Evaluate networks and folders of images: open the fakes, and the reals to compare them with."""

import collections
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib import util
from dnnlib.data import channels, pictures
from dnnlib.data.dataset import DatasetInfo, open_dataset, read_labels
from dnnlib.data.labelled import LabelledPictures
from dnnlib.tflib.vgg16 import SMALLEST
from dnnlib.util import UserError
from metrics import metric_base
from metrics.features import MIN_AREA
from metrics.image_sources import ImageSource, PeopleSource, split_source
from metrics.label_agreement import check_labeller, confusion_measure, has_learned_from
from metrics.map_quality import MEASURES, MapMeasure
from metrics.metric_base import FULL, SPLIT, TRAIN_VAL, Metric
from metrics.nearest_neighbours import read_chosen
from metrics.networks import lpips
from metrics.perceptual_path_length import EPSILON, path_lengths, perceptual_path_length
from metrics.results import GeneratedImages, measure_reals, needed_detector
from metrics.segmentation_scores import confusion_matrix, mean_iou, pixel_accuracy
from metrics.translated_photos import (
    check_maps,
    l1_measure,
    lpips_measure,
    posed_stream,
    translated_stream,
)
from training.pose.reposer import Reposer
from training.sampler import TRUNCATION_CUTOFF, Sampler, gather_images, label_maps
from training.segmentation.labeller import Labeller, LabellerInfo, read_labeller
from training.snapshots import Snapshot, load_snapshot
from training.translation.translator import Translator


def training_metrics(text: str, weights: str | None = None,
                     segmenter: str | None = None) -> list[Metric]:
    """Return the metrics of train.py's --metrics, 'none' or names with commas between them. Raises
    UserError for metrics that a training cannot compute, for a missing --segmenter, and for
    --inception=weights that is not needed or not a file."""
    return _parse_metrics(text, weights, segmenter, lambda metric: (
        metric.uses in ("features", "logits") or metric.pattern.startswith("labelsNk")))


def translation_metrics(text: str, segmenter: str | None, weights: str | None) -> list[Metric]:
    """Return the metrics of a training that draws photos from maps; see `training_metrics`."""
    return _parse_metrics(text, weights, segmenter, lambda metric: metric.uses in (
        "features", "logits", "segmenter", "originals"))


def _parse_metrics(text, weights, segmenter, is_possible):
    metrics = metric_base.parse_metrics(None if text == "none" else text)
    for metric in metrics:
        if not is_possible(metric):
            raise UserError(f"--metrics: {metric.name} is not computed during training; ask "
                            "run_metrics.py for it")
        if "confusion" in metric.measures and not segmenter:
            raise UserError(f"--metrics: {metric.name} needs --segmenter")
    metric_base.check_counts(metric for metric in metrics if metric.count)
    if weights and not any(metric.uses_detector for metric in metrics):
        raise UserError(f"--inception: --metrics={text} needs no Inception weights; leave one out")
    if weights and not Path(weights).is_file():
        raise UserError(f"--inception={weights}: no such file; leave it out to have the weights "
                        "found or fetched")
    return metrics


def training_labeller(segmenter: str | None, results: str, dataset: DatasetInfo,
                      resolution: int) -> LabellerInfo | None:
    """Return the LabellerInfo of --segmenter; None without one. Raises UserError if it has other
    classes than the data set, or takes photos of another size."""
    if segmenter is None:
        return None
    info = read_labeller(segmenter, results)
    check_labeller(info, dataset.classes, [(resolution, resolution)], "the training's images")
    return info


def labeller_warnings(metrics: list[Metric], labeller: LabellerInfo | None,
                      dataset: DatasetInfo) -> list[str]:
    """Return a warning if the reals of a metric are photos that the segmenter has learned from."""
    names = [metric.name for metric in metrics
             if "confusion" in metric.measures and metric.reals != SPLIT]
    if not names or not has_learned_from(labeller, dataset.digest):
        return []
    return [f"warning: {labeller.path} has learned from photos of {dataset.path}: it labels these "
            f"better than others, and {', '.join(names)} takes its labels of them as the ceiling"]


def needs_validation(metrics: list[Metric]) -> bool:
    """Return whether one of the metrics compares with the validation split alone."""
    return SPLIT in metric_base.reals_of(metrics)


def training_evaluation(metrics: list[Metric], dataset: DatasetInfo, *, resolution: int,
                        minibatch: int, seed: int, weights: str | None, log: Callable,
                        labeller: LabellerInfo | None = None) -> Callable | None:
    """Return the function Snapshot -> {metric: value} that evaluates the snapshots of a training.

    Reals are the validation split; for _full the training split, for _trainval both. If nothing can
    be computed, the result is None, and the reason is logged. weights: file of Inception weights;
    None finds or fetches them. labeller: segmenter for labelsNk, which is loaded here.
    """
    # Find the metrics that can be computed with these data and this detector.
    if not dataset.splits.get("val"):
        lacking = [metric for metric in metrics if metric.reals == SPLIT]
        metrics = [metric for metric in metrics if metric.reals != SPLIT]
        if lacking:
            log(f"warning: {dataset.path} has no validation split: no "
                f"{', '.join(metric.name for metric in lacking)}"
                + ("" if metrics else "; the newest snapshot counts as best"))
    if not metrics:
        return None
    of_pairs = [metric.name for metric in metrics if metric.needs_maps]
    if of_pairs and not dataset.classes:
        raise UserError(f"--metrics: {', '.join(of_pairs)} of pairs, but {dataset.path} has no "
                        "segmentation maps")
    metric_base.check_counts(metrics, num_reals=_num_reals(dataset.splits))
    try:
        detector = needed_detector(metrics, weights, report=log)
    except UserError as error:
        if weights:
            raise
        lacking = [metric.name for metric in metrics if metric.uses_detector]
        log(f"warning: no {', '.join(lacking)} during training, the newest snapshot counts as "
            f"best: {util.one_line(error)}")
        detector, metrics = None, [metric for metric in metrics if not metric.uses_detector]
    metrics = metric_base.select_computable(metrics, detector,
                                            lambda reason: log(f"warning: {reason}"))
    if not metrics:
        return None
    # Measure once what the fakes of every snapshot are compared with.
    known = MEASURES | ({"confusion": confusion_measure(Labeller(labeller, minibatch))}
                        if labeller else {})
    reals = _reals_of_training(metrics, dataset, resolution, detector, log, known)
    labels = read_labels(dataset.path, "train") if dataset.label_size else None
    log_once = functools.cache(log)  # a warning at every snapshot would hide the rest of the log

    def evaluate(snapshot: Snapshot) -> dict[str, float]:
        """Return {metric: value}, with metrics of pairs only if the data set's classes are drawn.
        """
        sampler = Sampler(snapshot)
        possible = [metric for metric in metrics
                    if not metric.needs_maps or sampler.classes == dataset.classes]
        generate = network_stream(sampler, seed, minibatch, labels=labels)
        fakes = metric_base.measure_fakes(possible, generate, detector,
                                          num_classes=len(dataset.classes), known=known)
        return _all_values(possible, fakes, reals, detector, log_once)

    return evaluate


def segmenter_evaluation(pictures: LabelledPictures, minibatch: int) -> Callable:
    """Return the function SegmenterTraining -> {'miou', 'miou_accuracy'} for labelled pictures."""
    numbers = range(len(pictures))

    def evaluate(method: Any) -> dict[str, float]:
        num_labels = len(method.classes) + 1
        confusion = np.zeros([num_labels, num_labels], np.int64)
        for start in range(0, len(numbers), minibatch):
            rgb, truth = (np.stack(parts) for parts in zip(
                *map(pictures.read, numbers[start:start + minibatch])))
            confusion += confusion_matrix(truth, method.predict(rgb), num_labels)
        return {"miou": mean_iou(confusion), "miou_accuracy": pixel_accuracy(confusion)}

    return evaluate


def metrics_of_val(metrics: list[Metric], sizes: dict[str, int]) -> list[Metric]:
    """Return the metrics adapted to one photo for each of the validation split's maps. `sizes`:
    {split: number of images}. Raises UserError for a metric that takes more photos than there are.
    """
    count = sizes["val"]
    metrics = [metric_base.limit_metric(metric_base.adapt_to_translator(metric, count), count)
               for metric in metrics]
    metric_base.check_counts(metrics, count, _num_reals(sizes))
    return metrics


def _num_reals(sizes):
    """Return {kind: number of reals} from the splits' sizes."""
    val = sizes.get("val", 0)
    return {SPLIT: val, FULL: sizes["train"], TRAIN_VAL: sizes["train"] + val}


def translation_evaluation(metrics: list[Metric], dataset: DatasetInfo, resolution: int, *,
                           labeller: LabellerInfo | None = None, weights: str | None = None,
                           lpips_weights: str | None = None, log: Callable = print,
                           minibatch: int = 16) -> Callable | None:
    """Return the function Pix2Pix -> {metric: value}, which evaluates photos drawn from the
    validation split's maps; values are in the order of the metrics. Return None without metrics.

    Reals are the validation split; for _full the training split, for _trainval both. labeller: for
    miou; weights, lpips_weights: files of Inception and LPIPS weights; None finds or fetches them.
    Warns of a metric that these weights cannot compute; raises UserError if that is the first one.
    """
    if not metrics:
        return None
    shown = split_source(dataset, "val", resolution)
    wanted = metrics_of_val(metrics, dataset.splits)
    detector = needed_detector(wanted, weights, minibatch, log)
    metrics = metric_base.select_computable(wanted, detector,
                                            lambda reason: log(f"warning: {reason}"))
    if wanted[0] not in metrics:
        raise UserError(f"--metrics: {wanted[0].name} is to select the best snapshot, and cannot "
                        "be computed with these Inception weights, which lack the last layer; name "
                        "another one first")
    # Measure once what photos are compared with.
    known = translation_measures(metrics, lpips_weights, log)
    if "confusion" in metric_base.measures_of(metrics):
        known["confusion"] = confusion_measure(Labeller(labeller, minibatch))
    reals = _reals_of_training(metrics, dataset, resolution, detector, log, known)
    log_once = functools.cache(log)

    def evaluate(method: Any) -> dict[str, float]:
        fakes = metric_base.measure_fakes(
            metrics, translated_stream(shown, method.translate, minibatch), detector, shown.count,
            len(shown.classes), known=known)
        return _all_values(metrics, fakes, reals, detector, log_once)

    return evaluate


def _reals_of_training(metrics, dataset, resolution, detector, log, known):
    """Return {kind: FeatureSet} of the reals that the metrics of a training compare with."""
    splits = {SPLIT: "val", FULL: "train", TRAIN_VAL: TRAIN_VAL}
    sources = {kind: split_source(dataset, splits[kind], resolution)
               for kind in metric_base.reals_of(metrics)}
    return measure_reals(metrics, sources, detector, MIN_AREA, log, known)


def _all_values(metrics, fakes, reals, detector, warn):
    values = {}
    for metric in metrics:
        values |= metric_base.compute(metric, fakes, reals.get(metric.reals), detector, warn)
    return values


def translation_measures(metrics: list[Metric], lpips_weights: str | None = None,
                         log: Callable = print) -> dict[str, MapMeasure]:
    """Return {name: measure} of the measures that compare photos with the real photos of their
    maps, as far as the metrics need them."""
    needed, known = metric_base.measures_of(metrics), {"l1": l1_measure()}
    if "lpips" in needed:
        known["lpips"] = lpips_measure(lpips.Lpips(lpips_weights, report=log))
    return known


def pose_evaluation(numbers: Sequence[int], minibatch: int = 16) -> Callable:
    """Return the function Pose -> {'l1': value} for its pairs of these numbers: the mean absolute
    difference between generated photos and the targets, of colours from 0 to 1."""
    def evaluate(method: Any) -> dict[str, float]:
        difference = 0.0
        for start in range(0, len(numbers), minibatch):
            pairs = method.read(numbers[start:start + minibatch])
            fakes = pictures.to_uint8_metrics(method.translate(pairs))
            difference += np.abs(pairs.target - fakes.astype(float)).mean((1, 2, 3)).sum()
        return {"l1": difference / 255 / len(numbers)}

    return evaluate


def decoder_evaluation(label_maps: np.ndarray, numbers: Sequence[int]) -> Callable:
    """Return the function DecoderTraining -> {'miou', 'accuracy'} for its labelled pictures of
    these numbers, whose maps are `label_maps[numbers]`."""
    def evaluate(method: Any) -> dict[str, float]:
        num_labels = len(method.classes) + 1
        confusion = confusion_matrix(label_maps[numbers], method.predict(numbers), num_labels)
        return {"miou": mean_iou(confusion), "accuracy": pixel_accuracy(confusion)}

    return evaluate


def network_stream(sampler: Sampler, seed: int, minibatch: int, psi: float | None = None,
                   labels: np.ndarray | None = None, signed: bool = False) -> Callable:
    """Return a network's images as metrics take them: a function (count) -> iterator.

    It yields (rgb uint8 [n, R, R, 3], label maps uint8 [n, R, R], None if the network draws none).
    Images below the network's final resolution R (it still grows) are upscaled by repeating pixels,
    as in official evaluations. labels: [rows, label_size], from which a conditional network draws.
    signed: yield real-valued maps float32 [n, R, R, C] instead of labels.
    """
    def generate(count: int) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        for images in sampler.stream(seed, count, minibatch, psi, labels):
            final = sampler.network.resolution
            rgb = pictures.to_uint8_metrics(images[..., channels.RGB])
            maps = images[..., channels.SEGMAPS].numpy() if signed else label_maps(images)
            yield (pictures.upscale_nearest(rgb, final),
                   pictures.upscale_nearest(maps, final) if sampler.classes else None)
    return generate


def network_images(path: Path, metrics: list[Metric], results: str, *, minibatch: int, seed: int,
                   psi: float | None = None, data: str | None = None,
                   lpips_weights: str | None = None, crop_face: bool = False) -> GeneratedImages:
    """Open a snapshot's Gs for evaluation: with random noise, and upscaled if it is still growing.

    results: folder for results if the snapshot's own is read-only. data: data set of the labels
    for a conditional network; by default its own.
    """
    snapshot = load_snapshot(path, names=("Gs",))
    sampler, header = Sampler(snapshot), snapshot.header
    labels, about_labels = _training_labels(snapshot, data) if sampler.label_size else (None, None)
    resolution = sampler.network.resolution
    seen = resolution // 2 if crop_face else resolution
    if seen < SMALLEST and any(metric.uses == "paths" for metric in metrics):
        raise UserError(f"ppl: LPIPS takes images of {SMALLEST} pixels or more, and would see "
                        f"{seen}x{seen} of {path}")
    about = {**_about_network(path, header, resolution), "stage": header.get("stage"),
             "upscaled": "nearest" if sampler.resolution < resolution else None,
             "truncation": None if psi is None else {"psi": psi, "cutoff": TRUNCATION_CUTOFF},
             "noise": "random", "labels": about_labels, "seed": seed}
    # Path lengths need LPIPS, and draw their own latents.
    paths = about_paths = None
    if any(metric.uses == "paths" for metric in metrics):
        distance = lpips.Lpips(lpips_weights)
        about_paths = {
            "distance": distance.name, "distance_hash": distance.digest, "step": EPSILON,
            "outliers": "below the 1st and above the 99th percentile left out", "uint8": None,
            "crop_face": crop_face}

        def paths(space: str, sampling: str, num_samples: int) -> float:
            return perceptual_path_length(path_lengths(
                sampler.network.mapping, lambda dlatents, noise: sampler.network.synthesis(
                    dlatents, sampler.resolution, sampler.fade, noise), distance,
                latent_size=sampler.network.latent_size, space=space, sampling=sampling,
                num_samples=num_samples, minibatch=minibatch, seed=seed, resolution=resolution,
                labels=labels, crop_face=crop_face))

    signed = any(MEASURES[name].signed for name in metric_base.measures_of(metrics)
                 if name in MEASURES)
    return GeneratedImages(
        network_stream(sampler, seed, minibatch, psi, labels, signed), about,
        network_results(path, results), collections.Counter({(resolution, resolution): 1}), None,
        sampler.classes, paths, about_paths)


def translated_images(path: Path, source: ImageSource, results: str, *, minibatch: int,
                      seed: int) -> GeneratedImages:
    """Open a translator's snapshot for evaluation on the maps of `source`, each with the dropout of
    `seed`; the photos that generate.py --maps writes have the dropout of seed 0."""
    translator = Translator(path, minibatch)
    resolution, header = translator.resolution, translator.header
    check_maps(source, translator.classes, resolution, str(path))
    about = {**_about_network(path, header, resolution), "maps": source.about,
             "seed": seed if translator.has_dropout else None}
    return GeneratedImages(
        translated_stream(source, lambda segmaps: translator.translate(
            segmaps, [seed] * len(segmaps)), minibatch), about, network_results(path, results),
        source.sizes, source.count, translator.classes, originals=source.about)


def posed_images(path: Path, source: PeopleSource, results: str, *,
                 minibatch: int) -> GeneratedImages:
    """Open the snapshot of a network that draws people in other poses for evaluation on pairs: the
    person of the first photo in the pose of the second."""
    reposer = Reposer(path, minibatch)
    about = {**_about_network(path, reposer.header, reposer.resolution), "pairs": source.about}
    return GeneratedImages(posed_stream(source, reposer.draw, minibatch), about,
                           network_results(path, results), source.sizes, source.count,
                           originals=source.about)


def _about_network(path, header, resolution):
    """Return what a result records about a network that draws images."""
    return {"network": str(path), "network_digest": header["digest"],
            "variant": header.get("variant"), "kimg": header["kimg"], "lod": header["lod"],
            "resolution": resolution, "uint8": "127.5 x + 128, saturated, truncated"}


def _training_labels(snapshot, data):
    """Return the labels [n, label_size] that a conditional network draws from, from the data set
    `data` or its own, and what a result records about them."""
    directory = data or stored_dataset(snapshot.header, snapshot.path)
    if directory is None:
        raise UserError("a conditional network needs labels: --data=DIR, the data set it was "
                        "trained on")
    labels, size = read_labels(directory, "train"), snapshot.networks["Gs"].label_size
    if labels.shape[1] != size:
        raise UserError(f"{directory}: labels of {labels.shape[1]} numbers; the network takes "
                        f"{size}")
    return labels, {"drawn_from": "train", "path": str(directory),
                    "digest": open_dataset(directory).digest}


def stored_dataset(header: dict, network: Path) -> str | None:
    """Return the path of a network's training data; None if its header has none. Raises UserError
    if there is no such folder on this machine."""
    path = header.get("dataset", {}).get("path")
    if path and not Path(path).is_dir():
        raise UserError(f"{path}: no such folder here; it is the path of the training data in the "
                        f"header of {network}: give its present path with --data=DIR")
    return path


def folder_images(source: ImageSource, directory: str, results: str) -> GeneratedImages:
    """Evaluate images on disk; results go below `results`, by the folder's name."""
    return GeneratedImages(lambda count: source.batches(bool(source.classes), signed=True),
                           {"fakes": source.about}, folder_results(directory, results),
                           source.sizes, source.count, source.classes)


def network_results(path: Path, results: str) -> Path:
    """Return the folder for a network's results: beside it, else below `results`."""
    directory = Path(path).parent
    return directory if os.access(directory, os.W_OK) else folder_results(directory, results)


def folder_results(directory: str | Path, results: str) -> Path:
    """Make and return the folder below `results` for results about the images in `directory`."""
    folder = Path(results) / f"metrics-{Path(directory).resolve().name}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# Samples for --nearest: (list of (rgb uint8 [H, W, 3], label map uint8 [H, W] or None), their
# names, classes, what a result records about them).

def network_samples(path: Path, seeds: list[int], label: int | Sequence[float] | None,
                    psi: float | None, minibatch: int) -> tuple[list, list, tuple, dict]:
    """Make the samples of seeds as generate.py does, untruncated unless psi is given."""
    sampler = Sampler.load(path, label)
    images = gather_images(
        sampler.seed_images(seeds, 1 if psi is None else psi, "random", minibatch), len(seeds))
    parts = pictures.to_uint8_metrics(images[..., channels.RGB]), label_maps(images)
    about = {"network": str(path), "network_digest": sampler.digest, "truncation": psi,
             "label": sampler.label}
    samples = [pictures.upscale_nearest(part, sampler.network.resolution) for part in parts]
    return list(zip(*samples)), [f"seed {seed}" for seed in seeds], sampler.classes, about


def folder_samples(source: ImageSource, numbers: list[int]) -> tuple[list, list, tuple, dict]:
    """Read the images of these numbers of a folder or data set."""
    if max(numbers) >= source.count:
        raise UserError(f"--nearest={max(numbers)}: {source.about['path']} has images "
                        f"0-{source.count - 1}")
    found, names = read_chosen(source, numbers, bool(source.classes)), source.names()
    return ([found[number] for number in numbers], [names[number] for number in numbers],
            source.classes, {"fakes": source.about})
