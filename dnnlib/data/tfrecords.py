"""One image <-> one record.

A record file is the official release's: `<anything>-r%02d.tfrecords`, one per level r (images of
2^r x 2^r pixels), each record one serialized tf.train.Example in TFRecord framing. The Example has
one of two forms:

    raw      `shape` int64 [C, H, W] and `data`, the uint8 image in CHW order (the official form);
    encoded  `shape`, `encoding` ("webp" or "png"), `rgb` (a lossless image file of that kind) and,
             for more than three channels, `maps` (the other channels in CHW order, zlib).

Only raw records use the name `data`, so that an official reader stops at an encoded one. Writing,
indexing and `decode_record` need no TensorFlow; `parse_records` builds TensorFlow ops.
"""

import functools
import io
import os
import re
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import google_crc32c
import numpy as np
from PIL import Image

from dnnlib.data import channels
from dnnlib.util import UserError

if TYPE_CHECKING:
    import tensorflow as tf

ENCODINGS = ("webp", "png", "raw")
MIN_LEVEL = 2  # 4x4, the smallest images a network sees

_HEADER = 12  # bytes before a payload: its length uint64 and the length's checksum uint32
_FOOTER = 4  # bytes behind it: its checksum
_BYTES, _INT64 = 1, 3  # field numbers of bytes_list and int64_list in a tf.train.Feature
_AGAIN = "make or copy this data set again"


def record_files(directory: str | Path) -> dict[int, Path]:
    """Return {level: path} of the record files in `directory`; `-r05` holds images of 32x32.

    Raises:
        UserError: the directory has none, or two of one level.
    """
    files = {}
    for path in sorted(Path(directory).glob("*-r[0-9][0-9].tfrecords")):
        level = int(re.search(r"-r(\d\d)\.tfrecords$", path.name)[1])
        if level in files:
            raise UserError(f"{directory}: {files[level].name} and {path.name} are of one level; "
                            "keep one data set in a folder")
        files[level] = path
    if not files:
        raise UserError(f"{directory}: no record files (*-rNN.tfrecords) there")
    return files


# Writing

def frame(payload: bytes) -> bytes:
    """Return a record in TFRecord framing: length, its checksum, payload, its checksum."""
    length = struct.pack("<Q", len(payload))
    return b"".join([length, checksum(length), payload, checksum(payload)])


def checksum(data: bytes) -> bytes:
    """Return the format's checksum of bytes: their CRC-32C rotated right by 15 bits, plus a
    constant, as a little-endian uint32."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def encode_record(image: np.ndarray, encoding: str) -> bytes:
    """Serialize an image as a tf.train.Example, without framing.

    Args:
        image: uint8 [C, H, W].
        encoding: one of ENCODINGS.

    Raises:
        ValueError: another type, shape or encoding.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[0] < channels.NUM_COLOURS:
        raise ValueError(f"an image is uint8 [3 or more, H, W], not {image.dtype} {image.shape}")
    shape = (b"shape", _INT64, b"".join(_varint(side) for side in image.shape))
    if encoding == "raw":
        return _example([(b"data", _BYTES, image.tobytes()), shape])
    features = [(b"encoding", _BYTES, encoding.encode()),
                (b"rgb", _BYTES, _encode_rgb(image[channels.RGB], encoding)), shape]
    if image.shape[0] > channels.NUM_COLOURS:
        maps = zlib.compress(np.ascontiguousarray(image[channels.SEGMAPS]), 1)
        features.insert(1, (b"maps", _BYTES, maps))
    return _example(features)


def _encode_rgb(rgb, encoding):
    """Encode uint8 [3, H, W] as a lossless image file's bytes."""
    picture = Image.fromarray(np.ascontiguousarray(rgb.transpose(1, 2, 0)))
    buffer = io.BytesIO()
    if encoding == "webp":
        picture.save(buffer, "WEBP", lossless=True, quality=0, method=0)
    elif encoding == "png":
        picture.save(buffer, "PNG", compress_level=1)
    else:
        raise ValueError(f"unknown encoding {encoding!r}; known: {', '.join(ENCODINGS)}")
    return buffer.getvalue()


def _example(features):
    """Write [(name, kind, content)] as an Example in the protocol buffers' wire format.

    A bytes_list has one value, the content; an int64_list is packed, its varints are the content.
    """
    entries = [_field(1, _field(1, name) + _field(2, _field(kind, _field(1, content))))
               for name, kind, content in features]
    return _field(1, b"".join(entries))


