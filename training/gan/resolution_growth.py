"""A trained network as the coarser part of a larger one, which then fades in.

Progressive growing makes a network for its largest size at once and trains the coarse layers first.
One that was trained to its end is those coarse layers: the larger network draws and scores its
images as it did, as long as the new layers take no part.
"""

import re

from dnnlib.tflib.network import Network, build


def grow_resolution(old: Network, resolution: int) -> Network:
    """Return a network of a larger size with the layers of `old`, which stays as it is; the others
    are fresh, by its seed."""
    network = build(type(old).__name__, old.name, {**old.config, "resolution": resolution})
    # ToRGB and FromRGB are called by their distance to the largest size, which is now larger.
    steps = (resolution // old.resolution).bit_length() - 1
    renamed = {re.sub(r"(?<=_lod)\d+(?=/)", lambda lod: str(int(lod[0]) + steps), name): value
               for name, value in old.get_arrays().items()}
    network.set_arrays({**network.get_arrays(), **renamed}, source="growth")
    return network
