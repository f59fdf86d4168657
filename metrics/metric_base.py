"""Define metrics by name: a name stands for a protocol, and each metric is one short function.

In a registered name Nk stands for the number of generated images: fid50k, fid1k and fid200 are
fidNk. A metric gets the FeatureSets of fakes and reals and the detector, or a function that
measures paths; it does not depend on networks or files.
"""

import dataclasses
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from dnnlib.data.class_counts import total_variation
from dnnlib.suggestions import did_you_mean
from dnnlib.util import UserError
from metrics.cycle.measures import (
    CycleFindings,
    distances,
    fid_distance,
    kid_distance,
    objective,
    texture_accuracies,
)
from metrics.features import MIN_AREA, FeatureSet, fake_features
from metrics.inception_score import inception_score
from metrics.label_agreement import label_agreement, miou_values, photo_agreement
from metrics.map_quality import MEASURES, MapMeasure, map_quality
from metrics.networks.inception_weights import BY_HAND
from metrics.precision_recall import precision_recall

# The reals of a metric: one split (by default the test images), or, as in StyleGAN2-ADA, every
# image of the training split, or those of the training and the validation split together.
SPLIT, FULL, TRAIN_VAL = "split", "full", "train+val"
# What metrics of a CycleGAN use: its networks alone, with a detector's features, or with the
# classifier of domains. Such a metric is function(CycleFindings, *arguments).
CYCLE_USES = ("cycle", "cycle_features", "cycle_classifier")
CYCLE_METRICS = "cyclefid,cyclekid,cycleloss,cycleclass"


@dataclass(frozen=True)
class Metric:
    """A metric of a number of images.

    Attributes:
        function: (fakes, reals, detector, *arguments) -> {suffix: value}; the suffix '' is the
            headline, others ('_std') are appended to the name. A metric of paths is function(paths,
            num_samples, *arguments).
        count: generated images, or pairs of them, that it takes; 0 if the name has no number.
        uses: 'features', 'logits' (features and the detector's last layer), 'maps' (its `measures`
            of pairs), 'originals' (its `measures` of photos drawn from maps, or of people in other
            poses, beside the real photos), 'paths', 'segmenter' (a segmenter's labels of the reals,
            without fakes; for a network that draws photos from maps see `adapt_to_translator`), or
            one of CYCLE_USES (a CycleGAN's test photos).
        view: what the detector sees, a key of features.VIEWS.
    """

    pattern: str  # such as 'fidNk'
    function: Callable
    arguments: tuple = ()
    name: str = ""  # such as 'fid50k'
    count: int = 0
    reals: str | None = None  # SPLIT, FULL, TRAIN_VAL, or None if it compares with no reals
    uses: str = "features"
    view: str = "photo"
    measures: tuple = ()  # of map_quality.MEASURES and those that need a network
    biased_if_few: bool = False  # it means little with fewer samples than features
    least: int = 1  # least number of images

    @property
    def uses_detector(self) -> bool:
        """Return whether it needs features of a detector."""
        return self.uses in ("features", "logits", "cycle_features")

    @property
    def needs_maps(self) -> bool:
        """Return whether it needs photos with their label maps."""
        return self.uses == "maps" or self.view == "pair"

    @property
    def counts_areas(self) -> bool:
        """Return whether it counts classes as present above a least area."""
        return "areas" in self.measures

    def named(self, values: dict[str, float]) -> dict[str, float]:
        """Return {name + suffix: value} of {suffix: value}."""
        return {self.name + suffix: value for suffix, value in values.items()}


METRICS: dict[str, Metric] = {}


def metric(pattern: str, *arguments: Any, **attributes: Any) -> Callable:
    """Return a decorator that adds a function to METRICS under a name such as fidNk. `arguments`
    are further arguments of the function, `attributes` those of Metric."""
    def register(function: Callable) -> Callable:
        METRICS[pattern] = Metric(pattern, function, arguments, **attributes)
        return function
    return register


@metric("fidNk", reals=SPLIT, biased_if_few=True, least=2)
@metric("fidNk_full", reals=FULL, biased_if_few=True, least=2)
@metric("fidNk_pair", reals=SPLIT, view="pair", biased_if_few=True, least=2)
def fid(fakes: FeatureSet, reals: FeatureSet, detector: Any) -> dict[str, float]:
    """Return the Frechet Inception Distance of the fakes and all reals.

    Paper: Heusel et al. 2017, eq. 6. Reference: bioinf-jku/TTUR and StyleGAN's
    frechet_inception_distance.py (with 50,000 training images; here each real of the split counts
    once); for _full, StyleGAN2-ADA's fid50k_full, with every training image. _pair is our own: it
    uses pictures of a photo beside its map, in the palette's colours.
    """
    return fid_distance(fakes, reals)


