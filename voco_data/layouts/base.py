"""What a layout is: how it recognises an archive, and how it indexes one.

A module that defines a `Layout` imports only light modules at its top, because the command line
lists all layouts and must start quickly. Heavy modules are imported when an archive is indexed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from voco_data.layouts.table import IndexTable

Advance: TypeAlias = Callable[[], None]
"""Counts one file on the progress bar."""

IndexFunction: TypeAlias = "Callable[[Path, IndexTable, Advance], str]"
"""Adds series, slices, masks and odd files to the table, and then calls `table.set_file_ranges`.

Takes the folder of the archive, a table with all its files, and a function to call for each file.
Returns the name of the layout for records. Raises InputError if the archive is not of this layout.
"""


def _no_file(_path: str) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Layout:
    """One way in which an archive may be laid out. Paths are relative to the archive."""

    name: str
    """The value of `--layout`."""
    title: str
    """The name in messages."""
    index: IndexFunction
    signs: tuple[Callable[[str], bool], ...] = ()
    """Predicates of a path. Each must be true of a file for the layout to be recognised.

    A layout without signs is used only if `--layout` names it.
    """
    top_files: tuple[str, ...] = ()
    """Files at the top of the archive that count for `signs` even if the filters drop them."""
    is_own_file: Callable[[str], bool] = _no_file
    """Whether a path has the form of this layout's own files.

    The layout is not recognised if another file is no companion: an archive is public only if
    all of it is.
    """
    public_ids: bool = False
    """Whether ids are public, and kept. Ids of other layouts become pseudonyms."""


COMPANION_SUFFIXES = (
    ".csv",
    ".tsv",
    ".txt",
    ".md",
    ".json",
    ".pdf",
    ".xlsx",
    ".parquet",
    ".yaml",
    ".yml",
    ".html",
    ".py",
    ".ipynb",
    ".sh",
    ".ini",
    ".log",
    ".xml",
    ".lock",
    ".db",
    ".zip",
    ".7z",
    ".tar",
    ".tgz",
    ".tar.gz",
    ".md5",
    ".sha256",
)
"""Suffixes of files that are no images, in any layout."""

COMPANION_NAMES = frozenset({"license", "readme", "md5sums", "sha256sums"})


def is_hidden(path: str) -> bool:
    """Whether a file lies in a hidden folder (`.git`, `__MACOSX`), or is a resource fork of macOS.

    A fork `._x.nii.gz` has the suffix of the file that it belongs to, and its bytes are others. The
    objects of git-annex are the files of the archive once more.
    """
    *folders, name = path.split("/")
    return name.startswith("._") or any(
        folder.startswith(".") or folder == "__MACOSX" for folder in folders
    )


def is_companion(path: str) -> bool:
    """Whether a file is no image by its name: a table, a text, a hidden file."""
    if is_hidden(path):
        return True
    name = path.rpartition("/")[2].lower()
    return name.startswith(".") or name in COMPANION_NAMES or name.endswith(COMPANION_SUFFIXES)
