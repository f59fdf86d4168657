"""Decoders, which draw label maps from a generator's features, and a generator with a decoder.

Sources: linear, the linear probe of Xu and Zheng 2021, "Linear semantics in generative adversarial
networks"; conv, the light decoder of "Teaching GAN to generate per-pixel annotation" (2020); mlp,
DatasetGAN, Zhang et al. 2021. All of them treat every pixel in the same way and by itself: mirrored
features give the mirrored map, whatever the weights.

`features` is a list of activations [N, r, r, fmaps], two for each size r, coarse to fine, as
G_style.synthesis returns them. `weights` is {name: tensor}; results have their dtype. Logits are
[..., num_outputs]; output 0 is the background.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import tensorflow as tf

from dnnlib.data import channels
from dnnlib.tflib.network import NETWORKS, Network
from training.config import num_fmaps
from training.gan.growing_network import constant, normal
from training.networks_stylegan import G_style, GeneratorOptions

CONV_FMAPS, MLP_FMAPS = 64, (128, 32)
MEMBERS = 10  # networks in DatasetGAN's ensemble
NORM_EPSILON, NORM_MOMENTUM = 1e-5, 0.9
UNSURE_SHARE = 0.1  # share of a picture's pixels whose mean divergence is its uncertainty

Weights = dict[str, tf.Tensor]
Means = dict[str, tf.Tensor]  # running means after a training step


# Layers

def bilinear_matrix(side: int, new_side: int) -> np.ndarray:
    """Return float64 [new_side, side]: the weights of a row's pixels in each pixel of the enlarged
    row. Pixel centres are at halves; borders are repeated."""
    low, high, share = _neighbours(side, new_side)
    matrix = np.zeros([new_side, side])
    np.add.at(matrix, (np.arange(new_side), low), 1 - share)
    np.add.at(matrix, (np.arange(new_side), high), share)
    return matrix


def _neighbours(side, new_side):
    """Return, for each pixel of an enlarged row, the two old pixels around it and the second one's
    weight."""
    place = np.clip((np.arange(new_side) + 0.5) * side / new_side - 0.5, 0, side - 1)
    low = np.floor(place).astype(np.int32)
    return low, np.minimum(low + 1, side - 1).astype(np.int32), place - low


def enlarge_bilinearly(x: tf.Tensor, side: int) -> tf.Tensor:
    """Return x [N, r, r, fmaps] enlarged bilinearly to [N, side, side, fmaps].

    TensorFlow's operation, which returns only float32, is five to ten times as fast as matrix
    products, which are used for other types.
    """
    if x.shape[1] == side:
        return x
    if x.dtype == tf.float32:
        return tf.raw_ops.ResizeBilinear(images=x, size=[side, side], half_pixel_centers=True)
    matrix = tf.constant(bilinear_matrix(x.shape[1], side), x.dtype)
    return tf.einsum("bj,najf->nabf", matrix, tf.einsum("ai,nijf->najf", matrix, x))


def gather_pixels(features: Sequence[tf.Tensor], places: tf.Tensor, side: int) -> tf.Tensor:
    """Return the values of all features, enlarged to `side`, at some pixels, [N, P, all fmaps].

    Args:
        places: int32 [N, P], row * side + column.
    """
    parts = []
    for x in features:
        *ends, share = _neighbours(x.shape[1], side)
        rows, columns = ([tf.gather(end, index) for end in ends]
                         for index in (places // side, places % side))
        down, right = (tf.gather(tf.constant(share, x.dtype), index)[..., None]
                       for index in (places // side, places % side))
        upper, lower = (
            (1 - right) * tf.gather_nd(x, tf.stack([row, columns[0]], -1), batch_dims=1)
            + right * tf.gather_nd(x, tf.stack([row, columns[1]], -1), batch_dims=1)
            for row in rows)
        parts.append((1 - down) * upper + down * lower)
    return tf.concat(parts, axis=-1)


def batch_norm(weights: Weights, scope: str, x: tf.Tensor, means: Means | None) -> tf.Tensor:
    """Return x [..., n, fmaps] normalised over n and all replicas; if `means` is None, by the
    running means. New running means are added to `means`."""
    if means is None:
        mean, variance = weights[f"{scope}/moving_mean"], weights[f"{scope}/moving_variance"]
    else:
        context = tf.distribute.get_replica_context()
        mean, square = context.all_reduce(tf.distribute.ReduceOp.MEAN, [
            tf.reduce_mean(value, axis=-2, keepdims=True) for value in (x, tf.square(x))])
        variance = tf.maximum(square - tf.square(mean), 0)
        for name, value in (("moving_mean", mean), ("moving_variance", variance)):
            old = weights[f"{scope}/{name}"]
            means[f"{scope}/{name}"] = old + (1 - NORM_MOMENTUM) * (value - old)
    x = (x - mean) * tf.math.rsqrt(variance + NORM_EPSILON)
    return x * weights[f"{scope}/gamma"] + weights[f"{scope}/beta"]


def project_and_sum(features: Sequence[tf.Tensor], kernels: Sequence[tf.Tensor]) -> tf.Tensor:
    """Return the sum of all features, enlarged to the last one's size, times their kernels
    [fmaps, out].

    Features are multiplied before they are enlarged: the result is the same, for less work.
    """
    total, side = 0, features[-1].shape[1]
    for place in range(0, len(features), 2):  # two of each size
        total += enlarge_bilinearly(sum(tf.tensordot(x, kernel, 1) for x, kernel in zip(
            features[place:place + 2], kernels[place:place + 2])), side)
    return total


# Decoders

def linear_logits(weights: Weights, features: Sequence[tf.Tensor]) -> tf.Tensor:
    """Return the logits [N, R, R, out] of one 1x1 convolution per layer, enlarged and summed."""
    return project_and_sum(features, [weights[f"layer{i}/kernel"] for i in range(len(features))])


def conv_logits(weights: Weights, features: Sequence[tf.Tensor], means: Means | None) -> tf.Tensor:
    """Return the logits [N, R, R, out] of the light decoder, computed from the sum, coarse to fine,
    of 64 normalised maps of every layer."""
    total = 0.0
    for i, x in enumerate(features):
        side, scope = x.shape[1], f"layer{i}"
        y = tf.reshape(tf.tensordot(x, weights[f"{scope}/kernel"], 1), [-1, CONV_FMAPS])
        y = tf.nn.relu(batch_norm(weights, scope, y, means))
        y = tf.reshape(y, [-1, side, side, CONV_FMAPS])  # [N, side, side, 64]
        total = y if i == 0 else enlarge_bilinearly(total, side) + y
    return tf.tensordot(total, weights["logits/kernel"], 1) + weights["logits/bias"]


def mlp_logits(weights: Weights, pixels: tf.Tensor, means: Means | None) -> tf.Tensor:
    """Return the logits [members, n, out] of all members for the features [n, all fmaps] of some
    pixels."""
    products = tf.einsum("nd,mdo->mno", pixels, weights["dense0/kernel"])
    return _mlp_from_dense0(weights, products, means)


def _mlp_from_dense0(weights, x, means):
    """Return the logits for the first layer's products [..., n, 128], of one member or of all."""
    for i in range(len(MLP_FMAPS)):
        x = tf.nn.relu(x + weights[f"dense{i}/bias"])
        x = tf.matmul(batch_norm(weights, f"dense{i}", x, means),
                      weights[f"dense{i + 1}/kernel"])
    return x + weights[f"dense{len(MLP_FMAPS)}/bias"]


