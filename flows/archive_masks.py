"""The masks of an archive, which stages take as data: they know nothing of archives."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from voco_data import ingest

if TYPE_CHECKING:
    from voco_data.store import MaskReader


def open_masks(
    archive: Path | None, store: str | Path, layout: str | None = None
) -> MaskReader | None:
    """What reads the masks of `archive` again for the rows of `store`; None without an archive."""
    if archive is None:
        return None
    options = ingest.IngestOptions() if layout is None else ingest.IngestOptions(layout=layout)
    return ingest.ArchiveMasks(archive, store, options)
