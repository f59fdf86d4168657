"""Images to features, and the statistics of features: streaming, in float64, cached by content."""

import functools
import hashlib

import numpy as np

from dnnlib import util
from dnnlib.util import UserError

MINIBATCH = 16  # images at a time through a detector; more were no faster on two cores

CHUNK = 1024  # features that go through float64 at a time


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
    """Features [n, d] of images, float32 in memory or mapped from a file; their statistics."""

    def __init__(self, features):
        self.features = features

    def __len__(self):
        return len(self.features)

    @functools.cached_property
    def statistics(self):
        """Statistics of all features, made on first use."""
        statistics = Statistics()
        for start in range(0, len(self.features), CHUNK):
            statistics.append(self.features[start:start + CHUNK])
        return statistics


def extract(batches, detector):
    """Yield float32 [<= detector.minibatch, d] features of an iterator over uint8 [n, H, W, 3].

    Batches may differ in length and size of images; the detector sees full minibatches all the
    same. Raises ValueError for anything but uint8 RGB.
    """
    waiting = []
    for images in batches:
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"images are {images.dtype} {images.shape}, not uint8 [n, H, W, 3]")
        for start in range(0, len(images), detector.minibatch):
            waiting.append(detector.resize(images[start:start + detector.minibatch]))
            if sum(map(len, waiting)) >= detector.minibatch:
                resized = np.concatenate(waiting)
                yield detector.features(resized[:detector.minibatch])
                waiting = [resized[detector.minibatch:]]
    rest = np.concatenate(waiting) if waiting else ()
    if len(rest):
        yield detector.features(rest)


def fill(features, batches, detector, desc):
    """Write the features of images from `batches` into `features` [n, d], with a progress bar.

    Stops when `features` is full. Raises UserError where there are fewer than n images.
    """
    done = 0
    with util.progress(total=len(features), desc=desc, unit="img") as bar:
        for part in extract(batches, detector):
            part = part[:len(features) - done]
            features[done:done + len(part)] = part
            done += len(part)
            bar.update(len(part))
            if done == len(features):
                return
    raise UserError(f"{desc}: {done} images where {len(features)} were announced")


def fake_features(generate, count, detector):
    """FeatureSet of the first `count` images of `generate(count)`: 8 KB of memory each."""
    features = np.empty((count, detector.num_features), np.float32)
    fill(features, generate(count), detector, "fakes")
    return FeatureSet(features)


def source_features(source, detector, cache_dir=None, say=print):
    """FeatureSet of all images of an ImageSource; with `cache_dir` kept there, by content.

    The file's name is a digest of the images and the detector; a damaged one is made again. It is
    mapped into memory, not read.
    """
    shape = (source.count, detector.num_features)
    if cache_dir is None:
        features = np.empty(shape, np.float32)
        fill(features, source.batches(), detector, source.name)
        return FeatureSet(features)
    key = hashlib.sha256(f"{source.digest} {detector.digest}".encode()).hexdigest()
    path = cache_dir / f"features-{key[:32]}.npy"
    cached = _open_features(path, shape, say)
    if cached is None:
        with util.atomic_path(path) as temporary:
            features = np.lib.format.open_memmap(temporary, "w+", np.float32, shape)
            fill(features, source.batches(), detector, source.name)
            features.flush()
        cached = _open_features(path, shape, say)
    return FeatureSet(cached)


def _open_features(path, shape, say):
    """The features in a file of the cache; None where it is missing or, with a line, damaged."""
    if not path.exists():
        return None
    try:
        features = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        say(f"warning: {path} is damaged ({util.one_line(error)}); making it again")
        return None
    if features.shape != shape or features.dtype != np.float32:
        say(f"warning: {path} holds {features.dtype} {features.shape}, not {shape}: making it "
            "again")
        return None
    return features
