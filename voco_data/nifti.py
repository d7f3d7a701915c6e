"""NIfTI in, through nibabel: HU volume and geometry by the file's affine.

SimpleITK would read a truncated .nii.gz without a word and turn NaN into 0, so it is not asked.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt

from voco_data.errors import SeriesRefused
from voco_data.geometry import Geometry
from voco_data.reasons import Reason
from voco_data.volume import Volume

MAX_VOXELS = 2**31
"""Larger volumes do not fit a worker's memory."""

MAX_LABEL = 255
"""A map of whole numbers from 0 to at most this, without anything below 0, is a label map."""

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])


def is_nifti(path: Path) -> bool:
    """Whether the name ends as a NIfTI file's does."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def read_nifti(path: Path, *, min_slices: int) -> Volume:
    """Read a 3D NIfTI of HU. The slice index is the file's third axis, the row its second.

    The affine is nibabel's choice: sform if its code is set, else qform, else pixdim alone.
    Raises SeriesRefused: UNREADABLE, NOT_A_VOLUME, NOT_CT (a label map), MISSING_GEOMETRY (no
    affine), BAD_GEOMETRY, TOO_FEW_SLICES.
    """
    try:
        image: Any = nibabel.Nifti1Image.from_filename(path)
        _check_header(image, min_slices)
        values = np.asanyarray(image.dataobj)
    except SeriesRefused:
        raise
    except (
        nibabel.filebasedimages.ImageFileError,
        nibabel.spatialimages.HeaderDataError,
        OSError,
        EOFError,
        ValueError,
        OverflowError,
        zlib.error,
    ) as error:
        raise SeriesRefused(
            Reason.UNREADABLE, f"NIfTI does not read ({type(error).__name__})"
        ) from error
    return Volume(_hu(values), _geometry(image), (-1,) * values.shape[2], "nifti")


def _check_header(image: Any, min_slices: int) -> None:
    """Check the header's claims before any voxel is read."""
    shape = image.shape
    if len(shape) != 3:
        raise SeriesRefused(Reason.NOT_A_VOLUME, f"{len(shape)} dimensions, expected 3")
    if math.prod(shape) > MAX_VOXELS or min(shape) < 1:
        raise SeriesRefused(Reason.BAD_GEOMETRY, f"a size of {shape} voxels")
    if image.get_data_dtype().kind not in "iuf":
        raise SeriesRefused(Reason.NOT_CT, f"voxels of type {image.get_data_dtype()}")
    if shape[2] < min_slices:
        raise SeriesRefused(
            Reason.TOO_FEW_SLICES, f"{shape[2]} slices, at least {min_slices} are needed"
        )
    if int(image.header["sform_code"]) == 0 and int(image.header["qform_code"]) == 0:
        raise SeriesRefused(Reason.MISSING_GEOMETRY, "neither sform nor qform is set")


def _hu(values: npt.NDArray[Any]) -> npt.NDArray[np.int16]:
    """(x, y, z) voxels as int16 (slice, row, column)."""
    if not np.isfinite(values).all():
        raise SeriesRefused(Reason.UNREADABLE, "voxels that are not finite")
    if values.min() >= 0 and values.max() <= MAX_LABEL and np.array_equal(values, values.round()):
        raise SeriesRefused(Reason.NOT_CT, "a label map: whole numbers from 0 and no air")
    limits = np.iinfo(np.int16)
    hu = np.clip(np.rint(values), limits.min, limits.max).astype(np.int16)
    return np.ascontiguousarray(hu.transpose(2, 1, 0))


def _geometry(image: Any) -> Geometry:
    """The affine, from RAS to LPS, as origin, unit axes and spacing."""
    affine = np.asarray(image.affine, np.float64)
    columns = RAS_TO_LPS @ affine[:3, :3]
    lengths = np.linalg.norm(columns, axis=0)
    if not np.isfinite(lengths).all() or lengths.min() == 0:
        raise SeriesRefused(Reason.BAD_GEOMETRY, "the affine has an axis without length")
    x, y, z = (columns / lengths).T.tolist()
    spacing = tuple(float(round(n, 6)) for n in lengths)
    ox, oy, oz = (RAS_TO_LPS @ affine[:3, 3]).tolist()
    sx, sy, sz = spacing
    shape = (image.shape[2], image.shape[1], image.shape[0])
    return Geometry(shape, (sz, sy, sx), (ox, oy, oz), (tuple(z), tuple(y), tuple(x)))
