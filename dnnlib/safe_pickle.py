"""Read other people's pickles and .npz as plain data: nothing in them is imported or executed.

Python's own unpickler does the reading. Every class or function that the file refers to must have
an allowed name, and is replaced by a stand-in that only records its arguments. Before that, the
file's operations are checked one by one: only those of ordinary pickles are allowed, and only as
many as an official network may have. Without that check a small file can crash the unpickler (a
deeply nested tuple as a key), fill the memory (a memo entry with a huge number) or reach objects
without naming them (extension codes).
"""

import io
import math
import pickle
import pickletools
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib.util import UserError, one_line

MAX_BYTES = 2**31  # of a file; the largest official networks have 0.3 GB
MAX_OPERATIONS = 30_000  # an official network of 32x32 has 5,200, one of 1024x1024 twice as many

MAX_ARRAY_BYTES = 1 << 26  # in an .npz; several times the largest array of Inception and VGG16
# What zipfile, zlib and NumPy raise for a damaged .npz.
NPZ_ERRORS = (ValueError, KeyError, EOFError, MemoryError, NotImplementedError, RuntimeError,
              zipfile.BadZipFile, zlib.error)

_OPERATIONS = set("""
    PROTO FRAME STOP MARK POP NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT
    SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8 BYTEARRAY8
    EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET GLOBAL STACK_GLOBAL NEWOBJ REDUCE BUILD
    """.split())  # noqa: SIM905 - a list is twice as long
_DTYPES = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}
_DICTS = {"collections.OrderedDict", "dnnlib.util.EasyDict"}
_NUMPY = ("numpy.core", "numpy._core")  # before and since NumPy 2
_RECONSTRUCT = {f"{core}.multiarray._reconstruct" for core in _NUMPY}
_SCALAR = {f"{core}.multiarray.scalar" for core in _NUMPY}
_FROM_BUFFER = {f"{core}.numeric._frombuffer" for core in _NUMPY}
_KNOWN = (_RECONSTRUCT | _SCALAR | _FROM_BUFFER
          | {"numpy.ndarray", "numpy.dtype", "_codecs.encode"})


class Record:
    """A stand-in for an object of the file, which is never made.

    Attributes:
        name: "module.Class" or "module.function".
        args: arguments of the call.
        state: the state that was set afterwards, or None.
        bytes_left: [bytes that may still be read as arrays], shared by all records of a file.
    """

    name, args, state, bytes_left = "", (), None, [0]

    def __new__(cls, *args):
        record = object.__new__(cls)
        record.args = args
        return record

    def __setstate__(self, state):
        """Keep a state. Without this method a file could set any attribute, even of classes."""
        if self.state is not None:
            raise ValueError("a state given twice")
        self.state = state


class _Dict(Record):
    """A stand-in that makes an empty dict, for the file to fill."""

    def __new__(cls):
        return {}


class _Reader(pickle.Unpickler):
    """Python's unpickler, which finds only stand-ins."""

    def __init__(self, path, data, classes):
        super().__init__(io.BytesIO(data))
        # 6: three networks may share one object, and protocol 2 encodes every array first.
        shared = {"bytes_left": [6 * len(data)]}
        self._path = path
        self._stand_ins = dict.fromkeys(_DICTS, _Dict) | {
            name: type("Record", (Record,), {"name": name, **shared}) for name in _KNOWN | classes}

    def find_class(self, module: str, name: str) -> type:
        full = f"{module}.{name}"
        if full not in self._stand_ins:
            raise _refusal(self._path, f"refers to {printable(full)}")
        return self._stand_ins[full]


def is_pickle(path: str | Path) -> bool:
    """Return whether a file begins as pickles of protocol 2 and later do (safetensors do not)."""
    with open(path, "rb") as file:
        start = file.read(9)
    return start[:1] == b"\x80" and start[1:2] <= b"\x05" and start[8:9] != b"{"


