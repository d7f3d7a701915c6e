"""The real volumes to learn from, as a store: where they are present, never copied into here."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd
import pytest

from voco_data.ingest.run import preprocess


def ct_learning_folder(real_ct: Path) -> Path:
    """The folder of the files, beside `real_ct`; skips where it is absent."""
    folder = real_ct.parent / "ct-learning"
    if not (folder / "MANIFEST.csv").is_file():
        pytest.skip(f"no real CT files for learning at {folder}")
    return folder


def write_patient_table(scans: Path, path: Path) -> Path:
    """Write the table for `ids`: the manifest's patient of each file."""
    with (scans / "MANIFEST.csv").open(newline="") as file:
        owners = {row["file"]: row["patient_pseudonym"] for row in csv.DictReader(file)}
    table = pd.DataFrame({"series": owners.keys(), "patient_id": owners.values()})
    table.to_csv(path, index=False)
    return path


def make_ct_learning_store(scans: Path, folder: Path) -> Path:
    """Fill a store of the pretraining grid with the 24 volumes; returns its path."""
    table = write_patient_table(scans, folder / "ids.csv")
    summary = preprocess(
        scans, folder / "root", ids=table, keep_ids=True, specs=("pretrain",), workers=2
    )
    return Path(summary.stores["pretrain"])
