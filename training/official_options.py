"""The keyword arguments of the official release's networks, as keywords of ours.

Source: the official StyleGAN release of 2019, networks G_style (with G_mapping and G_synthesis) and
D_basic; defaults are its own. Its functions swallow keywords that they do not know; a fork's extra
option may change what is computed, so here an unknown one is an error.
"""

import math
from dataclasses import dataclass

import numpy as np

from dnnlib.plain_pickle import shown
from dnnlib.util import UserError

AUTO_FUSED_FROM = 128  # finer resolution of a layer from which fused_scale='auto' fuses
_LARGEST = 2**20  # of any number in the options

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

# What a network is computed with: {name: values that are understood, the default first}.
_FORMS = {
    "fused_scale": ("auto", True, False), "structure": ("auto", "linear", "recursive", "fixed"),
    "blur_filter": ([1, 2, 1], None, []), "dtype": ("float32",), "mapping_func": ("G_mapping",),
    "synthesis_func": ("G_synthesis",)}

# What does not belong to the function that a network is: our commands choose truncation and noise
# for every image; mixing, the average of w and the rest only act in training or graph building.
_NOT_OURS = {"truncation_psi", "truncation_cutoff", "truncation_psi_val", "truncation_cutoff_val",
             "randomize_noise", "style_mixing_prob", "dlatent_avg_beta", "dlatent_broadcast",
             "is_training", "is_validation", "is_template_graph", "force_clean_graph", "func_name"}


@dataclass(frozen=True)
class Options:
    """config: keywords of our network. fused_scale: 'auto', True or False. fixed: whether the
    network ignores its lod."""

    config: dict
    fused_scale: str | bool
    fixed: bool

    def fuses(self, resolution):
        """Whether an up-convolution to `resolution` is fused, its kernel thus stored flipped."""
        if self.fused_scale == "auto":
            return resolution >= AUTO_FUSED_FROM
        return self.fused_scale


def read_options(function, given, where):
    """static_kwargs of `function` ('G_style' or 'D_basic') -> Options.

    Raises UserError, beginning with `where`, for unknown names and values.
    """
    defaults = _DEFAULTS[function]
    unknown = sorted(given.keys() - defaults.keys() - _FORMS.keys() - _NOT_OURS)
    if unknown:
        raise UserError(f"{where}: unknown options {', '.join(shown(name) for name in unknown)}: "
                        "not of the official release, and what they change is not known here")
    forms = {name: _read_form(name, given, where) for name in _FORMS}
    config = {}
    for name, default in defaults.items():
        value = _read_value(name, given.get(name, default), default, where)
        config[_OUR_NAMES.get(name, name)] = value
    size = config["resolution"]
    if size < 4 or size & (size - 1):
        raise UserError(f"{where}: resolution is {size}, not one of 4, 8, 16, ...")
    config["blur"] = forms["blur_filter"] == [1, 2, 1]
    return Options(config, forms["fused_scale"], forms["structure"] == "fixed")


def _plain(value):
    """A NumPy number or tuple as Python's own."""
    if isinstance(value, np.generic):
        return value.item()
    return list(value) if isinstance(value, tuple) else value


def _read_form(name, given, where):
    allowed = _FORMS[name]
    value = _plain(given.get(name, allowed[0]))
    for candidate in allowed:
        if type(value) is type(candidate) and value == candidate:
            return candidate
    known = ", ".join(repr(v) for v in allowed)
    raise UserError(f"{where}: {name} is {_say(value)}; this program knows {known}")


def _read_value(name, value, default, where):
    """A value of its default's type and of a reasonable size."""
    value = _plain(value)
    if isinstance(default, float) and type(value) is int:
        value = float(min(value, _LARGEST))
    if type(value) is not type(default):
        raise UserError(f"{where}: {name} is {_say(value)}, expected something like {default!r}")
    if isinstance(default, str) and value not in ("lrelu", "relu"):
        raise UserError(f"{where}: {name} is {_say(value)}; this program knows lrelu and relu")
    least = 0 if name in ("label_size", "mapping_layers", "fmap_decay", "mbstd_group_size") else 1
    if isinstance(default, float):
        fine = math.isfinite(value) and 0 <= value <= 16 and (value > 0 or least == 0)
    else:
        fine = isinstance(default, (bool, str)) or least <= value <= _LARGEST
    if not fine:
        raise UserError(f"{where}: {name} is {_say(value)}, which no network has")
    return value


def _say(value):
    """A value of a stranger's file for a message: its type where it is not simple."""
    if isinstance(value, str):
        return shown(repr(value[:200]))
    simple = value is None or isinstance(value, (bool, float))
    small = isinstance(value, int) and abs(value) < 2**63
    return repr(value) if simple or small else f"a {type(value).__name__}"


def least_size(function, config):
    """Fewer numbers than a network of this configuration holds, but not many fewer.

    Told before the network is built, so that a few bytes cannot ask for all memory.
    """
    c, top = config, config["resolution"].bit_length() - 1
    fmaps = [min(int(c["fmap_base"] / 2 ** (stage * c["fmap_decay"])), c["fmap_max"])
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
