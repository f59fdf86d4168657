"""One step: which networks it changes, that it is StyleGAN's, that two replicas equal one."""

import zlib

import numpy as np
import pytest
import tensorflow as tf

from dnnlib.tflib.distribute import Draws, create_strategy, mirrored_strategy, replica_rows
from dnnlib.util import UserError
from tests.tools.gan_steps import num_traces
from training.dataset import with_map_contrast
from training.gan.augmentation import Augmentation, augment
from training.gan.gan_step import GanStep
from training.gan.init_from import enter_stage, new_state
from training.gan.schedule import Critic, stage_critics, training_schedule

pytestmark = pytest.mark.usefixtures("eagerly")

NUM_CLASSES = 5
ONE_DEVICE = tf.distribute.OneDeviceStrategy("/cpu:0")


def state_in_stage(config, stage_name, strategy=ONE_DEVICE, label_size=0):
    """Return a fresh state that entered a stage without training."""
    with strategy.scope():
        state = new_state(config, label_size=label_size)
        for nimg, name in ((64, "binary"), (80, "classes")):
            if state.progress.stage != stage_name:
                stage = training_schedule(config, NUM_CLASSES, nimg)
                assert stage.name == name
                state = enter_stage(state, stage, config)
    return state


def perturb(network, rng):
    """Move every variable, so that no noise weight or bias is zero."""
    arrays = network.get_arrays()
    network.set_arrays({n: a + 0.3 * rng.standard_normal(a.shape) for n, a in arrays.items()})


def make_turn(config, state, critic, strategy=ONE_DEVICE, resolution=8, fading=False, minibatch=8,
              labels=None):
    augmentation = None if config.augment == "none" else Augmentation(config)
    return GanStep(strategy, config, state.networks, state.optimizers, critic, resolution, fading,
                   minibatch, labels, augmentation=augmentation)


def reals(rng, critic, resolution=8, minibatch=8, label_size=0):
    """Return a minibatch as TrainingStream gives it."""
    shape = (minibatch, resolution, resolution, critic.channels)
    return (tf.constant(rng.integers(0, 256, shape, np.uint8)),
            tf.constant(rng.standard_normal((minibatch, label_size)), tf.float32))


@pytest.mark.parametrize("variant, stage", [
    ("rgb", "rgb"), ("2d", "classes"), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in (
        ("c", "binary"), ("c", "classes"), ("2d", "binary")))])
def test_a_step_changes_exactly_the_networks_it_should(tiny_config, rng, variant, stage):
    config = tiny_config(variant=variant, resolution=8)
    state = state_in_stage(config, stage)
    for critic in stage_critics(variant, stage, NUM_CLASSES):
        before = {name: network.digest() for name, network in state.networks.items()}
        report = make_turn(config, state, critic)(reals(rng, critic), 0, 0.0, 0.001)
        changed = {name for name, network in state.networks.items()
                   if network.digest() != before[name]}
        assert changed == {"G", "Gs", f"D_{critic.name}"}
        assert report["Progress/skipped_updates"] == 0


def test_the_image_critic_has_no_gradient_for_maps(tiny_config, rng):
    """Its gradient reaches only the colour columns of ToRGB."""
    config = tiny_config(resolution=8)
    state = state_in_stage(config, "classes")
    before = state.networks["G"].get_arrays()["G_synthesis/ToRGB_lod0/weight"]
    critic = Critic("rgb", 3)
    make_turn(config, state, critic)(reals(rng, critic), 0, 0.0, 0.001)
    after = state.networks["G"].get_arrays()["G_synthesis/ToRGB_lod0/weight"]
    np.testing.assert_array_equal(after[..., 3:], before[..., 3:])
    assert np.all(after[..., :3] != before[..., :3])


def test_joint_rgb_grad_zero_stops_the_joint_critics_colour_gradient(tiny_config, rng):
    config = tiny_config(resolution=8)
    state = state_in_stage(config, "classes")
    before = state.networks["G"].get_arrays()["G_synthesis/ToRGB_lod0/weight"]
    critic = stage_critics("2d", "classes", NUM_CLASSES, joint_rgb_grad=0.0)[1]
    make_turn(config, state, critic)(reals(rng, critic), 0, 0.0, 0.001)
    after = state.networks["G"].get_arrays()["G_synthesis/ToRGB_lod0/weight"]
    np.testing.assert_array_equal(after[..., :3], before[..., :3])
    assert np.all(after[..., 3:] != before[..., 3:])


