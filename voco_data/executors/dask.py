"""Spread batches of series over a Dask cluster: one that is started here, or the user's.

What is finished is in the stores, so little is lost if a worker, the scheduler or the client dies.
Batches of a worker that died are retried by `RetryPolicy`. If the scheduler is gone, the run ends
with an error of one line: the cluster belongs to the user.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

from voco_data.batching import batched
from voco_data.errors import InputError, VocoError
from voco_data.executors.process_pool import run_processes
from voco_data.executors.tasks import (
    IN_FLIGHT_PER_WORKER,
    MAX_BATCH_SIZE,
    RETRY_POLICY,
    TIME_LIMIT_S,
    Batch,
    ExecutorEnded,
    KnownInputs,
    RetryPolicy,
    SeriesOutcome,
    SeriesTask,
    WorkerDied,
    choose_batch_size,
    run_tasks,
)
from voco_data.executors.worker import fill_batch
from voco_data.limits import end_when_stuck
from voco_data.version import VERSION

if TYPE_CHECKING:
    from dask.distributed import Client, Future, LocalCluster

    from voco_data.store import InputDigests

log = logging.getLogger(__name__)

Result = TypeVar("Result")

LOCAL = "local"
"""The address that starts a cluster on this machine."""
DASHBOARD_ADDRESS = "127.0.0.1:0"
"""Where that cluster serves its dashboard: on the loopback interface, on any free port."""

MAX_BATCHES = 512
"""Batches of a large archive, unless workers would get less than BATCHES_PER_WORKER each."""
MAX_MISSES = 8
"""A worker stops looking for committed series after so many in a row that were not committed."""

CONNECT_TIMEOUT_S = 10.0
POLL_S = 5.0
"""Time between two counts of the workers of a cluster that returns nothing."""
ANSWER_TIMEOUT_S = 30.0
CLOSE_TIMEOUT_S = 5.0
WORKERLESS_S = 30.0
"""Time without any worker after which a run stops waiting for one."""

WORKER_DIED = "a Dask worker died; its series are tried again"
NO_SCHEDULER = (
    "the Dask scheduler is gone, or does not answer; what is finished stays: start it, run again"
)
NO_WORKERS = "the Dask cluster has no workers; what is finished stays: start some, run again"


def run_dask(
    tasks: Sequence[SeriesTask],
    known_inputs: KnownInputs,
    address: str,
    workers: int,
    *,
    policy: RetryPolicy = RETRY_POLICY,
) -> Iterator[list[SeriesOutcome]]:
    """Run tasks over a Dask cluster, and those of dead workers over local processes.

    `address` is that of a scheduler, or `local` for a new cluster of `workers` processes. All
    workers must see the archive and the root under the same paths as this process. Raises
    InputError if no scheduler answers, VocoError if it is gone later or has no workers.
    """
    with _connect(address, workers, known_inputs, policy) as cluster:
        size = choose_batch_size(len(tasks), max(1, cluster.threads), max_batch_size(len(tasks)))
        batches = batched(range(len(tasks)), size)
        lost = yield from run_tasks(cluster, tasks, batches, is_retry=False)
    # Processes of this machine find out which series of a batch ends its worker.
    yield from run_processes(
        tasks,
        known_inputs,
        workers,
        positions=list(chain.from_iterable(lost)),
        is_retry=True,
        policy=policy,
    )


def max_batch_size(count: int) -> int:
    """Maximum number of series of a batch, so that an archive of `count` has few batches."""
    return max(MAX_BATCH_SIZE, -(-count // MAX_BATCHES))


class _BatchCancelled(Exception):
    """Raised on a worker whose batch has been cancelled."""


class _Cluster:
    """An executor over a Dask cluster. Any request raises VocoError if the scheduler is gone."""

    threads: int
    """The number of batches that all workers together can fill at a time."""
    _known_inputs: Future[dict[str, InputDigests]]

    def __init__(self, client: Client, *, is_own: bool) -> None:
        self.client = client
        self.is_scheduler_lost = False
        """Whether the scheduler is gone."""
        self._is_own = is_own
        self._counted_at = time.monotonic()
        self._workerless_s = 0.0

    def start(self, known_inputs: KnownInputs) -> None:
        """Count the workers, and give them what the stores hold."""
        self.threads = self._count_threads()
        # A task's result, not scattered data: that would be lost with the worker that holds it.
        self._known_inputs = self._submit(dict, known_inputs)

    def max_in_flight(self) -> int:
        """Maximum number of batches in flight."""
        return IN_FLIGHT_PER_WORKER * max(1, self.threads)

    def submit(self, batch: Batch, *, is_retry: bool) -> Future[list[SeriesOutcome]]:  # noqa: ARG002
        """Submit a batch. Workers look for committed series, whether it is a retry or not."""
        return self._submit(fill_on_worker, batch, self._known_inputs)

    def wait(
        self, in_flight: Sequence[Future[list[SeriesOutcome]]]
    ) -> list[Future[list[SeriesOutcome]]]:
        """Wait for batches for up to POLL_S; returns those that have ended.

        Raises VocoError if the user's cluster has had no workers for WORKERLESS_S, ExecutorEnded
        if a cluster of our own has.
        """
        from dask.distributed import wait
        from distributed.client import FuturesCancelledError

        with self._translate_scheduler_errors(), self.client.as_current():
            with suppress(TimeoutError, FuturesCancelledError):  # `get_outcomes` raises the cause
                wait(in_flight, timeout=POLL_S, return_when="FIRST_COMPLETED")
            ended = [future for future in in_flight if future.status not in ("pending", "lost")]
        self._check_workers(is_idle=not ended)
        return ended

    def get_outcomes(self, handle: Future[list[SeriesOutcome]]) -> list[SeriesOutcome] | None:
        """Return the outcomes of a batch; None if a worker lost them, and they are made again.

        Raises WorkerDied, VocoError, or what the batch raised.
        """
        from dask.distributed import KilledWorker
        from distributed.client import FutureCancelledError

        with self._translate_scheduler_errors():
            if handle.status == "error":
                error = handle.exception(timeout=ANSWER_TIMEOUT_S)
            else:
                try:
                    outcomes: list[SeriesOutcome] = handle.result(timeout=ANSWER_TIMEOUT_S)
                    return outcomes
                except FutureCancelledError as cancelled:
                    if cancelled.reason == "scheduler-connection-lost":
                        raise
                    log.warning(WORKER_DIED)  # it held the known inputs, which the batch needs
                    raise WorkerDied from cancelled
                except TimeoutError:
                    self._count_threads()  # raises if the scheduler is gone
                    return None
        if isinstance(error, KilledWorker | _BatchCancelled):
            log.warning(WORKER_DIED)
            raise WorkerDied from error
        if isinstance(error, VocoError | OSError):
            raise error
        # Errors of a series are outcomes: this one comes from the cluster itself.
        raise VocoError(
            f"the Dask cluster cannot do voco's work ({type(error).__name__}: "
            f"{str(error).partition(chr(10))[0]}); its scheduler and workers need the same voco as "
            f"here, {VERSION}"
        ) from error

    def close(self) -> None:
        """Close the client, without messages of Dask if the scheduler is gone."""
        with _silence_dask_loggers() if self.is_scheduler_lost else nullcontext():
            try:
                self.client.close(timeout=CLOSE_TIMEOUT_S)
            except OSError as error:
                log.info("the Dask client does not close (%s); it ends with this process", error)

    def _check_workers(self, *, is_idle: bool) -> None:
        """Count the workers every POLL_S: they may come and go."""
        now = time.monotonic()
        if now - self._counted_at >= POLL_S:
            self.threads, now = self._count_threads(), time.monotonic()
            is_workerless = is_idle and not self.threads
            self._workerless_s = (
                self._workerless_s + now - self._counted_at if is_workerless else 0.0
            )
            self._counted_at = now
        if is_idle and self._workerless_s >= WORKERLESS_S:
            if self._is_own:
                raise ExecutorEnded
            raise VocoError(NO_WORKERS)

    def _count_threads(self) -> int:
        with self._translate_scheduler_errors():
            return sum(self.client.nthreads(callback_timeout=ANSWER_TIMEOUT_S).values())

    def _submit(self, function: Callable[..., Result], *arguments: object) -> Future[Result]:
        import dask

        with (
            self._translate_scheduler_errors(),
            # The file names of a batch take some MB, and Dask would warn about that.
            dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TiB"}),
        ):
            return self.client.submit(function, *arguments, pure=False)

    @contextmanager
    def _translate_scheduler_errors(self) -> Iterator[None]:
        """Raise VocoError if the scheduler is gone, which the client shows in several ways."""
        from distributed.client import ClosedClientError, FutureCancelledError

        try:
            yield
        except WorkerDied:
            raise
        except (OSError, ClosedClientError, FutureCancelledError) as error:
            self.is_scheduler_lost = True
            raise VocoError(NO_SCHEDULER) from error
        except Exception as error:
            if self.client.status == "running":
                raise
            self.is_scheduler_lost = (
                True  # a client that has closed itself raises errors of any kind
            )
            raise VocoError(NO_SCHEDULER) from error
        if self.client.status != "running":
            self.is_scheduler_lost = True
            raise VocoError(NO_SCHEDULER)


@contextmanager
def _connect(
    address: str, workers: int, known_inputs: KnownInputs, policy: RetryPolicy
) -> Iterator[_Cluster]:
    """Connect to a scheduler, or start a cluster; disconnect, or stop it, when the block ends."""
    from dask.distributed import Client, LocalCluster  # here: the import takes a second

    with ExitStack() as stack:
        scheduler: str | LocalCluster = address
        try:
            if address == LOCAL:
                scheduler = stack.enter_context(
                    LocalCluster(
                        n_workers=workers,
                        threads_per_worker=1,
                        dashboard_address=DASHBOARD_ADDRESS,
                        scheduler_kwargs={"allowed_failures": policy.cluster_tries - 1},
                    )
                )
            client = Client(scheduler, timeout=CONNECT_TIMEOUT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise InputError(
                f"--dask {address}: no scheduler answers there ({error}); "
                "give local, or an address such as tcp://127.0.0.1:8786"
            ) from error
        cluster = _Cluster(client, is_own=address == LOCAL)
        try:
            cluster.start(known_inputs)
            yield cluster
        finally:
            cluster.close()


@contextmanager
def _silence_dask_loggers() -> Iterator[None]:
    """Switch off Dask's own loggers in the block."""
    names = [
        name
        for name in logging.Logger.manager.loggerDict
        if name.partition(".")[0] == "distributed"
    ]
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def fill_on_worker(batch: Batch, known_inputs: KnownInputs) -> list[SeriesOutcome]:
    """Fill a batch on a worker. The scheduler may have taken the batch from a worker that died.

    So the worker looks for series that were committed: in a folder, for each series of the batch;
    in a bucket, where this takes a request, until MAX_MISSES series in a row were not committed.
    Raises _BatchCancelled if the batch was cancelled.
    """
    from dask.distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()
    outcomes: list[SeriesOutcome] = []
    misses = 0
    for task in batch:
        state = worker.state.tasks.get(key)
        if state is None or state.state == "cancelled":
            raise _BatchCancelled
        is_retry = misses < MAX_MISSES or task.root.local_folder() is not None
        # A thread cannot be stopped. Its process can be, if no other thread fills a batch in it.
        runs_alone = worker.state.nthreads == 1
        with end_when_stuck(TIME_LIMIT_S) if runs_alone else nullcontext():
            (outcome,) = fill_batch([task], known_inputs, TIME_LIMIT_S, is_retry=is_retry)
        misses = 0 if outcome.was_committed else misses + 1
        outcomes.append(outcome)
    return outcomes