@metric("kidNk", reals=SPLIT, least=2)
@metric("kidNk_full", reals=FULL, least=2)
@metric("kidNk_trainval", reals=TRAIN_VAL, least=2)
@metric("kidNk_pair", reals=SPLIT, view="pair", least=2)
@metric("kidNk_trainval_pair", reals=TRAIN_VAL, view="pair", least=2)
def kid(fakes: FeatureSet, reals: FeatureSet, detector: Any) -> dict[str, float]:
    """Return the Kernel Inception Distance of the fakes and all reals: mean and deviation.

    Paper: Binkowski et al. 2018, section 4. Reference: mbinkowski/MMD-GAN and torch-fidelity; for
    _full, StyleGAN2-ADA's kid50k_full, which draws its 100 subsets of 1,000 from NumPy's global
    generator: ours are seeded. _trainval is for data sets whose validation split is too small for
    comparing snapshots; _pair is as in fid.
    """
    return kid_distance(fakes, reals)


@metric("prNk3_full", 3, reals=FULL, biased_if_few=True, least=4)
def precision_and_recall(fakes: FeatureSet, reals: FeatureSet, detector: Any,
                         k: int) -> dict[str, float]:
    """Return precision and recall of fakes and all training images: balls to the kth neighbour.

    Paper: Kynkaanniemi et al. 2019, section 2. Reference: StyleGAN2-ADA's pr50k3_full and
    torch-fidelity's PRC. The published values use VGG16's features; these use pool_3, as
    torch-fidelity can, and compare only with numbers for the same features.
    """
    precision, recall = precision_recall(reals.features, fakes.features, k)
    return {"_precision": precision, "_recall": recall}


@metric("isNk", uses="logits", least=10)
def inception_scores(fakes: FeatureSet, reals: None, detector: Any) -> dict[str, float]:
    """Return the Inception Score of the fakes in ten splits, and ('_5') in five.

    Paper: Salimans et al. 2016, section 4. Reference: openai/improved-gan and NVIDIA's later is50k
    (ten splits of 5,000); five splits of 10,000 are those of the Style-C-GAN paper, table 1.
    """
    probabilities = detector.probabilities(fakes.features)
    ten, five = (inception_score(probabilities, splits) for splits in (10, 5))
    return {"": ten[0], "_std": ten[1], "_5": five[0], "_5_std": five[1]}


@metric("classesNk", reals=SPLIT, uses="maps", measures=("areas",))
def class_distance(fakes: FeatureSet, reals: FeatureSet, detector: Any) -> dict[str, float]:
    """Return the total variation distance between the classes' shares of all instances.

    Paper: Korneliusson 2019 (the thesis behind Style-C-GAN), figure 5.3. Reference: none; in the
    thesis, bars are compared by eye.
    """
    return {"": total_variation(fakes.instances, reals.instances)}


@metric("mapsNk", reals=SPLIT, uses="maps", measures=("areas", "regions", "doubts", "steps"))
def map_qualities(fakes: FeatureSet, reals: FeatureSet, detector: Any) -> dict[str, float]:
    """Return the share of specks among the fakes' regions; other suffixes are further measures.

    Paper: none; measures of our own, defined in docs/metrics.md. Reference: none.
    """
    return map_quality(fakes, reals)


@metric("labelsNk", reals=SPLIT, uses="maps", measures=("confusion",))
@metric("labelsNk_trainval", reals=TRAIN_VAL, uses="maps", measures=("confusion",))
def labels(fakes: FeatureSet, reals: FeatureSet, detector: Any) -> dict[str, float]:
    """Return the mean IoU of generated maps and a segmenter's labels of the generated photos, and
    the same for the reals.

    Paper: Everingham et al. 2015, section 4.3 (IoU). Reference: none; as in Isola et al. 2017,
    section 4.1 (FCN score), a network trained on real photos scores generated ones.
    """
    return label_agreement(fakes, reals)


@metric("miou", reals=SPLIT, uses="segmenter", measures=("confusion",))
def miou(fakes: None, reals: FeatureSet, detector: Any) -> dict[str, float]:
    """Return the mean IoU of a segmenter's labels of real photos, and the pixel accuracy.

    Paper: Everingham et al. 2015, section 4.3. Reference: Keras's MeanIoU.
    """
    return miou_values(reals)


def photo_labels(fakes: FeatureSet, reals: FeatureSet, detector: Any) -> dict[str, float]:
    """Return the mean IoU of maps and a segmenter's labels of photos drawn from them, and the same
    for the real photos.

    Paper: Isola et al. 2017, section 4.1 (FCN score). Reference: none; as in `labels`.
    """
    return photo_agreement(fakes, reals)


