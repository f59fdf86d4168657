"""Augmentation once more: float64 NumPy, one image at a time, by direct sums and single steps.

Shares no code with the program: points are complex numbers that go back through one step of the
geometry after the other; a pixel is a sum over 12 x 12 places of the doubled image; colours go
through one step after the other. Sources: Karras et al. 2020, appendix B; Daubechies 1992, whose
symmlet of 6 vanishing moments is printed here to 8 digits, the other way round.
"""

import numpy as np

SYMMLET = [-0.00780071, 0.00176771, 0.04472490, -0.02106029, -0.07263752, 0.33792942,
           0.78764114, 0.49105594, -0.04831174, -0.11799011, 0.00349071, 0.01540411][::-1]
MIDDLE = 5  # the tap of a pixel's own place
DELAY = sum(i * tap for i, tap in enumerate(SYMMLET)) / sum(SYMMLET) - MIDDLE


def augment(image, p, uniform, normal):
    """Return an image [r, r, 3 + C] as it is augmented.

    Args:
        uniform, normal: {name: number} of its draws; `name?` decides whether a step takes place.
    """
    image = np.asarray(image, np.float64)
    size = len(image)

    def back(z):
        return to_source(z, size, p, uniform, normal)

    result = resampled(image, back)
    return np.concatenate([recoloured(result[..., :3], p, uniform, normal), result[..., 3:]], -1)


def to_source(z, size, p, uniform, normal):
    """Return where points of the result come from: x + iy in pixels from the image's middle.

    The last thing that was done to the image is undone first.
    """
    half = 1 - np.sqrt(1 - p)
    if uniform["shift?"] < p:
        z = z - 0.125 * size * (normal["x"] + 1j * normal["y"])
    if uniform["turn again?"] < half:
        z = z * np.exp(-1j * np.pi * (2 * uniform["turn again"] - 1))
    if uniform["aniso?"] < p:
        stretch = 2 ** (0.2 * normal["aniso"])
        z = z.real / stretch + 1j * z.imag * stretch
    if uniform["turn?"] < half:
        z = z * np.exp(-1j * np.pi * (2 * uniform["turn"] - 1))
    if uniform["scale?"] < p:
        z = z / 2 ** (0.2 * normal["scale"])
    if uniform["translation?"] < p:
        x, y = (np.round(0.125 * size * (2 * uniform[axis] - 1)) for axis in "xy")
        z = z - (x + 1j * y)
    if uniform["rot90?"] < p:
        z = z * [1, -1j, -1, 1j][int(4 * uniform["rot90"])]
    if uniform["flip?"] < p and uniform["flip"] >= 0.5:
        z = -z.conjugate()
    return z


def recoloured(rgb, p, uniform, normal):
    """Return colours [..., 3] after each colour transformation in turn."""
    if uniform["brightness?"] < p:
        rgb = rgb + 0.2 * normal["brightness"]
    if uniform["contrast?"] < p:
        rgb = rgb * 2 ** (0.5 * normal["contrast"])
    if uniform["luma?"] < p and uniform["luma"] >= 0.5:  # grey g becomes -g, the rest stays
        rgb = rgb - 2 * rgb.mean(-1, keepdims=True)
    if uniform["hue?"] < p:  # a rotation about the grey axis
        axis, angle = np.ones(3) / np.sqrt(3), np.pi * (2 * uniform["hue"] - 1)
        along = (rgb @ axis)[..., None] * axis
        rgb = along + np.cos(angle) * (rgb - along) + np.sin(angle) * np.cross(axis, rgb)
    if uniform["saturation?"] < p:
        grey = rgb.mean(-1, keepdims=True)
        rgb = grey + (rgb - grey) * 2 ** normal["saturation"]
    return rgb


def reflected(i, size):
    """Return the position in the first image for one in an endless row of mirror images."""
    i = abs(i) % (2 * size - 2)
    return i if i < size else 2 * size - 2 - i


def doubled(rows):
    """Return an array [r, ...] with twice as many rows: a sum over the taps for each of them."""
    size = len(rows)
    result = np.zeros([2 * size, *rows.shape[1:]])
    for k in range(2 * size):
        for pixel in range(-6, size + 6):
            tap = MIDDLE + k - 2 * pixel
            if 0 <= tap < 12:
                result[k] += np.sqrt(2) * SYMMLET[tap] * rows[reflected(pixel, size)]
    return result


def bilinear(image, x, y):
    """Return an image [s, s, channels] sampled between its pixels, at arrays of positions."""
    left, top = (np.minimum(np.floor(place).astype(int), len(image) - 2) for place in (x, y))
    x, y = (x - left)[..., None], (y - top)[..., None]
    return ((1 - x) * (1 - y) * image[top, left] + x * (1 - y) * image[top, left + 1]
            + (1 - x) * y * image[top + 1, left] + x * y * image[top + 1, left + 1])


def resampled(image, back):
    """Return an image moved: `back` maps points of the result to points of the image."""
    size = len(image)
    middle = (size - 1) / 2
    row, column = np.mgrid[:size, :size]

    def source(x, y):  # folded into the image
        z = back((x - middle) + 1j * (y - middle))
        z = z + middle * (1 + 1j)
        return [middle - abs(middle - place % (2 * (size - 1)) + middle) + middle
                for place in (z.real, z.imag)]

    x, y = source(column, row)
    if max(abs(x - np.round(x)).max(), abs(y - np.round(y)).max()) < 1e-3:
        return image[np.round(y).astype(int), np.round(x).astype(int)]
    large = doubled(doubled(image).swapaxes(0, 1)).swapaxes(0, 1)
    result = np.zeros_like(image)
    for i, down in enumerate(SYMMLET):
        for j, across in enumerate(SYMMLET):
            # Place 2 c + j - MIDDLE of the doubled result is pixel c + (j - MIDDLE - DELAY) / 2.
            x, y = source(column + (j - MIDDLE - DELAY) / 2, row + (i - MIDDLE - DELAY) / 2)
            result += down * across / 2 * bilinear(large, 2 * x + DELAY, 2 * y + DELAY)
    return result
