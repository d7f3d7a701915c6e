"""What a run has learnt from, and how many test patients of a later run are among it.

RUN/patients.json lists patient ids as the stores have them, with the digests of their volumes:

    {"format": "voco patients", "version": 1,
     "stores": [{"root": <digest>, "patients": {<patient id>: [<content digest>, ...]}}]}

Ids can be compared if both stores belong to one root. That is known if the roots have one address,
or if a patient has the same id and an equal volume in both. Equal volumes are found in any case.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from voco_data.errors import InputError
from voco_data.selection.series import patients_digest
from voco_data.storage import ReadableStorage, atomic, parent_storage
from voco_data.store import Store

FILE = "patients.json"
FORMAT, VERSION = "voco patients", 1


@dataclass(frozen=True, slots=True)
class StorePatients:
    """Patients of one store, with their volumes."""

    root: str
    """Digest of the address of the root."""
    contents: Mapping[str, frozenset[str]]
    """Patient id to the content digests of the volumes."""


@dataclass(frozen=True, slots=True)
class SeenPatients:
    """The patients that a run has learnt from."""

    stores: tuple[StorePatients, ...]

    @classmethod
    def of_series(cls, stores: Sequence[Store], series: pd.DataFrame) -> SeenPatients:
        """The patients of `series`, a table of `list_series` of these stores."""
        parts = [
            StorePatients(
                _root_digest(store), contents_of_patients(series[series["store"] == position])
            )
            for position, store in enumerate(stores)
        ]
        return cls(tuple(part for part in parts if part.contents))

    def union(self, other: SeenPatients) -> SeenPatients:
        """The patients of both, root by root."""
        roots: dict[str, dict[str, frozenset[str]]] = {}
        for store in (*self.stores, *other.stores):
            merged = roots.setdefault(store.root, {})
            for patient, contents in store.contents.items():
                merged[patient] = merged.get(patient, frozenset()) | contents
        return SeenPatients(tuple(StorePatients(root, merged) for root, merged in roots.items()))

    def without(self, entries: Collection[tuple[int, str]]) -> SeenPatients:
        """Leave out patients, each as (position of the store, id)."""
        parts = [
            StorePatients(
                store.root,
                {p: held for p, held in store.contents.items() if (position, p) not in entries},
            )
            for position, store in enumerate(self.stores)
        ]
        return SeenPatients(tuple(part for part in parts if part.contents))

    @property
    def digest(self) -> str:
        """The `patients_digest` of all patients."""
        return patients_digest(patient for store in self.stores for patient in store.contents)

    def write(self, run: Path) -> None:
        """Write `RUN/patients.json`."""
        values = {
            "format": FORMAT,
            "version": VERSION,
            "stores": [
                {
                    "root": store.root,
                    "patients": {p: sorted(c) for p, c in sorted(store.contents.items())},
                }
                for store in self.stores
            ],
        }
        atomic.write_text(run / FILE, json.dumps(values, indent=1) + "\n")

    @staticmethod
    def is_written(run: Path) -> bool:
        """Whether the run has a file of patients."""
        return (run / FILE).exists()

    @classmethod
    def read(cls, run: Path) -> SeenPatients | None:
        """Read `RUN/patients.json`; None if there is none. Raises InputError if it is damaged."""
        try:
            data = json.loads((run / FILE).read_text())
            if (data["format"], data["version"]) != (FORMAT, VERSION):
                raise ValueError("another format or version")
            return cls(tuple(_store_patients(values) for values in data["stores"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{run / FILE}: expected a file of a voco run") from error


@dataclass(frozen=True, slots=True)
class SeenInStore:
    """The patients of a store whom a run has learnt from."""

    patients: frozenset[str]
    """Ids of the store, and perhaps of patients who are not in it."""
    compares_ids: bool
    """Whether ids were compared in all stores of the run. If not, equal volumes alone tell."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """How many test patients of a run were seen by the pretraining that it starts from."""

    pretrained: bool
    """Whether the run starts from a pretraining on scans."""
    test_patients: int
    seen: int | None
    """Test patients that pretraining has seen; None if this is not known."""

    @property
    def transductive(self) -> bool | None:
        """Whether a test patient was seen; None if unknown, and without pretraining."""
        return self.seen > 0 if self.pretrained and self.seen is not None else None

    @property
    def sentence(self) -> str:
        """The same for a report."""
        if not self.pretrained:
            return "The backbone was not pretrained on scans."
        if self.seen is None:
            return (
                f"It is unknown whether the backbone was pretrained on any of the "
                f"{self.test_patients} test patients."
            )
        if self.seen == 0:
            return f"The backbone was pretrained on none of the {self.test_patients} test patients."
        return (
            f"The backbone was pretrained on {self.seen} of the {self.test_patients} test "
            "patients, without their labels: the scores are transductive."
        )

    def to_json(self) -> dict[str, Any]:
        """As plain values, with `transductive`."""
        return {
            "pretrained": self.pretrained,
            "test_patients": self.test_patients,
            "seen": self.seen,
            "transductive": self.transductive,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Exposure:
        """Parse `to_json`."""
        return cls(values["pretrained"], values["test_patients"], values["seen"])


def measure_exposure(
    seen: SeenPatients | None, store: Store, series: pd.DataFrame, test: Mapping[str, Sequence[str]]
) -> Exposure:
    """Find how many of the `test` patients are among those that pretraining has seen.

    `series` lists all series of `store`. `test` maps a patient to its ids in the store. A patient
    counts as seen if one of the ids was, or a volume with the same content. If ids cannot be
    compared, equal volumes still tell; without any, the answer is unknown.
    """
    if seen is None:
        return Exposure(pretrained=True, test_patients=len(test), seen=None)
    found = find_seen(seen, store, series)
    count = sum(any(i in found.patients for i in ids) for ids in test.values())
    known = count > 0 or found.compares_ids
    return Exposure(pretrained=True, test_patients=len(test), seen=count if known else None)


def find_seen(seen: SeenPatients, store: Store, series: pd.DataFrame) -> SeenInStore:
    """Find the patients of a store whom a run has learnt from. `series` lists all of the store."""
    contents = contents_of_patients(series)
    root = _root_digest(store)
    comparable = [_has_same_ids(part, root, contents) for part in seen.stores]
    seen_ids = {
        patient
        for part, is_comparable in zip(seen.stores, comparable, strict=True)
        if is_comparable
        for patient in part.contents
    }
    seen_contents = {
        digest for part in seen.stores for group in part.contents.values() for digest in group
    }
    by_volume = {patient for patient, own in contents.items() if own & seen_contents}
    return SeenInStore(frozenset(seen_ids | by_volume), compares_ids=all(comparable))


def contents_of_patients(series: pd.DataFrame) -> dict[str, frozenset[str]]:
    """Patient id to the content digests of the patient's volumes."""
    contents: dict[str, set[str]] = {}
    for patient, digest in zip(series["patient_id"], series["content_digest"], strict=True):
        contents.setdefault(str(patient), set()).add(str(digest))
    return {patient: frozenset(digests) for patient, digests in contents.items()}


def _has_same_ids(part: StorePatients, root: str, contents: Mapping[str, frozenset[str]]) -> bool:
    """Whether ids mean the same patients in both: one root, or a patient who is in both."""
    return part.root == root or any(
        part.contents[patient] & contents[patient]
        for patient in part.contents.keys() & contents.keys()
    )


def _root_digest(store: Store) -> str:
    return root_digest(parent_storage(str(store.storage)))


def root_digest(root: ReadableStorage) -> str:
    """Identify the address of a root: 12 hex digits, from which it cannot be read."""
    folder = root.local_folder()
    address = str(root) if folder is None else str(folder.resolve())
    return hashlib.sha256(address.encode(errors="surrogateescape")).hexdigest()[:12]


def _store_patients(values: Mapping[str, Any]) -> StorePatients:
    contents = {str(p): frozenset(map(str, c)) for p, c in values["patients"].items()}
    return StorePatients(str(values["root"]), contents)
