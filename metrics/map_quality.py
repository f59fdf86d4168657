"""How whole and how complete label maps are: regions, specks, covered pixels, classes drawn.

MEASURES is what is counted of every single map, from its labels alone and therefore alike for real
and generated ones. To measure something new, enter a function here and name it in the metric that
uses it (metric_base.py): both sides, the cache and --floor follow.
"""

from collections.abc import Callable

import numpy as np

from dnnlib.data.class_counts import class_areas, total_variation

SPECK = 2  # pixels of a region up to which it is a speck


def count_regions(label_maps: np.ndarray, num_classes: int) -> np.ndarray:
    """Return how many regions a map has, and how many of them are specks: float32 [N, 2].

    A region is a set of pixels of one class that are connected by their sides; background has none.
    A speck is a region of one or two pixels. label_maps: uint8 [N, H, W] of 0..C.
    """
    # Imported here so that --help and wrong options answer at once.
    from scipy import ndimage

    counts = np.zeros((len(label_maps), 2), np.float32)
    for count, label_map in zip(counts, np.asarray(label_maps)):
        for label in np.unique(label_map[label_map > 0]):
            numbered, _ = ndimage.label(label_map == label)
            sizes = np.bincount(numbered.ravel())[1:]
            count += len(sizes), (sizes <= SPECK).sum()
    return counts


# {name: (function (label maps uint8 [N, H, W], C) -> float32 [N, k], function C -> k)}
MEASURES: dict[str, tuple[Callable, Callable]] = {
    "areas": (class_areas, lambda num_classes: num_classes),
    "regions": (count_regions, lambda num_classes: 2)}


def map_quality(fakes, reals) -> dict[str, float]:
    """Return {suffix: value} of mapsNk; those that end in _real are the same of the reals.

    The headline is the fakes' share of specks and no ratio to the reals': it exists for reals
    without a speck as well, and --floor gives what real maps of this number have. fakes, reals:
    FeatureSets with areas and regions.
    """
    def count(images):
        regions, specks = images.maps["regions"].sum(axis=0, dtype=np.float64)
        return {"": specks / max(regions, 1), "_regions": regions / len(images),
                "_covered": images.areas.sum(dtype=np.float64) / len(images)}
    of_fakes = {**count(fakes), "_classes": drawn_enough(fakes, reals).sum()}
    of_reals = {**count(reals), "_classes": (reals.instances > 0).sum()}
    values = {**of_fakes, **{f"{suffix}_real": value for suffix, value in of_reals.items()},
              "_tv": total_variation(fakes.instances, reals.instances)}
    return {suffix: float(value) for suffix, value in values.items()}


def drawn_enough(fakes, reals) -> np.ndarray:
    """Return which of the reals' classes fakes show at half their frequency or more: bool [C]."""
    real, fake = reals.instances, fakes.instances
    return (real > 0) & (2 * fake * len(reals) >= real * len(fakes))
