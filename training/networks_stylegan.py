"""The StyleGAN generator and discriminator at the current resolution, grown by fading in.

Sources: StyleGAN (Karras et al. 2019, figure 1b, section 2, appendix C) and ProGAN (Karras et al.
2018, section 2, appendix A). Variables have the names and shapes of the official release (constant
and noise are NCHW there), so its weights can be read by name. Activations are NHWC.

A network of final resolution R can be evaluated at any resolution from 4 to R. `resolution` is a
Python int; layers finer than it are not computed. `fade` in [0, 1] is the weight of the next
coarser branch: the official lod is log2(R / resolution) + fade. A Python 0 leaves out the coarser
branch; with a tensor, one trace serves a whole fade. At 4x4 there is no coarser branch and `fade`
has no effect.

In names and comments below, r is log2 of a resolution; nf(r - 1) is its number of feature maps.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from dnnlib.tflib import ops
from dnnlib.tflib.network import NETWORKS
from dnnlib.util import UserError
from training.gan.growing_network import GrowingNetwork, blend, constant, fading, normal


@dataclass(frozen=True)
class GeneratorOptions:
    """What defines a G_style, apart from the values of its variables."""

    num_channels: int  # of the images: 3 colours, then one for every segmentation map
    resolution: int  # final height and width of the images: 4, 8, 16, ...
    label_size: int = 0  # length of a conditioning label; 0 = the network takes no labels
    latent_size: int = 512  # length of z
    dlatent_size: int = 512  # length of w
    mapping_layers: int = 8  # dense layers from z to w; 0 = w is the mapping network's input
    mapping_fmaps: int = 512  # width of all of them except the last
    mapping_lrmul: float = 0.01  # their learning rate, relative to the other layers'
    mapping_nonlinearity: str = "lrelu"  # their activation, one of ops.NONLINEARITIES
    normalize_latents: bool = True  # pixel norm of z (and the label's embedding) before them
    use_styles: bool = True  # a style in every layer; else w enters only through the dense input
    use_noise: bool = True  # noise in every layer
    const_input: bool = True  # a learned constant at 4x4; else a dense layer of w
    use_pixel_norm: bool = False  # ProGAN's normalisation in every layer
    use_instance_norm: bool = True  # StyleGAN's normalisation in every layer
    nonlinearity: str = "lrelu"  # activation of the synthesis network
    use_wscale: bool = True  # equalised learning rate; else He initialisation alone
    blur: bool = True  # blur after upscaling
    fmap_base: int = 8192  # nf(stage) = fmap_base / 2^(stage * fmap_decay), at most fmap_max
    fmap_decay: float = 1.0
    fmap_max: int = 512
    seed: int = 0  # of the variables' initial values


@dataclass(frozen=True)
class DiscriminatorOptions:
    """What defines a D_basic, apart from the values of its variables."""

    num_channels: int  # of the images
    resolution: int  # final height and width of the images: 4, 8, 16, ...
    label_size: int = 0  # length of a conditioning label; 0 = the network takes no labels
    nonlinearity: str = "lrelu"  # activation, one of ops.NONLINEARITIES
    use_wscale: bool = True  # equalised learning rate; else He initialisation alone
    blur: bool = True  # blur before downscaling
    mbstd_group_size: int = 4  # number of images that minibatch stddev compares; 1 = no such layer
    mbstd_num_features: int = 1  # number of maps that minibatch stddev appends
    fmap_base: int = 8192  # nf(stage) = fmap_base / 2^(stage * fmap_decay), at most fmap_max
    fmap_decay: float = 1.0
    fmap_max: int = 512
    seed: int = 0  # of the variables' initial values


@NETWORKS.register
class G_style(GrowingNetwork):
    """Style-based generator (StyleGAN, figure 1b): latents -> dlatents -> images.

    Its options cover the steps from ProGAN to StyleGAN (StyleGAN, table 1): no styles (one dlatent
    as input, `num_styles` = 1), no noise, a dense layer of w instead of the constant, pixel norm,
    no instance norm.
    """

    Options = GeneratorOptions

    def __init__(self, name: str = "G", **options):
        super().__init__(name, **options)
        self.num_layers = 2 * self.resolution_log2 - 2
        self.num_styles = self.num_layers if self.options.use_styles else 1
        self.latent_size = self.options.latent_size
        self.dlatent_size = self.options.dlatent_size
        self._input_scope = f"G_synthesis/4x4/{'Const' if self.options.const_input else 'Dense'}"
        self._add(2, "dlatent_avg", [self.dlatent_size], constant(0), trainable=False)
        self._create_mapping()
        self._create_synthesis()

    def _create_mapping(self):
        width, layers = self.latent_size, self.options.mapping_layers
        if self.label_size:
            self._add(2, "G_mapping/LabelConcat/weight", [self.label_size, width], normal())
            width *= 2
        if not layers and width != self.dlatent_size:
            raise UserError(f"network {self.name}: mapping_layers=0 gives w the length {width} of "
                            f"its input; dlatent_size is {self.dlatent_size}")
        for i in range(layers):
            fmaps = self.dlatent_size if i == layers - 1 else self.options.mapping_fmaps
            self._add_layer(2, f"G_mapping/Dense{i}", [width, fmaps],
                            lrmul=self.options.mapping_lrmul)
            width = fmaps

    def _create_synthesis(self):
        for i in range(self.num_layers if self.options.use_noise else 0):
            r = i // 2 + 2
            self._add(r, f"G_synthesis/noise{i}", [1, 1, 2 ** r, 2 ** r], normal(),
                      trainable=False)
        # 4x4: the learned constant, or ProGAN's dense layer with its gain of sqrt(2) / 4.
        if self.options.const_input:
            self._add(2, f"{self._input_scope}/const", [1, self._nf(1), 4, 4], constant(1))
        else:
            self._add_weight(2, self._input_scope, [self.dlatent_size, 16 * self._nf(1)],
                             gain=ops.HE_GAIN / 4)
        self._create_epilogue(2, self._input_scope, self._nf(1))
        self._create_conv(2, "G_synthesis/4x4/Conv", self._nf(1), self._nf(1))
        for r in range(3, self.resolution_log2 + 1):
            scope = f"G_synthesis/{2 ** r}x{2 ** r}"
            self._create_conv(r, f"{scope}/Conv0_up", self._nf(r - 2), self._nf(r - 1))
            self._create_conv(r, f"{scope}/Conv1", self._nf(r - 1), self._nf(r - 1))
        for r in range(2, self.resolution_log2 + 1):
            self._add_layer(r, self._to_rgb_scope(r), [1, 1, self._nf(r - 1), self.num_channels],
                            gain=1)

    def _create_conv(self, r, scope, fmaps_in, fmaps):
        self._add_weight(r, scope, [3, 3, fmaps_in, fmaps])
        self._create_epilogue(r, scope, fmaps)

    def _create_epilogue(self, r, scope, fmaps):
        self._add(r, f"{scope}/bias", [fmaps], constant(0))
        if self.options.use_noise:
            self._add(r, f"{scope}/Noise/weight", [fmaps], constant(0))
        if self.options.use_styles:
            self._add_layer(r, f"{scope}/StyleMod", [self.dlatent_size, 2 * fmaps], gain=1)

    def _to_rgb_scope(self, r):
        return f"G_synthesis/ToRGB_lod{self.resolution_log2 - r}"

    def __call__(self, latents: tf.Tensor, labels: tf.Tensor | None = None, *,
                 resolution: int | None = None, fade: float | tf.Tensor = 0.0,
                 noise: Callable | None = None, truncation_psi: float | None = None,
                 truncation_cutoff: int = 8) -> tf.Tensor:
        """Draw images [N, resolution, resolution, num_channels] from latents [N, latent_size].

        See `mapping`, `truncate` (left out if `truncation_psi` is None) and `synthesis`.
        """
        dlatents = self.mapping(latents, labels)
        if truncation_psi is not None:
            dlatents = self.truncate(dlatents, truncation_psi, truncation_cutoff)
        return self.synthesis(dlatents, resolution, fade, noise)

    def mapping(self, latents: tf.Tensor, labels: tf.Tensor | None = None) -> tf.Tensor:
        """Map latents to dlatents: pixel norm, then dense layers whose learning rate is multiplied
        by `mapping_lrmul` (StyleGAN, section 2).

        Args:
            latents: [N, latent_size].
            labels: [N, label_size]; None if label_size is 0.

        Returns:
            [N, num_styles, dlatent_size], the same for all layers.
        """
        self._check_labels(labels)
        options = self.options
        x = tf.cast(latents, tf.float32)
        if labels is not None:
            weight = self.vars["G_mapping/LabelConcat/weight"]
            x = tf.concat([x, tf.matmul(tf.cast(labels, tf.float32), weight)], axis=1)
        if options.normalize_latents:
            x = ops.pixel_norm(x)  # [N, latent_size], or twice as long with labels
        for i in range(options.mapping_layers):
            scope = f"G_mapping/Dense{i}"
            x = self._bias(scope, self._dense(scope, x), options.mapping_lrmul)
            x = ops.activate(x, options.mapping_nonlinearity)
        return tf.tile(x[:, None], [1, self.num_styles, 1])

    def truncate(self, dlatents: tf.Tensor, psi: float = 0.7, cutoff: int = 8) -> tf.Tensor:
        """Return [N, num_styles, dlatent_size]: lerp(dlatent_avg, dlatents, psi) in layers below
        `cutoff`, unchanged dlatents in the others (StyleGAN, appendix B)."""
        scale = np.where(np.arange(self.num_styles) < cutoff, psi, 1.0).astype(np.float32)[:, None]
        return blend(self.vars["dlatent_avg"], dlatents, scale)

    def synthesis(self, dlatents: tf.Tensor, resolution: int | None = None,
                  fade: float | tf.Tensor = 0.0, noise: Callable | None = None,
                  features: bool = False) -> tf.Tensor | tuple[tf.Tensor, list[tf.Tensor]]:
        """Draw images from dlatents.

        Args:
            dlatents: [N, num_styles, dlatent_size].
            resolution, fade: growth state, see the module's docstring.
            noise: None for the fixed noise of the variables, or (layer, height, width) ->
                [N, height, width, 1]. Not called if `use_noise` is off.
            features: also return the activations of every layer.

        Returns:
            Images [N, resolution, resolution, num_channels] float32, about [-1, 1]; with `features`
            also the activations of every layer after its epilogue, coarse to fine, two for each
            size: [N, 2^r, 2^r, nf(r - 1)].
        """
        last = self._current_log2(resolution)
        x = self._epilogue(self._input_scope, self._input(dlatents), 0, dlatents, noise)
        y = self._conv2d("G_synthesis/4x4/Conv", x)
        y = self._epilogue("G_synthesis/4x4/Conv", y, 1, dlatents, noise)  # [N, 4, 4, nf(1)]
        coarser, kept = y, [x, y]
        for r in range(3, last + 1):
            coarser = y
            x, y = self._block(y, r, dlatents, noise)  # [N, 2^r, 2^r, nf(r - 1)] both
            if features:
                kept += [x, y]
        images = self._to_rgb(y, last)  # [N, resolution, resolution, num_channels]
        if last > 2 and fading(fade):
            images = blend(images, ops.upscale2d(self._to_rgb(coarser, last - 1)), fade)
        return (images, kept) if features else images

    def _input(self, dlatents):
        """Return the constant, or the dense layer's output, [N, 4, 4, nf(1)]."""
        if self.options.const_input:
            const = tf.transpose(self.vars[f"{self._input_scope}/const"], [0, 2, 3, 1])
            x = tf.tile(const, [tf.shape(dlatents)[0], 1, 1, 1])
        else:
            x = self._dense(self._input_scope, dlatents[:, 0])  # [N, 16 nf(1)], maps first
            x = tf.transpose(tf.reshape(x, [-1, self._nf(1), 4, 4]), [0, 2, 3, 1])
        return tf.cast(x, self.compute_dtype)

    def _block(self, x, r, dlatents, noise):
        """Double the size: upscale, convolve, blur, epilogue; then convolve, epilogue. Return the
        activations after each epilogue."""
        scope, fmaps = f"G_synthesis/{2 ** r}x{2 ** r}", self._nf(r - 1)
        if self.use_fused_resampling(2 ** r, fmaps):
            kernel = self._used_weight(f"{scope}/Conv0_up", self.compute_dtype, ops.upscale_kernel)
            x = self.convolutions.fused_upscale(x, kernel)  # [N, 2^r, 2^r, nf(r - 1)]
        else:
            x = self._conv2d(f"{scope}/Conv0_up", ops.upscale2d(x))
        x = self._epilogue(f"{scope}/Conv0_up", self._blur(x), 2 * r - 4, dlatents, noise)
        y = self._conv2d(f"{scope}/Conv1", x)
        return x, self._epilogue(f"{scope}/Conv1", y, 2 * r - 3, dlatents, noise)

    def _epilogue(self, scope, x, layer, dlatents, noise):
        """Apply noise, bias, activation, pixel norm, instance norm and style, in this order."""
        options, size = self.options, x.shape[1]
        if options.use_noise:
            if noise is None:
                drawn = tf.reshape(self.vars[f"G_synthesis/noise{layer}"], [1, size, size, 1])
            else:
                drawn = noise(layer, size, size)  # [N, size, size, 1]
            x = ops.apply_noise(x, drawn, self.vars[f"{scope}/Noise/weight"])
        x = self._activate(self._bias(scope, x))
        if options.use_pixel_norm:
            x = ops.pixel_norm(x)
        if not options.use_styles:
            return ops.instance_norm(x) if options.use_instance_norm else x
        style = self._dense(f"{scope}/StyleMod", dlatents[:, layer])
        style = self._bias(f"{scope}/StyleMod", style)  # [N, 2 fmaps]: scales, shifts
        if not options.use_instance_norm:
            return ops.style_mod(x, style)
        return ops.adaptive_instance_norm(x, style)

    def _to_rgb(self, x, r):
        scope = self._to_rgb_scope(r)
        return self._bias(scope, self._image_conv2d(scope, x))


