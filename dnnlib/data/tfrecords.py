"""Read and write record files: one image <-> one record.

Record files are as in the official release: `<anything>-r%02d.tfrecords`, one per level r (images
of 2^r x 2^r pixels); each record is a serialized tf.train.Example in TFRecord framing. The Example
has one of two forms:

    raw      `shape` int64 [C, H, W] and `data`, the uint8 image in CHW order (the official form);
    encoded  `shape`, `encoding` ("webp" or "png"), `rgb` (a lossless image file of that kind) and,
             for more than three channels, `maps` (the other channels in CHW order, zlib).

The records of a level are in one file, or in one file in each of the folders
`shard-00007-of-00100`, in the order of their names.

Only raw records use the name `data`, so that an official reader stops at an encoded one. Writing,
indexing and `decode_record` need no TensorFlow; `parse_records` builds TensorFlow ops.
"""

import contextlib
import functools
import io
import math
import os
import re
import struct
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import google_crc32c
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory
from PIL import Image

from dnnlib.data import channels
from dnnlib.util import UserError

if TYPE_CHECKING:
    import tensorflow as tf

ENCODINGS = ("webp", "png", "raw")
MIN_LEVEL = 2  # 4x4, the smallest images a network sees
SHARDS = "shard-*-of-*"  # folders, each with a part of the records
AGAIN = "make or copy this data set again"  # what messages about damaged data sets advise

_HEADER = 12  # bytes before a payload: its length uint64 and the length's checksum uint32
_FOOTER = 4  # bytes after it: its checksum
# tf.train.Example: {message: {field: (number, is it repeated, type)}}. In TensorFlow `feature` is a
# map, which has the same bytes; here it is a list, so that we determine the order.
_MESSAGES = {
    "BytesList": {"value": (1, True, "bytes")}, "Int64List": {"value": (1, True, "int64")},
    "Feature": {"bytes_list": (1, False, "BytesList"), "int64_list": (3, False, "Int64List")},
    "Entry": {"key": (1, False, "bytes"), "value": (2, False, "Feature")},
    "Features": {"feature": (1, True, "Entry")}, "Example": {"features": (1, False, "Features")}}


def record_files(directory: str | Path) -> dict[int, list[Path]]:
    """Return {level: paths} of the record files in `directory`, a path for each shard; `-r05` has
    images of 32x32. Raises UserError if there are none, or a folder has two of one level."""
    levels = {level: [path] for level, path in _files_by_level(directory).items()}
    if not levels:
        for shard in sorted(Path(directory).glob(SHARDS)):
            for level, path in _files_by_level(shard).items():
                levels.setdefault(level, []).append(path)
    if not levels:
        raise UserError(f"{directory}: no record files (*-rNN.tfrecords) there")
    return levels


def _files_by_level(directory):
    """Return {level: path} of the record files directly in a folder."""
    files = {}
    for path in sorted(Path(directory).glob("*-r[0-9][0-9].tfrecords")):
        level = int(re.search(r"-r(\d\d)\.tfrecords$", path.name)[1])
        if level in files:
            raise UserError(f"{directory}: {files[level].name} and {path.name} are of one level; "
                            "keep one data set in a folder")
        files[level] = path
    return files


def shard_name(index: int, count: int) -> str:
    """Return the folder's name for shard `index`, from 0, of `count`."""
    return f"shard-{index:05d}-of-{count:05d}"


# Writing

def frame(payload: bytes) -> bytes:
    """Return a record in TFRecord framing: length, its checksum, payload, its checksum."""
    length = struct.pack("<Q", len(payload))
    return b"".join([length, checksum(length), payload, checksum(payload)])


