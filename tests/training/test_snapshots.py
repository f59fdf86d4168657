"""Containers: complete, checked, and found."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import dataset_tool
from dnnlib.data.dataset import open_dataset
from dnnlib.tflib.network import build
from dnnlib.tflib.optimizer import Adam
from dnnlib.util import UserError
from tests.tools.data_helpers import make_dataset
from tests.tools.training_runs import ONE_DEVICE
from training import snapshots, state
from training.gan.schedule import make_stage
from training.method_config import BLOCKS
from training.snapshot_header import check_header
from training.snapshots import find_snapshot, load_snapshot, save_snapshot
from training.state import Progress
from training.stylegan import StyleGan

HEADER = {"classes": [], "stage": "rgb", "kimg": 1.5, "lod": {"resolution": 8, "fade": 0.0}}


@pytest.fixture
def networks():
    config = dict(num_channels=3, resolution=8, fmap_base=32, fmap_max=4, latent_size=4,
                  dlatent_size=4, mapping_fmaps=4, mapping_layers=1)
    G = build("G_style", "G", config)
    return {"G": G, "Gs": G.clone("Gs")}


def test_round_trip(networks, tmp_path, rng):
    path = tmp_path / "network-snapshot-000001.safetensors"
    saved = save_snapshot(path, networks, HEADER)
    loaded = load_snapshot(path)
    assert ({n: net.digest() for n, net in loaded.networks.items()}
            == {n: net.digest() for n, net in networks.items()})
    assert loaded.header["digest"] == saved.header["digest"] == networks["Gs"].digest()
    latents = rng.standard_normal((2, 4)).astype(np.float32)
    np.testing.assert_array_equal(loaded.networks["Gs"](latents), networks["Gs"](latents))
    assert list(load_snapshot(path, names=("Gs",)).networks) == ["Gs"]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("damage", ["flip", "cut", "text"])
def test_damage_is_noticed(networks, tmp_path, damage):
    path = tmp_path / "a.safetensors"
    save_snapshot(path, networks, HEADER)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes({"flip": bytes(data), "cut": bytes(data[:-40]), "text": b"<htm"}[damage])
    with pytest.raises(UserError, match=r"a\.safetensors: (cut short, )?damaged"):
        load_snapshot(path)


@pytest.mark.parametrize("name", ["quota.pkl", "ffhq.safetensors"])
@pytest.mark.parametrize("content, message", [
    (b"<!DOCTYPE html><html><title>Quota exceeded</title>", "a web page, not a network: download"),
    (b"\xef\xbb\xbf\n <HTML lang=en>", "a web page, not a network: download it again"),
    (b'<?xml version="1.0"?><Error><Code>AccessDenied', "a web page, not a network: download it"),
    (b"version https://git-lfs.github.com/spec/v1\noid 0", "only a Git-LFS pointer; fetch "),
    (b"", "an empty file: copy or download it again"),
    (b"PK\3\4\x14\0archive/data.pkl", "a zip, as PyTorch saves networks; expected a snapshot")])
def test_common_wrong_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    for read in (snapshots.read_header, load_snapshot):
        with pytest.raises(UserError, match=f"{name}: {message}"):
            read(tmp_path / name)


def test_a_header_has_the_absolute_path_of_the_data(tmp_path, monkeypatch, tiny_config):
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path / "out" / "syn", {"train": np.zeros((8, 3, 16, 16), np.uint8)}, ())
    for path in (Path("out/syn"), tmp_path / "out" / "syn", Path("out/../out/syn")):
        config = tiny_config(data=str(path))
        method = StyleGan(config, open_dataset(path), ONE_DEVICE)
        header = method.header(make_stage(config, 2, "rgb"), Progress())
        assert header["dataset"]["path"] == str(tmp_path / "out" / "syn")
        assert header["dataset"]["content_box"] is None


def test_a_header_says_where_the_photos_are(tmp_path, tiny_config):
    """As in a training's snapshots; generate.py reads it."""
    create_synthetic = ["create_synthetic", "--num-images=6", "--resolution=16", "--num-val=0",
                        "--num-test=0", "--workers=1", f"--out={tmp_path}"]
    dataset_tool.main(create_synthetic)
    method = StyleGan(tiny_config(data=str(tmp_path)), open_dataset(tmp_path), ONE_DEVICE)
    about = method.header(make_stage(method.config, 13, "rgb"), Progress())["dataset"]
    assert (about["resolution"], about["content_box"]) == (16, (2, 0, 13, 16))


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"x": np.zeros(3, np.float32)}, path)
    with pytest.raises(UserError, match="not one of this program's"):
        load_snapshot(path)
    with pytest.raises(UserError, match="no such"):
        load_snapshot(tmp_path / "missing.safetensors")
    save_file({"x": np.zeros(3, np.float32)}, path,
              metadata={"header": json.dumps({"digests": {}, "format_version": 99})})
    with pytest.raises(UserError, match="format 99"):
        load_snapshot(path)


