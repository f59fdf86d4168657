"""Segmentation networks: DeepLabV3+ over ResNet-50 or EfficientNet-Lite0, and a small U-Net.

DeepLabV3+: Chen et al. 2018, Encoder-decoder with atrous separable convolution. ResNet-50 is that
of keras.applications. EfficientNet-Lite0: Tan and Le 2019, without squeeze-and-excitation and with
ReLU6, as its authors published it for small devices. (Libraries that have it and work with this
TensorFlow need hundreds of megabytes more.) U-Net: Ronneberger et al. 2015, with batch norm.
"""

import functools
from dataclasses import dataclass

import keras
import tensorflow as tf
from keras import layers

from dnnlib.tflib.keras_network import KerasNetwork
from dnnlib.tflib.network import NETWORKS

ASPP_FMAPS, LOW_FMAPS = 256, 48  # of the pyramid and decoder, of the projected low-level features
ASPP_RATES = (6, 12, 18)  # for features 32 pixels wide
LOW_STRIDE = 4
UNET_LEVELS = 4
# EfficientNet-Lite0: blocks, kernel size, stride, expansion, feature maps of every stage.
LITE0_STEM = 32
LITE0 = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112),
         (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))
# Batch norm's momentum for trainings of a few hundred steps: Keras's default 0.99 is too slow.
_NORM = {"momentum": 0.9, "synchronized": True}


@NETWORKS.register
class Segmenter(KerasNetwork):
    """rgb float32 [N, resolution, resolution, 3] in [-1, 1] -> logits [N, resolution, resolution,
    num_outputs]; output 0 is the background."""

    @dataclass(frozen=True)
    class Options:
        """What defines the network.

        Attributes:
            num_outputs: number of classes, including the background.
            architecture, backbone, output_stride: as in SegmenterConfig.
            unet_fmaps: feature maps of the U-Net's first level; each further level has twice as
                many.
            exact_dilations: see efficientnet_lite0; False for networks in older files, whose
                options lack it.
        """

        resolution: int
        num_outputs: int
        architecture: str = "deeplab"
        backbone: str = "efficientnet-lite0"
        output_stride: int = 16
        unet_fmaps: int = 16
        exact_dilations: bool = False
        seed: int = 0

    @property
    def resolution(self) -> int:
        """Return the side of its pictures in pixels."""
        return self.options.resolution

    def make_model(self) -> keras.Model:
        """Return the model that the options define."""
        o = self.options
        rgb = layers.Input((o.resolution, o.resolution, 3), name="rgb")
        if o.architecture == "unet":
            logits = unet(rgb, o.num_outputs, o.unet_fmaps)
        else:
            logits = deeplab(rgb, o.num_outputs, o.backbone, o.output_stride, o.exact_dilations)
        return keras.Model(rgb, logits)


