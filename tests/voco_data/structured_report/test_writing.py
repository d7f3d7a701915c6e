"""Structured reports of predictions, read back by highdicom, pydicom and DCMTK."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from highdicom import sr
from highdicom.sr import MeasurementReport
from pydicom.sr.codedict import codes

from tests.support.ct_files import body, write_slices
from voco_data.ingest import IngestOptions, preprocess
from voco_data.nifti.writer import write_nifti
from voco_data.store.reader import Store
from voco_data.store.spec import StoreSpec
from voco_data.structured_report import write_structured_reports

SPEC = StoreSpec("small", (8, 16, 16))
PROBABILITIES = {"healthy": 0.125, "low": 0.25, "high": 0.625}
ORGANS = ("kidney", "liver", "spleen")
SITES = dict(
    zip(
        ORGANS,
        [("64033007", "Kidney"), ("10200004", "Liver"), ("78961009", "Spleen")],
        strict=True,
    )
)


def write_archive(folder: Path) -> None:
    """One study of two series and one of one series, of one patient."""
    patient = {"PatientName": "Müller^Jörg", "SpecificCharacterSet": "ISO_IR 100"}
    patient |= {"AccessionNumber": "A1", "StudyDate": "20260102"}
    shape = (24, 60, 60)
    for number, study in enumerate(["1.2.3", "1.2.3", "1.2.4"]):
        uid = f"1.2.826.0.1.{number + 1}"
        tags = patient | {
            "StudyInstanceUID": study,
            "SeriesInstanceUID": uid,
            "SOPInstanceUID": lambda index, uid=uid: f"{uid}.{index + 1}",
        }
        write_slices(folder / f"s{number}", body(shape, seed=number), tags=tags)


def write_table(path: Path, store: Store) -> Path:
    """A table of predictions of all series, in the form of `voco predict`."""
    series = store.catalogue[["patient_id", "study_uid", "series_uid"]].assign(level="series")
    studies = series.drop_duplicates(["patient_id", "study_uid"]).assign(
        level="study", series_uid=""
    )
    table = pd.concat([series, studies], ignore_index=True).assign(status="predicted")
    for organ in ORGANS:
        for name, p in PROBABILITIES.items():
            table[f"calibrated_{organ}_{name}"] = p
        table[f"predicted_{organ}"] = "high"
        table[f"abstained_{organ}"] = "near_another_class" if organ == "spleen" else ""
    table.to_parquet(path)
    return path


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folder of the archive, and of the reports."""
    folder = tmp_path_factory.mktemp("reports")
    archive, root = folder / "archive", folder / "root"
    write_archive(archive)
    write_reports(archive, root, folder / "sr")
    return archive, folder / "sr"


def write_reports(
    archive: Path, root: Path, out: Path, *, keep_ids: bool = False
) -> dict[str, object]:
    root.mkdir(exist_ok=True)
    spec_file = root / "spec.json"
    spec_file.write_text(SPEC.canonical_json())
    options = IngestOptions(spec_file=spec_file, workers=1, keep_ids=keep_ids)
    summary = preprocess(archive, root, options)
    table = write_table(root / "table.parquet", Store.open(summary.stores["small"]))
    return write_structured_reports(
        table, archive, root, out, options, version="1.2", parameters=["run abc"]
    ).to_json()


def by_study(folder: Path) -> dict[str, pydicom.Dataset]:
    found = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]
    return {str(dataset.StudyInstanceUID): dataset for dataset in found}


def test_each_study_has_a_report_with_its_own_references(reports: tuple[Path, Path]) -> None:
    archive, folder = reports
    found = by_study(folder)
    assert set(found) == {"1.2.3", "1.2.4"}
    for study, dataset in found.items():
        items = dataset.get("CurrentRequestedProcedureEvidenceSequence", []) or (
            dataset.PertinentOtherEvidenceSequence
        )
        assert [item.StudyInstanceUID for item in items] == [study]
        referenced = {
            str(instance.ReferencedSOPInstanceUID)
            for series in items[0].ReferencedSeriesSequence
            for instance in series.ReferencedSOPSequence
        }
        expected = {
            str(image.SOPInstanceUID)
            for image in map(pydicom.dcmread, archive.rglob("*.dcm"))
            if image.StudyInstanceUID == study
        }
        assert referenced == expected
        assert len(expected) == (48 if study == "1.2.3" else 24)


