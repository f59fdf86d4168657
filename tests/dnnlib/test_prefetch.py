"""Prefetching and work on several devices: order, errors, early ends, memory."""

import threading
import time

import pytest

from dnnlib.process_pool import map_over_devices, prefetch


def no_thread(name):
    """Return whether no thread with that name is left."""
    return not any(thread.name.startswith(name) for thread in threading.enumerate())


def test_prefetch_keeps_the_order():
    assert list(prefetch(iter(range(200)))) == list(range(200))
    assert list(prefetch([])) == [] and no_thread("prefetch")


def test_prefetch_works_in_a_thread_and_only_to_its_depth():
    made, threads = [], set()

    def items():
        for i in range(20):
            threads.add(threading.get_ident())
            made.append(i)
            yield i
    reader = prefetch(items(), depth=2)
    assert next(reader) == 0
    deadline = time.monotonic() + 30
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(made) == 4  # the one taken, two that wait, and one for which there is no room
    assert list(reader) == list(range(1, 20))
    assert threading.get_ident() not in threads


def test_prefetch_overlaps():
    """While an item is read the next one is made; the reader waits for it, even if that is slow."""
    begun = [threading.Event() for _ in range(5)]

    def items():
        for i, event in enumerate(begun):
            event.set()
            yield i

    for i in prefetch(items()):
        assert all(event.wait(30) for event in begun[:i + 2])


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()])
def test_errors_are_raised_in_the_reader(error):
    def items():
        yield 1
        yield 2
        raise error
    got = []
    with pytest.raises(type(error)):
        for item in prefetch(items()):
            got.append(item)
    assert got == [1, 2] and no_thread("prefetch")


def test_a_reader_that_stops_stops_the_thread():
    """An error in the loop, such as Ctrl-C, while the queue is full."""
    with pytest.raises(KeyboardInterrupt):
        for item in prefetch(iter(range(10**9))):
            if item == 3:
                raise KeyboardInterrupt
    deadline = time.time() + 5
    while not no_thread("prefetch") and time.time() < deadline:
        time.sleep(0.01)
    assert no_thread("prefetch")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_map_over_devices_keeps_the_order_and_alternates(count):
    def worker(number):
        def work(item):
            time.sleep(0.002 * (item * 7 % 5))
            return item, number
        return work
    results = list(map_over_devices([worker(i) for i in range(count)], iter(range(30))))
    assert results == [(i, i % count) for i in range(30)]


def test_one_function_needs_no_thread():
    threads = list(map_over_devices([lambda item: threading.get_ident()], range(3)))
    assert set(threads) == {threading.get_ident()}


def test_map_over_devices_runs_at_once_and_not_too_far_ahead():
    taken, running, most = [], [], []
    lock = threading.Lock()

    def work(item):
        with lock:
            running.append(item)
            most.append(len(running))
        time.sleep(0.02)
        with lock:
            running.remove(item)
        return item

    def items():
        for i in range(12):
            taken.append(i)
            yield i
    results = map_over_devices([work, work], items())
    assert next(results) == 0 and len(taken) == 4
    assert list(results) == list(range(1, 12)) and max(most) == 2


def test_errors_of_a_device():
    def work(item):
        if item == 5:
            raise ValueError("device lost")
        return item
    got = []
    with pytest.raises(ValueError, match="device lost"):
        for result in map_over_devices([work, work], range(100)):
            got.append(result)
    assert got == [0, 1, 2, 3, 4] and no_thread("device")
