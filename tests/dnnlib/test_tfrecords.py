"""One image <-> one record: the official format to the byte, lossless encodings, damage noticed."""

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import tensorflow as tf

from dnnlib.data import tfrecords
from dnnlib.util import UserError
from tests.tools.data_helpers import random_image


def parse_official(payload):
    """Read one record as the official release describes it: features shape and data."""
    example = tf.train.Example.FromString(payload)
    assert sorted(example.features.feature) == ["data", "shape"]
    shape = example.features.feature["shape"].int64_list.value
    data = example.features.feature["data"].bytes_list.value[0]
    return np.frombuffer(data, np.uint8).reshape(shape)


def read_official(path):
    """Return all images of a raw file, by TensorFlow's own reader, which checks every checksum."""
    payloads = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    return [parse_official(payload) for payload in payloads]


@pytest.mark.parametrize("data, crc", [
    (b"", 0), (b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E), (bytes(range(31, -1, -1)), 0x113FDB5C)])
def test_checksums_are_masked_crcs_of_the_standard(data, crc):
    """CRCs of RFC 3720, appendix B.4, and the usual check string; 15 bits move to the front."""
    masked = int.from_bytes(tfrecords.checksum(data), "little")
    rotated = (masked - 0xA282EAD8) % 2**32
    assert (rotated << 15 | rotated >> 17) % 2**32 == crc


def test_many_records_are_read_in_the_requested_order(tmp_path, rng):
    payloads = [rng.bytes(int(size)) for size in rng.integers(100, 3000, 20)]
    path = tmp_path / "x-r05.tfrecords"
    path.write_bytes(b"".join(map(tfrecords.frame, payloads)))
    file, order = tfrecords.RecordFile(path), [7, 3, 19, 3, 0]
    assert file.read_many(order) == [payloads[i] for i in order]
    damaged = bytearray(path.read_bytes())
    damaged[file._offsets[3] + 50] ^= 1
    path.write_bytes(damaged)
    assert tfrecords.RecordFile(path).read_many([0, 19]) == [payloads[0], payloads[19]]
    with pytest.raises(UserError, match="record 3 is damaged"):
        tfrecords.RecordFile(path).read_many(order)


def test_official_files_are_read(shared):
    contents = np.load(shared / "reference" / "tfrecords_contents.npz")
    files = tfrecords.record_files(shared / "reference" / "tfrecords_c3_32" / "tiny")
    assert list(files) == [2, 3, 4, 5]
    for level, (path,) in files.items():
        records = tfrecords.RecordFile(path)
        assert len(records) == 3
        parsed = tfrecords.parse_records([records.read(i) for i in range(3)], 3, 1 << level).numpy()
        for i in range(3):
            expected = contents[f"{path.name}/{i}"]
            np.testing.assert_array_equal(records.read_image(i), expected)
            np.testing.assert_array_equal(parsed[i], expected.transpose(1, 2, 0))


def test_raw_files_equal_the_official_ones_to_the_byte(shared):
    contents = np.load(shared / "reference" / "tfrecords_contents.npz")
    files = tfrecords.record_files(shared / "reference" / "tfrecords_c3_32" / "tiny")
    for path, in files.values():
        images = [contents[f"{path.name}/{i}"] for i in range(3)]
        ours = b"".join(tfrecords.frame(tfrecords.encode_record(image, "raw")) for image in images)
        assert ours == path.read_bytes()


@pytest.mark.parametrize("num_channels", [3, 7, 16])
def test_raw_records_are_read_by_an_official_reader(tmp_path, rng, num_channels):
    images = [random_image(rng, num_channels, resolution) for resolution in (4, 16, 64)]
    path = tmp_path / "x-r04.tfrecords"
    path.write_bytes(b"".join(tfrecords.frame(tfrecords.encode_record(i, "raw")) for i in images))
    for image, read in zip(images, read_official(path)):
        np.testing.assert_array_equal(image, read)


