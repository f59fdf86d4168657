"""Draw photos from maps with a trained translator, and write a folder of pairs.

    OUT/images/<map>.png        the photo; a second photo of the same map is <map>-1.png, and so on
    OUT/labels/<map>.png        palette indices: 0 background, 1..C
    OUT/classes.txt             names of the classes 1..C
    OUT/translation.json        which network, whose maps, and what is done

Maps are label PNGs, those of a data set, or drawn by a generator of photos and maps. A map that is
not square is drawn within a square, and written without the padding; if the network's photos were
cropped to squares, the middle of the map is drawn.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dnnlib.data import channels, dataset, pictures, pyramid
from dnnlib.data.class_list import FILE_NAME as CLASSES
from dnnlib.data.class_list import write_class_list
from dnnlib.data.dataset import DatasetInfo
from dnnlib.data.labelled import IMAGES, LABELS, pair_classes, read_label_png
from dnnlib.data.photo_names import may_block
from dnnlib.util import UserError
from generation.resumable_folder import content_digest, first_repeated, open_resumable
from training.sampler import Sampler, label_maps
from training.translation.translator import Translator

RECORD = "translation.json"
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels


class SquareMaps(NamedTuple):
    """Some maps as a translator takes them.

    Attributes:
        segmaps: uint8 [n, R, R, C].
        boxes: the box of each map in its square.
        resized: whether some maps had another size.
    """

    segmaps: np.ndarray
    boxes: list[Box]
    resized: bool


# Where maps come from. All have `classes` of the labels 1..C, `names`, which files are named after,
# and `identity`, a JSON value that differs for other maps; a map's fingerprint is a JSON value that
# changes with the map.

class LabelFiles:
    """Label PNGs: directly in a folder, in its labels/, or in shards of such folders."""

    def __init__(self, path: Path, fit: str = pyramid.FITS[0]):
        """List the files; raise UserError if there are none, no list of classes, or several.

        Args:
            fit: how maps are made square, one of pyramid.FITS.
        """
        parts = [part for part in (path, *sorted(path.glob("shard-*-of-*")))
                 if (part / LABELS).is_dir()]
        folders = [part / LABELS for part in parts] or [path]
        self.files = [file for folder in folders for file in sorted(folder.iterdir())
                      if file.suffix.lower() == ".png" and file.name[0] != "."
                      and not may_block(file)]
        if not self.files:
            raise UserError(f"--maps={path}: no label maps there; expected a data set, or a folder "
                            f"with PNGs, or {LABELS}/ with PNGs, and {CLASSES}")
        self.classes = pair_classes(*(part if (part / CLASSES).is_file() else part.parent
                                      for part in parts or [path]))
        self.names = [file.stem for file in self.files]
        if twice := first_repeated(self.names):
            raise UserError(f"--maps={path}: {twice}.png is there twice; rename one of them")
        self.identity, self.fit = {"maps": str(path.resolve())}, fit

    def fingerprint(self, number: int) -> str | None:
        """Return the sha256 of the file."""
        return content_digest(self.files[number])

    def read(self, numbers: Sequence[int], resolution: int) -> SquareMaps:
        """Return the maps of these numbers; ignored pixels become background."""
        found = [read_label_png(self.files[number], len(self.classes)) for number in numbers]
        return fit_maps([np.where(labels == channels.IGNORE, 0, labels) for labels in found],
                        resolution, len(self.classes), self.fit)


class StoredMaps:
    """The maps of a data set, or of one of its splits."""

    def __init__(self, info: DatasetInfo, split: str | None):
        """List the maps; raise UserError if there are none."""
        if not info.classes:
            raise UserError(f"--maps={info.path}: a data set without segmentation maps")
        self.info, self.classes = info, tuple(info.classes)
        splits = dataset.split_sizes(info, split)
        self.places = dataset.places(splits)
        ids = [image_id for name in splits for image_id in dataset.read_ids(info.path, name)]
        whole = all(type(image_id) is int for image_id in ids) and len(set(ids)) == len(ids)
        self.names = [f"{number:07d}" for number in (ids if whole else range(len(ids)))]
        self.identity = {"data": info.digest, "split": split}

    def fingerprint(self, number: int) -> None:
        """Return None: the digest of the data set identifies the map."""

    def read(self, numbers: Sequence[int], resolution: int) -> SquareMaps:
        """Return the maps of these numbers as they are stored at the resolution."""
        level = min(resolution, self.info.resolution)
        files = {split: dataset.open_split(self.info, split, level)
                 for split in {self.places[number][0] for number in numbers}}
        maps = np.stack([files[split].read_maps(record).transpose(1, 2, 0)
                         for split, record in (self.places[number] for number in numbers)])
        boxes = [(0, 0, resolution, resolution)] * len(maps)
        return SquareMaps(pictures.upscale_nearest(maps, resolution), boxes,
                          level < resolution)


class DrawnMaps:
    """Maps that a generator draws, one for each seed, without the padding around its photos."""

    def __init__(self, sampler: Sampler, seeds: Sequence[int], trunc: float, noise: str,
                 fit: str = pyramid.FITS[0]):
        """Raise UserError if the generator draws no maps; `fit` as for LabelFiles."""
        if not sampler.classes:
            raise UserError(f"--from={sampler.path}: a network that draws no maps (RGB only)")
        self.sampler, self.seeds, self.trunc, self.noise = sampler, seeds, trunc, noise
        self.fit = fit
        self.classes, self.names = sampler.classes, [f"{seed:07d}" for seed in seeds]
        self.identity = {"from": sampler.digest, "trunc": trunc, "noise": noise,
                         "label": sampler.label}

    def fingerprint(self, number: int) -> None:
        """Return None: network and seed identify the map."""

    def read(self, numbers: Sequence[int], resolution: int) -> SquareMaps:
        """Return the maps of these numbers' seeds."""
        seeds, side = [self.seeds[number] for number in numbers], self.sampler.resolution
        images, = self.sampler.seed_images(seeds, self.trunc, self.noise, len(seeds))
        left, top, right, bottom = self.sampler.content_box or (0, 0, side, side)
        return fit_maps(label_maps(images)[:, top:bottom, left:right], resolution,
                        len(self.classes), self.fit)


