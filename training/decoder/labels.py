"""Labelled pictures of a generator: a folder of label maps, and what is needed to remake pictures.

    DIR/labelling.json         network, seeds, truncation, noise: all that defines the features
    DIR/seed0000.png           a picture to label
    DIR/labels/seed0000.png    its label map, as numbers: 0 background, 1..C, 255 to ignore
    DIR/classes.txt            names of the classes
    DIR/latents/NAME.npz       w of NAME.png, if that is a projected photo, which has no seed

generate.py --for-labelling and --project write all of these except labels and classes; for labelled
photos, --project writes those too. Features are never written: for a network of 512x512, those of
twenty pictures take gigabytes.
"""

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dnnlib import util
from dnnlib.cli import MAX_SEED
from dnnlib.data import channels
from dnnlib.data.class_list import FILE_NAME as CLASSES
from dnnlib.data.class_list import read_class_list
from dnnlib.data.labelled import LABELS, read_label_png
from dnnlib.data.photos import PhotoError, decode_photo
from dnnlib.util import UserError
from training.latents import Latents, noise_of
from training.sampler import NOISES, TRUNCATION_CUTOFF, Noise, Sampler, seed_noise

FILE_NAME = "labelling.json"


@dataclass(frozen=True)
class Labelling:
    """How the pictures of a folder were made.

    Attributes:
        network: path of the generator's snapshot. digest: digest of its weights.
        resolution, fade: growth state. seeds: seeds of the pictures; projected photos have none.
        trunc, trunc_cutoff, noise, class_label: as in generation.pairs.SampleRecipe.
        pictures: {name: sha256 of its pixels}, in the order of the seeds.
        projected: whether they are photos, whose w and noise are in files.
    """

    network: str
    digest: str
    resolution: int
    fade: float
    seeds: tuple[int, ...]
    trunc: float
    trunc_cutoff: int
    noise: str
    class_label: int | tuple | None
    pictures: dict[str, str]
    projected: bool = False

    def write(self, folder: Path) -> None:
        """Write it to the folder of the pictures."""
        util.write_json(folder / FILE_NAME, dataclasses.asdict(self))

    @classmethod
    def read(cls, folder: str | Path) -> "Labelling":
        """Return the Labelling of a folder.

        Raises:
            UserError: there is none, or its values cannot be right: with a wrong seed, the labels
                would be learned for another picture.
        """
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            raise UserError(f"{path}: no such file; pictures to be labelled are written by "
                            "generate.py --for-labelling and --project")
        try:
            values = util.read_json(path)
            values["seeds"] = tuple(values["seeds"])
            if isinstance(values["class_label"], list):
                values["class_label"] = tuple(values["class_label"])
            found = cls(**values)
            found.check()
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise UserError(f"{path}: damaged ({util.one_line(error)})") from None
        return found

    def check(self) -> None:
        """Raise ValueError, or what wrong types raise, if values read from a file cannot be right.
        """
        if not self.pictures:
            raise ValueError("no pictures")
        for name, picture in self.pictures.items():
            check_file_name(name)
            if not isinstance(picture, str):
                raise ValueError(f"digest of {name}")
        if not all(type(seed) is int and 0 <= seed <= MAX_SEED for seed in self.seeds):
            raise ValueError("seeds")
        drawn = [] if self.projected else list(self.pictures)
        if [picture_name(seed) for seed in self.seeds] != drawn:
            raise ValueError("seeds that are not those of the pictures")
        cutoff, side, label = self.trunc_cutoff, self.resolution, self.class_label
        fitting = {
            "network": isinstance(self.network, str), "digest": isinstance(self.digest, str),
            "resolution": type(side) is int and 4 <= side <= 1 << 16 and not side & (side - 1),
            "fade": _is_number(self.fade), "trunc": _is_number(self.trunc),
            "trunc_cutoff": cutoff == TRUNCATION_CUTOFF,  # the only one that samplers use
            "noise": self.noise in ("stored", "const") if self.projected else self.noise in NOISES,
            "class_label": label is None or (type(label) is int and label >= 0) or (
                isinstance(label, tuple) and all(map(_is_number, label)))}
        if wrong := [key for key, fits in fitting.items() if not fits]:
            raise ValueError(", ".join(wrong))


def _is_number(value):
    """Return whether a value is a finite int or float."""
    return type(value) in (int, float) and math.isfinite(value)


def check_file_name(name: str) -> None:
    """Raise ValueError if a name read from a file does not name a file directly in a folder."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} is no name of a file in this folder")


def picture_name(seed: int) -> str:
    """Return the name of a seed's picture and label map."""
    return f"seed{seed:04d}.png"


def picture_digest(rgb: np.ndarray) -> str:
    """Return the hexadecimal sha256 of a picture's pixels."""
    return hashlib.sha256(rgb.tobytes()).hexdigest()


def latents_path(folder: str | Path, name: str) -> Path:
    """Return the path of a projected photo's w, given the name of its picture."""
    return Path(folder) / "latents" / f"{Path(name).stem}.npz"


