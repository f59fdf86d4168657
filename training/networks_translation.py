"""Networks that draw pictures from pictures or maps, and their discriminators.

U-Net and PatchGAN: Isola et al. 2017, "Image-to-image translation with conditional adversarial
networks" (pix2pix), section 3.2 and appendix 6.1. ResNet generator: Zhu et al. 2017, "Unpaired
image-to-image translation using cycle-consistent adversarial networks", appendix 7.2, after Johnson
et al. 2016. K + 1 maps of the discriminator: "Next steps for image synthesis using semantic
segmentation" (2020), section 3. Several scales: Wang et al. 2018, pix2pixHD, section 3.2. Spectral
norm: Miyato et al. 2018, algorithm 1. Names of layers such as C64, d128 and u64 are the papers'.

In both papers the initial kernels are drawn from N(0, 0.02).

In bfloat16 networks, norms, convolutions with biases, and the final picture layers are float32:
norms and the gradients of biases are sums over pixels; white is 1, where a rounded tanh has no
gradient.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from dnnlib.tflib.keras_network import KerasNetwork, he_initializer
from dnnlib.tflib.network import NETWORKS

INIT_STD = 0.02
LEAK = 0.2
KERNEL = 4  # kernel size of the U-Net and of discriminators
DROPPED_BLOCKS = 3  # blocks of the U-Net's decoder with dropout: the innermost ones
MAX_WIDENING = 8  # feature maps are doubled until there are 8 times as many as in the first layer
FLOAT32 = "float32"  # dtype of layers that are float32 in bfloat16 networks too
_EPSILON = 1e-5


class TranslationNetwork(KerasNetwork):
    """A network whose initial kernels are drawn from N(0, 0.02)."""

    def initializer(self, path: str) -> Callable[[np.random.Generator, tuple], np.ndarray]:
        """Return the function (rng, shape) that draws the initial value of the variable `path`."""
        if path.endswith("/kernel"):
            return lambda rng, shape: INIT_STD * rng.standard_normal(shape)
        return he_initializer(path)


class TranslationGenerator(TranslationNetwork):
    """condition float32 [N, R, R, in_channels], dropout masks -> rgb float32 [N, R, R, 3] in
    (-1, 1)."""

    def inputs(self, condition: tf.Tensor, masks: Sequence[tf.Tensor] = ()) -> list[tf.Tensor]:
        """Return the model's inputs for the inputs of a call; `masks` are [N, *shape] for all
        `dropout_shapes`."""
        return [condition, *masks]

    def __call__(self, *inputs: tf.Tensor) -> tf.Tensor:
        """Return rgb as after training; see `inputs`."""
        return super().__call__(self.inputs(*inputs))

    def train_call(self, *inputs: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Return rgb as during training, and {name: value to assign} for running means."""
        return super().train_call(self.inputs(*inputs))

    @property
    def resolution(self) -> int:
        """Return the side of its pictures in pixels."""
        return self.options.resolution

    @property
    def dropout_shapes(self) -> list[tuple[int, int, int]]:
        """Return the shape [h, w, fmaps] of every mask that a call takes after the condition."""
        return []

    def masks(self, uniform: Callable[[str, tuple], tf.Tensor]) -> list[tf.Tensor]:
        """Return dropout masks: 0 where U[0, 1) numbers are below the rate, else 1 / (1 - rate).

        Args:
            uniform: function (name, shape) -> U[0, 1) numbers, [N, *shape].
        """
        rate = self.options.dropout if self.dropout_shapes else 0.0
        return [tf.cast(uniform(f"dropout{i}", shape) >= rate, tf.float32) / (1 - rate)
                for i, shape in enumerate(self.dropout_shapes)]


