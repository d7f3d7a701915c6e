"""Write volumes and label maps as NIfTI, to the byte the same each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from voco_data.phantom.patient.pose import Scan


def write_nifti(
    path: Path, array: NDArray[np.int16] | NDArray[np.uint8], scan: Scan, *, flip_rows: bool
) -> None:
    """Write `array` (z, y, x), axes growing in LPS, with the scan's geometry.

    With `flip_rows` the rows are stored from posterior to anterior, as common converters do, and
    the affine says so: the same voxels, in an order that is not that of the DICOM files.
    """
    x0, y0 = scan.corner_mm
    stored = array[:, ::-1, :] if flip_rows else array
    image = sitk.GetImageFromArray(np.ascontiguousarray(stored))
    image.SetSpacing((scan.pixel_mm, scan.pixel_mm, scan.spacing_mm))
    last_y = float(scan.y_mm[-1])
    image.SetOrigin((x0, last_y if flip_rows else y0, scan.first_z_mm))
    image.SetDirection((1, 0, 0, 0, -1 if flip_rows else 1, 0, 0, 0, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), useCompression=path.suffix == ".gz", compressionLevel=1)
