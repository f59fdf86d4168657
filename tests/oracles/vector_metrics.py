"""Checks of metrics against reference vectors."""

import re

import numpy as np

from metrics import perceptual_path_length as ppl
from metrics.features import FeatureSet
from metrics.frechet_inception_distance import frechet_distance
from metrics.networks.inception import Inception
from metrics.networks.inception_weights import cached_weights, read_inception
from tests.oracles.vector_files import elements, exactly, losses, relative


def check_metrics(vectors):
    """Check FID: statistics, formula, few samples; path length: slerp, lerp, outliers, crop."""
    arrays = vectors.load("metrics")
    if arrays is None:
        return
    vectors.excuse([f"metrics.npz/{k}" for k in arrays if k.startswith("ls_")],
                   "linear separability is not among our metrics")
    yield from _check_fid(arrays)
    yield from _check_path_length(arrays)


def _check_fid(arrays):
    moments = []
    for side in ("real", "fake"):
        statistics = FeatureSet(arrays[f"feat_{side}"]).statistics
        yield elements("FID, mean", f"mu_{side}", statistics.mean, arrays[f"mu_{side}"])
        yield elements("FID, covariance", f"sigma_{side}", statistics.cov, arrays[f"sigma_{side}"])
        moments += [statistics.mean, statistics.cov]
    yield losses("FID", "fid", frechet_distance(*moments), arrays["fid"])
    # For two Gaussians with the same covariance only the mean's share remains.
    share = frechet_distance(moments[0], moments[1], moments[2], moments[1])
    yield losses("FID", "fid_mean_term", share, arrays["fid_mean_term"])
    few = [FeatureSet(arrays[f"feat_{side}"][:40]).statistics for side in ("real", "fake")]
    ours = frechet_distance(few[0].mean, few[0].cov, few[1].mean, few[1].cov)
    yield losses("FID", "fid_rank_deficient_first40", ours, arrays["fid_rank_deficient_first40"])


def _check_path_length(arrays):
    epsilon = float(arrays["epsilon"])
    yield exactly("path length, epsilon", "epsilon", ppl.EPSILON, epsilon)
    yield elements("path length, slerp", "normalize_a",
                   ppl.normalize(arrays["slerp_a"].astype(np.float64)), arrays["normalize_a"])
    t = arrays["slerp_t"].astype(np.float64)
    for kind, position in (("slerp", t), ("lerp", t[:, None])):
        a, b = (arrays[f"{kind}_{side}"].astype(np.float64) for side in "ab")
        for name, step in ((f"{kind}_out", 0.0), (f"{kind}_out_t_plus_eps", epsilon)):
            ours = getattr(ppl, kind)(a, b, position + step)
            yield elements(f"path length, {kind}", name, ours, arrays[name])
    left = ppl.without_outliers(arrays["ppl_distances"])
    for name, ours in (("ppl_lo", left.min()), ("ppl_hi", left.max()),
                       ("ppl_filtered_count", len(left))):
        yield exactly("path length, outliers", name, ours, arrays[name])
    mean = ppl.perceptual_path_length(arrays["ppl_distances"])
    yield losses("path length, mean", "ppl_filtered_mean", mean, arrays["ppl_filtered_mean"])
    rows, columns = ppl.face_crop(512)
    yield exactly("path length, crop", "ppl_crop_512_slices",
                  [rows.start, rows.stop, columns.start, columns.stop],
                  arrays["ppl_crop_512_slices"])


def check_inception(vectors):
    """Check features of the Inception of 2015-12-05, if its weights are in the cache."""
    arrays = vectors.load("inception_pool3")
    if arrays is None:
        return
    if not cached_weights().exists():
        vectors.excuse([f"inception_pool3.npz/{name}" for name in arrays],
                       f"no Inception weights in {cached_weights()} (run_metrics.py fetches them)")
        return
    detector = Inception(read_inception(cached_weights()), minibatch=6)
    for name in arrays:
        if match := re.fullmatch(r"pool3_(\w+)", name):
            ours = detector.features(detector.resize(arrays[match[1]]))
            yield relative("Inception features", name, ours, arrays[name])
