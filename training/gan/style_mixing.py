"""Style mixing: coarse layers of an image by one w, fine layers by another.

Source: StyleGAN (Karras et al. 2019), section 3.1.
"""

from typing import TYPE_CHECKING

import tensorflow as tf

from dnnlib.tflib.distribute import Draws

if TYPE_CHECKING:
    from training.networks_stylegan import G_style


def mix_randomly(G: "G_style", dlatents: tf.Tensor, labels: tf.Tensor | None, draws: Draws,
               purpose: str, lod_floor: int, probability: float) -> tf.Tensor:
    """Return [N, layers, size]: the layers of `dlatents` from a random cut on replaced by those of
    a second w with the same labels.

    This is done for the whole minibatch at once, with `probability`; the cut is among the layers
    that reach an image 2^lod_floor times smaller than the final one. `purpose` names the draws.
    """
    if probability == 0:
        return dlatents
    others = G.mapping(draws.normal(f"{purpose}/mixing_latents", [G.latent_size]), labels)
    layers = active_layers(G.num_layers, lod_floor)
    cut = draws.shared_integer(f"{purpose}/mixing_cut", 1, layers)
    mixes = draws.shared_uniform(f"{purpose}/mixing") < probability
    return splice_styles(dlatents, others, tf.where(mixes, cut, layers))


def active_layers(num_layers: int, lod_floor: int) -> int:
    """Return how many layers of w reach an image 2^lod_floor times smaller than the final one."""
    return num_layers - 2 * lod_floor


def splice_styles(dlatents: tf.Tensor, others: tf.Tensor, cut: tf.Tensor | int) -> tf.Tensor:
    """Return [N, layers, size]: layers of `dlatents` below layer `cut`, of `others` from it on."""
    return tf.where(tf.range(dlatents.shape[1])[None, :, None] < cut, dlatents, others)
