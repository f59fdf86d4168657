"""Make what the page of generate.py --explore shows: functions of networks and of the values of the
page's controls, which do not depend on the page itself."""

import contextlib
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from dnnlib.cli import label_suffix
from dnnlib.data import channels, photos, pictures, pyramid
from dnnlib.data.labelled import read_label_png
from dnnlib.util import UserError
from generation import pairs, sheets
from generation.labelling import label_map_from_probabilities
from generation.selection import BLOCK, Request, Selection, crop_to_box, make_samples, measure
from generation.translation import DrawnMaps, fit_maps
from training.cycle.translator import CycleTranslator
from training.sampler import Sampler
from training.segmentation.labeller import Labeller
from training.translation.translator import Translator

ONE, BETWEEN, MIXED = "one seed", "between two seeds", "styles of two seeds"
LAST_SEED = 99_999  # of the page's sliders
TRIES = 10 * BLOCK  # seeds that a search tries
STEPS = 7  # pictures between two seeds
SIDE = 384  # pixels to which small pictures are enlarged
LARGEST = 1024  # pixels of the longer side of a shown photo


@dataclass(frozen=True)
class SampleSpec:
    """What a generator is to draw.

    Attributes:
        what: ONE, BETWEEN or MIXED.
        noise: "random" or "const", as for generate.py.
        other: the second seed of BETWEEN and MIXED.
        position: from the first to the second seed, 0 to 1.
        layers: layers with the second seed's styles, for MIXED.
    """

    what: str = ONE
    seed: int = 0
    psi: float = 1.0
    noise: str = "random"
    other: int = 1
    position: float = 0.5
    layers: tuple[int, ...] = ()


class Views(NamedTuple):
    """Pictures uint8 [h, w, 3] of one image; without maps, only the photo."""

    photo: np.ndarray
    map: np.ndarray | None = None
    overlay: np.ndarray | None = None


class Drawn(NamedTuple):
    """What is shown: the views, a strip of smaller pictures below, a line of text."""

    views: Views
    strip: np.ndarray | None
    line: str


# Generators

def draw_sample(sampler: Sampler, spec: SampleSpec, shown: Collection[str]) -> Drawn:
    """Return what a generator draws.

    Args:
        shown: names of the classes to show in maps and overlays.

    Raises:
        UserError: the network has diverged, or has no such layers.
    """
    # The requested image comes first, then those of the strip.
    dlatents, noise_seeds, captions = _inputs(sampler, spec)
    batches = sampler.dlatent_images(dlatents, noise_seeds, spec.noise, len(dlatents))
    images = crop_to_box(np.concatenate([batch.numpy() for batch in batches]), sampler.content_box)
    rgbs, maps = pairs.to_pairs(images)
    views = views_with_map(rgbs[0], maps[0], sampler.classes, shown)
    strip = None if not captions else _strip(
        [views_with_map(rgb, label_map, sampler.classes, shown)
         for rgb, label_map in zip(rgbs[1:], maps[1:])], captions)
    line = ""
    if sampler.classes:
        traits, = measure(images[:1], maps[:1])
        line = f"{_class_areas(traits.areas, sampler.classes)}; confidence {traits.confidence:.2f}"
    return Drawn(views, strip, line)


def _inputs(sampler, spec):
    """Return (dlatents [N, L, size], their noise seeds, captions of all but the first)."""
    if spec.what == ONE:
        return sampler.dlatents(sampler.seed_latents([spec.seed]), spec.psi), [spec.seed], []
    ends = sampler.seed_latents([spec.seed, spec.other])
    captions = [f"seed {spec.seed}", f"seed {spec.other}"]
    if spec.what == BETWEEN:
        here = ends[0] + spec.position * (ends[1] - ends[0])
        latents = np.concatenate([here[None], sheets.interpolate(*ends, STEPS)])
        captions[1:1] = [f"{step / (STEPS - 1):.2f}" for step in range(1, STEPS - 1)]
        return sampler.dlatents(latents, spec.psi), [spec.seed] * len(latents), captions
    if sampler.network.num_styles == 1:
        raise UserError("the network has no styles that could be mixed")
    layers = [layer for layer in spec.layers if layer < sampler.num_layers]
    dlatents = sampler.dlatents(ends, spec.psi)
    mixed = sheets.mix_styles(dlatents[:1], dlatents[1:], layers)
    return np.concatenate([mixed, dlatents]), [spec.seed, spec.seed, spec.other], captions


def _strip(shown, captions):
    """Return a strip of several images side by side, each photo above its map, with captions."""
    columns = [np.concatenate([view for view in (views.photo, views.map) if view is not None])
               for views in shown]
    width = SIDE // 3
    size = width, round(columns[0].shape[0] * width / columns[0].shape[1])
    small = [np.asarray(Image.fromarray(column).resize(size)) for column in columns]
    cells = [np.concatenate([cell, pictures.caption(text, cell.shape[1])])
             for cell, text in zip(small, captions, strict=True)]
    return pictures.image_grid(np.stack(cells), len(cells))


