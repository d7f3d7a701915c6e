"""The user's table of patients: which series or files belong to which patient.

NIfTI files name no patient, and a patient may have several files. Without such a table each file is
a patient, and a split may put two phases of one patient on both its sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from voco_data.cohort import Cohort
from voco_data.errors import InputError
from voco_data.storage import read_table

COLUMNS = ("series", "patient_id")
MAX_ID_CHARACTERS = 1024
"""16 times what DICOM allows for a PatientID; every record, table and page repeats it."""


def read_patients(path: Path) -> dict[str, str]:
    """Patient id by series, from CSV or Parquet with the columns `series` and `patient_id`.

    Raises InputError for a table that cannot be read, that lacks a column, or that has an empty
    cell, an id that is too long, or a series twice; it names the row.
    """
    table = read_table(path, "ids", COLUMNS, blank_is_text=True)
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise InputError(
            f"ids {path}: expected the columns {' and '.join(COLUMNS)}; no {missing[0]}"
        )
    patients: dict[str, str] = {}
    for number, (series, patient) in enumerate(
        zip(table["series"], table["patient_id"], strict=True), start=1
    ):
        name, patient_id = _text(series), _text(patient)
        if not name or not patient_id:
            empty = "series" if not name else "patient_id"
            raise InputError(f"ids {path}: row {number}: {empty} is empty")
        if len(patient_id) > MAX_ID_CHARACTERS:
            raise InputError(
                f"ids {path}: row {number}: expected a patient_id of at most {MAX_ID_CHARACTERS}"
                f" characters, got {len(patient_id):,}"
            )
        if name in patients:
            raise InputError(f"ids {path}: row {number}: the series of an earlier row once more")
        patients[name] = patient_id
    if not patients:
        raise InputError(f"ids {path}: no rows; expected one for each series")
    return patients


def set_patients(cohort: Cohort, patients: Mapping[str, str], path: Path) -> None:
    """Give the series of `cohort` the patient ids of the table at `path`.

    A row names a series by its SeriesInstanceUID, by its file, by its folder, or by a file name
    that occurs once. A row for another file of the archive, such as a mask, has no effect. Raises
    InputError for a row that names nothing in the archive, a name that is that of several files,
    and a series to which two rows give patients.
    """
    row_of: dict[int, int] = {}
    for number, (name, patient_id) in enumerate(patients.items(), start=1):
        series = cohort.find_series(name)
        if series is None:
            raise InputError(
                f"ids {path}: row {number}: no series or file of the archive; expected a path"
                " relative to it, a file name or a SeriesInstanceUID"
            )
        if len({found.where for found in series}) > 1:
            raise InputError(
                f"ids {path}: row {number}: files in several folders have this name; give the path"
            )
        for found in series:
            if found.number in row_of:
                raise InputError(
                    f"ids {path}: rows {row_of[found.number]} and {number} name one series"
                )
            row_of[found.number] = number
            cohort.set_patient(found.number, patient_id)


def _text(value: object) -> str:
    """A cell as text, stripped; empty if it has no value."""
    return "" if pd.isna(value) else str(value).strip()  # type: ignore[call-overload]
