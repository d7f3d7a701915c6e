"""A preload of the server that forks worker processes: the code of a series, loaded once.

numba's functions are loaded from their cache when they are first called, which costs each process
that reads a series more than a small series does. No thread may be left behind: a process that is
forked has none.
"""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

import nibabel
import numpy as np

from tests.support.ct_files import body, write_slices
from voco_data.cohort import SeriesEntry
from voco_data.preprocessing import find_boxes, prepare_series, resample_to_grid
from voco_data.qc import preview
from voco_data.storage import LocalStorage
from voco_data.store import StoreSpec, volume_checksum
from voco_data.volumes import HuHistogram

SPEC = StoreSpec(profile="small", grid=(6, 24, 24))


def _read(base: Path, layout: str, files: list[Path]) -> None:
    names = tuple(str(path.relative_to(base)) for path in files)
    prepared = prepare_series(base, SeriesEntry(layout, "p", "", "s", "s", names, "0" * 32), SPEC)
    (box,) = find_boxes(prepared, [SPEC]).values()
    histogram = HuHistogram.from_box(prepared.hu, box)
    volume_checksum(resample_to_grid(prepared, box, SPEC))
    preview.write(
        LocalStorage(base),
        "preview.jpg",
        prepared.hu,
        prepared.canonical.spacing_mm,
        box,
        histogram,
    )


def _count_threads() -> int:
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.is_dir() else threading.active_count()


def warm_up() -> None:
    """Read one series of each kind, and leave nothing."""
    before = _count_threads()
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        _read(base, "dicom", write_slices(base / "a", body()))
        affine = np.diag([-2.0, -2.0, 5.0, 1.0])
        nibabel.save(nibabel.Nifti1Image(body().transpose(2, 1, 0), affine), base / "a.nii.gz")
        _read(base, "nifti", [base / "a.nii.gz"])
    assert _count_threads() == before


warm_up()
