"""Suggest next commands that fit the data; names that may be meant; find splits too small."""

import difflib
import shlex
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path

from dnnlib.data.photo_names import IMAGE_SUFFIXES

FEW_VALIDATION = 100  # images; with fewer, chance outweighs the differences between snapshots
# Numbers of training photos that justify the networks and hours of larger presets.
_SOME, _MANY = 1_000, 10_000
# The resolution that each preset of train.py sets; None: the data set's.
_RESOLUTIONS = {"demo-32": 32, "small-32": 32, "small-64": 64, "paper-256": 256, "paper": None}
_INITIAL_RESOLUTION = 8  # where training starts to grow
# Photos and masks in a folder, as dataset_tool.py and other programs write them.
PHOTOS_AND_MASKS = (("images", "labels"), ("images", "masks"), ("JPEGImages", "SegmentationClass"))
_COCO_PARTS = (b'"images"', b'"annotations"', b'"categories"')
_LOOKED_AT = 1000  # files of a folder, which may hold millions
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


def conversion(folder: Path) -> str | None:
    """Return the command that makes a data set of a folder's photos, with masks or annotations if
    there are any, also beside the folder; None if it has neither."""
    name = folder.absolute().name
    beside = name in {part for pair in PHOTOS_AND_MASKS for part in pair}
    for root in [folder, folder.parent] if beside else [folder]:
        if any((root / photos).is_dir() and (root / masks).is_dir()
               for photos, masks in PHOTOS_AND_MASKS):
            return _conversion("create_from_masks", root)
        for path in [*root.glob("annotations/*.json"), *root.glob("*.json")]:
            if path.is_file() and _is_coco(path):
                return _conversion("create_modanet" if path.name.startswith("modanet")
                                   else "create_from_coco", root)
    files = [path for path in islice(folder.rglob("*"), _LOOKED_AT)
             if path.suffix.lower() in IMAGE_SUFFIXES]
    if files and (folder / "classes.txt").is_file():
        return _conversion("create_from_masks", folder)
    return _conversion("create_from_images", folder) if files else None


def _conversion(name, source):
    return command("dataset_tool.py", name, f"--source={source}", "--out=datasets/converted")


def _is_coco(path):
    """Return whether a file seems to have COCO annotations, which may take gigabytes."""
    with open(path, "rb") as file:
        head = file.read(1 << 16)
    return any(part in head for part in _COCO_PARTS)


def did_you_mean(name: str, known: Iterable[str] | Mapping[str, str]) -> str:
    """Return "; did you mean hat?" for the known name that is most like a wrong one, "" if none is.

    Args:
        known: the names or, if they are compared in another form, {that form: how it is shown}.
    """
    shown = known if isinstance(known, Mapping) else {text: text for text in known}
    close = difflib.get_close_matches(name, shown, n=1)
    return f"; did you mean {shown[close[0]]}?" if close else ""


def command(script: str, *arguments: object) -> str:
    """Return "python <script> <arguments>", quoted for a shell where needed."""
    return shlex.join(["python", script, *map(str, arguments)])