def member_logits(weights: Weights, features: Sequence[tf.Tensor]) -> tf.Tensor:
    """Return the logits [members, N, R, R, out] of all members for whole pictures.

    Members are computed one after another, since the maps of one at 512x512 take a hundred
    megabytes.
    """
    fmaps = [x.shape[-1] for x in features]

    def logits(member: Weights) -> tf.Tensor:
        x = project_and_sum(features, tf.split(member["dense0/kernel"], fmaps))
        flat = _mlp_from_dense0(member, tf.reshape(x, [-1, MLP_FMAPS[0]]), None)
        return tf.reshape(flat, [-1, *x.shape[1:3], flat.shape[-1]])

    return tf.map_fn(logits, weights, parallel_iterations=1,
                     fn_output_signature=next(iter(weights.values())).dtype)


def vote_shares(probabilities: tf.Tensor) -> tf.Tensor:
    """Return each class's share of the votes [..., out], given the members' probabilities
    [members, ..., out].

    Shares sum to 1 and are largest for the class with most votes; if several have as many, for the
    most probable of them.
    """
    winners = tf.argmax(probabilities, axis=-1)
    ballots = tf.one_hot(winners, probabilities.shape[-1], dtype=probabilities.dtype)
    count = probabilities.shape[0]
    return (tf.reduce_sum(ballots, axis=0) + tf.reduce_mean(probabilities, axis=0)) / (count + 1)


def disagreement(probabilities: tf.Tensor) -> tf.Tensor:
    """Return the Jensen-Shannon divergence [...] of the members' probabilities [members, ..., out],
    in nats: the entropy of the mean minus the mean entropy."""
    def entropy(p: tf.Tensor) -> tf.Tensor:
        return -tf.reduce_sum(tf.math.xlogy(p, p), axis=-1)

    return entropy(tf.reduce_mean(probabilities, axis=0)) - tf.reduce_mean(
        entropy(probabilities), axis=0)


