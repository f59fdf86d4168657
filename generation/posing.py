"""Draw the people of photos in other poses, with a trained generator.

    OUT/images/<photo>-<pose>.png             each photo's person in each pose
    OUT/annotations/person_keypoints.json     COCO keypoints: the poses
    OUT/sheet.png                             poses along the top, photos at the left
    OUT/posing.json                           which network, whose photos and poses, what is done

Photos and poses are those of a data set, or of a folder or file with COCO keypoints. Photos are
made square as in the network's training. What is drawn is cropped to the part of the square that
the pose's photo fills.
"""

import functools
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataprep.coco.people import read_keypoint_file
from dataprep.conversion import check_shape
from dnnlib.data import coco, dataset, keypoints, pictures, pyramid
from dnnlib.data.dataset import DatasetInfo
from dnnlib.data.labelled import IMAGES
from dnnlib.data.photo_names import leads_out
from dnnlib.data.photos import PhotoError, decode_file
from dnnlib.util import UserError
from generation.resumable_folder import first_repeated, open_resumable
from training.pose.reposer import Reposer

RECORD, SHEET = "posing.json", "sheet.png"
SHOWN = 8  # photos and poses on a sheet
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels


# People in photos. Both kinds have `keypoints`, the names of the K keypoints; `names`, those of the
# photos with keypoints; and `identity`, a JSON value that differs for other photos.

class StoredFigures:
    """The people of a data set, or of one of its splits."""

    def __init__(self, info: DatasetInfo, split: str | None):
        """List the photos; raise UserError if the data set has no keypoints."""
        if not info.keypoints:
            raise UserError(f"{info.path}: a data set without keypoints")
        self.info, self.keypoints = info, tuple(info.keypoints)
        splits = dataset.split_sizes(info, split)
        self._places = dataset.places(splits)
        self._points = np.concatenate([keypoints.read_keypoints(info.path, name)
                                       for name in splits])
        self.names = [f"{name}{number:07d}" for name, number in self._places]
        self.identity = {"data": info.digest, "split": split}
        self._open = functools.cache(functools.partial(dataset.open_split, info))

    def fingerprint(self, number: int) -> list:
        """Return []: the digest of the data set identifies the photo and its pose."""
        return []

    pose_fingerprint = fingerprint

    def pose(self, number: int, resolution: int) -> tuple[np.ndarray, Box]:
        """Return keypoints [K, 3] in a square image of this side, and the photo's box in it."""
        return self._points[number], (0, 0, resolution, resolution)

    def photo(self, number: int, resolution: int) -> np.ndarray:
        """Return the photo in such an image, uint8 [R, R, 3]; enlarge it by repeating pixels if it
        is smaller."""
        split, record = self._places[number]
        file = self._open(split, min(resolution, self.info.resolution))
        photo = file.read_image(record, only_rgb=True).transpose(1, 2, 0)
        return pictures.upscale_nearest(photo[None], resolution)[0]


class PhotoFigures:
    """The people of photos with a COCO keypoint file: a folder that has it in annotations/, as
    `dataset_tool.py extract` writes it, or directly; or the file alone, for poses without photos.
    """

    def __init__(self, path: Path, fit: str):
        """List the photos; raise UserError if the file is missing or not COCO keypoints, or names
        photos outside its folder.

        Args:
            fit: how photos are made square, one of pyramid.FITS.
        """
        files = [path, path / coco.KEYPOINTS_FILE, path / coco.KEYPOINTS_FILE.name]
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            raise UserError(f"{path}: no keypoints there; expected a data set, a COCO keypoint "
                            f"file, or a folder with {coco.KEYPOINTS_FILE}")
        # Photos in which a person has keypoints, by their names.
        content = read_keypoint_file(file)
        self.path, self.fit, self.keypoints = path, fit, tuple(content.names)
        self._photos = sorted((photo for photo in content.photos.values()
                               if photo.keypoints is not None), key=lambda photo: photo.file_name)
        self.names = [Path(photo.file_name).stem for photo in self._photos]
        for photo, name in zip(self._photos, self.names):
            if not name or "\0" in name or (path.is_dir() and leads_out(photo.file_name)):
                raise UserError(f"{file}: {photo.file_name!r} is no name of a photo in {path}")
        self.identity = {"keypoints": str(file.resolve())}

    def fingerprint(self, number: int) -> list:
        """Return JSON values, one of which changes if the photo or its pose changes."""
        file = self._file(number)
        return self.pose_fingerprint(number) + [
            zlib.crc32(file.read_bytes()) if file.is_file() else None]

    def pose_fingerprint(self, number: int) -> list:
        """Return the checksum of the keypoints, and the photo size that they belong to."""
        photo = self._photos[number]
        return [zlib.crc32(photo.keypoints.tobytes()), photo.width, photo.height]

    def pose(self, number: int, resolution: int) -> tuple[np.ndarray, Box]:
        """Return keypoints and box, as StoredFigures does."""
        photo = self._photos[number]
        size = photo.width, photo.height
        return (keypoints.place(photo.keypoints, size, resolution, self.fit),
                pyramid.content_box(size, resolution, self.fit))

    def photo(self, number: int, resolution: int) -> np.ndarray:
        """Return the photo, as StoredFigures does; raise UserError if it cannot be read, or its
        keypoints are for a photo of another shape."""
        file = self._file(number)
        try:
            photo = decode_file(file)
            check_shape(self._photos[number], photo.size)
        except PhotoError as error:
            raise UserError(f"{file}: {error}") from None
        return np.asarray(pyramid.fit_square(photo, resolution, self.fit, pyramid.WHITE))

    def _file(self, number):
        """Return the path of a photo: in images/, or directly in the folder. For a file of poses
        alone it does not exist, whatever the file names."""
        name = self._photos[number].file_name
        if not self.path.is_dir():
            return self.path / Path(name).name
        return next((file for file in (self.path / IMAGES / name, self.path / name)
                     if file.is_file()), self.path / IMAGES / name)


