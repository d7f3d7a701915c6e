"""The files of an archive behind the series of its stores: the way back from pseudonyms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from voco_data.ingest.named_cohort import NamedCohort, open_cohort
from voco_data.ingest.options import IngestOptions
from voco_data.ingest.root_ids import check_ids, open_pseudonymiser
from voco_data.storage import open_storage
from voco_data.store import SeriesIdentity


@dataclass(frozen=True, slots=True)
class SourceSeries:
    """A series of an archive, under the ids that the stores of its root have."""

    identity: SeriesIdentity
    kind: Literal["dicom", "nifti"]
    files: tuple[Path, ...]
    """Sorted by path."""


def find_source_files(
    source: str | Path, root: str | Path, options: IngestOptions
) -> Iterator[SourceSeries]:
    """Iterate over the series of the archive at `source`, which was preprocessed into `root`.

    `options` are those of the run. Raises InputError as `preprocess` does.
    """
    with ExitStack() as stack:
        cohort, _ = stack.enter_context(open_cohort(source, options))
        storage = open_storage(root)
        check_ids(storage, cohort, options)
        pseudonymiser = open_pseudonymiser(storage, cohort, options)
        if pseudonymiser is not None:
            stack.enter_context(closing(pseudonymiser))
        for series in NamedCohort(cohort, pseudonymiser):
            entry = cohort.entry(series.head.number)
            files = tuple(cohort.base / name for name in entry.files)
            yield SourceSeries(series.identity, entry.kind, files)
