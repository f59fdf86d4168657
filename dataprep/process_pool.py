"""Many processes, one order. Workers load no TensorFlow, and only the parent writes."""

import collections
import concurrent.futures
import ctypes
import multiprocessing
import os
import threading

from dnnlib.util import UserError

_AHEAD = 4  # tasks given out for each worker: memory stays bounded whatever the parent's speed
# glibc's names for the sizes from which memory is asked of the system and given back to it, and
# ours: arrays of a few megabytes come and go with every photo.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT = 32 << 20


def ordered_map(function, items, workers):
    """Yield function(item) for each item, in order, computed by `workers` processes.

    `function` and items must be picklable; with one worker everything runs in this process. Raises
    UserError where a worker dies.
    """
    if workers == 1:
        yield from map(function, items)
        return
    pending = collections.deque()
    # Spawned and not forked: a fork of a process that runs threads can hang.
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= _AHEAD * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except concurrent.futures.process.BrokenProcessPool:
        raise UserError("a worker process died, perhaps for lack of memory; run the same command "
                        "again with fewer --workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker():
    """What every worker does before its first task."""
    _leave_with_parent()
    keep_freed_memory()


def keep_freed_memory():
    """Have freed memory used again, rather than given back and cleared page by page by the system:
    an eighth of a conversion's time. Does nothing where the C library is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEPT)
        mallopt(_M_TRIM_THRESHOLD, 2 * _KEPT)


def _leave_with_parent():
    """End this worker when the parent is gone: after a SIGKILL it would wait for tasks forever."""
    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)
    threading.Thread(target=wait, daemon=True).start()
