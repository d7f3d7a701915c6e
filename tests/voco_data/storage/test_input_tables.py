"""Tables that a user names: the limits, and what is no table. The readers of all such tables."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from voco_data.cropping.external_boxes import read_boxes
from voco_data.errors import InputError
from voco_data.ingest.patient_table import read_patients
from voco_data.labels.image_level import read_image_labels
from voco_data.labels.table import read_labels
from voco_data.labels.targets import ORGAN_TARGETS
from voco_data.paired_images.listing import list_images
from voco_data.storage import input_tables
from voco_data.storage.input_tables import iterate_rows, read_table
from voco_models.stages.organ_box_table import read_organ_boxes
from voco_models.stages.probing import read_domains


def read_organs(path: Path) -> object:
    return read_organ_boxes(path, ("liver",), ["a"])


LABELS = [name for group in ORGAN_TARGETS for name in group.columns]
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
    return read_table(path, "boxes", ("a", "b", "patient_id", *LABELS, "c0"))


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


def test_only_the_columns_that_are_asked_for_are_read(tmp_path: Path) -> None:
    table = pd.DataFrame({"a": [1], "other": ["x"], "nested": [[1, 2]]})
    table.to_parquet(tmp_path / "t.parquet", index=False)
    table.to_csv(tmp_path / "t.csv", index=False)
    for name in ("t.csv", "t.parquet"):
        assert read(tmp_path / name).columns.tolist() == ["a"]


def test_a_row_of_another_length_is_refused_without_its_text(tmp_path: Path) -> None:
    """pandas takes the first field of rows that are all too long for the name of the row."""
    path = tmp_path / "t.csv"
    for rows in ("1,2,Doe\n3,4,Doe\n", "1,2\n3,4,Doe\n", "Doe\n1,2\n"):
        path.write_text(f"a,b\n{rows}")
        message = refused(read, path)
        assert "Expected 2 columns" in message
        assert "Doe" not in message


def test_an_index_of_pandas_is_a_column(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pd.DataFrame({"a": ["x", "y"], "b": [1, 2]}).set_index("a").to_parquet(path)
    assert read(path)["a"].tolist() == ["x", "y"]


def write_bomb(path: Path, column: pa.Array, times: int, *, distinct: bool = False) -> Path:
    """A table of one column, many times; `distinct`: each text is written, also if it is equal."""
    schema = pa.schema([("patient_id", column.type)])
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=not distinct) as writer:
        for _ in range(times):
            writer.write_table(pa.table([column], schema=schema))
    return path


def test_a_table_that_expands_is_refused_before_it_is_read(tmp_path: Path) -> None:
    lines = pa.array(["A" * 2**20] * 40)
    path = write_bomb(tmp_path / "texts.parquet", lines, 20, distinct=True)  # 839 MB
    assert path.stat().st_size < 2**20
    before = pa.total_allocated_bytes()
    peak = pa.default_memory_pool().max_memory()
    assert "expected columns of at most 400,000,000 bytes" in refused(read, path)
    assert pa.total_allocated_bytes() - before < 2**20
    assert pa.default_memory_pool().max_memory() - peak < 2**20


def test_a_text_that_many_rows_have_is_kept_once(tmp_path: Path) -> None:
    lines = pa.DictionaryArray.from_arrays(pa.array(np.zeros(10_000, np.int32)), ["A" * 2**18])
    path = write_bomb(tmp_path / "texts.parquet", lines, 1)  # 2.6 GB as texts
    table = read(path)
    assert len(table) == 10_000
    assert table["patient_id"].nunique() == 1
    assert len({id(text) for text in table["patient_id"]}) == 1


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[1], [2]]),
        pa.array([{"x": 1}, {"x": 2}]),
        pa.array([b"1", b"2"]),
        pa.array([b"12", b"34"], pa.binary(2)),
    ],
    ids=["list", "struct", "binary", "fixed"],
)
def test_columns_of_other_types_are_refused(tmp_path: Path, column: pa.Array) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": column}), path)
    assert "expected numbers or text in the column 'a'" in refused(read, path)


def test_a_footer_of_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    size = 2**25
    path.write_bytes(b"PAR1" + bytes(size) + size.to_bytes(4, "little") + b"PAR1")
    assert "its footer is larger than" in refused(read, path)


def test_cells_that_are_blank_are_missing_or_text(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('a,b\nNA,""\nx,1\n')
    assert read(path).isna().to_numpy().tolist() == [[True, True], [False, False]]
    as_text = read_table(path, "boxes", ("a", "b"), blank_is_text=True)
    assert as_text.to_numpy().tolist() == [["NA", ""], ["x", "1"]]


def test_bytes_that_are_no_text_are_surrogates(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,b\n\xff,ok\n")
    assert read(path).to_numpy().tolist() == [["\udcff", "ok"]]


@pytest.mark.parametrize("number", ["1_0", "1e", "", "x", "True"])
def test_what_is_no_number_is_refused_in_boxes(tmp_path: Path, number: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"series_uid,z_low_mm,z_high_mm\na,{number},20\n")
    assert "row 1: expected" in refused(read_boxes, path)


def test_rows_are_made_one_at_a_time() -> None:
    table = pd.DataFrame({"a": ["x", None], "b": [1.5, 2.0]})
    rows = iterate_rows(table)
    assert next(rows) == {"a": "x", "b": 1.5}
    assert pd.isna(next(rows)["a"])
    assert next(rows, None) is None
