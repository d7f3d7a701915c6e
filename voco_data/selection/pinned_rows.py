"""The rows of stores that a retraining learns from, written down when it begins.

A store may grow before a stopped retraining goes on. With its pinned rows it goes on with the same
series. The file is plain JSON, without ids of patients:

    {"format": "voco rows", "version": 1, "stores": {<name of the store>: {<row>: <digest>}}}

The digest is of the patient's id, the series and its input digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from voco_data.errors import InputError
from voco_data.storage import atomic
from voco_data.store import Store

FORMAT, VERSION = "voco rows", 1


@dataclass(frozen=True, slots=True)
class PinnedRows:
    """Rows of stores with a digest of each series."""

    stores: Mapping[str, Mapping[int, str]]
    """Folder name of a store to row to digest."""

    @classmethod
    def of_stores(cls, stores: Sequence[Store]) -> PinnedRows:
        """All rows that the stores have now."""
        return cls({store.storage.name: _digests(store) for store in stores})

    @property
    def digest(self) -> str:
        """Of the stores and their series, whatever their rows: first 12 hex digits of a SHA-256."""
        series = {name: sorted(rows.values()) for name, rows in sorted(self.stores.items())}
        text = json.dumps(series, separators=(",", ":"))
        return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:12]

    def restrict(self, store: Store) -> Store:
        """The store with its pinned rows only.

        Raises InputError if the file names another store, and if a series is gone or has changed.
        """
        pinned = self.stores.get(store.storage.name, {})
        lost = len(pinned) - len(self.unchanged_rows(store))
        if lost:
            raise InputError(
                f"{store.storage}: {lost} of the {len(pinned)} series that were pinned are gone or "
                "have changed since; start another retraining"
            )
        return store.with_rows(pinned.keys())

    def unchanged_rows(self, store: Store) -> set[int]:
        """The pinned rows of a store that hold the same series now. InputError as `restrict`."""
        name = store.storage.name
        if name not in self.stores:
            raise InputError(
                f"{store.storage}: expected one of the pinned stores {', '.join(self.stores)}"
            )
        now = _digests(store)
        return {row for row, digest in self.stores[name].items() if now.get(row) == digest}

    def write(self, path: Path) -> None:
        """Write the file, atomically. OSError if it cannot be written."""
        values = {"format": FORMAT, "version": VERSION, "stores": self.stores}
        atomic.write_text(path, json.dumps(values) + "\n")

    @classmethod
    def read(cls, path: Path) -> PinnedRows:
        """Read a file of `write`. Raises InputError if it is none."""
        try:
            data = json.loads(path.read_text())
            if (data["format"], data["version"]) != (FORMAT, VERSION):
                raise ValueError("another format or version")
            stores = {
                str(name): {int(row): str(digest) for row, digest in rows.items()}
                for name, rows in data["stores"].items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path}: expected the pinned rows of a retraining; restore the file, or start "
                "another retraining"
            ) from error
        return cls(stores)


def _digests(store: Store) -> dict[int, str]:
    """Row to the digest of its series."""
    table = store.catalogue
    columns = (table[name].tolist() for name in ("row", "patient_id", "series_uid", "input_digest"))
    digests: dict[int, str] = {}
    for row, *identity in zip(*columns, strict=True):
        text = "\0".join(map(str, identity))
        digest = hashlib.sha256(text.encode(errors="surrogateescape"))
        digests[int(row)] = digest.hexdigest()[:16]
    return digests


def open_pinned(store: str | Path | Store, rows: Path) -> Store:
    """Open a store with the rows that the file `rows` names. InputError as `PinnedRows`."""
    opened = store if isinstance(store, Store) else Store.open(store)
    return PinnedRows.read(rows).restrict(opened)
