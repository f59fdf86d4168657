"""Count what a turn costs, from the configuration alone: multiply-adds and memory.

Convolutions (including blurs, which are depthwise convolutions) and matrix products are counted;
operations per pixel without a sum over fmaps (noise, bias, activation, norms, styles) are not.
Every layer is listed once, with the cost of one evaluation; its position decides how often a turn
evaluates it, forwards, backwards and twice backwards for R1.
"""

import time
from dataclasses import dataclass
from itertools import pairwise
from math import log2, prod

from training.config import TrainingConfig, num_fmaps
from training.gan.growing_network import use_fused_resampling

FLOAT_BYTES = {"fp32": 4, "bf16": 2}  # of an activation
BLUR_TAPS = 9
WORKING_TENSORS = 2  # of the widest layer, besides kept ones: fits what was measured
KERNEL4_TAPS = 16 * 9  # multiply-adds to make one 4x4 kernel from one 3x3 kernel


@dataclass(frozen=True)
class Pass:
    """Cost of one pass of images through D, in forward evaluations of a layer.

    Attributes:
        hidden, first, last: for hidden layers, FromRGB and the last dense layer.
        blur: for blurs, which have no weights.
    """

    hidden: int
    first: int
    last: int
    blur: int


# Forward; the gradient by the image, and that gradient's gradients by the score's gradient and by
# the weight; and the gradients by input and weight as in any pass. FromRGB's input, and the ones
# that Dense1's gradient starts from, are constants, which saves one gradient each.
PENALISED = Pass(hidden=6, first=5, last=5, blur=4)
SCORED = Pass(hidden=3, first=2, last=3, blur=2)  # forward, by input, by weight
OF_G_STEP = Pass(hidden=2, first=2, last=2, blur=2)  # forward, by input


@dataclass(frozen=True)
class Layer:
    """One convolution or dense layer, as evaluated for one image.

    Attributes:
        scope: name of its variables, as in the networks.
        macs: multiply-adds of one forward evaluation; the gradients by the input and by the weight
            cost as many each.
        shape: shape of its weight. bias: whether it has a bias.
        kernel_macs: multiply-adds to make the kernel, once per evaluation of a whole minibatch.
        blur_macs: multiply-adds of the blur that belongs to it.
        pixels: pixels of its output.
    """

    scope: str
    macs: int
    shape: tuple
    bias: bool = True
    kernel_macs: int = 0
    blur_macs: int = 0
    pixels: int = 1

    @property
    def outputs(self):
        """Return how many numbers its output has for one image."""
        return self.pixels * self.shape[-1]


def _conv(scope, kernel, fmaps_in, fmaps, resolution, blur=0):
    """Return a convolution whose output has resolution^2 pixels."""
    pixels = resolution ** 2
    return Layer(scope, kernel ** 2 * fmaps_in * fmaps * pixels, (kernel, kernel, fmaps_in, fmaps),
                 pixels=pixels, blur_macs=blur)


