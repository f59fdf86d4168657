"""The networks and losses against oracle.py, and that oracle against the official numbers.

The oracle is float64 and in the official fixed-size form; the program is float32 at the current
resolution, with fused layers. So they only agree if both are correct: values, gradients with
respect to every variable, and R1's second derivatives, for every option of the official networks.
"""

import numpy as np
import pytest
import tensorflow as tf

from dnnlib.tflib.network import build
from tests.oracles import oracle
from tests.oracles.vector_files import Vectors, enlarge, growth, lod_of, nchw, network_configs
from training import loss, networks_stylegan  # noqa: F401 (registers the networks)

SMALL = {"num_channels": 16, "resolution": 16, "fmap_base": 64, "fmap_max": 12}
STYLE = {"latent_size": 10, "dlatent_size": 14, "mapping_layers": 3, "mapping_fmaps": 11}
MINIBATCH = 8
LODS = (0.0, 0.4, 1.0, 1.7, 2.0)
PROGAN = {"use_styles": False, "const_input": False, "use_noise": False, "use_pixel_norm": True,
          "use_instance_norm": False, "blur": False}

G_OPTIONS = {
    "default": {}, "labels": {"label_size": 3}, "3 channels": {"num_channels": 3},
    "no styles": {"use_styles": False, "const_input": False},
    "no noise": {"use_noise": False}, "dense input": {"const_input": False},
    "pixel norm": {"use_pixel_norm": True}, "no instance norm": {"use_instance_norm": False},
    "ReLU": {"nonlinearity": "relu", "mapping_nonlinearity": "relu"},
    "He": {"use_wscale": False}, "no blur": {"blur": False},
    "fmap_decay": {"fmap_base": 20, "fmap_decay": 0.5},
    "depth 0": {"mapping_layers": 0, "dlatent_size": 10},
    "depth 0 with labels": {"mapping_layers": 0, "dlatent_size": 20, "label_size": 3},
    "depth 1": {"mapping_layers": 1}, "lrmul 0.5": {"mapping_lrmul": 0.5},
    "latents as they are": {"normalize_latents": False},
    "ProGAN": {**PROGAN, "label_size": 3, "mapping_layers": 0, "dlatent_size": 20},
    "dense, ReLU, He, lrmul 0.1": {"const_input": False, "nonlinearity": "relu",
                                   "use_wscale": False, "mapping_lrmul": 0.1, "label_size": 3},
}
D_OPTIONS = {
    "default": {}, "labels": {"label_size": 3}, "3 channels": {"num_channels": 3},
    "ReLU": {"nonlinearity": "relu"}, "He": {"use_wscale": False}, "no blur": {"blur": False},
    "fmap_decay": {"fmap_base": 20, "fmap_decay": 0.5}, "groups of 2": {"mbstd_group_size": 2},
    "without groups": {"mbstd_group_size": 1}, "3 features": {"mbstd_num_features": 3},
    "one large group": {"mbstd_group_size": 32},
    "all at once": {"nonlinearity": "relu", "use_wscale": False, "blur": False, "label_size": 3,
                    "mbstd_group_size": 2, "mbstd_num_features": 2},
}
FAST_D_OPTIONS = ("default", "all at once")
# "ProGAN" and "dense, ReLU, He, lrmul 0.1" have these together.
SLOW_G_OPTIONS = ("no styles", "no noise", "dense input", "pixel norm", "no instance norm", "ReLU",
                  "He", "no blur", "depth 0", "depth 0 with labels", "lrmul 0.5")
G_CASES = [pytest.param(name, lod, marks=pytest.mark.slow if name in SLOW_G_OPTIONS else ())
           for name in G_OPTIONS for lod in (LODS if name == "default" else (0.4,))]
