"""Other people's pickles read as plain data: nothing in them is imported, called or executed.

There is no unpickler here. The opcodes are walked one by one; what they may build is numbers, text,
bytes, lists, tuples, dicts, NumPy arrays, and `Record`s: the state of an object of a class that the
caller names. Any other class or function is refused by name before anything happens.
Arrays are made here from shape, type and bytes, and together never exceed the file.
"""

import pickletools
from pathlib import Path

import numpy as np

from dnnlib.util import UserError, one_line

MAX_BYTES = 2**31  # of a file; the largest official networks have 0.3 GB
MAX_OPERATIONS = 2_000_000  # so that a file of nothing but nesting cannot fill the memory
_MAX_DIMENSIONS = 8

_DTYPES = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}
_DICTS = {"collections.OrderedDict", "dnnlib.util.EasyDict"}
_NUMPY = ("numpy.core", "numpy._core")  # before and since NumPy 2
_RECONSTRUCT = {f"{core}.multiarray._reconstruct" for core in _NUMPY}
_SCALAR = {f"{core}.multiarray.scalar" for core in _NUMPY}
_FROM_BUFFER = {f"{core}.numeric._frombuffer" for core in _NUMPY}
_KNOWN = (_DICTS | _RECONSTRUCT | _SCALAR | _FROM_BUFFER
          | {"numpy.ndarray", "numpy.dtype", "_codecs.encode"})

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "SHORT_BINUNICODE",
             "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_MARK = object()


class Record:
    """An object of the file: the name of its class, and its state once that has been read."""

    def __init__(self, class_name):
        self.class_name, self.state = class_name, None


class _Name:
    """A class or function that the file refers to: its name, nothing else."""

    def __init__(self, name):
        self.name = name


class _Array:
    """An array whose content may still be to come."""

    def __init__(self, value=None):
        self.value = value


class _Type:
    """A NumPy type: its letter and size, and its byte order once that has been read."""

    def __init__(self, code):
        self.code, self.order = code, "|"


def is_pickle(path):
    """Whether a file begins as pickles of protocol 2 and later do (and not as safetensors do)."""
    with open(path, "rb") as file:
        start = file.read(9)
    return start[:1] == b"\x80" and start[1:2] <= b"\x05" and start[8:9] != b"{"


def read_pickle(path, classes):
    """The content of a pickle of protocol 2 or later; arrays are np.ndarray, read-only.

    Args:
        classes: names 'module.Class' of what may become a Record.

    Raises UserError for any other class or function, for a file that is cut short, damaged or too
    large, and for whatever an ordinary pickle of plain data and arrays does not contain.
    """
    path = Path(path)
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path}: {path.stat().st_size:,} bytes; pickles up to {MAX_BYTES:,} "
                        "are read")
    machine = _Machine(path, frozenset(classes))
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(path.read_bytes())):
            if count > MAX_OPERATIONS:
                raise UserError(f"{path}: more than {MAX_OPERATIONS:,} operations; no official "
                                "network has that many")
            machine.step(opcode.name, argument)
    except (ValueError, IndexError, OverflowError) as error:
        raise UserError(f"{path}: damaged or cut short ({one_line(error)[:200]})") from None
    return machine.result()


def array_of(value):
    """The np.ndarray or NumPy scalar that stands for an array in `read_pickle`'s result, or None
    where `value` is no complete array."""
    if isinstance(value, _Array):
        return value.value
    return value if isinstance(value, np.generic) else None


def shown(text):
    """Text of a stranger's file as it can be printed: short, without control characters."""
    return text[:200] if text.isprintable() else ascii(text[:200])


