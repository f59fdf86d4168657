"""Metrics by name: the name is the protocol, one short function each.

In a registered name Nk stands for the number of generated images: fidNk answers to fid50k, fid1k
and, without the thousands, fid200. A metric gets the features of fakes and reals and the detector;
it knows neither networks nor files.
"""

import re
import sys

from dnnlib.registry import Registry
from dnnlib.util import UserError
from metrics.features import FeatureSet, fake_features
from metrics.frechet_inception_distance import frechet_distance
from metrics.inception_score import inception_score
from metrics.inception_weights import BY_HAND
from metrics.kernel_inception_distance import kernel_distance

METRICS = Registry("metric")


def metric(*, uses_reals=True, uses_logits=False):
    """Decorator: enter function(fakes, reals, detector) -> {suffix: value} into METRICS.

    fakes, reals: FeatureSet. The suffix '' is the metric's headline, others ('_std') are appended
    to its name. `uses_reals`: whether it compares with reals; `uses_logits`: whether it needs the
    detector's last layer.
    """
    def enter(function):
        function.uses_reals, function.uses_logits = uses_reals, uses_logits
        return METRICS.register(function)
    return enter


@metric()
def fidNk(fakes, reals, detector):
    """Frechet Inception Distance of Nk fakes and all reals.

    Paper: Heusel et al. 2017, eq. 6. Reference: bioinf-jku/TTUR and StyleGAN's
    frechet_inception_distance.py (which takes 50,000 reals of the training set; here each real of
    the split counts once).
    """
    a, b = fakes.statistics, reals.statistics
    return {"": frechet_distance(a.mean, a.cov, b.mean, b.cov)}


@metric()
def kidNk(fakes, reals, detector):
    """Kernel Inception Distance of Nk fakes and all reals: mean and deviation over subsets.

    Paper: Binkowski et al. 2018, section 4. Reference: mbinkowski/MMD-GAN and torch-fidelity.
    """
    mean, std = kernel_distance(fakes.features, reals.features)
    return {"": mean, "_std": std}


@metric(uses_reals=False, uses_logits=True)
def isNk(fakes, reals, detector):
    """Inception Score of Nk fakes in ten splits, and ('_5') in five.

    Paper: Salimans et al. 2016, section 4. Reference: openai/improved-gan and NVIDIA's later is50k
    (ten splits of 5,000); five splits of 10,000 are those of the Style-C-GAN paper, table 1.
    """
    probabilities = detector.probabilities(fakes.features)
    ten, five = (inception_score(probabilities, splits) for splits in (10, 5))
    return {"": ten[0], "_std": ten[1], "_5": five[0], "_5_std": five[1]}


def parse_metric(name):
    """'fid50k' -> (fidNk, 50000), 'fid200' -> (fidNk, 200).

    Raises UserError for an unknown name, listing the known ones.
    """
    match = re.fullmatch(r"([a-z]+)([1-9]\d{0,6})(k?)(\w*)", name)
    pattern = f"{match[1]}Nk{match[4]}" if match else name
    if match is None or pattern not in METRICS:
        raise UserError(f"unknown metric {name!r}; known: {known_metrics()}")
    return METRICS[pattern], int(match[2]) * (1000 if match[3] else 1)


def known_metrics():
    """The names of all metrics, for messages and help."""
    return f"{', '.join(sorted(METRICS))}, where Nk is a number of generated images such as 50k"


def unavailable(names, detector):
    """{name: reason} of the metrics that this detector cannot do; raises as parse_metric."""
    return {name: f"{name} needs the detector's last layer, which these weights lack: {BY_HAND}"
            for name in names if parse_metric(name)[0].uses_logits and not detector.has_logits}


def evaluate(names, generate, reals, detector, say=print, limit=None):
    """Compute metrics of a generator: {name: {name + suffix: value}}, in the order of names.

    Args:
        names: such as ['fid50k', 'kid50k']; none that `unavailable` lists.
        generate: function (count) -> iterator over uint8 [n, H, W, 3]; called once, for the largest
            count, of whose images smaller metrics take the first.
        reals: FeatureSet (see features.source_features), or None where no metric compares.
        detector: metrics.inception.Inception, or what has its methods.
        say: function (line) that hears warnings.
        limit: the number of images that `generate` has, where it is not endless.
    """
    counts = {name: min(parse_metric(name)[1], limit or sys.maxsize) for name in names}
    most = fake_features(generate, max(counts.values()), detector)
    sets = {count: FeatureSet(most.features[:count]) for count in set(counts.values())}
    return {name: compute(name, sets[counts[name]], reals, detector, say) for name in names}


def compute(name, fakes, reals, detector, say=print):
    """One metric of two FeatureSets: {name + suffix: value}; warns where it means little."""
    function, _ = parse_metric(name)
    if function is fidNk:
        _warn_few(name, {"fakes": len(fakes), "reals": len(reals)}, detector.num_features, say)
    values = function(fakes, reals, detector)
    return {name + suffix: value for suffix, value in values.items()}


def floor(name, reals, detector, say=print):
    """The same metric between two halves of the reals (every second one): what perfect fakes get.

    Returns (values, number of images in either half). Raises UserError for a metric that does not
    compare with reals.
    """
    if not parse_metric(name)[0].uses_reals:
        raise UserError(f"{name} compares with no reals and has no floor")
    half = len(reals) // 2
    first, second = (FeatureSet(reals.features[i::2][:half]) for i in range(2))
    return compute(name, first, second, detector, say), half


def _warn_few(name, counts, num_features, say):
    """FID is biased at any count; with fewer samples than features its covariances are singular."""
    few = [f"{count:,} {what}" for what, count in counts.items() if count < num_features]
    if few:
        say(f"warning: {name} of {' and '.join(few)} is biased: fewer samples than the "
            f"{num_features} features; compare equal counts only, beside --floor, or judge by kid")
