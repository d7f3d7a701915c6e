"""Series UIDs that several patients or studies share: one scan, or several.

Series UIDs are unique. So if slices of one UID name several studies or patients, an archive has
written these ids wrongly (a study UID for each slice, two patients in one series), or it has given
one series UID to many scans. The positions tell: slices that complete each other are one scan.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from voco_data.layouts.one_scan import are_one_scan
from voco_data.layouts.stack_geometry import Geometry, merge_close_values, normal_of

MAX_SLICES = 20_000
"""Slices that are compared at once. One scan has fewer."""

_Piece = tuple[int, Geometry]
"""Slices of one group and one geometry."""


def join_groups(sql: sqlite3.Connection) -> None:
    """Join the groups of one series UID whose slices are one scan.

    The geometries of all go to the first group, in the order of patients (an empty one last) and
    studies. `slices.ids` still refers to the group with the ids of each slice.
    """
    uids = [
        uid
        for (uid,) in sql.execute(
            "SELECT uid FROM groups WHERE uid != '' GROUP BY uid HAVING COUNT(*) > 1 ORDER BY uid"
        )
    ]
    if not uids:
        return
    sql.execute("CREATE INDEX IF NOT EXISTS slices_geometry ON slices (geometry)")
    sql.execute("CREATE INDEX IF NOT EXISTS groups_by_uid ON groups (uid)")
    for uid in uids:
        for candidates in _partitions(sql, uid):
            _join_candidates(sql, candidates)


def _partitions(sql: sqlite3.Connection, uid: str) -> Iterator[list[int]]:
    """Sets of groups that may be one scan: all of the UID, of one folder, of one patient."""
    yield from _sets(sql, "SELECT '', id FROM groups WHERE uid = ? ORDER BY id", uid)
    yield from _sets(sql, "SELECT patient, id FROM groups WHERE uid = ? ORDER BY patient, id", uid)
    folders: dict[bytes, set[int]] = {}
    for group, path in sql.execute(
        "SELECT geometries.grp, MIN(files.path) FROM groups"
        " JOIN geometries ON geometries.grp = groups.id"
        " JOIN slices ON slices.geometry = geometries.id JOIN files ON files.id = slices.file"
        " WHERE groups.uid = ? GROUP BY geometries.grp",
        (uid,),
    ):
        folders.setdefault(os.path.dirname(path), set()).add(group)  # noqa: PTH120  bytes
    yield from (sorted(groups) for _, groups in sorted(folders.items()) if len(groups) > 1)


def _sets(sql: sqlite3.Connection, query: str, uid: str) -> Iterator[list[int]]:
    rows = sql.execute(query, (uid,)).fetchall()
    for _, members in groupby(rows, key=lambda row: row[0]):
        groups = [group for _, group in members]
        if len(groups) > 1:
            yield groups


def _join_candidates(sql: sqlite3.Connection, groups: Sequence[int]) -> None:
    """Join those slices of `groups` that have one geometry and are one scan."""
    marks = ", ".join("?" * len(groups))
    if len(groups) > MAX_SLICES:
        return
    (count,) = sql.execute(
        "SELECT COUNT(*) FROM slices JOIN geometries ON geometries.id = slices.geometry"
        f" WHERE grp IN ({marks})",
        groups,
    ).fetchone()
    if count > MAX_SLICES:
        return
    rows = sql.execute(
        f"SELECT id, grp, value FROM geometries WHERE grp IN ({marks}) ORDER BY id", groups
    ).fetchall()
    merged = merge_close_values([json.loads(value) for *_, value in rows])
    by_geometry: dict[Geometry, dict[int, list[int]]] = {}
    for (number, group, _), geometry in zip(rows, merged, strict=True):
        by_geometry.setdefault(geometry, {}).setdefault(group, []).append(number)
    for geometry, numbers_of in sorted(by_geometry.items()):
        parts = [_positions(sql, numbers) for numbers in numbers_of.values()]
        if len(parts) > 1 and are_one_scan(parts, normal_of(geometry)):
            _join(sql, numbers_of)


def _positions(sql: sqlite3.Connection, geometries: Sequence[int]) -> np.ndarray:
    marks = ", ".join("?" * len(geometries))
    rows = sql.execute(
        f"SELECT x_mm, y_mm, z_mm FROM slices WHERE geometry IN ({marks})", geometries
    )
    return np.array(rows.fetchall(), np.float64).reshape(-1, 3)


def _join(sql: sqlite3.Connection, numbers_of: dict[int, list[int]]) -> None:
    """Give the geometries of several groups to the group whose ids are kept."""
    marks = ", ".join("?" * len(numbers_of))
    (target,) = sql.execute(
        f"SELECT id FROM groups WHERE id IN ({marks}) ORDER BY patient = '', patient, study, id",
        tuple(numbers_of),
    ).fetchone()
    for group, numbers in numbers_of.items():
        if group == target:
            continue
        for number in numbers:
            same = sql.execute(
                "SELECT id FROM geometries WHERE grp = ? AND value ="
                " (SELECT value FROM geometries WHERE id = ?)",
                (target, number),
            ).fetchone()
            if same is None:
                sql.execute("UPDATE geometries SET grp = ? WHERE id = ?", (target, number))
            else:
                sql.execute("UPDATE slices SET geometry = ? WHERE geometry = ?", (*same, number))
                sql.execute("DELETE FROM geometries WHERE id = ?", (number,))
