"""Read networks from pickles of the official StyleGAN release of 2019, and name arrays as it does.

A pickle is read as data (dnnlib/safe_pickle.py): nothing in it is executed, and the source code
that official pickles contain is ignored.

Source of the options and defaults: the networks G_style (with G_mapping and G_synthesis) and
D_basic of the release. Its functions ignore keywords that they do not know. A fork's extra option
may change what is computed, so here an unknown option is an error.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dnnlib.safe_pickle import Record, printable, read_array, read_pickle
from dnnlib.util import UserError, arrays_digest
from training.config import num_fmaps

AUTO_FUSED_FROM = 128  # fused_scale='auto' fuses layers whose finer resolution is at least this

_CLASS = "dnnlib.tflib.network.Network"
_VERSION = 3
_PARTS = {"mapping": "G_mapping", "synthesis": "G_synthesis"}
_UP_KERNEL = re.compile(r"(?:\w+/)*(\d+)x\d+/Conv0_up/weight")
_LARGEST = 2**20  # limit of any number in the options

_SHARED = {"label_size": 0, "fmap_base": 8192, "fmap_decay": 1.0, "fmap_max": 512,
           "nonlinearity": "lrelu", "use_wscale": True}
_DEFAULTS = {
    "G_style": {
        **_SHARED, "num_channels": 3, "resolution": 1024, "latent_size": 512, "dlatent_size": 512,
        "mapping_layers": 8, "mapping_fmaps": 512, "mapping_lrmul": 0.01,
        "mapping_nonlinearity": "lrelu", "normalize_latents": True, "use_styles": True,
        "const_input_layer": True, "use_noise": True, "use_pixel_norm": False,
        "use_instance_norm": True},
    "D_basic": {**_SHARED, "num_channels": 1, "resolution": 32, "mbstd_group_size": 4,
                "mbstd_num_features": 1}}
_OUR_NAMES = {"const_input_layer": "const_input"}
_MAY_BE_0 = ("label_size", "mapping_layers", "fmap_decay", "mbstd_group_size")

# Options of how a network is computed: {name: known values, the default first}.
_FORMS = {
    "fused_scale": ("auto", True, False), "structure": ("auto", "linear", "recursive", "fixed"),
    "blur_filter": ([1, 2, 1], None, []), "dtype": ("float32",), "mapping_func": ("G_mapping",),
    "synthesis_func": ("G_synthesis",)}

# Options that do not define the network's function: our commands choose truncation and noise for
# every image; mixing, the average of w and the rest only act in training or graph building.
_NOT_OURS = {"truncation_psi", "truncation_cutoff", "truncation_psi_val", "truncation_cutoff_val",
             "randomize_noise", "style_mixing_prob", "dlatent_avg_beta", "dlatent_broadcast",
             "is_training", "is_validation", "is_template_graph", "force_clean_graph", "func_name"}


@dataclass(frozen=True)
class Options:
    """A network's options.

    Attributes:
        config: keyword arguments of our network. fused_scale: 'auto', True or False.
        fixed: whether the network ignores its lod.
    """

    config: dict
    fused_scale: str | bool
    fixed: bool

    def fuses(self, resolution: int) -> bool:
        """Return whether an up-convolution to `resolution` is fused; its kernel is then stored
        flipped."""
        if self.fused_scale == "auto":
            return resolution >= AUTO_FUSED_FROM
        return self.fused_scale


@dataclass(frozen=True)
class _Network:
    """One network of a pickle: our type and options, its arrays by official name, its lod."""

    kind: str
    options: Options
    arrays: dict
    lod: float


def read(path: str | Path) -> tuple[dict, dict]:
    """Read an official pickle as snapshots.load_container reads a snapshot.

    Returns:
        (header, {group: {name: float32 array}}); up-kernels are turned back if the official
        network used the fused form.

    Raises:
        UserError: it is not a tuple (G, D, Gs) of networks that this program can compute.
    """
    content = read_pickle(path, [_CLASS])
    if type(content) is not tuple or len(content) != 3 \
            or not all(isinstance(part, Record) for part in content):
        other = "a single network" if isinstance(content, Record) else f"a {type(content).__name__}"
        raise UserError(f"{path}: a pickle of {other}; one of StyleGAN's official TensorFlow "
                        "release holds three networks, (G, D, Gs)")
    G, D, Gs = (_read_network(record, kind, f"{path}: network {name}") for record, kind, name
                in zip(content, ("G_style", "D_basic", "G_style"), ("G", "D", "Gs")))
    _check_together(path, G, D, Gs)
    critic = "D_rgb" if G.options.config["num_channels"] == 3 else "D_joint"
    networks = {"G": G, "Gs": Gs, critic: D}
    groups = {group: {name: _rotate_up_kernel(name, value, network.options.fuses)
                      for name, value in network.arrays.items()}
              for group, network in networks.items()}
    return _header(path, networks, groups), groups


def _read_network(record, kind, where):
    """Read a Record as a _Network of `kind`, including the parts of a G_style."""
    state = _state(record, kind, where)
    given, arrays = dict(state["static_kwargs"]), _variables(state, where)
    parts = _PARTS if kind == "G_style" else {}
    components = state.get("components", {})
    if type(components) is not dict or components.keys() != parts.keys():
        raise UserError(f"{where}: expected the components {', '.join(parts) or 'none'}")
    for part, function in parts.items():
        inner = _state(components[part], function, f"{where}, {part}")
        given = {**inner["static_kwargs"], **given}  # the whole network passes its own to the part
        found = {f"{function}/{name}": value for name, value in _variables(inner, where).items()}
        for name in found.keys() & arrays.keys():
            raise UserError(f"{where}: two variables {printable(name)}")
        arrays |= found
    if "lod" not in arrays:
        raise UserError(f"{where}: has no variable lod")
    lod = float(arrays.pop("lod"))
    arrays.pop("G_synthesis/lod", None)  # a copy of the whole network's
    options = read_options(kind, given, where)
    if _least_size(kind, options.config) > sum(value.size for value in arrays.values()):
        raise UserError(f"{where}: its options describe a larger network than its variables are")
    return _Network(kind, options, arrays, 0.0 if options.fixed else lod)


def _state(record, function, where):
    """Return the state of a network that `function` builds, after checking its entries."""
    state = record.state if isinstance(record, Record) and record.name == _CLASS else None
    if type(state) is not dict or record.args:
        raise UserError(f"{where}: is no network")
    if type(state.get("version")) is not int or state["version"] != _VERSION:
        raise UserError(f"{where}: not in version {_VERSION} of the format, that of the StyleGAN "
                        "release of 2019 (StyleGAN2 has another)")
    for name, kind in (("static_kwargs", dict), ("variables", list), ("build_func_name", str)):
        if type(state.get(name)) is not kind:
            raise UserError(f"{where}: its {name} are missing or damaged")
    if not all(type(name) is str for name in state["static_kwargs"]):
        raise UserError(f"{where}: its static_kwargs are damaged")
    if state["build_func_name"] != function:
        raise UserError(f"{where}: built by {printable(state['build_func_name'])}; this program "
                        f"knows {function}")
    return state


def _variables(state, where):
    """Return {official name: float32 array}, after checking that every array is finite."""
    arrays = {}
    for entry in state["variables"]:
        if type(entry) is not tuple or len(entry) != 2 or type(entry[0]) is not str:
            raise UserError(f"{where}: its variables are damaged")
        name = entry[0]
        if name in arrays:
            raise UserError(f"{where}: two variables {printable(name)}")
        # The value must be a finite float32 array.
        try:
            value = read_array(entry[1])
            if value.dtype.kind != "f" or value.dtype.itemsize != 4:
                raise ValueError(f"it has {value.dtype}")
        except ValueError as error:
            raise UserError(f"{where}: variable {printable(name)} is no array of float32 ({error})"
                            ) from None
        if not np.isfinite(value).all():
            raise UserError(f"{where}: variable {printable(name)} has values that are not finite: "
                            "a training that diverged; take an earlier pickle")
        arrays[name] = np.asarray(value, np.float32)
    if arrays.get("lod", np.float32(0)).shape:
        raise UserError(f"{where}: variable lod is no single number")
    return arrays


def _check_together(path, G, D, Gs):
    """Raise UserError if D does not fit G and Gs, or a lod is out of range."""
    if G.options != Gs.options:
        raise UserError(f"{path}: G and Gs are networks of different options")
    for name in ("resolution", "num_channels", "label_size"):
        if D.options.config[name] != G.options.config[name]:
            raise UserError(f"{path}: {name} is {G.options.config[name]} in G and "
                            f"{D.options.config[name]} in D")
    if G.options.config["num_channels"] < 3:
        raise UserError(f"{path}: draws {G.options.config['num_channels']} channels; this program "
                        "needs at least three colours")
    coarsest = G.options.config["resolution"].bit_length() - 3
    for lod in (G.lod, D.lod, Gs.lod):
        if not 0 <= lod <= coarsest:
            raise UserError(f"{path}: its lod is {lod:g}; a network of this resolution has 0 to "
                            f"{coarsest}")


def _header(path, networks, groups):
    """Return a snapshot's header; an official pickle records no data set and no metrics.

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


