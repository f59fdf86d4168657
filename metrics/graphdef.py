"""Read the constants of a frozen TensorFlow graph (a GraphDef file, .pb) as plain data.

Only the protobuf wire format is interpreted: nodes of type Const yield arrays, everything else is
skipped, and nothing in the file is ever executed. Field numbers: graph.proto, node_def.proto,
attr_value.proto, tensor.proto and tensor_shape.proto of TensorFlow.
"""

import math

import numpy as np

DT_FLOAT = 1
MAX_FILL = 1 << 24  # elements that a single float may stand for
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class FormatError(ValueError):
    """The bytes are not a well-formed message."""


def read_constants(data):
    """{node name: float32 array} of all Const nodes of type float in the bytes of a GraphDef.

    Raises FormatError where the bytes are cut short or are no GraphDef.
    """
    constants = {}
    for field, node in _fields(memoryview(data)):
        if field != 1:
            continue
        parts = _collect(_message(node))
        if _text(parts, 2) == "Const":
            array = _const_value(parts.get(5, []))
            if array is not None:
                constants[_text(parts, 1)] = array
    return constants


def _const_value(attributes):
    """The float32 array in the attribute `value` of a node, None for other types."""
    for entry in attributes:
        pair = _collect(_message(entry))
        if _text(pair, 1) == "value":
            for tensor in _collect(_message(_last(pair, 2))).get(8, []):
                return _tensor(_collect(_message(tensor)))
    return None


def _tensor(fields):
    """A TensorProto's array: raw content, or a list of floats, a single one filling the shape."""
    if fields.get(1) != [DT_FLOAT]:
        return None
    dims = _collect(_message(_last(fields, 2))).get(2, [])
    shape = [_collect(_message(dim)).get(1, [0])[-1] for dim in dims]
    count = math.prod(shape)
    content = b"".join(_message(value) for value in fields.get(4, []) or fields.get(5, []))
    if len(content) == 4 and 4 not in fields and count <= MAX_FILL:
        content *= count
    if len(content) != 4 * count:
        raise FormatError(f"a constant of shape {shape} has {len(content)} bytes")
    return np.frombuffer(content, "<f4").reshape(shape).astype(np.float32)


def _fields(data):
    """Yield (field number, value) of a message: int for varints, memoryview for all other types."""
    position, end = 0, len(data)
    while position < end:
        key, position = _varint(data, position)
        field, wire = key >> 3, key & 7
        if wire == VARINT:
            value, position = _varint(data, position)
        elif wire in (BYTES, FIXED64, FIXED32):
            length = {FIXED64: 8, FIXED32: 4}.get(wire)
            if length is None:
                length, position = _varint(data, position)
            value = data[position:position + length]
            position += length
        else:
            raise FormatError(f"unknown wire type {wire}")
        if position > end or field == 0:
            raise FormatError("the file is cut short or no GraphDef")
        yield field, value


def _collect(data):
    """{field number: [values]} of a message."""
    fields = {}
    for field, value in _fields(data):
        fields.setdefault(field, []).append(value)
    return fields


def _varint(data, position):
    """A base-128 integer and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise FormatError("the file ends inside a number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise FormatError("a number has more than ten bytes")


def _message(value):
    """The value, which must be length-delimited."""
    if not isinstance(value, memoryview):
        raise FormatError("a number stands where a message should")
    return value


def _last(fields, number):
    """The last value of a field; an empty message where it is missing, as the format has it."""
    return fields.get(number, [memoryview(b"")])[-1]


def _text(fields, number):
    """A string field."""
    try:
        return str(_message(_last(fields, number)), "utf-8")
    except UnicodeDecodeError:
        raise FormatError("a name is not UTF-8") from None
