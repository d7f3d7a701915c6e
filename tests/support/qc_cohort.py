"""Ledgers and previews of made-up series for the QC page: no archive is read for them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.support.ct_files import body
from voco_data.qc import ledger, preview
from voco_data.qc.ledger import LedgerRow
from voco_data.storage.local import LocalStorage
from voco_data.volumes.geometry import Box
from voco_data.volumes.hu_histogram import HuHistogram

REFUSED = (
    ("too_few_slices", "4 slices, at least 8 are needed"),
    ("gantry_tilt", "slices shift 0.793 mm in their plane at every step"),
    ("missing_slices", "a gap of 10 mm between slices 5 mm apart"),
)


def write(root: Path, rows: list[LedgerRow], *, pictures: bool = True) -> Path:
    """Write the ledger of `rows` under `root`, with a preview for each that was kept."""
    for row in rows:
        if pictures and row.input_digest:
            path = root / preview.key_of(row.input_digest)
            path.parent.mkdir(parents=True, exist_ok=True)
            # Bytes after the end of a JPEG make each data URI another, so that the browser decodes
            # every picture and not eight of them.
            path.write_bytes(_picture(int(row.input_digest, 16) % 8) + row.input_digest.encode())
    run = root / "runs" / "run"
    ledger.write(LocalStorage(run), rows)
    return run / ledger.KEY


def kept(number: int) -> LedgerRow:
    """An unremarkable series: all lie close to 0.75 by 0.75 by 2.5 mm and 400 mm."""
    wobble = (number * 37 % 21 - 10) / 10  # -1 to 1, another for each neighbour
    spacing = round(0.75 + 0.03 * wobble, 3)
    low, high = -400.0 + 5 * wobble, 15 * wobble
    return LedgerRow(
        "series",
        f"patient_{number % 700:04d}/series_{number:05d}",
        f"1.2.826.0.1.3680043.8.498.{10**15 + number * 7919}",
        f"patient_{number % 700:04d}",
        "cached" if number % 5 == 0 else "stored",
        n_slices=160 + round(6 * wobble),
        rows=512,
        columns=512,
        spacing_z_mm=2.5,
        spacing_y_mm=spacing,
        spacing_x_mm=spacing,
        z_low_mm=low,
        z_high_mm=high,
        transfer_syntax="1.2.840.10008.1.2.1",
        box_method="profile",
        box_z_low_mm=low + 60 + 10 * wobble,
        box_z_high_mm=high - 70 + 5 * wobble,
        hu_p5=-105.0 + wobble,
        hu_median=32.0 + wobble,
        hu_p95=170.0 + 2 * wobble,
        box_confidence=round(0.85 + 0.1 * wobble, 3),
        input_digest=f"{number:032x}",
    )


def refused(number: int) -> LedgerRow:
    reason, detail = REFUSED[number % len(REFUSED)]
    source, uid = f"odd/series_{number:05d}", f"1.2.3.{number}"
    return LedgerRow("series", source, uid, f"odd_{number}", "refused", reason, detail, 4)


def cohort(series: int) -> Iterator[LedgerRow]:
    """Mostly plain series; about 1 in 50 refused, 1 in 100 no CT, 1 in 40 odd."""
    for number in range(series):
        row = kept(number)
        if number % 50 == 7:
            yield refused(number)
        elif number % 100 == 11:
            text = "SC: a secondary capture"
            yield LedgerRow("series", row.source, row.series_uid, "x", "skipped", "derived", text)
        elif number % 40 == 13:
            yield replace(row, box_confidence=0.3, box_method="whole")
        elif number % 40 == 33:
            yield replace(row, spacing_z_mm=8.0, n_slices=50)
        else:
            yield row


@cache
def _picture(seed: int) -> bytes:
    """A JPEG with the noise, and so with the size, of a real one."""
    hu = (body((80, 160, 160), seed) + _noise((80, 160, 160), seed)).astype(np.int16)
    box = Box((12 + seed, 20, 8), (64, 140, 152), "profile", 0.9)
    with tempfile.TemporaryDirectory() as folder:
        storage = LocalStorage(Path(folder))
        histogram = HuHistogram.from_box(hu, box)
        preview.write(storage, "picture.jpg", hu, (5.0, 2.4, 2.4), box, histogram)
        return storage.read("picture.jpg")


def _noise(shape: tuple[int, int, int], seed: int) -> npt.NDArray[np.int16]:
    return np.random.default_rng(seed).normal(0, 25, shape).astype(np.int16)
