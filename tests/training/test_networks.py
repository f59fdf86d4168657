"""Generator and discriminator: official numbers, growth, labels, and what every network must do."""

import json

import numpy as np
import pytest
import tensorflow as tf

from dnnlib.tflib import ops
from dnnlib.tflib.network import NETWORKS, build
from dnnlib.util import UserError
from tests.oracles.vector_files import Vectors, network_configs
from training.config import num_fmaps
from training.gan.gan_step import GanStep
from training.gan.growing_network import use_fused_resampling
from training.gan.init_from import new_state
from training.gan.schedule import Critic

pytestmark = pytest.mark.usefixtures("eagerly")

SMALL = {"resolution": 16, "fmap_base": 64, "fmap_max": 12}
STYLE = {"latent_size": 10, "dlatent_size": 14, "mapping_layers": 3, "mapping_fmaps": 11}

# Every registered network with a configuration small enough to test: plain, with labels, and with
# its other options.
EXAMPLES = {"G_style": {**SMALL, **STYLE, "num_channels": 16},
            "D_basic": {**SMALL, "num_channels": 16}}
LABELS = {"label_size": 3}
OTHERS = {
    "G_style": {"use_styles": False, "use_noise": False, "const_input": False, "blur": False,
                "use_pixel_norm": True, "use_instance_norm": False, "nonlinearity": "relu",
                "mapping_nonlinearity": "relu", "use_wscale": False, "normalize_latents": False},
    "D_basic": {"nonlinearity": "relu", "use_wscale": False, "blur": False,
                "mbstd_group_size": 2, "mbstd_num_features": 3}}
CASES = [pytest.param(kind, options, id=f"{kind}-{name}") for kind in EXAMPLES
         for name, options in (("default", {}), ("labels", LABELS), ("others", OTHERS[kind]))]


def make(kind, **options):
    """Return a network whose every variable differs from its initial value and from zero."""
    network = build(kind, kind[0], {**EXAMPLES[kind], **options})
    rng = np.random.default_rng(5)
    for var in network.vars.values():
        var.assign_add(0.3 * rng.standard_normal(var.shape).astype(np.float32))
    return network


def inputs(network, minibatch=4, resolution=None):
    """Return [latents or images, labels or None] for `network`."""
    rng = np.random.default_rng(6)
    r = resolution or network.resolution
    shape = [r, r, network.num_channels] if type(network).__name__ == "D_basic" else [10]
    labels = np.eye(3, dtype=np.float32)[rng.integers(0, 3, minibatch)]
    return [tf.constant(rng.standard_normal([minibatch, *shape]), tf.float32),
            tf.constant(labels) if network.label_size else None]


# ---------------------------------------------------------------------------- official numbers


def test_official_trainables_are_ours(shared):
    folder = Vectors(shared / "reference", "c3")
    known = json.loads((folder.folder / "c3.json").read_text())["c3_trainable"]
    for network in folder.networks():
        assert set(network.trainables) == set(known[network.name])


@pytest.mark.parametrize("label_size, channels", [(0, 3), (3, 16)])
def test_the_configuration_follows_from_the_arrays(label_size, channels):
    """`python -m tests.oracles.vectors` builds the same networks from the variables alone."""
    networks = [make(kind, label_size=label_size, num_channels=channels) for kind in EXAMPLES]
    arrays = {f"{n.name}/{k}": v for n in networks for k, v in n.get_arrays().items()}
    for (kind, name, config), network in zip(network_configs(arrays), networks, strict=True):
        build(kind, name, config).set_arrays(network.get_arrays())


# ---------------------------------------------------------------------------- conformance


def test_every_network_has_an_example():
    ours = {name for name in NETWORKS if NETWORKS[name].__module__ == "training.networks_stylegan"}
    assert ours == set(EXAMPLES) == set(OTHERS)


