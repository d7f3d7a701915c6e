"""Stored bytes to HU: the decoder for each transfer syntax, sign, slope and intercept."""

from __future__ import annotations

from collections.abc import Callable

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import UID

from voco_data.dicom.header import transfer_syntax
from voco_data.errors import SeriesRefused
from voco_data.reasons import Reason

UNCOMPRESSED = frozenset(
    {
        "1.2.840.10008.1.2",  # implicit VR little endian
        "1.2.840.10008.1.2.1",  # explicit VR little endian
        "1.2.840.10008.1.2.1.99",  # deflated; pydicom inflates the whole data set
        "1.2.840.10008.1.2.2",  # explicit VR big endian, retired
    }
)
BIG_ENDIAN = "1.2.840.10008.1.2.2"
RLE = "1.2.840.10008.1.2.5"

LOSSLESS: dict[str, Callable[[bytes], npt.NDArray[np.generic]]] = {
    "1.2.840.10008.1.2.4.57": imagecodecs.jpeg_decode,  # JPEG lossless, process 14
    "1.2.840.10008.1.2.4.70": imagecodecs.jpeg_decode,  # JPEG lossless, first-order prediction
    "1.2.840.10008.1.2.4.80": imagecodecs.jpegls_decode,  # JPEG-LS lossless
    "1.2.840.10008.1.2.4.90": imagecodecs.jpeg2k_decode,  # JPEG 2000 lossless
}
LOSSY: dict[str, Callable[[bytes], npt.NDArray[np.generic]]] = {
    "1.2.840.10008.1.2.4.81": imagecodecs.jpegls_decode,  # JPEG-LS near-lossless
    "1.2.840.10008.1.2.4.91": imagecodecs.jpeg2k_decode,  # JPEG 2000, may be lossless or not
}
"""Accepted, and flagged `lossy`: a few HU of error. 8-bit and 12-bit JPEG are refused."""

_JPEG = LOSSLESS | LOSSY


def is_lossy(syntax: str) -> bool:
    """Whether pixels of this transfer syntax may differ from what the scanner measured."""
    return syntax in LOSSY


def check_syntax(syntax: str) -> None:
    """Raise SeriesRefused(UNSUPPORTED_SYNTAX) for what we do not decode."""
    if syntax not in UNCOMPRESSED and syntax != RLE and syntax not in _JPEG:
        name = UID(syntax).name if UID(syntax).is_valid else "not a UID"
        raise SeriesRefused(Reason.UNSUPPORTED_SYNTAX, f"transfer syntax {syntax} ({name})")


def decode_hu(dataset: Dataset, shape: tuple[int, int]) -> npt.NDArray[np.int16]:
    """HU of a single-frame image as int16 (rows, columns).

    HU = stored * RescaleSlope + RescaleIntercept (PS3.3 C.11.1.1.2), rounded half to even where
    the slope is a fraction. Raises SeriesRefused(UNREADABLE, UNSUPPORTED_SYNTAX).
    """
    stored = decode_stored(dataset, shape)
    slope = _number(dataset, "RescaleSlope", 1.0)
    intercept = _number(dataset, "RescaleIntercept", 0.0)
    if slope == 0.0:
        raise SeriesRefused(Reason.UNREADABLE, "RescaleSlope is 0")
    if slope == 1.0 and intercept.is_integer():
        hu = stored.astype(np.int32) + int(intercept)
    else:
        hu = np.rint(stored * slope + intercept).astype(np.int64)
    limits = np.iinfo(np.int16)
    return np.clip(hu, limits.min, limits.max).astype(np.int16)


