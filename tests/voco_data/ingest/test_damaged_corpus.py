"""Faults of single files that archives have shown: each is a row with a reason, and no more."""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pydicom
import pytest

from tests.support import bombs
from tests.support.ct_files import body, write_slices
from voco_data.ingest.run import preprocess
from voco_data.store.spec import StoreSpec

SPEC = StoreSpec(profile="small", grid=(4, 16, 16))


def _replace(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


def meta_vr(path: Path) -> None:
    """A value representation that no edition of the standard has, in the meta information."""
    _replace(path, b"\x02\x00\x10\x00UI", b"\x02\x00\x10\x00ZZ")


def rows_as_ul(path: Path) -> None:
    """Rows as UL of four bytes, where US of two belongs."""
    _replace(path, b"\x28\x00\x10\x00US\x02\x00\x3c\x00", b"\x28\x00\x10\x00UL\x04\x00\x3c\0\0\0")


def palette(path: Path) -> None:
    """Palette colour whose indices lie far beyond its table of four colours."""
    dataset = pydicom.dcmread(path)
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    for colour in ("Red", "Green", "Blue"):
        tag = pydicom.datadict.tag_for_keyword(f"{colour}PaletteColorLookupTableDescriptor")
        dataset.add_new(tag, "US", [4, 0, 16])
        setattr(dataset, f"{colour}PaletteColorLookupTableData", bytes(8))
    dataset.save_as(path)


def gzipped(path: Path) -> None:
    """A gzip stream of 4 GB under the name of a slice."""
    bombs.gzip_bomb(path)


def zipped(path: Path) -> None:
    """A ZIP archive under the name of a slice."""
    bombs.zip_bomb(path)


def nested(depth: int) -> Callable[[Path], None]:
    """A sequence in a sequence, `depth` times, before the pixel data."""

    def damage(path: Path) -> None:
        data = path.read_bytes()
        at = data.index(b"\xe0\x7f\x10\x00OW")
        opened = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF)
        item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
        closed = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
        path.write_bytes(data[:at] + (opened + item) * depth + closed * depth + data[at:])

    return damage


def vendor_rle(path: Path) -> None:
    """RLE with a segment for each byte, in a private transfer syntax of the vendor."""
    dataset = pydicom.dcmread(path)
    dataset.compress(pydicom.uid.RLELossless, encoding_plugin="pydicom")
    dataset.file_meta.TransferSyntaxUID = "1.2.840.113619.5.2.5"
    dataset.save_as(path)


def rle_with_wrong_segments(path: Path) -> None:
    """RLE whose header names 15 segments and offsets outside the frame."""
    dataset = pydicom.dcmread(path)
    dataset.compress(pydicom.uid.RLELossless, encoding_plugin="pydicom")
    head = struct.pack("<16I", 15, *range(64, 2**31, 2**31 // 15)[:15])
    value = dataset.PixelData
    at = value.index(struct.pack("<2I", 2, 64))
    dataset.PixelData = value[:at] + head + value[at + 64 :]
    dataset.save_as(path)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "meta_vr": meta_vr,
    "rows_as_ul": rows_as_ul,
    "palette": palette,
    "gzip": gzipped,
    "zip": zipped,
    "nested_250": nested(250),
    "nested_2000": nested(2_000),
    "vendor_rle": vendor_rle,
    "wrong_rle": rle_with_wrong_segments,
}


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, str]:
    """The ledger of an archive with one damaged series for each fault, and what was printed."""
    folder = tmp_path_factory.mktemp("corpus")
    write_slices(folder / "archive" / "good", body(seed=100), tags={"PatientID": "good"})
    for number, (name, damage) in enumerate(DAMAGES.items()):
        paths = write_slices(folder / "archive" / name, body(seed=number), tags={"PatientID": name})
        damage(paths[12])
    (folder / "spec.json").write_text(SPEC.canonical_json())
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
        summary = preprocess(
            folder / "archive",
            folder / "root",
            spec_file=folder / "spec.json",
            workers=1,
            keep_ids=True,
        )
    return pd.read_parquet(summary.ledger), printed.getvalue()


READ_ANYWAY = {"rows_as_ul"}
"""A fault that leaves no doubt of what the slice says: its series is stored."""


@pytest.mark.parametrize("name", DAMAGES)
def test_a_fault_costs_one_series_with_a_reason(
    ledger: tuple[pd.DataFrame, str], name: str
) -> None:
    rows = ledger[0].query("kind == 'series' and patient_id == @name").to_dict("records")
    assert len(rows) == 1
    stored = name in READ_ANYWAY
    assert rows[0]["status"] == ("stored" if stored else "refused"), rows[0]
    assert bool(rows[0]["reason"]) is not stored
    assert bool(rows[0]["detail"]) is not stored
    assert "\n" not in rows[0]["detail"]


def test_the_other_series_is_stored_and_nothing_is_a_traceback(
    ledger: tuple[pd.DataFrame, str],
) -> None:
    table, printed = ledger
    assert table.query("patient_id == 'good'")["status"].tolist() == ["stored"]
    assert "Traceback" not in printed
    assert "internal_error" not in table["reason"].tolist()
    assert len(table.query("kind == 'series'")) == 1 + len(DAMAGES)
    (picture,) = table.query("kind == 'file'").to_dict("records")
    assert (picture["source"], picture["reason"]) == ("palette/0012.dcm", "derived")
