"""Measure how whole, complete and decided label maps are, and if they follow the photo.

MEASURES lists what is counted for every single pair, real or generated. To measure something new,
add a MapMeasure here and name it in the metric that uses it (metric_base.py): both sides, the cache
and --floor then work. Measures that need a network of their own are made where it is loaded
(label_agreement.py, person.py), and are added to the same table for an evaluation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dnnlib.data import channels
from dnnlib.data.class_counts import class_areas, proportions, total_variation

SPECK = 2  # most pixels of a speck
MARGIN = 0.25  # pixels with a smaller margin are unsure; in real maps it is twice as large


@dataclass(frozen=True)
class PairBatch:
    """The input of measures: some photos and their maps.

    Attributes: rgb uint8 [n, H, W, 3]; label_maps uint8 [n, H, W] of 0..C, or None; segmaps, the
    signed real-valued maps [n, h, w, C] behind the labels, or None if only labels are known, as
    for a folder; originals, the real photos uint8 [n, H, W, 3] if these photos were drawn from
    maps, else None.
    """

    rgb: np.ndarray
    label_maps: np.ndarray | None
    segmaps: np.ndarray | None = None
    originals: np.ndarray | None = None


def pair_batch(rgb: np.ndarray, maps: np.ndarray | None,
               originals: np.ndarray | None = None) -> PairBatch:
    """Return the PairBatch of what a stream of images yields: maps are label maps [n, H, W] or
    signed real-valued ones [n, H, W, C]."""
    if maps is None or maps.ndim == 3:
        return PairBatch(rgb, maps, originals=originals)
    return PairBatch(rgb, channels.to_label_map(maps), maps, originals)


@dataclass(frozen=True)
class MapMeasure:
    """Something that is counted for each pair.

    Attributes:
        count: function (PairBatch of n, C) -> [n, k] of finite numbers; NaN where it has none.
        columns: function C -> k.
        signed: whether it takes the real-valued maps.
        digest: digest of the network that it uses, for the cache; '' without one.
        about: what a result records about that network.
    """

    count: Callable
    columns: Callable
    signed: bool = False
    digest: str = ""
    about: dict = field(default_factory=dict)


def count_regions(label_maps: np.ndarray, num_classes: int) -> np.ndarray:
    """Return how many regions each map has, and how many of them are specks: float32 [N, 2].

    A region is a set of pixels of one class that are connected by their sides; the background has
    no regions. A speck is a region of one or two pixels. label_maps: uint8 [N, H, W] of 0..C.
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


def count_doubts(pairs: PairBatch) -> np.ndarray:
    """Return the shares of pixels that several classes claim, and of pixels that are unsure:
    float32 [n, 2]; NaN without real-valued maps.

    A class claims a pixel where its map is above 0. A pixel is unsure where its margin
    (channels.margins) is below MARGIN: one map is about to appear or vanish there, or two classes
    are about to change places.
    """
    doubts = np.full((len(pairs.rgb), 2), np.nan, np.float32)
    for doubt, segmaps in zip(doubts, () if pairs.segmaps is None else pairs.segmaps):
        values = np.asarray(segmaps, np.float32)
        doubt[:] = (((values > 0).sum(axis=-1) > 1).mean(),
                    (channels.margins(values) < MARGIN).mean())
    return doubts


def count_steps(pairs: PairBatch) -> np.ndarray:
    """Return the sum and the number of the photo's steps across borders of the map, then the sum
    and the number of all other steps: float32 [n, 4].

    A step is the mean absolute difference of colours between two neighbouring pixels, side by side
    or one above the other. It crosses a border if their labels differ.
    """
    rgb, labels = pairs.rgb.astype(np.int16), pairs.label_maps
    counts = np.zeros((len(rgb), 4))
    for axis in (1, 2):
        steps = np.abs(np.diff(rgb, axis=axis)).mean(axis=-1)
        crossing = np.diff(labels.astype(np.int16), axis=axis) != 0
        for k, chosen in enumerate((crossing, ~crossing)):
            counts[:, 2 * k] += (steps * chosen).sum(axis=(1, 2))
            counts[:, 2 * k + 1] += chosen.sum(axis=(1, 2))
    return np.float32(counts)