def checksum(data: bytes) -> bytes:
    """Return the format's checksum: CRC-32C rotated right by 15 bits, plus a constant."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def encode_record(image: np.ndarray, encoding: str) -> bytes:
    """Serialize an image uint8 [C, H, W] as a tf.train.Example, without framing, in one of
    ENCODINGS. Raises ValueError for another type, shape or encoding."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[0] < channels.NUM_COLOURS:
        raise ValueError(f"an image is uint8 [3 or more, H, W], not {image.dtype} {image.shape}")
    features = {"shape": image.shape}
    if encoding == "raw":
        features["data"] = image.tobytes()
    else:
        features["encoding"] = encoding.encode()
        features["rgb"] = _encode_rgb(image[channels.RGB], encoding)
        if image.shape[0] > channels.NUM_COLOURS:
            segmaps = np.ascontiguousarray(image[channels.SEGMAPS])
            features["maps"] = zlib.compress(segmaps, 1)
    # Write them in the order of their names.
    example = _example_class()()
    for name, value in sorted(features.items()):
        entry = example.features.feature.add(key=name.encode())
        if name == "shape":
            entry.value.int64_list.value.extend(value)
        else:
            entry.value.bytes_list.value.append(value)
    return example.SerializeToString()


def _encode_rgb(rgb, encoding):
    """Encode uint8 [3, H, W] as a lossless image file's bytes."""
    options = {"webp": {"lossless": True, "quality": 0, "method": 0}, "png": {"compress_level": 1}}
    if encoding not in options:
        raise ValueError(f"unknown encoding {encoding!r}; known: {', '.join(ENCODINGS)}")
    buffer = io.BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(rgb.transpose(1, 2, 0)))
    picture.save(buffer, encoding, **options[encoding])
    return buffer.getvalue()


@functools.cache
def _example_class():
    """Return the class of an Example, in a pool that is separate from TensorFlow's."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", syntax="proto3")
    for name, fields in _MESSAGES.items():
        kind = file.message_type.add(name=name)
        for field, (number, is_repeated, type_name) in fields.items():
            entry = kind.field.add(name=field, number=number, label=3 if is_repeated else 1)
            if type_name in _MESSAGES:
                entry.type_name = f".{type_name}"
            else:
                entry.type = {"bytes": entry.TYPE_BYTES, "int64": entry.TYPE_INT64}[type_name]
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("Example"))


# Reading without TensorFlow

class RecordFile:
    """The records of one file, or of several in turn, indexed once and then read by number.

    Attributes:
        path: of the (first) file.
    """

    def __init__(self, paths: str | Path | Sequence[Path]):
        """Index the files by their headers. Raises UserError if one is damaged or cut short."""
        self._paths = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
        self.path, self._file = self._paths[0], None
        places = []
        for path in self._paths:
            with open(path, "rb", buffering=0) as file:
                places.append(_record_places(path, file.fileno()))
        self._ends = np.cumsum([len(of_file) for of_file in places])
        self._offsets, self._lengths = np.concatenate(places).T
        if len(self._paths) == 1:  # many files are opened for each read: handles are limited
            self._file = open(self.path, "rb", buffering=0)  # noqa: SIM115 - as long as the object

    def __len__(self):
        return len(self._offsets)

    def __del__(self):
        if getattr(self, "_file", None):
            self._file.close()

    def read(self, number: int) -> bytes:
        """Return serialized Example `number`. Raises UserError if its checksum is wrong."""
        offset, length = int(self._offsets[number]), int(self._lengths[number])
        path = self.path_of(number)
        with contextlib.nullcontext(self._file) if self._file else open(path, "rb", 0) as file:
            data = os.pread(file.fileno(), length + _FOOTER, offset)
        if checksum(data[:length]) != data[length:]:
            raise UserError(f"{path}: record {number} is damaged (wrong checksum); {AGAIN}")
        return data[:length]

    def path_of(self, number: int) -> Path:
        """Return the path of the file that holds record `number`."""
        return self._paths[int(np.searchsorted(self._ends, number, side="right"))]

    def read_many(self, numbers: Iterable[int]) -> list[bytes]:
        """Return several serialized Examples, as `read` does."""
        return [self.read(number) for number in numbers]

    def read_image(self, number: int, only_rgb: bool = False) -> np.ndarray:
        """Return image `number`, uint8 [C, H, W]. Raises UserError if the record is damaged."""
        return self._decoded(number, decode_record, only_rgb)

    def read_pair(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return image `number` as rgb uint8 [H, W, 3] and label map uint8 [H, W]. Raises UserError
        as `read_image` does."""
        image = self.read_image(number).transpose(1, 2, 0)
        return image[..., channels.RGB], channels.to_label_map(
            image[..., channels.SEGMAPS], channels.STORED_THRESHOLD)

    def read_maps(self, number: int) -> np.ndarray:
        """Return the class maps of image `number`, uint8 [C, H, W], without decoding its colours,
        which would take most of the time. Raises UserError as `read_image` does."""
        return self._decoded(number, decode_maps)

    def _decoded(self, number, decode, *options):
        try:
            return decode(self.read(number), *options)
        except ValueError as error:
            raise UserError(f"{self.path_of(number)}: record {number}: {error}; "
                            f"{AGAIN}") from None


