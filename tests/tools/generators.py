"""Snapshots of random generators with visible noise and varied maps."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from training import snapshots
from training.networks_stylegan import G_style

RESOLUTION = 16


def save_network(path: Path, classes: tuple, seed: int = 1, change: Callable | None = None,
                 dataset: dict | None = None, label_size: int = 0, **lod) -> Path:
    """Write a snapshot of a random generator and return its path.

    Args:
        change: function that changes its arrays.
        dataset: the header's entry about the data.
        label_size: length of the labels that it takes.
        lod: the growth state, if it is not the final one.
    """
    network = G_style("Gs", num_channels=3 + len(classes), resolution=RESOLUTION, latent_size=8,
                      dlatent_size=8, mapping_fmaps=8, fmap_base=64, fmap_max=8, seed=seed,
                      label_size=label_size)
    rng = np.random.default_rng(seed)
    arrays = network.get_arrays()
    for name, array in arrays.items():
        if name.endswith("Noise/weight") or name == "dlatent_avg":
            arrays[name] = 0.3 * rng.standard_normal(array.shape, np.float32)
        elif name.endswith("bias") and "ToRGB" in name:
            array[3:] = -1.5  # some background
    if change:
        change(arrays)
    network.set_arrays(arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    snapshots.save_snapshot(path, {"Gs": network}, {
        "stage": "classes", "classes": list(classes), "kimg": 1.0,
        "lod": {"resolution": RESOLUTION, "fade": 0.0} | lod,
        **({"dataset": dataset} if dataset else {})})
    return path
