"""Overlap work, with results in order: processes, threads, or an iterator ahead of its reader.

Worker processes load no TensorFlow and write nothing.
"""

import collections
import concurrent.futures
import ctypes
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from dnnlib.util import UserError, progress

S, T = TypeVar("S"), TypeVar("T")

# glibc's parameters for the sizes from which memory is requested from and returned to the system,
# and our value: every photo allocates and frees arrays of a few megabytes.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_REUSED = 32 << 20


def ordered(futures: Iterable[concurrent.futures.Future], ahead: int) -> Iterator:
    """Yield the results of futures in order, with up to `ahead` of them submitted in advance."""
    pending = collections.deque()
    for future in futures:
        pending.append(future)
        if len(pending) >= ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def ordered_map(function: Callable, items: Iterable, workers: int) -> Iterator:
    """Yield function(item) for each item, in order, computed by `workers` processes.

    `function` and items must be picklable; with one worker everything runs in this process. Raises
    UserError if a worker dies. Only this process handles Ctrl-C.
    """
    if workers == 1:
        yield from map(function, items)
        return
    # Spawned, not forked: a fork of a process with threads can hang.
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        # Four tasks for each worker: memory stays bounded even if the parent is slow.
        yield from ordered((_submit(pool, function, item) for item in items), 4 * workers)
    except concurrent.futures.process.BrokenProcessPool:
        raise UserError("a worker process died, perhaps for lack of memory; run the same command "
                        "again with fewer --workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _submit(pool, function, item):
    """Submit a task while Ctrl-C is blocked. Workers that this starts inherit the block, so that
    none prints a traceback; in this process, a Ctrl-C takes effect when this function ends."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(function, item)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def map_in_batches(function: Callable, items: Sequence, workers: int, batch: int, desc: str,
                   unit: str) -> Iterator:
    """Yield function(item) for each of many small items, in order, under a progress bar.

    A worker gets `batch` items at once; `desc` and `unit` are the bar's.
    """
    batches = (items[first:first + batch] for first in range(0, len(items), batch))
    with progress(total=len(items), desc=desc, unit=unit) as bar:
        for results in ordered_map(functools.partial(_call_all, function), batches, workers):
            yield from results
            bar.update(len(results))


def _call_all(function, items):
    """Return a batch's results; a worker finds this function by its name."""
    return [function(item) for item in items]


def threaded_map(function: Callable, items: Iterable, threads: int) -> Iterator:
    """Yield function(item) for each item, in order, computed by threads some items ahead.

    A reader that stops early does not wait for the items under way.
    """
    pool = concurrent.futures.ThreadPoolExecutor(threads)
    try:
        yield from ordered((pool.submit(function, item) for item in items), 2 * threads + 1)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def prefetch(items: Iterable[T], depth: int = 2) -> Iterator[T]:
    """Yield `items` in order while a thread makes the next one, with up to `depth` finished ones
    waiting (more would only cost memory).

    An exception of the iterator is raised here, at its place in the order. A reader that stops
    early (an error, Ctrl-C) stops the thread too, after the item that it is making.
    """
    iterator, end = iter(items), object()
    pool = concurrent.futures.ThreadPoolExecutor(1, "prefetch")
    try:
        pending = collections.deque(pool.submit(next, iterator, end) for _ in range(depth + 1))
        while (item := pending.popleft().result()) is not end:
            pending.append(pool.submit(next, iterator, end))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)


def map_over_devices(functions: Sequence[Callable[[S], T]], items: Iterable[S]) -> Iterator[T]:
    """Yield a result for every item in order, item k by function k % len(functions).

    Each function has a thread of its own, and two items at a time; a single function is called
    directly, without a thread.
    """
    if len(functions) == 1:
        yield from map(functions[0], items)
        return
    pools = [concurrent.futures.ThreadPoolExecutor(1, f"device-{i}") for i in range(len(functions))]
    try:
        futures = (pools[k % len(pools)].submit(functions[k % len(pools)], item)
                   for k, item in enumerate(items))
        yield from ordered(futures, 2 * len(pools))
    finally:
        for pool in pools:
            pool.shutdown(cancel_futures=True)


def _start_worker():
    """Make a worker end when its parent does, even if that is killed, and tune its memory."""
    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)
    threading.Thread(target=wait, daemon=True).start()
    reuse_freed_memory()


def reuse_freed_memory() -> None:
    """Make the process keep and reuse freed memory: the system would have to clear it page by page,
    which takes an eighth of a conversion's time. Does nothing if the C library is not glibc."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_M_MMAP_THRESHOLD, _REUSED)
        mallopt(_M_TRIM_THRESHOLD, 2 * _REUSED)
