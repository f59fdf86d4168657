"""Draw sheets of generated samples: a grid of seeds, an interpolation, a style mix; and one file
per seed."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from dnnlib import util
from dnnlib.data import channels, pictures
from dnnlib.data.class_list import write_class_list
from dnnlib.data.labelled import LABELS
from dnnlib.util import UserError
from generation.labelling import check_listed_classes
from generation.pairs import SAMPLES, to_pairs
from training.decoder.labels import FILE_NAME as LABELLING
from training.decoder.labels import picture_name
from training.sampler import Sampler, label_maps


@dataclass(frozen=True)
class Sheet:
    """Cells of a picture: uint8 [N, height, width, 3], a caption for each, in `columns`."""

    cells: np.ndarray
    captions: list[str]
    columns: int

    def draw(self, factor: int = 1) -> np.ndarray:
        """Return the picture uint8 [height, width, 3], every pixel `factor` times as large."""
        cells = [np.concatenate([pictures.enlarge(cell, factor),
                                 pictures.caption(text, factor * cell.shape[1])])
                 for cell, text in zip(self.cells, self.captions, strict=True)]
        return pictures.image_grid(np.stack(cells), self.columns)


def seed_grid(sampler: Sampler, seeds: Sequence[int], psi: float, noise: str,
              minibatch: int) -> Sheet:
    """Return an approximately square sheet with image, map and overlay of every seed (only the
    image if there are no maps)."""
    num_classes = len(sampler.classes)

    def draw(images: np.ndarray) -> np.ndarray:
        shown = panels(images)
        if num_classes:
            shown.append(pictures.overlay(shown[0], label_maps(images), num_classes))
        return np.concatenate(shown, axis=2)

    cells = _gather(sampler.seed_images(seeds, psi, noise, minibatch), len(seeds), draw)
    columns = math.ceil(math.sqrt(len(seeds) / (3 if num_classes else 1)))
    return Sheet(cells, [f"seed {seed}" for seed in seeds], columns)


def interpolation(sampler: Sampler, seed1: int, seed2: int, steps: int, psi: float, noise: str,
                  minibatch: int) -> Sheet:
    """Return a sheet that interpolates between two latents in `steps` images, maps below them
    (thesis, figure 5.9). All share the first seed's noise: only the latent changes."""
    latents = interpolate(*(sampler.seed_latents([seed]) for seed in (seed1, seed2)), steps)
    batches = sampler.dlatent_images(sampler.dlatents(latents, psi), [seed1] * steps, noise,
                                     minibatch)
    cells = _gather(batches, steps, lambda images: np.concatenate(panels(images), axis=1))
    between = [f"{step / (steps - 1):.2f}" for step in range(1, steps - 1)]
    captions = [f"seed {seed1}", *between, f"seed {seed2}"]
    return Sheet(cells, captions, columns=steps)


def interpolate(z1: np.ndarray, z2: np.ndarray, steps: int) -> np.ndarray:
    """Return latents [steps, latent_size] at equal distances on the line from z1 to z2, both ends
    included."""
    return z1 - np.arange(steps)[:, None] / (steps - 1) * (z1 - z2)


