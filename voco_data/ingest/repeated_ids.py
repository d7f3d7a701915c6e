"""Series of one archive with the same ids: one is stored if all are equal, none if they differ.

Which of the two holds is known from their input digests. What earlier runs have not learnt is read,
once more than other series are, and nothing is written for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import overload

from voco_data.executors import SeriesOutcome, SeriesTask, Target
from voco_data.ingest.cohort_keys import CohortKeys
from voco_data.ingest.named_cohort import NamedCohort
from voco_data.ingest.plan import PlannedStore, earlier_results, group_by_rules, make_task
from voco_data.ingest.seen_files import SeenFiles
from voco_data.storage import Storage

ReadTasks = Callable[[Sequence[SeriesTask]], Iterable[SeriesOutcome]]
"""Runs tasks, in any order."""


def own_key(key: str, number: int) -> str:
    """The key under which the result of one of several series of a key is kept."""
    return f"{key} {number}"


def exclude_repeated_ids(
    root: Storage,
    cohort: NamedCohort,
    keys: CohortKeys,
    stores: Sequence[PlannedStore],
    seen_files: SeenFiles | None,
    read: ReadTasks,
) -> None:
    """Exclude the series of `cohort` that share their key with another and cannot have its row.

    `read` is called once, with a task for each series, and each set of rules, of which
    `seen_files` has no result.
    """
    numbers = [number for _, repeated in keys.repeated() for number in repeated]
    if not numbers:
        return
    results: dict[int, list[str]] = {number: [] for number in numbers}
    groups = group_by_rules(stores)
    unknown: list[tuple[int, str, tuple[Target, ...]]] = []
    for number in numbers:
        for group, key, seen in earlier_results(cohort[number], groups, seen_files):
            if seen is None:
                targets = tuple(Target(store.storage, store.spec, row=0) for store in group)
                unknown.append((number, key, targets))
            else:
                results[number].append("" if seen.reason is not None else seen.input_digest)
    number_of = {own_key(cohort[number].key, number): number for number, *_ in unknown}
    for outcome in read(DigestTasks(root, cohort, unknown)):
        results[number_of[outcome.key]].append(outcome.input_digest)
    for _, repeated in keys.repeated():
        _exclude(keys, {number: frozenset(results[number]) for number in repeated})


def _exclude(keys: CohortKeys, digests: dict[int, frozenset[str]]) -> None:
    """Exclude series of one key. `digests`: those of each series by number, "" for a refusal."""
    readable = [number for number, found in digests.items() if "" not in found]
    is_conflict = len({digests[number] for number in readable}) > 1
    for number in digests:
        other = next((one for one in [*readable, *digests] if one != number), number)
        if number not in readable:
            keys.exclude(number, "refused", other)
        elif is_conflict:
            keys.exclude(number, "conflict", other)
        elif number != readable[0]:
            keys.exclude(number, "copy", readable[0])


class DigestTasks(Sequence[SeriesTask]):
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

    @overload
    def __getitem__(self, index: int) -> SeriesTask: ...

    @overload
    def __getitem__(self, index: slice) -> list[SeriesTask]: ...

    def __getitem__(self, index: int | slice) -> SeriesTask | list[SeriesTask]:
        """Return one task, or a list of them."""
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        number, seen_key, targets = self._series[index]
        task = make_task(self._root, self._cohort, self._cohort[number], targets)
        return replace(task, key=own_key(task.key, number), seen_key=seen_key, writes=False)

    def __iter__(self) -> Iterator[SeriesTask]:
        """Iterate over the tasks."""
        return (self[position] for position in range(len(self)))
