"""Helpers of the Apache Beam tests."""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_WORKER = b"apache_beam.runners.worker.sdk_worker_main"
IN_MEMORY = ["--direct_running_mode=in_memory"]
# Beam's own code, and the packages that it imports.
NOISE = [pytest.mark.filterwarnings(f"ignore::{name}Warning")
         for name in ("Deprecation", "Resource", "Future", "User")]


def processes(number):
    """Return the options for that many worker processes."""
    return ["--direct_running_mode=multi_processing", f"--direct_num_workers={number}"]


class AnyRunner:
    """A BeamRunner without Beam: as workers may, it makes every element twice, the last first."""

    def run(self, start, elements):
        work = pickle.loads(pickle.dumps(start))()
        for element in [*reversed(list(elements))] * 2:
            work(element)


def wait_until(condition, process, timeout=120):
    """Wait for a condition while a process runs."""
    end = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < end, "nothing happens"
        time.sleep(0.02)


def kill_a_worker(process):
    """Kill one worker process of a command that runs in a session of its own."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            session = int((path / "stat").read_text().rpartition(")")[2].split()[3])
            is_worker = (path / "cmdline").read_bytes().split(b"\0")[-2:] == [_WORKER, b""]
        except OSError:  # it has already ended
            continue
        if session == process.pid and is_worker:
            os.kill(int(path.name), signal.SIGKILL)
            return
    raise AssertionError("there is no worker")


@contextlib.contextmanager
def session(code, *arguments):
    """Run Python in a session of its own, all of which is killed at the end."""
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)],
                               cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               start_new_session=True)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
