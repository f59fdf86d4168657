"""Downloads against a local server that misbehaves."""

import dataclasses
import email.utils
import hashlib
import http.server
import io
import multiprocessing
import resource
import signal
import socket
import subprocess
import threading
import time

import numpy as np
import pytest

from dnnlib import download as download_module
from dnnlib import util
from dnnlib.download import cache_dir
from dnnlib.util import UserError

CONTENT = np.random.default_rng(0).bytes(300_000)
OTHER = np.random.default_rng(1).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()


@dataclasses.dataclass
class Answer:
    """How the server answers one request; by default correctly."""

    status: int | None = None
    headers: dict = dataclasses.field(default_factory=dict)
    send: int | None = None  # bytes of the body; then the connection is closed, or stalls
    stall: bool = False
    ranges: bool = True
    length: int | None = None  # stated, added to the true length
    shift: int = 0  # of the range that is sent
    content: bytes | None = None  # instead of the server's content


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the server's `content`; `answers` decide how each request goes."""

    def do_GET(self):
        answer = self.server.answers.pop(0) if self.server.answers else Answer()
        self.server.seen.append(self.headers)
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/file.bin")
            self.end_headers()
        elif answer.status:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
        else:
            self.send_file(answer)

    def send_file(self, answer):
        content, wanted = answer.content or self.server.content, self.headers.get("Range")
        if not answer.ranges:
            wanted = None
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if wanted and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        start += answer.shift
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if answer.length is not None:
            self.send_header("Content-Length", str(len(content) - start + answer.length))
        self.end_headers()
        stop = None if answer.send is None else start + answer.send
        self.wfile.write(content[start:stop])
        self.wfile.flush()
        if answer.stall:
            self.server.release.wait(10)

    def log_message(self, *args):
        pass


def plain(**changes):
    """Return an answer with a correct Content-Length."""
    return Answer(**{"length": 0, **changes})


@pytest.fixture
def server(monkeypatch):
    """Run a server on loopback: its address, content, answers and the headers it received."""
    monkeypatch.setattr(download_module, "BACKOFF_SEC", 0.01)
    monkeypatch.setattr(download_module, "CHUNK", 1000)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.content = CONTENT
        server.answers, server.seen, server.release = [], [], threading.Event()
        server.address = f"http://127.0.0.1:{server.server_address[1]}"
        server.url = server.address + "/file.bin"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.release.set()
        server.shutdown()
        thread.join()


def asked(server, header="Range"):
    return [headers.get(header) for headers in server.seen]


def leave_part(path, content):
    """Write the part that an earlier call left."""
    path.with_name(path.name + ".part").write_bytes(content)


@pytest.fixture
def waits(monkeypatch):
    """Record how long the pauses between attempts would have been."""
    pauses = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", pauses.append)
    return pauses


@pytest.fixture
def target(tmp_path):
    return tmp_path / "file.bin"


def fetch(url, path, size=300_000, **checksums):
    return download_module.download(url, path, size, **checksums)


def test_whole_and_checked(server, tmp_path):
    path = tmp_path / "deep" / "file.bin"
    server.answers = [plain()]
    assert fetch(server.url, path, sha256=SHA256, md5=MD5) == path
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]
    assert asked(server) == [None] and asked(server, "Accept-Encoding") == ["identity"]


def test_redirects_are_followed_with_the_range(server, target):
    leave_part(target, CONTENT[:1234])
    fetch(server.address + "/moved", target, sha256=SHA256)
    assert asked(server) == ["bytes=1234-"] * 2 and target.read_bytes() == CONTENT


