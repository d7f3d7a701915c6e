"""Peak memory of preprocess depends on workers and the size of a series, not on the archive."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.support.ct_files import body, write_slices

SERIES_MB = 40 * 256 * 256 * 2 / 2**20
"""One decoded series of the archives below."""

PROGRAM = """
import sys
from voco_data.ingest.run import preprocess

if __name__ == "__main__":
    summary = preprocess(sys.argv[1], sys.argv[2], specs=["pretrain"], workers=2)
    assert summary.stored == int(sys.argv[3]), summary
"""


def archive(folder: Path, patients: int) -> Path:
    hu = np.kron(body((40, 64, 64)), np.ones((1, 4, 4), np.int16))
    for index in range(patients):
        write_slices(
            folder / str(index),
            hu + index,
            spacing_mm=(5.0, 1.5, 1.5),
            tags={"PatientID": f"p{index}"},
        )
    return folder


def peak_mb(source: Path, root: Path, patients: int, program: Path) -> float:
    """Largest sum of resident memory over the process and its workers."""
    process = subprocess.Popen(
        [sys.executable, program, source, root, str(patients)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, _tree_bytes(process.pid))
        time.sleep(0.02)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    return peak / 2**20


def _tree_bytes(pid: int) -> int:
    try:
        top = psutil.Process(pid)
        members = [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for member in members:
        try:
            total += member.memory_info().rss
        except psutil.NoSuchProcess:  # a worker that ended between the two calls
            continue
    return total


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_four_times_the_patients_do_not_take_more_memory(tmp_path: Path) -> None:
    program = tmp_path / "run.py"
    program.write_text(PROGRAM)
    few = peak_mb(archive(tmp_path / "few", 10), tmp_path / "r1", 10, program)
    many = peak_mb(archive(tmp_path / "many", 40), tmp_path / "r4", 40, program)
    # Holding the 30 further series would take 150 MB more; 40 MB are left for noise.
    assert many - few < 8 * SERIES_MB, (few, many)