def _class_areas(areas, classes):
    """Return the classes that a picture shows, with their shares of it, the largest first."""
    parts = sorted(zip(areas, classes), reverse=True)
    return ", ".join(f"{name} {100 * area:.1f} %" for area, name in parts if area > 0) or "no class"


def search(sampler: Sampler, spec: SampleSpec, selection: Selection,
           lock: contextlib.AbstractContextManager | None = None) -> int:
    """Return the next seed after that of `spec` whose pair a selection accepts.

    Args:
        lock: held while a few samples are drawn, then released.

    Raises:
        UserError: TRIES seeds in a row are rejected, or the network does not draw such a class.
    """
    selection = selection.match_classes(sampler.classes)
    request = Request(range(spec.seed + 1, LAST_SEED + 1), 1, selection=selection, max_tries=TRIES)
    recipe = pairs.make_recipe(sampler, spec.psi, spec.noise)
    samples, tried = make_samples(sampler, recipe, request), 0
    while True:
        with lock or contextlib.nullcontext():
            batch = next(samples, None)
        if batch is None:
            shown = " and ".join(selection.require) + (
                f" on {100 * selection.min_area:g} % of the picture" if selection.min_area else "")
            raise UserError(f"none of the {tried} seeds after {spec.seed} shows {shown}; require "
                            "less, or continue from a later seed")
        if batch.seeds:
            return batch.seeds[0]
        tried = batch.tally.tried


def save_pair(sampler: Sampler, spec: SampleSpec, root: Path) -> str:
    """Write a seed's pair as generate.py --num does, in a folder for this network, truncation and
    noise; return a line that says where it is and how to make it again.

    Raises:
        UserError: it cannot be written, or the network has diverged.
    """
    noise = "" if spec.noise == "random" else f"-{spec.noise}"
    out = (root / f"{sampler.path.parent.name}-{sampler.path.stem}"
           / f"explored{label_suffix(sampler.label)}-trunc{spec.psi:g}{noise}")
    recipe = pairs.make_recipe(sampler, spec.psi, spec.noise)
    pairs.write_pairs(sampler, recipe, Request(range(spec.seed, spec.seed + 1), 1, 1), out)
    records = pairs.read_samples(out / pairs.SAMPLES)
    index = [record["seed"] for record in records].index(spec.seed)
    return (f"saved {out / records[index]['image']}; make it again with: python generate.py "
            f"--replay={shlex.quote(str(out / pairs.SAMPLES))} --index={index}")


# Photos

def read_photo(path: str | Path) -> np.ndarray:
    """Return an uploaded photo, uint8 [h, w, 3], reduced to sides of at most LARGEST pixels.

    Raises:
        UserError: it is not a photo, or too large to be decoded.
    """
    try:
        photo = photos.decode_photo(Path(path).read_bytes())
    except FileNotFoundError:
        raise _gone(path) from None
    except photos.PhotoError as error:
        raise UserError(f"{Path(path).name}: {error}") from None
    photo.thumbnail((LARGEST, LARGEST))
    return np.asarray(photo)


def _gone(path):
    return UserError(f"{Path(path).name}: was dropped here more than a day ago; drop it again")


def label_photo(labeller: Labeller, photo: np.ndarray, shown: Collection[str]) -> Drawn:
    """Return a photo with the map that a segmentation network gives it."""
    square = pyramid.fit_square(Image.fromarray(photo), labeller.resolution, "pad", pyramid.WHITE)
    chances, = labeller.probabilities(np.asarray(square)[None])
    label_map = label_map_from_probabilities(chances, photo.shape[1::-1])
    counts = np.bincount(label_map.ravel(), minlength=len(labeller.classes) + 1)[1:]
    views = views_with_map(photo, label_map, labeller.classes, shown)
    return Drawn(views, None, _class_areas(counts / label_map.size, labeller.classes))