def test_connections_lost_many_times_are_resumed(server, target):
    """As long as every connection brings new bytes."""
    server.answers = [plain(send=30_000) for _ in range(9)]
    fetch(server.url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert asked(server)[1:] == [f"bytes={30_000 * i}-" for i in range(1, 10)]
    assert list(target.parent.iterdir()) == [target]


def test_a_stalled_transfer_is_resumed(server, target, monkeypatch):
    monkeypatch.setattr(download_module, "READ_SEC", 0.2)
    server.answers = [plain(send=100_000, stall=True)]
    fetch(server.url, target, sha256=SHA256)
    assert asked(server) == [None, "bytes=100000-"] and target.read_bytes() == CONTENT


def test_a_server_that_only_stalls_is_given_up(server, target, monkeypatch):
    monkeypatch.setattr(download_module, "READ_SEC", 0.05)
    server.answers = [plain(send=0, stall=True) for _ in range(20)]
    with pytest.raises(UserError, match=r"file\.bin: the connection was lost$"):
        fetch(server.url, target)
    assert len(server.seen) == 1 and not list(target.parent.iterdir())


def test_received_bytes_are_kept_and_a_later_call_continues(server, target):
    server.answers = [plain(send=100_000)] + [Answer(status=500)] * download_module.ATTEMPTS
    with pytest.raises(UserError, match=r"HTTP 500 .*; 100,000 bytes are kept in .*\.part"):
        fetch(server.url, target, sha256=SHA256)
    assert not target.exists()
    server.seen.clear()
    fetch(server.url, target, sha256=SHA256)
    assert asked(server) == ["bytes=100000-"] and target.read_bytes() == CONTENT


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_busy_servers_are_asked_again(server, target, status):
    server.answers = [Answer(status=status), Answer(status=status)]
    fetch(server.url, target, sha256=SHA256)
    assert len(server.seen) == 3


def test_a_server_that_stays_busy_is_given_up_after_growing_waits(server, target, waits):
    server.answers = [Answer(status=503) for _ in range(20)]
    with pytest.raises(UserError, match=r"file\.bin: HTTP 503 Service Unavailable$"):
        fetch(server.url, target)
    assert len(server.seen) == download_module.ATTEMPTS
    np.testing.assert_allclose(waits, [0.02, 0.04, 0.08])  # the second attempt is immediate


def date_in(seconds):
    return email.utils.formatdate(time.time() + seconds, usegmt=True)


@pytest.mark.parametrize("text, low, high", [
    ("7", 7, 7), (90, 60, 90)])
def test_retry_after_is_honoured(server, target, waits, text, low, high):
    """`text`: the header's text, or a number of seconds from now, sent as a date."""
    text = text if isinstance(text, str) else date_in(text)
    server.answers = [Answer(status=429, headers={"Retry-After": text})]
    fetch(server.url, target)
    assert len(server.seen) == 2 and low <= sum(waits) <= high


def test_a_long_retry_after_is_reported_instead(server, target):
    server.answers = [Answer(status=429, headers={"Retry-After": "7200"})]
    with pytest.raises(UserError, match=r"file\.bin: HTTP 429; .*asks to come back in 7200 s"):
        fetch(server.url, target)
    assert len(server.seen) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_permanent_errors_are_reported_at_once(server, target, status):
    server.answers = [Answer(status=status)]
    with pytest.raises(UserError, match=rf"file\.bin: HTTP {status} \w+"):
        fetch(server.url, target)
    assert len(server.seen) == 1 and not list(target.parent.iterdir())


def test_without_ranges_a_download_restarts(server, target):
    server.answers = [plain(send=100_000), plain(ranges=False)]
    fetch(server.url, target, sha256=SHA256)
    assert asked(server)[1] == "bytes=100000-" and target.read_bytes() == CONTENT


def test_without_ranges_a_download_that_gets_no_further_is_given_up(server, target):
    """No attempt gets further than the first one."""
    server.answers = [plain(send=size, ranges=False) for size in [100_000, 50_000] * 25]
    with pytest.raises(UserError, match="connection was lost"):
        fetch(server.url, target)
    assert len(server.seen) == 2


def test_a_file_that_changes_between_two_attempts_is_noticed(server, target):
    server.answers = [plain(send=100_000, content=OTHER)]
    with pytest.raises(UserError, match="the file is damaged or another one"):
        fetch(server.url, target, sha256=SHA256)
    assert asked(server) == [None, "bytes=100000-"] and not list(target.parent.iterdir())


def test_with_a_checksum_parts_are_continued(server, target):
    leave_part(target, CONTENT[:1234])
    fetch(server.url, target, md5=MD5)
    assert asked(server) == ["bytes=1234-"] and target.read_bytes() == CONTENT


def test_a_part_of_another_file_is_noticed_and_fetched_again(server, target):
    leave_part(target, OTHER[:1234])
    fetch(server.url, target, sha256=SHA256)
    assert asked(server) == ["bytes=1234-", None] and target.read_bytes() == CONTENT


@pytest.mark.parametrize("length", [300_000, 400_000])
def test_a_part_that_is_already_complete_or_too_long(server, target, length):
    leave_part(target, (CONTENT + OTHER)[:length])
    fetch(server.url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert asked(server) == [None] * (length > 300_000)


def test_a_wrong_range_is_an_error_and_drops_the_part(server, target):
    """A range other than the requested one is not used; a part may be longer than the file."""
    server.answers = [plain(send=100_000), plain(shift=500)]
    with pytest.raises(UserError, match="HTTP 206"):
        fetch(server.url, target, sha256=SHA256)
    leave_part(target, OTHER[:2000])
    server.content = CONTENT[:1000]
    with pytest.raises(UserError, match="HTTP 416"):
        fetch(server.url, target, sha256=SHA256)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("wrong", [-1000, 1000])
def test_another_length_is_another_file(server, target, wrong):
    server.answers = [plain(length=wrong)]
    with pytest.raises(UserError, match=f"has {300_000 + wrong:,} bytes, expected 300,000"):
        fetch(server.url, target, sha256=SHA256)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("expected", [{"sha256": "0" * 64}, {"md5": "0" * 32}, {"size": 5}])
@pytest.mark.parametrize("length", [0, None])
def test_another_file_is_refused(server, target, expected, length):
    server.answers = [plain(length=length), plain(length=length)]
    with pytest.raises(UserError, match=r"expected.*another"):
        fetch(server.url, target, **expected)
    assert len(server.seen) == 1 and list(target.parent.iterdir()) == []


def test_a_web_page_in_place_of_the_file_is_named(server, target):
    server.content = b"<!DOCTYPE html><html>Sign in</html>"
    with pytest.raises(UserError, match=r"file\.bin: sha256 .*: a web page, not the file"):
        fetch(server.url, target, len(server.content), sha256=SHA256)
    assert list(target.parent.iterdir()) == []


def test_a_truncated_file_of_unstated_length_is_resumed(server, target):
    server.answers = [Answer(send=100_000)]
    fetch(server.url, target, sha256=SHA256)
    assert asked(server) == [None, "bytes=100000-"] and target.read_bytes() == CONTENT


def test_an_endless_body_is_given_up(server, target):
    server.answers = [Answer()]
    with pytest.raises(UserError, match="sends more than the 5,000 bytes"):
        fetch(server.url, target, size=5000)


def test_a_full_disk_is_one_line_and_received_bytes_are_kept(server, target):
    part = target.with_name("file.bin.part")
    old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old[1]))
    try:
        with pytest.raises(UserError, match=r"file\.bin\.part: the disk is full") as caught:
            fetch(server.url, target, sha256=SHA256)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert "\n" not in str(caught.value) and part.read_bytes() == CONTENT[:100_000]