@NETWORKS.register
class UnetGenerator(TranslationGenerator):
    """The U-Net of pix2pix: halvings down to 1x1, and as many doublings with skip connections.

    At 256x256: C64-C128-C256-C512-C512-C512-C512-C512 with leaky ReLU, then CD512-CD512-CD512-C512-
    C256-C128-C64, each followed by concatenation with the features of its size. The first layer has
    no norm; nor has the innermost, whose single pixel would be its own mean (the paper's errata).
    """

    @dataclass(frozen=True)
    class Options:
        """What defines the network.

        Attributes:
            resolution: a power of two.
            in_channels: channels of the condition.
            fmaps: feature maps of the first layer; doubled at each halving, up to 8 times as many.
            norm: instance: each picture's own statistics, with scale and offset, the same as the
                paper's batch norm in minibatches of one; batch: statistics of the minibatch, and
                running means after training.
            dropout: rate in the three innermost blocks of the decoder; 0: none.
        """

        resolution: int
        in_channels: int
        fmaps: int = 64
        norm: str = "instance"
        dropout: float = 0.5
        seed: int = 0

    def _widths(self):
        """Return the feature maps after every halving."""
        depth = self.options.resolution.bit_length() - 1
        return [self.options.fmaps * min(1 << i, MAX_WIDENING) for i in range(depth)]

    @property
    def dropout_shapes(self) -> list[tuple[int, int, int]]:
        """Return the shape [h, w, fmaps] of every mask, the innermost first."""
        if not self.options.dropout:
            return []
        # Block n gives features with a side of 2^(n + 1) pixels; the last one gives the picture.
        inner = self._widths()[-2::-1][:DROPPED_BLOCKS]
        return [(2 << n, 2 << n, fmaps) for n, fmaps in enumerate(inner)]

    def make_model(self) -> keras.Model:
        """Return the model that the options define."""
        o, widths = self.options, self._widths()
        condition = layers.Input((o.resolution, o.resolution, o.in_channels), name="condition")
        masks = [layers.Input(shape, name=f"mask{i}")
                 for i, shape in enumerate(self.dropout_shapes)]
        # Halvings: skips[i] is [N, R / 2^(i + 1), R / 2^(i + 1), widths[i]].
        x, skips = condition, []
        for i, fmaps in enumerate(widths):
            if i:
                x = leaky_layer(x, after_bias=i == 1)
            normed = 0 < i < len(widths) - 1
            x = Convolution(fmaps, KERNEL, 2, "same", use_bias=not normed, name=f"down{i}",
                            dtype=None if normed else FLOAT32)(x)
            if normed:
                x = norm_layer(x, o.norm, f"down{i}_norm")
            skips.append(x)
        # Doublings: block i gives x the size of skips[i - 1], which is then concatenated.
        for number, i in enumerate(reversed(range(1, len(widths)))):
            x = upsampled(layers.ReLU()(x), widths[i - 1], KERNEL, f"up{i}")
            x = norm_layer(x, o.norm, f"up{i}_norm")
            if number < len(masks):
                x = layers.Multiply()([x, masks[number]])
            x = layers.Concatenate()([x, skips[i - 1]])
        x = upsampled(layers.ReLU()(x), 3, KERNEL, "up0", use_bias=True)
        return keras.Model([condition, *masks], picture_layer(x))


@NETWORKS.register
class ResnetGenerator(TranslationGenerator):
    """The generator of Zhu et al.: c7s1-64, d128, d256, residual blocks R256, u128, u64, c7s1-3.

    The 7x7 convolutions and those of the blocks have reflection padding. Instance norms have
    neither scale nor offset; batch norms have both.
    """

    @dataclass(frozen=True)
    class Options:
        """What defines the network.

        Attributes:
            resolution: side of the training pictures, a multiple of four. After training the
                network takes pictures of any such size, square or not.
            in_channels: channels of the picture or condition.
            fmaps: feature maps of the first layer.
            blocks: residual blocks; the paper has 6 for 128x128 and 9 from 256x256 on.
            norm: as in UnetGenerator.Options.
        """

        resolution: int
        in_channels: int
        fmaps: int = 64
        blocks: int = 9
        norm: str = "instance"
        seed: int = 0

    def make_model(self) -> keras.Model:
        """Return the model that the options define."""
        o = self.options

        def normed(x: tf.Tensor, name: str, activation: str | None = "relu") -> tf.Tensor:
            x = norm_layer(x, o.norm, f"{name}_norm", affine=o.norm == "batch")
            return layers.Activation(activation)(x) if activation else x

        # Down to [N, R / 4, R / 4, 4 fmaps].
        condition = layers.Input((None, None, o.in_channels), name="condition")
        x = Convolution(o.fmaps, 7, use_bias=False, name="first")(_reflected(condition, 3))
        x = normed(x, "first")
        for factor in (2, 4):
            x = Convolution(factor * o.fmaps, 3, 2, "same", use_bias=False,
                            name=f"down{factor}")(x)
            x = normed(x, f"down{factor}")
        # Residual blocks of that shape, then back up to the picture.
        for block in range(o.blocks):
            before = x
            for part, activation in (("a", "relu"), ("b", None)):
                name = f"block{block}{part}"
                x = Convolution(4 * o.fmaps, 3, use_bias=False, name=name)(_reflected(x, 1))
                x = normed(x, name, activation)
            x = layers.Add()([x, before])
        for factor in (2, 1):
            x = normed(upsampled(x, factor * o.fmaps, 3, f"up{factor}"), f"up{factor}")
        x = Convolution(3, 7, name="last", dtype=FLOAT32)(_reflected(x, 3))
        return keras.Model([condition], picture_layer(x))