def test_map_contrast_moves_values_outwards_and_keeps_three():
    maps = np.linspace(-0.9, 0.9, 37, dtype=np.float32)  # with -0.5, 0 and 0.5
    images = np.concatenate([np.full((37, 3), 0.3, np.float32), maps[:, None]], axis=1)
    seen = with_map_contrast(tf.constant(images[None, None]), 5.0).numpy()[0, 0]
    np.testing.assert_array_equal(seen[:, :3], images[:, :3])
    np.testing.assert_allclose(seen[:, 3], np.tanh(5 * maps) / np.tanh(2.5) / 2, atol=1e-6)
    for value in (-0.5, 0.0, 0.5):
        np.testing.assert_allclose(np.interp(value, maps, seen[:, 3]), value, atol=1e-6)
    between = (np.abs(maps) < 0.49) & (np.abs(maps) > 0.01)
    assert np.all(np.abs(seen[between, 3]) > np.abs(maps[between]))
    as_they_are = tf.constant(images[None, None])
    assert with_map_contrast(as_they_are, 0.0) is as_they_are


@pytest.mark.parametrize("two_values", [True, False])
def test_critics_see_maps_through_the_contrast(tiny_config, rng, two_values):
    """Scores of real maps with two values do not change; all other scores do, in both steps."""
    critic = Critic("joint", 3 + NUM_CLASSES)
    images, labels = reals(rng, critic)
    if two_values:
        maps = tf.where(images[..., 3:] > 127, 255, 0)
        images = tf.concat([images[..., :3], tf.cast(maps, tf.uint8)], axis=-1)
    reports = []
    for contrast in (0.0, 5.0):
        config = tiny_config(resolution=8, map_noise=0.0, map_contrast=contrast)
        state = state_in_stage(config, "classes")
        for network in state.networks.values():
            perturb(network, np.random.default_rng(1))
        reports.append(make_turn(config, state, critic)((images, labels), 0, 0.0, 0.0))
    changed = {name for name in ("Loss/scores/real", "Loss/scores/fake", "Loss/G")
               if abs(reports[1][name] - reports[0][name]) > 1e-4}
    assert changed == {"Loss/scores/fake", "Loss/G"} | (
        set() if two_values else {"Loss/scores/real"})


def adam_first_step(var, grad, lrate):
    """Return the variable after Adam's first step: m = g, v = 0.01 g^2, bias-corrected."""
    return var - lrate * np.sqrt(0.01) * grad / (np.sqrt(0.01 * grad**2) + 1e-8)


WGAN_GP = dict(d_loss="wgan", g_loss="wgan", r1_gamma=0.0, wgan_lambda=10.0)
GAN_TERMS = {
    "logistic": lambda real, fake: tf.nn.softplus(fake) + tf.nn.softplus(-real),
    "wgan": lambda real, fake: fake - real + 0.001 * real**2,
    "hinge": lambda real, fake: tf.nn.relu(1 + fake) + tf.nn.relu(1 - real)}
FOOLING = {"logistic_nonsaturating": lambda fake: tf.nn.softplus(-fake),
           "logistic_saturating": lambda fake: -tf.nn.softplus(fake),
           "wgan": lambda fake: -fake, "hinge": lambda fake: -fake}


def slopes(score, images, lod_floor):
    """Return per sample the squared norm of d score / d image, for the image at full resolution."""
    with tf.GradientTape() as tape:
        tape.watch(images)
        total = tf.reduce_sum(score(images))
    return tf.reduce_sum(tape.gradient(total, images) ** 2, axis=[1, 2, 3]) / 4.0**lod_floor


def direct_d_loss(config, score, x, fakes, mix, lod_floor):
    """Return the mean D loss that a configuration stands for."""
    loss = GAN_TERMS[config.d_loss](score(x), score(fakes))[:, 0]
    loss += config.r1_gamma / 2 * slopes(score, x, lod_floor)
    loss += config.r2_gamma / 2 * slopes(score, fakes, lod_floor)
    if config.wgan_lambda:
        between = x * (1 - mix) + fakes * mix
        loss += config.wgan_lambda * (tf.sqrt(slopes(score, between, lod_floor)) - 1) ** 2
    return tf.reduce_mean(loss)


