"""What a layout is: how it recognises an archive, and how it indexes one.

A module that defines a `Layout` imports only light modules at its top: the command line lists all
layouts, and must start at once. What is heavy is imported where an archive is indexed.
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
"""Adds series, slices, masks and odd files to the table, and then calls `table.locate`.

Takes the folder of the archive, a table that holds all its files, and what to call once a file.
Returns the name that records keep. Raises InputError if the archive is not of this layout.
"""


def _nothing(_path: str) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Layout:
    """One way in which an archive may be laid out. Paths are relative to the archive."""

    name: str
    """What `--layout` takes."""
    title: str
    """What messages call it."""
    index: IndexFunction
    signs: tuple[Callable[[str], bool], ...] = ()
    """Each must be true of some file's path for the layout to be recognised.

    A layout without signs is never recognised: it must be named.
    """
    top_files: tuple[str, ...] = ()
    """Files at the top of the archive that count as signs even if the filters drop them."""
    is_known: Callable[[str], bool] = _nothing
    """Whether a path is named as this layout names its own files.

    A file that is neither known nor a companion keeps the layout from being recognised: an
    archive is public only if all of it is.
    """
    public_ids: bool = False
    """Whether the ids of this layout are public and kept; all others become pseudonyms."""


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


def is_companion(path: str) -> bool:
    """Whether a file is no image by its name: a table, a text, a hidden file."""
    name = path.rpartition("/")[2].lower()
    return name.startswith(".") or name in COMPANION_NAMES or name.endswith(COMPANION_SUFFIXES)
