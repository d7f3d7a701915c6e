"""Spread batches of series over a Dask cluster: one of this machine, or the user's.

What is finished is in the stores, so whatever dies, little is lost. A worker's death costs its
batch a retry. Without its scheduler the run ends, in one line: the cluster is its owner's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from itertools import islice
from typing import Any

from voco_data.errors import InputError, VocoError
from voco_data.executors.batches import (
    IN_FLIGHT_PER_WORKER,
    LARGEST_BATCH,
    batches,
    pieces,
    run_processes,
)
from voco_data.executors.process_pool import TIME_LIMIT_S, Batch, Known
from voco_data.executors.worker import SeriesOutcome, SeriesTask, fill_batch
from voco_data.time_limit import end_when_stuck
from voco_data.version import VERSION

log = logging.getLogger(__name__)

ANY_PORT = "127.0.0.1:0"
"""Where the scheduler of a local cluster shows itself: on loopback, beside others."""

MOST_BATCHES = 512
"""Of a large archive, unless a worker would get less than fanout.BATCHES_PER_WORKER."""
LOOKS = 8
"""So many series in a row that were not committed before say that a batch is new, or goes on."""

CONNECT_S = 10.0
PATIENCE_S = 5.0
"""How often a quiet cluster is asked whether it is there."""
ANSWER_S = 30.0
"""What a scheduler may take to answer."""
CLOSE_S = 5.0
WORKERLESS_S = 30.0
"""A cluster that has had no worker for so long will get none by itself."""

NO_SCHEDULER = (
    "the Dask scheduler is gone, or does not answer; what is finished stays: start it, run again"
)
NO_WORKERS = "the Dask cluster has no workers; what is finished stays: start some, run again"


def run_dask(
    tasks: Sequence[SeriesTask], known: Known, address: str, workers: int
) -> Iterator[list[SeriesOutcome]]:
    """Over a Dask cluster: `local` starts one of `workers` processes, else a scheduler's address.

    Every worker must see SOURCE and the root under the same paths. Raises InputError if no
    scheduler answers, VocoError if it is gone later, or no worker is left.
    """
    with _connected(address, workers) as cluster:
        suspects = yield from _drain(cluster, tasks, known)
    # The second try is ours: in processes of this machine, where no other series is blamed.
    yield from run_processes(batches(suspects, workers), known, workers, again=True)


def largest_batch(count: int) -> int:
    """The most series of a batch: more in an archive so large that it had too many batches."""
    return max(LARGEST_BATCH, -(-count // MOST_BATCHES))


class _WorkerDied(Exception):
    """With what it had in hand."""


class _NotYet(Exception):
    """A batch seemed done, and is not."""


class _Unwanted(Exception):
    """On a worker: nobody waits for the batch any more."""


class _Cluster:
    """A client of a scheduler, whose every answer may be that the scheduler is gone."""

    def __init__(self, client: Any, *, ours: bool) -> None:
        self.client = client
        self.ours = ours
        self.lost = False

    def threads(self) -> int:
        """How many batches the workers can be at, all together."""
        with self._asking():
            return sum(self.client.nthreads(callback_timeout=ANSWER_S).values())

    def share(self, known: Known) -> Any:
        """Something to hand to many tasks. Not scattered: that is lost with the worker it is on."""
        with self._asking():
            return self._submit(dict, known)

    def fill(self, batch: Batch, shared: Any) -> Any:
        """Hand in a batch; gives a future of its outcomes."""
        with self._asking():
            return self._submit(_fill, batch, shared)

    def done(self, flying: Sequence[Any]) -> list[Any]:
        """The futures that are no longer pending, after a while; maybe none."""
        from dask.distributed import wait
        from distributed.client import FuturesCancelledError

        with self._asking(), self.client.as_current():
            with suppress(TimeoutError, FuturesCancelledError):  # each future says it, and why
                wait(flying, timeout=PATIENCE_S, return_when="FIRST_COMPLETED")
            return [future for future in flying if future.status not in ("pending", "lost")]

    def outcomes(self, future: Any) -> list[SeriesOutcome]:
        """What a batch gave. Raises _WorkerDied, _NotYet, or what the batch raised."""
        from dask.distributed import KilledWorker
        from distributed.client import FutureCancelledError

        with self._asking():
            if future.status == "error":
                error = future.exception(timeout=ANSWER_S)
            else:
                try:
                    found: list[SeriesOutcome] = future.result(timeout=ANSWER_S)
                    return found
                except FutureCancelledError as cancelled:
                    if cancelled.reason == "scheduler-connection-lost":
                        raise
                    raise _WorkerDied from cancelled  # it held what the batch needs
                except TimeoutError:
                    # What the batch gave was lost with a worker, and is made again; or else this
                    # asks in vain.
                    self.client.nthreads(callback_timeout=ANSWER_S)
                    raise _NotYet from None
        if isinstance(error, KilledWorker | _Unwanted):
            raise _WorkerDied from error
        if isinstance(error, VocoError | OSError):
            raise error
        # What a series may raise is an outcome: this one comes from the cluster itself.
        raise VocoError(
            f"the Dask cluster cannot do voco's work ({type(error).__name__}: "
            f"{str(error).partition(chr(10))[0]}); its scheduler and workers need the same voco as "
            f"here, {VERSION}"
        ) from error

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Raise VocoError if the scheduler is gone: what the client raises then depends on when."""
        from distributed.client import ClosedClientError, FutureCancelledError

        try:
            yield
        except (_WorkerDied, _NotYet):
            raise
        except (OSError, ClosedClientError, FutureCancelledError) as error:
            self.lost = True
            raise VocoError(NO_SCHEDULER) from error
        except Exception as error:
            if self.client.status == "running":
                raise
            self.lost = True  # a client that has closed itself fails in ways of its own
            raise VocoError(NO_SCHEDULER) from error
        if self.client.status != "running":
            self.lost = True
            raise VocoError(NO_SCHEDULER)

    def _submit(self, function: Any, *arguments: Any) -> Any:
        import dask

        # File names of a batch are some MB; there is nothing to advise.
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TiB"}):
            return self.client.submit(function, *arguments, pure=False)


