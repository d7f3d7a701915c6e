"""Series whose ids stand on a path, and that another archive holds with other contents.

`A/s0001/ct.nii.gz` and `B/s0001/ct.nii.gz` have one identity if A and B are two archives of a root.
Nothing but the contents tells whether B is a copy of A. If they differ, the row stays with the
archive that has it, and the series of the other one is refused. An archive of whose files nothing
is left was moved: then the new files replace the row, as they do in one archive.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from voco_data.batching import batched
from voco_data.ingest.cohort_keys import CohortKeys
from voco_data.ingest.input_results import ReadTasks, input_results
from voco_data.ingest.named_cohort import NamedCohort, NamedSeries, without_stack
from voco_data.ingest.other_archives import OtherArchives
from voco_data.ingest.plan import PlannedStore, StoreGroup
from voco_data.ingest.seen_files import SeenFiles
from voco_data.storage import Storage
from voco_data.store import SeriesIdentity

_SERIES_PER_BATCH = 10_000
"""Series that are compared at once."""

_NIFTI_SUFFIXES = (".nii.gz", ".nii")


def exclude_held_elsewhere(
    root: Storage,
    cohort: NamedCohort,
    keys: CohortKeys,
    stores: Sequence[PlannedStore],
    seen_files: SeenFiles | None,
    read: ReadTasks,
    others: OtherArchives,
) -> list[str]:
    """Exclude the series of `cohort` of which another archive has the row; returns their keys.

    `read` reads the contents of those that no earlier run has read, and writes nothing.
    """
    if not others.any:
        return []
    excluded: list[str] = []
    for numbers in batched(_candidates(cohort, keys, stores, others), _SERIES_PER_BATCH):
        excluded += _exclude(root, cohort, keys, stores, seen_files, read, numbers)
    return excluded


def _candidates(
    cohort: NamedCohort, keys: CohortKeys, stores: Sequence[PlannedStore], others: OtherArchives
) -> Iterator[int]:
    """Numbers of the series that have a row, and that another archive holds, too."""
    for number in keys.on_paths():
        if keys.exclusion(number) is not None:
            continue
        series = cohort[number]
        holders = others.holders(series.key)
        if not holders:
            continue
        sources = {
            line["source"]
            for store in stores
            for line in store.index.lines_of_series(series.identity)
        }
        if not sources:
            continue
        paths = _possible_paths(series, sources)
        own_path = without_stack(series.head.source)
        if any(others.has_files(archive, paths, own_path) for archive in holders):
            yield number


def _possible_paths(series: NamedSeries, sources: set[str]) -> list[str]:
    """Paths at which another archive may have the files of this series.

    `sources` are those of the rows. Where they are pseudonyms, they are known only if they are
    equal to that of this series.
    """
    if series.ids == "kept":
        paths = set(sources)
    else:
        paths = {series.head.source} if series.source in sources else set()
    if series.head.kind == "nifti":
        paths |= {f"{series.head.series_uid}{suffix}" for suffix in _NIFTI_SUFFIXES}
    return sorted(map(without_stack, paths))


def _exclude(
    root: Storage,
    cohort: NamedCohort,
    keys: CohortKeys,
    stores: Sequence[PlannedStore],
    seen_files: SeenFiles | None,
    read: ReadTasks,
    numbers: Sequence[int],
) -> Iterator[str]:
    """Exclude those of the series `numbers` whose contents are not those of the row."""
    differing: set[int] = set()
    for found in input_results(root, cohort, numbers, stores, seen_files, read):
        series = cohort[found.number]
        if found.reason is None:
            if _differs(found.group, series.identity, found.digest):
                differing.add(found.number)
        elif not found.is_new:
            continue
        elif keys.numbers_of_key(series.key) == [found.number]:
            # It is not read again: another try, which succeeds, would replace the row.
            keys.exclude(found.number, "refused", found.number)
        else:
            differing.add(found.number)
    for number in sorted(differing):
        key = cohort[number].key
        for one in keys.numbers_of_key(key):
            keys.exclude(one, "elsewhere", number)
        yield key


def _differs(group: StoreGroup, identity: SeriesIdentity, digest: str) -> bool:
    """Whether a store has a row of this series, of another input."""
    return any(
        line["input_digest"] != digest
        for store in group
        for line in store.index.lines_of_series(identity)
    )
