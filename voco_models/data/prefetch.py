"""Work that threads begin before its result is asked for."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

AHEAD = 2
"""Batches being read, or read and waiting. More would leave the processor's cache."""
READER_THREADS = max(2, min(4, len(os.sched_getaffinity(0))))
"""Reads in flight. A read is one file of 1-6 MB, so a few threads hide the latency of a disk; more
than there are cores would take turns."""

Step = TypeVar("Step")
Begun = TypeVar("Begun")
Done = TypeVar("Done")


def read_ahead(
    plan: Iterable[Step],
    start: Callable[[ThreadPoolExecutor, Step], Begun],
    finish: Callable[[Begun], Done],
    threads: int,
) -> Generator[Done, None, None]:
    """`finish(start(pool, step))` for each step, in order; up to `AHEAD` steps are begun early.

    Both are called in the thread that asks. What `finish` raises ends the stream there: work that
    no thread has taken up is dropped, and what runs is waited for. So does closing.
    """
    remaining = iter(plan)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="voco-reader")
    try:
        begun = deque(start(pool, step) for step in itertools.islice(remaining, AHEAD))
        while begun:
            # No name is kept here for what the caller gets: its memory is used again as soon as
            # the caller lets go of it.
            yield finish(begun.popleft())
            for step in itertools.islice(remaining, 1):
                begun.append(start(pool, step))
    finally:
        pool.shutdown(cancel_futures=True)
