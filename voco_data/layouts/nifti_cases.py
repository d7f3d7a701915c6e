"""Series and masks of layouts whose folders and names give the case of each NIfTI file.

A name says which case a mask belongs to, not that a file is a mask: a file among the masks that
holds an image is a series of its case.
"""

from __future__ import annotations

import re
from pathlib import Path

from voco_data.cohort import MaskLabels, OddFile
from voco_data.layouts.table import IndexTable
from voco_data.nifti import count_slices, holds_unscaled_bytes, is_label_map
from voco_data.reasons import Reason
from voco_data.storage import escape_undecodable

UNUSED_STRUCTURE = "a mask of a structure that does not determine the box of the abdomen"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS cases (
    series INTEGER PRIMARY KEY, root TEXT, name TEXT
);
CREATE TABLE IF NOT EXISTS case_masks (
    file INTEGER PRIMARY KEY, path TEXT, root TEXT, name TEXT, image TEXT, labels TEXT
);
"""


class NiftiCases:
    """Collects images and masks by case; `finish` offers the masks, and names the patients."""

    def __init__(self, base: Path, table: IndexTable) -> None:
        self._base = base
        self._table = table
        self._sql = table.connection
        for statement in _SCHEMA.split(";"):
            self._sql.execute(statement)
        self.n_images = 0

    def add_image(self, file: int, path: str, *, root: str, case: str) -> None:
        """Add an image of a case of the data set at `root`."""
        if is_empty(self._base / path):
            self._table.add_odd_file(OddFile(path, Reason.NOT_MEDICAL, "an empty file"))
            return
        series = self._table.add_series("nifti", patient=case, uid=nifti_stem(path))
        self._table.add_slice(file, series, frames=count_slices(self._base / path))
        self._sql.execute(
            "INSERT INTO cases VALUES (?, ?, ?)",
            (series, escape_undecodable(root), escape_undecodable(case)),
        )
        self.n_images += 1

    def add_mask(
        self,
        file: int,
        path: str,
        *,
        root: str,
        case: str,
        image: str = "",
        labels: MaskLabels = "unknown",
    ) -> None:
        """Add a file among the masks: of the image with this id, or of all images of the case."""
        if is_label_map(self._base / path) is False:
            self.add_image(file, path, root=root, case=case)
            return
        self._sql.execute(
            "INSERT INTO case_masks VALUES (?, ?, ?, ?, ?, ?)",
            (
                file,
                escape_undecodable(path),
                escape_undecodable(root),
                escape_undecodable(case),
                escape_undecodable(image),
                labels,
            ),
        )

    def add_unused_mask(self, file: int, path: str, *, root: str, case: str) -> None:
        """List a mask that is offered to no series; a file that holds an image is one of the case.

        There are a hundred such masks in a case, so the header of most decides: unscaled voxels of
        8 bits are no HU. Of the others the voxels are read, up to the first planes that decide.
        """
        full = self._base / path
        if not holds_unscaled_bytes(full) and is_label_map(full) is False:
            self.add_image(file, path, root=root, case=case)
            return
        self._table.add_odd_file(OddFile(path, Reason.MASK, UNUSED_STRUCTURE))

    def add_other_channel(self, path: str) -> None:
        """List an image that is no CT."""
        detail = "dataset.json does not call this channel CT"
        self._table.add_odd_file(OddFile(path, Reason.NOT_CT, detail))

    def add_other(self, path: str, title: str) -> None:
        """List a file that is neither image nor mask."""
        self._table.add_odd_file(OddFile(path, Reason.NOT_MEDICAL, f"not an image of {title}"))

    def finish(self) -> None:
        """Name the patients, and offer the masks to the series of their cases."""
        sql = self._sql
        # One name in two data sets is two patients.
        sql.execute(
            "UPDATE series SET patient ="
            " (SELECT root || name FROM cases WHERE cases.series = series.id)"
            " WHERE id IN (SELECT series FROM cases WHERE name IN"
            " (SELECT name FROM cases GROUP BY name HAVING COUNT(DISTINCT root) > 1))"
        )
        sql.execute("CREATE INDEX IF NOT EXISTS cases_name ON cases (name, root)")
        for file, path, root, name, image, labels in sql.execute(
            "SELECT * FROM case_masks ORDER BY path"
        ):
            matches = [
                series
                for series, uid in sql.execute(
                    "SELECT series, uid FROM cases JOIN series ON series.id = cases.series"
                    " WHERE name = ? AND root = ? ORDER BY series",
                    (name, root),
                )
                if not image or uid == image
            ]
            for series in matches:
                self._table.add_mask(series, file, "nifti", labels)
            self._table.add_mask_row(path, len(matches))
        self._table.set_file_ranges()


def is_empty(path: Path) -> bool:
    """Whether a file has no bytes; False if its size cannot be read."""
    try:
        return path.stat().st_size == 0
    except OSError:  # its reader gives the reason
        return False


def nifti_stem(path: str) -> str:
    """A path without the ending of NIfTI."""
    return re.sub(r"\.nii(\.gz)?$", "", path, flags=re.IGNORECASE)
