"""The journal of an erasure: a file that lists what is removed, until all of it is removed.

Journals are in the private folder, because they name the patient.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import xxhash

from voco_data.deidentification import pseudonyms
from voco_data.errors import VocoError
from voco_data.storage import ReadableStorage, Storage, atomic

JOURNALS = "forgetting"
"""Folder of the journals, inside the private folder."""


@dataclass(slots=True)
class PatientTraces:
    """The series and files of a patient, and what runs have learnt of them. Sorted lists."""

    series: list[str] = field(default_factory=list)
    """Series ids."""
    sources: list[str] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    """Input digests."""
    keys: list[str] = field(default_factory=list)
    """Series keys, see `voco_data.store.record.series_key`."""
    remarks: list[list[str]] = field(default_factory=list)
    """(reason, detail) of series that were refused."""

    def add(self, other: PatientTraces) -> None:
        """Add the traces that were found elsewhere."""
        self.series = sorted({*self.series, *other.series})
        self.sources = sorted({*self.sources, *other.sources})
        self.digests = sorted({*self.digests, *other.digests})
        self.keys = sorted({*self.keys, *other.keys})
        remarks = {(reason, detail) for reason, detail in [*self.remarks, *other.remarks]}
        self.remarks = [list(remark) for remark in sorted(remarks)]


@dataclass(slots=True)
class Journal:
    """All data of a patient under a root. The fields are the keys of the file, as JSON."""

    ids: list[str]
    """The patient's ids: those in stores and ledgers, and the archive's own."""
    traces: PatientTraces = field(default_factory=PatientTraces)
    stores: dict[str, int] = field(default_factory=dict)
    """Store to series of the patient."""
    runs: dict[str, int] = field(default_factory=dict)
    """Run id to rows of its ledger."""
    pairs: list[list[str]] = field(default_factory=list)
    """(kind, pseudonym) of the private map."""
    known: bool = False
    """Whether the patient was found by its id, and not only in the names of files."""

    def to_json(self) -> bytes:
        """The journal as it is written."""
        return json.dumps(asdict(self), indent=2).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Journal:
        """Parse a journal that `to_json` made."""
        data = json.loads(text)
        return cls(**data | {"traces": PatientTraces(**data["traces"])})

    def add(self, other: Journal) -> None:
        """Add the journal of an interrupted erasure of the same patient."""
        self.known |= other.known
        self.ids = sorted({*self.ids, *other.ids})
        self.traces.add(other.traces)
        self.stores = _larger_counts(self.stores, other.stores)
        self.runs = _larger_counts(self.runs, other.runs)
        pairs = {(kind, pseudonym) for kind, pseudonym in self.pairs + other.pairs}
        self.pairs = [list(pair) for pair in sorted(pairs)]


def _larger_counts(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    """By name, the larger of two counts, so that what was removed before is still counted."""
    return {name: max(a.get(name, 0), b.get(name, 0)) for name in sorted({*a, *b})}


def read_journals(root: ReadableStorage) -> list[tuple[Path, Journal]]:
    """Read the journals of erasures that were interrupted, each with its file."""
    folder = pseudonyms.private_folder(root) / JOURNALS
    files = sorted(folder.glob("*.json"))
    return [(path, _read(path)) for path in files]


def _read(path: Path) -> Journal:
    try:
        return Journal.from_json(path.read_bytes())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise VocoError(
            f"{path}: the journal of an interrupted erasure is damaged ({type(error).__name__}); "
            "restore it from a copy, or remove it and forget the patient again"
        ) from error


def write_journal(root: Storage, journal: Journal) -> None:
    """Write a journal, readable by its owner only."""
    private = pseudonyms.private_folder(root)
    for folder in (private, private / JOURNALS):
        atomic.make_folders(folder, mode=0o700)
    atomic.write_bytes(private / JOURNALS / _file_name(journal), journal.to_json(), mode=0o600)


def _file_name(journal: Journal) -> str:
    """A hash of the ids: file names must not show them."""
    return f"{xxhash.xxh3_128_hexdigest(json.dumps(journal.ids).encode())}.json"