@NETWORKS.register
class D_basic(GrowingNetwork):
    """Discriminator (ProGAN, table 2, with blurred downscaling): images -> scores, high = real."""

    Options = DiscriminatorOptions

    def __init__(self, name: str = "D", **options):
        super().__init__(name, **options)
        for r in range(self.resolution_log2, 1, -1):
            self._add_layer(r, self._from_rgb_scope(r), [1, 1, self.num_channels, self._nf(r - 1)])
        for r in range(self.resolution_log2, 2, -1):
            scope, fmaps = f"{2 ** r}x{2 ** r}", self._nf(r - 1)
            self._add_layer(r, f"{scope}/Conv0", [3, 3, fmaps, fmaps])
            self._add_layer(r, f"{scope}/Conv1_down", [3, 3, fmaps, self._nf(r - 2)])
        # 4x4: minibatch stddev appends maps, and two dense layers give the scores.
        fmaps, appended = self._nf(1), self.options.mbstd_num_features
        if fmaps % appended:
            raise UserError(f"network {name}: mbstd_num_features {appended} does not divide the "
                            f"{fmaps} maps at 4x4")
        fmaps_in = fmaps + (appended if self.options.mbstd_group_size > 1 else 0)
        self._add_layer(2, "4x4/Conv", [3, 3, fmaps_in, fmaps])
        self._add_layer(2, "4x4/Dense0", [16 * fmaps, self._nf(0)])
        self._add_layer(2, "4x4/Dense1", [self._nf(0), max(self.label_size, 1)], gain=1)

    def _from_rgb_scope(self, r):
        return f"FromRGB_lod{self.resolution_log2 - r}"

    def __call__(self, images: tf.Tensor, labels: tf.Tensor | None = None, *,
                 resolution: int | None = None, fade: float | tf.Tensor = 0.0) -> tf.Tensor:
        """Score images.

        Args:
            images: [N, resolution, resolution, num_channels].
            labels: [N, label_size], the weights of the scores to sum; None if label_size is 0.
            resolution, fade: growth state, see the module's docstring.

        Returns:
            [N, 1] float32.
        """
        self._check_labels(labels)
        last = self._current_log2(resolution)
        x = self._from_rgb(images, last)  # [N, resolution, resolution, nf(last - 1)]
        for r in range(last, 2, -1):
            x = self._block(x, r)  # [N, 2^(r - 1), 2^(r - 1), nf(r - 2)]
            if r == last and fading(fade):
                x = blend(x, self._from_rgb(ops.downscale2d(images), last - 1), fade)
        scores = self._head(x)  # [N, max(label_size, 1)]
        if labels is not None:
            scores = tf.reduce_sum(scores * tf.cast(labels, scores.dtype), axis=1, keepdims=True)
        return scores

    def _from_rgb(self, images, r):
        scope = self._from_rgb_scope(r)
        x = tf.cast(self._image_conv2d(scope, images), self.compute_dtype)
        return self._activate(self._bias(scope, x))

    def _conv(self, scope, x):
        return self._activate(self._bias(scope, self._conv2d(scope, x)))

    def _block(self, x, r):
        """Halve the size: convolve, then blur, convolve and downscale."""
        scope = f"{2 ** r}x{2 ** r}"
        x = self._blur(self._conv(f"{scope}/Conv0", x))  # [N, 2^r, 2^r, nf(r - 1)]
        scope, fmaps = f"{scope}/Conv1_down", self._nf(r - 2)
        if self.use_fused_resampling(2 ** r, fmaps):
            kernel = self._used_weight(scope, self.compute_dtype, ops.downscale_kernel)
            x = self.convolutions.fused_downscale(x, kernel)
        else:
            x = ops.downscale2d(self._conv2d(scope, x))
        return self._activate(self._bias(scope, x))  # [N, 2^(r - 1), 2^(r - 1), nf(r - 2)]

    def _head(self, x):
        """Return scores of x [N, 4, 4, nf(1)]: minibatch stddev, convolution, two dense layers."""
        if self.options.mbstd_group_size > 1:
            x = ops.minibatch_stddev(x, self.options.mbstd_group_size,
                                     self.options.mbstd_num_features)
        x = self._conv("4x4/Conv", x)  # [N, 4, 4, nf(1)]
        # The official dense layer reads the maps in channels-first order.
        x = tf.reshape(tf.transpose(x, [0, 3, 1, 2]), [-1, 16 * x.shape[3]])
        x = tf.cast(x, tf.float32)  # [N, 16 nf(1)]
        x = self._activate(self._bias("4x4/Dense0", self._dense("4x4/Dense0", x)))
        return self._bias("4x4/Dense1", self._dense("4x4/Dense1", x))  # [N, scores]
