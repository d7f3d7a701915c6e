"""The other archives of a root, as far as this machine can see them.

An archive whose path is unknown, or on another machine, counts as one that exists: nothing shows
that it was moved. An archive of whose path nothing is left was moved, or removed.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from voco_data.deidentification import pseudonyms
from voco_data.ingest.archives import Archives
from voco_data.storage import ReadableStorage


class OtherArchives:
    """Answers about the archives of a root that are not that of this run."""

    def __init__(self, archives: Archives, archive: str, source: Path, root: ReadableStorage):
        self._archives = archives
        self._archive = archive
        self._source = source.resolve()
        self._root = root

    @property
    def any(self) -> bool:
        """Whether the root has another archive, or this one under another path."""
        return any(archive != self._archive for archive in self._archives.ids())

    @cached_property
    def aliases(self) -> frozenset[str]:
        """Archives whose path leads to this one by now, as a link at its former path does."""
        return frozenset(
            archive
            for archive, path in self._paths.items()
            if path is not None and _resolves_to(path, self._source)
        )

    def holders(self, key: str) -> list[str]:
        """The other archives that have held a series, whether or not they still exist."""
        return [
            archive
            for archive in self._archives.holders(key)
            if archive != self._archive and archive not in self.aliases
        ]

    def exists(self, archive: str) -> bool:
        """Whether there is something at the path of an archive, as far as it can be told."""
        path = self._paths.get(archive)
        return path is None or os.path.lexists(path)

    def has_files(self, archive: str, paths: Iterable[str], own_path: str) -> bool:
        """Whether an archive has files of its own at one of these paths, as far as can be told.

        The paths are relative to it, and none is given if they are unknown. Files that are those
        of SOURCE at `own_path`, of which the archive is a folder above or below, are not its own.
        """
        place = self._paths.get(archive)
        if place is None:
            return True
        if not os.path.lexists(place):
            return False
        folder = place.parent if place.is_file() else place
        own_folder = self._source.parent if self._source.is_file() else self._source
        found = [folder / path for path in paths]
        if not found:
            return not (folder.is_relative_to(own_folder) or own_folder.is_relative_to(folder))
        own = (own_folder / own_path).resolve()
        return any(
            os.path.lexists(path)
            and not (path.resolve().is_relative_to(own) or own.is_relative_to(path.resolve()))
            for path in found
        )

    @cached_property
    def _paths(self) -> dict[str, Path | None]:
        """Where each other archive was; None if this is unknown, or not on this machine."""
        places = {
            archive: self._archives.place_of(archive)
            for archive in self._archives.ids()
            if archive != self._archive
        }
        if not all(places.values()):
            for kind, pseudonym, original in pseudonyms.read_map(self._root):
                if kind == "archive" and pseudonym in places:
                    places[pseudonym] = original
        return {archive: self._path(place) for archive, place in places.items()}

    def _path(self, place: str) -> Path | None:
        if self._root.local_folder() is None:
            host, _, place = place.partition(":")
            if host != socket.gethostname():
                return None
        return Path(place) if place else None


def _resolves_to(path: Path, source: Path) -> bool:
    try:
        return path.resolve() == source
    except (OSError, RuntimeError):  # a loop of links leads nowhere
        return False