def _record_places(path, descriptor):
    """Return (offset, length) of every payload in an open record file, int64 [n, 2]. Raises
    UserError if it is damaged or cut short."""
    places, position = [], 0
    size = os.fstat(descriptor).st_size
    while position < size:
        header = os.pread(descriptor, _HEADER, position)
        length = int.from_bytes(header[:8], "little")
        end = position + _HEADER + length + _FOOTER
        if checksum(header[:8]) != header[8:] or end > size:
            raise UserError(f"{path}: damaged or cut short in record {len(places)} "
                            f"(byte {position} of {size}); {AGAIN}")
        places.append((position + _HEADER, length))
        position = end
    return np.array(places, np.int64).reshape(-1, 2)


def decode_record(payload: bytes, only_rgb: bool = False) -> np.ndarray:
    """Return a serialized Example's image, uint8 [C, H, W]; with `only_rgb` just its three colours.

    Raises ValueError if it is damaged.
    """
    shape, features = _shape_and_features(payload)
    if "data" in features:
        image = _planes(features["data"], shape)
        return image[channels.RGB] if only_rgb else image
    # In the encoded form, decode the colours, then the maps.
    try:
        with Image.open(io.BytesIO(features["rgb"])) as picture:
            rgb = np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
    except KeyError as error:
        raise ValueError(f"record without the feature {error}") from None
    except (OSError, SyntaxError) as error:
        raise ValueError(f"damaged image data ({error})") from None
    if rgb.shape[1:] != shape[1:]:
        raise ValueError(f"record of shape {shape} holds colours of shape {rgb.shape}")
    if only_rgb or shape[0] == channels.NUM_COLOURS:
        return rgb
    return np.concatenate([rgb, _deflated_maps(shape, features)])


def decode_maps(payload: bytes) -> np.ndarray:
    """Return the class maps of a serialized Example's image, uint8 [C, H, W].

    Raises ValueError if it is damaged; its colours are not read.
    """
    shape, features = _shape_and_features(payload)
    if "data" in features:
        return _planes(features["data"], shape)[channels.SEGMAPS]
    if shape[0] == channels.NUM_COLOURS:
        return np.zeros((0, *shape[1:]), np.uint8)
    return _deflated_maps(shape, features)


def _shape_and_features(payload):
    """Return (shape, {name: bytes}) of a serialized Example. Raises ValueError if it is damaged."""
    try:
        entries = _example_class().FromString(payload).features.feature
    except message.DecodeError:
        raise ValueError("not the record of one image") from None
    shape, features = (), {}
    for entry in entries:
        if entry.key == b"shape":
            shape = tuple(entry.value.int64_list.value)
        elif len(entry.value.bytes_list.value) == 1:
            features[entry.key.decode("utf-8", "replace")] = entry.value.bytes_list.value[0]
    if len(shape) != 3 or shape[0] < channels.NUM_COLOURS or not all(0 < n <= 65536 for n in shape):
        raise ValueError(f"record of shape {list(shape)}, expected [3 or more, height, width]")
    return shape, features


def _deflated_maps(shape, features):
    """Return the maps of an encoded record. Raises ValueError if they are missing or damaged."""
    if "maps" not in features:
        raise ValueError("record without the feature 'maps'")
    return _planes(features["maps"], (shape[0] - channels.NUM_COLOURS, *shape[1:]),
                   is_deflated=True)


