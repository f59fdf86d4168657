"""Supply metrics with photos that a network draws from maps, or of people in other poses, beside
the real photos."""

import collections
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from dnnlib.data import channels, dataset, pictures
from dnnlib.util import UserError
from metrics.image_sources import ImageSource, PeopleSource, most_common_sizes
from metrics.map_quality import MapMeasure, PairBatch
from training.pose.people import PosePairs


def l1_measure() -> MapMeasure:
    """Return the measure of the mean absolute difference of colours from 0 to 1."""
    def count(pairs: PairBatch, num_classes: int) -> np.ndarray:
        difference = np.abs(pairs.rgb.astype(np.float32) - pairs.originals)
        return difference.mean(axis=(1, 2, 3))[:, None] / 255

    return MapMeasure(count, lambda num_classes: 1)


def lpips_measure(distance: Callable) -> MapMeasure:
    """Return the LPIPS measure: how different a photo and the real one look."""
    def count(pairs: PairBatch, num_classes: int) -> np.ndarray:
        return np.asarray(distance(*(images.astype(np.float32)
                                     for images in (pairs.rgb, pairs.originals))))[:, None]

    return MapMeasure(count, lambda num_classes: 1, digest=distance.digest, about={
        "distance": distance.name, "distance_hash": distance.digest})


def check_maps(source: ImageSource, classes: tuple, resolution: int, whose: str) -> None:
    """Raise UserError if a translator with these classes and this size cannot take a source's maps.
    """
    if tuple(source.classes) != tuple(classes):
        raise UserError(f"{whose} draws photos from maps of the classes {', '.join(classes)}; "
                        f"those of {source.name} have {', '.join(source.classes) or 'none'}")
    if source.sizes.keys() != {(resolution, resolution)}:
        raise UserError(f"{whose} takes maps of {resolution}x{resolution}; those of {source.name} "
                        f"are {most_common_sizes(collections.Counter(source.sizes), 2)}")


def translated_stream(source: ImageSource, translate: Callable, minibatch: int) -> Callable:
    """Return GeneratedImages.generate for a translator: a function (count) -> iterator over (rgb
    uint8 [n, R, R, 3], label maps uint8 [n, R, R], the maps' real photos uint8).

    Args:
        source: the maps to draw photos from, in their order, as they are stored.
        translate: segmaps uint8 [n, R, R, C] -> photos float32 [n, R, R, 3] in [-1, 1].
        minibatch: the largest n.
    """
    def generate(count: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        # A folder yields single pairs, a data set dozens at a time.
        pairs = (pair for batch in source.batches(maps=True, signed=True) for pair in zip(*batch))
        while group := list(itertools.islice(pairs, minibatch)):
            originals, maps = map(np.stack, zip(*group))
            segmaps = to_stored_maps(maps, len(source.classes))
            label_maps = channels.to_label_map(segmaps, channels.STORED_THRESHOLD)
            yield pictures.to_uint8_metrics(translate(segmaps)), label_maps, originals

    return generate


def to_stored_maps(maps: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the maps that a source yields, label maps uint8 [n, H, W] or signed maps float32
    [n, H, W, C], as uint8 [n, H, W, C]."""
    if maps.ndim == 3:
        return np.uint8(255) * (maps[..., None] == np.arange(1, num_classes + 1))
    return np.rint((maps + 0.5) * 255).astype(np.uint8)


def open_people(directory: str | Path, split: str, resolution: int, keypoints: tuple[str, ...],
                whose: str) -> PeopleSource:
    """Open the pairs of a data set's split, or of the folder of one of its splits. Raises UserError
    if there are none, or a network of these keypoints and this size cannot take them."""
    info, part = dataset.open_part(directory) or (dataset.open_dataset(directory), None)
    split = part or split
    if not info.pairs.get(split):
        filled = ", ".join(name for name, count in info.pairs.items() if count) or "none"
        raise UserError(f"data set {info.path} has no pairs of photos of one person in split "
                        f"{split!r}; splits that have some: {filled}")
    if info.keypoints != tuple(keypoints):
        raise UserError(f"{whose} takes keypoints {', '.join(keypoints)}; {info.path} has "
                        f"{', '.join(info.keypoints)}")
    pairs = PosePairs(info, split, resolution)
    return PeopleSource(
        count=len(pairs), read=pairs.read,
        about={"path": str(info.path), "name": info.name, "split": split, "resolution": resolution,
               "digest": info.digest},
        sizes=collections.Counter({(resolution, resolution): len(pairs)}))


def posed_stream(source: PeopleSource, draw: Callable, minibatch: int) -> Callable:
    """Return GeneratedImages.generate for a network that draws people in other poses: a function
    (count) -> iterator over (rgb uint8 [n, R, R, 3], None, the targets uint8), for the pairs in
    their order.

    draw: photos, their keypoints, and the poses' keypoints -> photos float32 [n, R, R, 3].
    """
    def generate(count: int) -> Iterator[tuple[np.ndarray, None, np.ndarray]]:
        for start in range(0, count, minibatch):
            pairs = source.read(range(start, min(start + minibatch, count)))
            fakes = draw(pairs.source, pairs.source_points, pairs.target_points)
            yield pictures.to_uint8_metrics(fakes), None, pairs.target

    return generate