class _Machine:
    """The stack and the memo of a pickle; `step` carries out one operation."""

    def __init__(self, path, classes):
        self.path, self.classes = path, classes
        self.stack, self.memo = [], {}
        self.bytes_left = path.stat().st_size

    def refuse(self, reason):
        raise UserError(f"{self.path}: {reason}; only official network pickles are read, and "
                        "nothing in them is executed")

    def need(self, condition, what):
        """Refuse a file that does not do what ordinary pickles do."""
        if not condition:
            self.refuse(f"not an ordinary pickle ({what})")

    def result(self):
        """What the file holds."""
        self.need(len(self.stack) == 1, "it leaves no single value")
        return self.pop()

    def step(self, name, argument):
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _STEPS:
            _STEPS[name](self, argument)
        else:
            self.refuse(f"uses {name}, which no official network does")

    # Stack and memo

    def pop(self):
        value = self.stack.pop()
        self.need(value is not _MARK, "a mark where a value should be")
        return value

    def pop_to_mark(self):
        """The values above the last mark."""
        for position in range(len(self.stack) - 1, -1, -1):
            if self.stack[position] is _MARK:
                values = self.stack[position + 1:]
                del self.stack[position:]
                return values
        return self.need(False, "no mark")

    def top(self, kind):
        """The value on top, which must be a list or a dict."""
        self.need(type(self.stack[-1]) is kind, f"no {kind.__name__} to add to")
        return self.stack[-1]

    def put(self, index):
        self.need(self.stack[-1] is not _MARK, "a mark where a value should be")
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def get(self, index):
        self.need(index in self.memo, f"memo {index} is empty")
        self.stack.append(self.memo[index])

    def make_tuple(self, size):
        self.stack.append(tuple([self.pop() for _ in range(size)][::-1]))

    def append(self, values):
        self.top(list).extend(values)

    def set_items(self, values):
        """Keys are text: hashing a deeply nested tuple would overflow the stack."""
        target = self.top(dict)
        self.need(len(values) % 2 == 0, "a key without a value")
        for key, value in zip(values[::2], values[1::2]):
            self.need(type(key) is str, f"a key that is {type(key).__name__}, not text")
            target[key] = value

    # What stands for classes and functions

    def refer(self, module, name):
        full = f"{module}.{name}"
        if full not in _KNOWN | self.classes:
            self.refuse(f"refers to {shown(full)}")
        self.stack.append(_Name(full))

    def stack_global(self):
        name, module = self.pop(), self.pop()
        self.need(type(name) is str and type(module) is str, "a reference that is no name")
        self.refer(module, name)

    def new_object(self):
        """NEWOBJ: an empty dict or Record."""
        arguments, name = self.pop(), self.pop()
        self.need(isinstance(name, _Name) and arguments == (), "an object made with arguments")
        self.need(name.name in _DICTS | self.classes, f"an object of {name.name}")
        self.stack.append({} if name.name in _DICTS else Record(name.name))

    def reduce(self):
        """REDUCE: what the functions of `_KNOWN` would return."""
        arguments, name = self.pop(), self.pop()
        self.need(isinstance(name, _Name) and type(arguments) is tuple, "a call of no function")
        self.need(name.name in _CALLS, f"a call of {name.name}")
        arity, make = _CALLS[name.name]
        self.need(len(arguments) == arity, f"{len(arguments)} arguments for {name.name}")
        self.stack.append(make(self, *arguments))

    def build(self):
        """BUILD: the state of a Record, of an array or of a NumPy type."""
        state, target = self.pop(), self.stack[-1]
        if isinstance(target, Record):
            self.need(target.state is None, "a state given twice")
            self.need(type(state) is dict, "a state that is no dict")
            target.state = state
        elif isinstance(target, _Array):
            self.need(target.value is None, "an array filled twice")
            self.need(type(state) is tuple and len(state) == 5 and type(state[3]) is bool,
                      "the state of an array")
            target.value = self.make_array(state[4], state[2], state[1], "F" if state[3] else "C")
        else:
            self.need(isinstance(target, _Type) and type(state) is tuple
                      and state[1:2] in (("<",), (">",), ("|",))
                      and state[2:] == (None, None, None, -1, -1, 0), "the state of a type")
            target.order = state[1]

    def make_array(self, data, kind, shape, order):
        """bytes -> np.ndarray, after every check."""
        self.need(type(data) in (bytes, bytearray) and isinstance(kind, _Type),
                  "the content of an array")
        self.need(type(shape) is tuple and len(shape) <= _MAX_DIMENSIONS
                  and all(type(side) is int and 0 <= side <= MAX_BYTES for side in shape),
                  "the shape of an array")
        dtype, size = np.dtype(kind.order + kind.code), 1
        for side in shape:
            size *= side
        self.need(size * dtype.itemsize == len(data),
                  f"{len(data)} bytes for an array of shape {shape}")
        self.bytes_left -= len(data)
        self.need(self.bytes_left >= 0, "arrays larger than the file")
        return np.frombuffer(bytes(data), dtype).reshape(shape, order=order)

    # Calls

    def call_dict(self):
        return {}

    def call_dtype(self, code, align, copy):
        self.need(type(code) is str and code in _DTYPES and not align and copy in (True, 1),
                  "a type of no plain numbers")
        return _Type(code)

    def call_reconstruct(self, kind, shape, code):
        self.need(isinstance(kind, _Name) and kind.name == "numpy.ndarray" and shape == (0,)
                  and code == b"b", "an array made in another way")
        return _Array()

    def call_scalar(self, kind, data):
        return self.make_array(data, kind, (), "C")[()]

    def call_from_buffer(self, data, kind, shape, order):
        self.need(order in ("C", "F"), "an array's order")
        return _Array(self.make_array(data, kind, shape, order))

    def call_encode(self, text, encoding):
        """How protocol 2 writes bytes."""
        self.need(type(text) is str and encoding == "latin1", "text encoded in another way")
        return text.encode("latin1")


