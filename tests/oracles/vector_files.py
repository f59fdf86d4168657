"""Reference vectors: their files, layouts and names, and how two arrays are compared."""

import hashlib
import json
import re
from collections import namedtuple
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dnnlib.tflib.network import build

# One compared array; it agrees if error <= tolerance.
Comparison = namedtuple("Comparison", "quantity item error tolerance")

ELEMENTS, LOSSES, NORMS, INTEGERS, FEATURES = 1e-4, 1e-5, 1e-4, 1, 1e-3
# Output resolution from which official networks are fused: their up-kernels are flipped there.
FUSED_FROM = 128


# ---------------------------------------------------------------------------- comparing


def elements(quantity, item, ours, theirs):
    """Return max |a - b| / (1 + |b|): the tolerance holds absolutely and relatively."""
    ours, theirs = _same_shape(item, ours, theirs)
    return Comparison(quantity, item, _max(np.abs(ours - theirs) / (1 + np.abs(theirs))), ELEMENTS)


def losses(quantity, item, ours, theirs):
    """Return max |a - b| / max |b|."""
    ours, theirs = _same_shape(item, ours, theirs)
    error = _max(np.abs(ours - theirs)) / max(_max(np.abs(theirs)), 1e-30)
    return Comparison(quantity, item, error, LOSSES)


def relative(quantity, item, ours, theirs):
    """Return max |a - b| / (|b| + 0.01), for features between 0 and about 10."""
    ours, theirs = _same_shape(item, ours, theirs)
    error = _max(np.abs(ours - theirs) / (np.abs(theirs) + 0.01))
    return Comparison(quantity, item, error, FEATURES)


def norms(quantity, item, ours, theirs):
    """Return ||a - b|| / ||b||, or ||a|| if b is zero (None counts as zero)."""
    ours = np.zeros_like(theirs) if ours is None else ours
    ours, theirs = _same_shape(item, ours, theirs)
    error = np.linalg.norm(ours - theirs) / (np.linalg.norm(theirs) or 1.0)
    return Comparison(quantity, item, _max(error), NORMS)


def integers(quantity, item, ours, theirs):
    """Return max |a - b| of uint8."""
    ours, theirs = _same_shape(item, ours, theirs)
    return Comparison(quantity, item, _max(np.abs(ours - theirs)), INTEGERS)


def exactly(quantity, item, ours, theirs):
    """Return max |a - b| of values that must be equal; infinity if shapes differ."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if ours.shape != theirs.shape:
        return Comparison(quantity, item, np.inf, 0)
    error = _max(np.abs(ours.astype(np.float64) - theirs.astype(np.float64)))
    return Comparison(quantity, item, error, 0)


def same(quantity, item, ours, theirs):
    """Return 0 if two values of any kind are equal, else infinity."""
    return Comparison(quantity, item, 0.0 if ours == theirs else np.inf, 0)


def _same_shape(item, ours, theirs):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"{item}: shape {ours.shape}, reference {theirs.shape}")
    return ours, theirs


def _max(values):
    """Return the largest value; infinity if one is not a number, so that nothing is hidden."""
    return float(np.max(np.nan_to_num(values, nan=np.inf), initial=0.0))


# ---------------------------------------------------------------------------- layouts, names


def nhwc(x):
    """Turn [N, C, H, W] into [N, H, W, C]."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def nchw(x):
    """Turn [N, H, W, C] into [N, C, H, W]."""
    return np.asarray(x).transpose(0, 3, 1, 2)


def enlarge(x, lod_floor):
    """Repeat every pixel of NHWC images 2^lod_floor times in both directions."""
    return np.asarray(x).repeat(2 ** lod_floor, 1).repeat(2 ** lod_floor, 2)


