"""Sheets of generated samples: a grid of seeds, an interpolation, a style mix."""

import math

import numpy as np

from dnnlib import channels, pictures
from dnnlib.util import UserError
from training.generation import label_maps


def seed_grid(sampler, seeds, psi, noise, minibatch):
    """Image, map and overlay of every seed, about square; only images where there are no maps.

    Returns uint8 [height, width, 3], as all functions here do.
    """
    images = _from_latents(sampler, sampler.latents(seeds), seeds, psi, noise, minibatch)
    panels, num_classes = _panels(images), len(sampler.classes)
    if num_classes:
        panels.append(pictures.overlay(panels[0], label_maps(images), num_classes))
    columns = math.ceil(math.sqrt(len(seeds) / len(panels)))
    return pictures.image_grid(np.concatenate(panels, axis=2), columns)


def interpolation(sampler, seed1, seed2, steps, psi, noise, minibatch):
    """The way from one latent to another, images above, maps below (thesis, figure 5.9).

    All share the first seed's noise, so that nothing but the latent changes.
    """
    latents = interpolate(sampler.latents([seed1]), sampler.latents([seed2]), steps)
    images = _from_latents(sampler, latents, [seed1] * len(latents), psi, noise, minibatch)
    return pictures.image_grid(np.concatenate(_panels(images)), columns=len(images))


def interpolate(z1, z2, steps):
    """Latents [steps + 1, latent_size] on the line z1 - j/steps (z1 - z2), j = 0..steps."""
    return z1 - np.arange(steps + 1)[:, None] / steps * (z1 - z2)


def style_mix(sampler, row_seeds, col_seeds, layers, psi, noise, minibatch):
    """Row seeds down the left, column seeds along the top; inside, the row's sample with `layers`
    from the column (StyleGAN, figure 3). Every image has its map beside it.

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
    return pictures.image_grid(np.concatenate(lines), columns=len(columns) + 1)


def mix_styles(rows, columns, layers):
    """dlatents [R*C, L, size]: those of each row, with `layers` taken from each column in turn.

    rows: [R, L, size]; columns: [C, L, size]; layers: indices below L.
    """
    mixed = np.repeat(rows[:, None], len(columns), axis=1)
    mixed[:, :, layers] = columns[None][:, :, layers]
    return mixed.reshape(-1, *rows.shape[1:])


def _from_latents(sampler, latents, noise_seeds, psi, noise, minibatch):
    """Images float32 [N, H, W, 3 + C] of latents [N, latent_size]."""
    return sampler.synthesize_many(sampler.dlatents(latents, psi), noise_seeds, noise, minibatch)


def _panels(images):
    """[colours uint8 [N, H, W, 3]], and where there are maps, [colours, colour-coded maps]."""
    panels = [pictures.to_uint8(images[..., channels.RGB])]
    if images.shape[-1] > channels.NUM_COLOURS:
        panels.append(pictures.map_pictures(images[..., channels.SEGMAPS]))
    return panels