def picture_uncertainty(divergences: tf.Tensor) -> tf.Tensor:
    """Return [N]: the mean of divergences [N, R, R] over each picture's tenth of pixels with the
    largest ones (DatasetGAN, section 3.1)."""
    flat = tf.reshape(divergences, [divergences.shape[0], -1])
    most, _ = tf.math.top_k(flat, max(1, round(UNSURE_SHARE * flat.shape[1])))
    return tf.reduce_mean(most, axis=1)


class Decoder(Network):
    """features -> logits. A training step returns running means and does not assign them."""

    @dataclass(frozen=True)
    class Options:
        """What defines the network.

        Attributes:
            kind: linear, conv or mlp.
            num_outputs: number of classes, including the background.
            fmaps: feature maps of every layer, coarse to fine.
            members: number of networks in an mlp's ensemble.
        """

        kind: str
        num_outputs: int
        fmaps: tuple[int, ...]
        members: int = MEMBERS
        seed: int = 0

    def __init__(self, name: str = "decoder", **options):
        super().__init__(name, **options)
        o = self.options
        if o.kind == "linear":
            for i, fmaps in enumerate(o.fmaps):
                # Layers are summed: scale the kernels like those of one layer with all maps.
                self.add_variable(f"layer{i}/kernel", [fmaps, o.num_outputs],
                                  normal(1 / np.sqrt(sum(o.fmaps))))
        elif o.kind == "conv":
            for i, fmaps in enumerate(o.fmaps):
                self.add_variable(f"layer{i}/kernel", [fmaps, CONV_FMAPS],
                                  normal(np.sqrt(2 / fmaps)))
                self._create_norm(f"layer{i}", [1, CONV_FMAPS])
            self._create_dense("logits", [CONV_FMAPS, o.num_outputs])
        elif o.kind == "mlp":
            widths = [sum(o.fmaps), *MLP_FMAPS, o.num_outputs]
            for i, (width, fmaps) in enumerate(itertools.pairwise(widths)):
                self._create_dense(f"dense{i}", [o.members, width, fmaps])
                if i < len(MLP_FMAPS):
                    self._create_norm(f"dense{i}", [o.members, 1, fmaps])
        else:
            raise KeyError(o.kind)

    def _create_dense(self, scope, shape):
        """Create kernel and bias of a layer [..., fan in, fan out]."""
        self.add_variable(f"{scope}/kernel", shape, normal(np.sqrt(2 / shape[-2])))
        # A member's biases and norms are [1, fmaps], for all of its pixels.
        self.add_variable(f"{scope}/bias", [*shape[:-2], 1, shape[-1]] if len(shape) > 2
                          else shape[-1:], constant(0))

    def _create_norm(self, scope, shape):
        """Create the variables that `batch_norm` uses."""
        for name, value in (("gamma", 1), ("beta", 0), ("moving_mean", 0), ("moving_variance", 1)):
            self.add_variable(f"{scope}/{name}", shape, constant(value),
                              trainable=not name.startswith("moving"))

    def _weights(self):
        """Return {name: tensor} of all variables."""
        return {name: tf.convert_to_tensor(var) for name, var in self.vars.items()}

    def train_call(self, inputs: Sequence[tf.Tensor] | tf.Tensor) -> tuple[tf.Tensor, Means]:
        """Return logits as during training, and {name: value to assign} for running means.

        Args:
            inputs: features, for logits [N, R, R, out]; for an mlp, the features [n, all fmaps] of
                pixels, for logits [members, n, out].
        """
        means = {}
        if self.options.kind == "linear":
            return linear_logits(self._weights(), inputs), means
        logits = {"conv": conv_logits, "mlp": mlp_logits}[self.options.kind]
        return logits(self._weights(), inputs, means), means

    def probabilities(self, features: Sequence[tf.Tensor]) -> tf.Tensor:
        """Return float32 [members, N, R, R, out]; a linear or conv decoder has one member."""
        if self.options.kind == "mlp":
            return tf.nn.softmax(member_logits(self._weights(), features))
        logits = linear_logits(self._weights(), features) if self.options.kind == "linear" \
            else conv_logits(self._weights(), features, None)
        return tf.nn.softmax(logits)[None]

    def __call__(self, features: Sequence[tf.Tensor]) -> tf.Tensor:
        """Return maps float32 [N, R, R, classes] in [-0.5, 0.5].

        The map of a pixel's likeliest class is half of the difference between the probability of
        all classes together (for an mlp: their share of the votes) and that of the background; the
        maps of the others are lower, by the difference of the probabilities. If each class had to
        beat the background by itself, a garment that may be of two classes would get no label.
        """
        found = self.probabilities(features)
        shares = vote_shares(found) if self.options.kind == "mlp" else found[0]
        classes = shares[..., 1:]
        return (0.5 - shares[..., :1] + classes
                - tf.reduce_max(classes, axis=-1, keepdims=True))