def style_mix(sampler: Sampler, row_seeds: Sequence[int], col_seeds: Sequence[int],
              layers: Sequence[int], psi: float, noise: str, minibatch: int) -> Sheet:
    """Return the sheet of row seeds down the left, column seeds along the top; inside, the row's
    sample with the styles of `layers` from the column (StyleGAN, figure 3). Every image has its map
    beside it.

    Raises UserError for a layer that the network does not have at this resolution.
    """
    if sampler.network.num_styles == 1:
        raise UserError("--col-styles: the network has no styles")
    if max(layers) >= sampler.num_layers:
        raise UserError(f"--col-styles: the network has layers 0-{sampler.num_layers - 1}, "
                        f"not {max(layers)}")
    columns, rows = (sampler.dlatents(sampler.seed_latents(seeds), psi)
                     for seeds in (col_seeds, row_seeds))
    dlatents = np.concatenate([columns, rows, mix_styles(rows, columns, layers)])
    noise_seeds = [*col_seeds, *row_seeds, *np.repeat(row_seeds, len(col_seeds)).tolist()]
    batches = sampler.dlatent_images(dlatents, noise_seeds, noise, minibatch)
    cells = _gather(batches, len(dlatents), lambda images: np.concatenate(panels(images), axis=2))
    # Arrange the cells [columns, then rows, then rows x columns of mixes] in lines.
    top, left, inner = np.split(cells, np.cumsum([len(columns), len(rows)]))
    inner = inner.reshape(len(rows), len(columns), *cells.shape[1:])
    lines = [np.concatenate([np.zeros_like(cells[:1]), top])]
    lines += [np.concatenate([row[None], line]) for row, line in zip(left, inner)]
    captions = ["", *(f"column: seed {seed}" for seed in col_seeds)]
    for row in row_seeds:
        captions += [f"row: seed {row}", *(f"{row} + layers of {column}" for column in col_seeds)]
    return Sheet(np.concatenate(lines), captions, len(columns) + 1)


def mix_styles(rows: np.ndarray, columns: np.ndarray, layers: Sequence[int]) -> np.ndarray:
    """Return dlatents [R*C, L, size]: each of `rows` [R, L, size] with `layers` from each of
    `columns` [C, L, size]."""
    mixed = np.repeat(rows[:, None], len(columns), axis=1)
    mixed[:, :, layers] = columns[None][:, :, layers]
    return mixed.reshape(-1, *rows.shape[1:])


def write_files(sampler: Sampler, seeds: Sequence[int], out: Path, psi: float, noise: str,
                minibatch: int) -> None:
    """Write out/seed0000.png for every seed, named as by the official tools, its label map as
    out/labels/seed0000.png, and the names of the classes. Label maps have a folder of their own,
    since metrics and other programs read all pictures of a folder. Pixels are those of the same
    seeds' pairs (generation.pairs), with the padding around photos.

    Raises:
        UserError: the folder holds pictures to be labelled, pairs, or maps of other classes.
    """
    for name in (LABELLING, SAMPLES):
        if (out / name).exists():
            raise UserError(f"--out={out}: has a {name}: files of its pictures would be replaced; "
                            "choose another folder")
    check_listed_classes(out, sampler.classes)
    if sampler.classes:
        write_class_list(out, sampler.classes)
    for seed, rgb, label_map in seed_pairs(sampler, seeds, psi, noise, minibatch):
        pictures.save_png(out / picture_name(seed), rgb)
        if sampler.classes:
            pictures.save_label_png(out / LABELS / picture_name(seed), label_map,
                                    len(sampler.classes))


def seed_pairs(sampler: Sampler, seeds: Sequence[int], psi: float, noise: str,
               minibatch: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield each seed with its rgb uint8 [H, W, 3] and label map [H, W]; show a progress bar."""
    remaining = iter(seeds)
    with util.progress(total=len(seeds), desc="images", unit="img") as bar:
        for images in sampler.seed_images(seeds, psi, noise, minibatch):
            for rgb, label_map, seed in zip(*to_pairs(images), remaining):
                yield seed, rgb, label_map
                bar.update()


def _gather(batches: Iterator[tf.Tensor], total: int,
            draw: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return the cells uint8 [total, height, width, 3] that `draw` makes of minibatches of images;
    show a progress bar. The network's maps of all images together may take gigabytes."""
    cells = []
    with util.progress(total=total, desc="images", unit="img") as bar:
        for images in batches:
            cells.append(draw(images.numpy()))
            bar.update(len(cells[-1]))
    return np.concatenate(cells)


def panels(images: np.ndarray) -> list[np.ndarray]:
    """Return [rgb uint8 [N, H, W, 3]], and if there are maps, [rgb, colour-coded maps]."""
    found = [pictures.to_uint8(images[..., channels.RGB])]
    if images.shape[-1] > channels.NUM_COLOURS:
        found.append(pictures.map_pictures(images[..., channels.SEGMAPS]))
    return found
