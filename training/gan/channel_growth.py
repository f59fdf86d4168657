"""Widening a network's colour and class channels.

Stage 2 adds a binary map that starts as a copy of the red channel; stage 3 turns it into C class
maps that start as copies of the binary one (Korneliusson et al. 2019, section 2). ToRGB and FromRGB
grow at every lod.

Our addition: since copies of one map stay alike for long, G's new maps may start empty instead, and
D's new inputs with no effect or with fresh random weights (docs/results.md shows the results).

Equalised learning rate divides a stored weight by sqrt(fan_in). FromRGB's fan_in is the number of
channels, so with use_wscale a stored weight is rescaled by sqrt(new / old) to keep the *effective*
weight of the old channels. ToRGB's fan_in is the number of feature maps, which does not change.
"""

import numpy as np

from dnnlib.data.channels import NUM_COLOURS
from dnnlib.tflib import ops
from dnnlib.tflib.network import Network, build

EMPTY = -0.5  # value of a map where its class is not present


def source_channels(old_channels: int, new_channels: int) -> list[int]:
    """Return, for every new channel, the old channel that it starts from.

    Colours start from themselves; maps from the last old channel if it is a map, else from red.

    Raises:
        ValueError: `new_channels` would drop a channel.
    """
    narrower = new_channels < old_channels
    if narrower or (old_channels > NUM_COLOURS + 1 and new_channels != old_channels):
        raise ValueError(f"cannot grow {old_channels} channels to {new_channels}")
    if new_channels == old_channels:
        return list(range(old_channels))
    mother = NUM_COLOURS if old_channels > NUM_COLOURS else 0
    return list(range(NUM_COLOURS)) + [mother] * (new_channels - NUM_COLOURS)


def grow_generator(old: Network, num_channels: int, new_maps: str = "copy") -> Network:
    """Return a new generator with `num_channels` outputs and unchanged colours.

    Args:
        old: the generator to grow; not changed.
        new_maps: 'copy' starts each map as its source (see `source_channels`); 'empty' starts all
            maps anew, with no class anywhere.
    """
    sources = source_channels(old.num_channels, num_channels)
    arrays = {}
    for name, value in old.get_arrays().items():
        if "/ToRGB_lod" in name:
            value = value[..., sources]
            if new_maps == "empty" and num_channels != old.num_channels:
                value[..., NUM_COLOURS:] = EMPTY if name.endswith("/bias") else 0
        arrays[name] = value
    return _rebuilt(old, arrays, num_channels)


def grow_critic(old: Network, num_channels: int, new_inputs: str = "copy") -> Network:
    """Return a new discriminator with `num_channels` inputs; old channels keep their weight.

    Args:
        old: the discriminator to grow; not changed.
        new_inputs: 'copy' gives a new channel its source's effective weight. 'zero' gives it no
            effect, so that an image's score depends only on its old channels and does not change;
            the first class map takes the place of the binary map, with its weight. 'fresh' draws
            the weights of all maps anew, as large as the initial weights of an RGB network's
            colours.
    """
    sources = source_channels(old.num_channels, num_channels)
    equalised = old.options.use_wscale
    scale = np.float32(np.sqrt(num_channels / old.num_channels) if equalised else 1)
    random = np.random.default_rng([old.options.seed, num_channels])
    arrays = {}
    for name, value in old.get_arrays().items():
        if name.startswith("FromRGB_lod") and name.endswith("/weight"):
            value = value[:, :, sources, :] * scale  # [1, 1, num_channels, fmaps]
            if new_inputs == "zero":
                value[:, :, old.num_channels:, :] = 0
            elif new_inputs == "fresh" and num_channels != old.num_channels:
                drawn = random.standard_normal(value[:, :, NUM_COLOURS:].shape)
                value[:, :, NUM_COLOURS:] = drawn * (
                    np.sqrt(num_channels / NUM_COLOURS) if equalised
                    else ops.he_std(value[:, :, :NUM_COLOURS].shape))
        arrays[name] = value
    return _rebuilt(old, arrays, num_channels)


def _rebuilt(old, arrays, num_channels):
    """Return a network like `old` with `num_channels` channels and the given arrays."""
    network = build(type(old).__name__, old.name, {**old.config, "num_channels": num_channels})
    network.set_arrays(arrays, source="growth")
    return network