def _field(number, content):
    """Write one length-delimited field of a message."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(number):
    """Write a non-negative integer in base 128: low groups first, a high bit where more follow."""
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)


# Reading without TensorFlow

class RecordFile:
    """The records of one file, indexed once and then read by number."""

    def __init__(self, path: str | Path):
        """Index the file. Raises UserError if it is damaged, OSError if it cannot be opened."""
        self.path = Path(path)
        self._offsets, self._lengths = index_records(path)
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - open as long as the object

    def __len__(self):
        return len(self._offsets)

    def __del__(self):
        if hasattr(self, "_file"):
            self._file.close()

    def read(self, number: int) -> bytes:
        """Return serialized Example `number`. Raises UserError if its checksum is wrong."""
        length = int(self._lengths[number])
        data = os.pread(self._file.fileno(), length + _FOOTER, int(self._offsets[number]))
        if checksum(data[:length]) != data[length:]:
            raise UserError(f"{self.path}: record {number} is damaged (wrong checksum); {_AGAIN}")
        return data[:length]

    def read_many(self, numbers: Iterable[int]) -> list[bytes]:
        """Return the serialized Example of each of `numbers`, as `read` does."""
        return [self.read(number) for number in numbers]

    def read_image(self, number: int) -> np.ndarray:
        """Return image `number`, uint8 [C, H, W]. Raises UserError if the record is damaged."""
        try:
            return decode_record(self.read(number))
        except ValueError as error:
            raise UserError(f"{self.path}: record {number}: {error}; {_AGAIN}") from None


def index_records(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Return (offsets, lengths) of the payloads of a record file, int64 [n] bytes each.

    Reads headers only.

    Raises:
        UserError: a header's checksum is wrong, or the file ends within a record.
    """
    offsets, lengths, position = [], [], 0
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        while position < size:
            header = os.pread(file.fileno(), _HEADER, position)
            length = int.from_bytes(header[:8], "little")
            end = position + _HEADER + length + _FOOTER
            if checksum(header[:8]) != header[8:] or end > size:
                raise UserError(f"{path}: damaged or cut short in record {len(offsets)} "
                                f"(byte {position} of {size}); {_AGAIN}")
            offsets.append(position + _HEADER)
            lengths.append(length)
            position = end
    return np.array(offsets, np.int64), np.array(lengths, np.int64)


def decode_record(payload: bytes) -> np.ndarray:
    """Read a serialized Example's image, uint8 [C, H, W]. Raises ValueError if it is damaged."""
    features = _read_example(payload)
    shape = _read_shape(features)
    if "data" in features:
        return _planes(features["data"], shape)
    try:
        with Image.open(io.BytesIO(features["rgb"])) as picture:
            rgb = np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
        maps = _inflate(features["maps"]) if shape[0] > channels.NUM_COLOURS else b""
    except KeyError as error:
        raise ValueError(f"record without the feature {error}") from None
    except (OSError, SyntaxError) as error:
        raise ValueError(f"damaged image data ({error})") from None
    if rgb.shape[1:] != shape[1:]:
        raise ValueError(f"record of shape {shape} holds colours of shape {rgb.shape}")
    return np.concatenate([rgb, _planes(maps, (shape[0] - channels.NUM_COLOURS, *shape[1:]))])


def _inflate(deflated):
    """Inflate zlib's bytes. Raises ValueError if they are damaged."""
    try:
        return zlib.decompress(deflated)
    except zlib.error as error:
        raise ValueError(f"damaged image data ({error})") from None


def _planes(data, shape):
    """Return bytes as a uint8 array of `shape`. Raises ValueError if the size differs."""
    if len(data) != np.prod(shape, dtype=np.int64):
        raise ValueError(f"record of shape {shape} holds {len(data)} bytes")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _read_shape(features):
    """Return (C, H, W) of a record's features. Raises ValueError if it is no image's."""
    content, shape, position = features.get("shape", b""), [], 0
    while position < len(content):
        side, position = _read_varint(content, position)
        shape.append(side)
    if len(shape) != 3 or shape[0] < channels.NUM_COLOURS or not all(0 < n <= 65536 for n in shape):
        raise ValueError(f"record of shape {shape}, expected [3 or more, height, width]")
    return tuple(shape)


def _read_example(payload):
    """Return {name: content of its value} of an Example. Raises ValueError for other messages."""
    features = {}
    for _, message in _read_fields(payload):
        for _, entry in _read_fields(message):
            parts = dict(_read_fields(entry))
            lists = list(_read_fields(parts.get(2, b"")))
            values = list(_read_fields(lists[0][1])) if len(lists) == 1 else []
            if len(values) != 1:
                raise ValueError("not the record of one image")
            features[parts.get(1, b"").decode("utf-8", "replace")] = values[0][1]
    return features


