"""Downloads against a local server that misbehaves."""

import hashlib
import http.server
import threading

import numpy as np
import pytest

from dnnlib import download as download_module
from dnnlib.download import cache_dir, download
from dnnlib.util import UserError

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT; the server's `faults` say what goes wrong with each request in turn."""

    def do_GET(self):
        fault = self.server.faults.pop(0) if self.server.faults else None
        wanted = self.headers.get("Range")
        self.server.seen.append(wanted)
        if isinstance(fault, int):
            self.send_error(fault)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if fault == "ignore range":
            wanted, start = None, 0
        if wanted and start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        stop = start + 100_000 if fault == "cut" else len(CONTENT)
        self.wfile.write(CONTENT[start:stop])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    """A server on loopback with its address, faults and the ranges it was asked for."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.faults, server.seen = [], []
        server.url = f"http://127.0.0.1:{server.server_address[1]}/file.bin"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_whole_and_checked(server, tmp_path):
    path = tmp_path / "deep" / "file.bin"
    assert download(server.url, path, sha256=SHA256, size=len(CONTENT)) == path
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]


def test_lost_connections_are_resumed(server, tmp_path):
    server.faults = ["cut", "cut"]
    download(server.url, tmp_path / "f", sha256=SHA256)
    assert (tmp_path / "f").read_bytes() == CONTENT
    starts = [int(wanted.strip("bytes=-")) for wanted in server.seen[1:]]
    assert len(starts) == 2 and 50_000 < starts[0] < starts[1] - 50_000


def test_a_later_call_goes_on(server, tmp_path):
    (tmp_path / "f.part").write_bytes(CONTENT[:1234])
    download(server.url, tmp_path / "f", md5=hashlib.md5(CONTENT).hexdigest())
    assert server.seen == ["bytes=1234-"]
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_a_server_without_ranges(server, tmp_path):
    (tmp_path / "f.part").write_bytes(CONTENT[:1234])
    server.faults = ["ignore range"]
    download(server.url, tmp_path / "f", sha256=SHA256)
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_what_is_whole_is_not_asked_for(server, tmp_path):
    (tmp_path / "f.part").write_bytes(CONTENT)
    download(server.url, tmp_path / "f", sha256=SHA256, size=len(CONTENT))
    assert server.seen == []


@pytest.mark.parametrize("expected", [{"sha256": "0" * 64}, {"md5": "0" * 32}, {"size": 5}])
def test_another_file_is_refused(server, tmp_path, expected):
    with pytest.raises(UserError, match=r"expected .*damaged or another one"):
        download(server.url, tmp_path / "f", **expected)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_part_does_not_stay(server, tmp_path):
    (tmp_path / "f.part").write_bytes(b"x" * 1000)
    with pytest.raises(UserError, match="sha256"):
        download(server.url, tmp_path / "f", sha256=SHA256)
    download(server.url, tmp_path / "f", sha256=SHA256)
    (tmp_path / "g.part").write_bytes(b"x" * 400_000)
    with pytest.raises(UserError, match="did not fit"):
        download(server.url, tmp_path / "g", sha256=SHA256)
    download(server.url, tmp_path / "g", sha256=SHA256)


def test_http_errors_are_named(server, tmp_path):
    server.faults = [404]
    with pytest.raises(UserError, match=r"file\.bin: HTTP 404"):
        download(server.url, tmp_path / "f")


def test_no_server(tmp_path):
    with pytest.raises(UserError, match="the connection could not be made") as caught:
        download("http://127.0.0.1:9/x", tmp_path / "x")
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_a_server_that_stalls(server, tmp_path, monkeypatch):
    release = threading.Event()

    def stall(self):
        release.wait(10)
    monkeypatch.setattr(Handler, "do_GET", stall)
    monkeypatch.setattr(download_module, "READ_SEC", 0.2)
    with pytest.raises(UserError, match="sent nothing"):
        download(server.url, tmp_path / "f")
    release.set()


def test_cache_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("STYLE_C_GAN_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("STYLE_C_GAN_CACHE")
    assert cache_dir().name == "style-c-gan"
