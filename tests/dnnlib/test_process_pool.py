"""Workers: the order of their results, and the memory that they keep."""

import os
import platform
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dnnlib.process_pool import map_in_batches, ordered_map, threaded_map

SIDE = 1024
ROOT = Path(__file__).resolve().parents[2]


def late_if_early(number):
    """Take longest for the first numbers."""
    time.sleep(0.02 * max(0, 4 - number))
    return number


def faults_of_arrays(num_rounds):
    """Return how many pages the system cleared while twelve 1 MB arrays came and went."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(num_rounds):
        arrays = [np.ones((SIDE, SIDE), np.uint8) for _ in range(12)]
        del arrays
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_are_in_the_order_of_the_items(workers):
    assert list(ordered_map(late_if_early, range(30), workers)) == list(range(30))


def test_ctrl_c_is_one_line_while_workers_start():
    program = ("import signal, time; from dnnlib import cli; "
               "from dnnlib.process_pool import ordered_map; "
               # Ignored if the tests run in a shell's background.
               "signal.signal(signal.SIGINT, signal.default_int_handler); "
               "cli.run_main(lambda argv: list(ordered_map(time.sleep, [0.1] * 900, 3)) and 0)")
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, text=True,
                               stderr=subprocess.PIPE, start_new_session=True)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(children.read_text().split()) < 4:  # workers, and one process that frees resources
        time.sleep(0.01)
    time.sleep(0.3)  # they import what they need
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and error == "interrupted; repeat the command to continue\n"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="set in glibc only")
def test_workers_reuse_freed_memory():
    pages = 12 * SIDE * SIDE / resource.getpagesize()
    for faults in ordered_map(faults_of_arrays, [20, 20], 2):
        assert faults < 2 * pages


def test_threads_keep_the_order_and_stop_with_their_reader():
    done = []

    def work(number):
        late_if_early(number)
        done.append(number)
        return number
    assert list(threaded_map(work, range(9), 3)) == list(range(9))
    done.clear()
    results = threaded_map(work, range(1000), 2)
    assert next(results) == 0
    results.close()
    assert len(done) < 20


def fail_at_two(number):
    if number == 2:
        raise ValueError("two")
    return number


@pytest.mark.parametrize("run", [
    lambda items: threaded_map(fail_at_two, items, 2),
    lambda items: map_in_batches(fail_at_two, items, 1, 2, "failing", "item")])
def test_errors_are_raised_at_their_position(run):
    results = run([0, 1, 2, 3])
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)


@pytest.mark.parametrize("batch", [1, 3, 20])
def test_batches_keep_the_order(batch):
    assert list(map_in_batches(abs, range(-7, 0), 1, batch, "counting", "item")) == \
        list(range(7, 0, -1))
