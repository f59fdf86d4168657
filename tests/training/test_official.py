"""Networks of the official release: what they draw, what is refused, conversion both ways."""

import dataclasses
import io
import pickle

import numpy as np
import pytest
import tensorflow as tf

from dnnlib.tflib.network import NETWORKS
from dnnlib.util import UserError, arrays_digest
from tests.oracles import oracle
from tests.oracles.vector_files import nhwc
from tests.tools import official_files
from tests.tools.official_files import Network, tiny_networks, write_pickle
from training.official import __main__ as official
from training.official import pickles as official_pickle
from training.official.pickles import read_options
from training.sampler import Sampler
from training.snapshots import load_snapshot, read_header


@pytest.fixture
def c3(shared):
    return shared / "reference" / "official_format_c3.pkl"


def draw(path, latents, psi=None):
    """Return images [N, C, r, r] of a file's Gs, as the commands draw them, with its own noise."""
    sampler = Sampler.load(path)
    return sampler.synthesize(sampler.dlatents(latents, psi)).numpy().transpose(0, 3, 1, 2)


def run(*options):
    assert official.main([str(option) for option in options]) == 0


# ---------------------------------------------------------------------------- the stored pickle


def test_images_and_scores_equal_the_stored_ones(c3, shared):
    """Its Gs has lod 0.9, as a running average that lags behind G, which has lod 0."""
    stored = np.load(shared / "reference" / "official_format_c3_outputs.npz")
    snapshot = load_snapshot(c3)
    assert snapshot.header["lod"] == {"resolution": 32, "fade": pytest.approx(0.9)}
    networks, latents = snapshot.networks, stored["latents"]
    agree = {"rtol": 1e-4, "atol": 1e-4}
    np.testing.assert_allclose(networks["Gs"].mapping(latents), stored["Gs_dlatents"], **agree)
    theirs = stored["Gs_images_psi0p7_cut8_const_noise"]
    np.testing.assert_allclose(draw(c3, latents, 0.7), theirs, **agree)
    np.testing.assert_allclose(networks["D_rgb"](nhwc(theirs)), stored["D_scores_of_Gs_images"],
                               **agree)
    images = networks["G"](latents, truncation_psi=0.7).numpy().transpose(0, 3, 1, 2)
    np.testing.assert_allclose(images, stored["G_images_psi0p7_cut8_const_noise"], **agree)


class OfficialUnpickler(pickle.Unpickler):
    """Python's own unpickler with a stand-in for the official class, for a file that we trust."""

    def find_class(self, module, name):
        return Network if name == "Network" else super().find_class(module, name)


def arrays_of_pickle(path):
    """Return {'G/...', 'D/...', 'Gs/...': array} of a pickle, unpickled by Python."""
    def variables(state, prefix):
        found = {f"{prefix}/{name}": value for name, value in state["variables"]}
        for part in state["components"].values():
            found |= variables(part.state, f"{prefix}/{part.state['name']}")
        return found

    Network.__setstate__, kept = lambda self, state: setattr(self, "state", state), \
        Network.__setstate__
    try:
        networks = OfficialUnpickler(io.BytesIO(path.read_bytes())).load()
    finally:
        Network.__setstate__ = kept
    arrays = {}
    for network in networks:
        arrays |= variables(network.state, network.state["name"])
    return arrays


def test_converted_and_exported_arrays_equal_the_pickles(c3, tmp_path, capsys):
    run("convert", c3, tmp_path / "c3.safetensors")
    run("export", tmp_path / "c3.safetensors", tmp_path / "c3.npz")
    assert "D is D_rgb" in capsys.readouterr().out
    exported, stored = np.load(tmp_path / "c3.npz"), arrays_of_pickle(c3)
    assert set(exported.files) == set(stored) and len(stored) == 177
    for name, value in stored.items():
        assert exported[name].dtype == np.float32 and exported[name].shape == value.shape
        np.testing.assert_array_equal(exported[name], value, err_msg=name)
    assert stored["Gs/lod"] == np.float32(0.9) and stored["G/lod"] == 0
    run("export", c3, tmp_path / "direct.npz")
    assert (tmp_path / "direct.npz").read_bytes() == (tmp_path / "c3.npz").read_bytes()


# ---------------------------------------------------------------------------- the fused form


