"""Losses as pure functions of scores and of their gradients with respect to images.

`score` is any function images [N, r, r, channels] -> scores [N, 1]. Images are at the current
resolution. If the network's final resolution is 2^lod_floor times larger, penalties are divided by
4^lod_floor, so that they equal those with respect to the final-resolution image.
"""

from collections.abc import Callable

import tensorflow as tf

WGAN_EPSILON = 0.001  # drift term: keeps scores of reals near zero (ProGAN, appendix A.1)

# The names are those of config.G_LOSSES and config.D_LOSSES.
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


def score_and_gradient(score: Callable, images: tf.Tensor,
                       with_gradient: bool = True) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Return scores [N, 1] and d sum(scores) / d images (or None), from one forward pass."""
    if not with_gradient:
        return score(images), None
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        scores = score(images)
        total = tf.reduce_sum(scores)
    return scores, tape.gradient(total, images)


def squared_norm(gradient: tf.Tensor, lod_floor: int = 0) -> tf.Tensor:
    """Return the squared norm of every sample's gradient w.r.t. the final-resolution image, [N].

    This is the sum of squares at the current resolution / 4^lod_floor: in the upscaled image, the
    gradient of each current pixel is spread evenly over 4^lod_floor pixels.
    """
    return tf.reduce_sum(tf.square(gradient), axis=[1, 2, 3]) / 4.0 ** lod_floor


def gradient_penalty(score: Callable, reals: tf.Tensor, fakes: tf.Tensor, mix: tf.Tensor,
                     lod_floor: int = 0) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Compute WGAN-GP's penalty on lerp(reals, fakes, mix): (norm - 1)^2 (Gulrajani et al. 2017,
    equation 3).

    Args:
        mix: [N, 1, 1, 1], uniform in [0, 1].

    Returns:
        penalty [N], norms [N], scores of the mixed images [N, 1].
    """
    scores, gradient = score_and_gradient(score, reals + (fakes - reals) * mix)
    norms = tf.sqrt(squared_norm(gradient, lod_floor))
    return tf.square(norms - 1), norms, scores


def discriminator_loss(score: Callable, reals: tf.Tensor, fakes: tf.Tensor, *,
                       kind: str = "logistic", r1_gamma: float = 10.0, r2_gamma: float = 0.0,
                       wgan_lambda: float = 0.0, mix: tf.Tensor | None = None,
                       lod_floor: int = 0) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Compute the loss of D per sample: D_LOSSES[kind] + r1_gamma / 2 * R1 + r2_gamma / 2 * R2 +
    wgan_lambda * gradient penalty.

    R1 and R2 are squared_norm of the gradient at reals and fakes (Mescheder et al. 2018, section
    4.1). Reals and fakes are scored separately, so that their minibatch statistics do not mix, and
    only once.

    Args:
        mix: [N, 1, 1, 1], uniform in [0, 1]; needed if wgan_lambda is not zero (WGAN-GP: 10).
        lod_floor: log2 of the final resolution over that of the images.

    Returns:
        loss [N], and what to report: {"Loss/scores/real": [N, 1], ...}.
    """
    real_scores, real_gradient = score_and_gradient(score, reals, with_gradient=r1_gamma > 0)
    fake_scores, fake_gradient = score_and_gradient(score, fakes, with_gradient=r2_gamma > 0)
    loss = D_LOSSES[kind](real_scores, fake_scores)[:, 0]
    terms = {"Loss/scores/real": real_scores, "Loss/scores/fake": fake_scores}
    # Penalties, in the order of the docstring's sum.
    if r1_gamma:
        terms["Loss/r1_penalty"] = squared_norm(real_gradient, lod_floor)
        loss += terms["Loss/r1_penalty"] * (r1_gamma * 0.5)
    if r2_gamma:
        terms["Loss/r2_penalty"] = squared_norm(fake_gradient, lod_floor)
        loss += terms["Loss/r2_penalty"] * (r2_gamma * 0.5)
    if wgan_lambda:
        penalty, norms, mixed_scores = gradient_penalty(score, reals, fakes, mix, lod_floor)
        terms |= {"Loss/scores/mixed": mixed_scores, "Loss/mixed_norms": norms}
        loss += penalty * wgan_lambda
    if kind == "wgan":
        terms["Loss/epsilon_penalty"] = tf.square(real_scores)
    return loss, terms


def generator_loss(score: Callable, fakes: tf.Tensor, *,
                   kind: str = "logistic_nonsaturating") -> tf.Tensor:
    """Compute the loss of G per sample, [N]."""
    return G_LOSSES[kind](score(fakes))[:, 0]