LOSSES = {
    "logistic": {"kind": "logistic", "r1_gamma": 0.0},
    "logistic, R1": {"kind": "logistic", "r1_gamma": 10.0},
    "logistic, R1, R2": {"kind": "logistic", "r1_gamma": 3.0, "r2_gamma": 5.0},
    "hinge": {"kind": "hinge", "r1_gamma": 0.0},
    "hinge, R2": {"kind": "hinge", "r1_gamma": 0.0, "r2_gamma": 2.0},
    "WGAN": {"kind": "wgan", "r1_gamma": 0.0},
    "WGAN-GP": {"kind": "wgan", "r1_gamma": 0.0, "wgan_lambda": 10.0},
    "hinge, gradient penalty": {"kind": "hinge", "r1_gamma": 0.0, "wgan_lambda": 10.0},
}
LOSS_CASES = [pytest.param("logistic, R1", option, 0.4, marks=() if option in FAST_D_OPTIONS
                           else pytest.mark.slow) for option in D_OPTIONS]
SLOW_LOSSES = ("hinge, R2", "hinge, gradient penalty")  # the other penalties have the same code
LOSS_CASES += [pytest.param(name, "default", 1.7, marks=pytest.mark.slow if name in SLOW_LOSSES
                            else ()) for name in LOSSES]
LOSS_CASES += [pytest.param(name, "default", 0.0, marks=pytest.mark.slow) for name in LOSSES]
LOSS_CASES += [pytest.param("logistic, R1, R2", "default", 2.0, marks=pytest.mark.slow),
               ("WGAN-GP", "labels", 1.0)]


# ---------------------------------------------------------------------------- the oracle itself


@pytest.fixture(scope="module")
def official(shared):
    """Return (folder, {'G', 'D': (variables, configuration)}) of the stored official networks."""
    folder = Vectors(shared / "reference", "c3")
    arrays = folder.load("c3_vars")
    networks = {}
    for kind, name, keywords in network_configs(arrays):
        v = {k[2:]: float64(a) for k, a in arrays.items() if k.startswith(f"{name}/")}
        networks[name] = v, build(kind, name, keywords).config
    return folder, networks


def test_oracle_draws_and_scores_the_official_images(official):
    folder, networks = official
    arrays = folder.load("c3_G")
    w = oracle.mapping(*networks["G"], float64(arrays["latents"]))
    np.testing.assert_allclose(tf.stack([w] * 8, 1), arrays["dlatents"], rtol=1e-4, atol=1e-4)
    names = [n for n in arrays if n.startswith("images_lod") and n.endswith("_linear")]
    assert len(names) == 6
    for name in names:
        ours = oracle.synthesis(*networks["G"], float64(arrays["dlatents"]), lod_of(name))
        np.testing.assert_allclose(ours, arrays[name], rtol=1e-4, atol=1e-4, err_msg=name)
    arrays = folder.load("c3_D")
    names = [n for n in arrays if n.startswith("scores_lod") and n.endswith("_linear")]
    assert len(names) == 6
    for name in names:
        ours = oracle.discriminator(*networks["D"], float64(arrays["images"]), None, lod_of(name))
        np.testing.assert_allclose(ours, arrays[name][:, 0], rtol=1e-5, atol=1e-5, err_msg=name)


def official_losses(official, lod):
    """Return (arrays of c3_loss, their prefix, oracle's score, fakes, reals)."""
    folder, networks = official
    arrays = folder.load("c3_loss")

    def score(images):
        return oracle.discriminator(*networks["D"], images, None, lod)

    fakes = oracle.generator(*networks["G"], float64(arrays["latents"]), None, lod)
    return arrays, f"lod{lod:g}".replace(".", "p"), score, fakes, float64(arrays["reals"])


