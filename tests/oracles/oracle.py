"""G, D and their losses once more: float64, plain, in the official release's fixed-size form.

Shares no code with the program and is written differently: channels first, every resolution
computed and blended by lod (the official 'linear' structure), images always of the final size,
convolutions as sums of shifted products, groups and maps by loops. It is slow and correct:
test_oracle.py first compares it with the reference vectors, and then the program with it.

`v` is {official name without 'G/' or 'D/': float64 tensor}, `c` {official keyword: value}. Sources:
StyleGAN (Karras et al. 2019), ProGAN (Karras et al. 2018), WGAN-GP (Gulrajani et al. 2017).
"""

import numpy as np
import tensorflow as tf

ROOT2 = np.sqrt(2.0)


# ---------------------------------------------------------------------------- parts


def weight(v, c, scope, gain=ROOT2, lrmul=1.0):
    """Return the weight in use: times he_std, unless initialisation included it (no use_wscale)."""
    stored = v[f"{scope}/weight"]
    fan_in = 1.0
    for size in stored.shape[:-1]:
        fan_in *= size
    return stored * (gain / fan_in ** 0.5 * lrmul if c["use_wscale"] else lrmul)


def bias(v, scope, lrmul=1.0):
    """Return the bias as [1, fmaps, 1, 1]."""
    return tf.reshape(v[f"{scope}/bias"] * lrmul, [1, -1, 1, 1])


def conv(x, w):
    """Correlate zero-padded x [N, C, H, W] with w [k, k, C, D], k odd."""
    size, (height, width) = w.shape[0], x.shape[2:]
    edge = size // 2
    padded = tf.pad(x, [[0, 0], [0, 0], [edge, edge], [edge, edge]])
    shifted = [padded[:, :, i:i + height, j:j + width] for i in range(size) for j in range(size)]
    taps = tf.reshape(w, [size * size, *w.shape[2:]])
    return tf.einsum("knchw,kcd->ndhw", tf.stack(shifted), taps)


def upscale(x):
    """Repeat every pixel 2x2."""
    n, fmaps, h, w = x.shape
    x = tf.reshape(x, [n, fmaps, h, 1, w, 1]) * tf.ones([1, 1, 1, 2, 1, 2], x.dtype)
    return tf.reshape(x, [n, fmaps, 2 * h, 2 * w])


def up_conv(x, w, resolution):
    """Upscale to `resolution` and convolve, unfused everywhere (tests replace this function)."""
    return conv(upscale(x), w)


