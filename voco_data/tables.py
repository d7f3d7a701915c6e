"""Parquet files that cannot lie: pages carry checksums, and what does not read is said so."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from voco_data import atomic
from voco_data.errors import StoreCorrupt


def write(path: Path, table: pd.DataFrame) -> None:
    """Write a table, whole or not at all."""
    with atomic.replacing(path) as temporary:
        table.to_parquet(temporary, index=False, write_page_checksum=True)


def read(path: Path, columns: Mapping[str, str]) -> pd.DataFrame | None:
    """The columns of a table, with these types; None where there is no file.

    Raises StoreCorrupt where it is damaged, or lacks a column.
    """
    if not path.exists():
        return None
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read(list(columns)).to_pandas(ignore_metadata=True)
        missing = sorted(set(columns) - set(table.columns))
        if missing:
            raise StoreCorrupt(f"{path}: the table lacks the columns {missing}")
        found: pd.DataFrame = table[list(columns)].astype(dict(columns))
        return found
    except StoreCorrupt:
        raise
    except Exception as error:  # a damaged footer makes Arrow raise anything
        raise StoreCorrupt(f"{path}: the table cannot be read ({type(error).__name__})") from error
