"""Injury labels of patients: the table `train.csv` (or `train_2024.csv`) of the RATIC layout.

One row a patient. Every group is one-hot: exactly one of its columns is 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from voco_data.errors import InputError
from voco_data.labels.targets import ORGAN_TARGETS, RSNA_TARGETS, TargetGroup
from voco_data.storage import MAX_TABLE_BYTES, atomic, parse_table, read_bytes

Int8 = npt.NDArray[np.int8]

_PATIENT_COLUMN = "patient_id"


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels of P patients, sorted by patient id."""

    patient_ids: tuple[str, ...]
    """Unique ids, compared as strings."""
    organs: Int8
    """(P, G): the class of every group of `ORGAN_TARGETS`, in its order."""
    binary: dict[str, Int8]
    """(P,) classes of each further group of `RSNA_TARGETS` that the table has."""
    sha256: str
    """SHA-256 of the file, which identifies the version of the labels."""

    def __post_init__(self) -> None:
        count = len(self.patient_ids)
        if list(self.patient_ids) != sorted(set(self.patient_ids)):
            raise ValueError("patient_ids must be sorted and unique")
        if self.organs.shape != (count, len(ORGAN_TARGETS)) or self.organs.dtype != np.int8:
            raise ValueError(f"organs must be int8 ({count}, {len(ORGAN_TARGETS)})")
        if any(values.shape != (count,) for values in self.binary.values()):
            raise ValueError(f"binary labels must have the shape ({count},)")
        for values in (self.organs, *self.binary.values()):
            values.flags.writeable = False

    def __len__(self) -> int:
        """Number of patients."""
        return len(self.patient_ids)

    def rows(self, patient_ids: Iterable[str]) -> npt.NDArray[np.int64]:
        """Positions of `patient_ids` in this table, int64 (N,). Raises KeyError."""
        position = {patient: row for row, patient in enumerate(self.patient_ids)}
        return np.array([position[patient] for patient in patient_ids], np.int64)

    def groups(self, patient_ids: Iterable[str]) -> dict[str, npt.NDArray[np.int64]]:
        """Group to classes, int64 (N,), of `patient_ids` in their order."""
        rows = self.rows(patient_ids)
        organs = {organ: self.organs[rows, i] for i, organ in enumerate(ORGAN_TARGETS.names)}
        binary = {group: values[rows] for group, values in self.binary.items()}
        return {group: values.astype(np.int64) for group, values in (organs | binary).items()}

    def select(self, patient_ids: Collection[str]) -> Labels:
        """The labels of these patients alone."""
        kept = set(patient_ids)
        names = {row: p for row, p in enumerate(self.patient_ids) if p in kept}
        return self if len(names) == len(self) else _relabel(self, names)


def read_labels(path: str | Path) -> Labels:
    """Read and check a label table.

    Raises InputError if the file cannot be read, lacks a column, has an empty or repeated patient
    id, or a group that is not one-hot (the message names the first such patient and group).
    """
    file = Path(path)
    table, digest = _read_table(file)
    organ_columns = [column for group in ORGAN_TARGETS for column in group.columns]
    missing = [name for name in (_PATIENT_COLUMN, *organ_columns) if name not in table.columns]
    if missing:
        raise InputError(
            f"{file}: expected the columns {_PATIENT_COLUMN} and <organ>_<grade> "
            f"(kidney_healthy, ...), missing: {', '.join(missing)}"
        )
    table = _sorted_by_patient(file, table)
    organs = [_one_hot(file, table, group) for group in ORGAN_TARGETS]
    optional = RSNA_TARGETS.without(ORGAN_TARGETS)
    present = [group for group in optional if set(group.columns) <= set(table.columns)]
    return Labels(
        patient_ids=tuple(table[_PATIENT_COLUMN].tolist()),
        organs=np.stack(organs, axis=1),
        binary={group.name: _one_hot(file, table, group) for group in present},
        sha256=digest,
    )


@dataclass(frozen=True, slots=True)
class LabelledPatients:
    """Labels of the patients of one store, under the store's own ids."""

    labels: Labels
    """Labels of the store's patients only."""
    label_ids: dict[str, str]
    """Patient id in the store to patient id in `labels`. Two ids of a store have one label id if
    one is the pseudonym of the other."""


