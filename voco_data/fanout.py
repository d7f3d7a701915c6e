"""Spread batches of series over this process, local processes, or a Dask cluster.

One series is in memory per worker, and a few batches are in flight, whatever the archive's size.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice

from voco_data.errors import InputError
from voco_data.known import KnownInputs
from voco_data.reasons import Reason
from voco_data.worker import SeriesOutcome, SeriesTask, fill_batch

log = logging.getLogger(__name__)

Batch = Sequence[SeriesTask]
Known = Mapping[str, KnownInputs]

IN_FLIGHT_PER_WORKER = 2
LARGEST_BATCH = 256
BATCHES_PER_WORKER = 16

WORTH_A_POOL = 8
"""Fewer series than this are done before a pool of processes has started."""

_known: Known = {}


def batches(tasks: Sequence[SeriesTask], workers: int) -> Iterator[Batch]:
    """Cut tasks into batches: small for a small archive, at most LARGEST_BATCH series."""
    size = max(1, min(LARGEST_BATCH, len(tasks) // (workers * BATCHES_PER_WORKER)))
    for start in range(0, len(tasks), size):
        yield tasks[start : start + size]


def run_here(todo: Iterable[Batch], known: Known) -> Iterator[list[SeriesOutcome]]:
    """One series after another in this process."""
    for batch in todo:
        for task in batch:
            yield fill_batch([task], known)


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
    for task in suspects:
        yield [_alone(task, known)]


def _drain_pool(
    todo: Iterator[Batch], known: Known, workers: int
) -> Generator[list[SeriesOutcome], None, list[Batch]]:
    """Run batches until they end or a process dies; return the batches that were in flight."""
    with _pool(workers, known) as pool:
        flying: dict[Future[list[SeriesOutcome]], Batch] = {}
        try:
            while True:
                for batch in islice(todo, workers * IN_FLIGHT_PER_WORKER - len(flying)):
                    flying[pool.submit(_fill, batch)] = batch
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


def _alone(task: SeriesTask, known: Known) -> SeriesOutcome:
    """The second try, in a process of its own."""
    with _pool(1, known) as pool:
        try:
            return pool.submit(_fill, [task]).result()[0]
        except BrokenProcessPool:
            detail = "the process that read it was killed twice (out of memory, or a crash)"
            return SeriesOutcome(task.key, reason=Reason.WORKER_DIED, detail=detail)


def _pool(workers: int, known: Known) -> ProcessPoolExecutor:
    # spawn: fork is unsafe beside the threads of numba, zarr and a Prefect flow.
    return ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(known,),
    )


def _start_worker(known: Known) -> None:
    global _known  # set once, before the process sees any work
    _known = known
    # Ctrl-C reaches the whole group; the coordinator decides, the series in hand is finished.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _fill(batch: Batch) -> list[SeriesOutcome]:
    return fill_batch(batch, _known)


def run_dask(
    todo: Iterable[Batch], known: Known, cluster: str, workers: int
) -> Iterator[list[SeriesOutcome]]:
    """Over a Dask cluster: `local` starts one of `workers` processes, else a scheduler's address.

    Every worker must see SOURCE and the root under the same paths.
    """
    from dask.distributed import Client, LocalCluster, as_completed  # costs a second to import

    try:
        client = (
            Client(LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None))
            if cluster == "local"
            else Client(cluster, timeout="10s")
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"--dask {cluster}: no scheduler answers there ({error}); "
            "give local, or an address such as tcp://127.0.0.1:8786"
        ) from error
    with client:
        shared = client.scatter(known, broadcast=True)
        slots = IN_FLIGHT_PER_WORKER * max(1, len(client.scheduler_info()["workers"]))
        remaining = iter(todo)
        flying = as_completed(
            [client.submit(fill_batch, b, shared, pure=False) for b in islice(remaining, slots)]
        )
        for future in flying:
            yield future.result()
            for batch in islice(remaining, 1):
                flying.add(client.submit(fill_batch, batch, shared, pure=False))
        if client.cluster is not None:
            client.cluster.close()