def test_the_patient_is_the_sources(reports: tuple[Path, Path]) -> None:
    dataset = by_study(reports[1])["1.2.3"]
    assert dataset.PatientID == "patient-7"
    assert str(dataset.PatientName) == "Müller^Jörg"
    assert (dataset.AccessionNumber, dataset.StudyDate) == ("A1", "20260102")
    assert dataset.PatientBirthDate == ""
    assert dataset.Modality == "SR"
    assert dataset.PreliminaryFlag == "PRELIMINARY"
    assert dataset.VerificationFlag == "UNVERIFIED"


def test_highdicom_reads_probabilities_grades_and_the_algorithm(
    reports: tuple[Path, Path],
) -> None:
    read = sr.srread(next(reports[1].glob("*.dcm")))
    content = read.content
    assert isinstance(content, MeasurementReport)
    groups = {
        str(group.tracking_identifier): group for group in content.get_image_measurement_groups()
    }
    assert set(groups) == set(ORGANS)
    for organ, group in groups.items():
        (site,) = group.finding_sites
        assert (site.value.value, site.value.meaning) == SITES[organ]
        assert site.value.scheme_designator == "SCT"
        measured = {m.name.value: m for m in group.get_measurements()}
        assert {name: m.value for name, m in measured.items()} == {
            f"p_{name}": p for name, p in PROBABILITIES.items()
        }
        assert {(m.unit.value, m.unit.scheme_designator) for m in measured.values()} == {
            ("1", "UCUM")
        }
        (grade,) = group.get_qualitative_evaluations(name=codes.SCT.TraumaticInjury)
        expected = "82334004" if organ == "spleen" else "injury_high"  # Indeterminate
        assert grade.value.value == expected


def texts(dataset: pydicom.Dataset) -> set[str]:
    """All texts of the content tree."""
    found = {str(dataset.TextValue)} if "TextValue" in dataset else set()
    return found.union(*(texts(item) for item in dataset.get("ContentSequence", [])))


def test_the_report_says_what_made_it_and_what_it_is_for(reports: tuple[Path, Path]) -> None:
    for dataset in by_study(reports[1]).values():
        found = texts(dataset)
        assert {"voco", "1.2", "run abc"} <= found
        assert "Not a medical device. For research only." in found


def test_dcmtk_reads_the_report(reports: tuple[Path, Path]) -> None:
    dsrdump = shutil.which("dsrdump")
    if dsrdump is None:
        pytest.skip("no dsrdump; apt-get install dcmtk")
    for path in reports[1].glob("*.dcm"):
        done = subprocess.run(
            [dsrdump, "--print-all-codes", path], capture_output=True, text=True, check=True
        )
        assert done.stdout.startswith("Enhanced SR Document")
        assert '"Probability of an injury of high grade (AAST IV or V)")="0.625" (1,UCUM' in (
            done.stdout
        )
        assert 'Finding Site")=(10200004,SCT,"Liver")' in done.stdout
        assert not [line for line in done.stderr.splitlines() if line.startswith("E:")]


def test_only_the_owner_can_read_the_reports(reports: tuple[Path, Path]) -> None:
    assert reports[1].stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in reports[1].iterdir()} == {0o600}


def uids_in(folder: Path) -> dict[str, str]:
    """File name to SOP instance UID."""
    return {path.name: str(pydicom.dcmread(path).SOPInstanceUID) for path in folder.iterdir()}


