"""One image <-> one record.

A record file is the official release's: `<anything>-r%02d.tfrecords`, one per level r (images of 2^r x 2^r pixels), each
record one serialized tf.train.Example in TFRecord framing. Two forms of the Example exist:

    raw      features `shape` int64 [C, H, W] and `data`, the uint8 image in CHW order (the official form);
    encoded  features `shape`, `encoding` ("webp" or "png"), `rgb` (that file format, lossless) and, for more than
             three channels, `maps` (the other channels in CHW order, zlib).

Only raw records use the name `data`, so that an official reader stops at an encoded one with a clear error. Writing
and indexing need no TensorFlow; only `parse_records` builds TensorFlow ops.
"""

import functools
import io
import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from dnnlib.util import UserError

ENCODINGS = ("webp", "png", "raw")
MIN_LEVEL = 2

_CRC_POLYNOMIAL = 0x82F63B78  # Castagnoli, bits reversed
_STRIPE = 256  # bytes of a message that one lane of the vectorised CRC takes
_HEADER, _FOOTER = 12, 4  # bytes around a record: length and its CRC; CRC of the data


def record_files(directory):
    """{level: path} of the record files in `directory`; `-r05` holds images of 32x32.

    Raises UserError where the directory has none, or two of one level.
    """
    files = {}
    for path in sorted(Path(directory).glob("*-r[0-9][0-9].tfrecords")):
        level = int(re.search(r"-r(\d\d)\.tfrecords$", path.name)[1])
        if level in files:
            raise UserError(f"{directory}: two record files of level {level}: "
                            f"{files[level].name} and {path.name}; keep one data set per folder")
        files[level] = path
    if not files:
        raise UserError(f"{directory}: no record files (*-rNN.tfrecords) there")
    return files


# ---------------------------------------------------------------------------------------------
# CRC-32C. A CRC without its initial and final inversion is linear, so that a message can be cut into stripes, all of
# them advanced together as a vector, and the stripes' remainders folded pairwise.

@functools.lru_cache(maxsize=1)
def _word_tables():
    """(low, high) uint32 [65536]: what the two halves of a 32-bit state become after four zero bytes."""
    byte = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        byte = (byte >> 1) ^ np.where(byte & 1, np.uint32(_CRC_POLYNOMIAL), np.uint32(0))
    half = np.arange(65536, dtype=np.uint32)
    tables = []
    for state in (half, half << 16):
        for _ in range(4):
            state = (state >> 8) ^ byte[state & 0xFF]
        tables.append(state)
    return tuple(tables)


