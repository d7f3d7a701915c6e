"""Patient ids of NIfTI files in a plain tree: names of files, or folders where names repeat.

A name that occurs in one folder is a patient of its own. Folders that share names (`s0001/ct`,
`s0002/ct`) form a set, and each set is decided by itself. If it has more shared names than folders
(`arterial/p1` to `arterial/p9`, and the same in `venous`), the names are those of patients, else
the folders are. So a file changes no patient of a folder that shares no name with its own, and a
label map changes none at all.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from voco_data.layouts.table import path_text
from voco_data.nifti import is_label_map

MAX_ROUNDS = 50
"""Steps from folder to folder over shared names that make one set."""

_TABLES = (
    "CREATE TEMP TABLE shared_names (name TEXT, folder BLOB, PRIMARY KEY (name, folder))",
    "CREATE TEMP TABLE sharing_folders (folder BLOB PRIMARY KEY, set_of BLOB) WITHOUT ROWID",
)


def name_patients(sql: sqlite3.Connection, base: Path) -> None:
    """Use folders as patient ids where image names occur in several (`s0001/ct.nii.gz`).

    Label maps do not count: they often have the names of their images. Files are opened only if
    their names repeat, until it is known what the folders of a set are.
    """
    sql.execute("CREATE INDEX IF NOT EXISTS series_patient ON series (kind, patient)")
    repeated = "FROM series WHERE kind = 'nifti' GROUP BY patient HAVING COUNT(DISTINCT folder) > 1"
    if sql.execute(f"SELECT 1 {repeated} LIMIT 1").fetchone() is None:
        return
    for statement in _TABLES:
        sql.execute(statement)
    sql.execute(
        "INSERT OR IGNORE INTO shared_names SELECT patient, folder FROM series"
        f" WHERE kind = 'nifti' AND patient IN (SELECT patient {repeated})"
    )
    _find_sets(sql)
    sql.create_function("path_text", 1, path_text, deterministic=True)
    sets = sql.execute(
        "SELECT set_of, COUNT(*) FROM sharing_folders GROUP BY set_of ORDER BY set_of"
    )
    sql.execute("CREATE INDEX IF NOT EXISTS nifti_folder ON series (folder)")
    named_by_folder = [
        (folder,)
        for set_of, n_folders in sets
        if _are_patients(sql, base, set_of, n_folders)
        for folder in _folders_of_images(sql, base, set_of)
    ]
    sql.executemany(
        "UPDATE series SET patient = path_text(folder) WHERE kind = 'nifti' AND folder = ?",
        named_by_folder,
    )
    for name in ("shared_names", "sharing_folders"):
        sql.execute(f"DROP TABLE {name}")


def _find_sets(sql: sqlite3.Connection) -> None:
    """Set `set_of` to the first folder of all that are linked by shared names."""
    sql.execute("CREATE INDEX IF NOT EXISTS temp.shared_by_folder ON shared_names (folder, name)")
    sql.execute(
        "INSERT INTO sharing_folders SELECT folder, MIN(folder) FROM shared_names GROUP BY folder"
    )
    sql.execute("CREATE TEMP TABLE firsts (name TEXT PRIMARY KEY, first BLOB) WITHOUT ROWID")
    for _ in range(MAX_ROUNDS):
        sql.execute("DELETE FROM firsts")
        sql.execute(
            "INSERT INTO firsts SELECT name, MIN(set_of) FROM shared_names"
            " JOIN sharing_folders USING (folder) GROUP BY name"
        )
        changed = sql.execute(
            "UPDATE sharing_folders SET set_of = found.first FROM"
            " (SELECT folder, MIN(firsts.first) AS first FROM shared_names"
            " JOIN firsts USING (name) GROUP BY folder) AS found"
            " WHERE found.folder = sharing_folders.folder AND found.first < set_of"
        ).rowcount
        if not changed:
            break
    sql.execute("DROP TABLE firsts")
    sql.execute("CREATE INDEX temp.folders_by_set ON sharing_folders (set_of)")


def _are_patients(sql: sqlite3.Connection, base: Path, set_of: bytes, n_folders: int) -> bool:
    """Whether the folders of a set are patients: at least one name is shared, at most one each."""
    names = [
        name
        for (name,) in sql.execute(
            "SELECT DISTINCT name FROM sharing_folders JOIN shared_names USING (folder)"
            " WHERE set_of = ? ORDER BY name LIMIT ?",
            (set_of, 10 * n_folders + 1),
        )
    ]
    n_shared = 0
    for name in names:
        n_shared += _is_name_of_two_images(sql, base, name)
        if n_shared > n_folders:
            return False
        if n_shared and len(names) <= n_folders:
            return True
    return n_shared > 0


def _folders_of_images(sql: sqlite3.Connection, base: Path, set_of: bytes) -> Iterator[bytes]:
    """The folders of a set that share the name of an image, and not that of a label map alone.

    Files are opened only in folders with other names.
    """
    folders = sql.execute(
        "SELECT folder FROM sharing_folders WHERE set_of = ? AND folder != x''", (set_of,)
    ).fetchall()
    for (folder,) in folders:
        rows = sql.execute(
            "SELECT first, EXISTS (SELECT 1 FROM shared_names WHERE name = patient"
            " AND shared_names.folder = series.folder) FROM series"
            " WHERE kind = 'nifti' AND folder = ? ORDER BY first",
            (folder,),
        ).fetchall()
        shared = [path for path, is_shared in rows if is_shared]
        if len(shared) == len(rows) or any(
            not is_label_map(base / os.fsdecode(path)) for path in shared
        ):
            yield folder


def _is_name_of_two_images(sql: sqlite3.Connection, base: Path, patient: str) -> bool:
    """Whether images of this name lie in two folders."""
    folders = set()
    for folder, path in sql.execute(
        "SELECT folder, first FROM series WHERE kind = 'nifti' AND patient = ? ORDER BY first",
        (patient,),
    ):
        if folder not in folders and not is_label_map(base / os.fsdecode(path)):
            folders.add(folder)
            if len(folders) == 2:
                return True
    return False