def test_a_rerun_writes_the_same_reports_and_removes_others(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    write_archive(archive)
    write_reports(archive, tmp_path / "root", tmp_path / "sr")
    first = {
        path.name: pydicom.dcmread(path).SOPInstanceUID for path in (tmp_path / "sr").iterdir()
    }
    write_reports(archive, tmp_path / "root", tmp_path / "sr")
    again = {
        path.name: pydicom.dcmread(path).SOPInstanceUID for path in (tmp_path / "sr").iterdir()
    }
    assert first == again
    assert len(first) == 2
    (tmp_path / "sr" / "old.dcm").write_bytes(b"")
    write_reports(archive, tmp_path / "root", tmp_path / "sr")
    assert {path.name for path in (tmp_path / "sr").iterdir()} == set(first)


def test_nifti_has_no_report(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    affine = np.diag([2.0, 2.0, 5.0, 1.0])
    write_nifti(archive / "scan.nii.gz", body(), affine, "made up")
    summary = write_reports(archive, tmp_path / "root", tmp_path / "sr")
    assert summary == {"folder": str(tmp_path / "sr"), "reports": 0, "without": 1}
    assert "1 of 1 studies have no structured report: it needs DICOM" in caplog.text
    assert list((tmp_path / "sr").iterdir()) == []


def write_study(folder: Path, series: int = 1, **tags: object) -> None:
    uid = f"1.2.826.0.1.{series}"
    own = {"SeriesInstanceUID": uid, "SOPInstanceUID": lambda index: f"{uid}.{index + 1}"}
    write_slices(folder / f"s{series}", body((24, 60, 60), seed=series), tags=own | tags)


@pytest.mark.parametrize("study", ["../../evil", "1.2/3", "..", ""])
def test_a_study_id_of_a_header_names_no_other_folder(tmp_path: Path, study: str) -> None:
    write_study(tmp_path / "archive", StudyInstanceUID=study)
    out = tmp_path / "deep" / "sr"
    summary = write_reports(tmp_path / "archive", tmp_path / "root", out, keep_ids=True)
    found = [path for path in tmp_path.rglob("*.dcm") if "archive" not in path.parts]
    assert [path.parent for path in found] == [out] * int(study != "")
    assert summary["reports"] == len(found)


def test_two_patients_with_one_study_id_have_a_report_each(tmp_path: Path) -> None:
    for number, patient in enumerate(["A", "B"]):
        write_study(tmp_path / "archive", number + 1, PatientID=patient, StudyInstanceUID="1.2.3")
    summary = write_reports(tmp_path / "archive", tmp_path / "root", tmp_path / "sr")
    assert (summary["reports"], summary["without"]) == (2, 0)
    found = [pydicom.dcmread(path) for path in (tmp_path / "sr").iterdir()]
    assert sorted(str(dataset.PatientID) for dataset in found) == ["A", "B"]
    assert len({str(dataset.SeriesInstanceUID) for dataset in found}) == 2


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("StudyDate", "garbage"),
        ("StudyDate", ["20260101", "20260102"]),
        ("StudyTime", "12:30:00"),
        ("PatientBirthDate", "19991399"),
        ("PatientSex", "female"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*alue:UserWarning:pydicom")
def test_a_value_that_the_standard_does_not_allow_is_left_empty(
    tmp_path: Path, keyword: str, value: object
) -> None:
    write_study(tmp_path / "archive", **{keyword: value})
    assert write_reports(tmp_path / "archive", tmp_path / "root", tmp_path / "sr")["reports"] == 1
    (path,) = (tmp_path / "sr").iterdir()
    assert pydicom.dcmread(path).get(keyword) in ("", None)


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID"])
def test_images_that_cannot_be_referred_to_have_no_report(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, keyword: str
) -> None:
    write_study(tmp_path / "archive", **{keyword: ""})
    summary = write_reports(tmp_path / "archive", tmp_path / "root", tmp_path / "sr")
    assert (summary["reports"], summary["without"]) == (0, 1)
    assert "an image of the study has no UID" in caplog.text
    assert list((tmp_path / "sr").iterdir()) == []
