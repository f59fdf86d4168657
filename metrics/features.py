"""Images to features, and the statistics of features: streaming, in float64, cached by content.

Two things are known of an image: its features, which a detector gives, and what MEASURES (in
map_quality.py) count in its label map. Both are taken in one pass, while the next images are
generated or decoded.
"""

import functools
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dnnlib import util
from dnnlib.download import has_room
from dnnlib.prefetch import map_over_devices, prefetch
from dnnlib.util import UserError
from metrics.map_quality import MEASURES

MINIBATCH = 16  # images at a time through a detector; more were no faster on two cores
CHUNK = 1024  # features that go through float64 at a time
_NPY_HEADER = 128  # bytes of a .npy file before its array
# Share of an image above which a class counts as present: 52 pixels at 512x512, any at 64x64. At
# 64x64 every annotated instance of 699 real photos is above it.
MIN_AREA = 0.0002


class Statistics(NamedTuple):
    """Mean [d] and unbiased covariance [d, d] of features, float64."""

    mean: np.ndarray
    cov: np.ndarray


class FeatureSet:
    """What is known of n images: float32 in memory or mapped from a file, None if not asked for.

    Attributes: features [n, d] of a detector; maps {name of a measure: [n, k]} of label maps;
    min_area: share of its image above which a class is present.
    """

    def __init__(self, features=None, maps=None, min_area=MIN_AREA):
        self.features, self.maps, self.min_area = features, maps or {}, min_area

    def __len__(self):
        return _length(self.features, self.maps)

    def __getitem__(self, part):
        """Return the FeatureSet of a slice of the images; itself if that is all."""
        if range(len(self))[part] == range(len(self)):
            return self
        features = None if self.features is None else self.features[part]
        maps = {name: array[part] for name, array in self.maps.items()}
        return FeatureSet(features, maps, self.min_area)

    @functools.cached_property
    def statistics(self) -> Statistics:
        """Compute the Statistics of the features. Raises UserError for fewer than two.

        CHUNK at a time become float64, relative to the first one, so that a common offset costs no
        precision.
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
    """Yield float32 [<= detector.minibatch, ...], resized, of batches uint8 [n, H, W, 3].

    Batches may differ in length and size of images; the detector gets full minibatches all the
    same. Raises ValueError for anything but uint8 RGB.
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


def _length(features, maps):
    """Return the number of images of features, or else of maps {name: array}."""
    return len(next(iter(maps.values())) if features is None else features)


def fill(features: np.ndarray | None, maps: dict[str, np.ndarray], num_classes: int,
         batches: Iterable[tuple[np.ndarray, np.ndarray | None]], detector: Any, desc: str) -> None:
    """Write what images have into `features` [n, d] and `maps` {measure: [n, k]}; show a progress
    bar.

    batches: (rgb uint8 [m, H, W, 3], label maps uint8 [m, H, W] or None), which a thread reads,
    resizes and counts ahead of the detector; n images are read. Raises UserError for fewer.
    """
    total = _length(features, maps)

    def read():
        done = 0
        for rgb, label_maps in batches:
            rgb = rgb[:total - done]
            for name, array in maps.items():
                count, _ = MEASURES[name]
                array[done:done + len(rgb)] = count(label_maps[:len(rgb)], num_classes)
            done += len(rgb)
            yield rgb
            if done == total:
                return
        raise UserError(f"{desc}: {done} images where {total} were announced")

    with util.progress(total=total, desc=desc, unit="img") as bar:
        if features is None:
            for rgb in prefetch(read()):
                bar.update(len(rgb))
            return
        written = 0
        for part in map_over_devices(detector.replicas, prefetch(minibatches(read(), detector))):
            features[written:written + len(part)] = part
            written += len(part)
            bar.update(len(part))


def fake_features(generate: Callable[[int], Iterable], count: int, detector: Any = None,
                  measures: Sequence[str] = (), num_classes: int = 0,
                  min_area: float = MIN_AREA) -> FeatureSet:
    """Return the FeatureSet of the first `count` images of `generate(count)`: with a detector their
    features (8 KB of memory each), and the measures of their label maps."""
    features = np.empty((count, detector.num_features), np.float32) if detector else None
    maps = {name: np.empty((count, MEASURES[name][1](num_classes)), np.float32)
            for name in measures}
    fill(features, maps, num_classes, generate(count), detector, "fakes")
    return FeatureSet(features, maps, min_area)


def source_features(source: Any, detector: Any, cache_dir: Path | None = None,
                    report: Callable[[str], None] = print) -> np.ndarray:
    """Return float32 [n, d] of all images of an ImageSource; with `cache_dir` cached by content:
    by a digest of images, detector and resizing. The file is mapped into memory, not read."""
    def measure(features):
        fill(features, {}, 0, source.batches(), detector, source.name)
    key = f"{source.digest} {detector.digest} {detector.resize_rule}"
    shape = (source.count, detector.num_features)
    return _cached(measure, "features", key, shape, cache_dir, report)


def source_maps(source: Any, name: str, cache_dir: Path | None = None,
                report: Callable[[str], None] = print) -> np.ndarray:
    """Return float32 [n, k], the measure `name` of an ImageSource's label maps; cached likewise."""
    num_classes = len(source.classes)

    def measure(array):
        batches = source.batches(maps=True)
        fill(None, {name: array}, num_classes, batches, None, f"{source.name} maps")
    shape = (source.count, MEASURES[name][1](num_classes))
    return _cached(measure, name, f"{source.digest} {num_classes}", shape, cache_dir, report)


def _cached(measure, kind, key, shape, cache_dir, report):
    """Return the array float32 `shape` that measure(array) writes, from the cache if possible."""
    path = cache_dir and cache_dir / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
    cached = path and _open_features(path, shape, report)
    if cached is not None:
        return cached
    if path is None or not has_room(cache_dir, _NPY_HEADER + 4 * math.prod(shape), report):
        array = np.empty(shape, np.float32)
        measure(array)
        return array
    with util.atomic_path(path) as temporary:
        array = np.lib.format.open_memmap(temporary, "w+", np.float32, shape)
        measure(array)
        array.flush()
    return _open_features(path, shape, report)


def _open_features(path, shape, report):
    """Return a cached file's array; None if it is missing or, with a line, damaged."""
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
