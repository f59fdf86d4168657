"""Two steps in a row against a float64 account of them, for the same draws.

The account computes independently of the program: networks, losses and gradients (oracle.py), the
layers that style mixing replaces, the running means of w and of G, Adam, mirroring and fading of
reals.
"""

import functools

import numpy as np
import pytest
import tensorflow as tf

from dnnlib.tflib.distribute import Draws
from dnnlib.tflib.optimizer import Adam
from tests.oracles import oracle
from training.gan.gan_step import GanStep
from training.gan.init_from import new_state
from training.gan.schedule import Critic

MINIBATCH, LRATE, BETA2 = 8, 0.01, 0.99
# Adam's epsilon. With 1e-8 a step follows the gradient's sign, which is rounding noise for a
# gradient of zero.
EPSILON = 1e-3
STEPS = (4, 5)  # with seed 3 and a probability of 0.5 some of their draws mix styles

CASES = {
    "final size": ({"style_mixing_prob": 1.0}, 0.0, 0),
    "fading, labels": ({"style_mixing_prob": 0.5}, 0.3, 3),
    "half size, labels, WGAN-GP": (
        {"d_loss": "wgan", "g_loss": "wgan", "r1_gamma": 0.0, "wgan_lambda": 10.0,
         "style_mixing_prob": 1.0, "resolution": 16, "dlatent_avg_beta": 0.9}, 1.6, 3),
    "without styles, hinge, R2": (
        {"use_styles": False, "const_input": False, "style_mixing_prob": 0.0, "d_loss": "hinge",
         "g_loss": "hinge", "r2_gamma": 3.0, "nonlinearity": "relu", "mbstd_group_size": 2},
        0.3, 0),
    "in parts, lazy R1, labels": (
        {"minibatch_per_gpu": {4: 4}, "r1_interval": 2, "style_mixing_prob": 1.0}, 0.0, 3),
    "XLA": ({"xla": True, "style_mixing_prob": 1.0}, 0.0, 0),
}
# Largest error in bf16, by norm, of the change that training made to a network. Every rounding of
# these 8 maps moves some values across a leaky ReLU's zero. Which values depends on the order in
# which a processor adds up, so its error is one of many random ones. The limits are twice the
# largest of four, measured with other images: 0.174, 0.0008, 0.059.
# tests/training/test_precision.py finds a convolution that adds up in bfloat16.
BF16_ERRORS = {"G": 0.35, "Gs": 0.0016, "D": 0.12}


@functools.cache
def xla_draw(seed, minibatch, method, *args):
    """Return a function step -> the result of that method of Draws inside code compiled by XLA."""
    return tf.function(lambda step: getattr(Draws(seed, step, minibatch), method)(*args),
                       jit_compile=True, autograph=False)


class XlaDraws:
    """Draws as they are inside code compiled by XLA."""

    def __init__(self, seed, step, minibatch):
        self.seed, self.step, self.minibatch = seed, tf.constant(step), minibatch

    def __getattr__(self, method):
        return lambda name, *args: xla_draw(
            self.seed, self.minibatch, method, name,
            *(tuple(arg) if isinstance(arg, list) else arg for arg in args))(self.step)


