"""A narrow VGG16 with random weights, and the network in float64 NumPy."""

import numpy as np

from dnnlib.tflib.vgg16_weights import expected_shapes

NARROW = ((2, 3), (3, 4), (4, 3, 5), (4, 3, 4), (3, 4, 6))

# Of lpips.LPIPS(net="vgg").state_dict(), version 0.1.4
CONVOLUTIONS = [
    "net.slice1.0", "net.slice1.2", "net.slice2.5", "net.slice2.7",
    "net.slice3.10", "net.slice3.12", "net.slice3.14", "net.slice4.17", "net.slice4.19",
    "net.slice4.21", "net.slice5.24", "net.slice5.26", "net.slice5.28"]


def random_arrays(rng, blocks=NARROW):
    """Return weights of the narrow network under the package's names."""
    arrays = {name: rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1)
              for name, shape in expected_shapes(blocks).items()}
    arrays["scaling_layer.scale"] = rng.uniform(0.4, 0.5, (1, 3, 1, 1))
    for name in arrays:
        if name.startswith("lin"):
            arrays[name] = np.abs(arrays[name])
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def activations(arrays, images, blocks=NARROW):
    """Return the activations of every block of VGG16: float64 NumPy, channels first."""
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
