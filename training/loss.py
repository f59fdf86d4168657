"""Losses as pure functions of scores and of their gradients by images.

`score` is any function images [N, r, r, channels] -> scores [N, 1]. Images are at the current
resolution: where the network's final resolution is 2^octaves times larger, gradients are scaled to
those by a nearest-upscaled image.
"""

import tensorflow as tf

from dnnlib.util import UserError

WGAN_EPSILON = 0.001  # drift term: keeps scores of reals near zero (ProGAN, appendix A.1)

G_LOSSES = {
    "logistic_nonsaturating": lambda fake: tf.nn.softplus(-fake),  # GAN (2014), section 3
    "logistic_saturating": lambda fake: -tf.nn.softplus(fake),     # GAN (2014), equation 1
    "wgan": lambda fake: -fake,                                    # WGAN (2017), algorithm 1
    "hinge": lambda fake: -fake,                                   # SN-GAN (2018), equation 17
}

D_LOSSES = {
    "logistic": lambda real, fake: tf.nn.softplus(fake) + tf.nn.softplus(-real),
    "wgan": lambda real, fake: fake - real + WGAN_EPSILON * tf.square(real),
    "hinge": lambda real, fake: tf.maximum(0.0, 1 + fake) + tf.maximum(0.0, 1 - real),
}


def known_loss(losses, kind):
    """losses[kind]. Raises UserError that lists the known kinds."""
    if kind not in losses:
        raise UserError(f"unknown loss {kind!r}; known: {', '.join(sorted(losses))}")
    return losses[kind]


def score_and_gradient(score, images, wanted=True, scale=None):
    """scores [N, 1] and, if wanted (else None), d sum(scores) / d images, from one forward pass.

    scale: the sum is multiplied and the gradient divided by it, so that it survives float16.
    """
    if not wanted:
        return score(images), None
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        scores = score(images)
        total = tf.reduce_sum(scores)
        if scale is not None:
            total *= scale
    gradient = tape.gradient(total, images)
    return scores, gradient if scale is None else gradient / scale


def squared_norm(gradient, octaves=0):
    """Per sample [N]: squared norm of the gradient by the final-resolution image.

    That is the sum of squares at the current resolution / 4^octaves: each pixel of an image that is
    nearest-upscaled and averaged back bears a 4^-octaves part of its gradient.
    """
    return tf.reduce_sum(tf.square(gradient), axis=[1, 2, 3]) / 4.0 ** octaves


def gradient_penalty(score, reals, fakes, mix, octaves=0, target=1.0, scale=None):
    """WGAN-GP on lerp(reals, fakes, mix): ((norm - target) / target)^2 (Gulrajani et al. 2017,
    equation 3).

    Args:
        mix: [N, 1, 1, 1], uniform in [0, 1]. scale: see `score_and_gradient`.

    Returns:
        penalty [N], norms [N], scores of the mixed images [N, 1].
    """
    scores, gradient = score_and_gradient(score, reals + (fakes - reals) * mix, scale=scale)
    norms = tf.sqrt(squared_norm(gradient, octaves))
    return tf.square((norms - target) / target), norms, scores


def discriminator_loss(score, reals, fakes, *, kind="logistic", r1_gamma=10.0, r2_gamma=0.0,
                       wgan_lambda=0.0, mix=None, octaves=0, gradient_scale=None):
    """Loss of D per sample: D_LOSSES[kind] + r1_gamma / 2 * R1 + r2_gamma / 2 * R2 + wgan_lambda *
    gradient penalty.

    R1 and R2 are squared_norm of the gradient at reals and fakes (Mescheder et al. 2018, section
    4.1). Reals and fakes are scored apart, so that their minibatch statistics do not mix; each is
    scored once.

    Args:
        mix: [N, 1, 1, 1], uniform in [0, 1]; needed where wgan_lambda is not zero (WGAN-GP: 10).
        octaves: floor(lod), log2 of the final resolution over that of the images.
        gradient_scale: see `score_and_gradient`.

    Returns:
        loss [N], {"Loss/scores/real": [N, 1], ...}. Raises UserError for an unknown kind.
    """
    gan_loss = known_loss(D_LOSSES, kind)
    if wgan_lambda and mix is None:
        raise ValueError("a gradient penalty needs mix: [N, 1, 1, 1], uniform in [0, 1]")
    real_scores, real_gradient = score_and_gradient(score, reals, r1_gamma, gradient_scale)
    fake_scores, fake_gradient = score_and_gradient(score, fakes, r2_gamma, gradient_scale)
    loss = gan_loss(real_scores, fake_scores)[:, 0]
    terms = {"Loss/scores/real": real_scores, "Loss/scores/fake": fake_scores}
    if r1_gamma:
        terms["Loss/r1_penalty"] = squared_norm(real_gradient, octaves)
        loss += terms["Loss/r1_penalty"] * (r1_gamma * 0.5)
    if r2_gamma:
        terms["Loss/r2_penalty"] = squared_norm(fake_gradient, octaves)
        loss += terms["Loss/r2_penalty"] * (r2_gamma * 0.5)
    if wgan_lambda:
        penalty, norms, mixed_scores = gradient_penalty(
            score, reals, fakes, mix, octaves, scale=gradient_scale)
        terms.update({"Loss/scores/mixed": mixed_scores, "Loss/mixed_norms": norms})
        loss += penalty * wgan_lambda
    if kind == "wgan":
        terms["Loss/epsilon_penalty"] = tf.square(real_scores)
    return loss, terms


def generator_loss(score, fakes, *, kind="logistic_nonsaturating"):
    """Loss of G per sample, [N]. Raises UserError for an unknown kind."""
    return known_loss(G_LOSSES, kind)(score(fakes))[:, 0]
