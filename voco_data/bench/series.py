"""The series that every row of the benchmark reads: a noisy phantom scan, as RLE and as raw."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from voco_data.cohort import SeriesEntry
from voco_data.phantom import (
    DicomStyle,
    PatientModel,
    Scan,
    acquire,
    make_patient,
    make_scan,
    nearest_128th,
    render_scan,
    write_series,
)

SLICES, MATRIX = 300, 512
SEED = 20_230
NOISE_HU = 35.0
"""Noise of thin slices. A slice in RLE has about as many bytes as those of RATIC."""
SYNTAXES = ("rle", "raw")


def write_bench_series(folder: Path, *, slices: int = SLICES, matrix: int = MATRIX) -> None:
    """Write `folder`/rle and `folder`/raw: one scan, chest to thigh, in two transfer syntaxes."""
    rng = np.random.default_rng(SEED)
    patient = make_patient(rng)
    scan = _scan(rng, patient, slices, matrix)
    hu = acquire(render_scan(patient, scan), scan)
    for name in SYNTAXES:
        style = DicomStyle(transfer_syntax="rle" if name == "rle" else "explicit")
        write_series(folder / name, patient, scan, style, hu=hu)


def entry_of(folder: Path, base: Path) -> SeriesEntry:
    """The series in `folder`, as the index of `base` would have it."""
    files = sorted(path.relative_to(base).as_posix() for path in folder.iterdir())
    return SeriesEntry(
        kind="dicom",
        patient_id="bench",
        study_uid="bench",
        series_uid=folder.name,
        source=folder.relative_to(base).as_posix(),
        files=tuple(files),
        stat_digest="bench",
    )


def _scan(rng: np.random.Generator, patient: PatientModel, slices: int, matrix: int) -> Scan:
    """Exactly `slices` planes over the range of a chest-to-thigh scan."""
    scan = make_scan(
        rng, patient, matrix=matrix, slices=slices, coverage="chest_to_thigh", phase="portal"
    )
    spacing = nearest_128th(scan.spacing_mm * scan.slices / slices)
    return replace(scan, slices=slices, spacing_mm=spacing, noise_hu=NOISE_HU)
