"""Workers: the order of their results, and the memory that they keep."""

import platform
import resource
import time

import numpy as np
import pytest

from dataprep.process_pool import ordered_map

SIDE = 1024


def late_if_early(number):
    """The first ones take longest."""
    time.sleep(0.02 * max(0, 4 - number))
    return number


def faults_of_arrays(num_rounds):
    """Pages that the system had to clear while twelve arrays of 1 MB came and went."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(num_rounds):
        arrays = [np.ones((SIDE, SIDE), np.uint8) for _ in range(12)]
        del arrays
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_are_in_the_order_of_the_items(workers):
    assert list(ordered_map(late_if_early, range(30), workers)) == list(range(30))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="set in glibc only")
def test_workers_use_freed_memory_again():
    pages = 12 * SIDE * SIDE / resource.getpagesize()
    for faults in ordered_map(faults_of_arrays, [20, 20], 2):
        assert faults < 2 * pages
