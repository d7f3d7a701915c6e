"""Export one volume of a store as a NIfTI file, in the frame of the scan it was made from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from voco_data.errors import InputError
from voco_data.storage import STORE_SUFFIX, ReadableStorage
from voco_data.store import Record, Store, read_record
from voco_data.volumes import CANONICAL_AXES

SUFFIXES = (".nii", ".nii.gz")


@dataclass(frozen=True, slots=True)
class ExportSummary:
    """The file that was written."""

    file: str
    row: int
    series_uid: str
    patient_id: str
    grid: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    """(z, y, x) of the file's voxels."""
    window_hu: tuple[float, float]
    """HU outside were clipped when the store was made."""

    def to_json(self) -> dict[str, object]:
        """As `voco store export --json` prints it."""
        return asdict(self)


def export_volume(
    store: str | Path | ReadableStorage, row: int, out: str | Path | None = None
) -> ExportSummary:
    """Write the volume at `row` to `out` (`<profile>-<row>.nii.gz` in the working folder).

    Voxels are int16 HU, in the 256 steps of the window. Raises InputError for a row that is not
    there, another file type, or a file that exists; StoreCorrupt for damaged bytes.
    """
    opened = Store.open(store)
    path = Path(f"{opened.spec.profile}-{row}.nii.gz") if out is None else Path(out)
    if not path.name.endswith(SUFFIXES):
        raise InputError(f"{path}: expected a name that ends in .nii.gz or .nii")
    if path.exists():
        raise InputError(f"{path}: exists already; give another --out")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: expected an existing folder for it")
    rows = opened.catalogue["row"]
    record = read_record(opened.storage, row) if (rows == row).any() else None
    if record is None:
        stored = f"{len(rows)} from {rows.min()} to {rows.max()}" if len(rows) else "none"
        raise InputError(f"{opened.storage}: no volume has row {row}; stored rows: {stored}")
    # Imported here because a machine that only trains has no nibabel.
    from voco_data.nifti import write_nifti

    spec = opened.spec
    affine = index_to_lps(record, opened.grid)
    description = f"voco {spec.name.removesuffix(STORE_SUFFIX)} row {row}, HU clipped to the window"
    write_nifti(path, spec.window.to_hu(opened.read(row)), affine, description)
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    return ExportSummary(
        file=str(path),
        row=row,
        series_uid=record.series_uid,
        patient_id=record.patient_id,
        grid=opened.grid,
        spacing_mm=(z, y, x),
        window_hu=(spec.window_low_hu, spec.window_low_hu + spec.window_width_hu),
    )


def index_to_lps(record: Record, grid: tuple[int, int, int]) -> npt.NDArray[np.float64]:
    """Affine (4, 4) from the index (x, y, z, 1) of a voxel of the grid to LPS in mm.

    Grid voxel g covers the canonical voxels from start + g * n_in / n_out to the next, so its
    centre is at start + (g + 1/2) * n_in / n_out - 1/2. Permutation and flips lead from there to
    the scanner's index, and its axes, which may be a few degrees off the patient's, to mm. A scan
    that was resampled has a canonical grid of its own, along the patient's axes.
    """
    steps, origin_mm = [], np.zeros(3)
    if record.resampled:
        z, y, x = record.canonical_first_mm
        origin_mm += (x, y, z)
        for axis, spacing in zip(CANONICAL_AXES, record.spacing_mm, strict=True):
            steps.append(np.asarray(axis) * spacing)
    else:
        origin_mm += record.origin_mm
        for native, flipped in zip(record.permutation, record.flips, strict=True):
            step = np.asarray(record.axes[native]) * record.native_spacing_mm[native]
            if flipped:
                origin_mm += (record.shape[native] - 1) * step
            steps.append(-step if flipped else step)
    matrix = np.eye(4)
    box = zip(steps, record.box_start, record.box_stop, grid, strict=True)
    for column, (step, start, stop, n_out) in zip((2, 1, 0), box, strict=True):
        scale = (stop - start) / n_out
        matrix[:3, column] = step * scale
        origin_mm = origin_mm + step * (start + scale / 2 - 0.5)
    matrix[:3, 3] = origin_mm
    return matrix