def test_a_missing_server_is_one_line_at_once(target):
    with pytest.raises(UserError, match="the connection could not be made") as caught:
        fetch("http://127.0.0.1:9/x", target)
    assert "\n" not in str(caught.value) and list(target.parent.iterdir()) == []


@pytest.mark.parametrize("url", ["nonsense", "ftp://host/x", "http://", "http://[::bad/"])
def test_an_invalid_address_is_one_line(target, url):
    with pytest.raises(UserError, match="the connection could not be made"):
        fetch(url, target)


def test_connections_closed_without_an_answer_are_tried_again(target, monkeypatch):
    monkeypatch.setattr(download_module, "BACKOFF_SEC", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        taken = []

        def hang_up():
            while len(taken) < download_module.ATTEMPTS:
                connection, _ = listening.accept()
                connection.recv(4096)
                connection.close()
                taken.append(1)
        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(UserError, match=r"the connection could not be made, or no answer"):
            fetch(f"http://127.0.0.1:{listening.getsockname()[1]}/x", target)
        thread.join()


def _hold(folder, held, release):
    with util.lock_directory(folder, "downloading"):
        held.set()
        release.wait(20)


def test_two_processes_cannot_write_the_same_part(server, target):
    context = multiprocessing.get_context("fork")
    held, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(target.parent, held, release))
    other.start()
    assert held.wait(20)
    with pytest.raises(UserError, match=r"another process is downloading file\.bin; wait for it"):
        fetch(server.url, target)
    release.set()
    other.join()
    fetch(server.url, target)


def test_the_progress_bar_starts_from_received_bytes(server, target, monkeypatch):
    bars = []

    def progress(**options):
        bars.append(util.tqdm(file=io.StringIO(), **options))
        return bars[-1]
    monkeypatch.setattr(download_module, "progress", progress)
    leave_part(target, CONTENT[:1234])
    server.answers = [plain(send=1000), plain()]
    fetch(server.url, target, sha256=SHA256)
    assert [(bar.n, bar.total) for bar in bars] == [(300_000, 300_000)]


def test_cache_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("STYLE_C_GAN_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("STYLE_C_GAN_CACHE")
    assert cache_dir().name == "style-c-gan"


def test_source_archives_are_checked_before_their_code_can_run(monkeypatch, tmp_path):
    """pip gets the checksum, and the downloaded file is checked again."""
    commands = []

    def pip(command, **options):
        commands.append(command)
        wanted = next(part for part in command if part.startswith("--requirement="))
        with open(wanted.partition("=")[2]) as file:
            assert file.read() == f"thing==1.0 --hash=sha256:{SHA256}\n"
        (tmp_path / "thing-1.0.tar.gz").write_bytes(CONTENT)
        return subprocess.CompletedProcess(command, 0, "", "")
    monkeypatch.setattr(download_module.subprocess, "run", pip)
    path = download_module.fetch_source("thing==1.0", tmp_path, SHA256, len(CONTENT))
    assert path.read_bytes() == CONTENT and "--no-binary=:all:" in commands[0]
    with pytest.raises(UserError, match=r"thing-1\.0\.tar\.gz: bytes 300000, expected 3"):
        download_module.fetch_source("thing==1.0", tmp_path, SHA256, 3)
    monkeypatch.setattr(download_module.subprocess, "run", lambda command, **options: (
        subprocess.CompletedProcess(command, 1, "", "a\nERROR: no\nmatching distribution")))
    with pytest.raises(UserError, match=r"pip download thing==1\.0 failed: no matching"):
        download_module.fetch_source("thing==1.0", tmp_path, SHA256, 3)
