"""The index takes the same memory for a thousand files and for two hundred thousand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.headers import write_header

PROGRAM = """
import json, sys, time, tracemalloc
from pathlib import Path
from voco_data.deidentification import pseudonyms
from voco_data.ingest.named_cohort import NamedCohort
from voco_data.layouts.index import index_archive
from voco_data.qc import ledger
from voco_data.storage.local import LocalStorage

source, root, trace = Path(sys.argv[1]), LocalStorage(Path(sys.argv[2])), sys.argv[3] == "trace"
if trace:
    tracemalloc.start()
began = time.monotonic()
hidden = pseudonyms.load_or_make(root)
with index_archive(source) as cohort:
    seconds = time.monotonic() - began
    named = NamedCohort(cohort, hidden)
    slices = series = 0
    for item in named:
        series += 1
        slices += len(cohort.entry(item.head.number).files)
    rows = (
        ledger.LedgerRow("file", name, "", "", "skipped", file.reason, file.detail)
        for name, file in named.odd_files()
    )
    ledger.write(root, rows)
    pseudonyms.merge_into_map(root, hidden)
    pseudonyms.merge_into_map(root, hidden)
print(json.dumps({
    "slices": slices,
    "series": series,
    "seconds": seconds,
    "rss_mb": int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024,
    "traced_mb": tracemalloc.get_traced_memory()[1] / 2**20 if trace else 0,
}))
"""

SLICES_A_SERIES = 50


def archive(folder: Path, count: int) -> Path:
    """One folder of `count` files: an eighth are slices, the others no medical files."""
    template = folder.parent / "template"
    uid, z = "1.2.000000", 123456
    write_header(template, SeriesInstanceUID=uid, ImagePositionPatient=[0, 0, z])
    header = template.read_bytes()
    folder.mkdir()
    for k in range(count):
        data = b"nothing"
        if k % 8 == 0:
            series, position = divmod(k // 8, SLICES_A_SERIES)
            data = header.replace(uid.encode(), f"1.2.1{series:05d}".encode())
            data = data.replace(str(z).encode(), f"{position + 100000}".encode())
        (folder / f"{k * 7919 % count:07d}").write_bytes(data)
    return folder


def measured(source: Path, root: Path, mode: str) -> dict[str, float]:
    root.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, source, root, mode],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


@pytest.mark.parametrize(
    ("count", "mode", "figure", "more_mb"),
    [
        # One row group of ledger and map, and the tables' caches. A path, a header and a row kept
        # for every file would take 15 MB more for 10,000 files, and 300 MB for 200,000.
        (20_000, "plain", "rss_mb", 32),
        pytest.param(10_000, "trace", "traced_mb", 10, marks=pytest.mark.slow),
        pytest.param(
            200_000,
            "plain",
            "rss_mb",
            64,
            marks=[pytest.mark.slow, pytest.mark.timeout(1200)],
        ),
    ],
)
def test_memory_does_not_grow_with_the_files(
    tmp_path: Path, count: int, mode: str, figure: str, more_mb: float
) -> None:
    sources = {n: archive(tmp_path / str(n), n) for n in (1000, count)}
    few, many = (measured(sources[n], tmp_path / f"root{n}", mode) for n in sources)
    print(f"{count} files, {mode}: {few} -> {many}, {count / many['seconds']:.0f} files/s")
    assert many["slices"] == count // 8
    assert many["series"] == count // 8 / SLICES_A_SERIES
    assert many[figure] - few[figure] < more_mb, (few, many)