def translate_photo(translator: CycleTranslator,
                    photo: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a photo translated, and translated back; raise UserError if the network translates
    garments alone."""
    if translator.garment:
        raise UserError(f"{translator.path.name}: translates {' and '.join(translator.garment)} "
                        "alone, and a photo does not show where that is; generate.py "
                        "--source=PAIRS translates folders of pairs")
    there, = translator.translate([photo])
    back, = translator.translate([there], back=True)
    return there, back


# Editing maps: a square of pixels on the canvas is one pixel of the map

def canvas_side(resolution: int) -> int:
    """Return the side of the canvas for maps of a resolution."""
    return resolution * max(1, 512 // resolution)


def to_canvas(label_map: np.ndarray, num_classes: int) -> np.ndarray:
    """Return a label map [R, R] as the picture uint8 [side, side, 3] to paint on."""
    picture = channels.colourise(label_map, num_classes)
    return pictures.enlarge(picture, canvas_side(len(label_map)) // len(label_map))


def from_canvas(background: np.ndarray | None, layers: Sequence[np.ndarray], resolution: int,
                num_classes: int) -> np.ndarray:
    """Return the label map uint8 [R, R] of a painted canvas.

    Brushes have soft edges: every pixel of the canvas counts as the class with the nearest colour,
    and a pixel of the map gets the most frequent class of its square.

    Args:
        background: uint8 [side, side, 3 or 4]; None for an empty one.
        layers: uint8 [side, side, 4], painted on the background in order.
    """
    side = canvas_side(resolution)
    labels = np.zeros((side, side), np.uint8)
    for picture in [*([] if background is None else [background]), *layers]:
        if picture.shape[:2] != (side, side):
            picture = np.asarray(Image.fromarray(picture).resize(
                (side, side), Image.Resampling.NEAREST))
        is_painted = (picture[..., 3:] > 127).all(axis=-1)  # all pixels, if there is no alpha
        labels[is_painted] = _nearest(picture[is_painted][:, :3], num_classes)
    # Take the vote of each square of factor x factor pixels.
    factor = side // resolution
    squares = labels.reshape(resolution, factor, resolution, factor)
    present = np.unique(labels)
    votes = np.stack([(squares == label).sum(axis=(1, 3)) for label in present])  # [n, R, R]
    return present[votes.argmax(axis=0)]


def _nearest(colours, num_classes):
    """Return the labels uint8 [n] whose colours are nearest to uint8 [n, 3]."""
    distinct, places = np.unique(colours, axis=0, return_inverse=True)
    distances = np.abs(distinct[:, None].astype(int) - channels.palette(num_classes)).sum(axis=-1)
    return distances.argmin(axis=1).astype(np.uint8)[places.ravel()]


def read_map(path: str | Path, resolution: int, num_classes: int,
             fit: str = pyramid.FITS[0]) -> np.ndarray:
    """Return the label map uint8 [R, R] of an uploaded label PNG.

    Args:
        fit: how it is made square, one of pyramid.FITS.

    Raises:
        UserError: it is not a label PNG, too large, or has labels that the network does not know.
    """
    path = Path(path)
    try:
        photos.reduction(photos.probe(path.read_bytes()))
        labels = read_label_png(path, num_classes)
    except FileNotFoundError:
        raise _gone(path) from None
    except (photos.PhotoError, UserError) as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise UserError(f"{path.name}: {reason}") from None
    labels = np.where(labels == channels.IGNORE, 0, labels)
    segmaps, = fit_maps([labels], resolution, num_classes, fit).segmaps
    return channels.to_label_map(segmaps, channels.STORED_THRESHOLD)


def draw_map(sampler: Sampler, seed: int, resolution: int,
             fit: str = pyramid.FITS[0]) -> np.ndarray:
    """Return the label map uint8 [R, R] that a generator draws for a seed, without truncation;
    `fit` as for `read_map`."""
    segmaps, = DrawnMaps(sampler, [seed], 1.0, "random", fit).read([0], resolution).segmaps
    return channels.to_label_map(segmaps, channels.STORED_THRESHOLD)


def photo_of_map(translator: Translator, label_map: np.ndarray, seed: int) -> np.ndarray:
    """Return the photo uint8 [R, R, 3] that a network draws from a label map.

    Args:
        seed: of the dropout masks.
    """
    segmaps = fit_maps([label_map], translator.resolution, len(translator.classes)).segmaps
    photo, = pictures.to_uint8_metrics(translator.translate(segmaps, [seed]))
    return enlarge_for_view(photo)


# Pictures

def views_with_map(rgb: np.ndarray, label_map: np.ndarray, classes: Sequence[str],
                   shown: Collection[str]) -> Views:
    """Return the views of rgb uint8 [h, w, 3] and its label map, with the classes in `shown`."""
    if not classes:
        return Views(enlarge_for_view(rgb))
    kept = np.array([0] + [label for label, name in enumerate(classes, 1) if name in shown])
    label_map = np.where(np.isin(label_map, kept), label_map, 0)
    coloured = channels.colourise(label_map, len(classes))
    overlay = pictures.overlay(rgb, label_map, len(classes))
    return Views(*map(enlarge_for_view, (rgb, coloured, overlay)))


def enlarge_for_view(picture: np.ndarray) -> np.ndarray:
    """Return a small picture enlarged by a whole factor, so that its pixels are visible."""
    return pictures.enlarge(picture, max(1, SIDE // max(picture.shape[:2])))