def fused_up_conv(x, w, resolution):
    """Compute the official upscaling convolution: from 128x128 on transposed, with 4x4 kernels."""
    if resolution < 128:
        return oracle.conv(oracle.upscale(x), w)
    x, w = np.asarray(x), np.pad(np.asarray(w), [(1, 1), (1, 1), (0, 0), (0, 0)])
    kernel = w[1:, 1:] + w[:-1, 1:] + w[1:, :-1] + w[:-1, :-1]
    count, _, height, width = x.shape
    y = np.zeros([count, w.shape[3], 2 * height + 2, 2 * width + 2])
    for i in range(4):
        for j in range(4):
            part = np.einsum("nchw,cd->ndhw", x, kernel[i, j])
            y[:, :, i:i + 2 * height:2, j:j + 2 * width:2] += part
    return tf.constant(y[:, :, 1:-1, 1:-1])


def test_the_oracle_of_the_fused_form_equals_the_official_one(shared):
    stored = np.load(shared / "reference" / "primitives.npz")
    kernel = stored["kernel_3x3x5x7"].astype(np.float64) * stored["runtime_coef_conv3x3_fanin45"]
    ours = fused_up_conv(stored["x"].astype(np.float64), kernel, 128)
    np.testing.assert_allclose(ours, stored["upconv_fused"], rtol=1e-5, atol=1e-5)
    assert np.abs(ours - stored["upconv_notfused"]).max() > 0.1


