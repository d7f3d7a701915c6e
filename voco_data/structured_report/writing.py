"""Structured reports of all predicted studies of an archive.

OUT/<study>.dcm    named by the id of the study in the table of predictions, or by a digest

The reports name the patients as the source does. Folder and files can be read by their owner only.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from voco_data.dicom import read_dataset
from voco_data.errors import InputError, SeriesRefused, translate_unwritable
from voco_data.ingest import IngestOptions, SourceSeries, find_source_files
from voco_data.labels import RSNA_TARGETS
from voco_data.storage import atomic, parquet
from voco_data.structured_report.document import GroupFinding, make_document

log = logging.getLogger(__name__)

FOLDER = "sr"
Study = tuple[str, str]
"""Patient and study id, as in the table."""
_SAFE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,79}")


@dataclass(frozen=True, slots=True)
class ReportSummary:
    """How many studies have a report."""

    folder: Path
    reports: int
    without: int
    """Predicted studies without a report: NIfTI, or DICOM without the UIDs of study and images."""

    def to_json(self) -> dict[str, object]:
        """The summary as plain values."""
        return {"folder": str(self.folder), "reports": self.reports, "without": self.without}


def check_installed() -> None:
    """Raise InputError if highdicom is not installed."""
    if find_spec("highdicom") is None:
        raise InputError("--sr needs highdicom, which is not installed: pip install 'voco[sr]'")


def write_structured_reports(
    table: str | Path,
    source: str | Path,
    root: str | Path,
    out: str | Path,
    options: IngestOptions,
    *,
    version: str,
    parameters: Sequence[str] = (),
) -> ReportSummary:
    """Write a report of each study that `table`, predictions.parquet of `voco predict`, has.

    `source` was preprocessed into `root` with `options`. `version` and `parameters` identify the
    algorithm. Raises VocoError if the reports cannot be written.
    """
    lines, folder = parquet.read_frame(Path(table), "predictions of voco predict"), Path(out)
    predicted = lines[lines["status"] == "predicted"]
    studies = {
        (line["patient_id"], line["study_uid"]): line
        for line in predicted[predicted["level"] == "study"].to_dict("records")
    }
    series = predicted.loc[
        predicted["level"] == "series", ["patient_id", "study_uid", "series_uid"]
    ]
    used = set(series.itertuples(index=False, name=None))
    files: dict[Study, list[Path]] = {}
    for found in find_source_files(source, root, options):
        if tuple(found.identity) in used and _has_study(found):
            study = (found.identity.patient_id, found.identity.study_uid)
            files.setdefault(study, []).extend(found.files)
    written, names = set(), _file_names(studies)
    with translate_unwritable(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for study, paths in files.items():
            path, findings = folder / names[study], _findings(studies[study])
            if _write(path, paths, findings, version, parameters):
                written.add(path.name)
        for path in folder.glob("*.dcm"):  # of an earlier run, which predicted other studies
            if path.name not in written:
                path.unlink()
    if len(written) < len(studies):
        log.warning(
            "%d of %d studies have no structured report: it needs DICOM with UIDs",
            len(studies) - len(written),
            len(studies),
        )
    return ReportSummary(folder, len(written), len(studies) - len(written))


def _file_names(studies: Collection[Study]) -> dict[Study, str]:
    """A file name for each study: its id, or a digest.

    An id is no name if it comes from a header with other characters, such as slashes, and if
    several patients have it.
    """
    patients_of = Counter(study for _, study in studies)
    names = {}
    for patient, study in studies:
        text = f"{patient}\0{study}".encode(errors="surrogateescape")
        is_name = patients_of[study] == 1 and _SAFE_NAME.fullmatch(study)
        name = study if is_name else f"study-{hashlib.sha256(text).hexdigest()[:16]}"
        names[patient, study] = f"{name}.dcm"
    return names


def _has_study(series: SourceSeries) -> bool:
    return series.kind == "dicom" and bool(series.identity.study_uid)


def _findings(line: Mapping[Hashable, Any]) -> list[GroupFinding]:
    """The findings of a line of the table, for the groups that it has."""
    return [
        GroupFinding(
            group=group.name,
            probabilities={
                name: float(line[f"calibrated_{column}"])
                for name, column in zip(group.classes, group.columns, strict=True)
            },
            predicted=""
            if line[f"abstained_{group.name}"]
            else str(line[f"predicted_{group.name}"]),
        )
        for group in RSNA_TARGETS
        if f"predicted_{group.name}" in line
    ]


def _write(
    path: Path,
    files: Sequence[Path],
    findings: Sequence[GroupFinding],
    version: str,
    parameters: Sequence[str],
) -> bool:
    """Write one report; False if a source file cannot be read any more, or has no UIDs."""
    try:
        evidence = [read_dataset(file, pixels=False) for file in sorted(files)]
    except SeriesRefused as error:
        log.warning("%s: no structured report, a file of the study: %s", path.name, error)
        return False
    if not all(image.get("SOPInstanceUID") and image.get("SOPClassUID") for image in evidence):
        log.warning("%s: no structured report, an image of the study has no UID", path.name)
        return False
    for keyword in ("PatientName", "PatientID"):
        if keyword in evidence[0]:  # decoded, to be written as UTF-8
            setattr(evidence[0], keyword, str(getattr(evidence[0], keyword)))
    document = make_document(evidence, findings, version=version, parameters=parameters)
    with atomic.replacing(path) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            document.save_as(file, enforce_file_format=True)
    return True
