"""What a forget is about to remove, kept in the private folder until all of it is gone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import xxhash

from voco_data.deidentification import pseudonyms
from voco_data.erasure.run_files import Traces
from voco_data.storage import atomic
from voco_data.storage.base import Storage

JOURNALS = "forgetting"
"""Folder of the journals, inside the private folder."""


@dataclass(slots=True)
class Journal:
    """Everything that a patient left under a root."""

    ids: list[str]
    """The patient's ids: those that stores and ledgers hold, and the archive's own."""
    traces: Traces = field(default_factory=Traces)
    stores: dict[str, int] = field(default_factory=dict)
    """Store to series of the patient."""
    runs: dict[str, int] = field(default_factory=dict)
    """Run id to rows of its ledger."""
    pairs: list[list[str]] = field(default_factory=list)
    """(kind, pseudonym) of the private map."""
    known: bool = False
    """Whether the patient was found by its id, not only in the names of files."""

    def to_json(self) -> bytes:
        """The journal as it is kept."""
        return json.dumps(asdict(self), indent=2).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Journal:
        """As `to_json` gave it."""
        data = json.loads(text)
        return cls(**data | {"traces": Traces(**data["traces"])})

    def add(self, other: Journal) -> None:
        """Take up what an interrupted forget of the same patient had found."""
        self.known |= other.known
        self.ids = sorted({*self.ids, *other.ids})
        self.traces.add(other.traces)
        self.stores = _larger(self.stores, other.stores)
        self.runs = _larger(self.runs, other.runs)
        self.pairs = [list(pair) for pair in sorted({(k, p) for k, p in self.pairs + other.pairs})]


def _larger(ours: Mapping[str, int], theirs: Mapping[str, int]) -> dict[str, int]:
    names = sorted({*ours, *theirs})
    return {name: max(ours.get(name, 0), theirs.get(name, 0)) for name in names}


def journals(home: Storage) -> list[tuple[Path, Journal]]:
    """Those of forgets that did not end."""
    folder = pseudonyms.folder_of(home) / JOURNALS
    files = sorted(folder.glob("*.json"))
    return [(path, Journal.from_json(path.read_bytes())) for path in files]


def write_journal(home: Storage, journal: Journal) -> None:
    """Keep a journal, readable by its owner only."""
    private = pseudonyms.folder_of(home)
    for folder in (private, private / JOURNALS):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    atomic.write_bytes(private / JOURNALS / _file_of(journal), journal.to_json(), mode=0o600)


def _file_of(journal: Journal) -> str:
    """Ids never become names of files."""
    return f"{xxhash.xxh3_128_hexdigest(json.dumps(journal.ids).encode())}.json"