def test_unknown_network_type_and_wrong_shapes(networks, tmp_path):
    path = tmp_path / "a.safetensors"
    save_snapshot(path, networks, HEADER)
    header, groups = snapshots.load_container(path)
    foreign = {**header, "networks": {"G": {"type": "os.system", "config": {}}}}
    snapshots.save_container(path, foreign, groups)
    with pytest.raises(UserError, match="unknown network type"):
        load_snapshot(path)
    for option, value, reason in (("use_noise", False, r"extra \['"),
                                  ("resolution", 16, r"missing \['")):
        header["networks"]["G"]["config"][option] = value
        snapshots.save_container(path, header, groups)
        with pytest.raises(UserError, match=reason):
            load_snapshot(path, names=("G",))


LOD = HEADER["lod"]


@pytest.mark.parametrize("name, values", [
    ("networks", (None, [], {}, {"Gs": None}, {"Gs": {"type": [], "config": {}}},
                  {"Gs": {"type": "G_style", "config": []}})),
    ("classes", (None, "ab", [1])), ("digest", (None, 5)), ("kimg", ("1",)),
    ("lod", (None, [], {"resolution": 8}, LOD | {"resolution": "8"}, LOD | {"resolution": 9},
             LOD | {"resolution": 16},
             LOD | {"fade": "0"}, LOD | {"fade": float("nan")})),
    ("dataset", (None, [], {"content_box": [0, 0, 8, 8]},
                 {"content_box": [8, 0, 0, 8], "resolution": 8},
                 {"content_box": "0088", "resolution": 8})),
    ("generator", (None, "rgb", {"path": "rgb"}, {"path": "rgb", "digest": None})),
    ("training", (None, [], {"map_contrast": "5"}))])
def test_a_header_with_its_own_digest_is_checked(networks, tmp_path, name, values):
    """Whoever changes a header can write its digest too, so its content is checked before use."""
    path = tmp_path / "a.safetensors"
    save_snapshot(path, networks, HEADER)
    header, groups = snapshots.load_container(path)
    for value in values:
        snapshots.save_container(path, {**header, name: value}, groups)
        for read in (snapshots.read_header, load_snapshot):
            with pytest.raises(UserError, match=rf"a\.safetensors: '{name}' in its header"):
                read(path)


@pytest.mark.parametrize("variant, name, value", [
    ("pose", "keypoints", 5), ("pose", "skeleton", [[1]]), ("pose", "skeleton", [[1, 3]]),
    ("cyclegan", "domains", {"A": {"garment": []}}), ("cyclegan", "domains", None)])
def test_headers_of_other_trainings_are_checked(variant, name, value):
    header = {**HEADER, "digest": "", "networks": {"G": {"type": "", "config": {}}},
              "variant": variant, "keypoints": ["a", "b"], "skeleton": [[1, 2]],
              "domains": {side: {"garment": ["hat"]} for side in "AB"}}
    check_header(header)
    with pytest.raises(ValueError, match=f"'{name}' in its header"):
        check_header({**header, name: value})