def direct_fakes(G, draws, purpose, labels, mixing, **growth):
    """Return G's images, after dlatent_avg has followed the batch mean of w; with `mixing` the
    layers from the drawn cut on use a second w of the same labels."""
    w = G.mapping(draws.normal(f"{purpose}/latents", [8]), labels)
    dlatent_avg = G.vars["dlatent_avg"]
    dlatent_avg.assign(tf.reduce_mean(w[:, 0], 0) * 0.005 + dlatent_avg * 0.995)
    if mixing:
        cut = int(draws.shared_integer(f"{purpose}/mixing_cut", 1, w.shape[1]))
        second = G.mapping(draws.normal(f"{purpose}/mixing_latents", [8]), labels)
        w = tf.concat([w[:, :cut], second[:, cut:]], axis=1)
    return G.synthesis(w, noise=lambda i, h, _: draws.normal(f"{purpose}/noise{i}", [h, h, 1]),
                       **growth)


@pytest.mark.parametrize("label_size, lod_floor, changes", [
    (0, 0, {}),
    (3, 0, {}),
    pytest.param(0, 0, {"augment": "fixed:0.6"}, marks=pytest.mark.slow),
    (3, 1, {**WGAN_GP, "style_mixing_prob": 0.0}),  # at 8x8, of a network for 16x16
    pytest.param(0, 1, {"d_loss": "hinge", "g_loss": "logistic_saturating", "r1_gamma": 2.0,
                        "r2_gamma": 3.0}, marks=pytest.mark.slow)],
    ids=["plain", "labels", "augmented", "labels, WGAN-GP, half size",
         "hinge, saturating, R2, half size"])
def test_a_step_is_plain_stylegan(tiny_config, rng, label_size, lod_floor, changes):
    """D step with its penalties, the average, and G step on fresh latents and labels, against
    direct formulas."""
    mixing = label_size > 0 and not lod_floor
    config = tiny_config(variant="rgb", mirror=False, resolution=8 << lod_floor,
                         **{"style_mixing_prob": float(mixing), **changes})
    with ONE_DEVICE.scope():
        state = new_state(config, label_size=label_size)
    for network in state.networks.values():
        perturb(network, rng)
    state.networks["Gs"].set_arrays(state.networks["G"].get_arrays())
    G, D = (state.networks[name].clone() for name in ("G", "D_rgb"))
    table = rng.standard_normal((5, label_size)).astype(np.float32)
    images, labels = reals(rng, Critic("rgb", 3), label_size=label_size)
    report = make_turn(config, state, Critic("rgb", 3), labels=table)(
        (images, labels), 7, 0.0, 0.001)

    draws, growth = Draws(config.seed, 7, 8), {"resolution": 8}
    given = {"D": labels, "G": tf.gather(table, draws.integer("G/labels", 5))}
    given = given if label_size else {"D": None, "G": None}

    def seen(images, purpose):  # by D, whose penalty is also at these images
        if config.augment == "none":
            return images
        return augment(images, tf.constant(0.6), draws, purpose)

    x = seen(tf.cast(images, tf.float32) / 127.5 - 1, "D/reals")
    mix = tf.reshape(draws.uniform("mix"), [-1, 1, 1, 1])
    fakes = seen(direct_fakes(G, draws, "D", given["D"], mixing, **growth), "D/fakes")
    with tf.GradientTape() as tape:
        loss = direct_d_loss(config, lambda y: D(y, given["D"], **growth), x, fakes, mix, lod_floor)
    grads = tape.gradient(loss, D.trainables, unconnected_gradients="zero")
    np.testing.assert_allclose(report["Loss/D"], loss, rtol=1e-4)
    expected = {
        ("D_rgb", n): (adam_first_step(v.numpy(), grads[n].numpy(), 0.001), grads[n].numpy())
        for n, v in D.trainables.items()}
    D.set_arrays({n: expected["D_rgb", n][0] for n in D.vars})
    average = G.get_arrays()  # Gs starts equal to G: a lerp of equals
    with tf.GradientTape() as tape:
        fakes = seen(direct_fakes(G, draws, "G", given["G"], mixing, **growth), "G/fakes")
        loss = tf.reduce_mean(FOOLING[config.g_loss](D(fakes, given["G"], **growth)))
    grads = tape.gradient(loss, G.trainables, unconnected_gradients="zero")
    expected |= {("G", n): (adam_first_step(v.numpy(), grads[n].numpy(), 0.001), grads[n].numpy())
                 for n, v in G.trainables.items()}

    # Adam's first step is lrate * sign(gradient): where a gradient is rounding noise (a bias
    # before an instance norm, say) its sign is arbitrary.
    for (network, name), (array, grad) in expected.items():
        meant = np.abs(grad) > 1e-4 * np.abs(grad).max() + 1e-5
        got = state.networks[network].vars[name].numpy()
        np.testing.assert_allclose(got[meant], array[meant], atol=2e-5, err_msg=f"{network} {name}")
    shares = [np.mean(np.abs(grad) > 1e-5) for _, grad in expected.values() if grad.any()]
    assert sum(share > 0.5 for share in shares) > 0.8 * len(shares) > 20
    np.testing.assert_allclose(state.networks["G"].vars["dlatent_avg"].numpy(),
                               G.vars["dlatent_avg"].numpy(), atol=1e-6)
    for name, array in average.items():
        if name != "dlatent_avg":
            np.testing.assert_allclose(state.networks["Gs"].vars[name].numpy(), array, atol=1e-6)


