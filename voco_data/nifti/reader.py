"""Read NIfTI: nibabel parses the header, and one bounded pass over the file reads the voxels.

SimpleITK is not used: it reads a truncated .nii.gz without an error and turns NaN into 0. The pass
continues to the end of the file, where gzip has its checksum.
"""

from __future__ import annotations

import gzip
import logging
import math
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import nibabel
import numpy as np
import numpy.typing as npt

from voco_data.errors import SeriesRefused, unreadable_error
from voco_data.limits import check_plane, check_scanner_range, check_slice_count, check_voxels
from voco_data.nifti.label_evidence import MAX_CONSTANT_BYTES, LabelEvidence
from voco_data.reasons import Reason
from voco_data.volumes import ClippedVoxels, Geometry, Volume

# Errors of a header become reasons of the ledger. nibabel also logs every repair that it makes, and
# warns of values.
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", module=r"nibabel(\.|$)")

QFORM_SFORM_TOLERANCE_VOXELS = 0.5
"""Largest distance, in voxels, between a corner by qform and by sform. Files round both."""

_STEP_BYTES = 2**20
MAX_TAIL_BYTES = 64 * _STEP_BYTES
"""Largest padding after the last voxel."""

MAX_GZIP_RATIO = 1100
"""Largest accepted ratio of inflated to compressed bytes. Deflate reaches at most 1032."""

_NIFTI_1_HEADER_BYTES, _NIFTI_2_HEADER_BYTES = 348, 540
"""sizeof_hdr, the first field of a header, in either byte order."""
MAX_VOXEL_OFFSET = 16 * _STEP_BYTES
"""Largest offset of the first voxel. Header extensions before it have some kilobytes; all of it is
inflated to reach the voxels."""

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])
"""NIfTI's patient axes (right, anterior, superior) to DICOM's."""

Values = npt.NDArray[Any]
"""Voxels of the file's data type, or float64 if scaled."""


