"""NRRD label maps, through pynrrd: only files that contain their data.

The reader of ITK is not used: some damaged headers make it end the process.
"""

from __future__ import annotations

import bz2
import io
import math
import re
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Protocol

import nrrd
import numpy as np
import numpy.typing as npt

from voco_data.errors import SeriesRefused, unreadable_error
from voco_data.limits import check_voxels
from voco_data.masks.placement import MaskMisplacedError, fit_grid
from voco_data.reasons import Reason
from voco_data.volumes import Geometry

# pynrrd warns of fields that are there twice, and quotes them.
warnings.filterwarnings("ignore", module=r"nrrd(\.|$)")

MAX_HEADER_BYTES = 65_536
"""Largest text before the data; Slicer writes some kilobytes."""

_DETACHED_DATA = re.compile(rb"^data ?file:", re.IGNORECASE | re.MULTILINE)

_EMPTY_LINE = re.compile(rb"\r?\n\r?\n")
_STEP_BYTES = 2**16

TEXT_ENCODINGS = ("ascii", "ASCII", "text", "txt")
MAX_TEXT_BYTES = 32
"""Longest text of one voxel, with the blank after it."""

SKIPS = ("line skip", "lineskip", "byte skip", "byteskip")
"""Fields that put the first voxel elsewhere than after the header."""

VOXEL_TYPES = {
    name: numpy_name
    for names, numpy_name in (
        (("signed char", "int8", "int8_t"), "i1"),
        (("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
        (("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
        (("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
        (("int", "signed int", "int32", "int32_t"), "i4"),
        (("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
        (("longlong", "long long", "long long int", "signed long long"), "i8"),
        (("signed long long int", "int64", "int64_t"), "i8"),
        (("ulonglong", "unsigned long long", "unsigned long long int"), "u8"),
        (("uint64", "uint64_t"), "u8"),
        (("float",), "f4"),
        (("double",), "f8"),
    )
    for name in names
}
"""NumPy types, without byte order, of the types of NRRD that are numbers."""

TO_LPS = {
    "left-posterior-superior": (1.0, 1.0, 1.0),
    "lps": (1.0, 1.0, 1.0),
    "right-anterior-superior": (-1.0, -1.0, 1.0),
    "ras": (-1.0, -1.0, 1.0),
    "left-anterior-superior": (1.0, -1.0, 1.0),
    "las": (1.0, -1.0, 1.0),
}
"""Signs that turn a named patient space into LPS."""


def read_nrrd(path: Path, series: Geometry) -> tuple[npt.NDArray[Any], Geometry]:
    """Voxels (slice, row, column) and geometry of a 3D NRRD that lies within the grid `series`.

    The header is checked before a voxel is read, and reading ends after the voxels that it names.
    One that names another file for its data is refused: that file may be outside the archive.
    Raises SeriesRefused, and MaskMisplacedError as `fit_grid`.
    """
    try:
        with path.open("rb") as file:
            head, start = _head(file.read(MAX_HEADER_BYTES))
            header = nrrd.read_header(io.BytesIO(head))
            geometry = _geometry(header)
            fit_grid(geometry, series)
            file.seek(start)
            values = _read_voxels(file, header, math.prod(geometry.shape))
    except (SeriesRefused, MaskMisplacedError):
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
    return values.reshape(geometry.shape), geometry


def _head(start: bytes) -> tuple[bytes, int]:
    """The lines of the header, and the offset of the data, which follow an empty line."""
    end = _EMPTY_LINE.search(start)
    if not start.startswith(b"NRRD") or end is None:
        raise SeriesRefused(Reason.UNREADABLE, "no header of an NRRD")
    head = start[: end.start()].replace(b"\r", b"") + b"\n"
    if _DETACHED_DATA.search(head):
        raise SeriesRefused(Reason.UNREADABLE, "no NRRD with its data in the file")
    return head, end.end()


def _read_voxels(file: IO[bytes], header: Mapping[str, Any], n: int) -> npt.NDArray[Any]:
    """Exactly `n` voxels, the first axis of the file last. Raises SeriesRefused."""
    name, encoding = VOXEL_TYPES.get(str(header["type"])), header["encoding"]
    if name is None:
        raise SeriesRefused(Reason.UNREADABLE, "an NRRD of another type than numbers")
    if any(int(header.get(field, 0)) for field in SKIPS):
        raise SeriesRefused(Reason.UNREADABLE, "an NRRD with bytes before its data")
    dtype = np.dtype(name)
    if encoding in TEXT_ENCODINGS:
        text = file.read(n * MAX_TEXT_BYTES + 1)
        _check_end(len(text), n * MAX_TEXT_BYTES, at_most=True)
        values = np.fromstring(text, dtype, sep=" ")
        _check_end(values.nbytes, n * dtype.itemsize)
        return values
    if dtype.itemsize > 1:
        dtype = np.dtype({"little": "<", "big": ">"}[header["endian"]] + name)
    return np.frombuffer(_read_bytes(file, encoding, n * dtype.itemsize), dtype)


def _read_bytes(file: IO[bytes], encoding: str, size: int) -> bytes | bytearray:
    """Exactly `size` bytes of voxels. Raises SeriesRefused for fewer and for more.

    Compressed data are inflated in small steps, up to one byte beyond `size`.
    """
    inflate: Inflate
    match encoding:
        case "raw":
            data = file.read(size + 1)
            _check_end(len(data), size)
            return data
        case "gzip" | "gz":
            inflate = _Gzip()
        case "bzip2" | "bz2":
            inflate = bz2.BZ2Decompressor()
        case _:
            raise SeriesRefused(Reason.UNREADABLE, "an NRRD that is neither raw, gzip nor bzip2")
    inflated = bytearray()
    while not inflate.eof and len(inflated) <= size:
        chunk = file.read(_STEP_BYTES) if inflate.needs_input else b""
        if inflate.needs_input and not chunk:
            break  # it ends within its stream
        inflated += inflate.decompress(chunk, min(_STEP_BYTES, size + 1 - len(inflated)))
    _check_end(len(inflated), size)
    return inflated


def _check_end(length: int, size: int, *, at_most: bool = False) -> None:
    if length > size or (length < size and not at_most):
        compared = "more" if length > size else "fewer"
        raise SeriesRefused(Reason.UNREADABLE, f"{compared} bytes of voxels than {size}")


class Inflate(Protocol):
    """A stream that is inflated step by step, as `bz2.BZ2Decompressor`."""

    @property
    def eof(self) -> bool:
        """Whether the stream has ended."""
        ...

    @property
    def needs_input(self) -> bool:
        """Whether there is nothing left to inflate of what was given."""
        ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """At most `max_length` inflated bytes of `data` and of what was given before."""
        ...


class _Gzip:
    """gzip with the interface of `bz2.BZ2Decompressor`."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(zlib.MAX_WBITS | 16)

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def needs_input(self) -> bool:
        return not self._stream.unconsumed_tail

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        return self._stream.decompress(self._stream.unconsumed_tail + data, max_length)


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
