"""The real images nearest to generated ones in the detector's features: has it memorised?

Thesis, section 4.3.3 and figures 5.7, 5.8: ten neighbours in pool_3 by the L2 norm, with the maps
of all. Knows neither networks nor TensorFlow.
"""

import numpy as np
from PIL import Image

from dnnlib import util
from dnnlib.data import channels, pictures
from metrics.features import CHUNK, fake_features, source_features

NEIGHBOURS = 10
SMALLEST_CELL, LARGEST_CELL = 128, 256  # pixels: of smaller ones nobody reads the captions
GAP, GAP_GREY = 6, 200


def nearest(queries, features, count=NEIGHBOURS):
    """The `count` rows of features nearest to each query by the L2 norm, nearest first.

    Exact in float64: differences are taken before they are squared, and of equal distances the
    smaller index comes first. Memory: features may be mapped from a file, of which `CHUNK` rows at
    a time become differences and squares in float64 (34 MB for 2048 features).

    Args:
        queries: [q, d]; features: [n, d], both of any float type.

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
        # Stable, and what was found before stands before: ties stay in the order of the indices.
        order = np.argsort(squares, axis=1, kind="stable")[:, :count]
        squares = np.take_along_axis(squares, order, axis=1)
        indices = np.take_along_axis(indices, order, axis=1)
    return indices, np.sqrt(squares)


def write_nearest(stem, fakes, names, source, classes, detector, about, cache_dir, say=print):
    """Search and write the sheet `<stem>.png` and `<stem>.json`; returns the picture's path.

    Args:
        stem: path of both without their suffix.
        fakes: list of (rgb uint8 [H, W, 3], label map uint8 [H, W] or None).
        names: what each is called, such as 'seed 3' or the name of a file.
        source: image_sources.ImageSource of the reals. Only those that the sheet shows are read
            again, by their index.
        classes: names of the fakes' labels 1..C; without them, or where those of the source are
            others, only images are shown.
        detector: metrics.inception.Inception; features of reals come from `cache_dir`, else go
            there.
        about: dict of what defines the result besides.
    """
    queries = fake_features(lambda count: ((rgb[None], None) for rgb, _ in fakes), len(fakes),
                            detector).features
    real_features = source_features(source, detector, cache_dir, say)
    indices, distances = nearest(queries, real_features)
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


def read_chosen(source, indices, with_maps):
    """{index: (rgb uint8 [H, W, 3], label map uint8 [H, W] or None)} of a source's images."""
    images = []
    for rgb, maps in source.batches(maps=with_maps, indices=indices):
        images += [(rgb[i], maps[i] if with_maps else None) for i in range(len(rgb))]
    return dict(zip(map(int, indices), images))


def sheet(rows, classes):
    """Rows of a generated image and its neighbours, captions below -> uint8 [height, width, 3].

    Args:
        rows: lists, equally long, of (rgb uint8 [H, W, 3], label map uint8 [H, W] or None,
            caption), the generated one first.
        classes: their names go in a legend; () for a sheet of images without maps.
    """
    size = int(np.clip(rows[0][0][0].shape[0], SMALLEST_CELL, LARGEST_CELL))
    lines = []
    for row in rows:
        cells = [cell(*sample, size, len(classes)) for sample in row]
        gap = np.full((len(cells[0]), GAP, 3), GAP_GREY, np.uint8)
        parts = [cells[0], gap] + [part for real in cells[1:] for part in (gap, real)]
        lines.append(np.concatenate(parts, axis=1))
    return pictures.with_legend(np.concatenate(lines), classes)


def cell(rgb, label_map, caption, size, num_classes):
    """Image, map beside it where there are classes, caption below: uint8 [height, width, 3]."""
    panels = [fit(rgb, size, Image.Resampling.BOX)]
    if num_classes:
        colours = channels.colourise(label_map, num_classes)
        panels.append(fit(colours, size, Image.Resampling.NEAREST))
    picture = np.concatenate(panels, axis=1)
    return np.concatenate([picture, pictures.caption(caption, picture.shape[1])])


def fit(picture, size, resampling):
    """A picture uint8 [H, W, 3] as large as fits into size x size, in the middle, black around."""
    height, width = picture.shape[:2]
    scale = size / max(height, width)
    new = tuple(max(round(side * scale), 1) for side in (width, height))
    resized = np.asarray(Image.fromarray(picture).resize(new, resampling))
    out = np.zeros((size, size, 3), np.uint8)
    top, left = (size - resized.shape[0]) // 2, (size - resized.shape[1]) // 2
    out[top:top + resized.shape[0], left:left + resized.shape[1]] = resized
    return out