def decode_stored(dataset: Dataset, shape: tuple[int, int]) -> npt.NDArray[np.integer]:
    """Stored values with their sign (PS3.5 8.1.1), (rows, columns)."""
    syntax = transfer_syntax(dataset)
    check_syntax(syntax)
    allocated = _bits(dataset, "BitsAllocated", 16)
    if allocated not in (16, 32):
        raise SeriesRefused(Reason.UNREADABLE, f"BitsAllocated is {allocated}")
    value = dataset.get("PixelData")
    if not isinstance(value, bytes) or not value:
        raise SeriesRefused(Reason.NOT_AN_IMAGE, "rows and columns, but no pixel data")
    if syntax in UNCOMPRESSED:
        raw = _uncompressed(value, shape, allocated, big_endian=syntax == BIG_ENDIAN)
    else:
        raw = _compressed(value, syntax, shape, allocated)
    return _with_sign(raw, dataset, allocated)


def _uncompressed(
    value: bytes, shape: tuple[int, int], allocated: int, *, big_endian: bool
) -> npt.NDArray[np.generic]:
    need = shape[0] * shape[1] * allocated // 8
    # A padding byte may follow to make the length even (PS3.5 7.1.1); more is another image.
    if not need <= len(value) <= need + 1:
        raise SeriesRefused(
            Reason.UNREADABLE, f"pixel data has {len(value)} bytes, expected {need}"
        )
    kind = np.dtype(f"{'>' if big_endian else '<'}u{allocated // 8}")
    return np.frombuffer(value, kind, shape[0] * shape[1]).reshape(shape)


def _compressed(
    value: bytes, syntax: str, shape: tuple[int, int], allocated: int
) -> npt.NDArray[np.generic]:
    try:
        frame = next(generate_frames(value, number_of_frames=1))
        raw = _rle(frame, shape, allocated) if syntax == RLE else _JPEG[syntax](frame)
    except Exception as error:  # each codec has its own errors for broken bytes
        raise SeriesRefused(
            Reason.UNREADABLE, f"pixels do not decode ({type(error).__name__})"
        ) from error
    if raw.shape != shape:
        raise SeriesRefused(
            Reason.UNREADABLE, f"pixels decode to {raw.shape}, the header says {shape}"
        )
    return raw


def _rle(frame: bytes, shape: tuple[int, int], allocated: int) -> npt.NDArray[np.generic]:
    """PS3.5 Annex G: byte planes, most significant first."""
    kind = np.dtype(f"<u{allocated // 8}")
    data = imagecodecs.dicomrle_decode(frame, kind)
    return np.frombuffer(data, kind, shape[0] * shape[1]).reshape(shape)


def _with_sign(
    raw: npt.NDArray[np.generic], dataset: Dataset, allocated: int
) -> npt.NDArray[np.integer]:
    """Keep BitsStored bits that end at HighBit, extend the sign if PixelRepresentation is 1."""
    width = raw.dtype.itemsize * 8
    stored = _bits(dataset, "BitsStored", allocated)
    high = _bits(dataset, "HighBit", stored - 1)
    if not (1 <= stored <= allocated and stored - 1 <= high < allocated):
        raise SeriesRefused(Reason.UNREADABLE, f"BitsStored {stored}, HighBit {high}")
    signed = _bits(dataset, "PixelRepresentation", 0) == 1
    unsigned = raw.astype(f"u{width // 8}").view(f"u{width // 8}")
    if width < allocated or (width == stored and high == width - 1):
        return unsigned.view(f"i{width // 8}") if signed else unsigned
    left = np.left_shift(unsigned, width - 1 - high)
    target = left.view(f"i{width // 8}") if signed else left
    kept: npt.NDArray[np.integer] = np.right_shift(target, width - stored)
    return kept


def _bits(dataset: Dataset, keyword: str, default: int) -> int:
    value = dataset.get(keyword)
    return default if value is None else int(value)


def _number(dataset: Dataset, keyword: str, default: float) -> float:
    value = dataset.get(keyword)
    try:
        number = default if value in (None, "") else float(value)
    except (TypeError, ValueError) as error:
        raise SeriesRefused(Reason.UNREADABLE, f"{keyword} is not a number") from error
    if not np.isfinite(number):
        raise SeriesRefused(Reason.UNREADABLE, f"{keyword} is {number}")
    return number
