"""Tables that a user names: the limits, and what is no table. The readers of all such tables."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from voco_data.cropping.external_boxes import read_boxes
from voco_data.errors import InputError
from voco_data.ingest.patient_table import read_patients
from voco_data.labels.image_level import read_image_labels
from voco_data.labels.table import read_labels
from voco_data.paired_images.listing import list_images
from voco_data.storage import input_tables
from voco_data.storage.input_tables import read_table
from voco_models.stages.organ_box_table import read_organ_boxes
from voco_models.stages.probing import read_domains


def read_organs(path: Path) -> object:
    return read_organ_boxes(path, ("liver",), ["a"])


READERS: tuple[Callable[[Path], Any], ...] = (
    read_boxes, read_patients, read_labels, read_image_labels, list_images, read_organs,
    read_domains,
)  # fmt: skip


def refused(call: Callable[[Path], Any], path: Path) -> str:
    with pytest.raises(InputError) as caught:
        call(path)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


def read(path: Path) -> pd.DataFrame:
    return read_table(path, "boxes", dtype="string")


def test_both_kinds_are_read(tmp_path: Path) -> None:
    table = pd.DataFrame({"a": ["1", "2"], "b": ["x", "y,z"]}, dtype="string")
    table.to_csv(tmp_path / "t.csv", index=False)
    table.to_parquet(tmp_path / "t.PARQUET", index=False)
    for name in ("t.csv", "t.PARQUET"):
        assert read(tmp_path / name).astype(str).to_dict("list") == {
            "a": ["1", "2"],
            "b": ["x", "y,z"],
        }


def test_rows_and_columns_have_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_tables, "MAX_ROWS", 3)
    monkeypatch.setattr(input_tables, "MAX_COLUMNS", 2)
    for suffix in ("csv", "parquet"):
        path = tmp_path / f"t.{suffix}"

        def write(rows: int, columns: int, path: Path = path) -> Path:
            table = pd.DataFrame({f"c{i}": ["x"] * rows for i in range(columns)})
            write_to = table.to_csv if path.suffix == ".csv" else table.to_parquet
            write_to(path, index=False)
            return path

        assert len(read(write(3, 2))) == 3
        assert "expected at most 3 rows" in refused(read, write(4, 2))
        assert "expected at most 2 columns, got 3" in refused(read, write(3, 3))


def test_a_million_columns_are_refused_by_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    header = ",".join(f"c{i}" for i in range(400_000))
    path.write_text(f"{header}\n" + "1," * 399_999 + "1\n")
    assert "expected at most 10,000 columns, got 400,000" in refused(read, path)
    path.write_text("c" * (5 << 20))
    assert "its first line is longer than" in refused(read, path)


def test_a_column_that_comes_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\ufeffa,b,a\r\n1,2,3\r\n")
    assert "the column 'a' comes twice" in refused(read, path)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_what_is_no_table_is_one_line(
    tmp_path: Path, reader: Callable[[Path], Any], suffix: str
) -> None:
    path = tmp_path / f"t{suffix}"
    refused(reader, path)  # it is missing
    for content in (
        b"",
        b"PAR1",
        b"PAR1\0\0\0\0PAR1",
        b"\xff\xfe\0",
        b'a,b\n"1,2\n3',
        b"a\n1,2,3\n4,5",
    ):
        path.write_bytes(content)
        refused(reader, path)
    path.unlink()
    os.mkfifo(path)
    message = refused(reader, path)
    assert "got a pipe or a device" in message or "got nothing" in message
