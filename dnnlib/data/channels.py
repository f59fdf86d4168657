"""The channels of an image: three colours, then one segmentation map per class.

`images` are [..., 3 + C]; `rgb` and `segmaps` are their parts. C and the class names come from a
data set's `dataset.json`; a label map is uint8 with 0 for the background and 1..C for the classes
in channel order.
"""

import colorsys
import functools

import numpy as np

NUM_COLOURS = 3
MAX_CLASSES = 255  # of a label map
_HUES = 24  # classes whose colours are hues; more hues would come too near to each other
RGB = slice(0, NUM_COLOURS)
SEGMAPS = slice(NUM_COLOURS, None)


def num_channels(classes):
    """Channels of an image with these classes: 3 + C."""
    return NUM_COLOURS + len(classes)


def to_label_map(segmaps, threshold=0.0):
    """Segmaps [..., C] -> label map [...] uint8: the largest class above `threshold`, else 0.

    Generated maps are signed and a value > 0 means that the class is present (thesis, section
    4.4.2); stored uint8 maps use threshold 127.
    """
    segmaps = np.asarray(segmaps)
    if segmaps.shape[-1] == 0:
        return np.zeros(segmaps.shape[:-1], np.uint8)
    winner = segmaps.argmax(axis=-1)
    present = segmaps.max(axis=-1) > threshold
    return np.where(present, winner + 1, 0).astype(np.uint8)


def palette(num_classes):
    """Colours of the labels, uint8 [C + 1, 3]: black, then hues spread by the golden ratio.

    Neighbouring labels get far hues, and every second one is darker. From the 25th class on each
    colour is the one farthest from all before it, so that 255 remain distinct. A label's colour
    does not depend on C. Raises ValueError for more than 255 classes.
    """
    if num_classes > MAX_CLASSES:
        raise ValueError(f"{num_classes} classes; a label map holds up to {MAX_CLASSES}")
    return _palette()[:num_classes + 1].copy()


@functools.lru_cache(maxsize=1)
def _palette():
    """The colours of 255 classes and the background, uint8 [256, 3]."""
    steps = np.linspace(0, 255, 16)
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    colours = _hues(_HUES)
    distance = np.abs(grid[:, None] - colours).sum(axis=-1).min(axis=1)
    while len(colours) <= MAX_CLASSES:
        colours = np.concatenate([colours, grid[None, distance.argmax()]])
        distance = np.minimum(distance, np.abs(grid - colours[-1]).sum(axis=-1))
    return colours.astype(np.uint8)


def _hues(num_classes):
    """Black and hues spread by the golden ratio, float64 [C + 1, 3] of whole numbers."""
    colours = [(0.0, 0.0, 0.0)]
    for label in range(num_classes):
        hue = (label * 0.618033988749895) % 1.0
        saturation, value = 0.85 if label % 3 else 0.55, 1.0 if label % 2 == 0 else 0.75
        colours.append(colorsys.hsv_to_rgb(hue, saturation, value))
    return np.rint(np.array(colours) * 255)


def colourise(label_map, num_classes):
    """Label map [...] -> RGB uint8 [..., 3] in the palette's colours."""
    return palette(num_classes)[label_map]


def to_signed(images):
    """Stored uint8 images [..., 3 + C] -> float32: colours in [-1, 1], maps in [-0.5, 0.5]."""
    values = np.asarray(images, np.float32)
    return np.concatenate([values[..., RGB] / 127.5 - 1, values[..., SEGMAPS] / 255 - 0.5], axis=-1)