@pytest.mark.slow
@pytest.mark.parametrize("lod", [0.0, 1.7])
def test_oracle_has_the_official_losses(official, lod):
    arrays, key, score, fakes, reals = official_losses(official, lod)
    for kind in ("logistic_nonsaturating", "logistic_saturating", "wgan"):
        value = oracle.g_loss(score, fakes, kind)
        stored = arrays[f"{key}/G_{kind}/loss"][:, 0]
        np.testing.assert_allclose(value, stored, rtol=1e-5, atol=1e-6)
    mix = float64(arrays["mixing_factors"])
    for name, options in {
            "logistic": {"kind": "logistic"}, "wgan": {"kind": "wgan"}, "hinge": {"kind": "hinge"},
            "logistic_simplegp_r1_10_r2_5": {"kind": "logistic", "r1_gamma": 10, "r2_gamma": 5},
            "wgan_gp": {"kind": "wgan", "wgan_lambda": 10, "mix": mix},
            "hinge_gp": {"kind": "hinge", "wgan_lambda": 10, "mix": mix}}.items():
        value = tf.reduce_mean(oracle.d_loss(score, reals, fakes, **options))
        np.testing.assert_allclose(value, arrays[f"{key}/D_{name}/loss"].mean(), rtol=1e-5)


@pytest.mark.slow
def test_oracle_has_the_official_gradients(official):
    """At lod 1.7. At lod 0, float32 and float64 put some input of a leaky ReLU on opposite sides of
    zero: there a change of w by 1e-5 already changes G's gradients by 7e-4."""
    folder, networks = official
    vG, vD = networks["G"][0], networks["D"][0]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([vG, vD])
        _, key, score, fakes, reals = official_losses(official, 1.7)
        loss_G = tf.reduce_mean(oracle.g_loss(score, fakes, "logistic_nonsaturating"))
        loss_D = tf.reduce_mean(oracle.d_loss(score, reals, fakes, "logistic", r1_gamma=10))
    for name, value, v in (("G_logistic_nonsaturating", loss_G, vG),
                           ("D_logistic_simplegp_r1_10", loss_D, vD)):
        stored = folder.load(f"c3_grads_{name}_{key}")
        assert_same_gradients(stored, tape.gradient(value, v), 1e-4)


# ---------------------------------------------------------------------------- ours against it


@pytest.fixture
def rng():
    """Return draws for which no input of a ReLU is close to zero: rounding would decide its side.

    (If one is, noise of 1e-7 on the images changes the oracle's own R1 gradients by 1e-4.)
    """
    return np.random.default_rng(3)


def float64(x):
    return tf.constant(np.asarray(x), tf.float64)


def make(kind, options):
    """Return (network with every variable moved off its initial value, the oracle's variables)."""
    style = STYLE if kind == "G_style" else {}
    network = build(kind, kind[0], {**SMALL, **style, **options})
    rng = np.random.default_rng(7)
    for var in network.vars.values():
        var.assign_add(0.3 * rng.standard_normal(var.shape).astype(np.float32))
    return network, {name: float64(var.numpy()) for name, var in network.vars.items()}


def labels_for(network, rng):
    """Return rows [MINIBATCH, label_size] of random numbers, or None."""
    size = network.label_size
    return rng.standard_normal((MINIBATCH, size)).astype(np.float32) if size else None


def to_float64(labels):
    return None if labels is None else float64(labels)


def full_size(images, lod_floor):
    """Convert NHWC at the current resolution to float64 NCHW at the final one."""
    return float64(nchw(enlarge(images, lod_floor)))


def assert_same_gradients(ours, theirs, tolerance):
    """Assert that ||a - b|| / ||b|| is below the tolerance for every variable.

    What is rounding noise compared with all gradients together counts as zero; None is zero.
    """
    theirs = {n: np.zeros(np.shape(ours[n])) if g is None else g.numpy() for n, g in theirs.items()
              if n in ours}
    assert theirs.keys() == ours.keys()
    total = np.sqrt(sum(np.sum(g ** 2) for g in theirs.values()))
    assert total > 0
    for name, expected in theirs.items():
        error = np.linalg.norm((0 if ours[name] is None else ours[name]) - expected)
        assert error <= tolerance * np.linalg.norm(expected) + 1e-6 * total, name