LARGE = {"resolution": 128, "fmap_base": 256, "fmap_max": 6}


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Return (path of an official pickle at 128x128, its arrays)."""
    networks, arrays = tiny_networks(**LARGE)
    return write_pickle(tmp_path_factory.mktemp("large") / "large.pkl", networks), arrays


def as_float64(arrays):
    return {name: tf.constant(value, tf.float64) for name, value in arrays.items()}


def test_images_equal_the_official_fused_networks(large, monkeypatch, rng):
    monkeypatch.setattr(oracle, "up_conv", fused_up_conv)
    path, arrays = large
    latents = rng.standard_normal((2, 8)).astype(np.float32)
    networks = load_snapshot(path).networks
    for name in ("Gs", "G"):
        theirs = oracle.generator(as_float64(arrays[name]), networks[name].config,
                                  tf.constant(latents, tf.float64))
        ours = networks[name](latents).numpy().transpose(0, 3, 1, 2)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    monkeypatch.undo()
    unfused = oracle.generator(as_float64(arrays["G"]), networks["G"].config,
                               tf.constant(latents, tf.float64))
    assert np.abs(unfused - theirs).max() > 0.1
    images = rng.standard_normal((4, 3, 128, 128)).astype(np.float32)
    theirs = oracle.discriminator(as_float64(arrays["D"]), networks["D_rgb"].config,
                                  tf.constant(images, tf.float64))
    np.testing.assert_allclose(networks["D_rgb"](nhwc(images))[:, 0], theirs, rtol=1e-4, atol=1e-4)


def test_up_kernels_are_rotated_back_on_export(large, tmp_path):
    path, arrays = large
    run("export", path, tmp_path / "large.npz")
    exported, name = np.load(tmp_path / "large.npz"), "G_synthesis/128x128/Conv0_up/weight"
    for network, values in arrays.items():
        for key, value in values.items():
            np.testing.assert_array_equal(exported[f"{network}/{key}"], value, err_msg=key)
    kept = load_snapshot(path).networks["G"].get_arrays()[name]
    np.testing.assert_array_equal(kept, arrays["G"][name][::-1, ::-1])


@pytest.mark.parametrize("fused_scale, turned", [(True, {8, 16}), (False, set()), ("auto", set())])
def test_forced_forms(tmp_path, fused_scale, turned):
    networks, arrays = tiny_networks(G_kwargs={"fused_scale": fused_scale})
    _, groups = official_pickle.read(write_pickle(tmp_path / "x.pkl", networks))
    for name, value in arrays["Gs"].items():
        flip = any(name == f"G_synthesis/{r}x{r}/Conv0_up/weight" for r in turned)
        np.testing.assert_array_equal(groups["Gs"][name], value[::-1, ::-1] if flip else value)


# ---------------------------------------------------------------------------- options, lod


OPTIONS = {  # official keyword of G: (its value, what our network is built with)
    "use_styles": (False, {"use_styles": False, "const_input": False}),
    "use_noise": (False, {"use_noise": False}),
    "const_input_layer": (False, {"const_input": False}),
    "use_pixel_norm": (True, {"use_pixel_norm": True}),
    "use_instance_norm": (False, {"use_instance_norm": False}),
    "nonlinearity": ("relu", {"nonlinearity": "relu"}),
    "mapping_nonlinearity": ("relu", {"mapping_nonlinearity": "relu"}),
    "use_wscale": (False, {"use_wscale": False}),
    "blur_filter": (None, {"blur": False}),
    "normalize_latents": (False, {"normalize_latents": False}),
    "mapping_layers": (3, {"mapping_layers": 3}),
    "mapping_lrmul": (0.5, {"mapping_lrmul": 0.5}),
    "mapping_fmaps": (5, {"mapping_fmaps": 5}),
    "dlatent_size": (6, {"dlatent_size": 6}),
    "fmap_decay": (1, {"fmap_decay": 1.0}),
    "label_size": (3, {"label_size": 3}),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_options_of_the_generator(tmp_path, rng, option):
    """The network that was read draws what the oracle draws with the same option."""
    value, ours = OPTIONS[option]
    config = {**official_files.TINY_G, **ours}
    given = {k: v for k, v in config.items() if k not in ("const_input", "blur")} | {option: value}
    if option == "use_styles":
        given["const_input_layer"] = False
    arrays = official_files.random_arrays("G_style", config, 4)
    D_config = {**official_files.TINY, "label_size": ours.get("label_size", 0)}
    D = official_files.official_discriminator(
        D_config, official_files.random_arrays("D_basic", D_config, 5))
    G = official_files.official_generator("G", given, arrays)
    snapshot = load_snapshot(write_pickle(tmp_path / "x.pkl", [G, D, G]))
    latents = rng.standard_normal((2, 8)).astype(np.float32)
    labels = rng.standard_normal((2, 3)).astype(np.float32) if option == "label_size" else None
    images = snapshot.networks["Gs"](latents, labels).numpy().transpose(0, 3, 1, 2)
    full = {**snapshot.networks["Gs"].config, **ours}
    theirs = oracle.generator(as_float64(arrays), full, tf.constant(latents, tf.float64),
                              None if labels is None else tf.constant(labels, tf.float64))
    np.testing.assert_allclose(images, theirs, rtol=1e-4, atol=1e-4)
    snapshot.networks["D_rgb"].digest()


def test_options_of_the_discriminator(tmp_path, rng):
    config = {**official_files.TINY, "mbstd_group_size": 2, "mbstd_num_features": 2,
              "nonlinearity": "relu", "use_wscale": False, "blur": False}
    arrays = official_files.random_arrays("D_basic", config, 5)
    given = {k: v for k, v in config.items() if k != "blur"} | {"blur_filter": None}
    networks, _ = tiny_networks()
    networks[1] = official_files.official_discriminator(given, arrays)
    D = load_snapshot(write_pickle(tmp_path / "x.pkl", networks)).networks["D_rgb"]
    images = rng.standard_normal((4, 3, 16, 16)).astype(np.float32)
    theirs = oracle.discriminator(as_float64(arrays), {**D.config, **config},
                                  tf.constant(images, tf.float64))
    np.testing.assert_allclose(D(nhwc(images))[:, 0], theirs, rtol=1e-4, atol=1e-4)


def test_official_defaults_and_ignored_options():
    for function in ("G_style", "D_basic"):
        config = read_options(function, {}, "x").config
        size = {"G_style": (3, 1024), "D_basic": (1, 32)}[function]
        assert (config["num_channels"], config["resolution"]) == size
        options = {f.name: f.default for f in dataclasses.fields(NETWORKS[function].Options)}
        assert config.keys() == options.keys() - {"seed"}
        for name in config.keys() - {"num_channels", "resolution", "label_size"}:
            assert options[name] == config[name], name
    passed = {"truncation_psi": 0.7, "randomize_noise": False, "style_mixing_prob": None,
              "is_training": True, "structure": "linear", "dtype": "float32",
              "blur_filter": (1, 2, 1)}
    assert read_options("G_style", passed, "x") == read_options("G_style", {}, "x")


def test_options_may_be_numpy_numbers(tmp_path):
    networks, _ = tiny_networks(G_kwargs={"resolution": np.int64(16), "fmap_decay": np.float32(1)})
    header, _ = official_pickle.read(write_pickle(tmp_path / "x.pkl", networks))
    config = header["networks"]["Gs"]["config"]
    assert type(config["resolution"]) is int and type(config["fmap_decay"]) is float
    networks, _ = tiny_networks(G_kwargs={"resolution": np.full(2, 16)})
    with pytest.raises(UserError, match="resolution is a ndarray"):
        official_pickle.read(write_pickle(tmp_path / "x.pkl", networks))


@pytest.mark.parametrize("kwargs, message", [
    ({"colour": 1}, "unknown options colour"), ({"blur_filter": [1, 3, 3, 1]}, "blur_filter"),
    ({"dtype": "float16"}, "dtype is 'float16'"), ({"nonlinearity": "elu"}, "'elu'"),
    ({"fused_scale": 1}, "fused_scale is 1"), ({"structure": "skip"}, "structure"),
    ({"resolution": 48}, "resolution is 48"), ({"resolution": "1024"}, "resolution is '1024'"),
    ({"latent_size": 2**40}, "latent_size"), ({"fmap_max": 0}, "fmap_max"),
    ({"use_noise": 1}, "use_noise"), ({"mapping_lrmul": float("nan")}, "mapping_lrmul"),
    ({"label_size": True}, "label_size"), ({"synthesis_func": "G_other"}, "synthesis_func"),
    ({"fmap_decay": [1.0]}, "a list"), ({"\x1b[2J": 1}, "unknown options"),
    ({("resolution",): 16}, "static_kwargs are damaged")])
def test_unknown_options_are_refused(tmp_path, kwargs, message):
    networks, _ = tiny_networks(G_kwargs=kwargs)
    with pytest.raises(UserError, match="network G") as caught:
        official_pickle.read(write_pickle(tmp_path / "x.pkl", networks))
    assert message in str(caught.value) and "\x1b" not in str(caught.value)


@pytest.mark.parametrize("kwargs", [
    {"resolution": 2**20}, {"latent_size": 2**20}, {"mapping_fmaps": 2**20},
    {"mapping_layers": 2**20}, {"fmap_base": 2**20, "fmap_max": 2**20}, {"label_size": 2**20},
    {"dlatent_size": 2**20}, {"num_channels": 2**20}])
def test_a_small_file_cannot_ask_for_a_large_network(tmp_path, kwargs):
    networks, _ = tiny_networks(G_kwargs=kwargs)
    with pytest.raises(UserError, match="larger network than its variables"):
        official_pickle.read(write_pickle(tmp_path / "x.pkl", networks))


@pytest.mark.parametrize("lod, expected", [
    (0.0, (16, 0.0)), (0.25, (16, 0.25)), (1.0, (8, 0.0)), (1.75, (8, 0.75)), (2.0, (4, 0.0))])
def test_lod(tmp_path, lod, expected):
    networks, _ = tiny_networks((0.5, 0.5, lod))
    path = write_pickle(tmp_path / "x.pkl", networks)
    header = read_header(path)
    assert (header["lod"]["resolution"], header["lod"]["fade"]) == expected
    run("convert", path, tmp_path / "x.safetensors")
    run("export", tmp_path / "x.safetensors", tmp_path / "x.npz")
    exported = np.load(tmp_path / "x.npz")
    assert exported["Gs/lod"] == exported["Gs/G_synthesis/lod"] == lod
    assert exported["G/lod"] == exported["D/lod"] == 0.5


def test_a_network_of_fixed_structure_has_no_lod(tmp_path):
    networks, _ = tiny_networks((1.0, 1.0, 1.0), {"structure": "fixed"})
    assert read_header(write_pickle(tmp_path / "x.pkl", networks))["lod"]["resolution"] == 16


def test_options_of_a_part_count(tmp_path):
    """A part's own options count if the whole network, which passes its own on, has none."""
    networks, _ = tiny_networks()
    for network in (networks[0], networks[2]):
        for part in network.state["components"].values():
            part.state["static_kwargs"] |= {"nonlinearity": "relu", "latent_size": 99}
    header, _ = official_pickle.read(write_pickle(tmp_path / "x.pkl", networks))
    config = header["networks"]["Gs"]["config"]
    assert config["nonlinearity"] == "relu" and config["latent_size"] == 8


