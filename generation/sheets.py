"""Sheets of generated samples: a grid of seeds, an interpolation, a style mix.

Each function returns a Sheet: cells and what is written under them. And one file per seed.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dnnlib import util
from dnnlib.data import channels, pictures
from dnnlib.util import UserError
from training.sampler import label_maps


@dataclass(frozen=True)
class Sheet:
    """`cells` uint8 [N, height, width, 3] in lines of `columns`; `captions`: one text for each."""

    cells: np.ndarray
    captions: list
    columns: int

    def draw(self, factor=1):
        """Return the picture uint8 [height, width, 3], every pixel `factor` times as large."""
        cells = [np.concatenate([pictures.enlarge(cell, factor),
                                 pictures.caption(text, factor * cell.shape[1])])
                 for cell, text in zip(self.cells, self.captions, strict=True)]
        return pictures.image_grid(cells, self.columns)


def seed_grid(sampler, seeds, psi, noise, minibatch):
    """Return the sheet of image, map and overlay of every seed, about square; of images alone where
    there are no maps."""
    images = _from_latents(sampler, sampler.latents(seeds), seeds, psi, noise, minibatch)
    panels, num_classes = _panels(images), len(sampler.classes)
    if num_classes:
        panels.append(pictures.overlay(panels[0], label_maps(images), num_classes))
    columns = math.ceil(math.sqrt(len(seeds) / len(panels)))
    return Sheet(np.concatenate(panels, axis=2), [f"seed {seed}" for seed in seeds], columns)


def interpolation(sampler, seed1, seed2, steps, psi, noise, minibatch):
    """Return the sheet of the way from one latent to another in `steps` images, maps below them
    (thesis, figure 5.9).

    All share the first seed's noise, so that nothing but the latent changes.
    """
    latents = interpolate(sampler.latents([seed1]), sampler.latents([seed2]), steps)
    images = _from_latents(sampler, latents, [seed1] * len(latents), psi, noise, minibatch)
    between = [f"{step / (steps - 1):.2f}" for step in range(1, steps - 1)]
    captions = [f"seed {seed1}", *between, f"seed {seed2}"]
    return Sheet(np.concatenate(_panels(images), axis=1), captions, columns=steps)


def interpolate(z1, z2, steps):
    """Return `steps` latents [steps, latent_size], at equal distances on the line from z1 to z2,
    both of which are among them."""
    return z1 - np.arange(steps)[:, None] / (steps - 1) * (z1 - z2)


def style_mix(sampler, row_seeds, col_seeds, layers, psi, noise, minibatch):
    """Return the sheet of row seeds down the left, column seeds along the top; inside, the row's
    sample with `layers` from the column (StyleGAN, figure 3). Every image has its map beside it.

    Raises UserError for a layer that the network does not have at this resolution.
    """
    if not sampler.network.config["use_styles"]:
        raise UserError("--col-styles: the network has no styles")
    if max(layers) >= sampler.num_layers:
        raise UserError(f"--col-styles: the network has layers 0-{sampler.num_layers - 1}, "
                        f"not {max(layers)}")
    sources = [sampler.dlatents(sampler.latents(seeds), psi) for seeds in (col_seeds, row_seeds)]
    columns, rows = sources
    dlatents = np.concatenate([columns, rows, mix_styles(rows, columns, layers)])
    noise_seeds = [*col_seeds, *row_seeds, *np.repeat(row_seeds, len(col_seeds)).tolist()]
    images = sampler.synthesize_many(dlatents, noise_seeds, noise, minibatch)
    cells = np.concatenate(_panels(images), axis=2)
    top, left, inner = np.split(cells, np.cumsum([len(columns), len(rows)]))
    inner = inner.reshape(len(rows), len(columns), *cells.shape[1:])
    lines = [np.concatenate([np.zeros_like(cells[:1]), top])]
    lines += [np.concatenate([row[None], line]) for row, line in zip(left, inner)]
    captions = ["", *(f"column: seed {seed}" for seed in col_seeds)]
    for row in row_seeds:
        captions += [f"row: seed {row}", *(f"{row} + layers of {column}" for column in col_seeds)]
    return Sheet(np.concatenate(lines), captions, len(columns) + 1)


def mix_styles(rows, columns, layers):
    """dlatents [R*C, L, size]: those of each row, with `layers` taken from each column in turn.

    rows: [R, L, size]; columns: [C, L, size]; layers: indices below L.
    """
    mixed = np.repeat(rows[:, None], len(columns), axis=1)
    mixed[:, :, layers] = columns[None][:, :, layers]
    return mixed.reshape(-1, *rows.shape[1:])


def write_files(sampler, seeds, out, psi, noise, minibatch):
    """Write out/seed0000.png of every seed, named as the official tools name them, and its label
    map as out/labels/seed0000.png: palette indices, 0 the background, 1..C the classes. Maps are in
    a folder of their own, since metrics and other programs take all pictures of a folder.

    Pixels are those that pairs (generation.pairs) of the same seeds have.
    """
    out, num_classes = Path(out), len(sampler.classes)
    with util.progress(total=len(seeds), desc="images", unit="img") as bar:
        for start in range(0, len(seeds), minibatch):
            part = seeds[start:start + minibatch]
            images = sampler.images(part, psi, noise)
            sampler.check_finite(images)
            rgb, maps = pictures.to_uint8_metrics(images[..., channels.RGB]), label_maps(images)
            for seed, colours, label_map in zip(part, rgb, maps):
                name = f"seed{seed:04d}.png"
                pictures.save_png(out / name, colours)
                if num_classes:
                    pictures.save_label_png(out / "labels" / name, label_map, num_classes)
                bar.update()


def _from_latents(sampler, latents, noise_seeds, psi, noise, minibatch):
    """Images float32 [N, H, W, 3 + C] of latents [N, latent_size]."""
    return sampler.synthesize_many(sampler.dlatents(latents, psi), noise_seeds, noise, minibatch)


def _panels(images):
    """[colours uint8 [N, H, W, 3]], and where there are maps, [colours, colour-coded maps]."""
    panels = [pictures.to_uint8(images[..., channels.RGB])]
    if images.shape[-1] > channels.NUM_COLOURS:
        panels.append(pictures.map_pictures(images[..., channels.SEGMAPS]))
    return panels