@functools.lru_cache(maxsize=64)
def _skip_tables(num_words):
    """Like `_word_tables`, for `num_words` (a power of two) words of zeros."""
    if num_words == 1:
        return _word_tables()
    half = _skip_tables(num_words // 2)
    return tuple(_skip(half, table) for table in half)


def _skip(tables, state):
    """States [...] uint32 advanced over the zeros that `tables` stand for."""
    return tables[0][state & 0xFFFF] ^ tables[1][state >> 16]


def crc32c(data):
    """CRC-32C (Castagnoli; RFC 3720, appendix B.4) of bytes."""
    head = bytes(data[:4])
    if len(head) < 4:
        return _crc32c_short(head)
    num_stripes = -(-len(data) // _STRIPE)
    message = np.zeros(num_stripes * _STRIPE, np.uint8)
    message[len(message) - len(data):] = np.frombuffer(data, np.uint8)  # zeros in front are free
    start = len(message) - len(data)
    message[start:start + 4] ^= 0xFF  # the initial inversion of the state
    words = np.ascontiguousarray(message.view("<u4").reshape(num_stripes, -1).T)
    state = np.zeros(num_stripes, np.uint32)
    for row in words:
        state = _skip(_word_tables(), state ^ row)
    return int(_fold(state, _STRIPE // 4)) ^ 0xFFFFFFFF


def _fold(state, num_words):
    """Remainders [n] uint32 of consecutive pieces of `num_words` words -> the whole's remainder."""
    while len(state) > 1:
        if len(state) % 2:
            state = np.concatenate([np.zeros(1, np.uint32), state])
        state = _skip(_skip_tables(num_words), state[0::2]) ^ state[1::2]
        num_words *= 2
    return state[0]


def _crc32c_short(data):
    """CRC-32C by the definition, bit by bit."""
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = (state >> 1) ^ (_CRC_POLYNOMIAL if state & 1 else 0)
    return state ^ 0xFFFFFFFF


def masked_crc(data):
    """The TFRecord format's CRC of `data`: CRC-32C rotated right by 15 bits plus a constant."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def frame(payload):
    """TFRecord framing: length uint64, its masked CRC, payload, its masked CRC; little-endian."""
    length = struct.pack("<Q", len(payload))
    return b"".join([length, struct.pack("<I", masked_crc(length)), payload,
                     struct.pack("<I", masked_crc(payload))])


# ---------------------------------------------------------------------------------------------
# Example messages, in the protocol buffers' wire format.

def encode_record(image, encoding):
    """Image uint8 [C, H, W] -> serialized tf.train.Example (without framing).

    Raises ValueError for another type or shape, or an encoding outside ENCODINGS.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[0] < 3:
        raise ValueError(f"an image is uint8 [3 or more, H, W], not {image.dtype} {image.shape}")
    shape = (b"shape", 3, b"".join(_varint(n) for n in image.shape))
    if encoding == "raw":
        return _example([(b"data", 1, image.tobytes()), shape])
    features = [(b"encoding", 1, encoding.encode()), (b"rgb", 1, _encode_rgb(image[:3], encoding)), shape]
    if image.shape[0] > 3:
        features.insert(1, (b"maps", 1, zlib.compress(image[3:].tobytes(), 1)))
    return _example(features)


def _encode_rgb(rgb, encoding):
    """uint8 [3, H, W] -> bytes of a lossless image file."""
    picture = Image.fromarray(np.ascontiguousarray(rgb.transpose(1, 2, 0)), "RGB")
    buffer = io.BytesIO()
    if encoding == "webp":
        picture.save(buffer, "WEBP", lossless=True, quality=0, method=0)
    elif encoding == "png":
        picture.save(buffer, "PNG", compress_level=1)
    else:
        raise ValueError(f"unknown encoding {encoding!r}; known: {', '.join(ENCODINGS)}")
    return buffer.getvalue()


def _varint(number):
    """A non-negative integer in base 128, low groups first, high bit set on all but the last."""
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)


def _field(number, content):
    """One length-delimited field of a message."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _example(features):
    """[(name, kind, content)] -> Example. Kind 1 is a bytes_list of one, kind 3 an int64_list packed."""
    entries = [_field(1, _field(1, name) + _field(2, _field(kind, _field(1, content))))
               for name, kind, content in features]
    return _field(1, b"".join(entries))


def decode_record(payload):
    """Serialized Example -> image uint8 [C, H, W]. Raises ValueError saying what is wrong with it."""
    features = _read_example(payload)
    if "shape" not in features:
        raise ValueError("record without the feature `shape`")
    shape = tuple(_read_varints(features["shape"]))
    if len(shape) != 3 or shape[0] < 3 or not all(0 < n <= 65536 for n in shape):
        raise ValueError(f"record of shape {shape}; expected [3 or more, H, W]")
    if "data" in features:
        return _planes(features["data"], shape)
    if "rgb" not in features:
        raise ValueError("record with neither `data` nor `rgb`")
    try:
        rgb = np.asarray(Image.open(io.BytesIO(features["rgb"])).convert("RGB"))
        maps = zlib.decompress(features["maps"]) if shape[0] > 3 else b""
    except (OSError, SyntaxError, KeyError, zlib.error) as error:
        raise ValueError(f"damaged image data ({error})") from None
    if rgb.shape != (*shape[1:], 3):
        raise ValueError(f"record of shape {shape} holds colours of shape {rgb.shape}")
    return np.concatenate([rgb.transpose(2, 0, 1), _planes(maps, (shape[0] - 3, *shape[1:]))])


def _planes(data, shape):
    """Bytes -> uint8 array of `shape`. Raises ValueError where the size differs."""
    if len(data) != np.prod(shape, dtype=np.int64):
        raise ValueError(f"record of shape {shape} holds {len(data)} bytes")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _read_example(payload):
    """Serialized Example -> {name: content of its only list value}."""
    features = {}
    try:
        for _, message in _read_fields(payload):
            for _, entry in _read_fields(message):
                parts = dict(_read_fields(entry))
                (_, values), = _read_fields(parts[2])
                (_, content), = _read_fields(values)
                features[parts[1].decode()] = content
    except (KeyError, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"not an Example of one image ({error!r})") from None
    return features


def _read_fields(message):
    """Yield (number, content) of a message whose fields are all length-delimited."""
    position = 0
    while position < len(message):
        tag, position = _read_varint(message, position)
        if tag & 7 != 2:
            raise ValueError("not an Example of one image (unexpected wire type)")
        length, position = _read_varint(message, position)
        if position + length > len(message):
            raise ValueError("not an Example of one image (cut short)")
        yield tag >> 3, message[position:position + length]
        position += length


def _read_varint(message, position):
    """(value, position behind it)."""
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position


def _read_varints(message):
    """All varints of a packed list."""
    values, position = [], 0
    while position < len(message):
        value, position = _read_varint(message, position)
        values.append(value)
    return values


# ---------------------------------------------------------------------------------------------
# Reading files.

def index_records(path):
    """Where the records' payloads lie: (offsets, lengths), int64 [n]. Only the framing is read.

    Raises UserError where a header's CRC is wrong or the file ends within a record.
    """
    offsets, lengths, headers = [], [], []
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        position = 0
        while position < size:
            header = os.pread(file.fileno(), _HEADER, position)
            length = int.from_bytes(header[:8], "little")
            if len(header) < _HEADER or position + _HEADER + length + _FOOTER > size:
                raise UserError(f"{path}: damaged or cut short at byte {position} of {size} "
                                f"(record {len(offsets)}); make or copy this data set again")
            headers.append(header)
            offsets.append(position + _HEADER)
            lengths.append(length)
            position += _HEADER + length + _FOOTER
    _check_headers(path, headers)
    return np.array(offsets, np.int64), np.array(lengths, np.int64)


def _check_headers(path, headers):
    """Check the lengths' CRCs; equal lengths are common (raw records), so each is computed once."""
    known = {}
    for i, header in enumerate(headers):
        if header[:8] not in known:
            known[header[:8]] = struct.pack("<I", masked_crc(header[:8]))
        if header[8:] != known[header[:8]]:
            raise UserError(f"{path}: the header of record {i} is damaged; "
                            "make or copy this data set again")


def read_record(fd, path, offset, length):
    """One payload by its place, its CRC checked. Raises UserError naming file and byte if damaged."""
    data = os.pread(fd, length + _FOOTER, offset)
    payload = data[:length]
    if len(data) < length + _FOOTER or struct.pack("<I", masked_crc(payload)) != data[length:]:
        raise UserError(f"{path}: the record at byte {offset} is damaged (wrong checksum); "
                        "make or copy this data set again")
    return payload


def parse_records(serialized, num_channels, resolution, only_rgb=False):
    """Serialized Examples [N] string -> images uint8 [N, H, W, C], in TensorFlow ops.

    `num_channels` is what the records hold; with `only_rgb` it is not used, and C is 3. An Example of another shape
    fails with tf.errors.InvalidArgumentError when the op runs.
    """
    import tensorflow as tf  # here, so that dataset workers can write records without it
    empty = tf.io.FixedLenFeature([], tf.string, default_value="")
    parsed = tf.io.parse_example(serialized, {
        "shape": tf.io.FixedLenFeature([3], tf.int64), "data": empty, "rgb": empty, "maps": empty})
    keep = 3 if only_rgb else num_channels
    size = [resolution, resolution]

    def decode_raw(data):
        planes = tf.reshape(tf.io.decode_raw(data, tf.uint8), [-1, *size])[:keep]
        return tf.transpose(tf.ensure_shape(planes, [keep, *size]), [1, 2, 0])

    def decode_encoded(rgb, maps):
        rgb = tf.io.decode_image(rgb, channels=3, expand_animations=False)
        rgb = tf.ensure_shape(rgb, [*size, 3])
        if keep == 3:
            return rgb
        maps = tf.io.decode_raw(tf.io.decode_compressed(maps, "ZLIB"), tf.uint8)
        maps = tf.transpose(tf.reshape(maps, [keep - 3, *size]), [1, 2, 0])
        return tf.concat([rgb, maps], axis=2)

    def decode(record):
        shape, data, rgb, maps = record
        tf.debugging.assert_equal(shape[1:], tf.constant(size, tf.int64), "image size in a record")
        if not only_rgb:
            tf.debugging.assert_equal(shape[0], tf.constant(keep, tf.int64), "channels in a record")
        return tf.cond(tf.strings.length(data) > 0, lambda: decode_raw(data),
                       lambda: decode_encoded(rgb, maps))

    return tf.map_fn(decode, (parsed["shape"], parsed["data"], parsed["rgb"], parsed["maps"]),
                     fn_output_signature=tf.TensorSpec([*size, keep], tf.uint8))
