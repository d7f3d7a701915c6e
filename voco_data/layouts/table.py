"""The table that an index is written into: files, series, slices, masks, and what is odd.

Paths are bytes, because file names need not be text. Everything is written as a stream.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import Literal

from voco_data.cohort import ArchiveFile, MaskKind, MaskLabels, OddFile, stat_digest
from voco_data.reasons import Reason
from voco_data.storage.scratch_db import escape_undecodable
from voco_data.volumes.geometry import Triple

SCHEMA = """
CREATE TABLE folders (id INTEGER PRIMARY KEY, path BLOB);
CREATE TABLE files (id INTEGER PRIMARY KEY, path BLOB, size INTEGER, mtime_ns INTEGER);
CREATE TABLE odd (path TEXT, reason TEXT, detail TEXT);
CREATE TABLE series (
    id INTEGER PRIMARY KEY, kind TEXT, patient TEXT, study TEXT, uid TEXT, source TEXT,
    folder BLOB, above BLOB, n_files INTEGER, n_slices INTEGER, stat_digest TEXT,
    first BLOB, last BLOB, grp INTEGER, stack TEXT
);
CREATE TABLE slices (
    file INTEGER PRIMARY KEY, series INTEGER, frames INTEGER, geometry INTEGER, traits INTEGER,
    x_mm REAL, y_mm REAL, z_mm REAL, depth_mm REAL
);
CREATE TABLE masks (
    series INTEGER, file INTEGER, kind TEXT, labels TEXT, PRIMARY KEY (series, file)
) WITHOUT ROWID;
"""

_READ_AHEAD = 1000


class IndexTable:
    """Writes an index. `voco_data.cohort.Cohort` reads it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.n_files = 0

    # The queue of the walk.

    def push(self, folder: str) -> None:
        """Keep a folder for later."""
        self.connection.execute("INSERT INTO folders (path) VALUES (?)", (os.fsencode(folder),))

    def pop(self) -> str | None:
        """Take the folder that was kept last."""
        row = self.connection.execute(
            "SELECT id, path FROM folders ORDER BY id DESC LIMIT 1"
        ).fetchone()
        if row is None:
            return None
        self.connection.execute("DELETE FROM folders WHERE id = ?", row[:1])
        return os.fsdecode(row[1])

    # What the walk finds.

    def add_file(self, file: ArchiveFile) -> None:
        """A regular file of the archive."""
        self.connection.execute(
            "INSERT INTO files (path, size, mtime_ns) VALUES (?, ?, ?)",
            (os.fsencode(file.path), file.size, file.mtime_ns),
        )
        self.n_files += 1

    def add_odd(self, file: OddFile) -> None:
        """A file that belongs to no series."""
        self.connection.execute(
            "INSERT INTO odd VALUES (?, ?, ?)",
            (escape_undecodable(file.path), file.reason, escape_undecodable(file.detail)),
        )

    def drop_repeats(self) -> None:
        """Forget files that were listed twice."""
        self.connection.execute(
            "DELETE FROM files WHERE id NOT IN (SELECT MIN(id) FROM files GROUP BY path)"
        )
        (self.n_files,) = self.connection.execute("SELECT COUNT(*) FROM files").fetchone()

    def files(self) -> Iterator[tuple[int, str]]:
        """(id, path) of every file, sorted by path, whatever the file system's order."""
        self.connection.execute("CREATE INDEX IF NOT EXISTS files_path ON files (path)")
        last: tuple[bytes, int] = (b"", -1)
        # In pages: a page is read whole before the caller writes into other tables.
        while True:
            page = self.connection.execute(
                "SELECT path, id FROM files WHERE (path, id) > (?, ?) ORDER BY path, id LIMIT ?",
                (*last, _READ_AHEAD),
            ).fetchall()
            if not page:
                return
            yield from ((number, os.fsdecode(path)) for path, number in page)
            last = page[-1]

    # What a layout makes of it.

    def add_series(
        self,
        kind: Literal["dicom", "nifti"],
        *,
        patient: str = "",
        uid: str = "",
        grp: int | None = None,
        stack: str = "",
    ) -> int:
        """A series, still without files; gives its number."""
        row = (kind, escape_undecodable(patient), "", escape_undecodable(uid), grp, stack)
        cursor = self.connection.execute(
            "INSERT INTO series (kind, patient, study, uid, grp, stack) VALUES (?, ?, ?, ?, ?, ?)",
            row,
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def add_slice(
        self,
        file: int,
        series: int | None,
        geometry: int | None = None,
        traits: int | None = None,
        position_mm: Triple | None = None,
        frames: int = 1,
    ) -> None:
        """A file that is, or is part of, a series."""
        self.connection.execute(
            "INSERT INTO slices VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL)",
            (file, series, frames, geometry, traits, *(position_mm or (None, None, None))),
        )

    def add_mask(self, series: int, file: int, kind: MaskKind, labels: MaskLabels) -> None:
        """A candidate for the mask of a series."""
        self.connection.execute(
            "INSERT OR IGNORE INTO masks VALUES (?, ?, ?, ?)", (series, file, kind, labels)
        )

    def add_masks_by_uid(
        self, uid: str, file: int, path: str, kind: MaskKind, labels: MaskLabels
    ) -> None:
        """A mask of every series with this id, and the row that says so."""
        self.connection.execute("CREATE INDEX IF NOT EXISTS series_uid ON series (uid)")
        found = self.connection.execute(
            "SELECT id FROM series WHERE uid = ?", (escape_undecodable(uid),)
        ).fetchall()
        for (series,) in found:
            self.add_mask(series, file, kind, labels)
        self.add_mask_row(path, len(found))

    def add_mask_row(self, path: str, n_series: int) -> None:
        """The row of a file that is a mask."""
        if n_series:
            detail = f"a mask; offered to {n_series} series"
        else:
            detail = "a mask that belongs to no series of this archive"
        self.add_odd(OddFile(path, Reason.MASK, detail))

    # When all series have their files.

    def locate(self) -> None:
        """Count the files of every series; find the first, the last, and the common folder."""
        update = self.connection.cursor()
        update.execute("CREATE INDEX IF NOT EXISTS slices_series ON slices (series)")
        for number, rows in self._by_series():
            first = last = b""
            count = n_slices = 0
            for _, path, *_, frames in rows:
                first, last = first or path, path
                count += 1
                n_slices += frames
            folder = common_folder(first, last)
            above = folder.rpartition(b"/")[0] if folder else None
            update.execute(
                "UPDATE series SET n_files = ?, n_slices = ?, first = ?, last = ?,"
                " folder = ?, above = ?,"
                " source = CASE kind WHEN 'dicom' THEN ? ELSE ? END WHERE id = ?",
                (
                    *(count, n_slices, first, last, folder, above),
                    *(as_text(folder), as_text(first), number),
                ),
            )

    def seal(self) -> None:
        """Digest what every series is read from. The last step; masks are known by now."""
        update = self.connection.cursor()
        for number, rows in self._by_series():
            masks = update.execute(
                "SELECT path, size, mtime_ns FROM masks JOIN files ON files.id = masks.file"
                " WHERE masks.series = ? ORDER BY path",
                (number,),
            ).fetchall()
            digest = stat_digest(
                (_archive_file(path, size, time) for _, path, size, time, _ in rows),
                [_archive_file(*row) for row in masks],
            )
            update.execute("UPDATE series SET stat_digest = ? WHERE id = ?", (digest, number))

    def _by_series(self) -> Iterator[tuple[int, Iterator[tuple[int, bytes, int, int, int]]]]:
        cursor = self.connection.execute(
            "SELECT slices.series, path, size, mtime_ns, frames"
            " FROM slices JOIN files ON files.id = slices.file"
            " ORDER BY slices.series, path"
        )
        return groupby(cursor, key=itemgetter(0))


def common_folder(first: bytes, last: bytes) -> bytes:
    """The folder that all of a sorted list of paths share, from its first and last."""
    if first != last:
        first = first[: len(_common_prefix(first, last))]
    return first.rpartition(b"/")[0]


def as_text(path: bytes) -> str:
    """A path as ledgers and records can hold it; `.` for the archive itself."""
    return escape_undecodable(os.fsdecode(path)) or "."


def _common_prefix(one: bytes, other: bytes) -> bytes:
    length = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    return one[:length] if length is not None else min(one, other, key=len)


def _archive_file(path: bytes, size: int, mtime_ns: int) -> ArchiveFile:
    return ArchiveFile(os.fsdecode(path), size, mtime_ns)
