"""Reference vectors: their files, layouts and names, and how two arrays are compared."""

import re
from collections import namedtuple
from pathlib import Path

import numpy as np

from dnnlib.tflib.network import build

# One compared array: error <= tolerance is agreement.
Comparison = namedtuple("Comparison", "quantity item error tolerance")

ELEMENTS, LOSSES, NORMS, INTEGERS = 1e-4, 1e-5, 1e-4, 1
# Output resolution from which official networks fuse: their up-kernels are flipped there.
FUSED_FROM = 128


# ---------------------------------------------------------------------------- comparing


def elements(quantity, item, ours, theirs):
    """max |a - b| / (1 + |b|): the tolerance holds absolutely and relatively."""
    ours, theirs = _same_shape(item, ours, theirs)
    return Comparison(quantity, item, _max(np.abs(ours - theirs) / (1 + np.abs(theirs))), ELEMENTS)


def losses(quantity, item, ours, theirs):
    """max |a - b| / max |b|."""
    ours, theirs = _same_shape(item, ours, theirs)
    error = _max(np.abs(ours - theirs)) / max(_max(np.abs(theirs)), 1e-30)
    return Comparison(quantity, item, error, LOSSES)


def norms(quantity, item, ours, theirs):
    """||a - b|| / ||b||, and ||a|| where b is zero (None counts as zero)."""
    ours = np.zeros_like(theirs) if ours is None else ours
    ours, theirs = _same_shape(item, ours, theirs)
    error = np.linalg.norm(ours - theirs) / (np.linalg.norm(theirs) or 1.0)
    return Comparison(quantity, item, _max(error), NORMS)


def integers(quantity, item, ours, theirs):
    """max |a - b| of uint8."""
    ours, theirs = _same_shape(item, ours, theirs)
    return Comparison(quantity, item, _max(np.abs(ours - theirs)), INTEGERS)


def _same_shape(item, ours, theirs):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"{item}: shape {ours.shape}, reference {theirs.shape}")
    return ours, theirs


def _max(values):
    """The largest value; infinity where one is not a number, so that nothing hides it."""
    return float(np.max(np.nan_to_num(values, nan=np.inf), initial=0.0))


# ---------------------------------------------------------------------------- layouts, names


def nhwc(x):
    """[N, C, H, W] -> [N, H, W, C]."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def nchw(x):
    """[N, H, W, C] -> [N, C, H, W]."""
    return np.asarray(x).transpose(0, 3, 1, 2)


def enlarge(x, octaves):
    """NHWC, every pixel repeated 2^octaves times both ways."""
    return np.asarray(x).repeat(2 ** octaves, 1).repeat(2 ** octaves, 2)


def shrink(x, octaves):
    """NHWC, mean over blocks of 2^octaves pixels both ways."""
    n, h, w, c = x.shape
    f = 2 ** octaves
    return x.reshape(n, h // f, f, w // f, f, c).mean((2, 4), dtype=np.float32)


def lod_of(name):
    """'images_lod1p7_linear' -> 1.7."""
    return float(re.search(r"lod([\dp]+)", name)[1].replace("p", "."))


def growth(network, lod):
    """{'resolution', 'fade'} of a network at this lod."""
    return {"resolution": network.resolution >> int(lod), "fade": np.float32(lod - int(lod))}


def labels_or_none(labels):
    """Labels [N, 0] mean: no labels."""
    return labels if labels.shape[1] else None


class Vectors:
    """A folder of reference vectors and the networks that its variables define."""

    def __init__(self, folder, tag):
        self.folder, self.tag = Path(folder), tag

    def load(self, name):
        """{array name: array} of `name`.npz, or None where the folder has no such file."""
        path = self.folder / f"{name}.npz"
        if not path.is_file():
            return None
        with np.load(path) as file:
            return {key: file[key] for key in file}

    def networks(self, fused=False):
        """G and D with the stored variables.

        `fused`: as the official code with fused layers everywhere computes, that is with every
        up-kernel flipped, and in our fused forms.
        """
        arrays = self.load(f"{self.tag}_vars")
        G, D = (build(kind, name, config) for kind, name, config in network_configs(arrays))
        for network in (G, D):
            prefix = f"{network.name}/"
            own = {k[len(prefix):]: v for k, v in arrays.items() if k.startswith(prefix)}
            own = {k: v for k, v in own.items() if k.split("/")[-1] != "lod"}
            own = {k: _flip_up_kernel(k, v, fused) for k, v in own.items()}
            network.set_arrays(own, f"{self.tag}_vars.npz")
            if fused:
                network.use_fused = lambda resolution, fmaps: True
        return G, D


def _flip_up_kernel(name, value, fused):
    match = re.search(r"(\d+)x\d+/Conv0_up/weight$", name)
    return value[::-1, ::-1] if match and (fused or int(match[1]) >= FUSED_FROM) else value


def network_configs(arrays):
    """((class, name, keywords) of G and D) that fit these variables."""
    sizes = [int(m[1]) for m in (re.match(r"D/(\d+)x\1/", k) for k in arrays) if m]
    resolution = max(sizes)
    stages = int(np.log2(resolution)) - 1
    fmaps = [arrays["D/4x4/Dense0/weight"].shape[1]]
    fmaps += [arrays[f"D/FromRGB_lod{stages - s}/bias"].shape[0] for s in range(1, stages + 1)]
    channels = arrays["D/FromRGB_lod0/weight"].shape[2]
    embedding = arrays.get("G/G_mapping/LabelConcat/weight")
    dense = [k for k in arrays if re.fullmatch(r"G/G_mapping/Dense\d+/weight", k)]
    latent_size, mapping_fmaps = arrays["G/G_mapping/Dense0/weight"].shape
    shared = {"num_channels": channels, "resolution": resolution, "fmap_max": max(fmaps),
              "fmap_base": fmaps[-1] * 2 ** stages,
              "label_size": 0 if embedding is None else embedding.shape[0]}
    style = {"latent_size": latent_size if embedding is None else embedding.shape[1],
             "dlatent_size": arrays["G/dlatent_avg"].shape[0],
             "mapping_layers": len(dense), "mapping_fmaps": mapping_fmaps}
    return ("G_style", "G", {**shared, **style}), ("D_basic", "D", shared)


def number(text):
    """'0p7' -> 0.7."""
    return float(text.replace("p", "."))
