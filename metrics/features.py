"""Turn images into features and their statistics: streaming, in float64, cached by content.

An image has features, which a detector computes from the photo or the whole pair, and measures
(map_quality.py), which are counted on the photo and its map. All are computed in one pass, while
the next images are generated or decoded.
"""

import functools
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dnnlib import util
from dnnlib.data import channels
from dnnlib.download import has_room
from dnnlib.process_pool import map_over_devices, prefetch
from dnnlib.util import UserError
from metrics.map_quality import MEASURES, MapMeasure, PairBatch, pair_batch

MINIBATCH = 16  # images at a time through a detector; more were no faster on two cores
CHUNK = 1024  # features that go through float64 at a time
# Share of an image above which a class counts as present: from 53 pixels on at 512x512, any at
# 64x64. At 64x64 every annotated instance of 699 real photos is above it.
MIN_AREA = 0.0002


class Statistics(NamedTuple):
    """Mean [d] and unbiased covariance [d, d] of features, float64."""

    mean: np.ndarray
    cov: np.ndarray


class FeatureSet:
    """Features and measures of n images: float32 in memory or mapped from a file; None if not
    requested.

    Attributes: features [n, d] of a detector; maps {name of a measure: [n, k]}; min_area: share of
    its image above which a class is present; pairs: the FeatureSet of pictures of photo and map.
    """

    def __init__(self, features: np.ndarray | None = None,
                 maps: dict[str, np.ndarray] | None = None, min_area: float = MIN_AREA,
                 pairs: "FeatureSet | None" = None):
        self.features, self.maps = features, maps or {}
        self.min_area, self.pairs = min_area, pairs

    def __len__(self) -> int:
        if self.features is not None:
            return len(self.features)
        return len(next(iter(self.maps.values()))) if self.maps else len(self.pairs)

    def __getitem__(self, part: slice) -> "FeatureSet":
        """Return the FeatureSet of a slice of the images; itself if that is all."""
        if range(len(self))[part] == range(len(self)):
            return self
        features = None if self.features is None else self.features[part]
        maps = {name: array[part] for name, array in self.maps.items()}
        pairs = None if self.pairs is None else self.pairs[part]
        return FeatureSet(features, maps, self.min_area, pairs)

    @functools.cached_property
    def statistics(self) -> Statistics:
        """Compute the Statistics of the features. Raises UserError for fewer than two.

        CHUNK features at a time are converted to float64, relative to the first one, so that a
        common offset costs no precision.
        """
        n = len(self)
        if n < 2:
            raise UserError(f"the covariance of {n} samples: two are needed")
        origin = np.asarray(self.features[0], np.float64)
        total, products = np.zeros_like(origin), np.zeros((len(origin), len(origin)))
        for start in range(0, n, CHUNK):
            x = np.asarray(self.features[start:start + CHUNK], np.float64) - origin
            total += x.sum(axis=0)
            products += x.T @ x
        offset = total / n
        return Statistics(origin + offset, (products - n * np.outer(offset, offset)) / (n - 1))

    @property
    def areas(self) -> np.ndarray:
        """Return the share of its image that each class covers, [n, C]."""
        return self.maps["areas"]

    @functools.cached_property
    def instances(self) -> np.ndarray:
        """Count the images that show each class: int [C]."""
        return (self.areas > self.min_area).sum(axis=0)


def minibatches(images: Iterable[np.ndarray], detector: Any) -> Iterator[np.ndarray]:
    """Yield float32 [<= detector.minibatch, ...], resized, from batches uint8 [n, H, W, 3].

    Batches may differ in length and image size; the detector still gets full minibatches. Raises
    ValueError for anything but uint8 RGB.
    """
    waiting = []
    for batch in images:
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[-1] != 3:
            raise ValueError(f"images are {batch.dtype} {batch.shape}, not uint8 [n, H, W, 3]")
        for start in range(0, len(batch), detector.minibatch):
            waiting.append(detector.resize(batch[start:start + detector.minibatch]))
            if sum(map(len, waiting)) >= detector.minibatch:
                resized = np.concatenate(waiting)
                yield resized[:detector.minibatch]
                waiting = [resized[detector.minibatch:]]
    rest = np.concatenate(waiting) if waiting else ()
    if len(rest):
        yield rest


# {name: function (PairBatch, C) -> uint8 [n, H, W', 3]}: the pictures that a detector may see.
VIEWS: dict[str, Callable] = {
    "photo": lambda pairs, num_classes: pairs.rgb,
    "pair": lambda pairs, num_classes: np.concatenate(
        [pairs.rgb, channels.colourise(pairs.label_maps, num_classes)], axis=2)}