def join_labels(
    labels: Labels,
    store_patients: Iterable[str],
    *,
    allow_unlabelled: bool = False,
    pseudonymise: Callable[[str], str] | None = None,
) -> LabelledPatients:
    """Match `labels` with the patient ids of a store, by the id or by its pseudonym.

    Labels may cover more patients than the store. Raises InputError if they cover none, or if a
    patient of the store has none and `allow_unlabelled` is false.
    """
    stored = sorted(set(store_patients))
    row_of: dict[str, int] = {}
    for row, patient in enumerate(labels.patient_ids):
        row_of[patient] = row
        if pseudonymise is not None:
            row_of[pseudonymise(patient)] = row
    labelled = [patient for patient in stored if patient in row_of]
    if not labelled:
        raise InputError(
            f"the labels ({len(labels)} patients) cover none of the store's {len(stored)} patients;"
            " give the label table of this archive, or the key that made the store's pseudonyms"
        )
    unlabelled = [patient for patient in stored if patient not in row_of]
    if unlabelled and not allow_unlabelled:
        raise InputError(
            f"{len(unlabelled)} of the store's {len(stored)} patients have no label "
            f"(the first is {unlabelled[0]}); add them or give --allow-unlabelled to leave them out"
        )
    name_of_row: dict[int, str] = {}
    for patient in labelled:
        name_of_row.setdefault(row_of[patient], patient)
    return LabelledPatients(
        labels=_relabel(labels, name_of_row),
        label_ids={patient: name_of_row[row_of[patient]] for patient in labelled},
    )


def write_labels(path: Path, labels: Labels) -> None:
    """Write a table that `read_labels` reads, atomically. OSError if it cannot be written."""
    classes = labels.groups(labels.patient_ids)
    columns = {
        column: (classes[group.name] == position).astype(np.int8)
        for group in RSNA_TARGETS
        if group.name in classes
        for position, column in enumerate(group.columns)
    }
    table = pd.DataFrame({_PATIENT_COLUMN: list(labels.patient_ids), **columns})
    atomic.write_text(path, table.to_csv(index=False))


def _relabel(labels: Labels, name_of_row: dict[int, str]) -> Labels:
    """The rows of `name_of_row`, with these patient ids."""
    order = sorted(name_of_row, key=name_of_row.__getitem__)
    rows = np.array(order, np.int64)
    return Labels(
        patient_ids=tuple(name_of_row[row] for row in order),
        organs=labels.organs[rows],
        binary={group: values[rows] for group, values in labels.binary.items()},
        sha256=labels.sha256,
    )


def _read_table(file: Path) -> tuple[pd.DataFrame, str]:
    """The table, and the SHA-256 of the bytes that it was parsed from."""
    data = read_bytes(file, "labels", MAX_TABLE_BYTES)
    names = {_PATIENT_COLUMN, *(name for group in RSNA_TARGETS for name in group.columns)}
    table = parse_table(data, file, "labels", names, blank_is_text=True)
    return table, hashlib.sha256(data).hexdigest()


def _sorted_by_patient(file: Path, table: pd.DataFrame) -> pd.DataFrame:
    """The table sorted by patient id. Raises InputError for empty and repeated ids."""
    if table.empty:
        raise InputError(f"{file}: the label table has no rows")
    ids = table[_PATIENT_COLUMN].str.strip()
    if (ids == "").any():
        raise InputError(f"{file}: row {int((ids == '').argmax()) + 2} has no {_PATIENT_COLUMN}")
    if ids.duplicated().any():
        first = ids[ids.duplicated()].iloc[0]
        raise InputError(f"{file}: patient {first} has more than one row; keep one row a patient")
    return table.assign(**{_PATIENT_COLUMN: ids}).sort_values(_PATIENT_COLUMN, ignore_index=True)


def _one_hot(file: Path, table: pd.DataFrame, group: TargetGroup) -> Int8:
    """Class of every row of a one-hot group, int8 (P,)."""
    columns = table[list(group.columns)]
    values = columns.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    invalid = ~(np.isin(values, (0.0, 1.0)).all(axis=1) & (values.sum(axis=1) == 1.0))
    if invalid.any():
        row = int(invalid.argmax())
        found = ", ".join(str(value)[:20] or "nothing" for value in columns.iloc[row])
        raise InputError(
            f"{file}: patient {table[_PATIENT_COLUMN].iloc[row]}, group {group.name}: expected "
            f"one 1 and else 0 in {', '.join(columns.columns)}, got {found}"
        )
    grades: Int8 = values.argmax(axis=1).astype(np.int8)
    return grades