class Account:
    """The state of a training in float64, and what a step does to it.

    Attributes:
        v: {'G', 'Gs', 'D': {variable name: float64 array}}.
    """

    def __init__(self, config, networks, table):
        self.config, self.table = config, table
        self.network_config = {"G": networks["G"].config, "D": networks["D_rgb"].config}
        self.v = {name: float64_arrays(networks[network])
                  for name, network in (("G", "G"), ("Gs", "Gs"), ("D", "D_rgb"))}
        self.trained = {"G": set(networks["G"].trainables), "D": set(networks["D_rgb"].trainables)}
        self.second_moments = {"G": {}, "D": {}}
        self.t = 0
        self.mixed = []  # whether each step's images had mixed styles

    def turn(self, images, labels, step, lod):
        """Do the D step, the average, and the G step."""
        config = self.config
        draws = (XlaDraws if config.xla else Draws)(config.seed, step, MINIBATCH)
        self.t += 1
        x = self.reals(images, draws, lod)
        fakes = self.fakes(self.v["G"], draws, "D", labels, lod)
        mix = draws.uniform("mix").numpy().astype(np.float64)[:, None, None, None]
        r1_gamma = config.r1_gamma * (config.r1_interval if step % config.r1_interval == 0 else 0)
        self.step("D", lambda v: oracle.d_loss(
            self.score(v, labels, lod), x, fakes, config.d_loss, r1_gamma, config.r2_gamma,
            config.wgan_lambda, mix))
        half_lives = MINIBATCH / (config.smoothing_kimg * 1000)
        for name, new in self.v["G"].items():
            old_share = 0.5 ** half_lives if name in self.trained["G"] else 0
            self.v["Gs"][name] = old_share * self.v["Gs"][name] + (1 - old_share) * new
        if self.table.shape[1]:
            labels = self.table[draws.integer("G/labels", len(self.table)).numpy()]
        score = self.score(self.v["D"], labels, lod)
        self.step("G", lambda v: oracle.g_loss(
            score, self.fakes(v, draws, "G", labels, lod), config.g_loss))

    def score(self, v, labels, lod):
        given = None if not self.table.shape[1] else tf.constant(labels, tf.float64)
        return lambda x: oracle.discriminator(v, self.network_config["D"], x, given, lod)

    def reals(self, images, draws, lod):
        """Convert uint8 NHWC to float64 NCHW of the final size, mirrored and faded."""
        x = images.astype(np.float64).transpose(0, 3, 1, 2) / 127.5 - 1
        for i, draw in enumerate(draws.uniform("mirror").numpy()):
            if draw < 0.5:
                x[i] = x[i][:, :, ::-1]
        coarse = oracle.downscale(x).repeat(2, 2).repeat(2, 3)
        x = x + (coarse - x) * (lod - int(lod))
        return tf.constant(x.repeat(2 ** int(lod), 2).repeat(2 ** int(lod), 3))

    def fakes(self, v, draws, purpose, labels, lod):
        """Return images of the final size; update G's running mean of w."""
        c = self.network_config["G"]
        given = None if not self.table.shape[1] else tf.constant(labels, tf.float64)
        first, second = (oracle.mapping(v, c, tf.cast(draws.normal(
            f"{purpose}/{name}", [c["latent_size"]]), tf.float64), given)
            for name in ("latents", "mixing_latents"))
        beta = self.config.dlatent_avg_beta
        self.v["G"]["dlatent_avg"] = (beta * self.v["G"]["dlatent_avg"]
                                      + (1 - beta) * first.numpy().mean(0))
        layers = 2 * int(np.log2(c["resolution"])) - 2
        in_use = 2 * int(np.log2(c["resolution"] / 2 ** int(lod))) - 2
        cut = int(draws.shared_integer(f"{purpose}/mixing_cut", 1, in_use))
        assert 1 <= cut < in_use
        mixes = float(draws.shared_uniform(f"{purpose}/mixing")) < self.config.style_mixing_prob
        self.mixed.append(mixes)
        w = [second if mixes and layer >= cut else first for layer in range(layers)]
        noise = {}
        for layer in range(in_use):
            size = 4 * 2 ** (layer // 2)
            drawn = draws.normal(f"{purpose}/noise{layer}", [size, size, 1]).numpy()
            noise[f"G_synthesis/noise{layer}"] = drawn.astype(np.float64).transpose(0, 3, 1, 2)
        return oracle.synthesis({**v, **noise}, c, tf.stack(w, 1), lod)

    def step(self, name, loss):
        """Take an Adam step (Kingma and Ba 2014), beta1 = 0, on the mean of loss(variables)."""
        v = {k: tf.constant(a) for k, a in self.v[name].items()}
        with tf.GradientTape() as tape:
            tape.watch(v)
            mean = tf.reduce_mean(loss(v))
        for k, grad in tape.gradient(mean, v).items():
            if grad is None or k not in self.trained[name]:
                continue
            moment = self.second_moments[name].get(k, 0.0)
            moment = BETA2 * moment + (1 - BETA2) * grad.numpy() ** 2
            self.second_moments[name][k] = moment
            # lr sqrt(1 - beta2^t) m / (sqrt(v) + eps): the epsilon of the efficient form.
            rate = LRATE * np.sqrt(1 - BETA2 ** self.t)
            self.v[name][k] = self.v[name][k] - rate * grad.numpy() / (np.sqrt(moment) + EPSILON)


def float64_arrays(network):
    return {name: array.astype(np.float64) for name, array in network.get_arrays().items()}


def state_for(config, resolution, label_size):
    """Return a fresh state with all variables moved and EPSILON in Adam.

    Gs differs from G, except in variables finer than `resolution`, which are not trained yet.
    """
    rng = np.random.default_rng(11)
    state = new_state(config, label_size=label_size)
    for network in state.networks.values():
        network.set_arrays({n: a + 0.3 * rng.standard_normal(a.shape).astype(np.float32)
                            for n, a in network.get_arrays().items()})
    G, Gs = (state.networks[name] for name in ("G", "Gs"))
    for name, var in Gs.vars.items():
        if Gs.resolution_of(name) > resolution:
            var.assign(G.vars[name])
    state.optimizers = {name: Adam(state.networks[name].trainables, epsilon=EPSILON)
                        for name in state.optimizers}
    return state


# Other tests cover the parts; all options together take minutes.
SLOW = ("XLA", "fading, labels", "in parts, lazy R1, labels", "half size, labels, WGAN-GP",
        "without styles, hinge, R2")


@pytest.mark.parametrize("case", [
    pytest.param(case, marks=pytest.mark.slow if case in SLOW else ()) for case in CASES])
def test_two_steps(tiny_config, rng, case):
    """In float32, each variable's change is correct to 1e-3 of it, the rest to rounding."""
    networks, account, before = two_turns(tiny_config, rng, *CASES[case])
    for name, network in (("G", "G"), ("D", "D_rgb"), ("Gs", "Gs")):
        ours, moved = networks[network].get_arrays(), []
        for key, theirs in account.v[name].items():
            change = np.linalg.norm(theirs - before[network][key])
            allowed = 1e-3 * change + 3e-7 * np.linalg.norm(theirs)
            assert np.linalg.norm(ours[key] - theirs) <= allowed, (name, key)
            moved.append(change > 1e-5 * np.linalg.norm(theirs))
        assert np.mean(moved) > 0.6, name


@pytest.mark.slow
def test_two_steps_in_bfloat16(tiny_config, rng):
    """R1 every step, in parts, with labels."""
    changes = {"precision": "bf16", "minibatch_per_gpu": {4: 4}, "style_mixing_prob": 1.0}
    networks, account, before = two_turns(tiny_config, rng, changes, 0.0, 3)
    for name, network in (("G", "G"), ("D", "D_rgb"), ("Gs", "Gs")):
        ours = networks[network].get_arrays()
        wrong, change = (np.sqrt(sum(np.sum((values[k] - base[k]) ** 2) for k in ours))
                         for values, base in ((ours, account.v[name]),
                                              (account.v[name], before[network])))
        assert wrong < BF16_ERRORS[name] * change, name


def two_turns(tiny_config, rng, changes, lod, label_size):
    """Return networks, Account and first arrays of two steps by the program and by the account."""
    config = tiny_config(**{"variant": "rgb", "resolution": 8, "smoothing_kimg": 0.02, **changes})
    resolution = config.resolution >> int(lod)
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    with strategy.scope():
        state = state_for(config, resolution, label_size)
    table = rng.standard_normal((5, label_size)).astype(np.float32)
    account = Account(config, state.networks, table)
    before = {name: float64_arrays(network) for name, network in state.networks.items()}
    turn = GanStep(strategy, config, state.networks, state.optimizers, Critic("rgb", 3), resolution,
                lod != int(lod), MINIBATCH, table)
    for step in STEPS:
        images = rng.integers(0, 256, (MINIBATCH, resolution, resolution, 3), np.uint8)
        labels = rng.standard_normal((MINIBATCH, label_size)).astype(np.float32)
        turn((tf.constant(images), tf.constant(labels)), step, lod - int(lod), LRATE)
        account.turn(images, labels, step, lod)
    assert set(account.mixed) == {0.0: {False}, 0.5: {False, True}, 1.0: {True}}[
        config.style_mixing_prob]
    return state.networks, account, before
