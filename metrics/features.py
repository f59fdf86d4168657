"""Images to features, and the statistics of features: streaming, in float64, cached by content.

Two things are known of an image: its features, which a detector gives, and the areas of the classes
in its label map. Both are taken in one pass, while the next images are generated or decoded.
"""

import functools
import hashlib
import math

import numpy as np

from dnnlib import util
from dnnlib.data.class_counts import class_areas
from dnnlib.download import has_room
from dnnlib.util import UserError
from metrics.prefetch import ahead, round_robin

MINIBATCH = 16  # images at a time through a detector; more were no faster on two cores

CHUNK = 1024  # features that go through float64 at a time

_NPY_HEADER = 128  # bytes of a .npy file before its array

# Share of an image above which a class counts as present: 52 pixels at 512x512, any at 64x64. At
# 64x64 every annotated instance of 699 real photos is above it.
MIN_AREA = 0.0002


class Statistics:
    """Streaming mean and unbiased covariance of features, in float64.

    Features are taken relative to the first one, so that a common offset costs no precision.
    """

    def __init__(self):
        self.count = 0
        self._origin = self._sum = self._products = None

    def append(self, features):
        """Add features [n, d] of any float type."""
        x = np.asarray(features, np.float64)
        if self._origin is None:
            self._origin = x[0].copy()
            self._sum = np.zeros_like(self._origin)
            self._products = np.zeros((x.shape[1], x.shape[1]))
        x = x - self._origin
        self.count += len(x)
        self._sum += x.sum(axis=0)
        self._products += x.T @ x

    @property
    def mean(self):
        """[d] float64."""
        return self._origin + self._sum / self.count

    @property
    def cov(self):
        """[d, d] float64, divided by count - 1. Raises UserError for fewer than two samples."""
        if self.count < 2:
            raise UserError(f"the covariance of {self.count} samples: two are needed")
        offset = self._sum / self.count
        return (self._products - self.count * np.outer(offset, offset)) / (self.count - 1)


class FeatureSet:
    """What is known of n images, float32 in memory or mapped from a file; None where not asked for.

    Attributes: features [n, d] of a detector; areas [n, C]: the share of its image that each class
    covers; min_area: above it a class is present.
    """

    def __init__(self, features=None, areas=None, min_area=MIN_AREA):
        self.features, self.areas, self.min_area = features, areas, min_area

    def __len__(self):
        return len(self.areas if self.features is None else self.features)

    def __getitem__(self, part):
        """The FeatureSet of a slice of the images; itself where that is all."""
        if range(len(self))[part] == range(len(self)):
            return self
        pick = [None if array is None else array[part] for array in (self.features, self.areas)]
        return FeatureSet(*pick, self.min_area)

    @functools.cached_property
    def statistics(self):
        """Statistics of all features, made on first use."""
        statistics = Statistics()
        for start in range(0, len(self.features), CHUNK):
            statistics.append(self.features[start:start + CHUNK])
        return statistics

    @functools.cached_property
    def instances(self):
        """How many images show each class: int [C]."""
        return (self.areas > self.min_area).sum(axis=0)


def minibatches(images, detector):
    """Yield float32 [<= detector.minibatch, ...], resized, of an iterator over uint8 [n, H, W, 3].

    Batches may differ in length and size of images; the detector sees full minibatches all the
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


def fill(features, areas, batches, detector, desc):
    """Write what images have into `features` [n, d] and `areas` [n, C]; either may be None.

    batches: iterator over (rgb uint8 [m, H, W, 3], label maps uint8 [m, H, W] or None), which a
    thread reads, resizes and counts ahead of the detector; no more than n images are read. Shows a
    progress bar. Raises UserError where there are fewer images.
    """
    total = len(areas if features is None else features)

    def read():
        done = 0
        for rgb, label_maps in batches:
            rgb = rgb[:total - done]
            if areas is not None:
                maps = label_maps[:len(rgb)]
                areas[done:done + len(rgb)] = class_areas(maps, areas.shape[1])
            done += len(rgb)
            yield rgb
            if done == total:
                return
        raise UserError(f"{desc}: {done} images where {total} were announced")

    with util.progress(total=total, desc=desc, unit="img") as bar:
        if features is None:
            for rgb in ahead(read()):
                bar.update(len(rgb))
            return
        done = 0
        for part in round_robin(detector.replicas, ahead(minibatches(read(), detector))):
            features[done:done + len(part)] = part
            done += len(part)
            bar.update(len(part))


def fake_features(generate, count, detector=None, num_classes=0, min_area=MIN_AREA):
    """FeatureSet of the first `count` images of `generate(count)`.

    With a detector their features (8 KB of memory each), with num_classes the areas of the classes.
    """
    features = np.empty((count, detector.num_features), np.float32) if detector else None
    areas = np.empty((count, num_classes), np.float32) if num_classes else None
    fill(features, areas, generate(count), detector, "fakes")
    return FeatureSet(features, areas, min_area)


def source_features(source, detector, cache_dir=None, say=print):
    """float32 [n, d] of all images of an ImageSource; with `cache_dir` kept there, by content.

    The file is named by a digest of images, detector and resizing; a damaged one is made
    again. It is mapped into memory, not read.
    """
    def measure(features):
        fill(features, None, source.batches(), detector, source.name)
    key = f"{source.digest} {detector.digest} {detector.resize_rule}"
    shape = (source.count, detector.num_features)
    return _kept(measure, "features", key, shape, cache_dir, say)


def source_areas(source, cache_dir=None, say=print):
    """The areas of the classes in all label maps of an ImageSource: float32 [n, C]; kept alike."""
    def measure(areas):
        fill(None, areas, source.batches(maps=True), None, f"{source.name} maps")
    shape = (source.count, len(source.classes))
    return _kept(measure, "areas", f"{source.digest} {len(source.classes)}", shape, cache_dir, say)


def _kept(measure, kind, key, shape, cache_dir, say):
    """The array float32 `shape` that measure(array) writes, from the cache where it is there."""
    path = cache_dir and cache_dir / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
    cached = path and _open_features(path, shape, say)
    if cached is not None:
        return cached
    if path is None or not has_room(cache_dir, _NPY_HEADER + 4 * math.prod(shape), say):
        array = np.empty(shape, np.float32)
        measure(array)
        return array
    with util.atomic_path(path) as temporary:
        array = np.lib.format.open_memmap(temporary, "w+", np.float32, shape)
        measure(array)
        array.flush()
    return _open_features(path, shape, say)


def _open_features(path, shape, say):
    """The features in a file of the cache; None where it is missing or, with a line, damaged."""
    try:
        features = np.load(path, mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    except (OSError, ValueError, EOFError) as error:
        say(f"warning: {path} is damaged ({util.one_line(error)}); making it again")
        return None
    if features.shape != shape or features.dtype != np.float32:
        say(f"warning: {path} holds {features.dtype} {features.shape}, not {shape}: making it "
            "again")
        return None
    return features