# The generator

@dataclass(frozen=True)
class DecodedGeneratorOptions(GeneratorOptions):
    """What defines a DecodedGenerator: the options of its generator, except that num_channels
    counts the generator's colours and the decoder's maps; and the options of the decoder."""

    generator_channels: int = 3  # channels of the generator itself; only its colours are used
    map_resolution: int = 0  # the decoder's resolution; 0 = resolution
    decoder: str = "conv"  # linear, conv or mlp
    decoder_seed: int = 0


@NETWORKS.register
class DecodedGenerator(Network):
    """A frozen generator of colours and a decoder of its features: together, a generator of colours
    and maps.

    Attributes:
        generator, decoder: the two parts; their variables are this network's, with the names
            generator/... and decoder/...
    """

    Options = DecodedGeneratorOptions

    def __init__(self, name: str = "Gs", **options):
        super().__init__(name, **options)
        o, own = self.options, {field.name for field in fields(GeneratorOptions)}
        self.map_resolution = o.map_resolution or o.resolution
        self.generator = G_style("generator", **{key: value for key, value in self.config.items()
                                                 if key in own}
                                 | {"num_channels": o.generator_channels})
        layers = range(2, self.map_resolution.bit_length())
        self.decoder = Decoder(
            "decoder", kind=o.decoder, num_outputs=o.num_channels - channels.NUM_COLOURS + 1,
            fmaps=tuple(num_fmaps(r - 1, o.fmap_base, o.fmap_decay, o.fmap_max)
                        for r in layers for _ in range(2)), seed=o.decoder_seed)
        self.vars = {f"{part.name}/{key}": var for part in (self.generator, self.decoder)
                     for key, var in part.vars.items()}
        for key in ("resolution", "num_channels", "label_size", "latent_size", "dlatent_size"):
            setattr(self, key, getattr(o, key))
        self.num_layers, self.num_styles = self.generator.num_layers, self.generator.num_styles
        self.mapping, self.truncate = self.generator.mapping, self.generator.truncate

    @property
    def trainables(self) -> dict[str, tf.Variable]:
        """Return {name: variable} for the decoder only."""
        return {f"decoder/{name}": var for name, var in self.decoder.trainables.items()}

    def features(self, dlatents: tf.Tensor, noise: Callable | None = None) -> list[tf.Tensor]:
        """Return the features of dlatents [N, num_styles, dlatent_size], the decoder's input."""
        return self.generator.synthesis(dlatents, self.map_resolution, noise=noise,
                                        features=True)[1]

    def train_call(self, inputs: Sequence[tf.Tensor] | tf.Tensor) -> tuple[tf.Tensor, Means]:
        """Return the decoder's logits as during training, and {name: value to assign}."""
        logits, means = self.decoder.train_call(inputs)
        return logits, {f"decoder/{name}": value for name, value in means.items()}

    def synthesis(self, dlatents: tf.Tensor, resolution: int | None = None,
                  fade: float | tf.Tensor = 0.0, noise: Callable | None = None) -> tf.Tensor:
        """Return images float32 [N, R, R, 3 + C]: the generator's colours, the decoder's maps.

        Arguments are as for G_style.synthesis, but the only resolution is the decoder's.
        """
        if resolution not in (None, self.map_resolution):
            raise ValueError(f"network {self.name} draws maps at {self.map_resolution}, not "
                             f"{resolution}")
        images, features = self.generator.synthesis(dlatents, self.map_resolution, fade, noise,
                                                    features=True)
        return tf.concat([images[..., channels.RGB], self.decoder(features)], axis=-1)

    def __call__(self, latents: tf.Tensor, labels: tf.Tensor | None = None, *,
                 noise: Callable | None = None) -> tf.Tensor:
        """Return images [N, R, R, 3 + C] for latents [N, latent_size], without truncation."""
        return self.synthesis(self.mapping(latents, labels), noise=noise)


def decoded_config(generator: dict, num_classes: int, **own) -> dict:
    """Return the config of a DecodedGenerator over a G_style with the config `generator`.

    Args:
        own: options that only DecodedGeneratorOptions has.
    """
    return {**generator, "num_channels": channels.NUM_COLOURS + num_classes,
            "generator_channels": generator["num_channels"], **own}
