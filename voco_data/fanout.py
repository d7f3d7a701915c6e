"""Spread batches of series over local processes, or a Dask cluster.

One series is in memory per worker, and a few batches are in flight, whatever the archive's size.
A decoder that crashes takes its process with it, so nothing is read in the coordinator's own.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any

from voco_data.errors import InputError, VocoError
from voco_data.pool import TIME_LIMIT_S, Batch, Known, pool
from voco_data.reasons import Reason
from voco_data.worker import SeriesOutcome, SeriesTask, fill_batch

log = logging.getLogger(__name__)

IN_FLIGHT_PER_WORKER = 2
LARGEST_BATCH = 256
BATCHES_PER_WORKER = 16

ANY_PORT = "127.0.0.1:0"
"""Where the scheduler of a local cluster shows itself: on loopback, beside others."""

PATIENCE_S = 5.0
WORKERLESS_S = 30.0
"""A cluster that has had no worker for so long will get none by itself."""

NO_SCHEDULER = "the Dask scheduler is gone; what is finished stays: start it, run again"
KILLED = "the process that read it died twice (out of memory, a crash, or stuck in a decoder)"


def batches(tasks: Sequence[SeriesTask], workers: int) -> Iterator[Batch]:
    """Cut tasks into batches: small for a small archive, at most LARGEST_BATCH series."""
    size = max(1, min(LARGEST_BATCH, len(tasks) // (workers * BATCHES_PER_WORKER)))
    for start in range(0, len(tasks), size):
        yield tasks[start : start + size]


def run_processes(
    todo: Iterable[Batch], known: Known, workers: int
) -> Iterator[list[SeriesOutcome]]:
    """Over `workers` local processes. One that dies costs its series one retry, alone."""
    suspects: list[SeriesTask] = []
    remaining = iter(todo)
    while True:
        lost = yield from _drain_pool(remaining, known, workers)
        suspects += [task for batch in lost for task in batch]
        if not lost:
            break
    yield from _one_by_one(suspects, known)


def _drain_pool(
    todo: Iterator[Batch], known: Known, workers: int
) -> Generator[list[SeriesOutcome], None, list[Batch]]:
    """Run batches until they end or a process dies; return the batches that were in flight."""
    with pool(workers, known) as processes:
        flying: dict[Future[list[SeriesOutcome]], Batch] = {}
        try:
            while True:
                for batch in islice(todo, workers * IN_FLIGHT_PER_WORKER - len(flying)):
                    try:
                        flying[processes.submit(batch)] = batch
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
            log.warning("a worker process died; its series are tried again, one by one")
            return list(flying.values())
        finally:
            for future in flying:
                future.cancel()


def _one_by_one(suspects: Sequence[SeriesTask], known: Known) -> Iterator[list[SeriesOutcome]]:
    """The second try: one process, one series at a time. The series that ends it is refused."""
    remaining = list(suspects)
    while remaining:
        with pool(1, known) as process:
            try:
                while remaining:
                    yield process.submit([remaining[0]]).result()
                    del remaining[0]
            except BrokenProcessPool:
                yield [_died(remaining.pop(0))]


def _died(task: SeriesTask) -> SeriesOutcome:
    return SeriesOutcome(task.key, task.memory_key, reason=Reason.WORKER_DIED, detail=KILLED)


def run_dask(
    todo: Iterable[Batch], known: Known, cluster: str, workers: int
) -> Iterator[list[SeriesOutcome]]:
    """Over a Dask cluster: `local` starts one of `workers` processes, else a scheduler's address.

    Every worker must see SOURCE and the root under the same paths.
    """
    # These cost a second to import.
    from dask.distributed import Client, LocalCluster
    from distributed.comm.core import CommClosedError

    try:
        client = (
            Client(
                LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=ANY_PORT)
            )
            if cluster == "local"
            else Client(cluster, timeout="10s")
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"--dask {cluster}: no scheduler answers there ({error}); "
            "give local, or an address such as tcp://127.0.0.1:8786"
        ) from error
    with client:
        try:
            suspects = yield from _drain_cluster(client, iter(todo), known)
        except CommClosedError as error:
            raise VocoError(NO_SCHEDULER) from error
        if client.cluster is not None:
            client.cluster.close()
    # The second try is ours: a process of this machine, so that no other series is blamed.
    yield from _one_by_one(suspects, known)


def _drain_cluster(
    client: Any, todo: Iterator[Batch], known: Known
) -> Generator[list[SeriesOutcome], None, list[SeriesTask]]:
    """Run batches until they end; return the series of those whose worker died.

    Raises VocoError if no worker is left.
    """
    from dask.distributed import KilledWorker, wait
    from distributed.client import FutureCancelledError

    # A task, not scattered data: those are lost with the worker that holds them.
    shared: Any = client.submit(dict, known, pure=False)
    slots = IN_FLIGHT_PER_WORKER * max(1, len(client.scheduler_info()["workers"]))
    flying: dict[Any, Batch] = {}
    suspects: list[SeriesTask] = []
    workerless = 0
    while True:
        for batch in islice(todo, slots - len(flying)):
            flying[client.submit(fill_batch, batch, shared, TIME_LIMIT_S, pure=False)] = batch
        if not flying:
            return suspects
        try:
            done = wait(list(flying), timeout=PATIENCE_S, return_when=FIRST_COMPLETED).done
        except TimeoutError:
            workerless = 0 if client.scheduler_info()["workers"] else workerless + 1
            if workerless * PATIENCE_S >= WORKERLESS_S:
                return _give_up(client, flying, todo, suspects)
            continue
        for future in done:
            batch = flying.pop(future)
            try:
                yield future.result()
            except (KilledWorker, FutureCancelledError) as error:
                if getattr(error, "reason", "") == "scheduler-connection-lost":
                    raise VocoError(NO_SCHEDULER) from error
                suspects += batch  # its own worker's death, or its neighbour's


def _give_up(
    client: Any, flying: Mapping[Any, Batch], todo: Iterator[Batch], suspects: list[SeriesTask]
) -> list[SeriesTask]:
    """No worker came back: a cluster of our own is replaced by us, another one is its owner's."""
    if client.cluster is None:
        raise VocoError(
            "the Dask cluster has no workers left; what is finished stays: start some, run again"
        )
    client.cancel(list(flying))
    return [*suspects, *(task for batch in (*flying.values(), *todo) for task in batch)]
