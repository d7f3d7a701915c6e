"""Rows whose series SOURCE no longer holds: find them, and remove them.

A row came from SOURCE if `Archives` says so, and if it says so of no other archive. All other rows
of a root stay, because nothing tells that their series are gone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from voco_data.cohort import Cohort, OddFile
from voco_data.errors import InputError
from voco_data.ingest.archives import Archives
from voco_data.ingest.cohort_keys import CohortKeys
from voco_data.ingest.damaged_files import DamagedFiles
from voco_data.ingest.options import IngestOptions
from voco_data.ingest.other_archives import OtherArchives
from voco_data.qc import LedgerRow
from voco_data.reasons import Reason
from voco_data.store import SeriesIdentity, StoreWriter, series_key

log = logging.getLogger(__name__)

ONE_KIND_LAYOUTS = {"dicom": False, "nifti": True}
"""Layouts that index files of one kind only, and whether that is NIfTI."""


@dataclass(slots=True)
class GoneSeries:
    """A series that stores have and SOURCE no longer holds."""

    key: str
    identity: SeriesIdentity
    source: str
    """Where it was, as it may be written."""
    rows: dict[str, int] = field(default_factory=dict)
    """Folder name of a store to the row there."""
    is_damaged: bool = False
    """Whether a file that cannot be read lies where the series was. Then its rows stay."""

    def to_ledger_row(self, *, removed: bool) -> LedgerRow:
        """The row of the ledger that says so."""
        removed &= not self.is_damaged
        stores = "store" if len(self.rows) == 1 else "stores"
        what = f"removed from {len(self.rows)} {stores}" if removed else "--yes removes it"
        if self.is_damaged:
            what = "it stays, because a file where it was cannot be read"
        return LedgerRow(
            kind="series",
            source=self.source,
            series_uid=self.identity.series_uid,
            study_uid=self.identity.study_uid,
            patient_id=self.identity.patient_id,
            status="pruned" if removed else "gone",
            detail=f"SOURCE no longer holds this series; {what}",
        )

    def to_json(self, *, removed: bool) -> Iterator[dict[str, object]]:
        """One entry for each row, as `voco preprocess --prune --json` prints it."""
        for store, row in self.rows.items():
            yield {
                "store": store,
                "row": row,
                "patient_id": self.identity.patient_id,
                "study_uid": self.identity.study_uid,
                "series_uid": self.identity.series_uid,
                "source": self.source,
                "removed": removed and not self.is_damaged,
            }


def check_can_prune(source: object, cohort: Cohort) -> None:
    """Raise InputError unless the index shows all series that SOURCE holds."""
    if not len(cohort):
        raise InputError(
            f"{source}: holds no series, so --prune would take all of its rows; is it mounted? "
            "Leave --prune out, or erase patients with voco store forget"
        )
    hidden = sum(
        file.reason in (Reason.IO_ERROR, Reason.UNREADABLE) and not _can_be_read(cohort, file)
        for file in cohort.odd_files()
    )
    if hidden:
        files = "file or folder" if hidden == 1 else "files or folders"
        raise InputError(
            f"{source}: {hidden} {files} cannot be opened, so --prune cannot tell which "
            "series are gone; give access, or leave --prune out"
        )


def _can_be_read(cohort: Cohort, file: OddFile) -> bool:
    """Whether the file system gives the bytes of a file, whatever they are. A folder has none."""
    try:
        with (cohort.base / file.path).open("rb") as stream:
            stream.read(1)
    except OSError:
        return False
    return True


def find_gone_series(
    archives: Archives,
    archive: str,
    keys: CohortKeys,
    stores: Sequence[StoreWriter],
    options: IngestOptions,
    others: OtherArchives,
    damaged: DamagedFiles,
) -> list[GoneSeries]:
    """Series that the stores have, that came from `archive` alone, and that `keys` lacks.

    An archive at a path that leads to SOURCE by now is this one. With `--layout dicom` or `nifti`
    only rows of this kind are compared. Sorted by key; the list is in memory, about 1 kB a series.
    """
    gone_keys = {
        key
        for one in (archive, *others.aliases)
        for key in archives.keys_of(one)
        if key not in keys
    }
    elsewhere = {key for key in gone_keys if others.holders(key)}
    found: dict[str, GoneSeries] = {}
    n_unknown = n_elsewhere = 0
    for store in stores:
        for row, identity in list(store.index.identities()):
            key = series_key(identity)
            n_unknown += not archives.is_held(key)
            n_elsewhere += key in elsewhere
            if key not in gone_keys or key in elsewhere:
                continue
            line = store.index.line_of_row(row)
            assert line is not None
            is_nifti = ONE_KIND_LAYOUTS.get(options.layout)
            if is_nifti is not None and is_nifti != (line["transfer_syntax"] == "nifti"):
                continue
            series = found.setdefault(key, GoneSeries(key, identity, line["source"]))
            series.rows[store.storage.name] = row
    for series in found.values():
        series.is_damaged = damaged.are_in(series.source)
    n_damaged = sum(len(series.rows) for series in found.values() if series.is_damaged)
    if n_damaged:
        log.warning(
            "prune: %s, because a file at the place of the series cannot be read", _stay(n_damaged)
        )
    if n_elsewhere:
        log.info("prune: %s, because another archive has held the series, too", _stay(n_elsewhere))
    if n_unknown:
        log.warning(
            "prune: %s, because no run has recorded the archive of the series; "
            "a run over that archive records it",
            _stay(n_unknown),
        )
    return [found[key] for key in sorted(found)]


def _stay(count: int) -> str:
    return "1 row stays" if count == 1 else f"{count} rows stay"


def warn_of_new_source(archives: Archives, archive: str, others: OtherArchives) -> None:
    """Say that no row can be gone from SOURCE if no run has seen it at this path."""
    if others.any and not others.aliases and not archives.count(archive):
        log.warning(
            "prune: this root has not seen SOURCE under this path, so no row is known to have come"
            " from it; if it was moved, put a link to it at its former path"
        )


def remove_gone_series(gone: Sequence[GoneSeries], stores: Sequence[StoreWriter]) -> None:
    """Remove the rows of these series from the stores.

    The catalogue of a store is replaced before chunks and records are removed. A run that is killed
    in between leaves whole rows, and the next `--prune` finds them, because `Archives` still has
    their keys.
    """
    for store in stores:
        rows = {
            series.rows[store.storage.name]: series.key
            for series in gone
            if store.storage.name in series.rows and not series.is_damaged
        }
        if rows:
            store.remove_rows(rows, rows.values())
            store.compact()


def release_gone_series(
    archives: Archives,
    archive: str,
    keys: CohortKeys,
    options: IngestOptions,
    others: OtherArchives,
    gone: Sequence[GoneSeries],
) -> None:
    """Let `archive` hold only what it holds now, and the rows that stay because of damage.

    Another archive that held a series keeps it.
    """
    if options.layout in ONE_KIND_LAYOUTS:
        return
    damaged = {series.key for series in gone if series.is_damaged}
    for one in (archive, *others.aliases):
        released = [key for key in archives.keys_of(one) if key not in keys and key not in damaged]
        archives.remove(one, released)
