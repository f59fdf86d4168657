"""Work that overlaps, in order: one iterator ahead of its reader, one function on many devices."""

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from dnnlib.process_pool import in_order

S, T = TypeVar("S"), TypeVar("T")

DEPTH = 2  # items that wait; more would only cost memory


def prefetch(items: Iterable[T], depth: int = DEPTH) -> Iterator[T]:
    """Yield `items` in order while a thread makes the next one, with up to `depth` that wait.

    What the iterator raises is raised here, in its place. A reader that stops early (an error,
    Ctrl-C) stops the thread too, after the item that it is making.
    """
    iterator, end = iter(items), object()
    pool = ThreadPoolExecutor(1, "prefetch")
    try:
        pending = collections.deque(pool.submit(next, iterator, end) for _ in range(depth + 1))
        while (item := pending.popleft().result()) is not end:
            pending.append(pool.submit(next, iterator, end))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)


def map_over_devices(functions: Sequence[Callable[[S], T]], items: Iterable[S]) -> Iterator[T]:
    """Yield a result for every item in order, item k by function k % len(functions).

    Each function has a thread of its own, and two items at a time; a single one is called here and
    now, without any thread.
    """
    if len(functions) == 1:
        yield from map(functions[0], items)
        return
    pools = [ThreadPoolExecutor(1, f"device-{i}") for i in range(len(functions))]
    try:
        futures = (pools[k % len(pools)].submit(functions[k % len(pools)], item)
                   for k, item in enumerate(items))
        yield from in_order(futures, 2 * len(pools))
    finally:
        for pool in pools:
            pool.shutdown(cancel_futures=True)
