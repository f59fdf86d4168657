"""Workers meet, agree and miss each other: real sockets, and real processes that are killed."""

import concurrent.futures
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dnnlib import cluster
from dnnlib.cluster import LEAVE_SEC, LOST_STATUS, find_workers, join
from dnnlib.util import UserError

ROOT = Path(__file__).resolve().parents[2]
TWO = '{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": %s}}'


def free_addresses(count):
    """Addresses on this machine whose ports nobody uses at the moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{sock.getsockname()[1]}" for sock in sockets]
    for sock in sockets:
        sock.close()
    return addresses


def meet(addresses, facts, timeout_sec=30, indices=None):
    """What `join` gives each worker: its Link, or the UserError as text."""
    def one(index, given):
        try:
            return join(addresses, index, given, lambda line: None, timeout_sec)
        except UserError as error:
            return str(error)

    indices = range(len(addresses)) if indices is None else indices
    with concurrent.futures.ThreadPoolExecutor(len(facts)) as pool:
        return list(pool.map(one, indices, facts))


def exchange(links, values):
    with concurrent.futures.ThreadPoolExecutor(len(links)) as pool:
        return list(pool.map(lambda pair: pair[0].exchange(pair[1]), zip(links, values)))


def close(links):
    with concurrent.futures.ThreadPoolExecutor(len(links)) as pool:
        list(pool.map(lambda link: link.close(), links))


def test_all_hear_what_all_say():
    links = meet(free_addresses(3), [{"seed": 1, "table": {4: 8}}] * 3)
    for values in ([[0, "a"], [1, "b"], [2, None]], [{}, 3, 4.5]):
        assert exchange(links, values) == [values] * 3
    assert [link.is_chief for link in links] == [True, False, False]
    close(links)


def test_the_chiefs_port_is_free_for_another_server_while_they_are_connected():
    addresses = free_addresses(2)
    links = meet(addresses, [{}] * 2)
    socket.create_server(("127.0.0.1", int(addresses[0].split(":")[1]))).close()
    close(links)


def test_workers_that_were_started_differently_all_say_so():
    told = meet(free_addresses(3), [{"seed": 1}, {"seed": 1}, {"seed": 2}])
    assert "seed is 1 at worker 0, 2 at worker 2" in told[0] and len(set(told)) == 1


def test_another_list_of_workers_and_a_place_that_is_taken_are_refused():
    addresses = free_addresses(3)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        chief = pool.submit(meet, addresses, [{}], indices=[0])
        with pytest.raises(UserError, match="worker 1 was given other workers"):
            join([addresses[0], addresses[2]], 1, {}, lambda line: None, 30)
        twins = [pool.submit(meet, addresses, [{}], indices=[1]) for _ in range(2)]
        refused, met = concurrent.futures.wait(twins, return_when="FIRST_COMPLETED")
        reason = refused.pop().result()[0]  # of whoever comes first to the chief, or to the port
        assert reason == "--worker-index=1: this worker is there already" \
            or re.fullmatch("worker 1 cannot listen at port .*is it running already.*", reason)
        third = meet(addresses, [{}], indices=[2])
        links = [*chief.result(), *met.pop().result(), *third]
    close(links)


def test_who_does_not_come_is_named():
    addresses = free_addresses(3)
    told = meet(addresses, [{}] * 2, timeout_sec=1.5)
    assert told[0] == told[1]
    assert f"worker 2 ({addresses[2]}) did not come within 2 seconds" in told[0]
    alone = meet(addresses, [{}], timeout_sec=0.5, indices=[2])[0]
    assert f"worker 0 ({addresses[0]}) could not be reached" in alone and "\n" not in alone


def test_a_port_that_is_taken_is_named():
    addresses = free_addresses(2)
    with socket.create_server(("", int(addresses[1].split(":")[1]))):
        told = meet(addresses, [{}], timeout_sec=0.5, indices=[1])[0]
    assert told.startswith("worker 1 cannot listen at port") and "in use" in told


def test_strangers_do_not_disturb():
    addresses = free_addresses(2)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        chief = pool.submit(join, addresses, 0, {}, lambda line: None, 30)
        for greeting in (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"[]\n", b""):
            sock = connected(addresses[0])
            sock.sendall(greeting)
            sock.close()
        second = join(addresses, 1, {}, lambda line: None, 30)
        links = [chief.result(), second]
    close(links)


def connected(address):
    """A connection to a server that may not be there yet."""
    host, port = address.split(":")
    while True:
        try:
            return socket.create_connection((host, int(port)))
        except ConnectionRefusedError:
            threading.Event().wait(0.02)


def test_a_request_to_stop_reaches_all_others_at_any_time():
    links = meet(free_addresses(3), [{}] * 3)
    heard = [threading.Event() for _ in links]
    for link, event in zip(links, heard):
        link.on_stop = event.set
    links[1].ask_to_stop()
    assert heard[0].wait(30) and heard[2].wait(30) and not heard[1].is_set()
    close(links)


SCRIPT = """
import sys, threading
from dnnlib.cluster import join
link = join(sys.argv[2].split(","), int(sys.argv[1]), {}, lambda line: None, 60)
print("met", flush=True)
if sys.argv[3:] == [sys.argv[1]]:
    sys.stdin.readline()  # until all have met
    link.fail("its disk is full")
    sys.exit(2)
