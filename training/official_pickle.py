"""Read networks of the official StyleGAN release of 2019 from its pickles, name arrays as it does.

A pickle is read as data (dnnlib/plain_pickle.py); nothing in it is executed, and the source code
that official pickles carry is passed over.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dnnlib.plain_pickle import Record, array_of, is_pickle, read_pickle, shown
from dnnlib.util import UserError, arrays_digest
from training.official_options import AUTO_FUSED_FROM, Options, least_size, read_options

__all__ = ["is_pickle", "official_arrays", "read"]

_CLASS = "dnnlib.tflib.network.Network"
_VERSION = 3
_PARTS = {"mapping": "G_mapping", "synthesis": "G_synthesis"}
_UP_KERNEL = re.compile(r"(?:\w+/)*(\d+)x\d+/Conv0_up/weight")


@dataclass(frozen=True)
class _Network:
    """One network of a pickle: our type and options, its arrays by official name, its lod."""

    kind: str
    options: Options
    arrays: dict
    lod: float


def read(path):
    """(header, {group: {name: array}}) of an official pickle, as snapshots.load_container returns.

    Up-kernels are turned back where the official network used the fused form. Raises UserError for
    anything but a tuple (G, D, Gs) of networks that this program can compute.
    """
    content = read_pickle(path, [_CLASS])
    if isinstance(content, Record):
        raise UserError(f"{path}: holds a single network; official pickles hold three, (G, D, Gs)")
    if type(content) is not tuple or len(content) != 3 \
            or not all(isinstance(part, Record) for part in content):
        raise UserError(f"{path}: holds something else than the three networks (G, D, Gs) of an "
                        "official pickle")
    G, D, Gs = (_read_network(record, kind, f"{path}: network {name}") for record, kind, name
                in zip(content, ("G_style", "D_basic", "G_style"), ("G", "D", "Gs")))
    _check_together(path, G, D, Gs)
    critic = "D_rgb" if G.options.config["num_channels"] == 3 else "D_joint"
    networks = {"G": G, "Gs": Gs, critic: D}
    groups = {name: _ours(network) for name, network in networks.items()}
    return _header(path, networks, groups), groups


def _read_network(record, kind, where):
    """A Record -> _Network."""
    state = _state(record, kind, where)
    given, arrays = dict(state["static_kwargs"]), _variables(state, where)
    parts = _PARTS if kind == "G_style" else {}
    if type(state["components"]) is not dict or state["components"].keys() != parts.keys():
        raise UserError(f"{where}: expected the components {', '.join(parts) or 'none'}")
    for part, function in parts.items():
        inner = _state(state["components"][part], function, f"{where}, {part}")
        given = {**inner["static_kwargs"], **given}  # the whole passes its own on to the part
        for name, value in _variables(inner, where).items():
            full = f"{function}/{name}"
            if full in arrays:
                raise UserError(f"{where}: two variables {shown(full)}")
            arrays[full] = value
    if "lod" not in arrays:
        raise UserError(f"{where}: has no variable lod")
    lod = float(arrays.pop("lod"))
    arrays.pop("G_synthesis/lod", None)  # a copy of the whole network's
    options = read_options(kind, given, where)
    if least_size(kind, options.config) > sum(value.size for value in arrays.values()):
        raise UserError(f"{where}: its options describe a larger network than its variables are")
    return _Network(kind, options, arrays, 0.0 if options.fixed else lod)


def _state(record, function, where):
    """The state of a network that `function` builds, its entries checked."""
    if not isinstance(record, Record) or record.state is None:
        raise UserError(f"{where}: is no network")
    state = record.state
    if type(state.get("version")) is not int or state["version"] != _VERSION:
        raise UserError(f"{where}: not in version {_VERSION} of the format, that of the StyleGAN "
                        "release of 2019 (StyleGAN2 has another)")
    for name, kind in (("static_kwargs", dict), ("variables", list), ("build_func_name", str)):
        if type(state.get(name)) is not kind:
            raise UserError(f"{where}: its {name} are missing or damaged")
    state.setdefault("components", {})
    if state["build_func_name"] != function:
        raise UserError(f"{where}: built by {shown(state['build_func_name'])}; this program knows "
                        f"{function}")
    return state


def _variables(state, where):
    """{official name: float32 array}, every array finite."""
    arrays = {}
    for entry in state["variables"]:
        if type(entry) is not tuple or len(entry) != 2 or type(entry[0]) is not str:
            raise UserError(f"{where}: its variables are damaged")
        name, value = entry[0], array_of(entry[1])
        if name in arrays:
            raise UserError(f"{where}: two variables {shown(name)}")
        if value is None or value.dtype.kind != "f" or value.dtype.itemsize != 4:
            raise UserError(f"{where}: variable {shown(name)} is no array of float32")
        if not np.isfinite(value).all():
            raise UserError(f"{where}: variable {shown(name)} has values that are not finite: a "
                            "training that diverged; take an earlier pickle")
        arrays[name] = np.asarray(value, np.float32)
    if arrays.get("lod", np.float32(0)).shape:
        raise UserError(f"{where}: variable lod is no single number")
    return arrays


def _check_together(path, G, D, Gs):
    """G and Gs are of one make, D sees what they draw, and their lod is a stage of growing."""
    if G.options != Gs.options:
        raise UserError(f"{path}: G and Gs are networks of different options")
    for name in ("resolution", "num_channels", "label_size"):
        if D.options.config[name] != G.options.config[name]:
            raise UserError(f"{path}: {name} is {G.options.config[name]} in G and "
                            f"{D.options.config[name]} in D")
    if G.options.config["num_channels"] < 3:
        raise UserError(f"{path}: draws {G.options.config['num_channels']} channels; this program "
                        "wants three colours at least")
    coarsest = G.options.config["resolution"].bit_length() - 3
    for lod in (G.lod, D.lod, Gs.lod):
        if not 0 <= lod <= coarsest:
            raise UserError(f"{path}: its lod is {lod:g}; a network of this resolution has 0 to "
                            f"{coarsest}")


def _header(path, networks, groups):
    """What a snapshot's header would say; an official pickle knows no data set and no metrics.

    `lod` is that of Gs, which draws the images. It lags behind G's: the running average copies it
    before a step sets G's and D's. So `official_lod` keeps all three.
    """
    Gs = networks["Gs"]
    kimg = re.fullmatch(r"network-snapshot-(\d+)", Path(path).stem)
    maps = Gs.options.config["num_channels"] - 3
    return {
        "kind": "networks", "stage": "classes" if maps else "rgb",
        "classes": [f"map{i + 1}" for i in range(maps)], "kimg": float(kimg[1]) if kimg else None,
        "lod": {"resolution": Gs.options.config["resolution"] >> int(Gs.lod), "fade": Gs.lod % 1},
        "official_lod": {"D" if name.startswith("D_") else name: network.lod
                         for name, network in networks.items()},
        "dataset": {}, "scores": {}, "origin": f"official pickle {Path(path).name}",
        "digest": arrays_digest(groups["Gs"]),
        "digests": {name: arrays_digest(values) for name, values in groups.items()},
        "networks": {name: {"type": network.kind, "config": network.options.config}
                     for name, network in networks.items()}}


def _ours(network):
    """The arrays with every flipped up-kernel turned back."""
    return {name: _turned(name, value, network.options.fuses)
            for name, value in network.arrays.items()}


def _turned(name, value, fuses):
    """An up-kernel turned by 180 degrees where `fuses(resolution)`, any other value as it is.

    fused(x, k) = conv(nearest_up(x), k[::-1, ::-1]): the official transposed convolution reads its
    kernel the other way round.
    """
    match = _UP_KERNEL.fullmatch(name)
    if match and fuses(int(match[1])):
        return np.ascontiguousarray(value[::-1, ::-1])
    return value


def official_arrays(header, groups):
    """{official name: float32 array} of a snapshot: G/..., D/..., Gs/..., every lod included.

    D is the critic that sees all that G draws; it is missing where the snapshot has none.
    """
    lod = header["lod"]
    full = header["networks"]["Gs"]["config"]["resolution"]
    common = np.log2(full / lod["resolution"]) + lod["fade"]
    arrays = {}
    for theirs, ours in (("G", "G"), ("D", critic_of(header)), ("Gs", "Gs")):
        if ours in groups:
            level = np.float32(header.get("official_lod", {}).get(theirs, common))
            arrays[f"{theirs}/lod"] = level
            if theirs != "D":
                arrays[f"{theirs}/G_synthesis/lod"] = level
            arrays |= {f"{theirs}/{name}": _turned(name, value, lambda r: r >= AUTO_FUSED_FROM)
                       for name, value in groups[ours].items()}
    return arrays


def critic_of(header):
    """The name of the critic that sees as many channels as G draws, or None."""
    made = header["networks"]
    width = made["Gs"]["config"]["num_channels"]
    return next((name for name, network in made.items() if name.startswith("D_")
                 and network["config"]["num_channels"] == width), None)
