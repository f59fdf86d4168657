"""What options on a command line may be: functions (text) -> value for argparse.

Each raises argparse.ArgumentTypeError, saying what is allowed. And what values add to the names of
files, so that pictures of other samples do not replace each other.
"""

import argparse
import hashlib
import math
import re

import numpy as np

from dnnlib.util import parse_ints

MAX_SEED = np.iinfo(np.uint32).max  # the largest that numpy.random.RandomState takes
MAX_PSI = 100
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


def psi(text):
    """Return a number for truncation; beyond MAX_PSI there are no pictures, only overflows."""
    value = finite(text)
    if abs(value) > MAX_PSI:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected a number from -{MAX_PSI} to {MAX_PSI}")
    return value


def label(text):
    """'3' -> 3, a class; '0.1,0,0.9' or '0.5' -> (0.1, 0.0, 0.9) or (0.5,)."""
    if text.isascii() and text.isdecimal():
        return natural(text)
    return tuple(finite(part) for part in text.split(","))


def numbers_name(numbers):
    """[0, 1, 2, 7] -> '0-2,7', for a file's name; a hash where that is long."""
    runs = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number,))
    return _short(",".join("-".join(map(str, run)) for run in runs))


def label_suffix(label):
    """What a label (training.sampler.Sampler.label) adds to the name of a file or folder."""
    if label is None:
        return ""
    if isinstance(label, int):
        return f"-label{label}"
    return "-label-" + _short("_".join(f"{value:g}" for value in label))


def _short(text):
    """Itself, or a hash of it: names of files are short."""
    return text if len(text) <= 40 else hashlib.sha256(text.encode()).hexdigest()[:8]