if link.is_chief:
    threading.Event().wait()  # something long
link.exchange(1)
"""


@pytest.mark.parametrize("gone, kill", [(0, True), (2, True), (1, False)])
def test_when_one_is_gone_the_others_leave(gone, kill):
    addresses = free_addresses(3)
    found = [subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(i), ",".join(addresses), *([] if kill else [str(gone)])],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for i in range(3)]
    for process in found:
        assert process.stdout.readline() == "met\n"
    if kill:
        found[gone].send_signal(signal.SIGKILL)
    else:
        print(file=found[gone].stdin, flush=True)
    reason = "is lost" if kill else "stopped: its disk is full"
    for i, process in enumerate(found):
        err = process.communicate(timeout=LEAVE_SEC)[1]
        if i != gone:
            assert process.returncode == LOST_STATUS
            assert err == (f"error: worker {gone} ({addresses[gone]}) {reason}; restart all "
                           "workers with the same command to continue\n")


@pytest.mark.parametrize("given, found", [
    ((None, None, None), (None, 0)),
    ((None, None, "{}"), (None, 0)),
    (("a:1,b:2", 1, None), (["a:1", "b:2"], 1)),
    ((None, None, TWO % 1), (["a:1", "b:2"], 1)),
    ((None, None, TWO % '"0"'), (["a:1", "b:2"], 0)),
    (("a:1", 0, None), (None, 0)),
    ((None, None, json.dumps({"cluster": {"chief": ["c:1"], "worker": ["a:1", "b:2"]},
                              "task": {"type": "worker", "index": 1}})),
     (["c:1", "a:1", "b:2"], 2))])
def test_workers_of_options_and_environment(given, found):
    assert find_workers(*given) == found


@pytest.mark.parametrize("given, told", [
    (("a:1,b:2", 2, None), "--worker-index=2: expected a number from 0 to 1"),
    (("a:1,b:2", -1, None), "expected a number from 0 to 1"),
    (("a:1,b:2", None, None), "--workers: needs --worker-index"),
    ((None, 0, None), "--worker-index: needs --workers"),
    (("a:1,b:2", 0, TWO % 0), "TF_CONFIG too"),
    (("a:1,a:1", 0, None), "a:1 is given twice"),
    (("a:1,b", 0, None), "'b': expected host:port"),
    (("a:1,b:0", 0, None), "'b:0': expected host:port"),
    (("", 0, None), "expected host:port"),
    ((None, None, "{cluster"), "TF_CONFIG: JSONDecodeError"),
    ((None, None, "[1]"), "TF_CONFIG: AttributeError"),
    ((None, None, '{"cluster": {"worker": ["a:1", "b:2"]}}'), "TF_CONFIG: KeyError: 'task'"),
    ((None, None, '{"cluster": {"worker": [1]}, "task": {"type": "worker", "index": 0}}'),
     "TF_CONFIG: 1: expected host:port"),
    ((None, None, TWO % 5), "expected a number from 0 to 1, since TF_CONFIG lists 2"),
    ((None, None, '{"cluster": {"ps": ["a:1"], "worker": ["b:1"]}, "task": '
      '{"type": "ps", "index": 0}}'), "only tasks of type chief and worker")])
def test_wrong_workers_are_one_line(given, told):
    with pytest.raises(UserError) as caught:
        find_workers(*given)
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_time_to_leave_covers_a_machine_that_fell_silent():
    """The system takes a peer for gone after the idle time and some unanswered questions."""
    keep = cluster._KEEPALIVE
    assert keep["TCP_KEEPIDLE"] + keep["TCP_KEEPINTVL"] * keep["TCP_KEEPCNT"] <= LEAVE_SEC - 10
