"""Count how often each class occurs, the same way in real and generated maps (thesis, figure 5.3).

A label map has no instances of a class: an image that shows a class counts as one.
"""

from collections.abc import Iterable

import numpy as np

from dnnlib.data import channels


def class_areas(label_maps: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the share of the pixels that each class covers: uint8 [N, H, W] -> float32 [N, C].
    Raises ValueError for a label above C."""
    label_maps = np.asarray(label_maps)
    if label_maps.max(initial=0) > num_classes:
        raise ValueError(f"label {label_maps.max()} in a map of {num_classes} classes")
    pixels = label_maps.reshape(len(label_maps), -1)
    counts = [np.bincount(row, minlength=num_classes + 1)[1:] for row in pixels]
    return np.float32(counts).reshape(-1, num_classes) / np.float32(pixels.shape[1])


def class_frequencies(batches: Iterable[np.ndarray], num_classes: int) -> np.ndarray:
    """Return the share of images that show each class, in one pixel or more, float64 [C]; `batches`
    are signed images [N, H, W, 3 + C]."""
    counts, num_images = np.zeros(num_classes), 0
    for images in batches:
        label_maps = channels.to_label_map(np.asarray(images)[..., channels.SEGMAPS])
        counts += (class_areas(label_maps, num_classes) > 0).sum(axis=0)
        num_images += len(label_maps)
    return counts / num_images


def proportions(counts: np.ndarray) -> np.ndarray:
    """Return each class's share of all instances, float64 [C]; all zero if there is none."""
    counts = np.asarray(counts, np.float64)
    return counts / (counts.sum() or 1)


def total_variation(p: np.ndarray, q: np.ndarray) -> float:
    """Return the total variation distance between the proportions of frequencies or counts p and q
    [C]: 0 if they are equal, 1 if they are disjoint or one side has no instance."""
    if not np.any(p) or not np.any(q):
        return float(np.any(p) != np.any(q))
    return float(0.5 * np.abs(proportions(p) - proportions(q)).sum())