def is_nifti(path: Path) -> bool:
    """Whether the name has the suffix of a NIfTI file."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def read_nifti(path: Path, *, min_slices: int) -> Volume:
    """Read a 3D NIfTI of HU. The slice index is the file's third axis, the row its second.

    The affine is nibabel's choice: sform if its code is set, else qform. Raises SeriesRefused:
    UNREADABLE, NOT_A_VOLUME, NOT_CT (a label map), MISSING_GEOMETRY (no affine), AFFINES_DISAGREE,
    BAD_GEOMETRY, TOO_FEW_SLICES, NOT_HU (constant from its start on, for MAX_CONSTANT_BYTES).
    """
    with OpenNifti(path) as file:
        shape = file.geometry.shape
        # Any axis of the file may be the patient's z.
        check_slice_count(file.geometry.nearest_canonical().shape[0], min_slices)
        hu = np.empty(shape, np.int16)
        labels, clipped, limits = LabelEvidence(), ClippedVoxels(), np.iinfo(np.int16)
        for index, plane in enumerate(file.planes()):
            rounded = np.rint(plane)
            labels.add(plane, rounded)
            if labels.constant_bytes > MAX_CONSTANT_BYTES:
                raise SeriesRefused(Reason.NOT_HU, f"one value in the first {index + 1} slices")
            hu[index] = np.clip(rounded, limits.min, limits.max)
            clipped.add(hu[index])
        if labels.looks_like_labels:
            raise SeriesRefused(Reason.NOT_CT, "a label map: few whole numbers, and equal areas")
        return Volume(hu, file.geometry, (-1,) * shape[0], "nifti", clipped.flags())


class OpenNifti:
    """An open file with a parsed and checked header; no voxel is read before `planes`.

    Raises SeriesRefused.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = _open(path)
        except OSError as error:
            raise _unreadable(error, "it does not open") from error
        try:
            self._read_header(path)
        except BaseException:
            self._file.close()
            raise

    def _read_header(self, path: Path) -> None:
        try:
            self._header = _read_header(self._file)
        except SeriesRefused:
            raise
        except Exception as error:  # nibabel and gzip raise many kinds for damaged bytes
            raise _unreadable(error, "the header does not parse") from error
        self._dtype = np.dtype(self._header.get_data_dtype())
        self.geometry = _geometry(self._header, self._dtype)
        self._check_size(path)

    def __enter__(self) -> OpenNifti:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def holds_unscaled_bytes(self) -> bool:
        """Whether voxels are unsigned 8-bit numbers, without slope and intercept."""
        try:
            return self._dtype == np.uint8 and self._scaling() is None
        except nibabel.spatialimages.HeaderDataError:  # a slope that is no number
            return False

    def _scaling(self) -> tuple[float, float] | None:
        """Slope and intercept; None if voxels are not scaled. Raises HeaderDataError."""
        slope, intercept = self._header.get_slope_inter()
        if slope is None or (slope, intercept) == (1.0, 0.0):
            return None
        return float(slope), float(intercept)

    def planes(self) -> Iterator[Values]:
        """Iterate over the scaled planes (row, column), then read the file to its end.

        Raises SeriesRefused(UNREADABLE).
        """
        rows, columns = self.geometry.shape[1:]
        try:
            scaling = self._scaling()
            self._file.seek(int(self._header.get_data_offset()))
            for _ in range(self.geometry.shape[0]):
                data = self._file.read(rows * columns * self._dtype.itemsize)
                plane = np.frombuffer(data, self._dtype).reshape(rows, columns)
                if scaling is not None:
                    slope, intercept = scaling
                    with np.errstate(over="ignore", invalid="ignore"):  # not finite, see below
                        plane = plane * slope + intercept
                if plane.dtype.kind == "f" and not np.isfinite(plane).all():
                    raise SeriesRefused(Reason.UNREADABLE, "voxels that are not finite")
                yield plane
            for _ in range(MAX_TAIL_BYTES // _STEP_BYTES):
                if not self._file.read(_STEP_BYTES):
                    return
            raise SeriesRefused(Reason.UNREADABLE, "goes on long after its last voxel")
        except SeriesRefused:
            raise
        except (
            OSError,
            EOFError,
            ValueError,
            OverflowError,
            zlib.error,
            nibabel.spatialimages.HeaderDataError,
        ) as error:
            raise _unreadable(error, "it ends before its last voxel") from error

    def _check_size(self, path: Path) -> None:
        """Raise SeriesRefused if the file is too small for the voxels that its header claims."""
        claimed = math.prod(self.geometry.shape) * self._dtype.itemsize
        size = path.stat().st_size
        if claimed > size * (MAX_GZIP_RATIO if path.name.lower().endswith(".gz") else 1):
            raise SeriesRefused(
                Reason.UNREADABLE,
                f"the header claims {claimed} bytes of voxels, the file has {size}",
            )


def _unreadable(error: Exception, detail: str) -> SeriesRefused:
    """The refusal of a NIfTI file; `detail` is what an error without a cause of its own means."""
    if isinstance(error, OSError) and error.errno is not None:
        return unreadable_error(error, detail)
    if isinstance(error, gzip.BadGzipFile | zlib.error):
        detail = "its gzip stream is damaged"
    elif isinstance(error, EOFError):
        detail = "its gzip stream is cut off"
    return SeriesRefused(Reason.UNREADABLE, f"a NIfTI file that does not read: {detail}")


def _open(path: Path) -> IO[bytes]:
    if path.name.lower().endswith(".gz"):
        return cast(IO[bytes], gzip.open(path))
    return path.open("rb")


def _read_header(file: IO[bytes]) -> nibabel.Nifti1Header:
    """The NIfTI-1 or NIfTI-2 header at the start of a file, without its extensions.

    Raises SeriesRefused if the voxels begin beyond MAX_VOXEL_OFFSET.
    """
    block = file.read(_NIFTI_2_HEADER_BYTES)
    sizes = (int.from_bytes(block[:4], "little"), int.from_bytes(block[:4], "big"))
    is_nifti_2 = _NIFTI_2_HEADER_BYTES in sizes
    header_class = nibabel.Nifti2Header if is_nifti_2 else nibabel.Nifti1Header
    size = _NIFTI_2_HEADER_BYTES if is_nifti_2 else _NIFTI_1_HEADER_BYTES
    header: nibabel.Nifti1Header = header_class(block[:size])  # type: ignore[no-untyped-call]
    offset = header.get_data_offset()
    if not 0 <= offset <= MAX_VOXEL_OFFSET:
        raise SeriesRefused(Reason.UNREADABLE, f"the header puts the voxels at byte {offset:g}")
    return header


def _geometry(header: nibabel.Nifti1Header, dtype: np.dtype[Any]) -> Geometry:
    """Origin, unit axes and spacing in LPS from the affine. Raises SeriesRefused."""
    shape = tuple(header.get_data_shape())
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise SeriesRefused(Reason.NOT_A_VOLUME, f"{len(shape)} dimensions, expected 3")
    check_voxels(shape)
    check_plane(shape[:2])
    if dtype.kind not in "iuf":
        raise SeriesRefused(Reason.NOT_CT, f"voxels of type {dtype}")
    affine = _affine(header, shape)
    columns = RAS_TO_LPS @ affine[:3, :3]
    lengths = np.linalg.norm(columns, axis=0)
    if not np.isfinite(affine).all() or lengths.min() == 0:
        raise SeriesRefused(Reason.BAD_GEOMETRY, "the affine has an axis without length")
    check_scanner_range("the spacing", lengths)
    check_scanner_range("the position of the first voxel", affine[:3, 3])
    x, y, z = (columns / lengths).T.tolist()
    sx, sy, sz = (float(round(n, 6)) for n in lengths)
    ox, oy, oz = (RAS_TO_LPS @ affine[:3, 3]).tolist()
    axes = (tuple(z), tuple(y), tuple(x))
    return Geometry((shape[2], shape[1], shape[0]), (sz, sy, sx), (ox, oy, oz), axes)


def _affine(header: nibabel.Nifti1Header, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Voxel to RAS mm. Raises SeriesRefused: MISSING_GEOMETRY or AFFINES_DISAGREE."""
    try:
        has_sform, has_qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
        if not has_sform and not has_qform:
            raise SeriesRefused(Reason.MISSING_GEOMETRY, "neither sform nor qform is set")
        sform, qform = header.get_sform(), header.get_qform() if has_qform else None
    except (ValueError, nibabel.spatialimages.HeaderDataError) as error:
        raise SeriesRefused(Reason.BAD_GEOMETRY, "the affine does not parse") from error
    if qform is None or not has_sform:
        return np.asarray(sform if has_sform else qform, np.float64)
    corners = np.array([(*np.multiply(shape, c) - np.array(c), 1) for c in np.ndindex(2, 2, 2)]).T
    distance_mm = np.linalg.norm(((sform - qform) @ corners)[:3], axis=0).max()
    voxel_mm = np.linalg.norm(sform[:3, :3], axis=0).min()
    if not distance_mm <= QFORM_SFORM_TOLERANCE_VOXELS * voxel_mm:
        raise SeriesRefused(
            Reason.AFFINES_DISAGREE, f"qform and sform place a corner {distance_mm:.1f} mm apart"
        )
    return np.asarray(sform, np.float64)
