"""The rows of a ledger that a page shows, with their outlier scores: refused ones, then outliers.

The ledger is read twice in batches: for the medians of the run, and to compare each series with
them. Memory grows with the rows that are shown, and by some bytes for each series.
"""

from __future__ import annotations

import heapq
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import xxhash

from voco_data.qc import outliers

MAX_SERIES = 5_000
"""Largest number of rows for series; RATIC has 4,711."""
MAX_FILES = 1_000
"""Largest number of rows for files of no series; an archive may have a hundred times more."""
BATCH_ROWS = 4_096
KEPT_STATUSES = ("stored", "cached")

LedgerLine = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the page."""

    ledger: LedgerLine
    """The ledger's values; None if it is missing."""
    measures: dict[str, float | None]
    """Values derived from them: keys as in voco_data.qc.outliers."""
    score: float | None
    """None for rows that were not kept."""
    why: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReportRows:
    """The rows of a page in its order, and counts over the whole ledger."""

    rows: list[Row]
    counts: Mapping[str, Counter[str]]
    """Rows by value of `kind`, `status` and `reason`."""
    kept: int
    """Series that were kept."""
    patients: int
    """Patients of the kept series."""
    outliers: int
    """Kept series with a score above 0."""


def select_rows(ledger: Path) -> ReportRows:
    """At most MAX_SERIES series and MAX_FILES files of a ledger: refused first, then outliers."""
    statistics = _LedgerStatistics()
    for line in _lines(ledger):
        statistics.add(line)
    spreads = outliers.measure_spreads(statistics.columns())
    rows = _RowSelection()
    for line in _lines(ledger):
        rows.add(_row(line, spreads))
    return ReportRows(
        rows.sorted(), statistics.counts, statistics.kept, statistics.patients(), rows.outliers
    )


def _lines(ledger: Path) -> Iterator[LedgerLine]:
    with pq.ParquetFile(ledger) as file:
        for batch in file.iter_batches(BATCH_ROWS):
            yield from batch.to_pylist()


class _LedgerStatistics:
    """The measures of all kept series, and counts: 8 bytes a series and measure."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {
            name: Counter() for name in ("kind", "status", "reason")
        }
        self._values = {measure.key: array("d") for measure in outliers.MEASURES}
        self._patients = array("Q")

    def add(self, line: LedgerLine) -> None:
        for name, counter in self.counts.items():
            if line[name]:
                counter[line[name]] += 1
        if line["kind"] == "series" and line["status"] in KEPT_STATUSES:
            self._patients.append(xxhash.xxh3_64_intdigest(line["patient_id"].encode()))
            measured = line | _measures(line)
            for key, values in self._values.items():
                values.append(float("nan") if measured[key] is None else measured[key])

    @property
    def kept(self) -> int:
        return len(self._patients)

    def patients(self) -> int:
        return len(np.unique(np.frombuffer(self._patients, np.uint64)))

    def columns(self) -> outliers.Columns:
        return {key: np.frombuffer(values, np.float64) for key, values in self._values.items()}


class _RowSelection:
    """Collects rows in the ledger's order, and keeps the first ones in the page's order."""

    def __init__(self) -> None:
        self._heaps: dict[str, list[tuple[tuple[float, ...], Row]]] = {"series": [], "file": []}
        self._added = 0
        self.outliers = 0

    def add(self, row: Row) -> None:
        self.outliers += bool(row.score)
        self._added += 1
        heap = self._heaps[row.ledger["kind"]]
        # The smallest item of a heap is the last on the page. The number makes ranks unique.
        ranked = ((*(-part for part in _page_order(row)), -self._added), row)
        if len(heap) < (MAX_SERIES if row.ledger["kind"] == "series" else MAX_FILES):
            heapq.heappush(heap, ranked)
        else:
            heapq.heappushpop(heap, ranked)

    def sorted(self) -> list[Row]:
        ranked = sorted(chain(*self._heaps.values()), key=lambda item: item[0], reverse=True)
        return [row for _, row in ranked]


def _page_order(row: Row) -> tuple[int, float]:
    """Sort key: refused first, then kept, then skipped; series before files; by score."""
    group = {"refused": 0, "skipped": 4}.get(row.ledger["status"], 2)
    return group + (row.ledger["kind"] == "file"), -(row.score or 0.0)


def _row(line: LedgerLine, spreads: outliers.Spreads) -> Row:
    if line["kind"] != "series" or line["status"] not in KEPT_STATUSES:
        return Row(line, {}, None, ())
    measures = _measures(line)
    outlier_score = outliers.score_series(line | measures, spreads)
    return Row(line, measures, outlier_score.score, outlier_score.why)


def _measures(line: LedgerLine) -> dict[str, float | None]:
    def distance_mm(low: str, high: str) -> float | None:
        return None if line[low] is None or line[high] is None else float(line[high] - line[low])

    columns, spacing = line["columns"], line["spacing_x_mm"]
    return {
        "scan_mm": distance_mm("z_low_mm", "z_high_mm"),
        "box_mm": distance_mm("box_z_low_mm", "box_z_high_mm"),
        "box_above_mm": distance_mm("z_low_mm", "box_z_low_mm"),
        "field_mm": None if columns is None or spacing is None else float(columns * spacing),
        **{name: line[name] for name in ("hu_p5", "hu_median", "hu_p95")},
    }
