"""Optical coherence tomography (OCT): a volume of B-scans and the en-face image of its localizer.

Stores hold CT: HU, in mm of the patient. An OCT scan has neither, so it is read into arrays.
B-scans are along z, the depth is y, the width is x: the en-face image is the coronal map (Z, X).

eyepy reads the exports of Heidelberg Engineering (VOL and XML); the extra `oct` installs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voco_data.errors import InputError
from voco_data.paired_images.map_area import Bits, Floats, Interval, overlap_shares
from voco_data.paired_images.placement import PERCENTILES

UNIT: Interval = (0.0, 1.0)


@dataclass(frozen=True, slots=True)
class OctScan:
    """An OCT volume and its en-face image on one grid."""

    volume: npt.NDArray[np.uint8]
    """(Z, Y, X): B-scan, depth, width, in the contrast of the maker's viewer."""
    image: npt.NDArray[np.float32]
    """(Z, X): the localizer (near infrared) along the B-scans, from 0 to 1; 0 where not valid."""
    is_valid: Bits
    """(Z, X): whether the localizer shows the place."""
    spacing_mm: tuple[float, float, float]
    """Distance of voxels along z, y and x."""


def read_oct(path: str | Path, grid: tuple[int, int, int]) -> OctScan:
    """Read a `.vol` or `.xml` file of Heidelberg, on `grid` (Z, Y, X), by averages.

    The 1st percentile of the localizer on the grid becomes 0, the 99th 1. Raises InputError for a
    file that cannot be read, and for one B-scan, circular or radial scans.
    """
    scan = _load(Path(path))
    voxels = np.asarray(scan.data, np.float64)
    lines = [meta for meta in scan.meta["bscan_meta"] if meta["pos_unit"] == "mm"]
    if voxels.ndim != 3 or len(voxels) < 2 or len(lines) != len(voxels):
        raise InputError(
            f"{path}: expected two or more B-scans with positions in mm, got {voxels.shape} voxels "
            f"and {len(lines)} positions"
        )
    spacing_mm = (float(scan.scale_z), float(scan.scale_y), float(scan.scale_x))
    localizer = np.asarray(scan.localizer.data, np.float64)
    values, inside = _sample_lines(
        localizer,
        (float(scan.localizer.scale_y), float(scan.localizer.scale_x)),
        np.array([line["start_pos"] for line in lines], np.float64),
        np.array([line["end_pos"] for line in lines], np.float64),
        voxels.shape[2],
    )
    shares = [overlap_shares(UNIT, n, UNIT, m) for n, m in zip(voxels.shape, grid, strict=True)]
    image, is_valid = _average_image(values, inside, shares[0], shares[2])
    volume = np.einsum("Zz,Yy,Xx,zyx->ZYX", *shares, voxels, optimize=True)
    return OctScan(
        volume=np.rint(np.clip(volume, 0, 255)).astype(np.uint8),
        image=_scale(image, is_valid, path).astype(np.float32),
        is_valid=is_valid,
        spacing_mm=_spacing_on(grid, voxels.shape, spacing_mm),
    )


def _load(path: Path) -> Any:
    """The volume of eyepy."""
    try:
        import eyepy  # here: an extra
    except ModuleNotFoundError as error:
        raise InputError(f"{path}: OCT needs eyepy: pip install 'voco[oct]'") from error
    readers = {".vol": "import_heyex_vol", ".xml": "import_heyex_xml"}
    if path.suffix.lower() not in readers:
        raise InputError(f"{path}: expected an OCT file .vol or .xml of Heidelberg")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        return getattr(eyepy, readers[path.suffix.lower()])(path)
    except Exception as error:  # a damaged file may raise anything in the parser
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read as OCT ({reason})") from error


def _sample_lines(
    localizer: Floats,
    spacing_mm: tuple[float, float],
    starts_mm: Floats,
    ends_mm: Floats,
    width: int,
) -> tuple[Floats, Bits]:
    """The localizer (rows, columns) along B-scans, and where it has pixels: (B, width) each.

    `spacing_mm` is that of its rows and columns. `starts_mm` and `ends_mm` are (B, 2): x and y of
    the first and the last A-scan, in mm from the first pixel. Linear interpolation.
    """
    along = np.linspace(0, 1, width)[None, :, None]
    places = starts_mm[:, None] * (1 - along) + ends_mm[:, None] * along
    columns, rows = places[..., 0] / spacing_mm[1], places[..., 1] / spacing_mm[0]
    last_row, last_column = localizer.shape[0] - 1, localizer.shape[1] - 1
    inside = (rows >= 0) & (rows <= last_row) & (columns >= 0) & (columns <= last_column)
    row = np.clip(np.floor(rows).astype(int), 0, last_row - 1)
    column = np.clip(np.floor(columns).astype(int), 0, last_column - 1)
    down, right = rows - row, columns - column
    upper = localizer[row, column] * (1 - right) + localizer[row, column + 1] * right
    lower = localizer[row + 1, column] * (1 - right) + localizer[row + 1, column + 1] * right
    values: Floats = np.where(inside, upper * (1 - down) + lower * down, 0.0)
    return values, np.asarray(inside)


def _average_image(
    values: Floats, inside: Bits, rows: Floats, columns: Floats
) -> tuple[Floats, Bits]:
    image: Floats = rows @ values @ columns.T
    is_valid = rows @ inside.astype(np.float64) @ columns.T > 1 - 1e-6
    return image, np.asarray(is_valid)


def _scale(image: Floats, is_valid: Bits, path: str | Path) -> Floats:
    if not is_valid.any():
        raise InputError(f"{path}: the localizer shows no B-scan; expected one of the same eye")
    low, high = np.percentile(image[is_valid], PERCENTILES)
    if not low < high:
        raise InputError(f"{path}: all pixels of the localizer are alike")
    unit: Floats = np.where(is_valid, np.clip((image - low) / (high - low), 0, 1), 0.0)
    return unit


def _spacing_on(
    grid: Sequence[int], shape: Sequence[int], spacing_mm: Sequence[float]
) -> tuple[float, float, float]:
    z, y, x = (mm * n / m for mm, n, m in zip(spacing_mm, shape, grid, strict=True))
    return z, y, x
