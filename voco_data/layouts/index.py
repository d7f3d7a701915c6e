"""From a folder or file to a cohort: find the files, recognise the layout, index by that layout."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from tqdm import tqdm

from voco_data.cohort import ArchiveFile, Cohort, OddFile
from voco_data.errors import InputError
from voco_data.layouts import registry
from voco_data.layouts.base import COMPANION_SUFFIXES, Layout, is_companion, is_hidden
from voco_data.layouts.dicomdir_files import (
    MISSING,
    listed_files,
    missing_slices,
    opens_as_dicomdir,
)
from voco_data.layouts.table import SCHEMA, IndexTable
from voco_data.layouts.walk import is_selected, walk
from voco_data.reasons import Reason
from voco_data.storage import scratch_tables

log = logging.getLogger(__name__)

_SHOWN_SUFFIXES = (*COMPANION_SUFFIXES, ".dcm", ".dicom", ".ima", ".nii.gz", ".nii", ".nrrd")
"""Suffixes that cannot name a person: hidden names keep them."""


@contextmanager
def index_archive(
    source: Path,
    *,
    layout: str = registry.AUTO,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    progress: bool = False,
) -> Iterator[Cohort]:
    """Index the archive at `source`: a folder, one file, or a DICOMDIR with the files it lists.

    The index is a temporary file that is removed at the end of the block; nothing else is written.
    `auto` takes the first layout of `voco_data.layouts.registry` that recognises the archive. An
    archive that none recognises may mix DICOM and NIfTI, and its ids are not public.

    Raises InputError if there is nothing to read, or if the archive is not of the given layout.
    """
    chosen = None if layout == registry.AUTO else registry.find_layout(layout)
    if not source.exists():
        raise InputError(f"{source}: no such file or folder; give the folder of the CT archive")
    began = time.monotonic()
    base = source.parent if source.is_file() else source
    with scratch_tables(SCHEMA) as connection:
        table = IndexTable(connection)
        detector = LayoutDetector(registry.LAYOUTS)
        with _ProgressBar("find", shown=progress) as bar:
            _find_files(source, table, include, exclude, detector, bar)
        if not table.n_files:
            filters = " that the filters let through" if include or exclude else ""
            raise InputError(
                f"{source}: holds no files{filters}; give the folder of the CT archive"
            )
        if chosen is None:
            chosen = detector.detect()
        with _ProgressBar("index", total=table.n_files, shown=progress) as bar:
            name = chosen.index(base, table, bar.update)
        if chosen.public_ids:
            _hide_unknown_names(table, chosen)
        table.add_stat_digests()
        cohort = Cohort(base, name, connection, public_ids=chosen.public_ids)
        seconds = time.monotonic() - began
        log.info(
            "index: %d files, %d series, %.1f s, %.0f files/s",
            table.n_files,
            len(cohort),
            seconds,
            table.n_files / max(seconds, 1e-9),
        )
        yield cohort


class LayoutDetector:
    """Recognises the layout of an archive from the paths of its files."""

    def __init__(self, layouts: Sequence[Layout]) -> None:
        self._layouts = [layout for layout in layouts if layout.signs]
        self._missing_signs = {layout.name: list(layout.signs) for layout in self._layouts}
        self._with_foreign_images: set[str] = set()
        """Names of layouts that have no such image as one of the archive."""

    def add(self, path: str) -> None:
        """Take the path of one file into account."""
        may_be_image = not is_companion(path)
        for layout in self._layouts:
            missing = self._missing_signs[layout.name]
            if missing:
                missing[:] = [is_sign for is_sign in missing if not is_sign(path)]
            if (
                may_be_image
                and layout.name not in self._with_foreign_images
                and not layout.is_own_file(path)
            ):
                self._with_foreign_images.add(layout.name)

    def add_top_files(self, source: Path) -> None:
        """Take the files at the top into account, even if the filters drop them."""
        for layout in self._layouts:
            for path in layout.top_files:
                if (source / path).is_file():
                    missing = self._missing_signs[layout.name]
                    missing[:] = [is_sign for is_sign in missing if not is_sign(path)]

    def detect(self) -> Layout:
        """The first layout whose signs were all found, and which every image belongs to.

        If there are other images among those of a public layout, all ids must be hidden: the
        result is `registry.FALLBACK`.
        """
        candidates = [layout for layout in self._layouts if not self._missing_signs[layout.name]]
        for layout in candidates:
            if layout.name not in self._with_foreign_images:
                return layout
        candidates = [layout for layout in candidates if layout.public_ids]
        if candidates:
            log.warning(
                "index: other files lie among those of %s: it is read as any archive, and all ids"
                " are hidden. If all of it is public, give --layout",
                candidates[0].title,
            )
        return registry.FALLBACK


def _find_files(
    source: Path,
    table: IndexTable,
    include: Sequence[str],
    exclude: Sequence[str],
    detector: LayoutDetector,
    bar: _ProgressBar,
) -> None:
    """Add all files of the archive to the table, and pass their paths to `detector`."""
    for item in _iterate_files(source, table, include, exclude):
        bar.update()
        if isinstance(item, OddFile):
            table.add_odd_file(item)
            if item.is_lost:
                table.add_lost_file(item.path)
        else:
            detector.add(item.path)
            table.add_file(item)
            if item.path.rpartition("/")[2].lower() == "dicomdir" and not is_hidden(item.path):
                _add_missing_slices(source, item.path, table, include, exclude)
    if source.is_file():
        table.drop_repeated_files()
    detector.add_top_files(source)


def _add_missing_slices(
    source: Path,
    directory: str,
    table: IndexTable,
    include: Sequence[str],
    exclude: Sequence[str],
) -> None:
    """Add the slices that a DICOMDIR of the archive lists and that are not there.

    If the DICOMDIR is the source, they are odd files already.
    """
    path = source if source.is_file() else source / directory
    folder = directory.rpartition("/")[0]
    try:
        if not opens_as_dicomdir(path):
            return
        for name, item in missing_slices(path):
            missing = f"{folder}/{name}" if folder else name
            if is_selected(missing, include, exclude):
                if not source.is_file():
                    table.add_odd_file(OddFile(missing, Reason.IO_ERROR, MISSING))
                table.add_lost_file(missing, item.study_uid, item.series_uid)
    except (InputError, OSError):
        # It is a row of the ledger, and its files are indexed without it.
        log.warning("index: a DICOMDIR does not read; whether files are missing is not known")


def _iterate_files(
    source: Path, table: IndexTable, include: Sequence[str], exclude: Sequence[str]
) -> Iterator[ArchiveFile | OddFile]:
    """Iterate over the files below a folder; or one file, and those that it lists as a DICOMDIR."""
    if not source.is_file():
        yield from walk(source, table, include=include, exclude=exclude)
        return
    try:
        stat = source.stat()
        is_directory = opens_as_dicomdir(source)
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror}); check the path") from error
    yield ArchiveFile(source.name, stat.st_size, stat.st_mtime_ns)
    if is_directory:
        for listed in listed_files(source):
            if is_selected(listed.path, include, exclude):
                yield listed


def _hide_unknown_names(table: IndexTable, layout: Layout) -> None:
    """Rename the odd files that are not named as the layout names its own.

    The ids of a public layout are kept, but another file may be named after a person. It becomes
    `(another file 1).dcm`, counted in the order of the paths.
    """
    count = 0
    update = table.connection.cursor()
    # SQLite sorts these rows without an index, so it reads all of them before the first update.
    for row, path in table.connection.execute("SELECT rowid, path FROM odd ORDER BY path, rowid"):
        if layout.is_own_file(path):
            continue
        count += 1
        suffix = next((end for end in _SHOWN_SUFFIXES if path.lower().endswith(end)), "")
        update.execute(
            "UPDATE odd SET path = ? WHERE rowid = ?", (f"(another file {count}){suffix}", row)
        )


class _ProgressBar:
    """A count of files on stderr, from the first file on; without `shown`, nothing."""

    def __init__(self, name: str, *, total: int | None = None, shown: bool) -> None:
        self._name = name
        self._total = total
        self._shown = shown
        self._bar: tqdm[NoReturn] | None = None

    def update(self) -> None:
        """Count one file."""
        if not self._shown:
            return
        bar = self._bar
        if bar is None:
            bar = tqdm(total=self._total, unit="files", desc=self._name)
        bar.update()
        self._bar = bar

    def __enter__(self) -> Self:
        """Return the bar itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Keep the line, so that the next bar starts a new one; erase it before an error."""
        if self._bar is not None:
            self._bar.leave = error is None
            self._bar.close()
