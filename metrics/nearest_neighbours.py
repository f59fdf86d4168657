"""Find the real images nearest to generated ones in the detector's features, to see if a network
has memorised them.

Thesis, section 4.3.3 and figures 5.7, 5.8: ten neighbours in pool_3 by the L2 norm, all shown with
their maps.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from dnnlib import util
from dnnlib.data import channels, pictures
from metrics.features import CHUNK, fake_features, source_features
from metrics.image_sources import ImageSource

NEIGHBOURS = 10
SMALLEST_CELL, LARGEST_CELL = 128, 256  # pixels; captions of smaller cells are unreadable
GAP, GAP_GREY = 6, 200


def nearest(queries: np.ndarray, features: np.ndarray,
            count: int = NEIGHBOURS) -> tuple[np.ndarray, np.ndarray]:
    """Return the `count` rows of features nearest to each query by the L2 norm, nearest first.

    Exact in float64: differences are taken before they are squared, and for equal distances the
    smaller index comes first. `CHUNK` rows of features at a time are converted to float64, as they
    may be mapped from a file. queries: [q, d]; features: [n, d], both of any float type.

    Returns:
        (indices int64 [q, k], distances float64 [q, k]) with k = min(count, n).
    """
    queries = np.asarray(queries, np.float64)
    indices = np.empty((len(queries), 0), np.int64)
    squares = np.empty((len(queries), 0))
    for start in range(0, len(features), CHUNK):
        block = features[start:start + CHUNK]
        found = np.stack([np.square(block - query).sum(axis=1) for query in queries])
        numbers = np.broadcast_to(np.arange(start, start + len(block)), found.shape)
        squares = np.concatenate([squares, found], axis=1)
        indices = np.concatenate([indices, numbers], axis=1)
        # The sort is stable, and earlier blocks come first: ties stay in the order of the indices.
        order = np.argsort(squares, axis=1, kind="stable")[:, :count]
        squares = np.take_along_axis(squares, order, axis=1)
        indices = np.take_along_axis(indices, order, axis=1)
    return indices, np.sqrt(squares)


def write_nearest(stem: str | Path, fakes: list, names: list[str], source: ImageSource,
                  classes: tuple, detector: Any, about: dict, cache_dir: Path,
                  warn: Callable = print) -> str:
    """Find the nearest reals, write the sheet `<stem>.png` and `<stem>.json`; return the picture's
    path.

    Args:
        fakes: list of (rgb uint8 [H, W, 3], label map uint8 [H, W] or None).
        names: names of the fakes, such as 'seed 3' or a file name.
        source: the reals, whose features are cached in `cache_dir`.
        classes: names of the fakes' labels 1..C; without them, or if the source has other classes,
            only images are shown.
        about: what else defines the result.
    """
    queries = fake_features(lambda count: ((rgb[None], None) for rgb, _ in fakes), len(fakes),
                            detector).features
    indices, distances = nearest(queries, source_features(source, detector, cache_dir, warn))
    # Read the reals that were found, and name the rows.
    with_maps = bool(classes) and tuple(classes) == tuple(source.classes)
    reals = read_chosen(source, np.unique(indices), with_maps)
    photos = source.names()
    called = [[util.one_line(photos[i]) for i in numbers] for numbers in indices]
    found = list(zip(names, indices.tolist(), called, distances.tolist()))
    rows = []
    for fake, (name, numbers, photo_names, lengths) in zip(fakes, found):
        neighbours = [(*reals[i], f"{photo}   {d:.2f}")
                      for i, photo, d in zip(numbers, photo_names, lengths)]
        rows.append([(*fake, f"generated: {util.one_line(name)}"), *neighbours])
    pictures.save_png(f"{stem}.png", sheet(rows, classes if with_maps else ()))
    util.write_json(f"{stem}.json", {
        **about, "reals": source.about, "num_reals": source.count, "detector": detector.name,
        "detector_hash": detector.digest, "distance": "L2 of pool_3",
        "samples": [dict(zip(("name", "indices", "photos", "distances"), sample))
                    for sample in found]})
    return f"{stem}.png"


def read_chosen(source: ImageSource, indices: Sequence[int], with_maps: bool) -> dict[int, tuple]:
    """Return {index: (rgb uint8 [H, W, 3], label map uint8 [H, W] or None)} of some images."""
    images = []
    for rgb, maps in source.batches(maps=with_maps, indices=indices):
        images += [(rgb[i], maps[i] if with_maps else None) for i in range(len(rgb))]
    return dict(zip(map(int, indices), images))


def sheet(rows: list, classes: tuple) -> np.ndarray:
    """Draw rows of a generated image and its neighbours, captions below: uint8 [height, width, 3].

    rows: equally long lists of (rgb uint8 [H, W, 3], label map uint8 [H, W] or None, caption), the
    generated one first. classes: names for a legend; () for images without maps.
    """
    size = int(np.clip(rows[0][0][0].shape[0], SMALLEST_CELL, LARGEST_CELL))
    lines = []
    for row in rows:
        cells = [_cell(*sample, size, len(classes)) for sample in row]
        gap = np.full((len(cells[0]), GAP, 3), GAP_GREY, np.uint8)
        parts = [cells[0], gap] + [part for real in cells[1:] for part in (gap, real)]
        lines.append(np.concatenate(parts, axis=1))
    return pictures.with_legend(np.concatenate(lines), classes)


def _cell(rgb, label_map, caption, size, num_classes):
    """Draw an image, its map beside it if there are classes, a caption below: uint8 [h, w, 3]."""
    panels = [(rgb, Image.Resampling.BOX)]
    if num_classes:
        panels.append((channels.colourise(label_map, num_classes), Image.Resampling.NEAREST))
    # Fit each panel into the square, centred on black.
    picture = np.concatenate([ImageOps.pad(Image.fromarray(panel), (size, size), resampling)
                              for panel, resampling in panels], axis=1)
    return np.concatenate([picture, pictures.caption(caption, picture.shape[1])])