@metric("l1", "l1", uses="originals", measures=("l1",))
@metric("lpips", "lpips", uses="originals", measures=("lpips",))
def original_distance(fakes: FeatureSet, reals: None, detector: Any,
                      measure: str) -> dict[str, float]:
    """Return the mean distance of photos drawn from maps, or of people in other poses, from the
    real photos of these maps or poses.

    Paper: for lpips Zhang et al. 2018, for l1 Isola et al. 2017, eq. 3. Reference: the package
    lpips.
    """
    return {"": float(fakes.maps[measure].mean(dtype="float64"))}


@metric("pplNk_zfull", "z", "full", uses="paths", count=100_000)
@metric("pplNk_wfull", "w", "full", uses="paths", count=100_000)
@metric("pplNk_zend", "z", "end", uses="paths", count=100_000)
@metric("pplNk_wend", "w", "end", uses="paths", count=100_000)
def path_length(paths: Callable, num_samples: int, space: str, sampling: str) -> dict[str, float]:
    """Return the perceptual path length in z or w, at random positions or at the start of paths.

    Paper: Karras et al. 2019 (StyleGAN), section 4.1, eq. 2 (z) and 3 (w). Reference: its
    perceptual_path_length.py, ppl_zfull, ppl_wfull, ppl_zend and ppl_wend.
    """
    return {"": paths(space, sampling, num_samples)}


@metric("cyclefid", fid_distance, uses="cycle_features", biased_if_few=True)
@metric("cyclekid", kid_distance, uses="cycle_features")
def cycle_distances(found: CycleFindings, distance: Callable) -> dict[str, float]:
    """Return the distance of a CycleGAN's translated test photos from those of the target, in both
    directions, and of the untranslated ones.

    Paper: as for fid and kid; Zhu et al. 2017 report neither. Reference: none.
    """
    return distances(found, distance)


@metric("cycleloss", uses="cycle")
def cycle_objective(found: CycleFindings) -> dict[str, float]:
    """Return a CycleGAN's objective on test photos, and its terms.

    Paper: "Clothing texture synthesis using CycleGAN", sections 4.1 and 4.3. Reference: none.
    """
    return objective(found)


@metric("cycleclass", uses="cycle_classifier")
def cycle_accuracies(found: CycleFindings) -> dict[str, float]:
    """Return the share of a CycleGAN's translated test photos that a classifier of real photos
    assigns to the target, and its accuracy on real test photos.

    Paper: none; like the FCN score of Isola et al. 2017, section 4.1, but for lists of photos.
    Reference: none.
    """
    return texture_accuracies(found)


def parse_metric(name: str) -> Metric:
    """Return the Metric that a name such as 'fid50k', 'fid200' or 'ppl_wfull' stands for. Raises
    UserError, which lists the known metrics, for an unknown name."""
    for pattern, known in METRICS.items():
        start, number, end = pattern.partition("Nk")
        if number and (match := re.fullmatch(rf"{start}([1-9]\d{{0,6}})(k?){end}", name)):
            count = int(match[1]) * (1000 if match[2] else 1)
            return dataclasses.replace(known, name=name, count=count)
        if name == start + end and (known.count or not number):
            return dataclasses.replace(known, name=name)
    number = re.search(r"\d+k?", name)
    alike = {pattern.replace("Nk", ""): pattern.replace("Nk", number[0] if number else "50k")
             for pattern in METRICS}
    raise UserError(f"unknown metric {name!r}; known: {known_metrics()}"
                    + did_you_mean(re.sub(r"\d+k?", "", name.lower(), count=1), alike))


def parse_metrics(text: str | None) -> list[Metric]:
    """Return the metrics named as in 'fid50k,is50k', each once. Raises as parse_metric."""
    return [] if text is None else [parse_metric(name) for name in dict.fromkeys(text.split(","))]


def known_metrics() -> str:
    """Return the names of all metrics, for messages and help."""
    return (f"{', '.join(sorted(METRICS))}, where Nk is a number of generated images such as 50k "
            "(optional for ppl)")


def limit_metric(metric: Metric, limit: int | None) -> Metric:
    """Return the same metric for at most `limit` images (None: any number), renamed to fit: with
    1200 images 'fid50k' becomes 'fid1200', with 2000 'fid2k'."""
    if limit is None or metric.count <= limit:
        return metric
    number = f"{limit // 1000}k" if limit % 1000 == 0 else str(limit)
    return dataclasses.replace(metric, name=metric.pattern.replace("Nk", number), count=limit)


def adapt_to_translator(metric: Metric, num_maps: int) -> Metric:
    """Return a metric adapted to a network that draws one photo for each map, or for each pair of
    people.

    miou is then of a segmenter's labels of these photos; miou, l1 and lpips take all of them.
    """
    if metric.uses == "segmenter":
        return dataclasses.replace(metric, function=photo_labels, uses="maps", count=num_maps)
    if metric.uses == "originals":
        return dataclasses.replace(metric, count=num_maps)
    return metric