@pytest.mark.parametrize("kind, options", CASES)
def test_configuration_rebuilds_the_network(kind, options):
    network = make(kind, **options)
    twin = build(kind, "twin", json.loads(json.dumps(network.config)))
    assert list(twin.trainables) == list(network.trainables)
    twin.set_arrays(network.get_arrays())
    for name, array in twin.get_arrays().items():
        np.testing.assert_array_equal(array, network.get_arrays()[name])
    np.testing.assert_array_equal(twin(*inputs(twin)), network(*inputs(network)))
    assert twin.digest() == network.digest() == network.clone().digest()


@pytest.mark.parametrize("kind", EXAMPLES)
def test_seed_decides_the_initial_weights(kind):
    digests = [build(kind, "x", {**EXAMPLES[kind], "seed": s}).digest() for s in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("kind, options", CASES)
def test_traced_equals_eager_for_every_resolution(kind, options, compiled):
    network = make(kind, **options)
    for resolution in (4, 16):
        args = inputs(network, resolution=resolution)
        traced = tf.function(lambda *a, r=resolution: network(*a, resolution=r, fade=0.3))
        eager = network(*args, resolution=resolution, fade=0.3)
        np.testing.assert_allclose(traced(*args), eager, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind, options", CASES)
def test_unknown_minibatch_and_fade_need_one_trace(kind, options, compiled):
    network = make(kind, **options)
    specs = [tf.TensorSpec([None, *a.shape[1:]]) for a in inputs(network) if a is not None]
    traced = tf.function(lambda fade, *args: network(*args, fade=fade),
                         input_signature=[tf.TensorSpec([]), *specs])
    for minibatch, fade in [(1, 0.0), (4, 0.5), (8, 1.0)]:
        args = [a for a in inputs(network, minibatch) if a is not None]
        ours = traced(tf.constant(fade), *args)
        np.testing.assert_allclose(ours, network(*args, fade=fade), rtol=1e-4, atol=1e-4)
    assert traced.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("kind, options", CASES)
def test_gradient_reaches_every_variable_in_use_and_no_other(kind, options):
    """At 8x8 in a fade: both branches, and nothing of 16x16."""
    network = make(kind, **options)
    args = inputs(network, resolution=8)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(tf.sin(network(*args, resolution=8, fade=0.3)))
    grads = tape.gradient(total, network.trainables)
    unused = {name for name, grad in grads.items() if grad is None}
    assert unused == {n for n in network.trainables if "16x16" in n or "RGB_lod0" in n}
    assert all(np.any(grad != 0) for grad in grads.values() if grad is not None)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_fused_network_equals_plain(kind):
    network = make(kind)
    outputs = []
    for fused in (False, True):
        network.use_fused_resampling = lambda resolution, fmaps, fused=fused: fused
        outputs.append(network(*inputs(network)))
    np.testing.assert_allclose(*outputs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind, options", CASES)
def test_labels_are_required_exactly_if_label_size_is_not_zero(kind, options):
    network = make(kind, **options)
    x = inputs(network)[0]
    with pytest.raises(ValueError, match=f"label_size {network.label_size}"):
        network(x, None if network.label_size else tf.ones([4, 3]))


@pytest.mark.parametrize("kind", EXAMPLES)
def test_impossible_resolutions(kind):
    with pytest.raises(UserError, match=r"24 is not one of 4, 8, 16"):
        build(kind, "x", {**EXAMPLES[kind], "resolution": 24})
    network = make(kind)
    for resolution in (2, 32):
        with pytest.raises(ValueError, match=f"resolutions 4..16, not {resolution}"):
            network(*inputs(network, resolution=resolution), resolution=resolution)


# ---------------------------------------------------------------------------- growth


@pytest.mark.parametrize("kind", EXAMPLES)
def test_coarse_evaluation_is_the_smaller_network(kind):
    """At resolution 8, a 16x16 network is the 8x8 network of its coarser variables."""
    large = make(kind)
    small = build(kind, "small", {**EXAMPLES[kind], "resolution": 8})
    arrays = {}
    for name in small.vars:
        there = name.replace("lod1", "lod2").replace("lod0", "lod1")
        arrays[name] = large.vars[there].numpy()
    small.set_arrays(arrays)
    args = inputs(small)
    np.testing.assert_allclose(large(*args, resolution=8), small(*args), rtol=1e-5, atol=1e-5)


def test_generator_fades_linearly_from_the_coarser_image():
    G = make("G_style")
    args = inputs(G)
    fine, coarse = G(*args).numpy(), G(*args, resolution=8).numpy().repeat(2, 1).repeat(2, 2)
    for fade in (0.25, 1.0):
        expected = (1 - fade) * fine + fade * coarse
        np.testing.assert_allclose(G(*args, fade=fade), expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(G(*args, fade=tf.constant(fade)), G(*args, fade=fade))


def test_discriminator_fades_from_the_coarser_score():
    D = make("D_basic")
    images = inputs(D)[0]
    halved = tf.nn.avg_pool2d(images, 2, 2, "VALID")
    np.testing.assert_allclose(D(images, fade=1.0), D(halved, resolution=8), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(D(images, fade=tf.constant(0.0)), D(images), rtol=1e-5, atol=1e-5)
    assert not np.allclose(D(images, fade=0.5), D(images), atol=1e-3)


def test_finer_blocks_are_not_evaluated():
    G = make("G_style")
    asked = []

    def noise(layer, height, width):
        asked.append((layer, height, width))
        return tf.zeros([4, height, width, 1])

    G.synthesis(G.mapping(inputs(G)[0]), resolution=8, noise=noise)
    assert asked == [(0, 4, 4), (1, 4, 4), (2, 8, 8), (3, 8, 8)]


# ---------------------------------------------------------------------------- parts


def test_number_of_maps():
    """The published table: 512 maps up to 32x32, then halving down to 16 at 1024x1024."""
    table = {r: num_fmaps(r - 1, 8192, 1.0, 512) for r in range(2, 11)}
    assert table == {2: 512, 3: 512, 4: 512, 5: 512, 6: 256, 7: 128, 8: 64, 9: 32, 10: 16}


def test_noise_changes_images_and_fixed_noise_does_not():
    G = make("G_style")
    dlatents = G.mapping(inputs(G)[0])
    np.testing.assert_array_equal(G.synthesis(dlatents), G.synthesis(dlatents))
    stored = G.synthesis(dlatents, noise=lambda layer, h, w: tf.reshape(
        G.vars[f"G_synthesis/noise{layer}"], [1, h, w, 1]))
    np.testing.assert_allclose(stored, G.synthesis(dlatents), rtol=1e-5, atol=1e-5)
    none = G.synthesis(dlatents, noise=lambda layer, h, w: tf.zeros([4, h, w, 1]))
    assert not np.allclose(none, stored, atol=1e-2)


def test_every_layer_has_its_own_style():
    """Changing one layer's dlatents changes the images, except for layers above the resolution."""
    G = make("G_style")
    dlatents = G.mapping(inputs(G)[0])
    for resolution, active in ((8, 4), (16, 6)):
        before = G.synthesis(dlatents, resolution=resolution)
        for layer in range(G.num_layers):
            chosen = np.arange(G.num_layers)[:, None] == layer
            after = G.synthesis(tf.where(chosen, dlatents + 1, dlatents), resolution=resolution)
            assert np.allclose(before, after, atol=1e-6) == (layer >= active)


def test_truncation():
    G = make("G_style")
    dlatents = G.mapping(inputs(G)[0])
    average = G.vars["dlatent_avg"].numpy()
    truncated = G.truncate(dlatents, 0.0, 2).numpy()
    np.testing.assert_allclose(truncated[:, :2], np.broadcast_to(average, [4, 2, 14]), atol=1e-6)
    np.testing.assert_allclose(truncated[:, 2:], dlatents[:, 2:], rtol=1e-5, atol=1e-6)
    images = G(inputs(G)[0], truncation_psi=0.5, truncation_cutoff=3)
    np.testing.assert_array_equal(images, G.synthesis(G.truncate(dlatents, 0.5, 3)))


def test_labels_select_the_score_and_the_mapping():
    """Score = sum of the outputs times the labels; the embedding is normalised together with z."""
    D, G = make("D_basic", **LABELS), make("G_style", **LABELS)
    images = inputs(D)[0]
    each = [D(images, tf.one_hot([i] * 4, 3)).numpy() for i in range(3)]
    weighted = D(images, tf.constant([[0.5, 2.0, -1.0]] * 4))
    expected = 0.5 * each[0] + 2 * each[1] - each[2]
    np.testing.assert_allclose(weighted, expected, rtol=1e-4, atol=1e-4)
    latents, labels = (x.numpy() for x in inputs(G))
    embedding = G.vars["G_mapping/LabelConcat/weight"].numpy()
    x = np.concatenate([latents, labels @ embedding], axis=1)
    x /= np.sqrt((x ** 2).mean(1, keepdims=True) + 1e-8)
    for i in range(3):
        weight = G.vars[f"G_mapping/Dense{i}/weight"].numpy()
        x = x @ weight * 0.01 * np.sqrt(2 / len(weight)) + G.vars[f"G_mapping/Dense{i}/bias"] * 0.01
        x = np.maximum(x, 0.2 * x)
    np.testing.assert_allclose(G.mapping(latents, labels)[:, 2], x, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------------- options


WIDE = {"fmap_base": 512, "fmap_max": 64, "num_channels": 64}
SQRT2 = np.sqrt(2)


@pytest.mark.parametrize("kind, options, gains", [
    ("G_style", {"dlatent_size": 64, "const_input": False},
     {"G_mapping/Dense1": SQRT2, "4x4/Dense": SQRT2 / 4, "8x8/Conv1": SQRT2, "ToRGB_lod0": 1,
      "8x8/Conv1/StyleMod": 1}),
    ("D_basic", {"mbstd_group_size": 1},
     {"FromRGB_lod1": SQRT2, "8x8/Conv0": SQRT2, "4x4/Dense0": SQRT2, "4x4/Dense1": 1})])
def test_initial_weights_have_hes_standard_deviation(kind, options, gains):
    """Equalised: N(0, 1) / lrmul is stored; else N(0, he_std) / lrmul. In use they are equal."""
    equalised = build(kind, "x", {**EXAMPLES[kind], **WIDE, **options})
    plain = build(kind, "x", {**equalised.config, "use_wscale": False})
    for scope, gain in gains.items():
        (name,) = (n for n in plain.vars if n.endswith(f"{scope}/weight"))
        lrmul = 0.01 if "mapping" in name else 1
        weight, unit = (network.vars[name].numpy() for network in (plain, equalised))
        he_std = gain / np.sqrt(np.prod(weight.shape[:-1]))
        np.testing.assert_allclose(weight, unit * he_std, rtol=1e-5)
        assert abs(unit.std() * lrmul - 1) < 4 / np.sqrt(2 * unit.size), name
    args = inputs(plain)
    np.testing.assert_allclose(plain(*args), equalised(*args), rtol=1e-4, atol=1e-4)


def test_variables_follow_the_options():
    """A disabled option leaves no variable; the dense input has its official scope."""
    names = {option: set(make("G_style", **{option: value, **extra}).vars)
             for option, value, extra in (("use_styles", False, {"const_input": False}),
                                          ("use_noise", False, {}), ("const_input", False, {}))}
    assert not [n for n in names["use_styles"] if "StyleMod" in n]
    assert not [n for n in names["use_noise"] if "oise" in n]
    assert {n for n in names["const_input"] if "4x4/" in n and "Conv/" not in n} == {
        f"G_synthesis/4x4/Dense/{n}" for n in ("weight", "bias", "Noise/weight", "StyleMod/weight",
                                              "StyleMod/bias")}
    assert make("D_basic", mbstd_group_size=1).vars["4x4/Conv/weight"].shape[2] == 12
    assert make("D_basic", mbstd_num_features=3).vars["4x4/Conv/weight"].shape[2] == 15


def test_without_styles_w_is_the_input():
    G = make("G_style", use_styles=False, const_input=False)
    dlatents = G.mapping(inputs(G)[0])
    assert G.num_styles == 1 and dlatents.shape == [4, 1, 14]
    truncated = G.truncate(dlatents, 0.5)
    average = G.vars["dlatent_avg"].numpy()
    np.testing.assert_allclose(truncated, (dlatents + average) / 2, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(G(inputs(G)[0], truncation_psi=0.5), G.synthesis(truncated))


def test_a_mapping_without_layers_returns_z():
    latents = inputs(make("G_style"))[0]
    through = make("G_style", mapping_layers=0, dlatent_size=10, normalize_latents=False)
    np.testing.assert_array_equal(through.mapping(latents)[:, 3], latents)
    scaled = make("G_style", mapping_layers=0, dlatent_size=10).mapping(latents)[:, 3]
    np.testing.assert_allclose(tf.reduce_mean(scaled ** 2, 1), np.ones(4), rtol=1e-5)


@pytest.mark.parametrize("kind, options, message", [
    ("G_style", {"mapping_layers": 0}, "length 10 of its input; dlatent_size is 14"),
    ("G_style", {"mapping_layers": 0, "dlatent_size": 10, **LABELS}, "length 20 of its input"),
    ("G_style", {"mapping_nonlinearity": "tanh"}, "'tanh' is not one of lrelu, relu"),
    ("D_basic", {"nonlinearity": "elu"}, "'elu' is not one of lrelu, relu"),
    ("D_basic", {"mbstd_num_features": 5}, "5 does not divide the 12 maps"),
    ("D_basic", {"use_styles": False}, "does not know")])
def test_impossible_options(kind, options, message):
    with pytest.raises(UserError, match=message):
        make(kind, **options)


# ---------------------------------------------------------------------------- fused resampling


OF_8_MAPS = {  # 8 fmaps at all resolutions
    "G_style": dict(num_channels=3, resolution=16, fmap_base=64, fmap_max=8, seed=5, latent_size=8,
                    dlatent_size=8, mapping_fmaps=8, mapping_layers=2),
    "D_basic": dict(num_channels=3, resolution=16, fmap_base=64, fmap_max=8, seed=5)}


@pytest.mark.parametrize("resolution, fmaps, fused", [
    (8, 512, False), (8, 513, False), (8, 511, True), (8, 64, True), (16, 512, True),
    (16, 16, True), (512, 16, True), (4, 512, False)])
def test_the_rule_of_fused_resampling(resolution, fmaps, fused):
    assert use_fused_resampling(resolution, fmaps) is fused


@pytest.mark.parametrize("kind", EXAMPLES)
def test_a_network_follows_its_rule_layer_by_layer(kind, monkeypatch):
    """The rule gets the finer resolution and the fmaps of the layer's output, and its answer alone
    decides: with or without fusing, the images or scores are the same."""
    network, calls, made = build(kind, "x", OF_8_MAPS[kind]), [], []
    name = "fused_upscale" if kind == "G_style" else "fused_downscale"
    original = getattr(ops, name)
    monkeypatch.setattr(ops, name, lambda y, kernel: made.append(1) or original(y, kernel))
    x = tf.ones([4, 8] if kind == "G_style" else [4, 16, 16, 3])
    plain = None
    for fused in (set(), {8}, {16}, {8, 16}):
        network.use_fused_resampling = lambda r, fmaps, fused=fused: (
            calls.append((r, fmaps)) or r in fused)
        made.clear()
        y = network(x)
        assert len(made) == len(fused)
        plain = y if plain is None else plain
        np.testing.assert_allclose(y, plain, rtol=1e-4, atol=1e-5)
    assert set(calls) == {(8, 8), (16, 8)}


# ---------------------------------------------------------------------------- shared weights


@pytest.mark.parametrize("kind", EXAMPLES)
def test_shared_weights_do_not_change_gradients(kind, rng):
    network = build(kind, "x", OF_8_MAPS[kind])
    shape = (4, 8) if kind == "G_style" else (4, 16, 16, 3)
    inputs = [tf.constant(rng.standard_normal(shape), tf.float32) for _ in range(2)]
    with tf.GradientTape() as tape:
        total = sum(tf.reduce_sum(tf.sin(network(x))) for x in inputs)
    apart = tape.gradient(total, network.trainables)
    with tf.GradientTape() as tape, network.shared_weights():
        total = sum(tf.reduce_sum(tf.sin(network(x))) for x in inputs)
    together = tape.gradient(total, network.trainables)
    assert apart.keys() == together.keys()
    for name, grad in apart.items():
        if grad is None:  # the coarser ToRGBs and FromRGBs
            assert together[name] is None
            continue
        np.testing.assert_allclose(together[name], grad, rtol=1e-4,
                                   atol=1e-4 * np.abs(grad).max())


def test_shared_weights_are_computed_once_and_released():
    network, x = build("D_basic", "D", OF_8_MAPS["D_basic"]), tf.ones([4, 16, 16, 3])
    name = "16x16/Conv0/weight"
    with network.shared_weights():
        before = network(x).numpy()
        network.vars[name].assign(tf.zeros_like(network.vars[name]))
        np.testing.assert_array_equal(network(x), before)
    assert np.any(network(x) != before)


def test_shared_weights_are_released_after_an_error():
    network = build("D_basic", "D", OF_8_MAPS["D_basic"])
    with pytest.raises(ValueError, match="resolutions"), network.shared_weights():
        network(tf.ones([4, 2, 2, 3]), resolution=2)
    assert network._weight_cache is None


# ---------------------------------------------------------------------------- variables not in use


@pytest.mark.parametrize("kind", EXAMPLES)
@pytest.mark.parametrize("resolution", [4, 8, 16])
def test_resolution_of_every_variable(kind, resolution):
    """Exactly the finer ones, and the coarser ToRGBs and FromRGBs, have no gradient."""
    network = build(kind, "x", OF_8_MAPS[kind])
    x = tf.ones([4, 8] if kind == "G_style" else [4, resolution, resolution, 3])
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(tf.sin(network(x, resolution=resolution, fade=0.5)))
    for name, grad in tape.gradient(total, network.trainables).items():
        finer = network.resolution_of(name) > resolution
        past = "RGB_lod" in name and network.resolution_of(name) < resolution // 2
        assert (grad is None) == (finer or past), name
    noise = [network.resolution_of(n) for n in network.vars if "/noise" in n]
    assert noise == ([4, 4, 8, 8, 16, 16] if kind == "G_style" else [])


def test_a_step_does_not_change_finer_variables(tiny_config, rng):
    """Nor their averages and moments; every variable in use changes."""
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    config = tiny_config(variant="rgb")
    with strategy.scope():
        state = new_state(config)
    before = {name: network.get_arrays() for name, network in state.networks.items()}
    turn = GanStep(strategy, config, state.networks, state.optimizers, Critic("rgb", 3), 8, False,
                   8)
    images = tf.constant(rng.integers(0, 256, (8, 8, 8, 3), np.uint8))
    for step in range(2):
        turn((images, tf.zeros([8, 0])), step, 0.0, 0.01)
    for key, network in state.networks.items():
        for name, value in network.get_arrays().items():
            finer = network.resolution_of(name) > 8
            if finer or ("RGB_lod" in name and "lod1" not in name):
                np.testing.assert_array_equal(value, before[key][name], err_msg=name)
            elif network.vars[name].trainable:
                assert np.any(value != before[key][name]), name
    for key, optimizer in state.optimizers.items():
        for name, slot in optimizer.slots.items():
            if "/" in name and state.networks[key].resolution_of(name[2:]) > 8:
                assert not np.any(slot.numpy()), name
