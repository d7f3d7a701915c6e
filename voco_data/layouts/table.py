"""The tables of an index: files, series, slices, masks and odd files.

Paths are bytes, because file names need not be text. Rows are written one at a time.
"""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Literal

import xxhash

from voco_data.cohort import ArchiveFile, MaskKind, MaskLabels, OddFile
from voco_data.reasons import Reason
from voco_data.storage import escape_undecodable
from voco_data.volumes import Triple

SCHEMA = """
CREATE TABLE folders (id INTEGER PRIMARY KEY, path BLOB);
CREATE TABLE files (id INTEGER PRIMARY KEY, path BLOB, size INTEGER, mtime_ns INTEGER);
CREATE TABLE odd (path TEXT, reason TEXT, detail TEXT);
CREATE TABLE lost (path BLOB, study TEXT, uid TEXT);
CREATE TABLE series (
    id INTEGER PRIMARY KEY, kind TEXT, patient TEXT, study TEXT, uid TEXT, source TEXT,
    folder BLOB, above BLOB, n_files INTEGER, n_slices INTEGER, stat_digest TEXT,
    first BLOB, last BLOB, grp INTEGER, stack TEXT, flags TEXT NOT NULL DEFAULT ''
);
CREATE TABLE slices (
    file INTEGER PRIMARY KEY, series INTEGER, frames INTEGER, geometry INTEGER, traits INTEGER,
    x_mm REAL, y_mm REAL, z_mm REAL, depth_mm REAL,
    ids INTEGER, number INTEGER, end_x_mm REAL, end_y_mm REAL, end_z_mm REAL,
    acquisition_time TEXT, content_time TEXT, acquisition_datetime TEXT, trigger_time TEXT
);
CREATE TABLE masks (
    series INTEGER, file INTEGER, kind TEXT, labels TEXT, PRIMARY KEY (series, file)
) WITHOUT ROWID;
"""

_FILES_PER_PAGE = 1000