def downscale(x):
    """Average 2x2 pixels."""
    return (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4


def blur(x, c):
    """Filter with [1, 2, 1] / 4 along both sides, zeros outside."""
    if not c["blur"]:
        return x
    for axis in (2, 3):
        pads = [[1, 1] if a == axis else [0, 0] for a in range(4)]
        low, middle, high = (
            tf.gather(tf.pad(x, pads), np.arange(x.shape[axis]) + i, axis=axis) for i in range(3))
        x = (low + 2 * middle + high) / 4
    return x


def activate(x, kind):
    """Apply leaky ReLU with slope 0.2, or ReLU."""
    return tf.where(x > 0, x, x * {"lrelu": 0.2, "relu": 0.0}[kind])


def normalised(x, axes):
    """Divide by the root mean square over `axes`."""
    return x / tf.sqrt(tf.reduce_mean(x * x, axes, keepdims=True) + 1e-8)


def blend(fine, coarse, t):
    """Blend: fine for t <= 0, coarse for t >= 1."""
    t = min(max(t, 0.0), 1.0)
    return (1 - t) * fine + t * coarse


# ---------------------------------------------------------------------------- generator


def mapping(v, c, latents, labels=None):
    """Map latents [N, latent_size] to w [N, dlatent_size]."""
    x = latents
    if labels is not None:
        x = tf.concat([x, labels @ v["G_mapping/LabelConcat/weight"]], 1)
    if c["normalize_latents"]:
        x = normalised(x, [1])
    for i in range(c["mapping_layers"]):
        scope, lrmul = f"G_mapping/Dense{i}", c["mapping_lrmul"]
        x = x @ weight(v, c, scope, lrmul=lrmul) + v[f"{scope}/bias"] * lrmul
        x = activate(x, c["mapping_nonlinearity"])
    return x


def synthesis(v, c, dlatents, lod=0.0):
    """Map dlatents [N, layers, dlatent_size] to images [N, channels, R, R]; the noise is fixed."""
    depth = int(np.log2(c["resolution"]))

    def to_rgb(x, r):
        scope = f"G_synthesis/ToRGB_lod{depth - r}"
        return conv(x, weight(v, c, scope, gain=1)) + bias(v, scope)

    count = dlatents.shape[0]
    if c["const_input"]:
        scope = "G_synthesis/4x4/Const"
        x = tf.concat([v[f"{scope}/const"]] * count, 0)
    else:
        scope = "G_synthesis/4x4/Dense"
        x = tf.reshape(dlatents[:, 0] @ weight(v, c, scope, ROOT2 / 4), [count, -1, 4, 4])
    x = epilogue(v, c, scope, x, 0, dlatents)
    scope = "G_synthesis/4x4/Conv"
    x = epilogue(v, c, scope, conv(x, weight(v, c, scope)), 1, dlatents)
    images = to_rgb(x, 2)
    for r in range(3, depth + 1):
        up, conv1 = (f"G_synthesis/{2 ** r}x{2 ** r}/{name}" for name in ("Conv0_up", "Conv1"))
        x = blur(up_conv(x, weight(v, c, up), 2 ** r), c)
        x = epilogue(v, c, up, x, 2 * r - 4, dlatents)
        x = epilogue(v, c, conv1, conv(x, weight(v, c, conv1)), 2 * r - 3, dlatents)
        images = blend(to_rgb(x, r), upscale(images), lod - (depth - r))
    return images


def epilogue(v, c, scope, x, layer, dlatents):
    """Apply noise, bias, activation, norms and style."""
    if c["use_noise"]:
        strength = tf.reshape(v[f"{scope}/Noise/weight"], [1, -1, 1, 1])
        x += v[f"G_synthesis/noise{layer}"] * strength
    x = activate(x + bias(v, scope), c["nonlinearity"])
    if c["use_pixel_norm"]:
        x = normalised(x, [1])
    if c["use_instance_norm"]:
        x = normalised(x - tf.reduce_mean(x, [2, 3], keepdims=True), [2, 3])
    if c["use_styles"]:
        style = dlatents[:, layer] @ weight(v, c, f"{scope}/StyleMod", gain=1)
        scale, shift = tf.split((style + v[f"{scope}/StyleMod/bias"])[:, :, None, None], 2, axis=1)
        x = x * (scale + 1) + shift
    return x


def generator(v, c, latents, labels=None, lod=0.0):
    """Map latents to images, with the same w in every layer."""
    w = mapping(v, c, latents, labels)
    layers = 2 * int(np.log2(c["resolution"])) - 2
    return synthesis(v, c, tf.stack([w] * layers, 1), lod)


# ---------------------------------------------------------------------------- discriminator


def discriminator(v, c, images, labels=None, lod=0.0):
    """Score images [N, channels, R, R] of the final size: [N]."""
    depth = int(np.log2(c["resolution"]))

    def layer(x, scope):
        return activate(conv(x, weight(v, c, scope)) + bias(v, scope), c["nonlinearity"])

    x = layer(images, "FromRGB_lod0")
    for r in range(depth, 2, -1):
        conv0, down = (f"{2 ** r}x{2 ** r}/{name}" for name in ("Conv0", "Conv1_down"))
        x = downscale(conv(blur(layer(x, conv0), c), weight(v, c, down)))
        x = activate(x + bias(v, down), c["nonlinearity"])
        images = downscale(images)
        x = blend(x, layer(images, f"FromRGB_lod{depth - r + 1}"), lod - (depth - r))
    if c["mbstd_group_size"] > 1:
        x = append_stddev(x, c["mbstd_group_size"], c["mbstd_num_features"])
    x = tf.reshape(layer(x, "4x4/Conv"), [x.shape[0], -1])
    x = activate(x @ weight(v, c, "4x4/Dense0") + v["4x4/Dense0/bias"], c["nonlinearity"])
    scores = x @ weight(v, c, "4x4/Dense1", gain=1) + v["4x4/Dense1/bias"]
    return scores[:, 0] if labels is None else tf.reduce_sum(scores * labels, 1)


def append_stddev(x, group_size, num_features):
    """Append `num_features` constant maps: how much samples m, m + M, m + 2M, ... differ."""
    count, fmaps, height, width = x.shape
    groups = count // min(group_size, count)
    share = fmaps // num_features
    maps = []
    for sample in range(count):
        group = x[sample % groups::groups]
        spread = tf.sqrt(tf.math.reduce_variance(group, 0) + 1e-8)  # [fmaps, height, width]
        means = [tf.reduce_mean(spread[f * share:(f + 1) * share]) for f in range(num_features)]
        maps.append(tf.stack(means)[:, None, None] * tf.ones([1, height, width], x.dtype))
    return tf.concat([x, tf.stack(maps)], 1)


# ---------------------------------------------------------------------------- losses


def d_loss(score, reals, fakes, kind, r1_gamma=0.0, r2_gamma=0.0, wgan_lambda=0.0, mix=None):
    """Return D's loss per sample on images of the final size; `score`: images -> [N]."""
    real, fake = score(reals), score(fakes)
    value = {"logistic": lambda: -tf.math.log_sigmoid(real) - tf.math.log_sigmoid(-fake),
             "wgan": lambda: fake - real + 0.001 * real * real,
             "hinge": lambda: tf.nn.relu(1 + fake) + tf.nn.relu(1 - real)}[kind]()
    if r1_gamma:
        value += r1_gamma / 2 * squared_slope(score, reals)
    if r2_gamma:
        value += r2_gamma / 2 * squared_slope(score, fakes)
    if wgan_lambda:
        mixed = reals * (1 - mix) + fakes * mix
        value += wgan_lambda * (tf.sqrt(squared_slope(score, mixed)) - 1) ** 2
    return value


def squared_slope(score, images):
    """Return |d score / d image|^2 per sample."""
    with tf.GradientTape() as tape:
        tape.watch(images)
        scores = score(images)
    return tf.reduce_sum(tape.gradient(scores, images) ** 2, [1, 2, 3])


def g_loss(score, fakes, kind):
    """Return G's loss per sample; log D and log(1 - D) with D = sigmoid(score)."""
    fake = score(fakes)
    return {"logistic_nonsaturating": lambda: -tf.math.log_sigmoid(fake),
            "logistic_saturating": lambda: tf.math.log_sigmoid(-fake),
            "wgan": lambda: -fake, "hinge": lambda: -fake}[kind]()