def test_impossible_options_are_refused(networks, tmp_path):
    path = tmp_path / "a.safetensors"
    save_snapshot(path, networks, HEADER)
    for name, value in (("resolution", "8"), ("num_channels", -1), ("fmap_base", None),
                        ("seed", "x")):
        header, groups = snapshots.load_container(path)
        header["networks"]["Gs"]["config"][name] = value
        snapshots.save_container(tmp_path / "b.safetensors", header, groups)
        with pytest.raises(UserError, match="options of network Gs cannot be right"):
            load_snapshot(tmp_path / "b.safetensors", names=("Gs",))


@pytest.mark.parametrize("option, value", [("latent_size", 1 << 14), ("resolution", 1 << 13)])
def test_a_header_cannot_demand_all_of_the_memory(networks, tmp_path, option, value):
    path = tmp_path / "a.safetensors"
    save_snapshot(path, networks, HEADER)
    header, groups = snapshots.load_container(path)
    header["networks"]["Gs"]["config"][option] = value
    snapshots.save_container(path, header, groups)
    with pytest.raises(UserError, match="more numbers than there is room for"):
        load_snapshot(path, names=("Gs",))


@pytest.mark.parametrize("option, value", [
    ("unet_fmaps", 1 << 20), ("unet_fmaps", "2"), ("resolution", 17), ("num_outputs", 4)])
def test_a_segmentation_networks_header_cannot_either(tmp_path, option, value):
    path, options = tmp_path / "a.safetensors", dict(resolution=16, num_outputs=3, unet_fmaps=2)
    network = build("Segmenter", "S", {**options, "architecture": "unet"})
    save_snapshot(path, {"S": network}, {"classes": ["red", "green"]})
    assert load_snapshot(path).networks["S"].digest() == network.digest()
    header, groups = snapshots.load_container(path)
    header["networks"]["S"]["config"][option] = value
    snapshots.save_container(path, header, groups)
    with pytest.raises(UserError, match="'networks' in its header is damaged, or of other classes"):
        load_snapshot(path)


def test_a_translators_header_cannot_either(tmp_path, monkeypatch):
    """Layers take time even if they are small."""
    path = tmp_path / "a.safetensors"
    network = build("ResnetGenerator", "G", {"resolution": 8, "in_channels": 3, "fmaps": 1,
                                             "blocks": 1})
    save_snapshot(path, {"G": network}, {"classes": []})
    header, groups = snapshots.load_container(path)
    header["networks"]["G"]["config"]["blocks"] = BLOCKS["high"] + 1
    snapshots.save_container(path, header, groups)
    monkeypatch.setattr("training.snapshots.build", None)
    with pytest.raises(UserError, match="'networks' in its header is damaged"):
        load_snapshot(path)


