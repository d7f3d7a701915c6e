"""Series as tasks: what a worker is given, what it returns, and how tasks are run and retried.

One series is in memory per worker, and a few batches are in flight, whatever the archive's size.
An executor runs the batches: processes of this machine (`process_pool.py`), or a Dask cluster
(`dask.py`).
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

from voco_data.cohort import SeriesEntry
from voco_data.cropping import GivenBox
from voco_data.reasons import Reason
from voco_data.storage import WritableStorage
from voco_data.store import InputDigests, Record, StoreSpec

Handle = TypeVar("Handle")

IN_FLIGHT_PER_WORKER = 2
"""Batches that are handed in for each worker: one is filled, one waits."""
LARGEST_BATCH = 256
"""Series of a batch at most: the coordinator holds the file names of all that is in flight."""
BATCHES_PER_WORKER = 16
"""Batches of a small archive for each worker, at least, so that all workers end together."""
TIME_LIMIT_S = 600.0
"""Time for one series; a large one takes seconds."""


@dataclass(frozen=True, slots=True)
class Target:
    """A store that may lack the series, and the row that the series would get there."""

    store: WritableStorage
    spec: StoreSpec
    row: int


@dataclass(frozen=True, slots=True)
class SeriesTask:
    """One series to read, under the ids that may be written."""

    key: str
    base: Path
    entry: SeriesEntry
    layout: str
    ids: str
    patient_id: str
    study_uid: str
    series_uid: str
    source: str
    targets: tuple[Target, ...]
    root: WritableStorage
    """Where the preview is written."""
    seen_key: str = ""
    """The key under which `SeenFiles` keeps the result."""
    given: GivenBox | None = None
    """A box that was made elsewhere."""


@dataclass(frozen=True, slots=True)
class SeriesOutcome:
    """The result of one task."""

    key: str
    seen_key: str = ""
    input_digest: str = ""
    records: tuple[Record, ...] = ()
    """The committed records, one for each store that lacked the series."""
    reason: Reason | None = None
    """Why the series was refused."""
    detail: str = ""
    earlier: bool = False
    """Whether the series had been committed by a worker that died."""


Batch = Sequence[SeriesTask]
KnownInputs = Mapping[str, InputDigests]
"""What each store, by folder name, held when the run began."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """What happens to a batch whose worker died: by a crash, out of memory, or stuck in a decoder.

    1. Dask: the scheduler gives the batch to another worker, until `cluster_tries` have died. Then
       processes of this machine read it, as they do if there is no cluster.
    2. Processes: if one dies, all batches in flight are lost. They are read again, together, when
       all others are done, in batches `shrink` times smaller. This is repeated until no lost batch
       has more than `alone_from` series, so the number of rounds does not depend on how many series
       are deadly.
    3. Each series of a batch that is still lost is read by a process that reads nothing else.
    4. If that process dies, too, the series is refused with the reason `worker_died`.

    A series that was committed before its worker died is recognised, and not read again.
    """

    cluster_tries: int = 2
    """Workers of a Dask cluster that may die of one batch.

    A cluster that voco starts (`--dask local`) gets `allowed-failures` = `cluster_tries` - 1. The
    scheduler of any other cluster keeps its own setting, which cannot be changed from a client:
    `distributed.scheduler.allowed-failures` in its configuration, 3 (four tries) by default.
    """
    shrink: int = 4
    """By how much batches get smaller in each round."""
    alone_from: int = 16
    """Series of a lost batch, at most, from which each series is read alone."""


RETRY_POLICY = RetryPolicy()
"""The policy of all runs."""


class WorkerDied(Exception):
    """A worker died before it had returned its batch."""


class ExecutorEnded(Exception):
    """An executor has lost its workers for good: what it has not returned must run elsewhere."""


class Executor(Protocol[Handle]):
    """Runs batches on workers."""

    def slots(self) -> int:
        """How many batches may be in flight."""

    def submit(self, batch: Batch, *, retry: bool) -> Handle:
        """Hand in a batch. `retry`: a worker that died may have committed some of its series.

        Raises WorkerDied if no worker can take it.
        """

    def wait(self, in_flight: Sequence[Handle]) -> Iterable[Handle]:
        """Wait a while, and return the batches that have ended, which may be none.

        Raises ExecutorEnded.
        """

    def outcomes(self, handle: Handle) -> list[SeriesOutcome] | None:
        """The outcomes of a batch that has ended; None if it has to be waited for again.

        Raises WorkerDied, or what ends the run.
        """


def batch_size(count: int, workers: int, largest: int = LARGEST_BATCH) -> int:
    """Series of a batch: few in a small archive, `largest` at most."""
    return max(1, min(largest, count // (workers * BATCHES_PER_WORKER)))


def run_tasks(
    executor: Executor[Handle],
    tasks: Sequence[SeriesTask],
    batches: Iterable[Sequence[int]],
    *,
    retry: bool,
) -> Generator[list[SeriesOutcome], None, list[Sequence[int]]]:
    """Run batches, each a sequence of positions in `tasks`, and yield the outcomes of each.

    Returns the batches whose worker died. Tasks are made when their batch is handed in, and not
    kept.
    """
    remaining = iter(batches)
    in_flight: dict[Handle, Sequence[int]] = {}
    lost: list[Sequence[int]] = []
    while True:
        for batch in islice(remaining, max(0, executor.slots() - len(in_flight))):
            try:
                handle = executor.submit([tasks[position] for position in batch], retry=retry)
            except WorkerDied:
                lost.append(batch)
            else:
                in_flight[handle] = batch
        if not in_flight:
            return lost
        try:
            ended = executor.wait(list(in_flight))
        except ExecutorEnded:
            return [*lost, *in_flight.values(), *remaining]
        for handle in ended:
            try:
                outcomes = executor.outcomes(handle)
            except WorkerDied:
                lost.append(in_flight.pop(handle))
                continue
            if outcomes is not None:
                del in_flight[handle]
                yield outcomes
