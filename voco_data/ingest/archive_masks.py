"""Masks of stored series, read again from their archive at full resolution.

A mask is matched with the rows of a store by the voxels of its series, not by ids: so neither the
key of the pseudonyms nor the options of the run that filled the store are needed. The series are
read as for the store, one at a time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from voco_data.cropping import find_box
from voco_data.errors import InputError, SeriesRefused, StoreCorrupt
from voco_data.ingest.options import IngestOptions
from voco_data.layouts import index_archive
from voco_data.preprocessing import PreparedSeries, draw_volumes, prepare_series
from voco_data.store import ArchiveMask, ProfileBox, Record, Store, read_record
from voco_data.volumes import Box

log = logging.getLogger(__name__)


class ArchiveMasks:
    """The masks of an archive for the rows of a store: a `voco_data.store.MaskReader`."""

    def __init__(
        self,
        source: str | Path,
        store: str | Path | Store,
        options: IngestOptions | None = None,
    ) -> None:
        """`source` is the archive that the store was filled from.

        Of the options, `layout`, `include`, `exclude` and `progress` are used.
        """
        self._source = Path(source)
        self._store = store if isinstance(store, Store) else Store.open(store)
        self._options = options or IngestOptions()

    def read(self, rows: Collection[int], *, on_grid: bool = False) -> Iterator[ArchiveMask]:
        """Iterate over the masks of `rows`, in the order of the archive.

        Series with masks are decoded, without those whose files, by path, size and time, are those
        of other rows. Raises InputError if no mask of the archive is of a series of the store, and
        if a mask has changed since the store was filled.
        """
        table, wanted = self._store.catalogue, set(rows)
        by_content: dict[str, list[int]] = {}
        for row, digest in zip(table["row"], table["content_digest"], strict=True):
            by_content.setdefault(str(digest), []).append(int(row))
        is_wanted = table["row"].isin(wanted)
        others = set(table["stat_digest"][~is_wanted]) - set(table["stat_digest"][is_wanted])
        matched = False
        for prepared in self._prepare_masked(others):
            if prepared is None:
                matched = True
                continue
            stored = by_content.get(prepared.content_digest, [])
            if not stored:
                continue
            matched = True
            for record in self._find_records(prepared, stored):
                if record.row in wanted:
                    yield self._make_mask(prepared, record, on_grid=on_grid)
        if not matched:
            raise InputError(
                f"archive: no series with a mask at {self._source} is in {self._store.storage}; "
                "give the archive that the store was filled from"
            )

    def _prepare_masked(self, skipped: Collection[str]) -> Iterator[PreparedSeries | None]:
        """Iterate over the series with a mask that lies on their voxels.

        None stands for a series whose stat digest is one of `skipped`, which is not read.
        """
        with index_archive(
            self._source,
            layout=self._options.layout,
            include=self._options.include,
            exclude=self._options.exclude,
            progress=self._options.progress,
        ) as cohort:
            for head in cohort.heads():
                entry = cohort.entry(head.number)
                if not entry.masks:
                    continue
                if entry.stat_digest in skipped:
                    yield None
                    continue
                try:
                    prepared = prepare_series(cohort.base, entry, self._store.spec)
                except SeriesRefused as error:  # it is not in the store either
                    log.info("archive: a series with masks is left out: %s", error.reason.value)
                    continue
                if prepared.labels is not None:
                    yield prepared

    def _find_records(self, prepared: PreparedSeries, rows: Sequence[int]) -> list[Record]:
        """The records of rows with the voxels of a series, of those with the organs of its masks.

        Equal volumes may be several series, of which only some have masks. Raises InputError if all
        that have masks have other organs.
        """
        found = []
        for row in rows:
            record = read_record(self._store.storage, row)
            if record is None:
                raise StoreCorrupt(f"{self._store.storage}: the record of row {row} is missing")
            found.append(record)
        bounds = {
            organ: bounds.in_mm(prepared.canonical) for organ, bounds in prepared.organs.items()
        }
        equal = [record for record in found if record.organs == bounds]
        if not equal and any(record.organs for record in found):
            raise InputError(
                f"archive: the masks of row {rows[0]} of {self._store.storage} have changed since; "
                "run voco preprocess again"
            )
        return equal

    def _make_mask(self, prepared: PreparedSeries, record: Record, *, on_grid: bool) -> ArchiveMask:
        labels = prepared.labels
        assert labels is not None
        box = Box(record.box_start, record.box_stop, record.box_method, record.box_confidence)
        return ArchiveMask(
            record=record,
            voxels=labels.voxels,
            labels=labels.numbers,
            profile_box=_find_profile_box(prepared),
            on_grid=draw_volumes(labels, box, self._store.grid) if on_grid else {},
        )


def _find_profile_box(prepared: PreparedSeries) -> ProfileBox:
    """The box of the abdomen from HU, without a margin, and the time that it took."""
    began = time.perf_counter()
    box = find_box(
        prepared.hu, prepared.canonical.spacing_mm, crop="abdomen", margin_mm=(0.0, 0.0, 0.0)
    )
    return ProfileBox(
        box.low_mm(prepared.canonical),
        box.high_mm(prepared.canonical),
        box.confidence,
        time.perf_counter() - began,
    )