@pytest.mark.parametrize("encoding", tfrecords.ENCODINGS)
@pytest.mark.parametrize("num_channels", [3, 4, 7, 16])
@pytest.mark.parametrize("resolution", [4, 32])
def test_every_encoding_is_lossless_by_both_readers(rng, encoding, num_channels, resolution):
    images = np.stack([random_image(rng, num_channels, resolution) for _ in range(3)])
    payloads = [tfrecords.encode_record(image, encoding) for image in images]
    nhwc = images.transpose(0, 2, 3, 1)
    for image, payload in zip(images, payloads):
        np.testing.assert_array_equal(tfrecords.decode_record(payload), image)
        np.testing.assert_array_equal(tfrecords.decode_maps(payload), image[3:])
    parsed = tfrecords.parse_records(payloads, num_channels, resolution)
    assert parsed.dtype == tf.uint8
    np.testing.assert_array_equal(parsed, nhwc)
    colours = tfrecords.parse_records(payloads, num_channels, resolution, only_rgb=True)
    np.testing.assert_array_equal(colours, nhwc[..., :3])


def test_encoded_records_have_their_own_features(rng):
    """An official reader, which needs `data`, stops instead of reading a PNG as pixels."""
    example = tf.train.Example.FromString(tfrecords.encode_record(random_image(rng, 7, 8), "png"))
    feature = example.features.feature
    assert sorted(feature) == ["encoding", "maps", "rgb", "shape"]
    assert list(feature["shape"].int64_list.value) == [7, 8, 8]
    assert feature["encoding"].bytes_list.value[0] == b"png"
    assert feature["rgb"].bytes_list.value[0].startswith(b"\x89PNG")
    example = tf.train.Example.FromString(tfrecords.encode_record(random_image(rng, 3, 8), "webp"))
    assert sorted(example.features.feature) == ["encoding", "rgb", "shape"]


def test_mixed_encodings_in_one_batch(rng):
    images = np.stack([random_image(rng, 5, 8) for _ in range(3)])
    payloads = [tfrecords.encode_record(image, encoding)
                for image, encoding in zip(images, tfrecords.ENCODINGS)]
    np.testing.assert_array_equal(tfrecords.parse_records(payloads, 5, 8),
                                  images.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_records_of_another_shape_are_refused(rng, encoding):
    payloads = [tfrecords.encode_record(random_image(rng, 7, 8), encoding)]
    with pytest.raises(tf.errors.InvalidArgumentError, match="resolution"):
        tfrecords.parse_records(payloads, 7, 16)
    with pytest.raises(tf.errors.InvalidArgumentError, match="channels"):
        tfrecords.parse_records(payloads, 6, 8)


@pytest.mark.parametrize("maps, message", [
    (b"no zlib", "damaged image data"), (zlib.compress(bytes(4 * 8 * 8 - 1)), "holds 255 bytes"),
    (zlib.compress(bytes(5 * 8 * 8)), "holds 257 bytes or more"),
    (zlib.compress(bytes(4 * 8 * 8))[:-3], "cut short"), (b"", "damaged image data")])
def test_damaged_maps_are_refused_by_both_readers(rng, maps, message):
    example = tf.train.Example.FromString(tfrecords.encode_record(random_image(rng, 7, 8), "png"))
    example.features.feature["maps"].bytes_list.value[0] = maps
    payload = example.SerializeToString()
    with pytest.raises(ValueError, match=message):
        tfrecords.decode_record(payload)
    with pytest.raises(ValueError, match=message):
        tfrecords.decode_maps(payload)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        tf.function(lambda: tfrecords.parse_records([payload], 7, 8))()
    with pytest.raises(ValueError, match=message):
        tfrecords.parse_records([payload], 7, 8)


def test_maps_that_inflate_to_gigabytes_are_not_inflated(rng):
    example = tf.train.Example.FromString(tfrecords.encode_record(random_image(rng, 7, 8), "png"))
    example.features.feature["maps"].bytes_list.value[0] = zlib.compress(bytes(64 << 20))
    payload = example.SerializeToString()
    tracemalloc.start()
    with pytest.raises(ValueError, match="or more"):
        tfrecords.decode_maps(payload)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("image, encoding", [
    (np.zeros((3, 4, 4), np.float32), "raw"), (np.zeros((2, 4, 4), np.uint8), "raw"),
    (np.zeros((4, 4), np.uint8), "raw"), (np.zeros((3, 4, 4), np.uint8), "jpeg")])
def test_arrays_that_are_not_images_are_not_written(image, encoding):
    with pytest.raises(ValueError):
        tfrecords.encode_record(image, encoding)


@pytest.mark.parametrize("encoding", ["webp", "raw"])
def test_any_changed_byte_is_noticed(tmp_path, rng, encoding):
    images = [random_image(rng, 5, 4) for _ in range(3)]
    whole = b"".join(tfrecords.frame(tfrecords.encode_record(i, encoding)) for i in images)
    path = tmp_path / "x-r02.tfrecords"
    for position in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"x-r02\.tfrecords"):
            records = tfrecords.RecordFile(path)
            assert len(records) == 3
            for i in range(3):
                records.read(i)


