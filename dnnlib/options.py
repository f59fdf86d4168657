"""What options on a command line may be: functions (text) -> value for argparse.

Each raises argparse.ArgumentTypeError, saying what is allowed.
"""

import argparse
import math
import re

import numpy as np

from dnnlib.util import parse_ints

MAX_SEED = np.iinfo(np.uint32).max  # the largest that numpy.random.RandomState takes
MAX_GRID = 4096  # samples in one picture


def natural(text):
    """A whole number, 0 or more."""
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, 0 or more")
    return int(text)


def positive(text):
    """A whole number, 1 or more."""
    if not re.fullmatch(r"0*[1-9][0-9]{0,17}", text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, 1 or more")
    return int(text)


def seed(text):
    """A whole number that can be a seed."""
    value = natural(text)
    if value > MAX_SEED:
        raise argparse.ArgumentTypeError(f"{text!r}: seeds go from 0 to {MAX_SEED}")
    return value


def seeds(text):
    """'0-3,7' -> [0, 1, 2, 3, 7]; a huge range is refused before it is spelt out."""
    numbers = []
    for part in text.split(","):
        ends = re.fullmatch(r"([0-9]+)-([0-9]+)", part)
        if ends and seed(ends[2]) - seed(ends[1]) >= MAX_GRID:
            raise argparse.ArgumentTypeError(f"{text!r}: a picture has room for {MAX_GRID} samples")
        numbers += [seed(str(number)) for number in parse_ints(part)]
    return numbers


def finite(text):
    """A number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number such as 0.7")
    return value


def label(text):
    """'3' -> 3, a class; '0.1,0,0.9' or '0.5' -> (0.1, 0.0, 0.9) or (0.5,)."""
    if text.isascii() and text.isdecimal():
        return natural(text)
    return tuple(finite(part) for part in text.split(","))