@pytest.mark.slow
def test_running_average_has_its_half_life(tiny_config, rng):
    """Gs after one step has 0.5^(minibatch / half-life) of the old average."""
    half_life = 0.008  # of one minibatch
    config = tiny_config(variant="rgb", resolution=8, smoothing_kimg=half_life)
    state = state_in_stage(config, "rgb")
    Gs = state.networks["Gs"]
    Gs.set_arrays({n: a + 1 for n, a in Gs.get_arrays().items()})
    G_before, Gs_before = state.networks["G"].get_arrays(), Gs.get_arrays()
    make_turn(config, state, Critic("rgb", 3))(reals(rng, Critic("rgb", 3)), 0, 0.0, 0.001)
    for name in Gs.trainables:
        mean = (G_before[name] + Gs_before[name]) / 2
        np.testing.assert_allclose(Gs.vars[name].numpy(), mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(
        Gs.vars["G_synthesis/noise0"].numpy(), G_before["G_synthesis/noise0"])


@pytest.mark.slow
@pytest.mark.parametrize("stage_name, label_size, changes", [
    ("classes", 0, {}),
    ("rgb", 3, {**WGAN_GP, "mbstd_group_size": 8})],
    ids=["two critics", "labels, WGAN-GP, groups of 8"])
def test_two_replicas_equal_one(tiny_config, rng, compiled, stage_name, label_size, changes):
    """Three steps on the same global minibatches: same weights, and the replicas stay equal."""
    config = tiny_config(resolution=8, **changes)
    mirrored = mirrored_strategy("cpu", 2)
    critics = stage_critics("2d", stage_name, NUM_CLASSES)
    states = [state_in_stage(config, stage_name, strategy, label_size)
              for strategy in (ONE_DEVICE, mirrored)]
    for name, network in states[0].networks.items():
        perturb(network, rng)
        states[1].networks[name].set_arrays(network.get_arrays())
    table = rng.standard_normal((7, label_size)).astype(np.float32)
    batches = [(c, reals(rng, c, resolution=8, minibatch=16, label_size=label_size))
               for c in (critics * 3)[:3]]
    for state, strategy in zip(states, (ONE_DEVICE, mirrored)):
        turns = {c.name: make_turn(config, state, c, strategy, resolution=8, minibatch=16,
                                   labels=table) for c in critics}
        for step, (critic, batch) in enumerate(batches):
            turns[critic.name](batch, step, 0.0, 0.001)
    for name, network in states[1].networks.items():
        for var_name, var in network.vars.items():
            copies = [copy.numpy() for copy in var.values]
            assert len(copies) == 2
            np.testing.assert_array_equal(copies[0], copies[1], err_msg=f"{name} {var_name}")
    # Compared by what they compute: a weight whose gradient is rounding noise (a bias before an
    # instance norm) may go either way by Adam's step, and has no effect.
    latents = rng.standard_normal((4, 8)).astype(np.float32)
    images = rng.standard_normal((4, 8, 8, 8)).astype(np.float32)
    given = table[:4] if label_size else None
    one, two = ({name: network(latents, given) if name in ("G", "Gs") else
                 network(images[..., :network.num_channels], given)
                 for name, network in state.networks.items()} for state in states)
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-3, atol=1e-3, err_msg=name)


@pytest.mark.parametrize("value, changes", [
    (np.nan, {}),
    pytest.param(np.inf, {"d_loss": "hinge", "g_loss": "hinge"}, marks=pytest.mark.slow)],
    ids=["nan", "infinite loss, finite gradients"])
