"""Which score selects the best snapshot: of the photos, of the pairs, or of photos and labels.

FID and KID see only the photos: a snapshot whose maps have faded may have the best ones. FID and
KID of the photo beside its map see both, but not whether a map belongs to its photo
(docs/metrics.md). `labels` divides the distance of the photos by how well the maps agree with a
segmentation network's labels of these photos. The agreement is over all classes of the real maps,
relative to what real photos reach. This score is good only if photos and labels are both good: one
of them cannot make up for the other.
"""

import re

SELECT_BY = ("fid", "kid", "pair", "labels")
LABELS_SCORE = "photos_by_labels"
# The unbiased estimate of KID may be below 0; nearly all labels may be wrong.
_LEAST_DISTANCE, _LEAST_RATIO = 1e-4, 1e-3


def needed_metrics(metrics: str, select_by: str) -> list[str]:
    """Return the names of metrics that the selection needs but `metrics` lacks.

    Args:
        metrics: one or more names separated by commas, as in --metrics.
    """
    names = metrics.split(",")
    number = (re.search(r"\d+k?", names[0]) or ["1k"])[0]
    suffix = "_trainval" if "_trainval" in names[0] else ""
    needed = []
    if (select_by == "kid" and not any(map(_is_kid, names))) or (
            select_by == "labels" and first_distance(names) is None):
        needed.append(f"kid{number}{suffix}")
    if select_by == "pair" and not any(name.endswith("_pair") for name in names):
        needed.append(f"kid{number}{suffix}_pair")
    if select_by == "labels" and not any(name.startswith("labels") for name in names):
        needed.append(f"labels{number}{suffix}")
    return needed


def selects_any(metrics: str, select_by: str) -> bool:
    """Return whether one of the metrics, or of those that `needed_metrics` adds, selects
    snapshots."""
    return select_by != "fid" or first_distance(metrics.split(",")) is not None


def add_labels_score(scores: dict[str, float]) -> dict[str, float]:
    """Return {metric: value} with LABELS_SCORE added if the scores it is made of are there."""
    photos, ratios = first_distance(scores), [
        value for name, value in scores.items() if re.fullmatch(r"labels.*_ratio_all", name)]
    if photos is None or not ratios:
        return scores
    ratio = min(max(ratios[0], _LEAST_RATIO), 1.0)
    return {**scores, LABELS_SCORE: max(scores[photos], _LEAST_DISTANCE) / ratio}


def selecting_score(scores: dict[str, float], select_by: str) -> str | None:
    """Return the name of the score that selects (lower is better); None if there is none.

    In stages without maps, where pairs and labels have no score, the photos' score selects.
    """
    of_maps = {"pair": [name for name in scores if name.endswith("_pair")],
               "labels": [LABELS_SCORE] if LABELS_SCORE in scores else []}.get(select_by)
    if of_maps:
        return of_maps[0]
    if select_by == "kid":
        return next(filter(_is_kid, scores), None)
    return first_distance(scores)


def first_distance(names: list[str] | dict[str, float]) -> str | None:
    """Return the first FID of photos, else the first KID, else None."""
    photos = [name for name in names if not name.endswith(("_pair", "_std"))]
    return next((name for kind in ("fid", "kid") for name in photos if name.startswith(kind)), None)


def _is_kid(name):
    return name.startswith("kid") and not name.endswith(("_pair", "_std"))