def _rotate_up_kernel(name, value, fuses):
    """Return an up-kernel rotated by 180 degrees if `fuses(resolution)`, other values unchanged.

    fused(x, k) = conv(nearest_up(x), k[::-1, ::-1]): the official transposed convolution flips its
    kernel.
    """
    match = _UP_KERNEL.fullmatch(name)
    if match and fuses(int(match[1])):
        return np.ascontiguousarray(value[::-1, ::-1])
    return value


# Options

def read_options(function: str, given: dict, where: str) -> Options:
    """Return Options for the static_kwargs `given` of `function` ('G_style' or 'D_basic').

    Raises:
        UserError: a name or value is unknown; the message begins with `where`.
    """
    defaults = _DEFAULTS[function]
    unknown = sorted(given.keys() - defaults.keys() - _FORMS.keys() - _NOT_OURS)
    if unknown:
        raise UserError(f"{where}: unknown options {', '.join(map(printable, unknown))}: "
                        "not of the official release, and what they change is not known here")
    # How the network is computed: only known values are allowed.
    given = {name: _plain(value) for name, value in given.items()}
    forms = {}
    for name, allowed in _FORMS.items():
        value = given.get(name, allowed[0])
        if not any(type(value) is type(known) and value == known for known in allowed):
            raise UserError(f"{where}: {name} is {_in_words(value)}; this program knows "
                            f"{', '.join(map(repr, allowed))}")
        forms[name] = value
    # The options of our networks, under our names.
    config = {_OUR_NAMES.get(name, name): _read_value(name, given.get(name, default), default,
                                                      where)
              for name, default in defaults.items()}
    size = config["resolution"]
    if size < 4 or size & (size - 1):
        raise UserError(f"{where}: resolution is {size}, not one of 4, 8, 16, ...")
    config["blur"] = forms["blur_filter"] == [1, 2, 1]
    return Options(config, forms["fused_scale"], forms["structure"] == "fixed")


