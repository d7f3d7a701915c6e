"""Values, frames and bytes that real archives hold, through the whole stage: outcome and words."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pandas as pd
import pydicom
import pytest

from tests.support.abdomen_scans import ranged_scan
from tests.support.ct_files import body, write_slices
from tests.voco_data.deidentification.test_burned_in import write_text
from voco_data.ingest.run import preprocess
from voco_data.store.reader import Store
from voco_data.store.spec import StoreSpec

SMALL = StoreSpec(profile="small", grid=(6, 24, 24))
LPS = np.diag([-2.0, -2.0, 5.0, 1.0])


def run(archive: Path, *specs: StoreSpec) -> tuple[pd.DataFrame, dict[str, Path]]:
    """The ledger, and the stores by profile."""
    folder = archive.parent
    path = folder / "specs.json"
    path.write_text(json.dumps([json.loads(spec.canonical_json()) for spec in specs or (SMALL,)]))
    summary = preprocess(archive, folder / "root", spec_file=path, workers=1, keep_ids=True)
    return pd.read_parquet(summary.ledger), {k: Path(v) for k, v in summary.stores.items()}


def only_row(archive: Path) -> pd.Series[Any]:
    table, _ = run(archive)
    assert len(table) == 1
    return table.iloc[0]


def write_nifti(path: Path, canonical: npt.NDArray[np.generic]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(canonical.transpose(2, 1, 0), LPS), path)


BROKEN: dict[str, Callable[[Path, npt.NDArray[np.int16]], object]] = {
    "rescaled twice": lambda p, hu: write_nifti(p / "a.nii.gz", np.maximum(hu - 1024, -2048)),
    "8 bits": lambda p, hu: write_nifti(
        p / "a.nii.gz", np.clip((hu + 160) * 255.0 / 400, 0, 255).astype(np.uint8)
    ),
    "slope 7": lambda p, hu: write_slices(
        p, hu, tags={"RescaleSlope": 7, "RescaleIntercept": -7168}
    ),
    "constant": lambda p, hu: write_slices(p, np.full_like(hu, 40)),
    "constant 0": lambda p, hu: write_nifti(p / "a.nii.gz", np.zeros_like(hu)),
    "no intercept": lambda p, hu: write_slices(p, hu, tags={"RescaleIntercept": None}),
    "16 bits too many": lambda p, hu: write_slices(p, hu, tags={"RescaleIntercept": 31_743}),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_hu_is_refused(tmp_path: Path, kind: str) -> None:
    BROKEN[kind](tmp_path / "archive", body())
    row = only_row(tmp_path / "archive")
    assert (row.kind, row.status, row.reason) == ("series", "refused", "not_hu")
    assert re.search(r"-?\d+", row.detail)


def test_a_label_map_is_no_ct_and_not_refused(tmp_path: Path) -> None:
    labels = np.digitize(body(), [-500, -80, 150]).astype(np.uint8)
    write_nifti(tmp_path / "archive" / "a.nii.gz", labels)
    row = only_row(tmp_path / "archive")
    assert (row.status, row.reason) == ("skipped", "not_ct")


def test_metal_beyond_16_bits_is_flagged(tmp_path: Path) -> None:
    hu = body().astype(np.int32)
    hu[3, 30, 30] = 40_000
    write_nifti(tmp_path / "archive" / "a.nii.gz", hu)
    row = only_row(tmp_path / "archive")
    assert (row.status, row["flags"]) == ("stored", "hu_clipped")


def test_dicom_beyond_16_bits_is_flagged(tmp_path: Path) -> None:
    """Stored 65535 without a sign, as HU 64511."""
    hu = body()
    paths = write_slices(tmp_path / "archive", hu)
    dataset = pydicom.dcmread(paths[3])
    pixels = dataset.pixel_array.copy()
    pixels[30, 30] = 65535
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(paths[3])
    assert only_row(tmp_path / "archive")["flags"] == "hu_clipped"


@pytest.mark.parametrize("excess", [2, 512, 60 * 60 * 2, 100_000])
def test_bytes_after_the_pixels_are_ignored(tmp_path: Path, excess: int) -> None:
    """PS3.5 8.1.1: receivers accept padding after the last pixel."""
    hu = body()
    write_slices(tmp_path / "plain" / "archive", hu)
    for path in write_slices(tmp_path / "padded" / "archive", hu):
        dataset = pydicom.dcmread(path)
        dataset.PixelData += bytes(range(256)) * (excess // 256) + bytes(excess % 256)
        dataset.save_as(path)
    plain, padded = (only_row(tmp_path / name / "archive") for name in ("plain", "padded"))
    assert (padded.status, padded["flags"]) == ("stored", "excess_pixel_bytes")
    assert padded.input_digest == plain.input_digest
    assert plain["flags"] == ""


def test_frames_without_positions_have_no_geometry(tmp_path: Path) -> None:
    (path,) = write_slices(tmp_path / "archive", body()[:1])
    dataset = pydicom.dcmread(path)
    dataset.NumberOfFrames = 12
    dataset.PixelData = (body((12, 60, 60)) + 1024).astype("<u2").tobytes()
    dataset.save_as(path)
    row = only_row(tmp_path / "archive")
    assert (row.status, row.reason) == ("refused", "missing_geometry")
    assert "12 frames" in row.detail
    assert row.n_slices == 12


@pytest.mark.parametrize("keep", [200, 2000, -1])
def test_a_torn_file_is_named_by_its_place(tmp_path: Path, keep: int) -> None:
    paths = write_slices(tmp_path / "archive", body())
    paths[-1].write_bytes(paths[-1].read_bytes()[:keep])
    table, _ = run(tmp_path / "archive")
    (refused,) = table.query("reason == 'unreadable'").itertuples()
    assert not table["detail"].str.contains("Error|Exception").any()
    if keep != 200:  # the index can tell which series it belongs to
        assert refused.detail.startswith("file 24 of 24: ")


def test_one_slice_is_one_slice(tmp_path: Path) -> None:
    write_slices(tmp_path / "archive", body()[:1])
    row = only_row(tmp_path / "archive")
    assert (row.reason, row.detail) == ("too_few_slices", "1 slice, at least 8 are needed")


def test_a_thin_slab_is_too_thin(tmp_path: Path) -> None:
    write_slices(tmp_path / "archive", body((12, 60, 60)), spacing_mm=(1.0, 2.0, 2.0))
    row = only_row(tmp_path / "archive")
    assert (row.status, row.reason) == ("refused", "too_thin")
    assert "12.0 mm" in row.detail


def test_text_in_the_pixels_is_refused(tmp_path: Path) -> None:
    hu = body((24, 256, 256))
    write_text(hu, "DOE JANE 1970", 18, 1500, slice(None))
    write_slices(tmp_path / "archive", hu)
    row = only_row(tmp_path / "archive")
    assert (row.status, row.reason) == ("refused", "burned_in")
    assert "DOE" not in row.detail


def test_a_scan_that_is_upside_down_is_stored_with_a_flag(tmp_path: Path) -> None:
    scan = ranged_scan(0, -330, 380, spacing_mm=5.0)
    write_slices(tmp_path / "archive", scan.hu[::-1], spacing_mm=scan.spacing_mm)
    row = only_row(tmp_path / "archive")
    assert (row.status, row["flags"]) == ("stored", "orientation_doubted")
    assert row.box_confidence < 0.5


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[: len(data) // 2],
    "no gzip": lambda data: b"x" * len(data),
    "bad bits": lambda data: data[:400] + bytes(200) + data[600:],
    "empty": lambda data: b"",
    "short voxels": lambda data: gzip.compress(gzip.decompress(data)[:9000]),
    "no header": lambda data: gzip.compress(bytes(9000)),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_nifti_is_described_in_words(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "archive" / "a.nii.gz"
    write_nifti(path, body())
    path.write_bytes(DAMAGE[kind](path.read_bytes()))
    table, _ = run(tmp_path / "archive")
    (row,) = table.itertuples()
    assert row.status in ("refused", "skipped")
    assert not re.search(r"[a-z]Error|[A-Z][a-z]+[A-Z]\w+File|Exception", row.detail)


@pytest.mark.parametrize(
    ("unit", "status"),
    [
        ("HU", "stored"),
        ("Hounsfield Units", "stored"),
        ("HOUNSFIELD", "stored"),
        ("hounsfield unit", "stored"),
        ("H.U.", "stored"),
        ("US", "stored"),
        ("HU_MOD", "skipped"),
        ("OD", "skipped"),
        ("Doe Jane", "skipped"),
    ],
)
def test_hounsfield_units_in_any_spelling(tmp_path: Path, unit: str, status: str) -> None:
    write_slices(tmp_path / "archive", body(), tags={"RescaleType": unit})
    table, _ = run(tmp_path / "archive")
    assert set(table["status"]) == {status}
    assert not table["detail"].str.contains("Doe|Jane").any()


def test_sizes_are_counted_along_the_axes_of_the_patient(tmp_path: Path) -> None:
    """KiTS: the first axis of the file is the patient's z."""
    hu = body((30, 48, 44))
    affine = np.array([[0, 0, -2.0, 0], [0, -3.0, 0, 0], [5.0, 0, 0, 0], [0, 0, 0, 1]])
    path = tmp_path / "archive" / "a.nii.gz"
    path.parent.mkdir()
    nibabel.save(nibabel.Nifti1Image(hu, affine), path)
    table, stores = run(tmp_path / "archive")
    (row,) = table.itertuples()
    assert (row.n_slices, row.rows, row.columns) == (30, 48, 44)
    assert (row.spacing_z_mm, row.spacing_y_mm, row.spacing_x_mm) == (5.0, 3.0, 2.0)
    line = Store.open(stores["small"]).catalogue.iloc[0]
    assert (line["n_slices"], line["rows"], line["columns"]) == (30, 48, 44)
    record = next(stores["small"].glob("volumes/records/*/*.json"))
    body_text = json.loads(json.loads(record.read_text())["record"])
    assert body_text["shape"] == [44, 48, 30]  # the order of the file


