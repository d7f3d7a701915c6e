"""Rows of stacks that a series had before it grew or moved, and that its new stacks replace.

The id of a stack depends on the other stacks of its series UID, and the patient of a NIfTI file on
the files beside it. So a file that is added can change the identity of a series that is stored. If
SOURCE still holds the series UID (within its patient and study; for NIfTI the path), a row of it
that came from this archive alone, and whose identity SOURCE no longer has, is that of a former
stack. It is removed once the new rows are in the catalogue.

It stays if no new stack could be stored, if one was refused and fewer are stored than there were,
and if a damaged file lies where its files were.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter

from voco_data.ingest.archives import Archives
from voco_data.ingest.cohort_keys import CohortKeys
from voco_data.ingest.damaged_files import DamagedFiles
from voco_data.ingest.other_archives import OtherArchives
from voco_data.storage import Storage, store_names
from voco_data.store import StoreWriter

log = logging.getLogger(__name__)

IsStored = Callable[[int, StoreWriter], bool]
"""Whether a store has a series of the cohort, by number, with the contents that it has now."""


class FormerStacks:
    """Finds the rows of former stacks, and removes them."""

    def __init__(
        self,
        archives: Archives,
        archive: str,
        keys: CohortKeys,
        stores: Sequence[StoreWriter],
        others: OtherArchives,
        damaged: DamagedFiles,
        is_stored: IsStored,
    ) -> None:
        """`keys` excludes the series of which another archive has the row."""
        self._archives = archives
        self._archive = archive
        self._keys = keys
        self._stores = stores
        self._others = others
        self._damaged = damaged
        self._is_stored = is_stored
        self.removed: set[str] = set()
        """Keys whose rows were removed."""
        self.refused_with_volume: set[int] = set()
        """Numbers of refused series of which the rows of former stacks stay."""

    def replace(self, root: Storage) -> None:
        """Remove the rows of former stacks, and then their keys from the table of archives.

        Where the root has a store that is not open, the keys stay: a run over that store needs
        them.
        """
        n_held = self._archives.count(self._archive)
        if n_held <= self._keys.n_keys - self._keys.n_elsewhere:
            return  # SOURCE has all that it ever had
        entries = self._archives.by_uid_key(self._archive)
        for uid_key, group in groupby(entries, key=itemgetter(0)):
            absent = {key: since for _, key, since in group if key not in self._keys}
            if absent and (numbers := self._keys.numbers_of_uid(uid_key)):
                for store in self._stores:
                    self._replace_in(store, absent, numbers)
        if not self.removed:
            return
        for store in self._stores:
            store.compact()
        is_one = len(self.removed) == 1
        rows = "row of a former stack was" if is_one else "rows of former stacks were"
        log.info("%d %s removed", len(self.removed), rows)
        if {store.storage.name for store in self._stores} >= set(store_names(root)):
            self._archives.remove(self._archive, self.removed)

    def _replace_in(
        self, store: StoreWriter, absent: Mapping[str, int], numbers: Sequence[int]
    ) -> None:
        """Remove the rows of `absent` keys (to since) of a store, if the series `numbers` may."""
        rows = {row: key for key in absent if (row := self._removable_row(store, key)) is not None}
        if not rows:
            return
        stored = {number for number in numbers if self._is_stored(number, store)}
        first = min(absent[key] for key in rows.values())
        new = {number for number in numbers if self._since(number) > first}
        if stored and (new <= stored or len(new & stored) >= len(rows)):
            store.remove_rows(rows, rows.values())
            self.removed.update(rows.values())
        else:
            self.refused_with_volume.update(set(numbers) - stored)

    def _since(self, number: int) -> int:
        return self._archives.since(self._archive, self._keys.key_of(number))

    def _removable_row(self, store: StoreWriter, key: str) -> int | None:
        """The row of a series in a store, unless another archive or a damaged file keeps it."""
        row = store.find_row(key)
        if row is None or any(map(self._others.exists, self._others.holders(key))):
            return None
        line = store.index.line_of_row(row)
        return None if line is None or self._damaged.are_in(line["source"]) else row