def read_pickle(path: str | Path, classes: Iterable[str]) -> Any:
    """Read a pickle of protocol 2 or later.

    Args:
        classes: names "module.Class" of objects that the file may hold.

    Returns:
        Numbers, text, bytes, lists, tuples, dicts and, for objects of `classes` and arrays,
        `Record`s (`read_array` makes arrays of them).

    Raises:
        UserError: any other class or function, a file that is cut short, damaged or too large, or
            operations that an ordinary pickle of plain data and arrays does not need.
    """
    if Path(path).stat().st_size > MAX_BYTES:
        raise UserError(f"{path}: larger than {MAX_BYTES:,} bytes; no official network is")
    data = Path(path).read_bytes()
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(data)):
            if operation.name not in _OPERATIONS:
                raise _refusal(path, f"uses {operation.name}, which no official network does")
            # The unpickler makes room for as many memo entries as the largest number among them.
            last = argument if operation.name == "LONG_BINPUT" else count
            if last >= MAX_OPERATIONS:
                raise _refusal(path, f"has more than {MAX_OPERATIONS:,} operations; no official "
                                     "network has that many")
        return _Reader(path, data, set(classes)).load()
    except (pickle.UnpicklingError, ValueError, TypeError, AttributeError, LookupError, EOFError,
            OverflowError) as error:
        raise UserError(f"{path}: damaged or cut short, or no ordinary pickle "
                        f"({one_line(error)[:200]})") from None


def _refusal(path, reason):
    """Return the error for a file that is not an official network pickle."""
    return UserError(f"{path}: {reason}; of pickles, only networks of StyleGAN's official "
                     "TensorFlow release are read, not PyTorch's, and nothing in them is executed")


def read_array(value: Any) -> np.ndarray:
    """Make the array or NumPy scalar that a Record of `read_pickle` describes, read-only.

    Raises:
        ValueError: it describes no array, or the arrays of this file are much larger than the file.
    """
    name = value.name if isinstance(value, Record) else ""
    try:
        if name in _RECONSTRUCT:
            kind, first_shape, _ = value.args
            _, shape, dtype, is_fortran, data = value.state
            order = "F" if is_fortran is True else "C"
            if kind.name != "numpy.ndarray" or first_shape != (0,):
                raise ValueError("made in another way")
        elif name in _FROM_BUFFER:
            data, dtype, shape, order = value.args
        elif name in _SCALAR:
            (dtype, data), shape, order = value.args, (), "C"
        else:
            raise ValueError("another object")
        return _make_array(value.bytes_left, data, _dtype(dtype), shape, order)
    except (TypeError, AttributeError, KeyError) as error:
        raise ValueError(one_line(error)) from None


def _dtype(record):
    """Return the np.dtype that a Record describes."""
    code, align, copy = record.args
    _, order, *rest = record.state or (3, "|", None, None, None, -1, -1, 0)
    if record.name != "numpy.dtype" or code not in _DTYPES or align or not copy \
            or order not in ("<", ">", "|") or rest != [None, None, None, -1, -1, 0]:
        raise ValueError("a type of no plain numbers")
    return np.dtype(order + code)


def _make_array(bytes_left, data, dtype, shape, order):
    """Make an array from bytes, after all checks."""
    if isinstance(data, Record):  # as protocol 2 writes bytes
        text, encoding = data.args
        if data.name != "_codecs.encode" or encoding != "latin1":
            raise ValueError("bytes written in another way")
        _spend(bytes_left, len(text))
        data = text.encode("latin1")
    if type(data) not in (bytes, bytearray) or type(shape) is not tuple or len(shape) > 8 \
            or not all(type(side) is int and 0 <= side <= MAX_BYTES for side in shape):
        raise ValueError("no bytes, or no shape")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"{len(data)} bytes for an array of shape {shape}")
    _spend(bytes_left, len(data))
    array = np.frombuffer(bytes(data), dtype).reshape(shape, order=order)
    return array if shape else array[()]


def _spend(bytes_left, count):
    """Count bytes of arrays. Raises ValueError for too many: a file can use its bytes repeatedly.
    """
    bytes_left[0] -= count
    if bytes_left[0] < 0:
        raise ValueError("arrays larger than the file")


def printable(text: str) -> str:
    """Return untrusted text in a form to print: short, without control characters."""
    return text[:200] if text.isprintable() else ascii(text[:200])


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz, unpickling nothing.

    Raises:
        ValueError and the others of NPZ_ERRORS: the file is damaged, or an array in it is larger
            than MAX_ARRAY_BYTES.
    """
    with zipfile.ZipFile(path) as archive:
        large = [info.filename for info in archive.infolist() if info.file_size > MAX_ARRAY_BYTES]
    if large:
        raise ValueError(f"{large[0]} is larger than any array of such a network")
    with np.load(path, allow_pickle=False) as file:
        return dict(file)