class LabelledFolder:
    """The pictures of a folder that have a usable label map.

    Attributes:
        path, name: of the folder. classes: names of the labels 1..C.
        labelling: how the pictures are made.
        names, label_maps: names and label maps uint8 [n, R, R] of the labelled pictures.
        problems: a line about each of the other pictures, and about maps that may be mixed up.
        digest: digest of the labels and of what makes the pictures.
    """

    def __init__(self, path: str | Path):
        """Read the folder; raise UserError if nothing in it can be used."""
        self.path = Path(path)
        self.name, self.labelling = self.path.resolve().name, Labelling.read(path)
        listed = read_class_list(self.path / CLASSES)
        self.classes = tuple(listed.names[listed.num_background():])
        self.problems, found = [], {}
        for name in self.labelling.pictures:
            label_map = self._read(name)
            if label_map is not None:
                found[name] = label_map
        # Report label maps without a picture, and equal ones of two pictures.
        for path in sorted((self.path / LABELS).glob("*.png")):
            if path.name not in self.labelling.pictures and path.name[0] != ".":
                self.problems.append(f"{path}: no picture has this name")
        owners = {}
        for name, label_map in found.items():
            first = owners.setdefault(label_map.tobytes(), name)
            if first != name and label_map.any():
                self.problems.append(f"warning: {name} and {first} have the same labels in "
                                     f"{self.path / LABELS}; is one of them another picture's?")
        if not found:
            raise UserError(f"{self.path / LABELS}: none of the {len(self.labelling.pictures)} "
                            f"pictures has labels{''.join(f'; {p}' for p in self.problems[:1])}")
        self.names, self.label_maps = tuple(found), np.stack(list(found.values()))
        if not {*np.unique(self.label_maps)} - {0, channels.IGNORE}:
            raise UserError(f"{self.path / LABELS}: no label map shows a class: all pixels are 0, "
                            "the background, or 255, which is ignored; the classes are 1 to "
                            f"{len(self.classes)}: {', '.join(self.classes)}")
        # What remakes the pictures: seeds, or w and noise in files.
        seeds = dict(zip(self.labelling.pictures, self.labelling.seeds))
        self._seeds = tuple(seeds[name] for name in self.names if name in seeds)
        self._latents = [Latents.read(latents_path(self.path, name)) for name in self.names
                         if self.labelling.projected]
        self.digest = self._digest()

    def _digest(self):
        """Return the hexadecimal sha256 of everything that is trained on, whatever its path."""
        recipe = dataclasses.asdict(self.labelling) | {
            "network": "", "classes": self.classes, "labelled": self._seeds or self.names}
        del recipe["projected"]
        content = [repr(sorted(recipe.items())).encode(), self.label_maps.tobytes(),
                   *(array.tobytes() for one in self._latents for array in (one.w, *one.noise))]
        return hashlib.sha256(b"".join(content)).hexdigest()

    def dlatents(self, sampler: Sampler) -> np.ndarray:
        """Return w float32 [n, layers, dlatent_size] of the pictures; `sampler` has their network.

        Raises:
            UserError: w or noise in the files does not fit the network.
        """
        if not self.labelling.projected:
            return sampler.dlatents(sampler.seed_latents(self._seeds), self.labelling.trunc)
        shape = sampler.network.num_styles, sampler.network.dlatent_size
        has_noise = bool(self._latents[0].noise)
        sides = [4 << layer // 2 for layer in range(sampler.num_layers if has_noise else 0)]
        for name, one in zip(self.names, self._latents):
            path = latents_path(self.path, name)
            if one.w.shape != shape:
                raise UserError(f"{path}: w of the shape {list(one.w.shape)}; the network's is "
                                f"{list(shape)}")
            if bool(one.noise) != has_noise:
                raise UserError(f"{path}: {'with' if one.noise else 'without'} noise, unlike "
                                f"{latents_path(self.path, self.names[0])}; all have noise or none")
            if [layer.shape for layer in one.noise] != [(side, side) for side in sides]:
                raise UserError(f"{path}: noise of the shapes "
                                f"{[list(layer.shape) for layer in one.noise]}; the network's is "
                                f"of the sides {sides}")
        return np.stack([one.w for one in self._latents])

    def noise(self, numbers: Sequence[int]) -> Noise | None:
        """Return the noise of some of the pictures; None for the network's own."""
        if self.labelling.projected:
            return noise_of([self._latents[number] for number in numbers])
        if self.labelling.noise == "const":
            return None
        return seed_noise([self._seeds[number] for number in numbers])

    def _read(self, name):
        """Return a picture's label map; if it cannot be used, add a line to `problems` and return
        None."""
        path, side = self.path / LABELS / name, self.labelling.resolution
        if not path.is_file():
            self.problems.append(f"{path}: missing: this picture is left out")
            return None
        try:
            label_map = read_label_png(path, len(self.classes))
        except UserError as error:
            self.problems.append(f"{error}: left out")
            return None
        if label_map.shape != (side, side):
            self.problems.append(f"{path}: {label_map.shape[1]}x{label_map.shape[0]} pixels, its "
                                 f"picture has {side}x{side}: left out")
            return None
        # The picture itself may be missing, but it must not be a different one.
        try:
            picture = np.asarray(decode_photo((self.path / name).read_bytes()))
            was_replaced = picture_digest(picture) != self.labelling.pictures[name]
        except FileNotFoundError:
            was_replaced = False
        except (OSError, PhotoError):
            was_replaced = True
        if was_replaced:
            self.problems.append(f"{self.path / name}: not the picture that was written under this "
                                 "name, so its labels may be another picture's: left out")
            return None
        return label_map

    def __len__(self) -> int:
        """Return the number of pictures with labels."""
        return len(self.names)
