"""Metrics by name: the name is the protocol, one short function each.

In a registered name Nk stands for the number of generated images: fidNk answers to fid50k, fid1k
and, without the thousands, fid200. A metric gets what is known of fakes and reals and the detector,
or a function that measures paths; it knows neither networks nor files.
"""

import functools
import re
import sys

from dnnlib.data.class_counts import total_variation
from dnnlib.registry import Registry
from dnnlib.util import UserError
from metrics.features import MIN_AREA, fake_features
from metrics.frechet_inception_distance import frechet_distance
from metrics.inception_score import inception_score
from metrics.inception_weights import BY_HAND
from metrics.kernel_inception_distance import kernel_distance
from metrics.precision_recall import precision_recall

METRICS = Registry("metric")

# What the reals of a metric are: one split (by default the test images), or, as StyleGAN2-ADA has
# it, every image of the training split, or those of the training and the validation split together.
SPLIT, FULL, TRAIN_VAL = "split", "full", "train+val"


def metric(*, reals=None, uses="features", few_mislead=False, least=1, default_count=None):
    """Decorator: enter function(fakes, reals, detector) -> {suffix: value} into METRICS.

    fakes, reals: FeatureSet. The suffix '' is the metric's headline, others ('_std') are appended
    to its name.

    Args:
        reals: SPLIT, FULL, TRAIN_VAL, or None for a metric that compares with no reals.
        uses: 'features', 'logits' (features and the detector's last layer), 'maps' (the areas of
            the classes), or 'paths': such a metric is function(paths), where paths(space, sampling)
            measures as many path lengths as its name says.
        few_mislead: whether it means little with fewer samples than features.
        least: images without which it cannot be computed at all.
        default_count: what the name means without a number.
    """
    def enter(function):
        """Note what the metric is, and register it."""
        function.reals, function.uses = reals, uses
        function.few_mislead, function.least = few_mislead, least
        function.default_count = default_count
        return METRICS.register(function)
    return enter


@metric(reals=SPLIT, few_mislead=True, least=2)
def fidNk(fakes, reals, detector):
    """Frechet Inception Distance of Nk fakes and all reals of the split.

    Paper: Heusel et al. 2017, eq. 6. Reference: bioinf-jku/TTUR and StyleGAN's
    frechet_inception_distance.py (which takes 50,000 reals of the training set; here each real of
    the split counts once).
    """
    a, b = fakes.statistics, reals.statistics
    return {"": frechet_distance(a.mean, a.cov, b.mean, b.cov)}


@metric(reals=FULL, few_mislead=True, least=2)
def fidNk_full(fakes, reals, detector):
    """Frechet Inception Distance of Nk fakes and every training image.

    Paper: Karras et al. 2020 (StyleGAN2-ADA), section 2. Reference: its fid50k_full.
    """
    return fidNk(fakes, reals, detector)


@metric(reals=SPLIT, least=2)
def kidNk(fakes, reals, detector):
    """Kernel Inception Distance of Nk fakes and all reals: mean and deviation over subsets.

    Paper: Binkowski et al. 2018, section 4. Reference: mbinkowski/MMD-GAN and torch-fidelity.
    """
    mean, std = kernel_distance(fakes.features, reals.features)
    return {"": mean, "_std": std}


@metric(reals=FULL, least=2)
def kidNk_full(fakes, reals, detector):
    """Kernel Inception Distance of Nk fakes and every training image.

    Paper: Binkowski et al. 2018, section 4. Reference: StyleGAN2-ADA's kid50k_full, which draws its
    100 subsets of 1,000 from NumPy's global generator: ours are seeded.
    """
    return kidNk(fakes, reals, detector)


@metric(reals=TRAIN_VAL, least=2)
def kidNk_trainval(fakes, reals, detector):
    """Kernel Inception Distance of Nk fakes and all images of the training and validation splits.

    Paper: Binkowski et al. 2018, section 4. Reference: none; for data sets whose validation split
    is too small to compare snapshots by.
    """
    return kidNk(fakes, reals, detector)


