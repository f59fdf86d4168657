"""The channels of an image: three colours, then one segmentation map per class.

`images` are [..., 3 + C]; `rgb` and `segmaps` are their parts. C and the class names come from a
data set's `dataset.json`; a label map is uint8 with 0 for the background and 1..C for the classes
in channel order.
"""

import colorsys
import functools
from collections.abc import Sequence

import numpy as np

NUM_COLOURS = 3
_HUES = 24  # classes whose colours are hues; more hues would be too similar
RGB = slice(0, NUM_COLOURS)
SEGMAPS = slice(NUM_COLOURS, None)
IGNORE = 255  # label of pixels of a label map that are ignored everywhere
MAX_CLASSES = IGNORE - 1
STORED_THRESHOLD = 127  # a stored uint8 map shows its class where its value is above this


def num_channels(classes: Sequence[str]) -> int:
    """Return the number of channels of an image with these classes: 3 + C."""
    return NUM_COLOURS + len(classes)


def to_label_map(segmaps: np.ndarray, threshold: float = 0.0) -> np.ndarray:
    """Return segmaps [..., C] as a label map uint8 [...]: the largest class above `threshold`.

    0 is the background. Generated maps are signed and a value > 0 means that the class is present
    (thesis, section 4.4.2); stored uint8 maps use STORED_THRESHOLD.
    """
    segmaps = np.asarray(segmaps)
    if segmaps.shape[-1] == 0:
        return np.zeros(segmaps.shape[:-1], np.uint8)
    winner = segmaps.argmax(axis=-1)
    present = segmaps.max(axis=-1) > threshold
    return np.where(present, winner + 1, 0).astype(np.uint8)


def margins(segmaps: np.ndarray) -> np.ndarray:
    """Return the margin with which each pixel of signed maps [..., C] has its label: float [...].

    The label is chosen among the C maps and the background, which counts as 0. The margin is the
    difference between the two largest of these: 0.5 within an area of a real map, 0 at a tie.
    """
    values = np.insert(np.asarray(segmaps), 0, 0, axis=-1)
    top = np.partition(values, -2, axis=-1)
    return top[..., -1] - top[..., -2]


def palette(num_classes: int) -> np.ndarray:
    """Return the labels' colours, uint8 [C + 1, 3]: black, then hues spread by the golden ratio.

    Neighbouring labels get distant hues, and every second one is darker. From the 25th class on,
    each colour is the one farthest from all before it, so that 255 colours remain distinct. A
    label's colour does not depend on C. Raises ValueError for more than 255, the label IGNORE.
    """
    if num_classes > IGNORE:
        raise ValueError(f"{num_classes} classes; the labels of a map go up to {IGNORE}")
    return _palette()[:num_classes + 1].copy()


@functools.lru_cache(maxsize=1)
def _palette():
    """Return the colours of the background and the labels up to IGNORE, uint8 [256, 3]."""
    colours = [(0.0, 0.0, 0.0)]
    for label in range(_HUES):
        hue = (label * 0.618033988749895) % 1.0
        saturation, value = 0.85 if label % 3 else 0.55, 1.0 if label % 2 == 0 else 0.75
        colours.append(colorsys.hsv_to_rgb(hue, saturation, value))
    colours = np.rint(np.array(colours) * 255)
    steps = np.linspace(0, 255, 16)
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    distance = np.abs(grid[:, None] - colours).sum(axis=-1).min(axis=1)
    while len(colours) <= IGNORE:
        colours = np.concatenate([colours, grid[None, distance.argmax()]])
        distance = np.minimum(distance, np.abs(grid - colours[-1]).sum(axis=-1))
    return colours.astype(np.uint8)


def colourise(label_map: np.ndarray, num_classes: int) -> np.ndarray:
    """Return a label map [...] as RGB uint8 [..., 3] in the palette's colours."""
    return palette(num_classes)[label_map]


def to_signed(images: np.ndarray) -> np.ndarray:
    """Return stored uint8 images [..., 3 + C] as float32: rgb in [-1, 1], segmaps in [-0.5, 0.5].
    """
    values = np.asarray(images, np.float32)
    return np.concatenate([values[..., RGB] / 127.5 - 1, values[..., SEGMAPS] / 255 - 0.5], axis=-1)
