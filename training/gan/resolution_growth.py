"""A trained network as the coarser part of a larger one, which then fades in.

Progressive growing makes a network for its largest size at once and trains the coarse layers first.
One that was trained to its end is those coarse layers: the larger network draws and scores its
images as it did, as long as the new layers take no part.
"""

import re

from dnnlib.tflib.network import Network, build
from training.gan.channel_growth import rebuilt

_OF_LOD = re.compile(r"(.*_lod)(\d+)(/.*)")  # layers that are called by their distance to the end


def grow_resolution(old: Network, resolution: int) -> Network:
    """Return a network of a larger size with the layers of `old`, which stays as it is; the others
    are fresh, by its seed."""
    steps = (resolution // old.resolution).bit_length() - 1
    fresh = build(type(old).__name__, old.name, {**old.config, "resolution": resolution})
    return rebuilt(old, {**fresh.get_arrays(), **{
        _OF_LOD.sub(lambda m: f"{m[1]}{int(m[2]) + steps}{m[3]}", name): value
        for name, value in old.get_arrays().items()}}, resolution=resolution)
