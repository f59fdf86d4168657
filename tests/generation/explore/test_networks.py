"""The list of networks: names, order, what is not on it, what disappears."""

import json

import numpy as np
import pytest

from dnnlib.util import UserError
from generation.explore import networks
from generation.explore.networks import GENERATOR, Networks, kind_of
from tests.tools.generators import save_network
from training.sampler import Sampler
from training.snapshots import read_header

CLASSES = ("hat", "bag")
NEWEST = "network-snapshot-000002"


@pytest.fixture
def results(tmp_path):
    """Make a results folder with a run of three snapshots, the first the best, and a newer run."""
    for name in ("network-snapshot-000001", NEWEST, "network-final"):
        save_network(tmp_path / "results" / "00000-old" / f"{name}.safetensors", CLASSES)
    save_network(tmp_path / "results" / "00001-new" / "network-final.safetensors", ())
    name_best(tmp_path / "results", "network-snapshot-000001.safetensors")
    return tmp_path / "results"


def name_best(results, name):
    (results / "00000-old" / "best.json").write_text(json.dumps({"snapshot": name}))


def test_newest_run_and_best_snapshots_come_first(results):
    listed = Networks(results).refresh()
    assert [name for _, name in listed] == [
        "00001-new/network-final", "00000-old/network-snapshot-000001", "00000-old/network-final",
        f"00000-old/{NEWEST}"]
    assert [" (best)" in shown for shown, _ in listed] == [False, True, False, False]


def test_networks_that_the_page_cannot_show_are_not_offered(results, monkeypatch):
    header = networks.read_header
    monkeypatch.setattr(networks, "read_header", lambda path: {
        "variant": "pose", "networks": {"G": {}}} if "new" in str(path) else header(path))
    offered = Networks(results)
    assert offered.first == "00000-old/network-snapshot-000001" and len(offered.refresh()) == 3


@pytest.mark.parametrize("content", ["{", '{"snapshot": "../../secret.safetensors"}'])
def test_best_json_cannot_name_other_folders(results, content):
    save_network(results.parent / "secret.safetensors", ())
    (results / "00000-old" / "best.json").write_text(content)
    offered = Networks(results)
    assert all("secret" not in name for _, name in offered.refresh())
    assert offered.path(f"00000-old/{NEWEST}").is_file()


@pytest.mark.parametrize("name", [
    "../secret.safetensors", "00000-old/../../secret", "/etc/passwd", "00001-new"])
def test_a_path_is_not_a_name(results, name):
    save_network(results.parent / "secret.safetensors", ())
    with pytest.raises(UserError, match="not one of the snapshots on the list"):
        Networks(results).path(name)


def test_a_given_network_is_selected_at_first(results):
    outside = save_network(results.parent / "other.safetensors", ())
    assert Networks(results).first == "00001-new/network-final"
    assert Networks(results, results / "00000-old" / f"{NEWEST}.safetensors").first == \
        f"00000-old/{NEWEST}"
    offered = Networks(results, outside)
    assert offered.first == str(outside) and offered.path(offered.first) == outside
    assert len(offered.refresh()) == 5


def test_a_removed_network_is_one_line(results):
    offered = Networks(results)
    with offered.using("00001-new/network-final", GENERATOR):
        pass
    offered.path("00001-new/network-final").unlink()
    with pytest.raises(UserError, match="no such snapshot any more"), \
            offered.using("00001-new/network-final", GENERATOR):
        pass
    assert all("new" not in name for _, name in offered.refresh())
    with pytest.raises(UserError, match="train one, or start this page with --network"):
        Networks(results / "nothing").path(None)


def test_networks_are_loaded_once_and_a_few_are_kept(results, monkeypatch):
    loaded, load = [], networks._load
    monkeypatch.setattr(networks, "LOADED", 2)
    monkeypatch.setattr(networks, "_load", lambda path, *rest: loaded.append(path.stem) or load(
        path, *rest))
    offered = Networks(results)
    for name in ("network-final", "network-final", NEWEST, "network-snapshot-000001", NEWEST,
                 "network-final"):
        with offered.using(f"00000-old/{name}", GENERATOR):
            pass
    assert loaded == ["network-final", NEWEST, "network-snapshot-000001", "network-final"]
    save_network(results / "00000-old" / "network-final.safetensors", CLASSES, seed=3, change=None,
                 dataset={"name": "another"})
    with offered.using("00000-old/network-final", GENERATOR) as sampler:
        assert sampler.digest == read_header(sampler.path)["digest"]
    assert len(loaded) == 5


def test_a_header_is_read_once(results, monkeypatch):
    """And again once the file has changed; an official pickle must be read whole for it."""
    read, header = [], networks.read_header
    monkeypatch.setattr(networks, "read_header", lambda path: read.append(path) or header(path))
    offered = Networks(results)
    del read[:]
    for _ in range(2):
        offered.header("00000-old/network-final")
    assert len(read) == 1
    save_network(results / "00000-old" / "network-final.safetensors", CLASSES, seed=3, change=None,
                 dataset={"name": "another"})
    assert offered.header("00000-old/network-final")["dataset"]["name"] == "another"


def test_all_labels_share_one_loaded_network(results):
    save_network(results / "00002-labels" / "network-final.safetensors", (), label_size=3)
    offered = Networks(results)
    with offered.using("00002-labels/network-final", GENERATOR) as sampler:
        drawn = [sampler.with_label(label) for label in range(3)]
        assert all(other.network is sampler.network for other in drawn)
        dlatents = [other.dlatents(other.seed_latents([7])) for other in drawn]
    loaded = Sampler.load(offered.path("00002-labels/network-final"), 2, traced=False)
    np.testing.assert_array_equal(dlatents[2], loaded.dlatents(loaded.seed_latents([7])))
    assert not np.allclose(dlatents[0], dlatents[2]) and drawn[2].label == loaded.label
    with pytest.raises(UserError, match="takes a class of 0-2"):
        drawn[0].with_label(3)


def test_kinds_of_networks(results):
    path = results / "00001-new" / "network-final.safetensors"
    assert kind_of(read_header(path), path) == GENERATOR
    for header, kind in (({"variant": "cyclegan"}, "cyclegan"), ({"variant": "pix2pix"}, "pix2pix"),
                         ({"networks": {"S": {}}}, "segmenter")):
        assert kind_of(header, path) == kind
    with pytest.raises(UserError, match="--variant=pose, which this page cannot show"):
        kind_of({"variant": "pose", "networks": {"G": {}}}, path)


def test_starting_maps_have_the_same_classes(results):
    offered = Networks(results)
    (results / "00001-new" / "network-final.safetensors").write_bytes(b"damaged")
    assert offered.generators_of(CLASSES) == ["00000-old/network-snapshot-000001"]
    assert offered.generators_of(("bag", "hat")) == []