def test_a_failed_write_leaves_the_old_file(networks, tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_snapshot(path, networks, HEADER)
    before = path.read_bytes()

    def disk_full(self, content):
        with open(self, "wb") as file:
            file.write(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", disk_full)
    with pytest.raises(OSError, match="No space"):
        save_snapshot(path, networks, HEADER)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


class Lines(list):
    """A log that keeps its lines."""

    def info(self, line):
        self.append(line)


def save_states(networks, run_dir, nimgs=(8, 16, 24), keep=3, **counters):
    """Write training states at these nimg, with Adam's slots."""
    optimizers = {"G": Adam(networks["G"].trainables)}
    for nimg in nimgs:
        progress = state.Progress(cur_nimg=nimg, **counters)
        state.save_state(run_dir, state.TrainingState(networks, optimizers, progress), keep)


def newest(run_dir):
    """Return (nimg of the newest undamaged state, what was logged)."""
    log = Lines()
    return state.load_newest_state(run_dir, log)[0]["progress"]["cur_nimg"], "".join(log)


def damaged(data, how, rng):
    """Return the bytes of a file, damaged in one way."""
    place = int(rng.integers(len(data)))
    if how == "flip":
        return data[:place] + bytes([data[place] ^ 1 << int(rng.integers(8))]) + data[place + 1:]
    if how == "zeros":
        return data[:place] + bytes(len(data) - place)
    if how == "cut":
        return data[:place]
    return {"empty": b"", "longer": data + b"\0", "text": b"<html>"}[how]


@pytest.mark.parametrize("how", ["cut", "zeros", "flip", "empty", "longer", "text"])
def test_a_damaged_state_is_logged_and_the_previous_one_is_used(networks, tmp_path, rng, how):
    save_states(networks, tmp_path)
    path = tmp_path / "training-state-000000024.safetensors"
    whole = path.read_bytes()
    assert newest(tmp_path) == (24, "")
    for _ in range(40):
        path.write_bytes(damaged(whole, how, rng))
        nimg, said = newest(tmp_path)
        if path.read_bytes() != whole:
            assert nimg == 16 and path.name in said and "the previous state" in said


def test_every_bit_of_a_states_header_counts(networks, tmp_path):
    """It has counters, which no digest of arrays covers."""
    save_states(networks, tmp_path, nimgs=(16, 24))
    path = tmp_path / "training-state-000000024.safetensors"
    whole = path.read_bytes()
    at = whole.index(b"cur_nimg") + len(b'cur_nimg\\": ')
    assert whole[at:at + 2] == b"24"
    path.write_bytes(whole[:at] + b"25" + whole[at + 2:])
    nimg, said = newest(tmp_path)
    assert nimg == 16 and "the header does not match its digest" in said


def test_other_files_are_not_training_states(networks, tmp_path):
    save_states(networks, tmp_path)
    for wrong in ({"kind": "networks"}, {"kind": "state", "networks": {}},
                  {"kind": "state", "networks": {"G": {}}, "progress": {}}):
        snapshots.save_container(tmp_path / "training-state-000000024.safetensors", wrong, {})
        nimg, said = newest(tmp_path)
        assert nimg == 16 and "damaged" in said


def test_all_states_damaged_is_an_error(networks, tmp_path):
    save_states(networks, tmp_path)
    for path in state.list_states(tmp_path):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"none of its 3 training states is whole.*begin"):
        newest(tmp_path)
    for path in state.list_states(tmp_path):
        path.unlink()
    assert state.load_newest_state(tmp_path, Lines()) is None


def kept(run_dir):
    return [int(path.stem[-9:]) for path in state.list_states(run_dir)]


def test_the_newest_states_are_kept(networks, tmp_path):
    save_states(networks, tmp_path, keep=2)
    assert kept(tmp_path) == [16, 24]
    save_states(networks, tmp_path, nimgs=[20], keep=2)  # 24 was damaged: it is deleted
    assert kept(tmp_path) == [16, 20]
    save_states(networks, tmp_path, nimgs=[20], keep=1)
    assert kept(tmp_path) == [20]
    # While updates are skipped, the last good state is kept.
    save_states(networks, tmp_path, nimgs=[28, 32, 36], keep=1, skipped_in_a_row=7)
    assert kept(tmp_path) == [20, 28, 32, 36]
    assert state.remove_states_with_skips(tmp_path) == 0.020
    assert kept(tmp_path) == [20]


def test_find_snapshot(networks, tmp_path):
    with pytest.raises(UserError, match=r"train\.py"):
        find_snapshot(results_dir=tmp_path)
    for run, kimgs in (("00000-rgb-x", (10, 20)), ("00001-2d-x", (5, 6)), ("00002-2d-x", ())):
        (tmp_path / run).mkdir()
        for kimg in kimgs:
            path = tmp_path / run / f"network-snapshot-{kimg:06d}.safetensors"
            save_snapshot(path, networks, HEADER)
    assert find_snapshot(results_dir=tmp_path).name == "network-snapshot-000006.safetensors"
    assert find_snapshot("0", tmp_path).name == "network-snapshot-000020.safetensors"
    oldest = tmp_path / "00000-rgb-x"
    (oldest / "best.json").write_text('{"snapshot": "network-snapshot-000010.safetensors"}')
    assert find_snapshot(str(oldest)).name == "network-snapshot-000010.safetensors"
    with pytest.raises(UserError, match="00001-2d-x"):
        find_snapshot("77", tmp_path)
    (tmp_path / "net.safetensors").touch()
    with pytest.raises(UserError, match=r"net: no such .*; did you mean .*/net\.safetensors\?"):
        find_snapshot(tmp_path / "net", tmp_path)
    with pytest.raises(UserError, match="no network snapshot"):
        find_snapshot("2", tmp_path)