def check_counts(metrics: Iterable[Metric], limit: int | None = None,
                 num_reals: dict | None = None) -> None:
    """Raise UserError for a metric with too few images, before any are made: `limit` fakes (None:
    unlimited), and num_reals {SPLIT, FULL or TRAIN_VAL: number}."""
    for metric in metrics:
        for what, number in (("fakes", min(metric.count, limit or metric.count)),
                             ("reals", (num_reals or {}).get(metric.reals, metric.least))):
            if number < metric.least:
                raise UserError(f"{metric.name}: {number} {what}; it takes {metric.least} at least")


def reals_of(metrics: Iterable[Metric]) -> set[str]:
    """Return the kinds of reals, such as SPLIT and FULL, that the metrics compare with."""
    return {metric.reals for metric in metrics} - {None}


def measures_of(metrics: Iterable[Metric]) -> list[str]:
    """Return the measures of label maps that the metrics use, each once."""
    return list(dict.fromkeys(name for metric in metrics for name in metric.measures))


def views_of(metrics: Iterable[Metric]) -> list[str]:
    """Return the views that the detector needs for the metrics, each once."""
    return list(dict.fromkeys(metric.view for metric in metrics if metric.uses_detector))


def select_computable(metrics: list[Metric], detector: Any, warn: Callable) -> list[Metric]:
    """Return the metrics that a detector (or None) can compute; warn(line) of the others."""
    if detector is None or detector.has_logits:
        return metrics
    for metric in metrics:
        if metric.uses == "logits":
            warn(f"{metric.name} needs the detector's last layer, which these weights lack: "
                 f"{BY_HAND}")
    return [metric for metric in metrics if metric.uses != "logits"]


def measure_fakes(metrics: Iterable[Metric], generate: Callable, detector: Any,
                  limit: int | None = None, num_classes: int = 0, min_area: float = MIN_AREA,
                  known: dict[str, MapMeasure] = MEASURES) -> FeatureSet | None:
    """Return the FeatureSet of as many fakes as the largest metric takes, in one pass; None if no
    metric takes images. Smaller metrics take the first of them.

    generate: function (count) -> iterator over (rgb uint8 [n, H, W, 3], label maps uint8 [n, H, W],
    signed maps [n, H, W, C] or None). limit: number of images, if it is limited. known: all
    measures by name.
    """
    of_images = [metric for metric in metrics if metric.uses != "paths"]
    if not of_images:
        return None
    count = min(max(metric.count for metric in of_images), limit or sys.maxsize)
    views = views_of(of_images)
    return fake_features(generate, count, detector if views else None, measures_of(of_images),
                         num_classes, min_area, views, known)


def compute(metric: Metric, fakes: FeatureSet, reals: FeatureSet | None, detector: Any,
            warn: Callable = print,
            sides: tuple[str, str] = ("fakes", "reals")) -> dict[str, float]:
    """Return {name + suffix: value} of one metric of images, for the first fakes. Warns if the
    value means little; `sides` names the two sets."""
    fakes = fakes[:metric.count]
    if metric.view == "pair":
        fakes, reals = fakes.pairs, reals.pairs
    if metric.biased_if_few:
        # FID is biased at any count, and with fewer samples than features its covariances are
        # singular. Precision and recall depend on the counts as well.
        least = detector.num_features
        few = [f"{len(part):,} {side}" for side, part in zip(sides, (fakes, reals))
               if len(part) < least]
        if few:
            warn(f"warning: {metric.name} of {' and '.join(few)} is biased: fewer samples than the "
                 f"{least} features; compare equal counts only, beside --floor, or use kid")
    return metric.named(metric.function(fakes, reals, detector, *metric.arguments))


def compute_paths(metric: Metric, paths: Callable) -> dict[str, float]:
    """Return {name: value} of a metric of paths (space, sampling, num_samples) -> mean length."""
    return metric.named(metric.function(paths, metric.count, *metric.arguments))


def compute_floor(metric: Metric, reals: FeatureSet, detector: Any,
                  warn: Callable = print) -> tuple[dict[str, float], int]:
    """Compute a metric between two halves of the reals (every second one): the value of perfect
    fakes. Returns (values, number of images per half). Raises UserError if there are too few."""
    half = len(reals) // 2
    if half < metric.least:
        raise UserError(f"--floor: {metric.name} of two halves takes {2 * metric.least} reals at "
                        f"least; there are {len(reals)}")
    first, second = (reals[i::2][:half] for i in range(2))
    unlimited = dataclasses.replace(metric, count=half)
    sides = ("reals in one half", "in the other")
    return compute(unlimited, first, second, detector, warn, sides), half