# ---------------------------------------------------------------------------- what is refused


def change_variable(name, value):
    def change(networks):
        inner = networks[2].state["components"]["mapping"].state
        inner["variables"] = [(k, value if k == name else v) for k, v in inner["variables"]]
    return change


def edit(index, **entries):
    return lambda networks: networks[index].state.update(entries)


def drop(networks):
    del networks[0].state["components"]["synthesis"].state["variables"][5]


def add(networks):
    networks[0].state["components"]["synthesis"].state["variables"] += [
        ("64x64/Conv1/weight", np.zeros(3, np.float32))]


def repeat(networks):
    networks[1].state["variables"] *= 2


def collide(networks):
    networks[0].state["variables"].append(("G_mapping/Dense0/bias", np.zeros(8, np.float32)))


def no_lod(networks):
    del networks[1].state["variables"][0]


BAD = {
    "missing": (drop, "missing \\['G_synthesis/noise4'\\]"),
    "extra": (add, "extra \\['G_synthesis/64x64/Conv1/weight'\\]"),
    "shape": (change_variable("Dense0/bias", np.zeros(7, np.float32)), "wrong shape"),
    "twice": (repeat, "two variables lod"), "collision": (collide, "two variables G_mapping"),
    "NaN": (change_variable("Dense0/bias", np.full(8, np.nan, np.float32)), "not finite"),
    "float64": (change_variable("Dense0/bias", np.zeros(8)), "no array of float32"),
    "text": (change_variable("Dense0/bias", "zeros"), "no array of float32"),
    "no lod": (no_lod, "no variable lod"), "version": (edit(0, version=4), "version 3.*StyleGAN2"),
    "no version": (edit(0, version=None), "version 3"),
    "version of text": (edit(0, version=[3]), "version 3"),
    "function": (edit(1, build_func_name="D_stylegan2"), "built by D_stylegan2"),
    "components": (edit(0, components={}), "components mapping, synthesis"),
    "component of another kind": (edit(0, components={"mapping": 1, "synthesis": 2}), "no network"),
    "components of D": (edit(1, components={"x": 1}), "components none"),
    "variables": (edit(1, variables={}), "variables are missing"),
    "variable": (edit(1, variables=["lod"]), "variables are damaged"),
    "kwargs": (edit(1, static_kwargs=[]), "static_kwargs"),
    "lod": (edit(1, variables=[("lod", np.zeros(2, np.float32))]), "lod is no single"),
    "own component": (lambda n: n[0].state["components"].update(mapping=n[0]), "built by G_style"),
}


