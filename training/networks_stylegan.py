"""The StyleGAN generator and discriminator at the current resolution, grown by a fade.

Sources: StyleGAN (Karras et al. 2019, figure 1b, section 2, appendix C) and ProGAN (Karras et al.
2018, section 2, appendix A). Variables bear the names and shapes of the official release (constant
and noise are NCHW there), so its weights can be read by name. Activations are NHWC.

A network of final resolution R can be evaluated at any resolution r = 4..R: `resolution` is a
Python int, and everything finer than it is not computed. `fade` in [0, 1] is the weight of the
next coarser branch: lod in the official sense is log2(R / r) + fade. A Python 0 leaves the coarser
branch out; a tensor keeps one trace for a whole fade. At 4x4 there is no coarser branch and `fade`
is without effect.
"""

import contextlib
import re

import numpy as np
import tensorflow as tf

from dnnlib.tflib import ops
from dnnlib.tflib.network import NETWORKS, Network, keywords
from dnnlib.util import UserError
from training.forms import num_fmaps, use_fused

# Where a name tells the resolution; matches every name.
_PLACE = re.compile(r"(\d+)x\d+/|RGB_lod(\d+)/|/noise(\d+)$|$")


def _normal(scale=1.0):
    return lambda rng, shape: rng.standard_normal(shape, np.float32) * np.float32(scale)


def _fill(value):
    return lambda rng, shape: np.full(shape, value, np.float32)


def _scaled(stored, scale):
    return stored * scale