def _planes(data, shape, is_deflated=False):
    """Return bytes, raw or compressed by zlib, as a uint8 array of `shape`. Raises ValueError if
    they are damaged or of another size."""
    size = math.prod(shape)
    if is_deflated:
        stream = zlib.decompressobj()
        try:
            data = stream.decompress(data, size + 1)  # a few bytes can inflate to gigabytes
        except zlib.error as error:
            raise ValueError(f"damaged image data ({error})") from None
        if len(data) <= size and not stream.eof:
            raise ValueError("damaged image data (cut short)")
    if len(data) != size:
        raise ValueError(f"record of shape {shape} holds {len(data)} bytes"
                         + (" or more" if is_deflated and len(data) > size else ""))
    return np.frombuffer(data, np.uint8).reshape(shape)


# Reading with TensorFlow

def parse_records(serialized: "tf.Tensor", num_channels: int, resolution: int,
                  only_rgb: bool = False, one_map: bool = False) -> "tf.Tensor":
    """Read images uint8 [N, H, W, C] from serialized Examples, string [N], with TensorFlow ops.

    The records have `num_channels`; with `only_rgb` this does not matter, and C is 3. With
    `one_map`, C is 4, and the fourth channel is the sum of all maps, 255 at most. Damaged records
    and those of another shape raise tf.errors.InvalidArgumentError when the ops run; damaged maps
    raise ValueError outside of traced functions.
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
    # Decoding waits for the checks, whose errors are clearer: a graph's ops run in any order.
    with tf.control_dependencies([check for check in checks if check is not None]):
        encoded = (tf.identity(parsed["data"]), tf.identity(parsed["rgb"]))
    colours = tf.map_fn(
        lambda record: _parse_colours(*record, resolution), encoded,
        fn_output_signature=tf.TensorSpec([resolution, resolution, channels.NUM_COLOURS], tf.uint8))
    if only_rgb or num_channels == channels.NUM_COLOURS:
        return colours
    images = tf.numpy_function(functools.partial(_join_maps, num_channels, one_map),
                               [colours, parsed["data"], parsed["maps"]], tf.uint8, stateful=False)
    return tf.ensure_shape(images, [None, resolution, resolution,
                                    channels.NUM_COLOURS + 1 if one_map else num_channels])


def _parse_colours(data, rgb, resolution):
    """Return the colours from one record's features, uint8 [H, W, 3]."""
    import tensorflow as tf

    def raw():
        values = tf.reshape(tf.io.decode_raw(data, tf.uint8), [-1, resolution, resolution])
        return tf.transpose(values[:channels.NUM_COLOURS], [1, 2, 0])

    def encoded():
        return tf.io.decode_image(rgb, channels=channels.NUM_COLOURS, expand_animations=False)

    colours = tf.cond(tf.strings.length(data) > 0, raw, encoded)
    return tf.ensure_shape(colours, [resolution, resolution, channels.NUM_COLOURS])


def _join_maps(num_channels, one_map, colours, raw, deflated):
    """Join colours uint8 [N, H, W, 3] with raw records [N], or else deflated maps [N], to images
    uint8 [N, H, W, C]. NumPy takes half the time, as most maps are empty and need no copy."""
    images = np.zeros((*colours.shape[:3], channels.NUM_COLOURS + 1 if one_map else num_channels),
                      np.uint8)
    shape = (num_channels, *colours.shape[1:3])
    for i in range(len(images)):
        if raw[i]:
            planes = _planes(raw[i], shape)[channels.SEGMAPS]
        else:
            planes = _planes(deflated[i], (num_channels - channels.NUM_COLOURS, *shape[1:]), True)
        if one_map:
            planes = np.minimum(planes.sum(axis=0, dtype=np.uint16, keepdims=True), 255)
        for channel in range(channels.NUM_COLOURS):
            images[i, ..., channel] = colours[i, ..., channel]
        for channel in np.flatnonzero(planes.reshape(len(planes), -1).max(axis=1)):
            images[i, ..., channels.NUM_COLOURS + channel] = planes[channel]
    return images