def test_a_sagittal_acquisition_counts_along_the_axes_of_the_patient(tmp_path: Path) -> None:
    hu = body((24, 40, 50))  # z, y, x of the patient
    write_slices(
        tmp_path / "archive",
        hu.transpose(2, 0, 1)[:, ::-1],
        spacing_mm=(2.0, 5.0, 3.0),
        step_mm=(2.0, 0, 0),
        orientation=(0, 1, 0, 0, 0, -1),
    )
    row = only_row(tmp_path / "archive")
    assert (row.status, row.n_slices, row.rows, row.columns) == ("stored", 24, 40, 50)


def test_a_window_that_shows_nothing_refuses_only_its_own_store(tmp_path: Path) -> None:
    write_slices(tmp_path / "archive", body())
    teeth = StoreSpec(profile="teeth", grid=(6, 24, 24), window_level_hu=2000, window_width_hu=500)
    table, stores = run(tmp_path / "archive", SMALL, teeth)
    (row,) = table.itertuples()
    assert (row.status, row.reason) == ("refused", "not_hu")
    assert "window of teeth" in row.detail
    assert len(Store.open(stores["small"]).catalogue) == 1
    assert len(Store.open(stores["teeth"]).catalogue) == 0
    again, _ = run(tmp_path / "archive", SMALL)
    assert again["status"].tolist() == ["cached"]


