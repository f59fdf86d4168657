"""Suggest next commands that fit the data's size; and find splits that are too small."""

import shlex
from pathlib import Path

FEW_VALIDATION = 100  # images; with fewer, chance outweighs the differences between snapshots
# Numbers of training photos that justify the networks and hours of larger presets.
_SOME, _MANY = 1_000, 10_000
# The resolution that each preset of train.py sets; None: the data set's.
_RESOLUTIONS = {"demo-32": 32, "small-32": 32, "small-64": 64, "paper-256": 256, "paper": None}
_INITIAL_RESOLUTION = 8  # where training starts to grow
_GPU_FILES = ("/dev/nvidia0", "/dev/dxg")  # an NVIDIA card on Linux, and on WSL


def few_validation(num_val: int) -> str | None:
    """Return a sentence on a validation split of fewer than FEW_VALIDATION images, else None."""
    return None if num_val >= FEW_VALIDATION else (
        f"{f'only {num_val}' if num_val else 'no'} validation images: fewer than "
        f"{FEW_VALIDATION} cannot show which snapshot is best")


def validation_warnings(dataset: str, num_val: int) -> list[str]:
    """Return the warnings of a training that keeps its best snapshot: a line if there is no
    validation split, or if it has fewer than FEW_VALIDATION images."""
    if not num_val:
        return [f"warning: {dataset} has no validation split: the last snapshot counts as best"]
    few = few_validation(num_val)
    return [f"warning: {few}"] if few else []


def suggested_preset(num_photos: int, resolution: int) -> str:
    """Return the name of train.py's preset for a number of training photos and the side of the
    data set's largest level, in pixels."""
    if num_photos < _SOME or resolution <= 32:
        return "small-32"
    if num_photos < _MANY or resolution <= 64:
        return "small-64"
    return "paper-256" if resolution <= 256 else "paper"


def training_options(num_photos: int, resolution: int) -> list[str]:
    """Return train.py's arguments that fit a data set, such as ["--preset=small-64",
    "--device=cpu"], given the number of its training photos and the side of its largest level, in
    pixels."""
    preset = suggested_preset(num_photos, resolution)
    options = [f"--preset={preset}"]
    if resolution < (_RESOLUTIONS[preset] or resolution):
        options.append(f"--resolution={resolution}")
    if resolution < _INITIAL_RESOLUTION:
        options.append(f"--initial-resolution={resolution}")
    return options + device_options()


def device_options() -> list[str]:
    """Return train.py's arguments for this machine: ["--device=cpu"] if it has no GPU."""
    return [] if any(Path(file).exists() for file in _GPU_FILES) else ["--device=cpu"]


def command(script: str, *arguments: object) -> str:
    """Return "python <script> <arguments>", quoted for a shell where needed."""
    return shlex.join(["python", script, *map(str, arguments)])
