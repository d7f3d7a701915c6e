"""Families: the slices that may be one scan, by their ids.

Series UIDs are unique, so slices of one scan share it, whatever patient or study they name. Where
the UID is empty, slices of one folder or of one patient may be one scan.
"""

from __future__ import annotations

import sqlite3

MAX_LINKS = 20
"""Most steps from folder to patient to folder by which groups without UID are linked."""


def find_families(sql: sqlite3.Connection) -> None:
    """Set `groups.family` of every group: the lowest id of a group of its family."""
    sql.execute("CREATE INDEX IF NOT EXISTS groups_by_uid ON groups (uid)")
    sql.execute("UPDATE groups SET family = id")
    _spread(sql, "uid", "uid != ''")
    for _ in range(MAX_LINKS):
        n_changed = _spread(sql, "folder", "uid = ''")
        n_changed += _spread(sql, "patient", "uid = '' AND patient != ''")
        if not n_changed:
            break
    sql.execute("CREATE INDEX IF NOT EXISTS groups_by_family ON groups (family)")


def _spread(sql: sqlite3.Connection, column: str, condition: str) -> int:
    """Give groups with one value of a column the lowest of their families. Counts the changes."""
    sql.execute("CREATE TEMP TABLE lowest (value PRIMARY KEY, family INTEGER) WITHOUT ROWID")
    sql.execute(
        f"INSERT INTO lowest SELECT {column}, MIN(family) FROM groups WHERE {condition}"
        f" GROUP BY {column} HAVING MIN(family) < MAX(family)"
    )
    cursor = sql.execute(
        f"UPDATE groups SET family = (SELECT family FROM lowest WHERE value = {column})"
        f" WHERE {condition} AND {column} IN (SELECT value FROM lowest)"
        f" AND family > (SELECT family FROM lowest WHERE value = {column})"
    )
    sql.execute("DROP TABLE lowest")
    return cursor.rowcount