def _read_fields(message):
    """Yield (number, content) of a message whose fields are all length-delimited."""
    position = 0
    while position < len(message):
        tag, position = _read_varint(message, position)
        length, position = _read_varint(message, position)
        if tag & 7 != 2 or position + length > len(message):
            raise ValueError("not the record of one image")
        yield tag >> 3, message[position:position + length]
        position += length


def _read_varint(message, position):
    """Return (value, position behind it). Raises ValueError if it has no end or over 64 bits."""
    value = 0
    for shift, byte in zip(range(0, 64, 7), message[position:position + 10]):
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position + shift // 7 + 1
    raise ValueError("not the record of one image")


# Reading with TensorFlow

def parse_records(serialized: "tf.Tensor", num_channels: int, resolution: int,
                  only_rgb: bool = False) -> "tf.Tensor":
    """Read images uint8 [N, H, W, C] of serialized Examples, string [N], within TensorFlow.

    Args:
        num_channels: what the records hold; with `only_rgb` it does not matter, and C is 3.

    Raises:
        tf.errors.InvalidArgumentError: when the ops run; records of another shape, or damaged.
        ValueError: damaged maps, outside of traced functions.
    """
    import tensorflow as tf  # here, because dataset workers must not load it
    absent = tf.io.FixedLenFeature([], tf.string, default_value="")
    parsed = tf.io.parse_example(serialized, {
        "shape": tf.io.FixedLenFeature([3], tf.int64),
        "data": absent, "rgb": absent, "maps": absent})
    side = tf.constant(resolution, tf.int64)
    checks = [tf.debugging.assert_equal(parsed["shape"][:, 1:], side,
                                        "images of another resolution")]
    if not only_rgb:
        checks.append(tf.debugging.assert_equal(
            parsed["shape"][:, 0], tf.constant(num_channels, tf.int64),
            "images of another number of channels"))
    # Decoding waits for the checks: ops of one graph run in any order, and their error says more.
    with tf.control_dependencies([check for check in checks if check is not None]):
        encoded = (tf.identity(parsed["data"]), tf.identity(parsed["rgb"]))
    colours = tf.map_fn(
        lambda record: _parse_colours(*record, resolution), encoded,
        fn_output_signature=tf.TensorSpec([resolution, resolution, channels.NUM_COLOURS], tf.uint8))
    if only_rgb or num_channels == channels.NUM_COLOURS:
        return colours
    images = tf.numpy_function(functools.partial(_join_maps, num_channels),
                               [colours, parsed["data"], parsed["maps"]], tf.uint8, stateful=False)
    return tf.ensure_shape(images, [None, resolution, resolution, num_channels])


def _parse_colours(data, rgb, resolution):
    """Return the colours of one record's features, uint8 [H, W, 3]."""
    import tensorflow as tf

    def raw():
        values = tf.reshape(tf.io.decode_raw(data, tf.uint8), [-1, resolution, resolution])
        return tf.transpose(values[:channels.NUM_COLOURS], [1, 2, 0])

    def encoded():
        return tf.io.decode_image(rgb, channels=channels.NUM_COLOURS, expand_animations=False)

    colours = tf.cond(tf.strings.length(data) > 0, raw, encoded)
    return tf.ensure_shape(colours, [resolution, resolution, channels.NUM_COLOURS])


def _join_maps(num_channels, colours, raw, deflated):
    """Join colours uint8 [N, H, W, 3] and the maps of records, raw bytes [N] or else deflated
    ones [N], to images uint8 [N, H, W, C]. Raises ValueError if maps are damaged.

    In NumPy, because most maps are empty and need not be copied: half the time of ops that do.
    """
    images = np.zeros((*colours.shape[:3], num_channels), np.uint8)
    shape = (num_channels, *colours.shape[1:3])
    for i in range(len(images)):
        if raw[i]:
            planes = _planes(raw[i], shape)[channels.SEGMAPS]
        else:
            planes = _planes(_inflate(deflated[i]), (num_channels - channels.NUM_COLOURS,
                                                     *shape[1:]))
        for channel in range(channels.NUM_COLOURS):
            images[i, ..., channel] = colours[i, ..., channel]
        for channel in np.flatnonzero(planes.reshape(len(planes), -1).max(axis=1)):
            images[i, ..., channels.NUM_COLOURS + channel] = planes[channel]
    return images