def _plain(value):
    """Return a NumPy number as Python's, a tuple as a list, other values unchanged."""
    if isinstance(value, Record):
        try:
            value = read_array(value)
        except ValueError:
            return value
        return value.item() if value.ndim == 0 else value
    return list(value) if type(value) is tuple else value


def _read_value(name, value, default, where):
    """Return a value with its default's type; raise UserError if its type or size is wrong."""
    if isinstance(default, float) and type(value) is int:
        value = float(min(value, _LARGEST))
    if type(value) is not type(default):
        raise UserError(f"{where}: {name} is {_in_words(value)}, expected something like "
                        f"{default!r}")
    if isinstance(default, str) and value not in ("lrelu", "relu"):
        raise UserError(f"{where}: {name} is {_in_words(value)}; this program knows lrelu and relu")
    least = 0 if name in _MAY_BE_0 else 1
    if isinstance(default, float):
        fine = math.isfinite(value) and 0 <= value <= 16 and (value > 0 or least == 0)
    else:
        fine = isinstance(default, bool | str) or least <= value <= _LARGEST
    if not fine:
        raise UserError(f"{where}: {name} is {_in_words(value)}, which no network has")
    return value


def _in_words(value):
    """Return a value from an untrusted file as text for a message; only its type if not simple."""
    if isinstance(value, str):
        return printable(repr(value[:200]))
    simple = value is None or isinstance(value, bool | float)
    small = isinstance(value, int) and abs(value) < 2**63
    return repr(value) if simple or small else f"a {type(value).__name__}"


def _least_size(function, config):
    """Return a lower bound, not much too low, on the count of numbers in a network of this config.

    It is checked before the network is built, so that a small file cannot fill the memory.
    """
    c, top = config, config["resolution"].bit_length() - 1
    fmaps = [num_fmaps(stage, c["fmap_base"], c["fmap_decay"], c["fmap_max"])
             for stage in range(top)]
    size = 9 * sum(n * n for n in fmaps[1:]) + c["num_channels"] * sum(fmaps[1:])
    if function == "D_basic":
        return size + fmaps[0] * (16 * fmaps[1] + max(c["label_size"], 1))
    layers, width = c["mapping_layers"], c["mapping_fmaps"]
    size += c["label_size"] * c["latent_size"] + c["dlatent_size"]
    if layers:
        first, last = (width, width) if layers > 1 else (c["dlatent_size"], 0)
        size += c["latent_size"] * first + max(layers - 2, 0) * width**2 + last * c["dlatent_size"]
    return size + (c["resolution"] ** 2 if c["use_noise"] else 0)


# Names of the release

def official_arrays(header: dict, groups: dict) -> dict[str, np.ndarray]:
    """Return {official name: float32 array} of a snapshot: G/..., D/..., Gs/..., with their lods.

    D is the critic that sees all channels that G draws; it is left out if there is none.
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
            arrays |= {f"{theirs}/{name}": _rotate_up_kernel(name, value,
                                                             lambda r: r >= AUTO_FUSED_FROM)
                       for name, value in groups[ours].items()}
    return arrays


def critic_of(header: dict) -> str | None:
    """Return the name of the critic that sees as many channels as G draws, or None."""
    made = header["networks"]
    width = made["Gs"]["config"]["num_channels"]
    return next((name for name, network in made.items() if name.startswith("D_")
                 and network["config"]["num_channels"] == width), None)
