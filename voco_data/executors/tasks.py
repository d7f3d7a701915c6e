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
from voco_data.deidentification import TextSearch
from voco_data.reasons import Reason
from voco_data.storage import WritableStorage
from voco_data.store import InputDigests, Record, StoreSpec

Handle = TypeVar("Handle")

IN_FLIGHT_PER_WORKER = 2
"""Batches that are submitted for each worker: one is filled, one waits."""
MAX_BATCH_SIZE = 256
"""Series of a batch. The coordinator has the file names of all batches in flight in memory."""
BATCHES_PER_WORKER = 16
"""Minimum number of batches for each worker in a small archive, so that workers end together."""
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
    given_box: GivenBox | None = None
    """A box from a table that the user gives."""
    burned_in: TextSearch = "usual"
    """How text in the pixels is searched."""
    writes: bool = True
    """False: the series is read for its input digest alone, and nothing is written."""


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
    was_committed: bool = False
    """Whether a worker that died had committed the series."""


Batch = Sequence[SeriesTask]
KnownInputs = Mapping[str, InputDigests]
"""Input digests that each store held when the run began, by folder name of the store."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How a batch is retried whose worker died: by a crash, out of memory, or stuck in a decoder.

    1. Dask: the scheduler gives the batch to another worker, until `cluster_tries` have died. Then
       processes of this machine read it, as they do if there is no cluster.
    2. Processes: if one dies, all batches in flight are lost. When all others are done, the lost
       series are read again, in batches `shrink_factor` times smaller. This is repeated until no
       lost batch has more than `max_size_read_alone` series, so the number of rounds does not
       depend on the number of series that end a process.
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
    shrink_factor: int = 4
    """By this factor, batches get smaller in each round."""
    max_size_read_alone: int = 16
    """Maximum size of lost batches whose series are read one by one."""


RETRY_POLICY = RetryPolicy()
"""The policy of all runs."""


class WorkerDied(Exception):
    """A worker died before it had returned its batch."""


class ExecutorEnded(Exception):
    """An executor has lost all workers: the batches that it has not returned must run elsewhere."""


class Executor(Protocol[Handle]):
    """Runs batches on workers."""

    def max_in_flight(self) -> int:
        """Maximum number of batches in flight."""

    def submit(self, batch: Batch, *, is_retry: bool) -> Handle:
        """Submit a batch. `is_retry`: a worker that died may have committed some of its series.

        Raises WorkerDied if no worker can take it.
        """

    def wait(self, in_flight: Sequence[Handle]) -> Iterable[Handle]:
        """Wait for a limited time; returns the batches that have ended, which may be none.

        Raises ExecutorEnded.
        """

    def get_outcomes(self, handle: Handle) -> list[SeriesOutcome] | None:
        """Return the outcomes of a batch that has ended; None if it must be waited for again.

        Raises WorkerDied, or what ends the run.
        """


def choose_batch_size(count: int, workers: int, max_size: int = MAX_BATCH_SIZE) -> int:
    """Choose the size of the batches of `count` series: small in a small archive."""
    return max(1, min(max_size, count // (workers * BATCHES_PER_WORKER)))


def run_tasks(
    executor: Executor[Handle],
    tasks: Sequence[SeriesTask],
    batches: Iterable[Sequence[int]],
    *,
    is_retry: bool,
) -> Generator[list[SeriesOutcome], None, list[Sequence[int]]]:
    """Run batches, each a sequence of positions in `tasks`, and yield the outcomes of each.

    Returns the batches whose worker died. A task is made when its batch is submitted, and is not
    kept.
    """
    remaining = iter(batches)
    in_flight: dict[Handle, Sequence[int]] = {}
    lost: list[Sequence[int]] = []
    while True:
        is_exhausted = True
        for batch in islice(remaining, max(0, executor.max_in_flight() - len(in_flight))):
            is_exhausted = False
            try:
                handle = executor.submit([tasks[position] for position in batch], is_retry=is_retry)
            except WorkerDied:
                lost.append(batch)
            else:
                in_flight[handle] = batch
        if not in_flight:
            if is_exhausted:
                return lost
            continue  # no worker took any of these batches; another may take the others
        try:
            ended = executor.wait(list(in_flight))
        except ExecutorEnded:
            return [*lost, *in_flight.values(), *remaining]
        for handle in ended:
            try:
                outcomes = executor.get_outcomes(handle)
            except WorkerDied:
                lost.append(in_flight.pop(handle))
                continue
            if outcomes is not None:
                del in_flight[handle]
                yield outcomes