def test_no_warning_of_a_library_reaches_the_terminal(tmp_path: Path) -> None:
    """Explicit VR inside a file that claims implicit VR, odd values, and hostile numbers."""
    archive = tmp_path / "archive"
    for path in write_slices(archive / "a", body()):
        data = path.read_bytes()
        explicit, implicit = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0\0\0"
        assert explicit in data
        path.write_bytes(data.replace(explicit, implicit, 1))
    for path in write_slices(archive / "b", body(seed=1), tags={"RescaleSlope": "1e308"}):
        dataset = pydicom.dcmread(path)
        with_text = dataset.to_json_dict()
        assert with_text
        dataset.add_new(0x00200013, "LO", "seven\\x")
        dataset.save_as(path)
    write_slices(
        archive / "c",
        body(seed=2),
        tags={"ImagePositionPatient": lambda index: [1e307, 1e308, 1e308 * (index % 2)]},
    )
    image = nibabel.Nifti1Image(body().astype(np.float32).transpose(2, 1, 0), LPS)
    image.header.set_slope_inter(3e38, 1.0)
    (archive / "d").mkdir()
    nibabel.save(image, archive / "d" / "d.nii.gz")
    specs = tmp_path / "specs.json"
    specs.write_text(SMALL.canonical_json())
    words = ["preprocess", str(archive), "--root", str(tmp_path / "root"), "--spec-file"]
    done = subprocess.run(
        [sys.executable, "-m", "flows.command", *words, str(specs), "--workers", "2"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "Warning" not in done.stderr
    assert "site-packages" not in done.stderr
    (ledger,) = (tmp_path / "root").glob("runs/*/ledger.parquet")
    statuses = pd.read_parquet(ledger)["status"].tolist()
    assert "stored" in statuses