Maps = LabelFiles | StoredMaps | DrawnMaps


def open_maps(path: Path, fit: str) -> Maps:
    """Return the maps of a data set, of one of its splits (DIR/val), or of a folder of label PNGs.

    Args:
        fit: how maps of a folder are made square, one of pyramid.FITS.

    Raises:
        UserError: there are none.
    """
    if stored := dataset.open_part(path):
        return StoredMaps(*stored)
    if not path.is_dir():
        raise UserError(f"--maps={path}: no such folder")
    return LabelFiles(path, fit)


def fit_maps(found: Sequence[np.ndarray], resolution: int, num_classes: int,
             fit: str = pyramid.FITS[0]) -> SquareMaps:
    """Return label maps uint8 [h, w] as maps padded to squares, or cropped to their middle squares
    if `fit` is "crop", resized by nearest pixels."""
    squares = np.stack([pyramid.fit_label_map(labels, resolution, fit) for labels in found])
    boxes = [pyramid.content_box(labels.shape[::-1], resolution, fit) for labels in found]
    resized = any(max(labels.shape) != resolution or (fit == "crop" and min(labels.shape) !=
                                                      resolution) for labels in found)
    segmaps = squares[..., None] == np.arange(1, num_classes + 1)
    return SquareMaps(segmaps * np.uint8(255), boxes, resized)


def write_photos(translator: Translator, maps: Maps, samples: int,
                 out: Path) -> tuple[int, int, bool]:
    """Write photos of all maps, except those that exist already; return how many were made, how
    many existed, and whether maps had another size.

    Args:
        samples: photos per map; photo k is drawn with the dropout of seed k.

    Raises:
        UserError: the network takes other classes, can draw only one photo per map, or has
            diverged; or as `open_resumable`, for `out`.
    """
    if maps.classes != translator.classes:
        raise UserError(f"the maps have the classes {', '.join(maps.classes)}; "
                        f"{translator.path} takes {', '.join(translator.classes)}")
    if samples > 1 and not translator.has_dropout:
        raise UserError(f"--samples={samples}: {translator.path} has no dropout: it draws one "
                        "photo of a map")
    wanted = [(number, sample) for number in range(len(maps.names)) for sample in range(samples)]
    if twice := first_repeated(_name(maps, *place) for place in wanted):
        raise UserError(f"--samples={samples}: two photos would be called {twice}; rename a map")
    # Draw the photos that are missing, or whose map has changed.
    how = {"network": translator.digest, "source": maps.identity}
    about = {"path": str(translator.path), "classes": list(maps.classes)}
    with open_resumable(out, RECORD, "photos", how, about) as folder:
        fingerprints = [maps.fingerprint(number) for number in range(len(maps.names))]
        resized = False
        missing = folder.begin(
            wanted, lambda place: _name(maps, *place), lambda place: fingerprints[place[0]],
            lambda place: [out / kind / f"{_name(maps, *place)}.png" for kind in (IMAGES, LABELS)])
        write_class_list(out, maps.classes)
        for part in folder.minibatches(missing, translator.minibatch):
            resized |= _write_part(translator, maps, part, out)
            folder.done |= {_name(maps, *place): fingerprints[place[0]] for place in part}
    return len(missing), len(wanted) - len(missing), resized


def _write_part(translator, maps, part, out):
    """Write the photos (number, sample) of a minibatch; return whether maps had another size."""
    # A map with several photos in the minibatch is read once. The minibatch is filled up, since
    # only minibatches of one size round alike.
    numbers = sorted({number for number, _ in part})
    filled = [*numbers, *numbers[-1:] * (translator.minibatch - len(numbers))]
    segmaps, boxes, resized = maps.read(filled, translator.resolution)
    places = [numbers.index(number) for number, _ in part]
    photos = pictures.to_uint8_metrics(
        translator.translate(segmaps[places], [sample for _, sample in part]))
    for (number, sample), place, photo in zip(part, places, photos):
        left, top, right, bottom = boxes[place]
        labels = channels.to_label_map(segmaps[place], channels.STORED_THRESHOLD)
        name = f"{_name(maps, number, sample)}.png"
        pictures.save_png(out / IMAGES / name, photo[top:bottom, left:right])
        pictures.save_label_png(out / LABELS / name, labels[top:bottom, left:right],
                                len(maps.classes))
    return resized


def _name(maps, number, sample):
    """Return the name of a photo; the first photo of a map has the map's name."""
    return maps.names[number] + (f"-{sample}" if sample else "")
