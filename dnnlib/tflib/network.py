"""Network: named variables and the options that made them.

A network is built from its name and options, holds its variables under the official release's
names, and can be copied and digested. Snapshots save it; the GAN step averages it.
"""

import contextvars
import dataclasses
import math
import zlib
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from dnnlib.util import UserError, arrays_digest


class _Networks(dict):
    """{name of a class: the class} of all registered networks."""

    def register(self, network_class: type) -> type:
        """Register a class under its own name, as a decorator."""
        if network_class.__name__ in self:
            raise ValueError(f"network {network_class.__name__} is registered twice")
        self[network_class.__name__] = network_class
        return network_class

    def __missing__(self, name):
        raise UserError(f"unknown network {name!r}; known: {', '.join(sorted(self))}")


NETWORKS = _Networks()
_ROOM = contextvars.ContextVar("numbers that the variables of a network may have", default=math.inf)


class Network(tf.Module):
    """Base of all networks. Subclasses create all variables in their constructor, from options.

    Attributes:
        Options: a frozen dataclass with a field for every option, including `seed`.
        vars: {official name without the leading 'G/' or 'D/': tf.Variable}.
    """

    Options: type

    def __init__(self, name: str, **options):
        super().__init__(name=name)
        self.options = self.Options(**options)
        self.vars = {}
        self._room = _ROOM.get()

    @property
    def config(self) -> dict:
        """Return {option: value} for JSON; `build` makes the same network from it."""
        return dataclasses.asdict(self.options)

    def add_variable(self, name: str, shape: Sequence[int], initializer: Callable,
                     trainable: bool = True):
        """Create variable `name` as `initializer(rng, shape)`; rng depends on seed and name."""
        if name in self.vars:
            raise ValueError(f"variable {name} is created twice")
        self._room -= math.prod(shape)
        if self._room < 0:
            raise ValueError(f"with {name} it has more numbers than there is room for")
        rng = np.random.default_rng([self.options.seed, zlib.crc32(name.encode())])
        value = np.asarray(initializer(rng, tuple(shape)), np.float32)
        self.vars[name] = tf.Variable(value, trainable=trainable, name=name, shape=tuple(shape))

    @property
    def trainables(self) -> dict[str, tf.Variable]:
        """Return {name: variable} of the variables that an optimizer changes."""
        return {name: var for name, var in self.vars.items() if var.trainable}

    def get_arrays(self) -> dict[str, np.ndarray]:
        """Return {name: float32 array}: a copy of every variable."""
        return {name: var.numpy() for name, var in self.vars.items()}

    def set_arrays(self, arrays: dict[str, np.ndarray], source: str = "arrays"):
        """Assign every variable. Raises UserError, which lists them, if arrays are missing, unknown
        or of a wrong shape; `source` is what it calls the arrays."""
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

    def digest(self) -> str:
        """Return the sha256 of names, shapes and bytes of all variables."""
        return arrays_digest(self.get_arrays())

    def clone(self, name: str | None = None) -> "Network":
        """Return a network of the same type, options and values."""
        twin = type(self)(name or self.name, **self.config)
        twin.set_arrays(self.get_arrays())
        return twin


def build(type_name: str, name: str, config: dict, room: float = math.inf) -> Network:
    """Return a new network of a registered class.

    Args:
        room: how many numbers its variables may have; no more are created, whatever the options.

    Raises:
        UserError: the class or an option is unknown; the known ones are listed.
        ValueError: the variables would have more.
    """
    network_class = NETWORKS[type_name]
    known = {field.name for field in dataclasses.fields(network_class.Options)}
    unknown = sorted(set(config) - known)
    if unknown:
        raise UserError(f"{type_name} does not know {unknown}; known: {sorted(known)}")
    token = _ROOM.set(room)
    try:
        return network_class(name, **config)
    finally:
        _ROOM.reset(token)


def part_seed(seed: int, purpose: str) -> int:
    """Return the seed for one of a training's networks. Unlike seed + 1, seed + 2, ..., it is not
    the seed of another training."""
    return int(np.random.SeedSequence([seed, zlib.crc32(purpose.encode())]).generate_state(1)[0])


def full_config(type_name: str, config: dict) -> dict:
    """Return `config` with the defaults of the options that it leaves out, as older files do."""
    fields = dataclasses.fields(NETWORKS[type_name].Options)
    return {field.name: field.default for field in fields
            if field.default is not dataclasses.MISSING} | config
