"""What StyleGAN's generator and discriminator share: growth, scaled weights, types of layers."""

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from dnnlib.tflib import ops
from dnnlib.tflib.network import Network
from dnnlib.util import UserError
from training.config import num_fmaps


def use_fused_resampling(resolution: int, fmaps: int) -> bool:
    """Return whether a layer resamples and convolves in one operation: a layer with `fmaps` output
    maps that scales between `resolution` and half of it.

    Measured on two CPU cores: a fused layer, forward and backward, is 1.5 to 2.3 times faster,
    except between 4x4 and 8x8 with 512 maps, where making the 4x4 kernel costs more than it saves
    (0.8 to 0.9 times as fast). docs/performance.md has the table, and times of whole steps.
    """
    return resolution > 8 or fmaps < 512


def normal(scale: float = 1.0) -> Callable:
    """Return an initializer (rng, shape) -> values N(0, scale^2)."""
    return lambda rng, shape: rng.standard_normal(shape, np.float32) * np.float32(scale)


def constant(value: float) -> Callable:
    """Return an initializer (rng, shape) -> an array filled with `value`."""
    return lambda rng, shape: np.full(shape, value, np.float32)


def fading(fade: float | tf.Tensor) -> bool:
    """Return False only if the weight of the coarser branch is known to be 0."""
    return tf.is_tensor(fade) or fade != 0


def blend(a: tf.Tensor, b: tf.Tensor, t: float | tf.Tensor) -> tf.Tensor:
    """Return a + (b - a) t."""
    return a + (b - a) * tf.cast(t, a.dtype)


def gradients(tape: tf.GradientTape, total: tf.Tensor, network: Network) -> dict[str, tf.Tensor]:
    """Return {name: gradient of `total`} for the variables that this resolution uses.

    Adam, restarted at every change of resolution, would not move the others.
    """
    grads = tape.gradient(total, network.trainables)
    return {name: grad for name, grad in grads.items() if grad is not None}


class GrowingNetwork(Network):
    """What G and D share: resolutions, numbers of maps, layers with scaled weights.

    Attributes:
        use_fused_resampling: function (finer resolution, fmaps) -> whether a layer resamples and
            convolves in one operation.
        compute_dtype: dtype of convolutions and of activations between them. Variables, the mapping
            network, styles, dense layers, images and scores are always float32.
        convolutions: the module whose conv2d, fused_upscale and fused_downscale are used.
    """

    def __init__(self, name: str, **options):
        super().__init__(name, **options)
        self.resolution = self.options.resolution
        self.num_channels = self.options.num_channels
        self.label_size = self.options.label_size
        self.resolution_log2 = int(np.log2(max(self.resolution, 1)))
        if self.resolution != 2 ** self.resolution_log2 or self.resolution < 4:
            raise UserError(
                f"network {name}: resolution {self.resolution} is not one of 4, 8, 16, ...")
        for option in ("nonlinearity", "mapping_nonlinearity"):
            kind = getattr(self.options, option, "lrelu")
            if kind not in ops.NONLINEARITIES:
                raise UserError(f"network {name}: nonlinearity {kind!r} is not one of "
                                f"{', '.join(ops.NONLINEARITIES)}")
        self.use_fused_resampling = use_fused_resampling
        self.compute_dtype, self.convolutions = tf.float32, ops
        self._first_log2 = {}  # {variable: log2 of the coarsest resolution that uses it}
        self._scales = {}  # {layer: factor of its stored weight}
        self._weight_cache = None  # {layer: scaled weight}, inside `shared_weights`

    def resolution_of(self, name: str) -> int:
        """Return the coarsest resolution that uses variable `name`."""
        return 2 ** self._first_log2[name]

    @contextlib.contextmanager
    def shared_weights(self) -> Iterator[None]:
        """Share scaled weights, and kernels made from them, among all evaluations inside.

        For evaluations inside one traced function and one gradient tape: D scores reals and fakes
        with the same weights, and their gradients are added up before they are scaled.
        """
        self._weight_cache = {}
        try:
            yield
        finally:
            self._weight_cache = None

    def _nf(self, stage):
        options = self.options
        return num_fmaps(stage, options.fmap_base, options.fmap_decay, options.fmap_max)

    def _current_log2(self, resolution):
        """Return log2 of the resolution to evaluate; raise ValueError if the network lacks it."""
        resolution = self.resolution if resolution is None else resolution
        if resolution not in [2 ** r for r in range(2, self.resolution_log2 + 1)]:
            raise ValueError(
                f"network {self.name} has resolutions 4..{self.resolution}, not {resolution}")
        return int(np.log2(resolution))

    def _check_labels(self, labels):
        if (labels is None) != (self.label_size == 0):
            raise ValueError(
                f"network {self.name} has label_size {self.label_size}; labels: {labels}")

    # Creating variables. r is log2 of the coarsest resolution that uses them.

    def _add(self, r, name, shape, initializer, trainable=True):
        self.add_variable(name, shape, initializer, trainable)
        self._first_log2[name] = r

    def _add_weight(self, r, scope, shape, gain=ops.HE_GAIN, lrmul=1.0):
        """Create a weight ~ N(0, 1) / lrmul that is scaled when used; without use_wscale it is
        ~ N(0, he_std) / lrmul.

        Source: ProGAN, section 4.1; He et al. 2015.
        """
        he_std = ops.he_std(shape, gain)
        stored_std, scale = (1, he_std) if self.options.use_wscale else (he_std, 1)
        self._add(r, f"{scope}/weight", shape, normal(stored_std / lrmul))
        self._scales[scope] = np.float32(lrmul * scale)

    def _add_layer(self, r, scope, shape, gain=ops.HE_GAIN, lrmul=1.0):
        """Create weight and bias of a dense or convolutional layer."""
        self._add_weight(r, scope, shape, gain, lrmul)
        self._add(r, f"{scope}/bias", shape[-1:], constant(0))

    # Evaluating layers.

    def _used_weight(self, scope, dtype, make=tf.multiply):
        """Return make(stored weight, its scale) as `dtype`; the same tensor in `shared_weights`."""
        cache = {} if self._weight_cache is None else self._weight_cache
        if scope not in cache:
            weight = make(self.vars[f"{scope}/weight"], self._scales[scope])
            cache[scope] = tf.cast(weight, dtype)
        return cache[scope]

    def _conv2d(self, scope, x):
        """Convolve 3x3, without bias."""
        return self.convolutions.conv2d(x, self._used_weight(scope, self.compute_dtype))

    def _image_conv2d(self, scope, x):
        """Convolve 1x1 to or from images, in float32; without bias."""
        return ops.conv2d(tf.cast(x, tf.float32), self._used_weight(scope, tf.float32))

    def _dense(self, scope, x):
        """Multiply x [N, in] by the scaled weight; x is scaled instead, as it is smaller."""
        return ops.dense(x * self._scales[scope], self.vars[f"{scope}/weight"])

    def _bias(self, scope, x, lrmul=1.0):
        bias = self.vars[f"{scope}/bias"]
        return ops.add_bias(x, bias if lrmul == 1 else bias * lrmul)

    def _activate(self, x):
        return ops.activate(x, self.options.nonlinearity)

    def _blur(self, x):
        return ops.blur2d(x) if self.options.blur else x