def deeplab(rgb: tf.Tensor, num_outputs: int, backbone: str, output_stride: int,
            exact_dilations: bool = True) -> tf.Tensor:
    """Return DeepLabV3+'s logits for Keras tensors; exact_dilations: see efficientnet_lite0."""
    lite0 = functools.partial(efficientnet_lite0, exact_dilations=exact_dilations)
    encode = {"resnet50": resnet50, "efficientnet-lite0": lite0}[backbone]
    low, high = encode(rgb, output_stride)
    x = _pyramid(high)
    x = _enlarge(x, output_stride // LOW_STRIDE)
    x = layers.Concatenate()([x, _conv(low, LOW_FMAPS, 1, name="low")])
    for number in (1, 2):
        x = _conv(x, ASPP_FMAPS, 3, name=f"decoder{number}")
    return _enlarge(layers.Conv2D(num_outputs, 1, name="logits")(x), LOW_STRIDE)


def _pyramid(x):
    """Return the features of atrous spatial pyramid pooling."""
    side = x.shape[1]
    # On small features large rates would see nothing but padding.
    rates = dict.fromkeys(max(1, round(rate * side / 32)) for rate in ASPP_RATES)
    branches = [_conv(x, ASPP_FMAPS, 1, name="aspp1")]
    branches += [_conv(x, ASPP_FMAPS, 3, rate=rate, name=f"aspp_rate{rate}") for rate in rates]
    pooled = layers.GlobalAveragePooling2D(keepdims=True)(x)
    branches.append(layers.UpSampling2D(side)(_conv(pooled, ASPP_FMAPS, 1, name="aspp_pool")))
    return _conv(layers.Concatenate()(branches), ASPP_FMAPS, 1, name="aspp")


def _conv(x, fmaps, kernel, *, name, stride=1, rate=1, activation="relu"):
    """Return features after convolution, batch norm and activation."""
    x = layers.Conv2D(fmaps, kernel, stride, "same", dilation_rate=rate, use_bias=False,
                      name=name)(x)
    x = layers.BatchNormalization(epsilon=1e-3, name=f"{name}_bn", **_NORM)(x)
    return layers.Activation(activation)(x) if activation else x


def _enlarge(x, factor):
    """Return features enlarged bilinearly."""
    return layers.UpSampling2D(factor, interpolation="bilinear")(x) if factor > 1 else x


# Backbones: rgb -> features at stride 4 and at the output stride

def resnet50(rgb: tf.Tensor, output_stride: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Return features of keras.applications' ResNet-50, with later strides made dilations."""
    original = keras.applications.ResNet50(include_top=False, weights=None,
                                           input_shape=rgb.shape[1:])
    # Block 1 of stages 3 to 5 has a stride of 2. Once the output stride is reached, a stage does
    # not reduce the size; its convolutions and all later ones have twice the dilation instead.
    stride, dilation, rates = 4, 1, {}
    for stage in ("conv3", "conv4", "conv5"):
        if stride < output_stride:
            stride *= 2
        else:
            dilation *= 2
        rates[stage] = dilation

    def dilate_layer(layer: layers.Layer) -> layers.Layer:
        config, stage = layer.get_config(), layer.name.partition("_")[0]
        if isinstance(layer, layers.BatchNormalization):
            config |= _NORM
        elif isinstance(layer, layers.Conv2D) and rates.get(stage, 1) > 1:
            kernel = config["kernel_size"][0]
            config |= {"strides": (1, 1), "dilation_rate": rates[stage] if kernel > 1 else 1}
        return type(layer).from_config(config)

    taps = [original.get_layer(name).output for name in ("conv2_block3_out", "conv5_block3_out")]
    model = keras.models.clone_model(keras.Model(original.input, taps), rgb,
                                     clone_function=dilate_layer)
    return tuple(model.outputs)


def efficientnet_lite0(rgb: tf.Tensor, output_stride: int,
                       exact_dilations: bool = True) -> tuple[tf.Tensor, tf.Tensor]:
    """Return features of EfficientNet-Lite0, with later strides made dilations.

    Args:
        exact_dilations: only the layers after the convolution that had the stride get twice the
            dilation; at every second pixel they then compute the same as with the stride. If False,
            that convolution gets twice the dilation too.
    """
    conv = functools.partial(_conv, activation="relu6")
    # Its authors' scaling, (x - 127) / 128 of colours from 0 to 255.
    x = layers.Rescaling(127.5 / 128, offset=0.5 / 128, name="scale")(rgb)
    x = conv(x, LITE0_STEM, 3, name="stem", stride=2)
    stride, rate, number, low = 2, 1, 0, None
    for blocks, kernel, stage_stride, expansion, fmaps in LITE0:
        first_rate = rate
        if stage_stride == 2 and stride >= output_stride:
            rate, stage_stride = 2 * rate, 1
        if not exact_dilations:
            first_rate = rate
        stride *= stage_stride
        for block in range(blocks):
            before, name = x, f"block{number}"
            if expansion > 1:
                x = conv(x, x.shape[-1] * expansion, 1, name=f"{name}_expand")
            x = layers.DepthwiseConv2D(
                kernel, stage_stride if block == 0 else 1, "same",
                dilation_rate=first_rate if block == 0 else rate, use_bias=False,
                name=f"{name}_depthwise")(x)
            x = layers.BatchNormalization(epsilon=1e-3, name=f"{name}_depthwise_bn", **_NORM)(x)
            x = layers.Activation("relu6")(x)
            x = conv(x, fmaps, 1, name=f"{name}_project", activation=None)
            if block:
                x = layers.Add()([x, before])
            number += 1
        if stride == LOW_STRIDE:
            low = x
    return low, x


# U-Net

def unet(rgb: tf.Tensor, num_outputs: int, fmaps: int) -> tf.Tensor:
    """Return the U-Net's logits for Keras tensors."""
    x, skips = rgb, []
    # Features of finer levels are kept on the way down, and concatenated on the way up.
    for level in range(UNET_LEVELS):
        x = _double_conv(x, fmaps << level, f"down{level}")
        if level < UNET_LEVELS - 1:
            skips.append(x)
            x = layers.MaxPooling2D()(x)
    for level in reversed(range(UNET_LEVELS - 1)):
        x = layers.Concatenate()([_enlarge(x, 2), skips[level]])
        x = _double_conv(x, fmaps << level, f"up{level}")
    return layers.Conv2D(num_outputs, 1, name="logits")(x)


def _double_conv(x, fmaps, name):
    """Return features after two convolutions."""
    return _conv(_conv(x, fmaps, 3, name=f"{name}a"), fmaps, 3, name=f"{name}b")