@metric(reals=FULL, few_mislead=True, least=4)
def prNk3_full(fakes, reals, detector):
    """Precision and recall of Nk fakes and every training image: balls to the 3rd neighbour.

    Paper: Kynkaanniemi et al. 2019, section 2. Reference: StyleGAN2-ADA's pr50k3_full and
    torch-fidelity's PRC. The published values are of VGG16's features and distances in float16;
    here, as in torch-fidelity's own choice of Inception, the features are pool_3: compare with
    numbers of the same features only.
    """
    precision, recall = precision_recall(reals.features, fakes.features, k=3)
    return {"_precision": precision, "_recall": recall}


@metric(uses="logits", least=10)
def isNk(fakes, reals, detector):
    """Inception Score of Nk fakes in ten splits, and ('_5') in five.

    Paper: Salimans et al. 2016, section 4. Reference: openai/improved-gan and NVIDIA's later is50k
    (ten splits of 5,000); five splits of 10,000 are those of the Style-C-GAN paper, table 1.
    """
    probabilities = detector.probabilities(fakes.features)
    ten, five = (inception_score(probabilities, splits) for splits in (10, 5))
    return {"": ten[0], "_std": ten[1], "_5": five[0], "_5_std": five[1]}


@metric(reals=SPLIT, uses="maps")
def classesNk(fakes, reals, detector):
    """Total variation distance between the classes' shares of all instances, Nk fakes and reals.

    Paper: Korneliusson 2019 (the thesis behind Style-C-GAN), figure 5.3. Reference: none; the
    thesis compares the bars by eye.
    """
    return {"": total_variation(fakes.instances, reals.instances)}


@metric(uses="paths", default_count=100_000)
def pplNk_zfull(paths):
    """Perceptual path length in z, at random places of the paths.

    Paper: Karras et al. 2019 (StyleGAN), section 4.1, eq. 2. Reference: its
    perceptual_path_length.py, ppl_zfull.
    """
    return {"": paths("z", "full")}


@metric(uses="paths", default_count=100_000)
def pplNk_wfull(paths):
    """Perceptual path length in w, at random places of the paths.

    Paper: Karras et al. 2019 (StyleGAN), section 4.1, eq. 3. Reference: its
    perceptual_path_length.py, ppl_wfull.
    """
    return {"": paths("w", "full")}


@metric(uses="paths", default_count=100_000)
def pplNk_zend(paths):
    """Perceptual path length in z, at the beginnings of the paths.

    Paper: Karras et al. 2019 (StyleGAN), section 4.1. Reference: its perceptual_path_length.py,
    ppl_zend.
    """
    return {"": paths("z", "end")}


@metric(uses="paths", default_count=100_000)
def pplNk_wend(paths):
    """Perceptual path length in w, at the beginnings of the paths.

    Paper: Karras et al. 2019 (StyleGAN), section 4.1. Reference: its perceptual_path_length.py,
    ppl_wend.
    """
    return {"": paths("w", "end")}


def parse_metric(name):
    """'fid50k' -> (fidNk, 50000), 'fid200' -> (fidNk, 200), 'ppl_wfull' -> (pplNk_wfull, 100000).

    Raises UserError for an unknown name, listing the known ones.
    """
    for pattern in METRICS:
        function, (start, end) = METRICS[pattern], pattern.split("Nk")
        match = re.fullmatch(rf"{start}([1-9]\d{{0,6}})(k?){end}", name)
        if match:
            return function, int(match[1]) * (1000 if match[2] else 1)
        if function.default_count and name == start + end:
            return function, function.default_count
    raise UserError(f"unknown metric {name!r}; known: {known_metrics()}")


def with_count(name, count):
    """The name of the same metric of `count` images: 'fid50k' of 1200 is 'fid1200', of 2000
    'fid2k'."""
    function, _ = parse_metric(name)
    number = f"{count // 1000}k" if count % 1000 == 0 else str(count)
    return function.__name__.replace("Nk", number)


def known_metrics():
    """The names of all metrics, for messages and help."""
    return (f"{', '.join(sorted(METRICS))}, where Nk is a number of generated images such as 50k "
            "(and may be left out of ppl)")


def check_counts(names, limit=None, num_reals=None):
    """Raise UserError for a metric of too few images, before any is made.

    limit: how many fakes there are, where they are not endless; num_reals: {SPLIT or FULL: count}.
    """
    for name in names:
        function, count = parse_metric(name)
        for what, number in (("fakes", min(count, limit or count)),
                             ("reals", (num_reals or {}).get(function.reals, function.least))):
            if number < function.least:
                raise UserError(f"{name}: {number} {what}; it takes {function.least} at least")


