"""Series of one archive with the same ids: one is stored if all are equal, none if they differ."""

from __future__ import annotations

from collections.abc import Sequence

from voco_data.ingest.cohort_keys import CohortKeys
from voco_data.ingest.input_results import ReadTasks, input_results
from voco_data.ingest.named_cohort import NamedCohort
from voco_data.ingest.plan import PlannedStore
from voco_data.ingest.seen_files import SeenFiles
from voco_data.storage import Storage


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
    digests: dict[int, set[str]] = {number: set() for number in numbers}
    for found in input_results(root, cohort, numbers, stores, seen_files, read):
        digests[found.number].add("" if found.reason is not None else found.digest)
    for _, repeated in keys.repeated():
        _exclude(keys, {number: frozenset(digests[number]) for number in repeated})


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
