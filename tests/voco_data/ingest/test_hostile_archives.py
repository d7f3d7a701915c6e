"""Archives that mean harm: they cost themselves, and nothing outside the root is touched."""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest

from tests.support.ct_files import body, write_slices
from voco_data.cohort import SeriesEntry
from voco_data.dicom.header import read_dataset
from voco_data.errors import InputError, SeriesRefused
from voco_data.ingest.run import PreprocessSummary, preprocess
from voco_data.limits import MAX_VOXELS, check_voxels, deadline
from voco_data.reasons import TRANSIENT, Reason
from voco_data.store.spec import StoreSpec

SPEC = StoreSpec(profile="small", grid=(4, 16, 16))
ITEM, END_OF_ITEM = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0"


def run(archive: Path, root: Path, **options: Any) -> tuple[PreprocessSummary, pd.DataFrame]:
    root.parent.mkdir(exist_ok=True)
    specs = root.with_name("specs.json")
    specs.write_text(SPEC.canonical_json())
    summary = preprocess(archive, root, spec_file=specs, workers=1, **options)
    return summary, pd.read_parquet(summary.ledger)


def with_sequence(path: Path, value: bytes) -> None:
    """Put a sequence of undefined length in front of the pixel data of an explicit VR file."""
    data = path.read_bytes()
    at = data.index(b"\xe0\x7f\x10\x00OW")
    element = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF) + value
    path.write_bytes(data[:at] + element + b"\xfe\xff\xdd\xe0\0\0\0\0" + data[at:])


@pytest.mark.parametrize("ids", ["../../../escape", "/etc/passwd", "a\\b", "CON", "..", "x" * 60])
@pytest.mark.parametrize("keep_ids", [True, False])
def test_ids_never_become_paths(tmp_path: Path, ids: str, keep_ids: bool) -> None:
    tags = dict.fromkeys(("PatientID", "StudyInstanceUID", "SeriesInstanceUID"), ids)
    write_slices(tmp_path / "archive", body(), tags=tags)
    before = set(tmp_path.rglob("*"))
    summary, _ = run(tmp_path / "archive", tmp_path / "out" / "root", keep_ids=keep_ids)
    assert summary.stored == 1
    made = set(tmp_path.rglob("*")) - before
    assert all(path.is_relative_to(tmp_path / "out") for path in made)
    assert not (tmp_path.parent / "escape").exists()


def test_a_sequence_of_a_million_items_does_not_stall_the_index(tmp_path: Path) -> None:
    write_slices(tmp_path / "archive" / "good", body(seed=1), tags={"PatientID": "good"})
    (bad,) = write_slices(tmp_path / "archive" / "bad", body()[:1])
    with_sequence(bad, (ITEM + b"\0\0\0\0") * 2_000_000)
    summary, table = run(tmp_path / "archive", tmp_path / "out" / "root")
    assert (summary.stored, summary.series) == (1, 1)
    (row,) = table.query("kind == 'file'").to_dict("records")
    assert row["reason"] in ("unreadable", "time_limit")
    with pytest.raises(SeriesRefused, match="the header does not parse") as caught:
        read_dataset(bad, pixels=True)
    assert type(caught.value.__cause__).__name__ == "ReadLimitError"


def test_sequences_nested_ten_thousand_deep_are_unreadable(tmp_path: Path) -> None:
    (path,) = write_slices(tmp_path, body()[:1])
    head = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF)
    with_sequence(path, (ITEM + b"\xff\xff\xff\xff" + head) * 10_000)
    with pytest.raises(SeriesRefused) as caught:
        read_dataset(path, pixels=False)
    assert caught.value.reason == Reason.UNREADABLE


def test_sizes_are_limited_before_memory_is_taken() -> None:
    check_voxels((2471, 512, 796))  # the largest of FLARE23
    with pytest.raises(SeriesRefused):
        check_voxels((MAX_VOXELS, 2, 1))