def test_a_file_cut_short_is_noticed_unless_cut_between_records(tmp_path, rng):
    records = [tfrecords.frame(tfrecords.encode_record(random_image(rng, 3, 4), "raw"))] * 2
    whole = b"".join(records)
    path = tmp_path / "x-r02.tfrecords"
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        if size % len(records[0]) == 0:
            assert len(tfrecords.RecordFile(path)) == size // len(records[0])
        else:
            with pytest.raises(UserError, match="cut short"):
                tfrecords.RecordFile(path)


def test_a_huge_length_with_a_correct_checksum_is_noticed(tmp_path):
    word = struct.pack("<Q", 2**63)
    path = tmp_path / "x-r02.tfrecords"
    path.write_bytes(word + tfrecords.frame(word)[-4:] + b"....")
    with pytest.raises(UserError, match="cut short"):
        tfrecords.RecordFile(path)


def test_records_that_are_not_images_raise_only_value_errors(tmp_path, rng):
    good = tfrecords.encode_record(random_image(rng, 5, 4), "png")
    cases = [b"", b"\x0a", b"\xff" * 20, bytes(100), good[:-1], good + b"\x0a\xff"]
    cases += [rng.bytes(int(rng.integers(1, 200))) for _ in range(300)]
    for _ in range(500):
        payload = bytearray(good)
        payload[int(rng.integers(len(good)))] = int(rng.integers(256))
        cases.append(bytes(payload))
    refused = 0
    for payload in cases:
        try:
            assert tfrecords.decode_record(payload).dtype == np.uint8
        except ValueError:
            refused += 1
    assert refused > 300
    path = tmp_path / "x-r02.tfrecords"
    path.write_bytes(tfrecords.frame(b"no image"))
    with pytest.raises(UserError, match="record 0"):
        tfrecords.RecordFile(path).read_image(0)


def test_record_files_refuses_two_files_of_a_level_and_none(tmp_path):
    with pytest.raises(UserError, match="no record files"):
        tfrecords.record_files(tmp_path)
    for name in ("a-r05.tfrecords", "b-r05.tfrecords"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match="one level"):
        tfrecords.record_files(tmp_path)


def test_shards_are_read_one_after_the_other(tmp_path, rng):
    """In the order of their names, including an empty one; errors name the file."""
    images = rng.integers(0, 256, (5, 3, 4, 4), np.uint8)
    for index, part in enumerate(np.split(images, [2, 2, 4])):
        folder = tmp_path / tfrecords.shard_name(index, 4)
        folder.mkdir()
        (folder / "train-r02.tfrecords").write_bytes(b"".join(
            tfrecords.frame(tfrecords.encode_record(image, "png")) for image in part))
    files = tfrecords.record_files(tmp_path)
    assert [path.parent.name for path in files[2]] == [f"shard-0000{i}-of-00004" for i in range(4)]
    records = tfrecords.RecordFile(files[2])
    assert len(records) == 5
    for number, image in enumerate(images):
        assert (records.read_image(number) == image).all()
    assert [records.path_of(number).parent.name[:11] for number in (1, 2, 4)] == [
        "shard-00000", "shard-00002", "shard-00003"]
    content = files[2][3].read_bytes()
    files[2][3].write_bytes(content[:-6] + bytes([content[-6] ^ 1]) + content[-5:])
    with pytest.raises(UserError, match=r"shard-00003-of-00004.*wrong checksum"):
        records.read(4)
