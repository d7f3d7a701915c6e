"""NRRD label maps, through SimpleITK. Data must lie in the file itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voco_data.errors import SeriesRefused
from voco_data.geometry import Geometry
from voco_data.limits import check_voxels
from voco_data.reasons import Reason

HEADER_BYTES = 65_536
"""The text before the data; a Slicer segmentation writes some kilobytes."""

_ELSEWHERE = re.compile(rb"^data ?file:", re.IGNORECASE | re.MULTILINE)


def is_nrrd(path: Path) -> bool:
    """Whether the name ends as an NRRD file's does."""
    return path.name.lower().endswith(".nrrd")


def read_nrrd(path: Path) -> tuple[npt.NDArray[Any], Geometry]:
    """Voxels (slice, row, column) and geometry of a 3D NRRD. Raises SeriesRefused.

    A header that names another file for its data is refused: it could lead out of the archive.
    """
    import SimpleITK  # half a second, and few archives have NRRD files

    with path.open("rb") as file:
        head = file.read(HEADER_BYTES).split(b"\n\n", 1)[0].replace(b"\r", b"")
    if not head.startswith(b"NRRD") or _ELSEWHERE.search(head):
        raise SeriesRefused(Reason.UNREADABLE, "no NRRD with its data in the file")
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("NrrdImageIO")
    try:
        reader.ReadImageInformation()
        size = reader.GetSize()
        if len(size) != 3 or reader.GetNumberOfComponents() != 1:
            raise SeriesRefused(Reason.NOT_A_VOLUME, f"{len(size)} dimensions, expected 3")
        check_voxels(size)
        image = reader.Execute()
    except RuntimeError as error:
        raise SeriesRefused(Reason.UNREADABLE, "NRRD does not read") from error
    matrix = np.reshape(image.GetDirection(), (3, 3))
    x, y, z = (tuple(column) for column in matrix.T.tolist())
    sx, sy, sz = image.GetSpacing()
    values = np.asarray(SimpleITK.GetArrayFromImage(image))
    geometry = Geometry(values.shape, (sz, sy, sx), tuple(image.GetOrigin()), (z, y, x))
    return values, geometry