class _GrowingNetwork(Network):
    """What G and D share: resolutions, numbers of maps, layers with scaled weights.

    Attributes:
        use_fused: the rule (finer resolution, fmaps) -> bool that chooses the form of a layer.
        compute_dtype: of convolutions and of what passes between them. Variables, the mapping
            network, styles, dense layers, images and scores are float32 whatever it is.
        convolutions: the module whose conv2d, fused_upscale and fused_downscale are used.
    """

    def __init__(self, name, config):
        log2 = int(np.log2(max(config["resolution"], 1)))
        if config["resolution"] != 2 ** log2 or log2 < 2:
            raise UserError(
                f"network {name}: resolution {config['resolution']} is not one of 4, 8, 16, ...")
        for kind in (config["nonlinearity"], config.get("mapping_nonlinearity", "lrelu")):
            if kind not in ops.NONLINEARITIES:
                raise UserError(f"network {name}: nonlinearity {kind!r} is not one of "
                                f"{', '.join(ops.NONLINEARITIES)}")
        super().__init__(name, config)
        self.resolution = config["resolution"]
        self.resolution_log2 = log2
        self.num_channels = config["num_channels"]
        self.label_size = config["label_size"]
        self.use_fused = use_fused
        self.compute_dtype, self.convolutions = tf.float32, ops
        self._scales = {}  # of every weight: what its stored value is multiplied by
        self._kept = None  # weights in use, while `weights_made_once` lasts

    def _nf(self, stage):
        return num_fmaps(stage, *(self.config[k] for k in ("fmap_base", "fmap_decay", "fmap_max")))

    def _current_log2(self, resolution):
        """log2 of the resolution to evaluate. Raises ValueError where there is none such."""
        if resolution is None:
            return self.resolution_log2
        if resolution not in [2 ** r for r in range(2, self.resolution_log2 + 1)]:
            raise ValueError(
                f"network {self.name} has resolutions 4..{self.resolution}, not {resolution}")
        return int(np.log2(resolution))

    def resolution_of(self, name):
        """The coarsest resolution at which variable `name` takes part."""
        side, lod, noise = _PLACE.search(name).groups()
        if lod:
            return self.resolution >> int(lod)
        return 2 ** (int(noise) // 2 + 2) if noise else int(side or 4)

    def _check_labels(self, labels):
        if (labels is None) != (self.label_size == 0):
            raise ValueError(
                f"network {self.name} has label_size {self.label_size}; labels: {labels}")

    def _add_weight(self, scope, shape, gain=ops.HE_GAIN, lrmul=1.0):
        """Stored ~ N(0, 1) / lrmul, to be scaled in use; without use_wscale ~ N(0, he_std) / lrmul.

        Source: ProGAN, section 4.1; He et al. 2015.
        """
        std = 1 if self.config["use_wscale"] else ops.he_std(shape, gain)
        self.add_variable(f"{scope}/weight", shape, _normal(std / lrmul))
        self._scales[scope] = lrmul * (ops.he_std(shape, gain) if self.config["use_wscale"] else 1)

    @contextlib.contextmanager
    def weights_made_once(self):
        """While it lasts, all evaluations share the weights in use and the kernels made of them.

        For evaluations inside one traced function and one gradient tape: D scores reals and fakes
        with the same weights, whose gradients are then added up before they are scaled.
        """
        self._kept = {}
        try:
            yield
        finally:
            self._kept = None

    def _made(self, scope, make, dtype):
        """make(stored weight, scale) in type `dtype`, or what it gave before while
        `weights_made_once` lasts."""
        kept = {} if self._kept is None else self._kept
        if scope not in kept:
            made = make(self.vars[f"{scope}/weight"], np.float32(self._scales[scope]))
            kept[scope] = tf.cast(made, dtype)
        return kept[scope]

    def _kernel(self, scope, make=_scaled):
        """A convolution's kernel in the type to compute with."""
        return self._made(scope, make, self.compute_dtype)

    def _conv2d(self, scope, x):
        """3x3 convolution without bias."""
        return self.convolutions.conv2d(x, self._kernel(scope))

    def _image_conv2d(self, scope, x):
        """1x1 convolution to or from images, in float32; without bias."""
        return ops.conv2d(tf.cast(x, tf.float32), self._made(scope, _scaled, tf.float32))

    def _dense(self, scope, x):
        """x [minibatch, in] by the weight in use; x is scaled, which has fewer numbers."""
        return ops.dense(x * np.float32(self._scales[scope]), self.vars[f"{scope}/weight"])

    def _add_bias(self, scope, fmaps):
        self.add_variable(f"{scope}/bias", [fmaps], _fill(0))

    def _bias(self, scope, x, lrmul=1.0):
        bias = self.vars[f"{scope}/bias"]
        return ops.add_bias(x, bias if lrmul == 1 else bias * lrmul)

    def _add_layer(self, scope, shape, gain=ops.HE_GAIN, lrmul=1.0):
        """Weight and bias of a dense or convolutional layer."""
        self._add_weight(scope, shape, gain, lrmul)
        self._add_bias(scope, shape[-1])

    def _activate(self, x):
        return ops.activate(x, self.config["nonlinearity"])

    def _blur(self, x):
        return ops.blur2d(x) if self.config["blur"] else x


def _fading(fade):
    """False where the coarser branch is known to weigh nothing."""
    return tf.is_tensor(fade) or isinstance(fade, tf.Variable) or fade != 0


def _lerp(a, b, t):
    return a + (b - a) * tf.cast(t, a.dtype)


@NETWORKS.register
class G_style(_GrowingNetwork):
    """Style-based generator (StyleGAN, figure 1b): latents -> dlatents -> images.

    The official network's options lead from it back to ProGAN's (StyleGAN, table 1): no styles (one
    dlatent is fed, `num_styles` = 1), no noise, a dense layer of w instead of the constant, pixel
    norm, no instance norm.
    """

    def __init__(self, name="G", *, num_channels, resolution, label_size=0, latent_size=512,
                 dlatent_size=512, mapping_layers=8, mapping_fmaps=512, mapping_lrmul=0.01,
                 mapping_nonlinearity="lrelu", normalize_latents=True, use_styles=True,
                 use_noise=True, const_input=True, use_pixel_norm=False, use_instance_norm=True,
                 nonlinearity="lrelu", use_wscale=True, blur=True, fmap_base=8192, fmap_decay=1.0,
                 fmap_max=512, seed=0):
        super().__init__(name, keywords(locals()))
        self.num_layers = 2 * self.resolution_log2 - 2
        self.num_styles = self.num_layers if use_styles else 1
        self.latent_size = latent_size
        self.dlatent_size = dlatent_size
        self.add_variable("dlatent_avg", [dlatent_size], _fill(0), trainable=False)
        self._create_mapping()
        self._create_synthesis()

    def _create_mapping(self):
        width, layers = self.latent_size, self.config["mapping_layers"]
        if self.label_size:
            self.add_variable("G_mapping/LabelConcat/weight", [self.label_size, width], _normal())
            width *= 2
        if not layers and width != self.dlatent_size:
            raise UserError(f"network {self.name}: mapping_layers=0 gives w the length {width} of "
                            f"its input; dlatent_size is {self.dlatent_size}")
        for i in range(layers):
            fmaps = self.dlatent_size if i == layers - 1 else self.config["mapping_fmaps"]
            self._add_layer(f"G_mapping/Dense{i}", [width, fmaps],
                            lrmul=self.config["mapping_lrmul"])
            width = fmaps

    def _create_synthesis(self):
        for i in range(self.num_layers if self.config["use_noise"] else 0):
            size = 2 ** (i // 2 + 2)
            self.add_variable(f"G_synthesis/noise{i}", [1, 1, size, size], _normal(),
                              trainable=False)
        self._create_input()
        self._create_conv("G_synthesis/4x4/Conv", self._nf(1), self._nf(1))
        for r in range(3, self.resolution_log2 + 1):
            scope = f"G_synthesis/{2 ** r}x{2 ** r}"
            self._create_conv(f"{scope}/Conv0_up", self._nf(r - 2), self._nf(r - 1))
            self._create_conv(f"{scope}/Conv1", self._nf(r - 1), self._nf(r - 1))
        for r in range(2, self.resolution_log2 + 1):
            self._add_layer(self._to_rgb_scope(r), [1, 1, self._nf(r - 1), self.num_channels],
                            gain=1)

    def _create_input(self):
        """The learned constant, or ProGAN's dense layer with its gain of sqrt(2) / 4."""
        if self.config["const_input"]:
            self.add_variable("G_synthesis/4x4/Const/const", [1, self._nf(1), 4, 4], _fill(1))
        else:
            self._add_weight("G_synthesis/4x4/Dense", [self.dlatent_size, 16 * self._nf(1)],
                             gain=ops.HE_GAIN / 4)
        self._create_epilogue(self._input_scope, self._nf(1))

    @property
    def _input_scope(self):
        return f"G_synthesis/4x4/{'Const' if self.config['const_input'] else 'Dense'}"

    def _create_conv(self, scope, fmaps_in, fmaps):
        self._add_weight(scope, [3, 3, fmaps_in, fmaps])
        self._create_epilogue(scope, fmaps)

    def _create_epilogue(self, scope, fmaps):
        self._add_bias(scope, fmaps)
        if self.config["use_noise"]:
            self.add_variable(f"{scope}/Noise/weight", [fmaps], _fill(0))
        if self.config["use_styles"]:
            self._add_layer(f"{scope}/StyleMod", [self.dlatent_size, 2 * fmaps], gain=1)

    def _to_rgb_scope(self, r):
        return f"G_synthesis/ToRGB_lod{self.resolution_log2 - r}"

    def __call__(self, latents, labels=None, *, resolution=None, fade=0.0, noise=None,
                 truncation_psi=None, truncation_cutoff=8):
        """latents [N, latent_size] -> images [N, r, r, num_channels].

        See `mapping`, `truncate` (left out where `truncation_psi` is None) and `synthesis`.
        """
        dlatents = self.mapping(latents, labels)
        if truncation_psi is not None:
            dlatents = self.truncate(dlatents, truncation_psi, truncation_cutoff)
        return self.synthesis(dlatents, resolution, fade, noise)

    def mapping(self, latents, labels=None):
        """latents [N, latent_size], labels [N, label_size] -> dlatents [N, num_styles,
        dlatent_size], all layers alike.

        Pixel norm, then dense layers whose learning rate is lower by `mapping_lrmul` (section 2).
        """
        self._check_labels(labels)
        config = self.config
        x = tf.cast(latents, tf.float32)
        if labels is not None:
            weight = self.vars["G_mapping/LabelConcat/weight"]
            x = tf.concat([x, tf.matmul(tf.cast(labels, tf.float32), weight)], axis=1)
        if config["normalize_latents"]:
            x = ops.pixel_norm(x)
        for i in range(config["mapping_layers"]):
            scope = f"G_mapping/Dense{i}"
            x = self._bias(scope, self._dense(scope, x), config["mapping_lrmul"])
            x = ops.activate(x, config["mapping_nonlinearity"])
        return tf.tile(x[:, None], [1, self.num_styles, 1])

    def truncate(self, dlatents, psi=0.7, cutoff=8):
        """lerp(dlatent_avg, dlatents, psi) for the layers below `cutoff` (StyleGAN, appendix B)."""
        scale = np.where(np.arange(self.num_styles) < cutoff, psi, 1.0).astype(np.float32)[:, None]
        return _lerp(self.vars["dlatent_avg"], dlatents, scale)

    def synthesis(self, dlatents, resolution=None, fade=0.0, noise=None):
        """dlatents [N, num_styles, dlatent_size] -> images [N, r, r, num_channels] float32, about
        [-1, 1].

        Args:
            resolution, fade: growth state, see the module's docstring.
            noise: None for the fixed noise of the variables, or (layer_index, height, width) ->
                [N, height, width, 1]. Not asked where `use_noise` is off.
        """
        last = self._current_log2(resolution)
        x = self._epilogue(self._input_scope, self._input(dlatents), 0, dlatents, noise)
        x = self._conv2d("G_synthesis/4x4/Conv", x)
        x = coarser = self._epilogue("G_synthesis/4x4/Conv", x, 1, dlatents, noise)
        for r in range(3, last + 1):
            coarser = x
            x = self._block(x, r, dlatents, noise)
        images = self._to_rgb(x, last)
        if last > 2 and _fading(fade):
            images = _lerp(images, ops.upscale2d(self._to_rgb(coarser, last - 1)), fade)
        return images

    def _input(self, dlatents):
        """[N, 4, 4, nf(1)]: the constant, or the dense layer, whose output is read maps first."""
        if self.config["const_input"]:
            const = tf.transpose(self.vars["G_synthesis/4x4/Const/const"], [0, 2, 3, 1])
            x = tf.tile(const, [tf.shape(dlatents)[0], 1, 1, 1])
        else:
            x = self._dense("G_synthesis/4x4/Dense", dlatents[:, 0])
            x = tf.transpose(tf.reshape(x, [-1, self._nf(1), 4, 4]), [0, 2, 3, 1])
        return tf.cast(x, self.compute_dtype)

    def _block(self, x, r, dlatents, noise):
        """Upscale, convolution, blur, epilogue; convolution, epilogue."""
        scope = f"G_synthesis/{2 ** r}x{2 ** r}"
        x = self._blur(self._upscale(f"{scope}/Conv0_up", x, r))
        x = self._epilogue(f"{scope}/Conv0_up", x, 2 * r - 4, dlatents, noise)
        x = self._conv2d(f"{scope}/Conv1", x)
        return self._epilogue(f"{scope}/Conv1", x, 2 * r - 3, dlatents, noise)

    def _upscale(self, scope, x, r):
        if self.use_fused(2 ** r, self._nf(r - 1)):
            return self.convolutions.fused_upscale(x, self._kernel(scope, ops.upscale_kernel))
        return self._conv2d(scope, ops.upscale2d(x))

    def _epilogue(self, scope, x, layer, dlatents, noise):
        """Noise, bias, activation, pixel norm, instance norm, style, in this order."""
        config = self.config
        if config["use_noise"]:
            x = self._add_noise(scope, x, layer, noise)
        x = self._activate(self._bias(scope, x))
        if config["use_pixel_norm"]:
            x = ops.pixel_norm(x)
        style = None
        if config["use_styles"]:
            style = self._bias(f"{scope}/StyleMod",
                               self._dense(f"{scope}/StyleMod", dlatents[:, layer]))
        if config["use_instance_norm"] and config["use_styles"] and x.dtype != tf.float32:
            return ops.adaptive_instance_norm(x, style)
        if config["use_instance_norm"]:
            x = ops.instance_norm(x)
        return ops.style_mod(x, style) if config["use_styles"] else x

    def _add_noise(self, scope, x, layer, noise):
        size = x.shape[1]
        if noise is None:
            layer_noise = tf.reshape(self.vars[f"G_synthesis/noise{layer}"], [1, size, size, 1])
        else:
            layer_noise = noise(layer, size, size)
        return ops.apply_noise(x, layer_noise, self.vars[f"{scope}/Noise/weight"])

    def _to_rgb(self, x, r):
        scope = self._to_rgb_scope(r)
        return self._bias(scope, self._image_conv2d(scope, x))


@NETWORKS.register
class D_basic(_GrowingNetwork):
    """Discriminator (ProGAN, table 2, with blurred downscaling): images -> scores, high = real."""

    def __init__(self, name="D", *, num_channels, resolution, label_size=0, nonlinearity="lrelu",
                 use_wscale=True, blur=True, mbstd_group_size=4, mbstd_num_features=1,
                 fmap_base=8192, fmap_decay=1.0, fmap_max=512, seed=0):
        super().__init__(name, keywords(locals()))
        for r in range(self.resolution_log2, 1, -1):
            self._add_layer(self._from_rgb_scope(r), [1, 1, num_channels, self._nf(r - 1)])
        for r in range(self.resolution_log2, 2, -1):
            scope, fmaps = f"{2 ** r}x{2 ** r}", self._nf(r - 1)
            self._add_layer(f"{scope}/Conv0", [3, 3, fmaps, fmaps])
            self._add_layer(f"{scope}/Conv1_down", [3, 3, fmaps, self._nf(r - 2)])
        if self._nf(1) % mbstd_num_features:
            raise UserError(f"network {name}: mbstd_num_features {mbstd_num_features} does not "
                            f"divide the {self._nf(1)} maps at 4x4")
        mbstd_fmaps = mbstd_num_features if mbstd_group_size > 1 else 0
        self._add_layer("4x4/Conv", [3, 3, self._nf(1) + mbstd_fmaps, self._nf(1)])
        self._add_layer("4x4/Dense0", [16 * self._nf(1), self._nf(0)])
        self._add_layer("4x4/Dense1", [self._nf(0), max(label_size, 1)], gain=1)

    def _from_rgb_scope(self, r):
        return f"FromRGB_lod{self.resolution_log2 - r}"

    def __call__(self, images, labels=None, *, resolution=None, fade=0.0):
        """images [N, r, r, num_channels], labels [N, label_size] -> scores [N, 1].

        `resolution`, `fade`: growth state, see the module's docstring.
        """
        self._check_labels(labels)
        last = self._current_log2(resolution)
        x = self._from_rgb(images, last)
        for r in range(last, 2, -1):
            x = self._block(x, r)
            if r == last and _fading(fade):
                x = _lerp(x, self._from_rgb(ops.downscale2d(images), last - 1), fade)
        scores = self._head(x)
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
        """Convolution; blur, convolution, downscale: [N, 2^r, 2^r, nf(r-1)] -> half, nf(r-2)."""
        scope = f"{2 ** r}x{2 ** r}"
        x = self._blur(self._conv(f"{scope}/Conv0", x))
        scope, fmaps = f"{scope}/Conv1_down", self._nf(r - 2)
        if self.use_fused(2 ** r, fmaps):
            x = self.convolutions.fused_downscale(x, self._kernel(scope, ops.downscale_kernel))
        else:
            x = ops.downscale2d(self._conv2d(scope, x))
        return self._activate(self._bias(scope, x))

    def _head(self, x):
        """Minibatch stddev, convolution, two dense layers: [N, 4, 4, nf(1)] -> [N, scores]."""
        group_size, num_features = (
            self.config[k] for k in ("mbstd_group_size", "mbstd_num_features"))
        if group_size > 1:
            x = ops.minibatch_stddev(x, group_size, num_features)
        x = self._conv("4x4/Conv", x)
        # The official dense layer reads the maps in channels-first order.
        x = tf.reshape(tf.transpose(x, [0, 3, 1, 2]), [-1, 16 * x.shape[3]])
        x = tf.cast(x, tf.float32)
        x = self._activate(self._bias("4x4/Dense0", self._dense("4x4/Dense0", x)))
        return self._bias("4x4/Dense1", self._dense("4x4/Dense1", x))