@contextmanager
def _connected(address: str, workers: int) -> Iterator[_Cluster]:
    """A client, closed before the cluster that was started for it."""
    from dask.distributed import Client, LocalCluster  # costs a second to import

    with ExitStack() as stack:
        where: Any = address
        try:
            if address == "local":
                where = stack.enter_context(
                    LocalCluster(
                        n_workers=workers, threads_per_worker=1, dashboard_address=ANY_PORT
                    )
                )
            client = Client(where, timeout=CONNECT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise InputError(
                f"--dask {address}: no scheduler answers there ({error}); "
                "give local, or an address such as tcp://127.0.0.1:8786"
            ) from error
        cluster = _Cluster(client, ours=address == "local")
        try:
            yield cluster
        finally:
            _close(cluster)


def _close(cluster: _Cluster) -> None:
    """Close the client. Without a scheduler it says in many lines what we say in one."""
    with _silence() if cluster.lost else nullcontext():
        try:
            cluster.client.close(timeout=CLOSE_S)
        except OSError as error:
            log.info("the Dask client does not close (%s); it ends with this process", error)


@contextmanager
def _silence() -> Iterator[None]:
    """Let Dask's own loggers be quiet in the block."""
    names = [name for name in logging.Logger.manager.loggerDict if _is_dasks(name)]
    former = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for name, level in former.items():
            logging.getLogger(name).setLevel(level)


def _is_dasks(logger: str) -> bool:
    return logger.partition(".")[0] == "distributed"


def _drain(
    cluster: _Cluster, tasks: Sequence[SeriesTask], known: Known
) -> Generator[list[SeriesOutcome], None, list[SeriesTask]]:
    """Run all tasks; return those whose worker died. Raises VocoError if no worker is left."""
    threads = cluster.threads()
    todo = pieces(len(tasks), max(1, threads), largest_batch(len(tasks)))
    shared = cluster.share(known)
    flying: dict[Any, range] = {}
    suspects: list[range] = []
    workerless, asked = 0.0, time.monotonic()
    while True:
        slots = IN_FLIGHT_PER_WORKER * max(1, threads)
        for piece in islice(todo, max(0, slots - len(flying))):
            flying[cluster.fill(tasks[piece.start : piece.stop], shared)] = piece
        if not flying:
            break
        done = cluster.done(list(flying))
        if time.monotonic() - asked >= PATIENCE_S:
            threads, now = cluster.threads(), time.monotonic()  # workers may come and go
            workerless = 0.0 if threads or done else workerless + now - asked
            asked = now
        if not done and workerless >= WORKERLESS_S:
            if not cluster.ours:
                raise VocoError(NO_WORKERS)
            suspects += [*flying.values(), *todo]  # a cluster of our own is replaced by us
            break
        for future in done:
            try:
                outcomes = cluster.outcomes(future)
            except _NotYet:
                continue
            except _WorkerDied:
                log.warning("a Dask worker died; what it had in hand is tried again")
                suspects.append(flying.pop(future))
                continue
            del flying[future]
            yield outcomes
    return [task for piece in suspects for task in tasks[piece.start : piece.stop]]


def _fill(batch: Batch, known: Known) -> list[SeriesOutcome]:
    """On a worker: fill a batch, which the scheduler may have taken from one that died.

    What that one committed is looked for: in a folder always, in a bucket, where a look is a
    request, until LOOKS series in a row were not there. Raises _Unwanted once nobody waits for it.
    """
    from dask.distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()
    outcomes: list[SeriesOutcome] = []
    misses = 0
    for task in batch:
        state = worker.state.tasks.get(key)
        if state is None or state.state == "cancelled":
            raise _Unwanted
        again = misses < LOOKS or task.root.local() is not None
        # A thread cannot be stopped. Its process can, if it does nothing else.
        alone = worker.state.nthreads == 1
        with end_when_stuck(TIME_LIMIT_S) if alone else nullcontext():
            (outcome,) = fill_batch([task], known, TIME_LIMIT_S, again=again)
        misses = 0 if outcome.earlier else misses + 1
        outcomes.append(outcome)
    return outcomes
