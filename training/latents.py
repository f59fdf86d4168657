"""Files for pictures that have no seed: they hold w, and noise unless it is the network's own.

    w                    float32 [layers, dlatent_size]
    noise0, noise1, ...  float32 [h, w] of every layer; left out if it is the network's own
"""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import tensorflow as tf

from dnnlib import util
from dnnlib.util import UserError
from training.sampler import Noise

MAX_BYTES = 1 << 26  # several times what a network of 1024x1024 has
# What NumPy and zipfile raise for damaged files and files of another kind
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, OSError, EOFError, MemoryError,
               OverflowError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Latents:
    """The `w` and `noise` of one picture; `noise` is () for the network's own. See above."""

    w: np.ndarray
    noise: tuple[np.ndarray, ...] = ()

    def write(self, path: Path) -> None:
        """Write the file atomically."""
        arrays = {f"noise{layer}": array for layer, array in enumerate(self.noise)}
        with util.atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, w=self.w, **arrays)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file; raise UserError if it is missing, damaged or of another kind."""
        try:
            with zipfile.ZipFile(path) as archive:
                if sum(info.file_size for info in archive.infolist()) > MAX_BYTES:
                    raise ValueError("larger than those of any network")
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
            w = arrays.pop("w")
            noise = tuple(arrays.pop(f"noise{layer}") for layer in range(len(arrays)))
            if any(array.ndim != 2 or not array.size for array in (w, *noise)):
                raise ValueError("arrays of another shape")
            if not all(array.dtype == np.float32 and np.isfinite(array).all()
                       for array in (w, *noise)):
                raise ValueError("not finite float32 numbers")
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; generate.py --project writes it") from None
        except _UNREADABLE as error:
            raise UserError(f"{path}: cannot be read as the w of a projection "
                            f"({util.one_line(error)})") from None
        return cls(w, noise)


def noise_of(latents: Sequence[Latents]) -> Noise | None:
    """Return the noise of pictures to draw in one minibatch; None for the network's own."""
    if not latents[0].noise:
        return None

    def noise(layer: int, height: int, width: int) -> tf.Tensor:
        return tf.constant(np.stack([one.noise[layer] for one in latents])[..., None])
    return noise
