"""Project photos into a generator, and write a folder.

    OUT/<photo>.png              the photo in the network's square, padded with white
    OUT/projected/<photo>.png    what the network draws from its w
    OUT/latents/<photo>.npz      w [layers, dlatent_size]; in space w also the noise of every layer
    OUT/sheets/000.png           photos beside projections, and maps if there are any
    OUT/films/<photo>.webp       if asked for: how the picture approaches the photo
    OUT/maps/                    if the network draws maps: labels/, overlays/ and classes.txt, in
                                 the photos' sizes; for data sets and pairs in the network's square
    OUT/labels/, OUT/classes.txt    for labelled photos: their maps, in the network's square
    OUT/projection.json          settings, and for every photo the loss, LPIPS, and if it is poor
    OUT/labelling.json           for train.py --variant=decoder --labels=OUT

A photo is done once projection.json lists it; repeating the command does the others. Labels that a
person drew or removed stay as they are, unless their photo was replaced by another one.
"""

import dataclasses
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image
from tqdm import tqdm

from dnnlib import util
from dnnlib.data import channels, dataset, films, labelled, pictures, pyramid
from dnnlib.data.class_list import write_class_list
from dnnlib.data.labelled import LABELS, read_label_png
from dnnlib.data.photos import PhotoError, decode_photo, probe, read_picture_file
from dnnlib.util import UserError
from generation.labelling import (
    OVERLAYS,
    ReadPhoto,
    check_labelled_classes,
    find_photos,
    label_map_at_size,
    write_map,
)
from generation.projection import Projection, Projector, Settings, resize_for_vgg
from generation.resumable_folder import open_resumable
from metrics.networks.lpips import Lpips
from training.decoder.labels import FILE_NAME as LABELLING
from training.decoder.labels import Labelling, check_file_name, latents_path, picture_digest
from training.latents import Latents, noise_of
from training.sampler import TRUNCATION_CUTOFF, Sampler

RECORD, PROJECTED, MAPS, FILMS, SHEETS = "projection.json", "projected", "maps", "films", "sheets"
# Between street photos in a network trained on street photos (0.05 to 0.11 at 32x32, both spaces)
# and cars in it (0.14 to 0.21), whose maps show no real clothes: docs/methods.md.
POOR_LPIPS = 0.12
FILM_FRAMES, FILM_SIDE, FILM_FPS, LAST_FRAMES = 48, 256, 12.5, 20
PHOTOS_A_SHEET, CELL_SIDE = 24, 256


class SourcePhoto(NamedTuple):
    """A photo: its name in the folder, its origin, the upright picture, at half its size if it is
    large, its (width, height) in the file, and its label map in the network's square, uint8 [R, R],
    if it is known."""

    name: str
    origin: str
    picture: Image.Image
    size: tuple[int, int]
    label_map: np.ndarray | None = None


class PhotoFiles:
    """Photos by number: the files of a folder, or a single file, without maps or classes."""

    classes: tuple[str, ...] = ()

    def __init__(self, path: Path):
        """List the files; raise UserError if there are none."""
        self._paths = [path] if path.is_file() else find_photos(path, "--project")

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, number: int) -> SourcePhoto:
        path = self._paths[number]
        try:
            data = read_picture_file(path)
            return SourcePhoto(path.stem, path.name, decode_photo(data), probe(data))
        except PhotoError as error:
            raise UserError(f"{path}: {error}") from None


class StoredPhotos:
    """Photos of a data set's split or of a folder of pairs, with their maps if there are any."""

    def __init__(self, kind: str, classes: tuple[str, ...], origins: Sequence,
                 read: Callable[[int], tuple[np.ndarray, np.ndarray]]):
        """Keep the arguments.

        Args:
            kind: prefix of the names.
            origins: the photos' names in their source.
            read: number -> rgb uint8 [R, R, 3] and label map uint8 [R, R].
        """
        self.classes, self._kind, self._origins, self._read = classes, kind, origins, read

    def __len__(self) -> int:
        return len(self._origins)

    def read(self, number: int) -> SourcePhoto:
        rgb, label_map = self._read(number)
        picture = Image.fromarray(np.ascontiguousarray(rgb))
        return SourcePhoto(f"{self._kind}{number:07d}", str(self._origins[number]), picture,
                           picture.size, label_map if self.classes else None)


