"""Files beside the images of a public archive: which do no harm, and what may be said of them."""

from __future__ import annotations

from collections.abc import Callable

from voco_data.layouts.table import IndexTable

COMPANIONS = (
    *(".csv", ".tsv", ".txt", ".md", ".json", ".pdf", ".xlsx", ".parquet", ".yaml", ".yml"),
    *(".html", ".py", ".ipynb", ".sh", ".ini", ".log", ".xml", ".lock", ".db"),
    *(".zip", ".7z", ".tar", ".tgz", ".tar.gz", ".md5", ".sha256"),
)
"""Endings of files that are no image, whoever put them there."""

NAMES = frozenset({"license", "readme", "md5sums", "sha256sums"})

_TOLD = (*COMPANIONS, ".dcm", ".dicom", ".ima", ".nii.gz", ".nii", ".nrrd")
"""Endings that say nothing of anybody."""


def is_companion(path: str) -> bool:
    """Whether the name is that of no image: a table, a text, a hidden file."""
    name = path.rpartition("/")[2].lower()
    return name.startswith(".") or name in NAMES or name.endswith(COMPANIONS)


def hide_names(table: IndexTable, is_known: Callable[[str], bool]) -> None:
    """Rename files that belong to no series and are not named as the layout names its own.

    Ids of a public layout are not hidden, but another file may be named after a person. It
    becomes `(another file 1).dcm`, counted in the order of the paths.
    """
    count = 0
    update = table.connection.cursor()
    # Sorted without an index, so all rows are read before the first is changed.
    for row, path in table.connection.execute("SELECT rowid, path FROM odd ORDER BY path, rowid"):
        if not is_known(path):
            count += 1
            ending = next((end for end in _TOLD if path.lower().endswith(end)), "")
            update.execute(
                "UPDATE odd SET path = ? WHERE rowid = ?", (f"(another file {count}){ending}", row)
            )
