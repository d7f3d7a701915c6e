"""Spread batches of series over the processes of this machine.

One series is in memory per worker, and a few batches are in flight, whatever the archive's size.
A decoder that crashes takes its process with it, so nothing is read in the coordinator's own.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice

from voco_data.executors.process_pool import Batch, Known, pool
from voco_data.executors.worker import SeriesOutcome, SeriesTask
from voco_data.reasons import Reason

log = logging.getLogger(__name__)

IN_FLIGHT_PER_WORKER = 2
LARGEST_BATCH = 256
"""The coordinator holds the file names of all that is in flight."""
BATCHES_PER_WORKER = 16
ALONE_FROM = 16
"""Batches of so many series at most are tried again a series at a time, others in smaller ones."""
SMALLER = 4
"""So many times, at least. However many series end their process, the tries come to an end."""

KILLED = "the process that read it died twice (out of memory, a crash, or stuck in a decoder)"


def pieces(count: int, workers: int, largest: int = LARGEST_BATCH) -> Iterator[range]:
    """Cut `count` series into batches: small for a small archive, `largest` series at most."""
    size = max(1, min(largest, count // (workers * BATCHES_PER_WORKER)))
    for start in range(0, count, size):
        yield range(start, min(count, start + size))


def batches(
    tasks: Sequence[SeriesTask], workers: int, largest: int = LARGEST_BATCH
) -> Iterator[Batch]:
    """The tasks in batches for `workers` processes, made as they are asked for."""
    for piece in pieces(len(tasks), workers, largest):
        yield tasks[piece.start : piece.stop]


def run_processes(
    todo: Iterable[Batch], known: Known, workers: int, *, again: bool = False
) -> Iterator[list[SeriesOutcome]]:
    """Over `workers` local processes. One that dies costs what was in flight a retry.

    That is in smaller batches, until the series that ends its process is alone; what was committed
    is not read again. `again`: so were these batches, by workers elsewhere.
    """
    while True:
        lost: list[Batch] = []
        remaining = iter(todo)
        while more := (yield from _drain_pool(remaining, known, workers, again=again)):
            lost += more
        suspects = [task for batch in lost for task in batch]
        longest = max(map(len, lost), default=0)
        if longest <= ALONE_FROM:
            break
        todo, again = batches(suspects, workers, longest // SMALLER), True
    yield from one_by_one(suspects, known)


def _drain_pool(
    todo: Iterator[Batch], known: Known, workers: int, *, again: bool
) -> Generator[list[SeriesOutcome], None, list[Batch]]:
    """Run batches until they end or a process dies; return the batches that were in flight."""
    with pool(workers, known) as processes:
        flying: dict[Future[list[SeriesOutcome]], Batch] = {}
        try:
            while True:
                for batch in islice(todo, workers * IN_FLIGHT_PER_WORKER - len(flying)):
                    try:
                        flying[processes.submit(batch, again=again)] = batch
                    except BrokenProcessPool:
                        return [*flying.values(), batch]
                if not flying:
                    return []
                done, _ = wait(flying, return_when=FIRST_COMPLETED)
                for future in done:
                    outcomes = future.result()
                    del flying[future]
                    yield outcomes
        except BrokenProcessPool:
            log.warning("a worker process died; what it had in hand is tried again")
            return list(flying.values())
        finally:
            for future in flying:
                future.cancel()


def one_by_one(suspects: Sequence[SeriesTask], known: Known) -> Iterator[list[SeriesOutcome]]:
    """The last try: one process, one series at a time. The series that ends it is refused."""
    remaining = list(suspects)
    while remaining:
        with pool(1, known) as process:
            try:
                while remaining:
                    yield process.submit([remaining[0]], again=True).result()
                    del remaining[0]
            except BrokenProcessPool:
                yield [_died(remaining.pop(0))]


def _died(task: SeriesTask) -> SeriesOutcome:
    return SeriesOutcome(task.key, task.memory_key, reason=Reason.WORKER_DIED, detail=KILLED)
