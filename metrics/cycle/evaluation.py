"""Evaluate a CycleGAN on test photos: translate them, measure, print and record."""

import functools
import time
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib.download import cache_dir
from dnnlib.util import UserError
from metrics.cycle import measures
from metrics.cycle.domain_classifier import DomainClassifier, load_or_train_classifier
from metrics.cycle.measures import DIRECTIONS, CycleFindings
from metrics.cycle.networks import CycleNetworks
from metrics.cycle.photos import CyclePhotos, about_photos, open_training_photos
from metrics.features import FeatureSet, fake_features, source_features
from metrics.image_sources import warn
from metrics.metric_base import Metric
from metrics.results import write_record
from training.cycle.domains import split_mask, to_floats


def evaluate_cyclegan(path: Path, metrics: list[Metric], photos: CyclePhotos, detector: Any,
                      folder: Path, *, command: str, minibatch: int) -> None:
    """Compute metrics of a CycleGAN, print every value, append every record to
    metric-<name>.jsonl.

    Args:
        path: the snapshot. photos: the test photos.
        detector: the detector if some metrics need it, else None.
        folder: where results are written.
        command, minibatch: for the records.

    Raises:
        UserError: there are too few photos, or the training photos are needed and missing.
    """
    start = time.monotonic()
    networks = CycleNetworks(path)
    wants_classifier = any(metric.uses == "cycle_classifier" for metric in metrics)
    training, classifier = None, None
    # Report missing photos before any are translated.
    if detector or wants_classifier or networks.has_garment:
        training = open_training_photos(networks.header, path, photos)
    if detector:
        check_counts(photos, "of the test")
        check_counts(training, "of the training, for floors")
    if wants_classifier:
        classifier = load_or_train_classifier(training, networks.has_garment, cache_dir(), warn)
    found = compute_findings(networks, photos, training, detector, classifier, minibatch)
    about = about_evaluation(networks, path, photos)
    for metric in metrics:
        record = {"metric": metric.name,
                  "results": metric.named(metric.function(found, *metric.arguments)),
                  "num_A": len(photos.A.numbers), "num_B": len(photos.B.numbers), **about}
        if metric.uses_detector:
            counts = {side: len(found.training[side]) for side in "AB"}
            few = min(len(domain.numbers) for domain in photos)
            if metric.biased_if_few and few < detector.num_features:
                warn(f"warning: {metric.name} of {few:,} photos is biased: fewer than the "
                     f"{detector.num_features} features; compare with its floor, or use cyclekid")
            floor = measures.floors(found, *metric.arguments)
            record |= {"detector": detector.name, "resize": detector.resize_rule,
                       "detector_hash": detector.digest,
                       "floor": {"results": metric.named(floor), "num_training": counts,
                                 "training_photos": _about(training)}}
        if metric.uses == "cycle_classifier":
            record |= {"classifier": {**classifier.about, "training_photos": _about(training)}}
        write_record(record, folder, start, minibatch, command)
    print(f"recorded in {folder}/metric-*.jsonl")


def check_counts(photos: CyclePhotos, what: str) -> None:
    """Raise UserError if a list has too few photos for distances."""
    for side, domain in photos._asdict().items():
        if len(domain.numbers) < 2:
            raise UserError(f"{domain.source.path}: {len(domain.numbers)} photos {side} {what}; "
                            "distances take 2 at least")


def compute_findings(networks: CycleNetworks, photos: CyclePhotos, training: CyclePhotos | None,
                     detector: Any, classifier: DomainClassifier | None,
                     minibatch: int) -> CycleFindings:
    """Return the findings that the metrics are computed from: features if there is a detector,
    accuracies if there is a classifier.

    Garments are seen through their overlaps with garments in the other list's training photos, so
    that translated and real test photos, which are compared, have no photo in common: otherwise
    regions would be alike pair by pair, and KID below 0 between equal distributions. Floors use
    another part of the training photos.

    Args:
        photos: the test photos. training: the training photos, which a detector, a classifier and
            a network that translates garments need.
    """
    found = CycleFindings(cycle_weight=networks.config.cycle_weight)
    partners = training if networks.has_garment else photos
    for direction in DIRECTIONS:
        # One pass translates, measures and takes features; it also collects the terms.
        collected = []
        count = len(photos.side(direction[0]).numbers)
        generate = functools.partial(_translate, networks, photos, partners, direction, classifier,
                                     minibatch, collected)
        if detector:
            found.translated[direction] = fake_features(generate, count, detector)
        else:
            for _ in generate(count):
                pass
        means = {name: float(np.mean(np.concatenate([part[name] for part in collected])))
                 for name in collected[0]}
        # Turn the classifier's answers, "is of B", into shares of correct answers.
        if classifier:
            translated, real = means.pop("translated_as_b"), means.pop("real_as_b")
            to_b = direction == "AtoB"
            found.accuracies.update({direction: translated if to_b else 1 - translated,
                                     direction[0]: 1 - real if to_b else real})
        found.terms[direction] = means
    if detector:
        for side, other in ("AB", "BA"):
            count, half = len(photos.side(other).numbers), len(partners.side(other).numbers) // 2
            found.reals[side] = _features(
                photos.critic_view_source(side, networks, minibatch, partners), detector)
            found.training[side] = _features(
                training.critic_view_source(side, networks, minibatch, partners, count, half),
                detector)
    return found


def _translate(networks, photos, partners, direction, classifier, minibatch, collected, count):
    """Yield translated photos as critics see them, uint8, as metrics take images; add {name: [n]}
    to `collected`."""
    for own, others in photos.with_partners(direction[0], minibatch, partners, count):
        found, seen, terms = networks.measure(direction, own, others)
        if classifier:
            masks = networks.masks(own), networks.masks(others)
            real = split_mask(to_floats(own))[0]
            terms |= {"translated_as_b": classifier.classify_as_b(found, *masks),
                      "real_as_b": classifier.classify_as_b(real, *masks)}
        collected.append(terms)
        yield seen, None


def _features(source, detector) -> FeatureSet:
    return FeatureSet(source_features(source, detector, cache_dir(), warn))


def _about(photos):
    return {side: about_photos(domain) for side, domain in photos._asdict().items()}


def about_evaluation(networks: CycleNetworks, path: Path, photos: CyclePhotos) -> dict:
    """Return what every result records about the network and the photos."""
    header, config = networks.header, networks.config
    picture = "whole photos"
    if networks.has_garment:
        picture = ("garments in the middle, through the overlap with one of the other list, grey "
                   "around it, of the training photos, taken in turn")
    return {"network": str(path), "network_digest": header["digest"], "variant": header["variant"],
            "kimg": header["kimg"], "resolution": header["lod"]["resolution"],
            "seen": picture, "uint8": "127.5 x + 128, saturated, truncated",
            "photos": _about(photos),
            "networks": "as in use: batch norms by running means",
            "critic": config.critic, "cycle_weight": config.cycle_weight,
            "differences": "mean of absolute differences of colours in [-1, 1], over the garment "
                           "or, of the background, outside it"}