def fill(features: dict[str, np.ndarray], maps: dict[str, np.ndarray], num_classes: int,
         batches: Iterable[tuple[np.ndarray | None, ...]], detector: Any, desc: str,
         known: dict[str, MapMeasure] = MEASURES) -> None:
    """Write the features of n images into `features` {view: [n, d]} and their measures into `maps`
    {measure: [n, k]}; show a progress bar.

    batches: (rgb uint8 [m, H, W, 3]; label maps uint8 [m, H, W], signed maps [m, H, W, C], or None;
    and, for photos drawn from maps or poses, the real photos, as rgb). A thread reads, resizes and
    measures them ahead of the detector. Raises UserError for fewer than n images.
    """
    total = len(next(iter({**features, **maps}.values())))

    def read() -> Iterator[PairBatch]:
        done = 0
        for batch in batches:
            pairs = pair_batch(*(None if part is None else part[:total - done] for part in batch))
            for name, array in maps.items():
                array[done:done + len(pairs.rgb)] = known[name].count(pairs, num_classes)
            done += len(pairs.rgb)
            yield pairs
            if done == total:
                return
        raise UserError(f"{desc}: {done} images where {total} were announced")

    with util.progress(total=total, desc=desc, unit="img") as bar:
        if not features:  # only measures are needed
            for pairs in prefetch(read()):
                bar.update(len(pairs.rgb))
            return
        pictures = (picture for pairs in read() for picture in _views(pairs, features, num_classes))
        parts = map_over_devices(detector.replicas, prefetch(minibatches(pictures, detector)))
        written = 0
        for part in parts:
            # The views of an image follow each other.
            images, views = np.divmod(written + np.arange(len(part)), len(features))
            for k, array in enumerate(features.values()):
                array[images[views == k]] = part[views == k]
            written += len(part)
            bar.update(int((views == 0).sum()))


def _views(pairs: PairBatch, names: Iterable[str], num_classes: int) -> Iterator[np.ndarray]:
    """Yield uint8 [m, H, W', 3]: the named views of each pair, one after another."""
    views = [VIEWS[name](pairs, num_classes) for name in names]
    if len(views) == 1:
        yield views[0]
    else:
        yield from (view[i:i + 1] for i in range(len(pairs.rgb)) for view in views)


def fake_features(generate: Callable[[int], Iterable], count: int, detector: Any = None,
                  measures: Sequence[str] = (), num_classes: int = 0, min_area: float = MIN_AREA,
                  views: Sequence[str] = ("photo",),
                  known: dict[str, MapMeasure] = MEASURES) -> FeatureSet:
    """Return the FeatureSet of the first `count` images of `generate(count)`: their measures and,
    with a detector, the features of their `views` (8 KB of memory each)."""
    features = {view: np.empty((count, detector.num_features), np.float32)
                for view in (views if detector else ())}
    maps = {name: np.empty((count, known[name].columns(num_classes)), np.float32)
            for name in measures}
    fill(features, maps, num_classes, generate(count), detector, "fakes", known)
    return feature_set(features, maps, min_area)


def feature_set(features: dict[str, np.ndarray], maps: dict[str, np.ndarray],
                min_area: float) -> FeatureSet:
    """Return the FeatureSet of features {view: [n, d]} and measures."""
    pairs = FeatureSet(features["pair"]) if "pair" in features else None
    return FeatureSet(features.get("photo"), maps, min_area, pairs)


def source_features(source: Any, detector: Any, cache_dir: Path | None = None,
                    report: Callable[[str], None] = print, view: str = "photo") -> np.ndarray:
    """Return the features float32 [n, d] of all images of an ImageSource. With `cache_dir` they are
    cached by a digest of images, detector and resizing; the file is mapped into memory, not read.
    """
    of_pairs = view == "pair"
    desc = f"{source.name} pairs" if of_pairs else source.name

    def measure(features: np.ndarray) -> None:
        fill({view: features}, {}, len(source.classes), source.batches(maps=of_pairs), detector,
             desc)
    key = f"{source.digest} {detector.digest} {detector.resize_rule}"
    shape = (source.count, detector.num_features)
    return _cached(measure, "pairs" if of_pairs else "features", key, shape, cache_dir, report)


def source_maps(source: Any, name: str, cache_dir: Path | None = None,
                report: Callable[[str], None] = print,
                known: dict[str, MapMeasure] = MEASURES) -> np.ndarray:
    """Return float32 [n, k], the measure `name` of an ImageSource, cached like features."""
    measure, num_classes = known[name], len(source.classes)

    def count(array: np.ndarray) -> None:
        batches = source.batches(maps=True, signed=measure.signed)
        fill({}, {name: array}, num_classes, batches, None, f"{source.name} {name}", known)
    key = f"{source.digest} {num_classes}{measure.digest and ' '}{measure.digest}"
    shape = (source.count, measure.columns(num_classes))
    return _cached(count, name, key, shape, cache_dir, report)


def _cached(measure, kind, key, shape, cache_dir, report):
    """Return the array float32 `shape` that measure(array) writes, from the cache if possible."""
    path = cache_dir and cache_dir / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
    cached = path and _open_features(path, shape, report)
    if cached is not None:
        return cached
    # A .npy file has 128 bytes before its array.
    if path is None or not has_room(cache_dir, 128 + 4 * math.prod(shape), report):
        array = np.empty(shape, np.float32)
        measure(array)
        return array
    with util.atomic_path(path) as temporary:
        array = np.lib.format.open_memmap(temporary, "w+", np.float32, shape)
        measure(array)
        array.flush()
    return _open_features(path, shape, report)


def _open_features(path, shape, report):
    """Return a cached file's array; None if it is missing, or damaged, which is reported."""
    try:
        features = np.load(path, mmap_mode="r", allow_pickle=False)
        if features.shape != shape or features.dtype != np.float32:
            raise ValueError(f"{features.dtype} {features.shape}, not {shape}")
        return features
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    except (OSError, ValueError, EOFError) as error:
        report(f"warning: {path} is damaged ({util.one_line(error)}); making it again")
        return None
