"""What lies on disk, read without voco: JSON, XXH3, Parquet, and plain bytes.

Written from voco_data/STORE.md alone, so that it cannot share a mistake with the code it checks.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import xxhash

VALID_CHUNK = 65536
SEALS = "seals.parquet"


@dataclass(frozen=True)
class Rows:
    """One store: its whole rows by number."""

    records: dict[int, dict[str, Any]]
    """Records that are there, parsed and checked."""
    listed: dict[int, dict[str, Any]]
    """Lines of the catalogue."""
    chunks: frozenset[int]
    """Rows that have a chunk file."""
    valid: frozenset[int]


def read_store(store: Path) -> Rows:
    """Everything a store holds. Raises AssertionError where it lies."""
    grid = json.loads((store / "volumes/zarr.json").read_text())["shape"][1:]
    records = dict(read_record(path) for path in (store / "volumes/records").glob("*/*.json"))
    chunks = {int(path.parts[-4]) for path in (store / "volumes/c").glob("*/0/0/0")}
    for row, record in records.items():
        data = (store / f"volumes/c/{row}/0/0/0").read_bytes()
        assert len(data) == math.prod(grid), f"{store.name} row {row}: torn chunk"
        digest = xxhash.xxh3_128_hexdigest(data)
        assert digest == record["chunk_checksum"], f"{store.name} row {row}: wrong chunk"
    listed = read_catalogue(store)
    for row, line in listed.items():
        assert row in records, f"{store.name} row {row}: listed without a record"
        for name in ("chunk_checksum", "input_digest", "series_uid", "patient_id", "source"):
            assert line[name] == records[row][name], f"{store.name} row {row}: {name} differs"
    valid = read_valid(store)
    assert valid <= set(records), f"{store.name}: valid without a record: {valid - set(records)}"
    return Rows(records, listed, frozenset(chunks), valid)


def read_record(path: Path) -> tuple[int, dict[str, Any]]:
    outer = json.loads(path.read_text())
    assert xxhash.xxh3_128_hexdigest(outer["record"].encode()) == outer["xxh3_128"], path
    record: dict[str, Any] = json.loads(outer["record"])
    assert record["row"] == int(path.stem)
    return record["row"], record


def read_catalogue(store: Path) -> dict[int, dict[str, Any]]:
    path = store / "volumes/catalogue.parquet"
    if not path.exists():
        return {}
    lines = pq.ParquetFile(path).read().to_pylist()
    assert [line["row"] for line in lines] == sorted({line["row"] for line in lines})
    return {line["row"]: line for line in lines}


def read_valid(store: Path) -> frozenset[int]:
    size = json.loads((store / "valid/zarr.json").read_text())["shape"][0]
    found: set[int] = set()
    for path in (store / "valid/c").glob("*"):
        if path.name.isdigit():
            data = path.read_bytes()
            assert len(data) == VALID_CHUNK
            first = int(path.name) * VALID_CHUNK
            found |= {first + index for index, flag in enumerate(data) if flag}
    return frozenset(row for row in found if row < size)


def check_root(root: Path) -> None:
    """No store under `root` lies, in whatever moment its run was killed."""
    for store in stores(root):
        read_store(store)


def check_finished(root: Path) -> None:
    """What must hold after a run has ended well, beside `check_root`."""
    for store in stores(root):
        rows = read_store(store)
        assert set(rows.records) == set(rows.listed) == rows.chunks == rows.valid, store.name
        for name in ("volumes", "valid"):
            size = json.loads((store / name / "zarr.json").read_text())["shape"][0]
            assert size == max(rows.records, default=-1) + 1
    left = leftovers(root)
    assert not left, left


def stores(root: Path) -> list[Path]:
    """Folders with group metadata: what is not a store yet, nobody opens."""
    return sorted(path.parent for path in root.glob("*.zarr/zarr.json"))


def leftovers(root: Path) -> list[str]:
    """Files that a finished run must not leave: temporary ones, and empty folders of runs."""
    temporary = re.compile(r"(^\..*\.tmp|\.partial|-journal|-wal)$")
    found = [p for p in root.rglob("*") if temporary.search(p.name)]
    found += [p for p in root.glob("runs/*") if not any(p.iterdir())]
    return sorted(str(path.relative_to(root)) for path in found)


def snapshot(root: Path) -> dict[str, Any]:
    """All that two roots over one archive must agree on: every file, and the bytes that count.

    Ledgers and reports carry times and are left out, as is what was noted of a file's times.
    Parquet is compared by its rows.
    """
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if not path.is_file() or name.startswith("runs/") or path.name == SEALS:
            continue
        if path.suffix == ".parquet":
            found[name] = sorted(map(repr, pq.ParquetFile(path).read().to_pylist()))
        else:
            found[name] = b"" if path.suffix in (".lock", ".fence") else path.read_bytes()
    return found


def committed(root: Path) -> dict[Path, tuple[int, int]]:
    """Records and chunks of whole rows: inode and time of change. A rerun leaves them alone."""
    found = {}
    for store in stores(root):
        for row in read_store(store).records:
            for path in (
                store / f"volumes/c/{row}/0/0/0",
                store / f"volumes/records/{row // 1000:06d}/{row:09d}.json",
            ):
                stat = path.stat()
                found[path] = (stat.st_ino, stat.st_mtime_ns)
    return found
