"""Files of SOURCE that cannot be read and may be images, and the sources of rows that hold them.

What such a file was is unknown. So a row whose files lay where it lies is not gone, only damaged,
and stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from voco_data.cohort import OddFile
from voco_data.deidentification import Pseudonymiser, pseudonyms
from voco_data.ingest.named_cohort import NamedCohort, without_stack
from voco_data.reasons import Reason
from voco_data.storage import ReadableStorage, scratch_db

_IMAGE_SUFFIXES = (".dcm", ".dicom", ".ima", ".nii", ".nii.gz")
_FAULTS = frozenset({Reason.UNREADABLE, Reason.IO_ERROR})


class DamagedFiles:
    """Looks up whether a source holds a damaged file. `close` removes the temporary file."""

    def __init__(
        self, cohort: NamedCohort, root: ReadableStorage, pseudonymiser: Pseudonymiser | None
    ) -> None:
        self._cohort = cohort
        self._root = root
        self._pseudonymiser = pseudonymiser
        self._table = scratch_db.open_scratch_db(
            "CREATE TABLE paths (path TEXT PRIMARY KEY) WITHOUT ROWID;"
            "CREATE TABLE hidden (source TEXT PRIMARY KEY) WITHOUT ROWID;"
        )

    def close(self) -> None:
        """Remove the temporary file."""
        self._table.close()

    def are_in(self, source: str) -> bool:
        """Whether a damaged file lies at the source of a row, or in the folder that it names."""
        if not self._count:
            return False
        if self._pseudonymiser is None:
            return self._is_path(without_stack(source))
        return scratch_db.exists(self._table, "FROM hidden WHERE source = ?", (source,))

    @cached_property
    def _count(self) -> int:
        """The number of damaged files, whose paths and folders are in the table from now on."""
        count = 0
        for file in self._cohort.cohort.odd_files():
            if _may_be_image(file):
                count += 1
                self._table.executemany(
                    "INSERT OR IGNORE INTO paths VALUES (?)",
                    ((path,) for path in _with_folders(file.path)),
                )
        if count and self._pseudonymiser is not None:
            self._hide(self._pseudonymiser)
        return count

    def _hide(self, pseudonymiser: Pseudonymiser) -> None:
        """Add the pseudonyms of the paths, and those of sources with a stack, which the map has."""
        add = "INSERT OR IGNORE INTO hidden VALUES (?)"
        paths = self._table.execute("SELECT path FROM paths")
        self._table.executemany(add, ((pseudonymiser.code("source", path),) for (path,) in paths))
        for kind, pseudonym, original in pseudonyms.read_map(self._root):
            path = without_stack(original)
            if kind == "source" and path != original and self._is_path(path):
                self._table.execute(add, (pseudonym,))

    def _is_path(self, path: str) -> bool:
        return scratch_db.exists(self._table, "FROM paths WHERE path = ?", (path,))


def _with_folders(path: str) -> Iterator[str]:
    """A path, the folders above it, and `.` for the archive."""
    while path:
        yield path
        path = path.rpartition("/")[0]
    yield "."


def _may_be_image(file: OddFile) -> bool:
    """Whether an odd file may be an image whose bytes are damaged, such as an empty one."""
    if file.reason in _FAULTS:
        return True
    parts = file.path.lower().split("/")
    if file.reason != Reason.NOT_MEDICAL or any(
        part.startswith(".") or part == "__macosx" for part in parts
    ):
        return False
    name = parts[-1]
    ending = name.rpartition(".")[2]
    is_number = any(map(str.isdigit, name)) and (ending == name or ending.isdigit())
    return name.endswith(_IMAGE_SUFFIXES) or is_number