@pytest.mark.parametrize("option, lod", G_CASES)
def test_generator(rng, option, lod):
    """Images, and gradients of a random weighted sum of their pixels."""
    G, v = make("G_style", G_OPTIONS[option])
    latents, labels = rng.standard_normal((MINIBATCH, 10)).astype(np.float32), labels_for(G, rng)
    weights = rng.standard_normal((MINIBATCH, 16, 16, G.num_channels))
    lod_floor = int(lod)
    with tf.GradientTape() as tape:
        images = G(latents, labels, **growth(G, lod))
        summed = tf.nn.avg_pool2d(weights, 2 ** lod_floor, 2 ** lod_floor, "VALID") * 4 ** lod_floor
        total = tf.reduce_sum(images * tf.cast(summed, tf.float32))
    ours = tape.gradient(total, G.trainables)
    with tf.GradientTape() as tape:
        tape.watch(v)
        theirs = oracle.generator(v, G.config, float64(latents), to_float64(labels), lod)
        total = tf.reduce_sum(theirs * nchw(weights))
    np.testing.assert_allclose(nchw(enlarge(images, lod_floor)), theirs, rtol=1e-4, atol=1e-4)
    trainables = {name: v[name] for name in G.trainables}
    assert_same_gradients(ours, tape.gradient(total, trainables), 1e-4)


@pytest.mark.parametrize("name, option, lod", LOSS_CASES)
def test_discriminator_and_its_losses(rng, name, option, lod):
    """Scores, loss per sample, and its gradients with respect to D's variables; with penalties."""
    D, v = make("D_basic", D_OPTIONS[option])
    labels, lod_floor = labels_for(D, rng), int(lod)
    shape = [MINIBATCH, 16 >> lod_floor, 16 >> lod_floor, D.num_channels]
    reals, fakes = (tf.constant(rng.standard_normal(shape), tf.float32) for _ in range(2))
    mix = rng.uniform(size=[MINIBATCH, 1, 1, 1])
    with tf.GradientTape() as tape:
        ours, terms = loss.discriminator_loss(
            lambda x: D(x, labels, **growth(D, lod)), reals, fakes, lod_floor=lod_floor,
            mix=tf.constant(mix, tf.float32), **LOSSES[name])
        mean = tf.reduce_mean(ours)
    grads = tape.gradient(mean, D.trainables)

    def score(images):
        return oracle.discriminator(v, D.config, images, to_float64(labels), lod)

    large = [full_size(x, lod_floor) for x in (reals, fakes)]
    with tf.GradientTape() as tape:
        tape.watch(v)
        theirs = oracle.d_loss(score, *large, mix=mix, **LOSSES[name])
        mean = tf.reduce_mean(theirs)
    np.testing.assert_allclose(terms["Loss/scores/real"][:, 0], score(large[0]), rtol=1e-4,
                               atol=1e-4)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert_same_gradients(grads, tape.gradient(mean, v), 1e-4)


@pytest.mark.parametrize("kind, lod", [
    ("logistic_nonsaturating", 0.4), ("logistic_saturating", 1.7), ("wgan", 0.0), ("hinge", 1.0)])
def test_generator_losses_through_both_networks(rng, kind, lod):
    """With labels; gradients with respect to G's variables through D."""
    (G, vG), (D, vD) = make("G_style", {"label_size": 3}), make("D_basic", {"label_size": 3})
    latents, labels = rng.standard_normal((MINIBATCH, 10)).astype(np.float32), labels_for(G, rng)
    with tf.GradientTape() as tape:
        fakes = G(latents, labels, **growth(G, lod))
        ours = loss.generator_loss(lambda x: D(x, labels, **growth(D, lod)), fakes, kind=kind)
        mean = tf.reduce_mean(ours)
    grads = tape.gradient(mean, G.trainables)
    with tf.GradientTape() as tape:
        tape.watch(vG)
        images = oracle.generator(vG, G.config, float64(latents), float64(labels), lod)
        theirs = oracle.g_loss(
            lambda x: oracle.discriminator(vD, D.config, x, float64(labels), lod), images, kind)
        mean = tf.reduce_mean(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert_same_gradients(grads, tape.gradient(mean, {n: vG[n] for n in G.trainables}), 1e-4)
