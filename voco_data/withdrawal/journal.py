"""The journal of a withdrawal: what is removed and what has learnt, until the receipt is written.

Journals are in the private folder of the root, because they name the patient.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from voco_data.deidentification import pseudonyms
from voco_data.selection import now
from voco_data.storage import Storage, atomic
from voco_data.withdrawal.learnt import LearntRun
from voco_data.withdrawal.names import PatientNames
from voco_data.withdrawal.search import Finding

FOLDER = "withdrawals"
"""Folder of the journals, inside the private folder."""


@dataclass(slots=True)
class Journal:
    """One withdrawal. The fields are the keys of the file, as JSON."""

    patients: list[str]
    """The ids of the patient in every root."""
    series: list[str] = field(default_factory=list)
    studies: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    contents: list[str] = field(default_factory=list)
    """Content digests of the patient's volumes."""
    stores: list[str] = field(default_factory=list)
    """Digests of the stores that have the patient."""
    salt: str = field(default_factory=lambda: secrets.token_hex(16))
    when: str = field(default_factory=now)
    roots: dict[str, dict[str, int]] = field(default_factory=dict)
    """Root to the counts of what is removed there."""
    findings: list[Finding] = field(default_factory=list)
    learnt: list[LearntRun] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    """Runs that used a store of the patient, and are in no folder that was given."""
    receipt: str = ""
    """Path of the receipt."""

    @property
    def digest(self) -> str:
        """The digest of the receipt, by which runs name it: 12 hex digits."""
        return hashlib.sha256(bytes.fromhex(self.salt)).hexdigest()[:12]

    @property
    def names(self) -> PatientNames:
        """The names of the patient."""
        return PatientNames(
            frozenset(self.patients),
            frozenset(self.series),
            frozenset(self.studies),
            frozenset(self.sources),
        )

    def continue_from(self, older: Journal) -> None:
        """Take over what an interrupted withdrawal of the same patient has found."""
        self.salt, self.when = older.salt, older.when
        self.receipt = self.receipt or older.receipt
        for name in ("patients", "series", "studies", "sources", "contents", "stores", "elsewhere"):
            setattr(self, name, sorted({*getattr(self, name), *getattr(older, name)}))
        for root, counts in older.roots.items():
            mine = self.roots.setdefault(root, {})
            for kind, count in counts.items():
                mine[kind] = max(mine.get(kind, 0), count)
        found = {(each.path, each.kind): each for each in (*self.findings, *older.findings)}
        self.findings = [found[key] for key in sorted(found)]
        runs = {each.run: each for each in (*self.learnt, *older.learnt)}
        self.learnt = [runs[run] for run in sorted(runs)]

    def write(self, root: Storage) -> None:
        """Write the journal, readable by its owner only."""
        private = pseudonyms.private_folder(root)
        for folder in (private, private / FOLDER):
            atomic.make_folders(folder, mode=0o700)
        text = json.dumps(asdict(self), indent=1)
        atomic.write_bytes(private / FOLDER / f"{self.digest}.json", text.encode(), mode=0o600)

    def remove(self, root: Storage) -> None:
        """Remove the journal and temporary files beside it. Its folder stays."""
        root.sync()  # the journal goes last, also on the disk
        private = pseudonyms.private_folder(root)
        atomic.sweep_folder(private / FOLDER)
        (private / FOLDER / f"{self.digest}.json").unlink(missing_ok=True)


def remove_empty_folders(root: Storage) -> None:
    """Remove the folders of journals and the private folder, if nothing is in them."""
    private = pseudonyms.private_folder(root)
    for folder in (*filter(Path.is_dir, private.glob("*")), private):
        with suppress(OSError):  # not empty: it holds other journals, or the key
            folder.rmdir()


def read_journals(root: Storage) -> Iterator[Journal]:
    """The journals of withdrawals that were interrupted."""
    folder = pseudonyms.private_folder(root) / FOLDER
    for path in sorted(folder.glob("*.json")):
        data = json.loads(path.read_text())
        findings = [Finding(**values) for values in data.pop("findings")]
        learnt = [LearntRun(**values) for values in data.pop("learnt")]
        yield Journal(**data, findings=findings, learnt=learnt)


def default_receipt(journal: Journal) -> Path:
    """Where the receipt is written if no file is named: in the current folder."""
    return Path(f"receipt-{journal.digest}.json")