def uses_detector(name):
    """Whether a metric needs features of a detector."""
    return parse_metric(name)[0].uses in ("features", "logits")


def needs_logits(names):
    """Whether one of the metrics needs the detector's last layer."""
    return any(parse_metric(name)[0].uses == "logits" for name in names)


def reals_of(names):
    """The kinds of reals, SPLIT and FULL, that the metrics compare with."""
    return {parse_metric(name)[0].reals for name in names} - {None}


def unavailable(names, detector):
    """{name: reason} of the metrics that this detector cannot do; raises as parse_metric."""
    if detector is None or detector.has_logits:
        return {}
    return {name: f"{name} needs the detector's last layer, which these weights lack: {BY_HAND}"
            for name in names if needs_logits([name])}


def evaluate(names, generate, reals, detector, say=print):
    """Compute metrics of a generator's images: {name: {name + suffix: value}}, in order.

    Args:
        names: such as ['fid50k', 'kid50k']; none that `unavailable` lists, none of paths or maps.
        generate: see measure_fakes.
        reals: {SPLIT or FULL: FeatureSet} with all that `reals_of` lists.
        detector: metrics.inception.Inception, or what has its methods.
        say: function (line) that hears warnings.
    """
    fakes = measure_fakes(names, generate, detector)
    results = {}
    for name in names:
        function, count = parse_metric(name)
        results[name] = compute(name, fakes[:count], reals.get(function.reals), detector, say)
    return results


def measure_fakes(names, generate, detector, limit=None, num_classes=0, min_area=MIN_AREA):
    """FeatureSet of as many fakes as the largest of the metrics takes, in one pass; None for none.

    generate: function (count) -> iterator over (rgb uint8 [n, H, W, 3], label maps uint8 [n, H, W]
    or None); smaller metrics take the first of its images.
    """
    uses = {name: parse_metric(name)[0].uses for name in names}
    counts = [parse_metric(name)[1] for name in names if uses[name] != "paths"]
    if not counts:
        return None
    count = min(max(counts), limit or sys.maxsize)
    detector = detector if any(uses_detector(name) for name in names) else None
    num_classes = num_classes if "maps" in uses.values() else 0
    return fake_features(generate, count, detector, num_classes, min_area)


def compute(name, fakes, reals, detector, say=print, sides=("fakes", "reals")):
    """One metric of two FeatureSets (reals may be None): {name + suffix: value}.

    Warns where it means little; `sides` says what the two sets are.
    """
    function, _ = parse_metric(name)
    if function.few_mislead:
        counts = dict(zip(sides, (len(fakes), len(reals))))
        _warn_few(name, counts, detector.num_features, say)
    return {name + suffix: value for suffix, value in function(fakes, reals, detector).items()}


def compute_paths(name, paths):
    """A metric of paths: {name: value}.

    paths: function (space, sampling, num_samples) -> mean path length.
    """
    function, count = parse_metric(name)
    values = function(functools.partial(paths, num_samples=count))
    return {name + suffix: value for suffix, value in values.items()}


def floor(name, reals, detector, say=print):
    """The same metric between two halves of the reals (every second one): what perfect fakes get.

    reals: FeatureSet. Returns (values, number of images in either half). Raises UserError for a
    metric that does not compare with reals.
    """
    if parse_metric(name)[0].reals is None:
        raise UserError(f"{name} compares with no reals and has no floor")
    half = len(reals) // 2
    first, second = (reals[i::2][:half] for i in range(2))
    sides = ("reals in one half", "in the other")
    return compute(name, first, second, detector, say, sides), half


def _warn_few(name, counts, num_features, say):
    """FID is biased at any count; with fewer samples than features its covariances are singular.

    Precision and recall depend on the counts as well.
    """
    few = [f"{count:,} {what}" for what, count in counts.items() if count < num_features]
    if few:
        say(f"warning: {name} of {' and '.join(few)} is biased: fewer samples than the "
            f"{num_features} features; compare equal counts only, beside --floor, or judge by kid")
