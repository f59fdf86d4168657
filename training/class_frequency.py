"""How often each class occurs, counted alike in real and generated maps (thesis, figure 5.3)."""

import numpy as np

from dnnlib import channels


def class_frequencies(batches, num_classes):
    """Share of the images that show each class, float64 [C].

    Args:
        batches: iterable of signed images [N, H, W, 3 + C]; a class is present where it wins a
            pixel with a value > 0.
    """
    counts, num_images = np.zeros(num_classes), 0
    for images in batches:
        labels = channels.to_label_map(np.asarray(images)[..., channels.SEGMAPS])
        labels = labels.reshape(len(labels), -1, 1)
        counts += (labels == np.arange(1, num_classes + 1)).any(axis=1).sum(axis=0)
        num_images += len(labels)
    return counts / num_images


def total_variation(p, q):
    """Total variation distance between two classes' shares of all instances: 0 equal, 1 disjoint.

    Frequencies p and q [C] are normalised to proportions first; where one side has no instance at
    all and the other has some, the distance is 1.
    """
    if not np.any(p) or not np.any(q):
        return float(np.any(p) != np.any(q))
    return float(0.5 * np.abs(p / np.sum(p) - q / np.sum(q)).sum())