_CALLS = {  # {function: (number of arguments, what it makes of them)}
    "collections.OrderedDict": (0, _Machine.call_dict), "numpy.dtype": (3, _Machine.call_dtype),
    "_codecs.encode": (2, _Machine.call_encode),
    **dict.fromkeys(_RECONSTRUCT, (3, _Machine.call_reconstruct)),
    **dict.fromkeys(_SCALAR, (2, _Machine.call_scalar)),
    **dict.fromkeys(_FROM_BUFFER, (4, _Machine.call_from_buffer))}
_STEPS = {  # {operation: function of the machine and the operation's argument}
    "PROTO": lambda m, a: None, "FRAME": lambda m, a: None, "STOP": lambda m, a: None,
    "MARK": lambda m, a: m.stack.append(_MARK), "POP": lambda m, a: m.stack.pop(),
    "EMPTY_LIST": lambda m, a: m.stack.append([]), "EMPTY_DICT": lambda m, a: m.stack.append({}),
    "TUPLE": lambda m, a: m.stack.append(tuple(m.pop_to_mark())),
    "TUPLE1": lambda m, a: m.make_tuple(1), "TUPLE2": lambda m, a: m.make_tuple(2),
    "TUPLE3": lambda m, a: m.make_tuple(3),
    "APPEND": lambda m, a: m.append([m.pop()]), "APPENDS": lambda m, a: m.append(m.pop_to_mark()),
    "SETITEM": lambda m, a: m.set_items([m.pop(), m.pop()][::-1]),
    "SETITEMS": lambda m, a: m.set_items(m.pop_to_mark()),
    "BINPUT": _Machine.put, "LONG_BINPUT": _Machine.put, "MEMOIZE": _Machine.put,
    "BINGET": _Machine.get, "LONG_BINGET": _Machine.get,
    "GLOBAL": lambda m, a: m.refer(*a.split(" ", 1)),
    "STACK_GLOBAL": lambda m, a: m.stack_global(), "NEWOBJ": lambda m, a: m.new_object(),
    "REDUCE": lambda m, a: m.reduce(), "BUILD": lambda m, a: m.build()}
