"""From a folder or file to a cohort: recognise the layout, then index by it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from voco_data.cohort import ArchiveFile, Cohort, OddFile
from voco_data.dicom.dicomdir import is_directory, referenced_files
from voco_data.errors import InputError
from voco_data.layouts import flare, plain, ratic
from voco_data.layouts.companions import hide_names, is_companion
from voco_data.layouts.progress import Bar
from voco_data.layouts.table import SCHEMA, IndexTable
from voco_data.layouts.walk import look_at_file, walk, wanted
from voco_data.reasons import Reason
from voco_data.storage.scratch_db import scratch_tables

log = logging.getLogger(__name__)

LAYOUTS = ("auto", "ratic", "flare", "dicom", "nifti")


@contextmanager
def index(
    source: Path,
    *,
    layout: str = "auto",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    progress: bool = False,
) -> Iterator[Cohort]:
    """Index the archive at `source`: a folder, one file, or a DICOMDIR with the files it lists.

    The index lies in a temporary file that is gone afterwards; nothing else is written. `auto`
    recognises RATIC and FLARE23 by their markers, if no other image lies among them; any other
    tree may mix DICOM and NIfTI, and its ids are not public.
    Raises InputError if there is nothing to read, or not the layout that was asked for.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    if not source.exists():
        raise InputError(f"{source}: no such file or folder; give the folder of the CT archive")
    began = time.monotonic()
    base = source.parent if source.is_file() else source
    with scratch_tables(SCHEMA) as connection:
        table = IndexTable(connection)
        with Bar("find", shown=progress) as bar:
            seen = _find(source, table, include, exclude, bar)
        if not table.n_files:
            filters = " that the filters let through" if include or exclude else ""
            raise InputError(
                f"{source}: holds no files{filters}; give the folder of the CT archive"
            )
        with Bar("index", total=table.n_files, shown=progress) as bar:
            name, public = _index(base, table, layout, seen, bar)
        cohort = Cohort(base, name, connection, public_ids=public)
        seconds = time.monotonic() - began
        log.info(
            "index: %d files, %d series, %.1f s, %.0f files/s",
            table.n_files,
            len(cohort),
            seconds,
            table.n_files / max(seconds, 1e-9),
        )
        yield cohort


@dataclass(slots=True)
class _Seen:
    """What tells a layout."""

    ratic_table: bool = False
    ratic_slice: bool = False
    flare_image: bool = False
    ratic_only: bool = True
    """Nothing but RATIC's files, and what is no image by its name."""
    flare_only: bool = True

    def look(self, path: str) -> None:
        self.ratic_table = self.ratic_table or ratic.is_marker(path)
        self.ratic_slice = self.ratic_slice or ratic.is_slice(path)
        self.flare_image = self.flare_image or flare.is_image(path)
        if not is_companion(path):
            self.ratic_only = self.ratic_only and ratic.is_known(path)
            self.flare_only = self.flare_only and flare.is_known(path)

    @property
    def ratic(self) -> bool:
        return self.ratic_table and self.ratic_slice

    @property
    def layout(self) -> str:
        """`ratic`, `flare` or `auto`: a stranger's scan among public ones hides all ids."""
        if self.ratic and self.ratic_only:
            return "ratic"
        if self.flare_image and self.flare_only:
            return "flare"
        if self.ratic or self.flare_image:
            log.warning(
                "index: other files lie among those of %s: it is read as any archive, and all ids"
                " are hidden. If all of it is public, give --layout",
                "RATIC" if self.ratic else "FLARE23",
            )
        return "auto"


def _find(
    source: Path, table: IndexTable, include: Sequence[str], exclude: Sequence[str], bar: Bar
) -> _Seen:
    seen = _Seen()
    for item in _items(source, table, include, exclude):
        bar.update()
        if isinstance(item, OddFile):
            table.add_odd(item)
        else:
            seen.look(item.path)
            table.add_file(item)
    if source.is_file():
        table.drop_repeats()
    seen.ratic_table = seen.ratic_table or (source / ratic.MARKER).is_file()
    return seen


def _items(
    source: Path, table: IndexTable, include: Sequence[str], exclude: Sequence[str]
) -> Iterator[ArchiveFile | OddFile]:
    if not source.is_file():
        yield from walk(source, table, include=include, exclude=exclude)
        return
    try:
        stat = source.stat()
        with source.open("rb") as file:
            start = file.read(1024)
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror}); check the path") from error
    yield ArchiveFile(source.name, stat.st_size, stat.st_mtime_ns)
    if is_directory(start):
        yield from (f for f in _listed(source) if wanted(f.path, include, exclude))


def _listed(directory: Path) -> Iterator[ArchiveFile | OddFile]:
    """The files that a DICOMDIR refers to, inside its folder; what lies outside is refused."""
    top = os.path.realpath(directory.parent)
    for parts in referenced_files(directory):
        path = "/".join(parts)
        if any(_leads_away(part) for part in parts):
            detail = "the DICOMDIR refers to a place outside its folder; not read"
            yield OddFile(path, Reason.UNREADABLE, detail)
            continue
        # Discs are upper case; a file system may have made them lower case.
        names = (path, path.lower())
        found = next((name for name in names if os.path.lexists(f"{top}/{name}")), None)
        if found is None:
            yield OddFile(path, Reason.UNREADABLE, "the DICOMDIR lists it, and it is not there")
        else:
            yield look_at_file(found, top)


def _leads_away(part: str) -> bool:
    return part in ("", ".", "..") or "/" in part or "\0" in part


def _index(base: Path, table: IndexTable, layout: str, seen: _Seen, bar: Bar) -> tuple[str, bool]:
    """Name of the layout, and whether its ids are public."""
    layout = seen.layout if layout == "auto" else layout
    if layout == "ratic":
        name, public = ratic.index(base, table, bar), True
        table.locate()
        hide_names(table, ratic.is_known)
    elif layout == "flare":
        name, public = flare.index(base, table, bar), True
        table.locate()
        hide_names(table, flare.is_known)
    else:
        kinds = {"dicom", "nifti"} if layout == "auto" else {layout}
        name, public = plain.index(base, table, kinds=kinds, bar=bar), False
    table.seal()
    return name, public
