"""All real CT files at once: what each becomes, and every figure that was measured elsewhere.

The table lists the expected status of every folder and file; SOURCES.md beside the files says why.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from voco_data.dicom.series.reader import read_series
from voco_data.ingest.run import preprocess
from voco_data.nifti.reader import OpenNifti, read_nifti
from voco_data.store.reader import Store
from voco_data.volumes.slice_spacing import GapPolicy
from voco_data.volumes.volume import Volume

pytestmark = [pytest.mark.real_ct, pytest.mark.xdist_group("real ct")]

SERIES = {
    "01_tcga_coad_siemens_abdpelvis": ("stored", "", 87),
    "02_totalseg_siemens_j2k_abdomen": ("stored", "", 20),
    "03_totalseg_nifti/example_ct.nii.gz": ("stored", "", 112),
    "03_totalseg_nifti/example_ct_sm.nii.gz": ("stored", "", 30),
    "04_ibsi_sts036_dicom_nifti_pair/CT_image.nii.gz": ("stored", "", 68),
    "04_ibsi_sts036_dicom_nifti_pair/dicom": ("stored", "", 68),
    "05_philips_phantom_gantry_tilt": ("stored", "", 16),
    "06_ctimage_transfer_syntaxes": ("refused", "duplicate_positions", 15),
    "07_dcmqi_ct3slice_liver_seg": ("refused", "too_few_slices", 3),
    "08_enhanced_multiframe": ("refused", "too_few_slices", 3),
    "08_enhanced_multiframe/same_volume_single_frames_23x38x3": ("refused", "too_few_slices", 3),
    "09_bad_geometry/all_slices_same_position": ("refused", "duplicate_positions", 4),
    "09_bad_geometry/missing_slice": ("refused", "missing_slices", 4),
    "10_mixed_ct_and_rtstruct_folder": ("refused", "too_few_slices", 2),
    "11_tiny_ct_series_16x16": ("refused", "missing_slices", 4),
}
SINGLES = 3
"""CT_small, explicit_VR-UN and bad_sequence: three readable slices, each a series of one."""

FILES = {
    "03_totalseg_nifti/example_seg.nii.gz": "mask",
    "03_totalseg_nifti/example_seg_dicom.nii.gz": "mask",
    "04_ibsi_sts036_dicom_nifti_pair/CT_mask.nii.gz": "mask",
    "04_ibsi_sts036_dicom_nifti_pair/rtstruct/RS.dcm": "not_an_image",
    "06_ctimage_transfer_syntaxes/"
    "CTImage.dcm_JPEGProcess1TransferSyntax_1.2.840.10008.1.2.4.50.dcm": "derived",
    "07_dcmqi_ct3slice_liver_seg/liver_dicomseg.dcm": "mask",
    "07_dcmqi_ct3slice_liver_seg/liver_seg.nrrd": "mask",
    "08_enhanced_multiframe/CT0012.fragmented_no_bot_jpeg_baseline.51.dcm": "derived",
    "08_enhanced_multiframe/eCT_Supplemental.dcm": "derived",
    "10_mixed_ct_and_rtstruct_folder/invalid_reference_rt.dcm": "not_an_image",
    "10_mixed_ct_and_rtstruct_folder/non_existent_reference_rt.dcm": "not_an_image",
    "10_mixed_ct_and_rtstruct_folder/rt.dcm": "not_an_image",
    "12_odd_single_files/ExplVR_LitEndNoMeta.dcm": "not_an_image",
    "12_odd_single_files/GH178_ct_dose_screen_no_pixels.dcm": "not_ct",
    "12_odd_single_files/MR_small_bigendian.dcm": "not_ct",
    "12_odd_single_files/MR_small_padded.dcm": "not_ct",
    "12_odd_single_files/MR_truncated.dcm": "not_ct",
    "12_odd_single_files/OT-PAL-8-face.dcm": "not_ct",
    "12_odd_single_files/TCGA-UCEC_topogram_localizer.dcm": "localizer",
    "12_odd_single_files/badVR.dcm": "not_ct",
    "12_odd_single_files/empty_charset_LEI.dcm": "unreadable",
    "12_odd_single_files/emri_small.dcm": "not_ct",
    "12_odd_single_files/image_dfl.dcm": "not_ct",
    "12_odd_single_files/meta_missing_tsyntax.dcm": "unreadable",
    "12_odd_single_files/no-pixel-data.dcm": "not_an_image",
    "12_odd_single_files/no_meta.dcm": "unreadable",
    "12_odd_single_files/rtdose.dcm": "not_ct",
    "12_odd_single_files/rtplan.dcm": "not_an_image",
    "12_odd_single_files/rtstruct.dcm": "not_an_image",
    "12_odd_single_files/test-SR.dcm": "not_an_image",
    "EXPECTED.json": "not_medical",
    "MANIFEST.csv": "not_medical",
    "SOURCES.md": "not_medical",
}

DICOM = {
    "01_tcga_coad_siemens_abdpelvis": (87, 512, 512),
    "02_totalseg_siemens_j2k_abdomen": (20, 512, 512),
    "04_ibsi_sts036_dicom_nifti_pair/dicom": (68, 192, 192),
    "05_philips_phantom_gantry_tilt": (16, 512, 512),
    "07_dcmqi_ct3slice_liver_seg": (3, 512, 512),
    "08_enhanced_multiframe/same_volume_single_frames_23x38x3": (3, 38, 23),
    "10_mixed_ct_and_rtstruct_folder": (2, 512, 512),
}
NOT_SLICES = ("seg", "rt")
"""Parts of the names of files that lie among the slices of these folders."""

NIFTI = (
    "03_totalseg_nifti/example_ct.nii.gz",
    "03_totalseg_nifti/example_ct_sm.nii.gz",
    "04_ibsi_sts036_dicom_nifti_pair/CT_image.nii.gz",
)


@pytest.fixture(scope="module")
def truth(real_ct: Path) -> dict[tuple[str, str], dict[str, Any]]:
    items = json.loads((real_ct / "EXPECTED.json").read_text())
    return {(item["path"], item["kind"]): item for item in items}


@pytest.fixture(scope="module")
def run(real_ct: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, pd.DataFrame]:
    """One run over everything, with its own ids."""
    summary = preprocess(real_ct, tmp_path_factory.mktemp("root"), keep_ids=True, workers=2)
    return summary, pd.read_parquet(summary.ledger)


def read(folder: Path) -> Volume:
    files = [f for f in sorted(folder.iterdir()) if not any(n in f.name for n in NOT_SLICES)]
    return read_series(files, gaps=GapPolicy(0.05), min_slices=2)


def test_every_series_ends_as_it_should(run: tuple[Any, pd.DataFrame]) -> None:
    table = run[1].query("kind == 'series'")
    singles = table[table["source"].str.startswith("12_odd_single_files/")]
    assert singles["reason"].tolist() == ["too_few_slices"] * SINGLES
    rest = table.drop(singles.index).astype(object)
    found = {
        row.source: (row.status, row.reason or "", int(row.n_slices)) for row in rest.itertuples()
    }
    assert found == SERIES


def test_every_other_file_has_its_reason(run: tuple[Any, pd.DataFrame]) -> None:
    table = run[1].query("kind == 'file'")
    assert dict(zip(table["source"], table["reason"], strict=True)) == FILES


def test_every_volume_is_on_both_grids(run: tuple[Any, pd.DataFrame]) -> None:
    wanted = {source for source, (status, _, _) in SERIES.items() if status == "stored"}
    for profile, grid in (("pretrain", (32, 192, 192)), ("finetune", (96, 256, 256))):
        store = Store.open(run[0].stores[profile])
        assert store.grid == grid
        assert set(store.catalogue["source"]) == wanted


def test_the_pair_is_one_volume_under_two_ids(run: tuple[Any, pd.DataFrame]) -> None:
    table = run[1].query("duplicate_of != ''")
    assert table["source"].tolist() == ["04_ibsi_sts036_dicom_nifti_pair/dicom"]
    assert table["flags"].str.contains("duplicate").all()
    assert table["duplicate_of"].tolist() == ["04_ibsi_sts036_dicom_nifti_pair/CT_image"]


def test_no_wrong_crop_with_high_confidence(run: tuple[Any, pd.DataFrame]) -> None:
    """A head phantom and an abdominal wall are no abdomens."""
    table = run[1].set_index("source")
    assert table.loc["05_philips_phantom_gantry_tilt", "box_confidence"] < 0.5
    tilted = table.loc["05_philips_phantom_gantry_tilt", "flags"]
    assert "tilt_corrected" in tilted


@pytest.mark.parametrize("folder", DICOM)
def test_dicom_volumes_match_what_was_measured(
    real_ct: Path, truth: dict[tuple[str, str], dict[str, Any]], folder: str
) -> None:
    volume, expected = read(real_ct / folder), truth[folder, "dicom CT"]
    assert volume.hu.shape == DICOM[folder]
    digest = hashlib.sha256(volume.hu.astype("<i2").tobytes()).hexdigest()
    assert digest == expected["sha256_int16_le_zyx_low_to_high"]
    (gap,) = expected["gap_perpendicular_mm"]
    normal = np.cross(volume.geometry.axes[2], volume.geometry.axes[1])
    step = volume.geometry.spacing_mm[0] * np.dot(volume.geometry.axes[0], normal)
    assert step == pytest.approx(float(gap), abs=5e-4)
    assert volume.geometry.spacing_mm[1:] == pytest.approx(expected["pixel_spacing_row_col"])
    assert volume.geometry.origin_mm == pytest.approx(expected["ipp_lowest"])


@pytest.mark.parametrize("path", NIFTI)
def test_nifti_volumes_match_what_was_measured(
    real_ct: Path, truth: dict[tuple[str, str], dict[str, Any]], path: str
) -> None:
    volume, expected = read_nifti(real_ct / path, min_slices=8), truth[path, "volume file"]
    assert volume.hu.shape == tuple(reversed(expected["size_xyz"]))
    assert volume.geometry.spacing_mm[::-1] == pytest.approx(expected["spacing_xyz"], abs=1e-5)
    assert volume.geometry.origin_mm == pytest.approx(expected["origin_lps"], abs=1e-3)
    columns = np.array(volume.geometry.axes[::-1]).T
    assert columns.ravel() == pytest.approx(expected["direction_lps"], abs=1e-6)
    assert (volume.hu.min(), volume.hu.max()) == (expected["min"], expected["max"])
    assert volume.hu.mean() == pytest.approx(expected["mean"], abs=1e-3)


def test_label_maps_match_what_was_measured(
    real_ct: Path, truth: dict[tuple[str, str], dict[str, Any]]
) -> None:
    for path in (
        "03_totalseg_nifti/example_seg.nii.gz",
        "03_totalseg_nifti/example_seg_dicom.nii.gz",
    ):
        with OpenNifti(real_ct / path) as file:
            values, geometry = np.stack(list(file.planes())), file.geometry
        expected = truth[path, "volume file"]
        assert geometry.shape == tuple(reversed(expected["size_xyz"]))
        assert values.mean() == pytest.approx(expected["mean"], abs=1e-3)
        assert geometry.origin_mm == pytest.approx(expected["origin_lps"], abs=1e-3)
