"""Report scalars anywhere, and collect their means once per tick."""

import collections
from typing import Any

import numpy as np

_reports = collections.defaultdict(list)


def report(name: str, value: Any) -> None:
    """Add a scalar, or the mean of a tensor, to this tick's values of `name`.

    Tensors are read only by `collect`, so that reporting never waits for a device.
    """
    _reports[name].append(value)


def collect() -> dict[str, float]:
    """Return {name: mean of the values reported since the last call}, and clear them."""
    means = {name: float(np.mean([np.mean(np.asarray(v)) for v in values]))
             for name, values in _reports.items()}
    _reports.clear()
    return means
