"""Network: named variables and the configuration that made them.

A network is built by name and keyword arguments, holds its variables under the official release's
names, and can be copied and digested. Saving is the snapshots' business, averaging the turn's.
"""

import inspect
import zlib

import numpy as np
import tensorflow as tf

from dnnlib.registry import Registry
from dnnlib.util import UserError, arrays_digest

NETWORKS = Registry("network")


class Network(tf.Module):
    """Base of all networks. Subclasses create all variables in their constructor, from `config`.

    Attributes:
        vars: {official name without the leading 'G/' or 'D/': tf.Variable}.
        config: {keyword: value}, JSON-able: `build(type, name, config)` makes the same network.
    """

    def __init__(self, name, config):
        super().__init__(name=name)
        # A tuple, since tf.Module would wrap a dict into one that JSON refuses.
        self._config = tuple(config.items())
        self.vars = {}

    @property
    def config(self):
        return dict(self._config)

    def add_variable(self, name, shape, initializer, trainable=True):
        """Create variable `name` as `initializer(rng, shape)`, rng depending on seed and name."""
        if name in self.vars:
            raise ValueError(f"variable {name} is created twice")
        rng = np.random.default_rng([self.config["seed"], zlib.crc32(name.encode())])
        value = np.asarray(initializer(rng, tuple(shape)), np.float32)
        self.vars[name] = tf.Variable(value, trainable=trainable, name=name, shape=tuple(shape))

    @property
    def trainables(self):
        """{name: variable} of the variables that an optimizer changes."""
        return {name: var for name, var in self.vars.items() if var.trainable}

    def get_arrays(self):
        """{name: float32 array}: a copy of every variable."""
        return {name: var.numpy() for name, var in self.vars.items()}

    def set_arrays(self, arrays, source="arrays"):
        """Assign every variable. Raises UserError listing missing, extra and misshapen names."""
        missing = sorted(self.vars.keys() - arrays.keys())
        extra = sorted(arrays.keys() - self.vars.keys())
        shapes = [f"{n} {tuple(arrays[n].shape)} for {tuple(self.vars[n].shape)}"
                  for n in self.vars.keys() & arrays.keys()
                  if tuple(arrays[n].shape) != tuple(self.vars[n].shape)]
        if missing or extra or shapes:
            raise UserError(f"{source} does not fit network {self.name}: missing {missing}, "
                            f"extra {extra}, wrong shape {sorted(shapes)}")
        for name, var in self.vars.items():
            var.assign(arrays[name])

    def digest(self):
        """sha256 over names, shapes and bytes of all variables in the order of their names."""
        return arrays_digest(self.get_arrays())

    def clone(self, name=None):
        """A network of the same type and configuration with the same values."""
        twin = build(type(self).__name__, name or self.name, self.config)
        twin.set_arrays(self.get_arrays())
        return twin


def keywords(variables):
    """A constructor's keyword arguments, from the `locals()` at its beginning."""
    return {k: v for k, v in variables.items() if k not in ("self", "name", "__class__")}


def build(type_name, name, config):
    """Build the registered network `type_name`.

    Unknown types and keywords raise UserError listing the known ones.
    """
    network_class = NETWORKS[type_name]
    known = set(inspect.signature(network_class).parameters) - {"name"}
    unknown = sorted(set(config) - known)
    if unknown:
        raise UserError(f"{type_name} does not know {unknown}; known: {sorted(known)}")
    return network_class(name, **config)


def full_config(type_name, config):
    """`config` with the defaults of the keywords that it leaves out, as older files do."""
    parameters = inspect.signature(NETWORKS[type_name]).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    return {**{name: value for name, value in defaults.items() if name != "name"}, **config}
