"""NRRD label maps, through pynrrd: only files that contain their data.

The reader of ITK is not used: some damaged headers make it end the process.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import numpy.typing as npt

from voco_data.errors import SeriesRefused, unreadable_error
from voco_data.limits import check_voxels
from voco_data.nifti import MAX_GZIP_RATIO
from voco_data.reasons import Reason
from voco_data.volumes import Geometry

MAX_HEADER_BYTES = 65_536
"""Largest text before the data; Slicer writes some kilobytes."""

_DETACHED_DATA = re.compile(rb"^data ?file:", re.IGNORECASE | re.MULTILINE)

TO_LPS = {
    "left-posterior-superior": (1.0, 1.0, 1.0),
    "lps": (1.0, 1.0, 1.0),
    "right-anterior-superior": (-1.0, -1.0, 1.0),
    "ras": (-1.0, -1.0, 1.0),
    "left-anterior-superior": (1.0, -1.0, 1.0),
    "las": (1.0, -1.0, 1.0),
}
"""Signs that turn a named patient space into LPS."""


def read_nrrd(path: Path) -> tuple[npt.NDArray[Any], Geometry]:
    """Voxels (slice, row, column) and geometry of a 3D NRRD. Raises SeriesRefused.

    A header that names another file for its data is refused: that file may be outside the archive.
    """
    try:
        with path.open("rb") as file:
            head = file.read(MAX_HEADER_BYTES).split(b"\n\n", 1)[0].replace(b"\r", b"")
            if not head.startswith(b"NRRD") or _DETACHED_DATA.search(head):
                raise SeriesRefused(Reason.UNREADABLE, "no NRRD with its data in the file")
            file.seek(0)
            header = nrrd.read_header(file)
            geometry = _geometry(header)
            _check_size(header, path)
            values = nrrd.read_data(header, file, str(path))
    except SeriesRefused:
        raise
    except OSError as error:
        raise unreadable_error(error, "NRRD does not read") from error
    except (
        nrrd.NRRDError,
        EOFError,
        IndexError,
        KeyError,
        MemoryError,
        OverflowError,
        TypeError,
        ValueError,
        zlib.error,
    ) as error:  # pynrrd raises any of these for a damaged header
        raise SeriesRefused(Reason.UNREADABLE, "NRRD does not read") from error
    return np.asarray(values).transpose(2, 1, 0), geometry


def _check_size(header: Mapping[str, Any], path: Path) -> None:
    """Raise SeriesRefused if the file is too small for the header's claim, before it is read."""
    bits = 64 if header["type"] in ("double", "int64", "uint64") else 8
    claim = math.prod(int(n) for n in header["sizes"]) * bits // 8
    ratio = 1 if header.get("encoding") == "raw" else MAX_GZIP_RATIO
    if claim > path.stat().st_size * ratio:
        raise SeriesRefused(Reason.UNREADABLE, f"the header claims at least {claim} bytes")


def _geometry(header: Mapping[str, Any]) -> Geometry:
    """`space`, `space directions` and `space origin` as origin, unit axes and spacing in LPS."""
    sizes = [int(n) for n in header["sizes"]]
    if len(sizes) != 3:
        raise SeriesRefused(Reason.NOT_A_VOLUME, f"{len(sizes)} dimensions, expected 3")
    check_voxels(tuple(sizes))
    space = str(header.get("space", "")).lower()
    if space not in TO_LPS or "space directions" not in header or "space origin" not in header:
        raise SeriesRefused(Reason.MISSING_GEOMETRY, "an NRRD without space, directions or origin")
    directions = np.asarray(header["space directions"], np.float64) * TO_LPS[space]
    origin = np.asarray(header["space origin"], np.float64) * TO_LPS[space]
    lengths = np.linalg.norm(directions, axis=1)
    if directions.shape != (3, 3) or origin.shape != (3,) or not lengths.min() > 0:
        raise SeriesRefused(Reason.BAD_GEOMETRY, "axes without length")
    x, y, z = (tuple(axis) for axis in (directions / lengths[:, None]).tolist())
    sx, sy, sz = lengths.tolist()
    ox, oy, oz = origin.tolist()
    return Geometry((sizes[2], sizes[1], sizes[0]), (sz, sy, sx), (ox, oy, oz), (z, y, x))