def test_non_finite_values_stop_both_updates_and_are_counted(tiny_config, rng, value, changes):
    config = tiny_config(variant="rgb", resolution=8, **changes)
    state = state_in_stage(config, "rgb")
    critic = Critic("rgb", 3)
    turn = make_turn(config, state, critic)
    state.networks["D_rgb"].vars["4x4/Dense1/bias"].assign([value])
    before = state.networks["G"].get_arrays()
    assert turn(reals(rng, critic), 0, 0.0, 0.001)["Progress/skipped_updates"] == 2
    after = state.networks["G"].get_arrays()
    assert all(np.array_equal(before[n], after[n]) for n in state.networks["G"].trainables)


def test_one_trace_serves_a_whole_fade(tiny_config, rng, compiled):
    """lrate, fade and step are tensors. Nothing of a step needs their values: maps and labels,
    mixed styles and a penalty are compiled here, and the first step equals an eager one."""
    config = tiny_config(resolution=8, map_contrast=5.0, style_mixing_prob=0.5, **WGAN_GP)
    critic = stage_critics("2d", "classes", NUM_CLASSES, joint_rgb_grad=0.5)[1]
    table = rng.standard_normal((5, 3)).astype(np.float32)
    batch = reals(rng, critic, label_size=3)
    turn, eager_turn = (make_turn(config, state_in_stage(config, "classes", label_size=3), critic,
                                  fading=True, labels=table) for _ in range(2))
    reports = [turn(batch, step, fade, lrate)
               for step, fade, lrate in ((0, 0.9, 0.001), (1, 0.5, 0.002), (2, 0.1, 0.0015))]
    assert num_traces(turn) == 1
    tf.config.run_functions_eagerly(True)
    for name, value in eager_turn(batch, 0, 0.9, 0.001).items():
        np.testing.assert_allclose(reports[0][name], value, rtol=1e-3, atol=1e-5, err_msg=name)
    assert reports[2]["Progress/skipped_updates"] == 0


def test_draws_depend_only_on_seed_step_name_and_row():
    whole = Draws(1, 2, 8).normal("z", [3]).numpy()
    part = Draws(1, 2, 8, tf.constant([5, 2])).normal("z", [3]).numpy()
    np.testing.assert_array_equal(part, whole[[5, 2]])
    for other in (Draws(2, 2, 8), Draws(1, 3, 8)):
        assert not np.array_equal(other.normal("z", [3]).numpy(), whole)
    assert not np.array_equal(Draws(1, 2, 8).normal("y", [3]).numpy(), whole)


def test_draws_are_those_of_tensorflows_stateless_functions():
    """With a key that includes the name: trainings of all versions continue with these numbers."""
    def key(name):
        return tf.random.experimental.stateless_fold_in(
            tf.constant([1, 2]), zlib.crc32(name.encode()) & 0x7FFFFFFF, alg="philox")

    draws = Draws(1, 2, 8)
    for ours, theirs in (
            (draws.normal("z", [3]), tf.random.stateless_normal([8, 3], key("z"), alg="philox")),
            (draws.uniform("u"), tf.random.stateless_uniform([8], key("u"), alg="philox")),
            (draws.integer("i", 9), tf.random.stateless_uniform([8], key("i"), 0, 9, tf.int32,
                                                                alg="philox")),
            (draws.shared_integer("s", 3, 99), tf.random.stateless_uniform(
                [], key("s"), 3, 99, tf.int32, alg="philox")),
            (draws.shared_uniform("t"), tf.random.stateless_uniform([], key("t"), alg="philox"))):
        np.testing.assert_array_equal(ours, theirs)


def test_drawn_integers_are_uniform_and_per_sample():
    whole = Draws(1, 2, 6000).integer("labels", 3).numpy()
    assert set(whole) == {0, 1, 2} and np.abs(np.bincount(whole) - 2000).max() < 200
    part = Draws(1, 2, 6000, tf.constant([70, 2])).integer("labels", 3).numpy()
    np.testing.assert_array_equal(part, whole[[70, 2]])


def test_replica_rows_share_whole_stddev_groups():
    """Group m of the global batch holds samples m, m + M, ..., all of them in one replica."""
    rows = [replica_rows(16, 2, r) for r in range(2)]
    assert sorted(np.concatenate(rows)) == list(range(16))
    for r in range(2):
        groups = rows[r].reshape(4, -1).T  # the replica's own grouping
        assert all(len({sample % 4 for sample in group}) == 1 for group in groups)
    with pytest.raises(UserError, match="multiple of 12"):
        replica_rows(16, 3, 0)


def test_missing_gpus_are_a_clear_error():
    with pytest.raises(UserError, match="--device=cpu"):
        create_strategy("gpu", 4)
