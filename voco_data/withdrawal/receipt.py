"""The receipt of a forgotten patient: what was removed, what has learnt, what cannot be undone.

It does not name the patient. Who knows an id can check that a receipt is the patient's:

    hashlib.scrypt(id.strip().encode(), salt=bytes.fromhex(salt), n=16384, r=8, p=1, dklen=16).hex()

is one of `patient.digests`, one for each id: the archive's own and the pseudonyms.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from voco_data.version import VERSION
from voco_data.withdrawal.journal import Journal

FORMAT, FORMAT_VERSION = "voco receipt", 1
COST = {"n": 2**14, "r": 8, "p": 1, "dklen": 16}
"""Cost of a digest: about 0.1 s, so that ids of few digits are not tried in a moment."""
CANNOT_BE_UNDONE = (
    "weights keep what they have learnt, in the runs named in `learnt` and in all their copies",
    "scores and reports without names that were computed with the patient stay as they are",
    "backups, snapshots, and deleted blocks of disks and buckets are not reached",
    "copies elsewhere are not reached: exports, other folders, other machines",
    "the database and the logs of Prefect, and logs of other programs, are not searched",
    "the archive is not changed: from there, the next run stores the patient again, as a new one",
)


def patient_digest(patient: str, salt: str) -> str:
    """The salted digest of an id in a receipt."""
    text = patient.strip().encode(errors="surrogateescape")
    return hashlib.scrypt(text, salt=bytes.fromhex(salt), **COST).hex()


def make_receipt(
    journal: Journal, left: Sequence[Mapping[str, str]], *, removed: bool
) -> dict[str, Any]:
    """The receipt of a withdrawal, or the list of what it would do, which has no digests."""
    kinds: Counter[str] = Counter()
    for counts in journal.roots.values():
        kinds.update(counts)
    for finding in journal.findings:
        kinds[finding.kind] += finding.count
    names = journal.names
    again = [
        {"page": names.mask(finding.path), "command": finding.again}
        for finding in journal.findings
        if finding.again
    ]
    return (_make_head(journal) if removed else {}) | {
        "removed": removed,
        "roots": [names.mask(root) for root in journal.roots],
        "counts": dict(sorted(kinds.items())),
        "files": [
            {"file": names.mask(each.path), "kind": each.kind, "count": each.count}
            for each in journal.findings
        ],
        "learnt": [asdict(each) | {"run": names.mask(each.run)} for each in journal.learnt],
        "make_again": again,
        "left": [{"file": names.mask(each["file"]), "why": each["why"]} for each in left],
        "cannot_be_undone": list(CANNOT_BE_UNDONE),
    }


def _make_head(journal: Journal) -> dict[str, Any]:
    """What identifies a receipt, and by whom it can be checked."""
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "digest": journal.digest,
        "date": journal.when,
        "voco": VERSION,
        "patient": {
            "salt": journal.salt,
            "scrypt": COST,
            "digests": [patient_digest(each, journal.salt) for each in journal.patients],
        },
    }