def _scaled_conv(scope, fmaps_in, fmaps, fine, out, fused, blur):
    """Return a 3x3 convolution after upscaling to, or before downscaling from, resolution `fine`.

    If fused, it has 16 taps for every pixel of the coarser side, else 9 for every pixel of the
    finer side.
    """
    taps = 16 * (fine // 2) ** 2 if fused else 9 * fine ** 2
    return Layer(scope, taps * fmaps_in * fmaps, (3, 3, fmaps_in, fmaps), pixels=out ** 2,
                 kernel_macs=KERNEL4_TAPS * fmaps_in * fmaps if fused else 0, blur_macs=blur)


def _dense(scope, size, fmaps, bias=True):
    return Layer(scope, size * fmaps, (size, fmaps), bias)


def _nf(config, stage):
    return num_fmaps(stage, config.fmap_base, config.fmap_decay, config.fmap_max)


def mapping_layers(config):
    """Return the layers of G's mapping network; one evaluation maps one latent."""
    size = config.latent_size
    return [_dense(f"G_mapping/Dense{i}", size, size) for i in range(config.mapping_layers)]


def synthesis_layers(config, num_channels, resolution=None, fading=False,
                     fused=use_fused_resampling):
    """Return the layers that G evaluates at a resolution (default: the final one), ToRGB last."""
    last = int(log2(resolution or config.resolution))
    layers = []
    if not config.const_input:
        layers.append(_dense("G_synthesis/4x4/Dense", config.latent_size, 16 * _nf(config, 1),
                             bias=False))
    name = "Const" if config.const_input else "Dense"
    layers += _style(config, f"G_synthesis/4x4/{name}", _nf(config, 1))
    layers += _epilogue_conv(config, _conv("G_synthesis/4x4/Conv", 3, _nf(config, 1),
                                           _nf(config, 1), 4))
    for r in range(3, last + 1):
        scope, size, fmaps = f"G_synthesis/{2 ** r}x{2 ** r}", 2 ** r, _nf(config, r - 1)
        blur = BLUR_TAPS * fmaps * size ** 2 if config.blur else 0
        layers += _epilogue_conv(config, _scaled_conv(
            f"{scope}/Conv0_up", _nf(config, r - 2), fmaps, size, size, fused(size, fmaps), blur))
        layers += _epilogue_conv(config, _conv(f"{scope}/Conv1", 3, fmaps, fmaps, size))
    for r in (last - 1, last) if fading and last > 2 else (last,):
        layers.append(_conv(f"G_synthesis/ToRGB_{2 ** r}", 1, _nf(config, r - 1), num_channels,
                            2 ** r))
    return layers


def _style(config, scope, fmaps):
    if not config.use_styles:
        return []
    return [_dense(f"{scope}/StyleMod", config.latent_size, 2 * fmaps)]


def _epilogue_conv(config, layer):
    return [layer, *_style(config, layer.scope, layer.shape[-1])]


def critic_layers(config, num_channels, resolution=None, fading=False, fused=use_fused_resampling):
    """Return the layers that D evaluates at a resolution (default: the final one), FromRGB first.
    """
    last = int(log2(resolution or config.resolution))
    layers = [_conv(f"FromRGB_{2 ** r}", 1, num_channels, _nf(config, r - 1), 2 ** r)
              for r in ((last, last - 1) if fading and last > 2 else (last,))]
    for r in range(last, 2, -1):
        scope, size, fmaps = f"{2 ** r}x{2 ** r}", 2 ** r, _nf(config, r - 1)
        blur = BLUR_TAPS * fmaps * size ** 2 if config.blur else 0
        layers.append(_conv(f"{scope}/Conv0", 3, fmaps, fmaps, size))
        layers.append(_scaled_conv(f"{scope}/Conv1_down", fmaps, _nf(config, r - 2), size,
                                   size // 2, fused(size, _nf(config, r - 2)), blur))
    fmaps = _nf(config, 1)
    appended = config.mbstd_num_features if config.mbstd_group_size > 1 else 0
    return [*layers, _conv("4x4/Conv", 3, fmaps + appended, fmaps, 4),
            _dense("4x4/Dense0", 16 * fmaps, _nf(config, 0)),
            _dense("4x4/Dense1", _nf(config, 0), 1)]


def turn_operations(config, critic, stage, fused=use_fused_resampling):
    """Return the multiply-adds per image of one turn: the D step with its penalties and the G step.

    Args:
        config: TrainingConfig with `resolution` set. Labels are not counted.
        critic: Critic.
        stage: Stage, for resolution, fade, G's channels, and the minibatch by which the cost of
            making 4x4 kernels is divided, as on one device.
        fused: rule that chooses fused layers; `lambda resolution, fmaps: False` is the plain
            algorithm.
    """
    place = dict(resolution=stage.resolution, fading=stage.fade > 0, fused=fused)
    mappings = 2 if config.style_mixing_prob else 1
    G = synthesis_layers(config, stage.channels, **place)
    D = critic_layers(config, critic.channels, **place)
    total = 0
    for i, layer in enumerate(mapping_layers(config)):
        total += mappings * layer.macs * (4 if i else 3)  # latents have no gradient
    # G: forward in the D step; forward, by input and by weight in the G step.
    total += sum(4 * layer.macs + 3 * layer.blur_macs for layer in G)
    for share, critic_pass in critic_passes(config):
        total += share * sum(_times(critic_pass, layer, D) * layer.macs
                             + critic_pass.blur * layer.blur_macs for layer in D)
    # Kernels are made once in each step, and differentiated once.
    makings = 3 * sum(layer.kernel_macs for layer in G + D)
    return total + makings / stage.minibatch


def _times(critic_pass, layer, layers):
    if layer.scope.startswith("FromRGB"):
        return critic_pass.first
    return critic_pass.last if layer is layers[-1] else critic_pass.hidden


def critic_passes(config):
    """Return [(share of the turns, Pass)] of the images that a turn sends through D."""
    lazy = 1 / config.r1_interval if config.r1_gamma else 0
    passes = [(1, OF_G_STEP), (lazy, PENALISED), (1 - lazy, SCORED),
              (1, PENALISED if config.r2_gamma else SCORED)]
    return passes + [(1, PENALISED)] if config.wgan_lambda else passes


def memory_parts(config, critic, stage, per_device_minibatch, precision="fp32",
                 accumulating=False):
    """Return {part: bytes} on one device at the peak of a turn; their sum is `turn_memory`.

    weights: G, Gs and every critic of the stage, float32. slots: Adam's two moments of all but Gs.
    gradients: of the larger network; four times if micro-batches are accumulated (the sum, the
    first, the newest, the mean). kernels: D's weights as used. activations: what the backward
    passes of the D step (or the G step, if that is more) keep. working: WORKING_TENSORS. staging:
    reals as bytes and as floats, and noise, which is drawn for the whole minibatch.
    """
    seen = dict(resolution=stage.resolution, fading=stage.fade > 0)
    sizes = parameters(config, stage.channels)
    critics = [parameters(config, c.channels)["D"] for c in stage.critics]
    trained = sizes["G"] + sum(critics)
    number = FLOAT_BYTES[precision]
    D = critic_layers(config, critic.channels, **seen)
    kept_G, noise = _kept_by_G(synthesis_layers(config, stage.channels, **seen), config, number)
    kept_D, kept_twice, widest = _kept_by_D(D, number)
    penalties = sum(bool(g) for g in (config.r1_gamma, config.r2_gamma, config.wgan_lambda))
    step_D = (3 if config.wgan_lambda else 2) * kept_D + penalties * kept_twice
    image = critic.channels * stage.resolution ** 2
    return {"weights": 4 * (trained + sizes["G"] + 2 * sizes["G_fixed"]), "slots": 8 * trained,
            "gradients": (4 if accumulating else 1) * 4 * max(sizes["G"], *critics),
            "kernels": number * sum(prod(layer.shape) * 16 // 9 if layer.kernel_macs
                                    else prod(layer.shape) for layer in D),
            "activations": per_device_minibatch * max(step_D, kept_G + kept_D),
            "working": per_device_minibatch * WORKING_TENSORS * widest,
            "staging": per_device_minibatch * image * (1 + 4 + 4) + stage.minibatch * noise}


def turn_memory(config, critic, stage, per_device_minibatch, precision="fp32", accumulating=False):
    """Return the bytes on one device at the peak of a turn (see `memory_parts`), without what
    libraries keep for themselves (workspaces, the CUDA context, gaps).

    Args:
        per_device_minibatch: images that go through the networks at once on one device.
        precision: 'fp32' or 'bf16', of the activations; variables are float32 in both.
        accumulating: whether a device's share of the minibatch takes several micro-batches.
    """
    return sum(memory_parts(config, critic, stage, per_device_minibatch, precision,
                            accumulating).values())


def _kept_by_G(layers, config, number):
    """Return the bytes that G's backward pass keeps for one image, and the bytes of its noise.

    Each number of a layer's output is kept after the activation, centred (float32), normalised and
    styled.
    """
    each = number * (1 + config.use_instance_norm + config.use_styles)
    each += 4 * config.use_instance_norm
    convs = [layer for layer in layers if "Conv" in layer.scope and "Style" not in layer.scope]
    kept = sum(each * layer.outputs for layer in convs)
    return kept, 4 * sum(layer.pixels for layer in convs) * config.use_noise


def _kept_by_D(layers, number):
    """Return, in bytes for one image: what D's backward pass keeps (after every activation and
    blur), what the second-order pass keeps in addition (a gradient at every convolution), and the
    widest tensor."""
    outputs = [layer.outputs for layer in layers]
    blurred = sum(layer.blur_macs // BLUR_TAPS for layer in layers)
    return number * (sum(outputs) + blurred), number * sum(outputs), number * max(outputs)


def matmul_rate(precision="fp32", seconds=1.0, size=2048):
    """Return the multiply-adds per second of products of [size, size] matrices on TensorFlow's
    device, for the fastest product within `seconds` after a first one."""
    import tensorflow as tf

    kind = {"fp32": tf.float32, "bf16": tf.bfloat16}[precision]
    a = tf.cast(tf.random.stateless_normal([size, size], [0, 0]), kind)
    product = tf.function(lambda: tf.reduce_sum(tf.cast(tf.matmul(a, a), tf.float32)))
    product().numpy()  # traces it, and allocates memory
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        begun = time.perf_counter()
        product().numpy()  # waits for the device
        best = min(best, time.perf_counter() - begun)
    return size ** 3 / best


def parameters(config: TrainingConfig, num_channels: int) -> dict[str, int]:
    """Count the numbers in the networks for images of `num_channels`, without building them.

    Returns {"G", "D": trained numbers, "G_fixed": numbers that are only copied, noise maps and the
    mean of w}.
    """
    final, latent = int(log2(config.resolution)), config.latent_size
    widths = [num_fmaps(r - 1, config.fmap_base, config.fmap_decay, config.fmap_max)
              for r in range(2, final + 1)]
    top = num_fmaps(0, config.fmap_base, config.fmap_decay, config.fmap_max)
    # Behind each of G's layers: the strength of the noise, and the style's affine map.
    epilogues = sum(2 * width * (config.use_noise + 2 * config.use_styles * (latent + 1))
                    for width in widths)
    begin = 17 if config.const_input else 16 * latent + 1  # input and bias of every fmap at 4x4
    appended = config.mbstd_num_features if config.mbstd_group_size > 1 else 0
    G = config.mapping_layers * (latent + 1) * latent + epilogues + widths[0] * begin
    D = (9 * (widths[0] + appended) + 1) * widths[0] + (16 * widths[0] + 1) * top + top + 1
    G += (9 * widths[0] + 1) * widths[0]
    for coarse, fine in pairwise(widths):
        G += (9 * coarse + 1) * fine + (9 * fine + 1) * fine
        D += (9 * fine + 1) * fine + (9 * fine + 1) * coarse
    noise = 2 * config.use_noise * sum(4 ** r for r in range(2, final + 1))
    return {"G": G + sum((width + 1) * num_channels for width in widths),
            "D": D + sum((num_channels + 1) * width for width in widths),
            "G_fixed": latent + noise}
