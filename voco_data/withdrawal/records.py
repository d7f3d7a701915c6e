"""The record of a run of files that were rewritten without a patient: `RUN/withdrawals.json`.

    {"format": "voco withdrawals", "version": 1, "withdrawals": [
     {"receipt": "<digest>", "when": "2026-03-01T03:00:00Z", "patients": {"test": 1, "training": 0},
      "files": {"predictions.parquet": {"before": <SHA-256>, "after": <SHA-256>}, ...},
      "patients_digest": {"before": ..., "after": ...}}]}

An evaluation refuses predictions that changed since the test set was opened. By this record it
knows a file that changed because a patient was forgotten, and by nothing else. It is written before
a file is replaced. It does not name the patient.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from voco_data.errors import InputError
from voco_data.storage import atomic

FILE = "withdrawals.json"
FORMAT, VERSION = "voco withdrawals", 1

Change = dict[str, str]
"""`before` and `after`: digests of a file."""


@dataclass(slots=True)
class Withdrawal:
    """The files of a run that one forgotten patient changed."""

    receipt: str
    """Digest of the receipt."""
    when: str
    """UTC, ISO 8601."""
    patients: dict[str, int] = field(default_factory=lambda: {"test": 0, "training": 0})
    """How many patients of the run were forgotten: 1 in `test`, in `training`, or in neither."""
    files: dict[str, Change] = field(default_factory=dict)
    """File, relative to the run, to its SHA-256 before and after."""
    patients_digest: Change = field(default_factory=dict)
    """The `SeenPatients.digest` of patients.json before and after; empty if it did not change."""


@dataclass(frozen=True, slots=True)
class Withdrawals:
    """All patients of a run who were forgotten, the first one first."""

    entries: tuple[Withdrawal, ...] = ()

    @classmethod
    def read(cls, run: Path) -> Withdrawals:
        """Read the record of a run, which is empty if nobody was forgotten.

        Raises InputError if it is damaged.
        """
        try:
            data = json.loads((run / FILE).read_text())
            if (data["format"], data["version"]) != (FORMAT, VERSION):
                raise ValueError("another format")
            return cls(tuple(Withdrawal(**values) for values in data["withdrawals"]))
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{run / FILE}: expected the record of forgotten patients, cannot read it; restore "
                "the file"
            ) from error

    def write(self, run: Path) -> None:
        """Write the record of a run."""
        atomic.remove_temporaries_of(run / FILE)  # of a withdrawal that was killed
        entries = [asdict(entry) for entry in self.entries]
        data = {"format": FORMAT, "version": VERSION, "withdrawals": entries}
        atomic.write_text(run / FILE, json.dumps(data, indent=1) + "\n")

    def count(self, group: Literal["test", "training"]) -> int:
        """How many patients of a group were forgotten."""
        return sum(entry.patients.get(group, 0) for entry in self.entries)

    def of_receipt(self, receipt: str, when: str) -> tuple[Withdrawals, Withdrawal]:
        """The record with an entry of this receipt, and the entry."""
        for entry in self.entries:
            if entry.receipt == receipt:
                return self, entry
        entry = Withdrawal(receipt, when)
        return Withdrawals((*self.entries, entry)), entry

    def explains(self, file: str, recorded: str, now: str) -> bool:
        """Whether a file that had the digest `recorded` has `now` because patients were forgotten.

        Equal digests need no explanation.
        """
        chain = self._chain(file)
        return recorded == now or (bool(chain) and recorded in chain and now == chain[-1])

    def is_unfinished(self, file: str, now: str) -> bool:
        """Whether a file has, still or again, the digest from before a patient was forgotten."""
        return now in self._chain(file)[:-1]

    def first_digest(self, file: str, now: str) -> str:
        """The digest of a file before anybody was forgotten, from the one that it has `now`."""
        chain = self._chain(file)
        return chain[0] if chain and now == chain[-1] else now

    def explains_patients(self, recorded: str, now: str) -> bool:
        """As `explains`, of the digest of the patients in patients.json."""
        changes = [entry.patients_digest for entry in self.entries if entry.patients_digest]
        return recorded == now or any(
            change["before"] == recorded and changes[-1]["after"] == now for change in changes
        )

    def _chain(self, file: str) -> list[str]:
        changes = [entry.files[file] for entry in self.entries if file in entry.files]
        return [change["before"] for change in changes[:1]] + [c["after"] for c in changes]


def hash_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