PhotoList = PhotoFiles | StoredPhotos


def open_photo_list(source: Path, resolution: int) -> PhotoList:
    """Return the photos of a folder, a file, a data set (its training split), the folder of one of
    its splits, or a folder of pairs.

    Raises:
        UserError: there are none.
    """
    if stored := dataset.open_part(source):
        info, split = stored[0], stored[1] or "train"
        return StoredPhotos(split, tuple(info.classes), dataset.read_ids(info.path, split),
                            dataset.open_split(info, split, resolution).read_pair)
    if labelled.pair_folders(source):
        pairs = labelled.PairFolder(source, resolution)
        return StoredPhotos("pair", pairs.classes, range(len(pairs)), pairs.read)
    if not source.exists():
        raise UserError(f"--project={source}: no such file or folder")
    return PhotoFiles(source)


class Outcome(NamedTuple):
    """How many photos were projected, how many existed, the names of the poor ones among all, and
    lines about files that are not readable photos."""

    made: int
    kept: int
    poor: list[str]
    unreadable: list[str]


@dataclass(frozen=True)
class ProjectionJob:
    """Photos to project, and where to write them.

    Attributes:
        numbers: numbers of the photos. minibatch: photos at a time. film: write films, too.
    """

    sampler: Sampler
    settings: Settings
    lpips: Lpips
    photos: PhotoList
    numbers: Sequence[int]
    out: Path
    minibatch: int
    film: bool = False

    def run(self) -> Outcome:
        """Project the photos that are not done.

        Raises:
            UserError: no photo can be read, the folder holds labels of other classes, or as
                `open_resumable`.
        """
        if self.photos.classes:
            check_labelled_classes(self.out, self.photos.classes)
        sampler = self.sampler
        how = {"digest": sampler.digest, "resolution": sampler.resolution, "label": sampler.label,
               "settings": dataclasses.asdict(self.settings), "lpips": self.lpips.digest}
        about = {"network": str(sampler.path), "poor_above": POOR_LPIPS}
        with open_resumable(self.out, RECORD, "projections", how, about) as folder:
            _check_done(self.out / RECORD, folder.done)
            missing, kept, unreadable = self._find_missing(folder.done)
            self._save(folder)  # without photos that were replaced by others
            if not missing and not kept:
                raise UserError(unreadable[0])
            self._project(missing, folder)
            self._write_sheets(folder.done)
        names = {*missing.values(), *kept}
        return Outcome(len(missing), len(kept), [
            name for name, about in folder.done.items() if name in names and about["poor"]],
            unreadable)

    # What is done, and what remains.

    def _find_missing(self, done):
        """Return {number: name} of the photos to project, the names of those that are done, and
        lines about those that cannot be read."""
        missing, kept, unreadable = {}, [], []
        for number in self.numbers:
            try:
                photo = self.photos.read(number)
            except UserError as error:
                unreadable.append(str(error))
                continue
            except OSError as error:
                unreadable.append(f"photo {number}: {util.one_line(error)}")
                continue
            # A photo is done if it is in the record and has all its files.
            self._set_aside_replaced(photo, done)
            name = f"{photo.name}.png"
            files = [*self._sheet_files(photo.name), latents_path(self.out, name)]
            files += [self.out / FILMS / f"{photo.name}.webp"] if self.film else []
            files += [self.out / MAPS / LABELS / name] if self.sampler.classes else []
            if photo.name in done and all(path.is_file() for path in files):
                kept.append(photo.name)
                done[photo.name]["labels"] = self._write_labels(photo, done[photo.name])
            else:
                missing[number] = photo.name
        return missing, kept, unreadable

    def _set_aside_replaced(self, photo, done):
        """Set aside the labels of another picture that had a photo's name, and drop its record."""
        about = done.get(photo.name)
        if about is None or about["picture"] == picture_digest(self._square(photo)):
            return
        path = self.out / LABELS / f"{photo.name}.png"
        if path.is_file():
            aside = path.with_name(f"{path.name}.old")
            os.replace(path, aside)
            print(f"{path}: labels of another picture, which had this name: now {aside.name}")
        del done[photo.name]

    def _sheet_files(self, name):
        """Return the pictures of a photo that sheets show."""
        folders = [self.out, self.out / PROJECTED]
        folders += [self.out / MAPS / OVERLAYS] if self.sampler.classes else []
        return [folder / f"{name}.png" for folder in folders]

    def _write_labels(self, photo, about):
        """Write a photo's label map and return its digest. If there is a record `about` the photo,
        write only if its source has other labels now, and not if a person drew or removed the file:
        then it differs from the record."""
        if photo.label_map is None:
            return about.get("labels") if about else None
        path, digest = self.out / LABELS / f"{photo.name}.png", picture_digest(photo.label_map)
        if about is not None:
            if about.get("labels") == digest:
                return digest
            if _labels_digest(path) != about.get("labels"):
                if path.is_file():
                    print(f"{path}: stays, not as it was written, though the photo has other "
                          "labels now")
                return digest
            print(f"{path}: renewed, since the photo has other labels now")
        pictures.save_label_png(path, photo.label_map, len(self.photos.classes), may_ignore=True)
        return digest

    def _square(self, photo):
        return np.asarray(pyramid.fit_square(photo.picture, self.sampler.resolution, "pad",
                                             pyramid.WHITE))

    # Projection.

    def _project(self, missing, folder):
        if not missing:
            return
        numbers = list(missing)
        # All minibatches have one size, which gives one trace; few photos fill up the last one.
        size = -(-len(numbers) // -(-len(numbers) // self.minibatch))
        projector = Projector(self.sampler, self.settings, self.lpips, size)
        with util.progress(total=len(numbers) * self.settings.steps, desc="projection",
                           unit="step") as bar:
            for start in range(0, len(numbers), size):
                photos = [self.photos.read(n) for n in numbers[start:start + size]]
                for photo, *made in self._project_batch(projector, photos, bar):
                    folder.done[photo.name] = self._write(
                        photo, folder.done.get(photo.name), *made)
                self._save(folder)

    def _project_batch(self, projector: Projector, photos: Sequence[SourcePhoto],
                       bar: tqdm) -> list[tuple[SourcePhoto, Projection, list[np.ndarray]]]:
        """Return photos, their projections, and the frames of their films."""
        steps, frames = self.settings.steps, []
        shown = set(np.linspace(0, steps - 1, min(FILM_FRAMES, steps)).round().astype(int).tolist())

        def watch(step: int, images: Callable[[], np.ndarray]) -> None:
            bar.update(len(photos))
            if self.film and step in shown:
                frames.append([pictures.shrink_to_width(image, FILM_SIDE)
                               for image in pictures.to_uint8(images())])

        filled = [*photos, *[photos[-1]] * (projector.minibatch - len(photos))]
        made = projector.project(np.stack([self._square(photo) for photo in filled]),
                                 [photo_seed(photo.name) for photo in filled], watch)
        return [(photo, one, [frame[n] for frame in frames])
                for n, (photo, one) in enumerate(zip(photos, made))]

    def _write(self, photo, about, made, frames):
        """Write the files of a photo; return its record. about: the earlier record, or None."""
        name, square = f"{photo.name}.png", self._square(photo)
        made.latents.write(latents_path(self.out, name))
        image = remake(self.sampler, made.latents)  # [R, R, 3 + C]
        rgb = pictures.to_uint8(image[..., channels.RGB])
        pictures.save_png(self.out / name, square)
        pictures.save_png(self.out / PROJECTED / name, rgb)
        labels = self._write_labels(photo, about)
        if self.sampler.classes:  # the map in the photo's size, and over the photo
            segmaps = image[..., channels.SEGMAPS]
            label_map = label_map_at_size(segmaps, segmaps.max(-1), photo.picture.size)
            write_map(label_map, ReadPhoto(Path(name), photo.picture, photo.size),
                      self.out / MAPS, len(self.sampler.classes))
        if frames:
            _save_film(self.out / FILMS / f"{photo.name}.webp", [*frames, rgb], square)
        distance = float(self.lpips(*(resize_for_vgg(tf.constant(x[None], tf.float32))
                                      for x in (square, rgb)))[0])
        mse = float(np.square((square - rgb.astype(np.float64)) / 255).mean())
        return {"photo": photo.origin, "picture": picture_digest(square), "labels": labels,
                "lpips": distance, "mse": mse, "poor": distance > POOR_LPIPS,
                "terms": made.terms, "steps": self.settings.steps, "seed": photo_seed(photo.name)}

    def _save(self, folder):
        """Write projection.json, and the files that make it a folder of labelled pictures."""
        sampler = self.sampler
        if sampler.classes:
            write_class_list(self.out / MAPS, sampler.classes)
        if self.photos.classes:
            write_class_list(self.out, self.photos.classes)
        found = {f"{name}.png": about["picture"] for name, about in folder.done.items()}
        if found:
            generator = sampler.generator
            Labelling(generator["path"], generator["digest"], sampler.resolution, sampler.fade, (),
                      1.0, TRUNCATION_CUTOFF, "stored" if self.settings.noise_weight else "const",
                      sampler.label, found, projected=True).write(self.out)
        else:
            (self.out / LABELLING).unlink(missing_ok=True)
        folder.save()

    def _write_sheets(self, done):
        """Write sheets of all photos in the folder whose files exist, several photos on each."""
        names = [name for name in done if all(path.is_file() for path in self._sheet_files(name))]
        for path in (self.out / SHEETS).glob("[0-9][0-9][0-9].png"):
            path.unlink()  # there may have been more sheets
        for page, start in enumerate(range(0, len(names), PHOTOS_A_SHEET)):
            rows = []
            for name in names[start:start + PHOTOS_A_SHEET]:
                # The photo, its projection, and its maps if there are any, above a line about it.
                photo, projection, *overlays = map(pictures.read_png, self._sheet_files(name))
                cells = [pictures.shrink_to_width(rgb, CELL_SIDE) for rgb in (photo, projection)]
                cells += [np.asarray(pyramid.fit_square(
                    Image.fromarray(overlay), len(cells[0]), "pad", pyramid.WHITE))
                    for overlay in overlays]
                row, about = pictures.grey_sheet(np.stack(cells), len(cells)), done[name]
                line = f"{'poor: ' * about['poor']}LPIPS {about['lpips']:.3f}  {about['photo']}"
                rows += [row, pictures.caption(line, row.shape[1])]
            pictures.save_png(self.out / SHEETS / f"{page:03d}.png", pictures.with_legend(
                np.concatenate(rows), self.sampler.classes))


def _check_done(path, done):
    """Raise UserError if the entries of a projection.json about photos are damaged."""
    try:
        for name, about in done.items():
            check_file_name(name)
            for key, kind in (("photo", str), ("picture", str), ("lpips", float), ("poor", bool)):
                if not isinstance(about[key], kind):
                    raise ValueError(f"{key} of {name}")
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: damaged ({util.one_line(error)})") from None


def photo_seed(name: str) -> int:
    """Return the seed of a photo's random numbers."""
    return zlib.crc32(name.encode("utf-8", "surrogateescape"))


def remake(sampler: Sampler, latents: Latents) -> np.ndarray:
    """Return the image float32 [R, R, 3 + C] that a network draws from a projection's Latents."""
    return sampler.synthesize(latents.w[None], noise_of([latents]))[0].numpy()


def _labels_digest(path):
    """Return the digest of a file's label map: None if there is none, "" if it is no label map."""
    if not path.is_file():
        return None
    try:
        return picture_digest(read_label_png(path, channels.MAX_CLASSES))
    except UserError:
        return ""


def _save_film(path, frames, photo):
    """Write frames uint8 [r, r, 3] beside a photo as a film, which stays at the last frame."""
    photo = pictures.shrink_to_width(photo, FILM_SIDE)
    factor = -(-pictures.SMALLEST // len(photo))
    shown = [*frames[:-1], *[pictures.shrink_to_width(frames[-1], FILM_SIDE)] * LAST_FRAMES]
    films.save_film(path, (pictures.enlarge(np.concatenate([photo, frame], axis=1), factor)
                           for frame in shown), len(shown), FILM_FPS)
