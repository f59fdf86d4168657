"""What the options of all methods have in common: values, ranges, tables by resolution, presets.

A table by resolution is a dict {resolution: value}. A resolution between two keys takes the value
of the smaller key: {8: 128, 32: 64} means 128 at 8 and 16, and 64 from 32 upwards. This module
imports no TensorFlow.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, ClassVar, Self

from dnnlib.util import UserError

# No training is longer, no network wider, no minibatch larger: anything above is a typing error.
MAX_COUNT = 10**9
KIMG, COUNT = {"low": 0, "high": 10**6}, {"low": 1, "high": MAX_COUNT}
PRECISIONS = ("fp32", "bf16")
PRECISION = ("type of activations and convolutions; weights, statistics, norms and losses are "
             "always float32")
BLOCKS = {"low": 1, "high": 1000}  # in a network; each takes time to build, however small
SIZE, WEIGHT, SHARE = {"low": 1, "high": 2**20}, {"low": 0, "high": 10**6}, {"low": 0, "high": 1}


def by_resolution(table: dict[int, float], resolution: int) -> float:
    """Return the value of the largest key that is not above `resolution`, else of the smallest."""
    return table[max((key for key in table if key <= resolution), default=min(table))]


def option(default: Any, text: str, **metadata: Any) -> Any:
    """Return a dataclass field with its help text for the command line and its allowed values.

    Args:
        metadata: `flag`, the option's name if it is not the field's. Allowed values are given by
            `choices`; by `parse`, a function that raises ValueError, and `expected`, the message;
            or by `low` and `high` (inclusive) or `above` (exclusive), which limit the value or all
            values by resolution.
    """
    metadata["help"] = text
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class MethodConfig:
    """The options of one way to train networks; subclasses add their own.

    `presets` list the options that they change. `fixed` are options that a run cannot change once
    it has begun. `cells` says what its grids show side by side.
    """

    presets: ClassVar[dict[str, dict[str, Any]]]
    default_preset: ClassVar[str]
    fixed: ClassVar[frozenset[str]] = frozenset({"variant"})
    cells: ClassVar[str]

    variant: str = option("", "")
    data: str = option("datasets/modanet", "data set made by dataset_tool.py", metavar="DIR")
    resolution: int | None = option(
        None, "side of the final images in pixels (default: the data set's)", metavar="N")
    seed: int = option(1000, "seed of weights, latents, noise and the order of photos", low=0,
                       high=2**31 - 1)
    minibatch_repeats: int = option(4, "steps from one reading of the schedule to the next",
                                    **COUNT)
    image_ticks: int = option(1, "ticks from one grid of pictures to the next", **COUNT)
    network_ticks: int = option(
        10, "ticks from one network snapshot and its evaluation to the next", **COUNT)
    patience: int = option(
        0, "end a stage after this many evaluations without a better score; 0 = never", low=0,
        high=MAX_COUNT)

    def __post_init__(self):
        """Raise UserError for a value out of range or an option that another makes useless."""
        for f in dataclasses.fields(self):
            problem = _problem(f, getattr(self, f.name))
            if problem:
                raise UserError(f"{as_option(f.name, getattr(self, f.name))}: {problem}")
        for refused, reason in self.refusals():
            if refused:
                raise UserError(reason)

    def refusals(self) -> Iterable[tuple[Any, str]]:
        """Return (whether it is so, the error) for each combination that makes an option useless.
        """
        return ()

    def to_json(self) -> dict[str, Any]:
        """Return a dict of plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Return the config of which `to_json` gave `values`; tables may have strings as keys.

        Raises:
            UserError: a value is not allowed, or an option is unknown to this version.
        """
        unknown = sorted(values.keys() - {f.name for f in dataclasses.fields(cls)})
        if unknown:
            raise UserError(f"options that this version does not know: {', '.join(unknown)}")
        return cls(**{name: {int(key): v for key, v in value.items()}
                      if isinstance(value, dict) else value for name, value in values.items()})

    @classmethod
    def preset(cls, name: str, overrides: dict[str, Any]) -> Self:
        """Return the preset `name` with {field: value} replaced; raise UserError if it is unknown.
        """
        if name not in cls.presets:
            raise UserError(f"unknown preset {name!r}; known: {', '.join(cls.presets)}")
        return cls(**{**cls.presets[name], **overrides})


def as_option(name: str, value: object) -> str:
    """Return a field's value as an argument: '--fmap-max=64', '--lrate=8:0.001', '--no-blur'."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag}={as_text(value)}"


def as_text(value: object) -> str:
    """Return a value as the command line takes it: '8:128,32:64' for a table by resolution, '64'
    for one value at all of them."""
    if isinstance(value, dict) and [*map(str, value)] == ["4"]:
        return str(*value.values())
    if isinstance(value, dict):
        return ",".join(f"{key}:{number}" for key, number in value.items())
    return str(value)


def _problem(f, value):
    """Return what is expected of field `f` if `value` is not allowed, else None."""
    meta = f.metadata
    if "parse" in meta:
        try:
            meta["parse"](value)
        except ValueError:
            return meta["expected"]
    if "choices" in meta and value not in meta["choices"]:
        return f"expected one of {', '.join(map(str, meta['choices']))}"
    # What follows is for numbers.
    is_table = f.default is dataclasses.MISSING
    if value is None or isinstance(value, bool | str) \
            or (is_table and value == {} == f.default_factory()):
        return None
    if f.name in ("resolution", "initial_resolution"):
        return None if _is_resolution(value) else "expected a power of two from 4 upwards"
    # One number, or a table of numbers.
    if isinstance(value, dict) != is_table:
        return "expected numbers by resolution" if is_table else "expected one number"
    numbers = [value]
    if isinstance(value, dict):
        numbers = value.values()
        if not value or not all(map(_is_resolution, value)):
            return ("expected a number, or numbers by resolution (powers of two from 4 upwards), "
                    "such as 8:128,32:64")
    for number in numbers:
        if not isfinite(number):
            return "expected finite numbers"
        if "above" in meta and not meta["above"] < number <= meta["high"]:
            return f"expected a number above {meta['above']}, up to {meta['high']}"
        if "low" in meta and not meta["low"] <= number <= meta["high"]:
            return f"expected a number from {meta['low']} to {meta['high']}"
        if f.name in ("minibatch", "minibatch_per_gpu") and type(number) is not int:
            return "expected whole numbers"
    return None


def _is_resolution(value):
    return value >= 4 and not value & (value - 1)
