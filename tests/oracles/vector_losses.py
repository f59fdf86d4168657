"""Checks of losses, gradients and R1 against reference vectors."""

import re

import numpy as np
import tensorflow as tf

from tests.oracles.vector_files import (
    elements,
    enlarge,
    growth,
    labels_or_none,
    lod_of,
    losses,
    nchw,
    nhwc,
    norms,
    number,
    shrink,
)
from training import loss

# Relative changes of the latents. Where a value is within rounding of a leaky ReLU's zero, the
# processor decides between two gradients: gradients agree if they do at one of these latents.
MOVES = (0.0, 1e-6, -1e-6)


def loss_options(name):
    """Return the keywords of our discriminator_loss or generator_loss for a loss's official name.

    Official defaults: gradient penalty weight 10 for WGAN-GP and hinge.
    """
    if match := re.fullmatch(r"D_logistic_simplegp(?:_r1_([\dp]+))?(?:_r2_([\dp]+))?", name):
        r1, r2 = (number(g or "0") for g in match.groups())
        return {"kind": "logistic", "r1_gamma": r1, "r2_gamma": r2}
    match = re.fullmatch(r"([GD])_(\w+?)(_gp)?", name)
    options = {"kind": match[2]}
    if match[1] == "D":
        options.update(r1_gamma=0.0, wgan_lambda=10.0 if match[3] else 0.0)
    return options


class LossAt:
    """Losses of the stored networks on the stored inputs at one lod."""

    def __init__(self, vectors, lod):
        self.G, self.D = vectors.networks()
        arrays = vectors.load(f"{vectors.tag}_loss")
        self.lod_floor, self.growth = int(lod), growth(self.D, lod)
        self.latents, self.mix = (tf.constant(arrays[k]) for k in ("latents", "mixing_factors"))
        self.reals = tf.constant(shrink(nhwc(arrays["reals"]), self.lod_floor))
        self.labels = {"D": labels_or_none(arrays["labels_reals"]),
                       "G": labels_or_none(arrays["labels_G_loss"])}

    def __call__(self, name, move=0.0):
        """Return loss per sample, terms, {variable: gradient of the mean} for an official name, at
        latents changed by `move`, relatively."""
        who, options = name[0], loss_options(name)
        network, labels = (self.G, self.D)[who == "D"], self.labels[who]

        def score(images):
            return self.D(images, labels, **self.growth)

        with tf.GradientTape() as tape:
            fakes = self.G(self.latents * (1 + move), labels, **self.growth)
            if who == "G":
                value, terms = loss.generator_loss(score, fakes, **options), {}
            else:
                value, terms = loss.discriminator_loss(
                    score, self.reals, tf.stop_gradient(fakes), mix=self.mix,
                    lod_floor=self.lod_floor, **options)
            mean = tf.reduce_mean(value)
        grads = tape.gradient(mean, list(network.trainables.values()))
        return value, terms, dict(zip(network.trainables, grads))


def check_losses(vectors):
    """Check losses, reported terms, norms of gradients; and full gradients if there are files."""
    arrays = vectors.load(f"{vectors.tag}_loss")
    if arrays is None:
        return
    for lod_name in sorted({k.split("/")[0] for k in arrays if k.startswith("lod")}):
        at = LossAt(vectors, lod_of(lod_name))
        for name in sorted({k.split("/")[1] for k in arrays if k.startswith(f"{lod_name}/")}):
            value, terms, grads = at(name)
            item = f"{lod_name}/{name}"
            yield _compare_loss(item, value, arrays[f"{item}/loss"])
            yield from _compare_terms(item, terms, arrays)
            full = vectors.load(f"{vectors.tag}_grads_{name}_{lod_name}") or {}
            for move in MOVES:
                compared = _compare_gradients(item, at(name, move)[2] if move else grads, arrays,
                                              full)
                if all(row.error <= row.tolerance for row in compared):
                    break
            yield from compared


def _compare_gradients(item, grads, arrays, full):
    """Compare the norms of all gradients, and the full gradients that are in `full`."""
    lod_name, name = item.split("/")
    compared = []
    for var in grads:
        ours = 0.0 if grads[var] is None else np.linalg.norm(grads[var])
        theirs = arrays[f"{item}/gradnorm/{var}"]
        compared.append(norms("norms of gradients", f"{item}/{var}", ours, theirs))
    return compared + [norms(f"gradients, {name}", f"{lod_name}/{var}", grads[var], theirs)
                       for var, theirs in full.items()]


def _compare_loss(item, value, theirs):
    """Compare means if `theirs` is [N, N]: scores [N, 1] + penalties [N], broadcast."""
    if theirs.shape[1] > 1:
        return losses("losses", item, np.mean(value), theirs.mean())
    return losses("losses", item, value, theirs[:, 0])


def _compare_terms(item, terms, arrays):
    names = {k.split("/summary/")[1] for k in arrays if k.startswith(f"{item}/summary/")}
    if names != set(terms):
        raise ValueError(f"{item}: we report {sorted(terms)}, reference {sorted(names)}")
    for name in sorted(names):
        compare = losses if "norm" in name or "r1" in name or "r2" in name else elements
        theirs = arrays[f"{item}/summary/{name}"]
        yield compare(f"terms, {name}", f"{item}/{name}", terms[name], theirs)


def check_r1(vectors):
    """Check R1 alone: penalty, gradient by the image, second derivative by every variable."""
    arrays = vectors.load(f"{vectors.tag}_R1")
    if arrays is None or vectors.load(f"{vectors.tag}_loss") is None:
        return
    for lod_name in sorted({k.split("/")[0] for k in arrays}):
        at = LossAt(vectors, lod_of(lod_name))
        with tf.GradientTape() as tape:
            scores, gradient = loss.score_and_gradient(
                lambda x, at=at: at.D(x, at.labels["D"], **at.growth), at.reals)
            penalty = loss.squared_norm(gradient, at.lod_floor)
            mean = tf.reduce_mean(penalty)
        grads = tape.gradient(mean, at.D.trainables)
        yield elements("R1, scores", lod_name, scores, arrays[f"{lod_name}/real_scores"])
        yield losses("R1, penalty", lod_name, penalty, arrays[f"{lod_name}/r1_penalty"])
        theirs = arrays[f"{lod_name}/dscore_dimage"]
        ours = nchw(enlarge(gradient, at.lod_floor))[:len(theirs)] / 4 ** at.lod_floor
        yield norms("R1, gradient by image", lod_name, ours, theirs)
        for var in grads:
            theirs = arrays[f"{lod_name}/grad_mean_r1/{var}"]
            yield norms("R1, gradients by variable", f"{lod_name}/{var}", grads[var], theirs)
