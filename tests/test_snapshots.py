"""Containers: whole, checked, and found."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from dnnlib.tflib.network import build
from dnnlib.util import UserError
from training import snapshots
from training.snapshots import find_snapshot, load_snapshot, save_snapshot

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


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text"])
def test_damage_is_found_out(networks, tmp_path, damage):
    path = tmp_path / "a.safetensors"
    save_snapshot(path, networks, HEADER)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes({"flip": bytes(data), "cut": bytes(data[:-40]), "empty": b"",
                      "text": b"<html>"}[damage])
    with pytest.raises(UserError, match=r"a\.safetensors: damaged"):
        load_snapshot(path)


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
    header["networks"]["G"]["config"]["resolution"] = 16
    snapshots.save_container(path, header, groups)
    with pytest.raises(UserError, match="missing"):
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
    with pytest.raises(UserError, match="no network snapshot"):
        find_snapshot("2", tmp_path)
