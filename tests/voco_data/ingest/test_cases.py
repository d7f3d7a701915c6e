"""Inputs that real archives and reports of other projects contained, with the expected outcome.

The files are not part of this repository. Other tests make the same faults in files of their own;
docs/real-world-data.md names them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import REPOSITORY
from voco_data.ingest.run import preprocess

pytestmark = [pytest.mark.real_ct, pytest.mark.xdist_group("real ct")]

MIXED_GEOMETRY, STORED = ("refused", "mixed_geometry"), ("stored", "")

OUTCOMES = {
    "01_msd_layout_one_patient": [STORED] * 3,
    "02_rescaled_twice_all_black": [("refused", "not_hu")],
    "03_clipped_to_window": [STORED],
    "04_blank_end_slice": [STORED] * 4,
    "05_gantry_tilt_loses_abdomen": [STORED],
    "06_rounding_splits_a_series": [MIXED_GEOMETRY] * 3,
    "07_one_series_two_patient_ids": [("refused", "mixed_patients")] * 2,
    "10_series_with_a_header_fault_is_no_series": [
        ("refused", "missing_geometry"),
        ("refused", "unreadable"),
        STORED,
    ],
    "11_mac_resource_forks_are_refused_series": [STORED],
    "13_slope_7_too_high": [("refused", "not_hu")],
    "14_excess_pixel_bytes": [STORED],
    "15_phases_by_time_or_percentage": [STORED] * 2,
    "18_frames_without_positions_named_duplicates": [("refused", "missing_geometry")],
    "20_last_file_lost": [("refused", "unreadable")] * 2,
    "21_n_slices_of_another_axis": [STORED],
    "22_pydicom_warning_shown": [STORED],
    "23_eight_bit_window_called_label_map": [("refused", "not_hu")],
}
"""Folder of a case to the sorted (status, reason) of its series."""


@pytest.fixture(scope="session")
def cases() -> Path:
    folder = Path(os.environ.get("VOCO_CASES", REPOSITORY.parent / "shared" / "cases"))
    if not folder.is_dir():
        pytest.skip(f"no cases at {folder}; set VOCO_CASES to their folder")
    return folder


def ledger(cases: Path, name: str, tmp_path: Path) -> pd.DataFrame:
    """The ledger of a run with the ids of the archive."""
    summary = preprocess(cases / name / "in", tmp_path / "root", keep_ids=True, workers=1)
    return pd.read_parquet(summary.ledger).astype({"reason": object}).fillna({"reason": ""})


@pytest.mark.filterwarnings("ignore:Expected implicit VR")  # pytest replaces voco's own filter
@pytest.mark.parametrize("name", OUTCOMES)
def test_every_series_ends_as_it_should(cases: Path, name: str, tmp_path: Path) -> None:
    rows = ledger(cases, name, tmp_path).query("kind == 'series'")
    assert sorted(zip(rows["status"], rows["reason"], strict=True)) == OUTCOMES[name]


def test_images_and_labels_of_one_name_are_patients_with_masks(cases: Path, tmp_path: Path) -> None:
    rows = ledger(cases, "01_msd_layout_one_patient", tmp_path)
    series = rows.query("kind == 'series'")
    assert sorted(series["patient_id"]) == ["liver_1", "liver_2", "liver_3"]
    assert set(series["flags"]) == {"mask"}
    assert set(rows.query("kind == 'file'")["reason"]) == {"mask"}


def test_clipping_and_blank_slices_and_a_tilt_leave_the_box(cases: Path, tmp_path: Path) -> None:
    """All are one scan; its box is from -848.2 to -412.5 mm."""
    for name, confidence, tolerance_mm in (
        ("03_clipped_to_window", 0.7, 15.0),
        ("04_blank_end_slice", 0.95, 0.1),
        ("05_gantry_tilt_loses_abdomen", 0.95, 15.0),
    ):
        for row in ledger(cases, name, tmp_path / name).itertuples():
            assert row.box_confidence == confidence
            assert row.box_z_low_mm == pytest.approx(-848.2, abs=tolerance_mm)
            assert row.box_z_high_mm == pytest.approx(-412.5, abs=tolerance_mm)


def test_a_series_with_a_header_fault_has_its_patient_and_size(cases: Path, tmp_path: Path) -> None:
    name = "10_series_with_a_header_fault_is_no_series"
    rows = ledger(cases, name, tmp_path)
    assert rows["kind"].tolist() == ["series"] * 3
    assert rows["n_slices"].tolist() == [12] * 3
    assert rows["patient_id"].str.len().min() > 0
    details = rows.query("status == 'refused'")["detail"]
    assert details.str.match(r"file \d+ of 12: .*(ImagePositionPatient|PixelSpacing)").all()


def test_resource_forks_are_not_medical(cases: Path, tmp_path: Path) -> None:
    rows = ledger(cases, "11_mac_resource_forks_are_refused_series", tmp_path)
    series, files = rows.query("kind == 'series'"), rows.query("kind == 'file'")
    assert series["patient_id"].tolist() == ["liver_1"]
    assert files["reason"].tolist() == ["not_medical"]


def test_the_size_counts_along_the_axes_of_the_patient(cases: Path, tmp_path: Path) -> None:
    (row,) = ledger(cases, "21_n_slices_of_another_axis", tmp_path).itertuples()
    assert (row.n_slices, row.rows, row.columns) == (30, 48, 48)


def test_refusals_name_the_file_and_what_is_wrong(cases: Path, tmp_path: Path) -> None:
    lost = ledger(cases, "20_last_file_lost", tmp_path / "lost")["detail"]
    assert lost.str.startswith("file 12 of 12: ").all()
    (wrong,) = ledger(cases, "13_slope_7_too_high", tmp_path / "slope")["detail"]
    assert "-7168" in wrong
    (excess,) = ledger(cases, "14_excess_pixel_bytes", tmp_path / "excess")["flags"]
    assert excess == "excess_pixel_bytes"


def test_no_warning_of_a_library_is_shown(cases: Path, tmp_path: Path) -> None:
    archive = cases / "22_pydicom_warning_shown" / "in"
    done = subprocess.run(
        [sys.executable, "-m", "flows.command", "preprocess", archive, "--root", tmp_path / "root"],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
    )
    assert "Warning" not in done.stderr
    assert "site-packages" not in done.stderr