def test_a_mask_added_later_rebuilds_its_series_alone(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    for name in ("a", "b"):
        write_slices(archive / name, body(seed=ord(name)), tags={"PatientID": name})
    out = tmp_path / "out" / "root"
    assert run(archive, out, keep_ids=True)[0].stored == 2
    labels = np.zeros((24, 60, 60), np.uint8)
    labels[5:15, 20:40, 10:30] = 1
    affine = np.array([[-2, 0, 0, 60], [0, -2, 0, 60], [0, 0, 5, -100], [0, 0, 0, 1.0]])
    image = nibabel.Nifti1Image(labels.transpose(2, 1, 0), affine)
    nibabel.save(image, archive / "b" / "liver_mask.nii.gz")
    summary, table = run(archive, out, keep_ids=True)
    assert (summary.stored, summary.cached) == (1, 1)
    rows = table.query("kind == 'series'").set_index("patient_id")
    assert rows.loc["b", "status"] == "stored"
    assert "mask" in rows.loc["b", "flags"].split()
    assert run(archive, out, keep_ids=True)[0].cached == 2


def test_a_box_made_elsewhere_is_cut_and_is_part_of_the_input(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    write_slices(archive / "a", body(), tags={"SeriesInstanceUID": "1.2.3.4"})
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("series_uid,z_low_mm,z_high_mm,made_by\n1.2.3.4,-72.5,-22.5,model-7\n")
    out = tmp_path / "out" / "root"
    assert run(archive, out)[0].stored == 1
    summary, table = run(archive, out, boxes=boxes)
    assert summary.stored == 1
    (row,) = table.query("kind == 'series'").to_dict("records")
    assert row["box_method"] == "given:model-7"
    # Slice k covers -102.5 + 5 k to -97.5 + 5 k mm.
    assert (row["box_z_low_mm"], row["box_z_high_mm"]) == (-72.5, -22.5)
    assert run(archive, out, boxes=boxes)[0].cached == 1


def test_a_table_from_a_store_has_the_pseudonyms_of_its_root(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    write_slices(archive / "a", body(), tags={"SeriesInstanceUID": "1.2.3.4"})
    out, boxes = tmp_path / "out" / "root", tmp_path / "boxes.csv"
    _, table = run(archive, out)
    (row,) = table.query("kind == 'series'").to_dict("records")
    assert row["series_uid"] != "1.2.3.4"
    made_by = "projection:0123456789ab"
    boxes.write_text(
        f"series_uid,z_low_mm,z_high_mm,made_by\n{row['series_uid']},-72.5,-22.5,{made_by}\n"
    )
    summary, table = run(archive, out, boxes=boxes)
    assert summary.stored == 1
    (row,) = table.query("kind == 'series'").to_dict("records")
    assert row["box_method"] == "projection"
    assert (row["box_z_low_mm"], row["box_z_high_mm"]) == (-72.5, -22.5)
    assert run(archive, out, boxes=boxes)[0].cached == 1
    other_run = boxes.read_text().replace(made_by, "projection:ba9876543210")
    boxes.write_text(other_run)
    assert run(archive, out, boxes=boxes)[0].stored == 1
    with pytest.raises(InputError, match="none of the table's 1 series is in the archive"):
        run(archive, tmp_path / "other" / "root", boxes=boxes)


def test_an_entry_is_plain_data() -> None:
    assert SeriesEntry("dicom", "p", "", "s", "", (), "").masks == ()


def test_a_slow_header_is_a_time_limit_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No handler for what a hostile file may raise takes the alarm for one of these."""
    (path,) = write_slices(tmp_path, body()[:1])
    monkeypatch.setattr(pydicom, "dcmread", lambda *_args, **_options: time.sleep(5))

    def read_slowly() -> None:
        with deadline(0.2):
            read_dataset(path, pixels=False)

    with pytest.raises(SeriesRefused) as caught:
        read_slowly()
    assert caught.value.reason == Reason.TIME_LIMIT
    assert caught.value.reason in TRANSIENT


@pytest.mark.parametrize("kind", ["nan intercept", "no orientation"])
def test_a_broken_mask_costs_its_series_nothing(tmp_path: Path, kind: str) -> None:
    archive = tmp_path / "archive"
    write_slices(archive, body())
    image = nibabel.Nifti1Image(np.ones((60, 60, 24), np.uint8), np.diag([2.0, 2.0, 5.0, 1.0]))
    if kind == "nan intercept":
        image.header["scl_slope"], image.header["scl_inter"] = 1, np.nan
    else:
        image.header["srow_x"] = image.header["srow_y"] = 0
    header = bytearray(image.to_bytes())
    if kind == "nan intercept":
        header[112:120] = struct.pack("<ff", 1.0, float("nan"))
    (archive / "liver_mask.nii").write_bytes(bytes(header))
    summary, table = run(archive, tmp_path / "out" / "root")
    assert summary.stored == 1
    (row,) = table.query("kind == 'series'").to_dict("records")
    assert "mask_unreadable" in row["flags"] or "mask_misplaced" in row["flags"]
