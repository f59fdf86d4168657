"""Write pickles like the official release's, for tests: the same classes, states and opcodes."""

import contextlib
import functools
import pickle
from unittest import mock

import numpy as np

import dnnlib.tflib.network
import dnnlib.util
from dnnlib.tflib.network import build

TINY = {"num_channels": 3, "resolution": 16, "fmap_base": 64, "fmap_max": 8}
TINY_G = {**TINY, "latent_size": 8, "dlatent_size": 8, "mapping_fmaps": 8, "mapping_layers": 2}
NOT_OFFICIAL = {"const_input": "const_input_layer", "blur": "blur_filter"}


class Network:
    """A stand-in that pickles as dnnlib.tflib.network.Network does."""

    def __init__(self, state):
        self.state = state

    def __getstate__(self):
        return self.state

    def __setstate__(self, state):
        raise AssertionError("unpickled in earnest")


class EasyDict(dict):
    """Pickles as dnnlib.util.EasyDict."""


for kind, module in ((Network, "dnnlib.tflib.network"), (EasyDict, "dnnlib.util")):
    kind.__module__, kind.__qualname__ = module, kind.__name__


def dumps(value, protocol=4):
    """Return pickle.dumps with the stand-ins under their official names."""
    with contextlib.ExitStack() as stack:
        for module, kind in ((dnnlib.tflib.network, Network), (dnnlib.util, EasyDict)):
            stack.enter_context(mock.patch.object(module, kind.__name__, kind, create=True))
        return pickle.dumps(value, protocol, fix_imports=False)


def official_state(name, function, kwargs, variables, components=()):
    """Return an official network's state: variables {name: array}, components {part: Network}."""
    return {"version": 3, "name": name, "static_kwargs": dict(kwargs),
            "components": dict(components), "build_module_src": "raise SystemExit('executed')",
            "build_func_name": function,
            "variables": [(k, np.float32(v) if np.ndim(v) == 0 else v)
                          for k, v in variables.items()]}


def official_generator(name, kwargs, arrays, lod=0.0):
    """Return a G_style of arrays {official name: array}: its parts hold their scopes' variables."""
    def part(scope, extra):
        own = {k[len(scope) + 1:]: v for k, v in arrays.items() if k.startswith(f"{scope}/")}
        first = {"lod": np.float32(lod)} if scope == "G_synthesis" else {}
        return Network(official_state(scope, scope, {**kwargs, **extra}, {**first, **own}))

    own = {"lod": np.float32(lod), **{k: v for k, v in arrays.items() if not k.startswith("G_")}}
    parts = {"synthesis": part("G_synthesis", {}),
             "mapping": part("G_mapping", {"dlatent_broadcast": 8})}
    return Network(official_state(name, "G_style", kwargs, own, parts))


def official_discriminator(kwargs, arrays, lod=0.0):
    """Return a D_basic of arrays."""
    variables = {"lod": np.float32(lod), **arrays}
    return Network(official_state("D", "D_basic", kwargs, variables))


def random_arrays(kind, config, seed):
    """Return {official name: array} of a network, every array moved off its initial value."""
    return {name: value.copy()
            for name, value in _random_arrays(kind, tuple(config.items()), seed).items()}


@functools.cache
def _random_arrays(kind, options, seed):
    rng = np.random.default_rng(seed)
    return {name: value + 0.3 * rng.standard_normal(value.shape).astype(np.float32)
            for name, value in build(kind, kind[0], dict(options)).get_arrays().items()}


def tiny_networks(lods=(0.0, 0.0, 0.0), G_kwargs=(), D_kwargs=(), **shared):
    """Return [G, D, Gs] in the official format, and {'G', 'D', 'Gs': {name: array}} as stored in
    it.

    G_kwargs, D_kwargs: official keywords besides those that our networks are built with (`shared`
    goes to all three).
    """
    G_config, D_config = {**TINY_G, **shared}, {**TINY, **shared}
    arrays = {"G": random_arrays("G_style", G_config, 1),
              "D": random_arrays("D_basic", D_config, 2),
              "Gs": random_arrays("G_style", G_config, 3)}
    G_kwargs, D_kwargs = {**G_config, **dict(G_kwargs)}, {**D_config, **dict(D_kwargs)}
    return [official_generator("G", G_kwargs, arrays["G"], lods[0]),
            official_discriminator(D_kwargs, arrays["D"], lods[1]),
            official_generator("Gs", G_kwargs, arrays["Gs"], lods[2])], arrays


def write_pickle(path, networks, protocol=4):
    """Write the tuple (G, D, Gs); return the path."""
    path.write_bytes(dumps(tuple(networks), protocol))
    return path
