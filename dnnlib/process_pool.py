"""Many processes or threads, one order. Worker processes load no TensorFlow and write nothing."""

import collections
import concurrent.futures
import ctypes
import functools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

from dnnlib.util import UserError, progress

_AHEAD = 4  # tasks handed out to each worker: memory stays bounded whatever the parent's speed
# glibc's names for the sizes from which memory is asked of the system and given back to it, and
# ours: arrays of a few megabytes come and go with every photo.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_REUSED = 32 << 20


def in_order(futures: Iterable[concurrent.futures.Future], ahead: int) -> Iterator:
    """Yield the results of futures in order, with up to `ahead` of them taken and under way."""
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
    UserError if a worker dies.
    """
    if workers == 1:
        yield from map(function, items)
        return
    # Spawned and not forked: a fork of a process that runs threads can hang.
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        yield from in_order((pool.submit(function, item) for item in items), _AHEAD * workers)
    except concurrent.futures.process.BrokenProcessPool:
        raise UserError("a worker process died, perhaps for lack of memory; run the same command "
                        "again with fewer --workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


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
    return [function(item) for item in items]


def threaded_map(function: Callable, items: Iterable, threads: int) -> Iterator:
    """Yield function(item) for each item, in order, computed by threads some items ahead.

    A reader that stops early does not wait for what is under way.
    """
    pool = concurrent.futures.ThreadPoolExecutor(threads)
    try:
        yield from in_order((pool.submit(function, item) for item in items), 2 * threads + 1)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _start_worker():
    """Make a worker end with its parent, which could be killed, and prepare its memory."""
    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)
    threading.Thread(target=wait, daemon=True).start()
    reuse_freed_memory()


def reuse_freed_memory() -> None:
    """Have freed memory used again, rather than given back and cleared page by page by the system:
    an eighth of a conversion's time. Does nothing if the C library is not glibc."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_M_MMAP_THRESHOLD, _REUSED)
        mallopt(_M_TRIM_THRESHOLD, 2 * _REUSED)