def shrink(x, lod_floor):
    """Return NHWC means over blocks of 2^lod_floor pixels in both directions."""
    n, h, w, c = x.shape
    f = 2 ** lod_floor
    return x.reshape(n, h // f, f, w // f, f, c).mean((2, 4), dtype=np.float32)


def lod_of(name):
    """Convert 'images_lod1p7_linear' to 1.7."""
    return float(re.search(r"lod([\dp]+)", name)[1].replace("p", "."))


def growth(network, lod):
    """Return {'resolution', 'fade'} of a network at this lod."""
    return {"resolution": network.resolution >> int(lod), "fade": np.float32(lod - int(lod))}


def labels_or_none(labels):
    """Return None for labels [N, 0], else the labels."""
    return labels if labels.shape[1] else None


class Stored(Mapping):
    """A file's content by name; `used` has every leaf that was looked up.

    Iterating over the names uses nothing, so whatever no check asks for is found.
    """

    def __init__(self, path, content, used):
        self._path, self._content, self._used = path, content, used

    def __iter__(self):
        return iter(self._content)

    def __len__(self):
        return len(self._content)

    def __contains__(self, name):
        return name in self._content

    def __getitem__(self, name):
        value, path = self._content[name], f"{self._path}/{name}"
        if isinstance(value, dict):
            return Stored(path, value, self._used)
        self._used.add(path)
        return value


class Vectors:
    """A folder of reference vectors and the networks that its variables define.

    Attributes: used, paths 'file/name' of what was looked up; excused, {path: why nothing of ours
    is compared with it}.
    """

    def __init__(self, folder, tag):
        self.folder, self.tag = Path(folder), tag
        self.used, self.excused, self._cache = set(), {}, {}

    def load(self, name):
        """Return {array name: array} of `name`.npz, or None if the folder has no such file."""
        return self._load(f"{name}.npz", _read_arrays)

    def load_json(self, name):
        """Return the content of `name`.json, or None if the folder has no such file."""
        return self._load(f"{name}.json", lambda path: json.loads(path.read_text()))

    def _load(self, name, read):
        if name not in self._cache:
            path = self.folder / name
            content = read(path) if path.is_file() else None
            self._cache[name] = None if content is None else Stored(name, content, self.used)
        return self._cache[name]

    def path(self, name):
        """Return the path of another kind of file, or None if the folder has none."""
        if not (self.folder / name).is_file():
            return None
        self.used.add(name)
        return self.folder / name

    def sha256(self, path):
        """Return a file's hash, hex."""
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()

    def excuse(self, names, reason):
        """Give the reason why the folder's content under these paths is not compared."""
        self.excused.update(dict.fromkeys(names, reason))

    def leaves(self):
        """Return the paths of everything in the folder: arrays, values in JSON files, other files.

        Content that belongs to another configuration than `tag` is left out.
        """
        found, suffix = set(), "_vars.npz"
        others = {p.name.removesuffix(suffix) for p in self.folder.glob(f"*{suffix}")} - {self.tag}
        for path in sorted(p for p in self.folder.rglob("*") if p.is_file()):
            name = path.relative_to(self.folder).as_posix()
            if any(name.startswith(f"{other}_") or name == f"{other}.json" for other in others):
                continue
            if path.suffix == ".npz":
                found |= {f"{name}/{key}" for key in np.load(path).files}
            elif path.suffix == ".json":
                found |= set(_leaves(name, json.loads(path.read_text())))
            elif path.suffix != ".md":
                found.add(name)
        return found

    def forgotten(self):
        """Return the paths of everything that was neither looked up nor excused."""
        return sorted(self.leaves() - self.used - self.excused.keys())

    @staticmethod
    def _is_lod(name, value):
        """Return whether a variable is a network's lod, which the vectors' names give instead."""
        if name.split("/")[-1] != "lod":
            return False
        if value != 0:
            raise ValueError(f"{name} is {value} where the README says 0")
        return True

    def networks(self, fused=False):
        """Return G and D with the stored variables.

        `fused`: as the official code computes with fused layers everywhere, that is with every
        up-kernel flipped, and in our fused forms.
        """
        arrays = self.load(f"{self.tag}_vars")
        G, D = (build(kind, name, config) for kind, name, config in network_configs(arrays))
        for network in (G, D):
            prefix = f"{network.name}/"
            own = {k[len(prefix):]: arrays[k] for k in arrays if k.startswith(prefix)}
            own = {k: v for k, v in own.items() if not self._is_lod(k, v)}
            own = {k: _flip_up_kernel(k, v, fused) for k, v in own.items()}
            network.set_arrays(own, f"{self.tag}_vars.npz")
            if fused:
                network.use_fused_resampling = lambda resolution, fmaps: True
        return G, D


def _read_arrays(path):
    with np.load(path) as file:
        return {key: file[key] for key in file}


def _leaves(path, content):
    """Return the paths of everything in a JSON file's content that is not a dict."""
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _leaves(f"{path}/{name}", value)
        else:
            yield f"{path}/{name}"


def _flip_up_kernel(name, value, fused):
    match = re.search(r"(\d+)x\d+/Conv0_up/weight$", name)
    return value[::-1, ::-1] if match and (fused or int(match[1]) >= FUSED_FROM) else value


def network_configs(arrays):
    """Return ((class, name, keywords) of G and D) that fit these variables."""
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
    """Convert '0p7' to 0.7."""
    return float(text.replace("p", "."))
