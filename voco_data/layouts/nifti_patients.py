"""Patient ids of NIfTI files in a plain tree: names of files, or folders where names repeat."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from voco_data.layouts.table import path_text
from voco_data.nifti import is_label_map


def name_patients(sql: sqlite3.Connection, base: Path) -> None:
    """Use folders as patient ids if an image's name occurs in several (`s0001/ct.nii.gz`).

    Label maps do not count: they often have the names of their images. Files are opened only if
    their names repeat, until the first name is found that two images have.
    """
    sql.execute("CREATE INDEX IF NOT EXISTS series_patient ON series (kind, patient)")
    repeated = sql.execute(
        "SELECT patient FROM series WHERE kind = 'nifti' GROUP BY patient"
        " HAVING COUNT(DISTINCT folder) > 1 ORDER BY patient"
    )
    if any(_is_name_of_two_images(sql, base, patient) for (patient,) in repeated):
        sql.create_function("path_text", 1, path_text, deterministic=True)
        sql.execute(
            "UPDATE series SET patient = path_text(folder) WHERE kind = 'nifti' AND folder != x''"
        )


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
