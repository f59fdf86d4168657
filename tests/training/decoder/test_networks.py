"""Features of the generator, decoders against NumPy and finite differences, and both together."""

import numpy as np
import pytest
import tensorflow as tf

from dnnlib.tflib.network import build
from tests.oracles import oracle
from tests.oracles.vector_files import Vectors
from training import snapshots
from training.decoder import networks
from training.decoder.networks import DecodedGenerator, Decoder, decoded_config
from training.networks_stylegan import G_style

SMALL = dict(num_channels=3, resolution=16, latent_size=8, dlatent_size=8, mapping_fmaps=8,
             fmap_base=64, fmap_max=8)
FMAPS = (8, 8, 8, 8, 4, 4)


def lively(network, seed=1):
    """Give every variable random values; variances get positive ones."""
    rng = np.random.default_rng(seed)
    network.set_arrays({name: 0.5 * rng.standard_normal(value.shape).astype(np.float32)
                        + 2.0 * name.endswith("variance")
                        for name, value in network.get_arrays().items()})
    return network


def latents(network, count=3, seed=5):
    return network.mapping(np.random.default_rng(seed).standard_normal((count, 8)))


def some_features(count=2, dtype=np.float64, seed=3):
    rng = np.random.default_rng(seed)
    return [tf.constant(rng.standard_normal((count, 4 << i // 2, 4 << i // 2, fmaps)), dtype)
            for i, fmaps in enumerate(FMAPS)]


# Features

@pytest.mark.parametrize("resolution, fade", [(16, 0.0), (8, 0.25), (4, 0.0)])
def test_the_image_is_made_from_the_last_features(resolution, fade):
    """The last features give the image, all equal the oracle's, and images are equal to the bit."""
    G = lively(G_style("G", **SMALL))
    dlatents = latents(G)
    images, features = G.synthesis(dlatents, resolution, fade, features=True)
    np.testing.assert_array_equal(images, G.synthesis(dlatents, resolution, fade))
    sizes = [4 << i // 2 for i in range(2 * int(np.log2(resolution)) - 2)]
    fmaps = [min(8, 64 // (side // 2)) for side in sizes]
    assert [x.shape for x in features] == [(3, s, s, f) for s, f in zip(sizes, fmaps)]
    plain, _ = G.synthesis(dlatents, resolution, 0.0, features=True)
    np.testing.assert_array_equal(plain, G._to_rgb(features[-1], int(np.log2(resolution))))
    if not fade:
        expected = oracle_features(G, dlatents, resolution)
        for ours, theirs in zip(features, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-4)


def oracle_features(G, dlatents, resolution):
    """Return what the oracle's synthesis computes after each of its epilogues, NHWC."""
    kept, epilogue = [], oracle.epilogue

    def keep(*args, **options):
        kept.append(epilogue(*args, **options))
        return kept[-1]

    oracle.epilogue = keep
    try:
        lod = float(np.log2(G.resolution / resolution))
        oracle.synthesis(oracle_arrays(G), G.config, tf.cast(dlatents, tf.float64), lod)
    finally:
        oracle.epilogue = epilogue
    count = 2 * int(np.log2(resolution)) - 2
    return [np.transpose(x, [0, 2, 3, 1]) for x in kept[:count]]


def oracle_arrays(G):
    return {name: tf.constant(value, tf.float64) for name, value in G.get_arrays().items()}


def test_features_equal_the_official_releases(shared):
    """Against the outputs of every style in the reference vectors."""
    vectors = Vectors(shared / "reference", "c3")
    reference, inputs = vectors.load("c3_intermediates"), vectors.load("c3_G")
    G, _ = vectors.networks()
    _, features = G.synthesis(inputs["dlatents"], features=True)
    styles = [name for name in reference if name.endswith("/style_mod")]
    for name, ours in zip(styles, features, strict=True):
        official = reference[name]
        ours = np.transpose(ours, [0, 3, 1, 2])[:len(official)]
        np.testing.assert_allclose(ours, official, rtol=1e-3, atol=1e-3, err_msg=name)


# Layers

@pytest.mark.parametrize("side", [4, 8, 16])
def test_enlarging_is_equal_in_both_types_and_symmetric(side):
    """float32 by TensorFlow's operation, float64 by matrices; their gradients too."""
    rng = np.random.default_rng(0)
    x, factors = rng.standard_normal((2, side, side, 3)), rng.standard_normal((2, 16, 16, 3))
    found = []
    for dtype in (tf.float32, tf.float64):
        values = tf.constant(x, dtype)
        with tf.GradientTape() as tape:
            tape.watch(values)
            larger = networks.enlarge_bilinearly(values, 16)
            total = tf.reduce_sum(larger * tf.constant(factors, dtype))
        found.append((larger, tape.gradient(total, values)))
    for single, double in zip(*found):
        np.testing.assert_allclose(single, double, atol=1e-5)
    mirrored = networks.enlarge_bilinearly(tf.constant(x[:, :, ::-1]), 16)
    np.testing.assert_allclose(mirrored, found[1][0][:, :, ::-1], atol=1e-12)


def test_features_at_pixels_equal_enlarged_features():
    features = some_features()
    places = np.random.default_rng(2).integers(0, 256, (2, 50)).astype(np.int32)
    whole = np.concatenate([networks.enlarge_bilinearly(x, 16) for x in features], -1)
    whole = whole.reshape(2, 256, -1)
    found = networks.gather_pixels(features, tf.constant(places), 16)
    np.testing.assert_allclose(found, np.take_along_axis(whole, places[..., None], 1), atol=1e-12)


# Decoders

def float64_weights(kind, members=3):
    decoder = lively(Decoder(kind=kind, num_outputs=3, fmaps=FMAPS, members=members))
    return {name: tf.constant(value, tf.float64) for name, value in decoder.get_arrays().items()}


def numpy_norm(w, scope, x):
    """Return batch norm of x [n, fmaps] as in training."""
    x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    return x * w[f"{scope}/gamma"] + w[f"{scope}/beta"]


def numpy_logits(kind, w, features):
    """Return logits in training, pixel by pixel, [n, out]; of an mlp [members, n, out]."""
    w = {name: np.asarray(value) for name, value in w.items()}
    enlarged = [np.asarray(networks.enlarge_bilinearly(x, 16)).reshape(512, -1) for x in features]
    if kind == "linear":
        return sum(x @ w[f"layer{i}/kernel"] for i, x in enumerate(enlarged))
    if kind == "mlp":
        members = []
        for m in range(3):
            own = {name: value[m] for name, value in w.items()}
            x = np.concatenate(enlarged, 1)
            for i in range(2):
                x = np.maximum(x @ own[f"dense{i}/kernel"] + own[f"dense{i}/bias"], 0)
                x = numpy_norm(own, f"dense{i}", x)
            members.append(x @ own["dense2/kernel"] + own["dense2/bias"])
        return np.stack(members)
    total = np.zeros([2, 4, 4, 64])
    for i, x in enumerate(features):
        x = np.asarray(x)
        y = np.maximum(numpy_norm(w, f"layer{i}", x.reshape(-1, x.shape[-1])
                                  @ w[f"layer{i}/kernel"]), 0)
        total = np.asarray(networks.enlarge_bilinearly(tf.constant(total), x.shape[1])) \
            + y.reshape(*x.shape[:3], 64)
    return total.reshape(512, 64) @ w["logits/kernel"] + w["logits/bias"]


def trained(kind, w, features, means=None):
    """Return our logits in training."""
    means = {} if means is None else means
    if kind == "linear":
        return networks.linear_logits(w, features)
    if kind == "conv":
        return networks.conv_logits(w, features, means)
    places = tf.tile(tf.range(256)[None], [2, 1])
    pixels = networks.gather_pixels(features, places, 16)
    return networks.mlp_logits(w, tf.reshape(pixels, [512, -1]), means)


@pytest.mark.parametrize("kind", ["linear", "conv", "mlp"])
def test_decoders_and_their_gradients_equal_numpys(kind):
    """Logits against NumPy's; the cross-entropy's gradient with respect to every variable, along a
    random direction, against central differences of NumPy's loss, all in float64."""
    w, features = float64_weights(kind), some_features()
    labels = np.random.default_rng(4).integers(0, 3, 512)

    def numpy_loss(w):
        logits = numpy_logits(kind, w, features)
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return -log_p[..., np.arange(512), labels].mean()

    with tf.GradientTape() as tape:
        tape.watch(w)
        logits = trained(kind, w, features)
        flat = tf.reshape(logits, [-1, 512, 3])
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(
            np.tile(labels, [flat.shape[0], 1]), flat))
    expected = numpy_logits(kind, w, features)
    np.testing.assert_allclose(tf.reshape(logits, expected.shape), expected, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(loss, numpy_loss(w), rtol=1e-12)
    rng = np.random.default_rng(6)
    for name, gradient in tape.gradient(loss, w).items():
        if "moving" in name:
            assert gradient is None or not np.any(gradient)
            continue
        step = 1e-6 * rng.standard_normal(gradient.shape)
        ends = [numpy_loss({**w, name: np.asarray(w[name]) + sign * step}) for sign in (1, -1)]
        np.testing.assert_allclose(np.sum(gradient * step), (ends[0] - ends[1]) / 2, rtol=1e-4,
                                   atol=1e-12, err_msg=name)


@pytest.mark.parametrize("kind", ["linear", "conv", "mlp"])
def test_a_decoder_in_use_equals_training_at_every_pixel(kind):
    """With the batch's statistics as running ones, whole pictures have the logits of training."""
    w, features, means = float64_weights(kind), some_features(), {}
    for name in w:
        if "moving" in name:
            w[name] = tf.zeros_like(w[name])
    training = trained(kind, w, features, means)
    # From running means of zero, a step goes a tenth of the way.
    w |= {name: value * 10 for name, value in means.items()}
    assert set(means) == {name for name in w if "moving" in name}
    logits = {"linear": lambda: networks.linear_logits(w, features),
              "conv": lambda: networks.conv_logits(w, features, None),
              "mlp": lambda: networks.member_logits(w, features)}[kind]()
    np.testing.assert_allclose(tf.reshape(logits, training.shape), training, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("kind", ["linear", "conv", "mlp"])
def test_a_mirrored_picture_has_the_mirrored_map(kind):
    """So flips would teach a decoder nothing."""
    decoder = lively(Decoder(kind=kind, num_outputs=3, fmaps=FMAPS, members=2))
    features = some_features(dtype=np.float32)
    maps = decoder(features)
    np.testing.assert_allclose(decoder([x[:, :, ::-1] for x in features]), maps[:, :, ::-1],
                               atol=1e-5)
    assert maps.shape == (2, 16, 16, 2)
    assert -0.5 <= np.min(maps) < 0 < np.max(maps) <= 0.5


@pytest.mark.parametrize("kind, members", [("linear", 1), ("conv", 1), ("mlp", 5)])
def test_a_pixel_is_background_only_if_that_is_likelier_than_all_classes_together(kind, members):
    """A garment that may be of two classes gets one of them; of an mlp, votes are counted."""
    decoder = lively(Decoder(kind=kind, num_outputs=3, fmaps=FMAPS, members=members))
    features = some_features(dtype=np.float32)
    maps, found = decoder(features).numpy(), decoder.probabilities(features).numpy()
    if kind == "mlp":
        votes = (found.argmax(-1)[..., None] == np.arange(3)).sum(0)
        found = (votes + found.mean(0)) / (members + 1)
    else:
        found, = found
    background, classes = found[..., 0], found[..., 1:]
    np.testing.assert_array_equal(maps.argmax(-1), classes.argmax(-1))
    np.testing.assert_allclose(maps.max(-1), (classes.sum(-1) - background) / 2, atol=1e-6)
    shared = (background > classes.max(-1)) & (background < classes.sum(-1))
    assert shared.any() and (maps.max(-1)[shared] > 0).all()


def test_the_majority_decides_and_probabilities_break_ties():
    p = np.array([[[0.6, 0.3, 0.1]], [[0.55, 0.3, 0.15]], [[0.0, 0.05, 0.95]]])
    assert p.mean(0)[0].argmax() == 2  # what the mean alone would choose
    shares = networks.vote_shares(tf.constant(p)).numpy()
    assert shares[0].argmax() == 0
    np.testing.assert_allclose(shares.sum(-1), 1)
    tie = np.array([[[0.6, 0.4]], [[0.1, 0.9]]])
    assert networks.vote_shares(tf.constant(tie)).numpy()[0].argmax() == 1


def test_disagreement_is_the_jensen_shannon_divergence():
    rng = np.random.default_rng(8)
    p = rng.dirichlet(np.ones(4), (5, 2, 10, 10))
    mean = p.mean(0)
    expected = (p * np.log(p / mean)).sum(-1).mean(0)  # mean divergence from the mean
    found = networks.disagreement(tf.constant(p))
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    sure = tf.constant(np.tile(np.eye(4)[1], (5, 1, 3, 3, 1)))
    np.testing.assert_array_equal(networks.disagreement(sure), 0)
    order = np.sort(expected.reshape(2, 100))[:, -10:]
    np.testing.assert_allclose(networks.picture_uncertainty(found), order.mean(1))


# The network of both

def combined(kind="conv", **changes):
    G = lively(G_style("G", **{**SMALL, **changes.pop("generator", {})}))
    network = build("DecodedGenerator", "Gs", decoded_config(G.config, 2, decoder=kind, **changes))
    arrays = {f"generator/{name}": value for name, value in G.get_arrays().items()}
    network.set_arrays({**network.get_arrays(), **arrays})
    lively(network.decoder)
    return G, network


def test_the_generator_gives_colours_and_the_decoder_maps():
    G, network = combined()
    dlatents = latents(network)
    images = network.synthesis(dlatents)
    np.testing.assert_array_equal(images[..., :3], G.synthesis(dlatents))
    np.testing.assert_array_equal(images[..., 3:], network.decoder(network.features(dlatents)))
    assert (network.num_channels, network.latent_size, network.num_layers) == (5, 8, 6)
    np.testing.assert_array_equal(network.truncate(dlatents, 0.5), G.truncate(dlatents, 0.5))
    assert all(name.startswith("decoder/") for name in network.trainables)
    with pytest.raises(ValueError, match="draws maps at 16, not 8"):
        network.synthesis(dlatents, 8)


def test_only_the_colours_of_a_generator_with_maps_are_used():
    G, network = combined(generator={"num_channels": 7}, map_resolution=8)
    dlatents = latents(network)
    images = network.synthesis(dlatents, 8, 0.5)
    assert images.shape == (3, 8, 8, 5)
    np.testing.assert_array_equal(images[..., :3], G.synthesis(dlatents, 8, 0.5)[..., :3])


def test_a_snapshot_holds_both(tmp_path):
    _, network = combined("mlp")
    header = {"stage": "classes", "classes": ["a", "b"], "lod": {"resolution": 16, "fade": 0.0}}
    snapshots.save_snapshot(tmp_path / "both.safetensors", {"Gs": network}, header)
    again = snapshots.load_snapshot(tmp_path / "both.safetensors").networks["Gs"]
    assert type(again) is DecodedGenerator and again.digest() == network.digest()
    np.testing.assert_array_equal(again(np.ones([1, 8])), network(np.ones([1, 8])))
