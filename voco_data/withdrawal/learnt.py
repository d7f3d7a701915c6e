"""Which runs have learnt from a patient: by id, by volume, and by the weights that they start from.

Pretraining and projections list the patients that they have learnt from in `patients.json`, also
those of the run that they start from. Fine-tuning has learnt from all patients of its labels but
those of its test set.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from voco_data.selection import SeenPatients, StorePatients
from voco_data.storage import RUN_DESCRIPTION
from voco_data.withdrawal.names import PatientNames
from voco_data.withdrawal.records import Withdrawals, hash_file

LABELS, PREDICTIONS, SPLIT = "labels.parquet", "predictions.parquet", "split.json"
DIGEST_LENGTH = 12
"""Hex digits of the SHA-256 of a file of weights by which a run names its initial weights."""
WEIGHTS = ("*.pt", "*.safetensors", "fold-*/*.pt", "fold-*/*.safetensors")

BY_ID, BY_VOLUME, BY_WEIGHTS = "by id", "by volume", "from weights of another of these runs"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What tells that a list of patients names the patient."""

    names: PatientNames
    root: str
    """Digest of the address of the root, as in patients.json."""
    contents: Mapping[str, frozenset[str]]
    """Patient id to content digests, of everybody under the root."""
    own: frozenset[str] = frozenset()
    """Content digests of the patient's volumes."""

    def ids_in(self, part: StorePatients) -> list[str]:
        """The patient's ids in a list of one store. An equal id of another root is another one's.

        The root may have been moved: then other patients have the same id and an equal volume.
        """
        found = [patient for patient in part.contents if patient.strip() in self.names.patients]
        is_root = part.root == self.root or any(
            volumes & self.contents.get(patient, frozenset())
            for patient, volumes in part.contents.items()
        )
        return [p for p in found if is_root or part.contents[p] & self.own]


@dataclass(slots=True)
class LearntRun:
    """A run that has learnt from the patient."""

    run: str
    """Its folder."""
    stage: str
    how: list[str]
    weights: dict[str, str] = field(default_factory=dict)
    """File to SHA-256, by which a copy of the weights elsewhere is recognised."""
    champion: bool | None = None
    """Whether it is the champion; None if there is no registry that says it."""


def find_contents(runs: Sequence[Path], evidence: Evidence) -> frozenset[str]:
    """Content digests of the patient's volumes, by the lists of the runs."""
    return frozenset(
        digest
        for run in runs
        if (seen := SeenPatients.read(run)) is not None
        for part in seen.stores
        for patient in evidence.ids_in(part)
        for digest in part.contents[patient]
    )


def find_learnt(runs: Sequence[Path], evidence: Evidence) -> list[LearntRun]:
    """The runs among folders of training runs that have learnt from the patient, sorted."""
    found: dict[Path, LearntRun] = {}
    descriptions = {run: read_description(run) for run in runs}
    for run, description in descriptions.items():
        if how := _how_learnt(run, description, evidence):
            found[run] = _make(run, description, how)
    while True:
        digests = {digest for run in found for digest in _digests_of_weights(run)}
        added = [
            run
            for run, description in descriptions.items()
            if run not in found and _starts_from(description) in digests
        ]
        if not added:
            return [found[run] for run in sorted(found)]
        for run in added:
            found[run] = _make(run, descriptions[run], [BY_WEIGHTS])


def read_description(run: Path) -> dict[str, Any]:
    """`run.json` of a training run; empty if it cannot be read, or is of something else."""
    try:
        description = json.loads((run / RUN_DESCRIPTION).read_text())
    except (OSError, ValueError):
        return {}
    return description if isinstance(description, dict) and "stage" in description else {}


def groups_of_patient(run: Path, names: PatientNames) -> dict[str, int]:
    """Whether the patient is in the test set of a fine-tuning run, or among the others: 0 or 1."""
    labels = _patients_of(run / LABELS)
    test = _test_patients(run)
    return {
        "test": int(bool(names.patients & labels & test)),
        "training": int(bool(names.patients & (labels - test))),
    }


def _how_learnt(run: Path, description: dict[str, Any], evidence: Evidence) -> list[str]:
    how = []
    seen = SeenPatients.read(run)
    is_named = seen is not None and any(evidence.ids_in(part) for part in seen.stores)
    if is_named or groups_of_patient(run, evidence.names)["training"]:
        how.append(BY_ID)
    if seen is not None and any(
        volumes & evidence.own for part in seen.stores for volumes in part.contents.values()
    ):
        how.append(BY_VOLUME)
    return how if description else []


def _patients_of(table: Path) -> set[str]:
    if not table.is_file():
        return set()
    with pq.ParquetFile(table) as file:
        if "patient_id" not in file.schema_arrow.names:
            return set()
        return set(map(str, file.read(columns=["patient_id"])["patient_id"].to_pylist()))


def _test_patients(run: Path) -> set[str]:
    """Patients of the test set, by the split, and by the predictions of a run without one."""
    if (run / SPLIT).is_file():
        split = json.loads((run / SPLIT).read_text())
        groups = [split, *split.get("additions", ())]
        return {str(patient) for group in groups for patient in group.get("test", ())}
    if not (run / PREDICTIONS).is_file():
        return set()
    table = pq.read_table(run / PREDICTIONS, columns=["patient_id", "split"])
    is_test = pa.compute.equal(table["split"], "test")
    return set(map(str, table.filter(is_test)["patient_id"].to_pylist()))


def _make(run: Path, description: dict[str, Any], how: list[str]) -> LearntRun:
    weights = {
        path.relative_to(run).as_posix(): hash_file(path)
        for pattern in WEIGHTS
        for path in sorted(run.glob(pattern))
    }
    return LearntRun(str(run), str(description["stage"]), how, weights)


def _digests_of_weights(run: Path) -> set[str]:
    """How other runs name the weights of a run, also from before a file was rewritten."""
    record = Withdrawals.read(run)
    found = set()
    for pattern in WEIGHTS:
        for path in run.glob(pattern):
            name, digest = path.relative_to(run).as_posix(), hash_file(path)
            found |= {digest, record.first_digest(name, digest)}
    return {digest[:DIGEST_LENGTH] for digest in found}


def _starts_from(description: Mapping[str, Any]) -> str:
    """The digest of the file of weights that a run starts from; empty if it starts from none."""
    init = description.get("init")
    if not isinstance(init, str):
        init = str(init.get("name", "")) if isinstance(init, dict) else ""
    kind, _, digest = init.partition(":")
    return digest if kind in ("run", "file") else ""