@pytest.mark.parametrize("case", BAD)
def test_networks_that_do_not_fit_are_refused(tmp_path, case):
    change, message = BAD[case]
    networks, _ = tiny_networks()
    change(networks)
    with pytest.raises(UserError, match=message) as caught:
        load_snapshot(write_pickle(tmp_path / "x.pkl", networks))
    assert str(tmp_path / "x.pkl") in str(caught.value) and "\n" not in str(caught.value)


def test_networks_that_do_not_belong_together_are_refused(tmp_path):
    (G, D, Gs), _ = tiny_networks()
    (_, D5, Gs5), _ = tiny_networks(num_channels=5)
    (G1, D1, Gs1), _ = tiny_networks(num_channels=1)
    far = tiny_networks((0.0, 0.0, 2.5))[0]
    for networks, message in (((G, D, Gs5), "different options"), ((G, D5, Gs), "num_channels"),
                              ((G1, D1, Gs1), "three colours"), (far, "lod is 2.5"),
                              ((D, G, Gs), "built by D_basic"), ((G, D), "pickle of a tuple"),
                              ((G, D, "Gs"), "pickle of a tuple")):
        with pytest.raises(UserError, match=message):
            official_pickle.read(write_pickle(tmp_path / "x.pkl", networks))
    (tmp_path / "x.pkl").write_bytes(official_files.dumps(Gs))
    with pytest.raises(UserError, match="a single network"):
        official_pickle.read(tmp_path / "x.pkl")
    (tmp_path / "x.pkl").write_bytes(official_files.dumps({"G": G}))
    with pytest.raises(UserError, match=r"a pickle of a dict; one of .* holds three networks"):
        official_pickle.read(tmp_path / "x.pkl")


def test_source_code_in_a_pickle_is_ignored(tmp_path):
    """The official class runs it on reading; ours does not look at it."""
    marker = tmp_path / "executed"
    networks, _ = tiny_networks()
    for network in networks:
        network.state["build_module_src"] = f"open({str(marker)!r}, 'w').close()"
    load_snapshot(write_pickle(tmp_path / "x.pkl", networks))
    assert not marker.exists()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_reads_the_same(tmp_path, protocol):
    networks, arrays = tiny_networks()
    header, groups = official_pickle.read(write_pickle(tmp_path / "x.pkl", networks, protocol))
    for ours, theirs in (("G", "G"), ("D_rgb", "D"), ("Gs", "Gs")):
        assert groups[ours].keys() == arrays[theirs].keys()
        for name, value in arrays[theirs].items():
            np.testing.assert_array_equal(groups[ours][name], value)
    assert header["digest"] == arrays_digest(arrays["Gs"])


def test_more_channels_than_three(tmp_path):
    networks, _ = tiny_networks(num_channels=5)
    path = write_pickle(tmp_path / "x.pkl", networks)
    header = read_header(path)
    assert header["classes"] == ["map1", "map2"] and "D_joint" in header["networks"]
    assert draw(path, np.zeros((1, 8), np.float32)).shape == (1, 5, 16, 16)