class IndexTable:
    """Writes an index. `voco_data.cohort.Cohort` reads it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.n_files = 0

    # The queue of folders that `walk` uses.

    def push(self, folder: str) -> None:
        """Add a folder to the queue."""
        self.connection.execute("INSERT INTO folders (path) VALUES (?)", (os.fsencode(folder),))

    def pop(self) -> str | None:
        """Remove the folder that was added last, and return it; None if the queue is empty."""
        row = self.connection.execute(
            "SELECT id, path FROM folders ORDER BY id DESC LIMIT 1"
        ).fetchone()
        if row is None:
            return None
        self.connection.execute("DELETE FROM folders WHERE id = ?", row[:1])
        return os.fsdecode(row[1])

    # Called while the files are found.

    def add_file(self, file: ArchiveFile) -> None:
        """Add a regular file of the archive."""
        self.connection.execute(
            "INSERT INTO files (path, size, mtime_ns) VALUES (?, ?, ?)",
            (os.fsencode(file.path), file.size, file.mtime_ns),
        )
        self.n_files += 1

    def add_odd_file(self, file: OddFile) -> None:
        """Add a file that belongs to no series."""
        self.connection.execute(
            "INSERT INTO odd VALUES (?, ?, ?)",
            (escape_undecodable(file.path), file.reason, escape_undecodable(file.detail)),
        )

    def add_lost_file(self, path: str, study: str = "", uid: str = "") -> None:
        """Add a file that may be a slice and is never opened, with the UIDs of its series if known.

        It is listed as an odd file, too.
        """
        self.connection.execute(
            "INSERT INTO lost VALUES (?, ?, ?)",
            (os.fsencode(path), escape_undecodable(study), escape_undecodable(uid)),
        )

    def drop_repeated_files(self) -> None:
        """Remove files that were added twice."""
        self.connection.execute(
            "DELETE FROM files WHERE id NOT IN (SELECT MIN(id) FROM files GROUP BY path)"
        )
        (self.n_files,) = self.connection.execute("SELECT COUNT(*) FROM files").fetchone()

    def files(self) -> Iterator[tuple[int, str]]:
        """Iterate over (id, path) of every file, sorted by path."""
        self.connection.execute("CREATE INDEX IF NOT EXISTS files_path ON files (path)")
        last: tuple[bytes, int] = (b"", -1)
        # Each page is read to its end, because the caller writes to other tables between rows.
        while True:
            page = self.connection.execute(
                "SELECT path, id FROM files WHERE (path, id) > (?, ?) ORDER BY path, id LIMIT ?",
                (*last, _FILES_PER_PAGE),
            ).fetchall()
            if not page:
                return
            yield from ((number, os.fsdecode(path)) for path, number in page)
            last = page[-1]

    # Called by a layout.

    def add_series(
        self,
        kind: Literal["dicom", "nifti"],
        *,
        patient: str = "",
        uid: str = "",
        grp: int | None = None,
        stack: str = "",
    ) -> int:
        """Add a series, still without files; returns its number."""
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
        ids: int | None = None,
        times: Sequence[str] = ("", "", "", ""),
        number: int = -1,
        end_mm: Triple | None = None,
    ) -> None:
        """Add a file to a series. `times` are those of `SliceTimes`.

        Of an object of several frames, `position_mm` and `end_mm` are those of the frames at its
        two ends. `number` is its InstanceNumber; one beyond 32 bits counts as missing.
        """
        none = (None, None, None)
        self.connection.execute(
            "INSERT INTO slices VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                file,
                series,
                frames,
                geometry,
                traits,
                *(position_mm or none),
                ids,
                number if abs(number) < 1 << 31 else -1,
                *(end_mm or position_mm or none),
                *times,
            ),
        )

    def add_mask(self, series: int, file: int, kind: MaskKind, labels: MaskLabels) -> None:
        """Add a file that may be the mask of a series."""
        self.connection.execute(
            "INSERT OR IGNORE INTO masks VALUES (?, ?, ?, ?)", (series, file, kind, labels)
        )

    def add_masks_by_uid(
        self, uid: str, file: int, path: str, kind: MaskKind, labels: MaskLabels
    ) -> None:
        """Add a mask to every series with this id, and list the file as a mask."""
        self.connection.execute("CREATE INDEX IF NOT EXISTS series_uid ON series (uid)")
        matches = self.connection.execute(
            "SELECT id FROM series WHERE uid = ?", (escape_undecodable(uid),)
        ).fetchall()
        for (series,) in matches:
            self.add_mask(series, file, kind, labels)
        self.add_mask_row(path, len(matches))

    def add_mask_row(self, path: str, n_series: int) -> None:
        """List a file as a mask that was offered to `n_series` series."""
        if n_series:
            detail = f"a mask; offered to {n_series} series"
        else:
            detail = "a mask that belongs to no series of this archive"
        self.add_odd_file(OddFile(path, Reason.MASK, detail))

    # Called when all series have their files.

    def set_file_ranges(self) -> None:
        """Set the number of files, the first, the last and the common folder of every series."""
        update = self.connection.cursor()
        update.execute("CREATE INDEX IF NOT EXISTS slices_series ON slices (series)")
        for number, rows in self._rows_by_series():
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
                    count,
                    n_slices,
                    first,
                    last,
                    folder,
                    above,
                    path_text(folder),
                    path_text(first),
                    number,
                ),
            )

    def tell_sources_apart(self) -> None:
        """Add `#` and 8 hex digits to the source of DICOM series that share a folder.

        The digits are those of the series id, if it has some, else a hash of the ids; also where
        two patients or studies have one series id. One file alone in a series is named instead.
        Requires ids and file ranges.
        """
        update = self.connection.cursor()
        update.execute("CREATE INDEX IF NOT EXISTS series_source ON series (source)")
        rows = self.connection.execute(
            "SELECT id, patient, study, uid, source, n_files, first FROM series"
            " WHERE kind = 'dicom' AND source IN"
            " (SELECT source FROM series GROUP BY source HAVING COUNT(*) > 1) ORDER BY id"
        ).fetchall()
        n_named = Counter((source, uid) for *_, uid, source, _, _ in rows)
        for number, patient, study, uid, source, n_files, first in rows:
            tail = uid.rpartition("#")[2]
            if len(tail) != 8 or "#" not in uid or n_named[source, uid] > 1:
                tail = xxhash.xxh3_64_hexdigest(f"{patient}\0{study}\0{uid}".encode())[:8]
            name = path_text(first) if n_files == 1 else f"{source}#{tail}"
            update.execute("UPDATE series SET source = ? WHERE id = ?", (name, number))

    def add_stat_digests(self) -> None:
        """Set the stat digest of every series. The last step, because it covers the masks."""
        update = self.connection.cursor()
        for number, rows in self._rows_by_series():
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

    def _rows_by_series(self) -> Iterator[tuple[int, Iterator[tuple[int, bytes, int, int, int]]]]:
        cursor = self.connection.execute(
            "SELECT slices.series, path, size, mtime_ns, frames"
            " FROM slices JOIN files ON files.id = slices.file"
            " ORDER BY slices.series, path"
        )
        return groupby(cursor, key=itemgetter(0))


def common_folder(first: bytes, last: bytes) -> bytes:
    """The longest common folder of paths, from the first and the last in sorted order."""
    if first != last:
        first = first[: len(_common_prefix(first, last))]
    return first.rpartition(b"/")[0]


def path_text(path: bytes) -> str:
    """A path as text that ledgers and records can hold; `.` for the archive itself."""
    return escape_undecodable(os.fsdecode(path)) or "."


def _common_prefix(one: bytes, other: bytes) -> bytes:
    length = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    return one[:length] if length is not None else min(one, other, key=len)


def _archive_file(path: bytes, size: int, mtime_ns: int) -> ArchiveFile:
    return ArchiveFile(os.fsdecode(path), size, mtime_ns)


def stat_digest(files: Iterable[ArchiveFile], masks: Sequence[ArchiveFile] = ()) -> str:
    """XXH3-128 over path, size and modification time of every file, and of every mask if any.

    Both must be sorted by path.
    """
    state = xxhash.xxh3_128()
    for file in files:
        state.update(_stat_line(file))
    for mask in masks:
        state.update(b"mask\0" + _stat_line(mask))
    return state.hexdigest()


def _stat_line(file: ArchiveFile) -> bytes:
    return f"{file.path}\0{file.size}\0{file.mtime_ns}\n".encode(errors="surrogateescape")
