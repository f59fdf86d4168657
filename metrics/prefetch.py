"""Work that overlaps, in order: one iterator ahead of its reader, one function on many devices."""

import collections
import queue
import threading
from concurrent.futures import ThreadPoolExecutor

DEPTH = 2  # items that wait; more would only cost memory


def ahead(items, depth=DEPTH):
    """Yield `items` in order while a thread makes up to `depth` of the next ones.

    What the iterator raises is raised here, in its place. Whoever stops early (an error, Ctrl-C)
    stops the thread too, after the item that it is making.
    """
    waiting = queue.Queue(depth)
    stop = threading.Event()

    def put(kind, value):
        """Wait for room; False where nobody reads any more."""
        while not stop.is_set():
            try:
                waiting.put((kind, value), timeout=0.1)
                return True
            except queue.Full:
                pass
        return False

    def produce():
        try:
            for item in items:
                if not put("item", item):
                    return
            put("end", None)
        except BaseException as error:  # to be raised where the items are wanted
            put("error", error)

    thread = threading.Thread(target=produce, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = waiting.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        stop.set()
        thread.join()


def round_robin(functions, items):
    """Yield a result for every item in order, item k by function k % len(functions).

    Each function has a thread of its own, and two items at a time; a single one is called here and
    now, without any thread.
    """
    if len(functions) == 1:
        yield from map(functions[0], items)
        return
    pools = [ThreadPoolExecutor(1, f"device-{i}") for i in range(len(functions))]
    pending = collections.deque()
    try:
        for k, item in enumerate(items):
            place = k % len(functions)
            pending.append(pools[place].submit(functions[place], item))
            if len(pending) == 2 * len(functions):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for pool in pools:
            pool.shutdown(cancel_futures=True)