Figures = StoredFigures | PhotoFigures


def open_figures(path: Path, fit: str) -> Figures:
    """Return the people of a data set, of one of its splits (DIR/val), of a folder of photos with
    COCO keypoints, or of such a file.

    Args:
        fit: how photos of a folder are made square, one of pyramid.FITS.

    Raises:
        UserError: there are none.
    """
    if stored := dataset.open_part(path):
        return StoredFigures(*stored)
    return PhotoFigures(path, fit)


class Choice(NamedTuple):
    """Some figures of a list, by their numbers."""

    figures: Figures
    numbers: Sequence[int]


class PosingJob:
    """The people of some photos, each to be drawn in each of some poses, in a folder."""

    def __init__(self, reposer: Reposer, sources: Choice, poses: Choice, out: Path):
        """Raise UserError if the network takes other keypoints, or two files would have one name.
        """
        for option, (figures, _) in (("source", sources), ("poses", poses)):
            if figures.keypoints != reposer.names:
                raise UserError(f"--{option}: keypoints {', '.join(figures.keypoints)}; "
                                f"{reposer.path} takes {', '.join(reposer.names)}")
        self.reposer, self.out, self.side = reposer, out, reposer.resolution
        self.sources, self.poses = sources, poses
        self.pairs = [(a, b) for a in sources.numbers for b in poses.numbers]
        if twice := first_repeated(map(self._name, self.pairs)):
            raise UserError(f"--source, --poses: two photos would be called {twice}; rename one of "
                            "those that they are drawn of")
        # Pairs are ordered by source: each source is read once.
        self._source_fingerprint = functools.cache(sources.figures.fingerprint)
        self._source_photo = functools.lru_cache(max(reposer.minibatch, SHOWN))(
            lambda number: sources.figures.photo(number, self.side))

    def run(self) -> tuple[int, int]:
        """Write all photos, except those that exist already; return how many were made, and how
        many existed.

        Raises:
            UserError: the network has diverged; a photo cannot be read; the folder holds something
                else, or photos of another network, other photos or poses; or the disk is full.
        """
        how = {"network": self.reposer.digest, "source": self.sources.figures.identity,
               "poses": self.poses.figures.identity}
        about = {"path": str(self.reposer.path)}
        with open_resumable(self.out, RECORD, "photos", how, about) as folder:
            missing = folder.begin(self.pairs, self._name, self._fingerprint, self._files)
            for part in folder.minibatches(missing, self.reposer.minibatch):
                for pair, photo in zip(part, self._draw(part)):
                    left, top, right, bottom = self._pose(pair)[1]
                    pictures.save_png(*self._files(pair), photo[top:bottom, left:right])
                    folder.done[self._name(pair)] = self._fingerprint(pair)
            self._write_keypoints()
            pictures.save_png(self.out / SHEET, self._sheet())
        return len(missing), len(self.pairs) - len(missing)

    # Parts of a pair (number of the photo, number of the pose).

    def _name(self, pair):
        return "-".join(choice.figures.names[number] for choice, number in zip(
            (self.sources, self.poses), pair)) + ".png"

    def _files(self, pair):
        return [self.out / IMAGES / self._name(pair)]

    def _fingerprint(self, pair):
        return self._source_fingerprint(pair[0]) + self.poses.figures.pose_fingerprint(pair[1])

    def _pose(self, pair):
        return self.poses.figures.pose(pair[1], self.side)

    def _draw(self, pairs):
        """Return the photos of pairs, uint8 [n, R, R, 3]."""
        figures = self.sources.figures
        return pictures.to_uint8_metrics(self.reposer.draw(
            np.stack([self._source_photo(source) for source, _ in pairs]),
            np.stack([figures.pose(source, self.side)[0] for source, _ in pairs]),
            np.stack([self._pose(pair)[0] for pair in pairs])))

    # Files about all pairs.

    def _write_keypoints(self):
        """Write the poses of all pairs, in pixels of the drawn photos."""
        items = []
        for number, pair in enumerate(self.pairs, 1):
            points, (left, top, right, bottom) = self._pose(pair)
            places = points[:, :2] * self.side - (left, top)
            items.append((number, self._name(pair), (right - left, bottom - top),
                          np.hstack([places, points[:, 2:]])))
        coco.write_keypoints(self.out / coco.KEYPOINTS_FILE, self.reposer.names,
                             self.reposer.skeleton, items, f"drawn by {self.reposer.path.name}")

    def _sheet(self):
        """Return a picture of the first photos in the first poses."""
        sources, poses = (choice.numbers[:SHOWN] for choice in (self.sources, self.poses))
        photos = pictures.enlarge_small(
            np.stack([self._source_photo(number) for number in sources]))
        points = np.stack([self.poses.figures.pose(number, self.side)[0] for number in poses])
        cells = [np.zeros_like(photos[:1]),
                 keypoints.skeletons(points, photos.shape[1], self.reposer.skeleton)]
        for source, photo in zip(sources, photos):
            drawn = self._draw([(source, pose) for pose in poses])
            cells += [photo[None], pictures.enlarge_small(drawn)]
        return pictures.grey_sheet(np.concatenate(cells), 1 + len(poses))
