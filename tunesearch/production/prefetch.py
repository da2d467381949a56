"""Reading ahead: work done in threads for the next few items, in order and in bounded memory; items in batches."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def prefetch(work: Callable[[S], T], items: Iterable[S]) -> Iterator[tuple[S, T]]:
    """Each item with what ``work`` makes of it, in order; a few, and no more, are worked on ahead in threads."""
    threads = min(4, os.cpu_count() or 1)
    queue: deque[tuple[S, Future[T]]] = deque()
    source = iter(items)
    with ThreadPoolExecutor(max_workers=threads) as pool:
        try:
            for item in islice(source, 2 * threads):
                queue.append((item, pool.submit(work, item)))
            while queue:
                item, future = queue.popleft()
                for later in islice(source, 1):
                    queue.append((later, pool.submit(work, later)))
                yield item, future.result()
        finally:
            for _, future in queue:
                future.cancel()


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of ``size``, the last one perhaps shorter. A list is emptied when the next is asked for."""
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch.clear()  # what it holds may be large, and the next one is filled now
    if batch:
        yield batch