@NETWORKS.register
class PatchDiscriminator(TranslationNetwork):
    """pictures, perhaps with their condition, float32 [N, R, R, in_channels] -> a list of logits
    [N, h, w, num_maps], one for each scale; each patch is scored by num_maps logits.

    C64-C128-C256-C512 and a last convolution, all 4x4 and padded by one pixel. Strides are 2,
    except for the last two convolutions. With three strides it sees patches of 70x70 pixels, with
    two 34x34, with one 16x16, with five 286x286. With three it is also the discriminator of five
    layers, C64-128-256-512-1, of "Clothing texture synthesis using CycleGAN".
    """

    @dataclass(frozen=True)
    class Options:
        """What defines the network.

        Attributes:
            resolution, in_channels: side and channels of its input.
            fmaps: feature maps of the first layer.
            strides: number of convolutions that halve the size.
            num_maps: number of maps of logits.
            norm: normalisation of all layers except the first and the last. instance: each
                picture's own statistics; batch: those of the minibatch.
            affine: whether instance norms have scale and offset.
            scales: number of networks of the same form, each for pictures half the size of the
                previous one's.
            spectral_norm: divide kernels by their largest singular value.
        """

        resolution: int
        in_channels: int
        fmaps: int = 64
        strides: int = 3
        num_maps: int = 1
        norm: str = "instance"
        affine: bool = True
        scales: int = 1
        spectral_norm: bool = False
        seed: int = 0

    def __init__(self, name: str, **options):
        super().__init__(name, **options)

        def unit_vector(rng: np.random.Generator, shape: tuple[int]) -> np.ndarray:
            vector = rng.standard_normal(shape)
            return vector / np.linalg.norm(vector)

        for path in self._kernels() if self.options.spectral_norm else ():
            self.add_variable(f"{path}_u", [self.vars[path].shape[-1]], unit_vector,
                              trainable=False)

    def _kernels(self):
        return [path for path in self.vars if path.endswith("/kernel")]

    def make_model(self) -> keras.Model:
        """Return the model that the options define."""
        o = self.options
        images = layers.Input((o.resolution, o.resolution, o.in_channels), name="images")
        scaled, logits = images, []
        for scale in range(o.scales):
            if scale:
                scaled = layers.AveragePooling2D(2)(scaled)
            logits.append(self._one_scale(scaled, f"scale{scale}_"))
        return keras.Model([images], logits)

    def _one_scale(self, x, prefix):
        """Return the logits of one network."""
        o = self.options

        def conv(x: tf.Tensor, fmaps: int, stride: int, name: str,
                 use_bias: bool = False) -> tf.Tensor:
            return Convolution(fmaps, KERNEL, stride, use_bias=use_bias, name=prefix + name,
                               dtype=FLOAT32 if use_bias else None)(layers.ZeroPadding2D(1)(x))

        for i in range(o.strides + 1):
            fmaps = o.fmaps * min(1 << i, MAX_WIDENING)
            x = conv(x, fmaps, 2 if i < o.strides else 1, f"conv{i}", use_bias=i == 0)
            if i:
                x = norm_layer(x, o.norm, f"{prefix}conv{i}_norm", o.affine or o.norm == "batch")
            x = leaky_layer(x, after_bias=i == 0)
        return conv(x, o.num_maps, 1, "logits", use_bias=True)

    def values(self) -> dict[str, tf.Tensor]:
        """Return {path: value} of the variables, kernels divided by their spectral norm."""
        values = super().values()
        if self.options.spectral_norm:
            for path in self._kernels():
                values[path] /= self._power_step(path)[0]
        return values

    def train_call(self, images: tf.Tensor) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
        """Return the logits of every scale as during training, and {name: value to assign} for
        running means and the vectors of spectral norms."""
        logits, values = super().train_call([images])
        logits = [logits] if self.options.scales == 1 else list(logits)
        if self.options.spectral_norm:
            values |= {f"{path}_u": self._power_step(path)[1] for path in self._kernels()}
        return logits, values

    def _power_step(self, path):
        """Return the spectral norm of a kernel after one step of the power method, and the new
        vector u; gradients treat both vectors as constants."""
        kernel = tf.convert_to_tensor(self.vars[path])
        matrix = tf.reshape(kernel, [-1, kernel.shape[-1]])
        constant = tf.stop_gradient(matrix)
        v = tf.math.l2_normalize(tf.linalg.matvec(constant, self.vars[f"{path}_u"]))
        u = tf.math.l2_normalize(tf.linalg.matvec(constant, v, transpose_a=True))
        return tf.reduce_sum(v * tf.linalg.matvec(matrix, u)), u


