"""Input digests of series that cannot have a row before they are known.

What earlier runs have learnt is looked up. Other series are read, once more than those that are
stored, and nothing is written for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from voco_data.executors import SeriesOutcome, SeriesTask, Target
from voco_data.ingest.named_cohort import NamedCohort
from voco_data.ingest.plan import (
    LazyTasks,
    PlannedStore,
    StoreGroup,
    earlier_results,
    group_by_rules,
    make_task,
)
from voco_data.ingest.seen_files import SeenFiles
from voco_data.reasons import Reason
from voco_data.storage import Storage

ReadTasks = Callable[[Sequence[SeriesTask]], Iterable[SeriesOutcome]]
"""Runs tasks, in any order."""


class InputResult(NamedTuple):
    """What is known of the files of a series under one set of rules."""

    number: int
    """The number of the series in its cohort."""
    group: StoreGroup
    """The stores with these rules."""
    digest: str
    """The input digest; may be empty if the series is refused."""
    reason: Reason | None
    """Why the series is refused, if it is."""
    is_new: bool
    """Whether this run has read the files, and no earlier one."""


def own_key(key: str, number: int) -> str:
    """The key under which the result of one of several series of a key is kept."""
    return f"{key} {number}"


def input_results(
    root: Storage,
    cohort: NamedCohort,
    numbers: Sequence[int],
    stores: Sequence[PlannedStore],
    seen_files: SeenFiles | None,
    read: ReadTasks,
) -> Iterator[InputResult]:
    """Iterate over the results of the series `numbers`, one for each set of rules of `stores`.

    `read` is called once, with a task for each of which `seen_files` has no result.
    """
    groups = group_by_rules(stores)
    unknown: dict[tuple[str, str], tuple[int, StoreGroup]] = {}
    tasks: list[tuple[int, str, tuple[Target, ...]]] = []
    for number in numbers:
        for group, seen_key, seen in earlier_results(cohort[number], groups, seen_files):
            if seen is not None:
                yield InputResult(number, group, seen.input_digest, seen.reason, is_new=False)
                continue
            unknown[own_key(cohort[number].key, number), seen_key] = number, group
            targets = tuple(Target(store.storage, store.spec, row=0) for store in group)
            tasks.append((number, seen_key, targets))
    for outcome in read(_DigestTasks(root, cohort, tasks)):
        number, group = unknown[outcome.key, outcome.seen_key]
        yield InputResult(number, group, outcome.input_digest, outcome.reason, is_new=True)


class _DigestTasks(LazyTasks):
    """Tasks that read series for their input digests. A task is made when it is requested."""

    def __init__(
        self,
        root: Storage,
        cohort: NamedCohort,
        series: Sequence[tuple[int, str, tuple[Target, ...]]],
    ) -> None:
        """`series`: number, key in the seen files, and targets that set the rules."""
        self._root = root
        self._cohort = cohort
        self._series = series

    def __len__(self) -> int:
        """The number of tasks."""
        return len(self._series)

    def _task(self, position: int) -> SeriesTask:
        number, seen_key, targets = self._series[position]
        task = make_task(self._root, self._cohort, self._cohort[number], targets)
        return replace(task, key=own_key(task.key, number), seen_key=seen_key, writes=False)
