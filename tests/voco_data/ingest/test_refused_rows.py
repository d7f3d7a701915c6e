"""Rows of refused series: what they count, and which of two reasons speaks first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw, ImageFont

from scripts.drawn_text import TextStyle, burn_in, render
from tests.support.ct_files import body, write_slices
from voco_data.ingest.options import IngestOptions
from voco_data.ingest.run import preprocess
from voco_data.store.spec import StoreSpec

SMALL = StoreSpec(profile="small", grid=(6, 24, 24))


@pytest.fixture
def run(tmp_path: Path) -> Callable[[], pd.DataFrame]:
    """Bring the store up to date with `tmp_path/in`; returns the rows of series."""
    specs = tmp_path / "specs.json"
    specs.write_text(f"[{SMALL.canonical_json()}]")

    def series_rows() -> pd.DataFrame:
        options = {"keep_ids": True, "workers": 1, "spec_file": specs}
        summary = preprocess(tmp_path / "in", tmp_path / "root", **options)
        return pd.read_parquet(summary.ledger).query("kind == 'series'").set_index("source")

    return series_rows


def test_a_refused_nifti_has_the_number_of_slices_of_its_header(
    tmp_path: Path, run: Callable[[], pd.DataFrame]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    hu = body((24, 60, 60))
    affine = np.diag([-2.0, -2, 5, 1])
    upright = hu.transpose(2, 1, 0)
    sagittal = affine[:, [1, 2, 0, 3]]  # the second axis of the file is the patient's z
    files = {
        "few.nii.gz": (upright[:, :, :3], affine),
        "thin.nii.gz": (upright, np.diag([-2.0, -2, 0.5, 1])),
        "areas.nii.gz": ((upright > 0).astype(np.int16), affine),
        "noise.nii.gz": (hu.transpose(1, 0, 2) * 9, sagittal),
        "far.nii.gz": (upright, np.diag([-2.0, -2, 5e30, 1])),
    }
    for name, (values, matrix) in files.items():
        nibabel.save(nibabel.Nifti1Image(values, matrix), folder / name)
    (folder / "torn.nii.gz").write_bytes((folder / "thin.nii.gz").read_bytes()[:-2000])
    (folder / "junk.nii.gz").write_bytes(b"junk" * 100)
    table = run()
    assert table["reason"].to_dict() == {
        "few.nii.gz": "too_few_slices",
        "thin.nii.gz": "too_thin",
        "areas.nii.gz": "not_ct",
        "noise.nii.gz": "not_hu",
        "far.nii.gz": "bad_geometry",
        "torn.nii.gz": "unreadable",
        "junk.nii.gz": "unreadable",
    }
    counts = table["n_slices"].dropna().astype(int).to_dict()
    assert counts == {
        "few.nii.gz": 3,
        "thin.nii.gz": 24,
        "areas.nii.gz": 24,
        "noise.nii.gz": 24,
        "torn.nii.gz": 24,
    }
    assert "no scanner goes beyond" in table.loc["far.nii.gz", "detail"]


def test_bright_text_on_a_small_slice_is_called_text(
    tmp_path: Path, run: Callable[[], pd.DataFrame]
) -> None:
    hu = body((12, 64, 64))
    picture = Image.new("L", (64, 64))
    drawing = ImageDraw.Draw(picture)
    drawing.fontmode = "1"
    drawing.text((1, 1), "DOE JANE", 255, ImageFont.load_default(10))
    drawing.text((1, 50), "1970 01 02", 255, ImageFont.load_default(10))
    hu[:, np.asarray(picture) > 0] = 3071
    write_slices(tmp_path / "in", hu)
    assert run()["reason"].tolist() == ["burned_in"]


def test_a_strict_search_reads_stored_series_again(tmp_path: Path) -> None:
    """Text on a slice that the usual search leaves out."""
    specs = tmp_path / "specs.json"
    specs.write_text(f"[{SMALL.canonical_json()}]")
    hu = body((40, 128, 128))
    drawing = hu[1:2]
    style = TextStyle(cap_px=12)
    assert burn_in(drawing, render("JANE DOE", style), style, np.random.default_rng(0))
    write_slices(tmp_path / "in", hu)

    def found(**changes: Any) -> list[str]:
        options = IngestOptions(keep_ids=True, workers=1, spec_file=specs)
        summary = preprocess(tmp_path / "in", tmp_path / "root", options, **changes)
        (row,) = pd.read_parquet(summary.ledger).to_dict("records")
        return [row["status"], row["reason"], row["flags"]]

    assert found() == ["stored", "", ""]
    refused = ["refused", "burned_in", "earlier_volume"]
    assert found(burned_in="strict") == refused
    assert found(burned_in="strict") == refused, "the next run knows it"
    assert found() == ["cached", "", ""]


def test_a_link_to_a_missing_slice_refuses_its_series(
    tmp_path: Path, run: Callable[[], pd.DataFrame]
) -> None:
    last = write_slices(tmp_path / "in", body())[-1]
    last.rename(tmp_path / "elsewhere.dcm")
    last.symlink_to(".git/annex/objects/x.dcm")
    (row,) = run().to_dict("records")
    assert (row["status"], row["reason"], row["n_slices"]) == ("refused", "io_error", 24)
    last.unlink()
    (tmp_path / "elsewhere.dcm").rename(last)
    assert run()["status"].tolist() == ["stored"], "the next run tries again"