def patch_side(resolution: int, strides: int, scales: int = 1) -> int:
    """Return how many patches a PatchDiscriminator's coarsest logits have along a side; 0 or less
    if it cannot be built."""
    return (resolution >> (scales - 1) >> strides) - 2


class Convolution(layers.Conv2D):
    """A convolution that runs as a 3D convolution of depth one for one float32 picture on a CPU.

    In 2D, for minibatches of one, TensorFlow ties oneDNN to a kernel layout for which it has no
    fast code on processors without AVX-512. In 3D it does not.
    """

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """Return the convolution of inputs [N, H, W, C] by a kernel [h, w, C, D]."""
        if inputs.shape[0] != 1 or inputs.dtype != tf.float32 or tf.config.list_logical_devices(
                "GPU"):
            return super().convolution_op(inputs, kernel)
        features = tf.nn.conv3d(tf.expand_dims(inputs, 1), tf.expand_dims(kernel, 0),
                                [1, 1, *self.strides, 1], self.padding.upper(),
                                dilations=[1, 1, *self.dilation_rate, 1])
        return tf.squeeze(features, 1)


def norm_layer(x: tf.Tensor, norm: str, name: str, affine: bool = True) -> tf.Tensor:
    """Return normalised features."""
    if norm == "batch":
        return layers.BatchNormalization(momentum=0.9, epsilon=_EPSILON, synchronized=True,
                                         name=name, dtype=FLOAT32)(x)
    return layers.GroupNormalization(-1, epsilon=_EPSILON, center=affine, scale=affine,
                                     name=name, dtype=FLOAT32)(x)


def leaky_layer(x: tf.Tensor, after_bias: bool) -> tf.Tensor:
    """Return features after leaky ReLU.

    After a bias this is not the LeakyReLU layer: if its input is also used elsewhere, TensorFlow's
    rewriting for oneDNN fails on it and reports an error.
    """
    return keras.ops.where(x > 0, x, LEAK * x) if after_bias else layers.LeakyReLU(LEAK)(x)


def upsampled(x: tf.Tensor, fmaps: int, kernel: int, name: str,
              use_bias: bool = False) -> tf.Tensor:
    """Return a transposed convolution that doubles the size."""
    return layers.Conv2DTranspose(fmaps, kernel, 2, "same", use_bias=use_bias, name=name,
                                  dtype=FLOAT32 if use_bias else None)(x)


def picture_layer(x: tf.Tensor) -> tf.Tensor:
    """Return the picture in (-1, 1) for the output of the last convolution."""
    return layers.Activation("tanh", dtype=FLOAT32)(x)


def _reflected(x, size):
    """Return features with reflection padding."""
    return keras.ops.pad(x, [[0, 0], [size, size], [size, size], [0, 0]], mode="reflect")
