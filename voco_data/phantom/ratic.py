"""The RATIC layout: DICOM folders, segmentations and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from voco_data.phantom.patient.injury import ORGAN_GROUPS
from voco_data.phantom.plan import PatientPlan, SeriesPlan
from voco_data.phantom.render import Rendering, acquire, render_scan
from voco_data.phantom.scan_files import write_nifti, write_series
from voco_data.storage import replacing, write_text

_TWO, _THREE = ("healthy", "injury"), ("healthy", "low", "high")
_LABELS = {"bowel": _TWO, "extravasation": _TWO} | dict.fromkeys(ORGAN_GROUPS, _THREE)
GROUP_COLUMNS = [f"{group}_{level}" for group, levels in _LABELS.items() for level in levels]
"""The 13 one-hot columns, in the order of `train.csv`."""
IMAGE_LEVEL_NAMES = {"extravasation": "Active_Extravasation", "bowel": "Bowel"}
Row = dict[str, object]


@dataclass(frozen=True, slots=True)
class PatientRows:
    """The rows of one patient in the tables."""

    train: Row
    series: list[Row]
    images: list[Row]
    tags: list[Row]
    demographics: Row


def write_patient(plan: PatientPlan, root: Path) -> PatientRows:
    """Write the series (and segmentations) of one patient under the RATIC `root`."""
    rows = PatientRows(train_row(plan), [], [], [], _demographics(plan))
    for series in plan.series:
        rendering = render_scan(plan.model, series.scan)
        folder = f"train_images/{plan.patient_id}/{series.series_id}"
        tags = write_series(
            root / folder,
            plan.model,
            series.scan,
            series.style,
            hu=acquire(rendering, series.scan),
        )
        if series.segmented:
            path = root / "segmentations" / f"{series.series_id}.nii"
            write_nifti(path, rendering.organs, series.scan, flip_rows=True)
        rows.series.append(_series_row(plan, series))
        rows.images.extend(_image_rows(plan, series, rendering))
        rows.tags.extend(row | {"path": f"{folder}/{row['InstanceNumber']}.dcm"} for row in tags)
    return rows


def train_row(plan: PatientPlan) -> Row:
    """The row of `train.csv`: one-hot labels."""
    model = plan.model
    level: dict[str, str] = {organ: model.grade(organ) for organ in ORGAN_GROUPS}
    level["bowel"] = "injury" if model.bowel_injury else "healthy"
    level["extravasation"] = "injury" if model.bleed else "healthy"
    row: Row = {"patient_id": plan.patient_id}
    for column in GROUP_COLUMNS:
        group, name = column.split("_")
        row[column] = int(level[group] == name)
    row["any_injury"] = int(model.any_injury)
    return row


def _series_row(plan: PatientPlan, series: SeriesPlan) -> Row:
    return {
        "patient_id": plan.patient_id,
        "series_id": series.series_id,
        "aortic_hu": round(series.scan.phase.aorta + series.scan.offset_hu, 1),
        "incomplete_organ": int(series.incomplete_organ),
    } | ({} if plan.domain is None else {"domain": plan.domain.name})


def _image_rows(plan: PatientPlan, series: SeriesPlan, rendering: Rendering) -> list[Row]:
    """A row for each slice that shows a bleed or injured bowel."""
    rows: list[Row] = []
    for finding, name in IMAGE_LEVEL_NAMES.items():
        mask = rendering.findings.get(finding)
        if mask is None:
            continue
        for index in np.flatnonzero(mask.any(axis=(1, 2))):
            number = series.style.instance_of_slice(int(index), series.scan.slices)
            rows.append(
                {
                    "patient_id": plan.patient_id,
                    "series_id": series.series_id,
                    "instance_number": number,
                    "injury_name": name,
                }
            )
    return rows


def _demographics(plan: PatientPlan) -> Row:
    return {"patient_id": plan.patient_id, "age": plan.model.age, "sex": plan.model.sex}


def write_tables(patients: Sequence[PatientRows], root: Path) -> None:
    """Write every table of both label generations under the RATIC `root`."""
    train = pd.DataFrame([rows.train for rows in patients])
    images = pd.DataFrame(
        [row for rows in patients for row in rows.images],
        columns=["patient_id", "series_id", "instance_number", "injury_name"],
    )
    submission = train[["patient_id"]].copy()
    submission[GROUP_COLUMNS] = 0.5
    tables = {
        "train.csv": train,
        "train_2024.csv": train,
        "train_series_meta.csv": pd.DataFrame([row for rows in patients for row in rows.series]),
        "image_level_labels.csv": images,
        "image_level_labels_2024.csv": images,
        "train_demographics_2024.csv": pd.DataFrame([rows.demographics for rows in patients]),
        "sample_submission.csv": submission.head(3),
    }
    for name, table in tables.items():
        write_text(root / name, table.to_csv(index=False, lineterminator="\n"))
    tags = pd.DataFrame([row for rows in patients for row in rows.tags])
    with replacing(root / "train_dicom_tags.parquet") as path:
        tags.to_parquet(path, index=False)