MEASURES: dict[str, MapMeasure] = {
    "areas": MapMeasure(lambda pairs, num_classes: class_areas(pairs.label_maps, num_classes),
                        lambda num_classes: num_classes),
    "regions": MapMeasure(lambda pairs, num_classes: count_regions(pairs.label_maps, num_classes),
                          lambda num_classes: 2),
    "doubts": MapMeasure(lambda pairs, num_classes: count_doubts(pairs), lambda num_classes: 2,
                         signed=True),
    "steps": MapMeasure(lambda pairs, num_classes: count_steps(pairs), lambda num_classes: 4)}


def map_quality(fakes: Any, reals: Any) -> dict[str, float]:
    """Return {suffix: value} of mapsNk; suffixes that end in _real are for the reals.

    The headline is the fakes' share of specks, not its ratio to the reals': it is defined even if
    the reals have no speck, and --floor gives the share in as many real maps. fakes, reals:
    FeatureSets with the measures of mapsNk.
    """
    of_fakes = {**_qualities(fakes), "_classes": drawn_enough(fakes, reals).sum()}
    of_reals = {**_qualities(reals), "_classes": (reals.instances > 0).sum()}
    values = {**of_fakes, **{f"{suffix}_real": value for suffix, value in of_reals.items()},
              "_tv": total_variation(fakes.instances, reals.instances),
              "_areas_tv": total_variation(*(images.areas.mean(axis=0, dtype=np.float64)
                                             for images in (fakes, reals)))}
    return {suffix: float(value) for suffix, value in values.items()}


def _qualities(images):
    """Return {suffix: value} of one side, without values that are not known."""
    regions, specks = _total(images, "regions")
    covered = images.areas.sum(dtype=np.float64)
    claimed, unsure = _total(images, "doubts")
    at_border, num_border, elsewhere, num_elsewhere = _total(images, "steps")
    values = {"": specks / max(regions, 1), "_regions": regions / len(images),
              "_fragments": regions / max((images.areas > 0).sum(), 1),
              "_covered": covered / len(images),
              "_edges": (at_border / max(num_border, 1)
                         / (elsewhere / max(num_elsewhere, 1) or np.inf))}
    if not np.isnan(claimed):
        values |= {"_claimed": claimed / (covered or np.inf), "_unsure": unsure / len(images)}
    if "outside" in images.maps:
        outside, garments = _total(images, "outside")
        values["_outside"] = outside / max(garments, 1)
    return values


def _total(images, name):
    """Return the sum of a measure over the images, float64 [k]."""
    return images.maps[name].sum(axis=0, dtype=np.float64)


def drawn_enough(fakes: Any, reals: Any) -> np.ndarray:
    """Return which of the reals' classes the fakes show at least half as often: bool [C]."""
    real, fake = reals.instances, fakes.instances
    return (real > 0) & (2 * fake * len(reals) >= real * len(fakes))


def class_table(classes: Sequence[str], reals: Any, fakes: Any) -> list[dict]:
    """Return a row per class, the most frequent in the reals first: name; instances; their
    proportions, as in the thesis behind Style-C-GAN (Korneliusson 2019), figure 5.3; frequency, the
    share of images that show the class; and its mean share of those images' area.

    reals, fakes: FeatureSet with areas.
    """
    real, fake = reals.instances, fakes.instances
    shares = proportions(real), proportions(fake)
    areas = _mean_areas(reals), _mean_areas(fakes)
    return [{"name": classes[i],
             "real_instances": int(real[i]), "fake_instances": int(fake[i]),
             "real_proportion": float(shares[0][i]), "fake_proportion": float(shares[1][i]),
             "real_frequency": float(real[i] / len(reals)),
             "fake_frequency": float(fake[i] / len(fakes)),
             "real_area": float(areas[0][i]), "fake_area": float(areas[1][i])}
            for i in np.argsort(-real, kind="stable")]


def _mean_areas(images):
    """Return the mean share that each class covers in the images that show it, float64 [C]."""
    shown = images.areas > images.min_area
    return (images.areas * shown).sum(axis=0, dtype=np.float64) / np.maximum(images.instances, 1)
