"""Workers connect, agree and notice losses: separate processes with TensorFlow's real servers."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from dnnlib.cluster import LOST_STATUS

ROOT = Path(__file__).resolve().parents[2]
LEAVE_SEC = 60  # all have exited within this time after one was lost, as docs/training.md says
RESTART = "restart all workers with the same command to continue"
PROLOGUE = """
import sys, threading, time
from dnnlib import cli
from dnnlib.util import UserError
index, addresses = int(sys.argv[1]), sys.argv[2].split(",")
def start(facts={}):
    from dnnlib.tflib import distribute
    globals().update(vars(distribute))
    return create_strategy("cpu", 1, addresses, index, facts, report=lambda line: None)
def main(argv):
"""
END = "\ncli.run_main(main)\n"


def free_addresses(count):
    """Return addresses on this machine whose ports are free at the moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{sock.getsockname()[1]}" for sock in sockets]
    for sock in sockets:
        sock.close()
    return addresses


class Scripts:
    """Processes that run the same script, each as one of several workers."""

    def __init__(self, script, count, addresses=None, indices=None):
        self.addresses = addresses or free_addresses(count)
        self.processes = {index: subprocess.Popen(
            [sys.executable, "-c", PROLOGUE + textwrap.indent(script, "    ") + END, str(index),
             ",".join(self.addresses)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
            for index in indices or range(count)}

    def wait_until_met(self):
        for process in self.processes.values():
            assert process.stdout.readline() == "met\n"

    def ends(self, timeout=LEAVE_SEC, but=None):
        """Return {worker: (exit status, stdout, lines on stderr)}."""
        ends = {}
        for index, process in self.processes.items():
            if index != but:
                out, err = process.communicate(timeout=timeout)
                ends[index] = process.returncode, out, err.splitlines()
        return ends


@pytest.fixture
def run():
    """Return a function that starts Scripts, which are killed at the end of the test."""
    started = []

    def begin(*args, **options):
        started.append(Scripts(*args, **options))
        return started[-1]

    yield begin
    for process in [process for scripts in started for process in scripts.processes.values()]:
        process.kill()
        process.communicate()


TOGETHER = """
import json
strategy = start({"table": {4: 8}})
from training.state import check_same_state
results = {"chief": is_chief(strategy), "several": has_other_workers(strategy)}
results["gathered"] = [all_gather(strategy, v) for v in ([index, "a"], {"x": None}, 4.5)]
results["largest"] = all_reduce_max(strategy, [index, -index, False])
results["rows"] = worker_rows(strategy, 8).tolist()
for other in (None, [9000, "b"], [8000, "b"]):
    state = other if index else [8000, "a"]
    try:
        check_same_state(strategy, state and (
            {"progress": {"cur_nimg": state[0]}, "digests": {"G": state[1]}}, {}), "run")
    except UserError as error:
        results.setdefault("states", []).append(str(error))
asked = threading.Event()
strategy.connection.on_stop = asked.set
all_gather(strategy, None)
if index:
    ask_others_to_stop(strategy)
results["asked"] = asked.wait(0.5 if index else 30)
print(json.dumps(results), flush=True)
with worker_session(strategy):
    all_gather(strategy, None)
"""


@pytest.mark.slow
def test_workers_agree_and_exit_together(run):
    ends = run(TOGETHER, 2).ends()
    assert [end[0] for end in ends.values()] == [0, 0], ends
    first, second = (json.loads(end[1]) for end in ends.values())
    assert [first.pop("chief"), second.pop("chief")] == [True, False]
    assert [first.pop("asked"), second.pop("asked")] == [True, False]
    assert sorted(first.pop("rows") + second.pop("rows")) == list(range(8))
    assert first == second
    assert first["gathered"] == [[[0, "a"], [1, "a"]], [{"x": None}] * 2, [4.5, 4.5]]
    assert first["largest"] == [1, 0, False] and first["several"] is True
    for line, words in zip(first["states"], (
            "worker 0 finds a training state of kimg 8.000 in it, worker 1 no training state",
            "worker 1 a training state of kimg 9.000", "worker 1 another one, of the same kimg")):
        assert words in line


LONG_WORK = """
strategy = start()
with worker_session(strategy):
    print("met", flush=True)
    if index == len(addresses) - 1 and sys.stdin.readline() == "fail\\n":
        raise UserError("its disk is full")
    if index == 0:
        time.sleep(300)  # an evaluation
    all_gather(strategy, None)
"""


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_worker_is_noticed_at_once(run, lost):
    """Worker 0 notices during an evaluation that the other is lost; the other notices worker 0."""
    workers = run(LONG_WORK, 2)
    workers.wait_until_met()
    workers.processes[lost].kill()
    status, _, lines = workers.ends(timeout=15, but=lost)[1 - lost]
    assert status == LOST_STATUS
    assert lines == [f"error: worker {lost} ({workers.addresses[lost]}) is lost; {RESTART}"]


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 2])
def test_a_worker_that_stops_answering_is_noticed_by_all(run, lost):
    workers = run(LONG_WORK, 3)
    workers.wait_until_met()
    workers.processes[lost].send_signal(signal.SIGSTOP)
    began = time.monotonic()
    for status, _, lines in workers.ends(but=lost).values():
        assert status == LOST_STATUS
        assert lines == [f"error: worker {lost} ({workers.addresses[lost]}) is lost; {RESTART}"]
    assert time.monotonic() - began < LEAVE_SEC


@pytest.mark.slow
def test_an_error_of_one_is_reported_by_all(run):
    workers = run(LONG_WORK, 3)
    workers.wait_until_met()
    print("fail", file=workers.processes[2].stdin, flush=True)
    ends = workers.ends()
    assert ends[2][0] == 2 and ends[2][2] == ["error: its disk is full"]
    for worker in (0, 1):
        assert ends[worker][0] == LOST_STATUS
        assert ends[worker][2] == [
            f"error: worker 2 ({workers.addresses[2]}) stopped: its disk is full; {RESTART}"]


MEETING = """
from dnnlib.tflib import connection
connection.JOIN_SEC = 3
start()
"""


@pytest.mark.slow
def test_a_missing_worker_is_named(run):
    addresses = free_addresses(2)
    (status, _, lines), = run(MEETING, 2, addresses, [0]).ends().values()
    assert status == 2 and len(lines) == 1
    assert f"worker 1 ({addresses[1]}) did not come within 3 seconds" in lines[0]
    (status, _, lines), = run(MEETING, 2, addresses, [1]).ends().values()
    assert status == 2
    assert f"worker 1 could not join worker 0 ({addresses[0]}) within 3 seconds" in lines[-1]


@pytest.mark.slow
def test_different_lists_and_used_ports_are_one_line(run):
    addresses = free_addresses(3)
    with socket.create_server(("", int(addresses[1].split(":")[1]))):
        (status, _, lines), = run(MEETING, 2, addresses[:2], [1]).ends().values()
    assert status == 2 and len(lines) == 1 and "is it running already?" in lines[0]
    run(LONG_WORK, 2, addresses[:2]).wait_until_met()
    (status, _, lines), = run(MEETING, 3, addresses, [2]).ends().values()
    assert status == 2 and "was given other workers" in lines[-1]
