"""Real scans as NIfTI, with collections and phases in their names: none is a mask by its name."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd
import pytest

from tests.support.ct_learning import ct_learning_folder, write_patient_table
from voco_data.ingest.run import preprocess
from voco_data.layouts.index import index_archive

pytestmark = [pytest.mark.real_ct, pytest.mark.xdist_group("real ct")]

MASK = "019_mask_liver-spleen-kidneys-and-others.nii.gz"
IMAGE_OF_MASK = "019_LIDC-IDRI_0001.nii.gz"


@pytest.fixture
def scans(real_ct: Path) -> Path:
    return ct_learning_folder(real_ct)


def patients(scans: Path) -> dict[str, str]:
    """Patient by file, of the manifest that the files came with."""
    with (scans / "MANIFEST.csv").open(newline="") as file:
        return {row["file"]: row["patient_pseudonym"] for row in csv.DictReader(file)}


def test_every_scan_is_a_series_and_the_label_volume_the_mask_of_its_own(scans: Path) -> None:
    with index_archive(scans) as cohort:
        entries = [cohort.entry(head.number) for head in cohort.heads()]
        odd = {file.path: file.reason.value for file in cohort.odd_files()}
    assert {entry.source for entry in entries} == set(patients(scans)) - {MASK}
    assert {e.source: [m.path for m in e.masks] for e in entries if e.masks} == {
        IMAGE_OF_MASK: [MASK]
    }
    assert odd == {MASK: "mask", "MANIFEST.csv": "not_medical", "SOURCES.md": "not_medical"}


@pytest.mark.slow
def test_all_scans_are_stored_under_their_patients(scans: Path, tmp_path: Path) -> None:
    table = write_patient_table(scans, tmp_path / "ids.csv")
    owners = patients(scans)
    summary = preprocess(
        scans, tmp_path / "root", ids=table, keep_ids=True, specs=("pretrain",), workers=2
    )
    rows = pd.read_parquet(summary.ledger).query("kind == 'series'")
    assert rows["status"].tolist() == ["stored"] * 24
    found = dict(zip(rows["source"], rows["patient_id"], strict=True))
    assert found == {file: patient for file, patient in owners.items() if file != MASK}
    assert len(set(found.values())) == 14
    flags = dict(zip(rows["source"], rows["flags"], strict=True))
    assert {source for source, text in flags.items() if "mask" in text} == {IMAGE_OF_MASK}
    assert "mask" in flags[IMAGE_OF_MASK].split()
