"""The files of an archive behind the series of its stores: the way back from pseudonyms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from voco_data.cohort import Cohort
from voco_data.ingest.named_cohort import NamedCohort, open_cohort
from voco_data.ingest.options import IngestOptions
from voco_data.ingest.root_ids import check_ids, open_pseudonymiser
from voco_data.reasons import Reason
from voco_data.storage import Storage, open_storage
from voco_data.store import SeriesIdentity


@dataclass(frozen=True, slots=True)
class SourceSeries:
    """A series of an archive, under the ids that the stores of its root have."""

    identity: SeriesIdentity
    kind: Literal["dicom", "nifti"]
    files: tuple[Path, ...]
    """Sorted by path."""


@dataclass(frozen=True, slots=True)
class SourceArchive:
    """An archive, open, whose series have the ids that the stores of a root have."""

    _cohort: Cohort
    _named: NamedCohort

    def series(self) -> Iterator[SourceSeries]:
        """Iterate over the series."""
        for series in self._named:
            entry = self._cohort.entry(series.head.number)
            files = tuple(self._cohort.base / name for name in entry.files)
            yield SourceSeries(series.identity, entry.kind, files)

    def other_files(self, reason: Reason) -> list[Path]:
        """The files that belong to no series for this reason, sorted."""
        return sorted(
            self._cohort.base / file.path
            for file in self._cohort.odd_files()
            if file.reason == reason
        )


@contextmanager
def open_source(
    source: str | Path, root: str | Path | Storage, options: IngestOptions
) -> Iterator[SourceArchive]:
    """Open the archive at `source`, which was preprocessed into `root`.

    `options` are those of the run. Raises InputError as `preprocess` does.
    """
    with ExitStack() as stack:
        cohort, _ = stack.enter_context(open_cohort(source, options))
        storage = open_storage(root)
        check_ids(storage, cohort, options)
        pseudonymiser = open_pseudonymiser(storage, cohort, options)
        if pseudonymiser is not None:
            stack.enter_context(closing(pseudonymiser))
        yield SourceArchive(cohort, NamedCohort(cohort, pseudonymiser))


def find_source_files(
    source: str | Path, root: str | Path, options: IngestOptions
) -> Iterator[SourceSeries]:
    """Iterate over the series of the archive at `source`, which was preprocessed into `root`.

    `options` are those of the run. Raises InputError as `preprocess` does.
    """
    with open_source(source, root, options) as archive:
        yield from archive.series()
